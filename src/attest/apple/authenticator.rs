//! Authenticator data as App Attest writes it: the layout of WebAuthn (Level 3, section 6.1) with flags of its own.
//!
//! Flag AT is set in assertions, which carry no credential, and the map of extensions that newer systems append comes
//! with or without flag ED. What decides is therefore what the bytes are for, and where they end. Every byte here is
//! covered by the attestation's nonce or the assertion's signature. Knows nothing of either.

use crate::attest::{Claims, Refused};
use crate::crypto::cbor::{self, Value};
use crate::crypto::cose::CoseKey;
use crate::crypto::hex;

/// Bytes of authenticator data. Real ones have 37 to 226.
pub const BYTES_MAX: usize = 4096;
/// Flag AT: a credential follows (in an attestation).
const HAS_CREDENTIAL: u8 = 0x40;
/// Flag ED: extensions follow (where the writer sets it).
const HAS_EXTENSIONS: u8 = 0x80;

/// What every kind begins with, and the extensions at the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthenticatorData {
    /// SHA-256 of the app id.
    pub rp_id_hash: [u8; 32],
    /// How often the key has signed.
    pub counter: u32,
    /// What the system says of the app, by name: since 2026 `apple_bundle_version_01` and
    /// `apple_validation_category_01`. Empty where nothing was appended.
    pub extensions: Vec<(String, Value)>,
}

/// The new key of an attestation.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Names the environment.
    pub aaguid: [u8; 16],
    /// The key id.
    pub id: Vec<u8>,
    /// The uncompressed point of P-256.
    pub point: [u8; 65],
}

/// Takes an attestation's data apart.
///
/// # Errors
/// [`Refused`] `authenticator_data` or `flags`.
pub fn parse_attestation(bytes: &[u8]) -> Result<(AuthenticatorData, Credential), Refused> {
    let (mut data, flags, mut rest) = head(bytes)?;
    if flags & HAS_CREDENTIAL == 0 {
        return Err(Refused::new("flags", "the authenticator data says that it holds no credential"));
    }
    let aaguid = take(&mut rest)?;
    let length = usize::from(u16::from_be_bytes(take(&mut rest)?));
    let (id, key_and_more) = rest.split_at_checked(length).ok_or_else(truncated)?;
    let (key, consumed) =
        CoseKey::parse_prefix(key_and_more).map_err(|e| refused(format!("the credential is not usable: {e}")))?;
    let point = *key.p256_point().ok_or_else(|| refused("the credential is not a key of P-256"))?;
    data.extensions = extensions(flags, key_and_more.get(consumed..).unwrap_or_default())?;
    Ok((data, Credential { aaguid, id: id.to_vec(), point }))
}

/// Takes an assertion's data apart.
///
/// # Errors
/// [`Refused`] `authenticator_data` or `flags`.
pub fn parse_assertion(bytes: &[u8]) -> Result<AuthenticatorData, Refused> {
    let (mut data, flags, rest) = head(bytes)?;
    data.extensions = extensions(flags, rest)?;
    Ok(data)
}

fn head(bytes: &[u8]) -> Result<(AuthenticatorData, u8, &[u8]), Refused> {
    if bytes.len() > BYTES_MAX {
        return Err(refused("the authenticator data is longer than 4096 bytes"));
    }
    let mut rest = bytes;
    let rp_id_hash = take(&mut rest)?;
    let [flags] = take(&mut rest)?;
    let counter = u32::from_be_bytes(take(&mut rest)?);
    // Apple sets no other: a key that may be backed up, say, would not be App Attest's.
    if flags & !(HAS_CREDENTIAL | HAS_EXTENSIONS) != 0 {
        return Err(Refused::new(
            "flags",
            format!("the authenticator data has flags that App Attest never sets: {flags:#04x}"),
        ));
    }
    Ok((AuthenticatorData { rp_id_hash, counter, extensions: Vec::new() }, flags, rest))
}

/// Nothing, or exactly one map from names to values.
fn extensions(flags: u8, rest: &[u8]) -> Result<Vec<(String, Value)>, Refused> {
    if rest.is_empty() && flags & HAS_EXTENSIONS == 0 {
        return Ok(Vec::new());
    }
    let value = cbor::read(rest).map_err(|e| refused(format!("the extensions' map {e}")))?;
    let Value::Map(members) = value else { return Err(refused("what follows the authenticator data is not a map")) };
    members
        .into_iter()
        .map(|(name, value)| match name {
            Value::Text(name) => Ok((name, value)),
            _ => Err(refused("the extensions' map has a key that is not a text")),
        })
        .collect()
}

impl AuthenticatorData {
    /// The extensions as claims: texts, numbers and Booleans under their names, bytes in hex under the name with `_hex`
    /// behind; other kinds are left out.
    pub fn extension_claims(&self) -> Claims {
        let claim = |(name, value): &(String, Value)| match value {
            Value::Text(text) => Some((name.clone(), text.as_str().into())),
            Value::Bytes(bytes) => Some((format!("{name}_hex"), hex(bytes).into())),
            Value::Unsigned(n) => Some((name.clone(), (*n).into())),
            Value::Negative(n) => Some((name.clone(), (*n).into())),
            Value::Bool(b) => Some((name.clone(), (*b).into())),
            Value::Array(_) | Value::Map(_) | Value::Null => None,
        };
        self.extensions.iter().filter_map(claim).collect()
    }
}

fn refused(detail: impl Into<String>) -> Refused {
    Refused::new("authenticator_data", detail)
}

fn truncated() -> Refused {
    refused("the authenticator data ends too early")
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Refused> {
    let (taken, left) = rest.split_first_chunk::<N>().ok_or_else(truncated)?;
    *rest = left;
    Ok(*taken)
}
