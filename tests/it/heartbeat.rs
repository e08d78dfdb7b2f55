//! What a device may rely on when it sends readings: exact answers, given after they are durable; strictness with
//! pointers; a lock for what is hostile and for nothing else.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;
use std::time::Duration;

use blockremote::agent::motion::{Human, MotionSource};
use blockremote::client::{HttpClient, Response};
use blockremote::domains::signals::engine::Reading;
use blockremote::testkit::{Device, Server, text};
use serde_json::{Value, json};

const HEARTBEAT: &str = "/v1/signals/heartbeat";
const TRUST: &str = "/v1/security/trust-score";

/// The members of any answer, problem or not.
fn members(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap_or(Value::Null)
}

fn code(response: &Response) -> (u16, String) {
    (response.status, text(&members(response), "code"))
}

fn pointers(response: &Response) -> Vec<String> {
    let body = members(response);
    let errors = body["errors"].as_array().cloned().unwrap_or_default();
    errors.iter().map(|e| text(e, "pointer")).collect()
}

fn header(response: &Response, name: &str) -> String {
    response.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

async fn trust(device: &mut Device) -> Value {
    let token = device.access_token.clone();
    device.client.get(TRUST, Some(&token)).await.unwrap().json().unwrap()
}

/// An enrolled device that declared these sensors, and its token.
async fn enroll_with(server: &Server, id: &str, sensors: &Value) -> (HttpClient, String) {
    let body = json!({
        "device_id": id, "device_name": "a phone", "os_version": "16", "sensors": sensors,
        "enrollment_token": server.enrollment_token,
    });
    let mut client = server.client().unwrap();
    let answer: Value = client.post("/v1/auth/device", None, &body).await.unwrap().json().unwrap();
    (client, text(&answer, "access_token"))
}

/// A reading as a device sends it.
fn wire(reading: &Reading) -> Value {
    let mut out = json!({ "t_ms": reading.t_ms });
    if let Some(v) = reading.accelerometer {
        out["accelerometer"] = json!(v);
    }
    if let Some(v) = reading.gyroscope {
        out["gyroscope"] = json!(v);
    }
    if let Some(t) = &reading.touch {
        out["touch"] = json!({ "x": t.x, "y": t.y, "pressure": t.pressure, "interval_ms": t.interval_ms });
    }
    if let Some(n) = &reading.network {
        out["network"] = json!({
            "rx_bytes": n.rx_bytes, "tx_bytes": n.tx_bytes, "rtt_ms": n.rtt_ms, "connections": n.connections,
        });
    }
    out
}

/// A hundred readings of one person.
fn batch(human: &mut Human) -> Vec<Value> {
    (0..100).map(|_| wire(&human.next_reading())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_has_exactly_the_promised_members() {
    let server = Server::start().await.unwrap();
    let mut phone = server.enroll("BR-1").await.unwrap();
    let mut full = phone.calm();
    full["seq"] = json!(42);
    full["sent_at"] = json!("2026-01-01T00:00:00Z");
    let rest = json!({
        "overlay": 0.0, "proximity": 1.0, "touch": { "x": 0.4, "y": 0.7, "pressure": 0.31, "interval_ms": 180 },
        "network": { "rx_bytes": 1200, "tx_bytes": 300, "rtt_ms": 14, "connections": 6, "dns": ["example.org"] },
        "accessibility_active": false, "window_mirroring": false, "rooted": false, "debugger": false,
        "sideloaded": ["com.example.app"],
    });
    full["payload"].as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    let many = json!({ "device_id": "BR-1", "readings": batch(&mut Human::new(7)) });
    for beat in [phone.calm(), full, many] {
        let response = phone.beat(&beat).await.unwrap();
        let answer: Value = response.json().unwrap();
        let names: BTreeSet<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
        let promised = "status trust_score trust_hint decision threshold engine signal_id next_heartbeat_ms";
        assert_eq!(names, promised.split(' ').collect());
        assert_eq!((&answer["status"], &answer["engine"]), (&json!("accepted"), &json!("full")));
        assert_eq!(answer["trust_score"], answer["trust_hint"]);
        assert_eq!((&answer["decision"], &answer["threshold"]), (&json!("allow"), &json!(40)));
        assert_eq!(answer["next_heartbeat_ms"], 5000);
        assert!(text(&answer, "signal_id").starts_with("sig_"));
        assert_eq!(header(&response, "x-plan-tier"), "trial");
        assert_eq!(header(&response, "cache-control"), "no-store");
    }
    // The older clients' path is the same.
    let token = phone.access_token.clone();
    let aliased = phone.client.post("/api/v1/signals/heartbeat", Some(&token), &phone.calm()).await.unwrap();
    assert_eq!(aliased.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_named_by_its_pointer() {
    let server = Server::start().await.unwrap();
    let mut phone = server.enroll("BR-1").await.unwrap();
    let reading = || json!({ "t_ms": 1, "accelerometer": [0.1, 9.79, 0.3], "gyroscope": [0.01, 0.02, -0.03] });
    let beat = |more: Value| {
        let mut body = json!({ "device_id": "BR-1" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let with = |name: &str, value: Value| {
        let mut payload = reading();
        payload[name] = value;
        beat(json!({ "payload": payload }))
    };
    let without = |name: &str| {
        let mut payload = reading();
        payload.as_object_mut().unwrap().remove(name);
        payload
    };
    let cases = [
        (beat(json!({ "payload": without("gyroscope") })), "/payload/gyroscope"),
        (beat(json!({ "payload": without("accelerometer") })), "/payload/accelerometer"),
        (beat(json!({ "readings": [reading(), without("gyroscope")] })), "/readings/1/gyroscope"),
        (beat(json!({ "readings": [reading(), without("t_ms")] })), "/readings/1/t_ms"),
        (beat(json!({ "payload": reading(), "readings": [reading()] })), "/payload"),
        (beat(json!({})), "/payload"),
        (beat(json!({ "readings": [] })), "/readings"),
        (beat(json!({ "readings": vec![reading(); 101] })), "/readings"),
        (beat(json!({ "payload": reading(), "later": 1 })), "/later"),
        (beat(json!({ "payload": reading(), "type": "heartbeat" })), "/type"),
        (beat(json!({ "payload": reading(), "seq": -1 })), "/seq"),
        (beat(json!({ "payload": reading(), "seq": 1.5 })), "/seq"),
        (beat(json!({ "payload": reading(), "sent_at": "yesterday" })), "/sent_at"),
        (json!({ "payload": reading() }), "/device_id"),
        (json!({ "device_id": "BR 1", "payload": reading() }), "/device_id"),
        (with("accelerometer", json!([1, 2])), "/payload/accelerometer"),
        (with("accelerometer", json!([1, 2, "3"])), "/payload/accelerometer/2"),
        (with("overlay", json!(1.5)), "/payload/overlay"),
        (with("rooted", json!("no")), "/payload/rooted"),
        (with("touch", json!({ "x": 0.5 })), "/payload/touch/y"),
        (with("network", json!({ "dns": vec!["x"; 65] })), "/payload/network/dns"),
        (with("gyroscope", json!([0, 0, 1e300])), "/payload/gyroscope"),
    ];
    for (body, pointer) in cases {
        let response = phone.beat(&body).await.unwrap();
        assert_eq!(code(&response), refused(422, "invalid_request"), "{body}");
        assert_eq!(pointers(&response), [pointer], "{body}");
    }
    assert!(trust(&mut phone).await["updated_at"].is_null(), "what was refused left no trace");
    // Later devices may say more inside a reading.
    let response = phone.beat(&with("barometer_hpa", json!({ "value": [1013.2] }))).await.unwrap();
    assert_eq!(response.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sensor_that_a_device_does_not_have_abstains_and_the_others_share_its_weight() {
    let server = Server::start().await.unwrap();
    let mut human = Human::new(3);
    let readings = batch(&mut human);
    for (id, sensors) in
        [("both", json!(["accelerometer", "gyroscope"])), ("one", json!(["accelerometer"])), ("none", json!([]))]
    {
        let (mut client, token) = enroll_with(&server, id, &sensors).await;
        let mut readings = readings.clone();
        for reading in &mut readings {
            let reading = reading.as_object_mut().unwrap();
            reading.retain(|name, _| matches!(name.as_str(), "t_ms" | "accelerometer" | "gyroscope"));
            // The one declares less than it sends, the other sends nothing at all.
            if id == "none" {
                reading.retain(|name, _| name == "t_ms");
            }
        }
        let response = client.post(HEARTBEAT, Some(&token), &json!({ "device_id": id, "readings": readings })).await;
        assert_eq!(response.unwrap().status, 200, "{id}");
        let answer: Value = client.get(TRUST, Some(&token)).await.unwrap().json().unwrap();
        let part = |name: &str| answer["components"][name].as_f64();
        let score = answer["score"].as_f64().unwrap();
        assert_eq!((part("touch_entropy"), part("network_spike")), (None, None), "nothing was touched or sent");
        match id {
            "both" => {
                let expected = (0.4 * part("accelerometer").unwrap() + 0.3 * part("gyroscope").unwrap()) / 0.7;
                assert!((score - expected).abs() <= 1.5, "{score} is not {expected}");
            }
            "one" => assert_eq!((Some(score), None), (part("accelerometer"), part("gyroscope"))),
            _ => assert_eq!((part("accelerometer"), part("gyroscope")), (None, None)),
        }
        assert_eq!((&answer["decision"], &answer["verdict"]), (&json!("allow"), &json!("safe")), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_gets_the_same_answer_and_an_older_count_is_refused() {
    let mut server = Server::start().await.unwrap();
    let mut phone = server.enroll("BR-1").await.unwrap();
    let numbered = |phone: &Device, seq: u64| {
        let mut beat = phone.calm();
        beat["seq"] = json!(seq);
        beat
    };
    let first: Value = phone.beat(&numbered(&phone, 7)).await.unwrap().json().unwrap();
    let before = trust(&mut phone).await;
    let again: Value = phone.beat(&numbered(&phone, 7)).await.unwrap().json().unwrap();
    assert_eq!(first, again);
    assert_eq!(trust(&mut phone).await, before, "a repeat is not counted twice");
    let older = phone.beat(&numbered(&phone, 6)).await.unwrap();
    assert_eq!(code(&older), refused(409, "seq_replayed"));
    assert_eq!(phone.beat(&phone.calm()).await.unwrap().status, 200, "seq is optional");

    server.restart().await.unwrap();
    phone.client = server.client().unwrap();
    let after: Value = phone.beat(&numbered(&phone, 7)).await.unwrap().json().unwrap();
    assert_eq!(first, after, "the count outlives a restart");
    assert_eq!(phone.beat(&numbered(&phone, 3)).await.unwrap().status, 409);
    assert_eq!(phone.beat(&numbered(&phone, 9)).await.unwrap().status, 200, "gaps are the client's business");

    // A new session counts from its own start.
    let admin = server.admin_token().await.unwrap();
    let body = json!({ "device_id": "BR-1", "device_name": "a phone", "os_version": "16", "platform": "android" });
    let enrolled = phone.client.post("/v1/auth/device", Some(&admin), &body).await.unwrap();
    phone.access_token = text(&enrolled.json().unwrap(), "access_token");
    let fresh: Value = phone.beat(&numbered(&phone, 1)).await.unwrap().json().unwrap();
    assert_ne!(fresh["signal_id"], first["signal_id"]);
}

/// The answer comes after the readings are durable: a restart right behind it changes nothing that can be seen, now or
/// in any later answer. A second appliance that was never restarted is the measure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_is_invisible_in_every_score() {
    // Checkpoints after almost every commit, so that some restarts find folded rings and some the journal.
    let mut restarted = Server::start_with(|c| c.store.checkpoint_bytes = 4_000).await.unwrap();
    let steady = Server::start().await.unwrap();
    let mut a = restarted.enroll("BR-1").await.unwrap();
    let mut b = steady.enroll("BR-1").await.unwrap();
    let mut human = Human::new(11);
    for round in 0..6 {
        let beat = json!({ "device_id": "BR-1", "readings": batch(&mut human) });
        let one: Value = a.beat(&beat).await.unwrap().json().unwrap();
        let other: Value = b.beat(&beat).await.unwrap().json().unwrap();
        assert_eq!(one["trust_score"], other["trust_score"], "round {round}");
        let before = trust(&mut a).await;
        restarted.clock.advance(Duration::from_secs(2));
        if round % 2 == 0 {
            restarted.restart().await.unwrap();
            a.client = restarted.client().unwrap();
        }
        let after = trust(&mut a).await;
        assert_eq!(before, after, "round {round}");
        for part in ["score", "components", "features", "reasons", "decision", "threshold"] {
            assert_eq!(after[part], trust(&mut b).await[part], "{part} in round {round}");
        }
        assert!(after["features"].as_object().unwrap().len() > 10);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_is_locked_with_its_evidence_and_an_analyst_can_release_it() {
    let server = Server::start().await.unwrap();
    let mut phone = server.enroll("BR-1").await.unwrap();
    let mut bystander = server.enroll("BR-2").await.unwrap();
    assert_eq!(phone.beat(&phone.calm()).await.unwrap().status, 200);
    let answer: Value = phone.beat(&phone.hostile()).await.unwrap().json().unwrap();
    assert_eq!(answer["decision"], "block");
    assert!(answer["trust_score"].as_u64() < answer["threshold"].as_u64());
    for beat in [phone.calm(), phone.hostile()] {
        assert_eq!(code(&phone.beat(&beat).await.unwrap()), refused(423, "device_blocked"));
    }
    let seen = trust(&mut phone).await;
    assert_eq!((&seen["verdict"], &seen["decision"]), (&json!("block"), &json!("block")));
    assert!(!seen["reasons"].as_array().unwrap().is_empty());
    assert_eq!(bystander.beat(&bystander.calm()).await.unwrap().status, 200, "nobody else is touched");

    let admin = server.admin_token().await.unwrap();
    let mut office = server.client().unwrap();
    let log: Value = office.get("/v1/audit/logs?device_id=BR-1", Some(&admin)).await.unwrap().json().unwrap();
    let blocked = log["data"].as_array().unwrap().iter().find(|e| e["action_taken"] == "device_blocked").unwrap();
    assert_eq!(blocked["signal_id"], answer["signal_id"]);
    assert_eq!(blocked["threat_score"], answer["trust_score"]);
    assert_eq!((&blocked["source"], &blocked["threat_level"]), (&json!("http"), &json!("high")));
    assert!(!text(blocked, "decision_reason").is_empty());
    let calm_entries = log["data"].as_array().unwrap().iter().filter(|e| e["signal_id"].is_string()).count();
    assert_eq!(calm_entries, 1, "readings are telemetry: only the change of decision is audited");
    let list: Value = office.get("/v1/devices/BR-1/commands", Some(&admin)).await.unwrap().json().unwrap();
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
    assert_eq!((&list["data"][0]["action"], &list["data"][0]["status"]), (&json!("LOCK_SYSTEM"), &json!("requested")));

    let unblock = "/v1/devices/BR-1/unblock";
    let released = office.post(unblock, Some(&admin), &json!({ "reason": "it was a demonstration" })).await.unwrap();
    assert_eq!((released.status, text(&members(&released), "action")), (200, "UNLOCK".to_owned()));
    for _ in 0..30 {
        let answer: Value = phone.beat(&phone.calm()).await.unwrap().json().unwrap();
        assert_eq!(answer["decision"], "allow", "the old evidence was judged by a person");
    }
    assert_eq!(trust(&mut phone).await["verdict"], "safe");
    let twice = office.post(unblock, Some(&admin), &json!({ "reason": "again" })).await.unwrap();
    assert_eq!(code(&twice), refused(409, "not_blocked"));
    // Released is not immune.
    let answer: Value = phone.beat(&phone.hostile()).await.unwrap().json().unwrap();
    assert_eq!(answer["decision"], "block");
}

/// A phone that lies on a desk is the commonest thing there is. It was never to be locked for its stillness, however
/// still it is: not with a sensor's noise, not with a sensor that rounds the noise away, not with an emulator's values.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_on_a_desk_for_half_an_hour_is_never_blocked() {
    const BEATS: u64 = 180;
    let server = Server::start().await.unwrap();
    let mut phones = Vec::new();
    for id in ["noisy", "rounded", "emulator"] {
        phones.push(server.enroll(id).await.unwrap());
    }
    let mut state = 1_u64;
    let mut noise = move |scale: f64| {
        // Twelve uniform draws are nearly a normal one.
        let sum: f64 = (0..12)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f64 / (1_u64 << 24) as f64
            })
            .sum();
        (sum - 6.0) * scale
    };
    for beat in 0..BEATS {
        for phone in &mut phones {
            let readings: Vec<Value> = (0..50)
                .map(|i| {
                    let (a, g) = match phone.id.as_str() {
                        "noisy" => (
                            [0.1 + noise(0.01), 9.79 + noise(0.01), 0.3 + noise(0.01)],
                            [noise(0.002), noise(0.002), noise(0.002)],
                        ),
                        "rounded" => ([0.1, 9.79, 0.3], [0.0, 0.0, 0.001]),
                        _ => ([0.0, 9.81, 0.0], [0.0, 0.0, 0.0]),
                    };
                    json!({ "t_ms": (beat * 50 + i) * 200, "accelerometer": a, "gyroscope": g })
                })
                .collect();
            let body = json!({ "device_id": phone.id, "readings": readings });
            let answer: Value = phone.beat(&body).await.unwrap().json().unwrap();
            assert_ne!(answer["decision"], "block", "{} after {} s: {answer}", phone.id, beat * 10);
        }
        server.clock.advance(Duration::from_secs(10));
        if beat % 60 == 59 {
            for phone in &mut phones {
                refresh(phone).await;
            }
        }
    }
}

pub async fn refresh(phone: &mut Device) {
    let body = json!({ "refresh_token": phone.refresh_token });
    let pair: Value = phone.client.post("/v1/auth/refresh", None, &body).await.unwrap().json().unwrap();
    phone.access_token = text(&pair, "access_token");
    phone.refresh_token = text(&pair, "refresh_token");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_seven_days_somebody_must_pay() {
    let server = Server::start().await.unwrap();
    let mut phone = server.enroll("BR-1").await.unwrap();
    server.clock.advance(Duration::from_secs(7 * 86_400 - 60));
    refresh(&mut phone).await;
    assert_eq!(phone.beat(&phone.calm()).await.unwrap().status, 200, "the last minute of the trial");
    server.clock.advance(Duration::from_secs(60));
    let response = phone.beat(&phone.calm()).await.unwrap();
    assert_eq!(response.status, 402);
    assert_eq!(header(&response, "x-plan-tier"), "trial");
    assert_eq!(header(&response, "content-type"), "application/problem+json");
    let problem = members(&response);
    for (name, value) in [
        ("status", json!(402)),
        ("premium", json!(false)),
        ("trial_expired", json!(true)),
        ("trial_days_remaining", json!(0)),
        ("is_active", json!(false)),
        ("device_id", json!("BR-1")),
    ] {
        assert_eq!(problem[name], value, "{name} in {problem}");
    }
    for name in ["plan", "trial", "expires_at", "code", "detail", "request_id"] {
        assert!(problem.get(name).is_some(), "{name} is missing in {problem}");
    }
    assert_eq!(trust(&mut phone).await["device_id"], "BR-1", "reading its own score acts on nothing");

    let free = Server::start_with(|c| c.billing.paywall = blockremote::config::Paywall::Off).await.unwrap();
    let mut phone = free.enroll("BR-1").await.unwrap();
    free.clock.advance(Duration::from_secs(7 * 86_400 - 60));
    refresh(&mut phone).await;
    free.clock.advance(Duration::from_secs(120));
    assert_eq!(phone.beat(&phone.calm()).await.unwrap().status, 200, "nobody is asked where the paywall is off");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_device_has_a_hundred_and_twenty_heartbeats_a_minute() {
    let server = Server::start().await.unwrap();
    let mut phone = server.enroll("BR-1").await.unwrap();
    let mut other = server.enroll("BR-2").await.unwrap();
    for sent in 1..=120_u32 {
        let response = phone.beat(&phone.calm()).await.unwrap();
        assert_eq!(response.status, 200, "heartbeat {sent}");
        assert_eq!(header(&response, "x-ratelimit-limit"), "120");
        assert_eq!(header(&response, "x-ratelimit-remaining"), (120 - sent).to_string());
    }
    let response = phone.beat(&phone.calm()).await.unwrap();
    assert_eq!(code(&response), refused(429, "rate_limited"));
    let wait_s: u64 = header(&response, "x-ratelimit-reset").parse().unwrap();
    assert!((1..=120).contains(&wait_s));
    assert_eq!(header(&response, "retry-after"), wait_s.to_string());
    assert_eq!(members(&response)["retry_after"], wait_s);
    for (name, value) in [("x-ratelimit-limit", "120"), ("x-ratelimit-remaining", "0"), ("x-plan-tier", "trial")] {
        assert_eq!(header(&response, name), value, "{name}");
    }
    assert!(header(&response, "ratelimit-policy").contains("q=120;w=60"));
    assert!(header(&response, "ratelimit").contains("r=0;t="));
    assert_eq!(other.beat(&other.calm()).await.unwrap().status, 200, "each device has its own");
    // The answer that tells how long to wait tells the truth, and refusals did not make it longer.
    for _ in 0..10 {
        assert_eq!(phone.beat(&phone.calm()).await.unwrap().status, 429);
    }
    server.clock.advance(Duration::from_secs(wait_s));
    assert_eq!(phone.beat(&phone.calm()).await.unwrap().status, 200);
}

/// Where several refusals apply, clients branch on the first of the promised order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_refusals_the_promised_one_is_answered() {
    let server = Server::start().await.unwrap();
    let admin = server.admin_token().await.unwrap();
    let mut phone = server.enroll("BR-1").await.unwrap();
    server.enroll("BR-2").await.unwrap();
    let device = format!("Bearer {}", phone.access_token);
    let person = format!("Bearer {admin}");
    let json_type = ("content-type", "application/json");
    let theirs = json!({ "device_id": "BR-2", "payload": phone.calm()["payload"] }).to_string();
    let theirs_and_wrong = json!({ "device_id": "BR-2", "payload": {}, "later": 1 }).to_string();
    let incomplete = json!({ "device_id": "BR-1", "payload": {} }).to_string();
    let calm = phone.calm().to_string();
    let send = async |client: &mut HttpClient, headers: &[(&str, &str)], body: &[u8]| {
        let body = bytes::Bytes::copy_from_slice(body);
        let response = client.request(hyper::Method::POST, HEARTBEAT, headers, body).await.unwrap();
        (response.status, text(&members(&response), "code"))
    };
    let client = &mut phone.client;
    let bearer = ("authorization", device.as_str());
    for (what, headers, body, expected) in [
        ("no token, before any look at the body", vec![json_type], &b"{"[..], (401, "unauthenticated")),
        ("a person is no device", vec![json_type, ("authorization", &person)], b"{", (403, "forbidden")),
        ("type before content", vec![bearer, ("content-type", "text/plain")], b"{", (415, "unsupported_media_type")),
        ("JSON before meaning", vec![bearer, json_type], b"{\"device_id\": \"BR-2\"", (400, "malformed_json")),
        ("meaning before owner", vec![bearer, json_type], theirs_and_wrong.as_bytes(), (422, "invalid_request")),
        ("owner", vec![bearer, json_type], theirs.as_bytes(), (403, "device_mismatch")),
        ("declared sensors", vec![bearer, json_type], incomplete.as_bytes(), (422, "invalid_request")),
    ] {
        assert_eq!(send(client, &headers, body).await, refused(expected.0, expected.1), "{what}");
    }
    // Blocked: still after everything that is wrong with the request itself, and before the bill.
    let mut office = server.client().unwrap();
    let lock = json!({ "action": "LOCK_SYSTEM", "reason": "lost" });
    assert_eq!(office.post("/v1/devices/BR-1/commands", Some(&admin), &lock).await.unwrap().status, 202);
    for (what, body, expected) in [
        ("JSON", "{", (400, "malformed_json")),
        ("meaning", theirs_and_wrong.as_str(), (422, "invalid_request")),
        ("declared sensors", incomplete.as_str(), (422, "invalid_request")),
        ("owner", theirs.as_str(), (403, "device_mismatch")),
        ("blocked", calm.as_str(), (423, "device_blocked")),
    ] {
        let found = send(client, &[bearer, json_type], body.as_bytes()).await;
        assert_eq!(found, refused(expected.0, expected.1), "blocked: {what}");
    }
    // The rate comes before all of it.
    while send(client, &[bearer, json_type], calm.as_bytes()).await.0 != 429 {}
    for body in [&b"{"[..], theirs.as_bytes()] {
        assert_eq!(send(client, &[bearer, json_type], body).await, refused(429, "rate_limited"));
    }
}
