//! Android Key Attestation: a certificate chain that says where a key lives and what the device was started with.
//!
//! What counts:
//! - The chain ends in one of Google's hardware roots, compared by public key.
//! - Exactly one certificate carries the statement, and it is the leaf. An attested key can sign certificates of its
//!   own, and who reads the statement from such a certificate reads what the attacker wrote.
//! - Dates. A remotely provisioned chain (it has the provisioning extension, or ends in the EC root) lives for weeks:
//!   all of its dates count, but the root's. A factory chain was burnt in once and cannot be renewed: it must have begun, its
//!   end does not count, nor the leaf's, which old devices copy from the batch's certificate. Revocation replaces expiry there.
//! - What the hardware states of origin, boot state and patch levels. The operating system's own list counts only for who
//!   asked for the key, which the hardware cannot know.
//! - No certificate is on the revocation list.
//!
//! Knows nothing of devices, nonces or where lists come from.
//!
//! Source: Android Open Source Project, "Key and ID attestation"; Android Developers, "Verify hardware-backed key pairs
//! with key attestation".

mod der;
mod description;
mod policy;
mod status;
#[cfg(test)]
mod tests;

use base64ct::{Base64, Encoding};
use serde_json::{Map, Value, json};
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::certificate::X509Certificate;

pub use description::{ApplicationId, AuthorizationList, BootState, KeyDescription, RootOfTrust, SecurityLevel};
pub use policy::AndroidPolicy;
pub use status::StatusList;

use super::chain::{self, Anchor, Anchors, DateRule, Dates, Key, Rules, parse_pem_chain};
use super::members::{Members, wrong};
use super::{Claims, Refused};
use crate::crypto::constant_time_eq;
use crate::crypto::hex;
use crate::kernel::Timestamp;

const ATTESTATION: Oid<'static> = oid!(1.3.6.1.4.1.11129.2.1.17);
/// The same statement as an EAT in CBOR, which some devices made for a while; not taken, but never read over either.
const ATTESTATION_EAT: Oid<'static> = oid!(1.3.6.1.4.1.11129.2.1.25);
const PROVISIONING: Oid<'static> = oid!(1.3.6.1.4.1.11129.2.1.30);
const GENERATED: u32 = 0;

/// Label of Google's RSA root.
pub const GOOGLE_RSA: &str = "google-rsa-f92009e853b6b045";
/// Label of Google's EC root of 2025.
pub const GOOGLE_EC: &str = "google-ec-2025-key-attestation-ca1";

/// Google's two hardware roots, as bundled.
///
/// # Errors
/// Only when the bundled files are broken.
pub fn google_roots() -> Result<Anchors, Refused> {
    let rsa = include_str!("roots/google_hardware_attestation_rsa.pem");
    let ec = include_str!("roots/google_hardware_attestation_ec.pem");
    Ok(Anchors::new(vec![pinned(GOOGLE_RSA, rsa)?, pinned(GOOGLE_EC, ec)?]))
}

fn pinned(label: &str, pem: &str) -> Result<Anchor, Refused> {
    let body = pem
        .split_once("-----BEGIN PUBLIC KEY-----")
        .and_then(|(_, rest)| rest.split_once("-----END PUBLIC KEY-----"))
        .map(|(body, _)| body.split_ascii_whitespace().collect::<String>());
    let der = body.and_then(|base64| Base64::decode_vec(&base64).ok());
    let der = der.ok_or_else(|| Refused::new("anchor_malformed", "a pinned key is not PEM"))?;
    Anchor::from_spki(label, &der)
}

/// What is judged.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// Certificates in DER, leaf first.
    pub chain: &'a [Vec<u8>],
    /// What the statement must repeat, in full. Nothing: whatever it repeats is only reported.
    pub challenge: Option<&'a [u8]>,
    /// Where the chain may end; [`google_roots`] and what a tenant added.
    pub roots: &'a Anchors,
    /// The revocation list in force.
    pub status_list: Option<&'a StatusList>,
}

/// How the attesting key came into the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Provisioning {
    /// In the factory, for the device's whole life.
    Factory,
    /// From Google's servers, for some weeks.
    Remote,
}

/// A key whose attestation was accepted.
#[derive(Clone, Debug)]
pub struct Attested {
    /// The whole statement.
    pub description: KeyDescription,
    /// The attested key as DER SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// Its kind, such as `EC P-256`; an object identifier where it is none that can be verified here.
    pub key_algorithm: String,
    /// Serial numbers of the chain, leaf first.
    pub serials: Vec<String>,
    /// Label of the root that decided.
    pub root: String,
    /// How the attesting key came into the device.
    pub provisioning: Provisioning,
    /// Date of the revocation list that decided.
    pub status_list_date: Option<Timestamp>,
}

/// Judges an attestation.
///
/// # Errors
/// [`Refused`] with the first rule that was broken: those of [`chain`], then `status_list_missing`,
/// `status_list_stale`, `revoked`, `attestation_missing`, `attestation_not_in_leaf`, `attestation_malformed`,
/// `attestation_order`, `challenge`, and those of [`AndroidPolicy`].
pub fn verify(evidence: &Evidence<'_>, policy: &AndroidPolicy, now: Timestamp) -> Result<Attested, Refused> {
    let certificates = chain::parse(evidence.chain)?;
    let statement = only_statement(&certificates)?;
    let marked_remote = certificates.iter().any(|c| has(c, &PROVISIONING));
    let rules = if marked_remote { REMOTE } else { FACTORY };
    let chain = chain::verify_parsed(certificates, evidence.roots, &rules, now)?;
    let provisioning = if marked_remote || chain.anchor() == GOOGLE_EC {
        chain.check_dates(REMOTE.dates, now)?;
        Provisioning::Remote
    } else {
        Provisioning::Factory
    };
    check_revocation(&chain.serials(), evidence.status_list, policy, now)?;
    let description = KeyDescription::parse(&statement)?;
    if let Some(expected) = evidence.challenge {
        if !constant_time_eq(&description.challenge, expected) {
            return Err(Refused::new("challenge", "the attestation repeats another challenge"));
        }
    } else if policy.require_challenge {
        return Err(Refused::new("challenge", "the policy wants a challenge, and none was handed in"));
    }
    policy.judge(&description)?;
    let leaf = chain.leaf()?.public_key();
    let key = Key::from_spki(leaf).map(|key| key.kind().name());
    Ok(Attested {
        description,
        spki: leaf.raw.to_vec(),
        key_algorithm: key.unwrap_or_else(|_| leaf.algorithm.algorithm.to_string()),
        serials: chain.serials(),
        root: chain.anchor().to_owned(),
        provisioning,
        status_list_date: evidence.status_list.and_then(StatusList::date),
    })
}

const REMOTE: Rules<'static> = Rules { dates: Dates::BELOW_ROOT, critical: &[], leaf_issuer_may_be_no_ca: false };
/// Batches of 2016 were signed as end entities. That only the leaf has the statement keeps an attested key from
/// standing in their place.
const FACTORY: Rules<'static> = Rules {
    dates: Dates { leaf: DateRule::Begun, intermediates: DateRule::Begun, root: DateRule::Ignore },
    critical: &[],
    leaf_issuer_may_be_no_ca: true,
};

fn has(certificate: &X509Certificate<'_>, oid: &Oid<'_>) -> bool {
    certificate.extensions().iter().any(|extension| extension.oid == *oid)
}

/// The statement's bytes, when the leaf and nobody else carries one.
fn only_statement(certificates: &[X509Certificate<'_>]) -> Result<Vec<u8>, Refused> {
    let not_in_leaf = || {
        Refused::new(
            "attestation_not_in_leaf",
            "a certificate above the leaf carries an attestation: the leaf was signed by an attested key or cut off",
        )
    };
    let (leaf, above) =
        certificates.split_first().ok_or_else(|| Refused::new("chain_empty", "there is no certificate"))?;
    if above.iter().any(|certificate| has(certificate, &ATTESTATION) || has(certificate, &ATTESTATION_EAT)) {
        return Err(not_in_leaf());
    }
    leaf.extensions()
        .iter()
        .find(|extension| extension.oid == ATTESTATION)
        .map(|extension| extension.value.to_vec())
        .ok_or_else(|| Refused::new("attestation_missing", "the leaf carries no key attestation"))
}

/// Demands that none of these certificates is revoked, and that a list in force says so.
///
/// # Errors
/// `revoked`, `status_list_missing`, `status_list_stale`.
pub fn check_revocation(
    serials: &[String],
    list: Option<&StatusList>,
    policy: &AndroidPolicy,
    now: Timestamp,
) -> Result<(), Refused> {
    let Some(list) = list else {
        if policy.require_status_list {
            return Err(Refused::new(
                "status_list_missing",
                "no revocation list was imported; import Google's attestation status file",
            ));
        }
        return Ok(());
    };
    // What a list says stays true however old it is; that it says nothing does not.
    for serial in serials {
        if let Some(status) = list.status(serial) {
            return Err(Refused::new("revoked", format!("the certificate with serial number {serial} is {status}")));
        }
    }
    let stale = match list.date() {
        Some(date) => now.since(date) > policy.status_list_max_age(),
        None => policy.require_status_list,
    };
    if stale {
        let days = policy.status_list_max_age_days;
        return Err(Refused::new(
            "status_list_stale",
            format!("the revocation list is older than {days} days or has no date; import a new one"),
        ));
    }
    Ok(())
}

impl Attested {
    /// As the command line and a device's history show it.
    pub fn claims(&self) -> Claims {
        let description = &self.description;
        let hardware = &description.hardware;
        let boot = hardware.root_of_trust.as_ref();
        let application = description.software.application_id.as_ref();
        let packages: Vec<Value> = application
            .map(|id| id.packages.iter().map(|(name, version)| json!({"name": name, "version": version})).collect())
            .unwrap_or_default();
        let signers: Vec<String> =
            application.map(|id| id.signers.iter().map(|digest| hex(digest)).collect()).unwrap_or_default();
        let provisioning = match self.provisioning {
            Provisioning::Factory => "factory",
            Provisioning::Remote => "remote",
        };
        let claims = json!({
            "security_level": description.keymint_level.name(),
            "attestation_security_level": description.attestation_level.name(),
            "attestation_version": description.attestation_version,
            "keymint_version": description.keymint_version,
            "challenge_b64": Base64::encode_string(&description.challenge),
            "verified_boot_state": boot.map(|boot| boot.boot_state.name()),
            "verified_boot_key_hex": boot.map(|boot| hex(&boot.boot_key)),
            "verified_boot_hash_hex": boot.and_then(|boot| boot.boot_hash.as_deref()).map(hex),
            "device_locked": boot.map(|boot| boot.device_locked),
            "os_version": hardware.os_version,
            "os_patch_level": hardware.os_patch_level,
            "vendor_patch_level": hardware.vendor_patch_level,
            "boot_patch_level": hardware.boot_patch_level,
            "origin": hardware.origin.filter(|origin| *origin == GENERATED).map(|_| "generated"),
            "purposes": hardware.purposes,
            "user_authentication_required": !hardware.no_auth_required,
            "creation_ms": description.software.creation_ms.or(hardware.creation_ms),
            "brand": hardware.brand,
            "device": hardware.device,
            "product": hardware.product,
            "manufacturer": hardware.manufacturer,
            "model": hardware.model,
            "packages": packages,
            "signer_digests_hex": signers,
            "serials": self.serials,
            "root": self.root,
            "provisioning": provisioning,
            "status_list_date": self.status_list_date,
            "key_algorithm": self.key_algorithm,
            "key_spki_b64": Base64::encode_string(&self.spki),
        });
        match claims {
            Value::Object(claims) => claims.into_iter().filter(|(_, value)| !value.is_null()).collect(),
            _ => Claims::new(),
        }
    }
}

/// Judges one case as the command line hands it in; members that are not named here are ignored.
///
/// `chain_pem`; optionally `challenge_b64` or `challenge_utf8` (what must be repeated), `package` and `signature_digest`
/// (hex; the one app that is expected, over the policy's lists), `status_list` (Google's JSON as an object, or its text) and
/// `status_list_date` (RFC 3339), `roots` (PEM certificates that stand in for Google's roots).
///
/// # Errors
/// Those of [`verify`], and `malformed_input`.
pub fn verify_case(input: &Map<String, Value>, policy: &AndroidPolicy, now: Timestamp) -> Result<Claims, Refused> {
    let m = Members(input);
    let chain = parse_pem_chain(m.required_text("chain_pem")?)?;
    let challenge = match m.bytes(&["challenge_b64"])? {
        Some(bytes) => Some(bytes),
        None => m.text("challenge_utf8")?.map(|text| text.as_bytes().to_vec()),
    };
    let date = m.text("status_list_date")?.map(|date| date.parse::<Timestamp>()).transpose();
    let date = date.map_err(|_| wrong("status_list_date", "an RFC 3339 time such as 2026-01-31T09:30:00Z"))?;
    let status_list = match m.get("status_list") {
        None => None,
        Some(Value::Object(list)) => Some(StatusList::from_object(list, date)?),
        Some(Value::String(json)) => Some(StatusList::from_json(json.as_bytes(), date)?),
        Some(_) => return Err(wrong("status_list", "an object or a text")),
    };
    let roots = m.get("roots").map_or_else(google_roots, own_roots)?;
    let mut policy = policy.clone();
    if let Some(package) = m.text("package")? {
        policy.packages = vec![package.to_owned()];
    }
    if let Some(digest) = m.text("signature_digest")? {
        policy.signer_digests_hex = vec![digest.to_owned()];
    }
    let evidence =
        Evidence { chain: &chain, challenge: challenge.as_deref(), roots: &roots, status_list: status_list.as_ref() };
    Ok(verify(&evidence, &policy, now)?.claims())
}

fn own_roots(roots: &Value) -> Result<Anchors, Refused> {
    const ROOTS_MAX: usize = 64;
    let pems: Vec<&str> = match roots {
        Value::String(pem) => vec![pem],
        Value::Array(pems) if pems.len() <= ROOTS_MAX && pems.iter().all(Value::is_string) => {
            pems.iter().filter_map(Value::as_str).collect()
        }
        _ => return Err(wrong("roots", "a list of PEM certificates")),
    };
    let mut anchors = Anchors::default();
    for pem in pems {
        for der in parse_pem_chain(pem)? {
            let own = Anchor::from_certificate("own", &der)?;
            // Google's key keeps its name wherever it comes from, because a date rule hangs on it.
            let known = google_roots()?.iter().find(|google| google.spki() == own.spki()).cloned();
            anchors.push(known.unwrap_or(own));
        }
    }
    Ok(anchors)
}
