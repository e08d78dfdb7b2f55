//! Fuzzes `entries::tpm_event_log`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blockremote_fuzz::entries::tpm_event_log(data));
