//! The JSON API of the platform: `/api/v1`, described by `/api/openapi.json`, which is made of this code.
//!
//! Every handler says first which scope it needs, finds things only through the caller's tenant, and answers anything that goes wrong with a
//! [`Problem`]. Around them stands one [`layer`]: it gives each request a trace id, finishes what a client that hung up has begun, counts,
//! and writes problems out.

pub mod chain;
pub mod components;
pub mod connections;
pub mod history;
mod idempotency;
pub mod layer;
mod openapi;
pub mod problem;
pub mod request;
pub mod tenants;
#[cfg(test)]
mod tests;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Ground;
use problem::Problem;

pub use components::ComponentView;
pub use connections::{ChainBody, ConnectionView, FindingView};
pub use history::{AuditView, DeliveryView, LetterView, RunView};
pub use openapi::document;
pub use tenants::{KeyView, TenantView, UsageView};

/// An answer with its ETag.
fn with_version(version: i64, body: &impl Serialize) -> Response {
    let etag = [(header::ETAG, format!("\"{version}\""))];
    (etag, axum::Json(body)).into_response()
}

/// All routes, with their description.
fn described() -> OpenApiRouter<Ground> {
    OpenApiRouter::new()
        .routes(routes!(tenants::list, tenants::create))
        .routes(routes!(tenants::get, tenants::update, tenants::delete))
        .routes(routes!(tenants::usage))
        .routes(routes!(tenants::list_keys, tenants::create_key))
        .routes(routes!(tenants::revoke_key))
        .routes(routes!(components::list, components::upload))
        .routes(routes!(components::get, components::delete))
        .routes(routes!(connections::list, connections::create))
        .routes(routes!(
            connections::get,
            connections::update,
            connections::delete
        ))
        .routes(routes!(connections::pause))
        .routes(routes!(connections::resume))
        .routes(routes!(connections::run_now))
        .routes(routes!(connections::check))
        .routes(routes!(chain::chains, chain::promote))
        .routes(routes!(chain::roll_back))
        .routes(routes!(chain::dry_run))
        .routes(routes!(history::runs))
        .routes(routes!(history::run))
        .routes(routes!(history::deliveries))
        .routes(routes!(history::delivery))
        .routes(routes!(history::replay_range))
        .routes(routes!(history::replay_one))
        .routes(routes!(history::letters))
        .routes(routes!(history::one_letter))
        .routes(routes!(history::retry_letters))
        .routes(routes!(history::drop_letters))
        .routes(routes!(history::audits))
        .routes(routes!(history::limits))
}

/// The routes of the API, below `/api`.
pub fn router(ground: Ground) -> Router {
    let (v1, _) = described().split_for_parts();
    let v1 = v1
        .fallback(unknown_route)
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .with_state(ground);
    Router::new()
        .nest("/api/v1", v1)
        .route("/api/openapi.json", axum::routing::get(openapi::json))
        .route("/api/docs", axum::routing::get(openapi::page))
        .route("/api/{*rest}", axum::routing::any(unknown_route))
}

async fn unknown_route(uri: http::Uri) -> Problem {
    Problem::no_route(uri.path())
}

/// Whether this process can be given work.
pub(super) async fn ready(State(ground): State<Ground>) -> Response {
    match ground.platform.ping().await {
        Ok(()) if !ground.stop.is_cancelled() => "ready\n".into_response(),
        Ok(()) => Problem::unavailable("this process is ending").into_response(),
        Err(error) => Problem::from(error).into_response(),
    }
}
