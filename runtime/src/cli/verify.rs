//! `runtime verify`: does CortexDB hold what the source lists? Looks, and changes nothing.

use std::sync::Arc;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::args::VerifyArguments;
use super::prepare::{prepare, quiet_reporter};
use super::run::listen_for_signals;
use super::{complain, say};
use crate::census::{Comparison, KindComparison};
use crate::report::{Outcome, Receipt};
use crate::run::verify_once;

/// Differences that are named for each kind; `--json` names all.
const NAMED: usize = 20;

pub(super) async fn verify(arguments: VerifyArguments) -> u8 {
    let reporter = quiet_reporter();
    let prepared = prepare(&arguments.component, &arguments.flags(), false, &reporter).await;
    let (connector, plan) = match prepared {
        Ok(prepared) => prepared,
        Err(code) => return code,
    };
    let stop = CancellationToken::new();
    listen_for_signals(stop.clone(), Arc::clone(&reporter));
    let (receipt, comparison) = verify_once(&connector, &plan, reporter, stop).await;
    if arguments.json {
        show_json(&receipt, comparison.as_ref());
    } else if let Some(comparison) = &comparison {
        show(&receipt, comparison);
    }
    if let Some(reason) = &receipt.reason {
        complain(reason);
    }
    match (receipt.outcome, comparison) {
        (Outcome::Complete | Outcome::CompleteWithDeadLetters, Some(comparison)) => {
            u8::from(!comparison.equal)
        }
        (Outcome::Complete | Outcome::CompleteWithDeadLetters, None) => 1,
        (outcome, _) => outcome.exit_code(),
    }
}

fn show_json(receipt: &Receipt, comparison: Option<&Comparison>) {
    say(&json!({
        "equal": comparison.is_some_and(|comparison| comparison.equal),
        "outcome": receipt.outcome,
        "reason": receipt.reason,
        "kinds": comparison.map(|comparison| &comparison.kinds),
        "not_compared": comparison.map(|comparison| &comparison.not_compared),
        "skipped": receipt.skipped,
        "source_requests": receipt.source_requests,
        "duration_ms": receipt.duration_ms,
    })
    .to_string());
}

fn show(receipt: &Receipt, comparison: &Comparison) {
    let rows: Vec<(String, &KindComparison)> = comparison
        .kinds
        .iter()
        .map(|kind| (format!("{} {}", kind.stream, kind.event_type), kind))
        .collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    if !rows.is_empty() {
        say(&format!(
            "{:<width$} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "", "listed", "held", "missing", "surplus", "dead"
        ));
    }
    for (name, kind) in &rows {
        say(&format!(
            "{name:<width$} {:>9} {:>9} {:>9} {:>9} {:>9}",
            kind.listed,
            kind.held,
            kind.missing.len(),
            kind.surplus.len(),
            kind.dead_letters.len()
        ));
    }
    for (_, kind) in &rows {
        name_them("missing in CortexDB", &kind.missing);
        name_them("surplus in CortexDB", &kind.surplus);
        name_them("dead letter", &kind.dead_letters);
    }
    for stream in &comparison.not_compared {
        let held = stream.held;
        say(&format!(
            "not compared: {} ({held} records held): {}",
            stream.stream, stream.reason
        ));
    }
    for (policy, count) in &receipt.skipped {
        say(&format!("left out: {policy} {count}"));
    }
    say(if comparison.equal {
        "equal"
    } else {
        "DIFFERENT; what is gone or was missed is mended by `runtime run --reconcile`"
    });
}

fn name_them(word: &str, ids: &[String]) {
    for id in ids.iter().take(NAMED) {
        say(&format!("{word}: {}", id.escape_debug()));
    }
    if ids.len() > NAMED {
        let rest = ids.len() - NAMED;
        say(&format!("{word}: and {rest} more; --json names all"));
    }
}
