//! Who the token is and what it may do, asked once before anything is read.
//!
//! A free-tier token cannot name another actor and cannot redact. Finding that out from a refused batch would mean a refused run;
//! finding it out here means that the field is not sent and the user is told once.

use http::Method;
use serde_json::Value;

use super::client::{Client, CortexError, WHOAMI_ROUTE};

/// Issuers whose tokens belong to no particular actor: the caller may be adopted.
const OPERATOR_ISSUERS: [&str; 2] = ["static-api-key", "auth-disabled"];

/// The answer of `GET /v1/auth/whoami`.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The actor that the server sees.
    pub caller: String,
    /// The tenant; part of the ledger's name. Where the server names none, the caller stands for it.
    pub tenant_id: String,
    tenant_is_named: bool,
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

/// The longest tenant and caller that are taken.
const MAX_NAME_BYTES: usize = 4096;

/// Reads a reply of whoami. Servers agree on `caller` and `tenant_id`; older descriptions have `actor`, as a text or an object, and
/// some replies have nothing but the caller. `configured` is who we say that we are.
fn read(answer: &Value, configured: Option<&str>) -> Result<Identity, String> {
    let caller = ["/caller", "/actor", "/token/sub"]
        .iter()
        .find_map(|pointer| name(answer.pointer(pointer)?));
    let tenant = ["/tenant_id", "/tenant"]
        .iter()
        .find_map(|pointer| name(answer.pointer(pointer)?));
    let caller = match (caller, &tenant, configured) {
        (Some(caller), _, _) => caller,
        // It accepted the actor that we sent and names a tenant: it only does not repeat the actor.
        (None, Some(_), Some(configured)) => configured.to_owned(),
        (None, ..) => return Err("CortexDB's whoami does not say who the token is".to_owned()),
    };
    for text in [Some(&caller), tenant.as_ref()].into_iter().flatten() {
        if text.len() > MAX_NAME_BYTES || text.chars().any(char::is_control) {
            return Err("CortexDB's whoami names a caller or tenant that is no name".to_owned());
        }
    }
    Ok(Identity {
        tenant_is_named: tenant.is_some(),
        tenant_id: tenant.unwrap_or_else(|| caller.clone()),
        caller,
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
    })
}

/// A name as a text, or as an object with it as `id`, alone or beside its kind.
fn name(value: &Value) -> Option<String> {
    let text = |value: &Value| {
        value
            .as_str()
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let Some(fields) = value.as_object() else {
        return text(value);
    };
    let field = |names: [&str; 2]| names.iter().find_map(|name| text(fields.get(*name)?));
    let id = field(["id", "local"])?;
    match field(["kind", "type"]) {
        Some(kind) if !id.contains(':') => Some(format!("{kind}:{id}")),
        _ => Some(id),
    }
}

fn issuer(answer: &Value) -> &str {
    answer
        .pointer("/token/iss")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Asks who we are, adopts the caller of an operator key when no actor is configured, and checks that writing is possible at all.
pub async fn identify(
    client: Client,
    expected_tenant: Option<&str>,
) -> Result<(Client, Identity), CortexError> {
    let answer = client.call(Method::GET, WHOAMI_ROUTE, None).await.map_err(|error| match error {
        CortexError::Refused(refusal) => CortexError::Misconfigured(format!(
            "{} does not look like CortexDB: GET /v1/auth/whoami answers {refusal}. Check CORTEXDB_URL",
            client.url()
        )),
        other => other,
    })?;
    let identity = read(&answer, client.actor())
        .map_err(|reason| CortexError::Misconfigured(format!("{reason}. Check CORTEXDB_URL")))?;
    let issuer = issuer(&answer);
    if let (Some(expected), false) = (expected_tenant, identity.tenant_is_named) {
        return Err(CortexError::Misconfigured(format!(
            "CORTEXDB_TENANT_ID is `{expected}`, but this CortexDB does not say to which tenant the token belongs. Nothing was written"
        )));
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
        None if OPERATOR_ISSUERS.contains(&issuer) => client.with_actor(identity.caller.clone()),
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
            tenant_is_named: true,
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

    #[test]
    fn every_shape_of_whoami_names_the_caller_and_the_tenant() {
        use serde_json::json;
        let shapes = [
            (
                json!({"caller": "user:ada", "tenant_id": "t", "actor": {"id": "user:other"}}),
                "t",
            ),
            (json!({"caller": "user:ada"}), "user:ada"),
            (
                json!({"caller": {"id": "user:ada", "type": "user"}, "tenant_id": "t"}),
                "t",
            ),
            (
                json!({"actor": "user:ada", "tier": "free", "expires_at": "2027-01-01T00:00:00Z", "tenant_id": "t"}),
                "t",
            ),
            (
                json!({"actor": {"kind": "user", "id": "ada"}, "tenant": {"id": "t"}}),
                "t",
            ),
            (
                json!({"actor": {"type": "user", "local": "ada"}, "tenant": "t"}),
                "t",
            ),
            (
                json!({"caller": "", "actor": null, "token": {"sub": "user:ada"}, "tenant_id": "t"}),
                "t",
            ),
            (json!({"tenant_id": "t"}), "t"),
        ];
        for (shape, tenant) in shapes {
            let identity = read(&shape, Some("user:ada")).unwrap();
            assert_eq!(
                (identity.caller.as_str(), identity.tenant_id.as_str()),
                ("user:ada", tenant),
                "{shape}"
            );
            assert_eq!(identity.tenant_is_named, tenant == "t", "{shape}");
        }
    }

    #[test]
    fn a_reply_that_names_nobody_is_no_whoami() {
        use serde_json::json;
        for (shape, configured) in [
            (json!({}), Some("user:ada")),
            (json!({"tenant_id": "t"}), None),
            (json!([]), Some("user:ada")),
            (json!({"caller": "user:\u{7}", "tenant_id": "t"}), None),
            (
                json!({"caller": "user:ada", "tenant_id": "t".repeat(5000)}),
                None,
            ),
        ] {
            assert!(read(&shape, configured).is_err(), "{shape}");
        }
    }
}
