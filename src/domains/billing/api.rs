//! Plans, subscriptions and the gateway's events on the wire.

pub mod entitlements;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::subscription::{Status, Subscription, Word};
use super::{Event, EventResult, Proof, Settings, SharedSecret, licence};
use crate::crypto::webhook::{self, WebhookError};
use crate::crypto::{hex, sha256};
use crate::domains::devices::DeviceEntry;
use crate::domains::iam::Permission;
use crate::domains::tenants::{Feature, Licence, Limits, PlanTier};
use crate::gate::{Caller, Context, Json, Nothing, Params, Query, Raw, Reply, Validate, Values, parse};
use crate::kernel::error::FieldError;
use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::{Kind, Refusal, Result, Timestamp};
use crate::list_of;

pub use super::BillingStatus;

// ---- plans

/// A plan of the catalogue.
#[derive(Serialize, ToSchema)]
#[schema(as = Plan)]
pub struct PlanView {
    /// Its name.
    pub code: PlanTier,
    /// For one device and month, in hundredths of the currency.
    pub price_cents: u32,
    /// ISO 4217.
    pub currency: String,
    /// What a device on it may send.
    pub heartbeats_per_minute: u32,
    /// Days of trial, for `trial` only.
    pub trial_days: Option<u64>,
    /// Days that a refresh token lives after its last use; null: as the appliance's configuration says.
    pub refresh_days: Option<u64>,
    /// What a company on it has.
    pub features: Vec<Feature>,
    /// How much a company on it may have; null: what the machine can take.
    #[schema(value_type = std::collections::HashMap<String, Option<u64>>)]
    pub quotas: BTreeMap<&'static str, Option<u64>>,
}

/// All plans, from least to most.
#[derive(Serialize, ToSchema)]
pub struct PlanList {
    /// The plans.
    pub data: Vec<PlanView>,
}

const DAY_S: u64 = 86_400;

/// `GET /v1/plans`
pub async fn plans(ctx: Context, _: Nothing) -> Result<Reply<PlanList>> {
    let billing = &ctx.services().billing;
    let catalogue = billing.catalogue();
    let view = |code: PlanTier| {
        let plan = catalogue.plan(code);
        PlanView {
            code,
            price_cents: plan.price_cents,
            currency: plan.currency.clone(),
            heartbeats_per_minute: plan.heartbeats_per_minute,
            trial_days: (code == PlanTier::Trial).then(|| billing.settings().trial.as_secs() / DAY_S),
            refresh_days: plan.refresh.map(|d| d.as_secs() / DAY_S),
            features: plan.features.iter().copied().collect(),
            quotas: plan.quotas.iter().map(|(quota, limit)| (quota.name(), *limit)).collect(),
        }
    };
    Ok(Reply::new(PlanList { data: PlanTier::ALL.map(view).into() }))
}

// ---- how a device stands

/// Which device.
pub struct WhichDevice {
    device_id: Option<DeviceId>,
}

impl Params for WhichDevice {
    const NAMES: &'static [(&'static str, &'static str)] =
        &[("device_id", "Whose; a device asks for itself and may leave it out.")];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        Self { device_id: values.parse("device_id", wrong) }
    }
    fn device_id(&self) -> Option<&DeviceId> {
        self.device_id.as_ref()
    }
}

impl WhichDevice {
    fn entry(&self, ctx: &Context) -> Result<std::sync::Arc<DeviceEntry>> {
        match (&self.device_id, ctx.caller()) {
            (Some(id), _) => ctx.device_entry(id),
            (None, Caller::Device(device)) => Ok(std::sync::Arc::clone(&device.entry)),
            (None, _) => Err(Refusal::invalid("?device_id", "is required").into()),
        }
    }
}

/// `GET /v1/billing/status`
pub async fn status(ctx: Context, Query(which): Query<WhichDevice>) -> Result<Reply<BillingStatus>> {
    let entry = which.entry(&ctx)?;
    Ok(Reply::new(ctx.services().billing.status(&entry).await?))
}

/// A device's subscription.
#[derive(Serialize, ToSchema)]
#[schema(as = Subscription)]
pub struct SubscriptionView {
    /// Which device.
    #[schema(value_type = String)]
    pub device_id: DeviceId,
    /// Who pays.
    pub user_id: String,
    /// Which gateway; null before the first event.
    pub provider: Option<String>,
    /// The gateway's name of the plan.
    pub plan_code: String,
    /// Our plan.
    pub plan_tier: PlanTier,
    /// How it stands.
    pub status: Status,
    /// Whether it lets the device act at this moment.
    pub is_active: bool,
    /// Whether it goes on by itself.
    pub auto_renew: bool,
    /// The event that says so; null before the first one.
    pub event_id: Option<String>,
    /// When that happened.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub occurred_at: Option<Timestamp>,
    /// Until when it is paid, or when the trial ends; null: until further notice.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

impl SubscriptionView {
    fn of(word: Word, now: Timestamp) -> Self {
        let is_active = word.paid().is_some_and(|paid| paid.until.is_none_or(|until| now < until));
        Self {
            device_id: word.device_id,
            user_id: word.user_id,
            provider: Some(word.provider),
            plan_code: word.plan_code,
            plan_tier: word.tier,
            status: word.status,
            is_active,
            auto_renew: word.auto_renew,
            event_id: Some(word.event_id),
            occurred_at: Some(word.occurred_at),
            expires_at: word.expires_at,
        }
    }
}

/// `GET /v1/billing/subscription`
pub async fn subscription(ctx: Context, Query(which): Query<WhichDevice>) -> Result<Reply<SubscriptionView>> {
    let (entry, billing, now) = (which.entry(&ctx)?, &ctx.services().billing, ctx.now());
    if let Some(Subscription { word, .. }) = billing.subscription(&entry).await? {
        return Ok(Reply::new(SubscriptionView::of(word, now)));
    }
    let device = entry.device();
    let standing = billing.status_by(&device, None, now);
    Ok(Reply::new(SubscriptionView {
        device_id: device.id.clone(),
        user_id: device.owner.to_string(),
        provider: None,
        plan_code: standing.plan.name().to_owned(),
        plan_tier: standing.plan,
        status: standing.status,
        is_active: standing.is_active,
        auto_renew: false,
        event_id: None,
        occurred_at: None,
        expires_at: standing.expires_at,
    }))
}

// ---- events

/// What the gateway sends. Members that are not named here are passed over.
#[derive(Deserialize, ToSchema)]
#[schema(as = BillingEventRequest)]
pub struct EventRequest {
    /// Of the gateway's own making; each counts once.
    #[schema(min_length = 1, max_length = 128)]
    event_id: String,
    /// Which gateway.
    #[schema(min_length = 1, max_length = 64)]
    provider: String,
    /// Who pays: the owner of the device.
    #[schema(min_length = 1, max_length = 128)]
    user_id: String,
    /// For which device.
    #[schema(value_type = String, pattern = "^[A-Za-z0-9._:-]{1,64}$")]
    device_id: DeviceId,
    /// The gateway's name of the plan.
    #[schema(min_length = 1, max_length = 64)]
    plan_code: String,
    /// Our plan.
    plan_tier: PlanTier,
    /// How the subscription stands.
    status: Status,
    /// When it happened; when absent, when it was signed.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    occurred_at: Option<Timestamp>,
    /// Until when it is paid; absent or null: until further notice.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// Whether it goes on by itself; `false` when absent.
    #[serde(default)]
    auto_renew: bool,
    /// The gateway's own; not looked at.
    #[serde(default, rename = "payload")]
    #[schema(rename = "payload", value_type = Object)]
    _payload: Value,
}

impl Validate for EventRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        for (pointer, text, max) in [
            ("/event_id", &self.event_id, 128),
            ("/provider", &self.provider, 64),
            ("/user_id", &self.user_id, 128),
            ("/plan_code", &self.plan_code, 64),
        ] {
            if !(1..=max).contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
                let detail = format!("must have 1 to {max} printable ASCII characters");
                wrong.push(FieldError { pointer: pointer.to_owned(), detail });
            }
        }
    }
}

/// `POST /v1/billing/webhook`
pub async fn webhook(ctx: Context, Raw(body, _): Raw<EventRequest>) -> Result<Reply<SubscriptionView>> {
    let billing = &ctx.services().billing;
    let settings = billing.settings();
    if settings.secrets.is_empty() && settings.provider_secrets.is_empty() {
        let detail = "No secret is set for the billing webhook (billing.webhook_secret).";
        return Err(Refusal::new(Kind::Unavailable, "billing_not_configured", detail).retry_after_s(3_600).into());
    }
    let now = ctx.now();
    let genuine = verify(&ctx, settings, &body, now)?;
    if !settings.allow.is_empty() && !ctx.origin().ip.is_some_and(|ip| settings.allow.iter().any(|n| n.contains(ip))) {
        let detail = "Billing events are not taken from this address (billing.webhook_allow).";
        return Err(Refusal::new(Kind::Forbidden, "address_not_allowed", detail).into());
    }
    let event: EventRequest = parse(&body)?;
    let own = settings.provider_secrets.iter().any(|(name, _)| *name == event.provider);
    let fits = match &genuine.provider {
        Some(name) => *name == event.provider,
        None => !own,
    };
    if !fits {
        return Err(bad_signature().into());
    }
    let word = Word {
        event_id: event.event_id,
        provider: event.provider,
        user_id: event.user_id,
        device_id: event.device_id,
        plan_code: event.plan_code,
        tier: event.plan_tier,
        status: event.status,
        occurred_at: event.occurred_at.unwrap_or(genuine.proof.signed_at),
        expires_at: event.expires_at,
        auto_renew: event.auto_renew,
    };
    let taken = billing.take_event(word, genuine.proof, ctx.origin().clone()).await?;
    let reply = Reply::new(SubscriptionView::of(taken.subscription.word, now));
    Ok(if taken.waiting { reply.status(202) } else { reply })
}

/// A body that was found to be the gateway's.
struct Genuine {
    /// Whose secret signed it; `None`: one that all providers share.
    provider: Option<String>,
    proof: Proof,
}

fn bad_signature() -> Refusal {
    let detail = "The event is not signed with a secret of this appliance. Sign the body exactly as it is sent.";
    Refusal::new(Kind::Unauthenticated, "signature_invalid", detail)
}

/// Tries the shared secrets together, then each provider's own; all are tried, so that the time tells nothing.
fn verify(ctx: &Context, settings: &Settings, body: &[u8], now: Timestamp) -> Result<Genuine> {
    let headers = ctx.signature_headers();
    let standard = headers.any("webhook-signature");
    let signature = headers.once(if standard { "webhook-signature" } else { "x-signature" });
    let timestamp = headers.once(if standard { "webhook-timestamp" } else { "x-timestamp" });
    let (Some(signature), Some(timestamp)) = (signature, timestamp) else { return Err(bad_signature().into()) };
    let judge = |secrets: &[&SharedSecret]| {
        if standard {
            let keys: Vec<&[u8]> = secrets.iter().map(|s| s.standard.as_slice()).collect();
            let id = headers.once("webhook-id").unwrap_or_default();
            webhook::verify_standard(&keys, id, timestamp, signature, body, now.as_secs())
        } else {
            let keys: Vec<&[u8]> = secrets.iter().map(|s| s.text.as_slice()).collect();
            webhook::verify_hex(&keys, timestamp, signature, body, now.as_secs())
        }
    };
    let shared: Vec<&SharedSecret> = settings.secrets.iter().collect();
    let mut found = judge(&shared).map(|at| (None, at));
    for (name, secret) in &settings.provider_secrets {
        let judged = judge(&[secret]).map(|at| (Some(name.clone()), at));
        found = match (found, judged) {
            (Err(WebhookError::Signature | WebhookError::Malformed), judged) => judged,
            (found, _) => found,
        };
    }
    let (provider, signed_s) = found.map_err(|e| match e {
        WebhookError::OutOfRange => {
            let detail = "The event was signed more than 300 seconds from now. Check the clocks, and sign it anew.";
            Refusal::new(Kind::Unauthenticated, "timestamp_out_of_range", detail)
        }
        WebhookError::Malformed | WebhookError::Signature => bad_signature(),
    })?;
    let body_sha256 = hex(&sha256(body));
    let signed_at = Timestamp::from_millis(signed_s.saturating_mul(1_000));
    let proof = Proof { signature: signature.chars().take(1_024).collect(), signed_at, body_sha256 };
    Ok(Genuine { provider, proof })
}

/// An event of the gateway as an administrator sees it.
#[derive(Serialize, ToSchema)]
#[schema(as = BillingEvent)]
pub struct EventView {
    /// Of the gateway's own making.
    pub event_id: String,
    /// Which gateway.
    pub provider: String,
    /// Who pays.
    pub user_id: String,
    /// For which device.
    #[schema(value_type = String)]
    pub device_id: DeviceId,
    /// The gateway's name of the plan.
    pub plan_code: String,
    /// Our plan.
    pub plan_tier: PlanTier,
    /// How the subscription stood.
    pub status: Status,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    pub occurred_at: Timestamp,
    /// Until when it was paid.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// As it came.
    pub signature: String,
    /// SHA-256 of the body in hexadecimal.
    pub body_sha256: String,
    /// When it arrived.
    #[schema(value_type = String, format = DateTime)]
    pub received_at: Timestamp,
    /// When `result` came to be.
    #[schema(value_type = String, format = DateTime)]
    pub processed_at: Timestamp,
    /// What came of it.
    pub result: EventResult,
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        Self {
            event_id: event.word.event_id,
            provider: event.word.provider,
            user_id: event.word.user_id,
            device_id: event.word.device_id,
            plan_code: event.word.plan_code,
            plan_tier: event.word.tier,
            status: event.word.status,
            occurred_at: event.word.occurred_at,
            expires_at: event.word.expires_at,
            signature: event.proof.signature,
            body_sha256: event.proof.body_sha256,
            received_at: event.received_at,
            processed_at: event.processed_at,
            result: event.result,
        }
    }
}

list_of! {
    /// A page of the gateway's events, newest first.
    BillingEventList of EventView
}

/// A page.
pub struct EventQuery {
    limit: usize,
    cursor: Option<u64>,
    waiting: bool,
}

impl Params for EventQuery {
    const NAMES: &'static [(&'static str, &'static str)] = &[
        ("limit", "1 to 200, 50 when absent."),
        ("cursor", "next_cursor of the page before."),
        ("waiting", "true: those about devices that nobody has enrolled; needs system:admin."),
    ];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        let waiting = values.parse("waiting", wrong).unwrap_or(false);
        Self { limit: values.limit(wrong), cursor: values.parse("cursor", wrong), waiting }
    }
}

/// `GET /v1/billing/events`
pub async fn events(ctx: Context, Query(query): Query<EventQuery>) -> Result<Reply<BillingEventList>> {
    let tenant: Option<TenantId> = if query.waiting {
        if !ctx.caller().may(Permission::SystemAdmin) {
            let detail = "Events about devices that belong to nobody are for the administrator of the appliance.";
            return Err(Refusal::new(Kind::Forbidden, "forbidden", detail).into());
        }
        None
    } else {
        Some(ctx.tenant()?)
    };
    let (events, next) = ctx.services().billing.events(tenant, query.cursor, query.limit).await?;
    let data = events.into_iter().map(EventView::from).collect();
    Ok(Reply::new(BillingEventList { data, next_cursor: next.map(|n| n.to_string()) }))
}

// ---- licences

/// A licence to install.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LicenceRequest {
    /// As the vendor sent it: a compact JWS.
    #[schema(min_length = 1, max_length = 8192)]
    licence: String,
}

impl Validate for LicenceRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        if !(1..=licence::CHARS_MAX).contains(&self.licence.len()) {
            let detail = format!("must have 1 to {} characters", licence::CHARS_MAX);
            wrong.push(FieldError { pointer: "/licence".to_owned(), detail });
        }
    }
}

/// A company's licence.
#[derive(Serialize, ToSchema)]
#[schema(as = Licence)]
pub struct LicenceView {
    /// The vendor's own name for it.
    pub licence_id: String,
    /// The plan while it lasts.
    pub plan: PlanTier,
    /// Limits that differ from the plan's; null: unlimited.
    #[schema(value_type = std::collections::HashMap<String, Option<u64>>)]
    pub quotas: Limits,
    /// Whether it also pays for every device.
    pub covers_devices: bool,
    /// When it was signed.
    #[schema(value_type = String, format = DateTime)]
    pub issued_at: Timestamp,
    /// When it ends.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// Whether it is in force.
    pub in_force: bool,
}

impl LicenceView {
    fn of(licence: Licence, now: Timestamp) -> Self {
        Self {
            licence_id: licence.id,
            plan: licence.plan,
            quotas: licence.quotas,
            covers_devices: licence.covers_devices,
            issued_at: licence.issued_at,
            in_force: now < licence.expires_at,
            expires_at: licence.expires_at,
        }
    }
}

/// `GET /v1/billing/licence`
pub async fn licence(ctx: Context, _: Nothing) -> Result<Reply<LicenceView>> {
    let tenant = ctx.caller().tenant().map(|entry| entry.tenant());
    let licence = tenant.and_then(|t| t.purchase.licence.clone()).ok_or_else(Refusal::not_found)?;
    Ok(Reply::new(LicenceView::of(licence, ctx.services().billing.licence_time(ctx.now()))))
}

/// `PUT /v1/billing/licence`
pub async fn install_licence(ctx: Context, Json(request): Json<LicenceRequest>) -> Result<Reply<LicenceView>> {
    let (tenant, by) = (ctx.tenant()?, ctx.actor()?);
    let billing = &ctx.services().billing;
    let licence = billing.install_licence(tenant, request.licence, Some(by), ctx.origin().clone()).await?;
    Ok(Reply::new(LicenceView::of(licence, ctx.services().billing.licence_time(ctx.now()))))
}
