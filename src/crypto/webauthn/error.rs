//! Every rule of a WebAuthn ceremony that can be broken, by name. Knows nothing of how the rules are checked.

use crate::crypto::cbor::CborError;
use crate::crypto::cose::CoseError;
use crate::crypto::strict_json::StrictJsonError;

/// Why a registration or an assertion was refused. All are one answer to a caller; the log may say which. The text
/// repeats nothing that was sent, except counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WebauthnError {
    /// More than 4 KiB.
    #[error("the client data is too long")]
    ClientDataTooLong,
    /// Not a strict JSON object.
    #[error("the client data {0}")]
    ClientData(StrictJsonError),
    /// Not `webauthn.create`, or not `webauthn.get`: an answer to the other ceremony.
    #[error("the client data is for another ceremony")]
    Type,
    /// Not the one that was handed out, or that one is too short to be used.
    #[error("the challenge is not the one that was handed out")]
    Challenge,
    /// Not in the list.
    #[error("the origin is not allowed")]
    Origin,
    /// The page that asked stood in a frame of another origin.
    #[error("the ceremony ran in a frame of another origin")]
    CrossOrigin,
    /// The page at the top was another one than the page that asked.
    #[error("the ceremony ran below a page of another origin")]
    TopOrigin,
    /// More than 64 KiB.
    #[error("the attestation object is too long")]
    AttestationObjectTooLong,
    /// Not strict CBOR.
    #[error("the attestation object {0}")]
    AttestationObject(CborError),
    /// Not a map of `fmt`, `attStmt` and `authData`.
    #[error("the attestation object lacks a member or has one of the wrong type")]
    AttestationForm,
    /// More than 4 KiB in an assertion.
    #[error("the authenticator data is too long")]
    AuthenticatorDataTooLong,
    /// Shorter than its flags say.
    #[error("the authenticator data ends too early")]
    Truncated,
    /// Longer than its flags say.
    #[error("the authenticator data goes on after its end")]
    Trailing,
    /// Empty or longer than 1023 bytes.
    #[error("the credential id does not have 1 to 1023 bytes")]
    CredentialIdLength,
    /// Not a usable public key.
    #[error("the credential is not usable: {0}")]
    Key(CoseError),
    /// Not one CBOR map.
    #[error("the extensions' data {0}")]
    Extensions(CborError),
    /// CBOR, but not a map.
    #[error("the extensions' data is not a map")]
    ExtensionsForm,
    /// Made for another relying party.
    #[error("the authenticator answered for another relying party")]
    RpId,
    /// No touch.
    #[error("the user was not present")]
    UserAbsent,
    /// No PIN, fingerprint or the like, where one is demanded.
    #[error("the user was not verified")]
    UserUnverified,
    /// Backed up, but never eligible for it.
    #[error("the credential says that it is backed up though it cannot be")]
    BackupState,
    /// A registration without a credential.
    #[error("the authenticator data holds no credential")]
    NoCredential,
    /// An assertion with a credential.
    #[error("the authenticator data holds a credential where none belongs")]
    UnexpectedCredential,
    /// Not among those that were asked for.
    #[error("the credential's algorithm was not asked for")]
    Algorithm,
    /// `none`, and yet a statement.
    #[error("there is an attestation statement where there should be none")]
    NoneStatement,
    /// A `packed` statement without certificates that is not signed by the credential's own key.
    #[error("the self attestation is not signed by the credential")]
    SelfAttestation,
    /// The stored key cannot be read: the store's fault, not the caller's.
    #[error("the stored credential is not usable: {0}")]
    StoredKey(CoseError),
    /// Not this credential's.
    #[error("the signature is not the credential's")]
    Signature,
    /// Eligible for backup, and was not at registration, or the reverse.
    #[error("the credential's eligibility for backup changed")]
    BackupEligibility,
    /// All else is genuine, and the counter did not rise: the authenticator has a copy somewhere.
    #[error("the signature counter went from {stored} to {presented}: the authenticator may have been cloned")]
    Counter {
        /// Of the last ceremony.
        stored: u32,
        /// Of this one.
        presented: u32,
    },
}
