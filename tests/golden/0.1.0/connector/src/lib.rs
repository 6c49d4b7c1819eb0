//! The golden connector: calls everything that `source` 0.1.0 may call.
//!
//! `sync` asks the source for `/lines`. Each line of the answer, `<id> <text>`, becomes a document `golden:line:lines/<id>`, in one stream,
//! `lines`. With the option `reconcile` it then lists what it wrote and retracts what is held and not listed. A status other than 200
//! is `unavailable`, 401 is `standing`, 404 is `configuration`.

mod bindings {
    wit_bindgen::generate!({ path: "../wit", world: "connector" });

    use super::Component;

    export!(Component with_types_in self);
}

use bindings::cortexdb::connector::log::{self, Level, StreamState};
use bindings::cortexdb::connector::types::{Experience, Modality, Origin};
use bindings::cortexdb::connector::{http, state, writer};
use bindings::exports::cortexdb::connector::source::{
    Authentication, Description, Failure, Finding, Guest, Permission, RunContext, RunKind, Severity,
};

const STREAM: &str = "lines";

struct Component;

impl Guest for Component {
    fn describe() -> Description {
        Description {
            name: "golden".to_owned(),
            version: "0.1.0".to_owned(),
            summary: "Reads lines, and calls everything that a connector of 0.1.0 can call.".to_owned(),
            event_types: vec!["line".to_owned()],
            settings_schema: r#"{"type": "object", "properties": {"note": {"type": "string", "x-env": "GOLDEN_NOTE"}}}"#.to_owned(),
            default_url: None,
            authentication: vec![
                Authentication::Header("X-Token".to_owned()),
                Authentication::Bearer,
                Authentication::Anonymous,
            ],
            permissions: vec![Permission {
                name: "read".to_owned(),
                reason: "Read the lines.".to_owned(),
            }],
            scope_variables: vec!["list".to_owned()],
            default_scope_template: "org:<org>/source:golden/project:{list}".to_owned(),
        }
    }

    fn check(_context: RunContext) -> Result<Vec<Finding>, Failure> {
        let lines = fetch()?.lines().count();
        Ok(vec![Finding {
            severity: if lines > 0 {
                Severity::Ok
            } else {
                Severity::Notice
            },
            subject: STREAM.to_owned(),
            message: format!("{lines} lines"),
            remedy: None,
        }])
    }

    fn sync(context: RunContext) -> Result<(), Failure> {
        log::stream_status(STREAM, &StreamState::Reading);
        let kind = match context.kind {
            RunKind::Backfill => "backfill",
            RunKind::Poll => "poll",
            RunKind::Delivery => "delivery",
        };
        let fields = [
            ("kind".to_owned(), kind.to_owned()),
            ("cursors".to_owned(), state::list("").len().to_string()),
            ("cursor".to_owned(), state::get(STREAM).unwrap_or_default()),
        ];
        log::log(Level::Debug, "begins", &fields);
        let text = fetch()?;
        let records: Vec<Experience> = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(id, text)| experience(id, text, &context.now))
            .collect();
        let ids: Vec<String> = records
            .iter()
            .map(|record| record.source_id.clone())
            .collect();
        let known = writer::known(&ids).iter().filter(|known| **known).count();
        let held = writer::held(&ids).iter().filter(|held| **held).count();
        log::log(
            Level::Info,
            "known before",
            &[
                ("known".to_owned(), known.to_string()),
                ("held".to_owned(), held.to_string()),
            ],
        );
        let origin = Origin {
            id: "list/lines".to_owned(),
            variables: vec![("list".to_owned(), "lines".to_owned())],
        };
        writer::write(STREAM, &origin, &records).map_err(stopped)?;
        let without_text = text.lines().filter(|line| !line.contains(' ')).count() as u64;
        writer::skip(STREAM, "without-text", without_text);
        log::progress(STREAM, records.len() as u64, None);
        if context
            .options
            .contains(&("reconcile".to_owned(), "true".to_owned()))
        {
            writer::listed(STREAM, "line", &ids, true).map_err(stopped)?;
            let gone = writer::unlisted(STREAM, "line", None).map_err(stopped)?;
            let gone: Vec<String> = gone.into_iter().map(|record| record.source_id).collect();
            writer::retract(STREAM, &gone, "no longer listed").map_err(stopped)?;
        }
        state::set(STREAM, Some(&format!("{{\"lines\":{}}}", records.len())));
        log::stream_status(STREAM, &StreamState::Complete);
        Ok(())
    }
}

fn fetch() -> Result<String, Failure> {
    let ticket = http::submit(&http::Request {
        method: http::Method::Get,
        path: "/lines".to_owned(),
        query: vec![("page".to_owned(), "1".to_owned())],
        headers: vec![("accept".to_owned(), "text/plain".to_owned())],
        body: None,
        expect: http::Expectation::Any,
        on_timeout: http::OnTimeout::Retry,
        delay_ms: 0,
        options: Vec::new(),
    });
    match http::next() {
        Some((answered, Ok(response))) if answered == ticket => {
            match (response.status, response.body) {
                (200, http::Body::Text(text)) => Ok(text),
                (200, http::Body::Binary(_)) => Err(Failure::Internal("not UTF-8".to_owned())),
                (401, _) => Err(Failure::Standing("401".to_owned())),
                (404, _) => Err(Failure::Configuration("404".to_owned())),
                (status, _) => Err(Failure::Unavailable(status.to_string())),
            }
        }
        Some((_, Err(http::HttpError::Interrupted))) => Err(Failure::Interrupted),
        Some((_, Err(http::HttpError::Denied(words)))) => Err(Failure::Internal(words)),
        Some((_, Err(http::HttpError::TimedOut(words) | http::HttpError::Unavailable(words)))) => {
            Err(Failure::Unavailable(words))
        }
        Some((_, Err(http::HttpError::TooLarge(limit)))) => {
            Err(Failure::Unavailable(format!("over {limit} bytes")))
        }
        Some(_) | None => Err(Failure::Internal(
            "the answer of another request".to_owned(),
        )),
    }
}

fn experience(id: &str, text: &str, now: &str) -> Experience {
    Experience {
        source_id: format!("golden:line:lines/{id}"),
        event_type: "line".to_owned(),
        modality: Modality::Document,
        content: text.to_owned(),
        observed_at: now.to_owned(),
        recorded_at: None,
        author: Some("user:golden".to_owned()),
        labels: vec!["golden".to_owned(), "line".to_owned()],
        attributes: vec![("length".to_owned(), text.len().to_string())],
        preceded_by: Vec::new(),
        thread: None,
    }
}

fn stopped(error: writer::WriteError) -> Failure {
    match error {
        writer::WriteError::Invalid(reason) => Failure::Internal(reason),
        writer::WriteError::Stopped(_) => Failure::Interrupted,
    }
}
