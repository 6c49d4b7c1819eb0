//! The ledger on PostgreSQL: for more than one process on more than one machine.
//!
//! PostgreSQL does the replication, the locks and the durable log; this is some SQL beside it. The promises are those of the embedded
//! store, and one suite holds both to them ([`conformance`](super::conformance)). A page of rows goes in as one JSON document and one statement, as there.
//! The clock is the database's (`clock_timestamp()`), the same for all machines.
//!
//! The first statement of each transaction that writes locks the connection's row and checks its epoch: who was taken over is refused, and
//! who takes over waits for a commit that is under way. A process that is frozen within a transaction would make it wait
//! for ever, so the database ends a transaction that is idle for as long as a lease lasts, or for [`MOST_IDLE`]. What a restart of the database means to a statement is
//! in [`transaction`].

mod nul;
mod pages;
#[cfg(test)]
mod tests;
mod transaction;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::str::FromStr as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::{Connection as _, PgPool, Postgres, Row as _, Transaction};
use tokio::sync::watch;

use super::rebuilt::{CHUNK, Row};
use super::{
    Begun, ConnectionRow, DeadLetter, Entry, HeldRecord, KeptLetter, Lease, LeftOut, Obsolete,
    Part, RUNS_KEPT, RebuiltEntry, Receipt, Recorded, Settled, Status, Store, StoreError,
    StreamEnd, StreamRow, ago, explain, unsigned,
};
pub(crate) use transaction::Waits;
use transaction::{PATIENCE, Step, With, begin_fenced};

/// How long the database lets a transaction be idle at the most. None of ours waits for anything but the database.
pub(crate) const MOST_IDLE: Duration = Duration::from_secs(10);

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct PostgresStore {
    pub(crate) pool: PgPool,
    /// Whoever waits for work of the platform; there from the first that waits.
    pub(crate) wake: Arc<OnceLock<Arc<watch::Sender<u64>>>>,
}

impl PostgresStore {
    /// Connects to the database of this URL with at most so many connections, and brings it to the current schema. Processes that start
    /// together wait for the first to do so. `lease` is how long this process holds connections: frozen in the middle of a transaction,
    /// it keeps nobody waiting for longer than that.
    pub async fn open(
        url: &str,
        most_connections: u32,
        lease: Duration,
    ) -> Result<Self, StoreError> {
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
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    // A commit that a power failure takes back would be a cursor ahead of its ledger. Compiling a statement takes
                    // longer than any of ours.
                    sqlx::query(
                        "SELECT set_config('idle_in_transaction_session_timeout', $1, false), set_config('jit', 'off', false),
                                set_config('synchronous_commit', CASE current_setting('synchronous_commit')
                                           WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)",
                    )
                    .bind(format!("{}ms", lease.min(MOST_IDLE).as_millis()))
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
    #[allow(dead_code, reason = "for the platform's store")]
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

fn letter(row: &PgRow) -> Result<KeptLetter, StoreError> {
    Ok(KeptLetter {
        letter: DeadLetter {
            source_id: row.text("source_id")?,
            stream: row.text("stream")?,
            reason: row.text("reason")?,
            payload: row.text("payload")?,
        },
        first_seen: row.try_get("first_seen")?,
        last_seen: row.try_get("last_seen")?,
        attempts: unsigned(row.try_get("attempts")?),
    })
}

fn to_json<T: Serialize + ?Sized>(rows: &T) -> Result<String, StoreError> {
    Ok(nul::without_in_json(serde_json::to_string(rows)?))
}

/// What to do where the server or the settings are at fault.
pub(super) fn advice(code: &str) -> Option<&'static str> {
    match code {
        "28000" | "28P01" => Some("check the user and the password of its URL"),
        "3D000" => Some("create the database that its URL names"),
        "42501" => Some("give its user the right to create tables in the database's schema"),
        "25006" => Some("give the address of the primary; this server only lets read"),
        "53100" => Some("make room on its disk"),
        "53300" => Some("raise its max_connections, or give this program fewer"),
        "57P01" | "57P02" | "57P03" => Some("wait for the server, which is stopping or starting"),
        _ => None,
    }
}

/// Text as it was given; see [`nul`].
trait Text {
    fn text(&self, column: &str) -> Result<String, sqlx::Error>;
    fn optional_text(&self, column: &str) -> Result<Option<String>, sqlx::Error>;
}

impl Text for PgRow {
    fn text(&self, column: &str) -> Result<String, sqlx::Error> {
        self.try_get(column).map(nul::back)
    }

    fn optional_text(&self, column: &str) -> Result<Option<String>, sqlx::Error> {
        let text: Option<String> = self.try_get(column)?;
        Ok(text.map(nul::back))
    }
}

/// Records, the turns of the threads that they opened, and what mappers made of them.
macro_rules! affected {
    () => {
        "connection = $1 AND (source_id = ANY($2::text[]) OR (root <> '' AND root = ANY($2::text[]))
         OR (record <> source_id AND record = ANY($2::text[])))"
    };
}

#[async_trait]
impl Store for PostgresStore {
    async fn claim(&self, name: &str, owner: &str, ttl: Duration) -> Result<Lease, StoreError> {
        // Repeated after a commit of unknown outcome it takes over from itself: the owner is the same.
        let mut waits = Waits::new();
        loop {
            match self.claim_once(name, owner, ttl).await {
                Err(StoreError::Database(error)) => waits.after(error).await?,
                result => return result,
            }
        }
    }

    async fn confirm(&self, lease: Lease) -> Result<(), StoreError> {
        self.write(lease, &[]).await.map(drop)
    }

    async fn renew(&self, lease: Lease, ttl: Duration) -> Result<(), StoreError> {
        let step = Step::new(
            "UPDATE connections SET lease_until = extract(epoch FROM clock_timestamp())::float8 + $2 WHERE id = $1 AND lease_until > 0",
            [With::Real(ttl.as_secs_f64())],
        );
        self.write(lease, &[step]).await.map(drop)
    }

    async fn release(&self, lease: Lease) -> Result<(), StoreError> {
        let step = Step::new(
            "UPDATE connections SET lease_until = 0, owner = '' WHERE id = $1",
            [],
        );
        self.write(lease, &[step]).await.map(drop)
    }

    async fn origins(
        &self,
        connection: i64,
    ) -> Result<HashMap<String, BTreeMap<String, String>>, StoreError> {
        let sql = "SELECT origin, variables FROM origins WHERE connection = $1";
        let rows = self.read(connection, sql, &[]).await?;
        rows.into_iter()
            .map(|row| {
                let variables = row.text("variables")?;
                Ok((row.text("origin")?, serde_json::from_str(&variables)?))
            })
            .collect()
    }

    async fn pin_origin(
        &self,
        lease: Lease,
        origin: &str,
        variables: &BTreeMap<String, String>,
    ) -> Result<(), StoreError> {
        let json = serde_json::to_string(variables)?;
        let step = Step::new(
            "INSERT INTO origins (connection, origin, variables) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            [With::Text(origin), With::Text(&json)],
        );
        self.write(lease, &[step]).await.map(drop)
    }

    /// Nothing is left to do: each commit waits for the disk.
    async fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn known_scopes(&self, connection: i64) -> Result<HashSet<String>, StoreError> {
        let sql = "SELECT scope FROM scopes WHERE connection = $1";
        let rows = self.read(connection, sql, &[]).await?;
        rows.iter().map(|row| Ok(row.text("scope")?)).collect()
    }

    async fn rebuild(
        &self,
        lease: Lease,
        scope: &str,
        found: &[RebuiltEntry],
    ) -> Result<(), StoreError> {
        let mut chunks = Vec::with_capacity(found.len().div_ceil(CHUNK));
        for chunk in found.chunks(CHUNK) {
            chunks.push(to_json(&chunk.iter().map(Row::of).collect::<Vec<_>>())?);
        }
        let mut steps = Vec::with_capacity(2 * chunks.len() + 1);
        for json in &chunks {
            steps.push(Step::new(pages::REBUILD_EVENTS, [With::Json(json)]));
            steps.push(Step::new(pages::REBUILD_ENTRIES, [With::Json(json)]));
        }
        steps.push(Step::new(
            "INSERT INTO scopes (connection, scope) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            [With::Text(scope)],
        ));
        self.write(lease, &steps).await.map(drop)
    }

    async fn entries(
        &self,
        connection: i64,
        source_ids: &[&str],
    ) -> Result<HashMap<String, Entry>, StoreError> {
        if source_ids.is_empty() {
            return Ok(HashMap::new());
        }
        let rows = self
            .read(
                connection,
                pages::SELECT_ENTRIES,
                &[With::Texts(source_ids)],
            )
            .await?;
        rows.into_iter()
            .map(|row| {
                let status: String = row.try_get("status")?;
                let entry = Entry {
                    digest: row.text("digest")?,
                    generation: unsigned(row.try_get("generation")?),
                    scope: row.text("scope")?,
                    status: Status::parse(&status),
                    event_id: row.optional_text("event_id")?,
                    preceded_by: texts(&row, "preceded_by")?,
                    begun_ago: ago(row.try_get("begun_ago")?),
                };
                Ok((row.text("source_id")?, entry))
            })
            .collect()
    }

    async fn begin(&self, lease: Lease, versions: &[Begun<'_>]) -> Result<(), StoreError> {
        let json = to_json(versions)?;
        let steps = [pages::BEGIN_ENTRIES, pages::BEGIN_EVENTS]
            .map(|sql| Step::new(sql, [With::Json(&json)]));
        self.write(lease, &steps).await.map(drop)
    }

    async fn settle(
        &self,
        lease: Lease,
        settled: &[Settled<'_>],
        dead: &[DeadLetter],
    ) -> Result<(), StoreError> {
        let replaces = settled.iter().any(Settled::replaces);
        let settled = to_json(settled)?;
        let letters = to_json(dead)?;
        let statements = [
            (pages::SETTLE_EVENTS, true),
            (pages::RETIRE_EVENTS, replaces),
            (pages::SETTLE_ENTRIES, true),
            (pages::SETTLE_LETTERS, true),
        ];
        let mut steps: Vec<Step<'_>> = statements
            .into_iter()
            .filter(|(_, needed)| *needed)
            .map(|(sql, _)| Step::new(sql, [With::Json(&settled)]))
            .collect();
        if !dead.is_empty() {
            steps.push(Step::new(pages::KEEP_LETTERS, [With::Json(&letters)]));
        }
        self.write(lease, &steps).await.map(drop)
    }

    async fn retract(&self, lease: Lease, source_ids: &[String]) -> Result<u64, StoreError> {
        let source_ids: Vec<&str> = source_ids.iter().map(String::as_str).collect();
        let steps = [
            concat!(
                "DELETE FROM recorded WHERE connection = $1
                 AND source_id IN (SELECT unnest($2::text[]) UNION SELECT record FROM entries WHERE ",
                affected!(),
                ")"
            ),
            concat!(
                "UPDATE events SET state = 'obsolete' WHERE connection = $1 AND state IN ('begun', 'live')
                 AND source_id IN (SELECT source_id FROM entries WHERE ",
                affected!(),
                ")"
            ),
            // A text that is gone or became confidential is neither shown nor sent any more.
            concat!(
                "DELETE FROM dead_letters WHERE connection = $1
                 AND source_id IN (SELECT unnest($2::text[]) UNION SELECT source_id FROM entries WHERE ",
                affected!(),
                ")"
            ),
            concat!(
                "UPDATE entries SET status = 'retracted', event_id = NULL WHERE status <> 'retracted' AND ",
                affected!()
            ),
        ]
        .map(|sql| Step::new(sql, [With::Texts(&source_ids)]));
        Ok(last(&self.write(lease, &steps).await?))
    }

    async fn parts(
        &self,
        connection: i64,
        records: &[&str],
    ) -> Result<HashMap<String, Vec<Part>>, StoreError> {
        let rows = self
            .read(connection, pages::SELECT_PARTS, &[With::Texts(records)])
            .await?;
        let mut parts: HashMap<String, Vec<Part>> = HashMap::new();
        for row in rows {
            let status: String = row.try_get("status")?;
            parts.entry(row.text("record")?).or_default().push(Part {
                source_id: row.text("source_id")?,
                status: Status::parse(&status),
            });
        }
        Ok(parts)
    }

    async fn leave_out(&self, lease: Lease, left: &[LeftOut]) -> Result<(), StoreError> {
        let json = to_json(left)?;
        let steps = [
            pages::LEAVE_OUT_EVENTS,
            pages::LEAVE_OUT_ENTRIES,
            pages::LEAVE_OUT_LETTERS,
        ]
        .map(|sql| Step::new(sql, [With::Json(&json)]));
        self.write(lease, &steps).await.map(drop)
    }

    async fn left_out_in_stream(
        &self,
        connection: i64,
        stream: &str,
    ) -> Result<HashSet<String>, StoreError> {
        let sql = "SELECT source_id FROM entries WHERE connection = $1 AND stream = $2 AND status = 'left_out'";
        let rows = self.read(connection, sql, &[With::Text(stream)]).await?;
        rows.iter().map(|row| Ok(row.text("source_id")?)).collect()
    }

    async fn keep_recorded(&self, lease: Lease, records: &[Recorded]) -> Result<(), StoreError> {
        let column = |of: fn(&Recorded) -> &str| records.iter().map(of).collect::<Vec<_>>();
        let source_ids = column(|record| &record.source_id);
        let streams = column(|record| &record.stream);
        let origins = column(|record| &record.origin);
        let digests = column(|record| &record.digest);
        let bodies: Vec<&[u8]> = records
            .iter()
            .map(|record| record.body.as_slice())
            .collect();
        let step = Step::new(
            pages::KEEP_RECORDED,
            [
                With::Texts(&source_ids),
                With::Texts(&streams),
                With::Texts(&origins),
                With::Texts(&digests),
                With::Bytes(&bodies),
            ],
        );
        self.write(lease, &[step]).await.map(drop)
    }

    async fn drop_recorded(&self, lease: Lease, source_ids: &[&str]) -> Result<(), StoreError> {
        let step = Step::new(
            "DELETE FROM recorded WHERE connection = $1 AND source_id = ANY($2::text[])",
            [With::Texts(source_ids)],
        );
        self.write(lease, &[step]).await.map(drop)
    }

    async fn recorded_bytes(&self, connection: i64) -> Result<u64, StoreError> {
        let sql = "SELECT coalesce(sum(length(body)), 0)::bigint AS n FROM recorded WHERE connection = $1";
        self.count(connection, sql).await
    }

    async fn trim_recorded(&self, lease: Lease, most_bytes: u64) -> Result<u64, StoreError> {
        let step = Step::new(
            "DELETE FROM recorded WHERE connection = $1 AND seq <= (
                 SELECT max(seq) FROM (SELECT seq, sum(length(body)) OVER (ORDER BY seq DESC) AS newer
                                       FROM recorded WHERE connection = $1) AS sums WHERE newer > $2)",
            [With::Number(i64::try_from(most_bytes).unwrap_or(i64::MAX))],
        );
        Ok(last(&self.write(lease, &[step]).await?))
    }

    async fn recorded(
        &self,
        connection: i64,
        after: i64,
        most: u32,
    ) -> Result<Vec<(i64, Recorded)>, StoreError> {
        let rows = self
            .read(
                connection,
                "SELECT seq, source_id, stream, origin, digest, body FROM recorded
                 WHERE connection = $1 AND seq > $2 ORDER BY seq LIMIT $3",
                &[With::Number(after), With::Number(most.into())],
            )
            .await?;
        rows.into_iter()
            .map(|row| {
                let record = Recorded {
                    source_id: row.text("source_id")?,
                    stream: row.text("stream")?,
                    origin: row.text("origin")?,
                    digest: row.text("digest")?,
                    body: row.try_get("body")?,
                };
                Ok((row.try_get("seq")?, record))
            })
            .collect()
    }

    async fn not_recorded(&self, connection: i64) -> Result<u64, StoreError> {
        let sql = "SELECT count(DISTINCT record) AS n FROM entries
             WHERE connection = $1 AND status IN ('live', 'begun', 'dead', 'left_out')
               AND NOT EXISTS (SELECT 1 FROM recorded WHERE recorded.connection = $1 AND recorded.source_id = entries.record)";
        self.count(connection, sql).await
    }

    async fn mapped_by(&self, connection: i64) -> Result<String, StoreError> {
        let sql = "SELECT mapped_by FROM connections WHERE id = $1";
        let rows = self.read(connection, sql, &[]).await?;
        let chain = rows.first().map(|row| row.text("mapped_by")).transpose()?;
        Ok(chain.unwrap_or_default())
    }

    async fn set_mapped_by(&self, lease: Lease, chain: &str) -> Result<(), StoreError> {
        let step = Step::new(
            "UPDATE connections SET mapped_by = $2 WHERE id = $1",
            [With::Text(chain)],
        );
        self.write(lease, &[step]).await.map(drop)
    }

    async fn held(
        &self,
        connection: i64,
        stream: &str,
        event_type: &str,
        after: &str,
        most: u32,
    ) -> Result<Vec<HeldRecord>, StoreError> {
        // A version that was begun and has no receipt may have arrived: it has to be forgotten with the others. One that was refused is kept as a
        // letter, and could be sent from there.
        let rows = self
            .read(
                connection,
                "SELECT record, max(root) AS root, bool_or(event_id IS NOT NULL) AS acknowledged FROM entries
                 WHERE connection = $1 AND stream = $2 AND event_type = $3 AND record > $4
                   AND status <> 'retracted' AND (event_id IS NOT NULL OR status IN ('begun', 'dead'))
                 GROUP BY record ORDER BY record LIMIT $5",
                &[
                    With::Text(stream),
                    With::Text(event_type),
                    With::Text(after),
                    With::Number(most.into()),
                ],
            )
            .await?;
        rows.into_iter()
            .map(|row| {
                let root = row.text("root")?;
                Ok(HeldRecord {
                    source_id: row.text("record")?,
                    root: Some(root).filter(|root| !root.is_empty()),
                    acknowledged: row.try_get("acknowledged")?,
                })
            })
            .collect()
    }

    async fn held_by_stream(&self, connection: i64) -> Result<Vec<(String, u64)>, StoreError> {
        let sql = "SELECT stream, count(*) AS n FROM entries
             WHERE connection = $1 AND status <> 'retracted' AND event_id IS NOT NULL GROUP BY stream ORDER BY stream";
        let rows = self.read(connection, sql, &[]).await?;
        rows.into_iter()
            .map(|row| Ok((row.text("stream")?, unsigned(row.try_get("n")?))))
            .collect()
    }

    async fn refused_in_stream(
        &self,
        connection: i64,
        stream: &str,
    ) -> Result<HashSet<String>, StoreError> {
        let sql = "SELECT source_id FROM dead_letters WHERE connection = $1 AND stream = $2";
        let rows = self.read(connection, sql, &[With::Text(stream)]).await?;
        rows.iter().map(|row| Ok(row.text("source_id")?)).collect()
    }

    async fn obsolete(
        &self,
        connection: i64,
        after: i64,
        most: u32,
    ) -> Result<Vec<Obsolete>, StoreError> {
        let rows = self
            .read(
                connection,
                "SELECT id, scope, event_id, key, source_id, generation, fragment,
                        extract(epoch FROM clock_timestamp())::float8 - begun_at AS begun_ago
                 FROM events WHERE connection = $1 AND state = 'obsolete' AND id > $2 ORDER BY id LIMIT $3",
                &[With::Number(after), With::Number(most.into())],
            )
            .await?;
        rows.into_iter()
            .map(|row| {
                Ok(Obsolete {
                    row: row.try_get("id")?,
                    scope: row.text("scope")?,
                    event_id: row.optional_text("event_id")?,
                    key: row.text("key")?,
                    source_id: row.text("source_id")?,
                    generation: unsigned(row.try_get("generation")?),
                    fragment: unsigned(row.try_get("fragment")?),
                    begun_ago: ago(row.try_get("begun_ago")?),
                })
            })
            .collect()
    }

    async fn count_obsolete(&self, connection: i64) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) AS n FROM events WHERE connection = $1 AND state = 'obsolete'";
        self.count(connection, sql).await
    }

    async fn forgotten(&self, lease: Lease, rows: &[i64]) -> Result<(), StoreError> {
        let step = Step::new(
            "DELETE FROM events WHERE connection = $1 AND id = ANY($2)",
            [With::Numbers(rows)],
        );
        self.write(lease, &[step]).await.map(drop)
    }

    async fn kept(&self, lease: Lease, rows: &[i64]) -> Result<(), StoreError> {
        let step = Step::new(
            "UPDATE events SET state = 'kept' WHERE connection = $1 AND id = ANY($2)",
            [With::Numbers(rows)],
        );
        self.write(lease, &[step]).await.map(drop)
    }

    async fn dead_letters(
        &self,
        connection: i64,
        source_ids: Option<&[&str]>,
    ) -> Result<Vec<KeptLetter>, StoreError> {
        let all = source_ids.is_none();
        let rows = self
            .read(
                connection,
                "SELECT source_id, stream, reason, payload, first_seen, last_seen, attempts FROM dead_letters
                 WHERE connection = $1 AND ($2 OR source_id = ANY($3::text[])) ORDER BY source_id",
                &[With::Flag(all), With::Texts(source_ids.unwrap_or_default())],
            )
            .await?;
        rows.iter().map(letter).collect()
    }

    async fn list_letters(
        &self,
        connection: i64,
        after: Option<&str>,
        most: u32,
    ) -> Result<Vec<KeptLetter>, StoreError> {
        let rows = self
            .read(
                connection,
                "SELECT source_id, stream, reason, '' AS payload, first_seen, last_seen, attempts FROM dead_letters
                 WHERE connection = $1 AND ($2::text IS NULL OR source_id > $2) ORDER BY source_id LIMIT $3",
                &[With::OptionalText(after), With::Number(i64::from(most))],
            )
            .await?;
        rows.iter().map(letter).collect()
    }

    async fn count_letters(&self, connection: i64) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) AS n FROM dead_letters WHERE connection = $1";
        self.count(connection, sql).await
    }

    async fn revive(&self, lease: Lease, source_ids: &[&str]) -> Result<(), StoreError> {
        let step = Step::new(
            "UPDATE entries SET status = 'begun' WHERE connection = $1 AND status = 'dead' AND source_id = ANY($2::text[])",
            [With::Texts(source_ids)],
        );
        self.write(lease, &[step]).await.map(drop)
    }

    async fn drop_letters(&self, lease: Lease, source_ids: &[&str]) -> Result<u64, StoreError> {
        let steps = [
            "UPDATE entries SET status = 'dropped' WHERE connection = $1 AND status = 'dead' AND source_id = ANY($2::text[])
             AND source_id IN (SELECT source_id FROM dead_letters WHERE connection = $1)",
            "DELETE FROM dead_letters WHERE connection = $1 AND source_id = ANY($2::text[])",
        ]
        .map(|sql| Step::new(sql, [With::Texts(source_ids)]));
        Ok(last(&self.write(lease, &steps).await?))
    }

    async fn end_streams(&self, lease: Lease, ends: &[StreamEnd<'_>]) -> Result<(), StoreError> {
        let json = to_json(ends)?;
        let step = Step::new(pages::END_STREAMS, [With::Json(&json)]);
        self.write(lease, &[step]).await.map(drop)
    }

    async fn finish_run(&self, lease: Lease, receipt_json: &str) -> Result<(), StoreError> {
        let receipt: Receipt = serde_json::from_str(receipt_json)?;
        let steps = [
            Step::new(
                "INSERT INTO runs (connection, ended_at, receipt, reconciled)
                 VALUES ($1, to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), $2, $3)",
                [With::Text(receipt_json), With::Flag(receipt.reconciled)],
            ),
            Step::new(
                "DELETE FROM runs WHERE connection = $1
                 AND id NOT IN (SELECT id FROM runs WHERE connection = $1 ORDER BY id DESC LIMIT $2)
                 AND id IS DISTINCT FROM (SELECT max(id) FROM runs WHERE connection = $1 AND reconciled)",
                [With::Number(RUNS_KEPT)],
            ),
        ];
        self.write(lease, &steps).await.map(drop)
    }

    async fn last_reconcile(&self, connection: i64) -> Result<Option<String>, StoreError> {
        let sql = "SELECT ended_at FROM runs WHERE connection = $1 AND reconciled ORDER BY id DESC LIMIT 1";
        let rows = self.read(connection, sql, &[]).await?;
        Ok(rows
            .first()
            .map(|row| row.try_get("ended_at"))
            .transpose()?)
    }

    async fn go_on_with_pass(
        &self,
        lease: Lease,
        mark: &str,
        most_rest: Duration,
    ) -> Result<Vec<String>, StoreError> {
        // Only who holds the lease writes here: nothing comes between the two.
        let step = Step::new(
            "DELETE FROM passes WHERE connection = $1
             AND (mark <> $2 OR (SELECT max(at) FROM passes WHERE connection = $1)
                                <= extract(epoch FROM clock_timestamp())::float8 - $3)",
            [With::Text(mark), With::Real(most_rest.as_secs_f64())],
        );
        self.write(lease, &[step]).await?;
        let sql = "SELECT stream FROM passes WHERE connection = $1 ORDER BY stream";
        let rows = self.read(lease.connection, sql, &[]).await?;
        rows.iter().map(|row| Ok(row.text("stream")?)).collect()
    }

    async fn add_to_pass(
        &self,
        lease: Lease,
        mark: &str,
        streams: &[&str],
    ) -> Result<(), StoreError> {
        let step = Step::new(
            "INSERT INTO passes (connection, stream, mark, at)
             SELECT DISTINCT $1::bigint, stream, $2, extract(epoch FROM now())::float8 FROM unnest($3::text[]) AS compared (stream)
             ON CONFLICT (connection, stream) DO UPDATE SET mark = excluded.mark, at = excluded.at",
            [With::Text(mark), With::Texts(streams)],
        );
        self.write(lease, &[step]).await.map(drop)
    }

    async fn end_pass(&self, lease: Lease) -> Result<(), StoreError> {
        let step = Step::new("DELETE FROM passes WHERE connection = $1", []);
        self.write(lease, &[step]).await.map(drop)
    }

    async fn connections(&self) -> Result<Vec<ConnectionRow>, StoreError> {
        let mut live: HashMap<i64, BTreeMap<String, u64>> = HashMap::new();
        let counts = self
            .read_everywhere(
                "SELECT connection, event_type, count(*) AS n FROM entries WHERE status = 'live' GROUP BY connection, event_type",
            )
            .await?;
        for row in counts {
            let of = live.entry(row.try_get("connection")?).or_default();
            of.insert(row.text("event_type")?, unsigned(row.try_get("n")?));
        }
        let rows = self
            .read_everywhere(
                "SELECT id, name,
                        (SELECT count(*) FROM dead_letters WHERE connection = connections.id) AS dead_letters,
                        (SELECT count(*) FROM events WHERE connection = connections.id AND state = 'obsolete') AS obsolete,
                        last.ended_at, last.receipt,
                        (SELECT ended_at FROM runs WHERE connection = connections.id AND reconciled ORDER BY id DESC LIMIT 1)
                        AS last_reconcile
                 FROM connections
                 LEFT JOIN LATERAL (SELECT ended_at, receipt FROM runs WHERE connection = connections.id ORDER BY id DESC LIMIT 1)
                      AS last ON true
                 ORDER BY name",
            )
            .await?;
        rows.into_iter()
            .map(|row| {
                let id: i64 = row.try_get("id")?;
                let ended_at: Option<String> = row.try_get("ended_at")?;
                Ok(ConnectionRow {
                    id,
                    name: row.text("name")?,
                    live: live.remove(&id).unwrap_or_default(),
                    dead_letters: unsigned(row.try_get("dead_letters")?),
                    obsolete: unsigned(row.try_get("obsolete")?),
                    last_run: ended_at.zip(row.optional_text("receipt")?),
                    last_reconcile: row.try_get("last_reconcile")?,
                })
            })
            .collect()
    }

    async fn streams(&self, connection: i64) -> Result<Vec<StreamRow>, StoreError> {
        let sql = "SELECT stream, state, detail, at, complete_at FROM streams WHERE connection = $1 ORDER BY stream";
        let rows = self.read(connection, sql, &[]).await?;
        rows.into_iter()
            .map(|row| {
                Ok(StreamRow {
                    stream: row.text("stream")?,
                    state: row.text("state")?,
                    detail: row.text("detail")?,
                    at: row.try_get("at")?,
                    complete_at: row.try_get("complete_at")?,
                })
            })
            .collect()
    }
}

impl PostgresStore {
    async fn claim_once(
        &self,
        name: &str,
        owner: &str,
        ttl: Duration,
    ) -> Result<Lease, StoreError> {
        let name = nul::without(name);
        let owner = nul::without(owner);
        let mut transaction = self.pool.begin().await?;
        // The row is there already with nearly every claim, and an insert that conflicts would use up a number each time.
        sqlx::query(
            "INSERT INTO connections (name) SELECT $1 WHERE NOT EXISTS (SELECT 1 FROM connections WHERE name = $1)
             ON CONFLICT (name) DO NOTHING",
        )
        .bind(&*name)
        .execute(&mut *transaction)
        .await?;
        let row = sqlx::query(
            "SELECT id, owner, lease_until - extract(epoch FROM clock_timestamp())::float8 AS rest FROM connections WHERE name = $1 FOR UPDATE",
        )
        .bind(&*name)
        .fetch_one(&mut *transaction)
        .await?;
        let rest: f64 = row.try_get("rest")?;
        let holder = row.text("owner")?;
        if rest > 0.0 && holder != nul::back(owner.clone().into_owned()) {
            #[allow(clippy::cast_possible_truncation, reason = "a lease lasts seconds")]
            let seconds = rest.ceil() as i64;
            return Err(StoreError::Held {
                owner: holder,
                seconds,
            });
        }
        let connection: i64 = row.try_get("id")?;
        let epoch: i64 = sqlx::query_scalar(
            "UPDATE connections SET epoch = epoch + 1, owner = $2, lease_until = extract(epoch FROM clock_timestamp())::float8 + $3
             WHERE id = $1 RETURNING epoch",
        )
        .bind(connection)
        .bind(&*owner)
        .bind(ttl.as_secs_f64())
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Lease { connection, epoch })
    }

    async fn count(&self, connection: i64, sql: &'static str) -> Result<u64, StoreError> {
        let rows = self.read(connection, sql, &[]).await?;
        let count = rows.first().map(|row| row.try_get("n")).transpose()?;
        Ok(unsigned(count.unwrap_or_default()))
    }
}

/// How many rows the last statement affected.
fn last(affected: &[u64]) -> u64 {
    affected.last().copied().unwrap_or_default()
}

/// A JSON list of texts.
fn texts(row: &PgRow, column: &str) -> Result<Vec<String>, StoreError> {
    let json: String = row.try_get(column)?;
    let texts: Vec<String> = serde_json::from_str(&json)?;
    Ok(texts.into_iter().map(nul::back).collect())
}
