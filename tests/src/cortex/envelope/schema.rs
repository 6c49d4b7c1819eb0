//! The machine-readable contract, compiled once for the process.

use std::sync::OnceLock;

use jsonschema::Validator;
use serde_json::Value;

const SCHEMA: &str = include_str!("../../../schema/experience-envelope.schema.json");

fn validator() -> &'static Validator {
    static VALIDATOR: OnceLock<Validator> = OnceLock::new();
    VALIDATOR.get_or_init(|| {
        let schema: Value = serde_json::from_str(SCHEMA).expect("the embedded schema is JSON");
        jsonschema::options()
            .should_validate_formats(true)
            .build(&schema)
            .expect("the embedded schema is a valid JSON schema")
    })
}

/// One sentence for each violation; empty when the envelope conforms.
pub(super) fn defects(envelope: &Value) -> Vec<String> {
    let validator = validator();
    if validator.is_valid(envelope) {
        return Vec::new();
    }
    validator
        .iter_errors(envelope)
        .map(|error| {
            let message: String = error.to_string().chars().take(300).collect();
            format!("schema, at {}: {message}", error.instance_path())
        })
        .collect()
}
