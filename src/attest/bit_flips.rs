//! A bit that a signature, a hash or a pinned key covers cannot be turned: over every accepted vector of every type.
//!
//! Each run tries the same seeded sample of bits of each part; with `BLOCKREMOTE_ALL_BITS` set it tries all of them,
//! which takes some minutes. What is not covered stands beside each part, with the reason.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::ops::Range;

use base64ct::{Base64, Encoding};
use serde_json::{Map, Value, json};

use super::android::AndroidPolicy;
use super::cases::{Kind, case_time, judge};
use super::chain;
use super::fixtures::{cases, file, vectors};
use super::members::Members;
use super::policy::Policy;
use super::tpm::TpmPolicy;
use super::tpm::event_log::EventLog;
use super::tpm::hash::Hash;
use crate::crypto::cbor;
use crate::crypto::hex;
use crate::kernel::{Random, Timestamp};

/// Bits tried in each part where not all are.
const BITS_OF_A_PART: usize = 32;

type Case = Map<String, Value>;

/// An accepted case, under what it is accepted.
struct Accepted {
    kind: Kind,
    case: Case,
    policy: Policy,
    now: Timestamp,
}

/// A way to write bytes into a case.
type Put = fn(&mut Case, &str, &[u8]);

impl Accepted {
    fn new(kind: Kind, case: Case, now: &str) -> Self {
        let now = case_time(kind, &case).unwrap().unwrap_or_else(|| now.parse().unwrap());
        Self { kind, case, policy: Policy::default(), now }
    }

    fn accepts(&self, case: &Case) -> bool {
        judge(self.kind, case, &self.policy, self.now).is_ok()
    }

    /// Turns bits of `part`, which `put` writes into the member.
    fn try_bits(&self, member: &str, part: &[u8], put: Put, uncovered: &[Range<usize>]) -> usize {
        let verdict = judge(self.kind, &self.case, &self.policy, self.now);
        assert_eq!(verdict.err(), None, "{} {}", self.kind, self.case["name"]);
        let bits: Vec<usize> =
            (0..part.len() * 8).filter(|bit| !uncovered.iter().any(|range| range.contains(&(bit / 8)))).collect();
        let sample: Vec<usize> = if std::env::var_os("BLOCKREMOTE_ALL_BITS").is_some() {
            bits
        } else {
            let random = Random::seeded(part.len() as u64);
            (0..BITS_OF_A_PART).map(|_| bits[usize::try_from(random.u64()).unwrap() % bits.len()]).collect()
        };
        let taken: Vec<usize> = sample
            .iter()
            .copied()
            .filter(|bit| {
                let mut turned = part.to_vec();
                turned[bit / 8] ^= 1 << (bit % 8);
                let mut case = self.case.clone();
                put(&mut case, member, &turned);
                self.accepts(&case)
            })
            .collect();
        let name = self.case.get("name").and_then(Value::as_str).unwrap_or_default();
        let bytes: Vec<usize> = taken.iter().map(|bit| bit / 8).collect();
        assert!(taken.is_empty(), "{} {name}: {member} is accepted with a bit turned in bytes {bytes:?}", self.kind);
        sample.len()
    }

    /// The same for a member that holds the bytes.
    fn try_member(&self, member: &str, uncovered: &[Range<usize>]) -> usize {
        let part = Members(&self.case).required(&[member]).unwrap();
        self.try_bits(member, &part, put_bytes, uncovered)
    }

    /// The same for a member that is a text.
    fn try_text(&self, member: &str) -> usize {
        let part = self.case[member].as_str().unwrap().as_bytes().to_vec();
        self.try_bits(member, &part, put_text, &[])
    }
}

fn put_bytes(case: &mut Case, member: &str, bytes: &[u8]) {
    let text = if member.ends_with("_hex") { hex(bytes) } else { Base64::encode_string(bytes) };
    case.insert(member.to_owned(), json!(text));
}

fn put_text(case: &mut Case, member: &str, bytes: &[u8]) {
    case.insert(member.to_owned(), json!(String::from_utf8_lossy(bytes)));
}

/// Into the object `registration` or `authentication`, or beside it where the case has none.
fn put_inner(case: &mut Case, member: &str, bytes: &[u8]) {
    let (outer, member) = member.split_once('.').unwrap();
    match case.get_mut(outer).and_then(Value::as_object_mut) {
        Some(inner) => put_bytes(inner, member, bytes),
        None => put_bytes(case, &member.replace("_hex", "_b64url"), bytes),
    }
}

fn put_pem(case: &mut Case, member: &str, bytes: &[u8]) {
    let at: usize = member.parse().unwrap();
    let mut ders = chain::parse_pem_chain(case["chain_pem"].as_str().unwrap()).unwrap();
    ders[at] = bytes.to_vec();
    let pem = |der: &Vec<u8>| {
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", Base64::encode_string(der))
    };
    case.insert("chain_pem".to_owned(), json!(ders.iter().map(pem).collect::<String>()));
}

/// Where `part` lies in `whole`.
fn range(whole: &[u8], part: &[u8]) -> Range<usize> {
    let at = whole.windows(part.len()).position(|window| window == part).unwrap();
    at..at + part.len()
}

#[test]
fn of_apples_attestations_and_assertions() {
    let Some(list) = vectors("apple-app-attest/attestations.json") else { return };
    for (_, case) in cases(&list, "attestations") {
        let good = Accepted::new(Kind::AppleAttestation, case, "");
        let object = Members(&good.case).required(&["attestation_object_b64"]).unwrap();
        let parsed = cbor::read(&object).unwrap();
        // The receipt has a signature of its own and is judged as a receipt.
        let receipt = parsed.member("attStmt").unwrap().member("receipt").unwrap().as_bytes().unwrap();
        good.try_member("attestation_object_b64", &[range(&object, receipt)]);
        good.try_member("client_data_hash_hex", &[]);
        good.try_member("key_id_b64", &[]);
        good.try_text("app_id");
    }
    let list = vectors("apple-app-attest/assertions.json").unwrap();
    for (_, case) in cases(&list, "assertions") {
        let good = Accepted::new(Kind::AppleAssertion, case, "2026-01-01T00:00:00Z");
        for member in ["assertion_b64", "public_key_spki_b64", "client_data_b64"] {
            good.try_member(member, &[]);
        }
        good.try_text("app_id");
    }
}

#[test]
fn of_apples_receipts() {
    let Some(list) = vectors("apple-app-attest/receipts.json") else { return };
    for (entry, case) in cases(&list, "receipts") {
        let good = Accepted::new(Kind::AppleReceipt, case, entry["creation_time"].as_str().unwrap());
        let receipt = Members(&good.case).required(&["receipt_b64"]).unwrap();
        let message = super::apple::cms::SignedData::parse(&receipt).unwrap();
        // The third certificate is a copy of the root, which is not looked at, because the root is ours.
        assert_eq!(message.certificates.len(), 3);
        good.try_member("receipt_b64", &[range(&receipt, message.certificates[2])]);
        good.try_text("app_id");
    }
}

#[test]
fn of_android_chains() {
    let Some(index) = vectors("android-key-attestation/index.json") else { return };
    for (entry, mut case) in cases(&index, "chains") {
        if !entry["expected_chain"].as_str().unwrap().starts_with("trusted") {
            continue;
        }
        let pem = file(&format!("android-key-attestation/{}", entry["file"].as_str().unwrap())).unwrap();
        case.insert("chain_pem".to_owned(), json!(String::from_utf8(pem).unwrap()));
        let mut good = Accepted::new(Kind::AndroidKey, case, "2026-11-01T00:00:00Z");
        // What was started, and by whom, is not the question here.
        good.policy.android = AndroidPolicy {
            allow_unverified_boot: true,
            allow_unlocked: true,
            allow_shared_uid: true,
            ..AndroidPolicy::default()
        };
        let ders = chain::parse_pem_chain(good.case["chain_pem"].as_str().unwrap()).unwrap();
        for (at, der) in ders.iter().enumerate() {
            good.try_bits(&at.to_string(), der, put_pem, &[]);
        }
    }
}

#[test]
fn of_tokens_and_their_keys() {
    let Some(list) = vectors("play-integrity/tokens.json") else { return };
    for (entry, case) in cases(&list, "cases").into_iter().filter(|(entry, _)| entry["expected"] == "accept") {
        let good = Accepted::new(Kind::PlayIntegrity, case, "");
        good.try_text("token");
        // The keys are the same for all.
        if entry["name"] == "ok" {
            good.try_member("decryption_key_b64", &[]);
            good.try_member("verification_key_spki_b64", &[]);
        }
    }
    let list = vectors("jose/jwt_attacks.json").unwrap();
    for (_, case) in cases(&list, "tokens").into_iter().filter(|(entry, _)| entry["expected"] == "accept") {
        Accepted::new(Kind::Jwt, case, "").try_text("token");
    }
    let example = vectors("jose/rfc.json").unwrap()["jws_es256"].clone();
    let case = json!({ "name": "rfc", "jwk": example["jwk"], "token": example["jws"] }).as_object().cloned().unwrap();
    let good = Accepted::new(Kind::Jws, case, "2026-01-01T00:00:00Z");
    good.try_text("token");
    for coordinate in ["x", "y"] {
        let put = |case: &mut Case, coordinate: &str, bytes: &[u8]| {
            case["jwk"][coordinate] = json!(String::from_utf8_lossy(bytes));
        };
        good.try_bits(coordinate, example["jwk"][coordinate].as_str().unwrap().as_bytes(), put, &[]);
    }
}

#[test]
fn of_quotes_and_the_registers_that_they_vouch_for() {
    let Some(list) = vectors("tpm/synthetic_quotes.json") else { return };
    let (_, case) = cases(&list, "cases").into_iter().find(|(entry, _)| entry["expected"] == "accept").unwrap();
    let good = Accepted::new(Kind::TpmQuote, case, "2026-01-01T00:00:00Z");
    for member in ["ak_public_b64", "attest_b64", "signature_b64", "nonce_hex", "ak_name_hex"] {
        good.try_member(member, &[]);
    }
    for pcr in 0..8 {
        let put = |case: &mut Case, pcr: &str, bytes: &[u8]| case["pcr_values"][pcr] = json!(hex(bytes));
        let value = crate::crypto::unhex(good.case["pcr_values"][pcr.to_string()].as_str().unwrap()).unwrap();
        good.try_bits(&pcr.to_string(), &value, put, &[]);
    }
    // Recorded in a test, with SHA-1 and without a nonce; the log is long and tried below.
    let mut case = vectors("tpm/real_quote_gcp_windows.json").unwrap().as_object().cloned().unwrap();
    case.remove("event_log_b64");
    let mut real = Accepted::new(Kind::TpmQuote, case, "2026-01-01T00:00:00Z");
    real.policy.tpm = TpmPolicy {
        allow_sha1_bank: true,
        allow_sha1_signature: true,
        allow_empty_nonce: true,
        ..TpmPolicy::default()
    };
    real.try_member("quote_b64", &[]);
    real.try_member("quote_signature_b64", &[]);
    // The file pins no name, so of the key's area only what a quote is verified with is covered: kind, hash of the name,
    // scheme and numbers. Attributes and policy (bytes 4 to 42) are the word of whoever brings the area.
    let unpinned = 4..42;
    real.try_member("ak_public_b64", std::slice::from_ref(&unpinned));
}

#[test]
fn of_boot_logs_whose_registers_are_known() {
    let Some(case) = vectors("tpm/real_quote_gcp_windows.json") else { return };
    let mut good = Accepted::new(Kind::TpmEventlog, case.as_object().cloned().unwrap(), "2026-01-01T00:00:00Z");
    good.case.insert("name".to_owned(), json!("real"));
    good.policy.tpm.require_secure_boot = false;
    let bytes = Members(&good.case).required(&["event_log_b64"]).unwrap();
    let log = EventLog::parse(&bytes).unwrap();
    let bank = Hash::from_name(good.case["pcr_bank"].as_str().unwrap()).unwrap();
    let mut covered: BTreeMap<usize, usize> = BTreeMap::new();
    let mut from = 0;
    for event in log.events.iter().filter(|event| event.is_measured()) {
        let digest = &event.digests[&bank];
        let at = from + range(&bytes[from..], digest).start;
        covered.insert(at, digest.len());
        from = at + digest.len();
    }
    assert!(covered.len() > 20);
    // Only the digests of the bank that was compared are extended: types and data are hearsay (what matters of them must
    // hash to its digest), and so are events that were not measured, the header and the other banks.
    let mut uncovered = Vec::new();
    let mut from = 0;
    for (at, length) in covered {
        uncovered.push(from..at);
        from = at + length;
    }
    uncovered.push(from..bytes.len());
    good.try_member("event_log_b64", &uncovered);
}

#[test]
fn of_webauthn_ceremonies() {
    let Some(standard) = vectors("webauthn/w3c_l3.json") else { return };
    let real = vectors("webauthn/real_registrations.json").unwrap();
    let registrations = [cases(&standard, "cases"), cases(&real, "registrations")].concat();
    for (entry, case) in registrations {
        let inside = entry["registration"].is_object();
        let begin = entry["chain_window"][0].as_str().unwrap_or("2026-01-01T00:00:00Z");
        let now = begin.parse::<Timestamp>().unwrap().plus(std::time::Duration::from_secs(1)).to_string();
        let good = Accepted::new(Kind::WebauthnRegistration, case.clone(), &now);
        let made = if inside { Members(&case).required_inner("registration").unwrap() } else { Members(&case) };
        let part = |hex: &str, b64: &str| made.required(&[hex, b64]).unwrap();
        let client_data = part("client_data_json_hex", "client_data_json_b64url");
        let object = part("attestation_object_hex", "attestation_object_b64url");
        good.try_bits("registration.challenge_hex", &part("challenge_hex", "challenge_b64url"), put_inner, &[]);
        // Nobody signs a statement of the format `none`, nor the client data that belongs to it.
        if entry["fmt"] == "none" {
            continue;
        }
        good.try_bits("registration.client_data_json_hex", &client_data, put_inner, &[]);
        let claims = judge(good.kind, &case, &good.policy, good.now).unwrap();
        let parsed = cbor::read(&object).unwrap();
        let statement = parsed.member("attStmt").unwrap();
        let mut uncovered = Vec::new();
        if entry["fmt"] == "fido-u2f" {
            // U2F signs the credential without flags, counter and model.
            let data = range(&object, parsed.member("authData").unwrap().as_bytes().unwrap());
            uncovered.push(data.start + 32..data.start + 53);
        }
        if claims["trusted"] == false
            && let Some(certificates) = statement.member("x5c").and_then(cbor::Value::as_array)
        {
            // Without a known root nobody signs the certificates; of the leaf only the key counts.
            uncovered.extend(certificates.iter().map(|der| range(&object, der.as_bytes().unwrap())));
        }
        good.try_bits("registration.attestation_object_hex", &object, put_inner, &uncovered);
    }
    for (_, case) in cases(&standard, "cases") {
        let good = Accepted::new(Kind::WebauthnAssertion, case.clone(), "2026-01-01T00:00:00Z");
        let used = Members(&case).required_inner("authentication").unwrap();
        for member in ["authenticator_data_hex", "signature_hex", "client_data_json_hex", "challenge_hex"] {
            let part = used.required(&[member]).unwrap();
            good.try_bits(&format!("authentication.{member}"), &part, put_inner, &[]);
        }
    }
}
