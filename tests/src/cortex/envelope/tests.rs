use serde_json::{Value, json};

use super::samples::note;
use super::{Kind, Policy, findings, hints, identity, schema, shape, validate_envelope};

/// A policy that asks nothing beyond the shape.
const LAX: Policy = Policy {
    closed_scope_types: false,
    capture_language: true,
    refers_to: true,
    five_required_fields: false,
    max_label_bytes: 256,
};

fn sample() -> Value {
    note(
        "gl:note:42/7",
        "Looks good to me",
        "gl:note:42/7@0123456789abcdef",
    )
}

fn with(pointer: &str, value: Value) -> Value {
    let mut envelope = sample();
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer has a parent");
    envelope.pointer_mut(parent).expect("the parent exists")[name] = value;
    envelope
}

fn kinds(envelope: &Value) -> Vec<Kind> {
    findings(envelope, &LAX)
        .iter()
        .map(|finding| finding.kind)
        .collect()
}

/// One envelope for every kind of content and locator, with every optional field somewhere.
fn corpus() -> Vec<Value> {
    let path = "/source/fragments/0/locator";
    let rich = json!({
        "observed_at": "2026-03-04T05:06:07+01:00", "source_recorded_at": "2026-03-04T05:06:07Z",
        "location": { "city": "Ulm" }, "preceded_by": ["evt_1"], "intent": "review", "labels": ["a", "b"],
        "timezone": "Europe/Berlin",
        "refers_to": [{ "from": "2026-03-04", "to": "2026-03-05", "zone": "UTC", "precision": "day",
            "expr_original": "tomorrow", "ambiguous": false, "candidates": [], "confidence": 0.5 }],
    });
    let extras = json!({
        "extract": ["facts"], "consolidate_into": "org:acme", "confidence_floor": 0.5,
        "ttl_for_belief_layer": "P30D", "embed": "lazy",
    });
    let mut all = vec![
        sample(),
        with("/context", rich),
        with("/directives", extras),
        with(
            "/observed_actor",
            json!({ "id": "user:17", "type": "user" }),
        ),
        with("/subject", json!({ "id": "user:17", "name": "x" })),
        with("/metadata", json!({ "any": 1 })),
        with("/language", json!("de")),
        with("/scripts", json!(["Latn"])),
        with("/source/language", json!("de-AT")),
        with("/content", json!({ "kind": "text", "text": "x" })),
        with(
            "/content/media",
            json!([{ "blob_id": "blob_1", "alt": "a picture" }]),
        ),
        with("/content", json!({ "kind": "json", "data": [1, 2] })),
        with(
            "/content",
            json!({ "kind": "blob_ref", "blob_id": "blob_x", "transcript": "t" }),
        ),
        with(
            "/content",
            json!({ "kind": "triple", "triple": {
            "subject": { "type": "entity", "id": "e" }, "predicate": "is",
            "object": { "type": "literal", "datatype": "int", "value": 3 } } }),
        ),
    ];
    for locator in [
        json!({ "kind": "conversation", "session_id": "s", "turn_index": 0, "speaker": "a", "message_id": "m" }),
        json!({ "kind": "document", "page": 1 }),
        json!({ "kind": "document", "section_path": ["a", "b"], "block_index": 2 }),
        json!({ "kind": "json", "pointer": "/a~0b/0" }),
        json!({ "kind": "table", "table": "t", "sheet": "s", "row": 1, "column": "c", "field": "f" }),
        json!({ "kind": "code", "file": "src/lib.rs", "symbol": "main", "lines": { "start": 1, "end": 2 } }),
        json!({ "kind": "log", "record_id": "r", "record_index": 1, "timestamp": "2026-03-04T05:06:07Z",
            "level": "info", "component": "c", "field": "f" }),
        json!({ "kind": "media", "page": 1, "frame_index": 1, "time_range": { "start_ms": 0, "end_ms": 1 },
            "region": { "x": 0, "y": 0, "width": 1, "height": 1 }, "track": "t" }),
        json!({ "kind": "generic", "path": ["a"], "ordinal": 1 }),
    ] {
        all.push(with(path, locator));
    }
    all
}

/// Every pointer into the value, containers included.
fn pointers(value: &Value, at: String, into: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                pointers(
                    value,
                    format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")),
                    into,
                );
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                pointers(value, format!("{at}/{index}"), into);
            }
        }
        _ => {}
    }
    into.push(at);
}

fn mutants(envelope: &Value) -> Vec<Value> {
    let long = |length| Value::String("x".repeat(length));
    let replacements = [
        Value::Null,
        json!(true),
        json!(-1),
        json!(0),
        json!(1.5),
        json!(9_007_199_254_740_992_u64),
        json!(""),
        json!(" "),
        json!("x"),
        json!(" x"),
        json!("x\u{7}y"),
        json!("é"),
        json!("/~2"),
        json!("a:b"),
        json!("user:a b"),
        json!("2026-02-30T00:00:00Z"),
        json!("evt_"),
        json!([]),
        json!([""]),
        json!([1]),
        json!({}),
        json!({ "kind": "text" }),
        json!({ "start": 1, "end": 1, "more": 1 }),
        long(33),
        long(65),
        long(129),
        long(1025),
        long(8193),
    ];
    let mut at = Vec::new();
    pointers(envelope, String::new(), &mut at);
    let mut mutants = Vec::new();
    for pointer in at {
        for replacement in &replacements {
            let mut mutant = envelope.clone();
            *mutant
                .pointer_mut(&pointer)
                .expect("a pointer into the sample") = replacement.clone();
            mutants.push(mutant);
        }
        let mut mutant = envelope.clone();
        if let Some(fields) = mutant.pointer_mut(&pointer).and_then(Value::as_object_mut) {
            fields.insert("thread_id".to_owned(), json!(1));
            mutants.push(mutant);
        }
        if let Some((parent, name)) = pointer.rsplit_once('/') {
            let mut mutant = envelope.clone();
            if let Some(fields) = mutant.pointer_mut(parent).and_then(Value::as_object_mut) {
                fields.remove(name);
                mutants.push(mutant);
            }
        }
    }
    mutants
}

#[test]
fn the_corpus_is_accepted_by_hand_and_by_schema() {
    for envelope in corpus() {
        assert_eq!(
            schema::defects(&envelope),
            Vec::<String>::new(),
            "{envelope}"
        );
        assert!(
            shape::check(&envelope, shape::Unit::Bytes).is_empty(),
            "{envelope}"
        );
    }
    validate_envelope(&sample()).expect("the sample is valid under the strictest reading");
}

#[test]
fn the_hand_written_shape_agrees_with_the_schema_on_every_mutant() {
    let (mut checked, mut refused) = (0, 0);
    let corpus = corpus();
    for (index, envelope) in corpus.iter().enumerate() {
        // The first sample whole; of the others only what makes them different, to stay fast.
        for mutant in mutants(envelope) {
            if index > 0 && differs_as(&mutant, envelope, &corpus[0]) {
                continue;
            }
            let by_hand = shape::check(&mutant, shape::Unit::Characters);
            let by_schema = schema::defects(&mutant);
            assert_eq!(
                by_hand.is_empty(),
                by_schema.is_empty(),
                "by hand {by_hand:?}, by schema {by_schema:?}, for {mutant}"
            );
            checked += 1;
            refused += usize::from(!by_hand.is_empty());
        }
    }
    assert!(
        refused > 1000 && checked - refused > 1000,
        "{checked} mutants, {refused} refused"
    );
}

/// Whether the mutation struck a field that the sample shares with the first one.
fn differs_as(mutant: &Value, sample: &Value, first: &Value) -> bool {
    let fields = mutant
        .as_object()
        .into_iter()
        .chain(sample.as_object())
        .flat_map(|object| object.keys());
    let mut struck = fields.filter(|field| mutant.get(field) != sample.get(field));
    struck.all(|field| sample.get(field).is_some() && sample.get(field) == first.get(field))
        && mutant.is_object()
}

#[test]
fn unknown_fields_are_invalid_bodies_and_bad_sources_invalid_envelopes() {
    assert_eq!(kinds(&with("/thread_id", json!("x"))), [Kind::Body]);
    assert_eq!(kinds(&with("/context/meta", json!({}))), [Kind::Body]);
    assert_eq!(kinds(&with("/source/thread", json!("x"))), [Kind::Envelope]);
    assert_eq!(
        kinds(&with("/source/modality", json!("document"))),
        [Kind::Envelope]
    );
}

#[test]
fn blank_text_is_an_invalid_envelope() {
    assert_eq!(
        kinds(&with("/content/text", json!(" \n\u{a0}"))),
        [Kind::Envelope]
    );
}

#[test]
fn limits_count_bytes_not_characters() {
    assert!(kinds(&with("/idempotency_key", json!("k".repeat(64)))).is_empty());
    assert_eq!(
        kinds(&with("/idempotency_key", json!("é".repeat(33)))),
        [Kind::Body]
    );
    let long = with("/source/source_id", json!("é".repeat(2049)));
    assert!(shape::check(&long, shape::Unit::Characters).is_empty());
    assert_eq!(kinds(&long), [Kind::Envelope]);
}

#[test]
fn the_role_prefix_counts_toward_the_size_of_the_content() {
    let fits = note("gl:note:1/1", &"x".repeat(1_048_576 - "[user] ".len()), "k");
    assert!(kinds(&fits).is_empty());
    let too_long = note("gl:note:1/1", &"x".repeat(1_048_577 - "[user] ".len()), "k");
    assert_eq!(kinds(&too_long), [Kind::Envelope]);
}

#[test]
fn a_single_fragment_must_carry_the_digest_of_the_text() {
    let other = format!("sha256:{}", "0".repeat(64));
    assert_eq!(
        kinds(&with(
            "/source/fragments/0/content_fingerprint",
            json!(other)
        )),
        [Kind::Envelope]
    );
}

#[test]
fn fragments_must_differ_in_id_and_in_place() {
    let mut envelope = sample();
    let first = envelope["source"]["fragments"][0].clone();
    let mut second = first.clone();
    second["byte_range"] = json!({ "start": 20, "end": 30 });
    envelope["source"]["fragments"] = json!([first, second]);
    assert_eq!(kinds(&envelope), [Kind::Envelope], "same id");
    second["fragment_id"] = json!("fragment-1");
    envelope["source"]["fragments"] = json!([first, second]);
    assert!(kinds(&envelope).is_empty());
    second["byte_range"] = first["byte_range"].clone();
    envelope["source"]["fragments"] = json!([first, second]);
    assert_eq!(kinds(&envelope), [Kind::Envelope], "same place");
}

#[test]
fn ranges_must_not_be_empty_or_backwards() {
    assert_eq!(
        kinds(&with(
            "/source/fragments/0/byte_range",
            json!({ "start": 5, "end": 5 })
        )),
        [Kind::Envelope]
    );
    let code = |start, end| json!({ "kind": "code", "file": "f", "lines": { "start": start, "end": end } });
    assert!(kinds(&with("/source/fragments/0/locator", code(3, 3))).is_empty());
    assert_eq!(
        kinds(&with("/source/fragments/0/locator", code(4, 3))),
        [Kind::Envelope]
    );
}

#[test]
fn a_scope_may_have_32_segments_and_no_dots() {
    let scope = |segments: usize| json!(vec!["org:a"; segments].join("/"));
    assert!(kinds(&with("/scope", scope(32))).is_empty());
    for refused in [
        scope(33),
        json!("acme"),
        json!("org:a.b"),
        json!("Org:a"),
        json!("org:a/"),
    ] {
        assert_eq!(kinds(&with("/scope", refused)), [Kind::Body]);
    }
}

#[test]
fn identity_ignores_observed_at_hints_and_key_order_but_not_labels() {
    let first = sample();
    assert_eq!(
        identity(&first),
        identity(&with("/context/observed_at", json!("2027-01-01T00:00:00Z")))
    );
    let mut hinted = with("/language", json!("de"));
    hinted["context"]["timezone"] = json!("Europe/Berlin");
    assert_eq!(identity(&first), identity(&hinted));
    assert_ne!(hints(&first), hints(&hinted));
    assert_ne!(
        identity(&first),
        identity(&with("/context/labels", json!(["other"])))
    );
    assert_ne!(
        identity(&first),
        identity(&with("/context/preceded_by", json!(["evt_9"])))
    );
    let reordered: Value = serde_json::from_str(r#"{"b":{"y":1,"x":2},"a":1}"#).expect("JSON");
    assert_eq!(
        identity(&reordered),
        identity(&json!({ "a": 1, "b": { "x": 2, "y": 1 } }))
    );
}
