//! `runtime serve`: connections of many tenants, configured over HTTP and kept running.
//!
//! The same engine as `runtime run` does the work; here is what stands around it when the connections belong to others. A tenant must reach
//! neither another tenant's data nor this machine, so everything that a tenant says is checked where it comes in and once more where it
//! is used, and there is one way for each: [`connection::plan_of`] makes a run of a stored connection, [`secrets`] opens credentials in their
//! place and nowhere else, [`components`] admits files. The [`api`] is the only way to change anything; the [`dashboard`] calls it.
//!
//! The store (`connector_store::platform`) is a trait with two databases behind it; nothing here knows which.

pub mod api;
pub mod components;
pub mod connection;
pub mod dashboard;
pub mod keys;
pub mod letters;
pub mod log;
pub mod made_for;
pub mod metrics;
pub mod places;
pub mod private_file;
pub mod reception;
pub mod secrets;
pub mod server;
pub mod settings;
pub mod traces;
pub mod trial;
pub mod worker;

use std::sync::{Arc, PoisonError, RwLock};

use tokio_util::sync::CancellationToken;

use crate::ledger::Store;
use connector_store::platform::Platform;

/// What every part of the platform stands on. Cheap to clone.
#[derive(Clone)]
pub struct Ground {
    /// Tenants, connections, deliveries, runs.
    pub platform: Arc<dyn Platform>,
    /// What CortexDB holds of each connection.
    pub ledger: Arc<dyn Store>,
    /// Seals and opens credentials.
    pub secrets: Arc<secrets::Secrets>,
    /// Admits and hands out component files.
    pub components: Arc<components::Components>,
    /// What the operator decided.
    pub config: Arc<settings::ServeConfig>,
    rules: Arc<RwLock<Arc<settings::TenantRules>>>,
    /// What is counted.
    pub metrics: Arc<metrics::Metrics>,
    /// Where lines go.
    pub log: log::Log,
    /// Open pages that are told of changes.
    pub live_pages: places::Places,
    /// Where spans go.
    pub traces: traces::Traces,
    /// The process is to end.
    pub stop: CancellationToken,
}

impl Ground {
    /// What tenants may do now.
    #[must_use]
    pub fn rules(&self) -> Arc<settings::TenantRules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on tenants may do this: what begins after it is held to it, what has begun is not.
    pub fn set_rules(&self, rules: settings::TenantRules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }
}
