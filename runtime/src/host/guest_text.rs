//! Text that comes from a component, before it goes anywhere.
//!
//! Names end in files, keys and logs; words end on terminals. Both are bounded and free of control characters before they get there: a
//! component must not be able to move somebody's cursor, forge a line of a log, or fill a ledger with one name.

use crate::cortexdb::envelope::{check_source_id, is_event_type};
use crate::host::bindings::cortexdb::connector::types;
use crate::redact::Redactor;
use crate::scope::is_host_variable;

/// Streams, keys of cursors, names of fields.
pub(super) const MAX_NAME_BYTES: usize = 512;
/// One line of a log, a reason, a finding.
pub(super) const MAX_WORDS_BYTES: usize = 8 << 10;
/// As `wit/types.wit` says.
const MAX_ORIGIN_BYTES: usize = 256;
const MAX_VARIABLES: usize = 32;
const MAX_VARIABLE_NAME_BYTES: usize = 64;
const MAX_VARIABLE_BYTES: usize = 4096;

/// Cut, printable, and without secrets.
pub(super) fn clean(text: &str, most: usize, redactor: &Redactor) -> String {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let printable: String = text[..end]
        .chars()
        .map(|c| {
            if is_unprintable(c) && c != '\n' && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect();
    redactor.apply(&printable).into_owned()
}

/// Control characters, and those that turn the direction of a line around: with them one name can be shown as another.
pub(crate) fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A name that is kept: 1 to 512 bytes, no control characters.
pub(super) fn check_name(what: &str, name: &str) -> Result<(), String> {
    check_length(what, name, MAX_NAME_BYTES)
}

fn check_length(what: &str, name: &str, most: usize) -> Result<(), String> {
    if name.is_empty() || name.len() > most || name.chars().any(is_unprintable) {
        return Err(format!(
            "{what} must have 1 to {most} bytes and no control characters"
        ));
    }
    Ok(())
}

/// Where records come from. The values of its variables are encoded when they go into a scope; here they are only bounded, and kept from
/// taking the place of the host's own.
pub(super) fn check_origin(origin: &types::Origin) -> Result<(), String> {
    check_length("an origin id", &origin.id, MAX_ORIGIN_BYTES)?;
    if origin.variables.len() > MAX_VARIABLES {
        return Err(format!(
            "an origin with {} variables; at most {MAX_VARIABLES}",
            origin.variables.len()
        ));
    }
    for (name, value) in &origin.variables {
        check_length("the name of a variable", name, MAX_VARIABLE_NAME_BYTES)?;
        if is_host_variable(name) {
            return Err(format!("the variable `{name}` is the host's"));
        }
        if value.len() > MAX_VARIABLE_BYTES || value.chars().any(is_unprintable) {
            return Err(format!(
                "the variable `{name}` must have at most {MAX_VARIABLE_BYTES} bytes and no control characters"
            ));
        }
    }
    Ok(())
}

/// Source ids that the component names without a record.
pub(super) fn check_source_ids(ids: &[String], most: usize) -> Result<(), String> {
    if ids.len() > most {
        return Err(format!("a list of {} ids; at most {most}", ids.len()));
    }
    ids.iter().try_for_each(|id| check_source_id(id))
}

pub(super) fn check_event_type(event_type: &str) -> Result<(), String> {
    if is_event_type(event_type) {
        return Ok(());
    }
    Err("an event type must be of the form [a-z][a-z0-9_]*, up to 32 bytes".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(id: &str, variables: &[(&str, &str)]) -> types::Origin {
        types::Origin {
            id: id.into(),
            variables: variables
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
        }
    }

    #[test]
    fn escape_sequences_and_turned_lines_do_not_reach_a_terminal() {
        let text = clean("a\u{1b}[2Jb\u{202e}c\nd", 100, &Redactor::default());
        assert_eq!(text, "a\u{fffd}[2Jb\u{fffd}c\nd");
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(clean("aäöü", 4, &Redactor::default()), "aä");
    }

    #[test]
    fn an_origin_cannot_take_the_place_of_the_hosts_variables() {
        for name in ["scope", "actor", "source"] {
            let error = check_origin(&origin("project/1", &[(name, "org:victim")])).unwrap_err();
            assert!(error.contains("the host's"), "{error}");
        }
    }

    #[test]
    fn names_that_are_empty_huge_or_hidden_are_refused() {
        for id in ["", "a\u{7}", "\u{202e}gpj", &"x".repeat(257)] {
            assert!(check_origin(&origin(id, &[])).is_err(), "{id:?}");
        }
        assert!(check_origin(&origin("project/1", &[("project_path", "a/b")])).is_ok());
        assert!(check_origin(&origin("p", &vec![("x", "y"); 33])).is_err());
        assert!(check_origin(&origin("p", &[("x", &"y".repeat(5000))])).is_err());
    }
}
