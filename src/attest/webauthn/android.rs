//! `android-key` (section 8.4): the phone's hardware vouches for the credential's key.
//!
//! Asks of the KeyDescription only what the section asks; the full judgement of Android's chains (revocation, patch
//! levels, verified boot) belongs to the format of its own.

use serde_json::{Map, json};
use x509_parser::asn1_rs::{Oid, oid};

use super::super::android::{AuthorizationList, KeyDescription, SecurityLevel};
use super::super::{Refused, chain};
use super::Statement;
use super::statement::{Subject, leaf, malformed};
use crate::crypto::constant_time_eq;

/// Android's key attestation.
const KEY_DESCRIPTION: Oid<'static> = oid!(1.3.6.1.4.1.11129.2.1.17);
/// KM_PURPOSE_SIGN.
const SIGN: u32 = 2;
/// KM_ORIGIN_GENERATED.
const GENERATED: u32 = 0;

/// Judges the statement.
pub(super) fn verify(subject: &Subject<'_>) -> Result<Statement, Refused> {
    let ders = subject.certificates()?;
    let certificates = chain::parse(&ders)?;
    let leaf = leaf(&certificates)?;
    subject.check_signature(leaf, &subject.signed())?;
    subject.same_key(leaf)?;
    // Whoever holds an attested key could sign a certificate with a description of their own below it.
    if certificates.iter().skip(1).any(|c| c.extensions().iter().any(|e| e.oid == KEY_DESCRIPTION)) {
        return Err(Refused::new("key_description", "A certificate above the leaf has a description of a key too."));
    }
    let extension = leaf.extensions().iter().find(|e| e.oid == KEY_DESCRIPTION);
    let extension = extension.ok_or_else(|| malformed("The certificate does not describe its key."))?;
    let described = KeyDescription::parse(extension.value)?;
    if !constant_time_eq(&described.challenge, &subject.registered.attestation.client_data_hash) {
        return Err(Refused::new("challenge", "The certificate was made for another registration."));
    }
    let fault = |detail: &str| Err(Refused::new("key_description", detail));
    let signs = |list: &AuthorizationList| list.purposes.contains(&SIGN);
    for list in [&described.software, &described.hardware] {
        if list.all_applications {
            return fault("The key is not bound to one application.");
        }
        if list.origin.is_some_and(|origin| origin != GENERATED) {
            return fault("The key was not made in the keystore.");
        }
        if !list.purposes.is_empty() && !signs(list) {
            return fault("The key is not for signing.");
        }
    }
    let (level, hardware) = (described.attestation_level, &described.hardware);
    let proven = level > SecurityLevel::Software && hardware.origin == Some(GENERATED) && signs(hardware);
    if subject.policy.require_android_hardware.unwrap_or(false) && !proven {
        return fault("The key is not proven to be in secure hardware.");
    }
    let root = subject.follow(&ders, &[])?;
    let mut details = Map::new();
    details.insert("security_level".to_owned(), json!(level.name()));
    Ok(Statement { kind: "basic", root, details })
}
