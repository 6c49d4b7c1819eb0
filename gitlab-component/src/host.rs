//! What the connector needs from the outside, as one trait.
//!
//! The generated bindings exist only on wasm and can only be called there. Everything above them is written against [`Host`]
//! instead, so that the whole connector compiles natively and is tested against a host made of ordinary Rust; the module
//! `face` is the one place that translates between the two. The types mirror `wit/`, which documents them.

use crate::sorted::SortedSet;

/// Names one request of this run. Never used twice.
pub type Ticket = u64;

/// What finally became of a request.
pub type Outcome = Result<Response, HttpError>;

/// What to do when the source takes too long to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnTimeout {
    /// Try again until the run's patience ends.
    Retry,
    /// Report it, so that less can be asked for.
    Report,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Reads; the answer must be JSON. Records are read with nothing else.
    Get,
    /// Makes a webhook, or has one sent.
    Post,
    /// Changes a webhook.
    Put,
    /// Removes a webhook.
    Delete,
}

/// A request to GitLab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it is for.
    pub method: Method,
    /// Absolute and percent-encoded.
    pub path: String,
    /// Not encoded.
    pub query: Vec<(String, String)>,
    /// JSON, where something is sent along.
    pub body: Option<String>,
    /// What to do when the answer takes too long.
    pub on_timeout: OnTimeout,
    /// Milliseconds to wait before the first attempt.
    pub delay_ms: u32,
}

/// An answer of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body as text.
    pub body: String,
}

impl Response {
    /// The value of a header, by its lower-case name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpError {
    /// Not allowed or malformed: a bug of this connector.
    Denied(String),
    /// Only with [`OnTimeout::Report`].
    TimedOut(String),
    /// The body is over this many bytes.
    TooLarge(u64),
    /// No usable answer within the run's patience.
    Unavailable(String),
    /// The run is being stopped.
    Interrupted,
}

/// Why records were not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteError {
    /// The call breaks a rule of the interface: a bug of this connector.
    Invalid(String),
    /// The run is stopping.
    Stopped(String),
}

/// How CortexDB should treat an experience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modality {
    /// A text with a current version.
    Document,
    /// One turn of a conversation.
    Conversation,
    /// Something that happened at a moment.
    Observation,
}

/// The project that records come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Stable id (`project/42`).
    pub id: String,
    /// Values for the placeholders of the scope template.
    pub variables: Vec<(&'static str, String)>,
}

/// The conversation that an experience is a turn of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// Source id of the record that opened it.
    pub root: String,
    /// Place in the thread.
    pub turn: u32,
}

/// One record of the source, as it is to be remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Experience {
    /// Stable identity (`gl:issue:42/7`).
    pub source_id: String,
    /// Kind of record.
    pub event_type: &'static str,
    /// How CortexDB should treat it.
    pub modality: Modality,
    /// The whole text.
    pub content: String,
    /// When it happened.
    pub observed_at: String,
    /// When GitLab first stored it, where different.
    pub recorded_at: Option<String>,
    /// Who did it (`user:17`).
    pub author: Option<String>,
    /// Searchable marks.
    pub labels: Vec<String>,
    /// Facts about the record.
    pub attributes: Vec<(&'static str, String)>,
    /// Source ids of what came directly before.
    pub preceded_by: Vec<String>,
    /// The conversation it belongs to.
    pub thread: Option<Thread>,
}

/// How loud a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For those who debug the connector.
    Debug,
    /// For those who run it.
    Info,
    /// Something that a person should look at.
    Warn,
    /// Something broke.
    Error,
}

/// What a stream is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamState {
    /// Being read.
    Reading,
    /// Read to its end in this run.
    Complete,
    /// Not offered here, with GitLab's words.
    Off(String),
    /// Ended early, its cursor is held; the reason.
    Failed(String),
}

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Write what is new since the cursors.
    #[default]
    Poll,
    /// Then read everything once more, and forget what is gone.
    Reconcile,
    /// Only list, so that the host can compare. Nothing is written.
    Verify,
}

impl Mode {
    /// As the options of a run say.
    pub fn of<'a>(options: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        options
            .into_iter()
            .fold(Self::Poll, |mode, option| match option {
                ("verify", "true") => Self::Verify,
                ("reconcile", "true") if mode == Self::Poll => Self::Reconcile,
                _ => mode,
            })
    }
}

/// A record that CortexDB holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Stable identity.
    pub source_id: String,
    /// Source id of the record that opened its thread.
    pub root: Option<String>,
}

/// What a run is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunContext {
    /// JSON object that fits the settings schema.
    pub settings: String,
    /// The host's clock when the run began, RFC 3339.
    pub now: String,
    /// Read again from here, RFC 3339.
    pub since: Option<String>,
    /// What the run is for.
    pub mode: Mode,
    /// Streams that an interrupted pass has compared before: this run, which goes on with it, reads of them only what is new.
    pub compared: SortedSet<String>,
}

/// Why a run could not be completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The user named something that cannot work. Nothing was written.
    Configuration(String),
    /// GitLab refuses the credentials, or they allow too little.
    Standing(String),
    /// GitLab could not be read to the end in time.
    Unavailable(String),
    /// The host asked to stop.
    Interrupted,
    /// GitLab broke its contract, or this connector has a bug.
    Internal(String),
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Notice,
    /// A run would fail.
    Problem,
}

/// One thing that `check` looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub subject: String,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// A call of GitLab's, verified by the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Those of [`HooksDescription::headers`] that were present; names in lower case.
    pub headers: Vec<(String, String)>,
    /// As received.
    pub body: String,
}

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// What it points at was read, and handed over or retracted; or it was known already.
    Handled,
    /// Nothing that this connection wants; the reason.
    Ignored(String),
    /// It may matter and cannot be followed to a record; the reason.
    Poll(String),
}

/// How a call proves that it comes from GitLab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Signed, as in Standard Webhooks.
    StandardWebhooks,
    /// The secret in this header, as it is.
    Header(&'static str),
}

/// What the host must know about the calls of GitLab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HooksDescription {
    /// In the order in which they are tried.
    pub proofs: &'static [Proof],
    /// Headers that name a call, the same when it is repeated.
    pub id_headers: &'static [&'static str],
    /// Further headers that are wanted.
    pub headers: &'static [&'static str],
}

/// Where GitLab is to send its calls.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// The address.
    pub url: String,
    /// Recognises the hooks of this connection: their name.
    pub name: String,
    /// Sent along as `X-Gitlab-Token`.
    pub secret: String,
    /// What GitLab 19.0 and later sign with.
    pub signing_token: String,
    /// Whether one of the two is new.
    pub rotated: bool,
}

/// How a hook is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookState {
    /// As it should be.
    Active,
    /// GitLab has switched it off.
    Disabled,
    /// On, and its calls fail.
    Failing,
}

/// A hook of GitLab's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Its path (`groups/12/hooks/7`).
    pub id: String,
    /// What it covers (`group acme`).
    pub subject: String,
    /// How it is doing.
    pub state: HookState,
    /// What it tells of, as GitLab names it.
    pub events: Vec<String>,
    /// What was done about it in this call, or what is wrong.
    pub message: Option<String>,
}

/// What no hook tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Polled {
    /// What (`everything of project acme/widget`).
    pub subject: String,
    /// Why, and what would change it.
    pub reason: String,
}

/// What is told by hooks, and what is not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The hooks of this connection.
    pub hooks: Vec<Hook>,
    /// What is found by polling alone.
    pub polled: Vec<Polled>,
    /// Calls may have been lost since the last time.
    pub missed: bool,
}

/// The imports of the connector.
pub trait Host {
    /// Starts a request and returns at once.
    fn submit(&self, request: &Request) -> Ticket;
    /// Waits for the next finished request; `None` when nothing is in flight.
    fn next(&self) -> Option<(Ticket, Outcome)>;
    /// The cursor of a stream.
    fn state(&self, key: &str) -> Option<String>;
    /// Moves a cursor; it becomes durable behind everything written before.
    fn set_state(&self, key: &str, value: &str);
    /// Hands over records.
    ///
    /// # Errors
    /// When the run is stopping, or the call is malformed.
    fn write(&self, stream: &str, origin: &Origin, batch: &[Experience]) -> Result<(), WriteError>;
    /// Counts records that a stated policy leaves out.
    fn skip(&self, stream: &str, policy: &str, count: u64);
    /// Forgets what was written for these source ids.
    ///
    /// # Errors
    /// When the run is stopping, or the call is malformed.
    fn retract(&self, stream: &str, source_ids: &[String], reason: &str) -> Result<(), WriteError>;
    /// For each id, whether some version of it is written.
    fn known(&self, source_ids: &[String]) -> Vec<bool>;
    /// For each id, whether some version of it may be in CortexDB, one without a receipt among them: what is worth a retraction.
    fn held(&self, source_ids: &[String]) -> Vec<bool>;
    /// Says that GitLab lists these records now; `wanted`: and that they belong into CortexDB.
    ///
    /// # Errors
    /// When the run is stopping, or the call is malformed.
    fn listed(
        &self,
        stream: &str,
        event_type: &str,
        source_ids: &[String],
        wanted: bool,
    ) -> Result<(), WriteError>;
    /// The next records that are held and were not listed in this run.
    ///
    /// # Errors
    /// When the run is stopping, or the call is malformed.
    fn unlisted(
        &self,
        stream: &str,
        event_type: &str,
        after: Option<&str>,
    ) -> Result<Vec<Held>, WriteError>;
    /// One line for those who run the connector.
    fn log(&self, level: Level, message: &str, fields: &[(&str, &str)]);
    /// How many records of a stream have been read.
    fn progress(&self, stream: &str, done: u64, total: Option<u64>);
    /// What a stream is doing.
    fn stream_status(&self, stream: &str, state: &StreamState);
}
