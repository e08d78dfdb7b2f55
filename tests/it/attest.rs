//! Judging evidence by hand: the real program, from a file to its exit code.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io::Write;
use std::process::Stdio;

use blockremote::crypto::{SigningKey, sign_compact};
use blockremote::kernel::{Random, Timestamp};
use blockremote::testkit::play::PlayConsole;
use serde_json::{Map, Value, json};

use crate::cli::binary::Place;

const NOW: &str = "2027-01-15T08:00:00Z";
const NOW_MS: i64 = 1_800_000_000_000;

/// A place that holds `case.json`.
fn place_with(case: &Map<String, Value>) -> Place {
    let place = Place::new();
    std::fs::write(place.path("case.json"), Value::Object(case.clone()).to_string()).unwrap();
    place
}

/// Runs `attest verify` on `case.json`, which must end with `code`; gives what it printed as JSON.
fn judged(place: &Place, kind: &str, more: &[&str], code: i32) -> Value {
    let args = [&["attest", "verify", "--type", kind, "--file", "case.json", "--json"], more].concat();
    let (stdout, stderr) = place.ends(&args, code);
    assert_eq!(stderr, "");
    serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}"))
}

fn play_case() -> Map<String, Value> {
    let now = Timestamp::from_millis(NOW_MS);
    let console = PlayConsole::new("com.example.bank", &Random::seeded(1));
    let nonce = "AQIDBAUGBwgJCgsMDQ4PEA";
    let token = console.token(&console.verdict(nonce, now)).unwrap();
    console.case(&token, nonce, now)
}

fn jws_case() -> Map<String, Value> {
    let key = SigningKey::generate(&Random::seeded(2));
    let jwk = serde_json::to_value(key.verifying().to_jwk()).unwrap();
    let token = sign_compact("note", br#"{"said":"so"}"#, &key);
    Map::from_iter([("jwk".to_owned(), jwk), ("token".to_owned(), json!(token))])
}

fn jwt_case() -> Map<String, Value> {
    let key = SigningKey::generate(&Random::seeded(3));
    let jwk = serde_json::to_value(key.verifying().to_jwk().published_as(key.kid())).unwrap();
    let claims = json!({ "iss": "i", "aud": "a", "sub": "s", "jti": "j", "iat": 1_800_000_000, "exp": 1_800_000_300 });
    Map::from_iter([
        ("token".to_owned(), json!(sign_compact("JWT", claims.to_string().as_bytes(), &key))),
        ("jwks".to_owned(), json!({ "keys": [jwk] })),
        ("config".to_owned(), json!({ "issuer": "i", "audience": "a", "typ": "JWT" })),
    ])
}

#[test]
fn what_is_good_is_accepted_with_its_claims_and_exit_code_0() {
    let said = judged(&place_with(&play_case()), "play-integrity", &[], 0);
    assert_eq!((&said["result"], &said["reason"]), (&json!("accept"), &Value::Null));
    assert_eq!(said["claims"]["package"], "com.example.bank");
    let said = judged(&place_with(&jwt_case()), "jwt", &["--now", NOW], 0);
    assert_eq!((&said["result"], &said["claims"]["sub"]), (&json!("accept"), &json!("s")));
    let said = judged(&place_with(&jws_case()), "jws", &[], 0);
    assert_eq!(said["claims"]["payload"], json!({ "said": "so" }));
}

#[test]
fn what_is_bad_is_refused_with_its_reason_and_exit_code_3() {
    let mut forged = jws_case();
    forged.insert(
        "jwk".to_owned(),
        serde_json::to_value(SigningKey::generate(&Random::seeded(9)).verifying().to_jwk()).unwrap(),
    );
    let said = judged(&place_with(&forged), "jws", &[], 3);
    assert_eq!(
        (&said["result"], &said["reason"], &said["claims"]),
        (&json!("refuse"), &json!("signature"), &json!({}))
    );
    assert!(said["detail"].is_string());
    let mut seen = play_case();
    seen.insert("seen".to_owned(), json!(true));
    assert_eq!(judged(&place_with(&seen), "play-integrity", &[], 3)["reason"], "replayed");
    let empty = place_with(&Map::new());
    for kind in ["play-integrity", "jwt", "jws"] {
        assert_eq!(judged(&empty, kind, &[], 3)["reason"], "malformed_input", "{kind}");
    }
}

#[test]
fn the_stated_time_wins_over_the_cases_and_the_cases_over_the_clock() {
    let play = place_with(&play_case());
    assert_eq!(judged(&play, "play-integrity", &["--now", "2027-01-15T08:05:00Z"], 0)["result"], "accept");
    assert_eq!(judged(&play, "play-integrity", &["--now", "2027-01-15T08:05:00.001Z"], 3)["reason"], "stale");
    let mut jwt = jwt_case();
    let far = place_with(&jwt);
    assert_eq!(judged(&far, "jwt", &["--now", "2027-01-15T09:00:00Z"], 3)["reason"], "expired");
    jwt.insert("config".to_owned(), json!({ "issuer": "i", "audience": "a", "typ": "JWT", "now": 1_800_000_100 }));
    assert_eq!(judged(&place_with(&jwt), "jwt", &[], 0)["result"], "accept");
}

#[test]
fn a_policy_file_counts_and_a_misspelt_key_in_it_does_not_pass() {
    let place = place_with(&play_case());
    std::fs::write(place.path("policy.toml"), "[play]\nmin_version = 43\n").unwrap();
    assert_eq!(judged(&place, "play-integrity", &["--policy", "policy.toml"], 3)["reason"], "app_version");
    std::fs::write(place.path("policy.toml"), "[play]\nmin_versoin = 43\n").unwrap();
    let args = ["attest", "verify", "--type", "play-integrity", "--file", "case.json", "--policy", "policy.toml"];
    let (stdout, stderr) = place.ends(&args, 2);
    assert!(stdout.is_empty() && stderr.contains("min_versoin") && stderr.contains("line 2"), "{stderr}");
    let (defaults, _) = place.ends(&["attest", "policy"], 0);
    std::fs::write(place.path("policy.toml"), defaults).unwrap();
    assert_eq!(judged(&place, "play-integrity", &["--policy", "policy.toml"], 0)["result"], "accept");
}

#[test]
fn what_is_in_no_form_of_its_type_is_refused_and_what_cannot_be_opened_ends_with_the_usage_code() {
    let place = place_with(&jws_case());
    std::fs::write(place.path("text"), "not json").unwrap();
    std::fs::write(place.path("list.json"), "[]").unwrap();
    std::fs::write(place.path("twice.json"), r#"{"jwk":1,"jwk":2}"#).unwrap();
    std::fs::write(place.path("large.json"), vec![b' '; 16 * 1024 * 1024 + 1]).unwrap();
    std::fs::write(place.path("deep.json"), format!("{{\"jwk\":{}", "[".repeat(100_000))).unwrap();
    std::fs::write(place.path("nothing"), "").unwrap();
    for (kind, file, reason, says) in [
        ("jws", "text", "malformed_input", "is not one JSON text"),
        ("jws", "list.json", "malformed_input", "is not a JSON object"),
        ("jws", "twice.json", "malformed_input", "names a member twice"),
        ("jws", "large.json", "too_long", "limit"),
        ("jws", "deep.json", "malformed_input", "nested deeper"),
        ("android-key", "text", "malformed_input", "is not one JSON text"),
        ("android-key", "nothing", "malformed_input", "is not one JSON text"),
        ("tpm-eventlog", "nothing", "malformed_input", "is not one JSON text"),
        ("tpm-eventlog", "text", "eventlog_malformed", "ends inside an event"),
    ] {
        let (stdout, _) = place.ends(&["attest", "verify", "--type", kind, "--file", file, "--json"], 3);
        let said: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(said["reason"], reason, "{file}");
        assert!(said["detail"].as_str().unwrap().contains(says), "{file}: {said}");
    }
    for (kind, file, says) in [
        ("jws", "absent.json", "cannot be read"),
        ("jws", ".", "cannot be read"),
        ("jwe", "case.json", "must be one of apple-attestation"),
    ] {
        let (stdout, stderr) = place.ends(&["attest", "verify", "--type", kind, "--file", file, "--json"], 2);
        assert!(stdout.is_empty() && stderr.contains(says), "{file}: {stderr}");
    }
    for more in [&["--now", "yesterday"][..], &["--policy", "absent.toml"]] {
        let args = [&["attest", "verify", "--type", "jws", "--file", "case.json"], more].concat();
        assert_eq!(place.ends(&args, 2).0, "");
    }
}

#[test]
fn without_json_it_speaks_plain_english_and_a_dash_reads_standard_input() {
    let place = place_with(&play_case());
    let args = ["attest", "verify", "--type", "play-integrity", "--file", "case.json"];
    let (good, _) = place.ends(&args, 0);
    assert!(good.starts_with("ACCEPTED play-integrity, judged at 2027-01-15T08:00:00.000Z\n"), "{good}");
    assert!(good.contains("com.example.bank"));
    let (bad, _) = place.ends(&[&args[..], &["--now", "2030-01-01T00:00:00Z"]].concat(), 3);
    assert!(bad.starts_with("REFUSED play-integrity") && bad.contains("stale: "), "{bad}");

    let mut child = place
        .command(&["attest", "verify", "--type", "jws", "--file", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(Value::Object(jws_case()).to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"accept\""));
}

/// A file of the shared vectors; `None`, and a skipped test, where the folder beside the repository is absent.
fn shared(file: &str) -> Option<Vec<u8>> {
    let shared = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    if !shared.exists() {
        eprintln!("skipped: the shared vectors are not here");
        return None;
    }
    Some(std::fs::read(shared.join("vectors").join(file)).unwrap())
}

#[test]
fn a_chain_of_certificates_is_taken_as_the_pem_that_it_is() {
    let Some(pem) = shared("android-key-attestation/chains/caiman__sdk36__TEE_EC_RKP.pem") else { return };
    let place = Place::new();
    std::fs::write(place.path("case.json"), pem).unwrap();
    std::fs::write(place.path("lenient.toml"), "[android]\nallow_unlocked = true\nallow_unverified_boot = true\n")
        .unwrap();
    let lenient = ["--policy", "lenient.toml", "--now", "2025-09-26T15:31:20Z"];
    assert_eq!(judged(&place, "android-key", &lenient, 0)["result"], "accept");
    let said = judged(&place, "android-key", &["--policy", "lenient.toml", "--now", "2035-01-01T00:00:00Z"], 3);
    assert_eq!(said["result"], "refuse");
}

/// Every real leaf has expired by now; its case says when it was fresh.
#[test]
fn a_case_that_says_when_to_judge_it_is_judged_then() {
    let Some(file) = shared("apple-app-attest/attestations.json") else { return };
    let file: Value = serde_json::from_slice(&file).unwrap();
    for case in file["attestations"].as_array().unwrap() {
        let place = place_with(case.as_object().unwrap());
        assert_eq!(judged(&place, "apple-attestation", &[], 0)["result"], "accept", "{}", case["name"]);
        judged(&place, "apple-attestation", &["--now", "2040-01-01T00:00:00Z"], 3);
    }
}

/// Evidence must be judged where nothing is set up and nothing can be asked: neither data, keys nor configuration.
#[test]
fn nothing_is_needed_and_nothing_is_left_behind() {
    let place = place_with(&jws_case());
    std::fs::write(place.path("blockremote.toml"), "nonsense = 1\n").unwrap();
    judged(&place, "jws", &[], 0);
    assert!(!place.path("data").exists() && !place.path("certs").exists());
}
