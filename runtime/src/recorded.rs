//! Records as the connector handed them over, kept so that another mapper can be tried and used without asking the source again.
//!
//! Kept per record and not per page: a later version takes the place of the earlier one, what is retracted is erased with it, and the size is
//! that of what is there. The body is JSON, compressed quickly rather than well: it is written with every page and hardly ever read.

use crate::cortexdb::envelope::RawRecord;
use crate::digest::fingerprint;
use crate::ledger::Recorded;

/// Bytes that the records of one connection may take, compressed, when nothing else is said.
pub const DEFAULT_BYTES: u64 = 1 << 30;
/// A body is no longer than an experience may be, with its labels.
const MAX_BODY_BYTES: usize = 128 << 20;

/// A record as it is kept.
#[must_use]
pub fn keep(record: &RawRecord, stream: &str, origin: &str) -> Option<Recorded> {
    let json = serde_json::to_vec(record).ok()?;
    Some(Recorded {
        source_id: record.source_id.clone(),
        stream: stream.to_owned(),
        origin: origin.to_owned(),
        digest: fingerprint(&json),
        body: lz4_flex::compress_prepend_size(&json),
    })
}

/// The way back. The error says why it cannot be read.
pub fn read(recorded: &Recorded) -> Result<RawRecord, String> {
    let unreadable = |error: &dyn std::fmt::Display| {
        format!(
            "the recorded {} cannot be read: {error}",
            recorded.source_id.escape_debug()
        )
    };
    // The size comes first; a damaged one must not fill the memory.
    let size = recorded
        .body
        .first_chunk::<4>()
        .map_or(usize::MAX, |bytes| u32::from_le_bytes(*bytes) as usize);
    if size > MAX_BODY_BYTES {
        return Err(unreadable(&"it is damaged"));
    }
    let json = lz4_flex::decompress_size_prepended(&recorded.body).map_err(|e| unreadable(&e))?;
    serde_json::from_slice(&json).map_err(|error| unreadable(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_as_it_was() {
        let record: RawRecord = serde_json::from_str(
            r#"{"source_id": "gl:note:42/1", "event_type": "note", "modality": "conversation", "content": "äöü",
                "observed_at": "2026-11-22T10:00:00Z", "attributes": [["state", "opened"]], "thread": {"root": "gl:issue:42/1", "turn": 1}}"#,
        )
        .unwrap();
        let kept = keep(&record, "42/issues", "project/42").unwrap();
        assert_eq!(read(&kept), Ok(record));
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let mut kept = Recorded {
            source_id: "gl:note:42/1".into(),
            stream: "42/issues".into(),
            origin: "project/42".into(),
            digest: String::new(),
            body: vec![0xff; 64],
        };
        assert!(read(&kept).unwrap_err().contains("gl:note:42/1"));
        kept.body.clear();
        assert!(read(&kept).is_err());
    }
}
