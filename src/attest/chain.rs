//! The one builder of X.509 chains for every attestation format (RFC 5280, section 6, without policies and names).
//!
//! A chain arrives leaf first and ends in, or right below, a pinned anchor; nothing is searched for and nothing is
//! fetched. Signatures are checked over the received bytes of each certificate, by an allow-list of algorithms, after
//! everything cheap was checked. Roots are compared by their public key, because the same root is reissued under other
//! dates. Knows nothing of what the leaf states.

mod keys;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

use base64ct::{Base64, Encoding};
use x509_parser::asn1_rs::{Any, Oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_KEY_USAGE};
use x509_parser::prelude::FromDer;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Version};

pub use keys::{Hash, Key, KeyKind, SignatureAlgorithm, verify_with_key};

use super::Refused;
use crate::crypto::hex;
use crate::kernel::Timestamp;

/// Certificates of one chain, the root included.
pub const CERTIFICATES_MAX: usize = 10;
/// Bytes of one certificate.
pub const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;
/// Characters of a chain as PEM: all certificates at their largest, in base64 with line ends.
pub const PEM_CHARS_MAX: usize = CERTIFICATES_MAX * CERTIFICATE_BYTES_MAX * 3 / 2;
/// Extensions of one certificate.
const EXTENSIONS_MAX: usize = 32;
/// Bytes of a serial number (RFC 5280, section 4.1.2.2, allows 20 and asks to take a little more).
const SERIAL_BYTES_MAX: usize = 32;

/// How far the dates of one certificate count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DateRule {
    /// Both ends.
    Window,
    /// It must have begun; its end does not count.
    Begun,
    /// Neither end.
    Ignore,
}

/// Which dates count, by place in the chain. The root is the anchor itself where the chain repeats it; dates of an
/// anchor outside the chain never count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dates {
    /// The leaf.
    pub leaf: DateRule,
    /// What lies between leaf and root.
    pub intermediates: DateRule,
    /// The root, where the chain repeats it.
    pub root: DateRule,
}

impl Dates {
    /// Every certificate, both ends.
    pub const ALL: Self = Self { leaf: DateRule::Window, intermediates: DateRule::Window, root: DateRule::Window };
    /// Every certificate but the root, which is pinned by its key whatever its dates say.
    pub const BELOW_ROOT: Self = Self { root: DateRule::Ignore, ..Self::ALL };
    /// The leaf only.
    pub const LEAF: Self = Self { intermediates: DateRule::Ignore, ..Self::BELOW_ROOT };
    /// None: for formats whose leaf is kept beyond its life.
    pub const IGNORE: Self = Self { leaf: DateRule::Ignore, ..Self::LEAF };
}

/// What a format asks of its chains beyond the standing rules.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Which dates count.
    pub dates: Dates,
    /// Critical extensions that the caller itself checks; basic constraints and key usage are checked here.
    pub critical: &'a [Oid<'static>],
    /// Whether the certificate right above the leaf need not be an authority. Old Android factory batches are signed so;
    /// a caller that sets this must itself refuse a leaf that an attested key signed.
    pub leaf_issuer_may_be_no_ca: bool,
}

impl Default for Rules<'_> {
    /// All dates, no other critical extension, only authorities above the leaf.
    fn default() -> Self {
        Self { dates: Dates::ALL, critical: &[], leaf_issuer_may_be_no_ca: false }
    }
}

/// A pinned end of chains.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Anchor {
    label: String,
    spki: Vec<u8>,
    // What only a certificate says.
    certificate: Option<AnchorCertificate>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct AnchorCertificate {
    der: Vec<u8>,
    subject: Vec<u8>,
    // How many certificates may lie between it and the leaf; nothing when it may sign no certificates.
    below_max: Option<u32>,
}

impl Anchor {
    /// Pins a public key, given as DER SubjectPublicKeyInfo; `label` is what verdicts call it.
    ///
    /// # Errors
    /// `anchor_malformed`.
    pub fn from_spki(label: impl Into<String>, spki_der: &[u8]) -> Result<Self, Refused> {
        match SubjectPublicKeyInfo::from_der(spki_der) {
            Ok(([], _)) => Ok(Self { label: label.into(), spki: spki_der.to_vec(), certificate: None }),
            _ => Err(Refused::new("anchor_malformed", "a pinned key is not a DER SubjectPublicKeyInfo")),
        }
    }

    /// Pins a certificate. Another certificate of the same key counts as the same root when it is self-signed.
    ///
    /// # Errors
    /// Those of [`parse`].
    pub fn from_certificate(label: impl Into<String>, der: &[u8]) -> Result<Self, Refused> {
        let certificate = parse_one(der)?;
        let below_max = issuer_limit(&certificate).ok();
        Ok(Self {
            label: label.into(),
            spki: certificate.public_key().raw.to_vec(),
            certificate: Some(AnchorCertificate {
                der: der.to_vec(),
                subject: certificate.subject().as_raw().to_vec(),
                below_max,
            }),
        })
    }

    /// What verdicts call it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Whether it is the certificate of an authority. A pinned key says nothing about that and may.
    pub fn may_issue(&self) -> bool {
        self.certificate.as_ref().is_none_or(|pinned| pinned.below_max.is_some())
    }

    /// Its DER SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }
}

/// All pinned ends of one format.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Anchors(Vec<Anchor>);

impl Anchors {
    /// These.
    pub fn new(anchors: Vec<Anchor>) -> Self {
        Self(anchors)
    }

    /// One more.
    pub fn push(&mut self, anchor: Anchor) {
        self.0.push(anchor);
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Anchor> {
        self.0.iter()
    }
}

/// A chain that was verified, leaf first.
#[derive(Debug)]
pub struct Chain<'a> {
    certificates: Vec<X509Certificate<'a>>,
    anchor: String,
    anchor_spki: Vec<u8>,
    repeats_root: bool,
}

impl<'a> Chain<'a> {
    /// The certificate of the attested key.
    ///
    /// # Errors
    /// Never for a chain that came from here; a type cannot say so.
    pub fn leaf(&self) -> Result<&X509Certificate<'a>, Refused> {
        self.certificates.first().ok_or_else(empty)
    }

    /// All of them, as received.
    pub fn certificates(&self) -> &[X509Certificate<'a>] {
        &self.certificates
    }

    /// Their serial numbers by [`serial_hex`], in the same order.
    pub fn serials(&self) -> Vec<String> {
        self.certificates.iter().map(serial_hex).collect()
    }

    /// Label of the anchor that decided.
    pub fn anchor(&self) -> &str {
        &self.anchor
    }

    /// DER SubjectPublicKeyInfo of the anchor that decided. A label may come to name another anchor; a key may not.
    pub fn anchor_spki(&self) -> &[u8] {
        &self.anchor_spki
    }

    /// When the first of the certificates ends.
    pub fn not_after(&self) -> Option<Timestamp> {
        let ends = self.certificates.iter().map(|c| c.validity().not_after.timestamp());
        ends.min().map(|end_s| Timestamp::from_millis(end_s.saturating_mul(1_000)))
    }

    /// Judges the dates once more, for a caller whose rule depends on the anchor.
    ///
    /// # Errors
    /// `certificate_not_yet_valid`, `certificate_expired`.
    pub fn check_dates(&self, dates: Dates, now: Timestamp) -> Result<(), Refused> {
        check_all_dates(&self.certificates, self.repeats_root, dates, now)
    }
}

/// A serial number in lower-case hex without leading zeros, as revocation lists write it.
pub fn serial_hex(certificate: &X509Certificate<'_>) -> String {
    let digits = hex(certificate.raw_serial());
    let trimmed = digits.trim_start_matches('0');
    if trimmed.is_empty() { "0".to_owned() } else { trimmed.to_owned() }
}

/// Splits PEM (RFC 7468) into the DER of its certificates, in their order. Nothing but white space may stand between.
///
/// # Errors
/// `pem_malformed`, `chain_empty`, `chain_too_long`, `certificate_too_large`.
pub fn parse_pem_chain(pem: &str) -> Result<Vec<Vec<u8>>, Refused> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let malformed = |what: &str| Refused::new("pem_malformed", what.to_owned());
    if pem.len() > PEM_CHARS_MAX {
        return Err(malformed("the PEM text is longer than ten certificates can be"));
    }
    let mut chain = Vec::new();
    let mut rest = pem.trim();
    while !rest.is_empty() {
        if chain.len() == CERTIFICATES_MAX {
            return Err(too_long());
        }
        let inside = rest.strip_prefix(BEGIN).ok_or_else(|| malformed("something stands outside the certificates"))?;
        let (body, after) = inside.split_once(END).ok_or_else(|| malformed("a certificate does not end"))?;
        let base64: String = body.split_ascii_whitespace().collect();
        let der = Base64::decode_vec(&base64).map_err(|_| malformed("a certificate is not base64"))?;
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(too_large());
        }
        chain.push(der);
        rest = after.trim_start();
    }
    if chain.is_empty() { Err(empty()) } else { Ok(chain) }
}

fn empty() -> Refused {
    Refused::new("chain_empty", "there is no certificate")
}

fn too_long() -> Refused {
    Refused::new("chain_too_long", format!("more than {CERTIFICATES_MAX} certificates"))
}

fn too_large() -> Refused {
    Refused::new("certificate_too_large", format!("a certificate has more than {CERTIFICATE_BYTES_MAX} bytes"))
}

/// Reads certificates (RFC 5280) without judging whether they belong together.
///
/// # Errors
/// `chain_empty`, `chain_too_long`, `certificate_too_large`, `certificate_malformed` (also for bytes behind the end,
/// and for a signature algorithm that is named differently inside and outside), `extension_duplicate`.
pub fn parse(ders: &[Vec<u8>]) -> Result<Vec<X509Certificate<'_>>, Refused> {
    if ders.is_empty() {
        return Err(empty());
    }
    if ders.len() > CERTIFICATES_MAX {
        return Err(too_long());
    }
    ders.iter().map(|der| parse_one(der)).collect()
}

fn parse_one(der: &[u8]) -> Result<X509Certificate<'_>, Refused> {
    let malformed = |what: &str| Refused::new("certificate_malformed", what.to_owned());
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(too_large());
    }
    let certificate = match X509Certificate::from_der(der) {
        Ok(([], certificate)) => certificate,
        Ok(_) => return Err(malformed("bytes stand behind the end of a certificate")),
        Err(_) => return Err(malformed("a certificate is not DER of X.509")),
    };
    if certificate.version() != X509Version::V3 {
        return Err(malformed("a certificate is not of version 3"));
    }
    if is_enveloped(&certificate) != Some(true) {
        return Err(malformed(
            "a certificate names its signature algorithm twice, differently, or is oddly put together",
        ));
    }
    if certificate.signature_value.unused_bits != 0 {
        return Err(malformed("a signature does not end with a whole byte"));
    }
    if certificate.raw_serial().len() > SERIAL_BYTES_MAX {
        return Err(malformed("a serial number is longer than 32 bytes"));
    }
    if certificate.extensions().len() > EXTENSIONS_MAX {
        return Err(malformed("a certificate has more than 32 extensions"));
    }
    let twice = |(at, extension): (usize, &x509_parser::extensions::X509Extension<'_>)| {
        certificate.extensions().iter().skip(at + 1).any(|other| other.oid == extension.oid)
    };
    if certificate.extensions().iter().enumerate().any(twice) {
        return Err(Refused::new("extension_duplicate", "a certificate has the same extension twice"));
    }
    Ok(certificate)
}

/// What no signature covers stands exactly once in exactly one way: the envelope (section 4.1) is a SEQUENCE of the signed
/// part, the algorithm that the signed part names, byte for byte, and a BIT STRING. The parser takes other tags for each.
fn is_enveloped(certificate: &X509Certificate<'_>) -> Option<bool> {
    fn first(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
        let (rest, _) = Any::from_der(bytes).ok()?;
        bytes.split_at_checked(bytes.len() - rest.len())
    }
    fn inside(bytes: &[u8]) -> Option<&[u8]> {
        Some(Any::from_der(bytes).ok()?.1.data)
    }
    let whole = certificate.as_raw();
    let (signed, behind) = first(inside(whole)?)?;
    let (algorithm, signature) = first(behind)?;
    let (_version, rest) = first(inside(signed)?)?;
    let (_serial, rest) = first(rest)?;
    let (signed_algorithm, _) = first(rest)?;
    Some(whole.starts_with(&[0x30]) && algorithm == signed_algorithm && signature.starts_with(&[0x03]))
}

/// Verifies a chain, leaf first, that ends in an anchor or in a certificate that an anchor issued.
///
/// # Errors
/// Those of [`parse`] and [`verify_parsed`].
pub fn verify<'a>(
    ders: &'a [Vec<u8>],
    anchors: &Anchors,
    rules: &Rules<'_>,
    now: Timestamp,
) -> Result<Chain<'a>, Refused> {
    verify_parsed(parse(ders)?, anchors, rules, now)
}

/// The same for certificates that [`parse`] read, so that a caller may look before it chooses its rules.
///
/// # Errors
/// `extension_critical`, `certificate_not_yet_valid`, `certificate_expired`, `name_chaining`, `not_a_ca`,
/// `path_length`, `root_unknown`, `signature_algorithm`, `key_unsupported`, `signature_invalid`.
pub fn verify_parsed<'a>(
    certificates: Vec<X509Certificate<'a>>,
    anchors: &Anchors,
    rules: &Rules<'_>,
    now: Timestamp,
) -> Result<Chain<'a>, Refused> {
    let top = certificates.last().ok_or_else(empty)?;
    let end = find_end(top, anchors, certificates.len())?;
    let repeats_root = !matches!(end, End::Above(_));
    for certificate in &certificates {
        refuse_unknown_critical(certificate, rules.critical)?;
    }
    check_all_dates(&certificates, repeats_root, rules.dates, now)?;
    // Cheap rules for all pairs first: no arithmetic is spent on a chain that a glance refuses.
    for (at, (child, issuer)) in pairs(&certificates).enumerate() {
        if child.issuer().as_raw() != issuer.subject().as_raw() {
            return Err(Refused::new("name_chaining", "a certificate's issuer is not the subject of the next one"));
        }
        if at > 0 || !rules.leaf_issuer_may_be_no_ca {
            within(issuer_limit(issuer)?, at)?;
        }
    }
    for (child, issuer) in pairs(&certificates) {
        verify_signature(child, issuer.public_key())?;
    }
    let anchor = match end {
        End::Pinned(anchor) => anchor,
        End::SameKey(anchor) => {
            verify_signature(top, top.public_key())?;
            anchor
        }
        End::Above(candidates) => issued_by_one_of(top, &candidates)?,
    };
    let (anchor, anchor_spki) = (anchor.label.clone(), anchor.spki.clone());
    Ok(Chain { certificates, anchor, anchor_spki, repeats_root })
}

fn pairs<'c, 'a>(
    certificates: &'c [X509Certificate<'a>],
) -> impl Iterator<Item = (&'c X509Certificate<'a>, &'c X509Certificate<'a>)> {
    certificates.iter().zip(certificates.iter().skip(1))
}

/// How the last certificate meets an anchor.
enum End<'x> {
    /// It is the pinned certificate, byte for byte.
    Pinned(&'x Anchor),
    /// It is another self-signed certificate of the pinned key.
    SameKey(&'x Anchor),
    /// One of these may have issued it.
    Above(Vec<&'x Anchor>),
}

fn find_end<'x>(top: &X509Certificate<'_>, anchors: &'x Anchors, length: usize) -> Result<End<'x>, Refused> {
    let unknown = || Refused::new("root_unknown", "the chain does not end in a root that is trusted");
    let pinned = |anchor: &&Anchor| anchor.certificate.as_ref().is_some_and(|pinned| pinned.der == top.as_raw());
    if let Some(anchor) = anchors.iter().find(pinned) {
        return Ok(End::Pinned(anchor));
    }
    if top.issuer().as_raw() == top.subject().as_raw() {
        let same = |anchor: &&Anchor| anchor.spki == top.public_key().raw;
        return anchors.iter().find(same).map(End::SameKey).ok_or_else(unknown);
    }
    let mut candidates = Vec::new();
    let mut too_deep = None;
    for anchor in anchors.iter() {
        match &anchor.certificate {
            None => candidates.push(anchor),
            Some(pinned) if pinned.subject != top.issuer().as_raw() => {}
            Some(AnchorCertificate { below_max: Some(limit), .. }) => match within(*limit, length - 1) {
                Ok(()) => candidates.push(anchor),
                Err(refused) => too_deep = Some(refused),
            },
            Some(_) => {}
        }
    }
    match (candidates.is_empty(), too_deep) {
        (true, Some(refused)) => Err(refused),
        (true, None) => Err(unknown()),
        (false, _) => Ok(End::Above(candidates)),
    }
}

fn issued_by_one_of<'x>(top: &X509Certificate<'_>, candidates: &[&'x Anchor]) -> Result<&'x Anchor, Refused> {
    for anchor in candidates {
        if let Ok((_, spki)) = SubjectPublicKeyInfo::from_der(&anchor.spki)
            && verify_signature(top, &spki).is_ok()
        {
            return Ok(anchor);
        }
    }
    Err(Refused::new("root_unknown", "the last certificate was not signed by a root that is trusted"))
}

/// How many certificates may lie between this issuer and the leaf.
fn issuer_limit(issuer: &X509Certificate<'_>) -> Result<u32, Refused> {
    let not_a_ca = |what: &str| Refused::new("not_a_ca", what.to_owned());
    let constraints = issuer
        .basic_constraints()
        .ok()
        .flatten()
        .filter(|constraints| constraints.value.ca)
        .ok_or_else(|| not_a_ca("a certificate was signed by one that is not an authority"))?;
    // RFC 5280, section 6.1.4 (n): a certificate that has no key usage is not limited by it.
    match issuer.key_usage() {
        Ok(None) => {}
        Ok(Some(usage)) if usage.value.key_cert_sign() => {}
        _ => return Err(not_a_ca("a certificate was signed by one whose key is not for signing certificates")),
    }
    Ok(constraints.value.path_len_constraint.unwrap_or(u32::MAX))
}

fn within(limit: u32, between: usize) -> Result<(), Refused> {
    if u32::try_from(between).is_ok_and(|between| between <= limit) {
        return Ok(());
    }
    Err(Refused::new("path_length", "an authority has more certificates below it than it may"))
}

fn refuse_unknown_critical(certificate: &X509Certificate<'_>, known: &[Oid<'static>]) -> Result<(), Refused> {
    let ours = [OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_KEY_USAGE];
    match certificate.extensions().iter().find(|e| e.critical && !ours.contains(&e.oid) && !known.contains(&e.oid)) {
        None => Ok(()),
        Some(extension) => Err(Refused::new(
            "extension_critical",
            format!("a certificate has the critical extension {}, which is not known here", extension.oid),
        )),
    }
}

fn check_all_dates(
    certificates: &[X509Certificate<'_>],
    repeats_root: bool,
    dates: Dates,
    now: Timestamp,
) -> Result<(), Refused> {
    let last = certificates.len().saturating_sub(1);
    for (at, certificate) in certificates.iter().enumerate() {
        let rule = match at {
            _ if repeats_root && at == last => dates.root,
            0 => dates.leaf,
            _ => dates.intermediates,
        };
        check_dates(certificate, rule, now)?;
    }
    Ok(())
}

fn check_dates(certificate: &X509Certificate<'_>, rule: DateRule, now: Timestamp) -> Result<(), Refused> {
    let (begin, end) = (certificate.validity().not_before, certificate.validity().not_after);
    if rule != DateRule::Ignore && now.as_secs() < begin.timestamp() {
        return Err(Refused::new("certificate_not_yet_valid", format!("a certificate is valid only from {begin}")));
    }
    if rule == DateRule::Window && now.as_secs() > end.timestamp() {
        return Err(Refused::new("certificate_expired", format!("a certificate was valid until {end}")));
    }
    Ok(())
}

fn verify_signature(child: &X509Certificate<'_>, issuer: &SubjectPublicKeyInfo<'_>) -> Result<(), Refused> {
    let algorithm = SignatureAlgorithm::from_x509(&child.signature_algorithm)?;
    Key::from_spki(issuer)?.verify(algorithm, child.tbs_certificate.as_ref(), &child.signature_value.data)
}
