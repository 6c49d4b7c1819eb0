//! The dashboard.
use askama::Template;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};

/// Nothing from elsewhere, nothing inline.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'";

/// A page.
pub fn render(page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => {
            let headers = [
                (header::CONTENT_TYPE, "text/html; charset=utf-8"),
                (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
                (header::REFERRER_POLICY, "same-origin"),
            ];
            (headers, html).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Routes.
pub fn router(ground: super::Ground) -> axum::Router {
    axum::Router::new().with_state(ground)
}
