//! The eight kinds of locator: where in a source a fragment was found.
//!
//! A table instead of eight functions, so that it can be read against the contract's table.

use serde_json::{Map, Value};

use super::shape::{Shape, Unit, is_integer};

/// Largest integer that survives a double: 2^53 - 1.
pub(super) const MAX_INTEGER: u64 = 9_007_199_254_740_991;
pub(super) const MAX_U32: u64 = u32::MAX as u64;
const MAX_TEXT: usize = 8192;

#[derive(Clone, Copy)]
enum Field {
    Text,
    Integer,
    U32,
    Path,
    Pointer,
    Timestamp,
    /// An object of exactly these integer fields, each with its minimum.
    Integers(&'static [(&'static str, u64)], u64),
}

enum Anchor {
    /// The required fields say enough.
    None,
    /// Any of the optional fields must be there.
    AnyField,
    /// One of these must be there, and not as an empty list.
    OneOf(&'static [&'static str]),
}

struct Locator {
    kind: &'static str,
    required: &'static [(&'static str, Field)],
    optional: &'static [(&'static str, Field)],
    anchor: Anchor,
}

const LINES: Field = Field::Integers(&[("start", 1), ("end", 1)], MAX_U32);
const TIME_RANGE: Field = Field::Integers(&[("start_ms", 0), ("end_ms", 0)], MAX_INTEGER);
const REGION: Field = Field::Integers(&[("x", 0), ("y", 0), ("width", 1), ("height", 1)], MAX_U32);

const LOCATORS: [Locator; 8] = [
    Locator {
        kind: "conversation",
        required: &[("session_id", Field::Text), ("turn_index", Field::Integer)],
        optional: &[("speaker", Field::Text), ("message_id", Field::Text)],
        anchor: Anchor::None,
    },
    Locator {
        kind: "document",
        required: &[],
        optional: &[
            ("page", Field::U32),
            ("section_path", Field::Path),
            ("block_index", Field::Integer),
        ],
        anchor: Anchor::OneOf(&["page", "block_index", "section_path"]),
    },
    Locator {
        kind: "json",
        required: &[("pointer", Field::Pointer)],
        optional: &[],
        anchor: Anchor::None,
    },
    Locator {
        kind: "table",
        required: &[],
        optional: &[
            ("table", Field::Text),
            ("sheet", Field::Text),
            ("row", Field::Integer),
            ("column", Field::Text),
            ("field", Field::Text),
        ],
        anchor: Anchor::AnyField,
    },
    Locator {
        kind: "code",
        required: &[("file", Field::Text)],
        optional: &[("symbol", Field::Text), ("lines", LINES)],
        anchor: Anchor::None,
    },
    Locator {
        kind: "log",
        required: &[],
        optional: &[
            ("record_id", Field::Text),
            ("record_index", Field::Integer),
            ("timestamp", Field::Timestamp),
            ("level", Field::Text),
            ("component", Field::Text),
            ("field", Field::Text),
        ],
        anchor: Anchor::OneOf(&["record_id", "record_index", "timestamp"]),
    },
    Locator {
        kind: "media",
        required: &[],
        optional: &[
            ("page", Field::U32),
            ("frame_index", Field::Integer),
            ("time_range", TIME_RANGE),
            ("region", REGION),
            ("track", Field::Text),
        ],
        anchor: Anchor::AnyField,
    },
    Locator {
        kind: "generic",
        required: &[],
        optional: &[("path", Field::Path), ("ordinal", Field::Integer)],
        anchor: Anchor::OneOf(&["ordinal", "path"]),
    },
];

const AT: &str = "source.fragments[].locator";

pub(super) fn check(locator: &Value, shape: &mut Shape) {
    let Some(object) = locator.as_object() else {
        return shape.envelope(AT, "must be an object");
    };
    let kind = object.get("kind").and_then(Value::as_str);
    let Some(rule) = LOCATORS.iter().find(|rule| Some(rule.kind) == kind) else {
        return shape.envelope(AT, "kind must be one of the eight known kinds");
    };
    for (name, field) in rule.required {
        match object.get(*name) {
            Some(value) => check_field(name, *field, value, shape),
            None => shape.envelope(AT, format!("a {} locator needs {name}", rule.kind)),
        }
    }
    for (name, field) in rule.optional {
        if let Some(value) = object.get(*name) {
            check_field(name, *field, value, shape);
        }
    }
    let known = |name: &str| {
        name == "kind"
            || rule
                .required
                .iter()
                .chain(rule.optional)
                .any(|(field, _)| *field == name)
    };
    if let Some(unknown) = object.keys().find(|name| !known(name)) {
        shape.envelope(
            AT,
            format!("a {} locator has no field {unknown:?}", rule.kind),
        );
    }
    if !has_anchor(rule, object) {
        shape.envelope(AT, format!("a {} locator needs an anchor", rule.kind));
    }
}

fn has_anchor(rule: &Locator, object: &Map<String, Value>) -> bool {
    match rule.anchor {
        Anchor::None => true,
        Anchor::AnyField => object.len() > 1,
        Anchor::OneOf(names) => names.iter().any(|name| match object.get(*name) {
            Some(Value::Array(items)) => !items.is_empty(),
            Some(_) => true,
            None => false,
        }),
    }
}

fn check_field(name: &str, field: Field, value: &Value, shape: &mut Shape) {
    let fine = match field {
        Field::Text => shape.is_tidy(value, MAX_TEXT),
        Field::Integer => is_integer(value, 0, MAX_INTEGER),
        Field::U32 => is_integer(value, 0, MAX_U32),
        Field::Path => value.as_array().is_some_and(|parts| {
            parts.len() <= 128 && parts.iter().all(|part| shape.is_tidy(part, 1024))
        }),
        Field::Pointer => value
            .as_str()
            .is_some_and(|pointer| shape.unit_len(pointer) <= MAX_TEXT && is_pointer(pointer)),
        Field::Timestamp => value
            .as_str()
            .is_some_and(|text| shape.unit_len(text) <= MAX_TEXT && super::shape::is_rfc3339(text)),
        Field::Integers(fields, max) => value.as_object().is_some_and(|object| {
            object.len() == fields.len()
                && fields.iter().all(|(name, min)| {
                    object
                        .get(*name)
                        .is_some_and(|value| is_integer(value, *min, max))
                })
        }),
    };
    if !fine {
        shape.envelope(AT, format!("{name} is not what this kind of locator takes"));
    }
}

/// RFC 6901, without control characters.
fn is_pointer(pointer: &str) -> bool {
    if pointer.is_empty() {
        return true;
    }
    let Some(rest) = pointer.strip_prefix('/') else {
        return false;
    };
    rest.split('/').all(|token| {
        let escapes = token
            .split('~')
            .skip(1)
            .all(|after| after.starts_with(['0', '1']));
        escapes && !token.chars().any(|c| c.is_ascii_control())
    })
}

impl Shape {
    pub(super) fn unit_len(&self, text: &str) -> usize {
        match self.unit {
            Unit::Bytes => text.len(),
            Unit::Characters => text.chars().count(),
        }
    }
}
