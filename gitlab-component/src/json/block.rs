//! Where a string has its first quotation mark, backslash or control character, as many bytes at a time as a register has.

/// Bytes that are looked at at a time.
#[cfg(target_feature = "simd128")]
pub(super) const BYTES: usize = 16;
/// Bytes that are looked at at a time.
#[cfg(not(target_feature = "simd128"))]
pub(super) const BYTES: usize = 8;

#[cfg(target_feature = "simd128")]
#[inline(always)]
pub(super) fn first_special(block: &[u8; BYTES]) -> Option<usize> {
    use std::arch::wasm32::{u8x16_bitmask, u8x16_eq, u8x16_lt, u8x16_splat, v128_load, v128_or};
    #[allow(unsafe_code, reason = "an array of sixteen bytes is read as that")]
    let block = unsafe { v128_load(block.as_ptr().cast()) };
    let control = u8x16_lt(block, u8x16_splat(b' '));
    let quotation = u8x16_eq(block, u8x16_splat(b'"'));
    let backslash = u8x16_eq(block, u8x16_splat(b'\\'));
    let special = u8x16_bitmask(v128_or(control, v128_or(quotation, backslash)));
    (special != 0).then(|| special.trailing_zeros() as usize)
}

#[cfg(not(target_feature = "simd128"))]
#[inline(always)]
pub(super) fn first_special(block: &[u8; BYTES]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; BYTES]);
    const HIGHEST: u64 = ONES << 7;
    let block = u64::from_le_bytes(*block);
    // The highest bit of each byte that is special. Of several the lowest is right, those above it may be wrong.
    let below = |limit: u8, bytes: u64| bytes.wrapping_sub(ONES * u64::from(limit)) & !bytes;
    let control = below(b' ', block);
    let quotation = below(1, block ^ (ONES * u64::from(b'"')));
    let backslash = below(1, block ^ (ONES * u64::from(b'\\')));
    let special = (control | quotation | backslash) & HIGHEST;
    (special != 0).then(|| special.trailing_zeros() as usize / 8)
}
