//! Who the token is and what it may do, asked once before anything is read.
//!
//! A free-tier token cannot name another actor and cannot redact. Finding that out from a refused batch would mean a refused run;
//! finding it out here means that the field is not sent and the user is told once.

use reqwest::Method;
use serde_json::Value;

use super::client::{Client, CortexError};

/// Issuers whose tokens belong to no particular actor: the caller may be adopted.
const OPERATOR_ISSUERS: [&str; 2] = ["static-api-key", "auth-disabled"];

/// The answer of `GET /v1/auth/whoami`.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The actor that the server sees.
    pub caller: String,
    /// The tenant; part of the ledger's name.
    pub tenant_id: String,
    capabilities: Vec<String>,
}

impl Identity {
    /// Whether the token may do this. A server that lists no capabilities is taken at its word only when it refuses.
    #[must_use]
    pub fn may(&self, capability: &str) -> bool {
        self.capabilities.is_empty() || self.lists(capability)
    }

    /// Whether the capability is listed, by name or by a wildcard such as `scope.*`.
    #[must_use]
    pub fn lists(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|listed| {
            listed == capability
                || listed
                    .strip_suffix('*')
                    .is_some_and(|prefix| capability.starts_with(prefix))
        })
    }
}

/// Asks who we are, adopts the caller of an operator key when no actor is configured, and checks that writing is possible at all.
pub async fn identify(
    client: Client,
    expected_tenant: Option<&str>,
) -> Result<(Client, Identity), CortexError> {
    let answer = client.call(Method::GET, "/v1/auth/whoami", None).await.map_err(|error| match error {
        CortexError::Refused(refusal) => CortexError::Misconfigured(format!(
            "{} does not look like CortexDB: GET /v1/auth/whoami answers {refusal}. Check CORTEXDB_URL",
            client.url()
        )),
        other => other,
    })?;
    let text = |name: &str| {
        answer
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let identity = Identity {
        caller: text("caller"),
        tenant_id: text("tenant_id"),
        capabilities: answer
            .get("effective_capabilities")
            .and_then(Value::as_array)
            .map(|list| {
                list.iter()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect()
            })
            .unwrap_or_default(),
    };
    let issuer = answer
        .pointer("/token/iss")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if identity.tenant_id.is_empty() {
        return Err(CortexError::Misconfigured("CortexDB's whoami names no tenant; the ledger cannot be kept apart. Check CORTEXDB_URL".into()));
    }
    if let Some(expected) = expected_tenant
        && expected != identity.tenant_id
    {
        return Err(CortexError::Misconfigured(format!(
            "CORTEXDB_TENANT_ID is `{expected}`, but the token belongs to `{}`. Nothing was written",
            identity.tenant_id
        )));
    }
    let client = match client.actor().map(str::to_owned) {
        Some(actor) if actor == identity.caller => client,
        Some(actor) => {
            return Err(CortexError::Misconfigured(format!(
                "the configured actor is `{actor}`, but the token belongs to `{}`. Set CORTEXDB_ACTOR to it",
                identity.caller
            )));
        }
        None if OPERATOR_ISSUERS.contains(&issuer) && !identity.caller.is_empty() => {
            client.with_actor(identity.caller.clone())
        }
        None => {
            return Err(CortexError::Misconfigured(
                "no CortexDB actor: set CORTEXDB_ACTOR (for example user:ada), or run `cortexdb init`, which stores it".into(),
            ));
        }
    };
    if !identity.may("scope.write") {
        return Err(CortexError::Standing(format!(
            "the token of `{}` may not write (capability `scope.write` is missing). Use a token that may",
            identity.caller
        )));
    }
    Ok((client, identity))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(capabilities: &[&str]) -> Identity {
        Identity {
            caller: "user:ada".into(),
            tenant_id: "t".into(),
            capabilities: capabilities.iter().map(|c| (*c).to_owned()).collect(),
        }
    }

    #[test]
    fn a_wildcard_covers_what_it_begins() {
        let identity = with(&["forget.cascade.*"]);
        assert!(identity.lists("forget.cascade.redact_events"));
        assert!(!identity.lists("scope.write.on_behalf_of"));
    }

    #[test]
    fn a_server_that_lists_nothing_forbids_nothing() {
        assert!(with(&[]).may("scope.write"));
        assert!(!with(&[]).lists("scope.write"));
    }
}
