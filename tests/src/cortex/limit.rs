//! The per-actor rate limit, a token bucket on the server's clock.

use std::collections::HashMap;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use super::reply::ApiError;

/// How many requests one actor may make. The server's documented defaults are 600 a minute with a burst of 20.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    /// Requests a minute.
    pub per_minute: u32,
    /// Requests at once.
    pub burst: u32,
}

impl RateLimit {
    /// So many requests a minute, with a burst of 20 or fewer.
    pub fn per_minute(per_minute: u32) -> Self {
        Self {
            per_minute,
            burst: per_minute.clamp(1, 20),
        }
    }
}

/// The buckets of all actors.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    buckets: HashMap<String, (f64, DateTime<Utc>)>,
}

/// What the limiter decided, as headers.
pub(crate) struct Allowance {
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) refusal: Option<ApiError>,
}

impl Limiter {
    pub(crate) fn take(&mut self, limit: RateLimit, actor: &str, now: DateTime<Utc>) -> Allowance {
        let burst = f64::from(limit.burst);
        let per_second = f64::from(limit.per_minute.max(1)) / 60.0;
        let (tokens, last) = self.buckets.entry(actor.to_owned()).or_insert((burst, now));
        let elapsed = (now - *last).as_seconds_f64().max(0.0);
        *tokens = (*tokens + elapsed * per_second).min(burst);
        *last = now;
        let admitted = *tokens >= 1.0;
        if admitted {
            *tokens -= 1.0;
        }
        let missing = if *tokens >= 1.0 {
            0.0
        } else {
            (1.0 - *tokens) / per_second
        };
        let wait = (missing.ceil()).max(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most a minute, and never negative"
        )]
        let wait_seconds = wait as i64;
        let reset = now + TimeDelta::seconds(wait_seconds);
        let headers = vec![
            ("X-RateLimit-Limit", limit.per_minute.to_string()),
            ("X-RateLimit-Remaining", format!("{:.0}", tokens.floor())),
            (
                "X-RateLimit-Reset",
                reset.to_rfc3339_opts(SecondsFormat::Secs, true),
            ),
        ];
        let refusal = (!admitted).then(|| {
            let mut error = ApiError::new(429, "RATE_LIMITED", "too many requests");
            error.retry_after = Some(wait_seconds.unsigned_abs());
            error
        });
        Allowance { headers, refusal }
    }
}
