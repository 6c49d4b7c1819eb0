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

pub(super) async fn change(
    store: &Backend,
    name: &str,
    was: Option<&str>,
    value: &str,
) -> Result<bool> {
    let mut transaction = writing(store).await?;
    let changed = match was {
        Some(was) => {
            let sql = "UPDATE notes SET value = $2 WHERE name = $1 AND value = $3";
            sqlx::query(sql)
                .bind(clean(name))
                .bind(clean(value))
                .bind(clean(was))
                .execute(&mut *transaction)
                .await?
        }
        None => {
            let sql =
                "INSERT INTO notes (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
            sqlx::query(sql)
                .bind(clean(name))
                .bind(clean(value))
                .execute(&mut *transaction)
                .await?
        }
    };
    transaction.commit().await?;
    keep(store).await?;
    Ok(changed.rows_affected() > 0)
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
