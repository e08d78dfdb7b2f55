//! Real chains with their expected results, and what attackers would make of them. The files are only read.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::*;

/// The folder of the chains; nothing where the shared files are absent altogether.
fn folder() -> Option<PathBuf> {
    let shared = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared"));
    if shared.is_dir() {
        return Some(shared.join("vectors/android-key-attestation"));
    }
    eprintln!("skipped: there is no folder ../shared");
    None
}

fn read(file: &str) -> Option<String> {
    folder().map(|folder| std::fs::read_to_string(folder.join(file)).unwrap())
}

fn entries(file: &str, list: &str) -> Vec<Value> {
    let Some(text) = read(file) else { return Vec::new() };
    serde_json::from_str::<Value>(&text).unwrap()[list].as_array().unwrap().clone()
}

fn base(name: &str) -> (Map<String, Value>, Timestamp) {
    let entry = entries("index.json", "chains").into_iter().find(|entry| entry["name"] == name).unwrap();
    case_of(&entry)
}

fn case_of(entry: &Value) -> (Map<String, Value>, Timestamp) {
    let mut case = entry.as_object().unwrap().clone();
    case.insert("chain_pem".to_owned(), read(entry["file"].as_str().unwrap()).unwrap().into());
    if let Some(challenge) = entry.get("expected_challenge_b64") {
        case.insert("challenge_b64".to_owned(), challenge.clone());
    }
    let at = entry["verify_at"].as_str().unwrap_or("2026-11-01T00:00:00Z").parse().unwrap();
    (case, at)
}

/// Takes any statement of a chain that holds.
fn lenient() -> AndroidPolicy {
    policy(
        "min_security_level = 'software'\nallow_unverified_boot = true\nallow_unlocked = true\nallow_shared_uid = true",
    )
}

#[test]
fn every_real_chain_gets_its_expected_result() {
    let mut judged = 0;
    for entry in entries("index.json", "chains") {
        let name = entry["name"].as_str().unwrap();
        let (case, at) = case_of(&entry);
        let expected = entry["expected_chain"].as_str().unwrap();
        let by_chain = verify_case(&case, &lenient(), at);
        let strict = verify_case(&case, &AndroidPolicy::default(), at);
        let reason = |verdict: &Result<Claims, Refused>| verdict.as_ref().map_or_else(|r| r.reason, |_| "accepted");
        if expected.starts_with("trusted") {
            let claims = by_chain.unwrap_or_else(|refused| panic!("{name}: {refused}"));
            assert_eq!(claims["root"], entry["root"], "{name}");
            assert_eq!(claims["serials"], entry.get("serials_hex").unwrap_or(&claims["serials"]).clone(), "{name}");
            assert_eq!(claims["provisioning"], if entry["provisioning"] == "factory" { "factory" } else { "remote" });
        } else {
            let refused = reason(&by_chain);
            assert!(
                ["root_unknown", "signature_invalid", "certificate_expired"].contains(&refused),
                "{name}: {refused}"
            );
        }
        match entry.get("expected_under_strict_policy").and_then(Value::as_str) {
            Some("accept") => assert_eq!(reason(&strict), "accepted", "{name}"),
            Some(_) => assert_ne!(reason(&strict), "accepted", "{name}"),
            None => {}
        }
        judged += 1;
    }
    assert!(folder().is_none() || judged == 18, "{judged}");
}

#[test]
fn statements_are_read_as_their_authors_read_them() {
    for entry in entries("index.json", "chains") {
        let Some(parsed) = entry.get("parsed").and_then(Value::as_str) else { continue };
        let expected: Value = serde_json::from_str(&read(parsed).unwrap()).unwrap();
        let ders = parse_pem_chain(&read(entry["file"].as_str().unwrap()).unwrap()).unwrap();
        let statement = only_statement(&chain::parse(&ders).unwrap()).unwrap();
        let read = KeyDescription::parse(&statement).unwrap();
        let b64 = |bytes: &[u8]| Value::from(Base64::encode_string(bytes));
        let level = |level: SecurityLevel| level.name().to_uppercase();
        let number = |value: Option<u64>| value.map_or(Value::Null, |value| value.to_string().into());
        let small = |value: Option<u32>| number(value.map(u64::from));
        let numbers = |values: &[u32]| match values {
            [] => Value::Null,
            values => values.iter().map(u32::to_string).collect::<Vec<_>>().into(),
        };
        assert_eq!(small(Some(read.attestation_version)), expected["attestationVersion"], "{parsed}");
        assert_eq!(small(Some(read.keymint_version)), expected["keyMintVersion"], "{parsed}");
        assert_eq!(level(read.attestation_level), expected["attestationSecurityLevel"], "{parsed}");
        assert_eq!(level(read.keymint_level), expected["keyMintSecurityLevel"], "{parsed}");
        assert_eq!(b64(&read.challenge), expected["attestationChallenge"], "{parsed}");
        for (list, want) in
            [(&read.hardware, &expected["hardwareEnforced"]), (&read.software, &expected["softwareEnforced"])]
        {
            assert!(list.ordered, "{parsed}");
            let boot = list.root_of_trust.as_ref().map_or(Value::Null, |boot| {
                json!({
                    "verifiedBootKey": b64(&boot.boot_key),
                    "deviceLocked": boot.device_locked,
                    "verifiedBootState": boot.boot_state.name().to_uppercase(),
                    "verifiedBootHash": b64(boot.boot_hash.as_deref().unwrap()),
                })
            });
            let app = list.application_id.as_ref().map_or(Value::Null, |id| {
                let packages: Vec<Value> =
                    id.packages.iter().map(|(name, v)| json!({"name": name, "version": v.to_string()})).collect();
                json!({"packages": packages, "signatures": id.signers.iter().map(|s| b64(s)).collect::<Vec<_>>()})
            });
            for (member, got) in [
                ("purposes", numbers(&list.purposes)),
                ("algorithms", small(list.algorithm)),
                ("keySize", small(list.key_size)),
                ("digests", numbers(&list.digests)),
                ("paddings", numbers(&list.paddings)),
                ("ecCurve", small(list.ec_curve)),
                ("rsaPublicExponent", number(list.rsa_public_exponent)),
                ("noAuthRequired", if list.no_auth_required { true.into() } else { Value::Null }),
                ("userAuthType", number(list.user_auth_type)),
                ("authTimeout", number(list.auth_timeout_s)),
                ("creationDateTime", number(list.creation_ms)),
                ("origin", list.origin.map_or(Value::Null, |_| "GENERATED".into())),
                ("rootOfTrust", boot),
                ("osVersion", small(list.os_version)),
                ("osPatchLevel", small(list.os_patch_level)),
                ("vendorPatchLevel", small(list.vendor_patch_level)),
                ("bootPatchLevel", small(list.boot_patch_level)),
                ("attestationApplicationId", app),
                ("attestationIdBrand", list.brand.clone().into()),
                ("attestationIdDevice", list.device.clone().into()),
                ("attestationIdProduct", list.product.clone().into()),
                ("attestationIdManufacturer", list.manufacturer.clone().into()),
                ("attestationIdModel", list.model.clone().into()),
            ] {
                assert_eq!(got, want.get(member).cloned().unwrap_or_default(), "{parsed} {member}");
            }
        }
    }
    let Some(pem) = read("chains/allow_while_on_body.pem") else { return };
    let ders = parse_pem_chain(&pem).unwrap();
    let read = KeyDescription::parse(&only_statement(&chain::parse(&ders).unwrap()).unwrap()).unwrap();
    assert!(read.software.allow_while_on_body, "where this device wrote it");
}

/// The file describes changes in words; each name is one change here, and a name that is not known fails.
#[test]
fn every_described_negative_is_refused_for_its_reason() {
    let maker = Maker::new();
    for negative in entries("negatives.json", "negatives") {
        let (name, change) = (negative["name"].as_str().unwrap(), &negative["change"]);
        assert_eq!(negative["expected"], "reject", "{name}");
        let statement = |statement: Statement| maker.reason(statement.to_der(), &AndroidPolicy::default());
        let made_up = match name {
            "software-level" => Some((statement(Statement::good().with(|s| s.levels = [0, 1])), "security_level")),
            "origin-in-software-list" => {
                Some((statement(Statement::good().hardware(702, None).software(702, Some(int(0)))), "origin"))
            }
            "purpose-import" => Some((statement(Statement::good().hardware(702, Some(int(2)))), "origin")),
            "two-packages" => Some((
                statement(Statement::good().software(709, Some(app(&["com.good", "com.evil"], &[[0xab; 32]])))),
                "shared_uid",
            )),
            _ => None,
        };
        if let Some((got, expect)) = made_up {
            assert_eq!(got, expect, "{name}");
            continue;
        }
        let (mut case, mut at) = base(negative["base"].as_str().unwrap());
        let mut ders = parse_pem_chain(case["chain_pem"].as_str().unwrap()).unwrap();
        // This base has an open boot loader, which is not what the case is about.
        let policy = if name == "root-replaced" { lenient() } else { AndroidPolicy::default() };
        let unspoilt = verify_case(&case, &policy, at);
        let mut set = |member: &str, value: Value| {
            case.insert(member.to_owned(), value);
        };
        let expect = match name {
            "wrong-challenge" => {
                set("challenge_b64", Value::Null);
                set("challenge_utf8", change["challenge_utf8"].clone());
                "challenge"
            }
            "challenge-prefix" => {
                let all = Base64::decode_vec(unspoilt.as_ref().unwrap()["challenge_b64"].as_str().unwrap()).unwrap();
                set("challenge_b64", Base64::encode_string(&all[..16]).into());
                "challenge"
            }
            "rkp-expired" => {
                at = "2025-12-05T00:00:00Z".parse().unwrap();
                "certificate_expired"
            }
            "not-yet-valid" => {
                at = "2020-01-01T00:00:00Z".parse().unwrap();
                "certificate_not_yet_valid"
            }
            "revoked-intermediate" | "suspended-intermediate" => {
                set("status_list", change["status_list"].clone());
                "revoked"
            }
            "status-list-broken" => {
                set("status_list", "".into());
                assert_eq!(
                    verify_case(&case, &AndroidPolicy::default(), at).unwrap_err().reason,
                    "status_list_malformed"
                );
                case.insert("status_list".to_owned(), "not JSON".into());
                "status_list_malformed"
            }
            "chain-extended" => {
                // Nobody has the phone's key; that the refusal is not for the signature alone stands in the test above.
                let forged = Plan::leaf("Android Keystore Key")
                    .extension(ATTESTATION_OID, false, Statement::good().to_der())
                    .root();
                ders.insert(0, forged.der);
                "attestation_not_in_leaf"
            }
            "ext-only-in-intermediate" => {
                ders.remove(0);
                "attestation_missing"
            }
            "root-replaced" => {
                let name = Plan::authority("x").with(|params| {
                    params.distinguished_name = rcgen::DistinguishedName::new();
                    params.distinguished_name.push(rcgen::DnType::CustomDnType(vec![2, 5, 4, 5]), "f92009e853b6b045");
                });
                ders.pop();
                ders.push(name.root().der);
                "root_unknown"
            }
            "intermediate-missing" => {
                ders.remove(2);
                "name_chaining"
            }
            "order-reversed" => {
                ders.reverse();
                "attestation_not_in_leaf"
            }
            "unlocked" => "verified_boot_state",
            "other-app" => {
                set("package", change["package"].clone());
                "package"
            }
            "other-signer" => {
                set("signature_digest", "00".repeat(32).into());
                "signer"
            }
            other => panic!("{other} is not known here"),
        };
        assert_eq!(unspoilt.is_ok(), name != "unlocked", "{name}: {unspoilt:?}");
        let pem = |der: &Vec<u8>| {
            format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", Base64::encode_string(der))
        };
        case.insert("chain_pem".to_owned(), ders.iter().map(pem).collect::<String>().into());
        let got = verify_case(&case, &policy, at).map_or_else(|refused| refused.reason, |_| "accepted");
        assert_eq!(got, expect, "{name}");
    }
}

#[test]
fn the_bundled_roots_are_those_that_google_publishes() {
    let Some(text) = read("google_roots.json") else { return };
    let bundled: Vec<Vec<u8>> = google_roots().unwrap().iter().map(|anchor| anchor.spki().to_vec()).collect();
    let published: Vec<String> = serde_json::from_str(&text).unwrap();
    let published: Vec<Vec<u8>> = published
        .iter()
        .map(|pem| Anchor::from_certificate("", &parse_pem_chain(pem).unwrap()[0]).unwrap().spki().to_vec())
        .collect();
    assert_eq!(bundled, published);
    let sample = StatusList::from_json(read("status_list_sample.json").unwrap().as_bytes(), None).unwrap();
    assert_eq!(sample.status("cc66e9a93713b6e643b26c15879786f7"), Some("SUSPENDED"));
    assert_eq!(sample.len(), 5);
}
