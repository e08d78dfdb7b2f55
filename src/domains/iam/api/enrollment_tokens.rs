//! Enrollment tokens on the wire.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Ended;
use crate::domains::iam::{CreatedEnrollmentToken, EnrollmentTokenView, TokenSpec};
use crate::gate::{Caller, Context, Json, Nothing, Params, Query, Reply, Validate, Values};
use crate::kernel::error::FieldError;
use crate::kernel::ids::{DeviceId, EnrollmentId};
use crate::kernel::{Kind, Refusal, Result};
use crate::list_of;

const LIFETIME_DEFAULT_DAYS: u32 = 30;
const LIFETIME_DAYS: std::ops::RangeInclusive<u32> = 1..=365;
const USES: std::ops::RangeInclusive<u32> = 1..=1_000_000;

/// What an enrollment token is to allow.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrollmentTokenRequest {
    /// 30 when absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 365)]
    lifetime_days: Option<u32>,
    /// How many devices; any number when absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1_000_000)]
    uses_max: Option<u32>,
    /// Only this device, which may be enrolled already; good for one use, and `uses_max` may say nothing else.
    #[serde(default)]
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9._:-]{1,64}$")]
    device_id: Option<DeviceId>,
}

impl Validate for EnrollmentTokenRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        let mut refuse = |pointer: &str, detail: &str| {
            wrong.push(FieldError { pointer: pointer.to_owned(), detail: detail.to_owned() });
        };
        if self.lifetime_days.is_some_and(|days| !LIFETIME_DAYS.contains(&days)) {
            refuse("/lifetime_days", "must be 1 to 365");
        }
        if self.uses_max.is_some_and(|uses| !USES.contains(&uses)) {
            refuse("/uses_max", "must be 1 to 1000000");
        } else if self.device_id.is_some() && self.uses_max.is_some_and(|uses| uses != 1) {
            refuse("/uses_max", "must be 1 where device_id is given");
        }
    }
}

list_of! {
    /// A page of enrollment tokens in the order of their making.
    EnrollmentTokenList of EnrollmentTokenView
}

/// A page.
pub struct PageQuery {
    limit: usize,
    cursor: Option<EnrollmentId>,
}

impl Params for PageQuery {
    const NAMES: &'static [(&'static str, &'static str)] =
        &[("limit", "1 to 200, 50 when absent."), ("cursor", "next_cursor of the page before.")];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        Self { limit: values.limit(wrong), cursor: values.parse("cursor", wrong) }
    }
}

/// A program that is bound to some devices does not let in others.
fn check_bound(ctx: &Context, device: Option<&DeviceId>) -> Result<()> {
    let within = match (ctx.caller(), device) {
        (Caller::Machine(machine), None) => !machine.key.is_bound_to_devices(),
        (Caller::Machine(machine), Some(device)) => machine.key.sees_device(device),
        _ => true,
    };
    if within {
        return Ok(());
    }
    let detail = "This key is bound to some devices. Name one of them as device_id.";
    Err(Refusal::new(Kind::Forbidden, "forbidden", detail).into())
}

/// `GET /v1/enrollment-tokens`
pub async fn list(ctx: Context, Query(query): Query<PageQuery>) -> Result<Reply<EnrollmentTokenList>> {
    let (data, next) = ctx.services().iam.enrollment_tokens(ctx.tenant()?, query.cursor, query.limit).await?;
    Ok(Reply::new(EnrollmentTokenList { data, next_cursor: next.map(|id| id.to_string()) }))
}

/// `POST /v1/enrollment-tokens`
pub async fn create(
    ctx: Context,
    Json(request): Json<EnrollmentTokenRequest>,
) -> Result<Reply<CreatedEnrollmentToken>> {
    check_bound(&ctx, request.device_id.as_ref())?;
    let once = ctx.once("enrollment-token", &request)?;
    let days = request.lifetime_days.unwrap_or(LIFETIME_DEFAULT_DAYS);
    let spec = TokenSpec {
        lifetime: Duration::from_secs(u64::from(days) * 86_400),
        uses_max: request.uses_max.or(request.device_id.as_ref().map(|_| 1)),
        device: request.device_id,
    };
    let (iam, authority) = (&ctx.services().iam, ctx.authority()?);
    Ok(Reply::new(iam.create_enrollment_token(ctx.tenant()?, spec, authority, once, ctx.origin().clone()).await?))
}

/// `DELETE /v1/enrollment-tokens/{token_id}`
pub async fn revoke(ctx: Context, _: Nothing) -> Result<Reply<Ended>> {
    let (iam, token) = (&ctx.services().iam, ctx.path("token_id")?);
    iam.revoke_enrollment_token(ctx.tenant()?, token, ctx.authority()?, ctx.origin().clone()).await?;
    Ok(Reply::empty())
}
