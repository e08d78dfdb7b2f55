//! What an operator asks of the signed logs: keys, checkpoints, and a folder with all that an outsider needs.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::control::Operator;
use crate::domains::audit::Audit;
use crate::kernel::context::Origin;
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Kind, Refusal, Result, files};
use crate::store::Snapshot;

/// What is asked.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(rename_all = "snake_case")]
pub enum AskAudit {
    /// Show the keys.
    Key {
        /// Id or name; all tenants when absent.
        tenant: Option<String>,
    },
    /// Sign now, and show the checkpoints.
    Checkpoint {
        /// Id or name; all tenants when absent.
        tenant: Option<String>,
    },
    /// Write everything into a folder.
    Export {
        /// Absolute.
        folder: PathBuf,
        /// Id or name; all tenants when absent.
        tenant: Option<String>,
        /// Whether addresses and user agents stay out.
        without_personal: bool,
    },
}

pub(super) async fn answer(operator: &Operator, ask: AskAudit) -> Result<Value> {
    let (AskAudit::Key { tenant } | AskAudit::Checkpoint { tenant } | AskAudit::Export { tenant, .. }) = &ask;
    let logs = operator.services.audit.logs().await?;
    // A deleted tenant has no name any more, and its log stays.
    let named = tenant.as_deref().and_then(|text| text.parse::<TenantId>().ok()).filter(|id| logs.contains(id));
    let tenants = match (named, tenant) {
        (Some(tenant), _) => vec![tenant],
        (None, None) => logs,
        (None, Some(_)) => operator.tenant_or_all(tenant.clone()).await?.into_iter().collect(),
    };
    let audit = &operator.services.audit;
    match ask {
        AskAudit::Key { .. } => {
            let mut keys = Vec::new();
            for tenant in tenants {
                for name in audit.names(tenant).await? {
                    keys.push(json!({ "tenant": tenant, "origin": name.origin, "from_seq": name.from_seq,
                        "verifier_key": name.verifier.to_string() }));
                }
            }
            Ok(json!({ "keys": keys }))
        }
        AskAudit::Checkpoint { .. } => {
            let mut checkpoints = Vec::new();
            for tenant in tenants {
                audit.sign(tenant, Origin::cli()).await?;
                if let Some(note) = signed(audit, tenant).await? {
                    checkpoints.push(json!({ "tenant": tenant, "checkpoint": note }));
                }
            }
            Ok(json!({ "checkpoints": checkpoints }))
        }
        AskAudit::Export { folder, without_personal, .. } => {
            prepare(&folder)?;
            let mut logs = Vec::new();
            for tenant in tenants {
                audit.sign(tenant, Origin::cli()).await?;
                if signed(audit, tenant).await?.is_none() {
                    continue;
                }
                let (audit, to) = (audit.clone(), folder.join(tenant.to_string()));
                let write = move |snapshot: &Snapshot| export(&audit, snapshot, tenant, &to, !without_personal);
                let size = operator.services.store.read_with(write).await?;
                logs.push(json!({ "tenant": tenant, "size": size }));
            }
            Ok(json!({ "folder": folder, "logs": logs }))
        }
    }
}

/// The newest checkpoint; `None` for a log without entries.
async fn signed(audit: &Audit, tenant: TenantId) -> Result<Option<String>> {
    match audit.checkpoint(tenant).await {
        Ok(note) => Ok(Some(note)),
        Err(Error::Refused(refusal)) if refusal.kind == Kind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn cannot(path: &Path, e: &std::io::Error) -> Error {
    Error::Internal(format!("{} could not be written: {e}", path.display()))
}

/// Makes the folder, or sees that it is empty: what lies there already could pass for a part of the log.
fn prepare(folder: &Path) -> Result<()> {
    if !folder.is_absolute() {
        return Err(Error::internal("the name of the folder must be absolute"));
    }
    files::create_private_dir(folder).map_err(|e| cannot(folder, &e))?;
    if std::fs::read_dir(folder).map_err(|e| cannot(folder, &e))?.next().is_some() {
        let detail = format!("{} is not empty; nothing was written. Name another folder.", folder.display());
        return Err(Refusal::new(Kind::Conflict, "not_empty", detail).into());
    }
    Ok(())
}

/// Writes one log.
fn export(audit: &Audit, snapshot: &Snapshot, tenant: TenantId, to: &Path, with_personal: bool) -> Result<u64> {
    audit.export(snapshot, tenant, &mut |name, bytes| {
        if name.starts_with("personal/") && !with_personal {
            return Ok(());
        }
        let path = to.join(name);
        if let Some(parent) = path.parent() {
            files::create_private_dir(parent).map_err(|e| cannot(parent, &e))?;
        }
        let mut file = files::create_private(&path).map_err(|e| cannot(&path, &e))?;
        std::io::Write::write_all(&mut file, bytes).map_err(|e| cannot(&path, &e))
    })
}
