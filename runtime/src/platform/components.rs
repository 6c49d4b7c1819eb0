//! Components of tenants: admitted when they come in, and loaded once for all connections that use them.
//!
//! Every component of the process lives in one engine with one ticker. A connector is kept loaded, because thousands of connections
//! share a few of them; its bytes come out of the database only the first time, its machine code out of the cache on this machine.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::places::{NoPlace, Place, Places};
use crate::digest::fingerprint;
use crate::host::connector::{Connector, Description, LoadError};
use crate::host::hooks::HooksDescription;
use crate::host::imports::Access;
use crate::host::mapper::Mapper;
use crate::mappers::{Chain, OnTrap};
use crate::report::{Event, Reporter};
use crate::sandbox::admission::Report;
use crate::sandbox::engine::LiveEngine;
use crate::sandbox::inspect::shown;
use crate::sandbox::limits::Limits;
use crate::source::client::Authentication;
use connector_store::platform::{Component, MapperUse, Platform, PlatformError};

/// Files that are admitted at the same time; each may compile.
const ADMISSIONS_AT_ONCE: usize = 2;
/// Files of tenants that are in memory at the same time, those that still come and those that wait to be admitted among them.
const UPLOADS_AT_ONCE: usize = 8;
/// Of one tenant: a body may take a minute to come.
const UPLOADS_OF_A_TENANT: usize = 2;
/// The operator's, beside those of tenants.
const UPLOADS_OF_THE_OPERATOR: usize = 4;
/// Chains that are tried and connections that are checked at the same time, outside of the workers.
const TRIALS_AT_ONCE: usize = 4;
/// Of one tenant, which would have all of them otherwise.
const TRIALS_OF_A_TENANT: usize = 2;
/// Connectors that stay loaded. Beyond that all are let go of and come back as they are used.
const KEPT_LOADED: usize = 64;

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// It may not be used.
    #[error("{words}")]
    Refused {
        /// The rule, what was measured, what to do.
        words: String,
        /// All rules that were applied.
        report: Value,
    },
    /// It was admitted once and does not load now.
    #[error("the component {digest} cannot be used: {reason}")]
    Unusable {
        /// Which.
        digest: String,
        /// Why.
        reason: Box<LoadError>,
    },
    /// As many others are being served as may be.
    #[error("others are being served; try again in some seconds")]
    Busy,
    /// The tenant has as many trials and checks under way as it may.
    #[error(
        "as many chains and connections of this tenant are being tried as may be at a time ({TRIALS_OF_A_TENANT}); try again when one has ended"
    )]
    TenantIsTrying,
    /// The tenant has as many uploads under way as it may.
    #[error(
        "as many files of this tenant are being uploaded as may be at a time ({UPLOADS_OF_A_TENANT}); try again when one has ended"
    )]
    TenantIsUploading,
    /// The engine does not start.
    #[error("the WebAssembly engine does not start: {0}")]
    Engine(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] PlatformError),
    /// What was stored of its description is not readable by this version.
    #[error("the description of {0} cannot be read by this version; upload the component again")]
    Description(String),
}

impl ComponentError {
    /// Whether the platform is at fault, and neither the component nor whoever uses it.
    #[must_use]
    pub fn is_of_the_platform(&self) -> bool {
        match self {
            Self::Unusable { reason, .. } => reason.is_of_the_machine(),
            Self::Store(error) => matches!(error, PlatformError::Store(_)),
            Self::Busy | Self::Engine(_) => true,
            Self::Refused { .. }
            | Self::Description(_)
            | Self::TenantIsTrying
            | Self::TenantIsUploading => false,
        }
    }
}

/// See the [module](self).
pub struct Components {
    engine: Arc<LiveEngine>,
    admissions: Semaphore,
    uploads: Places,
    trials: Places,
    loaded: Mutex<HashMap<String, Arc<Connector>>>,
}

impl std::fmt::Debug for Components {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Components")
    }
}

/// For what a component says while it describes itself.
pub(super) struct Silent;

impl Reporter for Silent {
    fn event(&self, _: &Event) {}
}

fn nothing_but_the_log(limits: Limits) -> Access {
    Access::nothing_but_the_log(limits, Arc::new(Silent))
}

impl Components {
    /// Starts the engine.
    pub fn new() -> Result<Self, ComponentError> {
        let engine =
            LiveEngine::tenant().map_err(|error| ComponentError::Engine(format!("{error:#}")))?;
        Ok(Self {
            engine,
            admissions: Semaphore::new(ADMISSIONS_AT_ONCE),
            uploads: Places::new(UPLOADS_AT_ONCE, UPLOADS_OF_A_TENANT)
                .and_for_the_operator(UPLOADS_OF_THE_OPERATOR),
            trials: Places::new(TRIALS_AT_ONCE, TRIALS_OF_A_TENANT),
            loaded: Mutex::default(),
        })
    }

    /// A place for an upload of this tenant's, or of the operator's where none is named; to be had before its bytes are read.
    pub fn upload_of(&self, tenant: Option<&str>) -> Result<Place, ComponentError> {
        self.uploads.take(tenant).map_err(|none| match none {
            NoPlace::ForTheTenant => ComponentError::TenantIsUploading,
            NoPlace::AtAll => ComponentError::Busy,
        })
    }

    /// A place for the trial of a chain or the check of a connection; also where the operator asks for it, it is of the tenant's.
    pub fn trial_of(&self, tenant: &str) -> Result<Place, ComponentError> {
        self.trials.take(Some(tenant)).map_err(|none| match none {
            NoPlace::ForTheTenant => ComponentError::TenantIsTrying,
            NoPlace::AtAll => ComponentError::Busy,
        })
    }

    /// Looks at a file as `runtime inspect` does: rules, compiler, and what it says of itself.
    pub async fn admit(
        &self,
        tenant: Option<&str>,
        bytes: &[u8],
        limits: Limits,
    ) -> Result<Component, ComponentError> {
        let _permit = self.admissions.acquire().await;
        let mut report = Report::default();
        let access = nothing_but_the_log(limits);
        let loaded = Connector::load_into(&self.engine, bytes.into(), access, &mut report).await;
        let described = match loaded {
            Ok(connector) => {
                let mut description = to_json(&connector.description);
                description["hooks"] = json!(connector.hooks());
                Ok(("connector", description))
            }
            Err(LoadError::NotAConnector) => {
                report = Report::default();
                let access = nothing_but_the_log(limits);
                Mapper::without_settings(&self.engine, bytes.into(), access, &mut report)
                    .await
                    .map(|mapper| ("mapper", json!(mapper.description)))
            }
            Err(error) => Err(error),
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match described {
            Ok((world, description)) => Ok(Component {
                digest: fingerprint(bytes),
                tenant: tenant.map(str::to_owned),
                name: text(&description["name"]),
                version: text(&description["version"]),
                world: world.to_owned(),
                admitted: true,
                report: report_json(&report, None),
                description,
                bytes: bytes.len() as u64,
                created_at: String::new(),
            }),
            Err(error) => {
                let words = error.to_string();
                Err(ComponentError::Refused {
                    report: report_json(&report, Some(&words)),
                    words,
                })
            }
        }
    }

    /// A connector that the platform has, loaded.
    pub async fn connector(
        &self,
        platform: &dyn Platform,
        digest: &str,
        limits: Limits,
    ) -> Result<Arc<Connector>, ComponentError> {
        if let Ok(loaded) = self.loaded.lock()
            && let Some(connector) = loaded.get(digest)
        {
            return Ok(Arc::clone(connector));
        }
        let bytes = platform.component_bytes(digest).await?;
        let access = nothing_but_the_log(limits);
        let mut report = Report::default();
        let connector =
            Connector::load_into(&self.engine, bytes.as_slice().into(), access, &mut report)
                .await
                .map_err(|reason| ComponentError::Unusable {
                    digest: digest.to_owned(),
                    reason: Box::new(reason),
                })?;
        let connector = Arc::new(connector);
        if let Ok(mut loaded) = self.loaded.lock() {
            if loaded.len() >= KEPT_LOADED {
                loaded.clear();
            }
            loaded.insert(digest.to_owned(), Arc::clone(&connector));
        }
        Ok(connector)
    }

    /// The mappers of a chain, loaded and set.
    pub async fn chain(
        &self,
        platform: &dyn Platform,
        mappers: &[MapperUse],
        limits: Limits,
        on_trap: OnTrap,
    ) -> Result<Chain, ComponentError> {
        let mut loaded = Vec::with_capacity(mappers.len());
        for wanted in mappers {
            let bytes = platform.component_bytes(&wanted.digest).await?;
            let settings = settings_of(wanted);
            let access = nothing_but_the_log(limits);
            let mut report = Report::default();
            let file = bytes.as_slice().into();
            let mapper =
                Mapper::load_into(&self.engine, file, &settings, access, &mut report).await;
            loaded.push(mapper.map_err(|reason| ComponentError::Unusable {
                digest: wanted.digest.clone(),
                reason: Box::new(reason),
            })?);
        }
        Ok(Chain::new(loaded, on_trap))
    }
}

/// None are an empty object.
pub(super) fn settings_of(wanted: &MapperUse) -> Value {
    match &wanted.settings {
        Value::Null => json!({}),
        settings => settings.clone(),
    }
}

/// The report of `runtime inspect --json`, as far as it is about admission.
fn report_json(report: &Report, refusal: Option<&str>) -> Value {
    let inspection = report.inspection.as_ref();
    json!({
        "world": inspection.and_then(|inspection| inspection.world),
        "imports": inspection.map(|inspection| shown(&inspection.imports)),
        "exports": inspection.map(|inspection| shown(&inspection.exports)),
        "refused_imports": inspection.map(|inspection| shown(&inspection.refused_imports)),
        "admission": report.findings,
        "refusal": refusal,
    })
}

/// What a connector says of itself, as it is stored.
fn to_json(description: &Description) -> Value {
    let authentication: Vec<String> = description
        .authentication
        .iter()
        .map(|one| match one {
            Authentication::Header(name) => format!("header {name}"),
            Authentication::Bearer => "bearer".to_owned(),
            Authentication::Anonymous => "anonymous".to_owned(),
        })
        .collect();
    json!({
        "name": description.name,
        "version": description.version,
        "summary": description.summary,
        "event_types": description.event_types,
        "settings_schema": description.settings_schema,
        "default_url": description.default_url,
        "authentication": authentication,
        "permissions": description.permissions,
        "scope_variables": description.scope_variables,
        "default_scope_template": description.default_scope_template,
    })
}

/// What a stored connector said of its webhooks when it was admitted; `None` where it knows none.
#[must_use]
pub fn hooks_of(component: &Component) -> Option<HooksDescription> {
    serde_json::from_value(component.description.get("hooks")?.clone()).ok()
}

/// What a stored connector said of itself when it was admitted.
pub fn description_of(component: &Component) -> Result<Description, ComponentError> {
    let unreadable = || ComponentError::Description(component.digest.clone());
    let said = &component.description;
    let text = |name: &str| {
        said[name]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(unreadable)
    };
    let list = |name: &str| -> Result<Vec<String>, ComponentError> {
        serde_json::from_value(said[name].clone()).map_err(|_| unreadable())
    };
    let authentication: Option<Vec<Authentication>> = list("authentication")?
        .iter()
        .map(|one| match one.split_once(' ') {
            Some(("header", name)) => Some(Authentication::Header(name.parse().ok()?)),
            None if one == "bearer" => Some(Authentication::Bearer),
            None if one == "anonymous" => Some(Authentication::Anonymous),
            _ => None,
        })
        .collect();
    Ok(Description {
        name: text("name")?,
        version: text("version")?,
        summary: text("summary")?,
        event_types: list("event_types")?,
        settings_schema: said["settings_schema"].clone(),
        default_url: said["default_url"].as_str().map(str::to_owned),
        authentication: authentication.ok_or_else(unreadable)?,
        permissions: serde_json::from_value(said["permissions"].clone())
            .map_err(|_| unreadable())?,
        scope_variables: list("scope_variables")?,
        default_scope_template: text("default_scope_template")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_read_back_as_it_was_stored() {
        let description = Description {
            name: "feed".into(),
            version: "1".into(),
            summary: "Reads a feed.".into(),
            event_types: vec!["entry".into()],
            settings_schema: json!({"type": "object"}),
            default_url: None,
            authentication: vec![
                Authentication::Header("private-token".parse().unwrap()),
                Authentication::Anonymous,
            ],
            permissions: vec![("read".into(), "reading".into())],
            scope_variables: vec!["feed".into()],
            default_scope_template: "org:<org>".into(),
        };
        let component = Component {
            digest: "sha256:00".into(),
            tenant: None,
            name: "feed".into(),
            version: "1".into(),
            world: "connector".into(),
            admitted: true,
            report: Value::Null,
            description: to_json(&description),
            bytes: 0,
            created_at: String::new(),
        };
        let read = description_of(&component).unwrap();
        assert_eq!(format!("{read:?}"), format!("{description:?}"));
        let damaged = Component {
            description: json!({"name": "feed"}),
            ..component
        };
        assert!(description_of(&damaged).is_err());
    }

    #[tokio::test]
    async fn a_tenant_has_two_places_for_trials_and_the_others_have_theirs() {
        let components = Components::new().unwrap();
        let own = [(); 2].map(|()| components.trial_of("acme").unwrap());
        let again = components.trial_of("acme");
        assert!(matches!(again, Err(ComponentError::TenantIsTrying)));
        let others: Vec<_> = (2..TRIALS_AT_ONCE)
            .map(|number| components.trial_of(&number.to_string()).unwrap())
            .collect();
        let more = components.trial_of("more");
        assert!(matches!(more, Err(ComponentError::Busy)));
        drop((own, others));
        assert!(components.trial_of("acme").is_ok());
    }

    #[tokio::test]
    async fn a_tenant_has_two_places_for_uploads_and_all_of_them_leave_the_operators() {
        let components = Components::new().unwrap();
        let tenants: Vec<String> = (0..UPLOADS_AT_ONCE / UPLOADS_OF_A_TENANT)
            .map(|number| number.to_string())
            .collect();
        let mut places = Vec::new();
        for tenant in &tenants {
            places.extend([(); 2].map(|()| components.upload_of(Some(tenant)).unwrap()));
            let again = components.upload_of(Some(tenant));
            assert!(matches!(again, Err(ComponentError::TenantIsUploading)));
        }
        let more = components.upload_of(Some("more"));
        assert!(matches!(more, Err(ComponentError::Busy)));
        assert!(components.upload_of(None).is_ok());
        // While an upload is slow, a chain can be tried.
        assert!(components.trial_of(&tenants[0]).is_ok());
    }

    #[tokio::test]
    async fn what_is_no_component_is_refused_with_a_report() {
        let components = Components::new().unwrap();
        let error = components
            .admit(None, b"no wasm", Limits::default())
            .await
            .unwrap_err();
        let ComponentError::Refused { words, report } = error else {
            panic!("{error}")
        };
        assert_eq!(report["refusal"], words);
        assert_eq!(report["admission"][0]["rule"], "file_size");
    }
}
