//! See `servable_fuzz::session_run`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| servable_fuzz::session_run(data));
