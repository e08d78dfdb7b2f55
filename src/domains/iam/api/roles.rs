//! Roles on the wire.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Ended;
use super::users::named;
use crate::domains::iam::{Permission, PermissionSet, RoleName, RoleView, names};
use crate::gate::{Context, Json, Nothing, Reply, Validate};
use crate::kernel::error::FieldError;
use crate::kernel::ids::RoleId;
use crate::kernel::{Kind, Refusal, Result};

/// A role that is to be.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleRequest {
    /// Unique in the tenant; upper and lower case are the same.
    #[schema(min_length = 1, max_length = 64)]
    name: String,
    /// Names of permissions; none that the caller does not have.
    #[schema(max_items = 64)]
    permissions: Vec<String>,
}

impl Validate for RoleRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        named(names::check(&self.name, names::GROUP_NAME_MAX), "/name", wrong);
        parse(&self.permissions, wrong);
    }
}

/// What a role is to become; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RolePatch {
    /// Unique in the tenant; upper and lower case are the same.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 64)]
    name: Option<String>,
    /// All permissions from now on.
    #[serde(default)]
    #[schema(max_items = 64)]
    permissions: Option<Vec<String>>,
}

impl Validate for RolePatch {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        if let Some(name) = &self.name {
            named(names::check(name, names::GROUP_NAME_MAX), "/name", wrong);
        }
        parse(self.permissions.as_deref().unwrap_or_default(), wrong);
    }
}

/// A role is of a tenant: none administers the appliance.
fn may_stand_in_a_role(permission: Permission) -> bool {
    permission != Permission::SystemAdmin
}

fn parse(texts: &[String], wrong: &mut Vec<FieldError>) -> PermissionSet {
    let mut set = PermissionSet::NONE;
    for (i, text) in texts.iter().enumerate() {
        let mut refuse = |detail: &str| {
            wrong.push(FieldError { pointer: format!("/permissions/{i}"), detail: detail.to_owned() });
        };
        match text.parse::<Permission>() {
            Ok(permission) if may_stand_in_a_role(permission) => set = set.with(permission),
            Ok(_) => refuse("cannot be part of a role"),
            Err(e) => refuse(&e.to_string()),
        }
    }
    set
}

/// Roles, and what roles can be made of.
#[derive(Serialize, ToSchema)]
pub struct RoleList {
    /// The built-in ones, then the tenant's own; all of them.
    data: Vec<RoleView>,
    /// Always null: a tenant has at most 200 roles, which come on one page.
    next_cursor: Option<String>,
    /// What a role may allow.
    available_permissions: Vec<PermissionView>,
}

/// A permission.
#[derive(Serialize, ToSchema)]
#[schema(as = Permission)]
pub struct PermissionView {
    /// Stable.
    name: &'static str,
    /// In words.
    meaning: &'static str,
}

/// `GET /v1/roles`
pub async fn list(ctx: Context, _: Nothing) -> Result<Reply<RoleList>> {
    let data = ctx.services().iam.roles(ctx.tenant()?).await?;
    let all = Permission::ALL.iter().copied().filter(|p| may_stand_in_a_role(*p));
    let available_permissions = all.map(|p| PermissionView { name: p.name(), meaning: p.meaning() }).collect();
    Ok(Reply::new(RoleList { data, next_cursor: None, available_permissions }))
}

/// `POST /v1/roles`
pub async fn create(ctx: Context, Json(request): Json<RoleRequest>) -> Result<Reply<RoleView>> {
    let once = ctx.once("role", &request)?;
    let permissions = parse(&request.permissions, &mut Vec::new());
    let (iam, authority) = (&ctx.services().iam, ctx.authority()?);
    let role = iam.create_role(ctx.tenant()?, request.name, permissions, authority, once, ctx.origin().clone()).await?;
    Ok(Reply::new(role))
}

/// `GET /v1/roles/{role_id}`
pub async fn get(ctx: Context, _: Nothing) -> Result<Reply<RoleView>> {
    Ok(Reply::new(ctx.services().iam.role(ctx.tenant()?, ctx.path("role_id")?).await?))
}

/// A role of the tenant's own.
fn own_role(ctx: &Context) -> Result<RoleId> {
    match ctx.path("role_id")? {
        RoleName::Custom(id) => Ok(id),
        RoleName::BuiltIn(_) => {
            let detail = "A built-in role cannot be changed. Make one of your own.";
            Err(Refusal::new(Kind::Conflict, "role_built_in", detail).into())
        }
    }
}

/// `PATCH /v1/roles/{role_id}`
pub async fn patch(ctx: Context, Json(request): Json<RolePatch>) -> Result<Reply<RoleView>> {
    let role = own_role(&ctx)?;
    let permissions = request.permissions.map(|texts| parse(&texts, &mut Vec::new()));
    let (iam, authority) = (&ctx.services().iam, ctx.authority()?);
    let role = iam.change_role(ctx.tenant()?, role, request.name, permissions, authority, ctx.origin().clone()).await?;
    Ok(Reply::new(role))
}

/// `DELETE /v1/roles/{role_id}`
pub async fn delete(ctx: Context, _: Nothing) -> Result<Reply<Ended>> {
    let role = own_role(&ctx)?;
    ctx.services().iam.remove_role(ctx.tenant()?, role, ctx.authority()?, ctx.origin().clone()).await?;
    Ok(Reply::empty())
}
