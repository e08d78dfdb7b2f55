//! Devices on the wire.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::model::{BlockCause, Device, DeviceState};
use crate::domains::tenants::PlanTier;
use crate::gate::{Context, Json, Nothing, Params, Query, Reply, Validate, Values};
use crate::kernel::error::FieldError;
use crate::kernel::ids::{DeviceId, UserId};
use crate::kernel::{Result, Timestamp};
use crate::list_of;

/// A device as an analyst sees it.
#[derive(Serialize, ToSchema)]
#[schema(as = Device)]
pub struct DeviceView {
    /// Its own name.
    #[schema(value_type = String)]
    pub device_id: DeviceId,
    /// For people.
    pub device_name: String,
    /// As told at enrollment.
    pub platform: String,
    /// As told at enrollment.
    pub os_version: String,
    /// The user it belongs to.
    #[schema(value_type = String)]
    pub owner: UserId,
    /// `active` or `blocked`.
    pub state: &'static str,
    /// Present while it is blocked.
    pub blocked: Option<BlockedView>,
    /// What it declared to have.
    pub sensors: Vec<&'static str>,
    /// Whether it enrolled a key.
    pub has_key: bool,
    /// The newest score.
    pub trust_score: u8,
    /// What is paid for it; `trial` where nothing is.
    pub plan_tier: PlanTier,
    /// When its trial ends.
    #[schema(value_type = String, format = DateTime)]
    pub trial_expires_at: Timestamp,
    /// First enrollment.
    #[schema(value_type = String, format = DateTime)]
    pub registered_at: Timestamp,
    /// Last enrollment.
    #[schema(value_type = String, format = DateTime)]
    pub enrolled_at: Timestamp,
    /// Newest heartbeat; null before the first.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen_at: Option<Timestamp>,
}

/// Why a device is blocked.
#[derive(Serialize, ToSchema)]
#[schema(as = Blocked)]
pub struct BlockedView {
    /// Who or what blocked it.
    pub cause: BlockCause,
    /// In words.
    pub reason: String,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

list_of! {
    /// A page of devices, by name.
    DeviceList of DeviceView
}

fn view(ctx: &Context, device: Device) -> DeviceView {
    let live = ctx.services().devices.entry(device.tenant, &device.id);
    let billing = &ctx.services().billing;
    let tenant = ctx.services().tenants.entry(device.tenant);
    let plan_tier = match live.as_ref().zip(tenant) {
        Some((entry, tenant)) => billing.tier(entry, &tenant, ctx.now()),
        None => device.paid_tier(ctx.now()).unwrap_or(PlanTier::Trial),
    };
    let (state, blocked) = match device.state {
        DeviceState::Active => ("active", None),
        DeviceState::Blocked { cause, reason, at } => ("blocked", Some(BlockedView { cause, reason, at })),
    };
    let mut sensors = Vec::new();
    if device.sensors.accelerometer {
        sensors.push("accelerometer");
    }
    if device.sensors.gyroscope {
        sensors.push("gyroscope");
    }
    DeviceView {
        trust_score: live.as_ref().map_or(100, |e| e.score().points()),
        last_seen_at: live.and_then(|e| e.last_seen()),
        device_id: device.id,
        device_name: device.name,
        platform: device.platform,
        os_version: device.os_version,
        owner: device.owner,
        state,
        blocked,
        sensors,
        has_key: device.public_key.is_some(),
        plan_tier,
        trial_expires_at: billing.shown(device.trial_expires_at),
        registered_at: device.registered_at,
        enrolled_at: device.enrolled_at,
    }
}

/// A page.
pub struct PageQuery {
    limit: usize,
    cursor: Option<DeviceId>,
}

impl Params for PageQuery {
    const NAMES: &'static [(&'static str, &'static str)] =
        &[("limit", "1 to 200, 50 when absent."), ("cursor", "next_cursor of the page before.")];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        Self { limit: values.limit(wrong), cursor: values.parse("cursor", wrong) }
    }
}

/// `GET /v1/devices`
pub async fn list(ctx: Context, Query(query): Query<PageQuery>) -> Result<Reply<DeviceList>> {
    let page = ctx.services().devices.list(ctx.tenant()?, query.cursor, query.limit).await?;
    let next_cursor = page.next.map(|id| id.to_string());
    let data = page.devices.into_iter().filter(|d| ctx.sees_device(&d.id)).map(|d| view(&ctx, d)).collect();
    Ok(Reply::new(DeviceList { data, next_cursor }))
}

/// `GET /v1/devices/{device_id}`
pub async fn get(ctx: Context, _: Nothing) -> Result<Reply<DeviceView>> {
    let entry = ctx.device_entry(&ctx.path("device_id")?)?;
    let device = Device::clone(&entry.device());
    Ok(Reply::new(view(&ctx, device)))
}

/// What of a device a person may change.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DevicePatch {
    /// For people; absent or null: as it is.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 128)]
    device_name: Option<String>,
}

impl Validate for DevicePatch {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        if self.device_name.as_ref().is_some_and(|n| !(1..=128).contains(&n.chars().count())) {
            let detail = "must have 1 to 128 characters".to_owned();
            wrong.push(FieldError { pointer: "/device_name".to_owned(), detail });
        }
    }
}

/// `PATCH /v1/devices/{device_id}`
pub async fn update(ctx: Context, Json(request): Json<DevicePatch>) -> Result<Reply<DeviceView>> {
    let entry = ctx.device_entry(&ctx.path("device_id")?)?;
    let (tenant, id, by) = (entry.tenant, entry.id.clone(), ctx.actor()?);
    let device = match request.device_name {
        Some(name) => ctx.services().iam.rename_device(tenant, id, name, by, ctx.origin().clone()).await?,
        None => Device::clone(&entry.device()),
    };
    Ok(Reply::new(view(&ctx, device)))
}

/// Nothing.
#[derive(Serialize, ToSchema)]
pub struct Removed {}

/// `DELETE /v1/devices/{device_id}`
pub async fn remove(ctx: Context, _: Nothing) -> Result<Reply<Removed>> {
    let entry = ctx.device_entry(&ctx.path("device_id")?)?;
    let by = ctx.actor()?;
    ctx.services().iam.delete_device(entry.tenant, entry.id.clone(), by, ctx.origin().clone()).await?;
    Ok(Reply::empty())
}
