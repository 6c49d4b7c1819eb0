//! The platform's store in PostgreSQL, for any number of machines: what differs from SQLite, and the SQL that both share.
//!
//! Whoever waits for work is woken through one channel, which one task of each process listens to. Nothing is notified by the commits of a
//! run's pages: a notification takes a lock that all commits of the server share.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgListener;
use sqlx::{PgPool, Postgres, Transaction};
use tokio::sync::watch;
use tokio::time::sleep;

use super::{PlatformError, Result};
use crate::ledger::{PostgresStore, StoreError, Waits};

const CHANNEL: &str = "runtime_work";
/// Until a listener whose connection broke tries again. Until then there is the poll.
const BEFORE_LISTENING_AGAIN: Duration = Duration::from_secs(1);

// Each within a query of its own: it is asked once for a statement, and an index can be used with the answer.
/// Milliseconds since 1970.
macro_rules! now {
    () => {
        "(SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT))"
    };
}

/// Seconds since 1970, as in the lease.
macro_rules! clock {
    () => {
        "(SELECT CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION))"
    };
}

/// The next place in the queue of tenants.
macro_rules! turn {
    () => {
        "nextval('turns')"
    };
}

/// The number of a new row of `connections`: never one that was given before.
macro_rules! next_number {
    () => {
        "DEFAULT"
    };
}

/// The elements of a JSON array, as rows with a column `value`.
macro_rules! rows {
    ($parameter:literal) => {
        concat!("jsonb_array_elements(", $parameter, "::jsonb)")
    };
}

/// The texts of a JSON array, for `IN`.
macro_rules! listed {
    ($parameter:literal) => {
        concat!(
            "(SELECT jsonb_array_elements_text(",
            $parameter,
            "::jsonb))"
        )
    };
}

/// Waits for what others have locked, and locks it. No key is changed by anybody, so that a new row that refers to it does not wait.
macro_rules! lock {
    () => {
        " FOR NO KEY UPDATE"
    };
    ($which:literal) => {
        concat!(" FOR NO KEY UPDATE OF ", $which)
    };
}

/// Locks it against change and removal, together with others.
macro_rules! lock_shared {
    () => {
        " FOR SHARE"
    };
}

/// Locks what nobody else has locked.
macro_rules! lock_free {
    ($which:literal) => {
        concat!(" FOR NO KEY UPDATE OF ", $which, " SKIP LOCKED")
    };
}

type Db = Postgres;
type Backend = PostgresStore;

fn reading(store: &PostgresStore) -> &PgPool {
    &store.pool
}

async fn writing(
    store: &PostgresStore,
) -> std::result::Result<Transaction<'static, Postgres>, StoreError> {
    Ok(store.pool.begin().await?)
}

/// A commit of PostgreSQL is on its disk.
#[allow(clippy::unused_async, reason = "SQLite has something to wait for here")]
async fn keep(_: &PostgresStore) -> std::result::Result<(), StoreError> {
    Ok(())
}

/// Commits, and wakes whoever waits for work.
async fn commit_and_wake(
    _: &PostgresStore,
    mut transaction: Transaction<'static, Postgres>,
) -> std::result::Result<(), StoreError> {
    sqlx::query("SELECT pg_notify($1, '')")
        .bind(CHANNEL)
        .execute(&mut *transaction)
        .await?;
    Ok(transaction.commit().await?)
}

/// Asks again while the database is away. Only for what may be done twice.
async fn patiently<T, F: Future<Output = Result<T>>>(mut attempt: impl FnMut() -> F) -> Result<T> {
    let mut waits = Waits::new();
    loop {
        match attempt().await {
            Err(PlatformError::Store(StoreError::Database(error))) => waits.after(error).await?,
            other => return other,
        }
    }
}

fn wakeups(store: &PostgresStore) -> watch::Receiver<u64> {
    let woken = store.wake.get_or_init(|| {
        let woken = Arc::new(watch::Sender::new(0));
        tokio::spawn(listen(store.pool.clone(), Arc::downgrade(&woken)));
        woken
    });
    woken.subscribe()
}

/// Passes on what the channel says, until the store is gone.
async fn listen(pool: PgPool, woken: std::sync::Weak<watch::Sender<u64>>) {
    let wake = || {
        let woken = woken.upgrade()?;
        woken.send_modify(|count| *count = count.wrapping_add(1));
        Some(())
    };
    loop {
        if let Ok(mut listener) = PgListener::connect_with(&pool).await
            && listener.listen(CHANNEL).await.is_ok()
        {
            // What was said before is lost. So is what is said while it reconnects, which is told by `None`.
            while let Ok(heard) = listener.try_recv().await {
                if wake().is_none() {
                    return;
                }
                if heard.is_none() {
                    break;
                }
            }
        }
        if pool.is_closed() || wake().is_none() {
            return;
        }
        sleep(BEFORE_LISTENING_AGAIN).await;
    }
}

#[allow(
    clippy::duplicate_mod,
    reason = "the same SQL for two databases: checked against the types of each"
)]
#[path = "both/mod.rs"]
mod both;
