//! Credential activation (TPM 2.0, Part 1, section 24): a secret that only the chip with a given endorsement key can
//! open, and only for a key of a given name that it holds too.
//!
//! Who hands the secret back has proven that the attestation key lives beside the endorsement key.

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use zeroize::Zeroizing;

use super::super::Refused;
use super::hash::Hash;
use super::key;
use super::wire::{Numbers, Public, Symmetric, attribute};
use crate::crypto::{hmac_sha256, sha256};
use crate::kernel::Random;

/// The longest secret: a digest of the endorsement key's hash.
pub const SECRET_BYTES_MAX: usize = 32;
/// AES-128 in CFB.
const CIPHER: Symmetric = Symmetric { id: 0x0006, bits: 128, mode: 0x0043 };

/// A challenge for a TPM, each part with its own two bytes of length before it, as TPM2_ActivateCredential takes them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credential {
    /// TPM2B_ID_OBJECT.
    pub credential_blob: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET.
    pub encrypted_secret: Vec<u8>,
}

/// Wraps `secret` for the TPM with the endorsement key `ek_public` (TPMT_PUBLIC: RSA-2048 or P-256, names of SHA-256, the
/// cipher AES-128-CFB, as the TCG EK Credential Profile's templates L-1 and L-2 have it) and the key named `ak_name`.
///
/// # Errors
/// `malformed`, `ek_attributes`, `algorithm`, `malformed_key`, `secret_length`.
pub fn make_credential(
    ek_public: &[u8],
    ak_name: &[u8],
    secret: &[u8],
    random: &Random,
) -> Result<Credential, Refused> {
    let key = Public::parse(ek_public)?;
    check_endorsement_key(&key)?;
    if secret.is_empty() || secret.len() > SECRET_BYTES_MAX {
        return Err(Refused::new("secret_length", "A secret for activation has 1 to 32 bytes."));
    }
    let (seed, encrypted) = match &key.numbers {
        Numbers::Rsa { bits: 2048, .. } => seed_for_rsa(&key, random)?,
        Numbers::Ecc { curve: key::P256, x, y } => seed_for_p256(x, y, random)?,
        _ => return Err(Refused::new("algorithm", "The endorsement key is neither RSA-2048 nor on P-256.")),
    };
    let mut identity = Zeroizing::new(sized(secret)?);
    encrypt(&storage_key(&seed, ak_name), &mut identity)?;
    let tag = hmac_sha256(&*integrity_key(&seed), &[identity.as_slice(), ak_name].concat());
    let blob = [sized(&tag)?, identity.to_vec()].concat();
    Ok(Credential { credential_blob: sized(&blob)?, encrypted_secret: sized(&encrypted)? })
}

/// A restricted decryption key that its TPM made and keeps.
fn check_endorsement_key(key: &Public) -> Result<(), Refused> {
    use attribute::{DECRYPT, FIXED_PARENT, FIXED_TPM, RESTRICTED, SENSITIVE_DATA_ORIGIN, SIGN};
    let due = DECRYPT | FIXED_PARENT | FIXED_TPM | RESTRICTED | SENSITIVE_DATA_ORIGIN;
    if key.attributes & due != due || key.attributes & SIGN != 0 {
        return Err(Refused::new("ek_attributes", "The key does not have the attributes of an endorsement key."));
    }
    if key.name_hash != Hash::Sha256 || key.symmetric != Some(CIPHER) {
        return Err(Refused::new("algorithm", "The endorsement key is not one of SHA-256 and AES-128 in CFB."));
    }
    Ok(())
}

type Seed = Zeroizing<[u8; 32]>;

fn failed<E>(_: E) -> Refused {
    Refused::new("malformed_key", "The numbers of the endorsement key are not those of a usable key.")
}

/// Annex B.10.4: OAEP with the label that ends in a zero byte.
fn seed_for_rsa(key: &Public, random: &Random) -> Result<(Seed, Vec<u8>), Refused> {
    let mut seed = Seed::default();
    random.fill(&mut *seed);
    let public = PublicEncryptingKey::from_der(&key::spki_der(key)?).map_err(failed)?;
    let oaep = OaepPublicEncryptingKey::new(public).map_err(failed)?;
    let mut out = vec![0; oaep.ciphertext_size()];
    let length = oaep.encrypt(&OAEP_SHA256_MGF1SHA256, &*seed, &mut out, Some(b"IDENTITY\0")).map_err(failed)?.len();
    out.truncate(length);
    Ok((seed, out))
}

/// Annex C.6.4: one-pass ECDH with a key of the moment.
fn seed_for_p256(x: &[u8], y: &[u8], random: &Random) -> Result<(Seed, Vec<u8>), Refused> {
    let peer = key::sec1(x, y, 32).ok_or_else(|| failed(()))?;
    let ephemeral = ephemeral(random)?;
    let point = ephemeral.compute_public_key().map_err(failed)?;
    let ours = point.as_ref().get(1..33).ok_or_else(|| failed(()))?;
    let theirs = peer.get(1..33).ok_or_else(|| failed(()))?;
    let seed =
        agree(&ephemeral, UnparsedPublicKey::new(&ECDH_P256, &peer), failed(()), |z| Ok(kdf_e(z, ours, theirs)))?;
    let y = point.as_ref().get(33..).ok_or_else(|| failed(()))?;
    Ok((seed, [sized(ours)?, sized(y)?].concat()))
}

fn ephemeral(random: &Random) -> Result<PrivateKey, Refused> {
    let mut bytes = Zeroizing::new([0; 32]);
    // One in 2^32 drawn numbers is no key of the curve.
    for _ in 0..8 {
        random.fill(&mut *bytes);
        if let Ok(key) = PrivateKey::from_private_key(&ECDH_P256, &*bytes) {
            return Ok(key);
        }
    }
    Err(failed(()))
}

/// KDFe (Part 1, section 11.4.10.3) for 256 bits: one round of SHA-256.
fn kdf_e(z: &[u8], ours: &[u8], theirs: &[u8]) -> Seed {
    let input = Zeroizing::new([&[0, 0, 0, 1], z, b"IDENTITY\0", ours, theirs].concat());
    Zeroizing::new(sha256(&input))
}

/// KDFa (Part 1, section 11.4.10.2): one round of HMAC-SHA256, which is enough for up to 256 bits.
fn kdf_a(seed: &Seed, label: &[u8], context: &[u8], bits: u32) -> Zeroizing<[u8; 32]> {
    let input = [&[0, 0, 0, 1], label, &[0], context, &bits.to_be_bytes()].concat();
    Zeroizing::new(hmac_sha256(&**seed, &input))
}

fn storage_key(seed: &Seed, name: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(kdf_a(seed, b"STORAGE", name, 128).iter().take(16).copied().collect())
}

fn integrity_key(seed: &Seed) -> Zeroizing<[u8; 32]> {
    kdf_a(seed, b"INTEGRITY", &[], 256)
}

/// AES-128-CFB from a zero vector, which is safe because each key encrypts once.
fn encrypt(key: &[u8], data: &mut [u8]) -> Result<(), Refused> {
    let key = UnboundCipherKey::new(&AES_128, key).map_err(failed)?;
    let key = EncryptingKey::cfb128(key).map_err(failed)?;
    let start = EncryptionContext::Iv128(FixedLength::from([0; 16]));
    key.less_safe_encrypt(data, start).map_err(failed)?;
    Ok(())
}

/// A TPM2B.
fn sized(bytes: &[u8]) -> Result<Vec<u8>, Refused> {
    let length = u16::try_from(bytes.len()).map_err(failed)?;
    Ok([&length.to_be_bytes()[..], bytes].concat())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use aws_lc_rs::cipher::{DecryptingKey, DecryptionContext};
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::rsa::{KeySize, OaepPrivateDecryptingKey, PrivateDecryptingKey};
    use x509_parser::prelude::FromDer;
    use x509_parser::public_key::PublicKey;
    use x509_parser::x509::SubjectPublicKeyInfo;

    use super::*;

    /// The part that a TPM plays, written from the same sections the other way round.
    enum Chip {
        Rsa(PrivateDecryptingKey),
        P256(PrivateKey),
    }

    const EK: u32 = 0x0003_00b2;

    impl Chip {
        fn public(&self, attributes: u32, symmetric: [u16; 3]) -> Vec<u8> {
            let head = |kind: u16| {
                let mut out = [kind.to_be_bytes(), 0x000b_u16.to_be_bytes()].concat();
                out.extend(attributes.to_be_bytes());
                out.extend([0, 0]);
                out.extend(symmetric.iter().flat_map(|n| n.to_be_bytes()));
                out.extend(0x0010_u16.to_be_bytes());
                out
            };
            match self {
                Self::Rsa(key) => {
                    let der: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
                    let (_, spki) = SubjectPublicKeyInfo::from_der(der.as_ref()).unwrap();
                    let PublicKey::RSA(rsa) = spki.parsed().unwrap() else { unreachable!() };
                    let modulus = &rsa.modulus[rsa.modulus.len() - 256..];
                    [head(1), vec![8, 0, 0, 0, 0, 0], sized(modulus).unwrap()].concat()
                }
                Self::P256(key) => {
                    let point = key.compute_public_key().unwrap();
                    let (x, y) = (sized(&point.as_ref()[1..33]).unwrap(), sized(&point.as_ref()[33..]).unwrap());
                    [head(0x23), vec![0, 3, 0, 0x10], x, y].concat()
                }
            }
        }

        fn activate(&self, credential: &Credential, name: &[u8]) -> Option<Vec<u8>> {
            let encrypted = &credential.encrypted_secret[2..];
            let seed = match self {
                Self::Rsa(key) => {
                    let oaep = OaepPrivateDecryptingKey::new(key.clone()).ok()?;
                    let mut out = vec![0; oaep.min_output_size()];
                    let seed = oaep.decrypt(&OAEP_SHA256_MGF1SHA256, encrypted, &mut out, Some(b"IDENTITY\0")).ok()?;
                    Zeroizing::new(<[u8; 32]>::try_from(&*seed).ok()?)
                }
                Self::P256(key) => {
                    let theirs = [&[4], &encrypted[2..34], &encrypted[36..68]].concat();
                    let point = key.compute_public_key().ok()?;
                    let peer = UnparsedPublicKey::new(&ECDH_P256, &theirs);
                    agree(key, peer, (), |z| Ok(kdf_e(z, &theirs[1..33], &point.as_ref()[1..33]))).ok()?
                }
            };
            let blob = credential.credential_blob.get(2..)?;
            let (tag, identity) = (blob.strip_prefix(&[0, 32])?.get(..32)?, blob.get(34..)?);
            if hmac_sha256(&*integrity_key(&seed), &[identity, name].concat()) != tag {
                return None;
            }
            let key = UnboundCipherKey::new(&AES_128, &storage_key(&seed, name)).ok()?;
            let start = DecryptionContext::Iv128(FixedLength::from([0; 16]));
            let mut data = identity.to_vec();
            DecryptingKey::cfb128(key).ok()?.decrypt(&mut data, start).ok()?;
            Some(data[2..].to_vec())
        }
    }

    const AES: [u16; 3] = [6, 128, 0x43];

    fn chips() -> [Chip; 2] {
        let rsa = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
        [Chip::Rsa(rsa), Chip::P256(PrivateKey::generate(&ECDH_P256).unwrap())]
    }

    #[test]
    fn only_the_chip_with_both_keys_reads_the_secret() {
        let name = [&[0, 0x0b][..], &[7; 32]].concat();
        let mut other_name = name.clone();
        other_name[33] ^= 1;
        let random = Random::seeded(5);
        let (chips, others) = (chips(), self::chips());
        for (chip, other) in chips.iter().zip(&others) {
            for secret in [&[0x5a; 32][..], &[1]] {
                let made = make_credential(&chip.public(EK, AES), &name, secret, &random).unwrap();
                assert_eq!(chip.activate(&made, &name).as_deref(), Some(secret));
                assert_eq!(chip.activate(&made, &other_name), None, "for a key of another name");
                assert_eq!(other.activate(&made, &name), None, "in another chip");
                for at in 2..made.credential_blob.len() {
                    let mut turned = made.clone();
                    turned.credential_blob[at] ^= 1;
                    assert_eq!(chip.activate(&turned, &name), None, "with byte {at} changed");
                }
            }
        }
    }

    #[test]
    fn only_an_endorsement_key_of_the_known_templates_is_taken() {
        let random = Random::seeded(6);
        let [_, chip] = chips();
        for (public, secret, reason) in [
            (chip.public(EK & !attribute::RESTRICTED, AES), vec![1; 32], "ek_attributes"),
            (chip.public(EK & !attribute::FIXED_TPM, AES), vec![1; 32], "ek_attributes"),
            (chip.public(EK | attribute::SIGN, AES), vec![1; 32], "ek_attributes"),
            (chip.public(EK, [6, 256, 0x43]), vec![1; 32], "algorithm"),
            (chip.public(EK, [6, 128, 0x44]), vec![1; 32], "algorithm"),
            (chip.public(EK, AES), vec![1; 33], "secret_length"),
            (chip.public(EK, AES), vec![], "secret_length"),
            (vec![], vec![1], "malformed"),
        ] {
            let verdict = make_credential(&public, b"name", &secret, &random);
            assert_eq!(verdict.unwrap_err().reason, reason);
        }
    }
}
