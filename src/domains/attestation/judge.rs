//! From a request's members to a verdict about them, on threads of their own.

use std::str::FromStr;

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use serde_json::{Map, Value};

use super::model::Level;
use super::{Attestation, Settings};
use crate::attest::cases::{self, Kind as CaseKind};
use crate::attest::{Claims, Refused};
use crate::crypto::{Jwk, VerifyingKey, sha256};
use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::{Refusal, Result, Timestamp};

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
        const BAD: &str =
            "is not a type that a device attests by: software, apple-attestation, android-key, play-integrity";
        if text == "software" {
            return Ok(Self::Software);
        }
        match text.parse::<CaseKind>() {
            Ok(kind @ (CaseKind::AppleAttestation | CaseKind::AndroidKey | CaseKind::PlayIntegrity)) => {
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

    /// Whether it proves that the enrolled key of the device made it.
    pub fn is_by_enrolled_key(&self) -> bool {
        self.holds() && self.kind == "software"
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
    /// SHA-256 of the key's SPKI in base64url, and the SPKI in base64.
    pub key: Option<(String, String)>,
    pub root: Option<String>,
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
        let (now, this) = (self.inner.clock.now(), self.clone());
        let kind = evidence.kind.name();
        let work = move || verdict(tenant, &device, enrolled_key.as_ref(), &evidence, &this.inner.settings, now);
        let verdict = self.inner.pool.run(work).await?;
        Ok(Judged { kind, nonce_hash, body_hash, verdict })
    }
}

fn verdict(
    tenant: TenantId,
    device: &DeviceId,
    enrolled_key: Option<&Jwk>,
    evidence: &Evidence,
    settings: &Settings,
    now: Timestamp,
) -> std::result::Result<Proven, Refused> {
    let signed = challenge(tenant, device, &evidence.nonce);
    match evidence.kind {
        EvidenceKind::Software => software(&signed, enrolled_key, &evidence.members),
        EvidenceKind::Format(kind) => {
            let case = case(kind, &evidence.members, &sha256(&signed), settings)?;
            Ok(proven(kind, cases::judge(kind, &case, &settings.policy, now)?))
        }
    }
}

/// What is judged: of the device's members those that are evidence, and beside them what the appliance itself expects.
/// Roots, keys and configuration never come from the device.
fn case(
    kind: CaseKind,
    members: &Map<String, Value>,
    challenge_hash: &[u8; 32],
    settings: &Settings,
) -> std::result::Result<Map<String, Value>, Refused> {
    let not_configured = |key: &str| {
        Refused::new(
            "not_configured",
            format!("This appliance does not judge evidence of this type ({key} is not set)."),
        )
    };
    let mut case = Map::new();
    let mut take = |names: &[&str]| {
        for name in names {
            if let Some(value) = members.get(*name) {
                case.insert((*name).to_owned(), value.clone());
            }
        }
    };
    match kind {
        CaseKind::AppleAttestation => {
            take(&["key_id_b64", "attestation_object_b64"]);
            let app_id = settings.apple_app_id.as_deref().ok_or_else(|| not_configured("attestation.apple_app_id"))?;
            let hash: String = challenge_hash.iter().map(|b| format!("{b:02x}")).collect();
            case.insert("app_id".to_owned(), app_id.into());
            case.insert("client_data_hash_hex".to_owned(), hash.into());
        }
        CaseKind::AndroidKey => {
            take(&["chain_pem"]);
            case.insert("challenge_b64".to_owned(), Base64::encode_string(challenge_hash).into());
        }
        CaseKind::PlayIntegrity => {
            take(&["token"]);
            let keys = settings.play.as_ref().ok_or_else(|| not_configured("attestation.play"))?;
            for (name, value) in keys {
                case.insert(name.clone(), value.clone());
            }
            let mut config = keys.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
            config.insert("expected_nonce".to_owned(), Base64UrlUnpadded::encode_string(challenge_hash).into());
            case.insert("config".to_owned(), config.into());
        }
        _ => return Err(Refused::new("type", "Devices do not attest by evidence of this type.")),
    }
    Ok(case)
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
    claims.insert("key_thumbprint".to_owned(), key.thumbprint().into());
    Ok(Proven { level: Level::Software, claims, key: None, root: None })
}

fn proven(kind: CaseKind, claims: Claims) -> Proven {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let level = match kind {
        CaseKind::AppleAttestation => Level::Hardware,
        CaseKind::AndroidKey if text("security_level").is_some_and(|l| l.eq_ignore_ascii_case("strongbox")) => {
            Level::Hardware
        }
        CaseKind::AndroidKey => Level::Trusted,
        _ => Level::Verdict,
    };
    let spki = ["public_key_spki_b64", "key_spki_b64"].into_iter().find_map(text);
    let key = spki.and_then(|spki| {
        let der = Base64::decode_vec(spki).ok()?;
        Some((Base64UrlUnpadded::encode_string(&sha256(&der)), spki.to_owned()))
    });
    let root = text("root").map(str::to_owned);
    Proven { level, key, root, claims }
}
