//! Reads the members of a case: each is there and of its type, or the case is refused by its member's name.
//!
//! The end of a name says how bytes are written: `_hex`, `_b64`, `_b64url`. Under the last two both alphabets of base64
//! are taken, with all of their padding or none, because files of all makes are read; nothing is signed in this form.
//! Null counts as absent. Knows no format.

use crate::crypto::unhex;

use base64ct::{Base64Unpadded, Base64UrlUnpadded, Encoding};
use serde_json::{Map, Value};

use super::Refused;

/// Characters of one member that holds bytes: a boot log of 1 MiB in hexadecimal.
const TEXT_MAX: usize = 2 * 1024 * 1024 + 16;

/// A case, or an object within one, that cannot be read.
pub(crate) fn malformed(detail: impl Into<String>) -> Refused {
    Refused::new("malformed_input", detail)
}

/// A member that the case lacks.
pub(crate) fn missing(name: &str) -> Refused {
    malformed(format!("the member {name} is missing"))
}

/// A member of another kind than is due. Repeats nothing of it, since it may be a key.
pub(crate) fn wrong(name: &str, due: &str) -> Refused {
    malformed(format!("the member {name} must be {due}"))
}

/// The members of one case, or of an object within it.
#[derive(Clone, Copy)]
pub(crate) struct Members<'a>(pub(crate) &'a Map<String, Value>);

impl<'a> Members<'a> {
    /// The value under a name.
    pub(crate) fn get(self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// The object under a name.
    pub(crate) fn inner(self, name: &str) -> Result<Option<Self>, Refused> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self(map))),
            Some(_) => Err(wrong(name, "an object")),
        }
    }

    /// The object under a name that must be there.
    pub(crate) fn required_inner(self, name: &str) -> Result<Self, Refused> {
        self.inner(name)?.ok_or_else(|| missing(name))
    }

    /// The text under a name.
    pub(crate) fn text(self, name: &str) -> Result<Option<&'a str>, Refused> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(name, "a text")),
        }
    }

    /// The text under a name that must be there.
    pub(crate) fn required_text(self, name: &str) -> Result<&'a str, Refused> {
        self.text(name)?.ok_or_else(|| missing(name))
    }

    /// The whole number under a name.
    pub(crate) fn number(self, name: &str) -> Result<Option<u64>, Refused> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or_else(|| wrong(name, "a whole number from zero on")),
        }
    }

    /// The same within 32 bits.
    pub(crate) fn small(self, name: &str) -> Result<Option<u32>, Refused> {
        let narrow = |n| u32::try_from(n).map_err(|_| wrong(name, "a whole number of 32 bits"));
        self.number(name)?.map(narrow).transpose()
    }

    /// Whether the member says true; absent it says false.
    pub(crate) fn flag(self, name: &str) -> Result<bool, Refused> {
        self.get(name).map_or(Ok(false), |value| value.as_bool().ok_or_else(|| wrong(name, "true or false")))
    }

    /// The bytes under the first of these names that is there.
    pub(crate) fn bytes(self, names: &[&str]) -> Result<Option<Vec<u8>>, Refused> {
        for name in names {
            if let Some(text) = self.text(name)? {
                return decode(name, text).map(Some);
            }
        }
        Ok(None)
    }

    /// As [`Members::bytes`], and one of the names must be there.
    pub(crate) fn required(self, names: &[&str]) -> Result<Vec<u8>, Refused> {
        self.bytes(names)?.ok_or_else(|| missing(names.first().copied().unwrap_or_default()))
    }
}

fn decode(name: &str, text: &str) -> Result<Vec<u8>, Refused> {
    if text.len() > TEXT_MAX {
        return Err(Refused::new("too_long", format!("the member {name} is longer than 2 MiB")));
    }
    if name.ends_with("_hex") {
        return unhex(text).ok_or_else(|| wrong(name, "hexadecimal"));
    }
    let standard = || unpadded(text).and_then(|bare| Base64Unpadded::decode_vec(bare).ok());
    base64url(text).or_else(standard).ok_or_else(|| wrong(name, "base64"))
}

/// Base64url (RFC 4648, section 5), without padding or with all of it; one decoded form has no third text.
pub(crate) fn base64url(text: &str) -> Option<Vec<u8>> {
    Base64UrlUnpadded::decode_vec(unpadded(text)?).ok()
}

/// A text of base64 without its padding; `None` for a part of the padding or more than it.
fn unpadded(text: &str) -> Option<&str> {
    let bare = text.trim_end_matches('=');
    let padding = text.len().checked_sub(bare.len())?;
    (padding == 0 || (padding < 3 && text.len().is_multiple_of(4))).then_some(bare)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_member_that_is_absent_or_of_another_type_is_named() {
        let case = json!({ "a": 1, "t": "x", "k_b64": "A", "k_hex": "A", "yes": true, "null": null, "o": {} });
        let m = Members(case.as_object().unwrap());
        assert_eq!((m.required_text("t").unwrap(), m.text("null").unwrap()), ("x", None));
        assert!(m.flag("yes").unwrap() && !m.flag("absent").unwrap() && !m.flag("null").unwrap());
        assert!(m.required_inner("o").is_ok() && m.inner("null").unwrap().is_none());
        for (name, found) in [
            ("a", m.required_text("a").map(drop)),
            ("absent", m.required_text("absent").map(drop)),
            ("null", m.required_text("null").map(drop)),
            ("a", m.required_inner("a").map(drop)),
            ("absent", m.required_inner("absent").map(drop)),
            ("a", m.flag("a").map(drop)),
            ("t", m.number("t").map(drop)),
            ("k_b64", m.required(&["absent_b64", "k_b64"]).map(drop)),
            ("k_hex", m.required(&["k_hex"]).map(drop)),
            ("absent_hex", m.required(&["absent_hex", "absent_b64"]).map(drop)),
        ] {
            let refused = found.unwrap_err();
            assert_eq!(refused.reason, "malformed_input");
            assert!(refused.detail.contains(&format!("member {name} ")), "{refused}");
        }
    }

    #[test]
    fn a_number_has_no_sign_no_fraction_and_its_width() {
        let case = json!({ "n": 4_294_967_296_u64, "m": 4_294_967_295_u64, "minus": -1, "half": 0.5 });
        let m = Members(case.as_object().unwrap());
        assert_eq!((m.number("n").unwrap(), m.small("m").unwrap()), (Some(1 << 32), Some(u32::MAX)));
        assert!(m.small("n").is_err() && m.number("minus").is_err() && m.number("half").is_err());
    }

    #[test]
    fn base64_may_have_its_padding_and_either_alphabet_and_nothing_else() {
        for (text, bytes) in [
            ("AQ", Some(&[1][..])),
            ("AQ==", Some(&[1])),
            ("AQI=", Some(&[1, 2])),
            ("AQID", Some(&[1, 2, 3])),
            ("", Some(&[])),
        ] {
            assert_eq!((base64url(text).as_deref(), decode("x_b64", text).ok().as_deref()), (bytes, bytes), "{text}");
        }
        for text in ["AQ=", "AQ===", "AQI==", "AR==", "AQID=", "AQID====", "=", "A", "A Q=", "=AQ=", "+_8="] {
            assert_eq!((base64url(text), decode("x_b64", text).ok()), (None, None), "{text}");
        }
        assert_eq!((base64url("+/8="), decode("x_b64", "+/8=").unwrap()), (None, vec![0xfb, 0xff]));
        assert_eq!(decode("x_b64url", "-_8").unwrap(), [0xfb, 0xff]);
        assert_eq!(decode("x_b64", &"A".repeat(TEXT_MAX + 1)).unwrap_err().reason, "too_long");
    }
}
