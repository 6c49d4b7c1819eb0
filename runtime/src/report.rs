//! What a run tells the world while it goes on, and the receipt at its end.
//!
//! The engine reports through one trait and knows neither a terminal nor HTML: the command line renders a live line, plain lines
//! or JSON, the dashboard will render a page. Every event is data first, so that `--json` is complete by construction.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use connector_store::platform::Usage;
use serde::{Deserialize, Serialize};

use crate::host::hooks::HookPlan;
use crate::sandbox::limits::Uses;
use crate::sandbox::trap::TrapReport;

/// Takes the events of a run. Implementations must be quick: they are called from the run itself.
pub trait Reporter: Send + Sync {
    /// One thing that happened.
    fn event(&self, event: &Event);
}

/// Severity of a line that a component or the host logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the five levels every logging library has")]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// What a stream is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "reason")]
pub enum StreamState {
    /// Being read.
    Reading,
    /// Read to its end in this run.
    Complete,
    /// Not offered by the source, with the source's words.
    Off(String),
    /// Ended early, cursor held, with the reason.
    Failed(String),
}

/// One thing that happened in a run. Serialised as one JSON object a line by `--json`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// The run began.
    Started {
        /// Name and version of the connector.
        connector: String,
        /// Base URL of the source.
        source: String,
        /// Base URL of CortexDB; empty in a dry run without one.
        cortexdb: String,
        /// Nothing will be written.
        dry_run: bool,
    },
    /// A line from the component or the host.
    Log {
        /// How serious.
        level: Level,
        /// The text, secrets removed.
        message: String,
        /// For machines.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        fields: BTreeMap<String, String>,
    },
    /// Records read of one stream so far.
    Progress {
        /// `42/merge_requests`.
        stream: String,
        /// Read in this run.
        done: u64,
        /// How many there are, where the source says so.
        #[serde(skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
    },
    /// A stream changed what it is doing.
    Stream {
        /// `42/merge_requests`.
        stream: String,
        /// What it does now.
        #[serde(flatten)]
        state: StreamState,
    },
    /// A server asked for patience, or failed and will be asked again.
    Waiting {
        /// `gitlab` or `cortexdb`.
        server: String,
        /// Why.
        reason: String,
        /// For how long, in seconds.
        seconds: f64,
    },
    /// CortexDB acknowledged records, or the ledger found them unchanged. Totals of the run so far.
    Written {
        /// Experiences acknowledged.
        written: u64,
        /// Records found unchanged.
        unchanged: u64,
    },
    /// A record was refused for good and kept.
    DeadLetter {
        /// Which record.
        source_id: String,
        /// Why, in the server's or the host's words.
        reason: String,
    },
    /// What a dry run would have written.
    WouldWrite {
        /// Which record.
        source_id: String,
        /// `new` or `changed`.
        change: &'static str,
        /// Where it would go.
        scope: String,
        /// First line of the text.
        title: String,
    },
    /// Calls of the source are taken.
    Listening {
        /// The address that is listened on.
        address: String,
        /// Where calls of this connection go.
        path: String,
        /// How the source reaches it, where that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        url: Option<String>,
    },
    /// The hooks of the source were looked after, and are not as they were.
    Hooks(Box<HookPlan>),
    /// The run ended.
    Receipt(Box<Receipt>),
}

/// How a run ended. The exit code follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything that the source listed is stored, unchanged or counted.
    Complete,
    /// Complete, but some records were refused for good.
    CompleteWithDeadLetters,
    /// Something could not be read or written; the cursors concerned are held.
    Failed,
    /// The configuration cannot work; nothing was written.
    Misconfigured,
    /// Stopped by the user; the batch in flight was finished and cursors saved.
    Interrupted,
}

impl Outcome {
    /// The documented exit code: 0 complete, 1 failed, 2 configuration, 3 dead letters, 130 interrupted.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::Failed => 1,
            Self::Misconfigured => 2,
            Self::CompleteWithDeadLetters => 3,
            Self::Interrupted => 130,
        }
    }
}

/// What a run was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// To read what is new.
    #[default]
    Sync,
    /// To follow deliveries.
    Deliveries,
    /// To look after the hooks of the source.
    Hooks,
}

/// What became of the deliveries of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Delivered {
    /// What they point at was read.
    pub handled: u64,
    /// Nothing that is wanted.
    pub ignored: u64,
    /// Left to the next sync.
    pub polled: u64,
}

/// The totals of one run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Receipt {
    /// What it was for.
    #[serde(default)]
    pub kind: Kind,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it failed, where it did; what to do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Nothing was written: the numbers say what would have been.
    #[serde(default)]
    pub dry_run: bool,
    /// Experiences that CortexDB acknowledged in this run.
    pub written: u64,
    /// The same, by event type.
    pub written_by_type: BTreeMap<String, u64>,
    /// Records whose stored version is current.
    pub unchanged: u64,
    /// Old versions forgotten because a new one was written.
    pub superseded: u64,
    /// Old versions that should be forgotten and are not yet (no permission, or an outage).
    pub superseded_pending: u64,
    /// Records forgotten because they are gone or became confidential.
    pub retracted: u64,
    /// Whether the run compared everything and forgot what is gone: absent when it was not asked to, false when it could not do so to the
    /// end.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reconciled: Option<bool>,
    /// What became of the deliveries; absent where there were none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub deliveries: Option<Delivered>,
    /// Records left out, by policy.
    pub skipped: BTreeMap<String, u64>,
    /// Records refused for good.
    pub dead_lettered: u64,
    /// Streams that the source does not offer, with its words.
    pub streams_off: BTreeMap<String, String>,
    /// Streams that ended early, with the reason.
    pub streams_failed: BTreeMap<String, String>,
    /// Requests to the source, repeats included.
    pub source_requests: u64,
    /// Requests repeated because of a passing failure, on both sides.
    pub retries: u64,
    /// Requests to CortexDB, repeats included.
    pub cortexdb_requests: u64,
    /// What the source says is left of its rate limit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub quota_left: Option<u64>,
    /// Wall time, in milliseconds.
    pub duration_ms: u64,
    /// Where the component was stopped: what happened, and where it was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trap: Option<TrapReport>,
    /// What each mapper did, in the order in which they map.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub mappers: Vec<MapperUse>,
    /// What the component used, and was allowed, by limit. Empty where it did not run.
    #[serde(skip_serializing_if = "Uses::is_empty", default)]
    pub limits: Uses,
}

/// The counters of a run, shared by everything that counts.
#[derive(Debug)]
pub struct Counters {
    started: Instant,
    inner: Mutex<Totals>,
}

/// The numbers behind [`Counters`].
#[derive(Debug, Default, Clone)]
#[allow(missing_docs, reason = "the fields are those of `Receipt`")]
pub struct Totals {
    pub kind: Kind,
    pub deliveries: Option<Delivered>,
    pub written_by_type: BTreeMap<String, u64>,
    pub unchanged: u64,
    pub superseded: u64,
    pub superseded_pending: u64,
    pub retracted: u64,
    pub reconciled: Option<bool>,
    pub skipped: BTreeMap<String, u64>,
    pub dead_lettered: u64,
    pub streams_off: BTreeMap<String, String>,
    pub streams_failed: BTreeMap<String, String>,
    pub source_requests: u64,
    pub retries: u64,
    pub cortexdb_requests: u64,
    pub quota_left: Option<u64>,
    pub trap: Option<TrapReport>,
    pub mappers: Vec<MapperUse>,
    pub limits: Uses,
}

/// What a mapper did in a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapperUse {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its file.
    pub digest: String,
    /// Experiences that it was given.
    pub given: u64,
    /// Experiences that it made of them.
    pub made: u64,
    /// Those of which it made none.
    pub dropped: u64,
    /// Those that it refused, was stopped at, or of which it made something that it may not.
    pub refused: u64,
    /// Time that it computed, in milliseconds.
    pub cpu_ms: u64,
    /// The most linear memory that one of its instances had.
    pub memory_bytes: u64,
}

impl MapperUse {
    /// Adds the counts of a page. Time and memory are totals already.
    pub fn add(&mut self, page: &Self) {
        self.given += page.given;
        self.made += page.made;
        self.dropped += page.dropped;
        self.refused += page.refused;
        self.cpu_ms = page.cpu_ms;
        self.memory_bytes = page.memory_bytes;
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            inner: Mutex::default(),
        }
    }
}

impl Counters {
    /// Changes the totals. The lock is never held across an await.
    pub fn update<T>(&self, change: impl FnOnce(&mut Totals) -> T) -> T {
        let mut totals = self
            .inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut totals)
    }

    /// Time since the run began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The receipt for this outcome.
    #[must_use]
    pub fn receipt(&self, outcome: Outcome, reason: Option<String>, dry_run: bool) -> Receipt {
        let totals = self.update(|totals| totals.clone());
        Receipt {
            kind: totals.kind,
            deliveries: totals.deliveries,
            outcome,
            reason,
            dry_run,
            written: totals.written_by_type.values().sum(),
            written_by_type: totals.written_by_type,
            unchanged: totals.unchanged,
            superseded: totals.superseded,
            superseded_pending: totals.superseded_pending,
            retracted: totals.retracted,
            reconciled: totals.reconciled,
            skipped: totals.skipped,
            dead_lettered: totals.dead_lettered,
            streams_off: totals.streams_off,
            streams_failed: totals.streams_failed,
            source_requests: totals.source_requests,
            retries: totals.retries,
            cortexdb_requests: totals.cortexdb_requests,
            quota_left: totals.quota_left,
            trap: totals.trap,
            mappers: totals.mappers,
            limits: totals.limits,
            duration_ms: u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// The numbers that a platform shows and sums. What the component used is known once it has ended.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let totals = self.update(|totals| totals.clone());
        let used = |name: &str| totals.limits.get(name).and_then(|line| line.used);
        let mappers = || totals.mappers.iter();
        Usage {
            runs: 1,
            cpu_ms: used("cpu").unwrap_or(0) + mappers().map(|mapper| mapper.cpu_ms).sum::<u64>(),
            peak_memory_bytes: used("memory").unwrap_or(0)
                + mappers().map(|mapper| mapper.memory_bytes).sum::<u64>(),
            requests: totals.source_requests,
            received_bytes: used("received_bytes").unwrap_or(0),
            written_bytes: used("written_bytes").unwrap_or(0),
            records: totals.written_by_type.values().sum(),
            deliveries: totals
                .deliveries
                .map_or(0, |done| done.handled + done.ignored + done.polled),
        }
    }
}
