//! Threat feeds that the operator has fetched: over HTTP and HTTPS, or out of files, each on its own schedule.

use std::sync::Arc;
use std::time::Duration;

use blockremote::domains::intel::Scope;
use blockremote::testkit::{Fault, Server, eventually};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::common::{Done, first_tenant};

/// A server of feeds that answers everybody the same.
async fn serve(answer: String) -> Result<(u16, tokio::task::JoinHandle<()>), Fault> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4_096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    Ok((port, task))
}

fn http(status: &str, headers: &str, content: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{content}", content.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feeds_are_fetched_from_where_the_operator_says_and_a_bad_download_takes_nothing_away() -> Done {
    let (good, _first) = serve(http("200 OK", "", "evil.example\n")).await?;
    let (moved, _second) = serve(http("302 Found", "location: http://169.254.169.254/\r\n", "")).await?;
    let (large, _third) = serve(http("200 OK", "", &"a".repeat(3 << 20))).await?;
    let (packed, _fourth) = serve(http("200 OK", "content-encoding: gzip\r\n", "x")).await?;
    let (empty, _fifth) = serve(http("200 OK", "", "# gone\n")).await?;
    let mut server = Server::start().await?;
    let list = server.folder().join("sources.toml");
    let feed = |name: &str, port: u16| {
        format!("[[feed]]\nname = \"{name}\"\nurl = \"http://127.0.0.1:{port}/list\"\nevery_hours = 1\n")
    };
    let sources = [("good", good), ("moved", moved), ("large", large), ("packed", packed)].map(|(n, p)| feed(n, p));
    std::fs::write(&list, sources.concat())?;
    let named = list.clone();
    server
        .restart_with(move |c| {
            c.intel.sources = Some(named);
            c.intel.feed_bytes = 1 << 20;
        })
        .await?;
    let known = |server: &Server| server.app().services.intel.feeds_of(Scope::Global).len();
    assert!(eventually(|| known(&server) == 1).await, "the good one and no other");
    let tenant = first_tenant(&server).await?;
    assert!(server.app().services.intel.domain(tenant, "evil.example").surest().is_some());
    // An hour later its server has lost its content.
    std::fs::write(&list, feed("good", empty))?;
    server.clock.advance(Duration::from_secs(3_700));
    server.restart().await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(server.app().services.intel.domain(tenant, "evil.example").surest().is_some(), "it still counts");
    std::fs::write(&list, "[[feed]]\nname = \"x\"\nurl = \"gopher://a/\"\n")?;
    let refused = server.restart().await.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(refused.contains("intel.sources") && refused.contains("gopher") | refused.contains("scheme"), "{refused}");
    Ok(())
}

/// An authority that signs certificates of servers.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Result<Self, Fault> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// A server of feeds with a certificate of this authority for `name`.
    async fn serve(&self, name: &str, answer: String) -> Result<(u16, tokio::task::JoinHandle<()>), Fault> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &self.0)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = [0; 4_096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        Ok((port, task))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_feeds_proves_who_it_is_by_an_authority_that_the_operator_trusts() -> Done {
    let (trusted, stranger) = (Authority::new()?, Authority::new()?);
    let (good, _first) = trusted.serve("localhost", http("200 OK", "", "good.example\n")).await?;
    let (unknown, _second) = stranger.serve("localhost", http("200 OK", "", "unknown.example\n")).await?;
    let (elsewhere, _third) = trusted.serve("feeds.example", http("200 OK", "", "elsewhere.example\n")).await?;
    let mut server = Server::start().await?;
    let (list, authorities) = (server.folder().join("sources.toml"), server.folder().join("authorities.pem"));
    std::fs::write(&authorities, trusted.0.pem())?;
    // The good one comes last: when it is there, the others were asked.
    let sources = [("unknown", unknown), ("elsewhere", elsewhere), ("good", good)];
    let rows = sources.map(|(n, p)| format!("[[feed]]\nname = \"{n}\"\nurl = \"https://localhost:{p}/list\"\n"));
    std::fs::write(&list, rows.concat())?;
    server.restart_with(move |c| (c.intel.sources, c.intel.ca_certificates) = (Some(list), authorities)).await?;
    let names = |server: &Server| {
        let feeds = server.app().services.intel.feeds_of(Scope::Global);
        feeds.iter().map(|(_, feed)| feed.name.to_string()).collect::<Vec<_>>()
    };
    assert!(eventually(|| !names(&server).is_empty()).await);
    assert_eq!(names(&server), ["good"]);
    Ok(())
}

/// A failure was noted under the feed's name alone: one tenant's source that failed kept another tenant's source of the
/// same name from ever being fetched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_missing_for_one_tenant_keeps_nobody_elses_from_being_read() -> Done {
    let mut server = Server::start().await?;
    let (list, file) = (server.folder().join("sources.toml"), server.folder().join("list.txt"));
    std::fs::write(&file, "evil.example\n")?;
    let row = |more: &str, file: &std::path::Path| {
        format!("[[feed]]\nname = \"spy\"\nfile = {:?}\nevery_hours = 1\n{more}", file.display().to_string())
    };
    let missing = server.folder().join("missing.txt");
    std::fs::write(&list, [row("", &missing), row("tenant = \"default\"\n", &file)].concat())?;
    server.restart_with(move |c| c.intel.sources = Some(list)).await?;
    let tenant = first_tenant(&server).await?;
    let listed = |server: &Server, name: &str| server.app().services.intel.domain(tenant, name).surest().is_some();
    assert!(eventually(|| listed(&server, "evil.example")).await);
    assert!(server.app().services.intel.feeds_of(Scope::Global).is_empty());
    // An hour later the file says something else.
    std::fs::write(&file, "worse.example\n")?;
    server.clock.advance(Duration::from_secs(3_700));
    assert!(eventually(|| listed(&server, "worse.example") && !listed(&server, "evil.example")).await);
    Ok(())
}
