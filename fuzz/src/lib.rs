//! What must hold for any bytes whatever.
//!
//! Five places read bytes that somebody else wrote: GitLab's JSON, the bodies of its webhooks, the file of a component, the state file that a
//! user may edit, and the records that a component hands over. Each has a function here that takes bytes and panics where a promise is broken. The functions are
//! run by `tests/bounded.rs` in every test run, for seconds and with the compiler that builds everything else, and by libFuzzer
//! (`make fuzz`), for as long as one likes and led by coverage. What libFuzzer finds is put into `corpus/<target>/` and stays there.

use std::collections::BTreeMap;
use std::time::Duration;

use arbitrary::Unstructured;
use connector_runtime::cortexdb::envelope::{
    KeyParts, MAX_FRAGMENT_BYTES, Mapped, Modality, RawRecord, Record, Thread, Version,
    envelope_json, idempotency_key,
};
use connector_runtime::cursors::{CursorError, Cursors};
use connector_runtime::source::request::{Method, SourceRequest};
use gitlab_component::host::{self, Experience};
use serde_json::Value;

/// A target: its name, which is its folder's, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 5] = [
    ("inspect", inspect),
    ("envelope", envelope),
    ("state_file", state_file),
    ("mapping", mapping),
    ("delivery", delivery),
];

/// What is looked at in a component's file before it is compiled: its imports, and the rules. It says what it thinks of the bytes and never
/// breaks down.
pub fn inspect(bytes: &[u8]) {
    if let Ok(inspection) = connector_runtime::sandbox::inspect::inspect(bytes) {
        assert_eq!(inspection.bytes, bytes.len());
        assert!(
            inspection.refused_imports.len() <= inspection.imports.len(),
            "more imports are refused than there are"
        );
    }
    let findings = connector_runtime::sandbox::rules::judge(bytes);
    // Stops at the first broken rule, so that no later one is asked of such a file.
    let broken = findings.iter().filter(|finding| !finding.ok).count();
    assert!(broken <= 1 && (broken == 0 || !findings[findings.len() - 1].ok));
}

/// A record of a component: refused with words, or an envelope that CortexDB takes.
pub fn envelope(bytes: &[u8]) {
    if let Ok(raw) = raw_record(&mut Unstructured::new(bytes))
        && let Ok(record) = Record::check(raw)
    {
        assert_writable(&record);
    }
}

/// GitLab's JSON, as every kind of record: what the component makes of it the host accepts. Two things it may refuse, in words that a
/// dead letter shows: a text that does not fit, and an id that git and GitLab never give (a tab in a commit's hash).
pub fn mapping(bytes: &[u8]) {
    for experience in gitlab_component::fuzzing::map_every_kind(bytes) {
        let text = experience.content.len();
        match Record::check(as_raw(experience)) {
            Ok(record) => assert_writable(&record),
            Err(words) => assert!(
                text > MAX_FRAGMENT_BYTES || words.contains("source id"),
                "the host refuses what the component maps: {words}"
            ),
        }
    }
}

/// A webhook's body: one verdict for each call that carries it, with a reason that fits on a line, and no request that the host would
/// refuse, because that would fail every other delivery of the batch.
pub fn delivery(bytes: &[u8]) {
    let body = String::from_utf8_lossy(bytes);
    let (verdicts, requests) =
        gitlab_component::fuzzing::deliver(&body).expect("this GitLab answers everything");
    assert_eq!(verdicts.len(), 4);
    for verdict in verdicts {
        if let host::Verdict::Ignored(reason) | host::Verdict::Poll(reason) = verdict {
            assert!(
                !reason.is_empty() && reason.len() < 1000 && !reason.contains(char::is_control),
                "the reason {reason:?}"
            );
        }
    }
    let base = "https://gitlab.example.com".parse().expect("an address");
    for request in requests {
        let reads = request.method == host::Method::Get && request.body.is_none();
        assert!(reads, "a delivery changes something: {request:?}");
        let request = SourceRequest {
            method: Method::Get,
            path: request.path,
            query: request.query,
            headers: Vec::new(),
            body: None,
            expect_json: true,
            report_timeout: false,
            delay: Duration::from_millis(request.delay_ms.into()),
        };
        if let Err(reason) = request.url(&base) {
            panic!("the host refuses a request: {reason}");
        }
    }
}

/// The state file: read, refused as newer and left alone, or set aside as it was. Then it works.
pub fn state_file(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.json");
    std::fs::write(&path, bytes).expect("a file");
    let mut cursors = match Cursors::open(&path, "gitlab https://gitlab.example.com") {
        Ok(cursors) => cursors,
        Err(CursorError::Newer { .. }) => {
            assert_eq!(std::fs::read(&path).expect("still there"), bytes);
            return;
        }
        Err(error) => panic!("{error}"),
    };
    if let Some(aside) = cursors.take_set_aside() {
        assert_eq!(std::fs::read(aside).expect("set aside"), bytes);
    }
    let mut wanted = cursors.all();
    let others = |all: BTreeMap<String, BTreeMap<String, Value>>| {
        let mut all = all;
        all.remove("gitlab https://gitlab.example.com");
        all
    };
    let before = others(cursors.every_connection());
    // Cursors of components are text or JSON; this input may be either.
    let value = String::from_utf8_lossy(bytes).into_owned();
    let change = ("42/issues".to_owned(), Some(value.clone()));
    cursors.apply([change]).expect("saved");
    drop(cursors);
    let again = Cursors::open(&path, "gitlab https://gitlab.example.com").expect("our own file");
    wanted.remove("42/issues");
    let mut now = again.all();
    let kept = now.remove("42/issues").expect("what was saved");
    assert!(
        kept == value || same_json(&kept, &value),
        "saved {value:?}, read {kept:?}"
    );
    assert_eq!(now, wanted);
    assert_eq!(others(again.every_connection()), before);
}

fn same_json(one: &str, other: &str) -> bool {
    let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
    parse(one).is_some() && parse(one) == parse(other)
}

fn raw_record(input: &mut Unstructured<'_>) -> arbitrary::Result<RawRecord> {
    let modality = *input.choose(&[
        Modality::Conversation,
        Modality::Document,
        Modality::Observation,
    ])?;
    let event_type = *input.choose(&["issue", "note", "a_1", "", "Issue"])?;
    let mut source_id = || -> arbitrary::Result<String> {
        let rest: String = input.arbitrary()?;
        // Most have the right beginning, or nothing behind the first check would be reached.
        Ok(if input.ratio(7, 8)? {
            format!("gl:{event_type}:{rest}")
        } else {
            rest
        })
    };
    let (id, root, before) = (source_id()?, source_id()?, source_id()?);
    let mut content: String = input.arbitrary()?;
    // Texts of mebibytes out of inputs of bytes, so that they are cut into fragments.
    let times = if input.ratio(1, 16)? {
        input.int_in_range(0..=300_000)?
    } else {
        1
    };
    if content.len().saturating_mul(times) <= 4 << 20 {
        content = content.repeat(times);
    }
    let threaded = input.arbitrary()?;
    let times = ["2026-01-31T00:00:00Z", "2026-01-31T00:00:00.123+01:00", ""];
    Ok(RawRecord {
        source_id: id,
        event_type: event_type.to_owned(),
        modality,
        content,
        observed_at: (*input.choose(&times)?).to_owned(),
        recorded_at: Some((*input.choose(&times)?).to_owned()).filter(|time| !time.is_empty()),
        author: input.arbitrary()?,
        thread: if threaded {
            let turn = input.arbitrary()?;
            Some(Thread { root, turn })
        } else {
            None
        },
        preceded_by: vec![before],
        labels: input.arbitrary()?,
        attributes: input.arbitrary()?,
        mapped: Mapped::default(),
    })
}

fn as_raw(experience: Experience) -> RawRecord {
    RawRecord {
        source_id: experience.source_id,
        event_type: experience.event_type.to_owned(),
        modality: match experience.modality {
            host::Modality::Conversation => Modality::Conversation,
            host::Modality::Document => Modality::Document,
            host::Modality::Observation => Modality::Observation,
        },
        content: experience.content,
        observed_at: experience.observed_at,
        recorded_at: experience.recorded_at,
        author: experience.author,
        labels: experience.labels,
        attributes: experience
            .attributes
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
        preceded_by: experience.preceded_by,
        thread: experience.thread.map(|thread| Thread {
            root: thread.root,
            turn: thread.turn,
        }),
        mapped: Mapped::default(),
    }
}

/// The limits of CortexDB that a checked record must keep, in every fragment.
fn assert_writable(record: &Record) {
    let ranges = record.fragment_ranges();
    let digest = record.digest();
    let mut whole = String::with_capacity(record.content.len());
    for (fragment, range) in ranges.iter().enumerate() {
        let key = idempotency_key(KeyParts {
            source_instance: "https://gitlab.example.com",
            scope: "org:acme/source:gitlab/project:acme__widget",
            source_id: &record.source_id,
            generation: 1,
            fragment,
            digest: &digest,
        });
        assert!(
            key.len() <= 64 && key.bytes().all(|byte| byte.is_ascii_graphic()),
            "the key {key:?}"
        );
        let json = envelope_json(
            record,
            Version {
                scope: "org:acme/source:gitlab/project:acme__widget",
                key: &key,
                digest: &digest,
                generation: 1,
                fragment,
                fragments: ranges.len(),
                start: range.start,
                end: range.end,
                preceded_by: &[],
                system: "gitlab",
                instance_mark: "0123456789abcdef",
                with_actor: true,
            },
        );
        let envelope: Value = serde_json::from_str(&json).expect("an envelope is JSON");
        let text = envelope["content"]["text"].as_str().expect("a text");
        assert!(
            text.len() <= MAX_FRAGMENT_BYTES && !text.trim().is_empty(),
            "a fragment of {} bytes",
            text.len()
        );
        whole.push_str(text);
        let labels = envelope["context"]["labels"].as_array().expect("labels");
        assert!(labels.len() <= 64, "{} labels", labels.len());
        for label in labels {
            let label = label.as_str().expect("a text");
            assert!(
                !label.is_empty() && label.len() <= 256 && !label.contains(','),
                "the label {label:?}"
            );
        }
    }
    assert_eq!(whole, record.content, "a text was not kept whole");
}
