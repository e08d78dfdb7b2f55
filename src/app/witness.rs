//! Signs the logs from time to time, and has the checkpoints cosigned by a witness (c2sp.org/tlog-witness), where one is
//! configured. A witness that is not there holds nothing up: the next checkpoint asks it again.

use std::sync::Arc;
use std::time::Duration;

use base64ct::{Base64, Encoding};
use rustls::ClientConfig;

use crate::config::Config;
use crate::crypto::note::{KeyKind, Note, Verifier};
use crate::domains::Services;
use crate::domains::audit::{Audit, Unwitnessed};
use crate::kernel::context::Origin;
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result};
use crate::net::fetch::{self, Url};

/// Of a witness's answer: some lines.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Somebody outside who has seen each checkpoint before it is believed.
pub struct Witness {
    url: Url,
    key: Verifier,
    tls: Option<Arc<ClientConfig>>,
}

impl Witness {
    /// The one that the configuration names.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub fn of(config: &Config) -> Result<Option<Self>> {
        let wrong = |key: &str, e: String| Error::Internal(format!("{key}: {e}"));
        let (url, key) = match (&config.audit.witness_url, &config.audit.witness_key) {
            (None, None) => return Ok(None),
            (Some(url), Some(key)) => (url, key),
            _ => {
                return Err(Error::internal(
                    "audit.witness_url and audit.witness_key belong together: set both or none",
                ));
            }
        };
        let url = Url::parse(&format!("{}/add-checkpoint", url.trim_end_matches('/')));
        let url = url.map_err(|e| wrong("audit.witness_url", e))?;
        let key: Verifier =
            key.parse().map_err(|e: crate::crypto::note::NoteError| wrong("audit.witness_key", e.to_string()))?;
        if key.kind() != KeyKind::Cosignature {
            let what = "it is the key of a log; a witness's signs cosignatures (its first byte is 4)";
            return Err(wrong("audit.witness_key", what.to_owned()));
        }
        let tls = fetch::trust(&config.intel.ca_certificates).ok();
        Ok(Some(Self { url, key, tls }))
    }

    /// Has a checkpoint cosigned.
    ///
    /// # Errors
    /// A sentence for the log.
    pub async fn cosign(&self, audit: &Audit, checkpoint: &Unwitnessed) -> Result<(), String> {
        let mut seen = checkpoint.seen;
        for _ in 0..2 {
            let (status, answer) = self.ask(audit, checkpoint, seen).await?;
            match status {
                200 => return self.take(audit, checkpoint, &answer).await,
                // It saw another size last: its answer is that size.
                409 => {
                    seen = answer.trim().parse().map_err(|_| "the witness answers 409 without a size".to_owned())?;
                    if seen > checkpoint.size {
                        return Err(format!(
                            "the witness has seen {seen} entries of this log, which has {} here: was a backup put in place \
                             by hand? `blockremote restore` gives the log a new name",
                            checkpoint.size
                        ));
                    }
                }
                404 => {
                    return Err(
                        "the witness does not know this log: tell it the key (`blockremote audit key`)".to_owned()
                    );
                }
                other => return Err(format!("the witness answers {other}")),
            }
        }
        Err("the witness changes its mind".to_owned())
    }

    async fn ask(&self, audit: &Audit, checkpoint: &Unwitnessed, seen: u64) -> Result<(u16, String), String> {
        let proof = audit.prove_consistency(checkpoint.tenant, seen, Some(checkpoint.size)).await;
        let proof = proof.map_err(|e| e.to_string())?;
        let mut body = format!("old {seen}\n");
        for hash in &proof.path {
            body.push_str(&Base64::encode_string(hash));
            body.push('\n');
        }
        body.push('\n');
        body.push_str(&checkpoint.note);
        let sent = fetch::Sent { body: body.into(), ..Default::default() };
        let (status, answer) = fetch::post(&self.url, self.tls.clone(), sent, ANSWER_BYTES_MAX).await?;
        Ok((status, String::from_utf8(answer).map_err(|_| "the witness answers what is no text".to_owned())?))
    }

    /// Keeps the witness's line, once it is sure that it is one.
    async fn take(&self, audit: &Audit, checkpoint: &Unwitnessed, answer: &str) -> Result<(), String> {
        let line = answer.lines().find_map(|line| {
            let line = format!("{line}\n");
            let both = Note::parse(format!("{}{line}", checkpoint.note).as_bytes()).ok()?;
            both.cosigned_at(&self.key).is_ok().then_some(line)
        });
        let line = line.ok_or("the witness's answer holds no cosignature of audit.witness_key")?;
        audit.witnessed(checkpoint, line).await.map_err(|e| e.to_string())
    }
}

/// Signs every log that has grown, again and again.
pub async fn run(services: Arc<Services>, witness: Option<Witness>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        match services.audit.logs().await {
            Ok(logs) => round(&services.audit, witness.as_ref(), &logs).await,
            Err(e) => tracing::warn!(error = %e, "the audit logs could not be signed and will be in a minute"),
        }
    }
}

/// Signs the logs that have grown, and has them cosigned. All are signed first: a witness that is silent holds up none.
pub async fn round(audit: &Audit, witness: Option<&Witness>, logs: &[TenantId]) {
    for tenant in logs {
        if let Err(e) = audit.sign(*tenant, Origin::system()).await {
            tracing::warn!(error = %e, %tenant, "the audit log could not be signed and will be in a minute");
        }
    }
    let Some(witness) = witness else { return };
    for tenant in logs {
        offer(audit, witness, *tenant).await;
    }
}

async fn offer(audit: &Audit, witness: &Witness, tenant: TenantId) {
    let cosigned = match audit.unwitnessed(tenant).await {
        Ok(Some(checkpoint)) => witness.cosign(audit, &checkpoint).await,
        Ok(None) => Ok(()),
        Err(e) => Err(e.to_string()),
    };
    if let Err(e) = cosigned {
        tracing::warn!(error = %e, %tenant, "a checkpoint of the audit log was not cosigned and will be offered again");
    }
}
