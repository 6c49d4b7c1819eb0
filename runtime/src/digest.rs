//! Hexadecimal digests, written once: keys, labels, fingerprints and scope ids all use the same form.

use sha2::{Digest, Sha256};

/// The first `digits` lower-case hex digits of `bytes`.
#[must_use]
pub fn hex(bytes: &[u8], digits: usize) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(digits + 1);
    for byte in bytes.iter().take(digits.div_ceil(2)) {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text.truncate(digits);
    text
}

/// SHA-256 over parts, each preceded by its length, so that no two lists of parts give the same input.
#[must_use]
pub fn sha256_of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// `sha256:` and 64 hex digits: the form of CortexDB's fingerprints.
#[must_use]
pub fn fingerprint(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes), 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_a_byte_from_one_part_to_the_next_changes_the_digest() {
        assert_ne!(
            sha256_of_parts([b"ab".as_slice(), b"c"]),
            sha256_of_parts([b"a".as_slice(), b"bc"])
        );
    }

    #[test]
    fn an_odd_number_of_digits_is_cut_exactly() {
        assert_eq!(hex(&[0xab, 0xcd], 3), "abc");
    }
}
