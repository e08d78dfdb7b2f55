//! Fuzzes `entries::webauthn_registration`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blockremote_fuzz::entries::webauthn_registration(data));
