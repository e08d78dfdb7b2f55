//! Rules that no real evidence reaches, tried with a made-up Apple whom the verifiers are told to trust.

#![expect(clippy::unwrap_used, reason = "tests")]

use super::ber::{self, context};
use super::fixture::{
    Authority, DeviceKey, NONCE_OID, Object, RECEIPT_SIGNER_OID, der, nonce_extension, roots_of, unhex,
};
use super::negatives::write_assertion;
use super::*;
use crate::crypto::sha256;
use crate::kernel::Timestamp;
use base64ct::{Base64, Encoding};

const APP: &str = "TEAM123456.example.app";
const PRODUCTION: &[u8; 16] = b"appattest\0\0\0\0\0\0\0";

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

/// From the due nonce to what the leaf carries.
type Extensions<'f> = &'f dyn Fn(&[u8; 32]) -> Vec<(&'static [u64], Vec<u8>)>;

/// Authenticator data of an attestation, part by part.
struct Raw<'a> {
    app: &'a str,
    flags: u8,
    counter: u32,
    aaguid: &'a [u8; 16],
    id: Vec<u8>,
    cose: Vec<u8>,
    more: &'a [u8],
}

impl Raw<'_> {
    fn write(&self) -> Vec<u8> {
        let length = u16::try_from(self.id.len()).unwrap().to_be_bytes();
        let head = [&sha256(self.app.as_bytes())[..], &[self.flags], &self.counter.to_be_bytes(), self.aaguid].concat();
        [&head[..], &length, &self.id, &self.cose, self.more].concat()
    }
}

#[test]
fn each_rule_of_an_attestation_refuses_on_its_own() {
    let root = Authority::root("Root");
    let below = root.below("Below");
    let (device, other) = (DeviceKey::new(1), DeviceKey::new(2));
    let good = || Raw {
        app: APP,
        flags: 0x40,
        counter: 0,
        aaguid: PRODUCTION,
        id: device.id().to_vec(),
        cose: device.cose(),
        more: &[],
    };
    let judge = |raw: &Raw<'_>, extensions: Extensions<'_>| {
        let raw = raw.write();
        let nonce = sha256(&[&raw[..], &[7; 32]].concat());
        let leaf = below.leaf("device", &device.key, &extensions(&nonce));
        let x5c = vec![leaf, below.der.clone()];
        let object = Object { fmt: "apple-appattest".to_owned(), x5c, receipt: vec![], raw }.write();
        let attestation = Attestation {
            app_id: APP,
            client_data_hash: &[7; 32],
            key_id: &device.id(),
            environment: None,
            object: &object,
        };
        attestation.verify(&ApplePolicy::default(), &roots_of(&root), now()).map_or_else(|e| e.reason, |_| "accepted")
    };
    let usual = |nonce: &[u8; 32]| vec![(NONCE_OID, nonce_extension(nonce))];
    for (raw, verdict) in [
        (good(), "accepted"),
        (Raw { counter: 1, ..good() }, "counter"),
        (Raw { aaguid: b"appattestdevelop", ..good() }, "environment"),
        (Raw { aaguid: b"appattest\0\0\0\0\0\0\x01", ..good() }, "environment"),
        (Raw { id: other.id().to_vec(), ..good() }, "credential_id"),
        (Raw { id: vec![], ..good() }, "credential_id"),
        (Raw { cose: other.cose(), ..good() }, "public_key"),
        (Raw { app: "TEAM123456.example.apq", ..good() }, "app_id"),
        // Flags: no credential, user present, may be backed up.
        (Raw { flags: 0, ..good() }, "flags"),
        (Raw { flags: 0x41, ..good() }, "flags"),
        (Raw { flags: 0x48, ..good() }, "flags"),
        // The map of extensions comes with flag ED and without it, and is a map of names.
        (Raw { more: b"\xa1\x61a\x01", ..good() }, "accepted"),
        (Raw { flags: 0xc0, more: b"\xa1\x61a\x01", ..good() }, "accepted"),
        (Raw { flags: 0xc0, ..good() }, "authenticator_data"),
        (Raw { more: b"\x00", ..good() }, "authenticator_data"),
        (Raw { more: b"\xa1\x01\x01", ..good() }, "authenticator_data"),
        (Raw { more: b"\xa2\x61a\x01\x61a\x02", ..good() }, "authenticator_data"),
        (Raw { more: b"\xa1\x61a\x01\x00", ..good() }, "authenticator_data"),
    ] {
        assert_eq!(judge(&raw, &usual), verdict, "flags {:02x}, {:02x?}", raw.flags, raw.more);
    }

    let octets = |nonce: &[u8; 32]| der(ber::OCTET_STRING, nonce);
    let tagged = |nonce: &[u8; 32]| der(context(1), &octets(nonce));
    type Shape<'s> = &'s dyn Fn(&[u8; 32]) -> Vec<u8>;
    let shapes: [(Shape<'_>, &str); 9] = [
        (&|n| der(ber::SEQUENCE, &tagged(n)), "the usual one"),
        (&|n| n.to_vec(), "bare"),
        (&octets, "an octet string alone"),
        (&|n| der(ber::SEQUENCE, &octets(n)), "no tag"),
        (&|n| der(ber::SEQUENCE, &der(context(0), &octets(n))), "another tag"),
        (&|n| [der(ber::SEQUENCE, &tagged(n)), vec![5, 0]].concat(), "something behind"),
        (&|n| der(ber::SEQUENCE, &[tagged(n), vec![5, 0]].concat()), "something more inside"),
        (&|n| der(ber::SEQUENCE, &[der(context(1), &der(ber::OCTET_STRING, &n[..31]))].concat()), "a byte less"),
        // The nonce is somewhere in there: looking for its bytes would find it.
        (&|n| der(ber::SEQUENCE, &der(context(1), &der(ber::OCTET_STRING, &[&[0; 6][..], n].concat()))), "more bytes"),
    ];
    for (shape, what) in shapes {
        let due = if what == "the usual one" { "accepted" } else { "nonce" };
        assert_eq!(judge(&good(), &|nonce| vec![(NONCE_OID, shape(nonce))]), due, "{what}");
    }
    assert_eq!(judge(&good(), &|_| vec![]), "nonce");
    let twice = |nonce: &[u8; 32]| vec![(NONCE_OID, nonce_extension(&[0; 32])), (NONCE_OID, nonce_extension(nonce))];
    assert_eq!(judge(&good(), &twice), "extension_duplicate");
}

#[test]
fn an_assertion_may_carry_extensions_and_nothing_else() {
    let device = DeviceKey::new(5);
    let key = spki_of_point(&device.point);
    let judge = |flags: u8, more: &[u8]| {
        let raw = [&sha256(APP.as_bytes())[..], &[flags], &8_u32.to_be_bytes(), more].concat();
        let nonce = sha256(&[&raw[..], &sha256(b"data")].concat());
        let assertion = Base64::decode_vec(&write_assertion(&device.sign_asn1(&nonce), &raw)).unwrap();
        let asserted = Assertion {
            app_id: APP,
            public_key_spki: &key,
            client_data: b"data",
            previous_counter: 7,
            assertion: &assertion,
        };
        asserted.verify().map_or_else(|e| e.reason.to_owned(), |a| serde_json::to_string(&a.claims()).unwrap())
    };
    assert_eq!(judge(0x40, &[]), r#"{"counter":8,"extensions":{}}"#);
    assert_eq!(judge(0x00, &[]), r#"{"counter":8,"extensions":{}}"#);
    assert_eq!(judge(0x40, b"\xa1\x61v\x42\x01\x00"), r#"{"counter":8,"extensions":{"v_hex":"0100"}}"#);
    assert_eq!(judge(0x80, b"\xa1\x61v\x611"), r#"{"counter":8,"extensions":{"v":"1"}}"#);
    assert_eq!(judge(0x80, &[]), "authenticator_data");
    assert_eq!(judge(0x40, &[0]), "authenticator_data");
    assert_eq!(judge(0x45, &[]), "flags");
}

/// r and s of zero, of the order of the curve, and of one more than the order.
#[test]
fn a_signature_of_zeros_or_of_the_curves_order_is_refused() {
    let device = DeviceKey::new(6);
    let key = spki_of_point(&device.point);
    let raw = [&sha256(APP.as_bytes())[..], &[0x40, 0, 0, 0, 1]].concat();
    let order = unhex("00ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");
    let above = unhex("00ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632552");
    let numbers = [vec![0], vec![1], order, above];
    for r in &numbers {
        for s in &numbers {
            let signature = der(ber::SEQUENCE, &[der(ber::INTEGER, r), der(ber::INTEGER, s)].concat());
            let assertion = Base64::decode_vec(&write_assertion(&signature, &raw)).unwrap();
            let verdict = Assertion {
                app_id: APP,
                public_key_spki: &key,
                client_data: b"",
                previous_counter: 0,
                assertion: &assertion,
            }
            .verify();
            assert_eq!(verdict.unwrap_err().reason, "signature", "{r:02x?} {s:02x?}");
        }
    }
}

const SIGNED_DATA: &str = "06092a864886f70d010702";
const DATA: &str = "06092a864886f70d010701";
const SHA256: &str = "300d06096086480165030402010500";
const ECDSA_WITH_SHA256: &str = "300a06082a8648ce3d040302";

/// A receipt, part by part.
#[derive(Clone)]
struct Made {
    fields: Vec<(u8, Vec<u8>)>,
    attributes: Option<Vec<u8>>,
    marked: bool,
    behind: Vec<u8>,
}

fn attribute(oid: &str, value: &[u8]) -> Vec<u8> {
    der(ber::SEQUENCE, &[unhex(oid), der(ber::SET, value)].concat())
}

struct Forge {
    root: Authority,
    below: Authority,
    signer: DeviceKey,
    attested: Vec<u8>,
}

impl Forge {
    fn content(fields: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let field = |(number, value): &(u8, Vec<u8>)| {
            der(ber::SEQUENCE, &[vec![2, 1, *number, 2, 1, 1], der(ber::OCTET_STRING, value)].concat())
        };
        der(ber::SET, &fields.iter().flat_map(field).collect::<Vec<_>>())
    }

    fn write(&self, made: &Made) -> Vec<u8> {
        let content = Self::content(&made.fields);
        let marks = [(RECEIPT_SIGNER_OID, vec![5, 0])];
        let leaf = self.below.leaf("Signing", &self.signer.key, if made.marked { &marks } else { &[] });
        let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).unwrap();
        let name = [parsed.issuer().as_raw(), &der(ber::INTEGER, parsed.raw_serial())].concat();
        let message = made.attributes.as_ref().map_or_else(|| content.clone(), |a| der(ber::SET, a));
        let signer = [
            vec![2, 1, 1],
            der(ber::SEQUENCE, &name),
            unhex(SHA256),
            made.attributes.as_ref().map(|a| der(context(0), a)).unwrap_or_default(),
            unhex(ECDSA_WITH_SHA256),
            der(ber::OCTET_STRING, &self.signer.sign_asn1(&message)),
        ]
        .concat();
        let inside = [unhex(DATA), der(context(0), &der(ber::OCTET_STRING, &content))].concat();
        let data = [
            vec![2, 1, 1],
            der(ber::SET, &unhex(SHA256)),
            der(ber::SEQUENCE, &inside),
            der(context(0), &[&leaf[..], &self.below.der].concat()),
            der(ber::SET, &der(ber::SEQUENCE, &signer)),
        ]
        .concat();
        let info = [unhex(SIGNED_DATA), der(context(0), &der(ber::SEQUENCE, &data))].concat();
        [der(ber::SEQUENCE, &info), made.behind.clone()].concat()
    }

    fn judge(&self, made: &Made) -> &'static str {
        let receipt = Receipt { app_id: APP, public_key_spki: None, environment: None, receipt: &self.write(made) };
        let verdict = receipt.verify(&ApplePolicy::default(), &roots_of(&self.root), now());
        verdict.map_or_else(|e| e.reason, |_| "accepted")
    }
}

fn forge() -> (Forge, Made) {
    let root = Authority::root("Root");
    let below = root.below("Below");
    let attested = below.leaf("device", &DeviceKey::new(8).key, &[]);
    let forge = Forge { root, below, signer: DeviceKey::new(7), attested };
    let fields = vec![
        (2, APP.into()),
        (3, forge.attested.clone()),
        (6, b"RECEIPT".to_vec()),
        (12, b"2026-03-01T11:59:00Z".to_vec()),
        (17, b"4".to_vec()),
        (21, b"2026-05-30T11:59:00Z".to_vec()),
    ];
    let made = Made { fields, attributes: None, marked: true, behind: vec![] };
    (forge, made)
}

#[test]
fn each_rule_of_a_receipt_refuses_on_its_own() {
    let (forge, good) = forge();
    let with = |number: u8, value: &[u8]| {
        let mut made = good.clone();
        made.fields.retain(|(n, _)| *n != number);
        made.fields.push((number, value.to_vec()));
        made
    };
    let without = |number: u8| {
        let mut made = good.clone();
        made.fields.retain(|(n, _)| *n != number);
        made
    };
    let twice = |number: u8| {
        let mut made = good.clone();
        let field = made.fields.iter().find(|(n, _)| *n == number).unwrap().clone();
        made.fields.push(field);
        made
    };
    let many = Made { fields: [good.fields.clone(), vec![(0x7f, vec![]); 70]].concat(), ..good.clone() };
    for (made, verdict, what) in [
        (good.clone(), "accepted", "the good one"),
        (without(17), "accepted", "no risk metric"),
        (with(99, b"new"), "accepted", "a field that is not known"),
        (Made { marked: false, ..good.clone() }, "receipt_signer", "a signer for something else"),
        (Made { behind: vec![0], ..good.clone() }, "receipt_form", "a byte behind"),
        (without(2), "receipt_field", "no app"),
        (without(3), "receipt_field", "no key"),
        (without(6), "receipt_field", "no kind"),
        (without(12), "receipt_field", "no date"),
        (without(21), "receipt_field", "no end"),
        (twice(2), "receipt_field", "the app twice"),
        (twice(17), "receipt_field", "the risk metric twice"),
        (many, "receipt_field", "too many fields"),
        (with(2, b"TEAM123456.example.apq"), "app_id", "another app"),
        (with(3, b"x"), "receipt_field", "no certificate"),
        (with(6, b"ORDER"), "receipt_field", "another kind"),
        (with(7, b"staging"), "receipt_field", "another environment"),
        (with(12, b"yesterday"), "receipt_field", "no time"),
        (with(17, b"4.5"), "receipt_field", "no number"),
        (with(17, b"-1"), "receipt_field", "a negative number"),
        (with(5, b"\xff"), "receipt_field", "no text"),
        (with(21, b"2026-03-01T12:00:00Z"), "receipt_expired", "at its end"),
    ] {
        assert_eq!(forge.judge(&made), verdict, "{what}");
    }
}

/// Apple signs the content itself today; CMS also lets a signer sign attributes that name the content's digest.
#[test]
fn signed_attributes_count_when_they_name_this_content() {
    const CONTENT_TYPE: &str = "06092a864886f70d010903";
    const MESSAGE_DIGEST: &str = "06092a864886f70d010904";
    const SIGNING_TIME: &str = "06092a864886f70d010905";
    let (forge, good) = forge();
    let digest = |of: &[u8]| attribute(MESSAGE_DIGEST, &der(ber::OCTET_STRING, &sha256(of)));
    let content = Forge::content(&good.fields);
    let right = digest(&content);
    let kind = attribute(CONTENT_TYPE, &unhex(DATA));
    let time = attribute(SIGNING_TIME, &der(0x17, b"260301115900Z"));
    for (attributes, verdict, what) in [
        ([kind.clone(), right.clone()].concat(), "accepted", "the two that are due"),
        ([kind.clone(), time, right.clone()].concat(), "accepted", "and one more"),
        ([kind.clone(), digest(b"other")].concat(), "receipt_form", "another content's digest"),
        (right.clone(), "receipt_form", "no content type"),
        (kind.clone(), "receipt_form", "no digest"),
        ([kind.clone(), right.clone(), right.clone()].concat(), "receipt_form", "the digest twice"),
        ([attribute(CONTENT_TYPE, &unhex(SIGNED_DATA)), right.clone()].concat(), "receipt_form", "another type"),
        ([kind.clone(), right.clone(), kind.repeat(20)].concat(), "receipt_form", "too many"),
        (vec![], "receipt_form", "none"),
    ] {
        assert_eq!(forge.judge(&Made { attributes: Some(attributes), ..good.clone() }), verdict, "{what}");
    }
}
