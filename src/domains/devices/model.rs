//! A device and its states.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::crypto::Jwk;
use crate::domains::tenants::PlanTier;
use crate::kernel::Timestamp;
use crate::kernel::ids::{DeviceId, DeviceNo, SessionId, TenantId, UserId};
use crate::store::Row;

/// Which motion sensors a device said it has; what it has, it must send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SensorsDeclared {
    /// m/s², gravity included.
    pub accelerometer: bool,
    /// rad/s.
    pub gyroscope: bool,
}

impl Default for SensorsDeclared {
    fn default() -> Self {
        Self { accelerometer: true, gyroscope: true }
    }
}

/// What is paid for a device. Billing decides it and keeps the subscription behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Paid {
    /// Never `trial`.
    pub tier: PlanTier,
    /// `None`: until further notice.
    pub until: Option<Timestamp>,
}

/// Who or what blocked a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BlockCause {
    /// The threat engine.
    Score,
    /// An old refresh token came back.
    RefreshReused,
    /// A person's command.
    Command,
    /// The kill switch of the whole tenant.
    KillSwitch,
    /// A proof of its hardware that somebody replayed, or a key that is also another device's.
    Attestation,
    /// Several proofs of its hardware in a row that did not hold; a clean one may release it.
    Quarantine,
    /// It was seen with something that a sure threat feed lists.
    Intel,
}

impl BlockCause {
    /// How much it takes until a device is released from it: its tenant's switch, a clean proof, a clean proof by hardware
    /// where the operator allows that, a person.
    const fn rank(self) -> u8 {
        match self {
            Self::KillSwitch => 0,
            Self::Quarantine => 1,
            Self::Score => 2,
            Self::RefreshReused | Self::Command | Self::Attestation | Self::Intel => 3,
        }
    }

    /// Whether it takes the place of the cause for which a device is blocked already. Of two that weigh the same the first
    /// stands. What ends by itself never stands in the way of what only a person ends, and what is the device's own outlasts
    /// the switch of its tenant.
    pub const fn outranks(self, standing: Self) -> bool {
        self.rank() > standing.rank()
    }
}

/// How well the key of a device is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AttestationLevel)]
pub enum AttestationLevel {
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

impl AttestationLevel {
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

/// What the device's last accepted proof of its hardware was worth. How much of that is left at another time is for the
/// domain of attestation to say, which writes this.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProofMark {
    /// How well the key is kept.
    pub level: AttestationLevel,
    /// 0 to 100 at the time of the proof.
    pub points: u8,
    /// When it was proven.
    pub verified_at: Timestamp,
    /// Since when the device shows this key, if it showed another one before.
    pub key_changed_at: Option<Timestamp>,
}

/// Whether a device may act.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum DeviceState {
    /// It may.
    #[default]
    Active,
    /// It may only receive commands.
    Blocked {
        /// Who or what blocked it.
        cause: BlockCause,
        /// In words.
        reason: String,
        /// Since when.
        at: Timestamp,
    },
}

/// A stored device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Device {
    /// Its number on this appliance.
    pub no: DeviceNo,
    /// Whose it is.
    pub tenant: TenantId,
    /// The client's own name for it.
    pub id: DeviceId,
    /// For people.
    pub name: String,
    /// `android`, `ios`, ... as told at enrollment.
    pub platform: String,
    /// As told at enrollment.
    pub os_version: String,
    /// The user it belongs to.
    pub owner: UserId,
    /// What it can sense.
    pub sensors: SensorsDeclared,
    /// The key that it proves itself with, where it enrolled one.
    pub public_key: Option<Jwk>,
    /// First enrollment: the trial counts from here.
    pub registered_at: Timestamp,
    /// Last enrollment.
    pub enrolled_at: Timestamp,
    /// The one session that it holds; a new enrollment ends it.
    pub session: Option<SessionId>,
    /// Whether it may act.
    pub state: DeviceState,
    /// When the trial ends.
    pub trial_expires_at: Timestamp,
    /// What is paid for it.
    #[serde(default)]
    pub paid: Option<Paid>,
    /// Whether it was told that nothing is paid for it any more, and nothing was since.
    #[serde(default)]
    pub told_to_pay: bool,
    /// `seq` of the newest command; rises, never repeats.
    pub command_seq: u64,
    /// No command below this one is unfinished.
    pub oldest_open_command_seq: u64,
    /// Its last accepted proof of hardware.
    #[serde(default)]
    pub proof: Option<ProofMark>,
}
impl Row for Device {}

impl Device {
    /// Whether it may only receive commands.
    pub const fn is_blocked(&self) -> bool {
        matches!(self.state, DeviceState::Blocked { .. })
    }

    /// The tier that is paid for at this moment.
    pub fn paid_tier(&self, now: Timestamp) -> Option<PlanTier> {
        self.paid.filter(|paid| paid.until.is_none_or(|until| now < until)).map(|paid| paid.tier)
    }

    /// Whole days of trial that are left, a begun day counting as one.
    pub fn trial_days_remaining(&self, now: Timestamp) -> u64 {
        const DAY: Duration = Duration::from_secs(86_400);
        self.trial_expires_at.since(now).as_secs().div_ceil(DAY.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::BlockCause::{Attestation, Command, Intel, KillSwitch, Quarantine, RefreshReused, Score};

    /// A holder who could keep a mild cause in the place of a grave one would free the device by a clean proof.
    #[test]
    fn a_graver_cause_takes_the_place_of_a_milder_one_and_never_the_other_way_round() {
        let graver = [RefreshReused, Command, Attestation, Intel];
        for (standing, replaced_by) in [
            (KillSwitch, [&[Quarantine, Score], &graver[..]].concat()),
            (Quarantine, [&[Score], &graver[..]].concat()),
            (Score, graver.to_vec()),
            (RefreshReused, Vec::new()),
            (Command, Vec::new()),
            (Attestation, Vec::new()),
            (Intel, Vec::new()),
        ] {
            for cause in [KillSwitch, Quarantine, Score, RefreshReused, Command, Attestation, Intel] {
                assert_eq!(cause.outranks(standing), replaced_by.contains(&cause), "{cause:?} for {standing:?}");
            }
        }
    }
}
