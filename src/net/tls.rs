//! The TLS side of the listener. The certificate can be swapped while connections are open.
//!
//! A client may be asked for a certificate of its own, too. All that is then proven is that it holds the key: who issued
//! the certificate, and what it is worth, is judged by whoever compares its hash with a token's (RFC 8705).

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, RootCertStore, ServerConnection,
    SignatureScheme,
};
use sha2::{Digest, Sha256};

use crate::kernel::{Clock, Error, Result};

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

/// Bytes of a client's own certificate.
const CLIENT_CERTIFICATE_BYTES_MAX: usize = 16 * 1024;
/// Bytes of all that a client sends beside it.
const CLIENT_CHAIN_BYTES_MAX: usize = 32 * 1024;
/// Certificates that a client sends beside its own.
const CLIENT_CHAIN_MAX: usize = 8;

/// Takes any certificate whose key the client holds.
///
/// RFC 8705, section 3 binds a token to a certificate by its hash, so only possession matters, which the signature over
/// the handshake proves. Names, validity and issuer are not looked at here.
#[derive(Debug)]
struct PossessionOnly {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for PossessionOnly {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: a client shall not choose its certificate by an issuer that we would name.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> std::result::Result<ClientCertVerified, TlsError> {
        let beside: usize = intermediates.iter().map(|c| c.len()).sum();
        if end_entity.len() > CLIENT_CERTIFICATE_BYTES_MAX
            || beside > CLIENT_CHAIN_BYTES_MAX
            || intermediates.len() > CLIENT_CHAIN_MAX
        {
            return Err(TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        ParsedCertificate::try_from(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// SHA-256 of the certificate whose key the client proved to hold, in this handshake or in the one that it resumes.
pub fn peer_certificate_sha256(session: &ServerConnection) -> Option<[u8; 32]> {
    session.peer_certificates()?.first().map(|certificate| Sha256::digest(certificate).into())
}

/// The configuration of the public listener: ALPN h2 and http/1.1, TLS 1.3, or 1.2 too where a customer's older phones
/// need it. `client_certificates`: a client may show a certificate of its own, and need not; see [`super::Peer`].
pub fn server_config(
    certificate: Arc<Certificate>,
    tls12: bool,
    client_certificates: bool,
) -> Result<rustls::ServerConfig> {
    let versions: &[&rustls::SupportedProtocolVersion] =
        if tls12 { &[&rustls::version::TLS13, &rustls::version::TLS12] } else { &[&rustls::version::TLS13] };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(Error::internal)?;
    let builder = if client_certificates {
        let algorithms = provider.signature_verification_algorithms;
        builder.with_client_cert_verifier(Arc::new(PossessionOnly { algorithms }))
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A phone that comes back skips the key exchange's signature. One ticket is enough for one reconnect.
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(Error::internal)?;
    config.send_tls13_tickets = 1;
    Ok(config)
}

/// The judge of certificates' dates: the appliance's clock instead of the machine's.
#[derive(Debug)]
struct OurClock(Clock);

impl rustls::time_provider::TimeProvider for OurClock {
    fn current_time(&self) -> Option<UnixTime> {
        let since = u64::try_from(self.0.now().as_secs()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(since)))
    }
}

/// The configuration of a listener on which every client must show a certificate of the authority `ca_pem`, made for
/// clients and in its time: the handshake fails without. ALPN h2 only. No session is resumed, so each connection proves
/// its key anew. Whether a certificate was revoked is asked at each request, of whoever knows.
pub fn mutual_config(
    certificate: Arc<Certificate>,
    ca_pem: &str,
    tls12: bool,
    clock: Clock,
) -> Result<rustls::ServerConfig> {
    let versions: &[&rustls::SupportedProtocolVersion] =
        if tls12 { &[&rustls::version::TLS13, &rustls::version::TLS12] } else { &[&rustls::version::TLS13] };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(authority.map_err(Error::internal)?).map_err(Error::internal)?;
    }
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let mut config = rustls::ServerConfig::builder_with_details(provider, Arc::new(OurClock(clock)))
        .with_protocol_versions(versions)
        .map_err(Error::internal)?
        .with_client_cert_verifier(verifier.map_err(Error::internal)?)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

#[cfg(test)]
mod tests;
