//! The schema that a component gives of its settings, and settings that are held to it.
//!
//! A schema is the component's, so it is hostile, and the validator is not made for that: it compiles every pattern before it looks at a
//! setting, keeps the place of each part as text, and makes errors of everything that does not fit before it gives the first one. So what
//! a schema costs is counted before, when its component is admitted and again with each use: one that was stored by an earlier version may
//! never have been counted.

use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;

use super::guest_text::{MAX_NAME_BYTES, MAX_WORDS_BYTES, clean};
use crate::redact::Redactor;
use crate::sandbox::limits::Unit;

/// A settings schema is read by people and by a validator; nobody needs a longer one.
const MAX_SCHEMA_BYTES: usize = 64 << 10;
const MAX_PATTERNS: usize = 32;
/// The text of all patterns together: to translate one from JavaScript's dialect may take time that grows with the square of its length.
const MAX_PATTERN_TEXT: usize = 4 << 10;
/// One pattern, compiled.
const MAX_COMPILED: usize = 2 << 20;
/// All patterns of a schema, compiled: where there are many, each may have less. The worst that was found takes 100 ms and 16 MiB.
const MAX_COMPILED_TOGETHER: usize = 8 << 20;
/// The places of all parts together, `/properties/projects/items/type` and so on: one long name is a piece of each place below it.
const MAX_PLACES_TEXT: usize = 2 << 20;
/// Parts of the schema times values of the settings: some 10 ns each.
const MAX_COMPARISONS: usize = 4 << 20;
/// What all errors together may take where each is made to show the first few. One error may hold a piece of the schema and its place.
const MAX_ERRORS_BYTES: usize = 16 << 20;
const ERROR_BYTES: usize = 512;
/// Problems of settings that are shown at a time.
const MAX_PROBLEMS: usize = 5;

/// The schema in what a component says of itself, if it is one that settings can be held to.
pub(super) fn read_schema(text: &str) -> Result<Value, String> {
    if text.len() > MAX_SCHEMA_BYTES {
        return Err(format!(
            "the settings schema has {} bytes; at most {MAX_SCHEMA_BYTES}",
            text.len()
        ));
    }
    let schema = serde_json::from_str(text)
        .map_err(|error| format!("the settings schema is not JSON: {error}"))?;
    validator(&schema, &Cost::of(&schema))
        .map_err(|words| format!("the settings schema {words}"))?;
    Ok(schema)
}

/// Holds settings to the schema. `who` is `mapper x` or `connector x`.
///
/// It is called on threads that serve others, too: the most hostile schema takes about as long as a query of the database, and on threads of
/// their own as many of them could be compiled at a time as there are requests.
pub(crate) fn check_settings(who: &str, schema: &Value, settings: &Value) -> Result<(), String> {
    let cost = Cost::of(schema);
    let validator = validator(schema, &cost)
        .map_err(|words| format!("the settings schema of the {who} {words}"))?;
    let values = values(settings);
    let comparisons = values.saturating_mul(cost.parts);
    if comparisons > MAX_COMPARISONS {
        return Err(format!(
            "the settings of the {who} hold {values} values, too many to be held to a schema of {} parts; at most {}. Name fewer",
            cost.parts,
            MAX_COMPARISONS / cost.parts.max(1)
        ));
    }
    if validator.is_valid(settings) {
        return Ok(());
    }
    let told = |error: ValidationError<'_>| {
        let place = error.instance_path().to_string();
        let place = if place.is_empty() { "/" } else { &place };
        format!("{place}: {error}")
    };
    let one = ERROR_BYTES + schema.to_string().len() + settings.to_string().len();
    let problems: Vec<String> = if comparisons.saturating_mul(one) <= MAX_ERRORS_BYTES {
        let errors = validator.iter_errors(settings);
        errors.take(MAX_PROBLEMS).map(told).collect()
    } else if cost.has_branches {
        // Its first error would hold all errors of all branches.
        vec!["they are too large for the place to be named; try with fewer of them".into()]
    } else {
        validator
            .validate(settings)
            .err()
            .map(told)
            .into_iter()
            .collect()
    };
    Err(format!(
        "the settings of the {who} do not fit its schema: {}",
        clean(&problems.join("; "), MAX_WORDS_BYTES, &Redactor::default())
    ))
}

/// What holds settings to this schema; the error goes on after "the settings schema". References could make it go round in circles, and
/// patterns are matched by an engine that cannot be made to backtrack.
fn validator(schema: &Value, cost: &Cost<'_>) -> Result<Validator, String> {
    if cost.has_references {
        return Err("uses `$ref`; write out what it refers to".into());
    }
    if cost.patterns.len() > MAX_PATTERNS {
        return Err(format!(
            "has {} patterns, each of which is compiled before a setting is looked at; at most {MAX_PATTERNS}. Use `enum`, `minLength` and `maxLength` in place of some, or let the component check them",
            cost.patterns.len()
        ));
    }
    let text: usize = cost.patterns.iter().map(|pattern| pattern.len()).sum();
    if text > MAX_PATTERN_TEXT {
        return Err(format!(
            "has patterns of {text} bytes together; at most {MAX_PATTERN_TEXT}. Shorten them, use `enum` for a list of words, or let the component check them"
        ));
    }
    if cost.places_text > MAX_PLACES_TEXT {
        return Err(format!(
            "has many parts below long names: their places (`/properties/projects/type`) have {} bytes together; at most {MAX_PLACES_TEXT}. Use shorter names or fewer levels",
            cost.places_text
        ));
    }
    let share = MAX_COMPILED_TOGETHER / cost.patterns.len().max(1);
    let most = (share - share % 1024).min(MAX_COMPILED);
    let patterns = PatternOptions::regex()
        .size_limit(most)
        .dfa_size_limit(most);
    jsonschema::options()
        .with_pattern_options(patterns)
        // Older drafts have the settings themselves read as regular expressions, in time that grows with the square of their length.
        .with_format("regex", |_: &str| true)
        .build(schema)
        .map_err(|error| refused(&error, most))
}

fn refused(error: &ValidationError<'_>, most: usize) -> String {
    let is_pattern = |kind: &ValidationErrorKind| matches!(kind, ValidationErrorKind::Format { format } if format == "regex");
    let of_a_pattern = match error.kind() {
        ValidationErrorKind::PropertyNames { error } => is_pattern(error.kind()),
        kind => is_pattern(kind),
    };
    let printable = |text: &str, most| clean(text, most, &Redactor::default());
    if !of_a_pattern {
        let words = printable(&error.to_string(), MAX_WORDS_BYTES);
        return format!("is no JSON Schema: {words}");
    }
    format!(
        "has a pattern at `{}` that cannot be used: it is no regular expression without look-around and references back, or it takes more than {} compiled. Write it more simply: `maxLength` in place of a large count, `[a-z]` in place of a class of all alphabets, fewer patterns",
        printable(error.instance_path().as_str(), MAX_NAME_BYTES),
        Unit::Bytes.show(most as u64)
    )
}

/// What of a schema costs whoever holds settings to it.
#[derive(Default)]
struct Cost<'a> {
    has_references: bool,
    /// Of which each may be tried.
    has_branches: bool,
    patterns: Vec<&'a str>,
    /// Values of all kinds in it.
    parts: usize,
    places_text: usize,
}

impl<'a> Cost<'a> {
    /// What only looks like a keyword, in a default or as the name of a setting, is counted, too: too many rather than too few.
    fn of(schema: &'a Value) -> Self {
        let mut cost = Self::default();
        cost.add(schema, 0);
        cost
    }

    fn add(&mut self, part: &'a Value, place_bytes: usize) {
        /// The longest index in a schema of this size, and `/`.
        const INDEX_BYTES: usize = 6;
        self.parts += 1;
        self.places_text = self.places_text.saturating_add(place_bytes);
        match part {
            Value::Object(members) => {
                for (key, value) in members {
                    match (key.as_str(), value) {
                        ("$ref" | "$dynamicRef" | "$recursiveRef", _) => self.has_references = true,
                        ("anyOf" | "oneOf", _) => self.has_branches = true,
                        ("pattern", Value::String(pattern)) => self.patterns.push(pattern),
                        ("patternProperties", Value::Object(patterns)) => {
                            self.patterns.extend(patterns.keys().map(String::as_str));
                        }
                        _ => {}
                    }
                    self.add(value, place_bytes + 1 + key.len());
                }
            }
            Value::Array(items) => {
                for item in items {
                    self.add(item, place_bytes + INDEX_BYTES);
                }
            }
            _ => {}
        }
    }
}

fn values(settings: &Value) -> usize {
    1 + match settings {
        Value::Object(members) => members.values().map(values).sum(),
        Value::Array(items) => items.iter().map(values).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fits(schema: &Value, settings: &Value) -> Result<(), String> {
        check_settings("mapper drop-bots", schema, settings)
    }

    /// So many settings, each with a pattern.
    fn patterns(count: usize, pattern: impl Fn(usize) -> String) -> Value {
        let properties: serde_json::Map<_, _> = (0..count)
            .map(|number| (number.to_string(), json!({"pattern": pattern(number)})))
            .collect();
        json!({ "properties": properties })
    }

    #[test]
    fn settings_that_do_not_fit_are_named_with_their_place() {
        let schema = json!({"type": "object", "properties": {"bots": {"type": "array"}}, "additionalProperties": false});
        assert_eq!(fits(&schema, &json!({"bots": []})), Ok(()));
        let words = fits(&schema, &json!({"bots": 1, "b": 2})).unwrap_err();
        for part in ["/bots", "drop-bots", "'b'"] {
            assert!(words.contains(part), "{words}");
        }
    }

    #[test]
    fn a_schema_cannot_send_the_validator_in_circles() {
        let words = fits(&json!({"not": {"$ref": "#"}}), &json!({}));
        assert!(words.unwrap_err().contains("$ref"));
        let words = fits(&json!({"type": 7}), &json!({}));
        assert!(words.unwrap_err().contains("no JSON Schema"));
        let slow = json!({"type": "string", "pattern": "^(a+)+$"});
        let text = json!(format!("{}b", "a".repeat(10_000)));
        assert!(fits(&slow, &text).is_err());
    }

    #[test]
    fn a_schema_is_read_from_its_text_and_an_impossible_one_is_refused_before_it_has_settings() {
        let schema = read_schema(r#"{"properties": {"team": {"pattern": "^[a-z]+$"}}}"#).unwrap();
        assert_eq!(schema["properties"]["team"]["pattern"], "^[a-z]+$");
        let long = format!("{}{{}}", " ".repeat(MAX_SCHEMA_BYTES));
        for (text, why) in [
            (long.as_str(), "bytes; at most 65536"),
            ("{", "is not JSON"),
            ("[]", "is no JSON Schema"),
            (r##"{"$ref": "#"}"##, "write out"),
            (r#"{"pattern": "("}"#, "at `/pattern`"),
        ] {
            let words = read_schema(text).unwrap_err();
            assert!(words.contains(why), "{words}");
        }
    }

    #[test]
    fn a_schema_of_many_patterns_is_refused_wherever_they_stand() {
        let many = patterns(33, |number| format!("^a{number}+$"));
        assert!(fits(&many, &json!({})).unwrap_err().contains("33 patterns"));
        let few = patterns(32, |number| format!("^a{number}+$"));
        assert_eq!(fits(&few, &json!({"3": "a33"})), Ok(()));
        let names: serde_json::Map<_, _> = (0..20)
            .map(|number| (format!("^b{number}+$"), json!({"pattern": "^[a-z]+$"})))
            .collect();
        let names = json!({"items": {"propertyNames": {"not": {"patternProperties": names}}}});
        let words = fits(&names, &json!([])).unwrap_err();
        assert!(words.contains("40 patterns"), "{words}");
        let texts = patterns(2, |_| "a".repeat(2500));
        assert!(fits(&texts, &json!({})).unwrap_err().contains("5000 bytes"));
    }

    #[test]
    fn a_pattern_that_is_large_when_it_is_compiled_is_refused_with_its_place() {
        let large = r"^(\p{L}|b){300}c";
        for (schema, place) in [
            (json!({"items": {"pattern": large}}), "`/items/pattern`"),
            (
                json!({"patternProperties": {large: true}}),
                "`/patternProperties/",
            ),
            (
                json!({"patternProperties": {large: true}, "additionalProperties": false}),
                "`/patternProperties/",
            ),
            (json!({"pattern": "^(?=a)b+"}), "`/pattern`"),
        ] {
            let words = fits(&schema, &json!({})).unwrap_err();
            assert!(words.contains(place) && words.contains("2 MiB"), "{words}");
        }
        // All of them together are bounded, too.
        let each = |number| format!(r"^(\p{{L}}|b){{20}}c{number}");
        assert_eq!(fits(&patterns(2, each), &json!({})), Ok(()));
        let words = fits(&patterns(32, each), &json!({})).unwrap_err();
        assert!(words.contains("256 KiB"), "{words}");
    }

    #[test]
    fn settings_are_not_read_as_regular_expressions() {
        let schema =
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "format": "regex"});
        assert_eq!(fits(&schema, &json!("(")), Ok(()));
    }

    #[test]
    fn a_long_name_above_many_parts_is_refused() {
        let parts = vec![json!({"type": "string"}); 1000];
        let schema = json!({"properties": {"n".repeat(3000): {"allOf": parts}}});
        let words = fits(&schema, &json!({})).unwrap_err();
        assert!(words.contains("shorter names"), "{words}");
    }

    /// The validator would make all of these errors, half a million of them, before it gives the first.
    #[test]
    fn settings_that_break_a_schema_in_many_places_at_once_are_refused_with_the_first() {
        let parts = vec![json!({"type": "string"}); 500];
        let settings = json!({"ids": vec![1; 1000]});
        let all = json!({"properties": {"ids": {"items": {"allOf": parts}}}});
        let words = fits(&all, &settings).unwrap_err();
        assert!(
            words.contains("/ids/0: ") && !words.contains("; "),
            "{words}"
        );
        let any = json!({"anyOf": [all]});
        let words = fits(&any, &settings).unwrap_err();
        assert!(words.contains("too large for the place"), "{words}");
    }

    #[test]
    fn settings_of_more_values_than_can_be_compared_are_refused() {
        let schema = json!({"items": {"allOf": vec![true; 1000]}});
        assert_eq!(fits(&schema, &json!(vec![1; 4000])), Ok(()));
        let words = fits(&schema, &json!(vec![1; 5000])).unwrap_err();
        assert!(words.contains("5001 values"), "{words}");
    }

    #[test]
    fn what_a_schema_says_wrongly_is_shown_without_control_characters() {
        let schema = json!({"type": "\u{1b}[2J"});
        let words = fits(&schema, &json!({})).unwrap_err();
        assert!(!words.contains('\u{1b}'), "{words}");
    }
}
