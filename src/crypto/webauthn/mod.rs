//! Passkeys: what a relying party checks when a credential is registered and when it is used (Web Authentication Level
//! 3, sections 7.1 and 7.2).
//!
//! Pure functions from bytes and expectations to a verdict. Whoever calls keeps the challenges (single use, short
//! lived), knows whose credential an id is, refuses an id that is registered already, and stores the new counter.
//! Which make of authenticator it is, is not judged: statements that certificates vouch for are handed back unverified.
//! Knows nothing of users, tables or HTTP.

mod authenticator_data;
mod client_data;
mod error;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

pub use authenticator_data::{AttestedCredential, AuthenticatorData, CREDENTIAL_ID_BYTES_MAX, Flags};
pub use client_data::CLIENT_DATA_BYTES_MAX;
pub use error::WebauthnError;

use client_data::Ceremony;

use super::cbor::{self, Value};
use super::cose::{Algorithm, CoseKey};
use super::{constant_time_eq, sha256};

/// Bytes of an attestation object. Real ones with a chain of certificates have about five thousand.
pub const ATTESTATION_OBJECT_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the authenticator data of an assertion, which holds no key.
pub const ASSERTION_DATA_BYTES_MAX: usize = 4 * 1024;
/// Bytes of a signature: twice those of the largest RSA key.
pub const SIGNATURE_BYTES_MAX: usize = 1024;
/// The fewest bytes that a challenge may have (section 13.4.3).
pub const CHALLENGE_BYTES_MIN: usize = 16;
/// Bytes of the name of a statement format (section 8.1).
const FORMAT_BYTES_MAX: usize = 32;

/// What the relying party expects of a ceremony.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The relying party's id: a host name.
    pub rp_id: &'a str,
    /// The origins that may ask, exactly as a browser writes them, such as `https://appliance.lan:8443`.
    pub origins: &'a [String],
    /// The challenge that was handed out for this ceremony, at least [`CHALLENGE_BYTES_MIN`] bytes.
    pub challenge: &'a [u8],
    /// Whether a PIN, a fingerprint or the like is demanded, beyond a touch.
    pub user_verification_required: bool,
    /// Whether a frame of another origin may hold the ceremony. What a page shows around the frame is then not known here.
    pub cross_origin_allowed: bool,
    /// What a new credential may sign with. A credential that is stored already keeps what it was registered with.
    pub algorithms: &'a [Algorithm],
}

/// A credential as it was registered and last used.
#[derive(Clone, Copy, Debug)]
pub struct StoredCredential<'a> {
    /// [`Registered::public_key_cose`].
    pub public_key_cose: &'a [u8],
    /// The counter of the last ceremony.
    pub sign_count: u32,
    /// [`Registered::backup_eligible`]; it never changes.
    pub backup_eligible: bool,
}

/// A credential that passed registration.
#[derive(Clone, Debug)]
pub struct Registered {
    /// 1 to 1023 bytes; the caller refuses one that anybody has registered already (section 7.1).
    pub credential_id: Vec<u8>,
    /// The public key as it came; [`CoseKey::parse`] takes it.
    pub public_key_cose: Vec<u8>,
    /// What it signs with.
    pub algorithm: Algorithm,
    /// The counter to begin with; zero for authenticators that do not count.
    pub sign_count: u32,
    /// Whether the user was verified, beyond a touch.
    pub user_verified: bool,
    /// Whether the credential may leave its device, as synced passkeys do.
    pub backup_eligible: bool,
    /// Whether it has left its device.
    pub backed_up: bool,
    /// The authenticator's model; all zeros where it does not say. Proven only by a verified statement.
    pub aaguid: [u8; 16],
    /// What the authenticator says of itself.
    pub attestation: Attestation,
}

/// An attestation statement with what it signs (section 6.5). Only what [`Attestation::self_attested`] says was verified.
#[derive(Clone, Debug)]
pub struct Attestation {
    /// `none`, `packed`, `tpm`, `android-key`, `apple`, `fido-u2f` or another name of at most 32 bytes.
    pub fmt: String,
    /// The statement as it came.
    pub statement: Value,
    /// The authenticator data as signed.
    pub authenticator_data: Vec<u8>,
    /// SHA-256 of the client data.
    pub client_data_hash: [u8; 32],
    /// The statement is `packed` by the credential's own key, and the signature holds: it proves possession of the key
    /// and nothing about the make.
    pub self_attested: bool,
}

/// What a genuine assertion says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asserted {
    /// The counter to store.
    pub sign_count: u32,
    /// Whether the user was verified, beyond a touch.
    pub user_verified: bool,
    /// Whether the credential has left its device by now.
    pub backed_up: bool,
}

/// Verifies a new credential (section 7.1, without trust in attestation).
///
/// `client_data_json` are the bytes of `response.clientDataJSON`, `attestation_object` those of
/// `response.attestationObject`.
///
/// # Errors
/// [`WebauthnError`] with the first rule that was broken.
pub fn verify_registration(
    expected: &Expected<'_>,
    client_data_json: &[u8],
    attestation_object: &[u8],
) -> Result<Registered, WebauthnError> {
    client_data::check(Ceremony::Create, expected, client_data_json)?;
    if attestation_object.len() > ATTESTATION_OBJECT_BYTES_MAX {
        return Err(WebauthnError::AttestationObjectTooLong);
    }
    let object = cbor::read(attestation_object).map_err(WebauthnError::AttestationObject)?;
    let (fmt, statement, raw) = members(object).ok_or(WebauthnError::AttestationForm)?;
    let data = AuthenticatorData::parse(&raw)?;
    check_authenticator(expected, &data)?;
    let attested = data.attested.ok_or(WebauthnError::NoCredential)?;
    let algorithm = attested.public_key.algorithm();
    if !expected.algorithms.contains(&algorithm) {
        return Err(WebauthnError::Algorithm);
    }
    let client_data_hash = sha256(client_data_json);
    let self_attested = match fmt.as_str() {
        "none" => {
            if statement.as_map().is_none_or(|members| !members.is_empty()) {
                return Err(WebauthnError::NoneStatement);
            }
            false
        }
        "packed" if statement.member("x5c").is_none() => {
            check_self_attestation(&statement, &attested.public_key, &raw, &client_data_hash)?;
            true
        }
        _ => false,
    };
    Ok(Registered {
        credential_id: attested.credential_id,
        public_key_cose: attested.public_key.as_bytes().to_vec(),
        algorithm,
        sign_count: data.sign_count,
        user_verified: data.flags.user_verified(),
        backup_eligible: data.flags.backup_eligible(),
        backed_up: data.flags.backed_up(),
        aaguid: attested.aaguid,
        attestation: Attestation { fmt, statement, authenticator_data: raw, client_data_hash, self_attested },
    })
}

/// Verifies the use of a credential (section 7.2).
///
/// That the credential is one that was asked for, and whose it is, the caller has established.
///
/// # Errors
/// [`WebauthnError`] with the first rule that was broken. The counter is judged last, so
/// [`WebauthnError::Counter`] means that all else was genuine: somebody holds a copy of the key.
pub fn verify_assertion(
    expected: &Expected<'_>,
    stored: &StoredCredential<'_>,
    client_data_json: &[u8],
    authenticator_data: &[u8],
    signature: &[u8],
) -> Result<Asserted, WebauthnError> {
    client_data::check(Ceremony::Get, expected, client_data_json)?;
    if authenticator_data.len() > ASSERTION_DATA_BYTES_MAX {
        return Err(WebauthnError::AuthenticatorDataTooLong);
    }
    let data = AuthenticatorData::parse(authenticator_data)?;
    check_authenticator(expected, &data)?;
    // Section 6.1: an assertion never sets AT.
    if data.attested.is_some() {
        return Err(WebauthnError::UnexpectedCredential);
    }
    if data.flags.backup_eligible() != stored.backup_eligible {
        return Err(WebauthnError::BackupEligibility);
    }
    let key = CoseKey::parse(stored.public_key_cose).map_err(WebauthnError::StoredKey)?;
    if !signed(&key, authenticator_data, &sha256(client_data_json), signature) {
        return Err(WebauthnError::Signature);
    }
    let counts = stored.sign_count != 0 || data.sign_count != 0;
    if counts && data.sign_count <= stored.sign_count {
        return Err(WebauthnError::Counter { stored: stored.sign_count, presented: data.sign_count });
    }
    Ok(Asserted {
        sign_count: data.sign_count,
        user_verified: data.flags.user_verified(),
        backed_up: data.flags.backed_up(),
    })
}

/// What both ceremonies demand of the authenticator data.
fn check_authenticator(expected: &Expected<'_>, data: &AuthenticatorData) -> Result<(), WebauthnError> {
    if !constant_time_eq(&data.rp_id_hash, &sha256(expected.rp_id.as_bytes())) {
        return Err(WebauthnError::RpId);
    }
    if !data.flags.user_present() {
        return Err(WebauthnError::UserAbsent);
    }
    if expected.user_verification_required && !data.flags.user_verified() {
        return Err(WebauthnError::UserUnverified);
    }
    if data.flags.backed_up() && !data.flags.backup_eligible() {
        return Err(WebauthnError::BackupState);
    }
    Ok(())
}

/// Format, statement and authenticator data of an attestation object; other members are passed over.
fn members(object: Value) -> Option<(String, Value, Vec<u8>)> {
    let Value::Map(members) = object else { return None };
    let (mut fmt, mut statement, mut data) = (None, None, None);
    for (key, value) in members {
        match (key.as_text(), value) {
            (Some("fmt"), Value::Text(text)) if (1..=FORMAT_BYTES_MAX).contains(&text.len()) => fmt = Some(text),
            (Some("attStmt"), value @ Value::Map(_)) => statement = Some(value),
            (Some("authData"), Value::Bytes(bytes)) => data = Some(bytes),
            (Some("fmt" | "attStmt" | "authData"), _) => return None,
            _ => {}
        }
    }
    Some((fmt?, statement?, data?))
}

/// Section 8.2, verification procedure, the case without `x5c`.
fn check_self_attestation(
    statement: &Value,
    key: &CoseKey,
    authenticator_data: &[u8],
    client_data_hash: &[u8; 32],
) -> Result<(), WebauthnError> {
    if statement.member("alg").and_then(Value::as_i64) != Some(key.algorithm().cose_id()) {
        return Err(WebauthnError::SelfAttestation);
    }
    let signature = statement.member("sig").and_then(Value::as_bytes).ok_or(WebauthnError::SelfAttestation)?;
    if signed(key, authenticator_data, client_data_hash, signature) {
        Ok(())
    } else {
        Err(WebauthnError::SelfAttestation)
    }
}

fn signed(key: &CoseKey, authenticator_data: &[u8], client_data_hash: &[u8; 32], signature: &[u8]) -> bool {
    signature.len() <= SIGNATURE_BYTES_MAX && key.verify(&[authenticator_data, client_data_hash].concat(), signature)
}
