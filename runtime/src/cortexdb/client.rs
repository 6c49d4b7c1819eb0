//! One authenticated connection to CortexDB's v1 API.
//!
//! Failures come in classes, and the class decides what may happen to data. *Bad times* (no connection, 429, most 5xx, what the server
//! calls retriable, a reply that is no JSON) are retried here with the same body until the patience ends. *Bad standing* (401, 402, 403, a server that is not
//! set up) stops the run. What is left is *bad data*, which the caller looks at item by item. Mixing them up is how connectors lose
//! data: an outage must never look like a bad record.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::http_client::{self, Answer, ExchangeError, HttpClient};
use crate::patience::{Attempts, Patience};
use crate::redact::{Redactor, Secret};
use crate::report::{Counters, Event, Reporter};
use crate::sandbox::limits::{Limit, Limits};

/// CortexDB's hosted API, the default of the vendor's tools.
pub const DEFAULT_URL: &str = "https://api-v1.cortexdb.ai";

/// The route of all writing.
pub(super) const BULK_ROUTE: &str = "/v1/experience/bulk";
/// The first question of every run.
pub(super) const WHOAMI_ROUTE: &str = "/v1/auth/whoami";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A bulk write of 1000 items is acknowledged in well under a second; a minute means that nobody will answer.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// Receipts are small and pages of events can be asked for in smaller pieces; a larger reply is not read to its end.
const MAX_REPLY_BYTES: usize = 32 << 20;

/// Why CortexDB did not do what was asked. Displayed to the user.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CortexError {
    /// The credentials do not suffice, or the server is not set up. Stop, hold every cursor.
    #[error("CortexDB refuses: {0}")]
    Standing(String),
    /// The credentials are good, but this is not permitted. Stop, or do without the feature.
    #[error("CortexDB does not permit this: {0}")]
    Forbidden(String),
    /// The configuration cannot work with this server (a scope type that it does not know, an actor that is not the token's).
    #[error("{0}")]
    Misconfigured(String),
    /// It failed for longer than the run's patience.
    #[error("CortexDB could not be reached: {0}")]
    Unavailable(String),
    /// The run was stopped while waiting.
    #[error("stopped while waiting for CortexDB")]
    Stopped,
    /// The reply is larger than what is read of one; a smaller request may do.
    #[error("CortexDB answers with more than {0} bytes")]
    TooLarge(usize),
    /// This request is refused as it is; another one may do.
    #[error("CortexDB refused the request: {0}")]
    Refused(Refusal),
}

/// A 4xx answer that speaks about the data that was sent.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Error code in upper case; empty when a proxy answered.
    pub code: String,
    /// The server's words, secrets removed.
    pub message: String,
    /// The item of a bulk request that it names, if it names one.
    pub index: Option<usize>,
}

impl Refusal {
    /// It is nobody's word on what was sent: a 404 without a code, for longer than one passes.
    #[must_use]
    pub fn is_of_no_route(&self) -> bool {
        self.status == 404 && self.code.is_empty()
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.status, self.code, self.message)
    }
}

/// What a client needs to know.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Base URL without a slash at the end.
    pub url: String,
    /// API key or token.
    pub key: Secret,
    /// `X-Cortex-Actor`.
    pub actor: Option<String>,
}

/// Shared by everything that talks to CortexDB in one run.
#[derive(Clone)]
pub struct Client {
    http: HttpClient,
    endpoint: Endpoint,
    redactor: Redactor,
    patience: Arc<Patience>,
    counters: Arc<Counters>,
    reporter: Arc<dyn Reporter>,
    stop: CancellationToken,
    /// What is kept of a scope's listing, in bytes; `None`: all.
    pub(super) most_listed: Option<u64>,
    /// Which of [`DISPENSABLE`] are not there, as far as this run has seen.
    lacking: Arc<[AtomicBool; DISPENSABLE.len()]>,
}

/// Routes without which a run goes on: what they were asked for waits for the next one.
const DISPENSABLE: [&str; 2] = ["/v1/events", "/v1/forget"];
/// A 404 without a code may be that of a proxy, which passes; of these routes it is taken for the last word after so many tries.
const TRIES_OF_THE_DISPENSABLE: u32 = 3;

enum Failure {
    Passing {
        reason: String,
        asked: Option<Duration>,
    },
    /// Nobody knows this route, and nobody says that there is none.
    NoRoute(String),
    Final(CortexError),
}

impl Client {
    /// A client for one run. `http` carries TLS and proxy settings.
    #[must_use]
    pub fn new(
        http: HttpClient,
        endpoint: Endpoint,
        redactor: Redactor,
        patience: Arc<Patience>,
        counters: Arc<Counters>,
        reporter: Arc<dyn Reporter>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            http,
            endpoint,
            redactor,
            patience,
            counters,
            reporter,
            stop,
            most_listed: Limit::ListedBytes.spec().default,
            lacking: Arc::default(),
        }
    }

    /// The same client within these limits: what CortexDB lists is kept no further than they allow.
    #[must_use]
    pub fn within(self, limits: Limits) -> Self {
        Self {
            most_listed: limits.get(Limit::ListedBytes),
            ..self
        }
    }

    /// The same client, with the connections that it has, for another run.
    #[must_use]
    pub fn for_another_run(
        &self,
        redactor: Redactor,
        patience: Arc<Patience>,
        counters: Arc<Counters>,
        reporter: Arc<dyn Reporter>,
        stop: CancellationToken,
    ) -> Self {
        Self::new(
            self.http.clone(),
            self.endpoint.clone(),
            redactor,
            patience,
            counters,
            reporter,
            stop,
        )
    }

    /// The same client speaking as this actor.
    #[must_use]
    pub fn with_actor(mut self, actor: String) -> Self {
        self.endpoint.actor = Some(actor);
        self
    }

    /// The configured base URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.endpoint.url
    }

    /// `X-Cortex-Actor` of this client.
    #[must_use]
    pub fn actor(&self) -> Option<&str> {
        self.endpoint.actor.as_deref()
    }

    /// Sends one request until it is answered for good. The body is sent again unchanged, which is what makes repeating safe.
    pub async fn call(
        &self,
        method: Method,
        path_and_query: &str,
        body: Option<Bytes>,
    ) -> Result<Value, CortexError> {
        let mut attempts = self.patience.begin();
        loop {
            let (reason, asked) = match self.attempt(&method, path_and_query, body.clone()).await {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing { reason, asked }) => (reason, asked),
                Err(Failure::NoRoute(reason)) => {
                    if self.does_without(path_and_query, attempts.failures() + 1) {
                        return Err(CortexError::Refused(Refusal {
                            status: 404,
                            code: String::new(),
                            message: reason,
                            index: None,
                        }));
                    }
                    (reason, None)
                }
            };
            self.wait_before_retry(&mut attempts, reason, asked).await?;
        }
    }

    /// Whether a run goes on without this route, which was not there so often in a row.
    fn does_without(&self, path_and_query: &str, tries: u32) -> bool {
        let path = path_and_query.split('?').next().unwrap_or_default();
        let Some(place) = DISPENSABLE.iter().position(|route| *route == path) else {
            return false;
        };
        if tries >= TRIES_OF_THE_DISPENSABLE {
            self.lacking[place].store(true, Ordering::Relaxed);
        }
        self.lacking[place].load(Ordering::Relaxed)
    }

    /// Starts the account of something that may have to be tried several times.
    pub(super) fn attempts(&self) -> Attempts<'_> {
        self.patience.begin()
    }

    /// Waits before the next attempt, or says that the patience is over.
    pub(super) async fn wait_before_retry(
        &self,
        attempts: &mut Attempts<'_>,
        reason: String,
        asked: Option<Duration>,
    ) -> Result<(), CortexError> {
        let Some(wait) = attempts.failed(asked) else {
            return Err(CortexError::Unavailable(format!(
                "{reason} (tried {} times, patience {}). Nothing is lost: run again when it answers",
                attempts.failures(),
                self.patience.describe()
            )));
        };
        self.counters.update(|totals| totals.retries += 1);
        self.reporter.event(&Event::Waiting {
            server: "cortexdb".into(),
            reason,
            seconds: wait.as_secs_f64(),
        });
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            () = self.stop.cancelled() => Err(CortexError::Stopped),
        }
    }

    async fn attempt(
        &self,
        method: &Method,
        path_and_query: &str,
        body: Option<Bytes>,
    ) -> Result<Value, Failure> {
        self.counters.update(|totals| totals.cortexdb_requests += 1);
        let request = self.request(method, path_and_query, body);
        let request = request.map_err(|error| self.network(&error))?;
        let exchange = async {
            let sent = self.http.send(request).await;
            let reply = sent.map_err(|error| self.network(&error))?;
            let status = reply.status;
            let asked = retry_after(&reply.headers);
            let text = read_capped(reply)
                .await
                .map_err(|error| self.network(&error))?
                .ok_or(Failure::Final(CortexError::TooLarge(MAX_REPLY_BYTES)))?;
            Ok::<_, Failure>((status, asked, text))
        };
        let (status, asked, text) = tokio::time::timeout(REPLY_TIMEOUT, exchange)
            .await
            .map_err(|_| Failure::Passing {
                reason: format!("no complete reply within {} s", REPLY_TIMEOUT.as_secs()),
                asked: None,
            })??;
        let json: Option<Value> = serde_json::from_slice(&text).ok();
        if status.is_success() {
            return json.ok_or_else(|| Failure::Passing {
                reason: format!("a {status} reply that is not JSON"),
                asked: None,
            });
        }
        Err(self.classify(path_and_query, status, asked, json.as_ref(), &text))
    }

    fn request(
        &self,
        method: &Method,
        path_and_query: &str,
        body: Option<Bytes>,
    ) -> Result<Request<Bytes>, ExchangeError> {
        let uri = http_client::uri(&format!("{}{path_and_query}", self.endpoint.url))?;
        let mut request = Request::new(Bytes::new());
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, http_client::USER_AGENT);
        let key = format!("Bearer {}", self.endpoint.key.reveal());
        headers.insert(
            AUTHORIZATION,
            http_client::secret_value("the API key", &key)?,
        );
        if let Some(actor) = &self.endpoint.actor {
            let actor = HeaderValue::from_bytes(actor.as_bytes()).map_err(|_| {
                ExchangeError::Malformed("the actor has characters that no actor has".into())
            })?;
            headers.insert("x-cortex-actor", actor);
        }
        if let Some(body) = body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *request.body_mut() = body;
        }
        Ok(request)
    }

    fn network(&self, error: &ExchangeError) -> Failure {
        if error.is_final() {
            return Failure::Final(CortexError::Misconfigured(format!("CortexDB: {error}")));
        }
        Failure::Passing {
            reason: self.redactor.apply(&error.to_string()).into_owned(),
            asked: None,
        }
    }

    fn classify(
        &self,
        path: &str,
        status: StatusCode,
        asked: Option<Duration>,
        json: Option<&Value>,
        text: &[u8],
    ) -> Failure {
        let field = |name: &str| json.and_then(|json| json.get(name));
        let code = field("error_code")
            .and_then(Value::as_str)
            .map(in_one_line)
            .unwrap_or_default()
            .to_ascii_uppercase();
        let words = field("message").and_then(Value::as_str).map_or_else(
            || String::from_utf8_lossy(&text[..text.len().min(4096)]).into_owned(),
            str::to_owned,
        );
        // Cut after the secrets are out: half of one would not be recognised.
        let message: String = self
            .redactor
            .apply(&in_one_line(&words))
            .chars()
            .take(400)
            .collect();
        let said = format!("{} {code} {message}", status.as_u16());
        let retriable = field("retriable").and_then(Value::as_bool);
        if is_scope_policy(&code) {
            return Failure::Final(CortexError::Misconfigured(format!(
                "CortexDB does not accept the scope: {said}. Change the scope template, or have the operator allow it"
            )));
        }
        if code.is_empty() && is_said_by_a_proxy(path, status.as_u16()) {
            return match status.as_u16() {
                404 => Failure::NoRoute(said),
                _ => Failure::Passing {
                    reason: said,
                    asked,
                },
            };
        }
        match status.as_u16() {
            401 | 402 => {
                Failure::Final(CortexError::Standing(format!("{said}. {}", remedy(&code))))
            }
            403 => Failure::Final(CortexError::Forbidden(format!(
                "{said}{}. Use a token with that permission",
                denied_capability(json)
            ))),
            407 => Failure::Final(CortexError::Misconfigured(format!(
                "the proxy in front of CortexDB wants a user and a password: {said}. Write them into the address of the proxy"
            ))),
            // A write may be durable already: its caller asks for the status of the keys. Anything else is asked again.
            408 if path != BULK_ROUTE => Failure::Passing {
                reason: said,
                asked,
            },
            // The server's own word on it counts for more than the status.
            400..=499 if retriable == Some(true) && !asks_for_another_way(status) => {
                Failure::Passing {
                    reason: said,
                    asked,
                }
            }
            400 | 404 | 405 | 408 | 409 | 413 | 415 | 422 => {
                Failure::Final(CortexError::Refused(Refusal {
                    status: status.as_u16(),
                    code,
                    message,
                    index: named_index(json),
                }))
            }
            500..=599 if retriable == Some(false) => Failure::Final(CortexError::Standing(
                format!("{said}. The server says that repeating cannot help"),
            )),
            425 | 429 | 500..=599 => Failure::Passing {
                reason: said,
                asked,
            },
            300..=399 => Failure::Final(CortexError::Misconfigured(format!(
                "CortexDB at {} answers {said} (a redirect); set CORTEXDB_URL to where it leads",
                self.endpoint.url
            ))),
            _ => Failure::Final(CortexError::Refused(Refusal {
                status: status.as_u16(),
                code,
                message,
                index: None,
            })),
        }
    }
}

/// Whether a status without a code is that of a proxy in between, and passes. CortexDB itself always says why, also where a route is
/// missing or nothing is found. So a 404 says nothing of what is stored; only at the first question it is taken for a wrong address.
/// And no 4xx accuses a record; left are those that mean the same whoever says them.
fn is_said_by_a_proxy(path: &str, status: u16) -> bool {
    match status {
        404 => path != WHOAMI_ROUTE,
        401..=403 | 407..=409 | 413 | 415 | 422 => false,
        400..=499 => path == BULK_ROUTE,
        _ => false,
    }
}

/// Codes that speak about the scope template, not about the record.
#[must_use]
pub fn is_scope_policy(code: &str) -> bool {
    matches!(
        code,
        "UNREGISTERED_SCOPE_TYPE" | "SCOPE_REGISTRATION_REQUIRED"
    )
}

/// A second line of a server's would pass for one of ours.
fn in_one_line(words: &str) -> String {
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn denied_capability(json: Option<&Value>) -> String {
    json.and_then(|json| json.pointer("/details/capability"))
        .and_then(Value::as_str)
        .map(|capability| format!(" (missing capability `{}`)", in_one_line(capability)))
        .unwrap_or_default()
}

/// To send the same again is not what helps: the status of each key tells (408), or less at a time (413).
fn asks_for_another_way(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE
    )
}

fn remedy(code: &str) -> &'static str {
    match code {
        "EXPIRED_TOKEN" | "TOKEN_EXPIRED" | "REVOKED_TOKEN" => {
            "Get a new token (`cortexdb init`) and run again; the cursors are held"
        }
        "ACTOR_MISMATCH" => "Set CORTEXDB_ACTOR to the token's own actor",
        "WRONG_TENANT" => "Check CORTEXDB_TENANT_ID and the token",
        _ => "Check CORTEXDB_API_KEY; the cursors are held",
    }
}

fn named_index(json: Option<&Value>) -> Option<usize> {
    let index = json?
        .pointer("/details/index")
        .or_else(|| json?.get("index"))?;
    usize::try_from(index.as_u64()?).ok()
}

/// Seconds or an HTTP date, as `Retry-After` may be; for CortexDB also `RateLimit-Reset` in seconds.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("retry-after")?.to_str().ok()?.trim().to_owned();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds.min(3600)));
    }
    let at = chrono::DateTime::parse_from_rfc2822(&value).ok()?;
    let wait = at
        .signed_duration_since(chrono::Utc::now())
        .num_seconds()
        .clamp(0, 3600);
    Some(Duration::from_secs(wait.unsigned_abs()))
}

/// `None`: there is more than we read.
async fn read_capped(mut answer: Answer) -> Result<Option<Vec<u8>>, ExchangeError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > MAX_REPLY_BYTES {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// Connection settings that every client of ours shares.
pub(crate) fn connect_timeout() -> Duration {
    CONNECT_TIMEOUT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_without_a_code_accuses_a_record_only_where_it_speaks_of_what_was_sent() {
        let passing = |status: &u16| is_said_by_a_proxy(BULK_ROUTE, *status);
        let meant: Vec<u16> = (100..600).filter(|status| !passing(status)).collect();
        let within: Vec<u16> = meant
            .into_iter()
            .filter(|status| (400..500).contains(status))
            .collect();
        assert_eq!(within, [401, 402, 403, 407, 408, 409, 413, 415, 422]);
        assert!(is_said_by_a_proxy("/v1/forget", 404));
        assert!(!is_said_by_a_proxy("/v1/forget", 400));
        assert!(!is_said_by_a_proxy(WHOAMI_ROUTE, 404));
        assert!(!passing(&200) && !passing(&302) && !passing(&503));
    }

    #[test]
    fn what_a_server_says_is_one_line() {
        let words = "<html>\r\n  503\u{85}error: none\u{2028}complete (1 s)\n";
        assert_eq!(in_one_line(words), "<html> 503 error: none complete (1 s)");
    }
}
