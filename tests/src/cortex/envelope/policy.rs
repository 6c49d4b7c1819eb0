//! What depends on the deployment: scope types, capture hints, which fields are required.

use serde_json::Value;

use super::{Finding, Kind, scope_segments};

/// The scope types that every shipped preset admits from server 0.10 on.
pub const BUILTIN_SCOPE_TYPES: [&str; 12] = [
    "org", "dept", "team", "app", "user", "agent", "service", "ws", "project", "global", "system",
    "source",
];

/// What this deployment asks of an envelope beyond its shape.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Refuse scope types outside [`BUILTIN_SCOPE_TYPES`] (0.10) or take any (0.9).
    pub closed_scope_types: bool,
    /// Whether `capture_language_v1` is listed: `language`, `scripts` and `context.timezone` may be sent.
    pub capture_language: bool,
    /// Whether `refers_to_v1` is listed.
    pub refers_to: bool,
    /// Demand `context.observed_at` and `idempotency_key` too, as the documentation of June 2026 does.
    pub five_required_fields: bool,
    /// Longest label that is taken.
    pub max_label_bytes: usize,
}

impl Default for Policy {
    /// The strictest reading.
    fn default() -> Self {
        Self {
            closed_scope_types: true,
            capture_language: false,
            refers_to: false,
            five_required_fields: true,
            max_label_bytes: 256,
        }
    }
}

impl Policy {
    pub(super) fn check(&self, envelope: &Value, found: &mut Vec<Finding>) {
        if self.closed_scope_types {
            scope_types("scope", &envelope["scope"], found);
            let into = &envelope["directives"]["consolidate_into"];
            scope_types("directives.consolidate_into", into, found);
        }
        let context = &envelope["context"];
        let gated = [
            (
                "language",
                envelope.get("language"),
                self.capture_language,
                "capture_language_v1",
            ),
            (
                "scripts",
                envelope.get("scripts"),
                self.capture_language,
                "capture_language_v1",
            ),
            (
                "context.timezone",
                context.get("timezone"),
                self.capture_language,
                "capture_language_v1",
            ),
            (
                "context.refers_to",
                context.get("refers_to"),
                self.refers_to,
                "refers_to_v1",
            ),
        ];
        for (field, value, allowed, capability) in gated {
            if value.is_some() && !allowed {
                found.push(Finding::body(
                    field,
                    format!("needs capability {capability}"),
                ));
            }
        }
        let labels = context["labels"].as_array();
        if labels
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .any(|label| label.len() > self.max_label_bytes)
        {
            let reason = format!("a label has more than {} bytes", self.max_label_bytes);
            found.push(Finding::body("context.labels", reason));
        }
        if self.five_required_fields {
            if envelope.get("idempotency_key").is_none() {
                found.push(Finding::body("idempotency_key", "is missing"));
            }
            if context.get("observed_at").is_none() {
                found.push(Finding::body("context.observed_at", "is missing"));
            }
        }
    }
}

fn scope_types(field: &'static str, scope: &Value, found: &mut Vec<Finding>) {
    let segments = scope.as_str().and_then(scope_segments).unwrap_or_default();
    for (kind, _) in segments {
        if !BUILTIN_SCOPE_TYPES.contains(&kind) {
            let reason = format!("scope type {kind:?} is not registered");
            found.push(Finding {
                kind: Kind::ScopeType,
                field,
                reason,
            });
        }
    }
}
