//! Cursors of connections of the platform.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::Row as _;

use super::{Backend, Lease, Result, Usage, reading, runs};
use crate::platform::values::{from_json, to_json};

#[derive(Serialize)]
struct Moved {
    name: String,
    value: String,
}

pub(super) async fn all(store: &Backend, connection: i64) -> Result<BTreeMap<String, String>> {
    let rows = sqlx::query("SELECT name, value FROM cursors WHERE connection = $1")
        .bind(connection)
        .fetch_all(reading(store))
        .await?;
    rows.iter()
        .map(|row| {
            Ok((
                from_json(row.try_get("name")?)?,
                from_json(row.try_get("value")?)?,
            ))
        })
        .collect()
}

pub(super) async fn change(
    store: &Backend,
    lease: Lease,
    changes: &[(String, Option<String>)],
    run: Option<(&str, &Usage)>,
) -> Result<()> {
    // The last change of each.
    let changes: BTreeMap<&String, &Option<String>> =
        changes.iter().map(|(name, value)| (name, value)).collect();
    let mut moved = Vec::new();
    let mut removed = Vec::new();
    for (name, value) in changes {
        let name = to_json(name)?;
        match value {
            Some(value) => moved.push(Moved {
                name,
                value: to_json(value)?,
            }),
            None => removed.push(name),
        }
    }
    let mut transaction = store.fenced(lease).await?;
    if !moved.is_empty() {
        sqlx::query(concat!(
            "INSERT INTO cursors (connection, name, value)
             SELECT $1, moved.value ->> 'name', moved.value ->> 'value' FROM ",
            rows!("$2"),
            " AS moved WHERE true
             ON CONFLICT (connection, name) DO UPDATE SET value = excluded.value"
        ))
        .bind(lease.connection)
        .bind(to_json(&moved)?)
        .execute(&mut *transaction)
        .await?;
    }
    if !removed.is_empty() {
        sqlx::query(concat!(
            "DELETE FROM cursors WHERE connection = $1 AND name IN ",
            listed!("$2")
        ))
        .bind(lease.connection)
        .bind(to_json(&removed)?)
        .execute(&mut *transaction)
        .await?;
    }
    if let Some((run, usage)) = run {
        runs::set_usage(&mut transaction, lease, run, usage).await?;
    }
    Ok(transaction.commit().await?)
}
