//! The component: the generated bindings, and the way from them to [`crate::masking`].

mod bindings {
    wit_bindgen::generate!({ path: "../../../wit", world: "mapper" });

    use super::Component;

    export!(Component with_types_in self);
}

use std::sync::Once;

use bindings::cortexdb::connector::log;
use bindings::cortexdb::connector::types::Experience;
use bindings::exports::cortexdb::connector::transform::{Guest, MapperDescription};

use crate::masking::{SETTINGS_SCHEMA, Settings};

struct Component;

impl Guest for Component {
    fn describe() -> MapperDescription {
        MapperDescription {
            name: "mask".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "Masks tokens, keys, passwords in addresses, and e-mail addresses.".to_owned(),
            settings_schema: SETTINGS_SCHEMA.to_owned(),
        }
    }

    fn apply(settings: String, batch: Vec<Experience>) -> Vec<Result<Vec<Experience>, String>> {
        report_panics();
        // The host has checked the settings against the schema. If they cannot be read all the same, no record is to blame for it.
        let settings: Settings =
            serde_json::from_str(&settings).expect("settings that fit the schema");
        batch
            .into_iter()
            .map(|mut experience| {
                mask(&settings, &mut experience);
                Ok(vec![experience])
            })
            .collect()
    }
}

fn mask(settings: &Settings, experience: &mut Experience) {
    let labels = experience.labels.iter_mut();
    let attributes = experience.attributes.iter_mut().map(|(_, value)| value);
    for text in labels.chain(attributes).chain([&mut experience.content]) {
        if let Some(masked) = settings.mask(text) {
            *text = masked;
        }
    }
}

/// A trap alone says nothing; the panic message goes to the log before it.
fn report_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            log::log(log::Level::Error, &panic.to_string(), &[]);
        }));
    });
}
