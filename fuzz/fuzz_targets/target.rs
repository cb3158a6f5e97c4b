//! See `servable_fuzz::target`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| servable_fuzz::target(data));
