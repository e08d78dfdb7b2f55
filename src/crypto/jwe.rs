//! Compact JWE (RFC 7516) with A256KW and A256GCM and nothing else.
//!
//! One sealed content has one text: base64url without padding and without stray bits, a header that names no member
//! twice, an initialisation vector of 96 bits and a tag of 128 (RFC 7518, section 5.3). The header only ever confirms
//! the two algorithms that are due; it chooses nothing, brings no key and asks for no work (`p2c`, `zip`). Nothing is
//! handed out before the tag has been checked. Knows nothing of what is inside.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap};
use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::Value;
use zeroize::Zeroizing;

use super::strict_json;

/// Characters of a whole token.
pub const TOKEN_LEN_MAX: usize = 32 * 1024;
/// Bytes of a decoded header.
pub const HEADER_BYTES_MAX: usize = 2048;
/// Bytes of an A256KW or A256GCM key.
pub const KEY_BYTES: usize = 32;
/// AES Key Wrap adds eight bytes (RFC 3394, section 2.2.1).
const WRAPPED_KEY_BYTES: usize = KEY_BYTES + 8;
const IV_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// Header members that change how the token is opened, or bring or point to a key.
const REFUSED_MEMBERS: &[&str] = &[
    "zip", "crit", "b64", "jku", "jwk", "x5u", "x5c", "x5t", "x5t#S256", "epk", "apu", "apv", "iv", "tag", "p2s", "p2c",
];

/// Why a text is not a compact JWE that this key opens. The text repeats nothing of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JweError {
    /// Longer than [`TOKEN_LEN_MAX`], or a header longer than [`HEADER_BYTES_MAX`].
    #[error("the token is too long")]
    TooLong,
    /// Not exactly five parts.
    #[error("the token does not have the five parts of an encrypted token")]
    Parts,
    /// Padding, another alphabet, white space or stray bits.
    #[error("a part of the token is not canonical base64url")]
    Encoding,
    /// Not a JSON object, a duplicate member, or too deep.
    #[error("the header is not a strict JSON object")]
    Header,
    /// Another algorithm than A256KW, or none.
    #[error("the key is not wrapped by A256KW")]
    Algorithm,
    /// Another algorithm than A256GCM, or none.
    #[error("the content is not encrypted by A256GCM")]
    Encryption,
    /// A member that this decrypter does not take; see the module's text.
    #[error("the header has a member that is not accepted")]
    Member,
    /// The wrapped key, the vector or the tag has another length than the algorithms give it.
    #[error("the wrapped key, the initialisation vector or the tag has the wrong length")]
    Length,
    /// Wrapped under another key, or altered.
    #[error("the content key was not wrapped under this key")]
    Key,
    /// The tag does not fit header, vector and content.
    #[error("the content or its header was altered")]
    Content,
}

/// Opens a compact JWE under a key of 256 bits. What comes back is wiped when dropped.
///
/// # Errors
/// The first rule of [`JweError`] that it breaks.
pub fn decrypt_compact(token: &str, key: &[u8; KEY_BYTES]) -> Result<Zeroizing<Vec<u8>>, JweError> {
    if token.len() > TOKEN_LEN_MAX {
        return Err(JweError::TooLong);
    }
    let mut parts = token.split('.');
    let mut part = || parts.next().ok_or(JweError::Parts);
    let (header, wrapped, iv, content, tag) = (part()?, part()?, part()?, part()?, part()?);
    if parts.next().is_some() {
        return Err(JweError::Parts);
    }
    check_header(&decode(header)?)?;
    let (wrapped, iv, tag) = (decode(wrapped)?, decode(iv)?, decode(tag)?);
    if (wrapped.len(), iv.len(), tag.len()) != (WRAPPED_KEY_BYTES, IV_BYTES, TAG_BYTES) {
        return Err(JweError::Length);
    }
    let content_key = unwrap_key(key, &wrapped).ok_or(JweError::Key)?;
    let content_key: &[u8; KEY_BYTES] = content_key.as_slice().try_into().map_err(|_| JweError::Key)?;
    // The header as it was received is authenticated with the content (RFC 7516, section 5.2, step 15).
    open(content_key, &iv, header.as_bytes(), &decode(content)?, &tag).ok_or(JweError::Content)
}

fn check_header(header: &[u8]) -> Result<(), JweError> {
    if header.len() > HEADER_BYTES_MAX {
        return Err(JweError::TooLong);
    }
    let header = strict_json::parse_object(header).map_err(|_| JweError::Header)?;
    let text = |name: &str| header.get(name).and_then(Value::as_str);
    if text("alg") != Some("A256KW") {
        return Err(JweError::Algorithm);
    }
    if text("enc") != Some("A256GCM") {
        return Err(JweError::Encryption);
    }
    if REFUSED_MEMBERS.iter().any(|name| header.contains_key(*name)) {
        return Err(JweError::Member);
    }
    Ok(())
}

/// AES Key Wrap (RFC 3394) undone; `None` where the key is another one, something was altered, or the length is none of
/// a wrapped key's.
pub(super) fn unwrap_key(key: &[u8; KEY_BYTES], wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let key = AesKek::new(&AES_256, key).ok()?;
    let mut out = Zeroizing::new(vec![0; wrapped.len()]);
    let length = key.unwrap(wrapped, &mut out).ok()?.len();
    out.truncate(length);
    Some(out)
}

/// AES-256-GCM opened; `None` unless `iv` has 12 bytes, `tag` 16, and the tag fits.
pub(super) fn open(
    key: &[u8; KEY_BYTES],
    iv: &[u8],
    associated: &[u8],
    content: &[u8],
    tag: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    if tag.len() != TAG_BYTES {
        return None;
    }
    let nonce = Nonce::try_assume_unique_for_key(iv).ok()?;
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
    let mut buffer = Zeroizing::new(Vec::with_capacity(content.len().saturating_add(tag.len())));
    buffer.extend_from_slice(content);
    buffer.extend_from_slice(tag);
    let length = key.open_in_place(nonce, Aad::from(associated), &mut buffer).ok()?.len();
    buffer.truncate(length);
    Some(buffer)
}

/// The decoder refuses padding, the other alphabet, white space and spare bits that are not zero.
fn decode(part: &str) -> Result<Vec<u8>, JweError> {
    Base64UrlUnpadded::decode_vec(part).map_err(|_| JweError::Encoding)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    /// Seals under a header of the test's choice, always genuinely: only the header's own fault can refuse it.
    fn sealed(header: &str, content: &[u8]) -> String {
        let b64 = Base64UrlUnpadded::encode_string;
        let (content_key, iv) = ([9; 32], [1; 12]);
        let mut wrapped = vec![0; 40];
        AesKek::new(&AES_256, &KEY).unwrap().wrap(&content_key, &mut wrapped).unwrap();
        let header = b64(header.as_bytes());
        let mut buffer = content.to_vec();
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &content_key).unwrap());
        let nonce = Nonce::assume_unique_for_key(iv);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(header.as_bytes()), &mut buffer).unwrap();
        format!("{header}.{}.{}.{}.{}", b64(&wrapped), b64(&iv), b64(&buffer), b64(tag.as_ref()))
    }

    const HEADER: &str = r#"{"alg":"A256KW","enc":"A256GCM"}"#;

    #[test]
    fn what_was_sealed_comes_back_under_its_key_only() {
        for content in [&b""[..], b"x", &[5; 1000]] {
            let token = sealed(HEADER, content);
            assert_eq!(decrypt_compact(&token, &KEY).unwrap().as_slice(), content);
            assert_eq!(decrypt_compact(&token, &[8; 32]).unwrap_err(), JweError::Key);
        }
    }

    #[test]
    fn a_header_that_wants_anything_else_is_refused_though_it_is_sealed_genuinely() {
        for name in REFUSED_MEMBERS {
            let token = sealed(&format!(r#"{{"alg":"A256KW","enc":"A256GCM","{name}":null}}"#), b"x");
            assert_eq!(decrypt_compact(&token, &KEY).unwrap_err(), JweError::Member, "{name}");
        }
        for (header, fault) in [
            (r#"{"alg":"dir","enc":"A256GCM"}"#, JweError::Algorithm),
            (r#"{"alg":"a256kw","enc":"A256GCM"}"#, JweError::Algorithm),
            (r#"{"alg":["A256KW"],"enc":"A256GCM"}"#, JweError::Algorithm),
            (r#"{"enc":"A256GCM"}"#, JweError::Algorithm),
            (r#"{"alg":"A256KW","enc":"A128GCM"}"#, JweError::Encryption),
            (r#"{"alg":"A256KW"}"#, JweError::Encryption),
            (r#"{"alg":"A256KW","alg":"A256KW","enc":"A256GCM"}"#, JweError::Header),
            (r#"["A256KW","A256GCM"]"#, JweError::Header),
            ("", JweError::Header),
        ] {
            assert_eq!(decrypt_compact(&sealed(header, b"x"), &KEY).unwrap_err(), fault, "{header}");
        }
        // RFC 7516, section 4: what is not understood and not critical is ignored.
        assert!(
            decrypt_compact(&sealed(r#"{"alg":"A256KW","enc":"A256GCM","cty":"JWT","kid":"k"}"#, b"x"), &KEY).is_ok()
        );
    }

    #[test]
    fn form_and_lengths_are_exact() {
        let token = sealed(HEADER, b"secret");
        let parts: Vec<&str> = token.split('.').collect();
        let with = |at: usize, text: &str| {
            let mut parts = parts.clone();
            parts[at] = text;
            parts.join(".")
        };
        for (changed, fault) in [
            (parts[..4].join("."), JweError::Parts),
            (format!("{token}."), JweError::Parts),
            (String::new(), JweError::Parts),
            (format!("{token}="), JweError::Encoding),
            (format!(" {token}"), JweError::Encoding),
            (with(1, ""), JweError::Length),
            (with(1, &Base64UrlUnpadded::encode_string(&[0; 39])), JweError::Length),
            (with(2, ""), JweError::Length),
            (with(2, &Base64UrlUnpadded::encode_string(&[1; 16])), JweError::Length),
            (with(4, &parts[4][..16]), JweError::Length),
            (with(3, ""), JweError::Content),
            ("x".repeat(TOKEN_LEN_MAX + 1), JweError::TooLong),
        ] {
            assert_eq!(decrypt_compact(&changed, &KEY).unwrap_err(), fault, "{changed:.60}");
        }
    }

    /// Header, wrapped key, vector, content and tag: nothing of a token is left uncovered, not even a spare bit.
    #[test]
    fn changing_any_character_of_a_token_ends_it() {
        let token = sealed(HEADER, b"what was said");
        for at in 0..token.len() {
            for with in ["A", "B", "-", "9", ".", "="] {
                let mut changed = token.clone();
                changed.replace_range(at..=at, with);
                assert!(changed == token || decrypt_compact(&changed, &KEY).is_err(), "{at} {with}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_decrypter_panic(text in "\\PC{0,200}|[A-Za-z0-9_-]{0,60}(\\.[A-Za-z0-9_-]{0,60}){0,6}") {
            let _ = decrypt_compact(&text, &KEY);
        }
    }
}
