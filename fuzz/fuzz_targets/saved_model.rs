//! See `servable_fuzz::saved_model`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| servable_fuzz::saved_model(data));
