//! JWT and JWS cases of the command line: what the appliance's own verifiers say of a token.
//!
//! The rules are those of `crypto::jwt` and `crypto::jws`, which judge the appliance's own tokens too: ES256 and nothing
//! else, one spelling of everything, a key only ever from the given set. Where those who wrote the vectors leave the
//! choice: a signature with a high s is taken, as JWS allows it and phones make it; a `typ` other than the configured one
//! and a time with a fraction are not. Knows nothing of where keys and tokens come from.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::{Map, Value, json};

use super::members::{Members, malformed};
use super::{Claims, Refused};
use crate::crypto::{Jwk, JwkSet, JwsError, JwtError, JwtPolicy, VerifyingKey, parse_compact, strict_json, verify_jwt};
use crate::kernel::Timestamp;

/// Characters of a JWS; a JWT has its own, lower bound.
const JWS_LEN_MAX: usize = 64 * 1024;
/// What counts where a case says nothing: the clocks' difference, and a day as the longest life of a token.
const LEEWAY_S: u32 = 30;
const LIFETIME_MAX_S: u32 = 86_400;

/// Judges `{token, jwks, config}` at `now`. `config` has `issuer`, `audience` and `typ` (required), `leeway_s` (30),
/// `max_lifetime_s` (86400), `allowed_alg` (`["ES256"]`: a list without it lets nothing pass, and whatever else it holds
/// stays refused), and `now`, which `now` was taken from where nobody stated it. The claims are the token's own.
///
/// # Errors
/// `malformed_input`, `key_set`, or the first rule that the token breaks.
pub fn verify_jwt_case(input: &Map<String, Value>, now: Timestamp) -> Result<Claims, Refused> {
    let m = Members(input);
    let token = m.required_text("token")?;
    let jwks = m.get("jwks").ok_or_else(|| malformed("the member jwks must be a set of keys"))?;
    let policy = jwt_policy(m.required_inner("config")?)?;
    let keys = JwkSet::from_value(jwks).map_err(|e| Refused::new("key_set", e.to_string()))?;
    let proven = verify_jwt(token, &|kid| keys.get(kid), &policy, now)
        .map_err(|e| Refused::new(jwt_reason(e), e.to_string()))?;
    Ok(proven.all)
}

fn jwt_policy(config: Members<'_>) -> Result<JwtPolicy, Refused> {
    const KNOWN: &[&str] = &["issuer", "audience", "typ", "leeway_s", "max_lifetime_s", "allowed_alg", "now"];
    if let Some(name) = config.0.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        return Err(malformed(format!("config has the unknown member {name:.64}; known are {}", KNOWN.join(", "))));
    }
    if let Some(allowed) = config.get("allowed_alg") {
        let allowed = allowed.as_array().ok_or_else(|| malformed("config.allowed_alg must be a list"))?;
        if !allowed.iter().any(|alg| alg == "ES256") {
            return Err(Refused::new(
                "algorithm",
                "config.allowed_alg does not have ES256, and no other is verified here",
            ));
        }
    }
    Ok(JwtPolicy {
        issuer: config.required_text("issuer")?.to_owned(),
        audience: config.required_text("audience")?.to_owned(),
        typ: config.required_text("typ")?.to_owned(),
        leeway_s: config.small("leeway_s")?.unwrap_or(LEEWAY_S),
        max_lifetime_s: config.small("max_lifetime_s")?.unwrap_or(LIFETIME_MAX_S),
    })
}

/// Judges `{jwk, token}`: whether the compact JWS was signed by this P-256 key. A token that names another key than the
/// JWK's own `kid` is refused; where one of them names none, nothing contradicts. Claims: `kid` and `typ` of the header,
/// `payload_b64url`, and `payload` where that is strict JSON or text.
///
/// # Errors
/// `malformed_input`, `key`, or the first rule that the token breaks.
pub fn verify_jws_case(input: &Map<String, Value>) -> Result<Claims, Refused> {
    let m = Members(input);
    let token = m.required_text("token")?;
    let jwk = m.get("jwk").ok_or_else(|| malformed("the member jwk must be a key"))?;
    let jwk = Jwk::from_value(jwk).map_err(|e| Refused::new("key", e.to_string()))?;
    let key = VerifyingKey::from_jwk(&jwk).map_err(|e| Refused::new("key", e.to_string()))?;
    let parsed = parse_compact(token, JWS_LEN_MAX).map_err(|e| Refused::new(jws_reason(e), e.to_string()))?;
    if let (Some(named), Some(own)) = (parsed.kid(), jwk.kid())
        && named != own
    {
        return Err(Refused::new("unknown_key", "the token names another key than the one that was given"));
    }
    let payload = parsed.verify(&key).ok_or_else(|| Refused::new("signature", "the signature is not this key's"))?;
    let mut claims = Claims::new();
    claims.insert("kid".to_owned(), json!(parsed.kid()));
    claims.insert("typ".to_owned(), json!(parsed.typ()));
    claims.insert("payload_b64url".to_owned(), json!(Base64UrlUnpadded::encode_string(payload)));
    let readable = strict_json::parse(payload).ok().or_else(|| std::str::from_utf8(payload).ok().map(Value::from));
    claims.extend(readable.map(|payload| ("payload".to_owned(), payload)));
    Ok(claims)
}

fn jwt_reason(error: JwtError) -> &'static str {
    match error {
        JwtError::Jws(error) => jws_reason(error),
        JwtError::UnknownKey => "unknown_key",
        JwtError::Signature => "signature",
        JwtError::Payload => "payload",
        JwtError::Claim(_) => "claim",
        JwtError::Issuer => "issuer",
        JwtError::Audience => "audience",
        JwtError::Expired => "expired",
        JwtError::NotYet => "not_yet_valid",
        JwtError::Lifetime => "lifetime",
    }
}

fn jws_reason(error: JwsError) -> &'static str {
    match error {
        JwsError::TooLong => "too_long",
        JwsError::Parts => "parts",
        JwsError::Encoding => "encoding",
        JwsError::Header => "header",
        JwsError::Algorithm => "algorithm",
        JwsError::Member => "header_member",
        JwsError::Kid => "kid",
        JwsError::Typ => "typ",
        JwsError::SignatureLength => "signature_length",
        JwsError::Payload => "payload",
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::attest::cases::{Kind, case_time};
    use crate::attest::fixtures;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    /// As the module's text decides.
    fn open_question(name: &str) -> Option<bool> {
        match name {
            "sig-high-s" => Some(true),
            "typ-at-jwt" | "exp-float" => Some(false),
            _ => None,
        }
    }

    #[test]
    fn every_attack_on_a_token_gets_the_verdict_that_is_due() {
        let Some(file) = fixtures::vectors("jose/jwt_attacks.json") else { return };
        let (mut wrong, mut count) = (Vec::new(), 0);
        for (case, input) in fixtures::cases(&file, "tokens") {
            count += 1;
            let name = case["name"].as_str().unwrap();
            let due = match case["expected"].as_str().unwrap() {
                "accept" => true,
                "reject" => false,
                _ => open_question(name).unwrap(),
            };
            let found = verify_jwt_case(&input, case_time(Kind::Jwt, &input).unwrap().unwrap());
            if found.is_ok() != due {
                wrong.push(format!("{name}: {found:?}"));
            }
        }
        assert!(count >= 126 && wrong.is_empty(), "{count}: {wrong:#?}");
    }

    #[test]
    fn a_good_token_with_a_bad_key_set_is_refused() {
        let Some(file) = fixtures::vectors("jose/jwt_attacks.json") else { return };
        let (_, good) = fixtures::cases(&file, "tokens").swap_remove(0);
        let now = case_time(Kind::Jwt, &good).unwrap().unwrap();
        assert!(verify_jwt_case(&good, now).is_ok());
        let bad = file["bad_jwks"].as_array().unwrap().iter().map(|case| &case["jwks"]);
        for jwks in bad.chain([&Value::Null, &json!({}), &json!({ "keys": {} }), &json!({ "keys": [] })]) {
            let mut input = good.clone();
            input.insert("jwks".to_owned(), jwks.clone());
            assert!(verify_jwt_case(&input, now).is_err(), "{jwks:.200}");
        }
    }

    #[test]
    fn the_configuration_decides_and_nothing_in_it_is_passed_over() {
        let Some(file) = fixtures::vectors("jose/jwt_attacks.json") else { return };
        let (_, good) = fixtures::cases(&file, "tokens").swap_remove(0);
        let now = case_time(Kind::Jwt, &good).unwrap().unwrap();
        for (name, value, due) in [
            ("issuer", json!("https://other.example"), Some("issuer")),
            ("audience", json!("other"), Some("audience")),
            ("typ", json!("at+jwt"), Some("typ")),
            ("typ", Value::Null, Some("malformed_input")),
            ("max_lifetime_s", json!(299), Some("lifetime")),
            ("max_lifetime_s", json!(300), None),
            ("max_lifetime_s", json!("300"), Some("malformed_input")),
            ("leeway_s", json!(-1), Some("malformed_input")),
            ("allowed_alg", json!(["RS256"]), Some("algorithm")),
            ("allowed_alg", json!([]), Some("algorithm")),
            ("allowed_alg", json!(["none", "ES256"]), None),
            ("allowed_alg", json!("ES256"), Some("malformed_input")),
            ("require_scope", json!("write"), Some("malformed_input")),
        ] {
            let mut input = good.clone();
            input["config"].as_object_mut().unwrap().insert(name.to_owned(), value.clone());
            assert_eq!(verify_jwt_case(&input, now).err().map(|r| r.reason), due, "{name} {value}");
        }
    }

    #[test]
    fn the_example_of_rfc_7515_is_taken_and_its_payload_told() {
        let Some(file) = fixtures::vectors("jose/rfc.json") else { return };
        let example = &file["jws_es256"];
        let input = map(json!({ "jwk": example["jwk"], "token": example["jws"] }));
        let claims = verify_jws_case(&input).unwrap();
        assert_eq!(claims["payload"]["iss"], "joe");
        let payload = Base64UrlUnpadded::decode_vec(claims["payload_b64url"].as_str().unwrap()).unwrap();
        assert_eq!(payload, example["payload_utf8"].as_str().unwrap().as_bytes());
    }

    /// A file for all of JOSE: what is signed by another algorithm, even if valid there, is refused here.
    #[test]
    fn wycheproofs_tokens_are_taken_if_they_are_es256_and_valid() {
        let Some(file) = fixtures::vectors("jose/wycheproof/json_web_signature_test.json") else { return };
        let (mut wrong, mut count) = (Vec::new(), 0);
        for group in file["testGroups"].as_array().unwrap() {
            let jwk = if group["public"].is_object() { &group["public"] } else { &group["private"] };
            for case in group["tests"].as_array().unwrap() {
                count += 1;
                let found = verify_jws_case(&map(json!({ "jwk": jwk, "token": case["jws"] })));
                let due = jwk["alg"] == "ES256" && case["result"] == "valid";
                if found.is_ok() != due {
                    wrong.push(format!("{} {}: {found:?}", case["tcId"], case["comment"]));
                }
            }
        }
        assert!(count >= 268 && wrong.is_empty(), "{count}: {wrong:#?}");
    }

    #[test]
    fn a_token_that_names_another_key_is_refused() {
        let key = crate::crypto::SigningKey::generate(&crate::kernel::Random::seeded(1));
        let token = crate::crypto::sign_compact("t", b"not json", &key);
        let bare = serde_json::to_value(key.verifying().to_jwk()).unwrap();
        let named = |kid: &str| serde_json::to_value(key.verifying().to_jwk().published_as(kid)).unwrap();
        for (jwk, due) in [
            (&bare, None),
            (&named(key.kid()), None),
            (&named("other"), Some("unknown_key")),
            (&json!({ "kty": "oct", "k": "AA" }), Some("key")),
            (&json!("key"), Some("key")),
        ] {
            let found = verify_jws_case(&map(json!({ "jwk": jwk, "token": token })));
            assert_eq!(found.as_ref().err().map(|r| r.reason), due, "{jwk}");
            assert!(found.is_err() || found.unwrap()["payload"] == "not json");
        }
        assert_eq!(verify_jws_case(&map(json!({ "jwk": bare }))).unwrap_err().reason, "malformed_input");
        assert_eq!(verify_jws_case(&map(json!({ "token": token }))).unwrap_err().reason, "malformed_input");
    }
}
