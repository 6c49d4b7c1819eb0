//! The log of requests: how many of which kind, how heavy, how many at once.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::Route;

/// Most requests that are kept one by one; the counters go on.
const KEPT: usize = 100_000;

/// One request, in order of completion.
#[derive(Debug, Clone, Serialize)]
pub struct RequestRecord {
    /// When it was answered, on the wall's clock.
    pub wall_time: DateTime<Utc>,
    /// Which route.
    pub route: Route,
    /// Path and query as received.
    pub target: String,
    /// Status of the reply, also when the reply never left because the connection was cut.
    pub status: u16,
    /// Bytes of the request body.
    pub bytes_in: usize,
    /// Bytes of the reply body.
    pub bytes_out: usize,
    /// Items that it wrote or replayed.
    pub items: usize,
    /// Time in the server, in milliseconds.
    pub millis: u64,
    /// Whether a scripted fault spoiled it.
    pub faulted: bool,
    /// `User-Agent` header.
    pub user_agent: Option<String>,
    /// `X-Cortex-Actor` header.
    pub actor: Option<String>,
}

/// Counters of one route.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RouteStats {
    /// Requests answered.
    pub requests: u64,
    /// By status.
    pub statuses: BTreeMap<u16, u64>,
    /// Bytes of request bodies.
    pub bytes_in: u64,
    /// Bytes of reply bodies.
    pub bytes_out: u64,
    /// Items written or replayed.
    pub items: u64,
    /// Most requests on this route at once.
    pub max_in_flight: usize,
    #[serde(skip)]
    in_flight: usize,
}

/// Counters of a server.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Stats {
    /// Requests answered.
    pub requests: u64,
    /// Bytes of request bodies.
    pub bytes_in: u64,
    /// Bytes of reply bodies.
    pub bytes_out: u64,
    /// Requests being answered right now.
    pub in_flight: usize,
    /// Most requests at once.
    pub max_in_flight: usize,
    /// Connections accepted.
    pub connections: u64,
    /// Scripted faults that struck.
    pub faults_fired: u64,
    /// Events stored, whatever became of them.
    pub events: usize,
    /// Events stored and not forgotten.
    pub live_events: usize,
    /// By route.
    pub routes: BTreeMap<Route, RouteStats>,
}

#[derive(Default)]
pub(crate) struct Journal {
    pub(crate) stats: Stats,
    pub(crate) records: Vec<RequestRecord>,
}

impl Journal {
    pub(crate) fn begin(&mut self, route: Route) {
        self.stats.in_flight += 1;
        self.stats.max_in_flight = self.stats.max_in_flight.max(self.stats.in_flight);
        let route = self.stats.routes.entry(route).or_default();
        route.in_flight += 1;
        route.max_in_flight = route.max_in_flight.max(route.in_flight);
    }

    pub(crate) fn end(&mut self, route: Route) {
        self.stats.in_flight = self.stats.in_flight.saturating_sub(1);
        let route = self.stats.routes.entry(route).or_default();
        route.in_flight = route.in_flight.saturating_sub(1);
    }

    pub(crate) fn record(&mut self, record: RequestRecord) {
        let (bytes_in, bytes_out) = (record.bytes_in as u64, record.bytes_out as u64);
        self.stats.requests += 1;
        self.stats.bytes_in += bytes_in;
        self.stats.bytes_out += bytes_out;
        let route = self.stats.routes.entry(record.route).or_default();
        route.requests += 1;
        route.bytes_in += bytes_in;
        route.bytes_out += bytes_out;
        route.items += record.items as u64;
        *route.statuses.entry(record.status).or_default() += 1;
        if self.records.len() < KEPT {
            self.records.push(record);
        }
    }
}
