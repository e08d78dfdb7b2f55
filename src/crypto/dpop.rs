//! DPoP proofs (RFC 9449): a signed statement, for one request, that its sender holds a private key.
//!
//! The order of [`verify_proof`]: form, type and algorithm; the key that the header brings; its signature; only then the
//! claims. The key proves nothing by itself: what it is worth is decided by who compares its thumbprint with a token's.
//!
//! Decisions where RFC 9449 leaves room:
//!
//! - URLs are compared after the normalisation of RFC 3986, section 6.2.2 and 6.2.3: scheme and host in lower case, the
//!   scheme's own port dropped, an empty path is `/`, hex digits of percent-encoding in upper case, encoded unreserved
//!   characters decoded. Dot segments, plain or encoded, are refused instead of removed: a client resolves them before
//!   it sends, and no route of ours has any. Beyond that a path is compared byte by byte; a trailing slash counts.
//!   Query and fragment are cut off on both sides.
//! - `iat` is a whole number, as in our tokens, and counts even where a nonce shows how fresh the proof is.
//! - A high s is accepted (see `es256`), so replay is judged by thumbprint and `jti`, never by the proof's text.
//! - Further claims and header members are ignored, save those that `jws` refuses in any header.
//!
//! Knows nothing of replay, of whether a nonce is ours, or of HTTP headers.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::{Map, Value, json};

use super::jws::{JwsError, parse_bringing_key, sign_with_header};
use super::{Jwk, KeyError, SigningKey, VerifyingKey, constant_time_eq, sha256, strict_json};
use crate::kernel::Timestamp;

/// Bytes of a proof.
pub const PROOF_BYTES_MAX: usize = 8 * 1024;
/// Bytes of a `jti`.
pub const JTI_BYTES_MAX: usize = 256;
/// The header's `typ`.
pub const TYP: &str = "dpop+jwt";

/// What a proof must fit.
#[derive(Clone, Copy, Debug)]
pub struct Expect<'a> {
    /// The request's method; case counts.
    pub method: &'a str,
    /// The request's URL: absolute, http or https; query and fragment do not count.
    pub url: &'a str,
    /// The access token that the request bears. `Some`: the proof must name its hash. `None`: there is no token yet, and
    /// a hash in the proof is not looked at.
    pub access_token: Option<&'a str>,
    /// The thumbprint (RFC 7638) of the key that the token is bound to. `None`: any key will do, as when a token is asked
    /// for.
    pub thumbprint: Option<&'a str>,
    /// How far `iat` may lie from now, before or behind.
    pub iat_window_s: u32,
}

/// What a verified proof says. That it was not used before is not known yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The thumbprint (RFC 7638) of the key that the sender holds: 43 characters of base64url.
    pub thumbprint: String,
    /// The proof's own id, 1 to 256 bytes of the sender's choice.
    pub jti: String,
    /// When it was made, by the sender's clock; within the window.
    pub iat_s: i64,
    /// The nonce that it repeats; not judged yet.
    pub nonce: Option<String>,
}

/// Why a proof was refused. All are one 401 to a caller; none repeats anything of the proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DpopError {
    /// Form, type, algorithm or a header member.
    #[error(transparent)]
    Jws(#[from] JwsError),
    /// The header's `jwk` is not a public P-256 key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Not the signature of the key that it brings.
    #[error("the signature is not that of the key in the header")]
    Signature,
    /// Not a strict JSON object.
    #[error("the payload is not a strict JSON object")]
    Payload,
    /// Missing, or of the wrong type or size.
    #[error("the claim {0} is missing or not of its type")]
    Claim(&'static str),
    /// `htm` is another method.
    #[error("the proof is for another method")]
    Method,
    /// `htu` is another URL, or none.
    #[error("the proof is for another URL")]
    Url,
    /// `iat` lies further back than the window.
    #[error("the proof is too old")]
    TooOld,
    /// `iat` lies further ahead than the window.
    #[error("the proof was made in the future")]
    Ahead,
    /// `ath` is the hash of another access token.
    #[error("the proof is for another access token")]
    AccessToken,
    /// Made by another key than the one that the token is bound to.
    #[error("the proof was made by another key than the token is bound to")]
    OtherKey,
}

/// Verifies a proof by the rules of RFC 9449, section 4.3, except for those that need a memory: 1 (one header field),
/// 10 (the nonce) and replay (section 11.1).
///
/// # Errors
/// The first rule of [`DpopError`] that it breaks.
pub fn verify_proof(proof: &str, expected: &Expect<'_>, now: Timestamp) -> Result<Proof, DpopError> {
    let (parsed, jwk) = parse_bringing_key(proof, PROOF_BYTES_MAX)?;
    parsed.require_typ(TYP)?;
    let key = VerifyingKey::from_jwk(&Jwk::from_value(&jwk)?)?;
    let payload = parsed.verify(&key).ok_or(DpopError::Signature)?;
    let claims = strict_json::parse_object(payload).map_err(|_| DpopError::Payload)?;
    if required(&claims, "htm")? != expected.method {
        return Err(DpopError::Method);
    }
    let url = normal_url(required(&claims, "htu")?).ok_or(DpopError::Url)?;
    if normal_url(expected.url).as_ref() != Some(&url) {
        return Err(DpopError::Url);
    }
    let jti = required(&claims, "jti")?;
    if !(1..=JTI_BYTES_MAX).contains(&jti.len()) {
        return Err(DpopError::Claim("jti"));
    }
    let iat_s = claims.get("iat").and_then(Value::as_i64).ok_or(DpopError::Claim("iat"))?;
    let window_s = i64::from(expected.iat_window_s);
    if iat_s < now.as_secs().saturating_sub(window_s) {
        return Err(DpopError::TooOld);
    }
    if iat_s > now.as_secs().saturating_add(window_s) {
        return Err(DpopError::Ahead);
    }
    let nonce = match claims.get("nonce") {
        None => None,
        Some(Value::String(nonce)) => Some(nonce.clone()),
        Some(_) => return Err(DpopError::Claim("nonce")),
    };
    if let Some(token) = expected.access_token
        && !constant_time_eq(required(&claims, "ath")?.as_bytes(), access_token_hash(token).as_bytes())
    {
        return Err(DpopError::AccessToken);
    }
    let thumbprint = key.thumbprint();
    if expected.thumbprint.is_some_and(|bound| !constant_time_eq(bound.as_bytes(), thumbprint.as_bytes())) {
        return Err(DpopError::OtherKey);
    }
    Ok(Proof { thumbprint, jti: jti.to_owned(), iat_s, nonce })
}

fn required<'a>(claims: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, DpopError> {
    claims.get(name).and_then(Value::as_str).ok_or(DpopError::Claim(name))
}

/// The `ath` of an access token: its SHA-256 in base64url.
pub fn access_token_hash(token: &str) -> String {
    Base64UrlUnpadded::encode_string(&sha256(token.as_bytes()))
}

/// Makes a proof for one request, as a client sends it. `jti` must be fresh for each request; query and fragment of `url`
/// are left out, as RFC 9449, section 4.2 says.
pub fn make_proof(
    key: &SigningKey,
    method: &str,
    url: &str,
    access_token: Option<&str>,
    nonce: Option<&str>,
    jti: &str,
    iat_s: i64,
) -> String {
    let jwk = key.verifying().to_jwk();
    let mut header = Map::new();
    header.insert("typ".to_owned(), Value::from(TYP));
    header.insert("alg".to_owned(), Value::from("ES256"));
    header.insert("jwk".to_owned(), json!({ "kty": "EC", "crv": "P-256", "x": jwk.x(), "y": jwk.y() }));
    let mut claims = Map::new();
    claims.insert("jti".to_owned(), Value::from(jti));
    claims.insert("htm".to_owned(), Value::from(method));
    claims.insert("htu".to_owned(), Value::from(without_query(url)));
    claims.insert("iat".to_owned(), Value::from(iat_s));
    if let Some(token) = access_token {
        claims.insert("ath".to_owned(), Value::from(access_token_hash(token)));
    }
    if let Some(nonce) = nonce {
        claims.insert("nonce".to_owned(), Value::from(nonce));
    }
    sign_with_header(header, Value::Object(claims).to_string().as_bytes(), key)
}

fn without_query(url: &str) -> &str {
    url.find(['?', '#']).and_then(|at| url.get(..at)).unwrap_or(url)
}

/// A URL as it is compared.
#[derive(PartialEq, Eq, Debug)]
struct NormalUrl {
    scheme: &'static str,
    host: String,
    port: u16,
    path: String,
}

/// The parts of an absolute http or https URL without query and fragment; `None` for anything else.
fn normal_url(url: &str) -> Option<NormalUrl> {
    let (scheme, rest) = without_query(url).split_once("://")?;
    let (scheme, own_port) = match scheme {
        s if s.eq_ignore_ascii_case("https") => ("https", 443),
        s if s.eq_ignore_ascii_case("http") => ("http", 80),
        _ => return None,
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    // The colons of an IPv6 address stand inside brackets.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, ""),
    };
    let port = match port {
        "" => own_port,
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
        _ => return None,
    };
    // No user, no percent-encoding: neither belongs into the name of a server (RFC 9110, section 4.2.4).
    let name = |host: &str| !host.is_empty() && host.bytes().all(|b| is_unreserved(b) || is_sub_delimiter(b));
    let plain = match host.strip_prefix('[').map(|h| h.strip_suffix(']')) {
        Some(inner) => inner?.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name(host),
    };
    if !plain {
        return None;
    }
    Some(NormalUrl { scheme, host: host.to_ascii_lowercase(), port, path: normal_path(path)? })
}

/// One decoding pass; `None` for what is no path of RFC 3986, and for dot segments.
fn normal_path(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                let decoded = u8::try_from(high * 16 + low).ok()?;
                if is_unreserved(decoded) {
                    out.push(char::from(decoded));
                } else {
                    out.push_str(&format!("%{decoded:02X}"));
                }
            }
            b'/' | b':' | b'@' => out.push(char::from(byte)),
            _ if is_unreserved(byte) || is_sub_delimiter(byte) => out.push(char::from(byte)),
            _ => return None,
        }
    }
    let dots = out.split('/').any(|segment| matches!(segment, "." | ".."));
    (!dots).then_some(out)
}

/// RFC 3986, section 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986, section 2.2.
const fn is_sub_delimiter(byte: u8) -> bool {
    matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::kernel::Random;

    const NOW_S: i64 = 1_800_000_000;
    const URL: &str = "https://box.example/v1/x";

    fn key() -> SigningKey {
        SigningKey::generate(&Random::seeded(1))
    }

    fn at(now_s: i64) -> Timestamp {
        Timestamp::from_millis(now_s * 1000)
    }

    const fn plain() -> Expect<'static> {
        Expect { method: "POST", url: URL, access_token: None, thumbprint: None, iat_window_s: 60 }
    }

    /// A genuine signature over any header and claims, so that only their own fault can refuse them.
    fn signed(header: Value, claims: Value) -> String {
        let Value::Object(mut members) = header else { return String::new() };
        if !members.contains_key("alg") {
            members.insert("alg".to_owned(), "ES256".into());
        }
        sign_with_header(members, claims.to_string().as_bytes(), &key())
    }

    fn jwk() -> Value {
        serde_json::to_value(key().verifying().to_jwk()).unwrap()
    }

    fn with_claims(changes: Value) -> String {
        let mut claims = json!({ "jti": "a", "htm": "POST", "htu": URL, "iat": NOW_S });
        for (name, value) in changes.as_object().unwrap() {
            claims.as_object_mut().unwrap().insert(name.clone(), value.clone());
        }
        signed(json!({ "typ": TYP, "jwk": jwk() }), claims)
    }

    #[test]
    fn a_proof_made_here_is_taken_for_its_request_and_for_no_other() {
        let key = key();
        let proof = make_proof(&key, "POST", &format!("{URL}?q=1#f"), Some("token"), Some("n"), "id-1", NOW_S);
        let fits = Expect { access_token: Some("token"), thumbprint: Some(key.kid()), ..plain() };
        let expected = Proof {
            thumbprint: key.kid().to_owned(),
            jti: "id-1".to_owned(),
            iat_s: NOW_S,
            nonce: Some("n".to_owned()),
        };
        assert_eq!(verify_proof(&proof, &fits, at(NOW_S)), Ok(expected));
        assert!(verify_proof(&proof, &plain(), at(NOW_S)).is_ok(), "before there is a token, a hash is not looked at");
        let other = SigningKey::generate(&Random::seeded(2));
        for (expect, fault) in [
            (Expect { method: "GET", ..fits }, DpopError::Method),
            (Expect { method: "post", ..fits }, DpopError::Method),
            (Expect { url: "https://box.example/v1/y", ..fits }, DpopError::Url),
            (Expect { url: "/v1/x", ..fits }, DpopError::Url),
            (Expect { access_token: Some("token2"), ..fits }, DpopError::AccessToken),
            (Expect { thumbprint: Some(other.kid()), ..fits }, DpopError::OtherKey),
            (Expect { thumbprint: Some(""), ..fits }, DpopError::OtherKey),
        ] {
            assert_eq!(verify_proof(&proof, &expect, at(NOW_S)), Err(fault), "{expect:?}");
        }
        let without = make_proof(&key, "POST", URL, None, None, "id-1", NOW_S);
        assert_eq!(verify_proof(&without, &fits, at(NOW_S)), Err(DpopError::Claim("ath")));
    }

    #[test]
    fn the_window_reaches_sixty_seconds_both_ways() {
        let proof = make_proof(&key(), "POST", URL, None, None, "a", NOW_S);
        for (offset_s, verdict) in
            [(-61, Some(DpopError::Ahead)), (-60, None), (60, None), (61, Some(DpopError::TooOld))]
        {
            assert_eq!(verify_proof(&proof, &plain(), at(NOW_S + offset_s)).err(), verdict, "{offset_s}");
        }
        for (iat, fault) in [
            (json!(i64::MAX), DpopError::Ahead),
            (json!(i64::MIN), DpopError::TooOld),
            (json!(u64::MAX), DpopError::Claim("iat")),
            (json!(1_800_000_000.5), DpopError::Claim("iat")),
            (json!("1800000000"), DpopError::Claim("iat")),
        ] {
            assert_eq!(verify_proof(&with_claims(json!({ "iat": iat })), &plain(), at(NOW_S)), Err(fault));
        }
    }

    #[test]
    fn each_claim_has_its_type_and_its_bounds() {
        for (changes, fault) in [
            (json!({ "jti": "" }), DpopError::Claim("jti")),
            (json!({ "jti": "x".repeat(JTI_BYTES_MAX + 1) }), DpopError::Claim("jti")),
            (json!({ "jti": 1 }), DpopError::Claim("jti")),
            (json!({ "nonce": 1 }), DpopError::Claim("nonce")),
            (json!({ "nonce": null }), DpopError::Claim("nonce")),
            (json!({ "htm": ["POST"] }), DpopError::Claim("htm")),
            (json!({ "htu": null }), DpopError::Claim("htu")),
            (json!({ "htu": "/v1/x" }), DpopError::Url),
        ] {
            assert_eq!(verify_proof(&with_claims(changes.clone()), &plain(), at(NOW_S)), Err(fault), "{changes:.80}");
        }
        let longest = with_claims(json!({ "jti": "x".repeat(JTI_BYTES_MAX), "more": [1] }));
        assert!(verify_proof(&longest, &plain(), at(NOW_S)).is_ok());
        let twice = format!(r#"{{"jti":"a","jti":"b","htm":"POST","htu":"{URL}","iat":{NOW_S}}}"#);
        let mut header = Map::new();
        header.extend([("alg", json!("ES256")), ("typ", json!(TYP)), ("jwk", jwk())].map(|(n, v)| (n.to_owned(), v)));
        let twice = sign_with_header(header, twice.as_bytes(), &key());
        assert_eq!(verify_proof(&twice, &plain(), at(NOW_S)), Err(DpopError::Payload));
    }

    #[test]
    fn the_header_brings_one_public_key_and_its_signature() {
        let claims = json!({ "jti": "a", "htm": "POST", "htu": URL, "iat": NOW_S });
        let mut private = jwk();
        private["d"] = json!("AAAA");
        let mut off_curve = jwk();
        off_curve["y"] = off_curve["x"].clone();
        let other = serde_json::to_value(SigningKey::generate(&Random::seeded(2)).verifying().to_jwk()).unwrap();
        let verdict = |header: Value| verify_proof(&signed(header, claims.clone()), &plain(), at(NOW_S)).err();
        assert_eq!(verdict(json!({ "typ": TYP, "jwk": jwk() })), None);
        for (header, fault) in [
            (json!({ "jwk": jwk() }), DpopError::Jws(JwsError::Typ)),
            (json!({ "typ": "DPoP+JWT", "jwk": jwk() }), DpopError::Jws(JwsError::Typ)),
            (json!({ "typ": TYP, "jwk": jwk(), "alg": "none" }), DpopError::Jws(JwsError::Algorithm)),
            (json!({ "typ": TYP }), DpopError::Jws(JwsError::Member)),
            (json!({ "typ": TYP, "jwk": jwk(), "x5c": [] }), DpopError::Jws(JwsError::Member)),
            (json!({ "typ": TYP, "jwk": other }), DpopError::Signature),
            (json!({ "typ": TYP, "jwk": off_curve }), DpopError::Key(KeyError::NotOnCurve)),
        ] {
            assert_eq!(verdict(header.clone()), Some(fault), "{header}");
        }
        for jwk in [private, json!({ "kty": "oct", "k": "AAAA" }), json!(null), json!([])] {
            assert!(matches!(verdict(json!({ "typ": TYP, "jwk": jwk })), Some(DpopError::Key(KeyError::Jwk(_)))));
        }
        let long = with_claims(json!({ "x": "y".repeat(PROOF_BYTES_MAX) }));
        assert_eq!(verify_proof(&long, &plain(), at(NOW_S)), Err(DpopError::Jws(JwsError::TooLong)));
    }

    #[test]
    fn two_spellings_of_one_url_are_the_same_and_two_urls_are_not() {
        for (a, b) in [
            ("https://box.example/a", "HTTPS://Box.Example:443/a?q=/../#f"),
            ("http://box.example", "http://box.example:80/"),
            ("https://box.example:/a", "https://box.example/a"),
            ("https://box.example:08443/a", "https://box.example:8443/a"),
            ("https://[::1]:443/a", "https://[::1]/a"),
            ("https://[2001:DB8::1]/a", "https://[2001:db8::1]/a"),
            ("https://box.example/%c3%a4%7ex", "https://box.example/%C3%A4~x"),
            ("https://box.example/BR%2D1", "https://box.example/BR-1"),
            ("https://box.example?a", "https://box.example/"),
        ] {
            assert!(normal_url(a).is_some(), "{a}");
            assert_eq!(normal_url(a), normal_url(b), "{a} {b}");
        }
        for (a, b) in [
            ("https://box.example/a", "http://box.example/a"),
            ("https://box.example/a", "https://box.example/a/"),
            ("https://box.example/a", "https://box.example/A"),
            ("https://box.example/a", "https://box.example//a"),
            ("https://box.example/a", "https://box.example:8443/a"),
            ("https://box.example/a", "https://box.example.evil/a"),
            ("https://box.example/a%2Fb", "https://box.example/a/b"),
            ("https://box.example/%252e", "https://box.example/%2e"),
            ("https://box.example/a;x", "https://box.example/a"),
        ] {
            assert_ne!(normal_url(a), normal_url(b), "{a} {b}");
        }
        for bad in [
            "",
            "/a",
            "box.example/a",
            "https:/box.example/a",
            "https:///a",
            "https://:443/a",
            "ftp://box.example/a",
            "https://user@box.example/a",
            "https://box.example:x/a",
            "https://box.example:65536/a",
            "https://[::1/a",
            "https://[::1]x/a",
            "https://::1/a",
            "https://b%6fx.example/a",
            "https://box.example/a b",
            "https://box.example/%2",
            "https://box.example/%zz",
            "https://box.example/%+1",
            "https://box.example/ä",
            "https://box.example/a/../b",
            "https://box.example/a/%2E%2e/b",
            "https://box.example/.",
            "https://b ox/a",
            "https://box.example\\@evil/a",
            " https://box.example/a",
        ] {
            assert_eq!(normal_url(bad), None, "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_verifier_panic(proof in "\\PC{0,200}", url in "(https://)?\\PC{0,40}", claim in "\\PC{0,40}") {
            let _ = verify_proof(&proof, &plain(), at(NOW_S));
            let proof = with_claims(json!({ "htu": url, "jti": claim }));
            let _ = verify_proof(&proof, &Expect { url: &url, ..plain() }, at(NOW_S));
        }

        /// What was normalised once is normal.
        #[test]
        fn normalising_twice_changes_nothing(path in "(/[a-zA-Z0-9.%:@!~-]{0,8}){1,4}") {
            if let Some(once) = normal_path(&path) {
                proptest::prop_assert_eq!(normal_path(&once), Some(once.clone()));
            }
        }
    }
}
