//! Forgetting events in CortexDB: what was replaced, and what is gone from the source.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use http::Method;

use super::Forgetting;
use crate::cortexdb::bulk::Place;
use crate::cortexdb::client::{Client, CortexError};
use crate::ledger::Obsolete;
use crate::lost_receipts::{Unacknowledged, find, key_may_be_forgotten};
use crate::rebuild::Ours;

/// The most ids that one forget request takes.
const FORGET_IDS: usize = 100;

/// A version that was begun more recently, and whose key nobody knows, may still be on its way: from a process that was frozen, or in the
/// hands of a proxy. No reply is waited for longer than half of it.
const MAY_YET_ARRIVE: Duration = Duration::from_secs(2 * 60);

/// What came of forgetting.
#[derive(Default)]
pub(super) struct Forgotten {
    /// Rows of the events that CortexDB has let go of, or never had.
    pub(super) rows: HashSet<i64>,
    /// Rows of the events that it refuses to let go of.
    pub(super) refused: Vec<i64>,
    /// Rows without a receipt of which nobody says whether they are stored.
    pub(super) unknown: Vec<i64>,
    /// Rows without a receipt that are not stored, and may yet be: whoever comes later asks again.
    pub(super) may_yet_arrive: Vec<i64>,
    /// Why nobody says it, in CortexDB's words.
    pub(super) not_said: Option<String>,
    /// Scopes in which this is not permitted, with CortexDB's words.
    pub(super) forbidden: BTreeMap<String, String>,
    /// What ended it before its end.
    pub(super) failure: Option<CortexError>,
}

/// Forgets these events, each as far as it is permitted in its scope. One that CortexDB refuses does not keep the others. Without
/// `ours`, what can only be found in a listing is left for another time.
pub(super) async fn forget(
    client: &Client,
    permitted: impl Fn(&str) -> Forgetting,
    ours: Option<Ours<'_>>,
    batch: &[Obsolete],
) -> Forgotten {
    let mut forgotten = Forgotten::default();
    let by_scope = match located(client, ours, batch, &mut forgotten).await {
        Ok(by_scope) => by_scope,
        Err(error) => {
            forgotten.failure = Some(error);
            return forgotten;
        }
    };
    for (scope, events) in by_scope {
        let forgetting = permitted(scope);
        for events in events.chunks(FORGET_IDS) {
            match forget_chunk(client, forgetting, scope, events, &mut forgotten).await {
                Ok(()) => {}
                Err(CortexError::Forbidden(words)) => {
                    forgotten.forbidden.insert(scope.to_owned(), words);
                    break;
                }
                Err(error) => {
                    forgotten.failure = Some(error);
                    return forgotten;
                }
            }
        }
    }
    forgotten
}

/// Rows and event ids by scope. What was never stored is forgotten already.
async fn located<'a>(
    client: &Client,
    ours: Option<Ours<'_>>,
    batch: &'a [Obsolete],
    forgotten: &mut Forgotten,
) -> Result<BTreeMap<&'a str, Vec<(i64, String)>>, CortexError> {
    let (with_receipt, without): (Vec<&Obsolete>, Vec<&Obsolete>) =
        batch.iter().partition(|event| event.event_id.is_some());
    let (old, young): (Vec<&Obsolete>, Vec<&Obsolete>) = without
        .into_iter()
        .partition(|event| key_may_be_forgotten(event.begun_ago));
    let mut known: Vec<(&Obsolete, Option<String>)> = with_receipt
        .into_iter()
        .map(|event| (event, event.event_id.clone()))
        .collect();
    // Sent, and no receipt: the key tells whether it arrived.
    let places: Vec<Place<'_>> = young.iter().map(|event| place(event)).collect();
    match client.statuses(&places).await {
        Ok(ids) => {
            for (event, id) in young.into_iter().zip(ids) {
                if id.is_none() && may_yet_arrive(event.begun_ago) {
                    forgotten.may_yet_arrive.push(event.row);
                } else {
                    known.push((event, id));
                }
            }
        }
        Err(CortexError::Forbidden(words)) => {
            forgotten.not_said = Some(words);
            forgotten
                .unknown
                .extend(young.iter().map(|event| event.row));
        }
        Err(other) => return Err(other),
    }
    if let Some(ours) = ours
        && !old.is_empty()
    {
        let wanted: Vec<Unacknowledged<'_>> = old
            .iter()
            .map(|event| Unacknowledged {
                place: place(event),
                source_id: &event.source_id,
                generation: event.generation,
                fragment: event.fragment,
                digest: None,
            })
            .collect();
        let found = find(client, ours, &wanted).await?;
        let is_said = found.not_listed.is_none();
        for (event, id) in old.into_iter().zip(found.event_ids) {
            if id.is_some() || is_said {
                known.push((event, id));
            } else {
                forgotten.unknown.push(event.row);
            }
        }
        forgotten.not_said = forgotten.not_said.take().or(found.not_listed);
    }
    let mut by_scope: BTreeMap<&str, Vec<(i64, String)>> = BTreeMap::new();
    for (event, id) in known {
        match id {
            Some(id) => by_scope
                .entry(&event.scope)
                .or_default()
                .push((event.row, id)),
            None => {
                forgotten.rows.insert(event.row);
            }
        }
    }
    Ok(by_scope)
}

fn may_yet_arrive(begun_ago: Option<Duration>) -> bool {
    begun_ago.is_some_and(|ago| ago < MAY_YET_ARRIVE)
}

/// As many events as one request takes; one by one where CortexDB does not take them together.
async fn forget_chunk(
    client: &Client,
    forgetting: Forgetting,
    scope: &str,
    events: &[(i64, String)],
    forgotten: &mut Forgotten,
) -> Result<(), CortexError> {
    let rows = events.iter().map(|(row, _)| *row);
    match forget_together(client, forgetting, scope, events).await? {
        Said::Forgotten => forgotten.rows.extend(rows),
        Said::Nothing => forgotten.refused.extend(rows),
        Said::Refused => {
            for event in events {
                let alone = std::slice::from_ref(event);
                match forget_together(client, forgetting, scope, alone).await? {
                    Said::Forgotten => drop(forgotten.rows.insert(event.0)),
                    Said::Refused | Said::Nothing => forgotten.refused.push(event.0),
                }
            }
        }
    }
    Ok(())
}

/// What is said to a request to forget.
enum Said {
    Forgotten,
    /// Of some of them, or of all.
    Refused,
    /// Nobody knows the route.
    Nothing,
}

fn place(event: &Obsolete) -> Place<'_> {
    Place {
        key: &event.key,
        scope: &event.scope,
    }
}

/// One request.
async fn forget_together(
    client: &Client,
    forgetting: Forgetting,
    scope: &str,
    events: &[(i64, String)],
) -> Result<Said, CortexError> {
    let ids: Vec<&str> = events.iter().map(|(_, id)| id.as_str()).collect();
    let cascade = if forgetting == Forgetting::Redact {
        "redact_events"
    } else {
        "derived_only"
    };
    let body = serde_json::json!({
        "scope": scope,
        "selector": { "memory_ids": ids },
        "cascade": cascade,
        "audit_note": "replaced by a newer version, or gone from the source",
    });
    match client
        .call(Method::POST, "/v1/forget", Some(body.to_string().into()))
        .await
    {
        Ok(_) => Ok(Said::Forgotten),
        Err(CortexError::Refused(refusal)) if refusal.is_of_no_route() => Ok(Said::Nothing),
        // Already gone; among many nothing says which.
        Err(CortexError::Refused(refusal)) if refusal.status == 404 && events.len() == 1 => {
            Ok(Said::Forgotten)
        }
        Err(CortexError::Refused(_)) => Ok(Said::Refused),
        // A scope that it does not take any more; of a proxy's password the other requests tell.
        Err(CortexError::Misconfigured(_)) => Ok(Said::Refused),
        Err(other) => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_two_minutes_ago_or_at_no_known_time_is_not_waited_for() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert!(may_yet_arrive(seconds(0)) && may_yet_arrive(seconds(119)));
        assert!(!may_yet_arrive(seconds(121)) && !may_yet_arrive(None));
    }
}
