//! What a tenant says of a connection, and the [`Plan`] that a run makes of it.
//!
//! The stored form is that of the configuration file of `runtime run`, without its secrets, which are sealed apart, and without every path:
//! a tenant names no file of this machine, reads no variable of its environment and reaches no network of its own that the operator has
//! not named. [`plan_of`] is the only way from a stored connection to a run, so what the API has accepted is what the worker runs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::secrets::{Place, SecretError, Secrets};
use super::settings::{TenantRules, exceeded, set_limits};
use crate::config::{ConfigError, Plan, base_url, plan_of_owner};
use crate::cortexdb::client::DEFAULT_URL;
use crate::egress::Policy;
use crate::egress::grants::Grant;
use crate::hooks::proof::check_signing_token;
use crate::host::connector::Description;
use crate::host::schema::check_settings;
use crate::redact::Secret;
use crate::sandbox::limits::Limit;
use crate::source::client::Authentication;
use connector_store::platform::{Connection, UNLIMITED_MEMORY};

/// How long failing may be tolerated by the run of a connection, which keeps a worker meanwhile.
pub const LONGEST_PATIENCE: Duration = Duration::from_secs(15 * 60);
/// The shortest time between two runs of a connection.
pub const SHORTEST_INTERVAL_SECONDS: u64 = 5;
/// Secrets that were replaced and are remembered.
const MOST_REPLACED: usize = 4;
/// The longest secret that a tenant may store.
const MAX_SECRET_BYTES: usize = 16 << 10;

/// What is wrong with a connection: the field, and the words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {words}")]
pub struct FieldError {
    /// `config.source.url`.
    pub field: String,
    /// What is wrong, and what to write.
    pub words: String,
}

impl FieldError {
    pub(super) fn new(field: &str, words: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            words: words.into(),
        }
    }
}

/// Everything of a connection that is no secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionConfig {
    /// Where to read.
    pub source: SourceConfig,
    /// The connector's own settings, as its schema has them.
    #[schema(value_type = Object)]
    pub settings: Map<String, Value>,
    /// Where to write.
    pub cortexdb: CortexConfig,
    /// When to run.
    pub run: RunConfig,
    /// Whether webhooks are registered for this connection, where the platform has a public address.
    pub realtime: bool,
    /// Limits of its components, by name: a number, `"256MiB"` or `"30s"`. At most what the platform allows.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    pub limits: BTreeMap<String, Value>,
    /// What becomes of a run where a mapper is stopped: `fail` (default) or `skip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "fail")]
    pub on_trap: Option<String>,
    /// Whether records are kept as they were before the mappers, `true` where absent. A dry run needs them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_recorded: Option<bool>,
    /// The room for them, `"1GiB"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recorded_most: Option<String>,
}

/// Where to read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SourceConfig {
    /// Base address. Absent: the connector's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://gitlab.com")]
    pub url: Option<String>,
    /// Networks that are not public and may be dialled, `10.1.0.0/16`. The operator must allow them, too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_networks: Vec<String>,
    /// Time limits of one request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<TimeoutConfig>,
}

/// Time limits of one request, `"30s"`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "as in the configuration file")]
pub struct TimeoutConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole: Option<String>,
}

/// Where to write.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CortexConfig {
    /// Base address. Absent: the vendor's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Who writes. Absent: the key's own caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "user:ada")]
    pub actor: Option<String>,
    /// The tenant of CortexDB that the key must belong to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Where records go. Absent: the connector's default, if that needs no organisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "org:acme/source:gitlab/project:{project_path}")]
    pub scope_template: Option<String>,
}

/// When to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Between two runs, `"60s"` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "5m")]
    pub interval: Option<String>,
    /// Between two runs that compare everything and forget what is gone, `"24h"` where absent, `"0"` for never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reconcile_every: Option<String>,
    /// How long a server may fail before a request is given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<String>,
    /// Nothing older is read, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// Fields that are secrets. They go in and never come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretField {
    /// The source's token.
    SourceToken,
    /// CortexDB's key.
    CortexdbApiKey,
    /// Shown by the source with every webhook call.
    WebhookSecret,
    /// The source signs webhook calls with it (`whsec_…`).
    WebhookSigningToken,
}

impl SecretField {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::SourceToken,
        Self::CortexdbApiKey,
        Self::WebhookSecret,
        Self::WebhookSigningToken,
    ];

    /// Its name in the API and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SourceToken => "source_token",
            Self::CortexdbApiKey => "cortexdb_api_key",
            Self::WebhookSecret => "webhook_secret",
            Self::WebhookSigningToken => "webhook_signing_token",
        }
    }

    /// Where the store has what it was before: of what calls are proved with, because those of the old one may still be on the way.
    pub(super) fn before(self) -> Option<&'static str> {
        match self {
            Self::SourceToken | Self::CortexdbApiKey => None,
            Self::WebhookSecret => Some("webhook_secret_before"),
            Self::WebhookSigningToken => Some("webhook_signing_token_before"),
        }
    }
}

/// The secrets of one connection, opened.
#[derive(Debug, Clone, Default)]
pub struct OpenedSecrets {
    now: BTreeMap<&'static str, Secret>,
    /// What they were before, and since when they are not, newest first.
    before: BTreeMap<&'static str, Vec<(i64, Secret)>>,
}

impl OpenedSecrets {
    /// Opens what is sealed in a connection.
    pub fn of(connection: &Connection, secrets: &Secrets) -> Result<Self, SecretError> {
        let open = |field: &'static str| {
            let sealed = connection.sealed.get(field)?;
            let place = Place {
                tenant: &connection.tenant,
                connection: &connection.id,
                field,
            };
            Some(secrets.open_value(place, sealed))
        };
        let mut opened = Self::default();
        for field in SecretField::ALL {
            if let Some(secret) = open(field.as_str()).transpose()? {
                opened.now.insert(field.as_str(), secret);
            }
            if let Some(kept) = field.before().and_then(open).transpose()? {
                let lines = kept.reveal().lines().filter_map(|line| {
                    let (since, secret) = line.split_once(' ')?;
                    Some((since.parse().ok()?, Secret::new(secret)))
                });
                opened.before.insert(field.as_str(), lines.collect());
            }
        }
        Ok(opened)
    }

    /// What is sealed as [`SecretField::before`] when this one is replaced now: it, and the few before it.
    pub(super) fn replaced(&self, field: SecretField, now: i64) -> Option<String> {
        let current = (now, self.get(field)?.clone());
        let before = self.before.get(field.as_str()).into_iter().flatten();
        let lines = std::iter::once(&current)
            .chain(before)
            .take(MOST_REPLACED)
            .map(|(at, secret)| format!("{at} {}\n", secret.reveal()));
        Some(lines.collect())
    }

    /// What this one was before, and was replaced at or after this time, in seconds since 1970; newest first.
    pub fn replaced_since(&self, field: SecretField, since: i64) -> impl Iterator<Item = &Secret> {
        let before = self.before.get(field.as_str()).into_iter().flatten();
        before
            .filter(move |(at, _)| *at >= since)
            .map(|(_, secret)| secret)
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, field: SecretField) -> Option<&Secret> {
        self.now.get(field.as_str())
    }

    /// All of them, for the redactor.
    pub fn all(&self) -> impl Iterator<Item = Secret> {
        let before = self.before.values().flatten().map(|(_, secret)| secret);
        self.now.values().chain(before).cloned()
    }

    pub(super) fn set(&mut self, field: SecretField, value: Option<&str>) {
        match value {
            Some(value) => self.now.insert(field.as_str(), Secret::new(value)),
            None => self.now.remove(field.as_str()),
        };
    }
}

/// A secret as somebody sent it: of a length and of characters that a header can carry.
pub(super) fn check_secret(field: SecretField, value: &str) -> Result<(), FieldError> {
    let name = format!("secrets.{}", field.as_str());
    if value.len() > MAX_SECRET_BYTES {
        return Err(FieldError::new(
            &name,
            format!("{} bytes; at most {MAX_SECRET_BYTES}", value.len()),
        ));
    }
    if value.is_empty() || !value.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) {
        return Err(FieldError::new(
            &name,
            "it is empty or holds characters that no token has (white space, quotes of another alphabet); copy it again",
        ));
    }
    if field == SecretField::WebhookSigningToken {
        check_signing_token(value).map_err(|words| FieldError::new(&name, words))?;
    }
    Ok(())
}

/// The connection as a run needs it. The worker and the API use the same, so that nothing is accepted that cannot run.
pub fn plan_of(
    config: &ConnectionConfig,
    secrets: &OpenedSecrets,
    description: &Description,
    rules: &TenantRules,
) -> Result<Plan, FieldError> {
    let anonymous = description
        .authentication
        .contains(&Authentication::Anonymous);
    if secrets.get(SecretField::SourceToken).is_none() && !anonymous {
        let wanted: Vec<String> = description
            .permissions
            .iter()
            .map(|(name, reason)| format!("`{name}` ({reason})"))
            .collect();
        return Err(FieldError::new(
            "secrets.source_token",
            format!(
                "the connector {} needs a token with {}",
                description.name,
                wanted.join(", ")
            ),
        ));
    }
    if secrets.get(SecretField::CortexdbApiKey).is_none() {
        return Err(FieldError::new(
            "secrets.cortexdb_api_key",
            "a key of CortexDB is needed to write",
        ));
    }
    let source_url = config
        .source
        .url
        .clone()
        .or(description.default_url.clone());
    let Some(source_url) = source_url else {
        return Err(FieldError::new(
            "config.source.url",
            format!("the connector {} has no default address", description.name),
        ));
    };
    let source_url = url_field("config.source.url", &source_url)?;
    let source_egress = Policy::public_and(granted(&config.source.allowed_networks, rules)?);
    source_egress
        .check_url(&source_url)
        .map_err(|refusal| FieldError::new("config.source.url", refusal.to_string()))?;
    let cortex_url = config.cortexdb.url.as_deref().unwrap_or(DEFAULT_URL);
    let cortex_url = url_field("config.cortexdb.url", cortex_url)?;
    let cortex_egress = Policy::public_and(rules.cortexdb_networks.clone());
    cortex_egress
        .check_url(&cortex_url)
        .map_err(|refusal| FieldError::new("config.cortexdb.url", refusal.to_string()))?;
    let template = config
        .cortexdb
        .scope_template
        .as_deref()
        .unwrap_or(&description.default_scope_template);
    for (placeholder, words) in [
        ("<org>", "write the organisation out instead of `<org>`"),
        (
            "{scope}",
            "`{scope}` is what `cortexdb init` stores on one's own machine; write the scope out",
        ),
    ] {
        if template.contains(placeholder) {
            return Err(FieldError::new(
                "config.cortexdb.scope_template",
                format!(
                    "`{template}`: {words}, for example `{}`",
                    description.default_scope_template.replace("<org>", "acme")
                ),
            ));
        }
    }
    let limits = set_limits(rules.limits, "config.limits", &config.limits)
        .map_err(|error| FieldError::new("config.limits", error.to_string()))?;
    if let Some(words) = exceeded(&limits, &rules.limits) {
        return Err(FieldError::new("config.limits", words));
    }
    check_settings(
        &format!("connector {}", description.name),
        &description.settings_schema,
        &Value::Object(config.settings.clone()),
    )
    .map_err(|words| FieldError::new("config.settings", words))?;
    let mut plan = plan_of_owner(description, file_form(config, secrets), cortex_egress)
        .map_err(|error: ConfigError| FieldError::new("config", error.to_string()))?;
    if plan.interval.as_secs() < SHORTEST_INTERVAL_SECONDS {
        return Err(FieldError::new(
            "config.run.interval",
            format!("at least {SHORTEST_INTERVAL_SECONDS}s"),
        ));
    }
    if plan.patience > LONGEST_PATIENCE {
        return Err(FieldError::new(
            "config.run.patience",
            format!(
                "at most {} minutes: a run that waits for its servers keeps a worker from others, and is tried again in any case",
                LONGEST_PATIENCE.as_secs() / 60
            ),
        ));
    }
    plan.limits = limits;
    Ok(plan)
}

fn url_field(field: &str, text: &str) -> Result<url::Url, FieldError> {
    base_url(text, field).map_err(|error| {
        let words = error.to_string();
        let words = words.strip_prefix(field).unwrap_or(&words);
        FieldError::new(field, words.trim_start())
    })
}

/// Networks that both the tenant and the operator name.
fn granted(networks: &[String], rules: &TenantRules) -> Result<Vec<Grant>, FieldError> {
    let field = "config.source.allowed_networks";
    networks
        .iter()
        .map(|text| {
            let grant = Grant::parse(text).map_err(|words| FieldError::new(field, words))?;
            let allowed = rules.source_networks.iter();
            if allowed.into_iter().any(|whole| grant.is_within(whole)) {
                return Ok(grant);
            }
            Err(FieldError::new(
                field,
                format!(
                    "{grant} is not among the networks that the operator of this platform lets connections reach (`tenants.source_networks`)"
                ),
            ))
        })
        .collect()
}

/// The configuration file that says the same.
fn file_form(config: &ConnectionConfig, secrets: &OpenedSecrets) -> Value {
    let secret = |field| secrets.get(field).map(Secret::reveal);
    json!({
        "source": {
            "url": config.source.url,
            "token": secret(SecretField::SourceToken),
            // Always there: without it the source could be anywhere.
            "allowed_networks": config.source.allowed_networks,
            "timeouts": config.source.timeouts.clone().unwrap_or_default(),
        },
        "settings": config.settings,
        "cortexdb": {
            "url": config.cortexdb.url,
            "api_key": secret(SecretField::CortexdbApiKey),
            "actor": config.cortexdb.actor,
            "tenant_id": config.cortexdb.tenant_id,
            "scope_template": config.cortexdb.scope_template,
        },
        "run": {
            "interval": config.run.interval,
            "reconcile_every": config.run.reconcile_every,
            "patience": config.run.patience,
            "since": config.run.since,
        },
        "mappers": { "on_trap": config.on_trap },
        "recorded": { "keep": config.keep_recorded.unwrap_or(true), "most": config.recorded_most },
    })
}

/// What the components of one run may take together, as it is counted against the tenant's cap.
#[must_use]
pub fn memory_of(plan: &Plan, components: usize) -> u64 {
    let each = plan.limits.get(Limit::Memory).unwrap_or(u64::MAX);
    each.saturating_mul(components as u64).min(UNLIMITED_MEMORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn gitlab() -> Description {
        Description {
            name: "gitlab".into(),
            version: "0.1.0".into(),
            summary: String::new(),
            event_types: vec![],
            settings_schema: json!({"type": "object", "additionalProperties": false, "properties": {
                "projects": {"type": "array", "items": {"type": "string"}, "x-env": "GITLAB_PROJECT_IDS"}
            }}),
            default_url: Some("https://gitlab.com".into()),
            authentication: vec![Authentication::Bearer],
            permissions: vec![("read_api".into(), "reading".into())],
            scope_variables: vec!["project_path".into()],
            default_scope_template: "org:<org>/source:gitlab/project:{project_path}".into(),
        }
    }

    fn opened() -> OpenedSecrets {
        let mut secrets = OpenedSecrets::default();
        secrets.set(SecretField::SourceToken, Some("glpat-12345"));
        secrets.set(SecretField::CortexdbApiKey, Some("ck-12345"));
        secrets
    }

    fn config(value: Value) -> ConnectionConfig {
        let mut config: ConnectionConfig = serde_json::from_value(value).unwrap();
        config
            .cortexdb
            .scope_template
            .get_or_insert("org:acme/source:gitlab/project:{project_path}".into());
        config
    }

    fn plan(value: Value, rules: &TenantRules) -> Result<Plan, FieldError> {
        plan_of(&config(value), &opened(), &gitlab(), rules)
    }

    #[test]
    fn a_connection_with_its_secrets_is_a_plan() {
        let plan = plan(
            json!({"settings": {"projects": ["a/b"]}, "run": {"interval": "5m"}}),
            &TenantRules::default(),
        )
        .unwrap();
        assert_eq!(plan.source.url.as_str(), "https://gitlab.com/");
        assert_eq!(plan.settings, json!({"projects": ["a/b"]}));
        assert_eq!(plan.interval.as_secs(), 300);
        assert!(plan.source.egress.is_strict() && plan.cortex.egress.is_strict());
        assert!(plan.source.unused_proxies.is_empty());
        assert!(plan.stored_scope.is_none() && plan.source.ca_file.is_none());
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_field() {
        for (value, field) in [
            (json!({"source": {"url": "ftp://x"}}), "config.source.url"),
            (
                json!({"source": {"url": "https://u:p@x"}}),
                "config.source.url",
            ),
            (
                json!({"source": {"url": "http://127.0.0.1"}}),
                "config.source.url",
            ),
            (
                json!({"source": {"url": "http://0x7f.1"}}),
                "config.source.url",
            ),
            (
                json!({"source": {"url": "http://169.254.169.254"}}),
                "config.source.url",
            ),
            (
                json!({"source": {"allowed_networks": ["10.0.0.0/8"]}}),
                "config.source.allowed_networks",
            ),
            (
                json!({"source": {"allowed_networks": ["here"]}}),
                "config.source.allowed_networks",
            ),
            (
                json!({"cortexdb": {"url": "http://10.0.0.1"}}),
                "config.cortexdb.url",
            ),
            (
                json!({"cortexdb": {"scope_template": "org:<org>"}}),
                "config.cortexdb.scope_template",
            ),
            (
                json!({"cortexdb": {"scope_template": "{scope}"}}),
                "config.cortexdb.scope_template",
            ),
            (json!({"limits": {"memory": "4GiB"}}), "config.limits"),
            (json!({"limits": {"memry": "1MiB"}}), "config.limits"),
            (json!({"limits": {"memory": [1]}}), "config.limits"),
            (json!({"settings": {"projects": "a"}}), "config.settings"),
            (json!({"settings": {"unknown": true}}), "config.settings"),
            (json!({"run": {"interval": "1s"}}), "config.run.interval"),
            (json!({"run": {"interval": "soon"}}), "config"),
            (json!({"run": {"since": "yesterday"}}), "config"),
            (json!({"on_trap": "shrug"}), "config"),
        ] {
            let error = plan(value.clone(), &TenantRules::default()).unwrap_err();
            assert_eq!(error.field, field, "{value}: {error}");
        }
    }

    #[test]
    fn a_private_network_needs_the_tenants_word_and_the_operators() {
        let rules = TenantRules {
            source_networks: vec![Grant::parse("10.0.0.0/8").unwrap()],
            cortexdb_networks: vec![Grant::parse("127.0.0.1").unwrap()],
            ..TenantRules::default()
        };
        let named = json!({"source": {"url": "http://10.1.2.3", "allowed_networks": ["10.1.0.0/16"]},
            "cortexdb": {"url": "http://127.0.0.1:1"}});
        plan(named, &rules).unwrap();
        let unnamed = json!({"source": {"url": "http://10.1.2.3"}});
        assert_eq!(
            plan(unnamed, &rules).unwrap_err().field,
            "config.source.url"
        );
        let wider = json!({"source": {"allowed_networks": ["0.0.0.0/0"]}});
        assert_eq!(
            plan(wider, &rules).unwrap_err().field,
            "config.source.allowed_networks"
        );
    }

    #[test]
    fn a_missing_secret_is_named_and_no_secret_is_shown() {
        let error = plan_of(
            &config(json!({})),
            &OpenedSecrets::default(),
            &gitlab(),
            &TenantRules::default(),
        )
        .unwrap_err();
        assert_eq!(error.field, "secrets.source_token");
        let shown = format!("{:?}", opened());
        assert!(!shown.contains("12345"), "{shown}");
    }

    /// A tenant names no file and no variable of this machine.
    #[test]
    fn the_stored_form_has_no_place_for_files_and_secrets() {
        for value in [
            json!({"source": {"token_file": "/etc/shadow"}}),
            json!({"source": {"ca_file": "/etc/shadow"}}),
            json!({"source": {"token": "x"}}),
            json!({"cortexdb": {"api_key": "x"}}),
            json!({"cortexdb": {"api_key_file": "/etc/shadow"}}),
            json!({"run": {"state_file": "/tmp/x"}}),
            json!({"mappers": {"chain": []}}),
        ] {
            assert!(
                serde_json::from_value::<ConnectionConfig>(value.clone()).is_err(),
                "{value}"
            );
        }
    }

    #[test]
    fn a_secret_that_no_header_carries_is_refused_without_showing_it() {
        for value in [
            "",
            "a b",
            "gl\u{201c}pat",
            &"x".repeat(MAX_SECRET_BYTES + 1),
        ] {
            let error = check_secret(SecretField::SourceToken, value).unwrap_err();
            assert!(value.len() < 3 || !error.words.contains(value), "{error}");
        }
        check_secret(SecretField::SourceToken, "glpat-12345").unwrap();
    }
}
