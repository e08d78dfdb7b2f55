//! Tokens of Google Play: every published case, the rules one by one, and what a forger may try.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::{Map, Value, json};

use super::{PlayPolicy, verify_case};
use crate::attest::cases::{Kind, case_time};
use crate::attest::fixtures;
use crate::kernel::{Random, Timestamp};
use crate::testkit::play::PlayConsole;

const NOW_MS: i64 = 1_800_000_000_000;

/// Where a vector leaves the policy open; each decision stands in the policy's or the module's documentation.
fn open_question(name: &str) -> Option<bool> {
    Some(match name {
        // The same bytes, as Android's encoder writes them.
        "nonce-padded" => true,
        // Documented as a text.
        "timestamp-number" => false,
        // `require_licensed = false`
        "licence-unlicensed" => true,
        // `refuse_play_protect = ["HIGH_RISK"]`
        "play-protect-high" => false,
        // `refuse_app_risks = [...]`
        "risk-controlling" => false,
        _ => return None,
    })
}

#[test]
fn every_token_gets_the_verdict_that_is_due() {
    let Some(file) = fixtures::vectors("play-integrity/tokens.json") else { return };
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (case, input) in fixtures::cases(&file, "cases") {
        count += 1;
        let name = case["name"].as_str().unwrap();
        let due = match case["expected"].as_str().unwrap() {
            "accept" => true,
            "reject" => false,
            _ => open_question(name).unwrap(),
        };
        let now = case_time(Kind::PlayIntegrity, &input).unwrap().unwrap();
        let found = verify_case(&input, &PlayPolicy::default(), now);
        if found.is_ok() != due {
            wrong.push(format!("{name}: {found:?}"));
        }
    }
    assert_eq!(count, 71);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A case may be refused for the wrong reason and the right rule be absent: these must be refused by their own rule.
#[test]
fn each_refusal_names_the_rule_that_was_broken() {
    let Some(file) = fixtures::vectors("play-integrity/tokens.json") else { return };
    let mut due: Map<String, Value> = Map::new();
    for (reason, names) in [
        ("nonce", "nonce-other"),
        (
            "verdict_form",
            "nonce-missing timestamp-number timestamp-text timestamp-missing cert-missing device-string inner-array inner-bad-utf8",
        ),
        ("standard_request", "request-hash-only"),
        ("package", "package-request package-app"),
        ("stale", "stale"),
        ("future", "future"),
        ("app_recognition", "app-UNRECOGNIZED_VERSION app-UNEVALUATED app-UNKNOWN app-play_recognized"),
        ("app_signer", "cert-other cert-empty cert-two"),
        ("app_version", "version-old"),
        (
            "device_integrity",
            "device-empty device-basic device-virtual device-future-label device-missing device-key-missing device-legacy-only",
        ),
        ("play_protect", "play-protect-high"),
        ("app_access_risk", "risk-controlling"),
        ("testing_response", "testing-response"),
        ("replayed", "replay"),
        (
            "signature_form",
            "inner-alg-none inner-hs256-spki inner-embedded-jwk inner-es384-label inner-plain-json inner-missing-signature",
        ),
        ("signature", "inner-zero-sig inner-wrong-key"),
        ("not_decryptable", "jwe-wrong-kek jwe-flip-key"),
        ("altered", "jwe-flip-iv jwe-flip-ciphertext jwe-flip-tag"),
        (
            "encryption_form",
            "bare-jws jwe-alg-dir jwe-alg-rsa15 jwe-alg-a128kw jwe-enc-a128gcm jwe-enc-label-mismatch jwe-zip jwe-crit jwe-p2s jwe-flip-header jwe-tag-short jwe-iv-empty jwe-iv-16 jwe-key-empty jwe-key-23-bytes jwe-four-parts jwe-six-parts empty",
        ),
    ] {
        due.extend(names.split(' ').map(|name| (name.to_owned(), json!(reason))));
    }
    for (case, input) in fixtures::cases(&file, "cases") {
        let name = case["name"].as_str().unwrap();
        let now = case_time(Kind::PlayIntegrity, &input).unwrap().unwrap();
        let found = verify_case(&input, &PlayPolicy::default(), now).err().map(|r| r.reason);
        assert_eq!(found, due.get(name).and_then(Value::as_str), "{name}");
    }
}

struct Bench {
    console: PlayConsole,
    nonce: String,
}

impl Bench {
    fn new() -> Self {
        let random = Random::seeded(3);
        let nonce = Base64UrlUnpadded::encode_string(&random.bytes::<32>());
        Self { console: PlayConsole::new("com.example.bank", &random), nonce }
    }

    fn now() -> Timestamp {
        Timestamp::from_millis(NOW_MS)
    }

    /// The verdict with `value` at `section.name`; null takes the member away.
    fn verdict(&self, section: &str, name: &str, value: Value) -> Value {
        let mut verdict = self.console.verdict(&self.nonce, Self::now());
        let section = verdict[section].as_object_mut().unwrap();
        if value.is_null() {
            section.remove(name)
        } else {
            section.insert(name.to_owned(), value)
        };
        verdict
    }

    fn case(&self, token: &str) -> Map<String, Value> {
        self.console.case(token, &self.nonce, Self::now())
    }

    fn judge(&self, verdict: &Value, policy: &PlayPolicy) -> Result<(), &'static str> {
        let token = self.console.token(verdict).unwrap();
        verify_case(&self.case(&token), policy, Self::now()).map(drop).map_err(|r| r.reason)
    }
}

#[test]
fn what_was_found_is_told() {
    let bench = Bench::new();
    let token = bench.console.token(&bench.console.verdict(&bench.nonce, Bench::now())).unwrap();
    let claims = verify_case(&bench.case(&token), &PlayPolicy::default(), Bench::now()).unwrap();
    assert_eq!(
        Value::Object(claims),
        json!({
            "package": "com.example.bank", "made_at": "2027-01-15T08:00:00.000Z", "app_recognition": "PLAY_RECOGNIZED",
            "certificate_digests": [bench.console.certificate_digest], "version": 42,
            "device_recognition": ["MEETS_BASIC_INTEGRITY", "MEETS_DEVICE_INTEGRITY"], "sdk_version": 35,
            "device_activity": "LEVEL_1", "app_licence": "LICENSED", "play_protect": "NO_ISSUES",
            "app_access_risks": ["KNOWN_INSTALLED"],
        })
    );
}

#[test]
fn a_verdict_lives_for_five_minutes_to_the_millisecond() {
    let bench = Bench::new();
    for (made_ms, due) in [
        (NOW_MS, Ok(())),
        (NOW_MS - 300_000, Ok(())),
        (NOW_MS - 300_001, Err("stale")),
        (NOW_MS + 60_000, Ok(())),
        (NOW_MS + 60_001, Err("future")),
        (0, Err("stale")),
        (999_999_999_999_999_999, Err("future")),
    ] {
        let verdict = bench.verdict("requestDetails", "timestampMillis", json!(made_ms.to_string()));
        assert_eq!(bench.judge(&verdict, &PlayPolicy::default()), due, "{made_ms}");
    }
    for text in ["", "-1", "+1", "1e3", " 1", "1.0", "18446744073709551616", "0x10"] {
        let verdict = bench.verdict("requestDetails", "timestampMillis", json!(text));
        assert_eq!(bench.judge(&verdict, &PlayPolicy::default()), Err("verdict_form"), "{text:?}");
    }
}

#[test]
fn each_rule_of_the_policy_can_be_turned_and_the_case_wins_over_the_policy() {
    let bench = Bench::new();
    let with = |change: &dyn Fn(&mut PlayPolicy)| {
        let mut policy = PlayPolicy::default();
        change(&mut policy);
        policy
    };
    let unlicensed = bench.verdict("accountDetails", "appLicensingVerdict", json!("UNLICENSED"));
    let risky = bench.verdict("environmentDetails", "playProtectVerdict", json!("HIGH_RISK"));
    let steered =
        bench.verdict("environmentDetails", "appAccessRiskVerdict", json!({ "appsDetected": ["UNKNOWN_CONTROLLING"] }));
    let basic = bench.verdict("deviceIntegrity", "deviceRecognitionVerdict", json!(["MEETS_BASIC_INTEGRITY"]));
    let mut tested = bench.console.verdict(&bench.nonce, Bench::now());
    tested["testingDetails"] = json!({ "isTestingResponse": true });
    let version = bench.verdict("appIntegrity", "versionCode", json!("9"));
    for (verdict, strict, lenient, reason) in [
        (&unlicensed, with(&|p| p.require_licensed = true), with(&|_| ()), "licence"),
        (&risky, with(&|_| ()), with(&|p| p.refuse_play_protect.clear()), "play_protect"),
        (&steered, with(&|_| ()), with(&|p| p.refuse_app_risks.clear()), "app_access_risk"),
        (
            &basic,
            with(&|_| ()),
            with(&|p| p.require_device = vec!["MEETS_BASIC_INTEGRITY".to_owned()]),
            "device_integrity",
        ),
        (&tested, with(&|_| ()), with(&|p| p.allow_testing_response = true), "testing_response"),
        (&version, with(&|p| p.min_version = 10), with(&|p| p.min_version = 9), "app_version"),
    ] {
        assert_eq!(bench.judge(verdict, &strict), Err(reason));
        assert_eq!(bench.judge(verdict, &lenient), Ok(()), "{reason}");
        // The same rules as the case's own, over a policy that says the opposite.
        let token = bench.console.token(verdict).unwrap();
        for (own, other, due) in [(&strict, &lenient, Some(reason)), (&lenient, &strict, None)] {
            let mut case = bench.case(&token);
            let Ok(Value::Object(mut rules)) = serde_json::to_value(own) else { return };
            rules.extend(case["config"].as_object().unwrap().clone());
            case.insert("config".to_owned(), Value::Object(rules));
            assert_eq!(verify_case(&case, other, Bench::now()).err().map(|r| r.reason), due, "{reason}");
        }
    }
}

/// Nobody can tell a standard request's token from one under another app's key, so the answer speaks of both.
#[test]
fn a_token_of_a_standard_request_is_refused_with_words_that_help() {
    let (bench, other) = (Bench::new(), PlayConsole::new("com.example.bank", &Random::seeded(4)));
    let token = other.token(&bench.console.verdict(&bench.nonce, Bench::now())).unwrap();
    let refused = verify_case(&bench.case(&token), &PlayPolicy::default(), Bench::now()).unwrap_err();
    assert_eq!(refused.reason, "not_decryptable");
    assert!(refused.detail.contains("standard request") && refused.detail.contains("Google's servers"), "{refused}");
    let mut verdict = bench.verdict("requestDetails", "nonce", Value::Null);
    verdict["requestDetails"]["requestHash"] = json!("x");
    let token = bench.console.token(&verdict).unwrap();
    let refused = verify_case(&bench.case(&token), &PlayPolicy::default(), Bench::now()).unwrap_err();
    assert_eq!(refused.reason, "standard_request");
    assert!(refused.detail.contains("Google's servers"), "{refused}");
}

#[test]
fn an_appliance_that_was_not_told_which_app_is_its_own_takes_none() {
    let bench = Bench::new();
    let token = bench.console.token(&bench.console.verdict(&bench.nonce, Bench::now())).unwrap();
    for name in ["package", "certificate_digests"] {
        let mut case = bench.case(&token);
        case["config"].as_object_mut().unwrap().remove(name);
        let refused = verify_case(&case, &PlayPolicy::default(), Bench::now()).unwrap_err();
        assert_eq!(refused.reason, "policy_incomplete", "{name}");
    }
}

#[test]
fn a_case_that_cannot_be_read_is_refused_by_its_members_name() {
    let bench = Bench::new();
    let token = bench.console.token(&bench.console.verdict(&bench.nonce, Bench::now())).unwrap();
    let good = bench.case(&token);
    for name in ["token", "decryption_key_b64", "verification_key_spki_b64", "config"] {
        for bad in [Value::Null, json!(7), json!([])] {
            let mut case = good.clone();
            case.insert(name.to_owned(), bad);
            let refused = verify_case(&case, &PlayPolicy::default(), Bench::now()).unwrap_err();
            assert_eq!(refused.reason, "malformed_input");
            assert!(refused.detail.contains(name), "{refused}");
        }
    }
    for (name, bad) in [
        ("expected_nonce", json!("short")),
        ("expected_nonce", json!("not base64url, not at all")),
        ("expected_nonce", Value::Null),
        ("min_version", json!("42")),
        ("max_age_millis", json!(-1)),
        ("require_devices", json!([])),
    ] {
        let mut case = good.clone();
        case["config"].as_object_mut().unwrap().insert(name.to_owned(), bad);
        let refused = verify_case(&case, &PlayPolicy::default(), Bench::now()).unwrap_err();
        assert_eq!(refused.reason, "malformed_input", "{name}: {refused}");
    }
    for (name, bad) in [("decryption_key_b64", "AAAA"), ("verification_key_spki_b64", "AAAA")] {
        let mut case = good.clone();
        case.insert(name.to_owned(), json!(bad));
        assert_eq!(verify_case(&case, &PlayPolicy::default(), Bench::now()).unwrap_err().reason, "bad_key");
    }
}

/// The tag covers header, vector and content, the key wrap its key, and base64 has one text: no character is free.
#[test]
fn no_character_of_a_token_can_be_changed() {
    let bench = Bench::new();
    let token = bench.console.token(&bench.console.verdict(&bench.nonce, Bench::now())).unwrap();
    assert!(verify_case(&bench.case(&token), &PlayPolicy::default(), Bench::now()).is_ok());
    for at in 0..token.len() {
        let mut changed = token.clone();
        let with = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
        changed.replace_range(at..=at, with);
        assert!(verify_case(&bench.case(&changed), &PlayPolicy::default(), Bench::now()).is_err(), "{at}");
    }
}

/// Whoever holds the decryption key can encrypt, too; the signature below must stand by itself.
#[test]
fn no_character_of_what_was_signed_can_be_changed_by_one_who_can_encrypt() {
    let bench = Bench::new();
    let signed = bench.console.sign(&bench.console.verdict(&bench.nonce, Bench::now()).to_string());
    for at in 0..signed.len() {
        let mut changed = signed.clone();
        let with = if signed.as_bytes()[at] == b'A' { "B" } else { "A" };
        changed.replace_range(at..=at, with);
        let token = bench.console.encrypt(&changed).unwrap();
        assert!(verify_case(&bench.case(&token), &PlayPolicy::default(), Bench::now()).is_err(), "{at}");
    }
}
