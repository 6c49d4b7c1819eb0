//! `runtime inspect`: what a component is, before anybody runs it.

use serde_json::{Value, json};

use super::args::InspectArguments;
use super::prepare::{load, quiet_reporter};
use super::{USAGE, complain, say};
use crate::host::connector::{Description, LoadError};
use crate::sandbox::admission::{Refusal, Report};
use crate::sandbox::inspect::{Inspection, World, shown};
use crate::sandbox::limits::Limits;

pub(super) async fn inspect(arguments: InspectArguments) -> u8 {
    let mut report = Report::default();
    let loaded = load(
        &arguments.component,
        Limits::default(),
        &quiet_reporter(),
        &mut report,
    )
    .await;
    let (description, refusal) = match &loaded {
        Ok(connector) => (Some(&connector.description), None),
        Err(LoadError::Refused(Refusal::Unreadable { .. })) => {
            complain(
                &loaded
                    .err()
                    .map(|error| error.to_string())
                    .unwrap_or_default(),
            );
            return USAGE;
        }
        // Admitted, and not a world that is described here.
        Err(LoadError::NotAConnector) => (None, None),
        Err(error) => (None, Some(error.to_string())),
    };
    if arguments.json {
        let json = to_json(&report, description, refusal.as_deref());
        say(&json.to_string());
    } else {
        if let Some(inspection) = &report.inspection {
            show(inspection, description);
        }
        show_findings(&report);
    }
    if let Some(refusal) = refusal {
        complain(&refusal);
        return 1;
    }
    0
}

fn to_json(report: &Report, description: Option<&Description>, refusal: Option<&str>) -> Value {
    let inspection = report.inspection.as_ref();
    json!({
        "world": inspection.and_then(|inspection| inspection.world),
        "bytes": inspection.map(|inspection| inspection.bytes),
        "digest": inspection.map(|inspection| &inspection.digest),
        "imports": inspection.map(|inspection| shown(&inspection.imports)),
        "exports": inspection.map(|inspection| shown(&inspection.exports)),
        "refused_imports": inspection.map(|inspection| shown(&inspection.refused_imports)),
        "refusal": refusal,
        "admission": report.findings,
        "admitted_before": report.from_cache,
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

pub(super) fn show(inspection: &Inspection, description: Option<&Description>) {
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
    list("imports", &shown(&inspection.imports));
    list("exports", &shown(&inspection.exports));
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

/// One row a rule: what was measured, what is allowed, whether that is kept.
pub(super) fn show_findings(report: &Report) {
    say("");
    say(&format!(
        "{:<30}{:>14}{:>14}  {}",
        "rule", "measured", "limit", ""
    ));
    for finding in &report.findings {
        let verdict = if finding.ok { "ok" } else { "REFUSED" };
        let words = if finding.measured.is_none() && finding.ok {
            format!("  {}", finding.words)
        } else {
            String::new()
        };
        say(&format!(
            "{:<30}{:>14}{:>14}  {verdict}{words}",
            finding.rule,
            finding.show(finding.measured),
            finding.show(finding.limit)
        ));
    }
    if report.from_cache {
        say("its code was checked and compiled before, under these rules");
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
