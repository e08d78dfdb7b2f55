//! An authenticator in software: registers and uses ES256 passkeys as a browser hands them over, and can be told to lie.
//!
//! Knows the format (Web Authentication Level 3) and nothing of how the appliance checks it.

use std::convert::Infallible;

use base64ct::{Base64UrlUnpadded, Encoding};
use minicbor::Encoder;
use minicbor::encode::Error as EncodeError;
use rcgen::{CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};

use super::Fault;
use super::hardware::{AndroidState, Maker, android_key};
use crate::attest::chain::parse_pem_chain;
use crate::crypto::{SigningKey, sha256};
use crate::kernel::Random;

/// One passkey of one user, with the browser in front of it. The public fields are what a test may turn.
pub struct Passkey {
    key: SigningKey,
    /// The id under which the credential is registered.
    pub credential_id: Vec<u8>,
    /// Whose id is hashed into the authenticator data.
    pub rp_id: String,
    /// The origin that the browser states.
    pub origin: String,
    /// `crossOrigin` in the client data.
    pub cross_origin: bool,
    /// The counter of the last ceremony; the next one shows one more. Set it back to play a clone.
    pub counter: u32,
    /// Off: the counter stays as it is, as with synced passkeys, which keep it at zero.
    pub counts: bool,
    /// Flag UP.
    pub user_present: bool,
    /// Flag UV.
    pub user_verified: bool,
    /// Flag BE.
    pub backup_eligible: bool,
    /// Flag BS.
    pub backed_up: bool,
    /// What it returns as `userHandle`: `user.id` of the registration's options.
    pub user_handle: Option<Vec<u8>>,
}

impl Passkey {
    /// A fresh one that tells the truth: user present and verified, not backed up, counting from zero.
    pub fn new(rp_id: &str, origin: &str, random: &Random) -> Self {
        Self {
            key: SigningKey::generate(random),
            credential_id: random.bytes::<32>().to_vec(),
            rp_id: rp_id.to_owned(),
            origin: origin.to_owned(),
            cross_origin: false,
            counter: 0,
            counts: true,
            user_present: true,
            user_verified: true,
            backup_eligible: false,
            backed_up: false,
            user_handle: None,
        }
    }

    /// The credential's id as JSON carries it.
    pub fn id(&self) -> String {
        b64(&self.credential_id)
    }

    /// Answers the options of a registration: `RegistrationResponseJSON` (section 5.1), without attestation.
    pub fn register(&mut self, challenge_b64url: &str) -> Value {
        let client_data = self.client_data("webauthn.create", challenge_b64url);
        let data = self.registration_data();
        let object = cbor(|e| {
            e.map(3)?.str("fmt")?.str("none")?.str("attStmt")?.map(0)?.str("authData")?.bytes(&data)?;
            Ok(())
        });
        self.registration(&client_data, &data, &object)
    }

    /// As [`Self::register`], with a statement that the new credential signs itself (`packed`, section 8.2).
    pub fn register_attested(&mut self, challenge_b64url: &str) -> Value {
        let client_data = self.client_data("webauthn.create", challenge_b64url);
        let data = self.registration_data();
        let signature = self.sign(&data, &client_data);
        let object = cbor(|e| {
            e.map(3)?.str("fmt")?.str("packed")?.str("attStmt")?.map(2)?.str("alg")?.i64(-7)?;
            e.str("sig")?.bytes(&signature)?.str("authData")?.bytes(&data)?;
            Ok(())
        });
        self.registration(&client_data, &data, &object)
    }

    /// As [`Self::register_attested`], with a certificate of a make that this very moment made up (section 8.2.1).
    pub fn register_certified(&mut self, challenge_b64url: &str) -> Result<Value, Fault> {
        let client_data = self.client_data("webauthn.create", challenge_b64url);
        let data = self.registration_data();
        let make = SigningKey::generate(&Random::System);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::ExplicitNoCa;
        params.distinguished_name = DistinguishedName::new();
        for (part, text) in [
            (DnType::CountryName, "US"),
            (DnType::OrganizationName, "Made up"),
            (DnType::OrganizationalUnitName, "Authenticator Attestation"),
            (DnType::CommonName, "One"),
        ] {
            params.distinguished_name.push(part, text);
        }
        let pair = KeyPair::from_pem_and_sign_algo(&make.to_pkcs8_pem()?, &PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.self_signed(&pair)?.der().to_vec();
        let signature = signature(&make, &data, &client_data);
        let object = cbor(|e| {
            e.map(3)?.str("fmt")?.str("packed")?.str("attStmt")?.map(3)?.str("alg")?.i64(-7)?;
            e.str("sig")?.bytes(&signature)?.str("x5c")?.array(1)?.bytes(&certificate)?;
            e.str("authData")?.bytes(&data)?;
            Ok(())
        });
        Ok(self.registration(&client_data, &data, &object))
    }

    /// As [`Self::register_attested`], with what a phone of this maker says of its key (`android-key`, section 8.4).
    pub fn register_android(
        &mut self,
        challenge_b64url: &str,
        maker: &Maker,
        state: AndroidState,
    ) -> Result<Value, Fault> {
        let client_data = self.client_data("webauthn.create", challenge_b64url);
        let data = self.registration_data();
        let chain = android_key(maker, &self.key, state, &sha256(&client_data))?;
        let chain = parse_pem_chain(chain.get("chain_pem").and_then(Value::as_str).unwrap_or_default())?;
        let signature = self.sign(&data, &client_data);
        let object = cbor(|e| {
            e.map(3)?.str("fmt")?.str("android-key")?.str("attStmt")?.map(3)?.str("alg")?.i64(-7)?;
            e.str("sig")?.bytes(&signature)?.str("x5c")?.array(chain.len() as u64)?;
            chain.iter().try_for_each(|certificate| e.bytes(certificate).map(drop))?;
            e.str("authData")?.bytes(&data)?;
            Ok(())
        });
        Ok(self.registration(&client_data, &data, &object))
    }

    fn registration(&self, client_data: &[u8], data: &[u8], object: &[u8]) -> Value {
        json!({
            "id": self.id(),
            "rawId": self.id(),
            "type": "public-key",
            "authenticatorAttachment": "platform",
            "clientExtensionResults": {},
            "response": {
                "clientDataJSON": b64(client_data),
                "attestationObject": b64(object),
                "authenticatorData": b64(data),
                "transports": ["internal"],
                "publicKeyAlgorithm": -7,
            },
        })
    }

    /// Answers the options of an authentication: `AuthenticationResponseJSON` (section 5.1).
    pub fn assert(&mut self, challenge_b64url: &str) -> Value {
        let client_data = self.client_data("webauthn.get", challenge_b64url);
        let data = self.authenticator_data(0, &[]);
        let signature = self.sign(&data, &client_data);
        let mut response = json!({
            "clientDataJSON": b64(&client_data),
            "authenticatorData": b64(&data),
            "signature": b64(&signature),
        });
        if let (Some(handle), Some(members)) = (&self.user_handle, response.as_object_mut()) {
            members.insert("userHandle".to_owned(), Value::from(b64(handle)));
        }
        json!({
            "id": self.id(),
            "rawId": self.id(),
            "type": "public-key",
            "authenticatorAttachment": "platform",
            "clientExtensionResults": {},
            "response": response,
        })
    }

    /// The client data JSON of a ceremony.
    pub fn client_data(&self, ceremony: &str, challenge_b64url: &str) -> Vec<u8> {
        // The order of section 5.8.1.1; `to_string` of a map would sort the members.
        let quoted = |text: &str| Value::from(text).to_string();
        format!(
            r#"{{"type":{},"challenge":{},"origin":{},"crossOrigin":{}}}"#,
            quoted(ceremony),
            quoted(challenge_b64url),
            quoted(&self.origin),
            self.cross_origin
        )
        .into_bytes()
    }

    /// The authenticator data of a registration; counts.
    pub fn registration_data(&mut self) -> Vec<u8> {
        let length = u16::try_from(self.credential_id.len()).unwrap_or(u16::MAX).to_be_bytes();
        let credential = [&[0; 16][..], &length, &self.credential_id, &self.public_key_cose()].concat();
        self.authenticator_data(0x40, &credential)
    }

    /// The authenticator data with further flags (AT 0x40, ED 0x80) and what they announce; counts.
    pub fn authenticator_data(&mut self, more_flags: u8, more: &[u8]) -> Vec<u8> {
        if self.counts {
            self.counter = self.counter.wrapping_add(1);
        }
        let flags = [
            (self.user_present, 0x01),
            (self.user_verified, 0x04),
            (self.backup_eligible, 0x08),
            (self.backed_up, 0x10),
        ];
        let flags = flags.iter().filter(|(on, _)| *on).fold(more_flags, |bits, (_, bit)| bits | bit);
        [&sha256(self.rp_id.as_bytes())[..], &[flags], &self.counter.to_be_bytes(), more].concat()
    }

    /// The public key as COSE_Key.
    pub fn public_key_cose(&self) -> Vec<u8> {
        let point = self.key.verifying().to_sec1();
        let (x, y) = point.split_at(33);
        let x = x.get(1..).unwrap_or_default();
        cbor(|e| {
            e.map(5)?.i64(1)?.i64(2)?.i64(3)?.i64(-7)?.i64(-1)?.i64(1)?.i64(-2)?.bytes(x)?.i64(-3)?.bytes(y)?;
            Ok(())
        })
    }

    /// Signs authenticator data and the hash of client data: ASN.1 DER.
    pub fn sign(&self, authenticator_data: &[u8], client_data: &[u8]) -> Vec<u8> {
        signature(&self.key, authenticator_data, client_data)
    }
}

fn b64(bytes: &[u8]) -> String {
    Base64UrlUnpadded::encode_string(bytes)
}

/// DER, as authenticators sign (section 6.5.5).
fn signature(key: &SigningKey, authenticator_data: &[u8], client_data: &[u8]) -> Vec<u8> {
    let raw = key.sign(&[authenticator_data, &sha256(client_data)].concat());
    let (r, s) = raw.split_at(32);
    let body = [der_integer(r), der_integer(s)].concat();
    [&[0x30, length_byte(&body)][..], &body].concat()
}

/// A positive INTEGER without superfluous zeros.
fn der_integer(magnitude: &[u8]) -> Vec<u8> {
    let zeros = magnitude.iter().take_while(|b| **b == 0).count();
    let mut body = magnitude.get(zeros..).unwrap_or_default().to_vec();
    if body.first().is_none_or(|b| *b >= 0x80) {
        body.insert(0, 0);
    }
    [&[0x02, length_byte(&body)][..], &body].concat()
}

/// Everything in a P-256 signature is shorter than 128 bytes.
fn length_byte(body: &[u8]) -> u8 {
    u8::try_from(body.len()).unwrap_or(u8::MAX)
}

#[expect(clippy::panic, reason = "writing to memory cannot fail")]
fn cbor(write: impl FnOnce(&mut Encoder<Vec<u8>>) -> Result<(), EncodeError<Infallible>>) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    match write(&mut encoder) {
        Ok(()) => encoder.into_writer(),
        Err(e) => panic!("{e}"),
    }
}
