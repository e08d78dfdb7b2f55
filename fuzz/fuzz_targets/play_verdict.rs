//! Fuzzes `entries::play_verdict`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blockremote_fuzz::entries::play_verdict(data));
