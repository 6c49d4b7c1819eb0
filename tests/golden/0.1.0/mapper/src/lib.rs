//! The golden mapper: every answer that `transform` 0.1.0 has, chosen by the first word of the content.
//!
//! | first word | answer |
//! |---|---|
//! | `drop` | none |
//! | `split` | two: the record itself, and a part `~part` of it |
//! | `fail` | the error `told to fail` |
//! | `trap` | a trap, after its panic message was logged |
//! | `settings` | its content becomes the settings, as they came |
//! | any other | itself, with the attribute `golden=0.1.0` |

mod bindings {
    wit_bindgen::generate!({ path: "../wit", world: "mapper" });

    use super::Component;

    export!(Component with_types_in self);
}

use bindings::cortexdb::connector::log::{self, Level, StreamState};
use bindings::cortexdb::connector::types::Experience;
use bindings::exports::cortexdb::connector::transform::{Guest, MapperDescription};

struct Component;

impl Guest for Component {
    fn describe() -> MapperDescription {
        MapperDescription {
            name: "golden-mapper".to_owned(),
            version: "0.1.0".to_owned(),
            summary: "Gives every answer that a mapper of 0.1.0 can give.".to_owned(),
            settings_schema: r#"{"type": "object", "properties": {"note": {"type": "string"}}}"#
                .to_owned(),
        }
    }

    fn apply(settings: String, batch: Vec<Experience>) -> Vec<Result<Vec<Experience>, String>> {
        let count = batch.len() as u64;
        log::log(
            Level::Info,
            "a batch",
            &[("count".to_owned(), count.to_string())],
        );
        log::progress("golden", count, Some(count));
        log::stream_status("golden", &StreamState::Complete);
        batch
            .into_iter()
            .map(|experience| answer(&settings, experience))
            .collect()
    }
}

fn answer(settings: &str, mut experience: Experience) -> Result<Vec<Experience>, String> {
    let first = experience
        .content
        .split_whitespace()
        .next()
        .unwrap_or_default();
    match first {
        "drop" => Ok(Vec::new()),
        "split" => {
            let part = Experience {
                source_id: format!("{}~part", experience.source_id),
                ..experience.clone()
            };
            Ok(vec![experience, part])
        }
        "fail" => Err("told to fail".to_owned()),
        "trap" => {
            log::log(Level::Error, "told to trap", &[]);
            panic!("told to trap");
        }
        "settings" => {
            experience.content = settings.to_owned();
            Ok(vec![experience])
        }
        _ => {
            let mark = ("golden".to_owned(), "0.1.0".to_owned());
            experience.attributes.push(mark);
            Ok(vec![experience])
        }
    }
}
