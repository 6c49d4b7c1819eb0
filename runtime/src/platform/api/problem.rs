//! Errors of the API: problem details after RFC 9457, one form for everything that can go wrong, unknown routes included.
//!
//! A handler returns a [`Problem`]; it travels in the extensions of the answer, and the outermost layer writes it out with the instance (the
//! trace id of the request), which handlers do not know. What is not meant for the caller (the database's words) goes into the log
//! under the same trace.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::ledger::StoreError;
use crate::platform::components::ComponentError;
use crate::platform::connection::FieldError;
use crate::platform::secrets::SecretError;
use connector_store::platform::PlatformError;

/// The content type of problem details.
pub const CONTENT_TYPE: &str = "application/problem+json";
/// Where the types are explained.
const TYPES: &str = "https://cortexdb.ai/problems/connector-runtime#";

/// What went wrong, as a handler returns it.
#[derive(Debug, Clone)]
pub struct Problem(pub(in crate::platform) Box<Details>);

/// What went wrong (RFC 9457).
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct Details {
    /// Names the kind of problem; the part behind `#` is stable.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The status of the answer.
    pub status: u16,
    /// What happened, and what to do.
    pub detail: String,
    /// Names this occurrence; the log has it, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Which fields of the request are wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldProblem>,
    /// More, by kind: `report` of a refused component.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub more: Map<String, Value>,
    /// For the log alone.
    #[serde(skip)]
    pub(super) hidden: Option<String>,
    /// Seconds after which it may work.
    #[serde(skip)]
    pub(super) retry_after: Option<u32>,
}

/// One wrong field.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct FieldProblem {
    /// Its path, `config.source.url`.
    pub field: String,
    /// What is wrong, and what to write.
    pub detail: String,
}

impl Problem {
    fn new(status: StatusCode, kind: &str, title: &str, detail: impl Into<String>) -> Self {
        Self(Box::new(Details {
            kind: format!("{TYPES}{kind}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            instance: None,
            errors: Vec::new(),
            more: Map::new(),
            hidden: None,
            retry_after: None,
        }))
    }

    /// The request cannot be read at all.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "bad-request",
            "The request cannot be read",
            detail,
        )
    }

    /// A field is wrong.
    pub fn invalid(field: &str, words: impl Into<String>) -> Self {
        let words = words.into();
        let mut problem = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            "A field cannot be as it is",
            format!("{field}: {words}"),
        );
        problem.0.errors.push(FieldProblem {
            field: field.to_owned(),
            detail: words,
        });
        problem
    }

    /// No key, or one that is not valid; which of the two is not said.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "A valid API key is needed",
            "send `Authorization: Bearer cr_…` with a key that is neither revoked nor expired",
        )
    }

    /// The key lacks a scope.
    #[must_use]
    pub fn forbidden(words: impl Into<String>) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "The key may not do this",
            words,
        )
    }

    /// There is no such thing for this key.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "There is no such thing",
            format!("there is no {what} of that name here"),
        )
    }

    /// It collides with what is there.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "conflict",
            "It collides with what is there",
            detail,
        )
    }

    /// `If-Match` names a version that is no longer current.
    #[must_use]
    pub fn precondition_failed(current: i64) -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "changed-meanwhile",
            "It was changed in the meantime",
            format!(
                "version {current} is current; read it again and repeat the change with `If-Match: \"{current}\"`"
            ),
        )
    }

    /// `If-Match` is missing.
    #[must_use]
    pub fn precondition_required() -> Self {
        Self::new(
            StatusCode::PRECONDITION_REQUIRED,
            "precondition-required",
            "The version to be changed must be named",
            "send `If-Match` with the ETag of what you have read, or `If-Match: *` for whatever is there",
        )
    }

    /// Too much.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "The request is too large",
            detail,
        )
    }

    /// Not the content type that is wanted.
    pub fn unsupported_media_type(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-media-type",
            "The body is of another type",
            detail,
        )
    }

    /// No such route.
    #[must_use]
    pub fn no_route(path: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "no-route",
            "There is no such route",
            format!(
                "nothing is at `{}`; /api/docs lists what there is",
                path.escape_debug()
            ),
        )
    }

    /// The route has other methods.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "The route has other methods",
            "the header `Allow` lists them",
        )
    }

    /// A component that is not admitted.
    #[must_use]
    pub fn refused_component(words: String, report: Value) -> Self {
        let mut problem = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "component-refused",
            "The component is not admitted",
            words,
        );
        problem.0.more.insert("report".into(), report);
        problem
    }

    /// Another server that was asked on behalf of the caller did not answer as it should.
    pub fn bad_gateway(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_GATEWAY,
            "upstream",
            "A server behind this one failed",
            detail,
        )
    }

    /// It cannot be done now.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        let mut problem = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "Not now",
            detail,
        );
        problem.0.retry_after = Some(1);
        problem
    }

    /// Our fault. The words are for the log.
    pub fn internal(hidden: impl Into<String>) -> Self {
        let mut problem = Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something broke here",
            "it is not your request's fault; the log has more under the `instance` of this answer",
        );
        problem.0.hidden = Some(hidden.into());
        problem
    }

    /// The answer, complete.
    pub(super) fn render(mut self, trace: &str) -> Response {
        self.0.instance = Some(format!("urn:trace:{trace}"));
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(&*self.0).unwrap_or_default();
        let content_type = [(header::CONTENT_TYPE, CONTENT_TYPE)];
        let mut response = (status, content_type, body).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.0.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Held { .. } => {
                Self::conflict("the connection is running; try again when its run has ended")
            }
            StoreError::Database(_) => {
                let mut problem = Self::unavailable("the database does not answer as it should");
                problem.0.hidden = Some(error.to_string());
                problem
            }
            other => Self::internal(other.to_string()),
        }
    }
}

impl From<PlatformError> for Problem {
    fn from(error: PlatformError) -> Self {
        match error {
            PlatformError::Store(error) => error.into(),
            PlatformError::Missing(what) => Self::not_found(what),
            PlatformError::Conflict { current } => Self::precondition_failed(current),
            PlatformError::Taken(what) => {
                Self::conflict(format!("there is a {what} of that name already"))
            }
            PlatformError::InUse(words) => Self::conflict(words),
            PlatformError::OverCap { .. } => Self::conflict(error.to_string()),
            PlatformError::Invalid(words) => Self::invalid("(request)", words),
        }
    }
}

impl From<SecretError> for Problem {
    fn from(error: SecretError) -> Self {
        match error {
            SecretError::Store(error) => error.into(),
            SecretError::Refused(field) => Self::conflict(format!(
                "the stored secret `{field}` does not open; set it again"
            )),
            other => Self::internal(other.to_string()),
        }
    }
}

impl From<ComponentError> for Problem {
    fn from(error: ComponentError) -> Self {
        match error {
            ComponentError::Refused { words, report } => Self::refused_component(words, report),
            ComponentError::Store(error) => error.into(),
            ComponentError::Unusable { .. } if error.is_of_the_platform() => {
                Self::unavailable(error.to_string())
            }
            ComponentError::Description(_) | ComponentError::Unusable { .. } => {
                Self::conflict(error.to_string())
            }
            ComponentError::Busy
            | ComponentError::TenantIsTrying
            | ComponentError::TenantIsUploading => Self::unavailable(error.to_string()),
            ComponentError::Engine(_) => Self::internal(error.to_string()),
        }
    }
}

impl From<FieldError> for Problem {
    fn from(error: FieldError) -> Self {
        Self::invalid(&error.field, error.words)
    }
}
