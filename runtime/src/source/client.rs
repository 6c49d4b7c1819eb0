//! One request to the source, from the first attempt to the final answer.
//!
//! What failed for a passing reason is asked again: `GET`, `PUT` and `DELETE`, which come to the same however often they arrive. A `POST`
//! creates something, and creates it twice if it is repeated after it arrived: it is repeated only where the source cannot have
//! acted on it (no connection, 429). Otherwise the component is told, and looks whether what it wanted is there.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::budget::{Budget, class_of};
use super::request::{Method, SourceRequest};
use crate::cortexdb::client::retry_after;
use crate::egress::Policy;
use crate::http_client::{self, ExchangeError, HttpClient};
use crate::patience::{Attempts, Patience};
use crate::redact::{Redactor, Secret};
use crate::report::{Counters, Event, Reporter};

/// Time limits of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the connection stands.
    pub connect: Duration,
    /// From sending to the first byte of the answer.
    pub first_byte: Duration,
    /// Between two pieces of the body.
    pub idle: Duration,
    /// The whole attempt.
    pub whole: Duration,
}

impl Default for Timeouts {
    /// GitLab gives up on a page after 60 seconds itself; a body that stalls for half a minute will not come.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_byte: Duration::from_secs(65),
            idle: Duration::from_secs(30),
            whole: Duration::from_secs(300),
        }
    }
}

/// How the source wants to see its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// In a header of this name.
    Header(HeaderName),
    /// `Authorization: Bearer`.
    Bearer,
    /// Not at all.
    Anonymous,
}

/// Which of several ways to show the token is in use, by its place among them. A token is of one kind: once the source has taken it in
/// one way, a refusal means that it was revoked, and trying the other way would only double the refused requests.
#[derive(Debug, Default)]
pub struct SchemeInUse {
    next: AtomicUsize,
    proven: OnceLock<usize>,
}

impl SchemeInUse {
    fn current(&self) -> usize {
        let next = || self.next.load(Ordering::Relaxed);
        self.proven.get().copied().unwrap_or_else(next)
    }

    /// The source took the token shown in this way.
    fn accepted(&self, scheme: usize) {
        let _ = self.proven.set(scheme);
    }

    /// The source refused the token shown in this way; whether another of `count` is worth a try.
    fn refused(&self, scheme: usize, count: usize) -> bool {
        if let Some(&proven) = self.proven.get() {
            return proven != scheme;
        }
        self.next.store((scheme + 1) % count, Ordering::Relaxed);
        count > 1
    }
}

/// The final answer of the source.
#[derive(Debug, Clone)]
pub struct SourceResponse {
    /// HTTP status.
    pub status: u16,
    /// Lower-case names, without `set-cookie`.
    pub headers: Vec<(String, String)>,
    /// Decompressed.
    pub body: Vec<u8>,
    /// The place of a large body among those that wait to be taken; given back with it.
    pub place: Option<Arc<OwnedSemaphorePermit>>,
}

/// Bodies that are larger take one of the places.
const LARGE_BODY_BYTES: usize = 1 << 20;
/// Large bodies that may wait to be taken. A component that submits requests and takes no answers would otherwise fill this machine's memory:
/// 256 answers of 32 MiB are 8 GiB. As many as our own connector keeps in flight, so that it never waits here.
pub const LARGE_BODIES: usize = 16;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceError {
    /// The request is not allowed.
    Denied(String),
    /// It took too long, and the component wants to know at once.
    TimedOut(String),
    /// The body is over this many bytes.
    TooLarge(u64),
    /// The patience is over.
    Unavailable(String),
    /// The run is being stopped.
    Interrupted,
}

/// Everything that a run needs to reach its source. Shared by all its requests.
pub struct SourceClient {
    /// TLS, proxies, no redirects, names resolved under `egress`.
    pub http: HttpClient,
    /// What may be dialled.
    pub egress: Arc<Policy>,
    /// Name of the source for messages: `gitlab`.
    pub name: String,
    /// Where it is.
    pub base: url::Url,
    /// The token.
    pub token: Option<Secret>,
    /// In the order in which they are tried.
    pub authentication: Vec<Authentication>,
    /// Which of them is in use.
    pub authentication_in_use: SchemeInUse,
    /// Time limits of one attempt.
    pub timeouts: Timeouts,
    /// Largest body, after decompression.
    pub max_body_bytes: usize,
    /// Places for large bodies, [`LARGE_BODIES`] of them.
    pub large_bodies: Arc<Semaphore>,
    /// The rate limit.
    pub budget: Budget,
    /// How long failing is tolerated.
    pub patience: Arc<Patience>,
    /// Totals of the run.
    pub counters: Arc<Counters>,
    /// Progress of the run.
    pub reporter: Arc<dyn Reporter>,
    /// Removes secrets from what is shown.
    pub redactor: Redactor,
    /// Ends waiting.
    pub stop: CancellationToken,
}

const MAX_REDIRECTS: usize = 5;
const TOO_MANY_REQUESTS: u16 = 429;

enum Attempt {
    Answer(SourceResponse),
    Passing {
        reason: String,
        asked: Option<Duration>,
        /// The source has certainly not acted on the request.
        untouched: bool,
    },
    /// A 429; the budget knows for how long.
    Limited(Duration),
    TimedOut(String),
    TooLarge,
    Redirect(url::Url),
    /// Asking again would come to the same.
    Impossible(String),
}

impl SourceClient {
    /// Performs a request, repeating it while that can help.
    pub async fn execute(&self, request: &SourceRequest) -> Result<SourceResponse, SourceError> {
        let mut url = request.url(&self.base).map_err(SourceError::Denied)?;
        if !request.delay.is_zero() {
            self.sleep(request.delay).await?;
        }
        let class = class_of(&request.path);
        let mut attempts = self.patience.begin();
        let mut redirects = 0;
        let mut schemes_tried = 1;
        loop {
            let turn = tokio::select! {
                turn = self.budget.turn(&class, |wait| self.say_that_the_limit_is_used_up(wait)) => turn,
                () = self.stop.cancelled() => return Err(SourceError::Interrupted),
            };
            let scheme = self.authentication_in_use.current();
            let attempt = tokio::select! {
                attempt = self.attempt(request, &url, scheme) => attempt,
                () = self.stop.cancelled() => return Err(SourceError::Interrupted),
            };
            drop(turn);
            let (reason, asked, untouched) = match attempt {
                Attempt::Answer(answer)
                    if answer.status == 401
                        && schemes_tried < self.authentication.len()
                        && self
                            .authentication_in_use
                            .refused(scheme, self.authentication.len()) =>
                {
                    // The token may be of another kind (OAuth), which the source takes only in another place.
                    schemes_tried += 1;
                    continue;
                }
                Attempt::Answer(answer) => {
                    if answer.status != 401 {
                        self.authentication_in_use.accepted(scheme);
                    }
                    return Ok(answer);
                }
                Attempt::Redirect(next) if redirects < MAX_REDIRECTS => {
                    redirects += 1;
                    url = next;
                    continue;
                }
                Attempt::Redirect(_) => {
                    return Err(SourceError::Unavailable(format!(
                        "more than {MAX_REDIRECTS} redirects"
                    )));
                }
                // The component did nothing wrong, so this is no denial.
                Attempt::Impossible(reason) => {
                    return Err(SourceError::Unavailable(format!("{}: {reason}", self.name)));
                }
                Attempt::Limited(wait) => {
                    let reason = "429, the rate limit is used up";
                    if !attempts.limited(wait, |at| self.budget.has_answered_since(&class, at)) {
                        return Err(self.given_up(request, reason, &attempts));
                    }
                    self.say_that_it_is_tried_again(request, reason, wait);
                    continue;
                }
                Attempt::TooLarge => return Err(SourceError::TooLarge(self.max_body_bytes as u64)),
                Attempt::TimedOut(reason) if request.report_timeout => {
                    return Err(SourceError::TimedOut(reason));
                }
                Attempt::TimedOut(reason) => (reason, None, false),
                Attempt::Passing {
                    reason,
                    asked,
                    untouched,
                } => (reason, asked, untouched),
            };
            let may_repeat = request.method != Method::Post || untouched;
            let wait = if may_repeat {
                attempts.failed(asked)
            } else {
                None
            };
            let Some(wait) = wait else {
                return Err(self.given_up(request, &reason, &attempts));
            };
            self.say_that_it_is_tried_again(request, &reason, wait);
            self.sleep(wait).await?;
        }
    }

    fn given_up(
        &self,
        request: &SourceRequest,
        reason: &str,
        attempts: &Attempts<'_>,
    ) -> SourceError {
        SourceError::Unavailable(format!(
            "{} {}: {reason} (tried {} times, patience {})",
            self.name,
            request.path,
            attempts.failures().max(1),
            self.patience.describe()
        ))
    }

    fn say_that_it_is_tried_again(&self, request: &SourceRequest, reason: &str, wait: Duration) {
        self.counters.update(|totals| totals.retries += 1);
        self.reporter.event(&Event::Waiting {
            server: self.name.clone(),
            reason: format!("{}: {reason}", request.path),
            seconds: wait.as_secs_f64(),
        });
    }

    fn say_that_the_limit_is_used_up(&self, wait: Duration) {
        self.reporter.event(&Event::Waiting {
            server: self.name.clone(),
            reason: "its rate limit is used up until then".to_owned(),
            seconds: wait.as_secs_f64(),
        });
    }

    async fn sleep(&self, wait: Duration) -> Result<(), SourceError> {
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            () = self.stop.cancelled() => Err(SourceError::Interrupted),
        }
    }

    async fn attempt(&self, request: &SourceRequest, url: &url::Url, scheme: usize) -> Attempt {
        if let Err(refusal) = self.egress.check_url(url) {
            return Attempt::Impossible(refusal.to_string());
        }
        self.counters.update(|totals| totals.source_requests += 1);
        let mut deadline = Instant::now() + self.timeouts.whole;
        let prepared = match self.prepare(request, url, scheme) {
            Ok(prepared) => prepared,
            Err(error) => return self.broken(&error),
        };
        let first_byte = self.timeouts.first_byte.min(self.timeouts.whole);
        let sent = tokio::time::timeout(first_byte, self.http.send(prepared)).await;
        let mut response = match sent {
            Err(_) => {
                return Attempt::TimedOut(format!("no answer within {first_byte:?}"));
            }
            Ok(Err(error)) => return self.broken(&error),
            Ok(Ok(response)) => response,
        };
        let status = response.status.as_u16();
        let headers = std::mem::take(&mut response.headers);
        if status != TOO_MANY_REQUESTS {
            self.budget.learn(&class_of(&request.path), &headers);
        }
        let left = self.budget.left();
        self.counters
            .update(|totals| totals.quota_left = left.or(totals.quota_left));
        // What it says, not more than what is read without a place: many bodies are read at a time, and doubling leaves half of each empty.
        let announced = response.content_length().unwrap_or_default();
        let announced = usize::try_from(announced).unwrap_or(LARGE_BODY_BYTES);
        let mut body = Vec::with_capacity(announced.min(LARGE_BODY_BYTES));
        let mut place = None;
        loop {
            if body.len() > LARGE_BODY_BYTES && place.is_none() {
                let asked = Instant::now();
                place = Arc::clone(&self.large_bodies).acquire_owned().await.ok();
                // The source is not to blame for this wait.
                deadline += asked.elapsed();
            }
            let until = (Instant::now() + self.timeouts.idle).min(deadline);
            match tokio::time::timeout_at(until, response.chunk()).await {
                Err(_) => {
                    let reason = if Instant::now() >= deadline {
                        format!(
                            "the answer was not complete within {:?}",
                            self.timeouts.whole
                        )
                    } else {
                        format!("the answer stalled for {:?}", self.timeouts.idle)
                    };
                    return Attempt::TimedOut(format!("{reason}, after {} bytes", body.len()));
                }
                Ok(Err(error)) => return self.broken(&error),
                Ok(Ok(None)) => break,
                Ok(Ok(Some(chunk))) => {
                    if body.len() + chunk.len() > self.max_body_bytes {
                        return Attempt::TooLarge;
                    }
                    body.extend_from_slice(&chunk);
                }
            }
        }
        body.shrink_to_fit();
        match self.judge(request, url, status, &headers, body) {
            Attempt::Answer(answer) => Attempt::Answer(SourceResponse {
                place: place.map(Arc::new),
                ..answer
            }),
            other => other,
        }
    }

    fn prepare(
        &self,
        request: &SourceRequest,
        url: &url::Url,
        scheme: usize,
    ) -> Result<Request<Bytes>, ExchangeError> {
        let mut prepared = Request::new(Bytes::new());
        *prepared.method_mut() = match request.method {
            Method::Get => http::Method::GET,
            Method::Post => http::Method::POST,
            Method::Put => http::Method::PUT,
            Method::Delete => http::Method::DELETE,
        };
        *prepared.uri_mut() = http_client::uri(url.as_str())?;
        if let Some(body) = &request.body {
            *prepared.body_mut() = body.clone();
        }
        let headers = prepared.headers_mut();
        for (name, value) in &request.headers {
            // They were checked with the request.
            if let (Ok(name), Ok(value)) = (
                HeaderName::from_bytes(name.as_bytes()),
                HeaderValue::from_str(value),
            ) {
                headers.append(name, value);
            }
        }
        headers.append(http::header::USER_AGENT, http_client::USER_AGENT);
        // Last, and only here: the URL's origin was checked to be the configured one.
        if let (Some(token), Some(scheme)) = (&self.token, self.authentication.get(scheme)) {
            let shown = match scheme {
                Authentication::Header(name) => Some((name.clone(), token.reveal().to_owned())),
                Authentication::Bearer => {
                    Some((AUTHORIZATION, format!("Bearer {}", token.reveal())))
                }
                Authentication::Anonymous => None,
            };
            if let Some((name, value)) = shown {
                let value = http_client::secret_value("the source's token", &value)?;
                headers.append(name, value);
            }
        }
        Ok(prepared)
    }

    fn broken(&self, error: &ExchangeError) -> Attempt {
        let reason = match error {
            error if error.is_final() => return Attempt::Impossible(error.to_string()),
            ExchangeError::NoConnection {
                timed_out: true, ..
            } => format!("no connection within {:?}", self.timeouts.connect),
            other => self.redactor.apply(&other.to_string()).into_owned(),
        };
        Attempt::Passing {
            reason,
            asked: None,
            untouched: error.is_untouched(),
        }
    }

    fn judge(
        &self,
        request: &SourceRequest,
        url: &url::Url,
        status: u16,
        headers: &HeaderMap,
        body: Vec<u8>,
    ) -> Attempt {
        match status {
            301 | 302 | 303 | 307 | 308 if request.method == Method::Get => {
                if let Some(next) = same_origin_redirect(url, headers) {
                    return Attempt::Redirect(next);
                }
            }
            TOO_MANY_REQUESTS => {
                let class = class_of(&request.path);
                return Attempt::Limited(self.budget.refused(&class, headers, &body));
            }
            408 => {
                return Attempt::TimedOut("the source answers 408, its query took too long".into());
            }
            500..=599 => {
                return Attempt::Passing {
                    reason: format!("{status} {}", self.excerpt(&body)),
                    asked: retry_after(headers),
                    untouched: false,
                };
            }
            200..=299 if request.expect_json && !is_json(&body) => {
                return Attempt::Passing {
                    reason: format!(
                        "{status} with something that is not JSON: {}",
                        self.excerpt(&body)
                    ),
                    asked: None,
                    untouched: false,
                };
            }
            _ => {}
        }
        Attempt::Answer(SourceResponse {
            status,
            headers: headers
                .iter()
                .filter(|(name, _)| *name != "set-cookie")
                .filter_map(|(name, value)| {
                    Some((
                        name.as_str().to_owned(),
                        self.redactor.apply(value.to_str().ok()?).into_owned(),
                    ))
                })
                .collect(),
            body,
            place: None,
        })
    }

    fn excerpt(&self, body: &[u8]) -> String {
        let text = String::from_utf8_lossy(&body[..body.len().min(4096)]);
        let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        // Cut after the secrets are out: half of one would not be recognised.
        self.redactor.apply(&line).chars().take(160).collect()
    }
}

/// 204 and other empty answers have nothing to be checked.
fn is_json(body: &[u8]) -> bool {
    body.is_empty() || serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

fn same_origin_redirect(url: &url::Url, headers: &HeaderMap) -> Option<url::Url> {
    let location = headers.get("location")?.to_str().ok()?;
    let next = url.join(location).ok()?;
    (next.origin() == url.origin()
        && next != *url
        && next.username().is_empty()
        && next.password().is_none())
    .then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_show_the_token_is_tried_until_one_is_taken() {
        let schemes = SchemeInUse::default();
        assert!(schemes.refused(schemes.current(), 2));
        assert_eq!(schemes.current(), 1);
        schemes.accepted(1);
        // A request that began before that is repeated in the way that works.
        assert!(schemes.refused(0, 2));
        assert_eq!(schemes.current(), 1);
    }

    #[test]
    fn a_token_that_worked_and_is_refused_is_not_shown_in_another_way() {
        let schemes = SchemeInUse::default();
        schemes.accepted(schemes.current());
        assert!(!schemes.refused(0, 2));
        assert_eq!(schemes.current(), 0);
    }

    #[test]
    fn a_redirect_is_followed_where_it_stays_on_the_origin_and_nowhere_else() {
        let asked = url::Url::parse("https://gitlab.example.com:8443/api/v4/projects/a").unwrap();
        let followed = |location: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("location", location.parse().unwrap());
            same_origin_redirect(&asked, &headers).map(|url| url.to_string())
        };
        for (location, to) in [
            ("/api/v4/projects/7", "/api/v4/projects/7"),
            ("7", "/api/v4/projects/7"),
            ("https://gitlab.example.com:8443/b", "/b"),
            ("HTTPS://GITLAB.example.com:8443/b", "/b"),
            ("//gitlab.example.com:8443/b", "/b"),
            ("https://gitlab%2eexample.com:8443/b", "/b"),
            // Encoded, these are names of files and not of hosts.
            (
                "%2F%2Fevil.example/",
                "/api/v4/projects/%2F%2Fevil.example/",
            ),
            ("/%2e%2e/%5cevil.example", "/%5cevil.example"),
            (
                "/redirect?to=http://evil.example",
                "/redirect?to=http://evil.example",
            ),
        ] {
            let to = format!("https://gitlab.example.com:8443{to}");
            assert_eq!(followed(location), Some(to), "{location}");
        }
        for location in [
            // Another scheme.
            "http://gitlab.example.com:8443/b",
            "ftp://gitlab.example.com:8443/b",
            "file:///etc/passwd",
            "javascript:alert(1)",
            // Another port.
            "https://gitlab.example.com/b",
            "https://gitlab.example.com:443/b",
            // Another host, however it is written.
            "https://evil.example:8443/b",
            "//evil.example:8443/b",
            "///evil.example:8443/b",
            "/\\evil.example:8443/b",
            "\\\\evil.example:8443/b",
            "/\t/evil.example:8443/b",
            "https:/\\evil.example:8443/b",
            "https://gitlab.example.com.:8443/b",
            "https://gitlab.example.com%2eevil.example:8443/b",
            "https://gitlab.example.com:8443@evil.example:8443/b",
            "https://evil.example:8443#@gitlab.example.com:8443/b",
            "https://evil.example:8443\\@gitlab.example.com:8443/b",
            "https://127.0.0.1:8443/",
            "https://0x7f.1:8443/",
            "https://[::1]:8443/",
            "https://169.254.169.254:8443/latest/meta-data/",
            // Somebody's name.
            "https://ada@gitlab.example.com:8443/b",
            "https://:secret@gitlab.example.com:8443/b",
            // Nowhere, or round in a circle.
            "https://",
            "https://[",
            "/api/v4/projects/a",
        ] {
            assert_eq!(followed(location), None, "{location}");
        }
    }

    struct Unheard;

    impl Reporter for Unheard {
        fn event(&self, _event: &Event) {}
    }

    fn client_for(base: &url::Url, max_body_bytes: usize) -> SourceClient {
        let egress = Arc::new(Policy::users_word(base));
        let connect = Duration::from_secs(5);
        SourceClient {
            http: http_client::build(base, None, connect, &egress).unwrap(),
            egress,
            name: "gitlab".into(),
            base: base.clone(),
            token: Some(Secret::new("glpat-0123456789")),
            authentication: vec![Authentication::Bearer],
            authentication_in_use: SchemeInUse::default(),
            timeouts: Timeouts::default(),
            max_body_bytes,
            large_bodies: Arc::new(Semaphore::new(LARGE_BODIES)),
            budget: Budget::default(),
            patience: Arc::new(Patience::new(Some(Duration::ZERO))),
            counters: Arc::default(),
            reporter: Arc::new(Unheard),
            redactor: Redactor::default(),
            stop: CancellationToken::new(),
        }
    }

    fn get(path: &str) -> SourceRequest {
        SourceRequest {
            method: Method::Get,
            path: path.into(),
            query: vec![],
            headers: vec![],
            body: None,
            expect_json: false,
            report_timeout: false,
            delay: Duration::ZERO,
        }
    }

    /// Answers every request with this head, and then goes on with zeros until nobody listens. Keeps the heads of the requests.
    async fn serve(head: String) -> (url::Url, Arc<std::sync::Mutex<Vec<String>>>) {
        serve_body(head, Vec::new()).await
    }

    /// The same, with the beginning of a body.
    async fn serve_body(
        head: String,
        body: Vec<u8>,
    ) -> (url::Url, Arc<std::sync::Mutex<Vec<String>>>) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let heard: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
        let requests = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                requests.lock().unwrap().push(request);
                let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
                while !head.contains("content-length") && stream.write_all(&[0; 4096]).await.is_ok()
                {
                }
            }
        });
        (url::Url::parse(&url).unwrap(), heard)
    }

    #[tokio::test]
    async fn an_answer_without_end_ends_at_the_limit() {
        let (base, _) = serve("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".into()).await;
        let error = client_for(&base, 100_000).execute(&get("/a")).await;
        assert_eq!(error.unwrap_err(), SourceError::TooLarge(100_000));
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        use std::io::Write as _;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// What one request gets from a server that answers with this and says that it is gzip.
    async fn said_to_be_gzip(body: Vec<u8>) -> Result<SourceResponse, SourceError> {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        let (base, heard) = serve_body(head, body).await;
        let answer = client_for(&base, 100_000).execute(&get("/a")).await;
        assert!(heard.lock().unwrap()[0].contains("accept-encoding: gzip"));
        answer
    }

    #[tokio::test]
    async fn a_compressed_answer_is_read_like_a_plain_one_and_ends_at_the_same_limit() {
        let text = "All work and no play. ".repeat(4_500).into_bytes();
        let answer = said_to_be_gzip(gzip(&text)).await.unwrap();
        assert!(answer.body == text);
        let bomb = gzip(&vec![b' '; 64 << 20]);
        assert!(bomb.len() < 100_000, "a bomb is small");
        let error = said_to_be_gzip(bomb).await.unwrap_err();
        assert_eq!(error, SourceError::TooLarge(100_000));
    }

    #[tokio::test]
    async fn a_compressed_answer_that_is_cut_short_or_is_none_is_never_taken_for_whole() {
        let whole = gzip(&"All work and no play. ".repeat(1_000).into_bytes());
        for kept in [1, 12, whole.len() / 2, whole.len() - 8, whole.len() - 1] {
            let answer = said_to_be_gzip(whole[..kept].to_vec()).await;
            assert!(
                answer.is_err(),
                "{kept} bytes of {} were taken",
                whole.len()
            );
        }
        let mut wrong = whole;
        let check = wrong.len() - 6;
        wrong[check] ^= 1;
        assert!(said_to_be_gzip(wrong).await.is_err());
        assert!(said_to_be_gzip(b"[{\"id\":1}]".to_vec()).await.is_err());
    }

    #[tokio::test]
    async fn the_token_follows_no_redirect_to_another_place() {
        let nothing = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let (elsewhere, heard_elsewhere) = serve(nothing.into()).await;
        let head = format!(
            "HTTP/1.1 302 Found\r\nlocation: {elsewhere}b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        let (base, heard) = serve(head).await;
        let answer = client_for(&base, 100).execute(&get("/a")).await.unwrap();
        assert_eq!(answer.status, 302);
        assert!(heard.lock().unwrap()[0].contains("glpat-0123456789"));
        assert!(heard_elsewhere.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_post_that_may_have_arrived_is_not_sent_again_and_everything_else_is() {
        let answer = |status: &str| {
            format!(
                "HTTP/1.1 {status}\r\ncontent-length: 0\r\nretry-after: 0\r\nconnection: close\r\n\r\n"
            )
        };
        for (method, status, is_repeated) in [
            (Method::Post, "503 Service Unavailable", false),
            (Method::Post, "429 Too Many Requests", true),
            (Method::Put, "503 Service Unavailable", true),
            (Method::Delete, "503 Service Unavailable", true),
        ] {
            let (base, heard) = serve(answer(status)).await;
            let mut client = client_for(&base, 100);
            client.patience = Arc::new(Patience::new(Some(Duration::from_secs(60))));
            let stop = client.stop.clone();
            let counters = Arc::clone(&client.counters);
            let request = SourceRequest {
                method,
                ..get("/a")
            };
            tokio::spawn(async move {
                // Stops when it was repeated, or has had the time for it.
                for _ in 0..100 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    if counters.update(|totals| totals.retries) > 0 {
                        break;
                    }
                }
                stop.cancel();
            });
            let error = client.execute(&request).await.unwrap_err();
            let was_repeated = error == SourceError::Interrupted;
            assert_eq!(was_repeated, is_repeated, "{method:?} {status}: {error:?}");
            assert!(!heard.lock().unwrap().is_empty());
        }
    }

    #[tokio::test]
    async fn a_client_whose_base_address_is_out_of_reach_asks_for_nothing() {
        let (base, heard) = serve(String::new()).await;
        let mut client = client_for(&base, 100);
        client.egress = Arc::new(Policy::public_and(vec![]));
        let error = client.execute(&get("/a")).await.unwrap_err();
        let SourceError::Unavailable(reason) = error else {
            panic!("{error:?}")
        };
        assert!(
            reason.contains("127.0.0.1 is a loopback address"),
            "{reason}"
        );
        assert!(heard.lock().unwrap().is_empty());
    }
}
