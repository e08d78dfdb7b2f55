//! Callers without an account: who they are for a day, how much they may ask, and what they cannot get around.

use std::time::Duration;

use blockremote::client::{HttpClient, Response};
use blockremote::config::Config;
use blockremote::testkit::{Fault, Server, text};
use hyper::Method;
use serde_json::{Value, json};

use crate::common::{Done, assert_refused, body, header, part};
use crate::wire::{ask, behind_a_proxy};

const STATUS: &str = "/v1/status";
const TOKEN: &str = "x-anonymous-token";

/// A caller behind the proxy.
#[derive(Clone, Default)]
struct Stranger {
    address: String,
    agent: Option<&'static str>,
    language: Option<&'static str>,
    token: Option<String>,
}

impl Stranger {
    fn at(address: &str) -> Self {
        Self { address: address.to_owned(), ..Self::default() }
    }

    async fn ask(&self, client: &mut HttpClient) -> Result<Response, Fault> {
        let mut headers = vec![("x-forwarded-for", self.address.as_str())];
        headers.extend(self.agent.map(|a| ("user-agent", a)));
        headers.extend(self.language.map(|l| ("accept-language", l)));
        headers.extend(self.token.as_deref().map(|t| (TOKEN, t)));
        ask(client, Method::GET, STATUS, &headers, &Value::Null).await
    }

    /// Asks so often, and gives the last answer; all of them are admitted.
    async fn spend(&self, client: &mut HttpClient, times: usize) -> Result<Response, Fault> {
        let mut last = None;
        for n in 0..times {
            let answer = self.ask(client).await?;
            assert_eq!(answer.status, 200, "request {n} of {}: {}", self.address, body(&answer));
            last = Some(answer);
        }
        last.ok_or_else(|| "nothing was asked".into())
    }
}

async fn few(limit: u32) -> Result<Server, Fault> {
    Server::start_with(|config| {
        behind_a_proxy(config);
        config.anonymous.limit = limit;
    })
    .await
}

fn remaining(answer: &Response) -> &str {
    header(answer, "x-ratelimit-remaining")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_gets_a_token_once_and_another_when_the_fingerprint_differs() -> Done {
    let server = Server::start_with(behind_a_proxy).await?;
    let mut client = server.client()?;
    let mut ann = Stranger { agent: Some("app/1"), language: Some("de"), ..Stranger::at("10.0.0.1") };
    let first = ann.ask(&mut client).await?;
    assert_eq!(first.status, 200);
    let answer = body(&first);
    let members: Vec<&str> = answer.as_object().into_iter().flat_map(|o| o.keys()).map(String::as_str).collect();
    assert_eq!(members, ["health", "name", "version"]);
    assert_eq!((text(&answer, "name").as_str(), text(&answer, "health").as_str()), ("BlockRemote", "ok"));
    for (name, value) in [("x-ratelimit-limit", "100"), ("x-ratelimit-remaining", "99")] {
        assert_eq!(header(&first, name), value, "{name}");
    }
    assert_eq!(header(&first, "ratelimit-policy"), "\"default\";q=100;w=3600");
    assert_eq!(header(&first, "cache-control"), "no-store");

    let token = header(&first, TOKEN).to_owned();
    let (head, claims) = (part(&token, 0)?, part(&token, 1)?);
    assert_eq!(head["alg"], "ES256");
    let seconds = |name: &str| claims[name].as_i64().unwrap_or_default();
    assert_eq!(seconds("exp") - seconds("iat"), 24 * 3_600);
    assert!(text(&claims, "user_id").starts_with("anon_"));
    assert_eq!((text(&claims, "typ").as_str(), claims["quota_limit"].as_u64()), ("anonymous", Some(100)));
    assert!(!text(&claims, "fingerprint").is_empty());

    ann.token = Some(token.clone());
    let again = ann.ask(&mut client).await?;
    assert_eq!((again.status, header(&again, TOKEN), remaining(&again)), (200, "", "98"));
    for other in [
        Stranger { agent: Some("app/2"), ..ann.clone() },
        Stranger { language: Some("fr"), ..ann.clone() },
        Stranger { language: None, ..ann.clone() },
        Stranger { address: "10.0.0.2".to_owned(), ..ann.clone() },
        Stranger { token: Some("not.a.token".to_owned()), ..ann.clone() },
        Stranger { token: Some(server.admin_token().await?), ..ann.clone() },
    ] {
        let answer = other.ask(&mut client).await?;
        let new = header(&answer, TOKEN);
        assert_eq!(answer.status, 200);
        assert!(!new.is_empty() && new != token, "{:?} {:?} {}", other.agent, other.language, other.address);
        assert_ne!(part(new, 1)?["user_id"], claims["user_id"]);
    }
    server.clock.advance(Duration::from_secs(24 * 3_600 + 31));
    assert!(!header(&ann.ask(&mut client).await?, TOKEN).is_empty(), "it is over after a day");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_window_slides_and_a_refused_request_does_not_count() -> Done {
    let server = Server::start_with(behind_a_proxy).await?;
    let mut client = server.client()?;
    let mut ann = Stranger::at("10.0.0.1");
    ann.token = Some(header(&ann.ask(&mut client).await?, TOKEN).to_owned());
    ann.spend(&mut client, 49).await?;
    server.clock.advance(Duration::from_secs(1_800));
    let last = ann.spend(&mut client, 50).await?;
    assert_eq!(remaining(&last), "0");
    for _ in 0..20 {
        let refused = ann.ask(&mut client).await?;
        assert_refused(&refused, 429, "rate_limited");
        assert_eq!((remaining(&refused), header(&refused, "x-ratelimit-limit")), ("0", "100"));
        let wait: u64 = header(&refused, "retry-after").parse()?;
        assert!((1_790..=1_801).contains(&wait), "{wait}");
        assert_eq!(header(&refused, TOKEN), "", "no new token for who is refused");
    }
    // Who drops the token, or invents one, is still the same network.
    for token in [None, Some("not.a.token".to_owned())] {
        let renamed = Stranger { token, agent: Some("another"), ..ann.clone() };
        assert_refused(&renamed.ask(&mut client).await?, 429, "rate_limited");
    }
    assert_eq!(Stranger::at("10.0.0.2").ask(&mut client).await?.status, 200, "a network of its own");
    // Half of it lies an hour back: that much is free again, and the refused requests took nothing of it.
    server.clock.advance(Duration::from_secs(1_802));
    ann.spend(&mut client, 50).await?;
    assert_refused(&ann.ask(&mut client).await?, 429, "rate_limited");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_is_an_ipv4_address_or_an_ipv6_64_and_no_header_invents_one() -> Done {
    let server = few(5).await?;
    let mut client = server.client()?;
    for n in 0..5 {
        assert_eq!(Stranger::at(&format!("2001:db8:0:1::{n}")).ask(&mut client).await?.status, 200);
    }
    let refused = Stranger::at("2001:db8:0:1:ffff::1").ask(&mut client).await?;
    assert_refused(&refused, 429, "rate_limited");
    assert_eq!(Stranger::at("2001:db8:0:2::1").ask(&mut client).await?.status, 200, "the next /64");
    // What stands left of the last address that a proxy of ours saw is the caller's invention.
    for n in 0..5 {
        assert_eq!(Stranger::at(&format!("10.9.{n}.1, 10.0.0.1")).ask(&mut client).await?.status, 200);
    }
    assert_refused(&Stranger::at("10.9.9.9, 10.0.0.1").ask(&mut client).await?, 429, "rate_limited");
    assert_refused(&Stranger::at("::ffff:10.0.0.1").ask(&mut client).await?, 429, "rate_limited");

    let server = Server::start_with(|config| config.anonymous.limit = 5).await?;
    let mut client = server.client()?;
    for n in 0..5 {
        assert_eq!(Stranger::at(&format!("10.0.0.{n}")).ask(&mut client).await?.status, 200);
    }
    assert_refused(&Stranger::at("10.0.0.9").ask(&mut client).await?, 429, "rate_limited");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_an_account_is_not_counted_among_strangers() -> Done {
    let server = few(3).await?;
    let (admin, device) = (server.admin_token().await?, server.enroll("BR-1").await?);
    let mut client = server.client()?;
    for token in [&admin, &device.access_token] {
        for _ in 0..5 {
            let answer = client.get(STATUS, Some(token)).await?;
            assert_eq!((answer.status, header(&answer, TOKEN)), (200, ""));
            assert_eq!(header(&answer, "x-ratelimit-limit"), "1200");
        }
    }
    let bad = client.get(STATUS, Some("not.a.token")).await?;
    assert_refused(&bad, 401, "unauthenticated");
    assert_eq!(header(&bad, TOKEN), "");
    let here = Stranger::at("127.0.0.1");
    let token = header(&here.spend(&mut client, 1).await?, TOKEN).to_owned();
    here.spend(&mut client, 2).await?;
    assert_refused(&here.ask(&mut client).await?, 429, "rate_limited");
    assert_eq!(client.get(STATUS, Some(&admin)).await?.status, 200);
    for path in ["/", "/health", "/health/live", "/health/ready", "/docs", "/docs/", "/redoc", "/openapi.json"] {
        for _ in 0..4 {
            let answer = client.get(path, None).await?;
            assert!(matches!(answer.status, 200 | 308), "{path}: {}", answer.status);
            assert_eq!((header(&answer, TOKEN), header(&answer, "x-ratelimit-limit")), ("", ""), "{path}");
        }
    }
    // The token says who a stranger is, and opens nothing.
    for path in [STATUS, "/v1/me", "/v1/devices", "/v1/audit/logs?device_id=BR-1"] {
        assert_refused(&client.get(path, Some(&token)).await?, 401, "unauthenticated");
    }
    let enrolled = client.post("/v1/auth/device", Some(&token), &json!({})).await?;
    assert_refused(&enrolled, 401, "unauthenticated");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_limiter_nobody_is_counted() -> Done {
    let off = |config: &mut Config| {
        config.anonymous.limiter = false;
        config.anonymous.limit = 2;
    };
    let server = Server::start_with(off).await?;
    let mut client = server.client()?;
    for _ in 0..5 {
        let answer = client.get(STATUS, None).await?;
        assert_eq!((answer.status, header(&answer, "x-ratelimit-limit")), (200, ""));
        assert!(!header(&answer, TOKEN).is_empty());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_gives_nobody_a_fresh_quota() -> Done {
    let mut server = few(10).await?;
    let mut ann = Stranger::at("10.0.0.1");
    let mut client = server.client()?;
    ann.token = Some(header(&ann.ask(&mut client).await?, TOKEN).to_owned());
    ann.spend(&mut client, 6).await?;
    server.restart().await?;
    let mut client = server.client()?;
    let answer = ann.ask(&mut client).await?;
    assert_eq!((answer.status, remaining(&answer), header(&answer, TOKEN)), (200, "2", ""));
    ann.token = None;
    ann.spend(&mut client, 2).await?;
    assert_refused(&ann.ask(&mut client).await?, 429, "rate_limited");
    Ok(())
}
