//! The standard's own vectors, what real authenticators sent, and what becomes of both when they are changed.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;

use base64ct::{Base64UrlUnpadded, Encoding};
use proptest::prelude::ProptestConfig;

use super::*;

/// The shared folder lies beside the repository. Absent altogether: skip; a missing file in it: fail.
#[expect(clippy::panic, reason = "tests")]
fn vectors(file: &str) -> Option<Value> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    if !shared.exists() {
        eprintln!("skipped: the shared vectors are not here");
        return None;
    }
    let path = shared.join("vectors/webauthn").join(file);
    let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Some(serde_json::from_slice(&text).unwrap())
}

/// The cases under `list`, each merged with the file's own top-level members.
fn cases(file: &str, list: &str) -> Vec<Map<String, Value>> {
    let Some(file) = vectors(file) else { return Vec::new() };
    let mut top = file.as_object().unwrap().clone();
    let cases = top.remove(list).unwrap();
    let merge = |case: &Value| {
        let mut merged = top.clone();
        merged.extend(case.as_object().unwrap().clone());
        merged
    };
    cases.as_array().unwrap().iter().map(merge).collect()
}

/// A time at which the case's certificates are valid.
fn time(case: &Map<String, Value>) -> Timestamp {
    match case.get("chain_window").and_then(Value::as_array) {
        Some(window) => {
            window[0].as_str().unwrap().parse::<Timestamp>().unwrap().plus(std::time::Duration::from_secs(1))
        }
        None => "2026-01-01T00:00:00Z".parse().unwrap(),
    }
}

fn name(case: &Map<String, Value>) -> String {
    format!("{} {}", case["name"], case["fmt"])
}

fn register_default(case: &Map<String, Value>) -> Result<Claims, Refused> {
    verify_registration_case(case, &WebauthnPolicy::default(), time(case))
}

fn all() -> Vec<Map<String, Value>> {
    [cases("w3c_l3.json", "cases"), cases("real_registrations.json", "registrations")].concat()
}

/// The attestation object of a case, and how to put another in its place.
fn object_of(case: &Map<String, Value>) -> Vec<u8> {
    let made = Members(case).inner("registration").unwrap().unwrap_or(Members(case));
    made.required(&["attestation_object_hex", "attestation_object_b64url"]).unwrap()
}

fn with_object(case: &Map<String, Value>, object: &[u8]) -> Map<String, Value> {
    let mut changed = case.clone();
    match changed.get_mut("registration") {
        Some(made) => made["attestation_object_hex"] = json!(hex(object)),
        None => {
            changed.insert("attestation_object_b64url".to_owned(), json!(Base64UrlUnpadded::encode_string(object)));
        }
    }
    changed
}

#[test]
fn every_registration_comes_out_as_its_file_says() {
    for case in all() {
        let name = name(&case);
        let claims = register_default(&case).unwrap_or_else(|e| unreachable(&name, &e));
        assert_eq!(claims["fmt"], case["fmt"], "{name}");
        assert_eq!(claims["cose_alg"], case["cose_alg"], "{name}");
        assert_eq!(claims["aaguid"], case["aaguid_hex"], "{name}");
        let certified = !matches!(claims["attestation"].as_str(), Some("none" | "self"));
        let root = case.contains_key("attestation_root_cert_der_hex") || case["root"].is_string();
        assert_eq!(claims["trusted"], certified && root, "{name}");
        let strict = WebauthnPolicy { require_trusted_chain: Some(true), ..WebauthnPolicy::default() };
        let verdict = verify_registration_case(&case, &strict, time(&case));
        assert_eq!(verdict.is_ok(), !certified || root, "{name}");
    }
}

#[expect(clippy::panic, reason = "tests")]
fn unreachable(name: &str, e: &Refused) -> Claims {
    panic!("{name}: {e}")
}

#[test]
fn every_assertion_comes_out_as_its_file_says() {
    for case in cases("w3c_l3.json", "cases") {
        let verdict = verify_assertion_case(&case, &WebauthnPolicy::default(), time(&case));
        assert_eq!(verdict.unwrap()["type"], "webauthn-assertion");
    }
}

#[test]
fn each_rule_of_the_policy_counts() {
    let all = all();
    if all.is_empty() {
        return;
    }
    let find = |part: &str| all.iter().find(|case| name(case).contains(part)).unwrap();
    let base = WebauthnPolicy::default;
    let surface = find("surface_pro_4");
    for (case, policy, reason) in [
        (surface, WebauthnPolicy { allow_tpm_rs1: false, ..base() }, "signature_algorithm"),
        (surface, WebauthnPolicy { tpm_vendors: vec!["4E544300".to_owned()], ..base() }, "tpm_vendor"),
        (surface, WebauthnPolicy { formats: vec!["packed".to_owned()], ..base() }, "format"),
        (surface, WebauthnPolicy { aaguids: vec!["00".repeat(16)], ..base() }, "aaguid"),
        (find("crossOrigin"), WebauthnPolicy { allow_cross_origin: false, ..base() }, "cross_origin"),
        (find("w3c-packed-self"), WebauthnPolicy { allow_self_attestation: Some(false), ..base() }, "self_attestation"),
        (find("w3c-packed-eddsa"), WebauthnPolicy { require_user_verification: true, ..base() }, "user_unverified"),
        (find("w3c-android-key"), WebauthnPolicy { require_android_hardware: Some(true), ..base() }, "key_description"),
    ] {
        let verdict = verify_registration_case(case, &policy, time(case));
        assert_eq!(verdict.unwrap_err().reason, reason, "{}", name(case));
    }
    let pixel = find("android_key_hardware");
    let strict = WebauthnPolicy { require_android_hardware: Some(true), require_trusted_chain: Some(true), ..base() };
    assert_eq!(verify_registration_case(pixel, &strict, time(pixel)).unwrap()["security_level"], "trusted_environment");
    let known = WebauthnPolicy {
        tpm_vendors: vec!["494e5443".to_owned()],
        aaguids: vec!["08987058CADC4B81B6E130DE50DCBE96".to_owned()],
        ..base()
    };
    assert!(verify_registration_case(surface, &known, time(surface)).is_ok());
}

/// What makes no statement about a make, or one that nobody vouches for, is not a make shown.
#[test]
fn where_a_make_must_be_shown_the_defaults_are_strict_and_the_operators_own_words_stand() {
    let asked = WebauthnPolicy::default().for_a_make();
    for case in all() {
        let name = name(&case);
        let trusted = register_default(&case).unwrap_or_else(|e| unreachable(&name, &e))["trusted"] == true;
        // The recommendation's own example says neither where the key was made nor what it is for.
        let example = name.contains("w3c-android-key");
        let verdict = verify_registration_case(&case, &asked, time(&case));
        assert_eq!(verdict.is_ok(), trusted && !example, "{name}");
        assert!(!example || verdict.is_err_and(|refused| refused.reason == "key_description"), "{name}");
    }
    let said = WebauthnPolicy {
        allow_self_attestation: Some(true),
        require_trusted_chain: Some(false),
        ..WebauthnPolicy::default()
    };
    let kept = said.clone().for_a_make();
    assert_eq!((kept.allow_self_attestation, kept.require_trusted_chain), (Some(true), Some(false)));
    assert_eq!(kept.require_android_hardware, Some(true), "what they do not say");
    assert!(!kept.formats.contains(&"none".to_owned()), "to say nothing is never to show a make");
}

#[test]
fn certificates_count_within_their_dates_and_under_their_root_only() {
    let all = all();
    for case in &all {
        let Ok(claims) = register_default(case) else { continue };
        if matches!(claims["attestation"].as_str(), Some("none" | "self")) {
            continue;
        }
        for moment in ["1969-06-01T00:00:00Z", "3025-01-01T00:00:00Z"] {
            let verdict = verify_registration_case(case, &WebauthnPolicy::default(), moment.parse().unwrap());
            let reason = verdict.unwrap_err().reason;
            assert!(matches!(reason, "certificate_not_yet_valid" | "certificate_expired"), "{}: {reason}", name(case));
        }
        // The root of another: one that was never asked.
        if claims["trusted"] == true {
            let mut changed = case.clone();
            changed.remove("attestation_root_cert_der_hex");
            let other =
                if case["fmt"] == "apple" { "microsoft_tpm_root_2014.pem" } else { "apple_webauthn_root_ca.pem" };
            changed.insert("root".to_owned(), json!(other));
            let reason = verify_registration_case(&changed, &WebauthnPolicy::default(), time(case)).unwrap_err().reason;
            assert_eq!(reason, "root_unknown", "{}", name(case));
        }
    }
}

/// A statement moved to another registration: genuine in every part, and about something else.
#[test]
fn a_statement_vouches_for_its_own_credential_only() {
    let cases = cases("w3c_l3.json", "cases");
    for one in &cases {
        for other in &cases {
            if one["name"] == other["name"] || one["fmt"] == "none" || name(one).contains("crossOrigin") {
                continue;
            }
            // The object of `one` within the ceremony of `other`.
            let verdict = register_default(&with_object(other, &object_of(one)));
            assert!(verdict.is_err(), "{} in the ceremony of {}", name(one), name(other));
        }
    }
}

#[test]
fn a_length_of_two_to_the_sixty_third_is_refused() {
    let Some(case) = cases("w3c_l3.json", "cases").into_iter().find(|c| c["fmt"] == "tpm") else { return };
    for head in [0x5b_u8, 0x7b, 0x9b, 0xbb] {
        let mut object = object_of(&case);
        let at = object.windows(7).position(|w| w == b"attStmt").unwrap() + 7;
        object.splice(at..=at, [head, 0x80, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(register_default(&with_object(&case, &object)).unwrap_err().reason, "attestation_object");
    }
}

#[test]
fn a_case_that_lacks_a_member_is_told_so() {
    let Some(case) = cases("w3c_l3.json", "cases").into_iter().next() else { return };
    for member in ["rp_id", "origin"] {
        let mut changed = case.clone();
        changed.remove(member);
        assert_eq!(register_default(&changed).unwrap_err().reason, "malformed_input");
        changed.insert(member.to_owned(), json!(7));
        assert_eq!(register_default(&changed).unwrap_err().reason, "malformed_input");
    }
    let verdict = verify_assertion_case(&Map::new(), &WebauthnPolicy::default(), Timestamp::EPOCH);
    assert_eq!(verdict.unwrap_err().reason, "malformed_input");
}

#[test]
fn a_policy_is_read_strictly() {
    let policy: WebauthnPolicy = toml::from_str("allow_tpm_rs1 = false").unwrap();
    assert_eq!(policy, WebauthnPolicy { allow_tpm_rs1: false, ..WebauthnPolicy::default() });
    assert!(toml::from_str::<WebauthnPolicy>("allow_tpm_rs2 = false").is_err());
}

proptest::proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_bytes_make_the_verifiers_panic(pick in 0_usize..20, at in 0_usize..4000, with: [u8; 8], cut in 0_usize..4000) {
        let all = all();
        if let Some(case) = all.get(pick) {
            let mut object = object_of(case);
            let length = object.len();
            for (offset, byte) in with.iter().enumerate() {
                object[(at + offset) % length] = *byte;
            }
            let _ = register_default(&with_object(case, &object));
            object.truncate(cut);
            let _ = register_default(&with_object(case, &object));
        }
    }
}
