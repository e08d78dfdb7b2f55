//! The statement formats by name, the rules that they share, and the short ones in full: `packed` (section 8.2), `apple`
//! (8.8), `fido-u2f` (8.6).

use serde_json::{Map, json};
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::{Any, Class, FromDer, Tag};
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_COUNTRY_NAME};
use x509_parser::oid_registry::{OID_X509_ORGANIZATION_NAME, OID_X509_ORGANIZATIONAL_UNIT};

use super::super::Refused;
use super::super::chain::{self, Anchors, KeyKind, Rules, SignatureAlgorithm};
use super::{Statement, WebauthnPolicy, android, tpm};
use crate::crypto::cbor::Value;
use crate::crypto::cose::CoseKey;
use crate::crypto::webauthn::{AuthenticatorData, Registered, SIGNATURE_BYTES_MAX};
use crate::crypto::{constant_time_eq, sha256};
use crate::kernel::Timestamp;

/// id-fido-gen-ce-aaguid.
const AAGUID: Oid<'static> = oid!(1.3.6.1.4.1.45724.1.1.4);
/// Apple's nonce.
const APPLE_NONCE: Oid<'static> = oid!(1.2.840.113635.100.8.2);

pub(super) fn malformed(detail: &str) -> Refused {
    Refused::new("statement_malformed", detail)
}

/// Everything that the formats look at.
pub(super) struct Subject<'a> {
    pub(super) registered: &'a Registered,
    pub(super) anchors: Option<&'a Anchors>,
    pub(super) policy: &'a WebauthnPolicy,
    pub(super) now: Timestamp,
}

/// Judges a statement by its format.
pub(super) fn verify(
    registered: &Registered,
    anchors: Option<&Anchors>,
    policy: &WebauthnPolicy,
    now: Timestamp,
) -> Result<Statement, Refused> {
    let subject = Subject { registered, anchors, policy, now };
    match registered.attestation.fmt.as_str() {
        "none" => Ok(plain("none")),
        // The ceremony has judged it already.
        "packed" if registered.attestation.self_attested => Ok(plain("self")),
        "packed" => packed(&subject),
        "tpm" => tpm::verify(&subject),
        "android-key" => android::verify(&subject),
        "apple" => apple(&subject),
        "fido-u2f" => fido_u2f(&subject),
        _ => Err(Refused::new("format", "There is no rule for statements of this format.")),
    }
}

fn plain(kind: &'static str) -> Statement {
    Statement { kind, root: None, details: Map::new() }
}

/// `x5c`, leaf first.
pub(super) fn certificates(registered: &Registered) -> Result<Vec<Vec<u8>>, Refused> {
    let list = registered.attestation.statement.member("x5c").and_then(Value::as_array);
    let list = list.filter(|list| !list.is_empty() && list.len() <= chain::CERTIFICATES_MAX);
    let list = list.ok_or_else(|| malformed("The statement has no certificates, or more than ten."))?;
    let bytes = |value: &Value| value.as_bytes().map(<[u8]>::to_vec);
    list.iter().map(bytes).collect::<Option<_>>().ok_or_else(|| malformed("A certificate is not of bytes."))
}

impl Subject<'_> {
    /// The member of the statement, of bytes.
    pub(super) fn bytes(&self, name: &str) -> Result<&[u8], Refused> {
        let member = self.registered.attestation.statement.member(name).and_then(Value::as_bytes);
        member.ok_or_else(|| malformed("The statement lacks a member or has one of the wrong type."))
    }

    /// `alg`.
    pub(super) fn algorithm(&self) -> Result<i64, Refused> {
        let number = self.registered.attestation.statement.member("alg").and_then(Value::as_i64);
        number.ok_or_else(|| malformed("The statement names no algorithm."))
    }

    /// `sig`.
    pub(super) fn signature(&self) -> Result<&[u8], Refused> {
        let signature = self.bytes("sig")?;
        if signature.len() > SIGNATURE_BYTES_MAX { Err(malformed("The signature is too long.")) } else { Ok(signature) }
    }

    /// `x5c`, leaf first.
    pub(super) fn certificates(&self) -> Result<Vec<Vec<u8>>, Refused> {
        certificates(self.registered)
    }

    /// What statements sign: the authenticator data and the hash of the client data.
    pub(super) fn signed(&self) -> Vec<u8> {
        let attestation = &self.registered.attestation;
        [attestation.authenticator_data.as_slice(), &attestation.client_data_hash].concat()
    }

    /// The new credential's key.
    pub(super) fn credential_key(&self) -> Result<CoseKey, Refused> {
        CoseKey::parse(&self.registered.public_key_cose)
            .map_err(|e| Refused::new("credential_key", format!("The credential is not usable: {e}.")))
    }

    /// Demands that a certificate is the credential's own.
    pub(super) fn same_key(&self, certificate: &X509Certificate<'_>) -> Result<(), Refused> {
        match self.credential_key()?.to_spki_der() {
            Some(spki) if spki == certificate.public_key().raw => Ok(()),
            _ => Err(Refused::new("attested_key", "The certificate is for another key than the credential's.")),
        }
    }

    /// Follows the certificates to a root where one is known, and gives its label. Where none is, the leaf must be
    /// within its dates.
    pub(super) fn follow(&self, ders: &[Vec<u8>], critical: &[Oid<'static>]) -> Result<Option<String>, Refused> {
        if let Some(anchors) = self.anchors {
            let rules = Rules { critical, ..Rules::default() };
            return chain::verify(ders, anchors, &rules, self.now).map(|found| Some(found.anchor().to_owned()));
        }
        let certificates = chain::parse(ders)?;
        let leaf = leaf(&certificates)?;
        let at = self.now.as_secs();
        if at < leaf.validity().not_before.timestamp() || at > leaf.validity().not_after.timestamp() {
            return Err(Refused::new(
                "certificate_expired",
                "The authenticator's certificate is not valid at this time.",
            ));
        }
        Ok(None)
    }

    /// Demands that the signature of the statement over `message` is the certificate's.
    pub(super) fn check_signature(&self, certificate: &X509Certificate<'_>, message: &[u8]) -> Result<(), Refused> {
        let algorithm = SignatureAlgorithm::from_cose(self.algorithm()?).ok_or_else(|| {
            Refused::new("signature_algorithm", "The statement is signed by an algorithm that is not taken.")
        })?;
        chain::verify_with_key(certificate.public_key().raw, algorithm, message, self.signature()?)
    }

    /// Where a certificate names a model, it must be the credential's (section 8.2.1).
    pub(super) fn check_aaguid(&self, certificate: &X509Certificate<'_>) -> Result<(), Refused> {
        let Some(extension) = certificate.extensions().iter().find(|e| e.oid == AAGUID) else { return Ok(()) };
        let model = match Any::from_der(extension.value) {
            Ok(([], any)) if any.tag() == Tag::OctetString => any.data,
            _ => return Err(malformed("The certificate's extension of the model cannot be read.")),
        };
        if extension.critical || model != self.registered.aaguid {
            return Err(Refused::new("aaguid", "The certificate is for another model than the authenticator says."));
        }
        Ok(())
    }
}

pub(super) fn leaf<'c, 'a>(certificates: &'c [X509Certificate<'a>]) -> Result<&'c X509Certificate<'a>, Refused> {
    certificates.first().ok_or_else(|| malformed("The statement has no certificates."))
}

/// Demands a certificate that is no authority.
pub(super) fn check_end_entity(certificate: &X509Certificate<'_>) -> Result<(), Refused> {
    match certificate.basic_constraints() {
        Ok(Some(constraints)) if !constraints.value.ca => Ok(()),
        _ => Err(Refused::new(
            "leaf_requirements",
            "The authenticator's certificate does not say that it is no authority.",
        )),
    }
}

/// Sections 8.2 (with `x5c`) and 8.2.1.
fn packed(subject: &Subject<'_>) -> Result<Statement, Refused> {
    let ders = subject.certificates()?;
    let certificates = chain::parse(&ders)?;
    let leaf = leaf(&certificates)?;
    check_end_entity(leaf)?;
    let one = |oid: &Oid<'static>| {
        let mut found = leaf.subject().iter_by_oid(oid);
        match (found.next().and_then(|value| value.as_str().ok()), found.next()) {
            (Some(text), None) if !text.is_empty() => Some(text.to_owned()),
            _ => None,
        }
    };
    let country = one(&OID_X509_COUNTRY_NAME).filter(|c| c.len() == 2 && c.bytes().all(|b| b.is_ascii_uppercase()));
    let unit = one(&OID_X509_ORGANIZATIONAL_UNIT).filter(|unit| unit == "Authenticator Attestation");
    let (Some(_), Some(vendor), Some(_), Some(name)) =
        (country, one(&OID_X509_ORGANIZATION_NAME), unit, one(&OID_X509_COMMON_NAME))
    else {
        return Err(Refused::new("leaf_requirements", "The certificate's subject is not that of an authenticator."));
    };
    subject.check_aaguid(leaf)?;
    subject.check_signature(leaf, &subject.signed())?;
    let root = subject.follow(&ders, &[])?;
    let mut details = Map::new();
    details.insert("vendor".to_owned(), json!(vendor));
    details.insert("certificate_name".to_owned(), json!(name));
    Ok(Statement { kind: "basic", root, details })
}

/// Section 8.8.
fn apple(subject: &Subject<'_>) -> Result<Statement, Refused> {
    let ders = subject.certificates()?;
    let certificates = chain::parse(&ders)?;
    let leaf = leaf(&certificates)?;
    let extension = leaf.extensions().iter().find(|e| e.oid == APPLE_NONCE);
    let nonce =
        extension.and_then(|e| apple_nonce(e.value)).ok_or_else(|| malformed("The certificate has no nonce."))?;
    if !constant_time_eq(nonce, &sha256(&subject.signed())) {
        return Err(Refused::new("nonce", "The certificate was made for another registration."));
    }
    subject.same_key(leaf)?;
    Ok(Statement { kind: "anonca", root: subject.follow(&ders, &[])?, details: Map::new() })
}

/// SEQUENCE { [1] { OCTET STRING } }.
fn apple_nonce(der: &[u8]) -> Option<&[u8]> {
    let sequence = whole(der).filter(|any| any.tag() == Tag::Sequence)?;
    let tagged = whole(sequence.data).filter(|any| any.class() == Class::ContextSpecific && any.tag() == Tag(1))?;
    let nonce = whole(tagged.data).filter(|any| any.class() == Class::Universal && any.tag() == Tag::OctetString)?;
    Some(nonce.data)
}

/// The one value that the bytes are.
fn whole(der: &[u8]) -> Option<Any<'_>> {
    Any::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, any)| any)
}

/// Section 8.6.
fn fido_u2f(subject: &Subject<'_>) -> Result<Statement, Refused> {
    let ders = subject.certificates()?;
    let certificates = chain::parse(&ders)?;
    let leaf = leaf(&certificates)?;
    if certificates.len() != 1 || chain::Key::from_spki(leaf.public_key())?.kind() != KeyKind::P256 {
        return Err(Refused::new("leaf_requirements", "A U2F statement has one certificate, for a key on P-256."));
    }
    let key = subject.credential_key()?;
    let point =
        key.p256_point().ok_or_else(|| Refused::new("credential_key", "A U2F credential is a key on P-256."))?;
    let attestation = &subject.registered.attestation;
    let data = AuthenticatorData::parse(&attestation.authenticator_data)
        .map_err(|e| Refused::new("authenticator_data", format!("The ceremony does not hold: {e}.")))?;
    let id = subject.registered.credential_id.as_slice();
    let message = [&[0], &data.rp_id_hash[..], &attestation.client_data_hash, id, point].concat();
    let algorithm = SignatureAlgorithm::Ecdsa(chain::Hash::Sha256);
    chain::verify_with_key(leaf.public_key().raw, algorithm, &message, subject.signature()?)?;
    Ok(Statement { kind: "basic", root: subject.follow(&ders, &[])?, details: Map::new() })
}
