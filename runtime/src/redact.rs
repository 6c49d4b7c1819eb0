//! Secrets stay inside: every text that leaves the process (logs, events, errors, the ledger) passes through here.
//!
//! The host knows which strings are secret, because it was configured with them. Looking for exactly those is more reliable
//! than guessing what a token looks like, and catches a server that echoes a header back in an error.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Shorter secrets are not searched for: blacking out every `a` would destroy the text and reveal the secret by its gaps.
const SHORTEST_SEARCHED: usize = 6;

/// A value that is used but never shown: `Debug` and `Display` print a placeholder.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(value: impl Into<Arc<str>>) -> Self {
        Self(value.into())
    }

    /// The secret itself, for the one place that sends it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Replaces known secrets in text.
#[derive(Clone, Default)]
pub struct Redactor {
    secrets: Arc<[Secret]>,
}

impl Redactor {
    /// A redactor for these secrets.
    #[must_use]
    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        let mut secrets: Vec<Secret> = secrets
            .into_iter()
            .filter(|secret| secret.reveal().len() >= SHORTEST_SEARCHED)
            .collect();
        // Longest first, so that a secret which contains another is replaced whole.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.reveal().len()));
        Self {
            secrets: secrets.into(),
        }
    }

    /// `text` with every secret replaced by `[secret]`.
    #[must_use]
    pub fn apply<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut clean = Cow::Borrowed(text);
        for secret in self.secrets.iter() {
            if clean.contains(secret.reveal()) {
                clean = Cow::Owned(clean.replace(secret.reveal(), "[secret]"));
            }
        }
        clean
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} secrets)", self.secrets.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_contains_another_is_replaced_whole() {
        let redactor = Redactor::new([Secret::new("glpat-1"), Secret::new("glpat-12345")]);
        assert_eq!(
            redactor.apply("token glpat-12345 refused"),
            "token [secret] refused"
        );
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", Secret::new("glpat-12345")), "[secret]");
    }
}
