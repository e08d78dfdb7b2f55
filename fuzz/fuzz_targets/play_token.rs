//! Fuzzes `entries::play_token`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blockremote_fuzz::entries::play_token(data));
