//! The wire form of one experience, and the rules that CortexDB would refuse it for.
//!
//! The envelope is a closed set of fields: one unknown name and the item is refused for good. So it is built by typed structs, here and
//! nowhere else, and every rule that the server applies is applied before sending: what is refused here becomes a dead letter with
//! a reason that names the rule, instead of a `422` that names nothing.
//!
//! Sources: the vendor's published clients and documentation, collected as "CortexDB v1 HTTP API"; the limits are theirs.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::labels::{Labels, id_label};
use crate::digest::{fingerprint, hex, sha256_of_parts};

/// The largest flattened text of one event: 1 MiB, of which the role prefix (`[system] `) takes up to 12 bytes.
pub const MAX_FRAGMENT_BYTES: usize = 1_048_576 - 12;
/// The most fragments that one source may have, so that a text of 32 MiB still fits.
pub const MAX_FRAGMENTS: usize = 33;
const MAX_SOURCE_ID_BYTES: usize = 4096;
const MAX_KEY_BYTES: usize = 64;
/// `@` and the 16 hex digits that end every key.
const VERSION_MARK_BYTES: usize = 17;

/// The attribute that names the record of which a mapper made a part. A lost ledger is rebuilt from it.
pub const PART_OF: &str = "part-of";

/// How CortexDB treats an experience.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Modality {
    /// A text with a current version.
    Document,
    /// A turn of a conversation.
    Conversation,
    /// Something that happened at a moment; appended, never replaced.
    Observation,
}

impl Modality {
    /// As it is written on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Document => "document",
            Self::Conversation => "conversation",
            Self::Observation => "observation",
        }
    }

    fn role(self) -> &'static str {
        match self {
            Self::Conversation => "user",
            Self::Document | Self::Observation => "system",
        }
    }
}

/// Place of a record in a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Source id of the record that opened it.
    pub root: String,
    /// Its turn.
    pub turn: u32,
}

/// One record as the connector described it, checked and ready to become envelopes.
#[derive(Debug, Clone)]
pub struct Record {
    /// `gl:merge_request:42/17`.
    pub source_id: Arc<str>,
    /// `merge_request`.
    pub event_type: String,
    /// How CortexDB treats it.
    pub modality: Modality,
    /// The whole text.
    pub content: String,
    /// RFC 3339.
    pub observed_at: String,
    /// RFC 3339.
    pub recorded_at: Option<String>,
    /// `user:17`.
    pub author: Option<String>,
    /// Labels as they are sent, without those of the host.
    pub labels: Labels,
    /// Source ids.
    pub preceded_by: Vec<String>,
    /// Its conversation.
    pub thread: Option<Thread>,
    /// What a mapper made of it beside its text.
    pub mapped: Mapped,
}

/// What a mapper decided about an experience. Nothing, where none did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapped {
    /// The record of the source that it is a part of.
    pub part_of: Option<String>,
    /// Segments below the scope of its origin.
    pub scope_below: Option<String>,
    /// The record that opened the thread of the source's record, or nothing. What is gone is found by it, whatever a mapper says.
    pub root: Option<String>,
}

/// A record as a component hands it over, not yet checked. As JSON it is what `runtime mapper test` reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "the fields are those of `Record`, before the checks"
)]
pub struct RawRecord {
    pub source_id: String,
    pub event_type: String,
    pub modality: Modality,
    pub content: String,
    pub observed_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(default)]
    pub labels: Vec<String>,
    #[serde(default)]
    pub attributes: Vec<(String, String)>,
    #[serde(default)]
    pub preceded_by: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<Thread>,
    #[serde(skip)]
    pub mapped: Mapped,
}

impl RawRecord {
    /// What it takes in memory, about.
    #[must_use]
    pub fn size(&self) -> usize {
        let texts = [&self.source_id, &self.content, &self.observed_at];
        let pairs = self
            .attributes
            .iter()
            .flat_map(|(name, value)| [name, value]);
        let texts = texts
            .into_iter()
            .chain(&self.labels)
            .chain(&self.preceded_by)
            .chain(pairs);
        texts
            .map(|text| text.len() + size_of::<String>())
            .sum::<usize>()
            + size_of::<Self>()
    }

    /// Checks a record against every rule of the contract. The error says which one, in words for the dead letter.
    pub fn judge(&self) -> Result<(), String> {
        check_source_id(&self.source_id)?;
        if !is_event_type(&self.event_type) {
            return Err(format!(
                "event type `{}` is not of the form [a-z][a-z0-9_]*, up to 32 bytes",
                self.event_type.escape_debug()
            ));
        }
        if self.source_id.split(':').nth(1) != Some(self.event_type.as_str()) {
            return Err(format!(
                "the source id does not carry the event type `{}` as its second part",
                self.event_type
            ));
        }
        if self.content.trim().is_empty() {
            return Err("the text is blank, and CortexDB stores no blank text".to_owned());
        }
        if self.content.len() > MAX_FRAGMENT_BYTES * MAX_FRAGMENTS {
            return Err(format!(
                "the text has {} bytes; one source can hold {}",
                self.content.len(),
                MAX_FRAGMENT_BYTES * MAX_FRAGMENTS
            ));
        }
        match split_text(&self.content, MAX_FRAGMENT_BYTES) {
            None => {
                return Err(format!(
                    "the text has white space without end: no cut leaves a word in each fragment of {MAX_FRAGMENT_BYTES} bytes, and CortexDB stores no blank fragment"
                ));
            }
            Some(ranges) if ranges.len() > MAX_FRAGMENTS => {
                return Err(format!(
                    "the text of {} bytes needs {} fragments; one source can have {MAX_FRAGMENTS}",
                    self.content.len(),
                    ranges.len()
                ));
            }
            Some(_) => {}
        }
        for (name, value) in [
            ("observed-at", Some(&self.observed_at)),
            ("recorded-at", self.recorded_at.as_ref()),
        ] {
            if let Some(value) = value
                && chrono::DateTime::parse_from_rfc3339(value).is_err()
            {
                return Err(format!(
                    "{name} `{}` is not an RFC 3339 time",
                    value.escape_debug()
                ));
            }
        }
        for id in self
            .preceded_by
            .iter()
            .chain(self.thread.as_ref().map(|thread| &thread.root))
            .chain(self.mapped.root.as_ref().filter(|root| !root.is_empty()))
        {
            check_source_id(id)?;
        }
        Ok(())
    }
}

impl Record {
    /// A record that keeps every rule ([`RawRecord::judge`]); the error says which one it does not keep.
    pub fn check(raw: RawRecord) -> Result<Self, String> {
        raw.judge()?;
        Ok(Self::of(raw))
    }

    /// Of a record that was judged.
    pub(crate) fn of(raw: RawRecord) -> Self {
        let author = raw.author.filter(|author| is_actor(author));
        Self {
            labels: Labels::new(&raw.labels, &raw.attributes),
            source_id: raw.source_id.into(),
            event_type: raw.event_type,
            modality: raw.modality,
            content: raw.content,
            observed_at: raw.observed_at,
            recorded_at: raw.recorded_at,
            author,
            preceded_by: raw.preceded_by,
            thread: raw.thread,
            mapped: raw.mapped,
        }
    }

    /// The source's own record: itself, or what it is a part of.
    #[must_use]
    pub fn record(&self) -> &str {
        self.mapped.part_of.as_deref().unwrap_or(&self.source_id)
    }

    /// The record that opened its thread in the source, or nothing.
    #[must_use]
    pub fn root(&self) -> &str {
        let of_thread = || self.thread.as_ref().map(|thread| thread.root.as_str());
        let given = self.mapped.root.as_deref();
        given.or_else(of_thread).unwrap_or_default()
    }

    /// What decides whether a record has changed: everything that is remembered, without when it was last touched.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut parts: Vec<&[u8]> = vec![
            self.event_type.as_bytes(),
            self.modality.as_str().as_bytes(),
            self.content.as_bytes(),
            self.recorded_at.as_deref().unwrap_or_default().as_bytes(),
            self.author.as_deref().unwrap_or_default().as_bytes(),
        ];
        let turn;
        if let Some(thread) = &self.thread {
            turn = thread.turn.to_be_bytes();
            parts.push(thread.root.as_bytes());
            parts.push(&turn);
        }
        parts.push(b"preceded-by");
        parts.extend(self.preceded_by.iter().map(String::as_bytes));
        parts.push(b"labels");
        parts.extend(self.labels.iter().map(str::as_bytes));
        hex(&sha256_of_parts(parts), 32)
    }

    /// The byte ranges of the fragments, on character boundaries, in order, without gaps.
    #[must_use]
    pub fn fragment_ranges(&self) -> Vec<std::ops::Range<usize>> {
        split_text(&self.content, MAX_FRAGMENT_BYTES)
            .unwrap_or_else(|| split_anywhere(&self.content, MAX_FRAGMENT_BYTES))
    }
}

/// Cuts a text so that no piece is blank; `None` where white space leaves no way to do that.
fn split_text(text: &str, most: usize) -> Option<Vec<std::ops::Range<usize>>> {
    let ranges = split_anywhere(text, most);
    let is_blank = |range: &std::ops::Range<usize>| text[range.clone()].trim().is_empty();
    if ranges.iter().any(is_blank) {
        return split_around_white_space(text, most);
    }
    Some(ranges)
}

/// Pieces as large as they can be.
fn split_anywhere(text: &str, most: usize) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::with_capacity(text.len() / most + 1);
    let mut start = 0;
    while start < text.len() {
        let mut end = text.len().min(start + most);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        ranges.push(start..end);
        start = end;
    }
    ranges
}

/// The same where long white space lies: a cut is only made where what follows can be cut, too. From the end to the beginning, each
/// place is judged by the furthest good cut that a piece from there can reach; it must lie behind the piece's first word. A byte of
/// memory for each byte of text, and only for texts that need it.
fn split_around_white_space(text: &str, most: usize) -> Option<Vec<std::ops::Range<usize>>> {
    let mut can_be_cut = vec![false; text.len() + 1];
    can_be_cut[text.len()] = true;
    let mut furthest = text.len();
    let mut word_end = None;
    for (place, character) in text.char_indices().rev() {
        if !character.is_whitespace() {
            word_end = Some(place + character.len_utf8());
        }
        furthest = furthest.min(place + most);
        while furthest > place && !can_be_cut[furthest] {
            furthest -= 1;
        }
        can_be_cut[place] = word_end.is_some_and(|end| furthest >= end);
    }
    if !can_be_cut[0] {
        return None;
    }
    let mut ranges = Vec::new();
    let mut start = 0;
    while start < text.len() {
        let reach = text.len().min(start + most);
        let end = (start + 1..=reach).rev().find(|&end| can_be_cut[end])?;
        ranges.push(start..end);
        start = end;
    }
    Some(ranges)
}

/// Checks an id against the limits of a source descriptor: 1 to 4096 bytes, no control characters, no white space at the ends.
pub fn check_source_id(id: &str) -> Result<(), String> {
    let shown = || {
        id.chars()
            .take(80)
            .collect::<String>()
            .escape_debug()
            .to_string()
    };
    if id.is_empty() || id.len() > MAX_SOURCE_ID_BYTES {
        return Err(format!(
            "a source id of {} bytes; it takes 1 to {MAX_SOURCE_ID_BYTES}",
            id.len()
        ));
    }
    if id.chars().any(char::is_control) {
        return Err(format!("source id `{}` has a control character", shown()));
    }
    if id.trim() != id {
        return Err(format!(
            "source id `{}` begins or ends with white space",
            shown()
        ));
    }
    let mut parts = id.splitn(3, ':');
    let complete = parts
        .by_ref()
        .take(2)
        .all(|part| !part.is_empty() && part.is_ascii())
        && parts.next().is_some_and(|rest| !rest.is_empty());
    if complete {
        Ok(())
    } else {
        Err(format!(
            "source id `{}` is not of the form system:event-type:id",
            shown()
        ))
    }
}

/// Whether this can be an event type: `[a-z][a-z0-9_]*`, up to 32 bytes.
pub(crate) fn is_event_type(text: &str) -> bool {
    text.len() <= 32
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn is_actor(text: &str) -> bool {
    text.split_once(':').is_some_and(|(kind, local)| {
        matches!(kind, "user" | "agent" | "service" | "system")
            && (1..=128).contains(&local.len())
            && local
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '@' | '-'))
    })
}

/// What makes one version of one fragment unique; the key is derived from it.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the names say it")]
pub struct KeyParts<'a> {
    pub source_instance: &'a str,
    pub scope: &'a str,
    pub source_id: &'a str,
    pub generation: u64,
    pub fragment: usize,
    pub digest: &'a str,
}

/// The idempotency key: the source id, readable, then `@` and 16 hex digits over everything that makes this version what it is.
/// Same version, same key, whoever sends it; another body, another key, so a conflict cannot happen. At most 64 visible
/// ASCII bytes: where the id does not fit, its last part is shortened to a prefix (a commit) or a digest, never cut blindly.
#[must_use]
pub fn idempotency_key(parts: KeyParts<'_>) -> String {
    let mark = hex(
        &sha256_of_parts([
            parts.source_instance.as_bytes(),
            parts.scope.as_bytes(),
            parts.source_id.as_bytes(),
            &parts.generation.to_be_bytes(),
            &(parts.fragment as u64).to_be_bytes(),
            parts.digest.as_bytes(),
        ]),
        16,
    );
    format!("{}@{mark}", readable_id(parts.source_id))
}

fn readable_id(source_id: &str) -> String {
    let room = MAX_KEY_BYTES - VERSION_MARK_BYTES;
    let visible = source_id.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
    if visible && source_id.len() <= room {
        return source_id.to_owned();
    }
    let digest = hex(&sha256_of_parts([source_id.as_bytes()]), 16);
    let container_end = source_id.find('/').map_or(0, |slash| slash + 1);
    let (container, id) = source_id.split_at(container_end);
    let container_is_usable = container.bytes().all(|byte| (0x21..=0x7e).contains(&byte))
        && container.len() + 16 <= room
        && !container.is_empty();
    if !container_is_usable {
        let system: String = source_id
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric())
            .take(16)
            .collect();
        return format!("{system}:~{digest}");
    }
    let is_hash = id.len() >= 20 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash {
        let prefix = id.len().min(room - container.len());
        format!("{container}{}", &id[..prefix])
    } else if container.len() + 17 <= room {
        format!("{container}~{digest}")
    } else {
        format!("{container}{digest}")
    }
}

/// What the host adds to a record to write one fragment of one version of it.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Version<'a> {
    pub scope: &'a str,
    pub key: &'a str,
    pub digest: &'a str,
    pub generation: u64,
    pub fragment: usize,
    pub fragments: usize,
    /// Byte range of the fragment in the record's content.
    pub start: usize,
    pub end: usize,
    /// Event ids.
    pub preceded_by: &'a [String],
    /// Name of the source system, for the `source:<system>` label.
    pub system: &'a str,
    /// Tells the source apart, for the `instance=` label: its [`instance_mark`].
    pub instance_mark: &'a str,
    /// The token may name others as the actor.
    pub with_actor: bool,
}

#[derive(Serialize)]
struct Envelope<'a> {
    scope: &'a str,
    modality: Modality,
    content: Content<'a>,
    context: Context<'a>,
    idempotency_key: &'a str,
    source: SourceDescriptor<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    observed_actor: Option<Actor<'a>>,
}

#[derive(Serialize)]
struct Content<'a> {
    kind: &'static str,
    role: &'static str,
    text: &'a str,
}

#[derive(Serialize)]
struct Context<'a> {
    observed_at: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_recorded_at: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    preceded_by: &'a [String],
    labels: Vec<&'a str>,
}

#[derive(Serialize)]
struct SourceDescriptor<'a> {
    schema_version: u8,
    source_id: &'a str,
    modality: Modality,
    content_kind: &'static str,
    source_fingerprint: String,
    fragments: [Fragment<'a>; 1],
}

#[derive(Serialize)]
struct Fragment<'a> {
    fragment_id: String,
    locator: Locator<'a>,
    byte_range: ByteRange,
    content_fingerprint: String,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Locator<'a> {
    Conversation {
        session_id: &'a str,
        turn_index: u32,
    },
    Generic {
        path: Vec<&'a str>,
        ordinal: usize,
    },
}

#[derive(Serialize)]
struct ByteRange {
    start: usize,
    end: usize,
}

#[derive(Serialize)]
struct Actor<'a> {
    id: &'a str,
}

/// Tells two sources of one system apart that write into the same scope: 16 hex digits of the digest of their address.
#[must_use]
pub fn instance_mark(source_instance: &str) -> String {
    hex(&sha256_of_parts([source_instance.as_bytes()]), 16)
}

/// The envelope of one fragment as compact JSON.
#[must_use]
pub fn envelope_json(record: &Record, version: Version<'_>) -> String {
    let mut json = Vec::new();
    write_envelope(&mut json, record, version);
    String::from_utf8(json).unwrap_or_default()
}

/// The same, behind what is there already.
pub fn write_envelope(json: &mut Vec<u8>, record: &Record, version: Version<'_>) {
    let text = &record.content[version.start..version.end];
    let content_fingerprint = fingerprint(text.as_bytes());
    let source_fingerprint = if version.fragments == 1 {
        content_fingerprint.clone()
    } else {
        fingerprint(record.content.as_bytes())
    };
    let own = [
        format!("digest={}", version.digest),
        format!("generation={}", version.generation),
        format!("source:{}", version.system),
        format!("instance={}", version.instance_mark),
        format!("fragment={}/{}", version.fragment, version.fragments),
    ];
    let id_label = id_label(&record.source_id);
    let mut labels = vec![id_label.as_ref()];
    labels.extend(record.labels.iter());
    let shown = if version.fragments == 1 { 4 } else { 5 };
    labels.extend(own[..shown].iter().map(String::as_str));
    let locator = match &record.thread {
        Some(thread) if record.modality == Modality::Conversation => Locator::Conversation {
            session_id: &thread.root,
            turn_index: thread.turn,
        },
        _ => Locator::Generic {
            path: locator_path(&record.source_id),
            ordinal: version.fragment,
        },
    };
    let envelope = Envelope {
        scope: version.scope,
        modality: record.modality,
        content: Content {
            kind: "message",
            role: record.modality.role(),
            text,
        },
        context: Context {
            observed_at: &record.observed_at,
            source_recorded_at: record.recorded_at.as_deref(),
            preceded_by: version.preceded_by,
            labels,
        },
        idempotency_key: version.key,
        source: SourceDescriptor {
            schema_version: 2,
            source_id: &record.source_id,
            modality: record.modality,
            content_kind: "text/plain",
            source_fingerprint,
            fragments: [Fragment {
                fragment_id: format!(
                    "fragment-{}-{}",
                    version.fragment,
                    &content_fingerprint[7..31]
                ),
                locator,
                byte_range: ByteRange {
                    start: version.start,
                    end: version.end,
                },
                content_fingerprint,
            }],
        },
        observed_actor: record
            .author
            .as_deref()
            .filter(|_| version.with_actor)
            .map(|id| Actor { id }),
    };
    let start = json.len();
    if serde_json::to_writer(&mut *json, &envelope).is_err() {
        json.truncate(start);
    }
}

/// The parts of a source id that can stand in a locator path: non-empty, at most 1024 bytes, no white space at the ends.
fn locator_path(source_id: &str) -> Vec<&str> {
    let parts: Vec<&str> = source_id
        .splitn(3, ':')
        .filter(|part| !part.is_empty() && part.len() <= 1024 && part.trim() == *part)
        .collect();
    if parts.is_empty() {
        vec!["record"]
    } else {
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raw(content: &str) -> RawRecord {
        RawRecord {
            source_id: "gl:merge_request:42/17".into(),
            event_type: "merge_request".into(),
            modality: Modality::Document,
            content: content.into(),
            observed_at: "2026-11-22T10:00:00.000Z".into(),
            recorded_at: None,
            author: Some("user:17".into()),
            labels: vec!["label:needs,comma".into()],
            attributes: vec![("state".into(), "opened".into())],
            preceded_by: vec![],
            thread: None,
            mapped: Mapped::default(),
        }
    }

    fn parts(source_id: &str) -> KeyParts<'_> {
        KeyParts {
            source_instance: "https://gitlab.com",
            scope: "org:acme",
            source_id,
            generation: 1,
            fragment: 0,
            digest: "d",
        }
    }

    fn key(source_id: &str) -> String {
        idempotency_key(parts(source_id))
    }

    #[test]
    fn a_connection_cannot_make_the_keys_of_another() {
        let of = |source_instance: &str, scope: &str| {
            idempotency_key(KeyParts {
                source_instance,
                scope,
                ..parts("gl:issue:42/1")
            })
        };
        let ours = of("https://gitlab.com", "org:acme/project:x");
        // Whatever a component names its records: the address and the scope are the host's, and both are in the key.
        assert_ne!(ours, of("https://gitlab.example", "org:acme/project:x"));
        assert_ne!(ours, of("https://gitlab.com", "org:other/project:x"));
        // Parts are told apart: text cannot be moved from one into the other.
        assert_ne!(
            of("https://gitlab.com", "org:acme"),
            of("https://gitlab.comorg:acme", "")
        );
    }

    #[test]
    fn the_key_begins_with_the_source_id_and_ends_with_a_version_mark() {
        let key = key("gl:merge_request:42/17");
        let (id, mark) = key.split_once('@').unwrap();
        assert_eq!(id, "gl:merge_request:42/17");
        assert!(
            mark.len() == 16 && mark.bytes().all(|b| b.is_ascii_hexdigit()),
            "{mark}"
        );
    }

    #[test]
    fn a_commit_key_keeps_as_much_of_the_sha_as_fits() {
        let key = key("gl:commit:1234567890/da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert!(
            key.starts_with("gl:commit:1234567890/da39a3ee5e6b4b0d3255") && key.len() == 64,
            "{key}"
        );
    }

    #[test]
    fn a_tag_that_is_not_visible_ascii_is_replaced_by_a_digest() {
        let key = key("gl:release:42/版本-1");
        assert!(key.starts_with("gl:release:42/~"), "{key}");
    }

    #[test]
    fn a_new_time_alone_is_not_a_change_but_a_new_state_is() {
        let before = Record::check(raw("Title")).unwrap();
        let mut touched = raw("Title");
        touched.observed_at = "2027-01-01T00:00:00Z".into();
        assert_eq!(before.digest(), Record::check(touched).unwrap().digest());
        let mut merged = raw("Title");
        merged.attributes = vec![("state".into(), "merged".into())];
        assert_ne!(before.digest(), Record::check(merged).unwrap().digest());
    }

    #[test]
    fn each_broken_rule_is_named() {
        let broken = |change: fn(&mut RawRecord)| {
            let mut record = raw("Title");
            change(&mut record);
            Record::check(record).unwrap_err()
        };
        assert!(broken(|r| r.content = " \n".into()).contains("blank"));
        assert!(
            broken(|r| r.source_id = "gl:merge_request:42/\u{7}".into())
                .contains("control character")
        );
        assert!(broken(|r| r.source_id = "gl:issue:42/17".into()).contains("second part"));
        assert!(broken(|r| r.observed_at = "yesterday".into()).contains("RFC 3339"));
        assert!(broken(|r| r.event_type = "Merge".into()).contains("event type"));
        assert!(
            broken(|r| r.thread = Some(Thread {
                root: String::new(),
                turn: 0
            }))
            .contains("source id")
        );
    }

    #[test]
    fn an_author_that_is_no_actor_is_left_out_rather_than_sent() {
        let mut record = raw("Title");
        record.author = Some("ada lovelace".into());
        assert_eq!(Record::check(record).unwrap().author, None);
    }

    #[test]
    fn a_long_source_id_is_whole_in_the_descriptor_and_shortened_in_the_label() {
        let mut record = raw("Title");
        record.source_id = format!("gl:merge_request:42/{}", "x".repeat(300));
        let record = Record::check(record).unwrap();
        let json = envelope_json(
            &record,
            Version {
                scope: "org:acme",
                key: "k",
                digest: "d",
                generation: 1,
                fragment: 0,
                fragments: 1,
                start: 0,
                end: 5,
                preceded_by: &[],
                system: "gitlab",
                instance_mark: "0123456789abcdef",
                with_actor: false,
            },
        );
        let envelope: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(envelope["source"]["source_id"], *record.source_id);
        assert_eq!(
            envelope["context"]["labels"][0],
            *id_label(&record.source_id)
        );
    }

    #[test]
    fn white_space_as_long_as_two_fragments_is_shared_by_the_words_around_it() {
        let text = format!("ab{}cd", " ".repeat(30));
        let ranges = split_text(&text, 16).unwrap();
        assert_eq!(ranges, [0..1, 1..17, 17..33, 33..34]);
        // The word in the middle cannot carry both.
        let text = format!("a{}b{}c", " ".repeat(25), " ".repeat(25));
        assert_eq!(split_text(&text, 16), None);
    }

    #[test]
    fn white_space_at_the_end_goes_to_the_last_word_while_it_can_be_carried() {
        let text = |spaces| format!("many words{}", " ".repeat(spaces));
        assert_eq!(split_text(&text(15), 16).unwrap(), [0..9, 9..25]);
        assert_eq!(split_text(&text(16), 16), None);
    }

    #[test]
    fn a_text_whose_white_space_no_cut_can_share_is_refused_with_the_reason() {
        let space = " ".repeat(MAX_FRAGMENT_BYTES + 1);
        let refused = Record::check(raw(&format!("Title{space}"))).unwrap_err();
        assert!(refused.contains("white space"), "{refused}");
        let accepted = Record::check(raw(&format!("Title{space}end"))).unwrap();
        let ranges = accepted.fragment_ranges();
        assert!(
            ranges
                .iter()
                .all(|r| !accepted.content[r.clone()].trim().is_empty())
        );
    }

    /// Tries every way to cut.
    fn some_way_exists(text: &str, most: usize) -> bool {
        let places: Vec<usize> = (0..=text.len())
            .filter(|&p| text.is_char_boundary(p))
            .collect();
        let mut reached = vec![0];
        for &end in &places[1..] {
            let fits = |&start: &usize| end - start <= most && !text[start..end].trim().is_empty();
            if reached.iter().any(fits) {
                reached.push(end);
            }
        }
        reached.last() == Some(&text.len())
    }

    proptest! {
        #[test]
        fn fragments_put_together_are_the_text(text in "[a-zäß漢 \n]{1,400}", most in 8_usize..64) {
            prop_assume!(!text.trim().is_empty());
            let ranges = split_anywhere(&text, most);
            let joined: String = ranges.iter().map(|range| &text[range.clone()]).collect();
            prop_assert_eq!(&joined, &text);
            prop_assert!(ranges.iter().all(|range| range.len() <= most && !range.is_empty()));
        }

        #[test]
        fn no_fragment_is_blank_where_there_is_a_way(text in "([aß漢]{1,3}[
    ]{0,14}){1,6}", most in 4_usize..12) {
            match split_text(&text, most) {
                Some(ranges) => {
                    let pieces: Vec<&str> = ranges.iter().map(|range| &text[range.clone()]).collect();
                    prop_assert_eq!(pieces.concat(), text.clone());
                    prop_assert!(pieces.iter().all(|piece| piece.len() <= most && !piece.trim().is_empty()));
                }
                None => prop_assert!(!some_way_exists(&text, most)),
            }
        }

        #[test]
        fn every_key_is_64_visible_ascii_bytes_at_most(tag in "\\PC{1,80}", project in 1_u64..u64::MAX) {
            let key = key(&format!("gl:release:{project}/{tag}"));
            prop_assert!(key.len() <= 64, "{key}");
            prop_assert!(key.bytes().all(|byte| (0x21..=0x7e).contains(&byte)), "{key}");
        }
    }
}
