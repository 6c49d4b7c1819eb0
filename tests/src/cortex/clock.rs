//! The server's clock, which tests can move: keys live for 24 hours, and no test waits that long.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};

/// A clock shared between the server and whoever moves it.
#[derive(Debug, Clone)]
pub struct Clock {
    /// Where time stands still, or nothing for the system's time.
    frozen: Option<DateTime<Utc>>,
    offset_ms: Arc<AtomicI64>,
}

impl Clock {
    /// The system's time, plus what it is advanced by.
    pub fn system() -> Self {
        Self {
            frozen: None,
            offset_ms: Arc::default(),
        }
    }

    /// A clock that moves only when told to.
    pub fn frozen_at(time: DateTime<Utc>) -> Self {
        Self {
            frozen: Some(time),
            offset_ms: Arc::default(),
        }
    }

    /// The server's idea of now.
    pub fn now(&self) -> DateTime<Utc> {
        let offset = TimeDelta::milliseconds(self.offset_ms.load(Ordering::SeqCst));
        let base = self.frozen.unwrap_or_else(Utc::now);
        base.checked_add_signed(offset).unwrap_or(base)
    }

    /// Moves the clock; a negative number moves it back.
    pub fn advance_seconds(&self, seconds: i64) {
        self.offset_ms
            .fetch_add(seconds.saturating_mul(1000), Ordering::SeqCst);
    }
}
