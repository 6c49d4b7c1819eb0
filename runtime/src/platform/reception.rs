//! Webhook calls for connections of the platform.
//!
//! What must be known to take a call is kept for a few seconds, so that a flood costs no queries; a changed secret counts from then on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::json;

use super::Ground;
use super::connection::{OpenedSecrets, SecretField};
use super::metrics::DELIVERIES;
use crate::hooks::ingest::{Endpoint, Reception};
use crate::hooks::proof::HookSecrets;
use crate::report::Level;
use connector_store::platform::{ConnectionState, NewDelivery, PlatformError};

/// How long an answer about a connection is kept.
const FRESH: Duration = Duration::from_secs(5);
/// Answers that are kept; beyond that all are let go of.
const MOST_KEPT: usize = 20_000;

type Known = (Instant, Option<Arc<Endpoint>>);

/// See the [module](self).
pub struct PlatformReception {
    ground: Ground,
    known: Mutex<HashMap<String, Known>>,
}

impl PlatformReception {
    /// For all connections of the platform.
    #[must_use]
    pub fn new(ground: Ground) -> Self {
        Self {
            ground,
            known: Mutex::default(),
        }
    }

    async fn look_up(&self, id: &str) -> Result<Option<Arc<Endpoint>>, PlatformError> {
        let platform = self.ground.platform.as_ref();
        let connection = match platform.connection(None, id).await {
            Ok(connection) => connection,
            Err(PlatformError::Missing(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        // A paused one takes calls, which wait for it.
        if connection.state == ConnectionState::Leaving {
            return Ok(None);
        }
        let limits = self.ground.config.rules.limits;
        let connector = self
            .ground
            .components
            .connector(platform, &connection.chain.connector, limits)
            .await;
        let hooks = match &connector {
            Ok(connector) => connector.hooks().cloned(),
            Err(error) => {
                self.failed(&error.to_string());
                None
            }
        };
        let Some(hooks) = hooks else {
            return Ok(None);
        };
        let secrets = match OpenedSecrets::of(&connection, &self.ground.secrets) {
            Ok(opened) => opened,
            Err(error) => {
                self.failed(&error.to_string());
                return Ok(None);
            }
        };
        Ok(Some(Arc::new(Endpoint {
            connection: connection.ledger,
            hooks,
            secrets: hook_secrets(&secrets),
        })))
    }
}

/// What calls are proved with.
#[must_use]
pub fn hook_secrets(opened: &OpenedSecrets) -> HookSecrets {
    let list = |field| opened.get(field).cloned().into_iter().collect();
    HookSecrets {
        secrets: list(SecretField::WebhookSecret),
        signing_tokens: list(SecretField::WebhookSigningToken),
    }
}

#[async_trait]
impl Reception for PlatformReception {
    async fn endpoint(&self, name: &str) -> Result<Option<Arc<Endpoint>>, PlatformError> {
        if let Ok(known) = self.known.lock()
            && let Some((at, endpoint)) = known.get(name)
            && at.elapsed() < FRESH
        {
            return Ok(endpoint.clone());
        }
        let endpoint = self.look_up(name).await?;
        if let Ok(mut known) = self.known.lock() {
            if known.len() >= MOST_KEPT {
                known.clear();
            }
            known.insert(name.to_owned(), (Instant::now(), endpoint.clone()));
        }
        Ok(endpoint)
    }

    async fn receive(
        &self,
        deliveries: &[NewDelivery],
    ) -> Result<Vec<(String, bool)>, PlatformError> {
        let stored = self.ground.platform.receive(deliveries).await?;
        for (delivery, (id, new)) in deliveries.iter().zip(&stored) {
            let result = match (id.is_empty(), new) {
                (true, _) => "refused",
                (false, true) => "stored",
                (false, false) => "duplicate",
            };
            self.ground
                .metrics
                .count(DELIVERIES, &[("result", result)], 1.0);
            self.ground.log.line(
                Level::Debug,
                "delivery",
                json!({"trace": delivery.trace, "delivery": id, "result": result}),
            );
        }
        Ok(stored)
    }

    /// The store wakes whoever waits.
    fn arrived(&self) {}

    fn failed(&self, words: &str) {
        self.ground
            .log
            .line(Level::Error, words, json!({"role": "hooks"}));
    }
}
