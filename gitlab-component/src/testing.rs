//! A host and a GitLab made of ordinary Rust, for the tests of this crate.
//!
//! [`FakeGitLab`] answers from lists of JSON rows by the rules that matter to the walks: inclusive time filters with times cut
//! to milliseconds, `id DESC` inside of a tie, offset pages with their headers. A hook runs before every answer, so that a test
//! can change things while they are read. [`TestHost`] finishes requests in a shuffled order and remembers every call.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::host::{
    Delivery, Experience, Held, Host, HttpError, Level, Mode, Origin, Outcome, Request, Response,
    RunContext, StreamState, Ticket, Verdict, WriteError,
};
use crate::sorted::SortedSet;
use crate::time::Moment;

/// The host's clock, and GitLab's unless a test moves it.
pub(crate) const NOW: &str = "2026-11-22T10:00:00Z";

/// A call of the connector.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Call {
    Write(String, Vec<Experience>),
    SetState(String, String),
    Skip(String, String, u64),
    Retract(String, Vec<String>, String),
    Status(String, StreamState),
    Log(Level, String),
}

/// A row of a list; times in microseconds, as in GitLab's database.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) id: u64,
    pub(crate) updated: i64,
    pub(crate) body: Value,
}

type Hook = Box<dyn FnMut(&mut FakeGitLab, &Request)>;
type Handler = Box<dyn FnMut(&Request) -> Option<Outcome>>;

/// GitLab, as far as the connector looks.
#[derive(Default)]
pub(crate) struct FakeGitLab {
    /// Sorted and filtered by `updated`, by path below `/api/v4`. A row that says of itself that it has no `updated_at` has none: it
    /// is in no window of time, and comes last.
    pub(crate) lists: BTreeMap<String, Vec<Row>>,
    /// Paged as they are.
    pub(crate) plain: BTreeMap<String, Vec<Value>>,
    pub(crate) objects: BTreeMap<String, Value>,
    pub(crate) refusals: BTreeMap<String, (u16, String)>,
    /// Commits, newest first, by project path.
    pub(crate) commits: BTreeMap<String, Vec<String>>,
    /// Bytes of the message of each commit, by project path; none where it is not said.
    pub(crate) message_bytes: BTreeMap<String, usize>,
    pub(crate) hide_totals: bool,
    pub(crate) hide_date: bool,
    /// GitLab's clock as its `Date` header has it, if it is not [`NOW`].
    pub(crate) date: Option<String>,
    /// Page sizes above this time out.
    pub(crate) patience: Option<u64>,
}

pub(crate) fn micros(text: &str) -> i64 {
    let moment = Moment::parse(text).expect("a time");
    // Nothing outside of `time` needs the number, so it is counted here.
    let mut low = -100_000_000_000_000_000_i64;
    let mut high = 300_000_000_000_000_000_i64;
    while high - low > 1 {
        let middle = low.midpoint(high);
        if Moment::from_micros(middle) <= moment {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// As GitLab prints it: milliseconds, cut off.
pub(crate) fn printed(updated: i64) -> String {
    Moment::from_micros(updated.div_euclid(1000) * 1000).to_string()
}

impl FakeGitLab {
    /// One project, 42, with nothing in it.
    pub(crate) fn with_project() -> Self {
        let mut gitlab = Self::default();
        gitlab.objects.insert("/projects/42".to_owned(), project());
        gitlab.commits.insert("/projects/42".to_owned(), Vec::new());
        for list in ["merge_requests", "issues", "pipelines"] {
            gitlab
                .lists
                .insert(format!("/projects/42/{list}"), Vec::new());
        }
        gitlab
            .plain
            .insert("/projects/42/releases".to_owned(), Vec::new());
        gitlab
    }

    /// Adds a row to a list of project 42.
    pub(crate) fn add(&mut self, list: &str, id: u64, updated: &str, mut body: Value) {
        body["id"] = (1000 + id).into();
        body["iid"] = id.into();
        let row = Row {
            id: 1000 + id,
            updated: micros(updated),
            body,
        };
        self.lists
            .entry(format!("/projects/42/{list}"))
            .or_default()
            .push(row);
    }

    fn answer(&self, request: &Request) -> Outcome {
        let path = request
            .path
            .strip_prefix("/api/v4")
            .expect("an API path")
            .to_owned();
        let query: BTreeMap<&str, &str> = request
            .query
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        let number = |key: &str, default: u64| {
            query
                .get(key)
                .map_or(default, |value| value.parse().expect("a number"))
        };
        let (size, page) = (number("per_page", 20), number("page", 1));
        if self
            .patience
            .is_some_and(|patience| size > patience && query.contains_key("per_page"))
        {
            return Err(HttpError::TimedOut("60 s".to_owned()));
        }
        if let Some((status, body)) = self.refusals.get(&path) {
            return Ok(Response {
                status: *status,
                headers: Vec::new(),
                body: body.clone(),
            });
        }
        if let Some(body) = self.objects.get(&path) {
            return Ok(self.ok(body, Vec::new()));
        }
        let rows: Vec<Value> = if let Some(project) = path.strip_suffix("/repository/commits") {
            self.log_of(project, query.get("ref_name").copied().unwrap_or("main"))
                .into_iter()
                .map(Value::from)
                .collect()
        } else if path == "/projects" && query.contains_key("id_after") {
            let (after, before) = (number("id_after", 0), number("id_before", u64::MAX));
            let rows = self.plain.get(&path).into_iter().flatten();
            let is_between = |row: &&Value| {
                let id = row["id"].as_u64().expect("an id");
                id > after && id < before
            };
            rows.filter(is_between).cloned().collect()
        } else if let Some(rows) = self.plain.get(&path) {
            // Releases hide when they were changed; here it is when they were made.
            let after = query.get("updated_after").map(|text| micros(text));
            let made = |row: &Value| row["created_at"].as_str().map(micros);
            let is_new = |row: &&Value| {
                made(row)
                    .zip(after)
                    .is_none_or(|(made, after)| made >= after)
            };
            rows.iter().filter(is_new).cloned().collect()
        } else if let Some(rows) = self.lists.get(&path) {
            let iids: Vec<&str> = request
                .query
                .iter()
                .filter(|(key, _)| key == "iids[]")
                .map(|(_, value)| value.as_str())
                .collect();
            let is_asked_for = |row: &&Row| {
                iids.is_empty() || iids.contains(&row.body["iid"].to_string().as_str())
            };
            let rows: Vec<Row> = rows.iter().filter(is_asked_for).cloned().collect();
            Self::filtered(&rows, &query)
        } else if let Some(list) = path.strip_prefix("/groups/5/") {
            // The only group has every project.
            let rows: Vec<Row> = self.rows_of_all_projects(list);
            Self::filtered(&rows, &query)
        } else {
            let body = json!({"message": "404 Not found"}).to_string();
            return Ok(Response {
                status: 404,
                headers: Vec::new(),
                body,
            });
        };
        let total = rows.len() as u64;
        let start = usize::try_from((page - 1) * size).expect("small");
        let project = path.trim_end_matches("/repository/commits");
        let message_bytes = self.message_bytes.get(project).copied().unwrap_or_default();
        let rows: Vec<Value> = rows
            .into_iter()
            .skip(start)
            .take(usize::try_from(size).expect("small"))
            .map(|row| detailed(row, message_bytes))
            .collect();
        let next = if page * size < total {
            (page + 1).to_string()
        } else {
            String::new()
        };
        let mut headers = vec![
            ("x-page".to_owned(), page.to_string()),
            ("x-next-page".to_owned(), next),
        ];
        if !self.hide_totals && !path.ends_with("/commits") {
            headers.push(("x-total".to_owned(), total.to_string()));
        }
        Ok(self.ok(&Value::from(rows), headers))
    }

    fn rows_of_all_projects(&self, list: &str) -> Vec<Row> {
        let mut all = Vec::new();
        for (path, rows) in &self.lists {
            let project = path
                .strip_prefix("/projects/")
                .and_then(|rest| rest.strip_suffix(list)?.strip_suffix('/'));
            let Some(project) = project.and_then(|id| id.parse::<u64>().ok()) else {
                continue;
            };
            all.extend(rows.iter().map(|row| {
                let mut row = row.clone();
                row.body["project_id"] = project.into();
                row
            }));
        }
        all
    }

    fn ok(&self, body: &Value, mut headers: Vec<(String, String)>) -> Response {
        if !self.hide_date {
            headers.push((
                "date".to_owned(),
                self.date
                    .clone()
                    .unwrap_or_else(|| "Sun, 22 Nov 2026 10:00:00 GMT".to_owned()),
            ));
        }
        Response {
            status: 200,
            headers,
            body: body.to_string(),
        }
    }

    fn filtered(rows: &[Row], query: &BTreeMap<&str, &str>) -> Vec<Value> {
        let after = query.get("updated_after").map(|text| micros(text));
        let before = query.get("updated_before").map(|text| micros(text));
        let timeless = |row: &Row| row.body.get("updated_at").is_some_and(Value::is_null);
        let mut rows: Vec<&Row> = rows
            .iter()
            .filter(|row| {
                after.is_none_or(|after| row.updated >= after && !timeless(row))
                    && before.is_none_or(|before| row.updated <= before && !timeless(row))
                    && query
                        .get("source")
                        .is_none_or(|source| row.body["source"] == **source)
            })
            .collect();
        match query.get("order_by").copied() {
            Some("updated_at") => {
                rows.sort_by_key(|row| (timeless(row), row.updated, Reverse(row.id)));
            }
            Some("created_at" | "id") => rows.sort_by_key(|row| row.id),
            None => {}
            other => panic!("unexpected order {other:?}"),
        }
        if query.get("sort") == Some(&"desc") {
            rows.reverse();
        }
        rows.into_iter()
            .map(|row| {
                let mut body = row.body.clone();
                body["id"] = row.id.into();
                if !timeless(row) {
                    body["updated_at"] = printed(row.updated).into();
                }
                body
            })
            .collect()
    }

    /// Commits of a ref or a range, newest first. Every commit of every branch is in one list, the newest first.
    fn log_of(&self, project: &str, reference: &str) -> Vec<String> {
        let all = self.commits.get(project).cloned().unwrap_or_default();
        let from_newest = |reference: &str| match reference {
            "main" => Some(0),
            sha => all.iter().position(|commit| commit == sha),
        };
        let range = match reference.split_once("..") {
            Some((old, new)) => match (from_newest(old), from_newest(new)) {
                (Some(old), Some(new)) if new < old => new..old,
                _ => 0..0,
            },
            None => from_newest(reference).unwrap_or(all.len())..all.len(),
        };
        all[range].to_vec()
    }
}

/// A commit is only a sha until it is looked at.
fn detailed(row: Value, message_bytes: usize) -> Value {
    match row {
        Value::String(sha) => {
            json!({
                "id": sha, "title": format!("Commit {sha}"), "message": "m".repeat(message_bytes),
                "committed_date": "2026-01-01T00:00:00.000+01:00",
            })
        }
        row => row,
    }
}

/// What GitLab says about project 42.
pub(crate) fn project() -> Value {
    json!({
        "id": 42, "path_with_namespace": "acme/team/widget", "default_branch": "main", "empty_repo": false,
        "namespace": {"full_path": "acme/team"},
    })
}

/// A host that keeps everything in memory.
pub(crate) struct TestHost {
    pub(crate) gitlab: RefCell<FakeGitLab>,
    hook: RefCell<Option<Hook>>,
    handler: RefCell<Option<Handler>>,
    waiting: RefCell<Vec<(Ticket, Request)>>,
    tickets: Cell<Ticket>,
    random: Cell<u64>,
    pub(crate) most_in_flight: Cell<usize>,
    pub(crate) requests: RefCell<Vec<Request>>,
    pub(crate) calls: RefCell<Vec<Call>>,
    pub(crate) state: RefCell<BTreeMap<String, String>>,
    pub(crate) known: RefCell<BTreeSet<String>>,
    /// What is written and not retracted: its stream, and the root of its thread.
    pub(crate) held: RefCell<BTreeMap<String, (String, Option<String>)>>,
    /// What this run listed, and whether it is wanted.
    pub(crate) listed: RefCell<BTreeMap<String, bool>>,
    /// The run is interrupted at this many requests.
    pub(crate) interrupt_after: Cell<Option<usize>>,
}

impl TestHost {
    pub(crate) fn new(gitlab: FakeGitLab) -> Self {
        Self {
            gitlab: RefCell::new(gitlab),
            hook: RefCell::default(),
            handler: RefCell::default(),
            waiting: RefCell::default(),
            tickets: Cell::default(),
            random: Cell::new(0x9e37_79b9_7f4a_7c15),
            most_in_flight: Cell::default(),
            requests: RefCell::default(),
            calls: RefCell::default(),
            state: RefCell::default(),
            known: RefCell::default(),
            held: RefCell::default(),
            listed: RefCell::default(),
            interrupt_after: Cell::default(),
        }
    }

    /// Runs before every answer.
    pub(crate) fn hook(self, hook: impl FnMut(&mut FakeGitLab, &Request) + 'static) -> Self {
        *self.hook.borrow_mut() = Some(Box::new(hook));
        self
    }

    /// Answers instead of GitLab where it wants to.
    pub(crate) fn handler(
        self,
        handler: impl FnMut(&Request) -> Option<Outcome> + 'static,
    ) -> Self {
        *self.handler.borrow_mut() = Some(Box::new(handler));
        self
    }

    /// Runs `sync` with these settings.
    pub(crate) fn sync(&self, settings: &Value) -> Result<(), crate::host::Failure> {
        self.sync_since(settings, None)
    }

    pub(crate) fn sync_as(&self, mode: Mode, settings: &Value) -> Result<(), crate::host::Failure> {
        let context = RunContext {
            mode,
            ..context(settings, None)
        };
        self.sync_with(&context)
    }

    pub(crate) fn sync_since(
        &self,
        settings: &Value,
        since: Option<&str>,
    ) -> Result<(), crate::host::Failure> {
        self.sync_with(&context(settings, since))
    }

    pub(crate) fn sync_with(&self, context: &RunContext) -> Result<(), crate::host::Failure> {
        self.calls.borrow_mut().clear();
        self.requests.borrow_mut().clear();
        self.waiting.borrow_mut().clear();
        self.listed.borrow_mut().clear();
        crate::sync(self, context)
    }

    /// Hands over calls of GitLab's, as pairs of their header and their body.
    pub(crate) fn deliver_texts(
        &self,
        settings: &Value,
        calls: &[(Option<&str>, String)],
    ) -> Result<Vec<Verdict>, crate::host::Failure> {
        self.calls.borrow_mut().clear();
        self.requests.borrow_mut().clear();
        self.waiting.borrow_mut().clear();
        let batch: Vec<Delivery> = calls
            .iter()
            .map(|(header, body)| Delivery {
                headers: header
                    .iter()
                    .map(|header| ("x-gitlab-event".to_owned(), (*header).to_owned()))
                    .collect(),
                body: body.clone(),
            })
            .collect();
        crate::hooks::handle_delivery(self, &context(settings, None), &batch)
    }

    /// The same for bodies that are JSON and have no header.
    pub(crate) fn deliver(
        &self,
        settings: &Value,
        bodies: &[Value],
    ) -> Result<Vec<Verdict>, crate::host::Failure> {
        let calls: Vec<_> = bodies.iter().map(|body| (None, body.to_string())).collect();
        self.deliver_texts(settings, &calls)
    }

    /// Everything that was retracted, sorted.
    pub(crate) fn retracted(&self) -> Vec<String> {
        let calls = self.calls.borrow();
        let mut ids: Vec<String> = calls
            .iter()
            .filter_map(|call| match call {
                Call::Retract(_, ids, _) => Some(ids.clone()),
                _ => None,
            })
            .flatten()
            .collect();
        ids.sort();
        ids
    }

    /// Everything that was written, in order.
    pub(crate) fn written(&self) -> Vec<Experience> {
        let calls = self.calls.borrow();
        calls
            .iter()
            .filter_map(|call| {
                if let Call::Write(_, batch) = call {
                    Some(batch.clone())
                } else {
                    None
                }
            })
            .flatten()
            .collect()
    }

    pub(crate) fn written_ids(&self) -> Vec<String> {
        self.written()
            .into_iter()
            .map(|experience| experience.source_id)
            .collect()
    }

    /// How many records were left out by a policy.
    pub(crate) fn skipped(&self, policy: &str) -> u64 {
        let calls = self.calls.borrow();
        calls
            .iter()
            .map(|call| {
                if let Call::Skip(_, name, count) = call
                    && name == policy
                {
                    *count
                } else {
                    0
                }
            })
            .sum()
    }

    /// How a stream ended.
    pub(crate) fn status(&self, stream: &str) -> Option<StreamState> {
        let calls = self.calls.borrow();
        calls.iter().rev().find_map(|call| match call {
            Call::Status(name, state) if name == stream => Some(state.clone()),
            _ => None,
        })
    }

    pub(crate) fn cursor(&self, stream: &str) -> Option<Value> {
        self.state
            .borrow()
            .get(stream)
            .map(|text| serde_json::from_str(text).expect("cursors are JSON"))
    }

    pub(crate) fn logged(&self, words: &str) -> bool {
        self.calls
            .borrow()
            .iter()
            .any(|call| matches!(call, Call::Log(_, line) if line.contains(words)))
    }

    fn random(&self, below: usize) -> usize {
        let mut value = self.random.get();
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
        self.random.set(value);
        usize::try_from(value % below as u64).expect("small")
    }
}

pub(crate) fn context(settings: &Value, since: Option<&str>) -> RunContext {
    RunContext {
        settings: settings.to_string(),
        now: NOW.to_owned(),
        since: since.map(str::to_owned),
        mode: Mode::Poll,
        compared: SortedSet::default(),
    }
}

impl Host for TestHost {
    fn submit(&self, request: &Request) -> Ticket {
        assert!(
            request.delay_ms <= 60_000 && request.path.starts_with("/api/v4/"),
            "{request:?}"
        );
        let ticket = self.tickets.get() + 1;
        self.tickets.set(ticket);
        self.requests.borrow_mut().push(request.clone());
        self.waiting.borrow_mut().push((ticket, request.clone()));
        self.most_in_flight
            .set(self.most_in_flight.get().max(self.waiting.borrow().len()));
        ticket
    }

    fn next(&self) -> Option<(Ticket, Outcome)> {
        let count = self.waiting.borrow().len();
        if count == 0 {
            return None;
        }
        let index = self.random(count);
        let (ticket, request) = self.waiting.borrow_mut().remove(index);
        if self
            .interrupt_after
            .get()
            .is_some_and(|limit| self.requests.borrow().len() > limit)
        {
            return Some((ticket, Err(HttpError::Interrupted)));
        }
        if let Some(hook) = self.hook.borrow_mut().as_mut() {
            hook(&mut self.gitlab.borrow_mut(), &request);
        }
        let handled = self
            .handler
            .borrow_mut()
            .as_mut()
            .and_then(|handler| handler(&request));
        Some((
            ticket,
            handled.unwrap_or_else(|| self.gitlab.borrow().answer(&request)),
        ))
    }

    fn state(&self, key: &str) -> Option<String> {
        self.state.borrow().get(key).cloned()
    }

    fn set_state(&self, key: &str, value: &str) {
        assert!(
            key.len() <= 512 && value.len() <= 64 << 10,
            "{key} has {} bytes",
            value.len()
        );
        self.state
            .borrow_mut()
            .insert(key.to_owned(), value.to_owned());
        self.calls
            .borrow_mut()
            .push(Call::SetState(key.to_owned(), value.to_owned()));
    }

    fn write(&self, stream: &str, origin: &Origin, batch: &[Experience]) -> Result<(), WriteError> {
        assert!(origin.id.starts_with("project/"), "{origin:?}");
        for experience in batch {
            assert_is_acceptable(experience);
        }
        self.known
            .borrow_mut()
            .extend(batch.iter().map(|experience| experience.source_id.clone()));
        self.held
            .borrow_mut()
            .extend(batch.iter().map(|experience| {
                let root = experience.thread.as_ref().map(|thread| thread.root.clone());
                (experience.source_id.clone(), (stream.to_owned(), root))
            }));
        self.calls
            .borrow_mut()
            .push(Call::Write(stream.to_owned(), batch.to_vec()));
        Ok(())
    }

    fn skip(&self, stream: &str, policy: &str, count: u64) {
        self.calls
            .borrow_mut()
            .push(Call::Skip(stream.to_owned(), policy.to_owned(), count));
    }

    fn retract(&self, stream: &str, source_ids: &[String], reason: &str) -> Result<(), WriteError> {
        self.held.borrow_mut().retain(|id, (_, root)| {
            !source_ids.contains(id) && root.as_ref().is_none_or(|root| !source_ids.contains(root))
        });
        self.calls.borrow_mut().push(Call::Retract(
            stream.to_owned(),
            source_ids.to_vec(),
            reason.to_owned(),
        ));
        Ok(())
    }

    fn known(&self, source_ids: &[String]) -> Vec<bool> {
        source_ids
            .iter()
            .map(|id| self.known.borrow().contains(id))
            .collect()
    }

    fn held(&self, source_ids: &[String]) -> Vec<bool> {
        source_ids
            .iter()
            .map(|id| self.held.borrow().contains_key(id))
            .collect()
    }

    fn listed(
        &self,
        _stream: &str,
        event_type: &str,
        source_ids: &[String],
        wanted: bool,
    ) -> Result<(), WriteError> {
        for id in source_ids {
            assert_eq!(id.split(':').nth(1), Some(event_type), "{id}");
            *self.listed.borrow_mut().entry(id.clone()).or_default() |= wanted;
        }
        Ok(())
    }

    fn unlisted(
        &self,
        stream: &str,
        event_type: &str,
        after: Option<&str>,
    ) -> Result<Vec<Held>, WriteError> {
        let listed = self.listed.borrow();
        let held = self.held.borrow();
        let unlisted = held.iter().filter(|(id, (at, _))| {
            at == stream
                && id.split(':').nth(1) == Some(event_type)
                && !listed.contains_key(*id)
                && after.is_none_or(|after| id.as_str() > after)
        });
        Ok(unlisted
            .take(2)
            .map(|(id, (_, root))| Held {
                source_id: id.clone(),
                root: root.clone(),
            })
            .collect())
    }

    fn log(&self, level: Level, message: &str, _fields: &[(&str, &str)]) {
        self.calls
            .borrow_mut()
            .push(Call::Log(level, message.to_owned()));
    }

    fn progress(&self, _stream: &str, _done: u64, _total: Option<u64>) {}

    fn stream_status(&self, stream: &str, state: &StreamState) {
        self.calls
            .borrow_mut()
            .push(Call::Status(stream.to_owned(), state.clone()));
    }
}

/// Holds a record to the contract in `wit/types.wit`: what breaks it would become a dead letter.
pub(crate) fn assert_is_acceptable(experience: &Experience) {
    let id = &experience.source_id;
    assert!(
        id.len() <= 4096 && id.trim() == id && !id.contains(char::is_control),
        "{id:?}"
    );
    assert_eq!(id.split(':').nth(1), Some(experience.event_type), "{id}");
    assert!(!experience.content.trim().is_empty(), "{id} has no text");
    let strict = |time: &str| crate::time::rfc3339(time).as_deref() == Some(time);
    assert!(
        strict(&experience.observed_at),
        "{id}: {}",
        experience.observed_at
    );
    assert!(
        experience.recorded_at.as_deref().is_none_or(strict),
        "{id}: {:?}",
        experience.recorded_at
    );
    assert!(
        experience.labels.len() + experience.attributes.len() <= 60,
        "{id} has too many marks"
    );
    let attributes = experience
        .attributes
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    for mark in experience.labels.iter().cloned().chain(attributes) {
        assert!(
            mark.len() <= 256 && mark.trim() == mark && !mark.contains(char::is_control),
            "{id}: {mark:?}"
        );
    }
}
