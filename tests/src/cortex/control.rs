//! The control API under `/_sim/`, with which a harness in another process does what tests do through [`Cortex`].

use axum::http::Method;
use serde_json::{Value, json};

use super::answer::parse_query;
use super::reply::{Body, Reply};
use super::server::HttpContext;
use super::{Cortex, Event, FaultRule};

pub(crate) fn answer(
    context: &HttpContext,
    method: &Method,
    path: &str,
    query: &str,
    body: &[u8],
) -> Reply {
    let cortex = &context.cortex;
    match (method.as_str(), path) {
        ("GET", "/_sim/stats") => Reply::json(200, json!(context.stats())),
        ("GET", "/_sim/events") => events(cortex, query),
        ("GET", "/_sim/requests") => Reply::json(200, json!({ "requests": cortex.requests() })),
        ("GET", "/_sim/violations") => violations(cortex),
        ("GET", "/_sim/envelopes") => envelopes(cortex),
        ("POST", "/_sim/faults") => faults(cortex, body),
        ("DELETE", "/_sim/faults") => {
            cortex.clear_faults();
            Reply::json(200, json!({ "armed": 0 }))
        }
        ("POST", "/_sim/clock") => clock(cortex, body),
        _ => Reply::json(404, json!({ "error": "no such control" })),
    }
}

fn bad(reason: &str) -> Reply {
    Reply::json(400, json!({ "error": reason }))
}

fn events(cortex: &Cortex, query: &str) -> Reply {
    let query = parse_query(query);
    let get = |name: &str| {
        query
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    };
    let mut events = match get("live") {
        Some("1" | "true") => cortex.live_events(),
        _ => cortex.events(),
    };
    if let Some(source_id) = get("source_id") {
        events.retain(|event| event.source_id.as_deref() == Some(source_id));
    }
    let total = events.len();
    match get("limit").map(str::parse) {
        None => {}
        Some(Ok(limit)) => events.truncate(limit),
        Some(Err(_)) => return bad("limit must be a number"),
    }
    let events: Vec<Value> = events.iter().map(describe).collect();
    Reply::json(200, json!({ "total": total, "events": events }))
}

fn describe(event: &Event) -> Value {
    json!({
        "event_id": event.event_id,
        "seq": event.seq,
        "state": event.state,
        "index_state": event.index_state,
        "caller": event.caller,
        "recorded_at": event.recorded_at,
        "wall_time": event.wall_time,
        "envelope": event.envelope(),
    })
}

fn violations(cortex: &Cortex) -> Reply {
    let gone = cortex.redacted_without_successor();
    let gone: Vec<Value> = gone
        .iter()
        .map(|event| json!({ "event_id": event.event_id, "source_id": event.source_id }))
        .collect();
    Reply::json(
        200,
        json!({
            "violations": cortex.invariant_violations(),
            "redacted_without_successor": gone,
            "chronology": cortex.chronology_remarks(),
        }),
    )
}

fn envelopes(cortex: &Cortex) -> Reply {
    let mut text = String::new();
    for event in cortex.live_events() {
        text.push_str(event.envelope_json());
        text.push('\n');
    }
    Reply {
        status: 200,
        headers: Vec::new(),
        body: Body::Text {
            mime: "application/x-ndjson",
            text,
        },
    }
}

/// One rule or a list of them.
fn faults(cortex: &Cortex, body: &[u8]) -> Reply {
    let rules = match serde_json::from_slice::<Value>(body) {
        Ok(Value::Array(rules)) => serde_json::from_value::<Vec<FaultRule>>(Value::Array(rules)),
        Ok(rule) => serde_json::from_value::<FaultRule>(rule).map(|rule| vec![rule]),
        Err(error) => Err(error),
    };
    match rules {
        Ok(rules) => {
            let armed = rules.len();
            rules.into_iter().for_each(|rule| cortex.add_fault(rule));
            Reply::json(200, json!({ "armed": armed }))
        }
        Err(error) => bad(&error.to_string()),
    }
}

fn clock(cortex: &Cortex, body: &[u8]) -> Reply {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(seconds) = body["advance_seconds"].as_i64() else {
        return bad("advance_seconds must be a number");
    };
    cortex.clock().advance_seconds(seconds);
    Reply::json(200, json!({ "now": cortex.clock().now() }))
}
