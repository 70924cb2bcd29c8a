//! libFuzzer's way to [`vnpu_fuzz::usage`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vnpu_fuzz::usage(bytes));
