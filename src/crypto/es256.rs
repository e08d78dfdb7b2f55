//! ES256: ECDSA on P-256 with SHA-256, signatures as raw r||s (RFC 7518, section 3.4).
//!
//! p256 makes, reads and writes keys. Signing and verifying go through the TLS provider's implementation, which is
//! several times faster and gives the same verdicts. A signature has its own randomness: no text may count on being the
//! same twice. A signature with a high s is accepted, as JWS wants it and phones make it: therefore the text of a token
//! never serves as a replay key.
//! Knows nothing of tokens and headers.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, ParsedPublicKey};
use base64ct::{Base64UrlUnpadded, Encoding};
use p256::ecdsa::signature::Signer;
use p256::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, LineEnding};
use zeroize::Zeroizing;

use super::{Jwk, sha256};
use crate::kernel::Random;

/// Why something is not an ES256 key. The text repeats nothing of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 65 bytes beginning with 04: compressed and hybrid forms are refused.
    #[error("the public key is not an uncompressed P-256 point of 65 bytes")]
    Form,
    /// The coordinates are no point of the curve.
    #[error("the public key is not a point of P-256")]
    NotOnCurve,
    /// Not a PKCS#8 PEM of a P-256 private key.
    #[error("the private key is not a PKCS#8 PEM of a P-256 key")]
    Pem,
    /// Not an SPKI PEM of a P-256 public key.
    #[error("the public key is not an SPKI PEM of a P-256 key")]
    PublicPem,
    /// A JWK that is not a public ES256 key; the text says why.
    #[error("the JWK {0}")]
    Jwk(&'static str),
}

/// A private ES256 key. Wiped from memory when dropped; its `Debug` shows the key id only.
pub struct SigningKey {
    inner: p256::ecdsa::SigningKey,
    fast: EcdsaKeyPair,
    verifying: VerifyingKey,
    kid: String,
}

impl SigningKey {
    /// A fresh key.
    pub fn generate(random: &Random) -> Self {
        loop {
            // All but one in 2^32 draws are below the order of the curve.
            let secret = Zeroizing::new(random.bytes::<32>());
            if let Ok(inner) = p256::ecdsa::SigningKey::from_slice(secret.as_slice())
                && let Ok(key) = Self::from_inner(inner)
            {
                return key;
            }
        }
    }

    /// Reads an unencrypted PKCS#8 PEM (RFC 5208, RFC 7468).
    ///
    /// # Errors
    /// [`KeyError::Pem`].
    pub fn from_pkcs8_pem(pem: &str) -> Result<Self, KeyError> {
        let inner = p256::ecdsa::SigningKey::from_pkcs8_pem(pem).map_err(|_| KeyError::Pem)?;
        Self::from_inner(inner)
    }

    /// Writes an unencrypted PKCS#8 PEM; the text is wiped when dropped.
    ///
    /// # Errors
    /// [`KeyError::Pem`] when the encoder fails, which only a defect can cause.
    pub fn to_pkcs8_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        self.inner.to_pkcs8_pem(LineEnding::LF).map_err(|_| KeyError::Pem)
    }

    fn from_inner(inner: p256::ecdsa::SigningKey) -> Result<Self, KeyError> {
        let point = inner.verifying_key().to_sec1_point(false);
        let verifying = VerifyingKey::from_sec1(point.as_bytes())?;
        let kid = verifying.thumbprint();
        let der = inner.to_pkcs8_der().map_err(|_| KeyError::Pem)?;
        let fast = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.as_bytes());
        Ok(Self { inner, fast: fast.map_err(|_| KeyError::Pem)?, verifying, kid })
    }

    /// Signs SHA-256 of `message`: 64 bytes r||s.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signed = self.fast.sign(&SystemRandom::new(), message).ok();
        // The provider fails only without randomness, which the other way of signing does not need.
        signed.and_then(|s| s.as_ref().try_into().ok()).unwrap_or_else(|| self.sign_without_randomness(message))
    }

    /// RFC 6979: the same signature for the same message.
    fn sign_without_randomness(&self, message: &[u8]) -> [u8; 64] {
        let signature: p256::ecdsa::Signature = self.inner.sign(message);
        signature.to_bytes().into()
    }

    /// The public half.
    pub fn verifying(&self) -> &VerifyingKey {
        &self.verifying
    }

    /// The key id: the JWK thumbprint (RFC 7638) of the public half.
    pub fn kid(&self) -> &str {
        &self.kid
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.kid)
    }
}

/// A public ES256 key that is known to be a point of the curve. Cheap to clone.
#[derive(Clone)]
pub struct VerifyingKey {
    sec1: [u8; 65],
    parsed: ParsedPublicKey,
}

impl VerifyingKey {
    /// Reads an uncompressed point (SEC 1, section 2.3.4): 04, x, y.
    ///
    /// # Errors
    /// [`KeyError::Form`] or [`KeyError::NotOnCurve`].
    pub fn from_sec1(bytes: &[u8]) -> Result<Self, KeyError> {
        let sec1: [u8; 65] = bytes.try_into().map_err(|_| KeyError::Form)?;
        // The parser behind would take other forms too.
        if sec1.first() != Some(&4) {
            return Err(KeyError::Form);
        }
        let parsed = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, sec1).map_err(|_| KeyError::NotOnCurve)?;
        Ok(Self { sec1, parsed })
    }

    /// Reads a SubjectPublicKeyInfo PEM (RFC 5280, RFC 7468), as `openssl pkey -pubout` writes it.
    ///
    /// # Errors
    /// [`KeyError::PublicPem`].
    pub fn from_spki_pem(pem: &str) -> Result<Self, KeyError> {
        let key = p256::PublicKey::from_public_key_pem(pem).map_err(|_| KeyError::PublicPem)?;
        let point = p256::ecdsa::VerifyingKey::from(key).to_sec1_point(false);
        Self::from_sec1(point.as_bytes())
    }

    /// Writes a SubjectPublicKeyInfo PEM.
    ///
    /// # Errors
    /// [`KeyError::PublicPem`] when the encoder fails, which only a defect can cause.
    pub fn to_spki_pem(&self) -> Result<String, KeyError> {
        let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&self.sec1).map_err(|_| KeyError::PublicPem)?;
        key.to_public_key_pem(LineEnding::LF).map_err(|_| KeyError::PublicPem)
    }

    /// The key that a JWK describes.
    ///
    /// # Errors
    /// [`KeyError::NotOnCurve`], [`KeyError::Jwk`].
    pub fn from_jwk(jwk: &Jwk) -> Result<Self, KeyError> {
        let mut sec1 = [4_u8; 65];
        let (_, xy) = sec1.split_at_mut(1);
        let (x, y) = xy.split_at_mut(32);
        for (text, out) in [(jwk.x(), x), (jwk.y(), y)] {
            let decoded = Base64UrlUnpadded::decode(text, out).map_err(|_| KeyError::Jwk("has a bad coordinate"))?;
            if decoded.len() != 32 {
                return Err(KeyError::Jwk("has a coordinate that is not 32 bytes"));
            }
        }
        Self::from_sec1(&sec1)
    }

    /// The uncompressed point.
    pub fn to_sec1(&self) -> [u8; 65] {
        self.sec1
    }

    /// The bare JWK: `kty`, `crv`, `x`, `y`.
    pub fn to_jwk(&self) -> Jwk {
        let (_, xy) = self.sec1.split_at(1);
        let (x, y) = xy.split_at(32);
        Jwk::bare(Base64UrlUnpadded::encode_string(x), Base64UrlUnpadded::encode_string(y))
    }

    /// The JWK thumbprint (RFC 7638) by SHA-256 in base64url: 43 characters.
    pub fn thumbprint(&self) -> String {
        let jwk = self.to_jwk();
        // Both coordinates are base64url, so nothing needs escaping.
        let text = format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, jwk.x(), jwk.y());
        Base64UrlUnpadded::encode_string(&sha256(text.as_bytes()))
    }

    /// Whether `signature` (r||s) over SHA-256 of `message` is this key's. A zero r or s is refused before any
    /// arithmetic (CVE-2022-21449).
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let (r, s) = signature.split_at(32);
        let zero = |half: &[u8]| half.iter().all(|b| *b == 0);
        !zero(r) && !zero(s) && self.parsed.verify_sig(message, signature).is_ok()
    }
}

impl PartialEq for VerifyingKey {
    fn eq(&self, other: &Self) -> bool {
        self.sec1 == other.sec1
    }
}

impl Eq for VerifyingKey {}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", self.thumbprint())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn a_key_survives_its_pem_and_signs_what_its_public_half_verifies() {
        let random = Random::seeded(7);
        let key = SigningKey::generate(&random);
        let pem = key.to_pkcs8_pem().unwrap();
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));
        let again = SigningKey::from_pkcs8_pem(&pem).unwrap();
        assert_eq!(again.kid(), key.kid());
        assert!(key.verifying().verify(b"x", &again.sign(b"x")));
        assert!(key.verifying().verify(b"x", &again.sign_without_randomness(b"x")));
        assert_ne!(SigningKey::generate(&random).kid(), key.kid());
        assert!(key.verifying().verify(b"x", &key.sign(b"x")));
        assert!(!key.verifying().verify(b"y", &key.sign(b"x")));
        assert!(!format!("{key:?}").contains("PRIVATE"));
    }

    /// The public half travels as `openssl pkey -pubout` writes it; a private key is not taken for one.
    #[test]
    fn a_public_half_survives_its_pem() {
        let key = SigningKey::generate(&Random::seeded(7));
        let pem = key.verifying().to_spki_pem().unwrap();
        assert!(pem.starts_with("-----BEGIN PUBLIC KEY-----\n"));
        assert_eq!(VerifyingKey::from_spki_pem(&pem).unwrap().thumbprint(), key.kid());
        let private = key.to_pkcs8_pem().unwrap();
        for bad in ["", "x", private.as_str(), &pem[..pem.len() / 2]] {
            assert_eq!(VerifyingKey::from_spki_pem(bad).unwrap_err(), KeyError::PublicPem);
        }
        assert_eq!(SigningKey::from_pkcs8_pem(&pem).unwrap_err(), KeyError::Pem);
    }

    /// RFC 6979, appendix A.2.5: P-256 with SHA-256, messages "sample" and "test".
    #[test]
    fn signing_without_randomness_gives_what_rfc_6979_prints() {
        let secret = unhex("C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721");
        let key = SigningKey::from_inner(p256::ecdsa::SigningKey::from_slice(&secret).unwrap()).unwrap();
        for (message, r, s) in [
            (
                "sample",
                "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716",
                "F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8",
            ),
            (
                "test",
                "F1ABB023518351CD71D881567B1EA663ED3EFCF6C5132B354F28D3B0B7D38367",
                "019F4113742A2B14BD25926B49C649155F267E60D3814B4C0CC84250E46F0083",
            ),
        ] {
            assert_eq!(
                key.sign_without_randomness(message.as_bytes()).to_vec(),
                [unhex(r), unhex(s)].concat(),
                "{message}"
            );
        }
    }

    #[test]
    fn only_an_uncompressed_point_of_the_curve_is_a_key() {
        let key = SigningKey::generate(&Random::seeded(8));
        let good = key.verifying().to_sec1();
        assert!(VerifyingKey::from_sec1(&good).is_ok());
        let mut compressed = good[..33].to_vec();
        compressed[0] = 2 + (good[64] & 1);
        let mut hybrid = good;
        hybrid[0] = 6 + (good[64] & 1);
        let mut padded = good.to_vec();
        padded.push(0);
        for bad in [&compressed[..], &hybrid, &padded, &good[..64], &[], &[0]] {
            assert_eq!(VerifyingKey::from_sec1(bad).unwrap_err(), KeyError::Form);
        }
        let mut off_curve = good;
        off_curve[64] ^= 1;
        let mut zero = [0; 65];
        zero[0] = 4;
        let mut too_large = [0xff; 65];
        too_large[0] = 4;
        for bad in [off_curve, zero, too_large] {
            assert_eq!(VerifyingKey::from_sec1(&bad).unwrap_err(), KeyError::NotOnCurve);
        }
    }

    #[test]
    fn a_zero_half_never_verifies() {
        let key = SigningKey::generate(&Random::seeded(9));
        let good = key.sign(b"m");
        for (from, to) in [(0, 32), (32, 64), (0, 64)] {
            let mut bad = good;
            bad[from..to].fill(0);
            assert!(!key.verifying().verify(b"m", &bad));
        }
    }

    #[test]
    fn what_is_no_key_is_refused_without_a_panic() {
        for bad in ["", "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", "x"] {
            assert_eq!(SigningKey::from_pkcs8_pem(bad).unwrap_err(), KeyError::Pem);
        }
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }
}
