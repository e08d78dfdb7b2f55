//! A command, its frame and its life.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::crypto::jcs;
use crate::crypto::keyring::KeyRing;
use crate::domains::audit::ThreatLevel;
use crate::kernel::ids::{CommandId, DeviceId, UserId};
use crate::kernel::{Error, Result, Timestamp};
use crate::store::Row;

/// What a device is told to do. Durable before it is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(as = CommandAction)]
pub enum Action {
    /// Lock the screen; the owner's code does not open it.
    LockSystem,
    /// As `LOCK_SYSTEM`, after a certain theft: also forget tokens.
    CriticalLock,
    /// Cut the device off from the company's data.
    ImmediateQuarantine,
    /// Cover the screen with a warning.
    ForceOverlay,
    /// End the session.
    ForceLogout,
    /// The trial is over.
    BillingExpired,
    /// Everything above is lifted.
    Unlock,
}

impl Action {
    /// As on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LockSystem => "LOCK_SYSTEM",
            Self::CriticalLock => "CRITICAL_LOCK",
            Self::ImmediateQuarantine => "IMMEDIATE_QUARANTINE",
            Self::ForceOverlay => "FORCE_OVERLAY",
            Self::ForceLogout => "FORCE_LOGOUT",
            Self::BillingExpired => "BILLING_EXPIRED",
            Self::Unlock => "UNLOCK",
        }
    }

    /// Whether the device is blocked on the appliance, too.
    pub const fn locks(self) -> bool {
        matches!(self, Self::LockSystem | Self::CriticalLock | Self::ImmediateQuarantine)
    }

    /// How much it matters to an analyst.
    pub const fn threat_level(self) -> ThreatLevel {
        match self {
            Self::CriticalLock | Self::ImmediateQuarantine => ThreatLevel::Critical,
            Self::LockSystem => ThreatLevel::High,
            Self::ForceOverlay | Self::ForceLogout => ThreatLevel::Medium,
            Self::BillingExpired | Self::Unlock => ThreatLevel::None,
        }
    }
}

/// What a device is told, without an answer being due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// The first frame on a socket.
    AuthOk,
    /// All is well.
    StatusSafe,
    /// Prove yourself.
    StatusAudit,
}

impl Notice {
    /// A notice that is older says nothing.
    pub const LIFETIME: Duration = Duration::from_secs(300);

    /// As on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AuthOk => "AUTH_OK",
            Self::StatusSafe => "STATUS_SAFE",
            Self::StatusAudit => "STATUS_AUDIT",
        }
    }
}

/// Where a command stands. The last three are final.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = CommandStatus)]
pub enum Status {
    /// Durable, not sent yet.
    Requested,
    /// Written to the device's socket.
    Sent,
    /// The device has it.
    Delivered,
    /// The device did it.
    Enforced,
    /// The device could not do it.
    Failed,
    /// Its time ran out.
    Expired,
}

impl Status {
    /// Whether nothing can follow.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Enforced | Self::Failed | Self::Expired)
    }
}

/// What a device may say of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AckStatus {
    /// I have it.
    Delivered,
    /// I did it.
    Enforced,
    /// I could not.
    Failed,
}

impl From<AckStatus> for Status {
    fn from(status: AckStatus) -> Self {
        match status {
            AckStatus::Delivered => Self::Delivered,
            AckStatus::Enforced => Self::Enforced,
            AckStatus::Failed => Self::Failed,
        }
    }
}

/// A device's word on one of its commands.
#[derive(Clone, Debug)]
pub struct Ack {
    /// Which.
    pub command_id: CommandId,
    /// What became of it.
    pub status: AckStatus,
    /// In the device's words, at most 500 characters.
    pub detail: Option<String>,
}

/// Everything that is signed.
pub(super) struct Frame<'a> {
    pub action: &'static str,
    pub command_id: CommandId,
    pub seq: u64,
    pub device_id: &'a DeviceId,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    pub reason: &'a str,
    pub payload: &'a Value,
}

/// Header type of a command's signature.
pub const COMMAND_JWS_TYPE: &str = "br-command+jws";

impl Frame<'_> {
    /// The frame as it goes out: the members, the signature over their canonical JSON, and the older clients' time.
    pub fn sign(&self, keys: &KeyRing) -> Result<Arc<str>> {
        let mut members = serde_json::json!({
            "action": self.action,
            "command_id": self.command_id,
            "seq": self.seq,
            "device_id": self.device_id,
            "issued_at": self.issued_at,
            "expires_at": self.expires_at,
            "reason": self.reason,
            "payload": self.payload,
        });
        let canonical = jcs::canonicalize(&members).map_err(Error::internal)?;
        let signature = keys.sign(COMMAND_JWS_TYPE, canonical.as_bytes());
        if let Some(map) = members.as_object_mut() {
            map.insert("signature".to_owned(), signature.into());
            map.insert("timestamp".to_owned(), self.issued_at.as_millis().into());
        }
        Ok(members.to_string().into())
    }
}

/// A stored command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct CommandRow {
    pub id: CommandId,
    pub seq: u64,
    pub action: Action,
    pub reason: String,
    pub payload: Value,
    pub requested_by: Option<UserId>,
    pub status: Status,
    pub requested_at: Timestamp,
    pub sent_at: Option<Timestamp>,
    pub delivered_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub expires_at: Timestamp,
    pub detail: Option<String>,
    /// Exactly what is sent, so that a redelivery repeats it.
    pub frame: String,
}
impl Row for CommandRow {}

impl CommandRow {
    /// An unfinished command whose time ran out has expired, whether or not anybody looked.
    pub fn status_at(&self, now: Timestamp) -> Status {
        if !self.status.is_final() && now >= self.expires_at { Status::Expired } else { self.status }
    }

    /// What an acknowledgement changes: only forward, and never after the end.
    pub fn acknowledge(&mut self, status: AckStatus, detail: Option<&str>, now: Timestamp) -> bool {
        let next = Status::from(status);
        let before = self.status_at(now);
        if before.is_final() || before == next {
            return false;
        }
        self.delivered_at.get_or_insert(now);
        self.sent_at.get_or_insert(now);
        if next.is_final() {
            self.ended_at = Some(now);
        }
        if let Some(detail) = detail {
            self.detail = Some(detail.chars().take(500).collect());
        }
        self.status = next;
        true
    }

    pub fn view(self, now: Timestamp) -> CommandView {
        let status = self.status_at(now);
        CommandView {
            command_id: self.id,
            seq: self.seq,
            action: self.action,
            reason: self.reason,
            payload: self.payload,
            status,
            requested_by: self.requested_by,
            requested_at: self.requested_at,
            sent_at: self.sent_at,
            delivered_at: self.delivered_at,
            enforced_at: self.ended_at.filter(|_| status == Status::Enforced),
            failed_at: self.ended_at.filter(|_| status == Status::Failed),
            expires_at: self.expires_at,
            detail: self.detail,
        }
    }
}

/// A command as the API shows it.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Command)]
pub struct CommandView {
    /// `cmd_...`
    #[schema(value_type = String)]
    pub command_id: CommandId,
    /// Rises for each device.
    pub seq: u64,
    /// What the device is told to do.
    pub action: Action,
    /// Why, in words.
    pub reason: String,
    /// Further facts for the device.
    #[schema(value_type = Object)]
    pub payload: Value,
    /// Where it stands.
    pub status: Status,
    /// The user who asked for it; null when a rule did.
    #[schema(value_type = Option<String>)]
    pub requested_by: Option<UserId>,
    /// When it became durable.
    #[schema(value_type = String, format = DateTime)]
    pub requested_at: Timestamp,
    /// When it was first written to the device's socket.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub sent_at: Option<Timestamp>,
    /// When the device first said that it has it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub delivered_at: Option<Timestamp>,
    /// When the device said that it did it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub enforced_at: Option<Timestamp>,
    /// When the device said that it could not.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub failed_at: Option<Timestamp>,
    /// When it stops being sent.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// In the device's words.
    pub detail: Option<String>,
}
