//! Clients that ask and never take the answer: what they asked for must not be kept for them.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use blockremote::testkit::Server;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const LARGE: &str = "/docs/swagger-ui-bundle.js";
const IDLE: Duration = Duration::from_secs(1);
/// Until it must have been noticed, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

async fn server() -> Server {
    Server::start_with(|config| config.http.idle_timeout = IDLE).await.unwrap()
}

async fn connect(server: &Server, protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(server.config().paths.certs.join("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(server.app().addresses.http).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap()
}

/// It gives no window, answers pings, and keeps one stream busy, so that its connection is never idle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_http2_that_never_gives_a_window_loses_its_connection() {
    let server = server().await;
    let stream = connect(&server, b"h2").await;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let ask = |path: &str| {
        let request = Request::get(format!("https://localhost{path}")).body(Empty::new()).unwrap();
        sender.clone().send_request(request)
    };
    let mut untaken = Vec::new();
    for _ in 0..20 {
        untaken.push(ask(LARGE).await.unwrap());
    }
    let from = tokio::time::Instant::now();
    while !connection.is_finished() && from.elapsed() < PATIENCE {
        // Answered without a body: no window is needed.
        let _ = ask("/docs").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(connection.is_finished(), "after {:?} the answers are still kept", from.elapsed());
    drop(untaken);
}

/// It asks for far more than fits into the buffers of a connection, and reads nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_http1_that_never_reads_loses_its_connection() {
    let server = server().await;
    let mut stream = connect(&server, b"http/1.1").await;
    let wanted = 100;
    for _ in 0..wanted {
        stream.write_all(format!("GET {LARGE} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
    }
    stream.flush().await.unwrap();
    tokio::time::sleep(IDLE * 4).await;
    let mut read = Vec::new();
    let reading = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut read)).await;
    assert!(reading.is_ok(), "the connection still stands");
    let mut client = server.client().unwrap();
    let whole = client.get(LARGE, None).await.unwrap().body.len();
    assert!(read.len() < whole * wanted, "{} bytes of {wanted} answers of {whole}", read.len());
}

/// Slow is not stalled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_slowly_gets_the_whole_answer() {
    let server = server().await;
    let stream = connect(&server, b"h2").await;
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(16_384)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("https://localhost{LARGE}")).body(Empty::new()).unwrap();
    let mut body = sender.send_request(request).await.unwrap().into_body();
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        read += frame.unwrap().into_data().map_or(0, |data| data.len());
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    let whole = server.client().unwrap().get(LARGE, None).await.unwrap().body.len();
    assert_eq!(read, whole);
}
