//! The streams of a project, and what they have in common: a name, a cursor, and how they end.
//!
//! A stream that fails does not take the others with it. It keeps its cursor, says why, and the run fails at the end, when
//! everything that could be read has been.

pub(crate) mod commits;
pub(crate) mod order;
pub(crate) mod pipelines;
pub(crate) mod quiet;
mod reconcile;
pub(crate) mod releases;
pub(crate) mod shared;
pub(crate) mod single;
pub(crate) mod threads;

use std::cell::{Cell, RefCell};

use futures_util::future::LocalBoxFuture;
use serde_json::{Map, Value};

use crate::client::{Client, Fault, Refusal};
use crate::executor::side_by_side;
use crate::gitlab;
use crate::host::{Experience, Failure, Host, Level, Mode, Origin, StreamState};
use crate::mapping::{Mapper, Project};
use crate::settings::Settings;
use crate::sorted::{SortedMap, SortedSet};
use crate::time::Moment;
use crate::walk::Stamp;
use shared::Shared;

/// How far behind GitLab's clock a cursor stays. A comment does not touch its merge request again within 60 s, and a replica
/// may show a change late: both are found by looking again at the last two minutes.
const OVERLAP_SECONDS: i64 = 120;

/// The same by this machine's clock, where GitLab's is not known (a proxy that strips `Date`): it may run ahead of GitLab's, and what
/// changes in between would be passed over. Machines that keep their time at all are within minutes.
const OWN_CLOCK_OVERLAP_SECONDS: i64 = 600;

/// Experiences that are handed over at once. A page has at most 100 records, but its comments may be many.
const BATCH: usize = 500;
/// Text in one call, in bytes; one record alone may have more.
pub(crate) const BATCH_BYTES: usize = 8 << 20;

/// Ids that are handed over at once.
const LISTED_AT_ONCE: usize = 1000;

/// What all streams of a run share.
pub(crate) struct Session<'h> {
    pub(crate) client: &'h Client<'h>,
    pub(crate) settings: &'h Settings,
    /// The host's clock when the run began, as text and as a number.
    pub(crate) now: &'h Stamp,
    pub(crate) mode: Mode,
    /// Read again from here.
    pub(crate) since: Option<&'h Stamp>,
    /// Streams that this pass has compared in an earlier run.
    pub(crate) compared: &'h SortedSet<String>,
    /// So many projects that asking each for everything every time is too much.
    pub(crate) many: bool,
    /// Bytes of commits that wait in memory for the end of their history.
    pub(crate) waiting: Cell<usize>,
    /// Streams that failed, with the reason.
    pub(crate) failed: RefCell<Vec<String>>,
}

impl Session<'_> {
    /// GitLab's clock when the run began, or the host's where GitLab does not say.
    pub(crate) fn clock(&self) -> Moment {
        self.client.clock().unwrap_or(self.now.moment)
    }

    /// The latest time that a cursor may have. `started` is GitLab's clock at the first answer of what is being read.
    pub(crate) fn horizon(&self, started: Option<Moment>) -> Stamp {
        // An answer without a date is later than the first one of the run that had one.
        let (now, overlap) = match started.or(self.client.clock()) {
            Some(started) => (started, OVERLAP_SECONDS),
            None => (self.now.moment, OWN_CLOCK_OVERLAP_SECONDS),
        };
        now.minus_seconds(overlap).into()
    }
}

/// How a stream ended that did not fail.
pub(crate) enum End {
    Complete,
    /// Not offered here, in GitLab's or our words.
    Off(String),
}

/// How much of a stream is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// What is new since the cursor.
    New,
    /// For the first time: everything, and the cursor follows. What is met is listed, too.
    First,
    /// Everything once more, whatever the cursor says and without moving it. What is met is listed.
    Again,
}

/// One stream of one project.
pub(crate) struct Stream<'s> {
    pub(crate) session: &'s Session<'s>,
    pub(crate) project: &'s Project,
    origin: Origin,
    /// `42/merge_requests`: the name that the host knows it by, and the key of its cursor.
    pub(crate) key: String,
    done: Cell<u64>,
    reading: Reading,
    /// The newest commit when commits were read.
    head: RefCell<Option<String>>,
}

impl<'s> Stream<'s> {
    fn new(session: &'s Session<'s>, project: &'s Project, name: &str) -> Self {
        let mut stream = Self {
            session,
            project,
            origin: project.origin(),
            key: format!("{}/{name}", project.id),
            done: Cell::new(0),
            reading: Reading::New,
            head: RefCell::default(),
        };
        stream.reading = match stream.mode() {
            Mode::Verify => Reading::Again,
            // Without a cursor the ordinary reading is a reading of everything.
            Mode::Reconcile if !stream.has_position() => Reading::First,
            Mode::Poll | Mode::Reconcile => Reading::New,
        };
        stream
    }

    /// The same stream, to be read from the beginning without its cursor.
    fn again(&self) -> Self {
        Self {
            session: self.session,
            project: self.project,
            origin: self.origin.clone(),
            key: self.key.clone(),
            done: Cell::new(0),
            reading: Reading::Again,
            head: RefCell::default(),
        }
    }

    /// What the run is for, of this stream: of what its pass has compared before, only what is new is read.
    pub(crate) fn mode(&self) -> Mode {
        match self.session.mode {
            Mode::Reconcile if self.session.compared.contains(&self.key) => Mode::Poll,
            mode => mode,
        }
    }

    /// Whether everything is read once more.
    pub(crate) fn is_read_again(&self) -> bool {
        self.reading == Reading::Again
    }

    /// Whether nothing but ids is wanted.
    pub(crate) fn only_lists(&self) -> bool {
        self.session.mode == Mode::Verify
    }

    /// Tells the host that GitLab lists these records, where it wants to know.
    pub(crate) fn list(
        &self,
        event_type: &str,
        source_ids: &[String],
        wanted: bool,
    ) -> Result<(), Fault> {
        if self.reading != Reading::New {
            for ids in source_ids.chunks(LISTED_AT_ONCE) {
                self.host().listed(&self.key, event_type, ids, wanted)?;
            }
        }
        Ok(())
    }

    pub(crate) fn host(&self) -> &'s dyn Host {
        self.session.client.host
    }

    pub(crate) fn client(&self) -> &'s Client<'s> {
        self.session.client
    }

    pub(crate) fn mapper(&self) -> Mapper<'s> {
        Mapper {
            project: self.project,
            now: &self.session.now.text,
        }
    }

    /// A path below the project.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/projects/{}/{rest}", self.project.id)
    }

    /// Hands over records, oldest first.
    pub(crate) fn write(&self, experiences: &[Experience]) -> Result<(), Fault> {
        if self.reading != Reading::New {
            let mut listed: SortedMap<&str, Vec<String>> = SortedMap::default();
            for experience in experiences {
                let ids = listed.entry(experience.event_type).or_default();
                ids.push(experience.source_id.clone());
            }
            for (event_type, ids) in listed {
                self.list(event_type, &ids, true)?;
            }
        }
        if self.only_lists() {
            return Ok(());
        }
        let mut rest = experiences;
        while !rest.is_empty() {
            let (batch, behind) = rest.split_at(batch_size(rest));
            self.host().write(&self.key, &self.origin, batch)?;
            rest = behind;
        }
        Ok(())
    }

    /// An empty page names the origin: a host that lost its memory must look up what it wrote there before it can forget it.
    pub(crate) fn write_nothing(&self) -> Result<(), Fault> {
        Ok(self.host().write(&self.key, &self.origin, &[])?)
    }

    pub(crate) fn skip(&self, policy: &str, count: u64) {
        // What is met again was counted when it was met first.
        let again = self.is_read_again() && !self.only_lists();
        if count > 0 && !again {
            self.host().skip(&self.key, policy, count);
        }
    }

    pub(crate) fn retract(&self, source_ids: &[String], reason: &str) -> Result<(), Fault> {
        if source_ids.is_empty() || self.only_lists() {
            return Ok(());
        }
        self.write_nothing()?;
        Ok(self.host().retract(&self.key, source_ids, reason)?)
    }

    /// Reports that this many more records have been read.
    pub(crate) fn progress(&self, rows: usize, total: Option<u64>) {
        self.done.set(self.done.get() + rows as u64);
        self.host().progress(&self.key, self.done.get(), total);
    }

    /// The cursor as it was left, whatever it says.
    fn peek(&self) -> Option<Map<String, Value>> {
        serde_json::from_str(&self.host().state(&self.key)?).ok()
    }

    /// Whether there is a cursor that means to say where to go on.
    fn has_position(&self) -> bool {
        self.host().state(&self.key).is_some()
            && self.peek().is_none_or(|cursor| quiet::is_position(&cursor))
    }

    /// The cursor as it was left; `None` if there is none, none that can be understood, or none that counts.
    pub(crate) fn cursor(&self) -> Option<Map<String, Value>> {
        if self.is_read_again() || !self.has_position() {
            return None;
        }
        let cursor = self.peek();
        if cursor.is_none() {
            self.start_again("it is not a JSON object");
        }
        cursor
    }

    pub(crate) fn set_cursor(&self, cursor: &Value) {
        if self.is_read_again() {
            return;
        }
        self.host().set_state(&self.key, &cursor.to_string());
    }

    /// Says that everything is read again, and why.
    pub(crate) fn start_again(&self, reason: &str) {
        let message = format!(
            "{}: reading from the beginning, because of its cursor: {reason}",
            self.key
        );
        self.host().log(
            Level::Warn,
            &message,
            &[("stream", &self.key), ("project", &self.project.path)],
        );
    }

    /// The time in a cursor.
    pub(crate) fn cursor_time(&self, cursor: &Map<String, Value>, key: &str) -> Option<Stamp> {
        let stamp = cursor
            .get(key)
            .and_then(Value::as_str)
            .and_then(Stamp::parse);
        if stamp.is_none() {
            self.start_again(&format!("`{key}` is not a time"));
        }
        stamp
    }

    /// Where to start: at the cursor, or earlier if the user wants to read again from there. A cursor that is there and does not count
    /// any more means everything that was ever wanted: what the settings now forbid may be older than what the user reads again.
    pub(crate) fn start(&self, cursor: Option<Stamp>) -> Option<Stamp> {
        if self.is_read_again() {
            return self.floor();
        }
        match (cursor, self.session.since) {
            (Some(cursor), Some(since)) if since.moment < cursor.moment => Some(since.clone()),
            (None, _) => self.limit(),
            (cursor, _) => cursor,
        }
    }

    /// Where the first reading began, if the user limited it: nothing older was wanted.
    fn floor(&self) -> Option<Stamp> {
        self.peek()?.get("since")?.as_str().and_then(Stamp::parse)
    }

    /// Where everything that is wanted begins, this run included; `None` if nothing is left out.
    fn limit(&self) -> Option<Stamp> {
        let since = self.session.since.cloned();
        if !self.has_position() {
            return since;
        }
        let floor = self.floor()?;
        let earlier = since.filter(|since| since.moment < floor.moment);
        Some(earlier.unwrap_or(floor))
    }

    /// The cursor with where the first reading began, which a later reading of everything has to respect.
    pub(crate) fn with_floor(&self, mut cursor: Value) -> Value {
        if let Some(limit) = self.limit() {
            cursor["since"] = limit.text.into();
        }
        cursor
    }

    /// See [`Session::horizon`].
    pub(crate) fn horizon(&self, started: Option<Moment>) -> Stamp {
        self.session.horizon(started)
    }

    /// Runs a stream and reports how it ends. An error ends the run.
    async fn run(&self, reading: LocalBoxFuture<'_, Result<End, Fault>>) -> Result<(), Failure> {
        self.host().stream_status(&self.key, &StreamState::Reading);
        self.finish(reading.await).await
    }

    /// Reports how the stream ends. An error ends the run.
    async fn finish(&self, end: Result<End, Fault>) -> Result<(), Failure> {
        let state = match end {
            Ok(End::Complete) => StreamState::Complete,
            Ok(End::Off(words)) => StreamState::Off(words),
            Err(Fault::Stop(failure)) => return Err(failure),
            // Off is what a feature is from the first request on; in the middle of a list something else is wrong.
            Err(Fault::Refused(refusal))
                if matches!(refusal.status, 403 | 404) && self.done.get() == 0 =>
            {
                self.refused(&refusal).await?
            }
            Err(Fault::Refused(refusal)) => StreamState::Failed(refusal.to_string()),
            Err(Fault::TooMuch(reason) | Fault::Unavailable(reason)) => StreamState::Failed(reason),
        };
        match &state {
            StreamState::Complete => quiet::remember(self, None),
            StreamState::Off(words) => quiet::remember(self, Some(words)),
            StreamState::Reading | StreamState::Failed(_) => {}
        }
        if let StreamState::Failed(reason) = &state {
            let line = format!("{} ({}): {reason}", self.key, self.project.path);
            self.host().log(
                Level::Warn,
                &format!("stream failed: {line}"),
                &[("stream", &self.key)],
            );
            self.session.failed.borrow_mut().push(line);
        }
        self.host().stream_status(&self.key, &state);
        Ok(())
    }

    /// A feature that is switched off answers like a project that is gone; only the project itself tells them apart.
    async fn refused(&self, refusal: &Refusal) -> Result<StreamState, Failure> {
        let path = format!("/projects/{}", self.project.id);
        match self.client().object::<gitlab::Project>(&path, &[]).await {
            Ok(_) => Ok(StreamState::Off(refusal.words.clone())),
            Err(Fault::Stop(failure)) => Err(failure),
            Err(Fault::Refused(_)) => Ok(StreamState::Failed(format!(
                "{refusal}, and the project can no longer be seen with this token"
            ))),
            Err(Fault::TooMuch(reason) | Fault::Unavailable(reason)) => {
                Ok(StreamState::Failed(reason))
            }
        }
    }
}

/// How many of these go into one call: the host copies a bounded number of bytes for each.
fn batch_size(experiences: &[Experience]) -> usize {
    let mut bytes = 0;
    let fitting = experiences.iter().take(BATCH).take_while(|experience| {
        bytes += experience.content.len();
        bytes <= BATCH_BYTES
    });
    fitting.count().max(1)
}

/// What one record's own page (comments, detail) being refused means: not that the feature is off, but that this stream cannot
/// be complete.
pub(crate) fn child_fault(fault: Fault, what: &str) -> Fault {
    match fault {
        Fault::Refused(refusal) => Fault::Unavailable(format!("{what}: {refusal}")),
        other => other,
    }
}

/// The streams of a project. What a person would look for first comes first.
pub(crate) const STREAMS: [&str; 5] = [
    "merge_requests",
    "issues",
    "commits",
    "pipelines",
    "releases",
];

/// Reads all streams of a project side by side, but for what is read in a shared list and where nothing can be new. An error ends
/// the run.
pub(crate) async fn read_project(
    session: &Session<'_>,
    project: &Project,
    shared: &[Shared<'_>],
) -> Result<(), Fault> {
    let streams: Vec<_> = STREAMS
        .into_iter()
        .filter(|name| !shared.iter().any(|shared| shared.covers(project, name)))
        .filter_map(|name| stream(session, project, name))
        .collect();
    side_by_side(STREAMS.len(), streams).await
}

/// How a kind of stream is read.
type Read = for<'a> fn(&'a Stream<'a>) -> LocalBoxFuture<'a, Result<End, Fault>>;

/// One stream from beginning to end; `None` if nothing of it is wanted with these settings.
fn stream<'s>(
    session: &'s Session<'s>,
    project: &'s Project,
    name: &'static str,
) -> Option<LocalBoxFuture<'s, Result<(), Fault>>> {
    let events = session.settings.events;
    // The event types of the stream, parents first.
    let (kinds, read): (&[(&'static str, bool)], Read) = match name {
        "merge_requests" => (
            &[
                ("merge_request", events.merge_request),
                ("note", events.note),
            ],
            |stream| Box::pin(threads::read::<gitlab::MergeRequest>(stream)),
        ),
        "issues" => (
            &[("issue", events.issue), ("note", events.note)],
            |stream| Box::pin(threads::read::<gitlab::Issue>(stream)),
        ),
        "commits" => (&[("commit", events.commit)], |stream| {
            Box::pin(commits::read(stream))
        }),
        "pipelines" => (&[("pipeline", events.pipeline)], |stream| {
            Box::pin(pipelines::read(stream))
        }),
        "releases" => (&[("release", events.release)], |stream| {
            Box::pin(releases::read(stream))
        }),
        _ => return None,
    };
    let wanted = kinds.iter().filter(|(_, wanted)| *wanted);
    let kinds: Vec<&'static str> = wanted.map(|(kind, _)| *kind).collect();
    if kinds.is_empty() {
        return None;
    }
    Some(Box::pin(async move {
        let stream = Stream::new(session, project, name);
        if let Some(state) = quiet::left_alone(&stream) {
            stream.host().stream_status(&stream.key, &state);
            return Ok(());
        }
        let reading = Box::pin(read_and_reconcile(&stream, &kinds, read));
        stream.run(reading).await.map_err(Fault::Stop)
    }))
}

/// The ordinary reading, and behind it whatever else this run is for.
async fn read_and_reconcile(
    stream: &Stream<'_>,
    kinds: &[&'static str],
    read: Read,
) -> Result<End, Fault> {
    let end = read(stream).await?;
    if stream.mode() == Mode::Poll || matches!(end, End::Off(_)) {
        return Ok(end);
    }
    if stream.reading != Reading::New {
        return reconcile::settle(stream, kinds).await;
    }
    let again = stream.again();
    let end = read(&again).await;
    // A refusal in the middle of the second reading is one in the middle of the stream.
    stream.done.set(stream.done.get() + again.done.get());
    match end? {
        End::Complete => reconcile::settle(&again, kinds).await,
        off @ End::Off(_) => Ok(off),
    }
}
