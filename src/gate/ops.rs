//! Health, metrics and keys: what operators and their tools ask.

use serde::Serialize;
use utoipa::ToSchema;

use super::docs::Document;
use super::{Context, Nothing, Reply};
use crate::domains::Services;
use crate::domains::signals::BreakerState;
use crate::kernel::{Kind, Refusal, Result};
use crate::observe::strain::{Disk, Memory, Strain};

/// Health in one word.
#[derive(Serialize, ToSchema)]
pub struct Health {
    /// `ok`, or `degraded`; a failing part answers 503 instead.
    pub status: &'static str,
    /// What is degraded and still serves: `scoring`, `disk`, `memory`, `audit`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub parts: Vec<&'static str>,
}

/// `GET /health/live`
pub async fn live(_: Context, _: Nothing) -> Result<Reply<Health>> {
    Ok(Reply::new(Health { status: "ok", parts: Vec::new() }))
}

/// Parts that do less than they should, and still serve.
fn degraded(ctx: &Context) -> Vec<&'static str> {
    let parts = [
        ("scoring", ctx.services().signals.scoring().state != BreakerState::Closed),
        ("disk", ctx.strain.disk() != Disk::Ample),
        ("memory", ctx.strain.memory() != Memory::Ample),
        ("audit", ctx.services().audit.is_torn()),
    ];
    parts.into_iter().filter(|(_, degraded)| *degraded).map(|(part, _)| part).collect()
}

/// What this is and how it is.
#[derive(Serialize, ToSchema)]
pub struct Status {
    /// `BlockRemote`.
    name: &'static str,
    /// The program's version.
    version: &'static str,
    /// `ok`, `degraded`, `failed` or `stopping`.
    health: &'static str,
}

/// `GET /v1/status`
pub async fn status(ctx: Context, _: Nothing) -> Result<Reply<Status>> {
    let health = match (ctx.services().store.has_failed(), ctx.draining) {
        (true, _) => "failed",
        (false, true) => "stopping",
        (false, false) if !degraded(&ctx).is_empty() => "degraded",
        (false, false) => "ok",
    };
    Ok(Reply::new(Status { name: "BlockRemote", version: env!("CARGO_PKG_VERSION"), health }))
}

/// The part for which the appliance cannot do its work, and what to do about it. Every door and the metrics say the same.
pub(super) fn failing(services: &Services, draining: bool, strain: &Strain) -> Option<(&'static str, &'static str)> {
    if draining {
        Some(("shutdown", "The appliance is shutting down."))
    } else if services.store.has_failed() {
        Some(("store", "The data file failed; the appliance must be restarted."))
    } else if let Some(task) = strain.ended_task() {
        Some((task, "A task ended by a defect; the log has the cause. Restart the appliance."))
    } else if strain.disk() == Disk::Full {
        Some(("disk", "The disk is full: not even heartbeats can be kept. Make room; it comes back by itself."))
    } else if strain.memory() == Memory::Exhausted {
        Some(("memory", "The appliance is out of memory: raise its limit, or serve fewer devices."))
    } else {
        None
    }
}

/// `GET /health/ready`
pub async fn ready(ctx: Context, _: Nothing) -> Result<Reply<Health>> {
    let Some((part, detail)) = failing(ctx.services(), ctx.draining, &ctx.strain) else {
        let parts = degraded(&ctx);
        return Ok(Reply::new(Health { status: if parts.is_empty() { "ok" } else { "degraded" }, parts }));
    };
    let mut refusal = Refusal::new(Kind::Unavailable, "not_ready", detail).retry_after_s(5);
    let extra = serde_json::json!({ "part": part });
    refusal.extra = extra.as_object().cloned().map(Box::new);
    Err(refusal.into())
}

/// Every part with its figures.
#[derive(Serialize, ToSchema)]
pub struct DeepHealth {
    /// `ok` or `failed`.
    status: &'static str,
    /// The program's version.
    version: &'static str,
    /// The data file.
    store: StoreHealth,
    /// Backups.
    backup: BackupHealth,
    /// Enrolled devices.
    devices: usize,
    /// Sessions in memory.
    sessions: usize,
    /// Open kill-switch sockets.
    sockets: usize,
}

/// How backups stand. Times are Unix seconds, 0 for never.
#[derive(Serialize, ToSchema)]
pub struct BackupHealth {
    /// `ok`; `overdue` when none was made, or none restored for trial, for too long; `off` when the appliance makes none by
    /// itself.
    status: &'static str,
    /// How they are tried: `restored`, or only `checked_when_made` where no key for trials lies on the appliance.
    trial: &'static str,
    /// When the last one was made.
    last_s: u64,
    /// When one was last restored for trial, and was sound.
    drilled_s: u64,
    /// Backups and trials that failed since the start.
    failures: u64,
}

/// Figures of the data file.
#[derive(Serialize, ToSchema)]
pub struct StoreHealth {
    /// `ok` or `failed`.
    status: &'static str,
    /// Changes and heartbeats that wait for the writer.
    queued: u64,
    /// Commits since the start.
    commits: u64,
    /// Changes and heartbeats that these commits carried.
    writes: u64,
    /// Size on disk.
    bytes: u64,
}

/// `GET /health/deep`
pub async fn deep(ctx: Context, _: Nothing) -> Result<Reply<DeepHealth>> {
    use std::sync::atomic::Ordering::Relaxed;
    let services = ctx.services();
    let state = services.store.state();
    let status = if services.store.has_failed() { "failed" } else { "ok" };
    Ok(Reply::new(DeepHealth {
        status,
        version: env!("CARGO_PKG_VERSION"),
        store: StoreHealth {
            status,
            queued: state.queued.load(Relaxed),
            commits: state.commits.load(Relaxed),
            writes: state.jobs.load(Relaxed),
            bytes: std::fs::metadata(services.store.path()).map_or(0, |m| m.len()),
        },
        backup: {
            let known = ctx.metrics.backup();
            let status = match (known.scheduled, known.overdue) {
                (false, _) => "off",
                (true, true) => "overdue",
                (true, false) => "ok",
            };
            let trial = if known.tried { "restored" } else { "checked_when_made" };
            let crate::observe::BackupFigures { last_s, drilled_s, failures, .. } = known;
            BackupHealth { status, trial, last_s, drilled_s, failures }
        },
        devices: services.devices.count(),
        sessions: services.iam.session_count(),
        sockets: services.killswitch.hub().len(),
    }))
}

/// `GET /metrics`
pub async fn metrics(ctx: Context, _: Nothing) -> Result<Reply<Document>> {
    use std::sync::atomic::Ordering::Relaxed;
    let services = ctx.services();
    let state = services.store.state();
    let scoring = services.signals.scoring().state;
    ctx.metrics.set_degraded(&[
        ("scoring", u8::from(scoring != BreakerState::Closed)),
        ("disk", ctx.strain.disk() as u8),
        ("memory", ctx.strain.memory() as u8),
        ("audit", u8::from(services.audit.is_torn())),
    ]);
    ctx.metrics.set_shed(ctx.strain.refused());
    let anonymous = services.iam.anonymous().figures().windows;
    let integrations = services.integrations.figures();
    ctx.metrics.set_gauges(&crate::observe::Gauges {
        anonymous_tokens: anonymous.tokens as u64,
        anonymous_networks: anonymous.networks as u64,
        anonymous_evictions: anonymous.token_evictions,
        integration_backlog: integrations.backlog,
        integration_oldest_s: integrations.oldest_s,
        write_queue: state.queued.load(Relaxed),
        write_queue_max: crate::kernel::limits::WRITE_QUEUE_MAX as u64,
        write_refused: state.refused.load(Relaxed),
        syncs: state.syncs.load(Relaxed),
        sync_seconds: std::time::Duration::from_nanos(state.sync_nanos.load(Relaxed)).as_secs_f64(),
        certificates: services.certificates.count() as u64,
        process: crate::observe::process::look(),
        devices: services.devices.count() as u64,
        sessions: services.iam.session_count() as u64,
        sockets: services.killswitch.hub().len() as u64,
        store_bytes: std::fs::metadata(services.store.path()).map_or(0, |m| m.len()),
        store_failed: services.store.has_failed(),
        ready: failing(services, ctx.draining, &ctx.strain).is_none(),
    });
    let (content_type, text) = ctx.metrics.exposition(ctx.accept.as_deref());
    Ok(Reply::raw(content_type, text))
}

/// `GET /.well-known/jwks.json`
pub async fn jwks(ctx: Context, _: Nothing) -> Result<Reply<Document>> {
    let set = ctx.services().iam.jwks().to_string();
    Ok(Reply::raw("application/json", set).header("cache-control", "public, max-age=300"))
}
