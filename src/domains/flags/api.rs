//! Flags on the wire, for who keeps them.

pub mod ofrep;

use serde::Serialize;
use utoipa::ToSchema;

use super::{Definition, Flag, is_name};
use crate::gate::{Context, Json, Nothing, Reply, Validate};
use crate::kernel::error::FieldError;
use crate::kernel::ids::UserId;
use crate::kernel::{Refusal, Result, Timestamp};
use crate::list_of;

/// A flag.
#[derive(Serialize, ToSchema)]
#[schema(as = Flag)]
pub struct FlagView {
    /// Unique in the company.
    pub key: String,
    /// What it says.
    #[serde(flatten)]
    pub definition: Definition,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it was last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// By whom; the log has every change.
    #[schema(value_type = String)]
    pub updated_by: UserId,
}

impl From<Flag> for FlagView {
    fn from(flag: Flag) -> Self {
        let Flag { key, definition, created_at, updated_at, updated_by } = flag;
        Self { key, definition, created_at, updated_at, updated_by }
    }
}

list_of! {
    /// All flags of a company, by key.
    FlagList of FlagView
}

impl Validate for Definition {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        self.check(wrong);
    }
}

/// `GET /v1/flags`
pub async fn list(ctx: Context, _: Nothing) -> Result<Reply<FlagList>> {
    let all = ctx.services().flags.all(ctx.tenant()?);
    let data = all.values().map(|flag| FlagView::from(Flag::clone(flag))).collect();
    Ok(Reply::new(FlagList { data, next_cursor: None }))
}

/// A name that no flag can have is the name of none.
fn key_in(ctx: &Context) -> Result<String> {
    let key: String = ctx.path("flag_key")?;
    if is_name(&key) { Ok(key) } else { Err(Refusal::not_found().into()) }
}

/// `GET /v1/flags/{flag_key}`
pub async fn get(ctx: Context, _: Nothing) -> Result<Reply<FlagView>> {
    let flag = ctx.services().flags.get(ctx.tenant()?, &key_in(&ctx)?)?;
    Ok(Reply::new(Flag::clone(&flag).into()))
}

/// `PUT /v1/flags/{flag_key}`
pub async fn put(ctx: Context, Json(request): Json<Definition>) -> Result<Reply<FlagView>> {
    let (tenant, key, by) = (ctx.tenant()?, key_in(&ctx)?, ctx.actor()?);
    let (flag, is_new) = ctx.services().flags.put(tenant, key, request, by, ctx.origin().clone()).await?;
    let reply = Reply::new(FlagView::from(flag));
    Ok(if is_new { reply.status(201) } else { reply })
}

/// Nothing.
#[derive(Serialize, ToSchema)]
pub struct FlagRemoved {}

/// `DELETE /v1/flags/{flag_key}`
pub async fn remove(ctx: Context, _: Nothing) -> Result<Reply<FlagRemoved>> {
    let (tenant, key, by) = (ctx.tenant()?, key_in(&ctx)?, ctx.actor()?);
    ctx.services().flags.remove(tenant, key, by, ctx.origin().clone()).await?;
    Ok(Reply::empty())
}
