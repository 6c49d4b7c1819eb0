//! libFuzzer's way to `fuzz_targets::state_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_targets::state_file(bytes));
