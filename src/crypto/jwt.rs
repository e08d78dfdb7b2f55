//! JWT claims (RFC 7519, and RFC 9068 for access tokens) behind one strict policy.
//!
//! Order: form, type and algorithm; key by `kid`; signature; only then the claims. Nothing of a payload is even parsed
//! before its signature is proven, so a forger learns one answer and reaches one parser (the header's). Decisions where
//! the RFCs leave room: a high s is accepted (see `es256`), `typ` is one exact spelling, times are whole seconds,
//! `iat` and `jti` are required as RFC 9068, section 2.2 does. Replay is judged by `jti`, never by the token's text.
//! Knows nothing of sessions or revocation.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::jws::{JwsError, parse_compact};
use super::{VerifyingKey, strict_json};
use crate::kernel::Timestamp;

/// Bytes of a JWT.
pub const TOKEN_BYTES_MAX: usize = 4096;
/// Entries of an `aud` array.
pub const AUDIENCES_MAX: usize = 16;
/// Bytes of `sub` and of `jti`.
const NAME_LEN_MAX: usize = 256;

/// What a token must say.
#[derive(Clone, Debug)]
pub struct JwtPolicy {
    /// The exact `iss`.
    pub issuer: String,
    /// What `aud` must be or contain.
    pub audience: String,
    /// The exact `typ` of the header.
    pub typ: String,
    /// How far two clocks may differ.
    pub leeway_s: u32,
    /// The longest time from `iat` to `exp`; also, how far `exp` may lie ahead of now, plus the leeway.
    pub max_lifetime_s: u32,
}

/// Why a token was refused. All are one 401 to a caller; the log may say which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Form, header or encoding.
    #[error(transparent)]
    Jws(#[from] JwsError),
    /// No `kid`, or not the name of a trusted key.
    #[error("the key is not known")]
    UnknownKey,
    /// Not the key's signature.
    #[error("the signature is not valid")]
    Signature,
    /// Not a strict JSON object.
    #[error("the payload is not a strict JSON object")]
    Payload,
    /// Missing, or of the wrong type.
    #[error("the claim {0} is missing or not of its type")]
    Claim(&'static str),
    /// Another issuer.
    #[error("the issuer is another one")]
    Issuer,
    /// For somebody else.
    #[error("the audience is another one")]
    Audience,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` or `iat` lies ahead.
    #[error("the token is not valid yet")]
    NotYet,
    /// `exp` lies further ahead than any genuine token's.
    #[error("the token's lifetime is longer than allowed")]
    Lifetime,
}

/// The proven claims. Times are Unix seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    /// Whom it speaks of.
    pub sub: String,
    /// The token's own id.
    pub jti: String,
    /// When it was issued.
    pub iat_s: i64,
    /// Not valid before; absent when the token does not say.
    pub nbf_s: Option<i64>,
    /// The first second at which it is no longer valid.
    pub exp_s: i64,
    /// Every claim, those above included.
    pub all: Map<String, Value>,
}

impl Claims {
    /// A claim that is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.all.get(name).and_then(Value::as_str)
    }
}

/// Verifies a JWT at `now`. `key_of` finds a trusted key by its id.
///
/// # Errors
/// The first rule of [`JwtError`] that it breaks.
pub fn verify_jwt(
    token: &str,
    key_of: &dyn Fn(&str) -> Option<Arc<VerifyingKey>>,
    policy: &JwtPolicy,
    now: Timestamp,
) -> Result<Claims, JwtError> {
    let claims = verify_genuine(token, key_of, policy, now)?;
    if now.as_secs() >= claims.exp_s.saturating_add(i64::from(policy.leeway_s)) {
        return Err(JwtError::Expired);
    }
    Ok(claims)
}

/// Verifies everything but the expiry: that the token was once issued by us to this subject. For the socket of a blocked
/// device, which may come with its last token to receive commands, and for nothing that grants access.
///
/// # Errors
/// The first rule of [`JwtError`] that it breaks; never `Expired`.
pub fn verify_genuine(
    token: &str,
    key_of: &dyn Fn(&str) -> Option<Arc<VerifyingKey>>,
    policy: &JwtPolicy,
    now: Timestamp,
) -> Result<Claims, JwtError> {
    let parsed = parse_compact(token, TOKEN_BYTES_MAX)?;
    parsed.require_typ(&policy.typ)?;
    let key = parsed.kid().and_then(key_of).ok_or(JwtError::UnknownKey)?;
    let payload = parsed.verify(&key).ok_or(JwtError::Signature)?;
    let all = strict_json::parse_object(payload).map_err(|_| JwtError::Payload)?;
    check_claims(all, policy, now.as_secs())
}

fn check_claims(all: Map<String, Value>, policy: &JwtPolicy, now_s: i64) -> Result<Claims, JwtError> {
    if all.get("iss").and_then(Value::as_str).ok_or(JwtError::Claim("iss"))? != policy.issuer {
        return Err(JwtError::Issuer);
    }
    check_audience(all.get("aud"), &policy.audience)?;
    let sub = name(&all, "sub")?;
    let jti = name(&all, "jti")?;
    let exp_s = seconds(&all, "exp")?.ok_or(JwtError::Claim("exp"))?;
    let iat_s = seconds(&all, "iat")?.ok_or(JwtError::Claim("iat"))?;
    let nbf_s = seconds(&all, "nbf")?;
    let leeway_s = i64::from(policy.leeway_s);
    let max_lifetime_s = i64::from(policy.max_lifetime_s);
    let latest_start_s = now_s.saturating_add(leeway_s);
    if iat_s > latest_start_s || nbf_s.is_some_and(|nbf_s| nbf_s > latest_start_s) {
        return Err(JwtError::NotYet);
    }
    if exp_s.saturating_sub(iat_s) > max_lifetime_s || exp_s > latest_start_s.saturating_add(max_lifetime_s) {
        return Err(JwtError::Lifetime);
    }
    Ok(Claims { sub, jti, iat_s, nbf_s, exp_s, all })
}

fn check_audience(aud: Option<&Value>, wanted: &str) -> Result<(), JwtError> {
    let found = match aud {
        Some(Value::String(one)) => one == wanted,
        Some(Value::Array(many)) if many.len() <= AUDIENCES_MAX && many.iter().all(Value::is_string) => {
            many.iter().any(|one| one == wanted)
        }
        _ => return Err(JwtError::Claim("aud")),
    };
    if found { Ok(()) } else { Err(JwtError::Audience) }
}

fn name(all: &Map<String, Value>, claim: &'static str) -> Result<String, JwtError> {
    match all.get(claim) {
        Some(Value::String(text)) if (1..=NAME_LEN_MAX).contains(&text.len()) => Ok(text.clone()),
        _ => Err(JwtError::Claim(claim)),
    }
}

/// A time, where the claim is there: a whole number of seconds from 1970 on.
fn seconds(all: &Map<String, Value>, claim: &'static str) -> Result<Option<i64>, JwtError> {
    match all.get(claim) {
        None => Ok(None),
        Some(value) => value.as_i64().filter(|s| *s >= 0).map(Some).ok_or(JwtError::Claim(claim)),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::super::{SigningKey, sign_compact};
    use super::*;
    use crate::kernel::Random;
    use serde_json::json;

    const NOW_S: i64 = 1_800_000_000;

    fn policy() -> JwtPolicy {
        JwtPolicy {
            issuer: "https://appliance.example".to_owned(),
            audience: "api".to_owned(),
            typ: "at+jwt".to_owned(),
            leeway_s: 30,
            max_lifetime_s: 900,
        }
    }

    fn claims(changes: Value) -> Value {
        let mut claims = json!({
            "iss": "https://appliance.example", "aud": "api", "sub": "usr_1", "jti": "tok_1",
            "iat": NOW_S, "nbf": NOW_S, "exp": NOW_S + 900, "tenant": "ten_1",
        });
        let (Value::Object(all), Value::Object(changes)) = (&mut claims, changes) else { return claims };
        for (name, value) in changes {
            if value == "absent" {
                all.remove(&name)
            } else {
                all.insert(name, value)
            };
        }
        claims
    }

    fn verdict_at(changes: Value, now_s: i64) -> Result<Claims, JwtError> {
        let key = SigningKey::generate(&Random::seeded(1));
        let token = sign_compact("at+jwt", claims(changes).to_string().as_bytes(), &key);
        let known = |kid: &str| (kid == key.kid()).then(|| Arc::new(key.verifying().clone()));
        verify_jwt(&token, &known, &policy(), Timestamp::from_millis(now_s * 1000))
    }

    #[test]
    fn an_issued_token_is_taken_for_as_long_as_it_says_and_half_a_minute() {
        let claims = verdict_at(json!({}), NOW_S).unwrap();
        assert_eq!((claims.sub.as_str(), claims.text("tenant")), ("usr_1", Some("ten_1")));
        assert!(verdict_at(json!({}), NOW_S + 929).is_ok());
        assert_eq!(verdict_at(json!({}), NOW_S + 930), Err(JwtError::Expired));
        assert!(verdict_at(json!({}), NOW_S - 30).is_ok());
        assert_eq!(verdict_at(json!({}), NOW_S - 31), Err(JwtError::NotYet));
    }

    #[test]
    fn each_claim_has_its_type_and_its_bounds() {
        for (changes, fault) in [
            (json!({"iat": "absent"}), JwtError::Claim("iat")),
            (json!({"jti": "absent"}), JwtError::Claim("jti")),
            (json!({"jti": 7}), JwtError::Claim("jti")),
            (json!({"jti": ""}), JwtError::Claim("jti")),
            (json!({"sub": "x".repeat(NAME_LEN_MAX + 1)}), JwtError::Claim("sub")),
            (json!({"nbf": "1800000000"}), JwtError::Claim("nbf")),
            (json!({"nbf": null}), JwtError::Claim("nbf")),
            (json!({"iat": 1_800_000_000.5}), JwtError::Claim("iat")),
            (json!({"exp": i64::MAX}), JwtError::Lifetime),
            (json!({"exp": NOW_S + 901}), JwtError::Lifetime),
            (json!({"exp": NOW_S + 931, "iat": NOW_S + 30}), JwtError::Lifetime),
            (json!({"aud": ["api", 7]}), JwtError::Claim("aud")),
            (json!({"aud": vec!["api"; AUDIENCES_MAX + 1]}), JwtError::Claim("aud")),
            (json!({"aud": ["x"]}), JwtError::Audience),
            (json!({"aud": "API"}), JwtError::Audience),
        ] {
            let text = changes.to_string();
            assert_eq!(verdict_at(changes, NOW_S), Err(fault), "{text:.80}");
        }
        assert!(verdict_at(json!({"nbf": "absent", "aud": ["x", "api"]}), NOW_S).is_ok());
    }

    #[test]
    fn a_genuine_token_that_has_expired_still_says_whose_it_was() {
        let key = SigningKey::generate(&Random::seeded(1));
        let thief = SigningKey::generate(&Random::seeded(2));
        let known = |kid: &str| (kid == key.kid()).then(|| Arc::new(key.verifying().clone()));
        let late = Timestamp::from_millis((NOW_S + 1_000_000) * 1000);
        let payload = claims(json!({})).to_string();
        let token = sign_compact("at+jwt", payload.as_bytes(), &key);
        assert_eq!(verify_jwt(&token, &known, &policy(), late), Err(JwtError::Expired));
        assert_eq!(verify_genuine(&token, &known, &policy(), late).unwrap().sub, "usr_1");
        let forged = sign_compact("at+jwt", payload.as_bytes(), &thief);
        assert_eq!(verify_genuine(&forged, &known, &policy(), late), Err(JwtError::UnknownKey));
        let known_by_any_name = |_: &str| Some(Arc::new(key.verifying().clone()));
        assert_eq!(verify_genuine(&forged, &known_by_any_name, &policy(), late), Err(JwtError::Signature));
        let other_typ = sign_compact("JWT", payload.as_bytes(), &key);
        assert_eq!(verify_genuine(&other_typ, &known, &policy(), late), Err(JwtError::Jws(JwsError::Typ)));
    }
}
