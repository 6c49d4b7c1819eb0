//! Tenants and their keys.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::idempotency::{Created, once};
use super::problem::Problem;
use super::request::{
    Asked, Caller, Input, List, ListQuery, TenantQuery, audit, check_name, if_match,
};
use super::with_version;
use crate::platform::Ground;
use crate::platform::keys::{self, Scope};
use connector_store::platform::{ApiKey, Caps, PlatformError, Tenant, Usage};

/// What a tenant may use at the same time. Absent: no bound of its own.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "as in the store")]
pub struct CapsBody {
    /// Runs at the same time; 2 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent_runs: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Components of its own; 100 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub components: Option<u32>,
    /// Memory of all running components together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Computing time within an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ms_per_hour: Option<u64>,
}

impl From<CapsBody> for Caps {
    fn from(body: CapsBody) -> Self {
        Self {
            concurrent_runs: body.concurrent_runs,
            connections: body.connections,
            components: body.components,
            memory_bytes: body.memory_bytes,
            cpu_ms_per_hour: body.cpu_ms_per_hour,
        }
    }
}

impl From<Caps> for CapsBody {
    fn from(caps: Caps) -> Self {
        Self {
            concurrent_runs: caps.concurrent_runs,
            connections: caps.connections,
            components: caps.components,
            memory_bytes: caps.memory_bytes,
            cpu_ms_per_hour: caps.cpu_ms_per_hour,
        }
    }
}

/// Somebody whose connections these are.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tenant)]
#[allow(missing_docs, reason = "the names say it")]
pub struct TenantView {
    pub id: String,
    pub name: String,
    pub caps: CapsBody,
    /// Its ETag.
    pub version: i64,
    pub created_at: String,
}

impl From<Tenant> for TenantView {
    fn from(tenant: Tenant) -> Self {
        Self {
            id: tenant.id,
            name: tenant.name,
            caps: tenant.caps.into(),
            version: tenant.version,
            created_at: tenant.created_at,
        }
    }
}

/// A tenant to be.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names say it")]
pub struct NewTenant {
    pub name: String,
    #[serde(default)]
    pub caps: CapsBody,
}

/// What is to change of a tenant; absent: as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names say it")]
pub struct TenantChange {
    #[serde(default)]
    pub name: Option<String>,
    /// Replaces all caps.
    #[serde(default)]
    pub caps: Option<CapsBody>,
}

/// Lists tenants. Operators only.
#[utoipa::path(get, path = "/tenants", tag = "tenants", params(ListQuery), responses((status = 200, body = List<TenantView>)))]
pub(super) async fn list(
    State(ground): State<Ground>,
    caller: Caller,
    Asked(query): Asked<ListQuery>,
) -> Result<Json<List<TenantView>>, Problem> {
    caller.need_operator(Scope::Read)?;
    let page = query.page()?;
    let rows = ground.platform.tenants(&page).await?;
    Ok(List::new(
        rows,
        &page,
        |row| row.id.clone(),
        TenantView::from,
    ))
}

/// Creates a tenant. Operators only.
#[utoipa::path(post, path = "/tenants", tag = "tenants", request_body = NewTenant,
    params(("Idempotency-Key" = Option<String>, Header, description = "the same key creates once")),
    responses((status = 201, body = TenantView)))]
pub(super) async fn create(
    State(ground): State<Ground>,
    caller: Caller,
    headers: HeaderMap,
    Input(new): Input<NewTenant>,
) -> Result<Response, Problem> {
    caller.need_operator(Scope::Admin)?;
    check_name(&new.name)?;
    let asked = json!(new).to_string();
    once(
        &ground,
        &caller,
        &headers,
        &[b"tenants", asked.as_bytes()],
        async {
            let tenant = ground
                .platform
                .create_tenant(&new.name, &new.caps.clone().into())
                .await?;
            let id = tenant.id.clone();
            audit(
                &ground,
                &caller,
                Some(&id),
                "tenant.create",
                &id,
                &json!(new),
            )
            .await?;
            Ok(Created::new(json!(TenantView::from(tenant))))
        },
    )
    .await
}

/// For a tenant's key: its own id is the only one there is.
fn visible(caller: &Caller, id: &str) -> Result<(), Problem> {
    caller.whose(Some(id)).map(|_| ())
}

/// One tenant; a tenant's key sees its own.
#[utoipa::path(get, path = "/tenants/{tenant}", tag = "tenants", params(("tenant" = String, Path)), responses((status = 200, body = TenantView)))]
pub(super) async fn get(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    caller.need(Scope::Read)?;
    visible(&caller, &id)?;
    let tenant = ground.platform.tenant(&id).await?;
    Ok(with_version(tenant.version, &TenantView::from(tenant)))
}

/// Changes name or caps. Operators only.
#[utoipa::path(patch, path = "/tenants/{tenant}", tag = "tenants", request_body = TenantChange,
    params(("tenant" = String, Path), ("If-Match" = String, Header, description = "the ETag that was read, or `*`")),
    responses((status = 200, body = TenantView)))]
pub(super) async fn update(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Input(change): Input<TenantChange>,
) -> Result<Response, Problem> {
    caller.need_operator(Scope::Admin)?;
    if let Some(name) = &change.name {
        check_name(name)?;
    }
    let version = match if_match(&headers)? {
        Some(version) => version,
        None => ground.platform.tenant(&id).await?.version,
    };
    let caps = change.caps.map(Caps::from);
    let tenant = ground
        .platform
        .update_tenant(&id, version, change.name.as_deref(), caps.as_ref())
        .await?;
    let detail = json!({"name": change.name, "caps": caps});
    audit(&ground, &caller, Some(&id), "tenant.update", &id, &detail).await?;
    Ok(with_version(tenant.version, &TenantView::from(tenant)))
}

/// Deletes a tenant that has no connections, with its keys and components. Operators only.
#[utoipa::path(delete, path = "/tenants/{tenant}", tag = "tenants", params(("tenant" = String, Path)), responses((status = 204)))]
pub(super) async fn delete(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.need_operator(Scope::Admin)?;
    ground.platform.delete_tenant(&id).await?;
    // Of nobody: the tenant is gone.
    audit(&ground, &caller, None, "tenant.delete", &id, &json!({})).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sums of a tenant's runs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Usage)]
#[allow(missing_docs, reason = "the names say it")]
pub struct UsageView {
    pub runs: u64,
    pub cpu_ms: u64,
    /// The highest of all runs.
    pub peak_memory_bytes: u64,
    pub requests: u64,
    pub received_bytes: u64,
    pub written_bytes: u64,
    pub records: u64,
    pub deliveries: u64,
}

impl From<Usage> for UsageView {
    fn from(usage: Usage) -> Self {
        Self {
            runs: usage.runs,
            cpu_ms: usage.cpu_ms,
            peak_memory_bytes: usage.peak_memory_bytes,
            requests: usage.requests,
            received_bytes: usage.received_bytes,
            written_bytes: usage.written_bytes,
            records: usage.records,
            deliveries: usage.deliveries,
        }
    }
}

/// Since when.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, default)]
pub struct UsageQuery {
    /// `1h`, `24h` (default), `720h`.
    within: Option<String>,
}

/// What a tenant's runs have used.
#[utoipa::path(get, path = "/tenants/{tenant}/usage", tag = "tenants", params(("tenant" = String, Path), UsageQuery), responses((status = 200, body = UsageView)))]
pub(super) async fn usage(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
    Asked(query): Asked<UsageQuery>,
) -> Result<Json<UsageView>, Problem> {
    caller.need(Scope::Read)?;
    visible(&caller, &id)?;
    ground.platform.tenant(&id).await?;
    let within = query.within.as_deref().unwrap_or("24h");
    let within = crate::patience::parse_duration(within)
        .map_err(|words| Problem::invalid("within", words))?;
    Ok(Json(ground.platform.usage(&id, within).await?.into()))
}

/// A key, without the key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKey)]
#[allow(missing_docs, reason = "the names say it")]
pub struct KeyView {
    pub id: String,
    /// Absent: an operator's.
    pub tenant: Option<String>,
    pub name: String,
    pub scopes: Vec<String>,
    pub created_at: String,
    pub expires_at: Option<String>,
    pub revoked_at: Option<String>,
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            tenant: key.tenant,
            name: key.name,
            scopes: key.scopes,
            created_at: key.created_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
        }
    }
}

/// A key to be.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// What it is for.
    pub name: String,
    /// What it may do; at least one.
    pub scopes: Vec<Scope>,
    /// `720h`; absent: it does not expire.
    #[serde(default)]
    pub expires_in: Option<String>,
}

/// A new key; the only answer that ever holds it.
#[derive(Debug, Serialize, ToSchema)]
pub struct CreatedKey {
    /// What is kept of it.
    #[serde(flatten)]
    pub key: KeyView,
    /// The key itself, shown once. Absent where the request was repeated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Keys of a tenant; for an operator without `?tenant=` the operators' own.
#[utoipa::path(get, path = "/keys", tag = "keys", params(ListQuery), responses((status = 200, body = List<KeyView>)))]
pub(super) async fn list_keys(
    State(ground): State<Ground>,
    caller: Caller,
    Asked(query): Asked<ListQuery>,
) -> Result<Json<List<KeyView>>, Problem> {
    caller.need(Scope::Admin)?;
    let page = query.page()?;
    let tenant = caller.whose(query.tenant.as_deref())?;
    let rows = ground.platform.keys(tenant, &page).await?;
    Ok(List::new(rows, &page, |row| row.id.clone(), KeyView::from))
}

/// Creates a key. The answer holds it once.
#[utoipa::path(post, path = "/keys", tag = "keys", request_body = NewKey,
    params(TenantQuery, ("Idempotency-Key" = Option<String>, Header, description = "the same key creates once; a repeated answer holds no secret")),
    responses((status = 201, body = CreatedKey)))]
pub(super) async fn create_key(
    State(ground): State<Ground>,
    caller: Caller,
    Asked(query): Asked<TenantQuery>,
    headers: HeaderMap,
    Input(new): Input<NewKey>,
) -> Result<Response, Problem> {
    caller.need(Scope::Admin)?;
    check_name(&new.name)?;
    if new.scopes.is_empty() {
        return Err(Problem::invalid("scopes", "at least one"));
    }
    let expires_in: Option<Duration> = new
        .expires_in
        .as_deref()
        .map(crate::patience::parse_duration)
        .transpose()
        .map_err(|words| Problem::invalid("expires_in", words))?;
    if expires_in.is_some_and(|after| after.is_zero()) {
        return Err(Problem::invalid("expires_in", "more than nothing"));
    }
    let tenant = caller.whose(query.tenant.as_deref())?;
    let asked = json!(new).to_string();
    let what: [&[u8]; 3] = [
        b"keys",
        tenant.unwrap_or_default().as_bytes(),
        asked.as_bytes(),
    ];
    once(&ground, &caller, &headers, &what, async {
        if let Some(tenant) = tenant {
            ground.platform.tenant(tenant).await?;
        }
        let platform = ground.platform.as_ref();
        let (key, secret) =
            keys::create(platform, tenant, &new.name, &new.scopes, expires_in).await?;
        let id = key.id.clone();
        audit(&ground, &caller, tenant, "key.create", &id, &json!(new)).await?;
        let view = KeyView::from(key);
        let kept = json!(view);
        let shown = CreatedKey {
            key: view,
            secret: Some(secret.reveal().to_owned()),
        };
        Ok(Created {
            kept: Some(kept),
            ..Created::new(json!(shown))
        })
    })
    .await
}

/// Ends a key at once.
#[utoipa::path(delete, path = "/keys/{key}", tag = "keys", params(("key" = String, Path), TenantQuery), responses((status = 204)))]
pub(super) async fn revoke_key(
    State(ground): State<Ground>,
    caller: Caller,
    Path(id): Path<String>,
    Asked(query): Asked<TenantQuery>,
) -> Result<StatusCode, Problem> {
    caller.need(Scope::Admin)?;
    let tenant = caller.whose(query.tenant.as_deref())?;
    let revoked: Result<(), PlatformError> = ground.platform.revoke_key(tenant, &id).await;
    revoked?;
    audit(&ground, &caller, tenant, "key.revoke", &id, &json!({})).await?;
    Ok(StatusCode::NO_CONTENT)
}
