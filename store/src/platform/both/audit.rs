//! The log of changes.

use serde_json::Value;
use sqlx::Row as _;

use super::{AuditEntry, Backend, Page, Result, Written, most, reading, writing};
use crate::platform::values::{clean, new_id, time, to_json};

pub(super) async fn add(
    store: &Backend,
    tenant: Option<&str>,
    by: &str,
    action: &str,
    subject: &str,
    detail: &Value,
) -> Result<()> {
    let mut transaction = writing(store).await?;
    note(&mut transaction, tenant, by, action, subject, detail).await?;
    Ok(transaction.commit().await?)
}

/// The same as a part of the change.
pub(super) async fn note(
    transaction: &mut Written,
    tenant: Option<&str>,
    by: &str,
    action: &str,
    subject: &str,
    detail: &Value,
) -> Result<()> {
    sqlx::query(concat!(
        "INSERT INTO audit (id, at, tenant, made_by, action, subject, detail) VALUES ($1, ",
        now!(),
        ", $2, $3, $4, $5, $6)"
    ))
    .bind(new_id())
    .bind(tenant.map(clean))
    .bind(clean(by))
    .bind(clean(action))
    .bind(clean(subject))
    .bind(to_json(detail)?)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

pub(super) async fn page(
    store: &Backend,
    tenant: Option<&str>,
    page: &Page,
) -> Result<Vec<AuditEntry>> {
    let rows = sqlx::query(
        "SELECT * FROM audit WHERE ($1 IS NULL OR tenant = $1) AND ($2 IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
    )
    .bind(tenant.map(clean))
    .bind(page.after.as_deref().map(clean))
    .bind(most(page))
    .fetch_all(reading(store))
    .await?;
    rows.iter()
        .map(|row| {
            let detail: String = row.try_get("detail")?;
            Ok(AuditEntry {
                id: row.try_get("id")?,
                at: time(row.try_get("at")?),
                tenant: row.try_get("tenant")?,
                by: row.try_get("made_by")?,
                action: row.try_get("action")?,
                subject: row.try_get("subject")?,
                // What is nested too deep to be read is shown as it is: one line must not hide the others.
                detail: serde_json::from_str(&detail).unwrap_or(Value::String(detail)),
            })
        })
        .collect()
}
