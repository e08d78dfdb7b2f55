//! A device that nobody pays for is told so at that moment, and let in again at the moment of the payment.

use std::time::Duration;

use blockremote::client::Response;
use blockremote::config::Paywall;
use blockremote::testkit::{Device, Fault, Server, eventually, text};
use serde_json::{Value, json};

use super::gateway::{self, Gateway, paid};
use crate::common::{DAY, Done, assert_refused, audited, body, refreshed};
use crate::killswitch::raw::Raw;

const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// Tokens are shorter than trials.
async fn renew(server: &Server, phone: &mut Device) -> Done {
    (phone.access_token, phone.refresh_token) = refreshed(server, &phone.refresh_token).await?;
    Ok(())
}

async fn connect(server: &Server, phone: &Device) -> Result<Raw, Fault> {
    let mut socket = Raw::with_token(&server.endpoint()?, &phone.access_token).await;
    assert_eq!(text(&socket.json().await, "action"), "AUTH_OK");
    Ok(socket)
}

async fn status(server: &Server, phone: &Device) -> Result<Response, Fault> {
    Ok(server.client()?.get("/v1/billing/status", Some(&phone.access_token)).await?)
}

fn actions(frames: &[Value]) -> Vec<String> {
    frames.iter().map(|f| text(f, "action")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_trial_is_pushed_when_it_comes_and_a_payment_ends_it_at_once() -> Done {
    let server = gateway::server().await?;
    let mut phone = server.enroll("BR-1").await?;
    let gateway = Gateway::of(&server).await?;
    server.clock.advance(WEEK - Duration::from_secs(60));
    renew(&server, &mut phone).await?;
    let mut socket = connect(&server, &phone).await?;
    let now = body(&status(&server, &phone).await?);
    for (name, value) in [
        ("status", json!("trial")),
        ("plan", json!("trial")),
        ("premium", json!(false)),
        ("trial", json!(true)),
        ("trial_expired", json!(false)),
        ("trial_days_remaining", json!(1)),
        ("is_active", json!(true)),
        ("device_id", json!("BR-1")),
    ] {
        assert_eq!(now[name], value, "{name} in {now}");
    }
    // Nobody asks anything: the appliance itself notices.
    server.clock.advance(Duration::from_secs(60));
    let (frames, code) = socket.rest().await;
    assert_eq!((actions(&frames), code), (vec!["BILLING_EXPIRED".to_owned()], 4003));
    let refused = status(&server, &phone).await?;
    assert_refused(&refused, 402, "trial_expired");
    assert_eq!(phone.beat(&phone.calm()).await?.status, 402);
    // Whoever comes back hears it again, and goes.
    let (frames, code) = Raw::with_token(&server.endpoint()?, &phone.access_token).await.rest().await;
    assert_eq!((actions(&frames), code), (vec!["AUTH_OK".to_owned(), "BILLING_EXPIRED".to_owned()], 4003));
    assert_eq!(audited(&server, "BR-1").await?.iter().filter(|a| *a == "payment_required").count(), 1);

    gateway.send(&paid(&gateway.owner, "BR-1", "evt_1")).await?.success()?;
    assert_eq!(phone.beat(&phone.calm()).await?.status, 200, "from the answer to the payment on");
    assert_eq!(body(&status(&server, &phone).await?)["status"], "active");
    let mut socket = connect(&server, &phone).await?;
    assert_eq!(text(&socket.json().await, "action"), "BILLING_EXPIRED");
    assert_eq!(text(&socket.json().await, "action"), "UNLOCK", "the last word");
    socket.is_quiet().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paid_time_ends_as_a_trial_does_and_a_cancellation_at_once() -> Done {
    let server = gateway::server().await?;
    let (mut lapses, mut cancelled) = (server.enroll("LAPSES").await?, server.enroll("CANCELLED").await?);
    let gateway = Gateway::of(&server).await?;
    let mut event = paid(&gateway.owner, "LAPSES", "evt_1");
    event["expires_at"] = json!(server.clock.now().plus(10 * DAY).to_string());
    gateway.send(&event).await?.success()?;
    gateway.send(&paid(&gateway.owner, "CANCELLED", "evt_2")).await?.success()?;
    for _ in 0..2 {
        server.clock.advance(5 * DAY - Duration::from_secs(60));
        renew(&server, &mut lapses).await?;
        renew(&server, &mut cancelled).await?;
    }
    assert_eq!(lapses.beat(&lapses.calm()).await?.status, 200, "past the trial, within the paid time");
    let (mut one, mut other) = (connect(&server, &lapses).await?, connect(&server, &cancelled).await?);
    server.clock.advance(Duration::from_secs(120));
    assert_eq!(one.rest().await.1, 4003);
    other.is_quiet().await;
    let mut end = paid(&gateway.owner, "CANCELLED", "evt_3");
    end["status"] = json!("cancelled");
    gateway.send(&end).await?.success()?;
    let (frames, code) = other.rest().await;
    assert_eq!((actions(&frames), code), (vec!["BILLING_EXPIRED".to_owned()], 4003));
    assert_eq!(cancelled.beat(&cancelled.calm()).await?.status, 402);
    Ok(())
}

/// A lock comes first: a device whose trial is over is not thereby released, and its payment unlocks nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_is_no_way_out_of_a_lock() -> Done {
    let server = gateway::server().await?;
    let mut phone = server.enroll("BR-1").await?;
    let gateway = Gateway::of(&server).await?;
    phone.beat(&phone.hostile()).await?.success()?;
    server.clock.advance(WEEK);
    let told = || async { Ok::<_, Fault>(audited(&server, "BR-1").await?.contains(&"payment_required".to_owned())) };
    let mut waited = 0;
    while !told().await? && waited < 200 {
        waited += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut socket = Raw::with_token(&server.endpoint()?, &phone.access_token).await;
    let first = [socket.json().await, socket.json().await, socket.json().await];
    assert_eq!(actions(&first), ["AUTH_OK", "LOCK_SYSTEM", "BILLING_EXPIRED"]);
    socket.is_quiet().await;
    gateway.send(&paid(&gateway.owner, "BR-1", "evt_1")).await?.success()?;
    socket.is_quiet().await;
    Ok(())
}

/// Whoever sets the clock of the machine back does not live in the trial for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_goes_backwards_makes_no_trial_longer() -> Done {
    let mut server = gateway::server().await?;
    let phone = server.enroll("BR-1").await?;
    let start = server.clock.now();
    let sees_over = |server: &Server| {
        let tenant = server.app().services.tenants.entries().first().cloned();
        let billing = server.app().services.billing.clone();
        let entry = tenant.as_ref().and_then(|t| server.app().services.devices.entry(t.id, &"BR-1".parse().ok()?));
        let now = server.clock.now();
        tenant.zip(entry).is_some_and(|(tenant, entry)| billing.must_pay(&entry, &tenant, now))
    };
    server.clock.advance(5 * DAY);
    tokio::time::sleep(Duration::from_millis(600)).await;
    server.clock.set(start);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!sees_over(&server), "five days are used up");
    server.clock.advance(2 * DAY + Duration::from_secs(1));
    assert!(eventually(|| sees_over(&server)).await, "and two more");
    tokio::time::sleep(Duration::from_millis(600)).await;
    server.restart().await?;
    assert!(sees_over(&server), "a restart forgets nothing of it");
    drop(phone);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_paywall_is_off_nobody_is_told_to_pay() -> Done {
    let server = Server::start_with(|c| c.billing.paywall = Paywall::Off).await?;
    let mut phone = server.enroll("BR-1").await?;
    server.clock.advance(WEEK - Duration::from_secs(60));
    renew(&server, &mut phone).await?;
    let mut socket = connect(&server, &phone).await?;
    server.clock.advance(Duration::from_secs(120));
    tokio::time::sleep(Duration::from_millis(600)).await;
    socket.is_quiet().await;
    let now = body(&status(&server, &phone).await?);
    assert_eq!(
        (&now["is_active"], &now["status"], &now["trial_expired"]),
        (&json!(true), &json!("active"), &json!(true))
    );
    Ok(())
}

/// A restart while a trial ends must not swallow the word of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ended_while_the_appliance_was_off_is_told_at_its_start() -> Done {
    let mut server = gateway::server().await?;
    let phone = server.enroll("BR-1").await?;
    server.stop().await;
    server.clock.advance(WEEK);
    server.restart().await?;
    let admin = server.admin_token().await?;
    let mut told = Vec::new();
    for _ in 0..200 {
        let list: Value = server.client()?.get("/v1/devices/BR-1/commands", Some(&admin)).await?.json()?;
        told = list["data"].as_array().into_iter().flatten().map(|c| text(c, "action")).collect();
        if !told.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(told, ["BILLING_EXPIRED"]);
    drop(phone);
    Ok(())
}
