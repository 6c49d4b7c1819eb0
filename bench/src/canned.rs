//! GitLab's answers from memory, so that neither a network nor a server takes part in what is measured.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use gitlab_component::host::{
    Experience, Held, Host, HttpError, Level, Origin, Outcome, Request, Response, StreamState,
    Ticket, WriteError,
};

/// What was answered to a path with its query.
pub(crate) type Answers = HashMap<String, Response>;

/// Names a request.
pub(crate) fn key(path: &str, query: &[(String, String)]) -> String {
    let query: Vec<String> = query
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    format!("{path}?{}", query.join("&"))
}

/// Where answers come from.
pub(crate) enum Source {
    /// A server, whose answers are kept.
    Recording(SocketAddr, RefCell<Answers>),
    /// What was kept.
    Replay(Arc<Answers>),
}

/// A host that answers from a [`Source`] and throws away what it is given. Requests are answered in order, so the connector
/// takes the same way every time.
pub(crate) struct Canned {
    source: Source,
    waiting: RefCell<VecDeque<(Ticket, Outcome)>>,
    tickets: Cell<Ticket>,
    state: RefCell<BTreeMap<String, String>>,
    /// Records that were written or listed.
    pub(crate) records: Cell<usize>,
    /// Bytes of answers.
    pub(crate) bytes: Cell<usize>,
}

impl Canned {
    pub(crate) fn new(source: Source) -> Self {
        Self {
            source,
            waiting: RefCell::default(),
            tickets: Cell::default(),
            state: RefCell::default(),
            records: Cell::default(),
            bytes: Cell::default(),
        }
    }

    pub(crate) fn recorded(self) -> Answers {
        match self.source {
            Source::Recording(_, answers) => answers.into_inner(),
            Source::Replay(answers) => Arc::unwrap_or_clone(answers),
        }
    }
}

impl Host for Canned {
    fn submit(&self, request: &Request) -> Ticket {
        let ticket = self.tickets.get() + 1;
        self.tickets.set(ticket);
        let key = key(&request.path, &request.query);
        let outcome = match &self.source {
            Source::Recording(address, answers) => match fetch(*address, request) {
                Ok(response) => {
                    answers.borrow_mut().insert(key, response.clone());
                    Ok(response)
                }
                Err(error) => Err(HttpError::Unavailable(error.to_string())),
            },
            Source::Replay(answers) => match answers.get(&key) {
                Some(response) => Ok(response.clone()),
                None => Err(HttpError::Unavailable(format!("{key} was not recorded"))),
            },
        };
        if let Ok(response) = &outcome {
            self.bytes.set(self.bytes.get() + response.body.len());
        }
        self.waiting.borrow_mut().push_back((ticket, outcome));
        ticket
    }

    fn next(&self) -> Option<(Ticket, Outcome)> {
        self.waiting.borrow_mut().pop_front()
    }

    fn state(&self, key: &str) -> Option<String> {
        self.state.borrow().get(key).cloned()
    }

    fn set_state(&self, key: &str, value: &str) {
        self.state
            .borrow_mut()
            .insert(key.to_owned(), value.to_owned());
    }

    fn write(&self, _: &str, _: &Origin, batch: &[Experience]) -> Result<(), WriteError> {
        self.records.set(self.records.get() + batch.len());
        Ok(())
    }

    fn skip(&self, _: &str, _: &str, _: u64) {}

    fn retract(&self, _: &str, _: &[String], _: &str) -> Result<(), WriteError> {
        Ok(())
    }

    fn held(&self, source_ids: &[String]) -> Vec<bool> {
        vec![false; source_ids.len()]
    }

    fn known(&self, source_ids: &[String]) -> Vec<bool> {
        vec![false; source_ids.len()]
    }

    fn listed(&self, _: &str, _: &str, ids: &[String], _: bool) -> Result<(), WriteError> {
        self.records.set(self.records.get() + ids.len());
        Ok(())
    }

    fn unlisted(&self, _: &str, _: &str, _: Option<&str>) -> Result<Vec<Held>, WriteError> {
        Ok(Vec::new())
    }

    fn log(&self, _: Level, _: &str, _: &[(&str, &str)]) {}

    fn progress(&self, _: &str, _: u64, _: Option<u64>) {}

    fn stream_status(&self, _: &str, _: &StreamState) {}
}

/// One request over a connection of its own. The simulator is on this machine and always says how long its answer is.
fn fetch(address: SocketAddr, request: &Request) -> std::io::Result<Response> {
    let query: Vec<String> = request
        .query
        .iter()
        .map(|(name, value)| format!("{name}={}", encode(value)))
        .collect();
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "GET {}?{} HTTP/1.1\r\nHost: {address}\r\nPRIVATE-TOKEN: {}\r\nConnection: close\r\n\r\n",
        request.path,
        query.join("&"),
        simulators::gitlab::TOKEN,
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer).map_err(std::io::Error::other)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| std::io::Error::other("an answer without an end of its head"))?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .ok_or_else(|| std::io::Error::other("an answer without a status"))?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok(Response {
        status,
        headers,
        body: body.to_owned(),
    })
}

fn encode(value: &str) -> String {
    let mut encoded = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
