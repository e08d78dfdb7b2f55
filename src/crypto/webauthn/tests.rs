//! Passkeys of our own making: each rule by itself, and the attacks that it stands against.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use base64ct::{Base64UrlUnpadded, Encoding};
use minicbor::Encoder;
use proptest::prelude::{ProptestConfig, any};

use super::*;
use crate::crypto::cbor::CborError;
use crate::crypto::cose::CoseError;
use crate::crypto::strict_json::StrictJsonError;
use crate::kernel::Random;
use crate::testkit::passkey::Passkey;

const RP_ID: &str = "appliance.lan";
const ORIGIN: &str = "https://appliance.lan:8443";
const CHALLENGE: [u8; 32] = [0xfb; 32];

fn origins() -> Vec<String> {
    vec![ORIGIN.to_owned()]
}

fn expected(origins: &[String]) -> Expected<'_> {
    Expected {
        rp_id: RP_ID,
        origins,
        challenge: &CHALLENGE,
        user_verification_required: true,
        cross_origin_allowed: false,
        algorithms: &[Algorithm::Es256],
    }
}

fn passkey() -> Passkey {
    Passkey::new(RP_ID, ORIGIN, &Random::seeded(3))
}

fn challenge() -> String {
    Base64UrlUnpadded::encode_string(&CHALLENGE)
}

fn part(answer: &serde_json::Value, name: &str) -> Vec<u8> {
    Base64UrlUnpadded::decode_vec(answer["response"][name].as_str().unwrap()).unwrap()
}

fn object(fmt: &str, statement: &[u8], data: &[u8]) -> Vec<u8> {
    let mut e = Encoder::new(Vec::new());
    e.map(3).unwrap().str("fmt").unwrap().str(fmt).unwrap().str("attStmt").unwrap();
    e.writer_mut().extend_from_slice(statement);
    e.str("authData").unwrap().bytes(data).unwrap();
    e.into_writer()
}

const EMPTY_MAP: &[u8] = &[0xa0];

/// Registers what the passkey says.
fn register(key: &mut Passkey) -> Result<Registered, WebauthnError> {
    let answer = key.register(&challenge());
    verify_registration(&expected(&origins()), &part(&answer, "clientDataJSON"), &part(&answer, "attestationObject"))
}

/// Registers with client data and an attestation object made by hand.
fn register_with(client_data: &[u8], object: &[u8]) -> Result<Vec<u8>, WebauthnError> {
    verify_registration(&expected(&origins()), client_data, object).map(|r| r.credential_id)
}

fn stored_of(registered: &Registered) -> StoredCredential<'_> {
    StoredCredential {
        public_key_cose: &registered.public_key_cose,
        sign_count: registered.sign_count,
        backup_eligible: registered.backup_eligible,
    }
}

fn assert_with(key: &mut Passkey, stored: &StoredCredential<'_>) -> Result<Asserted, WebauthnError> {
    let answer = key.assert(&challenge());
    verify_assertion(
        &expected(&origins()),
        stored,
        &part(&answer, "clientDataJSON"),
        &part(&answer, "authenticatorData"),
        &part(&answer, "signature"),
    )
}

#[test]
fn a_passkey_is_registered_and_used() {
    let mut key = passkey();
    let registered = register(&mut key).unwrap();
    assert_eq!(registered.credential_id, key.credential_id);
    assert_eq!(registered.algorithm, Algorithm::Es256);
    assert_eq!((registered.sign_count, registered.user_verified), (1, true));
    assert_eq!((registered.backup_eligible, registered.backed_up), (false, false));
    assert_eq!(registered.attestation.fmt, "none");
    assert!(!registered.attestation.self_attested);
    let asserted = assert_with(&mut key, &stored_of(&registered)).unwrap();
    assert_eq!(asserted, Asserted { sign_count: 2, user_verified: true, backed_up: false });
}

#[test]
fn the_counter_of_a_clone_falls_behind() {
    let fault = |stored, presented| Err(WebauthnError::Counter { stored, presented });
    for (stored, presented, verdict) in [
        (0, 0, Ok(0)),
        (0, 1, Ok(1)),
        (1, 2, Ok(2)),
        (1, u32::MAX, Ok(u32::MAX)),
        (1, 1, fault(1, 1)),
        (2, 1, fault(2, 1)),
        // One that counted once must go on counting.
        (1, 0, fault(1, 0)),
        (u32::MAX, 0, fault(u32::MAX, 0)),
        (u32::MAX, u32::MAX, fault(u32::MAX, u32::MAX)),
    ] {
        let mut key = passkey();
        let registered = register(&mut key).unwrap();
        key.counts = false;
        key.counter = presented;
        let stored = StoredCredential { sign_count: stored, ..stored_of(&registered) };
        assert_eq!(assert_with(&mut key, &stored).map(|a| a.sign_count), verdict);
    }
}

/// A broken signature must never look like a clone: that would let anybody raise the alarm.
#[test]
fn the_counter_is_judged_only_when_all_else_is_genuine() {
    let (mut key, mut stranger) = (passkey(), Passkey::new(RP_ID, ORIGIN, &Random::seeded(4)));
    let registered = register(&mut key).unwrap();
    let stored = StoredCredential { sign_count: 1000, ..stored_of(&registered) };
    assert_eq!(assert_with(&mut stranger, &stored), Err(WebauthnError::Signature));
}

#[test]
fn an_authenticator_that_lies_about_one_thing_is_refused_for_that_thing() {
    type Turn = fn(&mut Passkey);
    for (turn, fault) in [
        ((|k| k.user_present = false) as Turn, WebauthnError::UserAbsent),
        (|k| k.user_verified = false, WebauthnError::UserUnverified),
        (|k| k.backed_up = true, WebauthnError::BackupState),
        (|k| k.rp_id = "evil.example".to_owned(), WebauthnError::RpId),
        (|k| k.origin = "https://appliance.lan".to_owned(), WebauthnError::Origin),
        (|k| k.origin = "https://APPLIANCE.lan:8443".to_owned(), WebauthnError::Origin),
        (|k| k.origin = "https://appliance.lan:8443/".to_owned(), WebauthnError::Origin),
        (|k| k.origin = "http://appliance.lan:8443".to_owned(), WebauthnError::Origin),
        (|k| k.cross_origin = true, WebauthnError::CrossOrigin),
    ] {
        let mut key = passkey();
        let registered = register(&mut key).unwrap();
        turn(&mut key);
        assert_eq!(register(&mut key).map(|r| r.credential_id), Err(fault));
        assert_eq!(assert_with(&mut key, &stored_of(&registered)), Err(fault));
    }
    for (length, verdict) in [(0, false), (1, true), (CREDENTIAL_ID_BYTES_MAX, true), (1024, false)] {
        let mut key = passkey();
        key.credential_id = vec![7; length];
        let due = if verdict { Ok(vec![7; length]) } else { Err(WebauthnError::CredentialIdLength) };
        assert_eq!(register(&mut key).map(|r| r.credential_id), due);
    }
}

#[test]
fn eligibility_for_backup_stays_and_the_backup_itself_comes_and_goes() {
    let mut key = passkey();
    key.backup_eligible = true;
    let registered = register(&mut key).unwrap();
    assert_eq!((registered.backup_eligible, registered.backed_up), (true, false));
    for backed_up in [true, false] {
        key.backed_up = backed_up;
        assert_eq!(assert_with(&mut key, &stored_of(&registered)).map(|a| a.backed_up), Ok(backed_up));
    }
    key.backup_eligible = false;
    assert_eq!(assert_with(&mut key, &stored_of(&registered)), Err(WebauthnError::BackupEligibility));
}

#[test]
fn client_data_has_one_meaning_and_is_for_this_ceremony() {
    use StrictJsonError::{Duplicate, NotObject, Syntax};
    let mut key = passkey();
    let data = key.registration_data();
    let object = object("none", EMPTY_MAP, &data);
    let c = challenge();
    let json = |kind: &str, challenge: &str, more: &str| {
        format!(r#"{{"type":"{kind}","challenge":"{challenge}","origin":"{ORIGIN}"{more}}}"#)
    };
    let create = |more: &str| json("webauthn.create", &c, more);
    // 32 bytes leave two bits of the last character unused: another spelling of the same bytes.
    let respelled = format!("{}t", c.strip_suffix('s').unwrap());
    for (text, fault) in [
        (json("webauthn.get", &c, ""), WebauthnError::Type),
        (json("", &c, ""), WebauthnError::Type),
        (format!(r#"{{"challenge":"{c}","origin":"{ORIGIN}"}}"#), WebauthnError::Type),
        (json("webauthn.create", "", ""), WebauthnError::Challenge),
        (json("webauthn.create", &format!("{c}="), ""), WebauthnError::Challenge),
        (json("webauthn.create", &c.replace('-', "+"), ""), WebauthnError::Challenge),
        (json("webauthn.create", &respelled, ""), WebauthnError::Challenge),
        (format!(r#"{{"type":"webauthn.create","challenge":1,"origin":"{ORIGIN}"}}"#), WebauthnError::Challenge),
        (format!(r#"{{"type":"webauthn.create","challenge":"{c}"}}"#), WebauthnError::Origin),
        (create(r#","crossOrigin":true"#), WebauthnError::CrossOrigin),
        (create(r#","crossOrigin":"false""#), WebauthnError::CrossOrigin),
        (create(r#","crossOrigin":null"#), WebauthnError::CrossOrigin),
        (create(r#","topOrigin":"https://evil.example""#), WebauthnError::TopOrigin),
        (create(r#","topOrigin":null"#), WebauthnError::TopOrigin),
        (create(r#","type":"webauthn.create""#), WebauthnError::ClientData(Duplicate)),
        (format!("[{}]", create("")), WebauthnError::ClientData(NotObject)),
        (format!("\u{feff}{}", create("")), WebauthnError::ClientData(Syntax)),
        (String::new(), WebauthnError::ClientData(Syntax)),
        (create(&format!(r#","x":"{}""#, "x".repeat(CLIENT_DATA_BYTES_MAX))), WebauthnError::ClientDataTooLong),
    ] {
        assert_eq!(register_with(text.as_bytes(), &object), Err(fault), "{text:.200}");
    }
    for more in [
        "",
        r#","crossOrigin":false"#,
        r#","tokenBinding":{"status":"supported"},"x":[1]"#,
        &format!(r#","topOrigin":"{ORIGIN}""#),
    ] {
        assert!(register_with(create(more).as_bytes(), &object).is_ok(), "{more}");
    }
    // Where frames are allowed, only a frame has a page of another origin above it.
    for (more, due) in [
        (r#","crossOrigin":true"#, None),
        (r#","crossOrigin":true,"topOrigin":"https://portal.example""#, None),
        (r#","crossOrigin":1"#, Some(WebauthnError::CrossOrigin)),
        (r#","crossOrigin":false,"topOrigin":"https://portal.example""#, Some(WebauthnError::TopOrigin)),
        (r#","crossOrigin":true,"topOrigin":7"#, Some(WebauthnError::TopOrigin)),
    ] {
        let origins = origins();
        let framed = Expected { cross_origin_allowed: true, ..expected(&origins) };
        assert_eq!(verify_registration(&framed, create(more).as_bytes(), &object).err(), due, "{more}");
    }
}

/// An empty challenge would be answered by an empty one.
#[test]
fn a_challenge_that_is_too_short_is_never_met() {
    for (length, verdict) in [(0, false), (CHALLENGE_BYTES_MIN - 1, false), (CHALLENGE_BYTES_MIN, true)] {
        let mut key = passkey();
        let answer = key.register(&Base64UrlUnpadded::encode_string(&CHALLENGE[..length]));
        let origins = origins();
        let expected = Expected { challenge: &CHALLENGE[..length], ..expected(&origins) };
        let object = part(&answer, "attestationObject");
        let found = verify_registration(&expected, &part(&answer, "clientDataJSON"), &object);
        assert_eq!(found.err(), (!verdict).then_some(WebauthnError::Challenge));
    }
}

#[test]
fn authenticator_data_holds_what_its_flags_say_and_nothing_else() {
    let mut key = passkey();
    let client_data = key.client_data("webauthn.create", &challenge());
    let data = key.registration_data();
    let plain = key.authenticator_data(0, &[]);
    let credential = data[37..].to_vec();
    let mut with = |flags: u8, more: &[&[u8]]| key.authenticator_data(flags, &more.concat());
    for (data, fault) in [
        (plain.clone(), WebauthnError::NoCredential),
        (plain[..36].to_vec(), WebauthnError::Truncated),
        (vec![], WebauthnError::Truncated),
        (with(0x40, &[]), WebauthnError::Truncated),
        (with(0x40, &[&credential[..40]]), WebauthnError::Truncated),
        (with(0x40, &[&credential[..60]]), WebauthnError::Key(CoseError::Cbor(CborError::Truncated))),
        (with(0x40, &[&credential, &[0]]), WebauthnError::Trailing),
        // Extensions that no flag announces.
        (with(0x40, &[&credential, EMPTY_MAP]), WebauthnError::Trailing),
        (with(0, &[&credential]), WebauthnError::Trailing),
        (with(0xc0, &[&credential]), WebauthnError::Extensions(CborError::Truncated)),
        (with(0xc0, &[&credential, EMPTY_MAP, &[0]]), WebauthnError::Trailing),
        (with(0xc0, &[&credential, &[0x80]]), WebauthnError::ExtensionsForm),
        (with(0xc0, &[&credential, &[0xa2, 0, 0, 0, 0]]), WebauthnError::Extensions(CborError::DuplicateKey)),
    ] {
        assert_eq!(register_with(&client_data, &object("none", EMPTY_MAP, &data)), Err(fault), "{data:02x?}");
    }
    let extended = with(0xc0, &[&credential, b"\xa1\x6bcredProtect\x02"]);
    assert!(register_with(&client_data, &object("none", EMPTY_MAP, &extended)).is_ok());
    let found = AuthenticatorData::parse(&extended).unwrap().extensions.unwrap();
    assert_eq!(found.member("credProtect"), Some(&Value::Unsigned(2)));
    // Reserved bits.
    assert!(register_with(&client_data, &object("none", EMPTY_MAP, &with(0x62, &[&credential]))).is_ok());
}

#[test]
fn an_attestation_object_is_one_map_of_three() {
    let mut key = passkey();
    let client_data = key.client_data("webauthn.create", &challenge());
    let data = key.registration_data();
    let good = object("none", EMPTY_MAP, &data);
    let doubled = [&[0xa4][..], &good[1..], b"\x63fmt\x64none"].concat();
    let unknown = [&[0xa4][..], &good[1..], b"\x65epAtt\xf4"].concat();
    let parts = [&[0xbf][..], &good[1..], &[0xff]].concat();
    let text = |value: &str| [&[0x60 + u8::try_from(value.len()).unwrap()][..], value.as_bytes()].concat();
    let bad = WebauthnError::AttestationObject;
    for (object, fault) in [
        (vec![], bad(CborError::Truncated)),
        ([&good[..], &[0]].concat(), bad(CborError::Trailing)),
        (doubled, bad(CborError::DuplicateKey)),
        (parts, bad(CborError::Indefinite)),
        (vec![0x80], WebauthnError::AttestationForm),
        (EMPTY_MAP.to_vec(), WebauthnError::AttestationForm),
        ([&[0xa1][..], &text("fmt"), &text("none")].concat(), WebauthnError::AttestationForm),
        (object("none", &[0xf6], &data), WebauthnError::AttestationForm),
        (object("", EMPTY_MAP, &data), WebauthnError::AttestationForm),
        (object(&"x".repeat(33), EMPTY_MAP, &data), WebauthnError::AttestationForm),
        (vec![0; ATTESTATION_OBJECT_BYTES_MAX + 1], WebauthnError::AttestationObjectTooLong),
        (object("none", b"\xa1\x63sig\x40", &data), WebauthnError::NoneStatement),
    ] {
        assert_eq!(register_with(&client_data, &object), Err(fault), "{:02x?}", &object[..object.len().min(40)]);
    }
    assert!(register_with(&client_data, &unknown).is_ok());
}

#[test]
fn a_self_attestation_is_signed_by_the_credential_itself() {
    let (mut key, stranger) = (passkey(), Passkey::new(RP_ID, ORIGIN, &Random::seeded(4)));
    let client_data = key.client_data("webauthn.create", &challenge());
    let data = key.registration_data();
    let statement = |alg: i64, signature: &[u8], certificates: bool| {
        let mut e = Encoder::new(Vec::new());
        e.map(2 + u64::from(certificates)).unwrap();
        e.str("alg").unwrap().i64(alg).unwrap().str("sig").unwrap().bytes(signature).unwrap();
        if certificates {
            e.str("x5c").unwrap().array(1).unwrap().bytes(b"not looked at here").unwrap();
        }
        e.into_writer()
    };
    let signature = key.sign(&data, &client_data);
    let verify = |statement: &[u8]| {
        let object = object("packed", statement, &data);
        verify_registration(&expected(&origins()), &client_data, &object).map(|r| r.attestation.self_attested)
    };
    assert_eq!(verify(&statement(-7, &signature, false)), Ok(true));
    for bad in [
        statement(-8, &signature, false),
        statement(-7, &[], false),
        statement(-7, &stranger.sign(&data, &client_data), false),
        statement(-7, &key.sign(&data, b"{}"), false),
        statement(-7, &[&signature[..], &[0]].concat(), false),
        EMPTY_MAP.to_vec(),
        b"\xa1\x63alg\x26".to_vec(),
    ] {
        assert_eq!(verify(&bad), Err(WebauthnError::SelfAttestation));
    }
    // Certificates speak for it: a matter of another judge, and never called self-attested.
    assert_eq!(verify(&statement(-7, &[], true)), Ok(false));
}

#[test]
fn an_assertion_brings_no_credential_and_no_loose_ends() {
    let mut key = passkey();
    let registered = register(&mut key).unwrap();
    let stored = stored_of(&registered);
    let client_data = key.client_data("webauthn.get", &challenge());
    let with_credential = key.registration_data();
    let trailing = key.authenticator_data(0, &[0]);
    let extended = key.authenticator_data(0x80, EMPTY_MAP);
    let long = key.authenticator_data(0x80, &vec![0; ASSERTION_DATA_BYTES_MAX]);
    let origins = origins();
    let verify = |stored: &StoredCredential<'_>, data: &[u8]| {
        verify_assertion(&expected(&origins), stored, &client_data, data, &key.sign(data, &client_data)).err()
    };
    assert_eq!(verify(&stored, &with_credential), Some(WebauthnError::UnexpectedCredential));
    assert_eq!(verify(&stored, &trailing), Some(WebauthnError::Trailing));
    assert_eq!(verify(&stored, &long), Some(WebauthnError::AuthenticatorDataTooLong));
    assert_eq!(verify(&stored, &extended), None);
    let lost = StoredCredential { public_key_cose: &[], ..stored };
    assert_eq!(verify(&lost, &extended), Some(WebauthnError::StoredKey(CoseError::Cbor(CborError::Truncated))));
}

proptest::proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_bytes_make_a_ceremony_panic(
        a in proptest::collection::vec(any::<u8>(), 0..300),
        b in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut key = passkey();
        let origins = origins();
        let registered = register(&mut key).unwrap();
        let _ = AuthenticatorData::parse(&a);
        let create = key.client_data("webauthn.create", &challenge());
        let get = key.client_data("webauthn.get", &challenge());
        let signature = key.sign(&a, &get);
        let expected = expected(&origins);
        proptest::prop_assert!(verify_registration(&expected, &a, &b).is_err());
        proptest::prop_assert!(verify_registration(&expected, &create, &object("none", EMPTY_MAP, &a)).is_err());
        let stored = stored_of(&registered);
        proptest::prop_assert!(verify_assertion(&expected, &stored, &a, &b, &a).is_err());
        proptest::prop_assert!(verify_assertion(&expected, &stored, &get, &a, &signature).is_err());
    }

    /// One changed byte anywhere in what is signed breaks the signature, if nothing else before it.
    #[test]
    fn one_changed_byte_breaks_an_assertion(at in any::<proptest::sample::Index>(), by in 1_u8..=255) {
        let mut key = passkey();
        let registered = register(&mut key).unwrap();
        let answer = key.assert(&challenge());
        let mut parts = [part(&answer, "clientDataJSON"), part(&answer, "authenticatorData"), part(&answer, "signature")];
        let at = at.index(parts.iter().map(Vec::len).sum());
        *parts.iter_mut().flatten().nth(at).unwrap() ^= by;
        let origins = origins();
        let [client_data, data, signature] = &parts;
        let verdict = verify_assertion(&expected(&origins), &stored_of(&registered), client_data, data, signature);
        proptest::prop_assert!(verdict.is_err());
    }

    #[test]
    fn one_changed_byte_never_makes_a_registration_panic(at in any::<proptest::sample::Index>(), with: u8) {
        let mut key = passkey();
        let answer = key.register(&challenge());
        let mut object = part(&answer, "attestationObject");
        let at = at.index(object.len());
        object[at] = with;
        let _ = register_with(&part(&answer, "clientDataJSON"), &object);
    }
}
