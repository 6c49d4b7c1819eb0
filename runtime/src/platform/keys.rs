//! API keys: `cr_<id>_<secret>`. The store has the SHA-256 of the secret part, which is 256 random bits and needs no slower digest.
//!
//! The id finds the row, the digest is compared in constant time, and whatever is wrong with a key gets the same answer.

use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::digest::hex;
use crate::redact::Secret;
use connector_store::platform::{ApiKey, Platform, PlatformError};

const SECRET_BYTES: usize = 32;
const PREFIX: &str = "cr_";

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Look at everything of the tenant's, payloads of deliveries included.
    Read,
    /// Create, change and remove connections and their chains; pause, resume, run.
    Write,
    /// Replay deliveries, retry and drop dead letters.
    Deliveries,
    /// Upload and remove components.
    Components,
    /// All of that, and keys. An operator's key with it also has tenants.
    Admin,
}

impl Scope {
    /// As it is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Deliveries => "deliveries",
            Self::Components => "components",
            Self::Admin => "admin",
        }
    }
}

impl std::str::FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [
            Self::Read,
            Self::Write,
            Self::Deliveries,
            Self::Components,
            Self::Admin,
        ]
        .into_iter()
        .find(|scope| scope.as_str() == text)
        .ok_or_else(|| {
            format!("`{text}` is no scope; there are read, write, deliveries, components, admin")
        })
    }
}

/// Whether a key with these scopes may do what this one names.
#[must_use]
pub fn allows(scopes: &[String], wanted: Scope) -> bool {
    let has = |scope: Scope| scopes.iter().any(|one| one == scope.as_str());
    // Whoever may change something may look at it.
    has(Scope::Admin) || has(wanted) || (wanted == Scope::Read && !scopes.is_empty())
}

/// Makes a key and stores its digest. The key itself is in the answer and nowhere else.
pub async fn create(
    platform: &dyn Platform,
    tenant: Option<&str>,
    name: &str,
    scopes: &[Scope],
    expires_in: Option<Duration>,
) -> Result<(ApiKey, Secret), PlatformError> {
    let mut bytes = zeroize::Zeroizing::new([0; SECRET_BYTES]);
    aws_lc_rs::rand::fill(&mut *bytes)
        .map_err(|_| PlatformError::InUse("the system has no random numbers".into()))?;
    let secret = zeroize::Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes));
    let id = Uuid::now_v7().simple().to_string();
    let key = ApiKey {
        digest: digest_of(&secret),
        tenant: tenant.map(str::to_owned),
        name: name.to_owned(),
        scopes: scopes
            .iter()
            .map(|scope| scope.as_str().to_owned())
            .collect(),
        created_at: String::new(),
        expires_at: None,
        revoked_at: None,
        id,
    };
    let stored = platform.create_key(&key, expires_in).await?;
    let whole = Secret::new(format!("{PREFIX}{}_{}", stored.id, *secret));
    Ok((stored, whole))
}

/// Whose key this is; `None` for any key that is not valid, whatever the reason.
pub async fn verify(platform: &dyn Platform, text: &str) -> Result<Option<ApiKey>, PlatformError> {
    let Some((id, secret)) = parts(text) else {
        return Ok(None);
    };
    let digest = digest_of(secret);
    let Some(key) = platform.valid_key(id).await? else {
        return Ok(None);
    };
    let same = verify_slices_are_equal(digest.as_bytes(), key.digest.as_bytes()).is_ok();
    Ok(same.then_some(key))
}

/// Id and secret part of what may be a key.
fn parts(text: &str) -> Option<(&str, &str)> {
    let (id, secret) = text.trim().strip_prefix(PREFIX)?.split_once('_')?;
    let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_id && secret.len() <= 64 && !secret.is_empty()).then_some((id, secret))
}

fn digest_of(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()), 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_is_not_looked_up() {
        let id = "0".repeat(32);
        assert!(parts(&format!("cr_{id}_abc_-d")).is_some_and(|(_, secret)| secret == "abc_-d"));
        for text in [
            "",
            "cr_",
            "cr_x_y",
            "Bearer",
            &format!("cr_{id}_"),
            &format!("xx_{id}_a"),
        ] {
            assert_eq!(parts(text), None, "{text}");
        }
    }

    #[test]
    fn who_may_change_may_look_and_only_admin_has_everything() {
        let scopes = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        assert!(allows(&scopes(&["write"]), Scope::Read));
        assert!(!allows(&scopes(&["read"]), Scope::Write));
        assert!(!allows(
            &scopes(&["write", "deliveries"]),
            Scope::Components
        ));
        assert!(!allows(&scopes(&["write"]), Scope::Admin));
        assert!(allows(&scopes(&["admin"]), Scope::Components));
        assert!(!allows(&scopes(&[]), Scope::Read));
    }
}
