//! `runtime inspect`: what a component is, before anybody runs it.

use serde_json::{Value, json};

use super::args::InspectArguments;
use super::prepare::{load, quiet_reporter};
use super::{USAGE, complain, say};
use crate::host::connector::Description;
use crate::sandbox::inspect::{Inspection, World, inspect as read};

pub(super) async fn inspect(arguments: InspectArguments) -> u8 {
    let bytes = match std::fs::read(&arguments.component) {
        Ok(bytes) => bytes,
        Err(error) => {
            complain(&format!(
                "cannot read {}: {error}",
                arguments.component.display()
            ));
            return USAGE;
        }
    };
    let inspection = match read(&bytes) {
        Ok(inspection) => inspection,
        Err(error) => {
            complain(&error.to_string());
            return 1;
        }
    };
    let admitted = inspection.admit();
    let loaded = match admitted {
        Ok(World::Connector) => Some(load(&arguments.component, &quiet_reporter()).await),
        _ => None,
    };
    let description = loaded
        .as_ref()
        .and_then(|loaded| loaded.as_ref().ok())
        .map(|connector| &connector.description);
    let refusal = match (&admitted, &loaded) {
        (Err(error), _) => Some(error.to_string()),
        (_, Some(Err(error))) => Some(error.to_string()),
        _ => None,
    };
    if arguments.json {
        say(&to_json(&inspection, description, refusal.as_deref()).to_string());
    } else {
        show(&inspection, description);
    }
    if let Some(refusal) = refusal {
        complain(&refusal);
        return 1;
    }
    0
}

fn to_json(
    inspection: &Inspection,
    description: Option<&Description>,
    refusal: Option<&str>,
) -> Value {
    json!({
        "world": inspection.world,
        "bytes": inspection.bytes,
        "digest": inspection.digest,
        "imports": inspection.imports,
        "exports": inspection.exports,
        "refused_imports": inspection.refused_imports,
        "refusal": refusal,
        "name": description.map(|description| &description.name),
        "version": description.map(|description| &description.version),
        "summary": description.map(|description| &description.summary),
        "event_types": description.map(|description| &description.event_types),
        "permissions": description.map(|description| description.permissions.iter().map(|(name, reason)| json!({"name": name, "reason": reason})).collect::<Vec<_>>()),
        "settings_schema": description.map(|description| &description.settings_schema),
        "scope_variables": description.map(|description| &description.scope_variables),
        "default_scope_template": description.map(|description| &description.default_scope_template),
    })
}

fn show(inspection: &Inspection, description: Option<&Description>) {
    let row = |name: &str, value: &str| say(&format!("{name:<12}{value}"));
    if let Some(description) = description {
        row(
            "name",
            &format!("{} {}", description.name, description.version),
        );
        row("summary", &description.summary);
    }
    row("world", inspection.world.map_or("none", World::as_str));
    row("size", &format!("{} bytes", inspection.bytes));
    row("digest", &inspection.digest);
    list("imports", &inspection.imports);
    list("exports", &inspection.exports);
    if let Some(description) = description {
        list("events", &description.event_types);
        let permissions: Vec<String> = description
            .permissions
            .iter()
            .map(|(name, reason)| format!("{name}: {reason}"))
            .collect();
        list("permissions", &permissions);
        row("scope", &description.default_scope_template);
    }
}

fn list(name: &str, values: &[String]) {
    if values.is_empty() {
        say(&format!("{name:<12}none"));
    }
    for (index, value) in values.iter().enumerate() {
        say(&format!(
            "{:<12}{}",
            if index == 0 { name } else { "" },
            value.escape_debug()
        ));
    }
}
