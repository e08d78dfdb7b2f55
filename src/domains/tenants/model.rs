//! A tenant, its policies and its states.

use serde::{Deserialize, Serialize};

use super::plan::Purchase;
use crate::kernel::Timestamp;
use crate::kernel::ids::TenantId;
use crate::store::Row;

/// Who may enroll a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EnrollmentPolicy {
    /// Who holds an enrollment token, or a user with `devices:write`.
    #[default]
    Token,
    /// Everybody on the network. It takes two to open a tenant: this policy, and the configuration
    /// (`enrollment.open_tenant`) that names the tenant; for any other tenant this is the same as `token`.
    Open,
}

/// Whether a new device must prove its hardware.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttestationPolicy {
    /// It may.
    #[default]
    Optional,
    /// Without a proof it is not enrolled; a key in software will do.
    Required,
    /// Without a proof of hardware it is not enrolled.
    Hardware,
}

/// How long a tenant's data is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Days after which an entry of the forensic log keeps only its hash; null: for ever.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 36_500)]
    pub audit_days: Option<u32>,
}

/// Whether a tenant may act.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum TenantState {
    /// It may.
    #[default]
    Active,
    /// Its people and devices are refused; its devices still receive commands.
    Suspended {
        /// In words.
        reason: String,
        /// Since when.
        at: Timestamp,
    },
    /// Its rows are gone or going; only its log stays.
    Deleted {
        /// Since when.
        at: Timestamp,
        /// Whether all of its rows are gone.
        #[serde(default)]
        purged: bool,
    },
}

/// All devices of a tenant are locked at once, and no new one is let in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KillSwitchEngaged {
    /// In words.
    pub reason: String,
    /// Since when.
    pub at: Timestamp,
}

/// A stored tenant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tenant {
    /// `ten_...`
    pub id: TenantId,
    /// For people.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who may enroll a device.
    #[serde(default)]
    pub enrollment: EnrollmentPolicy,
    /// Whether a new device must attest its hardware.
    #[serde(default)]
    pub attestation: AttestationPolicy,
    /// BCP 47 tag of the language that its people read.
    #[serde(default = "default_locale")]
    pub locale: String,
    /// How long data is kept.
    #[serde(default)]
    pub retention: Retention,
    /// Whether it may act.
    #[serde(default)]
    pub state: TenantState,
    /// Set while the kill switch of the whole tenant is engaged.
    #[serde(default)]
    pub kill_switch: Option<KillSwitchEngaged>,
    /// What it has bought.
    #[serde(default)]
    pub purchase: Purchase,
}
impl Row for Tenant {}

fn default_locale() -> String {
    Tenant::DEFAULT_LOCALE.to_owned()
}

impl Tenant {
    /// What a tenant reads that names no language.
    pub const DEFAULT_LOCALE: &'static str = "en";

    /// A tenant with the default policies.
    pub fn new(id: TenantId, name: impl Into<String>, created_at: Timestamp) -> Self {
        Self {
            id,
            name: name.into(),
            created_at,
            enrollment: EnrollmentPolicy::default(),
            attestation: AttestationPolicy::default(),
            locale: default_locale(),
            retention: Retention::default(),
            state: TenantState::default(),
            kill_switch: None,
            purchase: Purchase::default(),
        }
    }

    /// Whether its rows are gone or going.
    pub const fn is_deleted(&self) -> bool {
        matches!(self.state, TenantState::Deleted { .. })
    }
}
