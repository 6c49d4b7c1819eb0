//! Versions that were sent, and whose receipt never came.
//!
//! As long as CortexDB remembers their keys they are simply sent again: the same bytes under the same key are answered with the event
//! that is stored. It remembers a key for a day. After that a repeat is a new event, so what was begun longer ago is looked for first:
//! by its key, as long as the status of it is known, and then in the scope's listing, by the label that carries the source id and
//! those that carry version and fragment. What is found is taken over, or forgotten where that was the intent; what is not found was
//! never stored. The price is one status request and a part of a listing for each, and only after a crash or an outage with a day's
//! pause behind it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::cortexdb::bulk::Place;
use crate::cortexdb::client::{Client, CortexError};
use crate::cortexdb::labels::id_label;
use crate::cortexdb::listing::Listed;
use crate::rebuild::{Ours, marks, mine};

/// CortexDB remembers a key for 24 h after it has seen it. The four hours less are for two clocks that run apart.
const KEY_MEMORY: Duration = Duration::from_secs(20 * 60 * 60);
/// Labels in one query of the listing: the most that a client is known to have used.
const LABELS_AT_ONCE: usize = 50;
/// Bytes of them, so that an address stays within what proxies take.
const LABEL_BYTES_AT_ONCE: usize = 4096;

/// Whether CortexDB may have forgotten a key that was first sent so long ago; `None`: nobody knows when.
#[must_use]
pub fn key_may_be_forgotten(begun_ago: Option<Duration>) -> bool {
    begun_ago.is_none_or(|ago| ago > KEY_MEMORY)
}

/// A fragment that was sent and not acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Unacknowledged<'a> {
    /// Its key and scope.
    pub place: Place<'a>,
    /// Its record.
    pub source_id: &'a str,
    /// Which version of it.
    pub generation: u64,
    /// Which fragment of that.
    pub fragment: u64,
    /// Digest of the version, where it is known.
    pub digest: Option<&'a str>,
}

/// What became of unacknowledged fragments.
#[derive(Debug)]
pub struct Found {
    /// The event ids, in order; `None` for what is not stored.
    pub event_ids: Vec<Option<String>>,
    /// The server or the token permits no listing, with the server's words: what has no event id may be stored all the same.
    pub not_listed: Option<String>,
}

/// Looks for unacknowledged fragments.
pub async fn find(
    client: &Client,
    ours: Ours<'_>,
    wanted: &[Unacknowledged<'_>],
) -> Result<Found, CortexError> {
    let places: Vec<Place<'_>> = wanted.iter().map(|wanted| wanted.place).collect();
    let mut found = Found {
        event_ids: match client.statuses(&places).await {
            Ok(ids) => ids,
            // The listing may be permitted all the same; if not, it says so below.
            Err(CortexError::Forbidden(_)) => vec![None; wanted.len()],
            Err(other) => return Err(other),
        },
        not_listed: None,
    };
    let mut missing: BTreeMap<&str, BTreeMap<Cow<'_, str>, Vec<usize>>> = BTreeMap::new();
    for (at, wanted) in wanted.iter().enumerate() {
        if found.event_ids[at].is_none() {
            let of_scope = missing.entry(wanted.place.scope).or_default();
            let of_label = of_scope.entry(id_label(wanted.source_id)).or_default();
            of_label.push(at);
        }
    }
    for (scope, by_label) in missing {
        let labels: Vec<&str> = by_label.keys().map(Cow::as_ref).collect();
        for labels in queries(&labels) {
            let listed = match client.events_with(scope, labels).await {
                Ok(listed) => listed,
                Err(CortexError::Forbidden(words)) => {
                    found.not_listed = Some(words);
                    continue;
                }
                Err(CortexError::Refused(refusal)) if matches!(refusal.status, 404 | 405) => {
                    found.not_listed = Some(refusal.to_string());
                    continue;
                }
                Err(other) => return Err(other),
            };
            for at in labels.iter().flat_map(|label| &by_label[*label]) {
                found.event_ids[*at] = event_of(ours, &listed, wanted[*at]);
            }
        }
    }
    Ok(found)
}

/// The newest stored event of exactly this fragment.
fn event_of(ours: Ours<'_>, listed: &[Listed], wanted: Unacknowledged<'_>) -> Option<String> {
    let label = id_label(wanted.source_id);
    mine(ours, listed)
        .into_iter()
        .filter(|(_, event, stored)| *stored && event.labels.iter().any(|l| *l == label))
        .find(|(_, event, _)| {
            marks(&event.labels).is_some_and(|marks| {
                (marks.generation, marks.fragment) == (wanted.generation, wanted.fragment)
                    && wanted.digest.is_none_or(|digest| digest == marks.digest)
            })
        })
        .map(|(_, event, _)| event.event_id.clone())
}

/// Labels cut into as many as fit one query.
fn queries<'a>(labels: &'a [&'a str]) -> Vec<&'a [&'a str]> {
    let mut queries = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, label) in labels.iter().enumerate() {
        if at > start && (at - start >= LABELS_AT_ONCE || bytes + label.len() > LABEL_BYTES_AT_ONCE)
        {
            queries.push(&labels[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += label.len() + 1;
    }
    if start < labels.len() {
        queries.push(&labels[start..]);
    }
    queries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cortexdb::envelope::instance_mark;
    use crate::cortexdb::listing::Shown;

    const OURS: Ours<'_> = Ours {
        system: "gitlab",
        source_instance: "https://gitlab.example",
    };

    fn event(event_id: &str, source_id: &str, generation: u64, fragment: &str) -> Listed {
        Listed {
            event_id: event_id.into(),
            labels: vec![
                id_label(source_id).into_owned(),
                format!("digest={}", "a".repeat(32)),
                format!("generation={generation}"),
                "source:gitlab".into(),
                format!("instance={}", instance_mark(OURS.source_instance)),
                format!("fragment={fragment}"),
            ],
            source_id: None,
            modality: Some("document".into()),
            marked_forgotten: false,
            shown: Shown::Text,
        }
    }

    fn wanted(source_id: &str, generation: u64, fragment: u64) -> Unacknowledged<'_> {
        Unacknowledged {
            place: Place {
                key: "k",
                scope: "org:acme",
            },
            source_id,
            generation,
            fragment,
            digest: Some("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        }
    }

    #[test]
    fn a_key_is_trusted_for_twenty_hours_and_never_without_a_time() {
        let hours = |hours: u64| Some(Duration::from_secs(hours * 3600));
        assert!(!key_may_be_forgotten(hours(19)));
        assert!(key_may_be_forgotten(hours(21)));
        assert!(key_may_be_forgotten(None));
    }

    #[test]
    fn only_the_same_fragment_of_the_same_version_of_the_same_record_is_taken() {
        let long = format!("gl:release:42/{}", "v".repeat(400));
        let mut other = event("evt_other", "gl:issue:42/1", 2, "1/2");
        other.labels[4] = "instance=0000000000000000".into();
        let mut forgotten = event("evt_forgotten", "gl:issue:42/1", 2, "1/2");
        forgotten.shown = Shown::Blank;
        let listed = [
            other,
            forgotten,
            event("evt_older", "gl:issue:42/1", 1, "1/2"),
            event("evt_first", "gl:issue:42/1", 2, "0/2"),
            event("evt_it", "gl:issue:42/1", 2, "1/2"),
            event("evt_long", &long, 1, "0/1"),
        ];
        let found = |wanted| event_of(OURS, &listed, wanted);
        assert_eq!(
            found(wanted("gl:issue:42/1", 2, 1)).as_deref(),
            Some("evt_it")
        );
        assert_eq!(found(wanted(&long, 1, 0)).as_deref(), Some("evt_long"));
        assert_eq!(found(wanted("gl:issue:42/1", 3, 0)), None);
        assert_eq!(found(wanted("gl:issue:42/2", 1, 0)), None);
        let mut changed = wanted("gl:issue:42/1", 2, 1);
        changed.digest = Some("bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb");
        assert_eq!(found(changed), None);
    }

    #[test]
    fn a_query_holds_fifty_labels_or_four_kibibytes() {
        let short = ["gl:issue:42/1"; 120];
        let sizes = |labels: &[&str]| -> Vec<usize> {
            queries(labels).iter().map(|query| query.len()).collect()
        };
        assert_eq!(sizes(&short), [50, 50, 20]);
        let long = "x".repeat(256);
        assert_eq!(sizes(&[long.as_str(); 20]), [15, 5]);
        assert_eq!(sizes(&[]), [0_usize; 0]);
    }
}
