//! What happens at each limit of gRPC: large, slow, silent and hurried clients, and the services of tools.

use std::sync::Arc;
use std::time::Duration;

use blockremote::testkit::Fault;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::client::conn::http2;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::peer::SIGNALS;
use super::{Site, assert_ended};
use crate::common::{DAY, Done};
use blockremote::testkit::text;

type Body = StreamBody<futures_util::stream::BoxStream<'static, Result<Frame<Bytes>, std::convert::Infallible>>>;

/// HTTP/2 without any library of gRPC, for what no library sends.
async fn raw(site: &Site) -> Result<http2::SendRequest<Body>, Fault> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(site.server.config().paths.certs.join("ca.pem"))?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(&site.identity.cert)?],
            PrivateKeyDer::from_pem_file(&site.identity.key)?,
        )?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(site.server.app().addresses.grpc).await?;
    let stream =
        tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(ServerName::try_from("localhost")?, stream).await?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

fn request(site: &Site, method: &str, headers: &[(&str, &str)]) -> Result<(Request<Body>, mpsc::Sender<Bytes>), Fault> {
    let (sender, mut queue) = mpsc::channel::<Bytes>(8);
    let frames = futures_util::stream::poll_fn(move |cx| queue.poll_recv(cx).map(|b| b.map(|b| Ok(Frame::data(b)))));
    let mut built = Request::post(format!("https://localhost{SIGNALS}{method}"))
        .header("te", "trailers")
        .header("authorization", format!("Bearer {}", site.device.access_token));
    if !headers.iter().any(|(name, _)| *name == "content-type") {
        built = built.header("content-type", "application/grpc");
    }
    for (name, value) in headers {
        built = built.header(*name, *value);
    }
    let body: Body = StreamBody::new(Box::pin(frames));
    Ok((built.body(body)?, sender))
}

/// The code in the metadata at the end, wherever that stands.
async fn end_of(response: Response<hyper::body::Incoming>) -> Result<(String, String), Fault> {
    let (parts, body) = response.into_parts();
    let collected = tokio::time::timeout(Duration::from_secs(20), body.collect()).await??;
    let trailers = collected.trailers().cloned().unwrap_or(parts.headers);
    let of = |name: &str| trailers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    Ok((of("grpc-status"), of("blockremote-code")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_is_too_large_is_refused_whether_it_is_packed_or_not() -> Done {
    let Some(mut site) = Site::new().await? else { return Ok(()) };
    let token = site.device.access_token.clone();
    let mut beat = site.device.calm();
    let fits = site.peer.call_with(&site.channel, "Heartbeat", &token, &beat, &json!({ "gzip": true }))?;
    assert_eq!(fits["code"], "OK", "{fits}");
    beat["sent_at"] = json!("0".repeat(1 << 20));
    for gzip in [false, true] {
        let answer = site.peer.call_with(&site.channel, "Heartbeat", &token, &beat, &json!({ "gzip": gzip }))?;
        assert_ended(&answer, "RESOURCE_EXHAUSTED", "body_too_large");
    }
    // Within the limit of a message, but not a heartbeat: the handler's own refusal, so the message was read.
    beat["sent_at"] = json!("0".repeat(60 << 10));
    assert_ended(&site.call("Heartbeat", &beat)?, "INVALID_ARGUMENT", "invalid_request");
    let garbage = site.peer.call_with(&site.channel, "Heartbeat", &token, &json!({}), &json!({ "raw": "ffffff" }))?;
    assert_ended(&garbage, "INVALID_ARGUMENT", "malformed_message");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_megabyte_of_metadata_is_refused_and_harms_nobody() -> Done {
    let Some(mut site) = Site::new().await? else { return Ok(()) };
    let token = site.device.access_token.clone();
    let beat = site.device.calm();
    let much = json!({ "metadata": [["x-much", "m".repeat(1 << 20)]], "timeout": 10 });
    let answer = site.peer.call_with(&site.channel, "Heartbeat", &token, &beat, &much)?;
    assert_ne!(answer["code"], "OK", "{answer}");
    // A client that does not keep to what it was told.
    let much = "m".repeat(1 << 20);
    let mut sender = raw(&site).await?;
    let (rq, _body) = request(&site, "Heartbeat", &[("x-much", &much)])?;
    let refused = tokio::time::timeout(Duration::from_secs(10), sender.send_request(rq)).await?;
    assert!(refused.as_ref().map_or(true, |r| r.status() == 431), "{refused:?}");
    assert_eq!(site.call("Heartbeat", &beat)?["code"], "OK");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_stream_that_is_silent_slow_or_too_busy_ends_with_a_word_on_it() -> Done {
    let change = |c: &mut blockremote::config::Config| {
        c.grpc.stream_idle = Duration::from_secs(1);
        c.grpc.stream_messages_per_minute = 5;
        c.http.body_timeout = Duration::from_secs(1);
    };
    let Some(mut site) = Site::with(change).await? else { return Ok(()) };
    let token = site.device.access_token.clone();
    let silent = site.peer.stream(&site.channel, "StreamHeartbeats", &token)?;
    assert_ended(&site.peer.hear(&silent)?, "DEADLINE_EXCEEDED", "stream_idle");
    let busy = site.peer.stream(&site.channel, "StreamHeartbeats", &token)?;
    let beat = site.device.calm();
    for _ in 0..6 {
        site.peer.send(&busy, &beat)?;
    }
    for number in 1..=5 {
        assert_eq!(site.peer.hear(&busy)?["message"]["number"], number.to_string());
    }
    assert_ended(&site.peer.hear(&busy)?, "RESOURCE_EXHAUSTED", "stream_rate");
    // A message of which only the beginning comes.
    let mut sender = raw(&site).await?;
    for (method, code) in [("StreamHeartbeats", "stream_idle"), ("Heartbeat", "message_timeout")] {
        let (rq, body) = request(&site, method, &[])?;
        body.send(Bytes::from_static(&[0, 0, 0, 0, 200, 10])).await?;
        let ended = end_of(sender.send_request(rq).await?).await?;
        assert_eq!(ended, ("4".to_owned(), code.to_owned()), "{method}");
    }
    // A message that is cut off.
    let (rq, body) = request(&site, "Heartbeat", &[])?;
    body.send(Bytes::from_static(&[0, 0, 0, 0, 200, 10])).await?;
    drop(body);
    assert_eq!(end_of(sender.send_request(rq).await?).await?, ("3".to_owned(), "malformed_message".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_clients_deadline_holds_and_so_does_ours() -> Done {
    let Some(site) = Site::with(|c| c.grpc.stream_max = Duration::from_secs(2)).await? else { return Ok(()) };
    let mut sender = raw(&site).await?;
    for (timeout, within) in [(Some("300m"), Duration::from_millis(1_500)), (None, Duration::from_secs(6))] {
        let headers: Vec<_> = timeout.iter().map(|t| ("grpc-timeout", *t)).collect();
        let (rq, body) = request(&site, "Commands", &headers)?;
        body.send(Bytes::from_static(&[0, 0, 0, 0, 0])).await?;
        let ended = tokio::time::timeout(within, async { end_of(sender.send_request(rq).await?).await }).await??;
        assert_eq!(ended, ("4".to_owned(), "deadline_exceeded".to_owned()), "{timeout:?}");
    }
    for (header, value, status, code) in
        [("grpc-timeout", "soon", "3", "malformed_timeout"), ("grpc-encoding", "snappy", "12", "unsupported_encoding")]
    {
        let (rq, _body) = request(&site, "Heartbeat", &[(header, value)])?;
        assert_eq!(end_of(sender.send_request(rq).await?).await?, (status.to_owned(), code.to_owned()));
    }
    let (rq, _body) = request(&site, "Heartbeat", &[("content-type", "application/json")])?;
    assert_eq!(sender.send_request(rq).await?.status(), 415);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn one_connection_has_only_so_many_streams() -> Done {
    let Some(site) = Site::with(|c| c.grpc.streams_per_connection = 2).await? else { return Ok(()) };
    let mut sender = raw(&site).await?;
    let mut open = Vec::new();
    for _ in 0..2 {
        let (rq, body) = request(&site, "StreamHeartbeats", &[])?;
        open.push((sender.send_request(rq).await?, body));
    }
    let (rq, _third) = request(&site, "StreamHeartbeats", &[])?;
    let waits = tokio::time::timeout(Duration::from_millis(500), sender.send_request(rq)).await;
    assert!(waits.is_err(), "a third was let in: {waits:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn rate_and_paywall_are_those_of_http() -> Done {
    let Some(mut site) = Site::with(|c| c.tokens.access_ttl = 60 * DAY).await? else { return Ok(()) };
    let beat = site.device.calm();
    for _ in 0..120 {
        site.device.beat(&beat).await?.success()?;
    }
    let answer = site.call("Heartbeat", &beat)?;
    assert_ended(&answer, "RESOURCE_EXHAUSTED", "rate_limited");
    assert!(text(&answer["trailers"], "retry-after").parse::<u64>().is_ok_and(|s| s > 0), "{answer}");
    site.server.clock.advance(8 * DAY);
    assert_ended(&site.call("Heartbeat", &beat)?, "FAILED_PRECONDITION", "trial_expired");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn health_and_reflection_answer_where_they_are_switched_on() -> Done {
    let (check, reflect) =
        ("/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    let Some(mut site) = Site::with(|c| (c.grpc.health, c.grpc.reflection) = (false, false)).await? else {
        return Ok(());
    };
    for path in [check, reflect] {
        let answer = site.peer.call(&site.channel, path, "", &json!({}))?;
        assert_ended(&answer, "UNIMPLEMENTED", "not_found");
    }
    let Some(mut site) = Site::with(|c| (c.grpc.health, c.grpc.reflection) = (true, true)).await? else {
        return Ok(());
    };
    for (service, code) in [("", "OK"), ("blockremote.v1.Signals", "OK"), ("no.such.Service", "NOT_FOUND")] {
        let answer = site.peer.call(&site.channel, check, "", &json!({ "service": service }))?;
        assert_eq!(answer["code"], code, "{service}");
    }
    let stream = site.peer.stream(&site.channel, reflect, "")?;
    site.peer.send(&stream, &json!({ "list_services": "" }))?;
    let said = site.peer.hear(&stream)?.to_string();
    for service in ["blockremote.v1.Signals", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"] {
        assert!(said.contains(service), "{said}");
    }
    site.peer.send(&stream, &json!({ "file_containing_symbol": "blockremote.v1.Signals" }))?;
    assert!(site.peer.hear(&stream)?["message"]["file_descriptor_response"].is_object());
    site.peer.send(&stream, &json!({ "file_by_filename": "../Cargo.toml" }))?;
    assert_eq!(site.peer.hear(&stream)?["message"]["error_response"]["error_code"], 5);
    site.peer.half_close(&stream)?;
    assert_eq!(site.peer.hear(&stream)?["code"], "OK");
    // Who watches hears of the shutdown, and the stream ends.
    let watch = site.peer.stream(&site.channel, "/grpc.health.v1.Health/Watch", "")?;
    site.peer.send(&watch, &json!({}))?;
    assert_eq!(site.peer.hear(&watch)?["message"]["status"], "SERVING");
    assert!(site.server.stop().await);
    assert_ended(&site.peer.hear(&watch)?, "UNAVAILABLE", "shutting_down");
    Ok(())
}
