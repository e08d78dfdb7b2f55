//! Reads the members of a case: each is there and of its type, or the case is refused by its member's name.
//!
//! Knows no format. Lengths of texts are bounded by whoever hands in the case.

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use serde_json::{Map, Value};

use super::Refused;

/// The reason of every refusal here.
pub(crate) const MALFORMED_INPUT: &str = "malformed_input";

/// A case that cannot be read.
pub(crate) fn malformed(detail: impl Into<String>) -> Refused {
    Refused::new(MALFORMED_INPUT, detail)
}

/// A member that must be a text.
///
/// # Errors
/// `malformed_input`.
pub(crate) fn text<'a>(input: &'a Map<String, Value>, name: &str) -> Result<&'a str, Refused> {
    input.get(name).and_then(Value::as_str).ok_or_else(|| malformed(format!("the member {name} must be a text")))
}

/// A member that must be an object.
///
/// # Errors
/// `malformed_input`.
pub(crate) fn object<'a>(input: &'a Map<String, Value>, name: &str) -> Result<&'a Map<String, Value>, Refused> {
    input.get(name).and_then(Value::as_object).ok_or_else(|| malformed(format!("the member {name} must be an object")))
}

/// A member that may be absent, and is true or false otherwise.
///
/// # Errors
/// `malformed_input`.
pub(crate) fn flag(input: &Map<String, Value>, name: &str) -> Result<bool, Refused> {
    match input.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| malformed(format!("the member {name} must be true or false"))),
    }
}

/// A member that must be base64 (RFC 4648, section 4, with padding).
///
/// # Errors
/// `malformed_input`; repeats nothing of the member.
pub(crate) fn base64(input: &Map<String, Value>, name: &str) -> Result<Vec<u8>, Refused> {
    Base64::decode_vec(text(input, name)?)
        .map_err(|_| malformed(format!("the member {name} must be base64 with padding")))
}

/// Base64url, without padding or with all of it; one decoded form has no third text.
pub(crate) fn base64url(text: &str) -> Option<Vec<u8>> {
    let bare = text.trim_end_matches('=');
    let padding = text.len().checked_sub(bare.len())?;
    let whole = padding == 0 || (padding < 3 && text.len().is_multiple_of(4));
    if whole { Base64UrlUnpadded::decode_vec(bare).ok() } else { None }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_member_that_is_absent_or_of_another_type_is_named() {
        let Value::Object(input) = json!({ "a": 1, "t": "x", "k": "AA", "yes": true, "null": null }) else { return };
        assert_eq!(text(&input, "t").unwrap(), "x");
        assert!(flag(&input, "yes").unwrap() && !flag(&input, "absent").unwrap() && !flag(&input, "null").unwrap());
        for (name, found) in [
            ("a", text(&input, "a").map(drop)),
            ("absent", text(&input, "absent").map(drop)),
            ("a", object(&input, "a").map(drop)),
            ("a", flag(&input, "a").map(drop)),
            ("k", base64(&input, "k").map(drop)),
        ] {
            let refused = found.unwrap_err();
            assert_eq!(refused.reason, MALFORMED_INPUT);
            assert!(refused.detail.contains(&format!("member {name} ")), "{refused}");
        }
    }

    #[test]
    fn base64url_may_have_its_padding_and_nothing_else() {
        for (text, bytes) in [
            ("AQ", Some(&[1][..])),
            ("AQ==", Some(&[1])),
            ("AQI=", Some(&[1, 2])),
            ("AQID", Some(&[1, 2, 3])),
            ("", Some(&[])),
        ] {
            assert_eq!(base64url(text).as_deref(), bytes, "{text}");
        }
        for text in ["AQ=", "AQ===", "AQI==", "AR==", "AQID=", "AQID====", "=", "A", "+/8=", "A Q=", "=AQ="] {
            assert_eq!(base64url(text), None, "{text}");
        }
    }
}
