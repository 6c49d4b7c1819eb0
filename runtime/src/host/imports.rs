//! The host's side of the imports: each call is checked, counted and passed on.
//!
//! A component is not trusted here, not even ours: what it hands over has limits before it touches the network, the ledger or a terminal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::bindings::cortexdb::connector::{http, log, state, types, writer as wit_writer};
use super::guest_text::{
    MAX_NAME_BYTES, MAX_WORDS_BYTES, check_event_type, check_name, check_origin, check_source_ids,
    clean,
};
use crate::census::Census;
use crate::cortexdb::envelope::{Mapped, Modality, RawRecord, Thread};
use crate::redact::Redactor;
use crate::report::{Counters, Event, Level, Reporter, StreamState};
use crate::sandbox::limits::{Limit, LimitReached, Limits};
use crate::sandbox::meter::Meter;
use crate::sandbox::trap::{HostDefect, TrapReport};
use crate::source::client::{SourceClient, SourceError, SourceResponse};
use crate::source::request::{Method, SourceRequest};
use crate::writer::{Origin, Writer};

const MAX_LOG_FIELDS: usize = 32;
const MAX_STATE_VALUE_BYTES: usize = 64 << 10;
const MAX_BATCH: usize = 10_000;
/// Ids of one question to the ledger, and of one retraction.
const MAX_IDS: usize = 100_000;
/// Different policies that the receipt counts by name.
const MAX_POLICIES: usize = 100;

/// What a component can reach in one run. Absent parts answer as if they were empty: `describe` has neither source nor writer.
pub struct HostState {
    pub(super) meter: Meter,
    /// Made when it is first asked for: only some mappers do.
    pub(super) wasi: Option<Box<super::wasi::EmptyContext>>,
    source: Option<Arc<SourceClient>>,
    in_flight: JoinSet<Arrived>,
    in_flight_bytes: u64,
    next_ticket: u64,
    writer: Option<Writer>,
    census: Arc<Census>,
    reporter: Arc<dyn Reporter>,
    counters: Arc<Counters>,
    redactor: Redactor,
    stop: CancellationToken,
    stream_states: BTreeMap<String, StreamState>,
    stream_bytes: u64,
    policies: BTreeSet<String>,
    warned_of: BTreeSet<&'static str>,
    last_error: Option<String>,
    last_stream: Option<(String, Option<u64>)>,
    last_request: Option<String>,
}

/// A request that is over.
struct Arrived {
    ticket: u64,
    /// Bytes of the request.
    size: u64,
    answer: Result<SourceResponse, SourceError>,
}

/// What a call into a component may use.
#[derive(Clone)]
pub struct Access {
    /// The way to the source.
    pub source: Option<Arc<SourceClient>>,
    /// The way to CortexDB.
    pub writer: Option<Writer>,
    /// What the source lists.
    pub census: Arc<Census>,
    /// Progress.
    pub reporter: Arc<dyn Reporter>,
    /// Totals.
    pub counters: Arc<Counters>,
    /// Removes secrets from what the component says.
    pub redactor: Redactor,
    /// Its limits.
    pub limits: Limits,
    /// The run is to end: a component that goes on all the same runs out of computing time.
    pub stop: CancellationToken,
}

impl Access {
    /// For a component that only describes itself, and for a mapper always.
    #[must_use]
    pub fn nothing_but_the_log(limits: Limits, reporter: Arc<dyn Reporter>) -> Self {
        Self {
            source: None,
            writer: None,
            census: Arc::default(),
            reporter,
            counters: Arc::default(),
            redactor: Redactor::default(),
            limits,
            stop: CancellationToken::new(),
        }
    }
}

impl HostState {
    pub(super) fn new(access: Access) -> Self {
        Self {
            meter: Meter::new(access.limits),
            wasi: None,
            source: access.source,
            in_flight: JoinSet::new(),
            in_flight_bytes: 0,
            next_ticket: 0,
            writer: access.writer,
            census: access.census,
            reporter: access.reporter,
            counters: access.counters,
            redactor: access.redactor,
            stop: access.stop,
            stream_states: BTreeMap::new(),
            stream_bytes: 0,
            policies: BTreeSet::new(),
            warned_of: BTreeSet::new(),
            last_error: None,
            last_stream: None,
            last_request: None,
        }
    }

    /// The last state that each stream reported.
    pub(super) fn take_stream_states(&mut self) -> BTreeMap<String, StreamState> {
        std::mem::take(&mut self.stream_states)
    }

    /// What the component does not know of its own end: where it was, and what it said last.
    pub(super) fn complete(&self, mut report: TrapReport) -> TrapReport {
        if report.kind == "unreachable_code_reached" && self.last_error.is_some() {
            report.kind = "panic".into();
            report.message = "it panicked".into();
            report.panic.clone_from(&self.last_error);
        }
        if let Some((stream, done)) = &self.last_stream {
            report.stream = Some(stream.clone());
            report.done = *done;
        }
        report.request.clone_from(&self.last_request);
        report.message = self.clean(&report.message, MAX_WORDS_BYTES);
        for frame in &mut report.backtrace {
            *frame = self.clean(frame, MAX_NAME_BYTES);
        }
        report
    }

    /// Leaves what was used in the totals of the run.
    pub(super) fn settle(&self, time: Limit) {
        let uses = self.meter.uses(time);
        self.counters.update(|totals| totals.limits = uses);
    }

    /// Every call of the host begins here.
    fn enter(&mut self) -> Result<(), LimitReached> {
        self.meter.add(Limit::HostCalls, 1)
    }

    /// Looks at the clock while the component computes.
    pub(super) fn tick(&mut self) -> Result<(), LimitReached> {
        self.meter.tick(self.stop.is_cancelled())
    }

    /// The component goes on after waiting. Once the run is to end, waiting earns it no more time.
    fn resume(&mut self) {
        self.meter.resume(!self.stop.is_cancelled());
    }

    pub(super) fn clean(&self, text: &str, most: usize) -> String {
        clean(text, most, &self.redactor)
    }

    /// Whether one more of these may pass; the first that may not is told of.
    fn may_pass(&mut self, counted: Result<(), LimitReached>) -> bool {
        let Err(reached) = counted else {
            return true;
        };
        let spec = reached.limit.spec();
        if self.warned_of.insert(spec.name) {
            self.reporter.event(&Event::Log {
                level: Level::Warn,
                message: format!("{reached}. What is over it is dropped; the run goes on"),
                fields: BTreeMap::new(),
            });
        }
        false
    }
}

impl types::Host for HostState {}

impl http::Host for HostState {
    fn submit(&mut self, request: http::Request) -> wasmtime::Result<u64> {
        self.enter()?;
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let size = size_of_request(&request);
        self.meter
            .level(Limit::RequestsInFlight, self.in_flight.len() as u64 + 1)?;
        self.meter.add(Limit::Requests, 1)?;
        self.meter.level(Limit::RequestBytes, size as u64)?;
        self.meter.add(Limit::SentBytes, size)?;
        let size = size as u64;
        self.in_flight_bytes += size;
        self.meter
            .level(Limit::InFlightBytes, self.in_flight_bytes)?;
        let method = match request.method {
            http::Method::Get => "GET",
            http::Method::Post => "POST",
            http::Method::Put => "PUT",
            http::Method::Delete => "DELETE",
        };
        // Without its query: that may hold what was searched for.
        let asked = self.clean(&request.path, MAX_NAME_BYTES);
        self.last_request = Some(format!("{method} {asked}"));
        let source = self.source.clone();
        let request = SourceRequest {
            method: match request.method {
                http::Method::Get => Method::Get,
                http::Method::Post => Method::Post,
                http::Method::Put => Method::Put,
                http::Method::Delete => Method::Delete,
            },
            path: request.path,
            query: request.query,
            headers: request.headers,
            body: request.body.map(|body| match body {
                http::Body::Text(text) => text.into(),
                http::Body::Binary(bytes) => bytes.into(),
            }),
            expect_json: matches!(request.expect, http::Expectation::Json),
            report_timeout: matches!(request.on_timeout, http::OnTimeout::Report),
            delay: Duration::from_millis(u64::from(request.delay_ms)),
        };
        self.in_flight.spawn(async move {
            let answer = match source {
                Some(source) => source.execute(&request).await,
                None => Err(SourceError::Denied(
                    "this call has no access to the source".into(),
                )),
            };
            Arrived {
                ticket,
                size,
                answer,
            }
        });
        Ok(ticket)
    }

    async fn next(
        &mut self,
    ) -> wasmtime::Result<Option<(u64, Result<http::Response, http::HttpError>)>> {
        self.enter()?;
        self.meter.wait();
        let finished = self.in_flight.join_next().await;
        self.resume();
        let Some(finished) = finished else {
            return Ok(None);
        };
        // A request is never given up while the component runs, so it can only have panicked.
        let Arrived {
            ticket,
            size,
            answer,
        } = finished.map_err(|_| HostDefect)?;
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(size);
        if let Ok(response) = &answer {
            let size = response.body.len();
            self.meter.level(Limit::ResponseBytes, size as u64)?;
            self.meter.add(Limit::ReceivedBytes, size)?;
        }
        let answer = match answer {
            Ok(response) => Ok(http::Response {
                status: response.status,
                headers: response.headers,
                body: match String::from_utf8(response.body) {
                    Ok(text) => http::Body::Text(text),
                    Err(other) => http::Body::Binary(other.into_bytes()),
                },
            }),
            Err(SourceError::Denied(reason)) => Err(http::HttpError::Denied(reason)),
            Err(SourceError::TimedOut(reason)) => Err(http::HttpError::TimedOut(reason)),
            Err(SourceError::TooLarge(limit)) => Err(http::HttpError::TooLarge(limit)),
            Err(SourceError::Unavailable(reason)) => Err(http::HttpError::Unavailable(reason)),
            Err(SourceError::Interrupted) => Err(http::HttpError::Interrupted),
        };
        Ok(Some((ticket, answer)))
    }
}

impl state::Host for HostState {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        self.enter()?;
        Ok(self.writer.as_ref().and_then(|writer| writer.cursor(&key)))
    }

    fn list(&mut self, prefix: String) -> wasmtime::Result<Vec<(String, String)>> {
        self.enter()?;
        Ok(self
            .writer
            .as_ref()
            .map(|writer| writer.cursors(&prefix))
            .unwrap_or_default())
    }

    async fn set(&mut self, key: String, value: Option<String>) -> wasmtime::Result<()> {
        self.enter()?;
        check_name("a state key", &key).map_err(wasmtime::Error::msg)?;
        if value
            .as_ref()
            .is_some_and(|value| value.len() > MAX_STATE_VALUE_BYTES)
        {
            return Err(wasmtime::Error::msg(format!(
                "the state value of `{}` is over {MAX_STATE_VALUE_BYTES} bytes",
                key.escape_debug()
            )));
        }
        if let Some(writer) = &self.writer {
            // Judged before it is taken: what is over the limit is not kept.
            let (keys, bytes) = writer.cursors_with(&key, value.as_deref());
            self.meter.level(Limit::StateKeys, keys)?;
            self.meter.level(Limit::StateBytes, bytes)?;
            let writer = writer.clone();
            self.meter.wait();
            writer.set_cursor(key, value).await;
            self.resume();
        }
        Ok(())
    }
}

impl wit_writer::Host for HostState {
    async fn write(
        &mut self,
        stream: String,
        origin: types::Origin,
        batch: Vec<types::Experience>,
    ) -> wasmtime::Result<Result<(), wit_writer::WriteError>> {
        self.enter()?;
        if let Err(reason) = check_name("a stream", &stream).and_then(|()| check_origin(&origin)) {
            return Ok(Err(wit_writer::WriteError::Invalid(reason)));
        }
        if batch.len() > MAX_BATCH {
            return Ok(Err(wit_writer::WriteError::Invalid(format!(
                "a batch of {} records; at most {MAX_BATCH}",
                batch.len()
            ))));
        }
        self.meter.add(Limit::Experiences, batch.len())?;
        let bytes = batch.iter().map(|record| record.content.len()).sum();
        self.meter.add(Limit::WrittenBytes, bytes)?;
        let Some(writer) = self.writer.clone() else {
            return Ok(Err(wit_writer::WriteError::Stopped(
                "this call may not write".into(),
            )));
        };
        let origin = Origin {
            id: origin.id,
            variables: origin.variables.into_iter().collect(),
        };
        let records = batch.into_iter().map(raw_record).collect();
        self.meter.wait();
        let written = writer.write(stream, origin, records).await;
        self.resume();
        Ok(written.map_err(wit_writer::WriteError::Stopped))
    }

    fn skip(&mut self, stream: String, policy: String, count: u64) -> wasmtime::Result<()> {
        self.enter()?;
        let _ = stream;
        if let Some(writer) = &self.writer {
            let policy = self.clean(&policy, MAX_NAME_BYTES);
            // The receipt counts by name; a component that invents names does not make it endless.
            if self.policies.contains(&policy) || self.policies.len() < MAX_POLICIES {
                writer.skip(&policy, count);
                self.policies.insert(policy);
            } else {
                writer.skip("other", count);
            }
        }
        Ok(())
    }

    async fn retract(
        &mut self,
        stream: String,
        source_ids: Vec<String>,
        reason: String,
    ) -> wasmtime::Result<Result<(), wit_writer::WriteError>> {
        self.enter()?;
        let checked =
            check_name("a stream", &stream).and_then(|()| check_source_ids(&source_ids, MAX_IDS));
        if let Err(problem) = checked {
            return Ok(Err(wit_writer::WriteError::Invalid(problem)));
        }
        let reason = self.clean(&reason, MAX_NAME_BYTES);
        let Some(writer) = self.writer.clone() else {
            return Ok(Err(wit_writer::WriteError::Stopped(
                "this call may not write".into(),
            )));
        };
        self.meter.wait();
        let retracted = writer.retract(stream, source_ids, reason).await;
        self.resume();
        Ok(retracted.map_err(wit_writer::WriteError::Stopped))
    }

    async fn known(&mut self, source_ids: Vec<String>) -> wasmtime::Result<Vec<bool>> {
        self.enter()?;
        check_source_ids(&source_ids, MAX_IDS).map_err(wasmtime::Error::msg)?;
        self.meter.wait();
        let known = match self.writer.clone() {
            Some(writer) => writer.known(&source_ids).await,
            None => vec![false; source_ids.len()],
        };
        self.resume();
        Ok(known)
    }

    async fn held(&mut self, source_ids: Vec<String>) -> wasmtime::Result<Vec<bool>> {
        self.enter()?;
        check_source_ids(&source_ids, MAX_IDS).map_err(wasmtime::Error::msg)?;
        self.meter.wait();
        let held = match self.writer.clone() {
            Some(writer) => writer.held(&source_ids).await,
            None => vec![false; source_ids.len()],
        };
        self.resume();
        Ok(held)
    }

    fn listed(
        &mut self,
        stream: String,
        event_type: String,
        source_ids: Vec<String>,
        wanted: bool,
    ) -> wasmtime::Result<Result<(), wit_writer::WriteError>> {
        self.enter()?;
        let names = check_name("a stream", &stream)
            .and_then(|()| check_event_type(&event_type))
            .and_then(|()| check_source_ids(&source_ids, MAX_BATCH));
        if let Err(reason) = names {
            return Ok(Err(wit_writer::WriteError::Invalid(reason)));
        }
        self.census.add(&stream, &event_type, source_ids, wanted)?;
        Ok(Ok(()))
    }

    async fn unlisted(
        &mut self,
        stream: String,
        event_type: String,
        after: Option<String>,
    ) -> wasmtime::Result<Result<Vec<wit_writer::HeldRecord>, wit_writer::WriteError>> {
        self.enter()?;
        let names = check_name("a stream", &stream).and_then(|()| check_event_type(&event_type));
        if let Err(reason) = names {
            return Ok(Err(wit_writer::WriteError::Invalid(reason)));
        }
        let Some(writer) = self.writer.clone() else {
            return Ok(Err(wit_writer::WriteError::Stopped(
                "this call may not write".into(),
            )));
        };
        self.census.complete(&stream, &event_type);
        let after = after.unwrap_or_default();
        self.meter.wait();
        let records = writer
            .unlisted(&self.census, &stream, &event_type, after)
            .await;
        self.resume();
        Ok(records
            .map(|records| {
                let records = records.into_iter().map(|record| wit_writer::HeldRecord {
                    source_id: record.source_id,
                    root: record.root,
                });
                records.collect()
            })
            .map_err(wit_writer::WriteError::Stopped))
    }
}

/// What a request costs this machine before it is sent.
fn size_of_request(request: &http::Request) -> usize {
    let pairs = |pairs: &[(String, String)]| -> usize {
        pairs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    };
    let body = match &request.body {
        None => 0,
        Some(http::Body::Text(text)) => text.len(),
        Some(http::Body::Binary(bytes)) => bytes.len(),
    };
    request.path.len() + pairs(&request.query) + pairs(&request.headers) + body
}

pub(super) fn raw_record(experience: types::Experience) -> RawRecord {
    RawRecord {
        source_id: experience.source_id,
        event_type: experience.event_type,
        modality: match experience.modality {
            types::Modality::Document => Modality::Document,
            types::Modality::Conversation => Modality::Conversation,
            types::Modality::Observation => Modality::Observation,
        },
        content: experience.content,
        observed_at: experience.observed_at,
        recorded_at: experience.recorded_at,
        author: experience.author,
        labels: experience.labels,
        attributes: experience.attributes,
        preceded_by: experience.preceded_by,
        thread: experience.thread.map(|thread| Thread {
            root: thread.root,
            turn: thread.turn,
        }),
        mapped: Mapped::default(),
    }
}

/// The way back: what a mapper is given.
pub(super) fn experience(record: &RawRecord) -> types::Experience {
    types::Experience {
        source_id: record.source_id.clone(),
        event_type: record.event_type.clone(),
        modality: match record.modality {
            Modality::Document => types::Modality::Document,
            Modality::Conversation => types::Modality::Conversation,
            Modality::Observation => types::Modality::Observation,
        },
        content: record.content.clone(),
        observed_at: record.observed_at.clone(),
        recorded_at: record.recorded_at.clone(),
        author: record.author.clone(),
        labels: record.labels.clone(),
        attributes: record.attributes.clone(),
        preceded_by: record.preceded_by.clone(),
        thread: record.thread.as_ref().map(|thread| types::Thread {
            root: thread.root.clone(),
            turn: thread.turn,
        }),
    }
}

impl log::Host for HostState {
    fn log(
        &mut self,
        level: log::Level,
        message: String,
        fields: Vec<(String, String)>,
    ) -> wasmtime::Result<()> {
        self.enter()?;
        let bytes = message.len()
            + fields
                .iter()
                .map(|(key, value)| key.len() + value.len())
                .sum::<usize>();
        // A panic is the last thing that it says, after whatever it said before.
        if matches!(level, log::Level::Error) {
            self.last_error = Some(self.clean(&message, MAX_WORDS_BYTES));
        }
        let counted = self
            .meter
            .add(Limit::LogLines, 1)
            .and(self.meter.add(Limit::LogBytes, bytes));
        if !self.may_pass(counted) {
            return Ok(());
        }
        let event = Event::Log {
            level: match level {
                log::Level::Trace => Level::Trace,
                log::Level::Debug => Level::Debug,
                log::Level::Info => Level::Info,
                log::Level::Warn => Level::Warn,
                log::Level::Error => Level::Error,
            },
            message: self.clean(&message, MAX_WORDS_BYTES),
            fields: fields
                .iter()
                .take(MAX_LOG_FIELDS)
                .map(|(key, value)| {
                    (
                        self.clean(key, MAX_NAME_BYTES),
                        self.clean(value, MAX_WORDS_BYTES),
                    )
                })
                .collect(),
        };
        self.reporter.event(&event);
        Ok(())
    }

    fn progress(&mut self, stream: String, done: u64, total: Option<u64>) -> wasmtime::Result<()> {
        self.enter()?;
        let stream = self.clean(&stream, MAX_NAME_BYTES);
        self.last_stream = Some((stream.clone(), Some(done)));
        let counted = self.meter.add(Limit::Reports, 1);
        if self.may_pass(counted) {
            self.reporter.event(&Event::Progress {
                stream,
                done,
                total,
            });
        }
        Ok(())
    }

    fn stream_status(&mut self, stream: String, state: log::StreamState) -> wasmtime::Result<()> {
        self.enter()?;
        let stream = self.clean(&stream, MAX_NAME_BYTES);
        let state = match state {
            log::StreamState::Reading => StreamState::Reading,
            log::StreamState::Complete => StreamState::Complete,
            log::StreamState::Off(words) => StreamState::Off(self.clean(&words, MAX_WORDS_BYTES)),
            log::StreamState::Failed(words) => {
                StreamState::Failed(self.clean(&words, MAX_WORDS_BYTES))
            }
        };
        match self.stream_states.get(&stream) {
            Some(before) => self.stream_bytes -= words_of(before),
            None => {
                self.meter.add(Limit::Streams, 1)?;
                self.stream_bytes += stream.len() as u64;
            }
        }
        self.stream_bytes += words_of(&state);
        self.meter.level(Limit::StreamBytes, self.stream_bytes)?;
        self.last_stream = Some((stream.clone(), None));
        self.counters.update(|totals| match &state {
            StreamState::Off(words) => {
                totals.streams_off.insert(stream.clone(), words.clone());
            }
            StreamState::Failed(words) => {
                totals.streams_failed.insert(stream.clone(), words.clone());
            }
            StreamState::Reading | StreamState::Complete => {}
        });
        let counted = self.meter.add(Limit::Reports, 1);
        if self.may_pass(counted) {
            self.reporter.event(&Event::Stream {
                stream: stream.clone(),
                state: state.clone(),
            });
        }
        self.stream_states.insert(stream, state);
        Ok(())
    }
}

/// Bytes of what a stream says of itself.
fn words_of(state: &StreamState) -> u64 {
    match state {
        StreamState::Off(words) | StreamState::Failed(words) => words.len() as u64,
        StreamState::Reading | StreamState::Complete => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::trap;

    struct Unheard;

    impl Reporter for Unheard {
        fn event(&self, _: &Event) {}
    }

    #[tokio::test]
    async fn a_request_that_panics_in_the_host_is_the_hosts_defect_and_not_the_components() {
        let mut state = HostState::new(Access {
            source: None,
            writer: None,
            census: Arc::default(),
            reporter: Arc::new(Unheard),
            counters: Arc::default(),
            redactor: Redactor::default(),
            limits: Limits::default(),
            stop: CancellationToken::new(),
        });
        state
            .in_flight
            .spawn(async { panic!("this panic is part of a test") });
        let error = http::Host::next(&mut state).await.unwrap_err();
        assert_eq!(
            trap::read(&error, &Limits::default()).kind,
            "host_defect",
            "{error:?}"
        );
    }
}
