//! Components: their reports and their files.

use sqlx::Row as _;

use super::{
    Backend, Component, DEFAULT_COMPONENTS, Page, PlatformError, Result, Row, Written, keep, most,
    owned, owner, reading, tenants, writing,
};
use crate::platform::values::{clean, from_json, signed, time, to_json, unsigned};

fn read(row: &Row) -> Result<Component> {
    let admitted: i64 = row.try_get("admitted")?;
    Ok(Component {
        digest: row.try_get("digest")?,
        tenant: owned(row.try_get("owner")?),
        name: row.try_get("name")?,
        version: row.try_get("version")?,
        world: row.try_get("world")?,
        admitted: admitted != 0,
        report: from_json(row.try_get("report")?)?,
        description: from_json(row.try_get("description")?)?,
        bytes: unsigned(row.try_get("bytes")?),
        created_at: time(row.try_get("created_at")?),
    })
}

/// Refuses one more component of a tenant that has as many as it may have.
async fn hold_to_cap(transaction: &mut Written, component: &Component) -> Result<()> {
    let Some(tenant) = &component.tenant else {
        return Ok(());
    };
    let Some(caps) = tenants::locked_caps(transaction, tenant).await? else {
        return Ok(());
    };
    let most = caps.components.unwrap_or(DEFAULT_COMPONENTS);
    let (has, has_it): (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(CASE WHEN digest = $2 THEN 1 END) FROM components WHERE owner = $1",
    )
    .bind(clean(tenant))
    .bind(clean(&component.digest))
    .fetch_one(&mut **transaction)
    .await?;
    if has_it == 0 && has >= i64::from(most) {
        let what = "components";
        return Err(PlatformError::OverCap { what, most });
    }
    Ok(())
}

pub(super) async fn put(store: &Backend, component: &Component, bytes: &[u8]) -> Result<Component> {
    let mut transaction = writing(store).await?;
    hold_to_cap(&mut transaction, component).await?;
    // A file that is there is not written again, but it is locked: nobody removes it in the meantime.
    sqlx::query("INSERT INTO component_files (digest, body) VALUES ($1, $2) ON CONFLICT (digest) DO UPDATE SET digest = excluded.digest")
        .bind(clean(&component.digest))
        .bind(bytes)
        .execute(&mut *transaction)
        .await?;
    let row = sqlx::query(concat!(
        "INSERT INTO components (owner, digest, name, version, world, admitted, report, description, bytes, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, ",
        now!(),
        ") ON CONFLICT (owner, digest) DO UPDATE SET name = excluded.name, version = excluded.version, world = excluded.world,
            admitted = excluded.admitted, report = excluded.report, description = excluded.description
         RETURNING *"
    ))
    .bind(owner(component.tenant.as_deref()))
    .bind(clean(&component.digest))
    .bind(clean(&component.name))
    .bind(clean(&component.version))
    .bind(clean(&component.world))
    .bind(i64::from(component.admitted))
    .bind(to_json(&component.report)?)
    .bind(to_json(&component.description)?)
    .bind(signed(bytes.len() as u64))
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    keep(store).await?;
    read(&row)
}

pub(super) async fn one(store: &Backend, tenant: Option<&str>, digest: &str) -> Result<Component> {
    // Its own comes before the operator's, whose owner is empty.
    let row = sqlx::query(
        "SELECT * FROM components WHERE digest = $1 AND owner IN ($2, '') ORDER BY owner DESC LIMIT 1",
    )
    .bind(clean(digest))
    .bind(owner(tenant))
    .fetch_optional(reading(store))
    .await?;
    read(&row.ok_or(PlatformError::Missing("component"))?)
}

pub(super) async fn bytes(store: &Backend, digest: &str) -> Result<Vec<u8>> {
    let body: Option<Vec<u8>> =
        sqlx::query_scalar("SELECT body FROM component_files WHERE digest = $1")
            .bind(clean(digest))
            .fetch_optional(reading(store))
            .await?;
    body.ok_or(PlatformError::Missing("component"))
}

pub(super) async fn page(
    store: &Backend,
    tenant: Option<&str>,
    page: &Page,
) -> Result<Vec<Component>> {
    let rows = sqlx::query(
        "SELECT * FROM components AS one WHERE owner IN ($1, '') AND ($2 IS NULL OR digest > $2)
            AND NOT (owner <> $1 AND EXISTS (SELECT 1 FROM components AS own WHERE own.owner = $1 AND own.digest = one.digest))
         ORDER BY digest LIMIT $3",
    )
    .bind(owner(tenant))
    .bind(page.after.as_deref().map(clean))
    .bind(most(page))
    .fetch_all(reading(store))
    .await?;
    rows.iter().map(read).collect()
}

pub(super) async fn delete(store: &Backend, tenant: Option<&str>, digest: &str) -> Result<()> {
    let digest = clean(digest);
    let mut transaction = writing(store).await?;
    let known = sqlx::query(concat!(
        "SELECT 1 FROM components AS one JOIN component_files AS file ON file.digest = one.digest WHERE one.owner = $1 AND one.digest = $2",
        lock!()
    ))
    .bind(owner(tenant))
    .bind(&*digest)
    .fetch_optional(&mut *transaction)
    .await?;
    known.ok_or(PlatformError::Missing("component"))?;
    let uses: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM chain_uses JOIN platform_connections AS c ON c.id = chain_uses.connection
         WHERE chain_uses.digest = $2 AND ($1 = '' OR c.tenant = $1)",
    )
    .bind(owner(tenant))
    .bind(&*digest)
    .fetch_one(&mut *transaction)
    .await?;
    if uses > 0 {
        return Err(PlatformError::InUse(format!(
            "{uses} connections use the component or have used it: it stays, so that they can go back to it"
        )));
    }
    for sql in [
        "DELETE FROM components WHERE owner = $1 AND digest = $2",
        "DELETE FROM component_files WHERE digest = $2
            AND NOT EXISTS (SELECT 1 FROM components AS other WHERE other.digest = $2 AND other.owner <> $1)",
    ] {
        sqlx::query(sql)
            .bind(owner(tenant))
            .bind(&*digest)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    keep(store).await?;
    Ok(())
}
