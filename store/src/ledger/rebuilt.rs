//! What is written down of a record that was found in CortexDB, on both databases.

use serde::Serialize;

use super::RebuiltEntry;

/// Records in one statement: large enough to be quick, small enough not to double a large scope in memory.
pub(super) const CHUNK: usize = 5_000;

/// A record with the stream that it was most likely read by.
#[derive(Serialize)]
pub(super) struct Row<'a> {
    #[serde(flatten)]
    entry: &'a RebuiltEntry,
    stream: String,
}

impl<'a> Row<'a> {
    pub(super) fn of(entry: &'a RebuiltEntry) -> Self {
        Self {
            entry,
            stream: likely_stream(entry),
        }
    }
}

/// No label names the stream, and without it a reconcile pass would never miss the record. A stream is named `<container>/<kind>s`
/// and a source id `<system>:<kind>:<container>/<id>`; what belongs to a thread is read with the record that opened it. A wrong
/// guess keeps the record as long as it does not change.
fn likely_stream(entry: &RebuiltEntry) -> String {
    let opener = if entry.root.is_empty() {
        &entry.source_id
    } else {
        &entry.root
    };
    let mut parts = opener.splitn(3, ':').skip(1);
    let (Some(kind), Some(place)) = (parts.next(), parts.next()) else {
        return String::new();
    };
    let container = place.split_once('/').map_or(place, |(first, _)| first);
    format!("{container}/{kind}s")
}
