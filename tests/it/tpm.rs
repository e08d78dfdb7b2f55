//! A machine proves itself by its TPM: two keys of one chip, the registers of its boot, counters that only rise. The chip
//! is a real TPM 2.0 in software, a process of its own.

mod agent;
mod boot_log;
pub mod chip;
mod standing;

use std::time::Duration;

use base64ct::{Base64, Encoding};
use blockremote::agent::tpm::{Endorsement, attestation_template, signing_template};
use blockremote::client::Response;
use blockremote::crypto::sha256;
use blockremote::domains::attestation::{NewRoot, RootKind};
use blockremote::kernel::context::Origin;
use blockremote::testkit::{Device, Fault, Folder, Server, text};
use hyper::Method;
use serde_json::{Value, json};

use crate::attestation::{attest, blocked_by, nonce, nonce_to_enroll, signed, state};
use crate::common::{Done, assert_refused, audited, body, enroll_with, enrollment, first_tenant, second_tenant, send};
use chip::{Chip, Maker, PCRS, evidence, hex, pem};

/// Makes chips and nothing else.
const INFINEON: &str = "id:49465800";
/// Makes processors with a TPM in their firmware, too.
const INTEL: &str = "id:494E5443";
const KINDS: [Endorsement; 2] = [Endorsement::Rsa2048, Endorsement::P256];
const ACTIVATE: &str = "/v1/attestation/tpm/activate";

/// An appliance whose first tenant trusts `makers`, with this policy.
async fn server(makers: &[&Maker], policy: &str) -> Result<(Server, Folder), Fault> {
    let folder = Folder::new()?;
    let rules = folder.path().join("policy.toml");
    std::fs::write(&rules, policy)?;
    let server = Server::start_with(|c| c.attestation.policy = Some(rules)).await?;
    let tenant = first_tenant(&server).await?;
    for maker in makers {
        let new = NewRoot { kind: RootKind::Tpm, label: "a maker".to_owned(), pem: maker.pem.clone() };
        server.app().services.attestation.add_root(tenant, new, None, Origin::cli()).await?;
    }
    Ok((server, folder))
}

async fn ask(server: &Server, device: &Device, wanted: &Value) -> Result<Response, Fault> {
    Ok(server.client()?.post(ACTIVATE, Some(&device.access_token), wanted).await?)
}

fn answer(device: &str, challenge: &Value, secret: &[u8]) -> Value {
    json!({ "device_id": device, "activation": challenge["activation"], "secret_b64": Base64::encode_string(secret) })
}

/// The chip's key becomes the device's, by a certificate that the maker gives; gives the last answer.
async fn activate(server: &Server, device: &Device, chip: &Chip, certified: (&Maker, &str)) -> Result<Value, Fault> {
    let kind = Endorsement::P256;
    let pem = certified.0.certified_pem(&chip.endorsement(kind)?, certified.1)?;
    let challenge = ask(server, device, &chip.keys(&device.id, kind, Some(&pem))?).await?;
    assert_eq!(challenge.status, 200, "{}", body(&challenge));
    let secret = chip.open(kind, &body(&challenge))?;
    let activated = ask(server, device, &answer(&device.id, &body(&challenge), &secret)).await?;
    assert_eq!(activated.status, 200, "{}", body(&activated));
    Ok(body(&activated))
}

/// What a device's TPM must quote for a nonce.
async fn challenge_hash(server: &Server, device: &str, nonce: &str) -> Result<[u8; 32], Fault> {
    let tenant = first_tenant(server).await?;
    Ok(sha256(format!("blockremote-attest-v1\n{tenant}\n{device}\n{nonce}").as_bytes()))
}

/// Evidence of a fresh nonce.
async fn quoted(server: &Server, device: &Device, chip: &Chip) -> Result<Value, Fault> {
    let nonce = nonce(server, device).await?;
    let hash = challenge_hash(server, &device.id, &nonce).await?;
    Ok(evidence(&nonce, &chip.quote(&hash, &PCRS)?))
}

fn assert_reason(answer: &Response, code: &str, reason: &str) {
    assert_refused(answer, 403, code);
    assert_eq!(body(answer)["reason"], reason, "{}", body(answer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_keys_of_one_chip_bind_it_to_the_device_and_its_quotes_count_by_its_maker() -> Done {
    let maker = Maker::new("a maker")?;
    let (server, _folder) = server(&[&maker], "").await?;
    for (n, (kind, vendor, level, score)) in
        [(KINDS[0], INFINEON, "hardware", 100), (KINDS[1], INTEL, "trusted", 85)].into_iter().enumerate()
    {
        let (chip, id) = (Chip::start()?, format!("BR-{n}"));
        let device = server.enroll(&id).await?;
        let pem = maker.certified_pem(&chip.endorsement(kind)?, vendor)?;
        let challenge = body(&ask(&server, &device, &chip.keys(&id, kind, Some(&pem))?).await?);
        assert_eq!(challenge["status"], "challenged", "{challenge}");
        let answered = answer(&id, &challenge, &chip.open(kind, &challenge)?);
        let activated = body(&ask(&server, &device, &answered).await?);
        assert_eq!((&activated["status"], &activated["level"]), (&json!("activated"), &json!(level)), "{activated}");
        // A lost answer: the same request again hears the same, and nothing happens twice.
        assert_eq!(body(&ask(&server, &device, &answered).await?), activated);
        assert_eq!(audited(&server, &id).await?.iter().filter(|a| *a == "attestation_key_activated").count(), 1);

        let proof = quoted(&server, &device, &chip).await?;
        let accepted = attest(&server, &device, &proof).await?;
        assert_eq!(accepted.status, 200, "{}", body(&accepted));
        let view = state(&server, &id).await?;
        assert_eq!(
            (&view["level"], &view["score"], &view["type"]),
            (&json!(level), &json!(score), &json!("tpm-quote"))
        );
        let claims = &view["claims"];
        assert_eq!((&claims["tpm_manufacturer"], &claims["ak_name"]), (&json!(vendor), &activated["ak_name_hex"]));
        assert!(view["root"].as_str().is_some_and(|root| root == "added: a maker"), "{view}");
        assert_eq!(claims["pcrs"].as_object().map(serde_json::Map::len), Some(8));
        // The quote again is the same request; for another nonce it is nothing.
        assert_eq!(body(&attest(&server, &device, &proof).await?), body(&accepted));
        let mut old = proof.clone();
        old["nonce"] = json!(nonce(&server, &device).await?);
        assert_reason(&attest(&server, &device, &old).await?, "attestation_refused", "nonce");
        assert_eq!(blocked_by(&server, &id).await?, "");
    }
    Ok(())
}

/// Who holds the secret of another chip, of another challenge or of another device has proven nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_challenge_is_for_one_chip_one_key_and_one_device_and_is_answered_once() -> Done {
    let maker = Maker::new("a maker")?;
    let (server, _folder) = server(&[&maker], "").await?;
    let (device, other) = (server.enroll("BR-1").await?, server.enroll("BR-2").await?);
    let (chip, another) = (Chip::start()?, Chip::start()?);
    for kind in KINDS {
        let pem = maker.certified_pem(&chip.endorsement(kind)?, INFINEON)?;
        let keys = chip.keys("BR-1", kind, Some(&pem))?;
        let challenge = body(&ask(&server, &device, &keys).await?);
        assert!(another.open(kind, &challenge).is_err(), "another chip opened the secret");
        // The right chip with an attestation key of another chip: the secret is for a name that it does not hold.
        let mut foreign = keys.clone();
        foreign["ak_public_b64"] = json!(Base64::encode_string(&another.public(&attestation_template())?));
        let mixed = body(&ask(&server, &device, &foreign).await?);
        assert!(chip.open(kind, &mixed).is_err(), "the chip opened a secret for a key that it does not hold");
    }
    let kind = Endorsement::P256;
    let pem = maker.certified_pem(&chip.endorsement(kind)?, INFINEON)?;
    let keys = chip.keys("BR-1", kind, Some(&pem))?;
    let challenge = body(&ask(&server, &device, &keys).await?);
    let secret = chip.open(kind, &challenge)?;

    let mut stolen = answer("BR-2", &challenge, &secret);
    assert_reason(&ask(&server, &other, &stolen).await?, "activation_refused", "activation");
    stolen["device_id"] = json!("BR-1");
    assert_refused(&ask(&server, &other, &stolen).await?, 403, "device_mismatch");
    let wrong = answer("BR-1", &challenge, &[0; 32]);
    assert_reason(&ask(&server, &device, &wrong).await?, "activation_refused", "secret");
    // A wrong answer ends the challenge, so that nobody guesses twice.
    let right = answer("BR-1", &challenge, &secret);
    assert_reason(&ask(&server, &device, &right).await?, "activation_refused", "activation");

    let challenge = body(&ask(&server, &device, &keys).await?);
    let late = answer("BR-1", &challenge, &chip.open(kind, &challenge)?);
    server.clock.advance(Duration::from_secs(180));
    assert_reason(&ask(&server, &device, &late).await?, "activation_refused", "activation");
    // Three failures are quarantine, as of any other proof.
    assert_eq!(blocked_by(&server, "BR-1").await?, "quarantine");
    assert_eq!(state(&server, "BR-1").await?["recent_failures"], 3);

    server.clock.advance(Duration::from_secs(700));
    // A newer challenge takes the older one's place.
    let older = body(&ask(&server, &device, &keys).await?);
    let newer = body(&ask(&server, &device, &keys).await?);
    let answered = answer("BR-1", &older, &chip.open(kind, &older)?);
    assert_reason(&ask(&server, &device, &answered).await?, "activation_refused", "activation");
    let answered = answer("BR-1", &newer, &chip.open(kind, &newer)?);
    assert_eq!(ask(&server, &device, &answered).await?.status, 200);
    // Used: with another secret it is no repetition.
    let replay = answer("BR-1", &newer, &[1; 32]);
    assert_reason(&ask(&server, &device, &replay).await?, "activation_refused", "activation");
    // The chip is this device's now, and no other's.
    let taken = chip.keys("BR-2", kind, Some(&pem))?;
    let challenge = body(&ask(&server, &other, &taken).await?);
    let answered = answer("BR-2", &challenge, &chip.open(kind, &challenge)?);
    assert_reason(&ask(&server, &other, &answered).await?, "activation_refused", "ek_of_another_device");
    assert_eq!(blocked_by(&server, "BR-2").await?, "");
    // Until that one is removed.
    let admin = server.admin_token().await?;
    let bearer = format!("Bearer {admin}");
    let headers = [("authorization", bearer.as_str())];
    let gone = server.client()?.request(Method::DELETE, "/v1/devices/BR-1", &headers, Vec::new().into()).await?;
    assert_eq!(gone.status, 204, "{}", body(&gone));
    activate(&server, &other, &chip, (&maker, INFINEON)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_answers_at_once_one_counts() -> Done {
    let maker = Maker::new("a maker")?;
    let (server, _folder) = server(&[&maker], "").await?;
    let (device, chip, kind) = (server.enroll("BR-1").await?, Chip::start()?, Endorsement::P256);
    let pem = maker.certified_pem(&chip.endorsement(kind)?, INFINEON)?;
    let challenge = body(&ask(&server, &device, &chip.keys("BR-1", kind, Some(&pem))?).await?);
    let answered = answer("BR-1", &challenge, &chip.open(kind, &challenge)?);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (mut client, token, answered) = (server.client()?, device.access_token.clone(), answered.clone());
        tasks.spawn(async move { client.post(ACTIVATE, Some(&token), &answered).await.map(|a| (a.status, body(&a))) });
    }
    let answers = tasks.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
    // The identical request is the same request: all hear the same, and it happened once.
    assert!(answers.iter().all(|answer| answer == &answers[0] && answer.0 == 200), "{answers:?}");
    assert_eq!(audited(&server, "BR-1").await?.iter().filter(|a| *a == "attestation_key_activated").count(), 1);
    assert_eq!(state(&server, "BR-1").await?["recent_failures"], 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_keys_that_a_tpm_keeps_to_itself_are_bound() -> Done {
    let maker = Maker::new("a maker")?;
    let (server, _folder) = server(&[&maker], "").await?;
    let (device, chip, kind) = (server.enroll("BR-1").await?, Chip::start()?, Endorsement::P256);
    let ek = chip.endorsement(kind)?;
    let certificate = maker.certified_pem(&ek, INFINEON)?;
    let good = chip.keys("BR-1", kind, Some(&certificate))?;
    let with = |name: &str, value: Value| {
        let mut changed = good.clone();
        changed[name] = value;
        changed
    };
    let key = |bytes: &[u8]| json!(Base64::encode_string(bytes));
    // The TPM itself made these: one that signs anything, one that may leave the chip.
    let unrestricted = chip.public(&signing_template(0x0004_0072))?;
    let movable = chip.public(&signing_template(0x0005_0060))?;
    let rsa = |bits: u16, bytes: usize| {
        let head = [0, 1, 0, 0x0b, 0, 5, 0, 0x72, 0, 0, 0, 0x10, 0, 0x14, 0, 0x0b];
        let length = u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
        [&head[..], &bits.to_be_bytes(), &[0; 4], &length, &vec![0xff; bytes]].concat()
    };
    let unknown = Maker::new("a maker")?;
    let of_another = maker.certified_pem(&chip.endorsement(Endorsement::Rsa2048)?, INFINEON)?;
    let not_an_ek = pem(&maker.certify_for(&ek, INFINEON, &[2, 23, 133, 8, 3])?);
    for (wanted, reason) in [
        (with("ak_public_b64", key(&unrestricted)), "ak_attributes"),
        (with("ak_public_b64", key(&movable)), "ak_attributes"),
        (with("ak_public_b64", key(&ek)), "ak_attributes"),
        (with("ak_public_b64", key(&rsa(1024, 128))), "algorithm"),
        (with("ak_public_b64", key(&rsa(u16::MAX, 1_200))), "malformed"),
        (with("ak_public_b64", key(b"")), "malformed"),
        (with("ek_public_b64", key(&unrestricted)), "ek_certificate_key"),
        (with("ek_public_b64", key(&chip.endorsement(Endorsement::Rsa2048)?)), "ek_certificate_key"),
        (with("ek_certificates_pem", json!(of_another)), "ek_certificate_key"),
        (with("ek_certificates_pem", json!(not_an_ek)), "ek_certificate"),
        (with("ek_certificates_pem", json!(unknown.certified_pem(&ek, INFINEON)?)), "root_unknown"),
        (with("ek_certificates_pem", json!(maker.certified_pem(&ek, "Infineon")?)), "ek_certificate"),
        (with("ek_certificates_pem", json!(pem(b"no DER"))), "certificate_malformed"),
        (with("ek_certificates_pem", Value::Null), "ek_certificate_missing"),
    ] {
        assert_reason(&ask(&server, &device, &wanted).await?, "activation_refused", reason);
    }
    // None of it counts against the device: its owner may have a TPM that this appliance does not know.
    assert_eq!(state(&server, "BR-1").await?["recent_failures"], 0);
    assert!(audited(&server, "BR-1").await?.contains(&"attestation_refused".to_owned()));
    for malformed in [
        json!({ "device_id": "BR-1" }),
        with("secret_b64", json!("")),
        with("ek_public_b64", json!("***")),
        with("ak_public_b64", json!("A".repeat(2_049))),
        with("level", json!("hardware")),
    ] {
        assert_refused(&ask(&server, &device, &malformed).await?, 422, "invalid_request");
    }
    let mut client = server.client()?;
    assert_refused(&client.post(ACTIVATE, None, &good).await?, 401, "unauthenticated");
    // Another tenant's enrollment token says nothing of this device, and this tenant's is no way round its own token.
    let ticket = format!("Enrollment {}", server.enrollment_token);
    let by_ticket = send(&mut client, Method::POST, ACTIVATE, &[("authorization", &ticket)], &good).await?;
    assert_refused(&by_ticket, 409, "device_exists");
    Ok(())
}

/// Without a maker there need not be a chip at all: such a proof is never one of hardware.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chip_of_an_unknown_maker_counts_as_software_and_only_where_the_policy_says_so() -> Done {
    let (server, _folder) = server(&[], "[tpm]\nallow_unknown_ek = true\n").await?;
    let (device, chip, kind) = (server.enroll("BR-1").await?, Chip::start()?, Endorsement::P256);
    let challenge = body(&ask(&server, &device, &chip.keys("BR-1", kind, None)?).await?);
    let activated = body(&ask(&server, &device, &answer("BR-1", &challenge, &chip.open(kind, &challenge)?)).await?);
    assert_eq!(activated["level"], "software", "{activated}");
    let accepted = attest(&server, &device, &quoted(&server, &device, &chip).await?).await?;
    assert_eq!((body(&accepted)["level"].clone(), body(&accepted)["score"].clone()), (json!("software"), json!(30)));
    // A certificate that comes is judged all the same.
    let pem = Maker::new("nobody")?.certified_pem(&chip.endorsement(kind)?, INFINEON)?;
    let lying = ask(&server, &device, &chip.keys("BR-1", kind, Some(&pem))?).await?;
    assert_reason(&lying, "activation_refused", "root_unknown");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quote_is_of_the_devices_own_key_for_this_nonce_and_of_the_registers_that_came() -> Done {
    let maker = Maker::new("a maker")?;
    let (server, _folder) = server(&[&maker], "").await?;
    let (device, chip) = (server.enroll("BR-1").await?, Chip::start()?);
    let (other, another) = (server.enroll("BR-2").await?, Chip::start()?);
    let early = quoted(&server, &device, &chip).await?;
    assert_reason(&attest(&server, &device, &early).await?, "attestation_refused", "ak_unbound");
    activate(&server, &device, &chip, (&maker, INFINEON)).await?;
    activate(&server, &other, &another, (&maker, INFINEON)).await?;

    let good = quoted(&server, &device, &chip).await?;
    let with = |name: &str, value: Value| {
        let mut changed = good.clone();
        changed[name] = value;
        changed
    };
    let mut moved = good["pcr_values"].clone();
    moved["7"] = json!(hex(&[7; 32]));
    let mut without = good["pcr_values"].clone();
    without.as_object_mut().ok_or("no object")?.remove("0");
    let mut few = quoted(&server, &device, &chip).await?;
    let hash = challenge_hash(&server, "BR-1", &text(&few, "nonce")).await?;
    few = evidence(&text(&few, "nonce"), &chip.quote(&hash, &[0, 7])?);
    let log = {
        // The older form: PCR 0, EV_POST_CODE, a digest and no data. It is of another bank and another machine.
        let mut event = [0_u32.to_le_bytes(), 1_u32.to_le_bytes()].concat();
        event.extend([1; 20]);
        event.extend(0_u32.to_le_bytes());
        event
    };
    let foreign = quoted(&server, &device, &another).await?;
    let of_other_device = quoted(&server, &other, &another).await?;
    // Each with a nonce of its own. The device is in quarantine after the third, and may prove itself all the same.
    for (mut proof, reason) in [
        (foreign, "signature"),
        (with("pcr_values", moved), "pcr_digest"),
        (with("pcr_values", without), "pcr_value"),
        (with("signature_b64", of_other_device["signature_b64"].clone()), "signature"),
        (with("attest_b64", of_other_device["attest_b64"].clone()), "signature"),
        (with("event_log_b64", json!(Base64::encode_string(&log))), "eventlog_bank"),
        (with("attest_b64", json!("***")), "malformed_input"),
        (few, "pcr_selection"),
    ] {
        let fresh = nonce(&server, &device).await?;
        let hash = challenge_hash(&server, "BR-1", &fresh).await?;
        if reason == "pcr_selection" {
            proof = evidence(&fresh, &chip.quote(&hash, &[0, 7])?);
        } else if reason.starts_with("pcr") || reason.starts_with("eventlog") {
            // The same lie beside a quote that is genuine and fresh.
            let genuine = evidence(&fresh, &chip.quote(&hash, &PCRS)?);
            for name in ["nonce", "attest_b64", "signature_b64"] {
                proof[name] = genuine[name].clone();
            }
        } else {
            proof["nonce"] = json!(fresh);
        }
        assert_reason(&attest(&server, &device, &proof).await?, "attestation_refused", reason);
    }
    // The key of the other device, shown with a certificate for its endorsement key: that is no authority's word.
    let mut certified = quoted(&server, &device, &another).await?;
    certified["ak_public_b64"] = json!(Base64::encode_string(&another.public(&attestation_template())?));
    let pem = maker.certified_pem(&another.endorsement(Endorsement::P256)?, INFINEON)?;
    certified["ak_certificates_pem"] = json!(pem);
    assert_reason(&attest(&server, &device, &certified).await?, "attestation_refused", "ak_certificate_key");
    // The enrolled key may sign the same nonce; then it must be that one.
    let tenant = first_tenant(&server).await?;
    let mut both = quoted(&server, &device, &chip).await?;
    both["signature"] = signed(&other.key, tenant, "BR-1", &text(&both, "nonce"))["signature"].clone();
    assert_reason(&attest(&server, &device, &both).await?, "attestation_refused", "signature");
    let mut both = quoted(&server, &device, &chip).await?;
    both["signature"] = signed(&device.key, tenant, "BR-1", &text(&both, "nonce"))["signature"].clone();
    let accepted = attest(&server, &device, &both).await?;
    assert_eq!(accepted.status, 200, "{}", body(&accepted));
    assert_eq!(body(&accepted)["claims"]["key_thumbprint"], json!(device.key.verifying().thumbprint()));
    Ok(())
}

/// A chip that forgot how often it was started was wiped, or is another one that took its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_rise_with_restarts_and_never_go_back() -> Done {
    let maker = Maker::new("a maker")?;
    let (server, _folder) = server(&[&maker], "").await?;
    let (device, mut chip) = (server.enroll("BR-1").await?, Chip::start()?);
    activate(&server, &device, &chip, (&maker, INFINEON)).await?;
    let first = body(&attest(&server, &device, &quoted(&server, &device, &chip).await?).await?);
    let starts = first["claims"]["reset_count"].as_u64().ok_or("no count")?;
    chip.restart()?;
    let second = attest(&server, &device, &quoted(&server, &device, &chip).await?).await?;
    assert_eq!(body(&second)["claims"]["reset_count"], starts + 1, "{}", body(&second));
    let before = quoted(&server, &device, &chip).await?;
    chip.clear()?;
    let after = attest(&server, &device, &quoted(&server, &device, &chip).await?).await?;
    assert_reason(&after, "attestation_refused", "counter_rolled_back");
    // To bind the same key again is no way round.
    activate(&server, &device, &chip, (&maker, INFINEON)).await?;
    let again = attest(&server, &device, &quoted(&server, &device, &chip).await?).await?;
    assert_reason(&again, "attestation_refused", "counter_rolled_back");
    assert_eq!(state(&server, "BR-1").await?["recent_failures"], 2);
    // What was quoted before the wipe is still true.
    assert_eq!(attest(&server, &device, &before).await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_boot_is_challenged_and_registers_must_be_those_of_a_known_model() -> Done {
    let maker = Maker::new("a maker")?;
    let (server_a, _folder) = server(&[&maker], "").await?;
    let (device, chip) = (server_a.enroll("BR-1").await?, Chip::start()?);
    activate(&server_a, &device, &chip, (&maker, INFINEON)).await?;
    assert_eq!(attest(&server_a, &device, &quoted(&server_a, &device, &chip).await?).await?.status, 200);
    let challenged = |audited: Vec<String>| audited.iter().filter(|a| *a == "device_challenged").count();
    assert_eq!(challenged(audited(&server_a, "BR-1").await?), 0);
    chip.measure(4, [0x42; 32])?;
    assert_eq!(attest(&server_a, &device, &quoted(&server_a, &device, &chip).await?).await?.status, 200);
    assert_eq!(challenged(audited(&server_a, "BR-1").await?), 1);

    let registers = chip.quote(&[0; 32], &PCRS)?.registers;
    let values = |pcr: u8| hex(registers.get(&pcr).map(Vec::as_slice).unwrap_or_default());
    let policy = format!(
        "[tpm.models.desk]\n4 = ['{}']\n[tpm.models.laptop]\n0 = ['{}']\n4 = ['{}', '{}']\n",
        hex(&[1; 32]),
        values(0),
        hex(&[2; 32]),
        values(4),
    );
    let (server, _folder) = server(&[&maker], &policy).await?;
    let device = server.enroll("BR-1").await?;
    activate(&server, &device, &chip, (&maker, INFINEON)).await?;
    let accepted = attest(&server, &device, &quoted(&server, &device, &chip).await?).await?;
    assert_eq!(body(&accepted)["claims"]["model"], "laptop", "{}", body(&accepted));
    chip.measure(4, [0x43; 32])?;
    let refused = attest(&server, &device, &quoted(&server, &device, &chip).await?).await?;
    assert_reason(&refused, "attestation_refused", "pcr_model");
    Ok(())
}

/// A machine that has to prove itself before it has a token, and a stranger who would use its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_demands_hardware_enrolls_a_machine_by_its_tpm() -> Done {
    let maker = Maker::new("a maker")?;
    let (server, _folder) = server(&[&maker], "").await?;
    let tenant = first_tenant(&server).await?;
    let bearer = format!("Bearer {}", server.admin_token().await?);
    let mut client = server.client()?;
    let demand = json!({ "attestation": "hardware" });
    let path = format!("/v1/tenants/{tenant}");
    send(&mut client, Method::PATCH, &path, &[("authorization", &bearer)], &demand).await?.success()?;

    let (chip, kind) = (Chip::start()?, Endorsement::P256);
    let ticket = format!("Enrollment {}", server.enrollment_token);
    let headers = [("authorization", ticket.as_str())];
    let pem = maker.certified_pem(&chip.endorsement(kind)?, INTEL)?;
    let proof = async |client: &mut blockremote::client::HttpClient, id: &str| -> Result<Value, Fault> {
        let challenge = send(client, Method::POST, ACTIVATE, &headers, &chip.keys(id, kind, Some(&pem))?).await?;
        let answered = answer(id, &body(&challenge), &chip.open(kind, &body(&challenge))?);
        let activated = send(client, Method::POST, ACTIVATE, &headers, &answered).await?;
        assert_eq!(activated.status, 200, "{}", body(&activated));
        assert_eq!(body(&send(client, Method::POST, ACTIVATE, &headers, &answered).await?), body(&activated));
        let nonce = nonce_to_enroll(&server, id).await?;
        let hash = challenge_hash(&server, id, &nonce).await?;
        Ok(evidence(&nonce, &chip.quote(&hash, &PCRS)?))
    };
    let mut wanted = enrollment("BR-1", Some(&server.enrollment_token));
    assert_refused(&enroll_with(&server, None, &wanted).await?, 403, "attestation_required");
    wanted["attestation"] = proof(&mut client, "BR-1").await?;
    let enrolled = enroll_with(&server, None, &wanted).await?;
    assert_eq!(enrolled.status, 201, "{}", body(&enrolled));
    assert_eq!(state(&server, "BR-1").await?["level"], "trusted");
    // The key that was bound before the enrollment is the device's now.
    let token = text(&body(&enrolled), "access_token");
    let fresh = client.post("/v1/attestation/nonce", Some(&token), &json!({ "device_id": "BR-1" })).await?;
    let fresh = text(&body(&fresh), "nonce");
    let hash = challenge_hash(&server, "BR-1", &fresh).await?;
    let again = evidence(&fresh, &chip.quote(&hash, &PCRS)?);
    let again = client.post("/v1/devices/BR-1/attestation", Some(&token), &again).await?;
    assert_eq!(again.status, 200, "{}", body(&again));

    // The same chip under a second name, and a key that nobody activated for that name.
    let challenge = send(&mut client, Method::POST, ACTIVATE, &headers, &chip.keys("BR-2", kind, Some(&pem))?).await?;
    let answered = answer("BR-2", &body(&challenge), &chip.open(kind, &body(&challenge))?);
    let twice = send(&mut client, Method::POST, ACTIVATE, &headers, &answered).await?;
    assert_reason(&twice, "activation_refused", "ek_of_another_device");
    let nonce = nonce_to_enroll(&server, "BR-2").await?;
    let hash = challenge_hash(&server, "BR-2", &nonce).await?;
    let mut second = enrollment("BR-2", Some(&server.enrollment_token));
    second["attestation"] = evidence(&nonce, &chip.quote(&hash, &PCRS)?);
    assert_reason(&enroll_with(&server, None, &second).await?, "attestation_refused", "ak_unbound");
    assert_eq!(blocked_by(&server, "BR-1").await?, "", "the machine itself did nothing wrong");

    let neighbour = second_tenant(&server).await?;
    let foreign = server.app().services.attestation.view(neighbour, "BR-1".parse()?).await?;
    assert_eq!(foreign.verified_at, None);
    Ok(())
}

/// Where an authority has bound a key to a chip, nobody needs to activate it; it is still one key of one device.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_an_authority_binds_a_key_without_activation() -> Done {
    let maker = Maker::new("an authority")?;
    let (server, _folder) = server(&[&maker], "").await?;
    let (device, copy, chip) = (server.enroll("BR-1").await?, server.enroll("BR-2").await?, Chip::start()?);
    let ak = chip.public(&attestation_template())?;
    let certified = |vendor: &str, usage: u64| -> Result<String, Fault> {
        Ok(pem(&maker.certify_for(&ak, vendor, &[2, 23, 133, 8, usage])?))
    };
    let proof = async |device: &Device, certificate: String| -> Result<Response, Fault> {
        let mut proof = quoted(&server, device, &chip).await?;
        proof["ak_public_b64"] = json!(Base64::encode_string(&ak));
        proof["ak_certificates_pem"] = json!(certificate);
        attest(&server, device, &proof).await
    };
    // One for an endorsement key says nothing of who signs.
    let refused = proof(&device, certified(INTEL, 1)?).await?;
    assert_reason(&refused, "attestation_refused", "leaf_requirements");
    let accepted = proof(&device, certified(INTEL, 3)?).await?;
    assert_eq!(accepted.status, 200, "{}", body(&accepted));
    let view = state(&server, "BR-1").await?;
    assert_eq!((&view["level"], &view["claims"]["tpm_manufacturer"]), (&json!("trusted"), &json!(INTEL)));
    // From now on the key is known, and quotes without its certificate.
    let again = attest(&server, &device, &quoted(&server, &device, &chip).await?).await?;
    assert_eq!(again.status, 200, "{}", body(&again));
    let copied = proof(&copy, certified(INTEL, 3)?).await?;
    assert_eq!(copied.status, 200, "{}", body(&copied));
    for id in ["BR-1", "BR-2"] {
        assert_eq!(blocked_by(&server, id).await?, "attestation", "{id} shares its key");
    }
    Ok(())
}
