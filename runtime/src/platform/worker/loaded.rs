//! Components that are ready to run: compiled code of one engine, kept by digest.
//!
//! Loading takes a millisecond where the code is cached and a second where it is not; a delivery should wait for neither. Settings of mappers
//! are checked when a mapper is loaded, so they belong to its key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::Value;

use crate::host::connector::{Connector, LoadError};
use crate::host::imports::Access;
use crate::host::mapper::Mapper;
use crate::mappers::{Chain as Mappers, OnTrap};
use crate::platform::Ground;
use crate::platform::components::ComponentError;
use crate::report::{Event, Reporter};
use crate::sandbox::admission::Report;
use crate::sandbox::engine::LiveEngine;
use crate::sandbox::limits::Limits;
use connector_store::platform::{Chain, MapperUse};

/// Components that are kept ready.
const MOST: usize = 64;

/// Why a chain cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The file is missing, or the database.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// It does not load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The engine of this machine does not start.
    #[error("components cannot be run on this machine: {0}")]
    Engine(String),
}

/// See the [module](self).
#[derive(Default)]
pub struct Loaded {
    engine: OnceLock<Arc<LiveEngine>>,
    connectors: Mutex<HashMap<String, Arc<Connector>>>,
}

struct Silent;

impl Reporter for Silent {
    fn event(&self, _: &Event) {}
}

impl Loaded {
    fn engine(&self) -> Result<Arc<LiveEngine>, ChainError> {
        if let Some(engine) = self.engine.get() {
            return Ok(Arc::clone(engine));
        }
        let engine =
            LiveEngine::tenant().map_err(|error| ChainError::Engine(format!("{error:#}")))?;
        Ok(Arc::clone(self.engine.get_or_init(|| engine)))
    }

    /// The connector of a chain.
    pub async fn connector(
        &self,
        ground: &Ground,
        chain: &Chain,
        limits: Limits,
    ) -> Result<Arc<Connector>, ChainError> {
        let kept = |map: &HashMap<String, Arc<Connector>>| map.get(&chain.connector).cloned();
        if let Some(connector) = kept(&self.connectors()) {
            return Ok(connector);
        }
        let path = ground
            .components
            .file(ground.platform.as_ref(), &chain.connector)
            .await?;
        let connector = Connector::load_into(
            &self.engine()?,
            (&path).into(),
            Access::nothing_but_the_log(limits, Arc::new(Silent)),
            &mut Report::default(),
        )
        .await?;
        let connector = Arc::new(connector);
        let mut connectors = self.connectors();
        if connectors.len() >= MOST {
            connectors.clear();
        }
        connectors.insert(chain.connector.clone(), Arc::clone(&connector));
        Ok(connector)
    }

    /// The mappers of a chain, with their settings.
    pub async fn mappers(
        &self,
        ground: &Ground,
        chain: &Chain,
        limits: Limits,
        on_trap: OnTrap,
    ) -> Result<Mappers, ChainError> {
        let mut mappers = Vec::with_capacity(chain.mappers.len());
        for MapperUse { digest, settings } in &chain.mappers {
            let path = ground
                .components
                .file(ground.platform.as_ref(), digest)
                .await?;
            let empty = Value::Object(serde_json::Map::new());
            let settings = if settings.is_null() { &empty } else { settings };
            let mapper = Mapper::load_into(
                &self.engine()?,
                (&path).into(),
                settings,
                Access::nothing_but_the_log(limits, Arc::new(Silent)),
                &mut Report::default(),
            )
            .await?;
            mappers.push(mapper);
        }
        Ok(Mappers::new(mappers, on_trap))
    }

    fn connectors(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Connector>>> {
        self.connectors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
