//! `runtime mapper`: what the author of a mapper needs: a project that builds, a trial that shows what changes, and the admission report.

mod check;
mod scaffold;
mod trial;

use std::path::Path;

use serde_json::Value;

use super::args::MapperCommand;
use super::prepare::quiet_reporter;
use super::{USAGE, complain};
use crate::config::mapper_settings;
use crate::host::connector::LoadError;
use crate::host::imports::Access;
use crate::host::mapper::Mapper;
use crate::sandbox::admission::Report;
use crate::sandbox::limits::Limits;

pub(super) async fn mapper(command: MapperCommand) -> u8 {
    match command {
        MapperCommand::New(arguments) => scaffold::new(&arguments),
        MapperCommand::Test(arguments) => trial::test(*arguments).await,
        MapperCommand::Check(arguments) => check::check(arguments).await,
    }
}

/// The settings of a file, or the exit code once the reason was said.
fn settings_of(config: Option<&Path>) -> Result<Value, u8> {
    mapper_settings(config).map_err(|error| {
        complain(&error.to_string());
        USAGE
    })
}

async fn load(
    file: &Path,
    settings: &Value,
    limits: Limits,
    report: &mut Report,
) -> Result<Mapper, LoadError> {
    let access = Access::nothing_but_the_log(limits, quiet_reporter());
    Mapper::load(file, settings, access, report).await
}
