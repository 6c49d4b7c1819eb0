//! What a run may use: one table of limits, in one place.
//!
//! The configuration reads it, the sandbox enforces it, the receipt reports against it, and `docs/limits.md` is held to it by a test. So a limit
//! cannot exist without a name, a default, a way to raise it and a line in the manual. Every limit that protects this machine is on by
//! default; the totals of an ordinary run (requests, experiences, bytes) have none, because a first backfill of millions of records is what
//! this program is for.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::patience::parse_duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// `256MiB`.
    Bytes,
    /// Kept in milliseconds; `30s`.
    Time,
    /// A number.
    Count,
}

/// Which limit. The order is that of [`SPECS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is described in SPECS")]
pub enum Limit {
    Memory,
    TableElements,
    Instances,
    Memories,
    Tables,
    CpuBetweenWaits,
    Cpu,
    DescribeTime,
    CheckTime,
    RunTime,
    DeliveryTime,
    ConnectTime,
    MapTime,
    HostcallBytes,
    Handles,
    HostCalls,
    RequestsInFlight,
    InFlightBytes,
    Requests,
    RequestBytes,
    SentBytes,
    ResponseBytes,
    ReceivedBytes,
    Experiences,
    WrittenBytes,
    LogLines,
    LogBytes,
    Reports,
    Streams,
    StreamBytes,
    StateKeys,
    StateBytes,
    OriginBytes,
    ListedBytes,
}

/// How many there are.
pub const COUNT: usize = 34;

/// What is to be known of one limit.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Which.
    pub limit: Limit,
    /// Its name in `[limits]`, in errors and in the receipt.
    pub name: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// `None`: unlimited.
    pub default: Option<u64>,
    /// The least and the most that can be configured. No most: it may also be `unlimited`.
    pub least: u64,
    /// See `least`.
    pub most: Option<u64>,
    /// What it bounds.
    pub meaning: &'static str,
    /// What happens at the limit.
    pub effect: &'static str,
}

const fn spec(
    limit: Limit,
    name: &'static str,
    unit: Unit,
    default: Option<u64>,
    range: (u64, Option<u64>),
    meaning: &'static str,
    effect: &'static str,
) -> Spec {
    Spec {
        limit,
        name,
        unit,
        default,
        least: range.0,
        most: range.1,
        meaning,
        effect,
    }
}

const ENDS: &str = "the run ends";
const DROPPED: &str = "more are dropped, with one warning; the run goes on";

/// All limits. The numbers leave room for toolchains measured to need most (Python and SpiderMonkey components), and several times what
/// `gitlab.wasm` uses.
#[rustfmt::skip]
pub const SPECS: [Spec; COUNT] = [
    spec(Limit::Memory, "memory", Unit::Bytes, Some(256 * MIB), (MIB, Some(4 * GIB)), "linear memory, all memories together", ENDS),
    spec(Limit::TableElements, "table_elements", Unit::Count, Some(20_000), (1, Some(10_000_000)), "elements of all tables together", ENDS),
    spec(Limit::Instances, "instances", Unit::Count, Some(64), (1, Some(10_000)), "core instances", ENDS),
    spec(Limit::Memories, "memories", Unit::Count, Some(8), (1, Some(100)), "linear memories", ENDS),
    spec(Limit::Tables, "tables", Unit::Count, Some(64), (1, Some(10_000)), "tables", ENDS),
    spec(Limit::CpuBetweenWaits, "cpu_between_waits", Unit::Time, Some(30 * SECOND), (10, None), "computing without waiting for anything", ENDS),
    spec(Limit::Cpu, "cpu", Unit::Time, Some(HOUR), (10, None), "computing in one run", ENDS),
    spec(Limit::DescribeTime, "describe_time", Unit::Time, Some(MINUTE), (10, None), "time that `describe` may take", "the component is not used"),
    spec(Limit::CheckTime, "check_time", Unit::Time, Some(15 * MINUTE), (10, None), "time that `check` may take, waiting included", "the check fails"),
    spec(Limit::RunTime, "run_time", Unit::Time, None, (10, None), "time that one run of the component may take, waiting included", ENDS),
    spec(Limit::DeliveryTime, "delivery_time", Unit::Time, Some(10 * MINUTE), (10, None), "time that the connector may take for one batch of deliveries, waiting included", "the deliveries come again"),
    spec(Limit::ConnectTime, "connect_time", Unit::Time, Some(15 * MINUTE), (10, None), "time that looking after the hooks of the source may take, waiting included", "it is tried again"),
    spec(Limit::MapTime, "map_time", Unit::Time, Some(MINUTE), (10, None), "time that a mapper may take for one page", "as the connection says: the run ends, or the record becomes a dead letter"),
    spec(Limit::HostcallBytes, "hostcall_bytes", Unit::Bytes, Some(64 * MIB), (KIB, Some(GIB)), "bytes that one call may copy out of the component", ENDS),
    spec(Limit::Handles, "handles", Unit::Count, Some(10_000), (1, Some(1_000_000)), "handles that the component holds", ENDS),
    spec(Limit::HostCalls, "host_calls", Unit::Count, Some(100_000_000), (1, None), "calls of the host", ENDS),
    spec(Limit::RequestsInFlight, "requests_in_flight", Unit::Count, Some(256), (1, Some(4096)), "requests to the source that are submitted and not taken", ENDS),
    spec(Limit::InFlightBytes, "in_flight_bytes", Unit::Bytes, Some(64 * MIB), (KIB, Some(4 * GIB)), "those requests together: path, query, headers and body", ENDS),
    spec(Limit::Requests, "requests", Unit::Count, None, (1, None), "requests to the source, repeats by the host not counted", ENDS),
    spec(Limit::RequestBytes, "request_bytes", Unit::Bytes, Some(8 * MIB), (KIB, Some(GIB)), "one request to the source: path, query, headers and body", ENDS),
    spec(Limit::SentBytes, "sent_bytes", Unit::Bytes, None, (KIB, None), "all requests to the source", ENDS),
    spec(Limit::ResponseBytes, "response_bytes", Unit::Bytes, Some(32 * MIB), (KIB, Some(GIB)), "one answer of the source, decompressed", "the component is told `too-large` and may ask for less"),
    spec(Limit::ReceivedBytes, "received_bytes", Unit::Bytes, None, (KIB, None), "all answers of the source, decompressed", ENDS),
    spec(Limit::Experiences, "experiences", Unit::Count, None, (1, None), "experiences handed over, unchanged ones included", ENDS),
    spec(Limit::WrittenBytes, "written_bytes", Unit::Bytes, None, (KIB, None), "text of the experiences handed over", ENDS),
    spec(Limit::LogLines, "log_lines", Unit::Count, Some(10_000), (1, None), "lines that the component logs", DROPPED),
    spec(Limit::LogBytes, "log_bytes", Unit::Bytes, Some(16 * MIB), (KIB, None), "text of those lines", DROPPED),
    spec(Limit::Reports, "reports", Unit::Count, Some(1_000_000), (1, None), "reports of progress and of streams' states", DROPPED),
    spec(Limit::Streams, "streams", Unit::Count, Some(500_000), (1, Some(10_000_000)), "streams that report a state", ENDS),
    spec(Limit::StreamBytes, "stream_bytes", Unit::Bytes, Some(32 * MIB), (KIB, Some(4 * GIB)), "names and words of those streams together", ENDS),
    spec(Limit::StateKeys, "state_keys", Unit::Count, Some(500_000), (1, Some(10_000_000)), "cursors", ENDS),
    spec(Limit::StateBytes, "state_bytes", Unit::Bytes, Some(128 * MIB), (KIB, Some(4 * GIB)), "keys and values of all cursors together", ENDS),
    spec(Limit::OriginBytes, "origin_bytes", Unit::Bytes, Some(128 * MIB), (KIB, Some(4 * GIB)), "ids and variables of all origins together, those of earlier runs included", ENDS),
    spec(Limit::ListedBytes, "listed_bytes", Unit::Bytes, Some(512 * MIB), (KIB, Some(64 * GIB)), "what CortexDB lists of one scope, where a ledger has to be rebuilt", ENDS),
];

impl Limit {
    /// What is to be known of it.
    #[must_use]
    pub fn spec(self) -> &'static Spec {
        &SPECS[self as usize]
    }
}

impl Unit {
    /// As people write it.
    #[must_use]
    pub fn show(self, amount: u64) -> String {
        match self {
            Self::Bytes => match amount {
                GIB.. if amount.is_multiple_of(GIB) => format!("{} GiB", amount / GIB),
                MIB.. if amount.is_multiple_of(MIB) => format!("{} MiB", amount / MIB),
                KIB.. if amount.is_multiple_of(KIB) => format!("{} KiB", amount / KIB),
                _ => format!("{amount} bytes"),
            },
            Self::Time => match amount {
                HOUR.. if amount.is_multiple_of(HOUR) => format!("{} h", amount / HOUR),
                MINUTE.. if amount.is_multiple_of(MINUTE) => format!("{} min", amount / MINUTE),
                SECOND.. if amount.is_multiple_of(SECOND) => format!("{} s", amount / SECOND),
                _ => format!("{amount} ms"),
            },
            Self::Count => amount.to_string(),
        }
    }

    /// What people write: `30s`, `256MiB`, `1_000`.
    pub fn parse(self, text: &str) -> Result<u64, String> {
        match self {
            Self::Time => parse_duration(text).map(milliseconds),
            Self::Count => text
                .replace('_', "")
                .parse()
                .map_err(|_| format!("`{text}` is not a whole number")),
            Self::Bytes => {
                let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
                let factor = match text[digits.len()..].trim() {
                    "" | "B" => 1,
                    "KiB" => KIB,
                    "MiB" => MIB,
                    "GiB" => GIB,
                    _ => return Err(format!("`{text}` is not a size; write for example 256MiB")),
                };
                digits
                    .parse::<u64>()
                    .ok()
                    .and_then(|number| number.checked_mul(factor))
                    .ok_or_else(|| format!("`{text}` is not a size; write for example 256MiB"))
            }
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The limits of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits([Option<u64>; COUNT]);

impl Default for Limits {
    fn default() -> Self {
        Self(SPECS.map(|spec| spec.default))
    }
}

impl Limits {
    /// `None`: unlimited.
    #[must_use]
    pub fn get(&self, limit: Limit) -> Option<u64> {
        self.0[limit as usize]
    }

    /// As a size in memory; unlimited is as much as there can be.
    #[must_use]
    pub fn size(&self, limit: Limit) -> usize {
        self.get(limit)
            .and_then(|amount| usize::try_from(amount).ok())
            .unwrap_or(usize::MAX)
    }

    /// As a time.
    #[must_use]
    pub fn time(&self, limit: Limit) -> Option<Duration> {
        self.get(limit).map(Duration::from_millis)
    }

    /// Sets a limit by its name, from what the user wrote: a number, a size (`256MiB`), a time (`30s`) or `unlimited`.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
        let Some(spec) = SPECS.iter().find(|spec| spec.name == name) else {
            let known = SPECS.map(|spec| spec.name).join(", ");
            return Err(format!("there is no limit `{name}`; there are {known}"));
        };
        let unit = spec.unit;
        if text == "unlimited" {
            if let Some(most) = spec.most {
                return Err(format!(
                    "`{name}` protects this machine and cannot be unlimited; at most {}",
                    unit.show(most)
                ));
            }
            self.0[spec.limit as usize] = None;
            return Ok(());
        }
        let amount = unit
            .parse(text)
            .map_err(|reason| format!("`{name}`: {reason}"))?;
        if amount < spec.least {
            return Err(format!(
                "`{name}` is {}; it must be at least {}",
                unit.show(amount),
                unit.show(spec.least)
            ));
        }
        if let Some(most) = spec.most
            && amount > most
        {
            return Err(format!(
                "`{name}` is {}; it can be at most {}",
                unit.show(amount),
                unit.show(most)
            ));
        }
        self.0[spec.limit as usize] = Some(amount);
        Ok(())
    }
}

/// A run reached a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitReached {
    /// Which.
    pub limit: Limit,
    /// What is allowed.
    pub allowed: u64,
}

impl std::fmt::Display for LimitReached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let spec = self.limit.spec();
        let raise = match spec.most {
            Some(most) if self.allowed >= most => "It cannot be raised further".to_owned(),
            _ => format!(
                "To raise it: `--limit {name}=...`, or `{name}` under `[limits]` in the configuration file",
                name = spec.name
            ),
        };
        write!(
            f,
            "limit reached: `{}` ({}) allows {}. {raise}",
            spec.name,
            spec.meaning,
            spec.unit.show(self.allowed)
        )
    }
}

impl std::error::Error for LimitReached {}

/// Used and allowed, for the receipt. Bytes, milliseconds or a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// How much; absent where the engine enforces the limit and does not say how far it is away.
    pub used: Option<u64>,
    /// How much is allowed; absent for unlimited.
    pub allowed: Option<u64>,
    /// `bytes`, `ms` or `count`.
    pub unit: String,
}

/// By name of the limit.
pub type Uses = BTreeMap<String, Use>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_names() {
        for (index, spec) in SPECS.iter().enumerate() {
            assert_eq!(spec.limit as usize, index, "{}", spec.name);
            assert!(
                spec.default
                    .is_none_or(|default| default >= spec.least
                        && spec.most.is_none_or(|most| default <= most)),
                "{}",
                spec.name
            );
            assert!(
                spec.default.is_some() || spec.most.is_none(),
                "{}: unlimited, and may not be",
                spec.name
            );
        }
    }

    #[test]
    fn a_limit_is_read_in_the_units_that_people_write() {
        let mut limits = Limits::default();
        for (name, text, amount) in [
            ("memory", "512MiB", Some(512 * MIB)),
            ("memory", "1048576", Some(MIB)),
            ("cpu", "90s", Some(90 * SECOND)),
            ("cpu_between_waits", "2m", Some(2 * MINUTE)),
            ("requests", "1_000", Some(1000)),
            ("requests", "unlimited", None),
        ] {
            limits.set(name, text).unwrap();
            let spec = SPECS.iter().find(|spec| spec.name == name).unwrap();
            assert_eq!(limits.get(spec.limit), amount, "{name} = {text}");
        }
    }

    #[test]
    fn nonsense_is_named_with_what_would_work() {
        let mut limits = Limits::default();
        for (name, text, words) in [
            ("memry", "1MiB", "table_elements"),
            ("memory", "1 kB", "256MiB"),
            ("memory", "99999999999GiB", "256MiB"),
            ("memory", "1", "at least 1 MiB"),
            ("memory", "8GiB", "at most 4 GiB"),
            ("memory", "unlimited", "cannot be unlimited"),
            ("requests", "many", "whole number"),
            ("requests", "0", "at least 1"),
            ("cpu", "soon", "cpu"),
        ] {
            let error = limits.set(name, text).unwrap_err();
            assert!(error.contains(words), "{name} = {text}: {error}");
        }
        assert_eq!(limits, Limits::default());
    }

    #[test]
    fn reaching_a_limit_says_how_to_raise_it() {
        let reached = LimitReached {
            limit: Limit::Memory,
            allowed: 256 * MIB,
        };
        let words = reached.to_string();
        assert!(
            words.contains("`memory`")
                && words.contains("256 MiB")
                && words.contains("--limit memory="),
            "{words}"
        );
    }

    /// The manual has one row for each limit, with its default.
    #[test]
    fn the_manual_has_every_limit_with_its_default() {
        let manual = include_str!("../../../docs/limits.md");
        for spec in SPECS {
            let default = spec
                .default
                .map_or_else(|| "unlimited".to_owned(), |amount| spec.unit.show(amount));
            let row = format!(
                "| `{}` | {default} | {} | {} |",
                spec.name, spec.meaning, spec.effect
            );
            assert!(manual.contains(&row), "docs/limits.md lacks the row\n{row}");
        }
    }
}
