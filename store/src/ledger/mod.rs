//! The ledger: what CortexDB holds of each record, and what is on its way there.
//!
//! CortexDB forgets an idempotency key after a day, and a source forgets nothing: without a memory of our own every full read would
//! double everything. The ledger is that memory. For each source id it knows the digest of the current version, its generation, and
//! the event ids. A version is *begun* (written down with its key and its predecessors) before it is sent, so that after a crash the same bytes are
//! sent again under the same key; it becomes *live* in the same transaction that queues its predecessor to be forgotten.
//!
//! The trade-off: one small commit before and one after each batch, a few milliseconds, for never having to guess.
//!
//! Only one process may write for a connection. A lease with a fencing *epoch* guards that, and every transaction that writes checks
//! the epoch first: a process that was frozen and woke up after somebody else took over is refused by the storage itself, which is
//! the only place where such a check holds.

#[cfg(test)]
mod conformance;
mod log;
mod postgres;
mod rebuilt;
mod sqlite;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;

#[cfg(test)]
pub(crate) use postgres::MOST_IDLE;
pub use postgres::PostgresStore;
pub(crate) use postgres::Waits;
pub use sqlite::SqliteStore;
pub(crate) use sqlite::next_number;

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process took over this connection. No further I/O is allowed.
    #[error("another process has taken over this connection; this one stops")]
    Fenced,
    /// Another process holds the connection and is alive.
    #[error(
        "another process ({owner}) is running this connection; wait for it or stop it. If it is dead, its lease ends by itself in {seconds} s"
    )]
    Held {
        /// Who holds it.
        owner: String,
        /// When its lease ends at the latest.
        seconds: i64,
    },
    /// The file, or the database of this address, cannot be used as a ledger.
    #[error("the ledger {path} cannot be opened: {reason}")]
    Unusable {
        /// Its path; on PostgreSQL its address without the password.
        path: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The database failed.
    #[error("the ledger{} failed: {}", place(.0), explain(.0))]
    Database(#[from] sqlx::Error),
    /// A migration failed.
    #[error(
        "the ledger{} cannot be brought to this version: {}",
        cause(.0).map_or("", place),
        explain_migration(.0)
    )]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// What the ledger holds does not parse.
    #[error("the ledger holds something that this version cannot read: {0}")]
    Content(#[from] serde_json::Error),
}

impl StoreError {
    /// Whether it only follows an earlier failure: a connection whose transaction broke off begins no other.
    #[must_use]
    pub fn follows_another(&self) -> bool {
        matches!(self, Self::Database(sqlx::Error::InvalidSavePointStatement))
    }
}

fn explain_migration(error: &sqlx::migrate::MigrateError) -> String {
    cause(error).map_or_else(|| error.to_string(), explain)
}

/// Which of the two databases an error speaks of, where it says so.
fn place(error: &sqlx::Error) -> &'static str {
    let Some(error) = error.as_database_error() else {
        return "";
    };
    if error
        .try_downcast_ref::<sqlx::sqlite::SqliteError>()
        .is_some()
    {
        " (connectors.db, beside the state file)"
    } else {
        " (on PostgreSQL)"
    }
}

/// The cause in the database's words, where there is one.
fn cause(error: &sqlx::migrate::MigrateError) -> Option<&sqlx::Error> {
    std::error::Error::source(error).and_then(|cause| cause.downcast_ref())
}

/// The database's words, and what to do where the machine or the settings are at fault.
fn explain(error: &sqlx::Error) -> String {
    let advice = match error {
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default();
            match database.try_downcast_ref::<sqlx::sqlite::SqliteError>() {
                Some(_) => sqlite::advice(&code),
                None => postgres::advice(&code),
            }
        }
        sqlx::Error::Io(_) => Some("check that the database runs and that its address is right"),
        sqlx::Error::PoolTimedOut => {
            Some("give it more connections, or fewer runs at the same time")
        }
        _ => None,
    };
    match advice {
        Some(advice) => format!("{error}. Nothing is lost: {advice}, and run again"),
        None => error.to_string(),
    }
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// A time in the future was written by another clock; it says nothing.
fn ago(seconds: Option<f64>) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds?).ok()
}

/// Receipts kept for each connection.
const RUNS_KEPT: i64 = 100;

/// The only thing that the ledger wants to know of a receipt.
#[derive(serde::Deserialize)]
struct Receipt {
    #[serde(default)]
    reconciled: bool,
}

/// The right to write for one connection, until it expires or is superseded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Row of the connection.
    pub connection: i64,
    /// Raised by every claim; checked first in every commit.
    pub epoch: i64,
}

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// A version was begun and not acknowledged yet.
    Begun,
    /// The current version is acknowledged.
    Live,
    /// The current version was refused for good.
    Dead,
    /// The current version was refused for good, and the user has let go of it.
    Dropped,
    /// Forgotten because the record is gone or became confidential.
    Retracted,
    /// A mapper leaves it out, or writes only parts of it.
    #[serde(rename = "left_out")]
    LeftOut,
}

impl Status {
    fn parse(text: &str) -> Self {
        match text {
            "live" => Self::Live,
            "dead" => Self::Dead,
            "dropped" => Self::Dropped,
            "retracted" => Self::Retracted,
            "left_out" => Self::LeftOut,
            _ => Self::Begun,
        }
    }
}

/// What the ledger knows of one record.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Digest of the latest version that was begun.
    pub digest: String,
    /// Its generation, counted from 1.
    pub generation: u64,
    /// Its scope.
    pub scope: String,
    /// Where it stands.
    pub status: Status,
    /// Event id of the first fragment of the latest acknowledged version.
    pub event_id: Option<String>,
    /// The predecessors that were frozen when the version was begun.
    pub preceded_by: Vec<String>,
    /// How long ago the version was begun; `None` where that is unknown, or in the future of a clock that was moved.
    pub begun_ago: Option<Duration>,
}

impl Entry {
    /// Whether some version may be in CortexDB, or come there: acknowledged and not retracted, begun without a receipt, in parts, or kept as a
    /// dead letter.
    #[must_use]
    pub fn may_be_stored(&self) -> bool {
        matches!(self.status, Status::Begun | Status::LeftOut | Status::Dead)
            || (self.status != Status::Retracted && self.event_id.is_some())
    }
}

/// A version about to be sent, frozen.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Begun<'a> {
    /// Which record.
    pub source_id: Cow<'a, str>,
    /// The same, or the record of the source that it is a part of.
    pub record: Cow<'a, str>,
    /// Its kind.
    pub event_type: Cow<'a, str>,
    /// The stream that listed it.
    pub stream: Cow<'a, str>,
    /// Source id of the record that opened its thread; empty where there is none.
    pub root: Cow<'a, str>,
    /// Old versions stay (observations).
    pub appends: bool,
    /// Where it goes.
    pub scope: Cow<'a, str>,
    /// What it is.
    pub digest: Cow<'a, str>,
    /// Which version.
    pub generation: u64,
    /// Keys of its fragments, in order.
    pub keys: Vec<Cow<'a, str>>,
    /// Event ids.
    pub preceded_by: Cow<'a, [String]>,
}

/// What became of a version.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Settled<'a> {
    /// Which record.
    pub source_id: Cow<'a, str>,
    /// Which version.
    pub generation: u64,
    /// Event ids of its fragments, in order; empty when it was refused.
    pub event_ids: Vec<Cow<'a, str>>,
    /// Whether the old versions stay.
    pub appends: bool,
}

impl Settled<'_> {
    /// Whether there is an earlier version that is to be forgotten.
    pub(crate) fn replaces(&self) -> bool {
        self.generation > 1 && !self.appends && !self.event_ids.is_empty()
    }
}

/// A record that was refused for good.
#[derive(Debug, Clone, serde::Serialize)]
pub struct DeadLetter {
    /// Which record.
    pub source_id: String,
    /// The stream that listed it.
    pub stream: String,
    /// Why, in the host's or the server's words.
    pub reason: String,
    /// The envelopes, one a line, for a later retry; the bare text where none could be built.
    pub payload: String,
}

/// A dead letter as it is kept.
#[derive(Debug, Clone)]
pub struct KeptLetter {
    /// The letter.
    pub letter: DeadLetter,
    /// When the record was first refused, RFC 3339.
    pub first_seen: String,
    /// When it was last refused, RFC 3339.
    pub last_seen: String,
    /// How often it was refused.
    pub attempts: u64,
}

/// What is to become of an event that was found in CortexDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventState {
    /// Part of the current version, or of history that stays.
    Live,
    /// To be forgotten.
    Obsolete,
}

/// An event that was found in CortexDB.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RebuiltEvent {
    /// Which version.
    pub generation: u64,
    /// Which fragment; unique within the version.
    pub fragment: u64,
    /// Its id.
    pub event_id: String,
    /// What is to become of it.
    pub state: EventState,
}

/// What CortexDB's events say about one record.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RebuiltEntry {
    /// Which record.
    pub source_id: String,
    /// The same, or the record of the source that it is a part of.
    pub record: String,
    /// Its kind.
    pub event_type: String,
    /// Source id of the record that opened its thread; empty where there is none.
    pub root: String,
    /// Where it was found.
    pub scope: String,
    /// Of the current version; empty where there is none that is whole.
    pub digest: String,
    /// The highest that was ever used.
    pub generation: u64,
    /// Where it stands.
    pub status: Status,
    /// Event id of the first fragment of the newest whole version.
    pub event_id: Option<String>,
    /// All its events that are still readable.
    pub events: Vec<RebuiltEvent>,
}

/// An event that has a successor, or whose record is gone, and is still readable in CortexDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obsolete {
    /// Row of the fragment.
    pub row: i64,
    /// Its scope.
    pub scope: String,
    /// Its event id; `None` when the version was begun and its receipt never arrived.
    pub event_id: Option<String>,
    /// Its key, to ask for the event id.
    pub key: String,
    /// Its record.
    pub source_id: String,
    /// Which version of it.
    pub generation: u64,
    /// Which fragment of that.
    pub fragment: u64,
    /// As in [`Entry::begun_ago`].
    pub begun_ago: Option<Duration>,
}

/// A record that is in CortexDB, on its way there, or kept as a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldRecord {
    /// Which record.
    pub source_id: String,
    /// Source id of the record that opened its thread.
    pub root: Option<String>,
    /// Some version of it was acknowledged.
    pub acknowledged: bool,
}

/// What the ledger has of a record of the source: itself, and the parts that a mapper made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The record's own source id, or that of a part.
    pub source_id: String,
    /// Where it stands.
    pub status: Status,
}

/// What a mapper does not make any more.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LeftOut {
    /// The record itself, or a part of it.
    pub source_id: String,
    /// The record.
    pub record: String,
    /// Its kind.
    pub event_type: String,
    /// The stream that listed it.
    pub stream: String,
    /// Source id of the record that opened its thread; empty where there is none.
    pub root: String,
    /// Source ids of what came directly before it: what follows it in its thread follows these now.
    pub preceded_by: Vec<String>,
}

/// A record as the connector handed it over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Which record.
    pub source_id: String,
    /// The stream that listed it.
    pub stream: String,
    /// The id of its origin.
    pub origin: String,
    /// Of the body.
    pub digest: String,
    /// Compressed, by the host.
    pub body: Vec<u8>,
}

/// A stream's last reported state.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct StreamRow {
    /// `42/merge_requests`.
    pub stream: String,
    /// `complete`, `reading`, `off` or `failed`.
    pub state: String,
    /// The reason, for `off` and `failed`.
    pub detail: String,
    /// When, RFC 3339.
    pub at: String,
    /// When it was last read to its end, RFC 3339.
    pub complete_at: Option<String>,
}

/// How a stream ended in a run.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct StreamEnd<'a> {
    /// `42/merge_requests`.
    pub stream: &'a str,
    /// `complete`, `reading`, `off` or `failed`.
    pub state: &'static str,
    /// The reason, for `off` and `failed`.
    pub detail: &'a str,
}

/// One connection as `runtime status` lists it.
#[derive(Debug, Clone)]
pub struct ConnectionRow {
    /// Its row.
    pub id: i64,
    /// Its readable name, as in the state file.
    pub name: String,
    /// Live records by event type.
    pub live: BTreeMap<String, u64>,
    /// Records refused for good.
    pub dead_letters: u64,
    /// Old versions that are still to be forgotten.
    pub obsolete: u64,
    /// The last finished run: when, and its receipt as JSON.
    pub last_run: Option<(String, String)>,
    /// The last run that compared everything and forgot what is gone, RFC 3339.
    pub last_reconcile: Option<String>,
}

/// Durable memory of all connections. There are two implementations, [`SqliteStore`] and [`PostgresStore`]; whatever is promised here is
/// promised by both.
///
/// Every method that takes a [`Lease`] runs in one transaction whose first statement checks the epoch, and fails with
/// [`StoreError::Fenced`] without any effect when it is not the current one.
#[async_trait]
pub trait Store: Send + Sync {
    /// Takes the lease of a connection for `ttl`, creating the connection at first sight. Refused while another owner holds it; the
    /// same owner may take it again, because it has other means to know that its earlier self is dead (a lock on the state file).
    async fn claim(&self, name: &str, owner: &str, ttl: Duration) -> Result<Lease, StoreError>;
    /// Whether the lease is still the current one: for whoever is about to do something outside that no commit could refuse.
    async fn confirm(&self, lease: Lease) -> Result<(), StoreError>;
    /// Extends the lease.
    async fn renew(&self, lease: Lease, ttl: Duration) -> Result<(), StoreError>;
    /// Gives the lease back.
    async fn release(&self, lease: Lease) -> Result<(), StoreError>;

    /// The variables pinned to each origin.
    async fn origins(
        &self,
        connection: i64,
    ) -> Result<HashMap<String, BTreeMap<String, String>>, StoreError>;
    /// Pins the variables of an origin, once.
    async fn pin_origin(
        &self,
        lease: Lease,
        origin: &str,
        variables: &BTreeMap<String, String>,
    ) -> Result<(), StoreError>;

    /// What was committed survives a power failure after this.
    async fn sync(&self) -> Result<(), StoreError>;
    /// The scopes whose events this ledger knows.
    async fn known_scopes(&self, connection: i64) -> Result<HashSet<String>, StoreError>;
    /// Takes over what was found in a scope, and remembers the scope as known. What the ledger knows already is not touched.
    async fn rebuild(
        &self,
        lease: Lease,
        scope: &str,
        found: &[RebuiltEntry],
    ) -> Result<(), StoreError>;

    /// The entries of these source ids; unknown ones are absent.
    async fn entries(
        &self,
        connection: i64,
        source_ids: &[&str],
    ) -> Result<HashMap<String, Entry>, StoreError>;
    /// Writes down versions before they are sent. They survive a power failure after this.
    async fn begin(&self, lease: Lease, versions: &[Begun<'_>]) -> Result<(), StoreError>;
    /// Records fates: event ids become current, and the versions they replace become obsolete.
    async fn settle(
        &self,
        lease: Lease,
        settled: &[Settled<'_>],
        dead: &[DeadLetter],
    ) -> Result<(), StoreError>;
    /// Makes everything known of these records, and of the turns of the threads they opened, obsolete. Returns how many records that
    /// were.
    async fn retract(&self, lease: Lease, source_ids: &[String]) -> Result<u64, StoreError>;
    /// What is known of these records and of the parts that mappers made of them, by record.
    async fn parts(
        &self,
        connection: i64,
        records: &[&str],
    ) -> Result<HashMap<String, Vec<Part>>, StoreError>;
    /// Makes what mappers do not make any more obsolete: a part is retracted, a record is known as left out.
    async fn leave_out(&self, lease: Lease, left: &[LeftOut]) -> Result<(), StoreError>;
    /// The records of a stream that mappers leave out.
    async fn left_out_in_stream(
        &self,
        connection: i64,
        stream: &str,
    ) -> Result<HashSet<String>, StoreError>;
    /// Keeps records as they were before they were mapped, the latest version of each.
    async fn keep_recorded(&self, lease: Lease, records: &[Recorded]) -> Result<(), StoreError>;
    /// Drops what is kept of these records: it is not the latest version any more.
    async fn drop_recorded(&self, lease: Lease, source_ids: &[&str]) -> Result<(), StoreError>;
    /// The bytes that they take. Looks at each: not to be asked with every page.
    async fn recorded_bytes(&self, connection: i64) -> Result<u64, StoreError>;
    /// Drops the oldest, until the rest takes no more than so many bytes; returns how many.
    async fn trim_recorded(&self, lease: Lease, most_bytes: u64) -> Result<u64, StoreError>;
    /// The next of them behind this place, with their places.
    async fn recorded(
        &self,
        connection: i64,
        after: i64,
        most: u32,
    ) -> Result<Vec<(i64, Recorded)>, StoreError>;
    /// How many records are known and not kept as they were.
    async fn not_recorded(&self, connection: i64) -> Result<u64, StoreError>;
    /// The chain of mappers that everything held was last mapped by; empty for none.
    async fn mapped_by(&self, connection: i64) -> Result<String, StoreError>;
    /// Everything held is mapped by this chain now.
    async fn set_mapped_by(&self, lease: Lease, chain: &str) -> Result<(), StoreError>;

    /// Records of a stream and kind that were sent, refused ones among them, and not retracted, by source id, the ones after `after`. What mappers made of a
    /// record counts as the record.
    async fn held(
        &self,
        connection: i64,
        stream: &str,
        event_type: &str,
        after: &str,
        most: u32,
    ) -> Result<Vec<HeldRecord>, StoreError>;
    /// How many records are held of each stream.
    async fn held_by_stream(&self, connection: i64) -> Result<Vec<(String, u64)>, StoreError>;
    /// Source ids of a stream's records that were refused for good.
    async fn refused_in_stream(
        &self,
        connection: i64,
        stream: &str,
    ) -> Result<HashSet<String>, StoreError>;
    /// The next events behind this row that are still to be forgotten, oldest first. Rows are counted from 1.
    async fn obsolete(
        &self,
        connection: i64,
        after: i64,
        most: u32,
    ) -> Result<Vec<Obsolete>, StoreError>;
    /// How many events are still to be forgotten.
    async fn count_obsolete(&self, connection: i64) -> Result<u64, StoreError>;
    /// Removes events that CortexDB has forgotten.
    async fn forgotten(&self, lease: Lease, rows: &[i64]) -> Result<(), StoreError>;
    /// Marks events whose derived layers are forgotten and whose text must stay, because the token may not redact.
    async fn kept(&self, lease: Lease, rows: &[i64]) -> Result<(), StoreError>;

    /// All dead letters, or those of these records, by source id.
    async fn dead_letters(
        &self,
        connection: i64,
        source_ids: Option<&[&str]>,
    ) -> Result<Vec<KeptLetter>, StoreError>;
    /// Dead letters behind this source id, in its order, with empty payloads: there may be many, and each may be large.
    async fn list_letters(
        &self,
        connection: i64,
        after: Option<&str>,
        most: u32,
    ) -> Result<Vec<KeptLetter>, StoreError>;
    /// How many dead letters there are.
    async fn count_letters(&self, connection: i64) -> Result<u64, StoreError>;
    /// Makes refused versions begun again, so that they can be sent as they were. Their dead letters stay until they are stored.
    async fn revive(&self, lease: Lease, source_ids: &[&str]) -> Result<(), StoreError>;
    /// Lets go of dead letters: the records stay out until they change. Returns how many there were.
    async fn drop_letters(&self, lease: Lease, source_ids: &[&str]) -> Result<u64, StoreError>;

    /// Keeps how streams ended, all or none.
    async fn end_streams(&self, lease: Lease, ends: &[StreamEnd<'_>]) -> Result<(), StoreError>;
    /// Keeps the receipt of a finished run, a JSON object.
    async fn finish_run(&self, lease: Lease, receipt_json: &str) -> Result<(), StoreError>;
    /// When a run last compared everything and forgot what is gone, RFC 3339.
    async fn last_reconcile(&self, connection: i64) -> Result<Option<String>, StoreError>;
    /// The streams that a pass has compared so far. Forgets what another pass (another `mark`) has, and one in which nothing was compared for
    /// longer than `most_rest`.
    async fn go_on_with_pass(
        &self,
        lease: Lease,
        mark: &str,
        most_rest: Duration,
    ) -> Result<Vec<String>, StoreError>;
    /// A pass has compared these streams.
    async fn add_to_pass(
        &self,
        lease: Lease,
        mark: &str,
        streams: &[&str],
    ) -> Result<(), StoreError>;
    /// There is no pass any more that could be gone on with.
    async fn end_pass(&self, lease: Lease) -> Result<(), StoreError>;

    /// All connections, for `runtime status`.
    async fn connections(&self) -> Result<Vec<ConnectionRow>, StoreError>;
    /// The streams of one connection.
    async fn streams(&self, connection: i64) -> Result<Vec<StreamRow>, StoreError>;
}
