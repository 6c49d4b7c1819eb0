//! What has happened to a connection: runs, deliveries, dead letters; and the log of changes.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::problem::Problem;
use super::request::{Asked, Caller, Input, List, ListQuery, audit, page};
use super::tenants::UsageView;
use crate::ledger::KeptLetter;
use crate::platform::Ground;
use crate::platform::keys::Scope;
use crate::platform::letters::{MOST_WISHED, Wishes, wish, wishes};
use connector_store::platform::{
    AuditEntry, Connection, ConnectionChange, Delivery, DeliveryFilter, DeliveryState, Run,
};

/// Which part of a list.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, default)]
pub struct PageQuery {
    /// `next` of the page before.
    after: Option<String>,
    /// Rows, at most 200.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
}

/// One run.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Run)]
#[allow(missing_docs, reason = "the names say it")]
pub struct RunView {
    pub id: String,
    pub connection: String,
    /// `sync` or `deliveries`.
    pub kind: String,
    /// `running`, `complete`, `failed`, `interrupted`, …
    pub outcome: String,
    pub usage: UsageView,
    pub worker: String,
    pub started_at: String,
    pub ended_at: Option<String>,
    /// In full, as `runtime run` prints it; empty while it runs.
    #[schema(value_type = Object)]
    pub receipt: Value,
}

impl From<Run> for RunView {
    fn from(run: Run) -> Self {
        Self {
            id: run.id,
            connection: run.connection,
            kind: run.kind,
            outcome: run.outcome,
            usage: run.usage.into(),
            worker: run.worker,
            started_at: run.started_at,
            ended_at: run.ended_at,
            receipt: run.receipt,
        }
    }
}

async fn found(ground: &Ground, caller: &Caller, id: &str) -> Result<Connection, Problem> {
    Ok(ground.platform.connection(caller.tenant(), id).await?)
}

/// Runs of a connection, newest first.
#[utoipa::path(get, path = "/connections/{connection}/runs", tag = "runs", params(("connection" = String, Path), PageQuery), responses((status = 200, body = List<RunView>)))]
pub(super) async fn runs(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
    Asked(query): Asked<PageQuery>,
) -> Result<Json<List<RunView>>, Problem> {
    caller.need(Scope::Read)?;
    let page = page(query.after, query.limit)?;
    found(&ground, &caller, &id).await?;
    let rows = ground.platform.runs(&id, &page).await?;
    Ok(List::new(rows, &page, |row| row.id.clone(), RunView::from))
}

/// One run with its receipt.
#[utoipa::path(get, path = "/connections/{connection}/runs/{run}", tag = "runs", params(("connection" = String, Path), ("run" = String, Path)), responses((status = 200, body = RunView)))]
pub(super) async fn run(
    State(ground): State<Ground>,
    caller: Caller,
    Path((id, run)): Path<(String, String)>,
) -> Result<Json<RunView>, Problem> {
    caller.need(Scope::Read)?;
    found(&ground, &caller, &id).await?;
    Ok(Json(ground.platform.run(&id, &run).await?.into()))
}

/// One webhook call.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Delivery)]
#[allow(missing_docs, reason = "the names say it")]
pub struct DeliveryView {
    pub id: String,
    /// What names the call; the same key is stored once.
    pub key: String,
    #[schema(value_type = Object)]
    pub headers: Value,
    pub bytes: u64,
    /// Follows it through logs and receipts.
    pub trace: String,
    /// `waiting`, `handled`, `ignored`, `polled` or `failed`.
    pub state: String,
    pub reason: Option<String>,
    pub attempts: u32,
    pub received_at: String,
    /// When its fate was decided, which is after CortexDB's receipt.
    pub settled_at: Option<String>,
}

impl From<Delivery> for DeliveryView {
    fn from(row: Delivery) -> Self {
        Self {
            id: row.id,
            key: row.key,
            headers: row.headers,
            bytes: row.bytes,
            trace: row.trace,
            state: row.state.as_str().to_owned(),
            reason: row.reason,
            attempts: row.attempts,
            received_at: row.received_at,
            settled_at: row.settled_at,
        }
    }
}

/// One with its body.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeliveryWithBody {
    /// What is known of it.
    #[serde(flatten)]
    pub delivery: DeliveryView,
    /// The body, if it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body in base64, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

/// Which deliveries.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, default)]
pub struct DeliveryQuery {
    /// `next` of the page before.
    after: Option<String>,
    /// Rows, at most 200.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// Only in this state.
    state: Option<String>,
    /// Received at or after, RFC 3339.
    since: Option<String>,
    /// Received before, RFC 3339.
    until: Option<String>,
}

fn filter(
    state: Option<&str>,
    since: Option<String>,
    until: Option<String>,
) -> Result<DeliveryFilter, Problem> {
    let state = match state {
        None => None,
        Some(text) => Some(DeliveryState::parse(text).ok_or_else(|| {
            Problem::invalid(
                "state",
                "there are waiting, handled, ignored, polled and failed",
            )
        })?),
    };
    let time = |field: &str, text: Option<String>| match text {
        None => Ok(None),
        Some(text) => chrono::DateTime::parse_from_rfc3339(&text)
            .map(|at| {
                let at = at.with_timezone(&chrono::Utc);
                // As the store writes times, so that texts compare as times do.
                Some(at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
            })
            .map_err(|_| {
                Problem::invalid(field, "not an RFC 3339 time such as 2026-01-31T00:00:00Z")
            }),
    };
    Ok(DeliveryFilter {
        state,
        since: time("since", since)?,
        until: time("until", until)?,
    })
}

/// Deliveries of a connection, newest first.
#[utoipa::path(get, path = "/connections/{connection}/deliveries", tag = "deliveries", params(("connection" = String, Path), DeliveryQuery), responses((status = 200, body = List<DeliveryView>)))]
pub(super) async fn deliveries(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
    Asked(query): Asked<DeliveryQuery>,
) -> Result<Json<List<DeliveryView>>, Problem> {
    caller.need(Scope::Read)?;
    let page = page(query.after, query.limit)?;
    let filter = filter(query.state.as_deref(), query.since, query.until)?;
    let row = found(&ground, &caller, &id).await?;
    let rows = ground.platform.deliveries(row.ledger, &filter, &page);
    let rows = rows.await?;
    Ok(List::new(
        rows,
        &page,
        |row| row.id.clone(),
        DeliveryView::from,
    ))
}

/// One delivery with its body.
#[utoipa::path(get, path = "/connections/{connection}/deliveries/{delivery}", tag = "deliveries", params(("connection" = String, Path), ("delivery" = String, Path)), responses((status = 200, body = DeliveryWithBody)))]
pub(super) async fn delivery(
    State(ground): State<Ground>,
    caller: Caller,
    Path((id, delivery)): Path<(String, String)>,
) -> Result<Json<DeliveryWithBody>, Problem> {
    caller.need(Scope::Read)?;
    let row = found(&ground, &caller, &id).await?;
    let (delivery, body) = ground.platform.delivery(row.ledger, &delivery).await?;
    let (body, body_base64) = match String::from_utf8(body) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(STANDARD.encode(error.into_bytes()))),
    };
    Ok(Json(DeliveryWithBody {
        delivery: delivery.into(),
        body,
        body_base64,
    }))
}

/// Which deliveries are to be handled again.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Replay {
    /// Only in this state.
    pub state: Option<String>,
    /// Received at or after, RFC 3339. Needed, so that nobody replays everything by mistake.
    pub since: Option<String>,
    /// Received before, RFC 3339.
    pub until: Option<String>,
}

/// How many.
#[derive(Debug, Serialize, ToSchema)]
pub struct Replayed {
    /// Deliveries that wait again.
    pub replayed: u64,
}

/// Makes the deliveries of a range wait again. A delivery is a hint, so that doubles nothing.
#[utoipa::path(post, path = "/connections/{connection}/deliveries/replay", tag = "deliveries", request_body = Replay,
    params(("connection" = String, Path)), responses((status = 200, body = Replayed)))]
pub(super) async fn replay_range(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
    Input(body): Input<Replay>,
) -> Result<Json<Replayed>, Problem> {
    caller.need(Scope::Deliveries)?;
    if body.since.is_none() {
        return Err(Problem::invalid("since", "name the beginning of the range"));
    }
    let detail = json!({"state": body.state, "since": body.since, "until": body.until});
    let filter = filter(body.state.as_deref(), body.since, body.until)?;
    replay_those(&ground, &caller, &id, None, &filter, &detail).await
}

/// Makes one delivery wait again.
#[utoipa::path(post, path = "/connections/{connection}/deliveries/{delivery}/replay", tag = "deliveries",
    params(("connection" = String, Path), ("delivery" = String, Path)), responses((status = 200, body = Replayed)))]
pub(in crate::platform) async fn replay_one(
    State(ground): State<Ground>,
    caller: Caller,
    Path((id, delivery)): Path<(String, String)>,
) -> Result<Json<Replayed>, Problem> {
    caller.need(Scope::Deliveries)?;
    let row = found(&ground, &caller, &id).await?;
    // For one that is not there: 404 and not `0`.
    ground.platform.delivery(row.ledger, &delivery).await?;
    let detail = json!({"delivery": delivery});
    let all = DeliveryFilter::default();
    replay_those(&ground, &caller, &id, Some(&delivery), &all, &detail).await
}

async fn replay_those(
    ground: &Ground,
    caller: &Caller,
    id: &str,
    delivery: Option<&str>,
    filter: &DeliveryFilter,
    detail: &Value,
) -> Result<Json<Replayed>, Problem> {
    let row = found(ground, caller, id).await?;
    let platform = ground.platform.as_ref();
    let replayed = platform.replay(row.ledger, delivery, filter).await?;
    audit(
        ground,
        caller,
        Some(&row.tenant),
        "delivery.replay",
        id,
        detail,
    )
    .await?;
    Ok(Json(Replayed { replayed }))
}

/// A record that was refused for good.
#[derive(Debug, Serialize, ToSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub struct LetterView {
    pub source_id: String,
    pub stream: String,
    pub reason: String,
    pub first_seen: String,
    pub last_seen: String,
    /// How often it was refused.
    pub attempts: u64,
    /// `retry` or `drop`: what the next run will do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wish: Option<&'static str>,
    /// The envelopes as they were sent, or the bare text; only where one letter is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
}

fn letter(kept: KeptLetter, wished: &Wishes, whole: bool) -> LetterView {
    let id = &kept.letter.source_id;
    LetterView {
        wish: if wished.retry.contains(id) {
            Some("retry")
        } else {
            wished.drop.contains(id).then_some("drop")
        },
        source_id: kept.letter.source_id,
        stream: kept.letter.stream,
        reason: kept.letter.reason,
        first_seen: kept.first_seen,
        last_seen: kept.last_seen,
        attempts: kept.attempts,
        payload: whole.then_some(kept.letter.payload),
    }
}

/// Dead letters of a connection, by source id.
#[utoipa::path(get, path = "/connections/{connection}/dead-letters", tag = "dead letters", params(("connection" = String, Path), PageQuery), responses((status = 200, body = List<LetterView>)))]
pub(super) async fn letters(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
    Asked(query): Asked<PageQuery>,
) -> Result<Json<List<LetterView>>, Problem> {
    caller.need(Scope::Read)?;
    let page = page(query.after, query.limit)?;
    let row = found(&ground, &caller, &id).await?;
    let after = page.after.as_deref();
    let kept = ground
        .ledger
        .list_letters(row.ledger, after, page.most)
        .await?;
    let wished = wishes(ground.platform.as_ref(), &id).await?;
    let name = |one: &KeptLetter| one.letter.source_id.clone();
    Ok(List::new(kept, &page, name, |one| {
        letter(one, &wished, false)
    }))
}

/// One record.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct LetterQuery {
    /// `gl:note:42/1`.
    source_id: String,
}

/// One dead letter with what would have been written.
#[utoipa::path(get, path = "/connections/{connection}/dead-letter", tag = "dead letters", params(("connection" = String, Path), LetterQuery), responses((status = 200, body = LetterView)))]
pub(super) async fn one_letter(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
    Asked(query): Asked<LetterQuery>,
) -> Result<Json<LetterView>, Problem> {
    caller.need(Scope::Read)?;
    let row = found(&ground, &caller, &id).await?;
    let source_id = [query.source_id.as_str()];
    let kept = ground
        .ledger
        .dead_letters(row.ledger, Some(&source_id))
        .await?;
    let wished = wishes(ground.platform.as_ref(), &id).await?;
    let first = kept.into_iter().next();
    first
        .map(|one| Json(letter(one, &wished, true)))
        .ok_or_else(|| Problem::not_found("dead letter"))
}

/// Letters, by source id.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Letters {
    /// Source ids; absent with `all`.
    #[serde(default)]
    pub source_ids: Vec<String>,
    /// All of the connection.
    #[serde(default)]
    pub all: bool,
}

/// What the next run will do.
#[derive(Debug, Serialize, ToSchema)]
pub struct Wished {
    /// Letters that this request named and that are there.
    pub letters: usize,
}

/// Sends dead letters again, at the next run, which is due at once.
#[utoipa::path(post, path = "/connections/{connection}/dead-letters/retry", tag = "dead letters", request_body = Letters,
    params(("connection" = String, Path)), responses((status = 202, body = Wished)))]
pub(in crate::platform) async fn retry_letters(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
    Input(body): Input<Letters>,
) -> Result<Response, Problem> {
    wish_for(&ground, &caller, &id, body, true).await
}

/// Lets go of dead letters, at the next run, which is due at once.
#[utoipa::path(post, path = "/connections/{connection}/dead-letters/drop", tag = "dead letters", request_body = Letters,
    params(("connection" = String, Path)), responses((status = 202, body = Wished)))]
pub(in crate::platform) async fn drop_letters(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
    Input(body): Input<Letters>,
) -> Result<Response, Problem> {
    wish_for(&ground, &caller, &id, body, false).await
}

async fn wish_for(
    ground: &Ground,
    caller: &Caller,
    id: &str,
    body: Letters,
    retry: bool,
) -> Result<Response, Problem> {
    caller.need(Scope::Deliveries)?;
    if body.source_ids.is_empty() != body.all {
        return Err(Problem::invalid(
            "source_ids",
            "name letters, or set `all`; one of the two",
        ));
    }
    let row = found(ground, caller, id).await?;
    let there = if body.all {
        ground.ledger.count_letters(row.ledger).await?
    } else {
        body.source_ids.len() as u64
    };
    if there > u64::from(MOST_WISHED) {
        return Err(Problem::invalid(
            "source_ids",
            format!("{there} letters; at most {MOST_WISHED} at a time"),
        ));
    }
    let mut there = BTreeSet::new();
    if body.all {
        let kept = ground
            .ledger
            .list_letters(row.ledger, None, MOST_WISHED)
            .await?;
        there.extend(kept.into_iter().map(|kept| kept.letter.source_id));
    }
    // Some at a time: each may be large.
    let named: Vec<&str> = body.source_ids.iter().map(String::as_str).collect();
    for some in named.chunks(100) {
        let kept = ground.ledger.dead_letters(row.ledger, Some(some)).await?;
        there.extend(kept.into_iter().map(|kept| kept.letter.source_id));
    }
    if let Some(unknown) = body.source_ids.iter().find(|one| !there.contains(*one)) {
        return Err(Problem::invalid(
            "source_ids",
            format!("there is no dead letter of `{}`", unknown.escape_debug()),
        ));
    }
    let count = there.len();
    let mut more = Wishes::default();
    let action = if retry {
        more.retry.extend(there);
        "dead-letter.retry"
    } else {
        more.drop.extend(there);
        "dead-letter.drop"
    };
    let platform = ground.platform.as_ref();
    wish(platform, id, &more).await?;
    let wake = ConnectionChange {
        wake: true,
        ..ConnectionChange::default()
    };
    platform
        .update_connection(caller.tenant(), id, None, &wake)
        .await?;
    audit(
        ground,
        caller,
        Some(&row.tenant),
        action,
        id,
        &json!({"letters": count}),
    )
    .await?;
    Ok((StatusCode::ACCEPTED, Json(Wished { letters: count })).into_response())
}

/// One line of the log of changes.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditEntry)]
#[allow(missing_docs, reason = "the names say it")]
pub struct AuditView {
    pub id: String,
    pub at: String,
    pub tenant: Option<String>,
    /// Id of the API key, or `cli`.
    pub by: String,
    pub action: String,
    pub subject: String,
    #[schema(value_type = Object)]
    pub detail: Value,
}

impl From<AuditEntry> for AuditView {
    fn from(row: AuditEntry) -> Self {
        Self {
            id: row.id,
            at: row.at,
            tenant: row.tenant,
            by: row.by,
            action: row.action,
            subject: row.subject,
            detail: row.detail,
        }
    }
}

/// The log of changes, newest first.
#[utoipa::path(get, path = "/audit", tag = "audit", params(ListQuery), responses((status = 200, body = List<AuditView>)))]
pub(super) async fn audits(
    State(ground): State<Ground>,
    caller: Caller,
    Asked(query): Asked<ListQuery>,
) -> Result<Json<List<AuditView>>, Problem> {
    caller.need(Scope::Read)?;
    let page = query.page()?;
    let tenant = caller.whose(query.tenant.as_deref())?;
    let rows = ground.platform.audits(tenant, &page).await?;
    Ok(List::new(
        rows,
        &page,
        |row| row.id.clone(),
        AuditView::from,
    ))
}

/// One limit of components.
#[derive(Debug, Serialize, ToSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub struct LimitView {
    pub name: &'static str,
    pub meaning: &'static str,
    /// `bytes`, `ms` or `count`.
    pub unit: &'static str,
    /// The most that a connection may set, and what it has when it sets nothing. Absent: unlimited.
    pub most: Option<u64>,
}

/// The limits that connections of this platform have.
#[utoipa::path(get, path = "/limits", tag = "limits", responses((status = 200, body = [LimitView])))]
pub(super) async fn limits(
    State(ground): State<Ground>,
    caller: Caller,
) -> Result<Json<Vec<LimitView>>, Problem> {
    use crate::sandbox::limits::{SPECS, Unit};
    caller.need(Scope::Read)?;
    let rules = ground.rules().limits;
    Ok(Json(
        SPECS
            .iter()
            .map(|spec| LimitView {
                name: spec.name,
                meaning: spec.meaning,
                unit: match spec.unit {
                    Unit::Bytes => "bytes",
                    Unit::Time => "ms",
                    Unit::Count => "count",
                },
                most: rules.get(spec.limit),
            })
            .collect(),
    ))
}
