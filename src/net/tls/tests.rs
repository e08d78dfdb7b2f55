//! What a client's certificate proves: that the client holds its key, and nothing else.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::{ClientConfig, ResolvesClientCert};
use rustls::pki_types::ServerName;
use rustls::{HandshakeKind, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::net::http::{Deadlines, Drain, Settings, serve};
use crate::net::limits::Connections;
use crate::net::{Peer, Service};

const TLS12: &SupportedProtocolVersion = &rustls::version::TLS12;
const TLS13: &SupportedProtocolVersion = &rustls::version::TLS13;

/// Answers with the hash of the client's certificate.
#[derive(Clone)]
struct Echo;

impl Service for Echo {
    type Body = Full<Bytes>;

    async fn call(&self, _request: Request<Incoming>, peer: Peer) -> Response<Full<Bytes>> {
        Response::new(Full::from(shown(peer.certificate_sha256)))
    }
}

fn shown(hash: Option<[u8; 32]>) -> String {
    hash.map_or_else(|| "none".to_owned(), |h| h.iter().map(|b| format!("{b:02x}")).collect())
}

struct Identity {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Identity {
    fn new(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, key }
    }

    fn hash(&self) -> String {
        shown(Some(Sha256::digest(&self.certificate).into()))
    }
}

/// Presents a chain whether or not the key fits to it.
#[derive(Debug)]
struct Presents(Arc<CertifiedKey>);

impl Presents {
    fn new(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Option<Arc<Self>> {
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let key = rustls::crypto::aws_lc_rs::default_provider().key_provider.load_private_key(key).unwrap();
        Some(Arc::new(Self(Arc::new(CertifiedKey::new(chain, key)))))
    }

    fn honestly(identity: &Identity) -> Option<Arc<Self>> {
        Self::new(vec![identity.certificate.clone()], &identity.key)
    }
}

impl ResolvesClientCert for Presents {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

struct Server {
    address: std::net::SocketAddr,
    certificate: CertificateDer<'static>,
    drain: Drain,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.drain.start();
    }
}

impl Server {
    async fn start(client_certificates: bool) -> Self {
        let own = Identity::new(|_| {});
        let chain = pem("CERTIFICATE", &own.certificate);
        let certificate = Arc::new(Certificate::from_pem(&chain, &own.key.serialize_pem()).unwrap());
        let tls = server_config(certificate, true, client_certificates).unwrap();
        let second = Duration::from_secs(5);
        let settings = Settings {
            deadlines: Deadlines { handshake: second, header: second, idle: second },
            tls: Some(Arc::new(tls)),
            connections: Connections::new(100, 100),
            http2: Default::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = Drain::default();
        tokio::spawn(serve(listener, settings, Echo, drain.clone()));
        Self { address, certificate: own.certificate, drain }
    }

    fn client(&self, version: &'static SupportedProtocolVersion, with: Option<Arc<Presents>>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        match with {
            Some(presents) => builder.with_client_cert_resolver(presents),
            None => builder.with_no_client_auth(),
        }
    }

    async fn connect(&self, client: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::clone(client)).connect(ServerName::try_from("localhost").unwrap(), tcp).await
    }

    /// What the server saw of the client, and how they shook hands.
    async fn ask(&self, client: &Arc<ClientConfig>) -> std::io::Result<(String, Option<HandshakeKind>)> {
        let mut stream = self.connect(client).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8(answer).unwrap();
        let body = answer.rsplit_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        Ok((body, stream.get_ref().1.handshake_kind()))
    }

    async fn sees(&self, version: &'static SupportedProtocolVersion, with: Option<Arc<Presents>>) -> Option<String> {
        self.ask(&Arc::new(self.client(version, with))).await.ok().map(|(seen, _)| seen)
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64ct::{Base64, Encoding};
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", Base64::encode_string(der))
}

#[tokio::test]
async fn a_certificate_is_seen_where_one_is_shown_and_missed_by_nobody() {
    let server = Server::start(true).await;
    let phone = Identity::new(|_| {});
    // Nobody judges issuer or validity here: a token names the certificate itself.
    let expired = Identity::new(|params| params.not_after = rcgen::date_time_ymd(2000, 1, 1));
    for version in [TLS12, TLS13] {
        for identity in [&phone, &expired] {
            let seen = server.sees(version, Presents::honestly(identity)).await;
            assert_eq!(seen, Some(identity.hash()), "{version:?}");
        }
        assert_eq!(server.sees(version, None).await.as_deref(), Some("none"), "{version:?}");
    }
}

#[tokio::test]
async fn a_listener_that_asks_for_none_sees_none() {
    let server = Server::start(false).await;
    let phone = Identity::new(|_| {});
    for version in [TLS12, TLS13] {
        assert_eq!(server.sees(version, Presents::honestly(&phone)).await.as_deref(), Some("none"), "{version:?}");
    }
}

/// A certificate is public: who only copied it gets no connection at all.
#[tokio::test]
async fn a_certificate_without_its_key_ends_the_handshake() {
    let server = Server::start(true).await;
    let (owner, thief) = (Identity::new(|_| {}), Identity::new(|_| {}));
    for version in [TLS12, TLS13] {
        let stolen = Presents::new(vec![owner.certificate.clone()], &thief.key);
        assert_eq!(server.sees(version, stolen).await, None, "{version:?}");
        // A chain that holds the owner's certificate behind the thief's own says only who the thief is.
        let behind = Presents::new(vec![thief.certificate.clone(), owner.certificate.clone()], &thief.key);
        assert_eq!(server.sees(version, behind).await, Some(thief.hash()), "{version:?}");
    }
}

#[tokio::test]
async fn a_certificate_has_bounds_and_a_form() {
    let server = Server::start(true).await;
    let phone = Identity::new(|_| {});
    let large = Identity::new(|params| {
        let names = (0..400).map(|i| format!("{i:060}.example").try_into().unwrap());
        params.subject_alt_names = names.map(rcgen::SanType::DnsName).collect();
    });
    assert!(large.certificate.len() > CLIENT_CERTIFICATE_BYTES_MAX);
    let chain = |n: usize, beside: &Identity| {
        let mut chain = vec![phone.certificate.clone()];
        chain.extend(std::iter::repeat_n(beside.certificate.clone(), n));
        Presents::new(chain, &phone.key)
    };
    for version in [TLS12, TLS13] {
        assert_eq!(server.sees(version, Presents::honestly(&large)).await, None);
        assert_eq!(server.sees(version, chain(CLIENT_CHAIN_MAX, &phone)).await, Some(phone.hash()));
        assert_eq!(server.sees(version, chain(CLIENT_CHAIN_MAX + 1, &phone)).await, None);
        assert_eq!(server.sees(version, chain(2, &large)).await, None);
        let garbage = Presents::new(vec![CertificateDer::from(vec![0x30, 0x03, 0x02, 0x01, 0x01])], &phone.key);
        assert_eq!(server.sees(version, garbage).await, None);
    }
}

/// A phone that comes back skips the certificate: the ticket remembers which one it was.
#[tokio::test]
async fn a_resumed_connection_keeps_its_certificate() {
    let server = Server::start(true).await;
    let phone = Identity::new(|_| {});
    for version in [TLS12, TLS13] {
        let client = Arc::new(server.client(version, Presents::honestly(&phone)));
        let full = server.ask(&client).await.unwrap();
        let resumed = server.ask(&client).await.unwrap();
        assert_eq!(full, (phone.hash(), Some(HandshakeKind::Full)));
        assert_eq!(resumed, (phone.hash(), Some(HandshakeKind::Resumed)));
    }
}

#[tokio::test]
async fn a_certificate_is_seen_over_http_2_too() {
    let server = Server::start(true).await;
    let phone = Identity::new(|_| {});
    let mut client = server.client(TLS13, Presents::honestly(&phone));
    client.alpn_protocols = vec![b"h2".to_vec()];
    let stream = server.connect(&Arc::new(client)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://localhost/").body(Full::<Bytes>::default()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, phone.hash().as_bytes());
}
