//! What the host itself remembers.

use super::{Backend, Lease, Result, keep, reading, writing};
use crate::platform::values::clean;

pub(super) async fn one(store: &Backend, name: &str) -> Result<Option<String>> {
    Ok(
        sqlx::query_scalar("SELECT value FROM notes WHERE name = $1")
            .bind(clean(name))
            .fetch_optional(reading(store))
            .await?,
    )
}

pub(super) async fn set(store: &Backend, name: &str, value: &str, replace: bool) -> Result<String> {
    let mut transaction = writing(store).await?;
    // What stays is written again all the same: this locks it, and answers it.
    let now: String = sqlx::query_scalar(
        "INSERT INTO notes (name, value) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET value = CASE WHEN $3 = 1 THEN excluded.value ELSE notes.value END RETURNING value",
    )
    .bind(clean(name))
    .bind(clean(value))
    .bind(i64::from(replace))
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    keep(store).await?;
    Ok(now)
}

pub(super) async fn set_held(store: &Backend, lease: Lease, name: &str, value: &str) -> Result<()> {
    let mut transaction = store.fenced(lease).await?;
    sqlx::query(
        "INSERT INTO notes (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    )
    .bind(clean(name))
    .bind(clean(value))
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    keep(store).await?;
    Ok(())
}
