//! The closed shape of an envelope, by hand: the same verdict as the schema, with the right error code.

use serde_json::{Map, Value};

use super::{Finding, MAX_KEY_BYTES, locator};

type Object = Map<String, Value>;

/// What a length limit counts. The server counts bytes; JSON Schema can only count characters, so the agreement test
/// asks for characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "only the agreement test counts like the schema")
    )]
    Characters,
}

pub(super) fn check(envelope: &Value, unit: Unit) -> Vec<Finding> {
    let mut shape = Shape {
        found: Vec::new(),
        unit,
    };
    shape.top(envelope);
    shape.found
}

/// Collects findings on the way through an envelope.
pub(super) struct Shape {
    found: Vec<Finding>,
    pub(super) unit: Unit,
}

impl Shape {
    pub(super) fn body(&mut self, field: &'static str, reason: impl Into<String>) {
        self.found.push(Finding::body(field, reason));
    }

    pub(super) fn envelope(&mut self, field: &'static str, reason: impl Into<String>) {
        self.found.push(Finding::envelope(field, reason));
    }

    fn top(&mut self, envelope: &Value) {
        let Some(object) = envelope.as_object() else {
            return self.body("envelope", "must be a JSON object");
        };
        for (name, value) in object {
            match name.as_str() {
                "scope" => self.scope("scope", value),
                "modality" => self.expect(
                    value.as_str().is_some_and(|text| !text.is_empty()),
                    "modality",
                    "must be a non-empty string",
                ),
                "content" => self.content(value),
                "context" => self.context(value),
                "source" => self.source(value),
                "idempotency_key" => {
                    let fine = value
                        .as_str()
                        .is_some_and(|key| (1..=MAX_KEY_BYTES).contains(&self.unit_len(key)));
                    self.expect(fine, "idempotency_key", "must be a string of 1 to 64 bytes");
                }
                "observed_actor" => self.observed_actor(value),
                "subject" => {
                    let id = value.as_object().and_then(|subject| subject.get("id"));
                    self.expect(
                        id.and_then(Value::as_str).is_some_and(|id| !id.is_empty()),
                        "subject",
                        "must be an object with a non-empty id",
                    );
                }
                "directives" => self.directives(value),
                "observed_at" => self.date_time("observed_at", value),
                "metadata" => {}
                "language" => self.expect(value.is_string(), "language", "must be a string"),
                "scripts" => self.expect(
                    strings(value, is_script),
                    "scripts",
                    "must be a list of ISO 15924 codes",
                ),
                unknown => self.body("envelope", format!("unknown field {unknown:?}")),
            }
        }
        for name in ["scope", "modality", "content"] {
            if !object.contains_key(name) {
                self.body("envelope", format!("{name} is missing"));
            }
        }
    }

    fn expect(&mut self, fine: bool, field: &'static str, reason: &str) {
        if !fine {
            self.body(field, reason);
        }
    }

    fn scope(&mut self, field: &'static str, value: &Value) {
        let fine = value
            .as_str()
            .is_some_and(|scope| scope_segments(scope).is_some());
        self.expect(
            fine,
            field,
            "must be 1 to 32 segments of the form type:id, joined by /",
        );
    }

    fn date_time(&mut self, field: &'static str, value: &Value) {
        self.expect(
            value.as_str().is_some_and(is_rfc3339),
            field,
            "must be an RFC 3339 date-time",
        );
    }

    fn closed(&mut self, field: &'static str, object: &Object, known: &[&str]) {
        if let Some(unknown) = object.keys().find(|name| !known.contains(&name.as_str())) {
            self.body(field, format!("unknown field {unknown:?}"));
        }
    }

    fn observed_actor(&mut self, value: &Value) {
        let Some(object) = value.as_object() else {
            return self.body("observed_actor", "must be an object");
        };
        self.closed("observed_actor", object, &["id", "type"]);
        let id = object.get("id").and_then(Value::as_str);
        self.expect(
            id.is_some_and(is_actor_id),
            "observed_actor.id",
            "must be kind:local with kind user, agent, service or system",
        );
        self.expect(
            object.get("type").is_none_or(Value::is_string),
            "observed_actor.type",
            "must be a string",
        );
    }

    fn content(&mut self, value: &Value) {
        let Some(object) = value.as_object() else {
            return self.body("content", "must be an object");
        };
        match object.get("kind").and_then(Value::as_str) {
            Some("message") => {
                self.closed("content", object, &["kind", "role", "text", "media"]);
                let role = object.get("role").and_then(Value::as_str);
                self.expect(
                    matches!(role, Some("user" | "assistant" | "tool" | "system")),
                    "content.role",
                    "must be user, assistant, tool or system",
                );
                self.text(object);
                if let Some(media) = object.get("media") {
                    self.expect(
                        media
                            .as_array()
                            .is_some_and(|media| media.iter().all(is_media)),
                        "content.media",
                        "must be a list of {blob_id, alt?}",
                    );
                }
            }
            Some("text") => {
                self.closed("content", object, &["kind", "text"]);
                self.text(object);
            }
            Some("json") => {
                self.closed("content", object, &["kind", "data"]);
                self.expect(object.contains_key("data"), "content.data", "is missing");
            }
            Some("blob_ref") => {
                self.closed("content", object, &["kind", "blob_id", "transcript"]);
                self.expect(
                    is_blob_id(object.get("blob_id")),
                    "content.blob_id",
                    "is not a blob id",
                );
                let transcript = object.get("transcript");
                self.expect(
                    transcript
                        .is_none_or(|text| text.as_str().is_some_and(|text| !text.is_empty())),
                    "content.transcript",
                    "must be a non-empty string",
                );
            }
            Some("triple") => {
                self.closed("content", object, &["kind", "triple"]);
                let fine = object
                    .get("triple")
                    .and_then(Value::as_object)
                    .is_some_and(is_triple);
                self.expect(
                    fine,
                    "content.triple",
                    "must have a subject, a predicate and an object",
                );
            }
            _ => self.body(
                "content.kind",
                "must be message, text, json, blob_ref or triple",
            ),
        }
    }

    fn text(&mut self, content: &Object) {
        match content.get("text") {
            Some(Value::String(text)) if text.chars().all(char::is_whitespace) => {
                self.envelope("content.text", "must not be blank");
            }
            Some(Value::String(_)) => {}
            _ => self.body("content.text", "must be a string"),
        }
    }

    fn context(&mut self, value: &Value) {
        let Some(object) = value.as_object() else {
            return self.body("context", "must be an object");
        };
        for (name, value) in object {
            match name.as_str() {
                "observed_at" => self.date_time("context.observed_at", value),
                "source_recorded_at" => self.date_time("context.source_recorded_at", value),
                "location" => {
                    self.expect(value.is_object(), "context.location", "must be an object");
                }
                "preceded_by" => self.expect(
                    strings(value, |id| id.len() >= 5 && id.starts_with("evt_")),
                    "context.preceded_by",
                    "must be a list of event ids",
                ),
                "intent" => self.expect(value.is_string(), "context.intent", "must be a string"),
                "labels" => {
                    self.expect(
                        strings(value, |_| true),
                        "context.labels",
                        "must be a list of strings",
                    );
                }
                "timezone" => {
                    self.expect(value.is_string(), "context.timezone", "must be a string");
                }
                "refers_to" => self.expect(
                    value
                        .as_array()
                        .is_some_and(|list| list.iter().all(is_reference)),
                    "context.refers_to",
                    "must be a list of {from, to?, ...}",
                ),
                unknown => self.body("context", format!("unknown field {unknown:?}")),
            }
        }
    }

    fn directives(&mut self, value: &Value) {
        let Some(object) = value.as_object() else {
            return self.body("directives", "must be an object");
        };
        for (name, value) in object {
            match name.as_str() {
                "extract" => {
                    let fine = strings(value, |layer| {
                        ["facts", "entities", "beliefs", "episodes", "understanding"]
                            .contains(&layer)
                    }) && all_different(value);
                    self.expect(fine, "directives.extract", "must be a set of layers");
                }
                "consolidate_into" => self.scope("directives.consolidate_into", value),
                "confidence_floor" => self.expect(
                    value
                        .as_f64()
                        .is_some_and(|floor| (0.0..=1.0).contains(&floor)),
                    "directives.confidence_floor",
                    "must be between 0 and 1",
                ),
                "ttl_for_belief_layer" => self.expect(
                    value.as_str().is_some_and(|ttl| ttl.starts_with('P')),
                    "directives.ttl_for_belief_layer",
                    "must be an ISO 8601 duration",
                ),
                "embed" => self.expect(
                    matches!(value.as_str(), Some("eager" | "lazy" | "none")),
                    "directives.embed",
                    "must be eager, lazy or none",
                ),
                unknown => self.body("directives", format!("unknown field {unknown:?}")),
            }
        }
    }

    fn source(&mut self, value: &Value) {
        let Some(object) = value.as_object() else {
            return self.envelope("source", "must be an object");
        };
        for (name, value) in object {
            let (fine, field, reason) = match name.as_str() {
                "schema_version" => (
                    is_integer(value, 2, 2),
                    "source.schema_version",
                    "must be the integer 2",
                ),
                "source_id" => (self.is_tidy(value, 4096), "source.source_id", TIDY),
                "modality" => (self.is_tidy(value, 128), "source.modality", TIDY),
                "content_kind" => (self.is_tidy(value, 256), "source.content_kind", TIDY),
                "language" => (
                    is_language(value),
                    "source.language",
                    "must look like BCP 47",
                ),
                "source_fingerprint" => (
                    is_fingerprint(value),
                    "source.source_fingerprint",
                    FINGERPRINT,
                ),
                "fragments" => {
                    self.fragments(value);
                    continue;
                }
                unknown => {
                    self.envelope("source", format!("unknown field {unknown:?}"));
                    continue;
                }
            };
            if !fine {
                self.envelope(field, reason);
            }
        }
        let required = [
            "schema_version",
            "source_id",
            "modality",
            "content_kind",
            "source_fingerprint",
            "fragments",
        ];
        self.required("source", object, &required);
    }

    fn required(&mut self, field: &'static str, object: &Object, names: &[&str]) {
        if let Some(missing) = names.iter().find(|name| !object.contains_key(**name)) {
            self.envelope(field, format!("{missing} is missing"));
        }
    }

    fn fragments(&mut self, value: &Value) {
        let Some(fragments) = value
            .as_array()
            .filter(|list| (1..=1024).contains(&list.len()))
        else {
            return self.envelope("source.fragments", "must be a list of 1 to 1024 fragments");
        };
        for fragment in fragments {
            let Some(object) = fragment.as_object() else {
                self.envelope("source.fragments[]", "must be an object");
                continue;
            };
            for (name, value) in object {
                let (fine, field, reason) = match name.as_str() {
                    "fragment_id" => (
                        self.is_tidy(value, 1024),
                        "source.fragments[].fragment_id",
                        TIDY,
                    ),
                    "content_fingerprint" => (
                        is_fingerprint(value),
                        "source.fragments[].content_fingerprint",
                        FINGERPRINT,
                    ),
                    "byte_range" => (
                        is_byte_range(value),
                        "source.fragments[].byte_range",
                        "must be {start, end} of integers",
                    ),
                    "locator" => {
                        locator::check(value, self);
                        continue;
                    }
                    unknown => {
                        self.envelope("source.fragments[]", format!("unknown field {unknown:?}"));
                        continue;
                    }
                };
                if !fine {
                    self.envelope(field, reason);
                }
            }
            let required = ["fragment_id", "locator", "content_fingerprint"];
            self.required("source.fragments[]", object, &required);
        }
    }

    /// A string as the source descriptor wants them: not empty, no control characters, no space around it.
    pub(super) fn is_tidy(&self, value: &Value, max: usize) -> bool {
        value.as_str().is_some_and(|text| {
            !text.is_empty()
                && self.unit_len(text) <= max
                && !text.chars().any(|c| c.is_ascii_control())
                && !text.starts_with(char::is_whitespace)
                && !text.ends_with(char::is_whitespace)
        })
    }
}

pub(super) fn is_integer(value: &Value, min: u64, max: u64) -> bool {
    value
        .as_u64()
        .is_some_and(|number| (min..=max).contains(&number))
}

fn is_byte_range(value: &Value) -> bool {
    value.as_object().is_some_and(|range| {
        let bound = |name, min| {
            range
                .get(name)
                .is_some_and(|at| is_integer(at, min, locator::MAX_INTEGER))
        };
        range.len() == 2 && bound("start", 0) && bound("end", 1)
    })
}

const TIDY: &str =
    "must be a string within its limit, not empty, without control characters or space around it";
const FINGERPRINT: &str = "must be sha256: or blake3: and 64 lower-case hex digits";

/// The segments `(type, id)` of a scope, or nothing when the grammar does not hold.
pub(crate) fn scope_segments(scope: &str) -> Option<Vec<(&str, &str)>> {
    if scope.len() > 4096 {
        return None;
    }
    let segments: Option<Vec<_>> = scope.split('/').map(segment).collect();
    segments.filter(|segments| segments.len() <= 32)
}

fn segment(segment: &str) -> Option<(&str, &str)> {
    let (kind, id) = segment.split_once(':')?;
    let kind_fine = kind.len() <= 32
        && kind.starts_with(|c: char| c.is_ascii_lowercase())
        && kind
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let id_fine = (1..=128).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    (kind_fine && id_fine).then_some((kind, id))
}

/// Whether the text is an actor: `kind:local`.
pub(crate) fn is_actor_id(id: &str) -> bool {
    id.split_once(':').is_some_and(|(kind, local)| {
        ["user", "agent", "service", "system"].contains(&kind)
            && (1..=128).contains(&local.len())
            && local
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.@-".contains(&b))
    })
}

/// Whether the text is an RFC 3339 date-time; a space instead of `T` is not.
pub(super) fn is_rfc3339(text: &str) -> bool {
    matches!(text.as_bytes().get(10), Some(b'T' | b't'))
        && chrono::DateTime::parse_from_rfc3339(text).is_ok()
}

fn strings(value: &Value, fine: impl Fn(&str) -> bool) -> bool {
    value
        .as_array()
        .is_some_and(|list| list.iter().all(|item| item.as_str().is_some_and(&fine)))
}

fn all_different(value: &Value) -> bool {
    let list = value.as_array().map_or(&[][..], Vec::as_slice);
    list.iter()
        .enumerate()
        .all(|(index, item)| !list[..index].contains(item))
}

fn is_script(code: &str) -> bool {
    code.len() == 4
        && code.starts_with(|c: char| c.is_ascii_uppercase())
        && code.bytes().skip(1).all(|b| b.is_ascii_lowercase())
}

fn is_language(value: &Value) -> bool {
    value.as_str().is_some_and(|tag| {
        tag.len() <= 64
            && tag
                .split('-')
                .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric()))
    })
}

fn is_fingerprint(value: &Value) -> bool {
    value.as_str().is_some_and(|text| {
        text.strip_prefix("sha256:")
            .or_else(|| text.strip_prefix("blake3:"))
            .is_some_and(|hex| {
                hex.len() == 64
                    && hex
                        .bytes()
                        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            })
    })
}

fn is_blob_id(value: Option<&Value>) -> bool {
    value.and_then(Value::as_str).is_some_and(|id| {
        id.len() <= 192
            && id.strip_prefix("blob_").is_some_and(|rest| {
                !rest.is_empty()
                    && rest
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
            })
    })
}

fn is_media(value: &Value) -> bool {
    value.as_object().is_some_and(|media| {
        is_blob_id(media.get("blob_id"))
            && media.get("alt").is_none_or(Value::is_string)
            && media.keys().all(|name| name == "blob_id" || name == "alt")
    })
}

fn is_triple(triple: &Object) -> bool {
    triple.get("subject").is_some_and(is_term)
        && triple.get("object").is_some_and(is_term)
        && triple
            .get("predicate")
            .and_then(Value::as_str)
            .is_some_and(|text| !text.is_empty())
}

fn is_term(value: &Value) -> bool {
    let Some(term) = value.as_object() else {
        return false;
    };
    let only = |known: &[&str]| term.keys().all(|name| known.contains(&name.as_str()));
    match term.get("type").and_then(Value::as_str) {
        Some("literal") => {
            term.contains_key("value")
                && term.get("datatype").is_none_or(Value::is_string)
                && only(&["type", "datatype", "value"])
        }
        Some("entity" | "concept") => {
            term.get("id")
                .and_then(Value::as_str)
                .is_none_or(|id| !id.is_empty())
                && term.get("id").is_some_and(Value::is_string)
                && only(&["type", "id"])
        }
        _ => false,
    }
}

fn is_reference(value: &Value) -> bool {
    value.as_object().is_some_and(|reference| {
        reference.contains_key("from")
            && reference.iter().all(|(name, value)| match name.as_str() {
                "from" | "to" | "zone" | "precision" | "expr_original" => value.is_string(),
                "ambiguous" => value.is_boolean(),
                "candidates" => value.is_array(),
                "confidence" => value.is_number(),
                _ => false,
            })
    })
}
