//! Creating the same twice: a request with an `Idempotency-Key` is carried out once, and its answer is given again for a day.

use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::problem::Problem;
use super::request::Caller;
use crate::digest::{hex, sha256_of_parts};
use crate::platform::Ground;

/// The longest key.
const MAX_KEY_BYTES: usize = 200;

/// What a creation answers: the status, what to show, and what to keep of it (without secrets).
pub(super) struct Created {
    pub(super) status: StatusCode,
    pub(super) body: Value,
    /// Where the answer holds a secret: the same without it.
    pub(super) kept: Option<Value>,
}

impl Created {
    pub(super) fn new(body: Value) -> Self {
        Self {
            status: StatusCode::CREATED,
            body,
            kept: None,
        }
    }
}

/// Does the work, unless an earlier request with the same key has. `what` is what the request asks for, complete.
pub(super) async fn once(
    ground: &Ground,
    caller: &Caller,
    headers: &HeaderMap,
    what: &[&[u8]],
    work: impl Future<Output = Result<Created, Problem>>,
) -> Result<Response, Problem> {
    let Some(key) = headers.get("idempotency-key") else {
        return work
            .await
            .map(|created| show(created.status, &created.body, false));
    };
    let key = key.to_str().unwrap_or_default();
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(Problem::bad_request(format!(
            "`Idempotency-Key` has 1 to {MAX_KEY_BYTES} printable ASCII characters"
        )));
    }
    let scope = caller.tenant().unwrap_or("operator");
    let digest = hex(&sha256_of_parts(what.iter().copied()), 64);
    let platform = ground.platform.as_ref();
    if let Some(earlier) = platform.remember_request(scope, key, &digest).await? {
        if earlier.digest != digest {
            return Err(Problem::invalid(
                "Idempotency-Key",
                "it was used for another request within the last day; take a new one",
            ));
        }
        return match earlier.answer {
            Some((status, body)) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::CREATED);
                Ok(show(status, &body, true))
            }
            None => Err(Problem::conflict(
                "the same request is being worked on; ask again in a moment",
            )),
        };
    }
    match work.await {
        Ok(created) => {
            let kept = created.kept.as_ref().unwrap_or(&created.body);
            platform
                .answer_request(scope, key, created.status.as_u16(), kept)
                .await?;
            Ok(show(created.status, &created.body, false))
        }
        Err(problem) => {
            platform.forget_request(scope, key).await?;
            Err(problem)
        }
    }
}

fn show(status: StatusCode, body: &Value, again: bool) -> Response {
    let version = body["version"].as_i64();
    let mut response = (status, axum::Json(body)).into_response();
    let headers = response.headers_mut();
    if again {
        headers.insert(
            "idempotent-replayed",
            http::HeaderValue::from_static("true"),
        );
    }
    if let Some(version) = version
        && let Ok(etag) = format!("\"{version}\"").parse()
    {
        headers.insert(http::header::ETAG, etag);
    }
    response
}
