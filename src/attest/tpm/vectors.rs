//! Synthetic quotes, a real quote and real boot logs, each with the result that its file says, and changed ones.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;

use base64ct::{Base64, Encoding};

use super::*;

/// The shared folder lies beside the repository. Absent altogether: skip; a missing file in it: fail.
#[expect(clippy::panic, reason = "tests")]
fn shared(file: &str) -> Option<Vec<u8>> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    if !shared.exists() {
        eprintln!("skipped: the shared vectors are not here");
        return None;
    }
    let path = shared.join("vectors/tpm").join(file);
    Some(std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

/// The synthetic cases, each merged with the file's own members.
fn synthetic() -> Vec<Map<String, Value>> {
    let Some(text) = shared("synthetic_quotes.json") else { return Vec::new() };
    let mut top: Map<String, Value> = serde_json::from_slice(&text).unwrap();
    let cases = top.remove("cases").unwrap();
    let merge = |case: &Value| {
        let mut merged = top.clone();
        merged.extend(case.as_object().unwrap().clone());
        merged
    };
    cases.as_array().unwrap().iter().map(merge).collect()
}

fn real() -> Option<Map<String, Value>> {
    shared("real_quote_gcp_windows.json").map(|text| serde_json::from_slice(&text).unwrap())
}

/// What the real quote needs: it was made in a test, with SHA-1 and without a nonce.
fn lenient() -> TpmPolicy {
    TpmPolicy { allow_sha1_bank: true, allow_sha1_signature: true, allow_empty_nonce: true, ..TpmPolicy::default() }
}

fn quote(case: &Map<String, Value>, policy: &TpmPolicy) -> Result<Claims, Refused> {
    verify_quote_case(case, policy, Timestamp::EPOCH)
}

fn reason(case: &Map<String, Value>, policy: &TpmPolicy) -> &'static str {
    quote(case, policy).map_or_else(|refused| refused.reason, |_| "accept")
}

fn log_case(file: &str) -> Option<Map<String, Value>> {
    let bytes = shared(&format!("eventlogs/{file}"))?;
    Some(Map::from_iter([("eventlog_b64".to_owned(), json!(Base64::encode_string(&bytes)))]))
}

fn judge_log(case: &Map<String, Value>, policy: &TpmPolicy) -> Result<Claims, Refused> {
    verify_eventlog_case(case, policy, Timestamp::EPOCH)
}

/// What `policy` means in the file: both are refused by default, and a switch admits each.
#[test]
fn every_synthetic_quote_comes_out_as_its_file_says() {
    let expected = [
        ("ok", "accept"),
        ("wrong-nonce", "nonce"),
        ("empty-nonce", "nonce"),
        ("bad-magic-validly-signed", "magic"),
        ("type-certify-validly-signed", "attest_type"),
        ("pcr-value-changed", "pcr_digest"),
        ("selection-missing-pcr7", "pcr_selection"),
        ("selection-sha1-bank", "pcr_bank"),
        ("trailing-bytes-validly-signed", "malformed"),
        ("truncated-validly-signed", "malformed"),
        ("length-overrun", "malformed"),
        ("other-key", "signature"),
        ("sig-scheme-rsassa-tag", "malformed"),
        ("sig-hash-sha1-tag", "algorithm"),
        ("sig-r-zero", "signature"),
        ("ak-not-restricted", "ak_attributes"),
        ("ak-not-fixedtpm", "ak_attributes"),
        ("ak-decrypt", "ak_attributes"),
        ("clock-not-safe", "clock_not_safe"),
        ("reset-count-changed", "reset_count_changed"),
    ];
    let cases = synthetic();
    if cases.is_empty() {
        return;
    }
    assert_eq!(cases.len(), expected.len());
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let due = expected.iter().find(|(known, _)| *known == name).unwrap().1;
        assert_eq!(reason(case, &TpmPolicy::default()), due, "{name}");
        let switched = TpmPolicy { require_safe_clock: false, allow_reset: true, ..TpmPolicy::default() };
        assert_eq!(reason(case, &switched) == "accept", case["expected"] != "reject", "{name} with both switches");
    }
}

#[test]
fn the_real_quote_is_genuine_and_not_good_enough() {
    let Some(case) = real() else { return };
    assert_eq!(reason(&case, &TpmPolicy::default()), "algorithm");
    for (policy, due) in [
        (TpmPolicy { allow_sha1_signature: false, ..lenient() }, "algorithm"),
        (TpmPolicy { allow_sha1_bank: false, ..lenient() }, "pcr_bank"),
        (TpmPolicy { allow_empty_nonce: false, ..lenient() }, "nonce"),
        (TpmPolicy { require_ak_binding: true, ..lenient() }, "ak_unbound"),
    ] {
        assert_eq!(reason(&case, &policy), due);
    }
    let claims = quote(&case, &TpmPolicy { require_secure_boot: true, ..lenient() }).unwrap();
    assert_eq!(claims["ak_name"], case["expected"]["ak_name_hex"]);
    assert_eq!(claims["ak_key"], "rsa-2048");
    assert_eq!(claims["signature"], "rsassa-sha1");
    assert_eq!(claims["pcrs"].as_object().unwrap().len(), 24);
    assert_eq!(claims["event_log"]["secure_boot"]["enabled"], true);
    assert_eq!(claims["event_log"]["compared_pcrs"]["sha1"], json!([0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 14]));
}

#[test]
fn the_key_the_values_and_the_counters_must_be_those_that_are_known() {
    let Some(ok) = synthetic().into_iter().next() else { return };
    let with = |name: &str, value: Value| {
        let mut case = ok.clone();
        case.insert(name.to_owned(), value);
        case
    };
    let standard = TpmPolicy::default();
    for (case, due) in [
        (with("ak_name_hex", json!("000b00")), "ak_name"),
        (with("stored_reset_count", json!(2)), "reset_count_changed"),
        (with("stored_reset_count", json!(4)), "counter_rolled_back"),
        (with("stored_restart_count", json!(2)), "counter_rolled_back"),
        (with("stored_restart_count", json!(1)), "accept"),
        (with("stored_clock_ms", json!(u64::MAX)), "counter_rolled_back"),
        (with("stored_clock_ms", json!(1)), "accept"),
        (with("required_pcrs", json!([0, 1, 2, 3, 4, 5, 6])), "pcr_selection"),
        (with("required_pcrs", json!([0, 1, 2, 3, 4, 5, 6, 7, 8])), "pcr_selection"),
        (with("required_pcrs", json!([24])), "malformed_input"),
        (with("pcr_bank", json!("sha1")), "pcr_value"),
        (with("pcr_bank", json!("md5")), "malformed_input"),
        (with("pcr_values", json!({"0": "00"})), "pcr_value"),
        (with("pcr_values", json!({"00": "00"})), "malformed_input"),
        (with("pcr_values", json!({})), "pcr_value"),
        (with("nonce_hex", json!("")), "nonce"),
        (with("nonce_hex", json!("xx")), "malformed_input"),
    ] {
        assert_eq!(reason(&case, &standard), due);
    }
    let pin = |pcr: &str, value: &Value| TpmPolicy {
        pcr_values: BTreeMap::from([(pcr.to_owned(), vec!["ff".repeat(32), value.as_str().unwrap().to_owned()])]),
        ..TpmPolicy::default()
    };
    assert_eq!(reason(&ok, &pin("7", &ok["pcr_values"]["7"])), "accept");
    assert_eq!(reason(&ok, &pin("7", &ok["pcr_values"]["6"])), "pcr_policy");
    assert_eq!(
        reason(&ok, &pin("07", &ok["pcr_values"]["7"])),
        "pcr_policy",
        "another spelling pins nothing by mistake"
    );
    assert_eq!(reason(&ok, &pin("9", &ok["pcr_values"]["6"])), "pcr_policy");
    assert_eq!(reason(&ok, &TpmPolicy { require_event_log: true, ..TpmPolicy::default() }), "eventlog_missing");
}

/// A structure has one length.
#[test]
fn no_part_of_an_accepted_quote_can_be_cut() {
    let Some(ok) = synthetic().into_iter().next() else { return };
    assert_eq!(reason(&ok, &TpmPolicy::default()), "accept");
    for member in ["ak_public_b64", "attest_b64", "signature_b64"] {
        let bytes = Base64::decode_vec(ok[member].as_str().unwrap()).unwrap();
        for cut in 0..bytes.len() {
            let mut changed = ok.clone();
            changed.insert(member.to_owned(), json!(Base64::encode_string(&bytes[..cut])));
            assert_ne!(reason(&changed, &TpmPolicy::default()), "accept", "{member} cut at {cut}");
        }
    }
}

#[test]
fn all_real_boot_logs_are_read() {
    for (file, format, banks, events, secure_boot) in [
        ("crypto_agile_eventlog.bin", "crypto_agile", json!(["sha256"]), 27, json!(false)),
        ("ebs_event_missing_eventlog.bin", "sha1", json!(["sha1"]), 38, json!(false)),
        ("sb_cert_eventlog.bin", "crypto_agile", json!(["sha1", "sha256", "sha384"]), 15, json!(true)),
        ("short_no_action_eventlog.bin", "sha1", json!(["sha1"]), 1, Value::Null),
    ] {
        let Some(case) = log_case(file) else { return };
        let claims = judge_log(&case, &TpmPolicy::default()).unwrap();
        assert_eq!(claims["format"], format, "{file}");
        assert_eq!(claims["banks"], banks, "{file}");
        assert_eq!(claims["events"].as_array().unwrap().len(), events, "{file}");
        assert_eq!(claims["secure_boot"]["enabled"], secure_boot, "{file}");
        assert_eq!(claims["secure_boot"]["proven"], false, "{file}: nothing was compared");
        assert_eq!(claims["compared_pcrs"], json!({}), "{file}");
        let strict = TpmPolicy { require_pcr_values: true, ..TpmPolicy::default() };
        assert_eq!(judge_log(&case, &strict).unwrap_err().reason, "pcr_value", "{file}");
        let boot = TpmPolicy { require_secure_boot: true, ..TpmPolicy::default() };
        assert_eq!(judge_log(&case, &boot).unwrap_err().reason, "secure_boot", "{file}");
        // Whatever replays is accepted, and no register may have another value.
        for bank in banks.as_array().unwrap() {
            let bank = bank.as_str().unwrap();
            if claims["replayed_pcrs"][bank] == json!({}) {
                continue;
            }
            let mut with_values = case.clone();
            with_values.insert("pcrs".to_owned(), claims["replayed_pcrs"][bank].clone());
            with_values.insert("pcr_bank".to_owned(), json!(bank));
            let compared = judge_log(&with_values, &TpmPolicy::default()).unwrap()["compared_pcrs"][bank].clone();
            let pcrs = claims["replayed_pcrs"][bank].as_object().unwrap();
            assert_eq!(compared.as_array().unwrap().len(), pcrs.len(), "{file}");
            for pcr in pcrs.keys() {
                let mut changed = with_values.clone();
                let mut bytes = unhex(pcrs[pcr].as_str().unwrap()).unwrap();
                bytes[19] ^= 0x80;
                changed["pcrs"][pcr] = json!(hex(&bytes));
                assert_eq!(judge_log(&changed, &TpmPolicy::default()).unwrap_err().reason, "eventlog_mismatch");
            }
        }
    }
}

#[test]
fn forgotten_exit_boot_services_are_forgiven_only_where_the_policy_says_so() {
    let Some(mut case) = log_case("ebs_event_missing_eventlog.bin") else { return };
    let log = EventLog::parse(&Base64::decode_vec(case["eventlog_b64"].as_str().unwrap()).unwrap()).unwrap();
    let mut known = log.replay(Hash::Sha1);
    // What the firmware of that machine measured and did not log.
    for text in ["Exit Boot Services Invocation", "Exit Boot Services Returned with Success"] {
        let measured = Hash::Sha1.extend(&known[&5], &Hash::Sha1.digest(text.as_bytes()));
        known.insert(5, measured);
    }
    case.insert("pcrs".to_owned(), registers_json(&known));
    assert_eq!(judge_log(&case, &TpmPolicy::default()).unwrap_err().reason, "eventlog_mismatch");
    let forgiving = TpmPolicy { ebs_missing_workaround: true, ..TpmPolicy::default() };
    assert!(judge_log(&case, &forgiving).is_ok());
    known.insert(4, known[&5].clone());
    case.insert("pcrs".to_owned(), registers_json(&known));
    assert_eq!(judge_log(&case, &forgiving).unwrap_err().reason, "eventlog_mismatch", "PCR 5 alone is forgiven");
}

#[test]
fn what_a_log_says_of_secure_boot_must_have_been_measured() {
    let Some(mut case) = log_case("sb_cert_eventlog.bin") else { return };
    let bytes = Base64::decode_vec(case["eventlog_b64"].as_str().unwrap()).unwrap();
    let log = EventLog::parse(&bytes).unwrap();
    case.insert("pcrs".to_owned(), registers_json(&log.replay(Hash::Sha256)));
    let boot = TpmPolicy { require_secure_boot: true, ..TpmPolicy::default() };
    assert!(judge_log(&case, &boot).is_ok());
    // Secure Boot said by data that was never measured.
    let at = bytes.windows(20).position(|w| w == b"S\0e\0c\0u\0r\0e\0B\0o\0o\0t\0").unwrap() + 20;
    assert_eq!(bytes[at], 1);
    let mut turned = bytes.clone();
    turned[at] = 0;
    let mut changed = case.clone();
    changed.insert("eventlog_b64".to_owned(), json!(Base64::encode_string(&turned)));
    assert_eq!(judge_log(&changed, &boot).unwrap_err().reason, "eventlog_data");
    for cut in (1..bytes.len()).step_by(13) {
        let verdict = EventLog::parse(&bytes[..bytes.len() - cut]);
        // A log that ends between two events is a shorter log, which the registers give away.
        if let Ok(shorter) = verdict {
            assert_ne!(shorter.replay(Hash::Sha256), log.replay(Hash::Sha256));
        }
    }
}
