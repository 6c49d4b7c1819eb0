//! What is done for a connection between claim and release: its hooks are looked after, its deliveries followed, and what is new is read.
//!
//! Deliveries come first, because somebody waits for them, and a sync that takes long is paused for them at its next safe point. Whatever
//! goes wrong, the connection is given back with a reason and a time; what takes the process down is counted by the store.

mod hooks;

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::lease::{Keeper, keep};
use super::schedule::{after_failure, after_success};
use crate::config::{DEFAULT_INTERVAL, Plan};
use crate::cursors::{CursorError, CursorHome, DatabaseCursors};
use crate::digest::fingerprint;
use crate::hooks::inbox::Batch;
use crate::hooks::pace::Slices;
use crate::host::connector::{Connector, Mode};
use crate::platform::components::{ComponentError, description_of};
use crate::platform::connection::{ConnectionConfig, OpenedSecrets, memory_of, plan_of};
use crate::platform::made_for::{MadeFor, hold_to};
use crate::platform::secrets::SecretError;
use crate::platform::traces::{Span, span_id};
use crate::platform::{Ground, letters, metrics};
use crate::redact::Redactor;
use crate::report::{Level, Outcome, Receipt};
use crate::run::{
    Answer, Circumstances, Ended, Held, Reach, Reconcile, RunOptions, Task, mode_of,
    pause_after_failed_pass, run_held,
};
use connector_store::platform::{
    Claim, ConnectionChange, ConnectionState, Delivery, Page, PlatformError, Release, Usage,
};

/// Batches of deliveries that one turn follows before others have theirs.
const MOST_BATCHES: usize = 20;
/// Deliveries of a tenant that have waited for so long have no place to be followed in: a sync of that tenant makes one.
const WITHOUT_A_PLACE: Duration = Duration::from_secs(1);
/// How many looks there are for each one at others of its tenant.
const LOOKS_FOR_OTHERS: u64 = 4;
/// After a sync has made a place for them, no other one does for so long.
const TO_TAKE_A_PLACE: Duration = Duration::from_secs(2);
/// Connections whose pauses are counted.
const MOST_PAUSED: usize = 10_000;
/// A sync is interrupted after so long, so that no tenant keeps a worker for itself.
const LONGEST_TURN: Duration = Duration::from_secs(5 * 60);
/// Whatever a run waits for, it ends after so long as a failure. Interrupted, it still finishes what it has in hand, and is patient with
/// its servers for a while; but a server that answers each question with another page has no end.
const LONGEST_RUN: Duration = Duration::from_secs(30 * 60);
/// How often a sync looks for deliveries.
const LOOK: Duration = Duration::from_millis(250);
/// Runs in a row that could not begin, after which a connection is parked: somebody has to change it.
const PARK_AFTER_MISCONFIGURED: u32 = 5;
/// Ways to servers that are kept open.
const MOST_REACHES: usize = 256;
const REACH_FOR: Duration = Duration::from_secs(10 * 60);

/// How the part of a turn ended that decides what comes next.
struct Done {
    outcome: Outcome,
    reason: Option<String>,
    receipt: Value,
    synced: bool,
}

impl Done {
    /// Without a run that left a receipt.
    fn without_a_run(outcome: Outcome, reason: Option<String>) -> Self {
        Self {
            outcome,
            reason,
            receipt: json!({}),
            synced: false,
        }
    }
}

/// One claim, on its way from claim to release.
pub(super) struct Turn {
    ground: Ground,
    claim: Claim,
    keeper: Keeper,
    stop: tokio_util::sync::CancellationToken,
    usage: Usage,
    /// Of the connection, once it is known.
    interval: Duration,
    realtime: bool,
    /// In a place that only deliveries may take: a sync is left to others.
    for_deliveries: bool,
    /// A delivery asked for a sync that is left to others.
    sync_is_due: bool,
    /// How long deliveries took before the sync.
    spent: Duration,
}

/// What a connection needs to run, put together.
struct Ready {
    connector: Arc<Connector>,
    plan: Plan,
    options: RunOptions,
    redactor: Redactor,
    config: ConnectionConfig,
    secrets: OpenedSecrets,
}

impl Turn {
    /// Begins to hold the lease.
    pub(super) fn new(
        ground: Ground,
        claim: Claim,
        claimed_at: Instant,
        for_deliveries: bool,
    ) -> Self {
        let stop = ground.stop.child_token();
        let keeper = keep(
            Arc::clone(&ground.ledger),
            claim.lease,
            ground.config.lease,
            claimed_at,
            stop.clone(),
        );
        Self {
            ground,
            claim,
            keeper,
            stop,
            usage: Usage {
                runs: 1,
                ..Usage::default()
            },
            interval: DEFAULT_INTERVAL,
            realtime: false,
            for_deliveries,
            sync_is_due: false,
            spent: Duration::ZERO,
        }
    }

    /// Works, and gives the connection back.
    pub(super) async fn take(mut self) {
        if self.claim.connection.state == ConnectionState::Leaving {
            return self.leave().await;
        }
        let done = match self.ready().await {
            Ok(ready) => self.perform(&ready).await,
            Err((outcome, reason)) => {
                if outcome == Outcome::Failed {
                    let words = "a run cannot begin, which is no fault of its owner's";
                    self.line(Level::Error, words, &reason);
                }
                Done::without_a_run(outcome, Some(reason))
            }
        };
        self.release(done).await;
    }

    fn lost(&self) -> bool {
        self.keeper.lost.load(Ordering::SeqCst)
    }

    fn line(&self, level: Level, message: &str, reason: &str) {
        let connection = &self.claim.connection;
        self.ground.log.line(
            level,
            message,
            json!({ "tenant": connection.tenant, "connection": connection.id, "run": self.claim.run, "reason": reason }),
        );
    }

    /// Everything that a run needs; or why there can be none: the owner's settings, or the platform itself.
    async fn ready(&self) -> Result<Ready, (Outcome, String)> {
        fn wrong(error: impl std::fmt::Display) -> (Outcome, String) {
            (Outcome::Misconfigured, error.to_string())
        }
        fn judged(is_of_the_platform: bool, error: impl std::fmt::Display) -> (Outcome, String) {
            if is_of_the_platform {
                return (Outcome::Failed, error.to_string());
            }
            wrong(error)
        }
        let stored = |error: ComponentError| judged(error.is_of_the_platform(), error);
        let sealed = |error: SecretError| judged(error.is_of_the_platform(), error);
        let (ground, connection) = (&self.ground, &self.claim.connection);
        let config: ConnectionConfig = serde_json::from_value(connection.config.clone())
            .map_err(|error| wrong(format!("the stored configuration cannot be read: {error}")))?;
        let secrets = OpenedSecrets::of(connection, &ground.secrets).map_err(sealed)?;
        let platform = ground.platform.as_ref();
        let component = platform
            .component(Some(&connection.tenant), &connection.chain.connector)
            .await
            .map_err(|error| stored(error.into()))?;
        let description = description_of(&component).map_err(wrong)?;
        let plan = plan_of(&config, &secrets, &description, &ground.rules()).map_err(wrong)?;
        let components = 1 + connection.chain.mappers.len();
        if memory_of(&plan, components) != connection.memory_bytes {
            let change = ConnectionChange {
                memory_bytes: Some(memory_of(&plan, components)),
                ..ConnectionChange::default()
            };
            let changed = platform.update_connection(None, &connection.id, None, &change);
            changed.await.map_err(|error| stored(error.into()))?;
            // It was claimed with another number, which the tenant's cap was held against.
            let reason = "the platform's limits have changed; it begins again with them";
            return Err((Outcome::Interrupted, reason.to_owned()));
        }
        let connector = ground
            .components
            .connector(platform, &connection.chain.connector, plan.limits)
            .await
            .map_err(stored)?;
        let mappers = ground
            .components
            .chain(
                platform,
                &connection.chain.mappers,
                plan.limits,
                plan.on_trap,
            )
            .await
            .map_err(stored)?;
        Ok(Ready {
            connector,
            redactor: Redactor::new(secrets.all()),
            options: RunOptions {
                mappers: Arc::new(mappers),
                ..RunOptions::default()
            },
            plan,
            config,
            secrets,
        })
    }

    async fn perform(&mut self, ready: &Ready) -> Done {
        (self.interval, self.realtime) = (ready.plan.interval, ready.config.realtime);
        self.carry_out_wishes(ready).await;
        let mut sync = self.claim.due;
        self.take_hooks_down(ready).await;
        self.explain_polling(ready).await;
        if !self.for_deliveries && self.hooks_are_due(ready) {
            sync |= self.look_after_hooks(ready).await;
        }
        let began = Instant::now();
        let mut done = None;
        for _ in 0..MOST_BATCHES {
            match self.follow_deliveries(ready).await {
                Ok(None) => break,
                Ok(Some((followed, poll))) => {
                    sync |= poll;
                    let failed = !is_complete(followed.outcome);
                    done = Some(followed);
                    if failed {
                        break;
                    }
                }
                Err(error) => return self.database_failed(&error),
            }
        }
        self.spent = began.elapsed();
        self.sync_is_due = sync && self.for_deliveries;
        if !sync || self.for_deliveries || self.stop.is_cancelled() {
            return done.unwrap_or_else(|| Done::without_a_run(Outcome::Complete, None));
        }
        match self.mode(ready).await {
            Ok(mode) => {
                let synced = self.run(ready, Task::Sync(mode)).await.0;
                match done {
                    // A sync that was only paused does not make up for it.
                    Some(failed)
                        if !is_complete(failed.outcome)
                            && synced.outcome == Outcome::Interrupted
                            && !self.stop.is_cancelled() =>
                    {
                        failed
                    }
                    _ => synced,
                }
            }
            Err(error) => self.database_failed(&error),
        }
    }

    /// A first reading compares nothing.
    async fn mode(&self, ready: &Ready) -> Result<Mode, PlatformError> {
        let connection = self.claim.lease.connection;
        let streams = self.ground.ledger.streams(connection).await?;
        let first = streams.is_empty()
            || streams
                .iter()
                .any(|stream| stream.state == "reading" && stream.complete_at.is_none());
        if ready.plan.reconcile_every.is_zero() || first {
            return Ok(Mode::Poll);
        }
        let pause = pause_after_failed_pass(ready.plan.reconcile_every);
        let failed = failed_passes().get(&self.claim.connection.id).copied();
        if failed.is_some_and(|failed| failed.elapsed() < pause) {
            return Ok(Mode::Poll);
        }
        let every = Reconcile::Every(ready.plan.reconcile_every);
        Ok(mode_of(every, self.ground.ledger.as_ref(), connection).await?)
    }

    /// What the owner wants of dead letters. What could not be done is tried again in the next turn.
    async fn carry_out_wishes(&self, ready: &Ready) {
        let (ground, id) = (&self.ground, self.claim.connection.id.as_str());
        let platform = ground.platform.as_ref();
        if letters::wishes(platform, id)
            .await
            .is_ok_and(|wishes| wishes.is_empty())
        {
            return;
        }
        let around = self.circumstances(ready);
        let done = async {
            let reach = self
                .reach(ready, &around)
                .await
                .map_err(|error| error.to_string())?;
            let is_another = self.is_another(ready, &reach).await;
            if let Some(words) = is_another.map_err(|error| error.to_string())? {
                return Err(words);
            }
            let (ledger, lease) = (&ground.ledger, self.claim.lease);
            letters::carry_out(platform, id, ledger, lease, reach.cortex(), &ready.redactor)
                .await
                .map_err(|error| error.to_string())
        };
        if let Err(reason) = done.await {
            let reason = ready.redactor.apply(&reason).into_owned();
            self.line(Level::Warn, "dead letters wait for another turn", &reason);
        }
    }

    fn circumstances(&self, ready: &Ready) -> Circumstances {
        let fields = json!({
            "tenant": self.claim.connection.tenant,
            "connection": self.claim.connection.id,
            "run": self.claim.run,
        });
        let reporter = self.ground.log.reporter(fields, ready.redactor.clone());
        Circumstances::new(reporter, ready.redactor.clone(), &self.stop)
    }

    fn database_failed(&self, error: &PlatformError) -> Done {
        self.line(
            Level::Error,
            "the database failed in a turn",
            &error.to_string(),
        );
        let reason = "the platform's database failed; the run goes on later";
        Done::without_a_run(Outcome::Failed, Some(reason.into()))
    }

    /// One task, with a receipt of its own and a span, whose id comes last.
    async fn run(&mut self, ready: &Ready, task: Task) -> (Done, Ended, String) {
        let synced = matches!(task, Task::Sync(_));
        let began = SystemTime::now();
        let around = self.circumstances(ready);
        let compares = matches!(task, Task::Sync(Mode::Reconcile));
        let leaves_hooks = matches!(task, Task::Disconnect(_));
        let watching = synced.then(|| {
            // Half of the time is the sync's, however many deliveries come.
            self.watch_inbox(&around, self.slices().next(compares).max(self.spent))
        });
        let last_end = around.end_after(
            LONGEST_RUN,
            format!(
                "it had not come to an end after {} minutes, whatever it was waiting for; the cursors are held",
                LONGEST_RUN.as_secs() / 60
            ),
        );
        let ended = match self.held(ready, leaves_hooks, &around).await {
            Ok(held) => {
                run_held(
                    &ready.connector,
                    &ready.plan,
                    &ready.options,
                    task,
                    held,
                    &around,
                )
                .await
            }
            Err(ended) => ended,
        };
        last_end.abort();
        if let Some(watching) = watching {
            watching.abort();
            let paused = ended.outcome == Outcome::Interrupted && !self.stop.is_cancelled();
            self.count_pause(paused, around.has_advanced(), around.counters.elapsed());
        }
        if around.counters.update(|totals| totals.reconciled).is_some() {
            self.count_pass(ended.outcome);
        }
        if matches!(ended.outcome, Outcome::Failed | Outcome::Misconfigured) {
            forget_reach(&self.claim.connection.id);
        }
        let receipt = around
            .counters
            .receipt(ended.outcome, ended.reason.clone(), false);
        let receipt = self.keep_receipt(ready, &receipt, synced).await;
        let usage = around.counters.usage();
        self.measure(&usage, &around, &receipt);
        self.ground.log.line(
            Level::Info,
            "run ended",
            json!({
                "tenant": self.claim.connection.tenant,
                "connection": self.claim.connection.id,
                "run": self.claim.run,
                "kind": receipt.get("kind"),
                "outcome": ended.outcome,
                "reason": ended.reason,
                "records": usage.records,
                "requests": usage.requests,
            }),
        );
        add(&mut self.usage, &usage);
        let kind = receipt.get("kind").and_then(Value::as_str);
        let span = self.run_span(began, kind.unwrap_or(""), &ended);
        let done = Done {
            outcome: ended.outcome,
            reason: ended.reason.clone(),
            receipt,
            synced,
        };
        (done, ended, span)
    }

    /// The span of a run that has just ended; its trace has the run's name. Its id.
    fn run_span(&self, began: SystemTime, kind: &str, ended: &Ended) -> String {
        let id = span_id();
        let connection = &self.claim.connection;
        let outcome = json!(ended.outcome);
        self.ground.traces.span(&Span {
            trace: &self.trace(),
            id: &id,
            name: "run",
            began,
            ended: SystemTime::now(),
            attributes: &[
                ("connector.tenant", &connection.tenant),
                ("connector.connection", &connection.id),
                ("connector.run", &self.claim.run),
                ("connector.kind", kind),
                ("connector.outcome", outcome.as_str().unwrap_or("")),
            ],
            link: None,
            failed: ended.reason.as_deref(),
        });
        id
    }

    /// The span of a delivery that a run has followed, from the call on, in the call's trace.
    fn delivery_span(&self, delivery: &Delivery, outcome: Outcome, run: &str) {
        let Ok(received) = chrono::DateTime::parse_from_rfc3339(&delivery.received_at) else {
            return;
        };
        let connection = &self.claim.connection;
        let outcome = json!(outcome);
        self.ground.traces.span(&Span {
            trace: &delivery.trace,
            id: &span_id(),
            name: "delivery",
            began: received.into(),
            ended: SystemTime::now(),
            attributes: &[
                ("connector.tenant", &connection.tenant),
                ("connector.connection", &connection.id),
                ("connector.delivery", &delivery.id),
                ("connector.outcome", outcome.as_str().unwrap_or("")),
            ],
            link: Some((&self.trace(), run)),
            failed: None,
        });
    }

    /// A run's name without its dashes is a trace's.
    fn trace(&self) -> String {
        self.claim.run.replace('-', "")
    }

    async fn held(
        &self,
        ready: &Ready,
        leaves_hooks: bool,
        around: &Circumstances,
    ) -> Result<Held, Ended> {
        let lease = self.claim.lease;
        let reach = self
            .reach(ready, around)
            .await
            .map_err(|error| around.ended_by(&error))?;
        match self.is_another(ready, &reach).await {
            Ok(None) => {}
            // They are removed all the same.
            Ok(Some(_)) if leaves_hooks => {}
            Ok(Some(words)) => {
                return Err(Ended {
                    outcome: Outcome::Misconfigured,
                    reason: Some(words),
                    comparison: None,
                    answer: Answer::Nothing,
                });
            }
            Err(error) => return Err(around.ended_by(&CursorError::from(error).into())),
        }
        let counted = Some((self.claim.run.clone(), Arc::clone(&around.counters)));
        let cursors = DatabaseCursors::open(Arc::clone(&self.ground.platform), lease, counted)
            .await
            .map_err(|error| around.ended_by(&error.into()))?;
        Ok(Held {
            store: Arc::clone(&self.ground.ledger),
            lease,
            cursors: CursorHome::Database(cursors),
            reach,
        })
    }

    /// Why this is another connection than the one that its cursors and its ledger are of, if it is. Hooks of one that leaves are removed all the
    /// same.
    async fn is_another(
        &self,
        ready: &Ready,
        reach: &Reach,
    ) -> Result<Option<String>, PlatformError> {
        let connection = &self.claim.connection;
        if connection.state == ConnectionState::Leaving {
            return Ok(None);
        }
        let (platform, ledger) = (self.ground.platform.as_ref(), self.ground.ledger.as_ref());
        let description = &ready.connector.description;
        let now = MadeFor::of(description, &ready.plan, reach.identity());
        hold_to(platform, ledger, self.claim.lease, &connection.id, &now).await
    }

    /// The ways to both servers, from the turn before where nothing was changed since.
    async fn reach(
        &self,
        ready: &Ready,
        around: &Circumstances,
    ) -> Result<Reach, crate::run::RunError> {
        let connection = &self.claim.connection;
        // What was sealed may be another token by now, and the operator may have taken a network back.
        let rules = self.ground.rules();
        let networks = (&rules.source_networks, &rules.cortexdb_networks);
        let all = format!("{} {:?} {networks:?}", connection.config, connection.sealed);
        let mark = fingerprint(all.as_bytes());
        let kept = reaches().get(&connection.id).and_then(|kept| {
            (kept.mark == mark && kept.since.elapsed() < REACH_FOR).then(|| kept.reach.clone())
        });
        if let Some(kept) = kept {
            return Ok(kept.for_run(&ready.plan, around));
        }
        let reach = Reach::establish(&ready.plan, around).await?;
        let mut reaches = reaches();
        if reaches.len() >= MOST_REACHES {
            reaches.clear();
        }
        reaches.insert(
            connection.id.clone(),
            KeptReach {
                mark,
                since: Instant::now(),
                reach: reach.clone(),
            },
        );
        Ok(reach)
    }

    fn measure(&self, usage: &Usage, around: &Circumstances, receipt: &Value) {
        let metrics = &self.ground.metrics;
        let text = |name: &str| receipt.get(name).and_then(Value::as_str).unwrap_or("");
        let tenant = ("tenant", self.claim.connection.tenant.as_str());
        let kind = ("kind", text("kind"));
        metrics.count(
            metrics::RUNS,
            &[tenant, kind, ("outcome", text("outcome"))],
            1.0,
        );
        metrics.observe(metrics::RUN_SECONDS, &[kind], around.counters.elapsed());
        let cpu = Duration::from_millis(usage.cpu_ms).as_secs_f64();
        metrics.count(metrics::CPU_SECONDS, &[tenant], cpu);
        let number = |count: u64| u32::try_from(count).map_or(f64::MAX, f64::from);
        metrics.count(metrics::RECORDS, &[tenant], number(usage.records));
        let dead = around.counters.update(|totals| totals.dead_lettered);
        metrics.count(metrics::DEAD_LETTERS, &[tenant], number(dead));
    }

    /// What the pauses of this connection's syncs have come to.
    fn slices(&self) -> Slices {
        let paused = paused();
        let slices = paused.get(&self.claim.connection.id).copied();
        slices.unwrap_or_default()
    }

    fn count_pass(&self, outcome: Outcome) {
        let mut failed = failed_passes();
        let id = &self.claim.connection.id;
        match outcome {
            Outcome::Interrupted => {}
            Outcome::Failed | Outcome::Misconfigured => {
                if failed.len() >= MOST_PAUSED {
                    failed.clear();
                }
                failed.insert(id.clone(), Instant::now());
            }
            _ => drop(failed.remove(id)),
        }
    }

    fn count_pause(&self, was_paused: bool, has_advanced: bool, ran: Duration) {
        let mut paused = paused();
        if !was_paused {
            paused.remove(&self.claim.connection.id);
            return;
        }
        if paused.len() >= MOST_PAUSED {
            paused.clear();
        }
        let slices = paused.entry(self.claim.connection.id.clone());
        slices.or_default().interrupted(has_advanced, ran);
    }

    /// The receipt as it is stored, without secrets.
    async fn keep_receipt(&self, ready: &Ready, receipt: &Receipt, synced: bool) -> Value {
        let json = serde_json::to_string(receipt).unwrap_or_default();
        let json = ready.redactor.apply(&json);
        if synced && let Err(error) = self.ground.ledger.finish_run(self.claim.lease, &json).await {
            self.line(
                Level::Warn,
                "the receipt could not be kept",
                &error.to_string(),
            );
        }
        serde_json::from_str(&json).unwrap_or_default()
    }

    /// Pauses a sync that has worked for a while when deliveries come, or when deliveries of its tenant find no place.
    fn watch_inbox(
        &self,
        around: &Circumstances,
        undisturbed: Duration,
    ) -> tokio::task::JoinHandle<()> {
        let platform = Arc::clone(&self.ground.platform);
        let (connection, pause) = (self.claim.lease.connection, around.pause.clone());
        let tenant = self.claim.connection.tenant.clone();
        tokio::spawn(async move {
            let begun = Instant::now();
            tokio::time::sleep(undisturbed).await;
            for look in 0_u64.. {
                // Others have waited long enough: it is due at once, and its tenant has had its turn.
                if begun.elapsed() > LONGEST_TURN {
                    return pause.cancel();
                }
                if let Ok(waiting) = platform.waiting(connection, 1, 1).await
                    && !waiting.is_empty()
                {
                    return pause.cancel();
                }
                if look.is_multiple_of(LOOKS_FOR_OTHERS)
                    && let Ok(true) = platform.deliveries_wait(&tenant, WITHOUT_A_PLACE).await
                    && makes_a_place(&tenant)
                {
                    return pause.cancel();
                }
                tokio::time::sleep(LOOK).await;
            }
        })
    }

    /// A batch of deliveries; `None`: none waits. Whether a sync is to follow.
    async fn follow_deliveries(
        &mut self,
        ready: &Ready,
    ) -> Result<Option<(Done, bool)>, PlatformError> {
        if self.stop.is_cancelled() {
            return Ok(None);
        }
        let platform = Arc::clone(&self.ground.platform);
        let lease = self.claim.lease;
        let mut batch = Batch::next(platform.as_ref(), lease.connection).await?;
        if batch.is_empty() {
            return Ok(None);
        }
        if ready.connector.hooks().is_none() {
            batch.leave_to_poll(platform.as_ref(), lease).await?;
            return Ok(Some((Done::without_a_run(Outcome::Complete, None), true)));
        }
        let task = Task::Deliveries(batch.take_deliveries());
        let (done, ended, span) = self.run(ready, task).await;
        let settled = batch.settle(platform.as_ref(), lease, &ended).await?;
        for delivery in batch.rows() {
            self.log_followed(delivery, ended.outcome);
            // It came long ago, and how long ago says nothing of this platform.
            if delivery.replayed {
                continue;
            }
            self.delivery_span(delivery, ended.outcome, &span);
            let received = chrono::DateTime::parse_from_rfc3339(&delivery.received_at);
            let took = received.map(|at| chrono::Utc::now().signed_duration_since(at).to_std());
            if let Ok(Ok(took)) = took
                && is_complete(ended.outcome)
            {
                let metrics = &self.ground.metrics;
                metrics.observe(metrics::DELIVERY_SECONDS, &[], took);
            }
        }
        Ok(Some((done, settled.wants_sync)))
    }

    fn log_followed(&self, delivery: &Delivery, outcome: Outcome) {
        self.ground.log.line(
            Level::Info,
            "delivery followed",
            json!({ "trace": delivery.trace, "delivery": delivery.id, "run": self.claim.run, "outcome": outcome }),
        );
    }

    /// Whether the runs before this one could not begin either. An outage is no reason to park a connection.
    async fn was_misconfigured_before(&self) -> bool {
        let page = Page {
            after: None,
            most: PARK_AFTER_MISCONFIGURED,
        };
        let id = &self.claim.connection.id;
        let runs = self.ground.platform.runs(id, &page).await;
        runs.is_ok_and(|runs| {
            let before = runs.iter().filter(|run| run.id != self.claim.run);
            before.clone().count() > 0 && before.clone().all(|run| run.outcome == "misconfigured")
        })
    }

    async fn release(self, done: Done) {
        let connection = &self.claim.connection;
        if self.lost() {
            return self.line(
                Level::Warn,
                "the lease was lost; another worker goes on",
                "",
            );
        }
        let interval = self.interval;
        let failures = match done.outcome {
            Outcome::Failed | Outcome::Misconfigured => connection.failures + 1,
            Outcome::Interrupted => connection.failures,
            _ => 0,
        };
        let due_in = match done.outcome {
            // Paused for deliveries, or the process ends: it goes on at once.
            Outcome::Interrupted => Some(Duration::ZERO),
            Outcome::Failed | Outcome::Misconfigured => {
                Some(after_failure(&connection.id, failures))
            }
            _ if self.sync_is_due => Some(Duration::ZERO),
            _ if done.synced => {
                let due = after_success(&connection.id, interval, self.hooks_cover_all());
                Some(due.min(self.hooks_due_in()))
            }
            _ => None,
        };
        let cannot_begin = done.outcome == Outcome::Misconfigured
            && failures >= PARK_AFTER_MISCONFIGURED
            && self.was_misconfigured_before().await;
        let park = cannot_begin.then(|| done.reason.clone().unwrap_or_default());
        let outcome = json!(done.outcome);
        let release = Release {
            outcome: outcome.as_str().unwrap_or("failed").to_owned(),
            receipt: if done
                .receipt
                .as_object()
                .is_some_and(serde_json::Map::is_empty)
            {
                json!({ "outcome": outcome, "reason": done.reason })
            } else {
                done.receipt
            },
            due_in,
            failures,
            park,
        };
        let (lease, run) = (self.claim.lease, self.claim.run.as_str());
        let platform = &self.ground.platform;
        let released = async {
            platform.count_run(lease, run, &self.usage).await?;
            platform.release_run(lease, run, &release).await
        };
        if let Err(error) = released.await {
            self.line(
                Level::Warn,
                "a connection could not be given back; its lease ends by itself",
                &error.to_string(),
            );
        }
    }
}

struct KeptReach {
    mark: String,
    since: Instant,
    reach: Reach,
}

fn reaches() -> std::sync::MutexGuard<'static, HashMap<String, KeptReach>> {
    static REACHES: LazyLock<Mutex<HashMap<String, KeptReach>>> = LazyLock::new(Mutex::default);
    REACHES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed_passes() -> std::sync::MutexGuard<'static, HashMap<String, Instant>> {
    static FAILED: LazyLock<Mutex<HashMap<String, Instant>>> = LazyLock::new(Mutex::default);
    FAILED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn paused() -> std::sync::MutexGuard<'static, HashMap<String, Slices>> {
    static PAUSED: LazyLock<Mutex<HashMap<String, Slices>>> = LazyLock::new(Mutex::default);
    PAUSED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of a tenant's syncs at a time: a place is soon taken.
fn makes_a_place(tenant: &str) -> bool {
    static MADE: LazyLock<Mutex<HashMap<String, Instant>>> = LazyLock::new(Mutex::default);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.retain(|_, at| at.elapsed() < TO_TAKE_A_PLACE);
    if made.contains_key(tenant) {
        return false;
    }
    made.insert(tenant.to_owned(), Instant::now());
    true
}

fn forget_reach(connection: &str) {
    reaches().remove(connection);
}

fn is_complete(outcome: Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Complete | Outcome::CompleteWithDeadLetters
    )
}

fn add(sum: &mut Usage, part: &Usage) {
    sum.cpu_ms += part.cpu_ms;
    sum.peak_memory_bytes = sum.peak_memory_bytes.max(part.peak_memory_bytes);
    sum.requests += part.requests;
    sum.received_bytes += part.received_bytes;
    sum.written_bytes += part.written_bytes;
    sum.records += part.records;
    sum.deliveries += part.deliveries;
}
