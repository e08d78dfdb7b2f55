//! What is stored of nonces, states and verdicts.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::app_attest::AppAttestKey;
use super::{Level, rules};
use crate::crypto::Jwk;
use crate::domains::devices::ProofMark;
use crate::kernel::ids::{DeviceId, EnrollmentId};
use crate::kernel::{Refusal, Timestamp};
use crate::store::Row;

/// A stored nonce; the key ends in its SHA-256.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct NonceRow {
    pub expires_at: Timestamp,
    /// The enrollment token that it was asked for by; `None`: the device's own token.
    #[serde(default)]
    pub by: Option<EnrollmentId>,
    /// What it led to, once it was used.
    pub used: Option<Used>,
}
impl Row for NonceRow {}

/// What a nonce led to.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Used {
    /// SHA-256 of the request, in base64url: the same again is the same request.
    pub body: String,
    pub at: Timestamp,
    /// The accepted answer; `None` when the evidence was refused, and then by what.
    pub answer: Option<AttestationView>,
    pub reason: Option<String>,
    /// SHA-256 of the enrollment that it came with, in base64url; `None` where the device proved itself by its own token.
    #[serde(default)]
    pub enrollment: Option<String>,
}

/// How a device's attestation stands.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct StateRow {
    pub level: Level,
    /// The level of the last proof by hardware, which a later one by less leaves standing.
    #[serde(default)]
    pub hardware_level: Level,
    /// As on the wire, such as `software` or `android-key`.
    pub kind: Option<String>,
    pub claims: Map<String, Value>,
    /// SHA-256 of the attested key's SPKI, in base64url.
    pub key: Option<String>,
    pub key_since: Option<Timestamp>,
    /// The root that decided.
    pub root: Option<String>,
    pub verified_at: Option<Timestamp>,
    /// The key's JWK thumbprint, where it is one of P-256.
    #[serde(default)]
    pub key_thumbprint: Option<String>,
    /// Whether the key took the place of another one, and is to be watched for a while.
    #[serde(default)]
    pub key_changed: bool,
    /// Whether the last proof said something else of the hardware than the one before it.
    #[serde(default)]
    pub hardware_changed: bool,
    /// The list of revoked certificates that decided.
    #[serde(default)]
    pub list: Option<String>,
    /// The key that assertions are made with.
    #[serde(default)]
    pub app_attest: Option<AppAttestKey>,
    /// When the failures of the last ten minutes were.
    pub failures: Vec<Timestamp>,
    pub verdicts: u64,
}
impl Row for StateRow {}

impl StateRow {
    /// What the device's row keeps of it; `None` before the first proof.
    pub fn mark(&self) -> Option<ProofMark> {
        let verified_at = self.verified_at?;
        Some(ProofMark {
            level: self.level,
            points: rules::worth(self.level, &self.claims, self.hardware_changed, verified_at),
            verified_at,
            key_changed_at: self.key_since.filter(|_| self.key_changed),
        })
    }

    /// What a proof must show at least, so as not to be a step back from what the device's hardware showed before.
    pub fn shown_by_hardware(&self) -> Level {
        if self.level.is_hardware() { self.level } else { self.hardware_level }
    }

    /// Forgets the last proof: somebody enrolled under the device's name who did not show that it is the same device. Which
    /// keys are this device's, and what its hardware once showed, stays known.
    pub fn unproven(self) -> Self {
        Self {
            hardware_level: self.shown_by_hardware(),
            level: Level::None,
            kind: None,
            claims: Map::new(),
            root: None,
            verified_at: None,
            key_thumbprint: None,
            hardware_changed: false,
            list: None,
            ..self
        }
    }

    /// Whether the last proof was one of an App Attest key.
    pub fn is_app_attest(&self) -> bool {
        self.app_attest.is_some() && self.kind.as_deref().is_some_and(|kind| kind.starts_with("apple-"))
    }
}

/// One verdict.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = AttestationVerdict)]
pub struct VerdictView {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The kind of evidence.
    #[serde(rename = "type")]
    #[schema(rename = "type")]
    pub kind: String,
    /// `accepted` or `refused`.
    pub result: String,
    /// The rule that was broken; null when none was.
    pub reason: Option<String>,
    /// The root that decided.
    pub root: Option<String>,
    /// The list of revoked certificates that decided.
    #[serde(default)]
    pub status_list: Option<String>,
}
impl Row for VerdictView {}

/// How a device's attestation stands.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = AttestationState)]
pub struct AttestationView {
    /// Whose.
    #[schema(value_type = String)]
    pub device_id: DeviceId,
    /// How well its key is kept.
    pub level: Level,
    /// The kind of the last accepted evidence; null before there was any.
    #[serde(rename = "type")]
    #[schema(rename = "type")]
    pub kind: Option<String>,
    /// 0 to 100: by level, boot state, patch age, and how long ago the proof was.
    pub score: u8,
    /// Whether the last proof is too old.
    pub stale: bool,
    /// What was proven.
    #[schema(value_type = Object)]
    pub claims: Map<String, Value>,
    /// SHA-256 of the attested key's SPKI, in base64url.
    pub key_sha256: Option<String>,
    /// The root that decided.
    pub root: Option<String>,
    /// The list of revoked certificates that decided.
    #[serde(default)]
    pub status_list: Option<String>,
    /// The attested key's JWK thumbprint (RFC 7638), where it is one of P-256.
    #[serde(default)]
    pub key_thumbprint: Option<String>,
    /// Whether the device's token is bound to this key (RFC 9449): stolen, it is worth nothing elsewhere.
    #[serde(default)]
    pub token_bound: bool,
    /// Since when the device shows this key.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub key_since: Option<Timestamp>,
    /// Whether the last proof said something else of the hardware than the one before; the next that agrees ends it.
    #[serde(default)]
    pub hardware_changed: bool,
    /// When it was proven.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub verified_at: Option<Timestamp>,
    /// Failed attempts of the last ten minutes.
    pub recent_failures: usize,
    /// The newest verdicts, newest first, at most twenty.
    pub history: Vec<VerdictView>,
}

impl AttestationView {
    /// With what the device's token is bound to, as its `cnf.jkt` says.
    #[must_use]
    pub fn bound_to(mut self, thumbprint: &str) -> Self {
        self.token_bound = self.key_thumbprint.as_deref() == Some(thumbprint);
        self
    }
}

/// Who brings evidence. What is wrong with it counts against nobody else.
#[derive(Clone, Copy, Debug)]
pub enum Bringer<'a> {
    /// The device, by its own token.
    Device,
    /// Somebody who enrolls under its name: until the proof holds, a stranger.
    Enrollment {
        /// SHA-256 of all that is to be enrolled, in base64url: the same again is the same enrollment.
        hash: &'a str,
        /// The key that a device is to prove itself with that is not known yet.
        key: Option<&'a Jwk>,
    },
}

impl Bringer<'_> {
    /// Whether failures and replays are the device's own.
    pub(super) const fn is_device(self) -> bool {
        matches!(self, Self::Device)
    }

    pub(super) const fn hash(&self) -> Option<&str> {
        match self {
            Self::Device => None,
            Self::Enrollment { hash, .. } => Some(hash),
        }
    }

    pub(super) const fn key(&self) -> Option<&Jwk> {
        match self {
            Self::Device => None,
            Self::Enrollment { key, .. } => *key,
        }
    }
}

/// What came of evidence within a change. A refusal is committed, too: it counts.
pub enum Taken {
    /// It holds.
    Accepted(Box<AttestationView>),
    /// It does not, or its nonce does not.
    Refused(Box<Refusal>),
}
