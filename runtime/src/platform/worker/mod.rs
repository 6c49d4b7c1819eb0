//! The part of the platform that runs connections.
//!
//! A worker claims the connection whose turn it is, holds its lease while it works, and gives it back. Any number of workers in any number of
//! processes may do so on one database: who may write is decided by the epoch of the lease, in the database, with every commit. What dies
//! is claimed again when its lease is over, and goes on behind the last page that was committed.
//!
//! Syncs take minutes, and somebody waits for deliveries: beside the places for everything there are a few that only deliveries may take, when
//! all others are in use.
//!
//! * [`lease`]: holding it, and stopping before it is over.
//! * [`turn`]: what is done for a connection between claim and release.
//! * [`schedule`]: when a connection is due again.

pub mod lease;
pub mod schedule;
mod turn;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;

use super::{Ground, metrics};
use crate::report::Level;
use connector_store::platform::{Claim, PlatformError};
use turn::Turn;

/// How often the database is asked when nobody wakes this worker: the truth behind every notification.
const POLL: Duration = Duration::from_millis(500);
/// The same for deliveries while all places for everything are in use.
const POLL_FOR_DELIVERIES: Duration = Duration::from_millis(250);
/// Places that only deliveries may take: for so many of the others one, and no fewer than these.
const WORKERS_FOR_A_PLACE: u32 = 4;
const LEAST_PLACES_FOR_DELIVERIES: u32 = 2;
/// Threads of one process for components.
const MOST_THREADS: usize = 64;
/// After the database failed.
const RETRY: Duration = Duration::from_secs(2);
/// Claims without a run that ended by itself, after which a connection is parked: it takes its workers with it.
const PARK_AFTER: u32 = 5;
/// How often runs of superseded workers are marked, and old deliveries dropped.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// How long deliveries that are settled are kept, and their keys with them.
const KEEP_DELIVERIES: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A worker at work.
pub struct Working(oneshot::Receiver<()>);

impl Working {
    /// Waits until the pages in hand are finished and every connection is given back.
    pub async fn ended(self) {
        let _ = self.0.await;
    }
}

/// Starts to run connections, on threads of their own: a component that computes takes no time from whoever answers webhooks, and with
/// more threads than cores the system shares the cores fairly between components.
pub fn start(ground: Ground) -> std::io::Result<Working> {
    let places = ground
        .config
        .workers
        .saturating_add(places_for_deliveries(ground.config.workers));
    let threads = usize::try_from(places)
        .unwrap_or(MOST_THREADS)
        .saturating_add(2)
        .min(MOST_THREADS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("worker")
        .enable_all()
        .build()?;
    let (done, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("workers".into())
        .spawn(move || {
            runtime.block_on(work(ground));
            let _ = done.send(());
        })?;
    Ok(Working(ended))
}

/// How long runs that ended are kept.
const KEEP_RUNS: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Places beside the workers' that only deliveries may take.
pub(crate) fn places_for_deliveries(workers: u32) -> u32 {
    (workers / WORKERS_FOR_A_PLACE).max(LEAST_PLACES_FOR_DELIVERIES)
}

fn places(count: u32) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(usize::try_from(count).unwrap_or(1)))
}

/// Runs connections until the process is to end, and then finishes the pages in hand.
async fn work(ground: Ground) {
    let most = ground.config.workers;
    ground.metrics.gauge(metrics::WORKERS, &[], most.into());
    let housekeeping = tokio::spawn(keep_house(ground.clone()));
    let everything = places(most);
    let lane = |places: &Arc<Semaphore>, others: Option<&Arc<Semaphore>>| Lane {
        ground: ground.clone(),
        name: worker_name(),
        places: Arc::clone(places),
        others: others.map(Arc::clone),
        running: Arc::default(),
    };
    let first = lane(&everything, None);
    let second = Lane {
        running: Arc::clone(&first.running),
        ..lane(&places(places_for_deliveries(most)), Some(&everything))
    };
    tokio::join!(first.work(), second.work());
    housekeeping.abort();
}

/// One turn under way.
struct Running(Arc<AtomicU32>);

impl Running {
    fn begin(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Claims as long as there are places, each for one turn.
struct Lane {
    ground: Ground,
    name: String,
    places: Arc<Semaphore>,
    /// Where these are all in use, this lane takes deliveries, and else nothing; `None`: it takes everything.
    others: Option<Arc<Semaphore>>,
    /// Turns of both lanes.
    running: Arc<AtomicU32>,
}

impl Lane {
    async fn work(self) {
        let ground = &self.ground;
        let mut wakeups = ground.platform.wakeups();
        let mut turns = JoinSet::new();
        let mut first_deliveries = true;
        while let Some(place) = free_place(ground, &self.places).await {
            // The hands of those that are done.
            while turns.try_join_next().is_some() {}
            let running = self.running.load(Ordering::Relaxed);
            ground.metrics.gauge(metrics::RUNNING, &[], running.into());
            wakeups.borrow_and_update();
            let before = Instant::now();
            match self.claim(first_deliveries).await {
                Ok(Some((claim, for_deliveries))) => {
                    first_deliveries = !for_deliveries;
                    let turn = Turn::new(ground.clone(), claim, before, for_deliveries);
                    let running = Running::begin(&self.running);
                    turns.spawn(async move {
                        turn.take().await;
                        drop((place, running));
                    });
                }
                Ok(None) => {
                    drop(place);
                    wait(ground, &mut wakeups, self.poll()).await;
                }
                Err(error) => {
                    drop(place);
                    ground.log.line(
                        Level::Error,
                        "the database cannot be asked for work; trying again",
                        json!({ "reason": error.to_string() }),
                    );
                    wait(ground, &mut wakeups, RETRY).await;
                }
            }
        }
        while turns.join_next().await.is_some() {}
    }

    fn poll(&self) -> Duration {
        if self.others.is_some() {
            POLL_FOR_DELIVERIES
        } else {
            POLL
        }
    }

    /// A claim, and whether it is for deliveries alone. After each other claim deliveries come first: where more syncs are due than there are places,
    /// they would wait behind all of them.
    async fn claim(&self, first_deliveries: bool) -> Result<Option<(Claim, bool)>, PlatformError> {
        let (platform, lease) = (&self.ground.platform, self.ground.config.lease);
        let name = &self.name;
        let others = self.others.as_ref();
        if others.is_some_and(|others| others.available_permits() > 0) {
            return Ok(None);
        }
        if others.is_some() || first_deliveries {
            let called = platform.claim_deliveries(name, lease, PARK_AFTER).await?;
            if let Some(called) = called {
                return Ok(Some((called, true)));
            }
        }
        if others.is_some() {
            return Ok(None);
        }
        let due = platform.claim_due(name, lease, PARK_AFTER).await?;
        Ok(due.map(|claim| (claim, false)))
    }
}

/// `None`: the process is to end.
async fn free_place(
    ground: &Ground,
    places: &Arc<Semaphore>,
) -> Option<tokio::sync::OwnedSemaphorePermit> {
    tokio::select! {
        biased;
        () = ground.stop.cancelled() => None,
        place = Arc::clone(places).acquire_owned() => place.ok(),
    }
}

async fn wait(ground: &Ground, wakeups: &mut watch::Receiver<u64>, time: Duration) {
    let woken = async {
        // Without a sender nobody wakes us, and the time decides.
        if wakeups.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = ground.stop.cancelled() => {}
        () = woken => {}
        () = tokio::time::sleep(time) => {}
    }
}

async fn keep_house(ground: Ground) {
    loop {
        let done = async {
            ground.platform.sweep_runs().await?;
            ground.platform.trim_runs(KEEP_RUNS).await?;
            ground.platform.trim_deliveries(KEEP_DELIVERIES).await
        };
        if let Err(error) = done.await {
            ground.log.line(
                Level::Warn,
                "housekeeping failed; it is tried again in a minute",
                json!({ "reason": error.to_string() }),
            );
        }
        tokio::time::sleep(HOUSEKEEPING).await;
    }
}

/// Tells workers apart in the list of runs: machine, process, and what it was given by chance, since numbers of processes come again.
fn worker_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!(
        "{}:{}:{:08x}",
        host.trim(),
        std::process::id(),
        fastrand::u32(..)
    )
}
