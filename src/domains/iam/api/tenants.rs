//! Tenants on the wire, for the administrator of the appliance.

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::length;
use crate::crypto::Secret;
use crate::domains::iam::{Counted, NewAdmin, NewTenant, OneTimeLink, TenantChange};
use crate::domains::tenants::{AttestationPolicy, EnrollmentPolicy, PlanTier, Retention, Tenant, TenantState};
use crate::gate::{Context, Json, Nothing, Params, Query, Reply, Validate, Values};
use crate::kernel::error::FieldError;
use crate::kernel::ids::{TenantId, UserId};
use crate::kernel::{Result, Timestamp};

/// Whether a tenant may act.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TenantStateName {
    /// It may.
    Active,
    /// Its people and devices are refused; its devices still receive commands.
    Suspended,
}

/// A company that uses the appliance.
#[derive(Serialize, ToSchema)]
#[schema(as = Tenant)]
pub struct TenantView {
    /// `ten_...`
    #[schema(value_type = String)]
    id: TenantId,
    /// Unique on the appliance.
    name: String,
    /// Whether it may act.
    state: TenantStateName,
    /// Why it is suspended; null while it is not.
    suspended_reason: Option<String>,
    /// Since when it is suspended; null while it is not.
    #[schema(value_type = Option<String>, format = DateTime)]
    suspended_at: Option<Timestamp>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// Who may enroll a device.
    enrollment: EnrollmentPolicy,
    /// Whether a new device must attest its hardware.
    attestation: AttestationPolicy,
    /// BCP 47 tag of the language that its people read.
    locale: String,
    /// How long data is kept.
    retention: Retention,
    /// What it has bought; a licence may stand in its place.
    plan: PlanTier,
    /// Enrolled devices.
    devices: usize,
    /// People.
    users: usize,
    /// Who was made with it; only in the answer to its making.
    #[serde(skip_serializing_if = "Option::is_none")]
    admin: Option<AdminView>,
}

/// A tenant's first administrator.
#[derive(Serialize, ToSchema)]
#[schema(as = TenantAdmin)]
pub struct AdminView {
    /// `usr_...`
    #[schema(value_type = String)]
    id: UserId,
    /// What they log in with.
    username: String,
    /// Where they have no password yet; its token is shown once.
    invitation: Option<OneTimeLink>,
}

fn view(counted: Counted) -> TenantView {
    let Counted { tenant, devices, users } = counted;
    let Tenant { id, name, created_at, enrollment, attestation, locale, retention, state, kill_switch: _, purchase } =
        tenant;
    let (state, suspended_reason, suspended_at) = match state {
        // Handlers never see a deleted one.
        TenantState::Active | TenantState::Deleted { .. } => (TenantStateName::Active, None, None),
        TenantState::Suspended { reason, at } => (TenantStateName::Suspended, Some(reason), Some(at)),
    };
    TenantView {
        id,
        name,
        state,
        suspended_reason,
        suspended_at,
        created_at,
        enrollment,
        attestation,
        locale,
        retention,
        plan: purchase.plan,
        devices,
        users,
        admin: None,
    }
}

/// A tenant to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantRequest {
    /// Unique on the appliance; upper and lower case are the same.
    #[schema(min_length = 1, max_length = 128)]
    name: String,
    /// Who administers it; without one nobody of it can log in yet.
    #[serde(default)]
    admin: Option<TenantAdminRequest>,
    /// `token` when absent. `open` takes effect only for the tenant that the configuration names
    /// (`enrollment.open_tenant`).
    #[serde(default)]
    enrollment: Option<EnrollmentPolicy>,
    /// `optional` when absent.
    #[serde(default)]
    attestation: Option<AttestationPolicy>,
    /// BCP 47 tag; `en` when absent.
    #[serde(default)]
    #[schema(min_length = 2, max_length = 35, pattern = "^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$", example = "de-CH")]
    locale: Option<String>,
    /// How long data is kept; as long as the plan allows when absent.
    #[serde(default)]
    retention: Option<Retention>,
    /// `paid` when absent.
    #[serde(default)]
    plan: Option<PlanTier>,
}

/// A first administrator to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantAdminRequest {
    /// Unique on the appliance; upper and lower case are the same.
    #[schema(min_length = 1, max_length = 128)]
    username: String,
    /// 12 characters or more; when absent, they choose it by an invitation.
    #[serde(default)]
    #[schema(value_type = Option<String>, min_length = 12, max_length = 1024)]
    password: Option<Secret>,
}

impl Validate for TenantRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        check_name(&self.name, "/name", wrong);
        if self.name.parse::<TenantId>().is_ok() {
            wrong.push(field("/name", "is an id; choose a name"));
        }
        if let Some(admin) = &self.admin {
            check_name(&admin.username, "/admin/username", wrong);
        }
        check_locale(self.locale.as_deref(), wrong);
        check_retention(self.retention, wrong);
    }
}

fn field(pointer: &str, detail: &str) -> FieldError {
    FieldError { pointer: pointer.to_owned(), detail: detail.to_owned() }
}

fn check_name(name: &str, pointer: &str, wrong: &mut Vec<FieldError>) {
    length(name, pointer, 1, 128, wrong);
    if name.trim() != name || name.chars().any(char::is_control) {
        wrong.push(field(pointer, "must neither begin nor end with white space, nor hold control characters"));
    }
}

fn check_locale(locale: Option<&str>, wrong: &mut Vec<FieldError>) {
    let Some(locale) = locale else { return };
    let mut parts = locale.split('-');
    let language = |p: &str| (2..=8).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_alphabetic());
    let subtag = |p: &str| (1..=8).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_alphanumeric());
    let fits = parts.next().is_some_and(language) && parts.all(subtag);
    if !fits || locale.len() > 35 {
        wrong.push(field("/locale", "must be a language tag such as \"en\" or \"de-CH\", 2 to 35 characters"));
    }
}

fn check_retention(retention: Option<Retention>, wrong: &mut Vec<FieldError>) {
    if retention.and_then(|r| r.audit_days).is_some_and(|days| !(1..=36_500).contains(&days)) {
        wrong.push(field("/retention/audit_days", "must be 1 to 36500"));
    }
}

/// What of a tenant is to be another; an absent member, or null, stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantPatch {
    /// Unique on the appliance; upper and lower case are the same.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 128)]
    name: Option<String>,
    /// true shuts its people and devices out; commands still reach the devices.
    #[serde(default)]
    suspended: Option<bool>,
    /// Why, in words; only with `suspended: true`.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 500)]
    suspend_reason: Option<String>,
    /// `open` takes effect only for the tenant that the configuration names (`enrollment.open_tenant`).
    #[serde(default)]
    enrollment: Option<EnrollmentPolicy>,
    /// Whether a new device must attest its hardware.
    #[serde(default)]
    attestation: Option<AttestationPolicy>,
    /// BCP 47 tag.
    #[serde(default)]
    #[schema(min_length = 2, max_length = 35, pattern = "^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$", example = "de-CH")]
    locale: Option<String>,
    /// How long data is kept; replaced as a whole.
    #[serde(default)]
    retention: Option<Retention>,
    /// What it has bought. Less than it uses takes nothing away; it only makes no room for more.
    #[serde(default)]
    plan: Option<PlanTier>,
}

impl Validate for TenantPatch {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        if let Some(name) = &self.name {
            check_name(name, "/name", wrong);
            if name.parse::<TenantId>().is_ok() {
                wrong.push(field("/name", "is an id; choose a name"));
            }
        }
        if let Some(reason) = &self.suspend_reason {
            length(reason, "/suspend_reason", 1, 500, wrong);
            if self.suspended != Some(true) {
                wrong.push(field("/suspend_reason", "goes only with suspended: true"));
            }
        }
        check_locale(self.locale.as_deref(), wrong);
        check_retention(self.retention, wrong);
    }
}

crate::list_of! {
    /// A page of tenants, oldest first.
    TenantList of TenantView
}

/// A page.
pub struct PageQuery {
    limit: usize,
    cursor: Option<TenantId>,
}

impl Params for PageQuery {
    const NAMES: &'static [(&'static str, &'static str)] =
        &[("limit", "1 to 200, 50 when absent."), ("cursor", "next_cursor of the page before.")];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        Self { limit: values.limit(wrong), cursor: values.parse("cursor", wrong) }
    }
}

/// `GET /v1/tenants`
pub async fn list(ctx: Context, Query(query): Query<PageQuery>) -> Result<Reply<TenantList>> {
    let (page, next) = ctx.services().iam.tenants(query.cursor, query.limit).await?;
    let next_cursor = next.map(|id| id.to_string());
    Ok(Reply::new(TenantList { data: page.into_iter().map(view).collect(), next_cursor }))
}

/// `POST /v1/tenants`
pub async fn create(ctx: Context, Json(request): Json<TenantRequest>) -> Result<Reply<TenantView>> {
    let (own, by) = (ctx.tenant()?, ctx.actor()?);
    // The password is no part of what tells one making from another.
    let admin = request.admin.as_ref().map(|a| &a.username);
    let (policies, locale) =
        ((request.enrollment, request.attestation, request.retention, request.plan), &request.locale);
    let once = ctx.once("tenant", &json!([request.name, admin, policies, locale]))?;
    let new = NewTenant {
        name: request.name,
        enrollment: request.enrollment.unwrap_or_default(),
        attestation: request.attestation.unwrap_or_default(),
        locale: request.locale.unwrap_or_else(|| Tenant::DEFAULT_LOCALE.to_owned()),
        retention: request.retention,
        plan: request.plan.unwrap_or(PlanTier::Paid),
        admin: request.admin.map(|a| NewAdmin { username: a.username, password: a.password }),
    };
    let made = ctx.services().iam.create_tenant(new, own, once, by, ctx.origin().clone()).await?;
    let users = usize::from(made.admin.is_some());
    let admin = made.admin.map(|a| AdminView { id: a.id, username: a.username, invitation: a.invitation });
    Ok(Reply::new(TenantView { admin, ..view(Counted { tenant: made.tenant, devices: 0, users }) }))
}

/// `GET /v1/tenants/{tenant_id}`
pub async fn get(ctx: Context, _: Nothing) -> Result<Reply<TenantView>> {
    Ok(Reply::new(view(ctx.services().iam.tenant(ctx.path("tenant_id")?).await?)))
}

/// `PATCH /v1/tenants/{tenant_id}`
pub async fn update(ctx: Context, Json(request): Json<TenantPatch>) -> Result<Reply<TenantView>> {
    let (id, own, by) = (ctx.path("tenant_id")?, ctx.tenant()?, ctx.actor()?);
    let change = TenantChange {
        name: request.name,
        suspended: request.suspended,
        suspend_reason: request.suspend_reason,
        enrollment: request.enrollment,
        attestation: request.attestation,
        locale: request.locale,
        retention: request.retention,
        plan: request.plan,
    };
    let counted = ctx.services().iam.update_tenant(id, change, own, by, ctx.origin().clone()).await?;
    Ok(Reply::new(view(counted)))
}

/// `DELETE /v1/tenants/{tenant_id}`
pub async fn remove(ctx: Context, _: Nothing) -> Result<Reply<super::Ended>> {
    let (id, own, by) = (ctx.path("tenant_id")?, ctx.tenant()?, ctx.actor()?);
    ctx.services().iam.delete_tenant(id, own, by, ctx.origin().clone()).await?;
    Ok(Reply::empty())
}
