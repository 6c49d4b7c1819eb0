//! Starting the platform: the database, the keys, the roles, one listener.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, RwLock};

use axum::Router;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::components::{ComponentError, Components};
use super::keys::{self, Scope};
use super::log::Log;
use super::metrics::Metrics;
use super::reception::PlatformReception;
use super::secrets::{SecretError, Secrets};
use super::settings::{Role, ServeConfig};
use super::traces::Traces;
use super::worker::places_for_deliveries;
use super::{Ground, api, dashboard, private_file};
use crate::hooks::ingest::Ingest;
use crate::hooks::listen;
use crate::ledger::{PostgresStore, SqliteStore, Store, StoreError};
use crate::redact::Secret;
use crate::report::Level;
use connector_store::platform::{Page, Platform, PlatformError};

/// Connections to PostgreSQL of one process, beside those of its runs.
const POSTGRES_CONNECTIONS: u32 = 8;
/// The operator's first key.
const ADMIN_KEY_FILE: &str = "admin-key";

/// Why the platform did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder.
    #[error("cannot use the data folder {path}: {reason}")]
    Data {
        /// Where.
        path: String,
        /// Why.
        reason: std::io::Error,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database, later.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// The keys of secrets.
    #[error(transparent)]
    Secrets(#[from] SecretError),
    /// The engine.
    #[error(transparent)]
    Components(#[from] ComponentError),
    /// The address.
    #[error("{0}")]
    Listen(String),
    /// The collector of traces.
    #[error("no traces can be sent to the collector of OTEL_EXPORTER_OTLP_ENDPOINT: {0}")]
    Collector(String),
}

/// Opens everything that the platform stands on, and makes what is missing. On the very first start an operator's key is written to the
/// data folder.
pub async fn ground(
    config: ServeConfig,
    log: Log,
    stop: CancellationToken,
) -> Result<Ground, StartError> {
    let unusable = |reason| StartError::Data {
        path: config.data.display().to_string(),
        reason,
    };
    private_file::folder(&config.data).map_err(unusable)?;
    let (platform, ledger) = open(&config).await?;
    let secrets = Secrets::open(
        config.kek.as_ref().map(Secret::reveal),
        &config.data.join("kek"),
    )?;
    secrets.prove(platform.as_ref()).await?;
    if let Some(file) = first_key(platform.as_ref(), &config.data).await? {
        log.line(
            Level::Info,
            "made the operator's first key",
            json!({"file": file}),
        );
    }
    let traces = match config.collector.clone() {
        None => Traces::default(),
        Some(collector) => Traces::to(collector, log.clone()).map_err(StartError::Collector)?,
    };
    Ok(Ground {
        traces,
        metrics: Arc::new(Metrics::new(config.metric_tenants)),
        components: Arc::new(Components::new()?),
        live_pages: dashboard::live_pages(),
        secrets: Arc::new(secrets),
        rules: Arc::new(RwLock::new(Arc::new(config.rules.clone()))),
        config: Arc::new(config),
        platform,
        ledger,
        log,
        stop,
    })
}

/// The two faces of the database.
pub async fn open(config: &ServeConfig) -> Result<(Arc<dyn Platform>, Arc<dyn Store>), StartError> {
    Ok(match &config.database {
        None => {
            let store = Arc::new(SqliteStore::open_for_many(&config.sqlite_file()).await?);
            let ledger: Arc<dyn Store> = store.clone();
            (store, ledger)
        }
        Some(url) => {
            let most =
                POSTGRES_CONNECTIONS + config.workers + places_for_deliveries(config.workers);
            let store = Arc::new(PostgresStore::open(url, most, config.lease).await?);
            let ledger: Arc<dyn Store> = store.clone();
            (store, ledger)
        }
    })
}

/// Makes the first key where there is none. The file that it is in, if it was made.
async fn first_key(platform: &dyn Platform, data: &Path) -> Result<Option<String>, StartError> {
    let one = Page {
        after: None,
        most: 1,
    };
    if !platform.keys(None, &one).await?.is_empty() {
        return Ok(None);
    }
    let (key, secret) =
        keys::create(platform, None, "the first one", &[Scope::Admin], None).await?;
    let path = data.join(ADMIN_KEY_FILE);
    private_file::replace(&path, &format!("{}\n", secret.reveal())).map_err(|reason| {
        StartError::Data {
            path: path.display().to_string(),
            reason,
        }
    })?;
    let detail = json!({"name": key.name, "scopes": key.scopes});
    platform
        .audit(None, "cli", "key.create", &key.id, &detail)
        .await?;
    Ok(Some(path.display().to_string()))
}

/// All routes of the roles that this process has.
pub fn router(ground: &Ground) -> (Router, Option<JoinHandle<()>>) {
    let mut router = Router::new()
        .route("/healthz", axum::routing::get(async || "ok\n"))
        .route("/readyz", axum::routing::get(api::ready))
        .route("/metrics", axum::routing::get(metrics))
        .with_state(ground.clone());
    if ground.config.is(Role::Api) {
        router = router
            .merge(api::router(ground.clone()))
            .merge(dashboard::router(ground.clone()));
    }
    let around = axum::middleware::from_fn_with_state(ground.clone(), api::layer::around);
    let mut storing = None;
    if ground.config.is(Role::Hooks) {
        let reception = Arc::new(PlatformReception::new(ground.clone()));
        let (ingest, task) = Ingest::start(reception);
        storing = Some(task);
        router = router.merge(ingest.router());
    }
    (router.layer(around), storing)
}

async fn metrics(
    axum::extract::State(ground): axum::extract::State<Ground>,
) -> impl axum::response::IntoResponse {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    (
        [(http::header::CONTENT_TYPE, kind)],
        ground.metrics.render(),
    )
}

/// A platform that listens.
pub struct Serving {
    /// Where; with port 0 the one that was found.
    pub address: SocketAddr,
    server: JoinHandle<()>,
    storing: Option<JoinHandle<()>>,
}

/// Binds the address and answers until the ground's token is cancelled.
pub async fn serve(ground: &Ground) -> Result<Serving, StartError> {
    let (listener, address): (TcpListener, SocketAddr) =
        listen::bind(&ground.config.listen.to_string())
            .await
            .map_err(StartError::Listen)?;
    let (router, storing) = router(ground);
    let server = tokio::spawn(listen::serve(listener, router, ground.stop.clone()));
    Ok(Serving {
        address,
        server,
        storing,
    })
}

impl Serving {
    /// Waits until everything that was begun is answered and stored.
    pub async fn ended(self) {
        let _ = self.server.await;
        if let Some(storing) = self.storing {
            let _ = storing.await;
        }
    }
}
