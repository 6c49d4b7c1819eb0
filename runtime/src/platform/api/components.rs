//! Component files: upload with the admission report, list, look, remove.

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::idempotency::{Created, once};
use super::problem::Problem;
use super::request::{Asked, Caller, List, ListQuery, TenantQuery, audit, read};
use crate::platform::Ground;
use crate::platform::keys::Scope;
use crate::sandbox::rules::MAX_FILE_BYTES;
use connector_store::platform::Component;

/// A component that was admitted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Component)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ComponentView {
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// Absent: the operator's, for all tenants.
    pub tenant: Option<String>,
    pub name: String,
    pub version: String,
    /// `connector` or `mapper`.
    pub world: String,
    pub bytes: u64,
    /// What it says of itself: settings schema, permissions, event types.
    #[schema(value_type = Object)]
    pub description: Value,
    pub created_at: String,
}

/// One with the rules that it was held to.
#[derive(Debug, Serialize, ToSchema)]
pub struct AdmittedComponent {
    /// What it is.
    #[serde(flatten)]
    pub component: ComponentView,
    /// The admission report: each rule with what was measured and what is allowed.
    #[schema(value_type = Object)]
    pub report: Value,
}

impl From<Component> for ComponentView {
    fn from(row: Component) -> Self {
        Self {
            digest: row.digest,
            tenant: row.tenant,
            name: row.name,
            version: row.version,
            world: row.world,
            bytes: row.bytes,
            description: row.description,
            created_at: row.created_at,
        }
    }
}

impl From<Component> for AdmittedComponent {
    fn from(mut row: Component) -> Self {
        let report = row.report.take();
        Self {
            component: row.into(),
            report,
        }
    }
}

/// Components that may be used: the tenant's own and the operator's.
#[utoipa::path(get, path = "/components", tag = "components", params(ListQuery), responses((status = 200, body = List<ComponentView>)))]
pub(super) async fn list(
    State(ground): State<Ground>,
    caller: Caller,
    Asked(query): Asked<ListQuery>,
) -> Result<Json<List<ComponentView>>, Problem> {
    caller.need(Scope::Read)?;
    let page = query.page()?;
    let tenant = caller.whose(query.tenant.as_deref())?;
    let rows = ground.platform.components(tenant, &page).await?;
    Ok(List::new(
        rows,
        &page,
        |row| row.digest.clone(),
        ComponentView::from,
    ))
}

/// Uploads a connector or a mapper: the bytes of the file as the body. Refused files are answered with the report.
#[utoipa::path(post, path = "/components", tag = "components",
    request_body(content_type = "application/wasm", content = Vec<u8>, description = "the file; at most 32 MiB"),
    params(TenantQuery, ("Idempotency-Key" = Option<String>, Header, description = "the same key creates once")),
    responses((status = 201, body = AdmittedComponent)))]
pub(super) async fn upload(
    State(ground): State<Ground>,
    caller: Caller,
    Asked(query): Asked<TenantQuery>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    caller.need(Scope::Components)?;
    let tenant = caller.whose(query.tenant.as_deref())?;
    let kind = headers.get(header::CONTENT_TYPE);
    let is_file = kind
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            value.starts_with("application/wasm") || value.starts_with("application/octet-stream")
        });
    if !is_file {
        return Err(Problem::unsupported_media_type(
            "send the bytes of the file with `Content-Type: application/wasm`",
        ));
    }
    let most = usize::try_from(MAX_FILE_BYTES).unwrap_or(usize::MAX);
    let _place = ground.components.upload_of(caller.tenant())?;
    let bytes = read(request.into_body(), most).await?;
    if let Some(tenant) = tenant {
        ground.platform.tenant(tenant).await?;
    }
    let what: [&[u8]; 3] = [b"components", tenant.unwrap_or_default().as_bytes(), &bytes];
    once(&ground, &caller, &headers, &what, async {
        let component = ground
            .components
            .admit(tenant, &bytes, ground.rules().limits)
            .await?;
        let stored = ground.platform.put_component(&component, &bytes).await?;
        let detail = json!({"name": stored.name, "version": stored.version, "world": stored.world});
        audit(
            &ground,
            &caller,
            tenant,
            "component.upload",
            &stored.digest,
            &detail,
        )
        .await?;
        Ok(Created::new(json!(AdmittedComponent::from(stored))))
    })
    .await
}

/// One component with its admission report.
#[utoipa::path(get, path = "/components/{digest}", tag = "components", params(("digest" = String, Path), TenantQuery), responses((status = 200, body = AdmittedComponent)))]
pub(super) async fn get(
    State(ground): State<Ground>,
    caller: Caller,
    Path(digest): Path<String>,
    Asked(query): Asked<TenantQuery>,
) -> Result<Json<AdmittedComponent>, Problem> {
    caller.need(Scope::Read)?;
    let tenant = caller.whose(query.tenant.as_deref())?;
    Ok(Json(
        ground.platform.component(tenant, &digest).await?.into(),
    ))
}

/// Removes a component that no connection uses, now or in an earlier version of its chain.
#[utoipa::path(delete, path = "/components/{digest}", tag = "components", params(("digest" = String, Path), TenantQuery), responses((status = 204)))]
pub(super) async fn delete(
    State(ground): State<Ground>,
    caller: Caller,
    Path(digest): Path<String>,
    Asked(query): Asked<TenantQuery>,
) -> Result<StatusCode, Problem> {
    caller.need(Scope::Components)?;
    let tenant = caller.whose(query.tenant.as_deref())?;
    ground.platform.delete_component(tenant, &digest).await?;
    audit(
        &ground,
        &caller,
        tenant,
        "component.delete",
        &digest,
        &json!({}),
    )
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
