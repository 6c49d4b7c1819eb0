//! What is counted, as Prometheus reads it.
//!
//! Written by hand: a dozen counters do not need a registry, and cardinality is bounded by construction. No line carries a connection, and
//! tenants beyond the first few share the name `other`. docs/operations.md has every name with its meaning.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::Duration;

/// Upper bounds of the buckets of every histogram, in seconds.
const BUCKETS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];

/// A family of the exposition format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// Its meaning.
    pub help: &'static str,
}

/// Answers of the HTTP server.
pub const REQUESTS: Family = Family {
    name: "runtime_http_requests_total",
    help: "Answers of the HTTP server, by route template and status class.",
};
/// How long they took.
pub const REQUEST_SECONDS: Family = Family {
    name: "runtime_http_request_seconds",
    help: "Time until the answer began, by route template.",
};
/// Deliveries that were taken.
pub const DELIVERIES: Family = Family {
    name: "runtime_deliveries_total",
    help: "Webhook calls that were proved, by result (stored, duplicate).",
};
/// From delivery to CortexDB's receipt.
pub const DELIVERY_SECONDS: Family = Family {
    name: "runtime_delivery_seconds",
    help: "Time from a webhook call to its fate, which is after CortexDB's receipt.",
};
/// Runs that ended.
pub const RUNS: Family = Family {
    name: "runtime_runs_total",
    help: "Runs that ended, by tenant, kind and outcome.",
};
/// How long they took.
pub const RUN_SECONDS: Family = Family {
    name: "runtime_run_seconds",
    help: "Time that runs took, by kind.",
};
/// Computing time of components.
pub const CPU_SECONDS: Family = Family {
    name: "runtime_component_cpu_seconds_total",
    help: "Computing time of components, by tenant.",
};
/// Records that CortexDB acknowledged.
pub const RECORDS: Family = Family {
    name: "runtime_records_total",
    help: "Records acknowledged by CortexDB, by tenant.",
};
/// Records refused for good.
pub const DEAD_LETTERS: Family = Family {
    name: "runtime_dead_letters_total",
    help: "Records refused for good, by tenant.",
};
/// Runs in hand.
pub const RUNNING: Family = Family {
    name: "runtime_running",
    help: "Runs that this process has in hand.",
};
/// Slots.
pub const WORKERS: Family = Family {
    name: "runtime_workers",
    help: "Runs that this process may have in hand.",
};

#[derive(Default)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    sum: f64,
    count: u64,
}

#[derive(Default)]
struct Values {
    counters: BTreeMap<(Family, String), f64>,
    gauges: BTreeMap<(Family, String), f64>,
    histograms: BTreeMap<(Family, String), Histogram>,
    tenants: Vec<String>,
}

/// What this process has counted since it started.
pub struct Metrics {
    values: Mutex<Values>,
    most_tenants: usize,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// A label and its value. The value of `tenant` is bounded here, those of others by whoever counts.
pub type Label<'a> = (&'static str, &'a str);

impl Metrics {
    /// With lines of their own for so many tenants, first come, first served.
    #[must_use]
    pub fn new(most_tenants: u32) -> Self {
        Self {
            values: Mutex::default(),
            most_tenants: most_tenants as usize,
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Values) -> T) -> T {
        let mut values = match self.values.lock() {
            Ok(values) => values,
            Err(poisoned) => poisoned.into_inner(),
        };
        change(&mut values)
    }

    fn labels(&self, values: &mut Values, labels: &[Label<'_>]) -> String {
        let mut text = String::new();
        for (name, value) in labels {
            let value = if *name == "tenant" {
                let known = values.tenants.iter().any(|tenant| tenant == value);
                if !known && values.tenants.len() < self.most_tenants {
                    values.tenants.push((*value).to_owned());
                    *value
                } else if known {
                    *value
                } else {
                    "other"
                }
            } else {
                *value
            };
            if !text.is_empty() {
                text.push(',');
            }
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(text, "{name}=\"{value}\"");
        }
        text
    }

    /// Adds to a counter.
    pub fn count(&self, family: Family, labels: &[Label<'_>], more: f64) {
        self.with(|values| {
            let labels = self.labels(values, labels);
            *values.counters.entry((family, labels)).or_default() += more;
        });
    }

    /// Sets a gauge.
    pub fn gauge(&self, family: Family, labels: &[Label<'_>], now: f64) {
        self.with(|values| {
            let labels = self.labels(values, labels);
            values.gauges.insert((family, labels), now);
        });
    }

    /// Adds an observation to a histogram.
    pub fn observe(&self, family: Family, labels: &[Label<'_>], took: Duration) {
        let seconds = took.as_secs_f64();
        self.with(|values| {
            let labels = self.labels(values, labels);
            let histogram = values.histograms.entry((family, labels)).or_default();
            for (bound, count) in BUCKETS.iter().zip(&mut histogram.buckets) {
                *count += u64::from(seconds <= *bound);
            }
            histogram.sum += seconds;
            histogram.count += 1;
        });
    }

    /// The exposition format.
    #[must_use]
    pub fn render(&self) -> String {
        self.with(|values| {
            let mut text = String::new();
            simple(&mut text, "counter", &values.counters);
            simple(&mut text, "gauge", &values.gauges);
            let mut before = None;
            for ((family, labels), histogram) in &values.histograms {
                head(&mut text, &mut before, *family, "histogram");
                let name = family.name;
                let comma = if labels.is_empty() { "" } else { "," };
                for (bound, count) in BUCKETS.iter().zip(&histogram.buckets) {
                    let _ = writeln!(
                        text,
                        "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"
                    );
                }
                let Histogram { sum, count, .. } = histogram;
                let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
                let _ = writeln!(text, "{name}_sum{{{labels}}} {sum}");
                let _ = writeln!(text, "{name}_count{{{labels}}} {count}");
            }
            text
        })
    }
}

fn simple(text: &mut String, kind: &str, rows: &BTreeMap<(Family, String), f64>) {
    let mut before = None;
    for ((family, labels), value) in rows {
        head(text, &mut before, *family, kind);
        if labels.is_empty() {
            let _ = writeln!(text, "{} {value}", family.name);
        } else {
            let _ = writeln!(text, "{}{{{labels}}} {value}", family.name);
        }
    }
}

fn head(text: &mut String, before: &mut Option<Family>, family: Family, kind: &str) {
    if *before != Some(family) {
        let _ = writeln!(text, "# HELP {} {}", family.name, family.help);
        let _ = writeln!(text, "# TYPE {} {kind}", family.name);
        *before = Some(family);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_beyond_the_first_few_share_a_line() {
        let metrics = Metrics::new(2);
        for tenant in ["a", "b", "c", "d", "a"] {
            metrics.count(RECORDS, &[("tenant", tenant)], 1.0);
        }
        let text = metrics.render();
        assert!(
            text.contains("runtime_records_total{tenant=\"a\"} 2"),
            "{text}"
        );
        assert!(
            text.contains("runtime_records_total{tenant=\"other\"} 2"),
            "{text}"
        );
        assert!(!text.contains("\"c\""), "{text}");
    }

    #[test]
    fn a_histogram_counts_into_every_bucket_above() {
        let metrics = Metrics::new(0);
        metrics.observe(RUN_SECONDS, &[("kind", "sync")], Duration::from_millis(300));
        let text = metrics.render();
        assert!(text.contains("runtime_run_seconds_bucket{kind=\"sync\",le=\"0.25\"} 0"));
        assert!(text.contains("runtime_run_seconds_bucket{kind=\"sync\",le=\"0.5\"} 1"));
        assert!(text.contains("runtime_run_seconds_count{kind=\"sync\"} 1"));
        assert_eq!(text.matches("# TYPE").count(), 1);
    }

    #[test]
    fn a_label_cannot_break_out_of_its_line() {
        let metrics = Metrics::new(5);
        metrics.count(RECORDS, &[("tenant", "a\"} 1\nx 2 {b=\"")], 1.0);
        let text = metrics.render();
        assert_eq!(text.lines().count(), 3, "{text}");
    }

    /// The manual has every family.
    #[test]
    fn the_manual_names_every_family() {
        let manual = include_str!("../../../docs/operations.md");
        for family in [
            REQUESTS,
            REQUEST_SECONDS,
            DELIVERIES,
            DELIVERY_SECONDS,
            RUNS,
            RUN_SECONDS,
            CPU_SECONDS,
            RECORDS,
            DEAD_LETTERS,
            RUNNING,
            WORKERS,
        ] {
            assert!(
                manual.contains(&format!("| `{}` |", family.name)),
                "docs/operations.md lacks {}",
                family.name
            );
        }
    }
}
