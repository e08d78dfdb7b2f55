//! From a request's members to a verdict about them, on threads of their own.

use std::str::FromStr;

use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::{Map, Value};

use super::formats::{self, Expected};
use super::{Attestation, Level, tpm};
use crate::attest::apple::{Environment, Received};
use crate::attest::cases::Kind as CaseKind;
use crate::attest::{Claims, Refused};
use crate::crypto::{Jwk, VerifyingKey, sha256};
use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::{Refusal, Result};

/// What evidence is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EvidenceKind {
    /// A signature by the enrolled key.
    Software,
    /// As the command line judges it.
    Format(CaseKind),
}

impl EvidenceKind {
    /// As on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Software => "software",
            Self::Format(kind) => kind.name(),
        }
    }
}

impl FromStr for EvidenceKind {
    type Err = &'static str;
    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        use CaseKind::{AndroidKey, AppleAssertion, AppleAttestation, PlayIntegrity, TpmQuote};
        const BAD: &str = "is not a type that a device attests by: software, android-key, apple-attestation, \
                           apple-assertion, play-integrity, tpm-quote";
        if text == "software" {
            return Ok(Self::Software);
        }
        match text.parse::<CaseKind>() {
            Ok(kind @ (AndroidKey | AppleAttestation | AppleAssertion | PlayIntegrity | TpmQuote)) => {
                Ok(Self::Format(kind))
            }
            _ => Err(BAD),
        }
    }
}

/// Evidence as it was sent.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// Of what.
    pub kind: EvidenceKind,
    /// The nonce that it answers, as it was handed out.
    pub nonce: String,
    /// All members, the two above included.
    pub members: Map<String, Value>,
}

impl Evidence {
    /// Reads the members of an `attestation` object.
    ///
    /// # Errors
    /// 422 at the member, below `pointer`.
    pub fn of(members: Map<String, Value>, pointer: &str) -> Result<Self> {
        let at = |name: &str| format!("{pointer}/{name}");
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        let kind = text("type").ok_or_else(|| Refusal::invalid(at("type"), "is required and must be a text"))?;
        let kind = kind.parse().map_err(|e: &str| Refusal::invalid(at("type"), e))?;
        let nonce = text("nonce").ok_or_else(|| Refusal::invalid(at("nonce"), "is required and must be a text"))?;
        if nonce.len() != 43 {
            return Err(Refusal::invalid(at("nonce"), "is not a nonce of this appliance").into());
        }
        Ok(Self { kind, nonce: nonce.to_owned(), members })
    }
}

/// Evidence with what was found. Whether its nonce is good is for the commit to say.
pub struct Judged {
    pub(super) kind: &'static str,
    pub(super) nonce_hash: [u8; 32],
    pub(super) body_hash: String,
    pub(super) verdict: std::result::Result<Proven, Refused>,
}

impl Judged {
    /// Whether the evidence holds; its nonce may still be bad.
    pub const fn holds(&self) -> bool {
        self.verdict.is_ok()
    }

    /// Whether it proves that this key made it, and nothing else.
    pub fn is_by(&self, key: &Jwk) -> bool {
        self.kind == "software"
            && self.verdict.as_ref().is_ok_and(|proven| proven.signer.is_some() && proven.fits(Some(key)))
    }

    /// How well the proven key is kept.
    pub fn level(&self) -> Level {
        self.verdict.as_ref().map_or(Level::None, |proven| proven.level)
    }
}

/// What was proven.
#[derive(Clone)]
pub(super) struct Proven {
    pub level: Level,
    pub claims: Claims,
    /// DER SubjectPublicKeyInfo of the attested key, where there is one beside the enrolled key.
    pub spki: Option<Vec<u8>>,
    /// The root that decided.
    pub root: Option<String>,
    /// The list of revoked certificates that decided.
    pub list: Option<String>,
    /// The JWK thumbprint of the key that signed as the enrolled one, where one did. Whether it still is the device's is
    /// for the commit to say.
    pub signer: Option<String>,
    pub key: ProvenKey,
}

impl Proven {
    /// Whether nobody signed, or this key: of the device as it is now, not as it was when the signature was looked at.
    pub fn fits(&self, enrolled: Option<&Jwk>) -> bool {
        let thumbprint = || VerifyingKey::from_jwk(enrolled?).ok().map(|key| key.thumbprint());
        self.signer.is_none() || self.signer == thumbprint()
    }
}

/// What a proof says of a key that is remembered, beside being a proof.
#[derive(Clone)]
pub(super) enum ProvenKey {
    /// Nothing.
    Other,
    /// Later assertions are made with it.
    AppAttest { environment: Environment, receipt: Option<(Received, Vec<u8>)> },
    /// It was used, and counted this far. Whether that is further than before is for the commit to say.
    Asserted { counter: u32 },
    /// It quoted. Whether its counters rose is for the commit to say.
    Tpm(Box<tpm::Shown>),
}

/// What a device signs, or hashes into its challenge.
pub(super) fn challenge(tenant: TenantId, device: &DeviceId, nonce: &str) -> Vec<u8> {
    format!("blockremote-attest-v1\n{tenant}\n{device}\n{nonce}").into_bytes()
}

impl Attestation {
    /// Judges evidence of a device on the pool's threads. `enrolled_key` is the key that it enrolled, or enrolls now.
    ///
    /// # Errors
    /// 503 `overloaded`. Evidence that does not hold is no error here: it counts in the commit.
    pub async fn judge(
        &self,
        tenant: TenantId,
        device: DeviceId,
        enrolled_key: Option<Jwk>,
        evidence: Evidence,
    ) -> Result<Judged> {
        let body = serde_json::to_vec(&evidence.members).map_err(crate::kernel::Error::internal)?;
        let body_hash = Base64UrlUnpadded::encode_string(&sha256(&body));
        let nonce_hash = sha256(evidence.nonce.as_bytes());
        let app_attest = match evidence.kind {
            EvidenceKind::Format(CaseKind::AppleAssertion) => self.app_attest_key(tenant, device.clone()).await?,
            _ => None,
        };
        let tpm_key = match evidence.kind {
            EvidenceKind::Format(CaseKind::TpmQuote) => self.tpm_key(tenant, &device).await?,
            _ => None,
        };
        let kind = evidence.kind.name();
        let this = self.clone();
        let work = move || {
            let inner = &this.inner;
            let signed = challenge(tenant, &device, &evidence.nonce);
            let by_enrolled_key = || software(&signed, enrolled_key.as_ref(), &evidence.members);
            match evidence.kind {
                EvidenceKind::Software => by_enrolled_key(),
                EvidenceKind::Format(kind) => formats::judge(
                    kind,
                    &evidence.members,
                    &Expected {
                        signed: &signed,
                        settings: &inner.settings,
                        trust: &inner.trust.of(tenant),
                        status_list: inner.trust.status_list().as_deref(),
                        app_attest: app_attest.as_ref(),
                        tpm_key: tpm_key.as_ref(),
                        now: inner.clock.now(),
                    },
                )
                .and_then(|mut proven| {
                    if kind == CaseKind::TpmQuote && evidence.members.contains_key("signature") {
                        let enrolled = by_enrolled_key()?;
                        proven.claims.extend(enrolled.claims);
                        proven.signer = enrolled.signer;
                    }
                    Ok(proven)
                }),
            }
        };
        let verdict = self.inner.pool.run(work).await?;
        Ok(Judged { kind, nonce_hash, body_hash, verdict })
    }
}

fn software(signed: &[u8], key: Option<&Jwk>, members: &Map<String, Value>) -> std::result::Result<Proven, Refused> {
    let key = key.ok_or_else(|| Refused::new("no_enrolled_key", "The device enrolled no key to prove itself with."))?;
    let key = VerifyingKey::from_jwk(key).map_err(|e| Refused::new("no_enrolled_key", e.to_string()))?;
    let signature = members.get("signature").and_then(Value::as_str).unwrap_or_default();
    let signature = Base64UrlUnpadded::decode_vec(signature).unwrap_or_default();
    let signature: [u8; 64] = signature
        .try_into()
        .map_err(|_| Refused::new("signature_form", "signature is not 64 bytes in base64url without padding."))?;
    if !key.verify(signed, &signature) {
        return Err(Refused::new("signature", "The signature is not one of the enrolled key over this nonce."));
    }
    let mut claims = Claims::new();
    let signer = key.thumbprint();
    claims.insert("key_thumbprint".to_owned(), signer.clone().into());
    let signer = Some(signer);
    Ok(Proven { level: Level::Software, claims, spki: None, root: None, list: None, signer, key: ProvenKey::Other })
}
