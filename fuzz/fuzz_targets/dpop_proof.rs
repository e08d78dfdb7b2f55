//! Fuzzes `entries::dpop_proof`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blockremote_fuzz::entries::dpop_proof(data));
