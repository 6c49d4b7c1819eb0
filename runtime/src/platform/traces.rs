//! Traces for OpenTelemetry, where the operator names a collector: a span for each run, and one for each delivery from the call to
//! CortexDB's receipt.
//!
//! OTLP over HTTP with JSON, configured by the variables of its specification (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/>).
//! Nothing waits for the collector: what does not fit into the queue is dropped, and so is what the collector does not take, which the log says.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use url::Url;

use super::log::Log;
use crate::config::{ConfigError, Surroundings};
use crate::egress::Policy;
use crate::http_client::{self, HttpClient};
use crate::report::Level;

/// Spans that wait.
const QUEUE: usize = 4096;
/// Spans of one request.
const AT_ONCE: usize = 512;
/// How long spans wait for others.
const EVERY: Duration = Duration::from_secs(2);
/// For one request.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the log says that the collector takes nothing.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// A collector.
#[derive(Clone)]
pub struct Collector {
    url: Url,
    headers: HeaderMap,
    service: String,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Its headers hold keys.
        write!(f, "Collector({})", self.url)
    }
}

impl Collector {
    /// The collector that the environment names, if it names one.
    pub fn of(surroundings: &Surroundings) -> Result<Option<Self>, ConfigError> {
        let variable = |name: &str| surroundings.first(&[name]);
        let is = |name: &str, value: &str| {
            variable(name).is_some_and(|text| text.eq_ignore_ascii_case(value))
        };
        if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
            return Ok(None);
        }
        let whole = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        let base = "OTEL_EXPORTER_OTLP_ENDPOINT";
        let (name, address) = match (variable(whole), variable(base)) {
            (Some(address), _) => (whole, address),
            (None, Some(address)) => {
                let address = format!("{}/v1/traces", address.trim_end_matches('/'));
                (base, address)
            }
            (None, None) => return Ok(None),
        };
        let invalid = |words: String| ConfigError::Invalid(words);
        let url = Url::parse(&address)
            .ok()
            .filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
        let mut url = url.ok_or_else(|| {
            invalid(format!(
                "{name} is not the address of a collector; write for example http://127.0.0.1:4318"
            ))
        })?;
        let protocol = surroundings.first(&[
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            "OTEL_EXPORTER_OTLP_PROTOCOL",
        ]);
        if protocol.as_deref() == Some("grpc") {
            return Err(invalid(
                "OTEL_EXPORTER_OTLP_PROTOCOL is grpc, and traces leave here by HTTP; name the collector's HTTP port (4318) and http/json".into(),
            ));
        }
        let headers = surroundings.first(&[
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
            "OTEL_EXPORTER_OTLP_HEADERS",
        ]);
        let mut headers = read_headers(&headers.unwrap_or_default()).map_err(invalid)?;
        if let Some(value) = authorization_in(&mut url) {
            headers.entry(AUTHORIZATION).or_insert(value);
        }
        Ok(Some(Self {
            url,
            headers,
            service: variable("OTEL_SERVICE_NAME").unwrap_or_else(|| "connector-runtime".into()),
        }))
    }
}

/// Takes the user's name and password out of a URL: they go in a header.
fn authorization_in(url: &mut Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let mut pair = decoded(url.username());
    pair.push(b':');
    pair.extend(decoded(url.password().unwrap_or_default()));
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair))).ok()?;
    value.set_sensitive(true);
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    Some(value)
}

/// `name=value,name=value`, values with `%XX`.
fn read_headers(text: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for pair in text.split(',').map(str::trim).filter(|one| !one.is_empty()) {
        // Read as of a form, in which a plus is a space and an ampersand ends the pair; here they are what they are.
        let pair = pair.replace('+', "%2B").replace('&', "%26");
        let read = url::form_urlencoded::parse(pair.as_bytes()).next();
        let header = read.and_then(|(name, value)| {
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            let mut value = HeaderValue::from_str(value.trim()).ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        // Not with its words: it may be a key.
        let (name, value) = header.ok_or(
            "OTEL_EXPORTER_OTLP_HEADERS is not understood; write name=value,name=value with %XX for what is special",
        )?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Something that took time.
#[derive(Debug)]
pub struct Span<'a> {
    /// 32 hexadecimal digits.
    pub trace: &'a str,
    /// 16 hexadecimal digits; see [`span_id`].
    pub id: &'a str,
    /// What it was, one of few.
    pub name: &'static str,
    /// When it began.
    pub began: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// Text by name. Must hold no secret.
    pub attributes: &'a [(&'static str, &'a str)],
    /// Another span that it belongs to: its trace and its id.
    pub link: Option<(&'a str, &'a str)>,
    /// Why it failed.
    pub failed: Option<&'a str>,
}

/// A new name for a span.
#[must_use]
pub fn span_id() -> String {
    format!("{:016x}", fastrand::u64(1..))
}

enum Message {
    Span(Value),
    Flush(oneshot::Sender<()>),
}

/// Where spans go: to a collector, or nowhere. Cheap to clone.
#[derive(Clone, Default)]
pub struct Traces(Option<mpsc::Sender<Message>>);

impl Traces {
    /// Starts to export to this collector.
    pub fn to(collector: Collector, log: Log) -> Result<Self, String> {
        let policy = Policy::users_word(&collector.url).into();
        let client = http_client::build(&collector.url, None, PATIENCE, &policy)?;
        let (queue, messages) = mpsc::channel(QUEUE);
        tokio::spawn(export(collector, client, log, messages));
        Ok(Self(Some(queue)))
    }

    /// Hands a span over. Never waits.
    pub fn span(&self, span: &Span) {
        if let Some(queue) = &self.0 {
            let _ = queue.try_send(Message::Span(as_json(span)));
        }
    }

    /// Waits until everything that was handed over has been sent once, for as long as a request may take.
    pub async fn flush(&self) {
        let Some(queue) = &self.0 else { return };
        let (done, flushed) = oneshot::channel();
        let sent = async {
            if queue.send(Message::Flush(done)).await.is_ok() {
                let _ = flushed.await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, sent).await;
    }
}

fn nanoseconds(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().to_string()
}

fn as_json(span: &Span) -> Value {
    let attributes: Vec<Value> = span
        .attributes
        .iter()
        .map(|(name, text)| json!({"key": name, "value": {"stringValue": text}}))
        .collect();
    let link = span
        .link
        .map(|(trace, id)| json!({"traceId": trace, "spanId": id}));
    let links: Vec<Value> = link.into_iter().collect();
    let status = match span.failed {
        None => json!({"code": 1}),
        Some(words) => json!({"code": 2, "message": words}),
    };
    json!({
        "traceId": span.trace,
        "spanId": span.id,
        "name": span.name,
        "kind": 1,
        "startTimeUnixNano": nanoseconds(span.began),
        "endTimeUnixNano": nanoseconds(span.ended),
        "attributes": attributes,
        "links": links,
        "status": status,
    })
}

async fn export(
    collector: Collector,
    client: HttpClient,
    log: Log,
    mut messages: mpsc::Receiver<Message>,
) {
    let mut complained: Option<Instant> = None;
    let mut taken = Vec::with_capacity(AT_ONCE);
    while messages.recv_many(&mut taken, AT_ONCE).await > 0 {
        let flushes = taken.iter().any(|one| matches!(one, Message::Flush(_)));
        if !flushes && taken.len() < AT_ONCE {
            // Others share the request.
            let more = AT_ONCE - taken.len();
            let _ = tokio::time::timeout(EVERY, messages.recv_many(&mut taken, more)).await;
        }
        let (mut spans, mut waiting) = (Vec::new(), Vec::new());
        for message in taken.drain(..) {
            match message {
                Message::Span(span) => spans.push(span),
                Message::Flush(done) => waiting.push(done),
            }
        }
        let count = spans.len();
        if count > 0
            && let Err(reason) = send(&collector, &client, spans).await
            && complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY)
        {
            complained = Some(Instant::now());
            let fields = json!({"reason": reason, "spans": count});
            log.line(Level::Warn, "the collector does not take traces", fields);
        }
        for done in waiting {
            let _ = done.send(());
        }
    }
}

async fn send(collector: &Collector, client: &HttpClient, spans: Vec<Value>) -> Result<(), String> {
    let name = json!([{"key": "service.name", "value": {"stringValue": collector.service}}]);
    let scope = json!({"name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION")});
    let body = json!({
        "resourceSpans": [{
            "resource": {"attributes": name},
            "scopeSpans": [{"scope": scope, "spans": spans}],
        }],
    });
    let uri = http_client::uri(collector.url.as_str()).map_err(|error| error.to_string())?;
    let mut request = Request::post(uri)
        .header(CONTENT_TYPE, "application/json")
        .body(body.to_string().into())
        .map_err(|error| error.to_string())?;
    request.headers_mut().extend(collector.headers.clone());
    let answer = tokio::time::timeout(PATIENCE, client.send(request))
        .await
        .map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?
        .map_err(|error| error.to_string())?;
    let status = answer.status;
    if status.is_success() {
        return Ok(());
    }
    Err(format!(
        "{} answered {status}",
        collector.url.host_str().unwrap_or("it")
    ))
}

#[cfg(test)]
mod tests;
