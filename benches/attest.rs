//! What judging one piece of evidence costs on one core: real evidence of the shared vectors, and made tokens where no real
//! one is public.

use std::hint::black_box;
use std::path::Path;

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use blockremote::attest::android::{self, AndroidPolicy, Evidence};
use blockremote::attest::apple::{ApplePolicy, verify_assertion_case, verify_attestation_case, verify_receipt_case};
use blockremote::attest::cases::{self, Kind};
use blockremote::attest::chain::parse_pem_chain;
use blockremote::attest::play::{self, PlayKeys, PlayPolicy};
use blockremote::attest::policy::Policy;
use blockremote::attest::tpm::{self, TpmPolicy};
use blockremote::attest::webauthn::{self, WebauthnPolicy};
use blockremote::kernel::{Random, Timestamp};
use blockremote::testkit::Fault;
use blockremote::testkit::play::PlayConsole;
use criterion::{Criterion, criterion_group};
use serde_json::{Map, Value};

/// The case of that name in a file of vectors. Without the shared folder there is nothing to measure.
fn case(file: &str, list: &str, name: &str) -> Option<Map<String, Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors").join(file);
    let file: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let cases = file.get(list)?.as_array()?;
    cases.iter().find(|case| case.get("name").is_some_and(|n| n == name))?.as_object().cloned()
}

fn moment(case: &Map<String, Value>, member: &str) -> Timestamp {
    case.get(member).and_then(Value::as_str).and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// App Attest: an attestation in the shape of 2026, an assertion, a receipt. Reading the case and the roots is included.
fn apple(c: &mut Criterion) {
    let policy = ApplePolicy::default();
    let mut group = c.benchmark_group("attest/apple");
    if let Some(case) = case("apple-app-attest/attestations.json", "attestations", "apple-guide-2026") {
        let now = moment(&case, "verify_at");
        group.bench_function("attestation", |b| {
            b.iter(|| verify_attestation_case(black_box(&case), &policy, now).is_ok())
        });
    }
    if let Some(case) = case("apple-app-attest/assertions.json", "assertions", "uebelack-assertion") {
        let now = Timestamp::EPOCH;
        group.bench_function("assertion", |b| b.iter(|| verify_assertion_case(black_box(&case), &policy, now).is_ok()));
    }
    let name = "veehaitch-ios-14.3-2020-12-19T12:11:04.739Z";
    if let Some(case) = case("apple-app-attest/receipts.json", "receipts", name) {
        let now = moment(&case, "creation_time");
        group.bench_function("receipt", |b| b.iter(|| verify_receipt_case(black_box(&case), &policy, now).is_ok()));
    }
    group.finish();
}

/// A token of Google Play: with keys that are at hand, as the appliance has them, and as a case of the command line.
fn play_token(c: &mut Criterion) -> Result<(), Fault> {
    let random = Random::seeded(1);
    let console = PlayConsole::new("com.example.bank", &random);
    let (nonce, now) = (random.bytes::<32>(), Timestamp::from_millis(1_800_000_000_000));
    let text = Base64UrlUnpadded::encode_string(&nonce);
    let token = console.token(&console.verdict(&text, now))?;
    let decryption = Base64::decode_vec(&console.decryption_key_b64()).map_err(|e| e.to_string())?;
    let verification = Base64::decode_vec(&console.verification_key_spki_b64()).map_err(|e| e.to_string())?;
    let keys = PlayKeys::new(&decryption, &verification)?;
    let policy = PlayPolicy {
        package: console.package.clone(),
        certificate_digests: vec![console.certificate_digest.clone()],
        ..PlayPolicy::default()
    };
    let case = console.case(&token, &text, now);
    let whole = Policy::default();
    // A refusal would be fast and measure nothing.
    play::verify(&token, &keys, &nonce, &policy, now)?;
    cases::judge(Kind::PlayIntegrity, &case, &whole, now)?;
    let mut group = c.benchmark_group("attest/play token");
    group.bench_function("verify", |b| b.iter(|| play::verify(black_box(&token), &keys, &nonce, &policy, now).is_ok()));
    group.bench_function("verify, as a case", |b| {
        b.iter(|| cases::judge(Kind::PlayIntegrity, black_box(&case), &whole, now).is_ok());
    });
    group.finish();
    Ok(())
}

fn play(c: &mut Criterion) {
    // Only a defect can make this fail, and then there is nothing to measure.
    assert_eq!(play_token(c).map_err(|e| e.to_string()), Ok(()));
}

fn shared(file: &str) -> Option<String> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/vectors")).join(file);
    std::fs::read_to_string(path).ok()
}

/// Chains of four, burnt in at the factory: EC below an RSA root, and RSA throughout. The target is 3 ms.
fn android(c: &mut Criterion) {
    let mut group = c.benchmark_group("attest/android");
    for (name, file, at) in [
        ("EC chain of 4", "sony-xperia10-iii__sdk33__TEE_EC", "2026-06-04T14:59:05Z"),
        ("RSA chain of 4", "blueline__sdk28__TEE_RSA_NONE", "2018-09-28T23:40:35Z"),
        ("EC chain of 5, remote", "caiman__sdk36__TEE_EC_RKP", "2025-09-26T15:31:20Z"),
    ] {
        let Some(pem) = shared(&format!("android-key-attestation/chains/{file}.pem")) else { continue };
        let (Ok(chain), Ok(roots), Ok(now)) = (parse_pem_chain(&pem), android::google_roots(), at.parse::<Timestamp>())
        else {
            continue;
        };
        let policy = AndroidPolicy { allow_unlocked: true, allow_unverified_boot: true, ..AndroidPolicy::default() };
        let evidence = Evidence { chain: &chain, challenge: None, roots: &roots, status_list: None };
        assert!(android::verify(&evidence, &policy, now).is_ok(), "{name} is accepted");
        group.bench_function(name, |b| b.iter(|| android::verify(black_box(&evidence), &policy, now)));
    }
    group.finish();
}

fn object(file: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(&shared(file)?).ok()
}

/// A quote of a key on P-256, and of an RSA key with a boot log of 43 KiB. The target is 1 ms.
fn tpm(c: &mut Criterion) {
    let synthetic = object("tpm/synthetic_quotes.json").and_then(|file| {
        let mut case = file.clone();
        case.extend(file.get("cases")?.get(0)?.as_object()?.clone());
        Some(case)
    });
    let real = object("tpm/real_quote_gcp_windows.json");
    let old = TpmPolicy {
        allow_sha1_bank: true,
        allow_sha1_signature: true,
        allow_empty_nonce: true,
        ..TpmPolicy::default()
    };
    for (name, case, policy) in
        [("attest/tpm_quote", synthetic, TpmPolicy::default()), ("attest/tpm_quote, RSA-2048 with boot log", real, old)]
    {
        let Some(case) = case else { continue };
        let judge = |case: &Map<String, Value>| tpm::verify_quote_case(case, &policy, Timestamp::EPOCH);
        assert!(judge(&case).is_ok(), "{name} is accepted");
        c.bench_function(name, |b| b.iter(|| judge(black_box(&case))));
    }
}

/// Registrations of real authenticators with their chains.
fn webauthn(c: &mut Criterion) {
    let Some(file) = object("webauthn/real_registrations.json") else { return };
    let Some(cases) = file.get("registrations").and_then(Value::as_array) else { return };
    for (fmt, at) in [("tpm", "2022-01-01T00:00:00Z"), ("apple", "2021-09-01T00:00:00Z")] {
        let Some(case) = cases.iter().filter_map(Value::as_object).find(|case| case.get("fmt") == Some(&fmt.into()))
        else {
            continue;
        };
        let Ok(now) = at.parse::<Timestamp>() else { continue };
        let policy = WebauthnPolicy::default();
        let judge = |case: &Map<String, Value>| webauthn::verify_registration_case(case, &policy, now);
        assert!(judge(case).is_ok(), "{fmt} is accepted");
        c.bench_function(&format!("attest/webauthn {fmt}"), |b| b.iter(|| judge(black_box(case))));
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(std::time::Duration::from_millis(500)).measurement_time(std::time::Duration::from_secs(2));
    targets = android, apple, play, tpm, webauthn
}

/// Made by hand, because the macro's main has no document.
fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
}
