//! Attestation objects: Apple says that a key lives in a Secure Enclave and belongs to an app.
//!
//! The certificate of the key names a nonce, SHA-256 of authenticator data and client data hash; that is what ties the
//! object to a challenge. Knows nothing of challenges: the caller brings the hash.

use base64ct::{Base64, Encoding};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::oid;

use super::ber::{self, BerError, Reader};
use super::{ApplePolicy, AppleRoots, Environment, authenticator, point_of_spki, spki_of_point};
use crate::attest::chain;
use crate::attest::{Claims, Refused};
use crate::crypto::cbor::{self, Value};
use crate::crypto::hex;
use crate::crypto::{constant_time_eq, sha256};
use crate::kernel::Timestamp;

/// Certificates of a statement: the key's, and the authority that issued it. The root is ours.
const CERTIFICATES: usize = 2;
/// Bytes of a client data hash. Everybody's is SHA-256, but for a sample that Apple printed, which has 24.
const CLIENT_DATA_HASH_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

/// One attestation object and what it is judged against.
#[derive(Clone, Copy, Debug)]
pub struct Attestation<'a> {
    /// Team id, a dot, and the bundle id, in their own case.
    pub app_id: &'a str,
    /// What the app gave to the system as hash of its client data; never derived here, because apps differ in what they
    /// hash. 16 to 64 bytes.
    pub client_data_hash: &'a [u8],
    /// The key's name as the app sent it: 32 bytes.
    pub key_id: &'a [u8],
    /// The environment that is expected; production where there is none.
    pub environment: Option<Environment>,
    /// The CBOR map that the app sent.
    pub object: &'a [u8],
}

/// What a genuine attestation says.
#[derive(Clone, PartialEq, Debug)]
pub struct Attested {
    /// SHA-256 of the key's point, under which later assertions are found.
    pub key_id: [u8; 32],
    /// The attested key as DER SubjectPublicKeyInfo: what assertions are verified with.
    pub public_key_spki: Vec<u8>,
    /// Where the app runs from.
    pub environment: Environment,
    /// The nonce that the certificate names.
    pub nonce: [u8; 32],
    /// As [`authenticator::AuthenticatorData::extension_claims`].
    pub extensions: Claims,
    /// Apple's receipt, not judged here: [`super::Receipt`] does it.
    pub receipt: Vec<u8>,
    /// Serial numbers of the chain, leaf first, in hex.
    pub serials: Vec<String>,
    /// The root that decided.
    pub root: String,
}

impl Attested {
    /// For the command line and the device's history. The receipt is left out: it is a secret between the app's maker
    /// and Apple.
    pub fn claims(&self) -> Claims {
        Claims::from_iter([
            ("key_id_b64".to_owned(), Base64::encode_string(&self.key_id).into()),
            ("public_key_spki_b64".to_owned(), Base64::encode_string(&self.public_key_spki).into()),
            ("environment".to_owned(), self.environment.as_str().into()),
            ("nonce_hex".to_owned(), hex(&self.nonce).into()),
            ("counter".to_owned(), 0.into()),
            ("extensions".to_owned(), self.extensions.clone().into()),
            ("serials".to_owned(), self.serials.clone().into()),
            ("root".to_owned(), self.root.as_str().into()),
        ])
    }
}

/// The parts of the object.
struct Object {
    x5c: Vec<Vec<u8>>,
    receipt: Vec<u8>,
    raw: Vec<u8>,
}

impl Attestation<'_> {
    /// Verifies the object. Its certificates are judged at `now`, the time of receipt: they live for days.
    ///
    /// # Errors
    /// [`Refused`] with the first rule that was broken, in the order of Apple's steps: `attestation_form`, `format`,
    /// `chain_shape` or a reason of [`chain::verify`], `authenticator_data`, `flags`, `client_data_hash`, `nonce`,
    /// `public_key`, `key_id`, `app_id`, `counter`, `environment`, `credential_id`.
    pub fn verify(&self, policy: &ApplePolicy, roots: &AppleRoots, now: Timestamp) -> Result<Attested, Refused> {
        let object = Object::read(self.object)?;
        let (data, credential) = authenticator::parse_attestation(&object.raw)?;
        let chain = chain::verify(&object.x5c, &roots.app_attestation, &chain::Rules::default(), now)?;
        let leaf = chain.leaf()?;

        let length = self.client_data_hash.len();
        if !CLIENT_DATA_HASH_BYTES.contains(&length) {
            return Err(Refused::new("client_data_hash", format!("the client data hash has {length} bytes")));
        }
        let nonce = sha256(&[&object.raw, self.client_data_hash].concat());
        if !constant_time_eq(&certified_nonce(leaf)?, &nonce) {
            return Err(Refused::new("nonce", "the certificate was made for other client data"));
        }
        let point = point_of_spki(leaf.public_key().raw)
            .ok_or_else(|| Refused::new("public_key", "the attested key is not an uncompressed point of P-256"))?;
        if point != credential.point {
            return Err(Refused::new("public_key", "the credential's key is not the certificate's"));
        }
        let key_id = sha256(&point);
        if !constant_time_eq(&key_id, self.key_id) {
            return Err(Refused::new("key_id", "the key id is not that of the attested key"));
        }
        if !constant_time_eq(&data.rp_id_hash, &sha256(self.app_id.as_bytes())) {
            return Err(Refused::new("app_id", "the key was made by another app"));
        }
        if data.counter != 0 {
            return Err(Refused::new("counter", format!("the counter of a new key is {}, not 0", data.counter)));
        }
        let environment = self.environment_of(&credential.aaguid, policy)?;
        if credential.id != key_id {
            return Err(Refused::new("credential_id", "the credential id is not the key id"));
        }
        Ok(Attested {
            key_id,
            public_key_spki: spki_of_point(&point),
            environment,
            nonce,
            extensions: data.extension_claims(),
            receipt: object.receipt,
            serials: chain.serials(),
            root: chain.anchor().to_owned(),
        })
    }

    fn environment_of(&self, aaguid: &[u8; 16], policy: &ApplePolicy) -> Result<Environment, Refused> {
        let found = match aaguid {
            b"appattestdevelop" => Environment::Development,
            b"appattest\0\0\0\0\0\0\0" => Environment::Production,
            _ => return Err(Refused::new("environment", "the authenticator's model is none of App Attest")),
        };
        let expected =
            self.environment.or(if policy.environments.is_none() { Some(Environment::Production) } else { None });
        if expected.is_some_and(|expected| expected != found) || !policy.takes(found) {
            return Err(Refused::new("environment", format!("the key is of the {} environment", found.as_str())));
        }
        Ok(found)
    }
}

impl Object {
    fn read(bytes: &[u8]) -> Result<Self, Refused> {
        let map = cbor::read(bytes).map_err(|e| form(&format!("the attestation object {e}")))?;
        let (Some(fmt), Some(statement), Some(raw)) = (
            map.member("fmt").and_then(Value::as_text),
            map.member("attStmt").filter(|statement| statement.as_map().is_some()),
            map.member("authData").and_then(Value::as_bytes),
        ) else {
            return Err(form("the attestation object is not a map of fmt, attStmt and authData"));
        };
        if fmt != "apple-appattest" {
            return Err(Refused::new("format", "the attestation is not of the format apple-appattest"));
        }
        let (Some(x5c), Some(receipt)) =
            (statement.member("x5c").and_then(Value::as_array), statement.member("receipt").and_then(Value::as_bytes))
        else {
            return Err(form("the statement is not a map of x5c and receipt"));
        };
        let x5c: Option<Vec<Vec<u8>>> = x5c.iter().map(|item| item.as_bytes().map(<[u8]>::to_vec)).collect();
        match x5c {
            Some(x5c) if x5c.len() == CERTIFICATES => Ok(Self { x5c, receipt: receipt.to_vec(), raw: raw.to_vec() }),
            _ => Err(Refused::new("chain_shape", "x5c is not the key's certificate and its issuer's")),
        }
    }
}

/// Extension 1.2.840.113635.100.8.2 of the key's certificate: a SEQUENCE of one `[1]` that holds an OCTET STRING.
fn certified_nonce(leaf: &X509Certificate<'_>) -> Result<[u8; 32], Refused> {
    let refused = |detail: &str| Refused::new("nonce", detail.to_owned());
    let extension = leaf
        .get_extension_unique(&oid!(1.2.840.113635.100.8.2))
        .ok()
        .flatten()
        .ok_or_else(|| refused("the certificate names no nonce"))?;
    let walk = |bytes| -> Result<&[u8], BerError> {
        let mut outer = Reader::new(bytes, ber::Rules::Der)?;
        let mut sequence = outer.enter(ber::SEQUENCE)?;
        outer.end()?;
        let mut tagged = sequence.enter(ber::context(1))?;
        sequence.end()?;
        let octets = tagged.take(ber::OCTET_STRING)?.body;
        tagged.end()?;
        Ok(octets)
    };
    let octets = walk(extension.value).map_err(|e| refused(&format!("the certificate's nonce {e}")))?;
    octets.try_into().map_err(|_| refused("the certificate's nonce does not have 32 bytes"))
}

fn form(detail: &str) -> Refused {
    Refused::new("attestation_form", detail)
}
