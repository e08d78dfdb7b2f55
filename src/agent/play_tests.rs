//! A fleet against a server of a few lines that knows the contract from the other side, over real TLS.
//!
//! It locks whoever says that his screen is mirrored, and it is not fair: it loses answers, drops sockets, redelivers,
//! and sends forged frames. The real server has its own tests; these are about what a device does.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::motion::AttackKind;
use super::{AgentError, Options, Output, State, Summary, Transport, play};
use crate::client::frame::Decision;
use crate::crypto::{SigningKey, jcs, sign_compact};
use crate::kernel::ids::CommandId;
use crate::kernel::{Clock, Random};

/// What the server does besides its duty.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Fair,
    /// The first answer to each heartbeat number 2 is lost together with the socket.
    LosesAnswers,
    /// Before each genuine frame comes a forged lock.
    AddsForgeries,
    /// Whoever says that he is locked is unlocked.
    Unlocks,
    /// Tokens last a second.
    ShortTokens,
    /// Nobody may enroll.
    RefusesEnrollment,
}

struct Server {
    mood: Mood,
    key: SigningKey,
    forger: SigningKey,
    world: Mutex<World>,
}

#[derive(Default)]
struct World {
    /// By device: heartbeats that counted, by their number.
    heartbeats: HashMap<String, Vec<(u64, usize)>>,
    lost_once: HashSet<String>,
    locks: HashMap<String, String>,
    unlocked: HashSet<String>,
    /// By device: how often its token was refreshed.
    generations: HashMap<String, u64>,
    /// Somebody presented a token that was not the current one.
    outdated: Vec<String>,
    acks: Vec<(String, String)>,
    /// TLS connections.
    connections: usize,
    sockets: usize,
}

impl Server {
    fn frame(&self, key: &SigningKey, device: &str, action: &str, seq: u64) -> String {
        let now = Clock::System.now();
        let mut members = json!({
            "action": action, "command_id": CommandId::generate(now, &Random::System), "seq": seq, "device_id": device,
            "issued_at": now, "expires_at": now.plus(Duration::from_secs(60)), "reason": "mirrored", "payload": {},
        });
        let canonical = jcs::canonicalize(&members).unwrap();
        members["signature"] = sign_compact("br-command+jws", canonical.as_bytes(), key).into();
        members["timestamp"] = now.as_millis().into();
        members.to_string()
    }

    fn tokens(&self, device: &str, generation: u64) -> Value {
        let token = format!("access.{generation}.{device}");
        let expires_in = if self.mood == Mood::ShortTokens { 1 } else { 900 };
        json!({"token": token, "access_token": token, "refresh_token": format!("refresh.{generation}.{device}"),
            "expires_in": expires_in, "token_type": "Bearer", "session_id": "ses_x"})
    }

    /// The answer, and a lock where there is to be one. `None` when the answer gets lost.
    fn heartbeat(&self, beat: &Value) -> Option<(Value, Option<String>)> {
        let device = beat["device_id"].as_str().unwrap().to_owned();
        let seq = beat["seq"].as_u64().unwrap();
        let readings = beat["readings"].as_array().unwrap();
        let mut world = self.world.lock().unwrap();
        let known = world.heartbeats.entry(device.clone()).or_default();
        if known.last().is_none_or(|(last, _)| seq > *last) {
            known.push((seq, readings.len()));
        }
        if self.mood == Mood::LosesAnswers && seq == 2 && world.lost_once.insert(device.clone()) {
            return None;
        }
        let hostile = readings.iter().any(|r| r["window_mirroring"] == true);
        let lock = hostile.then(|| self.frame(&self.key, &device, "LOCK_SYSTEM", 1));
        if let Some(lock) = &lock {
            world.locks.insert(device, lock.clone());
        }
        let (score, decision) = if hostile { (3, "block") } else { (91, "allow") };
        let answer = json!({"status": "accepted", "trust_score": score, "trust_hint": score, "decision": decision,
            "threshold": 40, "engine": "full", "signal_id": "sig_x", "next_heartbeat_ms": 50});
        Some((answer, lock))
    }

    async fn answer(self: Arc<Self>, mut request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
        let reply = |status: u16, body: Value| {
            Ok(Response::builder().status(status).body(Full::new(Bytes::from(body.to_string()))).unwrap())
        };
        let path = request.uri().path().to_owned();
        if path == "/v1/security/kill-switch" {
            let header = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
            let protocols = header("sec-websocket-protocol");
            let (protocol, token) = protocols.split_once(", ").unwrap();
            assert_eq!(protocol, "blockremote.v1");
            let device = token.rsplit('.').next().unwrap().to_owned();
            let accept = derive_accept_key(header("sec-websocket-key").as_bytes());
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let stream = TokioIo::new(upgrade.await.unwrap());
                let socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
                self.socket(socket, &device).await;
            });
            let switching =
                Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
            let switching = switching.header("sec-websocket-accept", accept).header("sec-websocket-protocol", protocol);
            return Ok(switching.body(Full::default()).unwrap());
        }
        let bearer = request.headers().get("authorization").map(|v| v.to_str().unwrap().to_owned());
        let body = request.into_body().collect().await?.to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        match path.as_str() {
            "/.well-known/jwks.json" => {
                let jwk = self.key.verifying().to_jwk().published_as(self.key.kid());
                reply(200, json!({"keys": [jwk]}))
            }
            "/v1/auth/device" if self.mood == Mood::RefusesEnrollment => {
                reply(401, json!({"status": 401, "code": "enrollment_refused", "detail": "The token has expired."}))
            }
            "/v1/auth/device" => {
                assert_eq!((&body["enrollment_token"], &body["public_key"]["crv"]), (&"bre_x".into(), &"P-256".into()));
                reply(201, self.tokens(body["device_id"].as_str().unwrap(), 0))
            }
            "/v1/auth/refresh" => {
                let token = body["refresh_token"].as_str().unwrap().to_owned();
                let device = token.rsplit('.').next().unwrap().to_owned();
                let generation = {
                    let mut world = self.world.lock().unwrap();
                    let generation = world.generations.get(&device).copied().unwrap_or(0);
                    if token != format!("refresh.{generation}.{device}") {
                        world.outdated.push(token);
                    }
                    world.generations.insert(device.clone(), generation + 1);
                    generation + 1
                };
                reply(200, self.tokens(&device, generation))
            }
            "/v1/signals/heartbeat" => {
                {
                    let mut world = self.world.lock().unwrap();
                    let device = body["device_id"].as_str().unwrap();
                    let generation = world.generations.get(device).copied().unwrap_or(0);
                    if bearer != Some(format!("Bearer access.{generation}.{device}")) {
                        world.outdated.push(bearer.unwrap_or_default());
                    }
                }
                let (answer, lock) = self.heartbeat(&body).unwrap();
                // The frame takes the socket, which looks for it every few milliseconds.
                drop(lock);
                reply(200, answer)
            }
            _ => reply(404, json!({"code": "not_found"})),
        }
    }

    async fn socket<S>(&self, mut socket: WebSocketStream<S>, device: &str)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        self.world.lock().unwrap().sockets += 1;
        let hello = self.frame(&self.key, device, "AUTH_OK", 0);
        if socket.send(Message::text(hello)).await.is_err() {
            return;
        }
        let mut sent = false;
        loop {
            let lock = self.world.lock().unwrap().locks.get(device).cloned();
            if let (Some(lock), false) = (lock, sent) {
                sent = true;
                // Once more than necessary: a redelivery.
                for frame in [lock.clone(), lock] {
                    let _ = socket.send(Message::text(frame)).await;
                }
            }
            let message = tokio::time::timeout(Duration::from_millis(5), socket.next()).await;
            let text = match message {
                Err(_) => continue,
                Ok(Some(Ok(Message::Text(text)))) => text,
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => continue,
                Ok(_) => return,
            };
            let value: Value = serde_json::from_str(&text).unwrap();
            if value["type"] == "ack" {
                let ack = (device.to_owned(), value["status"].as_str().unwrap().to_owned());
                let enforced = ack.1 == "enforced";
                let unlock = {
                    let mut world = self.world.lock().unwrap();
                    world.acks.push(ack);
                    self.mood == Mood::Unlocks && enforced && world.unlocked.insert(device.to_owned())
                };
                if unlock {
                    let frame = self.frame(&self.key, device, "UNLOCK", 2);
                    let _ = socket.send(Message::text(frame)).await;
                }
                continue;
            }
            assert_eq!(value["type"], "heartbeat");
            let Some((mut answer, _)) = self.heartbeat(&value) else { return };
            if self.mood == Mood::AddsForgeries {
                let forged = self.frame(&self.forger, device, "CRITICAL_LOCK", 9_000);
                let elsewhere = self.frame(&self.key, "somebody-else", "CRITICAL_LOCK", 9_001);
                for frame in [forged, elsewhere, "{\"action\":1}".to_owned(), "x".to_owned()] {
                    let _ = socket.send(Message::text(frame)).await;
                }
            }
            answer["type"] = "heartbeat_ack".into();
            let _ = socket.send(Message::text(answer.to_string())).await;
        }
    }
}

async fn run(mood: Mood, change: impl FnOnce(&mut Options)) -> (Result<Summary, AgentError>, Arc<Server>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, certificate.pem()).unwrap();
    let chain = vec![certificate.der().clone()];
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_no_client_auth().with_single_cert(chain, key.serialize_der().try_into().unwrap()).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let keys = (SigningKey::generate(&Random::seeded(1)), SigningKey::generate(&Random::seeded(2)));
    let server = Arc::new(Server { mood, key: keys.0, forger: keys.1, world: Mutex::default() });
    let served = Arc::clone(&server);
    let serving = tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let (acceptor, server) = (acceptor.clone(), Arc::clone(&served));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(tcp).await else { return };
                server.world.lock().unwrap().connections += 1;
                let service = hyper::service::service_fn(move |r| Arc::clone(&server).answer(r));
                let http = hyper::server::conn::http1::Builder::new();
                let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
            });
        }
    });
    let mut options = Options {
        devices: 6,
        taken_over: 2,
        takeover_after: Duration::from_millis(100),
        attacks: vec![AttackKind::Mirroring],
        heartbeat_interval: Duration::from_millis(100),
        settle: Duration::from_millis(500),
        output: Output::Nothing,
        ..Options::new(format!("https://localhost:{port}"), ca, "bre_x")
    };
    change(&mut options);
    let outcome = play(&options, &Clock::System, &Random::seeded(5)).await;
    serving.abort();
    (outcome, server)
}

#[tokio::test]
async fn exactly_the_taken_over_devices_are_locked_over_either_transport() {
    let (socket, http) = tokio::join!(run(Mood::Fair, |_| {}), run(Mood::Fair, |o| o.transport = Transport::Http));
    for (transport, (summary, server)) in [(Transport::Socket, socket), (Transport::Http, http)] {
        let summary = summary.unwrap();
        assert!(summary.ok, "{transport:?}: {summary:?}");
        assert_eq!((summary.locked, summary.wrongly_locked), (2, 0));
        let times = summary.time_to_lock.unwrap();
        assert!(times.max_ms < 5_000, "{times:?}");
        let world = server.world.lock().unwrap();
        assert_eq!(world.sockets, 6, "one each");
        // The key set once; for each device its enrollment, its proof, its socket, and one warm connection for all its
        // heartbeats.
        let warm = if transport == Transport::Http { 6 } else { 0 };
        assert_eq!(world.connections, 1 + 6 + 6 + 6 + warm, "{transport:?}");
        // Delivered and enforced, and both again for the redelivery.
        let locked: HashSet<_> = world.acks.iter().map(|(device, _)| device).collect();
        assert_eq!((locked.len(), world.acks.len()), (2, 8), "{:?}", world.acks);
    }
}

#[tokio::test]
async fn a_heartbeat_whose_answer_was_lost_is_repeated_and_counts_once() {
    let (summary, server) =
        run(Mood::LosesAnswers, |o| (o.taken_over, o.stop_after) = (0, Some(Duration::from_millis(1_400)))).await;
    let summary = summary.unwrap();
    assert!(summary.ok, "{summary:?}");
    let world = server.world.lock().unwrap();
    assert_eq!(world.lost_once.len(), 6);
    assert!(world.sockets >= 12, "every device came back");
    for (device, beats) in &world.heartbeats {
        assert!(beats.windows(2).all(|w| w[1].0 == w[0].0 + 1), "{device} left out a number: {beats:?}");
        assert!(beats.iter().all(|(_, readings)| (1..=100).contains(readings)));
    }
}

#[tokio::test]
async fn forged_locks_lock_nobody_and_real_ones_still_do() {
    let (summary, server) = run(Mood::AddsForgeries, |_| {}).await;
    let summary = summary.unwrap();
    assert!(summary.ok, "{summary:?}");
    let world = server.world.lock().unwrap();
    assert_eq!(world.acks.len(), 8, "no forgery was acknowledged: {:?}", world.acks);
}

#[tokio::test]
async fn a_refused_enrollment_ends_the_run_with_the_servers_words() {
    let (outcome, _) = run(Mood::RefusesEnrollment, |_| {}).await;
    let message = outcome.unwrap_err().to_string();
    assert!(message.contains("The token has expired.") && message.contains("admin token enroll"), "{message}");
}

#[tokio::test]
async fn an_unlocked_device_is_its_owners_again_and_goes_on() {
    let (summary, server) = run(Mood::Unlocks, |_| {}).await;
    let summary = summary.unwrap();
    // It was locked when it had to be: that it was unlocked later does not change the verdict.
    assert!(summary.ok, "{summary:?}");
    assert!(
        summary.devices.iter().all(|r| r.state == State::Online && r.decision == Some(Decision::Allow)),
        "{summary:?}"
    );
    let world = server.world.lock().unwrap();
    // The lock, its redelivery and the unlock, delivered and enforced each, for both.
    assert_eq!((world.unlocked.len(), world.acks.len()), (2, 12), "{:?}", world.acks);
}

#[tokio::test]
async fn tokens_are_refreshed_in_time_and_never_used_twice() {
    let short = |o: &mut Options| {
        (o.devices, o.taken_over, o.transport) = (3, 0, Transport::Http);
        o.stop_after = Some(Duration::from_millis(1_700));
    };
    let (summary, server) = run(Mood::ShortTokens, short).await;
    assert!(summary.unwrap().ok);
    let world = server.world.lock().unwrap();
    assert!(world.outdated.is_empty(), "{:?}", world.outdated);
    assert!(world.generations.len() == 3 && world.generations.values().all(|g| *g >= 1), "{:?}", world.generations);
}
