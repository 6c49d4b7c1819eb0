//! The part of the platform that runs connections.
//!
//! A worker claims the connection whose turn it is, holds its lease while it works, and gives it back. Any number of workers in any number of
//! processes may do so on one database: who may write is decided by the epoch of the lease, in the database, with every commit. What dies
//! is claimed again when its lease is over, and goes on behind the last page that was committed.
//!
//! * [`lease`]: holding it, and stopping before it is over.
//! * [`turn`]: what is done for a connection between claim and release.
//! * [`schedule`]: when a connection is due again.

pub mod lease;
pub mod schedule;
mod turn;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;

use super::{Ground, metrics};
use crate::report::Level;
use turn::Turn;

/// How often the database is asked when nobody wakes this worker: the truth behind every notification.
const POLL: Duration = Duration::from_secs(1);
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
    let threads = usize::try_from(ground.config.workers)
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

/// Runs connections until the process is to end, and then finishes the pages in hand.
async fn work(ground: Ground) {
    let mut wakeups = ground.platform.wakeups();
    let slots = Arc::new(Semaphore::new(
        usize::try_from(ground.config.workers).unwrap_or(1),
    ));
    let name = worker_name();
    let mut turns = JoinSet::new();
    let most = ground.config.workers;
    ground.metrics.gauge(metrics::WORKERS, &[], most.into());
    let housekeeping = tokio::spawn(keep_house(ground.clone()));
    while let Some(slot) = free_slot(&ground, &slots).await {
        // The hands of those that are done.
        while turns.try_join_next().is_some() {}
        let running = u32::try_from(turns.len()).unwrap_or(u32::MAX);
        ground.metrics.gauge(metrics::RUNNING, &[], running.into());
        wakeups.borrow_and_update();
        let before = Instant::now();
        let claimed = ground
            .platform
            .claim_due(&name, ground.config.lease, PARK_AFTER)
            .await;
        match claimed {
            Ok(Some(claim)) => {
                let turn = Turn::new(ground.clone(), claim, before);
                turns.spawn(async move {
                    turn.take().await;
                    drop(slot);
                });
            }
            Ok(None) => {
                drop(slot);
                wait(&ground, &mut wakeups, POLL).await;
            }
            Err(error) => {
                drop(slot);
                ground.log.line(
                    Level::Error,
                    "the database cannot be asked for work; trying again",
                    json!({ "reason": error.to_string() }),
                );
                wait(&ground, &mut wakeups, RETRY).await;
            }
        }
    }
    housekeeping.abort();
    while turns.join_next().await.is_some() {}
}

/// `None`: the process is to end.
async fn free_slot(
    ground: &Ground,
    slots: &Arc<Semaphore>,
) -> Option<tokio::sync::OwnedSemaphorePermit> {
    tokio::select! {
        biased;
        () = ground.stop.cancelled() => None,
        slot = Arc::clone(slots).acquire_owned() => slot.ok(),
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
