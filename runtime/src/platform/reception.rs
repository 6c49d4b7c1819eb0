//! Webhook calls of a platform's connections: which are taken, and with what they are proved.
//!
//! What a call needs is asked of the database once in a while and not with each call: five hundred a second come in bursts, and each is
//! proved before anything is stored. A secret that was changed counts at once, because a call that proves nothing has it asked again; the old
//! one counts for a while longer, because a source that was told of the new one may still have calls of the old one on the way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Value, json};

use super::Ground;
use super::components::hooks_of;
use super::connection::{OpenedSecrets, SecretField};
use super::metrics;
use super::secrets::SecretError;
use crate::hooks::ingest::{Endpoint, Reception};
use crate::hooks::proof::HookSecrets;
use crate::redact::Secret;
use crate::report::Level;
use connector_store::platform::{ConnectionState, NewDelivery, PlatformError};

/// How long what is known of a connection is used.
const KEPT_FOR: Duration = Duration::from_secs(5);
/// Calls that prove nothing make it ask again, but not more often than this for one connection.
const RENEWED_EVERY: Duration = Duration::from_millis(200);
/// How long a secret that was replaced is taken.
const OLD_SECRET_SECONDS: i64 = 10 * 60;
/// A connection with so many deliveries to follow takes no more: it is paused, or its source is faster than its runs. What they would have
/// told, the next sync reads.
const MOST_WAITING: u64 = 10_000;
/// Connections, and names of none, that are remembered.
const MOST: usize = 10_000;

struct Known {
    asked: Instant,
    endpoint: Option<Arc<Endpoint>>,
}

/// See the [module](self).
pub struct PlatformReception {
    ground: Ground,
    known: Mutex<HashMap<String, Known>>,
}

impl PlatformReception {
    /// Takes calls for all connections of this platform.
    #[must_use]
    pub fn new(ground: Ground) -> Self {
        Self {
            ground,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look_up(&self, name: &str) -> Result<Option<Endpoint>, PlatformError> {
        let platform = self.ground.platform.as_ref();
        let connection = match platform.connection(None, name).await {
            Ok(connection) => connection,
            Err(PlatformError::Missing(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        // Of a parked one nobody reads them. Once it is resumed, a sync finds what they would have told.
        if matches!(
            connection.state,
            ConnectionState::Leaving | ConnectionState::Parked
        ) {
            return Ok(None);
        }
        let component = platform
            .component(Some(&connection.tenant), &connection.chain.connector)
            .await?;
        let Some(hooks) = hooks_of(&component) else {
            return Ok(None);
        };
        let opened = match OpenedSecrets::of(&connection, &self.ground.secrets) {
            Ok(opened) => opened,
            Err(SecretError::Store(error)) => return Err(error),
            // The source is to come back: another process may have the key, or this one soon.
            Err(error) if error.is_of_the_platform() => {
                let words = format!("the secrets of {name} do not open: {error}");
                return Err(PlatformError::Invalid(words));
            }
            Err(error) => {
                self.failed(&format!("the secrets of {name} do not open: {error}"));
                return Ok(None);
            }
        };
        let full = connection.waiting_deliveries >= MOST_WAITING;
        if full {
            self.ground.log.line(
                Level::Warn,
                "webhook calls are refused: too many deliveries of this connection wait",
                json!({ "tenant": connection.tenant, "connection": name, "waiting": connection.waiting_deliveries }),
            );
        }
        let since = chrono::Utc::now().timestamp() - OLD_SECRET_SECONDS;
        let all = |field| -> Vec<Secret> {
            let before = opened.replaced_since(field, since);
            opened
                .get(field)
                .into_iter()
                .chain(before)
                .cloned()
                .collect()
        };
        Ok(Some(Endpoint {
            connection: connection.ledger,
            owner: Some(connection.tenant),
            full,
            hooks,
            secrets: HookSecrets {
                secrets: all(SecretField::WebhookSecret),
                signing_tokens: all(SecretField::WebhookSigningToken),
            },
        }))
    }

    /// As it is known, or asked for where that is too old.
    async fn no_older_than(
        &self,
        name: &str,
        age: Duration,
    ) -> Result<Option<Arc<Endpoint>>, PlatformError> {
        if let Some(known) = self.known().get(name)
            && known.asked.elapsed() < age
        {
            return Ok(known.endpoint.clone());
        }
        self.refresh(name).await
    }

    /// Asks the database, and remembers.
    async fn refresh(&self, name: &str) -> Result<Option<Arc<Endpoint>>, PlatformError> {
        let fresh = self.look_up(name).await?;
        let endpoint = fresh.map(Arc::new);
        let mut all = self.known();
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(
            name.to_owned(),
            Known {
                asked: Instant::now(),
                endpoint: endpoint.clone(),
            },
        );
        Ok(endpoint)
    }
}

#[async_trait]
impl Reception for PlatformReception {
    async fn endpoint(&self, name: &str) -> Result<Option<Arc<Endpoint>>, PlatformError> {
        self.no_older_than(name, KEPT_FOR).await
    }

    /// Where another call has just had it asked, perhaps after this one was judged, that is fresh enough.
    async fn renewed(&self, name: &str) -> Result<Option<Arc<Endpoint>>, PlatformError> {
        self.no_older_than(name, RENEWED_EVERY).await
    }

    async fn receive(
        &self,
        deliveries: &[NewDelivery],
    ) -> Result<Vec<(String, bool)>, PlatformError> {
        let ids = self.ground.platform.receive(deliveries).await?;
        for (delivery, (id, new)) in deliveries.iter().zip(&ids) {
            let result = match (id.is_empty(), new) {
                (true, _) => "refused",
                (false, true) => "stored",
                (false, false) => "duplicate",
            };
            self.ground
                .metrics
                .count(metrics::DELIVERIES, &[("result", result)], 1.0);
            self.ground.log.line(
                Level::Info,
                "delivery received",
                json!({ "trace": delivery.trace, "delivery": id, "new": new }),
            );
        }
        Ok(ids)
    }

    /// The store wakes the workers, those of other processes, too.
    fn arrived(&self) {}

    fn failed(&self, words: &str) {
        self.ground.log.line(Level::Error, words, Value::Null);
    }
}
