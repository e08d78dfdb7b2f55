//! Real evidence: all of it is accepted at its time, and none of it with a bit changed that something covers.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use base64ct::{Base64, Encoding};
use serde_json::{Map, Value, json};

use super::fixture::{Object, bytes, cases, named, text, time, vectors};
use super::*;
use crate::attest::Claims;
use crate::crypto::hex;
use crate::crypto::sha256;
use crate::kernel::Timestamp;

fn attestation(case: &Map<String, Value>) -> Result<Claims, Refused> {
    verify_attestation_case(case, &ApplePolicy::default(), time(case, "verify_at"))
}

fn assertion(case: &Map<String, Value>) -> Result<Claims, Refused> {
    verify_assertion_case(case, &ApplePolicy::default(), Timestamp::EPOCH)
}

/// At the moment when it was made, as receipts name no other.
fn receipt(case: &Map<String, Value>) -> Result<Claims, Refused> {
    verify_receipt_case(case, &ApplePolicy::default(), time(case, "creation_time"))
}

#[test]
fn every_real_attestation_is_accepted_at_its_time_with_what_it_states() {
    let Some(cases) = cases("attestations.json", "attestations") else { return };
    assert_eq!(cases.len(), 7);
    for case in &cases {
        let name = text(case, "name");
        let claims = attestation(case).unwrap_or_else(|e| unreachable!("{name}: {e}"));
        assert_eq!(claims["public_key_spki_b64"], case["expected_public_key_spki_b64"], "{name}");
        assert_eq!(claims["nonce_hex"], case["expected_nonce_hex"], "{name}");
        assert_eq!(claims["environment"], case["environment"], "{name}");
        assert_eq!(claims["key_id_b64"], case["key_id_b64"], "{name}");
        assert_eq!(claims["root"], "Apple App Attestation Root CA", "{name}");
        let extensions = case.get("expected_extensions").cloned().unwrap_or_else(|| json!({}));
        assert_eq!(claims["extensions"], extensions, "{name}");
    }
}

#[test]
fn the_receipt_inside_every_attestation_is_genuine_and_for_the_same_key() {
    let Some(cases) = cases("attestations.json", "attestations") else { return };
    for case in &cases {
        let name = text(case, "name");
        let expected = case["receipt"].as_object().unwrap();
        let key = bytes(case, "expected_public_key_spki_b64");
        let object = Object::read(&bytes(case, "attestation_object_b64"));
        let receipt = Receipt {
            app_id: text(case, "app_id"),
            public_key_spki: Some(&key),
            environment: None,
            receipt: &object.receipt,
        };
        // The phones' clocks are a little behind Apple's: three seconds, where it was measured.
        let received = receipt
            .verify(&ApplePolicy::default(), &AppleRoots::bundled().unwrap(), time(case, "verify_at"))
            .unwrap_or_else(|e| unreachable!("{name}: {e}"));
        let claims = received.claims();
        for member in ["type", "environment", "creation_time", "expiration_time", "client_hash_hex"] {
            assert_eq!(claims[member], expected[member], "{name}: {member}");
        }
        assert_eq!(received.attested_leaf_sha256, sha256(&object.x5c[0]), "{name}");
        let other = Receipt { public_key_spki: Some(&key[1..]), ..receipt };
        let verdict = other.verify(&ApplePolicy::default(), &AppleRoots::bundled().unwrap(), time(case, "verify_at"));
        assert_eq!(verdict.unwrap_err().reason, "public_key");
    }
}

#[test]
fn every_real_assertion_is_accepted() {
    let Some(cases) = cases("assertions.json", "assertions") else { return };
    assert_eq!(cases.len(), 6);
    for case in &cases {
        let claims = assertion(case).unwrap_or_else(|e| unreachable!("{}: {e}", text(case, "name")));
        assert_eq!(claims["counter"], case["counter"]);
    }
}

#[test]
fn every_real_receipt_is_accepted_when_it_is_made_with_what_it_states() {
    let Some(cases) = cases("receipts.json", "receipts") else { return };
    assert_eq!(cases.len(), 15);
    for case in &cases {
        let name = text(case, "name");
        let claims = receipt(case).unwrap_or_else(|e| unreachable!("{name}: {e}"));
        for member in ["type", "environment", "risk_metric", "client_hash_hex", "token_b64", "attested_leaf_sha256"] {
            assert_eq!(claims[member], case[member], "{name}: {member}");
        }
        for member in ["creation_time", "expiration_time", "not_before"] {
            // Apple leaves zeros at the end out, we do not.
            let moment = |value: &Value| value.as_str().map(|text| text.parse::<Timestamp>().unwrap());
            assert_eq!(moment(&claims[member]), moment(&case[member]), "{name}: {member}");
        }
        assert_eq!(claims["root"], "Apple Root CA - G3", "{name}");
    }
}

#[test]
fn a_receipt_has_five_minutes_and_a_little_for_clocks_and_its_signer_an_end() {
    let Some(cases) = cases("receipts.json", "receipts") else { return };
    let case = cases.iter().find(|case| case["type"] == "RECEIPT").unwrap();
    let created = time(case, "creation_time").as_millis();
    let at = |policy: &ApplePolicy, ms: i64| {
        verify_receipt_case(case, policy, Timestamp::from_millis(created + ms))
            .map_or_else(|e| e.reason, |_| "accepted")
    };
    let year = ApplePolicy { receipt_age_max_s: 40_000_000, ..ApplePolicy::default() };
    for (policy, ms, verdict) in [
        (&ApplePolicy::default(), 300_000, "accepted"),
        (&ApplePolicy::default(), 300_001, "receipt_too_old"),
        (&ApplePolicy::default(), -60_000, "accepted"),
        (&ApplePolicy::default(), -60_001, "receipt_from_the_future"),
        // Ninety days are its life; the signer's certificate ends in June 2021.
        (&year, 90 * 86_400_000 - 1, "accepted"),
        (&year, 90 * 86_400_000, "receipt_expired"),
        (&year, 220 * 86_400_000, "certificate_expired"),
    ] {
        assert_eq!(at(policy, ms), verdict, "{ms}");
    }
}

#[test]
fn the_policys_environments_limit_what_a_case_may_ask_for() {
    let Some(attestations) = cases("attestations.json", "attestations") else { return };
    let Some(receipts) = cases("receipts.json", "receipts") else { return };
    let policy = |environments: Option<Vec<Environment>>| ApplePolicy { environments, ..ApplePolicy::default() };
    let (development, production) = (Environment::Development, Environment::Production);
    let phone = named(&attestations, "veehaitch-ios-14.4");
    let shop = named(&attestations, "uebelack-production");
    let without = |case: &Map<String, Value>| {
        let mut case = case.clone();
        case.remove("environment");
        case
    };
    for (case, environments, accepted) in [
        (phone.clone(), None, true),
        (phone.clone(), Some(vec![production]), false),
        (phone.clone(), Some(vec![development]), true),
        (phone.clone(), Some(vec![]), false),
        (without(&phone), None, false),
        (without(&phone), Some(vec![development, production]), true),
        (shop.clone(), Some(vec![development]), false),
        (without(&shop), None, true),
        (without(&shop), Some(vec![development]), false),
    ] {
        let verdict = verify_attestation_case(&case, &policy(environments.clone()), time(&case, "verify_at"));
        assert_eq!(verdict.map_err(|e| e.reason).err(), (!accepted).then_some("environment"), "{environments:?}");
    }
    for (case, environments, accepted) in [
        (receipts[0].clone(), Some(vec![production]), false),
        (receipts[0].clone(), Some(vec![development]), true),
        (without(&receipts[0]), None, true),
        (without(&receipts[0]), Some(vec![production]), false),
    ] {
        let verdict = verify_receipt_case(&case, &policy(environments.clone()), time(&case, "creation_time"));
        assert_eq!(verdict.map_err(|e| e.reason).err(), (!accepted).then_some("environment"), "{environments:?}");
    }
}

#[test]
fn a_policy_names_what_it_sets_and_nothing_else() {
    let read = |text: &str| toml::from_str::<ApplePolicy>(text);
    assert_eq!(read("").unwrap(), ApplePolicy::default());
    let policy = read("environments = [\"development\", \"production\"]\nreceipt_age_max_s = 60").unwrap();
    assert_eq!(policy.environments, Some(vec![Environment::Development, Environment::Production]));
    assert_eq!((policy.receipt_age_max_s, policy.clock_ahead_max_s), (60, 60));
    assert!(read("receipt_age_s = 60").is_err());
    assert!(read("environments = [\"staging\"]").is_err());
}

#[test]
fn the_bundled_roots_are_those_that_apple_publishes() {
    let roots = AppleRoots::bundled().unwrap();
    assert_eq!((roots.app_attestation.iter().count(), roots.receipts.iter().count()), (1, 1));
    for (pem, fingerprint) in [
        (
            include_str!("../roots/apple_app_attestation_root_ca.pem"),
            "1cb9823ba28ba6ad2d33a006941de2ae4f513ef1d4e831b9f7e0fa7b6242c932",
        ),
        (
            include_str!("../roots/apple_root_ca_g3.pem"),
            "63343abfb89a6a03ebb57e9b3f5fa7be7c4f5c756f3017b3a8c488c3653e9179",
        ),
    ] {
        let ders = crate::attest::chain::parse_pem_chain(pem).unwrap();
        assert_eq!(hex(&sha256(&ders[0])), fingerprint);
    }
}

#[test]
fn a_case_that_cannot_be_read_is_refused_and_says_which_member() {
    let Some(file) = vectors("attestations.json") else { return };
    let good = file["attestations"][0].as_object().unwrap().clone();
    let nested = Base64::encode_string(&[0x81; 60_000]);
    for (member, value, reason) in [
        ("app_id", json!(null), "malformed_input"),
        ("client_data_hash_hex", json!("abc"), "malformed_input"),
        ("client_data_hash_hex", json!("+1"), "malformed_input"),
        ("client_data_hash_hex", json!(""), "client_data_hash"),
        ("key_id_b64", json!("2o0syRGn1HDKDv85d522XBC9nLqrHWHGnt/mJ5hWMQM=="), "malformed_input"),
        ("environment", json!("staging"), "malformed_input"),
        ("environment", json!(7), "malformed_input"),
        ("attestation_object_b64", json!("A".repeat(10_000_000)), "too_long"),
        ("attestation_object_b64", json!(""), "attestation_form"),
        ("attestation_object_b64", json!(nested), "attestation_form"),
    ] {
        let mut case = good.clone();
        case.insert(member.to_owned(), value.clone());
        assert_eq!(attestation(&case).unwrap_err().reason, reason, "{member}");
    }
    let open = Base64::encode_string(&[0x30, 0x80].repeat(30_000));
    let claimed = Base64::encode_string(&[0x30, 0x88, 0x80, 0, 0, 0, 0, 0, 0, 0]);
    for text in [open, claimed, String::new()] {
        let case = json!({"app_id": "a.b", "receipt_b64": text}).as_object().unwrap().clone();
        let verdict = verify_receipt_case(&case, &ApplePolicy::default(), Timestamp::EPOCH);
        assert_eq!(verdict.unwrap_err().reason, "receipt_form");
    }
    for counter in [json!(null), json!(-1), json!("0"), json!(0.5), json!(4_294_967_296_u64)] {
        let case = json!({"app_id": "a.b", "public_key_spki_b64": "", "client_data_b64": "", "assertion_b64": "",
            "previous_counter": counter});
        assert_eq!(assertion(case.as_object().unwrap()).unwrap_err().reason, "malformed_input", "{counter}");
    }
    assert!(attestation(&good).is_ok());
}

#[test]
fn ten_megabytes_of_nesting_are_refused_before_they_are_read() {
    let roots = AppleRoots::bundled().unwrap();
    let policy = ApplePolicy::default();
    let object = vec![0x81; 10_000_000];
    let attestation =
        Attestation { app_id: "a", client_data_hash: &[0; 32], key_id: &[], environment: None, object: &object };
    assert_eq!(attestation.verify(&policy, &roots, Timestamp::EPOCH).unwrap_err().reason, "attestation_form");
    let assertion =
        Assertion { app_id: "a", public_key_spki: &[], client_data: &[], previous_counter: 0, assertion: &object };
    assert_eq!(assertion.verify().unwrap_err().reason, "assertion_form");
    let nested = [0x30, 0x80].repeat(5_000_000);
    let receipt = Receipt { app_id: "a", public_key_spki: None, environment: None, receipt: &nested };
    assert_eq!(receipt.verify(&policy, &roots, Timestamp::EPOCH).unwrap_err().reason, "receipt_form");
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_a_verifier_panic(raw: Vec<u8>, at in 0_usize..200, with: u8) {
        let mut data = [[7; 32].to_vec(), vec![0x40, 0, 0, 0, 1], raw.clone()].concat();
        if let Some(byte) = data.get_mut(at) {
            *byte = with;
        }
        let _ = authenticator::parse_attestation(&data);
        let _ = authenticator::parse_assertion(&data);
        let _ = cms::SignedData::parse(&raw);
        let assertion = Assertion {
            app_id: "a",
            public_key_spki: &raw,
            client_data: &raw,
            previous_counter: 0,
            assertion: &raw,
        };
        proptest::prop_assert!(assertion.verify().is_err());
    }
}
