//! The mapper {{name}}.

mod bindings {
    wit_bindgen::generate!({ path: "wit", world: "mapper" });

    #[cfg(target_arch = "wasm32")]
    export!(Component with_types_in self);
    #[cfg(target_arch = "wasm32")]
    use super::Component;
}

use bindings::cortexdb::connector::log;
use bindings::cortexdb::connector::types::Experience;
use bindings::exports::cortexdb::connector::transform::{Guest, MapperDescription};
use serde::Deserialize;

/// What the user may choose: `--mapper-config FILE.json`, checked against this schema before `apply` is called.
const SETTINGS_SCHEMA: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "drop": { "type": "array", "items": { "type": "string" }, "default": [], "description": "Kinds of record to leave out, such as pipeline." }
  }
}"#;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    drop: Vec<String>,
}

struct Component;

impl Guest for Component {
    fn describe() -> MapperDescription {
        MapperDescription {
            name: "{{name}}".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "Leaves out the kinds of record that are named.".to_owned(),
            settings_schema: SETTINGS_SCHEMA.to_owned(),
        }
    }

    fn apply(settings: String, batch: Vec<Experience>) -> Vec<Result<Vec<Experience>, String>> {
        // A trap alone says nothing; the panic message goes to the log before it.
        std::panic::set_hook(Box::new(|panic| {
            log::log(log::Level::Error, &panic.to_string(), &[]);
        }));
        let settings: Settings =
            serde_json::from_str(&settings).expect("settings that fit the schema");
        // One answer for each experience, in the same order.
        batch
            .into_iter()
            .map(|experience| map(&settings, experience))
            .collect()
    }
}

/// What takes the place of one experience: none drops it, several split it, an error makes it a dead letter with those words.
fn map(settings: &Settings, experience: Experience) -> Result<Vec<Experience>, String> {
    if settings.drop.contains(&experience.event_type) {
        return Ok(Vec::new());
    }
    Ok(vec![experience])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::cortexdb::connector::types::Modality;

    fn experience(event_type: &str) -> Experience {
        Experience {
            source_id: format!("gl:{event_type}:42/1"),
            event_type: event_type.to_owned(),
            modality: Modality::Document,
            content: "text".to_owned(),
            observed_at: "2026-11-22T10:00:00Z".to_owned(),
            recorded_at: None,
            author: None,
            labels: Vec::new(),
            attributes: Vec::new(),
            preceded_by: Vec::new(),
            thread: None,
        }
    }

    #[test]
    fn only_what_is_named_is_left_out() {
        let settings: Settings = serde_json::from_str(r#"{"drop": ["pipeline"]}"#).unwrap();
        assert_eq!(map(&settings, experience("pipeline")).unwrap().len(), 0);
        assert_eq!(map(&settings, experience("issue")).unwrap().len(), 1);
    }
}
