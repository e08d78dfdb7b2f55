//! Commands on the wire. The socket itself is opened by the gate.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Ack, AckStatus, Action, CommandView, NewCommand, Status};
use crate::gate::{Context, Json, Nothing, Params, Query, Reply, Validate, Values};
use crate::kernel::error::FieldError;
use crate::kernel::ids::{CommandId, DeviceId};
use crate::kernel::{Refusal, Result, Timestamp};
use crate::list_of;

/// What a device is to be told.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandRequest {
    /// What to do.
    action: Action,
    /// Why, in words; the device may show it.
    #[schema(min_length = 1, max_length = 500)]
    reason: String,
    /// How long it is sent again, 1 minute to 30 days; 7 days when absent.
    #[serde(default)]
    #[schema(minimum = 60, maximum = 2_592_000)]
    expires_in_s: Option<u64>,
}

const DEFAULT_LIFETIME_S: u64 = 7 * 86_400;
const LIFETIME_S: std::ops::RangeInclusive<u64> = 60..=30 * 86_400;

impl Validate for CommandRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        check_reason(&self.reason, wrong);
        if self.expires_in_s.is_some_and(|s| !LIFETIME_S.contains(&s)) {
            wrong.push(FieldError { pointer: "/expires_in_s".to_owned(), detail: "must be 60 to 2592000".to_owned() });
        }
    }
}

fn check_reason(reason: &str, wrong: &mut Vec<FieldError>) {
    if !(1..=500).contains(&reason.chars().count()) {
        wrong.push(FieldError { pointer: "/reason".to_owned(), detail: "must have 1 to 500 characters".to_owned() });
    }
}

/// Why a device is released.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UnblockRequest {
    /// In words; stands in the audit log.
    #[schema(min_length = 1, max_length = 500)]
    reason: String,
}

impl Validate for UnblockRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        check_reason(&self.reason, wrong);
    }
}

list_of! {
    /// A page of a device's commands, newest first.
    CommandList of CommandView
}

/// A page.
pub struct PageQuery {
    limit: usize,
    cursor: Option<u64>,
}

impl Params for PageQuery {
    const NAMES: &'static [(&'static str, &'static str)] =
        &[("limit", "1 to 200, 50 when absent."), ("cursor", "next_cursor of the page before.")];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        Self { limit: values.limit(wrong), cursor: values.parse("cursor", wrong) }
    }
}

/// `POST /v1/devices/{device_id}/commands`
pub async fn command(ctx: Context, Json(request): Json<CommandRequest>) -> Result<Reply<CommandView>> {
    let device: DeviceId = ctx.path("device_id")?;
    ctx.device_entry(&device)?;
    let by = ctx.actor()?;
    let mut new = NewCommand::new(request.action, request.reason.clone()).by(by);
    new.lifetime = Duration::from_secs(request.expires_in_s.unwrap_or(DEFAULT_LIFETIME_S));
    let once = ctx.once(&format!("command\u{1f}{device}"), &request)?;
    let view = ctx.services().killswitch.command(ctx.tenant()?, device, new, once, ctx.origin().clone()).await?;
    Ok(Reply::new(view))
}

/// `POST /v1/devices/{device_id}/unblock`
pub async fn unblock(ctx: Context, Json(request): Json<UnblockRequest>) -> Result<Reply<CommandView>> {
    let device: DeviceId = ctx.path("device_id")?;
    ctx.device_entry(&device)?;
    let by = ctx.actor()?;
    let killswitch = &ctx.services().killswitch;
    let view = killswitch.unblock(ctx.tenant()?, device, request.reason, by, ctx.origin().clone()).await?;
    Ok(Reply::new(view))
}

/// `GET /v1/devices/{device_id}/commands`
pub async fn list(ctx: Context, Query(query): Query<PageQuery>) -> Result<Reply<CommandList>> {
    let entry = ctx.device_entry(&ctx.path("device_id")?)?;
    let killswitch = &ctx.services().killswitch;
    let page = killswitch.list(entry.tenant, entry.id.clone(), query.cursor, query.limit).await?;
    Ok(Reply::new(CommandList { data: page.commands, next_cursor: page.next.map(|seq| seq.to_string()) }))
}

/// `GET /v1/devices/{device_id}/commands/{command_id}`
pub async fn get(ctx: Context, _: Nothing) -> Result<Reply<CommandView>> {
    let entry = ctx.device_entry(&ctx.path("device_id")?)?;
    let view = ctx.services().killswitch.get(entry.tenant, entry.id.clone(), ctx.path("command_id")?).await?;
    Ok(Reply::new(view))
}

/// How the switch of the whole tenant is to stand.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SwitchRequest {
    /// true locks every device, false releases those that it locked.
    engaged: bool,
    /// In words; devices may show it, and it stands in the audit log.
    #[schema(min_length = 1, max_length = 500)]
    reason: String,
}

impl Validate for SwitchRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        check_reason(&self.reason, wrong);
    }
}

/// How the switch of the whole tenant stands.
#[derive(Serialize, ToSchema)]
pub struct SwitchState {
    /// Whether all devices are locked.
    engaged: bool,
    /// Why; null while it is not engaged.
    reason: Option<String>,
    /// Since when.
    #[schema(value_type = Option<String>, format = DateTime)]
    engaged_at: Option<Timestamp>,
    /// Devices whose own lock or release is still to be written; while it is engaged they do not act all the same.
    devices_pending: usize,
}

impl From<super::SwitchView> for SwitchState {
    fn from(view: super::SwitchView) -> Self {
        Self {
            engaged: view.engaged.is_some(),
            engaged_at: view.engaged.as_ref().map(|e| e.at),
            reason: view.engaged.map(|e| e.reason),
            devices_pending: view.pending,
        }
    }
}

/// `GET /v1/kill-switch`
pub async fn switch(ctx: Context, _: Nothing) -> Result<Reply<SwitchState>> {
    let view = ctx.services().killswitch.switch(ctx.tenant()?).ok_or_else(Refusal::not_found)?;
    Ok(Reply::new(view.into()))
}

/// `PUT /v1/kill-switch`
pub async fn turn(ctx: Context, Json(request): Json<SwitchRequest>) -> Result<Reply<SwitchState>> {
    let (tenant, by, origin) = (ctx.tenant()?, ctx.actor()?, ctx.origin().clone());
    let view = ctx.services().killswitch.turn(tenant, request.engaged, request.reason, by, origin).await?;
    Ok(Reply::new(view.into()))
}

/// A device's word on a command.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AckRequest {
    #[schema(value_type = String)]
    command_id: CommandId,
    status: AckStatus,
    #[serde(default)]
    #[schema(max_length = 500)]
    detail: Option<String>,
}

impl Validate for AckRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        if self.detail.as_ref().is_some_and(|d| d.chars().count() > 500) {
            let detail = "must have at most 500 characters".to_owned();
            wrong.push(FieldError { pointer: "/detail".to_owned(), detail });
        }
    }
}

/// How the command stands now.
#[derive(Serialize, ToSchema)]
pub struct AckResponse {
    /// Where it is on its way.
    pub status: Status,
}

/// `Acknowledge` of gRPC; on the socket it is a message.
pub async fn acknowledge(ctx: Context, Json(request): Json<AckRequest>) -> Result<Reply<AckResponse>> {
    let ack = Ack { command_id: request.command_id, status: request.status, detail: request.detail };
    let entry = &ctx.device()?.entry;
    let status = ctx.services().killswitch.acknowledge(entry, ack, ctx.origin().clone()).await?;
    Ok(Reply::new(AckResponse { status }))
}
