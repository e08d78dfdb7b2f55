//! Certificates of attestation identity keys (Web Authentication Level 3, section 8.3.1; TCG EK Credential Profile, section
//! 3.2): an authority has bound the key to a genuine TPM, so that nobody need activate a credential again.

use serde_json::json;
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{
    OID_X509_EXT_CERTIFICATE_POLICIES, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_SUBJECT_ALT_NAME,
};

use super::super::chain::{self, Anchor, Anchors, Chain, Rules, parse_pem_chain};
use super::super::{Claims, Refused};
use super::key::spki_der;
use super::wire::Public;
use crate::kernel::Timestamp;

/// What attestation authorities mark as critical: what is read here, and policies that say only who issued.
pub(crate) const CRITICAL: [Oid<'static>; 3] =
    [OID_X509_EXT_SUBJECT_ALT_NAME, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_CERTIFICATE_POLICIES];
/// tcg-kp-AIKCertificate.
const AIK_USAGE: Oid<'static> = oid!(2.23.133.8.3);
const MANUFACTURER: Oid<'static> = oid!(2.23.133.2.1);
const MODEL: Oid<'static> = oid!(2.23.133.2.2);
const VERSION: Oid<'static> = oid!(2.23.133.2.3);

/// What a certificate tells of its TPM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chip {
    /// `id:` and eight hexadecimal digits of TCG's registry of vendors.
    pub manufacturer: String,
    /// The vendor's.
    pub model: String,
    /// Of the firmware.
    pub version: String,
}

/// A key of a TPM whose certificates hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bound {
    /// The TPM.
    pub chip: Chip,
    /// Label of the root that decided.
    pub root: String,
    /// That root's DER SubjectPublicKeyInfo.
    pub root_spki: Vec<u8>,
    /// When the first of the certificates ends.
    pub not_after: Option<Timestamp>,
}

impl Bound {
    pub(super) fn by(chain: &Chain<'_>, chip: Chip) -> Self {
        let (root, root_spki) = (chain.anchor().to_owned(), chain.anchor_spki().to_vec());
        Self { chip, root, root_spki, not_after: chain.not_after() }
    }
}

impl Chip {
    /// The TPM that a certificate is about (TCG EK Credential Profile, section 3.1.2); `Err` says what is wrong with it.
    pub(super) fn named_by(leaf: &X509Certificate<'_>) -> Result<Self, &'static str> {
        let names = leaf.subject_alternative_name().ok().flatten().ok_or("The certificate names no TPM.")?;
        let mut directories = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DirectoryName(name) => Some(name),
            _ => None,
        });
        let (Some(chip), None) = (directories.next(), directories.next()) else {
            return Err("The certificate names no TPM, or more than one.");
        };
        let one = |oid: &Oid<'static>| {
            let mut found = chip.iter_by_oid(oid);
            match (found.next().and_then(|value| value.as_str().ok()), found.next()) {
                (Some(text), None) if !text.is_empty() => Ok(text.to_owned()),
                _ => Err("The certificate does not name manufacturer, model and version of its TPM once."),
            }
        };
        let chip = Self { manufacturer: one(&MANUFACTURER)?, model: one(&MODEL)?, version: one(&VERSION)? };
        let digits = chip.manufacturer.strip_prefix("id:");
        if digits.is_none_or(|digits| digits.len() != 8 || !digits.bytes().all(|b| b.is_ascii_hexdigit())) {
            return Err("The TPM's manufacturer is not written as the registry of vendors has it.");
        }
        Ok(chip)
    }

    /// As the command line prints it.
    pub(super) fn claims(&self) -> Claims {
        [("manufacturer", &self.manufacturer), ("model", &self.model), ("version", &self.version)]
            .into_iter()
            .map(|(name, value)| (format!("tpm_{name}"), json!(value)))
            .collect()
    }

    /// The digits of the manufacturer.
    pub fn vendor(&self) -> &str {
        self.manufacturer.trim_start_matches("id:")
    }

    /// Whether its maker makes TPMs only as chips of their own. Makers of processors and of machines in software also
    /// make TPMs of firmware, and nothing in a certificate tells these apart: they do not count.
    pub fn is_discrete(&self) -> bool {
        /// TCG TPM Vendor ID Registry: Atmel, Infineon, National Semiconductor, Nuvoton, Nationz, STMicroelectronics,
        /// Winbond.
        const DISCRETE: [&str; 7] =
            ["41544D4C", "49465800", "4E534D20", "4E544300", "4E545A00", "53544D20", "57454300"];
        DISCRETE.iter().any(|known| known.eq_ignore_ascii_case(self.vendor()))
    }
}

/// The root of Windows' attestation authorities, as bundled.
///
/// # Errors
/// Only when the bundled file is broken.
pub fn microsoft_root() -> Result<Anchors, Refused> {
    let ders = parse_pem_chain(include_str!("../roots/microsoft_tpm_root_2014.pem"))?;
    let anchors = ders.iter().map(|der| Anchor::from_certificate("microsoft_tpm_root_2014", der));
    anchors.collect::<Result<_, _>>().map(Anchors::new)
}

/// Reads a certificate that may vouch for an attestation identity key; who issued it is not looked at.
///
/// # Errors
/// `leaf_requirements`.
pub fn check_certificate(leaf: &X509Certificate<'_>) -> Result<Chip, Refused> {
    let fault = |detail: &str| Refused::new("leaf_requirements", detail);
    if !matches!(leaf.basic_constraints(), Ok(Some(constraints)) if !constraints.value.ca) {
        return Err(fault("The certificate does not say that it is no authority."));
    }
    let usage = leaf.extended_key_usage().ok().flatten();
    if !usage.is_some_and(|usage| usage.value.other.contains(&AIK_USAGE)) {
        return Err(fault("The certificate is not for an attestation identity key."));
    }
    Chip::named_by(leaf).map_err(fault)
}

/// Demands that certificates, leaf first, bind this very key to a TPM, under one of the roots at `now`.
///
/// # Errors
/// `ak_certificate_key`, those of [`check_certificate`] and of [`chain::verify`].
pub fn verify_bound(key: &Public, ders: &[Vec<u8>], anchors: &Anchors, now: Timestamp) -> Result<Bound, Refused> {
    let verified = chain::verify(ders, anchors, &Rules { critical: &CRITICAL, ..Rules::default() }, now)?;
    let leaf = verified.leaf()?;
    if leaf.public_key().raw != spki_der(key)? {
        return Err(Refused::new("ak_certificate_key", "The certificate is for another key than the attestation key."));
    }
    Ok(Bound::by(&verified, check_certificate(leaf)?))
}
