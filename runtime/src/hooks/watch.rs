//! `runtime run --watch --listen`: one connection that polls and is called.
//!
//! One loop decides what comes next, so that nothing of one connection ever runs twice at a time: looking after the hooks of the source, the
//! deliveries that wait, a sync. Calls are taken all the while, by [`super::ingest`]: they wait in the ledger's database, and outlive this
//! process. What is decided by times is in [`super::pace`].
//!
//! Hooks are registered before the first sync, so that nothing changes unnoticed between the two. While they tell of everything, polls come
//! more seldom ([`super::pace::stretched`]); where one fails or something is not covered, as often as configured.
//!
//! A pass that compares everything is interrupted, too, and goes on with the streams that it has not compared.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::routing::get;
use connector_store::platform::{NewDelivery, Platform, PlatformError};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::inbox::{Batch, Settled};
use super::ingest::{Endpoint, Ingest, Reception};
use super::listen;
use super::pace::{Pace, stretched};
use super::proof::{HookSecrets, new_secret, new_signing_token};
use crate::config::{HooksPlan, Plan, ledger_file};
use crate::digest;
use crate::host::connector::{Connector, Mode};
use crate::host::hooks::{HookPlan, Target};
use crate::ledger::SqliteStore;
use crate::redact::{Redactor, Secret};
use crate::report::{Event, Level, Outcome, Receipt, Reporter};
use crate::run::{
    Answer, Circumstances, Reconcile, RunError, RunOptions, Standing, Task, mode_of, row_of,
    run_again, run_deliveries,
};

/// Between two looks after the hooks of the source.
const LOOK_AFTER: Duration = Duration::from_secs(600);
/// After one that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// The store says when something comes; this is for what it does not say.
const LOOK_FOR_DELIVERIES: Duration = Duration::from_secs(5);
/// How long deliveries that are settled are kept, and how often old ones are removed.
const KEEP_DELIVERIES: Duration = Duration::from_secs(7 * 24 * 3600);
const TRIM: Duration = Duration::from_secs(3600);
/// Hooks that the same program registered for other connections have other names.
const NAME_DIGITS: usize = 12;

/// What is remembered of the hooks of a connection beside its ledger.
pub mod notes {
    /// The shared secret.
    #[must_use]
    pub fn secret(connection: &str) -> String {
        format!("hooks:secret:{connection}")
    }

    /// The signing token.
    #[must_use]
    pub fn signing_token(connection: &str) -> String {
        format!("hooks:signing-token:{connection}")
    }

    /// Digest of both, as the source was last told.
    #[must_use]
    pub fn told(connection: &str) -> String {
        format!("hooks:told:{connection}")
    }

    /// The last plan, as JSON.
    #[must_use]
    pub fn plan(connection: &str) -> String {
        format!("hooks:plan:{connection}")
    }
}

/// Why listening cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Not with this configuration.
    #[error("{0}")]
    Misused(String),
    /// The ledger.
    #[error(transparent)]
    Store(#[from] PlatformError),
    /// The run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// No random numbers.
    #[error(
        "no random secret could be made: {0}. Set the webhook secret and signing token yourself"
    )]
    Random(#[from] std::io::Error),
}

/// What calls are proved with, and where they come from.
#[derive(Clone)]
pub struct Identity {
    /// Row of the ledger.
    pub row: i64,
    /// The connection's name in the ledger.
    pub name: String,
    secret: Secret,
    signing_token: Secret,
}

impl Identity {
    /// Takes the user's secrets, or makes and keeps its own.
    pub async fn of(
        platform: &dyn Platform,
        row: i64,
        name: String,
        secret: Option<&Secret>,
        signing_token: Option<&Secret>,
    ) -> Result<Self, ListenError> {
        let kept = async |note: String, fresh: String| {
            let kept = platform.set_note(&note, &fresh, false).await?;
            Ok::<_, ListenError>(Secret::new(kept))
        };
        let secret = match secret {
            Some(secret) => secret.clone(),
            None => kept(notes::secret(&name), new_secret()?).await?,
        };
        let signing_token = match signing_token {
            Some(token) => token.clone(),
            None => kept(notes::signing_token(&name), new_signing_token()?).await?,
        };
        Ok(Self {
            row,
            name,
            secret,
            signing_token,
        })
    }

    fn secrets(&self) -> [Secret; 2] {
        [self.secret.clone(), self.signing_token.clone()]
    }

    /// Changes when one of the two does. A digest of random values tells nothing of them.
    fn told(&self) -> String {
        let parts = [&self.secret, &self.signing_token].map(|secret| secret.reveal().as_bytes());
        digest::hex(&digest::sha256_of_parts(parts), 32)
    }

    /// Where the source is to call.
    pub async fn target(
        &self,
        platform: &dyn Platform,
        url: String,
    ) -> Result<Target, PlatformError> {
        let told = platform.note(&notes::told(&self.name)).await?;
        let name = digest::hex(
            &digest::sha256_of_parts([self.name.as_bytes()]),
            NAME_DIGITS,
        );
        Ok(Target {
            url,
            name: format!("connector-runtime {name}"),
            secret: self.secret.clone(),
            signing_token: self.signing_token.clone(),
            rotated: told.is_some_and(|told| told != self.told()),
        })
    }
}

/// Takes the calls of one connection.
struct Desk {
    platform: Arc<dyn Platform>,
    name: String,
    /// Unknown until CortexDB has said who we are.
    endpoint: OnceLock<Arc<Endpoint>>,
    reporter: Arc<dyn Reporter>,
}

#[async_trait]
impl Reception for Desk {
    async fn endpoint(&self, name: &str) -> Result<Option<Arc<Endpoint>>, PlatformError> {
        if name != self.name {
            return Ok(None);
        }
        match self.endpoint.get() {
            Some(endpoint) => Ok(Some(Arc::clone(endpoint))),
            None => Err(PlatformError::InUse(
                "CortexDB has not said yet whose connection this is".into(),
            )),
        }
    }

    async fn receive(
        &self,
        deliveries: &[NewDelivery],
    ) -> Result<Vec<(String, bool)>, PlatformError> {
        self.platform.receive(deliveries).await
    }

    /// The store wakes whoever waits for it.
    fn arrived(&self) {}

    fn failed(&self, words: &str) {
        self.reporter.event(&log(Level::Warn, words));
    }
}

fn log(level: Level, message: &str) -> Event {
    Event::Log {
        level,
        message: message.to_owned(),
        fields: std::collections::BTreeMap::new(),
    }
}

/// How the loop that syncs decides, beside the plan.
pub struct Schedule {
    /// Reconcile in the first sync.
    pub reconcile_first: bool,
    /// Reconcile when this is due; [`Reconcile::Never`] for never.
    pub reconcile: Reconcile,
    /// A pass that failed is tried again after this time.
    pub reconcile_pause: Duration,
}

/// A watching run that is also called.
pub struct Watch<'a> {
    connector: &'a Connector,
    plan: Plan,
    options: RunOptions,
    hooks: HooksPlan,
    schedule: Schedule,
    reporter: Arc<dyn Reporter>,
    redactor: Redactor,
    stop: CancellationToken,
    platform: Arc<dyn Platform>,
    store: SqliteStore,
    standing: Standing,
    desk: Arc<Desk>,
    pace: Pace,
    last_plan: Option<HookPlan>,
    reconcile_failed: Option<Instant>,
    /// A pass that compares everything was paused.
    reconcile_paused: bool,
    worked: bool,
}

/// How watching ended.
pub enum End {
    /// It was told to stop.
    Stopped,
    /// It cannot work, and never did.
    Misconfigured(Box<Receipt>),
}

/// Where calls of a connector go.
#[must_use]
pub fn path_of(connector: &str) -> String {
    format!("/hooks/{connector}")
}

/// The address that the source calls.
#[must_use]
pub fn public_url(base: &url::Url, connector: &str) -> String {
    format!(
        "{}{}",
        base.as_str().trim_end_matches('/'),
        path_of(connector)
    )
}

/// Watches until it is told to stop.
pub async fn watch(
    connector: &Connector,
    plan: Plan,
    options: RunOptions,
    hooks: HooksPlan,
    schedule: Schedule,
    reporter: Arc<dyn Reporter>,
    stop: CancellationToken,
) -> Result<End, ListenError> {
    let Some(description) = connector.hooks().cloned() else {
        return Err(ListenError::Misused(format!(
            "{} does not understand webhooks (it exports no `cortexdb:connector/hooks`); run it without --listen",
            connector.description.name
        )));
    };
    let (listener, address) = listen::bind(&hooks.listen)
        .await
        .map_err(ListenError::Misused)?;
    let store = SqliteStore::open(&ledger_file(&plan.state_file))
        .await
        .map_err(PlatformError::from)?;
    let platform: Arc<dyn Platform> = Arc::new(store.clone());
    let name = connector.description.name.clone();
    let desk = Arc::new(Desk {
        platform: Arc::clone(&platform),
        name: name.clone(),
        endpoint: OnceLock::new(),
        reporter: Arc::clone(&reporter),
    });
    let (ingest, storing) = Ingest::start(Arc::clone(&desk) as Arc<dyn Reception>);
    let router = router(ingest);
    let serving = tokio::spawn(listen::serve(listener, router, stop.clone()));
    reporter.event(&Event::Listening {
        address: address.to_string(),
        path: path_of(&name),
        url: hooks.public_url.as_ref().map(|url| public_url(url, &name)),
    });
    let mut watch = Watch {
        redactor: crate::run::redactor_for(&plan),
        pace: Pace::new(plan.interval, Instant::now()),
        standing: Standing::with_ledger(store.clone()),
        connector,
        plan,
        options,
        hooks,
        schedule,
        reporter,
        stop: stop.clone(),
        platform,
        store,
        desk,
        last_plan: None,
        reconcile_failed: None,
        reconcile_paused: false,
        worked: false,
    };
    let end = watch.run(&description).await;
    stop.cancel();
    let _ = serving.await;
    let _ = storing.await;
    end
}

fn router(ingest: Ingest) -> Router {
    ingest.router().route("/healthz", get(|| async { "ok\n" }))
}

impl Watch<'_> {
    async fn run(
        &mut self,
        description: &crate::host::hooks::HooksDescription,
    ) -> Result<End, ListenError> {
        let Some(identity) = self.introduce().await? else {
            return Ok(End::Stopped);
        };
        let identity = match identity {
            Ok(identity) => identity,
            Err(receipt) => return Ok(End::Misconfigured(Box::new(receipt))),
        };
        let secrets = [self.plan.source.token.clone(), self.plan.cortex.key.clone()];
        self.redactor = Redactor::new(secrets.into_iter().flatten().chain(identity.secrets()));
        let _ = self.desk.endpoint.set(Arc::new(Endpoint {
            connection: identity.row,
            owner: None,
            full: false,
            hooks: description.clone(),
            secrets: HookSecrets {
                secrets: vec![identity.secret.clone()],
                signing_tokens: vec![identity.signing_token.clone()],
            },
        }));
        let mut wakeups = self.platform.wakeups();
        let mut look_after = Instant::now();
        let mut trim = Instant::now();
        while !self.stop.is_cancelled() {
            let now = Instant::now();
            if self.hooks.public_url.is_some() && now >= look_after {
                let pause = if self.look_after(&identity).await {
                    LOOK_AFTER
                } else {
                    LOOK_AGAIN
                };
                look_after = Instant::now() + pause;
                continue;
            }
            if now >= trim {
                if let Err(error) = self.platform.trim_deliveries(KEEP_DELIVERIES).await {
                    self.reporter.event(&log(Level::Warn, &error.to_string()));
                }
                trim = now + TRIM;
            }
            let _ = wakeups.borrow_and_update();
            let mut batch = self.next_batch(identity.row).await;
            if self.pace.is_due(!batch.is_empty(), now) {
                if let Some(receipt) = self.sync(identity.row, &mut wakeups).await {
                    return Ok(End::Misconfigured(Box::new(receipt)));
                }
                continue;
            }
            if !batch.is_empty() {
                self.deliver(&mut batch).await;
                continue;
            }
            let mut until = self.pace.due().min(now + LOOK_FOR_DELIVERIES);
            if self.hooks.public_url.is_some() {
                until = until.min(look_after);
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                _ = wakeups.changed() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
        Ok(End::Stopped)
    }

    fn around(&self) -> Circumstances {
        Circumstances::new(
            Arc::clone(&self.reporter),
            self.redactor.clone(),
            &self.stop,
        )
    }

    /// Finds out whose connection this is, as long as that takes. `None`: told to stop.
    async fn introduce(&mut self) -> Result<Option<Result<Identity, Receipt>>, ListenError> {
        loop {
            let around = self.around();
            match row_of(self.connector, &self.plan, &mut self.standing, &around).await {
                Ok((row, name)) => {
                    let platform = self.platform.as_ref();
                    let secrets = (
                        self.hooks.secret.as_ref(),
                        self.hooks.signing_token.as_ref(),
                    );
                    return Ok(Some(Ok(Identity::of(
                        platform, row, name, secrets.0, secrets.1,
                    )
                    .await?)));
                }
                Err(error) => {
                    let receipt = around.receipt_of(&error);
                    if self.stop.is_cancelled() {
                        return Ok(None);
                    }
                    self.reporter
                        .event(&Event::Receipt(Box::new(receipt.clone())));
                    if receipt.outcome == Outcome::Misconfigured {
                        return Ok(Some(Err(receipt)));
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(self.plan.interval) => {}
                () = self.stop.cancelled() => return Ok(None),
            }
        }
    }

    /// Lets the connector register and mend its hooks. Whether that succeeded.
    async fn look_after(&mut self, identity: &Identity) -> bool {
        let Some(base) = &self.hooks.public_url else {
            return true;
        };
        let url = public_url(base, &self.connector.description.name);
        let target = match identity.target(self.platform.as_ref(), url).await {
            Ok(target) => target,
            Err(error) => {
                self.reporter.event(&log(Level::Warn, &error.to_string()));
                return false;
            }
        };
        let around = self.around();
        let (_, answer) = run_again(
            self.connector,
            &self.plan,
            &self.options,
            Some(Task::Connect(target)),
            &mut self.standing,
            &around,
        )
        .await;
        let Answer::Plan(plan) = answer else {
            // Whether the hooks still work is unknown.
            self.pace.set_interval(self.plan.interval);
            return false;
        };
        if let Err(error) = self.remember(identity, &plan).await {
            self.reporter.event(&log(Level::Warn, &error.to_string()));
        }
        if plan.missed {
            self.reporter.event(&log(
                Level::Info,
                "calls of the source may have been lost; a sync follows",
            ));
            self.pace.ask(Instant::now());
        }
        let interval = if plan.covers_everything() {
            stretched(self.plan.interval)
        } else {
            self.plan.interval
        };
        self.pace.set_interval(interval);
        let same = |other: &HookPlan| other.hooks == plan.hooks && other.polled == plan.polled;
        if !self.last_plan.as_ref().is_some_and(same) {
            self.reporter.event(&Event::Hooks(Box::new(plan.clone())));
            if interval > self.plan.interval {
                let words = format!(
                    "the hooks tell of everything: polls come every {interval:?} in place of {:?}, for what hooks lose",
                    self.plan.interval
                );
                self.reporter.event(&log(Level::Info, &words));
            }
        }
        self.last_plan = Some(plan);
        true
    }

    async fn remember(&self, identity: &Identity, plan: &HookPlan) -> Result<(), PlatformError> {
        let at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let kept = json!({"at": at, "plan": plan}).to_string();
        let kept = self.redactor.apply(&kept).into_owned();
        self.platform
            .set_note(&notes::plan(&identity.name), &kept, true)
            .await?;
        self.platform
            .set_note(&notes::told(&identity.name), &identity.told(), true)
            .await?;
        Ok(())
    }

    async fn next_batch(&self, row: i64) -> Batch {
        match Batch::next(self.platform.as_ref(), row).await {
            Ok(batch) => batch,
            Err(error) => {
                self.reporter.event(&log(Level::Warn, &error.to_string()));
                Batch::default()
            }
        }
    }

    async fn deliver(&mut self, batch: &mut Batch) {
        let around = self.around();
        let (_, settled) = run_deliveries(
            self.connector,
            &self.plan,
            &self.options,
            batch,
            self.platform.as_ref(),
            &mut self.standing,
            &around,
        )
        .await;
        let Settled {
            wants_sync,
            retry_in,
            given_up,
        } = settled;
        if given_up > 0 {
            let words = format!(
                "{given_up} deliveries failed again and again and are left to the next sync"
            );
            self.reporter.event(&log(Level::Warn, &words));
        }
        if wants_sync {
            self.pace.ask(Instant::now());
        }
        if retry_in.is_some() {
            // What failed waits in the store; what comes meanwhile would most likely fail the same way.
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// Syncs; interrupted for deliveries where that may be. The receipt, where watching cannot go on.
    async fn sync(
        &mut self,
        row: i64,
        wakeups: &mut tokio::sync::watch::Receiver<u64>,
    ) -> Option<Receipt> {
        let pause = self.schedule.reconcile_pause;
        self.options.reconcile = match self.reconcile_failed {
            _ if self.schedule.reconcile_first => Reconcile::Now,
            Some(failed) if failed.elapsed() < pause => Reconcile::Never,
            _ if self.reconcile_paused => Reconcile::GoOn,
            _ => self.schedule.reconcile,
        };
        let mode = mode_of(self.options.reconcile, &self.store, row).await;
        let may_pause = mode.is_ok() && !self.options.remap;
        self.schedule.reconcile_first = false;
        let around = self.around();
        let pause = around.pause.clone();
        let began = Instant::now();
        let slice = self.pace.slice(matches!(mode, Ok(Mode::Reconcile)), began);
        let platform = Arc::clone(&self.platform);
        let run = run_again(
            self.connector,
            &self.plan,
            &self.options,
            None,
            &mut self.standing,
            &around,
        );
        let interrupt = async {
            if !may_pause {
                return std::future::pending().await;
            }
            tokio::time::sleep(slice).await;
            while !platform
                .waiting(row, 1, 1)
                .await
                .is_ok_and(|waiting| !waiting.is_empty())
            {
                tokio::select! {
                    changed = wakeups.changed() => if changed.is_err() {
                        return std::future::pending().await;
                    },
                    () = tokio::time::sleep(LOOK_FOR_DELIVERIES) => {}
                }
            }
        };
        let (receipt, _) = {
            let mut run = std::pin::pin!(run);
            tokio::select! {
                end = &mut run => end,
                () = interrupt => {
                    pause.cancel();
                    run.await
                }
            }
        };
        let now = Instant::now();
        if receipt.outcome == Outcome::Interrupted && pause.is_cancelled() {
            self.reconcile_paused |= matches!(mode, Ok(Mode::Reconcile));
            self.pace.interrupted(around.has_advanced(), began, now);
            return None;
        }
        self.pace.ended(now);
        match receipt.reconciled {
            Some(true) => (self.reconcile_failed, self.reconcile_paused) = (None, false),
            Some(false) => self.reconcile_failed = Some(now),
            None => {}
        }
        let completed = matches!(
            receipt.outcome,
            Outcome::Complete | Outcome::CompleteWithDeadLetters
        );
        if completed {
            if std::mem::take(&mut self.options.remap) {
                // The source is asked at once, not an interval later.
                self.pace = Pace::new(self.plan.interval, now);
            }
            // Read once from there; the cycles after it go on from the cursors.
            self.plan.since = None;
            self.worked = true;
        }
        // What worked once is not given up for an answer that may be gone in the next cycle.
        (receipt.outcome == Outcome::Misconfigured && !self.worked).then_some(receipt)
    }
}
