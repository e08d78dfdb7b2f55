//! Somebody with a copy of what a device once sent, and with any enrollment token of the company, tries to become that
//! device, to lock it or to keep it from proving itself; and leaves nothing behind.

use std::time::Duration;

use blockremote::client::Response;
use blockremote::domains::attestation::{Asker, Bringer, Evidence, Taken};
use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::DeviceId;
use blockremote::store::tables::ATTESTATION_NONCES;
use blockremote::testkit::{Fault, Server};
use hyper::Method;
use serde_json::{Value, json};

use crate::attestation::{attest, blocked_by, nonce, nonce_to_enroll, signed, state};
use crate::common::{
    Done, assert_refused, audited, body, code, enroll_with, enrollment, enrollment_token, first_tenant, send,
    status_with,
};
use crate::hardware::new_key;

/// An enrollment under a name, with a proof and a key of one's own.
fn enrolling(server: &Server, name: &str, proof: &Value) -> Value {
    let mut wanted = enrollment(name, Some(&server.enrollment_token));
    wanted["public_key"] = json!(new_key().verifying().to_jwk());
    wanted["attestation"] = proof.clone();
    wanted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_that_a_device_once_sent_enrolls_nobody_in_its_place() -> Done {
    let server = Server::start().await?;
    let mut device = server.enroll("BR-1").await?;
    let tenant = first_tenant(&server).await?;
    let captured = signed(&device.key, tenant, "BR-1", &nonce(&server, &device).await?);
    assert_eq!(attest(&server, &device, &captured).await?.status, 200);

    let thief = enrolling(&server, "BR-1", &captured);
    assert_refused(&enroll_with(&server, None, &thief).await?, 403, "attestation_replayed");
    // With a member more it is another body, and still nothing that the device did.
    let mut longer = thief.clone();
    longer["attestation"]["app_id"] = json!("x");
    assert_refused(&enroll_with(&server, None, &longer).await?, 403, "attestation_replayed");
    server.clock.advance(Duration::from_secs(200));
    assert_refused(&enroll_with(&server, None, &thief).await?, 403, "attestation_replayed");
    assert_eq!(blocked_by(&server, "BR-1").await?, "", "whoever brings a copy locks nobody");
    let calm = device.calm();
    assert_eq!(device.beat(&calm).await?.status, 200, "its session goes on");
    let clean = signed(&device.key, tenant, "BR-1", &nonce(&server, &device).await?);
    assert_eq!(attest(&server, &device, &clean).await?.status, 200, "its key is still its own");
    assert!(audited(&server, "BR-1").await?.iter().any(|a| a == "attestation_replayed"), "the company sees it");

    // Proofs whose nonces are over, or were never handed out, count against nobody but their bringer.
    for _ in 0..3 {
        let old = signed(&device.key, tenant, "BR-1", &"A".repeat(43));
        let answer = enroll_with(&server, None, &enrolling(&server, "BR-1", &old)).await?;
        assert_refused(&answer, 403, "attestation_nonce_invalid");
    }
    assert_eq!(blocked_by(&server, "BR-1").await?, "");
    assert_eq!(state(&server, "BR-1").await?["recent_failures"], 0);
    Ok(())
}

/// A lost answer: the same phone sends the same again. Somebody else who kept a copy comes too late, or asks for something
/// else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_enrollment_again_is_good_while_its_nonce_lasts_and_another_one_never() -> Done {
    let server = Server::start().await?;
    let device = server.enroll("BR-1").await?;
    let tenant = first_tenant(&server).await?;
    let proof = signed(&device.key, tenant, "BR-1", &nonce_to_enroll(&server, "BR-1").await?);
    let mut own = enrollment("BR-1", Some(&server.enrollment_token));
    own["attestation"] = proof.clone();
    assert_eq!(enroll_with(&server, None, &own).await?.status, 201);
    assert_eq!(enroll_with(&server, None, &own).await?.status, 201, "the answer was lost");
    assert_refused(
        &enroll_with(&server, None, &enrolling(&server, "BR-1", &proof)).await?,
        403,
        "attestation_replayed",
    );
    server.clock.advance(Duration::from_secs(180));
    assert_refused(&enroll_with(&server, None, &own).await?, 403, "attestation_nonce_invalid");
    assert_eq!(blocked_by(&server, "BR-1").await?, "");
    Ok(())
}

/// Whoever keeps bringing copies is stopped by their address, as who keeps guessing passwords is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_proofs_count_against_the_address_that_they_come_from() -> Done {
    let server = Server::start_with(|c| c.limits.auth_failures_per_minute = 3).await?;
    let device = server.enroll("BR-1").await?;
    let tenant = first_tenant(&server).await?;
    let captured = signed(&device.key, tenant, "BR-1", &nonce(&server, &device).await?);
    assert_eq!(attest(&server, &device, &captured).await?.status, 200);
    for (status, code) in [(403, "attestation_replayed"); 3].into_iter().chain([(429, "rate_limited")]) {
        let answer = enroll_with(&server, None, &enrolling(&server, "BR-1", &captured)).await?;
        assert_refused(&answer, status, code);
    }
    assert_eq!(status_with(&server, &device.access_token).await?, 200, "whoever is in stays in");
    Ok(())
}

/// Between the look at a signature and the commit another key was enrolled: by the device itself, or by the real one that a
/// stranger was faster than.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_counts_by_the_key_that_is_enrolled_when_it_is_taken_in() -> Done {
    let server = Server::start().await?;
    let device = server.enroll("BR-1").await?;
    let tenant = first_tenant(&server).await?;
    let id: DeviceId = "BR-1".parse()?;
    let old = device.key.verifying().to_jwk();
    let proof = signed(&device.key, tenant, "BR-1", &nonce(&server, &device).await?);
    let evidence = Evidence::of(proof.as_object().cloned().unwrap_or_default(), "")?;
    let attestation = &server.app().services.attestation;
    let judged = attestation.judge(tenant, id.clone(), Some(old.clone()), evidence).await?;
    assert!(judged.is_by(&old), "it held when it was looked at");

    let fresh = new_key();
    let mut rotated = enrollment("BR-1", Some(&server.enrollment_token));
    rotated["public_key"] = json!(fresh.verifying().to_jwk());
    rotated["attestation"] = signed(&device.key, tenant, "BR-1", &nonce_to_enroll(&server, "BR-1").await?);
    assert_eq!(enroll_with(&server, None, &rotated).await?.status, 201);

    assert!(!judged.is_by(&fresh.verifying().to_jwk()), "nor does it let anybody in by the other key");
    let this = attestation.clone();
    let take = move |tx: &mut blockremote::store::Tx<'_>| {
        this.take_in(tx, tenant, &id, &judged, Bringer::Device, &Origin::cli())
    };
    let Taken::Refused(refusal) = server.app().services.store.write(take).await? else {
        return Err("a proof by a key that was replaced was taken in".into());
    };
    assert_eq!(refusal.code, "attestation_refused");
    Ok(())
}

async fn ask_with(server: &Server, token: &str, name: &str) -> Result<Response, Fault> {
    let ticket = format!("Enrollment {token}");
    let headers = [("authorization", ticket.as_str())];
    send(&mut server.client()?, Method::POST, "/v1/attestation/nonce", &headers, &json!({ "device_id": name })).await
}

/// A stranger with the fleet's token takes all nonces of a device: it could neither renew its proof nor heal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_an_enrollment_token_takes_no_nonce_of_an_enrolled_device() -> Done {
    let server = Server::start().await?;
    let device = server.enroll("BR-1").await?;
    let tenant = first_tenant(&server).await?;
    for _ in 0..5 {
        assert_eq!(ask_with(&server, &server.enrollment_token, "BR-1").await?.status, 201);
    }
    let sixth = ask_with(&server, &server.enrollment_token, "BR-1").await?;
    assert_refused(&sixth, 429, "too_many_nonces");
    let own = signed(&device.key, tenant, "BR-1", &nonce(&server, &device).await?);
    assert_eq!(attest(&server, &device, &own).await?.status, 200);

    // The device that was set up anew comes back by its key, with the token that was made for it.
    let single = enrollment_token(&server, tenant, Some("BR-1")).await?;
    let fresh = body(&ask_with(&server, &single, "BR-1").await?);
    let mut back = enrollment("BR-1", Some(&single));
    back["attestation"] = signed(&device.key, tenant, "BR-1", fresh["nonce"].as_str().unwrap_or_default());
    assert_eq!(enroll_with(&server, None, &back).await?.status, 201);
    Ok(())
}

async fn rows(server: &Server) -> Result<usize, Fault> {
    let count = |snapshot: &blockremote::store::Snapshot| {
        let mut rows = 0;
        snapshot.visit(ATTESTATION_NONCES, &[], None, |_, _| {
            rows += 1;
            Ok(true)
        })?;
        Ok(rows)
    };
    Ok(server.app().services.store.read_with(count).await?)
}

/// Names that never enroll: each asked for a nonce, one even used it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonces_of_names_that_never_enroll_are_forgotten() -> Done {
    let server = Server::start().await?;
    let device = server.enroll("BR-1").await?;
    let tenant = first_tenant(&server).await?;
    let used = signed(&device.key, tenant, "BR-1", &nonce(&server, &device).await?);
    assert_eq!(attest(&server, &device, &used).await?.status, 200);
    let attestation = &server.app().services.attestation;
    for n in 0..50 {
        attestation.new_nonce(tenant, format!("NOBODY-{n}").parse()?, Asker::Enrolled, None).await?;
    }
    let forged = signed(&new_key(), tenant, "BR-9", &nonce_to_enroll(&server, "BR-9").await?);
    let answer = enroll_with(&server, None, &enrolling(&server, "BR-9", &forged)).await?;
    assert_refused(&answer, 403, "attestation_refused");
    nonce(&server, &device).await?;
    assert_eq!(rows(&server).await?, 53);
    attestation.sweep().await;
    assert_eq!(rows(&server).await?, 53, "their time still runs");
    server.clock.advance(Duration::from_secs(180));
    attestation.sweep().await;
    assert_eq!(rows(&server).await?, 1, "what an enrolled device used is remembered");
    let mut replay = used.clone();
    replay["token"] = json!("another body");
    assert_eq!(code(&attest(&server, &device, &replay).await?), "attestation_replayed");
    Ok(())
}

/// A real boot log has tens to hundreds of thousands of bytes, and a machine that must show it shows it as it enrolls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_of_the_size_of_a_real_boot_log_is_taken_everywhere() -> Done {
    let server = Server::start().await?;
    let tenant = first_tenant(&server).await?;
    let key = new_key();
    let with_log = async |proof: Value, chars: usize| -> Value {
        let mut proof = proof;
        proof["event_log_b64"] = json!("A".repeat(chars));
        proof
    };
    let mut wanted = enrollment("BR-1", Some(&server.enrollment_token));
    wanted["public_key"] = json!(key.verifying().to_jwk());
    let proof = signed(&key, tenant, "BR-1", &nonce_to_enroll(&server, "BR-1").await?);
    wanted["attestation"] = with_log(proof, 300_000).await;
    let enrolled = enroll_with(&server, None, &wanted).await?;
    assert_eq!(enrolled.status, 201, "{}", body(&enrolled));

    let device = server.enroll("BR-2").await?;
    for (chars, status) in [(300_000, 200), (300_001, 422)] {
        let proof = signed(&device.key, tenant, "BR-2", &nonce(&server, &device).await?);
        let proof = with_log(proof, chars).await;
        assert_eq!(attest(&server, &device, &proof).await?.status, status, "{chars}");
    }
    Ok(())
}
