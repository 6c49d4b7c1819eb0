//! One defect of an envelope, with the error code that it earns.

/// Which class of refusal a defect belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Unknown field, wrong type, bad scope grammar, key too long: `INVALID_BODY`.
    Body,
    /// Blank or oversized content, bad source descriptor: `INVALID_ENVELOPE`.
    Envelope,
    /// A scope type outside the allowed set: `UNREGISTERED_SCOPE_TYPE`.
    ScopeType,
}

impl Kind {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Body => "INVALID_BODY",
            Self::Envelope => "INVALID_ENVELOPE",
            Self::ScopeType => "UNREGISTERED_SCOPE_TYPE",
        }
    }
}

/// One defect.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) kind: Kind,
    pub(crate) field: &'static str,
    pub(crate) reason: String,
}

impl Finding {
    pub(crate) fn body(field: &'static str, reason: impl Into<String>) -> Self {
        Self {
            kind: Kind::Body,
            field,
            reason: reason.into(),
        }
    }

    pub(crate) fn envelope(field: &'static str, reason: impl Into<String>) -> Self {
        Self {
            kind: Kind::Envelope,
            field,
            reason: reason.into(),
        }
    }

    pub(crate) fn sentence(&self) -> String {
        format!("{}: {}", self.field, self.reason)
    }
}
