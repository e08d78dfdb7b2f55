//! Traces: what a client began goes on through every door, and a collector hears of it what an operator needs, no more.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use blockremote::client::Socket;
use blockremote::client::frame::Incoming;
use blockremote::client::socket::Event;
use blockremote::kernel::trace::TraceContext;
use blockremote::testkit::{eventually, text};
use serde_json::{Value, json};

use crate::cli::binary::{Place, Running};
use crate::common::Done;
use crate::grpc::peer::Peer;
use crate::integrations::receiver::Receiver;

/// OpenTelemetry's own definitions, as a collector in a process of its own.
struct Collector {
    child: Child,
    port: u16,
    messages: Arc<Mutex<Vec<Value>>>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Collector {
    /// `None`, and a skipped test, where there is no Python for tests. The first messages are refused.
    fn start(refused: u32) -> Option<Self> {
        let python = crate::flags::python()?;
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/otlp_collector.py");
        let mut child =
            Command::new(python).arg(program).arg(refused.to_string()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.next().unwrap().unwrap().parse().unwrap();
        let messages = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&messages);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                heard.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Some(Self { child, port, messages })
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn messages(&self) -> Vec<Value> {
        self.messages.lock().unwrap().clone()
    }

    fn spans(&self) -> Vec<Value> {
        self.messages().iter().flat_map(|m| m["spans"].as_array().unwrap().clone()).collect()
    }

    /// The one span of this name in this trace.
    fn span(&self, trace: u128, name: &str) -> Value {
        let trace = format!("{trace:032x}");
        let all = self.spans();
        let found: Vec<_> = all.iter().filter(|s| s["trace_id"] == *trace && s["name"] == *name).collect();
        let [one] = found.as_slice() else { panic!("{} spans of {name} in {trace}: {all:#?}", found.len()) };
        (*one).clone()
    }
}

fn asked(trace: u128) -> TraceContext {
    TraceContext { trace_id: trace, span_id: 0x00f0_67aa_0ba9_02b7, flags: 1 }
}

fn serve(place: &Place, collector: &str, ppm: &str) -> Running {
    let variables = [
        ("BLOCKREMOTE_TRACING__OTLP_ENDPOINT", collector),
        ("BLOCKREMOTE_TRACING__OTLP_AUTHORIZATION", "Bearer what-the-collector-wants"),
        ("BLOCKREMOTE_TRACING__SAMPLE_PPM", ppm),
        ("BLOCKREMOTE_INTEGRATIONS__ALLOW_ADDRESSES", "127.0.0.0/8"),
    ];
    place.serve_with(&[], &variables)
}

fn reading() -> Value {
    json!({ "accelerometer": [0.1, 9.79, 0.3], "gyroscope": [0.01, 0.02, -0.03] })
}

/// A device's heartbeat over HTTP in this trace; gives the `traceparent` of the answer.
async fn beat(running: &Running, token: &str, trace: Option<&str>) -> Option<String> {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![("authorization", bearer.as_str()), ("content-type", "application/json")];
    headers.extend(trace.map(|trace| ("traceparent", trace)));
    let body = json!({ "device_id": "BR-1", "payload": reading() }).to_string();
    let path = "/v1/signals/heartbeat";
    let answer = running.client().request(hyper::Method::POST, path, &headers, body.into()).await.unwrap();
    assert_eq!(answer.status, 200);
    answer.headers.get("traceparent").map(|value| value.to_str().unwrap().to_owned())
}

async fn enroll(running: &Running, said: &Value) -> String {
    let ticket = text(said, "enrollment_token");
    let enroll = json!({ "device_id": "BR-1", "device_name": "a", "os_version": "1", "enrollment_token": ticket });
    let device: Value = running.client().post("/v1/auth/device", None, &enroll).await.unwrap().json().unwrap();
    text(&device, "access_token")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_s_trace_goes_on_through_every_door_and_reaches_the_collector() -> Done {
    let Some(collector) = Collector::start(0) else { return Ok(()) };
    let (place, said) = Place::set_up();
    let running = serve(&place, &collector.endpoint(), "0");
    let token = enroll(&running, &said).await;

    // HTTP: the answer names the very span that the collector gets.
    let over_http = beat(&running, &token, Some(&asked(1).to_string())).await.unwrap();
    let over_http = TraceContext::parse(&over_http).unwrap();
    assert_eq!((over_http.trace_id, over_http.is_sampled()), (1, true));

    // The socket: each message names its own trace.
    let mut socket = Socket::connect(&running.endpoint, &token).await?;
    let mut over_ws = None;
    let message = json!({ "device_id": "BR-1", "payload": reading(), "traceparent": asked(2).to_string() });
    socket.send_heartbeat(&message).await?;
    for _ in 0..4 {
        if let Event::Frame(Incoming::HeartbeatAck(ack)) = socket.next().await {
            over_ws = ack.traceparent;
            break;
        }
    }
    let over_ws = TraceContext::parse(&over_ws.unwrap()).unwrap();
    assert_eq!((over_ws.trace_id, over_ws.is_sampled()), (2, true));

    // gRPC: in the metadata of the call and of its answer.
    place.ends(&["admin", "cert", "issue", "--device", "BR-1", "--out", "."], 0);
    let port = running.ready["grpc"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    let mut peer = Peer::at(format!("localhost:{port}"), place.path("certs/ca.pem"))?.unwrap();
    let read = |name: &str| std::fs::read_to_string(place.path(name)).unwrap();
    let private = read("BR-1.key");
    let identity = peer.keep(&read("BR-1.pem"), &private, "")?;
    let channel = peer.open(Some(&identity))?;
    let more = json!({ "metadata": [["traceparent", asked(3).to_string()]] });
    let request = json!({ "device_id": "BR-1", "payload": reading() });
    let answer = peer.call_with(&channel, "Heartbeat", &token, &request, &more)?;
    assert_eq!(answer["code"], "OK", "{answer}");

    // Nobody asks for this one, and of a million none is drawn.
    assert_eq!(beat(&running, &token, None).await, None);
    let unsampled = asked(4).sampled(false).to_string();
    let unsampled = beat(&running, &token, Some(&unsampled)).await.and_then(|t| TraceContext::parse(&t)).unwrap();
    assert_eq!((unsampled.trace_id, unsampled.is_sampled()), (4, false));
    // What is no trace begins none and is no error.
    let long = "0".repeat(4_000);
    for garbage in ["", "00-", "00-zz-zz-zz", long.as_str(), "00-0000-0000-01-1; DROP"] {
        assert_eq!(beat(&running, &token, Some(garbage)).await, None, "{garbage}");
    }
    assert_eq!(running.terminate().1, Some(0), "the last spans went out before the end");

    for (trace, name, place_of_it) in [
        (1, "POST /v1/signals/heartbeat", Some(over_http)),
        (2, "kill-switch heartbeat", Some(over_ws)),
        (3, "blockremote.v1.Signals/Heartbeat", None),
    ] {
        let span = collector.span(trace, name);
        assert_eq!(
            (&span["kind"], &span["parent"]),
            (&json!("SPAN_KIND_SERVER"), &json!("00f067aa0ba902b7")),
            "{span}"
        );
        if let Some(expected) = place_of_it {
            assert_eq!(span["span_id"], format!("{:016x}", expected.span_id));
        }
        let about = &span["attributes"];
        assert_eq!(about["blockremote.device"], "BR-1", "{span}");
        assert!(about["blockremote.tenant"].as_str().is_some_and(|t| t.starts_with("ten_")), "{span}");
        assert_eq!(about["client.address"], "127.0.0.1", "{span}");
        assert_eq!(
            (&span["service"]["service.name"], &span["status"]),
            (&json!("blockremote"), &json!("STATUS_CODE_UNSET"))
        );
        let work = collector.span(trace, "score and commit");
        assert_eq!(work["parent"], span["span_id"]);
        assert!(work["took_ns"].as_u64() <= span["took_ns"].as_u64(), "{work} within {span}");
    }
    let http = collector.span(1, "POST /v1/signals/heartbeat");
    assert_eq!(http["attributes"]["http.route"], "/v1/signals/heartbeat");
    assert_eq!(http["attributes"]["http.response.status_code"], 200);
    assert_eq!(collector.span(3, "blockremote.v1.Signals/Heartbeat")["attributes"]["rpc.grpc.status_code"], 0);
    assert!(collector.spans().iter().all(|s| s["trace_id"] != format!("{:032x}", 4)), "its caller does not record it");
    assert_eq!(collector.spans().len(), 6, "three calls and the work in each");
    let private = private.lines().nth(1).unwrap().to_owned();
    for message in collector.messages() {
        assert_eq!((&message["path"], &message["type"]), (&json!("/v1/traces"), &json!("application/x-protobuf")));
        assert_eq!(message["authorization"], "Bearer what-the-collector-wants");
        for secret in [&token, &text(&said, "enrollment_token"), &text(&said["admin"], "password"), &private] {
            assert!(!message["raw"].as_str().unwrap().contains(secret.as_str()), "a secret is in a span: {message}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_of_the_rest_is_traced_and_what_it_calls_is_told_where_to_go_on() -> Done {
    let Some(collector) = Collector::start(0) else { return Ok(()) };
    let receiver = Receiver::start().await?;
    let (place, said) = Place::set_up();
    let running = serve(&place, &format!("{}/v1/traces", collector.endpoint()), "1000000");
    let mut client = running.client();
    let login = json!({ "username": "admin", "password": text(&said["admin"], "password") });
    let session: Value = client.post("/v1/auth/login", None, &login).await?.json()?;
    let admin = text(&session, "access_token");
    let hook = json!({ "name": "a hook", "kind": "webhook", "events": ["*"], "url": receiver.url() });
    let made: Value = client.post("/v1/integrations", Some(&admin), &hook).await?.json()?;
    let path = format!("/v1/integrations/{}/test", text(&made, "id"));
    let tested = client.post(&path, Some(&admin), &json!({})).await?;
    assert_eq!(tested.status, 200);
    let there = TraceContext::parse(tested.headers.get("traceparent").unwrap().to_str()?).unwrap();
    let got = receiver.wait(1).await?;
    let told = TraceContext::parse(&got[0].header("traceparent")).unwrap();
    assert_eq!((told.trace_id, told.is_sampled()), (there.trace_id, true), "the delivery is part of the request");
    assert_eq!(client.get("/nobody/is/here?token=of-somebody", None).await?.status, 404);
    running.terminate();

    let delivery = collector.span(there.trace_id, "deliver by HTTP");
    assert_eq!(delivery["span_id"], format!("{:016x}", told.span_id));
    assert_eq!(
        (&delivery["kind"], &delivery["parent"]),
        (&json!("SPAN_KIND_CLIENT"), &json!(format!("{:016x}", there.span_id)))
    );
    let lost = collector.spans().into_iter().find(|s| s["name"] == "HTTP").unwrap();
    assert_eq!(lost["attributes"]["http.response.status_code"], 404);
    let raw: String = collector.messages().iter().map(|m| m["raw"].as_str().unwrap().to_owned()).collect();
    for hidden in ["of-somebody", "nobody/is/here", admin.as_str(), "hook?", "/test?"] {
        assert!(!raw.contains(hidden), "neither paths nor queries are told: {hidden}");
    }
    Ok(())
}

/// A collector is a convenience; the appliance must not notice that it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_refuses_costs_spans_and_no_request_and_is_said_once() -> Done {
    let Some(collector) = Collector::start(2) else { return Ok(()) };
    let (place, said) = Place::set_up();
    let running = serve(&place, &collector.endpoint(), "1000000");
    let token = enroll(&running, &said).await;
    let log = || std::fs::read_to_string(place.path("serve.log")).unwrap();
    let refused = || log().contains("the collector of traces (tracing.otlp_endpoint) takes none");
    assert!(eventually(refused).await, "{}", log());
    for _ in 0..3 {
        assert!(beat(&running, &token, None).await.is_some());
    }
    let mut back = false;
    for _ in 0..20 {
        beat(&running, &token, None).await;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        back = log().contains("the collector takes traces again");
        if back {
            break;
        }
    }
    assert!(back, "{}", log());
    assert_eq!(log().matches("takes none").count(), 1);
    let port = running.ready["internal"].as_str().unwrap().to_owned();
    let metrics = crate::monitoring::scraped(&port, "text/plain").await?;
    for name in ["blockremote_trace_messages_lost_total", "blockremote_trace_messages_taken_total"] {
        let line = metrics.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{name} in {metrics}"));
        assert_ne!(line.rsplit(' ').next(), Some("0"), "{line}");
    }
    drop(collector);
    let (took, code, _) = running.terminate();
    assert_eq!(code, Some(0));
    assert!(took.as_secs() < 15, "{took:?}: a collector that is gone does not hold up the end");
    Ok(())
}

#[test]
fn a_collector_that_cannot_be_is_refused_before_anything_is_served() {
    let place = Place::new();
    for (wrong, why) in [("grpc://collector:4317", "tracing.otlp_endpoint"), ("https://", "tracing.otlp_endpoint")] {
        let mut command = place.command(&["serve"]);
        let output = command.env("BLOCKREMOTE_TRACING__OTLP_ENDPOINT", wrong).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{said}");
    }
}
