//! The rules that JSON Schema cannot express. They are asked about envelopes of the right shape only.

use std::collections::HashSet;

use serde_json::Value;

use super::canonical::{compact_len, sha256_hex};
use super::{Finding, MAX_CONTENT_BYTES, MAX_DESCRIPTOR_BYTES};

pub(super) fn check(envelope: &Value, found: &mut Vec<Finding>) {
    let content = &envelope["content"];
    let size = flattened_size(content);
    if size > MAX_CONTENT_BYTES {
        let reason = format!("flattens to {size} bytes, the limit is {MAX_CONTENT_BYTES}");
        found.push(Finding::envelope("content", reason));
    }
    if let Some(key) = envelope["idempotency_key"].as_str()
        && !key.bytes().all(|byte| byte.is_ascii_graphic())
    {
        found.push(Finding::body("idempotency_key", "must be visible ASCII"));
    }
    if envelope.get("source").is_some() {
        source(envelope, found);
    }
}

/// What the content weighs against the limit of one event.
fn flattened_size(content: &Value) -> usize {
    let len = |name: &str| content[name].as_str().map_or(0, str::len);
    match content["kind"].as_str() {
        Some("message") => "[] ".len() + len("role") + len("text"),
        Some("text") => len("text"),
        Some("json") => compact_len(&content["data"]),
        Some("blob_ref") if content.get("transcript").is_some() => len("transcript"),
        Some("blob_ref") => 7 + len("blob_id"),
        _ => 9 + compact_len(&content["triple"]),
    }
}

fn source(envelope: &Value, found: &mut Vec<Finding>) {
    let source = &envelope["source"];
    if source["modality"] != envelope["modality"] {
        found.push(Finding::envelope(
            "source.modality",
            "must equal the envelope's modality",
        ));
    }
    let size = compact_len(source);
    if size > MAX_DESCRIPTOR_BYTES {
        let reason = format!("weighs {size} bytes, the limit is {MAX_DESCRIPTOR_BYTES}");
        found.push(Finding::envelope("source", reason));
    }
    let fragments = source["fragments"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    for fragment in fragments {
        ranges(fragment, found);
    }
    distinct(fragments, found);
    if let [only] = fragments {
        fingerprint(only, &envelope["content"], found);
    }
}

fn ranges(fragment: &Value, found: &mut Vec<Finding>) {
    let ordered = |range: &Value, low: &str, high: &str, equal: bool| match (
        range[low].as_u64(),
        range[high].as_u64(),
    ) {
        (Some(low), Some(high)) => low < high || (equal && low == high),
        _ => true,
    };
    if !ordered(&fragment["byte_range"], "start", "end", false) {
        let reason = "is half-open, so its end must be after its start";
        found.push(Finding::envelope("source.fragments[].byte_range", reason));
    }
    let locator = &fragment["locator"];
    if !ordered(&locator["lines"], "start", "end", true) {
        let reason = "lines must not end before they start";
        found.push(Finding::envelope("source.fragments[].locator", reason));
    }
    if !ordered(&locator["time_range"], "start_ms", "end_ms", false) {
        let reason = "time_range must end after it starts";
        found.push(Finding::envelope("source.fragments[].locator", reason));
    }
}

fn distinct(fragments: &[Value], found: &mut Vec<Finding>) {
    if fragments.len() < 2 {
        return;
    }
    let mut ids = HashSet::new();
    let mut places = HashSet::new();
    for fragment in fragments {
        if !ids.insert(fragment["fragment_id"].as_str()) {
            found.push(Finding::envelope(
                "source.fragments[].fragment_id",
                "must be unique",
            ));
        }
        let place = super::canonical::identity(&serde_json::json!([
            fragment["locator"],
            fragment["byte_range"],
            fragment["content_fingerprint"],
        ]));
        if !places.insert(place) {
            let reason = "two fragments share locator, byte range and fingerprint";
            found.push(Finding::envelope("source.fragments[]", reason));
        }
    }
}

/// The one fragment must carry the digest of the raw text. A BLAKE3 fingerprint is taken on trust: nothing here can
/// compute one.
fn fingerprint(fragment: &Value, content: &Value, found: &mut Vec<Finding>) {
    let Some(text) = content["text"].as_str() else {
        return;
    };
    let claimed = fragment["content_fingerprint"]
        .as_str()
        .and_then(|f| f.strip_prefix("sha256:"));
    if claimed.is_some_and(|claimed| claimed != sha256_hex(text.as_bytes())) {
        let reason = "is not the digest of content.text";
        found.push(Finding::envelope(
            "source.fragments[].content_fingerprint",
            reason,
        ));
    }
}
