//! The kill-switch socket as a device and an attacker see it: who may open it, what it carries, how a lock gets through,
//! and with which code it ends.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

pub(crate) mod raw;

use std::time::Duration;

use blockremote::client::frame::{CommandFrame, Incoming};
use blockremote::client::{CommandVerifier, Genuine, VerifyError};
use blockremote::crypto::JwkSet;
use blockremote::testkit::{Device, Server, eventually, text};
use futures_util::SinkExt;
use hyper::header::{HeaderName, HeaderValue};
use raw::{PATH, Raw};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

async fn connect(server: &Server, phone: &Device) -> Raw {
    let mut socket = Raw::with_token(&server.endpoint().unwrap(), &phone.access_token).await;
    assert_eq!(text(&socket.json().await, "action"), "AUTH_OK");
    socket
}

async fn keys(server: &Server) -> JwkSet {
    let response = server.client().unwrap().get("/.well-known/jwks.json", None).await.unwrap();
    JwkSet::parse(response.success().unwrap()).unwrap()
}

/// The administrator at work.
struct Office<'a> {
    server: &'a Server,
    token: String,
}

impl<'a> Office<'a> {
    async fn of(server: &'a Server) -> Self {
        Self { server, token: server.admin_token().await.unwrap() }
    }

    async fn command(&self, device: &str, body: Value) -> Value {
        let path = format!("/v1/devices/{device}/commands");
        let response = self.server.client().unwrap().post(&path, Some(&self.token), &body).await.unwrap();
        assert_eq!(response.status, 202);
        response.json().unwrap()
    }

    async fn get(&self, path: &str) -> Value {
        self.server.client().unwrap().get(path, Some(&self.token)).await.unwrap().json().unwrap()
    }

    async fn look(&self, device: &str, command: &Value) -> Value {
        self.get(&format!("/v1/devices/{device}/commands/{}", text(command, "command_id"))).await
    }

    /// Waits until a command has this status.
    async fn sees(&self, device: &str, command: &Value, status: &str) -> Value {
        for _ in 0..200 {
            let view = self.look(device, command).await;
            if view["status"] == status {
                return view;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("never {status}: {}", self.look(device, command).await);
    }
}

fn command(text: &str) -> Box<CommandFrame> {
    match Incoming::parse(text).unwrap() {
        Incoming::Command(frame) => frame,
        other => panic!("not a command: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_genuine_token_opens_it_in_every_promised_way_and_the_first_frame_is_signed() {
    let server = Server::start().await.unwrap();
    let phone = server.enroll("BR-1").await.unwrap();
    let endpoint = server.endpoint().unwrap();
    let keys = keys(&server).await;
    let token = &phone.access_token;
    let bearer = format!("Bearer {token}");
    let protocol = |name: &str| format!("{name}, {token}");
    let (v1, legacy) = (protocol("blockremote.v1"), protocol("sentinel-v2"));
    for (path, headers, selected) in [
        (PATH, vec![("sec-websocket-protocol", v1.as_str())], Some("blockremote.v1")),
        (PATH, vec![("sec-websocket-protocol", legacy.as_str())], Some("sentinel-v2")),
        (PATH, vec![("authorization", bearer.as_str())], None),
        ("/v1/signals", vec![("sec-websocket-protocol", v1.as_str())], Some("blockremote.v1")),
        ("/api/v1/security/kill-switch", vec![("authorization", bearer.as_str())], None),
    ] {
        let mut socket = Raw::open(&endpoint, path, &headers).await.unwrap();
        assert_eq!(socket.selected.as_deref(), selected, "{path} {selected:?}");
        let first = socket.text().await;
        let frame = command(&first);
        assert_eq!(frame.action.as_str(), "AUTH_OK");
        let mut verifier = CommandVerifier::new("BR-1".parse().unwrap());
        assert_eq!(verifier.verify(&frame, &keys, server.clock.now()), Ok(Genuine::Notice));
        let members: Value = serde_json::from_str(&first).unwrap();
        let mut names: Vec<&str> = members.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        let promised = "action command_id device_id expires_at issued_at payload reason seq signature timestamp";
        assert_eq!(names, promised.split(' ').collect::<Vec<_>>());
        // Whoever changes a letter of it is found out.
        let forged = command(&first.replace("AUTH_OK", "UNLOCK"));
        assert_eq!(verifier.verify(&forged, &keys, server.clock.now()), Err(VerifyError::Altered));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_genuine_token_is_sent_away_after_the_upgrade() {
    let server = Server::start().await.unwrap();
    let phone = server.enroll("BR-1").await.unwrap();
    let endpoint = server.endpoint().unwrap();
    let admin = server.admin_token().await.unwrap();
    let in_url = format!("{PATH}?token={0}&access_token={0}", phone.access_token);
    let forged = format!("blockremote.v1, {}x", phone.access_token);
    let person = format!("blockremote.v1, {admin}");
    let refresh = format!("blockremote.v1, {}", phone.refresh_token);
    let alone = phone.access_token.clone();
    for (path, protocols) in [
        (PATH, None),
        (in_url.as_str(), None),
        (PATH, Some("blockremote.v1")),
        (PATH, Some(forged.as_str())),
        (PATH, Some(person.as_str())),
        (PATH, Some(refresh.as_str())),
        (PATH, Some(alone.as_str())),
    ] {
        let headers: Vec<_> = protocols.iter().map(|p| ("sec-websocket-protocol", *p)).collect();
        let mut request = format!("wss://{}{path}", endpoint.authority()).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let stream = endpoint.connect().await.unwrap();
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((stream, _)) => {
                let (texts, code) = Raw { stream, selected: None, headers: hyper::HeaderMap::new() }.rest().await;
                assert_eq!((texts.len(), code), (0, 1008), "{protocols:?}");
            }
            // The client's library minds when no subprotocol is selected; the server has upgraded all the same.
            Err(WsError::Protocol(_)) => {}
            Err(other) => panic!("{protocols:?}: {other}"),
        }
    }
    let v1 = format!("blockremote.v1, {}", phone.access_token);
    let with_origin = [("sec-websocket-protocol", v1.as_str()), ("origin", "https://evil.example")];
    let refused = Raw::open(&endpoint, PATH, &with_origin).await.err();
    assert_eq!(refused, Some((403, "origin_not_allowed".to_owned())), "before the upgrade");
    let plain = server.client().unwrap().get(PATH, Some(&phone.access_token)).await.unwrap();
    assert_eq!(plain.status, 426);
    assert_eq!(plain.headers.get("upgrade").unwrap(), "websocket");
    assert_eq!(plain.headers.get("sec-websocket-version").unwrap(), "13");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configured_page_may_open_it_and_a_device_may_not_open_it_without_end() {
    let origin = "https://console.example".to_owned();
    let server = Server::start_with(|c| c.http.allowed_origins = vec![origin]).await.unwrap();
    let phone = server.enroll("BR-1").await.unwrap();
    let endpoint = server.endpoint().unwrap();
    let v1 = format!("blockremote.v1, {}", phone.access_token);
    let headers = [("sec-websocket-protocol", v1.as_str()), ("origin", "https://console.example")];
    let mut last = Raw::open(&endpoint, PATH, &headers).await.unwrap();
    assert_eq!(text(&last.json().await, "action"), "AUTH_OK");
    for _ in 1..60 {
        let mut newer = connect(&server, &phone).await;
        assert_eq!(last.closed().await, 4001, "a newer socket closes the older one");
        newer.is_quiet().await;
        last = newer;
    }
    let refused = Raw::open(&endpoint, PATH, &headers[..1]).await.err();
    assert_eq!(refused, Some((429, "rate_limited".to_owned())));
    last.is_quiet().await;
    server.clock.advance(Duration::from_secs(120));
    connect(&server, &phone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_signed_followed_to_its_end_and_repeated_to_the_byte_until_then() {
    let mut server = Server::start().await.unwrap();
    let phone = server.enroll("BR-1").await.unwrap();
    let keys = keys(&server).await;
    let mut verifier = CommandVerifier::new("BR-1".parse().unwrap());
    let mut socket = connect(&server, &phone).await;
    let asked = Office::of(&server).await.command("BR-1", json!({ "action": "LOCK_SYSTEM", "reason": "lost" })).await;
    assert_eq!(asked["status"], "requested");
    let first = socket.text().await;
    let frame = command(&first);
    assert_eq!(verifier.verify(&frame, &keys, server.clock.now()), Ok(Genuine::New));
    assert_eq!((frame.action.as_str(), frame.reason.as_str()), ("LOCK_SYSTEM", "lost"));
    assert_eq!(frame.command_id.to_string(), text(&asked, "command_id"));
    assert_eq!(json!(frame.seq), asked["seq"]);

    let office = Office::of(&server).await;
    let sent = office.sees("BR-1", &asked, "sent").await;
    assert!(sent["sent_at"].is_string() && sent["delivered_at"].is_null());
    socket.ack(&text(&asked, "command_id"), "delivered").await;
    let delivered = office.sees("BR-1", &asked, "delivered").await;
    assert!(delivered["delivered_at"].is_string() && delivered["enforced_at"].is_null());

    // Delivered does not end it: it comes again on every socket, also after a restart, in the same bytes.
    let mut socket = connect(&server, &phone).await;
    assert_eq!(socket.text().await, first);
    server.restart().await.unwrap();
    assert_eq!(socket.closed().await, 1001, "shutting down");
    let mut socket = connect(&server, &phone).await;
    let again = socket.text().await;
    assert_eq!(again, first);
    assert_eq!(verifier.verify(&command(&again), &keys, server.clock.now()), Ok(Genuine::Redelivered));

    server.clock.advance(Duration::from_secs(3));
    let detail = json!({ "type": "ack", "command_id": asked["command_id"], "status": "enforced", "detail": "locked" });
    socket.say(&detail).await;
    let office = Office::of(&server).await;
    let enforced = office.sees("BR-1", &asked, "enforced").await;
    assert!(text(&enforced, "enforced_at") > text(&enforced, "delivered_at"));
    assert_eq!(enforced["detail"], "locked");
    // After its end nothing changes it, and it is not sent again.
    socket.ack(&text(&asked, "command_id"), "failed").await;
    socket.is_quiet().await;
    assert_eq!(office.look("BR-1", &asked).await, enforced);
    let mut socket = connect(&server, &phone).await;
    socket.is_quiet().await;
    let log = office.get("/v1/audit/logs?device_id=BR-1").await;
    let actions: Vec<String> = log["data"].as_array().unwrap().iter().map(|e| text(e, "action_taken")).collect();
    for action in ["command_requested", "device_blocked", "command_enforced"] {
        assert_eq!(actions.iter().filter(|a| *a == action).count(), 1, "{action} in {actions:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_devices_commands_do_not_exist_for_another() {
    let server = Server::start().await.unwrap();
    let phone = server.enroll("BR-1").await.unwrap();
    let thief = server.enroll("BR-2").await.unwrap();
    let office = Office::of(&server).await;
    let mut theirs = connect(&server, &thief).await;
    let asked = office.command("BR-1", json!({ "action": "FORCE_OVERLAY", "reason": "check" })).await;
    for id in [text(&asked, "command_id"), "cmd_00000000-0000-7000-8000-000000000000".to_owned()] {
        theirs.ack(&id, "enforced").await;
        let answer = theirs.json().await;
        assert_eq!((text(&answer, "type"), text(&answer, "code")), ("error".into(), "not_found".into()));
    }
    assert_eq!(office.look("BR-1", &asked).await["status"], "requested");
    let mut socket = connect(&server, &phone).await;
    assert_eq!(socket.json().await["command_id"], asked["command_id"]);
    let foreign = server.client().unwrap().get("/v1/devices/BR-1/commands", Some(&thief.access_token)).await.unwrap();
    assert_eq!(foreign.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_count_rises_a_repeat_is_the_same_command_and_time_ends_it() {
    let mut server = Server::start().await.unwrap();
    let phone = server.enroll("BR-1").await.unwrap();
    let overlay = |reason: &str| json!({ "action": "FORCE_OVERLAY", "reason": reason, "expires_in_s": 60 });
    let mut seqs = Vec::new();
    let mut last = Value::Null;
    for round in 0..4 {
        if round == 2 {
            server.restart().await.unwrap();
        }
        last = Office::of(&server).await.command("BR-1", overlay("look here")).await;
        seqs.push(last["seq"].as_u64().unwrap());
    }
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "{seqs:?}");

    let office = Office::of(&server).await;
    let send = async |key: &str, body: &Value| {
        let bearer = format!("Bearer {}", office.token);
        let headers =
            [("authorization", bearer.as_str()), ("content-type", "application/json"), ("idempotency-key", key)];
        let body = bytes::Bytes::from(body.to_string());
        let path = "/v1/devices/BR-1/commands";
        let response = server.client().unwrap().request(hyper::Method::POST, path, &headers, body).await.unwrap();
        (response.status, serde_json::from_slice::<Value>(&response.body).unwrap())
    };
    let (status, first) = send("key-1", &overlay("once")).await;
    assert_eq!(status, 202);
    assert_eq!(send("key-1", &overlay("once")).await, (202, first.clone()));
    let (status, problem) = send("key-1", &overlay("something else")).await;
    assert_eq!((status, text(&problem, "code")), (409, "idempotency_conflict".to_owned()));
    assert_ne!(send("key-2", &overlay("once")).await.1["command_id"], first["command_id"]);

    let mut socket = connect(&server, &phone).await;
    for _ in 0..6 {
        assert_eq!(socket.json().await["action"], "FORCE_OVERLAY");
    }
    server.clock.advance(Duration::from_secs(61));
    assert_eq!(office.look("BR-1", &last).await["status"], "expired");
    socket.ack(&text(&last, "command_id"), "enforced").await;
    let mut socket = connect(&server, &phone).await;
    socket.is_quiet().await;
    assert_eq!(office.look("BR-1", &last).await["status"], "expired", "too late is too late");
    let after = office.command("BR-1", overlay("later")).await;
    assert!(after["seq"].as_u64() > last["seq"].as_u64(), "no place is used twice");
    assert_eq!(socket.json().await["command_id"], after["command_id"]);
    let list = office.get("/v1/devices/BR-1/commands?limit=2").await;
    assert_eq!(list["data"][0]["command_id"], after["command_id"], "newest first");
    assert!(list["next_cursor"].is_string());
}

/// A blocked phone must stay within reach, or it could never be released: with any token that was once genuine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_device_still_hears_and_is_released() {
    let server = Server::start().await.unwrap();
    let mut phone = server.enroll("BR-1").await.unwrap();
    let mut watching = connect(&server, &phone).await;
    assert_eq!(phone.beat(&phone.hostile()).await.unwrap().status, 200);
    assert_eq!(watching.json().await["action"], "LOCK_SYSTEM", "its open socket stays open and tells");
    // Two hours later its token has long expired.
    server.clock.advance(Duration::from_secs(7_200));
    let mut socket = Raw::with_token(&server.endpoint().unwrap(), &phone.access_token).await;
    assert_eq!(watching.closed().await, 4001);
    assert_eq!(socket.json().await["payload"]["mode"], "commands_only");
    let lock = socket.json().await;
    assert_eq!(lock["action"], "LOCK_SYSTEM");
    let mut beat = phone.calm();
    beat["type"] = json!("heartbeat");
    socket.say(&beat).await;
    assert_eq!(socket.json().await["code"], "device_blocked");
    socket.ack(&text(&lock, "command_id"), "enforced").await;
    let office = Office::of(&server).await;
    office.sees("BR-1", &lock, "enforced").await;
    let mut client = server.client().unwrap();
    let release = client.post("/v1/devices/BR-1/unblock", Some(&office.token), &json!({ "reason": "found" })).await;
    assert_eq!(release.unwrap().status, 200);
    let unlock = socket.json().await;
    assert_eq!(unlock["action"], "UNLOCK");
    assert!(unlock["seq"].as_u64() > lock["seq"].as_u64());
    // No longer blocked: now the expired token is only an expired token.
    let mut refused = Raw::with_token(&server.endpoint().unwrap(), &phone.access_token).await;
    assert_eq!(refused.closed().await, 1008);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_refresh_token_locks_the_phone_and_a_logout_only_ends_it() {
    let server = Server::start().await.unwrap();
    let phone = server.enroll("BR-1").await.unwrap();
    let leaver = server.enroll("BR-2").await.unwrap();
    let endpoint = server.endpoint().unwrap();
    let mut open = connect(&server, &phone).await;
    let mut client = server.client().unwrap();
    let body = json!({ "refresh_token": phone.refresh_token });
    assert_eq!(client.post("/v1/auth/refresh", None, &body).await.unwrap().status, 200);
    server.clock.advance(Duration::from_secs(11));
    assert_eq!(client.post("/v1/auth/refresh", None, &body).await.unwrap().status, 403);
    assert_eq!(open.json().await["action"], "CRITICAL_LOCK");
    let beat = client.post("/v1/signals/heartbeat", Some(&phone.access_token), &phone.calm()).await.unwrap();
    assert_eq!(beat.status, 401, "its session is over");
    let mut socket = Raw::with_token(&endpoint, &phone.access_token).await;
    assert_eq!(open.closed().await, 4001);
    assert_eq!(socket.json().await["payload"]["mode"], "commands_only");
    assert_eq!(socket.json().await["action"], "CRITICAL_LOCK");

    // Also when it was locked before for something milder: it has to forget its tokens.
    let mut locked = server.enroll("BR-3").await.unwrap();
    assert_eq!(locked.beat(&locked.hostile()).await.unwrap().status, 200);
    let body = json!({ "refresh_token": locked.refresh_token });
    assert_eq!(client.post("/v1/auth/refresh", None, &body).await.unwrap().status, 200);
    server.clock.advance(Duration::from_secs(11));
    assert_eq!(client.post("/v1/auth/refresh", None, &body).await.unwrap().status, 403);
    let mut socket = Raw::with_token(&endpoint, &locked.access_token).await;
    for action in ["AUTH_OK", "LOCK_SYSTEM", "CRITICAL_LOCK"] {
        assert_eq!(socket.json().await["action"], action);
    }

    let mut open = connect(&server, &leaver).await;
    let empty = bytes::Bytes::new();
    let out = client.post_bytes("/v1/auth/logout", Some(&leaver.access_token), empty).await.unwrap();
    assert_eq!(out.status, 204);
    assert_eq!(open.closed().await, 1008);
    let mut socket = Raw::with_token(&endpoint, &leaver.access_token).await;
    assert_eq!(socket.closed().await, 1008, "logged out is out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_answered_and_only_what_cannot_be_text_ends_the_socket() {
    let server = Server::start().await.unwrap();
    let phone = server.enroll("BR-1").await.unwrap();
    let mut socket = connect(&server, &phone).await;
    let deep = "[".repeat(60_000);
    for (nonsense, code) in [
        ("", "malformed_json"),
        ("hello", "malformed_json"),
        ("[]", "invalid_request"),
        ("{\"type\":1}", "invalid_request"),
        ("{\"type\":\"ack\",\"type\":\"heartbeat\"}", "invalid_request"),
        (deep.as_str(), "malformed_json"),
        ("{\"type\":\"ack\"}", "invalid_request"),
        ("{\"type\":\"ack\",\"command_id\":\"cmd_x\",\"status\":\"done\"}", "invalid_request"),
        ("{\"type\":\"heartbeat\",\"device_id\":\"BR-1\"}", "invalid_request"),
        ("{\"type\":\"shutdown\"}", "invalid_request"),
        ("{}", "invalid_request"),
    ] {
        socket.send(Message::text(nonsense)).await;
        let answer = socket.json().await;
        let shown: String = nonsense.chars().take(60).collect();
        assert_eq!((text(&answer, "type"), text(&answer, "code")), ("error".into(), code.to_owned()), "{shown}");
        assert!(answer["status"].is_u64() && answer["request_id"].is_string());
    }
    socket.is_quiet().await;
    let piece = |len: usize, opcode: Data, last: bool| {
        Message::Frame(Frame::message(vec![b' '; len], OpCode::Data(opcode), last))
    };
    for (what, messages, code) in [
        ("binary", vec![Message::binary(vec![1, 2, 3])], 1003),
        ("one frame over the limit", vec![Message::text(" ".repeat(64 * 1024 + 1))], 1009),
        (
            "a message over the limit in pieces",
            {
                let mut pieces = vec![piece(30_000, Data::Text, false), piece(30_000, Data::Continue, false)];
                pieces.push(piece(30_000, Data::Continue, true));
                pieces
            },
            1009,
        ),
        (
            "text that is not UTF-8",
            vec![Message::Frame(Frame::message(vec![0xff], OpCode::Data(Data::Text), true))],
            1007,
        ),
    ] {
        let mut socket = connect(&server, &phone).await;
        for message in messages {
            // The server may have closed before the last piece.
            let _ = socket.stream.send(message).await;
        }
        assert_eq!(socket.closed().await, code, "{what}");
    }
    let mut socket = connect(&server, &phone).await;
    socket.send(Message::text(" ".repeat(64 * 1024))).await;
    assert_eq!(socket.json().await["code"], "malformed_json", "the limit itself is allowed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_over_the_socket_are_those_of_http() {
    let server = Server::start().await.unwrap();
    let mut phone = server.enroll("BR-1").await.unwrap();
    let mut socket = connect(&server, &phone).await;
    let typed = |mut beat: Value| {
        beat["type"] = json!("heartbeat");
        beat
    };
    let by_http: Value = phone.beat(&phone.calm()).await.unwrap().json().unwrap();
    socket.say(&typed(phone.calm())).await;
    let mut by_socket = socket.json().await;
    assert_eq!(by_socket.as_object_mut().unwrap().remove("type"), Some(json!("heartbeat_ack")));
    let names = |v: &Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&by_socket), names(&by_http));
    let mut other = typed(phone.calm());
    other["device_id"] = json!("BR-2");
    socket.say(&other).await;
    assert_eq!(socket.json().await["code"], "device_mismatch");

    // What older clients say.
    let legacy = |mirroring: bool| {
        json!({ "device_id": "BR-1", "accessibility_active": mirroring, "window_mirroring": mirroring,
                "timestamp": 1_767_225_600, "threat_level": "LOW", "sensors_active": ["accelerometer"] })
    };
    socket.say(&legacy(false)).await;
    assert_eq!(socket.json().await["action"], "STATUS_SAFE");

    // The expiry of the token does not close what is open.
    server.clock.advance(Duration::from_secs(3_600));
    socket.say(&typed(phone.calm())).await;
    assert_eq!(socket.json().await["type"], "heartbeat_ack");

    socket.say(&typed(phone.hostile())).await;
    let mut frames = [socket.json().await, socket.json().await];
    frames.sort_by_key(|f| f.get("action").is_some());
    assert_eq!((&frames[0]["type"], &frames[0]["decision"]), (&json!("heartbeat_ack"), &json!("block")));
    assert_eq!(frames[1]["action"], "LOCK_SYSTEM");
    assert_eq!(frames[1]["payload"]["signal_id"], frames[0]["signal_id"]);
    for message in [typed(phone.calm()), legacy(false)] {
        socket.say(&message).await;
        assert_eq!(socket.json().await["code"], "device_blocked");
    }
    // The rate is the subscription's, whichever way a heartbeat comes.
    let mut refused = 0;
    for _ in 0..121 {
        socket.say(&typed(phone.calm())).await;
        refused += usize::from(socket.json().await["code"] == "rate_limited");
    }
    assert!(refused > 0);
    socket.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_clients_mirroring_is_answered_by_a_lock() {
    let server = Server::start().await.unwrap();
    let phone = server.enroll("BR-1").await.unwrap();
    let mut socket = connect(&server, &phone).await;
    let status = json!({ "device_id": "BR-1", "accessibility_active": true, "window_mirroring": true,
                         "timestamp": "now", "threat_level": 9, "sensors_active": true });
    socket.say(&status).await;
    let answer = socket.json().await;
    assert!(["LOCK_SYSTEM", "STATUS_AUDIT"].contains(&text(&answer, "action").as_str()), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_not_paid_gets_his_locks_and_then_the_door() {
    let server = Server::start().await.unwrap();
    let phone = server.enroll("BR-1").await.unwrap();
    server.clock.advance(Duration::from_secs(7 * 86_400 - 60));
    let mut client = server.client().unwrap();
    let body = json!({ "refresh_token": phone.refresh_token });
    let pair: Value = client.post("/v1/auth/refresh", None, &body).await.unwrap().json().unwrap();
    let token = text(&pair, "access_token");
    let office = Office::of(&server).await;
    let asked = office.command("BR-1", json!({ "action": "FORCE_OVERLAY", "reason": "pay" })).await;
    server.clock.advance(Duration::from_secs(61));
    let mut socket = Raw::with_token(&server.endpoint().unwrap(), &token).await;
    let (frames, code) = socket.rest().await;
    assert_eq!(code, 4003);
    assert_eq!((frames.len(), &frames[0]["action"]), (2, &json!("AUTH_OK")));
    assert_eq!(frames[1]["command_id"], asked["command_id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_socket_is_forgotten() {
    let server = Server::start().await.unwrap();
    let phone = server.enroll("BR-1").await.unwrap();
    let mut socket = connect(&server, &phone).await;
    assert_eq!(server.app().services.killswitch.hub().len(), 1);
    let _ = socket.stream.close(None).await;
    drop(socket);
    assert!(eventually(|| server.app().services.killswitch.hub().is_empty()).await);
}
