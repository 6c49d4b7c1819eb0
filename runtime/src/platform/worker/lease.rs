//! Holding a lease: renewing it in time, and stopping before it is over.
//!
//! The lease ends by the database's clock, which this process does not see. So it counts from before the renewal was sent, on its own
//! monotonic clock, and stops all work while the lease still holds. If the process was frozen meanwhile, it wakes up after that time and
//! stops at once; what it commits before it notices is refused by its epoch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::ledger::{Lease, Store, StoreError};

/// Renewals in the time of a lease.
const RENEWALS: u32 = 4;

/// A lease that is kept until this is dropped.
pub struct Keeper {
    task: JoinHandle<()>,
    /// It is lost: nothing may be written any more.
    pub lost: Arc<AtomicBool>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps a lease that was claimed after `claimed_at`. When it is lost, `stop` is cancelled.
#[must_use]
pub fn keep(
    store: Arc<dyn Store>,
    lease: Lease,
    ttl: Duration,
    claimed_at: Instant,
    stop: CancellationToken,
) -> Keeper {
    let lost = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&lost);
    let task = tokio::spawn(async move {
        let mut held_until = claimed_at + ttl;
        let pause = ttl / RENEWALS;
        loop {
            tokio::time::sleep(pause).await;
            let sent = Instant::now();
            // An answer that comes after the end is worth nothing.
            let left = held_until.saturating_duration_since(sent);
            let renewed = tokio::time::timeout(left, store.renew(lease, ttl)).await;
            match renewed {
                Ok(Ok(())) => held_until = sent + ttl,
                Ok(Err(StoreError::Fenced)) => break,
                // The database may be back before the lease is over.
                Ok(Err(_)) | Err(_) if Instant::now() + pause < held_until => {}
                Ok(Err(_)) | Err(_) => break,
            }
        }
        flag.store(true, Ordering::SeqCst);
        stop.cancel();
    });
    Keeper { task, lost }
}
