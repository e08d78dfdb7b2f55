//! Fuzzes `entries::jwt`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blockremote_fuzz::entries::jwt(data));
