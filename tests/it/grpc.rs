//! gRPC with mutual TLS, as Google's own library speaks it: the same answers as over HTTP, and nobody gets in whose
//! certificate and token are not one living device's.

mod limits;
pub mod peer;
mod strangers;

use blockremote::client::socket::Event;
use blockremote::client::{Socket, frame::Incoming};
use blockremote::crypto::SigningKey;
use blockremote::gate::routes::ROUTES;
use blockremote::gate::{Access, Door};
use blockremote::kernel::Random;
use blockremote::kernel::context::Origin;
use blockremote::testkit::{Device, Fault, Server, text};
use serde_json::{Value, json};

pub use self::peer::csr;
use self::peer::{Channel, Identity, Peer};
use crate::common::{
    DAY, Done, add_user, assert_refused, audited, body, enroll_with, enrollment, enrollment_token, first_tenant,
    second_tenant,
};
use crate::people::{ask, done};

/// An appliance, a device with a certificate, and a channel that shows it.
struct Site {
    server: Server,
    peer: Peer,
    device: Device,
    identity: Identity,
    channel: Channel,
}

impl Site {
    async fn new() -> Result<Option<Self>, Fault> {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut blockremote::config::Config)) -> Result<Option<Self>, Fault> {
        let server = Server::start_with(change).await?;
        let Some(mut peer) = Peer::start(&server)? else { return Ok(None) };
        let device = server.enroll("BR-1").await?;
        let tenant = first_tenant(&server).await?;
        let identity = peer.issued(&server, tenant, "BR-1").await?;
        let channel = peer.open(Some(&identity))?;
        Ok(Some(Self { server, peer, device, identity, channel }))
    }

    fn call(&mut self, method: &str, request: &Value) -> Result<Value, Fault> {
        self.peer.call(&self.channel, method, &self.device.access_token, request)
    }

    async fn command(&self, action: &str) -> Done {
        let admin = self.server.admin_token().await?;
        let body = json!({ "action": action, "reason": "a test" });
        ask(&self.server, &admin, "POST", "/v1/devices/BR-1/commands", body).await?.success()?;
        Ok(())
    }
}

fn assert_ended(answer: &Value, status: &str, code: &str) {
    assert_eq!(
        (text(answer, "code"), text(&answer["trailers"], "blockremote-code")),
        (status.into(), code.into()),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_heartbeat_over_grpc_is_one_over_http() -> Done {
    let Some(mut site) = Site::new().await? else { return Ok(()) };
    let beat = site.device.calm();
    let answer = site.call("Heartbeat", &beat)?;
    assert_eq!(answer["code"], "OK", "{answer}");
    let said = &answer["response"];
    assert_eq!((&said["status"], &said["decision"]), (&json!("accepted"), &json!("allow")), "{said}");
    assert!(text(said, "signal_id").starts_with("sig_"));
    assert_eq!(text(&answer["initial"], "x-plan-tier"), "trial");
    assert!(text(&answer["initial"], "x-request-id").starts_with("req_"), "{answer}");
    // One of the two a minute's counters was moved by each door.
    let http = site.device.beat(&beat).await?;
    let left = |v: &str| v.parse::<u32>().unwrap_or_default();
    let remaining = crate::common::header(&http, "x-ratelimit-remaining");
    assert_eq!(left(&text(&answer["initial"], "x-ratelimit-remaining")), left(remaining) + 1);
    let score = site.call("GetTrustScore", &json!({}))?;
    let token = site.device.access_token.clone();
    let over_http: Value =
        site.device.client.get("/v1/security/trust-score?device_id=BR-1", Some(&token)).await?.json()?;
    let whole: Value = serde_json::from_str(&text(&score["response"], "json"))?;
    assert_eq!(whole, over_http);
    assert_eq!(score["response"]["score"], over_http["score"]);
    // The same words for what is wrong.
    let wrong =
        json!({ "device_id": "BR-1", "payload": { "accelerometer": [1.0, 2.0], "gyroscope": [0.0, 0.0, 0.0] } });
    let answer = site.call("Heartbeat", &wrong)?;
    assert_ended(&answer, "INVALID_ARGUMENT", "invalid_request");
    let nan =
        site.peer.call_with(&site.channel, "Heartbeat", &site.device.access_token, &beat, &json!({ "nan": true }))?;
    assert_ended(&nan, "INVALID_ARGUMENT", "invalid_request");
    let other = json!({ "device_id": "BR-2", "payload": beat["payload"] });
    assert_ended(&site.call("Heartbeat", &other)?, "PERMISSION_DENIED", "device_mismatch");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn each_message_of_a_stream_is_acknowledged_and_a_bad_one_ends_nothing() -> Done {
    let Some(mut site) = Site::new().await? else { return Ok(()) };
    let token = site.device.access_token.clone();
    let stream = site.peer.stream(&site.channel, "StreamHeartbeats", &token)?;
    for seq in 1..=3 {
        let mut beat = site.device.calm();
        beat["seq"] = json!(seq);
        site.peer.send(&stream, &beat)?;
        let ack = site.peer.hear(&stream)?;
        assert_eq!(ack["message"]["number"], seq.to_string(), "{ack}");
        assert_eq!(ack["message"]["accepted"]["decision"], "allow", "{ack}");
    }
    let mut old = site.device.calm();
    old["seq"] = json!(1);
    site.peer.send(&stream, &old)?;
    let ack = site.peer.hear(&stream)?;
    let refused = &ack["message"]["refused"];
    assert_eq!((&refused["status"], &refused["code"]), (&json!(409), &json!("seq_replayed")), "{ack}");
    site.peer.send(&stream, &json!({ "device_id": "BR-1", "readings": [] }))?;
    let ack = site.peer.hear(&stream)?;
    assert_eq!(ack["message"]["refused"]["errors"][0]["pointer"], "/payload", "{ack}");
    // The takeover itself is answered; the next message finds a blocked device, and that is the end.
    let hostile = site.device.hostile();
    site.peer.send(&stream, &hostile)?;
    let ack = site.peer.hear(&stream)?;
    assert_eq!(ack["message"]["accepted"]["decision"], "block", "{ack}");
    let calm = site.device.calm();
    site.peer.send(&stream, &calm)?;
    assert_ended(&site.peer.hear(&stream)?, "FAILED_PRECONDITION", "device_blocked");
    assert_ended(&site.call("Heartbeat", &calm)?, "FAILED_PRECONDITION", "device_blocked");
    let again = site.peer.stream(&site.channel, "StreamHeartbeats", &token)?;
    assert_ended(&site.peer.hear(&again)?, "FAILED_PRECONDITION", "device_blocked");
    Ok(())
}

/// A lock must reach the phone whichever way it listens, and its signature must hold on either.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_kill_switch_sends_the_bytes_of_the_socket_until_the_command_has_ended() -> Done {
    let Some(mut site) = Site::new().await? else { return Ok(()) };
    let token = site.device.access_token.clone();
    let stream = site.peer.stream(&site.channel, "Commands", &token)?;
    site.peer.send(&stream, &json!({}))?;
    let hello: Value = serde_json::from_str(&text(&site.peer.hear(&stream)?["message"], "frame"))?;
    assert_eq!((&hello["action"], &hello["payload"]["mode"]), (&json!("AUTH_OK"), &json!("full")));
    site.command("LOCK_SYSTEM").await?;
    let frame = text(&site.peer.hear(&stream)?["message"], "frame");
    let command: Value = serde_json::from_str(&frame)?;
    assert_eq!(command["action"], "LOCK_SYSTEM");
    // A socket of the same device takes over, and gets the same bytes again: the lock has not ended.
    let mut socket = crate::killswitch::raw::Raw::with_token(&site.server.endpoint()?, &token).await;
    socket.text().await;
    assert_eq!(socket.text().await, frame);
    assert_ended(&site.peer.hear(&stream)?, "ABORTED", "replaced");
    // And the other way round.
    let stream = site.peer.stream(&site.channel, "Commands", &token)?;
    site.peer.send(&stream, &json!({}))?;
    let hello: Value = serde_json::from_str(&text(&site.peer.hear(&stream)?["message"], "frame"))?;
    assert_eq!(hello["payload"]["mode"], "commands_only", "it is blocked");
    assert_eq!(text(&site.peer.hear(&stream)?["message"], "frame"), frame);
    let ack = json!({ "command_id": command["command_id"], "status": "enforced" });
    assert_eq!(site.call("Acknowledge", &ack)?["response"]["status"], "enforced");
    let foreign = json!({ "command_id": "cmd_00000000-0000-7000-8000-000000000000", "status": "enforced" });
    assert_ended(&site.call("Acknowledge", &foreign)?, "NOT_FOUND", "not_found");
    let admin = site.server.admin_token().await?;
    done(&site.server, &admin, "POST", "/v1/devices/BR-1/unblock", json!({ "reason": "found" })).await?;
    let unlock: Value = serde_json::from_str(&text(&site.peer.hear(&stream)?["message"], "frame"))?;
    assert_eq!(unlock["action"], "UNLOCK");
    site.peer.cancel(&stream)?;
    let mut socket = Socket::connect(&site.server.endpoint()?, &token).await?;
    for expected in ["AUTH_OK", "UNLOCK"] {
        let Event::Frame(Incoming::Command(frame)) = socket.next().await else { return Err(expected.into()) };
        assert_eq!(frame.action.as_str(), expected, "the enforced lock does not come again");
    }
    assert!(audited(&site.server, "BR-1").await?.contains(&"command_enforced".to_owned()));
    Ok(())
}

/// Each row, by whoever should not get in.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn certificate_and_token_must_be_those_of_one_living_device() -> Done {
    let Some(mut site) = Site::with(|c| c.limits.auth_failures_per_minute = 100_000).await? else { return Ok(()) };
    let tenant = first_tenant(&site.server).await?;
    let other = site.server.enroll("BR-2").await?;
    // A device of the same name in another tenant is another device.
    let neighbour = second_tenant(&site.server).await?;
    add_user(&site.server, neighbour, "neighbour", "admin").await?;
    let ticket = enrollment_token(&site.server, neighbour, None).await?;
    let twin = body(&enroll_with(&site.server, None, &enrollment("BR-1", Some(&ticket))).await?);
    let viewer = text(&add_user(&site.server, tenant, "viewer", "viewer").await?, "access_token");
    let gone = site.server.enroll("BR-3").await?;
    let identity_of_gone = site.peer.issued(&site.server, tenant, "BR-3").await?;
    let admin = site.server.admin_token().await?;
    done(&site.server, &admin, "DELETE", "/v1/devices/BR-3", Value::Null).await?;
    let revoked = site.peer.issued(&site.server, tenant, "BR-1").await?;
    let certificates = &site.server.app().services.certificates;
    let ended = certificates.revoke(revoked.serial.clone(), "lost".to_owned(), Origin::cli()).await;
    ended.map_err(|e| format!("{} could not be revoked: {e}", revoked.serial))?;
    let own = site.device.access_token.clone();
    let (revoked, gone_channel) = (site.peer.open(Some(&revoked))?, site.peer.open(Some(&identity_of_gone))?);
    let rows: Vec<_> =
        ROUTES.iter().filter(|r| r.door == Door::Grpc && !matches!(r.access, Access::Public(_))).collect();
    assert_eq!(rows.len(), 6);
    for route in rows {
        for (what, channel, token, code) in [
            ("no token", &site.channel, "", "unauthenticated"),
            ("garbage", &site.channel, "not.a.token", "unauthenticated"),
            (
                "a person's token",
                &site.channel,
                &viewer,
                if route.path.ends_with("Commands") || route.path.ends_with("Acknowledge") {
                    "unauthenticated"
                } else {
                    "certificate_mismatch"
                },
            ),
            ("another device's token", &site.channel, &other.access_token, "certificate_mismatch"),
            ("the twin's token", &site.channel, &text(&twin, "access_token"), "certificate_mismatch"),
            ("a revoked certificate", &revoked, &own, "certificate_refused"),
            ("a removed device", &gone_channel, &gone.access_token, "certificate_refused"),
        ] {
            let raw = json!({ "raw": "" });
            let answer = site.peer.call_with(channel, route.path, token, &json!({}), &raw)?;
            assert_eq!(answer["code"], "UNAUTHENTICATED", "{} with {what}: {answer}", route.path);
            assert_eq!(text(&answer["trailers"], "blockremote-code"), code, "{} with {what}", route.path);
        }
    }
    // Health is nobody's in particular, but not everybody's.
    let check = "/grpc.health.v1.Health/Check";
    assert_eq!(site.peer.call(&site.channel, check, "", &json!({}))?["response"]["status"], "SERVING");
    assert_ended(&site.peer.call(&revoked, check, "", &json!({}))?, "UNAUTHENTICATED", "certificate_refused");
    // Who shows no certificate of ours does not get through the handshake.
    let own_made = rcgen::generate_simple_self_signed(vec!["BR-1".to_owned()])?;
    let self_made = site.peer.keep(&own_made.cert.pem(), &own_made.signing_key.serialize_pem(), "")?;
    for identity in [None, Some(&self_made)] {
        let channel = site.peer.open(identity)?;
        let more = json!({ "timeout": 3 });
        let answer = site.peer.call_with(&channel, check, "", &json!({}), &more)?;
        assert!(answer["code"] == "UNAVAILABLE" || answer["code"] == "DEADLINE_EXCEEDED", "{answer}");
        site.peer.close(channel)?;
    }
    assert_eq!(site.call("Heartbeat", &site.device.calm())?["code"], "OK", "the rightful device was let in all along");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_revocation_ends_open_streams_and_an_end_of_life_closes_the_open_connection() -> Done {
    let Some(mut site) = Site::with(|c| c.tokens.access_ttl = 60 * DAY).await? else { return Ok(()) };
    let token = site.device.access_token.clone();
    let tenant = first_tenant(&site.server).await?;
    let second = site.peer.issued(&site.server, tenant, "BR-1").await?;
    let channel = site.peer.open(Some(&second))?;
    let stream = site.peer.stream(&channel, "Commands", &token)?;
    site.peer.send(&stream, &json!({}))?;
    site.peer.hear(&stream)?;
    let beats = site.peer.stream(&channel, "StreamHeartbeats", &token)?;
    let beat = site.device.calm();
    site.peer.send(&beats, &beat)?;
    site.peer.hear(&beats)?;
    let certificates = site.server.app().services.certificates.clone();
    certificates.revoke(second.serial.clone(), "lost".to_owned(), Origin::cli()).await?;
    assert_ended(&site.peer.hear(&stream)?, "UNAUTHENTICATED", "certificate_refused");
    assert_ended(&site.peer.hear(&beats)?, "UNAUTHENTICATED", "certificate_refused");
    let answer = site.peer.call(&channel, "Heartbeat", &token, &beat)?;
    assert_ended(&answer, "UNAUTHENTICATED", "certificate_refused");
    assert_eq!(site.call("Heartbeat", &beat)?["code"], "OK", "the device's other certificate counts on");
    let open = site.peer.stream(&site.channel, "StreamHeartbeats", &token)?;
    site.peer.send(&open, &beat)?;
    assert!(site.peer.hear(&open)?["message"].is_object());
    // The certificate ends while the connection stands.
    site.server.clock.advance(31 * DAY);
    site.peer.send(&open, &beat)?;
    assert_ended(&site.peer.hear(&open)?, "UNAUTHENTICATED", "unauthenticated");
    assert_ended(&site.call("Heartbeat", &beat)?, "UNAUTHENTICATED", "certificate_refused");
    let late = site.peer.open(Some(&site.identity))?;
    let answer = site.peer.call_with(&late, "Heartbeat", &token, &beat, &json!({ "timeout": 3 }))?;
    assert!(answer["code"] == "UNAVAILABLE" || answer["code"] == "DEADLINE_EXCEEDED", "{answer}");
    // The clock had run ahead: what it ended counts again, what was revoked does not.
    site.server.clock.set(site.server.clock.now().minus(31 * DAY));
    assert_eq!(site.call("Heartbeat", &beat)?["code"], "OK");
    site.server.clock.advance(31 * DAY);
    // A list knows what was revoked.
    let listed = certificates.list(None, None).await?.0;
    let states: Vec<&str> = listed.iter().map(|c| c.state).collect();
    assert_eq!((states.len(), states.contains(&"revoked"), states.contains(&"expired")), (2, true, true), "{states:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_device_renews_its_certificate_by_the_present_one_and_a_stolen_token_gets_none() -> Done {
    let Some(mut site) = Site::new().await? else { return Ok(()) };
    let token = site.device.access_token.clone();
    let fresh = SigningKey::generate(&Random::System).to_pkcs8_pem()?;
    let answer = site.call("RenewCertificate", &json!({ "csr": csr(&fresh)? }))?;
    assert_eq!(answer["code"], "OK", "{answer}");
    let made = &answer["response"];
    let renewed = site.peer.keep(&text(made, "certificate"), &fresh, &text(made, "serial"))?;
    let channel = site.peer.open(Some(&renewed))?;
    let beat = site.device.calm();
    assert_eq!(site.peer.call(&channel, "Heartbeat", &token, &beat)?["code"], "OK");
    assert_eq!(site.call("Heartbeat", &beat)?["code"], "OK", "the one that was shown counts until it ends");
    let path = "/v1/devices/BR-1/certificate";
    let again = SigningKey::generate(&Random::System).to_pkcs8_pem()?;
    let refused = ask(&site.server, &token, "POST", path, json!({ "csr": csr(&again)? })).await?;
    assert_refused(&refused, 403, "certificate_proof_required");
    // The key that it enrolled is proof, too; what was neither shown nor asked for is superseded.
    let enrolled = site.device.key.to_pkcs8_pem()?;
    let made = ask(&site.server, &token, "POST", path, json!({ "csr": csr(&enrolled)? })).await?;
    assert_eq!(made.status, 201, "{}", body(&made));
    assert_ended(&site.call("Heartbeat", &beat)?, "UNAUTHENTICATED", "certificate_refused");
    let latest = site.peer.keep(&text(&body(&made), "certificate"), &enrolled, "")?;
    let channel = site.peer.open(Some(&latest))?;
    assert_eq!(site.peer.call(&channel, "Heartbeat", &token, &beat)?["code"], "OK");
    for bad in ["", "x", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"] {
        let refused = ask(&site.server, &token, "POST", path, json!({ "csr": bad })).await?;
        assert_refused(&refused, 422, "invalid_request");
    }
    let log = audited(&site.server, "BR-1").await?;
    let count = |name: &str| log.iter().filter(|a| *a == name).count();
    assert_eq!((count("certificate_issued"), count("certificate_revoked")), (3, 2), "{log:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_issue_a_few_certificates_and_a_repeat_makes_no_further_one() -> Done {
    let server = Server::start().await?;
    server.enroll("BR-1").await?;
    let admin = server.admin_token().await?;
    let request = csr(&SigningKey::generate(&Random::System).to_pkcs8_pem()?)?;
    let path = "/v1/devices/BR-1/certificate";
    let bearer = format!("Bearer {admin}");
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "once")];
    let mut client = server.client()?;
    let mut serials = Vec::new();
    for _ in 0..2 {
        let sent = json!({ "csr": request });
        let made = crate::common::send(&mut client, hyper::Method::POST, path, &headers, &sent).await?;
        assert_eq!(made.status, 201, "{}", body(&made));
        serials.push(text(&body(&made), "serial"));
    }
    assert_eq!(serials.first(), serials.last());
    for _ in 0..3 {
        assert_eq!(ask(&server, &admin, "POST", path, json!({ "csr": request })).await?.status, 201);
    }
    let refused = ask(&server, &admin, "POST", path, json!({ "csr": request })).await?;
    assert_refused(&refused, 409, "too_many_certificates");
    Ok(())
}
