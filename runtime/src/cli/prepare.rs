//! What every command that uses a component does before it can begin: load it, and settle the configuration.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::args::OutputArguments;
use super::reporters::reporter;
use super::{USAGE, complain};
use crate::config::{Flags, Plan, Surroundings, limits, plan};
use crate::host::connector::{Connector, LoadError};
use crate::host::imports::Access;
use crate::host::mapper::Mapper;
use crate::mappers::Chain;
use crate::report::{Event, Level, Reporter};
use crate::sandbox::admission::Report;
use crate::sandbox::limits::Limits;

/// For commands whose answer is their output: no progress, no receipt.
pub(super) fn quiet_reporter() -> Arc<dyn Reporter> {
    reporter(OutputArguments {
        json: false,
        quiet: true,
        verbose: false,
    })
}

/// Loads a connector. While it only describes itself it may use nothing but the log.
pub(super) async fn load(
    component: &Path,
    limits: Limits,
    reporter: &Arc<dyn Reporter>,
    report: &mut Report,
) -> Result<Connector, LoadError> {
    let access = Access::nothing_but_the_log(limits, Arc::clone(reporter));
    Connector::load(component, access, report).await
}

/// The connector and its configuration; or the exit code, once the reason was said. `dry_run` needs no key of CortexDB.
pub(super) async fn prepare(
    component: &Path,
    flags: &Flags,
    dry_run: bool,
    reporter: &Arc<dyn Reporter>,
) -> Result<(Connector, Plan), u8> {
    let limits = limits(flags).map_err(|error| misused(&error))?;
    let connector = load(component, limits, reporter, &mut Report::default())
        .await
        .map_err(|error| misused(&error))?;
    let plan = plan(
        &connector.description,
        flags,
        &Surroundings::of_this_process(),
        dry_run,
    )
    .map_err(|error| misused(&error))?;
    if let Some((words, remedy)) = plan.source.unused_proxy() {
        reporter.event(&Event::Log {
            level: Level::Warn,
            message: format!("{words}; {remedy}"),
            fields: BTreeMap::new(),
        });
    }
    Ok((connector, plan))
}

/// Loads the mappers of a plan.
pub(super) async fn load_mappers(plan: &Plan, reporter: &Arc<dyn Reporter>) -> Result<Chain, u8> {
    let mut mappers = Vec::with_capacity(plan.mappers.len());
    for (file, settings) in &plan.mappers {
        let access = Access::nothing_but_the_log(plan.limits, Arc::clone(reporter));
        let mapper = Mapper::load(file, settings, access, &mut Report::default()).await;
        mappers.push(mapper.map_err(|error| misused(&error))?);
    }
    Ok(Chain::new(mappers, plan.on_trap))
}

fn misused(error: &dyn std::error::Error) -> u8 {
    complain(&error.to_string());
    USAGE
}
