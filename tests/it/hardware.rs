//! Phones prove their hardware against roots that the tenant trusts: Android's keys, Apple's keys with their assertions and
//! receipts.

mod demand;

use std::time::Duration;

use base64ct::{Base64, Encoding};
use blockremote::client::Response;
use blockremote::client::frame::{Action, Incoming};
use blockremote::client::socket::Event;
use blockremote::config::Paywall;
use blockremote::crypto::dpop::make_proof;
use blockremote::crypto::{SigningKey, sha256};
use blockremote::domains::attestation::{Asker, Evidence, NewRoot, RootKind};
use blockremote::kernel::Random;
use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::{DeviceId, TenantId};
use blockremote::testkit::hardware::{AndroidState, ApplePhone, Maker, android_key};
use blockremote::testkit::{Device, Fault, Server, text};
use hyper::Method;
use serde_json::{Value, json};

use crate::attestation::signed;
use crate::common::{DAY, Done, assert_refused, audited, body, enrollment, first_tenant, second_tenant, send};
use crate::people::{ask, done};
use crate::wire::url;

pub const APP: &str = "TEAM123456.com.example.app";
pub const ROOTS: &str = "/v1/intel/roots";

/// A server for Apple's app; without the demand for a revocation list, which has tests of its own, and without a paywall.
pub async fn start() -> Result<Server, Fault> {
    Server::start_with(|c| {
        c.attestation.apple_app_id = Some(APP.to_owned());
        c.attestation.require_status_list = false;
        // Weeks go by here, and no trial is to end in them.
        c.billing.paywall = Paywall::Off;
    })
    .await
}

/// Makes a tenant trust this maker.
pub async fn trust(server: &Server, tenant: TenantId, kind: RootKind, maker: &Maker) -> Result<String, Fault> {
    let new = NewRoot { kind, label: "made up".to_owned(), pem: maker.root_pem() };
    Ok(server.app().services.attestation.add_root(tenant, new, None, Origin::cli()).await?.id)
}

async fn nonce(server: &Server, tenant: TenantId, device: &str) -> Result<String, Fault> {
    let attestation = &server.app().services.attestation;
    Ok(attestation.new_nonce(tenant, device.parse()?, Asker::Enrolled, None).await?.0)
}

fn lines(tenant: TenantId, device: &str, nonce: &str) -> Vec<u8> {
    format!("blockremote-attest-v1\n{tenant}\n{device}\n{nonce}").into_bytes()
}

pub fn challenge(tenant: TenantId, device: &str, nonce: &str) -> [u8; 32] {
    sha256(&lines(tenant, device, nonce))
}

pub fn with_nonce(mut evidence: Value, nonce: &str) -> Value {
    evidence["nonce"] = json!(nonce);
    evidence
}

pub fn new_key() -> SigningKey {
    SigningKey::generate(&Random::System)
}

/// A phone of one tenant that talks to one server.
pub struct Phone<'a> {
    server: &'a Server,
    pub tenant: TenantId,
    device: Device,
}

impl<'a> Phone<'a> {
    pub async fn enroll(server: &'a Server, name: &str) -> Result<Self, Fault> {
        Ok(Self { server, tenant: first_tenant(server).await?, device: server.enroll(name).await? })
    }

    async fn send(&self, evidence: &Value) -> Result<Response, Fault> {
        let path = format!("/v1/devices/{}/attestation", self.device.id);
        Ok(self.server.client()?.post(&path, Some(&self.device.access_token), evidence).await?)
    }

    pub async fn nonce(&self) -> Result<String, Fault> {
        nonce(self.server, self.tenant, &self.device.id).await
    }

    pub async fn android(&self, maker: &Maker, key: &SigningKey, state: AndroidState) -> Result<Response, Fault> {
        let nonce = self.nonce().await?;
        let challenge = challenge(self.tenant, &self.device.id, &nonce);
        self.send(&with_nonce(android_key(maker, key, state, &challenge)?, &nonce)).await
    }

    async fn apple(&self, maker: &Maker, phone: &ApplePhone) -> Result<Response, Fault> {
        let nonce = self.nonce().await?;
        let challenge = challenge(self.tenant, &self.device.id, &nonce);
        let receipt = phone.receipt(maker, self.server.clock.now(), None)?;
        self.send(&with_nonce(phone.attestation(maker, &challenge, &receipt)?, &nonce)).await
    }

    async fn assertion(&self, phone: &mut ApplePhone) -> Result<Value, Fault> {
        let nonce = self.nonce().await?;
        Ok(with_nonce(phone.assertion(&lines(self.tenant, &self.device.id, &nonce))?, &nonce))
    }

    pub async fn state(&self) -> Result<Value, Fault> {
        let admin = self.server.admin_token().await?;
        done(self.server, &admin, "GET", &format!("/v1/devices/{}/attestation", self.device.id), Value::Null).await
    }

    async fn is_blocked(&self) -> Result<bool, Fault> {
        let admin = self.server.admin_token().await?;
        let view = done(self.server, &admin, "GET", &format!("/v1/devices/{}", self.device.id), Value::Null).await?;
        Ok(view["state"] == "blocked")
    }
}

pub fn refused_because(answer: &Response, reason: &str) {
    assert_refused(answer, 403, "attestation_refused");
    assert_eq!(body(answer)["reason"], reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_android_key_counts_where_its_root_is_trusted_and_nowhere_else() -> Done {
    let server = start().await?;
    let (maker, key) = (Maker::new("Phones")?, new_key());
    let phone = Phone::enroll(&server, "BR-1").await?;
    refused_because(&phone.android(&maker, &key, AndroidState::default()).await?, "root_unknown");

    let neighbour = second_tenant(&server).await?;
    trust(&server, neighbour, RootKind::AndroidKey, &maker).await?;
    let answer = phone.android(&maker, &key, AndroidState::default()).await?;
    refused_because(&answer, "root_unknown");

    let root = trust(&server, phone.tenant, RootKind::AndroidKey, &maker).await?;
    let answer = phone.android(&maker, &key, AndroidState::default()).await?;
    assert_eq!(answer.status, 200, "{}", body(&answer));
    let state = phone.state().await?;
    assert_eq!((&state["level"], &state["score"], &state["stale"]), (&json!("trusted"), &json!(85), &json!(false)));
    assert_eq!(state["root"], "added: made up", "a root of the tenant's own never passes for a bundled one");
    assert_eq!(state["claims"]["packages"][0]["name"], "com.example.app");
    assert_eq!(state["history"][0]["root"], "added: made up");
    assert_eq!(state["key_thumbprint"], json!(key.verifying().thumbprint()));

    // What the phone says otherwise of itself: unlocked, or with a chip of its own.
    let unlocked = AndroidState { locked: false, ..AndroidState::default() };
    refused_because(&phone.android(&maker, &key, unlocked).await?, "device_unlocked");
    let other = Phone::enroll(&server, "BR-2").await?;
    let strong = AndroidState { level: 2, ..AndroidState::default() };
    assert_eq!(body(&other.android(&maker, &new_key(), strong).await?)["level"], "hardware");

    let admin = server.admin_token().await?;
    done(&server, &admin, "DELETE", &format!("{ROOTS}/{root}"), Value::Null).await?;
    refused_because(&other.android(&maker, &new_key(), strong).await?, "root_unknown");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_to_another_devices_nonce_proves_nothing() -> Done {
    let server = start().await?;
    let (maker, key) = (Maker::new("Phones")?, new_key());
    let (phone, other) = (Phone::enroll(&server, "BR-1").await?, Phone::enroll(&server, "BR-2").await?);
    trust(&server, phone.tenant, RootKind::AndroidKey, &maker).await?;
    let nonce = phone.nonce().await?;
    for wrong in [
        challenge(phone.tenant, "BR-2", &nonce),
        challenge(second_tenant(&server).await?, "BR-1", &nonce),
        sha256(nonce.as_bytes()),
    ] {
        let fresh = other.nonce().await?;
        let evidence = with_nonce(android_key(&maker, &key, AndroidState::default(), &wrong)?, &fresh);
        let answer = other.send(&evidence).await?;
        refused_because(&answer, "challenge");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apple_key_is_attested_once_and_then_counts_upwards() -> Done {
    let server = start().await?;
    let maker = Maker::new("Apple")?;
    let phone = Phone::enroll(&server, "BR-1").await?;
    let mut apple = ApplePhone::new(APP, &Random::System);
    let root = trust(&server, phone.tenant, RootKind::AppleAttestation, &maker).await?;
    trust(&server, phone.tenant, RootKind::AppleReceipt, &maker).await?;
    let early = phone.assertion(&mut apple).await?;
    refused_because(&phone.send(&early).await?, "no_attested_key");
    apple.rewind();
    let answer = phone.apple(&maker, &apple).await?;
    assert_eq!(answer.status, 200, "{}", body(&answer));
    assert_eq!((&body(&answer)["level"], &body(&answer)["score"]), (&json!("hardware"), &json!(100)));
    assert_eq!(body(&answer)["claims"].get("receipt_refused"), None, "{}", body(&answer));

    for counter in 1..=2 {
        let evidence = phone.assertion(&mut apple).await?;
        let answer = phone.send(&evidence).await?;
        assert_eq!(answer.status, 200, "{}", body(&answer));
        assert_eq!(body(&answer)["claims"]["counter"], counter);
        assert_eq!(body(&answer)["type"], "apple-assertion");
    }
    // A copy of the phone knows the key and not how far it has counted.
    apple.rewind();
    let copy = phone.assertion(&mut apple).await?;
    refused_because(&phone.send(&copy).await?, "counter");
    let mut other = ApplePhone::new(APP, &Random::System);
    for _ in 0..9 {
        other.assertion(b"counts")?;
    }
    let stranger = phone.assertion(&mut other).await?;
    refused_because(&phone.send(&stranger).await?, "signature");
    server.clock.advance(Duration::from_secs(601));

    // A proof in software between two assertions takes nothing away but the level.
    let fresh = phone.nonce().await?;
    let soft = phone.send(&signed(&phone.device.key, phone.tenant, "BR-1", &fresh)).await?;
    assert_eq!(body(&soft)["level"], "software", "{}", body(&soft));
    apple.assertion(b"skips one")?;
    let evidence = phone.assertion(&mut apple).await?;
    assert_eq!(body(&phone.send(&evidence).await?)["level"], "hardware");

    let admin = server.admin_token().await?;
    done(&server, &admin, "DELETE", &format!("{ROOTS}/{root}"), Value::Null).await?;
    let evidence = phone.assertion(&mut apple).await?;
    refused_because(&phone.send(&evidence).await?, "root_unknown");
    Ok(())
}

/// Both were judged against the same stored counter; only the commit can tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_assertions_with_one_counter_exactly_one_is_taken() -> Done {
    let server = start().await?;
    let maker = Maker::new("Apple")?;
    let phone = Phone::enroll(&server, "BR-1").await?;
    trust(&server, phone.tenant, RootKind::AppleAttestation, &maker).await?;
    let mut apple = ApplePhone::new(APP, &Random::System);
    assert_eq!(phone.apple(&maker, &apple).await?.status, 200);
    let (one, two) = {
        let one = phone.assertion(&mut apple).await?;
        apple.rewind();
        (one, phone.assertion(&mut apple).await?)
    };
    let (first, second) = tokio::join!(phone.send(&one), phone.send(&two));
    let mut statuses = [first?.status, second?.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 403]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apples_receipts_go_out_sealed_and_come_back_with_a_risk_metric() -> Done {
    let server = start().await?;
    let maker = Maker::new("Apple")?;
    let phone = Phone::enroll(&server, "BR-1").await?;
    trust(&server, phone.tenant, RootKind::AppleAttestation, &maker).await?;
    trust(&server, phone.tenant, RootKind::AppleReceipt, &maker).await?;
    let apple = ApplePhone::new(APP, &Random::System);
    let path = "/v1/devices/BR-1/attestation/receipt";
    let admin = server.admin_token().await?;
    assert_refused(&ask(&server, &admin, "GET", path, Value::Null).await?, 404, "not_found");
    assert_eq!(phone.apple(&maker, &apple).await?.status, 200);
    let out = done(&server, &admin, "GET", path, Value::Null).await?;
    assert_eq!((&out["type"], &out["risk_metric"]), (&json!("ATTEST"), &Value::Null));
    let bytes = Base64::decode_vec(&text(&out, "receipt_b64"))?;
    let file = std::fs::read(server.folder().join("data/blockremote.redb"))?;
    assert!(!file.windows(64).any(|window| bytes.starts_with(window)), "it lies sealed in the data file");

    server.clock.advance(Duration::from_secs(60));
    let now = server.clock.now();
    let bring = |receipt: Vec<u8>| json!({ "receipt_b64": Base64::encode_string(&receipt) });
    let stranger = ApplePhone::new(APP, &Random::System);
    for bad in [
        stranger.receipt(&maker, now, Some(1))?,
        apple.receipt(&Maker::new("Apple")?, now, Some(1))?,
        apple.receipt(&maker, now.minus(Duration::from_secs(301)), Some(1))?,
        ApplePhone::new("TEAM123456.com.example.apq", &Random::System).receipt(&maker, now, Some(1))?,
        b"no receipt".to_vec(),
    ] {
        assert_refused(&ask(&server, &admin, "PUT", path, bring(bad)).await?, 422, "invalid_request");
    }
    let next = apple.receipt(&maker, now, Some(4))?;
    assert_eq!(done(&server, &admin, "PUT", path, bring(next.clone())).await?["risk_metric"], 4);
    assert_refused(&ask(&server, &admin, "PUT", path, bring(next)).await?, 409, "older_receipt");
    assert_eq!(phone.state().await?["score"], 100);

    server.clock.advance(Duration::from_secs(60));
    let farm = apple.receipt(&maker, server.clock.now(), Some(40))?;
    done(&server, &admin, "PUT", path, bring(farm)).await?;
    let state = phone.state().await?;
    assert_eq!((&state["score"], &state["claims"]["risk_metric"]), (&json!(40), &json!(40)), "a farm makes many keys");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hardware_that_says_something_else_of_itself_is_challenged() -> Done {
    let server = start().await?;
    let (maker, key) = (Maker::new("Phones")?, new_key());
    let phone = Phone::enroll(&server, "BR-1").await?;
    trust(&server, phone.tenant, RootKind::AndroidKey, &maker).await?;
    let state = AndroidState::default();
    assert_eq!(body(&phone.android(&maker, &key, state).await?)["score"], 85);
    let mut socket = phone.device.socket().await?;
    // A patch changes what the system is, not what the hardware is.
    let patched = AndroidState { patch_level: 202_611, ..state };
    assert_eq!(body(&phone.android(&maker, &key, patched).await?)["score"], 85);
    let flashed = AndroidState { boot_key: 10, ..patched };
    let answer = body(&phone.android(&maker, &key, flashed).await?);
    assert_eq!((&answer["hardware_changed"], &answer["score"]), (&json!(true), &json!(40)));
    assert!(audited(&server, "BR-1").await?.iter().any(|a| a == "device_challenged"));
    assert_eq!(asked(&mut socket).await?, "attest");
    let again = body(&phone.android(&maker, &key, flashed).await?);
    assert_eq!((&again["hardware_changed"], &again["score"]), (&json!(false), &json!(85)), "it says the same twice");
    Ok(())
}

/// The reason of the next `STATUS_AUDIT` on a device's socket.
async fn asked(socket: &mut blockremote::client::Socket) -> Result<String, Fault> {
    loop {
        let next = tokio::time::timeout(Duration::from_secs(10), socket.next()).await?;
        match next {
            Event::Frame(Incoming::Command(frame)) if frame.action == Action::StatusAudit => return Ok(frame.reason),
            Event::Frame(_) | Event::Pong => {}
            other => return Err(format!("{other:?}").into()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connected_device_is_asked_before_its_proof_is_too_old_and_not_twice_an_hour() -> Done {
    let server = start().await?;
    let phone = Phone::enroll(&server, "BR-1").await?;
    let unproven = server.enroll("BR-2").await?;
    let fresh = phone.nonce().await?;
    assert_eq!(phone.send(&signed(&phone.device.key, phone.tenant, "BR-1", &fresh)).await?.status, 200);
    let (mut socket, mut quiet) = (phone.device.socket().await?, unproven.socket().await?);
    server.clock.advance(DAY * 7);
    server.app().services.attestation.remind_due().await;
    assert_eq!(asked(&mut socket).await?, "attest");
    server.clock.advance(Duration::from_secs(3_599));
    server.app().services.attestation.remind_due().await;
    let none = tokio::time::timeout(Duration::from_millis(300), asked(&mut socket)).await;
    assert!(none.is_err(), "within the hour nobody is asked again");
    server.clock.advance(Duration::from_secs(1));
    server.app().services.attestation.remind_due().await;
    assert_eq!(asked(&mut socket).await?, "attest");
    let none = tokio::time::timeout(Duration::from_millis(300), asked(&mut quiet)).await;
    assert!(none.is_err(), "who never proved anything has nothing to renew");

    // Until the tenant comes to demand it: of whom it knows nothing, and of whom it wants more.
    let admin = server.admin_token().await?;
    let path = format!("/v1/tenants/{}", phone.tenant);
    done(&server, &admin, "PATCH", &path, json!({ "attestation": "required" })).await?;
    server.app().services.attestation.remind_due().await;
    assert_eq!(asked(&mut quiet).await?, "attest");
    done(&server, &admin, "PATCH", &path, json!({ "attestation": "hardware" })).await?;
    server.clock.advance(Duration::from_secs(3_600));
    server.app().services.attestation.remind_due().await;
    assert_eq!((asked(&mut quiet).await?, asked(&mut socket).await?), ("attest".to_owned(), "attest".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_on_two_devices_blocks_both() -> Done {
    let server = start().await?;
    let (maker, key) = (Maker::new("Phones")?, new_key());
    let (one, two) = (Phone::enroll(&server, "BR-1").await?, Phone::enroll(&server, "BR-2").await?);
    trust(&server, one.tenant, RootKind::AndroidKey, &maker).await?;
    assert_eq!(one.android(&maker, &key, AndroidState::default()).await?.status, 200);
    assert!(!one.is_blocked().await?);
    two.android(&maker, &key, AndroidState::default()).await?;
    assert!(one.is_blocked().await? && two.is_blocked().await?);
    Ok(())
}

/// A copy that had shown another's key took that key's claim with it when it proved itself by a key of its own, and the next
/// copy passed for the owner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_cannot_free_the_key_it_copied() -> Done {
    let server = start().await?;
    let (maker, key) = (Maker::new("Phones")?, new_key());
    let (first, copy) = (Phone::enroll(&server, "BR-1").await?, Phone::enroll(&server, "BR-2").await?);
    trust(&server, first.tenant, RootKind::AndroidKey, &maker).await?;
    assert_eq!(first.android(&maker, &key, AndroidState::default()).await?.status, 200);
    copy.android(&maker, &key, AndroidState::default()).await?;
    assert!(copy.is_blocked().await?, "the copy is found");

    copy.android(&maker, &new_key(), AndroidState::default()).await?;

    let next = Phone::enroll(&server, "BR-3").await?;
    next.android(&maker, &key, AndroidState::default()).await?;
    assert!(next.is_blocked().await?, "the key is the first device's still");
    Ok(())
}

/// Only where the operator says so, and never by a proof that software can make: whoever holds the device can make that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_proof_by_hardware_releases_what_the_engine_locked_where_that_is_allowed() -> Done {
    for allowed in [false, true] {
        let server = Server::start_with(|c| {
            c.attestation.require_status_list = false;
            c.attestation.releases_score_locks = allowed;
        })
        .await?;
        let maker = Maker::new("Phones")?;
        let mut phone = Phone::enroll(&server, "BR-1").await?;
        trust(&server, phone.tenant, RootKind::AndroidKey, &maker).await?;
        let hostile = phone.device.hostile();
        phone.device.beat(&hostile).await?;
        assert!(phone.is_blocked().await?);

        let software = signed(&phone.device.key, phone.tenant, "BR-1", &phone.nonce().await?);
        assert_eq!(phone.send(&software).await?.status, 200);
        assert!(phone.is_blocked().await?, "software proves too little");
        assert_eq!(phone.android(&maker, &new_key(), AndroidState::default()).await?.status, 200);
        assert_eq!(phone.is_blocked().await?, !allowed);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_demands_hardware_enrolls_a_phone_that_shows_it() -> Done {
    let server = start().await?;
    let (maker, key) = (Maker::new("Phones")?, new_key());
    let tenant = first_tenant(&server).await?;
    trust(&server, tenant, RootKind::AndroidKey, &maker).await?;
    let admin = server.admin_token().await?;
    done(&server, &admin, "PATCH", &format!("/v1/tenants/{tenant}"), json!({ "attestation": "hardware" })).await?;
    server.clock.advance(Duration::from_secs(61));

    // And its token is bound to the very key that the hardware keeps.
    let nonce = nonce(&server, tenant, "BR-1").await?;
    let evidence = android_key(&maker, &key, AndroidState::default(), &challenge(tenant, "BR-1", &nonce))?;
    let mut wanted = enrollment("BR-1", Some(&server.enrollment_token));
    wanted["public_key"] = json!(key.verifying().to_jwk());
    wanted["attestation"] = with_nonce(evidence, &nonce);
    let path = "/v1/auth/device";
    let prove = |method: &str, path: &str, token: Option<&str>, by: &SigningKey| {
        let jti = Random::System.u64().to_string();
        make_proof(by, method, &url(&server, path), token, None, &jti, server.clock.now().as_secs())
    };
    let proof = prove("POST", path, None, &key);
    let answer = send(&mut server.client()?, Method::POST, path, &[("dpop", &proof)], &wanted).await?;
    assert_eq!(answer.status, 201, "{}", body(&answer));
    let token = text(&body(&answer), "access_token");
    let view = done(&server, &admin, "GET", "/v1/devices/BR-1/attestation", Value::Null).await?;
    assert_eq!((&view["level"], &view["token_bound"]), (&json!("trusted"), &json!(true)), "{view}");
    let entry = server.app().services.devices.entry(tenant, &"BR-1".parse::<DeviceId>()?).ok_or("no device")?;
    assert_eq!(server.app().services.attestation.score(&entry.device()), Some(85));

    let own = "/v1/devices/BR-1";
    let ask_with = async |by: &SigningKey, scheme: &str| -> Result<u16, Fault> {
        let (proof, authorization) = (prove("GET", own, Some(&token), by), format!("{scheme} {token}"));
        let headers = [("authorization", authorization.as_str()), ("dpop", proof.as_str())];
        Ok(server.client()?.request(Method::GET, own, &headers, "".into()).await?.status)
    };
    assert_eq!(ask_with(&key, "DPoP").await?, 200);
    assert_eq!(ask_with(&new_key(), "DPoP").await?, 401, "a stolen token is worthless elsewhere");
    assert_eq!(ask_with(&key, "Bearer").await?, 401);
    Ok(())
}

/// An enrolled device with an attested key of Apple's, whose receipts the first tenant takes.
pub async fn apple_device(server: &Server, tenant: TenantId, name: &str) -> Result<(Maker, ApplePhone), Fault> {
    let maker = Maker::new(name)?;
    trust(server, tenant, RootKind::AppleAttestation, &maker).await?;
    trust(server, tenant, RootKind::AppleReceipt, &maker).await?;
    let phone = ApplePhone::new(APP, &Random::System);
    let nonce = nonce(server, tenant, name).await?;
    let receipt = phone.receipt(&maker, server.clock.now(), None)?;
    let evidence = phone.attestation(&maker, &challenge(tenant, name, &nonce), &receipt)?;
    let services = &server.app().services;
    let entry = services.devices.entry(tenant, &name.parse()?).ok_or("no device")?;
    let members = with_nonce(evidence, &nonce).as_object().cloned().unwrap_or_default();
    services.attestation.attest(&entry, Evidence::of(members, "")?, Origin::cli()).await?;
    Ok((maker, phone))
}

/// Makes a device that the rows of receipts are about.
pub async fn with_receipt(server: &Server, tenant: TenantId, name: &str) -> Done {
    apple_device(server, tenant, name).await.map(drop)
}
