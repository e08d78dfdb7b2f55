//! What is stored of nonces, states and verdicts.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::kernel::ids::DeviceId;
use crate::kernel::{Refusal, Timestamp};
use crate::store::Row;

/// How well the key of a device is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AttestationLevel)]
pub enum Level {
    /// Nothing was proven.
    #[default]
    None,
    /// A key in software: that it is the device that enrolled.
    Software,
    /// A cloud verdict about the app and the system, decrypted here.
    Verdict,
    /// A trusted execution environment or a firmware TPM.
    Trusted,
    /// A chip of its own: StrongBox, Secure Enclave, a discrete TPM.
    Hardware,
}

impl Level {
    /// As in the audit log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Software => "software",
            Self::Verdict => "verdict",
            Self::Trusted => "trusted",
            Self::Hardware => "hardware",
        }
    }

    /// Whether a tenant that demands hardware is content with it.
    pub const fn is_hardware(self) -> bool {
        matches!(self, Self::Trusted | Self::Hardware)
    }
}

/// A stored nonce; the key ends in its SHA-256.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct NonceRow {
    pub expires_at: Timestamp,
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
}

/// How a device's attestation stands.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct StateRow {
    pub level: Level,
    /// As on the wire, such as `software` or `android-key`.
    pub kind: Option<String>,
    pub claims: Map<String, Value>,
    /// SHA-256 of the attested key's SPKI, in base64url.
    pub key: Option<String>,
    pub key_since: Option<Timestamp>,
    /// The root or list that decided.
    pub root: Option<String>,
    pub verified_at: Option<Timestamp>,
    /// The attested key itself (SPKI, base64) and the counter of its last assertion, for App Attest.
    pub spki: Option<String>,
    pub counter: u32,
    /// When the failures of the last ten minutes were.
    pub failures: Vec<Timestamp>,
    pub verdicts: u64,
}
impl Row for StateRow {}

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
    /// The root or list that decided.
    pub root: Option<String>,
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
    /// The root or list that decided.
    pub root: Option<String>,
    /// When it was proven.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub verified_at: Option<Timestamp>,
    /// Failed attempts of the last ten minutes.
    pub recent_failures: usize,
    /// The newest verdicts, newest first, at most twenty.
    pub history: Vec<VerdictView>,
}

/// What came of evidence within a change. A refusal is committed, too: it counts.
pub enum Taken {
    /// It holds.
    Accepted(Box<AttestationView>),
    /// It does not, or its nonce does not.
    Refused(Box<Refusal>),
}
