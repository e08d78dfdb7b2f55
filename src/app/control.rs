//! The local socket of the running appliance: what an operator on the box asks of it. Only the owner of the folder can
//! reach it. One JSON line in, one JSON line out.

use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::crypto::SealingKey;
use crate::crypto::keyring::KeyRing;
use crate::domains::iam::{self, TokenSpec};
use crate::domains::tenants::Tenants;
use crate::domains::{Services, audit};
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::{Clock, Error, Random, Result, files};
use crate::store::backup;

/// What is asked.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Ask {
    /// Copy the present moment into a new file.
    Backup {
        /// Absolute.
        file: PathBuf,
    },
    /// Recompute the audit trees.
    Verify,
    /// Move the rotation of the signing keys on.
    RotateKeys,
    /// Make an enrollment token.
    EnrollmentToken {
        /// `None`: no limit.
        uses: Option<u32>,
        /// Seconds.
        lifetime_s: u64,
        /// Only for this device.
        device: Option<DeviceId>,
        /// Id or name; the first tenant when absent.
        tenant: Option<String>,
    },
}

/// What the running appliance needs to answer.
pub struct Operator {
    /// The façades.
    pub services: Arc<Services>,
    /// The signing keys in memory.
    pub keys: KeyRing,
    /// Seals new keys.
    pub sealing: Arc<SealingKey>,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub random: Random,
}

const LINE_BYTES_MAX: u64 = 16 << 10;
const ASK_MAX: Duration = Duration::from_secs(5);

/// The open socket; closing it removes its file.
pub struct Listener {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
        // A file that stays behind is replaced by the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Listener {
    /// Opens the socket, in place of one that a killed process left behind. The data file's lock has been taken by now,
    /// so nobody else is using it.
    pub fn open(path: &Path, operator: Operator) -> Result<Self> {
        let cannot = |e: std::io::Error| Error::Internal(format!("{} could not be opened: {e}", path.display()));
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(cannot(e)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(cannot)?;
        files::restrict(path, 0o600).map_err(cannot)?;
        let operator = Arc::new(operator);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let operator = Arc::clone(&operator);
                tokio::spawn(async move {
                    if let Err(e) = converse(stream, &operator).await {
                        tracing::debug!(error = %e, "a caller of the local socket went away");
                    }
                });
            }
        });
        Ok(Self { path: path.to_owned(), task })
    }
}

async fn converse(stream: UnixStream, operator: &Operator) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = BufReader::new(read.take(LINE_BYTES_MAX));
    let read_line = tokio::time::timeout(ASK_MAX, read.read_line(&mut line));
    read_line.await.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    let answer = match serde_json::from_str::<Ask>(&line) {
        Ok(ask) => operator.answer(ask).await,
        Err(e) => Err(Error::internal(format!("that is not understood: {e}"))),
    };
    let answer = match answer {
        Ok(value) => json!({ "ok": value }),
        Err(e) => json!({ "error": e.to_string() }),
    };
    write.write_all(format!("{answer}\n").as_bytes()).await
}

impl Operator {
    /// Does what is asked.
    pub async fn answer(&self, ask: Ask) -> Result<Value> {
        match ask {
            Ask::Backup { file } => {
                if !file.is_absolute() {
                    return Err(Error::internal("the name of the backup must be absolute"));
                }
                let store = self.services.store.clone();
                let summary = tokio::task::spawn_blocking(move || backup::write(&store, &file)).await;
                serde_json::to_value(summary.map_err(Error::internal)??).map_err(Error::internal)
            }
            Ask::Verify => {
                let trees = self.services.store.read_with(audit::check_trees).await?;
                Ok(json!({ "audit": trees }))
            }
            Ask::RotateKeys => {
                let tenant = self.tenant(None).await?;
                let (keys, sealing) = (self.keys.clone(), Arc::clone(&self.sealing));
                let (clock, random) = (self.clock.clone(), self.random.clone());
                let change = move |tx: &mut crate::store::Tx<'_>| {
                    iam::rotate_keys(tx, &keys, tenant, &sealing, clock.now(), &random, &Origin::cli())
                };
                let kid = self.services.store.write(change).await?;
                Ok(json!({ "kid": kid }))
            }
            Ask::EnrollmentToken { uses, lifetime_s, device, tenant } => {
                let tenant = self.tenant(tenant).await?;
                let uses_max = if device.is_some() { Some(1) } else { uses };
                let spec = TokenSpec { lifetime: Duration::from_secs(lifetime_s), uses_max, device };
                let token = self.services.iam.new_enrollment_token(tenant, None, spec, Origin::cli()).await?;
                Ok(json!({ "enrollment_token": token, "tenant": tenant }))
            }
        }
    }

    async fn tenant(&self, wanted: Option<String>) -> Result<TenantId> {
        let wanted_ = wanted.clone();
        let found = self.services.store.read_with(move |s| Tenants::find(s, wanted_.as_deref())).await?;
        let name = wanted.unwrap_or_default();
        found.map(|t| t.id).ok_or_else(|| Error::Internal(format!("there is no tenant {name:?}")))
    }
}

/// Asks the running appliance; `None` when none is running at this place.
pub fn ask(socket: &Path, ask: &Ask) -> Result<Option<Value>> {
    use std::io::{BufRead, Write};
    let Ok(mut stream) = BlockingStream::connect(socket) else { return Ok(None) };
    let line = serde_json::to_string(ask).map_err(Error::internal)?;
    stream.write_all(format!("{line}\n").as_bytes()).map_err(Error::internal)?;
    let mut answer = String::new();
    std::io::BufReader::new(stream).read_line(&mut answer).map_err(Error::internal)?;
    let answer: Value =
        serde_json::from_str(&answer).map_err(|_| Error::internal("the appliance ended before it answered"))?;
    match (answer.get("ok"), answer.get("error").and_then(Value::as_str)) {
        (Some(value), _) => Ok(Some(value.clone())),
        (None, Some(error)) => Err(Error::Internal(error.to_owned())),
        (None, None) => Err(Error::internal("the appliance gave no answer")),
    }
}
