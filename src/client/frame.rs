//! The JSON texts of the kill-switch socket, and the heartbeat that HTTP and the socket share.
//!
//! Reading here proves nothing: whether a command is genuine is for [`super::verify`].

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Problem;
use crate::crypto::strict_json;
use crate::kernel::Timestamp;
use crate::kernel::ids::{CommandId, DeviceId};

/// What a frame from the server tells the device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Lock the screen.
    LockSystem,
    /// Lock the screen and forget tokens.
    CriticalLock,
    /// Cut the device off.
    ImmediateQuarantine,
    /// Cover the screen with a warning.
    ForceOverlay,
    /// End the session.
    ForceLogout,
    /// The trial is over and nothing is paid.
    BillingExpired,
    /// Everything above is lifted.
    Unlock,
    /// Notice: the socket is open.
    AuthOk,
    /// Notice: all is well.
    StatusSafe,
    /// Notice: prove yourself.
    StatusAudit,
    /// A later server's word that this client does not know, cut to 64 characters.
    Unknown(String),
}

impl Action {
    fn parse(name: &str) -> Self {
        match name {
            "LOCK_SYSTEM" => Self::LockSystem,
            "CRITICAL_LOCK" => Self::CriticalLock,
            "IMMEDIATE_QUARANTINE" => Self::ImmediateQuarantine,
            "FORCE_OVERLAY" => Self::ForceOverlay,
            "FORCE_LOGOUT" => Self::ForceLogout,
            "BILLING_EXPIRED" => Self::BillingExpired,
            "UNLOCK" => Self::Unlock,
            "AUTH_OK" => Self::AuthOk,
            "STATUS_SAFE" => Self::StatusSafe,
            "STATUS_AUDIT" => Self::StatusAudit,
            other => Self::Unknown(other.chars().take(64).collect()),
        }
    }

    /// As on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::LockSystem => "LOCK_SYSTEM",
            Self::CriticalLock => "CRITICAL_LOCK",
            Self::ImmediateQuarantine => "IMMEDIATE_QUARANTINE",
            Self::ForceOverlay => "FORCE_OVERLAY",
            Self::ForceLogout => "FORCE_LOGOUT",
            Self::BillingExpired => "BILLING_EXPIRED",
            Self::Unlock => "UNLOCK",
            Self::AuthOk => "AUTH_OK",
            Self::StatusSafe => "STATUS_SAFE",
            Self::StatusAudit => "STATUS_AUDIT",
            Self::Unknown(name) => name,
        }
    }

    /// Whether the device must not be used after it.
    pub const fn locks(&self) -> bool {
        matches!(
            self,
            Self::LockSystem | Self::CriticalLock | Self::ImmediateQuarantine | Self::ForceOverlay | Self::ForceLogout
        )
    }

    /// Notices are not stored by the server, have no place in the sequence and are not acknowledged.
    pub const fn is_notice(&self) -> bool {
        matches!(self, Self::AuthOk | Self::StatusSafe | Self::StatusAudit)
    }
}

/// A command or notice as it came. Unproven until [`super::CommandVerifier::verify`] has said so.
#[derive(Clone, Debug)]
pub struct CommandFrame {
    /// What to do.
    pub action: Action,
    /// Its id.
    pub command_id: CommandId,
    /// Rises for each device.
    pub seq: u64,
    /// For whom.
    pub device_id: DeviceId,
    /// When it was made.
    pub issued_at: Timestamp,
    /// When it ends to count.
    pub expires_at: Timestamp,
    /// In words.
    pub reason: String,
    /// Further facts.
    pub payload: Value,
    /// Compact JWS over every other member but `timestamp`.
    pub signature: String,
    /// Unix milliseconds, for older clients. Not signed: nothing may depend on it.
    pub timestamp: Option<i64>,
    /// What the signature covers: all members but `signature` and `timestamp`.
    pub(super) signed: Value,
}

/// The server's answer to a heartbeat.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct HeartbeatAck {
    /// 0 to 100.
    pub trust_score: u8,
    /// What follows from it.
    pub decision: Decision,
    /// Below this score the device is blocked.
    #[serde(default)]
    pub threshold: u8,
    /// The id under which the heartbeat is stored.
    #[serde(default)]
    pub signal_id: Option<String>,
    /// When the server wants the next one.
    #[serde(default)]
    pub next_heartbeat_ms: Option<u64>,
    /// Where in a trace the server answered, if the heartbeat named one or the server traced it by itself.
    #[serde(default)]
    pub traceparent: Option<String>,
}

/// What follows from a score.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// All is well.
    Allow,
    /// Prove yourself.
    Challenge,
    /// Locked.
    Block,
    /// A later server's word.
    #[serde(other)]
    Other,
}

impl Decision {
    /// As people read it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Challenge => "challenge",
            Self::Block => "block",
            Self::Other => "?",
        }
    }
}

/// One heartbeat with its readings, as HTTP takes it.
#[derive(Clone, Debug, Serialize)]
pub struct Heartbeat<'a, R: Serialize> {
    /// Who.
    pub device_id: &'a DeviceId,
    /// Rises within the session; the same one again is answered again and counted once.
    pub seq: u64,
    /// The device's clock.
    pub sent_at: Timestamp,
    /// 1 to 100, oldest first.
    pub readings: &'a [R],
}

/// What the device says of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AckStatus {
    /// I have it.
    Delivered,
    /// I did it.
    Enforced,
    /// I could not.
    Failed,
}

/// An acknowledgement.
#[derive(Debug, Serialize)]
pub(super) struct Ack<'a> {
    pub r#type: &'static str,
    pub command_id: CommandId,
    pub status: AckStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'a str>,
}

/// One text frame from the server.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// A command or a notice, see [`Action::is_notice`].
    Command(Box<CommandFrame>),
    /// The answer to a heartbeat.
    HeartbeatAck(HeartbeatAck),
    /// The refusal of the last message.
    Error(Problem),
}

impl Incoming {
    /// Reads one text.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let members = strict_json::parse_object(text.as_bytes()).map_err(|e| format!("a frame {e}"))?;
        match members.get("type").and_then(Value::as_str) {
            Some("heartbeat_ack") => serde_json::from_value(Value::Object(members))
                .map(Self::HeartbeatAck)
                .map_err(|e| format!("a heartbeat_ack: {e}")),
            Some("error") => Ok(Self::Error(Problem::from_members(&members, 400))),
            // A problem document has a `type` of its own, a URI; a command has none but may carry later members.
            _ if members.contains_key("action") => CommandFrame::read(members).map(|c| Self::Command(Box::new(c))),
            _ => Err("a frame is neither a command nor an answer".to_owned()),
        }
    }
}

impl CommandFrame {
    fn read(mut members: Map<String, Value>) -> Result<Self, String> {
        let signature = match members.remove("signature") {
            Some(Value::String(signature)) => signature,
            _ => return Err("a command has no signature".to_owned()),
        };
        let timestamp = members.remove("timestamp").and_then(|t| t.as_i64());
        Ok(Self {
            action: Action::parse(text(&members, "action")?),
            command_id: parsed(&members, "command_id")?,
            seq: members.get("seq").and_then(Value::as_u64).ok_or_else(|| lacks("seq"))?,
            device_id: parsed(&members, "device_id")?,
            issued_at: parsed(&members, "issued_at")?,
            expires_at: parsed(&members, "expires_at")?,
            reason: text(&members, "reason")?.to_owned(),
            payload: members.get("payload").cloned().unwrap_or(Value::Null),
            signature,
            timestamp,
            signed: Value::Object(members),
        })
    }
}

fn lacks(name: &str) -> String {
    format!("a command has no proper {name}")
}

fn text<'a>(members: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    members.get(name).and_then(Value::as_str).ok_or_else(|| lacks(name))
}

fn parsed<T: std::str::FromStr>(members: &Map<String, Value>, name: &str) -> Result<T, String> {
    text(members, name)?.parse().map_err(|_| lacks(name))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "tests")]
    use super::*;

    #[test]
    fn answers_are_understood_even_if_a_later_server_says_more() {
        let text = r#"{"type":"heartbeat_ack","status":"accepted","trust_score":87,"trust_hint":87,"decision":"allow",
            "threshold":40,"engine":"full","signal_id":"sig_x","next_heartbeat_ms":5000,"later":1}"#;
        match Incoming::parse(text) {
            Ok(Incoming::HeartbeatAck(ack)) => {
                assert_eq!((ack.trust_score, ack.decision, ack.next_heartbeat_ms), (87, Decision::Allow, Some(5000)));
            }
            other => panic!("{other:?}"),
        }
        let later = r#"{"type":"heartbeat_ack","trust_score":50,"decision":"ponder"}"#;
        match Incoming::parse(later) {
            Ok(Incoming::HeartbeatAck(ack)) => assert_eq!(ack.decision, Decision::Other),
            other => panic!("{other:?}"),
        }
        let blocked = r#"{"type":"error","status":423,"code":"device_blocked","detail":"It is blocked."}"#;
        match Incoming::parse(blocked) {
            Ok(Incoming::Error(problem)) => {
                assert_eq!((problem.status, problem.code.as_str()), (423, "device_blocked"))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_no_frame_is_said_in_words() {
        for text in
            ["", "[]", "{}", "NaN", r#"{"type":"heartbeat_ack"}"#, r#"{"action":"UNLOCK","action":"LOCK_SYSTEM"}"#]
        {
            assert!(Incoming::parse(text).is_err(), "{text}");
        }
    }

    /// What locks and what is a notice is the whole behaviour of a device: no name may be in both, none forgotten.
    #[test]
    fn every_action_has_one_name_and_one_meaning() {
        for (name, locks, is_notice) in [
            ("LOCK_SYSTEM", true, false),
            ("CRITICAL_LOCK", true, false),
            ("IMMEDIATE_QUARANTINE", true, false),
            ("FORCE_OVERLAY", true, false),
            ("FORCE_LOGOUT", true, false),
            ("BILLING_EXPIRED", false, false),
            ("UNLOCK", false, false),
            ("AUTH_OK", false, true),
            ("STATUS_SAFE", false, true),
            ("STATUS_AUDIT", false, true),
            ("SELF_DESTRUCT", false, false),
        ] {
            let action = Action::parse(name);
            assert_eq!((action.as_str(), action.locks(), action.is_notice()), (name, locks, is_notice));
        }
        assert_eq!(Action::parse("lock_system"), Action::Unknown("lock_system".to_owned()));
    }
}
