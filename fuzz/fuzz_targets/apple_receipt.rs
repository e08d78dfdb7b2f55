//! Fuzzes `entries::apple_receipt`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blockremote_fuzz::entries::apple_receipt(data));
