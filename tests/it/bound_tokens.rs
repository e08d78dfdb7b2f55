//! Tokens that are bound to a key: worth nothing in the hands of who does not have it (RFC 9449, RFC 8705).

use std::sync::Arc;
use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use blockremote::client::{Endpoint, HttpClient, Response};
use blockremote::config::{ClientCertificates, DpopNonce};
use blockremote::crypto::dpop::make_proof;
use blockremote::crypto::{SigningKey, sha256};
use blockremote::kernel::Random;
use blockremote::testkit::{Fault, Server, text};
use hyper::Method;
use rustls::RootCertStore;
use rustls::client::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::common::{Done, assert_refused, body, enrollment, header, part};
use crate::killswitch::raw::{PATH as SOCKET, Raw};
use crate::wire::{ask, url};

const LOGIN: &str = "/v1/auth/login";
const ME: &str = "/v1/me";
const REFRESH: &str = "/v1/auth/refresh";

/// A proof, and what may be wrong with it.
#[derive(Clone)]
struct Wish<'a> {
    key: &'a SigningKey,
    method: &'a str,
    path: &'a str,
    token: Option<&'a str>,
    nonce: Option<&'a str>,
    jti: Option<&'a str>,
    age_s: i64,
}

impl<'a> Wish<'a> {
    fn new(key: &'a SigningKey, method: &'a str, path: &'a str) -> Self {
        Self { key, method, path, token: None, nonce: None, jti: None, age_s: 0 }
    }

    fn with(self, token: &'a str) -> Self {
        Self { token: Some(token), ..self }
    }

    fn proof(&self, server: &Server) -> String {
        let fresh = Random::System.u64().to_string();
        let (jti, now) = (self.jti.unwrap_or(&fresh), server.clock.now().as_secs());
        let url = url(server, self.path);
        make_proof(self.key, self.method, &url, self.token, self.nonce, jti, now - self.age_s)
    }
}

fn key() -> SigningKey {
    SigningKey::generate(&Random::System)
}

/// A server that has run for a while: right after a start every proof needs a nonce.
async fn start(change: impl FnOnce(&mut blockremote::config::Config)) -> Result<Server, Fault> {
    let server = Server::start_with(|config| {
        config.limits.auth_failures_per_minute = 100_000;
        change(config);
    })
    .await?;
    server.clock.advance(Duration::from_secs(61));
    Ok(server)
}

fn admin(server: &Server) -> Value {
    json!({ "username": server.admin.username, "password": server.admin.password.expose() })
}

async fn post(server: &Server, path: &str, proof: Option<&str>, wanted: &Value) -> Result<Response, Fault> {
    let headers: Vec<_> = proof.map(|p| ("dpop", p)).into_iter().collect();
    ask(&mut server.client()?, Method::POST, path, &headers, wanted).await
}

/// Logs in with a proof of this key.
async fn log_in(server: &Server, key: &SigningKey) -> Result<Value, Fault> {
    let proof = Wish::new(key, "POST", LOGIN).proof(server);
    let answer = post(server, LOGIN, Some(&proof), &admin(server)).await?;
    assert_eq!(answer.status, 200, "{}", body(&answer));
    Ok(body(&answer))
}

/// Asks who it is, with a token presented in this way and this proof.
async fn me(server: &Server, scheme: &str, token: &str, proof: Option<&str>) -> Result<Response, Fault> {
    let authorization = format!("{scheme} {token}");
    let mut headers = vec![("authorization", authorization.as_str())];
    headers.extend(proof.map(|p| ("dpop", p)));
    ask(&mut server.client()?, Method::GET, ME, &headers, &Value::Null).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_bound_to_a_key_is_worth_nothing_without_it() -> Done {
    let server = start(|_| {}).await?;
    let (own, other) = (key(), key());
    let login = log_in(&server, &own).await?;
    assert_eq!(login["token_type"], "DPoP");
    let token = text(&login, "access_token");
    assert_eq!(part(&token, 1)?["cnf"]["jkt"], own.verifying().thumbprint());
    let wish = || Wish::new(&own, "GET", ME).with(&token);
    let good = me(&server, "DPoP", &token, Some(&wish().proof(&server))).await?;
    assert_eq!(good.status, 200, "{}", body(&good));
    assert!(!header(&good, "dpop-nonce").is_empty());
    assert_eq!(me(&server, "dpop", &token, Some(&wish().proof(&server))).await?.status, 200, "case does not matter");

    let used = Wish { jti: Some("used before"), ..wish() };
    assert_eq!(me(&server, "DPoP", &token, Some(&used.proof(&server))).await?.status, 200);
    for (name, scheme, proof) in [
        ("as a bearer token", "Bearer", Some(wish())),
        ("as a bearer token without a proof", "Bearer", None),
        ("without a proof", "DPoP", None),
        ("by another key", "DPoP", Some(Wish { key: &other, ..wish() })),
        ("replayed", "DPoP", Some(used)),
        ("for another method", "DPoP", Some(Wish { method: "POST", ..wish() })),
        ("for another path", "DPoP", Some(Wish { path: "/v1/me/sessions", ..wish() })),
        ("for another token", "DPoP", Some(wish().with("another"))),
        ("for no token", "DPoP", Some(Wish { token: None, ..wish() })),
        ("a minute old", "DPoP", Some(Wish { age_s: 61, ..wish() })),
        ("from the future", "DPoP", Some(Wish { age_s: -61, ..wish() })),
    ] {
        let proof = proof.map(|p| p.proof(&server));
        let answer = me(&server, scheme, &token, proof.as_deref()).await?;
        assert_refused(&answer, 401, "invalid_dpop_proof");
        let challenge = "DPoP realm=\"blockremote\", error=\"invalid_dpop_proof\", algs=\"ES256\"";
        assert_eq!(header(&answer, "www-authenticate"), challenge, "{name}");
        assert_eq!(header(&answer, "dpop-nonce").is_empty(), proof.is_none(), "{name}");
    }
    let authorization = format!("DPoP {token}");
    let (one, two) = (wish().proof(&server), wish().proof(&server));
    let headers = [("authorization", authorization.as_str()), ("dpop", &one), ("dpop", &two)];
    let twice = ask(&mut server.client()?, Method::GET, ME, &headers, &Value::Null).await?;
    assert_refused(&twice, 401, "invalid_dpop_proof");
    let garbage = me(&server, "DPoP", &token, Some("not.a.proof")).await?;
    assert_refused(&garbage, 401, "invalid_dpop_proof");
    assert_eq!(me(&server, "DPoP", &token, Some(&wish().proof(&server))).await?.status, 200, "nothing was revoked");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unbound_token_is_not_made_better_by_a_proof() -> Done {
    let server = start(|_| {}).await?;
    let token = server.admin_token().await?;
    let own = key();
    let proof = Wish::new(&own, "GET", ME).with(&token).proof(&server);
    assert_refused(&me(&server, "DPoP", &token, Some(&proof)).await?, 401, "unauthenticated");
    assert_refused(&me(&server, "DPoP", &token, None).await?, 401, "unauthenticated");
    assert_eq!(me(&server, "Bearer", &token, None).await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_proof_shown_many_times_at_once_is_admitted_once() -> Done {
    let server = start(|_| {}).await?;
    let own = key();
    let token = text(&log_in(&server, &own).await?, "access_token");
    let proof = Wish::new(&own, "GET", ME).with(&token).proof(&server);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (mut client, authorization, proof) = (server.client()?, format!("DPoP {token}"), proof.clone());
        tasks.spawn(async move {
            let headers = [("authorization", authorization.as_str()), ("dpop", &proof)];
            client.request(Method::GET, ME, &headers, "".into()).await.map(|a| a.status)
        });
    }
    let statuses = tasks.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
    assert_eq!(statuses.iter().filter(|s| **s == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|s| **s == 401).count(), 63, "{statuses:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nonces_are_required_the_refusal_brings_one() -> Done {
    let server = start(|config| config.tokens.dpop_nonce = DpopNonce::Required).await?;
    let own = key();
    let wish = Wish::new(&own, "POST", LOGIN);
    let wanted = admin(&server);
    let refused = post(&server, LOGIN, Some(&wish.proof(&server)), &wanted).await?;
    assert_refused(&refused, 401, "use_dpop_nonce");
    assert_eq!(header(&refused, "www-authenticate"), {
        "DPoP realm=\"blockremote\", error=\"use_dpop_nonce\", algs=\"ES256\""
    });
    let nonce = header(&refused, "dpop-nonce").to_owned();
    let invented = Wish { nonce: Some("invented"), ..wish.clone() };
    assert_refused(&post(&server, LOGIN, Some(&invented.proof(&server)), &wanted).await?, 401, "use_dpop_nonce");
    let answer = post(&server, LOGIN, Some(&Wish { nonce: Some(&nonce), ..wish }.proof(&server)), &wanted).await?;
    assert_eq!(answer.status, 200, "{}", body(&answer));
    let token = text(&body(&answer), "access_token");
    let wish = Wish { nonce: Some(&nonce), ..Wish::new(&own, "GET", ME).with(&token) };
    assert_eq!(me(&server, "DPoP", &token, Some(&wish.proof(&server))).await?.status, 200, "good for some minutes");
    server.clock.advance(Duration::from_secs(300));
    let late = me(&server, "DPoP", &token, Some(&wish.proof(&server))).await?;
    assert_refused(&late, 401, "use_dpop_nonce");
    let nonce = header(&late, "dpop-nonce").to_owned();
    let wish = Wish { nonce: Some(&nonce), ..wish };
    assert_eq!(me(&server, "DPoP", &token, Some(&wish.proof(&server))).await?.status, 200);
    assert_eq!(post(&server, LOGIN, None, &wanted).await?.status, 200, "who does not speak DPoP is not asked");
    Ok(())
}

/// A device whose nonce ran out while it was offline learns the next one from the socket that turned it away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_brings_the_nonce_for_the_next_one() -> Done {
    let server = start(|config| config.tokens.dpop_nonce = DpopNonce::Required).await?;
    let own = key();
    let wish = Wish::new(&own, "POST", "/v1/auth/device");
    let wanted = enrollment("BR-1", Some(&server.enrollment_token));
    let refused = post(&server, "/v1/auth/device", Some(&wish.proof(&server)), &wanted).await?;
    let nonce = header(&refused, "dpop-nonce").to_owned();
    let wish = Wish { nonce: Some(&nonce), ..wish };
    let enrolled = post(&server, "/v1/auth/device", Some(&wish.proof(&server)), &wanted).await?;
    let token = text(&body(&enrolled), "access_token");
    server.clock.advance(Duration::from_secs(300));
    let authorization = format!("DPoP {token}");
    let mut nonce = nonce;
    for opens in [false, true] {
        let wish = Wish { nonce: Some(&nonce), ..Wish::new(&own, "GET", SOCKET).with(&token) };
        let proof = wish.proof(&server);
        let headers = [("authorization", authorization.as_str()), ("dpop", &proof)];
        let mut socket = Raw::open(&server.endpoint()?, SOCKET, &headers).await.map_err(|(_, code)| code)?;
        nonce = socket.headers.get("dpop-nonce").ok_or("no nonce")?.to_str()?.to_owned();
        if opens {
            assert_eq!(text(&socket.json().await, "action"), "AUTH_OK");
        } else {
            assert_eq!(socket.closed().await, 1008);
        }
    }
    Ok(())
}

/// A restart forgets which proofs were used: those that may have been need a nonce.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_from_before_a_restart_is_not_taken_again() -> Done {
    let mut server = start(|_| {}).await?;
    let own = key();
    let token = text(&log_in(&server, &own).await?, "access_token");
    server.restart().await?;
    let wish = Wish::new(&own, "GET", ME).with(&token);
    // The port may be another now, so the proof is made anew; by its time it could be one from before.
    let answer = me(&server, "DPoP", &token, Some(&wish.proof(&server))).await?;
    assert_refused(&answer, 401, "use_dpop_nonce");
    let nonce = header(&answer, "dpop-nonce").to_owned();
    let wish = Wish { nonce: Some(&nonce), ..wish };
    assert_eq!(me(&server, "DPoP", &token, Some(&wish.proof(&server))).await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_needs_the_same_key_and_another_one_is_theft() -> Done {
    let server = start(|_| {}).await?;
    let (own, other) = (key(), key());
    let by = |key: &SigningKey| Wish::new(key, "POST", REFRESH).proof(&server);
    let login = log_in(&server, &own).await?;
    let live = text(&login, "refresh_token");
    for bad in [Wish { age_s: 61, ..Wish::new(&own, "POST", REFRESH) }, Wish::new(&own, "GET", REFRESH)] {
        let answer = post(&server, REFRESH, Some(&bad.proof(&server)), &json!({ "refresh_token": live })).await?;
        assert_refused(&answer, 401, "invalid_dpop_proof");
    }
    let answer = post(&server, REFRESH, Some(&by(&own)), &json!({ "refresh_token": live })).await?;
    assert_eq!((answer.status, body(&answer)["token_type"].as_str()), (200, Some("DPoP")), "{}", body(&answer));
    let access = text(&body(&answer), "access_token");
    assert_eq!(part(&access, 1)?["cnf"]["jkt"], own.verifying().thumbprint(), "still bound");
    for thief in [None, Some(&other)] {
        let login = log_in(&server, &own).await?;
        let (token, live) = (text(&login, "access_token"), json!({ "refresh_token": text(&login, "refresh_token") }));
        let proof = thief.map(by);
        assert_refused(&post(&server, REFRESH, proof.as_deref(), &live).await?, 403, "refresh_reused");
        assert_refused(&post(&server, REFRESH, Some(&by(&own)), &live).await?, 403, "refresh_invalid");
        let proof = Wish::new(&own, "GET", ME).with(&token).proof(&server);
        assert_refused(&me(&server, "DPoP", &token, Some(&proof)).await?, 401, "unauthenticated");
    }
    let proof = Wish::new(&own, "GET", ME).with(&access).proof(&server);
    assert_eq!(me(&server, "DPoP", &access, Some(&proof)).await?.status, 200, "another session is not touched");
    Ok(())
}

/// A device that named no key of its own at enrollment is bound by the proof alone; its refresh token was good without
/// the key until somebody tried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_enrolls_with_a_proof_needs_its_key_for_everything() -> Done {
    let server = start(|_| {}).await?;
    let (own, other) = (key(), key());
    let enroll = async |name: &str| -> Result<Value, Fault> {
        let proof = Wish::new(&own, "POST", "/v1/auth/device").proof(&server);
        let wanted = enrollment(name, Some(&server.enrollment_token));
        let answer = post(&server, "/v1/auth/device", Some(&proof), &wanted).await?;
        assert_eq!(answer.status, 201, "{}", body(&answer));
        Ok(body(&answer))
    };
    let enrolled = enroll("BR-1").await?;
    let token = text(&enrolled, "access_token");
    assert_eq!(part(&token, 1)?["cnf"]["jkt"], own.verifying().thumbprint());
    let beat = json!({
        "device_id": "BR-1",
        "payload": { "accelerometer": [0.1, 9.79, 0.3], "gyroscope": [0.01, 0.02, -0.03] }
    });
    let heartbeat = "/v1/signals/heartbeat";
    let (dpop, bearer) = (format!("DPoP {token}"), format!("Bearer {token}"));
    for (authorization, key, status) in
        [(&dpop, &own, 200), (&dpop, &own, 200), (&dpop, &other, 401), (&bearer, &own, 401)]
    {
        let proof = Wish::new(key, "POST", heartbeat).with(&token).proof(&server);
        let headers = [("authorization", authorization.as_str()), ("dpop", &proof)];
        let answer = ask(&mut server.client()?, Method::POST, heartbeat, &headers, &beat).await?;
        assert_eq!(answer.status, status, "{}", body(&answer));
    }

    let endpoint = server.endpoint()?;
    let protocol = format!("blockremote.v1, {token}");
    let by = |key: &SigningKey| Wish::new(key, "GET", SOCKET).with(&token).proof(&server);
    let mine = by(&own);
    for (name, headers, opens) in [
        ("by its key", vec![("authorization", dpop.as_str()), ("dpop", &mine)], true),
        ("with the same proof again", vec![("authorization", &dpop), ("dpop", &mine)], false),
        ("with a proof beside the subprotocol", vec![("sec-websocket-protocol", &protocol), ("dpop", &by(&own))], true),
        ("by the token alone", vec![("sec-websocket-protocol", protocol.as_str())], false),
        ("as a bearer", vec![("authorization", bearer.as_str()), ("dpop", &by(&own))], false),
        ("by another key", vec![("authorization", &dpop), ("dpop", &by(&other))], false),
    ] {
        let mut socket = Raw::open(&endpoint, SOCKET, &headers).await.map_err(|(_, code)| code)?;
        if opens {
            assert_eq!(text(&socket.json().await, "action"), "AUTH_OK", "{name}");
        } else {
            assert_eq!(socket.closed().await, 1008, "{name}");
        }
    }

    let renewed = async |name: &str, key: Option<&SigningKey>| -> Result<Response, Fault> {
        let live = json!({ "refresh_token": text(&enroll(name).await?, "refresh_token") });
        let proof = key.map(|key| Wish::new(key, "POST", REFRESH).proof(&server));
        post(&server, REFRESH, proof.as_deref(), &live).await
    };
    assert_eq!(renewed("BR-2", Some(&own)).await?.status, 200);
    assert_refused(&renewed("BR-3", Some(&other)).await?, 403, "refresh_reused");
    assert_refused(&renewed("BR-4", None).await?, 403, "refresh_reused");
    crate::common::assert_locked_for_theft(&server, "BR-4").await?;
    Ok(())
}

/// Anybody may bring a proof to a public route: checking signatures for who only brings bad ones has an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_proofs_without_a_token_have_a_budget() -> Done {
    let server = start(|config| config.limits.auth_failures_per_minute = 5).await?;
    let own = key();
    let wrong = || Wish::new(&own, "GET", LOGIN).proof(&server);
    for _ in 0..5 {
        assert_refused(&post(&server, LOGIN, Some(&wrong()), &admin(&server)).await?, 401, "invalid_dpop_proof");
    }
    assert_refused(&post(&server, LOGIN, Some(&wrong()), &admin(&server)).await?, 429, "rate_limited");
    assert_eq!(post(&server, LOGIN, None, &admin(&server)).await?.status, 200, "a password is another matter");
    Ok(())
}

// ---- client certificates

/// A client with a fresh certificate of its own, and its SHA-256 in base64url.
fn certified(server: &Server) -> Result<(Endpoint, String), Fault> {
    let own = rcgen::generate_simple_self_signed(vec!["phone.example".to_owned()])?;
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der())?;
    let thumbprint = Base64UrlUnpadded::encode_string(&sha256(own.cert.der()));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(server.config().paths.certs.join("ca.pem"))?)?;
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![own.cert.der().clone()], key)?;
    Ok((Endpoint::new(&url(server, ""), Arc::new(tls))?, thumbprint))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_bound_to_a_certificate_needs_a_connection_with_it() -> Done {
    let server = start(|config| config.tls.client_certificates = ClientCertificates::Optional).await?;
    let (own, thumbprint) = certified(&server)?;
    let (other, _) = certified(&server)?;
    let answer = HttpClient::new(own.clone()).post(LOGIN, None, &admin(&server)).await?;
    assert_eq!((answer.status, body(&answer)["token_type"].as_str()), (200, Some("Bearer")));
    let token = text(&body(&answer), "access_token");
    assert_eq!(part(&token, 1)?["cnf"]["x5t#S256"], thumbprint);
    for (name, endpoint, status) in [
        ("on another connection with it", &own, 200),
        ("without one", &server.endpoint()?, 401),
        ("with another one", &other, 401),
    ] {
        assert_eq!(HttpClient::new(endpoint.clone()).get(ME, Some(&token)).await?.status, status, "{name}");
    }
    let holder = key();
    let proof = Wish::new(&holder, "GET", ME).with(&token).proof(&server);
    assert_refused(&me(&server, "DPoP", &token, Some(&proof)).await?, 401, "unauthenticated");

    let live = |login: &Value| json!({ "refresh_token": text(login, "refresh_token") });
    let renewed = HttpClient::new(own.clone()).post(REFRESH, None, &live(&body(&answer))).await?;
    assert_eq!(renewed.status, 200, "{}", body(&renewed));
    assert_eq!(part(&text(&body(&renewed), "access_token"), 1)?["cnf"]["x5t#S256"], thumbprint);
    for thief in [server.endpoint()?, other.clone()] {
        let login = HttpClient::new(own.clone()).post(LOGIN, None, &admin(&server)).await?;
        let stolen = HttpClient::new(thief).post(REFRESH, None, &live(&body(&login))).await?;
        assert_refused(&stolen, 403, "refresh_reused");
        let token = text(&body(&login), "access_token");
        assert_eq!(HttpClient::new(own.clone()).get(ME, Some(&token)).await?.status, 401, "revoked");
    }

    let enrolled = HttpClient::new(own.clone())
        .post("/v1/auth/device", None, &enrollment("BR-1", Some(&server.enrollment_token)))
        .await?;
    let token = text(&body(&enrolled), "access_token");
    let mut socket = Raw::with_token(&own, &token).await;
    assert_eq!(text(&socket.json().await, "action"), "AUTH_OK");
    for endpoint in [server.endpoint()?, other] {
        assert_eq!(Raw::with_token(&endpoint, &token).await.closed().await, 1008);
    }
    let stolen = server.client()?.post(REFRESH, None, &live(&body(&enrolled))).await?;
    assert_refused(&stolen, 403, "refresh_reused");
    Ok(())
}
