//! API keys and instance tokens on the wire.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Ended, length};
use crate::domains::iam::api_keys::{ApiKeyView, BoundView, IssuedKey, NewKey, OVERLAP_MAX};
use crate::domains::iam::{Bound, KeyKind, Permission, PermissionSet};
use crate::gate::{Context, Json, Nothing, Params, Query, Reply, Validate, Values};
use crate::kernel::error::FieldError;
use crate::kernel::ids::ApiKeyId;
use crate::kernel::network::Network;
use crate::kernel::{Refusal, Result, Timestamp};
use crate::list_of;
use crate::store::idempotency::Once;

const REQUESTS_PER_MINUTE: std::ops::RangeInclusive<u32> = 1..=6_000;
const REQUESTS_PER_MINUTE_DEFAULT: u32 = 600;
const OVERLAP_S_DEFAULT: u64 = 86_400;
const NAME_MAX: usize = 64;
const SCOPES_MAX: usize = 64;
const ALLOW_MAX: usize = 64;
const DEVICES_MAX: usize = 1_000;

/// An API key to be: for a script that acts for the person who makes it.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyRequest {
    /// For people.
    #[schema(min_length = 1, max_length = 64)]
    name: String,
    /// What it may do: names of permissions that its maker has.
    #[schema(min_items = 1, max_items = 64, example = json!(["devices:read"]))]
    scopes: Vec<String>,
    /// When it ends: in the future, at most 366 days ahead.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    /// Addresses and networks that it may be used from; anywhere when absent.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>, max_items = 64, example = json!(["10.0.0.0/8"]))]
    allow: Option<Vec<Network>>,
    /// 600 when absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 6000)]
    requests_per_minute: Option<u32>,
}

/// An instance token to be: for a gateway or an integration of the tenant.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InstanceTokenRequest {
    /// For people.
    #[schema(min_length = 1, max_length = 64)]
    name: String,
    /// What it may do: names of permissions that its maker has now. It keeps them when its maker loses them.
    #[schema(min_items = 1, max_items = 64, example = json!(["devices:read"]))]
    scopes: Vec<String>,
    /// When it ends: in the future, at most 366 days ahead.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    /// What it is good for, and nothing else: exactly one of `integration` and `devices`.
    bound: BoundView,
    /// Addresses and networks that it may be used from; anywhere when absent.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>, max_items = 64, example = json!(["10.0.0.0/8"]))]
    allow: Option<Vec<Network>>,
    /// 600 when absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 6000)]
    requests_per_minute: Option<u32>,
}

fn refuse(wrong: &mut Vec<FieldError>, pointer: impl Into<String>, detail: impl Into<String>) {
    wrong.push(FieldError { pointer: pointer.into(), detail: detail.into() });
}

fn check(
    name: &str,
    scopes: &[String],
    allow: Option<&Vec<Network>>,
    requests_per_minute: Option<u32>,
    wrong: &mut Vec<FieldError>,
) {
    length(name, "/name", 1, NAME_MAX, wrong);
    if !(1..=SCOPES_MAX).contains(&scopes.len()) {
        refuse(wrong, "/scopes", format!("must have 1 to {SCOPES_MAX} items"));
    }
    for (i, scope) in scopes.iter().enumerate().take(SCOPES_MAX) {
        if let Err(e) = scope.parse::<Permission>() {
            refuse(wrong, format!("/scopes/{i}"), e.to_string());
        }
    }
    if allow.is_some_and(|networks| networks.len() > ALLOW_MAX) {
        refuse(wrong, "/allow", format!("must have at most {ALLOW_MAX} items"));
    }
    if requests_per_minute.is_some_and(|n| !REQUESTS_PER_MINUTE.contains(&n)) {
        refuse(wrong, "/requests_per_minute", "must be 1 to 6000");
    }
}

impl Validate for ApiKeyRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        check(&self.name, &self.scopes, self.allow.as_ref(), self.requests_per_minute, wrong);
    }
}

impl Validate for InstanceTokenRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        check(&self.name, &self.scopes, self.allow.as_ref(), self.requests_per_minute, wrong);
        match (&self.bound.integration, &self.bound.devices) {
            (Some(name), None) => length(name, "/bound/integration", 1, NAME_MAX, wrong),
            (None, Some(devices)) if (1..=DEVICES_MAX).contains(&devices.len()) => {}
            (None, Some(_)) => refuse(wrong, "/bound/devices", format!("must have 1 to {DEVICES_MAX} items")),
            (None, None) | (Some(_), Some(_)) => {
                refuse(wrong, "/bound", "must have exactly one of integration and devices");
            }
        }
    }
}

/// Names that were validated.
fn set_of(scopes: &[String]) -> PermissionSet {
    scopes.iter().filter_map(|name| name.parse::<Permission>().ok()).collect()
}

/// A credential with its secret.
#[derive(Serialize, ToSchema)]
pub struct IssuedApiKey {
    /// What may be seen again.
    #[serde(flatten)]
    view: ApiKeyView,
    /// The whole credential, shown this once; null when the answer repeats an earlier one.
    key: Option<String>,
}

impl From<IssuedKey> for IssuedApiKey {
    fn from(issued: IssuedKey) -> Self {
        Self { view: issued.view, key: issued.key.map(|key| key.as_str().to_owned()) }
    }
}

list_of! {
    /// A page of API keys or instance tokens, newest first.
    ApiKeyList of ApiKeyView
}

/// A page.
pub struct PageQuery {
    limit: usize,
    cursor: Option<ApiKeyId>,
}

impl Params for PageQuery {
    const NAMES: &'static [(&'static str, &'static str)] =
        &[("limit", "1 to 200, 50 when absent."), ("cursor", "next_cursor of the page before.")];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        Self { limit: values.limit(wrong), cursor: values.parse("cursor", wrong) }
    }
}

async fn page(ctx: &Context, kind: KeyKind, query: &PageQuery) -> Result<Reply<ApiKeyList>> {
    let (data, next) = ctx.services().iam.api_keys(ctx.tenant()?, kind, query.cursor, query.limit).await?;
    Ok(Reply::new(ApiKeyList { data, next_cursor: next.map(|id| id.to_string()) }))
}

async fn create(ctx: &Context, new: NewKey, once: Option<Once>) -> Result<Reply<IssuedApiKey>> {
    let (tenant, by) = (ctx.tenant()?, ctx.user()?.id());
    let issued = ctx.services().iam.create_api_key(tenant, by, new, once, ctx.origin().clone()).await?;
    Ok(Reply::new(issued.into()))
}

async fn revoke(ctx: &Context, kind: KeyKind) -> Result<Reply<Ended>> {
    let (tenant, id, by) = (ctx.tenant()?, ctx.path("key_id")?, ctx.actor()?);
    ctx.services().iam.revoke_api_key(tenant, kind, id, by, ctx.origin().clone()).await?;
    Ok(Reply::empty())
}

/// `GET /v1/api-keys`
pub async fn list(ctx: Context, Query(query): Query<PageQuery>) -> Result<Reply<ApiKeyList>> {
    page(&ctx, KeyKind::Api, &query).await
}

/// `POST /v1/api-keys`
pub async fn create_key(ctx: Context, Json(request): Json<ApiKeyRequest>) -> Result<Reply<IssuedApiKey>> {
    let once = ctx.once("api_key", &request)?;
    let new = NewKey {
        scopes: set_of(&request.scopes),
        name: request.name,
        expires_at: request.expires_at,
        allow: request.allow.unwrap_or_default(),
        requests_per_minute: request.requests_per_minute.unwrap_or(REQUESTS_PER_MINUTE_DEFAULT),
        bound: None,
    };
    create(&ctx, new, once).await
}

/// `GET /v1/api-keys/{key_id}`
pub async fn get(ctx: Context, _: Nothing) -> Result<Reply<ApiKeyView>> {
    let view = ctx.services().iam.api_key_view(ctx.tenant()?, KeyKind::Api, ctx.path("key_id")?).await?;
    Ok(Reply::new(view))
}

/// `DELETE /v1/api-keys/{key_id}`
pub async fn revoke_key(ctx: Context, _: Nothing) -> Result<Reply<Ended>> {
    revoke(&ctx, KeyKind::Api).await
}

/// How a key gets a new secret.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// How long the old secret works on, 0 to 7 days; a day when absent.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 604_800)]
    overlap_s: Option<u64>,
}

impl Validate for RotateRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        if self.overlap_s.is_some_and(|s| s > OVERLAP_MAX.as_secs()) {
            refuse(wrong, "/overlap_s", "must be 0 to 604800");
        }
    }
}

/// `POST /v1/api-keys/{key_id}/rotate`
pub async fn rotate(ctx: Context, Json(request): Json<RotateRequest>) -> Result<Reply<IssuedApiKey>> {
    let (tenant, by, id): (_, _, ApiKeyId) = (ctx.tenant()?, ctx.user()?.id(), ctx.path("key_id")?);
    let once = ctx.once(&format!("api_key_rotate {id}"), &request)?;
    let overlap = Duration::from_secs(request.overlap_s.unwrap_or(OVERLAP_S_DEFAULT));
    let issued = ctx.services().iam.rotate_api_key(tenant, by, id, overlap, once, ctx.origin().clone()).await?;
    Ok(Reply::new(issued.into()))
}

/// `GET /v1/instance-tokens`
pub async fn list_tokens(ctx: Context, Query(query): Query<PageQuery>) -> Result<Reply<ApiKeyList>> {
    page(&ctx, KeyKind::Instance, &query).await
}

/// `POST /v1/instance-tokens`
pub async fn create_token(ctx: Context, Json(request): Json<InstanceTokenRequest>) -> Result<Reply<IssuedApiKey>> {
    let once = ctx.once("instance_token", &request)?;
    let bound = match (request.bound.integration, request.bound.devices) {
        (Some(name), None) => Bound::Integration(name),
        (None, Some(devices)) => Bound::Devices(devices.into_iter().collect()),
        _ => return Err(Refusal::invalid("/bound", "must have exactly one of integration and devices").into()),
    };
    let new = NewKey {
        scopes: set_of(&request.scopes),
        name: request.name,
        expires_at: request.expires_at,
        allow: request.allow.unwrap_or_default(),
        requests_per_minute: request.requests_per_minute.unwrap_or(REQUESTS_PER_MINUTE_DEFAULT),
        bound: Some(bound),
    };
    create(&ctx, new, once).await
}

/// `DELETE /v1/instance-tokens/{key_id}`
pub async fn revoke_token(ctx: Context, _: Nothing) -> Result<Reply<Ended>> {
    revoke(&ctx, KeyKind::Instance).await
}
