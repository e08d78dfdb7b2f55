//! Public keys and signature algorithms that attestation takes, by X.509 and COSE names, and the check itself.
//!
//! An allow-list: ECDSA on P-256, P-384 and P-521 and RSA of 2048 to 8192 bits, each with SHA-256, SHA-384 or SHA-512.
//! Sizes and forms are checked before any arithmetic. Knows nothing of chains.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1, ECDSA_P384_SHA256_ASN1,
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA512_ASN1, ECDSA_P521_SHA256_ASN1, ECDSA_P521_SHA384_ASN1,
    ECDSA_P521_SHA512_ASN1, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, UnparsedPublicKey,
    VerificationAlgorithm,
};
use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_NIST_HASH_SHA256,
    OID_NIST_HASH_SHA384, OID_NIST_HASH_SHA512, OID_PKCS1_RSAENCRYPTION, OID_PKCS1_RSASSAPSS, OID_PKCS1_SHA256WITHRSA,
    OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384,
    OID_SIG_ECDSA_WITH_SHA512,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::signature_algorithm::RsaSsaPssParams;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use crate::attest::Refused;

/// Bits of an RSA modulus, both included.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Bytes of an RSA exponent; nearly everybody's is 65,537.
const RSA_EXPONENT_BYTES_MAX: usize = 4;

/// The hash under a signature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// A signature algorithm of the allow-list. The curve of ECDSA is the key's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SignatureAlgorithm {
    /// ECDSA, the signature as ASN.1 (RFC 3279, section 2.2.3).
    Ecdsa(Hash),
    /// RSASSA-PKCS1-v1_5 (RFC 8017, section 8.2).
    RsaPkcs1(Hash),
    /// RSASSA-PSS (RFC 8017, section 8.1): MGF1 with the same hash, salt as long as the hash.
    RsaPss(Hash),
}

impl SignatureAlgorithm {
    /// By its X.509 name; parameters must be those of RFC 5758 (none) and RFC 4055 (NULL or none; PSS in full).
    ///
    /// # Errors
    /// `signature_algorithm`.
    pub fn from_x509(named: &AlgorithmIdentifier<'_>) -> Result<Self, Refused> {
        let oid = &named.algorithm;
        let parameters = named.parameters.as_ref();
        let bare = parameters.is_none();
        let null = parameters.is_none_or(|p| p.tag() == Tag::Null && p.data.is_empty());
        let found = [
            (OID_SIG_ECDSA_WITH_SHA256, Self::Ecdsa(Hash::Sha256), bare),
            (OID_SIG_ECDSA_WITH_SHA384, Self::Ecdsa(Hash::Sha384), bare),
            (OID_SIG_ECDSA_WITH_SHA512, Self::Ecdsa(Hash::Sha512), bare),
            (OID_PKCS1_SHA256WITHRSA, Self::RsaPkcs1(Hash::Sha256), null),
            (OID_PKCS1_SHA384WITHRSA, Self::RsaPkcs1(Hash::Sha384), null),
            (OID_PKCS1_SHA512WITHRSA, Self::RsaPkcs1(Hash::Sha512), null),
        ]
        .into_iter()
        .find_map(|(known, algorithm, well_formed)| (known == *oid && well_formed).then_some(algorithm));
        match found {
            Some(algorithm) => Ok(algorithm),
            None if *oid == OID_PKCS1_RSASSAPSS => parameters.and_then(pss).ok_or_else(|| unknown(oid)),
            None => Err(unknown(oid)),
        }
    }

    /// By its number in IANA's registry of COSE algorithms.
    pub const fn from_cose(id: i64) -> Option<Self> {
        Some(match id {
            -7 => Self::Ecdsa(Hash::Sha256),
            -35 => Self::Ecdsa(Hash::Sha384),
            -36 => Self::Ecdsa(Hash::Sha512),
            -37 => Self::RsaPss(Hash::Sha256),
            -38 => Self::RsaPss(Hash::Sha384),
            -39 => Self::RsaPss(Hash::Sha512),
            -257 => Self::RsaPkcs1(Hash::Sha256),
            -258 => Self::RsaPkcs1(Hash::Sha384),
            -259 => Self::RsaPkcs1(Hash::Sha512),
            _ => return None,
        })
    }
}

fn unknown(oid: &x509_parser::asn1_rs::Oid<'_>) -> Refused {
    Refused::new(
        "signature_algorithm",
        format!("a signature is made by {oid}, which is not among those that are taken"),
    )
}

/// The parameters that a PSS signature must have: hash, the same hash in MGF1, a salt of its length.
fn pss(parameters: &Any<'_>) -> Option<SignatureAlgorithm> {
    let parameters = RsaSsaPssParams::try_from(parameters).ok()?;
    let hash = parameters.hash_algorithm_oid();
    let (hash_found, length) = [
        (OID_NIST_HASH_SHA256, Hash::Sha256, 32),
        (OID_NIST_HASH_SHA384, Hash::Sha384, 48),
        (OID_NIST_HASH_SHA512, Hash::Sha512, 64),
    ]
    .into_iter()
    .find_map(|(oid, known, length)| (oid == *hash).then_some((known, length)))?;
    let same = parameters.mask_gen_algorithm().ok()?.hash == *hash;
    (same && parameters.salt_length() == length && parameters.trailer_field() == 1)
        .then_some(SignatureAlgorithm::RsaPss(hash_found))
}

/// What kind of key it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyKind {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// NIST P-521.
    P521,
    /// RSA with a modulus of so many bits.
    Rsa {
        /// Bits of the modulus.
        bits: usize,
    },
}

impl KeyKind {
    /// For people: `EC P-256`, `RSA 2048`.
    pub fn name(self) -> String {
        match self {
            Self::P256 => "EC P-256".to_owned(),
            Self::P384 => "EC P-384".to_owned(),
            Self::P521 => "EC P-521".to_owned(),
            Self::Rsa { bits } => format!("RSA {bits}"),
        }
    }
}

/// A public key of a kind and size that is taken.
#[derive(Clone, Debug)]
pub struct Key<'a> {
    kind: KeyKind,
    // The point, or the RSAPublicKey.
    raw: &'a [u8],
}

impl<'a> Key<'a> {
    /// The key inside a SubjectPublicKeyInfo (RFC 5480, RFC 8017).
    ///
    /// # Errors
    /// `key_unsupported` for another kind, curve, size or form.
    pub fn from_spki(spki: &'a SubjectPublicKeyInfo<'a>) -> Result<Self, Refused> {
        let refused = |what: String| Err(Refused::new("key_unsupported", what));
        let raw: &'a [u8] = spki.subject_public_key.data.as_ref();
        let algorithm = &spki.algorithm;
        if spki.subject_public_key.unused_bits != 0 {
            return refused("a public key does not end with a whole byte".to_owned());
        }
        if algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
            let known = [
                (OID_EC_P256, KeyKind::P256, 65),
                (OID_NIST_EC_P384, KeyKind::P384, 97),
                (OID_NIST_EC_P521, KeyKind::P521, 133),
            ]
            .into_iter()
            .find(|(oid, _, _)| curve.as_ref() == Some(oid));
            return match known {
                Some((_, kind, length)) if raw.len() == length && raw.first() == Some(&4) => Ok(Self { kind, raw }),
                Some(_) => refused("a public key is not an uncompressed point of its curve".to_owned()),
                None => refused("a public key is on a curve that is not P-256, P-384 or P-521".to_owned()),
            };
        }
        if algorithm.algorithm != OID_PKCS1_RSAENCRYPTION {
            return refused(format!("a public key is of the kind {}; only EC and RSA are taken", algorithm.algorithm));
        }
        let Ok(PublicKey::RSA(rsa)) = spki.parsed() else {
            return refused("an RSA public key cannot be read".to_owned());
        };
        let bits = bits(rsa.modulus);
        let exponent = rsa.exponent.iter().skip_while(|byte| **byte == 0).count();
        if !RSA_BITS.contains(&bits) {
            return refused(format!("an RSA key has {bits} bits; 2048 to 8192 are taken"));
        }
        if exponent == 0 || exponent > RSA_EXPONENT_BYTES_MAX {
            return refused("an RSA key has an exponent of more than 32 bits or none".to_owned());
        }
        Ok(Self { kind: KeyKind::Rsa { bits }, raw })
    }

    /// Curve or size.
    pub const fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The uncompressed point of an EC key (0x04, x, y); nothing for RSA.
    pub fn point(&self) -> Option<&'a [u8]> {
        (!matches!(self.kind, KeyKind::Rsa { .. })).then_some(self.raw)
    }

    /// Checks `signature` over `message` as it was received.
    ///
    /// # Errors
    /// `signature_algorithm` when the algorithm is not for such a key, `signature_invalid`.
    pub fn verify(&self, algorithm: SignatureAlgorithm, message: &[u8], signature: &[u8]) -> Result<(), Refused> {
        use Hash::{Sha256, Sha384, Sha512};
        use SignatureAlgorithm::{Ecdsa, RsaPkcs1, RsaPss};
        let check: &'static dyn VerificationAlgorithm = match (self.kind, algorithm) {
            (KeyKind::P256, Ecdsa(Sha256)) => &ECDSA_P256_SHA256_ASN1,
            (KeyKind::P256, Ecdsa(Sha384)) => &ECDSA_P256_SHA384_ASN1,
            (KeyKind::P256, Ecdsa(Sha512)) => &ECDSA_P256_SHA512_ASN1,
            (KeyKind::P384, Ecdsa(Sha256)) => &ECDSA_P384_SHA256_ASN1,
            (KeyKind::P384, Ecdsa(Sha384)) => &ECDSA_P384_SHA384_ASN1,
            (KeyKind::P384, Ecdsa(Sha512)) => &ECDSA_P384_SHA512_ASN1,
            (KeyKind::P521, Ecdsa(Sha256)) => &ECDSA_P521_SHA256_ASN1,
            (KeyKind::P521, Ecdsa(Sha384)) => &ECDSA_P521_SHA384_ASN1,
            (KeyKind::P521, Ecdsa(Sha512)) => &ECDSA_P521_SHA512_ASN1,
            (KeyKind::Rsa { .. }, RsaPkcs1(Sha256)) => &RSA_PKCS1_2048_8192_SHA256,
            (KeyKind::Rsa { .. }, RsaPkcs1(Sha384)) => &RSA_PKCS1_2048_8192_SHA384,
            (KeyKind::Rsa { .. }, RsaPkcs1(Sha512)) => &RSA_PKCS1_2048_8192_SHA512,
            (KeyKind::Rsa { .. }, RsaPss(Sha256)) => &RSA_PSS_2048_8192_SHA256,
            (KeyKind::Rsa { .. }, RsaPss(Sha384)) => &RSA_PSS_2048_8192_SHA384,
            (KeyKind::Rsa { .. }, RsaPss(Sha512)) => &RSA_PSS_2048_8192_SHA512,
            (KeyKind::Rsa { .. }, Ecdsa(_)) | (_, RsaPkcs1(_) | RsaPss(_)) => {
                let kind = self.kind.name();
                return Err(Refused::new("signature_algorithm", format!("{algorithm:?} is not for a key of {kind}")));
            }
        };
        UnparsedPublicKey::new(check, self.raw)
            .verify(message, signature)
            .map_err(|_| Refused::new("signature_invalid", "a signature does not verify"))
    }
}

/// Significant bits of a big-endian number.
fn bits(number: &[u8]) -> usize {
    let mut significant = number.iter().skip_while(|byte| **byte == 0);
    let Some(first) = significant.next() else { return 0 };
    let top = usize::try_from(u8::BITS - first.leading_zeros()).unwrap_or(8);
    significant.count() * 8 + top
}

/// Checks a signature by the key of a DER SubjectPublicKeyInfo; for statements outside certificates.
///
/// # Errors
/// `key_unsupported`, `signature_algorithm`, `signature_invalid`.
pub fn verify_with_key(
    spki_der: &[u8],
    algorithm: SignatureAlgorithm,
    message: &[u8],
    signature: &[u8],
) -> Result<(), Refused> {
    match SubjectPublicKeyInfo::from_der(spki_der) {
        Ok(([], spki)) => Key::from_spki(&spki)?.verify(algorithm, message, signature),
        _ => Err(Refused::new("key_unsupported", "a public key is not a DER SubjectPublicKeyInfo")),
    }
}
