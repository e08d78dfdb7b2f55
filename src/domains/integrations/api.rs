//! Integrations on the wire.

mod requests;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::model::{Attempt, Delivery, Integration, Kind, State, Tls};
use super::{Issued, Replay, Wanted};
use crate::domains::audit::Event;
use crate::gate::{Context, Json, Nothing, Params, Query, Reply, Validate, Values};
use crate::kernel::error::FieldError;
use crate::kernel::ids::{AuditId, IntegrationId};
use crate::kernel::{Error, Result, Timestamp};
use crate::list_of;

const OVERLAP_S_DEFAULT: u64 = 86_400;
const OVERLAP_S_MAX: u64 = 7 * 86_400;

use requests::check_row;
pub use requests::{IntegrationPatch, IntegrationRequest};

// ---- answers

/// An integration.
#[derive(Serialize, ToSchema)]
#[schema(as = Integration)]
pub struct IntegrationView {
    /// `int_...`
    #[schema(value_type = String)]
    id: IntegrationId,
    /// Unique in the company.
    name: String,
    /// Where events go and in what form.
    kind: Kind,
    /// What it is told of.
    events: Vec<String>,
    /// Whether it is told at all.
    enabled: bool,
    /// Why the appliance switched it off; null while it did not.
    disabled_reason: Option<String>,
    /// Without what may be a credential.
    url: Option<String>,
    /// Of the server.
    host: Option<String>,
    /// Of the server.
    port: Option<u16>,
    /// How it is spoken to.
    tls: Option<Tls>,
    /// Of the mail server.
    username: Option<String>,
    /// Who writes.
    from: Option<String>,
    /// To whom.
    to: Vec<String>,
    /// Until when the previous secret signs, too.
    #[schema(value_type = Option<String>, format = DateTime)]
    previous_secret_until: Option<Timestamp>,
    /// Events that wait for it.
    backlog: usize,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it was last changed.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

fn view(ctx: &Context, row: Integration) -> IntegrationView {
    let backlog = ctx.services().integrations.get(row.tenant, row.id).map_or(0, |(_, backlog)| backlog);
    let now = ctx.now();
    IntegrationView {
        id: row.id,
        name: row.name,
        kind: row.kind,
        events: row.events,
        enabled: row.enabled,
        disabled_reason: row.disabled_reason,
        url: row.target.url,
        host: row.target.host,
        port: row.target.port,
        tls: row.target.tls,
        username: row.target.username,
        from: row.target.from,
        to: row.target.to,
        previous_secret_until: row.previous_until.filter(|until| now < *until),
        backlog,
        created_at: row.created_at,
        updated_at: row.updated_at,
    }
}

/// An integration, and its secret where it has a new one.
#[derive(Serialize, ToSchema)]
pub struct IssuedIntegration {
    /// The integration.
    #[serde(flatten)]
    integration: IntegrationView,
    /// What a webhook is signed with (`whsec_...`): shown this once, and never for a repeated request. Null for other kinds.
    secret: Option<String>,
}

fn issued(ctx: &Context, issued: Issued) -> IssuedIntegration {
    let secret = issued.secret.as_ref().map(|secret| secret.to_string());
    IssuedIntegration { integration: view(ctx, issued.row), secret }
}

list_of! {
    /// A page of integrations in the order of their making.
    IntegrationList of IntegrationView
}

/// An event that integrations can be told of.
#[derive(Serialize, ToSchema)]
pub struct IntegrationEvent {
    /// Its name.
    name: &'static str,
    /// What it says.
    description: &'static str,
}

list_of! {
    /// Every event there is.
    IntegrationEventList of IntegrationEvent
}

/// What became of an event that was to be sent to an integration.
#[derive(Serialize, ToSchema)]
#[schema(as = Delivery)]
pub struct DeliveryView {
    /// The event's id: `webhook-id`, and the id of its entry in the log.
    #[schema(value_type = String)]
    id: AuditId,
    /// Its number in the log.
    seq: u64,
    /// Which event.
    event: String,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    occurred_at: Timestamp,
    /// How far it got.
    state: State,
    /// How often it was tried since it was queued.
    attempts: u32,
    /// When it is tried next.
    #[schema(value_type = Option<String>, format = DateTime)]
    next_at: Option<Timestamp>,
    /// How often somebody had it sent again.
    replays: u32,
    /// The last attempts, oldest first.
    log: Vec<Attempt>,
}

list_of! {
    /// A page of deliveries, newest event first.
    DeliveryList of DeliveryView
}

// ---- handlers

/// A page.
pub struct PageQuery {
    limit: usize,
    cursor: Option<IntegrationId>,
}

impl Params for PageQuery {
    const NAMES: &'static [(&'static str, &'static str)] =
        &[("limit", "1 to 200, 50 when absent."), ("cursor", "next_cursor of the page before.")];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        Self { limit: values.limit(wrong), cursor: values.parse("cursor", wrong) }
    }
}

/// `GET /v1/integrations`
pub async fn list(ctx: Context, Query(query): Query<PageQuery>) -> Result<Reply<IntegrationList>> {
    let (rows, more) = ctx.services().integrations.list(ctx.tenant()?, query.cursor, query.limit).await?;
    let next_cursor = rows.last().filter(|_| more).map(|row| row.id.to_string());
    let data = rows.into_iter().map(|row| view(&ctx, row)).collect();
    Ok(Reply::new(IntegrationList { data, next_cursor }))
}

/// `GET /v1/integration-events`
pub async fn events(_: Context, _: Nothing) -> Result<Reply<IntegrationEventList>> {
    let event = |event: &Event| IntegrationEvent { name: event.name(), description: event.meaning() };
    Ok(Reply::new(IntegrationEventList { data: Event::ALL.iter().map(event).collect(), next_cursor: None }))
}

/// `POST /v1/integrations`
pub async fn create(ctx: Context, Json(request): Json<IntegrationRequest>) -> Result<Reply<IssuedIntegration>> {
    let once = ctx.once("integration", &request)?;
    let mut target = request.target();
    if matches!(request.kind, Kind::Syslog | Kind::Email) {
        target.tls = target.tls.or(Some(Tls::Tls));
    }
    let (tenant, by, origin) = (ctx.tenant()?, ctx.actor()?, ctx.origin().clone());
    let wanted = Wanted { name: Some(request.name), events: Some(request.events), enabled: request.enabled, target };
    let made = ctx.services().integrations.create(tenant, request.kind, wanted, by, once, origin).await?;
    Ok(Reply::new(issued(&ctx, made)))
}

fn id_in(ctx: &Context) -> Result<IntegrationId> {
    ctx.path("integration_id")
}

/// `GET /v1/integrations/{integration_id}`
pub async fn get(ctx: Context, _: Nothing) -> Result<Reply<IntegrationView>> {
    let (row, _) = ctx.services().integrations.get(ctx.tenant()?, id_in(&ctx)?)?;
    Ok(Reply::new(view(&ctx, row)))
}

/// `PATCH /v1/integrations/{integration_id}`
pub async fn patch(ctx: Context, Json(request): Json<IntegrationPatch>) -> Result<Reply<IntegrationView>> {
    let (tenant, id, by, origin) = (ctx.tenant()?, id_in(&ctx)?, ctx.actor()?, ctx.origin().clone());
    let target = request.target();
    let wanted = Wanted { name: request.name, events: request.events, enabled: request.enabled, target };
    let row = ctx.services().integrations.update(tenant, id, wanted, check_row, by, origin).await?;
    Ok(Reply::new(view(&ctx, row)))
}

/// Nothing.
#[derive(Serialize, ToSchema)]
pub struct IntegrationRemoved {}

/// `DELETE /v1/integrations/{integration_id}`
pub async fn remove(ctx: Context, _: Nothing) -> Result<Reply<IntegrationRemoved>> {
    let (tenant, by, origin) = (ctx.tenant()?, ctx.actor()?, ctx.origin().clone());
    ctx.services().integrations.remove(tenant, id_in(&ctx)?, by, origin).await?;
    Ok(Reply::empty())
}

/// How long the previous secret signs, too.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateSecretRequest {
    /// A day when absent; at most a week; 0: not at all.
    #[serde(default)]
    #[schema(maximum = 604_800)]
    overlap_s: Option<u64>,
}

impl Validate for RotateSecretRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        if self.overlap_s.is_some_and(|s| s > OVERLAP_S_MAX) {
            let detail = format!("must be 0 to {OVERLAP_S_MAX}");
            wrong.push(FieldError { pointer: "/overlap_s".to_owned(), detail });
        }
    }
}

/// `POST /v1/integrations/{integration_id}/rotate`
pub async fn rotate(ctx: Context, Json(request): Json<RotateSecretRequest>) -> Result<Reply<IssuedIntegration>> {
    let overlap = Duration::from_secs(request.overlap_s.unwrap_or(OVERLAP_S_DEFAULT));
    let (tenant, by, origin) = (ctx.tenant()?, ctx.actor()?, ctx.origin().clone());
    let rotated = ctx.services().integrations.rotate(tenant, id_in(&ctx)?, overlap, by, origin).await?;
    Ok(Reply::new(issued(&ctx, rotated)))
}

/// How a trial went.
#[derive(Serialize, ToSchema)]
pub struct IntegrationTested {
    /// Whether the receiver took it.
    delivered: bool,
    /// How it went.
    attempt: Attempt,
}

/// `POST /v1/integrations/{integration_id}/test`
pub async fn test(ctx: Context, _: Nothing) -> Result<Reply<IntegrationTested>> {
    let (tenant, by, origin) = (ctx.tenant()?, ctx.actor()?, ctx.origin().clone());
    let tried = ctx.services().integrations.test(tenant, id_in(&ctx)?, by, origin).await?;
    Ok(Reply::new(IntegrationTested { delivered: tried.delivered, attempt: tried.attempt }))
}

/// Which events are sent again: exactly one of numbers, times and `dead`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayRequest {
    /// The first number in the log; with `to_seq`.
    #[serde(default)]
    from_seq: Option<u64>,
    /// The last one, included.
    #[serde(default)]
    to_seq: Option<u64>,
    /// The first moment; with `to`.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// The last one, included.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// `true`: every dead letter.
    #[serde(default)]
    dead: bool,
}

impl ReplayRequest {
    fn which(&self) -> Option<Replay> {
        match (self.from_seq, self.to_seq, self.from, self.to, self.dead) {
            (Some(from), Some(to), None, None, false) if from <= to => Some(Replay::Seqs(from, to)),
            (None, None, Some(from), Some(to), false) if from <= to => Some(Replay::Times(from, to)),
            (None, None, None, None, true) => Some(Replay::Dead),
            _ => None,
        }
    }
}

impl Validate for ReplayRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        if self.which().is_none() {
            let detail = "write from_seq and to_seq, or from and to, or dead: true; the first not behind the last";
            wrong.push(FieldError { pointer: String::new(), detail: detail.to_owned() });
        }
    }
}

/// What is sent again.
#[derive(Serialize, ToSchema)]
pub struct IntegrationReplayed {
    /// Events that wait now.
    queued: usize,
    /// Replay from this number on for the rest; null: that was all.
    next_seq: Option<u64>,
}

/// `POST /v1/integrations/{integration_id}/replay`
pub async fn replay(ctx: Context, Json(request): Json<ReplayRequest>) -> Result<Reply<IntegrationReplayed>> {
    let which = request.which().ok_or_else(|| Error::internal("a replay of nothing passed its check"))?;
    let (tenant, by, origin) = (ctx.tenant()?, ctx.actor()?, ctx.origin().clone());
    let done = ctx.services().integrations.replay(tenant, id_in(&ctx)?, which, by, origin).await?;
    Ok(Reply::new(IntegrationReplayed { queued: done.queued, next_seq: done.next_seq }))
}

/// A page of deliveries.
pub struct DeliveryQuery {
    limit: usize,
    cursor: Option<u64>,
    state: Option<State>,
}

impl Params for DeliveryQuery {
    const NAMES: &'static [(&'static str, &'static str)] = &[
        ("state", "pending, delivered or dead; all when absent."),
        ("limit", "1 to 200, 50 when absent."),
        ("cursor", "next_cursor of the page before."),
    ];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        Self { limit: values.limit(wrong), cursor: values.parse("cursor", wrong), state: values.parse("state", wrong) }
    }
}

/// `GET /v1/integrations/{integration_id}/deliveries`
pub async fn deliveries(ctx: Context, Query(query): Query<DeliveryQuery>) -> Result<Reply<DeliveryList>> {
    let (tenant, id) = (ctx.tenant()?, id_in(&ctx)?);
    let found = ctx.services().integrations.deliveries(tenant, id, query.state, query.cursor, query.limit).await?;
    let data = found.0.into_iter().map(|(seq, delivery)| {
        let Delivery { id, event, at, state, attempts, next_at, tries, replays, .. } = delivery;
        DeliveryView { id, seq, event, occurred_at: at, state, attempts, next_at, replays, log: tries }
    });
    Ok(Reply::new(DeliveryList { data: data.collect(), next_cursor: found.1.map(|seq| seq.to_string()) }))
}
