//! See `servable_fuzz::token`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| servable_fuzz::token(data));
