//! What the real program logs: who did what, at a level that can be changed while it runs, and never a secret.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use blockremote::client::Response;
use blockremote::testkit::text;
use serde_json::{Value, json};

use crate::cli::binary::Place;

/// A whole day of a site, and every secret that was shown or used in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_whole_run_names_who_and_what_and_holds_no_secret() {
    let (place, said) = Place::set_up();
    let running = place.serve();
    let mut client = running.client();
    let quiet = std::fs::read_to_string(place.path("serve.log")).unwrap();
    assert!(!quiet.contains("\"DEBUG\""), "{quiet}");
    place.ends(&["admin", "log-level", "nonsense"], 2);
    place.ends(&["admin", "log-level", "trace", "--json"], 0);

    let (password, ticket) = (text(&said["admin"], "password"), text(&said, "enrollment_token"));
    let mut secrets = vec![password.clone(), ticket.clone()];
    let keep = |secrets: &mut Vec<String>, answer: &Response, names: &[&str]| -> Value {
        let answer: Value = answer.json().unwrap();
        secrets.extend(names.iter().map(|n| text(&answer, n)).filter(|s| !s.is_empty()));
        answer
    };
    let wrong = json!({ "username": "admin", "password": "wrong-horse-battery" });
    assert_eq!(client.post("/v1/auth/login", None, &wrong).await.unwrap().status, 401);
    secrets.push("wrong-horse-battery".to_owned());
    let login = json!({ "username": "admin", "password": password });
    let answer = client.post("/v1/auth/login", None, &login).await.unwrap();
    let session = keep(&mut secrets, &answer, &["access_token", "refresh_token"]);
    let admin = text(&session, "access_token");
    let enroll = json!({ "device_id": "BR-1", "device_name": "a", "os_version": "1", "enrollment_token": ticket });
    let answer = client.post("/v1/auth/device", None, &enroll).await.unwrap();
    let device = keep(&mut secrets, &answer, &["access_token", "refresh_token"]);
    let token = text(&device, "access_token");
    let reading = json!({ "accelerometer": [0.1, 9.79, 0.3], "gyroscope": [0.01, 0.02, -0.03] });
    let beat = json!({ "device_id": "BR-1", "payload": reading });
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let bearer = format!("Bearer {token}");
    let traceparent = format!("00-{trace}-00f067aa0ba902b7-01");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("traceparent", traceparent.as_str()),
        ("x-request-id", "secrecy-1"),
    ];
    let method = hyper::Method::POST;
    let sent = client.request(method, "/v1/signals/heartbeat", &headers, beat.to_string().into()).await.unwrap();
    assert_eq!(sent.status, 200);
    let refresh = json!({ "refresh_token": text(&device, "refresh_token") });
    let answer = client.post("/v1/auth/refresh", None, &refresh).await.unwrap();
    keep(&mut secrets, &answer, &["access_token", "refresh_token"]);
    let expires_at = blockremote::kernel::Clock::System.now().plus(std::time::Duration::from_secs(86_400)).to_string();
    let key = json!({ "name": "a key", "scopes": ["devices:read"], "expires_at": expires_at });
    let answer = client.post("/v1/api-keys", Some(&admin), &key).await.unwrap();
    assert_eq!(answer.status, 201);
    let shown = keep(&mut secrets, &answer, &["secret", "key", "api_key", "token"]);
    assert!(secrets.len() >= 9, "the key's secret is among them: {shown}");
    let answer = client.post("/v1/me/mfa/totp", Some(&admin), &json!({})).await.unwrap();
    assert_eq!(answer.status, 201);
    keep(&mut secrets, &answer, &["secret", "otpauth_uri"]);
    // Nobody answers there; what is tried, and how it fails, is logged.
    let webhook = json!({ "name": "a hook", "kind": "webhook", "events": ["*"], "url": "https://127.0.0.2:9/in" });
    let chat_secret = "T0/B0/credential-of-a-chat";
    let url = format!("https://127.0.0.2:9/services/{chat_secret}");
    let chat = json!({ "name": "a chat", "kind": "slack", "events": ["*"], "url": url });
    secrets.push(chat_secret.to_owned());
    for wanted in [webhook, chat] {
        let answer = client.post("/v1/integrations", Some(&admin), &wanted).await.unwrap();
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
        let made = keep(&mut secrets, &answer, &["secret"]);
        let path = format!("/v1/integrations/{}/test", text(&made, "id"));
        assert_eq!(client.post(&path, Some(&admin), &json!({})).await.unwrap().status, 200);
    }
    let issued = place.run(&["admin", "cert", "issue", "--device", "BR-1", "--out", ".", "--json"]);
    assert!(issued.status.success(), "{}", String::from_utf8_lossy(&issued.stderr));
    let private = std::fs::read_to_string(place.path("BR-1.key")).unwrap();
    secrets.extend(private.lines().filter(|l| !l.starts_with("---")).map(str::to_owned));
    let issued: Value = serde_json::from_slice(&issued.stdout).unwrap();
    assert!(issued.get("key").is_none() && issued["key_file"].is_string(), "{issued}");
    let (listed, _) = place.ends(&["admin", "cert", "list"], 0);
    assert!(listed.contains(&text(&issued, "serial")) && listed.contains("living"), "{listed}");
    place.ends(&["admin", "cert", "revoke", &text(&issued, "serial")], 0);
    place.ends(&["admin", "cert", "revoke", "00"], 1);
    running.terminate();

    let log = std::fs::read_to_string(place.path("serve.log")).unwrap();
    let lines: Vec<Value> =
        log.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect();
    let request = lines.iter().find(|l| l["request_id"] == "secrecy-1" && l["message"] == "request").unwrap();
    for (name, expected) in
        [("device", "BR-1"), ("trace_id", trace), ("route", "/v1/signals/heartbeat"), ("level", "DEBUG")]
    {
        assert_eq!(request[name], expected, "{request}");
    }
    for (name, prefix) in [("tenant", "ten_"), ("jti", "tok_"), ("timestamp", "20"), ("target", "blockremote")] {
        assert!(text(request, name).starts_with(prefix), "{name} of {request}");
    }
    assert!(request["took_us"].is_u64(), "{request}");
    let judged = lines.iter().find(|l| l["message"] == "a heartbeat was judged").unwrap();
    for (name, expected) in
        [("decision", "allow"), ("device", "BR-1"), ("trace_id", trace), ("request_id", "secrecy-1")]
    {
        assert_eq!(judged[name], expected, "{judged}");
    }
    for secret in secrets {
        assert!(secret.len() > 8, "{secret:?} is no secret");
        assert!(!log.contains(&secret), "{secret} stands in the log");
    }
}

#[test]
fn a_stopped_appliance_has_no_log_to_change() {
    let (place, _) = Place::set_up();
    let (_, stderr) = place.ends(&["admin", "log-level", "debug"], 1);
    assert!(stderr.contains("not running"), "{stderr}");
}
