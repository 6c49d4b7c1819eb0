//! Counts what a run uses, and stops it at its limits.
//!
//! Computing is measured in time between host calls that wait, not in ticks: a tick that falls due while the component waits would be
//! counted against it, and a million waits would look like hours of computing.

use std::time::{Duration, Instant};

use super::limits::{COUNT, Limit, LimitReached, Limits, SPECS, Unit, Use, Uses};

/// What a component may still compute once the run is to end: enough to come to a safe point, and no reason to wait for one that never
/// comes there.
const CPU_TO_END: Duration = Duration::from_secs(5);

/// What one instance has used so far.
#[derive(Debug)]
pub struct Meter {
    limits: Limits,
    used: [u64; COUNT],
    /// Now; the receipt shows the highest.
    memory: u64,
    table_elements: u64,
    /// Computed before `running_since`.
    computed: Duration,
    /// What had been computed when the last wait began.
    computed_at_wait: Duration,
    /// What had been computed when it was first seen that the run is to end.
    computed_at_end: Option<Duration>,
    running_since: Instant,
    started: Instant,
}

/// What only the engine counts.
const NOT_MEASURED: [Limit; 5] = [
    Limit::Instances,
    Limit::Memories,
    Limit::Tables,
    Limit::HostcallBytes,
    Limit::Handles,
];

impl Meter {
    /// Starts counting.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let now = Instant::now();
        Self {
            limits,
            used: [0; COUNT],
            memory: 0,
            table_elements: 0,
            computed: Duration::ZERO,
            computed_at_wait: Duration::ZERO,
            computed_at_end: None,
            running_since: now,
            started: now,
        }
    }

    /// The limits it holds the run to.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Adds to a total.
    pub fn add(&mut self, limit: Limit, amount: usize) -> Result<(), LimitReached> {
        let total = self.used[limit as usize].saturating_add(amount as u64);
        self.used[limit as usize] = total;
        self.within(limit, total)
    }

    /// Notes the present amount of something; the highest is kept.
    pub fn level(&mut self, limit: Limit, amount: u64) -> Result<(), LimitReached> {
        let highest = &mut self.used[limit as usize];
        *highest = amount.max(*highest);
        self.within(limit, amount)
    }

    /// How much was used.
    #[must_use]
    pub fn used(&self, limit: Limit) -> u64 {
        self.used[limit as usize]
    }

    fn within(&self, limit: Limit, amount: u64) -> Result<(), LimitReached> {
        match self.limits.get(limit) {
            Some(allowed) if amount > allowed => Err(LimitReached { limit, allowed }),
            _ => Ok(()),
        }
    }

    /// The component begins to wait for the host.
    pub fn wait(&mut self) {
        self.computed += self.running_since.elapsed();
        self.running_since = Instant::now();
    }

    /// It goes on. `fresh`: it may compute for a whole `cpu_between_waits` again.
    pub fn resume(&mut self, fresh: bool) {
        self.running_since = Instant::now();
        if fresh {
            self.computed_at_wait = self.computed;
        }
    }

    /// Looks at the clock, every tick of the engine. `ending`: the run is to end.
    pub fn tick(&mut self, ending: bool) -> Result<(), LimitReached> {
        let computed = self.computed + self.running_since.elapsed();
        if ending {
            let at_end = *self.computed_at_end.get_or_insert(computed);
            if computed.saturating_sub(at_end) > CPU_TO_END {
                return Err(LimitReached {
                    limit: Limit::CpuBetweenWaits,
                    allowed: milliseconds(CPU_TO_END),
                });
            }
        }
        let since_wait = computed.saturating_sub(self.computed_at_wait);
        self.level(Limit::CpuBetweenWaits, milliseconds(since_wait))?;
        self.level(Limit::Cpu, milliseconds(computed))
    }

    /// Milliseconds of computing, up to the last wait.
    #[must_use]
    pub fn computed_ms(&self) -> u64 {
        milliseconds(self.computed)
    }

    /// Used and allowed, of everything.
    #[must_use]
    pub fn uses(&self, time: Limit) -> Uses {
        let elapsed = milliseconds(self.started.elapsed());
        SPECS
            .iter()
            .filter(|spec| {
                let times = [
                    Limit::DescribeTime,
                    Limit::CheckTime,
                    Limit::RunTime,
                    Limit::DeliveryTime,
                    Limit::ConnectTime,
                    Limit::MapTime,
                ];
                !times.contains(&spec.limit) || spec.limit == time
            })
            .map(|spec| {
                let used = match spec.limit {
                    limit if limit == time => Some(elapsed),
                    limit if NOT_MEASURED.contains(&limit) => None,
                    Limit::Cpu => Some(milliseconds(self.computed).max(self.used(Limit::Cpu))),
                    limit => Some(self.used(limit)),
                };
                let unit = match spec.unit {
                    Unit::Bytes => "bytes",
                    Unit::Time => "ms",
                    Unit::Count => "count",
                };
                let line = Use {
                    used,
                    allowed: self.limits.get(spec.limit),
                    unit: unit.to_owned(),
                };
                (spec.name.to_owned(), line)
            })
            .collect()
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Growing past a limit is a trap that says so, not a `-1` that the guest turns into `unreachable`.
impl wasmtime::ResourceLimiter for Meter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let after = self.memory + desired.saturating_sub(current) as u64;
        self.level(Limit::Memory, after)?;
        self.memory = after;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let after = self.table_elements + desired.saturating_sub(current) as u64;
        self.level(Limit::TableElements, after)?;
        self.table_elements = after;
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.limits.size(Limit::Instances)
    }

    fn tables(&self) -> usize {
        self.limits.size(Limit::Tables)
    }

    fn memories(&self) -> usize {
        self.limits.size(Limit::Memories)
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::ResourceLimiter as _;

    use super::*;

    fn meter(settings: &[(&str, &str)]) -> Meter {
        let mut limits = Limits::default();
        for (name, text) in settings {
            limits.set(name, text).unwrap();
        }
        Meter::new(limits)
    }

    #[test]
    fn memories_count_together() {
        let mut meter = meter(&[("memory", "1MiB")]);
        assert!(meter.memory_growing(0, 600 << 10, None).unwrap());
        assert!(meter.memory_growing(0, 600 << 10, None).is_err());
        assert!(meter.memory_growing(600 << 10, 700 << 10, None).unwrap());
    }

    #[test]
    fn once_the_run_is_to_end_little_computing_is_left() {
        let mut meter = meter(&[]);
        assert_eq!(meter.tick(true), Ok(()));
        meter.computed += CPU_TO_END + Duration::from_millis(1);
        assert_eq!(meter.tick(false), Ok(()));
        let reached = meter.tick(true).unwrap_err();
        assert_eq!(reached.limit, Limit::CpuBetweenWaits);
        assert_eq!(reached.allowed, 5000);
    }

    #[test]
    fn waiting_is_not_computing() {
        let mut meter = meter(&[("cpu", "50ms")]);
        for _ in 0..5 {
            meter.wait();
            std::thread::sleep(Duration::from_millis(20));
            meter.resume(true);
        }
        assert_eq!(meter.tick(false), Ok(()));
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(meter.tick(false).unwrap_err().limit, Limit::Cpu);
    }

    #[test]
    fn waiting_again_and_again_does_not_make_the_whole_run_endless() {
        let mut meter = meter(&[("cpu", "60ms"), ("cpu_between_waits", "1h")]);
        let ended = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(2));
            meter.wait();
            meter.resume(true);
            meter.tick(false).is_err()
        });
        assert!(ended);
    }
}
