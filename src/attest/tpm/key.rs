//! Keys of a TPM as signers: which algorithms count, and whether a signature is theirs.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    ECDSA_P521_SHA512_ASN1, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RsaParameters,
    VerificationAlgorithm,
};

use super::super::Refused;
use super::hash::Hash;
use super::wire::{Numbers, Public, Signature, SignatureValue, alg, attribute};

/// Bits of an RSA modulus, both included.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// TPM_ECC_NIST_P256 and so on.
pub(crate) const P256: u16 = 3;
const P384: u16 = 4;
const P521: u16 = 5;

fn algorithm(detail: &str) -> Refused {
    Refused::new("algorithm", detail)
}

/// Demands what makes a key an attestation key (TPM 2.0, Part 1, section 36): made in its TPM, never leaving it, and
/// refusing to sign what only looks like a statement of the TPM.
///
/// # Errors
/// `ak_attributes`.
pub fn check_attestation_key(key: &Public) -> Result<(), Refused> {
    use attribute::{DECRYPT, FIXED_PARENT, FIXED_TPM, RESTRICTED, SENSITIVE_DATA_ORIGIN, SIGN};
    for (bit, name) in [
        (RESTRICTED, "restricted"),
        (SIGN, "sign"),
        (FIXED_TPM, "fixedTPM"),
        (FIXED_PARENT, "fixedParent"),
        (SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin"),
    ] {
        if key.attributes & bit == 0 {
            return Err(Refused::new("ak_attributes", format!("The attestation key lacks the attribute {name}.")));
        }
    }
    if key.attributes & DECRYPT != 0 {
        return Err(Refused::new("ak_attributes", "The attestation key may also decrypt."));
    }
    if key.scheme.is_none() {
        return Err(Refused::new("ak_attributes", "The attestation key has no fixed scheme, though it is restricted."));
    }
    if key.name_hash == Hash::Sha1 {
        return Err(algorithm("The attestation key's name is made with SHA-1."));
    }
    Ok(())
}

/// Whether `signature` over `message` is the key's, by an algorithm that counts: RSA of 2048 to 4096 bits or P-256 and
/// P-384, with SHA-256 or SHA-384. `allow_sha1` admits RSASSA with SHA-1 besides. RSAPSS has a salt as long as the hash.
///
/// # Errors
/// `algorithm`, `malformed_key`, `signature`.
pub fn verify(key: &Public, signature: &Signature, message: &[u8], allow_sha1: bool) -> Result<(), Refused> {
    if key.scheme.is_some_and(|s| s.id != signature.scheme || s.hash != Some(signature.hash)) {
        return Err(algorithm("The signature has another scheme or hash than its key."));
    }
    let hash = Hash::from_tpm_id(signature.hash).ok_or_else(|| algorithm("The signature's hash is not known here."))?;
    let forged = || Refused::new("signature", "The signature is not the attestation key's.");
    match (&key.numbers, &signature.value) {
        (Numbers::Rsa { modulus, exponent, bits }, SignatureValue::Rsa(value)) => {
            let parameters = match (signature.scheme, hash) {
                (alg::RSASSA, Hash::Sha256) => &RSA_PKCS1_2048_8192_SHA256,
                (alg::RSASSA, Hash::Sha384) => &RSA_PKCS1_2048_8192_SHA384,
                (alg::RSAPSS, Hash::Sha256) => &RSA_PSS_2048_8192_SHA256,
                (alg::RSAPSS, Hash::Sha384) => &RSA_PSS_2048_8192_SHA384,
                (alg::RSASSA, Hash::Sha1) if allow_sha1 => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
                _ => return Err(algorithm("RSA signatures of this scheme or hash are not accepted.")),
            };
            rsa(modulus, *exponent, *bits, parameters)?.verify_sig(message, value).map_err(|_| forged())
        }
        (Numbers::Ecc { curve, x, y }, SignatureValue::Ecdsa { r, s }) => {
            let (parameters, size): (&'static dyn VerificationAlgorithm, usize) = match (*curve, hash) {
                (P256, Hash::Sha256) => (&ECDSA_P256_SHA256_ASN1, 32),
                (P256, Hash::Sha384) => (&ECDSA_P256_SHA384_ASN1, 32),
                (P384, Hash::Sha256) => (&ECDSA_P384_SHA256_ASN1, 48),
                (P384, Hash::Sha384) => (&ECDSA_P384_SHA384_ASN1, 48),
                _ => return Err(algorithm("ECDSA signatures on this curve or with this hash are not accepted.")),
            };
            let der = ecdsa_der(r, s, size).ok_or_else(forged)?;
            ecc(x, y, parameters, size)?.verify_sig(message, &der).map_err(|_| forged())
        }
        _ => Err(algorithm("The signature is of another kind than its key.")),
    }
}

/// The key as DER SubjectPublicKeyInfo, for comparing with other shapes of the same key.
///
/// # Errors
/// `algorithm` for a size or curve that does not count, `malformed_key` for numbers that are no key.
pub fn spki_der(key: &Public) -> Result<Vec<u8>, Refused> {
    let parsed = match &key.numbers {
        Numbers::Rsa { modulus, exponent, bits } => rsa(modulus, *exponent, *bits, &RSA_PKCS1_2048_8192_SHA256)?,
        Numbers::Ecc { curve: P256, x, y } => ecc(x, y, &ECDSA_P256_SHA256_ASN1, 32)?,
        Numbers::Ecc { curve: P384, x, y } => ecc(x, y, &ECDSA_P384_SHA384_ASN1, 48)?,
        Numbers::Ecc { curve: P521, x, y } => ecc(x, y, &ECDSA_P521_SHA512_ASN1, 66)?,
        Numbers::Ecc { .. } => return Err(algorithm("Keys on this curve are not accepted.")),
    };
    let der: PublicKeyX509Der<'_> = parsed.as_der().map_err(|_| unusable())?;
    Ok(der.as_ref().to_vec())
}

fn unusable() -> Refused {
    Refused::new("malformed_key", "The numbers of the key are not those of a usable key.")
}

fn rsa(
    modulus: &[u8],
    exponent: u32,
    bits: u16,
    parameters: &'static RsaParameters,
) -> Result<ParsedPublicKey, Refused> {
    let (Some(first), Some(last)) = (modulus.first(), modulus.last()) else { return Err(unusable()) };
    let length = (modulus.len() * 8).saturating_sub(first.leading_zeros() as usize);
    if *first == 0 || length != usize::from(bits) || last % 2 == 0 || exponent != 65_537 {
        return Err(unusable());
    }
    if !RSA_BITS.contains(&length) {
        return Err(algorithm("RSA keys have 2048 to 4096 bits here."));
    }
    let exponent: &[u8] = &[1, 0, 1];
    PublicKeyComponents { n: modulus, e: exponent }.to_parsed_public_key(parameters).map_err(|_| unusable())
}

fn ecc(
    x: &[u8],
    y: &[u8],
    parameters: &'static dyn VerificationAlgorithm,
    size: usize,
) -> Result<ParsedPublicKey, Refused> {
    let point = sec1(x, y, size).ok_or_else(unusable)?;
    ParsedPublicKey::new(parameters, &point).map_err(|_| unusable())
}

/// 04, x, y, each brought to the size of the curve.
pub(crate) fn sec1(x: &[u8], y: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut out = vec![4];
    for number in [x, y] {
        out.resize(out.len() + size.checked_sub(number.len())?, 0);
        out.extend_from_slice(number);
    }
    Some(out)
}

/// The DER form of an ECDSA signature (RFC 3279, section 2.2.3): made of the received numbers, which say the same.
fn ecdsa_der(r: &[u8], s: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    for number in [r, s] {
        if number.len() > size {
            return None;
        }
        let digits = number.get(number.iter().position(|b| *b != 0)?..)?;
        let sign = digits.first().is_some_and(|b| *b >= 0x80);
        body.extend_from_slice(&[2, u8::try_from(digits.len() + usize::from(sign)).ok()?]);
        body.extend(sign.then_some(0));
        body.extend_from_slice(digits);
    }
    // Two numbers of 48 bytes stay below the 128 bytes that need a longer length.
    let length = u8::try_from(body.len()).ok().filter(|n| *n < 0x80)?;
    Some([&[0x30, length], body.as_slice()].concat())
}
