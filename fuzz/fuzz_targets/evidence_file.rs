//! Fuzzes `entries::evidence_file`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blockremote_fuzz::entries::evidence_file(data));
