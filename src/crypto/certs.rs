//! The appliance's own certificates: an internal CA and the server certificate that it issues.
//!
//! For a machine on a LAN without a public name. Keys are drawn from the given source and leave as PEM; where they are
//! kept is the caller's business. All times are given. Knows nothing of files and of TLS configuration.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::{SigningKey, sha256};
use crate::kernel::{Random, Timestamp};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a CA lives: ten years.
pub const CA_LIFETIME: Duration = Duration::from_secs(3_652 * 24 * 60 * 60);
/// How long a server certificate lives at most: 397 days, which is the most that browsers have accepted.
pub const SERVER_LIFETIME: Duration = Duration::from_secs(397 * 24 * 60 * 60);
/// Names and addresses that one certificate may carry.
pub const NAMES_MAX: usize = 100;
/// Certificates begin this much earlier, for clients whose clocks are behind.
pub(super) const BACKDATE: Duration = Duration::from_secs(60 * 60);

/// Why no certificate was made or read.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// Neither a name nor an address, or more than [`NAMES_MAX`].
    #[error("a server certificate needs 1 to 100 names and addresses")]
    Names,
    /// A name that is not a DNS name.
    #[error("{0:?} is not a DNS name; use letters, digits, hyphens and dots")]
    BadName(String),
    /// Not a certificate in PEM, or one that cannot be understood.
    #[error("this is not a PEM certificate that can be read")]
    BadCertificate,
    /// The CA ends before the certificate would begin.
    #[error("the CA has expired or is about to; make a new one")]
    CaExpired,
    /// The CA's key is unreadable or not the certificate's.
    #[error("the CA's key does not belong to its certificate")]
    CaKey,
    /// Not a request for a certificate, one whose signature is wrong, or one with a key of another kind.
    #[error("this is not a PKCS 10 request in PEM, signed by its own P-256, P-384 or Ed25519 key")]
    BadRequest,
    /// The library's refusal.
    #[error("the certificate could not be made: {0}")]
    Library(#[from] rcgen::Error),
}

/// A CA. The key is wiped when dropped.
pub struct CaPair {
    /// The certificate, for the clients.
    pub cert_pem: String,
    /// PKCS#8, unencrypted.
    pub key_pem: Zeroizing<String>,
}

/// A server certificate and its key. The key is wiped when dropped.
pub struct ServerPair {
    /// The certificate alone; the chain is this and then the CA's.
    pub cert_pem: String,
    /// PKCS#8, unencrypted.
    pub key_pem: Zeroizing<String>,
}

/// Makes a P-256 CA that may sign end certificates only, valid for [`CA_LIFETIME`].
///
/// # Errors
/// [`CertError::Library`].
pub fn make_ca(name: &str, now: Timestamp, random: &Random) -> Result<CaPair, CertError> {
    let (key, key_pem) = fresh_key(random)?;
    let mut params = params(name, now, now.plus(CA_LIFETIME), random);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let cert_pem = params.self_signed(&key)?.pem();
    Ok(CaPair { cert_pem, key_pem })
}

/// Issues a P-256 server certificate for DNS `names` and `addresses`. It ends after `lifetime` (usually
/// [`SERVER_LIFETIME`]), counted from an hour ago, but never after its CA.
///
/// # Errors
/// [`CertError`].
pub fn issue_server(
    ca: &CaPair,
    names: &[String],
    addresses: &[IpAddr],
    now: Timestamp,
    lifetime: Duration,
    random: &Random,
) -> Result<ServerPair, CertError> {
    if !(1..=NAMES_MAX).contains(&names.len().saturating_add(addresses.len())) {
        return Err(CertError::Names);
    }
    let (issuer, ca_ends) = issuer_of(ca, now)?;
    let (key, key_pem) = fresh_key(random)?;
    let common_name = names.first().cloned().or_else(|| addresses.first().map(IpAddr::to_string)).unwrap_or_default();
    // From an hour ago, so that the whole span, which is what browsers measure, is `lifetime`.
    let ends = now.minus(BACKDATE).plus(lifetime).min(ca_ends);
    let mut params = params(&common_name, now, ends, random);
    for name in names {
        if !is_dns_name(name) {
            return Err(CertError::BadName(name.clone()));
        }
        let name = name.as_str().try_into().map_err(|_| CertError::BadName(name.clone()))?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.subject_alt_names.extend(addresses.iter().map(|ip| SanType::IpAddress(*ip)));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let cert_pem = params.signed_by(&key, &issuer)?.pem();
    Ok(ServerPair { cert_pem, key_pem })
}

/// What signs, and when it ends.
pub(super) fn issuer_of(ca: &CaPair, now: Timestamp) -> Result<(Issuer<'static, KeyPair>, Timestamp), CertError> {
    let ca_ends = not_after(&ca.cert_pem)?;
    if ca_ends <= now {
        return Err(CertError::CaExpired);
    }
    let ca_key = KeyPair::from_pem(&ca.key_pem).map_err(|_| CertError::CaKey)?;
    let ca_cert = der_of(&ca.cert_pem)?;
    // Otherwise a certificate would go out that no peer accepts.
    if !contains(&ca_cert, ca_key.public_key_raw()) {
        return Err(CertError::CaKey);
    }
    Ok((Issuer::from_ca_cert_der(&ca_cert, ca_key)?, ca_ends))
}

/// SHA-256 of the DER of the first certificate in `cert_pem`, as people compare it: `AB:CD:...`, 95 characters.
///
/// # Errors
/// [`CertError::BadCertificate`].
pub fn fingerprint_sha256(cert_pem: &str) -> Result<String, CertError> {
    let digest = sha256(&der_of(cert_pem)?);
    Ok(digest.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":"))
}

/// When the first certificate in `cert_pem` ends. The second it names is its last valid one (RFC 5280, section 4.1.2.5).
///
/// # Errors
/// [`CertError::BadCertificate`].
pub fn not_after(cert_pem: &str) -> Result<Timestamp, CertError> {
    validity_end(&der_of(cert_pem)?).ok_or(CertError::BadCertificate)
}

/// Whether the first certificate in `cert_pem` was signed by the key of `ca_pem`.
pub fn is_issued_by(cert_pem: &str, ca_pem: &str) -> bool {
    let (Ok(cert), Ok(ca)) = (der_of(cert_pem), der_of(ca_pem)) else { return false };
    let parsed = (x509_parser::parse_x509_certificate(&cert), x509_parser::parse_x509_certificate(&ca));
    let (Ok((_, cert)), Ok((_, ca))) = parsed else { return false };
    cert.issuer() == ca.subject() && cert.verify_signature(Some(ca.public_key())).is_ok()
}

/// DNS names and addresses that the first certificate in `cert_pem` is for.
///
/// # Errors
/// [`CertError::BadCertificate`].
pub fn subjects(cert_pem: &str) -> Result<(Vec<String>, Vec<IpAddr>), CertError> {
    let der = der_of(cert_pem)?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).map_err(|_| CertError::BadCertificate)?;
    let names = certificate.subject_alternative_name().map_err(|_| CertError::BadCertificate)?;
    let (mut dns, mut addresses) = (Vec::new(), Vec::new());
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            x509_parser::extensions::GeneralName::DNSName(name) => dns.push((*name).to_owned()),
            x509_parser::extensions::GeneralName::IPAddress(bytes) => {
                let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let any = four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                addresses.extend(any.ok());
            }
            _ => {}
        }
    }
    Ok((dns, addresses))
}

pub(super) fn fresh_key(random: &Random) -> Result<(KeyPair, Zeroizing<String>), CertError> {
    let key_pem = SigningKey::generate(random).to_pkcs8_pem().map_err(|_| CertError::CaKey)?;
    let key = KeyPair::from_pkcs8_pem_and_sign_algo(&key_pem, &PKCS_ECDSA_P256_SHA256)?;
    Ok((key, key_pem))
}

pub(super) fn params(common_name: &str, now: Timestamp, ends: Timestamp, random: &Random) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    // X.520 allows 64 characters of a common name; clients look at the alternative names anyway.
    subject.push(DnType::CommonName, common_name.chars().take(64).collect::<String>());
    params.distinguished_name = subject;
    let [first, rest @ ..] = random.bytes::<16>();
    // A serial number is positive and has no leading zero byte.
    let serial: Vec<u8> = std::iter::once(first & 0x3f | 0x40).chain(rest).collect();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let date = |t: Timestamp| {
        let since = Duration::from_secs(u64::try_from(t.as_secs()).unwrap_or(0));
        rcgen::date_time_ymd(1970, 1, 1) + since
    };
    params.not_before = date(now.minus(BACKDATE));
    params.not_after = date(ends);
    params
}

fn der_of(cert_pem: &str) -> Result<CertificateDer<'static>, CertError> {
    CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|_| CertError::BadCertificate)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && haystack.windows(needle.len()).any(|window| window == needle)
}

/// LDH labels (RFC 1123), one wildcard label in front at most.
/// Whether a text may stand in a certificate as a DNS name.
pub fn is_dns_name(name: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    (1..=253).contains(&name.len()) && name.strip_prefix("*.").unwrap_or(name).split('.').all(label)
}

/// Walks to `Certificate.tbsCertificate.validity.notAfter` (RFC 5280, section 4.1): three lengths deep, bounded by them.
fn validity_end(der: &[u8]) -> Option<Timestamp> {
    const SEQUENCE: u8 = 0x30;
    const INTEGER: u8 = 0x02;
    const EXPLICIT_VERSION: u8 = 0xa0;
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut tbs, _) = element(certificate, SEQUENCE)?;
    if let Some((_, after)) = element(tbs, EXPLICIT_VERSION) {
        tbs = after;
    }
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        (_, tbs) = element(tbs, tag)?; // serial number, algorithm, issuer
    }
    let (validity, _) = element(tbs, SEQUENCE)?;
    let (_, after) = time(validity)?;
    time(after).map(|(end, _)| end)
}

fn time(input: &[u8]) -> Option<(Timestamp, &[u8])> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let (text, century, rest) = if let Some((content, rest)) = element(input, UTC_TIME) {
        let text = std::str::from_utf8(content).ok()?;
        let century = if text.get(..2)?.parse::<u8>().ok()? < 50 { "20" } else { "19" };
        (text, century, rest)
    } else {
        let (content, rest) = element(input, GENERALIZED_TIME)?;
        (std::str::from_utf8(content).ok()?, "", rest)
    };
    let text = format!("{century}{text}");
    if text.len() != 15 || !text.ends_with('Z') {
        return None;
    }
    let part = |from: usize, to: usize| text.get(from..to).filter(|p| p.bytes().all(|b| b.is_ascii_digit()));
    let (date, clock) = (part(0, 8)?, part(8, 14)?);
    let (year, month, day) = (date.get(..4)?, date.get(4..6)?, date.get(6..)?);
    let (hour, minute, second) = (clock.get(..2)?, clock.get(2..4)?, clock.get(4..)?);
    let end = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z").parse().ok()?;
    Some((end, rest))
}

/// The content of the first element, if it has this tag, and what follows it.
fn element(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, input) = input.split_first()?;
    let (short, input) = input.split_first()?;
    if *found != tag {
        return None;
    }
    if *short < 0x80 {
        return input.split_at_checked(usize::from(*short));
    }
    let (length, input) = input.split_at_checked(usize::from(short & 0x7f)).filter(|(l, _)| l.len() <= 4)?;
    let length = length.iter().fold(0_usize, |sum, b| sum << 8 | usize::from(*b));
    input.split_at_checked(length)
}

/// Whole days from `now` until `end`; 0 when it has passed.
pub fn days_left(end: Timestamp, now: Timestamp) -> u64 {
    end.since(now).as_secs() / DAY.as_secs()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rustls::pki_types::{PrivateKeyDer, ServerName, UnixTime};
    use std::sync::Arc;

    const NOW: i64 = 1_800_000_000_000;

    fn now() -> Timestamp {
        Timestamp::from_millis(NOW)
    }

    fn pair() -> (CaPair, ServerPair) {
        let random = Random::seeded(1);
        let ca = make_ca("BlockRemote test CA", now(), &random).unwrap();
        let names = ["localhost".to_owned(), "appliance.example".to_owned()];
        let ips = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        let server = issue_server(&ca, &names, &ips, now(), SERVER_LIFETIME, &random).unwrap();
        (ca, server)
    }

    #[derive(Debug)]
    struct At(Timestamp);

    impl rustls::time_provider::TimeProvider for At {
        fn current_time(&self) -> Option<UnixTime> {
            let secs = u64::try_from(self.0.as_secs()).ok()?;
            Some(UnixTime::since_unix_epoch(Duration::from_secs(secs)))
        }
    }

    /// A whole TLS handshake in memory; the text of the error says who refused.
    fn handshake(ca: &CaPair, server: &ServerPair, name: &str, at: Timestamp) -> Result<(), rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(der_of(&ca.cert_pem).unwrap()).unwrap();
        let client = rustls::ClientConfig::builder_with_details(Arc::clone(&provider), Arc::new(At(at)))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let key = PrivateKeyDer::from_pem_slice(server.key_pem.as_bytes()).unwrap();
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![der_of(&server.cert_pem).unwrap()], key)
            .unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = rustls::ServerConnection::new(Arc::new(server)).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut input = wire.as_slice();
            while !input.is_empty() {
                server.read_tls(&mut input).unwrap();
                server.process_new_packets()?;
            }
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut input = wire.as_slice();
            while !input.is_empty() {
                client.read_tls(&mut input).unwrap();
                client.process_new_packets()?;
            }
        }
        Ok(())
    }

    #[test]
    fn a_client_with_the_ca_accepts_the_server_under_its_names_only() {
        let (ca, server) = pair();
        for name in ["localhost", "appliance.example", "127.0.0.1", "::1"] {
            assert_eq!(handshake(&ca, &server, name, now()), Ok(()), "{name}");
        }
        for name in ["other.example", "x.localhost", "127.0.0.2"] {
            let refused = handshake(&ca, &server, name, now()).unwrap_err().to_string();
            assert!(refused.contains("not valid for name"), "{name}: {refused}");
        }
        let stranger = make_ca("BlockRemote test CA", now(), &Random::seeded(2)).unwrap();
        assert!(handshake(&stranger, &server, "localhost", now()).is_err());
    }

    #[test]
    fn a_certificate_lives_as_long_as_it_says() {
        let (ca, server) = pair();
        let ends = not_after(&server.cert_pem).unwrap();
        assert_eq!(ends, now().minus(BACKDATE).plus(SERVER_LIFETIME));
        assert_eq!(not_after(&ca.cert_pem).unwrap(), now().plus(CA_LIFETIME));
        assert_eq!((days_left(ends, now()), days_left(now(), ends)), (396, 0));
        let second = Duration::from_secs(1);
        assert_eq!(handshake(&ca, &server, "localhost", ends), Ok(()));
        assert!(handshake(&ca, &server, "localhost", ends.plus(second)).is_err());
        assert_eq!(handshake(&ca, &server, "localhost", now().minus(BACKDATE)), Ok(()));
        assert!(handshake(&ca, &server, "localhost", now().minus(BACKDATE + second)).is_err());
    }

    #[test]
    fn no_certificate_outlives_its_ca() {
        let (ca, _) = pair();
        let names = ["localhost".to_owned()];
        let random = Random::seeded(3);
        let late = now().plus(CA_LIFETIME - 2 * DAY);
        let server = issue_server(&ca, &names, &[], late, SERVER_LIFETIME, &random).unwrap();
        assert_eq!(not_after(&server.cert_pem).unwrap(), not_after(&ca.cert_pem).unwrap());
        let after = now().plus(CA_LIFETIME);
        assert!(matches!(issue_server(&ca, &names, &[], after, SERVER_LIFETIME, &random), Err(CertError::CaExpired)));
    }

    #[test]
    fn a_year_beyond_2049_is_written_and_read() {
        let in_2055 = "2055-06-01T12:00:00Z".parse::<Timestamp>().unwrap();
        let ca = make_ca("late", in_2055, &Random::seeded(1)).unwrap();
        assert_eq!(not_after(&ca.cert_pem).unwrap(), in_2055.plus(CA_LIFETIME));
    }

    #[test]
    fn what_cannot_be_issued_is_refused_with_the_reason() {
        let (ca, server) = pair();
        let random = Random::seeded(4);
        let issue = |ca: &CaPair, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            issue_server(ca, &names, &[], now(), SERVER_LIFETIME, &random).err().unwrap()
        };
        assert!(matches!(issue(&ca, &[]), CertError::Names));
        assert!(matches!(issue(&ca, &["a"; NAMES_MAX + 1]), CertError::Names));
        for bad in ["", "a b", "-a", "a..b", "ä", "a\0", "*", "a.*.b", &"a".repeat(64)] {
            assert!(matches!(issue(&ca, &[bad]), CertError::BadName(_)), "{bad:?}");
        }
        let mixed = CaPair { cert_pem: ca.cert_pem.clone(), key_pem: server.key_pem.clone() };
        assert!(matches!(issue(&mixed, &["localhost"]), CertError::CaKey));
        let broken = CaPair { cert_pem: "x".to_owned(), key_pem: ca.key_pem.clone() };
        assert!(matches!(issue(&broken, &["localhost"]), CertError::BadCertificate));
    }

    #[test]
    fn a_fingerprint_is_written_as_people_compare_it() {
        let (ca, server) = pair();
        let text = fingerprint_sha256(&ca.cert_pem).unwrap();
        assert_eq!(text.len(), 95);
        assert!(text.split(':').all(|b| b.len() == 2 && u8::from_str_radix(b, 16).is_ok()));
        assert_eq!(text, text.to_uppercase());
        assert_ne!(text, fingerprint_sha256(&server.cert_pem).unwrap());
        assert!(fingerprint_sha256("").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(at in 0_usize..400, with: u8, cut in 0_usize..400) {
            let (ca, _) = pair();
            let mut der = der_of(&ca.cert_pem).unwrap().to_vec();
            if let Some(byte) = der.get_mut(at) {
                *byte = with;
            }
            let _ = validity_end(&der);
            der.truncate(cut);
            let _ = validity_end(&der);
        }
    }
}
