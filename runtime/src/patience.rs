//! How long failing is tolerated, and how long to wait between attempts.
//!
//! A server that is down for a minute must not cost data; a server that is down for good must not hold a run for ever. So
//! each request may fail for at most the run's *patience* before it is given up. Once one request was given up, the outage is
//! proven and the others fail at their next error instead of waiting out the patience one after the other: a run with a hundred broken
//! pages ends after one patience, not after a hundred.
//!
//! A server that refuses because of a rate limit is up. The wait that it asks for costs no patience; only refusals without end do, once that
//! wait is over, and they prove no outage.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Refusals of one request over a rate limit, after which it counts no more that others of its kind are answered.
const MOST_REFUSALS: u32 = 20;

/// The tolerance of one run for one server.
#[derive(Debug)]
pub struct Patience {
    limit: Option<Duration>,
    exhausted: AtomicBool,
}

impl Patience {
    /// `None` waits for ever.
    #[must_use]
    pub fn new(limit: Option<Duration>) -> Self {
        Self {
            limit,
            exhausted: AtomicBool::new(false),
        }
    }

    /// Starts the account of one request.
    #[must_use]
    pub fn begin(&self) -> Attempts<'_> {
        Attempts {
            patience: self,
            first_failure: None,
            failures: 0,
            limited_until: None,
            refusals: 0,
        }
    }

    /// For messages: `10 min`.
    #[must_use]
    pub fn describe(&self) -> String {
        match self.limit {
            None => "for ever".to_owned(),
            Some(limit) if limit.as_secs() >= 120 => format!("{} min", limit.as_secs() / 60),
            Some(limit) => format!("{} s", limit.as_secs()),
        }
    }
}

/// The attempts of one request.
#[derive(Debug)]
pub struct Attempts<'a> {
    patience: &'a Patience,
    first_failure: Option<Instant>,
    failures: u32,
    /// The end of the wait that the first refusal over a rate limit asked for.
    limited_until: Option<Instant>,
    refusals: u32,
}

impl Attempts<'_> {
    /// How long to wait before the next attempt, or `None` when the patience is over. `asked` is what the server asked for
    /// (`Retry-After`); without it the wait grows exponentially with full jitter, so that many clients do not return in step. To be asked back
    /// at once, as by a date that is past, is no hint: every request would come back at once and for as long as the patience lasts.
    pub fn failed(&mut self, asked: Option<Duration>) -> Option<Duration> {
        let asked = asked.filter(|asked| !asked.is_zero());
        let since = *self.first_failure.get_or_insert_with(Instant::now);
        self.failures += 1;
        let wait = asked.map_or_else(
            || jittered(self.failures),
            |asked| asked + asked.mul_f64(fastrand::f64() * 0.1),
        );
        if let Some(limit) = self.patience.limit
            && (self.patience.exhausted.load(Ordering::Relaxed) || since.elapsed() + wait > limit)
        {
            self.patience.exhausted.store(true, Ordering::Relaxed);
            return None;
        }
        Some(wait)
    }

    /// A refusal over a rate limit, after which the caller will wait for so long. False when the patience is over: nothing but refusals came for
    /// as long as it lasts after the first wait, of this request and (`has_answered_since`) of those like it.
    pub fn limited(
        &mut self,
        wait: Duration,
        has_answered_since: impl FnOnce(Instant) -> bool,
    ) -> bool {
        let now = Instant::now();
        // It is up: what failed before is over.
        self.first_failure = None;
        self.failures += 1;
        self.refusals += 1;
        let until = *self.limited_until.get_or_insert(now + wait);
        self.patience.limit.is_none_or(|limit| {
            now.saturating_duration_since(until) <= limit
                || (self.refusals < MOST_REFUSALS && has_answered_since(until))
        })
    }

    /// How often it has failed so far, refusals included.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

fn jittered(failures: u32) -> Duration {
    let ceiling = FIRST_WAIT
        .saturating_mul(
            1_u32
                .checked_shl(failures.saturating_sub(1))
                .unwrap_or(u32::MAX),
        )
        .min(LONGEST_WAIT);
    // Never nothing: a tenth of the ceiling keeps a refused connection from being hammered.
    ceiling.mul_f64(0.1 + 0.9 * fastrand::f64())
}

/// Parses `90s`, `10m`, `2h`, `500ms` or a plain number of seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("`{text}` is not a duration; write for example 30s, 10m or 2h"))?;
    match unit.trim() {
        "ms" => Ok(Duration::from_millis(number)),
        "" | "s" => Ok(Duration::from_secs(number)),
        "m" | "min" => Ok(Duration::from_secs(number.saturating_mul(60))),
        "h" => Ok(Duration::from_secs(number.saturating_mul(3600))),
        _ => Err(format!(
            "`{text}` is not a duration; write for example 30s, 10m or 2h"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_request_that_is_given_up_ends_the_waiting_of_the_others() {
        let patience = Patience::new(Some(Duration::from_millis(1)));
        let mut first = patience.begin();
        assert_eq!(first.failed(Some(Duration::from_secs(1))), None);
        let mut second = patience.begin();
        assert_eq!(second.failed(Some(Duration::ZERO)), None);
    }

    #[test]
    fn to_be_asked_back_at_once_does_not_hammer_a_server() {
        let patience = Patience::new(Some(Duration::from_secs(600)));
        let mut attempts = patience.begin();
        for _ in 0..10 {
            assert!(attempts.failed(Some(Duration::ZERO)).unwrap() >= FIRST_WAIT / 10);
        }
    }

    #[test]
    fn a_rate_limit_costs_no_patience_and_proves_no_outage() {
        let patience = Patience::new(Some(Duration::from_secs(600)));
        let mut limited = patience.begin();
        for _ in 0..100 {
            assert!(limited.limited(Duration::from_secs(2400), |_| false));
        }
        assert!(patience.begin().failed(None).is_some());
    }

    #[test]
    fn refusals_without_end_are_given_up_unless_others_are_answered() {
        let patience = Patience::new(Some(Duration::ZERO));
        let mut alone = patience.begin();
        assert!(alone.limited(Duration::from_millis(1), |_| false));
        std::thread::sleep(Duration::from_millis(5));
        assert!(!alone.limited(Duration::from_millis(1), |_| false));
        let mut unlucky = patience.begin();
        unlucky.limited(Duration::ZERO, |_| true);
        std::thread::sleep(Duration::from_millis(1));
        let refused = (0..MOST_REFUSALS).take_while(|_| unlucky.limited(Duration::ZERO, |_| true));
        assert_eq!(
            refused.count(),
            usize::try_from(MOST_REFUSALS - 2).unwrap(),
            "one request alone is refused"
        );
        assert!(
            patience.begin().failed(Some(Duration::ZERO)).is_none(),
            "no patience at all"
        );
    }

    #[test]
    fn endless_patience_always_waits_but_never_longer_than_half_a_minute() {
        let patience = Patience::new(None);
        let mut attempts = patience.begin();
        for _ in 0..200 {
            let wait = attempts.failed(None).unwrap();
            assert!(wait <= LONGEST_WAIT && wait > Duration::ZERO, "{wait:?}");
        }
    }

    #[test]
    fn what_the_server_asks_for_is_waited_at_least() {
        let patience = Patience::new(Some(Duration::from_secs(600)));
        let wait = patience
            .begin()
            .failed(Some(Duration::from_secs(60)))
            .unwrap();
        assert!(
            wait >= Duration::from_secs(60) && wait <= Duration::from_secs(66),
            "{wait:?}"
        );
    }

    #[test]
    fn durations_are_written_as_people_write_them() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_duration("60"), Ok(Duration::from_secs(60)));
        assert!(parse_duration("soon").is_err());
    }
}
