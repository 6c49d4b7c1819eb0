//! The routes of the v1 API that the simulator serves.

use axum::http::Method;
use serde::{Deserialize, Serialize};

/// One route, as fault rules and statistics name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// `POST /v1/experience`
    Experience,
    /// `POST /v1/experience/bulk`
    Bulk,
    /// `GET /v1/experience/status`
    Status,
    /// `POST /v1/forget`
    Forget,
    /// `POST /v1/forget/preview`
    ForgetPreview,
    /// `GET /v1/auth/whoami`
    Whoami,
    /// `POST /v1/auth/signup`
    Signup,
    /// `GET /v1/admin/version`
    Version,
    /// `GET /v1/admin/health`
    Health,
    /// `GET /v1/admin/ready`
    Ready,
    /// `GET /v1/events`
    Events,
    /// `GET /v1/scopes/list`
    ScopesList,
    /// `GET /v1/derivation/status`
    DerivationStatus,
    /// Anything else: 404.
    Unknown,
}

impl Route {
    pub(crate) fn of(method: &Method, path: &str) -> Self {
        let routes = [
            (Method::POST, "/v1/experience", Self::Experience),
            (Method::POST, "/v1/experience/bulk", Self::Bulk),
            (Method::GET, "/v1/experience/status", Self::Status),
            (Method::POST, "/v1/forget", Self::Forget),
            (Method::POST, "/v1/forget/preview", Self::ForgetPreview),
            (Method::GET, "/v1/auth/whoami", Self::Whoami),
            (Method::POST, "/v1/auth/signup", Self::Signup),
            (Method::GET, "/v1/admin/version", Self::Version),
            (Method::GET, "/v1/admin/health", Self::Health),
            (Method::GET, "/v1/admin/ready", Self::Ready),
            (Method::GET, "/v1/events", Self::Events),
            (Method::GET, "/v1/scopes/list", Self::ScopesList),
            (Method::GET, "/v1/derivation/status", Self::DerivationStatus),
        ];
        routes
            .iter()
            .find(|(m, p, _)| m == method && *p == path)
            .map_or(Self::Unknown, |(_, _, route)| *route)
    }

    /// Whether the route answers without a bearer.
    pub(crate) fn is_open(self) -> bool {
        matches!(
            self,
            Self::Signup | Self::Version | Self::Health | Self::Ready
        )
    }

    /// The capability that the route as such needs; forget and foreign actors need more, depending on the body.
    pub(crate) fn capability(self) -> Option<&'static str> {
        match self {
            Self::Experience | Self::Bulk => Some("scope.write"),
            Self::Status | Self::Events => Some("scope.read.events"),
            Self::ScopesList | Self::DerivationStatus => Some("scope.read.metadata"),
            _ => None,
        }
    }
}
