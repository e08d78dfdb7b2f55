//! What a company may have, on the wire.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domains::billing::{DecidedBy, Entitlements};
use crate::domains::tenants::{Feature, Overrides, PlanTier};
use crate::gate::{Context, Json, Nothing, Params, Query, Reply, Validate, Values};
use crate::kernel::error::FieldError;
use crate::kernel::ids::TenantId;
use crate::kernel::{Refusal, Result};

/// `GET /v1/entitlements`
pub async fn show(ctx: Context, _: Nothing) -> Result<Reply<Entitlements>> {
    Ok(Reply::new(ctx.services().billing.entitlements(ctx.tenant()?).await?))
}

/// Which feature.
pub struct WhichFeature {
    feature: Option<Feature>,
}

impl Params for WhichFeature {
    const NAMES: &'static [(&'static str, &'static str)] = &[("feature", "Its name, such as kanban.")];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        Self { feature: values.parse("feature", wrong) }
    }
}

/// Why a company has a part of the appliance, or has it not.
#[derive(Serialize, ToSchema)]
pub struct FeatureExplained {
    /// Its name.
    pub feature: Feature,
    /// Whether it is on.
    pub enabled: bool,
    /// Which word decides.
    pub decided_by: DecidedBy,
    /// The plan that counts.
    pub plan: PlanTier,
}

/// `GET /v1/entitlements/explain`
pub async fn explain(ctx: Context, Query(which): Query<WhichFeature>) -> Result<Reply<FeatureExplained>> {
    let feature = which.feature.ok_or_else(|| Refusal::invalid("?feature", "is required"))?;
    let tenant = ctx.tenant()?;
    let (enabled, decided_by) = ctx.services().billing.explain_feature(tenant, feature);
    let row = ctx.caller().tenant().map(|entry| entry.tenant());
    let plan = row.map_or(PlanTier::Trial, |row| row.purchase.plan_at(ctx.services().billing.licence_time(ctx.now())));
    Ok(Reply::new(FeatureExplained { feature, enabled, decided_by, plan }))
}

impl Validate for Overrides {}

/// `PUT /v1/tenants/{tenant_id}/entitlements`
pub async fn set(ctx: Context, Json(request): Json<Overrides>) -> Result<Reply<Entitlements>> {
    let (tenant, by): (TenantId, _) = (ctx.path("tenant_id")?, ctx.actor()?);
    Ok(Reply::new(ctx.services().billing.set_overrides(tenant, request, by, ctx.origin().clone()).await?))
}
