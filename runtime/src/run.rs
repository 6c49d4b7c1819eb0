//! One run: from the configured connection to the receipt.
//!
//! [`run_held`] is the run itself: store, lease and cursors are given by whoever calls, `runtime run` ([`run_once`], [`run_again`]) or a worker
//! of the platform's. What it does is a [`Task`].
//!
//! Everything that could make the run pointless is looked at before the first record is read, in the order of cost: the state file and its
//! lock, CortexDB's opinion of the token, the ledger. Then the connector runs, the writer follows it, and at the end, however it ends, what
//! was handed over is finished, the cursors are saved, and the receipt says what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use connector_store::platform::Platform;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::census::{self, Census, Comparison};
use crate::config::{CortexPlan, Plan, host_variables, ledger_file};
use crate::cortexdb::client::{Client, CortexError, Endpoint, connect_timeout};
use crate::cortexdb::identity::{Identity, identify};
use crate::cursors::{CursorError, CursorHome, Cursors};
use crate::egress::Refusal;
use crate::egress::resolver::look_ahead;
use crate::hooks::inbox::{Batch, Settled};
use crate::host::connector::{CallFailure, Connector, Mode, RunContext, RunKind, SyncEnd};
use crate::host::hooks::{Delivery, HookPlan, Polled, Target as HookTarget, Verdict};
use crate::host::imports::Access;
use crate::http_client::{self, HttpClient};
use crate::ledger::{Lease, SqliteStore, Store, StoreError, StreamEnd};
use crate::mappers::{Chain, Session, Surroundings};
use crate::pass::Pass;
use crate::patience::Patience;
use crate::recorded;
use crate::redact::{Redactor, Secret};
use crate::report::{
    Counters, Delivered, Event, Kind, Level, Outcome, Receipt, Reporter, StreamState,
};
use crate::sandbox::limits::Limit;
use crate::source::budget::Budget;
use crate::source::client::{LARGE_BODIES, SchemeInUse, SourceClient};
use crate::writer::{Forgetting, Origin, PATIENCE, Target, Writer, WriterError, WriterSettings};

/// How long a run that died without saying so keeps others away, where they cannot know that it is dead.
pub(crate) const LEASE: Duration = Duration::from_secs(60);
/// Renewed four times as often.
const RENEW: Duration = Duration::from_secs(15);
/// Deliveries whose attempt could not even begin are tried again after this time.
const UNSETTLED: Duration = Duration::from_secs(10);
/// The lock on the state file proves that an earlier run on it is dead, so all runs on one state file share a name, and only they.
pub(crate) fn owner(state_file: &Path) -> String {
    let path = std::fs::canonicalize(state_file).unwrap_or_else(|_| state_file.to_owned());
    format!("runtime run with {}", path.display())
}

/// What to do with what is read.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Write nothing, say what would be written.
    pub dry_run: bool,
    /// Copy every envelope into this file.
    pub out: Option<PathBuf>,
    /// Whether to compare everything and forget what is gone.
    pub reconcile: Reconcile,
    /// What rewrites records on their way.
    pub mappers: Arc<Chain>,
    /// Map again what is recorded, and ask the source for nothing.
    pub remap: bool,
}

/// When to compare everything and forget what is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reconcile {
    /// Not in this run.
    #[default]
    Never,
    /// In this run, from the beginning.
    Now,
    /// In this run, going on with the pass that broke off.
    GoOn,
    /// If the last time is at least this long ago, or there was none. Goes on with a pass that broke off.
    Every(Duration),
}

/// Why a run did not begin or broke off.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// CortexDB.
    #[error(transparent)]
    Cortex(#[from] CortexError),
    /// The ledger.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state file.
    #[error(transparent)]
    Cursors(#[from] CursorError),
    /// Anything of the writer's.
    #[error(transparent)]
    Writer(#[from] WriterError),
    /// TLS or proxy settings.
    #[error("{0}")]
    HttpClient(String),
    /// The source is where it may not be reached.
    #[error("the source: {0}")]
    Egress(#[from] Refusal),
}

impl RunError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Cortex(CortexError::Misconfigured(_))
            | Self::Writer(
                WriterError::Cortex(CortexError::Misconfigured(_)) | WriterError::Scope(_),
            )
            | Self::HttpClient(_)
            | Self::Egress(_) => Outcome::Misconfigured,
            _ => Outcome::Failed,
        }
    }
}

/// The secrets of a connection, for the redactor.
#[must_use]
pub fn redactor_for(plan: &Plan) -> Redactor {
    let secrets: Vec<Secret> = [plan.source.token.clone(), plan.cortex.key.clone()]
        .into_iter()
        .flatten()
        .collect();
    Redactor::new(secrets)
}

/// What a run is to do.
#[derive(Clone)]
pub enum Task {
    /// Read what is new.
    Sync(Mode),
    /// Read what these point at.
    Deliveries(Vec<Delivery>),
    /// Register and mend the hooks of the source.
    Connect(HookTarget),
    /// Remove them.
    Disconnect(HookTarget),
}

impl Task {
    fn kind(&self) -> Kind {
        match self {
            Self::Sync(_) => Kind::Sync,
            Self::Deliveries(_) => Kind::Deliveries,
            Self::Connect(_) | Self::Disconnect(_) => Kind::Hooks,
        }
    }

    fn mode(&self) -> Mode {
        match self {
            Self::Sync(mode) => *mode,
            _ => Mode::Poll,
        }
    }
}

/// What a connector answers, beside how it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: it failed, or it was a sync.
    #[default]
    Nothing,
    /// One for each delivery, in the same order.
    Verdicts(Vec<Verdict>),
    /// The hooks as they are now.
    Plan(HookPlan),
    /// Hooks that could not be removed.
    Left(Vec<Polled>),
}

/// What every request of a run shares.
pub struct Circumstances {
    /// Totals.
    pub counters: Arc<Counters>,
    /// Progress.
    pub reporter: Arc<dyn Reporter>,
    /// Removes secrets.
    pub redactor: Redactor,
    /// Ends the run: the user wants to stop, or the connection is lost to another process.
    pub stop: CancellationToken,
    /// Ends the connector's part at its next safe point; what it handed over before is written and the cursors behind it are saved.
    pub pause: CancellationToken,
    /// It is lost to another process.
    pub taken_over: Arc<AtomicBool>,
    /// Why it was ended by whoever runs it: a failure of this run.
    ended_because: Arc<OnceLock<String>>,
    /// A sync that was paused has come further, see [`Circumstances::has_advanced`].
    advanced: AtomicBool,
}

impl Circumstances {
    /// For one run, which ends with `stop`. Losing this run's connection does not cancel `stop` itself.
    #[must_use]
    pub fn new(reporter: Arc<dyn Reporter>, redactor: Redactor, stop: &CancellationToken) -> Self {
        let stop = stop.child_token();
        Self {
            counters: Arc::default(),
            reporter,
            redactor,
            pause: stop.child_token(),
            stop,
            taken_over: Arc::default(),
            ended_because: Arc::default(),
            advanced: AtomicBool::default(),
        }
    }

    /// Whether the sync has brought a first reading, or a pass that compares everything, further than it was: the next one goes on behind that.
    #[must_use]
    pub fn has_advanced(&self) -> bool {
        self.advanced.load(Ordering::SeqCst)
    }

    /// Ends the run as a failure after this time, unless it has ended before or what comes back is aborted.
    pub fn end_after(&self, time: Duration, reason: String) -> tokio::task::JoinHandle<()> {
        let (stop, because) = (self.stop.clone(), Arc::clone(&self.ended_because));
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            let _ = because.set(reason);
            stop.cancel();
        })
    }

    /// How a run ends that was told to stop: as the user wanted, or as a failure because another process has taken over, or it took too long.
    fn stopped(&self) -> Option<(Outcome, Option<String>)> {
        if self.taken_over.load(Ordering::SeqCst) {
            return Some((Outcome::Failed, Some(StoreError::Fenced.to_string())));
        }
        if let Some(reason) = self.ended_because.get() {
            return Some((Outcome::Failed, Some(reason.clone())));
        }
        self.stop
            .is_cancelled()
            .then_some((Outcome::Interrupted, None))
    }

    /// How a run ends that broke off with this error.
    fn broken_off(&self, error: &RunError) -> (Outcome, Option<String>) {
        self.stopped().unwrap_or_else(|| {
            let reason = self.redactor.apply(&error.to_string()).into_owned();
            (error.outcome(), Some(reason))
        })
    }

    /// The receipt of a run that did not begin.
    #[must_use]
    pub fn receipt_of(&self, error: &RunError) -> Receipt {
        let (outcome, reason) = self.broken_off(error);
        self.counters.receipt(outcome, reason, false)
    }

    pub(crate) fn ended_by(&self, error: &RunError) -> Ended {
        let (outcome, reason) = self.broken_off(error);
        Ended {
            outcome,
            reason,
            comparison: None,
            answer: Answer::Nothing,
        }
    }
}

/// The way to the source of this connection.
pub fn source_client(
    connector: &Connector,
    plan: &Plan,
    around: &Circumstances,
    stop: CancellationToken,
) -> Result<SourceClient, RunError> {
    let http = source_http(plan)?;
    Ok(client_of(http, connector, plan, around, stop))
}

fn source_http(plan: &Plan) -> Result<HttpClient, RunError> {
    http_client::build(
        &plan.source.url,
        plan.source.ca_file.as_deref(),
        plan.source.timeouts.connect,
        &plan.source.egress,
    )
    .map_err(RunError::HttpClient)
}

fn client_of(
    http: HttpClient,
    connector: &Connector,
    plan: &Plan,
    around: &Circumstances,
    stop: CancellationToken,
) -> SourceClient {
    SourceClient {
        http,
        egress: Arc::clone(&plan.source.egress),
        name: connector.description.name.clone(),
        base: plan.source.url.clone(),
        token: plan.source.token.clone(),
        authentication: connector.description.authentication.clone(),
        authentication_in_use: SchemeInUse::default(),
        timeouts: plan.source.timeouts,
        max_body_bytes: plan.limits.size(Limit::ResponseBytes),
        large_bodies: Arc::new(Semaphore::new(LARGE_BODIES)),
        budget: Budget::default(),
        patience: Arc::new(Patience::new(Some(plan.patience))),
        counters: Arc::clone(&around.counters),
        reporter: Arc::clone(&around.reporter),
        redactor: around.redactor.clone(),
        stop,
    }
}

/// The ways to both servers, and who the token is. Whoever runs a connection again and again keeps one, until a run fails: connections
/// stay open, and CortexDB is not asked each time who we are.
#[derive(Clone)]
pub struct Reach {
    source: HttpClient,
    cortex: Option<(Client, Identity)>,
}

impl Reach {
    /// Looks where the source is, connects to CortexDB and asks who we are.
    pub async fn establish(plan: &Plan, around: &Circumstances) -> Result<Self, RunError> {
        look_ahead(&plan.source.egress, &plan.source.url).await?;
        Ok(Self {
            cortex: connect(plan, around).await?,
            source: source_http(plan)?,
        })
    }

    /// The same for another run.
    #[must_use]
    pub fn for_run(&self, plan: &Plan, around: &Circumstances) -> Self {
        let cortex = self.cortex.as_ref().map(|(client, identity)| {
            let client = client.for_another_run(
                around.redactor.clone(),
                Arc::new(Patience::new(Some(plan.patience))),
                Arc::clone(&around.counters),
                Arc::clone(&around.reporter),
                around.stop.clone(),
            );
            (client.within(plan.limits), identity.clone())
        });
        Self {
            source: self.source.clone(),
            cortex,
        }
    }

    /// The way to CortexDB, and who we are there; `None` in a dry run without a key.
    #[must_use]
    pub fn cortex(&self) -> Option<&(Client, Identity)> {
        self.cortex.as_ref()
    }

    /// Who the token is; `None` in a dry run without one.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.cortex.as_ref().map(|(_, identity)| identity)
    }
}

/// Connects to CortexDB and asks who we are. `None`: a dry run without a key.
pub async fn connect(
    plan: &Plan,
    around: &Circumstances,
) -> Result<Option<(Client, Identity)>, RunError> {
    let connected = connect_to(&plan.cortex, plan.patience, around).await?;
    Ok(connected.map(|(client, identity)| (client.within(plan.limits), identity)))
}

/// The same for CortexDB's side alone.
pub async fn connect_to(
    cortex: &CortexPlan,
    patience: Duration,
    around: &Circumstances,
) -> Result<Option<(Client, Identity)>, RunError> {
    let Some(key) = cortex.key.clone() else {
        return Ok(None);
    };
    let base =
        url::Url::parse(&cortex.url).map_err(|error| RunError::HttpClient(error.to_string()))?;
    (cortex.egress.check_url(&base))
        .map_err(|refusal| RunError::HttpClient(format!("CortexDB: {refusal}")))?;
    let client = Client::new(
        http_client::build(
            &base,
            cortex.ca_file.as_deref(),
            connect_timeout(),
            &cortex.egress,
        )
        .map_err(RunError::HttpClient)?,
        Endpoint {
            url: cortex.url.clone(),
            key,
            actor: cortex.actor.clone(),
        },
        around.redactor.clone(),
        Arc::new(Patience::new(Some(patience))),
        Arc::clone(&around.counters),
        Arc::clone(&around.reporter),
        around.stop.clone(),
    );
    Ok(Some(identify(client, cortex.tenant_id.as_deref()).await?))
}

/// The name of a connection in the state file and the ledger. Another source, server or tenant is another connection, with its own
/// cursors: a cursor that was earned with one database must not be used with another.
#[must_use]
pub fn connection_name(connector: &str, plan: &Plan, identity: Option<&Identity>) -> String {
    format!(
        "{connector} {}{}",
        plan.source.canonical_url(),
        destination(&plan.cortex.url, identity)
    )
}

/// The end of a connection's name: where it writes.
#[must_use]
pub(crate) fn destination(cortexdb_url: &str, identity: Option<&Identity>) -> String {
    format!(
        " -> {cortexdb_url} {}",
        identity.map_or("-", |identity| identity.tenant_id.as_str())
    )
}

/// What a process keeps between the runs of one connection of the user's.
#[derive(Default)]
pub struct Standing {
    store: Option<SqliteStore>,
    reach: Option<Reach>,
}

impl Standing {
    /// With a ledger that is open already, and stays so.
    #[must_use]
    pub fn with_ledger(store: SqliteStore) -> Self {
        Self {
            store: Some(store),
            reach: None,
        }
    }
}

/// Runs a connection once.
pub async fn run_once(
    connector: &Connector,
    plan: &Plan,
    options: &RunOptions,
    reporter: Arc<dyn Reporter>,
    stop: CancellationToken,
) -> Receipt {
    let around = Circumstances::new(reporter, redactor_for(plan), &stop);
    run_again(
        connector,
        plan,
        options,
        None,
        &mut Standing::default(),
        &around,
    )
    .await
    .0
}

/// Runs a connection with what is left of its earlier runs. Without a task it reads what is new, and reconciles as the options say.
pub async fn run_again(
    connector: &Connector,
    plan: &Plan,
    options: &RunOptions,
    task: Option<Task>,
    standing: &mut Standing,
    around: &Circumstances,
) -> (Receipt, Answer) {
    if task
        .as_ref()
        .is_none_or(|task| matches!(task, Task::Sync(_)))
    {
        around.reporter.event(&Event::Started {
            connector: format!(
                "{} {}",
                connector.description.name, connector.description.version
            ),
            source: plan.source.canonical_url(),
            cortexdb: if plan.cortex.key.is_some() {
                plan.cortex.url.clone()
            } else {
                String::new()
            },
            dry_run: options.dry_run,
        });
    }
    let end = match execute(connector, plan, options, task, standing, around).await {
        Ok(end) => end,
        Err(error) => around.ended_by(&error),
    };
    if matches!(end.outcome, Outcome::Failed | Outcome::Misconfigured) {
        // Whatever it was, the next run looks again.
        standing.reach = None;
    }
    let receipt = around
        .counters
        .receipt(end.outcome, end.reason, options.dry_run);
    around
        .reporter
        .event(&Event::Receipt(Box::new(receipt.clone())));
    (receipt, end.answer)
}

/// Compares what the source lists with what the ledger holds, and changes neither. `None` where it did not come to that.
pub async fn verify_once(
    connector: &Connector,
    plan: &Plan,
    reporter: Arc<dyn Reporter>,
    stop: CancellationToken,
) -> (Receipt, Option<Comparison>) {
    let around = Circumstances::new(reporter, redactor_for(plan), &stop);
    let options = RunOptions {
        dry_run: true,
        ..RunOptions::default()
    };
    let task = Some(Task::Sync(Mode::Verify));
    let mut standing = Standing::default();
    let end = match execute(connector, plan, &options, task, &mut standing, &around).await {
        Ok(end) => end,
        Err(error) => around.ended_by(&error),
    };
    let receipt = around.counters.receipt(end.outcome, end.reason, true);
    (receipt, end.comparison)
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub outcome: Outcome,
    /// Why, where it did not complete; secrets removed.
    pub reason: Option<String>,
    /// Only where the run was there to verify.
    pub comparison: Option<Comparison>,
    /// What the connector answered.
    pub answer: Answer,
}

/// What a run holds while it runs: the right to write, and where.
pub struct Held {
    /// The ledger.
    pub store: Arc<dyn Store>,
    /// Claimed, renewed and given back by the caller.
    pub lease: Lease,
    /// The cursors.
    pub cursors: CursorHome,
    /// The ways to both servers, for this run.
    pub reach: Reach,
}

/// Performs a task for a connection that the caller holds. Claims nothing, and touches no file but those of the connection's plan. The
/// numbers are in the counters of `around`.
pub async fn run_held(
    connector: &Connector,
    plan: &Plan,
    options: &RunOptions,
    task: Task,
    held: Held,
    around: &Circumstances,
) -> Ended {
    match drive(connector, plan, options, task, held, around).await {
        Ok(end) => end,
        Err(error) => around.ended_by(&error),
    }
}

async fn execute(
    connector: &Connector,
    plan: &Plan,
    options: &RunOptions,
    task: Option<Task>,
    standing: &mut Standing,
    around: &Circumstances,
) -> Result<Ended, RunError> {
    let claimed = Claimed::take(connector, plan, options, standing, around).await?;
    let (store, lease) = (Arc::clone(&claimed.store), claimed.lease);
    let task = match task {
        Some(task) => task,
        None if options.remap => Task::Sync(Mode::Poll),
        None => Task::Sync(mode_of(options.reconcile, store.as_ref(), lease.connection).await?),
    };
    let is_sync = matches!(task, Task::Sync(_));
    let (held, claimed) = claimed.into_held();
    let end = drive(connector, plan, options, task, held, around).await;
    claimed.give_back(end, is_sync, options, around).await
}

/// A connection of the user's that this run has claimed.
struct Claimed {
    store: Arc<dyn Store>,
    lease: Lease,
    cursors: Cursors,
    reach: Reach,
    renewing: Option<tokio::task::JoinHandle<()>>,
}

/// What is left of it to be given back.
struct Claim {
    store: Arc<dyn Store>,
    lease: Lease,
    renewing: Option<tokio::task::JoinHandle<()>>,
}

impl Claimed {
    /// Takes the state file's lock and the ledger's lease.
    async fn take(
        connector: &Connector,
        plan: &Plan,
        options: &RunOptions,
        standing: &mut Standing,
        around: &Circumstances,
    ) -> Result<Self, RunError> {
        let reach = match &standing.reach {
            Some(reach) => reach.for_run(plan, around),
            None => {
                let reach = Reach::establish(plan, around).await?;
                standing.reach.insert(reach).clone()
            }
        };
        let name = connection_name(&connector.description.name, plan, reach.identity());
        let mut cursors = if options.dry_run {
            Cursors::peek(&plan.state_file, &name)?
        } else {
            Cursors::open(&plan.state_file, &name)?
        };
        if let Some(aside) = cursors.take_set_aside() {
            around.reporter.event(&Event::Log {
                level: Level::Warn,
                message: format!(
                    "the state file {} could not be read; it is kept as {}. Everything is read again, and the ledger keeps it from being written twice",
                    plan.state_file.display(),
                    aside.display()
                ),
                fields: BTreeMap::new(),
            });
        }
        let (store, lease) = open_ledger(plan, options, standing.store.as_ref(), &name).await?;
        let renewing = (!options.dry_run).then(|| keep_lease(Arc::clone(&store), lease, around));
        Ok(Self {
            store,
            lease,
            cursors,
            reach,
            renewing,
        })
    }

    fn into_held(self) -> (Held, Claim) {
        let held = Held {
            store: Arc::clone(&self.store),
            lease: self.lease,
            cursors: CursorHome::File(self.cursors),
            reach: self.reach,
        };
        let claim = Claim {
            store: self.store,
            lease: self.lease,
            renewing: self.renewing,
        };
        (held, claim)
    }
}

impl Claim {
    /// Keeps the receipt and gives the lease back. The receipts that are kept are those of syncs: others would push them out within minutes.
    async fn give_back(
        self,
        end: Result<Ended, RunError>,
        keeps_receipt: bool,
        options: &RunOptions,
        around: &Circumstances,
    ) -> Result<Ended, RunError> {
        if let Some(renewing) = self.renewing {
            renewing.abort();
        }
        if options.dry_run {
            return end;
        }
        let mut kept = Ok(());
        if keeps_receipt {
            let (outcome, reason) = match &end {
                Ok(end) => (end.outcome, end.reason.clone()),
                Err(error) => around.broken_off(error),
            };
            let receipt = around.counters.receipt(outcome, reason, false);
            let json = serde_json::to_string(&receipt).unwrap_or_default();
            kept = self
                .store
                .finish_run(self.lease, &around.redactor.apply(&json))
                .await;
        }
        let released = self.store.release(self.lease).await;
        if end.is_ok() {
            kept?;
            released?;
        }
        end
    }
}

/// The row of a connection in the ledger and its name, made where there is none yet. Asks CortexDB who we are.
pub async fn row_of(
    connector: &Connector,
    plan: &Plan,
    standing: &mut Standing,
    around: &Circumstances,
) -> Result<(i64, String), RunError> {
    let options = RunOptions::default();
    let claimed = Claimed::take(connector, plan, &options, standing, around).await?;
    let name = connection_name(&connector.description.name, plan, claimed.reach.identity());
    let row = claimed.lease.connection;
    if let Some(renewing) = claimed.renewing {
        renewing.abort();
    }
    claimed.store.release(claimed.lease).await?;
    Ok((row, name))
}

/// Hands a batch of deliveries of the ledger's to the connector, and writes down what became of them.
pub async fn run_deliveries(
    connector: &Connector,
    plan: &Plan,
    options: &RunOptions,
    batch: &mut Batch,
    platform: &dyn Platform,
    standing: &mut Standing,
    around: &Circumstances,
) -> (Receipt, Settled) {
    around
        .counters
        .update(|totals| totals.kind = Kind::Deliveries);
    let end = async {
        let claimed = Claimed::take(connector, plan, options, standing, around).await?;
        let lease = claimed.lease;
        let (held, claim) = claimed.into_held();
        let task = Task::Deliveries(batch.take_deliveries());
        let end = run_held(connector, plan, options, task, held, around).await;
        let settled = batch.settle(platform, lease, &end).await;
        let settled = settled.map_err(CursorError::from);
        let end = claim.give_back(Ok(end), false, options, around).await?;
        Ok::<_, RunError>((end, settled?))
    };
    let (end, settled) = match end.await {
        Ok((end, settled)) => (end, settled),
        Err(error) => (
            around.ended_by(&error),
            // Nothing was written down: they wait as they did.
            Settled {
                retry_in: Some(UNSETTLED),
                ..Settled::default()
            },
        ),
    };
    if matches!(end.outcome, Outcome::Failed | Outcome::Misconfigured) {
        standing.reach = None;
    }
    let receipt = around.counters.receipt(end.outcome, end.reason, false);
    around
        .reporter
        .event(&Event::Receipt(Box::new(receipt.clone())));
    (receipt, settled)
}

/// How long after a pass failed the next one begins, at the earliest: it is the most expensive thing that a run does.
#[must_use]
pub fn pause_after_failed_pass(reconcile_every: Duration) -> Duration {
    reconcile_every / 24
}

/// Whether a sync is to compare everything now.
pub async fn mode_of(
    reconcile: Reconcile,
    store: &dyn Store,
    connection: i64,
) -> Result<Mode, StoreError> {
    let every = match reconcile {
        Reconcile::Never => return Ok(Mode::Poll),
        Reconcile::Now | Reconcile::GoOn => return Ok(Mode::Reconcile),
        Reconcile::Every(every) => every,
    };
    let last = store.last_reconcile(connection).await?;
    let last = last.and_then(|at| chrono::DateTime::parse_from_rfc3339(&at).ok());
    // A time in the future was written by another clock; it says nothing.
    let recent = last.is_some_and(|at| {
        let age = chrono::Utc::now().signed_duration_since(at).to_std();
        age.is_ok_and(|age| age < every)
    });
    Ok(if recent { Mode::Poll } else { Mode::Reconcile })
}

async fn open_ledger(
    plan: &Plan,
    options: &RunOptions,
    open: Option<&SqliteStore>,
    name: &str,
) -> Result<(Arc<dyn Store>, Lease), RunError> {
    let path = ledger_file(&plan.state_file);
    if !options.dry_run {
        let store = match open {
            Some(store) => store.clone(),
            None => SqliteStore::open(&path).await?,
        };
        let lease = store.claim(name, &owner(&plan.state_file), LEASE).await?;
        return Ok((Arc::new(store), lease));
    }
    // A dry run looks at the ledger, where there is one, and changes nothing.
    if let Some(store) = SqliteStore::open_read_only(&path).await? {
        let connection = Store::connections(&store)
            .await?
            .into_iter()
            .find(|row| row.name == name);
        let lease = Lease {
            connection: connection.map_or(-1, |row| row.id),
            epoch: -1,
        };
        return Ok((Arc::new(store), lease));
    }
    let store = SqliteStore::in_memory().await?;
    let lease = store.claim(name, &owner(&plan.state_file), LEASE).await?;
    Ok((Arc::new(store), lease))
}

/// Renews the lease of a `runtime run` until it is aborted. Where another process has taken over, the run is ended at once: nothing of it could be
/// recorded any more.
pub(crate) fn keep_lease(
    store: Arc<dyn Store>,
    lease: Lease,
    around: &Circumstances,
) -> tokio::task::JoinHandle<()> {
    let (stop, taken_over) = (around.stop.clone(), Arc::clone(&around.taken_over));
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(RENEW).await;
            if let Err(StoreError::Fenced) = store.renew(lease, LEASE).await {
                taken_over.store(true, Ordering::SeqCst);
                stop.cancel();
                return;
            }
        }
    })
}

async fn drive(
    connector: &Connector,
    plan: &Plan,
    options: &RunOptions,
    task: Task,
    held: Held,
    around: &Circumstances,
) -> Result<Ended, RunError> {
    let Held {
        store,
        lease,
        cursors,
        reach,
    } = held;
    let (is_sync, mode) = (matches!(task, Task::Sync(_)), task.mode());
    around.counters.update(|totals| totals.kind = task.kind());
    let fingerprint = options.mappers.fingerprint();
    let writes = !options.dry_run
        && (matches!(task, Task::Deliveries(_)) || (is_sync && mode != Mode::Verify));
    let mapped_by = if writes {
        begin_mapping_with(store.as_ref(), lease, &fingerprint).await?
    } else {
        store.mapped_by(lease.connection).await?
    };
    let pass = match mode {
        Mode::Reconcile if writes => {
            let compares = format!(
                "{} {fingerprint} {} {:?} {:?} {:?}",
                plan.settings,
                connector.description.version,
                plan.template,
                plan.stored_scope,
                plan.cortex.actor
            );
            let from_the_beginning = options.reconcile == Reconcile::Now;
            Some(Pass::open(Arc::clone(&store), lease, &compares, from_the_beginning).await?)
        }
        _ => None,
    };
    let reading = match mode {
        Mode::Poll | Mode::Reconcile if is_sync => {
            Some(FirstReading::of(store.as_ref(), lease, &cursors).await?)
        }
        _ => None,
    };
    // Cancelled by the user's stop and by the writer's failure: either way the connector must come to its end.
    let guest_stop = around.pause.child_token();
    let kind = match &task {
        Task::Deliveries(_) => RunKind::Delivery,
        _ if cursors.all().is_empty() => RunKind::Backfill,
        _ => RunKind::Poll,
    };
    let chain = &options.mappers;
    let source_http = reach.source;
    let identity = reach.cortex.as_ref().map(|(_, identity)| identity.clone());
    let client = reach.cortex.map(|(client, _)| client);
    let actor = client
        .as_ref()
        .and_then(|client| client.actor().map(str::to_owned))
        .or_else(|| plan.cortex.actor.clone());
    let mapping = (!chain.is_empty() || !mapped_by.is_empty()).then(|| {
        let surroundings = Surroundings {
            limits: plan.limits,
            reporter: Arc::clone(&around.reporter),
            redactor: around.redactor.clone(),
            // A pause is no end: the page in hand is mapped.
            stop: around.stop.clone(),
        };
        Session::new(
            Arc::clone(chain),
            &surroundings,
            Arc::clone(&around.counters),
        )
    });
    let chain_changed = fingerprint != mapped_by;
    // Everything that is held will have been made by this chain when this run is complete.
    let mut maps_everything =
        chain_changed && is_sync && (mode == Mode::Reconcile || options.remap);
    let settings = WriterSettings {
        target: match client {
            Some(client) if !options.dry_run => Target::CortexDb {
                forgetting: forgetting(identity.as_ref()),
                client,
            },
            _ => Target::Nowhere,
        },
        store: Arc::clone(&store),
        lease,
        cursors,
        source_instance: plan.source.canonical_url(),
        system: connector.description.name.clone(),
        template: plan.template.clone(),
        host_variables: host_variables(
            &connector.description.name,
            actor.as_deref(),
            plan.stored_scope.as_deref(),
        ),
        with_actor: identity
            .as_ref()
            .is_some_and(|identity| identity.lists("scope.write.on_behalf_of")),
        out: options.out.clone(),
        counters: Arc::clone(&around.counters),
        reporter: Arc::clone(&around.reporter),
        redactor: around.redactor.clone(),
        recorded_bytes: plan.recorded.most(!chain.is_empty()),
        wants_everything_again: maps_everything,
        limits: plan.limits,
        patience: match kind {
            // Somebody may be waiting for it.
            RunKind::Delivery => Duration::ZERO,
            _ => PATIENCE,
        },
    };
    if chain_changed && is_sync && !maps_everything {
        around.reporter.event(&Event::Log {
            level: Level::Warn,
            message: "the mappers or their settings changed: new and changed records go through them now, everything else with the next reconcile pass, or at once with --remap".into(),
            fields: BTreeMap::new(),
        });
    }
    let source = Arc::new(client_of(
        source_http,
        connector,
        plan,
        around,
        guest_stop.clone(),
    ));
    let (writer, writing) = Writer::start(settings, mapping, guest_stop.clone());
    let census = Arc::new(Census::default());
    let access = Access {
        census: Arc::clone(&census),
        source: Some(source),
        writer: Some(writer.clone()),
        reporter: Arc::clone(&around.reporter),
        counters: Arc::clone(&around.counters),
        redactor: around.redactor.clone(),
        limits: plan.limits,
        stop: guest_stop.clone(),
    };
    let context = RunContext {
        kind,
        settings: plan.settings.to_string(),
        since: plan.since.clone(),
        mode,
        compared: pass
            .as_ref()
            .map_or_else(BTreeSet::new, |pass| pass.compared.clone()),
    };
    if mode == Mode::Reconcile {
        around
            .counters
            .update(|totals| totals.reconciled = Some(false));
    }
    let mut answer = Answer::Nothing;
    let mut streams = BTreeMap::new();
    let result = match task {
        Task::Sync(_) if options.remap => {
            // It holds a face of the writer, which ends when the last of them is gone.
            drop(access);
            let remapped = remap(&writer, store.as_ref(), lease, around, &guest_stop).await;
            remapped.map(|all| maps_everything &= all)
        }
        Task::Sync(_) => {
            let end = connector.sync(access, &context).await;
            let SyncEnd {
                result,
                streams: states,
            } = end;
            streams = states;
            result
        }
        Task::Deliveries(batch) => {
            let verdicts = connector.handle_deliveries(access, &context, &batch).await;
            // What it handed over after that was not taken, whatever it says.
            let verdicts = if guest_stop.is_cancelled() {
                verdicts.and(Err(CallFailure::Interrupted))
            } else {
                verdicts
            };
            verdicts.map(|verdicts| {
                let done = count(&verdicts);
                around
                    .counters
                    .update(|totals| totals.deliveries = Some(done));
                answer = Answer::Verdicts(verdicts);
            })
        }
        Task::Connect(target) => {
            let plan = connector.connect(access, &context, &target).await;
            plan.map(|plan| answer = Answer::Plan(plan))
        }
        Task::Disconnect(target) => {
            let left = connector.disconnect(access, &context, &target).await;
            left.map(|left| answer = Answer::Left(left))
        }
    };
    // However the connector ended: what it handed over is finished, and the cursors behind it are saved.
    let _ = writer.flush().await;
    drop(writer);
    let cursors = match writing.join().await {
        Ok(cursors) => cursors,
        Err(error) => {
            // What failed by itself begins again.
            if let Some(pass) = pass {
                let _ = pass.end().await;
            }
            return Err(error.into());
        }
    };
    if is_sync && !options.dry_run {
        keep_stream_states(store.as_ref(), lease, &streams).await?;
    }
    let mut has_advanced = false;
    if let Some(reading) = &reading
        && around.pause.is_cancelled()
    {
        let now = FirstReading::of(store.as_ref(), lease, &cursors).await?;
        has_advanced |= reading.is_behind(&now);
    }
    // Where single streams failed, the others were read all the same.
    let has_read_all = match &result {
        Ok(()) => !options.remap,
        Err(CallFailure::Unavailable(_)) => !streams.is_empty(),
        Err(_) => false,
    };
    if let Some(reading) = reading
        && writes
        && has_read_all
    {
        reading.give_up(store.as_ref(), lease, &streams).await?;
    }
    if maps_everything && result.is_ok() && !options.dry_run {
        store.set_mapped_by(lease, &fingerprint).await?;
    }
    if let Some(pass) = pass {
        let is_interrupted = result.is_err() && guest_stop.is_cancelled();
        if is_interrupted {
            has_advanced |= pass.add(&streams).await?;
        } else {
            pass.end().await?;
        }
    }
    around.advanced.store(has_advanced, Ordering::SeqCst);
    if mode == Mode::Reconcile && result.is_ok() {
        warn_of_unread(around, store.as_ref(), lease, &streams).await?;
        around
            .counters
            .update(|totals| totals.reconciled = Some(true));
    }
    // Where single streams failed, the others can be compared all the same.
    let comparable = matches!(result, Ok(()) | Err(CallFailure::Unavailable(_)));
    let comparison = if mode == Mode::Verify && comparable {
        Some(
            census
                .compare(store.as_ref(), lease.connection, &streams)
                .await?,
        )
    } else {
        None
    };
    let (outcome, reason) = conclude(around, result);
    Ok(Ended {
        outcome,
        reason,
        comparison,
        answer,
    })
}

/// How far the streams have come that were never read to their end, with their cursors; and which ones were.
#[derive(Debug, Default, PartialEq, Eq)]
struct FirstReading {
    unfinished: BTreeMap<String, Option<String>>,
    finished: BTreeSet<String>,
    /// Of the unfinished, those whose reading was broken off.
    broken_off: BTreeSet<String>,
}

impl FirstReading {
    /// A sync has read all there is: what was broken off before, and not read by it, will never be finished.
    async fn give_up(
        self,
        store: &dyn Store,
        lease: Lease,
        read: &BTreeMap<String, StreamState>,
    ) -> Result<(), StoreError> {
        let ends: Vec<StreamEnd<'_>> = self
            .broken_off
            .iter()
            .filter(|stream| !read.contains_key(*stream))
            .map(|stream| StreamEnd {
                stream,
                state: "off",
                detail: "it is not read any more: not selected, gone, or hidden from the token",
            })
            .collect();
        if ends.is_empty() {
            return Ok(());
        }
        store.end_streams(lease, &ends).await
    }

    async fn of(store: &dyn Store, lease: Lease, cursors: &CursorHome) -> Result<Self, StoreError> {
        let mut reading = Self::default();
        let cursors = cursors.all();
        for row in store.streams(lease.connection).await? {
            if row.complete_at.is_some() {
                reading.finished.insert(row.stream);
            } else {
                let cursor = cursors.get(&row.stream).cloned();
                if row.state == "reading" {
                    reading.broken_off.insert(row.stream.clone());
                }
                reading.unfinished.insert(row.stream, cursor);
            }
        }
        Ok(reading)
    }

    fn is_behind(&self, later: &Self) -> bool {
        let is_new = |stream: &String| {
            !self.finished.contains(stream) && !self.unfinished.contains_key(stream)
        };
        self.unfinished.iter().any(|(stream, cursor)| {
            later.finished.contains(stream)
                || later
                    .unfinished
                    .get(stream)
                    .is_some_and(|now| now != cursor)
        }) || later.finished.iter().any(is_new)
            || later
                .unfinished
                .iter()
                .any(|(stream, cursor)| is_new(stream) && cursor.is_some())
    }
}

fn count(verdicts: &[Verdict]) -> Delivered {
    let mut done = Delivered::default();
    for verdict in verdicts {
        match verdict {
            Verdict::Handled => done.handled += 1,
            Verdict::Ignored(_) => done.ignored += 1,
            Verdict::Poll(_) => done.polled += 1,
        }
    }
    done
}

/// Records that are mapped again at a time.
const REMAPPED_AT_ONCE: u32 = 500;

/// Sends what is recorded through the mappers again, in the order in which it was first read. Whether that is all that is held.
async fn remap(
    writer: &Writer,
    store: &dyn Store,
    lease: Lease,
    around: &Circumstances,
    stop: &CancellationToken,
) -> Result<bool, CallFailure> {
    let internal = |error: &dyn std::fmt::Display| CallFailure::Internal(error.to_string());
    let origins = store
        .origins(lease.connection)
        .await
        .map_err(|error| internal(&error))?;
    let mut after = 0;
    let mut records = 0_u64;
    loop {
        let page = store
            .recorded(lease.connection, after, REMAPPED_AT_ONCE)
            .await
            .map_err(|error| internal(&error))?;
        let Some((last, _)) = page.last() else { break };
        after = *last;
        records += page.len() as u64;
        for group in page.chunk_by(|(_, one), (_, other)| {
            one.stream == other.stream && one.origin == other.origin
        }) {
            if stop.is_cancelled() {
                return Err(CallFailure::Interrupted);
            }
            let (_, first) = &group[0];
            let batch = group.iter().map(|(_, one)| recorded::read(one));
            let batch = batch.collect::<Result<Vec<_>, String>>().map_err(|words| {
                internal(&format!(
                    "{words}. Run with --reconcile: it asks the source"
                ))
            })?;
            let origin = Origin {
                id: first.origin.clone(),
                variables: origins.get(&first.origin).cloned().unwrap_or_default(),
            };
            writer
                .write_again(first.stream.clone(), origin, batch)
                .await
                .map_err(|words| internal(&words))?;
        }
    }
    let missing = store
        .not_recorded(lease.connection)
        .await
        .map_err(|error| internal(&error))?;
    if missing > 0 {
        let advice = format!(
            "{missing} records are known and not recorded (they were read before there was a mapper, or there was no room for them); run with --reconcile to map them, which asks the source"
        );
        if records == 0 {
            return Err(CallFailure::Configuration(advice));
        }
        around.reporter.event(&Event::Log {
            level: Level::Warn,
            message: advice,
            fields: BTreeMap::new(),
        });
    }
    Ok(missing == 0)
}

/// What a mark of several chains begins with; `Platform::forget_ledgers` writes it, too.
const MIXED: &str = "mixed, last ";

/// Notes that records are mapped by this chain from now on. Until all that is held was, that is known to be mixed, whichever chain comes next: what the
/// others made has to be seen to. The mark of what is held.
async fn begin_mapping_with(
    store: &dyn Store,
    lease: Lease,
    chain: &str,
) -> Result<String, StoreError> {
    let before = store.mapped_by(lease.connection).await?;
    let mixed = format!("{MIXED}{chain}");
    if before == chain || before == mixed {
        return Ok(before);
    }
    // An empty ledger that is known to be mixed has forgotten what it holds.
    let holds_nothing = !before.starts_with(MIXED)
        && store.streams(lease.connection).await?.is_empty()
        && store.held_by_stream(lease.connection).await?.is_empty();
    let now = if holds_nothing {
        chain.to_owned()
    } else {
        mixed
    };
    store.set_mapped_by(lease, &now).await?;
    store.end_pass(lease).await?;
    Ok(now)
}

async fn warn_of_unread(
    around: &Circumstances,
    store: &dyn Store,
    lease: Lease,
    streams: &BTreeMap<String, StreamState>,
) -> Result<(), RunError> {
    let unread = census::unread(store, lease.connection, streams).await?;
    for (container, (records, streams)) in unread {
        around.reporter.event(&Event::Log {
            level: Level::Warn,
            message: format!(
                "{container}: {records} records are held of what this run did not read ({}): no longer selected, deleted, or hidden from \
                 the token. They are kept",
                streams.join(", ")
            ),
            fields: BTreeMap::new(),
        });
    }
    Ok(())
}

async fn keep_stream_states(
    store: &dyn Store,
    lease: Lease,
    streams: &BTreeMap<String, StreamState>,
) -> Result<(), RunError> {
    let ends: Vec<StreamEnd<'_>> = streams
        .iter()
        .map(|(stream, state)| {
            let (state, detail) = match state {
                StreamState::Reading => ("reading", ""),
                StreamState::Complete => ("complete", ""),
                StreamState::Off(words) => ("off", words.as_str()),
                StreamState::Failed(words) => ("failed", words.as_str()),
            };
            StreamEnd {
                stream,
                state,
                detail,
            }
        })
        .collect();
    Ok(store.end_streams(lease, &ends).await?)
}

fn conclude(around: &Circumstances, result: Result<(), CallFailure>) -> (Outcome, Option<String>) {
    if let (Err(_), Some(stopped)) = (&result, around.stopped()) {
        return stopped;
    }
    if result.is_err() && around.pause.is_cancelled() {
        return (Outcome::Interrupted, None);
    }
    if let Err(CallFailure::Trapped(report)) = &result {
        let report = Some((**report).clone());
        around.counters.update(|totals| totals.trap = report);
    }
    match result {
        Ok(()) if around.counters.update(|totals| totals.dead_lettered) > 0 => {
            (Outcome::CompleteWithDeadLetters, None)
        }
        Ok(()) => (Outcome::Complete, None),
        // Whether it was asked to was looked at before.
        Err(CallFailure::Interrupted) => (
            Outcome::Failed,
            Some("the connector says that it was interrupted, and nobody interrupted it".into()),
        ),
        Err(failure @ CallFailure::Configuration(_)) => (
            Outcome::Misconfigured,
            Some(around.redactor.apply(&failure.to_string()).into_owned()),
        ),
        Err(failure) => (
            Outcome::Failed,
            Some(around.redactor.apply(&failure.to_string()).into_owned()),
        ),
    }
}

pub(crate) fn forgetting(identity: Option<&Identity>) -> Forgetting {
    let Some(identity) = identity else {
        return Forgetting::NotPermitted;
    };
    if identity.may("forget.cascade.redact_events") {
        Forgetting::Redact
    } else if identity.may("forget.cascade.derived_only") {
        Forgetting::DerivedOnly
    } else {
        Forgetting::NotPermitted
    }
}

/// A platform's workers are tasks that move between threads, which this holds the run to.
#[allow(dead_code, reason = "it is there to be compiled")]
fn may_move_between_threads(
    connector: &Connector,
    plan: &Plan,
    options: &RunOptions,
    task: Task,
    held: Held,
    around: &Circumstances,
) -> impl Future<Output = Ended> + Send {
    run_held(connector, plan, options, task, held, around)
}
