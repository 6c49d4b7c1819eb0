//! What the operator decides: where the data is, where to listen, which roles this process has, and what tenants may do.
//!
//! Nothing is required. A flag beats the environment, the environment beats the file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::traces::Collector;
use crate::config::{ConfigError, Surroundings};
use crate::egress::grants::Grant;
use crate::patience::parse_duration;
use crate::sandbox::limits::{Limits, SPECS};

const DEFAULT_LISTEN: &str = "127.0.0.1:8080";
const DEFAULT_LEASE: Duration = Duration::from_secs(10);
const LEASES: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(300);
/// A run that takes longer goes on in the next one, from its cursors.
const TENANT_RUN_TIME: &str = "6h";
const DEFAULT_WORKERS: u32 = 4;
/// Tenants that have lines of their own among the metrics.
const DEFAULT_METRIC_TENANTS: u32 = 20;

/// What a process does for the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The JSON API and the dashboard.
    Api,
    /// Runs connections.
    Worker,
    /// Takes webhook calls.
    Hooks,
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "api" => Ok(Self::Api),
            "worker" => Ok(Self::Worker),
            "hooks" => Ok(Self::Hooks),
            _ => Err(format!("`{text}` is no role; there are api, worker, hooks")),
        }
    }
}

/// What the command line says; everything optional.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "documented where the flags are declared")]
pub struct ServeFlags {
    pub config: Option<PathBuf>,
    pub data: Option<PathBuf>,
    pub database: Option<String>,
    pub listen: Option<String>,
    pub public_url: Option<String>,
    pub roles: Option<String>,
    pub workers: Option<u32>,
}

/// Settings of `runtime serve`, complete and checked.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Folder of everything that is kept here.
    pub data: PathBuf,
    /// `postgres://…`; `None`: SQLite in the folder.
    pub database: Option<String>,
    /// Where to listen.
    pub listen: SocketAddr,
    /// As sources reach this platform, without a slash at the end; `None`: nothing registers hooks.
    pub public_url: Option<String>,
    /// What this process does.
    pub roles: Vec<Role>,
    /// Runs at the same time in this process.
    pub workers: u32,
    /// How long a worker that died keeps its connections: they are claimed by others this long after its last sign of life.
    pub lease: Duration,
    /// KEKs from the environment.
    pub kek: Option<crate::redact::Secret>,
    /// What tenants may do, as it was at the start; see [`super::Ground::rules`].
    pub rules: TenantRules,
    /// Where traces go, if anywhere.
    pub collector: Option<Collector>,
    /// Tenants with lines of their own among the metrics; the rest is `other`.
    pub metric_tenants: u32,
}

/// What no tenant may exceed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantRules {
    /// Networks that are not public and that connections may name for their source.
    pub source_networks: Vec<Grant>,
    /// Networks that are not public and may hold a CortexDB.
    pub cortexdb_networks: Vec<Grant>,
    /// The most that a connection may set; also what it has when it sets nothing.
    pub limits: Limits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ServeFile {
    data: Option<PathBuf>,
    database: Option<String>,
    listen: Option<String>,
    public_url: Option<String>,
    roles: Option<Vec<String>>,
    workers: Option<u32>,
    lease: Option<String>,
    metric_tenants: Option<u32>,
    tenants: TenantSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TenantSection {
    source_networks: Vec<String>,
    cortexdb_networks: Vec<String>,
    limits: BTreeMap<String, Value>,
}

fn invalid(words: impl Into<String>) -> ConfigError {
    ConfigError::Invalid(words.into())
}

impl ServeConfig {
    /// Puts the settings together.
    pub fn new(flags: &ServeFlags, surroundings: &Surroundings) -> Result<Self, ConfigError> {
        let file: ServeFile = crate::config::read_toml(flags.config.as_deref())?;
        let variable = |name: &str| surroundings.first(&[name]);
        let data = flags
            .data
            .clone()
            .or_else(|| variable("RUNTIME_DATA").map(PathBuf::from))
            .or(file.data)
            .map_or_else(|| default_data(surroundings), Ok)?;
        let database = flags
            .database
            .clone()
            .or_else(|| variable("RUNTIME_DATABASE"))
            .or(file.database);
        if let Some(database) = &database
            && !database.starts_with("postgres://")
            && !database.starts_with("postgresql://")
        {
            return Err(invalid(
                "--database is not a PostgreSQL address; write postgres://user@host/name, or leave it out for SQLite in the data folder",
            ));
        }
        let listen = flags
            .listen
            .clone()
            .or_else(|| variable("RUNTIME_LISTEN"))
            .or(file.listen)
            .unwrap_or_else(|| DEFAULT_LISTEN.to_owned());
        let listen = listen.parse().map_err(|_| {
            invalid(format!(
                "--listen `{listen}` is not an address; write for example {DEFAULT_LISTEN} or 0.0.0.0:8080"
            ))
        })?;
        let public_url = flags
            .public_url
            .clone()
            .or_else(|| variable("RUNTIME_PUBLIC_URL"))
            .or(file.public_url)
            .map(|text| crate::config::base_url(&text, "--public-url"))
            .transpose()?
            .map(|url| url.as_str().trim_end_matches('/').to_owned());
        let roles: Vec<String> = match flags.roles.clone().or_else(|| variable("RUNTIME_ROLE")) {
            Some(text) => text.split(',').map(|one| one.trim().to_owned()).collect(),
            None => file.roles.unwrap_or_default(),
        };
        let roles = if roles.is_empty() {
            vec![Role::Api, Role::Worker, Role::Hooks]
        } else {
            let roles: Result<Vec<Role>, String> = roles.iter().map(|one| one.parse()).collect();
            roles.map_err(|words| invalid(format!("--role: {words}")))?
        };
        let workers = flags.workers.or(file.workers).unwrap_or(DEFAULT_WORKERS);
        if workers == 0 && roles.contains(&Role::Worker) {
            return Err(invalid(
                "--workers is 0, so nothing would run; leave `worker` out of --role instead",
            ));
        }
        let lease = match variable("RUNTIME_LEASE").or(file.lease) {
            None => DEFAULT_LEASE,
            Some(text) => parse_duration(&text)
                .ok()
                .filter(|lease| LEASES.contains(lease))
                .ok_or_else(|| {
                    invalid(format!(
                        "RUNTIME_LEASE `{text}` is not a time between 1s and 5m"
                    ))
                })?,
        };
        Ok(Self {
            data,
            database,
            listen,
            public_url,
            roles,
            workers,
            lease,
            kek: variable("RUNTIME_KEK").map(crate::redact::Secret::new),
            rules: file.tenants.rules()?,
            collector: Collector::of(surroundings)?,
            metric_tenants: file.metric_tenants.unwrap_or(DEFAULT_METRIC_TENANTS),
        })
    }

    /// Settings that differ from these and that a running process cannot take over.
    #[must_use]
    pub fn need_a_restart(&self, new: &Self) -> Vec<&'static str> {
        let differ = [
            ("data", self.data != new.data),
            ("database", self.database != new.database),
            ("listen", self.listen != new.listen),
            ("public_url", self.public_url != new.public_url),
            ("roles", self.roles != new.roles),
            ("workers", self.workers != new.workers),
            ("lease", self.lease != new.lease),
            ("metric_tenants", self.metric_tenants != new.metric_tenants),
        ];
        let changed = differ.into_iter().filter(|(_, differs)| *differs);
        changed.map(|(name, _)| name).collect()
    }

    /// Whether this process has the role.
    #[must_use]
    pub fn is(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// The database of the folder.
    #[must_use]
    pub fn sqlite_file(&self) -> PathBuf {
        self.data.join("platform.db")
    }
}

impl TenantSection {
    fn rules(&self) -> Result<TenantRules, ConfigError> {
        let networks = |name: &str, list: &[String]| -> Result<Vec<Grant>, ConfigError> {
            list.iter()
                .map(|text| Grant::parse(text))
                .collect::<Result<_, _>>()
                .map_err(|reason| invalid(format!("tenants.{name}: {reason}")))
        };
        Ok(TenantRules {
            source_networks: networks("source_networks", &self.source_networks)?,
            cortexdb_networks: networks("cortexdb_networks", &self.cortexdb_networks)?,
            limits: set_limits(tenant_limits(), "tenants.limits", &self.limits)?,
        })
    }
}

/// What holds for tenants where the operator says nothing: as for a user of `run`, except that no run goes on for ever.
fn tenant_limits() -> Limits {
    let mut limits = Limits::default();
    // Both are written as in the manual, which a test holds to the code.
    let _ = limits.set("run_time", TENANT_RUN_TIME);
    limits
}

/// Limits with these set, as people write them.
pub(super) fn set_limits(
    mut limits: Limits,
    section: &str,
    wanted: &BTreeMap<String, Value>,
) -> Result<Limits, ConfigError> {
    for (name, value) in wanted {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => {
                return Err(invalid(format!(
                    "{section}.{name} is neither a number nor a text such as \"256MiB\", \"30s\" or \"unlimited\""
                )));
            }
        };
        limits
            .set(name, &text)
            .map_err(|reason| invalid(format!("{section}: {reason}")))?;
    }
    Ok(limits)
}

/// The first limit of `wanted` that is more than `allowed` has, in words.
pub(super) fn exceeded(wanted: &Limits, allowed: &Limits) -> Option<String> {
    SPECS.iter().find_map(|spec| {
        let most = allowed.get(spec.limit)?;
        let asked = wanted.get(spec.limit);
        (asked.is_none_or(|asked| asked > most)).then(|| {
            format!(
                "limits.{}: {} asked for, at most {} allowed on this platform",
                spec.name,
                asked.map_or_else(|| "unlimited".to_owned(), |asked| spec.unit.show(asked)),
                spec.unit.show(most)
            )
        })
    })
}

fn default_data(surroundings: &Surroundings) -> Result<PathBuf, ConfigError> {
    let share = surroundings
        .first(&["XDG_DATA_HOME"])
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(surroundings.home.as_ref()?.join(".local/share")));
    share
        .map(|share| share.join("connector-runtime"))
        .ok_or_else(|| invalid("there is no home directory for the data; pass --data"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn home(variables: &[(&str, &str)]) -> Surroundings {
        Surroundings {
            variables: variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            home: Some("/home/ada".into()),
        }
    }

    #[test]
    fn nothing_needs_to_be_configured() {
        let config = ServeConfig::new(&ServeFlags::default(), &home(&[])).unwrap();
        assert_eq!(
            config.data,
            Path::new("/home/ada/.local/share/connector-runtime")
        );
        assert_eq!(config.listen.to_string(), DEFAULT_LISTEN);
        assert!(config.is(Role::Api) && config.is(Role::Worker) && config.is(Role::Hooks));
        assert!(config.database.is_none() && config.public_url.is_none());
    }

    #[test]
    fn a_flag_beats_the_environment_and_the_environment_beats_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serve.toml");
        std::fs::write(&path, "data = \"/file\"\nlisten = \"127.0.0.1:1\"\nworkers = 9\n[tenants]\nsource_networks = [\"10.0.0.0/8\"]\nlimits.memory = \"64MiB\"\n").unwrap();
        let flags = ServeFlags {
            config: Some(path),
            data: Some("/flag".into()),
            ..ServeFlags::default()
        };
        let around = home(&[("RUNTIME_DATA", "/env"), ("RUNTIME_LISTEN", "127.0.0.1:2")]);
        let config = ServeConfig::new(&flags, &around).unwrap();
        assert_eq!(config.data, Path::new("/flag"));
        assert_eq!(config.listen.port(), 2);
        assert_eq!(config.workers, 9);
        assert_eq!(config.rules.source_networks.len(), 1);
    }

    #[test]
    fn a_mistake_is_named() {
        for (name, value, words) in [
            ("RUNTIME_DATABASE", "mysql://x", "PostgreSQL"),
            ("RUNTIME_LISTEN", "here", "not an address"),
            ("RUNTIME_ROLE", "api,wroker", "wroker"),
            ("RUNTIME_PUBLIC_URL", "x", "--public-url"),
        ] {
            let error = ServeConfig::new(&ServeFlags::default(), &home(&[(name, value)]))
                .unwrap_err()
                .to_string();
            assert!(error.contains(words), "{name}: {error}");
        }
    }

    #[test]
    fn more_than_the_platform_allows_is_refused_with_the_numbers() {
        let mut wanted = Limits::default();
        wanted.set("memory", "512MiB").unwrap();
        let words = exceeded(&wanted, &Limits::default()).unwrap();
        assert!(
            words.contains("512 MiB") && words.contains("256 MiB"),
            "{words}"
        );
        assert_eq!(exceeded(&Limits::default(), &Limits::default()), None);
    }
}
