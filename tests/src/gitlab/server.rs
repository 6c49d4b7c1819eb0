//! The running server: connections, faults, limits, log, and the control API beside `/api/v4`.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::compress;
use super::control;
use super::faults::{Faults, Rule, matches};
use super::log::{Counter, Entry, Log};
use super::reply::Reply;
use super::routes::{self, Inquiry};
use super::throttle::{EndpointLimit, RateLimitHeaders, Throttle};
use super::webhooks::{self, Errand, Storm, WebhookFaults};
use super::wire::{self, Request};
use super::world::{World, digest40};

/// How long a test may wait for the world: nobody works on it for that long.
const LOCKED: Duration = Duration::from_secs(60);

/// How to serve a world.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 picks one.
    pub listen: SocketAddr,
    /// Relative root such as `/gitlab`; nothing by default.
    pub root: String,
    /// Origin in `Link` and `Location` headers, such as `http://gitlab.internal.invalid`. By default the server's own.
    pub link_origin: Option<String>,
    /// Compress answers for clients that take it, as GitLab's nginx does.
    pub gzip: bool,
    /// Added to every answer.
    pub latency: Duration,
    /// Requests of one token in one window; nothing is no limit and no headers, whatever `rate_limit_headers` says.
    pub rate_limit: Option<u64>,
    /// Length of that window. GitLab: one minute.
    pub rate_window: Duration,
    /// Which answers tell of it.
    pub rate_limit_headers: RateLimitHeaders,
    /// Limits on single endpoints.
    pub endpoint_limits: Vec<EndpointLimit>,
    /// Seed of the faults' probabilities.
    pub seed: u64,
    /// Faults from the start.
    pub faults: Vec<Rule>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            root: String::new(),
            link_origin: None,
            gzip: false,
            latency: Duration::ZERO,
            rate_limit: None,
            rate_window: Duration::from_secs(60),
            rate_limit_headers: RateLimitHeaders::Always,
            endpoint_limits: Vec::new(),
            seed: 0,
            faults: Vec::new(),
        }
    }
}

type Mutate = Box<dyn FnMut(&mut World) + Send>;

struct Hook {
    pattern: String,
    nth: u64,
    repeat: bool,
    seen: u64,
    action: Mutate,
}

/// Everything that the connections share.
pub(crate) struct Shared {
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) faults: Mutex<Faults>,
    pub(crate) log: Mutex<Log>,
    options: Options,
    origin: String,
    throttle: Mutex<Throttle>,
    hooks: Mutex<Vec<Hook>>,
    started: Instant,
}

/// A lock that outlives a panic in another test thread.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn run_hooks(&self, target: &str) {
        let mut due = Vec::new();
        {
            let mut hooks = lock(&self.hooks);
            let mut index = 0;
            while index < hooks.len() {
                let hook = &mut hooks[index];
                if !matches(&hook.pattern, target) {
                    index += 1;
                    continue;
                }
                hook.seen += 1;
                if hook.repeat && hook.seen.is_multiple_of(hook.nth.max(1)) {
                    (hook.action)(&mut lock(&self.world));
                } else if !hook.repeat && hook.seen == hook.nth.max(1) {
                    due.push(hooks.remove(index));
                    continue;
                }
                index += 1;
            }
        }
        for mut hook in due {
            (hook.action)(&mut lock(&self.world));
        }
    }

    /// The true answer, whether a valid token came with the request, and the delivery that has to be made before it is answered.
    fn answer(&self, request: &Request) -> (Reply, bool, Option<Errand>) {
        let inquiry = Inquiry {
            method: &request.method,
            path: &request.path,
            query: &request.query,
            body: &request.body,
            is_json: request
                .header("content-type")
                .is_some_and(|kind| kind.starts_with("application/json")),
            private_token: request.header("private-token"),
            authorization: request.header("authorization"),
            root: &self.options.root,
            link_origin: self.options.link_origin.as_deref().unwrap_or(&self.origin),
        };
        let who = routes::presented(&inquiry).map_or("anonymous", |(token, _)| token);
        let now = lock(&self.world).now();
        let class = routes::classify(&request.path, &self.options.root);
        let (limits, refusal) = lock(&self.throttle).admit(who, &class, now);
        let (mut reply, authorised, errand) = match refusal {
            Some(reply) => (reply, false, None),
            None => {
                let mut world = lock(&self.world);
                let (reply, authorised) = routes::answer(&mut world, &inquiry);
                (reply, authorised, world.webhooks.errand.take())
            }
        };
        reply.headers.extend(limits);
        (reply, authorised, errand)
    }

    fn common_headers(&self, reply: &mut Reply, number: u64) {
        let now = lock(&self.world).now();
        let id = digest40(&format!("request {number}"));
        let mut add = |name: &str, value: String| reply.headers.push((name.to_owned(), value));
        add("server", "nginx".to_owned());
        add("date", now.http_date());
        add(
            "cache-control",
            "max-age=0, private, must-revalidate".to_owned(),
        );
        add("vary", "Origin".to_owned());
        add("x-content-type-options", "nosniff".to_owned());
        add("x-frame-options", "SAMEORIGIN".to_owned());
        add(
            "x-gitlab-meta",
            format!("{{\"correlation_id\":\"{}\",\"version\":\"1\"}}", &id[..32]),
        );
        add("x-request-id", id[..32].to_owned());
        add("x-runtime", "0.042000".to_owned());
        if reply.status == 200 {
            add("etag", format!("W/\"{number:032x}\""));
        }
    }
}

/// A running simulator. Dropping it closes every connection.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts to serve a world.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn start(mut world: World, options: Options) -> io::Result<Self> {
        world.webhooks.belong_to_nobody();
        Self::start_shared(Arc::new(Mutex::new(world)), options).await
    }

    /// Starts to serve a world that others hold, too.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn start_shared(world: Arc<Mutex<World>>, options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            world,
            faults: Mutex::new(Faults::new(options.seed, options.faults.clone())),
            log: Mutex::default(),
            origin: format!("http://{address}"),
            throttle: Mutex::new(Throttle::new(
                options.rate_limit,
                options.rate_window,
                options.rate_limit_headers,
                options.endpoint_limits.clone(),
            )),
            hooks: Mutex::default(),
            started: Instant::now(),
            options,
        });
        let connections = accept(listener, Arc::clone(&shared));
        let deliveries = webhooks::deliver::run(Arc::clone(&shared.world));
        let task = tokio::spawn(async {
            tokio::join!(connections, deliveries);
        });
        Ok(Self {
            address,
            shared,
            task,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The instance's address as a user would configure it: origin and relative root, without `/api/v4`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}{}", self.address, self.shared.options.root)
    }

    /// The world, locked. Do not hold it across an `await`.
    ///
    /// # Panics
    /// If it stays locked for a minute, as it does where the caller has it already: waiting for ever would stop the whole suite.
    #[track_caller]
    pub fn world(&self) -> MutexGuard<'_, World> {
        let asked = Instant::now();
        loop {
            match self.shared.world.try_lock() {
                Ok(world) => return world,
                Err(TryLockError::Poisoned(world)) => return world.into_inner(),
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_micros(100)),
            }
            assert!(
                asked.elapsed() < LOCKED,
                "the simulated GitLab's world is locked for a minute: does who asks for it here have it already?"
            );
        }
    }

    /// The world, to share.
    #[must_use]
    pub fn shared_world(&self) -> Arc<Mutex<World>> {
        Arc::clone(&self.shared.world)
    }

    /// Sets what goes wrong with webhooks; the default heals them.
    pub fn set_webhook_faults(&self, faults: WebhookFaults) {
        self.world().set_webhook_faults(faults);
    }

    /// Waits until every event so far is delivered or lost; `false` if that takes longer than `patience`.
    pub async fn webhooks_settled(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        loop {
            if self.world().webhooks.is_idle() {
                return true;
            }
            if Instant::now() > end {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Announces `per_second` random events for as long as told. They are about records that did not change.
    #[must_use]
    pub fn storm(&self, per_second: u32, lasting: Duration, seed: u64) -> Storm {
        Storm::start(self.shared_world(), per_second, lasting, seed)
    }

    /// Moves the server's clock.
    pub fn advance_clock(&self, seconds: i64) {
        self.world().clock.advance_seconds(seconds);
    }

    /// Adds a fault.
    pub fn add_fault(&self, rule: Rule) {
        lock(&self.shared.faults).add(rule);
    }

    /// Replaces all faults; an empty list heals the server.
    pub fn set_faults(&self, rules: Vec<Rule>) {
        lock(&self.shared.faults).set(rules);
    }

    /// How often faults have struck.
    #[must_use]
    pub fn faults_struck(&self) -> u64 {
        lock(&self.shared.faults).struck()
    }

    /// Changes the world once, just before the nth request (from 1) whose path and query match is answered.
    pub fn on_request(
        &self,
        pattern: &str,
        nth: u64,
        action: impl FnMut(&mut World) + Send + 'static,
    ) {
        self.hook(pattern, nth, false, action);
    }

    /// Changes the world before every nth matching request.
    pub fn on_every_request(
        &self,
        pattern: &str,
        nth: u64,
        action: impl FnMut(&mut World) + Send + 'static,
    ) {
        self.hook(pattern, nth, true, action);
    }

    /// Takes back what [`Self::on_request`] and [`Self::on_every_request`] asked for.
    pub fn clear_hooks(&self) {
        lock(&self.shared.hooks).clear();
    }

    fn hook(
        &self,
        pattern: &str,
        nth: u64,
        repeat: bool,
        action: impl FnMut(&mut World) + Send + 'static,
    ) {
        let hook = Hook {
            pattern: pattern.to_owned(),
            nth,
            repeat,
            seen: 0,
            action: Box::new(action),
        };
        lock(&self.shared.hooks).push(hook);
    }

    /// Every request of the API so far, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Entry> {
        lock(&self.shared.log).entries()
    }

    /// The requests whose path and query match a pattern, as rules have them.
    #[must_use]
    pub fn requests_to(&self, pattern: &str) -> Vec<Entry> {
        let about = |entry: &Entry| matches(pattern, &format!("{}?{}", entry.path, entry.query));
        self.requests().into_iter().filter(about).collect()
    }

    /// Counters by `METHOD class`.
    #[must_use]
    pub fn counters(&self) -> std::collections::BTreeMap<String, Counter> {
        lock(&self.shared.log).counters.clone()
    }

    /// The most requests that were served at once.
    #[must_use]
    pub fn most_in_flight(&self) -> usize {
        lock(&self.shared.log).most_in_flight
    }

    /// Forgets the log and the counters.
    pub fn clear_log(&self) {
        lock(&self.shared.log).clear();
    }

    /// Stops, and waits until the listener and every connection is closed.
    pub async fn shutdown(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve(stream, Arc::clone(&shared)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Keeps the log right when a connection is dropped in the middle of a request.
struct Visit<'s> {
    shared: &'s Shared,
    number: u64,
    status: u16,
    authorised: bool,
    bytes: usize,
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        lock(&self.shared.log).leave(self.number, self.status, self.authorised, self.bytes);
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let request = match wire::read(&mut reader).await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => {
                let reply = Reply::message(400, &format!("400 Bad request - {error}"));
                let _ = wire::write(&mut writer, &reply, false, true, Default::default()).await;
                return;
            }
        };
        let (head_only, close) = (request.method == "HEAD", !request.keeps_alive());
        if request.path.starts_with("/_sim/") {
            let reply = control::answer(&shared, &request);
            match wire::write(&mut writer, &reply, head_only, close, Default::default()).await {
                Ok(true) => continue,
                _ => return,
            }
        }
        let target = if request.query.is_empty() {
            request.path.clone()
        } else {
            format!("{}?{}", request.path, request.query)
        };
        let mut visit = Visit {
            shared: &shared,
            number: arrive(&shared, &request),
            status: 0,
            authorised: false,
            bytes: 0,
        };
        let mut plan = lock(&shared.faults).plan(&request.method, &target);
        shared.run_hooks(&target);
        let wait = plan.delivery.wait + shared.options.latency;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        if plan.delivery.reset {
            drop(visit);
            if let Ok(stream) = reader.into_inner().reunite(writer) {
                let _ = stream.set_zero_linger();
            }
            return;
        }
        let (mut reply, authorised, errand) = match &plan.reply {
            Some(reply) => (reply.clone(), false, None),
            None => shared.answer(&request),
        };
        if let Some(errand) = errand {
            reply = webhooks::deliver::run_errand(&shared.world, errand).await;
        }
        plan.spoil(&mut reply);
        if shared.options.gzip {
            compress::apply(&request, &mut reply, &mut plan.delivery);
        }
        shared.common_headers(&mut reply, visit.number);
        (visit.status, visit.authorised, visit.bytes) =
            (reply.status, authorised, reply.body.len());
        let sent = wire::write(&mut writer, &reply, head_only, close, plan.delivery).await;
        drop(visit);
        if !sent.unwrap_or(false) {
            return;
        }
    }
}

fn arrive(shared: &Shared, request: &Request) -> u64 {
    let entry = Entry {
        number: 0,
        since_start: shared.started.elapsed(),
        at: lock(&shared.world).now(),
        method: request.method.clone(),
        path: request.path.clone(),
        query: request.query.clone(),
        class: routes::classify(&request.path, &shared.options.root),
        status: 0,
        authorised: false,
        in_flight: 0,
        bytes: 0,
    };
    lock(&shared.log).arrive(entry)
}
