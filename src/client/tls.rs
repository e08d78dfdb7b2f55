//! Where the appliance is, and whom a client believes: one authority from a file, and nobody else.
//!
//! The machine's own list of authorities never counts: the appliance has its own, and a client that trusted others could
//! be told anything by them.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::ClientError;
use crate::crypto::{constant_time_eq, hex, sha256};

/// How long TCP and TLS together may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A file of certificates is never larger.
const CA_BYTES_MAX: u64 = 64 * 1024;

/// Reads the authority from a PEM file and trusts it alone, over TLS 1.3 and HTTP/1.1.
///
/// `fingerprint` is the SHA-256 of the certificate in hex, colons allowed, as `init` prints it: a file that was
/// exchanged is then refused.
///
/// # Errors
/// [`ClientError::BadCa`] when the file is missing, holds no certificate, or not the one of `fingerprint`.
pub fn trust(path: &Path, fingerprint: Option<&str>) -> Result<Arc<ClientConfig>, ClientError> {
    let bad = |cause: String| ClientError::BadCa { path: path.to_owned(), cause };
    let mut pem = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| bad(e.to_string()))?;
    file.take(CA_BYTES_MAX).read_to_end(&mut pem).map_err(|e| bad(e.to_string()))?;
    trust_pem(&pem, fingerprint).map_err(bad)
}

/// As [`trust`], for a text that is already in memory.
///
/// # Errors
/// A sentence on what is wrong with it.
pub fn trust_pem(pem: &[u8], fingerprint: Option<&str>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    let mut others = 0_usize;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| "it is not a PEM file of certificates".to_owned())?;
        if fingerprint.is_some_and(|pinned| !has_fingerprint(&certificate, pinned)) {
            others += 1;
            continue;
        }
        roots.add(certificate).map_err(|_| "it holds a certificate that cannot be an authority".to_owned())?;
    }
    if roots.is_empty() {
        return Err(match others {
            0 => "it holds no certificate".to_owned(),
            _ => "its certificate does not have the expected fingerprint; fetch the file again".to_owned(),
        });
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn has_fingerprint(certificate: &CertificateDer<'_>, pinned: &str) -> bool {
    let digits: String = pinned.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
    let actual = hex(&sha256(certificate));
    constant_time_eq(digits.as_bytes(), actual.as_bytes())
}

/// The appliance as a client reaches it. Cheap to clone.
#[derive(Clone)]
pub struct Endpoint {
    host: Arc<str>,
    port: u16,
    authority: Arc<str>,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.authority)
    }
}

impl Endpoint {
    /// Reads `https://host[:port]`; the port is 8443 where none is given.
    ///
    /// # Errors
    /// [`ClientError::BadUrl`] for another scheme, a path, a user, or no host.
    pub fn new(url: &str, tls: Arc<ClientConfig>) -> Result<Self, ClientError> {
        let bad = || ClientError::BadUrl(url.chars().take(200).collect());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let plain = uri.scheme_str() == Some("https") && matches!(uri.path(), "" | "/") && uri.query().is_none();
        let authority = uri.authority().filter(|a| plain && !a.as_str().contains('@')).ok_or_else(bad)?;
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str() == authority.host() => 8443,
            // There is something behind the colon, but no port.
            None => return Err(bad()),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|_| bad())?;
        let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Ok(Self { host: host.into(), port, authority: shown.into(), name, tls })
    }

    /// Host and port, as `Host` and as people read it.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// A new TLS connection.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], [`ClientError::Untrusted`], [`ClientError::TimedOut`].
    pub async fn connect(&self) -> Result<TlsStream<TcpStream>, ClientError> {
        let dialled = tokio::time::timeout(CONNECT_TIMEOUT, self.dial()).await;
        dialled.map_err(|_| ClientError::TimedOut(CONNECT_TIMEOUT))?
    }

    async fn dial(&self) -> Result<TlsStream<TcpStream>, ClientError> {
        let authority = || self.authority.to_string();
        let unreachable =
            |e: std::io::Error| ClientError::Unreachable { authority: authority(), cause: plain_cause(&e) };
        let tcp = TcpStream::connect((&*self.host, self.port)).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        connector.connect(self.name.clone(), tcp).await.map_err(|e| match e.get_ref() {
            // Only what rustls says is about trust; a reset in the middle is a network matter.
            Some(inner) if inner.is::<rustls::Error>() => {
                ClientError::Untrusted { authority: authority(), cause: inner.to_string() }
            }
            _ => unreachable(e),
        })
    }
}

/// The system's words without its error number.
fn plain_cause(e: &std::io::Error) -> String {
    let text = e.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn authority() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let fingerprint = sha256(certificate.der()).map(|b| format!("{b:02X}")).join(":");
        (certificate.pem(), fingerprint)
    }

    #[test]
    fn only_the_pinned_authority_is_taken_from_the_file() {
        let (pem, fingerprint) = authority();
        let (other, _) = authority();
        assert!(trust_pem(pem.as_bytes(), None).is_ok());
        assert!(trust_pem(pem.as_bytes(), Some(&fingerprint)).is_ok());
        assert!(trust_pem(pem.as_bytes(), Some(&fingerprint.replace(':', "").to_lowercase())).is_ok());
        for (text, pin) in [(other.as_bytes(), Some(fingerprint.as_str())), (b"", None), (b"no pem", None)] {
            assert!(trust_pem(text, pin).is_err());
        }
        let missing = trust(Path::new("/nowhere/ca.pem"), None).unwrap_err();
        assert!(missing.to_string().contains("/nowhere/ca.pem"), "{missing}");
    }

    #[test]
    fn an_address_is_https_host_and_port_and_nothing_more() {
        let (pem, _) = authority();
        let tls = trust_pem(pem.as_bytes(), None).unwrap();
        for (url, authority) in [
            ("https://localhost", "localhost:8443"),
            ("https://localhost:9000/", "localhost:9000"),
            ("https://192.168.1.5:8443", "192.168.1.5:8443"),
            ("https://[::1]:8443", "[::1]:8443"),
        ] {
            assert_eq!(Endpoint::new(url, Arc::clone(&tls)).unwrap().authority(), authority);
        }
        for url in
            ["http://localhost", "localhost:8443", "https://", "https://a/b", "https://u@a", "https://a:99999", ""]
        {
            assert!(Endpoint::new(url, Arc::clone(&tls)).is_err(), "{url:?}");
        }
    }
}
