//! When a watching run that is also called syncs, and when it interrupts a sync for what was called.
//!
//! Two things must not starve each other. A sync of everything takes hours, and a delivery is to be stored within seconds: so a sync
//! that has run for a while is interrupted at its next safe point, and goes on from its cursors afterwards. Deliveries can come without end, and
//! a sync must come through: so a sync that is due waits for them no longer than [`PATIENCE`], and each time that it is interrupted without having
//! come further it may run twice as long before the next time.

use std::time::Duration;

use tokio::time::Instant;

/// A sync is interrupted no sooner. With this, what is called in the middle of a first reading is stored within two seconds.
const FIRST_SLICE: Duration = Duration::from_secs(1);
const LONGEST_SLICE: Duration = Duration::from_secs(1800);
/// A stream is compared in one piece, and a large one takes hours.
const LONGEST_COMPARING: Duration = Duration::from_secs(12 * 60 * 60);
/// After so many slices that brought it further, a shorter one may do.
const SHORTER_AFTER: u32 = 16;
/// A sync that is due lets deliveries go first for so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between the end of a sync and the next, where a delivery or the source asks for one.
const SOON: Duration = Duration::from_secs(15);
/// With hooks that tell everything, a poll is only there for what they lose.
const STRETCH: u32 = 4;
const LONGEST_INTERVAL: Duration = Duration::from_secs(1800);

/// The interval between two polls while hooks tell of everything.
#[must_use]
pub fn stretched(interval: Duration) -> Duration {
    interval
        .saturating_mul(STRETCH)
        .min(LONGEST_INTERVAL)
        .max(interval)
}

/// How long a sync runs before it may be interrupted: longer each time that it was, unless it came further, until it comes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slices {
    next: Duration,
    further: u32,
}

impl Default for Slices {
    fn default() -> Self {
        Self {
            next: FIRST_SLICE,
            further: 0,
        }
    }
}

impl Slices {
    /// The next slice, of a sync that compares everything or does not.
    #[must_use]
    pub fn next(self, compares: bool) -> Duration {
        self.next.min(if compares {
            LONGEST_COMPARING
        } else {
            LONGEST_SLICE
        })
    }

    /// A slice ended, after it `ran` for so long, before the sync did. Where that came further, it needs no longer one, and after a while tries a
    /// shorter one.
    pub fn interrupted(&mut self, has_advanced: bool, ran: Duration) {
        if !has_advanced {
            let longer = self.next.max(ran).saturating_mul(2);
            (self.next, self.further) = (longer.min(LONGEST_COMPARING), 0);
        } else if self.further < SHORTER_AFTER {
            self.further += 1;
        } else {
            (self.next, self.further) = ((self.next / 2).max(FIRST_SLICE), 0);
        }
    }
}

/// When the next sync is due, and how long it may run undisturbed. Times come in as arguments.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    due: Instant,
    ended: Option<Instant>,
    slices: Slices,
}

impl Pace {
    /// The first sync is due at once.
    #[must_use]
    pub fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            due: now,
            ended: None,
            slices: Slices::default(),
        }
    }

    /// Changes the interval, also for the sync that is waited for.
    pub fn set_interval(&mut self, interval: Duration) {
        if interval != self.interval {
            if let Some(ended) = self.ended {
                self.due = self.due.min(ended + interval);
            }
            self.interval = interval;
        }
    }

    /// When the next sync is due.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Whether a sync is to begin, with or without deliveries that wait.
    #[must_use]
    pub fn is_due(&self, deliveries_wait: bool, now: Instant) -> bool {
        let patience = if deliveries_wait {
            PATIENCE
        } else {
            Duration::ZERO
        };
        now >= self.due + patience
    }

    /// Something asks for a sync.
    pub fn ask(&mut self, now: Instant) {
        let soonest = self.ended.map_or(now, |ended| now.max(ended + SOON));
        self.due = self.due.min(soonest);
    }

    /// How long a sync that begins now runs before it may be interrupted: no shorter than it has been due, so that half of the time is its own.
    #[must_use]
    pub fn slice(&self, compares: bool, now: Instant) -> Duration {
        self.slices.next(compares).max(now.duration_since(self.due))
    }

    /// A sync has ended by itself.
    pub fn ended(&mut self, now: Instant) {
        self.ended = Some(now);
        self.slices = Slices::default();
        self.due = now + self.interval;
    }

    /// A sync was interrupted for deliveries: it goes on after them.
    pub fn interrupted(&mut self, has_advanced: bool, began: Instant, now: Instant) {
        let ran = now.duration_since(began);
        self.slices.interrupted(has_advanced, ran);
        self.due = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_interval_is_four_times_as_long_and_at_most_half_an_hour_but_never_shorter() {
        assert_eq!(stretched(MINUTE), 4 * MINUTE);
        assert_eq!(stretched(10 * MINUTE), 30 * MINUTE);
        assert_eq!(stretched(60 * MINUTE), 60 * MINUTE);
    }

    #[test]
    fn a_sync_that_is_due_waits_for_deliveries_for_a_while_and_then_goes_first() {
        let now = Instant::now();
        let pace = Pace::new(MINUTE, now);
        assert!(pace.is_due(false, now));
        assert!(!pace.is_due(true, now));
        assert!(pace.is_due(true, now + PATIENCE));
    }

    #[test]
    fn each_interruption_in_vain_doubles_the_time_that_a_sync_has_until_it_comes_through() {
        let now = Instant::now();
        let mut pace = Pace::new(MINUTE, now);
        assert_eq!(pace.slice(false, now), FIRST_SLICE);
        let mut slices = Vec::new();
        for _ in 0..4 {
            pace.interrupted(false, now, now);
            slices.push(pace.slice(false, now));
        }
        assert_eq!(slices, [2, 4, 8, 16].map(|times| FIRST_SLICE * times));
        for _ in 0..100 {
            pace.interrupted(false, now, now);
        }
        assert_eq!(pace.slice(false, now), LONGEST_SLICE);
        assert_eq!(pace.slice(true, now), LONGEST_COMPARING);
        assert_eq!(pace.due(), now);
        pace.ended(now);
        assert_eq!(pace.slice(false, now), FIRST_SLICE);
        assert_eq!(pace.due(), now + MINUTE);
    }

    #[test]
    fn a_first_reading_that_comes_further_in_each_slice_needs_no_longer_ones() {
        let now = Instant::now();
        let mut pace = Pace::new(MINUTE, now);
        for _ in 0..100 {
            pace.interrupted(true, now, now);
            assert_eq!(pace.slice(false, now), FIRST_SLICE);
        }
        // What needs four seconds for a page keeps them for a while.
        for advanced in [false, false, true, true, true] {
            pace.interrupted(advanced, now, now);
        }
        assert_eq!(pace.slice(false, now), FIRST_SLICE * 4);
        for _ in 0..SHORTER_AFTER {
            pace.interrupted(true, now, now);
        }
        assert_eq!(pace.slice(false, now), FIRST_SLICE * 2);
    }

    #[test]
    fn a_sync_has_at_least_as_much_time_as_deliveries_took_before_it() {
        let now = Instant::now();
        let mut pace = Pace::new(MINUTE, now);
        pace.interrupted(true, now, now);
        assert_eq!(pace.slice(false, now + PATIENCE), PATIENCE);
    }

    #[test]
    fn what_ran_longer_than_its_slice_in_vain_has_twice_that_the_next_time() {
        let mut slices = Slices::default();
        slices.interrupted(false, 5 * MINUTE);
        assert_eq!(slices.next(false), 10 * MINUTE);
        slices.interrupted(true, 10 * MINUTE);
        assert_eq!(slices.next(false), 10 * MINUTE);
    }

    #[test]
    fn whoever_asks_for_a_sync_gets_it_soon_but_not_more_often_than_every_quarter_of_a_minute() {
        let now = Instant::now();
        let mut pace = Pace::new(MINUTE, now);
        pace.ended(now);
        pace.ask(now + Duration::from_secs(1));
        assert_eq!(pace.due(), now + SOON);
        pace.ask(now + Duration::from_secs(40));
        assert_eq!(pace.due(), now + SOON);
    }

    #[test]
    fn a_shorter_interval_counts_from_the_last_sync() {
        let now = Instant::now();
        let mut pace = Pace::new(4 * MINUTE, now);
        pace.ended(now);
        pace.set_interval(MINUTE);
        assert_eq!(pace.due(), now + MINUTE);
        // A longer one only after it.
        pace.set_interval(4 * MINUTE);
        assert_eq!(pace.due(), now + MINUTE);
    }
}
