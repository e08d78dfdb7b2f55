//! The authenticator data: what the authenticator says and signs (Web Authentication Level 3, section 6.1).
//!
//! Reads the structure; whether its content is acceptable is the ceremonies' matter.

use super::WebauthnError;
use crate::crypto::cbor::{self, Value};
use crate::crypto::cose::CoseKey;

/// Bytes of a credential id (section 7.1).
pub const CREDENTIAL_ID_BYTES_MAX: usize = 1023;

/// The flags byte. Reserved bits say nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flags(u8);

impl Flags {
    /// UP: somebody touched it.
    pub const fn user_present(self) -> bool {
        self.0 & 0x01 != 0
    }

    /// UV: it knows that it was the user.
    pub const fn user_verified(self) -> bool {
        self.0 & 0x04 != 0
    }

    /// BE: the credential may leave its device.
    pub const fn backup_eligible(self) -> bool {
        self.0 & 0x08 != 0
    }

    /// BS: the credential has left its device.
    pub const fn backed_up(self) -> bool {
        self.0 & 0x10 != 0
    }

    const fn has_credential(self) -> bool {
        self.0 & 0x40 != 0
    }

    const fn has_extensions(self) -> bool {
        self.0 & 0x80 != 0
    }

    /// All eight bits.
    pub const fn bits(self) -> u8 {
        self.0
    }
}

/// A new credential inside authenticator data (section 6.5.1).
#[derive(Clone, Debug)]
pub struct AttestedCredential {
    /// The authenticator's model.
    pub aaguid: [u8; 16],
    /// 1 to 1023 bytes.
    pub credential_id: Vec<u8>,
    /// The key.
    pub public_key: CoseKey,
}

/// Authenticator data, taken apart.
#[derive(Clone, Debug)]
pub struct AuthenticatorData {
    /// SHA-256 of the relying party's id.
    pub rp_id_hash: [u8; 32],
    /// The flags.
    pub flags: Flags,
    /// The signature counter.
    pub sign_count: u32,
    /// With flag AT.
    pub attested: Option<AttestedCredential>,
    /// With flag ED: a map.
    pub extensions: Option<Value>,
}

impl AuthenticatorData {
    /// Takes the bytes apart; each must have its place. The caller bounds their number.
    ///
    /// # Errors
    /// [`WebauthnError`]: `Truncated`, `Trailing`, `CredentialIdLength`, `Key`, `Extensions` or `ExtensionsForm`.
    pub fn parse(bytes: &[u8]) -> Result<Self, WebauthnError> {
        let mut rest = bytes;
        let rp_id_hash = take_array(&mut rest)?;
        let [bits] = take_array(&mut rest)?;
        let flags = Flags(bits);
        let sign_count = u32::from_be_bytes(take_array(&mut rest)?);
        let attested = flags.has_credential().then(|| take_credential(&mut rest)).transpose()?;
        let extensions = flags.has_extensions().then(|| take_extensions(&mut rest)).transpose()?;
        if !rest.is_empty() {
            return Err(WebauthnError::Trailing);
        }
        Ok(Self { rp_id_hash, flags, sign_count, attested, extensions })
    }
}

fn take_credential(rest: &mut &[u8]) -> Result<AttestedCredential, WebauthnError> {
    let aaguid = take_array(rest)?;
    let length = usize::from(u16::from_be_bytes(take_array(rest)?));
    if !(1..=CREDENTIAL_ID_BYTES_MAX).contains(&length) {
        return Err(WebauthnError::CredentialIdLength);
    }
    let credential_id = take(rest, length)?.to_vec();
    // The key has no length of its own: it ends where its CBOR ends.
    let (public_key, consumed) = CoseKey::parse_prefix(rest).map_err(WebauthnError::Key)?;
    take(rest, consumed)?;
    Ok(AttestedCredential { aaguid, credential_id, public_key })
}

fn take_extensions(rest: &mut &[u8]) -> Result<Value, WebauthnError> {
    let (value, consumed) = cbor::read_prefix(rest).map_err(WebauthnError::Extensions)?;
    take(rest, consumed)?;
    if value.as_map().is_none() {
        return Err(WebauthnError::ExtensionsForm);
    }
    Ok(value)
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], WebauthnError> {
    let (taken, left) = rest.split_at_checked(count).ok_or(WebauthnError::Truncated)?;
    *rest = left;
    Ok(taken)
}

fn take_array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], WebauthnError> {
    let (taken, left) = rest.split_first_chunk::<N>().ok_or(WebauthnError::Truncated)?;
    *rest = left;
    Ok(*taken)
}
