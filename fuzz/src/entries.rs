//! What the fuzzers feed, and the seeds that they begin with: one entry for each format that comes from outside.
//!
//! An entry takes any bytes and may only return. Where a format has several parts, the bytes are frames: two bytes of
//! length, big endian, before each part, so that a mutation moves one part and not the borders of all. Seeds are made of
//! the shared vectors when they are asked for. The integration tests run the same entries over a few mutations.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use base64ct::{Base64, Encoding};
use blockremote::attest::android::{self, AndroidPolicy, KeyDescription, StatusList};
use blockremote::attest::apple::{ApplePolicy, AppleRoots, Assertion, Attestation, Receipt};
use blockremote::attest::cases::{self, Kind};
use blockremote::attest::chain;
use blockremote::attest::play::{self, PlayKeys, PlayPolicy};
use blockremote::attest::policy::Policy;
use blockremote::attest::tpm::hash::Hash;
use blockremote::attest::tpm::quote::{self, Evidence, Known};
use blockremote::attest::tpm::{TpmPolicy, wire};
use blockremote::crypto::dpop::{self, Expect};
use blockremote::crypto::{JwkSet, cbor, jcs, parse_compact, strict_json};
use blockremote::domains::signals::api::HeartbeatRequest;
use blockremote::gate::body;
use blockremote::kernel::{Random, Timestamp};
use blockremote::testkit::play::PlayConsole;
use serde_json::{Map, Value, json};

/// Bytes of a compact token.
const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// One format.
pub struct Target {
    /// The name of the fuzzer.
    pub name: &'static str,
    /// Takes any bytes; a panic, or a second without an end, is a defect.
    pub run: fn(&[u8]),
    /// Good inputs.
    pub seeds: fn(&Vectors) -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "apple_attestation", run: apple_attestation, seeds: apple_attestation_seeds },
    Target { name: "apple_assertion", run: apple_assertion, seeds: apple_assertion_seeds },
    Target { name: "apple_receipt", run: apple_receipt, seeds: apple_receipt_seeds },
    Target { name: "android_chain", run: android_chain, seeds: android_chain_seeds },
    Target { name: "android_statement", run: android_statement, seeds: android_statement_seeds },
    Target { name: "android_status_list", run: android_status_list, seeds: android_status_list_seeds },
    Target { name: "play_token", run: play_token, seeds: play_token_seeds },
    Target { name: "play_verdict", run: play_verdict, seeds: play_verdict_seeds },
    Target { name: "tpm_quote", run: tpm_quote, seeds: tpm_quote_seeds },
    Target { name: "tpm_event_log", run: tpm_event_log, seeds: tpm_event_log_seeds },
    Target { name: "webauthn_registration", run: webauthn_registration, seeds: webauthn_registration_seeds },
    Target { name: "webauthn_assertion", run: webauthn_assertion, seeds: webauthn_assertion_seeds },
    Target { name: "jwt", run: jwt, seeds: jwt_seeds },
    Target { name: "jws", run: jws, seeds: jws_seeds },
    Target { name: "evidence_file", run: evidence_file, seeds: evidence_file_seeds },
    Target { name: "dpop_proof", run: dpop_proof, seeds: dpop_proof_seeds },
    Target { name: "canonical_json", run: canonical_json, seeds: canonical_json_seeds },
    Target { name: "heartbeat", run: heartbeat, seeds: heartbeat_seeds },
];

// ---- frames and vectors

/// The next frame; the last one may be cut short.
fn frame<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let Some((length, after)) = rest.split_first_chunk::<2>() else { return std::mem::take(rest) };
    let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
    let (part, after) = after.split_at(length);
    *rest = after;
    part
}

fn frames(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        out.extend_from_slice(&u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend(part.iter().take(usize::from(u16::MAX)));
    }
    out
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// A time as its frame has it: milliseconds in eight bytes.
fn time(bytes: &[u8]) -> Timestamp {
    Timestamp::from_millis(i64::from_be_bytes(<[u8; 8]>::try_from(bytes).unwrap_or_default()))
}

fn moment(rfc3339: &Value) -> [u8; 8] {
    let at = rfc3339.as_str().and_then(|text| text.parse::<Timestamp>().ok()).unwrap_or(Timestamp::EPOCH);
    at.as_millis().to_be_bytes()
}

fn b64(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_default().trim_end_matches('=').replace('-', "+").replace('_', "/");
    base64ct::Base64Unpadded::decode_vec(&text).unwrap_or_default()
}

fn unhex(value: &Value) -> Vec<u8> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok()).unwrap_or(0);
    let digits = value.as_str().unwrap_or_default().as_bytes();
    digits.as_chunks::<2>().0.iter().map(|[high, low]| digit(*high) << 4 | digit(*low)).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn str_bytes(value: &Value) -> &[u8] {
    value.as_str().unwrap_or_default().as_bytes()
}

/// The folder of shared vectors.
pub struct Vectors(PathBuf);

impl Vectors {
    /// Under `shared`, the folder beside the repository; `None` where there is none.
    pub fn under(shared: &Path) -> Option<Self> {
        shared.exists().then(|| Self(shared.join("vectors")))
    }

    fn json(&self, file: &str) -> Value {
        serde_json::from_slice(&self.bytes(file)).unwrap_or_default()
    }

    fn bytes(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.0.join(file)).unwrap_or_default()
    }

    fn list(&self, file: &str, name: &str) -> Vec<Value> {
        self.json(file).get(name).and_then(Value::as_array).cloned().unwrap_or_default()
    }

    /// The entries of a list, each with the file's own members.
    fn merged(&self, file: &str, name: &str) -> Vec<Map<String, Value>> {
        let mut top = self.json(file).as_object().cloned().unwrap_or_default();
        let cases = top.remove(name).and_then(|list| list.as_array().cloned()).unwrap_or_default();
        let merge = |case: &Value| {
            let mut merged = top.clone();
            merged.extend(case.as_object().cloned().unwrap_or_default());
            merged
        };
        cases.iter().map(merge).collect()
    }
}

fn as_texts(cases: Vec<Map<String, Value>>) -> Vec<Vec<u8>> {
    cases.into_iter().map(|case| Value::Object(case).to_string().into_bytes()).collect()
}

// ---- Apple

static APPLE: LazyLock<Option<AppleRoots>> = LazyLock::new(|| AppleRoots::bundled().ok());

/// Frames: time, app id, client data hash, key id, the object.
pub fn apple_attestation(mut data: &[u8]) {
    let now = time(frame(&mut data));
    let (app_id, hash, key_id) = (text(frame(&mut data)), frame(&mut data), frame(&mut data));
    let Some(roots) = &*APPLE else { return };
    for object in [frame(&mut data), data] {
        let attestation = Attestation { app_id, client_data_hash: hash, key_id, environment: None, object };
        let _ = attestation.verify(&ApplePolicy::default(), roots, now);
    }
}

fn apple_attestation_seeds(vectors: &Vectors) -> Vec<Vec<u8>> {
    let seed = |case: &Value| {
        frames(&[
            &moment(&case["verify_at"]),
            str_bytes(&case["app_id"]),
            &unhex(&case["client_data_hash_hex"]),
            &b64(&case["key_id_b64"]),
            &b64(&case["attestation_object_b64"]),
        ])
    };
    vectors.list("apple-app-attest/attestations.json", "attestations").iter().map(seed).collect()
}

/// Frames: app id, the key, client data, the assertion.
pub fn apple_assertion(mut data: &[u8]) {
    let (app_id, key, client_data) = (text(frame(&mut data)), frame(&mut data), frame(&mut data));
    for assertion in [frame(&mut data), data] {
        let _ = Assertion { app_id, public_key_spki: key, client_data, previous_counter: 0, assertion }.verify();
    }
}

fn apple_assertion_seeds(vectors: &Vectors) -> Vec<Vec<u8>> {
    let seed = |case: &Value| {
        let parts = ["public_key_spki_b64", "client_data_b64", "assertion_b64"].map(|name| b64(&case[name]));
        let [key, client_data, assertion] = &parts;
        frames(&[str_bytes(&case["app_id"]), key, client_data, assertion])
    };
    vectors.list("apple-app-attest/assertions.json", "assertions").iter().map(seed).collect()
}

/// Frames: time, app id, the receipt.
pub fn apple_receipt(mut data: &[u8]) {
    let (now, app_id) = (time(frame(&mut data)), text(frame(&mut data)));
    let Some(roots) = &*APPLE else { return };
    for receipt in [frame(&mut data), data] {
        let receipt = Receipt { app_id, public_key_spki: None, environment: None, receipt };
        let _ = receipt.verify(&ApplePolicy::default(), roots, now);
    }
}

fn apple_receipt_seeds(vectors: &Vectors) -> Vec<Vec<u8>> {
    let seed = |case: &Value| {
        frames(&[&moment(&case["creation_time"]), str_bytes(&case["app_id"]), &b64(&case["receipt_b64"])])
    };
    vectors.list("apple-app-attest/receipts.json", "receipts").iter().map(seed).collect()
}

// ---- Android

/// Frames: time, challenge, then certificates, leaf first. The whole besides as PEM.
pub fn android_chain(data: &[u8]) {
    let mut rest = data;
    let (now, challenge) = (time(frame(&mut rest)), frame(&mut rest));
    let mut ders = Vec::new();
    while !rest.is_empty() && ders.len() <= chain::CERTIFICATES_MAX {
        ders.push(frame(&mut rest).to_vec());
    }
    let Ok(roots) = android::google_roots() else { return };
    let evidence = android::Evidence { chain: &ders, challenge: Some(challenge), roots: &roots, status_list: None };
    let claims = android::verify(&evidence, &AndroidPolicy::default(), now).map(|attested| attested.claims());
    drop(claims);
    let _ = chain::parse_pem_chain(text(data)).map(|ders| chain::parse(&ders).map(|found| found.len()));
}

fn android_chains(vectors: &Vectors) -> Vec<(Value, Vec<Vec<u8>>)> {
    let read = |entry: Value| {
        let file = format!("android-key-attestation/{}", entry["file"].as_str().unwrap_or_default());
        let ders = chain::parse_pem_chain(text(&vectors.bytes(&file))).ok()?;
        Some((entry, ders))
    };
    vectors.list("android-key-attestation/index.json", "chains").into_iter().filter_map(read).collect()
}

fn android_chain_seeds(vectors: &Vectors) -> Vec<Vec<u8>> {
    let seed = |(entry, ders): (Value, Vec<Vec<u8>>)| {
        let (now, challenge) = (moment(&entry["verify_at"]), b64(&entry["expected_challenge_b64"]));
        let head: [&[u8]; 2] = [&now, &challenge];
        frames(&head.into_iter().chain(ders.iter().map(Vec::as_slice)).collect::<Vec<_>>())
    };
    android_chains(vectors).into_iter().map(seed).collect()
}

/// The value of the attestation extension.
pub fn android_statement(data: &[u8]) {
    let _ = KeyDescription::parse(data).map(|statement| AndroidPolicy::default().judge(&statement));
}

fn android_statement_seeds(vectors: &Vectors) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (_, ders) in android_chains(vectors) {
        for certificate in chain::parse(&ders).unwrap_or_default() {
            let stated = certificate.extensions().iter().find(|e| e.oid.to_id_string() == "1.3.6.1.4.1.11129.2.1.17");
            seeds.extend(stated.map(|extension| extension.value.to_vec()));
        }
    }
    seeds
}

/// Google's JSON.
pub fn android_status_list(data: &[u8]) {
    let _ = StatusList::from_json(data, None).map(|list| list.status("1").is_some());
}

fn android_status_list_seeds(vectors: &Vectors) -> Vec<Vec<u8>> {
    vec![vectors.bytes("android-key-attestation/status_list_sample.json")]
}

// ---- Play Integrity

/// Frames: decryption key, verification key, nonce, the token.
pub fn play_token(mut data: &[u8]) {
    let (decryption, verification, nonce) = (frame(&mut data), frame(&mut data), frame(&mut data));
    let Ok(keys) = PlayKeys::new(decryption, verification) else { return };
    let _ = play::verify(text(frame(&mut data)), &keys, nonce, &PLAY.1, PLAY.2);
}

fn play_token_seeds(vectors: &Vectors) -> Vec<Vec<u8>> {
    let file = vectors.json("play-integrity/tokens.json");
    let keys = [b64(&file["decryption_key_b64"]), b64(&file["verification_key_spki_b64"])];
    let [decryption, verification] = &keys;
    let nonce = b64(&file["config"]["expected_nonce"]);
    let cases = vectors.list("play-integrity/tokens.json", "cases");
    cases.iter().map(|case| frames(&[decryption, verification, &nonce, str_bytes(&case["token"])])).collect()
}

const PLAY_NONCE: &str = "AQIDBAUGBwgJCgsMDQ4PEA";

/// An app's keys, its policy, and a time.
static PLAY: LazyLock<(PlayConsole, PlayPolicy, Timestamp)> = LazyLock::new(|| {
    let console = PlayConsole::new("com.example.bank", &Random::seeded(1));
    let policy = PlayPolicy {
        package: console.package.clone(),
        certificate_digests: vec![console.certificate_digest.clone()],
        ..PlayPolicy::default()
    };
    (console, policy, Timestamp::from_millis(1_800_000_000_000))
});

/// A verdict under genuine keys: what stands behind the signature must be read as carefully as what stands before it.
pub fn play_verdict(data: &[u8]) {
    let (console, policy, now) = &*PLAY;
    let (decryption, verification) = (json!(console.decryption_key_b64()), json!(console.verification_key_spki_b64()));
    let Ok(keys) = PlayKeys::new(&b64(&decryption), &b64(&verification)) else { return };
    let Ok(token) = console.encrypt(&console.sign(text(data))) else { return };
    let _ = play::verify(&token, &keys, &b64(&json!(PLAY_NONCE)), policy, *now);
}

fn play_verdict_seeds(_: &Vectors) -> Vec<Vec<u8>> {
    vec![PLAY.0.verdict(PLAY_NONCE, PLAY.2).to_string().into_bytes()]
}

// ---- TPM

/// Frames: the key's public area, the attestation, the signature, the nonce, the values of the registers from 0 on.
pub fn tpm_quote(data: &[u8]) {
    let mut rest = data;
    let (ak_public, attest, signature) = (frame(&mut rest), frame(&mut rest), frame(&mut rest));
    let (nonce, values) = (frame(&mut rest), frame(&mut rest));
    let registers = (0_u8..).zip(values.as_chunks::<32>().0.iter().map(|value| value.to_vec())).take(24).collect();
    let evidence = Evidence { ak_public, attest, signature, registers };
    let known =
        Known { nonce, bank: Hash::Sha256, required_pcrs: None, ak_name: None, counters: quote::Counters::default() };
    let _ = quote::verify(&evidence, &known, &TpmPolicy::default()).map(|quote| quote.claims());
    for bytes in [data, ak_public, attest, signature] {
        let _ = (wire::Public::parse(bytes), wire::Signature::parse(bytes));
        let _ = (wire::Attest::parse(bytes, wire::tag::QUOTE), wire::Attest::parse(bytes, wire::tag::CERTIFY));
    }
}

fn tpm_quote_seeds(vectors: &Vectors) -> Vec<Vec<u8>> {
    let seed = |case: &Value| {
        let parts = ["ak_public_b64", "attest_b64", "signature_b64"].map(|name| b64(&case[name]));
        let [public, attest, signature] = &parts;
        let values: Vec<u8> = (0..24).flat_map(|pcr| unhex(&case["pcr_values"][pcr.to_string()])).collect();
        frames(&[public, attest, signature, &unhex(&case["nonce_hex"]), &values])
    };
    vectors.list("tpm/synthetic_quotes.json", "cases").iter().map(seed).collect()
}

/// The log as firmware wrote it.
pub fn tpm_event_log(data: &[u8]) {
    let case = Map::from_iter([("event_log_b64".to_owned(), json!(Base64::encode_string(data)))]);
    let _ = cases::judge(Kind::TpmEventlog, &case, &Policy::default(), Timestamp::EPOCH);
}

fn tpm_event_log_seeds(vectors: &Vectors) -> Vec<Vec<u8>> {
    let logs = ["crypto_agile", "ebs_event_missing", "sb_cert", "short_no_action"];
    let mut seeds: Vec<_> =
        logs.iter().map(|name| vectors.bytes(&format!("tpm/eventlogs/{name}_eventlog.bin"))).collect();
    seeds.push(b64(&vectors.json("tpm/real_quote_gcp_windows.json")["event_log_b64"]));
    seeds
}

// ---- WebAuthn

/// The case that the frames are: time, relying party, origin, challenge, client data, attestation object.
fn registration(rest: &mut &[u8]) -> (Timestamp, Map<String, Value>) {
    let now = time(frame(rest));
    let (rp_id, origin) = (text(frame(rest)), text(frame(rest)));
    let case = [
        ("rp_id", json!(rp_id)),
        ("origin", json!(origin)),
        ("challenge_hex", json!(hex(frame(rest)))),
        ("client_data_json_hex", json!(hex(frame(rest)))),
        ("attestation_object_hex", json!(hex(frame(rest)))),
    ];
    (now, case.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn registration_seed(case: &Map<String, Value>) -> Vec<u8> {
    let made = case.get("registration").and_then(Value::as_object).unwrap_or(case);
    let part = |name: &str| match made.get(&format!("{name}_hex")) {
        Some(hex) => unhex(hex),
        None => b64(made.get(&format!("{name}_b64url")).unwrap_or(&Value::Null)),
    };
    let of = |name: &str| case.get(name).cloned().unwrap_or_default();
    let now = match case.get("chain_window") {
        Some(Value::Array(window)) => window.first().cloned().unwrap_or_default(),
        _ => json!("2026-01-01T00:00:00Z"),
    };
    let (rp_id, origin) = (of("rp_id"), of("origin"));
    let (challenge, data, object) = (part("challenge"), part("client_data_json"), part("attestation_object"));
    frames(&[&moment(&now), str_bytes(&rp_id), str_bytes(&origin), &challenge, &data, &object])
}

/// Frames as [`registration`] reads them.
pub fn webauthn_registration(mut data: &[u8]) {
    let (now, case) = registration(&mut data);
    let _ = cases::judge(Kind::WebauthnRegistration, &case, &Policy::default(), now);
}

fn webauthn_registration_seeds(vectors: &Vectors) -> Vec<Vec<u8>> {
    let cases = [
        vectors.merged("webauthn/w3c_l3.json", "cases"),
        vectors.merged("webauthn/real_registrations.json", "registrations"),
    ];
    cases.concat().iter().map(registration_seed).collect()
}

/// The same, and behind it: challenge, client data, authenticator data, signature.
pub fn webauthn_assertion(mut data: &[u8]) {
    let (now, mut case) = registration(&mut data);
    let used = json!({
        "challenge_hex": hex(frame(&mut data)),
        "client_data_json_hex": hex(frame(&mut data)),
        "authenticator_data_hex": hex(frame(&mut data)),
        "signature_hex": hex(frame(&mut data)),
    });
    case.insert("authentication".to_owned(), used);
    let _ = cases::judge(Kind::WebauthnAssertion, &case, &Policy::default(), now);
}

fn webauthn_assertion_seeds(vectors: &Vectors) -> Vec<Vec<u8>> {
    let seed = |case: &Map<String, Value>| {
        let members = ["challenge_hex", "client_data_json_hex", "authenticator_data_hex", "signature_hex"];
        let used = case.get("authentication").cloned().unwrap_or_default();
        let parts: Vec<Vec<u8>> = members.iter().map(|name| unhex(&used[*name])).collect();
        let more = frames(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>());
        [registration_seed(case), more].concat()
    };
    vectors.merged("webauthn/w3c_l3.json", "cases").iter().map(seed).collect()
}

// ---- tokens and texts

/// A token and a set of keys, as the members of one JSON object; the token besides by itself.
pub fn jwt(data: &[u8]) {
    let _ = JwkSet::parse(data);
    let _ = parse_compact(text(data), TOKEN_BYTES_MAX).map(|token| token.kid().is_some());
    judge(Kind::Jwt, data);
}

fn jwt_seeds(vectors: &Vectors) -> Vec<Vec<u8>> {
    let file = vectors.json("jose/jwt_attacks.json");
    let sets = vectors.list("jose/jwt_attacks.json", "bad_jwks");
    let case = |token: &Value, jwks: &Value| {
        json!({ "token": token["token"], "jwks": jwks, "config": file["config"] }).to_string().into_bytes()
    };
    let tokens = vectors.list("jose/jwt_attacks.json", "tokens");
    let good = tokens.first().cloned().unwrap_or_default();
    let bad_sets = sets.iter().map(|set| case(&good, &set["jwks"]));
    tokens.iter().map(|token| case(token, &file["jwks"])).chain(bad_sets).collect()
}

/// A token and a key, as the members of one JSON object.
pub fn jws(data: &[u8]) {
    judge(Kind::Jws, data);
}

fn jws_seeds(vectors: &Vectors) -> Vec<Vec<u8>> {
    let example = &vectors.json("jose/rfc.json")["jws_es256"];
    let mut seeds = vec![json!({ "jwk": example["jwk"], "token": example["jws"] }).to_string().into_bytes()];
    for group in vectors.list("jose/wycheproof/json_web_signature_test.json", "testGroups") {
        let jwk = if group["public"].is_object() { &group["public"] } else { &group["private"] };
        let tests = group["tests"].as_array().cloned().unwrap_or_default();
        seeds.extend(tests.iter().map(|t| json!({ "jwk": jwk, "token": t["jws"] }).to_string().into_bytes()));
    }
    seeds
}

fn judge(kind: Kind, data: &[u8]) {
    let Ok(case) = strict_json::parse_object(data) else { return };
    let now = cases::case_time(kind, &case).ok().flatten().unwrap_or(Timestamp::EPOCH);
    let _ = cases::judge(kind, &case, &Policy::default(), now);
}

/// A file of evidence: the first byte chooses the type. The whole besides as a policy file and as CBOR.
pub fn evidence_file(data: &[u8]) {
    let _ = (Policy::from_toml(text(data)), cbor::read(data));
    let Some((first, case)) = data.split_first() else { return };
    if let Some(kind) = Kind::ALL.into_iter().nth(usize::from(*first) % Kind::ALL.len()) {
        judge(kind, case);
    }
}

fn evidence_file_seeds(vectors: &Vectors) -> Vec<Vec<u8>> {
    let android = android_chains(vectors).into_iter().take(1).map(|(entry, _)| {
        let file = format!("android-key-attestation/{}", entry["file"].as_str().unwrap_or_default());
        Map::from_iter([("chain_pem".to_owned(), json!(text(&vectors.bytes(&file))))])
    });
    let quote = vectors.json("tpm/real_quote_gcp_windows.json").as_object().cloned().unwrap_or_default();
    let cases = [
        vectors.merged("apple-app-attest/attestations.json", "attestations"),
        vectors.merged("apple-app-attest/assertions.json", "assertions"),
        android.collect(),
        vectors.merged("play-integrity/tokens.json", "cases"),
        vectors.merged("apple-app-attest/receipts.json", "receipts"),
        vectors.merged("tpm/synthetic_quotes.json", "cases"),
        vec![quote],
        vectors.merged("webauthn/w3c_l3.json", "cases"),
        vectors.merged("webauthn/w3c_l3.json", "cases"),
        Vec::new(),
        Vec::new(),
    ];
    let numbered = (0_u8..).zip(cases);
    let seed = |(number, cases): (u8, Vec<Map<String, Value>>)| {
        as_texts(cases.into_iter().take(2).collect()).into_iter().map(move |text| [vec![number], text].concat())
    };
    numbered.flat_map(seed).collect()
}

/// Frames: time, method, URL, the proof.
pub fn dpop_proof(mut data: &[u8]) {
    let (now, method, url) = (time(frame(&mut data)), text(frame(&mut data)), text(frame(&mut data)));
    let expected = Expect { method, url, access_token: None, thumbprint: None, iat_window_s: 60 };
    let _ = dpop::verify_proof(text(frame(&mut data)), &expected, now);
}

fn dpop_proof_seeds(vectors: &Vectors) -> Vec<Vec<u8>> {
    let seed = |case: &Value| {
        let now = case["now"].as_i64().unwrap_or_default().saturating_mul(1000).to_be_bytes();
        frames(&[&now, str_bytes(&case["method"]), str_bytes(&case["url"]), str_bytes(&case["proof"])])
    };
    vectors.list("jose/dpop.json", "cases").iter().map(seed).collect()
}

/// What is canonical once stays so: signatures are made over this text.
///
/// # Panics
/// When it does not, which is a defect.
pub fn canonical_json(data: &[u8]) {
    let Ok(canonical) = strict_json::parse(data).map(|value| jcs::canonicalize(&value)) else { return };
    let Ok(canonical) = canonical else { return };
    let again = strict_json::parse(canonical.as_bytes()).map(|value| jcs::canonicalize(&value));
    assert!(matches!(&again, Ok(Ok(same)) if *same == canonical), "{canonical}");
}

fn canonical_json_seeds(vectors: &Vectors) -> Vec<Vec<u8>> {
    let numbers = r#"[1e300, -0.0, 5e-324, 9007199254740993, 0.1, "\ud83d\ude00", {"b": 1, "a": null, "€": []}]"#;
    vec![numbers.into(), vectors.bytes("jose/rfc.json"), vectors.bytes("apple-app-attest/negatives.json")]
}

/// The body of a heartbeat, on HTTP and on the socket.
pub fn heartbeat(data: &[u8]) {
    let now = Timestamp::from_millis(1_800_000_000_000);
    let _ = body::parse::<HeartbeatRequest>(data).map(|request| request.into_heartbeat(now).readings.len());
}

fn heartbeat_seeds(_: &Vectors) -> Vec<Vec<u8>> {
    let reading = json!({
        "t_ms": 1_800_000_000_000_i64, "accelerometer": [0.1, 9.8, 0.2], "gyroscope": [0.0, 0.1, 0.0],
        "touch": { "x": 10.0, "y": 20.0, "pressure": 0.5, "interval_ms": 120.0 },
        "network": { "rx_bytes": 1, "tx_bytes": 2, "rtt_ms": 30.0, "connections": 4 },
        "overlay": 0.0, "proximity": 1.0, "accessibility_active": false, "rooted": false, "debugger": false,
    });
    let one = json!({ "device_id": "d-1", "seq": 1, "readings": [reading] });
    vec![one.to_string().into_bytes(), reading.to_string().into_bytes(), b"{}".to_vec()]
}
