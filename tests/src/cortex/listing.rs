//! `GET /v1/events`, the scopes, and the state of derivation.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::answer::Call;
use super::reply::{ApiError, Reply};
use super::store::{Event, EventState, Store};
use super::{Cortex, ItemIdField, Options, RedactedListing, ScopeFilter};

fn limit(call: &Call<'_>, default: usize, max: usize) -> Result<usize, ApiError> {
    match call.query("limit") {
        None => Ok(default),
        Some(text) => match text.parse() {
            Ok(limit) if (1..=max).contains(&limit) => Ok(limit),
            _ => Err(ApiError::invalid_body(format!("limit: must be 1 to {max}"))),
        },
    }
}

fn time(call: &Call<'_>, name: &str) -> Result<Option<DateTime<Utc>>, ApiError> {
    let parse = |text: &str| {
        text.parse()
            .map_err(|_| ApiError::invalid_body(format!("{name}: must be RFC 3339")))
    };
    call.query(name).map(parse).transpose()
}

struct Filter<'a> {
    scope: &'a str,
    subtree: bool,
    labels: Vec<&'a str>,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    actor: Option<&'a str>,
    modality: Option<&'a str>,
    redacted: RedactedListing,
}

impl Filter<'_> {
    fn admits(&self, event: &Event) -> bool {
        let below = || {
            let rest = event.scope.strip_prefix(self.scope);
            self.subtree && rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let redacted = event.state == EventState::Redacted;
        let shown = match self.redacted {
            RedactedListing::Omitted => !redacted,
            RedactedListing::Blanked => !redacted || self.labels.is_empty(),
            RedactedListing::KeepsLabels => true,
        };
        shown
            && (event.scope == self.scope || below())
            && self.since.is_none_or(|since| event.observed_at >= since)
            && self.until.is_none_or(|until| event.observed_at < until)
            && self
                .modality
                .is_none_or(|modality| event.modality == modality)
            && self.actor.is_none_or(|actor| {
                event.envelope()["observed_actor"]["id"]
                    .as_str()
                    .unwrap_or(&event.caller)
                    == actor
            })
    }
}

/// Positions below `before`, newest first, of events that carry any of the labels (or of all events).
fn newest_first<'a>(
    store: &'a Store,
    labels: &[&str],
    before: usize,
) -> Box<dyn Iterator<Item = usize> + 'a> {
    if labels.is_empty() {
        return Box::new((0..before.min(store.events.len())).rev());
    }
    let mut lists: Vec<&[usize]> = labels
        .iter()
        .filter_map(|label| store.by_label.get(*label))
        .map(|list| &list[..list.partition_point(|&seq| seq < before)])
        .collect();
    Box::new(std::iter::from_fn(move || {
        let newest = lists.iter().filter_map(|list| list.last().copied()).max()?;
        for list in &mut lists {
            if let Some((&last, rest)) = list.split_last()
                && last == newest
            {
                *list = rest;
            }
        }
        Some(newest)
    }))
}

pub(crate) fn events(cortex: &Cortex, call: &Call<'_>) -> Result<Reply, ApiError> {
    let options = &call.options;
    let scope = call
        .query("scope")
        .ok_or_else(|| ApiError::invalid_body("scope is required"))?;
    let limit = limit(call, 50, 500)?.min(options.listing_max_page.max(1));
    let labels = call.query("labels").unwrap_or_default();
    let filter = Filter {
        scope,
        subtree: options.scope_filter == ScopeFilter::Subtree,
        labels: labels
            .split(',')
            .filter(|label| !label.is_empty())
            .collect(),
        since: time(call, "since")?,
        until: time(call, "until")?,
        actor: call.query("observed_actor"),
        modality: call.query("modality"),
        redacted: options.redacted_listing,
    };
    let (before, mut skip) = cursor(call)?;
    let store = cortex.store();
    let copies = if options.listed_twice { 2 } else { 1 };
    let mut items = Vec::new();
    let mut next = None;
    'listing: for seq in newest_first(&store, &filter.labels, before) {
        let event = &store.events[seq];
        if !filter.admits(event) {
            continue;
        }
        for copy in std::mem::take(&mut skip)..copies {
            if items.len() == limit {
                next = Some(format!("c_{}_{copy}", seq + 1));
                break 'listing;
            }
            items.push(item(event, options));
        }
    }
    Ok(Reply::json(
        200,
        json!({ "items": items, "has_more": next.is_some(), "next_cursor": next }),
    ))
}

/// A cursor names the event to go on with and the copy of it. It counts arrivals, so that new events, which come
/// before the first page, shift nothing.
fn cursor(call: &Call<'_>) -> Result<(usize, usize), ApiError> {
    let Some(cursor) = call.query("cursor") else {
        return Ok((usize::MAX, 0));
    };
    let parts = cursor
        .strip_prefix("c_")
        .and_then(|rest| rest.split_once('_'));
    let parsed = parts.and_then(|(before, copy)| Some((before.parse().ok()?, copy.parse().ok()?)));
    parsed.ok_or_else(|| ApiError::invalid_body("cursor: not one of ours"))
}

fn item(event: &Event, options: &Options) -> Value {
    let redacted = event.state == EventState::Redacted;
    let mut item = event.envelope();
    let Some(fields) = item.as_object_mut() else {
        return item;
    };
    fields.remove("idempotency_key");
    if !options.listing_shows_source || redacted {
        fields.remove("source");
    }
    let id_field = match options.item_id_field {
        ItemIdField::EventId => "event_id",
        ItemIdField::Id => "id",
    };
    fields.insert(id_field.to_owned(), json!(event.event_id));
    fields.insert("wal_offset".to_owned(), json!(event.wal_offset));
    if fields.get("context").is_none() {
        fields.insert("context".to_owned(), json!({}));
    }
    if redacted {
        fields.insert("redacted".to_owned(), json!(true));
        fields.insert("content".to_owned(), json!({ "kind": "text", "text": "" }));
        let keeps_labels = options.redacted_listing == RedactedListing::KeepsLabels;
        let labels = if keeps_labels { &event.labels[..] } else { &[] };
        fields.insert("context".to_owned(), json!({ "labels": labels }));
    }
    let actor = item["observed_actor"]["id"]
        .as_str()
        .unwrap_or(&event.caller)
        .to_owned();
    let kind = actor.split(':').next().unwrap_or_default();
    item["observed_actor"] = json!({ "id": actor, "type": kind });
    item["context"]["recorded_at"] = json!(
        event
            .recorded_at
            .to_rfc3339_opts(SecondsFormat::Millis, true)
    );
    item["context"]["observed_at"] = json!(
        event
            .observed_at
            .to_rfc3339_opts(SecondsFormat::AutoSi, true)
    );
    item
}

pub(crate) fn scopes(cortex: &Cortex, call: &Call<'_>) -> Result<Reply, ApiError> {
    let limit = limit(call, 50, 1000)?;
    let prefix = call.query("prefix").unwrap_or_default();
    let store = cortex.store();
    let scopes: Vec<Value> = store
        .scopes
        .keys()
        .filter(|path| path.starts_with(prefix))
        .take(limit)
        .map(|path| json!({ "path": path, "auto_provisioned": true }))
        .collect();
    Ok(Reply::json(200, json!({ "scopes": scopes })))
}

pub(crate) fn derivation(cortex: &Cortex, call: &Call<'_>) -> Result<Reply, ApiError> {
    let scope = call
        .query("scope")
        .ok_or_else(|| ApiError::invalid_body("scope is required"))?;
    let store = cortex.store();
    let newest = store.scopes.get(scope).and_then(|events| events.last());
    let idle = newest.map_or(0, |&seq| {
        (call.options.clock.now() - store.events[seq].recorded_at)
            .num_seconds()
            .max(0)
    });
    let episodes = store.scopes.get(scope).map_or(0, Vec::len);
    Ok(Reply::json(
        200,
        json!({
            "caught_up": true, "dirty": 0, "idle_seconds": idle,
            "built": { "concepts": 0, "beliefs": 0, "episodes": episodes },
        }),
    ))
}
