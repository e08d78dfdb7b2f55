//! Fuzzes `entries::tpm_quote`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blockremote_fuzz::entries::tpm_quote(data));
