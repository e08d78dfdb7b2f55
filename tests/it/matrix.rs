//! Every row of the route table against every kind of caller, and what holds for every answer.
//!
//! The expectations come from the rows themselves.

use std::time::Duration;

use blockremote::client::socket::Event;
use blockremote::client::{Socket, frame::Action, frame::Incoming};
use blockremote::gate::{Access, AuditClass, RateClass, Verb};
use blockremote::testkit::{Fault, Server, text};
use hyper::Method;
use serde_json::Value;

use crate::common::{DAY, Done, MINUTE, add_user, body, code, header, second_tenant};
use crate::world::{Call, EVERYBODY, Who, World, assert_standing, expected_entry, promised, public_rows};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_row_lets_in_exactly_whom_it_names() -> Done {
    let mut world = World::new().await?;
    for route in public_rows() {
        for who in EVERYBODY {
            let answer = world.call_as(route, who).await?;
            let about = format!("{} {} as {who:?}: {}", route.verb.method(), route.path, body(&answer));
            assert_eq!(answer.status, promised(route, who), "{about}");
            let limited = !matches!(route.rate, RateClass::Unlimited | RateClass::Login) && route.verb != Verb::Ws;
            if limited && answer.status < 300 {
                for name in ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"] {
                    assert!(header(&answer, name).parse::<u64>().is_ok(), "{name}: {about}");
                }
                assert!(header(&answer, "ratelimit").contains(";r="), "{about}");
                assert!(header(&answer, "ratelimit-policy").contains(";q="), "{about}");
            }
            if limited && answer.status < 300 && who == Who::Device && matches!(route.access, Access::Device(_)) {
                assert_eq!(header(&answer, "x-plan-tier"), "trial", "{about}");
            }
        }
    }
    Ok(())
}

/// The socket's answer to bad credentials comes after the upgrade: a close code that apps can read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_opens_for_devices_only() -> Done {
    let world = World::new().await?;
    for who in EVERYBODY {
        let token = world.token(who).unwrap_or_else(|| "none".to_owned());
        let mut socket = Socket::connect(&world.server.endpoint()?, &token).await?;
        match (who, socket.next().await) {
            (Who::Device, Event::Frame(Incoming::Command(first))) => assert_eq!(first.action, Action::AuthOk),
            (_, Event::Closed(1008, _)) if who != Who::Device => {}
            (_, other) => return Err(format!("{who:?}: {other:?}").into()),
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_rows_limit_is_413_and_then_comes_the_media_type() -> Done {
    let mut world = World::new().await?;
    let mut seen = 0;
    for route in public_rows().filter(|r| r.body_max > 0) {
        let who =
            if matches!(route.access, Access::Device(_) | Access::Enrolling(_)) { Who::Device } else { Who::Admin };
        let call = world.recipe(route, who).await?;
        let signed = matches!(route.access, Access::Signed(_));
        let public = signed || matches!(route.access, Access::Public(_) | Access::OptionalUser(_));
        let token = call.token.clone().or_else(|| world.token(who));
        let bearer = token.filter(|_| !public).map(|t| format!("Bearer {t}"));
        let large = vec![b' '; route.body_max + 1];
        let fits = vec![b' '; route.body_max];
        for (content_type, text, expected) in [
            ("application/json", &large, 413),
            ("text/plain", &large, 413),
            ("text/plain", &fits, 415),
            ("application/jsonp", &fits, 415),
            // What nobody signed is not even parsed.
            ("application/json; charset=utf-8", &fits, if signed { 401 } else { 400 }),
            ("APPLICATION/JSON", &fits, if signed { 401 } else { 400 }),
        ] {
            let mut headers = vec![("content-type", content_type), ("x-request-id", "large")];
            headers.extend(bearer.iter().map(|b| ("authorization", b.as_str())));
            let method = route.verb.method().parse()?;
            let mut client = world.server.client()?;
            let answer = client.request(method, &call.path, &headers, text.clone().into()).await?;
            assert_standing(&answer, "large", route.access);
            assert_eq!(answer.status, expected, "{} with {content_type}, {} bytes", route.path, text.len());
            seen += 1;
        }
        if bearer.is_some() {
            let headers = [("content-type", "text/plain"), ("x-request-id", "large")];
            let mut client = world.server.client()?;
            let answer = client.request(route.verb.method().parse()?, &call.path, &headers, large.into()).await?;
            assert_eq!(answer.status, 401, "{}: who may not call learns nothing of limits", route.path);
        }
    }
    assert!(seen > 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_its_rate_each_row_answers_429_and_says_when_to_come_back() -> Done {
    const LIMIT: u32 = 8;
    let mut world = World::with(|c| {
        (c.limits.read_per_minute, c.limits.write_per_minute) = (LIMIT, LIMIT);
        c.limits.enroll_per_minute = LIMIT;
        // Time is moved on between the rows; the tokens must outlast it.
        c.tokens.access_ttl = DAY;
    })
    .await?;
    let mut seen = 0;
    for route in public_rows() {
        let limit = match route.rate {
            RateClass::Read | RateClass::Write | RateClass::Public => LIMIT,
            RateClass::PlanTier => 120,
            // Nothing to exceed; by failures, and by sockets: tested where they belong.
            RateClass::Unlimited | RateClass::Login | RateClass::Handshake | RateClass::Anonymous => continue,
        };
        world.server.clock.advance(2 * MINUTE);
        let who =
            if matches!(route.access, Access::Device(_) | Access::Enrolling(_)) { Who::Device } else { Who::Admin };
        let call = world.recipe(route, who).await?;
        let open = matches!(route.access, Access::Public(_) | Access::Signed(_) | Access::OptionalUser(_));
        let token = call.token.clone().or_else(|| world.token(who)).filter(|_| !open);
        // A logout ends what is counted: other writes of the same session come before it.
        let filler = match route.path {
            "/v1/auth/logout" => Some(Call::get("/v1/me/sessions/none")),
            _ => None,
        };
        for _ in 0..limit {
            let (method, call) = match &filler {
                Some(filler) => ("DELETE", filler),
                None => (route.verb.method(), &call),
            };
            world.call(method, call, token.as_deref(), route.access).await?;
        }
        let refused = world.call(route.verb.method(), &call, token.as_deref(), route.access).await?;
        assert_eq!((refused.status, code(&refused).as_str()), (429, "rate_limited"), "{}", route.path);
        assert_eq!(header(&refused, "x-ratelimit-limit"), limit.to_string(), "{}", route.path);
        assert_eq!(header(&refused, "x-ratelimit-remaining"), "0", "{}", route.path);
        assert_eq!(header(&refused, "x-ratelimit-reset"), header(&refused, "retry-after"), "{}", route.path);
        let wait_s: u64 = header(&refused, "retry-after").parse()?;
        world.server.clock.advance(Duration::from_secs(wait_s));
        let later = world.call(route.verb.method(), &call, token.as_deref(), route.access).await?;
        let refused_again = (later.status, code(&later).as_str()) == (429, "rate_limited");
        assert!(!refused_again, "{} after {wait_s} s", route.path);
        seen += 1;
    }
    assert!(seen > 12, "{seen}");
    Ok(())
}

/// A server that closes on unread bytes resets the connection, and the client learns nothing of why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_reaches_a_client_that_still_sends_a_large_body() -> Done {
    let world = World::new().await?;
    let large = vec![b' '; 512 * 1024];
    let mut client = world.server.client()?;
    for _ in 0..5 {
        for (method, path, token, expected) in [
            (Method::POST, "/v1/auth/login", None, 413),
            (Method::POST, "/v1/signals/heartbeat", Some(world.device.as_str()), 413),
            (Method::POST, "/v1/signals/heartbeat", None, 401),
            (Method::POST, "/v1/signals/heartbeat", Some(world.admin.as_str()), 403),
            (Method::POST, "/no/such/path", None, 404),
            (Method::PUT, "/v1/me", None, 405),
            (Method::GET, "/health/live", None, 200),
        ] {
            let bearer = token.map(|t| format!("Bearer {t}"));
            let mut headers = vec![("content-type", "application/json")];
            headers.extend(bearer.iter().map(|b| ("authorization", b.as_str())));
            let answer = client.request(method, path, &headers, large.clone().into()).await?;
            assert_eq!(answer.status, expected, "{path}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_method_is_405_and_names_the_right_ones() -> Done {
    let mut world = World::new().await?;
    for route in public_rows() {
        let mut allowed: Vec<&str> = Vec::new();
        for other in public_rows().filter(|r| r.path == route.path) {
            allowed.push(other.verb.method());
            if other.verb == Verb::Get {
                allowed.push("HEAD");
            }
        }
        let call = world.recipe(route, Who::Admin).await?;
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            if allowed.contains(&method) {
                continue;
            }
            let call = Call::get(&call.path);
            let answer = world.call(method, &call, None, Access::Public("405 comes before authentication")).await?;
            assert_eq!(answer.status, 405, "{method} {}", route.path);
            let mut named: Vec<&str> = header(&answer, "allow").split(", ").collect();
            named.sort_unstable();
            let mut expected = allowed.clone();
            expected.sort_unstable();
            assert_eq!(named, expected, "{method} {}", route.path);
        }
        if route.verb == Verb::Get {
            let token =
                if matches!(route.access, Access::Device(_) | Access::Enrolling(_)) { Who::Device } else { Who::Admin };
            let token = world.token(token);
            let call = Call { body: Value::Null, ..call };
            let head = world.call("HEAD", &call, token.as_deref(), route.access).await?;
            assert_eq!((head.status, head.body.len()), (route.endpoint.status, 0), "HEAD {}", route.path);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_is_not_in_the_table_does_not_exist() -> Done {
    let mut world = World::new().await?;
    let admin = world.admin.clone();
    for path in [
        "/v1",
        "/v1/",
        "/v1/me/",
        "/v1//me",
        "/V1/me",
        "/v2/me",
        "/api",
        "/api/v1",
        "/api/me",
        "/api/health",
        "/api/api/v1/me",
        "/metrics",
        "/internal/.well-known/jwks.json",
        "/v1/devices/",
        "/v1/devices/a/b/c/d",
        "/v1/devices/BR-1/",
        "/v1/me/sessions/",
        "/docs/../v1/me",
        "/docs/%2e%2e/x",
        "/docs/no-such-file",
        "/.git",
        "/v1/%6de",
        "/favicon.ico",
    ] {
        let access = Access::Public("it does not exist for anybody");
        for token in [None, Some(admin.as_str())] {
            let answer = world.call("GET", &Call::get(path), token, access).await?;
            assert_eq!((answer.status, code(&answer).as_str()), (404, "not_found"), "{path}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_v1_is_the_same_as_v1() -> Done {
    let mut world = World::new().await?;
    let mut seen = 0;
    for route in public_rows().filter(|r| r.path.starts_with("/v1/") && r.verb != Verb::Ws) {
        for who in [Who::Garbage, Who::Device, Who::Admin] {
            let mut call = world.recipe(route, who).await?;
            call.path = format!("/api{}", call.path);
            let token = call.token.clone().or_else(|| world.token(who));
            let answer = world.call(route.verb.method(), &call, token.as_deref(), route.access).await?;
            assert_eq!(answer.status, promised(route, who), "{} as {who:?}: {}", call.path, body(&answer));
            seen += 1;
        }
    }
    assert!(seen > 30);
    Ok(())
}

/// Nothing changes without a trace, in the commit of the change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_row_that_writes_leaves_an_entry_that_names_its_request() -> Done {
    let mut world = World::new().await?;
    let mut seen = 0;
    for route in public_rows() {
        let who =
            if matches!(route.access, Access::Device(_) | Access::Enrolling(_)) { Who::Device } else { Who::Admin };
        let call = world.recipe(route, who).await?;
        let newest = newest_entries(&world).await?.first().map(|e| e["seq"].clone());
        let public = matches!(route.access, Access::Public(_));
        let token = call.token.clone().or_else(|| world.token(who)).filter(|_| !public);
        let answer = world.call(route.verb.method(), &call, token.as_deref(), route.access).await?;
        assert!(answer.status < 300 || matches!(answer.status, 308 | 426), "{}: {}", route.path, body(&answer));
        let entries = newest_entries(&world).await?;
        let request_id = header(&answer, "x-request-id");
        let mine = entries.iter().filter(|e| e["request_id"] == request_id);
        let actions: Vec<String> = mine.map(|e| text(e, "action_taken")).collect();
        if route.audit == AuditClass::Write {
            let expected = expected_entry(route.verb, route.path);
            let expected = expected.ok_or_else(|| format!("{} has no expected entry: name one", route.path))?;
            assert!(actions.iter().any(|a| a == expected), "{} left {actions:?}", route.path);
            seen += 1;
        } else {
            assert_eq!(entries.first().map(|e| e["seq"].clone()), newest, "{} left {actions:?}", route.path);
        }
    }
    assert!(seen > 0);
    Ok(())
}

async fn newest_entries(world: &World) -> Result<Vec<Value>, Fault> {
    let page = world.server.app().services.audit.list(world.tenant, None, None, 20).await?;
    Ok(page.entries.iter().map(serde_json::to_value).collect::<Result<_, _>>()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_administrator_of_a_tenant_is_none_of_the_appliance() -> Done {
    let server = Server::start().await?;
    let neighbour = second_tenant(&server).await?;
    let token = text(&add_user(&server, neighbour, "neighbour", "admin").await?, "access_token");
    assert_eq!(server.client()?.get("/health/deep", Some(&token)).await?.status, 403);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_is_taken_over_when_it_is_one_and_replaced_when_not() -> Done {
    let server = Server::start().await?;
    let mut client = server.client()?;
    let longest = "x".repeat(128);
    let too_long = "x".repeat(129);
    for (sent, kept) in [
        ("a", true),
        ("A-b_c.9", true),
        (longest.as_str(), true),
        (&too_long, false),
        ("a b", false),
        ("a/b", false),
        ("", false),
    ] {
        for path in ["/health/live", "/v1/me", "/no/such/path"] {
            let answer = client.request(Method::GET, path, &[("x-request-id", sent)], "".into()).await?;
            let got = header(&answer, "x-request-id");
            assert_eq!(got == sent, kept, "{sent:?} became {got:?}");
            assert!(kept || got.starts_with("req_"), "{got}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_is_continued_with_a_span_of_our_own() -> Done {
    let server = Server::start().await?;
    let mut client = server.client()?;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let answer = client.request(Method::GET, "/health/live", &[("traceparent", trace)], "".into()).await?;
    let parts: Vec<&str> = header(&answer, "traceparent").split('-').collect();
    assert_eq!(
        (parts.len(), parts.first(), parts.get(1), parts.get(3)),
        (4, Some(&"00"), Some(&"4bf92f3577b34da6a3ce929d0e0e4736"), Some(&"01"))
    );
    assert!(parts.get(2).is_some_and(|span| span.len() == 16 && *span != "00f067aa0ba902b7"));
    Ok(())
}

/// Tokens must not stay behind in anybody's cache (RFC 6749, section 5.1).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_with_tokens_in_it_is_never_stored() -> Done {
    let mut world = World::new().await?;
    for route in public_rows().filter(|r| r.path.starts_with("/v1/auth/")) {
        let answer = world.call_as(route, Who::Admin).await?;
        assert!(answer.status < 300, "{}", route.path);
        assert_eq!(header(&answer, "cache-control"), "no-store", "{}", route.path);
    }
    Ok(())
}
