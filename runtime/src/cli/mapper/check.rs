//! `runtime mapper check`: would this mapper be admitted, and what does it say of itself?

use serde_json::json;

use super::super::args::MapperCheckArguments;
use super::super::inspect::{show, show_findings};
use super::super::{complain, say};
use super::{load, settings_of};
use crate::sandbox::admission::Report;
use crate::sandbox::inspect::shown;
use crate::sandbox::limits::Limits;

pub(super) async fn check(arguments: MapperCheckArguments) -> u8 {
    let settings = match settings_of(arguments.config.as_deref()) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let mut report = Report::default();
    let loaded = load(&arguments.mapper, &settings, Limits::default(), &mut report).await;
    let refusal = loaded.as_ref().err().map(ToString::to_string);
    let description = loaded.as_ref().ok().map(|mapper| &mapper.description);
    if arguments.json {
        let inspection = report.inspection.as_ref();
        let json = json!({
            "description": description,
            "bytes": inspection.map(|inspection| inspection.bytes),
            "digest": inspection.map(|inspection| &inspection.digest),
            "imports": inspection.map(|inspection| shown(&inspection.imports)),
            "admission": report.findings,
            "refusal": refusal,
        });
        say(&json.to_string());
    } else {
        if let Some(description) = description {
            say(&format!(
                "{:<12}{} {}",
                "name", description.name, description.version
            ));
            say(&format!("{:<12}{}", "summary", description.summary));
            say(&format!(
                "{:<12}{}",
                "settings", description.settings_schema
            ));
        }
        if let Some(inspection) = &report.inspection {
            show(inspection, None);
        }
        show_findings(&report);
    }
    let Some(refusal) = refusal else {
        return 0;
    };
    complain(&refusal);
    1
}
