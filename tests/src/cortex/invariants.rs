//! What must be true of a store after any run, whatever went wrong during it.

use std::collections::{BTreeMap, HashMap};

use super::store::{Event, EventState, Store};

/// Broken invariants, as sentences.
pub(crate) fn violations(store: &Store) -> Vec<String> {
    let mut sentences = store.noticed.clone();
    sentences.extend(duplicates(store));
    sentences
}

/// The root of a scope and a source id: two tenants may well read the same record.
type Record<'a> = (&'a str, &'a str);

fn record(event: &Event) -> Option<Record<'_>> {
    let root = event.scope.split('/').next().unwrap_or_default();
    Some((root, event.source_id.as_deref()?))
}

fn live_records(store: &Store) -> BTreeMap<Record<'_>, Vec<&Event>> {
    let mut records: BTreeMap<Record<'_>, Vec<&Event>> = BTreeMap::new();
    for event in store.events.iter().filter(|event| event.is_live()) {
        if let Some(record) = record(event) {
            records.entry(record).or_default().push(event);
        }
    }
    records
}

/// Records of which two versions are live. Observations are appended, never superseded.
fn duplicates(store: &Store) -> Vec<String> {
    let mut sentences = Vec::new();
    for ((_, source_id), mut events) in live_records(store) {
        events.retain(|event| event.modality != "observation");
        for (index, event) in events.iter().enumerate() {
            if let Some(other) = events[..index].iter().find(|other| clash(event, other)) {
                sentences.push(format!(
                    "{source_id} is live twice, as {} and {} (fragments {:?} and {:?})",
                    other.event_id, event.event_id, other.fragment_id, event.fragment_id
                ));
                break;
            }
        }
    }
    sentences
}

/// Whether two live events of one record cannot both be right: they are the same fragment, overlap, or belong to
/// different versions.
fn clash(one: &Event, other: &Event) -> bool {
    let overlap = match (one.byte_range, other.byte_range) {
        (Some((a, b)), Some((c, d))) => a < d && c < b,
        _ => false,
    };
    overlap
        || one.fragment_id == other.fragment_id
        || one.source_fingerprint != other.source_fingerprint
        || one.scope != other.scope
}

/// Events that are redacted while nothing of their record is live. A deletion upstream looks exactly like this, so it
/// is for the test to say how many there should be.
pub(crate) fn redacted_without_successor(store: &Store) -> Vec<Event> {
    let live = live_records(store);
    let mut last: HashMap<Record<'_>, &Event> = HashMap::new();
    for event in &store.events {
        if let Some(record) = record(event)
            && event.state == EventState::Redacted
            && !live.contains_key(&record)
        {
            last.insert(record, event);
        }
    }
    let mut gone: Vec<Event> = last.into_values().cloned().collect();
    gone.sort_by_key(|event| event.seq);
    gone
}

/// Events that claim to follow something observed later. Not wrong in itself (an edited parent is observed at its
/// edit), but worth a look.
pub(crate) fn chronology(store: &Store) -> Vec<String> {
    let mut sentences = Vec::new();
    for event in store.events.iter().filter(|event| event.is_live()) {
        for before in event
            .preceded_by
            .iter()
            .filter_map(|id| store.by_id.get(id))
        {
            let before = &store.events[*before];
            if before.observed_at > event.observed_at {
                sentences.push(format!(
                    "{} was observed at {}, before {} which it follows ({})",
                    event.event_id, event.observed_at, before.event_id, before.observed_at
                ));
            }
        }
    }
    sentences
}
