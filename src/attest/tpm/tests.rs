//! Quotes and logs of our own making: algorithms that the shared vectors lack, and inputs that nobody sane makes.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
    RSA_PSS_SHA256, RSA_PSS_SHA384, RsaEncoding,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::wire::{Public, alg};
use super::*;

const NONCE: [u8; 32] = [9; 32];

fn u16s(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// PCR 0 to 7 of SHA-256, each full of its own number, and a quote of them with a digest of `hash`.
fn attest(hash: Hash) -> Vec<u8> {
    let values: Vec<u8> = (0..8_u8).flat_map(|pcr| [pcr; 32]).collect();
    let mut out = wire::GENERATED.to_be_bytes().to_vec();
    out.extend(u16s(&[wire::tag::QUOTE, 0]));
    out.extend(sized(&NONCE));
    out.extend(1_000_u64.to_be_bytes());
    out.extend([0, 0, 0, 3, 0, 0, 0, 1, 1]);
    out.extend(7_u64.to_be_bytes());
    out.extend([0, 0, 0, 1, 0, 0x0b, 3, 0xff, 0, 0]);
    out.extend(sized(&hash.digest(&values)));
    out
}

fn case(public: &[u8], attest: &[u8], signature: &[u8]) -> Map<String, Value> {
    let values: Map<_, _> = (0..8_u8).map(|pcr| (pcr.to_string(), json!(hex(&[pcr; 32])))).collect();
    let mut out = Map::new();
    out.insert("ak_public_hex".to_owned(), json!(hex(public)));
    out.insert("attest_hex".to_owned(), json!(hex(attest)));
    out.insert("signature_hex".to_owned(), json!(hex(signature)));
    out.insert("nonce_hex".to_owned(), json!(hex(&NONCE)));
    out.insert("pcrs".to_owned(), json!({ "sha256": values }));
    out
}

fn reason(case: &Map<String, Value>) -> &'static str {
    let verdict = verify_quote_case(case, &TpmPolicy::default(), Timestamp::EPOCH);
    verdict.map_or_else(|refused| refused.reason, |_| "accept")
}

fn rsa_public(key: &RsaKeyPair, scheme: u16, hash: Hash, bits: u16) -> Vec<u8> {
    let der: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
    let (_, spki) = SubjectPublicKeyInfo::from_der(der.as_ref()).unwrap();
    let PublicKey::RSA(rsa) = spki.parsed().unwrap() else { unreachable!() };
    let modulus = &rsa.modulus[usize::from(rsa.modulus[0] == 0)..];
    let head = u16s(&[alg::RSA, 0x0b, 5, 0x72, 0, alg::NULL, scheme, hash.tpm_id(), bits, 0, 0]);
    [head, sized(modulus)].concat()
}

#[test]
fn quotes_of_rsa_keys_count_with_the_algorithms_that_are_listed() {
    let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    for (scheme, hash, encoding, due) in [
        (alg::RSASSA, Hash::Sha256, &RSA_PKCS1_SHA256 as &dyn RsaEncoding, "accept"),
        (alg::RSASSA, Hash::Sha384, &RSA_PKCS1_SHA384, "accept"),
        (alg::RSASSA, Hash::Sha512, &RSA_PKCS1_SHA512, "algorithm"),
        (alg::RSAPSS, Hash::Sha256, &RSA_PSS_SHA256, "accept"),
        (alg::RSAPSS, Hash::Sha384, &RSA_PSS_SHA384, "accept"),
        // The other padding under the same name.
        (alg::RSASSA, Hash::Sha256, &RSA_PSS_SHA256, "signature"),
        (alg::RSAPSS, Hash::Sha256, &RSA_PKCS1_SHA256, "signature"),
    ] {
        let attest = attest(hash);
        let mut value = vec![0; key.public_modulus_len()];
        key.sign(encoding, &SystemRandom::new(), &attest, &mut value).unwrap();
        let signature = [u16s(&[scheme, hash.tpm_id()]), sized(&value)].concat();
        let public = rsa_public(&key, scheme, hash, 2048);
        assert_eq!(reason(&case(&public, &attest, &signature)), due, "{scheme:#x} {hash:?}");
        // The key says one thing, the signature another.
        let other = rsa_public(&key, scheme, if hash == Hash::Sha384 { Hash::Sha256 } else { Hash::Sha384 }, 2048);
        assert_eq!(reason(&case(&other, &attest, &signature)), "algorithm");
        let lying = rsa_public(&key, scheme, hash, 3072);
        assert!(matches!(reason(&case(&lying, &attest, &signature)), "malformed_key" | "algorithm"));
    }
}

#[test]
fn a_quote_of_a_key_on_p384_counts_and_one_without_a_fixed_scheme_does_not() {
    let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let point = key.public_key().as_ref().to_vec();
    let public = |scheme: &[u16]| {
        let head = u16s(&[&[alg::ECC, 0x0b, 5, 0x72, 0, alg::NULL], scheme, &[4, alg::NULL]].concat());
        [head, sized(&point[1..49]), sized(&point[49..])].concat()
    };
    let attest = attest(Hash::Sha384);
    let value = key.sign(&SystemRandom::new(), &attest).unwrap();
    let (r, s) = value.as_ref().split_at(48);
    let signature = |r: &[u8], s: &[u8]| [u16s(&[alg::ECDSA, 0x0c]), sized(r), sized(s)].concat();
    let good = public(&[alg::ECDSA, 0x0c]);
    assert_eq!(reason(&case(&good, &attest, &signature(r, s))), "accept");
    assert_eq!(reason(&case(&public(&[alg::NULL]), &attest, &signature(r, s))), "ak_attributes");
    // FIPS 186-5: the order of P-384, which no half may reach.
    let order =
        unhex("ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973")
            .unwrap();
    let long = [&[1][..], r].concat();
    for (r, s) in [(&[][..], s), (r, &[]), (&[0; 48], s), (r, &[0; 48]), (&order, s), (r, &order), (&long, s), (s, r)] {
        assert_eq!(reason(&case(&good, &attest, &signature(r, s))), "signature");
    }
}

/// The certificate of a real TPM's key, made by Microsoft's authority, beside a quote of that key and of another.
#[test]
fn a_certificate_binds_its_own_key_under_its_root_and_in_its_time() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    if !path.exists() {
        eprintln!("skipped: the shared vectors are not here");
        return;
    }
    let text = std::fs::read(path.join("vectors/webauthn/real_registrations.json")).unwrap();
    let file: Value = serde_json::from_slice(&text).unwrap();
    let object =
        Members(file["registrations"][0].as_object().unwrap()).required(&["attestation_object_b64url"]).unwrap();
    let object = crate::crypto::cbor::read(&object).unwrap();
    let x5c = object.member("attStmt").unwrap().member("x5c").unwrap().as_array().unwrap();
    let ders: Vec<Vec<u8>> = x5c.iter().map(|der| der.as_bytes().unwrap().to_vec()).collect();
    let leaf = &crate::attest::chain::parse(&ders).unwrap()[0];
    let PublicKey::RSA(rsa) = leaf.public_key().parsed().unwrap() else { unreachable!() };
    let area = |modulus: &[u8]| {
        let head = u16s(&[alg::RSA, 0x0b, 5, 0x72, 0, alg::NULL, alg::RSASSA, 0x0b, 2048, 0, 0]);
        Public::parse(&[head, sized(modulus)].concat()).unwrap()
    };
    let modulus = &rsa.modulus[rsa.modulus.len() - 256..];
    let mut another = modulus.to_vec();
    another[100] ^= 1;
    let root = aik::microsoft_root().unwrap();
    let now: Timestamp = "2022-01-01T00:00:00Z".parse().unwrap();
    let aik::Bound { chip, root: label, .. } = aik::verify_bound(&area(modulus), &ders, &root, now).unwrap();
    assert_eq!((chip.vendor(), chip.model.as_str(), label.as_str()), ("494E5443", "ICL", "microsoft_tpm_root_2014"));
    let reason = |key: &Public, ders: &[Vec<u8>], roots: &Anchors, at: &str| {
        aik::verify_bound(key, ders, roots, at.parse().unwrap()).unwrap_err().reason
    };
    let at = "2022-01-01T00:00:00Z";
    assert_eq!(reason(&area(&another), &ders, &root, at), "ak_certificate_key");
    assert_eq!(reason(&area(modulus), &ders, &root, "2026-01-01T00:00:00Z"), "certificate_expired");
    assert_eq!(reason(&area(modulus), &ders, &Anchors::default(), at), "root_unknown");
    // The authority's own certificate is not one of a TPM's key.
    assert_eq!(reason(&area(modulus), &ders[1..], &root, at), "ak_certificate_key");
    // In a case the certificate must be for the key that quotes.
    let Ok(text) = std::fs::read(path.join("vectors/tpm/synthetic_quotes.json")) else { unreachable!() };
    let file: Map<String, Value> = serde_json::from_slice(&text).unwrap();
    let mut case = file["cases"][0].as_object().unwrap().clone();
    let pem = |der: &Vec<u8>| {
        use base64ct::{Base64, Encoding};
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", Base64::encode_string(der))
    };
    case.insert("ak_certificates_pem".to_owned(), json!(ders.iter().map(pem).collect::<String>()));
    let bound = TpmPolicy { require_ak_binding: true, ..TpmPolicy::default() };
    assert_eq!(verify_quote_case(&case, &bound, now).unwrap_err().reason, "ak_certificate_key");
}

/// A modulus of 64 kbit, and every length that a structure could claim, against no more bytes than there are.
#[test]
fn huge_numbers_and_lengths_are_refused_before_any_arithmetic() {
    let huge = [u16s(&[alg::RSA, 0x0b, 5, 0x72, 0, alg::NULL, alg::RSASSA, 0x0b, 0xffff, 0, 0]), sized(&[0xff; 8192])];
    assert_eq!(Public::parse(&huge.concat()).unwrap_err().reason, "malformed");
    let attest = attest(Hash::Sha256);
    for at in 0..attest.len() {
        let mut bytes = attest.clone();
        for byte in bytes.iter_mut().skip(at).take(2) {
            *byte = 0xff;
        }
        let _ = wire::Attest::parse(&bytes, wire::tag::QUOTE);
    }
}

/// One event of the older form.
fn legacy(pcr: u32, kind: u32, data: &[u8], length: u32) -> Vec<u8> {
    let mut out = [pcr.to_le_bytes(), kind.to_le_bytes()].concat();
    out.extend([0; 20]);
    out.extend(length.to_le_bytes());
    out.extend(data);
    out
}

fn spec_id(algorithms: &[(u16, u16)], tail: &[u8]) -> Vec<u8> {
    let mut data = b"Spec ID Event03\0".to_vec();
    data.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    data.extend(u32::try_from(algorithms.len()).unwrap().to_le_bytes());
    data.extend(algorithms.iter().flat_map(|(id, size)| [id.to_le_bytes(), size.to_le_bytes()].concat()));
    data.extend(tail);
    let length = u32::try_from(data.len()).unwrap();
    legacy(0, 3, &data, length)
}

#[test]
fn a_log_has_one_reading_or_none() {
    let locality = |value: u8| legacy(0, 3, &[b"StartupLocality\0", &[value][..]].concat(), 17);
    let sha256 = spec_id(&[(0x0b, 32)], &[0]);
    let event = |count: u32, ids: &[u16], length: u32| {
        let mut out = [0_u32.to_le_bytes(), 1_u32.to_le_bytes(), count.to_le_bytes()].concat();
        for id in ids {
            out.extend(id.to_le_bytes());
            out.extend([7; 32]);
        }
        out.extend(length.to_le_bytes());
        out
    };
    let both = spec_id(&[(0x0b, 32), (0x12, 32)], &[0]);
    for (log, taken) in [
        (vec![], false),
        (legacy(0, 1, b"", 0), true),
        (legacy(23, 1, b"", 0), true),
        (legacy(24, 1, b"", 0), false),
        (legacy(u32::MAX, 3, b"", 0), true),
        (legacy(0, 1, b"abc", 2), false),
        (legacy(0, 1, b"abc", 4), false),
        (legacy(0, 1, b"abc", u32::MAX), false),
        ([legacy(0, 1, b"", 0), vec![0]].concat(), false),
        (locality(3), true),
        (locality(1), false),
        ([locality(3), locality(3)].concat(), false),
        ([legacy(0, 1, b"", 0), locality(3)].concat(), false),
        (sha256.clone(), true),
        (spec_id(&[], &[0]), false),
        (spec_id(&[(0x0b, 20)], &[0]), false),
        (spec_id(&[(0x0b, 32), (0x0b, 32)], &[0]), false),
        (spec_id(&[(0x99, 0)], &[0]), false),
        (spec_id(&[(0x0b, 32)], &[1]), false),
        (spec_id(&[(0x0b, 32)], &[0, 0]), false),
        (spec_id(&[(0x0b, 32)], &[2, 1, 1]), true),
        ([sha256.clone(), event(1, &[0x0b], 0)].concat(), true),
        ([sha256.clone(), event(0, &[], 0)].concat(), false),
        ([sha256.clone(), event(1, &[0x0c], 0)].concat(), false),
        ([sha256.clone(), event(u32::MAX, &[0x0b], 0)].concat(), false),
        ([sha256, event(1, &[0x0b], u32::MAX)].concat(), false),
        ([both.clone(), event(2, &[0x0b, 0x12], 0)].concat(), true),
        ([both.clone(), event(2, &[0x0b, 0x0b], 0)].concat(), false),
        ([both, event(1, &[0x0b], 0)].concat(), false),
    ] {
        assert_eq!(EventLog::parse(&log).is_ok(), taken, "{log:02x?}");
    }
    assert_eq!(EventLog::parse(&vec![0; event_log::LOG_BYTES_MAX + 1]).unwrap_err().reason, "too_long");
    let many = legacy(0, 3, b"", 0).repeat(event_log::EVENTS_MAX + 1);
    assert_eq!(EventLog::parse(&many).unwrap_err().reason, "too_long");
}

/// The register starts at the locality, so that a late start cannot pass for an early one.
#[test]
fn the_startup_locality_is_where_pcr_0_begins() {
    let first = legacy(0, 3, &[b"StartupLocality\0", &[3][..]].concat(), 17);
    let log = EventLog::parse(&[first, legacy(0, 1, b"", 0)].concat()).unwrap();
    let mut start = [0; 20];
    start[19] = 3;
    assert_eq!(log.replay(Hash::Sha1)[&0], Hash::Sha1.extend(&start, &[0; 20]));
    let untouched = Registers::from([(0, start.to_vec())]);
    assert_eq!(log.compare(Hash::Sha1, &untouched, false).unwrap_err().reason, "eventlog_mismatch");
    assert_eq!(log.compare(Hash::Sha256, &untouched, false).unwrap_err().reason, "eventlog_bank");
}

/// A system that booted without Secure Boot, and tells the log that it did.
#[test]
fn secure_boot_cannot_be_claimed_after_the_fact() {
    let variable = |value: u8| {
        let mut data = vec![0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0, 0xe0, 0x98, 3, 0x2b, 0x8c];
        data.extend(10_u64.to_le_bytes());
        data.extend(1_u64.to_le_bytes());
        data.extend("SecureBoot".encode_utf16().flat_map(u16::to_le_bytes));
        data.push(value);
        data
    };
    let measured = |kind: u32, data: &[u8]| {
        let mut out = [7_u32.to_le_bytes(), kind.to_le_bytes()].concat();
        out.extend(Hash::Sha1.digest(data));
        out.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        out.extend(data);
        out
    };
    let (off, on) = (variable(0), variable(1));
    for (log, enabled) in [
        (measured(event_log::EV_DRIVER_CONFIG, &on), json!(true)),
        (measured(event_log::EV_DRIVER_CONFIG, &off), json!(false)),
        // The firmware's own event under another type, the lie behind it.
        ([measured(6, &off), measured(event_log::EV_DRIVER_CONFIG, &on)].concat(), Value::Null),
        ([off.as_slice(), &on].map(|data| measured(event_log::EV_DRIVER_CONFIG, data)).concat(), json!(false)),
        ([on.as_slice(), &off].map(|data| measured(event_log::EV_DRIVER_CONFIG, data)).concat(), json!(false)),
    ] {
        let parsed = EventLog::parse(&log).unwrap();
        let input = Map::from_iter([
            ("eventlog_hex".to_owned(), json!(hex(&log))),
            ("pcrs".to_owned(), registers_json(&parsed.replay(Hash::Sha1))),
        ]);
        let policy = TpmPolicy { allow_sha1_bank: true, ..TpmPolicy::default() };
        let claims = verify_eventlog_case(&input, &policy, Timestamp::EPOCH).unwrap();
        assert_eq!(claims["secure_boot"]["enabled"], enabled);
        assert_eq!(claims["secure_boot"]["proven"], true);
        let strict = TpmPolicy { require_secure_boot: true, ..policy };
        let verdict = verify_eventlog_case(&input, &strict, Timestamp::EPOCH);
        assert_eq!(verdict.is_ok(), enabled == json!(true));
        let without_sha1 = TpmPolicy { allow_sha1_bank: false, ..strict };
        assert_eq!(verify_eventlog_case(&input, &without_sha1, Timestamp::EPOCH).unwrap_err().reason, "secure_boot");
    }
}

#[test]
fn a_policy_is_read_strictly() {
    let policy: TpmPolicy = toml::from_str("allow_reset = true\n[pcr_values]\n7 = ['00']").unwrap();
    assert_eq!(first_deviation(&policy.pcr_values, &Registers::from([(7, vec![0])])), None);
    assert_eq!(first_deviation(&policy.pcr_values, &Registers::from([(7, vec![1])])), Some("7"));
    assert_eq!(first_deviation(&policy.pcr_values, &Registers::new()), Some("7"));
    assert!(policy.allow_reset && policy.require_safe_clock);
    assert!(toml::from_str::<TpmPolicy>("allow_everything = true").is_err());
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes: Vec<u8>, at in 0_usize..140, with: [u8; 4]) {
        let _ = Public::parse(&bytes);
        let _ = wire::Signature::parse(&bytes);
        let _ = EventLog::parse(&bytes);
        let _ = event_log::Variable::parse(&bytes);
        let mut log = spec_id(&[(4, 20), (0x0b, 32)], &[0]);
        log.extend(&bytes);
        let mut quote = attest(Hash::Sha256);
        for target in [&mut log, &mut quote] {
            for (offset, byte) in with.iter().enumerate() {
                let length = target.len();
                target[(at + offset) % length] = *byte;
            }
        }
        let _ = EventLog::parse(&log).map(|log| log.replay(Hash::Sha256));
        for tag in [wire::tag::QUOTE, wire::tag::CERTIFY] {
            let _ = wire::Attest::parse(&quote, tag);
            let _ = wire::Attest::parse(&bytes, tag);
        }
        let input = case(&bytes, &quote, &bytes);
        let _ = verify_quote_case(&input, &TpmPolicy::default(), Timestamp::EPOCH);
    }
}
