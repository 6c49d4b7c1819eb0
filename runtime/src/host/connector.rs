//! A loaded connector: compiled once, one fresh instance for each call.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use wasmtime::component::{HasSelf, InstancePre, Linker};
use wasmtime::{Engine, Store, UpdateDeadline};

use super::bindings::ConnectorWithHooks as World;
use super::bindings::exports::cortexdb::connector::{hooks as wit_hooks, source as wit};
use super::guest_text::{MAX_NAME_BYTES, MAX_WORDS_BYTES, check_event_type, check_name, clean};
use super::hooks::{Delivery, HookPlan, HooksDescription, Polled, Target, Verdict};
use super::imports::{Access, HostState};
use super::schema::read_schema;
use crate::redact::Redactor;
use crate::report::StreamState;
use crate::sandbox::admission::{Admitted, ComponentFile, Refusal, Report, admit};
use crate::sandbox::cache::CodeCache;
use crate::sandbox::engine::LiveEngine;
use crate::sandbox::inspect::{Inspection, World as Kind};
use crate::sandbox::limits::{Limit, LimitReached};
use crate::sandbox::rules::Finding as RuleFinding;
use crate::sandbox::trap::{self, HostDefect, TrapReport};
use crate::scope::{ScopeTemplate, is_host_variable};
use crate::source::client::Authentication;

/// Why a file cannot be used as a connector.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is not admitted.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is a mapper.
    #[error(
        "this component is a mapper; `runtime run` wants a connector, and takes mappers after --mapper"
    )]
    NotAConnector,
    /// It is a connector.
    #[error("{0}: this component is a connector; --mapper wants a mapper")]
    NotAMapper(String),
    /// The settings do not fit what the mapper wants.
    #[error("{0}")]
    Settings(String),
    /// It does not validate or link.
    #[error("the component cannot be loaded: {0}")]
    Invalid(String),
    /// It does not say what it is.
    #[error("the component's `describe` failed: {0}")]
    Describe(String),
}

impl LoadError {
    /// Whether this machine is at fault and not the component.
    #[must_use]
    pub fn is_of_the_machine(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.is_of_the_machine())
    }
}

/// Why a call into a connector ended without a result. What the connector says is printable and bounded.
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
    Trapped(Box<TrapReport>),
}

impl std::fmt::Display for CallFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Configuration(words) | Self::Standing(words) | Self::Unavailable(words) => {
                f.write_str(words)
            }
            Self::Interrupted => f.write_str("interrupted"),
            Self::Internal(words) => write!(f, "the connector reports a defect: {words}"),
            Self::Trapped(report) => write!(f, "the connector was stopped: {report}"),
        }
    }
}

impl CallFailure {
    pub(super) fn said(failure: wit::Failure, store: &Store<HostState>) -> Self {
        let words = |words: String| store.data().clean(&words, MAX_WORDS_BYTES);
        match failure {
            wit::Failure::Configuration(said) => Self::Configuration(words(said)),
            wit::Failure::Standing(said) => Self::Standing(words(said)),
            wit::Failure::Unavailable(said) => Self::Unavailable(words(said)),
            wit::Failure::Interrupted => Self::Interrupted,
            wit::Failure::Internal(said) => Self::Internal(words(said)),
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

/// Why the connector is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind {
    /// First run of this connection, as far as the cursors tell.
    Backfill,
    /// A later one.
    Poll,
    /// The source called.
    Delivery,
}

/// The arguments of a run.
#[derive(Debug, Clone)]
pub struct RunContext {
    /// Why it is called.
    pub kind: RunKind,
    /// Settings as JSON.
    pub settings: String,
    /// RFC 3339.
    pub since: Option<String>,
    /// What it is for.
    pub mode: Mode,
    /// Streams that a pass which this run goes on with has compared.
    pub compared: BTreeSet<String>,
}

impl RunContext {
    fn options(&self) -> Vec<(String, String)> {
        let compared = self.compared.iter();
        let compared = compared.map(|stream| ("compared".to_owned(), stream.clone()));
        self.mode.options().into_iter().chain(compared).collect()
    }

    fn to_wit(&self) -> wit::RunContext {
        wit::RunContext {
            kind: match self.kind {
                RunKind::Backfill => wit::RunKind::Backfill,
                RunKind::Poll => wit::RunKind::Poll,
                RunKind::Delivery => wit::RunKind::Delivery,
            },
            settings: self.settings.clone(),
            now: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            since: self.since.clone(),
            options: self.options(),
        }
    }
}

/// A linked component, and where its interfaces are.
struct Linked {
    instance: InstancePre<HostState>,
    source: wit::GuestIndices,
    /// Where it exports them.
    hooks: Option<wit_hooks::GuestIndices>,
}

impl Linked {
    fn new(instance: InstancePre<HostState>, has_hooks: bool) -> wasmtime::Result<Self> {
        Ok(Self {
            source: wit::GuestIndices::new(&instance)?,
            hooks: has_hooks
                .then(|| wit_hooks::GuestIndices::new(&instance))
                .transpose()?,
            instance,
        })
    }

    async fn source(&self, store: &mut Store<HostState>) -> wasmtime::Result<wit::Guest> {
        let instance = self.instance.instantiate_async(&mut *store).await?;
        self.source.load(store, &instance)
    }

    async fn hooks(&self, store: &mut Store<HostState>) -> wasmtime::Result<wit_hooks::Guest> {
        let indices = self
            .hooks
            .as_ref()
            .ok_or_else(|| wasmtime::Error::msg("the connector has no webhooks"))?;
        let instance = self.instance.instantiate_async(&mut *store).await?;
        indices.load(store, &instance)
    }
}

/// A connector, compiled and described.
pub struct Connector {
    engine: Arc<LiveEngine>,
    linked: Linked,
    hooks: Option<HooksDescription>,
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
    /// Admits, links and describes a component. What was looked at on the way is in `report`, also where it is refused.
    pub async fn load(path: &Path, access: Access, report: &mut Report) -> Result<Self, LoadError> {
        let engine =
            LiveEngine::tenant().map_err(|error| LoadError::Invalid(format!("{error:#}")))?;
        Self::load_into(&engine, path.into(), access, report).await
    }

    /// The same into an engine that others of this process use, too.
    pub async fn load_into(
        engine: &Arc<LiveEngine>,
        file: ComponentFile<'_>,
        access: Access,
        report: &mut Report,
    ) -> Result<Self, LoadError> {
        let invalid = |error: wasmtime::Error| LoadError::Invalid(format!("{error:#}"));
        let live = Arc::clone(engine);
        let engine = live.engine();
        let cache = CodeCache::of_user();
        let Admitted { world, component } =
            admit(engine, file, &access.limits, cache.as_ref(), report).await?;
        if world != Kind::Connector {
            return Err(LoadError::NotAConnector);
        }
        let mut linker = Linker::new(engine);
        World::add_to_linker::<_, HasSelf<HostState>>(&mut linker, |state| state)
            .map_err(invalid)?;
        let has_hooks = report
            .inspection
            .as_ref()
            .is_some_and(Inspection::has_hooks);
        // Checks every type and runs no code of the component's.
        let linked = linker
            .instantiate_pre(&component)
            .and_then(|instance| Linked::new(instance, has_hooks));
        report.findings.push(interfaces(&linked));
        let linked = linked.map_err(invalid)?;
        let description = describe(engine, &linked, access.clone()).await?;
        let hooks = match linked.hooks {
            Some(_) => Some(describe_hooks(engine, &linked, access).await?),
            None => None,
        };
        Ok(Self {
            engine: live,
            linked,
            hooks,
            description,
        })
    }

    /// How its source calls, where it understands that.
    #[must_use]
    pub fn hooks(&self) -> Option<&HooksDescription> {
        self.hooks.as_ref()
    }

    /// Hands over what the source called with: a verdict for each, in the same order.
    pub async fn handle_deliveries(
        &self,
        access: Access,
        context: &RunContext,
        batch: &[Delivery],
    ) -> Result<Vec<Verdict>, CallFailure> {
        let mut store = new_store(self.engine.engine(), access);
        let batch_of = batch.iter().map(Delivery::to_wit).collect::<Vec<_>>();
        let question = async |store: &mut Store<HostState>| {
            let hooks = self.linked.hooks(store).await?;
            hooks
                .call_handle_delivery(store, &context.to_wit(), &batch_of)
                .await
        };
        let answer = bounded(&mut store, Limit::DeliveryTime, question).await?;
        let verdicts = answer.map_err(|failure| CallFailure::said(failure, &store))?;
        if verdicts.len() != batch.len() {
            return Err(CallFailure::Internal(format!(
                "it gave {} verdicts for {} deliveries",
                verdicts.len(),
                batch.len()
            )));
        }
        let clean = |words: &str| store.data().clean(words, MAX_WORDS_BYTES);
        Ok(verdicts
            .into_iter()
            .map(|verdict| Verdict::read(verdict, clean))
            .collect())
    }

    /// Lets the connector register and mend the hooks of its source.
    pub async fn connect(
        &self,
        access: Access,
        context: &RunContext,
        target: &Target,
    ) -> Result<HookPlan, CallFailure> {
        let mut store = new_store(self.engine.engine(), access);
        let question = async |store: &mut Store<HostState>| {
            let hooks = self.linked.hooks(store).await?;
            hooks
                .call_connect(store, &context.to_wit(), &target.to_wit())
                .await
        };
        let answer = bounded(&mut store, Limit::ConnectTime, question).await?;
        let plan = answer.map_err(|failure| CallFailure::said(failure, &store))?;
        Ok(HookPlan::read(&plan, |words, most| {
            store.data().clean(words, most)
        }))
    }

    /// Lets the connector remove its hooks; what could not be removed.
    pub async fn disconnect(
        &self,
        access: Access,
        context: &RunContext,
        target: &Target,
    ) -> Result<Vec<Polled>, CallFailure> {
        let mut store = new_store(self.engine.engine(), access);
        let question = async |store: &mut Store<HostState>| {
            let hooks = self.linked.hooks(store).await?;
            hooks
                .call_disconnect(store, &context.to_wit(), &target.to_wit())
                .await
        };
        let answer = bounded(&mut store, Limit::ConnectTime, question).await?;
        let left = answer.map_err(|failure| CallFailure::said(failure, &store))?;
        Ok(Polled::read(&left, |words, most| {
            store.data().clean(words, most)
        }))
    }

    /// Asks the connector what it can see.
    pub async fn check(
        &self,
        access: Access,
        context: &RunContext,
    ) -> Result<Vec<Finding>, CallFailure> {
        let mut store = new_store(self.engine.engine(), access);
        let question = async |store: &mut Store<HostState>| {
            let source = self.linked.source(store).await?;
            source.call_check(store, &context.to_wit()).await
        };
        let answer = bounded(&mut store, Limit::CheckTime, question).await?;
        let findings = answer.map_err(|failure| CallFailure::said(failure, &store))?;
        let state = store.data();
        Ok(findings
            .into_iter()
            .take(MAX_FINDINGS)
            .map(|finding| Finding {
                severity: match finding.severity {
                    wit::Severity::Ok => Severity::Ok,
                    wit::Severity::Notice => Severity::Notice,
                    wit::Severity::Problem => Severity::Problem,
                },
                subject: state.clean(&finding.subject, MAX_NAME_BYTES),
                message: state.clean(&finding.message, MAX_WORDS_BYTES),
                remedy: finding
                    .remedy
                    .map(|remedy| state.clean(&remedy, MAX_WORDS_BYTES)),
            })
            .collect())
    }

    /// Runs the connector. A trap drops the instance; what it handed over before is written all the same.
    pub async fn sync(&self, access: Access, context: &RunContext) -> SyncEnd {
        let mut store = new_store(self.engine.engine(), access);
        let work = async |store: &mut Store<HostState>| {
            let source = self.linked.source(store).await?;
            source.call_sync(store, &context.to_wit()).await
        };
        let answer = bounded(&mut store, Limit::RunTime, work).await;
        let result = match answer {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => Err(CallFailure::said(failure, &store)),
            Err(failure) => Err(failure),
        };
        SyncEnd {
            result,
            streams: store.data_mut().take_stream_states(),
        }
    }
}

/// Findings of one check that are shown.
const MAX_FINDINGS: usize = 1000;

/// A store with every limit in place. The component's `start` runs while it is instantiated and may call the host, so they hold before.
pub(super) fn new_store(engine: &Engine, access: Access) -> Store<HostState> {
    let limits = access.limits;
    let mut store = Store::new(engine, HostState::new(access));
    store.limiter(|state| &mut state.meter);
    store.set_hostcall_fuel(limits.size(Limit::HostcallBytes));
    store.set_max_component_handles(limits.size(Limit::Handles));
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|mut context| {
        context.data_mut().tick()?;
        Ok(UpdateDeadline::Yield(1))
    });
    store
}

/// Calls into a component, within the time that this kind of call may take. However it ends, what was used is counted, and a component that
/// was stopped is reported. The store must not be used for another call after a failure: drop it.
pub(super) async fn bounded<T>(
    store: &mut Store<HostState>,
    time: Limit,
    call: impl AsyncFnOnce(&mut Store<HostState>) -> wasmtime::Result<T>,
) -> Result<T, CallFailure> {
    let limits = *store.data().meter.limits();
    let allowed = limits.time(time);
    // A defect of the engine's that panics costs this run and not the process.
    let guarded = AssertUnwindSafe(call(store)).catch_unwind();
    let answer = match allowed {
        Some(allowed) => tokio::time::timeout(allowed, guarded).await.ok(),
        None => Some(guarded.await),
    };
    let state = store.data();
    state.settle(time);
    let report = match answer {
        Some(Ok(Ok(answer))) => return Ok(answer),
        Some(Ok(Err(error))) => trap::read(&error, &limits),
        Some(Err(_)) => HostDefect.report(),
        None => {
            let error = wasmtime::Error::from(LimitReached {
                limit: time,
                allowed: allowed.map_or(0, milliseconds),
            });
            trap::read(&error, &limits)
        }
    };
    Err(CallFailure::Trapped(Box::new(state.complete(report))))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn describe(
    engine: &Engine,
    linked: &Linked,
    access: Access,
) -> Result<Description, LoadError> {
    let mut store = new_store(engine, access);
    let question = async |store: &mut Store<HostState>| {
        let source = linked.source(store).await?;
        source.call_describe(store).await
    };
    let said = bounded(&mut store, Limit::DescribeTime, question)
        .await
        .map_err(|failure| LoadError::Describe(failure.to_string()))?;
    read_description(said).map_err(LoadError::Describe)
}

async fn describe_hooks(
    engine: &Engine,
    linked: &Linked,
    access: Access,
) -> Result<HooksDescription, LoadError> {
    let mut store = new_store(engine, access);
    let question = async |store: &mut Store<HostState>| {
        let hooks = linked.hooks(store).await?;
        hooks.call_describe(store).await
    };
    let said = bounded(&mut store, Limit::DescribeTime, question)
        .await
        .map_err(|failure| LoadError::Describe(failure.to_string()))?;
    HooksDescription::read(said)
        .map_err(|reason| LoadError::Describe(format!("its webhooks: {reason}")))
}

/// The most of anything that a description lists.
const MAX_LISTED: usize = 256;

/// Holds a description to its contract. It ends on terminals, and its scope template decides where records go.
fn read_description(said: wit::Description) -> Result<Description, String> {
    check_component_name(&said.name)?;
    check_name("the version", &said.version)?;
    let lists = [
        ("event types", said.event_types.len()),
        ("ways to authenticate", said.authentication.len()),
        ("permissions", said.permissions.len()),
        ("scope variables", said.scope_variables.len()),
    ];
    for (what, length) in lists {
        if length > MAX_LISTED {
            return Err(format!("it names {length} {what}; at most {MAX_LISTED}"));
        }
    }
    said.event_types
        .iter()
        .try_for_each(|event_type| check_event_type(event_type))?;
    for name in &said.scope_variables {
        check_name("a scope variable", name)?;
        if is_host_variable(name) {
            return Err(format!("the scope variable `{name}` is the host's"));
        }
    }
    if let Some(url) = &said.default_url {
        check_name("the default URL", url)?;
    }
    let template = &said.default_scope_template;
    check_name("the default scope template", template)?;
    // A connector chooses a place below the user's own, never the user's neighbour.
    if !ScopeTemplate::is_below_the_users(template) {
        return Err(format!(
            "the default scope template `{template}` must begin with `org:<org>`, `{{scope}}` or `{{actor}}`"
        ));
    }
    let settings_schema = read_schema(&said.settings_schema)?;
    let authentication = said
        .authentication
        .into_iter()
        .map(|scheme| match scheme {
            wit::Authentication::Header(name) => {
                check_name("the name of a header", &name)?;
                http::HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes())
                    .map(Authentication::Header)
                    .map_err(|_| format!("`{}` is not a header name", name.escape_debug()))
            }
            wit::Authentication::Bearer => Ok(Authentication::Bearer),
            wit::Authentication::Anonymous => Ok(Authentication::Anonymous),
        })
        .collect::<Result<Vec<_>, String>>()?;
    let words = |text: &str, most: usize| clean(text, most, &Redactor::default());
    Ok(Description {
        name: said.name,
        version: said.version,
        summary: words(&said.summary, MAX_WORDS_BYTES),
        event_types: said.event_types,
        settings_schema,
        default_url: said.default_url,
        authentication,
        permissions: said
            .permissions
            .into_iter()
            .map(|permission| {
                (
                    words(&permission.name, MAX_NAME_BYTES),
                    words(&permission.reason, MAX_WORDS_BYTES),
                )
            })
            .collect(),
        scope_variables: said.scope_variables,
        default_scope_template: said.default_scope_template,
    })
}

/// What linking found: the same rule for both worlds.
pub(super) fn interfaces<T>(linked: &wasmtime::Result<T>) -> RuleFinding {
    RuleFinding::judged(
        "interfaces",
        linked
            .as_ref()
            .map(|_| "of the versions and types that this host has".to_owned())
            .map_err(|error| format!("{error:#}. Build it against the host's `wit/`")),
    )
}

/// Holds the name that a component gives itself to the form of the WIT.
pub(super) fn check_component_name(name: &str) -> Result<(), String> {
    if is_component_name(name) {
        return Ok(());
    }
    Err(format!(
        "the name `{}` is not of the form [a-z][a-z0-9-]*, up to 32 bytes",
        name.chars().take(64).collect::<String>().escape_debug()
    ))
}

/// `[a-z][a-z0-9-]*`, up to 32 bytes.
pub(crate) fn is_component_name(name: &str) -> bool {
    name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

#[cfg(test)]
mod tests;
