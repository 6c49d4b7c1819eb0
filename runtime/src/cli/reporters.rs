//! Rendering of a run: a live line for a terminal, plain lines for a pipe, JSON for a program.
//!
//! The live line is on standard error and is wiped at the end; what remains is the receipt. A pipe gets no line that moves.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};

use super::args::OutputArguments;
use super::{complain, escaped, say};
use crate::host::hooks::{HookPlan, HookState};
use crate::report::{Event, Kind, Level, Outcome, Receipt, Reporter, StreamState};
use crate::sandbox::limits::{Unit, Uses};

/// The live line moves this often.
const TICK: Duration = Duration::from_millis(120);
/// A pipe hears about progress this often.
const PLAIN_PROGRESS: Duration = Duration::from_secs(10);

/// The reporter for these flags and this kind of output.
pub(super) fn reporter(output: OutputArguments) -> Arc<dyn Reporter> {
    if output.json {
        return Arc::new(Json);
    }
    let live = io::stderr().is_terminal() && !output.quiet;
    Arc::new(Lines {
        output,
        bar: live.then(live_line),
        state: Mutex::default(),
    })
}

fn live_line() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}

/// One JSON object a line.
struct Json;

impl Reporter for Json {
    fn event(&self, event: &Event) {
        if let Ok(line) = serde_json::to_string(event) {
            say(&line);
        }
    }
}

#[derive(Default)]
struct Seen {
    read: BTreeMap<String, u64>,
    finished: usize,
    written: u64,
    unchanged: u64,
    last_line: Option<Instant>,
    would_write: u64,
}

impl Seen {
    fn summary(&self) -> String {
        format!(
            "{} listed · {} written · {} unchanged · {}/{} streams",
            HumanCount(self.read.values().sum()),
            HumanCount(self.written),
            HumanCount(self.unchanged),
            self.finished,
            self.read.len().max(self.finished)
        )
    }
}

struct Lines {
    output: OutputArguments,
    bar: Option<ProgressBar>,
    state: Mutex<Seen>,
}

impl Lines {
    /// Much of it is in the words of the source, of CortexDB and of components.
    fn line(&self, text: &str) {
        let text = escaped(text);
        match &self.bar {
            Some(bar) => bar.suspend(|| {
                let _ = writeln!(io::stderr(), "{text}");
            }),
            None => {
                let _ = writeln!(io::stderr(), "{text}");
            }
        }
    }

    fn progress(&self, change: impl FnOnce(&mut Seen)) {
        let mut seen = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut seen);
        if let Some(bar) = &self.bar {
            bar.set_message(seen.summary());
        } else if !self.output.quiet
            && seen
                .last_line
                .is_none_or(|at| at.elapsed() > PLAIN_PROGRESS)
        {
            if seen.last_line.is_some() {
                self.line(&seen.summary());
            }
            seen.last_line = Some(Instant::now());
        }
    }
}

impl Reporter for Lines {
    fn event(&self, event: &Event) {
        match event {
            Event::Started {
                connector,
                source,
                cortexdb,
                dry_run,
            } => {
                self.begin();
                if !self.output.quiet {
                    let target = match (dry_run, cortexdb.as_str()) {
                        (true, _) => "nothing is written (dry run)",
                        (false, url) => url,
                    };
                    self.line(&format!("{connector}: {source} -> {target}"));
                }
            }
            Event::Log {
                level,
                message,
                fields,
            } => self.log(*level, message, fields),
            Event::Progress { stream, done, .. } => self.progress(|seen| {
                seen.read.insert(stream.clone(), *done);
            }),
            Event::Stream { stream, state } => self.stream(stream, state),
            Event::Waiting {
                server,
                reason,
                seconds,
            } => {
                if *seconds > 5.0 || self.output.verbose {
                    self.line(&format!("waiting {seconds:.0} s for {server}: {reason}"));
                }
            }
            Event::Written { written, unchanged } => self.progress(|seen| {
                seen.written = *written;
                seen.unchanged = *unchanged;
            }),
            Event::DeadLetter { source_id, reason } => {
                self.line(&format!("dead letter {source_id}: {reason}"));
            }
            Event::WouldWrite {
                source_id,
                change,
                scope,
                title,
            } => {
                self.progress(|seen| seen.would_write += 1);
                if !self.output.quiet {
                    let text = format!("would write {change} {source_id} to {scope}: {title}");
                    let text = escaped(&text);
                    match &self.bar {
                        Some(bar) => bar.suspend(|| say(&text)),
                        None => say(&text),
                    }
                }
            }
            Event::Listening { address, path, url } => {
                if !self.output.quiet {
                    let hint = match url {
                        Some(url) => format!("as {url}"),
                        None => "register it in the source yourself, or say how it is reached with --public-url".to_owned(),
                    };
                    self.line(&format!("listening on http://{address}{path} ({hint})"));
                }
            }
            Event::Hooks(plan) => {
                if !self.output.quiet {
                    for line in plan_lines(plan) {
                        self.line(&line);
                    }
                }
            }
            Event::Receipt(receipt) => {
                if let Some(bar) = &self.bar {
                    bar.finish_and_clear();
                }
                self.receipt(receipt);
            }
        }
    }
}

impl Lines {
    /// A watching run counts each cycle for itself.
    fn begin(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Seen::default();
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.enable_steady_tick(TICK);
        }
    }

    fn log(&self, level: Level, message: &str, fields: &BTreeMap<String, String>) {
        let least = match (self.output.quiet, self.output.verbose) {
            (true, _) => Level::Error,
            (_, true) => Level::Debug,
            _ => Level::Info,
        };
        if level < least {
            return;
        }
        let word = match level {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warning",
            Level::Error => "error",
        };
        let fields: String = fields
            .iter()
            .map(|(key, value)| format!(" {key}={value}"))
            .collect();
        self.line(&format!("{word}: {message}{fields}"));
    }

    fn stream(&self, stream: &str, state: &StreamState) {
        match state {
            StreamState::Reading => self.progress(|seen| {
                seen.read.entry(stream.to_owned()).or_default();
            }),
            StreamState::Complete => self.progress(|seen| seen.finished += 1),
            StreamState::Off(words) => {
                self.progress(|seen| seen.finished += 1);
                if self.output.verbose {
                    self.line(&format!("{stream} is off: {words}"));
                }
            }
            StreamState::Failed(words) => self.line(&format!(
                "{stream} ended early, its cursor is held: {words}"
            )),
        }
    }

    fn receipt(&self, receipt: &Receipt) {
        let succeeded = matches!(
            receipt.outcome,
            Outcome::Complete | Outcome::CompleteWithDeadLetters
        );
        if let Some(reason) = &receipt.reason
            && !succeeded
        {
            complain(reason);
        }
        if self.output.quiet {
            return;
        }
        match receipt.kind {
            Kind::Sync => {}
            Kind::Deliveries => return say(&deliveries_line(receipt)),
            Kind::Hooks => return,
        }
        for line in receipt_lines(receipt) {
            say(&escaped(&line));
        }
        if self.output.verbose {
            for line in limit_lines(&receipt.limits) {
                say(&line);
            }
        }
    }
}

/// Hooks and what they leave out, as people read it.
pub(super) fn plan_lines(plan: &HookPlan) -> Vec<String> {
    let hooks = plan.hooks.iter().map(|hook| {
        let state = match hook.state {
            HookState::Active => "hooked",
            HookState::Disabled => "DISABLED",
            HookState::Failing => "FAILING",
        };
        let events = hook.events.join(", ");
        let message = hook
            .message
            .as_ref()
            .map(|words| format!("; {words}"))
            .unwrap_or_default();
        format!("  {state:<14}{} ({events}){message}", hook.subject)
    });
    let polled = plan
        .polled
        .iter()
        .map(|polled| format!("  {:<14}{}: {}", "polled", polled.subject, polled.reason));
    hooks.chain(polled).collect()
}

/// The receipt of deliveries, which may come every second, in one line.
fn deliveries_line(receipt: &Receipt) -> String {
    let done = receipt.deliveries.unwrap_or_default();
    let verdict = match receipt.outcome {
        Outcome::Complete => "",
        Outcome::CompleteWithDeadLetters => ", with dead letters",
        Outcome::Failed | Outcome::Misconfigured => " FAILED, they come again",
        Outcome::Interrupted => " interrupted, they come again",
    };
    let others: String = [(done.ignored, "ignored"), (done.polled, "left to a sync")]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!(", {count} {what}"))
        .collect();
    format!(
        "deliveries{verdict}: {} handled{others}; {} written, {} unchanged, {} retracted ({})",
        done.handled,
        receipt.written,
        receipt.unchanged,
        receipt.retracted,
        duration(receipt.duration_ms)
    )
}

/// The receipt as people read it.
fn receipt_lines(receipt: &Receipt) -> Vec<String> {
    let verdict = match receipt.outcome {
        Outcome::Complete => "complete",
        Outcome::CompleteWithDeadLetters => "complete, with dead letters",
        Outcome::Failed => "FAILED, the cursors concerned are held; run again",
        Outcome::Misconfigured => "NOT STARTED, the configuration cannot work",
        Outcome::Interrupted => {
            "interrupted, the batch in flight was finished and the cursors are saved; run again to go on"
        }
    };
    let mut lines = vec![format!("{verdict} ({})", duration(receipt.duration_ms))];
    let by_type: Vec<String> = receipt
        .written_by_type
        .iter()
        .map(|(kind, count)| format!("{kind} {}", HumanCount(*count)))
        .collect();
    let detail = if by_type.is_empty() {
        String::new()
    } else {
        format!("  ({})", by_type.join(", "))
    };
    let what = if receipt.dry_run {
        "would write"
    } else {
        "written"
    };
    lines.push(format!(
        "  {what:<14}{}{detail}",
        HumanCount(receipt.written)
    ));
    lines.push(format!(
        "  {:<14}{}",
        "unchanged",
        HumanCount(receipt.unchanged)
    ));
    if receipt.superseded > 0 {
        lines.push(format!(
            "  {:<14}{} old versions forgotten",
            "superseded",
            HumanCount(receipt.superseded)
        ));
    }
    if receipt.superseded_pending > 0 {
        lines.push(format!(
            "  {:<14}{} old versions stay readable",
            "not forgotten",
            HumanCount(receipt.superseded_pending)
        ));
    }
    if receipt.retracted > 0 {
        lines.push(format!(
            "  {:<14}{} gone or confidential",
            "retracted",
            HumanCount(receipt.retracted)
        ));
    }
    if let Some(reconciled) = receipt.reconciled {
        let words = if reconciled {
            "everything was compared, and what is gone is forgotten"
        } else {
            "not to the end; a later run does it again"
        };
        lines.push(format!("  {:<14}{words}", "reconciled"));
    }
    if !receipt.skipped.is_empty() {
        let policies: Vec<String> = receipt
            .skipped
            .iter()
            .map(|(policy, count)| format!("{policy} {}", HumanCount(*count)))
            .collect();
        lines.push(format!("  {:<14}{}", "skipped", policies.join(", ")));
    }
    if receipt.dead_lettered > 0 {
        lines.push(format!(
            "  {:<14}{} refused for good, kept in the ledger",
            "dead letters",
            HumanCount(receipt.dead_lettered)
        ));
    }
    for (stream, words) in &receipt.streams_off {
        lines.push(format!("  {:<14}{stream}: {words}", "off"));
    }
    for (stream, words) in &receipt.streams_failed {
        lines.push(format!("  {:<14}{stream}: {words}", "failed"));
    }
    let quota = receipt
        .quota_left
        .map(|left| format!(", {} left of the quota", HumanCount(left)))
        .unwrap_or_default();
    let retries = if receipt.retries > 0 {
        format!(", {} repeated", HumanCount(receipt.retries))
    } else {
        String::new()
    };
    lines.push(format!(
        "  {:<14}{} to the source{quota}, {} to CortexDB{retries}",
        "requests",
        HumanCount(receipt.source_requests),
        HumanCount(receipt.cortexdb_requests)
    ));
    lines
}

/// Used and allowed, for those who ask.
fn limit_lines(limits: &Uses) -> Vec<String> {
    limits
        .iter()
        .map(|(name, line)| {
            let unit = match line.unit.as_str() {
                "bytes" => Unit::Bytes,
                "ms" => Unit::Time,
                _ => Unit::Count,
            };
            let show = |amount: Option<u64>, absent: &str| {
                amount.map_or_else(|| absent.to_owned(), |amount| unit.show(amount))
            };
            format!(
                "  {name:<20}{:>16} of {}",
                show(line.used, "not measured"),
                show(line.allowed, "unlimited")
            )
        })
        .collect()
}

fn duration(milliseconds: u64) -> String {
    if milliseconds < 60_000 {
        format!("{}.{:02} s", milliseconds / 1000, milliseconds % 1000 / 10)
    } else {
        HumanDuration(Duration::from_millis(milliseconds)).to_string()
    }
}
