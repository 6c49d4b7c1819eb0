//! The wasm face: the generated bindings, and nothing that decides anything.
//!
//! Records go to the host as borrowed views of ours (`ownership: Borrowing`), so that a page is not copied once more before
//! the canonical ABI copies it.

/// What `wit-bindgen` makes of `wit/`.
#[allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]
mod bindings {
    wit_bindgen::generate!({
        path: "../wit",
        world: "connector-with-hooks",
        ownership: Borrowing { duplicate_if_necessary: true },
    });

    use super::Component;

    export!(Component with_types_in self);
}

use std::sync::Once;

use bindings::cortexdb::connector::{http, log, state, types, writer};
use bindings::exports::cortexdb::connector::{hooks, source};

use crate::host::{
    Delivery, Experience, Failure, Finding, Held, Hook, HookState, Host, HttpError, Level, Method,
    Modality, Mode, OnTimeout, Origin, Outcome, Polled, Proof, Request, Response, RunContext,
    Severity, StreamState, Target, Ticket, Verdict, WriteError,
};

/// The component.
struct Component;

impl source::Guest for Component {
    fn describe() -> source::Description {
        source::Description {
            name: "gitlab".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "Merge requests, issues, comments, commits, pipelines and releases of GitLab projects.".to_owned(),
            event_types: crate::EVENT_TYPES.iter().map(|event| (*event).to_owned()).collect(),
            settings_schema: crate::SETTINGS_SCHEMA.to_owned(),
            default_url: Some("https://gitlab.com".to_owned()),
            authentication: vec![source::Authentication::Header("PRIVATE-TOKEN".to_owned()), source::Authentication::Bearer],
            permissions: vec![source::Permission {
                name: "read_api".to_owned(),
                reason: "Read projects, merge requests, issues, comments, commits, pipelines and releases.".to_owned(),
            }],
            scope_variables: ["project_path", "project_id", "group_path"].map(str::to_owned).to_vec(),
            default_scope_template: "org:<org>/source:gitlab/project:{project_path}".to_owned(),
        }
    }

    fn check(context: source::RunContext) -> Result<Vec<source::Finding>, source::Failure> {
        report_panics();
        match crate::check(&Imports, &run_context(context)) {
            Ok(findings) => Ok(findings.into_iter().map(finding).collect()),
            Err(error) => Err(failure(error)),
        }
    }

    fn sync(context: source::RunContext) -> Result<(), source::Failure> {
        report_panics();
        crate::sync(&Imports, &run_context(context)).map_err(failure)
    }
}

impl hooks::Guest for Component {
    fn describe() -> hooks::HooksDescription {
        let description = crate::hooks::DESCRIPTION;
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        hooks::HooksDescription {
            proofs: description
                .proofs
                .iter()
                .map(|proof| match proof {
                    Proof::StandardWebhooks => hooks::Proof::StandardWebhooks,
                    Proof::Header(name) => hooks::Proof::Header((*name).to_owned()),
                })
                .collect(),
            id_headers: texts(description.id_headers),
            headers: texts(description.headers),
        }
    }

    fn handle_delivery(
        context: hooks::RunContext,
        batch: Vec<hooks::Delivery>,
    ) -> Result<Vec<hooks::Verdict>, hooks::Failure> {
        report_panics();
        let batch: Vec<Delivery> = batch
            .into_iter()
            .map(|delivery| Delivery {
                headers: delivery.headers,
                body: delivery.body,
            })
            .collect();
        let verdicts = crate::hooks::handle_delivery(&Imports, &run_context(context), &batch);
        let verdicts = verdicts.map_err(failure)?.into_iter();
        Ok(verdicts
            .map(|verdict| match verdict {
                Verdict::Handled => hooks::Verdict::Handled,
                Verdict::Ignored(reason) => hooks::Verdict::Ignored(reason),
                Verdict::Poll(reason) => hooks::Verdict::Poll(reason),
            })
            .collect())
    }

    fn connect(
        context: hooks::RunContext,
        to: hooks::Target,
    ) -> Result<hooks::Plan, hooks::Failure> {
        report_panics();
        let plan = crate::hooks::connect(&Imports, &run_context(context), &target(to));
        let plan = plan.map_err(failure)?;
        Ok(hooks::Plan {
            hooks: plan.hooks.into_iter().map(hook).collect(),
            polled: plan.polled.into_iter().map(polled).collect(),
            missed: plan.missed,
        })
    }

    fn disconnect(
        context: hooks::RunContext,
        to: hooks::Target,
    ) -> Result<Vec<hooks::Polled>, hooks::Failure> {
        report_panics();
        let left = crate::hooks::disconnect(&Imports, &run_context(context), &target(to));
        Ok(left.map_err(failure)?.into_iter().map(polled).collect())
    }
}

fn target(target: hooks::Target) -> Target {
    Target {
        url: target.url,
        name: target.name,
        secret: target.secret,
        signing_token: target.signing_token,
        rotated: target.rotated,
    }
}

fn hook(hook: Hook) -> hooks::Hook {
    hooks::Hook {
        id: hook.id,
        subject: hook.subject,
        state: match hook.state {
            HookState::Active => hooks::HookState::Active,
            HookState::Disabled => hooks::HookState::Disabled,
            HookState::Failing => hooks::HookState::Failing,
        },
        events: hook.events,
        message: hook.message,
    }
}

fn polled(polled: Polled) -> hooks::Polled {
    hooks::Polled {
        subject: polled.subject,
        reason: polled.reason,
    }
}

/// A trap alone says nothing; the panic message goes to the log before it.
fn report_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            log::log(log::Level::Error, &panic.to_string(), &[]);
        }));
    });
}

fn run_context(context: source::RunContext) -> RunContext {
    let options = context.options.iter();
    RunContext {
        mode: Mode::of(options.map(|(name, value)| (name.as_str(), value.as_str()))),
        settings: context.settings,
        now: context.now,
        since: context.since,
        compared: context
            .options
            .into_iter()
            .filter(|(name, _)| name == "compared")
            .map(|(_, stream)| stream)
            .collect(),
    }
}

fn failure(failure: Failure) -> source::Failure {
    match failure {
        Failure::Configuration(words) => source::Failure::Configuration(words),
        Failure::Standing(words) => source::Failure::Standing(words),
        Failure::Unavailable(words) => source::Failure::Unavailable(words),
        Failure::Interrupted => source::Failure::Interrupted,
        Failure::Internal(words) => source::Failure::Internal(words),
    }
}

fn finding(finding: Finding) -> source::Finding {
    source::Finding {
        severity: match finding.severity {
            Severity::Ok => source::Severity::Ok,
            Severity::Notice => source::Severity::Notice,
            Severity::Problem => source::Severity::Problem,
        },
        subject: finding.subject,
        message: finding.message,
        remedy: finding.remedy,
    }
}

/// The imports of the component, as a [`Host`].
struct Imports;

impl Host for Imports {
    fn submit(&self, request: &Request) -> Ticket {
        http::submit(http::Request {
            method: match request.method {
                Method::Get => http::Method::Get,
                Method::Post => http::Method::Post,
                Method::Put => http::Method::Put,
                Method::Delete => http::Method::Delete,
            },
            path: &request.path,
            query: &pairs(&request.query),
            headers: if request.body.is_some() {
                &[("content-type", "application/json")]
            } else {
                &[]
            },
            body: request.body.as_deref().map(http::BodyParam::Text),
            expect: if request.method == Method::Get {
                http::Expectation::Json
            } else {
                http::Expectation::Any
            },
            on_timeout: match request.on_timeout {
                OnTimeout::Retry => http::OnTimeout::Retry,
                OnTimeout::Report => http::OnTimeout::Report,
            },
            delay_ms: request.delay_ms,
            options: &[],
        })
    }

    fn next(&self) -> Option<(Ticket, Outcome)> {
        let (ticket, outcome) = http::next()?;
        let outcome = match outcome {
            Ok(response) => Ok(Response {
                status: response.status,
                headers: response.headers,
                body: match response.body {
                    http::BodyResult::Text(text) => text,
                    http::BodyResult::Binary(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                },
            }),
            Err(http::HttpError::Denied(reason)) => Err(HttpError::Denied(reason)),
            Err(http::HttpError::TimedOut(reason)) => Err(HttpError::TimedOut(reason)),
            Err(http::HttpError::TooLarge(limit)) => Err(HttpError::TooLarge(limit)),
            Err(http::HttpError::Unavailable(reason)) => Err(HttpError::Unavailable(reason)),
            Err(http::HttpError::Interrupted) => Err(HttpError::Interrupted),
        };
        Some((ticket, outcome))
    }

    fn state(&self, key: &str) -> Option<String> {
        state::get(key)
    }

    fn set_state(&self, key: &str, value: &str) {
        state::set(key, Some(value));
    }

    fn write(&self, stream: &str, origin: &Origin, batch: &[Experience]) -> Result<(), WriteError> {
        let variables: Vec<_> = origin
            .variables
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        // The lists inside of the records have to live somewhere while the records borrow them.
        let parts: Vec<Parts<'_>> = batch.iter().map(Parts::of).collect();
        let records: Vec<_> = batch
            .iter()
            .zip(&parts)
            .map(|(experience, parts)| view(experience, parts))
            .collect();
        writer::write(
            stream,
            types::Origin {
                id: &origin.id,
                variables: &variables,
            },
            &records,
        )
        .map_err(write_error)
    }

    fn skip(&self, stream: &str, policy: &str, count: u64) {
        writer::skip(stream, policy, count);
    }

    fn retract(&self, stream: &str, source_ids: &[String], reason: &str) -> Result<(), WriteError> {
        writer::retract(stream, &texts(source_ids), reason).map_err(write_error)
    }

    fn known(&self, source_ids: &[String]) -> Vec<bool> {
        writer::known(&texts(source_ids))
    }

    fn held(&self, source_ids: &[String]) -> Vec<bool> {
        writer::held(&texts(source_ids))
    }

    fn listed(
        &self,
        stream: &str,
        event_type: &str,
        source_ids: &[String],
        wanted: bool,
    ) -> Result<(), WriteError> {
        writer::listed(stream, event_type, &texts(source_ids), wanted).map_err(write_error)
    }

    fn unlisted(
        &self,
        stream: &str,
        event_type: &str,
        after: Option<&str>,
    ) -> Result<Vec<Held>, WriteError> {
        let records = writer::unlisted(stream, event_type, after).map_err(write_error)?;
        Ok(records
            .into_iter()
            .map(|record| Held {
                source_id: record.source_id,
                root: record.root,
            })
            .collect())
    }

    fn log(&self, level: Level, message: &str, fields: &[(&str, &str)]) {
        let level = match level {
            Level::Debug => log::Level::Debug,
            Level::Info => log::Level::Info,
            Level::Warn => log::Level::Warn,
            Level::Error => log::Level::Error,
        };
        log::log(level, message, fields);
    }

    fn progress(&self, stream: &str, done: u64, total: Option<u64>) {
        log::progress(stream, done, total);
    }

    fn stream_status(&self, stream: &str, state: &StreamState) {
        let state = match state {
            StreamState::Reading => log::StreamState::Reading,
            StreamState::Complete => log::StreamState::Complete,
            StreamState::Off(words) => log::StreamState::Off(words),
            StreamState::Failed(reason) => log::StreamState::Failed(reason),
        };
        log::stream_status(stream, state);
    }
}

/// The borrowed lists of one record.
struct Parts<'a> {
    labels: Vec<&'a str>,
    attributes: Vec<(&'a str, &'a str)>,
    preceded_by: Vec<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(experience: &'a Experience) -> Self {
        Self {
            labels: texts(&experience.labels),
            attributes: experience
                .attributes
                .iter()
                .map(|(key, value)| (*key, value.as_str()))
                .collect(),
            preceded_by: texts(&experience.preceded_by),
        }
    }
}

fn view<'a>(experience: &'a Experience, parts: &'a Parts<'a>) -> types::ExperienceParam<'a> {
    types::ExperienceParam {
        source_id: &experience.source_id,
        event_type: experience.event_type,
        modality: match experience.modality {
            Modality::Document => types::Modality::Document,
            Modality::Conversation => types::Modality::Conversation,
            Modality::Observation => types::Modality::Observation,
        },
        content: &experience.content,
        observed_at: &experience.observed_at,
        recorded_at: experience.recorded_at.as_deref(),
        author: experience.author.as_deref(),
        labels: &parts.labels,
        attributes: &parts.attributes,
        preceded_by: &parts.preceded_by,
        thread: experience.thread.as_ref().map(|thread| types::ThreadParam {
            root: &thread.root,
            turn: thread.turn,
        }),
    }
}

fn write_error(error: writer::WriteError) -> WriteError {
    match error {
        writer::WriteError::Invalid(reason) => WriteError::Invalid(reason),
        writer::WriteError::Stopped(reason) => WriteError::Stopped(reason),
    }
}

fn texts(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

fn pairs(pairs: &[(String, String)]) -> Vec<(&str, &str)> {
    pairs
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect()
}
