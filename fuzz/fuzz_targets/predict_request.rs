//! See `servable_fuzz::predict_request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| servable_fuzz::predict_request(data));
