//! Passkeys against who copies, replays, borrows and mixes up.

use std::time::Duration;

use blockremote::client::Response;
use blockremote::domains::attestation::{NewRoot, RootKind};
use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::UserId;
use blockremote::testkit::hardware::{AndroidState, Maker};
use blockremote::testkit::passkey::Passkey;
use blockremote::testkit::{Fault, Server, text};
use hyper::Method;
use serde_json::{Value, json};

use crate::common::{Done, add_user, assert_refused, body, disable, first_tenant, log_in, send};
use crate::wire::{authority, behind_a_proxy, post_to_host};
use crate::world::second_factor::{authenticator, challenge, set_up_passkey};

const REGISTER: &str = "/v1/me/mfa/passkeys/options";
const STEP_UP: &str = "/v1/me/mfa/verify/options";
const LOGIN: &str = "/v1/auth/passkey/options";

/// A person with a passkey.
struct Person {
    id: UserId,
    token: String,
    key: Passkey,
}

async fn person(server: &Server, name: &str) -> Result<Person, Fault> {
    let login = add_user(server, first_tenant(server).await?, name, "admin").await?;
    let token = text(&login, "access_token");
    let mut key = authenticator(server);
    set_up_passkey(server, &token, &mut key).await?;
    Ok(Person { id: text(&login["user"], "id").parse()?, token, key })
}

async fn log_in_by(server: &Server, credential: &Value) -> Result<Response, Fault> {
    Ok(server.client()?.post("/v1/auth/passkey", None, &json!({ "credential": credential })).await?)
}

/// A whole login: options, assertion, answer.
async fn login(server: &Server, key: &mut Passkey) -> Result<Response, Fault> {
    log_in_by(server, &key.assert(&challenge(server, LOGIN, None).await?)).await
}

async fn verify(server: &Server, token: &str, credential: &Value) -> Result<Response, Fault> {
    Ok(server.client()?.post("/v1/me/mfa/verify", Some(token), &json!({ "credential": credential })).await?)
}

async fn register(server: &Server, token: &str, credential: &Value) -> Result<Response, Fault> {
    let wanted = json!({ "name": "a key", "credential": credential });
    Ok(server.client()?.post("/v1/me/mfa/passkeys", Some(token), &wanted).await?)
}

async fn start() -> Result<Server, Fault> {
    Server::start_with(behind_a_proxy).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passkey_logs_in_without_a_password_and_counts_as_a_second_factor() -> Done {
    let server = start().await?;
    let mut ann = person(&server, "ann").await?;
    ann.key.user_handle = Some(ann.id.to_bytes().to_vec());
    let answer = login(&server, &mut ann.key).await?;
    assert_eq!(answer.status, 200, "{}", body(&answer));
    assert_eq!(body(&answer)["user"]["username"], "ann");
    let token = text(&body(&answer), "access_token");
    let turn = json!({ "engaged": false, "reason": "a look" });
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    let proven = send(&mut server.client()?, Method::PUT, "/v1/kill-switch", &headers, &turn).await?;
    assert_refused(&proven, 409, "not_engaged");
    server.clock.advance(Duration::from_secs(360));
    let stale = send(&mut server.client()?, Method::PUT, "/v1/kill-switch", &headers, &turn).await?;
    assert_refused(&stale, 403, "step_up_required");
    let assertion = ann.key.assert(&challenge(&server, STEP_UP, Some(&token)).await?);
    let verified = verify(&server, &token, &assertion).await?;
    assert_eq!((verified.status, body(&verified)["second_factor"].as_bool()), (200, Some(true)));
    let proven = send(&mut server.client()?, Method::PUT, "/v1/kill-switch", &headers, &turn).await?;
    assert_refused(&proven, 409, "not_engaged");
    let password = json!({ "username": "ann", "password": crate::common::password_of("ann") });
    let needed = server.client()?.post("/v1/auth/login", None, &password).await?;
    assert_refused(&needed, 401, "mfa_required");
    assert_eq!(body(&needed)["methods"], json!(["recovery_code", "passkey"]));
    Ok(())
}

/// What a page that looks like ours, or a machine without its owner, could send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_browser_or_the_authenticator_says_wrong_is_refused() -> Done {
    let server = start().await?;
    let mut ann = person(&server, "ann").await?;
    let ben = person(&server, "ben").await?;
    type Lie = fn(&mut Passkey, UserId);
    let lies: [(&str, Lie); 9] = [
        ("another origin", |key, _| key.origin = "https://evil.example".to_owned()),
        ("another port", |key, _| key.origin = "https://localhost:1".to_owned()),
        ("without TLS", |key, _| key.origin = key.origin.replace("https", "http")),
        ("another site", |key, _| key.rp_id = "evil.example".to_owned()),
        ("in a frame", |key, _| key.cross_origin = true),
        ("nobody touched it", |key, _| key.user_present = false),
        ("nobody unlocked it", |key, _| key.user_verified = false),
        ("another user's handle", |key, ben| key.user_handle = Some(ben.to_bytes().to_vec())),
        ("an unknown credential", |key, _| key.credential_id = vec![7; 32]),
    ];
    for (name, lie) in lies {
        let (origin, rp_id, id) = (ann.key.origin.clone(), ann.key.rp_id.clone(), ann.key.credential_id.clone());
        lie(&mut ann.key, ben.id);
        assert_refused(&login(&server, &mut ann.key).await?, 401, "invalid_credentials");
        let step_up = ann.key.assert(&challenge(&server, STEP_UP, Some(&ann.token)).await?);
        assert_refused(&verify(&server, &ann.token, &step_up).await?, 403, "mfa_invalid");
        if !name.contains("credential") && !name.contains("handle") {
            let fresh = ann.key.register(&challenge(&server, REGISTER, Some(&ann.token)).await?);
            assert_refused(&register(&server, &ann.token, &fresh).await?, 422, "passkey_refused");
        }
        (ann.key.origin, ann.key.rp_id, ann.key.credential_id) = (origin, rp_id, id);
        (ann.key.cross_origin, ann.key.user_present, ann.key.user_verified) = (false, true, true);
        ann.key.user_handle = None;
        assert_eq!(login(&server, &mut ann.key).await?.status, 200, "the truth after: {name}");
    }
    // The signature of one key under the id of another.
    let mut forger = authenticator(&server);
    forger.credential_id = ann.key.credential_id.clone();
    forger.counter = 1_000;
    assert_refused(&login(&server, &mut forger).await?, 401, "invalid_credentials");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_challenge_is_good_for_one_ceremony_of_one_session_on_one_site() -> Done {
    let server = start().await?;
    let mut ann = person(&server, "ann").await?;
    let mut ben = person(&server, "ben").await?;
    let fresh = |path: &'static str, token: Option<String>| {
        let server = &server;
        async move { challenge(server, path, token.as_deref()).await }
    };
    let of_ann = || Some(ann.token.clone());
    for challenge in [fresh(REGISTER, of_ann()).await?, fresh(STEP_UP, of_ann()).await?, "AAAA".to_owned()] {
        assert_refused(&log_in_by(&server, &ann.key.assert(&challenge)).await?, 401, "invalid_credentials");
    }
    let of_ben = || Some(ben.token.clone());
    for challenge in [fresh(REGISTER, of_ann()).await?, fresh(LOGIN, None).await?, fresh(STEP_UP, of_ben()).await?] {
        assert_refused(&verify(&server, &ann.token, &ann.key.assert(&challenge)).await?, 403, "mfa_invalid");
    }
    // Of another session of the same person, too.
    let second = login(&server, &mut ann.key).await?;
    let second = text(&body(&second), "access_token");
    let elsewhere = fresh(STEP_UP, Some(second)).await?;
    assert_refused(&verify(&server, &ann.token, &ann.key.assert(&elsewhere)).await?, 403, "mfa_invalid");
    // Another person's passkey does not prove this one.
    let own = fresh(STEP_UP, of_ann()).await?;
    assert_refused(&verify(&server, &ann.token, &ben.key.assert(&own)).await?, 403, "mfa_invalid");
    let mut new = authenticator(&server);
    for challenge in [fresh(LOGIN, None).await?, fresh(STEP_UP, of_ann()).await?, fresh(REGISTER, of_ben()).await?] {
        let refused = register(&server, &ann.token, &new.register(&challenge)).await?;
        assert_refused(&refused, 422, "passkey_refused");
    }
    // A page of another name of the same appliance asked for it.
    let options = post_to_host(&server, "box.lan", LOGIN, &[], &json!({})).await?;
    let other_site = text(&body(&options)["publicKey"], "challenge");
    assert_refused(&log_in_by(&server, &ann.key.assert(&other_site)).await?, 401, "invalid_credentials");

    let late = fresh(LOGIN, None).await?;
    server.clock.advance(Duration::from_secs(300));
    assert_refused(&log_in_by(&server, &ann.key.assert(&late)).await?, 401, "invalid_credentials");
    let in_time = fresh(LOGIN, None).await?;
    server.clock.advance(Duration::from_secs(299));
    let assertion = ann.key.assert(&in_time);
    assert_eq!(log_in_by(&server, &assertion).await?.status, 200);
    assert_refused(&log_in_by(&server, &assertion).await?, 401, "invalid_credentials");
    assert_refused(&log_in_by(&server, &ann.key.assert(&in_time)).await?, 401, "invalid_credentials");
    Ok(())
}

/// A synced passkey keeps its counter at zero, so nothing but the challenge tells a replay from a login; and which
/// challenges were used was known to the process that is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_assertion_cannot_be_replayed_after_a_restart() -> Done {
    let mut server = start().await?;
    let mut ann = person(&server, "ann").await?;
    let host = "box.lan";
    let token = format!("Bearer {}", ann.token);
    let headers = [("authorization", token.as_str())];
    let mut key = Passkey::new(host, &format!("https://{host}"), &blockremote::kernel::Random::System);
    key.counts = false;
    let options = post_to_host(&server, host, REGISTER, &headers, &json!({})).await?;
    let made = key.register(&text(&body(&options)["publicKey"], "challenge"));
    let wanted = json!({ "name": "synced", "credential": made });
    assert_eq!(post_to_host(&server, host, "/v1/me/mfa/passkeys", &headers, &wanted).await?.status, 201);
    let options = post_to_host(&server, host, LOGIN, &[], &json!({})).await?;
    let assertion = json!({ "credential": key.assert(&text(&body(&options)["publicKey"], "challenge")) });
    assert_eq!(post_to_host(&server, host, "/v1/auth/passkey", &[], &assertion).await?.status, 200);
    server.restart().await?;
    let replayed = post_to_host(&server, host, "/v1/auth/passkey", &[], &assertion).await?;
    assert_refused(&replayed, 401, "invalid_credentials");
    let options = post_to_host(&server, host, LOGIN, &[], &json!({})).await?;
    let again = json!({ "credential": key.assert(&text(&body(&options)["publicKey"], "challenge")) });
    assert_eq!(post_to_host(&server, host, "/v1/auth/passkey", &[], &again).await?.status, 200);
    // A passkey of one name of the appliance is none of another.
    let options = post_to_host(&server, host, LOGIN, &[], &json!({})).await?;
    (ann.key.rp_id, ann.key.origin) = (host.to_owned(), format!("https://{host}"));
    let other = json!({ "credential": ann.key.assert(&text(&body(&options)["publicKey"], "challenge")) });
    let refused = post_to_host(&server, host, "/v1/auth/passkey", &[], &other).await?;
    assert_refused(&refused, 401, "invalid_credentials");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_that_does_not_rise_is_refused_and_reported_as_a_copy() -> Done {
    let server = start().await?;
    let mut ann = person(&server, "ann").await?;
    assert_eq!(login(&server, &mut ann.key).await?.status, 200);
    ann.key.counter -= 1;
    assert_refused(&login(&server, &mut ann.key).await?, 401, "invalid_credentials");
    ann.key.counter = 0;
    ann.key.counts = false;
    assert_refused(&login(&server, &mut ann.key).await?, 401, "invalid_credentials");
    let log: Value = server.client()?.get("/v1/audit/logs?limit=20", Some(&ann.token)).await?.json()?;
    let entries = log["data"].as_array().cloned().unwrap_or_default();
    let high = entries.iter().filter(|e| e["threat_level"] == "high" && e["action_taken"] == "login_failed");
    let high: Vec<String> = high.map(|e| text(e, "decision_reason")).collect();
    assert_eq!(high.len(), 2, "{entries:#?}");
    assert!(high.iter().all(|reason| reason.contains("copy of it")), "{high:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_credential_belongs_to_one_person_until_it_is_taken_away() -> Done {
    let server = start().await?;
    let mut ann = person(&server, "ann").await?;
    let ben = person(&server, "ben").await?;
    for token in [&ann.token, &ben.token] {
        let again = ann.key.register(&challenge(&server, REGISTER, Some(token)).await?);
        assert_refused(&register(&server, token, &again).await?, 409, "passkey_exists");
    }
    let options: Value = server.client()?.post(REGISTER, Some(&ann.token), &json!({})).await?.json()?;
    assert_eq!(options["publicKey"]["excludeCredentials"][0]["id"], ann.key.id());
    let shown: Value = server.client()?.get("/v1/me/mfa", Some(&ann.token)).await?.json()?;
    let path = format!("/v1/me/mfa/passkeys/{}", text(&shown["passkeys"][0], "id"));
    let bearer = |token: &str| format!("Bearer {token}");
    let mut client = server.client()?;
    let mut delete = async |token: &str| {
        client.request(Method::DELETE, &path, &[("authorization", &bearer(token))], "".into()).await.map(|a| a.status)
    };
    assert_eq!(delete(&ben.token).await?, 404, "another person's passkey");
    assert_eq!(delete(&ann.token).await?, 204);
    assert_eq!(delete(&ann.token).await?, 404);
    assert_refused(&login(&server, &mut ann.key).await?, 401, "invalid_credentials");
    let fresh = ann.key.register(&challenge(&server, REGISTER, Some(&ann.token)).await?);
    assert_eq!(register(&server, &ann.token, &fresh).await?.status, 201, "free again");
    assert_eq!(login(&server, &mut ann.key).await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_user_does_not_get_in_by_a_passkey() -> Done {
    let server = start().await?;
    let mut ann = person(&server, "ann").await?;
    let tenant = first_tenant(&server).await?;
    disable(&server, tenant, ann.id).await?;
    assert_refused(&login(&server, &mut ann.key).await?, 401, "invalid_credentials");
    assert!(log_in(&server, "ann").await.is_err());
    Ok(())
}

/// Browsers add members from release to release; what is broken is told apart from what is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_members_are_passed_over_and_malformed_ones_named() -> Done {
    let server = Server::start().await?;
    let mut ann = person(&server, "ann").await?;
    let mut credential = ann.key.assert(&challenge(&server, LOGIN, None).await?);
    credential["later"] = json!({ "a": [1] });
    credential["response"]["later"] = json!(null);
    assert_eq!(log_in_by(&server, &credential).await?.status, 200);
    type Break = fn(&mut Value);
    let breaks: [Break; 9] = [
        |c| *c = json!("text"),
        |c| *c = json!({}),
        |c| c["rawId"] = json!(7),
        |c| c["rawId"] = json!("not base64url!"),
        |c| c["rawId"] = json!(format!("{}=", c["rawId"].as_str().unwrap_or_default())),
        |c| c["type"] = json!("password"),
        |c| c["response"] = json!(null),
        |c| c["response"]["authenticatorData"] = json!(null),
        |c| c["response"]["clientDataJSON"] = json!([]),
    ];
    for (n, spoil) in breaks.iter().enumerate() {
        let mut broken = ann.key.assert(&challenge(&server, LOGIN, None).await?);
        spoil(&mut broken);
        for answer in [
            log_in_by(&server, &broken).await?,
            verify(&server, &ann.token, &broken).await?,
            register(&server, &ann.token, &broken).await?,
        ] {
            assert_eq!(answer.status, 422, "{n}: {}", body(&answer));
            assert_eq!(body(&answer)["errors"][0]["pointer"], "/credential", "{n}");
        }
    }
    let extra = json!({ "credential": {}, "otp_": "1" });
    assert_refused(&server.client()?.post("/v1/auth/passkey", None, &extra).await?, 422, "invalid_request");
    Ok(())
}

/// The id of a relying party is a domain (Web Authentication, section 5.1.3): no browser makes a passkey for an address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_an_address_there_are_no_passkeys() -> Done {
    let server = Server::start().await?;
    let token = text(&server.login().await?, "access_token");
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    for host in ["127.0.0.1", "127.0.0.1:8443", "192.168.1.20:443", "[::1]:8443", "2130706433", "0x7f.1"] {
        for path in [REGISTER, STEP_UP, LOGIN] {
            let answer = post_to_host(&server, host, path, &headers, &json!({})).await?;
            assert_refused(&answer, 422, "passkeys_need_a_host_name");
        }
    }
    for host in [authority(&server).as_str(), "box.lan", "10.0.0.1.example", "box-7:8443"] {
        let answer = post_to_host(&server, host, LOGIN, &[], &json!({})).await?;
        assert_eq!(answer.status, 200, "{host}");
        assert_eq!(body(&answer)["publicKey"]["rpId"], host.split(':').next().unwrap_or_default());
    }
    Ok(())
}

/// An administrator who bought keys of one make wants no other in use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_make_must_be_shown_a_passkey_that_says_nothing_is_refused() -> Done {
    let server = Server::start_with(|c| {
        behind_a_proxy(c);
        c.webauthn.require_attestation = true;
    })
    .await?;
    let token = server.admin_token().await?;
    let options: Value = server.client()?.post(REGISTER, Some(&token), &json!({})).await?.json()?;
    assert_eq!(options["publicKey"]["attestation"], "direct", "{options}");
    let mut key = authenticator(&server);
    let silent = key.register(&challenge(&server, REGISTER, Some(&token)).await?);
    let answer = register(&server, &token, &silent).await?;
    assert_refused(&answer, 403, "passkey_attestation_refused");
    assert_eq!(body(&answer)["reason"], "format");
    let mut lying = key.register_attested(&challenge(&server, REGISTER, Some(&token)).await?);
    let other = authenticator(&server).register_attested(&challenge(&server, REGISTER, Some(&token)).await?);
    lying["response"]["attestationObject"] = other["response"]["attestationObject"].clone();
    assert_refused(&register(&server, &token, &lying).await?, 422, "passkey_refused");
    // Any program can sign for itself: that shows no make.
    let own = key.register_attested(&challenge(&server, REGISTER, Some(&token)).await?);
    let answer = register(&server, &token, &own).await?;
    assert_refused(&answer, 403, "passkey_attestation_refused");
    assert_eq!(body(&answer)["reason"], "self_attestation");
    // So can a certificate be made for oneself, of a make that nobody has heard of.
    let own = key.register_certified(&challenge(&server, REGISTER, Some(&token)).await?)?;
    let answer = register(&server, &token, &own).await?;
    assert_refused(&answer, 403, "passkey_attestation_refused");
    assert_eq!(body(&answer)["reason"], "root_unknown");

    // Unless the administrator wants just that, and says so.
    let rules = server.folder().join("rules.toml");
    std::fs::write(&rules, "[webauthn]\nallow_self_attestation = true\nrequire_trusted_chain = false\n")?;
    let lax = Server::start_with(|c| {
        behind_a_proxy(c);
        c.webauthn.require_attestation = true;
        c.attestation.policy = Some(rules);
    })
    .await?;
    let token = lax.admin_token().await?;
    let own = authenticator(&lax).register_attested(&challenge(&lax, REGISTER, Some(&token)).await?);
    let answer = register(&lax, &token, &own).await?;
    assert_eq!(answer.status, 201, "{}", body(&answer));
    let own = authenticator(&lax).register_certified(&challenge(&lax, REGISTER, Some(&token)).await?)?;
    let answer = register(&lax, &token, &own).await?;
    assert_eq!(answer.status, 201, "{}", body(&answer));
    Ok(())
}

/// Keys leak out of phones and are sold: what Google revoked shows no make, on whichever way it comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phones_key_that_was_revoked_or_whose_maker_is_distrusted_makes_no_passkey() -> Done {
    let server = Server::start_with(|c| {
        behind_a_proxy(c);
        c.webauthn.require_attestation = true;
    })
    .await?;
    let token = server.admin_token().await?;
    let (tenant, maker) = (first_tenant(&server).await?, Maker::new("Phones")?);
    let attestation = &server.app().services.attestation;
    let enroll = async |serial: u64| -> Result<Response, Fault> {
        let asked = challenge(&server, REGISTER, Some(&token)).await?;
        let state = AndroidState { serial, ..AndroidState::default() };
        let made = authenticator(&server).register_android(&asked, &maker, state)?;
        register(&server, &token, &made).await
    };
    let refused = |answer: &Response, reason: &str| {
        assert_refused(answer, 403, "passkey_attestation_refused");
        assert_eq!(body(answer)["reason"], reason);
    };
    refused(&enroll(1).await?, "root_unknown");
    let new = NewRoot { kind: RootKind::Webauthn, label: "phones".to_owned(), pem: maker.root_pem() };
    let root = attestation.add_root(tenant, new, None, Origin::cli()).await?;
    refused(&enroll(1).await?, "status_list_missing");
    let list = json!({ "entries": { "5eed": { "status": "REVOKED" } } }).to_string().into_bytes();
    attestation.import_status_list(tenant, list, server.clock.now(), None, Origin::cli()).await?;
    refused(&enroll(0x5eed).await?, "revoked");
    let answer = enroll(0x600d).await?;
    assert_eq!(answer.status, 201, "{}", body(&answer));
    attestation.remove_root(tenant, root.id, None, Origin::cli()).await?;
    refused(&enroll(0x600d).await?, "root_unknown");
    Ok(())
}
