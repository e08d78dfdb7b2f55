//! Fuzzes `entries::android_status_list`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blockremote_fuzz::entries::android_status_list(data));
