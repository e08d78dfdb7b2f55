//! Made-up authorities for the tests of every format: chains that are right but for one thing.
#![expect(clippy::unwrap_used, reason = "tests")]

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SerialNumber,
};

/// A certificate to be made.
pub struct Plan {
    /// As rcgen wants it.
    pub params: CertificateParams,
}

impl Plan {
    /// An authority of this name, valid from 2020 to 2040.
    pub fn authority(name: &str) -> Self {
        let mut plan = Self::leaf(name);
        plan.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        plan.params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        plan
    }

    /// An end entity of this name, valid from 2020 to 2040.
    pub fn leaf(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        params.serial_number = Some(SerialNumber::from(7_u64));
        Self { params }
    }

    /// Valid from the first day of one year to that of another.
    #[must_use]
    pub fn years(mut self, from: i32, to: i32) -> Self {
        self.params.not_before = rcgen::date_time_ymd(from, 1, 1);
        self.params.not_after = rcgen::date_time_ymd(to, 1, 1);
        self
    }

    /// With one more extension.
    #[must_use]
    pub fn extension(mut self, oid: &[u64], critical: bool, content: Vec<u8>) -> Self {
        let mut extension = CustomExtension::from_oid_content(oid, content);
        extension.set_criticality(critical);
        self.params.custom_extensions.push(extension);
        self
    }

    /// With something else changed.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        change(&mut self.params);
        self
    }

    /// Made with a key of its own, signed by itself.
    pub fn root(self) -> Signer {
        let key = KeyPair::generate().unwrap();
        let der = self.params.self_signed(&key).unwrap().der().to_vec();
        Signer { params: self.params, key, der }
    }

    /// Made with a key of its own, signed by `issuer`.
    pub fn under(self, issuer: &Signer) -> Signer {
        let key = KeyPair::generate().unwrap();
        let der = self.of_key(&key, issuer);
        Signer { params: self.params, key, der }
    }

    /// Made for somebody's key, signed by `issuer`.
    pub fn of_key(&self, key: &impl PublicKeyData, issuer: &Signer) -> Vec<u8> {
        let issuer = Issuer::from_params(&issuer.params, &issuer.key);
        self.params.signed_by(key, &issuer).unwrap().der().to_vec()
    }
}

/// A certificate and its private key.
pub struct Signer {
    params: CertificateParams,
    /// The private key.
    pub key: KeyPair,
    /// The certificate.
    pub der: Vec<u8>,
}

/// DER of a value: tag, length, content.
pub fn der(tag: &[u8], content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = tag.to_vec();
    if length < 128 {
        out.push(u8::try_from(length).unwrap());
    } else {
        let bytes: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
        out.push(0x80 | u8::try_from(bytes.len()).unwrap());
        out.extend(bytes);
    }
    out.extend_from_slice(content);
    out
}
