//! Where settings come from: flag, else environment, else file, else what `cortexdb init` stored.
//!
//! The names in the environment are the vendor's, so that whoever runs its connector today changes the command and nothing else. A
//! connector brings its own settings as a JSON Schema; a property with `x-env` is read from that variable, but only if the variable's
//! name starts with the connector's: a component must not be able to ask for `AWS_SECRET_ACCESS_KEY`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::cortexdb::client::DEFAULT_URL;
use crate::egress::Policy;
use crate::egress::grants::Grant;
use crate::hooks::proof::check_signing_token;
use crate::host::connector::Description;
use crate::mappers::OnTrap;
use crate::patience::parse_duration;
use crate::recorded::DEFAULT_BYTES;
use crate::redact::Secret;
use crate::sandbox::limits::{Limit, Limits, Unit};
use crate::scope::{ScopeError, ScopeTemplate};
use crate::source::client::Timeouts;

/// Default patience of a run that ends; one that watches tries again in its next cycle anyway.
pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(600);
/// Default time between two cycles of `--watch`.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);

/// A source that has not answered a request within a day does not answer it.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Whoever guesses it can ask for runs; and shorter ones are not searched for in what is shown.
const SHORTEST_HOOK_SECRET: usize = 16;

/// Default time between two passes of `--watch` that compare everything and forget what is gone.
pub const DEFAULT_RECONCILE_EVERY: Duration = Duration::from_secs(24 * 3600);

/// What is wrong with the configuration, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value is missing or cannot work.
    #[error("{0}")]
    Invalid(String),
    /// The scope template.
    #[error(transparent)]
    Scope(#[from] ScopeError),
}

fn invalid(words: impl Into<String>) -> ConfigError {
    ConfigError::Invalid(words.into())
}

/// The process's surroundings, taken once, so that everything below can be tested.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Environment variables.
    pub variables: HashMap<String, String>,
    /// The home directory.
    pub home: Option<PathBuf>,
}

/// In either case, as most programs read them.
const PROXY_VARIABLES: [&str; 3] = ["https_proxy", "http_proxy", "all_proxy"];

impl Surroundings {
    /// Those of this process.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self {
            variables: std::env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .collect(),
            home: std::env::home_dir(),
        }
    }

    /// The first of these variables that is set and not empty.
    pub(crate) fn first(&self, names: &[&str]) -> Option<String> {
        names
            .iter()
            .filter_map(|name| self.variables.get(*name))
            .map(|value| value.trim().to_owned())
            .find(|value| !value.is_empty())
    }

    /// Names of the variables that name a proxy.
    fn proxies(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .variables
            .iter()
            .filter(|(name, value)| {
                let name = name.to_ascii_lowercase();
                PROXY_VARIABLES.contains(&name.as_str()) && !value.trim().is_empty()
            })
            .map(|(name, _)| name.clone())
            .collect();
        names.sort();
        names
    }

    /// `~/.cortexdb`.
    fn cortexdb_folder(&self) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(".cortexdb"))
    }
}

/// What the command line says about a connection; everything optional.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "documented where the flags are declared")]
pub struct Flags {
    pub config: Option<PathBuf>,
    pub url: Option<String>,
    pub token_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub settings: Vec<(String, Value)>,
    pub cortexdb_url: Option<String>,
    pub api_key_file: Option<PathBuf>,
    pub actor: Option<String>,
    pub tenant_id: Option<String>,
    pub scope_template: Option<String>,
    pub state_file: Option<PathBuf>,
    pub patience: Option<Duration>,
    pub interval: Option<Duration>,
    pub reconcile_every: Option<Duration>,
    pub since: Option<String>,
    pub limits: Vec<(String, String)>,
    /// Mappers, each with the file of its settings.
    pub mappers: Vec<(PathBuf, Option<PathBuf>)>,
    pub on_trap: Option<OnTrap>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    #[serde(default)]
    source: SourceSection,
    #[serde(default)]
    settings: Map<String, Value>,
    #[serde(default)]
    cortexdb: CortexSection,
    #[serde(default)]
    run: RunSection,
    /// By the names of [`crate::sandbox::limits::SPECS`].
    #[serde(default)]
    limits: Map<String, Value>,
    #[serde(default)]
    mappers: MapperSection,
    #[serde(default)]
    recorded: RecordedSection,
    #[serde(default)]
    hooks: HooksSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct HooksSection {
    listen: Option<String>,
    public_url: Option<String>,
    secret: Option<String>,
    secret_file: Option<PathBuf>,
    signing_token: Option<String>,
    signing_token_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MapperSection {
    on_trap: Option<OnTrap>,
    /// In the order in which they map.
    #[serde(default)]
    chain: Vec<MapperEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MapperEntry {
    file: PathBuf,
    #[serde(default)]
    settings: Map<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedSection {
    keep: Option<bool>,
    most: Option<String>,
}

impl RecordedSection {
    fn plan(&self) -> Result<RecordedPlan, ConfigError> {
        let most_bytes = match &self.most {
            None => DEFAULT_BYTES,
            Some(text) => Unit::Bytes
                .parse(text)
                .map_err(|reason| invalid(format!("recorded.most: {reason}")))?,
        };
        Ok(RecordedPlan {
            keep: self.keep,
            most_bytes,
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceSection {
    url: Option<String>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    /// Absent: the user's own word. Present, even empty: public addresses and these.
    allowed_networks: Option<Vec<String>>,
    #[serde(default)]
    timeouts: TimeoutSection,
}

impl SourceSection {
    fn egress(&self, url: &url::Url) -> Result<Policy, ConfigError> {
        let Some(networks) = &self.allowed_networks else {
            return Ok(Policy::users_word(url));
        };
        let grants: Result<Vec<Grant>, String> =
            networks.iter().map(|text| Grant::parse(text)).collect();
        let grants =
            grants.map_err(|reason| invalid(format!("source.allowed_networks: {reason}")))?;
        Ok(Policy::public_and(grants))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TimeoutSection {
    connect: Option<String>,
    first_byte: Option<String>,
    idle: Option<String>,
    whole: Option<String>,
}

impl TimeoutSection {
    /// Zero would fail every request, a limit of years is none, and a request that may take longer to begin than in all is a mistake in
    /// the file.
    fn timeouts(&self) -> Result<Timeouts, ConfigError> {
        let read = |name: &str, text: Option<&str>, default: Duration| {
            let name = format!("source.timeouts.{name}");
            let limit = duration_setting(&name, None, text, default)?;
            if limit.is_zero() {
                return Err(invalid(format!(
                    "{name} is 0, and no request can be answered in no time; write for example {default:?}"
                )));
            }
            if limit > LONGEST_TIMEOUT {
                return Err(invalid(format!(
                    "{name} is {limit:?}, which is longer than a day, and what has not been answered by then will not be; write at most 24h, for example {default:?}"
                )));
            }
            Ok(limit)
        };
        let default = Timeouts::default();
        let timeouts = Timeouts {
            connect: read("connect", self.connect.as_deref(), default.connect)?,
            first_byte: read("first_byte", self.first_byte.as_deref(), default.first_byte)?,
            idle: read("idle", self.idle.as_deref(), default.idle)?,
            whole: read("whole", self.whole.as_deref(), default.whole)?,
        };
        let parts = [
            ("connect", timeouts.connect),
            ("first_byte", timeouts.first_byte),
            ("idle", timeouts.idle),
        ];
        if let Some((name, part)) = parts.into_iter().find(|(_, part)| *part > timeouts.whole) {
            return Err(invalid(format!(
                "source.timeouts.{name} ({part:?}) is longer than source.timeouts.whole ({:?}), which bounds the whole request",
                timeouts.whole
            )));
        }
        Ok(timeouts)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CortexSection {
    url: Option<String>,
    api_key: Option<String>,
    api_key_file: Option<PathBuf>,
    actor: Option<String>,
    tenant_id: Option<String>,
    scope_template: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunSection {
    state_file: Option<PathBuf>,
    patience: Option<String>,
    interval: Option<String>,
    reconcile_every: Option<String>,
    since: Option<String>,
}

/// What `cortexdb init` stores; other keys are its own.
#[derive(Debug, Default, Deserialize)]
struct StoredIdentity {
    token: Option<String>,
    user_id: Option<String>,
    scope: Option<String>,
    tenant_id: Option<String>,
}

/// The source of a connection.
#[derive(Debug, Clone)]
pub struct SourcePlan {
    /// Base URL.
    pub url: url::Url,
    /// The token, unless the connector reads a public source.
    pub token: Option<Secret>,
    /// A private CA.
    pub ca_file: Option<PathBuf>,
    /// What may be dialled.
    pub egress: Arc<Policy>,
    /// Time limits of one request.
    pub timeouts: Timeouts,
    /// Variables that name a proxy which `egress` forbids to use.
    pub unused_proxies: Vec<String>,
}

impl SourcePlan {
    /// The base URL in the one spelling that names the source in keys and in the state file.
    #[must_use]
    pub fn canonical_url(&self) -> String {
        self.url.as_str().trim_end_matches('/').to_owned()
    }

    /// That a proxy is set up and not used, and what to do if it was meant.
    #[must_use]
    pub fn unused_proxy(&self) -> Option<(String, &'static str)> {
        if self.unused_proxies.is_empty() {
            return None;
        }
        let words = format!(
            "{} is set and not used for {}: with `source.allowed_networks` it is dialled from here, because a proxy would look its name up where nothing checks the address",
            self.unused_proxies.join(", "),
            self.canonical_url()
        );
        Some((
            words,
            "if it can only be reached through the proxy, remove `source.allowed_networks`",
        ))
    }
}

/// CortexDB's side of a connection.
#[derive(Debug, Clone)]
pub struct CortexPlan {
    /// Base URL without a slash at the end.
    pub url: String,
    /// API key or token; only a dry run can do without.
    pub key: Option<Secret>,
    /// Actor, if configured.
    pub actor: Option<String>,
    /// Tenant that the token must belong to, if configured.
    pub tenant_id: Option<String>,
    /// A private CA; the same as the source's.
    pub ca_file: Option<PathBuf>,
    /// What may be dialled: whoever runs this names CortexDB, whatever was decided about the source; a tenant of the platform does not.
    pub egress: Arc<Policy>,
}

/// One connection, complete and checked.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where to read.
    pub source: SourcePlan,
    /// Where to write.
    pub cortex: CortexPlan,
    /// Where in CortexDB.
    pub template: ScopeTemplate,
    /// The scope that `cortexdb init` stored, for `{scope}`.
    pub stored_scope: Option<String>,
    /// The connector's settings.
    pub settings: Value,
    /// The cursors.
    pub state_file: PathBuf,
    /// Tolerance of one cycle.
    pub patience: Duration,
    /// Time between two cycles.
    pub interval: Duration,
    /// Time between two passes of `--watch` that compare everything; zero for never.
    pub reconcile_every: Duration,
    /// Read again from here.
    pub since: Option<String>,
    /// What the component may use.
    pub limits: Limits,
    /// Mappers with their settings, in the order in which they map.
    pub mappers: Vec<(PathBuf, Value)>,
    /// What becomes of the run where one of them is stopped.
    pub on_trap: OnTrap,
    /// What is kept of records before they are mapped.
    pub recorded: RecordedPlan,
}

/// Whether records are kept as they were before they were mapped.
#[derive(Debug, Clone, Copy)]
pub struct RecordedPlan {
    /// Absent: where there is a mapper.
    pub keep: Option<bool>,
    /// The room for them, compressed.
    pub most_bytes: u64,
}

impl RecordedPlan {
    /// The room for them; `None`: none is kept.
    #[must_use]
    pub fn most(&self, is_mapped: bool) -> Option<u64> {
        self.keep.unwrap_or(is_mapped).then_some(self.most_bytes)
    }
}

/// The state file when none is named. Fails without a home directory.
pub fn default_state_file(surroundings: &Surroundings) -> Result<PathBuf, ConfigError> {
    surroundings
        .cortexdb_folder()
        .map(|folder| folder.join("connectors-state.json"))
        .ok_or_else(|| invalid("there is no home directory for the state file; pass --state-file"))
}

/// The ledger belongs beside the cursors.
#[must_use]
pub fn ledger_file(state_file: &Path) -> PathBuf {
    state_file.with_file_name("connectors.db")
}

/// Puts a connection together from all sources, for this connector. `dry_run` needs no key.
pub fn plan(
    description: &Description,
    flags: &Flags,
    surroundings: &Surroundings,
    dry_run: bool,
) -> Result<Plan, ConfigError> {
    let file: ConfigFile = read_toml(flags.config.as_deref())?;
    let stored = read_stored_identity(surroundings)?;
    settle(description, flags, surroundings, file, stored, dry_run)
}

/// The same for a connection of the platform, from what its owner stored in the form of the configuration file, secrets put in. Nothing
/// of this machine gets into it: neither environment nor home directory. `cortex_egress` says where its CortexDB may be.
pub(crate) fn plan_of_owner(
    description: &Description,
    stored: Value,
    cortex_egress: Policy,
) -> Result<Plan, ConfigError> {
    let file: ConfigFile =
        serde_json::from_value(stored).map_err(|error| invalid(error.to_string()))?;
    let nothing = Surroundings::default();
    let flags = Flags {
        // Cursors are in the database; no file has this name.
        state_file: Some(PathBuf::new()),
        ..Flags::default()
    };
    let identity = StoredIdentity::default();
    let mut plan = settle(description, &flags, &nothing, file, identity, false)?;
    plan.cortex.egress = Arc::new(cortex_egress);
    Ok(plan)
}

fn settle(
    description: &Description,
    flags: &Flags,
    surroundings: &Surroundings,
    file: ConfigFile,
    stored: StoredIdentity,
    dry_run: bool,
) -> Result<Plan, ConfigError> {
    let (state_file, patience) = state_and_patience(flags, surroundings, &file)?;
    let interval = duration_setting(
        "run.interval",
        flags.interval,
        file.run.interval.as_deref(),
        DEFAULT_INTERVAL,
    )?;
    let reconcile_every = duration_setting(
        "run.reconcile_every",
        flags.reconcile_every,
        file.run.reconcile_every.as_deref(),
        DEFAULT_RECONCILE_EVERY,
    )?;
    let since = flags.since.clone().or(file.run.since.clone());
    if let Some(since) = &since
        && chrono::DateTime::parse_from_rfc3339(since).is_err()
    {
        return Err(invalid(format!(
            "--since `{since}` is not an RFC 3339 time; write for example 2026-01-31T00:00:00Z"
        )));
    }
    let source = source_plan(description, flags, surroundings, &file)?;
    let cortex = CortexPlan {
        ca_file: source.ca_file.clone(),
        ..cortex_plan(flags, surroundings, &file, &stored, dry_run)?
    };
    let template = scope_template(
        description,
        flags,
        surroundings,
        &file,
        stored.scope.as_deref(),
    )?;
    let settings = connector_settings(description, flags, surroundings, file.settings)?;
    Ok(Plan {
        source,
        cortex,
        template,
        stored_scope: stored.scope,
        settings,
        state_file,
        patience,
        interval,
        reconcile_every,
        since,
        limits: read_limits(flags, &file.limits)?,
        on_trap: flags.on_trap.or(file.mappers.on_trap).unwrap_or_default(),
        recorded: file.recorded.plan()?,
        mappers: mappers(flags, file.mappers.chain)?,
    })
}

/// Where a watching run takes calls of its source.
#[derive(Debug, Clone)]
pub struct HooksPlan {
    /// The address to listen on.
    pub listen: String,
    /// How the source reaches that address; absent: its hooks are the user's own affair.
    pub public_url: Option<url::Url>,
    /// The shared secret that the user chose.
    pub secret: Option<Secret>,
    /// The signing token that the user chose.
    pub signing_token: Option<Secret>,
}

/// What the flags, the environment and the file say about webhooks. `None`: nobody listens.
pub fn hooks_plan(
    description: &Description,
    flags: &Flags,
    listen: Option<&str>,
    public_url: Option<&str>,
    surroundings: &Surroundings,
) -> Result<Option<HooksPlan>, ConfigError> {
    let file = read_toml::<ConfigFile>(flags.config.as_deref())?.hooks;
    let text = |flag: Option<&str>, variable: &str, file: Option<String>| {
        flag.map(str::to_owned)
            .or_else(|| surroundings.first(&[variable]))
            .or(file)
    };
    let Some(listen) = text(listen, "RUNTIME_LISTEN", file.listen) else {
        if public_url.is_some() {
            return Err(invalid(
                "--public-url says how the source reaches this program, which listens nowhere; add --listen, such as --listen 127.0.0.1:8080",
            ));
        }
        return Ok(None);
    };
    let public_url = text(public_url, "RUNTIME_PUBLIC_URL", file.public_url)
        .map(|text| base_url(&text, "--public-url"))
        .transpose()?;
    let prefix = environment_prefix(&description.name);
    let secret = |variable: String, path: Option<PathBuf>, inline: Option<String>| {
        let secret = match (surroundings.first(&[&variable]), path) {
            (Some(secret), _) => Some(secret),
            (None, Some(path)) => Some(read_secret_file(&path)?),
            (None, None) => inline,
        };
        if let Some(secret) = &secret
            && (secret.len() < SHORTEST_HOOK_SECRET
                || !secret.bytes().all(|byte| (0x21..=0x7e).contains(&byte)))
        {
            return Err(invalid(format!(
                "{variable} must have at least {SHORTEST_HOOK_SECRET} printable characters and no white space"
            )));
        }
        Ok(secret.map(Secret::new))
    };
    let signing_token = secret(
        format!("{prefix}WEBHOOK_SIGNING_TOKEN"),
        file.signing_token_file,
        file.signing_token,
    )?;
    if let Some(token) = &signing_token {
        check_signing_token(token.reveal())
            .map_err(|reason| invalid(format!("{prefix}WEBHOOK_SIGNING_TOKEN: {reason}")))?;
    }
    Ok(Some(HooksPlan {
        listen,
        public_url,
        secret: secret(
            format!("{prefix}WEBHOOK_SECRET"),
            file.secret_file,
            file.secret,
        )?,
        signing_token,
    }))
}

/// The flags' mappers, or else the file's.
fn mappers(flags: &Flags, file: Vec<MapperEntry>) -> Result<Vec<(PathBuf, Value)>, ConfigError> {
    if flags.mappers.is_empty() {
        let entries = file.into_iter();
        return Ok(entries
            .map(|entry| (entry.file, Value::Object(entry.settings)))
            .collect());
    }
    let read = |(file, settings): &(PathBuf, Option<PathBuf>)| {
        Ok((file.clone(), mapper_settings(settings.as_deref())?))
    };
    flags.mappers.iter().map(read).collect()
}

/// The settings of a mapper; none are an empty object.
pub fn mapper_settings(path: Option<&Path>) -> Result<Value, ConfigError> {
    let Some(path) = path else {
        return Ok(json!({}));
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| invalid(format!("cannot read {}: {error}", path.display())))?;
    serde_json::from_str(&text)
        .map_err(|error| invalid(format!("{} is not JSON: {error}", path.display())))
}

/// What a component may use, which must be known before it is asked who it is.
pub fn limits(flags: &Flags) -> Result<Limits, ConfigError> {
    read_limits(
        flags,
        &read_toml::<ConfigFile>(flags.config.as_deref())?.limits,
    )
}

fn read_limits(flags: &Flags, file: &Map<String, Value>) -> Result<Limits, ConfigError> {
    let mut limits = Limits::default();
    for (name, value) in file {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            other => {
                return Err(invalid(format!(
                    "limits.{name} is {other}; write a number, a size such as \"256MiB\", a time such as \"30s\", or \"unlimited\""
                )));
            }
        };
        limits
            .set(name, &text)
            .map_err(|reason| invalid(format!("[limits]: {reason}")))?;
    }
    for (name, text) in &flags.limits {
        limits
            .set(name, text)
            .map_err(|reason| invalid(format!("--limit: {reason}")))?;
    }
    if let (Some(once), Some(all)) = (limits.get(Limit::CpuBetweenWaits), limits.get(Limit::Cpu))
        && once > all
        && limits.get(Limit::CpuBetweenWaits) != Limits::default().get(Limit::CpuBetweenWaits)
    {
        return Err(invalid(
            "[limits]: `cpu_between_waits` is longer than `cpu`, which bounds the whole run",
        ));
    }
    Ok(limits)
}

fn state_and_patience(
    flags: &Flags,
    surroundings: &Surroundings,
    file: &ConfigFile,
) -> Result<(PathBuf, Duration), ConfigError> {
    let state_file = match flags.state_file.clone().or(file.run.state_file.clone()) {
        Some(path) => path,
        None => default_state_file(surroundings)?,
    };
    let patience = duration_setting(
        "run.patience",
        flags.patience,
        file.run.patience.as_deref(),
        DEFAULT_PATIENCE,
    )?;
    Ok((state_file, patience))
}

/// CortexDB's side alone, for commands that need no connector: it, the state file, and the patience.
pub fn cortex_settings(
    flags: &Flags,
    surroundings: &Surroundings,
) -> Result<(CortexPlan, PathBuf, Duration), ConfigError> {
    let file: ConfigFile = read_toml(flags.config.as_deref())?;
    let stored = read_stored_identity(surroundings)?;
    let (state_file, patience) = state_and_patience(flags, surroundings, &file)?;
    // The connector's variable for this is not known here.
    let ca_file = flags.ca_file.clone().or(file.source.ca_file.clone());
    let cortex = CortexPlan {
        ca_file,
        ..cortex_plan(flags, surroundings, &file, &stored, false)?
    };
    Ok((cortex, state_file, patience))
}

fn duration_setting(
    name: &str,
    flag: Option<Duration>,
    file: Option<&str>,
    default: Duration,
) -> Result<Duration, ConfigError> {
    match (flag, file) {
        (Some(flag), _) => Ok(flag),
        (None, Some(text)) => {
            parse_duration(text).map_err(|reason| invalid(format!("{name}: {reason}")))
        }
        (None, None) => Ok(default),
    }
}

/// A file of settings; without one everything is as it is where nothing is said.
pub(crate) fn read_toml<T: DeserializeOwned + Default>(
    path: Option<&Path>,
) -> Result<T, ConfigError> {
    let Some(path) = path else {
        return Ok(T::default());
    };
    let text = std::fs::read_to_string(path).map_err(|error| {
        invalid(format!(
            "cannot read the configuration {}: {error}",
            path.display()
        ))
    })?;
    toml::from_str(&text).map_err(|error: toml::de::Error| {
        // Not the line itself, which the error would print: it may hold a token or a password. Its key does not.
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(0, |before| before.matches('\n').count());
        let key = text.lines().nth(line).and_then(|line| line.split_once('='));
        let key = key.map(|(key, _)| key.trim()).filter(|key| {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
            key.chars().all(is_plain)
        });
        let key = key.map_or_else(String::new, |key| format!("`{key}`: "));
        let words = error.message();
        invalid(format!(
            "{}, line {}: {key}{words}",
            path.display(),
            line + 1
        ))
    })
}

fn read_stored_identity(surroundings: &Surroundings) -> Result<StoredIdentity, ConfigError> {
    let Some(path) = surroundings
        .cortexdb_folder()
        .map(|folder| folder.join("state.json"))
    else {
        return Ok(StoredIdentity::default());
    };
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(StoredIdentity::default()),
        Err(error) => Err(invalid(format!("cannot read {}: {error}", path.display()))),
        Ok(text) => serde_json::from_str(&text).map_err(|error| {
            invalid(format!(
                "{} is not what `cortexdb init` writes ({error}); run `cortexdb init` again",
                path.display()
            ))
        }),
    }
}

fn read_secret_file(path: &Path) -> Result<String, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        invalid(format!(
            "cannot read the secret file {}: {error}",
            path.display()
        ))
    })?;
    let secret = text.trim();
    if secret.is_empty() {
        return Err(invalid(format!(
            "the secret file {} is empty",
            path.display()
        )));
    }
    Ok(secret.to_owned())
}

fn source_plan(
    description: &Description,
    flags: &Flags,
    surroundings: &Surroundings,
    file: &ConfigFile,
) -> Result<SourcePlan, ConfigError> {
    let prefix = environment_prefix(&description.name);
    let url_variable = format!("{prefix}URL");
    let text = flags
        .url
        .clone()
        .or_else(|| surroundings.first(&[&url_variable]))
        .or_else(|| file.source.url.clone())
        .or_else(|| description.default_url.clone())
        .ok_or_else(|| {
            invalid(format!(
                "no address of the source: pass --url or set {url_variable}"
            ))
        })?;
    let url = base_url(&text, &url_variable)?;
    let token_variable = format!("{prefix}TOKEN");
    let token = match &flags.token_file {
        Some(path) => Some(read_secret_file(path)?),
        None => match surroundings.first(&[&token_variable]) {
            Some(token) => Some(token),
            None => match &file.source.token_file {
                Some(path) => Some(read_secret_file(path)?),
                None => file.source.token.clone(),
            },
        },
    };
    let needs_token = !description
        .authentication
        .contains(&crate::source::client::Authentication::Anonymous);
    if needs_token && token.is_none() {
        let wanted = description
            .permissions
            .iter()
            .map(|(name, reason)| format!("`{name}` ({reason})"))
            .collect::<Vec<_>>()
            .join(", ");
        return Err(invalid(format!(
            "no token for {}: set {token_variable}, or pass --token-file. It needs {wanted}",
            url.host_str().unwrap_or_default()
        )));
    }
    if token
        .as_ref()
        .is_some_and(|token| !token.bytes().all(|byte| (0x21..=0x7e).contains(&byte)))
    {
        return Err(invalid(format!(
            "{token_variable} holds characters that no token has (white space, quotes of another alphabet); copy it again"
        )));
    }
    let ca_variable = format!("{prefix}CA_FILE");
    let egress = file.source.egress(&url)?;
    Ok(SourcePlan {
        unused_proxies: if egress.allows_proxies() {
            Vec::new()
        } else {
            surroundings.proxies()
        },
        egress: Arc::new(egress),
        url,
        token: token.map(Secret::new),
        ca_file: flags
            .ca_file
            .clone()
            .or_else(|| surroundings.first(&[&ca_variable]).map(PathBuf::from))
            .or_else(|| file.source.ca_file.clone()),
        timeouts: file.source.timeouts.timeouts()?,
    })
}

/// Parses a base URL; the error says what a base URL looks like. Never repeats what may hold a password.
pub(crate) fn base_url(text: &str, name: &str) -> Result<url::Url, ConfigError> {
    let url = url::Url::parse(text.trim()).map_err(|error| {
        invalid(format!(
            "{name} is not a URL ({error}); write for example https://gitlab.com"
        ))
    })?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(invalid(format!(
            "{name} must begin with https:// or http:// and name a host"
        )));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid(format!(
            "{name} holds a user or a password; put the token in its own variable"
        )));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(invalid(format!(
            "{name} has a `?` or `#` part; it is the base address alone"
        )));
    }
    Ok(url)
}

fn cortex_plan(
    flags: &Flags,
    surroundings: &Surroundings,
    file: &ConfigFile,
    stored: &StoredIdentity,
    dry_run: bool,
) -> Result<CortexPlan, ConfigError> {
    let url = flags
        .cortexdb_url
        .clone()
        .or_else(|| surroundings.first(&["CORTEXDB_URL", "CORTEX_URL"]))
        .or_else(|| file.cortexdb.url.clone())
        .unwrap_or_else(|| DEFAULT_URL.to_owned());
    let base = base_url(&url, "CORTEXDB_URL")?;
    let egress = Arc::new(Policy::users_word(&base));
    let url = base.as_str().trim_end_matches('/').to_owned();
    let key = match &flags.api_key_file {
        Some(path) => Some(read_secret_file(path)?),
        None => match surroundings.first(&["CORTEXDB_API_KEY", "CORTEX_API_KEY"]) {
            Some(key) => Some(key),
            None => match &file.cortexdb.api_key_file {
                Some(path) => Some(read_secret_file(path)?),
                None => file
                    .cortexdb
                    .api_key
                    .clone()
                    .or_else(|| stored.token.clone()),
            },
        },
    };
    if key.is_none() && !dry_run {
        return Err(invalid(
            "no CortexDB key: run `cortexdb init`, or set CORTEXDB_API_KEY",
        ));
    }
    let actor = flags
        .actor
        .clone()
        .or_else(|| surroundings.first(&["CORTEXDB_ACTOR"]))
        .or_else(|| file.cortexdb.actor.clone())
        .or_else(|| stored.user_id.clone());
    if let Some(actor) = &actor
        && http::HeaderValue::from_str(actor).is_err()
    {
        return Err(invalid(
            "CORTEXDB_ACTOR is not an actor; write for example user:ada",
        ));
    }
    Ok(CortexPlan {
        url,
        key: key.map(Secret::new),
        actor,
        tenant_id: flags
            .tenant_id
            .clone()
            .or_else(|| surroundings.first(&["CORTEXDB_TENANT_ID"]))
            .or_else(|| file.cortexdb.tenant_id.clone())
            .or_else(|| stored.tenant_id.clone()),
        ca_file: None,
        egress,
    })
}

fn scope_template(
    description: &Description,
    flags: &Flags,
    surroundings: &Surroundings,
    file: &ConfigFile,
    stored_scope: Option<&str>,
) -> Result<ScopeTemplate, ConfigError> {
    let text = flags
        .scope_template
        .clone()
        .or_else(|| surroundings.first(&["CORTEXDB_SCOPE_TEMPLATE", "CORTEXDB_SCOPE"]))
        .or_else(|| file.cortexdb.scope_template.clone())
        .unwrap_or_else(|| description.default_scope_template.clone());
    let text = if text.contains("<org>") {
        let organisation = stored_scope
            .and_then(|scope| scope.split('/').next())
            .and_then(|segment| segment.strip_prefix("org:"))
            .ok_or_else(|| {
                let example = text.replace("<org>", "acme");
                invalid(format!(
                    "the scope template `{text}` needs an organisation, and ~/.cortexdb/state.json holds no scope that begins with `org:`. Run `cortexdb init`, or set CORTEXDB_SCOPE_TEMPLATE, for example `{example}`"
                ))
            })?;
        text.replace("<org>", organisation)
    } else {
        text
    };
    let template = ScopeTemplate::parse(&text, &description.scope_variables)?;
    if text.contains("{scope}") && stored_scope.is_none() {
        return Err(invalid(
            "the scope template uses `{scope}`, and ~/.cortexdb/state.json holds none; run `cortexdb init` or write the scope out",
        ));
    }
    Ok(template)
}

fn environment_prefix(connector: &str) -> String {
    format!("{}_", connector.to_ascii_uppercase().replace('-', "_"))
}

fn connector_settings(
    description: &Description,
    flags: &Flags,
    surroundings: &Surroundings,
    mut settings: Map<String, Value>,
) -> Result<Value, ConfigError> {
    let prefix = environment_prefix(&description.name);
    let no_properties = Map::new();
    let properties = description
        .settings_schema
        .get("properties")
        .and_then(Value::as_object)
        .unwrap_or(&no_properties);
    for (name, property) in properties {
        let Some(variable) = property.get("x-env").and_then(Value::as_str) else {
            continue;
        };
        if !is_readable_variable(variable, &prefix) {
            return Err(invalid(format!(
                "the connector asks for the environment variable `{}` as setting `{name}`; only names that begin with `{prefix}` and hold no secret are given to a component",
                variable.escape_debug()
            )));
        }
        if let Some(text) = surroundings.first(&[variable]) {
            settings.insert(name.clone(), parse_setting(variable, &text, property)?);
        }
    }
    for (name, value) in &flags.settings {
        let Some(property) = properties.get(name) else {
            let known = properties
                .keys()
                .map(|name| format!("`{name}`"))
                .collect::<Vec<_>>()
                .join(", ");
            return Err(invalid(format!(
                "the connector {} has no setting `{name}`; it has {known}",
                description.name
            )));
        };
        let value = match value {
            Value::String(text) => parse_setting(name, text, property)?,
            other => other.clone(),
        };
        settings.insert(name.clone(), value);
    }
    Ok(Value::Object(settings))
}

fn is_readable_variable(variable: &str, prefix: &str) -> bool {
    let secret = ["TOKEN", "SECRET", "PASSWORD", "KEY", "CREDENTIAL"];
    variable.starts_with(prefix) && !secret.iter().any(|word| variable.contains(word))
}

fn parse_setting(name: &str, text: &str, property: &Value) -> Result<Value, ConfigError> {
    match property.get("type").and_then(Value::as_str) {
        Some("array") => Ok(text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| json!(item))
            .collect()),
        Some("boolean") => match text.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Ok(json!(true)),
            "0" | "false" | "no" | "off" => Ok(json!(false)),
            _ => Err(invalid(format!("{name} is `{text}`; write true or false"))),
        },
        Some("integer") => text
            .parse::<i64>()
            .map(|number| json!(number))
            .map_err(|_| invalid(format!("{name} is `{text}`; write a whole number"))),
        _ => Ok(json!(text)),
    }
}

/// Values that the host itself has for scope templates.
#[must_use]
pub fn host_variables(
    connector: &str,
    actor: Option<&str>,
    scope: Option<&str>,
) -> BTreeMap<String, String> {
    [
        ("source", Some(connector)),
        ("actor", actor),
        ("scope", scope),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::client::Authentication;

    fn gitlab() -> Description {
        Description {
            name: "gitlab".into(),
            version: "0.1.0".into(),
            summary: String::new(),
            event_types: vec![],
            settings_schema: json!({"properties": {
                "projects": {"type": "array", "x-env": "GITLAB_PROJECT_IDS"},
                "include_confidential": {"type": "boolean", "x-env": "GITLAB_INCLUDE_CONFIDENTIAL"},
            }}),
            default_url: Some("https://gitlab.com".into()),
            authentication: vec![Authentication::Bearer],
            permissions: vec![("read_api".into(), "reading".into())],
            scope_variables: vec!["project_path".into()],
            default_scope_template: "org:<org>/source:gitlab/project:{project_path}".into(),
        }
    }

    struct Home(tempfile::TempDir);

    impl Home {
        fn with_state(state: &Value) -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join(".cortexdb")).unwrap();
            std::fs::write(
                folder.path().join(".cortexdb/state.json"),
                state.to_string(),
            )
            .unwrap();
            Self(folder)
        }

        fn surroundings(&self, variables: &[(&str, &str)]) -> Surroundings {
            Surroundings {
                variables: variables
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
                home: Some(self.0.path().to_owned()),
            }
        }
    }

    fn initialised() -> Home {
        Home::with_state(
            &json!({"token": "v4.public.abc", "user_id": "user:u_1", "scope": "org:u_1/user:u_1", "tier": "free"}),
        )
    }

    #[test]
    fn listening_takes_the_flag_then_the_environment_and_secrets_that_can_be_secrets() {
        let home = initialised();
        let hooks = |variables: &[(&str, &str)], listen: Option<&str>, url: Option<&str>| {
            let surroundings = home.surroundings(variables);
            hooks_plan(&gitlab(), &Flags::default(), listen, url, &surroundings)
        };
        assert!(hooks(&[], None, None).unwrap().is_none());
        let variables = [
            ("RUNTIME_LISTEN", "127.0.0.1:1"),
            ("RUNTIME_PUBLIC_URL", "https://hooks.example.com/gl"),
            ("GITLAB_WEBHOOK_SECRET", "0123456789abcdef"),
        ];
        let plan = hooks(&variables, Some("127.0.0.1:2"), None)
            .unwrap()
            .unwrap();
        assert_eq!(plan.listen, "127.0.0.1:2");
        assert_eq!(
            plan.public_url.unwrap().as_str(),
            "https://hooks.example.com/gl"
        );
        assert_eq!(plan.secret.unwrap().reveal(), "0123456789abcdef");
        for (variables, listen, url, words) in [
            (&[][..], None, Some("https://x"), "--listen"),
            (&[], Some("127.0.0.1:2"), Some("x"), "not a URL"),
            (
                &[("GITLAB_WEBHOOK_SECRET", "short")],
                Some("127.0.0.1:2"),
                None,
                "at least 16",
            ),
            (
                &[("GITLAB_WEBHOOK_SIGNING_TOKEN", "0123456789abcdef")],
                Some("127.0.0.1:2"),
                None,
                "whsec_",
            ),
        ] {
            let error = hooks(variables, listen, url).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert!(!error.contains("short"), "{error}");
        }
    }

    #[test]
    fn what_cortexdb_init_stored_is_enough_beside_the_gitlab_token() {
        let home = initialised();
        let plan = plan(
            &gitlab(),
            &Flags::default(),
            &home.surroundings(&[("GITLAB_TOKEN", "glpat-x")]),
            false,
        )
        .unwrap();
        assert_eq!(
            plan.template.as_str(),
            "org:u_1/source:gitlab/project:{project_path}"
        );
        assert_eq!(plan.cortex.actor.as_deref(), Some("user:u_1"));
        assert_eq!(plan.cortex.url, DEFAULT_URL);
        assert_eq!(plan.source.canonical_url(), "https://gitlab.com");
        assert!(plan.state_file.ends_with(".cortexdb/connectors-state.json"));
    }

    #[test]
    fn a_flag_beats_the_environment_and_the_environment_beats_the_file() {
        let home = initialised();
        let config = home.0.path().join("c.toml");
        std::fs::write(&config, "[source]\nurl = \"https://file.example\"\n[cortexdb]\nurl = \"https://file.example\"\nactor = \"user:file\"\n").unwrap();
        let surroundings = home.surroundings(&[
            ("GITLAB_TOKEN", "t"),
            ("GITLAB_URL", "https://env.example"),
            ("CORTEX_URL", "https://cortex.example"),
        ]);
        let flags = Flags {
            config: Some(config),
            url: Some("https://flag.example/gitlab/".into()),
            ..Flags::default()
        };
        let plan = plan(&gitlab(), &flags, &surroundings, false).unwrap();
        assert_eq!(plan.source.canonical_url(), "https://flag.example/gitlab");
        assert_eq!(plan.cortex.url, "https://cortex.example");
        assert_eq!(plan.cortex.actor.as_deref(), Some("user:file"));
    }

    #[test]
    fn a_missing_organisation_says_what_to_set() {
        let home = Home::with_state(&json!({"token": "t"}));
        let error = plan(
            &gitlab(),
            &Flags::default(),
            &home.surroundings(&[("GITLAB_TOKEN", "t")]),
            false,
        )
        .unwrap_err();
        assert!(
            error.to_string().contains("CORTEXDB_SCOPE_TEMPLATE"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_token_names_its_variable_and_the_permission() {
        let home = initialised();
        let error = plan(&gitlab(), &Flags::default(), &home.surroundings(&[]), false)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("GITLAB_TOKEN") && error.contains("read_api"),
            "{error}"
        );
    }

    #[test]
    fn lists_in_the_environment_are_split_at_commas() {
        let home = initialised();
        let surroundings = home.surroundings(&[
            ("GITLAB_TOKEN", "t"),
            ("GITLAB_PROJECT_IDS", " 42, acme/widget ,"),
            ("GITLAB_INCLUDE_CONFIDENTIAL", "true"),
        ]);
        let plan = plan(&gitlab(), &Flags::default(), &surroundings, false).unwrap();
        assert_eq!(
            plan.settings,
            json!({"projects": ["42", "acme/widget"], "include_confidential": true})
        );
    }

    #[test]
    fn a_component_cannot_ask_for_other_peoples_variables() {
        let home = initialised();
        for variable in ["AWS_REGION", "GITLAB_TOKEN", "GITLABX"] {
            let mut greedy = gitlab();
            greedy.settings_schema =
                json!({"properties": {"x": {"type": "string", "x-env": variable}}});
            let error = plan(
                &greedy,
                &Flags::default(),
                &home.surroundings(&[("GITLAB_TOKEN", "t")]),
                false,
            )
            .unwrap_err();
            assert!(error.to_string().contains(variable), "{error}");
        }
    }

    #[test]
    fn addresses_with_passwords_or_other_schemes_are_refused_without_repeating_them() {
        let home = initialised();
        for address in [
            "https://ada:hunter22@gitlab.com",
            "ftp://gitlab.com",
            "gitlab.com",
            "https://gitlab.com?x=1",
        ] {
            let error = plan(
                &gitlab(),
                &Flags::default(),
                &home.surroundings(&[("GITLAB_TOKEN", "t"), ("GITLAB_URL", address)]),
                false,
            )
            .unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("GITLAB_URL") && !text.contains("hunter22"),
                "{text}"
            );
        }
    }

    #[test]
    fn an_unknown_key_in_the_file_is_named() {
        let home = initialised();
        let config = home.0.path().join("c.toml");
        std::fs::write(&config, "[source]\nurll = \"x\"\n").unwrap();
        let flags = Flags {
            config: Some(config),
            ..Flags::default()
        };
        let error = plan(&gitlab(), &flags, &home.surroundings(&[]), false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("urll"), "{error}");
    }

    #[test]
    fn time_limits_of_the_source_are_read_and_nonsense_is_named() {
        let home = initialised();
        let config = home.0.path().join("c.toml");
        let surroundings = home.surroundings(&[("GITLAB_TOKEN", "t")]);
        let flags = Flags {
            config: Some(config.clone()),
            ..Flags::default()
        };
        let read = |text: &str| {
            std::fs::write(&config, format!("[source]\ntimeouts = {{ {text} }}\n")).unwrap();
            plan(&gitlab(), &flags, &surroundings, false).map(|plan| plan.source.timeouts)
        };
        assert_eq!(read("").unwrap(), Timeouts::default());
        let some = read(r#"connect = "500ms", idle = "2m""#).unwrap();
        assert_eq!(some.connect, Duration::from_millis(500));
        assert_eq!(some.idle, Duration::from_secs(120));
        assert_eq!(some.first_byte, Timeouts::default().first_byte);
        let longest = read(r#"whole = "24h""#).unwrap().whole;
        assert_eq!(longest, Duration::from_secs(86_400));
        for (text, word) in [
            (r#"idle = "soon""#, "source.timeouts.idle"),
            (r#"first_byte = "0""#, "source.timeouts.first_byte is 0"),
            (r#"whole = "20s""#, "longer than source.timeouts.whole"),
            (
                r#"whole = "18446744073709551615s""#,
                "source.timeouts.whole is 18446744073709551615s, which is longer than a day",
            ),
            (r#"idle = "86401""#, "write at most 24h, for example 30s"),
            (r#"connect = "307445734561825860m""#, "longer than a day"),
            (r#"total = "20s""#, "total"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn the_networks_of_the_source_are_read_and_what_is_none_is_named_with_what_to_write() {
        let home = initialised();
        let config = home.0.path().join("c.toml");
        let surroundings = home.surroundings(&[("GITLAB_TOKEN", "t")]);
        let flags = Flags {
            config: Some(config.clone()),
            ..Flags::default()
        };
        let read = |text: &str| {
            std::fs::write(&config, format!("[source]\n{text}\n")).unwrap();
            plan(&gitlab(), &flags, &surroundings, false).map(|plan| plan.source.egress)
        };
        let strict = |networks: &[&str]| {
            let grants = networks.iter().map(|text| Grant::parse(text).unwrap());
            Policy::public_and(grants.collect())
        };
        assert!(!read("").unwrap().is_strict());
        assert_eq!(*read("allowed_networks = []").unwrap(), strict(&[]));
        assert_eq!(
            *read(r#"allowed_networks = ["10.0.0.0/8", "fd12::/16", " 10.1.2.3 "]"#).unwrap(),
            strict(&["10.0.0.0/8", "fd12::/16", "10.1.2.3/32"])
        );
        for (network, words) in [
            ("10.0.0.0/33", "is not a network; write for example"),
            ("gitlab.example.com", "names are not networks"),
            ("public", "is not a network"),
            ("", "is not a network"),
            (
                "10.1.2.3/8",
                "write 10.0.0.0/8 for the network or 10.1.2.3 for the address",
            ),
            ("::ffff:10.0.0.0/104", "write it as IPv4"),
        ] {
            let error = read(&format!("allowed_networks = [\"{network}\"]")).unwrap_err();
            let error = error.to_string();
            assert!(
                error.starts_with("source.allowed_networks: ") && error.contains(words),
                "{network}: {error}"
            );
        }
        let error = read(r#"allowed_networks = "10.0.0.0/8""#).unwrap_err();
        assert!(error.to_string().contains("allowed_networks"), "{error}");
        // Which key, in which line; not what stands there.
        for (text, words) in [
            ("token = \"s3cret", "line 2: `token`: "),
            ("tokn = \"s3cret\"", "line 2: `tokn`: "),
            ("\"s3cret\" = 1", "line 2: "),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
            assert!(
                text.starts_with('"') || !error.contains("s3cret"),
                "{error}"
            );
        }
    }

    #[test]
    fn limits_are_read_from_the_file_and_a_flag_beats_it() {
        let home = initialised();
        let config = home.0.path().join("c.toml");
        let read = |text: &str, flag: Option<(&str, &str)>| {
            std::fs::write(&config, format!("[limits]\n{text}\n")).unwrap();
            limits(&Flags {
                config: Some(config.clone()),
                limits: flag
                    .map(|(name, text)| (name.to_owned(), text.to_owned()))
                    .into_iter()
                    .collect(),
                ..Flags::default()
            })
        };
        let text = "memory = \"512MiB\"\nrequests = 1000\ncpu = \"2h\"\nlog_lines = \"unlimited\"";
        let some = read(text, Some(("requests", "5"))).unwrap();
        assert_eq!(some.get(Limit::Memory), Some(512 << 20));
        assert_eq!(some.get(Limit::Requests), Some(5));
        assert_eq!(some.time(Limit::Cpu), Some(Duration::from_secs(7200)));
        assert_eq!(some.get(Limit::LogLines), None);
        for (text, flag, word) in [
            ("memry = 1", None, "[limits]: there is no limit `memry`"),
            ("memory = true", None, "limits.memory is true"),
            ("memory = \"lots\"", None, "256MiB"),
            ("requests = -1", None, "whole number"),
            ("", Some(("memory", "9GiB")), "--limit: `memory` is 9 GiB"),
            (
                "cpu = \"5s\"\ncpu_between_waits = \"10s\"",
                None,
                "longer than `cpu`",
            ),
        ] {
            let error = read(text, flag).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn a_dry_run_needs_no_cortexdb_key() {
        let home = Home::with_state(&json!({"scope": "org:acme/user:ada"}));
        let surroundings = home.surroundings(&[("GITLAB_TOKEN", "t")]);
        assert!(plan(&gitlab(), &Flags::default(), &surroundings, true).is_ok());
        assert!(plan(&gitlab(), &Flags::default(), &surroundings, false).is_err());
    }
}
