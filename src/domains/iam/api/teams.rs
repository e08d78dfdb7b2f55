//! Teams on the wire.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Ended;
use super::users::named;
use crate::domains::iam::{TeamDetail, TeamView, names};
use crate::gate::{Context, Json, Nothing, Params, Query, Reply, Validate, Values};
use crate::kernel::Result;
use crate::kernel::error::FieldError;
use crate::kernel::ids::TeamId;
use crate::list_of;

/// What a team is to be called.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TeamRequest {
    /// Unique in the tenant; upper and lower case are the same.
    #[schema(min_length = 1, max_length = 64)]
    name: String,
}

impl Validate for TeamRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        named(names::check(&self.name, names::GROUP_NAME_MAX), "/name", wrong);
    }
}

list_of! {
    /// A page of teams in the order of their making.
    TeamList of TeamView
}

/// A page.
pub struct PageQuery {
    limit: usize,
    cursor: Option<TeamId>,
}

impl Params for PageQuery {
    const NAMES: &'static [(&'static str, &'static str)] =
        &[("limit", "1 to 200, 50 when absent."), ("cursor", "next_cursor of the page before.")];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        Self { limit: values.limit(wrong), cursor: values.parse("cursor", wrong) }
    }
}

/// `GET /v1/teams`
pub async fn list(ctx: Context, Query(query): Query<PageQuery>) -> Result<Reply<TeamList>> {
    let (data, next) = ctx.services().iam.teams(ctx.tenant()?, query.cursor, query.limit).await?;
    Ok(Reply::new(TeamList { data, next_cursor: next.map(|id| id.to_string()) }))
}

/// `POST /v1/teams`
pub async fn create(ctx: Context, Json(request): Json<TeamRequest>) -> Result<Reply<TeamDetail>> {
    let once = ctx.once("team", &request)?;
    let (iam, authority) = (&ctx.services().iam, ctx.authority()?);
    Ok(Reply::new(iam.create_team(ctx.tenant()?, request.name, authority, once, ctx.origin().clone()).await?))
}

/// `GET /v1/teams/{team_id}`
pub async fn get(ctx: Context, _: Nothing) -> Result<Reply<TeamDetail>> {
    Ok(Reply::new(ctx.services().iam.team(ctx.tenant()?, ctx.path("team_id")?).await?))
}

/// `PATCH /v1/teams/{team_id}`
pub async fn patch(ctx: Context, Json(request): Json<TeamRequest>) -> Result<Reply<TeamDetail>> {
    let (iam, team, authority) = (&ctx.services().iam, ctx.path("team_id")?, ctx.authority()?);
    Ok(Reply::new(iam.rename_team(ctx.tenant()?, team, request.name, authority, ctx.origin().clone()).await?))
}

/// `DELETE /v1/teams/{team_id}`
pub async fn delete(ctx: Context, _: Nothing) -> Result<Reply<Ended>> {
    let team = ctx.path("team_id")?;
    ctx.services().iam.remove_team(ctx.tenant()?, team, ctx.authority()?, ctx.origin().clone()).await?;
    Ok(Reply::empty())
}

async fn set_member(ctx: &Context, member: bool) -> Result<Reply<Ended>> {
    let (team, user, authority) = (ctx.path("team_id")?, ctx.path("user_id")?, ctx.authority()?);
    let iam = &ctx.services().iam;
    iam.set_member(ctx.tenant()?, team, user, member, authority, ctx.origin().clone()).await?;
    Ok(Reply::empty())
}

/// `PUT /v1/teams/{team_id}/members/{user_id}`
pub async fn add_member(ctx: Context, _: Nothing) -> Result<Reply<Ended>> {
    set_member(&ctx, true).await
}

/// `DELETE /v1/teams/{team_id}/members/{user_id}`
pub async fn remove_member(ctx: Context, _: Nothing) -> Result<Reply<Ended>> {
    set_member(&ctx, false).await
}
