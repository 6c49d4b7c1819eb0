//! A loaded connector: compiled once, one fresh instance for each call.

use std::collections::BTreeMap;
use std::path::Path;

use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Engine, Store, Trap, UpdateDeadline, WasmBacktrace};

use super::bindings::exports::cortexdb::connector::source as wit;
use super::bindings::{Connector as World, ConnectorPre};
use super::imports::{Access, HostState};
use crate::report::StreamState;
use crate::sandbox::cache::CodeCache;
use crate::sandbox::engine::{Ticker, first_party};
use crate::sandbox::inspect::{InspectError, Inspection, World as Kind, inspect};
use crate::source::client::Authentication;

/// Why a file cannot be used as a connector.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the component {path}: {reason}")]
    Unreadable {
        /// Its path.
        path: String,
        /// Why.
        reason: std::io::Error,
    },
    /// It is not a component of ours.
    #[error(transparent)]
    Refused(#[from] InspectError),
    /// It is a mapper.
    #[error("this component is a mapper; `runtime run` wants a connector")]
    NotAConnector,
    /// It does not validate or link.
    #[error("the component cannot be loaded: {0}")]
    Invalid(String),
    /// It does not say what it is.
    #[error("the component's `describe` failed: {0}")]
    Describe(String),
}

/// Why a call into a connector ended without a result.
#[derive(Debug, Clone)]
pub enum CallFailure {
    /// What the user asked for cannot work.
    Configuration(String),
    /// The source refuses the credentials.
    Standing(String),
    /// The source could not be read to the end.
    Unavailable(String),
    /// The host asked to stop.
    Interrupted,
    /// The connector says that something is broken.
    Internal(String),
    /// The connector trapped or reached a limit.
    Trapped(String),
}

impl std::fmt::Display for CallFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Configuration(words) | Self::Standing(words) | Self::Unavailable(words) => {
                f.write_str(words)
            }
            Self::Interrupted => f.write_str("interrupted"),
            Self::Internal(words) => write!(f, "the connector reports a defect: {words}"),
            Self::Trapped(words) => write!(f, "the connector was stopped: {words}"),
        }
    }
}

impl From<wit::Failure> for CallFailure {
    fn from(failure: wit::Failure) -> Self {
        match failure {
            wit::Failure::Configuration(words) => Self::Configuration(words),
            wit::Failure::Standing(words) => Self::Standing(words),
            wit::Failure::Unavailable(words) => Self::Unavailable(words),
            wit::Failure::Interrupted => Self::Interrupted,
            wit::Failure::Internal(words) => Self::Internal(words),
        }
    }
}

/// What a connector says of itself, checked.
#[derive(Debug, Clone)]
pub struct Description {
    /// `gitlab`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One sentence.
    pub summary: String,
    /// What it writes.
    pub event_types: Vec<String>,
    /// JSON Schema of its settings.
    pub settings_schema: serde_json::Value,
    /// Where its source is when nothing is configured.
    pub default_url: Option<String>,
    /// How it authenticates, in order.
    pub authentication: Vec<Authentication>,
    /// Wanted permissions and what for.
    pub permissions: Vec<(String, String)>,
    /// Placeholders for scope templates.
    pub scope_variables: Vec<String>,
    /// Scope template with `<org>`.
    pub default_scope_template: String,
}

/// How serious a finding of `check` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Severity {
    Ok,
    Notice,
    Problem,
}

/// One thing that `check` looked at.
#[derive(Debug, Clone, serde::Serialize)]
#[allow(missing_docs, reason = "as in the WIT")]
pub struct Finding {
    pub severity: Severity,
    pub subject: String,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Write what is new.
    #[default]
    Poll,
    /// Then compare everything, and forget what is gone.
    Reconcile,
    /// Only list.
    Verify,
}

impl Mode {
    fn options(self) -> Vec<(String, String)> {
        let name = match self {
            Self::Poll => return Vec::new(),
            Self::Reconcile => "reconcile",
            Self::Verify => "verify",
        };
        vec![(name.to_owned(), "true".to_owned())]
    }
}

/// The arguments of a run.
#[derive(Debug, Clone)]
pub struct RunContext {
    /// First run of this connection, as far as the cursors tell.
    pub backfill: bool,
    /// Settings as JSON.
    pub settings: String,
    /// RFC 3339.
    pub since: Option<String>,
    /// What it is for.
    pub mode: Mode,
}

impl RunContext {
    fn to_wit(&self) -> wit::RunContext {
        wit::RunContext {
            kind: if self.backfill {
                wit::RunKind::Backfill
            } else {
                wit::RunKind::Poll
            },
            settings: self.settings.clone(),
            now: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            since: self.since.clone(),
            options: self.mode.options(),
        }
    }
}

/// A connector, compiled and described.
pub struct Connector {
    engine: Engine,
    pre: ConnectorPre<HostState>,
    _ticker: Ticker,
    /// What the file is.
    pub inspection: Inspection,
    /// What it says of itself.
    pub description: Description,
}

/// How a sync ended, and the last state of each stream.
pub struct SyncEnd {
    /// Its result.
    pub result: Result<(), CallFailure>,
    /// By stream.
    pub streams: BTreeMap<String, StreamState>,
}

impl Connector {
    /// Reads, checks, compiles and describes a component.
    pub async fn load(path: &Path, access: Access) -> Result<Self, LoadError> {
        let bytes = std::fs::read(path).map_err(|reason| LoadError::Unreadable {
            path: path.display().to_string(),
            reason,
        })?;
        let inspection = inspect(&bytes)?;
        if inspection.admit()? != Kind::Connector {
            return Err(LoadError::NotAConnector);
        }
        let invalid = |error: wasmtime::Error| LoadError::Invalid(format!("{error:#}"));
        let engine = first_party().map_err(invalid)?;
        let component = compile(&engine, &bytes, &inspection.digest).map_err(invalid)?;
        let mut linker = Linker::new(&engine);
        World::add_to_linker::<_, HasSelf<HostState>>(&mut linker, |state| state)
            .map_err(invalid)?;
        let pre = linker
            .instantiate_pre(&component)
            .and_then(ConnectorPre::new)
            .map_err(invalid)?;
        let ticker =
            Ticker::start(&engine).map_err(|error| LoadError::Invalid(error.to_string()))?;
        let description = describe(&engine, &pre, access).await?;
        Ok(Self {
            engine,
            pre,
            _ticker: ticker,
            inspection,
            description,
        })
    }

    /// Asks the connector what it can see.
    pub async fn check(
        &self,
        access: Access,
        context: &RunContext,
    ) -> Result<Vec<Finding>, CallFailure> {
        let (mut store, instance) = instantiate(&self.engine, &self.pre, access)
            .await
            .map_err(|error| trapped(&error))?;
        let answer = instance
            .cortexdb_connector_source()
            .call_check(&mut store, &context.to_wit())
            .await
            .map_err(|error| trapped(&error))?;
        let findings = answer.map_err(CallFailure::from)?;
        Ok(findings
            .into_iter()
            .map(|finding| Finding {
                severity: match finding.severity {
                    wit::Severity::Ok => Severity::Ok,
                    wit::Severity::Notice => Severity::Notice,
                    wit::Severity::Problem => Severity::Problem,
                },
                subject: finding.subject,
                message: finding.message,
                remedy: finding.remedy,
            })
            .collect())
    }

    /// Runs the connector. A trap drops the instance; what it handed over before is written all the same.
    pub async fn sync(&self, access: Access, context: &RunContext) -> SyncEnd {
        match instantiate(&self.engine, &self.pre, access).await {
            Err(error) => SyncEnd {
                result: Err(trapped(&error)),
                streams: BTreeMap::new(),
            },
            Ok((mut store, instance)) => {
                let answer = instance
                    .cortexdb_connector_source()
                    .call_sync(&mut store, &context.to_wit())
                    .await;
                let result = match answer {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(failure)) => Err(failure.into()),
                    Err(error) => Err(trapped(&error)),
                };
                SyncEnd {
                    result,
                    streams: store.data_mut().take_stream_states(),
                }
            }
        }
    }
}

/// From the cache where it can be had, else by compiling.
fn compile(engine: &Engine, bytes: &[u8], digest: &str) -> wasmtime::Result<Component> {
    let cache = CodeCache::of_user();
    if let Some(component) = cache.as_ref().and_then(|cache| cache.load(engine, digest)) {
        return Ok(component);
    }
    let component = Component::new(engine, bytes)?;
    if let Some(cache) = cache {
        cache.store(engine, digest, &component);
    }
    Ok(component)
}

async fn instantiate(
    engine: &Engine,
    pre: &ConnectorPre<HostState>,
    access: Access,
) -> wasmtime::Result<(Store<HostState>, World)> {
    let limits = access.limits;
    let mut store = Store::new(engine, HostState::new(access));
    store.limiter(|state| &mut state.store_limits);
    store.set_hostcall_fuel(limits.hostcall_bytes);
    store.set_max_component_handles(limits.handles);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|mut context| {
        let state = context.data_mut();
        state.cpu_ticks += 1;
        if state.cpu_ticks > state.cpu_budget_ticks() {
            let spent = state.limits.cpu_between_waits;
            return Err(wasmtime::Error::from(Trap::Interrupt).context(format!(
                "limit reached: it computed for {} s without waiting for anything",
                spent.as_secs()
            )));
        }
        Ok(UpdateDeadline::Yield(1))
    });
    let instance = pre.instantiate_async(&mut store).await?;
    Ok((store, instance))
}

/// A trap as people can use it: what happened, the limit if one was reached, and where, with the component's own function names.
fn trapped(error: &wasmtime::Error) -> CallFailure {
    let mut words: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if !text.starts_with("error while executing") && !words.contains(&text) {
            words.push(text);
        }
    }
    let mut report = words.join(": ");
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        let frames: Vec<&str> = backtrace
            .frames()
            .iter()
            .filter_map(wasmtime::FrameInfo::func_name)
            .take(6)
            .collect();
        if !frames.is_empty() {
            report.push_str(&format!(" (in {})", frames.join(" <- ")));
        }
    }
    CallFailure::Trapped(report)
}

async fn describe(
    engine: &Engine,
    pre: &ConnectorPre<HostState>,
    access: Access,
) -> Result<Description, LoadError> {
    let failed = |error: wasmtime::Error| LoadError::Describe(trapped(&error).to_string());
    let (mut store, instance) = instantiate(engine, pre, access).await.map_err(failed)?;
    let said = instance
        .cortexdb_connector_source()
        .call_describe(&mut store)
        .await
        .map_err(failed)?;
    let bad = LoadError::Describe;
    if !is_connector_name(&said.name) {
        return Err(bad(format!(
            "the name `{}` is not of the form [a-z][a-z0-9-]*, up to 32 bytes",
            said.name.escape_debug()
        )));
    }
    let settings_schema: serde_json::Value = serde_json::from_str(&said.settings_schema)
        .map_err(|error| bad(format!("the settings schema is not JSON: {error}")))?;
    let authentication = said
        .authentication
        .into_iter()
        .map(|scheme| match scheme {
            wit::Authentication::Header(name) => {
                reqwest::header::HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes())
                    .map(Authentication::Header)
                    .map_err(|_| bad(format!("`{}` is not a header name", name.escape_debug())))
            }
            wit::Authentication::Bearer => Ok(Authentication::Bearer),
            wit::Authentication::Anonymous => Ok(Authentication::Anonymous),
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Description {
        name: said.name,
        version: said.version,
        summary: said.summary,
        event_types: said.event_types,
        settings_schema,
        default_url: said.default_url,
        authentication,
        permissions: said
            .permissions
            .into_iter()
            .map(|permission| (permission.name, permission.reason))
            .collect(),
        scope_variables: said.scope_variables,
        default_scope_template: said.default_scope_template,
    })
}

fn is_connector_name(name: &str) -> bool {
    name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}
