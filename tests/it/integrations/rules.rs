//! What is refused, what is never shown, what is counted.

use std::time::Duration;

use blockremote::testkit::{Server, eventually, text};
use serde_json::{Value, json};

use super::receiver::{Receiver, status};
use super::{block, deliveries, stands, start};
use crate::common::{Done, code, first_tenant, send};
use crate::people::{ask, done};
use crate::world::hooks::{integration, webhook};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_work_is_refused_with_its_place() -> Done {
    let (server, admin) = start().await?;
    let mail = json!({ "name": "m", "kind": "email", "events": ["*"], "host": "mail.example", "port": 25,
                       "from": "a@example.org", "to": ["b@example.org"] });
    let with = |change: &dyn Fn(&mut Value)| {
        let mut body = mail.clone();
        change(&mut body);
        body
    };
    for (body, pointer) in [
        (json!({ "name": "", "kind": "webhook", "events": ["*"], "url": "https://a.example/" }), "/name"),
        (webhook("a", "https://a.example/", &[]), "/events"),
        (webhook("a", "https://a.example/", &["device.exploded"]), "/events/0"),
        (webhook("a", "https://a.example/", &["dev*"]), "/events/0"),
        (webhook("a", "ftp://a.example/", &["*"]), "/url"),
        (webhook("a", "file:///etc/passwd", &["*"]), "/url"),
        (webhook("a", "https://user:pass@a.example/", &["*"]), "/url"),
        (webhook("a", "https://a.example/\r\nx-evil: 1", &["*"]), "/url"),
        (json!({ "name": "a", "kind": "webhook", "events": ["*"] }), "/url"),
        (json!({ "name": "a", "kind": "slack", "events": ["*"], "url": "http://hooks.example/" }), "/url"),
        (json!({ "name": "a", "kind": "webhook", "events": ["*"], "url": "https://a.example/", "host": "b" }), "/host"),
        (json!({ "name": "a", "kind": "syslog", "events": ["*"], "host": "a.example" }), "/port"),
        (json!({ "name": "a", "kind": "syslog", "events": ["*"], "host": "a b", "port": 514 }), "/host"),
        (
            json!({ "name": "a", "kind": "syslog", "events": ["*"], "host": "a", "port": 514, "tls": "starttls" }),
            "/tls",
        ),
        (with(&|m| m["from"] = "a@example.org\r\nBcc: c@example.org".into()), "/from"),
        (with(&|m| m["to"] = json!(["b@example.org", "not an address"])), "/to/1"),
        (with(&|m| m["to"] = json!([])), "/to"),
        (with(&|m| m["username"] = "u".into()), "/password"),
        (with(&|m| (m["username"], m["password"], m["tls"]) = ("u".into(), "p".into(), "none".into())), "/tls"),
        (with(&|m| m["password"] = "p\r\nRSET".into()), "/password"),
        (with(&|m| m["colour"] = "red".into()), "/colour"),
    ] {
        let answer = ask(&server, &admin, "POST", "/v1/integrations", body.clone()).await?;
        let problem: Value = serde_json::from_slice(&answer.body)?;
        assert_eq!(answer.status, 422, "{body}: {problem}");
        let named = problem["errors"].as_array().is_some_and(|all| all.iter().any(|e| e["pointer"] == pointer));
        assert!(named, "{pointer} in {problem}");
    }
    let (id, _) = integration(&server, &admin, webhook("a", "https://a.example/", &["*"])).await?;
    for body in [json!({ "host": "b.example" }), json!({ "url": "nothing" }), json!({ "kind": "slack" })] {
        let answer = ask(&server, &admin, "PATCH", &format!("/v1/integrations/{id}"), body.clone()).await?;
        assert_eq!(answer.status, 422, "{body}");
    }
    for body in [json!({}), json!({ "from_seq": 5, "to_seq": 1 }), json!({ "from_seq": 1, "dead": true })] {
        let answer = ask(&server, &admin, "POST", &format!("/v1/integrations/{id}/replay"), body.clone()).await?;
        assert_eq!(answer.status, 422, "{body}");
    }
    let again = ask(&server, &admin, "POST", "/v1/integrations", webhook("a", "https://b.example/", &["*"])).await?;
    assert_eq!((again.status, code(&again).as_str()), (409, "name_taken"));
    Ok(())
}

/// An integration must not become a way into the appliance, or to what its machine can reach and others cannot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_leave_nothing_leads_to_the_appliance_or_to_metadata() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let inner = server.app().addresses.internal.port();
    for (n, host) in [
        format!("127.0.0.1:{inner}"),
        format!("localhost:{inner}"),
        format!("[::ffff:127.0.0.1]:{inner}"),
        format!("0.0.0.0:{inner}"),
        format!("2130706433:{inner}"),
        "169.254.169.254".to_owned(),
        "[fe80::1]".to_owned(),
        "[64:ff9b::a9fe:a9fe]".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        let body = webhook(&n.to_string(), &format!("http://{host}/metrics"), &["*"]);
        let (id, _) = integration(&server, &admin, body).await?;
        let tried = done(&server, &admin, "POST", &format!("/v1/integrations/{id}/test"), Value::Null).await?;
        assert_eq!(
            (&tried["delivered"], &tried["attempt"]["status"]),
            (&json!(false), &Value::Null),
            "{host}: {tried}"
        );
        assert!(text(&tried["attempt"], "answer").contains("address"), "{host}: {tried}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_receivers_are_judged_and_bounded() -> Done {
    let (server, admin) = start().await?;
    let receiver = Receiver::start().await?;
    let (id, _) = integration(&server, &admin, webhook("a", &receiver.url(), &["device.*"])).await?;
    let test = format!("/v1/integrations/{id}/test");
    let bait = "HTTP/1.1 307 Look There\r\nlocation: http://169.254.169.254/latest/\r\ncontent-length: 0\r\n\r\n";
    let huge = format!("HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n{}", "x".repeat(9_000_000));
    let odd = "HTTP/1.1 400 Bad\r\ncontent-length: 17\r\n\r\nno\r\n\u{1b}[31m\u{7f} thanks";
    for (answer, delivered, code, said) in [
        (status(200), true, json!(200), ""),
        (bait.into(), false, json!(307), "it redirects"),
        (huge.into_bytes(), true, json!(200), "xxxx"),
        (odd.into(), false, json!(400), "no   [31m  thanks"),
        (b"SSH-2.0-OpenSSH\r\n\r\n".to_vec(), false, Value::Null, "no answer"),
        (Vec::new(), false, Value::Null, "it took longer than 1000 ms"),
    ] {
        receiver.answers(move |_| answer.clone());
        let tried = done(&server, &admin, "POST", &test, Value::Null).await?;
        assert_eq!((&tried["delivered"], &tried["attempt"]["status"]), (&json!(delivered), &code), "{tried}");
        let kept = text(&tried["attempt"], "answer");
        assert!(kept.starts_with(said) && kept.len() <= 256, "{kept:?}");
    }
    let all = deliveries(&server, &admin, &id, "").await?;
    assert!(all.len() == 6 && all.iter().all(|d| d["event"] == "integration.test"), "{all:?}");

    // Asked for patience, within reason.
    receiver.answers(|_| b"HTTP/1.1 429 Later\r\nretry-after: 120\r\ncontent-length: 0\r\n\r\n".to_vec());
    block(&server, &admin, "BR-1").await?;
    stands(&server, &admin, &id, "pending", 1).await?;
    let before = receiver.got().len();
    receiver.answers(|_| status(200));
    server.clock.advance(Duration::from_secs(119));
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(receiver.got().len(), before, "it asked for two minutes");
    server.clock.advance(Duration::from_secs(1));
    receiver.wait(before + 1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_shown_once_and_stands_nowhere_in_clear() -> Done {
    let (mut server, admin) = start().await?;
    let receiver = Receiver::start().await?;
    let url = format!("{}?token=credential-in-url", receiver.url());
    let bearer = format!("Bearer {admin}");
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "once")];
    let body = webhook("a", &url, &["device.*"]);
    let (mut client, mut answers) = (server.client()?, Vec::new());
    for _ in 0..2 {
        let answer = send(&mut client, "POST".parse()?, "/v1/integrations", &headers, &body).await?;
        answers.push(answer.json::<Value>()?);
    }
    let (id, secret) = (text(&answers[0], "id"), text(&answers[0], "secret"));
    assert!(secret.starts_with("whsec_"));
    assert_eq!((text(&answers[1], "id"), &answers[1]["secret"]), (id.clone(), &Value::Null), "a repeat makes nothing");
    receiver.answers(|_| status(500));
    block(&server, &admin, "BR-1").await?;
    stands(&server, &admin, &id, "pending", 1).await?;
    let mut shown = String::new();
    for path in [
        "/v1/integrations",
        &format!("/v1/integrations/{id}"),
        &format!("/v1/integrations/{id}/deliveries"),
        "/v1/audit/logs",
    ] {
        shown.push_str(&done(&server, &admin, "GET", path, Value::Null).await?.to_string());
    }
    server.stop().await;
    let file = std::fs::read(&server.config().paths.data)?;
    for hidden in [secret.as_str(), "credential-in-url"] {
        assert!(!shown.contains(hidden), "{hidden} is shown");
        let in_file = file.windows(hidden.len()).any(|window| window == hidden.as_bytes());
        assert!(!in_file, "{hidden} lies in the data file");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reached_limit_is_an_event_once_an_hour() -> Done {
    let (server, admin) = start().await?;
    let receiver = Receiver::start().await?;
    integration(&server, &admin, webhook("a", &receiver.url(), &["quota.exceeded"])).await?;
    let tenant = first_tenant(&server).await?;
    let overrides = json!({ "quotas": { "integrations": 1, "teams": 0 } });
    done(&server, &admin, "PUT", &format!("/v1/tenants/{tenant}/entitlements"), overrides).await?;
    let refused = async || -> Done {
        for _ in 0..3 {
            let more = ask(&server, &admin, "POST", "/v1/integrations", webhook("b", &receiver.url(), &["*"])).await?;
            assert_eq!((more.status, code(&more).as_str()), (403, "quota_exceeded"));
        }
        Ok(())
    };
    refused().await?;
    let got = receiver.wait(1).await?;
    assert_eq!(got[0].event().0, "quota.exceeded");
    assert!(text(&got[0].json()["data"], "reason").starts_with("integrations: 1 of 1"), "{:?}", got[0].json());
    assert_eq!(ask(&server, &admin, "POST", "/v1/teams", json!({ "name": "t" })).await?.status, 403);
    receiver.wait(2).await?;
    server.clock.advance(Duration::from_secs(3_599));
    let admin_again = server.admin_token().await?;
    assert_ne!(admin_again, "");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(receiver.got().len(), 2, "each limit once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_delivered_is_counted_and_what_waits_is_seen() -> Done {
    let (server, admin) = start().await?;
    let receiver = Receiver::start().await?;
    let (id, _) = integration(&server, &admin, webhook("a", &receiver.url(), &["device.*"])).await?;
    receiver.answers(|got| status(if got.event().1 == "BR-1" { 500 } else { 200 }));
    block(&server, &admin, "BR-2").await?;
    stands(&server, &admin, &id, "delivered", 1).await?;
    block(&server, &admin, "BR-1").await?;
    stands(&server, &admin, &id, "pending", 1).await?;
    server.clock.advance(Duration::from_secs(2));
    let internal = server.app().addresses.internal;
    let scrape = || async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(internal).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok::<_, blockremote::testkit::Fault>(text)
    };
    let metrics = scrape().await?;
    for line in [
        "blockremote_integration_deliveries_total{kind=\"webhook\",result=\"delivered\"} 1",
        "blockremote_integration_deliveries_total{kind=\"webhook\",result=\"failed\"} 1",
        "blockremote_integration_backlog_events 1",
        "blockremote_integration_oldest_seconds 2",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    let usage = done(&server, &admin, "GET", "/v1/usage", Value::Null).await?;
    let counted = usage["data"].as_array().and_then(|d| d.last()).map(|d| d["webhook_deliveries"].clone());
    assert_eq!(counted, Some(json!(1)), "{usage}");
    assert!(eventually(|| receiver.got().len() >= 2).await);
    Ok(())
}
