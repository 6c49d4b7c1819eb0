//! What stands around every request: a trace id, a count, a line in the log, and the writing out of problems.
//!
//! Each request runs in a task of its own, so that one whose client hangs up is finished and not left half done: a connection without its
//! audit entry, an idempotency key that is reserved for ever.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use uuid::Uuid;

use super::problem::Problem;
use crate::platform::Ground;
use crate::platform::metrics::{REQUEST_SECONDS, REQUESTS};
use crate::report::Level;

/// The id that follows a request through log and answer.
#[derive(Debug, Clone)]
pub struct Trace(pub String);

/// See the [module](self).
pub async fn around(State(ground): State<Ground>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let trace = Uuid::new_v4().simple().to_string();
    request.extensions_mut().insert(Trace(trace.clone()));
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unknown".to_owned(), |path| path.as_str().to_owned());
    let answered = tokio::spawn(next.run(request)).await;
    let mut response = answered.unwrap_or_else(|error| {
        Problem::internal(format!("the handler of {route} panicked: {error}")).into_response()
    });
    let problem = response.extensions_mut().remove::<Problem>();
    if let Some(problem) = problem {
        if let Some(hidden) = &problem.0.hidden {
            ground.log.line(
                Level::Error,
                hidden,
                json!({"trace": trace, "method": method.as_str(), "path": path}),
            );
        }
        let headers = std::mem::take(response.headers_mut());
        response = problem.render(&trace);
        if let Some(allow) = headers.get(http::header::ALLOW) {
            response
                .headers_mut()
                .insert(http::header::ALLOW, allow.clone());
        }
    }
    let took = begun.elapsed();
    let status = response.status();
    let class = format!("{}xx", status.as_u16() / 100);
    ground
        .metrics
        .count(REQUESTS, &[("route", &route), ("status", &class)], 1.0);
    ground
        .metrics
        .observe(REQUEST_SECONDS, &[("route", &route)], took);
    ground.log.line(
        Level::Debug,
        "request",
        json!({"trace": trace, "method": method.as_str(), "path": path, "status": status.as_u16(), "seconds": took.as_secs_f64()}),
    );
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&trace) {
        headers.insert("x-request-id", value);
    }
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    headers
        .entry("cache-control")
        .or_insert(HeaderValue::from_static("no-store"));
    response
}
