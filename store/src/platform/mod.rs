//! What a platform of many tenants remembers beside the ledger: tenants, keys, connections, components, deliveries, runs and the log of
//! changes; and who may run what, when.
//!
//! One trait, two databases. A connection of the platform has a row in the ledger's `connections`, which carries the lease: whoever
//! claims a connection gets a [`Lease`] with a new epoch, and everything that a run writes afterwards, ledger and platform alike, checks
//! that epoch first. A process that was frozen and wakes up after somebody else took over is refused by the storage.
//!
//! Times are RFC 3339 in UTC with milliseconds, taken from the database's clock; `*_in` are durations, so that no two machines need the same time.
//! Lists come in pages: `after` is the last id of the page before, ids are UUIDs of version 7 and sort by time.
//! A zero character in a text becomes U+FFFD, because PostgreSQL takes none; within JSON and in cursors it stays.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use crate::ledger::{Lease, StoreError};

#[cfg(test)]
mod conformance;
mod postgres;
mod sqlite;
mod values;

/// Why the platform's store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// The database, or a lost lease.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no such thing, or it is another tenant's.
    #[error("there is no {0} of that name here")]
    Missing(&'static str),
    /// It was changed since it was read.
    #[error("it was changed in the meantime: version {current} is current")]
    Conflict {
        /// The current version.
        current: i64,
    },
    /// Another one has this name.
    #[error("there is a {0} of that name already")]
    Taken(&'static str),
    /// Something still uses it.
    #[error("{0}")]
    InUse(String),
    /// The tenant has as many as it may have.
    #[error(
        "the tenant has {most} {what} already, as many as it may have: delete one, or ask the operator to raise its cap"
    )]
    OverCap {
        /// `connections`, `components`.
        what: &'static str,
        /// The cap.
        most: u32,
    },
    /// What was asked makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl From<sqlx::Error> for PlatformError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<serde_json::Error> for PlatformError {
    fn from(error: serde_json::Error) -> Self {
        Self::Store(error.into())
    }
}

type Result<T> = std::result::Result<T, PlatformError>;

/// Which part of a list.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The last id of the page before.
    pub after: Option<String>,
    /// At most so many; the caller bounds it.
    pub most: u32,
}

/// What a tenant may use at the same time. `None`: no bound of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Caps {
    /// Runs at the same time. Kept exactly by [`Platform::claim_due`]. `None`: [`DEFAULT_CONCURRENT_RUNS`].
    pub concurrent_runs: Option<u32>,
    /// Connections.
    pub connections: Option<u32>,
    /// Components of its own. `None`: [`DEFAULT_COMPONENTS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub components: Option<u32>,
    /// Memory that the components of all runs may take together. Kept by [`Platform::claim_due`]: a run begins when there is room for all
    /// that it may take.
    pub memory_bytes: Option<u64>,
    /// Computing time of all runs that ended or began within the last hour.
    pub cpu_ms_per_hour: Option<u64>,
}

impl Caps {
    /// Whether so many runs are as many as there may be.
    #[must_use]
    pub(crate) fn are_reached_by(&self, runs: i64) -> bool {
        runs >= i64::from(self.concurrent_runs.unwrap_or(DEFAULT_CONCURRENT_RUNS))
    }

    /// Whether runs that take `in_use` bytes leave no room for one that may take `needed`.
    #[must_use]
    pub(crate) fn leave_no_room(&self, in_use: u64, needed: u64) -> bool {
        self.memory_bytes
            .is_some_and(|allowed| in_use + needed > allowed)
    }
}

/// What a run that may take any amount of memory counts as: so large that no cap holds it, and small enough to be added up.
pub const UNLIMITED_MEMORY: u64 = 1 << 50;

/// Components of a tenant that has no number of its own.
pub const DEFAULT_COMPONENTS: u32 = 100;

/// Runs at the same time of a tenant that has no number of its own.
pub const DEFAULT_CONCURRENT_RUNS: u32 = 2;

/// Somebody whose connections these are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Tenant {
    pub id: String,
    /// Unique.
    pub name: String,
    pub caps: Caps,
    /// Raised by every change.
    pub version: i64,
    pub created_at: String,
}

/// An API key, without the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ApiKey {
    pub id: String,
    /// `None`: the operator's, for all tenants.
    pub tenant: Option<String>,
    pub name: String,
    /// SHA-256 of the secret part, hexadecimal.
    #[serde(skip)]
    pub digest: String,
    pub scopes: Vec<String>,
    pub created_at: String,
    pub expires_at: Option<String>,
    pub revoked_at: Option<String>,
}

/// A component that was uploaded and admitted (or refused: the report says why).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Component {
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// `None`: the operator's, for all tenants.
    pub tenant: Option<String>,
    /// As it calls itself.
    pub name: String,
    /// As it calls itself.
    pub version: String,
    /// `connector` or `mapper`.
    pub world: String,
    /// Whether it may be used.
    pub admitted: bool,
    /// The admission report.
    pub report: Value,
    /// What it says of itself.
    pub description: Value,
    pub bytes: u64,
    pub created_at: String,
}

/// What a connection runs: a connector and the mappers behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// Digest of the connector.
    pub connector: String,
    /// Digests and settings of the mappers, in order.
    #[serde(default)]
    pub mappers: Vec<MapperUse>,
}

/// One mapper of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapperUse {
    /// Of the component.
    pub digest: String,
    /// A JSON object.
    #[serde(default)]
    pub settings: Value,
}

/// A chain that a connection has or had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ChainVersion {
    /// Counted from 1.
    pub number: i64,
    pub chain: Chain,
    /// The current one.
    pub current: bool,
    /// Id of the key that made it so.
    pub by: String,
    pub at: String,
}

/// Whether a connection runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionState {
    /// It runs when it is due.
    Active,
    /// Its owner has stopped it.
    Paused,
    /// It failed too often; somebody must look at it.
    Parked,
    /// It is being taken down: its hooks are removed, then it is deleted.
    Leaving,
}

impl ConnectionState {
    /// As it is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Parked => "parked",
            Self::Leaving => "leaving",
        }
    }

    /// The reverse of [`Self::as_str`]; anything else is `Parked`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "active" => Self::Active,
            "paused" => Self::Paused,
            "leaving" => Self::Leaving,
            _ => Self::Parked,
        }
    }
}

/// A configured connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Connection {
    pub id: String,
    pub tenant: String,
    /// Unique within the tenant.
    pub name: String,
    pub state: ConnectionState,
    /// Why it is in that state, where there is something to say.
    pub state_reason: Option<String>,
    /// What it runs.
    pub chain: Chain,
    /// Everything that is no secret: source, settings, scope, schedule. The platform's own form; the store does not look into it.
    pub config: Value,
    /// Sealed secrets by field. Never leaves the process.
    #[serde(skip)]
    pub sealed: BTreeMap<String, String>,
    /// The last hook plan, as JSON; `None`: none was made.
    pub hook_plan: Option<Value>,
    /// What the components of one of its runs may take together.
    #[serde(skip)]
    pub memory_bytes: u64,
    /// Row of the ledger.
    #[serde(skip)]
    pub ledger: i64,
    /// Runs that failed one after the other.
    pub failures: u32,
    /// When it runs next at the latest.
    pub due_at: Option<String>,
    /// Whether somebody runs it now.
    pub running: bool,
    /// Deliveries that wait.
    pub waiting_deliveries: u64,
    /// Raised by every change of what the owner set (not by runs).
    pub version: i64,
    pub created_at: String,
}

/// What an owner may change. `None`: as it is.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "as in `Connection`")]
pub struct ConnectionChange {
    pub name: Option<String>,
    pub state: Option<(ConnectionState, Option<String>)>,
    pub config: Option<Value>,
    pub memory_bytes: Option<u64>,
    /// Replaces single fields; an empty text removes one.
    pub sealed: Option<BTreeMap<String, String>>,
    /// Makes it due at once and lets go of its failures.
    pub wake: bool,
}

/// A webhook call that was verified and is to be stored.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// Row of the ledger.
    pub connection: i64,
    /// What names the call, at most 256 bytes.
    pub key: String,
    /// Those that the connector wants; a JSON object of texts.
    pub headers: Value,
    /// As received.
    pub body: Vec<u8>,
    /// Follows it through logs and receipts; 32 hexadecimal digits.
    pub trace: String,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// To be handled.
    Waiting,
    /// What it points at was read.
    Handled,
    /// Nothing that is wanted.
    Ignored,
    /// Left to the next poll.
    Polled,
    /// It failed as often as one may; the poll has it.
    Failed,
}

impl DeliveryState {
    /// As it is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Handled => "handled",
            Self::Ignored => "ignored",
            Self::Polled => "polled",
            Self::Failed => "failed",
        }
    }

    /// The reverse of [`Self::as_str`]; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "waiting" => Self::Waiting,
            "handled" => Self::Handled,
            "ignored" => Self::Ignored,
            "polled" => Self::Polled,
            "failed" => Self::Failed,
            _ => return None,
        })
    }
}

/// A delivery, without its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Delivery {
    /// UUID.
    pub id: String,
    /// Row of the ledger.
    #[serde(skip)]
    pub connection: i64,
    pub key: String,
    pub headers: Value,
    pub bytes: u64,
    pub trace: String,
    pub state: DeliveryState,
    /// Of the last attempt: the connector's words.
    pub reason: Option<String>,
    /// How often it was tried.
    pub attempts: u32,
    /// It waits because somebody asked for it again, and was not tried since.
    #[serde(skip)]
    pub replayed: bool,
    pub received_at: String,
    /// When its fate was decided, which is after CortexDB's receipt.
    pub settled_at: Option<String>,
}

/// The fate of one delivery after an attempt.
#[derive(Debug, Clone)]
pub struct DeliveryVerdict {
    /// Which.
    pub id: String,
    /// `Waiting`: it is tried again.
    pub state: DeliveryState,
    /// Why.
    pub reason: Option<String>,
}

/// Which deliveries.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    /// Only in this state.
    pub state: Option<DeliveryState>,
    /// Received at or after, RFC 3339.
    pub since: Option<String>,
    /// Received before, RFC 3339.
    pub until: Option<String>,
}

/// What a claim found.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The right to write.
    pub lease: Lease,
    /// What is to be run, sealed secrets included.
    pub connection: Connection,
    /// Id of the run that this claim opened.
    pub run: String,
    /// Whether the schedule (or its owner) asked for it; otherwise only deliveries wait.
    pub due: bool,
    /// How often it was claimed since a run of it ended by itself: a run that kills its worker shows here and nowhere else.
    pub claims: u32,
}

/// How a run gives its connection back.
#[derive(Debug, Clone)]
pub struct Release {
    /// `complete`, `failed`, `interrupted`, ... as in the receipt.
    pub outcome: String,
    /// The receipt, or `{}`.
    pub receipt: Value,
    /// When the connection is due again; `None`: as it was. Where its owner asked for a run in the meantime, it is due at once.
    pub due_in: Option<Duration>,
    /// Sets the number of failures in a row. Above zero, deliveries wait for `due_in`, too: what fails is not begun again by each that arrives.
    pub failures: u32,
    /// Takes it out of service, with the reason.
    pub park: Option<String>,
}

/// Numbers of a run that are shown and summed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Usage {
    pub runs: u64,
    pub cpu_ms: u64,
    /// The highest of all runs, in sums, too.
    pub peak_memory_bytes: u64,
    pub requests: u64,
    pub received_bytes: u64,
    pub written_bytes: u64,
    pub records: u64,
    pub deliveries: u64,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Run {
    pub id: String,
    pub connection: String,
    /// `sync` or `deliveries`.
    pub kind: String,
    pub worker: String,
    /// `running`, or how it ended; `interrupted` where its worker was superseded.
    pub outcome: String,
    pub usage: Usage,
    pub started_at: String,
    pub ended_at: Option<String>,
    /// Empty while it runs.
    pub receipt: Value,
}

/// One line of the log of changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct AuditEntry {
    pub id: String,
    pub at: String,
    pub tenant: Option<String>,
    /// Id of the API key, or `cli`.
    pub by: String,
    /// `connection.create`.
    pub action: String,
    /// Id of what was changed.
    pub subject: String,
    /// What was changed, without secrets.
    pub detail: Value,
}

/// What the platform remembers. See the [module](self).
#[async_trait]
pub trait Platform: Send + Sync {
    /// Whether the database answers.
    async fn ping(&self) -> Result<()>;

    // Tenants.
    /// Creates a tenant.
    async fn create_tenant(&self, name: &str, caps: &Caps) -> Result<Tenant>;
    /// One tenant.
    async fn tenant(&self, id: &str) -> Result<Tenant>;
    /// All tenants.
    async fn tenants(&self, page: &Page) -> Result<Vec<Tenant>>;
    /// Changes name or caps, if it still has that version.
    async fn update_tenant(
        &self,
        id: &str,
        version: i64,
        name: Option<&str>,
        caps: Option<&Caps>,
    ) -> Result<Tenant>;
    /// Deletes a tenant without connections, its keys and components.
    async fn delete_tenant(&self, id: &str) -> Result<()>;

    // Keys.
    /// Stores a key whose id the caller chose.
    async fn create_key(&self, key: &ApiKey, expires_in: Option<Duration>) -> Result<ApiKey>;
    /// A key by id, `None` where it does not exist, is revoked or expired.
    async fn valid_key(&self, id: &str) -> Result<Option<ApiKey>>;
    /// Keys of a tenant; `None`: the operator's.
    async fn keys(&self, tenant: Option<&str>, page: &Page) -> Result<Vec<ApiKey>>;
    /// Ends a key. Idempotent.
    async fn revoke_key(&self, tenant: Option<&str>, id: &str) -> Result<()>;

    // Components.
    /// Keeps a component and its report; the same digest of the same tenant again replaces the report and what follows from it.
    async fn put_component(&self, component: &Component, bytes: &[u8]) -> Result<Component>;
    /// One component that this tenant may use: its own or the operator's. `None` asks for the operator's.
    async fn component(&self, tenant: Option<&str>, digest: &str) -> Result<Component>;
    /// Its file.
    async fn component_bytes(&self, digest: &str) -> Result<Vec<u8>>;
    /// What a tenant may use.
    async fn components(&self, tenant: Option<&str>, page: &Page) -> Result<Vec<Component>>;
    /// Removes one of its own that no connection uses, in its current chain or an earlier one.
    async fn delete_component(&self, tenant: Option<&str>, digest: &str) -> Result<()>;

    // Connections.
    /// Creates a connection, due at once, within the tenant's cap of connections. `tenant`, `name`, `chain`, `config`, `sealed`, `id` and the
    /// state with its reason are taken. The components of its chain must be there.
    async fn create_connection(&self, connection: &Connection, by: &str) -> Result<Connection>;
    /// One connection of a tenant; `None`: of any.
    async fn connection(&self, tenant: Option<&str>, id: &str) -> Result<Connection>;
    /// Connections of a tenant; `None`: of all.
    async fn connections(&self, tenant: Option<&str>, page: &Page) -> Result<Vec<Connection>>;
    /// Changes what its owner set. `version: None` whatever it is. Who leaves is due at once and does not come back; who is set to a state
    /// begins to count its claims anew.
    async fn update_connection(
        &self,
        tenant: Option<&str>,
        id: &str,
        version: Option<i64>,
        change: &ConnectionChange,
    ) -> Result<Connection>;
    /// Deletes a connection and all that is remembered of it, in steps that let others write in between. Its lease is lost; should this process
    /// die, it is found leaving. Its runs stay as numbers until they are trimmed: what a tenant has used is not undone.
    async fn delete_connection(&self, tenant: Option<&str>, id: &str) -> Result<()>;
    /// Lets go of what the ledgers of all connections know of CortexDB, and of all leases: it is put together again from CortexDB's listing, scope
    /// by scope, before the first write into each. Cursors, recorded records and dead letters stay.
    async fn forget_ledgers(&self) -> Result<()>;
    /// Uses another chain, whose components must be there, from the next run on, and takes so much memory for each run. `version: None` whatever
    /// version the connection has.
    async fn set_chain(
        &self,
        tenant: Option<&str>,
        id: &str,
        version: Option<i64>,
        chain: &Chain,
        memory_bytes: u64,
        by: &str,
    ) -> Result<ChainVersion>;
    /// Chains of a connection, newest first.
    async fn chains(&self, tenant: Option<&str>, id: &str) -> Result<Vec<ChainVersion>>;
    /// Keeps the latest hook plan.
    async fn set_hook_plan(&self, lease: Lease, plan: &Value) -> Result<()>;
    /// All sealed fields of a page of connections, for the rotation of the key: id, tenant, field, sealed value.
    async fn sealed(&self, page: &Page) -> Result<Vec<(String, String, String, String)>>;
    /// Replaces one sealed field, if it still is `was`.
    async fn reseal(&self, id: &str, field: &str, was: &str, now: &str) -> Result<bool>;

    // Who runs what.
    /// Claims the connection whose turn it is: the tenant that was served least recently and is below its cap, of it the connection that
    /// has been due longest (or has deliveries waiting). `None`: there is nothing to do. The cap is exact however many processes claim.
    /// A connection claimed `park_after` times without a run of it ending by itself is parked instead; 0: never.
    async fn claim_due(
        &self,
        worker: &str,
        ttl: Duration,
        park_after: u32,
    ) -> Result<Option<Claim>>;
    /// The same for connections whose deliveries wait and that did not fail last, and for those deliveries alone: [`Claim::due`] is false, a run
    /// that is due stays so, and its tenant stays where it is in the queue.
    async fn claim_deliveries(
        &self,
        worker: &str,
        ttl: Duration,
        park_after: u32,
    ) -> Result<Option<Claim>>;
    /// Whether deliveries of this tenant have waited for longer than this and cannot be claimed, because the tenant's runs are as many as its cap
    /// allows, or take its memory.
    async fn deliveries_wait(&self, tenant: &str, longer_than: Duration) -> Result<bool>;
    /// Numbers of the run so far.
    async fn count_run(&self, lease: Lease, run: &str, usage: &Usage) -> Result<()>;
    /// Ends the run and gives the connection back. What its owner asked for in the meantime counts: it is due at once, and neither counts as
    /// failed nor is parked for what was so before.
    async fn release_run(&self, lease: Lease, run: &str, release: &Release) -> Result<()>;
    /// How long until something is due; `None`: nothing is. Leases that will expire count. Zero does not mean that a claim finds something:
    /// what is due may be its tenant's that is at its cap, so wait a moment all the same.
    async fn next_due_in(&self) -> Result<Option<Duration>>;
    /// Marks runs whose epoch was superseded as interrupted, and supersedes those that nobody else does: of connections that were paused or
    /// parked while their worker died. Returns how many.
    async fn sweep_runs(&self) -> Result<u64>;
    /// Removes runs that ended longer ago, but the last one of each connection. Returns how many. Sums over them go with them.
    async fn trim_runs(&self, older_than: Duration) -> Result<u64>;
    /// Changes when something became due: a delivery, a run that its owner asked for, a place of a tenant that was at its cap. Whoever waits
    /// takes this before it claims, so that nothing falls in between, and waits for it or its poll, whichever comes first: the poll
    /// is what can be relied on.
    fn wakeups(&self) -> watch::Receiver<u64>;
    /// Runs of a connection, newest first.
    async fn runs(&self, connection: &str, page: &Page) -> Result<Vec<Run>>;
    /// One run.
    async fn run(&self, connection: &str, id: &str) -> Result<Run>;
    /// Sums over the runs that began within so long.
    async fn usage(&self, tenant: &str, within: Duration) -> Result<Usage>;

    // Cursors of connections of the platform.
    /// All of them.
    async fn cursors(&self, connection: i64) -> Result<BTreeMap<String, String>>;
    /// Moves cursors, and counts the run, in one transaction. `None` removes one.
    async fn move_cursors(
        &self,
        lease: Lease,
        changes: &[(String, Option<String>)],
        run: Option<(&str, &Usage)>,
    ) -> Result<()>;

    // Deliveries.
    /// Stores deliveries durably, and wakes their connections. One answer for each: its id, and whether it is new. A key that is known is
    /// not stored again; a delivery for a connection that does not exist is answered with an empty id.
    async fn receive(&self, deliveries: &[NewDelivery]) -> Result<Vec<(String, bool)>>;
    /// Deliveries that wait and are due, oldest first, with their bodies; at least one, if there is one, whatever its size.
    async fn waiting(
        &self,
        connection: i64,
        most: u32,
        most_bytes: u64,
    ) -> Result<Vec<(Delivery, Vec<u8>)>>;
    /// Fates of deliveries after an attempt, each of which counts one. Those that stay waiting are due again in `retry_in`.
    async fn settle_deliveries(
        &self,
        lease: Lease,
        verdicts: &[DeliveryVerdict],
        retry_in: Duration,
    ) -> Result<()>;
    /// Deliveries of a connection, newest first.
    async fn deliveries(
        &self,
        connection: i64,
        filter: &DeliveryFilter,
        page: &Page,
    ) -> Result<Vec<Delivery>>;
    /// One delivery with its body.
    async fn delivery(&self, connection: i64, id: &str) -> Result<(Delivery, Vec<u8>)>;
    /// Makes deliveries wait again, whatever became of them, as if they had never been tried: one by id, or all that fit. Returns how many.
    async fn replay(
        &self,
        connection: i64,
        id: Option<&str>,
        filter: &DeliveryFilter,
    ) -> Result<u64>;
    /// Removes deliveries that were settled longer ago. Their keys go with them: at least seven days.
    async fn trim_deliveries(&self, older_than: Duration) -> Result<u64>;

    // The log of changes.
    /// Adds a line; `id` and `at` are made here.
    async fn audit(
        &self,
        tenant: Option<&str>,
        by: &str,
        action: &str,
        subject: &str,
        detail: &Value,
    ) -> Result<()>;
    /// Lines, newest first; `None`: of all tenants.
    async fn audits(&self, tenant: Option<&str>, page: &Page) -> Result<Vec<AuditEntry>>;

    // Creating the same twice.
    /// What an earlier request with this key answered; `None`: the key is new and reserved now. A key lives for a day, and for ten minutes
    /// where there is no answer: its process died.
    async fn remember_request(
        &self,
        scope: &str,
        key: &str,
        digest: &str,
    ) -> Result<Option<Remembered>>;
    /// Keeps the answer for the next time.
    async fn answer_request(&self, scope: &str, key: &str, status: u16, body: &Value)
    -> Result<()>;
    /// Lets go of a key whose request failed.
    async fn forget_request(&self, scope: &str, key: &str) -> Result<()>;

    // What the host itself remembers, such as the secret of a single connection's hooks.
    /// A value of the host's.
    async fn note(&self, name: &str) -> Result<Option<String>>;
    /// Sets a value, and answers what is there afterwards: where there was one and `replace` is false, the old.
    async fn set_note(&self, name: &str, value: &str, replace: bool) -> Result<String>;
    /// Sets a value where it is still what was read, `None` being none at all. Whether it was.
    async fn change_note(&self, name: &str, was: Option<&str>, value: &str) -> Result<bool>;
    /// Sets a value for who holds a connection, whatever there was. Refused once the lease is lost.
    async fn set_held_note(&self, lease: Lease, name: &str, value: &str) -> Result<()>;
}

/// An earlier request with the same idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// Of that request: another one means that the key was used for something else.
    pub digest: String,
    /// Its answer; `None` while it is being worked on.
    pub answer: Option<(u16, Value)>,
}
