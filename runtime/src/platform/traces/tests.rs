//! What leaves for the collector, and what its variables mean.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::hooks::listen;

fn surroundings(variables: &[(&str, &str)]) -> Surroundings {
    Surroundings {
        variables: variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..Surroundings::default()
    }
}

fn collector(variables: &[(&str, &str)]) -> Result<Option<Collector>, String> {
    Collector::of(&surroundings(variables)).map_err(|error| error.to_string())
}

#[test]
fn the_collector_is_where_the_variables_of_the_specification_say() {
    assert!(collector(&[]).unwrap().is_none());
    let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318/");
    let found = collector(&[base]).unwrap().unwrap();
    assert_eq!(found.url.as_str(), "http://127.0.0.1:4318/v1/traces");
    assert_eq!(found.service, "connector-runtime");
    let whole = (
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "https://otel.example/x",
    );
    let headers = ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b+c&d=e, other=1");
    let name = ("OTEL_SERVICE_NAME", "here");
    let found = collector(&[base, whole, headers, name]).unwrap().unwrap();
    assert_eq!(found.url.as_str(), "https://otel.example/x");
    assert_eq!(found.headers["x-key"], "a b+c&d=e");
    assert_eq!(found.headers["other"], "1");
    assert_eq!(found.service, "here");
    assert!(!format!("{found:?}").contains("a b"));
    for off in [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "none"),
    ] {
        assert!(collector(&[base, off]).unwrap().is_none());
    }
}

#[test]
fn a_password_in_the_address_of_the_collector_goes_in_a_header() {
    let address = "https://ada:love%3Alace@collector.example/v1/traces";
    let name = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    let found = collector(&[(name, address)]).unwrap().unwrap();
    assert_eq!(found.url.as_str(), "https://collector.example/v1/traces");
    assert_eq!(found.headers["authorization"], "Basic YWRhOmxvdmU6bGFjZQ==");
    assert!(found.headers["authorization"].is_sensitive());
    assert!(!format!("{found:?}").contains("lace"));
    // What is said in so many words counts.
    let headers = ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20key");
    let found = collector(&[(name, address), headers]).unwrap().unwrap();
    assert_eq!(found.headers["authorization"], "Bearer key");
}

#[test]
fn what_cannot_be_meant_is_said_without_the_key() {
    let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
    let wrong = collector(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")]).unwrap_err();
    assert!(wrong.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{wrong}");
    let grpc = collector(&[base, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).unwrap_err();
    assert!(grpc.contains("4318"), "{grpc}");
    let headers = collector(&[base, ("OTEL_EXPORTER_OTLP_HEADERS", "s3 cret=\u{1}")]).unwrap_err();
    assert!(!headers.contains("s3"), "{headers}");
}

type Seen = Arc<Mutex<Vec<(HeaderMap, Value)>>>;

/// A collector that remembers; it refuses whoever has no key.
async fn listening() -> (String, Seen, CancellationToken) {
    let seen = Seen::default();
    let take = async |State(seen): State<Seen>, headers: HeaderMap, body: String| {
        if !headers.contains_key("x-key") {
            return StatusCode::UNAUTHORIZED;
        }
        let body = serde_json::from_str(&body).unwrap();
        seen.lock().unwrap().push((headers, body));
        StatusCode::OK
    };
    let router = Router::new()
        .route("/v1/traces", axum::routing::post(take))
        .with_state(Arc::clone(&seen));
    let (listener, address) = listen::bind("127.0.0.1:0").await.unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(listen::serve(listener, router, stop.clone()));
    (format!("http://{address}"), seen, stop)
}

fn span<'a>(trace: &'a str, id: &'a str, attributes: &'a [(&'static str, &'a str)]) -> Span<'a> {
    Span {
        trace,
        id,
        name: "delivery",
        began: UNIX_EPOCH + Duration::from_millis(1500),
        ended: UNIX_EPOCH + Duration::from_secs(2),
        attributes,
        link: Some((trace, "00000000000000ff")),
        failed: None,
    }
}

#[tokio::test]
async fn spans_that_come_together_leave_together_and_all_have_left_at_the_end() {
    let (url, seen, _stop) = listening().await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=1"),
    ];
    let collector = collector(&variables).unwrap().unwrap();
    let log = Log::to(Level::Trace, |line| panic!("{line}"));
    let traces = Traces::to(collector, log).unwrap();
    let trace = "0123456789abcdef0123456789abcdef";
    for _ in 0..3 {
        let id = span_id();
        assert_eq!(id.len(), 16);
        traces.span(&span(trace, &id, &[("tenant", "acme")]));
    }
    traces.flush().await;
    let seen = seen.lock().unwrap();
    let all: Vec<&Value> = seen
        .iter()
        .flat_map(|(_, body)| {
            body["resourceSpans"][0]["scopeSpans"][0]["spans"]
                .as_array()
                .unwrap()
        })
        .collect();
    assert_eq!(all.len(), 3);
    assert!(seen.len() < 3, "{} requests", seen.len());
    assert_eq!(seen[0].0["content-type"], "application/json");
    let mut first = all[0].clone();
    first["spanId"] = json!("…");
    let first = serde_json::to_string_pretty(&first).unwrap();
    insta::assert_snapshot!(first, @r#"
    {
      "attributes": [
        {
          "key": "tenant",
          "value": {
            "stringValue": "acme"
          }
        }
      ],
      "endTimeUnixNano": "2000000000",
      "kind": 1,
      "links": [
        {
          "spanId": "00000000000000ff",
          "traceId": "0123456789abcdef0123456789abcdef"
        }
      ],
      "name": "delivery",
      "spanId": "…",
      "startTimeUnixNano": "1500000000",
      "status": {
        "code": 1
      },
      "traceId": "0123456789abcdef0123456789abcdef"
    }
    "#);
}

#[tokio::test]
async fn a_collector_that_refuses_is_told_of_once_and_keeps_nobody_waiting() {
    let (url, _, _stop) = listening().await;
    let collector = collector(&[("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str())]);
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&lines);
    let log = Log::to(Level::Info, move |line| {
        kept.lock().unwrap().push(line.to_owned());
    });
    let traces = Traces::to(collector.unwrap().unwrap(), log).unwrap();
    for _ in 0..2 {
        traces.span(&span("0123456789abcdef0123456789abcdef", &span_id(), &[]));
        traces.flush().await;
    }
    Traces::default().flush().await;
    let lines = lines.lock().unwrap();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("401"), "{lines:?}");
}
