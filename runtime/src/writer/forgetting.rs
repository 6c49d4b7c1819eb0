//! Forgetting events in CortexDB: what was replaced, and what is gone from the source.

use std::collections::{BTreeMap, HashSet};

use reqwest::Method;

use super::Forgetting;
use crate::cortexdb::bulk::Place;
use crate::cortexdb::client::{Client, CortexError};
use crate::ledger::Obsolete;
use crate::lost_receipts::{Unacknowledged, find, key_may_be_forgotten};
use crate::rebuild::Ours;

/// The most ids that one forget request takes.
const FORGET_IDS: usize = 100;

/// What came of forgetting.
pub(super) struct Forgotten {
    /// Rows of the events that CortexDB has let go of, or never had.
    pub(super) rows: HashSet<i64>,
    /// See [`crate::lost_receipts::Found`].
    pub(super) not_listed: Option<String>,
}

/// Forgets these events. One that CortexDB refuses does not keep the others. Without `ours`, what can only be found in a listing is
/// left for another time.
pub(super) async fn forget(
    client: &Client,
    forgetting: Forgetting,
    ours: Option<Ours<'_>>,
    batch: &[Obsolete],
) -> Result<Forgotten, CortexError> {
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
    known.extend(young.into_iter().zip(client.statuses(&places).await?));
    let mut not_listed = None;
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
        not_listed = found.not_listed;
        known.extend(old.into_iter().zip(found.event_ids));
    }
    let mut done = HashSet::new();
    let mut by_scope: BTreeMap<&str, Vec<(i64, String)>> = BTreeMap::new();
    for (event, id) in known {
        match id {
            Some(id) => by_scope
                .entry(&event.scope)
                .or_default()
                .push((event.row, id)),
            None => {
                done.insert(event.row);
            }
        }
    }
    for (scope, events) in by_scope {
        for events in events.chunks(FORGET_IDS) {
            if forget_together(client, forgetting, scope, events).await? {
                done.extend(events.iter().map(|(row, _)| *row));
                continue;
            }
            for event in events {
                if forget_together(client, forgetting, scope, std::slice::from_ref(event)).await? {
                    done.insert(event.0);
                }
            }
        }
    }
    Ok(Forgotten {
        rows: done,
        not_listed,
    })
}

fn place(event: &Obsolete) -> Place<'_> {
    Place {
        key: &event.key,
        scope: &event.scope,
    }
}

/// One request; whether CortexDB took it.
async fn forget_together(
    client: &Client,
    forgetting: Forgetting,
    scope: &str,
    events: &[(i64, String)],
) -> Result<bool, CortexError> {
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
        .call(Method::POST, "/v1/forget", Some(body.to_string()))
        .await
    {
        Ok(_) => Ok(true),
        // Already gone.
        Err(CortexError::Refused(refusal)) if refusal.status == 404 => Ok(true),
        Err(CortexError::Refused(_) | CortexError::Misconfigured(_)) => Ok(false),
        Err(other) => Err(other),
    }
}
