//! Fuzzes `entries::heartbeat`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blockremote_fuzz::entries::heartbeat(data));
