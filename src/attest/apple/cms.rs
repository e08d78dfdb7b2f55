//! CMS SignedData (RFC 5652, section 5) in the one shape that Apple's receipts have: content inside, one signer who is
//! named by issuer and serial number, SHA-256, ECDSA on P-256. The signature covers the content, or the attributes that
//! name its digest.
//!
//! Judges neither certificates nor content: it says who signed and whether the bytes are theirs.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};

use super::ber::{self, BerError, Element, Reader, Rules};
use crate::crypto::{constant_time_eq, sha256};

/// Certificates in one message. Apple sends three.
pub const CERTIFICATES_MAX: usize = 8;
/// Attributes of one signer.
const ATTRIBUTES_MAX: usize = 16;
/// Bytes of one ECDSA signature on P-256 in DER.
const SIGNATURE_BYTES_MAX: usize = 72;

// Object identifiers without tag and length.
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x03];
const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x04];
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// Why a message was not taken. The text repeats nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CmsError {
    /// Not the ASN.1 of SignedData.
    #[error("the message {0}")]
    Form(#[from] BerError),
    /// Another version, content, digest or signature algorithm, or another number of signers.
    #[error("the message is not of the shape that Apple's receipts have: {0}")]
    Shape(&'static str),
    /// Too many certificates or attributes.
    #[error("the message holds too many certificates or attributes")]
    TooMany,
    /// The signed attributes do not name this content.
    #[error("the signed attributes are not those of the content")]
    Attributes,
}

/// A message taken apart; nothing of it is verified but that the signed attributes, if any, name the content.
#[derive(Debug)]
pub struct SignedData<'a> {
    /// The content, its parts joined.
    pub content: Vec<u8>,
    /// Certificates in DER, in the order in which they came.
    pub certificates: Vec<&'a [u8]>,
    /// The signer's issuer: the Name in DER, header included.
    pub issuer: &'a [u8],
    /// The signer's serial number: the bytes of the INTEGER.
    pub serial: &'a [u8],
    signed_attributes: Option<Vec<u8>>,
    signature: &'a [u8],
}

impl<'a> SignedData<'a> {
    /// Takes a message apart.
    ///
    /// # Errors
    /// [`CmsError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, CmsError> {
        let mut outer = Reader::new(bytes, Rules::Ber)?;
        let mut info = outer.enter(ber::SEQUENCE)?;
        outer.end()?;
        demand(info.take(ber::OID)?.body == SIGNED_DATA, "not SignedData")?;
        let mut explicit = info.enter(ber::context(0))?;
        info.end()?;
        let mut data = explicit.enter(ber::SEQUENCE)?;
        explicit.end()?;
        demand(data.take(ber::INTEGER)?.body == [1], "the version")?;
        let mut digests = data.enter(ber::SET)?;
        algorithm(digests.enter(ber::SEQUENCE)?, SHA256)?;
        digests.end()?;
        let content = encapsulated(data.enter(ber::SEQUENCE)?)?;
        let certificates = certificates(data.enter(ber::context(0))?)?;
        let mut signers = data.enter(ber::SET)?;
        data.end()?;
        let mut signer = signers.enter(ber::SEQUENCE)?;
        demand(signers.is_empty(), "more than one signer")?;

        demand(signer.take(ber::INTEGER)?.body == [1], "the signer's version")?;
        let mut name = signer.enter(ber::SEQUENCE)?;
        let issuer = name.take(ber::SEQUENCE)?.whole;
        let serial = name.take(ber::INTEGER)?.body;
        name.end()?;
        algorithm(signer.enter(ber::SEQUENCE)?, SHA256)?;
        let signed_attributes = match signer.peek() {
            Some(tag) if tag == ber::context(0) => Some(signed_attributes(&signer.any()?, &content)?),
            _ => None,
        };
        algorithm(signer.enter(ber::SEQUENCE)?, ECDSA_WITH_SHA256)?;
        let signature = signer.take(ber::OCTET_STRING)?.body;
        signer.end()?;
        Ok(Self { content, certificates, issuer, serial, signed_attributes, signature })
    }

    /// Whether the signature is that of `point`, an uncompressed point of P-256.
    pub fn is_signed_by(&self, point: &[u8; 65]) -> bool {
        let message = self.signed_attributes.as_deref().unwrap_or(&self.content);
        self.signature.len() <= SIGNATURE_BYTES_MAX
            && ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
                .is_ok_and(|key| key.verify_sig(message, self.signature).is_ok())
    }
}

fn demand(holds: bool, what: &'static str) -> Result<(), CmsError> {
    if holds { Ok(()) } else { Err(CmsError::Shape(what)) }
}

/// An AlgorithmIdentifier with this name and without parameters, which digests may also write as NULL.
fn algorithm(mut reader: Reader<'_>, name: &[u8]) -> Result<(), CmsError> {
    demand(reader.take(ber::OID)?.body == name, "an algorithm")?;
    if !reader.is_empty() {
        demand(reader.take(ber::NULL)?.body.is_empty(), "an algorithm's parameters")?;
    }
    Ok(reader.end()?)
}

fn encapsulated(mut reader: Reader<'_>) -> Result<Vec<u8>, CmsError> {
    demand(reader.take(ber::OID)?.body == DATA, "the content's type")?;
    let mut explicit = reader.enter(ber::context(0))?;
    reader.end()?;
    let content = explicit.any()?.octets()?;
    explicit.end()?;
    Ok(content)
}

fn certificates(mut reader: Reader<'_>) -> Result<Vec<&[u8]>, CmsError> {
    let mut found = Vec::new();
    while !reader.is_empty() {
        if found.len() == CERTIFICATES_MAX {
            return Err(CmsError::TooMany);
        }
        found.push(reader.take(ber::SEQUENCE)?.whole);
    }
    Ok(found)
}

/// Section 5.4: what is signed are the attributes as a SET in DER; only the tag differs from how they came.
fn signed_attributes(element: &Element<'_>, content: &[u8]) -> Result<Vec<u8>, CmsError> {
    let (mut content_type, mut digest) = (None, None);
    // DER: an end mark inside would not be what was signed.
    let mut outer = Reader::new(element.whole, Rules::Der)?;
    let mut attributes = outer.enter(element.tag)?;
    for _ in 0..ATTRIBUTES_MAX {
        if attributes.is_empty() {
            break;
        }
        let mut attribute = attributes.enter(ber::SEQUENCE)?;
        let name = attribute.take(ber::OID)?.body;
        let mut values = attribute.enter(ber::SET)?;
        attribute.end()?;
        let slot = match name {
            CONTENT_TYPE => &mut content_type,
            MESSAGE_DIGEST => &mut digest,
            _ => continue,
        };
        let value = values.any()?;
        if slot.replace((value.tag, value.body)).is_some() || !values.is_empty() {
            return Err(CmsError::Attributes);
        }
    }
    if !attributes.is_empty() {
        return Err(CmsError::TooMany);
    }
    let named = match digest {
        Some((ber::OCTET_STRING, named)) => constant_time_eq(named, &sha256(content)),
        _ => false,
    };
    if !named || content_type != Some((ber::OID, DATA)) {
        return Err(CmsError::Attributes);
    }
    let mut signed = element.whole.to_vec();
    if let Some(tag) = signed.first_mut() {
        *tag = ber::SET;
    }
    Ok(signed)
}
