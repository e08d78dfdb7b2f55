//! The structures of TPM 2.0 (Trusted Platform Module Library, Part 2: Structures) as far as attestation needs them,
//! read from their wire form: big endian, every length checked against what is there, nothing left over.
//!
//! Only shapes are judged here. Which values a quote or a certification may have is the business of who asks.

use super::super::Refused;
use super::hash::Hash;

/// Bytes of one structure. Keys of 4096 bits with their policy stay below 700.
pub const STRUCTURE_BYTES_MAX: usize = 4 * 1024;
/// Banks that one selection may name (Part 2, HASH_COUNT of real devices is at most five).
const SELECTIONS_MAX: u32 = 8;
/// A name is the identifier of a hash and the longest hash.
const NAME_BYTES_MAX: usize = 2 + 64;
/// TPM2B_DATA holds at most what TPMT_HA does.
const DATA_BYTES_MAX: usize = 2 + 64;
/// The bytes of a modulus of 8192 bits: beyond what any TPM makes, and bounded.
const NUMBER_BYTES_MAX: usize = 1024;

/// `TPM_GENERATED_VALUE`: what a TPM puts before everything that it says of itself, and what a restricted key refuses to
/// sign for anybody else.
pub const GENERATED: u32 = 0xff54_4347;

/// Identifiers of TPM_ALG_ID (Part 2, table 9).
pub mod alg {
    /// RSA keys.
    pub const RSA: u16 = 0x0001;
    /// No algorithm.
    pub const NULL: u16 = 0x0010;
    /// RSASSA-PKCS1-v1_5.
    pub const RSASSA: u16 = 0x0014;
    /// RSAES-PKCS1-v1_5.
    pub const RSAES: u16 = 0x0015;
    /// RSASSA-PSS.
    pub const RSAPSS: u16 = 0x0016;
    /// RSAES-OAEP.
    pub const OAEP: u16 = 0x0017;
    /// ECDSA.
    pub const ECDSA: u16 = 0x0018;
    /// ECDH.
    pub const ECDH: u16 = 0x0019;
    /// Anonymous attestation; its scheme carries a counter too.
    pub const ECDAA: u16 = 0x001a;
    /// SM2.
    pub const SM2: u16 = 0x001b;
    /// Schnorr signatures.
    pub const ECSCHNORR: u16 = 0x001c;
    /// Two-phase key exchange.
    pub const ECMQV: u16 = 0x001d;
    /// Keys on elliptic curves.
    pub const ECC: u16 = 0x0023;
}

/// Bits of TPMA_OBJECT (Part 2, table 31).
pub mod attribute {
    /// The key never leaves its TPM.
    pub const FIXED_TPM: u32 = 1 << 1;
    /// The key never changes its parent.
    pub const FIXED_PARENT: u32 = 1 << 4;
    /// The TPM drew the secret part; nobody loaded it.
    pub const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    /// The key signs or decrypts only what the TPM itself has made.
    pub const RESTRICTED: u32 = 1 << 16;
    /// The key decrypts.
    pub const DECRYPT: u32 = 1 << 17;
    /// The key signs.
    pub const SIGN: u32 = 1 << 18;
    /// Bits that must be zero.
    pub const RESERVED: u32 = !0x000f_0ff6;
}

/// Types of TPM_ST (Part 2, table 19).
pub mod tag {
    /// TPM2_Certify.
    pub const CERTIFY: u16 = 0x8017;
    /// TPM2_Quote.
    pub const QUOTE: u16 = 0x8018;
}

pub(crate) fn malformed(what: &str) -> Refused {
    Refused::new(
        "malformed",
        format!("The {what} is not a structure of TPM 2.0: it is cut short, too long or has a wrong value."),
    )
}

/// Reads from the front; every read that is not covered by bytes is refused.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Result<Self, Refused> {
        if bytes.len() > STRUCTURE_BYTES_MAX { Err(malformed(what)) } else { Ok(Self { rest: bytes, what }) }
    }

    fn wrong(&self) -> Refused {
        malformed(self.what)
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Refused> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(|| self.wrong())?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.wrong())?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, Refused> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Refused> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Refused> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Refused> {
        self.array().map(u64::from_be_bytes)
    }

    /// A TPM2B: two bytes of length, then as many bytes.
    pub(crate) fn sized(&mut self, max: usize) -> Result<&'a [u8], Refused> {
        let length = usize::from(self.u16()?);
        if length > max { Err(self.wrong()) } else { self.take(length) }
    }

    pub(crate) fn end(&self) -> Result<(), Refused> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.wrong()) }
    }
}

/// What a key signs or encrypts with, as its public area says; `hash` is absent for schemes without one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scheme {
    /// One of [`alg`].
    pub id: u16,
    /// A TPM_ALG_ID.
    pub hash: Option<u16>,
}

/// The public numbers of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Numbers {
    /// Modulus and exponent; the wire's zero for the usual exponent is written out.
    Rsa {
        /// Big endian.
        modulus: Vec<u8>,
        /// 65,537 nearly always.
        exponent: u32,
        /// What the area says of the modulus.
        bits: u16,
    },
    /// A point of a curve.
    Ecc {
        /// TPM_ECC_CURVE: 3 is P-256, 4 is P-384.
        curve: u16,
        /// Big endian; TPMs may leave leading zeros out.
        x: Vec<u8>,
        /// As `x`.
        y: Vec<u8>,
    },
}

/// A symmetric cipher of a storage key: algorithm, bits and mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Symmetric {
    /// 0x0006 is AES.
    pub id: u16,
    /// Bits of the key.
    pub bits: u16,
    /// 0x0043 is CFB.
    pub mode: u16,
}

/// TPMT_PUBLIC: what a TPM tells everybody of one of its keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Public {
    /// Which hash the key's name is made with.
    pub name_hash: Hash,
    /// Bits of [`attribute`].
    pub attributes: u32,
    /// The cipher of a storage key; none for signing keys.
    pub symmetric: Option<Symmetric>,
    /// Fixed at creation, or left to each use.
    pub scheme: Option<Scheme>,
    /// The key itself.
    pub numbers: Numbers,
    /// The TPM's own unambiguous name for it: the identifier of the hash, then the hash of the area as it came.
    pub name: Vec<u8>,
}

impl Public {
    /// Reads the area that `bytes` are, without a length before it.
    ///
    /// # Errors
    /// `malformed`, `algorithm` for a key that is neither RSA nor on a curve or has a name of an unknown hash.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        let mut r = Reader::new(bytes, "public area")?;
        let kind = r.u16()?;
        let name_id = r.u16()?;
        let name_hash = Hash::from_tpm_id(name_id)
            .ok_or_else(|| Refused::new("algorithm", "The key's name is made with a hash that is not known here."))?;
        let attributes = r.u32()?;
        if attributes & attribute::RESERVED != 0 {
            return Err(r.wrong());
        }
        r.sized(NAME_BYTES_MAX)?;
        let symmetric = symmetric(&mut r)?;
        let (scheme, numbers) = match kind {
            alg::RSA => {
                let scheme = scheme(&mut r)?;
                let bits = r.u16()?;
                let exponent = match r.u32()? {
                    0 => 65_537,
                    exponent => exponent,
                };
                (scheme, Numbers::Rsa { modulus: r.sized(NUMBER_BYTES_MAX)?.to_vec(), exponent, bits })
            }
            alg::ECC => {
                let scheme = scheme(&mut r)?;
                let curve = r.u16()?;
                if r.u16()? != alg::NULL {
                    r.u16()?;
                }
                let x = r.sized(NUMBER_BYTES_MAX)?.to_vec();
                (scheme, Numbers::Ecc { curve, x, y: r.sized(NUMBER_BYTES_MAX)?.to_vec() })
            }
            _ => return Err(Refused::new("algorithm", "The key is neither an RSA key nor one on an elliptic curve.")),
        };
        r.end()?;
        let mut name = name_id.to_be_bytes().to_vec();
        name.extend_from_slice(&name_hash.digest(bytes));
        Ok(Self { name_hash, attributes, symmetric, scheme, numbers, name })
    }
}

fn symmetric(r: &mut Reader<'_>) -> Result<Option<Symmetric>, Refused> {
    match r.u16()? {
        alg::NULL => Ok(None),
        id => Ok(Some(Symmetric { id, bits: r.u16()?, mode: r.u16()? })),
    }
}

fn scheme(r: &mut Reader<'_>) -> Result<Option<Scheme>, Refused> {
    let id = r.u16()?;
    let hash = match id {
        alg::NULL => return Ok(None),
        alg::RSAES => None,
        alg::RSASSA | alg::RSAPSS | alg::OAEP | alg::ECDSA | alg::ECDH | alg::SM2 | alg::ECSCHNORR | alg::ECMQV => {
            Some(r.u16()?)
        }
        alg::ECDAA => {
            let hash = r.u16()?;
            r.u16()?;
            Some(hash)
        }
        _ => return Err(r.wrong()),
    };
    Ok(Some(Scheme { id, hash }))
}

/// TPMS_CLOCK_INFO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClockInfo {
    /// Milliseconds that the TPM had power, ever.
    pub clock_ms: u64,
    /// How often the machine was started.
    pub reset_count: u32,
    /// How often it woke or hibernated since.
    pub restart_count: u32,
    /// Whether no greater clock can have been reported before a loss of power.
    pub safe: bool,
}

/// One bank of TPML_PCR_SELECTION.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selection {
    /// A TPM_ALG_ID.
    pub bank: u16,
    /// Rising.
    pub pcrs: Vec<u8>,
}

/// What an attestation is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Attested {
    /// TPMS_QUOTE_INFO.
    Quote {
        /// In the order of the digest.
        selections: Vec<Selection>,
        /// Over the values of the selected registers.
        pcr_digest: Vec<u8>,
    },
    /// TPMS_CERTIFY_INFO.
    Certify {
        /// The name of the key that was certified.
        name: Vec<u8>,
    },
}

/// TPMS_ATTEST: what a TPM says and signs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attest {
    /// The nonce of who asked.
    pub extra_data: Vec<u8>,
    /// When.
    pub clock: ClockInfo,
    /// The vendor's.
    pub firmware_version: u64,
    /// What.
    pub attested: Attested,
}

impl Attest {
    /// Reads an attestation of the type `expected`, one of [`tag`].
    ///
    /// # Errors
    /// `malformed`; `magic` when no TPM made it; `attest_type` when it is of another type.
    pub fn parse(bytes: &[u8], expected: u16) -> Result<Self, Refused> {
        let mut r = Reader::new(bytes, "attestation")?;
        if r.u32()? != GENERATED {
            return Err(Refused::new("magic", "The attestation does not begin as what a TPM says of itself does."));
        }
        if r.u16()? != expected {
            return Err(Refused::new("attest_type", "The attestation is of another type than the one that is due."));
        }
        r.sized(NAME_BYTES_MAX)?;
        let extra_data = r.sized(DATA_BYTES_MAX)?.to_vec();
        let (clock_ms, reset_count, restart_count, safe) = (r.u64()?, r.u32()?, r.u32()?, r.u8()?);
        // TPMI_YES_NO. Printed test vectors of certifications have another number there, where nobody asks for the clock.
        if expected == tag::QUOTE && safe > 1 {
            return Err(r.wrong());
        }
        let clock = ClockInfo { clock_ms, reset_count, restart_count, safe: safe == 1 };
        let firmware_version = r.u64()?;
        let attested = match expected {
            tag::QUOTE => {
                Attested::Quote { selections: selections(&mut r)?, pcr_digest: r.sized(NAME_BYTES_MAX)?.to_vec() }
            }
            tag::CERTIFY => {
                let name = r.sized(NAME_BYTES_MAX)?.to_vec();
                r.sized(NAME_BYTES_MAX)?;
                Attested::Certify { name }
            }
            _ => return Err(r.wrong()),
        };
        r.end()?;
        Ok(Self { extra_data, clock, firmware_version, attested })
    }
}

fn selections(r: &mut Reader<'_>) -> Result<Vec<Selection>, Refused> {
    let count = r.u32()?;
    if count > SELECTIONS_MAX {
        return Err(r.wrong());
    }
    let mut out: Vec<Selection> = Vec::new();
    for _ in 0..count {
        let bank = r.u16()?;
        let bytes = r.u8()?;
        if bytes > 4 || out.iter().any(|s| s.bank == bank) {
            return Err(r.wrong());
        }
        let mut pcrs = Vec::new();
        for (first, bits) in (0_u8..).step_by(8).zip(r.take(usize::from(bytes))?) {
            pcrs.extend((0_u8..8).filter(|bit| bits & (1 << bit) != 0).map(|bit| first + bit));
        }
        out.push(Selection { bank, pcrs });
    }
    Ok(out)
}

/// TPMT_SIGNATURE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signature {
    /// One of [`alg`]: RSASSA, RSAPSS or ECDSA.
    pub scheme: u16,
    /// The hash over what was signed.
    pub hash: u16,
    /// The numbers.
    pub value: SignatureValue,
}

/// The numbers of a signature, big endian.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SignatureValue {
    /// As long as the modulus.
    Rsa(Vec<u8>),
    /// TPMs may leave leading zeros out.
    Ecdsa {
        /// The point's.
        r: Vec<u8>,
        /// The other half.
        s: Vec<u8>,
    },
}

impl Signature {
    /// Reads the signature that `bytes` are.
    ///
    /// # Errors
    /// `malformed`, also for a scheme that is not used here.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        let mut r = Reader::new(bytes, "signature")?;
        let (scheme, hash) = (r.u16()?, r.u16()?);
        let value = match scheme {
            alg::RSASSA | alg::RSAPSS => SignatureValue::Rsa(r.sized(NUMBER_BYTES_MAX)?.to_vec()),
            alg::ECDSA => {
                SignatureValue::Ecdsa { r: r.sized(NUMBER_BYTES_MAX)?.to_vec(), s: r.sized(NUMBER_BYTES_MAX)?.to_vec() }
            }
            _ => return Err(r.wrong()),
        };
        r.end()?;
        Ok(Self { scheme, hash, value })
    }
}
