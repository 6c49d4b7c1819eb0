//! One server: its state, what it answers, and what tests may ask it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::fault::{Faults, ItemFault, Plan};
use super::identity::{self, Caller};
use super::journal::Journal;
use super::limit::Limiter;
use super::reply::{ApiError, Reply};
use super::store::Store;
use super::{
    Clock, Credential, Event, FaultRule, Options, RequestRecord, Route, Stats, forget, invariants,
    listing, write,
};

/// The state of one simulated server, shared by its connections and its tests.
pub struct Cortex {
    options: Mutex<Arc<Options>>,
    credentials: Mutex<Vec<Credential>>,
    store: Mutex<Store>,
    faults: Mutex<Faults>,
    limiter: Mutex<Limiter>,
    journal: Mutex<Journal>,
    clock: Clock,
}

/// A request as the routes see it.
pub(crate) struct Call<'a> {
    pub(crate) route: Route,
    pub(crate) options: Arc<Options>,
    pub(crate) bearer: Option<&'a str>,
    pub(crate) actor: Option<&'a str>,
    pub(crate) content_type: Option<&'a str>,
    pub(crate) request_id: &'a str,
    pub(crate) body: &'a [u8],
    query: Vec<(String, String)>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(route: Route, options: Arc<Options>, query: &str, body: &'a [u8]) -> Self {
        Self {
            route,
            options,
            bearer: None,
            actor: None,
            content_type: None,
            request_id: "",
            body,
            query: parse_query(query),
        }
    }

    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Result<Value, ApiError> {
        serde_json::from_slice(self.body)
            .map_err(|error| ApiError::new(400, "MALFORMED_JSON", error.to_string()))
    }
}

pub(crate) fn parse_query(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| {
        percent_decode_str(&text.replace('+', " "))
            .decode_utf8_lossy()
            .into_owned()
    };
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

impl Cortex {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            credentials: Mutex::new(options.credentials.clone()),
            store: Mutex::new(Store::new(options.seed)),
            faults: Mutex::new(Faults::new(options.seed)),
            limiter: Mutex::default(),
            journal: Mutex::default(),
            clock: options.clock.clone(),
            options: Mutex::new(Arc::new(options)),
        }
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    pub(crate) fn journal(&self) -> MutexGuard<'_, Journal> {
        lock(&self.journal)
    }

    pub(crate) fn random_hex(&self, digits: usize) -> String {
        self.store().random_hex(digits)
    }

    pub(crate) fn plan(&self, route: Route) -> Plan {
        lock(&self.faults).plan(route)
    }

    pub(crate) fn item_fault(&self, route: Route, envelope: &Value) -> Option<ItemFault> {
        let mut faults = lock(&self.faults);
        if faults.watch_items() {
            faults.item(route, envelope)
        } else {
            None
        }
    }

    /// Answers a request as if nothing were wrong with the network.
    pub(crate) fn answer(&self, call: &Call<'_>) -> Reply {
        let mut headers = vec![("X-Cortex-Request-Id", call.request_id.to_owned())];
        let outcome = self
            .admit(call, &mut headers)
            .and_then(|caller| self.dispatch(call, caller.as_ref()));
        let mut reply = outcome.unwrap_or_else(|error| {
            error.into_reply(call.request_id, call.options.lowercase_codes)
        });
        reply.headers.extend(headers);
        reply
    }

    /// Authentication, rate limit, media type, capability: everything before the route itself.
    fn admit(
        &self,
        call: &Call<'_>,
        headers: &mut Vec<(&'static str, String)>,
    ) -> Result<Option<Caller>, ApiError> {
        if call.route == Route::Unknown {
            return Err(ApiError::new(404, "NOT_FOUND", "no such route"));
        }
        if !call.body.is_empty() && !is_json(call.content_type) {
            return Err(ApiError::new(
                415,
                "UNSUPPORTED_MEDIA_TYPE",
                "send application/json",
            ));
        }
        if call.route.is_open() {
            return Ok(None);
        }
        let caller = {
            let credentials = lock(&self.credentials);
            identity::authenticate(&credentials, &call.options, call.bearer, call.actor)?
        };
        let capability = call.route.capability().unwrap_or("none");
        headers.extend(caller.headers(capability, self.clock.now()));
        if let Some(limit) = call.options.rate_limit {
            let allowance = lock(&self.limiter).take(limit, &caller.actor, self.clock.now());
            headers.extend(allowance.headers);
            if let Some(refusal) = allowance.refusal {
                return Err(refusal);
            }
        }
        if let Some(capability) = call.route.capability() {
            caller.demand(capability)?;
        }
        Ok(Some(caller))
    }

    fn dispatch(&self, call: &Call<'_>, caller: Option<&Caller>) -> Result<Reply, ApiError> {
        let options = &call.options;
        let Some(caller) = caller else {
            return match call.route {
                Route::Signup => identity::signup(self, options),
                Route::Version => Ok(version(options)),
                Route::Health => Ok(Reply::json(
                    200,
                    json!({ "status": "healthy", "version": options.server_version }),
                )),
                _ => Ok(Reply::json(
                    200,
                    json!({ "ready": true, "degraded": false, "checks": {}, "embedder": "sim" }),
                )),
            };
        };
        match call.route {
            Route::Experience => write::experience(self, call, caller),
            Route::Bulk => write::bulk(self, call, caller),
            Route::Status => write::status(self, call, caller),
            Route::Forget => forget::forget(self, call, caller),
            Route::ForgetPreview => forget::preview(self, call, caller),
            Route::Whoami => Ok(identity::whoami(options, caller)),
            Route::Events => listing::events(self, call),
            Route::ScopesList => listing::scopes(self, call),
            Route::DerivationStatus => listing::derivation(self, call),
            _ => Err(ApiError::new(404, "NOT_FOUND", "no such route")),
        }
    }
}

/// What tests do with a server.
impl Cortex {
    /// The settings as they are now.
    pub fn options(&self) -> Arc<Options> {
        lock(&self.options).clone()
    }

    /// Changes settings while the server runs; credentials, clock, address and seed are fixed at the start.
    pub fn reconfigure(&self, change: impl FnOnce(&mut Options)) {
        let mut options = lock(&self.options);
        change(Arc::make_mut(&mut options));
    }

    /// The server's clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Admits one more bearer.
    pub fn add_credential(&self, credential: Credential) {
        lock(&self.credentials).push(credential);
    }

    /// Changes a bearer: revokes it, lets it expire, takes capabilities away. False if there is none with this key.
    pub fn change_credential(&self, key: &str, change: impl FnOnce(&mut Credential)) -> bool {
        let mut credentials = lock(&self.credentials);
        credentials
            .iter_mut()
            .find(|credential| credential.key == key)
            .map(change)
            .is_some()
    }

    /// Arms a fault.
    pub fn add_fault(&self, rule: FaultRule) {
        lock(&self.faults).add(rule);
    }

    /// Disarms every fault.
    pub fn clear_faults(&self) {
        lock(&self.faults).clear();
    }

    /// How often the armed faults have struck.
    pub fn faults_fired(&self) -> u64 {
        lock(&self.faults).fired()
    }

    /// Every accepted event in order of arrival.
    pub fn events(&self) -> Vec<Event> {
        self.store().events.clone()
    }

    /// The events that were not forgotten in any way, in order of arrival.
    pub fn live_events(&self) -> Vec<Event> {
        self.store()
            .events
            .iter()
            .filter(|event| event.is_live())
            .cloned()
            .collect()
    }

    /// The live events of one record.
    pub fn live_by_source_id(&self, source_id: &str) -> Vec<Event> {
        let store = self.store();
        let positions = store
            .by_source
            .get(source_id)
            .map_or(&[][..], Vec::as_slice);
        let events = positions.iter().map(|&seq| &store.events[seq]);
        events.filter(|event| event.is_live()).cloned().collect()
    }

    /// The events that were sent again under a key that was remembered, in order, each as often as it was.
    pub fn replayed_events(&self) -> Vec<Event> {
        let store = self.store();
        let replayed = store.replayed.iter();
        replayed.map(|&seq| store.events[seq].clone()).collect()
    }

    /// One event by its id.
    pub fn event(&self, event_id: &str) -> Option<Event> {
        let store = self.store();
        store
            .by_id
            .get(event_id)
            .map(|&seq| store.events[seq].clone())
    }

    /// What must never happen and did, one sentence each: two live versions of one record, a predecessor that was never
    /// given out, a key sent again with another body, a request to forget a whole scope.
    pub fn invariant_violations(&self) -> Vec<String> {
        invariants::violations(&self.store())
    }

    /// The last redacted event of every record of which nothing is live: deletions, if all went well.
    pub fn redacted_without_successor(&self) -> Vec<Event> {
        invariants::redacted_without_successor(&self.store())
    }

    /// Live events that follow something observed later, one sentence each. Not wrong in itself.
    pub fn chronology_remarks(&self) -> Vec<String> {
        invariants::chronology(&self.store())
    }

    /// Counters of requests, bytes, connections and events.
    pub fn stats(&self) -> Stats {
        let (events, live_events) = {
            let store = self.store();
            (
                store.events.len(),
                store.events.iter().filter(|event| event.is_live()).count(),
            )
        };
        let faults_fired = self.faults_fired();
        Stats {
            events,
            live_events,
            faults_fired,
            ..self.journal().stats.clone()
        }
    }

    /// The first hundred thousand requests, in order of completion.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.journal().records.clone()
    }
}

fn version(options: &Options) -> Reply {
    let mut body = json!({
        "version": options.server_version,
        "crate_version": options.server_version,
        "git_sha": "0000000",
        "built_at": "2026-09-01T00:00:00Z",
    });
    if let Some(capabilities) = &options.version_capabilities {
        body["capabilities"] = json!(capabilities);
    }
    Reply::json(200, body)
}

fn is_json(content_type: Option<&str>) -> bool {
    let mime = content_type
        .and_then(|value| value.split(';').next())
        .unwrap_or_default();
    mime.trim().eq_ignore_ascii_case("application/json")
}

/// A panic in one handler must not hide what the others did.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
