//! The writer's task: takes in what a component hands over, keeps the order, and sends.
//!
//! Work is taken in groups, so that one look into the ledger serves many records. What is new waits in the [`Schedule`] until it can be
//! sent, what was handed over is followed in the [`Steps`] until the cursors behind it may be saved. While one batch is on the wire
//! the next is prepared and the last is settled: otherwise CortexDB would wait for the ledger and the ledger for CortexDB. What follows a
//! record goes as soon as CortexDB has named it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::forgetting::{Forgotten, forget};
use super::letters::Letters;
use super::room::Room;
use super::schedule::{Predecessor, Schedule, Waiting};
use super::sending::{Answered, Context, Draft, Landed, Turn, Writing, push_envelopes, send};
use super::steps::{Cursor, Steps};
use super::{
    Forgetting, Origin, Page, Target, Work, WriterError, WriterSettings, cost, report_dead_letter,
};
use crate::cortexdb::batch::BatchBuilder;
use crate::cortexdb::bulk::{MAX_BYTES, MAX_ITEMS};
use crate::cortexdb::client::CortexError;
use crate::cortexdb::envelope::Record;
use crate::cursors::CursorHome;
use crate::ledger::{Entry, LeftOut, Obsolete, Recorded, Status};
use crate::lost_receipts::key_may_be_forgotten;
use crate::mappers::Outcome;
use crate::rebuild::{Memory, Ours, recall};
use crate::report::{Event, Level};
use crate::sandbox::limits::{Limit, LimitReached};

/// How long a small group waits for company. Long enough that pages arriving together share a request, short enough that nobody
/// notices: a webhook's record must be stored within two seconds.
const LINGER: Duration = Duration::from_millis(100);
/// Batches that CortexDB has not answered: one on the wire, one that is prepared meanwhile.
const UNANSWERED: usize = 2;
/// Batches under way, with those that are settled.
const BATCHES: usize = 3;
/// Records of one batch. CortexDB takes twice as many at a time, but then one side waits for the other longer than the requests saved are worth.
const MOST_OF_A_BATCH: usize = MAX_ITEMS / 2;
/// With a batch under way, the next one waits until it is worth a request.
const WORTH_A_REQUEST: usize = MOST_OF_A_BATCH / 2;
/// No more is taken in while this many records wait.
const MOST_WAITING: usize = 4 * MAX_ITEMS;
/// Comments in a row that mappers leave out before the thread is taken for broken.
const MOST_LEFT_OUT_IN_A_ROW: usize = 20;
/// Obsolete events read from the ledger at a time.
const FORGET_BATCH: u32 = 1000;
const MAY_NOT_FORGET: &str = "the token may not forget (`forget.cascade.redact_events` or `forget.cascade.derived_only`): old versions stay beside the new ones until a token that may runs this connection";

/// Work that was handed over and not looked at yet, in order.
#[derive(Default)]
struct Group {
    work: Vec<Work>,
    records: usize,
    bytes: usize,
    /// Nothing may be added: it is full, or ends with something that has to be seen to first.
    closed: bool,
    /// When it has waited long enough.
    until: Option<Instant>,
}

impl Group {
    fn add(&mut self, work: Work) {
        match &work {
            Work::Page(page) => {
                self.records += page.records.len();
                self.bytes += page
                    .records
                    .iter()
                    .map(|one| one.content.len())
                    .sum::<usize>();
                self.closed = self.records >= MOST_OF_A_BATCH || self.bytes >= MAX_BYTES;
            }
            Work::Cursor { .. } => {}
            Work::Retract { .. } | Work::Flush(_) | Work::Fail(_) => self.closed = true,
        }
        self.work.push(work);
        self.until.get_or_insert_with(|| Instant::now() + LINGER);
    }

    fn is_empty(&self) -> bool {
        self.work.is_empty()
    }

    fn is_due(&self) -> bool {
        self.closed || self.until.is_some_and(|until| until <= Instant::now())
    }
}

/// A record whose page has a number.
struct Incoming {
    page: u64,
    bytes: usize,
    stream: Arc<str>,
    scope: Arc<str>,
    record: Record,
    digest: Arc<str>,
}

/// What has to wait until everything before it is settled.
enum Barrier {
    Retract {
        stream: String,
        source_ids: Vec<String>,
        reason: String,
    },
    Flush(oneshot::Sender<()>),
    Fail(WriterError),
}

/// What mappers made of the records of one page, until what they do not make any more is seen to.
struct Made {
    page: u64,
    stream: String,
    outcomes: Vec<Outcome>,
}

type Flight = Result<Vec<Landed>, WriterError>;

pub(super) struct Engine {
    settings: WriterSettings,
    writing: Writing,
    origins: HashMap<String, BTreeMap<String, String>>,
    origin_bytes: u64,
    scopes: HashMap<String, Arc<str>>,
    /// Scopes whose events the ledger knows.
    known_scopes: HashSet<String>,
    said_that_a_scope_is_not_listed: bool,
    out: Option<BufWriter<File>>,
    /// Dry runs write nothing to the ledger, so that a record listed twice is recognised here.
    seen_in_dry_run: HashMap<Arc<str>, Arc<str>>,
    said_that_old_versions_stay: bool,
    /// Rows of events that could not be forgotten in this run.
    passed_over: HashSet<i64>,
    /// Scopes in which CortexDB permits less than the token says.
    forgetting_less: HashMap<String, Forgetting>,
    group: Group,
    /// The component may hand over more.
    open: bool,
    room: Room,
    /// Since when what is in the schedule is too little for a request.
    too_little_since: Option<Instant>,
    schedule: Schedule<Box<Draft>>,
    steps: Steps,
    /// Later versions of records of which one is on its way: a version is settled before the next begins.
    later: VecDeque<Incoming>,
    /// Pages after the mappers, of which records are on their way.
    made: VecDeque<Made>,
    letters: Letters,
    /// What the group in hand leaves out, with what came before it.
    left_now: HashMap<String, Vec<String>>,
    /// What recorded records take.
    recorded_bytes: Option<u64>,
    /// Whether earlier runs kept records and this one keeps none.
    drops_recorded: bool,
    said_that_records_are_dropped: bool,
    barrier: Option<Barrier>,
    flights: JoinSet<Flight>,
    unanswered: usize,
    answers: mpsc::UnboundedSender<Vec<Answered>>,
    answered: mpsc::UnboundedReceiver<Vec<Answered>>,
    /// Completes when the last batch that was begun has been answered.
    last_answer: Option<oneshot::Receiver<()>>,
}

impl Engine {
    pub(super) fn new(settings: WriterSettings, room: Room) -> Self {
        let writing = Writing::new(&settings);
        let (answers, answered) = mpsc::unbounded_channel();
        Self {
            settings,
            writing,
            origins: HashMap::new(),
            origin_bytes: 0,
            scopes: HashMap::new(),
            known_scopes: HashSet::new(),
            said_that_a_scope_is_not_listed: false,
            out: None,
            seen_in_dry_run: HashMap::new(),
            said_that_old_versions_stay: false,
            passed_over: HashSet::new(),
            forgetting_less: HashMap::new(),
            group: Group::default(),
            open: true,
            room,
            too_little_since: None,
            schedule: Schedule::new(),
            steps: Steps::default(),
            later: VecDeque::new(),
            made: VecDeque::new(),
            letters: Letters::default(),
            left_now: HashMap::new(),
            recorded_bytes: None,
            drops_recorded: false,
            said_that_records_are_dropped: false,
            barrier: None,
            flights: JoinSet::new(),
            unanswered: 0,
            answers,
            answered,
            last_answer: None,
        }
    }

    pub(super) async fn run(
        mut self,
        mut work: mpsc::UnboundedReceiver<Work>,
    ) -> Result<CursorHome, WriterError> {
        self.open_out()?;
        self.origins = self
            .settings
            .store
            .origins(self.settings.lease.connection)
            .await?;
        let sizes = self
            .origins
            .iter()
            .map(|(id, variables)| size_of_origin(id, variables));
        self.origin_bytes = sizes.sum();
        if !self.is_dry_run() {
            self.known_scopes = self
                .settings
                .store
                .known_scopes(self.settings.lease.connection)
                .await?;
            if self.known_scopes.is_empty() {
                self.recall_known_origins().await?;
            }
        }
        if self.settings.recorded_bytes.is_none() && !self.is_dry_run() {
            let (store, connection) = (&self.settings.store, self.settings.lease.connection);
            self.drops_recorded = !store.recorded(connection, 0, 1).await?.is_empty();
        }
        // What an earlier run left to be forgotten: an outage, or a crash between writing and forgetting.
        self.forget_obsolete().await?;
        let mut end = self.work_off(&mut work).await;
        if end.is_err() {
            // What is under way is not torn down in the middle: its receipts are worth having.
            while let Some(flight) = self.flights.join_next().await {
                match landed(flight) {
                    Ok(landed) => self.take_note(&landed)?,
                    // The one that failed may be noticed after the one that stopped because of it.
                    Err(cause) if end.as_ref().is_err_and(is_a_consequence) => end = Err(cause),
                    Err(_) => {}
                }
            }
            self.save_cursors().await?;
        }
        if let Some(out) = &mut self.out {
            out.flush()
                .map_err(|source| out_error(&self.settings, source))?;
        }
        end.map(|()| self.settings.cursors)
    }

    async fn work_off(
        &mut self,
        work: &mut mpsc::UnboundedReceiver<Work>,
    ) -> Result<(), WriterError> {
        loop {
            if self.may_take_in() && !self.group.is_empty() && self.is_due() {
                self.take_in().await?;
            }
            self.launch();
            if self.schedule.is_empty() && self.later.is_empty() && self.made.is_empty() {
                if let Some(barrier) = self.barrier.take() {
                    self.pass(barrier).await?;
                    continue;
                }
                if !self.open && self.group.is_empty() {
                    return Ok(());
                }
            }
            let until = self.next_look();
            tokio::select! {
                biased;
                Some(answered) = self.answered.recv(), if self.unanswered > 0 => self.release(&answered),
                Some(flight) = self.flights.join_next() => self.land(landed(flight)?).await?,
                next = work.recv(), if self.open && !self.group.closed => match next {
                    Some(next) => self.group.add(next),
                    None => self.open = false,
                },
                () = sleep_until(until), if until.is_some() => {}
                () = self.room.wanted(), if until.is_some() => {}
                else => return Err(WriterError::Stuck),
            }
        }
    }

    /// Whether the group has waited long enough. While CortexDB has nothing to do, what is worth a request does not wait for company.
    fn is_due(&self) -> bool {
        let worth_it = self.group.records + self.schedule.ready() >= WORTH_A_REQUEST;
        self.group.is_due() || !self.open || (self.unanswered == 0 && worth_it)
    }

    /// Whether what is too little for a request has waited long enough for more of it: nothing is under way, and nothing more can come
    /// before it goes, or nothing came for too long.
    fn is_sent_alone(&mut self) -> bool {
        if self.unanswered > 0 {
            return false;
        }
        if !self.may_take_in() {
            return true;
        }
        if !self.group.is_empty() {
            return false;
        }
        let since = *self.too_little_since.get_or_insert_with(Instant::now);
        !self.open || self.room.is_short() || since.elapsed() >= self.settings.patience
    }

    /// When something is due, whatever happens until then.
    fn next_look(&self) -> Option<Instant> {
        let group = self.group.until.filter(|_| self.may_take_in());
        let may_launch = self.unanswered == 0 && self.flights.len() < BATCHES;
        let alone = self
            .too_little_since
            .map(|since| since + self.settings.patience);
        let alone = alone.filter(|_| may_launch && self.group.is_empty());
        group.into_iter().chain(alone).min()
    }

    fn may_take_in(&self) -> bool {
        self.barrier.is_none() && self.schedule.len() < MOST_WAITING
    }

    /// Looks at a group: decides about its records, and what has to wait behind them.
    async fn take_in(&mut self) -> Result<(), WriterError> {
        let group = std::mem::take(&mut self.group);
        let mut incoming = Vec::with_capacity(group.records);
        let mut made = VecDeque::new();
        let mut last = None;
        for work in group.work {
            match work {
                Work::Page(mut page) => {
                    let scope = self.scope_of(&page.origin).await?;
                    // Dead letters have their fate once they are kept, and count as one until then.
                    // The same holds for what mappers left out.
                    let fates = page.records.len()
                        + usize::from(!page.dead.is_empty())
                        + usize::from(!page.outcomes.is_empty());
                    self.keep_recorded(&page.recorded).await?;
                    if let Some(refused) = page.outdated.as_ref().filter(|_| self.drops_recorded) {
                        let ids = ids_of(&page, refused);
                        let (store, lease) = (&self.settings.store, self.settings.lease);
                        store.drop_recorded(lease, &ids).await?;
                    }
                    // They are in the ledger, and nothing waits for them.
                    drop(page.room.split(page.recorded_kib()));
                    drop(std::mem::take(&mut page.recorded));
                    let number = self.steps.page(fates, page.room);
                    let stream: Arc<str> = page.stream.as_str().into();
                    if !page.outcomes.is_empty() {
                        made.push_back(Made {
                            page: number,
                            stream: page.stream.clone(),
                            outcomes: page.outcomes,
                        });
                    }
                    for letter in self.letters.outdated_by(&page.records) {
                        // Told, and not kept beside the newer version.
                        report_dead_letter(
                            self.settings.reporter.as_ref(),
                            &self.settings.counters,
                            &letter,
                        );
                    }
                    if !page.dead.is_empty() {
                        self.letters.add(number, page.dead);
                    }
                    for record in page.records {
                        let scope = match &record.mapped.scope_below {
                            Some(below) => {
                                let scope = format!("{scope}/{below}");
                                self.recall(&scope).await?;
                                scope.into()
                            }
                            None => Arc::clone(&scope),
                        };
                        incoming.push(Incoming {
                            page: number,
                            bytes: cost(&record.content),
                            stream: Arc::clone(&stream),
                            scope,
                            digest: record.digest().into(),
                            record,
                        });
                    }
                }
                Work::Cursor { key, value, room } => self.steps.cursor((key, value), room),
                Work::Retract {
                    stream,
                    source_ids,
                    reason,
                    room: _room,
                } => {
                    last = Some(Barrier::Retract {
                        stream,
                        source_ids,
                        reason,
                    });
                }
                Work::Flush(done) => last = Some(Barrier::Flush(done)),
                Work::Fail(error) => last = Some(Barrier::Fail(error)),
            }
        }
        self.left_now = left_out_of(&made);
        self.decide_about(incoming).await?;
        self.made.append(&mut made);
        self.leave_out().await?;
        self.bury().await?;
        match last {
            Some(Barrier::Retract {
                stream,
                source_ids,
                reason,
            }) if !self.are_on_their_way(&source_ids) && self.made.is_empty() => {
                self.retract(&stream, &source_ids, &reason).await?;
            }
            last => self.barrier = last,
        }
        self.save_cursors().await?;
        self.say_what_is_written();
        Ok(())
    }

    /// Compares records with the ledger; what is new goes into the schedule.
    async fn decide_about(&mut self, incoming: Vec<Incoming>) -> Result<(), WriterError> {
        if incoming.is_empty() {
            return Ok(());
        }
        let wanted: HashSet<&str> = incoming
            .iter()
            .flat_map(|one| {
                let before = one.record.preceded_by.iter().map(String::as_str);
                std::iter::once(&*one.record.source_id).chain(before)
            })
            .collect();
        let wanted: Vec<&str> = wanted.into_iter().collect();
        let connection = self.settings.lease.connection;
        let mut entries = self.settings.store.entries(connection, &wanted).await?;
        self.look_behind_what_is_left_out(&mut entries).await?;
        let leaves_out = entries
            .values()
            .any(|entry| entry.status == Status::LeftOut);
        let mut coming = HashSet::new();
        if leaves_out {
            let all = incoming.iter().chain(&self.later);
            coming.extend(all.map(|one| one.record.source_id.clone()));
        }
        let mut new: Vec<(Waiting, Box<Draft>)> = Vec::with_capacity(incoming.len());
        let mut places: HashMap<Arc<str>, usize> = HashMap::with_capacity(incoming.len());
        for one in incoming {
            let id = &one.record.source_id;
            let on_its_way = places.get(id).map(|place| &*new[*place].0.digest);
            let on_its_way = on_its_way.or_else(|| self.schedule.digest_of(id));
            let waits = self
                .later
                .iter()
                .rev()
                .find(|other| other.record.source_id == *id);
            let latest = waits.map(|other| &*other.digest).or(on_its_way);
            if latest == Some(&*one.digest) {
                self.settings
                    .counters
                    .update(|totals| totals.unchanged += 1);
                self.steps.settled(one.page, one.bytes);
                continue;
            }
            if latest.is_some() {
                self.later.push_back(one);
                continue;
            }
            let (page, bytes) = (one.page, one.bytes);
            match self.decide(one, &entries) {
                None => self.steps.settled(page, bytes),
                Some(draft) if self.is_dry_run() => {
                    self.describe(&draft)?;
                    self.steps.settled(page, bytes);
                }
                Some(mut draft) => {
                    places.insert(Arc::clone(&draft.record.source_id), new.len());
                    let comes =
                        |id: &str| coming.contains(id) || self.schedule.digest_of(id).is_some();
                    let waiting = waiting(&draft, &entries, &self.left_now, comes);
                    // The schedule knows them now.
                    draft.record.preceded_by = Vec::new();
                    new.push((waiting, draft));
                }
            }
        }
        self.schedule.add(new);
        Ok(())
    }

    /// Adds the entries of what came before what mappers left out: whoever follows that follows these.
    async fn look_behind_what_is_left_out(
        &self,
        entries: &mut HashMap<String, Entry>,
    ) -> Result<(), WriterError> {
        for _ in 0..MOST_LEFT_OUT_IN_A_ROW {
            let behind = entries
                .values()
                .filter(|entry| entry.status == Status::LeftOut)
                .flat_map(|entry| &entry.preceded_by)
                .chain(self.left_now.values().flatten());
            let unknown: HashSet<String> = behind
                .filter(|id| !entries.contains_key(*id) && !self.left_now.contains_key(*id))
                .cloned()
                .collect();
            if unknown.is_empty() {
                break;
            }
            let wanted: Vec<&str> = unknown.iter().map(String::as_str).collect();
            let connection = self.settings.lease.connection;
            let found = self.settings.store.entries(connection, &wanted).await?;
            if found.is_empty() {
                break;
            }
            entries.extend(found);
        }
        Ok(())
    }

    /// Whether something is on its way that mappers do not make of its record any more.
    fn makes_what_is_left_out(&self, outcomes: &[Outcome]) -> bool {
        let made: HashMap<&str, &[String]> = outcomes
            .iter()
            .map(|outcome| (outcome.source_id.as_str(), outcome.made.as_slice()))
            .collect();
        let is_left_out = |record: &str, id: &str| {
            let made = made.get(record);
            made.is_some_and(|made| made.iter().all(|made| made != id))
        };
        let mut later = self.later.iter().map(|one| &one.record);
        self.schedule.any(is_left_out) || later.any(|one| is_left_out(one.record(), &one.source_id))
    }

    fn are_on_their_way(&self, source_ids: &[String]) -> bool {
        let ids: HashSet<&str> = source_ids.iter().map(String::as_str).collect();
        self.schedule.concerns(&ids)
            || self.later.iter().any(|one| {
                let record = &one.record;
                [&*record.source_id, record.record(), record.root()]
                    .iter()
                    .any(|id| ids.contains(id))
            })
    }

    /// Begins batches, as long as they are worth it.
    fn launch(&mut self) {
        if self.schedule.is_empty() {
            self.too_little_since = None;
        }
        while !self.schedule.is_empty()
            && self.unanswered < UNANSWERED
            && self.flights.len() < BATCHES
        {
            if self.schedule.ready() < WORTH_A_REQUEST && !self.is_sent_alone() {
                return;
            }
            self.too_little_since = None;
            // A dry run schedules nothing.
            let Target::CortexDb { client, .. } = &self.settings.target else {
                return;
            };
            let (mut records, mut bytes) = (0, 0);
            let batch = self.schedule.take(|draft| {
                records += 1;
                bytes += draft.record.content.len();
                records == 1 || (records <= MOST_OF_A_BATCH && bytes <= MAX_BYTES)
            });
            if batch.is_empty() {
                return;
            }
            let context = Arc::new(Context {
                client: client.clone(),
                store: Arc::clone(&self.settings.store),
                lease: self.settings.lease,
                writing: self.writing.clone(),
                counters: Arc::clone(&self.settings.counters),
                reporter: Arc::clone(&self.settings.reporter),
                redactor: self.settings.redactor.clone(),
                copies: self.out.is_some(),
                answers: self.answers.clone(),
            });
            let (answered, answer) = oneshot::channel();
            let before = self.last_answer.replace(answer);
            let turn = Turn { before, answered };
            self.unanswered += 1;
            self.flights.spawn(send(context, batch, turn));
        }
    }

    /// CortexDB has answered: what follows these records may go.
    fn release(&mut self, answered: &[Answered]) {
        self.unanswered -= 1;
        for one in answered {
            self.schedule.answered(one.place, one.event_id.as_deref());
        }
    }

    /// The ledger knows the fates of a batch.
    async fn land(&mut self, landed: Vec<Landed>) -> Result<(), WriterError> {
        self.take_note(&landed)?;
        // What is new goes before the disk is waited for.
        self.launch();
        if landed.iter().any(|one| one.replaces) {
            self.forget_obsolete().await?;
        }
        let again: Vec<Incoming> = self.later.drain(..).collect();
        self.decide_about(again).await?;
        self.leave_out().await?;
        self.bury().await?;
        self.save_cursors().await?;
        self.say_what_is_written();
        Ok(())
    }

    fn take_note(&mut self, landed: &[Landed]) -> Result<(), WriterError> {
        for one in landed {
            self.schedule.done(one.place, one.event_id.as_deref());
            self.steps.settled(one.page, one.bytes);
            for copy in &one.copies {
                self.copy_out(copy)?;
            }
        }
        Ok(())
    }

    /// Everything before it is settled.
    async fn pass(&mut self, barrier: Barrier) -> Result<(), WriterError> {
        match barrier {
            Barrier::Retract {
                stream,
                source_ids,
                reason,
            } => self.retract(&stream, &source_ids, &reason).await?,
            Barrier::Flush(done) => {
                self.forget_obsolete().await?;
                self.save_cursors().await?;
                let _ = done.send(());
            }
            Barrier::Fail(error) => return Err(error),
        }
        Ok(())
    }

    /// Keeps records as they were before they were mapped.
    async fn keep_recorded(&mut self, records: &[Recorded]) -> Result<(), WriterError> {
        let Some(most) = self.settings.recorded_bytes else {
            return Ok(());
        };
        if records.is_empty() || self.is_dry_run() {
            return Ok(());
        }
        let (store, lease) = (Arc::clone(&self.settings.store), self.settings.lease);
        // A guess that is never too low: what takes another's place is counted beside it.
        let before = match self.recorded_bytes {
            Some(bytes) => bytes,
            None => store.recorded_bytes(lease.connection).await?,
        };
        store.keep_recorded(lease, records).await?;
        let added: usize = records.iter().map(|record| record.body.len()).sum();
        let mut after = before + added as u64;
        let mut dropped = 0;
        if after > most {
            // A tenth of room, so that this is not done again with the next page.
            dropped = store.trim_recorded(lease, most - most / 10).await?;
            after = store.recorded_bytes(lease.connection).await?;
        }
        self.recorded_bytes = Some(after);
        if dropped > 0 && !std::mem::replace(&mut self.said_that_records_are_dropped, true) {
            self.say(
                Level::Warn,
                format!("recorded records take more than {most} bytes; the oldest are dropped, and another mapper needs a reconcile pass for them. To keep more: `most` under `[recorded]` in the configuration file"),
            );
        }
        Ok(())
    }

    /// What mappers do not make any more is forgotten, and what they leave out is known. In the order of the pages, and when no version
    /// of the records concerned is on its way.
    async fn leave_out(&mut self) -> Result<(), WriterError> {
        while let Some(next) = self.made.front() {
            let ids: Vec<&str> = next
                .outcomes
                .iter()
                .map(|outcome| outcome.source_id.as_str())
                .collect();
            // A part of an earlier page may not be in the ledger yet.
            if self.makes_what_is_left_out(&next.outcomes) {
                return Ok(());
            }
            let connection = self.settings.lease.connection;
            let parts = self.settings.store.parts(connection, &ids).await?;
            let mut left = Vec::new();
            let mut forgets = false;
            let mut dropped = 0;
            for outcome in &next.outcomes {
                let is_made = |id: &str| outcome.made.iter().any(|made| made == id);
                let known = parts.get(&outcome.source_id).map_or(&[][..], Vec::as_slice);
                dropped += u64::from(outcome.made.is_empty());
                let leaves = |source_id: &str| LeftOut {
                    source_id: source_id.to_owned(),
                    record: outcome.source_id.clone(),
                    event_type: outcome.event_type.clone(),
                    stream: next.stream.clone(),
                    root: outcome.root.clone(),
                    preceded_by: outcome.preceded_by.clone(),
                };
                for part in known {
                    let gone = matches!(part.status, Status::Retracted | Status::LeftOut);
                    if !gone && !is_made(&part.source_id) {
                        forgets = true;
                        left.push(leaves(&part.source_id));
                    }
                }
                let itself = known
                    .iter()
                    .find(|part| part.source_id == outcome.source_id);
                if !is_made(&outcome.source_id)
                    && itself.is_none_or(|part| part.status == Status::Retracted)
                {
                    left.push(leaves(&outcome.source_id));
                }
            }
            // A later page may make again what this one does not.
            left.retain(|one: &LeftOut| {
                let later = self.made.iter().skip(1).flat_map(|made| &made.outcomes);
                !later
                    .into_iter()
                    .any(|outcome| outcome.made.contains(&one.source_id))
            });
            let leaving: Vec<String> = left.iter().map(|one| one.source_id.clone()).collect();
            if self.are_on_their_way(&leaving) {
                return Ok(());
            }
            if !left.is_empty() && !self.is_dry_run() {
                let store = &self.settings.store;
                store.leave_out(self.settings.lease, &left).await?;
            }
            let page = next.page;
            self.made.pop_front();
            self.steps.settled(page, 0);
            if dropped > 0 {
                self.settings.counters.update(|totals| {
                    *totals
                        .skipped
                        .entry("dropped-by-mapper".to_owned())
                        .or_default() += dropped;
                });
            }
            if forgets && !self.is_dry_run() {
                self.forget_obsolete().await?;
            }
        }
        Ok(())
    }

    async fn save_cursors(&mut self) -> Result<(), WriterError> {
        let passed: Vec<Cursor> = self.steps.passed();
        if passed.is_empty() || self.is_dry_run() {
            return Ok(());
        }
        // A cursor must never be ahead of what it stands for.
        self.settings.store.sync().await?;
        Ok(self.settings.cursors.apply(passed).await?)
    }

    fn say_what_is_written(&self) {
        let totals = self.settings.counters.update(|totals| totals.clone());
        self.settings.reporter.event(&Event::Written {
            written: totals.written_by_type.values().sum(),
            unchanged: totals.unchanged,
        });
    }

    fn open_out(&mut self) -> Result<(), WriterError> {
        if let Some(path) = &self.settings.out {
            // Every cycle of a watching run adds to the file; whoever starts the first one empties it.
            let file = File::options()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|source| out_error(&self.settings, source))?;
            self.out = Some(BufWriter::new(file));
        }
        Ok(())
    }

    fn copy_out(&mut self, envelope: &str) -> Result<(), WriterError> {
        if let Some(out) = &mut self.out {
            writeln!(out, "{envelope}").map_err(|source| out_error(&self.settings, source))?;
        }
        Ok(())
    }

    fn is_dry_run(&self) -> bool {
        matches!(self.settings.target, Target::Nowhere)
    }

    async fn scope_of(&mut self, origin: &Origin) -> Result<Arc<str>, WriterError> {
        if let Some(scope) = self.scopes.get(&origin.id) {
            return Ok(Arc::clone(scope));
        }
        let pinned = match self.origins.get(&origin.id) {
            Some(pinned) => pinned.clone(),
            None => {
                self.take_room_for(origin)?;
                if !self.is_dry_run() {
                    self.settings
                        .store
                        .pin_origin(self.settings.lease, &origin.id, &origin.variables)
                        .await?;
                }
                self.origins
                    .insert(origin.id.clone(), origin.variables.clone());
                origin.variables.clone()
            }
        };
        let mut variables = pinned;
        variables.extend(self.settings.host_variables.clone());
        let scope: Arc<str> = self.settings.template.fill(&variables)?.into();
        self.recall(&scope).await?;
        self.scopes.insert(origin.id.clone(), Arc::clone(&scope));
        Ok(scope)
    }

    /// Origins are kept from run to run, and a component names them: one more must fit.
    fn take_room_for(&mut self, origin: &Origin) -> Result<(), LimitReached> {
        self.origin_bytes += size_of_origin(&origin.id, &origin.variables);
        let limit = Limit::OriginBytes;
        match self.settings.limits.get(limit) {
            Some(allowed) if self.origin_bytes > allowed => Err(LimitReached { limit, allowed }),
            _ => Ok(()),
        }
    }

    /// A ledger that was emptied knows the origins all the same. What they hold is taken over before anybody asks for it: a record that is gone comes with
    /// no page.
    async fn recall_known_origins(&mut self) -> Result<(), WriterError> {
        let origins: Vec<Origin> = self
            .origins
            .iter()
            .map(|(id, variables)| Origin {
                id: id.clone(),
                variables: variables.clone(),
            })
            .collect();
        for origin in origins {
            match self.scope_of(&origin).await {
                // Whoever hands over a page of it is told.
                Ok(_) | Err(WriterError::Scope(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Before the first write into a scope that the ledger does not know: what CortexDB holds there is taken over.
    async fn recall(&mut self, scope: &str) -> Result<(), WriterError> {
        let Target::CortexDb { client, .. } = &self.settings.target else {
            return Ok(());
        };
        if self.known_scopes.contains(scope) {
            return Ok(());
        }
        let found = match recall(client, ours(&self.settings), scope).await? {
            Memory::Entries(found) => found,
            Memory::NotListed(words) => {
                self.warn_that_a_scope_is_not_listed(scope, &words);
                Vec::new()
            }
            Memory::NotAnswered(words) => {
                self.warn_that_a_scope_is_not_listed(scope, &words);
                // For this run; the ledger does not know it, so the next one asks again.
                self.known_scopes.insert(scope.to_owned());
                return Ok(());
            }
        };
        self.settings
            .store
            .rebuild(self.settings.lease, scope, &found)
            .await?;
        self.known_scopes.insert(scope.to_owned());
        if !found.is_empty() {
            self.say(
                Level::Info,
                format!(
                    "{scope}: the ledger did not know this scope; {} records were found in CortexDB and taken over",
                    found.len()
                ),
            );
        }
        Ok(())
    }

    fn warn_that_a_scope_is_not_listed(&mut self, scope: &str, words: &str) {
        if std::mem::replace(&mut self.said_that_a_scope_is_not_listed, true) {
            return;
        }
        self.say(
            Level::Warn,
            format!(
                "{scope}: what CortexDB already holds cannot be listed ({words}). Nothing is wrong if this connection is new. If its ledger connectors.db was lost, records are now written a second time: delete it again and run with a token that has `scope.read.events`"
            ),
        );
    }

    /// New, changed, or nothing to do.
    fn decide(&self, incoming: Incoming, entries: &HashMap<String, Entry>) -> Option<Box<Draft>> {
        let Incoming {
            page,
            bytes,
            stream,
            scope,
            record,
            digest,
        } = incoming;
        let entry = entries.get(&*record.source_id);
        let same = entry.filter(|entry| *entry.digest == *digest && *entry.scope == *scope);
        let mut begun_long_ago = false;
        let (generation, frozen) = match (same, entry) {
            (Some(same), _) if same.status == Status::Live => {
                self.settings
                    .counters
                    .update(|totals| totals.unchanged += 1);
                return None;
            }
            (Some(same), _) if same.status == Status::Dead => {
                self.settings
                    .counters
                    .update(|totals| totals.dead_lettered += 1);
                return None;
            }
            (Some(same), _) if same.status == Status::Dropped => {
                self.settings.counters.update(|totals| {
                    *totals
                        .skipped
                        .entry("dropped-dead-letter".to_owned())
                        .or_default() += 1;
                });
                return None;
            }
            // Begun, and no receipt: the same bytes under the same key.
            (Some(same), _) if same.status == Status::Begun => {
                begun_long_ago = key_may_be_forgotten(same.begun_ago);
                (same.generation, Some(same.preceded_by.clone()))
            }
            (_, Some(older)) => (older.generation + 1, None),
            (_, None) => (1, None),
        };
        Some(Box::new(Draft {
            page,
            bytes,
            stream,
            scope,
            digest,
            generation,
            frozen,
            begun_long_ago,
            known_before: entry.is_some(),
            record,
        }))
    }

    fn describe(&mut self, draft: &Draft) -> Result<(), WriterError> {
        let id = &draft.record.source_id;
        let seen = self
            .seen_in_dry_run
            .insert(Arc::clone(id), Arc::clone(&draft.digest));
        if seen.as_ref() == Some(&draft.digest) {
            return Ok(());
        }
        self.settings.counters.update(|totals| {
            *totals
                .written_by_type
                .entry(draft.record.event_type.clone())
                .or_default() += 1;
        });
        let title = draft.record.content.lines().next().unwrap_or_default();
        self.settings.reporter.event(&Event::WouldWrite {
            source_id: id.to_string(),
            change: if draft.known_before { "changed" } else { "new" },
            scope: draft.scope.to_string(),
            title: super::printable(&title.chars().take(120).collect::<String>()),
        });
        if self.out.is_some() {
            let mut batch = BatchBuilder::with_capacity(1, draft.record.content.len());
            let preceded_by = draft.frozen.as_deref().unwrap_or_default();
            push_envelopes(&mut batch, &self.writing, draft, preceded_by);
            let batch = batch.finish();
            for index in 0..batch.len() {
                self.copy_out(batch.json(index))?;
            }
        }
        Ok(())
    }

    /// Keeps dead letters of whose records nothing is on its way.
    async fn bury(&mut self) -> Result<(), WriterError> {
        let is_dry_run = self.is_dry_run();
        let (schedule, later) = (&self.schedule, &self.later);
        let is_on_its_way = |id: &str| {
            schedule.digest_of(id).is_some() || later.iter().any(|one| &*one.record.source_id == id)
        };
        while let Some((page, letters)) = self.letters.next(is_on_its_way) {
            if !is_dry_run && !letters.is_empty() {
                let store = &self.settings.store;
                store.settle(self.settings.lease, &[], &letters).await?;
            }
            for letter in &letters {
                report_dead_letter(
                    self.settings.reporter.as_ref(),
                    &self.settings.counters,
                    letter,
                );
            }
            self.steps.settled(page, 0);
        }
        Ok(())
    }

    async fn retract(
        &mut self,
        stream: &str,
        source_ids: &[String],
        reason: &str,
    ) -> Result<(), WriterError> {
        if self.is_dry_run() {
            return self.say_what_would_be_forgotten(source_ids, reason).await;
        }
        let records = self
            .settings
            .store
            .retract(self.settings.lease, source_ids)
            .await?;
        if records > 0 {
            self.settings
                .counters
                .update(|totals| totals.retracted += records);
            self.say(
                Level::Info,
                format!(
                    "{stream}: forgetting {records} records ({})",
                    super::printable(reason)
                ),
            );
            self.forget_obsolete().await?;
        }
        Ok(())
    }

    async fn say_what_would_be_forgotten(
        &self,
        source_ids: &[String],
        reason: &str,
    ) -> Result<(), WriterError> {
        let wanted: Vec<&str> = source_ids.iter().map(String::as_str).collect();
        let connection = self.settings.lease.connection;
        let entries = self.settings.store.entries(connection, &wanted).await?;
        let held = |id: &&String| {
            entries
                .get(*id)
                .is_some_and(|entry| entry.status != Status::Retracted)
        };
        for id in source_ids.iter().filter(held) {
            let reason = super::printable(reason);
            self.say(Level::Info, format!("would forget {id} ({reason})"));
        }
        Ok(())
    }

    fn say(&self, level: Level, message: String) {
        self.settings.reporter.event(&Event::Log {
            level,
            message,
            fields: BTreeMap::new(),
        });
    }

    /// Forgets what has a successor or is gone. Replaced versions are forgotten only after the new one is acknowledged, so
    /// that a record is never missing.
    async fn forget_obsolete(&mut self) -> Result<(), WriterError> {
        let mut after = 0;
        loop {
            let Target::CortexDb { client, forgetting } = &self.settings.target else {
                return Ok(());
            };
            let (client, forgetting) = (client.clone(), *forgetting);
            let connection = self.settings.lease.connection;
            if forgetting == Forgetting::NotPermitted {
                return self.old_versions_stay().await;
            }
            let batch = self
                .settings
                .store
                .obsolete(connection, after, FORGET_BATCH)
                .await?;
            let Some(last) = batch.last().map(|event| event.row) else {
                let stuck = self.passed_over.len() as u64;
                self.settings.counters.update(|totals| {
                    totals.superseded_pending = totals.superseded_pending.max(stuck);
                });
                return Ok(());
            };
            let batch: Vec<Obsolete> = batch
                .into_iter()
                .filter(|event| !self.passed_over.contains(&event.row))
                .collect();
            if batch.is_empty() {
                after = last;
                continue;
            }
            let less = self.forgetting_less.clone();
            let permitted = |scope: &str| less.get(scope).copied().unwrap_or(forgetting);
            let ours = Some(ours(&self.settings));
            let forgotten = forget(&client, permitted, ours, &batch).await;
            self.note_what_is_forgotten(&batch, permitted, &forgotten)
                .await?;
            if let Some(error) = forgotten.failure {
                return Err(error.into());
            }
            // What is less is tried with the same batch.
            if forgotten.forbidden.is_empty() {
                after = last;
            }
        }
    }

    async fn note_what_is_forgotten(
        &mut self,
        batch: &[Obsolete],
        permitted: impl Fn(&str) -> Forgetting,
        forgotten: &Forgotten,
    ) -> Result<(), WriterError> {
        let (redacted, kept): (Vec<&Obsolete>, Vec<&Obsolete>) = batch
            .iter()
            .filter(|event| forgotten.rows.contains(&event.row))
            .partition(|event| permitted(&event.scope) == Forgetting::Redact);
        let rows = |events: &[&Obsolete]| -> Vec<i64> { events.iter().map(|e| e.row).collect() };
        let (store, lease) = (&self.settings.store, self.settings.lease);
        if !redacted.is_empty() {
            store.forgotten(lease, &rows(&redacted)).await?;
        }
        if !kept.is_empty() {
            store.kept(lease, &rows(&kept)).await?;
        }
        self.settings.counters.update(|totals| {
            totals.superseded += redacted.len() as u64;
            totals.superseded_pending += kept.len() as u64;
        });
        if !kept.is_empty() {
            self.say_once_that_old_versions_stay("the token may not redact (`forget.cascade.redact_events`): what was derived from old versions is forgotten, their text stays");
        }
        if !forgotten.refused.is_empty() {
            self.say(
                Level::Warn,
                format!("CortexDB refuses to forget {} old versions; they stay beside the new ones, and the next run tries again", forgotten.refused.len()),
            );
            self.passed_over.extend(&forgotten.refused);
        }
        self.passed_over.extend(&forgotten.may_yet_arrive);
        if let Some(words) = &forgotten.not_said
            && !forgotten.unknown.is_empty()
        {
            self.say(
                Level::Warn,
                format!("{} old versions were sent without a receipt, and whether they are stored cannot be found out ({words}). The next run tries again; a token with `scope.read.events` could tell", forgotten.unknown.len()),
            );
            self.passed_over.extend(&forgotten.unknown);
        }
        for (scope, words) in &forgotten.forbidden {
            self.say(
                Level::Debug,
                format!("{scope}: forgetting is not permitted: {words}"),
            );
            if permitted(scope) == Forgetting::Redact {
                self.forgetting_less
                    .insert(scope.clone(), Forgetting::DerivedOnly);
                continue;
            }
            let left = batch
                .iter()
                .filter(|event| event.scope == *scope && !forgotten.rows.contains(&event.row));
            self.passed_over.extend(left.map(|event| event.row));
            self.say_once_that_old_versions_stay(MAY_NOT_FORGET);
        }
        Ok(())
    }

    async fn old_versions_stay(&mut self) -> Result<(), WriterError> {
        let count = self
            .settings
            .store
            .count_obsolete(self.settings.lease.connection)
            .await?;
        self.settings
            .counters
            .update(|totals| totals.superseded_pending = count);
        if count > 0 {
            self.say_once_that_old_versions_stay(MAY_NOT_FORGET);
        }
        Ok(())
    }

    fn say_once_that_old_versions_stay(&mut self, message: &str) {
        if !std::mem::replace(&mut self.said_that_old_versions_stay, true) {
            self.say(Level::Warn, message.to_owned());
        }
    }
}

/// The records of the source that a page is about.
fn ids_of<'a>(page: &'a Page, refused: &'a [String]) -> Vec<&'a str> {
    let records = page.records.iter().map(Record::record);
    let given = page.outcomes.iter().map(|one| one.source_id.as_str());
    let refused = refused.iter().map(String::as_str);
    records.chain(given).chain(refused).collect()
}

/// The records of which mappers made nothing under their own ids, with what came before them.
fn left_out_of(made: &VecDeque<Made>) -> HashMap<String, Vec<String>> {
    let mut left = HashMap::new();
    for outcome in made.iter().flat_map(|page| &page.outcomes) {
        if outcome.made.contains(&outcome.source_id) {
            left.remove(&outcome.source_id);
        } else {
            left.insert(outcome.source_id.clone(), outcome.preceded_by.clone());
        }
    }
    left
}

/// Who the record waits for, and what is known of them. Who follows a record that mappers left out follows what came before it; not so
/// if it `comes` again.
fn waiting(
    draft: &Draft,
    entries: &HashMap<String, Entry>,
    left_now: &HashMap<String, Vec<String>>,
    comes: impl Fn(&str) -> bool,
) -> Waiting {
    let mut predecessors: Vec<Predecessor> = Vec::new();
    let mut ahead: VecDeque<(&String, usize)> =
        draft.record.preceded_by.iter().map(|id| (id, 0)).collect();
    while let Some((id, depth)) = ahead.pop_front() {
        let entry = entries.get(id);
        let in_ledger = entry.filter(|entry| entry.status == Status::LeftOut && !comes(id));
        let behind = left_now
            .get(id)
            .or_else(|| in_ledger.map(|entry| &entry.preceded_by));
        if let Some(behind) = behind {
            if depth < MOST_LEFT_OUT_IN_A_ROW {
                ahead.extend(behind.iter().map(|id| (id, depth + 1)));
            }
            continue;
        }
        predecessors.push(Predecessor {
            id: id.clone(),
            event_id: entry
                .filter(|entry| entry.status != Status::Retracted)
                .and_then(|entry| entry.event_id.clone()),
        });
    }
    Waiting {
        id: Arc::clone(&draft.record.source_id),
        part_of: draft.record.mapped.part_of.clone(),
        root: draft.record.root().to_owned(),
        digest: Arc::clone(&draft.digest),
        predecessors,
    }
}

fn landed(flight: Result<Flight, JoinError>) -> Flight {
    match flight {
        Ok(landed) => landed,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Whether something else failed first: a batch stops when the one before it did.
fn is_a_consequence(error: &WriterError) -> bool {
    match error {
        WriterError::Cortex(CortexError::Stopped) => true,
        WriterError::Store(error) => error.follows_another(),
        _ => false,
    }
}

/// Without a time it never ends.
async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

fn ours(settings: &WriterSettings) -> Ours<'_> {
    Ours {
        system: &settings.system,
        source_instance: &settings.source_instance,
    }
}

fn out_error(settings: &WriterSettings, source: std::io::Error) -> WriterError {
    WriterError::Out {
        path: settings.out.clone().unwrap_or_default(),
        source,
    }
}

/// Bytes of an origin's id and variables.
fn size_of_origin(id: &str, variables: &BTreeMap<String, String>) -> u64 {
    let variables = variables
        .iter()
        .map(|(name, value)| name.len() + value.len());
    (id.len() + variables.sum::<usize>()) as u64
}
