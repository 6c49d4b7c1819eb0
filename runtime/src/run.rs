//! One run: from the configured connection to the receipt.
//!
//! Everything that could make the run pointless is looked at before the first record is read, in the order of cost: the state file and its
//! lock, CortexDB's opinion of the token, the ledger. Then the connector runs, the writer follows it, and at the end, however it ends, what
//! was handed over is finished, the cursors are saved, and the receipt says what happened.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::{CortexPlan, Plan, host_variables, ledger_file};
use crate::cortexdb::client::{Client, CortexError, Endpoint};
use crate::cortexdb::identity::{Identity, identify};
use crate::cursors::{CursorError, Cursors};
use crate::host::connector::{CallFailure, Connector, RunContext, SyncEnd};
use crate::host::imports::Access;
use crate::http_client;
use crate::ledger::{Lease, SqliteStore, Store, StoreError};
use crate::patience::Patience;
use crate::redact::{Redactor, Secret};
use crate::report::{Counters, Event, Level, Outcome, Receipt, Reporter, StreamState};
use crate::sandbox::limits::Limits;
use crate::source::budget::Budget;
use crate::source::client::{SourceClient, Timeouts};
use crate::writer::{Forgetting, Target, Writer, WriterError, WriterSettings};

/// How long a run that died without saying so keeps others away, where they cannot know that it is dead.
pub(crate) const LEASE: Duration = Duration::from_secs(60);
/// Renewed four times as often.
const RENEW: Duration = Duration::from_secs(15);
/// The lock on the state file proves that an earlier run of ours is dead, so all runs on it share this name.
pub(crate) const OWNER: &str = "runtime run";

/// What to do with what is read.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Write nothing, say what would be written.
    pub dry_run: bool,
    /// Copy every envelope into this file.
    pub out: Option<PathBuf>,
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
}

impl RunError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Cortex(CortexError::Misconfigured(_))
            | Self::Writer(
                WriterError::Cortex(CortexError::Misconfigured(_)) | WriterError::Scope(_),
            )
            | Self::HttpClient(_) => Outcome::Misconfigured,
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

/// What every request of a run shares.
pub struct Circumstances {
    /// Totals.
    pub counters: Arc<Counters>,
    /// Progress.
    pub reporter: Arc<dyn Reporter>,
    /// Removes secrets.
    pub redactor: Redactor,
    /// The user wants to stop.
    pub stop: CancellationToken,
}

/// The way to the source of this connection.
pub fn source_client(
    connector: &Connector,
    plan: &Plan,
    around: &Circumstances,
    stop: CancellationToken,
) -> Result<SourceClient, RunError> {
    let http = http_client::build(&plan.source.url, plan.source.ca_file.as_deref())
        .map_err(RunError::HttpClient)?;
    Ok(SourceClient {
        http,
        name: connector.description.name.clone(),
        base: plan.source.url.clone(),
        token: plan.source.token.clone(),
        authentication: connector.description.authentication.clone(),
        authentication_in_use: AtomicUsize::new(0),
        timeouts: Timeouts::default(),
        max_body_bytes: Limits::default().response_bytes,
        budget: Budget::default(),
        patience: Arc::new(Patience::new(Some(plan.patience))),
        counters: Arc::clone(&around.counters),
        reporter: Arc::clone(&around.reporter),
        redactor: around.redactor.clone(),
        stop,
    })
}

/// Connects to CortexDB and asks who we are. `None`: a dry run without a key.
pub async fn connect(
    plan: &Plan,
    around: &Circumstances,
) -> Result<Option<(Client, Identity)>, RunError> {
    connect_to(&plan.cortex, plan.patience, around).await
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
    let client = Client::new(
        http_client::build(&base, None).map_err(RunError::HttpClient)?,
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

/// Runs a connection once.
pub async fn run_once(
    connector: &Connector,
    plan: &Plan,
    options: &RunOptions,
    reporter: Arc<dyn Reporter>,
    stop: CancellationToken,
) -> Receipt {
    let around = Circumstances {
        counters: Arc::new(Counters::default()),
        reporter,
        redactor: redactor_for(plan),
        stop,
    };
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
    let (outcome, reason) = match execute(connector, plan, options, &around).await {
        Ok(end) => end,
        Err(_) if around.stop.is_cancelled() => (Outcome::Interrupted, None),
        Err(error) => (
            error.outcome(),
            Some(around.redactor.apply(&error.to_string()).into_owned()),
        ),
    };
    let receipt = around.counters.receipt(outcome, reason, options.dry_run);
    around
        .reporter
        .event(&Event::Receipt(Box::new(receipt.clone())));
    receipt
}

async fn execute(
    connector: &Connector,
    plan: &Plan,
    options: &RunOptions,
    around: &Circumstances,
) -> Result<(Outcome, Option<String>), RunError> {
    let connected = connect(plan, around).await?;
    let identity = connected.as_ref().map(|(_, identity)| identity);
    let name = connection_name(&connector.description.name, plan, identity);
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
            fields: std::collections::BTreeMap::new(),
        });
    }
    let (store, lease) = open_ledger(plan, options, &name).await?;
    let renewing =
        (!options.dry_run).then(|| keep_lease(Arc::clone(&store), lease, around.stop.clone()));
    let end = drive(
        connector,
        plan,
        options,
        around,
        connected,
        cursors,
        Arc::clone(&store),
        lease,
    )
    .await;
    if let Some(renewing) = renewing {
        renewing.abort();
    }
    let (outcome, reason) = match &end {
        Ok((outcome, reason)) => (*outcome, reason.clone()),
        Err(_) if around.stop.is_cancelled() => (Outcome::Interrupted, None),
        Err(error) => (error.outcome(), Some(error.to_string())),
    };
    if !options.dry_run {
        let receipt = around.counters.receipt(outcome, reason, false);
        let json = serde_json::to_string(&receipt).unwrap_or_default();
        let kept = store.finish_run(lease, &around.redactor.apply(&json)).await;
        let released = store.release(lease).await;
        if end.is_ok() {
            kept?;
            released?;
        }
    }
    end
}

async fn open_ledger(
    plan: &Plan,
    options: &RunOptions,
    name: &str,
) -> Result<(Arc<dyn Store>, Lease), RunError> {
    let path = ledger_file(&plan.state_file);
    if !options.dry_run {
        let store = SqliteStore::open(&path).await?;
        let lease = store.claim(name, OWNER, LEASE).await?;
        return Ok((Arc::new(store), lease));
    }
    // A dry run looks at the ledger, where there is one, and changes nothing.
    if let Some(store) = SqliteStore::open_read_only(&path).await? {
        let connection = store
            .connections()
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
    let lease = store.claim(name, OWNER, LEASE).await?;
    Ok((Arc::new(store), lease))
}

pub(crate) fn keep_lease(
    store: Arc<dyn Store>,
    lease: Lease,
    stop: CancellationToken,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(RENEW).await;
            if let Err(StoreError::Fenced) = store.renew(lease, LEASE).await {
                stop.cancel();
                return;
            }
        }
    })
}

#[allow(
    clippy::too_many_arguments,
    reason = "the parts of a run, put together in one place"
)]
async fn drive(
    connector: &Connector,
    plan: &Plan,
    options: &RunOptions,
    around: &Circumstances,
    connected: Option<(Client, Identity)>,
    cursors: Cursors,
    store: Arc<dyn Store>,
    lease: Lease,
) -> Result<(Outcome, Option<String>), RunError> {
    // Cancelled by the user's stop and by the writer's failure: either way the connector must come to its end.
    let guest_stop = around.stop.child_token();
    let backfill = cursors.all().is_empty();
    let identity = connected.as_ref().map(|(_, identity)| identity.clone());
    let client = connected.map(|(client, _)| client);
    let actor = client
        .as_ref()
        .and_then(|client| client.actor().map(str::to_owned))
        .or_else(|| plan.cortex.actor.clone());
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
    };
    let source = Arc::new(source_client(connector, plan, around, guest_stop.clone())?);
    let (writer, task) = Writer::start(settings, guest_stop.clone());
    let access = Access {
        source: Some(source),
        writer: Some(writer.clone()),
        reporter: Arc::clone(&around.reporter),
        counters: Arc::clone(&around.counters),
        redactor: around.redactor.clone(),
        limits: Limits::default(),
    };
    let context = RunContext {
        backfill,
        settings: plan.settings.to_string(),
        since: plan.since.clone(),
    };
    let SyncEnd { result, streams } = connector.sync(access, &context).await;
    // However the connector ended: what it handed over is finished, and the cursors behind it are saved.
    let _ = writer.flush().await;
    drop(writer);
    task.join().await?;
    if !options.dry_run {
        keep_stream_states(store.as_ref(), lease, &streams).await?;
    }
    Ok(conclude(around, result))
}

async fn keep_stream_states(
    store: &dyn Store,
    lease: Lease,
    streams: &std::collections::BTreeMap<String, StreamState>,
) -> Result<(), RunError> {
    for (stream, state) in streams {
        let (word, detail) = match state {
            StreamState::Reading => ("reading", ""),
            StreamState::Complete => ("complete", ""),
            StreamState::Off(words) => ("off", words.as_str()),
            StreamState::Failed(words) => ("failed", words.as_str()),
        };
        store.stream_state(lease, stream, word, detail).await?;
    }
    Ok(())
}

fn conclude(around: &Circumstances, result: Result<(), CallFailure>) -> (Outcome, Option<String>) {
    match result {
        Ok(()) if around.counters.update(|totals| totals.dead_lettered) > 0 => {
            (Outcome::CompleteWithDeadLetters, None)
        }
        Ok(()) => (Outcome::Complete, None),
        Err(CallFailure::Interrupted) => (Outcome::Interrupted, None),
        Err(_) if around.stop.is_cancelled() => (Outcome::Interrupted, None),
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
