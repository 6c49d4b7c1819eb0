//! Whether an envelope is one that the server would take.
//!
//! The rules live twice on purpose. `shape` is written by hand, because only a hand-written check can say *which* error
//! code a defect earns and is fast enough for a hundred thousand events; `schema` is the published reconstruction of
//! the contract, which nobody here may bend. A test mutates envelopes and holds the two to the same verdict. `rules`
//! holds what JSON Schema cannot express, and `policy` what depends on the deployment.

mod canonical;
mod finding;
mod locator;
mod policy;
mod rules;
mod schema;
mod shape;

#[cfg(test)]
pub(crate) mod samples;

use serde_json::Value;

pub(crate) use canonical::{hints, identity, sha256_hex};
pub(crate) use finding::{Finding, Kind};
pub use policy::{BUILTIN_SCOPE_TYPES, Policy};
pub(crate) use shape::{is_actor_id, scope_segments};

/// Largest flattened content, in bytes.
pub const MAX_CONTENT_BYTES: usize = 1_048_576;
/// Largest source descriptor, in bytes of compact JSON.
pub const MAX_DESCRIPTOR_BYTES: usize = 262_144;
/// Longest idempotency key, in bytes.
pub const MAX_KEY_BYTES: usize = 64;

/// Checks one envelope against the strictest reading of the contract: the schema, the rules beyond it, the closed set
/// of scope types of server 0.10, and no capture hints (they need capabilities that a server may not have).
///
/// # Errors
///
/// One sentence for each defect, naming the field.
pub fn validate_envelope(envelope: &Value) -> Result<(), Vec<String>> {
    let mut sentences: Vec<String> = findings(envelope, &Policy::default())
        .iter()
        .map(Finding::sentence)
        .collect();
    if sentences.is_empty() {
        sentences = schema::defects(envelope);
    }
    if sentences.is_empty() {
        Ok(())
    } else {
        Err(sentences)
    }
}

/// Every defect that the hand-written rules find; the policy and the rules beyond the schema are asked only about an
/// envelope of the right shape.
pub(crate) fn findings(envelope: &Value, policy: &Policy) -> Vec<Finding> {
    let mut found = shape::check(envelope, shape::Unit::Bytes);
    if found.is_empty() {
        rules::check(envelope, &mut found);
        policy.check(envelope, &mut found);
    }
    found
}

/// What the schema has against the envelope.
pub(crate) fn schema_defects(envelope: &Value) -> Vec<String> {
    schema::defects(envelope)
}

#[cfg(test)]
mod tests;
