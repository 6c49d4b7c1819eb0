//! HTTP around a [`Cortex`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use chrono::Utc;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::answer::Call;
use super::fault::{Ending, Plan};
use super::reply::{ApiError, Reply};
use super::wire::{Switch, Wire};
use super::{Cortex, Options, RequestRecord, Route, Stats, control};

/// Largest request body.
const MAX_BODY: usize = 32 * 1024 * 1024;
/// A body that is too large is still read up to here, so that the client hears of it instead of a broken pipe.
const MAX_READ: usize = 2 * MAX_BODY;

/// A running simulator. Dropping it stops it.
pub struct Server {
    address: SocketAddr,
    context: Arc<HttpContext>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

pub(crate) struct HttpContext {
    pub(crate) cortex: Arc<Cortex>,
    accepted: Arc<AtomicU64>,
    requests: AtomicU64,
}

impl HttpContext {
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            connections: self.accepted.load(Ordering::Relaxed),
            ..self.cortex.stats()
        }
    }
}

impl Server {
    /// Binds the address of the options and serves until stopped.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound.
    pub async fn start(options: Options) -> io::Result<Self> {
        let inner = TcpListener::bind(options.listen).await?;
        let address = inner.local_addr()?;
        let accepted = Arc::new(AtomicU64::new(0));
        let wire = Wire {
            inner,
            accepted: Arc::clone(&accepted),
        };
        let cortex = Arc::new(Cortex::new(options));
        let context = Arc::new(HttpContext {
            cortex,
            accepted,
            requests: AtomicU64::new(0),
        });
        let app = Router::new()
            .fallback(handle)
            .with_state(Arc::clone(&context));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let served = axum::serve(wire, app.into_make_service_with_connect_info::<Switch>())
                .with_graceful_shutdown(async move {
                    let _ = stopped.await;
                })
                .await;
            debug_assert!(
                served.is_ok(),
                "the listener retries, so serving never fails"
            );
        });
        Ok(Self {
            address,
            context,
            stop: Some(stop),
            task,
        })
    }

    /// `http://127.0.0.1:PORT`, without a trailing slash.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The shared state: events, faults, clock, violations.
    pub fn cortex(&self) -> &Arc<Cortex> {
        &self.context.cortex
    }

    /// Counters, connections included.
    pub fn stats(&self) -> Stats {
        self.context.stats()
    }

    /// Stops accepting, finishes what is being answered, for at most two seconds.
    pub async fn shutdown(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let _ = tokio::time::timeout(Duration::from_secs(2), &mut self.task).await;
        self.task.abort();
    }

    /// Serves until the process ends.
    pub async fn run(mut self) {
        let _ = (&mut self.task).await;
    }
}

/// Counts a request in and, however it ends, out.
struct InFlight<'a>(&'a Cortex, Route);

impl<'a> InFlight<'a> {
    fn begin(cortex: &'a Cortex, route: Route) -> Self {
        cortex.journal().begin(route);
        Self(cortex, route)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.journal().end(self.1);
    }
}

async fn handle(
    State(context): State<Arc<HttpContext>>,
    ConnectInfo(switch): ConnectInfo<Switch>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let body = to_bytes(body, MAX_READ).await;
    if path.starts_with("/_sim/") {
        let query = head.uri.query().unwrap_or_default();
        return into_response(control::answer(
            &context,
            &head.method,
            path,
            query,
            &body.unwrap_or_default(),
        ));
    }
    let started = Instant::now();
    let cortex = &context.cortex;
    let route = Route::of(&head.method, path);
    let in_flight = InFlight::begin(cortex, route);
    let plan = cortex.plan(route);
    tokio::time::sleep(cortex.options().latency + plan.delay).await;
    let incoming = Incoming {
        route,
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        request_id: format!(
            "req_{:08}",
            context.requests.fetch_add(1, Ordering::Relaxed)
        ),
        body: body.ok(),
    };
    let bytes_in = incoming.body.as_ref().map_or(0, Bytes::len);
    let user_agent = text(&incoming.headers, "user-agent").map(str::to_owned);
    let actor = text(&incoming.headers, "x-cortex-actor").map(str::to_owned);
    let faulted = plan.fault.is_some();
    let ending = plan
        .fault
        .as_ref()
        .map_or(Ending::Whole, super::Fault::ending);
    let (reply, items) = respond(cortex, incoming, plan).await;
    let status = reply.status;
    let response = into_response(reply);
    let bytes_out = length(&response);
    match ending {
        Ending::Whole => {}
        Ending::Cut => switch.cut(),
        Ending::Truncated => switch.truncate(bytes_out / 2),
    }
    drop(in_flight);
    cortex.journal().record(RequestRecord {
        wall_time: Utc::now(),
        route,
        target: head.uri.to_string(),
        status,
        bytes_in,
        bytes_out,
        items,
        millis: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        faulted,
        user_agent,
        actor,
    });
    response
}

/// A request with its body read; no body means that it was too large.
struct Incoming {
    route: Route,
    query: String,
    headers: HeaderMap,
    request_id: String,
    body: Option<Bytes>,
}

/// Works through the plan: the fault before, the work, the fault after. Work runs off the event loop, because a bulk
/// request of a thousand envelopes takes longer than other connections should wait.
async fn respond(cortex: &Arc<Cortex>, incoming: Incoming, plan: Plan) -> (Reply, usize) {
    let cortex = Arc::clone(cortex);
    let work = tokio::task::spawn_blocking(move || {
        let options = cortex.options();
        let lowercase = options.lowercase_codes;
        let refuse = |error: ApiError| (error.into_reply(&incoming.request_id, lowercase), 0);
        match plan.fault.as_ref().and_then(super::Fault::before) {
            Some(Ok(reply)) => return (reply, 0),
            Some(Err(error)) => return refuse(error),
            None => {}
        }
        let Some(body) = incoming.body.as_ref().filter(|body| body.len() <= MAX_BODY) else {
            return refuse(ApiError::new(
                413,
                "PAYLOAD_TOO_LARGE",
                "the body exceeds 32 MiB",
            ));
        };
        let mut call = Call::new(incoming.route, options, &incoming.query, body);
        call.bearer = text(&incoming.headers, "authorization").and_then(bearer);
        call.actor = text(&incoming.headers, "x-cortex-actor");
        call.content_type = text(&incoming.headers, "content-type");
        call.request_id = &incoming.request_id;
        if incoming.headers.contains_key(header::CONTENT_ENCODING) {
            return refuse(ApiError::new(
                415,
                "UNSUPPORTED_MEDIA_TYPE",
                "send the body unencoded",
            ));
        }
        let reply = cortex.answer(&call);
        let items = call.item_count(&reply);
        let spoiled = match &plan.fault {
            None => Ok(reply),
            Some(fault) => fault.after(reply),
        };
        let reply =
            spoiled.unwrap_or_else(|error| error.into_reply(&incoming.request_id, lowercase));
        (reply, items)
    });
    work.await.unwrap_or_else(|_| (Reply::html(500), 0))
}

fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn length(response: &Response) -> usize {
    let length = response.headers().get(header::CONTENT_LENGTH);
    length
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn into_response(reply: Reply) -> Response {
    let mut builder = Response::builder()
        .status(StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    builder = builder.header(header::CONTENT_TYPE, reply.mime());
    for (name, value) in &reply.headers {
        builder = builder.header(*name, value);
    }
    let bytes = reply.into_bytes();
    builder = builder.header(header::CONTENT_LENGTH, bytes.len());
    builder.body(Body::from(bytes)).unwrap_or_default()
}
