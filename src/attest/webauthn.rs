//! Attestation statements of WebAuthn.
