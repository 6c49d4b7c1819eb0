//! The embedded store: one SQLite file beside the cursors.
//!
//! One writer connection and a few readers, WAL, `BEGIN IMMEDIATE` only; nothing else is awaited inside a write transaction. A page of
//! rows goes in as one JSON array and one statement, because a statement for each row costs a thread hop each and would make the
//! ledger the slowest part of a backfill. Where the elements are objects it is `jsonb_each`, which hands them over parsed; `json_each` would
//! print each and parse it again for each field. Such statements say `CROSS JOIN`: SQLite knows nothing of the array's size and would
//! otherwise walk the whole table for each page (`explain` in the tests holds it to that).
//!
//! `synchronous=NORMAL`: a transaction survives the process, and the machine once `sync` was called. That is done where something outside
//! relies on it: at the end of `begin`, because what was sent cannot be unsent, and before the writer moves a cursor. Receipts and all else
//! that a power failure takes before the next of these is found out again: the version is still begun, and comes out the same, under the
//! same key.

mod letters;
mod mapped;
mod rebuilding;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection as _, Row, Sqlite, Transaction};
use tokio::sync::watch;

use super::log::Log;
use super::{
    Begun, ConnectionRow, DeadLetter, Entry, HeldRecord, KeptLetter, Lease, LeftOut, Obsolete,
    Part, RUNS_KEPT, RebuiltEntry, Receipt, Recorded, Settled, Status, Store, StoreError,
    StreamEnd, StreamRow, ago, unsigned,
};

/// The number of a new row of `connections`: never one that was given before, though its connection may be deleted.
macro_rules! next_number {
    () => {
        "(SELECT max(coalesce(max(id), 0), (SELECT last FROM ledger_numbers)) + 1 FROM connections)"
    };
}
pub(crate) use next_number;

/// Rows of one statement. What a statement may have to undo, SQLite keeps in memory until it ends: a copy of each page that it touches.
const ROWS: usize = 125;

/// Whoever asks while another reads waits. A run seldom asks twice at a time, and each reader takes a third of a mebibyte.
const READERS_OF_A_RUN: u32 = 1;
/// Of a platform, whose lists must not wait for a long count.
const READERS: u32 = 2;
/// For a reader that is busy: as long as the largest ledger takes to be counted on a slow disk.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// Of one reader, in KiB as SQLite writes it. The default of two mebibytes for each bought nothing: a page that was read once is seldom
/// asked for again, and the system keeps the file in memory, too.
const READER_CACHE: &str = "-256";
/// Of the writer.
const WRITER_CACHE: &str = "-512";

/// Latest versions of the wanted records.
const SELECT_ENTRIES: &str =
    "SELECT entries.source_id, digest, generation, scope, status, event_id, preceded_by,
                    (SELECT unixepoch('subsec') - begun_at FROM events AS first WHERE first.connection = entries.connection
                        AND first.source_id = entries.source_id AND first.generation = entries.generation AND first.fragment = 0)
                    AS begun_ago
             FROM json_each(?) AS wanted
             CROSS JOIN entries ON entries.connection = ? AND entries.source_id = wanted.value";

/// Versions that are about to be sent.
const BEGIN_ENTRIES: &str = "INSERT INTO entries (connection, source_id, record, event_type, stream, root, scope, digest, generation, status, preceded_by)
             SELECT ?1, value ->> 'source_id', value ->> 'record', value ->> 'event_type', value ->> 'stream', value ->> 'root', value ->> 'scope',
                    value ->> 'digest', value ->> 'generation', 'begun', value -> 'preceded_by'
             FROM jsonb_each(?2) WHERE true
             ON CONFLICT (connection, source_id) DO UPDATE SET
                    stream = excluded.stream, root = excluded.root, scope = excluded.scope, digest = excluded.digest,
                    generation = excluded.generation, status = 'begun', preceded_by = excluded.preceded_by";

/// Their fragments.
const BEGIN_EVENTS: &str = "INSERT INTO events (connection, source_id, generation, fragment, scope, key, state, begun_at)
             SELECT ?1, version.value ->> 'source_id', version.value ->> 'generation', fragment.key, version.value ->> 'scope',
                    fragment.value, 'begun', unixepoch('subsec')
             FROM jsonb_each(?2) AS version, json_each(version.value, '$.keys') AS fragment WHERE true
             ON CONFLICT (connection, source_id, generation, fragment) DO NOTHING";

/// Receipts of fragments.
const SETTLE_EVENTS: &str = "INSERT INTO events (connection, source_id, generation, fragment, scope, key, event_id, state)
             SELECT known.connection, known.source_id, known.generation, known.fragment, known.scope, known.key, fragment.value, 'live'
             FROM jsonb_each(?2) AS version
             CROSS JOIN json_each(version.value, '$.event_ids') AS fragment
             CROSS JOIN events AS known ON known.connection = ?1 AND known.source_id = version.value ->> 'source_id'
                  AND known.generation = version.value ->> 'generation' AND known.fragment = fragment.key
             WHERE true
             ON CONFLICT (connection, source_id, generation, fragment) DO UPDATE SET event_id = excluded.event_id, state = excluded.state";

/// Versions that a settled one replaces.
const RETIRE_EVENTS: &str = "UPDATE events SET state = 'obsolete' WHERE id IN (
                 SELECT known.id FROM jsonb_each(?2) AS version
                 CROSS JOIN events AS known ON known.connection = ?1 AND known.source_id = version.value ->> 'source_id'
                      AND known.generation < version.value ->> 'generation'
                 WHERE NOT (version.value ->> 'appends') AND json_array_length(version.value, '$.event_ids') > 0
                      AND (version.value ->> 'generation') > 1 AND known.state IN ('begun', 'live'))";

/// Fates of records.
const SETTLE_ENTRIES: &str = "INSERT INTO entries (connection, source_id, record, event_type, stream, root, scope, digest, generation, status, event_id, preceded_by)
             SELECT known.connection, known.source_id, known.record, known.event_type, known.stream, known.root, known.scope, known.digest,
                    known.generation, iif(version.value ->> '$.event_ids[0]' IS NULL, 'dead', 'live'),
                    coalesce(version.value ->> '$.event_ids[0]', known.event_id), known.preceded_by
             FROM jsonb_each(?2) AS version
             CROSS JOIN entries AS known ON known.connection = ?1 AND known.source_id = version.value ->> 'source_id'
                  AND known.generation = version.value ->> 'generation'
             WHERE true
             ON CONFLICT (connection, source_id) DO UPDATE SET status = excluded.status, event_id = excluded.event_id";

/// What was refused before and is taken now.
const SETTLE_LETTERS: &str = "DELETE FROM dead_letters WHERE connection = ?1 AND EXISTS (SELECT 1 FROM dead_letters WHERE connection = ?1)
                AND source_id IN (SELECT value ->> 'source_id' FROM jsonb_each(?2) WHERE json_array_length(value, '$.event_ids') > 0)";

/// Records, the turns of the threads that they opened, and what mappers made of them. Left to itself the planner walks all entries.
const AFFECTED: &str = "SELECT value FROM json_each(?2)
             UNION SELECT turn.source_id FROM json_each(?2) AS wanted
             CROSS JOIN entries AS turn INDEXED BY entries_by_root ON turn.connection = ?1 AND turn.root = wanted.value AND turn.root <> ''
             UNION SELECT part.source_id FROM json_each(?2) AS wanted
             CROSS JOIN entries AS part INDEXED BY entries_parts ON part.connection = ?1 AND part.record = wanted.value
                  AND part.record <> part.source_id";

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct SqliteStore {
    pub(crate) writer: SqlitePool,
    pub(crate) readers: SqlitePool,
    /// The write-ahead log; `None` where nothing is written to a disk.
    log: Option<Arc<Log>>,
    /// Whoever waits for work of the platform, in this process.
    pub(crate) wake: Arc<watch::Sender<u64>>,
}

impl SqliteStore {
    /// Opens the ledger file of one connection, creating it (mode 0600) and bringing it to the current schema.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_for(path, READERS_OF_A_RUN).await
    }

    /// The same for a platform with all its connections.
    pub async fn open_for_many(path: &Path) -> Result<Self, StoreError> {
        Self::open_for(path, READERS).await
    }

    async fn open_for(path: &Path, most_readers: u32) -> Result<Self, StoreError> {
        let unusable = |reason: String| StoreError::Unusable {
            path: path.display().to_string(),
            reason,
        };
        create_private(path).map_err(|error| {
            unusable(format!(
                "{error}. Check that the directory exists and can be written"
            ))
        })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(10));
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            // A commit that failed (a full disk) was rolled back by SQLite itself; sqlx still counts the transaction, for ever.
            .before_acquire(|connection, _| {
                let usable = !connection.is_in_transaction();
                Box::pin(async move { Ok(usable) })
            })
            .connect_with(options.clone().pragma("cache_size", WRITER_CACHE))
            .await
            .map_err(|error| unusable(explain(&error)))?;
        sqlx::migrate!("migrations/sqlite").run(&writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(most_readers)
            .min_connections(0)
            .acquire_timeout(PATIENCE)
            .connect_lazy_with(options.read_only(true).pragma("cache_size", READER_CACHE));
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        Ok(Self {
            writer,
            readers,
            log: Some(Arc::new(Log::new(log.into()))),
            wake: Arc::default(),
        })
    }

    /// A ledger that lives in memory and ends with the process: for dry runs on a machine without state.
    pub async fn in_memory() -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new().in_memory(true);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await?;
        sqlx::migrate!("migrations/sqlite").run(&writer).await?;
        Ok(Self {
            readers: writer.clone(),
            writer,
            log: None,
            wake: Arc::default(),
        })
    }

    /// Opens an existing ledger for looking only. `None` where there is none yet.
    pub async fn open_read_only(path: &Path) -> Result<Option<Self>, StoreError> {
        if !path.exists() {
            return Ok(None);
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            .busy_timeout(Duration::from_secs(10));
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options)
            .await
            .map_err(|error| StoreError::Unusable {
                path: path.display().to_string(),
                reason: explain(&error),
            })?;
        let applied: i64 =
            sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations")
                .fetch_one(&readers)
                .await?;
        let wanted = sqlx::migrate!("migrations/sqlite")
            .iter()
            .map(|one| one.version)
            .max();
        if wanted.is_some_and(|wanted| applied < wanted) {
            return Err(StoreError::Unusable {
                path: path.display().to_string(),
                reason: "an earlier version of this program wrote it. The next `runtime run` brings it up to date".into(),
            });
        }
        Ok(Some(Self {
            writer: readers.clone(),
            readers,
            log: None,
            wake: Arc::default(),
        }))
    }

    /// Closes all connections, which folds the write-ahead log into the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// A transaction that writes, if the epoch is the current one.
    pub(crate) async fn fenced(
        &self,
        lease: Lease,
    ) -> Result<Transaction<'static, Sqlite>, StoreError> {
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let held = sqlx::query("UPDATE connections SET epoch = epoch WHERE id = ? AND epoch = ?")
            .bind(lease.connection)
            .bind(lease.epoch)
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        if held == 0 {
            return Err(StoreError::Fenced);
        }
        Ok(transaction)
    }
}

fn explain(error: &sqlx::Error) -> String {
    let text = error.to_string();
    if text.contains("not a database") || text.contains("malformed") {
        format!("{text}. Move the file away and run again: it is rebuilt")
    } else {
        text
    }
}

fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

fn to_json<T: Serialize + ?Sized>(rows: &T) -> Result<String, StoreError> {
    Ok(serde_json::to_string(rows)?)
}

/// What to do where the machine is at fault.
pub(super) fn advice(code: &str) -> Option<&'static str> {
    // The lowest eight bits are SQLite's result; above them it says where in its code.
    match code.parse::<u32>().ok()? & 0xff {
        8 => Some("make its folder writable"),
        10 => Some("look for room on the disk, a limit on file sizes and the disk's health"),
        13 => Some("make room on its disk"),
        _ => None,
    }
}

impl SqliteStore {
    /// One statement over a connection and a list, if the lease is the current one.
    async fn change_some<T: Serialize>(
        &self,
        lease: Lease,
        sql: &'static str,
        list: &[T],
    ) -> Result<(), StoreError> {
        let mut transaction = self.fenced(lease).await?;
        sqlx::query(sql)
            .bind(lease.connection)
            .bind(to_json(list)?)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn claim(&self, name: &str, owner: &str, ttl: Duration) -> Result<Lease, StoreError> {
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(concat!(
            "INSERT INTO connections (id, name) VALUES (",
            next_number!(),
            ", ?) ON CONFLICT (name) DO NOTHING"
        ))
        .bind(name)
        .execute(&mut *transaction)
        .await?;
        let row = sqlx::query(
            "SELECT id, owner, lease_until - unixepoch('subsec') AS rest FROM connections WHERE name = ?",
        )
        .bind(name)
        .fetch_one(&mut *transaction)
        .await?;
        let rest: f64 = row.try_get("rest")?;
        let holder: String = row.try_get("owner")?;
        if rest > 0.0 && holder != owner {
            #[allow(clippy::cast_possible_truncation, reason = "a lease lasts seconds")]
            let seconds = rest.ceil() as i64;
            return Err(StoreError::Held {
                owner: holder,
                seconds,
            });
        }
        let connection: i64 = row.try_get("id")?;
        let epoch: i64 = sqlx::query(
            "UPDATE connections SET epoch = epoch + 1, owner = ?, lease_until = unixepoch('subsec') + ? WHERE id = ? RETURNING epoch",
        )
        .bind(owner)
        .bind(ttl.as_secs_f64())
        .bind(connection)
        .fetch_one(&mut *transaction)
        .await?
        .try_get("epoch")?;
        transaction.commit().await?;
        Ok(Lease { connection, epoch })
    }

    async fn confirm(&self, lease: Lease) -> Result<(), StoreError> {
        Ok(self.fenced(lease).await?.commit().await?)
    }

    async fn renew(&self, lease: Lease, ttl: Duration) -> Result<(), StoreError> {
        let mut transaction = self.fenced(lease).await?;
        sqlx::query(
            "UPDATE connections SET lease_until = unixepoch('subsec') + ? WHERE id = ? AND lease_until > 0",
        )
        .bind(ttl.as_secs_f64())
        .bind(lease.connection)
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }

    async fn release(&self, lease: Lease) -> Result<(), StoreError> {
        let mut transaction = self.fenced(lease).await?;
        sqlx::query("UPDATE connections SET lease_until = 0, owner = '' WHERE id = ?")
            .bind(lease.connection)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    async fn origins(
        &self,
        connection: i64,
    ) -> Result<HashMap<String, BTreeMap<String, String>>, StoreError> {
        let rows = sqlx::query("SELECT origin, variables FROM origins WHERE connection = ?")
            .bind(connection)
            .fetch_all(&self.readers)
            .await?;
        rows.into_iter()
            .map(|row| {
                let variables: String = row.try_get("variables")?;
                Ok((row.try_get("origin")?, serde_json::from_str(&variables)?))
            })
            .collect()
    }

    async fn pin_origin(
        &self,
        lease: Lease,
        origin: &str,
        variables: &BTreeMap<String, String>,
    ) -> Result<(), StoreError> {
        let json = to_json(variables)?;
        let mut transaction = self.fenced(lease).await?;
        sqlx::query("INSERT INTO origins (connection, origin, variables) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
            .bind(lease.connection)
            .bind(origin)
            .bind(json)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        // The cursors do not know this: lost, it would be pinned to another place.
        self.sync().await
    }

    async fn sync(&self) -> Result<(), StoreError> {
        match &self.log {
            Some(log) => log.sync().await,
            None => Ok(()),
        }
    }

    async fn known_scopes(&self, connection: i64) -> Result<HashSet<String>, StoreError> {
        self.read_known_scopes(connection).await
    }

    async fn rebuild(
        &self,
        lease: Lease,
        scope: &str,
        found: &[RebuiltEntry],
    ) -> Result<(), StoreError> {
        self.take_over(lease, scope, found).await
    }

    async fn dead_letters(
        &self,
        connection: i64,
        source_ids: Option<&[&str]>,
    ) -> Result<Vec<KeptLetter>, StoreError> {
        self.read_letters(connection, source_ids).await
    }

    async fn list_letters(
        &self,
        connection: i64,
        after: Option<&str>,
        most: u32,
    ) -> Result<Vec<KeptLetter>, StoreError> {
        self.page_of_letters(connection, after, most).await
    }

    async fn count_letters(&self, connection: i64) -> Result<u64, StoreError> {
        let count = sqlx::query_scalar("SELECT count(*) FROM dead_letters WHERE connection = ?")
            .bind(connection)
            .fetch_one(&self.readers)
            .await?;
        Ok(unsigned(count))
    }

    async fn revive(&self, lease: Lease, source_ids: &[&str]) -> Result<(), StoreError> {
        self.revive_refused(lease, source_ids).await
    }

    async fn drop_letters(&self, lease: Lease, source_ids: &[&str]) -> Result<u64, StoreError> {
        self.let_go(lease, source_ids).await
    }

    async fn entries(
        &self,
        connection: i64,
        source_ids: &[&str],
    ) -> Result<HashMap<String, Entry>, StoreError> {
        if source_ids.is_empty() {
            return Ok(HashMap::new());
        }
        let rows = sqlx::query(SELECT_ENTRIES)
            .bind(to_json(source_ids)?)
            .bind(connection)
            .fetch_all(&self.readers)
            .await?;
        rows.into_iter()
            .map(|row| {
                let preceded_by: String = row.try_get("preceded_by")?;
                let status: String = row.try_get("status")?;
                let entry = Entry {
                    digest: row.try_get("digest")?,
                    generation: unsigned(row.try_get("generation")?),
                    scope: row.try_get("scope")?,
                    status: Status::parse(&status),
                    event_id: row.try_get("event_id")?,
                    preceded_by: serde_json::from_str(&preceded_by)?,
                    begun_ago: ago(row.try_get("begun_ago")?),
                };
                Ok((row.try_get("source_id")?, entry))
            })
            .collect()
    }

    async fn begin(&self, lease: Lease, versions: &[Begun<'_>]) -> Result<(), StoreError> {
        let mut transaction = self.fenced(lease).await?;
        for versions in versions.chunks(ROWS) {
            let json = to_json(versions)?;
            for sql in [BEGIN_ENTRIES, BEGIN_EVENTS] {
                sqlx::query(sql)
                    .bind(lease.connection)
                    .bind(&json)
                    .execute(&mut *transaction)
                    .await?;
            }
        }
        transaction.commit().await?;
        // Lost and sent all the same, it would be an event that nobody knows of.
        self.sync().await
    }

    async fn settle(
        &self,
        lease: Lease,
        settled: &[Settled<'_>],
        dead: &[DeadLetter],
    ) -> Result<(), StoreError> {
        let replaces = settled.iter().any(Settled::replaces);
        let settled = settled.chunks(ROWS).map(to_json);
        let settled = settled.collect::<Result<Vec<_>, _>>()?;
        let mut transaction = self.fenced(lease).await?;
        // Replaced versions, those whose receipt never came among them, are to be forgotten. Observations stay.
        let retire = replaces.then_some(RETIRE_EVENTS);
        let receipts = [SETTLE_EVENTS].into_iter().chain(retire);
        for sql in receipts.chain([SETTLE_ENTRIES, SETTLE_LETTERS]) {
            for rows in &settled {
                sqlx::query(sql)
                    .bind(lease.connection)
                    .bind(rows)
                    .execute(&mut *transaction)
                    .await?;
            }
        }
        if !dead.is_empty() {
            sqlx::query(
                "INSERT INTO dead_letters (connection, source_id, stream, reason, payload, first_seen, last_seen)
                 SELECT ?1, value ->> 'source_id', value ->> 'stream', value ->> 'reason', value ->> 'payload',
                        strftime('%FT%TZ'), strftime('%FT%TZ')
                 FROM json_each(?2) WHERE true
                 ON CONFLICT (connection, source_id) DO UPDATE SET
                        stream = excluded.stream, reason = excluded.reason, payload = excluded.payload,
                        last_seen = excluded.last_seen, attempts = attempts + 1",
            )
            .bind(lease.connection)
            .bind(to_json(dead)?)
            .execute(&mut *transaction)
            .await?;
        }
        Ok(transaction.commit().await?)
    }

    async fn retract(&self, lease: Lease, source_ids: &[String]) -> Result<u64, StoreError> {
        let json = to_json(source_ids)?;
        let mut transaction = self.fenced(lease).await?;
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "DELETE FROM recorded WHERE connection = ?1 AND (source_id IN (SELECT value FROM json_each(?2))
             OR source_id IN (SELECT record FROM entries WHERE connection = ?1 AND source_id IN ({AFFECTED})))"
        )))
        .bind(lease.connection)
        .bind(&json)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "UPDATE events SET state = 'obsolete' WHERE connection = ?1 AND state IN ('begun', 'live')
             AND source_id IN ({AFFECTED})"
        )))
        .bind(lease.connection)
        .bind(&json)
        .execute(&mut *transaction)
        .await?;
        // A text that is gone or became confidential is neither shown nor sent any more.
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "DELETE FROM dead_letters WHERE connection = ?1 AND source_id IN ({AFFECTED})"
        )))
        .bind(lease.connection)
        .bind(&json)
        .execute(&mut *transaction)
        .await?;
        let records = sqlx::query(sqlx::AssertSqlSafe(format!(
            "UPDATE entries SET status = 'retracted', event_id = NULL WHERE connection = ?1 AND status <> 'retracted' AND source_id IN ({AFFECTED})"
        )))
        .bind(lease.connection)
        .bind(&json)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        transaction.commit().await?;
        Ok(records)
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
        let rows = sqlx::query(
            "SELECT record AS source_id, max(root) AS root, max(event_id IS NOT NULL) AS acknowledged FROM entries
             WHERE connection = ? AND stream = ? AND event_type = ? AND record > ?
               AND status <> 'retracted' AND (event_id IS NOT NULL OR status IN ('begun', 'dead'))
             GROUP BY record ORDER BY record LIMIT ?",
        )
        .bind(connection)
        .bind(stream)
        .bind(event_type)
        .bind(after)
        .bind(most)
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter()
            .map(|row| {
                let root: String = row.try_get("root")?;
                Ok(HeldRecord {
                    source_id: row.try_get("source_id")?,
                    root: Some(root).filter(|root| !root.is_empty()),
                    acknowledged: row.try_get("acknowledged")?,
                })
            })
            .collect()
    }

    async fn parts(
        &self,
        connection: i64,
        records: &[&str],
    ) -> Result<HashMap<String, Vec<Part>>, StoreError> {
        self.read_parts(connection, records).await
    }

    async fn leave_out(&self, lease: Lease, left: &[LeftOut]) -> Result<(), StoreError> {
        self.let_mappers_leave_out(lease, left).await
    }

    async fn left_out_in_stream(
        &self,
        connection: i64,
        stream: &str,
    ) -> Result<HashSet<String>, StoreError> {
        self.read_left_out(connection, stream).await
    }

    async fn keep_recorded(&self, lease: Lease, records: &[Recorded]) -> Result<(), StoreError> {
        self.keep_as_recorded(lease, records).await
    }

    async fn drop_recorded(&self, lease: Lease, source_ids: &[&str]) -> Result<(), StoreError> {
        let sql = "DELETE FROM recorded WHERE connection = ? AND source_id IN (SELECT value FROM json_each(?))";
        self.change_some(lease, sql, source_ids).await
    }

    async fn recorded_bytes(&self, connection: i64) -> Result<u64, StoreError> {
        self.sum_recorded(connection).await
    }

    async fn trim_recorded(&self, lease: Lease, most_bytes: u64) -> Result<u64, StoreError> {
        self.drop_oldest_recorded(lease, most_bytes).await
    }

    async fn recorded(
        &self,
        connection: i64,
        after: i64,
        most: u32,
    ) -> Result<Vec<(i64, Recorded)>, StoreError> {
        self.read_recorded(connection, after, most).await
    }

    async fn not_recorded(&self, connection: i64) -> Result<u64, StoreError> {
        self.count_not_recorded(connection).await
    }

    async fn mapped_by(&self, connection: i64) -> Result<String, StoreError> {
        self.read_mapped_by(connection).await
    }

    async fn set_mapped_by(&self, lease: Lease, chain: &str) -> Result<(), StoreError> {
        self.write_mapped_by(lease, chain).await
    }

    async fn held_by_stream(&self, connection: i64) -> Result<Vec<(String, u64)>, StoreError> {
        let rows = sqlx::query(
            "SELECT stream, count(*) AS n FROM entries
             WHERE connection = ? AND status <> 'retracted' AND event_id IS NOT NULL GROUP BY stream",
        )
        .bind(connection)
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter()
            .map(|row| Ok((row.try_get("stream")?, unsigned(row.try_get("n")?))))
            .collect()
    }

    async fn refused_in_stream(
        &self,
        connection: i64,
        stream: &str,
    ) -> Result<HashSet<String>, StoreError> {
        let rows =
            sqlx::query("SELECT source_id FROM dead_letters WHERE connection = ? AND stream = ?")
                .bind(connection)
                .bind(stream)
                .fetch_all(&self.readers)
                .await?;
        rows.into_iter()
            .map(|row| Ok(row.try_get("source_id")?))
            .collect()
    }

    async fn obsolete(
        &self,
        connection: i64,
        after: i64,
        most: u32,
    ) -> Result<Vec<Obsolete>, StoreError> {
        let rows = sqlx::query("SELECT id, scope, event_id, key, source_id, generation, fragment, unixepoch('subsec') - begun_at AS begun_ago
             FROM events WHERE connection = ? AND state = 'obsolete' AND id > ? ORDER BY id LIMIT ?")
            .bind(connection)
            .bind(after)
            .bind(most)
            .fetch_all(&self.readers)
            .await?;
        rows.into_iter()
            .map(|row| {
                Ok(Obsolete {
                    row: row.try_get("id")?,
                    scope: row.try_get("scope")?,
                    event_id: row.try_get("event_id")?,
                    key: row.try_get("key")?,
                    source_id: row.try_get("source_id")?,
                    generation: unsigned(row.try_get("generation")?),
                    fragment: unsigned(row.try_get("fragment")?),
                    begun_ago: ago(row.try_get("begun_ago")?),
                })
            })
            .collect()
    }

    async fn count_obsolete(&self, connection: i64) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query(
            "SELECT count(*) AS n FROM events WHERE connection = ? AND state = 'obsolete'",
        )
        .bind(connection)
        .fetch_one(&self.readers)
        .await?
        .try_get("n")?;
        Ok(unsigned(count))
    }

    async fn forgotten(&self, lease: Lease, rows: &[i64]) -> Result<(), StoreError> {
        let sql =
            "DELETE FROM events WHERE connection = ? AND id IN (SELECT value FROM json_each(?))";
        self.change_some(lease, sql, rows).await
    }

    async fn kept(&self, lease: Lease, rows: &[i64]) -> Result<(), StoreError> {
        let sql = "UPDATE events SET state = 'kept' WHERE connection = ? AND id IN (SELECT value FROM json_each(?))";
        self.change_some(lease, sql, rows).await
    }

    async fn end_streams(&self, lease: Lease, ends: &[StreamEnd<'_>]) -> Result<(), StoreError> {
        let mut transaction = self.fenced(lease).await?;
        for end in ends {
            sqlx::query(
                "INSERT INTO streams (connection, stream, state, detail, at, complete_at)
                 VALUES (?1, ?2, ?3, ?4, strftime('%FT%TZ'), iif(?3 = 'complete', strftime('%FT%TZ'), NULL))
                 ON CONFLICT (connection, stream) DO UPDATE SET state = excluded.state, detail = excluded.detail, at = excluded.at,
                     complete_at = coalesce(excluded.complete_at, complete_at)",
            )
            .bind(lease.connection)
            .bind(end.stream)
            .bind(end.state)
            .bind(end.detail)
            .execute(&mut *transaction)
            .await?;
        }
        Ok(transaction.commit().await?)
    }

    async fn finish_run(&self, lease: Lease, receipt_json: &str) -> Result<(), StoreError> {
        // What is no receipt would make the statements below fail for every run to come.
        serde_json::from_str::<Receipt>(receipt_json)?;
        let mut transaction = self.fenced(lease).await?;
        sqlx::query(
            "INSERT INTO runs (connection, ended_at, receipt) VALUES (?, strftime('%FT%TZ'), ?)",
        )
        .bind(lease.connection)
        .bind(receipt_json)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "DELETE FROM runs WHERE connection = ?1 AND id NOT IN (SELECT id FROM runs WHERE connection = ?1 ORDER BY id DESC LIMIT ?2)
             AND id IS NOT (SELECT max(id) FROM runs WHERE connection = ?1 AND receipt ->> 'reconciled')",
        )
        .bind(lease.connection)
        .bind(RUNS_KEPT)
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }

    async fn last_reconcile(&self, connection: i64) -> Result<Option<String>, StoreError> {
        Ok(sqlx::query(
            "SELECT ended_at FROM runs WHERE connection = ? AND receipt ->> 'reconciled' ORDER BY id DESC LIMIT 1",
        )
        .bind(connection)
        .fetch_optional(&self.readers)
        .await?
        .map(|row| row.try_get("ended_at"))
        .transpose()?)
    }

    async fn go_on_with_pass(
        &self,
        lease: Lease,
        mark: &str,
        most_rest: Duration,
    ) -> Result<Vec<String>, StoreError> {
        let mut transaction = self.fenced(lease).await?;
        sqlx::query(
            "DELETE FROM passes WHERE connection = ?1
             AND (mark <> ?2 OR (SELECT max(at) FROM passes WHERE connection = ?1) <= unixepoch('subsec') - ?3)",
        )
        .bind(lease.connection)
        .bind(mark)
        .bind(most_rest.as_secs_f64())
        .execute(&mut *transaction)
        .await?;
        let streams =
            sqlx::query_scalar("SELECT stream FROM passes WHERE connection = ? ORDER BY stream")
                .bind(lease.connection)
                .fetch_all(&mut *transaction)
                .await?;
        transaction.commit().await?;
        Ok(streams)
    }

    async fn add_to_pass(
        &self,
        lease: Lease,
        mark: &str,
        streams: &[&str],
    ) -> Result<(), StoreError> {
        let mut transaction = self.fenced(lease).await?;
        sqlx::query(
            "INSERT OR REPLACE INTO passes (connection, stream, mark, at)
             SELECT ?1, value, ?2, unixepoch('subsec') FROM json_each(?3)",
        )
        .bind(lease.connection)
        .bind(mark)
        .bind(to_json(streams)?)
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }

    async fn end_pass(&self, lease: Lease) -> Result<(), StoreError> {
        let mut transaction = self.fenced(lease).await?;
        sqlx::query("DELETE FROM passes WHERE connection = ?")
            .bind(lease.connection)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    async fn connections(&self) -> Result<Vec<ConnectionRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, name,
                    (SELECT count(*) FROM dead_letters WHERE connection = connections.id) AS dead_letters,
                    (SELECT count(*) FROM events WHERE connection = connections.id AND state = 'obsolete') AS obsolete,
                    (SELECT ended_at FROM runs WHERE connection = connections.id ORDER BY id DESC LIMIT 1) AS ended_at,
                    (SELECT receipt FROM runs WHERE connection = connections.id ORDER BY id DESC LIMIT 1) AS receipt
             FROM connections ORDER BY name",
        )
        .fetch_all(&self.readers)
        .await?;
        let mut connections = Vec::with_capacity(rows.len());
        for row in rows {
            let id: i64 = row.try_get("id")?;
            let counts = sqlx::query("SELECT event_type, count(*) AS n FROM entries WHERE connection = ? AND status = 'live' GROUP BY event_type")
                .bind(id)
                .fetch_all(&self.readers)
                .await?;
            let mut live = BTreeMap::new();
            for count in counts {
                live.insert(count.try_get("event_type")?, unsigned(count.try_get("n")?));
            }
            let ended_at: Option<String> = row.try_get("ended_at")?;
            let receipt: Option<String> = row.try_get("receipt")?;
            connections.push(ConnectionRow {
                id,
                name: row.try_get("name")?,
                live,
                dead_letters: unsigned(row.try_get("dead_letters")?),
                obsolete: unsigned(row.try_get("obsolete")?),
                last_run: ended_at.zip(receipt),
                last_reconcile: self.last_reconcile(id).await?,
            });
        }
        Ok(connections)
    }

    async fn streams(&self, connection: i64) -> Result<Vec<StreamRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT stream, state, detail, at, complete_at FROM streams WHERE connection = ? ORDER BY stream",
        )
        .bind(connection)
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(StreamRow {
                    stream: row.try_get("stream")?,
                    state: row.try_get("state")?,
                    detail: row.try_get("detail")?,
                    at: row.try_get("at")?,
                    complete_at: row.try_get("complete_at")?,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_no_database_is_named_and_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("connectors.db");
        std::fs::write(&path, "this is not a database, it is a diary").unwrap();
        let error = SqliteStore::open(&path).await.unwrap_err().to_string();
        assert!(error.contains("connectors.db"), "{error}");
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "this is not a database, it is a diary"
        );
    }

    #[tokio::test]
    async fn a_version_is_not_begun_before_the_disk_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = SqliteStore::open(&folder.path().join("connectors.db"))
            .await
            .unwrap();
        let lease = store
            .claim("gitlab", "test", Duration::from_secs(30))
            .await
            .unwrap();
        store.begin(lease, &[]).await.unwrap();
        // There is nothing that could be synced, and the system says so.
        store.log = Some(Arc::new(Log::new("/dev/null".into())));
        let error = store.begin(lease, &[]).await.unwrap_err().to_string();
        assert!(error.contains("/dev/null"), "{error}");
    }

    #[tokio::test]
    async fn a_page_is_looked_up_by_key_and_never_by_walking_the_table() {
        let store = SqliteStore::in_memory().await.unwrap();
        for sql in [
            SELECT_ENTRIES,
            SETTLE_EVENTS,
            RETIRE_EVENTS,
            SETTLE_ENTRIES,
            mapped::SELECT_PARTS,
            AFFECTED,
        ] {
            let plan = sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")))
                .bind(1)
                .bind("[]")
                .fetch_all(&store.writer)
                .await
                .unwrap();
            let steps: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
            let walked = steps.iter().find(|step| step.ends_with("(connection=?)"));
            assert!(
                walked.is_none() && steps.iter().any(|step| step.contains("(connection=? AND ")),
                "{sql}\n{steps:#?}"
            );
        }
    }
}
