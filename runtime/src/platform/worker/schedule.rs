//! When a connection is due again.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::hooks::pace::stretched;

/// The first pause after a failure, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(15);
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);
/// A tenth of the time, up or down.
const JITTER: f64 = 0.1;

/// After a run that completed.
#[must_use]
pub fn after_success(connection: &str, interval: Duration, hooks_cover_all: bool) -> Duration {
    let time = if hooks_cover_all {
        stretched(interval)
    } else {
        interval
    };
    shifted(connection, time)
}

/// After so many runs in a row that failed.
#[must_use]
pub fn after_failure(connection: &str, failures: u32) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(12));
    shifted(connection, pause.min(LONGEST_PAUSE))
}

/// The same share for the same connection each time: whatever began together drifts apart once, and no restart brings it back together.
fn shifted(connection: &str, time: Duration) -> Duration {
    let digest = Sha256::digest(connection.as_bytes());
    let share = f64::from(digest[0]) / 255.0 * 2.0 - 1.0;
    // A time that is too long for that is long enough as it is.
    Duration::try_from_secs_f64(time.as_secs_f64() * (1.0 + share * JITTER)).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn connections_drift_apart_by_a_tenth_at_most_and_each_always_the_same() {
        let times: Vec<Duration> = (0..100)
            .map(|n| after_success(&format!("c{n}"), MINUTE, false))
            .collect();
        assert!(times.iter().all(|time| (54..=66).contains(&time.as_secs())));
        assert!(times.iter().collect::<std::collections::HashSet<_>>().len() > 20);
        assert_eq!(times[7], after_success("c7", MINUTE, false));
    }

    #[test]
    fn no_interval_is_too_long_to_be_shifted() {
        for connection in ["a", "b", "c", "d"] {
            assert!(after_success(connection, Duration::MAX, false) > MINUTE);
            assert!(after_failure(connection, u32::MAX) > MINUTE);
        }
    }

    #[test]
    fn healthy_hooks_stretch_the_interval_to_half_an_hour_and_never_shorten_it() {
        let stretched = after_success("c", MINUTE, true);
        assert!(stretched > MINUTE * 3 && stretched < MINUTE * 5);
        assert!(after_success("c", MINUTE * 20, true) < MINUTE * 34);
        assert!(after_success("c", MINUTE * 90, true) > MINUTE * 80);
    }

    #[test]
    fn failures_are_followed_by_growing_pauses_of_an_hour_at_most() {
        let pauses: Vec<Duration> = (1..40)
            .map(|failures| after_failure("c", failures))
            .collect();
        assert!(pauses.is_sorted());
        assert!(pauses[0] < Duration::from_secs(17));
        assert!(pauses[38] <= Duration::from_secs(66 * 60));
    }
}
