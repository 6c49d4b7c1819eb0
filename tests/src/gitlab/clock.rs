//! The simulated clock.
//!
//! A client that polls must take its cursor from the server's `Date` header, never from its own clock, so the simulator's time
//! is deliberately not the machine's time: it is an offset over it, which tests advance instead of sleeping, or a frozen
//! instant when a test needs exact timestamps. Times are stored in microseconds as PostgreSQL does, and printed truncated to
//! milliseconds as GitLab's REST API does; that difference is itself one of the traps.

use chrono::{DateTime, FixedOffset, NaiveDate, Offset, SecondsFormat, Utc};
use serde::{Serialize, Serializer};

/// Microseconds in one second.
pub const SECOND: i64 = 1_000_000;
/// Microseconds in one day.
pub const DAY: i64 = 86_400 * SECOND;

/// An instant with microsecond precision, counted from the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub i64);

impl Micros {
    /// The machine's own time.
    #[must_use]
    pub fn real_now() -> Self {
        Self(Utc::now().timestamp_micros())
    }

    /// This instant moved by a number of seconds, which may be negative.
    #[must_use]
    pub fn plus_seconds(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(SECOND)))
    }

    /// This instant moved by a number of microseconds, which may be negative.
    #[must_use]
    pub fn plus_micros(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// Whole seconds since the Unix epoch.
    #[must_use]
    pub fn unix(self) -> i64 {
        self.0.div_euclid(SECOND)
    }

    fn utc(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or(DateTime::UNIX_EPOCH)
    }

    /// The form of the REST API: UTC, milliseconds, **truncated** (never rounded).
    #[must_use]
    pub fn rest(self) -> String {
        self.utc().to_rfc3339_opts(SecondsFormat::Millis, true)
    }

    /// Full precision, as it travels inside a keyset cursor.
    #[must_use]
    pub fn precise(self) -> String {
        self.utc().to_rfc3339_opts(SecondsFormat::Micros, true)
    }

    /// The form of a commit's date: original offset in minutes, seconds precision, always `.000`.
    #[must_use]
    pub fn git(self, offset_minutes: i32) -> String {
        // An impossible offset degrades to UTC.
        let zone = FixedOffset::east_opt(offset_minutes * 60).unwrap_or_else(|| Utc.fix());
        let seconds = Self(self.unix() * SECOND).utc().with_timezone(&zone);
        seconds.format("%Y-%m-%dT%H:%M:%S.000%:z").to_string()
    }

    /// The form of most webhooks: UTC and whole seconds, or with an offset where the instance's zone is not UTC.
    #[must_use]
    pub fn hook(self, offset_minutes: i32) -> String {
        let seconds = Self(self.unix() * SECOND).utc();
        match FixedOffset::east_opt(offset_minutes * 60).filter(|_| offset_minutes != 0) {
            None => seconds.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
            Some(zone) => {
                let there = seconds.with_timezone(&zone);
                there.format("%Y-%m-%d %H:%M:%S %z").to_string()
            }
        }
    }

    /// The form of system hooks about projects, groups and users: UTC and whole seconds.
    #[must_use]
    pub fn seconds(self) -> String {
        self.utc().to_rfc3339_opts(SecondsFormat::Secs, true)
    }

    /// The form of the HTTP `Date` header.
    #[must_use]
    pub fn http_date(self) -> String {
        self.utc().format("%a, %d %b %Y %H:%M:%S GMT").to_string()
    }

    /// The calendar day in UTC.
    #[must_use]
    pub fn date(self) -> NaiveDate {
        self.utc().date_naive()
    }

    /// Parses a filter value: RFC 3339 with any precision, `YYYY-MM-DD HH:MM:SS` with or without a zone, or a date.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Some(Self(time.timestamp_micros()));
        }
        for form in [
            "%Y-%m-%d %H:%M:%S%.f UTC",
            "%Y-%m-%d %H:%M:%S%.f",
            "%Y-%m-%dT%H:%M:%S%.f",
        ] {
            if let Ok(time) = chrono::NaiveDateTime::parse_from_str(text, form) {
                return Some(Self(time.and_utc().timestamp_micros()));
            }
        }
        for form in ["%Y-%m-%d %H:%M:%S%.f %z", "%Y-%m-%dT%H:%M:%S%.f%z"] {
            if let Ok(time) = DateTime::parse_from_str(text, form) {
                return Some(Self(time.timestamp_micros()));
            }
        }
        let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
        Some(Self(day.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros()))
    }
}

impl Serialize for Micros {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.rest())
    }
}

/// The server's time: an offset over the machine's, or a frozen instant.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    offset: i64,
    frozen: Option<Micros>,
}

impl Clock {
    /// A running clock that shows `now` at this moment.
    #[must_use]
    pub fn starting_at(now: Micros) -> Self {
        Self {
            offset: now.0 - Micros::real_now().0,
            frozen: None,
        }
    }

    /// The current simulated time.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.frozen
            .unwrap_or_else(|| Micros(Micros::real_now().0 + self.offset))
    }

    /// Moves the clock, usually forwards.
    pub fn advance_seconds(&mut self, seconds: i64) {
        match &mut self.frozen {
            Some(now) => *now = now.plus_seconds(seconds),
            None => self.offset = self.offset.saturating_add(seconds.saturating_mul(SECOND)),
        }
    }

    /// Stops the clock at `now`; it then moves by [`Clock::advance_seconds`] only.
    pub fn freeze_at(&mut self, now: Micros) {
        self.frozen = Some(now);
    }

    /// Stops the clock where it is.
    pub fn freeze(&mut self) {
        self.frozen = Some(self.now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_truncated_and_never_rounded() {
        let time = Micros::parse("2026-01-02T03:04:05.678999Z").expect("a time");
        assert_eq!(time.rest(), "2026-01-02T03:04:05.678Z");
        assert_eq!(time.precise(), "2026-01-02T03:04:05.678999Z");
        assert!(Micros::parse(&time.rest()).expect("its own output") < time);
    }

    #[test]
    fn commit_dates_keep_their_offset_and_lose_their_fraction() {
        let time = Micros::parse("2021-09-20T09:50:22.001Z").expect("a time");
        assert_eq!(time.git(120), "2021-09-20T11:50:22.000+02:00");
        assert_eq!(time.git(-330), "2021-09-20T04:20:22.000-05:30");
    }

    #[test]
    fn webhooks_have_times_of_their_own() {
        let time = Micros::parse("2025-08-06T01:23:04.999Z").expect("a time");
        assert_eq!(time.hook(0), "2025-08-06 01:23:04 UTC");
        assert_eq!(time.hook(-420), "2025-08-05 18:23:04 -0700");
        assert_eq!(time.seconds(), "2025-08-06T01:23:04Z");
        assert!(Micros::parse(&time.hook(0)).expect("its own output") < time);
        assert!(Micros::parse(&time.hook(-420)).expect("its own output") < time);
    }

    #[test]
    fn a_frozen_clock_moves_only_when_told() {
        let mut clock = Clock::default();
        clock.freeze_at(Micros(5 * SECOND));
        clock.advance_seconds(60);
        assert_eq!(clock.now(), Micros(65 * SECOND));
    }
}
