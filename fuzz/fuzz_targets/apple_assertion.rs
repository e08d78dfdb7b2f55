//! Fuzzes `entries::apple_assertion`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blockremote_fuzz::entries::apple_assertion(data));
