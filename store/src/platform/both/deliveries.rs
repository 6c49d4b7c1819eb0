//! Deliveries: taken in by the hundred, handled by their connection's runs.
//!
//! Whoever adds a delivery that waits, or decides on one, locks the connection's row first, and says in it when the next is due. Without
//! that lock the two would not see each other, and a delivery could wait for a wake-up that never comes.
//!
//! All bodies of a page travel as one value, and the rows say where each begins: one statement, however many there are.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;
use sqlx::Row as _;

use super::{
    Backend, Delivery, DeliveryFilter, DeliveryState, DeliveryVerdict, Lease, NewDelivery, Page,
    PlatformError, Result, Row, Written, commit_and_wake, delete_in_steps, keep, most, reading,
    writing,
};
use crate::platform::values::{
    clean, count, from_json, milliseconds, parse_time, time, to_json, unsigned,
};

/// Bodies that one statement carries.
const MOST_BYTES_AT_ONCE: usize = 16 << 20;
/// Rows that one transaction removes.
const TRIMMED_AT_ONCE: i64 = 500;
/// What is known of a delivery is known for so long: its sender may repeat it.
const KEYS_LIVE: Duration = Duration::from_secs(7 * 86_400);

macro_rules! columns {
    () => {
        "id, connection, key, headers, bytes, trace, state, reason, attempts, received_at, settled_at,
         CAST(CASE WHEN attempts = 0 AND due_at <> received_at THEN 1 ELSE 0 END AS BIGINT) AS replayed"
    };
}

/// `$2` to `$4`: state, since, until.
macro_rules! fits {
    () => {
        "($2 IS NULL OR state = $2) AND ($3 IS NULL OR received_at >= $3) AND ($4 IS NULL OR received_at < $4)"
    };
}

fn read(row: &Row) -> Result<Delivery> {
    let state: String = row.try_get("state")?;
    let settled_at: Option<i64> = row.try_get("settled_at")?;
    let replayed: i64 = row.try_get("replayed")?;
    Ok(Delivery {
        id: row.try_get("id")?,
        connection: row.try_get("connection")?,
        key: row.try_get("key")?,
        headers: from_json(row.try_get("headers")?)?,
        bytes: unsigned(row.try_get("bytes")?),
        trace: row.try_get("trace")?,
        state: DeliveryState::parse(&state).unwrap_or(DeliveryState::Failed),
        reason: row.try_get("reason")?,
        attempts: count(row.try_get("attempts")?),
        replayed: replayed != 0,
        received_at: time(row.try_get("received_at")?),
        settled_at: settled_at.map(time),
    })
}

/// A delivery on its way in. `offset` counts from 1, as `substr` does.
#[derive(Serialize)]
struct Arriving<'a> {
    id: &'a str,
    connection: i64,
    key: &'a str,
    headers: String,
    trace: &'a str,
    offset: usize,
    bytes: usize,
}

pub(super) async fn receive(
    store: &Backend,
    deliveries: &[NewDelivery],
    ids: &[String],
) -> Result<Vec<(String, bool)>> {
    if deliveries.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<_> = deliveries.iter().map(|one| clean(&one.key)).collect();
    let traces: Vec<_> = deliveries.iter().map(|one| clean(&one.trace)).collect();
    let wanted: BTreeSet<i64> = deliveries.iter().map(|one| one.connection).collect();
    let mut transaction = writing(store).await?;
    let open = lock_inboxes(&mut transaction, &wanted).await?;
    let mut begin = 0;
    while begin < deliveries.len() {
        let mut body = Vec::new();
        let mut arriving = Vec::new();
        let mut end = begin;
        while let Some(one) = deliveries.get(end) {
            if end > begin && body.len() + one.body.len() > MOST_BYTES_AT_ONCE {
                break;
            }
            if open.contains(&one.connection) {
                arriving.push(Arriving {
                    id: &ids[end],
                    connection: one.connection,
                    key: &keys[end],
                    headers: to_json(&one.headers)?,
                    trace: &traces[end],
                    offset: body.len() + 1,
                    bytes: one.body.len(),
                });
                body.extend_from_slice(&one.body);
            }
            end += 1;
        }
        insert(&mut transaction, &arriving, body).await?;
        begin = end;
    }
    let known = known_ids(&mut transaction, deliveries, &keys).await?;
    let answers: Vec<(String, bool)> = deliveries
        .iter()
        .zip(&keys)
        .zip(ids)
        .map(|((one, key), id)| {
            let kept = known.get(&(one.connection, &**key));
            kept.map_or_else(Default::default, |kept| (kept.clone(), kept == id))
        })
        .collect();
    let news: BTreeSet<i64> = answers
        .iter()
        .zip(deliveries)
        .filter(|((_, new), _)| *new)
        .map(|(_, one)| one.connection)
        .collect();
    if news.is_empty() {
        transaction.rollback().await?;
        return Ok(answers);
    }
    sqlx::query(concat!(
        "UPDATE platform_connections SET inbox_due = ",
        now!(),
        " WHERE ledger IN (SELECT CAST(news.value ->> 'ledger' AS BIGINT) FROM ",
        rows!("$1"),
        " AS news) AND (inbox_due IS NULL OR inbox_due > ",
        now!(),
        ")"
    ))
    .bind(ledgers(&news)?)
    .execute(&mut *transaction)
    .await?;
    commit_and_wake(store, transaction).await?;
    keep(store).await?;
    Ok(answers)
}

fn ledgers(connections: &BTreeSet<i64>) -> Result<String> {
    let rows: Vec<_> = connections
        .iter()
        .map(|ledger| BTreeMap::from([("ledger", ledger)]))
        .collect();
    to_json(&rows)
}

/// Locks what is there of these, in one order for everybody. A connection of `runtime run` is in the ledger alone: it is known by not having a
/// name of the platform's, whose rows outlive their connection for a while, and needs no lock, because nobody deletes it.
async fn lock_inboxes(transaction: &mut Written, wanted: &BTreeSet<i64>) -> Result<HashSet<i64>> {
    let mut open: Vec<i64> = sqlx::query_scalar(concat!(
        "SELECT c.ledger FROM platform_connections AS c
         WHERE c.ledger IN (SELECT CAST(wanted.value ->> 'ledger' AS BIGINT) FROM ",
        rows!("$1"),
        " AS wanted) ORDER BY c.ledger",
        lock!("c")
    ))
    .bind(ledgers(wanted)?)
    .fetch_all(&mut **transaction)
    .await?;
    if open.len() < wanted.len() {
        let alone: Vec<i64> = sqlx::query_scalar(concat!(
            "SELECT id FROM connections WHERE name NOT LIKE 'platform:%'
             AND id IN (SELECT CAST(wanted.value ->> 'ledger' AS BIGINT) FROM ",
            rows!("$1"),
            " AS wanted)"
        ))
        .bind(ledgers(wanted)?)
        .fetch_all(&mut **transaction)
        .await?;
        open.extend(alone);
    }
    Ok(open.into_iter().collect())
}

/// Due when they were received, to the millisecond: what is due at another time and was never tried is replayed.
async fn insert(transaction: &mut Written, arriving: &[Arriving<'_>], body: Vec<u8>) -> Result<()> {
    sqlx::query(concat!(
        "WITH arrival AS MATERIALIZED (SELECT ",
        now!(),
        " AS moment)
         INSERT INTO deliveries (id, connection, key, headers, bytes, trace, received_at, due_at, body)
         SELECT one.value ->> 'id', CAST(one.value ->> 'connection' AS BIGINT), one.value ->> 'key', one.value ->> 'headers',
                CAST(one.value ->> 'bytes' AS BIGINT), one.value ->> 'trace', arrival.moment, arrival.moment,
                substr($2, CAST(one.value ->> 'offset' AS INTEGER), CAST(one.value ->> 'bytes' AS INTEGER)) FROM arrival, ",
        rows!("$1"),
        " AS one WHERE true ON CONFLICT (connection, key) DO NOTHING"
    ))
    .bind(to_json(arriving)?)
    .bind(body)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Which ids the keys have now.
async fn known_ids<'a>(
    transaction: &mut Written,
    deliveries: &[NewDelivery],
    keys: &'a [std::borrow::Cow<'_, str>],
) -> Result<HashMap<(i64, &'a str), String>> {
    #[derive(Serialize)]
    struct Asked<'a> {
        at: usize,
        connection: i64,
        key: &'a str,
    }
    let asked: Vec<_> = deliveries
        .iter()
        .zip(keys)
        .enumerate()
        .map(|(at, (one, key))| Asked {
            at,
            connection: one.connection,
            key,
        })
        .collect();
    let rows = sqlx::query(concat!(
        "SELECT CAST(asked.value ->> 'at' AS BIGINT) AS at_place, d.id FROM ",
        rows!("$1"),
        " AS asked CROSS JOIN deliveries AS d
         WHERE d.connection = CAST(asked.value ->> 'connection' AS BIGINT) AND d.key = asked.value ->> 'key'"
    ))
    .bind(to_json(&asked)?)
    .fetch_all(&mut **transaction)
    .await?;
    let mut known = HashMap::with_capacity(rows.len());
    for row in rows {
        let at: i64 = row.try_get("at_place")?;
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        if let (Some(one), Some(key)) = (deliveries.get(at), keys.get(at)) {
            known.insert((one.connection, &**key), row.try_get("id")?);
        }
    }
    Ok(known)
}

pub(super) async fn waiting(
    store: &Backend,
    connection: i64,
    most: u32,
    most_bytes: u64,
) -> Result<Vec<(Delivery, Vec<u8>)>> {
    let rows = sqlx::query(concat!(
        "SELECT id, bytes FROM deliveries WHERE connection = $1 AND state = 'waiting' AND due_at <= ",
        now!(),
        " ORDER BY received_at, id LIMIT $2"
    ))
    .bind(connection)
    .bind(i64::from(most))
    .fetch_all(reading(store))
    .await?;
    let mut ids: Vec<String> = Vec::new();
    let mut total = 0_u64;
    for row in &rows {
        total = total.saturating_add(unsigned(row.try_get("bytes")?));
        if total > most_bytes && !ids.is_empty() {
            break;
        }
        ids.push(row.try_get("id")?);
    }
    let rows = sqlx::query(concat!(
        "SELECT ",
        columns!(),
        ", body FROM deliveries WHERE connection = $1 AND id IN ",
        listed!("$2"),
        " ORDER BY received_at, id"
    ))
    .bind(connection)
    .bind(to_json(&ids)?)
    .fetch_all(reading(store))
    .await?;
    rows.iter()
        .map(|row| Ok((read(row)?, row.try_get("body")?)))
        .collect()
}

pub(super) async fn settle(
    store: &Backend,
    lease: Lease,
    verdicts: &[DeliveryVerdict],
    retry_in: Duration,
) -> Result<()> {
    #[derive(Serialize)]
    struct Fate<'a> {
        id: &'a str,
        state: &'static str,
        reason: Option<std::borrow::Cow<'a, str>>,
    }
    // The last word on each.
    let fates: BTreeMap<&str, Fate<'_>> = verdicts
        .iter()
        .map(|verdict| {
            let fate = Fate {
                id: &verdict.id,
                state: verdict.state.as_str(),
                reason: verdict.reason.as_deref().map(clean),
            };
            (&*verdict.id, fate)
        })
        .filter(|(id, _)| !id.contains('\0'))
        .collect();
    let fates: Vec<_> = fates.into_values().collect();
    let mut transaction = store.fenced(lease).await?;
    lock_inboxes(&mut transaction, &BTreeSet::from([lease.connection])).await?;
    sqlx::query(concat!(
        "UPDATE deliveries SET state = fate.value ->> 'state', reason = fate.value ->> 'reason', attempts = attempts + 1,
                due_at = CASE WHEN fate.value ->> 'state' = 'waiting' THEN ",
        now!(),
        " + $3 ELSE due_at END, settled_at = CASE WHEN fate.value ->> 'state' = 'waiting' THEN NULL ELSE ",
        now!(),
        " END FROM ",
        rows!("$2"),
        " AS fate WHERE deliveries.id = fate.value ->> 'id' AND deliveries.connection = $1"
    ))
    .bind(lease.connection)
    .bind(to_json(&fates)?)
    .bind(milliseconds(retry_in))
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "UPDATE platform_connections SET inbox_due = (SELECT min(due_at) FROM deliveries WHERE connection = $1 AND state = 'waiting')
         WHERE ledger = $1",
    )
    .bind(lease.connection)
    .execute(&mut *transaction)
    .await?;
    Ok(transaction.commit().await?)
}

/// The bounds of a filter, in milliseconds.
fn bounds(filter: &DeliveryFilter) -> Result<(Option<i64>, Option<i64>)> {
    let since = filter.since.as_deref().map(parse_time).transpose()?;
    let until = filter.until.as_deref().map(parse_time).transpose()?;
    Ok((since, until))
}

pub(super) async fn page(
    store: &Backend,
    connection: i64,
    filter: &DeliveryFilter,
    page: &Page,
) -> Result<Vec<Delivery>> {
    let (since, until) = bounds(filter)?;
    let rows = sqlx::query(concat!(
        "SELECT ",
        columns!(),
        " FROM deliveries WHERE connection = $1 AND ",
        fits!(),
        " AND ($5 IS NULL OR id < $5) ORDER BY id DESC LIMIT $6"
    ))
    .bind(connection)
    .bind(filter.state.map(DeliveryState::as_str))
    .bind(since)
    .bind(until)
    .bind(page.after.as_deref().map(clean))
    .bind(most(page))
    .fetch_all(reading(store))
    .await?;
    rows.iter().map(read).collect()
}

pub(super) async fn one(store: &Backend, connection: i64, id: &str) -> Result<(Delivery, Vec<u8>)> {
    let row = sqlx::query(concat!(
        "SELECT ",
        columns!(),
        ", body FROM deliveries WHERE connection = $1 AND id = $2"
    ))
    .bind(connection)
    .bind(clean(id))
    .fetch_optional(reading(store))
    .await?;
    let row = row.ok_or(PlatformError::Missing("delivery"))?;
    Ok((read(&row)?, row.try_get("body")?))
}

pub(super) async fn replay(
    store: &Backend,
    connection: i64,
    id: Option<&str>,
    filter: &DeliveryFilter,
) -> Result<u64> {
    let (since, until) = bounds(filter)?;
    let mut transaction = writing(store).await?;
    lock_inboxes(&mut transaction, &BTreeSet::from([connection])).await?;
    let replayed = sqlx::query(concat!(
        "UPDATE deliveries SET state = 'waiting', reason = NULL, attempts = 0, settled_at = NULL, due_at = ",
        now!(),
        " WHERE connection = $1 AND ",
        fits!(),
        " AND ($5 IS NULL OR id = $5)"
    ))
    .bind(connection)
    .bind(filter.state.map(DeliveryState::as_str))
    .bind(since)
    .bind(until)
    .bind(id.map(clean))
    .execute(&mut *transaction)
    .await?
    .rows_affected();
    if replayed == 0 {
        transaction.rollback().await?;
        return if id.is_some() {
            Err(PlatformError::Missing("delivery"))
        } else {
            Ok(0)
        };
    }
    sqlx::query(concat!(
        "UPDATE platform_connections SET inbox_due = ",
        now!(),
        ", held_until = 0 WHERE ledger = $1"
    ))
    .bind(connection)
    .execute(&mut *transaction)
    .await?;
    commit_and_wake(store, transaction).await?;
    keep(store).await?;
    Ok(replayed)
}

pub(super) async fn trim(store: &Backend, older_than: Duration) -> Result<u64> {
    let sql = concat!(
        "DELETE FROM deliveries WHERE id IN (SELECT d.id FROM deliveries AS d WHERE d.settled_at IS NOT NULL AND d.settled_at < ",
        now!(),
        " - $1 ORDER BY d.settled_at LIMIT $2",
        lock_free!("d"),
        ")"
    );
    delete_in_steps(store, sql, older_than.max(KEYS_LIVE), TRIMMED_AT_ONCE).await
}
