//! The GitLab connector.
//!
//! Reads merge requests, issues, their comments, commits, pipelines and releases of GitLab projects over REST, and says what
//! each means to CortexDB. It runs as a WebAssembly component, `gitlab.wasm`, that can reach nothing but the interfaces in
//! `wit/`; compiled natively it is an ordinary library that is tested against a [`host::Host`] made of Rust.
//!
//! | module | concern |
//! |---|---|
//! | `settings` | what the user may choose |
//! | `selection` | from names to projects |
//! | `streams` | what is read of a project, where each stream continues, and what is gone |
//! | `walk` | reading lists that change while they are read |
//! | `client` | requests, and what an answer means |
//! | `gitlab` | GitLab's objects, read tolerantly |
//! | `json` | reads what GitLab answers |
//! | `mapping` | what a record means; pure |
//! | `time` | points in time |
//! | `check` | can it work? |
//! | [`hooks`] | webhooks: what GitLab's calls mean, and which it is asked to make |
//! | `executor` | `async` Rust on the host's completion queue |
//! | [`host`] | what is needed from the outside |
//! | `face` | the generated bindings; wasm only |
//! | `allocator` | memory; wasm only |

#[cfg(target_arch = "wasm32")]
mod allocator;
mod check;
mod client;
#[cfg(test)]
mod connecting;
#[cfg(test)]
mod delivering;
mod executor;
#[cfg(target_arch = "wasm32")]
mod face;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gitlab;
pub mod hooks;
pub mod host;
mod json;
#[cfg(test)]
mod many_projects;
mod mapping;
#[cfg(test)]
mod reconciling;
#[cfg(test)]
mod scenarios;
mod selection;
mod settings;
pub mod sorted;
mod streams;
#[cfg(test)]
mod testing;
mod text;
mod time;
mod walk;

use std::cell::{Cell, RefCell};

use futures_util::future::FutureExt;

use client::Client;
use executor::Queue;
use host::{Failure, Finding, Host, RunContext};
pub use settings::SCHEMA as SETTINGS_SCHEMA;
use settings::Settings;
use streams::Session;
use walk::Stamp;

/// Projects that are read at the same time. More would not be faster, because requests are what is scarce, but would keep
/// more pages in memory.
pub(crate) const CONCURRENT_PROJECTS: usize = 8;

/// The kinds of record that this connector writes.
pub const EVENT_TYPES: &[&str] = &settings::EVENT_TYPES;

/// Reads what is new since the cursors, writes it and moves the cursors.
///
/// # Errors
/// See [`Failure`]. When streams failed, everything else was read nevertheless.
pub fn sync(host: &dyn Host, context: &RunContext) -> Result<(), Failure> {
    let settings = Settings::parse(&context.settings).map_err(Failure::Configuration)?;
    let now = now(context)?;
    let since = context
        .since
        .as_deref()
        .map(|since| {
            time::Moment::parse(since).map(Stamp::from).ok_or_else(|| {
                Failure::Configuration(format!(
                    "`since` is {since}, which is not a time like 2026-11-22T10:00:00Z."
                ))
            })
        })
        .transpose()?;
    let queue = Queue::default();
    let client = Client::new(host, &queue);
    executor::block_on(&queue, || host.next(), async {
        let selection = selection::resolve(&client, &settings).await?;
        let session = Session {
            client: &client,
            settings: &settings,
            now: &now,
            mode: context.mode,
            since: since.as_ref(),
            compared: &context.compared,
            many: selection.projects.len() >= streams::quiet::MANY_PROJECTS,
            waiting: Cell::default(),
            failed: RefCell::new(selection.gone.clone()),
        };
        let shared = streams::shared::plan(&session, &selection);
        let lists = shared
            .iter()
            .map(|shared| shared.read(&session).boxed_local());
        let projects = streams::order::least_behind_first(&session, &selection.projects)
            .into_iter()
            .map(|project| streams::read_project(&session, project, &shared).boxed_local());
        // Requests are what is scarce, so projects are read to their end in turn: the next ones get what the first ones leave.
        let work = lists
            .chain(projects)
            .enumerate()
            .map(|(rank, work)| client.ranked(rank, work));
        executor::side_by_side(CONCURRENT_PROJECTS, work)
            .await
            .map_err(selection::failure)?;
        match session.failed.into_inner() {
            failed if failed.is_empty() => Ok(()),
            failed => Err(Failure::Unavailable(format!(
                "{} could not be read to the end; what is not read keeps its cursor, and a later run goes on there: {}",
                failed.len(),
                failed.join("; ")
            ))),
        }
    })
}

/// Is GitLab reachable, what can the token see, which features are off?
///
/// # Errors
/// Only when the question cannot be asked at all. A bad token is a finding.
pub fn check(host: &dyn Host, context: &RunContext) -> Result<Vec<Finding>, Failure> {
    let settings = Settings::parse(&context.settings).map_err(Failure::Configuration)?;
    let now = now(context)?;
    let queue = Queue::default();
    let client = Client::new(host, &queue);
    executor::block_on(
        &queue,
        || host.next(),
        check::run(&client, &settings, now.moment),
    )
}

fn now(context: &RunContext) -> Result<Stamp, Failure> {
    Stamp::parse(&context.now).ok_or_else(|| {
        Failure::Internal(format!(
            "the host's clock says {}, which is not a time",
            context.now
        ))
    })
}
