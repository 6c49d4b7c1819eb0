//! Who runs what, when: claims and their end.
//!
//! A claim locks the tenant whose turn it is, and everything that decides about its cap is read behind that lock: this makes the cap exact
//! however many processes claim. Whose turn it is was read before the lock; a tenant that was served in between is not taken, because its place
//! in the queue is another one now. Locks are taken in the order tenant, lease, connection; nobody waits for a lease that is locked, because its
//! holder may be a process that was frozen.

use std::time::Duration;

use serde_json::json;
use sqlx::{Executor, Row as _};
use tokio::time::sleep;

use super::{
    Backend, Caps, Claim, ConnectionState, Db, Lease, PlatformError, Release, Result, Row, Written,
    audit, commit_and_wake, connections, reading, writing,
};
use crate::platform::values::{clean, count, from_json, milliseconds, new_id, to_json, unsigned};

/// How often a claim looks again when others hold all tenants that have something to do. They hold them for a millisecond.
const LOOKS: u32 = 100;
const BETWEEN_LOOKS: Duration = Duration::from_millis(3);

/// What can be claimed, of `c` and its lease `l`. Whoever asks whether there is any orders it by `wake_at`, without needing the order: the
/// database knows nothing of how much is due, and would otherwise walk through all connections, most of which wait for their time.
macro_rules! claimable {
    () => {
        concat!(
            "c.state IN ('active', 'leaving') AND c.wake_at <= ",
            now!(),
            " AND NOT ",
            is_held!()
        )
    };
}

/// What a worker has hands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Anything,
    /// Deliveries that wait, and nothing else.
    Deliveries,
}

/// Of what can be claimed, what is wanted: `$2` is 1 where deliveries alone are. What failed is left to those who also sync: that mends it, or
/// says for how long to wait. So is what has been due for a quarter of an hour: else its deliveries could keep it from ever being synced.
macro_rules! wanted {
    () => {
        concat!(
            " AND (CAST($2 AS BIGINT) = 0 OR (c.failures = 0 AND c.inbox_due <= ",
            now!(),
            " AND c.due_at > ",
            now!(),
            " - 900000))"
        )
    };
}

/// The tenant whose turn it is.
struct Turn {
    tenant: String,
    caps: Caps,
}

pub(super) async fn claim(
    store: &Backend,
    wanted: Wanted,
    worker: &str,
    ttl: Duration,
    park_after: u32,
) -> Result<Option<Claim>> {
    let mut capped = Vec::new();
    let mut looks = 0;
    while looks < LOOKS && is_anything_due(store, wanted, &capped).await? {
        let mut transaction = writing(store).await?;
        let Some(turn) = next_turn(&mut transaction, wanted, &capped).await? else {
            transaction.rollback().await?;
            looks += 1;
            sleep(BETWEEN_LOOKS).await;
            continue;
        };
        let claim = claim_of(&mut transaction, &turn, wanted, worker, ttl, park_after).await?;
        transaction.commit().await?;
        if claim.is_some() {
            return Ok(claim);
        }
        capped.push(turn.tenant);
    }
    Ok(None)
}

impl Wanted {
    fn flag(self) -> i64 {
        i64::from(self == Self::Deliveries)
    }
}

async fn is_anything_due(store: &Backend, wanted: Wanted, capped: &[String]) -> Result<bool> {
    let found = sqlx::query(concat!(
        "SELECT 1 FROM platform_connections AS c JOIN connections AS l ON l.id = c.ledger WHERE ",
        claimable!(),
        " AND c.tenant NOT IN ",
        listed!("$1"),
        wanted!(),
        " ORDER BY c.wake_at LIMIT 1"
    ))
    .bind(to_json(capped)?)
    .bind(wanted.flag())
    .fetch_optional(reading(store))
    .await?;
    Ok(found.is_some())
}

/// Locks the tenant whose turn it is, of those with something to do.
async fn next_turn(
    transaction: &mut Written,
    wanted: Wanted,
    capped: &[String],
) -> Result<Option<Turn>> {
    let row = match wanted {
        Wanted::Anything => least_recently_served(transaction, capped).await?,
        Wanted::Deliveries => any_with_deliveries(transaction, capped).await?,
    };
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Turn {
        tenant: row.try_get("id")?,
        caps: from_json(row.try_get("caps")?)?,
    }))
}

/// The tenant that was served least recently goes to the end of the queue.
async fn least_recently_served(
    transaction: &mut Written,
    capped: &[String],
) -> Result<Option<Row>> {
    let row = sqlx::query(concat!(
        "WITH queue AS MATERIALIZED (
             SELECT t.id, t.served FROM tenants AS t
             WHERE (SELECT 1 FROM platform_connections AS c JOIN connections AS l ON l.id = c.ledger WHERE c.tenant = t.id AND ",
        claimable!(),
        " ORDER BY c.wake_at LIMIT 1) = 1 AND t.id NOT IN ",
        listed!("$1"),
        "    ORDER BY t.served, t.id LIMIT 32)
         SELECT t.id, t.caps FROM queue JOIN tenants AS t ON t.id = queue.id AND t.served = queue.served
         ORDER BY queue.served, queue.id LIMIT 1",
        lock_free!("t")
    ))
    .bind(to_json(capped)?)
    .fetch_optional(&mut **transaction)
    .await?;
    let Some(row) = row else { return Ok(None) };
    sqlx::query(concat!(
        "UPDATE tenants SET served = ",
        turn!(),
        " WHERE id = $1"
    ))
    .bind(row.try_get::<String, _>("id")?)
    .execute(&mut **transaction)
    .await?;
    Ok(Some(row))
}

/// Deliveries are short: any tenant's will do, and nobody loses a place in the queue by them.
async fn any_with_deliveries(transaction: &mut Written, capped: &[String]) -> Result<Option<Row>> {
    Ok(sqlx::query(concat!(
        "WITH queue AS MATERIALIZED (
             SELECT DISTINCT c.tenant FROM platform_connections AS c JOIN connections AS l ON l.id = c.ledger WHERE ",
        claimable!(),
        wanted!(),
        "    AND c.tenant NOT IN ",
        listed!("$1"),
        ")
         SELECT t.id, t.caps FROM queue JOIN tenants AS t ON t.id = queue.tenant ORDER BY random() LIMIT 1",
        lock_free!("t")
    ))
    .bind(to_json(capped)?)
    .bind(Wanted::Deliveries.flag())
    .fetch_optional(&mut **transaction)
    .await?)
}

/// Claims the connection of this tenant that has been due longest; `None` where the tenant is at its cap, or nothing is due any more. Where
/// the longest due has to wait for memory, so do all behind it: others would keep it waiting for ever. Deliveries alone do not wait behind a
/// sync that does.
async fn claim_of(
    transaction: &mut Written,
    turn: &Turn,
    wanted: Wanted,
    worker: &str,
    ttl: Duration,
    park_after: u32,
) -> Result<Option<Claim>> {
    let (live, in_use) = running(&mut **transaction, &turn.tenant).await?;
    if turn.caps.are_reached_by(live) || waits_for_computing_time(transaction, turn).await? {
        return Ok(None);
    }
    loop {
        let row = sqlx::query(concat!(
            "SELECT c.id, c.ledger, c.state, c.memory, CASE WHEN c.state = 'leaving' THEN 0 ELSE c.claims END AS claims FROM platform_connections AS c JOIN connections AS l ON l.id = c.ledger
             WHERE c.tenant = $1 AND ",
            claimable!(),
            wanted!(),
            " ORDER BY c.wake_at, c.id LIMIT 1",
            lock_free!("l")
        ))
        .bind(&turn.tenant)
        .bind(wanted.flag())
        .fetch_optional(&mut **transaction)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let ledger: i64 = row.try_get("ledger")?;
        let claims: i64 = row.try_get("claims")?;
        if park_after > 0 && claims >= i64::from(park_after) {
            let reason = format!(
                "it was begun {claims} times, and no run of it came to an end: its workers died or lost it. Look at its runs and at the workers' logs, then resume it"
            );
            park(transaction, ledger, reason).await?;
            continue;
        }
        let memory: i64 = row.try_get("memory")?;
        let needed = unsigned(memory);
        if let Some(allowed) = turn.caps.memory_bytes
            && turn.caps.leave_no_room(in_use, needed)
        {
            let leaves = row.try_get::<String, _>("state")? == "leaving";
            if needed > allowed && !leaves {
                let reason = format!(
                    "one run of it may take {needed} bytes of memory, and its tenant may have {allowed} in all; lower its limit `memory` or raise the tenant's cap, then resume it"
                );
                park(transaction, ledger, reason).await?;
                continue;
            }
            // What is to be taken down runs alone, however large it is.
            if live > 0 || !leaves {
                return Ok(None);
            }
        }
        // Its row was not locked yet: it may have been paused, or its limits changed, in the meantime.
        let taken = sqlx::query(concat!(
            "UPDATE platform_connections AS c SET claims = claims + 1, running = 1, woken = 0, held_memory = memory,
                    state_reason = CASE WHEN state = 'active' THEN NULL ELSE state_reason END
             WHERE ledger = $1 AND memory = $2 AND state IN ('active', 'leaving') AND wake_at <= ",
            now!(),
            " RETURNING id, claims, CAST(CASE WHEN due_at <= ",
            now!(),
            " THEN 1 ELSE 0 END AS BIGINT) AS is_due"
        ))
        .bind(ledger)
        .bind(memory)
        .fetch_optional(&mut **transaction)
        .await?;
        let Some(taken) = taken else { continue };
        let epoch: i64 = sqlx::query_scalar(concat!(
            "UPDATE connections SET epoch = epoch + 1, owner = $2, lease_until = ",
            clock!(),
            " + $3 WHERE id = $1 RETURNING epoch"
        ))
        .bind(ledger)
        .bind(clean(worker))
        .bind(ttl.as_secs_f64())
        .fetch_one(&mut **transaction)
        .await?;
        let is_due: i64 = taken.try_get("is_due")?;
        let due = is_due != 0 && wanted == Wanted::Anything;
        let id: String = taken.try_get("id")?;
        let lease = Lease {
            connection: ledger,
            epoch,
        };
        let kind = if due { "sync" } else { "deliveries" };
        let run = open_run(transaction, lease, turn, &id, kind, worker).await?;
        return Ok(Some(Claim {
            lease,
            connection: connections::one(&mut **transaction, None, &id).await?,
            run,
            due,
            claims: count(taken.try_get("claims")?),
        }));
    }
}

/// How many runs of this tenant go on, and what memory they may take.
async fn running(database: impl Executor<'_, Database = Db>, tenant: &str) -> Result<(i64, u64)> {
    let row = sqlx::query(concat!(
        "SELECT count(*) AS live, CAST(coalesce(sum(c.held_memory), 0) AS BIGINT) AS memory
         FROM platform_connections AS c JOIN connections AS l ON l.id = c.ledger
         WHERE c.tenant = $1 AND c.running = 1 AND ",
        is_held!()
    ))
    .bind(tenant)
    .fetch_one(database)
    .await?;
    Ok((row.try_get("live")?, unsigned(row.try_get("memory")?)))
}

pub(super) async fn deliveries_wait(
    store: &Backend,
    tenant: &str,
    longer_than: Duration,
) -> Result<bool> {
    let waiting = sqlx::query(concat!(
        "SELECT c.memory, t.caps FROM platform_connections AS c JOIN connections AS l ON l.id = c.ledger JOIN tenants AS t ON t.id = c.tenant
         WHERE c.tenant = $1 AND ",
        claimable!(),
        " AND c.failures = 0 AND c.inbox_due <= ",
        now!(),
        " - CAST($2 AS BIGINT) ORDER BY c.wake_at LIMIT 1"
    ))
    .bind(tenant)
    .bind(milliseconds(longer_than))
    .fetch_optional(reading(store))
    .await?;
    let Some(waiting) = waiting else {
        return Ok(false);
    };
    let caps: Caps = from_json(waiting.try_get("caps")?)?;
    let (live, in_use) = running(reading(store), tenant).await?;
    let needed = unsigned(waiting.try_get("memory")?);
    Ok(caps.are_reached_by(live) || caps.leave_no_room(in_use, needed))
}

/// Whether the runs of this tenant that ended within the last hour, or go on, have used its computing time up. What waits for that says so.
async fn waits_for_computing_time(transaction: &mut Written, turn: &Turn) -> Result<bool> {
    let Some(most) = turn.caps.cpu_ms_per_hour else {
        return Ok(false);
    };
    // No run is longer than a day, and the index is by the time at which they began.
    let used: i64 = sqlx::query_scalar(concat!(
        "SELECT CAST(coalesce(sum(cpu_ms), 0) AS BIGINT) FROM platform_runs
         WHERE tenant = $1 AND started_at > ",
        now!(),
        " - 86400000 AND (ended_at IS NULL OR ended_at > ",
        now!(),
        " - 3600000)"
    ))
    .bind(&turn.tenant)
    .fetch_one(&mut **transaction)
    .await?;
    if u64::try_from(used).is_ok_and(|used| used < most) {
        return Ok(false);
    }
    sqlx::query(concat!(
        "UPDATE platform_connections SET state_reason = $2
         WHERE tenant = $1 AND state = 'active' AND running = 0 AND state_reason IS NULL AND wake_at <= ",
        now!()
    ))
    .bind(&turn.tenant)
    .bind(format!(
        "its tenant has used {used} ms of the {most} ms of computing time that it may use within an hour; it goes on when enough of that is an hour old"
    ))
    .execute(&mut **transaction)
    .await?;
    Ok(true)
}

/// Takes a connection out of service. Whoever still runs it is fenced.
async fn park(transaction: &mut Written, ledger: i64, reason: String) -> Result<()> {
    let parked = sqlx::query(
        "UPDATE platform_connections SET state = 'parked', state_reason = $2, running = 0 WHERE ledger = $1 AND state = 'active'
         RETURNING tenant, id",
    )
    .bind(ledger)
    .bind(&*reason)
    .fetch_optional(&mut **transaction)
    .await?;
    // Its row was not locked yet: its owner has paused it or taken it down in the meantime, which counts.
    let Some(parked) = parked else {
        return Ok(());
    };
    note_parked(transaction, &parked, &reason).await?;
    sqlx::query(
        "UPDATE connections SET epoch = epoch + 1, owner = '', lease_until = 0 WHERE id = $1",
    )
    .bind(ledger)
    .execute(&mut **transaction)
    .await?;
    interrupt(transaction, ledger).await
}

/// A line in the log of changes. `row` is the tenant and the id of the connection.
async fn note_parked(transaction: &mut Written, row: &Row, reason: &str) -> Result<()> {
    let (tenant, id): (String, String) = (row.try_get("tenant")?, row.try_get("id")?);
    let (by, action) = ("worker", "connection.parked");
    let detail = json!({ "reason": clean(reason) });
    audit::note(transaction, Some(&tenant), by, action, &id, &detail).await
}

async fn interrupt(transaction: &mut Written, ledger: i64) -> Result<()> {
    sqlx::query(concat!(
        "UPDATE platform_runs SET outcome = 'interrupted', ended_at = ",
        now!(),
        " WHERE ledger = $1 AND ended_at IS NULL"
    ))
    .bind(ledger)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

async fn open_run(
    transaction: &mut Written,
    lease: Lease,
    turn: &Turn,
    connection: &str,
    kind: &str,
    worker: &str,
) -> Result<String> {
    interrupt(transaction, lease.connection).await?;
    let id = new_id();
    sqlx::query(concat!(
        "INSERT INTO platform_runs (id, connection, tenant, ledger, epoch, kind, worker, outcome, started_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, 'running', ",
        now!(),
        ")"
    ))
    .bind(&*id)
    .bind(connection)
    .bind(&*turn.tenant)
    .bind(lease.connection)
    .bind(lease.epoch)
    .bind(kind)
    .bind(clean(worker))
    .execute(&mut **transaction)
    .await?;
    Ok(id)
}

pub(super) async fn release(
    store: &Backend,
    lease: Lease,
    run: &str,
    release: &Release,
) -> Result<()> {
    let mut transaction = store.fenced(lease).await?;
    let ended = sqlx::query(concat!(
        "UPDATE platform_runs SET outcome = $3, receipt = $4, ended_at = ",
        now!(),
        " WHERE id = $2 AND ledger = $1"
    ))
    .bind(lease.connection)
    .bind(clean(run))
    .bind(clean(&release.outcome))
    .bind(to_json(&release.receipt)?)
    .execute(&mut *transaction)
    .await?;
    if ended.rows_affected() == 0 {
        return Err(PlatformError::Missing("run"));
    }
    let given_back = sqlx::query(concat!(
        "UPDATE platform_connections SET running = 0, claims = 0,
                failures = CASE WHEN woken = 1 THEN 0 ELSE $2 END,
                due_at = CASE WHEN woken = 1 OR $3 IS NULL THEN due_at ELSE ",
        now!(),
        " + $3 END, held_until = CASE WHEN woken = 1 OR $2 = 0 OR $3 IS NULL THEN 0 ELSE ",
        now!(),
        " + $3 END, woken = 0,
                state_reason = CASE WHEN state = 'active' AND woken = 0 AND $4 IS NOT NULL THEN $4 ELSE state_reason END,
                state = CASE WHEN state = 'active' AND woken = 0 AND $4 IS NOT NULL THEN 'parked' ELSE state END
         WHERE ledger = $1 RETURNING tenant, id, state"
    ))
    .bind(lease.connection)
    .bind(i64::from(release.failures))
    .bind(release.due_in.map(milliseconds))
    .bind(release.park.as_deref().map(clean))
    .fetch_one(&mut *transaction)
    .await?;
    if let Some(reason) = &release.park
        && given_back.try_get::<String, _>("state")? == ConnectionState::Parked.as_str()
    {
        note_parked(&mut transaction, &given_back, reason).await?;
    }
    sqlx::query("UPDATE connections SET lease_until = 0, owner = '' WHERE id = $1")
        .bind(lease.connection)
        .execute(&mut *transaction)
        .await?;
    // A place is free: others wait for it only where this tenant has more to do.
    let more = sqlx::query(concat!(
        "SELECT 1 FROM platform_connections AS c JOIN connections AS l ON l.id = c.ledger
         WHERE c.tenant = (SELECT tenant FROM platform_connections WHERE ledger = $1) AND ",
        claimable!(),
        " ORDER BY c.wake_at LIMIT 1"
    ))
    .bind(lease.connection)
    .fetch_optional(&mut *transaction)
    .await?;
    if more.is_some() {
        commit_and_wake(store, transaction).await?;
    } else {
        transaction.commit().await?;
    }
    Ok(())
}

pub(super) async fn next_due_in(store: &Backend) -> Result<Option<Duration>> {
    let rest: Option<i64> = sqlx::query_scalar(concat!(
        "SELECT min(moment) - ",
        now!(),
        " FROM (SELECT (SELECT wake_at FROM platform_connections WHERE state IN ('active', 'leaving') AND running = 0
                        ORDER BY wake_at LIMIT 1) AS moment
                UNION ALL
                SELECT min(CASE WHEN l.lease_until * 1000 > c.wake_at THEN CAST(l.lease_until * 1000 AS BIGINT) + 1 ELSE c.wake_at END)
                FROM platform_connections AS c JOIN connections AS l ON l.id = c.ledger
                WHERE c.running = 1 AND c.state IN ('active', 'leaving')) AS next"
    ))
    .fetch_one(reading(store))
    .await?;
    Ok(rest.map(|rest| Duration::from_millis(unsigned(rest))))
}

pub(super) async fn sweep(store: &Backend) -> Result<u64> {
    // What was paused or parked while it ran is claimed by nobody: its worker, if it died, is superseded here.
    let left: Vec<i64> = sqlx::query_scalar(concat!(
        "SELECT c.ledger FROM platform_connections AS c JOIN connections AS l ON l.id = c.ledger
         WHERE c.running = 1 AND c.state NOT IN ('active', 'leaving') AND NOT ",
        is_held!()
    ))
    .fetch_all(reading(store))
    .await?;
    for ledger in left {
        let mut transaction = writing(store).await?;
        let superseded = sqlx::query(concat!(
            "UPDATE connections AS l SET epoch = epoch + 1, owner = '', lease_until = 0 WHERE id = $1 AND NOT ",
            is_held!()
        ))
        .bind(ledger)
        .execute(&mut *transaction)
        .await?;
        if superseded.rows_affected() > 0 {
            sqlx::query("UPDATE platform_connections SET running = 0 WHERE ledger = $1")
                .bind(ledger)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
    }
    let mut transaction = writing(store).await?;
    let swept = sqlx::query(concat!(
        "UPDATE platform_runs SET outcome = 'interrupted', ended_at = ",
        now!(),
        " WHERE id IN (SELECT r.id FROM platform_runs AS r JOIN connections AS l ON l.id = r.ledger
                       WHERE r.ended_at IS NULL AND l.epoch > r.epoch ORDER BY r.id",
        lock_free!("r"),
        ")"
    ))
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(swept.rows_affected())
}
