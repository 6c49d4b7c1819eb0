//! When the next request to the source may start.
//!
//! A source's rate limit belongs to the token, not to a request: one refusal speaks for all requests in flight. So all requests of a
//! run ask here first. The budget learns from headers (`RateLimit-Remaining`, `RateLimit-Reset`) and slows down *before* the limit
//! is reached, by spreading what is left over the time that is left; after a 429 everything waits.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::HeaderMap;
use tokio::time::Instant;

use crate::cortexdb::client::retry_after;

/// Spreading starts when less than this share of the limit is left.
const SPREAD_BELOW: f64 = 0.1;
/// Without a hint, a refusal waits this long, twice as long at the next one.
const FIRST_UNHINTED_WAIT: Duration = Duration::from_secs(5);
/// GitLab's limits count minutes.
const LONGEST_UNHINTED_WAIT: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct State {
    not_before: Option<Instant>,
    spacing: Duration,
    left: Option<u64>,
    unhinted_refusals: u32,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Budget(Mutex<State>);

impl Budget {
    /// Waits for this request's turn.
    pub async fn turn(&self) {
        while let Some(at) = self.wait_until(Instant::now()) {
            tokio::time::sleep_until(at).await;
        }
    }

    /// When to ask again, or `None`: the turn is now, and is taken.
    fn wait_until(&self, now: Instant) -> Option<Instant> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = state.not_before
            && at > now
        {
            return Some(at);
        }
        if state.spacing > Duration::ZERO {
            state.not_before = Some(now + state.spacing);
        }
        None
    }

    /// Learns from an answer.
    pub fn learn(&self, headers: &HeaderMap) {
        let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
        let Some(remaining) = number("ratelimit-remaining") else {
            return;
        };
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.left = Some(remaining);
        state.unhinted_refusals = 0;
        let (Some(limit), Some(reset)) = (number("ratelimit-limit"), number("ratelimit-reset"))
        else {
            return;
        };
        let rest = until_reset(headers, reset);
        #[allow(clippy::cast_precision_loss, reason = "a rate limit is small")]
        let scarce = (remaining as f64) < limit as f64 * SPREAD_BELOW;
        if remaining == 0 {
            let at = Instant::now() + rest;
            state.not_before = state.not_before.max(Some(at));
            state.spacing = Duration::ZERO;
        } else if scarce {
            state.spacing = rest / u32::try_from(remaining + 1).unwrap_or(u32::MAX);
        } else {
            state.spacing = Duration::ZERO;
        }
    }

    /// A 429: everybody waits. Returns for how long.
    pub fn refused(&self, headers: &HeaderMap) -> Duration {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reset = headers
            .get("ratelimit-reset")
            .and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
        let wait = match (retry_after(headers), reset) {
            (Some(asked), _) => asked,
            (None, Some(reset)) => until_reset(headers, reset),
            (None, None) => {
                state.unhinted_refusals = (state.unhinted_refusals + 1).min(8);
                (FIRST_UNHINTED_WAIT * 2_u32.pow(state.unhinted_refusals - 1))
                    .min(LONGEST_UNHINTED_WAIT)
            }
        };
        let wait = wait.max(Duration::from_millis(200));
        state.not_before = state.not_before.max(Some(Instant::now() + wait));
        wait
    }

    /// Requests left by the source's own count.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).left
    }
}

/// Time until a Unix second on the *source's* clock, which its `Date` header shows.
fn until_reset(headers: &HeaderMap, reset: u64) -> Duration {
    let now = headers
        .get("date")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| chrono::DateTime::parse_from_rfc2822(value).ok())
        .map_or_else(|| chrono::Utc::now().timestamp(), |date| date.timestamp());
    let now = u64::try_from(now).unwrap_or(0);
    Duration::from_secs(reset.saturating_sub(now).clamp(0, 3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    /// The time that `requests` turns take, on a clock that only waiting moves.
    fn time_of(budget: &Budget, requests: u32) -> Duration {
        let start = Instant::now();
        let mut now = start;
        for _ in 0..requests {
            while let Some(at) = budget.wait_until(now) {
                now = at;
            }
        }
        now - start
    }

    #[test]
    fn a_refusal_makes_everybody_wait() {
        let budget = Budget::default();
        budget.refused(&headers(&[("retry-after", "30")]));
        assert!(time_of(&budget, 1) >= Duration::from_secs(29));
    }

    #[test]
    fn a_refusal_without_a_hint_waits_longer_each_time_but_never_over_a_minute() {
        let budget = Budget::default();
        let waits: Vec<u64> = (0..6)
            .map(|_| budget.refused(&headers(&[])).as_secs())
            .collect();
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
    }

    #[test]
    fn what_is_left_is_spread_over_the_time_that_is_left() {
        let budget = Budget::default();
        budget.learn(&headers(&[
            ("date", "Sun, 22 Nov 2026 10:00:00 GMT"),
            ("ratelimit-limit", "600"),
            ("ratelimit-remaining", "9"),
            ("ratelimit-reset", "1795341610"),
        ]));
        assert_eq!(time_of(&budget, 4), Duration::from_secs(3));
    }

    #[test]
    fn nothing_is_slowed_down_while_there_is_plenty() {
        let budget = Budget::default();
        budget.learn(&headers(&[
            ("ratelimit-limit", "600"),
            ("ratelimit-remaining", "500"),
            ("ratelimit-reset", "1"),
        ]));
        assert_eq!(time_of(&budget, 100), Duration::ZERO);
    }
}
