//! Roots of trust and lists of revoked certificates on the wire.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domains::attestation::trust::label_fault;
use crate::domains::attestation::{LIST_BYTES_MAX, NewRoot, RootKind, RootView, StatusListView};
use crate::gate::{Context, Json, Nothing, Reply, Validate};
use crate::kernel::error::FieldError;
use crate::kernel::{Result, Timestamp};

/// Bytes of a certificate in PEM; real ones have two thousand.
const PEM_BYTES_MAX: usize = 16 * 1024;

/// Roots of trust.
#[derive(Serialize, ToSchema)]
pub struct RootList {
    /// The bundled ones, then the tenant's own; all of them.
    data: Vec<RootView>,
    /// Always null: a tenant has at most 64 of its own, which come on one page.
    next_cursor: Option<String>,
}

/// `GET /v1/intel/roots`
pub async fn roots(ctx: Context, _: Nothing) -> Result<Reply<RootList>> {
    let data = ctx.services().attestation.roots(ctx.tenant()?);
    Ok(Reply::new(RootList { data, next_cursor: None }))
}

/// A root that is to be trusted.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RootRequest {
    /// What it shall vouch for.
    kind: RootKind,
    /// For people; verdicts say `added: ` before it.
    #[schema(min_length = 1, max_length = 64)]
    label: String,
    /// One certificate of an authority.
    #[schema(min_length = 1, max_length = 16384)]
    pem: String,
}

impl Validate for RootRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        let mut refuse = |pointer: &str, detail: String| {
            wrong.push(FieldError { pointer: pointer.to_owned(), detail });
        };
        if let Some(fault) = label_fault(&self.label) {
            refuse("/label", fault.to_owned());
        }
        if self.pem.is_empty() || self.pem.len() > PEM_BYTES_MAX {
            refuse("/pem", "must be one certificate in PEM of at most 16 KiB".to_owned());
        }
    }
}

/// `POST /v1/intel/roots`
pub async fn add_root(ctx: Context, Json(request): Json<RootRequest>) -> Result<Reply<RootView>> {
    let RootRequest { kind, label, pem } = request;
    let (attestation, by) = (&ctx.services().attestation, Some(ctx.actor()?));
    let root = attestation.add_root(ctx.tenant()?, NewRoot { kind, label, pem }, by, ctx.origin().clone()).await?;
    Ok(Reply::new(root))
}

/// Nothing.
#[derive(Serialize, ToSchema)]
pub struct Removed {}

/// `DELETE /v1/intel/roots/{root_id}`
pub async fn remove_root(ctx: Context, _: Nothing) -> Result<Reply<Removed>> {
    let (attestation, by) = (&ctx.services().attestation, Some(ctx.actor()?));
    attestation.remove_root(ctx.tenant()?, ctx.path("root_id")?, by, ctx.origin().clone()).await?;
    Ok(Reply::empty())
}

/// Lists of revoked certificates.
#[derive(Serialize, ToSchema)]
pub struct StatusLists {
    /// Those in force; none before the first import.
    data: Vec<StatusListView>,
    /// Always null: there is at most one of each name.
    next_cursor: Option<String>,
}

/// `GET /v1/intel/status-lists`
pub async fn status_lists(ctx: Context, _: Nothing) -> Result<Reply<StatusLists>> {
    Ok(Reply::new(StatusLists { data: ctx.services().attestation.status_lists().await?, next_cursor: None }))
}

/// A list that is to be in force.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StatusListRequest {
    /// When it was fetched from `https://android.googleapis.com/attestation/status`.
    #[schema(value_type = String, format = DateTime)]
    fetched_at: Timestamp,
    /// The file's text, unchanged.
    #[schema(min_length = 2, max_length = 8388608)]
    file: String,
}

impl Validate for StatusListRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        if self.file.len() > LIST_BYTES_MAX {
            wrong.push(FieldError { pointer: "/file".to_owned(), detail: "must have at most 8 MiB".to_owned() });
        }
    }
}

/// `PUT /v1/intel/status-lists/android-key`
pub async fn import_status_list(ctx: Context, Json(request): Json<StatusListRequest>) -> Result<Reply<StatusListView>> {
    let StatusListRequest { fetched_at, file } = request;
    let (attestation, by) = (&ctx.services().attestation, Some(ctx.actor()?));
    let view =
        attestation.import_status_list(ctx.tenant()?, file.into_bytes(), fetched_at, by, ctx.origin().clone()).await?;
    Ok(Reply::new(view))
}
