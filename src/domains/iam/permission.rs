//! What somebody may do: the permissions, sets of them, and the built-in roles. One table says all of it.
//!
//! Pure; knows neither users nor routes. A permission that only later parts ask for stands here already, so that a role
//! which a tenant makes today needs no change then.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::kernel::ids::RoleId;

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $meaning:literal, [$($role:ident)*];)+) => {
        /// What somebody may do. The names are the wire's.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Permission {
            $(#[doc = $meaning] $name,)+
        }

        impl Permission {
            /// Every permission there is.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// As on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// In words.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)+ }
            }

            const fn roles(self) -> &'static [Role] {
                match self { $(Self::$name => &[$(Role::$role),*],)+ }
            }
        }
    };
}

permissions! {
    DevicesRead = "devices:read", "See devices, their scores and their commands.", [Admin SecurityAnalyst Manager Viewer Auditor];
    DevicesWrite = "devices:write", "Enroll, rename and remove devices.", [Admin Manager];
    DevicesCommand = "devices:command", "Lock and release devices.", [Admin SecurityAnalyst];
    KillSwitchEngage = "kill-switch:engage", "Lock and release all devices of the tenant at once.", [Admin];
    TrustWrite = "trust:write", "Change which roots of trust vouch for the hardware of devices.", [Admin];
    UsersRead = "users:read", "See people, teams and roles.", [Admin SecurityAnalyst Manager Auditor];
    UsersWrite = "users:write", "Change people, teams and roles.", [Admin];
    KeysRead = "keys:read", "See API keys and tokens, never their secrets.", [Admin Auditor];
    KeysWrite = "keys:write", "Make, rotate and revoke API keys and tokens.", [Admin];
    IntelRead = "intel:read", "See threat feeds, and look values up in them.", [Admin SecurityAnalyst Manager Viewer Auditor];
    IntelWrite = "intel:write", "Take threat feeds in and remove them.", [Admin SecurityAnalyst];
    AuditRead = "audit:read", "Read the forensic log of all devices.", [Admin SecurityAnalyst Auditor];
    TargetsRead = "targets:read", "See the hosts that are watched for weaknesses.", [Admin SecurityAnalyst Manager Viewer Auditor];
    TargetsWrite = "targets:write", "Change the hosts that are watched.", [Admin SecurityAnalyst];
    ScansRead = "scans:read", "See scans.", [Admin SecurityAnalyst Manager Viewer Auditor];
    ScansWrite = "scans:write", "Start and stop scans.", [Admin SecurityAnalyst];
    VulnerabilitiesRead = "vulnerabilities:read", "See findings.", [Admin SecurityAnalyst Manager Viewer Auditor];
    VulnerabilitiesWrite = "vulnerabilities:write", "Judge findings.", [Admin SecurityAnalyst];
    ReportsRead = "reports:read", "Read reports.", [Admin SecurityAnalyst Manager Viewer Auditor];
    ReportsWrite = "reports:write", "Make reports.", [Admin SecurityAnalyst Manager];
    BoardsRead = "boards:read", "See boards and cases.", [Admin SecurityAnalyst Manager Viewer Auditor];
    BoardsWrite = "boards:write", "Work cases.", [Admin SecurityAnalyst Manager];
    IntegrationsRead = "integrations:read", "See integrations.", [Admin SecurityAnalyst Auditor];
    IntegrationsWrite = "integrations:write", "Change integrations.", [Admin];
    BillingRead = "billing:read", "See plan, usage and subscriptions.", [Admin Manager Auditor];
    BillingWrite = "billing:write", "Change plan and licence.", [Admin];
    FlagsRead = "flags:read", "See and evaluate feature flags.", [Admin SecurityAnalyst Manager Viewer Auditor];
    FlagsWrite = "flags:write", "Change feature flags.", [Admin];
    SystemAdmin = "system:admin", "Administer the appliance and its tenants.", [];
}

impl std::str::FromStr for Permission {
    type Err = UnknownPermission;
    fn from_str(text: &str) -> Result<Self, UnknownPermission> {
        Self::ALL.iter().copied().find(|p| p.name() == text).ok_or(UnknownPermission)
    }
}

/// A text that names no permission.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("is not a permission; GET /v1/roles shows them all")]
pub struct UnknownPermission;

/// A set of permissions, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct PermissionSet(u64);

impl PermissionSet {
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// As one word, for an atomic.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The set that was stored as this word in this process.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// With one more.
    #[must_use]
    pub const fn with(self, permission: Permission) -> Self {
        Self(self.0 | (1 << permission as u32))
    }

    /// Both together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What both have.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether the permission is in it.
    pub const fn has(self, permission: Permission) -> bool {
        self.0 & (1 << permission as u32) != 0
    }

    /// Whether everything of `other` is in it.
    pub const fn covers(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// In the order of the table.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.iter().copied().filter(move |p| self.has(*p))
    }

    /// Space-separated names, as a token's `scope`.
    pub fn scope(self) -> String {
        self.iter().map(Permission::name).collect::<Vec<_>>().join(" ")
    }

    /// The names.
    pub fn names(self) -> Vec<String> {
        self.iter().map(|p| p.name().to_owned()).collect()
    }
}

impl FromIterator<Permission> for PermissionSet {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        permissions.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for PermissionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.scope())
    }
}

impl Serialize for PermissionSet {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.iter().map(Permission::name))
    }
}

impl<'de> Deserialize<'de> for PermissionSet {
    /// A stored name that this program no longer knows grants nothing.
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(d)?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }
}

/// A built-in role.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything within the tenant.
    Admin,
    /// Watches, investigates, locks and releases.
    SecurityAnalyst,
    /// Sees how things stand, enrolls devices, makes reports.
    Manager,
    /// Reads.
    Viewer,
    /// Reads, the forensic log and the list of keys included.
    Auditor,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Admin, Self::SecurityAnalyst, Self::Manager, Self::Viewer, Self::Auditor];

    /// As on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::SecurityAnalyst => "security_analyst",
            Self::Manager => "manager",
            Self::Viewer => "viewer",
            Self::Auditor => "auditor",
        }
    }

    /// What it allows.
    pub fn permissions(self) -> PermissionSet {
        Permission::ALL.iter().copied().filter(|p| p.roles().contains(&self)).collect()
    }
}

/// A role as a user bears it: built in, or made by the tenant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RoleName {
    /// By its name.
    BuiltIn(Role),
    /// By its id.
    Custom(RoleId),
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn(role) => f.write_str(role.name()),
            Self::Custom(id) => fmt::Display::fmt(id, f),
        }
    }
}

impl std::str::FromStr for RoleName {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(role) = Role::ALL.into_iter().find(|r| r.name() == text) {
            return Ok(Self::BuiltIn(role));
        }
        text.parse().map(Self::Custom).map_err(|_| "is neither a built-in role nor the id of one of the tenant's roles")
    }
}

impl Serialize for RoleName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RoleName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn names_lead_back_to_their_permission_and_bits_are_their_own() {
        assert!(Permission::ALL.len() <= 64, "a set is one word");
        let mut seen = PermissionSet::NONE;
        for permission in Permission::ALL.iter().copied() {
            assert_eq!(permission.name().parse(), Ok(permission));
            assert!(!seen.has(permission), "{permission:?}");
            seen = seen.with(permission);
        }
        assert_eq!("devices:fly".parse::<Permission>(), Err(UnknownPermission));
    }

    #[test]
    fn no_role_administers_the_appliance_and_only_the_administrator_hands_out_rights() {
        for role in Role::ALL {
            let may = role.permissions();
            assert!(!may.has(Permission::SystemAdmin), "{role:?}");
            assert!(Role::Admin.permissions().covers(may), "{role:?} may what an administrator may not");
            let hands_out = may.has(Permission::UsersWrite) || may.has(Permission::KeysWrite);
            assert_eq!(hands_out, role == Role::Admin, "{role:?}");
        }
        let reads_only = |role: Role| role.permissions().iter().all(|p| p.name().ends_with(":read"));
        assert!(reads_only(Role::Viewer) && reads_only(Role::Auditor));
        assert!(!Role::Viewer.permissions().has(Permission::AuditRead));
    }

    #[test]
    fn a_stored_set_is_read_back_and_a_forgotten_name_grants_nothing() {
        let set: PermissionSet = [Permission::DevicesRead, Permission::AuditRead].into_iter().collect();
        let text = serde_json::to_string(&set).unwrap();
        assert_eq!(text, r#"["devices:read","audit:read"]"#);
        assert_eq!(serde_json::from_str::<PermissionSet>(&text).unwrap(), set);
        let old: PermissionSet = serde_json::from_str(r#"["devices:read","teleport:write"]"#).unwrap();
        assert_eq!(old, PermissionSet::NONE.with(Permission::DevicesRead));
        assert_eq!(serde_json::to_string(&RoleName::BuiltIn(Role::SecurityAnalyst)).unwrap(), r#""security_analyst""#);
    }
}
