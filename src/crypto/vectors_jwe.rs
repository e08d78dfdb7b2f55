//! Wycheproof on encrypted tokens, on the primitives below them, and on what this appliance verifies besides JWS. Each
//! case that fails is named.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ParsedPublicKey, VerificationAlgorithm};
use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::Value;

use super::jwk::JwkSet;
use super::jws::parse_compact;
use super::vectors::vectors;
use super::{hmac_sha256, jwe};

fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// Runs every case of a file: `due` says what the file demands of us, `found` what we did. Gives the number of cases
/// that were taken.
fn all(
    file: &str,
    cases_min: usize,
    due: impl Fn(&Value, &Value) -> bool,
    found: impl Fn(&Value, &Value) -> bool,
) -> Option<usize> {
    let parsed = vectors(&format!("jose/wycheproof/{file}"))?;
    let (mut count, mut taken, mut wrong) = (0, 0, Vec::new());
    for group in parsed["testGroups"].as_array().unwrap() {
        for case in group["tests"].as_array().unwrap() {
            let (due, found) = (due(group, case), found(group, case));
            count += 1;
            taken += usize::from(found);
            if due != found {
                wrong.push(format!("{} {} ({})", case["tcId"], case["comment"], case["result"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{file}: {wrong:#?}");
    assert!(count >= cases_min, "{file} has only {count} cases");
    Some(taken)
}

fn valid(_: &Value, case: &Value) -> bool {
    case["result"] == "valid"
}

/// "Acceptable" is a wrapped key of 64 bits, which RFC 3394 knows and no algorithm of JWE uses: refused.
#[test]
fn wycheproof_key_wrap() {
    let taken = all("aes_wrap_test.json", 45, valid, |_, case| {
        let key: [u8; 32] = unhex(&case["key"]).try_into().unwrap();
        jwe::unwrap_key(&key, &unhex(&case["ct"])).is_some_and(|found| *found == unhex(&case["msg"]))
    });
    assert!(taken.is_none_or(|n| n >= 9));
}

/// JWE has vectors of 96 bits and no others (RFC 7518, section 5.3), so what is valid with another length is refused.
#[test]
fn wycheproof_gcm() {
    let due = |group: &Value, case: &Value| case["result"] == "valid" && group["ivSize"] == 96;
    let taken = all("aes_gcm_test.json", 68, due, |_, case| {
        let key: [u8; 32] = unhex(&case["key"]).try_into().unwrap();
        let part = |name: &str| unhex(&case[name]);
        jwe::open(&key, &part("iv"), &part("aad"), &part("ct"), &part("tag")).is_some_and(|found| *found == part("msg"))
    });
    assert!(taken.is_none_or(|n| n >= 26));
}

/// Whatever else the file calls valid (other key management, other ciphers) is refused by one who takes A256KW with
/// A256GCM only.
#[test]
fn wycheproof_encrypted_tokens() {
    let header = |case: &Value| -> Option<Value> {
        let first = case["jwe"].as_str()?.split('.').next()?;
        serde_json::from_slice(&Base64UrlUnpadded::decode_vec(first).ok()?).ok()
    };
    let due = |group: &Value, case: &Value| {
        let ours = header(case).is_some_and(|h| h["alg"] == "A256KW" && h["enc"] == "A256GCM");
        ours && group["private"]["alg"] == "A256KW" && case["result"] == "valid"
    };
    let taken = all("json_web_encryption_test.json", 93, due, |group, case| {
        // Where the file's key is none of ours, any key will do: the answer must be no.
        let key = group["private"]["k"].as_str().and_then(|k| Base64UrlUnpadded::decode_vec(k).ok());
        let key: [u8; 32] = key.and_then(|k| k.try_into().ok()).unwrap_or([0; 32]);
        let Some(token) = case["jwe"].as_str() else { return false };
        jwe::decrypt_compact(token, &key).is_ok_and(|found| *found == unhex(&case["pt"]))
    });
    assert!(taken.is_none_or(|n| n >= 1));
}

/// Sets of keys with whatever is wrong with them. Symmetric and RSA keys are none of ours, so nothing in the file may
/// lead to an accepted token.
#[test]
fn wycheproof_key_sets() {
    let due = |group: &Value, case: &Value| {
        case["result"] == "valid"
            && group["public"]["keys"].as_array().is_some_and(|k| k.iter().all(|k| k["crv"] == "P-256"))
    };
    all("json_web_key_test.json", 26, due, |group, case| {
        let accepted = |set: &Value| {
            JwkSet::from_value(set).is_ok_and(|keys| {
                parse_compact(case["jws"].as_str().unwrap(), 1 << 16).is_ok_and(|parsed| {
                    parsed.kid().and_then(|kid| keys.get(kid)).is_some_and(|key| parsed.verify(&key).is_some())
                })
            })
        };
        accepted(&group["public"]) || accepted(&group["private"])
    });
}

/// Tags are compared whole where they are whole, and by their first half where a group is about halves: our own code
/// never takes a half.
#[test]
fn wycheproof_hmac() {
    let taken = all("hmac_sha256_test.json", 116, valid, |group, case| {
        let tag = unhex(&case["tag"]);
        let due = usize::try_from(group["tagSize"].as_u64().unwrap()).unwrap() / 8;
        let full = hmac_sha256(&unhex(&case["key"]), &unhex(&case["msg"]));
        tag.len() == due && super::constant_time_eq(&full[..due], &tag)
    });
    assert!(taken.is_none_or(|n| n >= 40));
}

fn signatures_in_der(file: &str, cases_min: usize, algorithm: &'static dyn VerificationAlgorithm) {
    let taken = all(file, cases_min, valid, |group, case| {
        let key = unhex(&group["publicKey"]["uncompressed"]);
        ParsedPublicKey::new(algorithm, &key)
            .is_ok_and(|key| key.verify_sig(&unhex(&case["msg"]), &unhex(&case["sig"])).is_ok())
    });
    assert!(taken.is_none_or(|n| n > 100));
}

/// Certificates, WebAuthn and App Attest carry ECDSA signatures as DER; these are the verifiers behind them.
#[test]
fn wycheproof_signatures_in_der() {
    signatures_in_der("ecdsa_secp256r1_sha256_test.json", 323, &ECDSA_P256_SHA256_ASN1);
    signatures_in_der("ecdsa_secp384r1_sha384_test.json", 336, &ECDSA_P384_SHA384_ASN1);
}
