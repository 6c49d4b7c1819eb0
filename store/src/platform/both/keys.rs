//! API keys, without the keys.

use std::time::Duration;

use sqlx::Row as _;

use super::{
    ApiKey, Backend, Page, PlatformError, Result, Row, keep, most, owned, owner, reading, taken,
    writing,
};
use crate::platform::values::{clean, from_json, milliseconds, time, to_json};

fn read(row: &Row) -> Result<ApiKey> {
    let expires_at: Option<i64> = row.try_get("expires_at")?;
    let revoked_at: Option<i64> = row.try_get("revoked_at")?;
    Ok(ApiKey {
        id: row.try_get("id")?,
        tenant: owned(row.try_get("owner")?),
        name: row.try_get("name")?,
        digest: row.try_get("digest")?,
        scopes: from_json(row.try_get("scopes")?)?,
        created_at: time(row.try_get("created_at")?),
        expires_at: expires_at.map(time),
        revoked_at: revoked_at.map(time),
    })
}

pub(super) async fn create(
    store: &Backend,
    key: &ApiKey,
    expires_in: Option<Duration>,
) -> Result<ApiKey> {
    let mut transaction = writing(store).await?;
    if let Some(tenant) = key.tenant.as_deref() {
        let known = sqlx::query("SELECT 1 FROM tenants WHERE id = $1")
            .bind(clean(tenant))
            .fetch_optional(&mut *transaction)
            .await?;
        known.ok_or(PlatformError::Missing("tenant"))?;
    }
    let row = sqlx::query(concat!(
        "INSERT INTO api_keys (id, owner, name, digest, scopes, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, ",
        now!(),
        ", ",
        now!(),
        " + $6) RETURNING *"
    ))
    .bind(clean(&key.id))
    .bind(owner(key.tenant.as_deref()))
    .bind(clean(&key.name))
    .bind(clean(&key.digest))
    .bind(to_json(&key.scopes)?)
    .bind(expires_in.map(milliseconds))
    .fetch_one(&mut *transaction)
    .await
    .map_err(taken("key"))?;
    transaction.commit().await?;
    keep(store).await?;
    read(&row)
}

pub(super) async fn valid(store: &Backend, id: &str) -> Result<Option<ApiKey>> {
    let row = sqlx::query(concat!(
        "SELECT * FROM api_keys WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ",
        now!(),
        ")"
    ))
    .bind(clean(id))
    .fetch_optional(reading(store))
    .await?;
    row.as_ref().map(read).transpose()
}

pub(super) async fn page(
    store: &Backend,
    tenant: Option<&str>,
    page: &Page,
) -> Result<Vec<ApiKey>> {
    let rows = sqlx::query(
        "SELECT * FROM api_keys WHERE owner = $1 AND ($2 IS NULL OR id > $2) ORDER BY id LIMIT $3",
    )
    .bind(owner(tenant))
    .bind(page.after.as_deref().map(clean))
    .bind(most(page))
    .fetch_all(reading(store))
    .await?;
    rows.iter().map(read).collect()
}

pub(super) async fn revoke(store: &Backend, tenant: Option<&str>, id: &str) -> Result<()> {
    let mut transaction = writing(store).await?;
    let revoked = sqlx::query(concat!(
        "UPDATE api_keys SET revoked_at = coalesce(revoked_at, ",
        now!(),
        ") WHERE owner = $1 AND id = $2"
    ))
    .bind(owner(tenant))
    .bind(clean(id))
    .execute(&mut *transaction)
    .await?;
    if revoked.rows_affected() == 0 {
        return Err(PlatformError::Missing("key"));
    }
    transaction.commit().await?;
    keep(store).await?;
    Ok(())
}
