//! Roles that a tenant makes for itself, beside the built-in ones.
//!
//! Nobody makes or changes a role that allows what they may not do themselves. Knows nothing of HTTP.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::authority::{Authority, forbidden};
use super::model::User;
use super::permission::{Permission, PermissionSet, Role, RoleName};
use super::{Iam, names};
use crate::domains::audit::{self, Action, NewEntry};
use crate::kernel::context::Origin;
use crate::kernel::ids::{RoleId, TenantId};
use crate::kernel::{Kind, Refusal, Result, Timestamp};
use crate::store::idempotency::{self, Once};
use crate::store::tables::{Key, ROLES, USERS};
use crate::store::{Row, Tx, codec};

/// Roles of one tenant.
const ROLES_MAX: usize = 200;

/// A stored role.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoleRow {
    /// `rol_...`
    pub id: RoleId,
    /// Whose.
    pub tenant: TenantId,
    /// For people; unique in the tenant.
    pub name: String,
    /// What it allows.
    pub permissions: PermissionSet,
    /// When it was made.
    pub created_at: Timestamp,
}
impl Row for RoleRow {}

/// A role.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Role)]
pub struct RoleView {
    /// The name of a built-in role, `rol_...` of one of the tenant's own.
    #[schema(value_type = String)]
    pub id: RoleName,
    /// For people; unique in the tenant.
    pub name: String,
    /// Whether it is part of the appliance; such a one cannot be changed.
    pub built_in: bool,
    /// What it allows.
    pub permissions: Vec<String>,
    /// When it was made; null for a built-in one.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub created_at: Option<Timestamp>,
}

impl From<Role> for RoleView {
    fn from(role: Role) -> Self {
        Self {
            id: RoleName::BuiltIn(role),
            name: role.name().to_owned(),
            built_in: true,
            permissions: role.permissions().names(),
            created_at: None,
        }
    }
}

impl From<&RoleRow> for RoleView {
    fn from(row: &RoleRow) -> Self {
        Self {
            id: RoleName::Custom(row.id),
            name: row.name.clone(),
            built_in: false,
            permissions: row.permissions.names(),
            created_at: Some(row.created_at),
        }
    }
}

fn key(tenant: TenantId, role: RoleId) -> Key {
    Key::new().bytes(tenant.to_bytes()).bytes(role.to_bytes())
}

/// Reads a role inside a change.
pub(super) fn load(tx: &mut Tx<'_>, tenant: TenantId, role: RoleId) -> Result<Option<RoleRow>> {
    tx.get(ROLES, key(tenant, role))
}

fn save(iam: &Iam, tx: &mut Tx<'_>, row: &RoleRow) -> Result<()> {
    tx.put(ROLES, key(row.tenant, row.id), row)?;
    let (iam, tenant, role, permissions) = (iam.clone(), row.tenant, row.id, row.permissions);
    tx.after_commit(move || iam.inner.directory.apply_role(tenant, role, Some(permissions)));
    Ok(())
}

/// 409 for a name that another role of the tenant, or a built-in one, has.
fn check_name(tx: &mut Tx<'_>, tenant: TenantId, name: &str, own: Option<RoleId>) -> Result<usize> {
    names::check(name, names::GROUP_NAME_MAX).map_err(|e| Refusal::invalid("/name", e))?;
    let wanted = name.to_lowercase();
    let (mut count, mut taken) = (0, Role::ALL.iter().any(|r| r.name() == wanted));
    tx.visit(ROLES, &Key::new().bytes(tenant.to_bytes()), |_, value| {
        let row: RoleRow = codec::decode(value)?;
        count += 1;
        taken |= Some(row.id) != own && row.name.to_lowercase() == wanted;
        Ok(true)
    })?;
    if taken {
        let detail = "A role of this name exists. Choose another name.";
        return Err(Refusal::new(Kind::Conflict, "name_taken", detail).into());
    }
    Ok(count)
}

fn check_within(may: PermissionSet, wanted: PermissionSet) -> Result<()> {
    if may.covers(wanted) {
        return Ok(());
    }
    let beyond: Vec<&str> = wanted.iter().filter(|p| !may.has(*p)).map(Permission::name).collect();
    Err(forbidden(format!("The role allows what you may not do yourself: {}.", beyond.join(", "))))
}

impl Iam {
    /// The built-in roles, then the tenant's own in the order of their making.
    pub async fn roles(&self, tenant: TenantId) -> Result<Vec<RoleView>> {
        self.inner
            .store
            .read_with(move |snapshot| {
                let mut roles: Vec<RoleView> = Role::ALL.into_iter().map(RoleView::from).collect();
                snapshot.visit_prefix(ROLES, &Key::new().bytes(tenant.to_bytes()), |_, value| {
                    roles.push(RoleView::from(&codec::decode::<RoleRow>(value)?));
                    Ok(true)
                })?;
                Ok(roles)
            })
            .await
    }

    /// One role.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn role(&self, tenant: TenantId, role: RoleName) -> Result<RoleView> {
        let id = match role {
            RoleName::BuiltIn(role) => return Ok(role.into()),
            RoleName::Custom(id) => id,
        };
        let row: Option<RoleRow> = self.inner.store.read_with(move |s| s.get(ROLES, key(tenant, id))).await?;
        Ok(RoleView::from(&row.ok_or_else(Refusal::not_found)?))
    }

    /// Makes a role.
    ///
    /// # Errors
    /// 403 `forbidden` for permissions beyond the caller's own; 409 `name_taken`, `too_many_roles`.
    pub async fn create_role(
        &self,
        tenant: TenantId,
        name: String,
        permissions: PermissionSet,
        authority: Authority,
        once: Option<Once>,
        origin: Origin,
    ) -> Result<RoleView> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let now = this.inner.clock.now();
                let may = authority.bound(tx, tenant, Permission::UsersWrite)?;
                if let Some(first) = idempotency::recall(tx, tenant.to_bytes(), once.as_ref(), now)? {
                    return Ok(first);
                }
                check_within(may, permissions)?;
                if check_name(tx, tenant, &name, None)? >= ROLES_MAX {
                    let detail = format!("The tenant has {ROLES_MAX} roles, which is all it takes. Remove some first.");
                    return Err(Refusal::new(Kind::Conflict, "too_many_roles", detail).into());
                }
                let id = RoleId::generate(now, &this.inner.random);
                let row = RoleRow { id, tenant, name: name.clone(), permissions, created_at: now };
                save(&this, tx, &row)?;
                let what = format!("{id} ({name}): {}", permissions.scope());
                let entry = NewEntry::new(Action::RoleCreated, &origin).user(authority.by).reason(what);
                audit::append(tx, tenant, now, &this.inner.random, &entry)?;
                let view = RoleView::from(&row);
                idempotency::remember(tx, tenant.to_bytes(), once.as_ref(), now, &view)?;
                Ok(view)
            })
            .await
    }

    /// Changes a role; everybody who bears it has what it then allows at their next request.
    ///
    /// # Errors
    /// `not_found`; 403 `forbidden` where the role allows, or would allow, what the caller may not; 409 `name_taken`.
    pub async fn change_role(
        &self,
        tenant: TenantId,
        role: RoleId,
        name: Option<String>,
        permissions: Option<PermissionSet>,
        authority: Authority,
        origin: Origin,
    ) -> Result<RoleView> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let may = authority.bound(tx, tenant, Permission::UsersWrite)?;
                let before = load(tx, tenant, role)?.ok_or_else(Refusal::not_found)?;
                let mut row = before.clone();
                row.permissions = permissions.unwrap_or(before.permissions);
                check_within(may, before.permissions.union(row.permissions))?;
                if let Some(name) = &name {
                    check_name(tx, tenant, name, Some(role))?;
                    row.name.clone_from(name);
                }
                if (&row.name, row.permissions) == (&before.name, before.permissions) {
                    return Ok(RoleView::from(&row));
                }
                save(&this, tx, &row)?;
                let what =
                    format!("{role} ({}): {} became {}", row.name, before.permissions.scope(), row.permissions.scope());
                let entry = NewEntry::new(Action::RoleUpdated, &origin).user(authority.by).reason(what);
                audit::append(tx, tenant, this.inner.clock.now(), &this.inner.random, &entry)?;
                Ok(RoleView::from(&row))
            })
            .await
    }

    /// Removes a role that nobody bears.
    ///
    /// # Errors
    /// `not_found`; 403 `forbidden` where it allows what the caller may not; 409 `role_in_use`.
    pub async fn remove_role(
        &self,
        tenant: TenantId,
        role: RoleId,
        authority: Authority,
        origin: Origin,
    ) -> Result<()> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let may = authority.bound(tx, tenant, Permission::UsersWrite)?;
                let row = load(tx, tenant, role)?.ok_or_else(Refusal::not_found)?;
                check_within(may, row.permissions)?;
                let mut in_use = false;
                tx.visit(USERS, &Key::new().bytes(tenant.to_bytes()), |_, value| {
                    let user: User = codec::decode(value)?;
                    in_use = user.roles.contains(&RoleName::Custom(role));
                    Ok(!in_use)
                })?;
                if in_use {
                    let detail = "Somebody bears this role. Take it from them first.";
                    return Err(Refusal::new(Kind::Conflict, "role_in_use", detail).into());
                }
                tx.delete(ROLES, key(tenant, role))?;
                let what = format!("{role} ({})", row.name);
                let entry = NewEntry::new(Action::RoleDeleted, &origin).user(authority.by).reason(what);
                audit::append(tx, tenant, this.inner.clock.now(), &this.inner.random, &entry)?;
                let iam = this.clone();
                tx.after_commit(move || iam.inner.directory.apply_role(tenant, role, None));
                Ok(())
            })
            .await
    }
}
