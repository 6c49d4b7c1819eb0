//! HTTP to the servers of a run: TLS roots, a private CA, proxies, timeouts, what may be dialled; decided once.
//!
//! The parts are those that every HTTP client in Rust is put together from (hyper and its pool of connections, rustls); they are put
//! together here because a ready client decides for us what each connection keeps. With hyper's own choice a connection that once
//! brought a large answer keeps a buffer of up to 400 KiB for as long as it stands, and a run has more than thirty connections.
//!
//! * `connector`: how a connection is made.
//! * `gzip`: answers that are compressed.

mod connector;
mod gzip;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, PROXY_AUTHORIZATION,
};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::egress::resolver::{CheckedResolver, Lookup, SystemLookup};
use crate::egress::{Policy, Refusal};
use connector::Connector;
use gzip::Gunzip;

/// What is read from a connection at a time, and the largest head of an answer. Whole pages come no faster in larger pieces.
const READ_BYTES: usize = 16 << 10;
/// Who asks.
pub const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("connector-runtime/", env!("CARGO_PKG_VERSION")));
/// Further tries of a request that the server says it has not looked at.
const MOST_REFUSED: u32 = 2;
/// Connections that may wait for the next request.
const MOST_IDLE: usize = 64;
/// How long they do.
const IDLE: Duration = Duration::from_secs(90);

/// Builds a client for one server. Redirects are never followed by the client itself: whoever calls decides.
///
/// Names are resolved to what `policy` allows, and that is what is dialled. An address in place of a name never comes to the resolver:
/// the one in `base` is judged here, and whoever goes to another URL (a redirect) judges it with [`Policy::check_url`].
///
/// `ca_file` adds the certificates of a private CA to the system's. Where a machine has no system roots, plain HTTP still works and
/// HTTPS says what is missing.
pub fn build(
    base: &url::Url,
    ca_file: Option<&Path>,
    connect: Duration,
    policy: &Arc<Policy>,
) -> Result<HttpClient, String> {
    build_with(base, ca_file, connect, policy, Arc::new(SystemLookup))
}

/// The same with another way to look names up.
pub(crate) fn build_with(
    base: &url::Url,
    ca_file: Option<&Path>,
    connect: Duration,
    policy: &Arc<Policy>,
    lookup: Arc<dyn Lookup>,
) -> Result<HttpClient, String> {
    // A proxy stands between this machine and others, never between it and itself; and it looks names up where no policy of ours is
    // asked.
    let proxies = if is_loopback(base) || !policy.allows_proxies() {
        Matcher::builder().build()
    } else {
        Matcher::from_system()
    };
    build_behind(&proxies, base, ca_file, connect, policy, lookup)
}

fn build_behind(
    proxies: &Matcher,
    base: &url::Url,
    ca_file: Option<&Path>,
    connect: Duration,
    policy: &Arc<Policy>,
    lookup: Arc<dyn Lookup>,
) -> Result<HttpClient, String> {
    policy
        .check_url(base)
        .map_err(|refusal| refusal.to_string())?;
    let resolver = CheckedResolver::new(Arc::clone(policy), lookup);
    let target = uri(base.as_str()).map_err(|error| error.to_string())?;
    let proxy = proxies.intercept(&target);
    let certificates = ca_file.map(connector::read_certificates).transpose()?;
    let connector = Connector::new(
        resolver,
        target.scheme_str() == Some("https"),
        proxy.as_ref(),
        certificates.unwrap_or_default(),
        connect,
    )?;
    // Towards the server itself nobody may see it; only where the proxy reads each request it goes with each.
    let proxy_authorization = proxy
        .filter(|_| connector.is_forwarded())
        .and_then(|proxy| proxy.basic_auth().cloned())
        .map(|mut value| {
            value.set_sensitive(true);
            value
        });
    let client = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(MOST_IDLE)
        .pool_idle_timeout(IDLE)
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .http1_read_buf_exact_size(READ_BYTES)
        .build(connector);
    Ok(HttpClient(Arc::new(Shared {
        client,
        proxy_authorization,
    })))
}

fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Why there is no answer, or not the whole of it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExchangeError {
    /// The request cannot be put down: its URL or a header has what no request may have.
    #[error("no request can be made: {0}")]
    Malformed(String),
    /// What may not be dialled.
    #[error(transparent)]
    Refused(Refusal),
    /// The head of the answer is longer than any that we read.
    #[error("the head of the answer is over {READ_BYTES} bytes")]
    HeadTooLarge,
    /// There is no connection, or the server says that it has not looked at the request: it may be sent again, whatever it is.
    #[error("no connection: {reason}")]
    NoConnection {
        /// The innermost cause.
        reason: String,
        /// Nobody answered in time.
        timed_out: bool,
    },
    /// The connection broke, or what came is no HTTP. What the server has seen is not known.
    #[error("the exchange broke off: {0}")]
    Broken(String),
}

impl ExchangeError {
    fn of(error: &(dyn Error + 'static), is_connect: bool) -> Self {
        if let Some(refusal) = chain(error).find_map(|error| error.downcast_ref::<Refusal>()) {
            return Self::Refused(refusal.clone());
        }
        let is_too_large = |error: &(dyn Error + 'static)| {
            let error = error.downcast_ref::<hyper::Error>();
            error.is_some_and(hyper::Error::is_parse_too_large)
        };
        if chain(error).any(is_too_large) {
            return Self::HeadTooLarge;
        }
        // The innermost says more than "client error".
        let innermost = chain(error).last().unwrap_or(error);
        if is_connect {
            let is_timeout = |error: &(dyn Error + 'static)| {
                let error = error.downcast_ref::<std::io::Error>();
                error.is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
            };
            return Self::NoConnection {
                reason: innermost.to_string(),
                timed_out: chain(error).any(is_timeout),
            };
        }
        Self::Broken(innermost.to_string())
    }

    /// Whether the server has certainly not acted on the request.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        !matches!(self, Self::Broken(_) | Self::HeadTooLarge)
    }

    /// Whether another try would come to the same.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Malformed(_) | Self::Refused(_) | Self::HeadTooLarge
        )
    }
}

/// An error and its causes.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// Whether a server of HTTP/2 has let the request lie: it is closing the connection in good order, as many do after a thousand requests, or
/// takes no more at a time.
fn is_let_lie(error: &(dyn Error + 'static)) -> bool {
    let of_http_2 = chain(error).find_map(|error| error.downcast_ref::<h2::Error>());
    of_http_2.is_some_and(|error| {
        let reason = error.reason();
        error.is_remote()
            && ((error.is_go_away() && reason == Some(h2::Reason::NO_ERROR))
                || (error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM)))
    })
}

/// A server with the connections that stand to it. Clones share them.
#[derive(Clone)]
pub struct HttpClient(Arc<Shared>);

struct Shared {
    client: Client<Connector, Full<Bytes>>,
    /// For a proxy that reads each request.
    proxy_authorization: Option<HeaderValue>,
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("HttpClient").finish_non_exhaustive()
    }
}

impl HttpClient {
    /// Sends a request with an absolute URL and waits for the head of the answer. It is sent again only where the server says that it has
    /// not looked at it. There is no limit of time but that for the connection.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Answer, ExchangeError> {
        let mut request = request.map(Full::new);
        let headers = request.headers_mut();
        headers
            .entry(ACCEPT)
            .or_insert(HeaderValue::from_static("*/*"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        if let Some(value) = &self.0.proxy_authorization {
            headers.insert(PROXY_AUTHORIZATION, value.clone());
        }
        let mut refused = 0;
        let response = loop {
            let error = match self.0.client.request(request.clone()).await {
                Ok(response) => break response,
                Err(error) => error,
            };
            let is_let_lie = is_let_lie(&error);
            if !is_let_lie || refused == MOST_REFUSED {
                return Err(ExchangeError::of(&error, error.is_connect() || is_let_lie));
            }
            refused += 1;
        };
        let (head, body) = response.into_parts();
        let mut answer = Answer {
            status: head.status,
            headers: head.headers,
            body,
            gunzip: None,
        };
        let is_gzip = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"gzip");
        if answer.headers.get(CONTENT_ENCODING).is_some_and(is_gzip) {
            // They speak of what came, and what is handed on is another.
            answer.headers.remove(CONTENT_ENCODING);
            answer.headers.remove(CONTENT_LENGTH);
            answer.gunzip = Some(Box::default());
        }
        Ok(answer)
    }
}

/// The value of a header that shows a secret. `whose` names it where it cannot be one: `the API key`.
pub(crate) fn secret_value(whose: &str, text: &str) -> Result<HeaderValue, ExchangeError> {
    let mut value = HeaderValue::from_bytes(text.as_bytes()).map_err(|_| {
        ExchangeError::Malformed(format!("{whose} has characters that no header may have"))
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The absolute URL of a request.
pub fn uri(url: &str) -> Result<Uri, ExchangeError> {
    let uri = Uri::try_from(url);
    let uri = uri.map_err(|error| ExchangeError::Malformed(error.to_string()))?;
    // It would be sent as it stands, or to a proxy.
    if uri
        .authority()
        .is_some_and(|one| one.as_str().contains('@'))
    {
        let words = "a user's name in a URL is sent nowhere";
        return Err(ExchangeError::Malformed(words.into()));
    }
    Ok(uri)
}

/// The head of an answer, and the body as it comes.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    gunzip: Option<Box<Gunzip>>,
}

impl Answer {
    /// Bytes of the body, where that is known before.
    #[must_use]
    pub fn content_length(&self) -> Option<u64> {
        match self.gunzip {
            Some(_) => None,
            None => self.body.size_hint().exact(),
        }
    }

    /// The next piece of the body, decompressed; `None` at its end. A body that ends too early is an error.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ExchangeError> {
        let Some(gunzip) = &mut self.gunzip else {
            return received(&mut self.body).await;
        };
        let broken = |error: std::io::Error| ExchangeError::Broken(error.to_string());
        loop {
            if let Some(text) = gunzip.next().map_err(broken)? {
                return Ok(Some(text));
            }
            match received(&mut self.body).await? {
                Some(packed) => gunzip.feed(packed),
                None => return gunzip.finish().map_err(broken),
            }
        }
    }
}

/// The next piece of a body as it was sent.
async fn received(body: &mut Incoming) -> Result<Option<Bytes>, ExchangeError> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ExchangeError::of(&error, false))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}
