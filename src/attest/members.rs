//! Reads the members of a case: what the command line's file holds beside the evidence itself.
//!
//! The end of a member's name says how it is written: `_hex`, `_b64`, `_b64url`. Both alphabets of base64 are taken, with
//! padding or without, because files of all makes are read. Knows nothing of what the members mean.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::{Map, Value};

use super::Refused;

/// Characters of one member that holds bytes: a boot log of 1 MiB in hexadecimal.
const TEXT_MAX: usize = 2 * 1024 * 1024 + 16;

/// The members of one case.
#[derive(Clone, Copy)]
pub(crate) struct Members<'a>(pub(crate) &'a Map<String, Value>);

impl<'a> Members<'a> {
    /// The value under a name; null counts as absent.
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
        return Err(Refused::new("too_long", format!("The member {name} is longer than 2 MiB.")));
    }
    if name.ends_with("_hex") { unhex(text) } else { unbase64(text) }
        .ok_or_else(|| wrong(name, if name.ends_with("_hex") { "hexadecimal" } else { "base64" }))
}

/// The bytes that hexadecimal digits write.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(bytes.len().saturating_mul(2));
    for byte in bytes {
        // Writing to a string never fails.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
    Base64UrlUnpadded::decode_vec(&text).ok()
}

/// A member that the case lacks.
pub(crate) fn missing(name: &str) -> Refused {
    Refused::new("malformed_input", format!("The member {name} is missing."))
}

/// A member of another kind than is due.
pub(crate) fn wrong(name: &str, due: &str) -> Refused {
    Refused::new("malformed_input", format!("The member {name} is not {due}."))
}
