//! A device proves its hardware: nonces that count once, verdicts that count for ever.

use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use blockremote::client::Response;
use blockremote::crypto::SigningKey;
use blockremote::kernel::ids::TenantId;
use blockremote::testkit::{Device, Fault, Server, text};
use hyper::Method;
use serde_json::{Value, json};

use crate::common::{Done, assert_refused, audited, body, enroll_with, enrollment, first_tenant, second_tenant, send};

/// What a device with a key in software sends.
pub fn signed(key: &SigningKey, tenant: TenantId, device: &str, nonce: &str) -> Value {
    let message = format!("blockremote-attest-v1\n{tenant}\n{device}\n{nonce}");
    let signature = Base64UrlUnpadded::encode_string(&key.sign(message.as_bytes()));
    json!({ "type": "software", "nonce": nonce, "signature": signature })
}

pub async fn nonce(server: &Server, device: &Device) -> Result<String, Fault> {
    let wanted = json!({ "device_id": device.id });
    let answer = server.client()?.post("/v1/attestation/nonce", Some(&device.access_token), &wanted).await?;
    assert_eq!(answer.status, 201, "{}", body(&answer));
    Ok(text(&answer.json()?, "nonce"))
}

/// A nonce for a name that is not enrolled yet.
pub async fn nonce_to_enroll(server: &Server, device: &str) -> Result<String, Fault> {
    let ticket = format!("Enrollment {}", server.enrollment_token);
    let wanted = json!({ "device_id": device });
    let headers = [("authorization", ticket.as_str())];
    let answer = send(&mut server.client()?, Method::POST, "/v1/attestation/nonce", &headers, &wanted).await?;
    assert_eq!(answer.status, 201, "{}", body(&answer));
    Ok(text(&answer.json()?, "nonce"))
}

pub async fn attest(server: &Server, device: &Device, evidence: &Value) -> Result<Response, Fault> {
    let path = format!("/v1/devices/{}/attestation", device.id);
    Ok(server.client()?.post(&path, Some(&device.access_token), evidence).await?)
}

pub async fn state(server: &Server, device: &str) -> Result<Value, Fault> {
    let admin = server.admin_token().await?;
    Ok(server.client()?.get(&format!("/v1/devices/{device}/attestation"), Some(&admin)).await?.json()?)
}

pub async fn blocked_by(server: &Server, device: &str) -> Result<String, Fault> {
    let admin = server.admin_token().await?;
    let view: Value = server.client()?.get(&format!("/v1/devices/{device}"), Some(&admin)).await?.json()?;
    Ok(text(&view["blocked"], "cause"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_in_software_proves_that_the_device_is_the_one_that_enrolled() -> Done {
    let server = Server::start().await?;
    let device = server.enroll("BR-1").await?;
    let tenant = first_tenant(&server).await?;
    let none = state(&server, "BR-1").await?;
    assert_eq!((&none["level"], &none["score"], &none["stale"]), (&json!("none"), &json!(0), &json!(true)));
    let evidence = signed(&device.key, tenant, "BR-1", &nonce(&server, &device).await?);
    let first = attest(&server, &device, &evidence).await?;
    assert_eq!(first.status, 200, "{}", body(&first));
    assert_eq!((&body(&first)["level"], &body(&first)["score"]), (&json!("software"), &json!(30)));
    // A lost answer: the same request again gets the same one, and nothing happens twice.
    let again = attest(&server, &device, &evidence).await?;
    assert_eq!(body(&again), body(&first));
    let shown = state(&server, "BR-1").await?;
    assert_eq!(shown["history"].as_array().map(Vec::len), Some(1), "{shown}");
    assert_eq!(audited(&server, "BR-1").await?.iter().filter(|a| *a == "attestation_accepted").count(), 1);
    server.clock.advance(Duration::from_secs(8 * 86_400));
    let later = state(&server, "BR-1").await?;
    assert_eq!((&later["score"], &later["stale"]), (&json!(15), &json!(true)), "an old proof is worth less");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nonce_is_for_one_device_of_one_tenant_and_for_three_minutes() -> Done {
    let server = Server::start().await?;
    let (device, other) = (server.enroll("BR-1").await?, server.enroll("BR-2").await?);
    let tenant = first_tenant(&server).await?;
    let theirs = nonce(&server, &other).await?;
    let evidence = signed(&device.key, tenant, "BR-1", &theirs);
    assert_refused(&attest(&server, &device, &evidence).await?, 403, "attestation_nonce_invalid");
    let fresh = nonce(&server, &device).await?;
    server.clock.advance(Duration::from_secs(180));
    let late = signed(&device.key, tenant, "BR-1", &fresh);
    assert_refused(&attest(&server, &device, &late).await?, 403, "attestation_nonce_invalid");
    assert_eq!(blocked_by(&server, "BR-1").await?, "", "twice is not three times");
    let in_time = nonce(&server, &device).await?;
    server.clock.advance(Duration::from_millis(179_999));
    let evidence = signed(&device.key, tenant, "BR-1", &in_time);
    assert_eq!(attest(&server, &device, &evidence).await?.status, 200);

    let mut client = server.client()?;
    let wanted = json!({ "device_id": "BR-1" });
    assert_refused(&client.post("/v1/attestation/nonce", None, &wanted).await?, 401, "unauthenticated");
    let of_other = client.post("/v1/attestation/nonce", Some(&other.access_token), &wanted).await?;
    assert_refused(&of_other, 403, "device_mismatch");
    for _ in 0..5 {
        nonce(&server, &other).await?;
    }
    let sixth =
        client.post("/v1/attestation/nonce", Some(&other.access_token), &json!({ "device_id": "BR-2" })).await?;
    assert_refused(&sixth, 429, "too_many_nonces");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_nonce_with_another_proof_is_a_replay_and_blocks() -> Done {
    let server = Server::start().await?;
    let device = server.enroll("BR-1").await?;
    let tenant = first_tenant(&server).await?;
    let once = nonce(&server, &device).await?;
    let evidence = signed(&device.key, tenant, "BR-1", &once);
    assert_eq!(attest(&server, &device, &evidence).await?.status, 200);
    let mut other = evidence.clone();
    other["token"] = json!("another body");
    assert_refused(&attest(&server, &device, &other).await?, 403, "attestation_replayed");
    assert_eq!(blocked_by(&server, "BR-1").await?, "attestation");
    let audited = audited(&server, "BR-1").await?;
    for action in ["attestation_replayed", "device_blocked", "command_requested"] {
        assert!(audited.iter().any(|a| a == action), "{action} in {audited:?}");
    }
    // Even a clean proof does not release who was caught replaying.
    let clean = signed(&device.key, tenant, "BR-1", &nonce(&server, &device).await?);
    assert_eq!(attest(&server, &device, &clean).await?.status, 200);
    assert_eq!(blocked_by(&server, "BR-1").await?, "attestation");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_uses_at_once_exactly_one_wins() -> Done {
    let server = Server::start().await?;
    let device = server.enroll("BR-1").await?;
    let tenant = first_tenant(&server).await?;
    let evidence = signed(&device.key, tenant, "BR-1", &nonce(&server, &device).await?);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..100 {
        let (mut client, token) = (server.client()?, device.access_token.clone());
        let mut evidence = evidence.clone();
        evidence["token"] = json!(n.to_string());
        let send = async move { client.post("/v1/devices/BR-1/attestation", Some(&token), &evidence).await };
        tasks.spawn(async move { send.await.map(|a| (a.status, crate::common::code(&a))) });
    }
    let answers = tasks.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
    assert_eq!(answers.iter().filter(|(status, _)| *status == 200).count(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|(_, code)| code == "attestation_replayed").count(), 99, "{answers:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_failures_within_ten_minutes_are_quarantine_and_a_clean_proof_heals_it() -> Done {
    let server = Server::start().await?;
    let mut device = server.enroll("BR-1").await?;
    let tenant = first_tenant(&server).await?;
    let thief = SigningKey::generate(&blockremote::kernel::Random::System);
    for n in 0..3 {
        assert_eq!(blocked_by(&server, "BR-1").await?, "", "after {n}");
        let forged = signed(&thief, tenant, "BR-1", &nonce(&server, &device).await?);
        let refused = attest(&server, &device, &forged).await?;
        assert_refused(&refused, 403, "attestation_refused");
        assert_eq!(body(&refused)["reason"], "signature");
    }
    assert_eq!(blocked_by(&server, "BR-1").await?, "quarantine");
    let calm = device.calm();
    assert_eq!(device.beat(&calm).await?.status, 423);
    let admin = server.admin_token().await?;
    let commands: Value = server.client()?.get("/v1/devices/BR-1/commands", Some(&admin)).await?.json()?;
    assert_eq!(commands["data"][0]["action"], "IMMEDIATE_QUARANTINE", "{commands}");
    let clean = signed(&device.key, tenant, "BR-1", &nonce(&server, &device).await?);
    assert_eq!(attest(&server, &device, &clean).await?.status, 200);
    assert_eq!(device.beat(&calm).await?.status, 200, "healed");

    // One failure, a long pause, two more: never three within ten minutes, until the third comes.
    for (pause_s, held_by) in [(0, ""), (601, ""), (0, ""), (0, "quarantine")] {
        server.clock.advance(Duration::from_secs(pause_s));
        let forged = signed(&thief, tenant, "BR-1", &nonce(&server, &device).await?);
        assert_refused(&attest(&server, &device, &forged).await?, 403, "attestation_refused");
        assert_eq!(blocked_by(&server, "BR-1").await?, held_by);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_healing_only_a_person_releases_from_quarantine() -> Done {
    let server = Server::start_with(|c| c.attestation.heals = false).await?;
    let device = server.enroll("BR-1").await?;
    let tenant = first_tenant(&server).await?;
    let bad = json!({ "type": "software", "nonce": "A".repeat(43), "signature": "" });
    for _ in 0..3 {
        assert_refused(&attest(&server, &device, &bad).await?, 403, "attestation_nonce_invalid");
    }
    let clean = signed(&device.key, tenant, "BR-1", &nonce(&server, &device).await?);
    assert_eq!(attest(&server, &device, &clean).await?.status, 200);
    assert_eq!(blocked_by(&server, "BR-1").await?, "quarantine");
    let admin = server.admin_token().await?;
    let why = json!({ "reason": "looked at" });
    assert_eq!(server.client()?.post("/v1/devices/BR-1/unblock", Some(&admin), &why).await?.status, 200);
    assert_eq!(blocked_by(&server, "BR-1").await?, "");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_demands_proof_enrolls_nobody_without_it() -> Done {
    let server = Server::start().await?;
    let tenant = first_tenant(&server).await?;
    let admin = server.admin_token().await?;
    let demand = |what: &str| json!({ "attestation": what });
    let path = format!("/v1/tenants/{tenant}");
    let bearer = format!("Bearer {admin}");
    let headers = [("authorization", bearer.as_str())];
    let mut client = server.client()?;
    send(&mut client, Method::PATCH, &path, &headers, &demand("required")).await?.success()?;
    let key = SigningKey::generate(&blockremote::kernel::Random::System);
    let mut wanted = enrollment("BR-9", Some(&server.enrollment_token));
    wanted["public_key"] = json!(key.verifying().to_jwk());
    assert_refused(&enroll_with(&server, None, &wanted).await?, 403, "attestation_required");
    // A forged proof is refused, and enrolls nobody.
    let thief = SigningKey::generate(&blockremote::kernel::Random::System);
    wanted["attestation"] = signed(&thief, tenant, "BR-9", &nonce_to_enroll(&server, "BR-9").await?);
    assert_refused(&enroll_with(&server, None, &wanted).await?, 403, "attestation_refused");
    wanted["attestation"] = signed(&key, tenant, "BR-9", &nonce_to_enroll(&server, "BR-9").await?);
    assert_eq!(enroll_with(&server, None, &wanted).await?.status, 201);
    assert_eq!(state(&server, "BR-9").await?["level"], "software");

    // Software is not hardware.
    send(&mut client, Method::PATCH, &path, &headers, &demand("hardware")).await?.success()?;
    let mut other = enrollment("BR-10", Some(&server.enrollment_token));
    other["public_key"] = json!(key.verifying().to_jwk());
    other["attestation"] = signed(&key, tenant, "BR-10", &nonce_to_enroll(&server, "BR-10").await?);
    assert_refused(&enroll_with(&server, None, &other).await?, 403, "attestation_required");
    Ok(())
}

/// A phone that was set up anew still has its key: that is proof enough, without its owner at hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_device_comes_back_by_a_signature_of_its_enrolled_key_only() -> Done {
    let server = Server::start().await?;
    let device = server.enroll("BR-1").await?;
    let tenant = first_tenant(&server).await?;
    let thief = SigningKey::generate(&blockremote::kernel::Random::System);
    let mut wanted = enrollment("BR-1", Some(&server.enrollment_token));
    assert_refused(&enroll_with(&server, None, &wanted).await?, 409, "device_exists");
    // Whoever brings another key proves nothing by it.
    wanted["public_key"] = json!(thief.verifying().to_jwk());
    wanted["attestation"] = signed(&thief, tenant, "BR-1", &nonce_to_enroll(&server, "BR-1").await?);
    assert_refused(&enroll_with(&server, None, &wanted).await?, 409, "device_exists");
    let mut own = enrollment("BR-1", Some(&server.enrollment_token));
    own["attestation"] = signed(&device.key, tenant, "BR-1", &nonce_to_enroll(&server, "BR-1").await?);
    assert_eq!(enroll_with(&server, None, &own).await?.status, 201);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_appliance_was_not_given_the_means_to_judge_is_refused() -> Done {
    let server = Server::start().await?;
    let device = server.enroll("BR-1").await?;
    for (kind, reason) in [("apple-attestation", "not_configured"), ("play-integrity", "not_configured")] {
        let evidence = json!({ "type": kind, "nonce": nonce(&server, &device).await? });
        let refused = attest(&server, &device, &evidence).await?;
        assert_refused(&refused, 403, "attestation_refused");
        assert_eq!(body(&refused)["reason"], reason);
    }
    let unknown = json!({ "type": "tea-leaves", "nonce": "A".repeat(43) });
    assert_refused(&attest(&server, &device, &unknown).await?, 422, "invalid_request");
    for smuggled in
        ["config", "roots", "status_list", "status_list_date", "package", "decryption_key_b64", "ak_spki_b64"]
    {
        let mut evidence = json!({ "type": "android-key", "nonce": "A".repeat(43), "chain_pem": "" });
        evidence[smuggled] = json!("mine");
        assert_refused(&attest(&server, &device, &evidence).await?, 422, "invalid_request");
    }
    let other = server.enroll("BR-2").await?;
    let evidence = json!({ "type": "software", "nonce": "A".repeat(43), "signature": "" });
    let path = "/v1/devices/BR-2/attestation";
    for absent in [path, "/v1/devices/NOBODY/attestation"] {
        let answer = server.client()?.post(absent, Some(&device.access_token), &evidence).await?;
        assert_refused(&answer, 404, "not_found");
    }
    assert_eq!(state(&server, &other.id).await?["recent_failures"], 0);
    let neighbour = second_tenant(&server).await?;
    let foreign = server.app().services.attestation.view(neighbour, "BR-1".parse()?).await?;
    assert_eq!(foreign.verified_at, None, "another tenant's device of that name is another device");
    Ok(())
}

/// An app asks for its plan and proves itself in one go, as it does before it shows what is paid for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_proves_itself_while_it_asks_how_its_subscription_stands() -> Done {
    let server = Server::start().await?;
    let device = server.enroll("BR-1").await?;
    let tenant = first_tenant(&server).await?;
    let ask = async |id: &str, evidence: Value| -> Result<Response, Fault> {
        let wanted = json!({ "device_id": id, "attestation": evidence });
        Ok(server.client()?.post("/v1/billing/status", Some(&device.access_token), &wanted).await?)
    };
    let fresh = nonce(&server, &device).await?;
    let evidence = signed(&device.key, tenant, "BR-1", &fresh);
    assert_refused(&ask("BR-2", evidence.clone()).await?, 403, "device_mismatch");
    let answer = ask("BR-1", evidence.clone()).await?;
    assert_eq!(answer.status, 200, "{}", body(&answer));
    assert_eq!((&body(&answer)["trial"], &body(&answer)["device_id"]), (&json!(true), &json!("BR-1")));
    assert_eq!(state(&server, "BR-1").await?["level"], "software");
    let mut other = evidence.clone();
    other["token"] = json!("another body");
    let mut long = evidence;
    long["signature"] = json!("A".repeat(129));
    let wrong = ask("BR-1", long).await?;
    assert_refused(&wrong, 422, "invalid_request");
    assert_eq!(body(&wrong)["errors"][0]["pointer"], "/attestation/signature");
    assert_refused(&ask("BR-1", other).await?, 403, "attestation_replayed");
    assert_eq!(blocked_by(&server, "BR-1").await?, "attestation");
    Ok(())
}
