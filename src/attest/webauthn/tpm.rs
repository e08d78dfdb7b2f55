//! `tpm` (section 8.3): a TPM certifies the credential's key with an attestation identity key, and a certificate vouches
//! for that.

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, UnparsedPublicKey};
use serde_json::{Map, json};
use x509_parser::certificate::X509Certificate;

use super::super::Refused;
use super::super::chain::{self, KeyKind};
use super::super::tpm::aik::{self, Chip};
use super::super::tpm::hash::Hash;
use super::super::tpm::key::spki_der;
use super::super::tpm::wire::{Attest, Attested, Public, tag};
use super::Statement;
use super::statement::{Subject, leaf, malformed};
use crate::crypto::cbor::Value;
use crate::crypto::constant_time_eq;

/// RSASSA-PKCS1-v1_5 with SHA-1 in IANA's registry of COSE algorithms.
const RS1: i64 = -65_535;

/// Judges the statement.
pub(super) fn verify(subject: &Subject<'_>) -> Result<Statement, Refused> {
    let statement = &subject.registered.attestation.statement;
    if statement.member("ver").and_then(Value::as_text) != Some("2.0") {
        return Err(malformed("The statement is not of TPM 2.0."));
    }
    let (public_area, certified) = (subject.bytes("pubArea")?, subject.bytes("certInfo")?);
    let key = Public::parse(public_area)?;
    if subject.credential_key()?.to_spki_der() != Some(spki_der(&key)?) {
        return Err(Refused::new("attested_key", "The TPM's key is another one than the credential's."));
    }
    if key.name_hash == Hash::Sha1 {
        return Err(Refused::new("algorithm", "The key's name is made with SHA-1."));
    }
    let hash = match subject.algorithm()? {
        RS1 if subject.policy.allow_tpm_rs1 => Hash::Sha1,
        -7 | -37 | -257 => Hash::Sha256,
        -35 | -38 | -258 => Hash::Sha384,
        -36 | -39 | -259 => Hash::Sha512,
        _ => {
            return Err(Refused::new(
                "signature_algorithm",
                "The statement is signed by an algorithm that is not taken.",
            ));
        }
    };
    let ders = subject.certificates()?;
    let certificates = chain::parse(&ders)?;
    let leaf = leaf(&certificates)?;
    check_certified(subject, certified, &key, hash)?;
    let chip = check_certificate(subject, leaf)?;
    if hash == Hash::Sha1 {
        check_rs1(leaf, certified, subject.signature()?)?;
    } else {
        subject.check_signature(leaf, certified)?;
    }
    let root = subject.follow(&ders, &aik::CRITICAL)?;
    let mut details = Map::new();
    details.insert("tpm_manufacturer".to_owned(), json!(chip.manufacturer));
    details.insert("tpm_model".to_owned(), json!(chip.model));
    details.insert("tpm_version".to_owned(), json!(chip.version));
    Ok(Statement { kind: "attca", root, details })
}

fn check_certified(subject: &Subject<'_>, certified: &[u8], key: &Public, hash: Hash) -> Result<(), Refused> {
    let attest = Attest::parse(certified, tag::CERTIFY)?;
    if !constant_time_eq(&attest.extra_data, &hash.digest(&subject.signed())) {
        return Err(Refused::new("nonce", "The TPM certified the key for another registration."));
    }
    match attest.attested {
        Attested::Certify { name } if constant_time_eq(&name, &key.name) => Ok(()),
        _ => Err(Refused::new("attested_name", "The TPM certified another key than the credential's.")),
    }
}

fn check_rs1(leaf: &X509Certificate<'_>, message: &[u8], signature: &[u8]) -> Result<(), Refused> {
    if !matches!(chain::Key::from_spki(leaf.public_key())?.kind(), KeyKind::Rsa { .. }) {
        return Err(Refused::new("signature_algorithm", "The statement names an algorithm of RSA for another key."));
    }
    UnparsedPublicKey::new(
        &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
        leaf.public_key().subject_public_key.data.as_ref(),
    )
    .verify(message, signature)
    .map_err(|_| Refused::new("signature_invalid", "The statement's signature does not verify."))
}

/// Section 8.3.1.
fn check_certificate(subject: &Subject<'_>, leaf: &X509Certificate<'_>) -> Result<Chip, Refused> {
    if leaf.subject().iter_rdn().next().is_some() {
        let detail = "The certificate of an attestation identity key has a subject.";
        return Err(Refused::new("leaf_requirements", detail));
    }
    let chip = aik::check_certificate(leaf)?;
    subject.check_aaguid(leaf)?;
    let vendors = &subject.policy.tpm_vendors;
    if !vendors.is_empty() && !vendors.iter().any(|known| known.eq_ignore_ascii_case(chip.vendor())) {
        return Err(Refused::new("tpm_vendor", "The policy does not know the TPM's manufacturer."));
    }
    Ok(chip)
}
