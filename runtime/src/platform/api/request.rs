//! What every handler needs of a request: who asks, a body that says which field is wrong, a page of a list, the version to be changed.

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::problem::Problem;
use crate::platform::Ground;
use crate::platform::keys::{self, Scope, allows};
use connector_store::platform::{ApiKey, Page, PlatformError};

/// For a whole body.
const BODY_TIME: std::time::Duration = std::time::Duration::from_secs(60);
/// Bytes of a JSON body.
pub const MAX_BODY_BYTES: usize = 256 << 10;
/// Rows of a page when nothing is said, and at most.
const DEFAULT_LIMIT: u32 = 50;
/// See [`DEFAULT_LIMIT`].
pub const MAX_LIMIT: u32 = 200;

/// Who asks. Made of the bearer key, or of the session of the dashboard.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The key, without its secret.
    pub key: ApiKey,
}

impl Caller {
    /// The tenant whose things the caller may touch; `None`: an operator, all.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        self.key.tenant.as_deref()
    }

    /// Refuses without the scope.
    pub fn need(&self, scope: Scope) -> Result<(), Problem> {
        if allows(&self.key.scopes, scope) {
            return Ok(());
        }
        Err(Problem::forbidden(format!(
            "it needs the scope `{}`, and this key has {}",
            scope.as_str(),
            self.key.scopes.join(", ")
        )))
    }

    /// Refuses everybody but operators; for tenants the thing does not exist.
    pub fn need_operator(&self, scope: Scope) -> Result<(), Problem> {
        if self.tenant().is_some() {
            return Err(Problem::not_found("route for the key of a tenant"));
        }
        self.need(scope)
    }

    /// The tenant that a new thing will belong to: the caller's own, or for an operator the one that is named.
    pub fn owner(&self, named: Option<&str>) -> Result<String, Problem> {
        match (self.tenant(), named) {
            (Some(own), None) => Ok(own.to_owned()),
            (Some(own), Some(named)) if own == named => Ok(own.to_owned()),
            (Some(_), Some(_)) => Err(Problem::not_found("tenant")),
            (None, Some(named)) => Ok(named.to_owned()),
            (None, None) => Err(Problem::invalid(
                "tenant",
                "an operator's key belongs to no tenant; name one with `?tenant=`",
            )),
        }
    }

    /// Whose things are listed: the caller's own, or for an operator the named one's or everybody's.
    pub fn whose<'a>(&'a self, named: Option<&'a str>) -> Result<Option<&'a str>, Problem> {
        match (self.tenant(), named) {
            (Some(own), Some(named)) if own != named => Err(Problem::not_found("tenant")),
            (Some(own), _) => Ok(Some(own)),
            (None, named) => Ok(named),
        }
    }
}

impl FromRequestParts<Ground> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, ground: &Ground) -> Result<Self, Problem> {
        // The dashboard has looked at its session already.
        if let Some(caller) = parts.extensions.get::<Self>() {
            return Ok(caller.clone());
        }
        let header = parts.headers.get(header::AUTHORIZATION);
        let text = header
            .and_then(|value| value.to_str().ok())
            .and_then(|value| {
                let (scheme, key) = value.split_once(' ')?;
                scheme.eq_ignore_ascii_case("bearer").then_some(key)
            })
            .ok_or_else(Problem::unauthorized)?;
        let key = keys::verify(ground.platform.as_ref(), text).await?;
        let key = key.ok_or_else(Problem::unauthorized)?;
        Ok(Self { key })
    }
}

/// A JSON body. What is wrong with it is said with the path of the field.
#[derive(Debug)]
pub struct Input<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Ground> for Input<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Ground) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let is_json = parts
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| {
                let kind = value.split(';').next().unwrap_or_default().trim();
                kind.eq_ignore_ascii_case("application/json")
                    || kind.eq_ignore_ascii_case("application/merge-patch+json")
            });
        if !is_json {
            return Err(Problem::unsupported_media_type(
                "send the body as JSON, with `Content-Type: application/json`",
            ));
        }
        let bytes = read(body, MAX_BODY_BYTES).await?;
        Ok(Self(parse(&bytes)?))
    }
}

/// Reads a body up to a size.
pub(super) async fn read(body: Body, most: usize) -> Result<axum::body::Bytes, Problem> {
    let read = tokio::time::timeout(BODY_TIME, to_bytes(body, most)).await;
    let read = read.map_err(|_| Problem::bad_request("the body came too slowly"))?;
    read.map_err(|error| {
        let is_length = std::error::Error::source(&error)
            .is_some_and(|cause| cause.to_string().contains("length limit"));
        if is_length {
            Problem::too_large(format!("a body may have {most} bytes here"))
        } else {
            Problem::bad_request("the body broke off")
        }
    })
}

/// JSON with the path of what is wrong.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut reader);
    let value = parsed.map_err(|error| problem_of(&error))?;
    reader
        .end()
        .map_err(|error| Problem::bad_request(format!("the body is not JSON: {error}")))?;
    Ok(value)
}

/// The same for a value that was put together.
pub(super) fn parse_value<T: DeserializeOwned>(value: Value, below: &str) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." {
            below.to_owned()
        } else {
            format!("{below}.{path}")
        };
        Problem::invalid(&field, words_of(error.inner()))
    })
}

fn problem_of(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    if error.inner().is_data() {
        let path = error.path().to_string();
        let field = if path == "." { "(body)" } else { &path };
        return Problem::invalid(field, words_of(error.inner()));
    }
    Problem::bad_request(format!("the body is not JSON: {}", error.inner()))
}

/// serde's words without the place in the text, which the field says better.
fn words_of(error: &serde_json::Error) -> String {
    let words = error.to_string();
    words
        .rsplit_once(" at line ")
        .map_or(words.clone(), |(words, _)| words.to_owned())
}

/// Which part of a list, and for an operator whose.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, default)]
pub struct ListQuery {
    /// `next` of the page before.
    pub after: Option<String>,
    /// Rows, at most 200.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
    /// For operators: only of this tenant.
    pub tenant: Option<String>,
}

impl ListQuery {
    pub(super) fn page(&self) -> Result<Page, Problem> {
        page(self.after.clone(), self.limit)
    }
}

pub(super) fn page(after: Option<String>, limit: Option<u32>) -> Result<Page, Problem> {
    let most = limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&most) {
        return Err(Problem::invalid("limit", format!("1 to {MAX_LIMIT}")));
    }
    Ok(Page { after, most })
}

/// For an operator: whose.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, default)]
pub struct TenantQuery {
    /// For operators: of this tenant.
    pub tenant: Option<String>,
}

/// The query of a request; what is wrong with it is a problem like any other.
#[derive(Debug)]
pub struct Asked<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<Ground> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Ground) -> Result<Self, Problem> {
        let query = Query::<T>::try_from_uri(&parts.uri).map_err(|rejection| {
            let words = rejection.body_text();
            let words = words
                .rsplit_once("query string: ")
                .map_or(words.as_str(), |(_, words)| words);
            Problem::invalid("(query)", words)
        })?;
        Ok(Self(query.0))
    }
}

/// A part of a list.
#[derive(Debug, serde::Serialize, ToSchema)]
pub struct List<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Pass it as `after` for the next page; absent: this was the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> List<T> {
    /// A page of which one row more was asked for than is shown is not the last.
    pub(super) fn new<R>(
        rows: Vec<R>,
        page: &Page,
        id: impl Fn(&R) -> String,
        show: impl Fn(R) -> T,
    ) -> Json<Self> {
        let is_full = rows.len() >= page.most as usize;
        let next = rows.last().filter(|_| is_full).map(id);
        Json(Self {
            items: rows.into_iter().map(show).collect(),
            next,
        })
    }
}

/// The version that `If-Match` names; `None` for `*`.
pub(super) fn if_match(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        return Err(Problem::precondition_required());
    };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    text.trim_start_matches("W/")
        .trim_matches('"')
        .parse()
        .map(Some)
        .map_err(|_| Problem::bad_request("`If-Match` is not an ETag of this API, such as \"3\""))
}

/// A name that people give.
pub(super) fn check_name(name: &str) -> Result<(), Problem> {
    if name.is_empty()
        || name.len() > 100
        || name.chars().any(char::is_control)
        || name.trim() != name
    {
        return Err(Problem::invalid(
            "name",
            "1 to 100 bytes, without control characters and without white space around it",
        ));
    }
    Ok(())
}

/// An entry of the log of changes. A change that cannot be written down is reported as failed, although it happened.
pub(super) async fn audit(
    ground: &Ground,
    caller: &Caller,
    tenant: Option<&str>,
    action: &str,
    subject: &str,
    detail: &Value,
) -> Result<(), Problem> {
    let by = &caller.key.id;
    let written: Result<(), PlatformError> = ground
        .platform
        .audit(tenant, by, action, subject, detail)
        .await;
    written?;
    ground.log.line(
        crate::report::Level::Info,
        action,
        json!({"by": by, "tenant": tenant, "subject": subject}),
    );
    Ok(())
}
