//! What a secret looks like. Pure text in, text out.
//!
//! Only what is recognisable by its own shape is masked (a prefix that the issuer chose for that purpose, a block of PEM, the password
//! in an address). Guessing by entropy would also hide the hashes that developers talk about.

use std::ops::Range;

use serde::Deserialize;

/// JSON Schema of [`Settings`].
pub const SETTINGS_SCHEMA: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "mask_emails": { "type": "boolean", "default": true, "description": "Also mask e-mail addresses." },
    "replacement": { "type": "string", "minLength": 1, "maxLength": 64, "default": "[masked]", "description": "What stands where a secret stood." }
  }
}"#;

/// What the user may choose.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Also mask e-mail addresses.
    pub mask_emails: bool,
    /// What stands where a secret stood.
    pub replacement: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mask_emails: true,
            replacement: "[masked]".to_owned(),
        }
    }
}

impl Settings {
    /// The text without its secrets, or `None` where it has none.
    #[must_use]
    pub fn mask(&self, text: &str) -> Option<String> {
        let mut found = Vec::new();
        // Most texts are labels, too short for anything but an address.
        if text.len() >= SHORTEST_SECRET {
            tokens(text, &mut found);
            named_keys(text, &mut found);
            private_keys(text, &mut found);
            bearers(text, &mut found);
        }
        if text.contains('@') {
            user_infos(text, &mut found);
            if self.mask_emails {
                emails(text, &mut found);
            }
        }
        if found.is_empty() {
            return None;
        }
        found.sort_unstable_by_key(|range| (range.start, range.end));
        let mut masked = String::with_capacity(text.len());
        let mut done = 0;
        for range in found {
            // Two shapes may overlap, such as a token that is the password in an address.
            if range.start >= done {
                masked.push_str(&text[done..range.start]);
                masked.push_str(&self.replacement);
            }
            done = done.max(range.end);
        }
        masked.push_str(&text[done..]);
        Some(masked)
    }
}

/// No token, key or block of those below is shorter.
const SHORTEST_SECRET: usize = 15;

/// A token that its issuer made recognisable.
struct Token {
    prefix: &'static str,
    /// Which bytes may follow.
    alphabet: fn(u8) -> bool,
    /// At least so many of them.
    least: usize,
}

#[rustfmt::skip] // One token a line.
const TOKENS: [Token; 29] = [
    // GitLab: personal, deploy, runner, CI job, pipeline trigger, feed, incoming mail, agent, SCIM, OAuth, feature flag, workspace.
    Token { prefix: "glpat-", alphabet: url_safe, least: 20 },
    Token { prefix: "gldt-", alphabet: url_safe, least: 20 },
    Token { prefix: "glrt-", alphabet: url_safe, least: 20 },
    Token { prefix: "glcbt-", alphabet: url_safe, least: 20 },
    Token { prefix: "glptt-", alphabet: url_safe, least: 20 },
    Token { prefix: "glft-", alphabet: url_safe, least: 20 },
    Token { prefix: "glimt-", alphabet: url_safe, least: 20 },
    Token { prefix: "glagent-", alphabet: url_safe, least: 20 },
    Token { prefix: "glsoat-", alphabet: url_safe, least: 20 },
    Token { prefix: "gloas-", alphabet: url_safe, least: 20 },
    Token { prefix: "glffct-", alphabet: url_safe, least: 20 },
    Token { prefix: "glwt-", alphabet: url_safe, least: 20 },
    // GitHub.
    Token { prefix: "ghp_", alphabet: word, least: 36 },
    Token { prefix: "gho_", alphabet: word, least: 36 },
    Token { prefix: "ghu_", alphabet: word, least: 36 },
    Token { prefix: "ghs_", alphabet: word, least: 36 },
    Token { prefix: "ghr_", alphabet: word, least: 36 },
    Token { prefix: "github_pat_", alphabet: word, least: 22 },
    // Slack.
    Token { prefix: "xoxb-", alphabet: url_safe, least: 10 },
    Token { prefix: "xoxp-", alphabet: url_safe, least: 10 },
    Token { prefix: "xoxs-", alphabet: url_safe, least: 10 },
    // AWS key ids: long-lived and temporary.
    Token { prefix: "AKIA", alphabet: upper, least: 16 },
    Token { prefix: "ASIA", alphabet: upper, least: 16 },
    // Google, Stripe, npm, PyPI.
    Token { prefix: "AIza", alphabet: url_safe, least: 35 },
    Token { prefix: "sk_live_", alphabet: word, least: 16 },
    Token { prefix: "rk_live_", alphabet: word, least: 16 },
    Token { prefix: "npm_", alphabet: word, least: 36 },
    Token { prefix: "pypi-", alphabet: url_safe, least: 50 },
    // A JSON Web Token: `{"` in base64, with the dots between its parts.
    Token { prefix: "eyJ", alphabet: url_safe_or_dot, least: 40 },
];

fn upper(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit()
}

fn word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn url_safe(byte: u8) -> bool {
    word(byte) || byte == b'-'
}

fn url_safe_or_dot(byte: u8) -> bool {
    url_safe(byte) || byte == b'.'
}

fn base64(byte: u8) -> bool {
    url_safe_or_dot(byte) || b"+/=~".contains(&byte)
}

fn email_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".%+-_".contains(&byte)
}

fn host_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-".contains(&byte)
}

/// Where the bytes of this alphabet end that begin at `start`. Alphabets are ASCII, so it is a boundary between characters.
fn end_of(text: &str, start: usize, alphabet: fn(u8) -> bool) -> usize {
    let rest = &text.as_bytes()[start..];
    start
        + rest
            .iter()
            .position(|byte| !alphabet(*byte))
            .unwrap_or(rest.len())
}

fn tokens(text: &str, found: &mut Vec<Range<usize>>) {
    let bytes = text.as_bytes();
    let mut behind_a_word = false;
    let mut at = 0;
    while at < bytes.len() {
        let begins = !behind_a_word && FIRST_BYTES[usize::from(bytes[at])];
        if let Some(end) = begins.then(|| token_at(text, at)).flatten() {
            found.push(at..end);
            at = end;
        }
        behind_a_word = bytes.get(at).copied().is_some_and(word);
        at += 1;
    }
}

/// Where the token ends that begins here.
fn token_at(text: &str, start: usize) -> Option<usize> {
    let rest = text.get(start..)?;
    let token = TOKENS.iter().find(|token| rest.starts_with(token.prefix))?;
    let body = start + token.prefix.len();
    let end = end_of(text, body, token.alphabet);
    // The full stop of a sentence is not the token's.
    let end = start + text[start..end].trim_end_matches('.').len();
    (end >= body + token.least).then_some(end)
}

/// Which bytes a token may begin with.
const FIRST_BYTES: [bool; 256] = {
    let mut first = [false; 256];
    let mut index = 0;
    while index < TOKENS.len() {
        first[TOKENS[index].prefix.as_bytes()[0] as usize] = true;
        index += 1;
    }
    first
};

/// AWS secret keys have no shape of their own: 40 characters behind their name.
fn named_keys(text: &str, found: &mut Vec<Range<usize>>) {
    for name in [
        "aws_secret_access_key",
        "AWS_SECRET_ACCESS_KEY",
        "SecretAccessKey",
    ] {
        for (at, _) in text.match_indices(name) {
            let behind = &text[at + name.len()..];
            let start = text.len()
                - behind
                    .trim_start_matches(['"', '\'', ' ', '\t', '=', ':'])
                    .len();
            let end = end_of(text, start, base64);
            if end - start >= 40 {
                found.push(start..end);
            }
        }
    }
}

/// A block without an end is masked to the end of the text: it was cut, and what is left is still a part of a key.
fn private_keys(text: &str, found: &mut Vec<Range<usize>>) {
    let mut from = 0;
    while let Some(start) = text[from..].find("-----BEGIN ").map(|at| from + at) {
        from = start + "-----BEGIN ".len();
        let line = text[from..].lines().next().unwrap_or_default();
        if !line.trim_end().ends_with("PRIVATE KEY-----") && !line.contains("PRIVATE KEY-----") {
            continue;
        }
        let end = text[from..]
            .find("-----END ")
            .map(|at| from + at + "-----END ".len());
        let end = end.map_or(text.len(), |at| {
            text[at..]
                .find("-----")
                .map_or(text.len(), |dashes| at + dashes + 5)
        });
        found.push(start..end);
        from = end;
    }
}

fn bearers(text: &str, found: &mut Vec<Range<usize>>) {
    for (at, scheme) in text.match_indices("earer ") {
        let start = at + scheme.len();
        let end = end_of(text, start, base64);
        let token = text[start..end].trim_end_matches('.');
        // "a bearer certificate" is English: a token has a digit and no sentence around it.
        let is_scheme = matches!(text.as_bytes()[..at], [.., b'B' | b'b']);
        if is_scheme && token.len() >= 16 && token.bytes().any(|byte| byte.is_ascii_digit()) {
            found.push(start..start + token.len());
        }
    }
}

/// `https://user:password@host`: user and password. A user alone (`ssh://git@host`) is no secret.
fn user_infos(text: &str, found: &mut Vec<Range<usize>>) {
    for (at, separator) in text.match_indices("://") {
        let start = at + separator.len();
        let authority = text[start..]
            .split(['/', '?', '#', ' ', '\t', '\n', '\r', '"', '<', '>'])
            .next();
        let Some(at_sign) = authority.and_then(|authority| authority.rfind('@')) else {
            continue;
        };
        if text[start..start + at_sign].contains(':') {
            found.push(start..start + at_sign);
        }
    }
}

/// Not the user of an address: `ssh://git@host`, `git@host:path`, nor what was found as its password.
fn emails(text: &str, found: &mut Vec<Range<usize>>) {
    for (at, _) in text.match_indices('@') {
        let local = text.as_bytes()[..at]
            .iter()
            .rev()
            .take_while(|byte| email_local(**byte))
            .count();
        let (before, local_part) = text[..at].split_at(at - local);
        if before.ends_with("//")
            || local_part == "git"
            || found.iter().any(|range| range.end == at)
        {
            continue;
        }
        let end = end_of(text, at + 1, host_name);
        let host = text[at + 1..end].trim_end_matches(['.', '-']);
        let top_level = host
            .rsplit_once('.')
            .map(|(_, label)| label)
            .unwrap_or_default();
        let is_host = top_level.len() >= 2
            && top_level.bytes().all(|byte| byte.is_ascii_alphabetic())
            && !host.contains("..");
        if local > 0 && is_host {
            found.push(at - local..at + 1 + host.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(text: &str) -> String {
        Settings::default()
            .mask(text)
            .unwrap_or_else(|| text.to_owned())
    }

    #[test]
    fn each_kind_of_secret_is_masked_and_what_is_around_it_stays() {
        let key = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc==\n-----END RSA PRIVATE KEY-----";
        for (text, masked) in [
            ("use glpat-aB3_xY9-aB3xY9aB3xY9.", "use [masked]."),
            (
                "TOKEN=ghp_0123456789abcdefghijABCDEFGHIJ012345\n",
                "TOKEN=[masked]\n",
            ),
            ("id AKIAIOSFODNN7EXAMPLE, ok", "id [masked], ok"),
            (
                "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
                "aws_secret_access_key = [masked]",
            ),
            (
                "Authorization: Bearer abcdef0123456789abcdef.",
                "Authorization: Bearer [masked].",
            ),
            (
                "git clone https://ada:s3cret@example.com/x.git",
                "git clone https://[masked]@example.com/x.git",
            ),
            ("mail Ada.Lovelace+x@mail.example.com.", "mail [masked]."),
            (
                "Signed-off-by: Ada <ada@example.com>",
                "Signed-off-by: Ada <[masked]>",
            ),
            (
                "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
                "[masked]",
            ),
            ("ä glpat-aB3_xY9-aB3xY9aB3xY9 ß", "ä [masked] ß"),
        ] {
            assert_eq!(mask(text), masked);
        }
        assert_eq!(
            mask(&format!("before\n{key}\nafter")),
            "before\n[masked]\nafter"
        );
        assert_eq!(
            mask("cut -----BEGIN PRIVATE KEY-----\nMIIEow"),
            "cut [masked]"
        );
    }

    #[test]
    fn what_only_looks_like_a_secret_stays() {
        for text in [
            "",
            "the prefix glpat- is GitLab's",
            "EURASIA0123456789ABCDEFG",
            "a bearer certificate_of_something",
            "@ada and @bob, see me@localhost",
            "ssh://git@example.com/x.git and git@example.com:x.git, https://example.com:8080/@ada too",
            "dd9b6c54c0788301c86bdf058a8e91e3594a0a17",
            "-----BEGIN CERTIFICATE-----\nMIIEow\n-----END CERTIFICATE-----",
        ] {
            assert_eq!(Settings::default().mask(text), None, "{text}");
        }
    }

    #[test]
    fn overlapping_finds_leave_nothing_behind() {
        assert_eq!(
            mask("https://oauth2:glpat-aB3_xY9-aB3xY9aB3xY9@gitlab.com/x"),
            "https://[masked]@gitlab.com/x"
        );
    }

    #[test]
    fn the_settings_are_those_of_the_schema() {
        let schema: serde_json::Value = serde_json::from_str(SETTINGS_SCHEMA).unwrap();
        let settings: Settings = serde_json::from_str("{}").unwrap();
        assert_eq!(
            schema["properties"]["mask_emails"]["default"],
            settings.mask_emails
        );
        assert_eq!(
            schema["properties"]["replacement"]["default"],
            settings.replacement
        );
        let settings: Settings =
            serde_json::from_str(r#"{"mask_emails": false, "replacement": "***"}"#).unwrap();
        assert_eq!(
            settings.mask("ada@example.com glpat-aB3_xY9-aB3xY9aB3xY9"),
            Some("ada@example.com ***".to_owned())
        );
    }

    #[test]
    fn masking_twice_changes_nothing() {
        let once = mask("a@b.cc glpat-aB3_xY9-aB3xY9aB3xY9 https://u:p@h/");
        assert_eq!(mask(&once), once);
    }
}
