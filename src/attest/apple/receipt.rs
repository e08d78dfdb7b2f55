//! Receipts: what Apple says about an attested key over time, and how many keys a device has made (the risk metric).
//!
//! A receipt is a CMS message of a signer whom Apple marks for this purpose; without that mark any certificate below the
//! same root, such as one for payments, could write receipts. Knows nothing of asking Apple for the next one.

use base64ct::{Base64, Encoding};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::oid;
use x509_parser::prelude::FromDer;

use super::ber::{self, BerError, Reader};
use super::cms::SignedData;
use super::{ApplePolicy, AppleRoots, Environment, point_of_spki};
use crate::attest::chain;
use crate::attest::{Claims, Refused};
use crate::crypto::hex;
use crate::crypto::sha256;
use crate::kernel::Timestamp;
use std::time::Duration;

/// Fields of one receipt. Real ones have eight or ten.
const FIELDS_MAX: usize = 64;

// Numbers of fields ("Assessing fraud risk"); 7 is not documented there and is in every receipt.
const APP_ID: u8 = 2;
const ATTESTED_CERTIFICATE: u8 = 3;
const CLIENT_HASH: u8 = 4;
const TOKEN: u8 = 5;
const KIND: u8 = 6;
const ENVIRONMENT: u8 = 7;
const CREATED: u8 = 12;
const RISK_METRIC: u8 = 17;
const NOT_BEFORE: u8 = 19;
const EXPIRES: u8 = 21;

/// One receipt and what it is judged against.
#[derive(Clone, Copy, Debug)]
pub struct Receipt<'a> {
    /// Team id, a dot, and the bundle id, in their own case.
    pub app_id: &'a str,
    /// The attested key as DER SubjectPublicKeyInfo, from storage; without it, whose key it is stays the caller's matter.
    pub public_key_spki: Option<&'a [u8]>,
    /// The environment that is expected; any where there is none.
    pub environment: Option<Environment>,
    /// The CMS message.
    pub receipt: &'a [u8],
}

/// What a receipt came with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReceiptKind {
    /// With an attestation: it has no risk metric.
    Attest,
    /// From Apple's server, in exchange for an earlier one.
    Receipt,
}

impl ReceiptKind {
    /// As Apple writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attest => "ATTEST",
            Self::Receipt => "RECEIPT",
        }
    }
}

/// What a genuine receipt says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Received {
    /// What it came with.
    pub kind: ReceiptKind,
    /// Where the app runs from, when the receipt says so.
    pub environment: Option<Environment>,
    /// The attested key as DER SubjectPublicKeyInfo.
    pub public_key_spki: Vec<u8>,
    /// SHA-256 of the key's certificate.
    pub attested_leaf_sha256: [u8; 32],
    /// What the app gave as hash at the attestation. Apple's server returns it damaged in later receipts.
    pub client_hash: Vec<u8>,
    /// Apple's name for the key.
    pub token: Option<String>,
    /// How many keys the device made for this app within the last 30 days, about.
    pub risk_metric: Option<u32>,
    /// When Apple made it.
    pub created_at: Timestamp,
    /// From when on Apple exchanges it for the next one.
    pub not_before: Option<Timestamp>,
    /// Until when.
    pub expires_at: Timestamp,
    /// The root that decided.
    pub root: String,
}

impl Received {
    /// For the command line and the device's history. `token_b64` is a claim because it names the key to nobody but
    /// Apple.
    pub fn claims(&self) -> Claims {
        let time = |t: Option<Timestamp>| t.map(|t| t.to_string());
        Claims::from_iter([
            ("type".to_owned(), self.kind.as_str().into()),
            ("environment".to_owned(), self.environment.map(receipt_environment).into()),
            ("public_key_spki_b64".to_owned(), Base64::encode_string(&self.public_key_spki).into()),
            ("attested_leaf_sha256".to_owned(), hex(&self.attested_leaf_sha256).into()),
            ("client_hash_hex".to_owned(), hex(&self.client_hash).into()),
            ("token_b64".to_owned(), self.token.clone().into()),
            ("risk_metric".to_owned(), self.risk_metric.into()),
            ("creation_time".to_owned(), self.created_at.to_string().into()),
            ("not_before".to_owned(), time(self.not_before).into()),
            ("expiration_time".to_owned(), self.expires_at.to_string().into()),
            ("root".to_owned(), self.root.as_str().into()),
        ])
    }
}

const fn receipt_environment(environment: Environment) -> &'static str {
    match environment {
        Environment::Development => "sandbox",
        Environment::Production => "production",
    }
}

impl Receipt<'_> {
    /// Verifies the receipt. The signer's certificates are judged at `now`, as its age is.
    ///
    /// # Errors
    /// [`Refused`] with the first rule that was broken: `receipt_form`, `receipt_signer`, a reason of
    /// [`chain::verify_parsed`], `signature`, `receipt_field`, `app_id`, `environment`, `public_key`, `receipt_too_old`,
    /// `receipt_from_the_future`, `receipt_expired`.
    pub fn verify(&self, policy: &ApplePolicy, roots: &AppleRoots, now: Timestamp) -> Result<Received, Refused> {
        let form = |e: &dyn std::fmt::Display| Refused::new("receipt_form", e.to_string());
        let message = SignedData::parse(self.receipt).map_err(|e| form(&e))?;
        let root = verify_signer(&message, roots, now)?;
        let received = read_fields(&message.content, self.app_id, root)?;
        if received.environment.is_some_and(|found| !policy.takes(found))
            || self.environment.is_some_and(|expected| received.environment != Some(expected))
            || received.environment.is_none() && policy.environments.is_some()
        {
            return Err(Refused::new("environment", "the receipt is of another environment"));
        }
        if self.public_key_spki.is_some_and(|expected| received.public_key_spki != expected) {
            return Err(Refused::new("public_key", "the receipt is for another key"));
        }
        check_times(&received, policy, now)?;
        Ok(received)
    }
}

/// Who signed may do so, and did. Returns the root that decided.
fn verify_signer(message: &SignedData<'_>, roots: &AppleRoots, now: Timestamp) -> Result<String, Refused> {
    let refused = |detail: &str| Refused::new("receipt_signer", detail.to_owned());
    let ders: Vec<Vec<u8>> = message.certificates.iter().map(|der| der.to_vec()).collect();
    let mut bag = chain::parse(&ders)?;
    let is_signer = |c: &X509Certificate<'_>| c.issuer().as_raw() == message.issuer && c.raw_serial() == message.serial;
    let at = bag.iter().position(is_signer).ok_or_else(|| refused("the signer's certificate is not in the message"))?;
    let signer = bag.swap_remove(at);
    let at = bag
        .iter()
        .position(|c| c.subject().as_raw() == signer.issuer().as_raw())
        .ok_or_else(|| refused("the certificate of the signer's issuer is not in the message"))?;
    let issuer = bag.swap_remove(at);
    if signer.get_extension_unique(&oid!(1.2.840.113635.100.12.15)).ok().flatten().is_none() {
        return Err(refused("the signer is not one whom Apple lets sign receipts"));
    }
    let chain = chain::verify_parsed(vec![signer, issuer], &roots.receipts, &chain::Rules::default(), now)?;
    let signed = point_of_spki(chain.leaf()?.public_key().raw).is_some_and(|point| message.is_signed_by(&point));
    if !signed {
        return Err(Refused::new("signature", "the receipt's signature is not its signer's"));
    }
    Ok(chain.anchor().to_owned())
}

/// The values of the fields, each number at most once.
struct Fields<'a>(Vec<(u8, &'a [u8])>);

impl<'a> Fields<'a> {
    fn read(content: &'a [u8]) -> Result<Self, Refused> {
        let walk = || -> Result<Vec<(u8, &'a [u8])>, BerError> {
            let mut outer = Reader::new(content, ber::Rules::Der)?;
            let mut set = outer.enter(ber::SET)?;
            outer.end()?;
            let mut fields = Vec::new();
            while !set.is_empty() && fields.len() < FIELDS_MAX {
                let mut field = set.enter(ber::SEQUENCE)?;
                let number = field.take(ber::INTEGER)?.body;
                field.take(ber::INTEGER)?;
                let value = field.take(ber::OCTET_STRING)?.body;
                field.end()?;
                match number {
                    // Numbers above 127 would be new ones.
                    [number] if *number < 0x80 => fields.push((*number, value)),
                    _ => {}
                }
            }
            set.end()?;
            Ok(fields)
        };
        let fields = walk().map_err(|e| field(&format!("the receipt's content {e}")))?;
        let twice = |(at, (number, _)): (usize, &(u8, &[u8]))| fields.iter().skip(at + 1).any(|(n, _)| n == number);
        if fields.iter().enumerate().any(twice) {
            return Err(field("the receipt has a field twice"));
        }
        Ok(Self(fields))
    }

    fn get(&self, wanted: u8) -> Option<&'a [u8]> {
        self.0.iter().find(|(number, _)| *number == wanted).map(|(_, value)| *value)
    }

    fn text(&self, wanted: u8) -> Result<Option<&'a str>, Refused> {
        let read = |value| std::str::from_utf8(value).map_err(|_| field(&format!("field {wanted} is not a text")));
        self.get(wanted).map(read).transpose()
    }

    fn parsed<T: std::str::FromStr>(&self, wanted: u8) -> Result<Option<T>, Refused> {
        let read = |text: &str| text.parse().map_err(|_| field(&format!("field {wanted} cannot be read")));
        self.text(wanted)?.map(read).transpose()
    }
}

fn read_fields(content: &[u8], app_id: &str, root: String) -> Result<Received, Refused> {
    let fields = Fields::read(content)?;
    let missing = |number: u8| move || field(&format!("field {number} is missing"));
    if fields.get(APP_ID).ok_or_else(missing(APP_ID))? != app_id.as_bytes() {
        return Err(Refused::new("app_id", "the receipt is for another app"));
    }
    let kind = match fields.get(KIND).ok_or_else(missing(KIND))? {
        b"ATTEST" => ReceiptKind::Attest,
        b"RECEIPT" => ReceiptKind::Receipt,
        _ => return Err(field("the receipt is of a kind that is not known")),
    };
    let environment = match fields.get(ENVIRONMENT) {
        None => None,
        Some(b"sandbox") => Some(Environment::Development),
        Some(b"production") => Some(Environment::Production),
        Some(_) => return Err(field("the receipt is of an environment that is not known")),
    };
    let leaf = fields.get(ATTESTED_CERTIFICATE).ok_or_else(missing(ATTESTED_CERTIFICATE))?;
    let public_key_spki = match X509Certificate::from_der(leaf) {
        Ok(([], certificate)) if point_of_spki(certificate.public_key().raw).is_some() => {
            certificate.public_key().raw.to_vec()
        }
        _ => return Err(field("the attested key is not a certificate of a P-256 key")),
    };
    Ok(Received {
        kind,
        environment,
        public_key_spki,
        attested_leaf_sha256: sha256(leaf),
        client_hash: fields.get(CLIENT_HASH).unwrap_or_default().to_vec(),
        token: fields.text(TOKEN)?.map(str::to_owned),
        risk_metric: fields.parsed(RISK_METRIC)?,
        created_at: fields.parsed(CREATED)?.ok_or_else(missing(CREATED))?,
        not_before: fields.parsed(NOT_BEFORE)?,
        expires_at: fields.parsed(EXPIRES)?.ok_or_else(missing(EXPIRES))?,
        root,
    })
}

/// `not_before` is no bound here: it says from when on Apple exchanges the receipt.
fn check_times(received: &Received, policy: &ApplePolicy, now: Timestamp) -> Result<(), Refused> {
    let created = received.created_at;
    if created > now.plus(Duration::from_secs(policy.clock_ahead_max_s)) {
        return Err(Refused::new("receipt_from_the_future", format!("the receipt was made at {created}, after now")));
    }
    if now.since(created) > Duration::from_secs(policy.receipt_age_max_s) {
        return Err(Refused::new("receipt_too_old", format!("the receipt was made at {created}; ask for a newer one")));
    }
    if now >= received.expires_at {
        return Err(Refused::new("receipt_expired", format!("the receipt was valid until {}", received.expires_at)));
    }
    Ok(())
}

fn field(detail: &str) -> Refused {
    Refused::new("receipt_field", detail)
}
