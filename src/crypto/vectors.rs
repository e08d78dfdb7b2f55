//! Checks against published and hostile vectors. Each case that fails is named.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::jwk::{JwkSet, KEYS_MAX};
use super::jws::parse_compact;
use super::jwt::{JwtPolicy, verify_jwt};
use super::{Jwk, Secret, VerifyingKey, password};
use crate::kernel::Timestamp;

/// The shared folder lies beside the repository. Absent altogether: skip; a missing file in it: fail.
pub(super) fn vectors(file: &str) -> Option<Value> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    if !shared.exists() {
        eprintln!("skipped: the shared vectors are not here");
        return None;
    }
    let path = shared.join("vectors").join(file);
    let text = std::fs::read(&path).unwrap_or_else(|e| panic_with(&format!("{}: {e}", path.display())));
    Some(serde_json::from_slice(&text).unwrap())
}

#[expect(clippy::panic, reason = "tests")]
fn panic_with(message: &str) -> ! {
    panic!("{message}")
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

fn number(value: &Value, name: &str) -> u32 {
    u32::try_from(value[name].as_u64().unwrap()).unwrap()
}

/// Where a vector leaves the policy open: a high s is accepted, because JWS allows it and phones make it; another
/// `typ` and a time with a fraction are refused.
fn open_question(name: &str) -> bool {
    match name {
        "sig-high-s" => true,
        "typ-at-jwt" | "exp-float" => false,
        other => panic_with(&format!("no decision is written down for {other}")),
    }
}

#[test]
fn every_attack_on_a_token_gets_the_verdict_that_is_due() {
    let Some(file) = vectors("jose/jwt_attacks.json") else { return };
    let config = &file["config"];
    let policy = JwtPolicy {
        issuer: text(config, "issuer").to_owned(),
        audience: text(config, "audience").to_owned(),
        typ: text(config, "typ").to_owned(),
        leeway_s: number(config, "leeway_s"),
        max_lifetime_s: number(config, "max_lifetime_s"),
    };
    let now = Timestamp::from_millis(config["now"].as_i64().unwrap() * 1000);
    let keys = JwkSet::from_value(&file["jwks"]).unwrap();
    assert_eq!(keys.len(), 2, "the key for encryption is passed over");
    let tokens = file["tokens"].as_array().unwrap();
    assert!(tokens.len() >= 126);
    let mut wrong = Vec::new();
    for case in tokens {
        let name = text(case, "name");
        let verdict = verify_jwt(text(case, "token"), &|kid| keys.get(kid), &policy, now);
        let expected = match text(case, "expected") {
            "accept" => true,
            "reject" => false,
            _ => open_question(name),
        };
        if verdict.is_ok() != expected {
            wrong.push(format!("{name}: {:?}", verdict.map(|c| c.sub)));
        }
    }
    assert!(wrong.is_empty(), "wrong verdicts: {wrong:#?}");
}

#[test]
fn a_bad_key_set_gives_no_key() {
    let Some(file) = vectors("jose/jwt_attacks.json") else { return };
    let good = file["jwks"]["keys"][0].clone();
    let mut wrong = Vec::new();
    for case in file["bad_jwks"].as_array().unwrap() {
        let name = text(case, "name");
        let set = match &case["jwks"] {
            Value::String(described) if name == "too-many" => {
                assert_eq!(described, "1000 generated keys");
                serde_json::json!({"keys": (0..1000).map(|i| {
                    let mut key = good.clone();
                    key["kid"] = Value::from(format!("k{i}"));
                    key
                }).collect::<Vec<_>>()})
            }
            other => other.clone(),
        };
        if let Ok(keys) = JwkSet::parse(set.to_string().as_bytes())
            && !keys.is_empty()
        {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "sets that gave a key: {wrong:?}");
    let full = |n: usize| serde_json::json!({"keys": vec![serde_json::json!({"kty": "RSA"}); n]});
    assert!(JwkSet::from_value(&full(KEYS_MAX)).is_ok());
    assert!(JwkSet::from_value(&full(KEYS_MAX + 1)).is_err());
    assert!(JwkSet::parse(br#"{"keys":[],"keys":[]}"#).is_err());
}

#[test]
fn the_rfcs_own_examples_come_out() {
    let Some(file) = vectors("jose/rfc.json") else { return };
    let example = &file["jws_es256"];
    let key = VerifyingKey::from_jwk(&Jwk::from_value(&example["jwk"]).unwrap()).unwrap();
    let parsed = parse_compact(text(example, "jws"), 4096).unwrap();
    assert_eq!(parsed.verify(&key), Some(text(example, "payload_utf8").as_bytes()));
    for case in file["jwk_thumbprints"].as_array().unwrap() {
        let jwk = Jwk::from_value(&case["jwk"]);
        if case["jwk"]["kty"] == "EC" {
            let jwk = jwk.unwrap();
            let key = VerifyingKey::from_jwk(&jwk).unwrap();
            assert_eq!(key.thumbprint(), text(case, "thumbprint"), "{}", text(case, "source"));
            let again: Jwk = serde_json::from_value(serde_json::to_value(key.to_jwk()).unwrap()).unwrap();
            assert_eq!(VerifyingKey::from_jwk(&again).unwrap(), key);
            let published = key.to_jwk().published_as("k");
            assert_eq!(Jwk::from_value(&serde_json::to_value(&published).unwrap()).unwrap(), published);
        } else {
            assert!(jwk.is_err(), "only P-256 keys are taken");
        }
    }
}

#[test]
fn wycheproof_signatures_get_the_verdict_that_is_due() {
    let Some(file) = vectors("jose/wycheproof/ecdsa_secp256r1_sha256_p1363_test.json") else { return };
    let (mut wrong, mut count) = (Vec::new(), 0);
    for group in file["testGroups"].as_array().unwrap() {
        let key = VerifyingKey::from_sec1(&unhex(text(&group["publicKey"], "uncompressed")));
        for case in group["tests"].as_array().unwrap() {
            count += 1;
            let signature: Result<[u8; 64], _> = unhex(text(case, "sig")).try_into();
            let valid = match (&key, signature) {
                (Ok(key), Ok(signature)) => key.verify(&unhex(text(case, "msg")), &signature),
                _ => false,
            };
            if valid != (text(case, "result") == "valid") {
                wrong.push(format!("{} {}", case["tcId"], case["comment"]));
            }
        }
    }
    assert!(count > 100);
    assert!(wrong.is_empty(), "wrong verdicts: {wrong:#?}");
}

/// A file for all of JOSE: what is signed by another algorithm, even if valid there, is refused here.
#[test]
fn wycheproof_tokens_of_other_algorithms_are_refused() {
    let Some(file) = vectors("jose/wycheproof/json_web_signature_test.json") else { return };
    let (mut wrong, mut count, mut of_ours) = (Vec::new(), 0, 0);
    for group in file["testGroups"].as_array().unwrap() {
        let jwk = if group["public"].is_object() { &group["public"] } else { &group["private"] };
        let key = Jwk::from_value(jwk).and_then(|jwk| VerifyingKey::from_jwk(&jwk)).ok();
        of_ours += usize::from(key.is_some());
        for case in group["tests"].as_array().unwrap() {
            count += 1;
            let Some(jws) = case["jws"].as_str() else { continue }; // the JSON serialisation is not ours
            let accepted = key.as_ref().is_some_and(|key| {
                parse_compact(jws, 1 << 16).is_ok_and(|parsed| {
                    let kid_fits = parsed.kid().is_none_or(|kid| jwk["kid"] == kid);
                    kid_fits && parsed.verify(key).is_some()
                })
            });
            let expected = jwk["alg"] == "ES256" && text(case, "result") == "valid";
            if accepted != expected {
                wrong.push(format!("{} {}", case["tcId"], case["comment"]));
            }
        }
    }
    assert!(count > 100 && of_ours >= 2, "{count} cases, {of_ours} keys of ours");
    assert!(wrong.is_empty(), "wrong verdicts: {wrong:#?}");
}

/// RFC 9106, section 5.3, and the reference implementation's values: the library computes what it should.
#[test]
fn argon2_gives_the_printed_tags() {
    let Some(file) = vectors("argon2/vectors.json") else { return };
    let cases = file["rfc9106"].as_array().unwrap().iter().chain(file["reference"].as_array().unwrap());
    for case in cases {
        let bytes = |name: &str| match (case.get(name), case.get(format!("{name}_hex"))) {
            (Some(plain), _) => plain.as_str().unwrap().as_bytes().to_vec(),
            (None, Some(hex)) => unhex(hex.as_str().unwrap()),
            (None, None) => Vec::new(),
        };
        let tag = unhex(text(case, "tag_hex"));
        let params = argon2::ParamsBuilder::new()
            .m_cost(number(case, "memory_kib"))
            .t_cost(number(case, "passes"))
            .p_cost(number(case, "lanes"))
            .data(argon2::AssociatedData::new(&bytes("associated_data")).unwrap())
            .output_len(tag.len())
            .build()
            .unwrap();
        let secret = bytes("secret");
        let (id, version) = (argon2::Algorithm::Argon2id, argon2::Version::V0x13);
        let argon = argon2::Argon2::new_with_secret(&secret, id, version, params).unwrap();
        let mut out = vec![0; tag.len()];
        argon.hash_password_into(&bytes("password"), &bytes("salt"), &mut out).unwrap();
        assert_eq!(out, tag);
    }
}

/// Passwords are not normalised, so another spelling of the same letters is another password.
#[test]
fn stored_password_hashes_get_the_verdict_that_is_due() {
    let Some(file) = vectors("argon2/vectors.json") else { return };
    let mut wrong = Vec::new();
    for case in file["phc_verify"].as_array().unwrap() {
        let verdict = password::verify(&Secret::new(text(case, "password")), text(case, "phc"));
        if verdict != (text(case, "expected") == "accept") {
            wrong.push(case.to_string());
        }
    }
    assert!(wrong.is_empty(), "wrong verdicts: {wrong:#?}");
}

/// Nothing of a key set is shared with the set after the lookup: a key in use outlives a rotation.
#[test]
fn a_looked_up_key_outlives_its_set() {
    let Some(file) = vectors("jose/jwt_attacks.json") else { return };
    let keys = JwkSet::from_value(&file["jwks"]).unwrap();
    let key: Arc<VerifyingKey> = keys.get("k1").unwrap();
    drop(keys);
    assert_eq!(key.thumbprint(), "LS_nw2WsO78k0EJRlI1GL-7aZYqbQhxqDkwPSKboT1s");
}
