//! Scope templates: where in CortexDB a record is remembered.
//!
//! A scope is a path of `type:id` segments. What stands in it comes from the source (a project path such as
//! `acme/team/widget`), but CortexDB takes only `[A-Za-z0-9_-]` in an id. So each value is *encoded* into one id, injectively:
//! two projects can never share a scope by accident, which would mix two tenants' memories. A template is parsed and checked
//! before anything is read, so that a typing error costs a second and not a night.
//!
//! | in the template | becomes |
//! |---|---|
//! | `project:{project_path}` | the encoded value as id: `acme/team/widget` is `acme__team__widget` |
//! | `{actor}` or `{scope}` as a whole segment | the configured actor (`user:ada`) or scope (`org:acme/team:x`), verbatim |
//! | `<org>` | the organisation: the id of the first segment of the scope that `cortexdb init` stored |
//!
//! Limits: 8 segments, type 32 bytes, id 64 bytes are what every published reading of CortexDB's rules accepts; up to 32 segments and
//! ids of 128 bytes are let through because servers take them.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

/// The longest id that we make ourselves. CortexDB's page says 64, its server 128.
const ENCODED_ID_BYTES: usize = 64;
const MAX_ID_BYTES: usize = 128;
const MAX_TYPE_BYTES: usize = 32;
const MAX_SEGMENTS: usize = 32;

/// Placeholders that the host fills for every connector.
const HOST_VARIABLES: [&str; 3] = ["source", "actor", "scope"];

/// Whether a placeholder is the host's. A connector may neither declare it nor give it a value.
#[must_use]
pub fn is_host_variable(name: &str) -> bool {
    HOST_VARIABLES.contains(&name)
}

/// Placeholders whose values are segments already: the user's own words. What a connector says is always encoded into one id, so that it
/// cannot add a segment or choose another root.
const WHOLE_SEGMENTS: [&str; 2] = ["actor", "scope"];

/// Why a scope or a template cannot be used. The text is meant for the person who wrote it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ScopeError {
    /// The template names a value that nobody supplies.
    #[error("scope template `{template}`: unknown placeholder `{{{name}}}`; known are {known}")]
    UnknownPlaceholder {
        /// The whole template.
        template: String,
        /// The name between the braces.
        name: String,
        /// The names that would work, for the message.
        known: String,
    },
    /// The template does not follow the grammar.
    #[error("scope template `{template}`: {reason}")]
    Malformed {
        /// The whole template.
        template: String,
        /// What is wrong, and what it should look like.
        reason: String,
    },
    /// A placeholder has no value, or a value that makes no legal scope.
    #[error("scope template `{template}`: {reason}")]
    Unfilled {
        /// The whole template.
        template: String,
        /// Which value, and what to set.
        reason: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Placeholder(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// `type:` followed by literal text and placeholders.
    Typed { kind: String, id: Vec<Piece> },
    /// A placeholder alone, whose value is one or more complete segments.
    Whole(String),
}

/// A parsed scope template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeTemplate {
    text: String,
    segments: Vec<Segment>,
}

impl ScopeTemplate {
    /// Parses `text` and checks every placeholder against the host's names and `connector_variables`.
    pub fn parse(text: &str, connector_variables: &[String]) -> Result<Self, ScopeError> {
        let malformed = |reason: String| ScopeError::Malformed {
            template: text.to_owned(),
            reason,
        };
        if text.trim().is_empty() {
            return Err(malformed(
                "it is empty; write for example `org:acme/source:gitlab/project:{project_path}`"
                    .into(),
            ));
        }
        let mut segments = Vec::new();
        for part in text.split('/') {
            segments.push(parse_segment(part).map_err(malformed)?);
        }
        if segments.len() > MAX_SEGMENTS {
            return Err(malformed(format!(
                "{} segments; CortexDB takes at most {MAX_SEGMENTS}",
                segments.len()
            )));
        }
        let template = Self {
            text: text.to_owned(),
            segments,
        };
        template.check_names(connector_variables)?;
        Ok(template)
    }

    fn check_names(&self, connector_variables: &[String]) -> Result<(), ScopeError> {
        let known = |name: &str| {
            HOST_VARIABLES.contains(&name)
                || connector_variables.iter().any(|variable| variable == name)
        };
        match self.placeholders().find(|name| !known(name)) {
            None => Ok(()),
            Some(name) => Err(ScopeError::UnknownPlaceholder {
                template: self.text.clone(),
                name: name.to_owned(),
                known: HOST_VARIABLES
                    .into_iter()
                    .chain(connector_variables.iter().map(String::as_str))
                    .map(|name| format!("`{{{name}}}`"))
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        }
    }

    fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().flat_map(|segment| match segment {
            Segment::Whole(name) => vec![name.as_str()],
            Segment::Typed { id, .. } => id
                .iter()
                .filter_map(|piece| match piece {
                    Piece::Placeholder(name) => Some(name.as_str()),
                    Piece::Literal(_) => None,
                })
                .collect(),
        })
    }

    /// Whether everything that this template makes lies below what the user has given: the organisation, or a scope or actor of theirs.
    /// A connector's own default must; what the user writes may be anything.
    #[must_use]
    pub fn is_below_the_users(text: &str) -> bool {
        let first = text.split('/').next().unwrap_or_default();
        matches!(first, "org:<org>" | "{scope}" | "{actor}")
    }

    /// The template as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The scope for one origin. `variables` are the origin's pinned values and the host's own.
    pub fn fill(&self, variables: &BTreeMap<String, String>) -> Result<String, ScopeError> {
        let unfilled = |reason: String| ScopeError::Unfilled {
            template: self.text.clone(),
            reason,
        };
        let value = |name: &str| {
            variables
                .get(name)
                .filter(|value| !value.is_empty())
                .ok_or_else(|| unfilled(format!("`{{{name}}}` has no value here")))
        };
        let mut filled = Vec::with_capacity(self.segments.len());
        for segment in &self.segments {
            match segment {
                Segment::Whole(name) => filled.push(value(name)?.clone()),
                Segment::Typed { kind, id } => {
                    let mut text = String::new();
                    for piece in id {
                        match piece {
                            Piece::Literal(literal) => text.push_str(literal),
                            Piece::Placeholder(name) => text.push_str(&encode_id(value(name)?)),
                        }
                    }
                    filled.push(format!("{kind}:{text}"));
                }
            }
        }
        let scope = filled.join("/");
        check_scope(&scope)
            .map_err(|reason| unfilled(format!("`{scope}` is not a legal scope: {reason}")))?;
        Ok(scope)
    }
}

fn parse_segment(part: &str) -> Result<Segment, String> {
    if let Some(name) = part
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        && !name.contains(['{', '}'])
    {
        if !WHOLE_SEGMENTS.contains(&name) {
            return Err(format!(
                "only `{{actor}}` and `{{scope}}` can stand for a whole segment; write `type:{{{name}}}`"
            ));
        }
        return Ok(Segment::Whole(name.to_owned()));
    }
    let (kind, id) = part
        .split_once(':')
        .ok_or_else(|| format!("segment `{part}` should look like `type:id`"))?;
    check_type(kind)?;
    let mut pieces = Vec::new();
    let mut rest = id;
    while let Some(open) = rest.find('{') {
        let close = rest[open..]
            .find('}')
            .map(|offset| open + offset)
            .ok_or_else(|| {
                format!("segment `{part}` opens a placeholder that it does not close")
            })?;
        if open > 0 {
            pieces.push(Piece::Literal(rest[..open].to_owned()));
        }
        pieces.push(Piece::Placeholder(rest[open + 1..close].to_owned()));
        rest = &rest[close + 1..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Literal(rest.to_owned()));
    }
    for piece in &pieces {
        if let Piece::Literal(literal) = piece
            && let Some(character) = literal.chars().find(|c| !is_id_char(*c))
        {
            return Err(format!(
                "segment `{part}`: `{character}` is not allowed in an id; use letters, digits, `_` and `-`"
            ));
        }
    }
    if pieces.is_empty() {
        return Err(format!("segment `{part}` has no id"));
    }
    Ok(Segment::Typed {
        kind: kind.to_owned(),
        id: pieces,
    })
}

/// Checks a complete scope against the grammar that client and server enforce (`type` `[a-z][a-z0-9_]{0,31}`, id
/// `[A-Za-z0-9_-]{1,128}`, 1 to 32 segments). The error says which rule.
pub fn check_scope(scope: &str) -> Result<(), String> {
    let segments: Vec<&str> = scope.split('/').collect();
    if segments.len() > MAX_SEGMENTS {
        return Err(format!(
            "{} segments, at most {MAX_SEGMENTS}",
            segments.len()
        ));
    }
    for segment in segments {
        let (kind, id) = segment
            .split_once(':')
            .ok_or_else(|| format!("segment `{segment}` should look like `type:id`"))?;
        check_type(kind)?;
        if id.is_empty() || id.len() > MAX_ID_BYTES {
            return Err(format!(
                "the id of `{segment}` has {} bytes, it needs 1 to {MAX_ID_BYTES}",
                id.len()
            ));
        }
        if let Some(character) = id.chars().find(|c| !is_id_char(*c)) {
            return Err(format!(
                "`{character}` in `{segment}`; an id takes letters, digits, `_` and `-`"
            ));
        }
    }
    Ok(())
}

fn check_type(kind: &str) -> Result<(), String> {
    let mut characters = kind.chars();
    let starts_well = characters.next().is_some_and(|c| c.is_ascii_lowercase());
    if starts_well
        && kind.len() <= MAX_TYPE_BYTES
        && characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    {
        Ok(())
    } else {
        Err(format!(
            "`{kind}` is not a scope type; it takes a lower-case letter, then letters, digits and `_`, up to {MAX_TYPE_BYTES}"
        ))
    }
}

fn is_id_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// Encodes any text into a legal scope id, so that different texts give different ids.
///
/// Letters, digits and `-` stay. `_` begins an escape of two characters or more: `__` is `/`, `_u` is `_`, `_d` is `.`, `_x` and two
/// hex digits is any other byte. What would pass 64 bytes is cut, and `_h` and 16 hex digits of its SHA-256 keep it apart from its
/// neighbours.
///
/// ```
/// use connector_runtime::scope::encode_id;
/// assert_eq!(encode_id("acme/team/widget"), "acme__team__widget");
/// assert_eq!(encode_id("my_repo.rs"), "my_urepo_drs");
/// ```
#[must_use]
pub fn encode_id(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len() + 8);
    for byte in value.bytes() {
        match byte {
            b'/' => encoded.push_str("__"),
            b'_' => encoded.push_str("_u"),
            b'.' => encoded.push_str("_d"),
            b'-' => encoded.push('-'),
            _ if byte.is_ascii_alphanumeric() => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("_x{byte:02x}")),
        }
    }
    if encoded.len() > ENCODED_ID_BYTES {
        let digest = crate::digest::hex(&Sha256::digest(value.as_bytes()), 16);
        encoded.truncate(ENCODED_ID_BYTES - 18);
        encoded.push_str("_h");
        encoded.push_str(&digest);
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn gitlab_variables() -> Vec<String> {
        ["project_path", "project_id", "group_path"]
            .map(String::from)
            .to_vec()
    }

    fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn the_default_template_puts_a_nested_project_path_into_one_legal_id() {
        let template = ScopeTemplate::parse(
            "org:acme/source:gitlab/project:{project_path}",
            &gitlab_variables(),
        )
        .unwrap();
        let scope = template
            .fill(&values(&[("project_path", "acme/team/widget.js")]))
            .unwrap();
        assert_eq!(
            scope,
            "org:acme/source:gitlab/project:acme__team__widget_djs"
        );
    }

    #[test]
    fn an_unknown_placeholder_is_refused_with_the_names_that_would_work() {
        let error = ScopeTemplate::parse("org:acme/project:{entity.project}", &gitlab_variables())
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("{entity.project}") && text.contains("{project_path}"),
            "{text}"
        );
    }

    #[test]
    fn actor_and_scope_may_stand_for_whole_segments() {
        let template = ScopeTemplate::parse(
            "{scope}/source:{source}/project:{project_id}",
            &gitlab_variables(),
        )
        .unwrap();
        let scope = template
            .fill(&values(&[
                ("scope", "org:u_1/user:u_1"),
                ("source", "gitlab"),
                ("project_id", "42"),
            ]))
            .unwrap();
        assert_eq!(scope, "org:u_1/user:u_1/source:gitlab/project:42");
    }

    #[test]
    fn a_bare_word_a_space_and_an_unclosed_brace_are_refused() {
        for text in [
            "acme",
            "org:ac me",
            "org:{project_path",
            "Org:acme",
            "org:",
            "",
        ] {
            assert!(
                ScopeTemplate::parse(text, &gitlab_variables()).is_err(),
                "accepted {text:?}"
            );
        }
    }

    #[test]
    fn what_a_connector_says_is_one_id_and_never_a_segment() {
        let error = ScopeTemplate::parse("{project_path}", &gitlab_variables()).unwrap_err();
        assert!(error.to_string().contains("type:{project_path}"), "{error}");
        let template = ScopeTemplate::parse("org:acme/project:{project_path}", &gitlab_variables());
        let scope = template
            .unwrap()
            .fill(&values(&[("project_path", "x/../org:victim/user:root")]))
            .unwrap();
        assert!(scope.starts_with("org:acme/project:"), "{scope}");
        assert_eq!(scope.split('/').count(), 2, "{scope}");
    }

    #[test]
    fn a_missing_value_names_the_placeholder() {
        let template =
            ScopeTemplate::parse("org:acme/team:{group_path}", &gitlab_variables()).unwrap();
        assert!(
            template
                .fill(&values(&[]))
                .unwrap_err()
                .to_string()
                .contains("group_path")
        );
    }

    proptest! {
        #[test]
        fn encoded_ids_are_legal_and_short(value in ".{1,200}") {
            let id = encode_id(&value);
            prop_assert!(check_scope(&format!("project:{id}")).is_ok(), "{id}");
            prop_assert!(id.len() <= ENCODED_ID_BYTES);
        }

        #[test]
        fn different_values_get_different_ids(a in "[a-z_./ux-]{1,12}", b in "[a-z_./ux-]{1,12}") {
            prop_assume!(a != b);
            prop_assert_ne!(encode_id(&a), encode_id(&b));
        }
    }
}
