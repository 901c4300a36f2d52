#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quantix_fuzz::frames::run(data));
