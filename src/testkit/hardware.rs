//! Makers of phones in software: authorities of their own, keys that these vouch for, and all the evidence that a phone
//! sends. An appliance that is told to trust the authority takes it for real.
//!
//! Knows the formats (Android's key attestation schema, Apple's App Attest and its receipts in CMS) and nothing of how the
//! appliance checks them.

use base64ct::{Base64, Encoding};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, SerialNumber,
};
use serde_json::{Value, json};

use super::Fault;
use crate::crypto::{SigningKey, sha256};
use crate::kernel::{Random, Timestamp};

const ANDROID_STATEMENT: &[u64] = &[1, 3, 6, 1, 4, 1, 11129, 2, 1, 17];
const APPLE_NONCE: &[u64] = &[1, 2, 840, 113_635, 100, 8, 2];
const APPLE_RECEIPT_SIGNER: &[u64] = &[1, 2, 840, 113_635, 100, 12, 15];

// Tags of DER.
const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const ENUMERATED: u8 = 0x0a;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const EXPLICIT_0: u8 = 0xa0;
const EXPLICIT_1: u8 = 0xa1;

// DER of whole values: id-data, id-signedData, SHA-256, ecdsa-with-SHA256.
const DATA: [u8; 11] = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
const SIGNED_DATA: [u8; 11] = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
const SHA256: [u8; 13] = [SEQUENCE, 11, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
const ECDSA_WITH_SHA256: [u8; 12] = [SEQUENCE, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

/// DER of one value.
fn der(tag: &[u8], body: &[u8]) -> Vec<u8> {
    let length = body.len().to_be_bytes();
    let digits: Vec<u8> = length.into_iter().skip_while(|b| *b == 0).collect();
    let head = match digits.as_slice() {
        [] => vec![0],
        [short] if *short < 0x80 => vec![*short],
        long => [&[0x80 | u8::try_from(long.len()).unwrap_or(0)], long].concat(),
    };
    [tag, &head, body].concat()
}

fn one(tag: u8, body: &[u8]) -> Vec<u8> {
    der(&[tag], body)
}

fn integer(value: u32) -> Vec<u8> {
    let digits: Vec<u8> = value.to_be_bytes().into_iter().skip_while(|b| *b == 0).collect();
    let pad: &[u8] = if digits.first().is_none_or(|b| *b >= 0x80) { &[0] } else { &[] };
    one(INTEGER, &[pad, &digits].concat())
}

/// A maker's authority: a root, and below it the one that vouches for keys.
pub struct Maker {
    root: Vec<u8>,
    below: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2060, 1, 1);
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn pem(der: &[u8]) -> String {
    let text = Base64::encode_string(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

impl Maker {
    /// A new one.
    pub fn new(name: &str) -> Result<Self, Fault> {
        let (root_key, key) =
            (KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?, KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?);
        let root = authority(&format!("{name} Root"));
        let root_der = root.self_signed(&root_key)?.der().to_vec();
        let below = authority(&format!("{name} CA 1"));
        let below_der = below.signed_by(&key, &Issuer::from_params(&root, &root_key))?.der().to_vec();
        Ok(Self { root: root_der, below: below_der, issuer: Issuer::new(below, key) })
    }

    /// The certificate to be trusted.
    pub fn root_pem(&self) -> String {
        pem(&self.root)
    }

    /// A certificate for `key` with this serial number and these extensions.
    fn leaf(&self, key: &SigningKey, serial: u64, extensions: &[(&[u64], Vec<u8>)]) -> Result<Vec<u8>, Fault> {
        let pair = KeyPair::from_pem_and_sign_algo(&key.to_pkcs8_pem()?, &PKCS_ECDSA_P256_SHA256)?;
        let mut params = named("key");
        params.is_ca = IsCa::ExplicitNoCa;
        params.serial_number = Some(SerialNumber::from(serial));
        params.custom_extensions =
            extensions.iter().map(|(oid, value)| CustomExtension::from_oid_content(oid, value.clone())).collect();
        Ok(params.signed_by(&pair, &self.issuer)?.der().to_vec())
    }
}

/// What an Android phone's hardware states.
#[derive(Clone, Copy)]
pub struct AndroidState {
    /// 1: trusted environment, 2: StrongBox.
    pub level: u8,
    /// Whether the boot loader is locked.
    pub locked: bool,
    /// First byte of the key that the system was verified with.
    pub boot_key: u8,
    /// As YYYYMM.
    pub patch_level: u32,
    /// Serial number of the key's certificate.
    pub serial: u64,
}

impl Default for AndroidState {
    fn default() -> Self {
        Self { level: 1, locked: true, boot_key: 9, patch_level: 202_610, serial: 0x5eed }
    }
}

/// Android's key attestation of `key`: members of evidence of type `android-key`.
pub fn android_key(maker: &Maker, key: &SigningKey, state: AndroidState, challenge: &[u8; 32]) -> Result<Value, Fault> {
    // Context tags above 30 take two bytes more (X.690, 8.1.2.4).
    let member = |number: u16, value: &[u8]| {
        let [high, low] = [number >> 7, number & 0x7f].map(|b| u8::try_from(b).unwrap_or(0));
        if number < 31 { one(EXPLICIT_0 | low, value) } else { der(&[0xbf, 0x80 | high, low], value) }
    };
    let locked = if state.locked { 0xff } else { 0 };
    let boot =
        [one(OCTETS, &[state.boot_key; 32]), one(BOOLEAN, &[locked]), one(ENUMERATED, &[0]), one(OCTETS, &[7; 32])];
    let package = one(SEQUENCE, &[one(OCTETS, b"com.example.app"), integer(12)].concat());
    let app = one(SEQUENCE, &[one(SET, &package), one(SET, &one(OCTETS, &[0xab; 32]))].concat());
    let software = member(709, &one(OCTETS, &app));
    let hardware = [
        member(1, &one(SET, &integer(2))),
        member(2, &integer(3)),
        member(3, &integer(256)),
        member(702, &integer(0)),
        member(704, &one(SEQUENCE, &boot.concat())),
        member(705, &integer(160_000)),
        member(706, &integer(state.patch_level)),
    ];
    let statement = [
        integer(300),
        one(ENUMERATED, &[state.level]),
        integer(300),
        one(ENUMERATED, &[state.level]),
        one(OCTETS, challenge),
        one(OCTETS, &[]),
        one(SEQUENCE, &software),
        one(SEQUENCE, &hardware.concat()),
    ];
    let leaf = maker.leaf(key, state.serial, &[(ANDROID_STATEMENT, one(SEQUENCE, &statement.concat()))])?;
    let chain: String = [&leaf, &maker.below, &maker.root].into_iter().map(|der| pem(der)).collect();
    Ok(json!({ "type": "android-key", "chain_pem": chain }))
}

/// A phone of Apple's with one app and its attested key.
pub struct ApplePhone {
    app_id: String,
    key: SigningKey,
    counter: u32,
}

impl ApplePhone {
    /// A new key of this app, `TEAM123456.com.example.app`.
    pub fn new(app_id: &str, random: &Random) -> Self {
        Self { app_id: app_id.to_owned(), key: SigningKey::generate(random), counter: 0 }
    }

    /// The attested key.
    pub const fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Members of evidence of type `apple-attestation`. `receipt` is what Apple puts in.
    pub fn attestation(&self, maker: &Maker, challenge: &[u8; 32], receipt: &[u8]) -> Result<Value, Fault> {
        let point = self.key.verifying().to_sec1();
        let id = sha256(&point);
        let (x, y) = point.get(1..).and_then(|xy| xy.split_at_checked(32)).ok_or("a point has 65 bytes")?;
        let mut cose = minicbor::Encoder::new(Vec::new());
        cose.map(5)?.i8(1)?.i8(2)?.i8(3)?.i8(-7)?.i8(-1)?.i8(1)?.i8(-2)?.bytes(x)?.i8(-3)?.bytes(y)?;
        let cose = cose.into_writer();
        let data = [
            &sha256(self.app_id.as_bytes())[..],
            &[0x40],
            &0_u32.to_be_bytes(),
            b"appattest\0\0\0\0\0\0\0",
            &32_u16.to_be_bytes(),
            &id,
            &cose,
        ]
        .concat();
        let nonce = sha256(&[&data[..], challenge].concat());
        let extension = one(SEQUENCE, &one(EXPLICIT_1, &one(OCTETS, &nonce)));
        let leaf = maker.leaf(&self.key, 0x5933, &[(APPLE_NONCE, extension)])?;
        let mut object = minicbor::Encoder::new(Vec::new());
        object.map(3)?.str("fmt")?.str("apple-appattest")?.str("attStmt")?.map(2)?.str("x5c")?.array(2)?;
        object.bytes(&leaf)?.bytes(&maker.below)?.str("receipt")?.bytes(receipt)?.str("authData")?.bytes(&data)?;
        let (id, object) = (Base64::encode_string(&id), Base64::encode_string(&object.into_writer()));
        Ok(json!({ "type": "apple-attestation", "key_id_b64": id, "attestation_object_b64": object }))
    }

    /// Members of evidence of type `apple-assertion`; the counter rises by one.
    pub fn assertion(&mut self, client_data: &[u8]) -> Result<Value, Fault> {
        self.counter += 1;
        let data = [&sha256(self.app_id.as_bytes())[..], &[0x40], &self.counter.to_be_bytes()].concat();
        let nonce = sha256(&[&data[..], &sha256(client_data)].concat());
        let mut map = minicbor::Encoder::new(Vec::new());
        map.map(2)?.str("signature")?.bytes(&asn1_signature(&self.key.sign(&nonce)))?;
        map.str("authenticatorData")?.bytes(&data)?;
        Ok(json!({ "type": "apple-assertion", "assertion_b64": Base64::encode_string(&map.into_writer()) }))
    }

    /// Sets the counter back, as a copy of the phone would.
    pub const fn rewind(&mut self) {
        self.counter = 0;
    }

    /// A receipt of Apple's for this phone's key, made at `at`; with a risk metric it is one from Apple's server.
    pub fn receipt(&self, maker: &Maker, at: Timestamp, risk_metric: Option<u32>) -> Result<Vec<u8>, Fault> {
        let expires = at.plus(std::time::Duration::from_secs(90 * 86_400));
        let kind: &[u8] = if risk_metric.is_some() { b"RECEIPT" } else { b"ATTEST" };
        let mut fields = vec![
            (2, self.app_id.as_bytes().to_vec()),
            (3, maker.leaf(&self.key, 0x5933, &[])?),
            (4, vec![1; 32]),
            (5, b"token".to_vec()),
            (6, kind.to_vec()),
            (7, b"production".to_vec()),
            (12, at.to_string().into_bytes()),
            (21, expires.to_string().into_bytes()),
        ];
        fields.extend(risk_metric.map(|metric| (17, metric.to_string().into_bytes())));
        let field = |(number, value): &(u32, Vec<u8>)| {
            one(SEQUENCE, &[integer(*number), integer(1), one(OCTETS, value)].concat())
        };
        let content = one(SET, &fields.iter().flat_map(field).collect::<Vec<_>>());
        let signer = SigningKey::generate(&Random::System);
        let leaf = maker.leaf(&signer, 0x5934, &[(APPLE_RECEIPT_SIGNER, vec![5, 0])])?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&leaf)?;
        let name = [parsed.issuer().as_raw(), &one(INTEGER, parsed.raw_serial())].concat();
        let signer = [
            integer(1),
            one(SEQUENCE, &name),
            SHA256.to_vec(),
            ECDSA_WITH_SHA256.to_vec(),
            one(OCTETS, &asn1_signature(&signer.sign(&content))),
        ];
        let data = [
            integer(1),
            one(SET, &SHA256),
            one(SEQUENCE, &[&DATA[..], &one(EXPLICIT_0, &one(OCTETS, &content))].concat()),
            one(EXPLICIT_0, &[&leaf[..], &maker.below].concat()),
            one(SET, &one(SEQUENCE, &signer.concat())),
        ];
        Ok(one(SEQUENCE, &[&SIGNED_DATA[..], &one(EXPLICIT_0, &one(SEQUENCE, &data.concat()))].concat()))
    }
}

/// ASN.1 of an ECDSA signature given as r||s.
fn asn1_signature(rs: &[u8; 64]) -> Vec<u8> {
    let number = |half: &[u8]| {
        let digits: Vec<u8> = half.iter().copied().skip_while(|b| *b == 0).collect();
        let pad: &[u8] = if digits.first().is_none_or(|b| *b >= 0x80) { &[0] } else { &[] };
        one(INTEGER, &[pad, &digits].concat())
    };
    let (r, s) = rs.split_at(32);
    one(SEQUENCE, &[number(r), number(s)].concat())
}
