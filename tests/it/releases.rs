//! Who is locked stays locked: not by a weaker cause in the place of a stronger one, not by a clean proof while the switch of
//! the company holds every device.

use blockremote::domains::devices::{BlockCause, DeviceState};
use blockremote::kernel::ids::TenantId;
use blockremote::testkit::{Device, Fault, Server};
use serde_json::{Value, json};

use crate::attestation::{attest, nonce, nonce_to_enroll, signed};
use crate::common::{Done, assert_refused, audited, enroll_with, enrollment, first_tenant, refresh, refreshed};
use crate::hardware::new_key;
use crate::people::done;
use crate::tenant_switch::turn;
use crate::world::second_factor::set_up_totp;

/// Why a device is blocked, without anybody's token.
fn held_by(server: &Server, tenant: TenantId, device: &Device) -> Result<Option<BlockCause>, Fault> {
    let entry = server.app().services.devices.entry(tenant, &device.id.parse()?).ok_or("no device")?;
    Ok(match entry.device().state {
        DeviceState::Active => None,
        DeviceState::Blocked { cause, .. } => Some(cause),
    })
}

/// Its holder spoils three proofs, which anybody with the device's token can do.
async fn fail_thrice(server: &Server, tenant: TenantId, device: &Device) -> Done {
    for _ in 0..3 {
        let bad = signed(&new_key(), tenant, &device.id, &nonce(server, device).await?);
        assert_refused(&attest(server, device, &bad).await?, 403, "attestation_refused");
    }
    Ok(())
}

async fn prove(server: &Server, tenant: TenantId, device: &Device) -> Done {
    let clean = signed(&device.key, tenant, &device.id, &nonce(server, device).await?);
    assert_eq!(attest(server, device, &clean).await?.status, 200);
    Ok(())
}

async fn commands(server: &Server, admin: &str, device: &Device) -> Result<Vec<String>, Fault> {
    let list = done(server, admin, "GET", &format!("/v1/devices/{}/commands", device.id), Value::Null).await?;
    let commands = list["data"].as_array().cloned().unwrap_or_default();
    Ok(commands.iter().map(|c| blockremote::testkit::text(c, "action")).collect())
}

/// Phones are being stolen, and the company locks all of them. The thief of one fails three proofs, so that the phone is
/// held for that, and then shows a clean one, which used to open it. Another was in quarantine before the lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_device_heals_itself_out_of_the_switch_of_its_company() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    set_up_totp(&server, &admin).await?;
    let (stolen, early) = (server.enroll("BR-1").await?, server.enroll("BR-2").await?);
    let tenant = first_tenant(&server).await?;
    fail_thrice(&server, tenant, &early).await?;
    assert_eq!(held_by(&server, tenant, &early)?, Some(BlockCause::Quarantine));
    assert_eq!(turn(&server, &admin, true).await?.status, 200);
    assert_eq!(held_by(&server, tenant, &stolen)?, Some(BlockCause::KillSwitch));

    fail_thrice(&server, tenant, &stolen).await?;
    for phone in [&stolen, &early] {
        prove(&server, tenant, phone).await?;
        prove(&server, tenant, phone).await?;
        assert!(held_by(&server, tenant, phone)?.is_some(), "{} opened itself", phone.id);
        let told = commands(&server, &admin, phone).await?;
        assert!(!told.contains(&"UNLOCK".to_owned()), "{}: {told:?}", phone.id);
    }

    // The end of the lock is not the end of what the devices did themselves; now a clean proof is.
    assert_eq!(turn(&server, &admin, false).await?.status, 200);
    for phone in [&stolen, &early] {
        assert_eq!(held_by(&server, tenant, phone)?, Some(BlockCause::Quarantine), "{}", phone.id);
        prove(&server, tenant, phone).await?;
        assert_eq!(held_by(&server, tenant, phone)?, None, "{}", phone.id);
    }
    Ok(())
}

/// Who holds the phone brings it into quarantine before the analyst locks it: a clean proof would undo the analyst's lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quarantine_is_no_shelter_from_a_lock_that_only_a_person_ends() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let tenant = first_tenant(&server).await?;
    let device = server.enroll("BR-1").await?;
    fail_thrice(&server, tenant, &device).await?;
    assert_eq!(held_by(&server, tenant, &device)?, Some(BlockCause::Quarantine));
    let lock = json!({ "action": "LOCK_SYSTEM", "reason": "it was stolen" });
    done(&server, &admin, "POST", "/v1/devices/BR-1/commands", lock).await?;
    assert_eq!(held_by(&server, tenant, &device)?, Some(BlockCause::Command));
    assert_eq!(audited(&server, "BR-1").await?.iter().filter(|a| *a == "device_blocked").count(), 2);
    // To fail again takes nothing back.
    fail_thrice(&server, tenant, &device).await?;
    prove(&server, tenant, &device).await?;
    assert_eq!(held_by(&server, tenant, &device)?, Some(BlockCause::Command));
    assert!(!commands(&server, &admin, &device).await?.contains(&"UNLOCK".to_owned()));

    // The same of a stolen session: whoever enrolls again by the device's key brings a clean proof along.
    let device = server.enroll("BR-2").await?;
    fail_thrice(&server, tenant, &device).await?;
    let (_, second) = refreshed(&server, &device.refresh_token).await?;
    refreshed(&server, &second).await?;
    assert_refused(&refresh(&server, &device.refresh_token).await?, 403, "refresh_reused");
    assert_eq!(held_by(&server, tenant, &device)?, Some(BlockCause::RefreshReused));
    let told = commands(&server, &admin, &device).await?;
    assert_eq!(told.iter().filter(|action| *action == "CRITICAL_LOCK").count(), 1, "{told:?}");
    let mut again = enrollment("BR-2", Some(&server.enrollment_token));
    again["attestation"] = signed(&device.key, tenant, "BR-2", &nonce_to_enroll(&server, "BR-2").await?);
    assert_eq!(enroll_with(&server, None, &again).await?.status, 201);
    assert_eq!(held_by(&server, tenant, &device)?, Some(BlockCause::RefreshReused));

    // And of a proof that somebody replays.
    let device = server.enroll("BR-3").await?;
    fail_thrice(&server, tenant, &device).await?;
    let mut replayed = signed(&device.key, tenant, "BR-3", &nonce(&server, &device).await?);
    replayed["signature"] = json!("");
    assert_refused(&attest(&server, &device, &replayed).await?, 403, "attestation_refused");
    replayed["token"] = json!("another body");
    assert_refused(&attest(&server, &device, &replayed).await?, 403, "attestation_replayed");
    prove(&server, tenant, &device).await?;
    assert_eq!(held_by(&server, tenant, &device)?, Some(BlockCause::Attestation));
    Ok(())
}
