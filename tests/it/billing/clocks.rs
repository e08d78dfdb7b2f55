//! What a wrong clock, set by accident or by intent, does to trials and licences; and what counts for a device meanwhile.

use std::time::Duration;

use blockremote::config::Paywall;
use blockremote::crypto::sha256;
use blockremote::domains::billing::{Proof, Status, Word};
use blockremote::domains::tenants::PlanTier;
use blockremote::kernel::context::Origin;
use blockremote::kernel::{Random, Timestamp};
use blockremote::testkit::{Server, eventually, text};
use serde_json::{Value, json};

use super::gateway::{self, Gateway, paid};
use crate::common::{DAY, Done, first_tenant, header, refreshed};
use crate::killswitch::raw::Raw;
use crate::people::done;
use crate::world::money::{licence, vendor, with_vendor_key};

/// A few looks of the watch, which comes by five times a second.
const LOOKS: Duration = Duration::from_millis(700);

fn refused(server: &Server) -> bool {
    let services = &server.app().services;
    let tenant = services.tenants.entries().first().cloned();
    let entry = tenant.as_ref().and_then(|t| services.devices.entry(t.id, &"BR-1".parse().ok()?));
    let now = server.clock.now();
    tenant.zip(entry).is_some_and(|(tenant, entry)| services.billing.must_pay(&entry, &tenant, now))
}

/// A clock that was set back a year while the appliance was off was noticed at each start and never written down, so a
/// restart a day made a trial without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_set_back_while_the_appliance_is_off_makes_no_trial_longer_however_often_it_restarts() -> Done {
    let mut server = gateway::server().await?;
    server.enroll("BR-1").await?;
    tokio::time::sleep(LOOKS).await;
    server.stop().await;
    server.clock.set(server.clock.now().minus(365 * DAY));
    server.restart().await?;
    for lived in 0..2 {
        assert!(!refused(&server), "after {} days", 4 * lived);
        server.clock.advance(4 * DAY);
        tokio::time::sleep(LOOKS).await;
        server.restart().await?;
    }
    assert!(refused(&server), "eight days were lived through");
    Ok(())
}

/// A slip of the hand to 2036 ended every trial for good, although it was corrected a minute later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_date_that_is_corrected_gives_the_trials_back() -> Done {
    let server = gateway::server().await?;
    let phone = server.enroll("BR-1").await?;
    let entry = server.app().services.devices.entry(first_tenant(&server).await?, &"BR-1".parse()?).ok_or("none")?;
    tokio::time::sleep(LOOKS).await;
    let right = server.clock.now();
    server.clock.set(right.plus(3_650 * DAY));
    assert!(eventually(|| entry.device().told_to_pay).await);
    server.clock.set(right);
    assert!(eventually(|| !refused(&server)).await);
    assert!(eventually(|| !entry.device().told_to_pay).await, "and the device is told");
    server.clock.advance(7 * DAY);
    assert!(eventually(|| entry.device().told_to_pay).await, "its end comes when it comes");
    drop(phone);
    Ok(())
}

/// The end of a trial was shown in the trials' own time, which after a step back is no time that any clock shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_trial_is_shown_as_the_clock_on_the_wall_will_show_it() -> Done {
    let server = gateway::server().await?;
    server.enroll("BR-1").await?;
    tokio::time::sleep(LOOKS).await;
    server.clock.set(server.clock.now().minus(5 * DAY));
    tokio::time::sleep(LOOKS).await;
    let end = server.clock.now().plus(7 * DAY).to_string();
    let admin = server.admin_token().await?;
    assert_eq!(text(&done(&server, &admin, "GET", "/v1/devices/BR-1", Value::Null).await?, "trial_expires_at"), end);
    let ticket = server.enrollment_token.clone();
    let fresh = crate::common::enrollment("BR-2", Some(&ticket));
    let enrolled: Value = server.client()?.post("/v1/auth/device", None, &fresh).await?.json()?;
    assert_eq!(text(&enrolled, "trial_expires_at"), end);
    let token = text(&enrolled, "access_token");
    let status: Value = server.client()?.get("/v1/billing/status", Some(&token)).await?.json()?;
    assert_eq!((&status["expires_at"], &status["trial_days_remaining"]), (&json!(end), &json!(7)));
    Ok(())
}

/// Licences ran by the machine's clock, so setting that back renewed them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_set_back_makes_no_licence_longer() -> Done {
    let server = Server::start_with(with_vendor_key).await?;
    server.enroll("BR-1").await?;
    let (admin, tenant) = (server.admin_token().await?, first_tenant(&server).await?.to_string());
    let end = server.clock.now().plus(14 * DAY);
    let jws = licence(&server, &vendor(), &tenant, |c| {
        c["covers_devices"] = json!(true);
        c["expires_at"] = json!(end.to_string());
    });
    done(&server, &admin, "PUT", "/v1/billing/licence", json!({ "licence": jws })).await?;
    server.clock.advance(10 * DAY);
    tokio::time::sleep(LOOKS).await;
    server.clock.set(server.clock.now().minus(10 * DAY));
    tokio::time::sleep(LOOKS).await;
    assert!(!refused(&server));
    server.clock.advance(5 * DAY);
    tokio::time::sleep(LOOKS).await;
    assert!(refused(&server), "fifteen days of fourteen");
    let later = server.admin_token().await?;
    let shown = done(&server, &later, "GET", "/v1/billing/licence", Value::Null).await?;
    assert_eq!(shown["in_force"], false);
    Ok(())
}

/// Three places answered differently what a device has: its status said enterprise, its rate was that of a trial.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_counts_for_a_device_is_the_same_wherever_it_is_asked() -> Done {
    let free = Server::start_with(|c| c.billing.paywall = Paywall::Off).await?;
    let mut phone = free.enroll("BR-1").await?;
    let status: Value = free.client()?.get("/v1/billing/status", Some(&phone.access_token)).await?.json()?;
    let beat = phone.beat(&phone.calm()).await?;
    let admin = free.admin_token().await?;
    let shown = done(&free, &admin, "GET", "/v1/devices/BR-1", Value::Null).await?;
    assert_eq!(
        (text(&status, "plan").as_str(), header(&beat, "x-plan-tier"), text(&shown, "plan_tier").as_str()),
        ("enterprise", "enterprise", "enterprise")
    );
    let licensed = Server::start_with(with_vendor_key).await?;
    let mut phone = licensed.enroll("BR-1").await?;
    let (admin, tenant) = (licensed.admin_token().await?, first_tenant(&licensed).await?.to_string());
    let jws = licence(&licensed, &vendor(), &tenant, |c| c["covers_devices"] = json!(true));
    done(&licensed, &admin, "PUT", "/v1/billing/licence", json!({ "licence": jws })).await?;
    let status: Value = licensed.client()?.get("/v1/billing/status", Some(&phone.access_token)).await?.json()?;
    let beat = phone.beat(&phone.calm()).await?;
    assert_eq!((text(&status, "plan").as_str(), header(&beat, "x-plan-tier")), ("paid", "paid"));
    Ok(())
}

/// A blocked device keeps its socket when its trial ends, and nothing closed it when the block was released: it went on
/// for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_from_a_block_is_no_way_around_the_paywall() -> Done {
    let server = gateway::server().await?;
    let phone = server.enroll("BR-1").await?;
    server.clock.advance(7 * DAY - Duration::from_secs(60));
    let (access, _) = refreshed(&server, &phone.refresh_token).await?;
    let mut socket = Raw::with_token(&server.endpoint()?, &access).await;
    assert_eq!(text(&socket.json().await, "action"), "AUTH_OK");
    let admin = server.admin_token().await?;
    let lock = json!({ "action": "LOCK_SYSTEM", "reason": "lost" });
    done(&server, &admin, "POST", "/v1/devices/BR-1/commands", lock).await?;
    assert_eq!(text(&socket.json().await, "action"), "LOCK_SYSTEM");
    server.clock.advance(Duration::from_secs(61));
    assert_eq!(text(&socket.json().await, "action"), "BILLING_EXPIRED");
    let admin = server.admin_token().await?;
    done(&server, &admin, "POST", "/v1/devices/BR-1/unblock", json!({ "reason": "found" })).await?;
    let (frames, code) = socket.rest().await;
    assert_eq!((frames.iter().map(|f| text(f, "action")).collect::<Vec<_>>(), code), (vec!["UNLOCK".to_owned()], 4003));
    Ok(())
}

/// Of several events that waited for a device only the last was ever settled: the others waited for good, under nobody's
/// name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_waited_for_a_device_is_settled_when_it_comes() -> Done {
    let server = gateway::server().await?;
    let gateway = Gateway::of(&server).await?;
    let start = server.clock.now();
    for (id, after) in [("evt_1", 0), ("evt_3", 30), ("evt_2", 10)] {
        let mut event = paid(&gateway.owner, "BR-1", id);
        event["occurred_at"] = json!(start.plus(Duration::from_secs(after)).to_string());
        assert_eq!(gateway.send(&event).await?.status, if id == "evt_2" { 200 } else { 202 }, "{id}");
    }
    assert_eq!(gateway.events("?waiting=true").await?.len(), 3);
    server.enroll("BR-1").await?;
    assert_eq!(gateway.events("?waiting=true").await?.len(), 0);
    let mut results: Vec<(String, String)> =
        gateway.events("").await?.iter().map(|e| (text(e, "event_id"), text(e, "result"))).collect();
    results.sort();
    let expected = [("evt_1", "overtaken"), ("evt_2", "overtaken"), ("evt_3", "applied")];
    assert_eq!(results, expected.map(|(id, result)| (id.to_owned(), result.to_owned())));
    Ok(())
}

/// The order of arrival was tried only with a model of the rule, never with the data file: here the words go the way
/// of a gateway's, with the device enrolled somewhere among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeats_and_any_order_of_arrival_end_in_the_same_stored_state() -> Done {
    const STATUSES: [Status; 5] = [Status::Trial, Status::Active, Status::PastDue, Status::Cancelled, Status::Expired];
    let server = gateway::server().await?;
    let gateway = Gateway::of(&server).await?;
    let (tenant, random) = (first_tenant(&server).await?, Random::seeded(20));
    let draw = |below: u64| random.u64() % below;
    let billing = server.app().services.billing.clone();
    for case in 0..40 {
        let device = format!("CASE-{case}");
        let mut words: Vec<Word> = Vec::new();
        for n in 0..1 + draw(7) {
            words.push(Word {
                event_id: format!("{case}-{n}"),
                provider: format!("p{}", draw(2)),
                user_id: gateway.owner.clone(),
                device_id: device.parse()?,
                plan_code: "p".to_owned(),
                tier: PlanTier::Paid,
                status: STATUSES.get(usize::try_from(draw(5))?).copied().ok_or("no status")?,
                occurred_at: Timestamp::from_millis(1_700_000_000_000 + i64::try_from(draw(4))? * 1_000),
                expires_at: None,
                auto_renew: true,
            });
        }
        let last = words.iter().max_by_key(|w| (w.occurred_at, w.event_id.clone(), w.provider.clone())).cloned();
        let mut arrivals: Vec<Word> = words.iter().chain(&words).cloned().collect();
        for i in (1..arrivals.len()).rev() {
            arrivals.swap(i, usize::try_from(draw(i as u64 + 1))?);
        }
        let enrolls_at = usize::try_from(draw(arrivals.len() as u64 + 1))?;
        for i in 0..=arrivals.len() {
            if i == enrolls_at {
                server.enroll(&device).await?;
            }
            if let Some(word) = arrivals.get(i) {
                let proof = Proof {
                    signature: "s".to_owned(),
                    signed_at: server.clock.now(),
                    body_sha256: format!("{:?}", sha256(word.event_id.as_bytes())),
                };
                billing.take_event(word.clone(), proof, Origin::cli()).await?;
            }
        }
        let entry = server.app().services.devices.entry(tenant, &device.parse()?).ok_or("no device")?;
        let stored = billing.subscription(&entry).await?.ok_or("no subscription")?;
        assert_eq!((Some(&stored.word), stored.tenant), (last.as_ref(), Some(tenant)), "{case}: {arrivals:?}");
        assert_eq!(entry.device().paid, last.and_then(|word| word.paid()), "{case}: {arrivals:?}");
    }
    let waiting = gateway.events("?waiting=true").await?;
    assert!(waiting.is_empty(), "{waiting:?}");
    Ok(())
}
