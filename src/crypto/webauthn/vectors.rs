//! Checks against the standard's own test vectors and against what real authenticators sent.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;

use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::Value;

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

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

fn hex(value: &Value, name: &str) -> Vec<u8> {
    let text = text(value, name);
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// The files mix both alphabets of base64, with and without padding.
fn base64(value: &Value, name: &str) -> Vec<u8> {
    let text = text(value, name).replace('+', "-").replace('/', "_");
    Base64UrlUnpadded::decode_vec(text.trim_end_matches('=')).unwrap()
}

fn flags(value: &Value) -> u8 {
    u8::from_str_radix(text(value, "flags_hex").trim_start_matches("0x"), 16).unwrap()
}

/// What a file says of a credential, as it must come out.
fn assert_fields(name: &str, found: &Registered, case: &Value, credential_id: &[u8]) {
    let bits = flags(case);
    assert_eq!(found.credential_id, credential_id, "{name}");
    assert_eq!(found.aaguid.to_vec(), hex(case, "aaguid_hex"), "{name}");
    assert_eq!(found.attestation.fmt, text(case, "fmt"), "{name}");
    assert_eq!(found.algorithm.cose_id(), case["cose_alg"].as_i64().unwrap(), "{name}");
    assert_eq!(found.user_verified, bits & 4 != 0, "{name}");
    assert_eq!(found.backup_eligible, bits & 8 != 0, "{name}");
    assert_eq!(found.backed_up, bits & 16 != 0, "{name}");
    let data = AuthenticatorData::parse(&found.attestation.authenticator_data).unwrap();
    assert_eq!(data.flags.bits(), bits, "{name}");
    let key = CoseKey::parse(&found.public_key_cose).unwrap();
    assert_eq!(key.algorithm(), found.algorithm, "{name}");
}

/// `bytes` with one bit of the authenticator data's flags turned, wherever the data stands in them.
fn flip_flag(bytes: &[u8], rp_id: &str, bit: u8) -> Vec<u8> {
    let hash = sha256(rp_id.as_bytes());
    let at = bytes.windows(32).position(|w| w == hash).unwrap() + 32;
    let mut out = bytes.to_vec();
    out[at] ^= bit;
    out
}

struct Case<'a> {
    name: &'a str,
    rp_id: &'a str,
    origins: Vec<String>,
    json: &'a Value,
}

impl<'a> Case<'a> {
    fn new(json: &'a Value) -> Self {
        let origins = vec!["https://other.example".to_owned(), text(json, "origin").to_owned()];
        Self { name: text(json, "name"), rp_id: text(json, "rp_id"), origins, json }
    }

    fn expected(&'a self, challenge: &'a [u8]) -> Expected<'a> {
        Expected {
            rp_id: self.rp_id,
            origins: &self.origins,
            challenge,
            user_verification_required: false,
            cross_origin_allowed: false,
            algorithms: &Algorithm::ALL,
        }
    }
}

/// Every expectation that a genuine answer fails when it is another.
fn assert_expectations_count<T: std::fmt::Debug + PartialEq>(
    name: &str,
    expected: &Expected<'_>,
    verified: bool,
    run: impl Fn(&Expected<'_>) -> Result<T, WebauthnError>,
) {
    let other = [0x55; 32];
    let nowhere = ["https://example.org.evil.example".to_owned()];
    for (changed, fault) in [
        (Expected { challenge: &other, ..*expected }, WebauthnError::Challenge),
        (Expected { challenge: &expected.challenge[1..], ..*expected }, WebauthnError::Challenge),
        (Expected { origins: &nowhere, ..*expected }, WebauthnError::Origin),
        (Expected { origins: &[], ..*expected }, WebauthnError::Origin),
        (Expected { rp_id: "evil.example", ..*expected }, WebauthnError::RpId),
    ] {
        assert_eq!(run(&changed), Err(fault), "{name}");
    }
    let strict = Expected { user_verification_required: true, ..*expected };
    match verified {
        true => assert!(run(&strict).is_ok(), "{name}"),
        false => assert_eq!(run(&strict), Err(WebauthnError::UserUnverified), "{name}"),
    }
}

#[test]
fn every_ceremony_that_the_standard_prints_comes_out() {
    let Some(file) = vectors("w3c_l3.json") else { return };
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 10);
    let mut self_attested = 0;
    for json in cases {
        let case = Case::new(json);
        let name = case.name;
        let (made, used) = (&json["registration"], &json["authentication"]);
        let (challenge, client_data) = (hex(made, "challenge_hex"), hex(made, "client_data_json_hex"));
        let object = hex(made, "attestation_object_hex");
        let expected = case.expected(&challenge);
        let register = |e: &Expected<'_>| verify_registration(e, &client_data, &object).map(|r| r.credential_id);
        if name.contains("crossOrigin") {
            assert_eq!(register(&expected), Err(WebauthnError::CrossOrigin));
            assert!(register(&Expected { cross_origin_allowed: true, ..expected }).is_ok());
            continue;
        }
        let registered = verify_registration(&expected, &client_data, &object).unwrap();
        assert_fields(name, &registered, json, &hex(json, "credential_id_hex"));
        assert_eq!(registered.sign_count, 0, "{name}");
        assert_eq!(registered.attestation.client_data_hash, sha256(&client_data), "{name}");
        self_attested += usize::from(registered.attestation.self_attested);

        assert_expectations_count(name, &expected, registered.user_verified, register);
        let others: Vec<_> = Algorithm::ALL.into_iter().filter(|a| *a != registered.algorithm).collect();
        let unasked = Expected { algorithms: &others, ..expected };
        assert_eq!(register(&unasked), Err(WebauthnError::Algorithm), "{name}");
        let absent = flip_flag(&object, case.rp_id, 1);
        let verdict = verify_registration(&expected, &client_data, &absent).map(|r| r.credential_id);
        assert_eq!(verdict, Err(WebauthnError::UserAbsent), "{name}");

        authentication(&case, &registered, used);
    }
    assert_eq!(self_attested, 1);
}

fn authentication(case: &Case<'_>, registered: &Registered, used: &Value) {
    let name = case.name;
    let (challenge, client_data) = (hex(used, "challenge_hex"), hex(used, "client_data_json_hex"));
    let (data, signature) = (hex(used, "authenticator_data_hex"), hex(used, "signature_hex"));
    let expected = case.expected(&challenge);
    let stored = StoredCredential {
        public_key_cose: &registered.public_key_cose,
        sign_count: registered.sign_count,
        backup_eligible: registered.backup_eligible,
    };
    let assert = |e: &Expected<'_>| verify_assertion(e, &stored, &client_data, &data, &signature);
    let asserted = assert(&expected).unwrap();
    let bits = data[32];
    assert_eq!(
        asserted,
        Asserted { sign_count: 0, user_verified: bits & 4 != 0, backed_up: bits & 16 != 0 },
        "{name}: {}",
        text(case.json, "title")
    );
    assert_expectations_count(name, &expected, asserted.user_verified, assert);

    let mut flipped = signature.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let cloned = StoredCredential { sign_count: 1, ..stored };
    let moved = StoredCredential { backup_eligible: !stored.backup_eligible, ..stored };
    let absent = flip_flag(&data, case.rp_id, 1);
    // Says of itself what was not signed.
    let upgraded = flip_flag(&data, case.rp_id, 4);
    let spaced = [&client_data[..], b" "].concat();
    for (stored, client_data, data, signature, fault) in [
        (&stored, &client_data, &data, &flipped, WebauthnError::Signature),
        (&stored, &client_data, &data, &Vec::new(), WebauthnError::Signature),
        (&stored, &client_data, &upgraded, &signature, WebauthnError::Signature),
        (&stored, &spaced, &data, &signature, WebauthnError::Signature),
        (&stored, &client_data, &absent, &signature, WebauthnError::UserAbsent),
        (&moved, &client_data, &data, &signature, WebauthnError::BackupEligibility),
        (&cloned, &client_data, &data, &signature, WebauthnError::Counter { stored: 1, presented: 0 }),
    ] {
        assert_eq!(verify_assertion(&expected, stored, client_data, data, signature), Err(fault), "{name}");
    }
}

/// The standard prints a ceremony inside a foreign frame. This appliance allows none, but the rest of it is genuine.
#[test]
fn the_ceremony_in_a_foreign_frame_is_refused_for_the_frame_alone() {
    let Some(file) = vectors("w3c_l3.json") else { return };
    let cases = file["cases"].as_array().unwrap();
    let json = cases.iter().find(|c| text(c, "name").contains("crossOrigin")).unwrap();
    let (case, used) = (Case::new(json), &json["authentication"]);
    let object = cbor::read(&hex(&json["registration"], "attestation_object_hex")).unwrap();
    let made = AuthenticatorData::parse(object.member("authData").unwrap().as_bytes().unwrap()).unwrap();
    let credential = made.attested.unwrap();
    assert_eq!(credential.credential_id, hex(json, "credential_id_hex"));
    let (challenge, client_data) = (hex(used, "challenge_hex"), hex(used, "client_data_json_hex"));
    let (data, signature) = (hex(used, "authenticator_data_hex"), hex(used, "signature_hex"));
    assert!(credential.public_key.verify(&[&data[..], &sha256(&client_data)].concat(), &signature));
    let stored = StoredCredential {
        public_key_cose: credential.public_key.as_bytes(),
        sign_count: 0,
        backup_eligible: made.flags.backup_eligible(),
    };
    let verdict = verify_assertion(&case.expected(&challenge), &stored, &client_data, &data, &signature);
    assert_eq!(verdict, Err(WebauthnError::CrossOrigin));
    let framed = Expected { cross_origin_allowed: true, ..case.expected(&challenge) };
    assert!(verify_assertion(&framed, &stored, &client_data, &data, &signature).is_ok());
}

#[test]
fn what_real_authenticators_sent_is_read() {
    let Some(file) = vectors("real_registrations.json") else { return };
    let cases = file["registrations"].as_array().unwrap();
    assert_eq!(cases.len(), 10);
    for json in cases {
        let case = Case::new(json);
        let (name, challenge) = (case.name, base64(json, "challenge_b64url"));
        let client_data = base64(json, "client_data_json_b64url");
        let object = base64(json, "attestation_object_b64url");
        let expected = case.expected(&challenge);
        let register = |e: &Expected<'_>| verify_registration(e, &client_data, &object).map(|r| r.credential_id);
        let registered = verify_registration(&expected, &client_data, &object).unwrap();
        assert_fields(name, &registered, json, &base64(json, "credential_id_b64url"));
        assert_eq!(u64::from(registered.sign_count), json["sign_count"].as_u64().unwrap(), "{name}");
        assert_expectations_count(name, &expected, registered.user_verified, register);
        for cut in 0..object.len() {
            assert!(verify_registration(&expected, &client_data, &object[..cut]).is_err(), "{name} cut at {cut}");
        }
    }
}
