//! Assertions: an attested key signs the app's client data and a rising counter.
//!
//! The signature's message is the nonce, SHA-256 of authenticator data and SHA-256 of client data, so what ECDSA sees is
//! the digest of that digest. The key comes from the caller, who stored it at the attestation: an assertion carries none.
//! Knows nothing of where keys and counters are kept.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};

use super::{authenticator, point_of_spki};
use crate::attest::{Claims, Refused};
use crate::crypto::cbor::{self, Value};
use crate::crypto::{constant_time_eq, sha256};

/// Bytes of one ECDSA signature on P-256 in DER.
const SIGNATURE_BYTES_MAX: usize = 72;

/// One assertion and what it is judged against.
#[derive(Clone, Copy, Debug)]
pub struct Assertion<'a> {
    /// Team id, a dot, and the bundle id, in their own case.
    pub app_id: &'a str,
    /// The attested key as DER SubjectPublicKeyInfo, from storage and never from the request.
    pub public_key_spki: &'a [u8],
    /// What the app signed, before hashing.
    pub client_data: &'a [u8],
    /// The counter of the last assertion that was accepted; 0 after an attestation.
    pub previous_counter: u32,
    /// The CBOR map that the app sent.
    pub assertion: &'a [u8],
}

/// What a genuine assertion says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asserted {
    /// The counter to store, in the transaction that uses the assertion.
    pub counter: u32,
    /// As [`authenticator::AuthenticatorData::extension_claims`].
    pub extensions: Claims,
}

impl Asserted {
    /// For the command line and the device's history.
    pub fn claims(&self) -> Claims {
        Claims::from_iter([
            ("counter".to_owned(), self.counter.into()),
            ("extensions".to_owned(), self.extensions.clone().into()),
        ])
    }
}

impl Assertion<'_> {
    /// Verifies the assertion.
    ///
    /// # Errors
    /// [`Refused`] with the first rule that was broken: `assertion_form`, `flags`, `authenticator_data`, `public_key`,
    /// `signature`, `app_id`, `counter`. The counter is judged last: that refusal means that all else was genuine, and
    /// somebody repeats an assertion or holds a copy of the key.
    pub fn verify(&self) -> Result<Asserted, Refused> {
        let map = cbor::read(self.assertion).map_err(|e| form(&format!("the assertion {e}")))?;
        let bytes = |name| map.member(name).and_then(Value::as_bytes);
        let (Some(signature), Some(raw)) = (bytes("signature"), bytes("authenticatorData")) else {
            return Err(form("the assertion is not a map of signature and authenticatorData"));
        };
        let data = authenticator::parse_assertion(raw)?;
        let point = point_of_spki(self.public_key_spki).ok_or_else(|| {
            Refused::new("public_key", "the stored key is not a P-256 key in DER SubjectPublicKeyInfo")
        })?;
        let nonce = sha256(&[raw, &sha256(self.client_data)].concat());
        let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .map_err(|_| Refused::new("public_key", "the stored key is not a point of P-256"))?;
        if signature.len() > SIGNATURE_BYTES_MAX || key.verify_sig(&nonce, signature).is_err() {
            return Err(Refused::new("signature", "the signature is not the attested key's over this client data"));
        }
        if !constant_time_eq(&data.rp_id_hash, &sha256(self.app_id.as_bytes())) {
            return Err(Refused::new("app_id", "the assertion was made by another app"));
        }
        if data.counter <= self.previous_counter {
            let (last, now) = (self.previous_counter, data.counter);
            return Err(Refused::new("counter", format!("the counter went from {last} to {now}; it must rise")));
        }
        Ok(Asserted { counter: data.counter, extensions: data.extension_claims() })
    }
}

fn form(detail: &str) -> Refused {
    Refused::new("assertion_form", detail)
}
