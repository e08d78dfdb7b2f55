//! Fuzzes `entries::apple_attestation`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blockremote_fuzz::entries::apple_attestation(data));
