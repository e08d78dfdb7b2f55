//! Android Key Attestation.
