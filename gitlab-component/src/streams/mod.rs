//! The streams of a project, and what they have in common: a name, a cursor, and how they end.
//!
//! A stream that fails does not take the others with it. It keeps its cursor, says why, and the run fails at the end, when
//! everything that could be read has been.

pub(crate) mod commits;
pub(crate) mod pipelines;
pub(crate) mod releases;
pub(crate) mod threads;

use std::cell::{Cell, RefCell};

use futures_util::future::LocalBoxFuture;
use serde_json::{Map, Value};

use crate::client::{Client, Fault, Refusal};
use crate::executor::side_by_side;
use crate::gitlab;
use crate::host::{Experience, Failure, Host, Level, Origin, StreamState};
use crate::mapping::{Mapper, Project};
use crate::settings::Settings;
use crate::time::Moment;
use crate::walk::Stamp;

/// How far behind GitLab's clock a cursor stays. A comment does not touch its merge request again within 60 s, and a replica
/// may show a change late: both are found by looking again at the last two minutes.
const OVERLAP_SECONDS: i64 = 120;

/// Experiences that are handed over at once. A page has at most 100 records, but its comments may be many.
const BATCH: usize = 500;

/// What all streams of a run share.
pub(crate) struct Session<'h> {
    pub(crate) client: &'h Client<'h>,
    pub(crate) settings: &'h Settings,
    /// The host's clock when the run began, as text and as a number.
    pub(crate) now: &'h Stamp,
    /// Read again from here.
    pub(crate) since: Option<&'h Stamp>,
    /// Streams that failed, with the reason.
    pub(crate) failed: RefCell<Vec<String>>,
}

/// How a stream ended that did not fail.
pub(crate) enum End {
    Complete,
    /// Not offered here, in GitLab's or our words.
    Off(String),
}

/// One stream of one project.
pub(crate) struct Stream<'s> {
    pub(crate) session: &'s Session<'s>,
    pub(crate) project: &'s Project,
    origin: Origin,
    /// `42/merge_requests`: the name that the host knows it by, and the key of its cursor.
    pub(crate) key: String,
    done: Cell<u64>,
}

impl<'s> Stream<'s> {
    fn new(session: &'s Session<'s>, project: &'s Project, name: &str) -> Self {
        Self {
            session,
            project,
            origin: project.origin(),
            key: format!("{}/{name}", project.id),
            done: Cell::new(0),
        }
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
        for batch in experiences.chunks(BATCH) {
            self.host().write(&self.key, &self.origin, batch)?;
        }
        Ok(())
    }

    pub(crate) fn skip(&self, policy: &str, count: u64) {
        if count > 0 {
            self.host().skip(&self.key, policy, count);
        }
    }

    pub(crate) fn retract(&self, source_ids: &[String], reason: &str) -> Result<(), Fault> {
        if source_ids.is_empty() {
            return Ok(());
        }
        // An empty page names the origin: a host that lost its memory must look up what it wrote there before it can forget it.
        self.host().write(&self.key, &self.origin, &[])?;
        Ok(self.host().retract(&self.key, source_ids, reason)?)
    }

    /// Reports that this many more records have been read.
    pub(crate) fn progress(&self, rows: usize, total: Option<u64>) {
        self.done.set(self.done.get() + rows as u64);
        self.host().progress(&self.key, self.done.get(), total);
    }

    /// The cursor as it was left; `None` if there is none, or none that can be understood.
    pub(crate) fn cursor(&self) -> Option<Map<String, Value>> {
        let text = self.host().state(&self.key)?;
        match serde_json::from_str(&text) {
            Ok(Value::Object(cursor)) => Some(cursor),
            _ => {
                self.start_again("it is not a JSON object");
                None
            }
        }
    }

    pub(crate) fn set_cursor(&self, cursor: &Value) {
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

    /// Where to start: at the cursor, or earlier if the user wants to read again from there.
    pub(crate) fn start(&self, cursor: Option<Stamp>) -> Option<Stamp> {
        match (cursor, self.session.since) {
            (Some(cursor), Some(since)) if since.moment < cursor.moment => Some(since.clone()),
            (None, Some(since)) => Some(since.clone()),
            (cursor, _) => cursor,
        }
    }

    /// The latest time that a cursor may have. `started` is GitLab's clock when the stream's first answer came.
    pub(crate) fn horizon(&self, started: Option<Moment>) -> Stamp {
        started
            .unwrap_or(self.session.now.moment)
            .minus_seconds(OVERLAP_SECONDS)
            .into()
    }

    /// Runs a stream and reports how it ends. An error ends the run.
    async fn run(&self, reading: LocalBoxFuture<'_, Result<End, Fault>>) -> Result<(), Failure> {
        self.host().stream_status(&self.key, &StreamState::Reading);
        let state = match reading.await {
            Ok(End::Complete) => StreamState::Complete,
            Ok(End::Off(words)) => StreamState::Off(words),
            Err(Fault::Stop(failure)) => return Err(failure),
            Err(Fault::Refused(refusal)) if matches!(refusal.status, 403 | 404) => {
                self.refused(&refusal).await?
            }
            Err(Fault::Refused(refusal)) => StreamState::Failed(refusal.to_string()),
            Err(Fault::TooMuch(reason) | Fault::Unavailable(reason)) => StreamState::Failed(reason),
        };
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

/// What one record's own page (comments, detail) being refused means: not that the feature is off, but that this stream cannot
/// be complete.
pub(crate) fn child_fault(fault: Fault, what: &str) -> Fault {
    match fault {
        Fault::Refused(refusal) => Fault::Unavailable(format!("{what}: {refusal}")),
        other => other,
    }
}

/// Reads all streams of a project side by side. An error ends the run.
pub(crate) async fn read_project(session: &Session<'_>, project: &Project) -> Result<(), Fault> {
    let events = session.settings.events;
    let mut streams: Vec<LocalBoxFuture<'_, Result<(), Fault>>> = Vec::new();
    if events.merge_request || events.note {
        streams.push(stream(session, project, "merge_requests", |stream| {
            Box::pin(threads::read::<gitlab::MergeRequest>(stream))
        }));
    }
    if events.issue || events.note {
        streams.push(stream(session, project, "issues", |stream| {
            Box::pin(threads::read::<gitlab::Issue>(stream))
        }));
    }
    if events.commit {
        streams.push(stream(session, project, "commits", |stream| {
            Box::pin(commits::read(stream))
        }));
    }
    if events.pipeline {
        streams.push(stream(session, project, "pipelines", |stream| {
            Box::pin(pipelines::read(stream))
        }));
    }
    if events.release {
        streams.push(stream(session, project, "releases", |stream| {
            Box::pin(releases::read(stream))
        }));
    }
    side_by_side(streams.len(), streams).await
}

/// How a kind of stream is read.
type Read = for<'a> fn(&'a Stream<'a>) -> LocalBoxFuture<'a, Result<End, Fault>>;

fn stream<'s>(
    session: &'s Session<'s>,
    project: &'s Project,
    name: &'static str,
    read: Read,
) -> LocalBoxFuture<'s, Result<(), Fault>> {
    Box::pin(async move {
        let stream = Stream::new(session, project, name);
        stream.run(read(&stream)).await.map_err(Fault::Stop)
    })
}
