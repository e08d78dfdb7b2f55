//! What others may do to devices that share their address, and what a certificate may do that was just taken back.

use std::time::Duration;

use blockremote::crypto::SigningKey;
use blockremote::domains::certificates::Authority;
use blockremote::kernel::context::Origin;
use blockremote::kernel::{Error, Random};
use serde_json::json;

use super::{Site, assert_ended, csr};
use crate::common::{Done, first_tenant};

/// Behind one address of a company there are many devices and perhaps one thief: his bad tokens shut the door of gRPC for
/// all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn bad_tokens_of_a_stranger_leave_the_neighbours_of_his_address_alone() -> Done {
    let Some(mut site) = Site::new().await? else { return Ok(()) };
    let beat = site.device.calm();
    assert_eq!(site.call("Heartbeat", &beat)?["code"], "OK");
    let mut client = site.server.client()?;
    let mut last = 0;
    for number in 0..70 {
        last = client.get("/v1/me", Some(&format!("not.a.token{number}"))).await?.status;
    }
    assert_eq!(last, 429, "the stranger has used up what his address may get wrong");
    assert_eq!(site.call("Heartbeat", &beat)?["code"], "OK", "and the device goes on");
    let stream = site.peer.stream(&site.channel, "Commands", &site.device.access_token)?;
    site.peer.send(&stream, &json!({}))?;
    assert!(site.peer.hear(&stream)?["message"].is_object());
    Ok(())
}

/// A renewal that waited for its turn gave the finder of a phone a new certificate behind the revocation of the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_renewal_does_not_outlive_the_revocation_of_what_was_shown() -> Done {
    let Some(site) = Site::new().await? else { return Ok(()) };
    let tenant = first_tenant(&site.server).await?;
    let certificates = site.server.app().services.certificates.clone();
    let shown = blockremote::crypto::certs::fingerprint_sha256(&std::fs::read_to_string(&site.identity.cert)?)?;
    let shown =
        blockremote::crypto::unhex(&shown.replace(':', "").to_ascii_lowercase()).and_then(|b| b.try_into().ok());
    let store = site.server.app().services.store.clone();
    // The writer is busy; the revocation comes to it first, and the renewal was let in before that is done.
    store.post(|_| {
        std::thread::sleep(Duration::from_millis(400));
        Ok(())
    })?;
    let (revoking, serial) = (certificates.clone(), site.identity.serial.clone());
    let revoked = tokio::spawn(async move { revoking.revoke(serial, "found".to_owned(), Origin::cli()).await });
    tokio::time::sleep(Duration::from_millis(150)).await;
    let key = SigningKey::generate(&Random::System).to_pkcs8_pem()?;
    let by = Authority::Device(shown);
    let renewed = certificates.issue(tenant, &"BR-1".parse()?, &csr(&key)?, by, None, Origin::cli()).await;
    revoked.await??;
    assert!(matches!(renewed, Err(Error::Refused(refusal)) if refusal.code == "certificate_refused"));
    Ok(())
}

/// Somebody who has one certificate and no token could watch from thousands of streams.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn one_certificate_has_a_few_watchers_and_none_once_its_device_is_removed() -> Done {
    const WATCH: &str = "/grpc.health.v1.Health/Watch";
    let Some(mut site) = Site::new().await? else { return Ok(()) };
    let mut watching = Vec::new();
    for _ in 0..4 {
        let stream = site.peer.stream(&site.channel, WATCH, "")?;
        site.peer.send(&stream, &json!({}))?;
        assert_eq!(site.peer.hear(&stream)?["message"]["status"], "SERVING");
        watching.push(stream);
    }
    let fifth = site.peer.stream(&site.channel, WATCH, "")?;
    site.peer.send(&fifth, &json!({}))?;
    assert_ended(&site.peer.hear(&fifth)?, "RESOURCE_EXHAUSTED", "too_many_watchers");
    if let Some(given_up) = watching.pop() {
        site.peer.cancel(&given_up)?;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let again = site.peer.stream(&site.channel, WATCH, "")?;
    site.peer.send(&again, &json!({}))?;
    assert_eq!(site.peer.hear(&again)?["message"]["status"], "SERVING", "a place is free again");
    let admin = site.server.admin_token().await?;
    crate::people::ask(&site.server, &admin, "DELETE", "/v1/devices/BR-1", serde_json::Value::Null).await?.success()?;
    assert_ended(&site.peer.hear(&again)?, "UNAUTHENTICATED", "certificate_refused");
    Ok(())
}

/// A load balancer hears over gRPC what it hears over HTTP.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn health_over_grpc_is_readiness() -> Done {
    let Some(mut site) = Site::new().await? else { return Ok(()) };
    let check = async |site: &mut Site, free_mib: u64, expected: &str| -> Done {
        site.server.machine.set_disk_free_bytes(free_mib << 20);
        for _ in 0..200 {
            let answer = site.peer.call(&site.channel, "/grpc.health.v1.Health/Check", "", &json!({}))?;
            if answer["response"]["status"] == expected {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(format!("never {expected} with {free_mib} MiB").into())
    };
    check(&mut site, 100_000, "SERVING").await?;
    check(&mut site, 1, "NOT_SERVING").await?;
    check(&mut site, 100_000, "SERVING").await
}
