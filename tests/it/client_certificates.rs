//! Clients are asked for a certificate of their own where the setting says so, and nobody is turned away for having none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use blockremote::client::{Endpoint, HttpClient};
use blockremote::config::ClientCertificates;
use blockremote::testkit::Server;
use rustls::client::{ClientConfig, ResolvesClientCert};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SignatureScheme};

use crate::common::Done;

/// A client that has a certificate and counts how often it is asked for it.
#[derive(Debug)]
struct Asked {
    identity: Arc<CertifiedKey>,
    times: AtomicUsize,
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.times.fetch_add(1, Ordering::AcqRel);
        Some(Arc::clone(&self.identity))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_client_is_asked_for_its_certificate_only_where_the_setting_says_so() -> Done {
    for (setting, times) in [(ClientCertificates::Off, 0), (ClientCertificates::Optional, 1)] {
        let server = Server::start_with(|config| config.tls.client_certificates = setting).await?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let own = rcgen::generate_simple_self_signed(vec!["phone.example".to_owned()])?;
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der())?;
        let identity = CertifiedKey::from_der(vec![own.cert.der().clone()], key, &provider)?;
        let asked = Arc::new(Asked { identity: Arc::new(identity), times: AtomicUsize::new(0) });
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(server.config().paths.certs.join("ca.pem"))?)?;
        let tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::<Asked>::clone(&asked));
        let url = format!("https://localhost:{}", server.app().addresses.http.port());
        let mut with = HttpClient::new(Endpoint::new(&url, Arc::new(tls))?);
        assert_eq!(with.get("/health/live", None).await?.status, 200, "{setting:?}");
        assert_eq!(asked.times.load(Ordering::Acquire), times, "{setting:?}");
        assert_eq!(server.client()?.get("/health/live", None).await?.status, 200, "{setting:?}: none to show");
    }
    Ok(())
}
