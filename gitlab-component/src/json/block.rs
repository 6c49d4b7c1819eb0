//! Where a string has its first quotation mark, backslash or control character, and where a number or a word ends: as many bytes at a time as
//! a register has.

/// Bytes that are looked at at a time, a block.
pub(super) const BYTES: usize = register::BYTES;
/// Bytes of [`any_special`], four blocks.
pub(super) const LONG: usize = 4 * BYTES;

/// The place of the first special byte of a block.
#[inline(always)]
pub(super) fn first_special(block: &[u8; BYTES]) -> Option<usize> {
    register::first(register::specials(block))
}

/// The place of the first byte of a block that is white space, a comma or a closing bracket.
#[inline(always)]
pub(super) fn first_end(block: &[u8; BYTES]) -> Option<usize> {
    register::first(register::ends(block))
}

/// Whether there is a special byte in four blocks. Costs one question instead of four.
#[inline(always)]
pub(super) fn any_special(blocks: &[u8; LONG]) -> bool {
    let (blocks, _) = blocks.as_chunks();
    register::any([0, 1, 2, 3].map(|place: usize| register::specials(&blocks[place])))
}

#[cfg(target_feature = "simd128")]
mod register {
    use std::arch::wasm32::{
        u8x16_bitmask, u8x16_eq, u8x16_lt, u8x16_splat, v128, v128_any_true, v128_load, v128_or,
    };

    pub(super) const BYTES: usize = 16;

    /// All bits of each special byte.
    #[inline(always)]
    pub(super) fn specials(block: &[u8; BYTES]) -> v128 {
        #[allow(unsafe_code, reason = "an array of sixteen bytes is read as that")]
        let block = unsafe { v128_load(block.as_ptr().cast()) };
        let control = u8x16_lt(block, u8x16_splat(b' '));
        let quotation = u8x16_eq(block, u8x16_splat(b'"'));
        let backslash = u8x16_eq(block, u8x16_splat(b'\\'));
        v128_or(control, v128_or(quotation, backslash))
    }

    /// All bits of each byte that is white space or a control character, a comma or a closing bracket.
    #[inline(always)]
    pub(super) fn ends(block: &[u8; BYTES]) -> v128 {
        #[allow(unsafe_code, reason = "an array of sixteen bytes is read as that")]
        let block = unsafe { v128_load(block.as_ptr().cast()) };
        let space = u8x16_lt(block, u8x16_splat(b' ' + 1));
        let comma = u8x16_eq(block, u8x16_splat(b','));
        // `]` and `}` differ in one bit.
        let bracket = u8x16_eq(v128_or(block, u8x16_splat(b'}' ^ b']')), u8x16_splat(b'}'));
        v128_or(space, v128_or(comma, bracket))
    }

    #[inline(always)]
    pub(super) fn first(specials: v128) -> Option<usize> {
        let specials = u8x16_bitmask(specials);
        (specials != 0).then(|| specials.trailing_zeros() as usize)
    }

    #[inline(always)]
    pub(super) fn any([a, b, c, d]: [v128; 4]) -> bool {
        v128_any_true(v128_or(v128_or(a, b), v128_or(c, d)))
    }
}

#[cfg(not(target_feature = "simd128"))]
mod register {
    pub(super) const BYTES: usize = 8;

    /// The highest bit of each byte that is special. Of several the lowest is right, those above it may be wrong.
    #[inline(always)]
    pub(super) fn specials(block: &[u8; BYTES]) -> u64 {
        let block = u64::from_le_bytes(*block);
        let control = below(b' ', block);
        let quotation = equal(b'"', block);
        let backslash = equal(b'\\', block);
        (control | quotation | backslash) & HIGHEST
    }

    /// The same for each byte that is white space or a control character, a comma or a closing bracket.
    #[inline(always)]
    pub(super) fn ends(block: &[u8; BYTES]) -> u64 {
        let block = u64::from_le_bytes(*block);
        let bracket = equal(b'}', block | (ONES * u64::from(b'}' ^ b']')));
        (below(b' ' + 1, block) | equal(b',', block) | bracket) & HIGHEST
    }

    const ONES: u64 = u64::from_le_bytes([1; BYTES]);
    const HIGHEST: u64 = ONES << 7;

    #[inline(always)]
    fn below(limit: u8, bytes: u64) -> u64 {
        bytes.wrapping_sub(ONES * u64::from(limit)) & !bytes
    }

    #[inline(always)]
    fn equal(byte: u8, bytes: u64) -> u64 {
        below(1, bytes ^ (ONES * u64::from(byte)))
    }

    #[inline(always)]
    pub(super) fn first(specials: u64) -> Option<usize> {
        (specials != 0).then(|| specials.trailing_zeros() as usize / 8)
    }

    #[inline(always)]
    pub(super) fn any([a, b, c, d]: [u64; 4]) -> bool {
        a | b | c | d != 0
    }
}
