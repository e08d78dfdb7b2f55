//! Public keys as COSE_Key (RFC 9052, section 7; RFC 9053, section 7) in the shapes that WebAuthn allows, and their
//! signatures.
//!
//! A key names its one algorithm, and the algorithm fixes type, curve and hash (Web Authentication Level 3, section
//! 5.8.5): nothing is left for a signature to choose. ECDSA signatures are ASN.1 DER here, not the raw r||s of JWS.
//! Knows nothing of credentials and ceremonies.

use std::fmt;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ECDSA_P521_SHA512_ASN1, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};

use super::cbor::{self, CborError, Value};

/// Bits of an RSA modulus, both included.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// Bytes of an RSA exponent; nearly everybody's is 65,537.
const RSA_EXPONENT_BYTES_MAX: usize = 4;

// Labels of RFC 9052, table 4, and RFC 9053, tables 19 and 20; those of RSA are RFC 8230, table 4.
const KTY: i64 = 1;
const ALG: i64 = 3;
const CRV: i64 = -1;
const X: i64 = -2;
const Y: i64 = -3;
const EC_PRIVATE: i64 = -4;
const RSA_N: i64 = -1;
const RSA_E: i64 = -2;
const RSA_PRIVATE: i64 = -3;

/// The points of Ed25519 whose order divides eight, by y in little-endian without the sign, also beyond the field's
/// prime. Under such a key one signature would hold for many messages.
const ED25519_SMALL_ORDER: [[u8; 32]; 7] = [
    near_zero(0),
    near_zero(1),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
    near_prime(0xec),
    near_prime(0xed),
    near_prime(0xee),
];

const fn near_zero(y: u8) -> [u8; 32] {
    let mut bytes = [0; 32];
    let [first, ..] = &mut bytes;
    *first = y;
    bytes
}

/// 2^255 - 19 ends in 0xed.
const fn near_prime(lowest: u8) -> [u8; 32] {
    let mut bytes = [0xff; 32];
    let [first, .., last] = &mut bytes;
    *first = lowest;
    *last = 0x7f;
    bytes
}

/// A signature algorithm that a credential may have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// ECDSA on P-521 with SHA-512.
    Es512,
    /// EdDSA on Ed25519.
    EdDsa,
    /// RSASSA-PKCS1-v1_5 with SHA-256, moduli of 2048 to 4096 bits.
    Rs256,
}

impl Algorithm {
    /// All of them, in the order in which they are best offered to an authenticator.
    pub const ALL: [Self; 5] = [Self::Es256, Self::EdDsa, Self::Es384, Self::Es512, Self::Rs256];

    /// The number in IANA's registry of COSE algorithms, as `pubKeyCredParams` wants it.
    pub const fn cose_id(self) -> i64 {
        match self {
            Self::Es256 => -7,
            Self::EdDsa => -8,
            Self::Es384 => -35,
            Self::Es512 => -36,
            Self::Rs256 => -257,
        }
    }

    /// The algorithm of that number.
    pub fn from_cose_id(id: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.cose_id() == id)
    }

    /// Type and curve that a key of this algorithm must have (section 5.8.5); RSA has no curve.
    const fn key_shape(self) -> (i64, Option<i64>) {
        const OKP: i64 = 1;
        const EC2: i64 = 2;
        const RSA: i64 = 3;
        match self {
            Self::Es256 => (EC2, Some(1)),
            Self::Es384 => (EC2, Some(2)),
            Self::Es512 => (EC2, Some(3)),
            Self::EdDsa => (OKP, Some(6)),
            Self::Rs256 => (RSA, None),
        }
    }
}

/// Why bytes are not a public key that is taken. The text repeats nothing of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CoseError {
    /// Not one CBOR map.
    #[error("the key {0}")]
    Cbor(#[from] CborError),
    /// Not a map, or a member of another type than is due.
    #[error("the key is not a COSE key")]
    Form,
    /// No `alg`, or one that nothing here verifies.
    #[error("the key's algorithm is not supported")]
    Algorithm,
    /// `kty` or `crv` are not those of `alg`.
    #[error("the key's type or curve does not fit its algorithm")]
    Mismatch,
    /// A private key where a public one is due.
    #[error("the key is a private one")]
    Private,
    /// A coordinate, modulus or exponent of another length, with leading zeros, or compressed.
    #[error("a number of the key has the wrong size")]
    Size,
    /// No point of the curve, a point of small order, an even modulus or exponent.
    #[error("the key's numbers are not those of a usable key")]
    Unusable,
}

/// A public key with its one algorithm. Cheap to clone beside its bytes; its `Debug` shows the algorithm only.
#[derive(Clone)]
pub struct CoseKey {
    algorithm: Algorithm,
    raw: Vec<u8>,
    parsed: ParsedPublicKey,
    p256_point: Option<[u8; 65]>,
}

impl CoseKey {
    /// Reads the key that `bytes` are. Members that are not known are passed over.
    ///
    /// A point of Ed25519 that is none of the curve is found only when it is to verify something, which it never does.
    ///
    /// # Errors
    /// [`CoseError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, CoseError> {
        let (key, consumed) = Self::parse_prefix(bytes)?;
        if consumed == bytes.len() { Ok(key) } else { Err(CborError::Trailing.into()) }
    }

    /// Reads the key that `bytes` begin with, and says how many bytes it took.
    ///
    /// # Errors
    /// [`CoseError`].
    pub fn parse_prefix(bytes: &[u8]) -> Result<(Self, usize), CoseError> {
        let (map, consumed) = cbor::read_prefix(bytes)?;
        if map.as_map().is_none() {
            return Err(CoseError::Form);
        }
        let number = |label| map.label(label).and_then(Value::as_i64);
        let algorithm = number(ALG).and_then(Algorithm::from_cose_id).ok_or(CoseError::Algorithm)?;
        let (kty, crv) = algorithm.key_shape();
        if number(KTY) != Some(kty) || crv.is_some() && number(CRV) != crv {
            return Err(CoseError::Mismatch);
        }
        let private = if algorithm == Algorithm::Rs256 { RSA_PRIVATE } else { EC_PRIVATE };
        if map.label(private).is_some() {
            return Err(CoseError::Private);
        }
        let mut p256_point = None;
        let parsed = match algorithm {
            Algorithm::Es256 => {
                let point = sec1(&map, 32)?;
                p256_point = point.as_slice().try_into().ok();
                usable(&ECDSA_P256_SHA256_ASN1, &point)?
            }
            Algorithm::Es384 => usable(&ECDSA_P384_SHA384_ASN1, &sec1(&map, 48)?)?,
            Algorithm::Es512 => usable(&ECDSA_P521_SHA512_ASN1, &sec1(&map, 66)?)?,
            Algorithm::EdDsa => ed25519(&map)?,
            Algorithm::Rs256 => rsa(&map)?,
        };
        let raw = bytes.get(..consumed).ok_or(CborError::Truncated)?.to_vec();
        Ok((Self { algorithm, raw, parsed, p256_point }, consumed))
    }

    /// The algorithm of its signatures.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The key as it came, for storing; [`CoseKey::parse`] takes it again.
    pub fn as_bytes(&self) -> &[u8] {
        &self.raw
    }

    /// The uncompressed point (SEC 1, section 2.3.4) of an ES256 key.
    pub const fn p256_point(&self) -> Option<&[u8; 65]> {
        self.p256_point.as_ref()
    }

    /// The key as DER SubjectPublicKeyInfo (RFC 5280, section 4.1), for comparing with a certificate's.
    /// `None` only when the encoder fails.
    pub fn to_spki_der(&self) -> Option<Vec<u8>> {
        let der: PublicKeyX509Der<'_> = self.parsed.as_der().ok()?;
        Some(der.as_ref().to_vec())
    }

    /// Whether `signature` over `message` is this key's: ASN.1 DER for ECDSA, 64 raw bytes for EdDSA, as long as the
    /// modulus for RSA.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        self.parsed.verify_sig(message, signature).is_ok()
    }
}

impl fmt::Debug for CoseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CoseKey({:?})", self.algorithm)
    }
}

fn usable(algorithm: &'static dyn VerificationAlgorithm, key: &[u8]) -> Result<ParsedPublicKey, CoseError> {
    ParsedPublicKey::new(algorithm, key).map_err(|_| CoseError::Unusable)
}

fn bytes_at(map: &Value, label: i64) -> Result<&[u8], CoseError> {
    map.label(label).and_then(Value::as_bytes).ok_or(CoseError::Form)
}

/// 04, x, y. A compressed point has a Boolean for y, which is refused as not being bytes.
fn sec1(map: &Value, size: usize) -> Result<Vec<u8>, CoseError> {
    let (x, y) = (bytes_at(map, X)?, bytes_at(map, Y)?);
    if x.len() != size || y.len() != size {
        return Err(CoseError::Size);
    }
    Ok([&[4], x, y].concat())
}

fn ed25519(map: &Value) -> Result<ParsedPublicKey, CoseError> {
    let x: [u8; 32] = bytes_at(map, X)?.try_into().map_err(|_| CoseError::Size)?;
    let mut y = x;
    let [.., last] = &mut y;
    *last &= 0x7f;
    if ED25519_SMALL_ORDER.contains(&y) {
        return Err(CoseError::Unusable);
    }
    usable(&ED25519, &x)
}

fn rsa(map: &Value) -> Result<ParsedPublicKey, CoseError> {
    let (n, e) = (bytes_at(map, RSA_N)?, bytes_at(map, RSA_E)?);
    let (Some(n_first), Some(n_last)) = (n.first(), n.last()) else { return Err(CoseError::Size) };
    let (Some(e_first), Some(e_last)) = (e.first(), e.last()) else { return Err(CoseError::Size) };
    let bits = (n.len() * 8).saturating_sub(n_first.leading_zeros() as usize);
    if *n_first == 0 || !RSA_BITS.contains(&bits) || *e_first == 0 || e.len() > RSA_EXPONENT_BYTES_MAX {
        return Err(CoseError::Size);
    }
    if n_last % 2 == 0 || e_last % 2 == 0 || e == [1] {
        return Err(CoseError::Unusable);
    }
    PublicKeyComponents { n, e }.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).map_err(|_| CoseError::Unusable)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::crypto::SigningKey;
    use crate::kernel::Random;

    enum Part {
        Number(i64),
        Bytes(Vec<u8>),
        Yes,
    }
    use Part::{Bytes, Number, Yes};

    fn map(members: &[(i64, Part)]) -> Vec<u8> {
        let mut e = minicbor::Encoder::new(Vec::new());
        e.map(u64::try_from(members.len()).unwrap()).unwrap();
        for (label, part) in members {
            e.i64(*label).unwrap();
            match part {
                Number(n) => e.i64(*n).unwrap(),
                Bytes(b) => e.bytes(b).unwrap(),
                Yes => e.bool(true).unwrap(),
            };
        }
        e.into_writer()
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    fn curve(kty: i64, alg: i64, crv: i64, x: Vec<u8>, y: Vec<u8>) -> Vec<u8> {
        map(&[(1, Number(kty)), (3, Number(alg)), (-1, Number(crv)), (-2, Bytes(x)), (-3, Bytes(y))])
    }

    fn okp(x: Vec<u8>) -> Vec<u8> {
        map(&[(1, Number(1)), (3, Number(-8)), (-1, Number(6)), (-2, Bytes(x))])
    }

    fn rsa_key(n: Vec<u8>, e: &[u8]) -> Vec<u8> {
        map(&[(1, Number(3)), (3, Number(-257)), (-1, Bytes(n)), (-2, Bytes(e.to_vec()))])
    }

    /// RFC 6979, appendix A.2.6 (message "sample", SHA-384), and RFC 8032, section 7.1, test 1 (empty message).
    #[test]
    fn printed_signatures_verify() {
        let es384 = curve(
            2,
            -35,
            2,
            unhex("EC3A4E415B4E19A4568618029F427FA5DA9A8BC4AE92E02E06AAE5286B300C64DEF8F0EA9055866064A254515480BC13"),
            unhex("8015D9B72D7D57244EA8EF9AC0C621896708A59367F9DFB9F54CA84B3F1C9DB1288B231C3AE0D4FE7344FD2533264720"),
        );
        // Both halves begin with a set bit: each INTEGER has a zero before it.
        let es384_signature = unhex(concat!(
            "3066023100",
            "94EDBB92A5ECB8AAD4736E56C691916B3F88140666CE9FA73D64C4EA95AD133C81A648152E44ACF96E36DD1E80FABE46",
            "023100",
            "99EF4AEB15F178CEA1FE40DB2603138F130E740A19624526203B6351D0A3A94FA329C145786E679E7B82C71A38628AC8",
        ));
        let ed25519 = okp(unhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"));
        let ed25519_signature = unhex(concat!(
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b",
            "d25bf5f0595bbe24655141438e7a100b",
        ));
        for (cose, algorithm, message, signature) in [
            (es384, Algorithm::Es384, &b"sample"[..], es384_signature),
            (ed25519, Algorithm::EdDsa, b"", ed25519_signature),
        ] {
            let key = CoseKey::parse(&cose).unwrap();
            assert_eq!((key.algorithm(), key.as_bytes()), (algorithm, &cose[..]));
            assert!(key.verify(message, &signature));
            assert!(!key.verify(b"another", &signature));
            for at in 0..signature.len() {
                let mut bad = signature.clone();
                bad[at] ^= 1;
                assert!(!key.verify(message, &bad), "{algorithm:?} with byte {at} changed");
            }
            assert!(!key.verify(message, &[]));
            assert!(!key.verify(message, &[&signature[..], &[0]].concat()), "{algorithm:?} with a byte more");
        }
    }

    #[test]
    fn only_a_key_that_fits_its_algorithm_is_taken() {
        use CoseError::{Algorithm, Form, Mismatch, Private, Size, Unusable};
        let point = SigningKey::generate(&Random::seeded(1)).verifying().to_sec1();
        let (x, y) = (point[1..33].to_vec(), point[33..].to_vec());
        let mut off = y.clone();
        off[31] ^= 1;
        let with = |more: (i64, Part)| {
            map(&[
                (1, Number(2)),
                (3, Number(-7)),
                (-1, Number(1)),
                (-2, Bytes(x.clone())),
                (-3, Bytes(y.clone())),
                more,
            ])
        };
        let good = curve(2, -7, 1, x.clone(), y.clone());
        let ed = unhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        let n = |bytes: usize, first: u8, last: u8| [vec![first], vec![0x5a; bytes - 2], vec![last]].concat();
        for (cose, fault) in [
            (b"\x80".to_vec(), Form),
            (b"\x01".to_vec(), Form),
            (vec![], CborError::Truncated.into()),
            (vec![0xa2, 1, 2, 1, 2], CborError::DuplicateKey.into()),
            ([&good[..], &[0]].concat(), CborError::Trailing.into()),
            (map(&[]), Algorithm),
            (curve(2, -47, 8, x.clone(), y.clone()), Algorithm),
            (curve(2, -65535, 1, x.clone(), y.clone()), Algorithm),
            // ES256 with the curve or type of another, and the reverse.
            (curve(2, -7, 2, x.clone(), y.clone()), Mismatch),
            (curve(2, -35, 1, x.clone(), y.clone()), Mismatch),
            (curve(1, -7, 1, x.clone(), y.clone()), Mismatch),
            (curve(2, -8, 6, ed.clone(), y.clone()), Mismatch),
            (curve(2, -257, 1, x.clone(), y.clone()), Mismatch),
            (map(&[(1, Number(2)), (3, Number(-7)), (-2, Bytes(x.clone())), (-3, Bytes(y.clone()))]), Mismatch),
            (map(&[(3, Number(-7))]), Mismatch),
            (with((-4, Bytes(vec![7; 32]))), Private),
            // A compressed point, and one without y.
            (map(&[(1, Number(2)), (3, Number(-7)), (-1, Number(1)), (-2, Bytes(x.clone())), (-3, Yes)]), Form),
            (map(&[(1, Number(2)), (3, Number(-7)), (-1, Number(1)), (-2, Bytes(x.clone()))]), Form),
            (curve(2, -7, 1, x[1..].to_vec(), y.clone()), Size),
            (curve(2, -7, 1, [&[0], &x[..]].concat(), y.clone()), Size),
            (curve(2, -7, 1, x.clone(), off), Unusable),
            (curve(2, -7, 1, vec![0; 32], vec![0; 32]), Unusable),
            (curve(2, -7, 1, vec![0xff; 32], y.clone()), Unusable),
            (okp(ed[1..].to_vec()), Size),
            (okp(vec![0; 32]), Unusable),
            (rsa_key(n(255, 0x80, 1), &[1, 0, 1]), Size),
            (rsa_key(n(256, 0x7f, 1), &[1, 0, 1]), Size),
            (rsa_key(n(257, 0, 1), &[1, 0, 1]), Size),
            (rsa_key(n(513, 1, 1), &[1, 0, 1]), Size),
            (rsa_key(vec![], &[1, 0, 1]), Size),
            (rsa_key(n(256, 0x80, 1), &[]), Size),
            (rsa_key(n(256, 0x80, 1), &[0, 1, 0, 1]), Size),
            (rsa_key(n(256, 0x80, 1), &[1, 0, 0, 0, 1]), Size),
            (rsa_key(n(256, 0x80, 2), &[1, 0, 1]), Unusable),
            (rsa_key(n(256, 0x80, 1), &[1, 0, 2]), Unusable),
            (rsa_key(n(256, 0x80, 1), &[1]), Unusable),
        ] {
            assert_eq!(CoseKey::parse(&cose).map(|k| k.algorithm()), Err(fault), "{cose:02x?}");
        }
        let key = CoseKey::parse(&good).unwrap();
        assert_eq!(key.p256_point(), Some(&point));
        assert!(key.to_spki_der().unwrap().ends_with(&point));
        assert!(CoseKey::parse(&with((99, Yes))).is_ok(), "a member that is not known is passed over");
        assert!(CoseKey::parse(&rsa_key(n(256, 0x80, 1), &[1, 0, 1])).is_ok());
        assert!(CoseKey::parse(&rsa_key(n(512, 0xff, 1), &[3])).is_ok());
    }

    #[test]
    fn a_point_of_small_order_is_no_key_whatever_its_sign() {
        for y in ED25519_SMALL_ORDER {
            for sign in [0, 0x80] {
                let mut x = y;
                x[31] |= sign;
                assert_eq!(CoseKey::parse(&okp(x.to_vec())).unwrap_err(), CoseError::Unusable, "{x:02x?}");
            }
        }
    }

    #[test]
    fn every_algorithm_is_found_by_its_number() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::from_cose_id(algorithm.cose_id()), Some(algorithm));
        }
        // RS1, ES256K, HMAC.
        for id in [-65_535, -47, 5, 0, i64::MIN] {
            assert_eq!(Algorithm::from_cose_id(id), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>, at in 0_usize..80, with: u8, cut in 0_usize..80) {
            let _ = CoseKey::parse(&bytes);
            let point = SigningKey::generate(&Random::seeded(1)).verifying().to_sec1();
            let mut cose = curve(2, -7, 1, point[1..33].to_vec(), point[33..].to_vec());
            if let Some(byte) = cose.get_mut(at) {
                *byte = with;
            }
            if let Ok(key) = CoseKey::parse(&cose) {
                let _ = key.verify(&bytes, &bytes);
            }
            cose.truncate(cut);
            let _ = CoseKey::parse_prefix(&cose);
        }
    }
}
