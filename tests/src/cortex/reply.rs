//! What the server says back, before it becomes HTTP: faults rewrite replies, so they are kept as values.

use serde_json::{Value, json};

/// A reply on its way out.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Body,
}

/// The body of a reply.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Json(Value),
    Text { mime: &'static str, text: String },
}

impl Reply {
    pub(crate) fn json(status: u16, body: Value) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Body::Json(body),
        }
    }

    pub(crate) fn html(status: u16) -> Self {
        let text = format!(
            "<html><head><title>{status}</title></head><body><h1>{status}</h1><hr>proxy</body></html>"
        );
        Self {
            status,
            headers: Vec::new(),
            body: Body::Text {
                mime: "text/html",
                text,
            },
        }
    }

    pub(crate) fn mime(&self) -> &'static str {
        match self.body {
            Body::Json(_) => "application/json",
            Body::Text { mime, .. } => mime,
        }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        match self.body {
            Body::Json(value) => value.to_string().into_bytes(),
            Body::Text { text, .. } => text.into_bytes(),
        }
    }
}

/// A refusal, in the shape that the contract gives every error.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) retriable: bool,
    pub(crate) retry_after: Option<u64>,
    pub(crate) details: Option<Value>,
}

impl ApiError {
    pub(crate) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        let retriable = matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504);
        Self {
            status,
            code: code.to_owned(),
            message: message.into(),
            retriable,
            retry_after: None,
            details: None,
        }
    }

    pub(crate) fn invalid_body(message: impl Into<String>) -> Self {
        Self::new(422, "INVALID_BODY", message)
    }

    pub(crate) fn denied(capability: &str, tier: &str) -> Self {
        let mut error = Self::new(
            403,
            "POLICY_DENIED",
            format!("the token lacks {capability}"),
        );
        error.details = Some(json!({
            "capability": capability, "decided_by_tier": tier, "reason": "capability not granted",
        }));
        error
    }

    /// The error as a reply; `lowercase` prints the code as the documentation does.
    pub(crate) fn into_reply(self, request_id: &str, lowercase: bool) -> Reply {
        let code = if lowercase {
            self.code.to_lowercase()
        } else {
            self.code
        };
        let mut body = json!({
            "error_code": code,
            "message": self.message,
            "request_id": request_id,
            "retriable": self.retriable,
        });
        if let Some(details) = self.details {
            body["details"] = details;
        }
        let mut reply = Reply::json(self.status, body);
        if let Some(seconds) = self.retry_after {
            reply.headers.push(("Retry-After", seconds.to_string()));
        }
        reply
    }
}
