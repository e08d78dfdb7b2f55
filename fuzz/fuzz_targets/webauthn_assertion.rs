//! Fuzzes `entries::webauthn_assertion`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blockremote_fuzz::entries::webauthn_assertion(data));
