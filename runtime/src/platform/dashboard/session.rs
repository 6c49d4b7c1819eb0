//! Sessions of the dashboard: who has logged in with a key.
//!
//! A session is a sealed cookie, so that any process of the platform can read it and none has to keep it: the id of the key, and until when.
//! The key itself is asked for with every request, so that revoking it ends its sessions. Forms carry a token that is made of the cookie,
//! which another site can neither read nor guess.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::http::{HeaderMap, HeaderValue, header};
use chrono::{DateTime, Duration, Utc};

use crate::digest::{hex, sha256_of_parts};
use crate::platform::Ground;
use crate::platform::api::problem::Problem;
use crate::platform::api::request::Caller;
use crate::platform::secrets::Place;
use connector_store::platform::ApiKey;

const COOKIE: &str = "connector_session";
const LASTS_HOURS: i64 = 12;
const PLACE: Place<'static> = Place {
    tenant: "",
    connection: "",
    field: "session",
};

/// Somebody who has logged in.
#[derive(Debug, Clone)]
pub struct Session {
    /// With what.
    pub caller: Caller,
    /// For forms.
    pub csrf: String,
}

/// The cookie of a new session.
pub fn begin(ground: &Ground, key: &ApiKey) -> Result<HeaderValue, Problem> {
    let until = Utc::now() + Duration::hours(LASTS_HOURS);
    let sealed = ground
        .secrets
        .seal(PLACE, &format!("{} {}", key.id, until.to_rfc3339()))?;
    cookie(ground, &sealed, LASTS_HOURS * 3600)
}

/// The cookie that ends a session.
pub fn end(ground: &Ground) -> Result<HeaderValue, Problem> {
    cookie(ground, "", 0)
}

fn cookie(ground: &Ground, value: &str, seconds: i64) -> Result<HeaderValue, Problem> {
    let is_https = ground
        .config
        .public_url
        .as_ref()
        .is_some_and(|url| url.starts_with("https://"));
    let secure = if is_https { "; Secure" } else { "" };
    let text =
        format!("{COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::from_str(&text).map_err(|error| Problem::internal(error.to_string()))
}

/// The session of a request; `None` where there is none that is valid.
pub async fn find(ground: &Ground, headers: &HeaderMap) -> Option<Session> {
    let sealed = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|one| one.trim().strip_prefix(COOKIE)?.strip_prefix('='))?;
    let opened = ground.secrets.open_value(PLACE, sealed).ok()?;
    let (id, until) = opened.reveal().split_once(' ')?;
    let until = DateTime::parse_from_rfc3339(until).ok()?;
    if until < Utc::now() {
        return None;
    }
    let key = ground.platform.valid_key(id).await.ok()??;
    let digest = sha256_of_parts([b"connector-runtime csrf".as_slice(), sealed.as_bytes()]);
    Some(Session {
        caller: Caller { key },
        csrf: hex(&digest, 64),
    })
}

impl Session {
    /// Refuses a form that did not come from a page of this session.
    pub fn check(&self, shown: &str) -> Result<(), Problem> {
        verify_slices_are_equal(self.csrf.as_bytes(), shown.as_bytes())
            .map_err(|_| Problem::forbidden("the form is not of this session; load the page again"))
    }
}
