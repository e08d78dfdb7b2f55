//! What a company demands of its devices holds after the enrollment, too: for later proofs, for what releases a device, and
//! for who comes back under its name.

use blockremote::domains::attestation::RootKind;
use blockremote::kernel::ids::DeviceId;
use blockremote::testkit::hardware::{AndroidState, Maker};
use blockremote::testkit::{Fault, Server};
use serde_json::{Value, json};

use super::{Phone, new_key, refused_because, start, trust};
use crate::attestation::{blocked_by, nonce_to_enroll, signed};
use crate::common::{Done, assert_refused, body, enroll_with, enrollment};
use crate::people::done;

async fn demand(server: &Server, phone: &Phone<'_>, what: &str) -> Done {
    let admin = server.admin_token().await?;
    let path = format!("/v1/tenants/{}", phone.tenant);
    done(server, &admin, "PATCH", &path, json!({ "attestation": what })).await.map(drop)
}

/// A phone that has shown hardware, and who opened its boot loader since.
async fn opened<'a>(server: &'a Server, name: &str) -> Result<(Phone<'a>, Maker), Fault> {
    let (phone, maker) = (Phone::enroll(server, name).await?, Maker::new("Phones")?);
    trust(server, phone.tenant, RootKind::AndroidKey, &maker).await?;
    assert_eq!(phone.android(&maker, &new_key(), AndroidState::default()).await?.status, 200);
    Ok((phone, maker))
}

async fn fail(phone: &Phone<'_>, maker: &Maker) -> Done {
    let unlocked = AndroidState { locked: false, ..AndroidState::default() };
    refused_because(&phone.android(maker, &new_key(), unlocked).await?, "device_unlocked");
    Ok(())
}

async fn by_software(phone: &Phone<'_>) -> Result<blockremote::client::Response, Fault> {
    let proof = signed(&phone.device.key, phone.tenant, &phone.device.id, &phone.nonce().await?);
    phone.send(&proof).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_hardware_is_demanded_a_key_in_software_neither_counts_nor_heals() -> Done {
    let server = start().await?;
    let (phone, maker) = opened(&server, "BR-1").await?;
    demand(&server, &phone, "hardware").await?;
    for _ in 0..3 {
        fail(&phone, &maker).await?;
    }
    assert_eq!(blocked_by(&server, "BR-1").await?, "quarantine");
    // The first one was said to have changed the hardware, the second agreed with the first.
    for _ in 0..3 {
        refused_because(&by_software(&phone).await?, "level");
        assert_eq!(blocked_by(&server, "BR-1").await?, "quarantine");
    }
    assert_eq!(phone.state().await?["level"], "trusted", "what it showed last that counts");
    let answer = phone.android(&maker, &new_key(), AndroidState::default()).await?;
    assert_eq!(answer.status, 200, "{}", body(&answer));
    assert_eq!(blocked_by(&server, "BR-1").await?, "");

    // A phone with nothing but software is asked for more and goes on working: it is honest.
    let plain = Phone::enroll(&server, "BR-2").await;
    assert!(plain.is_err(), "a new one is not taken");
    demand(&server, &phone, "optional").await?;
    let plain = Phone::enroll(&server, "BR-2").await?;
    demand(&server, &phone, "hardware").await?;
    for _ in 0..5 {
        refused_because(&by_software(&plain).await?, "level");
    }
    assert_eq!(blocked_by(&server, "BR-2").await?, "");
    Ok(())
}

/// The flag demands it of some devices alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_flag_for_strict_attestation_counts_for_later_proofs() -> Done {
    let server = start().await?;
    let (phone, _) = opened(&server, "BR-1").await?;
    let admin = server.admin_token().await?;
    assert_eq!(by_software(&phone).await?.status, 200);
    let flag = json!({ "variants": { "it": true }, "off_variant": "it", "otherwise": { "variant": "it" } });
    done(&server, &admin, "PUT", "/v1/flags/strict-attestation", flag).await?;
    refused_because(&by_software(&phone).await?, "level");
    Ok(())
}

/// Where nothing is demanded, a device is still held to what its own hardware showed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_has_shown_hardware_is_not_healed_by_less() -> Done {
    let server = start().await?;
    let (phone, maker) = opened(&server, "BR-1").await?;
    // Two bad proofs and a good one of software, over and over, would never have been three.
    for _ in 0..2 {
        fail(&phone, &maker).await?;
    }
    assert_eq!(by_software(&phone).await?.status, 200);
    assert_eq!(blocked_by(&server, "BR-1").await?, "");
    fail(&phone, &maker).await?;
    assert_eq!(blocked_by(&server, "BR-1").await?, "quarantine");
    for _ in 0..3 {
        assert_eq!(by_software(&phone).await?.status, 200);
        assert_eq!(blocked_by(&server, "BR-1").await?, "quarantine");
    }
    assert_eq!(phone.android(&maker, &new_key(), AndroidState::default()).await?.status, 200);
    assert_eq!(blocked_by(&server, "BR-1").await?, "");
    Ok(())
}

/// Its owner's token in an emulator: the phone's proof is not the emulator's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_enrolls_again_without_a_proof_does_not_inherit_the_old_one() -> Done {
    let server = start().await?;
    let (phone, _) = opened(&server, "BR-1").await?;
    let owner = server.admin_token().await?;
    let id: DeviceId = "BR-1".parse()?;
    let score = || -> Result<Option<u8>, Fault> {
        let services = &server.app().services;
        let entry = services.devices.entry(phone.tenant, &id).ok_or("no device")?;
        Ok(services.attestation.score(&entry.device()))
    };
    assert_eq!(score()?, Some(85));
    demand(&server, &phone, "hardware").await?;
    let mut emulator = enrollment("BR-1", None);
    emulator["public_key"] = json!(new_key().verifying().to_jwk());
    assert_refused(&enroll_with(&server, Some(&owner), &emulator).await?, 403, "attestation_required");
    assert_eq!(score()?, Some(85), "nothing came of it");
    // A signature by the old key shows who it was, not what the new key lies in.
    let mut signed_only = emulator.clone();
    signed_only["attestation"] =
        signed(&phone.device.key, phone.tenant, "BR-1", &nonce_to_enroll(&server, "BR-1").await?);
    assert_refused(&enroll_with(&server, Some(&owner), &signed_only).await?, 403, "attestation_required");

    demand(&server, &phone, "optional").await?;
    assert_eq!(enroll_with(&server, Some(&owner), &emulator).await?.status, 201);
    let state = phone.state().await?;
    assert_eq!(
        (&state["level"], &state["score"], &state["type"]),
        (&json!("none"), &json!(0), &Value::Null),
        "{state}"
    );
    assert_eq!((&state["stale"], &state["root"]), (&json!(true), &Value::Null));
    assert_eq!(score()?, None);

    // The key is the one thing that need not be said: without it the old one stays, and the proof goes all the same.
    let (other, _) = opened(&server, "BR-2").await?;
    assert_eq!(enroll_with(&server, Some(&owner), &enrollment("BR-2", None)).await?.status, 201);
    assert_eq!(other.state().await?["level"], "none");
    Ok(())
}

/// A phone that was set up anew still has its key: that lets it in, and proves no more than that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_comes_back_by_its_key_where_hardware_is_demanded_and_counts_as_software_until_it_shows_more() -> Done
{
    let server = start().await?;
    let (phone, maker) = opened(&server, "BR-1").await?;
    demand(&server, &phone, "hardware").await?;
    for _ in 0..3 {
        fail(&phone, &maker).await?;
    }
    for _ in 0..2 {
        let mut back = enrollment("BR-1", Some(&server.enrollment_token));
        back["attestation"] = signed(&phone.device.key, phone.tenant, "BR-1", &nonce_to_enroll(&server, "BR-1").await?);
        assert_eq!(enroll_with(&server, None, &back).await?.status, 201);
        assert_eq!(phone.state().await?["level"], "software");
        assert_eq!(blocked_by(&server, "BR-1").await?, "quarantine", "it released itself");
    }
    Ok(())
}
