//! `POST /v1/forget` and its preview, with every edge that can delete more than was meant.

use serde_json::{Map, Value, json};

use super::answer::Call;
use super::identity::Caller;
use super::reply::{ApiError, Reply};
use super::store::{EventState, Store, strings};
use super::{Cortex, envelope};

/// Most ids in one selector.
const MAX_IDS: usize = 100;

const FIELDS: [&str; 9] = [
    "scope",
    "selector",
    "cascade",
    "layers",
    "confirm_all",
    "audit_note",
    "reason",
    "from_preview_id",
    "idempotency_key",
];

/// What is to be forgotten.
enum Selector {
    Ids(Vec<String>),
    About {
        field: &'static str,
        value: String,
    },
    /// Known fields that select by time, which the simulator stores but does not evaluate.
    Time,
    Everything,
}

struct Request {
    scope: String,
    selector: Selector,
    redact: bool,
    raw: Value,
}

fn parse(store: &Store, call: &Call<'_>, caller: &Caller) -> Result<Request, ApiError> {
    let Value::Object(body) = call.json()? else {
        return Err(ApiError::invalid_body("the body must be an object"));
    };
    if let Some(unknown) = body.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        return Err(ApiError::invalid_body(format!("unknown field {unknown:?}")));
    }
    let scope = match body.get("scope").and_then(Value::as_str) {
        Some(scope) if envelope::scope_segments(scope).is_some() => scope.to_owned(),
        _ => return Err(ApiError::invalid_body("scope: must be a scope path")),
    };
    let redact = match body.get("cascade").map(Value::as_str) {
        None | Some(Some("derived_only")) => false,
        Some(Some("redact_events")) => true,
        Some(other) => {
            let message = format!("cascade: {other:?} is neither derived_only nor redact_events");
            return Err(ApiError::new(400, "INVALID_CASCADE", message));
        }
    };
    layers(&body)?;
    let raw = match body.get("from_preview_id") {
        None => body.get("selector").cloned().unwrap_or(Value::Null),
        Some(id) => preview_selector(store, id)?,
    };
    let selector = selector(&raw)?;
    let confirmed = match body.get("confirm_all") {
        None => false,
        Some(flag) => flag
            .as_bool()
            .ok_or_else(|| ApiError::invalid_body("confirm_all: must be a boolean"))?,
    };
    match (&selector, confirmed) {
        (Selector::Everything, false) => {
            let message = "the selector is empty, which means the whole scope";
            return Err(ApiError::new(
                422,
                "EMPTY_SELECTOR_WITHOUT_CONFIRMATION",
                message,
            ));
        }
        (Selector::Everything, true) | (_, false) => {}
        (_, true) => {
            let message = "confirm_all goes with an empty selector only";
            return Err(ApiError::new(
                400,
                "AMBIGUOUS_SELECTOR_CONFIRM_ALL",
                message,
            ));
        }
    }
    caller.demand(if redact {
        "forget.cascade.redact_events"
    } else {
        "forget.cascade.derived_only"
    })?;
    Ok(Request {
        scope,
        selector,
        redact,
        raw,
    })
}

fn layers(body: &Map<String, Value>) -> Result<(), ApiError> {
    let known = ["beliefs", "facts", "episodes", "understanding", "events"];
    let fine = body.get("layers").is_none_or(|layers| {
        layers.as_array().is_some_and(|layers| {
            layers
                .iter()
                .all(|layer| layer.as_str().is_some_and(|layer| known.contains(&layer)))
        })
    });
    if fine {
        Ok(())
    } else {
        Err(ApiError::invalid_body("layers: not a list of known layers"))
    }
}

fn preview_selector(store: &Store, id: &Value) -> Result<Value, ApiError> {
    let known = id.as_str().and_then(|id| store.previews.get(id));
    known
        .cloned()
        .ok_or_else(|| ApiError::new(422, "UNKNOWN_PREVIEW_ID", "no such preview"))
}

/// Reads a selector the way the server does: a field that it does not know is as good as none, so a misspelt selector
/// selects everything.
fn selector(raw: &Value) -> Result<Selector, ApiError> {
    let invalid = |message: &str| ApiError::new(422, "INVALID_SELECTOR", message);
    let fields = match raw {
        Value::Null => return Ok(Selector::Everything),
        Value::Object(fields) => fields,
        _ => return Err(ApiError::invalid_body("selector: must be an object")),
    };
    let mut selected = Vec::new();
    if let Some(ids) = fields.get("memory_ids") {
        let list = ids
            .as_array()
            .ok_or_else(|| ApiError::invalid_body("memory_ids: must be a list"))?;
        if !list.iter().all(Value::is_string) {
            return Err(ApiError::invalid_body(
                "memory_ids: must be a list of strings",
            ));
        }
        if list.len() > MAX_IDS {
            return Err(invalid("memory_ids: more than 100 ids"));
        }
        if !list.is_empty() {
            selected.push(Selector::Ids(strings(ids)));
        }
    }
    for field in ["about_subject", "about_entity", "predicate"] {
        match fields.get(field) {
            None => {}
            Some(Value::String(value)) => selected.push(Selector::About {
                field,
                value: value.clone(),
            }),
            Some(_) => return Err(ApiError::invalid_body(format!("{field}: must be a string"))),
        }
    }
    let by_ids = matches!(selected.first(), Some(Selector::Ids(_)));
    if by_ids && selected.len() > 1 {
        return Err(invalid("memory_ids contradicts the other fields"));
    }
    let timed = ["valid_during", "recorded_during"]
        .iter()
        .any(|field| fields.contains_key(*field));
    let otherwise = if timed {
        Selector::Time
    } else {
        Selector::Everything
    };
    Ok(selected.into_iter().next().unwrap_or(otherwise))
}

/// Positions of the events that the request means, all in exactly its scope, and how many things it asked for.
fn matches(store: &Store, request: &Request) -> (Vec<usize>, usize) {
    let in_scope = |seq: &usize| store.events[*seq].scope == request.scope;
    let whole = || {
        store
            .scopes
            .get(&request.scope)
            .cloned()
            .unwrap_or_default()
    };
    match &request.selector {
        Selector::Ids(ids) => {
            let mut found: Vec<usize> = ids
                .iter()
                .filter_map(|id| store.by_id.get(id))
                .copied()
                .filter(in_scope)
                .collect();
            found.sort_unstable();
            found.dedup();
            (found, ids.len())
        }
        Selector::About { field, value } => {
            let mut found = whole();
            found.retain(|&seq| about(store, seq, field, value));
            let count = found.len();
            (found, count)
        }
        Selector::Time => (Vec::new(), 0),
        Selector::Everything => {
            let found = whole();
            let count = found.len();
            (found, count)
        }
    }
}

fn about(store: &Store, seq: usize, field: &str, value: &str) -> bool {
    let event = &store.events[seq];
    let envelope = event.envelope();
    match field {
        "about_subject" => {
            let actor = envelope["observed_actor"]["id"]
                .as_str()
                .unwrap_or(&event.caller)
                .to_owned();
            envelope["subject"]["id"].as_str().unwrap_or(&actor) == value
        }
        "about_entity" => event.labels.iter().any(|label| label == value),
        _ => envelope["content"]["triple"]["predicate"].as_str() == Some(value),
    }
}

pub(crate) fn forget(cortex: &Cortex, call: &Call<'_>, caller: &Caller) -> Result<Reply, ApiError> {
    let mut store = cortex.store();
    let request = parse(&store, call, caller)?;
    let (found, requested) = matches(&store, &request);
    if matches!(request.selector, Selector::Everything) {
        let sentence = format!(
            "{} asked to forget the whole scope {}",
            caller.actor, request.scope
        );
        store.noticed.push(sentence);
    }
    let by_ids = matches!(request.selector, Selector::Ids(_));
    let (mut events, mut derived) = (0, 0);
    for &seq in &found {
        let before = store.events[seq].state;
        derived += usize::from(before == EventState::Live);
        if request.redact {
            events += usize::from(store.redact(seq, by_ids && call.options.forget_releases_keys));
        } else if before == EventState::Live {
            store.events[seq].state = EventState::DerivedForgotten;
        }
    }
    let audit_id = format!("aud_{}", store.random_hex(16));
    Ok(Reply::json(
        200,
        json!({
            "deleted": {
                "events": events, "episodes": derived, "facts": derived, "beliefs": 0, "understanding": 0,
            },
            "requested": requested,
            "matched": found.len(),
            "audit_id": audit_id,
        }),
    ))
}

pub(crate) fn preview(
    cortex: &Cortex,
    call: &Call<'_>,
    caller: &Caller,
) -> Result<Reply, ApiError> {
    let mut store = cortex.store();
    let request = parse(&store, call, caller)?;
    let (found, _) = matches(&store, &request);
    let id = format!("fpvw_{}", store.random_hex(16));
    store.previews.insert(id.clone(), request.raw);
    let events = if request.redact { found.len() } else { 0 };
    Ok(Reply::json(
        200,
        json!({
            "preview_id": id,
            "scope": request.scope,
            "estimated_deleted": { "events": events, "episodes": found.len() },
        }),
    ))
}
