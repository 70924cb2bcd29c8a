//! libFuzzer's way to [`vnpu_fuzz::chip`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vnpu_fuzz::chip(bytes));
