//! The host's side of the imports: each call is checked, counted and passed on.
//!
//! A component is not trusted here, not even ours: what it hands over has limits before it touches the network, the ledger or a terminal.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use wasmtime::StoreLimits;

use super::bindings::cortexdb::connector::{http, log, state, types, writer as wit_writer};
use crate::census::Census;
use crate::cortexdb::envelope::{Modality, RawRecord, Thread};
use crate::redact::Redactor;
use crate::report::{Counters, Event, Level, Reporter, StreamState};
use crate::sandbox::engine::TICK;
use crate::sandbox::limits::Limits;
use crate::source::client::{SourceClient, SourceError, SourceResponse};
use crate::source::request::{Method, SourceRequest};
use crate::writer::{Origin, Writer};

const MAX_LOG_BYTES: usize = 8 << 10;
const MAX_LOG_FIELDS: usize = 32;
const MAX_NAME_BYTES: usize = 512;
const MAX_STATE_VALUE_BYTES: usize = 64 << 10;
const MAX_BATCH: usize = 10_000;

/// What a component can reach in one run. Absent parts answer as if they were empty: `describe` has neither source nor writer.
pub struct HostState {
    pub(super) limits: Limits,
    pub(super) store_limits: StoreLimits,
    pub(super) cpu_ticks: u64,
    source: Option<Arc<SourceClient>>,
    in_flight: JoinSet<(u64, Result<SourceResponse, SourceError>)>,
    next_ticket: u64,
    writer: Option<Writer>,
    census: Arc<Census>,
    reporter: Arc<dyn Reporter>,
    counters: Arc<Counters>,
    redactor: Redactor,
    log_lines: u64,
    stream_states: BTreeMap<String, StreamState>,
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
}

impl HostState {
    pub(super) fn new(access: Access) -> Self {
        Self {
            store_limits: access.limits.store_limits(),
            limits: access.limits,
            cpu_ticks: 0,
            source: access.source,
            in_flight: JoinSet::new(),
            next_ticket: 0,
            writer: access.writer,
            census: access.census,
            reporter: access.reporter,
            counters: access.counters,
            redactor: access.redactor,
            log_lines: 0,
            stream_states: BTreeMap::new(),
        }
    }

    /// The last state that each stream reported.
    pub(super) fn take_stream_states(&mut self) -> BTreeMap<String, StreamState> {
        std::mem::take(&mut self.stream_states)
    }

    /// Ticks that a component may compute for between two waits.
    pub(super) fn cpu_budget_ticks(&self) -> u64 {
        u64::try_from(self.limits.cpu_between_waits.as_millis() / TICK.as_millis())
            .unwrap_or(u64::MAX)
    }

    fn clean(&self, text: &str, most: usize) -> String {
        let mut end = text.len().min(most);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let cut = &text[..end];
        // Escape sequences of a component must not reach a terminal.
        let printable: String = cut
            .chars()
            .map(|c| {
                if c.is_control() && c != '\n' && c != '\t' {
                    '\u{fffd}'
                } else {
                    c
                }
            })
            .collect();
        self.redactor.apply(&printable).into_owned()
    }
}

fn check_name(what: &str, name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Err(format!(
            "{what} must have 1 to {MAX_NAME_BYTES} bytes and no control characters"
        ));
    }
    Ok(())
}

impl types::Host for HostState {}

impl http::Host for HostState {
    fn submit(&mut self, request: http::Request) -> wasmtime::Result<u64> {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if self.in_flight.len() >= self.limits.requests_in_flight {
            let limit = self.limits.requests_in_flight;
            return Err(wasmtime::Error::msg(format!(
                "limit reached: more than {limit} requests in flight; call `http.next` before submitting more"
            )));
        }
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
                http::Body::Text(text) => text.into_bytes(),
                http::Body::Binary(bytes) => bytes,
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
            (ticket, answer)
        });
        Ok(ticket)
    }

    async fn next(
        &mut self,
    ) -> wasmtime::Result<Option<(u64, Result<http::Response, http::HttpError>)>> {
        let finished = self.in_flight.join_next().await;
        self.cpu_ticks = 0;
        let Some(finished) = finished else {
            return Ok(None);
        };
        let (ticket, answer) = finished.map_err(wasmtime::Error::from)?;
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
        Ok(self.writer.as_ref().and_then(|writer| writer.cursor(&key)))
    }

    fn list(&mut self, prefix: String) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(self
            .writer
            .as_ref()
            .map(|writer| writer.cursors(&prefix))
            .unwrap_or_default())
    }

    fn set(&mut self, key: String, value: Option<String>) -> wasmtime::Result<()> {
        check_name("a state key", &key).map_err(wasmtime::Error::msg)?;
        if value
            .as_ref()
            .is_some_and(|value| value.len() > MAX_STATE_VALUE_BYTES)
        {
            return Err(wasmtime::Error::msg(format!(
                "limit reached: the state value of `{}` is over {MAX_STATE_VALUE_BYTES} bytes",
                key.escape_debug()
            )));
        }
        if let Some(writer) = &self.writer {
            writer.set_cursor(key, value);
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
        self.cpu_ticks = 0;
        if let Err(reason) =
            check_name("a stream", &stream).and_then(|()| check_name("an origin id", &origin.id))
        {
            return Ok(Err(wit_writer::WriteError::Invalid(reason)));
        }
        if batch.len() > MAX_BATCH {
            return Ok(Err(wit_writer::WriteError::Invalid(format!(
                "a batch of {} records; at most {MAX_BATCH}",
                batch.len()
            ))));
        }
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
        Ok(writer
            .write(stream, origin, records)
            .await
            .map_err(wit_writer::WriteError::Stopped))
    }

    fn skip(&mut self, stream: String, policy: String, count: u64) -> wasmtime::Result<()> {
        let _ = stream;
        if let Some(writer) = &self.writer {
            writer.skip(&policy, count);
        }
        Ok(())
    }

    fn retract(
        &mut self,
        stream: String,
        source_ids: Vec<String>,
        reason: String,
    ) -> wasmtime::Result<Result<(), wit_writer::WriteError>> {
        if let Err(problem) = check_name("a stream", &stream) {
            return Ok(Err(wit_writer::WriteError::Invalid(problem)));
        }
        Ok(match &self.writer {
            Some(writer) => writer
                .retract(stream, source_ids, reason)
                .map_err(wit_writer::WriteError::Stopped),
            None => Err(wit_writer::WriteError::Stopped(
                "this call may not write".into(),
            )),
        })
    }

    async fn known(&mut self, source_ids: Vec<String>) -> wasmtime::Result<Vec<bool>> {
        Ok(match self.writer.clone() {
            Some(writer) => writer.known(&source_ids).await,
            None => vec![false; source_ids.len()],
        })
    }

    async fn held(&mut self, source_ids: Vec<String>) -> wasmtime::Result<Vec<bool>> {
        Ok(match self.writer.clone() {
            Some(writer) => writer.held(&source_ids).await,
            None => vec![false; source_ids.len()],
        })
    }

    fn listed(
        &mut self,
        stream: String,
        event_type: String,
        source_ids: Vec<String>,
        wanted: bool,
    ) -> wasmtime::Result<Result<(), wit_writer::WriteError>> {
        let names =
            check_name("a stream", &stream).and_then(|()| check_name("an event type", &event_type));
        if let Err(reason) = names {
            return Ok(Err(wit_writer::WriteError::Invalid(reason)));
        }
        if source_ids.len() > MAX_BATCH {
            return Ok(Err(wit_writer::WriteError::Invalid(format!(
                "a list of {} ids; at most {MAX_BATCH}",
                source_ids.len()
            ))));
        }
        self.census
            .add(&stream, &event_type, source_ids, wanted)
            .map_err(wasmtime::Error::msg)?;
        Ok(Ok(()))
    }

    async fn unlisted(
        &mut self,
        stream: String,
        event_type: String,
        after: Option<String>,
    ) -> wasmtime::Result<Result<Vec<wit_writer::HeldRecord>, wit_writer::WriteError>> {
        self.cpu_ticks = 0;
        let names =
            check_name("a stream", &stream).and_then(|()| check_name("an event type", &event_type));
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
        let records = writer
            .unlisted(&self.census, &stream, &event_type, after)
            .await;
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

fn raw_record(experience: types::Experience) -> RawRecord {
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
    }
}

impl log::Host for HostState {
    fn log(
        &mut self,
        level: log::Level,
        message: String,
        fields: Vec<(String, String)>,
    ) -> wasmtime::Result<()> {
        self.log_lines += 1;
        if self.log_lines > self.limits.log_lines {
            if self.log_lines == self.limits.log_lines + 1 {
                self.reporter.event(&Event::Log {
                    level: Level::Warn,
                    message: format!(
                        "the component has logged {} lines; the rest of this run is dropped",
                        self.limits.log_lines
                    ),
                    fields: BTreeMap::new(),
                });
            }
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
            message: self.clean(&message, MAX_LOG_BYTES),
            fields: fields
                .iter()
                .take(MAX_LOG_FIELDS)
                .map(|(key, value)| {
                    (
                        self.clean(key, MAX_NAME_BYTES),
                        self.clean(value, MAX_LOG_BYTES),
                    )
                })
                .collect(),
        };
        self.reporter.event(&event);
        Ok(())
    }

    fn progress(&mut self, stream: String, done: u64, total: Option<u64>) -> wasmtime::Result<()> {
        let stream = self.clean(&stream, MAX_NAME_BYTES);
        self.reporter.event(&Event::Progress {
            stream,
            done,
            total,
        });
        Ok(())
    }

    fn stream_status(&mut self, stream: String, state: log::StreamState) -> wasmtime::Result<()> {
        let stream = self.clean(&stream, MAX_NAME_BYTES);
        let state = match state {
            log::StreamState::Reading => StreamState::Reading,
            log::StreamState::Complete => StreamState::Complete,
            log::StreamState::Off(words) => StreamState::Off(self.clean(&words, MAX_LOG_BYTES)),
            log::StreamState::Failed(words) => {
                StreamState::Failed(self.clean(&words, MAX_LOG_BYTES))
            }
        };
        self.counters.update(|totals| match &state {
            StreamState::Off(words) => {
                totals.streams_off.insert(stream.clone(), words.clone());
            }
            StreamState::Failed(words) => {
                totals.streams_failed.insert(stream.clone(), words.clone());
            }
            StreamState::Reading | StreamState::Complete => {}
        });
        self.reporter.event(&Event::Stream {
            stream: stream.clone(),
            state: state.clone(),
        });
        self.stream_states.insert(stream, state);
        Ok(())
    }
}
