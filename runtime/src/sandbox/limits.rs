//! What a run may use. Every limit is on by default; what ends a run names the limit that it reached.

use std::time::Duration;

use wasmtime::{StoreLimits, StoreLimitsBuilder};

/// The limits of one run of a component.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Linear memory, all memories together, in bytes.
    pub memory_bytes: usize,
    /// Elements of one table.
    pub table_elements: usize,
    /// Core instances.
    pub instances: usize,
    /// Computing without asking the host for anything. A loop ends here; a long backfill does not, because it asks again and again.
    pub cpu_between_waits: Duration,
    /// Bytes that one host call may copy out of the component.
    pub hostcall_bytes: usize,
    /// Handles that the component may hold.
    pub handles: usize,
    /// Requests in flight.
    pub requests_in_flight: usize,
    /// Bytes of one answer of the source.
    pub response_bytes: usize,
    /// Log lines of one run; more are dropped and counted.
    pub log_lines: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 256 << 20,
            table_elements: 20_000,
            instances: 64,
            cpu_between_waits: Duration::from_secs(30),
            hostcall_bytes: 64 << 20,
            handles: 10_000,
            requests_in_flight: 256,
            response_bytes: 32 << 20,
            log_lines: 10_000,
        }
    }
}

impl Limits {
    /// wasmtime's part of the limits. Growing past one is a trap that says so, not a `-1` that the guest turns into `unreachable`.
    #[must_use]
    pub fn store_limits(&self) -> StoreLimits {
        StoreLimitsBuilder::new()
            .memory_size(self.memory_bytes)
            .table_elements(self.table_elements)
            .instances(self.instances)
            .memories(8)
            .tables(64)
            .trap_on_grow_failure(true)
            .build()
    }
}
