//! JSON Web Keys (RFC 7517): public P-256 keys for verifying ES256, and sets of them.
//!
//! A JWK that says anything against that use is refused. A set is refused as a whole where taking part of it would be a
//! guess (two keys of one name, a private key made public, no end of keys); a key of another kind in it is passed over,
//! as RFC 7517, section 5 advises. Knows nothing of where a set comes from.

use std::collections::HashMap;
use std::sync::Arc;

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::strict_json;
use super::{KeyError, VerifyingKey};

/// Keys that a set may hold.
pub const KEYS_MAX: usize = 64;
/// Bytes of a set's text.
pub const SET_BYTES_MAX: usize = 128 * 1024;
/// Characters of a key id.
pub const KID_LEN_MAX: usize = 128;

/// A public P-256 key for verifying ES256, as JSON. Its form is checked; whether its coordinates are a point of the
/// curve is known once it has become a [`VerifyingKey`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Jwk {
    kty: &'static str,
    crv: &'static str,
    x: String,
    y: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alg: Option<&'static str>,
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    usage: Option<&'static str>,
}

impl Jwk {
    /// `x` and `y` must be base64url of 32 bytes each.
    pub(super) fn bare(x: String, y: String) -> Self {
        Self { kty: "EC", crv: "P-256", x, y, kid: None, alg: None, usage: None }
    }

    /// The same key as a set publishes it: with `kid`, `alg` ES256 and `use` sig.
    #[must_use]
    pub fn published_as(mut self, kid: &str) -> Self {
        self.kid = Some(kid.to_owned());
        self.alg = Some("ES256");
        self.usage = Some("sig");
        self
    }

    /// The x coordinate: base64url, 43 characters.
    pub fn x(&self) -> &str {
        &self.x
    }

    /// The y coordinate: base64url, 43 characters.
    pub fn y(&self) -> &str {
        &self.y
    }

    /// The key id, where there is one.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Reads a JWK. Members that RFC 7517 and 7518 do not know (such as `ext`) are ignored; private ones, another use,
    /// another algorithm and `key_ops` without `verify` are refused.
    ///
    /// # Errors
    /// [`KeyError::Jwk`] with what is wrong.
    pub fn from_value(value: &Value) -> Result<Self, KeyError> {
        let map = value.as_object().ok_or(KeyError::Jwk("is not a JSON object"))?;
        if has_private_member(map) {
            return Err(KeyError::Jwk("has a private member; send the public key only and replace the key"));
        }
        let text = |name: &str| map.get(name).and_then(Value::as_str);
        if text("kty") != Some("EC") {
            return Err(KeyError::Jwk("is not of kty EC"));
        }
        if text("crv") != Some("P-256") {
            return Err(KeyError::Jwk("is not of crv P-256"));
        }
        let alg = match map.get("alg") {
            None => None,
            Some(v) if v == "ES256" => Some("ES256"),
            Some(_) => return Err(KeyError::Jwk("has an alg other than ES256")),
        };
        let usage = match map.get("use") {
            None => None,
            Some(v) if v == "sig" => Some("sig"),
            Some(_) => return Err(KeyError::Jwk("has a use other than sig")),
        };
        match map.get("key_ops") {
            None => {}
            Some(Value::Array(ops)) if ops.iter().any(|op| op == "verify") => {}
            Some(_) => return Err(KeyError::Jwk("has key_ops without verify")),
        }
        let kid = match map.get("kid") {
            None => None,
            Some(Value::String(kid)) if (1..=KID_LEN_MAX).contains(&kid.len()) => Some(kid.clone()),
            Some(_) => return Err(KeyError::Jwk("has a kid that is not a text of 1 to 128 bytes")),
        };
        Ok(Self { kty: "EC", crv: "P-256", x: coordinate(text("x"))?, y: coordinate(text("y"))?, kid, alg, usage })
    }
}

/// Private members of every key type of RFC 7518, section 6.
fn has_private_member(map: &Map<String, Value>) -> bool {
    ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].iter().any(|name| map.contains_key(*name))
}

fn coordinate(text: Option<&str>) -> Result<String, KeyError> {
    let text = text.ok_or(KeyError::Jwk("lacks a coordinate"))?;
    let mut out = [0; 32];
    // 43 characters hold 32 bytes and two spare bits, which the decoder wants to be zero.
    match (text.len(), Base64UrlUnpadded::decode(text, &mut out)) {
        (43, Ok(bytes)) if bytes.len() == 32 => Ok(text.to_owned()),
        _ => Err(KeyError::Jwk("has a coordinate that is not 32 bytes in base64url without padding")),
    }
}

impl<'de> Deserialize<'de> for Jwk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = strict_json::deserialize(deserializer)?;
        Self::from_value(&value).map_err(serde::de::Error::custom)
    }
}

/// Why a set of keys was refused as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// Not JSON, a duplicate member, or longer than [`SET_BYTES_MAX`].
    #[error("the key set is not strict JSON of at most 128 KiB")]
    Json,
    /// Not `{"keys": [...]}`.
    #[error("the key set is not an object with an array `keys`")]
    Shape,
    /// More than [`KEYS_MAX`] keys.
    #[error("the key set has more than 64 keys")]
    TooMany,
    /// Two keys of one name: nobody knows which is meant.
    #[error("two keys of the set have the same kid")]
    DuplicateKid,
    /// A secret key was published; whatever it signs proves nothing.
    #[error("the key set contains a private or symmetric key")]
    Private,
}

/// The ES256 keys of a key set, by their ids.
#[derive(Clone, Debug, Default)]
pub struct JwkSet {
    keys: HashMap<String, Arc<VerifyingKey>>,
}

impl JwkSet {
    /// Parses the text of a set.
    ///
    /// # Errors
    /// [`SetError`]. Keys of another kind, without a `kid` or off the curve are passed over, not an error.
    pub fn parse(text: &[u8]) -> Result<Self, SetError> {
        if text.len() > SET_BYTES_MAX {
            return Err(SetError::Json);
        }
        Self::from_value(&strict_json::parse(text).map_err(|_| SetError::Json)?)
    }

    /// Reads an already parsed set.
    ///
    /// # Errors
    /// As [`JwkSet::parse`].
    pub fn from_value(value: &Value) -> Result<Self, SetError> {
        let entries = value.get("keys").and_then(Value::as_array).ok_or(SetError::Shape)?;
        if entries.len() > KEYS_MAX {
            return Err(SetError::TooMany);
        }
        let mut keys = HashMap::new();
        let mut seen = std::collections::HashSet::new();
        for entry in entries {
            let map = entry.as_object().ok_or(SetError::Shape)?;
            if has_private_member(map) {
                return Err(SetError::Private);
            }
            if let Some(kid) = map.get("kid").and_then(Value::as_str)
                && !seen.insert(kid)
            {
                return Err(SetError::DuplicateKid);
            }
            let Ok(jwk) = Jwk::from_value(entry) else { continue };
            if let (Some(kid), Ok(key)) = (jwk.kid(), VerifyingKey::from_jwk(&jwk)) {
                keys.insert(kid.to_owned(), Arc::new(key));
            }
        }
        Ok(Self { keys })
    }

    /// The key of that name, compared byte by byte.
    pub fn get(&self, kid: &str) -> Option<Arc<VerifyingKey>> {
        self.keys.get(kid).cloned()
    }

    /// How many usable keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key is usable.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}
