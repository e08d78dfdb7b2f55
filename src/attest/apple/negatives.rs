//! Every case of the shared file of mutations: the change that it describes, and the rule that must refuse it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use base64ct::{Base64, Encoding};
use serde_json::{Map, Value, json};

use super::fixture::{
    Authority, DeviceKey, NONCE_OID, Object, bytes, cases, named, nonce_extension, roots_of, text, time, unhex, vectors,
};
use super::*;
use crate::crypto::hex;
use crate::crypto::{cbor, sha256};
use crate::kernel::Timestamp;

type Case = Map<String, Value>;

/// The rule that refuses each case. Where the file names two, the first in our order.
fn rule(name: &str) -> &'static str {
    match name {
        "wrong-team" | "bundle-case" | "no-team-prefix" | "assertion-other-app" | "receipt-for-other-app" => "app_id",
        "wrong-challenge" | "empty-challenge" | "raw-challenge-as-hash" | "x5c-foreign-leaf" => "nonce",
        "authdata-bitflip-rpid" | "authdata-counter-1" => "nonce",
        "wrong-key-id" => "key_id",
        "after-leaf-expiry" | "after-intermediate-expiry" => "certificate_expired",
        "before-leaf-start" => "certificate_not_yet_valid",
        "dev-in-production" | "prod-in-development-only" => "environment",
        "fmt-changed" => "format",
        "x5c-leaf-only" | "x5c-empty" => "chain_shape",
        "x5c-swapped" | "root-not-apple" => "root_unknown",
        "authdata-truncated" | "cred-id-len-ffff" => "authenticator_data",
        "trailing-garbage" | "truncated-cbor" | "duplicate-authdata-key" => "attestation_form",
        "assertion-replay" | "assertion-counter-lower" => "counter",
        "assertion-other-client-data" | "assertion-other-key" => "signature",
        "assertion-signature-p1363" | "assertion-direct-hash" => "signature",
        "receipt-too-old" => "receipt_too_old",
        other => unreachable!("no rule is written down for {other}"),
    }
}

#[test]
fn every_mutation_is_refused_by_the_rule_that_it_breaks() {
    let Some(file) = vectors("negatives.json") else { return };
    let attestations = cases("attestations.json", "attestations").unwrap();
    let assertions = cases("assertions.json", "assertions").unwrap();
    let negatives = file["negatives"].as_array().unwrap();
    assert_eq!(negatives.len(), 34);
    for negative in negatives {
        let (name, base) = (negative["name"].as_str().unwrap(), negative["base"].as_str().unwrap());
        let change = negative["change"].as_object().unwrap();
        let verdict = if let Some(base) = base.strip_suffix(" (assertion)") {
            assertion(named(&assertions, base), &assertions, change)
        } else if let Some(base) = base.strip_prefix("receipt of ") {
            receipt(&named(&attestations, base), change)
        } else {
            attestation(named(&attestations, base), &attestations, change)
        };
        assert_eq!(verdict.unwrap_err().reason, rule(name), "{name}");
        assert_eq!(negative["expected"], "reject", "{name}");
    }
}

/// Puts the members of `change` that are inputs of a case into it.
fn replace(case: &mut Case, change: &Case) {
    for (member, value) in change {
        case.insert(member.clone(), value.clone());
    }
}

fn attestation(mut case: Case, all: &[Case], change: &Case) -> Result<(), Refused> {
    let original = bytes(&case, "attestation_object_b64");
    let mut object = Object::read(&original);
    assert_eq!(object.write(), original, "what is taken apart and put together again is the same");
    let other = Object::read(&bytes(&named(all, "veehaitch-ios-14.4"), "attestation_object_b64"));
    if change.contains_key("trust_anchor") {
        return look_alike(&case, &object);
    }
    let mut twice = None;
    for (what, how) in change {
        match (what.as_str(), how) {
            ("challenge_b64", Value::String(challenge)) => {
                let hash = hex(&sha256(&Base64::decode_vec(challenge).unwrap()));
                case.insert("client_data_hash_hex".to_owned(), hash.into());
            }
            ("client_data_hash_rule", rule) => {
                assert_eq!(rule, "raw");
                let raw = hex(&bytes(&case, "challenge_b64"));
                case.insert("client_data_hash_hex".to_owned(), raw.into());
            }
            ("app_id" | "key_id_b64" | "environment" | "verify_at", value) => {
                case.insert(what.clone(), value.clone());
            }
            ("cbor_replace", value) => object.fmt = value["fmt"].as_str().unwrap().to_owned(),
            ("x5c", Value::String(how)) => match how.as_str() {
                "keep element 0 only" => object.x5c.truncate(1),
                "empty list" => object.x5c.clear(),
                "swap element 0 and 1" => object.x5c.swap(0, 1),
                "element 0 taken from veehaitch-ios-14.4" => {
                    object.x5c[0].clone_from(&other.x5c[0]);
                    // So that the date is not what refuses it.
                    case.insert("verify_at".to_owned(), "2021-01-23T12:13:33Z".into());
                }
                other => unreachable!("{other}"),
            },
            ("auth_data_xor", value) => {
                let at = usize::try_from(value[0].as_u64().unwrap()).unwrap();
                object.raw[at] ^= u8::try_from(value[1].as_u64().unwrap()).unwrap();
            }
            ("auth_data_set", value) => {
                let at = usize::try_from(value[0].as_u64().unwrap()).unwrap();
                let with = unhex(value[1].as_str().unwrap());
                object.raw[at..at + with.len()].copy_from_slice(&with);
            }
            ("auth_data_truncate", value) => object.raw.truncate(usize::try_from(value.as_u64().unwrap()).unwrap()),
            ("cbor", _) => twice = Some([&[object.raw[0] ^ 1][..], &object.raw[1..]].concat()),
            ("append_hex" | "truncate_at", _) => {}
            other => unreachable!("{other:?}"),
        }
    }
    let mut written = object.write_with(twice.as_deref());
    if let Some(more) = change.get("append_hex") {
        written.extend(unhex(more.as_str().unwrap()));
    }
    if let Some(at) = change.get("truncate_at") {
        written.truncate(usize::try_from(at.as_u64().unwrap()).unwrap());
    }
    case.insert("attestation_object_b64".to_owned(), Base64::encode_string(&written).into());
    verify_attestation_case(&case, &ApplePolicy::default(), time(&case, "verify_at")).map(drop)
}

/// Everything right, for a key of ours, but for a root that has Apple's name and not its key.
fn look_alike(case: &Case, real: &Object) -> Result<(), Refused> {
    let root = Authority::root("Apple App Attestation Root CA");
    let below = root.below("Apple App Attestation CA 1");
    let device = DeviceKey::new(3);
    let mut raw = real.raw[..53].to_vec();
    raw.extend([&[0, 32][..], &device.id(), &device.cose()].concat());
    let nonce = sha256(&[raw.clone(), unhex(text(case, "client_data_hash_hex"))].concat());
    let leaf = below.leaf("device", &device.key, &[(NONCE_OID, nonce_extension(&nonce))]);
    let object = Object { x5c: vec![leaf, below.der.clone()], raw, ..real.clone() }.write();
    let hash = unhex(text(case, "client_data_hash_hex"));
    let attestation = Attestation {
        app_id: text(case, "app_id"),
        client_data_hash: &hash,
        key_id: &device.id(),
        environment: None,
        object: &object,
    };
    let now = time(case, "verify_at");
    let trusting = attestation.verify(&ApplePolicy::default(), &roots_of(&root), now);
    assert!(trusting.is_ok(), "who trusts that root accepts it: {trusting:?}");
    attestation.verify(&ApplePolicy::default(), &AppleRoots::bundled()?, now).map(drop)
}

fn assertion(mut case: Case, all: &[Case], change: &Case) -> Result<(), Refused> {
    for (what, how) in change {
        let raw = bytes(&case, "assertion_b64");
        let map = cbor::read(&raw).unwrap();
        let member = |name| map.member(name).unwrap().as_bytes().unwrap();
        match what.as_str() {
            "public_key_of" => {
                let other = named(all, how.as_str().unwrap());
                case.insert("public_key_spki_b64".to_owned(), other["public_key_spki_b64"].clone());
            }
            "signature" => {
                assert_eq!(how, "re-encoded as r||s");
                let rs = p1363(member("signature"));
                case.insert("assertion_b64".to_owned(), write_assertion(&rs, member("authenticatorData")).into());
            }
            "signed_digest" => {
                // A key of ours, because the real one is in a phone: once as due, once with the nonce as the digest.
                let device = DeviceKey::new(4);
                let raw = member("authenticatorData");
                let message = [raw, &sha256(&bytes(&case, "client_data_b64"))].concat();
                let key = Base64::encode_string(&spki_of_point(&device.point));
                case.insert("public_key_spki_b64".to_owned(), key.into());
                let due = write_assertion(&device.sign_asn1(&sha256(&message)), raw);
                let digest_is_nonce = write_assertion(&device.sign_asn1(&message), raw);
                case.insert("assertion_b64".to_owned(), due.into());
                assert!(verify_assertion_case(&case, &ApplePolicy::default(), Timestamp::EPOCH).is_ok());
                case.insert("assertion_b64".to_owned(), digest_is_nonce.into());
            }
            "previous_counter" | "client_data_b64" | "app_id" => replace(&mut case, change),
            other => unreachable!("{other}"),
        }
    }
    verify_assertion_case(&case, &ApplePolicy::default(), Timestamp::EPOCH).map(drop)
}

pub fn write_assertion(signature: &[u8], raw: &[u8]) -> String {
    let mut e = minicbor::Encoder::new(Vec::new());
    e.map(2).unwrap().str("signature").unwrap().bytes(signature).unwrap();
    e.str("authenticatorData").unwrap().bytes(raw).unwrap();
    Base64::encode_string(&e.into_writer())
}

fn p1363(asn1: &[u8]) -> Vec<u8> {
    let mut reader = ber::Reader::new(asn1, ber::Rules::Der).unwrap().enter(ber::SEQUENCE).unwrap();
    let mut half = || {
        let digits = reader.take(ber::INTEGER).unwrap().body;
        let digits = &digits[digits.len().saturating_sub(32)..];
        [vec![0; 32 - digits.len()], digits.to_vec()].concat()
    };
    [half(), half()].concat()
}

fn receipt(of: &Case, change: &Case) -> Result<(), Refused> {
    let object = Object::read(&bytes(of, "attestation_object_b64"));
    let mut case = json!({
        "app_id": of["app_id"],
        "verify_at": of["verify_at"],
        "receipt_b64": Base64::encode_string(&object.receipt),
    });
    let case = case.as_object_mut().unwrap();
    let judge = |case: &Case| verify_receipt_case(case, &ApplePolicy::default(), time(case, "verify_at")).map(drop);
    assert_eq!(judge(case), Ok(()));
    replace(case, change);
    judge(case)
}
