//! Statements and transactions that outlive a restart of the database.
//!
//! A database that is restarted, fails over or has no connection to spare is away for seconds, and a run must not fail for it. What is asked
//! is asked again, with growing waits, until [`PATIENCE`] has passed. A transaction is therefore a list of statements, which can be
//! repeated from its beginning.
//!
//! A connection that breaks off during `COMMIT` leaves open whether it happened. PostgreSQL knows: each transaction notes its number, and
//! after reconnecting the database is asked what became of it (`pg_xact_status`). It is repeated only if it was not committed, so that counts
//! are right and nothing is done twice.

use std::time::Duration;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgPool, Postgres, Row as _, Transaction};
use tokio::time::{Instant, sleep};

use super::super::{Lease, StoreError};
use super::PostgresStore;
use super::nul;

/// How long a database may be away. A restart after a crash takes seconds, a change of the primary some twenty.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// A value of a statement.
#[derive(Debug, Clone, Copy)]
pub(super) enum With<'a> {
    Text(&'a str),
    OptionalText(Option<&'a str>),
    Texts(&'a [&'a str]),
    /// From [`to_json`](super::to_json).
    Json(&'a str),
    Number(i64),
    Numbers(&'a [i64]),
    Real(f64),
    Flag(bool),
    Bytes(&'a [&'a [u8]]),
}

/// A statement with its values: `$1` is the connection, what is given here begins with `$2`.
pub(super) struct Step<'a> {
    pub(super) sql: &'static str,
    pub(super) with: Vec<With<'a>>,
}

impl<'a> Step<'a> {
    pub(super) fn new(sql: &'static str, with: impl Into<Vec<With<'a>>>) -> Self {
        Self {
            sql,
            with: with.into(),
        }
    }

    fn bound(&self, connection: i64) -> Query<'_, Postgres, PgArguments> {
        let mut query = sqlx::query(self.sql).bind(connection);
        for value in &self.with {
            query = match *value {
                With::Text(text) => query.bind(nul::without(text).into_owned()),
                With::OptionalText(text) => {
                    query.bind(text.map(|text| nul::without(text).into_owned()))
                }
                With::Texts(texts) => query.bind(
                    texts
                        .iter()
                        .map(|text| nul::without(text).into_owned())
                        .collect::<Vec<_>>(),
                ),
                With::Json(json) => query.bind(json),
                With::Number(number) => query.bind(number),
                With::Numbers(numbers) => query.bind(numbers),
                With::Real(real) => query.bind(real),
                With::Flag(flag) => query.bind(flag),
                With::Bytes(bytes) => query.bind(bytes),
            };
        }
        query
    }
}

/// The waits between two tries.
pub(crate) struct Waits {
    until: Instant,
    next: Duration,
}

impl Waits {
    pub(crate) fn new() -> Self {
        Self {
            until: Instant::now() + PATIENCE,
            next: FIRST_WAIT,
        }
    }

    /// Waits, if it makes sense to try again after this error; hands it back if not.
    pub(crate) async fn after(&mut self, error: sqlx::Error) -> Result<(), StoreError> {
        if !passes(&error) || Instant::now() + self.next > self.until {
            return Err(error.into());
        }
        sleep(self.next).await;
        self.next = (self.next * 2).min(LONGEST_WAIT);
        Ok(())
    }
}

/// Whether the same may succeed in a moment.
fn passes(error: &sqlx::Error) -> bool {
    use std::io::ErrorKind;
    match error {
        // A socket that is not there belongs to a server that does not run.
        sqlx::Error::Io(error) => matches!(
            error.kind(),
            ErrorKind::ConnectionRefused
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
                | ErrorKind::NotConnected
                | ErrorKind::UnexpectedEof
                | ErrorKind::TimedOut
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
                | ErrorKind::NotFound
        ),
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // Broken connections; a server that shuts down, crashed, or begins; no connection to spare; a transaction idle for too
            // long, as of a process that was frozen; two that waited for each other.
            code.starts_with("08")
                || matches!(
                    &*code,
                    "57P01" | "57P02" | "57P03" | "53300" | "25P03" | "40001" | "40P01"
                )
        }),
        _ => false,
    }
}

/// A transaction that holds the connection's row, with its number.
///
/// PostgreSQL knows nothing of a page's size. It takes each list for a hundred rows, a list within each for ten thousand, and would rather
/// walk a table of millions than look up so many. The transactions look things up by key and do nothing else, so they do without
/// the joins that walk.
pub(super) async fn begin_fenced(
    pool: &PgPool,
    lease: Lease,
) -> Result<(Transaction<'static, Postgres>, String), StoreError> {
    let mut transaction = pool.begin().await?;
    let held = sqlx::query(
        "UPDATE connections SET epoch = epoch WHERE id = $1 AND epoch = $2
         RETURNING pg_current_xact_id()::text AS number, set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)",
    )
    .bind(lease.connection)
    .bind(lease.epoch)
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or(StoreError::Fenced)?;
    Ok((transaction, held.try_get("number")?))
}

enum Attempt {
    Committed(Vec<u64>),
    Unknown {
        number: String,
        affected: Vec<u64>,
        error: sqlx::Error,
    },
}

impl PostgresStore {
    /// The rows that a statement finds.
    pub(super) async fn read(
        &self,
        connection: i64,
        sql: &'static str,
        with: &[With<'_>],
    ) -> Result<Vec<PgRow>, StoreError> {
        let step = Step::new(sql, with);
        let mut waits = Waits::new();
        loop {
            match step.bound(connection).fetch_all(&self.pool).await {
                Ok(rows) => return Ok(rows),
                Err(error) => waits.after(error).await?,
            }
        }
    }

    /// The rows that a statement without values finds, of all connections.
    pub(super) async fn read_everywhere(
        &self,
        sql: &'static str,
    ) -> Result<Vec<PgRow>, StoreError> {
        let mut waits = Waits::new();
        loop {
            match sqlx::query(sql).fetch_all(&self.pool).await {
                Ok(rows) => return Ok(rows),
                Err(error) => waits.after(error).await?,
            }
        }
    }

    /// Runs the statements in one transaction behind the check of the epoch. Returns how many rows each affected.
    pub(super) async fn write(
        &self,
        lease: Lease,
        steps: &[Step<'_>],
    ) -> Result<Vec<u64>, StoreError> {
        let mut waits = Waits::new();
        loop {
            match self.attempt(lease, steps).await {
                Ok(Attempt::Committed(affected)) => return Ok(affected),
                Ok(Attempt::Unknown {
                    number,
                    affected,
                    error,
                }) => {
                    waits.after(error).await?;
                    if self.was_committed(&number, &mut waits).await? {
                        return Ok(affected);
                    }
                }
                Err(StoreError::Database(error)) => waits.after(error).await?,
                Err(error) => return Err(error),
            }
        }
    }

    async fn attempt(&self, lease: Lease, steps: &[Step<'_>]) -> Result<Attempt, StoreError> {
        let (mut transaction, number) = begin_fenced(&self.pool, lease).await?;
        let mut affected = Vec::with_capacity(steps.len());
        for step in steps {
            let done = step.bound(lease.connection).execute(&mut *transaction);
            affected.push(done.await?.rows_affected());
        }
        match transaction.commit().await {
            Ok(()) => Ok(Attempt::Committed(affected)),
            Err(error) if passes(&error) => Ok(Attempt::Unknown {
                number,
                affected,
                error,
            }),
            Err(error) => Err(error.into()),
        }
    }

    async fn was_committed(&self, number: &str, waits: &mut Waits) -> Result<bool, StoreError> {
        loop {
            let status = sqlx::query_scalar("SELECT pg_xact_status($1::text::xid8)")
                .bind(number)
                .fetch_one(&self.pool)
                .await;
            match status.map(|status: Option<String>| status) {
                Ok(Some(status)) if status == "committed" => return Ok(true),
                // Its session has not noticed yet that nobody is there.
                Ok(Some(status)) if status == "in progress" => {
                    waits
                        .after(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))
                        .await?;
                }
                Ok(_) => return Ok(false),
                // A number that this server has not reached: another took over and never saw the transaction.
                Err(sqlx::Error::Database(error))
                    if error.code().is_some_and(|code| code == "22023") =>
                {
                    return Ok(false);
                }
                Err(error) => waits.after(error).await?,
            }
        }
    }
}
