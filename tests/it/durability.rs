//! What was acknowledged is there: after kill -9 in the middle of work, after SIGTERM, after any sequence of operations.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod model;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blockremote::client::{Endpoint, HttpClient};
use blockremote::testkit::text;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cli::binary::{Place, Running};
use crate::killswitch::raw::Raw;

const HEARTBEAT: &str = "/v1/signals/heartbeat";

/// What one device was promised, and what was under way when the power went.
struct Promised {
    id: String,
    access_token: String,
    refresh_token: String,
    /// `seq` and answer of the last heartbeat that was acknowledged.
    last: Option<(u64, Value)>,
    /// Whether a heartbeat was sent that nobody answered.
    unanswered: bool,
    blocked: bool,
    /// Commands that were acknowledged to the administrator, and that the device never confirmed.
    commands: Vec<String>,
}

fn beat(id: &str, seq: u64, hostile: bool) -> Value {
    let mut payload = json!({ "accelerometer": [0.1, 9.79, 0.3], "gyroscope": [0.01, 0.02, -0.03] });
    if hostile {
        payload["overlay"] = json!(1.0);
        payload["accessibility_active"] = json!(true);
        payload["window_mirroring"] = json!(true);
    }
    json!({ "device_id": id, "seq": seq, "payload": payload })
}

/// Enrolls devices and uses them until the server is gone; gives what it was promised.
async fn work(endpoint: Endpoint, token: String, admin: String, name: String, stop: Arc<AtomicBool>) -> Vec<Promised> {
    let mut client = HttpClient::new(endpoint).with_timeout(Duration::from_secs(3));
    let mut ledger = Vec::new();
    for n in 0.. {
        let id = format!("{name}-{n}");
        let body = json!({ "device_id": id, "device_name": "a", "os_version": "1", "enrollment_token": token });
        let Ok(response) = client.post("/v1/auth/device", None, &body).await else { return ledger };
        if response.status != 201 {
            return ledger;
        }
        let answer: Value = response.json().unwrap();
        let mut promised = Promised {
            id,
            access_token: text(&answer, "access_token"),
            refresh_token: text(&answer, "refresh_token"),
            last: None,
            unanswered: false,
            blocked: false,
            commands: Vec::new(),
        };
        let gone = use_device(&mut client, &admin, &mut promised, &stop).await.is_none();
        ledger.push(promised);
        if gone || stop.load(Ordering::Relaxed) {
            return ledger;
        }
    }
    ledger
}

/// `None` when the server was gone before it answered.
async fn use_device(client: &mut HttpClient, admin: &str, device: &mut Promised, stop: &AtomicBool) -> Option<()> {
    for seq in 1..=12 {
        if stop.load(Ordering::Relaxed) {
            return Some(());
        }
        let hostile = seq == 12;
        device.unanswered = true;
        let response =
            client.post(HEARTBEAT, Some(&device.access_token), &beat(&device.id, seq, hostile)).await.ok()?;
        if response.status == 503 {
            return None;
        }
        device.unanswered = false;
        let answer: Value = response.json().unwrap();
        device.blocked = answer["decision"] == "block";
        device.last = Some((seq, answer));
        if seq % 4 == 0 {
            let body = json!({ "refresh_token": device.refresh_token });
            let response = client.post("/v1/auth/refresh", None, &body).await.ok()?;
            if response.status == 503 {
                return None;
            }
            let pair: Value = response.json().unwrap();
            device.access_token = text(&pair, "access_token");
            device.refresh_token = text(&pair, "refresh_token");
        }
        if seq == 6 {
            let path = format!("/v1/devices/{}/commands", device.id);
            let body = json!({ "action": "FORCE_OVERLAY", "reason": "a test" });
            let response = client.post(&path, Some(admin), &body).await.ok()?;
            if response.status == 503 {
                return None;
            }
            device.commands.push(text(&response.json().unwrap(), "command_id"));
        }
    }
    Some(())
}

/// Holds the server to everything that it promised a device.
async fn check(running: &Running, client: &mut HttpClient, device: &Promised) {
    let id = &device.id;
    if let (Some((seq, promised)), false) = (&device.last, device.blocked) {
        let again = client.post(HEARTBEAT, Some(&device.access_token), &beat(id, *seq, false)).await.unwrap();
        match again.status {
            200 => assert_eq!(again.json::<Value>().unwrap(), *promised, "{id}"),
            // The one that was under way has been kept, too: then it is the last, and a retry of it is no new one.
            409 | 423 if device.unanswered => {}
            status => panic!("{id}: heartbeat {seq} was acknowledged, its retry got {status}"),
        }
    } else if device.blocked {
        let blocked = client.post(HEARTBEAT, Some(&device.access_token), &beat(id, 99, false)).await.unwrap();
        assert_eq!(blocked.status, 423, "{id}: a block was acknowledged");
    } else {
        let trust = client.get("/v1/security/trust-score", Some(&device.access_token)).await.unwrap();
        assert_eq!(trust.status, 200, "{id}: an enrollment was acknowledged");
    }
    if !device.commands.is_empty() {
        let mut socket = Raw::with_token(&running.endpoint, &device.access_token).await;
        assert_eq!(socket.json().await["action"], "AUTH_OK", "{id}");
        for command in &device.commands {
            assert_eq!(text(&socket.json().await, "command_id"), *command, "{id}: it is sent until it is confirmed");
        }
        if device.blocked {
            assert_eq!(socket.json().await["action"], "LOCK_SYSTEM", "{id}");
        }
    }
}

async fn login(place_said: &Value, client: &mut HttpClient) -> String {
    let response = client.post("/v1/auth/login", None, &place_said["admin"]).await.unwrap();
    text(&response.json().unwrap(), "access_token")
}

/// Twenty times the power goes in the middle of work. Whatever a client had been told is still so after each start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_kill_9() {
    let (place, said) = Place::set_up();
    let token = text(&said, "enrollment_token");
    let mut ledger: Vec<Promised> = Vec::new();
    let mut admin = String::new();
    for round in 0..20_u64 {
        let running = place.serve();
        let mut client = running.client();
        if round == 0 {
            admin = login(&said, &mut client).await;
        }
        let fresh = ledger.len().saturating_sub(40);
        for device in &ledger[fresh..] {
            check(&running, &mut client, device).await;
        }
        // Within the grace of ten seconds a refresh whose answer was lost is given again, and nobody is locked.
        if let Some(last) = ledger.last_mut() {
            let body = json!({ "refresh_token": last.refresh_token });
            let pair = client.post("/v1/auth/refresh", None, &body).await.unwrap();
            last.refresh_token = text(&pair.json().unwrap(), "refresh_token");
        }
        let stop = Arc::new(AtomicBool::new(false));
        let mut workers = tokio::task::JoinSet::new();
        for n in 0..6 {
            let name = format!("r{round}w{n}");
            workers.spawn(work(running.endpoint.clone(), token.clone(), admin.clone(), name, Arc::clone(&stop)));
        }
        tokio::time::sleep(Duration::from_millis(60 + 17 * (round % 7))).await;
        running.kill_hard();
        while let Some(promised) = workers.join_next().await {
            ledger.extend(promised.unwrap());
        }
    }
    let running = place.serve();
    let mut client = running.client();
    for device in &ledger {
        check(&running, &mut client, device).await;
    }
    let beats: u64 = ledger.iter().filter_map(|d| d.last.as_ref()).map(|(seq, _)| seq).sum();
    let commands: usize = ledger.iter().map(|d| d.commands.len()).sum();
    // On a busy machine less is acknowledged between two kills; some of everything must have been.
    assert!(ledger.len() > 20 && beats > 50 && commands > 0, "{} {beats} {commands}", ledger.len());
    running.kill_hard();
    let (report, _) = place.ends(&["verify", "--json"], 0);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["sound"], true, "{report}");
}

/// An operator's restart in the middle of work: what had begun is answered, sockets hear why, the program ends in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_everybody_finish() {
    let (place, said) = Place::set_up();
    let token = text(&said, "enrollment_token");
    let running = place.serve();
    let admin = login(&said, &mut running.client()).await;
    let enroll = async |id: &str| -> String {
        let body = json!({ "device_id": id, "device_name": "a", "os_version": "1", "enrollment_token": token });
        text(&running.client().post("/v1/auth/device", None, &body).await.unwrap().json().unwrap(), "access_token")
    };
    let mut sockets = Vec::new();
    for n in 0..3 {
        let mut socket = Raw::with_token(&running.endpoint, &enroll(&format!("socket-{n}")).await).await;
        assert_eq!(socket.json().await["action"], "AUTH_OK");
        sockets.push(socket);
    }
    // Half a request is in flight; and somebody has connected and says nothing.
    let access = enroll("in-flight").await;
    let body = beat("in-flight", 1, false).to_string();
    let head = format!(
        "POST {HEARTBEAT} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {access}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut half = running.endpoint.connect().await.unwrap();
    half.write_all(head.as_bytes()).await.unwrap();
    half.flush().await.unwrap();
    let silent = running.endpoint.connect().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = tokio::task::JoinSet::new();
    for n in 0..6 {
        let name = format!("w{n}");
        workers.spawn(work(running.endpoint.clone(), token.clone(), admin.clone(), name, Arc::clone(&stop)));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let ending = tokio::task::spawn_blocking(move || running.terminate());
    for mut socket in sockets {
        assert_eq!(socket.closed().await, 1001);
    }
    half.write_all(body.as_bytes()).await.unwrap();
    half.flush().await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), half.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 200 "), "what had begun is answered: {answer}");
    let in_flight: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let (took, code, _) = ending.await.unwrap();
    drop(silent);
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(10), "{took:?}");
    let mut ledger = Vec::new();
    while let Some(promised) = workers.join_next().await {
        ledger.extend(promised.unwrap());
    }
    assert!(ledger.len() >= 6);

    let running = place.serve();
    let mut client = running.client();
    for device in &ledger {
        check(&running, &mut client, device).await;
    }
    let again: Value =
        client.post(HEARTBEAT, Some(&access), &beat("in-flight", 1, false)).await.unwrap().json().unwrap();
    assert_eq!(again, in_flight);
    assert_eq!(running.terminate().1, Some(0));
    place.ends(&["verify"], 0);
}
