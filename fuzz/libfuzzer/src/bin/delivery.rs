//! libFuzzer's way to `fuzz_targets::delivery`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_targets::delivery(bytes));
