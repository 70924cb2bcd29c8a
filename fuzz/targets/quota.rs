//! libFuzzer's way to [`vnpu_fuzz::quota`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vnpu_fuzz::quota(bytes));
