//! What was asked: every request with its answer's status, for tests that judge a client by its manners.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::clock::Micros;

/// Requests kept; older ones are dropped, their counters stay.
const KEPT: usize = 200_000;

/// One request.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Rising from 0.
    pub number: u64,
    /// Time since the server started.
    pub since_start: Duration,
    /// Simulated time of arrival.
    pub at: Micros,
    /// Method.
    pub method: String,
    /// Path, as sent.
    pub path: String,
    /// Query, as sent.
    pub query: String,
    /// Class of the endpoint, such as `projects/:id/issues`.
    pub class: String,
    /// Status sent; 0 while unanswered or if the connection was reset.
    pub status: u16,
    /// Whether a valid token came with it.
    pub authorised: bool,
    /// Requests being served when it arrived, itself included.
    pub in_flight: usize,
    /// Bytes of the answer's body.
    pub bytes: usize,
}

/// Counters of one endpoint class.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counter {
    /// Requests.
    pub requests: u64,
    /// By status.
    pub statuses: BTreeMap<u16, u64>,
    /// Bytes of bodies.
    pub bytes: usize,
}

/// The log.
#[derive(Debug, Default)]
pub(crate) struct Log {
    entries: std::collections::VecDeque<Entry>,
    next: u64,
    in_flight: usize,
    pub(crate) most_in_flight: usize,
    pub(crate) counters: BTreeMap<String, Counter>,
}

impl Log {
    pub(crate) fn arrive(&mut self, mut entry: Entry) -> u64 {
        self.in_flight += 1;
        self.most_in_flight = self.most_in_flight.max(self.in_flight);
        entry.number = self.next;
        entry.in_flight = self.in_flight;
        self.next += 1;
        let number = entry.number;
        self.entries.push_back(entry);
        if self.entries.len() > KEPT {
            self.entries.pop_front();
        }
        number
    }

    pub(crate) fn leave(&mut self, number: u64, status: u16, authorised: bool, bytes: usize) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let first = self.entries.front().map_or(0, |entry| entry.number);
        let index = number
            .checked_sub(first)
            .and_then(|index| usize::try_from(index).ok());
        let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) else {
            return;
        };
        entry.status = status;
        entry.authorised = authorised;
        entry.bytes = bytes;
        let counter = self
            .counters
            .entry(format!("{} {}", entry.method, entry.class))
            .or_default();
        counter.requests += 1;
        *counter.statuses.entry(status).or_default() += 1;
        counter.bytes += bytes;
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.entries.iter().cloned().collect()
    }

    pub(crate) fn total(&self) -> u64 {
        self.next
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.counters.clear();
        self.most_in_flight = self.in_flight;
    }
}
