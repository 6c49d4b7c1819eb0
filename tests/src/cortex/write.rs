//! `POST /v1/experience`, its bulk form, and the status of what was written.

use serde_json::{Map, Value, json};

use super::answer::Call;
use super::envelope::{self, Finding};
use super::fault::ItemFault;
use super::identity::Caller;
use super::reply::{ApiError, Reply};
use super::store::{Event, Prepared, Receipt};
use super::{
    BulkReply, BulkScope, Cortex, IndexState, ItemRefusal, Options, OrderingValues, Route,
};

/// Most items in one bulk request.
pub(crate) const MAX_ITEMS: usize = 1000;

const WAITS: [&str; 5] = ["accepted", "captured", "indexed", "consolidated", "settled"];

/// The stage to wait for, or nothing for a plain 202.
fn wait<'a>(call: &'a Call<'_>) -> Result<Option<&'a str>, ApiError> {
    match call.query("wait") {
        None | Some("accepted") => Ok(None),
        Some(stage) if WAITS.contains(&stage) => Ok(Some(stage)),
        Some(other) => Err(ApiError::invalid_body(format!(
            "wait: {other:?} is none of {}",
            WAITS.join(", ")
        ))),
    }
}

/// A refused item, with what that does to its batch when a fault says so.
struct Refused {
    error: ApiError,
    refusal: Option<ItemRefusal>,
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self {
            error,
            refusal: None,
        }
    }
}

/// Everything that can be said about an envelope without the store.
fn prepare(
    cortex: &Cortex,
    call: &Call<'_>,
    caller: &Caller,
    envelope: Value,
) -> Result<Prepared, Refused> {
    let options = &call.options;
    let findings = envelope::findings(&envelope, &options.policy());
    if let Some(first) = findings.first() {
        return Err(refusal(first, &findings).into());
    }
    if options.schema_check {
        let defects = envelope::schema_defects(&envelope);
        if !defects.is_empty() {
            return Err(ApiError::invalid_body(defects.join("; ")).into());
        }
    }
    attribution(caller, &envelope)?;
    let fail_indexing = match cortex.item_fault(call.route, &envelope) {
        Some(ItemFault::Refuse { error, refusal }) => return Err(Refused { error, refusal }),
        Some(ItemFault::FailIndexing) => true,
        None => false,
    };
    Ok(Prepared::new(envelope, fail_indexing))
}

fn refusal(first: &Finding, all: &[Finding]) -> ApiError {
    let sentences: Vec<String> = all.iter().map(Finding::sentence).collect();
    let mut error = ApiError::new(422, first.kind.code(), sentences.join("; "));
    error.details = Some(json!({ "field": first.field, "reason": first.reason }));
    error
}

/// A foreign actor or subject needs its own capability.
fn attribution(caller: &Caller, envelope: &Value) -> Result<(), ApiError> {
    let actor = envelope["observed_actor"]["id"]
        .as_str()
        .unwrap_or(&caller.actor);
    if actor != caller.actor {
        caller.demand("scope.write.on_behalf_of")?;
    }
    if envelope["subject"]["id"]
        .as_str()
        .is_some_and(|subject| subject != actor)
    {
        caller.demand("scope.write.about_other")?;
    }
    Ok(())
}

pub(crate) fn experience(
    cortex: &Cortex,
    call: &Call<'_>,
    caller: &Caller,
) -> Result<Reply, ApiError> {
    let wait = wait(call)?;
    let write = prepare(cortex, call, caller, call.json()?).map_err(|refused| refused.error)?;
    let mut store = cortex.store();
    let receipt = store.take(&write, &caller.actor, &call.options)?;
    let event = &store.events[receipt.event];
    let mut body = json!({
        "event_id": event.event_id,
        "status": stage(event, wait),
        "wal_offset": event.wal_offset,
    });
    match wait {
        None => {
            body["lifecycle_stream"] = json!(format!("/v1/lifecycle/{}", event.event_id));
            body["replayed_from_idempotency"] = json!(receipt.replayed);
        }
        Some(_) => {
            body["replayed_from_idempotency"] = json!(receipt.replayed);
            body["stages_completed"] = stages(event);
            body["derives"] = json!([]);
            body["elapsed_ms"] = json!({ "capture": 5 });
        }
    }
    remarks(&receipt, &mut body);
    Ok(Reply::json(if wait.is_some() { 200 } else { 202 }, body))
}

fn remarks(receipt: &Receipt, body: &mut Value) {
    if receipt.hint_conflict {
        body["warnings"] = json!(["conflicting_hint_on_replay"]);
    }
    if receipt.new_scope {
        body["auto_provisioned"] = json!(true);
    }
}

fn stage(event: &Event, wait: Option<&str>) -> &'static str {
    if wait.is_some() {
        event.index_state.name()
    } else {
        IndexState::Captured.name()
    }
}

fn stages(event: &Event) -> Value {
    match event.index_state {
        IndexState::Indexed => json!(["captured", "indexed"]),
        _ => json!(["captured"]),
    }
}

pub(crate) fn bulk(cortex: &Cortex, call: &Call<'_>, caller: &Caller) -> Result<Reply, ApiError> {
    let wait = wait(call)?;
    let items = items(call.json()?, &call.options)?;
    let mut prepared = Vec::with_capacity(items.len());
    for item in items {
        let item = prepare(cortex, call, caller, item);
        match item {
            Err(Refused {
                error,
                refusal: None,
            }) if error.status == 403 => return Err(error),
            item => prepared.push(item),
        }
    }
    let mut store = cortex.store();
    // What the store has against an item is known only when its turn comes, unless the batch is all or nothing.
    let mode = prepared
        .iter()
        .find_map(|item| item.as_ref().err().and_then(|refused| refused.refusal))
        .unwrap_or(call.options.item_refusal);
    if matches!(mode, ItemRefusal::WholeNamed | ItemRefusal::WholeUnnamed) {
        for (index, item) in prepared.iter().enumerate() {
            let verdict = match item {
                Ok(write) => store.admits(write, &caller.actor, &call.options),
                Err(refused) => Err(refused.error.clone()),
            };
            verdict.map_err(|error| whole(error, index, mode))?;
        }
    }
    let (mut results, mut failures) = (Vec::new(), Vec::new());
    for (index, item) in prepared.into_iter().enumerate() {
        let taken = match item {
            Ok(write) => store.take(&write, &caller.actor, &call.options),
            Err(refused) => Err(refused.error),
        };
        match taken {
            Ok(receipt) => {
                let mut result = json!({
                    "index": index,
                    "event_id": store.events[receipt.event].event_id,
                    "replayed_from_idempotency": receipt.replayed,
                });
                remarks(&receipt, &mut result);
                results.push(result);
            }
            Err(error) => failures.push(json!({
                "index": index, "error_code": error.code, "error": error.message,
            })),
        }
    }
    let batch_id = format!("batch_{}", store.random_hex(16));
    drop(store);
    Ok(bulk_reply(
        call,
        wait.is_some(),
        mode,
        &batch_id,
        results,
        failures,
    ))
}

fn whole(mut error: ApiError, index: usize, mode: ItemRefusal) -> ApiError {
    if mode == ItemRefusal::WholeNamed {
        error.message = format!("items[{index}]: {}", error.message);
        let details = error.details.get_or_insert_with(|| json!({}));
        details["index"] = json!(index);
    } else {
        error.message = "an item was refused".to_owned();
        error.details = None;
    }
    error
}

fn bulk_reply(
    call: &Call<'_>,
    waited: bool,
    mode: ItemRefusal,
    batch_id: &str,
    results: Vec<Value>,
    failures: Vec<Value>,
) -> Reply {
    let (mut results, mut failures) = (results, failures);
    if mode == ItemRefusal::PartialUnnamed {
        for entry in results.iter_mut().chain(&mut failures) {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("index");
            }
        }
    }
    let mut body = json!({ "accepted": results.len() });
    match call.options.bulk_reply {
        BulkReply::Results => body["results"] = Value::Array(results),
        BulkReply::BatchOnly => {
            body["batch_id"] = json!(batch_id);
            body["lifecycle_stream"] = json!(format!("/v1/lifecycle/{batch_id}"));
        }
    }
    let usual = if waited { 200 } else { 202 };
    if failures.is_empty() {
        return Reply::json(usual, body);
    }
    body["partial"] = json!(true);
    body["failures"] = Value::Array(failures);
    Reply::json(
        if matches!(mode, ItemRefusal::Partial | ItemRefusal::PartialUnnamed) {
            207
        } else {
            usual
        },
        body,
    )
}

/// The items of a bulk request, each with its scope.
fn items(body: Value, options: &Options) -> Result<Vec<Value>, ApiError> {
    let Value::Object(mut body) = body else {
        return Err(ApiError::invalid_body("the body must be an object"));
    };
    let known = |name: &str| match name {
        "items" | "ordering" | "directives" => true,
        "scope" => options.bulk_scope != BulkScope::PerItem,
        _ => false,
    };
    if let Some(unknown) = body.keys().find(|name| !known(name)) {
        return Err(ApiError::invalid_body(format!("unknown field {unknown:?}")));
    }
    let orderings: &[&str] = match options.ordering {
        OrderingValues::Documentation => &["strict_temporal", "batch_throughput"],
        OrderingValues::Cli => &["independent", "strict_temporal"],
        OrderingValues::Either => &["independent", "strict_temporal", "batch_throughput"],
    };
    if let Some(ordering) = body.get("ordering")
        && !ordering
            .as_str()
            .is_some_and(|ordering| orderings.contains(&ordering))
    {
        return Err(ApiError::invalid_body(format!(
            "ordering: none of {}",
            orderings.join(", ")
        )));
    }
    let Some(Value::Array(mut items)) = body.remove("items") else {
        return Err(ApiError::invalid_body("items must be a list"));
    };
    if !(1..=MAX_ITEMS).contains(&items.len()) {
        let message = format!("items: {} of them, 1 to {MAX_ITEMS} are taken", items.len());
        return Err(ApiError::invalid_body(message));
    }
    place(&body, &mut items, options.bulk_scope)?;
    Ok(items)
}

/// Gives every item the scope on top, where this server has one there.
fn place(
    body: &Map<String, Value>,
    items: &mut [Value],
    reading: BulkScope,
) -> Result<(), ApiError> {
    if reading == BulkScope::PerItem {
        return Ok(());
    }
    let top = body.get("scope");
    if reading == BulkScope::TopLevel && top.is_none() {
        return Err(ApiError::invalid_body("scope is missing"));
    }
    for item in items.iter_mut().filter_map(Value::as_object_mut) {
        if reading == BulkScope::TopLevel && item.contains_key("scope") {
            return Err(ApiError::invalid_body("items: unknown field \"scope\""));
        }
        if let Some(top) = top
            && !item.contains_key("scope")
        {
            item.insert("scope".to_owned(), top.clone());
        }
    }
    Ok(())
}

pub(crate) fn status(cortex: &Cortex, call: &Call<'_>, caller: &Caller) -> Result<Reply, ApiError> {
    let store = cortex.store();
    let event = match (call.query("idempotency_key"), call.query("event_id")) {
        (Some(key), _) => store.by_key(&caller.actor, key, call.options.clock.now()),
        (None, Some(id)) => store.by_id.get(id).map(|&seq| &store.events[seq]),
        (None, None) => {
            return Err(ApiError::invalid_body(
                "idempotency_key or event_id is required",
            ));
        }
    };
    let Some(event) = event else {
        return Ok(Reply::json(
            200,
            json!({
                "found": false, "event_id": null, "status": null, "stages_completed": [],
                "note": "not found: sending the same body again is safe",
            }),
        ));
    };
    let mut body = json!({
        "found": true,
        "event_id": event.event_id,
        "status": event.index_state.name(),
        "stages_completed": stages(event),
        "note": "",
    });
    if event.index_state == IndexState::Failed {
        body["failure_reason"] = json!("indexing failed");
    }
    Ok(Reply::json(200, body))
}

impl Call<'_> {
    /// How many items the request carried, for the log.
    pub(crate) fn item_count(&self, reply: &Reply) -> usize {
        match (self.route, &reply.body) {
            (Route::Experience, _) if reply.status < 300 => 1,
            (Route::Bulk, super::reply::Body::Json(body)) => body["accepted"]
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(0),
            _ => 0,
        }
    }
}
