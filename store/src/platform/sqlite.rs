//! The platform's store in SQLite, for one machine: what differs from PostgreSQL, and the SQL that both share.
//!
//! What an owner changed, and what was received, is synced to the disk before it is acknowledged. What a run writes is not: a power failure takes
//! the latest of it, never the middle, and it is read again.

use std::path::Path;

use sqlx::{Sqlite, SqlitePool, Transaction};
use tokio::sync::watch;

use super::Result;
use crate::ledger::{SqliteStore, Store as _, StoreError};

/// Milliseconds since 1970.
macro_rules! now {
    () => {
        "CAST(round(unixepoch('subsec') * 1000) AS INTEGER)"
    };
}

/// Seconds since 1970, as in the lease.
macro_rules! clock {
    () => {
        "unixepoch('subsec')"
    };
}

/// The next place in the queue of tenants.
macro_rules! turn {
    () => {
        "(SELECT coalesce(max(served), 0) + 1 FROM tenants)"
    };
}

/// The number of a new row of `connections`.
macro_rules! next_number {
    () => {
        crate::ledger::next_number!()
    };
}

/// The elements of a JSON array, as rows with a column `value`.
macro_rules! rows {
    ($parameter:literal) => {
        concat!("json_each(", $parameter, ")")
    };
}

/// The texts of a JSON array, for `IN`.
macro_rules! listed {
    ($parameter:literal) => {
        concat!("(SELECT value FROM json_each(", $parameter, "))")
    };
}

/// There is one writer: whoever writes has locked everything.
macro_rules! lock {
    ($($which:literal)?) => {
        ""
    };
}

/// As [`lock`].
macro_rules! lock_shared {
    () => {
        ""
    };
}

/// As [`lock`].
macro_rules! lock_free {
    ($($which:literal)?) => {
        ""
    };
}

type Db = Sqlite;
type Backend = SqliteStore;

fn reading(store: &SqliteStore) -> &SqlitePool {
    &store.readers
}

async fn writing(
    store: &SqliteStore,
) -> std::result::Result<Transaction<'static, Sqlite>, StoreError> {
    Ok(store.writer.begin_with("BEGIN IMMEDIATE").await?)
}

/// What was committed survives a power failure after this.
async fn keep(store: &SqliteStore) -> std::result::Result<(), StoreError> {
    store.sync().await
}

/// Commits, and wakes whoever waits for work.
async fn commit_and_wake(
    store: &SqliteStore,
    transaction: Transaction<'static, Sqlite>,
) -> std::result::Result<(), StoreError> {
    transaction.commit().await?;
    store
        .wake
        .send_modify(|count| *count = count.wrapping_add(1));
    Ok(())
}

/// A file is not away for a moment; that another process writes is waited for below.
async fn patiently<T, F: Future<Output = Result<T>>>(mut attempt: impl FnMut() -> F) -> Result<T> {
    attempt().await
}

fn wakeups(store: &SqliteStore) -> watch::Receiver<u64> {
    store.wake.subscribe()
}

impl SqliteStore {
    /// Copies the whole store, as it is at one moment, into a new file (mode 0600), while it is in use.
    pub async fn backup(&self, path: &Path) -> std::result::Result<(), StoreError> {
        let unusable = |reason: String| StoreError::Unusable {
            path: path.display().to_string(),
            reason,
        };
        let name = path
            .to_str()
            .ok_or_else(|| unusable("its name is not UTF-8; choose another".into()))?;
        reserve(path).map_err(|error| {
            unusable(format!(
                "{error}. Name a file that does not exist yet, in a folder that can be written"
            ))
        })?;
        sqlx::query("VACUUM INTO $1")
            .bind(name)
            .execute(&self.writer)
            .await?;
        let synced = std::fs::File::open(path).and_then(|file| file.sync_all());
        synced.map_err(|error| unusable(error.to_string()))
    }
}

/// An empty file is what `VACUUM INTO` accepts beside none; made first, so that nobody else can read what goes into it.
fn reserve(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

#[allow(
    clippy::duplicate_mod,
    reason = "the same SQL for two databases: checked against the types of each"
)]
#[path = "both/mod.rs"]
mod both;
