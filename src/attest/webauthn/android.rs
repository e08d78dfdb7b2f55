//! `android-key` (section 8.4): the phone's hardware vouches for the credential's key.
//!
//! Reads of the KeyDescription only what the section asks; the full judgement of Android's chains (revocation, patch
//! levels, verified boot) belongs to the format of its own.

use serde_json::{Map, json};
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::der_parser::asn1_rs::{Any, Class, FromDer, Tag};

use super::super::Refused;
use super::super::chain;
use super::Statement;
use super::statement::{Subject, leaf, malformed};
use crate::crypto::constant_time_eq;

/// Android's key attestation.
const KEY_DESCRIPTION: Oid<'static> = oid!(1.3.6.1.4.1.11129.2.1.17);
/// Members of one authorization list; there are about 50 tags.
const AUTHORIZATIONS_MAX: usize = 128;
const PURPOSE: u32 = 1;
const ALL_APPLICATIONS: u32 = 600;
const ORIGIN: u32 = 702;
const PURPOSE_SIGN: &[u8] = &[2];
const ORIGIN_GENERATED: &[u8] = &[0];

/// What the section asks of an authorization list.
#[derive(Default)]
struct Authorizations {
    purpose_sign: Option<bool>,
    origin_generated: Option<bool>,
    all_applications: bool,
}

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
    let described = extension.and_then(|e| Description::parse(e.value));
    let described = described.ok_or_else(|| malformed("The certificate's description of the key cannot be read."))?;
    if !constant_time_eq(described.challenge, &subject.registered.attestation.client_data_hash) {
        return Err(Refused::new("challenge", "The certificate was made for another registration."));
    }
    let (software, hardware) = (&described.software, &described.hardware);
    let fault = |detail: &str| Err(Refused::new("key_description", detail));
    if software.all_applications || hardware.all_applications {
        return fault("The key is not bound to one application.");
    }
    for list in [software, hardware] {
        if list.origin_generated == Some(false) {
            return fault("The key was not made in the keystore.");
        }
        if list.purpose_sign == Some(false) {
            return fault("The key is not for signing.");
        }
    }
    if subject.policy.require_android_hardware
        && !(described.level >= 1 && hardware.origin_generated == Some(true) && hardware.purpose_sign == Some(true))
    {
        return fault("The key is not proven to be in secure hardware.");
    }
    let level = match described.level {
        0 => "software",
        1 => "tee",
        _ => "strongbox",
    };
    let root = subject.follow(&ders, &[])?;
    let mut details = Map::new();
    details.insert("security_level".to_owned(), json!(level));
    Ok(Statement { kind: "basic", root, details })
}

struct Description<'a> {
    level: u8,
    challenge: &'a [u8],
    software: Authorizations,
    hardware: Authorizations,
}

impl<'a> Description<'a> {
    /// KeyDescription: version, level, version, level, challenge, id, software list, hardware list; newer versions may
    /// say more.
    fn parse(der: &'a [u8]) -> Option<Self> {
        let (rest, sequence) = Any::from_der(der).ok()?;
        if !rest.is_empty() || sequence.tag() != Tag::Sequence {
            return None;
        }
        let mut rest = sequence.data;
        let mut next = |tag: Tag| {
            let (after, any) = Any::from_der(rest).ok()?;
            rest = after;
            (any.class() == Class::Universal && any.tag() == tag).then_some(any.data)
        };
        next(Tag::Integer)?;
        let level = match next(Tag::Enumerated)? {
            [level @ 0..=2] => *level,
            _ => return None,
        };
        next(Tag::Integer)?;
        next(Tag::Enumerated)?;
        let challenge = next(Tag::OctetString)?;
        next(Tag::OctetString)?;
        let software = Authorizations::parse(next(Tag::Sequence)?)?;
        let hardware = Authorizations::parse(next(Tag::Sequence)?)?;
        Some(Self { level, challenge, software, hardware })
    }
}

impl Authorizations {
    fn parse(mut rest: &[u8]) -> Option<Self> {
        let mut out = Self::default();
        for _ in 0..AUTHORIZATIONS_MAX {
            if rest.is_empty() {
                return Some(out);
            }
            let (after, any) = Any::from_der(rest).ok()?;
            rest = after;
            if any.class() != Class::ContextSpecific {
                return None;
            }
            match any.tag().0 {
                PURPOSE => out.purpose_sign = Some(has_purpose(any.data)?),
                ALL_APPLICATIONS => out.all_applications = true,
                ORIGIN => out.origin_generated = Some(integer(any.data)? == ORIGIN_GENERATED),
                _ => {}
            }
        }
        None
    }
}

fn integer(der: &[u8]) -> Option<&[u8]> {
    let (rest, any) = Any::from_der(der).ok()?;
    (rest.is_empty() && any.class() == Class::Universal && any.tag() == Tag::Integer).then_some(any.data)
}

/// SET OF INTEGER.
fn has_purpose(der: &[u8]) -> Option<bool> {
    let (rest, set) = Any::from_der(der).ok()?;
    if !rest.is_empty() || set.tag() != Tag::Set {
        return None;
    }
    let (mut rest, mut found) = (set.data, false);
    for _ in 0..AUTHORIZATIONS_MAX {
        if rest.is_empty() {
            return Some(found);
        }
        let (after, any) = Any::from_der(rest).ok()?;
        rest = after;
        found |= any.tag() == Tag::Integer && any.data == PURPOSE_SIGN;
    }
    None
}
