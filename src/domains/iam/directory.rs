//! People in memory: what every request asks of its user. Fed by commits only.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::model::User;
use super::permission::{Permission, PermissionSet, RoleName};
use super::roles::RoleRow;
use super::second_factor::FactorsRow;
use crate::kernel::Result;
use crate::kernel::ids::{RoleId, TenantId, UserId};
use crate::store::Snapshot;
use crate::store::tables::{ROLES, SECOND_FACTORS, USERS};

/// The live side of one person.
pub struct UserEntry {
    /// `usr_...`
    pub id: UserId,
    /// Where they belong.
    pub tenant: TenantId,
    permissions: AtomicU64,
    disabled: AtomicBool,
    has_second_factor: AtomicBool,
    facts: ArcSwap<Facts>,
}

struct Facts {
    roles: Vec<RoleName>,
    system_admin: bool,
}

impl UserEntry {
    /// What they may do at this moment.
    pub fn permissions(&self) -> PermissionSet {
        if self.is_disabled() {
            return PermissionSet::NONE;
        }
        PermissionSet::from_bits(self.permissions.load(Ordering::Acquire))
    }

    /// Whether they may do this at this moment.
    pub fn may(&self, permission: Permission) -> bool {
        self.permissions().has(permission)
    }

    /// Whether they were shut out or removed.
    pub fn is_disabled(&self) -> bool {
        self.disabled.load(Ordering::Acquire)
    }

    /// Whether they have set up a second factor.
    pub fn has_second_factor(&self) -> bool {
        self.has_second_factor.load(Ordering::Acquire)
    }
}

#[derive(Default)]
pub(super) struct Directory {
    users: papaya::HashMap<UserId, Arc<UserEntry>>,
    roles: papaya::HashMap<RoleId, (TenantId, PermissionSet)>,
}

impl Directory {
    pub fn rebuild(&self, snapshot: &Snapshot) -> Result<()> {
        snapshot.rows::<RoleRow>(ROLES, |_, row| {
            self.roles.pin().insert(row.id, (row.tenant, row.permissions));
            Ok(())
        })?;
        snapshot.rows::<User>(USERS, |_, user| {
            self.apply(&user);
            Ok(())
        })?;
        snapshot.rows::<FactorsRow>(SECOND_FACTORS, |_, row| {
            self.set_second_factor(row.user, row.is_usable());
            Ok(())
        })
    }

    pub fn get(&self, user: UserId) -> Option<Arc<UserEntry>> {
        self.users.pin().get(&user).cloned()
    }

    fn permissions(&self, tenant: TenantId, facts: &Facts) -> PermissionSet {
        let roles = self.roles.pin();
        let start =
            if facts.system_admin { PermissionSet::NONE.with(Permission::SystemAdmin) } else { PermissionSet::NONE };
        facts.roles.iter().fold(start, |all, role| match role {
            RoleName::BuiltIn(role) => all.union(role.permissions()),
            RoleName::Custom(id) => {
                let found = roles.get(id).filter(|(of, _)| *of == tenant);
                found.map_or(all, |(_, permissions)| all.union(*permissions))
            }
        })
    }

    /// What a list of roles allows, in a tenant.
    pub fn permissions_of(&self, tenant: TenantId, roles: &[RoleName], system_admin: bool) -> PermissionSet {
        self.permissions(tenant, &Facts { roles: roles.to_vec(), system_admin })
    }

    /// Only the writer calls this after start-up, as everything below.
    pub fn apply(&self, user: &User) {
        let pinned = self.users.pin();
        let facts = Arc::new(Facts { roles: user.roles.clone(), system_admin: user.system_admin });
        let permissions = self.permissions(user.tenant, &facts).bits();
        let entry = pinned.get_or_insert_with(user.id, || {
            Arc::new(UserEntry {
                id: user.id,
                tenant: user.tenant,
                permissions: AtomicU64::new(permissions),
                disabled: AtomicBool::new(user.disabled),
                has_second_factor: AtomicBool::new(false),
                facts: ArcSwap::new(Arc::clone(&facts)),
            })
        });
        entry.facts.store(facts);
        entry.permissions.store(permissions, Ordering::Release);
        entry.disabled.store(user.disabled, Ordering::Release);
    }

    pub fn set_second_factor(&self, user: UserId, usable: bool) {
        if let Some(entry) = self.users.pin().get(&user) {
            entry.has_second_factor.store(usable, Ordering::Release);
        }
    }

    /// Forgets a person; who still holds the entry finds it disabled.
    pub fn remove(&self, user: UserId) {
        if let Some(entry) = self.users.pin().remove(&user) {
            entry.disabled.store(true, Ordering::Release);
        }
    }

    /// Puts a role in place, or takes it away, and with it what its bearers may do.
    pub fn apply_role(&self, tenant: TenantId, role: RoleId, permissions: Option<PermissionSet>) {
        match permissions {
            Some(permissions) => drop(self.roles.pin().insert(role, (tenant, permissions))),
            None => drop(self.roles.pin().remove(&role)),
        }
        for entry in self.users.pin().values().filter(|u| u.tenant == tenant) {
            let facts = entry.facts.load();
            if facts.roles.contains(&RoleName::Custom(role)) {
                entry.permissions.store(self.permissions(tenant, &facts).bits(), Ordering::Release);
            }
        }
    }

    /// How many people each tenant has.
    pub fn tally(&self) -> HashMap<TenantId, usize> {
        let mut counts = HashMap::new();
        for entry in self.users.pin().values() {
            *counts.entry(entry.tenant).or_default() += 1;
        }
        counts
    }

    /// Forgets everybody and every role of a tenant.
    pub fn remove_tenant(&self, tenant: TenantId) {
        let users = self.users.pin();
        for entry in users.values().filter(|u| u.tenant == tenant) {
            entry.disabled.store(true, Ordering::Release);
        }
        users.retain(|_, entry| entry.tenant != tenant);
        self.roles.pin().retain(|_, (of, _)| *of != tenant);
    }
}
