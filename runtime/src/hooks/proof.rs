//! Whether a call comes from the source.
//!
//! Two proofs exist. A signature, as in [Standard Webhooks](https://www.standardwebhooks.com): HMAC-SHA256 over id, time and body, so that
//! neither can be changed nor an old call be sent again later. Or a shared secret in a header, which older sources send. A call that carries
//! a signature must pass by it: otherwise whoever learnt the secret of the header could do without the signature.
//!
//! Everything is compared in constant time. While a secret is being changed, both are good.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::host::hooks::Proof;
use crate::redact::Secret;

/// How far the time of a signature may be from ours, in both directions.
pub const TOLERANCE: Duration = Duration::from_secs(300);
/// Entries of one signature header that are looked at.
const MAX_SIGNATURES: usize = 16;
/// Longest id that is signed along.
const MAX_ID_BYTES: usize = 256;
/// Begins a signing token; the rest is base64.
const TOKEN_PREFIX: &str = "whsec_";
/// Key and secret have this many random bytes.
const RANDOM_BYTES: usize = 32;

/// What the calls of one connection are proved with.
#[derive(Debug, Clone, Default)]
pub struct HookSecrets {
    /// Shared secrets; several while one is being changed.
    pub secrets: Vec<Secret>,
    /// Signing tokens (`whsec_…`); several while one is being changed.
    pub signing_tokens: Vec<Secret>,
}

/// What can be said of a call before its body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Early {
    /// It is proved.
    Proved,
    /// It cannot be proved, whatever its body is.
    Refused,
    /// It is signed: the body decides.
    Signed,
}

impl HookSecrets {
    /// Judges a call by its headers.
    #[must_use]
    pub fn before_the_body(&self, proofs: &[Proof], headers: &HeaderMap) -> Early {
        if proofs.contains(&Proof::StandardWebhooks) && headers.contains_key("webhook-signature") {
            return if self.signing_tokens.is_empty() {
                Early::Refused
            } else {
                Early::Signed
            };
        }
        let proved = proofs.iter().any(|proof| match proof {
            Proof::StandardWebhooks => false,
            Proof::Header(name) => headers.get(name.as_str()).is_some_and(|given| {
                // Every one is compared, so that the time does not tell which fits.
                self.secrets.iter().fold(false, |proved, secret| {
                    same(given.as_bytes(), secret.reveal().as_bytes()) | proved
                })
            }),
        });
        if proved {
            Early::Proved
        } else {
            Early::Refused
        }
    }

    /// Whether one of the signatures of a signed call is good at this time.
    #[must_use]
    pub fn is_signed(&self, headers: &HeaderMap, body: &[u8], now: SystemTime) -> bool {
        let text = |name: &str| {
            let mut values = headers.get_all(name).iter();
            let value = values.next()?.to_str().ok()?;
            values.next().is_none().then_some(value)
        };
        let (Some(id), Some(timestamp), Some(signatures)) = (
            text("webhook-id"),
            text("webhook-timestamp"),
            text("webhook-signature"),
        ) else {
            return false;
        };
        if id.is_empty() || id.len() > MAX_ID_BYTES || !is_recent(timestamp, now) {
            return false;
        }
        let given: Vec<Vec<u8>> = signatures
            .split(' ')
            .take(MAX_SIGNATURES)
            .filter_map(|entry| STANDARD.decode(entry.strip_prefix("v1,")?).ok())
            .collect();
        let mut good = false;
        for key in self.signing_tokens.iter().filter_map(key_of) {
            let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key) else {
                continue;
            };
            mac.update(id.as_bytes());
            mac.update(b".");
            mac.update(timestamp.as_bytes());
            mac.update(b".");
            mac.update(body);
            for signature in &given {
                good |= mac.clone().verify_slice(signature).is_ok();
            }
        }
        good
    }
}

/// Whether a text is a signing token that can be used. The error says what is wrong.
pub fn check_signing_token(token: &str) -> Result<(), String> {
    match key_of(&Secret::new(token)) {
        Some(key) if key.len() >= 16 => Ok(()),
        _ => Err(format!(
            "a signing token is `{TOKEN_PREFIX}` and the base64 form of at least 16 (usually {RANDOM_BYTES}) random bytes"
        )),
    }
}

/// A new shared secret.
pub fn new_secret() -> std::io::Result<String> {
    use std::fmt::Write as _;
    let mut text = String::new();
    for byte in random()? {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// A new signing token.
pub fn new_signing_token() -> std::io::Result<String> {
    Ok(format!("{TOKEN_PREFIX}{}", STANDARD.encode(random()?)))
}

fn random() -> std::io::Result<[u8; RANDOM_BYTES]> {
    use std::io::Read as _;
    let mut bytes = [0; RANDOM_BYTES];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn key_of(token: &Secret) -> Option<Vec<u8>> {
    let text = token.reveal().strip_prefix(TOKEN_PREFIX)?;
    STANDARD.decode(text).ok().filter(|key| !key.is_empty())
}

fn is_recent(timestamp: &str, now: SystemTime) -> bool {
    let (Ok(at), Ok(now)) = (timestamp.parse::<u64>(), now.duration_since(UNIX_EPOCH)) else {
        return false;
    };
    at.abs_diff(now.as_secs()) <= TOLERANCE.as_secs()
}

/// Compares without telling by its time where, or at which length, two texts differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    let code = |text: &[u8]| {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"compare").ok()?;
        mac.update(text);
        Some(mac)
    };
    match (code(one), code(other)) {
        (Some(one), Some(other)) => one.verify_slice(&other.finalize().into_bytes()).is_ok(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector that the libraries of Standard Webhooks are tested with.
    const TOKEN: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const AT: u64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    fn signed(signature: &str) -> HeaderMap {
        headers(&[
            ("webhook-id", ID),
            ("webhook-timestamp", &AT.to_string()),
            ("webhook-signature", signature),
        ])
    }

    fn tokens(tokens: &[&str]) -> HookSecrets {
        HookSecrets {
            secrets: vec![Secret::new("shared-secret")],
            signing_tokens: tokens.iter().map(|token| Secret::new(*token)).collect(),
        }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_published_vector_is_good() {
        assert!(tokens(&[TOKEN]).is_signed(&signed(SIGNATURE), BODY, at(AT)));
    }

    #[test]
    fn one_good_signature_among_others_and_one_good_token_among_others_suffice() {
        let other = new_signing_token().unwrap();
        let several = format!("v1,Z29vZA== v2,{} {SIGNATURE}", &SIGNATURE[3..]);
        assert!(tokens(&[&other, TOKEN]).is_signed(&signed(&several), BODY, at(AT)));
        assert!(!tokens(&[&other]).is_signed(&signed(&several), BODY, at(AT)));
    }

    #[test]
    fn a_change_of_anything_that_is_signed_is_found() {
        let good = tokens(&[TOKEN]);
        assert!(!good.is_signed(&signed(SIGNATURE), b"{}", at(AT)));
        let mut other_id = signed(SIGNATURE);
        other_id.insert("webhook-id", "msg_other".parse().unwrap());
        assert!(!good.is_signed(&other_id, BODY, at(AT)));
        let mut other_time = signed(SIGNATURE);
        other_time.insert("webhook-timestamp", (AT + 1).to_string().parse().unwrap());
        assert!(!good.is_signed(&other_time, BODY, at(AT)));
        for broken in ["", "v1,", "v1,%%%", &SIGNATURE[3..], "v1a,g0hM"] {
            assert!(!good.is_signed(&signed(broken), BODY, at(AT)), "{broken}");
        }
    }

    #[test]
    fn a_signature_is_good_for_five_minutes_in_both_directions() {
        let good = tokens(&[TOKEN]);
        for (now, is_good) in [
            (AT + 300, true),
            (AT + 301, false),
            (AT - 300, true),
            (AT - 301, false),
        ] {
            assert_eq!(
                good.is_signed(&signed(SIGNATURE), BODY, at(now)),
                is_good,
                "{now}"
            );
        }
        let mut odd = signed(SIGNATURE);
        for timestamp in ["", "-1", "1e9", "99999999999999999999"] {
            odd.insert("webhook-timestamp", timestamp.parse().unwrap());
            assert!(!good.is_signed(&odd, BODY, at(AT)), "{timestamp}");
        }
    }

    #[test]
    fn a_header_that_comes_twice_proves_nothing() {
        let mut twice = signed(SIGNATURE);
        twice.append("webhook-signature", SIGNATURE.parse().unwrap());
        assert!(!tokens(&[TOKEN]).is_signed(&twice, BODY, at(AT)));
    }

    #[test]
    fn the_secret_of_the_header_does_not_help_a_call_that_is_signed_badly() {
        let proofs = [
            Proof::StandardWebhooks,
            Proof::Header("x-gitlab-token".into()),
        ];
        let call = headers(&[
            ("x-gitlab-token", "shared-secret"),
            ("webhook-signature", "v1,AAAA"),
        ]);
        assert_eq!(
            tokens(&[TOKEN]).before_the_body(&proofs, &call),
            Early::Signed
        );
        assert_eq!(tokens(&[]).before_the_body(&proofs, &call), Early::Refused);
        // A source that does not sign gives that header no meaning.
        assert_eq!(
            tokens(&[]).before_the_body(&proofs[1..], &call),
            Early::Proved
        );
    }

    #[test]
    fn a_secret_in_a_header_is_compared_whole() {
        let proofs = [Proof::Header("x-gitlab-token".into())];
        let mut secrets = tokens(&[]);
        secrets.secrets.push(Secret::new("the-next-one"));
        for (given, early) in [
            ("shared-secret", Early::Proved),
            ("the-next-one", Early::Proved),
            ("shared-secre", Early::Refused),
            ("shared-secret2", Early::Refused),
            ("", Early::Refused),
        ] {
            let call = headers(&[("x-gitlab-token", given)]);
            assert_eq!(secrets.before_the_body(&proofs, &call), early, "{given}");
        }
        assert_eq!(
            secrets.before_the_body(&proofs, &HeaderMap::new()),
            Early::Refused
        );
        assert_eq!(
            HookSecrets::default().before_the_body(&proofs, &headers(&[("x-gitlab-token", "")])),
            Early::Refused
        );
    }

    #[test]
    fn what_is_made_here_can_be_used_here() {
        let token = new_signing_token().unwrap();
        check_signing_token(&token).unwrap();
        assert_ne!(token, new_signing_token().unwrap());
        assert_eq!(new_secret().unwrap().len(), 64);
        for bad in ["", "whsec_", "whsec_%%", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            assert!(check_signing_token(bad).is_err(), "{bad}");
        }
    }
}
