//! What can be said on the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};

use crate::config::Flags;
use crate::mappers::OnTrap;
use crate::patience::parse_duration;

const EXIT_CODES: &str = "Exit codes:
  0    complete
  1    the run failed; the cursors concerned are held, run again
  2    usage or configuration; nothing was written
  3    complete, but some records were refused for good (dead letters)
  130  interrupted; the batch in flight was finished and the cursors saved";

const VERIFY_EXIT_CODES: &str = "Exit codes:
  0    equal: everything that is listed is stored, or a dead letter; nothing else is stored
  1    different, or something could not be compared
  2    usage or configuration
  130  interrupted";

const ENVIRONMENT: &str = "Environment (a flag beats it, it beats the file):
  GITLAB_TOKEN, GITLAB_URL             the source
  GITLAB_PROJECT_IDS, GITLAB_GROUP_IDS ids or paths, separated by commas
  GITLAB_EVENTS                        merge_request, issue, note, commit, pipeline, release
  GITLAB_INCLUDE_CONFIDENTIAL          true or false
  CORTEXDB_URL, CORTEXDB_API_KEY, CORTEXDB_ACTOR, CORTEXDB_TENANT_ID, CORTEXDB_SCOPE_TEMPLATE
  RUNTIME_LISTEN, RUNTIME_PUBLIC_URL   where webhooks are taken, with --watch
  GITLAB_WEBHOOK_SECRET, GITLAB_WEBHOOK_SIGNING_TOKEN
                                       what they are proved with [default: random]
  HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY
                                       proxies (not for loopback, nor with source.allowed_networks)
Token, actor and scope are also read from ~/.cortexdb/state.json, as `cortexdb init` writes it.";

/// Runs connectors: WebAssembly components that read a source and write it to CortexDB.
#[derive(Debug, Parser)]
#[command(name = "runtime", version, about, long_about = None, arg_required_else_help = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Read the source and write what is new to CortexDB
    #[command(after_long_help = format!("{ENVIRONMENT}\n\n{EXIT_CODES}"))]
    Run(Box<RunArguments>),
    /// Look at credentials, permissions, projects and features, and say what is wrong; writes nothing
    #[command(after_long_help = ENVIRONMENT)]
    Check(Box<CheckArguments>),
    /// Compare what the source lists with what is stored, and name the differences; writes nothing
    #[command(after_long_help = format!("{ENVIRONMENT}\n\n{VERIFY_EXIT_CODES}"))]
    Verify(Box<VerifyArguments>),
    /// Show streams, cursors, dead letters and the last run
    Status(StatusArguments),
    /// Webhooks that `run --listen --public-url` registered: what they tell of, and how to be rid of them
    #[command(subcommand)]
    Hooks(HooksCommand),
    /// Records that were refused for good: list them, look at one, send them again, let go of them
    #[command(subcommand)]
    DeadLetters(LetterCommand),
    /// Show what a component is: world, imports, exports, size, digest, wanted permissions, and whether it is admitted
    Inspect(InspectArguments),
    /// Run connections of many tenants: JSON API, dashboard, webhooks, workers
    Serve(Box<super::serve::ServeArguments>),
    /// For the operator of `serve`: keys, tenants, rotation of the key of secrets, backup
    Admin(Box<super::admin::AdminArguments>),
    /// For authors of mappers: begin one, try it out, see whether it is admitted
    #[command(subcommand)]
    Mapper(MapperCommand),
    /// The child that compiles; see sandbox/compiler.rs
    #[command(name = crate::sandbox::compiler::SUBCOMMAND, hide = true)]
    CompileComponent {
        /// Address space in bytes
        memory_bytes: u64,
        /// Computing in seconds
        cpu_seconds: u64,
    },
}

#[derive(Debug, Args)]
pub(super) struct ConnectionArguments {
    /// Configuration file (TOML); flags and environment beat it
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Base address of the source
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// File that holds the source's token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificates of a private CA (PEM), beside the system's
    #[arg(long, value_name = "FILE.pem")]
    ca_file: Option<PathBuf>,
    /// Project to read, by id or path; repeat for several
    #[arg(long = "project", value_name = "ID|PATH")]
    projects: Vec<String>,
    /// Group to read with its subgroups, by id or path; repeat for several
    #[arg(long = "group", value_name = "ID|PATH")]
    groups: Vec<String>,
    /// Kinds of records to read, separated by commas
    #[arg(long, value_name = "LIST")]
    events: Option<String>,
    /// Also read confidential issues and internal notes, labelled `confidential`
    #[arg(long)]
    include_confidential: bool,
    /// Any other setting of the connector; repeat for several
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = parse_setting)]
    settings: Vec<(String, String)>,
    /// Base address of CortexDB
    #[arg(long, alias = "api-url", value_name = "URL")]
    cortexdb_url: Option<String>,
    /// File that holds the CortexDB key
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// CortexDB actor, such as user:ada
    #[arg(long, value_name = "ACTOR")]
    actor: Option<String>,
    /// Tenant that the key must belong to
    #[arg(long, alias = "cortex-tenant-id", value_name = "ID")]
    tenant_id: Option<String>,
    /// Where in CortexDB, such as org:acme/source:gitlab/project:{project_path}
    #[arg(long, value_name = "TEMPLATE")]
    scope_template: Option<String>,
    /// Cursors, with the ledger connectors.db beside them [default: ~/.cortexdb/connectors-state.json]
    #[arg(long, value_name = "FILE")]
    state_file: Option<PathBuf>,
    /// How long a server may fail before a request is given up [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    patience: Option<Duration>,
    /// What the component may use, such as memory=512MiB; repeat for several (docs/limits.md)
    #[arg(long = "limit", value_name = "NAME=VALUE", value_parser = parse_setting)]
    limits: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    /// The connector, a .wasm file
    pub(super) component: PathBuf,
    /// Go on: run again after every interval, until stopped
    #[arg(long)]
    pub(super) watch: bool,
    /// Time between two cycles of --watch [default: 60s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    interval: Option<Duration>,
    /// Then read everything once more, write what polls do not see, and forget what is gone from the source
    #[arg(long)]
    pub(super) reconcile: bool,
    /// With --watch: reconcile this often, 0 for never [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    reconcile_every: Option<Duration>,
    /// Read again from this time on (RFC 3339); without cursors, leave out what is older
    #[arg(long, value_name = "RFC3339")]
    since: Option<String>,
    /// Write nothing; say what would be written
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Copy every envelope into this file, one JSON object a line
    #[arg(long, value_name = "FILE.jsonl")]
    pub(super) out: Option<PathBuf>,
    /// Rewrite records with this mapper, a .wasm file; repeat for several, which map in this order
    #[arg(long = "mapper", value_name = "FILE.wasm")]
    mappers: Vec<PathBuf>,
    /// Settings of the mapper before it
    #[arg(long = "mapper-config", value_name = "FILE.json")]
    mapper_configs: Vec<PathBuf>,
    /// Where a mapper is stopped at a record: end the run, or make it a dead letter [default: fail]
    #[arg(long, value_name = "fail|skip")]
    mapper_trap: Option<OnTrap>,
    /// Map what was recorded again, with the mappers of now, and ask the source for nothing
    #[arg(long, conflicts_with_all = ["reconcile", "since"])]
    pub(super) remap: bool,
    /// With --watch: take calls of the source (webhooks) here, such as 127.0.0.1:8080
    #[arg(long, value_name = "ADDRESS")]
    pub(super) listen: Option<String>,
    /// With --listen: how the source reaches it; hooks are then registered there and looked after
    #[arg(long, value_name = "URL")]
    pub(super) public_url: Option<String>,
    #[command(flatten)]
    connection: ConnectionArguments,
    #[command(flatten)]
    pub(super) output: OutputArguments,
}

#[derive(Debug, Clone, Copy, Args)]
pub(super) struct OutputArguments {
    /// One JSON object per event on standard output
    #[arg(long)]
    pub(super) json: bool,
    /// Only problems
    #[arg(short, long, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// Streams, waits and the component's own debug lines, too
    #[arg(short, long)]
    pub(super) verbose: bool,
}

#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    /// The connector, a .wasm file
    pub(super) component: PathBuf,
    #[command(flatten)]
    connection: ConnectionArguments,
    /// One JSON object on standard output
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArguments {
    /// The connector, a .wasm file
    pub(super) component: PathBuf,
    #[command(flatten)]
    connection: ConnectionArguments,
    /// One JSON object on standard output, with every difference
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    /// Cursors, with the ledger connectors.db beside them [default: ~/.cortexdb/connectors-state.json]
    #[arg(long, value_name = "FILE")]
    pub(super) state_file: Option<PathBuf>,
    /// One JSON object on standard output
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum HooksCommand {
    /// Show what was hooked and what is polled when the source was last asked
    List(StatusArguments),
    /// Remove every hook of this connection from the source; run nothing else meanwhile
    Remove(Box<HooksRemoveArguments>),
}

#[derive(Debug, Args)]
pub(super) struct HooksRemoveArguments {
    /// The connector, a .wasm file
    pub(super) component: PathBuf,
    /// How the source reached the hooks, where the connector must know
    #[arg(long, value_name = "URL")]
    pub(super) public_url: Option<String>,
    #[command(flatten)]
    connection: ConnectionArguments,
    /// One JSON object on standard output
    #[arg(long)]
    pub(super) json: bool,
}

impl HooksRemoveArguments {
    pub(super) fn flags(&self) -> Flags {
        self.connection.flags()
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum LetterCommand {
    /// List them: record, stream, times, reason
    List(LetterArguments),
    /// Show one whole: reason and what was kept of it
    Show(ShowArguments),
    /// Send them again as they were, for example after the server was mended; run nothing else meanwhile
    Retry(Box<RetryArguments>),
    /// Let go of them: the records stay out of CortexDB until they change
    Drop(DropArguments),
}

#[derive(Debug, Args)]
pub(super) struct LetterArguments {
    /// Cursors, with the ledger connectors.db beside them [default: ~/.cortexdb/connectors-state.json]
    #[arg(long, value_name = "FILE")]
    pub(super) state_file: Option<PathBuf>,
    /// One JSON object on standard output
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ShowArguments {
    /// Which record, such as gl:issue:42/17
    pub(super) source_id: String,
    #[command(flatten)]
    pub(super) common: LetterArguments,
}

/// Which letters.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Chosen {
    /// Which record, such as gl:issue:42/17
    pub(super) source_id: Option<String>,
    /// All of them
    #[arg(long)]
    pub(super) all: bool,
}

#[derive(Debug, Args)]
pub(super) struct DropArguments {
    #[command(flatten)]
    pub(super) chosen: Chosen,
    #[command(flatten)]
    pub(super) common: LetterArguments,
}

#[derive(Debug, Args)]
pub(super) struct RetryArguments {
    #[command(flatten)]
    pub(super) chosen: Chosen,
    #[command(flatten)]
    pub(super) common: LetterArguments,
    /// Configuration file (TOML); flags and environment beat it
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Base address of CortexDB
    #[arg(long, alias = "api-url", value_name = "URL")]
    cortexdb_url: Option<String>,
    /// File that holds the CortexDB key
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// CortexDB actor, such as user:ada
    #[arg(long, value_name = "ACTOR")]
    actor: Option<String>,
    /// Tenant that the key must belong to
    #[arg(long, alias = "cortex-tenant-id", value_name = "ID")]
    tenant_id: Option<String>,
    /// How long CortexDB may fail before the retry is given up [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    patience: Option<Duration>,
}

impl RetryArguments {
    pub(super) fn flags(&self) -> Flags {
        Flags {
            config: self.config.clone(),
            cortexdb_url: self.cortexdb_url.clone(),
            api_key_file: self.api_key_file.clone(),
            actor: self.actor.clone(),
            tenant_id: self.tenant_id.clone(),
            state_file: self.common.state_file.clone(),
            patience: self.patience,
            ..Flags::default()
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum MapperCommand {
    /// Write a project that builds
    New(MapperNewArguments),
    /// Show what it makes of each experience: before, after, time, memory
    Test(Box<MapperTestArguments>),
    /// Show whether it is admitted, and what it says of itself
    Check(MapperCheckArguments),
}

/// In what a mapper is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Language {
    /// cargo, wasm32-unknown-unknown
    Rust,
    /// `QuickJS`, through componentize-qjs
    Javascript,
    /// `CPython`, through componentize-py
    Python,
}

#[derive(Debug, Args)]
pub(super) struct MapperNewArguments {
    /// In what it is written
    #[arg(long, value_enum)]
    pub(super) lang: Language,
    /// Its name, and that of its folder: [a-z][a-z0-9-]*
    pub(super) name: String,
}

#[derive(Debug, Args)]
pub(super) struct MapperTestArguments {
    /// The mapper, a .wasm file
    pub(super) mapper: PathBuf,
    /// Experiences, one JSON object a line [default: what was recorded, or else a few of our own]
    #[arg(long, value_name = "FILE.jsonl")]
    pub(super) input: Option<PathBuf>,
    /// Experiences that were recorded by earlier runs
    #[arg(long, conflicts_with = "input")]
    pub(super) recorded: bool,
    /// Of recorded experiences, no more than this
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(super) most: usize,
    /// Cursors, with the ledger connectors.db beside them [default: ~/.cortexdb/connectors-state.json]
    #[arg(long, value_name = "FILE")]
    pub(super) state_file: Option<PathBuf>,
    /// Settings of the mapper
    #[arg(long, value_name = "FILE.json")]
    pub(super) config: Option<PathBuf>,
    /// What it may use, such as memory=128MiB; repeat for several (docs/limits.md)
    #[arg(long = "limit", value_name = "NAME=VALUE", value_parser = parse_setting)]
    pub(super) limits: Vec<(String, String)>,
    /// One JSON object a line
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct MapperCheckArguments {
    /// The mapper, a .wasm file
    pub(super) mapper: PathBuf,
    /// Settings, to be held to its schema
    #[arg(long, value_name = "FILE.json")]
    pub(super) config: Option<PathBuf>,
    /// One JSON object on standard output
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct InspectArguments {
    /// A .wasm file
    pub(super) component: PathBuf,
    /// One JSON object on standard output
    #[arg(long)]
    pub(super) json: bool,
}

/// Which settings belong to which mapper is a question of place, which clap's lists do not tell.
fn pair_mappers(
    words: impl Iterator<Item = OsString>,
) -> Result<Vec<(PathBuf, Option<PathBuf>)>, String> {
    let mut pairs: Vec<(PathBuf, Option<PathBuf>)> = Vec::new();
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(PathBuf::from(value))),
            None => (text.as_ref(), None),
        };
        if !matches!(name, "--mapper" | "--mapper-config") {
            continue;
        }
        let Some(file) = value.or_else(|| words.next().map(PathBuf::from)) else {
            continue;
        };
        match (name, pairs.last_mut()) {
            ("--mapper", _) => pairs.push((file, None)),
            (_, Some((_, settings @ None))) => *settings = Some(file),
            _ => {
                return Err(format!(
                    "--mapper-config {} has no mapper before it that has no settings yet; write --mapper FILE.wasm --mapper-config FILE.json",
                    file.display()
                ));
            }
        }
    }
    Ok(pairs)
}

impl RunArguments {
    /// The mappers, each with the file of its settings.
    pub(super) fn mappers(&self) -> Result<Vec<(PathBuf, Option<PathBuf>)>, String> {
        if self.mappers.is_empty() && self.mapper_configs.is_empty() {
            return Ok(Vec::new());
        }
        pair_mappers(std::env::args_os().skip(1))
    }

    pub(super) fn flags(&self) -> Flags {
        Flags {
            on_trap: self.mapper_trap,
            interval: self.interval,
            reconcile_every: self.reconcile_every,
            since: self.since.clone(),
            ..self.connection.flags()
        }
    }
}

impl VerifyArguments {
    pub(super) fn flags(&self) -> Flags {
        self.connection.flags()
    }
}

impl CheckArguments {
    pub(super) fn flags(&self) -> Flags {
        self.connection.flags()
    }
}

impl ConnectionArguments {
    fn flags(&self) -> Flags {
        let mut settings: Vec<(String, Value)> = self
            .settings
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect();
        if !self.projects.is_empty() {
            settings.push(("projects".into(), json!(self.projects)));
        }
        if !self.groups.is_empty() {
            settings.push(("groups".into(), json!(self.groups)));
        }
        if let Some(events) = &self.events {
            settings.push(("events".into(), json!(events)));
        }
        if self.include_confidential {
            settings.push(("include_confidential".into(), json!(true)));
        }
        Flags {
            config: self.config.clone(),
            url: self.url.clone(),
            token_file: self.token_file.clone(),
            ca_file: self.ca_file.clone(),
            settings,
            cortexdb_url: self.cortexdb_url.clone(),
            api_key_file: self.api_key_file.clone(),
            actor: self.actor.clone(),
            tenant_id: self.tenant_id.clone(),
            scope_template: self.scope_template.clone(),
            state_file: self.state_file.clone(),
            patience: self.patience,
            interval: None,
            reconcile_every: None,
            since: None,
            limits: self.limits.clone(),
            mappers: Vec::new(),
            on_trap: None,
        }
    }
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("`{text}` should look like NAME=VALUE"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_interval_is_a_number_of_seconds_or_a_duration() {
        for (text, seconds) in [("60", 60), ("5m", 300)] {
            let arguments = Arguments::try_parse_from([
                "runtime",
                "run",
                "x.wasm",
                "--watch",
                "--interval",
                text,
            ])
            .unwrap();
            let Command::Run(run) = arguments.command else {
                panic!("not a run")
            };
            assert_eq!(run.flags().interval, Some(Duration::from_secs(seconds)));
        }
    }
}
