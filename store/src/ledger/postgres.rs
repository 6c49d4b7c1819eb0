//! The ledger on PostgreSQL: for more than one process on more than one machine.
//!
//! PostgreSQL does the replication, the locks and the durable log; this is some SQL beside it. The promises are those of the embedded
//! store, and one suite holds both to them ([`conformance`](super::conformance)). A page of rows goes in as one JSON document and one statement, as there.
//! The clock is the database's (`clock_timestamp()`), the same for all machines.
//!
//! The first statement of each transaction that writes locks the connection's row and checks its epoch: who was taken over is refused, and
//! who takes over waits for a commit that is under way. A process that is frozen within a transaction would make it wait
//! for ever, so the database ends a transaction that is idle for [`MOST_IDLE`]. What a restart of the database means to a statement is
//! in [`transaction`].

mod nul;
mod transaction;

use std::str::FromStr as _;
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgPool, Postgres, Transaction};
use tokio::sync::watch;

use super::{Lease, StoreError, explain};
pub(crate) use transaction::Waits;
use transaction::{PATIENCE, begin_fenced};

/// How long the database lets a transaction be idle. None of ours waits for anything but the database.
const MOST_IDLE: &str = "10s";

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct PostgresStore {
    pub(crate) pool: PgPool,
    /// Whoever waits for work of the platform; there from the first that waits.
    pub(crate) wake: Arc<OnceLock<Arc<watch::Sender<u64>>>>,
}

impl PostgresStore {
    /// Connects to the database of this URL with at most so many connections, and brings it to the current schema. Processes that start
    /// together wait for the first to do so.
    pub async fn open(url: &str, most_connections: u32) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url).map_err(|error| StoreError::Unusable {
            path: "on PostgreSQL".into(),
            reason: format!(
                "its URL is not understood ({error}). It is written postgres://user:password@host:5432/database, with what is special in a password as %XX"
            ),
        })?;
        let unusable = |error: sqlx::Error| StoreError::Unusable {
            path: shown(&options),
            reason: explain(&error),
        };
        let named = match options.get_application_name() {
            Some(_) => options.clone(),
            None => options.clone().application_name("connector runtime"),
        };
        // A pool answers a database that refuses with nothing but a timeout: one connection is made without it.
        let mut waits = Waits::new();
        loop {
            match sqlx::postgres::PgConnection::connect_with(&named).await {
                Ok(connection) => {
                    connection.close().await.map_err(unusable)?;
                    break;
                }
                Err(error) => match waits.after(error).await {
                    Ok(()) => {}
                    Err(StoreError::Database(error)) => return Err(unusable(error)),
                    Err(error) => return Err(error),
                },
            }
        }
        let pool = PgPoolOptions::new()
            .max_connections(most_connections)
            .min_connections(0)
            .acquire_timeout(PATIENCE)
            .after_connect(|connection, _| {
                Box::pin(async move {
                    // A commit that a power failure takes back would be a cursor ahead of its ledger.
                    sqlx::query(
                        "SELECT set_config('idle_in_transaction_session_timeout', $1, false),
                                set_config('synchronous_commit', CASE current_setting('synchronous_commit')
                                           WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)",
                    )
                    .bind(MOST_IDLE)
                    .execute(connection)
                    .await
                    .map(drop)
                })
            })
            .connect_lazy_with(named);
        sqlx::migrate!("migrations/postgres").run(&pool).await?;
        Ok(Self {
            pool,
            wake: Arc::default(),
        })
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// A transaction that has locked the connection's row, if the epoch is the current one.
    pub(crate) async fn fenced(
        &self,
        lease: Lease,
    ) -> Result<Transaction<'static, Postgres>, StoreError> {
        Ok(begin_fenced(&self.pool, lease).await?.0)
    }
}

/// The database without the password.
fn shown(options: &PgConnectOptions) -> String {
    let place = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => options.get_host().to_owned(),
    };
    format!(
        "postgres://{}:***@{place}:{}/{}",
        options.get_username(),
        options.get_port(),
        options.get_database().unwrap_or(options.get_username()),
    )
}

fn to_json<T: Serialize + ?Sized>(rows: &T) -> Result<String, StoreError> {
    Ok(nul::without_in_json(serde_json::to_string(rows)?))
}
