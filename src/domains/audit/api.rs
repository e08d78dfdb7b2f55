//! The log on the wire.

use base64ct::{Base64, Encoding};
use serde::Serialize;
use utoipa::ToSchema;

use super::merkle::Hash;
use super::tiles::Tile;
use super::{Action, Entry, Filter, LogName, ThreatLevel};
use crate::domains::iam::Permission;
use crate::gate::{Caller, Context, Document, Nothing, Params, Query, Reply, Values};
use crate::kernel::error::FieldError;
use crate::kernel::ids::{DeviceId, TenantId, UserId};
use crate::kernel::{Refusal, Result, Timestamp};
use crate::list_of;

list_of! {
    /// A page of audit entries, newest first.
    AuditList of Entry
}

/// What to show.
pub struct LogQuery {
    filter: Filter,
    limit: usize,
    cursor: Option<u64>,
}

impl Params for LogQuery {
    const NAMES: &'static [(&'static str, &'static str)] = &[
        ("device_id", "Entries of this device; may be left out with the permission audit:read."),
        ("user_id", "Entries of what this person did, or that are about them."),
        ("action", "Entries of this action, such as login_failed."),
        ("threat_level", "Entries that matter this much or more: none, low, medium, high, critical."),
        ("from", "Entries from this moment on (RFC 3339)."),
        ("to", "Entries before this moment (RFC 3339)."),
        ("limit", "1 to 200, 50 when absent. A page may hold fewer and still have a next_cursor: go on with it."),
        ("cursor", "next_cursor of the page before."),
    ];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        let filter = Filter {
            device: values.parse("device_id", wrong),
            user: values.parse::<UserId>("user_id", wrong),
            action: values.parse::<Action>("action", wrong),
            level: values.parse::<ThreatLevel>("threat_level", wrong),
            from: values.parse::<Timestamp>("from", wrong),
            to: values.parse::<Timestamp>("to", wrong),
        };
        if let (Some(from), Some(to)) = (filter.from, filter.to)
            && from > to
        {
            wrong.push(FieldError { pointer: "?to".to_owned(), detail: "must not be before from".to_owned() });
        }
        Self { filter, limit: values.limit(wrong), cursor: values.parse("cursor", wrong) }
    }
    fn device_id(&self) -> Option<&DeviceId> {
        self.filter.device.as_ref()
    }
}

/// Whether the caller may read the whole log of its tenant.
fn reads_all(ctx: &Context) -> bool {
    let bound = matches!(ctx.caller(), Caller::Machine(machine) if machine.key.is_bound_to_devices());
    ctx.caller().may(Permission::AuditRead) && !bound
}

/// The tenant whose log is asked for as a whole. A program that is bound to devices sees no whole log.
fn whole_log(ctx: &Context) -> Result<TenantId> {
    if reads_all(ctx) { ctx.tenant() } else { Err(Refusal::not_found().into()) }
}

/// `GET /v1/audit/logs`
pub async fn logs(ctx: Context, Query(query): Query<LogQuery>) -> Result<Reply<AuditList>> {
    match &query.filter.device {
        Some(id) => drop(ctx.device_entry(id)?),
        None if reads_all(&ctx) => {}
        None => return Err(Refusal::invalid("?device_id", "is required without the permission audit:read").into()),
    }
    let page = ctx.services().audit.search(ctx.tenant()?, query.filter, query.cursor, query.limit).await?;
    Ok(Reply::new(AuditList { data: page.entries, next_cursor: page.next.map(|seq| seq.to_string()) }))
}

/// `GET /v1/audit/checkpoint`
pub async fn checkpoint(ctx: Context, _: Nothing) -> Result<Reply<Document>> {
    let note = ctx.services().audit.checkpoint(whole_log(&ctx)?).await?;
    Ok(Reply::raw("text/plain; charset=utf-8", note))
}

/// `POST /v1/audit/checkpoint`
pub async fn sign(ctx: Context, _: Nothing) -> Result<Reply<Document>> {
    let (tenant, audit) = (whole_log(&ctx)?, &ctx.services().audit);
    audit.sign(tenant, ctx.origin().clone()).await?;
    Ok(Reply::raw("text/plain; charset=utf-8", audit.checkpoint(tenant).await?))
}

/// The names that a log was signed under, and the keys to check that with.
#[derive(Serialize, ToSchema)]
pub struct AuditKey {
    /// The log's present name, the first line of its checkpoints.
    origin: String,
    /// `NAME+HASH+KEY` (c2sp.org/signed-note).
    verifier_key: String,
    /// Every name that it went by, the present one last.
    names: Vec<AuditName>,
}

/// A name that a log was signed under.
#[derive(Serialize, ToSchema)]
pub struct AuditName {
    /// The first line of checkpoints.
    origin: String,
    /// `NAME+HASH+KEY`.
    verifier_key: String,
    /// The first entry that was written under it.
    from_seq: u64,
}

/// `GET /v1/audit/key`
pub async fn key(ctx: Context, _: Nothing) -> Result<Reply<AuditKey>> {
    let names = ctx.services().audit.names(whole_log(&ctx)?).await?;
    let present = names.last().ok_or_else(Refusal::not_found)?;
    let (origin, verifier_key) = (present.origin.clone(), present.verifier.to_string());
    let name = |n: &LogName| AuditName {
        origin: n.origin.clone(),
        verifier_key: n.verifier.to_string(),
        from_seq: n.from_seq,
    };
    Ok(Reply::new(AuditKey { origin, verifier_key, names: names.iter().map(name).collect() }))
}

/// Which entry.
pub struct InclusionQuery {
    seq: u64,
    size: Option<u64>,
}

fn required(values: &Values, name: &str, wrong: &mut Vec<FieldError>) -> u64 {
    if values.text(name).is_none() {
        wrong.push(FieldError { pointer: format!("?{name}"), detail: "is required".to_owned() });
    }
    values.parse(name, wrong).unwrap_or(0)
}

impl Params for InclusionQuery {
    const NAMES: &'static [(&'static str, &'static str)] = &[
        ("seq", "The entry's sequence number."),
        ("size", "Size of the tree in which it is proven to be; that of the newest checkpoint when absent."),
    ];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        Self { seq: required(values, "seq", wrong), size: values.parse("size", wrong) }
    }
}

/// Proof that an entry is in the log (RFC 9162, section 2.1.3). Hashes are in base64.
#[derive(Serialize, ToSchema)]
pub struct InclusionProof {
    /// Which entry.
    seq: u64,
    /// Of the tree.
    size: u64,
    /// Of the entry.
    leaf_hash: String,
    /// From the bottom up.
    hashes: Vec<String>,
    /// Of the tree; believe the signed checkpoint of this size, not this.
    root: String,
}

fn base64(hash: &Hash) -> String {
    Base64::encode_string(hash)
}

/// `GET /v1/audit/proof/inclusion`
pub async fn inclusion(ctx: Context, Query(query): Query<InclusionQuery>) -> Result<Reply<InclusionProof>> {
    let proof = ctx.services().audit.prove_inclusion(whole_log(&ctx)?, query.seq, query.size).await?;
    Ok(Reply::new(InclusionProof {
        seq: proof.seq,
        size: proof.size,
        leaf_hash: base64(&proof.leaf),
        hashes: proof.path.iter().map(base64).collect(),
        root: base64(&proof.root),
    }))
}

/// Which two sizes.
pub struct ConsistencyQuery {
    from: u64,
    to: Option<u64>,
}

impl Params for ConsistencyQuery {
    const NAMES: &'static [(&'static str, &'static str)] = &[
        ("from", "Size of the older tree."),
        ("to", "Size of the newer tree; that of the newest checkpoint when absent."),
    ];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        Self { from: required(values, "from", wrong), to: values.parse("to", wrong) }
    }
}

/// Proof that a log is the beginning of a later one (RFC 9162, section 2.1.4). Hashes are in base64.
#[derive(Serialize, ToSchema)]
pub struct ConsistencyProof {
    /// Size of the older tree.
    from: u64,
    /// Size of the newer one.
    to: u64,
    /// In the RFC's order.
    hashes: Vec<String>,
    /// Of the older tree.
    from_root: String,
    /// Of the newer one; believe signed checkpoints of these sizes, not this.
    root: String,
}

/// `GET /v1/audit/proof/consistency`
pub async fn consistency(ctx: Context, Query(query): Query<ConsistencyQuery>) -> Result<Reply<ConsistencyProof>> {
    let proof = ctx.services().audit.prove_consistency(whole_log(&ctx)?, query.from, query.to).await?;
    Ok(Reply::new(ConsistencyProof {
        from: proof.from,
        to: proof.to,
        hashes: proof.path.iter().map(base64).collect(),
        from_root: base64(&proof.from_root),
        root: base64(&proof.root),
    }))
}

/// `GET /v1/audit/tile/{level}/{*name}`
pub async fn tile(ctx: Context, _: Nothing) -> Result<Reply<Document>> {
    let tenant = whole_log(&ctx)?;
    let (level, name): (String, String) = (ctx.path("level")?, ctx.path("name")?);
    let tile = Tile::parse(&format!("{level}/{name}")).ok_or_else(Refusal::not_found)?;
    let bytes = ctx.services().audit.tile(tenant, tile).await?;
    Ok(Reply::raw("application/octet-stream", bytes))
}
