//! Canonical bytes of a JSON value: compact, keys sorted.
//!
//! Idempotency compares bodies, and two clients (or one client after a restart) may order keys differently, so the
//! comparison must not see the order. It must also not see `context.observed_at` and the capture hints, which the
//! contract keeps out of a write's identity.

use std::io::Write;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// Fields of the envelope that are hints about how it was captured.
const TOP_HINTS: [&str; 2] = ["language", "scripts"];
/// Fields of `context` that are hints about how it was captured.
const CONTEXT_HINTS: [&str; 2] = ["timezone", "refers_to"];

/// Digest of what makes a write the same write.
pub(crate) fn identity(envelope: &Value) -> [u8; 32] {
    digest(envelope, |top, inner| match inner {
        None => !TOP_HINTS.contains(&top),
        Some(field) => field != "observed_at" && !CONTEXT_HINTS.contains(&field),
    })
}

/// Digest of the capture hints alone: a replay with other hints is still a replay, but with a warning.
pub(crate) fn hints(envelope: &Value) -> [u8; 32] {
    digest(envelope, |top, inner| match inner {
        None => top == "context" || TOP_HINTS.contains(&top),
        Some(field) => CONTEXT_HINTS.contains(&field),
    })
}

/// Hashes the envelope with only the fields that `keep(top-level field, field inside context)` admits. An empty
/// context counts as none.
fn digest(envelope: &Value, keep: impl Fn(&str, Option<&str>) -> bool) -> [u8; 32] {
    let mut bytes = Vec::new();
    let Some(object) = envelope.as_object() else {
        write_sorted(envelope, &mut bytes);
        return Sha256::digest(&bytes).into();
    };
    let mut fields: Vec<_> = object.iter().filter(|(name, _)| keep(name, None)).collect();
    fields.sort_unstable_by_key(|(name, _)| *name);
    for (name, value) in fields {
        match value.as_object() {
            Some(context) if name == "context" => {
                let mut inner: Vec<_> = context
                    .iter()
                    .filter(|(field, _)| keep(name, Some(field)))
                    .collect();
                inner.sort_unstable_by_key(|(field, _)| *field);
                for (field, value) in inner {
                    write_all(&mut bytes, format!("\ncontext.{field}=").as_bytes());
                    write_sorted(value, &mut bytes);
                }
            }
            _ => {
                write_all(&mut bytes, format!("\n{name}=").as_bytes());
                write_sorted(value, &mut bytes);
            }
        }
    }
    Sha256::digest(&bytes).into()
}

/// Bytes of the value as compact JSON; the order of keys does not matter for the length.
pub(super) fn compact_len(value: &Value) -> usize {
    struct Count(usize);
    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).expect("counting bytes cannot fail");
    count.0
}

fn write_sorted(value: &Value, out: &mut impl Write) {
    match value {
        Value::Object(object) => {
            let mut fields: Vec<_> = object.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            write_all(out, b"{");
            for (name, value) in fields {
                serde_json::to_writer(&mut *out, name).expect("writing to memory cannot fail");
                write_all(out, b":");
                write_sorted(value, out);
                write_all(out, b",");
            }
            write_all(out, b"}");
        }
        Value::Array(items) => {
            write_all(out, b"[");
            for item in items {
                write_sorted(item, out);
                write_all(out, b",");
            }
            write_all(out, b"]");
        }
        scalar => serde_json::to_writer(out, scalar).expect("writing to memory cannot fail"),
    }
}

fn write_all(out: &mut impl Write, bytes: &[u8]) {
    out.write_all(bytes).expect("writing to memory cannot fail");
}

/// Lower-case hex of the SHA-256 of some bytes.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes)
        .iter()
        .fold(String::with_capacity(64), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("writing to a string cannot fail");
            hex
        })
}
