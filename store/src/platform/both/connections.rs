//! Connections: what their owners set, what they run, and their end.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor, Row as _};

use super::{
    Backend, Chain, ChainVersion, Connection, ConnectionChange, ConnectionState, Db, Lease, Page,
    PlatformError, Result, Row, Written, commit_and_wake, keep, most, reading, taken, tenants,
    writing,
};
use crate::platform::UNLIMITED_MEMORY;
use crate::platform::values::{clean, count, from_json, time, to_json, unsigned};

/// Rows that one transaction of a deletion removes: others write in between.
const DELETED_AT_ONCE: i64 = 500;

/// What a connection has in the ledger, and the column that its rows are taken by.
const LEDGER_TABLES: [(&str, &str); 9] = [
    ("entries", "source_id"),
    ("events", "source_id"),
    ("recorded", "source_id"),
    ("dead_letters", "source_id"),
    ("runs", "id"),
    ("streams", "stream"),
    ("passes", "stream"),
    ("origins", "origin"),
    ("scopes", "scope"),
];
const PLATFORM_TABLES: [(&str, &str); 2] = [("deliveries", "id"), ("cursors", "name")];

macro_rules! select_connection {
    () => {
        concat!(
            "SELECT c.id, c.tenant, c.name, c.state, c.state_reason, chains.chain AS chain_json, c.config, c.sealed, c.hook_plan, c.ledger,
                    c.memory, c.failures, c.due_at, c.version, c.created_at,
                    CAST(CASE WHEN c.running = 1 AND ",
            is_held!(),
            " THEN 1 ELSE 0 END AS BIGINT) AS running_now,
                    (SELECT count(*) FROM deliveries AS d WHERE d.connection = c.ledger AND d.state = 'waiting') AS waiting
             FROM platform_connections AS c JOIN connections AS l ON l.id = c.ledger
             JOIN chains ON chains.connection = c.id AND chains.number = c.chain "
        )
    };
}

fn read(row: &Row) -> Result<Connection> {
    let state: String = row.try_get("state")?;
    let hook_plan: Option<String> = row.try_get("hook_plan")?;
    let running: i64 = row.try_get("running_now")?;
    Ok(Connection {
        id: row.try_get("id")?,
        tenant: row.try_get("tenant")?,
        name: row.try_get("name")?,
        state: ConnectionState::parse(&state),
        state_reason: row.try_get("state_reason")?,
        chain: from_json(row.try_get("chain_json")?)?,
        config: from_json(row.try_get("config")?)?,
        sealed: from_json(row.try_get("sealed")?)?,
        hook_plan: hook_plan.as_deref().map(from_json).transpose()?,
        memory_bytes: unsigned(row.try_get("memory")?),
        ledger: row.try_get("ledger")?,
        failures: count(row.try_get("failures")?),
        due_at: Some(time(row.try_get("due_at")?)),
        running: running != 0,
        waiting_deliveries: unsigned(row.try_get("waiting")?),
        version: row.try_get("version")?,
        created_at: time(row.try_get("created_at")?),
    })
}

pub(super) async fn one(
    on: impl Executor<'_, Database = Db>,
    tenant: Option<&str>,
    id: &str,
) -> Result<Connection> {
    let row = sqlx::query(concat!(
        select_connection!(),
        "WHERE c.id = $1 AND ($2 IS NULL OR c.tenant = $2)"
    ))
    .bind(clean(id))
    .bind(tenant.map(clean))
    .fetch_optional(on)
    .await?;
    read(&row.ok_or(PlatformError::Missing("connection"))?)
}

pub(super) async fn page(
    store: &Backend,
    tenant: Option<&str>,
    page: &Page,
) -> Result<Vec<Connection>> {
    let rows = sqlx::query(concat!(
        select_connection!(),
        "WHERE ($1 IS NULL OR c.tenant = $1) AND ($2 IS NULL OR c.id > $2) ORDER BY c.id LIMIT $3"
    ))
    .bind(tenant.map(clean))
    .bind(page.after.as_deref().map(clean))
    .bind(most(page))
    .fetch_all(reading(store))
    .await?;
    rows.iter().map(read).collect()
}

pub(super) async fn create(
    store: &Backend,
    connection: &Connection,
    by: &str,
) -> Result<Connection> {
    let mut transaction = writing(store).await?;
    let caps = tenants::locked_caps(&mut transaction, &connection.tenant).await?;
    let caps = caps.ok_or(PlatformError::Missing("tenant"))?;
    if let Some(most) = caps.connections {
        let has: i64 =
            sqlx::query_scalar("SELECT count(*) FROM platform_connections WHERE tenant = $1")
                .bind(clean(&connection.tenant))
                .fetch_one(&mut *transaction)
                .await?;
        if has >= i64::from(most) {
            return Err(PlatformError::OverCap {
                what: "connections",
                most,
            });
        }
    }
    let ledger: i64 = sqlx::query_scalar(concat!(
        "INSERT INTO connections (id, name) VALUES (",
        next_number!(),
        ", $1) RETURNING id"
    ))
    .bind(clean(&format!("platform:{}", connection.id)))
    .fetch_one(&mut *transaction)
    .await
    .map_err(taken("connection"))?;
    sqlx::query(concat!(
        "INSERT INTO platform_connections (id, tenant, name, state, state_reason, chain, config, sealed, ledger, memory, due_at, created_at)
         VALUES ($1, $2, $3, $4, $5, 1, $6, $7, $8, $9, ",
        now!(),
        ", ",
        now!(),
        ")"
    ))
    .bind(clean(&connection.id))
    .bind(clean(&connection.tenant))
    .bind(clean(&connection.name))
    .bind(connection.state.as_str())
    .bind(connection.state_reason.as_deref().map(clean))
    .bind(to_json(&connection.config)?)
    .bind(to_json(&connection.sealed)?)
    .bind(ledger)
    .bind(memory(connection.memory_bytes))
    .execute(&mut *transaction)
    .await
    .map_err(taken("connection"))?;
    let tenant = Some(connection.tenant.as_str());
    add_chain(
        &mut transaction,
        tenant,
        &connection.id,
        1,
        &connection.chain,
        by,
    )
    .await?;
    let created = one(&mut *transaction, tenant, &connection.id).await?;
    commit_and_wake(store, transaction).await?;
    keep(store).await?;
    Ok(created)
}

/// As it is stored.
fn memory(bytes: u64) -> i64 {
    i64::try_from(bytes.min(UNLIMITED_MEMORY)).unwrap_or(i64::MAX)
}

/// Adds a chain whose components exist. What they are locked for: nobody deletes them before this is committed.
async fn add_chain(
    transaction: &mut Written,
    tenant: Option<&str>,
    id: &str,
    number: i64,
    chain: &Chain,
    by: &str,
) -> Result<ChainVersion> {
    let mut uses = BTreeSet::from([&*chain.connector]);
    uses.extend(chain.mappers.iter().map(|mapper| &*mapper.digest));
    for digest in uses {
        let known = sqlx::query(concat!(
            "SELECT 1 FROM components AS one JOIN component_files AS file ON file.digest = one.digest
             WHERE one.digest = $1 AND one.owner IN ($2, '')",
            lock_shared!()
        ))
        .bind(clean(digest))
        .bind(tenant.map(clean).unwrap_or_default())
        .fetch_optional(&mut **transaction)
        .await?;
        known.ok_or(PlatformError::Missing("component"))?;
        sqlx::query(
            "INSERT INTO chain_uses (digest, connection) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        )
        .bind(clean(digest))
        .bind(clean(id))
        .execute(&mut **transaction)
        .await?;
    }
    let made_at: i64 = sqlx::query_scalar(concat!(
        "INSERT INTO chains (connection, number, chain, made_by, made_at) VALUES ($1, $2, $3, $4, ",
        now!(),
        ") RETURNING made_at"
    ))
    .bind(clean(id))
    .bind(number)
    .bind(to_json(chain)?)
    .bind(clean(by))
    .fetch_one(&mut **transaction)
    .await?;
    Ok(ChainVersion {
        number,
        chain: chain.clone(),
        current: true,
        by: clean(by).into_owned(),
        at: time(made_at),
    })
}

/// What a change needs to know, of a row that is locked.
struct Locked {
    tenant: String,
    state: ConnectionState,
    sealed: BTreeMap<String, String>,
    version: i64,
    last_chain: i64,
}

impl Locked {
    /// That it is what was read.
    fn has(&self, version: Option<i64>) -> Result<()> {
        if version.is_some_and(|version| version != self.version) {
            return Err(PlatformError::Conflict {
                current: self.version,
            });
        }
        Ok(())
    }
}

async fn locked(transaction: &mut Written, tenant: Option<&str>, id: &str) -> Result<Locked> {
    let row = sqlx::query(concat!(
        "SELECT tenant, state, sealed, version, (SELECT max(number) FROM chains WHERE chains.connection = c.id) AS last_chain
         FROM platform_connections AS c WHERE id = $1 AND ($2 IS NULL OR tenant = $2)",
        lock!("c")
    ))
    .bind(clean(id))
    .bind(tenant.map(clean))
    .fetch_optional(&mut **transaction)
    .await?;
    let row = row.ok_or(PlatformError::Missing("connection"))?;
    let state: String = row.try_get("state")?;
    Ok(Locked {
        tenant: row.try_get("tenant")?,
        state: ConnectionState::parse(&state),
        sealed: from_json(row.try_get("sealed")?)?,
        version: row.try_get("version")?,
        last_chain: row.try_get("last_chain")?,
    })
}

pub(super) async fn update(
    store: &Backend,
    tenant: Option<&str>,
    id: &str,
    version: Option<i64>,
    change: &ConnectionChange,
) -> Result<Connection> {
    let mut transaction = writing(store).await?;
    let was = locked(&mut transaction, tenant, id).await?;
    was.has(version)?;
    let state = change.state.as_ref().map(|(state, _)| *state);
    let leaves = state == Some(ConnectionState::Leaving);
    if was.state == ConnectionState::Leaving && state.is_some() && !leaves {
        return Err(PlatformError::InUse(
            "the connection is being taken down, which cannot be taken back: create another".into(),
        ));
    }
    let sealed = change.sealed.as_ref().map(|changes| {
        let mut sealed = was.sealed;
        for (field, value) in changes {
            if value.is_empty() {
                sealed.remove(field);
            } else {
                sealed.insert(field.clone(), value.clone());
            }
        }
        sealed
    });
    let changed = change.name.is_some()
        || state.is_some()
        || change.config.is_some()
        || change.sealed.is_some();
    let reason = change
        .state
        .as_ref()
        .and_then(|(_, reason)| reason.as_deref());
    sqlx::query(concat!(
        "UPDATE platform_connections SET name = coalesce($2, name), config = coalesce($3, config), sealed = coalesce($4, sealed),
                state_reason = CASE WHEN $5 IS NULL THEN state_reason ELSE $6 END, state = coalesce($5, state),
                claims = CASE WHEN $5 IS NULL AND $7 = 0 THEN claims ELSE 0 END, failures = CASE WHEN $7 = 0 THEN failures ELSE 0 END,
                due_at = CASE WHEN $8 = 0 THEN due_at ELSE ",
        now!(),
        " END, held_until = CASE WHEN $8 = 0 THEN held_until ELSE 0 END, woken = CASE WHEN $8 = 0 THEN woken ELSE running END,
                version = version + $9, memory = coalesce($10, memory)
         WHERE id = $1"
    ))
    .bind(clean(id))
    .bind(change.name.as_deref().map(clean))
    .bind(change.config.as_ref().map(to_json).transpose()?)
    .bind(sealed.as_ref().map(to_json).transpose()?)
    .bind(state.map(ConnectionState::as_str))
    .bind(reason.map(clean))
    .bind(i64::from(change.wake))
    .bind(i64::from(change.wake || leaves))
    .bind(i64::from(changed))
    .bind(change.memory_bytes.map(memory))
    .execute(&mut *transaction)
    .await
    .map_err(taken("connection"))?;
    let connection = one(&mut *transaction, tenant, id).await?;
    commit_and_wake(store, transaction).await?;
    keep(store).await?;
    Ok(connection)
}

pub(super) async fn delete(store: &Backend, tenant: Option<&str>, id: &str) -> Result<()> {
    let ledger = take_away(store, tenant, id).await?;
    for (table, column) in LEDGER_TABLES.iter().chain(&PLATFORM_TABLES) {
        loop {
            let mut transaction = writing(store).await?;
            let deleted = sqlx::query(AssertSqlSafe(format!(
                "DELETE FROM {table} WHERE connection = $1
                    AND {column} IN (SELECT {column} FROM {table} WHERE connection = $1 LIMIT {DELETED_AT_ONCE})"
            )))
            .bind(ledger)
            .execute(&mut *transaction)
            .await?;
            transaction.commit().await?;
            if deleted.rows_affected() == 0 {
                break;
            }
        }
    }
    let mut transaction = writing(store).await?;
    for sql in [
        concat!("SELECT 1 FROM connections WHERE id = $1", lock!()),
        // Nothing is received for it from here on.
        concat!(
            "SELECT 1 FROM platform_connections WHERE ledger = $1",
            lock!()
        ),
        "DELETE FROM chain_uses WHERE connection = (SELECT id FROM platform_connections WHERE ledger = $1)",
        "DELETE FROM chains WHERE connection = (SELECT id FROM platform_connections WHERE ledger = $1)",
        "UPDATE platform_runs SET receipt = '{}' WHERE connection = (SELECT id FROM platform_connections WHERE ledger = $1)",
    ] {
        sqlx::query(sql)
            .bind(ledger)
            .execute(&mut *transaction)
            .await?;
    }
    for (table, _) in LEDGER_TABLES.iter().chain(&PLATFORM_TABLES) {
        sqlx::query(AssertSqlSafe(format!(
            "DELETE FROM {table} WHERE connection = $1"
        )))
        .bind(ledger)
        .execute(&mut *transaction)
        .await?;
    }
    for sql in [
        // What its owner wished of its dead letters, and what it was made for.
        "DELETE FROM notes WHERE name IN (SELECT 'letters.' || id FROM platform_connections WHERE ledger = $1
                                  UNION ALL SELECT 'made_for.' || id FROM platform_connections WHERE ledger = $1)",
        "DELETE FROM platform_connections WHERE ledger = $1",
        "DELETE FROM connections WHERE id = $1",
    ] {
        sqlx::query(sql)
            .bind(ledger)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    keep(store).await?;
    Ok(())
}

/// Of all connections together: a ledger that knows a part is worse than one that knows nothing.
pub(super) async fn forget_ledgers(store: &Backend) -> Result<()> {
    let mut transaction = writing(store).await?;
    for sql in [
        // Whoever has read from it writes nothing any more.
        "UPDATE connections SET epoch = epoch + 1, lease_until = 0",
        // What is in CortexDB may have been made by other mappers than those of then.
        "UPDATE connections SET mapped_by = 'mixed, last ' || mapped_by WHERE mapped_by <> '' AND mapped_by NOT LIKE 'mixed, last %'",
        "DELETE FROM entries",
        "DELETE FROM events",
        "DELETE FROM scopes",
        "DELETE FROM passes",
    ] {
        sqlx::query(sql).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    keep(store).await?;
    Ok(())
}

/// Fences whoever runs it, and keeps everybody else from claiming it while it is deleted. Whoever finds it half deleted, because this
/// process died, finds it leaving.
async fn take_away(store: &Backend, tenant: Option<&str>, id: &str) -> Result<i64> {
    let mut transaction = writing(store).await?;
    let ledger: Option<i64> = sqlx::query_scalar(
        "SELECT ledger FROM platform_connections WHERE id = $1 AND ($2 IS NULL OR tenant = $2)",
    )
    .bind(clean(id))
    .bind(tenant.map(clean))
    .fetch_optional(&mut *transaction)
    .await?;
    let ledger = ledger.ok_or(PlatformError::Missing("connection"))?;
    for sql in [
        concat!(
            "UPDATE connections SET epoch = epoch + 1, owner = 'deletion', lease_until = ",
            clock!(),
            " + 600 WHERE id = $1"
        ),
        "UPDATE platform_connections SET state = 'leaving', state_reason = 'it is being deleted', running = 0 WHERE ledger = $1",
        concat!(
            "UPDATE platform_runs SET outcome = 'interrupted', ended_at = ",
            now!(),
            " WHERE ledger = $1 AND ended_at IS NULL"
        ),
    ] {
        sqlx::query(sql)
            .bind(ledger)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(ledger)
}

pub(super) async fn set_chain(
    store: &Backend,
    tenant: Option<&str>,
    id: &str,
    version: Option<i64>,
    chain: &Chain,
    memory_bytes: u64,
    by: &str,
) -> Result<ChainVersion> {
    let mut transaction = writing(store).await?;
    let was = locked(&mut transaction, tenant, id).await?;
    was.has(version)?;
    let number = was.last_chain + 1;
    let added = add_chain(&mut transaction, Some(&was.tenant), id, number, chain, by).await?;
    sqlx::query(
        "UPDATE platform_connections SET chain = $2, memory = $3, version = version + 1 WHERE id = $1",
    )
    .bind(clean(id))
    .bind(number)
    .bind(memory(memory_bytes))
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    keep(store).await?;
    Ok(added)
}

pub(super) async fn chains(
    store: &Backend,
    tenant: Option<&str>,
    id: &str,
) -> Result<Vec<ChainVersion>> {
    let rows = sqlx::query(
        "SELECT number, chains.chain AS chain_json, made_by, made_at, c.chain AS current_number
         FROM platform_connections AS c JOIN chains ON chains.connection = c.id
         WHERE c.id = $1 AND ($2 IS NULL OR c.tenant = $2) ORDER BY number DESC",
    )
    .bind(clean(id))
    .bind(tenant.map(clean))
    .fetch_all(reading(store))
    .await?;
    if rows.is_empty() {
        return Err(PlatformError::Missing("connection"));
    }
    rows.iter()
        .map(|row| {
            let number: i64 = row.try_get("number")?;
            let current: i64 = row.try_get("current_number")?;
            Ok(ChainVersion {
                number,
                chain: from_json(row.try_get("chain_json")?)?,
                current: number == current,
                by: row.try_get("made_by")?,
                at: time(row.try_get("made_at")?),
            })
        })
        .collect()
}

pub(super) async fn set_hook_plan(store: &Backend, lease: Lease, plan: &Value) -> Result<()> {
    let mut transaction = store.fenced(lease).await?;
    sqlx::query("UPDATE platform_connections SET hook_plan = $2 WHERE ledger = $1")
        .bind(lease.connection)
        .bind(to_json(plan)?)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    // What is registered at the source and not known here would be registered again.
    keep(store).await?;
    Ok(())
}

pub(super) async fn sealed(
    store: &Backend,
    page: &Page,
) -> Result<Vec<(String, String, String, String)>> {
    let rows = sqlx::query(
        "SELECT id, tenant, sealed FROM platform_connections WHERE sealed <> '{}' AND ($1 IS NULL OR id > $1) ORDER BY id LIMIT $2",
    )
    .bind(page.after.as_deref().map(clean))
    .bind(most(page))
    .fetch_all(reading(store))
    .await?;
    let mut found = Vec::new();
    for row in &rows {
        let id: String = row.try_get("id")?;
        let tenant: String = row.try_get("tenant")?;
        let fields: BTreeMap<String, String> = from_json(row.try_get("sealed")?)?;
        let fields = fields.into_iter();
        found.extend(fields.map(|(field, value)| (id.clone(), tenant.clone(), field, value)));
    }
    Ok(found)
}

pub(super) async fn reseal(
    store: &Backend,
    id: &str,
    field: &str,
    was: &str,
    now: &str,
) -> Result<bool> {
    let mut transaction = writing(store).await?;
    let mut sealed = locked(&mut transaction, None, id).await?.sealed;
    match sealed.get_mut(field) {
        Some(value) if value == was => now.clone_into(value),
        _ => return Ok(false),
    }
    sqlx::query("UPDATE platform_connections SET sealed = $2 WHERE id = $1")
        .bind(clean(id))
        .bind(to_json(&sealed)?)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    keep(store).await?;
    Ok(true)
}
