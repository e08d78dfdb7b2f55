//! Checks DPoP against published and hostile proofs. What needs a memory (replay, nonces, a second header, the scheme of
//! the token) is the gate's, whose tests run every case of the same file to its verdict.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::Value;

use super::dpop::{DpopError, Expect, access_token_hash, verify_proof};
use super::jws::JwsError;
use super::vectors::vectors;
use super::{KeyError, parse_compact};
use crate::kernel::Timestamp;

/// The rule that each case must fail by. Being refused for another reason would prove nothing.
fn rule(name: &str) -> Option<DpopError> {
    Some(match name {
        "rfc9449-token" | "rfc9449-resource" | "query-ignored" | "synthetic-ok" => return None,
        // Genuine proofs, refused by the gate's memory.
        "replay" | "nonce-required" => return None,
        "draft-no-ath" => DpopError::Claim("ath"),
        "wrong-method" | "method-case" => DpopError::Method,
        "wrong-url" | "http-scheme" => DpopError::Url,
        "too-old" => DpopError::TooOld,
        "future" => DpopError::Ahead,
        "other-token" => DpopError::AccessToken,
        "other-key" => DpopError::OtherKey,
        "typ-jwt" => DpopError::Jws(JwsError::Typ),
        "private-jwk" => {
            DpopError::Key(KeyError::Jwk("has a private member; send the public key only and replace the key"))
        }
        "no-jwk" | "crit" => DpopError::Jws(JwsError::Member),
        "alg-none" | "hs256-with-jwk" => DpopError::Jws(JwsError::Algorithm),
        "jti-missing" => DpopError::Claim("jti"),
        "htu-missing" => DpopError::Claim("htu"),
        "htm-missing" => DpopError::Claim("htm"),
        "iat-missing" | "iat-string" => DpopError::Claim("iat"),
        "jwk-other" => DpopError::Signature,
        other => panic_with(&format!("no rule is written down for {other}")),
    })
}

#[expect(clippy::panic, reason = "tests")]
fn panic_with(message: &str) -> ! {
    panic!("{message}")
}

#[test]
fn every_proof_passes_or_fails_by_the_rule_that_is_due() {
    let Some(file) = vectors("jose/dpop.json") else { return };
    let iat_window_s = u32::try_from(file["config"]["iat_window_s"].as_u64().unwrap()).unwrap();
    let (mut wrong, mut of_the_gate) = (Vec::new(), Vec::new());
    let cases = file["cases"].as_array().unwrap();
    assert!(cases.len() >= 29);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        // Two proofs, or none: nothing to verify here.
        let Some(proof) = case["proof"].as_str() else {
            of_the_gate.push(name);
            continue;
        };
        let expect = Expect {
            method: case["method"].as_str().unwrap(),
            url: case["url"].as_str().unwrap(),
            access_token: case["access_token"].as_str(),
            thumbprint: case["token_cnf_jkt"].as_str(),
            iat_window_s,
        };
        let now = Timestamp::from_millis(case["now"].as_i64().unwrap() * 1000);
        let verdict = verify_proof(proof, &expect, now);
        if verdict.as_ref().err() != rule(name).as_ref() {
            wrong.push(format!("{name}: {verdict:?}"));
        }
        if verdict.is_ok() && case["expected"] != "accept" {
            of_the_gate.push(name);
        }
        assert!(parse_compact(proof, 8192).is_err() || name == "no-jwk", "{name} must never pass as a token");
    }
    assert!(wrong.is_empty(), "wrong verdicts: {wrong:#?}");
    assert_eq!(of_the_gate, ["replay", "nonce-required", "two-headers", "token-scheme-bearer"]);
}

#[test]
fn the_hash_of_an_access_token_is_the_printed_one() {
    let Some(file) = vectors("jose/rfc.json") else { return };
    let Value::Object(example) = &file["access_token_hash"] else { panic_with("the example is missing") };
    assert_eq!(access_token_hash(example["access_token"].as_str().unwrap()), example["ath"].as_str().unwrap());
}
