//! Who pays and who must: the gateway's events, the paywall of a device, the plans.

mod clocks;
pub mod gateway;
mod licence;
mod paywall;

use blockremote::crypto::webhook;
use blockremote::domains::tenants::PlanTier;
use blockremote::kernel::Random;
use blockremote::testkit::{Fault, Server, text};
use hyper::Method;
use serde_json::{Value, json};

use crate::common::{DAY, Done, assert_refused, audited, body, enrollment, first_tenant, header};
use crate::people::{ask, done};
use gateway::{Gateway, SECRET, paid};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_is_the_devices_subscription_from_its_answer_on() -> Done {
    let server = gateway::server().await?;
    let mut phone = server.enroll("BR-1").await?;
    let gateway = Gateway::of(&server).await?;
    let before = gateway.subscription("BR-1").await?;
    assert_eq!(
        (&before["status"], &before["plan_tier"], &before["provider"]),
        (&json!("trial"), &json!("trial"), &Value::Null)
    );
    let event = paid(&gateway.owner, "BR-1", "evt_1");
    let answer = gateway.send(&event).await?;
    assert_eq!(answer.status, 200, "{}", body(&answer));
    let subscription: Value = answer.json()?;
    for (name, value) in [
        ("device_id", json!("BR-1")),
        ("user_id", json!(gateway.owner)),
        ("plan_tier", json!("paid")),
        ("status", json!("active")),
        ("is_active", json!(true)),
        ("event_id", json!("evt_1")),
    ] {
        assert_eq!(subscription[name], value, "{name} in {subscription}");
    }
    assert_eq!(gateway.subscription("BR-1").await?, subscription);
    let beat = phone.beat(&phone.calm()).await?;
    assert_eq!((beat.status, header(&beat, "x-plan-tier"), header(&beat, "x-ratelimit-limit")), (200, "paid", "1200"));
    assert!(audited(&server, "BR-1").await?.contains(&"subscription_updated".to_owned()));
    Ok(())
}

/// A gateway repeats what it got no answer to. Neither that nor a thief's recording may change anything, ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_counts_once_for_ever() -> Done {
    let server = gateway::server().await?;
    server.enroll("BR-1").await?;
    let gateway = Gateway::of(&server).await?;
    let first = paid(&gateway.owner, "BR-1", "evt_1");
    gateway.send(&first).await?.success()?;
    let mut ended = paid(&gateway.owner, "BR-1", "evt_2");
    ended["status"] = json!("cancelled");
    server.clock.advance(DAY);
    gateway.send(&ended).await?.success()?;
    server.clock.advance(400 * DAY);
    let again = gateway.send(&first).await?;
    assert_eq!((again.status, &body(&again)["status"]), (200, &json!("cancelled")), "the present state, unchanged");
    let mut other = first.clone();
    other["plan_tier"] = json!("enterprise");
    assert_refused(&gateway.send(&other).await?, 409, "event_conflict");
    other["provider"] = json!("another");
    assert_eq!(gateway.send(&other).await?.status, 200, "ids are a provider's own");
    Ok(())
}

/// Messages overtake each other. What counts is when things happened, not when we heard of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_later_word_wins_whenever_it_arrives() -> Done {
    let server = gateway::server().await?;
    let gateway = Gateway::of(&server).await?;
    let start = server.clock.now();
    let at = |days: u32, id: &str, status: &str, device: &str| {
        let mut event = paid(&gateway.owner, device, id);
        event["occurred_at"] = json!(start.plus(DAY * days).to_string());
        event["status"] = json!(status);
        event
    };
    for (device, order) in [("A", [0, 1, 2]), ("B", [2, 1, 0]), ("C", [1, 2, 0]), ("D", [2, 0, 1])] {
        server.enroll(device).await?;
        let said = |id: &str| format!("{device}-{id}");
        let events = [
            at(0, &said("1"), "active", device),
            at(1, &said("2"), "past_due", device),
            // In one instant with the one before: the higher id counts.
            at(1, &said("3"), "cancelled", device),
        ];
        for i in order {
            gateway.send(&events[i]).await?.success()?;
        }
        assert_eq!(gateway.subscription(device).await?["status"], "cancelled", "{device}");
    }
    let events = gateway.events("").await?;
    let results: Vec<&str> = events.iter().map(|e| e["result"].as_str().unwrap_or_default()).collect();
    assert_eq!(results.iter().filter(|r| **r == "overtaken").count(), 2 + 1 + 2, "{results:?}");
    assert!(events.iter().all(|e| !text(e, "signature").is_empty() && text(e, "body_sha256").len() == 64));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_paid_for_a_device_that_nobody_enrolled_waits_for_it() -> Done {
    let server = gateway::server().await?;
    let gateway = Gateway::of(&server).await?;
    let answer = gateway.send(&paid(&gateway.owner, "BR-9", "evt_1")).await?;
    assert_eq!((answer.status, &body(&answer)["plan_tier"]), (202, &json!("paid")));
    assert_eq!(gateway.events("").await?.len(), 0);
    let waiting = gateway.events("?waiting=true").await?;
    assert_eq!((waiting.len(), &waiting[0]["result"]), (1, &json!("waiting")));
    // Somebody else's device of that name is not meant.
    let mut strange = paid("usr_00000000-0000-7000-8000-000000000000", "BR-9", "evt_2");
    strange["plan_tier"] = json!("enterprise");
    assert_eq!(gateway.send(&strange).await?.status, 202);

    let phone = server.enroll("BR-9").await?;
    let status: Value = server.client()?.get("/v1/billing/status", Some(&phone.access_token)).await?.json()?;
    assert_eq!(
        (&status["plan"], &status["premium"], &status["is_active"]),
        (&json!("paid"), &json!(true), &json!(true))
    );
    let events = gateway.events("").await?;
    assert_eq!((events.len(), &events[0]["result"], &events[0]["event_id"]), (1, &json!("applied"), &json!("evt_1")));
    assert_eq!(
        gateway.send(&paid(&gateway.owner, "BR-9", "evt_1")).await?.status,
        200,
        "a repeat, now that it is known"
    );
    // It stays the owner's when the device goes and comes again.
    done(&server, &gateway.admin, "DELETE", "/v1/devices/BR-9", Value::Null).await?;
    server.enroll("BR-9").await?;
    assert_eq!(gateway.subscription("BR-9").await?["event_id"], "evt_1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_was_signed_with_the_secret_within_five_minutes_is_heard() -> Done {
    let server = gateway::server().await?;
    server.enroll("BR-1").await?;
    let gateway = Gateway::of(&server).await?;
    let event = paid(&gateway.owner, "BR-1", "evt_1");
    let raw = event.to_string();
    let spaced = serde_json::to_string_pretty(&event)?;
    let now_s = server.clock.now().as_secs();
    let sign = |at_s: i64| webhook::sign_hex(SECRET.as_bytes(), at_s, raw.as_bytes());
    let (good, at) = (sign(now_s), now_s.to_string());
    let wrong = webhook::sign_hex(b"another secret of sixteen bytes", now_s, raw.as_bytes());
    let (old, early) = (now_s - 301, now_s + 301);
    let of = |at: &str, signature: &str| vec![("x-timestamp", at.to_owned()), ("x-signature", signature.to_owned())];
    let twice = [of(&at, &good), vec![("x-signature", good.clone())]].concat();
    for (what, headers, body, code) in [
        ("no headers", vec![], &raw, "signature_invalid"),
        ("another secret", of(&at, &wrong), &raw, "signature_invalid"),
        ("a re-encoded body", of(&at, &good), &spaced, "signature_invalid"),
        ("upper-case hex", of(&at, &good.to_uppercase()), &raw, "signature_invalid"),
        ("another time than the signed one", of(&(now_s + 1).to_string(), &good), &raw, "signature_invalid"),
        ("a header twice", twice, &raw, "signature_invalid"),
        ("no time", vec![("x-signature", good.clone())], &raw, "signature_invalid"),
        ("a time with a sign", of(&format!("+{at}"), &good), &raw, "signature_invalid"),
        ("301 s ago", of(&old.to_string(), &sign(old)), &raw, "timestamp_out_of_range"),
        ("301 s ahead", of(&early.to_string(), &sign(early)), &raw, "timestamp_out_of_range"),
    ] {
        let answer = gateway.send_raw(&headers, body).await?;
        assert_eq!((answer.status, crate::common::code(&answer).as_str()), (401, code), "{what}");
    }
    assert_eq!(gateway.subscription("BR-1").await?["status"], "trial", "none of it counted");
    for (id, at_s) in [("evt_2", now_s - 299), ("evt_3", now_s + 299)] {
        let raw = paid(&gateway.owner, "BR-1", id).to_string();
        let signature = format!("v1={}", webhook::sign_hex(SECRET.as_bytes(), at_s, raw.as_bytes()));
        assert_eq!(gateway.send_raw(&of(&at_s.to_string(), &signature), &raw).await?.status, 200, "{id}");
    }
    // Standard Webhooks, with the same secret.
    let raw = paid(&gateway.owner, "BR-1", "evt_4").to_string();
    let signature = format!("v1,AAAA {}", webhook::sign_standard(SECRET.as_bytes(), "msg_1", now_s, raw.as_bytes()));
    let standard = |id: &str| {
        vec![("webhook-id", id.to_owned()), ("webhook-timestamp", at.clone()), ("webhook-signature", signature.clone())]
    };
    assert_eq!(gateway.send_raw(&standard("msg_2"), &raw).await?.status, 401);
    assert_eq!(gateway.send_raw(&standard("msg_1"), &raw).await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_genuine_event_that_is_malformed_is_named_and_what_is_new_in_it_is_passed_over() -> Done {
    let server = gateway::server().await?;
    let gateway = Gateway::of(&server).await?;
    let good = paid(&gateway.owner, "BR-1", "evt_1");
    for (member, value, pointer) in [
        ("plan_tier", json!("gold"), "/plan_tier"),
        ("status", json!("paused"), "/status"),
        ("device_id", json!("a b"), "/device_id"),
        ("event_id", json!(""), "/event_id"),
        ("user_id", json!("x".repeat(129)), "/user_id"),
        ("provider", json!(7), "/provider"),
        ("occurred_at", json!("yesterday"), "/occurred_at"),
        ("auto_renew", json!("yes"), "/auto_renew"),
    ] {
        let mut event = good.clone();
        event[member] = value;
        let answer = gateway.send(&event).await?;
        assert_refused(&answer, 422, "invalid_request");
        assert_eq!(body(&answer)["errors"][0]["pointer"], pointer);
    }
    let headers = crate::world::money::signed(&server, SECRET, &json!("{"));
    assert_refused(&gateway.send_raw(&headers, "\"{\"").await?, 422, "invalid_request");
    let mut newer = good.clone();
    newer["since_next_year"] = json!({ "x": 1 });
    assert_eq!(gateway.send(&newer).await?.status, 202);
    // Somebody who sends 50 MB is told so, or cut off while still sending; nothing of it is kept in memory.
    let headers = [("content-type", "application/json")];
    let large = server.client()?.request(Method::POST, gateway::PATH, &headers, vec![b' '; 50 << 20].into()).await;
    assert!(large.is_err() || large.is_ok_and(|answer| answer.status == 413));
    assert_eq!(gateway.send(&paid(&gateway.owner, "BR-1", "evt_2")).await?.status, 202, "nobody else notices");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_secret_nobody_is_heard() -> Done {
    let server = Server::start().await?;
    let gateway = Gateway::of(&server).await?;
    let answer = gateway.send(&paid(&gateway.owner, "BR-1", "evt_1")).await?;
    assert_refused(&answer, 503, "billing_not_configured");
    Ok(())
}

/// What a gateway sends that signs by the library of Standard Webhooks.
const SIGNER: &str = r#"
import sys
from datetime import datetime, timezone
from standardwebhooks.webhooks import Webhook
secret, at, body = sys.stdin.read().split("\n", 2)
print(Webhook(secret).sign("msg_1", datetime.fromtimestamp(int(at), timezone.utc), body), end="")
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_library_of_standard_webhooks_signs_what_we_take() -> Done {
    const SHARED: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let Some(python) = crate::flags::python() else { return Ok(()) };
    let server = Server::start_with(|c| c.billing.webhook_secret = Some(SHARED.into())).await?;
    let gateway = Gateway::of(&server).await?;
    let body = paid(&gateway.owner, "BR-1", "evt_1").to_string();
    let at = server.clock.now().as_secs().to_string();
    let input = format!("{SHARED}\n{at}\n{body}");
    let signature =
        tokio::task::spawn_blocking(move || crate::flags::run_python(&python, SIGNER, &input, &[])).await??;
    let headers = [("webhook-id", "msg_1".to_owned()), ("webhook-timestamp", at), ("webhook-signature", signature)];
    assert_eq!(gateway.send_raw(&headers, &body).await?.status, 202);
    assert_eq!(gateway.send_raw(&headers, &body.replace("paid", "trial")).await?.status, 401);
    Ok(())
}

/// While a secret is being changed both sides know two; a gateway with one of its own speaks for nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_change_without_a_gap_and_a_provider_may_have_its_own() -> Done {
    const NEXT: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const OWN: &str = "only for this one provider";
    let server = Server::start_with(|c| {
        c.billing.webhook_secret = Some(SECRET.into());
        c.billing.webhook_secret_next = Some(NEXT.into());
        c.billing.provider_secrets = vec![("stern".to_owned(), OWN.into())];
    })
    .await?;
    let gateway = Gateway::of(&server).await?;
    let mut event = paid(&gateway.owner, "BR-1", "evt");
    for (i, (secret, provider, status)) in [
        (SECRET, "any", 202),
        (NEXT, "any", 202),
        (OWN, "stern", 202),
        (SECRET, "stern", 401),
        (OWN, "any", 401),
        ("nobody knows this secret", "any", 401),
    ]
    .into_iter()
    .enumerate()
    {
        (event["event_id"], event["provider"]) = (json!(format!("evt_{i}")), json!(provider));
        let headers = crate::world::money::signed(&server, secret, &event);
        assert_eq!(gateway.send_raw(&headers, &event.to_string()).await?.status, status, "{secret} for {provider}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_genuine_event_from_elsewhere_is_refused() -> Done {
    let server = Server::start_with(|c| {
        c.billing.webhook_secret = Some(SECRET.into());
        c.billing.webhook_allow = "192.0.2.0/24".parse().into_iter().collect();
    })
    .await?;
    let gateway = Gateway::of(&server).await?;
    let event = paid(&gateway.owner, "BR-1", "evt_1");
    assert_refused(&gateway.send(&event).await?, 403, "address_not_allowed");
    assert_eq!(gateway.send_raw(&[], &event.to_string()).await?.status, 401, "who cannot sign learns nothing of it");
    Ok(())
}

/// Two companies may call a device by the same name; each pays for its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_reaches_the_device_of_who_pays_and_no_other() -> Done {
    let server = gateway::server().await?;
    server.enroll("BR-1").await?;
    let gateway = Gateway::of(&server).await?;
    let tenant = crate::common::second_tenant(&server).await?;
    let login = crate::common::add_user(&server, tenant, "neighbour", "admin").await?;
    let token = text(&login, "access_token");
    let ticket = crate::common::enrollment_token(&server, tenant, None).await?;
    server.client()?.post("/v1/auth/device", None, &enrollment("BR-1", Some(&ticket))).await?.success()?;
    gateway.send(&paid(&text(&login["user"], "id"), "BR-1", "evt_1")).await?.success()?;
    assert_eq!(gateway.subscription("BR-1").await?["status"], "trial");
    let theirs = done(&server, &token, "GET", "/v1/billing/subscription?device_id=BR-1", Value::Null).await?;
    assert_eq!(theirs["status"], "active");
    assert_eq!(gateway.events("").await?.len(), 0, "what others pay is nobody's business");
    assert_eq!(ask(&server, &token, "GET", "/v1/billing/events?waiting=true", Value::Null).await?.status, 403);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_plan_counts_at_the_next_request_of_everyone_on_it() -> Done {
    let folder = blockremote::testkit::Folder::new()?;
    let file = folder.path().join("plans.toml");
    std::fs::write(&file, "[trial]\nheartbeats_per_minute = 7\n")?;
    let path = file.clone();
    let server = Server::start_with(move |c| c.billing.plans = Some(path)).await?;
    let mut phone = server.enroll("BR-1").await?;
    let beat = phone.beat(&phone.calm()).await?;
    assert_eq!(header(&beat, "x-ratelimit-limit"), "7");
    std::fs::write(&file, "[trial]\nheartbeats_per_minute = 9\nprice_cents = 1\n")?;
    server.app().services.billing.reload_plans()?;
    let beat = phone.beat(&phone.calm()).await?;
    assert_eq!(header(&beat, "x-ratelimit-limit"), "9");
    std::fs::write(&file, "[trial]\nheartbeats = 9\n")?;
    assert!(server.app().services.billing.reload_plans().is_err(), "a slip in the file changes nothing");
    let plans: Value = server.client()?.get("/v1/plans", None).await?.json()?;
    let codes: Vec<String> = plans["data"].as_array().into_iter().flatten().map(|p| text(p, "code")).collect();
    assert_eq!(codes, PlanTier::ALL.map(|t| t.name().to_owned()));
    let trial = &plans["data"][0];
    assert_eq!(
        (&trial["heartbeats_per_minute"], &trial["trial_days"], &trial["price_cents"]),
        (&json!(9), &json!(7), &json!(1))
    );
    Ok(())
}

/// Whoever sends ten thousand repeats in any order finds the same state; here through the real door, with fewer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_repeats_from_many_sides_ends_in_one_state() -> Done {
    let server = gateway::server().await?;
    server.enroll("BR-1").await?;
    let gateway = Gateway::of(&server).await?;
    let start = server.clock.now();
    let event = |i: u32| {
        let mut event = paid(&gateway.owner, "BR-1", &format!("evt_{i:02}"));
        event["occurred_at"] = json!(start.plus(DAY * (i % 5)).to_string());
        event["status"] = json!(if i.is_multiple_of(2) { "active" } else { "past_due" });
        event
    };
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..8_u64 {
        let mut client = server.client()?;
        let events: Vec<Value> = (0..20).map(event).collect();
        let signed: Vec<_> = events.iter().map(|e| crate::world::money::signed(&server, SECRET, e)).collect();
        senders.spawn(async move {
            let random = Random::seeded(sender);
            for _ in 0..40 {
                let i = usize::try_from(random.u64() % 20)?;
                let headers: Vec<(&str, &str)> = signed[i].iter().map(|(n, v)| (*n, v.as_str())).collect();
                let answer =
                    crate::common::send(&mut client, Method::POST, gateway::PATH, &headers, &events[i]).await?;
                assert_eq!(answer.status, 200);
            }
            Ok::<_, Fault>(())
        });
    }
    while let Some(sent) = senders.join_next().await {
        sent??;
    }
    for i in 0..20 {
        gateway.send(&event(i)).await?.success()?;
    }
    assert_eq!(gateway.subscription("BR-1").await?["event_id"], "evt_19", "the latest of the last day");
    let tenant = first_tenant(&server).await?;
    let (events, more) = server.app().services.billing.events(Some(tenant), None, 200).await?;
    assert_eq!((events.len(), more), (20, None), "each is kept once");
    Ok(())
}
