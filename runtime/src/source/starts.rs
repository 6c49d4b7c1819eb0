//! When requests were started lately. A fast source answers tens of thousands of them in a minute, so starts that are close to each other
//! are kept as one.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Starts within this time are taken for as late as the last of them.
const GRAIN: Duration = Duration::from_millis(50);

/// Starts in the order of time.
#[derive(Debug, Default)]
pub(super) struct Starts {
    groups: VecDeque<Group>,
    count: usize,
}

#[derive(Debug)]
struct Group {
    first: Instant,
    last: Instant,
    count: usize,
}

impl Starts {
    /// One more, later than all others.
    pub(super) fn add(&mut self, now: Instant) {
        self.count += 1;
        match self.groups.back_mut() {
            Some(group) if now < group.first + GRAIN => {
                // Threads may come a moment out of order.
                group.last = group.last.max(now);
                group.count += 1;
            }
            _ => self.groups.push_back(Group {
                first: now,
                last: now,
                count: 1,
            }),
        }
    }

    /// Forgets those that are not later than this.
    pub(super) fn forget(&mut self, until: Instant) {
        while let Some(group) = self.groups.pop_front_if(|group| group.last <= until) {
            self.count -= group.count;
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// When the last of these but `behind` were started; `None` if there are no more than that.
    pub(super) fn before_the_last(&self, behind: usize) -> Option<Instant> {
        let mut left = self.count.checked_sub(behind)?.checked_sub(1)?;
        let group = self.groups.iter().find(|group| {
            let found = left < group.count;
            left = left.saturating_sub(group.count);
            found
        })?;
        Some(group.last)
    }

    /// How many are later than this.
    pub(super) fn later_than(&self, at: Instant) -> usize {
        let later = self.groups.iter().rev().take_while(|group| group.last > at);
        later.map(|group| group.count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    #[test]
    fn starts_are_counted_and_forgotten_as_if_each_were_kept_only_a_little_later() {
        let begin = Instant::now();
        let mut starts = Starts::default();
        let mut each = Vec::new();
        let mut now = begin;
        for step in 0..4000_u64 {
            now += Duration::from_millis(step * 7919 % 60);
            starts.add(now);
            each.push(now);
            let until = now.checked_sub(WINDOW).unwrap_or(begin);
            if step % 50 == 0 {
                starts.forget(until);
                each.retain(|at| *at + GRAIN > until);
            }
            for behind in [0, 1, 299, 1999] {
                let exact = each.iter().rev().nth(behind).copied();
                let Some(found) = starts.before_the_last(behind) else {
                    let forgotten = exact.is_none_or(|at| at <= until);
                    assert!(forgotten, "step {step}, {behind} behind");
                    continue;
                };
                let exact = exact.expect("what is found was started");
                assert!(found >= exact && found < exact + GRAIN, "step {step}");
            }
            let exact = each.iter().filter(|at| **at > until).count();
            let loose = each.iter().filter(|at| **at + GRAIN > until).count();
            assert!((exact..=loose).contains(&starts.later_than(until)));
        }
        assert!(
            starts.groups.len() <= 2400,
            "{} groups",
            starts.groups.len()
        );
    }

    #[test]
    fn a_minute_of_starts_takes_no_more_memory_however_many_there_are() {
        let mut starts = Starts::default();
        let mut now = Instant::now();
        for _ in 0..200_000 {
            now += Duration::from_micros(300);
            starts.add(now);
        }
        assert_eq!(starts.later_than(now), 0);
        assert_eq!(starts.count(), 200_000);
        assert!(starts.groups.len() <= 1201);
        starts.forget(now);
        assert_eq!((starts.count(), starts.before_the_last(0)), (0, None));
    }
}
