//! What the tests build on: the shared vectors, attestation objects taken apart and put together again, and evidence of a
//! made-up Apple, with which rules can be reached that no real evidence breaks.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;

use base64ct::{Base64, Encoding};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
};
use serde_json::{Map, Value};

use super::{AppleRoots, ber};
use crate::attest::chain::{Anchor, Anchors};
use crate::crypto::{SigningKey, cbor, sha256};
use crate::kernel::{Random, Timestamp};

/// A file of the shared folder, which lies beside the repository. Absent altogether: skip; a missing file in it: fail.
pub fn vectors(file: &str) -> Option<Value> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    if !shared.exists() {
        eprintln!("skipped: the shared vectors are not here");
        return None;
    }
    let path = shared.join("vectors/apple-app-attest").join(file);
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}

pub fn cases(file: &str, list: &str) -> Option<Vec<Map<String, Value>>> {
    let file = vectors(file)?;
    Some(file[list].as_array().unwrap().iter().map(|case| case.as_object().unwrap().clone()).collect())
}

pub fn named(cases: &[Map<String, Value>], name: &str) -> Map<String, Value> {
    cases.iter().find(|case| case["name"] == name).unwrap().clone()
}

pub fn text<'a>(case: &'a Map<String, Value>, name: &str) -> &'a str {
    case[name].as_str().unwrap()
}

pub fn time(case: &Map<String, Value>, name: &str) -> Timestamp {
    text(case, name).parse().unwrap()
}

pub fn bytes(case: &Map<String, Value>, name: &str) -> Vec<u8> {
    Base64::decode_vec(text(case, name)).unwrap()
}

pub fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// An attestation object taken apart.
#[derive(Clone)]
pub struct Object {
    pub fmt: String,
    pub x5c: Vec<Vec<u8>>,
    pub receipt: Vec<u8>,
    pub raw: Vec<u8>,
}

impl Object {
    pub fn read(bytes: &[u8]) -> Self {
        let map = cbor::read(bytes).unwrap();
        let statement = map.member("attStmt").unwrap();
        let x5c = statement.member("x5c").unwrap().as_array().unwrap();
        Self {
            fmt: map.member("fmt").unwrap().as_text().unwrap().to_owned(),
            x5c: x5c.iter().map(|c| c.as_bytes().unwrap().to_vec()).collect(),
            receipt: statement.member("receipt").unwrap().as_bytes().unwrap().to_vec(),
            raw: map.member("authData").unwrap().as_bytes().unwrap().to_vec(),
        }
    }

    /// With another `authData` behind the first when `twice` says so.
    pub fn write_with(&self, twice: Option<&[u8]>) -> Vec<u8> {
        let mut e = minicbor::Encoder::new(Vec::new());
        e.map(3 + u64::from(twice.is_some())).unwrap();
        e.str("fmt").unwrap().str(&self.fmt).unwrap();
        e.str("attStmt").unwrap().map(2).unwrap();
        e.str("x5c").unwrap().array(self.x5c.len().try_into().unwrap()).unwrap();
        for certificate in &self.x5c {
            e.bytes(certificate).unwrap();
        }
        e.str("receipt").unwrap().bytes(&self.receipt).unwrap();
        e.str("authData").unwrap().bytes(&self.raw).unwrap();
        if let Some(second) = twice {
            e.str("authData").unwrap().bytes(second).unwrap();
        }
        e.into_writer()
    }

    pub fn write(&self) -> Vec<u8> {
        self.write_with(None)
    }
}

/// DER of one value.
pub fn der(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap();
    let [high, low] = length.to_be_bytes();
    let head = match length {
        0..0x80 => vec![tag, low],
        0x80..0x100 => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [head, body.to_vec()].concat()
}

/// An ECDSA signature as ASN.1, from r||s.
pub fn asn1_signature(rs: &[u8]) -> Vec<u8> {
    let integer = |half: &[u8]| {
        let zeros = half.iter().take_while(|b| **b == 0).count().min(half.len() - 1);
        let digits = &half[zeros..];
        let pad: &[u8] = if digits[0] < 0x80 { &[] } else { &[0] };
        der(ber::INTEGER, &[pad, digits].concat())
    };
    let (r, s) = rs.split_at(rs.len() / 2);
    der(ber::SEQUENCE, &[integer(r), integer(s)].concat())
}

/// An authority with a name of Apple's and a key of ours.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub der: Vec<u8>,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // Order and kind of text as in Apple's: names are compared by their bytes.
    for (kind, value) in [
        (DnType::CommonName, name),
        (DnType::OrganizationName, "Apple Inc."),
        (DnType::StateOrProvinceName, "California"),
    ] {
        params.distinguished_name.push(kind, value);
    }
    params.not_before = rcgen::date_time_ymd(2024, 1, 1);
    params.not_after = rcgen::date_time_ymd(2034, 1, 1);
    params
}

impl Authority {
    pub fn root(name: &str) -> Self {
        Self::new(name, None)
    }

    pub fn below(&self, name: &str) -> Self {
        Self::new(name, Some(self))
    }

    fn new(name: &str, above: Option<&Self>) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = match above {
            None => params.self_signed(&key).unwrap(),
            Some(above) => params.signed_by(&key, &above.issuer).unwrap(),
        };
        let der = certificate.der().to_vec();
        Self { issuer: Issuer::new(params, key), der }
    }

    /// A certificate for `key` with these extensions.
    pub fn leaf(&self, name: &str, key: &SigningKey, extensions: &[(&[u64], Vec<u8>)]) -> Vec<u8> {
        let pair = KeyPair::from_pem_and_sign_algo(&key.to_pkcs8_pem().unwrap(), &PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = params(name);
        params.serial_number = Some(vec![0x59, 0x33, 0x56].into());
        params.is_ca = IsCa::ExplicitNoCa;
        params.custom_extensions =
            extensions.iter().map(|(oid, value)| CustomExtension::from_oid_content(oid, value.clone())).collect();
        params.signed_by(&pair, &self.issuer).unwrap().der().to_vec()
    }
}

/// Roots that trust this authority for everything.
pub fn roots_of(authority: &Authority) -> AppleRoots {
    let anchors = Anchors::new(vec![Anchor::from_certificate("made up", &authority.der).unwrap()]);
    AppleRoots { app_attestation: anchors.clone(), receipts: anchors }
}

pub const NONCE_OID: &[u64] = &[1, 2, 840, 113_635, 100, 8, 2];
pub const RECEIPT_SIGNER_OID: &[u64] = &[1, 2, 840, 113_635, 100, 12, 15];

/// The extension's value around a nonce.
pub fn nonce_extension(nonce: &[u8]) -> Vec<u8> {
    der(ber::SEQUENCE, &der(ber::context(1), &der(ber::OCTET_STRING, nonce)))
}

/// A key with COSE form and key id.
pub struct DeviceKey {
    pub key: SigningKey,
    pub point: [u8; 65],
}

impl DeviceKey {
    pub fn new(seed: u64) -> Self {
        let key = SigningKey::generate(&Random::seeded(seed));
        Self { point: key.verifying().to_sec1(), key }
    }

    pub fn id(&self) -> [u8; 32] {
        sha256(&self.point)
    }

    pub fn cose(&self) -> Vec<u8> {
        let mut e = minicbor::Encoder::new(Vec::new());
        e.map(5).unwrap().i8(1).unwrap().i8(2).unwrap().i8(3).unwrap().i8(-7).unwrap().i8(-1).unwrap().i8(1).unwrap();
        e.i8(-2).unwrap().bytes(&self.point[1..33]).unwrap().i8(-3).unwrap().bytes(&self.point[33..]).unwrap();
        e.into_writer()
    }

    pub fn sign_asn1(&self, message: &[u8]) -> Vec<u8> {
        asn1_signature(&self.key.sign(message))
    }
}
