//! Fuzzes `entries::android_statement`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blockremote_fuzz::entries::android_statement(data));
