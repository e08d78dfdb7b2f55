//! What is served when the machine runs short: of time to score, of memory, of disk; and that it comes back by itself.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use blockremote::client::socket::Event;
use blockremote::testkit::{Device, Server, text};
use hyper::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{body, code, first_tenant, header, send};

const MIB: u64 = 1 << 20;

/// The answer of the probe on the public listener: its status, and the parts that it names.
async fn ready(server: &Server) -> (u16, String, Value) {
    let answer = server.client().unwrap().get("/health/ready", None).await.unwrap();
    let said = body(&answer);
    let names = if said["parts"].is_array() { said["parts"].clone() } else { said["part"].clone() };
    (answer.status, text(&said, "status"), names)
}

/// Waits until the probe names this, or nothing.
async fn until_ready_says(server: &Server, status: u16, names: Value) {
    let mut last = ready(server).await;
    for _ in 0..300 {
        if (last.0, &last.2) == (status, &names) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        last = ready(server).await;
    }
    assert_eq!((last.0, &last.2), (status, &names), "{last:?}");
}

async fn metric(server: &Server, line: &str) -> bool {
    let mut stream = tokio::net::TcpStream::connect(server.app().addresses.internal).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.lines().any(|l| l == line)
}

/// How often the log of the first company holds this action.
async fn logged(server: &Server, action: &str) -> usize {
    let tenant = first_tenant(server).await.unwrap();
    let page = server.app().services.audit.list(tenant, None, None, 200).await.unwrap();
    page.entries.iter().filter(|e| serde_json::to_value(e.action_taken).unwrap() == action).count()
}

async fn beat(phone: &mut Device) -> (u16, String) {
    let answer = phone.beat(&phone.calm()).await.unwrap();
    (answer.status, text(&body(&answer), "engine"))
}

/// A device that is judged by the hard rules alone says so in every answer; health, metrics and log say so, too, and the
/// log only twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breaker_on_scoring_is_seen_everywhere_and_closes_by_itself() {
    // Nothing is scored within a nanosecond: each second of scoring is too slow, until the bound is lifted.
    let mut server = Server::start_with(|config| {
        config.machine.breaker.mean = Duration::ZERO;
        config.machine.breaker.open = Duration::from_secs(5);
    })
    .await
    .unwrap();
    let mut phone = server.enroll("BR-1").await.unwrap();
    for n in 0..34 {
        let (status, engine) = beat(&mut phone).await;
        assert_eq!((status, engine.as_str()), (200, "full"), "{n}");
    }
    server.clock.advance(Duration::from_secs(1));
    for n in 0..3 {
        let (status, engine) = beat(&mut phone).await;
        assert_eq!((status, engine.as_str()), (200, "simplified"), "{n}");
    }
    until_ready_says(&server, 200, json!(["scoring"])).await;
    assert!(metric(&server, "blockremote_degraded{part=\"scoring\"} 1").await);
    assert_eq!(logged(&server, "scoring_degraded").await, 1, "one entry, not one for each heartbeat");
    let token = server.admin_token().await.unwrap();
    let path = "/v1/security/trust-score?device_id=BR-1";
    let seen = server.client().unwrap().get(path, Some(&token)).await.unwrap();
    assert_eq!(text(&body(&seen), "engine"), "simplified");

    server.clock.advance(Duration::from_secs(5));
    let mut full = 0;
    for _ in 0..130 {
        let (status, engine) = beat(&mut phone).await;
        assert_eq!(status, 200);
        full += usize::from(engine == "full");
        // The plan of a trial allows two a second.
        server.clock.advance(Duration::from_millis(700));
    }
    assert!(full >= 16, "probes are judged in full: {full}");
    until_ready_says(&server, 200, Value::Null).await;
    assert_eq!(logged(&server, "scoring_recovered").await, 1);
    server.stop().await;
}

/// Short of memory the lists go first, then people, and last of all the devices; probes are answered to the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_of_memory_devices_are_served_last_to_go_and_everything_comes_back() {
    let server = Server::start_with(|config| config.machine.memory.limit_bytes = 100 * MIB).await.unwrap();
    let mut phone = server.enroll("BR-1").await.unwrap();
    let token = server.admin_token().await.unwrap();
    let mut socket = phone.socket().await.unwrap();
    assert!(matches!(socket.next().await, Event::Frame(_)));
    for (used, degree, health, names, list, person, device) in [
        (79, 0, 200, Value::Null, 200, 200, 200),
        (85, 1, 200, json!(["memory"]), 503, 200, 200),
        (92, 2, 200, json!(["memory"]), 503, 503, 200),
        (99, 3, 503, json!("memory"), 503, 503, 503),
        (10, 0, 200, Value::Null, 200, 200, 200),
    ] {
        server.machine.set_memory_bytes(used * MIB);
        let mut seen = false;
        for _ in 0..300 {
            seen = metric(&server, &format!("blockremote_degraded{{part=\"memory\"}} {degree}")).await;
            if seen {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(seen, "the metric says {degree} at {used} %");
        until_ready_says(&server, health, names).await;
        let mut client = server.client().unwrap();
        let listed = client.get("/v1/devices", Some(&token)).await.unwrap();
        assert_eq!(listed.status, list, "a list at {used} %");
        assert_eq!(client.get("/openapi.json", None).await.unwrap().status, list, "a document at {used} %");
        assert_eq!(client.get("/v1/status", None).await.unwrap().status, person, "an anonymous caller at {used} %");
        assert_eq!(beat(&mut phone).await.0, device, "a heartbeat at {used} %");
        assert_eq!(phone.socket().await.is_ok(), device == 200, "a new socket at {used} %");
        if list == 503 {
            assert_eq!((code(&listed).as_str(), header(&listed, "retry-after")), ("overloaded", "5"));
        }
    }
}

/// A nearly full disk: what locks devices and lets in who can help goes on, the rest is refused, nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nearly_full_disk_makes_it_read_only_and_a_full_one_stops_heartbeats() {
    let server = Server::start_with(|config| config.machine.disk.ballast_bytes = MIB).await.unwrap();
    let ballast = server.folder().join("data/blockremote.ballast");
    let mut phone = server.enroll("BR-1").await.unwrap();
    until_ready_says(&server, 200, Value::Null).await;
    for _ in 0..300 {
        if ballast.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(ballast.exists());
    for (free, health, names, change, heartbeat) in [
        (511, 200, json!(["disk"]), 503, 200),
        (127, 503, json!("disk"), 503, 503),
        (600, 200, json!(["disk"]), 503, 200),
        (642, 200, Value::Null, 201, 200),
    ] {
        server.machine.set_disk_free_bytes(free * MIB);
        until_ready_says(&server, health, names).await;
        let gauge = format!("blockremote_ready {}", u8::from(health == 200));
        assert!(metric(&server, &gauge).await, "the gauge says what the probe says: {gauge}");
        // People come in, and lock devices, whatever the disk says.
        let token = server.admin_token().await.unwrap();
        let mut client = server.client().unwrap();
        let bearer = format!("Bearer {token}");
        let mut post = async |path: &str, body: &Value| {
            send(&mut client, Method::POST, path, &[("authorization", &bearer)], body).await.unwrap()
        };
        let made = post("/v1/teams", &json!({ "name": format!("team {free}") })).await;
        assert_eq!(made.status, change, "{}", body(&made));
        if change == 503 {
            assert_eq!((code(&made).as_str(), header(&made, "retry-after")), ("read_only", "60"));
            assert!(!ballast.exists(), "the ballast was freed");
        }
        let order = json!({ "action": "FORCE_OVERLAY", "reason": "a test" });
        assert_eq!(post("/v1/devices/BR-1/commands", &order).await.status, 202, "a command with {free} MiB");
        let beaten = phone.beat(&phone.calm()).await.unwrap();
        assert_eq!(beaten.status, heartbeat, "a heartbeat with {free} MiB");
        if heartbeat == 503 {
            assert_eq!((code(&beaten).as_str(), header(&beaten, "retry-after")), ("read_only", "10"));
        }
    }
    for _ in 0..300 {
        if ballast.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(ballast.exists(), "it is made again when there is room");
    assert_eq!((logged(&server, "disk_nearly_full").await, logged(&server, "disk_recovered").await), (3, 1));
}

/// Whoever waits hears in time that it takes too long, and nothing is half done: the change takes effect or does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_takes_too_long_is_given_up() {
    let server = Server::start_with(|config| config.http.answer_timeout = Duration::from_millis(300)).await.unwrap();
    let mut phone = server.enroll("BR-1").await.unwrap();
    let store = server.app().services.store.clone();
    store
        .post(|_| {
            std::thread::sleep(Duration::from_secs(2));
            Ok(())
        })
        .unwrap();
    let begun = tokio::time::Instant::now();
    let answer = phone.beat(&phone.calm()).await.unwrap();
    assert_eq!((answer.status, code(&answer).as_str()), (503, "timed_out"));
    assert!(begun.elapsed() < Duration::from_millis(1_800), "{:?}", begun.elapsed());
    assert!(!header(&answer, "retry-after").is_empty());
}
