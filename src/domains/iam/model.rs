//! Users, sessions, enrollment tokens and what a role may do.

use serde::{Deserialize, Serialize};

use super::refresh::Family;
use crate::kernel::ids::{DeviceId, EnrollmentId, SessionId, TenantId, UserId};
use crate::kernel::{Result, Timestamp};
use crate::store::tables::{Key, USERS};
use crate::store::{Row, Snapshot};

/// What a user may do. The names are the wire's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Permission {
    /// `devices:read`
    DevicesRead,
    /// `devices:write`
    DevicesWrite,
    /// `devices:command`
    DevicesCommand,
    /// `audit:read`
    AuditRead,
    /// `system:admin`: the appliance itself.
    SystemAdmin,
}

impl Permission {
    /// As on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DevicesRead => "devices:read",
            Self::DevicesWrite => "devices:write",
            Self::DevicesCommand => "devices:command",
            Self::AuditRead => "audit:read",
            Self::SystemAdmin => "system:admin",
        }
    }

    /// Every permission there is.
    pub const ALL: [Self; 5] =
        [Self::DevicesRead, Self::DevicesWrite, Self::DevicesCommand, Self::AuditRead, Self::SystemAdmin];
}

/// A built-in role.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything within the tenant.
    Admin,
    /// Watches, investigates, locks and releases.
    SecurityAnalyst,
    /// Reads and enrolls.
    Manager,
    /// Reads.
    Viewer,
    /// Reads, and the audit log of all devices.
    Auditor,
}

impl Role {
    /// Whether the role includes the permission.
    pub const fn allows(self, permission: Permission) -> bool {
        use Permission::{AuditRead, DevicesCommand, DevicesRead, DevicesWrite, SystemAdmin};
        match permission {
            DevicesRead => true,
            DevicesWrite => matches!(self, Self::Admin | Self::Manager),
            DevicesCommand => matches!(self, Self::Admin | Self::SecurityAnalyst),
            AuditRead => matches!(self, Self::Admin | Self::SecurityAnalyst | Self::Auditor),
            SystemAdmin => false,
        }
    }
}

/// A stored user.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct User {
    /// `usr_...`
    pub id: UserId,
    /// Where they belong.
    pub tenant: TenantId,
    /// Unique on the appliance.
    pub username: String,
    /// PHC string.
    pub(super) password: String,
    /// What they may do.
    pub roles: Vec<Role>,
    /// Whether they also administer the appliance.
    pub system_admin: bool,
    /// A disabled user cannot log in.
    pub disabled: bool,
    /// When they were made.
    pub created_at: Timestamp,
}
impl Row for User {}

impl User {
    /// Whether one of the roles includes the permission.
    pub fn may(&self, permission: Permission) -> bool {
        match permission {
            Permission::SystemAdmin => self.system_admin,
            other => self.roles.iter().any(|role| role.allows(other)),
        }
    }

    /// The names of all permissions, for the token's scope.
    pub fn permissions(&self) -> Vec<&'static str> {
        Permission::ALL.into_iter().filter(|p| self.may(*p)).map(Permission::name).collect()
    }
}

/// Reads one user.
pub(super) fn user(snapshot: &Snapshot, tenant: TenantId, user: UserId) -> Result<Option<User>> {
    snapshot.get(USERS, Key::new().bytes(tenant.to_bytes()).bytes(user.to_bytes()))
}

/// Why a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndCause {
    /// Its holder ended it.
    LoggedOut,
    /// Somebody else of the same user, or an administrator, ended it.
    Revoked,
    /// The device was enrolled again.
    Replaced,
    /// An old refresh token came back.
    RefreshReused,
}

/// A stored session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SessionRow {
    pub id: SessionId,
    pub tenant: TenantId,
    pub user: UserId,
    /// The device that holds it; `None` for a person.
    pub device: Option<DeviceId>,
    pub created_at: Timestamp,
    pub last_refresh_at: Timestamp,
    pub ip: Option<String>,
    pub user_agent: Option<String>,
    pub family: Family,
    pub ended: Option<(EndCause, Timestamp)>,
}
impl Row for SessionRow {}

/// A session as its user sees it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Session)]
pub struct SessionView {
    /// `ses_...`
    #[schema(value_type = String)]
    pub id: SessionId,
    /// The device that holds it; null for a person.
    #[schema(value_type = Option<String>)]
    pub device_id: Option<DeviceId>,
    /// The address it was opened from.
    pub ip: Option<String>,
    /// The program it was opened with.
    pub user_agent: Option<String>,
    /// When it was opened.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it was last used, to the second.
    #[schema(value_type = String, format = DateTime)]
    pub last_used_at: Timestamp,
    /// Whether this request came on it.
    pub current: bool,
}

/// A stored enrollment token; the key is the token's hash.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct EnrollmentTokenRow {
    pub id: EnrollmentId,
    pub tenant: TenantId,
    /// Who will own the devices.
    pub owner: UserId,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    /// `None`: no limit.
    pub uses_max: Option<u32>,
    pub uses: u32,
    /// Only for this device, and then also for enrolling it again.
    pub device: Option<DeviceId>,
    pub revoked: bool,
}
impl Row for EnrollmentTokenRow {}
