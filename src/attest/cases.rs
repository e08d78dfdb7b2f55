//! A case of evidence as the command line takes it: which verifier judges which type, and at what time.
//!
//! Knows nothing of files and of what is printed.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::members::malformed;
use super::policy::Policy;
use super::{Claims, Refused, android, apple, jose, play, tpm, webauthn};
use crate::kernel::Timestamp;

/// A type of evidence.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// Apple App Attest: the attestation of a key.
    AppleAttestation,
    /// Apple App Attest: a use of that key.
    AppleAssertion,
    /// Android Key Attestation.
    AndroidKey,
    /// Google Play Integrity, a classic request.
    PlayIntegrity,
    /// Apple App Attest: the receipt for the fraud metric.
    AppleReceipt,
    /// TPM 2.0: a quote.
    TpmQuote,
    /// TPM 2.0: the log of a measured boot.
    TpmEventlog,
    /// WebAuthn: the registration of a credential with its attestation.
    WebauthnRegistration,
    /// WebAuthn: a use of that credential.
    WebauthnAssertion,
    /// A JWT of ES256.
    Jwt,
    /// A compact JWS of ES256.
    Jws,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::AppleAttestation,
        Self::AppleAssertion,
        Self::AndroidKey,
        Self::PlayIntegrity,
        Self::AppleReceipt,
        Self::TpmQuote,
        Self::TpmEventlog,
        Self::WebauthnRegistration,
        Self::WebauthnAssertion,
        Self::Jwt,
        Self::Jws,
    ];

    /// The name, as on the command line and the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AppleAttestation => "apple-attestation",
            Self::AppleAssertion => "apple-assertion",
            Self::AndroidKey => "android-key",
            Self::PlayIntegrity => "play-integrity",
            Self::AppleReceipt => "apple-receipt",
            Self::TpmQuote => "tpm-quote",
            Self::TpmEventlog => "tpm-eventlog",
            Self::WebauthnRegistration => "webauthn-registration",
            Self::WebauthnAssertion => "webauthn-assertion",
            Self::Jwt => "jwt",
            Self::Jws => "jws",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| format!("must be one of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// The moment that a case itself wants to be judged at: `config.now` of a JWT (Unix seconds), `config.now_millis` of a
/// Play token, else `verify_at` (RFC 3339) of any case. A time that the operator states wins over it, and it wins over
/// the clock; `None` where the case states none.
///
/// # Errors
/// `malformed_input` for a time that cannot be read: the clock's instead would judge another question.
pub fn case_time(kind: Kind, input: &Map<String, Value>) -> Result<Option<Timestamp>, Refused> {
    let stated = |name: &str| match input.get("config").and_then(|config| config.get(name)) {
        None => Ok(None),
        Some(value) => {
            value.as_i64().map(Some).ok_or_else(|| malformed(format!("config.{name} must be a whole number")))
        }
    };
    let own = match kind {
        Kind::Jwt => stated("now")?.map(|s| Timestamp::from_millis(s.saturating_mul(1000))),
        Kind::PlayIntegrity => stated("now_millis")?.map(Timestamp::from_millis),
        _ => None,
    };
    match input.get("verify_at") {
        _ if own.is_some() => Ok(own),
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let time = value.as_str().and_then(|text| text.parse().ok());
            time.map(Some).ok_or_else(|| malformed("verify_at must be an RFC 3339 time such as 2026-01-31T09:30:00Z"))
        }
    }
}

/// Judges a case at `now`. Members that a format does not know are ignored, so that a case may carry its own notes.
///
/// # Errors
/// [`Refused`]: `malformed_input` where a member is missing or of another type, else the first rule that was broken.
pub fn judge(kind: Kind, input: &Map<String, Value>, policy: &Policy, now: Timestamp) -> Result<Claims, Refused> {
    match kind {
        Kind::AppleAttestation => apple::verify_attestation_case(input, &policy.apple, now),
        Kind::AppleAssertion => apple::verify_assertion_case(input, &policy.apple, now),
        Kind::AppleReceipt => apple::verify_receipt_case(input, &policy.apple, now),
        Kind::AndroidKey => android::verify_case(input, &policy.android, now),
        Kind::PlayIntegrity => play::verify_case(input, &policy.play, now),
        Kind::Jwt => jose::verify_jwt_case(input, now),
        Kind::Jws => jose::verify_jws_case(input),
        Kind::TpmQuote => tpm::verify_quote_case(input, &policy.tpm, now),
        Kind::TpmEventlog => tpm::verify_eventlog_case(input, &policy.tpm, now),
        Kind::WebauthnRegistration => webauthn::verify_registration_case(input, &policy.webauthn, now),
        Kind::WebauthnAssertion => webauthn::verify_assertion_case(input, &policy.webauthn, now),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::attest::fixtures;

    #[test]
    fn every_type_has_one_name() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse::<Kind>().unwrap(), kind);
        }
        let error = "apple".parse::<Kind>().unwrap_err();
        assert!(Kind::ALL.iter().all(|kind| error.contains(kind.name())), "{error}");
    }

    #[test]
    fn a_case_may_state_its_time() {
        let Value::Object(input) = json!({ "config": { "now": 1_800_000_000, "now_millis": 1_800_000_000_001_i64 } })
        else {
            return;
        };
        let at = |ms: i64| Ok(Some(Timestamp::from_millis(ms)));
        assert_eq!(case_time(Kind::Jwt, &input), at(1_800_000_000_000));
        assert_eq!(case_time(Kind::PlayIntegrity, &input), at(1_800_000_000_001));
        assert_eq!(case_time(Kind::Jws, &input), Ok(None));
        for (case, kind, due) in [
            (json!({ "verify_at": "2024-09-26T22:31:25.586000+00:00" }), Kind::AndroidKey, Some(1_727_389_885_586)),
            (json!({ "verify_at": "2024-09-26T22:31:25Z", "config": { "now": 1 } }), Kind::Jwt, Some(1000)),
            (json!({ "verify_at": "1970-01-01T00:00:01Z", "config": {} }), Kind::Jwt, Some(1000)),
            (json!({ "config": { "now": i64::MAX } }), Kind::Jwt, Some(Timestamp::MAX.as_millis())),
            (json!({ "config": { "now": "soon" } }), Kind::Jwt, None),
            (json!({ "config": { "now": 1.5 } }), Kind::Jwt, None),
            (json!({ "config": { "now_millis": [] } }), Kind::PlayIntegrity, None),
            (json!({ "verify_at": "soon" }), Kind::AppleReceipt, None),
            (json!({ "verify_at": 7 }), Kind::Jws, None),
        ] {
            let found = case_time(kind, case.as_object().unwrap());
            assert_eq!(found.as_ref().ok(), due.map(|ms| Some(Timestamp::from_millis(ms))).as_ref(), "{case}");
            assert!(found.is_ok() || found.unwrap_err().reason == "malformed_input");
        }
    }

    #[test]
    fn an_empty_case_is_refused_by_every_type() {
        for kind in Kind::ALL {
            let refused = judge(kind, &Map::new(), &Policy::default(), Timestamp::EPOCH).unwrap_err();
            assert!(matches!(refused.reason, "malformed_input"), "{kind}: {refused}");
        }
    }

    /// Any JSON, a few levels deep.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,40}|[A-Za-z0-9_=.-]{0,60}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[a-z_0-9]{1,12}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    static GOOD: std::sync::LazyLock<Vec<(Kind, Map<String, Value>)>> = std::sync::LazyLock::new(good);

    /// A good case of each type that the shared vectors have, to be spoilt in one place.
    fn good() -> Vec<(Kind, Map<String, Value>)> {
        let first = |file: &str, list: &str| {
            let file = fixtures::vectors(file)?;
            Some(fixtures::cases(&file, list).into_iter().next()?.1)
        };
        let rfc = fixtures::vectors("jose/rfc.json").map(|file| {
            let mut input = Map::new();
            input.extend(file.get("jws_es256").and_then(Value::as_object).cloned().unwrap_or_default());
            let token = input.get("jws").cloned().unwrap_or_default();
            input.insert("token".to_owned(), token);
            input
        });
        [
            (Kind::AppleAttestation, first("apple-app-attest/attestations.json", "attestations")),
            (Kind::AppleAssertion, first("apple-app-attest/assertions.json", "assertions")),
            (Kind::PlayIntegrity, first("play-integrity/tokens.json", "cases")),
            (Kind::Jwt, first("jose/jwt_attacks.json", "tokens")),
            (Kind::Jws, rfc),
        ]
        .into_iter()
        .filter_map(|(kind, input)| Some((kind, input?)))
        .collect()
    }

    proptest! {
        #[test]
        fn no_case_makes_a_verifier_panic(
            members in prop::collection::hash_map("[a-z_0-9]{1,20}", any_json(), 0..6),
            spoilt in any_json(),
            at in 0_usize..64,
            now_ms in any::<i64>(),
        ) {
            let (policy, now) = (Policy::default(), Timestamp::from_millis(now_ms));
            let input: Map<String, Value> = members.into_iter().collect();
            for kind in Kind::ALL {
                let _ = (case_time(kind, &input), judge(kind, &input, &policy, now));
            }
            for (kind, mut input) in GOOD.clone() {
                let inner = input.get("config").and_then(Value::as_object).map_or(0, Map::len);
                let at = at % (input.len() + inner);
                let outer = input.len();
                if at < outer {
                    if let Some(member) = input.values_mut().nth(at) {
                        *member = spoilt.clone();
                    }
                } else if let Some(member) =
                    input.get_mut("config").and_then(Value::as_object_mut).and_then(|c| c.values_mut().nth(at - outer))
                {
                    *member = spoilt.clone();
                }
                let _ = (case_time(kind, &input), judge(kind, &input, &policy, now));
            }
        }
    }

    #[test]
    fn the_good_cases_are_good() {
        for (kind, input) in GOOD.iter() {
            let now = case_time(*kind, input).unwrap().unwrap_or(Timestamp::EPOCH);
            assert_eq!(judge(*kind, input, &Policy::default(), now).err(), None, "{kind}");
        }
    }
}
