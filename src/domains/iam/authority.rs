//! Who may hand on what. Decided from the rows that the change itself sees, so that no role that was taken away a moment
//! ago still hands out rights.
//!
//! Knows nothing of HTTP.

use super::Iam;
use super::model::User;
use super::permission::{Permission, PermissionSet, RoleName};
use super::roles;
use crate::kernel::ids::{TenantId, UserId};
use crate::kernel::{Error, Kind, Refusal, Result};
use crate::store::tables::{Key, USERS};
use crate::store::{Tx, codec};

/// Who asks for a change of people or rights, and the bound of what they may hand on.
#[derive(Clone, Copy, Debug)]
pub struct Authority {
    /// The person who answers for it: who calls, or who made the program's credential.
    pub by: UserId,
    /// What the caller might do when the request came in.
    pub may: PermissionSet,
    /// Whether a program asks.
    pub program: bool,
    /// Whether `by` stands behind the request with their own rights: a person, or a key that acts for one.
    pub bounded_by_person: bool,
}

impl Authority {
    /// What the caller may hand on at the moment of the change.
    ///
    /// # Errors
    /// 403 `forbidden` when the permission that the change needs is no longer among it.
    pub(super) fn bound(&self, tx: &mut Tx<'_>, tenant: TenantId, needed: Permission) -> Result<PermissionSet> {
        let mut may = self.may;
        if self.bounded_by_person {
            let person = Iam::load_user(tx, tenant, self.by)?.filter(|u| !u.disabled);
            let own = match person {
                Some(person) => permissions_in(tx, &person)?,
                None => PermissionSet::NONE,
            };
            may = may.intersection(own);
        }
        if may.has(needed) {
            return Ok(may);
        }
        Err(forbidden(format!("This needs the permission {}.", needed.name())))
    }

    /// The person whom the caller wants to change.
    ///
    /// # Errors
    /// 404 for another tenant's; 403 `forbidden` for somebody who may do what the caller may not. Whoever could reset
    /// such a person's password would have their rights.
    pub(super) fn target(&self, tx: &mut Tx<'_>, tenant: TenantId, target: UserId) -> Result<(User, PermissionSet)> {
        let may = self.bound(tx, tenant, Permission::UsersWrite)?;
        let user = Iam::load_user(tx, tenant, target)?.ok_or_else(Refusal::not_found)?;
        if !may.covers(permissions_in(tx, &user)?) {
            let detail = "This person may do what you may not. Ask somebody with their permissions.";
            return Err(forbidden(detail.to_owned()));
        }
        Ok((user, may))
    }
}

pub(super) fn forbidden(detail: String) -> Error {
    Refusal::new(Kind::Forbidden, "forbidden", detail).into()
}

/// What a person's roles allow, by the rows that this change sees; whether they are disabled does not matter here.
pub(super) fn permissions_in(tx: &mut Tx<'_>, user: &User) -> Result<PermissionSet> {
    let mut all = PermissionSet::NONE;
    if user.system_admin {
        all = all.with(Permission::SystemAdmin);
    }
    for role in &user.roles {
        all = all.union(role_permissions(tx, user.tenant, *role)?.unwrap_or_default());
    }
    Ok(all)
}

fn role_permissions(tx: &mut Tx<'_>, tenant: TenantId, role: RoleName) -> Result<Option<PermissionSet>> {
    Ok(match role {
        RoleName::BuiltIn(role) => Some(role.permissions()),
        RoleName::Custom(id) => roles::load(tx, tenant, id)?.map(|row| row.permissions),
    })
}

/// Checks that these roles exist and allow nothing beyond `may`.
pub(super) fn check_granted(tx: &mut Tx<'_>, tenant: TenantId, wanted: &[RoleName], may: PermissionSet) -> Result<()> {
    for (i, role) in wanted.iter().enumerate() {
        let permissions = role_permissions(tx, tenant, *role)?;
        let permissions =
            permissions.ok_or_else(|| Refusal::invalid(format!("/roles/{i}"), "is not a role of this tenant"))?;
        if !may.covers(permissions) {
            return Err(forbidden(format!("The role {role} allows what you may not do, so you cannot hand it out.")));
        }
    }
    Ok(())
}

/// Refuses a change that leaves a tenant without an enabled administrator who has a password.
pub(super) fn check_administrators(tx: &mut Tx<'_>, before: &User, after: Option<&User>) -> Result<()> {
    if !before.is_administrator() || after.is_some_and(User::is_administrator) {
        return Ok(());
    }
    let mut another = false;
    tx.visit(USERS, &Key::new().bytes(before.tenant.to_bytes()), |_, value| {
        let user: User = codec::decode(value)?;
        // Somebody who never took up the invitation could not let anybody in again.
        another = user.id != before.id && user.is_administrator() && user.password.is_some();
        Ok(!another)
    })?;
    if another {
        return Ok(());
    }
    let detail = "This is the tenant's last administrator. Make somebody else an administrator first.";
    Err(Refusal::new(Kind::Conflict, "last_administrator", detail).into())
}
