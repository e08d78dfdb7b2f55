//! The TLS side of the listener. The certificate can be swapped while connections are open.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::kernel::{Error, Result};

/// A server certificate that can be swapped.
#[derive(Debug)]
pub struct Certificate {
    current: ArcSwap<CertifiedKey>,
}

impl Certificate {
    /// Reads a PEM chain (leaf first) and its PEM key.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self> {
        Ok(Self { current: ArcSwap::from_pointee(certified(chain, key)?) })
    }

    /// Puts another certificate in place for new connections.
    pub fn replace(&self, chain: &str, key: &str) -> Result<()> {
        self.current.store(Arc::new(certified(chain, key)?));
        Ok(())
    }
}

fn certified(chain: &str, key: &str) -> Result<CertifiedKey> {
    let unreadable =
        |what: &str, e: &dyn std::fmt::Display| Error::Internal(format!("the server's {what} is not readable: {e}"));
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|e| unreadable("certificate", &e))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| unreadable("key", &e))?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider())
        .map_err(|e| Error::Internal(format!("the server's certificate and key do not fit together: {e}")))
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// The configuration of the public listener: ALPN h2 and http/1.1, TLS 1.3, or 1.2 too where a customer's older phones
/// need it.
pub fn server_config(certificate: Arc<Certificate>, tls12: bool) -> Result<rustls::ServerConfig> {
    let versions: &[&rustls::SupportedProtocolVersion] =
        if tls12 { &[&rustls::version::TLS13, &rustls::version::TLS12] } else { &[&rustls::version::TLS13] };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(Error::internal)?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A phone that comes back skips the key exchange's signature. One ticket is enough for one reconnect.
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(Error::internal)?;
    config.send_tls13_tickets = 1;
    Ok(config)
}
