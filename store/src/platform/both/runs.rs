//! Runs: their numbers and their receipts.

use std::time::Duration;

use sqlx::Row as _;

use super::{
    Backend, Lease, Page, PlatformError, Result, Row, Run, Usage, Written, delete_in_steps, most,
    reading,
};
use crate::platform::values::{clean, from_json, milliseconds, signed, time, unsigned};

/// Rows that one transaction removes.
const TRIMMED_AT_ONCE: i64 = 1000;

fn read_usage(row: &Row, runs: u64) -> Result<Usage> {
    Ok(Usage {
        runs,
        cpu_ms: unsigned(row.try_get("cpu_ms")?),
        peak_memory_bytes: unsigned(row.try_get("peak_memory_bytes")?),
        requests: unsigned(row.try_get("requests")?),
        received_bytes: unsigned(row.try_get("received_bytes")?),
        written_bytes: unsigned(row.try_get("written_bytes")?),
        records: unsigned(row.try_get("records")?),
        deliveries: unsigned(row.try_get("deliveries")?),
    })
}

fn read(row: &Row) -> Result<Run> {
    let ended_at: Option<i64> = row.try_get("ended_at")?;
    Ok(Run {
        id: row.try_get("id")?,
        connection: row.try_get("connection")?,
        kind: row.try_get("kind")?,
        worker: row.try_get("worker")?,
        outcome: row.try_get("outcome")?,
        usage: read_usage(row, 1)?,
        started_at: time(row.try_get("started_at")?),
        ended_at: ended_at.map(time),
        receipt: from_json(row.try_get("receipt")?)?,
    })
}

/// Sets the numbers of a run, within a transaction that has checked the epoch.
pub(super) async fn set_usage(
    transaction: &mut Written,
    lease: Lease,
    run: &str,
    usage: &Usage,
) -> Result<()> {
    let counted = sqlx::query(
        "UPDATE platform_runs SET cpu_ms = $3, peak_memory_bytes = $4, requests = $5, received_bytes = $6, written_bytes = $7,
                records = $8, deliveries = $9
         WHERE id = $2 AND ledger = $1",
    )
    .bind(lease.connection)
    .bind(clean(run))
    .bind(signed(usage.cpu_ms))
    .bind(signed(usage.peak_memory_bytes))
    .bind(signed(usage.requests))
    .bind(signed(usage.received_bytes))
    .bind(signed(usage.written_bytes))
    .bind(signed(usage.records))
    .bind(signed(usage.deliveries))
    .execute(&mut **transaction)
    .await?;
    if counted.rows_affected() == 0 {
        return Err(PlatformError::Missing("run"));
    }
    Ok(())
}

pub(super) async fn count(store: &Backend, lease: Lease, run: &str, usage: &Usage) -> Result<()> {
    let mut transaction = store.fenced(lease).await?;
    set_usage(&mut transaction, lease, run, usage).await?;
    Ok(transaction.commit().await?)
}

pub(super) async fn page(store: &Backend, connection: &str, page: &Page) -> Result<Vec<Run>> {
    let rows = sqlx::query(
        "SELECT * FROM platform_runs WHERE connection = $1 AND ($2 IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
    )
    .bind(clean(connection))
    .bind(page.after.as_deref().map(clean))
    .bind(most(page))
    .fetch_all(reading(store))
    .await?;
    rows.iter().map(read).collect()
}

pub(super) async fn one(store: &Backend, connection: &str, id: &str) -> Result<Run> {
    let row = sqlx::query("SELECT * FROM platform_runs WHERE connection = $1 AND id = $2")
        .bind(clean(connection))
        .bind(clean(id))
        .fetch_optional(reading(store))
        .await?;
    read(&row.ok_or(PlatformError::Missing("run"))?)
}

pub(super) async fn usage(store: &Backend, tenant: &str, within: Duration) -> Result<Usage> {
    let row = sqlx::query(concat!(
        "SELECT count(*) AS runs, coalesce(max(peak_memory_bytes), 0) AS peak_memory_bytes,
                CAST(coalesce(sum(cpu_ms), 0) AS BIGINT) AS cpu_ms, CAST(coalesce(sum(requests), 0) AS BIGINT) AS requests,
                CAST(coalesce(sum(received_bytes), 0) AS BIGINT) AS received_bytes,
                CAST(coalesce(sum(written_bytes), 0) AS BIGINT) AS written_bytes,
                CAST(coalesce(sum(records), 0) AS BIGINT) AS records, CAST(coalesce(sum(deliveries), 0) AS BIGINT) AS deliveries
         FROM platform_runs WHERE tenant = $1 AND started_at > ",
        now!(),
        " - $2"
    ))
    .bind(clean(tenant))
    .bind(milliseconds(within))
    .fetch_one(reading(store))
    .await?;
    read_usage(&row, unsigned(row.try_get("runs")?))
}

pub(super) async fn trim(store: &Backend, older_than: Duration) -> Result<u64> {
    let sql = concat!(
        "DELETE FROM platform_runs WHERE id IN (
             SELECT r.id FROM platform_runs AS r WHERE r.ended_at IS NOT NULL AND r.ended_at < ",
        now!(),
        " - $1 AND (NOT EXISTS (SELECT 1 FROM platform_connections AS c WHERE c.id = r.connection)
                    OR EXISTS (SELECT 1 FROM platform_runs AS later WHERE later.connection = r.connection AND later.id > r.id))
             ORDER BY r.ended_at LIMIT $2",
        lock_free!("r"),
        ")"
    );
    delete_in_steps(store, sql, older_than, TRIMMED_AT_ONCE).await
}
