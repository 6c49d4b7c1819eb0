//! Who is calling, and what they may do.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

use super::envelope::{is_actor_id, sha256_hex};
use super::reply::{ApiError, Reply};
use super::{Clock, Cortex, Options};

/// Where a key comes from; it decides how the actor header is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Issuer {
    /// A signed token of the named issuer: the actor header must be there and equal the token's subject.
    Signed(String),
    /// The operator key of a self-hosted server: any actor may be named, `user:local` without one.
    StaticApiKey,
    /// No authentication at all.
    AuthDisabled,
}

impl Issuer {
    fn name(&self) -> &str {
        match self {
            Self::Signed(issuer) => issuer,
            Self::StaticApiKey => "static-api-key",
            Self::AuthDisabled => "auth-disabled",
        }
    }
}

/// One accepted bearer.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The bearer itself.
    pub key: String,
    /// Where it comes from.
    pub issuer: Issuer,
    /// The token's subject; for unsigned keys the caller when no actor is named.
    pub actor: String,
    /// What it may do; a trailing `.*` covers everything below.
    pub capabilities: Vec<String>,
    /// Tier, as the policy header and refusals print it.
    pub tier: String,
    /// When it stops working (server's clock).
    pub expires_at: Option<DateTime<Utc>>,
    /// Whether it was revoked.
    pub revoked: bool,
}

/// What an anonymous signup may do.
const FREE_TIER: [&str; 8] = [
    "scope.read.*",
    "scope.write",
    "scope.create.*",
    "forget.cascade.derived_only",
    "blob.upload",
    "blob.read",
    "understanding.*",
    "audit.read",
];

/// What a free tier lacks.
const FULL_ONLY: [&str; 6] = [
    "forget.cascade.redact_events",
    "forget.gdpr",
    "scope.write.on_behalf_of",
    "scope.write.about_other",
    "diagnostics.read",
    "auth.mint",
];

impl Credential {
    /// The operator key of a self-hosted server; may do everything.
    pub fn static_key(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            issuer: Issuer::StaticApiKey,
            actor: "user:local".to_owned(),
            capabilities: Self::full(),
            tier: "operator".to_owned(),
            expires_at: None,
            revoked: false,
        }
    }

    /// A signed token that may do everything.
    pub fn signed(key: &str, actor: &str) -> Self {
        Self {
            issuer: Issuer::Signed("https://issuer.invalid".to_owned()),
            actor: actor.to_owned(),
            tier: "paid".to_owned(),
            ..Self::static_key(key)
        }
    }

    /// A signed token from an anonymous signup.
    pub fn free_tier(key: &str, actor: &str) -> Self {
        Self {
            capabilities: FREE_TIER.map(str::to_owned).to_vec(),
            tier: "free".to_owned(),
            ..Self::signed(key, actor)
        }
    }

    /// A deployment without authentication.
    pub fn auth_disabled() -> Self {
        Self {
            issuer: Issuer::AuthDisabled,
            ..Self::static_key("")
        }
    }

    /// Every capability there is.
    pub fn full() -> Vec<String> {
        FREE_TIER
            .iter()
            .chain(&FULL_ONLY)
            .map(|&capability| capability.to_owned())
            .collect()
    }

    /// Takes one capability away.
    #[must_use]
    pub fn without(mut self, capability: &str) -> Self {
        self.capabilities.retain(|held| held != capability);
        self
    }
}

/// Somebody who was let in.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) actor: String,
    pub(crate) credential: Credential,
}

impl Caller {
    pub(crate) fn demand(&self, capability: &str) -> Result<(), ApiError> {
        let held = self.credential.capabilities.iter().any(|held| {
            held == capability
                || held
                    .strip_suffix('*')
                    .is_some_and(|prefix| prefix.ends_with('.') && capability.starts_with(prefix))
        });
        if held {
            Ok(())
        } else {
            Err(ApiError::denied(capability, &self.credential.tier))
        }
    }

    /// The headers that every authenticated call gets.
    pub(crate) fn headers(
        &self,
        capability: &str,
        now: DateTime<Utc>,
    ) -> Vec<(&'static str, String)> {
        /// What a static key reports as its remaining life; larger than any duration type in use.
        const FOREVER: i64 = 4_611_686_016_638_011_224;
        let tier = &self.credential.tier;
        let left = self
            .credential
            .expires_at
            .map(|at| (at - now).num_seconds());
        let expires_at = self.credential.expires_at.map(rfc3339).unwrap_or_default();
        let mut headers = vec![
            (
                "X-Cortex-Policy",
                format!("tier={tier}; decision=allow; capability={capability}"),
            ),
            ("X-Cortex-Stability", "stable".to_owned()),
            (
                "X-Cortex-Token-Expires-In",
                left.unwrap_or(FOREVER).to_string(),
            ),
            ("X-Cortex-Token-Expires-At", expires_at),
        ];
        if left.is_some_and(|seconds| seconds <= 72 * 3600) {
            headers.push(("Warning", "199 - \"token expires soon\"".to_owned()));
        }
        headers
    }
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Finds out who calls.
pub(crate) fn authenticate(
    credentials: &[Credential],
    options: &Options,
    bearer: Option<&str>,
    actor: Option<&str>,
) -> Result<Caller, ApiError> {
    let open = credentials
        .iter()
        .find(|credential| credential.issuer == Issuer::AuthDisabled);
    let credential = match (open, bearer) {
        (Some(open), _) => open,
        (None, None) => return Err(ApiError::new(401, "MISSING_TOKEN", "no bearer token")),
        (None, Some(bearer)) => credentials
            .iter()
            .find(|credential| credential.key == bearer)
            .ok_or_else(|| ApiError::new(401, "INVALID_TOKEN_SIGNATURE", "unknown token"))?,
    };
    if credential.revoked {
        return Err(ApiError::new(401, "REVOKED_TOKEN", "the token was revoked"));
    }
    if credential
        .expires_at
        .is_some_and(|at| at <= options.clock.now())
    {
        let code = if options.token_expired_code {
            "TOKEN_EXPIRED"
        } else {
            "EXPIRED_TOKEN"
        };
        return Err(ApiError::new(401, code, "the token has expired"));
    }
    let mismatch = |message: &str| ApiError::new(401, "ACTOR_MISMATCH", message);
    let actor = match (&credential.issuer, actor) {
        (Issuer::Signed(_), None) => return Err(mismatch("X-Cortex-Actor is missing")),
        (Issuer::Signed(_), Some(actor)) if actor != credential.actor => {
            return Err(mismatch("X-Cortex-Actor is not the token's subject"));
        }
        (_, None) => credential.actor.as_str(),
        (_, Some(actor)) if is_actor_id(actor) => actor,
        (_, Some(_)) => return Err(mismatch("X-Cortex-Actor is not kind:local")),
    };
    Ok(Caller {
        actor: actor.to_owned(),
        credential: credential.clone(),
    })
}

pub(crate) fn whoami(options: &Options, caller: &Caller) -> Reply {
    let credential = &caller.credential;
    Reply::json(
        200,
        json!({
            "caller": caller.actor,
            "tenant_id": options.tenant_id,
            "deployment_preset": options.deployment_preset,
            "token": {
                "jti": format!("jti_{}", &sha256_hex(credential.key.as_bytes())[..16]),
                "iss": credential.issuer.name(),
                "exp": credential.expires_at.map_or(Value::Null, |at| json!(at.timestamp())),
            },
            "effective_capabilities": credential.capabilities,
        }),
    )
}

pub(crate) fn signup(cortex: &Cortex, options: &Options) -> Result<Reply, ApiError> {
    if !options.signup {
        let mut error = ApiError::new(503, "NOT_CONFIGURED", "this deployment mints no tokens");
        error.retriable = false;
        return Err(error);
    }
    let id = cortex.random_hex(16);
    let actor = format!("user:u_{id}");
    let token = format!("v4.public.{}", cortex.random_hex(48));
    let expires_at = in_seven_days(&options.clock);
    let mut credential = Credential::free_tier(&token, &actor);
    credential.expires_at = Some(expires_at);
    cortex.add_credential(credential);
    Ok(Reply::json(
        200,
        json!({
            "token": token,
            "jti": format!("jti_{}", cortex.random_hex(16)),
            "expires_at": rfc3339(expires_at),
            "user_id": actor,
            "scope": format!("org:u_{id}/user:u_{id}"),
            "tier": "free",
        }),
    ))
}

fn in_seven_days(clock: &Clock) -> DateTime<Utc> {
    clock.now() + TimeDelta::days(7)
}
