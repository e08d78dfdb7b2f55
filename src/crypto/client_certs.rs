//! Certificates by which devices show who they are in mutual TLS: made by the internal CA, for clients alone.
//!
//! Of a request only the key counts; name, dates and use are ours. Knows nothing of devices' rows and of revocation.

use std::time::Duration;

use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData, SanType, SerialNumber,
};
use zeroize::Zeroizing;

use super::certs::{BACKDATE, CaPair, CertError, fresh_key, issuer_of, params};
use super::sha256;
use crate::kernel::{Random, Timestamp};

/// Bytes of a request for a certificate.
pub const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// A certificate of a device.
pub struct ClientCertificate {
    /// Hexadecimal, unique.
    pub serial: String,
    /// The certificate alone.
    pub cert_pem: String,
    /// SHA-256 of its DER.
    pub sha256: [u8; 32],
    /// Its last second.
    pub expires_at: Timestamp,
}

/// A request for a certificate whose signature proves that its maker holds the key.
pub struct Request(rcgen::PublicKey);

impl Request {
    /// Reads a PKCS 10 request in PEM.
    ///
    /// # Errors
    /// [`CertError::BadRequest`].
    pub fn from_pem(pem: &str) -> Result<Self, CertError> {
        if pem.len() > REQUEST_BYTES_MAX {
            return Err(CertError::BadRequest);
        }
        let read = CertificateSigningRequestParams::from_pem(pem).map_err(|_| CertError::BadRequest)?;
        let kinds = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519];
        if !kinds.contains(&read.public_key.algorithm()) {
            return Err(CertError::BadRequest);
        }
        Ok(Self(read.public_key))
    }

    /// The key as it stands in the request; of P-256 the 65 bytes of the uncompressed point.
    pub fn key(&self) -> &[u8] {
        self.0.der_bytes()
    }
}

/// Issues a certificate for the key of `request`. It names the device as common name and as `urn` and ends after
/// `lifetime`, but never after its CA.
///
/// # Errors
/// [`CertError`].
pub fn issue(
    ca: &CaPair,
    request: &Request,
    (common_name, urn): (&str, &str),
    now: Timestamp,
    lifetime: Duration,
    random: &Random,
) -> Result<ClientCertificate, CertError> {
    signed(ca, &request.0, (common_name, urn), now, lifetime, random)
}

/// As [`issue`], with a fresh P-256 key, for devices that cannot make a request; the key leaves as PKCS#8 PEM.
///
/// # Errors
/// [`CertError`].
pub fn issue_with_key(
    ca: &CaPair,
    names: (&str, &str),
    now: Timestamp,
    lifetime: Duration,
    random: &Random,
) -> Result<(ClientCertificate, Zeroizing<String>), CertError> {
    let (key, key_pem) = fresh_key(random)?;
    Ok((signed(ca, &key, names, now, lifetime, random)?, key_pem))
}

fn signed(
    ca: &CaPair,
    key: &impl PublicKeyData,
    (common_name, urn): (&str, &str),
    now: Timestamp,
    lifetime: Duration,
    random: &Random,
) -> Result<ClientCertificate, CertError> {
    let (issuer, ca_ends) = issuer_of(ca, now)?;
    // Whole seconds: what the row says and what the certificate says must be the same moment.
    let ends = Timestamp::from_millis(now.plus(lifetime).min(ca_ends).as_secs().saturating_mul(1_000));
    if ends <= now.minus(BACKDATE) {
        return Err(CertError::CaExpired);
    }
    let mut params = params(common_name, now, ends, random);
    let bad_name = || CertError::BadName(urn.to_owned());
    params.subject_alt_names = vec![SanType::URI(urn.try_into().map_err(|_| bad_name())?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let serial = params.serial_number.as_ref().map(SerialNumber::to_bytes).unwrap_or_default();
    let made = params.signed_by(key, &issuer)?;
    Ok(ClientCertificate {
        serial: super::hex(&serial),
        sha256: sha256(made.der()),
        cert_pem: made.pem(),
        expires_at: ends,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P521_SHA512};

    use super::*;
    use crate::crypto::certs::make_ca;

    fn now() -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000)
    }

    fn request(key: &KeyPair) -> String {
        let mut params = CertificateParams::new(vec!["admin.example".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.serialize_request(key).unwrap().pem().unwrap()
    }

    /// Whoever asks for a certificate of a server or an authority gets one of a client, under the name that we chose.
    #[test]
    fn of_a_request_only_the_key_counts() {
        use x509_parser::prelude::FromDer;
        let random = Random::seeded(1);
        let ca = make_ca("test", now(), &random).unwrap();
        let key = KeyPair::generate().unwrap();
        let asked = Request::from_pem(&request(&key)).unwrap();
        let names = ("BR-1", "urn:blockremote:device:ten_1:BR-1");
        let made = issue(&ca, &asked, names, now(), Duration::from_secs(86_400), &random).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(made.cert_pem.as_bytes()).unwrap();
        let (_, read) = x509_parser::certificate::X509Certificate::from_der(&pem.contents).unwrap();
        assert_eq!(read.subject().to_string(), "CN=BR-1");
        assert!(!read.is_ca());
        let use_ = read.extended_key_usage().unwrap().unwrap().value;
        assert_eq!((use_.client_auth, use_.server_auth), (true, false));
        let san = format!("{:?}", read.subject_alternative_name().unwrap().unwrap().value);
        assert!(san.contains("urn:blockremote:device:ten_1:BR-1") && !san.contains("admin"), "{san}");
        assert_eq!(read.public_key().subject_public_key.data.as_ref(), asked.key());
        assert_eq!(read.validity().not_after.timestamp(), made.expires_at.as_secs());
        assert_eq!(crate::crypto::hex(read.raw_serial()), made.serial);
        assert_eq!(sha256(&pem.contents), made.sha256);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let good = request(&KeyPair::generate().unwrap());
        let other_kind = request(&KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap());
        let mut forged: Vec<char> = good.chars().collect();
        let at = good.rfind("-----END").unwrap() - 8;
        forged[at] = if forged[at] == 'A' { 'B' } else { 'A' };
        let forged: String = forged.into_iter().collect();
        let long = format!("{good}{}", " ".repeat(REQUEST_BYTES_MAX));
        for bad in ["", "x", &good[..good.len() / 2], &other_kind, &forged, &long] {
            assert!(matches!(Request::from_pem(bad), Err(CertError::BadRequest)), "{bad}");
        }
    }
}
