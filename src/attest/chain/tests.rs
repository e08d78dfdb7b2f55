//! What the chain builder promises.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA512, RsaKeyPair,
};
use rcgen::{BasicConstraints, IsCa, KeyPair, PublicKeyData};

use super::testing::{Plan, Signer, der};
use super::*;

const UNKNOWN_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 99999, 1];

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

/// Root, intermediate, leaf.
fn family() -> (Signer, Signer, Signer) {
    let root = Plan::authority("Root").root();
    let middle = Plan::authority("Middle").under(&root);
    let leaf = Plan::leaf("Leaf").under(&middle);
    (root, middle, leaf)
}

fn pinned(root: &Signer) -> Anchors {
    Anchors::new(vec![Anchor::from_certificate("ours", &root.der).unwrap()])
}

fn by_key(root: &Signer) -> Anchors {
    let spki = root.key.subject_public_key_info();
    Anchors::new(vec![Anchor::from_spki("ours", &spki).unwrap()])
}

fn reason(chain: &[&[u8]], anchors: &Anchors, rules: &Rules<'_>) -> &'static str {
    let chain: Vec<Vec<u8>> = chain.iter().map(|der| der.to_vec()).collect();
    verify(&chain, anchors, rules, now()).map_or_else(|refused| refused.reason, |_| "accepted")
}

#[test]
fn a_chain_may_repeat_its_root_or_stop_below_it_whichever_way_it_is_pinned() {
    let (root, middle, leaf) = family();
    let rules = Rules::default();
    for anchors in [pinned(&root), by_key(&root)] {
        for chain in [vec![&leaf.der, &middle.der, &root.der], vec![&leaf.der, &middle.der]] {
            let chain: Vec<Vec<u8>> = chain.into_iter().cloned().collect();
            let verified = verify(&chain, &anchors, &rules, now()).unwrap();
            assert_eq!(verified.anchor(), "ours");
            assert_eq!(verified.leaf().unwrap().as_raw(), leaf.der);
            assert_eq!(verified.serials(), vec!["7"; chain.len()]);
        }
    }
    let itself = Anchors::new(vec![Anchor::from_certificate("leaf", &leaf.der).unwrap()]);
    assert_eq!(reason(&[&leaf.der], &itself, &rules), "accepted", "a pinned leaf is its own end");
    let issuer = Anchors::new(vec![Anchor::from_certificate("leaf", &leaf.der).unwrap()]);
    let below = Plan::leaf("Below").under(&leaf);
    assert_eq!(reason(&[&below.der], &issuer, &rules), "root_unknown", "but signs nobody");
}

#[test]
fn a_root_is_its_key_and_not_its_name_or_certificate() {
    let (root, middle, leaf) = family();
    let rules = Rules::default();
    let look_alike = Plan::authority("Root").root();
    assert_eq!(reason(&[&leaf.der, &middle.der, &look_alike.der], &pinned(&root), &rules), "root_unknown");
    assert_eq!(reason(&[&leaf.der, &middle.der, &look_alike.der], &by_key(&root), &rules), "root_unknown");
    // Everything below it made up as well.
    let false_middle = Plan::authority("Middle").under(&look_alike);
    let false_leaf = Plan::leaf("Leaf").under(&false_middle);
    assert_eq!(reason(&[&false_leaf.der, &false_middle.der], &pinned(&root), &rules), "root_unknown");
    assert_eq!(reason(&[&false_leaf.der, &false_middle.der], &by_key(&root), &rules), "root_unknown");
    // Between the true leaf and the true root.
    assert_eq!(reason(&[&false_leaf.der, &middle.der, &root.der], &pinned(&root), &rules), "signature_invalid");
    // The true root's key under a certificate that somebody else signed.
    let borrowed = Plan::authority("Root").of_key(&root.key, &look_alike);
    assert_eq!(reason(&[&leaf.der, &middle.der, &borrowed], &by_key(&root), &rules), "signature_invalid");
    // Issued again by itself, as vendors do.
    let renewed = Plan::authority("Root").years(2024, 2050).of_key(&root.key, &root);
    for anchors in [pinned(&root), by_key(&root)] {
        assert_eq!(reason(&[&leaf.der, &middle.der, &renewed], &anchors, &rules), "accepted");
    }
}

#[test]
fn order_and_completeness_count() {
    let (root, middle, leaf) = family();
    let (anchors, rules) = (pinned(&root), Rules::default());
    for (chain, expect) in [
        (vec![], "chain_empty"),
        (vec![&leaf.der, &root.der], "name_chaining"),
        (vec![&root.der, &middle.der, &leaf.der], "root_unknown"),
        (vec![&middle.der, &leaf.der, &root.der], "name_chaining"),
        (vec![&leaf.der], "root_unknown"),
        (vec![&leaf.der, &leaf.der, &middle.der, &root.der], "name_chaining"),
        (vec![&leaf.der; 11], "chain_too_long"),
    ] {
        let chain: Vec<&[u8]> = chain.into_iter().map(Vec::as_slice).collect();
        assert_eq!(reason(&chain, &anchors, &rules), expect);
    }
}

#[test]
fn only_authorities_issue() {
    let root = Plan::authority("Root").root();
    let limited =
        |limit| move |p: &mut rcgen::CertificateParams| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(limit));
    let flat_root = Plan::authority("Root").with(limited(0)).root();
    let wide_root = Plan::authority("Root").with(limited(1)).root();
    for (root, plan, expect) in [
        (&root, Plan::authority("Middle"), "accepted"),
        (&root, Plan::leaf("Middle"), "not_a_ca"),
        (&root, Plan::authority("Middle").with(|p| p.is_ca = IsCa::ExplicitNoCa), "not_a_ca"),
        (
            &root,
            Plan::authority("Middle").with(|p| p.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature]),
            "not_a_ca",
        ),
        (&root, Plan::authority("Middle").with(|p| p.key_usages.clear()), "accepted"),
        (&root, Plan::authority("Middle").with(limited(0)), "accepted"),
        (&wide_root, Plan::authority("Middle"), "accepted"),
        (&flat_root, Plan::authority("Middle"), "path_length"),
    ] {
        let middle = plan.under(root);
        let leaf = Plan::leaf("Leaf").under(&middle);
        let rules = Rules::default();
        assert_eq!(reason(&[&leaf.der, &middle.der, &root.der], &pinned(root), &rules), expect);
        assert_eq!(reason(&[&leaf.der, &middle.der], &pinned(root), &rules), expect, "the root is known");
    }
    // The exception is for the one right above the leaf.
    let no_ca = Plan::leaf("Middle").under(&root);
    let lenient = Rules { leaf_issuer_may_be_no_ca: true, ..Rules::default() };
    let leaf = Plan::leaf("Leaf").under(&no_ca);
    assert_eq!(reason(&[&leaf.der, &no_ca.der, &root.der], &pinned(&root), &lenient), "accepted");
    let lower = Plan::authority("Lower").under(&no_ca);
    let leaf = Plan::leaf("Leaf").under(&lower);
    assert_eq!(reason(&[&leaf.der, &lower.der, &no_ca.der, &root.der], &pinned(&root), &lenient), "not_a_ca");
}

#[test]
fn each_place_has_its_date_rule() {
    let past = |plan: Plan| plan.years(2020, 2021);
    let future = |plan: Plan| plan.years(2030, 2031);
    let good = |plan: Plan| plan;
    type Change = fn(Plan) -> Plan;
    let cases: [(Change, Change, Change, [&str; 4]); 7] = [
        (good, good, good, ["accepted"; 4]),
        (past, good, good, ["certificate_expired", "certificate_expired", "certificate_expired", "accepted"]),
        (good, past, good, ["certificate_expired", "certificate_expired", "accepted", "accepted"]),
        (good, good, past, ["certificate_expired", "accepted", "accepted", "accepted"]),
        (
            future,
            good,
            good,
            ["certificate_not_yet_valid", "certificate_not_yet_valid", "certificate_not_yet_valid", "accepted"],
        ),
        (good, future, good, ["certificate_not_yet_valid", "certificate_not_yet_valid", "accepted", "accepted"]),
        (good, good, future, ["certificate_not_yet_valid", "accepted", "accepted", "accepted"]),
    ];
    for (leaf, middle, root, expect) in cases {
        let root = root(Plan::authority("Root")).root();
        let middle = middle(Plan::authority("Middle")).under(&root);
        let leaf = leaf(Plan::leaf("Leaf")).under(&middle);
        let got = [Dates::ALL, Dates::BELOW_ROOT, Dates::LEAF, Dates::IGNORE].map(|dates| {
            let rules = Rules { dates, ..Rules::default() };
            reason(&[&leaf.der, &middle.der, &root.der], &pinned(&root), &rules)
        });
        assert_eq!(got, expect);
    }
}

#[test]
fn extensions_are_known_or_harmless_and_stand_once() {
    let root = Plan::authority("Root").root();
    let anchors = pinned(&root);
    let known = [x509_parser::asn1_rs::oid!(1.3.6.1.4.1.99999.1)];
    let listed = Rules { critical: &known, ..Rules::default() };
    for (plan, plain, with_list) in [
        (Plan::leaf("Leaf").extension(UNKNOWN_OID, false, vec![5, 0]), "accepted", "accepted"),
        (Plan::leaf("Leaf").extension(UNKNOWN_OID, true, vec![5, 0]), "extension_critical", "accepted"),
        (
            Plan::leaf("Leaf").extension(UNKNOWN_OID, false, vec![5, 0]).extension(UNKNOWN_OID, false, vec![5, 0]),
            "extension_duplicate",
            "extension_duplicate",
        ),
        (
            Plan::leaf("Leaf").extension(UNKNOWN_OID, false, vec![0; 17_000]),
            "certificate_too_large",
            "certificate_too_large",
        ),
        (Plan::leaf("Leaf").extension(UNKNOWN_OID, false, vec![0x30; 15_000]), "accepted", "accepted"),
    ] {
        let leaf = plan.under(&root);
        assert_eq!(reason(&[&leaf.der, &root.der], &anchors, &Rules::default()), plain);
        assert_eq!(reason(&[&leaf.der, &root.der], &anchors, &listed), with_list);
    }
    let many = (0..40)
        .fold(Plan::leaf("Leaf"), |plan, at| plan.extension(&[1, 3, 6, 1, 4, 1, 99999, 2, at], false, vec![5, 0]));
    assert_eq!(reason(&[&many.under(&root).der], &anchors, &Rules::default()), "certificate_malformed");
}

#[test]
fn what_is_not_one_certificate_is_refused() {
    let (root, _, _) = family();
    let anchors = pinned(&root);
    let leaf = Plan::leaf("Leaf").under(&root).der;
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut copy = leaf.clone();
        change(&mut copy);
        copy
    };
    // ecdsa-with-SHA256 stands twice: the outer one becomes ecdsa-with-SHA384.
    let name = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    let outer = leaf.windows(8).rposition(|window| window == name).unwrap() + 7;
    let nested = |depth: usize| {
        let mut nest = Vec::new();
        for _ in 0..depth {
            nest = [&[0x30, 0x80], &nest[..]].concat();
        }
        nest
    };
    for (der, expect) in [
        (with(&|copy| copy.push(0)), "certificate_malformed"),
        (with(&|copy| copy[outer] = 3), "certificate_malformed"),
        (with(&|copy| copy.truncate(copy.len() - 1)), "certificate_malformed"),
        (vec![], "certificate_malformed"),
        (vec![0x30, 0x88, 0x80, 0, 0, 0, 0, 0, 0, 0], "certificate_malformed"),
        (vec![0x30, 0x88, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "certificate_malformed"),
        (
            [&[0x30, 0x82, 0x10, 0, 0x30, 0x88, 0x80, 0, 0, 0, 0, 0, 0, 0], &[0; 4086][..]].concat(),
            "certificate_malformed",
        ),
        (nested(8_000), "certificate_malformed"),
        ([0x30, 0x80].repeat(5_000_000), "certificate_too_large"),
    ] {
        assert_eq!(reason(&[&der, &root.der], &anchors, &Rules::default()), expect, "{:02x?}", der.get(..16));
    }
    assert_eq!(reason(&[&leaf, &root.der], &anchors, &Rules::default()), "accepted");
}

#[test]
fn any_bit_that_a_signature_covers_counts() {
    let (root, middle, leaf) = family();
    let anchors = pinned(&root);
    let ders = [leaf.der, middle.der];
    for at in 0..2 {
        let end = {
            let (_, certificate) = X509Certificate::from_der(&ders[at]).unwrap();
            4 + certificate.tbs_certificate.as_ref().len()
        };
        for bit in (32..end * 8).step_by(11) {
            let mut copy = ders.clone();
            copy[at][bit / 8] ^= 1 << (bit % 8);
            assert_ne!(reason(&[&copy[0], &copy[1]], &anchors, &Rules::default()), "accepted", "{at} {bit}");
        }
    }
}

/// ECDSA holds for every message where a sloppy check lets zero or the curve's order pass.
#[test]
fn a_signature_of_zeros_or_of_the_curves_order_is_refused() {
    const ORDER: &[u8] = &[
        0x00, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let root = Plan::authority("Root").root();
    let (_, certificate) = X509Certificate::from_der(&root.der).unwrap();
    let key = certificate.public_key().raw;
    let algorithm = SignatureAlgorithm::Ecdsa(Hash::Sha256);
    let numbers: [&[u8]; 4] = [&[0], &[1], ORDER, &[0xff; 33]];
    for (r, s) in numbers.iter().flat_map(|r| numbers.iter().map(move |s| (r, s))) {
        let signature = der(&[0x30], &[der(&[2], r), der(&[2], s)].concat());
        let verdict = verify_with_key(key, algorithm, b"anything", &signature);
        assert_eq!(verdict.unwrap_err().reason, "signature_invalid", "{r:02x?} {s:02x?}");
    }
}

struct Foreign(Vec<u8>, &'static rcgen::SignatureAlgorithm);

impl PublicKeyData for Foreign {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.1
    }
}

/// An RSA key of 64 kbit costs seconds to check; the refusal must come from its size alone.
#[test]
fn keys_outside_the_list_are_refused_before_any_arithmetic() {
    let rsa = |bytes: usize, exponent: &[u8]| {
        let modulus = [&[0], &vec![0xc1; bytes][..]].concat();
        der(&[0x30], &[der(&[2], &modulus), der(&[2], exponent)].concat())
    };
    let root = Plan::authority("Root").root();
    for (key, expect) in [
        (Foreign(rsa(8192, &[1, 0, 1]), &rcgen::PKCS_RSA_SHA256), "key_unsupported"),
        (Foreign(rsa(1025, &[1, 0, 1]), &rcgen::PKCS_RSA_SHA256), "key_unsupported"),
        (Foreign(rsa(255, &[1, 0, 1]), &rcgen::PKCS_RSA_SHA256), "key_unsupported"),
        (Foreign(rsa(256, &[1, 0, 0, 0, 1]), &rcgen::PKCS_RSA_SHA256), "key_unsupported"),
        (Foreign(rsa(256, &[0]), &rcgen::PKCS_RSA_SHA256), "key_unsupported"),
        // A usable size; then the algorithm of the leaf's signature is not for it.
        (Foreign(rsa(256, &[1, 0, 1]), &rcgen::PKCS_RSA_SHA256), "signature_algorithm"),
        (Foreign(vec![2; 33], &rcgen::PKCS_ECDSA_P256_SHA256), "key_unsupported"),
        (Foreign(vec![4; 65], &rcgen::PKCS_ECDSA_P256_SHA256), "signature_invalid"),
        (Foreign(vec![1; 32], &rcgen::PKCS_ED25519), "key_unsupported"),
    ] {
        let middle = Plan::authority("Middle").of_key(&key, &root);
        let stranger = Plan::authority("Middle").root();
        let leaf = Plan::leaf("Leaf").under(&stranger);
        assert_eq!(reason(&[&leaf.der, &middle, &root.der], &pinned(&root), &Rules::default()), expect);
    }
}

#[test]
fn every_listed_algorithm_verifies_and_no_other() {
    use Hash::{Sha256, Sha384, Sha512};
    use SignatureAlgorithm::{Ecdsa, RsaPkcs1, RsaPss};
    let message = b"what was signed";
    let mut made = Vec::new();
    for (curve, hash) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, Sha256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, Sha384),
        (&rcgen::PKCS_ECDSA_P521_SHA512, Sha512),
    ] {
        let key = KeyPair::generate_for(curve).unwrap();
        let signature = rcgen::SigningKey::sign(&key, message).unwrap();
        made.push((key.subject_public_key_info(), Ecdsa(hash), signature));
    }
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let spki = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(rsa.public_key()).unwrap().as_ref().to_vec();
    for (padding, algorithm) in [
        (&RSA_PKCS1_SHA256 as &'static dyn aws_lc_rs::signature::RsaEncoding, RsaPkcs1(Sha256)),
        (&RSA_PKCS1_SHA384, RsaPkcs1(Sha384)),
        (&RSA_PKCS1_SHA512, RsaPkcs1(Sha512)),
        (&RSA_PSS_SHA256, RsaPss(Sha256)),
        (&RSA_PSS_SHA512, RsaPss(Sha512)),
    ] {
        let mut signature = vec![0; rsa.public_modulus_len()];
        rsa.sign(padding, &SystemRandom::new(), message, &mut signature).unwrap();
        made.push((spki.clone(), algorithm, signature));
    }
    let every: Vec<SignatureAlgorithm> =
        [-7, -35, -36, -37, -38, -39, -257, -258, -259].into_iter().filter_map(SignatureAlgorithm::from_cose).collect();
    assert_eq!(every.len(), 9);
    for (spki, algorithm, signature) in &made {
        for tried in &every {
            let verdict = verify_with_key(spki, *tried, message, signature);
            assert_eq!(verdict.is_ok(), tried == algorithm, "{tried:?} for {algorithm:?}: {verdict:?}");
        }
        assert!(verify_with_key(spki, *algorithm, b"another", signature).is_err());
        assert!(verify_with_key(&[&spki[..], &[0]].concat(), *algorithm, message, signature).is_err());
        assert!(verify_with_key(spki, *algorithm, message, &[]).is_err());
    }
    // r or s of zero or of the curve's order.
    let order: Vec<u8> = [&[0], &ORDER_P256[..]].concat();
    let one = der(&[2], &[1]);
    for half in [der(&[2], &[0]), der(&[2], &order)] {
        for both in [[half.clone(), one.clone()], [one.clone(), half]] {
            let refused = verify_with_key(&made[0].0, made[0].1, message, &der(&[0x30], &both.concat()));
            assert_eq!(refused.unwrap_err().reason, "signature_invalid");
        }
    }
    for id in [-65_535, -47, -8, 0, 5] {
        assert_eq!(SignatureAlgorithm::from_cose(id), None);
    }
}

/// SEC 2, version 2.0, section 2.4.2.
const ORDER_P256: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
    0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

#[test]
fn pem_is_certificates_and_nothing_else() {
    let (root, _, leaf) = family();
    let pem = |der: &[u8]| {
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", Base64::encode_string(der))
    };
    let both = pem(&leaf.der) + "\r\n " + &pem(&root.der);
    assert_eq!(parse_pem_chain(&both), Ok(vec![leaf.der.clone(), root.der]));
    for (text, expect) in [
        (String::new(), "chain_empty"),
        ("  \n".to_owned(), "chain_empty"),
        ("hello".to_owned(), "pem_malformed"),
        (pem(&leaf.der) + "hello", "pem_malformed"),
        (pem(&leaf.der).replace("-----END", "----END"), "pem_malformed"),
        (pem(&leaf.der).replace("CERTIFICATE", "PUBLIC KEY"), "pem_malformed"),
        (pem(b"abc").replace("YWJj", "YW*j"), "pem_malformed"),
        (pem(b"a").repeat(11), "chain_too_long"),
        (pem(&[0; 16_385]), "certificate_too_large"),
        (" ".repeat(PEM_CHARS_MAX + 1), "pem_malformed"),
    ] {
        assert_eq!(parse_pem_chain(&text).unwrap_err().reason, expect);
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes: Vec<u8>, text: String) {
        let _ = parse(std::slice::from_ref(&bytes));
        let _ = parse_pem_chain(&text);
        let _ = verify_with_key(&bytes, SignatureAlgorithm::Ecdsa(Hash::Sha256), &bytes, &bytes);
    }
}
