//! The documents and the operator's pages: what is served is valid, complete, and needs no Internet.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use base64ct::{Base64, Encoding};
use blockremote::client::Response;
use blockremote::crypto::sha256;
use blockremote::gate::routes::ROUTES;
use blockremote::gate::{Access, Door, Verb};
use blockremote::testkit::{Fault, Server, text};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{Done, body, code, header};

async fn document(server: &Server) -> Result<Value, Fault> {
    let answer = server.client()?.get("/openapi.json", None).await?;
    assert_eq!(header(&answer, "content-type"), "application/json");
    Ok(answer.json()?)
}

/// Every operation: path, method, members.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().cloned().unwrap_or_default();
    let mut out = Vec::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().cloned().unwrap_or_default() {
            out.push((path.clone(), method, operation));
        }
    }
    out
}

/// Calls `visit` with every object in a JSON text.
fn each_object(value: &Value, visit: &mut impl FnMut(&serde_json::Map<String, Value>)) {
    match value {
        Value::Object(members) => {
            visit(members);
            members.values().for_each(|v| each_object(v, visit));
        }
        Value::Array(items) => items.iter().for_each(|v| each_object(v, visit)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_has_every_public_route_and_nothing_else() -> Done {
    let server = Server::start().await?;
    let document = document(&server).await?;
    assert_eq!(document["openapi"], "3.1.0");
    for member in ["title", "version"] {
        assert!(!text(&document["info"], member).is_empty());
    }
    let table = ROUTES.iter().filter(|r| r.door == Door::Public);
    let expected: BTreeSet<_> = table.map(|r| (r.path.replace("{*", "{"), r.verb.method().to_lowercase())).collect();
    let described: BTreeSet<_> = operations(&document).into_iter().map(|(path, method, _)| (path, method)).collect();
    assert_eq!(described, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reference_leads_somewhere_and_every_schema_is_used() -> Done {
    let server = Server::start().await?;
    let document = document(&server).await?;
    let mut references = BTreeSet::new();
    each_object(&document, &mut |members| {
        if let Some(Value::String(reference)) = members.get("$ref") {
            references.insert(reference.clone());
        }
    });
    for reference in &references {
        let pointer = reference.strip_prefix('#').ok_or_else(|| format!("{reference} leads out of the document"))?;
        assert!(document.pointer(pointer).is_some_and(Value::is_object), "{reference} leads nowhere");
    }
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        assert!(schema.is_object(), "{name}");
        let used = references.contains(&format!("#/components/schemas/{name}"));
        assert!(used, "{name} is used by nothing");
    }
    assert!(references.len() > 10);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_says_who_may_call_what_it_takes_and_what_it_answers() -> Done {
    let server = Server::start().await?;
    let document = document(&server).await?;
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let about = format!("{method} {path}");
        let id = text(&operation, "operationId");
        assert!(!id.is_empty() && ids.insert(id.clone()), "{about}: operationId {id:?} is taken");
        assert!(!text(&operation, "summary").is_empty(), "{about}");
        let route = ROUTES.iter().find(|r| {
            r.door == Door::Public && r.path.replace("{*", "{") == path && r.verb.method().eq_ignore_ascii_case(&method)
        });
        let route = route.ok_or("no such row")?;
        let responses = &operation["responses"];
        assert!(responses.get(route.endpoint.status.to_string()).is_some(), "{about} does not say its success");
        for (status, response) in responses.as_object().into_iter().flatten() {
            assert!(!text(response, "description").is_empty(), "{about} {status}");
            assert!(status.parse::<u16>().is_ok_and(|s| (100..600).contains(&s)), "{about} {status}");
        }
        assert_eq!(operation.get("requestBody").is_some(), route.body_max > 0, "{about}");
        let open = matches!(route.access, Access::Public(_) | Access::Signed(_) | Access::OptionalUser(_));
        assert!(open || operation.get("security").is_some(), "{about} does not demand a token");
        let declared: BTreeSet<String> = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|p| {
                assert_eq!(p["in"] == "path", p["required"] == true, "{about}: {p}");
                text(p, "name")
            })
            .collect();
        let in_path = path.split('/').filter_map(|s| s.strip_prefix('{')?.strip_suffix('}')).map(str::to_owned);
        let in_query = route.endpoint.query.iter().map(|(name, _)| (*name).to_owned());
        assert_eq!(declared, in_path.chain(in_query).collect(), "{about}");
    }
    Ok(())
}

/// Two types of one name would overwrite each other in the document without a word.
#[test]
fn no_two_types_share_a_name() -> Done {
    let mut known: BTreeMap<String, Value> = BTreeMap::new();
    for route in ROUTES.iter().filter(|r| r.door == Door::Public) {
        for doc in [route.endpoint.request, route.endpoint.response] {
            let mut schemas = Vec::new();
            (doc.collect)(&mut schemas);
            if let Some(name) = doc.name {
                schemas.push((name(), (doc.schema)()));
            }
            for (name, schema) in schemas {
                let schema = serde_json::to_value(schema)?;
                let first = known.entry(name.clone()).or_insert_with(|| schema.clone());
                assert_eq!(*first, schema, "{name} of {} is another type of that name", route.path);
            }
        }
    }
    assert!(known.len() > 10);
    Ok(())
}

/// An example that the appliance itself refuses is worse than none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_of_a_heartbeat_are_accepted() -> Done {
    let server = Server::start().await?;
    let document = document(&server).await?;
    let schemas = &document["components"]["schemas"];
    let examples_of = |name: &str| {
        let properties = schemas[name]["properties"].as_object().cloned().unwrap_or_default();
        let example = |schema: &Value| schema.get("example").or_else(|| schema["examples"].get(0)).cloned();
        properties.iter().filter_map(|(name, s)| Some((name.clone(), example(s)?))).collect::<serde_json::Map<_, _>>()
    };
    let mut whole = examples_of("HeartbeatRequest");
    let reading = examples_of("Reading");
    assert!(whole.contains_key("device_id") && reading.contains_key("accelerometer"), "{whole:?} {reading:?}");
    whole.insert("payload".to_owned(), reading.into());
    let mut device = server.enroll(whole["device_id"].as_str().unwrap_or_default()).await?;
    let answer = device.beat(&Value::Object(whole.clone())).await?;
    assert_eq!(answer.status, 200, "{}", body(&answer));
    let mut written = 0;
    for (_, _, operation) in operations(&document) {
        let media = &operation["requestBody"]["content"]["application/json"];
        if text(&media["schema"], "$ref") != "#/components/schemas/HeartbeatRequest" {
            continue;
        }
        let many = media["examples"].as_object().into_iter().flat_map(|e| e.values()).filter_map(|e| e.get("value"));
        for example in media.get("example").into_iter().chain(many) {
            let answer = device.beat(example).await?;
            assert_eq!(answer.status, 200, "{example}: {}", body(&answer));
        }
        written += 1;
    }
    assert_eq!(written, 1, "one route takes heartbeats");
    Ok(())
}

/// The schema must say what the parser does: what is required, and that nothing unknown is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_schemas_are_closed_and_name_what_is_required() -> Done {
    let server = Server::start().await?;
    let document = document(&server).await?;
    let mut seen = 0;
    for (path, _, operation) in operations(&document) {
        let reference = text(&operation["requestBody"]["content"]["application/json"]["schema"], "$ref");
        if reference.is_empty() {
            continue;
        }
        // The gateway may be of a later release than the appliance, and so may an SDK.
        if path == "/v1/billing/webhook" || path.starts_with("/ofrep/") {
            continue;
        }
        let schema = document.pointer(reference.trim_start_matches('#')).cloned().unwrap_or_default();
        assert_eq!(schema["additionalProperties"], false, "{path}: {schema}");
        seen += 1;
    }
    assert!(seen >= 6, "{seen}");
    let required = &document["components"]["schemas"]["EnrollRequest"]["required"];
    assert_eq!(*required, json!(["device_id", "device_name", "os_version"]));
    Ok(())
}

// ---- pages

/// The body of an answer, unpacked when it came packed.
fn unpacked(answer: &Response) -> Result<String, Fault> {
    if header(answer, "content-encoding").is_empty() {
        return Ok(String::from_utf8(answer.body.to_vec())?);
    }
    assert_eq!(header(answer, "content-encoding"), "gzip");
    let mut gzip = Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = gzip.stdin.take().ok_or("no pipe")?;
    let packed = answer.body.to_vec();
    let feeder = std::thread::spawn(move || input.write_all(&packed));
    let out = gzip.wait_with_output()?;
    assert!(feeder.join().is_ok_and(|written| written.is_ok()) && out.status.success(), "what came is not gzip");
    Ok(String::from_utf8(out.stdout)?)
}

/// The values of an attribute in a page.
fn attribute(page: &str, name: &str) -> Vec<String> {
    let start = format!(" {name}=\"");
    page.split(&start).skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
}

/// A page works behind a firewall and under its own policy: nothing from elsewhere, no script in the text.
fn assert_offline_page(answer: &Response) -> Result<String, Fault> {
    assert_eq!(answer.status, 200);
    assert!(header(answer, "content-type").starts_with("text/html"));
    let csp = header(answer, "content-security-policy");
    assert!(csp.starts_with("default-src 'none'") && !csp.contains("unsafe"), "{csp}");
    let page = unpacked(answer)?;
    for reference in attribute(&page, "src").into_iter().chain(attribute(&page, "href")) {
        assert!(!reference.contains("//"), "{reference} is elsewhere");
    }
    for script in page.split("<script").skip(1) {
        let (tag, rest) = script.split_once('>').ok_or("a script tag without an end")?;
        let inner = rest.split("</script>").next().unwrap_or_default();
        assert!(tag.contains(" src=") && inner.trim().is_empty(), "an inline script: {inner}");
    }
    for handler in [" onload=", " onclick=", " onerror=", "javascript:", " style=\""] {
        assert!(!page.contains(handler), "{handler}");
    }
    for style in page.split("<style>").skip(1) {
        let style = style.split("</style>").next().unwrap_or_default();
        let hash = Base64::encode_string(&sha256(style.as_bytes()));
        assert!(csp.contains(&format!("'sha256-{hash}'")), "the policy forbids the page's own style: {csp}");
    }
    Ok(page)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swagger_ui_comes_whole_from_the_appliance() -> Done {
    let server = Server::start().await?;
    let mut client = server.client()?;
    let moved = client.get("/docs", None).await?;
    assert_eq!((moved.status, header(&moved, "location")), (308, "/docs/"));
    let page = assert_offline_page(&client.get("/docs/", None).await?)?;
    let mut files: Vec<String> = attribute(&page, "src");
    files.extend(attribute(&page, "href"));
    assert!(files.len() >= 3, "{page}");
    let mut told = String::new();
    for file in files {
        let path = format!("/docs/{}", file.trim_start_matches("./").trim_start_matches("/docs/"));
        let answer = client.get(&path, None).await?;
        assert_eq!(answer.status, 200, "{path}");
        let kind = header(&answer, "content-type");
        let expected = match path.rsplit('.').next().unwrap_or_default() {
            "js" => "javascript",
            "css" => "text/css",
            "png" => "image/png",
            _ => "",
        };
        assert!(kind.contains(expected), "{path} is {kind}");
        assert!(!header(&answer, "content-security-policy").contains("unsafe"), "{path}");
        if path.ends_with(".js") {
            let script = unpacked(&answer)?;
            assert!(!script.is_empty());
            told.push_str(&script);
        }
    }
    assert!(told.contains("/openapi.json"), "it is told where the document is");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_home_and_reference_pages_lead_on_and_leave_nothing_out() -> Done {
    let server = Server::start().await?;
    let mut client = server.client()?;
    let home = assert_offline_page(&client.get("/", None).await?)?;
    let links = attribute(&home, "href");
    assert!(!links.is_empty());
    for link in &links {
        assert_eq!(client.get(link, None).await?.status, 200, "{link}");
    }
    let reference = assert_offline_page(&client.get("/redoc", None).await?)?;
    for route in ROUTES.iter().filter(|r| r.door == Door::Public) {
        assert!(reference.contains(route.path), "{} is missing", route.path);
    }
    assert!(ROUTES.iter().any(|r| r.verb == Verb::Ws) && reference.contains("WebSocket"));
    Ok(())
}

// ---- health, keys and metrics

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_one_word_for_everybody_and_figures_for_administrators() -> Done {
    let server = Server::start().await?;
    server.enroll("BR-1").await?;
    let mut client = server.client()?;
    for path in ["/health", "/health/live", "/health/ready"] {
        let answer = client.get(path, None).await?;
        assert_eq!((answer.status, body(&answer)), (200, json!({ "status": "ok" })), "{path}");
    }
    let refused = client.get("/health/deep", None).await?;
    assert_eq!((refused.status, code(&refused).as_str()), (401, "unauthenticated"));
    let deep: Value = client.get("/health/deep", Some(&server.admin_token().await?)).await?.json()?;
    assert_eq!((&deep["status"], &deep["store"]["status"], &deep["devices"]), (&json!("ok"), &json!("ok"), &json!(1)));
    assert_eq!(deep["version"], env!("CARGO_PKG_VERSION"));
    assert!(deep["store"]["bytes"].as_u64().is_some_and(|n| n > 0));
    Ok(())
}

/// One request to the internal listener, which speaks plain HTTP.
pub async fn internal(server: &Server, path: &str, headers: &str) -> Result<(String, String), Fault> {
    let mut stream = tokio::net::TcpStream::connect(server.app().addresses.internal).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no end of the header")?;
    Ok((head.to_lowercase(), body.to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_signing_keys_are_the_same_on_both_listeners_and_nothing_secret_is_in_them() -> Done {
    let server = Server::start().await?;
    let public: Value = server.client()?.get("/.well-known/jwks.json", None).await?.json()?;
    let (head, body) = internal(&server, "/internal/.well-known/jwks.json", "").await?;
    assert!(head.starts_with("http/1.1 200") && head.contains("application/json"), "{head}");
    assert_eq!(serde_json::from_str::<Value>(&body)?, public);
    let keys = public["keys"].as_array().cloned().unwrap_or_default();
    assert!(keys.len() >= 2, "the current key and the next one: {public}");
    for key in &keys {
        let shown = ["kty", "crv", "alg", "use"].map(|name| text(key, name));
        assert_eq!(shown, ["EC", "P-256", "ES256", "sig"], "{key}");
        assert!(key.get("d").is_none() && !text(key, "kid").is_empty(), "{key}");
    }
    let ids: BTreeSet<String> = keys.iter().map(|k| text(k, "kid")).collect();
    assert_eq!(ids.len(), keys.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_come_in_both_formats_and_no_label_names_a_device_or_a_person() -> Done {
    let server = Server::start().await?;
    let mut device = server.enroll("BR-SECRET-NAME").await?;
    device.beat(&device.calm()).await?.success()?;
    // The first frame comes after the handshake was counted.
    device.socket().await?.next().await;
    let admin = server.login().await?;
    let token = text(&admin, "access_token");
    for path in ["/v1/devices/BR-SECRET-NAME", "/v1/devices/NOBODY-KNOWN", "/no/such/BR-SECRET-PATH"] {
        server.client()?.get(path, Some(&token)).await?;
    }
    let refresh = json!({ "refresh_token": device.refresh_token });
    server.client()?.post("/v1/auth/refresh", None, &refresh).await?.success()?;
    let (head, classic) = internal(&server, "/metrics", "").await?;
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let (head, open) = internal(&server, "/metrics", "Accept: application/openmetrics-text; version=1.0.0\r\n").await?;
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(open.ends_with("# EOF\n") && !classic.contains("# EOF"));
    for name in [
        "http_server_request_duration_seconds",
        "blockremote_scoring_duration_seconds",
        "blockremote_store_commit_duration_seconds",
        "blockremote_ws_handshake_duration_seconds",
        "blockremote_refresh_attempts_total",
    ] {
        assert!(open.contains(name) && classic.contains(name), "{name} is missing");
    }
    assert!(classic.contains("http_route=\"/v1/devices/{device_id}\""), "routes, not paths");
    assert!(classic.contains("blockremote_devices 1"), "{classic}");
    for text_ in [&classic, &open] {
        for secret in ["BR-SECRET", "NOBODY-KNOWN", "admin", "ses_", "usr_", "ten_", "127.0.0.1"] {
            assert!(!text_.contains(secret), "{secret} stands in the metrics");
        }
        for line in text_.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
            let value = line.rsplit(' ').next().unwrap_or_default();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    let refreshes = "blockremote_refresh_attempts_total{result=\"refreshed\"} 1";
    assert!(classic.contains(refreshes), "a refresh was made and is not counted");
    assert!(!classic.contains("blockremote_ws_handshake_duration_seconds_count 0"), "a socket was opened");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_internal_listener_serves_its_own_rows_only() -> Done {
    let server = Server::start().await?;
    for row in ROUTES.iter().filter(|r| r.door == Door::Internal) {
        let (head, _) = internal(&server, row.path, "").await?;
        assert!(head.starts_with("http/1.1 200"), "{}: {head}", row.path);
    }
    for path in ["/v1/me", "/v1/devices", "/health/deep", "/docs/", "/openapi.json"] {
        let (head, _) = internal(&server, path, "").await?;
        assert!(head.starts_with("http/1.1 404"), "{path}: {head}");
    }
    Ok(())
}
