//! The writer: from a component's pages to acknowledged events, cursors behind them.
//!
//! A component hands over pages and cursors in one order; this module keeps it. Pages wait in a queue of bounded size (that is the
//! back-pressure), a task takes them in groups, compares each record with the ledger, sends what is new (a comment when the event id of the
//! one before it is known), and only then moves the cursors that were set behind them. Whatever goes wrong, a
//! cursor is never durable ahead of a record that is not: the worst that a crash costs is reading a page again.
//!
//! * [`engine`]: the task.
//! * [`schedule`]: the order of writing.
//! * [`sending`]: one batch on its way.
//! * [`steps`]: when a cursor may be saved.
//! * [`forgetting`]: what was replaced.
//! * [`letters`]: dead letters that wait for an older version.
//! * [`resend`]: dead letters, sent again on demand.
//! * `open_cursors`: the cursors as the component sees them.
//! * `room`: room in the queue.

mod engine;
mod forgetting;
mod letters;
mod open_cursors;
pub mod resend;
mod room;
mod schedule;
mod sending;
mod steps;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::census::Census;
use crate::cortexdb::client::{Client, CortexError};
use crate::cortexdb::envelope::{RawRecord, Record};
use crate::cursors::{CursorError, CursorHome};
use crate::ledger::{DeadLetter, Entry, HeldRecord, Lease, Recorded, Status, Store, StoreError};
use crate::mappers::{MappedPage, MapperError, Outcome, Session};
use crate::recorded;
use crate::redact::Redactor;
use crate::report::{Counters, Event, Reporter};
use crate::sandbox::limits::{LimitReached, Limits};
use crate::scope::{ScopeError, ScopeTemplate};
use open_cursors::OpenCursors;
use room::Room;

/// How long what is too little for a request waits for more, while the component goes on reading and nobody looks for what it has read. A distant
/// GitLab gives its pages little by little, and each of them would be a few requests to CortexDB. From 125 records a second on, two
/// seconds make a whole one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// What a record costs beside its text: strings, labels, the envelope around it.
const RECORD_OVERHEAD_BYTES: usize = 1536;
/// Records that [`Writer::unlisted`] answers at a time, and that it reads from the ledger at a time.
const UNLISTED_PAGE: usize = 1000;
const HELD_PAGE: u32 = 5000;

/// What a record with this text takes of the room in the queue.
fn cost(text: &str) -> usize {
    text.len() + RECORD_OVERHEAD_BYTES
}

/// Why the writer stopped. Everything not yet acknowledged is held behind its cursor.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// CortexDB.
    #[error(transparent)]
    Cortex(#[from] CortexError),
    /// The ledger.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state file.
    #[error(transparent)]
    Cursors(#[from] CursorError),
    /// The scope template has no value for this origin.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// A mapper.
    #[error(transparent)]
    Mapper(#[from] MapperError),
    /// More than the component may make the host keep.
    #[error(transparent)]
    Limit(#[from] LimitReached),
    /// A defect of the writer, said rather than hidden.
    #[error(
        "the writer has work and nothing to wait for. This is a defect of the runtime; the cursors are held, run again"
    )]
    Stuck,
    /// The file of `--out`.
    #[error("cannot write {path}: {source}")]
    Out {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// How replaced versions are forgotten, from best to least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgetting {
    /// The text is blanked.
    Redact,
    /// What was derived from it is forgotten, the text stays.
    DerivedOnly,
    /// The token may do neither: both versions stay.
    NotPermitted,
}

/// Where records go.
pub enum Target {
    /// Into CortexDB.
    CortexDb {
        /// Connected and identified.
        client: Client,
        /// What the token may do about old versions.
        forgetting: Forgetting,
    },
    /// Nowhere: a dry run, which only says what would happen.
    Nowhere,
}

/// What a writer needs for one run.
pub struct WriterSettings {
    /// Where records go.
    pub target: Target,
    /// The ledger.
    pub store: Arc<dyn Store>,
    /// The right to write to it; in a dry run only its connection is used.
    pub lease: Lease,
    /// The cursors, already read.
    pub cursors: CursorHome,
    /// Names the source in keys: its canonical URL.
    pub source_instance: String,
    /// Name of the connector, for the label `source:<system>`.
    pub system: String,
    /// Where in CortexDB.
    pub template: ScopeTemplate,
    /// Values of `{source}`, `{actor}`, `{scope}`.
    pub host_variables: BTreeMap<String, String>,
    /// The token may name others as the actor.
    pub with_actor: bool,
    /// A copy of every envelope, one JSON object a line.
    pub out: Option<PathBuf>,
    /// Totals of the run.
    pub counters: Arc<Counters>,
    /// Progress of the run.
    pub reporter: Arc<dyn Reporter>,
    /// Removes secrets from what is kept.
    pub redactor: Redactor,
    /// Bytes that records may take which are kept as they were before they were mapped; `None`: none is kept.
    pub recorded_bytes: Option<u64>,
    /// Other mappers made what is held: the component is to hand over also what it would pass over as known.
    pub wants_everything_again: bool,
    /// What the component may make the host keep.
    pub limits: Limits,
    /// How long what is too little for a request to CortexDB may wait for more while the component goes on. It does not wait once the component
    /// has ended, has filled half of the queue, or asks for what it has written to be settled.
    pub patience: Duration,
}

/// A page of one origin, checked.
pub(crate) struct Page {
    pub(crate) stream: String,
    pub(crate) origin: Origin,
    pub(crate) records: Vec<Record>,
    pub(crate) dead: Vec<DeadLetter>,
    /// The records before they were mapped, to be kept.
    pub(crate) recorded: Vec<Recorded>,
    /// Where none of its records is kept in this run, so that what an earlier one kept of them is not the latest version any more: the
    /// ids of those that were refused.
    pub(crate) outdated: Option<Vec<String>>,
    /// What mappers made of each record.
    pub(crate) outcomes: Vec<Outcome>,
    /// Given back when the page is settled.
    pub(crate) room: OwnedSemaphorePermit,
}

impl Page {
    /// The part of its room that records take which are to be kept, while more of it is left.
    fn recorded_kib(&self) -> usize {
        let bytes: usize = self.recorded.iter().map(|one| one.body.len()).sum();
        (bytes >> 10).min(self.room.num_permits().saturating_sub(1))
    }
}

/// Where records come from, with the values for the scope template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Stable id, `project/42`.
    pub id: String,
    /// `project_path`, ...
    pub variables: BTreeMap<String, String>,
}

pub(crate) enum Work {
    Page(Page),
    Retract {
        stream: String,
        source_ids: Vec<String>,
        reason: String,
        /// Given back when it is seen to.
        room: OwnedSemaphorePermit,
    },
    Cursor {
        key: String,
        value: Option<String>,
        /// Given back when it is saved.
        room: OwnedSemaphorePermit,
    },
    Flush(oneshot::Sender<()>),
    /// Ends the run, after everything before it.
    Fail(WriterError),
}

/// The face of the writer towards the host imports. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    queue: mpsc::UnboundedSender<Work>,
    room: Room,
    store: Arc<dyn Store>,
    connection: i64,
    counters: Arc<Counters>,
    redactor: Redactor,
    mapping: Option<Arc<tokio::sync::Mutex<Session>>>,
    keeps_records: bool,
    wants_everything_again: bool,
    /// What `state.get` sees: the durable cursors and those on their way.
    cursors: Arc<Mutex<OpenCursors>>,
    failure: Arc<OnceLock<String>>,
    stopped: CancellationToken,
}

/// The running writer; ends when every [`Writer`] is gone and the queue is empty.
pub struct WriterTask {
    task: tokio::task::JoinHandle<Result<CursorHome, WriterError>>,
}

impl WriterTask {
    /// Waits for the end and returns the cursors, or why the writer stopped.
    pub async fn join(self) -> Result<CursorHome, WriterError> {
        match self.task.await {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

impl Writer {
    /// Starts the writer's task. It cancels `stopped` when it fails, so that the component is told. `mapping` are the mappers; also
    /// where there is none any more and what earlier ones made has to go.
    pub fn start(
        settings: WriterSettings,
        mapping: Option<Session>,
        stopped: CancellationToken,
    ) -> (Self, WriterTask) {
        let (queue, work) = mpsc::unbounded_channel();
        let failure = Arc::new(OnceLock::new());
        let room = Room::new();
        let writer = Self {
            queue,
            room: room.clone(),
            store: Arc::clone(&settings.store),
            connection: settings.lease.connection,
            counters: Arc::clone(&settings.counters),
            redactor: settings.redactor.clone(),
            mapping: mapping.map(|session| Arc::new(tokio::sync::Mutex::new(session))),
            keeps_records: settings.recorded_bytes.is_some(),
            wants_everything_again: settings.wants_everything_again,
            cursors: Arc::new(Mutex::new(OpenCursors::new(settings.cursors.all()))),
            failure: Arc::clone(&failure),
            stopped: stopped.clone(),
        };
        let task = tokio::spawn(async move {
            let result = engine::Engine::new(settings, room).run(work).await;
            if let Err(error) = &result {
                let _ = failure.set(error.to_string());
                stopped.cancel();
            }
            result
        });
        (writer, WriterTask { task })
    }

    /// Takes a page; waits while the queue is full. The error is the reason why the writer stopped.
    pub async fn write(
        &self,
        stream: String,
        origin: Origin,
        batch: Vec<RawRecord>,
    ) -> Result<(), String> {
        let mut recorded = Vec::new();
        if self.keeps_records {
            let kept = batch.iter();
            recorded.extend(kept.filter_map(|record| recorded::keep(record, &stream, &origin.id)));
        }
        self.hand_over(stream, origin, batch, recorded, !self.keeps_records)
            .await
    }

    /// The same for records that are kept already: they are mapped again.
    pub async fn write_again(
        &self,
        stream: String,
        origin: Origin,
        batch: Vec<RawRecord>,
    ) -> Result<(), String> {
        self.hand_over(stream, origin, batch, Vec::new(), false)
            .await
    }

    async fn hand_over(
        &self,
        stream: String,
        origin: Origin,
        batch: Vec<RawRecord>,
        recorded: Vec<Recorded>,
        outdates_recorded: bool,
    ) -> Result<(), String> {
        let mapped = self.map(batch).await?;
        let kept: usize = recorded.iter().map(|one| one.body.len()).sum();
        let bytes: usize = mapped
            .records
            .iter()
            .chain(mapped.dead.iter().map(|(record, _)| record))
            .map(|record| cost(&record.content))
            .sum();
        let room = self.room_for(bytes + kept).await?;
        let mut records = Vec::with_capacity(mapped.records.len());
        let mut dead = Vec::new();
        let mut outdated = outdates_recorded.then(Vec::new);
        let mut refuse = |source_id: &str, reason: &str, words: &str| {
            if let Some(outdated) = &mut outdated {
                outdated.push(source_id.to_owned());
            }
            dead.push(DeadLetter {
                source_id: letters::id_to_keep(source_id),
                stream: stream.clone(),
                reason: self.redactor.apply(reason).into_owned(),
                payload: self.redactor.apply(words).into_owned(),
            });
        };
        for (record, reason) in mapped.dead {
            refuse(&record.source_id, &reason, &record.content);
        }
        for raw in mapped.records {
            match raw.judge() {
                Ok(()) => records.push(Record::of(raw)),
                Err(reason) => refuse(&raw.source_id, &reason, &raw.content),
            }
        }
        self.send(Work::Page(Page {
            stream,
            origin,
            records,
            dead,
            recorded,
            outdated,
            outcomes: mapped.outcomes,
            room,
        }))
    }

    /// What the mappers make of a page. Where one of them ends the run, what was handed over before is finished first.
    async fn map(&self, batch: Vec<RawRecord>) -> Result<MappedPage, String> {
        let Some(session) = &self.mapping else {
            return Ok(MappedPage {
                records: batch,
                ..MappedPage::default()
            });
        };
        let mapped = session.lock().await.apply(batch).await;
        mapped.map_err(|error| {
            let words = error.to_string();
            let _ = self.send(Work::Fail(error.into()));
            words
        })
    }

    /// Waits until the queue has room for this many bytes. Whatever waits in the queue holds its room: not only pages, because a
    /// component that sets a cursor in a loop would fill the memory just as well.
    async fn room_for(&self, bytes: usize) -> Result<OwnedSemaphorePermit, String> {
        tokio::select! {
            biased;
            () = self.stopped.cancelled() => Err(self.why()),
            room = self.room.take(bytes) => room.map_err(|_| self.why()),
        }
    }

    /// Counts records that a policy leaves out.
    pub fn skip(&self, policy: &str, count: u64) {
        let policy: String = printable(policy).chars().take(64).collect();
        self.counters
            .update(|totals| *totals.skipped.entry(policy).or_default() += count);
    }

    /// Forgets records, after everything that was written before.
    pub async fn retract(
        &self,
        stream: String,
        source_ids: Vec<String>,
        reason: String,
    ) -> Result<(), String> {
        let bytes = source_ids.iter().map(String::len).sum();
        let room = self.room_for(bytes).await?;
        self.send(Work::Retract {
            stream,
            source_ids,
            reason,
            room,
        })
    }

    /// Moves a cursor, behind everything that was written before. Where the writer has stopped, nothing moves any more.
    pub async fn set_cursor(&self, key: String, value: Option<String>) {
        let bytes = key.len() + value.as_ref().map_or(0, String::len);
        self.cursors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .set(&key, value.as_deref());
        if let Ok(room) = self.room_for(bytes).await {
            let _ = self.send(Work::Cursor { key, value, room });
        }
    }

    /// How many cursors there would be with this one set, and how many bytes their keys and values would have.
    #[must_use]
    pub fn cursors_with(&self, key: &str, value: Option<&str>) -> (u64, u64) {
        let cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        cursors.with(key, value)
    }

    /// The value last set in this or an earlier run.
    #[must_use]
    pub fn cursor(&self, key: &str) -> Option<String> {
        self.cursors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
    }

    /// All cursors whose key starts with `prefix`.
    #[must_use]
    pub fn cursors(&self, prefix: &str) -> Vec<(String, String)> {
        self.cursors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .starting_with(prefix)
    }

    /// Which of these records are written and not retracted. What the ledger cannot tell counts as unknown.
    pub async fn known(&self, source_ids: &[String]) -> Vec<bool> {
        if self.wants_everything_again {
            return vec![false; source_ids.len()];
        }
        self.those(source_ids, |entry| {
            entry.status == Status::LeftOut
                || (entry.status != Status::Retracted && entry.event_id.is_some())
        })
        .await
    }

    /// Which of these records may be in CortexDB: those that are known, and those that were begun and have no receipt. What the
    /// ledger cannot tell counts as not held.
    pub async fn held(&self, source_ids: &[String]) -> Vec<bool> {
        self.those(source_ids, Entry::may_be_stored).await
    }

    async fn those(&self, source_ids: &[String], is_one: impl Fn(&Entry) -> bool) -> Vec<bool> {
        let wanted: Vec<&str> = source_ids.iter().map(String::as_str).collect();
        let entries = self
            .store
            .entries(self.connection, &wanted)
            .await
            .unwrap_or_default();
        source_ids
            .iter()
            .map(|id| entries.get(id).is_some_and(&is_one))
            .collect()
    }

    /// The next records, by source id after `after`, that are held and not listed. Everything handed over before is settled first, so
    /// that what was just written or retracted is seen.
    pub async fn unlisted(
        &self,
        census: &Census,
        stream: &str,
        event_type: &str,
        mut after: String,
    ) -> Result<Vec<HeldRecord>, String> {
        self.flush().await?;
        let mut found = Vec::new();
        loop {
            let page = self
                .store
                .held(self.connection, stream, event_type, &after, HELD_PAGE)
                .await
                .map_err(|error| error.to_string())?;
            let Some(last) = page.last() else {
                return Ok(found);
            };
            after.clone_from(&last.source_id);
            found.extend(census.unlisted(stream, event_type, page, |record| &record.source_id));
            if found.len() >= UNLISTED_PAGE {
                found.truncate(UNLISTED_PAGE);
                return Ok(found);
            }
        }
    }

    /// Waits until everything handed over so far has its fate and its cursors are saved.
    pub async fn flush(&self) -> Result<(), String> {
        let (done, wait) = oneshot::channel();
        self.send(Work::Flush(done))?;
        wait.await.map_err(|_| self.why())
    }

    fn send(&self, work: Work) -> Result<(), String> {
        self.queue.send(work).map_err(|_| self.why())
    }

    fn why(&self) -> String {
        self.failure
            .get()
            .cloned()
            .unwrap_or_else(|| "the run is being stopped".to_owned())
    }
}

/// Ids and names from a component end in terminals and files: control characters are escaped, length is bounded.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .take(512)
        .collect::<String>()
        .escape_debug()
        .to_string()
}

pub(crate) fn report_dead_letter(
    reporter: &dyn Reporter,
    counters: &Counters,
    letter: &DeadLetter,
) {
    counters.update(|totals| totals.dead_lettered += 1);
    reporter.event(&Event::DeadLetter {
        source_id: letter.source_id.clone(),
        reason: letter.reason.clone(),
    });
}
