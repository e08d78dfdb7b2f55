//! Compact JWS (RFC 7515) with ES256 and nothing else.
//!
//! One signed content has one text: base64url without padding and without stray bits, a header that names no member
//! twice. A key is only ever looked up by `kid` among keys that are already trusted: a header that brings or points to
//! a key, that demands an extension, or that belongs to encryption is refused. The one exception has a parser of its own,
//! which no token passes: a proof of possession brings its key. Knows nothing of claims.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::{Map, Value};

use super::{SigningKey, VerifyingKey, strict_json};

/// Bytes of a decoded header.
pub const HEADER_BYTES_MAX: usize = 2048;
/// Characters of a `kid` in a header.
pub const KID_LEN_MAX: usize = 128;

/// Header members that make a token something else than a plain signature by a known key.
const REFUSED_MEMBERS: &[&str] = &[
    // Brings or points to a key.
    "jku", "jwk", "x5u", "x5c", "x5t", "x5t#S256",
    // Changes what is signed or must be understood; none is.
    "crit", "b64", "cty", "zip", // Belongs to JWE.
    "enc", "epk", "apu", "apv", "iv", "tag", "p2s", "p2c",
];

/// Why a text is not a compact JWS of ours. All are one 401 to a caller; the log may say which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// Longer than the caller allows.
    #[error("the token is too long")]
    TooLong,
    /// Not exactly three parts.
    #[error("the token does not have three parts")]
    Parts,
    /// Padding, another alphabet, white space or stray bits.
    #[error("a part of the token is not canonical base64url")]
    Encoding,
    /// Not a JSON object, a duplicate member, or too deep.
    #[error("the header is not a strict JSON object")]
    Header,
    /// Another algorithm, or none.
    #[error("the algorithm is not ES256")]
    Algorithm,
    /// A member that this verifier does not take; see the module's text.
    #[error("the header has a member that is not accepted")]
    Member,
    /// Not a text of 1 to 128 bytes.
    #[error("the kid is not a short text")]
    Kid,
    /// Not a text, or not the one that is due.
    #[error("the typ is not the expected one")]
    Typ,
    /// Not 64 bytes.
    #[error("the signature does not have 64 bytes")]
    SignatureLength,
    /// The payload has no canonical form to be signed.
    #[error("the payload has no canonical form")]
    Payload,
}

/// A parsed token whose signature is NOT yet checked.
#[derive(Clone, Debug)]
pub struct Compact<'a> {
    signing_input: &'a str,
    kid: Option<String>,
    typ: Option<String>,
    payload: Vec<u8>,
    signature: [u8; 64],
}

impl Compact<'_> {
    /// The key that the header names; unproven.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The type that the header states; unproven.
    pub fn typ(&self) -> Option<&str> {
        self.typ.as_deref()
    }

    /// Refuses any other type. The comparison is exact: our own tokens have one spelling, and the type is what keeps a
    /// command from being presented as an access token.
    ///
    /// # Errors
    /// [`JwsError::Typ`].
    pub fn require_typ(&self, typ: &str) -> Result<(), JwsError> {
        if self.typ() == Some(typ) { Ok(()) } else { Err(JwsError::Typ) }
    }

    /// The payload, if the signature is the key's.
    pub fn verify(&self, key: &VerifyingKey) -> Option<&[u8]> {
        key.verify(self.signing_input.as_bytes(), &self.signature).then_some(&self.payload)
    }

    /// The payload of a token that nobody has checked. Only for what a forger may know and choose, such as finding the
    /// row whose key will then judge the signature; never for a decision.
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }
}

/// Signs `payload` as a compact JWS with the header `alg`, `kid` and `typ`.
pub fn sign_compact(typ: &str, payload: &[u8], key: &SigningKey) -> String {
    let mut header = Map::new();
    header.insert("alg".to_owned(), Value::from("ES256"));
    header.insert("kid".to_owned(), Value::from(key.kid()));
    header.insert("typ".to_owned(), Value::from(typ));
    sign_with_header(header, payload, key)
}

/// Signs `payload` under a header that the caller answers for.
pub(super) fn sign_with_header(header: Map<String, Value>, payload: &[u8], key: &SigningKey) -> String {
    let header = Value::Object(header).to_string();
    let mut token = Base64UrlUnpadded::encode_string(header.as_bytes());
    token.push('.');
    token.push_str(&Base64UrlUnpadded::encode_string(payload));
    let signature = key.sign(token.as_bytes());
    token.push('.');
    token.push_str(&Base64UrlUnpadded::encode_string(&signature));
    token
}

/// Signs the canonical JSON (RFC 8785) of `payload`.
///
/// # Errors
/// [`JwsError::Payload`] for integers beyond 2^53 and more than 128 levels.
pub fn sign_canonical(typ: &str, payload: &Value, key: &SigningKey) -> Result<String, JwsError> {
    let text = super::jcs::canonicalize(payload).map_err(|_| JwsError::Payload)?;
    Ok(sign_compact(typ, text.as_bytes(), key))
}

/// Parses a compact JWS of at most `max_len` bytes, without checking its signature.
///
/// # Errors
/// The first rule of [`JwsError`] that it breaks.
pub fn parse_compact(token: &str, max_len: usize) -> Result<Compact<'_>, JwsError> {
    parse(token, max_len, REFUSED_MEMBERS).map(|(parsed, _)| parsed)
}

/// Parses a compact JWS whose header brings the key that it claims to be signed with, without checking anything by it.
/// The key is the sender's own choice: only for proofs of possession, never for anything that grants by itself.
///
/// # Errors
/// The first rule of [`JwsError`] that it breaks; a missing `jwk` is [`JwsError::Member`].
pub(super) fn parse_bringing_key(token: &str, max_len: usize) -> Result<(Compact<'_>, Value), JwsError> {
    let refused: Vec<&str> = REFUSED_MEMBERS.iter().copied().filter(|name| *name != "jwk").collect();
    let (parsed, mut header) = parse(token, max_len, &refused)?;
    let jwk = header.remove("jwk").ok_or(JwsError::Member)?;
    Ok((parsed, jwk))
}

fn parse<'a>(token: &'a str, max_len: usize, refused: &[&str]) -> Result<(Compact<'a>, Map<String, Value>), JwsError> {
    if token.len() > max_len {
        return Err(JwsError::TooLong);
    }
    let (signing_input, signature) = token.rsplit_once('.').ok_or(JwsError::Parts)?;
    let (header, payload) = signing_input.split_once('.').ok_or(JwsError::Parts)?;
    if payload.contains('.') {
        return Err(JwsError::Parts);
    }
    let header = decode(header)?;
    if header.len() > HEADER_BYTES_MAX {
        return Err(JwsError::TooLong);
    }
    let header = strict_json::parse_object(&header).map_err(|_| JwsError::Header)?;
    if header.get("alg").and_then(Value::as_str) != Some("ES256") {
        return Err(JwsError::Algorithm);
    }
    if refused.iter().any(|name| header.contains_key(*name)) {
        return Err(JwsError::Member);
    }
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) if (1..=KID_LEN_MAX).contains(&kid.len()) => Some(kid.clone()),
        Some(_) => return Err(JwsError::Kid),
    };
    let typ = match header.get("typ") {
        None => None,
        Some(Value::String(typ)) => Some(typ.clone()),
        Some(_) => return Err(JwsError::Typ),
    };
    let payload = decode(payload)?;
    let signature: [u8; 64] = decode(signature)?.try_into().map_err(|_| JwsError::SignatureLength)?;
    Ok((Compact { signing_input, kid, typ, payload, signature }, header))
}

/// The decoder refuses padding, the other alphabet, white space and spare bits that are not zero.
fn decode(part: &str) -> Result<Vec<u8>, JwsError> {
    Base64UrlUnpadded::decode_vec(part).map_err(|_| JwsError::Encoding)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::kernel::Random;

    fn token(header: &str, payload: &[u8], key: &SigningKey) -> String {
        let b64 = |b: &[u8]| Base64UrlUnpadded::encode_string(b);
        let input = format!("{}.{}", b64(header.as_bytes()), b64(payload));
        let signature = b64(&key.sign(input.as_bytes()));
        format!("{input}.{signature}")
    }

    #[test]
    fn what_was_signed_comes_back_and_nothing_else() {
        let key = SigningKey::generate(&Random::seeded(1));
        let other = SigningKey::generate(&Random::seeded(2));
        let text = sign_compact("br-command+jws", b"{}", &key);
        let parsed = parse_compact(&text, 4096).unwrap();
        assert_eq!(parsed.kid(), Some(key.kid()));
        assert_eq!(parsed.require_typ("br-command+jws"), Ok(()));
        assert_eq!(parsed.require_typ("at+jwt"), Err(JwsError::Typ));
        assert_eq!(parsed.verify(key.verifying()), Some(&b"{}"[..]));
        assert_eq!(parsed.verify(other.verifying()), None);
    }

    #[test]
    fn a_canonical_payload_has_sorted_members() {
        let key = SigningKey::generate(&Random::seeded(1));
        let text = sign_canonical("t", &serde_json::json!({"b": 1, "a": 1.0}), &key).unwrap();
        let parsed = parse_compact(&text, 4096).unwrap();
        assert_eq!(parsed.verify(key.verifying()), Some(&br#"{"a":1,"b":1}"#[..]));
        assert_eq!(sign_canonical("t", &serde_json::json!(u64::MAX), &key), Err(JwsError::Payload));
    }

    /// Each header is signed genuinely, so that only the header's own fault can refuse it.
    #[test]
    fn a_header_that_wants_more_than_a_plain_signature_is_refused() {
        let key = SigningKey::generate(&Random::seeded(1));
        for name in REFUSED_MEMBERS {
            let text = token(&format!(r#"{{"alg":"ES256","kid":"k","{name}":null}}"#), b"{}", &key);
            assert_eq!(parse_compact(&text, 4096).unwrap_err(), JwsError::Member, "{name}");
        }
        for (header, fault) in [
            (r#"{"alg":"ES256","alg":"ES256"}"#, JwsError::Header),
            (r#"["alg","ES256"]"#, JwsError::Header),
            (r#"{"alg":"ES256"} "x""#, JwsError::Header),
            (r#"{"kid":"k"}"#, JwsError::Algorithm),
            (r#"{"alg":["ES256"]}"#, JwsError::Algorithm),
            (r#"{"alg":"ES256","kid":""}"#, JwsError::Kid),
            (r#"{"alg":"ES256","typ":1}"#, JwsError::Typ),
        ] {
            assert_eq!(parse_compact(&token(header, b"{}", &key), 4096).unwrap_err(), fault, "{header}");
        }
        // RFC 7515, section 4: what is not understood and not critical is ignored.
        assert!(parse_compact(&token(r#"{"alg":"ES256","x-note":1}"#, b"{}", &key), 4096).is_ok());
    }

    #[test]
    fn a_key_may_be_brought_to_its_own_parser_only_and_nothing_else_with_it() {
        let key = SigningKey::generate(&Random::seeded(1));
        let text = token(r#"{"alg":"ES256","jwk":{"kty":"EC"}}"#, b"{}", &key);
        assert_eq!(parse_compact(&text, 4096).unwrap_err(), JwsError::Member);
        assert_eq!(parse_bringing_key(&text, 4096).unwrap().1, serde_json::json!({"kty": "EC"}));
        let none = token(r#"{"alg":"ES256","kid":"k"}"#, b"{}", &key);
        assert_eq!(parse_bringing_key(&none, 4096).unwrap_err(), JwsError::Member);
        for name in REFUSED_MEMBERS.iter().filter(|name| **name != "jwk") {
            let text = token(&format!(r#"{{"alg":"ES256","jwk":{{}},"{name}":null}}"#), b"{}", &key);
            assert_eq!(parse_bringing_key(&text, 4096).unwrap_err(), JwsError::Member, "{name}");
        }
    }

    #[test]
    fn length_is_bounded_before_anything_is_decoded() {
        let key = SigningKey::generate(&Random::seeded(1));
        let text = sign_compact("t", b"{}", &key);
        assert!(parse_compact(&text, text.len()).is_ok());
        assert_eq!(parse_compact(&text, text.len() - 1).unwrap_err(), JwsError::TooLong);
        let long = token(&format!(r#"{{"alg":"ES256","n":"{}"}}"#, "x".repeat(HEADER_BYTES_MAX)), b"{}", &key);
        assert_eq!(parse_compact(&long, 1 << 20).unwrap_err(), JwsError::TooLong);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,200}|[A-Za-z0-9_-]{0,60}(\\.[A-Za-z0-9_-]{0,60}){0,4}") {
            let _ = parse_compact(&text, 4096);
        }

        /// Changing any one character of a token ends its validity: there is no second text for the same signature.
        #[test]
        fn no_other_text_carries_the_same_signature(at in 0_usize..1000, with in "[A-Za-z0-9_.=-]") {
            let key = SigningKey::generate(&Random::seeded(1));
            let text = sign_compact("t", b"{\"a\":1}", &key);
            let at = at % text.len();
            let mut changed = text.clone();
            changed.replace_range(at..=at, &with);
            if changed != text {
                let valid = parse_compact(&changed, 4096).is_ok_and(|c| c.verify(key.verifying()).is_some());
                proptest::prop_assert!(!valid);
            }
        }
    }
}
