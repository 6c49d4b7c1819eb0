//! A mapper that tidies white space, built for `wasm32-wasip2` as it comes: the standard library imports WASI, and this component makes
//! use of it. It shows that a component of an ordinary toolchain runs in a host whose WASI is empty: there is randomness (for the
//! hash set), standard error (nobody reads it), and neither an environment nor files.

mod bindings {
    wit_bindgen::generate!({ path: "../../../wit", world: "mapper" });

    use super::Component;

    export!(Component with_types_in self);
}

use std::collections::HashSet;

use bindings::cortexdb::connector::types::Experience;
use bindings::exports::cortexdb::connector::transform::{Guest, MapperDescription};

struct Component;

impl Guest for Component {
    fn describe() -> MapperDescription {
        MapperDescription {
            name: "tidy".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "Ends lines where their text ends, and says no label twice.".to_owned(),
            settings_schema: r#"{"type": "object", "additionalProperties": false}"#.to_owned(),
        }
    }

    fn apply(_settings: String, batch: Vec<Experience>) -> Vec<Result<Vec<Experience>, String>> {
        // What an empty WASI has: nothing. A mapper whose answer depended on these would not be pure.
        let surroundings = std::env::vars().count() + usize::from(std::fs::read_dir("/").is_ok());
        eprintln!("{} experiences, {surroundings} things to see", batch.len());
        batch
            .into_iter()
            .map(|experience| Ok(vec![tidy(experience)]))
            .collect()
    }
}

fn tidy(mut experience: Experience) -> Experience {
    let mut text = String::with_capacity(experience.content.len());
    let mut blank_lines = 0;
    for line in experience.content.lines().map(str::trim_end) {
        blank_lines = if line.is_empty() { blank_lines + 1 } else { 0 };
        if blank_lines < 2 {
            text.push_str(line);
            text.push('\n');
        }
    }
    experience.content = text.trim_end().to_owned();
    let mut said = HashSet::new();
    experience.labels.retain(|label| said.insert(label.clone()));
    experience
}
