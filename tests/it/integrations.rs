//! Other systems are told of what happens: once it is durable, at least once, in order, signed, and nobody but those who
//! were named.

mod kinds;
pub mod receiver;
mod rules;

use std::time::Duration;

use blockremote::config::Config;
use blockremote::testkit::{Fault, Server, eventually, text};
use serde_json::{Value, json};

use crate::common::{Done, add_user, enrollment, enrollment_token, second_tenant};
use crate::flags::{python, run_python};
use crate::people::done;
use crate::world::hooks::{integration, webhook};
use receiver::{Receiver, status};

/// Receivers of these tests are on this machine, and waited for no longer than a second.
fn on_loopback(config: &mut Config) {
    config.integrations.allow_addresses = ["127.0.0.0/8", "::1"].iter().filter_map(|n| n.parse().ok()).collect();
    config.integrations.timeout = Duration::from_secs(1);
}

async fn start() -> Result<(Server, String), Fault> {
    let server = Server::start_with(on_loopback).await?;
    let admin = server.admin_token().await?;
    for device in ["BR-1", "BR-2"] {
        server.enroll(device).await?;
    }
    Ok((server, admin))
}

async fn block(server: &Server, admin: &str, device: &str) -> Done {
    let lock = json!({ "action": "LOCK_SYSTEM", "reason": "a test" });
    done(server, admin, "POST", &format!("/v1/devices/{device}/commands"), lock).await?;
    Ok(())
}

async fn unblock(server: &Server, admin: &str, device: &str) -> Done {
    done(server, admin, "POST", &format!("/v1/devices/{device}/unblock"), json!({ "reason": "a test" })).await?;
    Ok(())
}

async fn deliveries(server: &Server, admin: &str, id: &str, query: &str) -> Result<Vec<Value>, Fault> {
    let path = format!("/v1/integrations/{id}/deliveries{query}");
    let list = done(server, admin, "GET", &path, Value::Null).await?;
    Ok(list["data"].as_array().cloned().unwrap_or_default())
}

/// Waits until the newest delivery stands like this.
async fn stands(server: &Server, admin: &str, id: &str, state: &str, attempts: u64) -> Result<Value, Fault> {
    let mut last = Value::Null;
    for _ in 0..300 {
        last = deliveries(server, admin, id, "").await?.first().cloned().unwrap_or_default();
        if last["state"] == state && last["attempts"] == attempts {
            return Ok(last);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(format!("it does not become {state} after {attempts}: {last}").into())
}

fn pair(event: &str, device: &str) -> (String, String) {
    (event.to_owned(), device.to_owned())
}

/// What the library of Standard Webhooks says of each message: the type of the event, or why it refuses.
const LIBRARY: &str = r#"
import base64, json, sys
from standardwebhooks.webhooks import Webhook
out = []
for case in json.load(sys.stdin):
    try:
        out.append(Webhook(case["secret"]).verify(base64.b64decode(case["body"]), case["headers"])["type"])
    except Exception as e:
        out.append("refused: " + type(e).__name__)
print(json.dumps(out))
"#;

/// The library judges times by the machine's clock, at which the server of a test starts, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_library_takes_what_we_sign_also_while_the_secret_changes() -> Done {
    use base64ct::{Base64, Encoding};
    let Some(python) = python() else { return Ok(()) };
    let (server, admin) = start().await?;
    let receiver = Receiver::start().await?;
    let (id, first) = integration(&server, &admin, webhook("a", &receiver.url(), &["device.*"])).await?;
    assert!(first.starts_with("whsec_"));
    block(&server, &admin, "BR-1").await?;
    receiver.wait(1).await?;
    let rotate = format!("/v1/integrations/{id}/rotate");
    let rotated = done(&server, &admin, "POST", &rotate, json!({ "overlap_s": 60 })).await?;
    let second = text(&rotated, "secret");
    assert_ne!(first, second);
    unblock(&server, &admin, "BR-1").await?;
    receiver.wait(2).await?;
    server.clock.advance(Duration::from_secs(61));
    block(&server, &admin, "BR-2").await?;
    let got = receiver.wait(3).await?;
    let case = |index: usize, secret: &str| {
        let got = &got[index];
        let mut headers = serde_json::Map::new();
        for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
            headers.insert(name.to_owned(), got.header(name).into());
        }
        json!({ "secret": secret, "body": Base64::encode_string(&got.body), "headers": headers })
    };
    let mut altered = case(0, &first);
    altered["body"] = Base64::encode_string(&[got[0].body.as_slice(), b" "].concat()).into();
    let cases = [
        (case(0, &first), "device.blocked"),
        (case(0, &second), "refused: WebhookVerificationError"),
        (altered, "refused: WebhookVerificationError"),
        (case(1, &first), "device.unblocked"),
        (case(1, &second), "device.unblocked"),
        (case(2, &first), "refused: WebhookVerificationError"),
        (case(2, &second), "device.blocked"),
    ];
    let input = Value::from(cases.iter().map(|(case, _)| case.clone()).collect::<Vec<_>>()).to_string();
    let said = tokio::task::spawn_blocking(move || run_python(&python, LIBRARY, &input, &[])).await??;
    let expected: Vec<&str> = cases.iter().map(|(_, expected)| *expected).collect();
    assert_eq!(serde_json::from_str::<Vec<String>>(&said)?, expected);
    Ok(())
}

/// The receiver must never hear "released" before "blocked"; and one device's trouble is not another's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_one_device_come_in_order_and_hold_up_no_other() -> Done {
    let (server, admin) = start().await?;
    let receiver = Receiver::start().await?;
    let (id, _) = integration(&server, &admin, webhook("a", &receiver.url(), &["device.*"])).await?;
    receiver.answers(|got| status(if got.event().1 == "BR-1" { 422 } else { 200 }));
    block(&server, &admin, "BR-1").await?;
    receiver.wait(1).await?;
    unblock(&server, &admin, "BR-1").await?;
    block(&server, &admin, "BR-2").await?;
    receiver.wait(2).await?;
    stands(&server, &admin, &id, "delivered", 1).await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let blocked = pair("device.blocked", "BR-1");
    assert_eq!(receiver.events(), [blocked.clone(), pair("device.blocked", "BR-2")]);
    receiver.answers(|_| status(200));
    server.clock.advance(Duration::from_secs(7));
    let got = receiver.wait(4).await?;
    let events = receiver.events();
    assert_eq!(events[2..], [blocked, pair("device.unblocked", "BR-1")]);
    assert_eq!(got[0].header("webhook-id"), got[2].header("webhook-id"), "a repeat is known by its id");
    assert_eq!(got[0].body, got[2].body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_gone_is_left_alone_until_somebody_says_otherwise() -> Done {
    let (server, admin) = start().await?;
    let receiver = Receiver::start().await?;
    let (id, _) = integration(&server, &admin, webhook("a", &receiver.url(), &["*"])).await?;
    receiver.answers(|_| status(410));
    block(&server, &admin, "BR-1").await?;
    stands(&server, &admin, &id, "dead", 1).await?;
    let view = done(&server, &admin, "GET", &format!("/v1/integrations/{id}"), Value::Null).await?;
    assert_eq!(view["enabled"], false, "{view}");
    assert!(text(&view, "disabled_reason").contains("410"), "{view}");
    let log = done(&server, &admin, "GET", "/v1/audit/logs", Value::Null).await?;
    let off = log["data"].as_array().and_then(|all| all.iter().find(|e| e["action_taken"] == "integration_disabled"));
    assert!(off.is_some_and(|e| e["source"] == "system"), "{log}");
    block(&server, &admin, "BR-2").await?;
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(receiver.got().len(), 1, "nothing more was sent");
    receiver.answers(|_| status(200));
    done(&server, &admin, "PATCH", &format!("/v1/integrations/{id}"), json!({ "enabled": true })).await?;
    unblock(&server, &admin, "BR-2").await?;
    receiver.wait(2).await?;
    assert_eq!(receiver.events()[1], pair("device.unblocked", "BR-2"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_delivered_before_a_restart_is_delivered_after_it() -> Done {
    let (mut server, admin) = start().await?;
    let receiver = Receiver::start().await?;
    let (id, _) = integration(&server, &admin, webhook("a", &receiver.url(), &["device.*"])).await?;
    // It hangs: the attempt is under way when the appliance stops.
    receiver.answers(|_| Vec::new());
    block(&server, &admin, "BR-1").await?;
    let first = receiver.wait(1).await?[0].header("webhook-id");
    receiver.answers(|_| status(200));
    server.restart().await?;
    server.clock.advance(Duration::from_secs(10));
    let got = receiver.wait(2).await?;
    assert_eq!(got[1].header("webhook-id"), first);
    let admin = server.admin_token().await?;
    stands(&server, &admin, &id, "delivered", 1).await?;
    unblock(&server, &admin, "BR-1").await?;
    receiver.wait(3).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_three_days_it_is_a_dead_letter_that_can_be_sent_again() -> Done {
    let (server, _) = start().await?;
    let receiver = Receiver::start().await?;
    let admin = server.admin_token().await?;
    let (id, _) = integration(&server, &admin, webhook("a", &receiver.url(), &["device.*"])).await?;
    receiver.answers(|_| status(503));
    block(&server, &admin, "BR-1").await?;
    let waiting = stands(&server, &admin, &id, "pending", 1).await?;
    assert_eq!((&waiting["log"][0]["status"], waiting["next_at"].is_string()), (&json!(503), true), "{waiting}");
    server.clock.advance(Duration::from_secs(3 * 86_400));
    let admin = server.admin_token().await?;
    let dead = stands(&server, &admin, &id, "dead", 2).await?;
    assert_eq!(dead["next_at"], Value::Null);
    assert_eq!(deliveries(&server, &admin, &id, "?state=dead").await?.len(), 1);
    assert_eq!(deliveries(&server, &admin, &id, "?state=pending").await?.len(), 0);
    receiver.answers(|_| status(200));
    let replay = format!("/v1/integrations/{id}/replay");
    let said = done(&server, &admin, "POST", &replay, json!({ "dead": true })).await?;
    assert_eq!((&said["queued"], &said["next_seq"]), (&json!(1), &Value::Null));
    let delivered = stands(&server, &admin, &id, "delivered", 1).await?;
    assert_eq!((&delivered["replays"], &delivered["id"]), (&json!(1), &dead["id"]));
    let got = receiver.wait(3).await?;
    assert!(got.iter().all(|one| one.header("webhook-id") == got[0].header("webhook-id")));
    Ok(())
}

/// By numbers and by times; only what is subscribed to; what still waits is not queued twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_of_the_log_can_be_sent_again() -> Done {
    let (server, admin) = start().await?;
    let receiver = Receiver::start().await?;
    let begun = server.clock.now();
    for _ in 0..3 {
        server.clock.advance(Duration::from_secs(10));
        block(&server, &admin, "BR-1").await?;
        unblock(&server, &admin, "BR-1").await?;
    }
    let (id, _) = integration(&server, &admin, webhook("a", &receiver.url(), &["device.unblocked"])).await?;
    let replay = format!("/v1/integrations/{id}/replay");
    let said = done(&server, &admin, "POST", &replay, json!({ "from_seq": 0, "to_seq": 100_000 })).await?;
    assert_eq!(said["queued"], 3, "what happened before it was made");
    receiver.wait(3).await?;
    let (from, to) = (begun.plus(Duration::from_secs(15)), begun.plus(Duration::from_secs(25)));
    let range = json!({ "from": from.to_string(), "to": to.to_string() });
    stands(&server, &admin, &id, "delivered", 1).await?;
    let said = done(&server, &admin, "POST", &replay, range).await?;
    assert_eq!(said["queued"], 1);
    let got = receiver.wait(4).await?;
    assert_eq!(got[3].header("webhook-id"), got[1].header("webhook-id"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_receiver_holds_up_nobody_but_itself() -> Done {
    // Longer than the test has patience: whoever waits for the dead is not done in time.
    let server = Server::start_with(|c| {
        on_loopback(c);
        c.integrations.timeout = Duration::from_secs(60);
    })
    .await?;
    let admin = server.admin_token().await?;
    server.enroll("BR-1").await?;
    let (dead, alive) = (Receiver::start().await?, Receiver::start().await?);
    dead.answers(|_| Vec::new());
    for n in 0..20 {
        integration(&server, &admin, webhook(&format!("dead {n}"), &dead.url(), &["*"])).await?;
    }
    integration(&server, &admin, webhook("alive", &alive.url(), &["device.*"])).await?;
    for _ in 0..5 {
        block(&server, &admin, "BR-1").await?;
        unblock(&server, &admin, "BR-1").await?;
    }
    alive.wait(10).await?;
    assert_eq!(dead.got().len(), 20, "each of the dead holds one event, and no more");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_company_hears_of_itself_alone() -> Done {
    let (server, admin) = start().await?;
    let neighbour = second_tenant(&server).await?;
    let theirs = text(&add_user(&server, neighbour, "neighbour", "admin").await?, "access_token");
    let ticket = enrollment_token(&server, neighbour, None).await?;
    server.client()?.post("/v1/auth/device", None, &enrollment("BR-1", Some(&ticket))).await?.success()?;
    let (ours, others) = (Receiver::start().await?, Receiver::start().await?);
    integration(&server, &admin, webhook("a", &ours.url(), &["*"])).await?;
    integration(&server, &theirs, webhook("a", &others.url(), &["*"])).await?;
    block(&server, &theirs, "BR-1").await?;
    block(&server, &admin, "BR-2").await?;
    ours.wait(1).await?;
    others.wait(1).await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(ours.events(), [pair("device.blocked", "BR-2")]);
    assert_eq!(others.events(), [pair("device.blocked", "BR-1")]);
    assert_eq!(others.got()[0].json()["data"]["tenant"], neighbour.to_string());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_integration_leaves_nothing_behind() -> Done {
    let (server, admin) = start().await?;
    let receiver = Receiver::start().await?;
    let (id, _) = integration(&server, &admin, webhook("a", &receiver.url(), &["*"])).await?;
    receiver.answers(|_| status(500));
    block(&server, &admin, "BR-1").await?;
    receiver.wait(1).await?;
    done(&server, &admin, "DELETE", &format!("/v1/integrations/{id}"), Value::Null).await?;
    let rows = || {
        use blockremote::store::tables::{DELIVERIES, DELIVERIES_DUE, INTEGRATION_COUNTS, INTEGRATIONS, OUTBOX};
        let snapshot = server.app().services.store.read()?;
        let mut rows = 0;
        for table in [DELIVERIES, DELIVERIES_DUE, INTEGRATION_COUNTS, INTEGRATIONS, OUTBOX] {
            snapshot.visit(table, &[], None, |_, _| {
                rows += 1;
                Ok(true)
            })?;
        }
        Ok::<usize, Fault>(rows)
    };
    assert!(eventually(|| rows().is_ok_and(|n| n == 0)).await, "{} rows are left", rows()?);
    // Without an integration nothing goes into the outbox at all.
    block(&server, &admin, "BR-2").await?;
    assert_eq!(rows()?, 0);
    assert_eq!(server.app().services.integrations.figures().backlog, 0);
    Ok(())
}
