//! Questions about a whole text that are answered without a loop for each of its bytes, because the host counts every turn of one.

/// Whether there is nothing in it but white space.
pub(crate) fn is_blank(text: &str) -> bool {
    match text.as_bytes().first() {
        None => true,
        Some(b'!'..=b'~') => false,
        Some(_) => text.trim().is_empty(),
    }
}

/// Whether all of it is ASCII that is seen, or spaces.
pub(crate) fn is_printable_ascii(text: &[u8]) -> bool {
    // The last block of a text overlaps the one before it, and a text that is shorter than a block is padded.
    match (text.first_chunk(), text.last_chunk()) {
        (Some(first), Some(last)) => {
            let (blocks, _) = text.as_chunks();
            is_printable(*first)
                && is_printable(*last)
                && blocks.iter().skip(1).all(|block| is_printable(*block))
        }
        _ => is_printable(padded(text)),
    }
}

/// Bytes that are looked at at a time.
const BLOCK: usize = 8;

fn is_printable(block: [u8; BLOCK]) -> bool {
    const ONES: u64 = u64::from_le_bytes([1; BLOCK]);
    const HIGHEST: u64 = ONES << 7;
    let block = u64::from_le_bytes(block);
    let below_space = block.wrapping_sub(ONES * 0x20) & !block;
    let delete = (block & !HIGHEST) + ONES;
    (block | below_space | delete) & HIGHEST == 0
}

/// Fewer bytes than a block, and spaces.
fn padded(text: &[u8]) -> [u8; BLOCK] {
    match (text.first_chunk(), text.last_chunk()) {
        (Some(&[a, b, c, d]), Some(&[e, f, g, h])) => [a, b, c, d, e, f, g, h],
        _ => {
            let byte = |place: usize| text.get(place).copied().unwrap_or(b' ');
            [byte(0), byte(1), byte(2), b' ', b' ', b' ', b' ', b' ']
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_single_byte_that_is_not_printable_is_seen_wherever_it_stands() {
        for length in 0..40 {
            let plain = vec![b'a'; length];
            assert!(is_printable_ascii(&plain), "{length}");
            for place in 0..length {
                for byte in 0..=u8::MAX {
                    let mut text = plain.clone();
                    text[place] = byte;
                    let expected = (b' '..=b'~').contains(&byte);
                    assert_eq!(
                        is_printable_ascii(&text),
                        expected,
                        "{byte} at {place} of {length}"
                    );
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_printable_is_so_byte_by_byte(text in prop::collection::vec(any::<u8>(), 0..40)) {
            let expected = text.iter().all(|byte| (b' '..=b'~').contains(byte));
            prop_assert_eq!(is_printable_ascii(&text), expected);
        }

        #[test]
        fn a_text_is_blank_if_nothing_is_left_of_it_without_white_space(text in "[ \\t\u{a0}\u{3000}]{0,4}|\\PC{0,4}|[ \\n]{0,2}\\PC{0,4}") {
            prop_assert_eq!(is_blank(&text), text.trim().is_empty());
        }
    }
}
