//! Creating the same twice: what a request with an idempotency key was answered.

use std::time::Duration;

use serde_json::Value;
use sqlx::Row as _;

use super::{Backend, PlatformError, Remembered, Result, keep, writing};
use crate::platform::values::{clean, from_json, milliseconds, to_json};

/// As long as CortexDB and Stripe keep theirs.
const REMEMBERED: Duration = Duration::from_secs(86_400);
/// A request without an answer after so long has died with its process: no request lasts that long.
const ABANDONED: Duration = Duration::from_secs(600);

pub(super) async fn remember(
    store: &Backend,
    scope: &str,
    key: &str,
    digest: &str,
) -> Result<Option<Remembered>> {
    let mut transaction = writing(store).await?;
    let reserved = sqlx::query(concat!(
        "INSERT INTO requests (scope, key, digest, created_at) VALUES ($1, $2, $3, ",
        now!(),
        ") ON CONFLICT (scope, key) DO UPDATE SET digest = excluded.digest, status = NULL, body = NULL, created_at = excluded.created_at
           WHERE requests.created_at <= excluded.created_at - $4 OR (requests.status IS NULL AND requests.created_at <= excluded.created_at - $5)"
    ))
    .bind(clean(scope))
    .bind(clean(key))
    .bind(clean(digest))
    .bind(milliseconds(REMEMBERED))
    .bind(milliseconds(ABANDONED))
    .execute(&mut *transaction)
    .await?
    .rows_affected();
    if reserved > 0 {
        sqlx::query(concat!(
            "DELETE FROM requests WHERE (scope, key) IN (SELECT old.scope, old.key FROM requests AS old WHERE old.created_at <= ",
            now!(),
            " - $1 ORDER BY old.created_at LIMIT 100",
            lock_free!("old"),
            ")"
        ))
        .bind(milliseconds(REMEMBERED))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        return Ok(None);
    }
    let row =
        sqlx::query("SELECT digest, status, body FROM requests WHERE scope = $1 AND key = $2")
            .bind(clean(scope))
            .bind(clean(key))
            .fetch_optional(&mut *transaction)
            .await?;
    transaction.rollback().await?;
    let Some(row) = row else {
        // It failed at this moment, and whoever asks again begins anew.
        return Ok(Some(Remembered {
            digest: clean(digest).into_owned(),
            answer: None,
        }));
    };
    let status: Option<i64> = row.try_get("status")?;
    let body: Option<String> = row.try_get("body")?;
    let answer = match (status, body) {
        (Some(status), Some(body)) => {
            Some((u16::try_from(status).unwrap_or(500), from_json(&body)?))
        }
        _ => None,
    };
    Ok(Some(Remembered {
        digest: row.try_get("digest")?,
        answer,
    }))
}

pub(super) async fn answer(
    store: &Backend,
    scope: &str,
    key: &str,
    status: u16,
    body: &Value,
) -> Result<()> {
    let mut transaction = writing(store).await?;
    let answered =
        sqlx::query("UPDATE requests SET status = $3, body = $4 WHERE scope = $1 AND key = $2")
            .bind(clean(scope))
            .bind(clean(key))
            .bind(i64::from(status))
            .bind(to_json(body)?)
            .execute(&mut *transaction)
            .await?;
    if answered.rows_affected() == 0 {
        return Err(PlatformError::Missing("request"));
    }
    transaction.commit().await?;
    keep(store).await?;
    Ok(())
}

pub(super) async fn forget(store: &Backend, scope: &str, key: &str) -> Result<()> {
    let mut transaction = writing(store).await?;
    sqlx::query("DELETE FROM requests WHERE scope = $1 AND key = $2 AND status IS NULL")
        .bind(clean(scope))
        .bind(clean(key))
        .execute(&mut *transaction)
        .await?;
    Ok(transaction.commit().await?)
}
