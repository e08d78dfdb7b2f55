//! Users, sessions and enrollment tokens as they are stored.

use serde::{Deserialize, Serialize};

use super::permission::{Role, RoleName};
use super::refresh::Family;
use crate::kernel::ids::{DeviceId, EnrollmentId, SessionId, TenantId, UserId};
use crate::kernel::{Result, Timestamp};
use crate::store::tables::{Key, USERS};
use crate::store::{Row, Snapshot};

/// A stored user.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct User {
    /// `usr_...`
    pub id: UserId,
    /// Where they belong.
    pub tenant: TenantId,
    /// Unique on the appliance; upper and lower case are the same.
    pub username: String,
    /// For people.
    #[serde(default)]
    pub display_name: Option<String>,
    /// Where an invitation may be sent by hand; the appliance itself sends no mail.
    #[serde(default)]
    pub email: Option<String>,
    /// PHC string; `None` until an invited person has chosen a password.
    pub(super) password: Option<String>,
    /// What they may do.
    pub roles: Vec<RoleName>,
    /// Whether they also administer the appliance.
    pub system_admin: bool,
    /// A disabled user cannot log in.
    pub disabled: bool,
    /// When they were made.
    pub created_at: Timestamp,
    /// When the password was last set.
    #[serde(default)]
    pub password_changed_at: Option<Timestamp>,
    /// SHA-256 of the one link that may set the password; a newer link takes the place of an older one.
    #[serde(default)]
    pub(super) link: Option<[u8; 32]>,
}
impl Row for User {}

impl User {
    /// Whether the built-in administrator role is among the roles, and the user may log in.
    pub fn is_administrator(&self) -> bool {
        !self.disabled && self.roles.contains(&RoleName::BuiltIn(Role::Admin))
    }
}

/// How a session's tokens are bound to a key that its holder must prove to have.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binding {
    /// A DPoP key, by its RFC 7638 thumbprint (RFC 9449, section 6).
    Dpop(String),
    /// A client certificate, by the SHA-256 of its DER in base64url (RFC 8705, section 3).
    Certificate(String),
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
    /// Its device was removed. One of the same name that comes back is another device: its socket is not for this one.
    DeviceRemoved,
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
    /// What its user calls it.
    #[serde(default)]
    pub name: Option<String>,
    /// When its holder last proved who they are.
    #[serde(default)]
    pub authenticated_at: Option<Timestamp>,
    /// When they last did so with a second factor.
    #[serde(default)]
    pub second_factor_at: Option<Timestamp>,
    /// The key that its tokens are bound to.
    #[serde(default)]
    pub binding: Option<Binding>,
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
    /// What its user calls it.
    pub name: Option<String>,
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

impl EnrollmentTokenRow {
    /// Whether it still enrolls a device of this name.
    pub fn is_good_for(&self, device: &DeviceId, now: Timestamp) -> bool {
        let spent = self.uses_max.is_some_and(|max| self.uses >= max);
        let for_another = self.device.as_ref().is_some_and(|d| d != device);
        !(self.revoked || spent || for_another || now >= self.expires_at)
    }
}
