//! The kill switch of a whole tenant: who may turn it, whom it locks at once, and whom it lets go again.

use blockremote::client::Response;
use blockremote::testkit::{Device, Fault, Server, text};
use hyper::Method;
use serde_json::{Value, json};

use crate::common::{
    Done, add_user, assert_refused, body, enroll_with, enrollment, enrollment_token, first_tenant, refresh, refreshed,
    second_tenant, send,
};
use crate::killswitch::raw::Raw;
use crate::world::second_factor::set_up_totp;

const SWITCH: &str = "/v1/kill-switch";

pub async fn turn(server: &Server, token: &str, engaged: bool) -> Result<Response, Fault> {
    let bearer = format!("Bearer {token}");
    let wanted = json!({ "engaged": engaged, "reason": "phones are being stolen" });
    send(&mut server.client()?, Method::PUT, SWITCH, &[("authorization", &bearer)], &wanted).await
}

async fn post(server: &Server, token: &str, path: &str, wanted: &Value) -> Result<Response, Fault> {
    Ok(server.client()?.post(path, Some(token), wanted).await?)
}

async fn state(server: &Server, token: &str, device: &str) -> Result<(String, String), Fault> {
    let view: Value = server.client()?.get(&format!("/v1/devices/{device}"), Some(token)).await?.json()?;
    Ok((text(&view, "state"), text(&view["blocked"], "cause")))
}

async fn connect(server: &Server, device: &Device) -> Result<Raw, Fault> {
    let mut socket = Raw::with_token(&server.endpoint()?, &device.access_token).await;
    assert_eq!(text(&socket.json().await, "action"), "AUTH_OK");
    Ok(socket)
}

/// The status of a heartbeat over a connection of its own, whatever port the server has now.
async fn beat(server: &Server, device: &Device) -> Result<u16, Fault> {
    let answer = server.client()?.post("/v1/signals/heartbeat", Some(&device.access_token), &device.calm()).await?;
    Ok(answer.status)
}

fn was(state: (String, String)) -> String {
    format!("{} {}", state.0, state.1).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_locks_every_device_at_once_and_releases_those_that_it_locked() -> Done {
    let mut server = Server::start().await?;
    let admin = server.admin_token().await?;
    assert_refused(&turn(&server, &admin, true).await?, 403, "step_up_required");
    set_up_totp(&server, &admin).await?;
    assert_refused(&turn(&server, &admin, false).await?, 409, "not_engaged");

    let phone = server.enroll("BR-1").await?;
    let bad = server.enroll("BR-2").await?;
    let lock = json!({ "action": "LOCK_SYSTEM", "reason": "lost" });
    assert_eq!(post(&server, &admin, "/v1/devices/BR-2/commands", &lock).await?.status, 202);
    let stolen = server.enroll("BR-3").await?;
    let (_, second) = refreshed(&server, &stolen.refresh_token).await?;
    refreshed(&server, &second).await?;
    let neighbour = neighbour(&server).await?;
    let mut socket = connect(&server, &phone).await?;

    let engaged = turn(&server, &admin, true).await?;
    assert_eq!(engaged.status, 200, "{}", body(&engaged));
    assert_eq!(
        (body(&engaged)["engaged"].as_bool(), body(&engaged)["devices_pending"].as_u64()),
        (Some(true), Some(0))
    );
    for device in [&phone, &bad, &stolen] {
        assert_eq!(beat(&server, device).await?, 423, "{}", device.id);
    }
    assert_eq!(text(&socket.json().await, "action"), "LOCK_SYSTEM");
    let token = server.enrollment_token.clone();
    let enrolled = enroll_with(&server, None, &enrollment("BR-9", Some(&token))).await?;
    assert_refused(&enrolled, 403, "kill_switch_engaged");
    assert_eq!(beat(&server, &neighbour).await?, 200, "another tenant's device");

    // Nobody opens the lock of one device behind the back of the switch.
    let reason = json!({ "reason": "a friend" });
    let opened = post(&server, &admin, "/v1/devices/BR-1/unblock", &reason).await?;
    assert_refused(&opened, 403, "kill_switch_engaged");
    let unlock = json!({ "action": "UNLOCK", "reason": "a friend" });
    let opened = post(&server, &admin, "/v1/devices/BR-1/commands", &unlock).await?;
    assert_refused(&opened, 403, "kill_switch_engaged");

    // What happens meanwhile is not forgotten: BR-3's refresh token turns out to be in other hands.
    assert_refused(&refresh(&server, &stolen.refresh_token).await?, 403, "refresh_reused");

    server.restart().await?;
    assert_eq!(beat(&server, &phone).await?, 423, "a restart releases nobody");
    assert_eq!(beat(&server, &neighbour).await?, 200);
    let shown = server.client()?.get(SWITCH, Some(&admin)).await?;
    assert_eq!((body(&shown)["engaged"].as_bool(), text(&body(&shown), "reason").as_str()), {
        (Some(true), "phones are being stolen")
    });

    let mut socket = connect(&server, &phone).await?;
    assert_eq!(text(&socket.json().await, "action"), "LOCK_SYSTEM", "not enforced yet, so it comes again");
    assert_eq!(turn(&server, &admin, false).await?.status, 200);
    assert_eq!(text(&socket.json().await, "action"), "UNLOCK");
    assert_eq!(beat(&server, &phone).await?, 200);
    assert_eq!(was(state(&server, &admin, "BR-1").await?), "active");
    assert_eq!(was(state(&server, &admin, "BR-2").await?), "blocked command", "for a reason of its own");
    assert_eq!(was(state(&server, &admin, "BR-3").await?), "blocked refresh_reused", "for a reason of its own");
    assert_eq!(enroll_with(&server, None, &enrollment("BR-9", Some(&token))).await?.status, 201);
    assert_refused(&turn(&server, &admin, false).await?, 409, "not_engaged");
    Ok(())
}

async fn neighbour(server: &Server) -> Result<Device, Fault> {
    let tenant = second_tenant(server).await?;
    add_user(server, tenant, "neighbour", "admin").await?;
    let token = enrollment_token(server, tenant, None).await?;
    let answer: Value = enroll_with(server, None, &enrollment("BR-1", Some(&token))).await?.json()?;
    let mut device = server.enroll("BR-4").await?;
    // Two devices of one name, one in each tenant.
    (device.id, device.access_token) = ("BR-1".to_owned(), text(&answer, "access_token"));
    Ok(device)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proof_behind_it_must_be_a_second_factor_and_fresh() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let password = json!({ "password": server.admin.password.expose() });
    assert_eq!(post(&server, &admin, "/v1/me/mfa/verify", &password).await?.status, 200);
    assert_refused(&turn(&server, &admin, true).await?, 403, "step_up_required");
    set_up_totp(&server, &admin).await?;
    server.clock.advance(std::time::Duration::from_secs(301));
    assert_refused(&turn(&server, &admin, true).await?, 403, "step_up_required");
    let viewer = add_user(&server, first_tenant(&server).await?, "vera", "viewer").await?;
    let viewer = text(&viewer, "access_token");
    set_up_totp(&server, &viewer).await?;
    assert_refused(&turn(&server, &viewer, true).await?, 403, "forbidden");
    let device = server.enroll("BR-1").await?;
    assert_refused(&turn(&server, &device.access_token, true).await?, 403, "forbidden");
    assert_eq!(beat(&server, &device).await?, 200, "nothing was locked");
    Ok(())
}
