//! Connections: create, change, pause, resume, run now, check, take down; and their chains: try, promote, roll back.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use uuid::Uuid;

use super::idempotency::{Created, once};
use super::problem::Problem;
use super::request::{
    Asked, Caller, Input, List, ListQuery, MAX_BODY_BYTES, TenantQuery, audit, check_name,
    if_match, parse_value,
};
use super::with_version;
use crate::check::findings;
use crate::config::Plan;
use crate::hooks::proof::{new_secret, new_signing_token};
use crate::host::connector::Description;
use crate::host::schema::check_settings;
use crate::platform::Ground;
use crate::platform::components::{Silent, description_of, settings_of};
use crate::platform::connection::{
    ConnectionConfig, OpenedSecrets, SecretField, check_secret, memory_of, plan_of,
};
use crate::platform::keys::Scope;
use crate::platform::made_for::{MadeFor, made_for};
use crate::platform::secrets::Place;
use crate::redact::Secret;
use crate::run::{Circumstances, redactor_for};
use crate::sandbox::limits::{Limit, Unit};
use connector_store::platform::{
    Chain, Connection, ConnectionChange, ConnectionState, MapperUse, PlatformError,
};

/// Mappers of one chain.
const MAX_MAPPERS: usize = 8;
/// How long the API waits for a check.
const CHECK_TIME: Duration = Duration::from_secs(60);

/// What a connection runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Chain)]
#[serde(deny_unknown_fields)]
pub struct ChainBody {
    /// Digest of the connector.
    pub connector: String,
    /// Mappers in the order in which they map.
    #[serde(default)]
    pub mappers: Vec<MapperBody>,
}

/// One mapper of a chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = MapperUse)]
#[serde(deny_unknown_fields)]
pub struct MapperBody {
    /// Of the component.
    pub digest: String,
    /// As its schema has them.
    #[serde(default = "no_settings")]
    #[schema(value_type = Object)]
    pub settings: Value,
}

fn no_settings() -> Value {
    json!({})
}

impl From<ChainBody> for Chain {
    fn from(body: ChainBody) -> Self {
        Self {
            connector: body.connector,
            mappers: body
                .mappers
                .into_iter()
                .map(|one| MapperUse {
                    digest: one.digest,
                    settings: one.settings,
                })
                .collect(),
        }
    }
}

impl From<Chain> for ChainBody {
    fn from(chain: Chain) -> Self {
        Self {
            connector: chain.connector,
            mappers: chain
                .mappers
                .iter()
                .map(|one| MapperBody {
                    digest: one.digest.clone(),
                    settings: settings_of(one),
                })
                .collect(),
        }
    }
}

/// Secrets, as they go in. They never come out again.
#[derive(Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "as in `SecretField`")]
pub struct SecretsBody {
    /// The source's token.
    #[serde(deserialize_with = "told")]
    pub source_token: Option<Option<String>>,
    /// CortexDB's key.
    #[serde(deserialize_with = "told")]
    pub cortexdb_api_key: Option<Option<String>>,
    /// Shown by the source with every webhook call. Made here where it is absent or `null` and `realtime` is on.
    #[serde(deserialize_with = "told")]
    pub webhook_secret: Option<Option<String>>,
    /// The source signs webhook calls with it.
    #[serde(deserialize_with = "told")]
    pub webhook_signing_token: Option<Option<String>>,
}

/// `null` removes, which is something else than silence.
fn told<'de, D: serde::Deserializer<'de>>(reader: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(reader).map(Some)
}

impl SecretsBody {
    fn told(&self) -> impl Iterator<Item = (SecretField, Option<&str>)> {
        [
            (SecretField::SourceToken, &self.source_token),
            (SecretField::CortexdbApiKey, &self.cortexdb_api_key),
            (SecretField::WebhookSecret, &self.webhook_secret),
            (
                SecretField::WebhookSigningToken,
                &self.webhook_signing_token,
            ),
        ]
        .into_iter()
        .filter_map(|(field, value)| Some((field, value.as_ref()?.as_deref())))
    }
}

/// A connection to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewConnection {
    /// Unique within the tenant.
    pub name: String,
    /// What it runs.
    pub chain: ChainBody,
    /// Everything that is no secret.
    #[serde(default)]
    pub config: ConnectionConfig,
    /// Credentials.
    #[serde(default)]
    pub secrets: SecretsBody,
    /// Do not run it yet.
    #[serde(default)]
    pub paused: bool,
}

/// What is to change; absent: as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectionPatch {
    /// Another name.
    #[serde(default)]
    pub name: Option<String>,
    /// A JSON merge patch (RFC 7396) of the configuration: `null` takes a field back to its default.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub config: Option<Value>,
    /// Secrets that change; `null` removes one. With `realtime`, a webhook secret that is removed is made anew.
    #[serde(default)]
    pub secrets: SecretsBody,
}

/// Whether a secret is there.
#[derive(Debug, Serialize, ToSchema)]
pub struct SecretState {
    /// That is all that is ever said of it.
    pub set: bool,
}

/// A connection.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Connection)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ConnectionView {
    pub id: String,
    pub tenant: String,
    pub name: String,
    /// `active`, `paused`, `parked` (it failed too often) or `leaving`.
    pub state: String,
    /// Why, where there is something to say.
    pub state_reason: Option<String>,
    pub chain: ChainBody,
    #[schema(value_type = ConnectionConfig)]
    pub config: Value,
    /// By field, whether it is set.
    pub secrets: BTreeMap<&'static str, SecretState>,
    /// What is hooked and what is polled, and why.
    #[schema(value_type = Option<Object>)]
    pub hook_plan: Option<Value>,
    /// Where webhooks of the source go, for those who register them by hand.
    pub hook_url: Option<String>,
    /// Runs that failed one after the other.
    pub failures: u32,
    pub due_at: Option<String>,
    pub running: bool,
    pub waiting_deliveries: u64,
    /// Its ETag.
    pub version: i64,
    pub created_at: String,
}

impl ConnectionView {
    pub(in crate::platform) fn new(ground: &Ground, row: Connection) -> Self {
        let hook_url = ground
            .config
            .public_url
            .as_ref()
            .map(|url| format!("{url}/hooks/{}", row.id));
        Self {
            secrets: SecretField::ALL
                .into_iter()
                .map(|field| {
                    let set = row.sealed.contains_key(field.as_str());
                    (field.as_str(), SecretState { set })
                })
                .collect(),
            id: row.id,
            tenant: row.tenant,
            name: row.name,
            state: row.state.as_str().to_owned(),
            state_reason: row.state_reason,
            chain: row.chain.into(),
            config: row.config,
            hook_plan: row.hook_plan,
            hook_url,
            failures: row.failures,
            due_at: row.due_at,
            running: row.running,
            waiting_deliveries: row.waiting_deliveries,
            version: row.version,
            created_at: row.created_at,
        }
    }
}

/// The connector's description and a check of all mappers; what does not exist for the tenant is named by field.
pub(super) async fn look_at_chain(
    ground: &Ground,
    tenant: &str,
    chain: &Chain,
) -> Result<Description, Problem> {
    let find = async |field: String, digest: &str, world: &str| {
        let found = ground.platform.component(Some(tenant), digest).await;
        let component = match found {
            Err(PlatformError::Missing(_)) => {
                return Err(Problem::invalid(
                    &field,
                    "there is no such component; upload it first",
                ));
            }
            other => other?,
        };
        if component.world != world || !component.admitted {
            return Err(Problem::invalid(
                &field,
                format!("{} is a {}, not a {world}", component.name, component.world),
            ));
        }
        Ok(component)
    };
    if chain.mappers.len() > MAX_MAPPERS {
        return Err(Problem::invalid(
            "chain.mappers",
            format!("{}; at most {MAX_MAPPERS}", chain.mappers.len()),
        ));
    }
    let connector = find("chain.connector".into(), &chain.connector, "connector").await?;
    for (index, wanted) in chain.mappers.iter().enumerate() {
        let field = format!("chain.mappers[{index}]");
        let mapper = find(format!("{field}.digest"), &wanted.digest, "mapper").await?;
        check_settings(
            &format!("mapper {}", mapper.name),
            &mapper.description["settings_schema"],
            &settings_of(wanted),
        )
        .map_err(|words| Problem::invalid(&format!("{field}.settings"), words))?;
    }
    Ok(description_of(&connector)?)
}

/// What the components of one run may take together. Refuses what the tenant's memory could never hold, with the numbers.
pub(super) async fn memory_of_a_run(
    ground: &Ground,
    tenant: &str,
    plan: &Plan,
    components: usize,
) -> Result<u64, Problem> {
    let each = plan.limits.get(Limit::Memory).unwrap_or(u64::MAX);
    let needed = memory_of(plan, components);
    let caps = ground.platform.tenant(tenant).await?.caps;
    let Some(allowed) = caps.memory_bytes.filter(|allowed| needed > *allowed) else {
        return Ok(needed);
    };
    Err(Problem::invalid(
        "config.limits.memory",
        format!(
            "one run may take {} ({components} components of {} each), and this tenant may have {} in all; lower `memory` or use fewer mappers",
            Unit::Bytes.show(needed),
            Unit::Bytes.show(each),
            Unit::Bytes.show(allowed)
        ),
    ))
}

fn seal_into(
    ground: &Ground,
    connection: &str,
    tenant: &str,
    told: &SecretsBody,
    opened: &mut OpenedSecrets,
) -> Result<BTreeMap<String, String>, Problem> {
    let mut sealed = BTreeMap::new();
    for (field, value) in told.told() {
        let name = field.as_str();
        let place = Place {
            tenant,
            connection,
            field: name,
        };
        opened.set(field, value);
        let value = match value {
            None => String::new(),
            Some(value) => {
                check_secret(field, value)?;
                ground.secrets.seal(place, value)?
            }
        };
        sealed.insert(name.to_owned(), value);
    }
    Ok(sealed)
}

/// What the secrets of webhooks are before they are replaced: a source may still have calls on the way. Of one that is taken away, nothing stays.
fn seal_replaced(
    ground: &Ground,
    row: &Connection,
    told: &SecretsBody,
    opened: &OpenedSecrets,
) -> Result<BTreeMap<String, String>, Problem> {
    let mut sealed = BTreeMap::new();
    let now = chrono::Utc::now().timestamp();
    for (field, value) in told.told() {
        let Some(name) = field.before() else { continue };
        let place = Place {
            tenant: &row.tenant,
            connection: &row.id,
            field: name,
        };
        if value.is_some() && opened.get(field).map(Secret::reveal) == value {
            continue;
        }
        let replaced = value.and_then(|_| opened.replaced(field, now));
        let kept = match replaced {
            Some(replaced) => ground.secrets.seal(place, &replaced)?,
            None => String::new(),
        };
        sealed.insert(name.to_owned(), kept);
    }
    Ok(sealed)
}

/// Hooks are registered with secrets of their own, where nobody has chosen any: one to show and one to sign with, because which of the two
/// a source uses depends on its version. So neither can be taken away; what is asked for then is another one.
fn with_webhook_secrets(
    config: &ConnectionConfig,
    sealed: &BTreeMap<String, String>,
    told: &mut SecretsBody,
) -> Result<(), Problem> {
    if !config.realtime {
        return Ok(());
    }
    let no_numbers = |_| Problem::internal("the system has no random numbers");
    let wanted = |field: SecretField, told: &Option<Option<String>>| match told {
        None => !sealed.contains_key(field.as_str()),
        Some(told) => told.is_none(),
    };
    if wanted(SecretField::WebhookSecret, &told.webhook_secret) {
        told.webhook_secret = Some(Some(new_secret().map_err(no_numbers)?));
    }
    if wanted(
        SecretField::WebhookSigningToken,
        &told.webhook_signing_token,
    ) {
        let token = new_signing_token().map_err(no_numbers)?;
        told.webhook_signing_token = Some(Some(token));
    }
    Ok(())
}

/// A secret goes to the server that it was given for. Whoever may change an address may not send it elsewhere.
fn secrets_stay_where_they_were(
    row: &Connection,
    config: &ConnectionConfig,
    told: &SecretsBody,
) -> Result<(), Problem> {
    let before: ConnectionConfig = parse_value(row.config.clone(), "config")?;
    for (field, was, is, told) in [
        (
            SecretField::SourceToken,
            &before.source.url,
            &config.source.url,
            &told.source_token,
        ),
        (
            SecretField::CortexdbApiKey,
            &before.cortexdb.url,
            &config.cortexdb.url,
            &told.cortexdb_api_key,
        ),
    ] {
        let name = field.as_str();
        if told.is_none() && row.sealed.contains_key(name) && origin(was) != origin(is) {
            return Err(Problem::invalid(
                &format!("secrets.{name}"),
                "its server is another one now: send it again",
            ));
        }
    }
    Ok(())
}

/// What a connection remembers is of one source and one CortexDB. Refuses others, once it remembers anything.
pub(super) async fn stays_what_it_is(
    ground: &Ground,
    row: &Connection,
    description: &Description,
    plan: &Plan,
) -> Result<(), Problem> {
    let (platform, ledger) = (ground.platform.as_ref(), ground.ledger.as_ref());
    let now = MadeFor::of(description, plan, None);
    let was = made_for(platform, ledger, row, &now).await?;
    match was.and_then(|was| was.differs_from(&now)) {
        Some((field, words)) => Err(Problem::invalid(field, words)),
        None => Ok(()),
    }
}

/// Without an address the connector's or the vendor's own, which is another server than any that is named.
pub(super) fn origin(url: &Option<String>) -> Option<String> {
    let url = url::Url::parse(url.as_deref()?).ok()?;
    Some(url.origin().ascii_serialization())
}

/// Lists connections: a tenant's, or for an operator without `?tenant=` all.
#[utoipa::path(get, path = "/connections", tag = "connections", params(ListQuery), responses((status = 200, body = List<ConnectionView>)))]
pub(super) async fn list(
    State(ground): State<Ground>,
    caller: Caller,
    Asked(query): Asked<ListQuery>,
) -> Result<Json<List<ConnectionView>>, Problem> {
    caller.need(Scope::Read)?;
    let page = query.page()?;
    let tenant = caller.whose(query.tenant.as_deref())?;
    let rows = ground.platform.connections(tenant, &page).await?;
    let show = |row| ConnectionView::new(&ground, row);
    Ok(List::new(rows, &page, |row| row.id.clone(), show))
}

/// Creates a connection. It is validated as a run would read it, and runs at once unless it is `paused`.
#[utoipa::path(post, path = "/connections", tag = "connections", request_body = NewConnection,
    params(TenantQuery, ("Idempotency-Key" = Option<String>, Header, description = "the same key creates once")),
    responses((status = 201, body = ConnectionView)))]
pub(super) async fn create(
    State(ground): State<Ground>,
    caller: Caller,
    Asked(query): Asked<TenantQuery>,
    headers: HeaderMap,
    Input(asked): Input<Value>,
) -> Result<Response, Problem> {
    caller.need(Scope::Write)?;
    let tenant = caller.owner(query.tenant.as_deref())?;
    let text = asked.to_string();
    let mut new: NewConnection = super::request::parse(text.as_bytes())?;
    check_name(&new.name)?;
    let what: [&[u8]; 3] = [b"connections", tenant.as_bytes(), text.as_bytes()];
    once(&ground, &caller, &headers, &what, async {
        ground.platform.tenant(&tenant).await?;
        let chain = Chain::from(new.chain.clone());
        let description = look_at_chain(&ground, &tenant, &chain).await?;
        let id = Uuid::now_v7().to_string();
        with_webhook_secrets(&new.config, &BTreeMap::new(), &mut new.secrets)?;
        let mut opened = OpenedSecrets::default();
        let mut sealed = seal_into(&ground, &id, &tenant, &new.secrets, &mut opened)?;
        sealed.retain(|_, value| !value.is_empty());
        let plan = plan_of(&new.config, &opened, &description, &ground.rules())?;
        let memory_bytes =
            memory_of_a_run(&ground, &tenant, &plan, 1 + chain.mappers.len()).await?;
        let state = if new.paused {
            ConnectionState::Paused
        } else {
            ConnectionState::Active
        };
        let wanted = Connection {
            id: id.clone(),
            tenant: tenant.clone(),
            name: new.name.clone(),
            state,
            state_reason: None,
            chain,
            config: json!(new.config),
            sealed,
            hook_plan: None,
            memory_bytes,
            ledger: 0,
            failures: 0,
            due_at: None,
            running: false,
            waiting_deliveries: 0,
            version: 0,
            created_at: String::new(),
        };
        let by = &caller.key.id;
        let mut row = ground.platform.create_connection(&wanted, by).await?;
        if row.state != state {
            let change = ConnectionChange {
                state: Some((state, None)),
                ..ConnectionChange::default()
            };
            row = change_it(&ground, &caller, &id, None, &change).await?;
        }
        let detail = json!({"name": row.name, "chain": row.chain, "config": row.config});
        audit(
            &ground,
            &caller,
            Some(&tenant),
            "connection.create",
            &id,
            &detail,
        )
        .await?;
        Ok(Created::new(json!(ConnectionView::new(&ground, row))))
    })
    .await
}

async fn change_it(
    ground: &Ground,
    caller: &Caller,
    id: &str,
    version: Option<i64>,
    change: &ConnectionChange,
) -> Result<Connection, Problem> {
    let platform = ground.platform.as_ref();
    Ok(platform
        .update_connection(caller.tenant(), id, version, change)
        .await?)
}

/// One connection.
#[utoipa::path(get, path = "/connections/{connection}", tag = "connections", params(("connection" = String, Path)), responses((status = 200, body = ConnectionView)))]
pub(super) async fn get(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    caller.need(Scope::Read)?;
    let row = ground.platform.connection(caller.tenant(), &id).await?;
    Ok(with_version(
        row.version,
        &ConnectionView::new(&ground, row),
    ))
}

/// Changes name, configuration or secrets. What comes out is validated as a new connection is.
#[utoipa::path(patch, path = "/connections/{connection}", tag = "connections", request_body = ConnectionPatch,
    params(("connection" = String, Path), ("If-Match" = String, Header, description = "the ETag that was read, or `*`")),
    responses((status = 200, body = ConnectionView)))]
pub(super) async fn update(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Input(mut patch): Input<ConnectionPatch>,
) -> Result<Response, Problem> {
    caller.need(Scope::Write)?;
    if let Some(name) = &patch.name {
        check_name(name)?;
    }
    let wanted = if_match(&headers)?;
    let row = ground.platform.connection(caller.tenant(), &id).await?;
    if wanted.is_some_and(|version| version != row.version) {
        return Err(Problem::precondition_failed(row.version));
    }
    let mut merged = row.config.clone();
    if let Some(config) = &patch.config {
        if !config.is_object() {
            return Err(Problem::invalid(
                "config",
                "a JSON merge patch, so an object",
            ));
        }
        merge(&mut merged, config);
    }
    if merged.to_string().len() > MAX_BODY_BYTES {
        return Err(Problem::invalid(
            "config",
            format!("the whole configuration may have {MAX_BODY_BYTES} bytes"),
        ));
    }
    let config: ConnectionConfig = parse_value(merged, "config")?;
    secrets_stay_where_they_were(&row, &config, &patch.secrets)?;
    with_webhook_secrets(&config, &row.sealed, &mut patch.secrets)?;
    let mut opened = OpenedSecrets::of(&row, &ground.secrets)?;
    let replaced = seal_replaced(&ground, &row, &patch.secrets, &opened)?;
    let mut sealed = seal_into(&ground, &id, &row.tenant, &patch.secrets, &mut opened)?;
    let description = look_at_chain(&ground, &row.tenant, &row.chain).await?;
    let plan = plan_of(&config, &opened, &description, &ground.rules())?;
    if patch.config.is_some() {
        stays_what_it_is(&ground, &row, &description, &plan).await?;
    }
    let memory_bytes =
        memory_of_a_run(&ground, &row.tenant, &plan, 1 + row.chain.mappers.len()).await?;
    let changed: Vec<String> = sealed.keys().cloned().collect();
    sealed.extend(replaced);
    let change = ConnectionChange {
        name: patch.name,
        config: Some(json!(config)),
        memory_bytes: Some(memory_bytes),
        // The source is to be told of a new secret before it calls with the old one, and of hooks that are wanted or not wanted any more.
        wake: !sealed.is_empty() || json!(config) != row.config,
        sealed: Some(sealed),
        ..ConnectionChange::default()
    };
    // What was validated is what was read: a change in between is refused.
    let row = change_it(&ground, &caller, &id, Some(row.version), &change).await?;
    let detail = json!({"name": change.name, "config": change.config, "secrets": changed});
    audit(
        &ground,
        &caller,
        Some(&row.tenant),
        "connection.update",
        &id,
        &detail,
    )
    .await?;
    Ok(with_version(
        row.version,
        &ConnectionView::new(&ground, row),
    ))
}

/// A JSON merge patch (RFC 7396).
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Some(object) = target.as_object_mut() else {
        return;
    };
    for (name, value) in fields {
        if value.is_null() {
            object.remove(name);
        } else {
            merge(object.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// How a connection is taken down.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, default)]
pub struct DeleteQuery {
    /// At once, leaving its hooks at the source: where the source is gone.
    force: bool,
}

/// Takes a connection down: its hooks are removed at the source, then it is deleted with all that is remembered of it. What it wrote to
/// CortexDB stays.
#[utoipa::path(delete, path = "/connections/{connection}", tag = "connections", params(("connection" = String, Path), DeleteQuery),
    responses((status = 202, body = ConnectionView, description = "it is leaving"), (status = 204, description = "with `force`: it is gone")))]
pub(super) async fn delete(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
    Asked(query): Asked<DeleteQuery>,
) -> Result<Response, Problem> {
    use axum::response::IntoResponse as _;
    caller.need(Scope::Write)?;
    let row = ground.platform.connection(caller.tenant(), &id).await?;
    if query.force {
        ground
            .platform
            .delete_connection(caller.tenant(), &id)
            .await?;
        let detail = json!({"name": row.name, "force": true});
        audit(
            &ground,
            &caller,
            Some(&row.tenant),
            "connection.delete",
            &id,
            &detail,
        )
        .await?;
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let change = ConnectionChange {
        state: Some((
            ConnectionState::Leaving,
            Some("its hooks are being removed".into()),
        )),
        wake: true,
        ..ConnectionChange::default()
    };
    let row = change_it(&ground, &caller, &id, None, &change).await?;
    let detail = json!({"name": row.name});
    audit(
        &ground,
        &caller,
        Some(&row.tenant),
        "connection.leave",
        &id,
        &detail,
    )
    .await?;
    let view = ConnectionView::new(&ground, row);
    Ok((StatusCode::ACCEPTED, Json(view)).into_response())
}

async fn set_state(
    ground: &Ground,
    caller: &Caller,
    id: &str,
    action: &str,
    change: ConnectionChange,
) -> Result<Response, Problem> {
    caller.need(Scope::Write)?;
    let row = ground.platform.connection(caller.tenant(), id).await?;
    if row.state == ConnectionState::Leaving {
        return Err(Problem::conflict("the connection is being taken down"));
    }
    if change.state.is_none() && row.state != ConnectionState::Active {
        return Err(Problem::conflict(format!(
            "the connection is {}; resume it first",
            row.state.as_str()
        )));
    }
    let row = change_it(ground, caller, id, Some(row.version), &change).await?;
    audit(ground, caller, Some(&row.tenant), action, id, &json!({})).await?;
    Ok(with_version(row.version, &ConnectionView::new(ground, row)))
}

/// Stops a connection: a run in hand finishes, no other begins. Deliveries are taken and wait.
#[utoipa::path(post, path = "/connections/{connection}/pause", tag = "connections", params(("connection" = String, Path)), responses((status = 200, body = ConnectionView)))]
pub(in crate::platform) async fn pause(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let change = ConnectionChange {
        state: Some((ConnectionState::Paused, None)),
        ..ConnectionChange::default()
    };
    set_state(&ground, &caller, &id, "connection.pause", change).await
}

/// Lets a connection run again that was paused or parked.
#[utoipa::path(post, path = "/connections/{connection}/resume", tag = "connections", params(("connection" = String, Path)), responses((status = 200, body = ConnectionView)))]
pub(in crate::platform) async fn resume(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let change = ConnectionChange {
        state: Some((ConnectionState::Active, None)),
        wake: true,
        ..ConnectionChange::default()
    };
    set_state(&ground, &caller, &id, "connection.resume", change).await
}

/// Makes a connection due now.
#[utoipa::path(post, path = "/connections/{connection}/run", tag = "connections", params(("connection" = String, Path)), responses((status = 200, body = ConnectionView)))]
pub(in crate::platform) async fn run_now(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let change = ConnectionChange {
        wake: true,
        ..ConnectionChange::default()
    };
    set_state(&ground, &caller, &id, "connection.run", change).await
}

/// One thing that a check looked at.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Finding)]
#[allow(missing_docs, reason = "as in the WIT")]
pub struct FindingView {
    /// `ok`, `notice` or `problem`.
    pub severity: String,
    pub subject: String,
    pub message: String,
    pub remedy: Option<String>,
}

/// What a check found.
#[derive(Debug, Serialize, ToSchema)]
pub struct CheckResult {
    /// No problem among the findings.
    pub ok: bool,
    /// One by one.
    pub findings: Vec<FindingView>,
}

/// Asks both servers whether the connection can work: credentials, permissions, projects, features. Writes nothing.
#[utoipa::path(post, path = "/connections/{connection}/check", tag = "connections", params(("connection" = String, Path)), responses((status = 200, body = CheckResult)))]
pub(super) async fn check(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<CheckResult>, Problem> {
    caller.need(Scope::Write)?;
    let row = ground.platform.connection(caller.tenant(), &id).await?;
    let _place = ground.components.trial_of(&row.tenant)?;
    let (connector, mut plan) = prepared(&ground, &row).await?;
    // A person waits.
    plan.patience = plan.patience.min(Duration::from_secs(5));
    let stop = CancellationToken::new();
    let around = Circumstances::new(std::sync::Arc::new(Silent), redactor_for(&plan), &stop);
    let found = tokio::time::timeout(CHECK_TIME, findings(&connector, &plan, &around)).await;
    let found = found.map_err(|_| {
        Problem::bad_gateway(format!(
            "the servers have not answered within {} s; look at their addresses",
            CHECK_TIME.as_secs()
        ))
    })?;
    let views: Vec<FindingView> = found
        .into_iter()
        .map(|finding| FindingView {
            severity: format!("{:?}", finding.severity).to_lowercase(),
            subject: finding.subject,
            message: finding.message,
            remedy: finding.remedy,
        })
        .collect();
    Ok(Json(CheckResult {
        ok: views.iter().all(|finding| finding.severity != "problem"),
        findings: views,
    }))
}

/// The connector of a stored connection, and its plan.
async fn prepared(
    ground: &Ground,
    row: &Connection,
) -> Result<(std::sync::Arc<crate::host::connector::Connector>, Plan), Problem> {
    let config: ConnectionConfig = parse_value(row.config.clone(), "config")?;
    let opened = OpenedSecrets::of(row, &ground.secrets)?;
    let platform = ground.platform.as_ref();
    let limits = ground.rules().limits;
    let connector = ground
        .components
        .connector(platform, &row.chain.connector, limits)
        .await?;
    let plan = plan_of(&config, &opened, &connector.description, &ground.rules())?;
    Ok((connector, plan))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_patch_follows_the_rfc() {
        // Cases of RFC 7396, appendix A.
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": "b"}),
                json!({"b": "c"}),
                json!({"a": "b", "b": "c"}),
            ),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (
                json!({"a": [{"b": "c"}]}),
                json!({"a": [1]}),
                json!({"a": [1]}),
            ),
            (
                json!({"e": null}),
                json!({"a": 1}),
                json!({"e": null, "a": 1}),
            ),
            (
                json!({}),
                json!({"a": {"bb": {"ccc": null}}}),
                json!({"a": {"bb": {}}}),
            ),
        ] {
            let mut merged = target.clone();
            merge(&mut merged, &patch);
            assert_eq!(merged, result, "{target} {patch}");
        }
    }
}
