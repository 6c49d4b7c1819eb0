//! Tenants.

use sqlx::Row as _;

use super::{
    Backend, Caps, Page, PlatformError, Result, Row, Tenant, Written, keep, most, reading, taken,
    writing,
};
use crate::platform::values::{clean, from_json, new_id, time, to_json};

fn read(row: &Row) -> Result<Tenant> {
    Ok(Tenant {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        caps: from_json(row.try_get("caps")?)?,
        version: row.try_get("version")?,
        created_at: time(row.try_get("created_at")?),
    })
}

/// What a tenant may use, behind the lock of its row: whoever adds to what is capped takes it first. `None`: there is no such tenant.
pub(super) async fn locked_caps(transaction: &mut Written, id: &str) -> Result<Option<Caps>> {
    let caps: Option<String> =
        sqlx::query_scalar(concat!("SELECT caps FROM tenants WHERE id = $1", lock!()))
            .bind(clean(id))
            .fetch_optional(&mut **transaction)
            .await?;
    caps.as_deref().map(from_json).transpose()
}

pub(super) async fn create(store: &Backend, name: &str, caps: &Caps) -> Result<Tenant> {
    let mut transaction = writing(store).await?;
    let row = sqlx::query(concat!(
        "INSERT INTO tenants (id, name, caps, created_at) VALUES ($1, $2, $3, ",
        now!(),
        ") RETURNING *"
    ))
    .bind(new_id())
    .bind(clean(name))
    .bind(to_json(caps)?)
    .fetch_one(&mut *transaction)
    .await
    .map_err(taken("tenant"))?;
    transaction.commit().await?;
    keep(store).await?;
    read(&row)
}

pub(super) async fn one(store: &Backend, id: &str) -> Result<Tenant> {
    let row = sqlx::query("SELECT * FROM tenants WHERE id = $1")
        .bind(clean(id))
        .fetch_optional(reading(store))
        .await?;
    read(&row.ok_or(PlatformError::Missing("tenant"))?)
}

pub(super) async fn page(store: &Backend, page: &Page) -> Result<Vec<Tenant>> {
    let rows =
        sqlx::query("SELECT * FROM tenants WHERE ($1 IS NULL OR id > $1) ORDER BY id LIMIT $2")
            .bind(page.after.as_deref().map(clean))
            .bind(most(page))
            .fetch_all(reading(store))
            .await?;
    rows.iter().map(read).collect()
}

pub(super) async fn update(
    store: &Backend,
    id: &str,
    version: i64,
    name: Option<&str>,
    caps: Option<&Caps>,
) -> Result<Tenant> {
    let caps = caps.map(to_json).transpose()?;
    let mut transaction = writing(store).await?;
    let current: Option<i64> = sqlx::query_scalar(concat!(
        "SELECT version FROM tenants WHERE id = $1",
        lock!()
    ))
    .bind(clean(id))
    .fetch_optional(&mut *transaction)
    .await?;
    let current = current.ok_or(PlatformError::Missing("tenant"))?;
    if current != version {
        return Err(PlatformError::Conflict { current });
    }
    let row = sqlx::query(
        "UPDATE tenants SET name = coalesce($2, name), caps = coalesce($3, caps), version = version + 1 WHERE id = $1 RETURNING *",
    )
    .bind(clean(id))
    .bind(name.map(clean))
    .bind(caps)
    .fetch_one(&mut *transaction)
    .await
    .map_err(taken("tenant"))?;
    transaction.commit().await?;
    keep(store).await?;
    read(&row)
}

pub(super) async fn delete(store: &Backend, id: &str) -> Result<()> {
    let id = clean(id);
    let mut transaction = writing(store).await?;
    let known = sqlx::query(concat!("SELECT 1 FROM tenants WHERE id = $1", lock!()))
        .bind(&*id)
        .fetch_optional(&mut *transaction)
        .await?;
    known.ok_or(PlatformError::Missing("tenant"))?;
    let connections: i64 =
        sqlx::query_scalar("SELECT count(*) FROM platform_connections WHERE tenant = $1")
            .bind(&*id)
            .fetch_one(&mut *transaction)
            .await?;
    if connections > 0 {
        return Err(PlatformError::InUse(format!(
            "the tenant still has {connections} connections: delete them first"
        )));
    }
    for sql in [
        concat!(
            "SELECT 1 FROM component_files WHERE digest IN (SELECT digest FROM components WHERE owner = $1) ORDER BY digest",
            lock!()
        ),
        "DELETE FROM api_keys WHERE owner = $1",
        "DELETE FROM component_files WHERE digest IN (SELECT digest FROM components WHERE owner = $1)
            AND NOT EXISTS (SELECT 1 FROM components AS other WHERE other.digest = component_files.digest AND other.owner <> $1)",
        "DELETE FROM components WHERE owner = $1",
        "DELETE FROM tenants WHERE id = $1",
    ] {
        sqlx::query(sql)
            .bind(&*id)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    keep(store).await?;
    Ok(())
}
