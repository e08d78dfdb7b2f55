//! What strangers may send: every wrong request has its one right answer, says nothing of the attacker's back, and
//! leaves the appliance ready for the next.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use blockremote::client::{Endpoint, HttpClient, Response};
use blockremote::testkit::{Server, text};
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

const HEARTBEAT: &str = "/v1/signals/heartbeat";
const LOGIN: &str = "/v1/auth/login";
const JSON: (&str, &str) = ("content-type", "application/json");

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// Checks that a refusal has the promised form; gives its code and pointers.
fn problem(what: &str, response: &Response) -> (String, Vec<String>) {
    let body: Value = serde_json::from_slice(&response.body).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(header(response, "content-type"), "application/problem+json", "{what}");
    for name in ["type", "title", "detail", "code", "request_id"] {
        assert!(body[name].as_str().is_some_and(|t| !t.is_empty()), "{what}: {name} in {body}");
    }
    assert_eq!(body["status"], response.status, "{what}");
    assert_eq!(body["request_id"], header(response, "x-request-id"), "{what}");
    assert_eq!(header(response, "x-content-type-options"), "nosniff", "{what}");
    assert!(header(response, "strict-transport-security").contains("63072000"), "{what}");
    if response.status == 401 {
        assert!(header(response, "www-authenticate").starts_with("Bearer"), "{what}");
    }
    let errors = body["errors"].as_array().cloned().unwrap_or_default();
    (text(&body, "code"), errors.iter().map(|e| text(e, "pointer")).collect())
}

async fn is_ready(server: &Server) {
    let ready = server.client().unwrap().get("/health/ready", None).await.unwrap();
    assert_eq!(ready.status, 200);
}

/// Bytes as they are, and whatever comes back until the server closes.
async fn raw(endpoint: &Endpoint, request: Vec<u8>) -> (u16, String, String) {
    let (mut read, mut write) = tokio::io::split(endpoint.connect().await.unwrap());
    let writing = tokio::spawn(async move {
        // The server may answer and close before it has read everything.
        let _ = write.write_all(&request).await;
        let _ = write.flush().await;
        write
    });
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), read.read_to_end(&mut answer)).await.unwrap();
    writing.abort();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer.as_str(), ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, head.to_lowercase(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_heartbeat_has_its_one_answer() {
    let server = Server::start_with(|c| c.limits.write_per_minute = 100_000).await.unwrap();
    let mut phone = server.enroll("BR-1").await.unwrap();
    let bearer = format!("Bearer {}", phone.access_token);
    let reading = r#""accelerometer":[0.1,9.79,0.3],"gyroscope":[0,0,0]"#;
    let beat = |payload: &str| format!(r#"{{"device_id":"BR-1","payload":{{{payload}}}}}"#).into_bytes();
    let deep = format!(r#"{{"device_id":"BR-1","later":{}{}}}"#, "[".repeat(30_000), "]".repeat(30_000)).into_bytes();
    let not_utf8 = [&b"{\"device_id\":\"BR-1\",\"payload\":{\"sideloaded\":[\"\xff\xfe\"]}}"[..]].concat();
    let many_names: String = (0..2_000).map(|i| format!(r#","x{i}":1"#)).collect();
    for (what, body, status, code, pointers) in [
        ("nothing", Vec::new(), 400, "malformed_json", &[][..]),
        ("half", b"{\"device_id\":".to_vec(), 400, "malformed_json", &[]),
        ("two texts", b"{} {}".to_vec(), 400, "malformed_json", &[]),
        ("NaN", beat(r#""accelerometer":[NaN,0,0]"#), 400, "malformed_json", &[]),
        ("Infinity", beat(r#""overlay":-Infinity"#), 400, "malformed_json", &[]),
        ("a comment", b"{/**/}".to_vec(), 400, "malformed_json", &[]),
        ("a byte order mark", b"\xef\xbb\xbf{}".to_vec(), 400, "malformed_json", &[]),
        ("not UTF-8", not_utf8, 400, "malformed_json", &[]),
        ("deep", deep, 400, "malformed_json", &[]),
        (
            "1e999",
            beat(r#""accelerometer":[1e999,0,0],"gyroscope":[0,0,0]"#),
            422,
            "invalid_request",
            &["/payload/accelerometer/0"],
        ),
        ("-1e999", beat(&format!(r#"{reading},"overlay":-1e999"#)), 422, "invalid_request", &["/payload/overlay"]),
        ("an array", b"[]".to_vec(), 422, "invalid_request", &[""]),
        ("null", b"null".to_vec(), 422, "invalid_request", &[""]),
        ("twice", b"{\"device_id\":\"BR-1\",\"device_id\":\"BR-2\"}".to_vec(), 422, "invalid_request", &[""]),
        ("twice inside", beat(r#""overlay":0,"overlay":1"#), 422, "invalid_request", &["/payload"]),
        (
            "wrong types",
            b"{\"device_id\":1,\"seq\":\"x\",\"payload\":[]}".to_vec(),
            422,
            "invalid_request",
            &["/device_id", "/payload", "/seq"],
        ),
        (
            "wrong types inside",
            beat(r#""accelerometer":"x","gyroscope":[1,2],"rooted":1"#),
            422,
            "invalid_request",
            &["/payload/accelerometer", "/payload/gyroscope", "/payload/rooted"],
        ),
        ("a pointer's own signs", br#"{"device_id":"BR-1","a/b~c":1}"#.to_vec(), 422, "invalid_request", &["/a~1b~0c"]),
        ("a device id with a zero", br#"{"device_id":"BR-1\u0000"}"#.to_vec(), 422, "invalid_request", &["/device_id"]),
        (
            "a long device id",
            format!(r#"{{"device_id":"{}"}}"#, "a".repeat(65)).into_bytes(),
            422,
            "invalid_request",
            &["/device_id"],
        ),
    ] {
        let headers = [JSON, ("authorization", bearer.as_str())];
        let response = phone.client.request(Method::POST, HEARTBEAT, &headers, Bytes::from(body)).await.unwrap();
        let (found, mut found_pointers) = problem(what, &response);
        assert_eq!((response.status, found.as_str()), (status, code), "{what}: {found_pointers:?}");
        found_pointers.sort();
        assert_eq!(found_pointers, pointers, "{what}");
        server.clock.advance(Duration::from_secs(1));
    }
    let headers = [JSON, ("authorization", bearer.as_str())];
    let body = Bytes::from(format!(r#"{{"device_id":"BR-1"{many_names}}}"#));
    let response = phone.client.request(Method::POST, HEARTBEAT, &headers, body).await.unwrap();
    assert_eq!((response.status, problem("2,000 mistakes", &response).1.len()), (422, 32), "bounded");
    // Deep but within a reading, where unknown members are nobody's business.
    let ignored = beat(&format!(r#"{reading},"later":{}{}"#, "[".repeat(20_000), "]".repeat(20_000)));
    let response = phone.client.request(Method::POST, HEARTBEAT, &headers, Bytes::from(ignored)).await.unwrap();
    assert!([200, 400].contains(&response.status), "{}", response.status);
    assert_eq!(phone.beat(&phone.calm()).await.unwrap().status, 200);
    is_ready(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_login_has_its_one_answer_and_says_nothing_back() {
    let server = Server::start().await.unwrap();
    let mut client = server.client().unwrap();
    let long = "x".repeat(1_025);
    for (what, headers, body, status, code, pointers) in [
        ("half", vec![JSON], r#"{"username":"EVILTEXT""#.to_owned(), 400, "malformed_json", &[][..]),
        ("nothing", vec![JSON], String::new(), 400, "malformed_json", &[]),
        ("no type", vec![], "{}".to_owned(), 415, "unsupported_media_type", &[]),
        (
            "a form",
            vec![("content-type", "application/x-www-form-urlencoded")],
            "username=EVILTEXT".to_owned(),
            415,
            "unsupported_media_type",
            &[],
        ),
        (
            "JSON by another name",
            vec![("content-type", "application/jsonp")],
            "{}".to_owned(),
            415,
            "unsupported_media_type",
            &[],
        ),
        ("no members", vec![JSON], "{}".to_owned(), 422, "invalid_request", &["/password", "/username"]),
        (
            "wrong types",
            vec![JSON],
            r#"{"username":1,"password":["EVILTEXT"],"cookie":"yes"}"#.to_owned(),
            422,
            "invalid_request",
            &["/cookie", "/password", "/username"],
        ),
        (
            "more than asked",
            vec![JSON],
            r#"{"username":"a","password":"EVILTEXT","role":"owner"}"#.to_owned(),
            422,
            "invalid_request",
            &["/role"],
        ),
        (
            "empty",
            vec![JSON],
            r#"{"username":"","password":""}"#.to_owned(),
            422,
            "invalid_request",
            &["/password", "/username"],
        ),
        (
            "long",
            vec![JSON],
            format!(r#"{{"username":"a","password":"{long}"}}"#),
            422,
            "invalid_request",
            &["/password"],
        ),
        (
            "a charset is allowed",
            vec![("content-type", "Application/JSON; charset=utf-8")],
            r#"{"username":"EVILTEXT","password":"EVILTEXT"}"#.to_owned(),
            401,
            "unauthenticated",
            &[],
        ),
    ] {
        let response = client.request(Method::POST, LOGIN, &headers, Bytes::from(body)).await.unwrap();
        let (found, mut found_pointers) = problem(what, &response);
        assert_eq!(response.status, status, "{what}: {found}");
        if status != 401 {
            assert_eq!(found, code, "{what}");
        }
        found_pointers.sort();
        assert_eq!(found_pointers, pointers, "{what}");
        assert!(!String::from_utf8_lossy(&response.body).contains("EVILTEXT"), "{what}");
    }
    is_ready(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_and_methods_that_do_not_exist_are_told_so_without_an_echo() {
    let server = Server::start().await.unwrap();
    let mut client = server.client().unwrap();
    for (method, path, status, allow) in [
        (Method::GET, "/EVILTEXT", 404, ""),
        (Method::GET, "/v1/EVILTEXT/%3Cscript%3E", 404, ""),
        (Method::POST, "/v1/auth/login/EVILTEXT", 404, ""),
        (Method::GET, "/v1/auth/../EVILTEXT", 404, ""),
        (Method::GET, "//EVILTEXT", 404, ""),
        (Method::GET, "/internal/.well-known/jwks.json", 404, ""),
        (Method::GET, "/metrics", 404, ""),
        (Method::GET, LOGIN, 405, "POST"),
        (Method::PUT, HEARTBEAT, 405, "POST"),
        (Method::DELETE, "/v1/devices", 405, "GET"),
        (Method::from_bytes(b"EVILTEXT").unwrap(), "/health/live", 405, "GET"),
        (Method::GET, "/v1/devices?EVILTEXT=1", 401, ""),
        (Method::GET, "/v1/me", 401, ""),
    ] {
        let what = format!("{method} {path}");
        let headers = if status == 401 { vec![("authorization", "Bearer EVILTEXT")] } else { vec![] };
        let response = client.request(method, path, &headers, Bytes::new()).await.unwrap();
        problem(&what, &response);
        assert_eq!(response.status, status, "{what}");
        assert!(header(&response, "allow").contains(allow), "{what}: {}", header(&response, "allow"));
        let shown = format!("{:?} {}", response.headers, String::from_utf8_lossy(&response.body));
        assert!(!shown.contains("EVILTEXT"), "{what}: {shown}");
    }
    is_ready(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_megabytes_are_refused_before_they_are_read() {
    let server = Server::start().await.unwrap();
    let phone = server.enroll("BR-1").await.unwrap();
    let endpoint = server.endpoint().unwrap();
    let bytes = 10 << 20;
    for (path, token) in [(HEARTBEAT, phone.access_token.as_str()), (LOGIN, "")] {
        for chunked in [false, true] {
            let length =
                if chunked { "transfer-encoding: chunked".to_owned() } else { format!("content-length: {bytes}") };
            let auth = if token.is_empty() { String::new() } else { format!("authorization: Bearer {token}\r\n") };
            let mut request = format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{auth}{length}\r\n\r\n"
            )
            .into_bytes();
            for _ in 0..(bytes / 65_536) {
                if chunked {
                    request.extend_from_slice(b"10000\r\n");
                }
                request.resize(request.len() + 65_536, b' ');
                if chunked {
                    request.extend_from_slice(b"\r\n");
                }
            }
            let (status, head, body) = raw(&endpoint, request).await;
            assert_eq!(status, 413, "{path}, chunked: {chunked}: {head}");
            assert!(head.contains("application/problem+json") && body.contains("body_too_large"), "{head} {body}");
        }
    }
    is_ready(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_proper_http_end_their_own_connection_only() {
    let server = Server::start_with(|c| {
        c.http.header_timeout = Duration::from_millis(800);
        c.http.idle_timeout = Duration::from_millis(800);
        c.http.body_timeout = Duration::from_millis(500);
    })
    .await
    .unwrap();
    let endpoint = server.endpoint().unwrap();
    let many: String = (0..5_000).map(|i| format!("x-{i}: EVILTEXT\r\n")).collect();
    let long = format!("x: {}\r\n", "EVILTEXT".repeat(40_000));
    let get = |headers: &str| format!("GET /health/live HTTP/1.1\r\nhost: a\r\n{headers}\r\n").into_bytes();
    let post = |headers: &str, body: &str| {
        format!("POST {LOGIN} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nconnection: close\r\n{headers}\r\n{body}")
            .into_bytes()
    };
    for (what, request, allowed) in [
        ("noise", vec![0xff; 4_096], &[0, 400][..]),
        ("a TLS hello inside TLS", b"\x16\x03\x01\x02\x00\x01\x00".to_vec(), &[0, 400]),
        ("5,000 headers", get(&many), &[0, 400, 431]),
        ("a header of 320 KB", get(&long), &[0, 400, 431]),
        ("an endless path", format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(300_000)).into_bytes(), &[0, 400, 414, 431]),
        ("HTTP/9", b"GET / HTTP/9.9\r\n\r\n".to_vec(), &[0, 400, 505]),
        ("two lengths", post("content-length: 2\r\ncontent-length: 3\r\n", "{}"), &[0, 400]),
        ("a negative length", post("content-length: -1\r\n", "{}"), &[0, 400]),
        ("a length and chunks", post("content-length: 2\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"), &[0, 400]),
        ("chunks of nonsense", post("transfer-encoding: chunked\r\n", "zz\r\n{}\r\n0\r\n\r\n"), &[0, 400]),
        ("half a body and silence", post("content-length: 100\r\n", "{\"user"), &[408]),
        ("half a header and silence", b"GET / HTTP/1.1\r\nhost: a\r\nx:".to_vec(), &[0, 408]),
        ("an upgrade to nothing", get("connection: upgrade\r\nupgrade: h2c\r\n"), &[200]),
    ] {
        let (status, head, body) = raw(&endpoint, request).await;
        assert!(allowed.contains(&status), "{what}: {status}\n{head}");
        assert!(!head.contains("eviltext") && !body.contains("EVILTEXT"), "{what}");
        is_ready(&server).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_ids_and_traces_are_continued_when_they_are_what_they_claim() {
    let server = Server::start().await.unwrap();
    let mut client = server.client().unwrap();
    let longest = "a".repeat(128);
    let too_long = "a".repeat(129);
    for (id, kept) in [
        ("order-17.b_3", true),
        (longest.as_str(), true),
        (&too_long, false),
        ("two words", false),
        ("<b>", false),
        ("", false),
    ] {
        let response =
            client.request(Method::GET, "/health/live", &[("x-request-id", id)], Bytes::new()).await.unwrap();
        assert_eq!(header(&response, "x-request-id") == id, kept, "{id}");
        assert!(!header(&response, "x-request-id").is_empty());
    }
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let response = client.request(Method::GET, "/health/live", &[("traceparent", trace)], Bytes::new()).await.unwrap();
    let continued = header(&response, "traceparent");
    assert!(continued.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && continued.ends_with("-01"), "{continued}");
    assert_ne!(continued, trace, "a span of our own");
    for garbage in [
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "hello",
        "",
    ] {
        let headers = [("traceparent", garbage)];
        let response = client.request(Method::GET, "/health/live", &headers, Bytes::new()).await.unwrap();
        assert_eq!(response.status, 200);
        let found = header(&response, "traceparent");
        assert!(!found.contains("a3ce929d") && (garbage.is_empty() || found != garbage), "{garbage}: {found}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_configured_proxy_may_say_where_a_request_came_from() {
    let strangers = Server::start().await.unwrap();
    let proxied = Server::start_with(|c| c.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()]).await.unwrap();
    for (server, forwarded, seen) in [
        (&strangers, "203.0.113.9", "127.0.0.1"),
        (&proxied, "203.0.113.9", "203.0.113.9"),
        // What the client itself wrote in front of the proxy's word counts for nothing.
        (&proxied, "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        (&proxied, "203.0.113.9, 127.0.0.5", "203.0.113.9"),
        (&proxied, "EVILTEXT", "127.0.0.1"),
    ] {
        let body = json!({ "username": server.admin.username, "password": server.admin.password.expose() }).to_string();
        let headers = [JSON, ("x-forwarded-for", forwarded), ("x-request-id", "forwarded")];
        let mut client = server.client().unwrap();
        let response = client.request(Method::POST, LOGIN, &headers, Bytes::from(body)).await.unwrap();
        let token = text(&response.json().unwrap(), "access_token");
        let log: Value = client.get("/v1/audit/logs?limit=1", Some(&token)).await.unwrap().json().unwrap();
        assert_eq!(
            (&log["data"][0]["ip"], &log["data"][0]["request_id"]),
            (&json!(seen), &json!("forwarded")),
            "{forwarded}"
        );
    }
}

/// A thousand connections that say nothing, or a letter at a time, cost their owners more than they cost us.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_strangers_are_cut_while_others_are_served() {
    const STRANGERS: usize = 1_000;
    let deadline = Duration::from_millis(1_500);
    let server = Server::start_with(|c| {
        c.http.header_timeout = deadline;
        c.http.connections_per_address = 2 * STRANGERS;
    })
    .await
    .unwrap();
    let endpoint = server.endpoint().unwrap();
    let address = server.app().addresses.http;
    let gate = Arc::new(tokio::sync::Semaphore::new(64));
    let mut strangers = tokio::task::JoinSet::new();
    for i in 0..STRANGERS {
        let (endpoint, gate) = (endpoint.clone(), Arc::clone(&gate));
        strangers.spawn(async move {
            let turn = gate.acquire_owned().await.unwrap();
            let mut buffer = [0_u8; 256];
            if i % 4 == 0 {
                let mut stream = TcpStream::connect(address).await.unwrap();
                drop(turn);
                let from = Instant::now();
                // Never even begins TLS.
                while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
                return from.elapsed();
            }
            let (mut read, mut write) = tokio::io::split(endpoint.connect().await.unwrap());
            drop(turn);
            let from = Instant::now();
            let cut = async { while read.read(&mut buffer).await.is_ok_and(|n| n > 0) {} };
            let talk = async {
                let request = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nx-slow: ";
                match i % 4 {
                    1 => {}
                    2 => drop(write.write_all(request).await),
                    _ => {
                        for letter in request.iter().chain(std::iter::repeat(&b'a')) {
                            if write.write_all(&[*letter]).await.is_err() || write.flush().await.is_err() {
                                break;
                            }
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                    }
                }
                std::future::pending::<()>().await;
            };
            tokio::select! { () = cut => {}, () = talk => {} }
            from.elapsed()
        });
    }
    let mut client = server.client().unwrap();
    let mut served = 0;
    let mut slowest = Duration::ZERO;
    while !strangers.is_empty() {
        let from = Instant::now();
        assert_eq!(client.get("/health/ready", None).await.unwrap().status, 200);
        slowest = slowest.max(from.elapsed());
        served += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
        while let Some(ended) = strangers.try_join_next() {
            let took = ended.unwrap();
            assert!(took < deadline + Duration::from_secs(3), "cut only after {took:?}");
        }
    }
    assert!(served > 20, "{served}");
    assert!(slowest < Duration::from_secs(2), "a normal request took {slowest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_http2_client_is_cut_whether_or_not_it_answers_pings() {
    let server = Server::start_with(|c| {
        c.http.header_timeout = Duration::from_millis(400);
        c.http.idle_timeout = Duration::from_millis(700);
    })
    .await
    .unwrap();
    let ca = server.config().paths.certs.join("ca.pem");
    let mut tls = (*blockremote::client::tls::trust(&ca, None).unwrap()).clone();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let url = format!("https://localhost:{}", server.app().addresses.http.port());
    let endpoint = Endpoint::new(&url, Arc::new(tls)).unwrap();
    let patience = Duration::from_secs(5);

    let mut mute = endpoint.connect().await.unwrap();
    assert_eq!(mute.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    mute.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").await.unwrap();
    let mut heard = Vec::new();
    let _ = tokio::time::timeout(patience, mute.read_to_end(&mut heard)).await.unwrap();

    let mut wordless = endpoint.connect().await.unwrap();
    let _ = tokio::time::timeout(patience, wordless.read_to_end(&mut heard)).await.unwrap();

    let io = hyper_util::rt::TokioIo::new(endpoint.connect().await.unwrap());
    let executor = hyper_util::rt::TokioExecutor::new();
    let handshake = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let (mut polite, connection): (hyper::client::conn::http2::SendRequest<http_body_util::Empty<Bytes>>, _) =
        handshake;
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(format!("{url}/health/live")).body(http_body_util::Empty::new()).unwrap();
    assert_eq!(polite.send_request(request).await.unwrap().status(), 200);
    tokio::time::timeout(patience, connection).await.unwrap().unwrap().ok();
    is_ready(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_limit_connections_are_closed_at_once_and_places_come_back() {
    let server = Server::start_with(|c| c.http.max_connections = 5).await.unwrap();
    let endpoint = server.endpoint().unwrap();
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(endpoint.connect().await.unwrap());
    }
    let mut sixth = TcpStream::connect(server.app().addresses.http).await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(2), sixth.read(&mut [0; 16])).await.unwrap();
    assert!(closed.is_err() || closed.is_ok_and(|n| n == 0));
    assert!(endpoint.connect().await.is_err());
    drop(held);
    let mut client = HttpClient::new(endpoint);
    for tries in 0.. {
        match client.get("/health/ready", None).await {
            Ok(response) => {
                assert_eq!(response.status, 200);
                break;
            }
            Err(e) => assert!(tries < 200, "{e}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A phone that heartbeats every five seconds lost its connection each time, because silence between two requests was
/// held against the deadline of a header; every heartbeat then paid for a handshake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_may_be_silent_between_requests_for_longer_than_a_header_may_take() {
    let server = Server::start_with(|c| {
        c.http.header_timeout = Duration::from_millis(300);
        c.http.idle_timeout = Duration::from_secs(20);
    })
    .await
    .unwrap();
    let (mut read, mut write) = tokio::io::split(server.endpoint().unwrap().connect().await.unwrap());
    let mut buffer = [0_u8; 4_096];
    for _ in 0..2 {
        write.write_all(b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        write.flush().await.unwrap();
        let n = read.read(&mut buffer).await.unwrap();
        assert!(buffer[..n].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..n]));
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    // The deadline of a header that has begun still holds on this very connection.
    let from = Instant::now();
    write.write_all(b"GET /health/live HTTP/1.1\r\nhos").await.unwrap();
    write.flush().await.unwrap();
    while read.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    assert!(from.elapsed() < Duration::from_secs(5), "{:?}", from.elapsed());
}

/// A page may read answers, and ask beforehand, only when the configuration names its origin.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_pages_of_configured_origins_may_read_answers() {
    let server = Server::start_with(|c| c.http.allowed_origins = vec!["https://ok.example".to_owned()]).await.unwrap();
    let mut client = server.client().unwrap();
    for (origin, status, allowed) in [("https://ok.example", 204, true), ("https://bad.example", 405, false)] {
        let asks = [("origin", origin), ("access-control-request-method", "GET")];
        let answer = client.request(Method::OPTIONS, "/v1/devices", &asks, Bytes::new()).await.unwrap();
        assert_eq!(answer.status, status, "{origin}");
        assert!(answer.headers.contains_key("strict-transport-security"), "as on every response");
        assert_eq!(answer.headers.contains_key("access-control-allow-methods"), allowed, "{origin}");
        let read = client.request(Method::GET, "/health/live", &[("origin", origin)], Bytes::new()).await.unwrap();
        let named = read.headers.get("access-control-allow-origin").is_some_and(|v| v == origin);
        assert_eq!(named, allowed, "{origin}");
    }
}
