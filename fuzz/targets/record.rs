#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| readside_fuzz::record(data));
