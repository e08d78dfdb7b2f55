//! What judging an attestation costs. Real evidence is read from `../shared`; without it a group is skipped.

use std::hint::black_box;
use std::path::Path;

use blockremote::attest::android::{self, AndroidPolicy, Evidence};
use blockremote::attest::apple::{ApplePolicy, verify_assertion_case, verify_attestation_case, verify_receipt_case};
use blockremote::attest::chain::parse_pem_chain;
use blockremote::kernel::Timestamp;
use criterion::{Criterion, criterion_group};
use serde_json::{Map, Value};

fn shared(file: &str) -> Option<String> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/vectors")).join(file);
    std::fs::read_to_string(path).ok()
}

/// Chains of four, burnt in at the factory: EC below an RSA root, and RSA throughout. The target is 3 ms.
fn android(c: &mut Criterion) {
    let mut group = c.benchmark_group("android");
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

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(std::time::Duration::from_millis(500)).measurement_time(std::time::Duration::from_secs(2));
    targets = android, apple
}

/// Made by hand, because the macro's main has no document.
fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
}
