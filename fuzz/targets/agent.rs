//! libFuzzer's way to [`vnpu_fuzz::agent`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vnpu_fuzz::agent(bytes));
