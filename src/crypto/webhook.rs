//! Signatures of webhooks, in two schemes: Standard Webhooks (`webhook-id`, `webhook-timestamp`, `webhook-signature`), and
//! a hexadecimal HMAC-SHA256 of `{timestamp}.{body}`. Source: the specification of Standard Webhooks, 2023.
//!
//! What is signed are the bytes as they came: nothing is parsed before the signature holds. Knows nothing of what the body
//! means, and nothing of replays: those need a memory.

use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

use super::{constant_time_eq, hex, hmac_sha256, unhex};

/// How far a signed time may lie from ours, in seconds, to both sides.
pub const TOLERANCE_S: i64 = 300;
/// What a secret in base64 begins with.
const PREFIX: &str = "whsec_";
/// Bytes of such a secret.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Signatures that one message may bear: a sender that changes its secret signs with the old one, too.
const SIGNATURES_MAX: usize = 16;
const ID_LEN_MAX: usize = 256;

/// Why a message was not taken as its sender's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WebhookError {
    /// A header is missing, or not of its form.
    #[error("a header of the signature is missing or malformed")]
    Malformed,
    /// No signature is one of ours.
    #[error("no signature fits")]
    Signature,
    /// Genuine, but signed at another time.
    #[error("the message was signed more than five minutes from now")]
    OutOfRange,
}

/// Why a text is no secret of Standard Webhooks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("behind whsec_ there must be 24 to 64 bytes in base64")]
pub struct BadSecret;

/// The key of a shared secret in the scheme of Standard Webhooks: what `whsec_` is followed by, decoded; any other text is
/// itself the key.
///
/// # Errors
/// [`BadSecret`].
pub fn standard_key(secret: &[u8]) -> Result<Zeroizing<Vec<u8>>, BadSecret> {
    let Some(encoded) = secret.strip_prefix(PREFIX.as_bytes()) else { return Ok(Zeroizing::new(secret.to_vec())) };
    let encoded = std::str::from_utf8(encoded).map_err(|_| BadSecret)?;
    let key = Zeroizing::new(Base64::decode_vec(encoded).map_err(|_| BadSecret)?);
    if KEY_BYTES.contains(&key.len()) { Ok(key) } else { Err(BadSecret) }
}

/// A secret for another party, from 32 random bytes.
pub fn new_secret(bits: &[u8; 32]) -> Zeroizing<String> {
    Zeroizing::new(format!("{PREFIX}{}", Base64::encode_string(bits)))
}

fn standard_mac(key: &[u8], id: &str, timestamp: &str, body: &[u8]) -> [u8; 32] {
    hmac_sha256(key, &[id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat())
}

/// The value of `webhook-signature` by one key.
pub fn sign_standard(key: &[u8], id: &str, timestamp_s: i64, body: &[u8]) -> String {
    format!("v1,{}", Base64::encode_string(&standard_mac(key, id, &timestamp_s.to_string(), body)))
}

/// Checks a message in the scheme of Standard Webhooks against every key; gives the signed time.
///
/// # Errors
/// [`WebhookError`]; the time is judged only where a signature fits.
pub fn verify_standard<K: AsRef<[u8]>>(
    keys: &[K],
    id: &str,
    timestamp: &str,
    signatures: &str,
    body: &[u8],
    now_s: i64,
) -> Result<i64, WebhookError> {
    // A dot in the id would move the border between id and time: one signature for two messages.
    let id_fits = (1..=ID_LEN_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic() && b != b'.');
    let signed_s = seconds(timestamp).filter(|_| id_fits).ok_or(WebhookError::Malformed)?;
    let mut presented = Vec::new();
    for signature in signatures.split(' ').take(SIGNATURES_MAX) {
        let Some(encoded) = signature.strip_prefix("v1,") else { continue };
        presented.extend(Base64::decode_vec(encoded).ok());
    }
    check(keys, &presented, |key| standard_mac(key, id, timestamp, body))?;
    in_range(signed_s, now_s)
}

/// Checks a message that bears `{timestamp}` and lower-case hexadecimal HMACs of `{timestamp}.{body}`, separated by commas,
/// each with or without `v1=`; gives the signed time. The key is the secret's text itself.
///
/// # Errors
/// As [`verify_standard`].
pub fn verify_hex<K: AsRef<[u8]>>(
    keys: &[K],
    timestamp: &str,
    signatures: &str,
    body: &[u8],
    now_s: i64,
) -> Result<i64, WebhookError> {
    let signed_s = seconds(timestamp).ok_or(WebhookError::Malformed)?;
    let mut presented = Vec::new();
    for signature in signatures.split(',').take(SIGNATURES_MAX) {
        let signature = signature.strip_prefix("v1=").unwrap_or(signature);
        presented.extend(base16(signature));
    }
    check(keys, &presented, |key| hmac_sha256(key, &[timestamp.as_bytes(), b".", body].concat()))?;
    in_range(signed_s, now_s)
}

/// The value that [`verify_hex`] expects.
pub fn sign_hex(key: &[u8], timestamp_s: i64, body: &[u8]) -> String {
    let mac = hmac_sha256(key, &[timestamp_s.to_string().as_bytes(), b".", body].concat());
    hex(&mac)
}

/// Every signature is compared with every key, so that the time tells nothing of which one fits.
fn check<K: AsRef<[u8]>>(
    keys: &[K],
    presented: &[Vec<u8>],
    mac: impl Fn(&[u8]) -> [u8; 32],
) -> Result<(), WebhookError> {
    if presented.is_empty() {
        return Err(WebhookError::Malformed);
    }
    let mut fits = false;
    for key in keys {
        let expected = mac(key.as_ref());
        for signature in presented {
            fits |= constant_time_eq(&expected, signature);
        }
    }
    if fits { Ok(()) } else { Err(WebhookError::Signature) }
}

fn in_range(signed_s: i64, now_s: i64) -> Result<i64, WebhookError> {
    if signed_s.abs_diff(now_s) <= TOLERANCE_S.unsigned_abs() { Ok(signed_s) } else { Err(WebhookError::OutOfRange) }
}

/// Digits without sign, space or leading zero: one time has one text.
fn seconds(text: &str) -> Option<i64> {
    let fits = (1..=12).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if fits { text.parse().ok() } else { None }
}

/// 64 digits of lower case: the signature of one message has one text.
fn base16(text: &str) -> Option<Vec<u8>> {
    let is_one = text.len() == 64 && !text.bytes().any(|b| b.is_ascii_uppercase());
    is_one.then(|| unhex(text)).flatten()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use serde_json::Value;

    use super::*;

    fn vectors() -> Option<Value> {
        let shared = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
        if !shared.exists() {
            eprintln!("skipped: the shared vectors are not here");
            return None;
        }
        Some(serde_json::from_slice(&std::fs::read(shared.join("vectors/webhooks/vectors.json")).unwrap()).unwrap())
    }

    fn text<'a>(value: &'a Value, name: &str) -> &'a str {
        value[name].as_str().unwrap_or_default()
    }

    /// Replays need a memory, which whoever calls this has; everything else of the vectors is decided here.
    #[test]
    fn the_vectors_of_standard_webhooks_are_judged_as_they_say() {
        let Some(vectors) = vectors() else { return };
        let mut seen = 0;
        for case in vectors["standard_webhooks"].as_array().unwrap() {
            let secrets = match &case["secret"] {
                Value::Array(list) => list.iter().map(|s| s.as_str().unwrap()).collect(),
                one => vec![one.as_str().unwrap()],
            };
            let keys: Result<Vec<_>, _> = secrets.iter().map(|s| standard_key(s.as_bytes())).collect();
            let body = Base64::decode_vec(text(case, "body_b64")).unwrap();
            let header = |name: &str| text(&case["headers"], name).to_owned();
            let (id, at, signature) = (header("webhook-id"), header("webhook-timestamp"), header("webhook-signature"));
            let now_s = case["now"].as_i64().unwrap();
            let accepted = keys.is_ok_and(|keys| verify_standard(&keys, &id, &at, &signature, &body, now_s).is_ok());
            match (text(case, "expected"), text(case, "name")) {
                ("either", _) | (_, "replay") => {}
                (expected, name) => assert_eq!(accepted, expected == "accept", "{name}: {}", case["reason"]),
            }
            seen += 1;
        }
        assert!(seen > 30, "{seen}");
        for case in vectors["standard_webhooks_sign"].as_array().unwrap() {
            let key = standard_key(text(case, "secret").as_bytes()).unwrap();
            let at = case["timestamp"].as_i64().unwrap();
            let signed = sign_standard(&key, text(case, "id"), at, text(case, "body").as_bytes());
            assert_eq!(signed, text(case, "signature"));
        }
    }

    /// The vectors put time and signatures into one header; ours stand in two, of which each may come once.
    #[test]
    fn the_vectors_of_timestamped_hex_are_judged_as_they_say() {
        let Some(vectors) = vectors() else { return };
        let mut seen = 0;
        for case in vectors["timestamped_hex"].as_array().unwrap() {
            let body = Base64::decode_vec(text(case, "body_b64")).unwrap();
            let elements: Vec<(&str, &str)> =
                text(case, "header").split(',').filter_map(|e| e.split_once('=')).collect();
            let all = |name: &str| elements.iter().filter(|(n, _)| *n == name).map(|(_, v)| *v).collect::<Vec<_>>();
            let (times, signatures) = (all("t"), all("v1"));
            let judged = match times.as_slice() {
                [one] => verify_hex(
                    &[text(case, "secret")],
                    one,
                    &signatures.join(","),
                    &body,
                    case["now"].as_i64().unwrap(),
                ),
                _ => Err(WebhookError::Malformed),
            };
            let expected = text(case, "expected");
            if expected != "either" {
                assert_eq!(judged.is_ok(), expected == "accept", "{}: {}", case["name"], case["reason"]);
            }
            seen += 1;
        }
        assert!(seen > 15, "{seen}");
    }

    #[test]
    fn what_was_signed_holds_for_five_minutes_to_both_sides() {
        let (key, body) = (b"0123456789abcdef".as_slice(), b"{}".as_slice());
        let signature = sign_hex(key, 1_000_000, body);
        let at = |now_s: i64| verify_hex(&[key], "1000000", &signature, body, now_s);
        assert_eq!([at(1_000_300), at(999_700)], [Ok(1_000_000); 2]);
        assert_eq!([at(1_000_301), at(999_699)], [Err(WebhookError::OutOfRange); 2]);
        let prefixed = format!("v1={signature}");
        assert!(verify_hex(&[key], "1000000", &prefixed, body, 1_000_000).is_ok());
        for wrong in [signature.to_uppercase(), signature[1..].to_owned(), String::new(), format!("v2={signature}")] {
            assert!(verify_hex(&[key], "1000000", &wrong, body, 1_000_000).is_err(), "{wrong}");
        }
        assert!(
            verify_hex::<&[u8]>(&[], "1000000", &signature, body, 1_000_000).is_err(),
            "without a key nothing fits"
        );
    }

    #[test]
    fn a_fresh_secret_is_one_of_standard_webhooks() {
        assert_eq!(*standard_key(new_secret(&[7; 32]).as_bytes()).unwrap(), [7; 32]);
        for bad in ["whsec_", "whsec_%%%", "whsec_c2hvcnQ="] {
            assert!(standard_key(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
