//! The way in for the fuzz targets, with the feature `fuzzing` only: the mapping is private, because what it takes are GitLab's objects and
//! nobody else has those; and a delivery needs a host to be handled by.

use std::cell::RefCell;
use std::collections::VecDeque;

use crate::gitlab::Discussion;
use crate::host::{
    Delivery, Experience, Failure, Held, Host, Level, Mode, Origin, Outcome, Request, Response,
    RunContext, StreamState, Ticket, Verdict, WriteError,
};
use crate::json;
use crate::mapping::{Mapper, Parent, Project};
use crate::sorted::SortedSet;

const THREAD: &str = "gl:issue:42/1";

/// Reads one JSON text as every kind of record, and maps what it can be read as.
#[must_use]
pub fn map_every_kind(json: &[u8]) -> Vec<Experience> {
    fn row<T: json::Read>(json: &[u8]) -> Option<T> {
        json::from_str(std::str::from_utf8(json).ok()?).ok()
    }
    let project = row(json).and_then(Project::new).or_else(|| {
        row(br#"{"id":42,"path_with_namespace":"acme/widget"}"#).and_then(Project::new)
    });
    let Some(project) = project else {
        return vec![];
    };
    let mapper = Mapper {
        project: &project,
        now: "2026-11-22T00:00:00Z",
    };
    let parent = Parent {
        source_id: THREAD.to_owned(),
        confidential: false,
    };
    let mut mapped = vec![
        row(json).and_then(|row| mapper.merge_request(&row)),
        row(json).and_then(|row| mapper.issue(&row)),
        row(json).and_then(|row| mapper.commit(&row)),
        row(json).and_then(|row| mapper.pipeline(&row)),
        row(json).and_then(|row| mapper.release(&row)),
        row(json).and_then(|row| mapper.note(&row, None, &parent, THREAD)),
    ];
    if let Some(discussion) = row::<Discussion>(json) {
        let id = discussion.id.as_deref();
        let notes = discussion.notes.iter().flatten();
        mapped.extend(notes.map(|note| mapper.note(note, id, &parent, THREAD)));
    }
    mapped.into_iter().flatten().collect()
}

/// Hands a body over as deliveries of several kinds, to a GitLab that knows the project 42 and nothing in it. Answers the verdicts, and the
/// path and query of every request.
///
/// # Errors
/// As [`crate::hooks::handle_delivery`]; never with this GitLab, which answers everything.
pub fn deliver(body: &str) -> Result<(Vec<Verdict>, Vec<Request>), Failure> {
    let headers = [
        None,
        Some("System Hook"),
        Some("Note Hook"),
        Some("Job Hook"),
    ];
    let batch: Vec<Delivery> = headers
        .into_iter()
        .map(|header| Delivery {
            headers: header
                .map(|header| ("x-gitlab-event".to_owned(), header.to_owned()))
                .into_iter()
                .collect(),
            body: body.to_owned(),
        })
        .collect();
    let context = RunContext {
        settings: r#"{"projects":[42]}"#.to_owned(),
        now: "2026-11-22T00:00:00Z".to_owned(),
        since: None,
        mode: Mode::Poll,
        compared: SortedSet::default(),
    };
    let host = EmptyProject::default();
    let verdicts = crate::hooks::handle_delivery(&host, &context, &batch)?;
    Ok((verdicts, host.requests.into_inner()))
}

/// A GitLab with one project that has nothing in it, and a CortexDB that holds whatever it is asked for.
#[derive(Default)]
struct EmptyProject {
    requests: RefCell<Vec<Request>>,
    waiting: RefCell<VecDeque<(Ticket, Outcome)>>,
}

impl Host for EmptyProject {
    fn submit(&self, request: &Request) -> Ticket {
        let path = request.path.as_str();
        let (status, body) = match path.strip_prefix("/api/v4/projects/") {
            Some("42") => (
                200,
                r#"{"id":42,"path_with_namespace":"acme/widget","default_branch":"main"}"#,
            ),
            Some("42/merge_requests" | "42/issues") => (200, "[]"),
            _ => (404, r#"{"message":"404 Not found"}"#),
        };
        let response = Response {
            status,
            headers: Vec::new(),
            body: body.to_owned(),
        };
        let mut requests = self.requests.borrow_mut();
        requests.push(request.clone());
        let ticket = requests.len() as Ticket;
        self.waiting.borrow_mut().push_back((ticket, Ok(response)));
        ticket
    }

    fn next(&self) -> Option<(Ticket, Outcome)> {
        self.waiting.borrow_mut().pop_front()
    }

    fn state(&self, _key: &str) -> Option<String> {
        None
    }

    fn set_state(&self, _key: &str, _value: &str) {}

    fn write(&self, _: &str, _: &Origin, _: &[Experience]) -> Result<(), WriteError> {
        Ok(())
    }

    fn skip(&self, _: &str, _: &str, _: u64) {}

    fn retract(&self, _: &str, _: &[String], _: &str) -> Result<(), WriteError> {
        Ok(())
    }

    fn known(&self, source_ids: &[String]) -> Vec<bool> {
        vec![true; source_ids.len()]
    }

    fn held(&self, source_ids: &[String]) -> Vec<bool> {
        vec![true; source_ids.len()]
    }

    fn listed(&self, _: &str, _: &str, _: &[String], _: bool) -> Result<(), WriteError> {
        Ok(())
    }

    fn unlisted(&self, _: &str, _: &str, _: Option<&str>) -> Result<Vec<Held>, WriteError> {
        Ok(Vec::new())
    }

    fn log(&self, _: Level, _: &str, _: &[(&str, &str)]) {}

    fn progress(&self, _: &str, _: u64, _: Option<u64>) {}

    fn stream_status(&self, _: &str, _: &StreamState) {}
}
