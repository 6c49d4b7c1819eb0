//! Envelopes to start tests from.

use serde_json::{Value, json};

use super::sha256_hex;

/// A comment on a merge request, as a connector would send it.
pub(crate) fn note(source_id: &str, text: &str, key: &str) -> Value {
    let fingerprint = format!("sha256:{}", sha256_hex(text.as_bytes()));
    json!({
        "scope": "org:acme/source:gitlab/project:42",
        "modality": "conversation",
        "content": { "kind": "message", "role": "user", "text": text },
        "context": {
            "observed_at": "2026-03-04T05:06:07.123Z",
            "labels": ["gitlab", source_id, "thread=42/17"],
            "preceded_by": [],
        },
        "idempotency_key": key,
        "source": {
            "schema_version": 2,
            "source_id": source_id,
            "modality": "conversation",
            "content_kind": "text/plain",
            "source_fingerprint": fingerprint,
            "fragments": [{
                "fragment_id": "fragment-0",
                "locator": { "kind": "conversation", "session_id": "42/mr/17", "turn_index": 3 },
                "byte_range": { "start": 0, "end": text.len() },
                "content_fingerprint": fingerprint,
            }],
        },
    })
}
