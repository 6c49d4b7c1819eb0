//! The chain of a connection: its versions, a trial of another one, promotion, and the way back.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::connections::{ChainBody, look_at_chain, memory_of_a_run, origin, stays_what_it_is};
use super::problem::Problem;
use super::request::{Caller, Input, List, audit, if_match, parse_value};
use crate::host::connector::Description;
use crate::platform::Ground;
use crate::platform::components::description_of;
use crate::platform::connection::{ConnectionConfig, OpenedSecrets, SecretField, plan_of};
use crate::platform::keys::Scope;
use crate::platform::trial::{Against, Trial, try_chain};
use connector_store::platform::{Chain, ChainVersion, Connection};

/// A chain that a connection has or had.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChainVersion)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ChainView {
    /// Counted from 1.
    pub number: i64,
    pub chain: ChainBody,
    pub current: bool,
    /// Id of the key that made it so.
    pub by: String,
    pub at: String,
}

impl From<ChainVersion> for ChainView {
    fn from(row: ChainVersion) -> Self {
        Self {
            number: row.number,
            chain: row.chain.into(),
            current: row.current,
            by: row.by,
            at: row.at,
        }
    }
}

/// Versions of the chain, newest first.
#[utoipa::path(get, path = "/connections/{connection}/chain", tag = "chains", params(("connection" = String, Path)), responses((status = 200, body = List<ChainView>)))]
pub(super) async fn chains(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<List<ChainView>>, Problem> {
    caller.need(Scope::Read)?;
    let rows = ground.platform.chains(caller.tenant(), &id).await?;
    Ok(Json(List {
        items: rows.into_iter().map(ChainView::from).collect(),
        next: None,
    }))
}

/// Uses another chain from the next run on. Records that were read before go through it with the next reconcile pass.
#[utoipa::path(put, path = "/connections/{connection}/chain", tag = "chains", request_body = ChainBody,
    params(("connection" = String, Path), ("If-Match" = Option<String>, Header, description = "the connection's ETag; absent: whatever it is")),
    responses((status = 200, body = ChainView)))]
pub(super) async fn promote(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Input(body): Input<ChainBody>,
) -> Result<Json<ChainView>, Problem> {
    caller.need(Scope::Write)?;
    let row = wanted(&ground, &caller, &id, &headers).await?;
    use_chain(&ground, &caller, row, &body.into(), "chain.promote").await
}

/// The connection, which is what was read where the caller says what that was.
async fn wanted(
    ground: &Ground,
    caller: &Caller,
    id: &str,
    headers: &HeaderMap,
) -> Result<Connection, Problem> {
    let wanted = if headers.contains_key(header::IF_MATCH) {
        if_match(headers)?
    } else {
        None
    };
    let row = ground.platform.connection(caller.tenant(), id).await?;
    if wanted.is_some_and(|version| version != row.version) {
        return Err(Problem::precondition_failed(row.version));
    }
    Ok(row)
}

async fn use_chain(
    ground: &Ground,
    caller: &Caller,
    row: Connection,
    chain: &Chain,
    action: &str,
) -> Result<Json<ChainView>, Problem> {
    let id = row.id.as_str();
    let description = look_at_chain(ground, &row.tenant, chain).await?;
    let config: ConnectionConfig = parse_value(row.config.clone(), "config")?;
    let opened = OpenedSecrets::of(&row, &ground.secrets)?;
    let plan = plan_of(&config, &opened, &description, &ground.rules())?;
    the_token_stays_where_it_was(ground, &row, &config, chain, &description).await?;
    stays_what_it_is(ground, &row, &description, &plan).await?;
    let memory = memory_of_a_run(ground, &row.tenant, &plan, 1 + chain.mappers.len()).await?;
    let by = &caller.key.id;
    let platform = ground.platform.as_ref();
    // What was validated is what was read: a change in between is refused.
    let read = Some(row.version);
    let version = platform
        .set_chain(caller.tenant(), id, read, chain, memory, by)
        .await?;
    let detail = json!({"number": version.number, "chain": version.chain});
    audit(ground, caller, Some(&row.tenant), action, id, &detail).await?;
    Ok(Json(version.into()))
}

/// Without an address of the connection's the connector's own counts: another connector may not take the stored token elsewhere by that.
async fn the_token_stays_where_it_was(
    ground: &Ground,
    row: &Connection,
    config: &ConnectionConfig,
    chain: &Chain,
    description: &Description,
) -> Result<(), Problem> {
    let token = SecretField::SourceToken.as_str();
    if !row.sealed.contains_key(token) || chain.connector == row.chain.connector {
        return Ok(());
    }
    let current = &row.chain.connector;
    let current = ground.platform.component(Some(&row.tenant), current).await;
    let current = description_of(&current?)?;
    let goes_to = |description: &Description| {
        let url = config.source.url.clone();
        origin(&url.or_else(|| description.default_url.clone()))
    };
    let (was, is) = (goes_to(&current), goes_to(description));
    if was == is {
        return Ok(());
    }
    let words = format!(
        "it reads {}, and the source's token was given for {}: first name the address that is meant in `config.source.url`, and send the token with it",
        is.unwrap_or_default(),
        was.unwrap_or_default()
    );
    Err(Problem::invalid("chain.connector", words))
}

/// To which version.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollBack {
    /// Its number; absent: the one before the current, and where that restored an earlier one, the one before that. So a request that is
    /// repeated does not bring back what the first one took away.
    #[serde(default)]
    pub number: Option<i64>,
}

/// Uses an earlier chain again. It becomes a new version, so that the list says what was used when.
#[utoipa::path(post, path = "/connections/{connection}/chain/rollback", tag = "chains", request_body = RollBack,
    params(("connection" = String, Path), ("If-Match" = Option<String>, Header, description = "the connection's ETag; absent: whatever it is")),
    responses((status = 200, body = ChainView)))]
pub(super) async fn roll_back(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Input(body): Input<RollBack>,
) -> Result<Json<ChainView>, Problem> {
    caller.need(Scope::Write)?;
    let connection = wanted(&ground, &caller, &id, &headers).await?;
    let rows = ground.platform.chains(caller.tenant(), &id).await?;
    let target = match body.number {
        Some(number) => rows.iter().find(|row| row.number == number),
        None => before_the_current(&rows),
    };
    let Some(target) = target else {
        return Err(Problem::invalid(
            "number",
            "there is no such version of the chain to go back to",
        ));
    };
    let chain = target.chain.clone();
    use_chain(&ground, &caller, connection, &chain, "chain.rollback").await
}

/// The one before that with which the current chain first came. Of versions, newest first.
fn before_the_current(rows: &[ChainVersion]) -> Option<&ChainVersion> {
    let current = rows.iter().find(|row| row.current)?;
    let same = rows.iter().filter(|row| row.chain == current.chain);
    let first = same.map(|row| row.number).min()?;
    rows.iter().find(|row| row.number < first)
}

/// A chain to try.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DryRun {
    /// The candidate; its connector is not run, only its mappers.
    pub chain: ChainBody,
    /// `current` (default): against what the current chain makes of the same records; `recorded`: against the records as the connector
    /// handed them over.
    #[serde(default)]
    pub against: Against,
    /// Records, in the order in which they were recorded; at most 1000, 100 where absent.
    #[serde(default)]
    pub most: Option<u32>,
}

/// Shows what another chain would make of recorded records, with the differences. Writes nothing.
#[utoipa::path(post, path = "/connections/{connection}/chain/dry-run", tag = "chains", request_body = DryRun,
    params(("connection" = String, Path)), responses((status = 200, body = Trial)))]
pub(super) async fn dry_run(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
    Input(body): Input<DryRun>,
) -> Result<Json<Trial>, Problem> {
    caller.need(Scope::Write)?;
    let most = body.most.unwrap_or(100);
    if !(1..=1000).contains(&most) {
        return Err(Problem::invalid("most", "1 to 1000"));
    }
    let row = ground.platform.connection(caller.tenant(), &id).await?;
    let chain = Chain::from(body.chain);
    look_at_chain(&ground, &row.tenant, &chain).await?;
    let config: ConnectionConfig = parse_value(row.config.clone(), "config")?;
    let tried = try_chain(&ground, &row, &config, &chain, body.against, most);
    Ok(Json(tried.await?))
}
