//! What the gate promises of proofs, and every shared case to its verdict.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::path::Path;
use std::sync::Barrier;
use std::time::Duration;

use hyper::header::HeaderMap;
use serde_json::Value;

use super::*;
use crate::crypto::SigningKey;
use crate::crypto::dpop::make_proof;

const START_S: i64 = 1_800_000_000;
const URL: &str = "https://box.example/v1/signals/heartbeat";
const TOKEN: &str = "an.access.token";
/// After every doubt about what was used before the start.
const LATER_S: i64 = START_S + 1_000;

fn at(s: i64) -> Timestamp {
    Timestamp::from_millis(s * 1000)
}

fn policy(nonce_required: bool) -> ProofPolicy {
    ProofPolicy::new(nonce_required, at(START_S), &Random::seeded(1))
}

fn key() -> SigningKey {
    SigningKey::generate(&Random::seeded(2))
}

fn proof(jti: &str, iat_s: i64, nonce: Option<&str>) -> HeaderValue {
    HeaderValue::try_from(make_proof(&key(), "POST", URL, Some(TOKEN), nonce, jti, iat_s)).unwrap()
}

/// The code of the refusal; "admitted" without one.
fn verdict(policy: &ProofPolicy, proofs: &[HeaderValue], now_s: i64) -> &'static str {
    let key = key();
    match policy.check(proofs, "POST", URL, Some(TOKEN), Some(key.kid()), at(now_s)) {
        Ok(_) => "admitted",
        Err(refusal) => {
            let kind = if refusal.code == "overloaded" { Kind::Unavailable } else { Kind::Unauthenticated };
            assert_eq!(refusal.kind, kind);
            refusal.code
        }
    }
}

#[test]
fn a_proof_is_admitted_once() {
    let policy = policy(false);
    let first = [proof("a", LATER_S, None)];
    assert_eq!(verdict(&policy, &first, LATER_S), "admitted");
    for now_s in [LATER_S, LATER_S + 1, LATER_S + 60, LATER_S + 61] {
        policy.sweep(at(now_s));
        assert_eq!(verdict(&policy, &first, now_s), INVALID_DPOP_PROOF);
    }
    assert_eq!(verdict(&policy, &[proof("b", LATER_S + 61, None)], LATER_S + 61), "admitted");
}

/// Two texts of one proof are one proof: signing again with the same id does not help, nor does a fresh nonce.
#[test]
fn a_used_id_stays_used_in_another_text() {
    let policy = policy(false);
    assert_eq!(verdict(&policy, &[proof("a", LATER_S, None)], LATER_S), "admitted");
    assert_eq!(verdict(&policy, &[proof("a", LATER_S + 1, None)], LATER_S + 1), INVALID_DPOP_PROOF);
    let nonce = policy.nonce(at(LATER_S));
    assert_eq!(verdict(&policy, &[proof("a", LATER_S, Some(&nonce))], LATER_S), INVALID_DPOP_PROOF);
}

#[test]
fn of_sixty_four_threads_with_one_proof_exactly_one_passes() {
    let policy = policy(false);
    // Several rounds, because a gap between looking and remembering would not show in each.
    let proofs: Vec<_> = (0..20).map(|i| [proof(&i.to_string(), LATER_S, None)]).collect();
    let barrier = Barrier::new(64);
    let present = || -> Vec<_> {
        let one = |proof| {
            barrier.wait();
            verdict(&policy, proof, LATER_S)
        };
        proofs.iter().map(|proof| one(proof)).collect()
    };
    let verdicts: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..64).map(|_| scope.spawn(present)).collect();
        running.into_iter().map(|t| t.join().unwrap()).collect()
    });
    for round in 0..proofs.len() {
        let with = |code| verdicts.iter().filter(|thread| thread[round] == code).count();
        assert_eq!((with("admitted"), with(INVALID_DPOP_PROOF)), (1, 63), "round {round}");
    }
}

#[test]
fn exactly_one_header_of_bounded_length_is_looked_at() {
    let policy = policy(false);
    let good = proof("a", LATER_S, None);
    let joined = HeaderValue::try_from(format!("{}, {}", good.to_str().unwrap(), good.to_str().unwrap())).unwrap();
    let long = HeaderValue::try_from("x".repeat(PROOF_BYTES_MAX + 1)).unwrap();
    let not_ascii = HeaderValue::from_bytes(b"\xff").unwrap();
    let empty = HeaderValue::from_static("");
    for refused in [vec![], vec![good.clone(), good.clone()], vec![joined], vec![long], vec![not_ascii], vec![empty]] {
        assert_eq!(verdict(&policy, &refused, LATER_S), INVALID_DPOP_PROOF, "{refused:.60?}");
    }
    // None of them used the proof up, and a header map serves as it is.
    let mut headers = HeaderMap::new();
    headers.insert("dpop", good);
    let key = key();
    let admitted = policy.check(headers.get_all("dpop"), "POST", URL, Some(TOKEN), Some(key.kid()), at(LATER_S));
    assert_eq!(admitted.unwrap().thumbprint, key.kid());
}

#[test]
fn a_nonce_must_be_ours_and_fresh_and_is_demanded_where_the_setting_says_so() {
    for required in [false, true] {
        let policy = policy(required);
        let (fresh, stale) = (policy.nonce(at(LATER_S)), policy.nonce(at(LATER_S - 240)));
        let foreign = ProofPolicy::new(required, at(START_S), &Random::seeded(3)).nonce(at(LATER_S));
        let without = if required { USE_DPOP_NONCE } else { "admitted" };
        for (jti, nonce, expected) in [
            ("a", None, without),
            ("b", Some(fresh.as_str()), "admitted"),
            ("c", Some(stale.as_str()), USE_DPOP_NONCE),
            ("d", Some(foreign.as_str()), USE_DPOP_NONCE),
            ("e", Some(""), USE_DPOP_NONCE),
        ] {
            assert_eq!(verdict(&policy, &[proof(jti, LATER_S, nonce)], LATER_S), expected, "{required} {nonce:?}");
        }
        // A proof that was sent back for its nonce was not used up by that.
        assert_eq!(verdict(&policy, &[proof("c", LATER_S, Some(&fresh))], LATER_S), "admitted");
    }
}

/// The story: a proof is used, the process restarts with an empty memory, and a listener presents the proof again while
/// it is still young. A client whose clock runs ahead widens that gap, because its proof may be of a time after the
/// restart.
#[test]
fn a_proof_that_was_used_before_a_restart_is_not_admitted_after_it() {
    for iat_s in [START_S - 50, START_S - 1, START_S] {
        let used = [proof("a", iat_s, None)];
        let before = ProofPolicy::new(false, at(START_S - 500), &Random::seeded(3));
        assert_eq!(verdict(&before, &used, START_S - 5), "admitted", "{iat_s}");
        let after = policy(false);
        for now_s in START_S..=START_S + 130 {
            let again = verdict(&after, &used, now_s);
            assert!(matches!(again, USE_DPOP_NONCE | INVALID_DPOP_PROOF), "{iat_s} {now_s}: {again}");
        }
    }
    // With a nonce of the old process neither; with one of the new process at once.
    let before = ProofPolicy::new(false, at(START_S - 500), &Random::seeded(3));
    let after = policy(false);
    let old = proof("b", START_S, Some(&before.nonce(at(START_S))));
    assert_eq!(verdict(&after, &[old], START_S), USE_DPOP_NONCE);
    let new = proof("c", START_S, Some(&after.nonce(at(START_S))));
    assert_eq!(verdict(&after, &[new], START_S), "admitted");
    // What was made after the start needs no nonce.
    assert_eq!(verdict(&after, &[proof("d", START_S + 1, None)], START_S + 1), "admitted");
}

#[test]
fn a_full_memory_asks_to_come_back_and_does_not_use_the_proof_up() {
    let mut policy = policy(false);
    policy.replays = ReplayCache::new(1, IAT_WINDOW_S, &Random::seeded(4));
    assert_eq!(verdict(&policy, &[proof("a", LATER_S, None)], LATER_S), "admitted");
    let late = proof("b", LATER_S + 20, None);
    let key = key();
    let refusal = policy.check([&late], "POST", URL, Some(TOKEN), Some(key.kid()), at(LATER_S + 20)).unwrap_err();
    assert_eq!((refusal.kind, refusal.code), (Kind::Unavailable, "overloaded"));
    assert!(refusal.retry_after_s.is_some());
    assert_eq!(verdict(&policy, &[late], LATER_S + 61), "admitted");
}

/// Every refusal says what to do and repeats nothing that was sent.
#[test]
fn a_refusal_repeats_nothing_of_the_proof() {
    let policy = policy(true);
    let sent = proof("a-secret-jti", LATER_S, Some("a-secret-nonce"));
    let key = key();
    for (method, url, token, thumbprint, now) in [
        ("GET", URL, TOKEN, key.kid(), LATER_S),
        ("POST", "https://box.example/other", TOKEN, key.kid(), LATER_S),
        ("POST", URL, "other", key.kid(), LATER_S),
        ("POST", URL, TOKEN, "other", LATER_S),
        ("POST", URL, TOKEN, key.kid(), LATER_S + 100),
        ("POST", URL, TOKEN, key.kid(), LATER_S),
    ] {
        let refusal = policy.check([&sent], method, url, Some(token), Some(thumbprint), at(now)).unwrap_err();
        assert!(refusal.detail.ends_with('.') && refusal.detail.contains("proof"), "{refusal}");
        for secret in ["secret", TOKEN, key.kid(), "other\"", "box.example"] {
            assert!(!refusal.to_string().contains(secret), "{refusal}");
        }
    }
}

/// The shared folder lies beside the repository. Absent altogether: skip; a missing file in it: fail.
fn cases() -> Vec<Value> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    if !shared.exists() {
        eprintln!("skipped: the shared vectors are not here");
        return Vec::new();
    }
    let file: Value = serde_json::from_slice(&std::fs::read(shared.join("vectors/jose/dpop.json")).unwrap()).unwrap();
    assert_eq!(file["config"]["iat_window_s"], IAT_WINDOW_S);
    let cases = file["cases"].as_array().unwrap().clone();
    assert!(cases.len() >= 29);
    cases
}

/// The file leaves no case to policy ("either"); one that did would fail here until a decision is written down.
#[test]
fn every_shared_case_gets_its_verdict_and_code() {
    let mut wrong = Vec::new();
    for case in cases() {
        let name = case["name"].as_str().unwrap();
        let now = at(case["now"].as_i64().unwrap());
        let text = |member: &str| case[member].as_str();
        let started = now.minus(Duration::from_secs(86_400));
        let policy = ProofPolicy::new(text("required_nonce").is_some(), started, &Random::seeded(1));
        let proofs: Vec<HeaderValue> = match &case["proof"] {
            Value::String(one) => vec![one.parse().unwrap()],
            Value::Array(many) => many.iter().map(|p| p.as_str().unwrap().parse().unwrap()).collect(),
            _ => Vec::new(),
        };
        let (method, url) = (text("method").unwrap(), text("url").unwrap());
        let check = || policy.check(&proofs, method, url, text("access_token"), text("token_cnf_jkt"), now);
        for jti in case["seen_jti"].as_array().into_iter().flatten() {
            assert_eq!(check().unwrap().jti, jti.as_str().unwrap(), "the first use passes");
        }
        let expected = match (text("expected").unwrap(), name) {
            ("accept", _) => "accept",
            ("reject", "nonce-required") => USE_DPOP_NONCE,
            ("reject", _) => INVALID_DPOP_PROOF,
            (other, _) => panic!("no decision is written down for {name}: {other}"),
        };
        let code = check().map_or_else(|refusal| refusal.code, |_| "accept");
        if code != expected {
            wrong.push(format!("{name}: {code} instead of {expected}"));
        }
    }
    assert!(wrong.is_empty(), "wrong verdicts: {wrong:#?}");
}
