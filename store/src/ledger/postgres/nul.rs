//! Text with NUL characters.
//!
//! PostgreSQL's `text` and `jsonb` refuse them, and one in the words of a server or in a record that could not be sent would fail its
//! whole page. So a NUL is written as SUBSTITUTE and `0`, and SUBSTITUTE itself as SUBSTITUTE and `1`; what is read is put back. Text without
//! either, which is nearly all, goes in and comes out as it is.

use std::borrow::Cow;

const SUBSTITUTE: char = '\u{1a}';

/// Text as PostgreSQL takes it.
pub(super) fn without(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', SUBSTITUTE]) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for one in text.chars() {
        match one {
            '\0' => out.extend([SUBSTITUTE, '0']),
            SUBSTITUTE => out.extend([SUBSTITUTE, '1']),
            other => out.push(other),
        }
    }
    Cow::Owned(out)
}

/// A JSON document whose strings are as PostgreSQL takes them.
pub(super) fn without_in_json(json: String) -> String {
    // `serde_json` writes control characters in lower case.
    if !json.contains("\\u0000") && !json.contains("\\u001a") {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 64);
    let mut rest = json.as_str();
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let (taken, written) = if escape.starts_with("\\u0000") {
            (6, "\\u001a0")
        } else if escape.starts_with("\\u001a") {
            (6, "\\u001a1")
        } else {
            // Two characters, or the beginning of six; a backslash that is itself escaped is not looked at again.
            (2, &escape[..2])
        };
        out.push_str(written);
        rest = &escape[taken..];
    }
    out.push_str(rest);
    out
}

/// The text as it was given.
pub(super) fn back(text: String) -> String {
    if !text.contains(SUBSTITUTE) {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(one) = rest.next() {
        if one != SUBSTITUTE {
            out.push(one);
            continue;
        }
        match rest.next() {
            Some('0') => out.push('\0'),
            Some('1') => out.push(SUBSTITUTE),
            // Not written by this program.
            other => out.extend(Some(SUBSTITUTE).into_iter().chain(other)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_comes_back_as_it_was_and_no_nul_goes_in(text in "[\0\u{1a}\\\\u01a\"é]{0,12}") {
            let written = without(&text);
            prop_assert!(!written.contains('\0'));
            prop_assert_eq!(&back(written.clone().into_owned()), &text);
            let json = without_in_json(serde_json::to_string(&text).unwrap());
            let read: String = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(read, written);
        }
    }
}
