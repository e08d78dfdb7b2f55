//! People on the wire.

use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use super::{Ended, EndedSessions, OthersQuery, SessionList, SessionQuery};
use crate::crypto::Secret;
use crate::domains::iam::{CreatedUser, NewUser, OneTimeLink, RoleName, UserChange, UserDetail, names};
use crate::gate::{Context, Json, Nothing, Params, Query, Reply, Validate, Values};
use crate::kernel::error::FieldError;
use crate::kernel::ids::UserId;
use crate::kernel::{Refusal, Result};
use crate::list_of;

/// Roles of one person.
const ROLES_MAX: usize = 32;

list_of! {
    /// A page of people in the order of their making.
    UserList of UserDetail
}

/// A page.
pub struct PageQuery {
    limit: usize,
    cursor: Option<UserId>,
}

impl Params for PageQuery {
    const NAMES: &'static [(&'static str, &'static str)] =
        &[("limit", "1 to 200, 50 when absent."), ("cursor", "next_cursor of the page before.")];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        Self { limit: values.limit(wrong), cursor: values.parse("cursor", wrong) }
    }
}

/// A person to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserRequest {
    /// Unique on the appliance; upper and lower case are the same. Printable characters, no blank at either end.
    #[schema(min_length = 1, max_length = 128)]
    username: String,
    /// For people.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 128)]
    display_name: Option<String>,
    /// Where an invitation may be sent by hand.
    #[serde(default)]
    #[schema(min_length = 3, max_length = 254)]
    email: Option<String>,
    /// Names of built-in roles, ids of the tenant's own; none that allows what the caller may not do.
    #[schema(max_items = 32)]
    roles: Vec<String>,
    /// 12 to 1,024 bytes. When absent, the answer holds an invitation by which the person chooses one.
    #[serde(default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 1024)]
    password: Option<Secret>,
}

impl Validate for UserRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        named(names::check(&self.username, names::USER_NAME_MAX), "/username", wrong);
        check_facts(self.display_name.as_deref(), self.email.as_deref(), wrong);
        parse_roles(&self.roles, wrong);
    }
}

/// What a person is to become; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserPatch {
    /// For people; null takes it away.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 128)]
    display_name: Option<Option<String>>,
    /// Null takes it away.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, min_length = 3, max_length = 254)]
    email: Option<Option<String>>,
    /// All roles from now on. Not for programs; a person needs a proof of who they are from the last five minutes.
    #[serde(default)]
    #[schema(max_items = 32)]
    roles: Option<Vec<String>>,
    /// Whether they are shut out. A person needs a proof of who they are from the last five minutes.
    #[serde(default)]
    disabled: Option<bool>,
}

impl Validate for UserPatch {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        let text = |member: &Option<Option<String>>| member.clone().flatten();
        check_facts(text(&self.display_name).as_deref(), text(&self.email).as_deref(), wrong);
        parse_roles(self.roles.as_deref().unwrap_or_default(), wrong);
    }
}

/// Tells a member that is null from one that is absent.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<T>, D::Error> {
    T::deserialize(d).map(Some)
}

/// Says of a member what is wrong with its name.
pub(super) fn named(checked: Result<(), String>, pointer: &str, wrong: &mut Vec<FieldError>) {
    if let Err(detail) = checked {
        wrong.push(FieldError { pointer: pointer.to_owned(), detail });
    }
}

fn check_facts(display_name: Option<&str>, email: Option<&str>, wrong: &mut Vec<FieldError>) {
    if let Some(name) = display_name {
        named(names::check(name, names::USER_NAME_MAX), "/display_name", wrong);
    }
    if let Some(email) = email {
        named(names::check_email(email), "/email", wrong);
    }
}

fn parse_roles(texts: &[String], wrong: &mut Vec<FieldError>) -> Vec<RoleName> {
    if texts.len() > ROLES_MAX {
        let detail = format!("must have at most {ROLES_MAX} items");
        wrong.push(FieldError { pointer: "/roles".to_owned(), detail });
        return Vec::new();
    }
    let mut roles = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        let mut refuse = |detail: &str| {
            wrong.push(FieldError { pointer: format!("/roles/{i}"), detail: detail.to_owned() });
        };
        match text.parse::<RoleName>() {
            Ok(role) if roles.contains(&role) => refuse("was named before"),
            Ok(role) => roles.push(role),
            Err(detail) => refuse(detail),
        }
    }
    roles
}

/// `GET /v1/users`
pub async fn list(ctx: Context, Query(query): Query<PageQuery>) -> Result<Reply<UserList>> {
    let (data, next) = ctx.services().iam.people(ctx.tenant()?, query.cursor, query.limit).await?;
    Ok(Reply::new(UserList { data, next_cursor: next.map(|id| id.to_string()) }))
}

/// `POST /v1/users`
pub async fn create(ctx: Context, Json(request): Json<UserRequest>) -> Result<Reply<CreatedUser>> {
    // Who stole a token could make an accomplice with it. The row admits programs, so it cannot ask for this itself.
    ctx.demand_fresh_proof()?;
    let password = request.password.as_ref().map(Secret::expose);
    let facts = (&request.username, &request.display_name, &request.email, &request.roles, password);
    let once = ctx.once("user", &facts)?;
    let new = NewUser {
        roles: parse_roles(&request.roles, &mut Vec::new()),
        username: request.username,
        display_name: request.display_name,
        email: request.email,
        password: request.password,
        system_admin: false,
    };
    let iam = &ctx.services().iam;
    let created = iam.add_person(ctx.tenant()?, new, ctx.authority()?, once, ctx.origin().clone()).await?;
    Ok(Reply::new(created))
}

/// `GET /v1/users/{user_id}`
pub async fn get(ctx: Context, _: Nothing) -> Result<Reply<UserDetail>> {
    Ok(Reply::new(ctx.services().iam.person(ctx.tenant()?, ctx.path("user_id")?).await?))
}

/// `PATCH /v1/users/{user_id}`
pub async fn patch(ctx: Context, Json(request): Json<UserPatch>) -> Result<Reply<UserDetail>> {
    let target: UserId = ctx.path("user_id")?;
    let rights = request.roles.is_some() || request.disabled.is_some();
    let change = UserChange {
        roles: request.roles.map(|roles| parse_roles(&roles, &mut Vec::new())),
        display_name: request.display_name,
        email: request.email,
        disabled: request.disabled,
    };
    let (iam, tenant) = (&ctx.services().iam, ctx.tenant()?);
    if rights {
        // The row admits programs, so it cannot ask for this itself.
        ctx.demand_fresh_proof()?;
    }
    let user = iam.change_person(tenant, target, change, ctx.authority()?, ctx.origin().clone()).await?;
    Ok(Reply::new(user))
}

/// `DELETE /v1/users/{user_id}`
pub async fn delete(ctx: Context, _: Nothing) -> Result<Reply<Ended>> {
    let target = ctx.path("user_id")?;
    ctx.services().iam.remove_person(ctx.tenant()?, target, ctx.authority()?, ctx.origin().clone()).await?;
    Ok(Reply::empty())
}

/// `POST /v1/users/{user_id}/password-reset`
pub async fn reset_password(ctx: Context, _: Nothing) -> Result<Reply<OneTimeLink>> {
    let target: UserId = ctx.path("user_id")?;
    let once = ctx.once(&format!("password-reset\u{1f}{target}"), &())?;
    let iam = &ctx.services().iam;
    let link = iam.new_password_link(ctx.tenant()?, target, ctx.authority()?, once, ctx.origin().clone()).await?;
    Ok(Reply::new(link))
}

/// `GET /v1/users/{user_id}/sessions`
pub async fn sessions(ctx: Context, Query(query): Query<SessionQuery>) -> Result<Reply<SessionList>> {
    let (iam, tenant, user) = (&ctx.services().iam, ctx.tenant()?, ctx.path("user_id")?);
    iam.user(tenant, user).await?.ok_or_else(Refusal::not_found)?;
    let current = ctx.caller().session().map(|s| s.id);
    let (data, next) = iam.sessions(tenant, user, current, query.cursor, query.limit).await?;
    Ok(Reply::new(SessionList { data, next_cursor: next.map(|id| id.to_string()) }))
}

/// `DELETE /v1/users/{user_id}/sessions`
pub async fn end_sessions(ctx: Context, Query(query): Query<OthersQuery>) -> Result<Reply<EndedSessions>> {
    let (iam, target) = (&ctx.services().iam, ctx.path("user_id")?);
    let authority = ctx.authority()?;
    let ended = iam.end_sessions_of(ctx.tenant()?, target, query.devices, authority, ctx.origin().clone()).await?;
    Ok(Reply::new(EndedSessions { ended }))
}
