//! Room in the writer's queue: the back-pressure on a component, and whether somebody suffers from it.
//!
//! What waits for company before it is sent to CortexDB keeps its room meanwhile. That must not hold up the component, so the writer looks here
//! before it waits, and is woken when somebody has to wait for room.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use futures_util::poll;
use tokio::sync::{AcquireError, Notify, OwnedSemaphorePermit, Semaphore};

/// Bytes of records that may wait in the queue, in KiB.
const QUEUE_KIB: usize = 4 << 10;
/// Where less than this of it is free, nothing in the queue waits for company: the component would soon have to wait for it.
const PLENTY_KIB: usize = QUEUE_KIB / 2;

/// See the [module](self). Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Room {
    /// In KiB. Nothing is free while somebody waits.
    free: Arc<Semaphore>,
    wanted: Arc<Notify>,
}

impl Room {
    pub(super) fn new() -> Self {
        Self {
            free: Arc::new(Semaphore::new(QUEUE_KIB)),
            wanted: Arc::new(Notify::new()),
        }
    }

    /// Waits for room for this many bytes: a KiB at the least, and for what is larger than the queue all of it.
    pub(super) async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, AcquireError> {
        let cost = u32::try_from((bytes >> 10).clamp(1, QUEUE_KIB)).unwrap_or(1);
        let mut taken = pin!(Arc::clone(&self.free).acquire_many_owned(cost));
        if let Poll::Ready(taken) = poll!(taken.as_mut()) {
            return taken;
        }
        // Once it is in the line, so that who is woken sees that nothing is free.
        self.wanted.notify_one();
        taken.await
    }

    /// Whether the component has to wait for room, or soon will.
    pub(super) fn is_short(&self) -> bool {
        self.free.available_permits() < PLENTY_KIB
    }

    /// Completes when somebody has begun to wait since it last did.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }
}
