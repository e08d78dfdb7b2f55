//! Access tokens: what they say, how long they count, and that nobody can make one.

use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use blockremote::client::frame::Incoming;
use blockremote::client::socket::Event;
use blockremote::crypto::{JwkSet, SigningKey, hmac_sha256, parse_compact, sign_compact};
use blockremote::kernel::Random;
use blockremote::testkit::{Fault, Server, text};
use hyper::Method;
use serde_json::{Value, json};

use crate::common::{Done, altered, assert_refused, code, header, part, refreshed, status_with};

fn encoded(value: &Value) -> String {
    Base64UrlUnpadded::encode_string(value.to_string().as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_access_token_says_what_the_contract_says_and_is_signed_by_a_published_key() -> Done {
    let server = Server::start().await?;
    let login = server.login().await?;
    let device = server.enroll("BR-1").await?;
    let jwks = server.client()?.get("/.well-known/jwks.json", None).await?;
    let keys = JwkSet::parse(&jwks.body)?;
    let user_token = text(&login, "access_token");
    for token in [&user_token, &device.access_token] {
        let (head, claims) = (part(token, 0)?, part(token, 1)?);
        assert_eq!((&head["alg"], &head["typ"]), (&json!("ES256"), &json!("at+jwt")));
        let key = keys.get(&text(&head, "kid")).ok_or("the key is not published")?;
        assert!(parse_compact(token, 4096)?.verify(&key).is_some());
        let seconds = |name: &str| claims[name].as_i64().unwrap_or_default();
        assert_eq!(seconds("exp") - seconds("iat"), 900);
        assert_eq!((seconds("iat"), seconds("nbf")), (server.clock.now().as_secs(), server.clock.now().as_secs()));
        assert_eq!(claims["typ"], "access");
        assert_eq!((&claims["sub"], &claims["tenant"]), (&login["user"]["id"], &login["user"]["tenant"]));
        for (name, prefix) in [("jti", "tok_"), ("sid", "ses_"), ("tenant", "ten_"), ("sub", "usr_")] {
            assert!(text(&claims, name).starts_with(prefix), "{name} in {claims}");
        }
        assert!(!text(&claims, "iss").is_empty() && !text(&claims, "aud").is_empty());
    }
    let of_user = part(&user_token, 1)?;
    assert!(text(&of_user, "scope").contains("devices:command") && of_user.get("device_id").is_none());
    let of_device = part(&device.access_token, 1)?;
    assert_eq!((&of_device["scope"], &of_device["device_id"]), (&json!("device"), &json!("BR-1")));
    assert_ne!(of_user["jti"], of_device["jti"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_access_token_is_good_for_fifteen_minutes_and_never_before_its_time() -> Done {
    let server = Server::start().await?;
    let device = server.enroll("BR-1").await?;
    server.clock.advance(Duration::from_secs(899));
    assert_eq!(status_with(&server, &device.access_token).await?, 200);
    server.clock.advance(Duration::from_secs(32));
    assert_eq!(status_with(&server, &device.access_token).await?, 401, "expired, the allowed skew included");
    let (access, _) = refreshed(&server, &device.refresh_token).await?;
    let present = server.clock.now();
    server.clock.set(present.minus(Duration::from_secs(32)));
    assert_eq!(status_with(&server, &access).await?, 401, "not valid yet");
    server.clock.set(present);
    assert_eq!(status_with(&server, &access).await?, 200);
    Ok(())
}

/// Every way to make a token without the key that the tests know of.
fn forgeries(genuine: &str, other: &str, jwks: &Value) -> Result<Vec<(String, String)>, Fault> {
    let parts: Vec<&str> = genuine.split('.').collect();
    let other: Vec<&str> = other.split('.').collect();
    let (head, claims) = (part(genuine, 0)?, part(genuine, 1)?);
    let attacker = SigningKey::generate(&Random::System);
    let with = |base: &Value, members: Value| {
        let mut out = base.clone();
        for (name, value) in members.as_object().into_iter().flatten() {
            out[name] = value.clone();
        }
        out
    };
    let by_attacker = |head: &Value| {
        let input = format!("{}.{}", encoded(head), encoded(&claims));
        format!("{input}.{}", Base64UrlUnpadded::encode_string(&attacker.sign(input.as_bytes())))
    };
    let by_secret = |secret: &[u8]| {
        let input = format!("{}.{}", encoded(&with(&head, json!({ "alg": "HS256" }))), parts[1]);
        format!("{input}.{}", Base64UrlUnpadded::encode_string(&hmac_sha256(secret, input.as_bytes())))
    };
    let signed_by = |r: u8, s: u8| {
        let mut raw = [0_u8; 64];
        (raw[31], raw[63]) = (r, s);
        format!("{}.{}.{}", parts[0], parts[1], Base64UrlUnpadded::encode_string(&raw))
    };
    let later = with(&claims, json!({ "exp": claims["exp"].as_i64().unwrap_or_default() + 900 }));
    let admin = with(&claims, json!({ "scope": "devices:read devices:command system:admin" }));
    let none = with(&head, json!({ "alg": "none" }));
    let mut forged = vec![
        ("alg none, no signature", format!("{}.{}.", encoded(&none), parts[1])),
        ("alg none, the old signature", format!("{}.{}.{}", encoded(&none), parts[1], parts[2])),
        ("HS256 with the published keys as secret", by_secret(jwks.to_string().as_bytes())),
        ("HS256 with the key's x as secret", by_secret(text(&jwks["keys"][0], "x").as_bytes())),
        ("another key under the real kid", by_attacker(&head)),
        ("an unknown kid", by_attacker(&with(&head, json!({ "kid": attacker.kid() })))),
        ("no kid", by_attacker(&json!({ "alg": "ES256", "typ": "at+jwt" }))),
        (
            "the attacker's key in the header",
            by_attacker(&with(&head, json!({ "jwk": attacker.verifying().to_jwk() }))),
        ),
        ("a place to fetch the key from", by_attacker(&with(&head, json!({ "jku": "https://attacker.example/jwks" })))),
        ("a certificate's address", by_attacker(&with(&head, json!({ "x5u": "https://attacker.example/cert" })))),
        ("an extension that must be understood", by_attacker(&with(&head, json!({ "crit": ["exp"], "exp": 1 })))),
        ("signed by the attacker in all form", sign_compact("at+jwt", claims.to_string().as_bytes(), &attacker)),
        ("r and s are 0", signed_by(0, 0)),
        ("r is 0", signed_by(0, 1)),
        ("s is 0", signed_by(1, 0)),
        ("a later end", format!("{}.{}.{}", parts[0], encoded(&later), parts[2])),
        ("more rights", format!("{}.{}.{}", parts[0], encoded(&admin), parts[2])),
        ("another token's signature", format!("{}.{}.{}", parts[0], parts[1], other[2])),
        ("another token's claims", format!("{}.{}.{}", parts[0], other[1], parts[2])),
        ("no signature", format!("{}.{}", parts[0], parts[1])),
        ("a part too many", format!("{genuine}.{}", parts[2])),
        ("padding", format!("{genuine}=")),
        ("a space in it", genuine.replacen('.', ". ", 1)),
        ("nothing", String::new()),
        ("two dots", "..".to_owned()),
        ("the claims alone", claims.to_string()),
        ("more than a token can be long", format!("{genuine}{}", "A".repeat(20_000))),
    ];
    let names = ["header", "claims", "signature"];
    let mut start = 0;
    for (name, text) in names.iter().zip(&parts) {
        for at in [0, text.len() / 2, text.len() - 1] {
            let at = isize::try_from(start + at)?;
            forged.push((name, altered(genuine, at)));
        }
        start += text.len() + 1;
    }
    Ok(forged.into_iter().map(|(name, token)| (name.to_owned(), token)).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_forged_token_gets_in() -> Done {
    let server = Server::start_with(|c| c.limits.auth_failures_per_minute = 10_000).await?;
    let device = server.enroll("BR-1").await?;
    let other = server.enroll("BR-2").await?;
    let mut client = server.client()?;
    let jwks: Value = client.get("/.well-known/jwks.json", None).await?.json()?;
    for known in [false, true] {
        // The second time round the server remembers the genuine token.
        for (name, token) in forgeries(&device.access_token, &other.access_token, &jwks)? {
            let answer = client.get("/v1/audit/logs?device_id=BR-1", Some(&token)).await?;
            if name == "more than a token can be long" && matches!(answer.status, 431 | 400) {
                continue;
            }
            assert_eq!(answer.status, 401, "{name} (known: {known})");
            assert!(header(&answer, "www-authenticate").starts_with("Bearer"), "{name}");
            assert_eq!(code(&answer), "unauthenticated", "{name}");
        }
        assert_eq!(status_with(&server, &device.access_token).await?, 200);
    }
    Ok(())
}

/// A command is signed by the same key; its type keeps it from being a token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_command_is_no_token() -> Done {
    let server = Server::start().await?;
    let device = server.enroll("BR-1").await?;
    let mut socket = device.socket().await?;
    let Event::Frame(Incoming::Command(notice)) = socket.next().await else {
        return Err("the first frame is not a notice".into());
    };
    assert_eq!(status_with(&server, &notice.signature).await?, 401);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_counts_only_as_a_bearer_in_the_header() -> Done {
    let server = Server::start().await?;
    let device = server.enroll("BR-1").await?;
    let token = device.access_token.as_str();
    let mut client = server.client()?;
    let basic = format!("Basic {}", Base64UrlUnpadded::encode_string(token.as_bytes()));
    for value in [token, &format!("Token {token}"), &format!("Bearer{token}"), "Bearer", "Bearer ", &basic] {
        let path = "/v1/audit/logs?device_id=BR-1";
        let answer = client.request(Method::GET, path, &[("authorization", value)], "".into()).await?;
        assert_eq!(answer.status, 401, "{value}");
        assert!(header(&answer, "www-authenticate").starts_with("Bearer"));
    }
    // The scheme's name is case-insensitive (RFC 9110, section 11.1).
    for value in [format!("bearer {token}"), format!("BEARER  {token}")] {
        let path = "/v1/audit/logs?device_id=BR-1";
        assert_eq!(client.request(Method::GET, path, &[("authorization", &value)], "".into()).await?.status, 200);
    }
    for name in ["access_token", "token", "authorization", "bearer"] {
        let path = format!("/v1/audit/logs?device_id=BR-1&{name}={token}");
        assert_eq!(client.get(&path, None).await?.status, 401, "?{name}=");
    }
    for header in ["x-access-token", "cookie"] {
        let value = format!("access_token={token}");
        let answer = client.request(Method::GET, "/v1/me", &[(header, &value)], "".into()).await?;
        assert_eq!(answer.status, 401, "{header}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_cannot_speak_for_another() -> Done {
    let server = Server::start().await?;
    let mine = server.enroll("BR-1").await?;
    let mut other = server.enroll("BR-2").await?;
    assert_refused(&other.beat(&mine.calm()).await?, 403, "device_mismatch");
    let get = |path: &'static str| {
        let client = server.client();
        let token = other.access_token.clone();
        async move { Ok::<_, Fault>(client?.get(path, Some(&token)).await?) }
    };
    assert_refused(&get("/v1/security/trust-score?device_id=BR-1").await?, 403, "device_mismatch");
    assert_refused(&get("/v1/audit/logs?device_id=BR-1").await?, 403, "device_mismatch");
    assert_refused(&get("/v1/devices/BR-1").await?, 404, "not_found");
    assert_refused(&get("/v1/devices/BR-1/commands").await?, 404, "not_found");
    Ok(())
}

/// Guessing tokens costs the server a signature check each; who guesses is stopped, who was let in is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_bad_tokens_in_a_minute_are_enough_for_one_address() -> Done {
    let server = Server::start().await?;
    let device = server.enroll("BR-1").await?;
    let newer = server.enroll("BR-2").await?;
    assert_eq!(status_with(&server, &device.access_token).await?, 200, "known from here on");
    let mut client = server.client()?;
    for i in 0..60 {
        let answer = client.get("/v1/me", Some(&format!("bad.bad.{i}"))).await?;
        assert_eq!(answer.status, 401, "failure {i}");
    }
    let stopped = client.get("/v1/me", Some("bad.bad.bad")).await?;
    assert_refused(&stopped, 429, "rate_limited");
    let wait_s: u64 = header(&stopped, "retry-after").parse()?;
    assert!((1..=61).contains(&wait_s), "{wait_s}");
    let told = ["limit", "remaining", "reset"].map(|name| header(&stopped, &format!("x-ratelimit-{name}")).to_owned());
    assert_eq!(told, ["60", "0", wait_s.to_string().as_str()]);
    assert_eq!(status_with(&server, &device.access_token).await?, 200, "a known token still works");
    assert_eq!(status_with(&server, &newer.access_token).await?, 429, "an unknown one is not even looked at");
    server.clock.advance(Duration::from_secs(wait_s));
    assert_eq!(client.get("/v1/me", Some("bad.bad.bad")).await?.status, 401);
    Ok(())
}
