//! Answers, and the exact shapes of GitLab's refusals.
//!
//! GitLab has no single error format: `message` is a string, a list or an object, validation and OAuth use `error`, moved
//! projects and one of the two rate limiters answer plain text. A client has to cope with all of them.

use serde_json::{Value, json};

/// An HTTP answer before the common headers are added.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// What a handler returns: both sides are answers, the error side just ends the handler early.
pub(crate) type Answer = Result<Reply, Reply>;

impl Reply {
    pub(crate) fn json(status: u16, value: &Value) -> Self {
        let body = value.to_string().into_bytes();
        Self {
            status,
            content_type: "application/json",
            headers: Vec::new(),
            body,
        }
    }

    pub(crate) fn ok(value: &Value) -> Self {
        Self::json(200, value)
    }

    pub(crate) fn text(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            content_type,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn message(status: u16, message: &str) -> Self {
        Self::json(status, &json!({ "message": message }))
    }

    /// Validation failed: key `error`, not `message`.
    pub(crate) fn invalid(what: &str) -> Self {
        Self::json(400, &json!({ "error": what }))
    }

    pub(crate) fn unauthorized() -> Self {
        Self::message(401, "401 Unauthorized")
    }

    pub(crate) fn forbidden() -> Self {
        Self::message(403, "403 Forbidden")
    }

    /// GitLab's `not_found!('Project')`: a capital F.
    pub(crate) fn no_such(thing: &str) -> Self {
        Self::message(404, &format!("404 {thing} Not Found"))
    }

    /// A record that the database does not have: a small f.
    pub(crate) fn missing() -> Self {
        Self::message(404, "404 Not found")
    }

    pub(crate) fn no_route() -> Self {
        Self::json(404, &json!({ "error": "404 Not Found" }))
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::json(405, &json!({ "error": "405 Not Allowed" }))
    }

    pub(crate) fn no_keyset() -> Self {
        Self::message(
            405,
            "Keyset pagination is not yet available for this type of request",
        )
    }

    pub(crate) fn revoked() -> Self {
        Self::invalid_token("Token was revoked. You have to re-authorize from the user.")
    }

    pub(crate) fn expired() -> Self {
        Self::invalid_token(
            "Token is expired. You can either do re-authorization or token refresh.",
        )
    }

    fn invalid_token(description: &str) -> Self {
        let challenge = format!(
            "Bearer realm=\"Protected by OAuth 2.0\", error=\"invalid_token\", error_description=\"{description}\""
        );
        Self::json(
            401,
            &json!({ "error": "invalid_token", "error_description": description }),
        )
        .with("www-authenticate", challenge)
    }

    pub(crate) fn insufficient_scope() -> Self {
        Self::insufficient_scope_for("api read_api")
    }

    pub(crate) fn insufficient_scope_for(scope: &str) -> Self {
        let description =
            "The request requires higher privileges than provided by the access token.";
        let body = json!({ "error": "insufficient_scope", "error_description": description, "scope": scope });
        Self::json(403, &body)
    }

    /// Rack::Attack's refusal: plain text.
    pub(crate) fn retry_later(retry_after: Option<u64>) -> Self {
        let reply = Self::text(429, "text/plain", "Retry later\n");
        match retry_after {
            Some(seconds) => reply.with("retry-after", seconds.to_string()),
            None => reply,
        }
    }

    /// The application limiter's refusal: JSON, in older versions without `Retry-After`.
    pub(crate) fn too_many_requests(retry_after: Option<u64>) -> Self {
        let text = "This endpoint has been requested too many times. Try again later.";
        let reply = Self::json(429, &json!({ "message": { "error": text } }));
        match retry_after {
            Some(seconds) => reply.with("retry-after", seconds.to_string()),
            None => reply,
        }
    }

    pub(crate) fn server_error() -> Self {
        Self::message(500, "500 Internal Server Error")
    }

    pub(crate) fn bad_gateway() -> Self {
        let page = "<!DOCTYPE html>\n<html>\n<head><title>GitLab is not responding (502)</title></head>\n<body>\n\
                    <h1>502</h1>\n<h3>Whoops, GitLab is taking too much time to respond.</h3>\n</body>\n</html>\n";
        Self::text(502, "text/html; charset=utf-8", page)
    }

    /// What a proxy's login page or a captive portal looks like: a success that is none.
    pub(crate) fn html_page() -> Self {
        let page = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please sign in.</body></html>\n";
        Self::text(200, "text/html; charset=utf-8", page)
    }
}
