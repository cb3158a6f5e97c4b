//! See `servable_fuzz::json_examples`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| servable_fuzz::json_examples(data));
