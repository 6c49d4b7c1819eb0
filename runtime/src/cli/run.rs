//! `runtime run`: once, or again and again.

use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::args::RunArguments;
use super::prepare::{load_mappers, prepare};
use super::reporters::reporter;
use super::{USAGE, complain};
use crate::config::{Surroundings, hooks_plan};
use crate::hooks::watch::{End, ListenError, Schedule, watch};
use crate::report::{Event, Level, Outcome, Reporter};
use crate::run::{Reconcile, RunOptions, pause_after_failed_pass, run_once};

pub(super) async fn run(arguments: RunArguments) -> u8 {
    let reporter = reporter(arguments.output);
    let stop = CancellationToken::new();
    listen_for_signals(stop.clone(), Arc::clone(&reporter));
    let mut flags = arguments.flags();
    flags.mappers = match arguments.mappers() {
        Ok(mappers) => mappers,
        Err(words) => {
            complain(&words);
            return USAGE;
        }
    };
    let prepared = prepare(&arguments.component, &flags, arguments.dry_run, &reporter).await;
    let (connector, mut plan) = match prepared {
        Ok(prepared) => prepared,
        Err(code) => return code,
    };
    let hooks = match hooks_plan(
        &connector.description,
        &flags,
        arguments.listen.as_deref(),
        arguments.public_url.as_deref(),
        &Surroundings::of_this_process(),
    ) {
        Ok(hooks) => hooks,
        Err(error) => {
            complain(&error.to_string());
            return USAGE;
        }
    };
    if hooks.is_some() && (!arguments.watch || arguments.dry_run) {
        complain(
            "listening for webhooks (--listen, RUNTIME_LISTEN or hooks.listen) goes with --watch, and not with --dry-run: add --watch",
        );
        return USAGE;
    }
    let mappers = match load_mappers(&plan, &reporter).await {
        Ok(chain) => Arc::new(chain),
        Err(code) => return code,
    };
    let mut options = RunOptions {
        mappers,
        remap: arguments.remap,
        dry_run: arguments.dry_run,
        out: arguments.out.clone(),
        reconcile: Reconcile::Never,
    };
    if let Some(path) = &options.out
        && let Err(error) = std::fs::File::create(path)
    {
        complain(&format!("cannot write {}: {error}", path.display()));
        return USAGE;
    }
    let scheduled = if arguments.watch && !plan.reconcile_every.is_zero() {
        Reconcile::Every(plan.reconcile_every)
    } else {
        Reconcile::Never
    };
    let pause = pause_after_failed_pass(plan.reconcile_every);
    let mut asked_for = arguments.reconcile;
    if let Some(hooks) = hooks {
        let schedule = Schedule {
            reconcile_first: asked_for,
            reconcile: scheduled,
            reconcile_pause: pause,
        };
        let end = watch(&connector, plan, options, hooks, schedule, reporter, stop).await;
        return match end {
            Ok(End::Stopped) => 0,
            Ok(End::Misconfigured(receipt)) => receipt.outcome.exit_code(),
            Err(error) => {
                complain(&error.to_string());
                match error {
                    ListenError::Misused(_) => USAGE,
                    _ => 1,
                }
            }
        };
    }
    let mut failed_at: Option<Instant> = None;
    let mut worked = false;
    loop {
        options.reconcile = match failed_at {
            _ if asked_for => Reconcile::Now,
            Some(failed_at) if failed_at.elapsed() < pause => Reconcile::Never,
            _ => scheduled,
        };
        asked_for = false;
        let receipt = run_once(
            &connector,
            &plan,
            &options,
            Arc::clone(&reporter),
            stop.clone(),
        )
        .await;
        match receipt.reconciled {
            Some(true) => failed_at = None,
            Some(false) => failed_at = Some(Instant::now()),
            None => {}
        }
        if !arguments.watch {
            return receipt.outcome.exit_code();
        }
        let completed = matches!(
            receipt.outcome,
            Outcome::Complete | Outcome::CompleteWithDeadLetters
        );
        if std::mem::take(&mut options.remap) && completed {
            // The source is asked at once, not an interval later.
            continue;
        }
        // What worked once is not given up for an answer that may be gone in the next cycle.
        if receipt.outcome == Outcome::Misconfigured && !worked {
            return receipt.outcome.exit_code();
        }
        if matches!(
            receipt.outcome,
            Outcome::Complete | Outcome::CompleteWithDeadLetters
        ) {
            // Read once from there; the cycles after it go on from the cursors.
            plan.since = None;
            worked = true;
        }
        tokio::select! {
            () = tokio::time::sleep(plan.interval) => {}
            // Being stopped is how watching ends: not a failure.
            () = stop.cancelled() => return 0,
        }
    }
}

/// The first Ctrl-C or SIGTERM finishes the batch in flight; the second ends at once, which loses nothing either: cursors are behind.
pub(super) fn listen_for_signals(stop: CancellationToken, reporter: Arc<dyn Reporter>) {
    tokio::spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut terminate), Ok(mut interrupt)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        ) else {
            return;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        reporter.event(&Event::Log {
            level: Level::Warn,
            message: "stopping: finishing the batch in flight and saving the cursors (again to stop at once)".into(),
            fields: std::collections::BTreeMap::new(),
        });
        stop.cancel();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(i32::from(Outcome::Interrupted.exit_code()));
    });
}
