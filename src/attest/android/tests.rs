//! What the judge of Android keys promises, on statements that are right but for one thing.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod vectors;

use super::*;
use crate::attest::chain::testing::{Plan, Signer, der};

const ATTESTATION_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 11129, 2, 1, 17];
const EAT_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 11129, 2, 1, 25];
const PROVISIONING_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 11129, 2, 1, 30];
const CHALLENGE: &[u8] = b"challenge";

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

fn int(value: u64) -> Vec<u8> {
    let bytes: Vec<u8> = value.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
    let sign: &[u8] = if bytes.first().is_none_or(|byte| *byte >= 0x80) { &[0] } else { &[] };
    der(&[2], &[sign, &bytes].concat())
}

fn member(number: u32, value: &[u8]) -> Vec<u8> {
    let tag = match u8::try_from(number) {
        Ok(low) if low < 31 => vec![0xa0 | low],
        Ok(low) if low < 128 => vec![0xbf, low],
        _ => vec![0xbf, 0x80 | u8::try_from(number >> 7).unwrap(), u8::try_from(number & 0x7f).unwrap()],
    };
    der(&tag, value)
}

fn octets(bytes: &[u8]) -> Vec<u8> {
    der(&[4], bytes)
}

fn boot(locked: bool, state: u8) -> Vec<u8> {
    let locked = if locked { 0xff } else { 0 };
    der(&[0x30], &[octets(&[9; 32]), der(&[1], &[locked]), der(&[10], &[state]), octets(&[7; 32])].concat())
}

fn app(packages: &[&str], signers: &[[u8; 32]]) -> Vec<u8> {
    let package = |name: &&str| der(&[0x30], &[octets(name.as_bytes()), int(12)].concat());
    let packages: Vec<u8> = packages.iter().flat_map(package).collect();
    let signers: Vec<u8> = signers.iter().flat_map(|digest| octets(digest)).collect();
    octets(&der(&[0x30], &[der(&[0x31], &packages), der(&[0x31], &signers)].concat()))
}

/// A statement that the default policy takes, before a test spoils it.
#[derive(Clone)]
struct Statement {
    version: u64,
    levels: [u8; 2],
    software: Vec<(u32, Vec<u8>)>,
    hardware: Vec<(u32, Vec<u8>)>,
}

impl Statement {
    fn good() -> Self {
        Self {
            version: 300,
            levels: [1, 1],
            software: vec![(701, int(1_700_000_000_000)), (709, app(&["com.good"], &[[0xab; 32]]))],
            hardware: vec![
                (1, der(&[0x31], &[int(2), int(3)].concat())),
                (2, int(3)),
                (3, int(256)),
                (702, int(0)),
                (704, boot(true, 0)),
                (705, int(140_000)),
                (706, int(202_511)),
                (718, int(20_251_105)),
                (719, int(20_251_005)),
            ],
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn hardware(self, number: u32, value: Option<Vec<u8>>) -> Self {
        self.with(|s| replace(&mut s.hardware, number, value))
    }

    fn software(self, number: u32, value: Option<Vec<u8>>) -> Self {
        self.with(|s| replace(&mut s.software, number, value))
    }

    fn to_der(&self) -> Vec<u8> {
        let list = |members: &[(u32, Vec<u8>)]| {
            der(&[0x30], &members.iter().flat_map(|(number, value)| member(*number, value)).collect::<Vec<_>>())
        };
        let parts = [
            int(self.version),
            der(&[10], &[self.levels[0]]),
            int(self.version),
            der(&[10], &[self.levels[1]]),
            octets(CHALLENGE),
            octets(&[]),
            list(&self.software),
            list(&self.hardware),
        ];
        der(&[0x30], &parts.concat())
    }
}

fn replace(list: &mut Vec<(u32, Vec<u8>)>, number: u32, value: Option<Vec<u8>>) {
    list.retain(|(known, _)| *known != number);
    list.extend(value.map(|value| (number, value)));
    list.sort_by_key(|(number, _)| *number);
}

struct Maker {
    root: Signer,
    batch: Signer,
}

impl Maker {
    fn new() -> Self {
        let root = Plan::authority("Root").root();
        let batch = Plan::authority("Batch").under(&root);
        Self { root, batch }
    }

    fn roots(&self) -> Anchors {
        Anchors::new(vec![Anchor::from_certificate("maker", &self.root.der).unwrap()])
    }

    fn chain(&self, extension: Vec<u8>) -> Vec<Vec<u8>> {
        let leaf = Plan::leaf("Key").extension(ATTESTATION_OID, false, extension).under(&self.batch);
        vec![leaf.der, self.batch.der.clone(), self.root.der.clone()]
    }

    fn judge(&self, chain: &[Vec<u8>], policy: &AndroidPolicy) -> Result<Attested, Refused> {
        let roots = self.roots();
        verify(&Evidence { chain, challenge: Some(CHALLENGE), roots: &roots, status_list: None }, policy, now())
    }

    fn reason(&self, extension: Vec<u8>, policy: &AndroidPolicy) -> &'static str {
        self.judge(&self.chain(extension), policy).map_or_else(|refused| refused.reason, |_| "accepted")
    }
}

fn policy(toml: &str) -> AndroidPolicy {
    toml::from_str(toml).unwrap()
}

#[test]
fn only_what_the_hardware_states_counts() {
    let maker = Maker::new();
    let good = Statement::good;
    for (statement, strict, lenient) in [
        (good(), "accepted", "accepted"),
        (good().with(|s| s.levels = [2, 2]), "accepted", "accepted"),
        (good().with(|s| s.levels = [0, 1]), "security_level", "security_level"),
        (good().with(|s| s.levels = [1, 2]), "security_level", "security_level"),
        (good().with(|s| s.levels = [0, 0]), "security_level", "accepted"),
        (good().with(|s| s.levels = [3, 3]), "attestation_malformed", "attestation_malformed"),
        (good().hardware(702, Some(int(2))), "origin", "origin"),
        (good().hardware(702, Some(int(4))), "origin", "origin"),
        (good().hardware(702, None), "origin", "origin"),
        (good().hardware(702, None).software(702, Some(int(0))), "origin", "origin"),
        (good().hardware(704, None), "root_of_trust_missing", "accepted"),
        (good().hardware(704, None).software(704, Some(boot(true, 0))), "root_of_trust_missing", "accepted"),
        (good().hardware(704, Some(boot(false, 0))), "device_unlocked", "accepted"),
        (good().hardware(704, Some(boot(true, 1))), "verified_boot_state", "accepted"),
        (good().hardware(704, Some(boot(true, 2))), "verified_boot_state", "accepted"),
        (good().hardware(704, Some(boot(true, 3))), "verified_boot_state", "verified_boot_state"),
        (good().hardware(704, Some(boot(true, 4))), "attestation_malformed", "attestation_malformed"),
        (good().software(709, Some(app(&["com.good", "com.evil"], &[[0xab; 32]]))), "shared_uid", "accepted"),
        (good().software(709, None), "accepted", "accepted"),
        (good().hardware(900, Some(vec![5, 0])), "accepted", "accepted"),
        (good().with(|s| s.version = 0), "attestation_malformed", "attestation_malformed"),
        (good().with(|s| s.version = 100_000), "attestation_malformed", "attestation_malformed"),
    ] {
        let lenient_policy = policy(
            "min_security_level = 'software'\nallow_unverified_boot = true\nallow_unlocked = true\nallow_shared_uid = true",
        );
        assert_eq!(maker.reason(statement.to_der(), &AndroidPolicy::default()), strict);
        assert_eq!(maker.reason(statement.to_der(), &lenient_policy), lenient);
    }
    let own_system = Statement::good().hardware(704, Some(boot(true, 1))).to_der();
    let pinned_key = format!("self_signed_boot_keys_hex = ['{}']", "09".repeat(32));
    assert_eq!(maker.reason(own_system, &policy(&pinned_key)), "accepted");
}

#[test]
fn each_wish_of_the_policy_counts() {
    let maker = Maker::new();
    let good = Statement::good();
    let ab = "ab".repeat(32);
    for (wish, expect) in [
        ("min_security_level = 'strong_box'".to_owned(), "security_level"),
        ("min_os_version = 140000".to_owned(), "accepted"),
        ("min_os_version = 150000".to_owned(), "os_version"),
        ("min_os_patch_level = 202511".to_owned(), "accepted"),
        ("min_os_patch_level = 202512".to_owned(), "os_patch_level"),
        ("min_vendor_patch_level = 202511".to_owned(), "accepted"),
        ("min_vendor_patch_level = 202512".to_owned(), "vendor_patch_level"),
        ("min_boot_patch_level = 202510".to_owned(), "accepted"),
        ("min_boot_patch_level = 202511".to_owned(), "boot_patch_level"),
        ("packages = ['com.other', 'com.good']".to_owned(), "accepted"),
        ("packages = ['com.other']".to_owned(), "package"),
        ("packages = ['com.goo']".to_owned(), "package"),
        (format!("signer_digests_hex = ['{}']", ab.to_uppercase()), "accepted"),
        (format!("signer_digests_hex = ['{}']", "00".repeat(32)), "signer"),
        ("require_status_list = true".to_owned(), "status_list_missing"),
    ] {
        assert_eq!(maker.reason(good.to_der(), &policy(&wish)), expect, "{wish}");
    }
    assert!(toml::from_str::<AndroidPolicy>("min_os_pach_level = 202511").is_err(), "a misspelt wish is no wish");
    // What is not stated does not fulfil a wish.
    for (number, wish, expect) in [
        (705, "min_os_version = 1", "os_version"),
        (706, "min_os_patch_level = 1", "os_patch_level"),
        (718, "min_vendor_patch_level = 1", "vendor_patch_level"),
        (719, "min_boot_patch_level = 1", "boot_patch_level"),
    ] {
        let silent = good.clone().hardware(number, None).software(number, Some(int(20_990_101)));
        assert_eq!(maker.reason(silent.to_der(), &policy(wish)), expect);
    }
    let nobody = good.clone().software(709, None).to_der();
    assert_eq!(maker.reason(nobody, &policy("packages = ['com.good']")), "application_id_missing");
    let two_signers = good.clone().software(709, Some(app(&["com.good"], &[[0xab; 32], [1; 32]]))).to_der();
    assert_eq!(maker.reason(two_signers, &policy(&format!("signer_digests_hex = ['{ab}']"))), "signer");
    let shared = good.software(709, Some(app(&["com.good", "com.evil"], &[[0xab; 32]]))).to_der();
    assert_eq!(maker.reason(shared, &policy("allow_shared_uid = true\npackages = ['com.good']")), "package");
}

/// An attested key can sign certificates. The phone then vouches for nothing that stands in them.
#[test]
fn a_certificate_below_the_attested_key_is_refused() {
    let maker = Maker::new();
    let statement = Statement::good().to_der();
    let other = Statement::good().hardware(704, Some(boot(true, 0))).to_der();
    let policy = AndroidPolicy::default();
    let attested = Plan::authority("Key").extension(ATTESTATION_OID, false, statement.clone()).under(&maker.batch);
    let above = [maker.batch.der.clone(), maker.root.der.clone()];
    let chain = |below: Vec<Vec<u8>>| [below, above.to_vec()].concat();
    let forged = Plan::leaf("Forged").extension(ATTESTATION_OID, false, other).under(&attested);
    let bare = Plan::leaf("Bare").under(&attested);
    let eat = Plan::authority("Key").extension(EAT_OID, false, vec![0xa0]).under(&maker.batch);
    let below_eat = Plan::leaf("Forged").extension(ATTESTATION_OID, false, statement).under(&eat);
    for (below, expect) in [
        (vec![attested.der.clone()], "accepted"),
        (vec![forged.der, attested.der.clone()], "attestation_not_in_leaf"),
        (vec![bare.der, attested.der], "attestation_not_in_leaf"),
        (vec![below_eat.der, eat.der.clone()], "attestation_not_in_leaf"),
        (vec![eat.der], "attestation_missing"),
        (vec![], "attestation_missing"),
    ] {
        let got = maker.judge(&chain(below), &policy).map_or_else(|refused| refused.reason, |_| "accepted");
        assert_eq!(got, expect);
    }
}

#[test]
fn dates_count_for_remote_chains_and_only_the_beginning_for_factory_chains() {
    let statement = Statement::good().to_der();
    let root = Plan::authority("Root").years(2016, 2021).root();
    let roots = Anchors::new(vec![Anchor::from_certificate("maker", &root.der).unwrap()]);
    for (remote, years, authority, expect) in [
        (false, (2020, 2040), true, "accepted"),
        (false, (2020, 2021), true, "accepted"),
        (false, (2030, 2040), true, "certificate_not_yet_valid"),
        (false, (2020, 2040), false, "accepted"),
        (true, (2020, 2040), true, "accepted"),
        (true, (2020, 2021), true, "certificate_expired"),
        (true, (2030, 2040), true, "certificate_not_yet_valid"),
        (true, (2020, 2040), false, "not_a_ca"),
    ] {
        let mut plan = if authority { Plan::authority("Batch") } else { Plan::leaf("Batch") }.years(years.0, years.1);
        if remote {
            plan = plan.extension(PROVISIONING_OID, false, vec![0xa0]);
        }
        let batch = plan.under(&root);
        let leaf = Plan::leaf("Key").extension(ATTESTATION_OID, false, statement.clone()).under(&batch);
        let chain = [leaf.der, batch.der, root.der.clone()];
        let evidence = Evidence { chain: &chain, challenge: None, roots: &roots, status_list: None };
        let verdict = verify(&evidence, &AndroidPolicy::default(), now());
        assert_eq!(verdict.as_ref().map_or_else(|refused| refused.reason, |_| "accepted"), expect);
        if let Ok(attested) = verdict {
            assert_eq!(attested.provisioning == Provisioning::Remote, remote);
        }
    }
}

#[test]
fn the_challenge_is_compared_in_full() {
    let maker = Maker::new();
    let chain = maker.chain(Statement::good().to_der());
    let roots = maker.roots();
    let wants = policy("require_challenge = true");
    for (challenge, policy, expect) in [
        (Some(CHALLENGE), &wants, "accepted"),
        (Some(&CHALLENGE[..8]), &wants, "challenge"),
        (Some(b"challenge2".as_slice()), &wants, "challenge"),
        (Some(b"".as_slice()), &wants, "challenge"),
        (None, &wants, "challenge"),
        (None, &AndroidPolicy::default(), "accepted"),
    ] {
        let evidence = Evidence { chain: &chain, challenge, roots: &roots, status_list: None };
        assert_eq!(verify(&evidence, policy, now()).map_or_else(|refused| refused.reason, |_| "accepted"), expect);
    }
}

#[test]
fn a_listed_certificate_is_refused_and_an_old_list_clears_nobody() {
    let maker = Maker::new();
    let leaf = Plan::leaf("Key").extension(ATTESTATION_OID, false, Statement::good().to_der()).under(&maker.batch);
    let batch = Plan::authority("Batch")
        .with(|p| p.serial_number = Some(rcgen::SerialNumber::from_slice(&[0, 0x0a, 0xbc, 0xde])))
        .of_key(&maker.batch.key, &maker.root);
    let chain = [leaf.der, batch, maker.root.der.clone()];
    let roots = maker.roots();
    let none = r#"{"entries":{}}"#;
    let listed = |serial: &str, status: &str| format!(r#"{{"entries":{{"{serial}":{{"status":"{status}"}}}}}}"#);
    let fresh = Some("2026-05-20T00:00:00Z");
    let last_year = Some("2025-05-20T00:00:00Z");
    let strict = policy("require_status_list = true");
    let patient = policy("status_list_max_age_days = 400");
    let default = AndroidPolicy::default();
    for (list, date, policy, expect) in [
        (none.to_owned(), fresh, &strict, "accepted"),
        (none.to_owned(), None, &default, "accepted"),
        (none.to_owned(), None, &strict, "status_list_stale"),
        (none.to_owned(), last_year, &default, "status_list_stale"),
        (none.to_owned(), last_year, &patient, "accepted"),
        (listed("abcde", "REVOKED"), fresh, &default, "revoked"),
        (listed("abcde", "SUSPENDED"), fresh, &default, "revoked"),
        (listed("abcde", "SOMETHING_NEW"), fresh, &default, "revoked"),
        (listed("000ABCDE", "REVOKED"), fresh, &default, "revoked"),
        (listed("abcde", "REVOKED"), last_year, &default, "revoked"),
        (listed("abcdef", "REVOKED"), fresh, &default, "accepted"),
        (listed("703710", "REVOKED"), fresh, &default, "accepted"),
    ] {
        let list = StatusList::from_json(list.as_bytes(), date.map(|date| date.parse().unwrap())).unwrap();
        let evidence = Evidence { chain: &chain, challenge: None, roots: &roots, status_list: Some(&list) };
        assert_eq!(verify(&evidence, policy, now()).map_or_else(|refused| refused.reason, |_| "accepted"), expect);
    }
    for broken in [
        "",
        "not JSON",
        "[]",
        "{}",
        r#"{"entries":[]}"#,
        r#"{"entries":{"1":{}}}"#,
        r#"{"entries":{"x":{"status":"REVOKED"}}}"#,
        r#"{"entries":{"":{"status":"REVOKED"}}}"#,
        r#"{"entries":{},"entries":{}}"#,
    ] {
        assert_eq!(StatusList::from_json(broken.as_bytes(), None).unwrap_err().reason, "status_list_malformed");
    }
}

#[test]
fn a_statement_has_one_form() {
    let good = Statement::good();
    let bytes = good.to_der();
    assert!(KeyDescription::parse(&bytes).is_ok());
    let swapped = good.clone().with(|s| s.hardware.swap(1, 2));
    let read = KeyDescription::parse(&swapped.to_der()).unwrap();
    assert!(!read.hardware.ordered && read.software.ordered);
    let maker = Maker::new();
    assert_eq!(maker.reason(swapped.to_der(), &AndroidPolicy::default()), "attestation_order");
    assert_eq!(maker.reason(swapped.to_der(), &policy("require_order = false")), "accepted");

    let body = &bytes[4..];
    let member_of = |raw: Vec<u8>| {
        let list = der(&[0x30], &raw);
        let head = [int(300), der(&[10], &[1]), int(300), der(&[10], &[1]), octets(CHALLENGE), octets(&[])].concat();
        der(&[0x30], &[head, list, der(&[0x30], &[])].concat())
    };
    assert!(KeyDescription::parse(&member_of(member(702, &int(0)))).is_ok());
    for (bad, what) in [
        ([&bytes[..], &[0]].concat(), "bytes behind the end"),
        (bytes[..bytes.len() - 1].to_vec(), "cut off"),
        (der(&[0x31], body), "a set for a sequence"),
        (der(&[0x30], &[body, &[5, 0]].concat()), "a ninth value"),
        ([&[0x30, 0x84, 0, 0], &bytes[2..]].concat(), "a length with leading zeros"),
        ([&[0x30, 0x80], body, &[0, 0]].concat(), "a length left open"),
        (member_of([member(702, &int(0)), member(702, &int(0))].concat()), "a member twice"),
        (member_of([member(702, &int(0)), member(705, &int(1)), member(702, &int(2))].concat()), "twice, apart"),
        (member_of(member(702, &[int(0), int(0)].concat())), "two values in a member"),
        (member_of(member(702, &[2, 2, 0, 0])), "a number with leading zeros"),
        (member_of(member(702, &[2, 1, 0x80])), "a negative number"),
        (member_of(member(702, &[2, 0])), "an empty number"),
        (member_of(member(702, &der(&[2], &[1; 9]))), "a number of nine bytes"),
        (member_of(member(702, &int(1 << 32))), "a number of 33 bits"),
        (member_of(member(702, &octets(&[0]))), "another type"),
        (member_of(member(503, &[5, 1, 0])), "a null with content"),
        (member_of(int(0)), "a member without its tag"),
        (member_of(vec![0xbf, 0x80, 0x05, 2, 5, 0]), "a tag with leading zeros"),
        (member_of(vec![0xbf, 0x05, 2, 5, 0]), "a low tag in the high form"),
        (member_of(vec![0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 2, 5, 0]), "a tag beyond 32 bits"),
        (member_of(vec![0xbf, 0x85, 0x3e, 0x88, 0x80, 0, 0, 0, 0, 0, 0, 0]), "a length of 2^63"),
        (member_of((0..200).flat_map(|at| member(800 + at, &[5, 0])).collect()), "200 members"),
        (member_of(member(1, &der(&[0x31], &int(1).repeat(33)))), "33 purposes"),
        (member_of(member(709, &app(&["a"; 65], &[]))), "65 packages"),
        (member_of(member(709, &octets(&[]))), "an empty application id"),
        (member_of(member(710, &octets(&[0xff]))), "a text that is not UTF-8"),
        (vec![0x30; 9_000], "too long"),
        ([0x30, 0x80].repeat(5_000_000), "10 MB of nesting"),
    ] {
        let refused = KeyDescription::parse(&bad).map(|_| ()).map_err(|refused| refused.reason);
        assert_eq!(refused, Err("attestation_malformed"), "{what}");
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes: Vec<u8>, at in 0_usize..200, with: u8) {
        let _ = KeyDescription::parse(&bytes);
        let mut statement = Statement::good().to_der();
        if let Some(byte) = statement.get_mut(at) {
            *byte = with;
        }
        let _ = KeyDescription::parse(&statement);
        let _ = StatusList::from_json(&bytes, None);
    }
}
