//! The local socket of the running appliance: what an operator on the box asks of it. Only the owner of the folder can
//! reach it. One JSON line in, one JSON line out.

use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use zeroize::Zeroizing;

use super::export::{self, AskAudit};
use super::feeds::{self, AskIntel};
use super::replay;
use crate::crypto::keyring::KeyRing;
use crate::crypto::{Secret, unhex};
use crate::domains::attestation::{NewRoot, RootKind};
use crate::domains::certificates::Authority;
use crate::domains::iam::{self, KeyCustody, NewUser, TokenSpec};
use crate::domains::tenants::Tenants;
use crate::domains::{Services, audit};
use crate::gate::Gate;
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceId, EnrollmentId, SignalId, TenantId};
use crate::kernel::{Clock, Error, Kind, Random, Refusal, Result, Timestamp, files};

/// What is asked. Its `Debug` masks passwords.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Ask {
    /// Copy the present moment into a new file.
    Backup {
        /// Absolute; by its own name in the configured directory when absent.
        file: Option<PathBuf>,
        /// In place of the configured ones.
        recipients: Vec<String>,
        /// Whether it may lie in clear.
        unencrypted: bool,
    },
    /// Recompute a decision from what is stored.
    Replay {
        /// The heartbeat that led to it.
        signal: SignalId,
    },
    /// Restore the newest backup for trial.
    Drill,
    /// Say how backups stand.
    BackupStatus,
    /// Recompute the audit trees, and hold them against these checkpoints.
    Verify {
        /// Notes that were kept elsewhere.
        #[serde(default)]
        known: Vec<String>,
        /// The public half of the log's key, in hex, where it is known from elsewhere.
        #[serde(default)]
        key: Option<String>,
    },
    /// The signed log.
    Audit(AskAudit),
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
    /// Show the enrollment tokens, never their secrets.
    ListTokens {
        /// Id or name; all tenants when absent.
        tenant: Option<String>,
    },
    /// Take an enrollment token back.
    RevokeToken {
        /// Which.
        id: EnrollmentId,
    },
    /// Read the file of plans anew.
    ReloadPlans,
    /// Install a licence.
    InstallLicence {
        /// As the vendor sent it.
        licence: String,
        /// Id or name; the first tenant when absent.
        tenant: Option<String>,
    },
    /// Count the devices that somebody has to pay for.
    Trials,
    /// Make a person.
    AddUser {
        /// Unique on the appliance.
        username: String,
        /// Never logged.
        #[serde(serialize_with = "in_clear")]
        password: Secret,
        /// Built-in names or ids.
        roles: Vec<String>,
        /// Whether they also administer the appliance.
        system_admin: bool,
        /// Id or name; the first tenant when absent.
        tenant: Option<String>,
    },
    /// Give a person a new password.
    SetPassword {
        /// Whose.
        username: String,
        /// Never logged.
        #[serde(serialize_with = "in_clear")]
        password: Secret,
        /// Whether to take the second factors away, too.
        reset_second_factor: bool,
    },
    /// Shut a person out, or let them in again.
    SwitchUser {
        /// Whom.
        username: String,
        /// `true`: shut out.
        disabled: bool,
    },
    /// Show the roots of trust.
    Roots {
        /// Id or name; the first tenant when absent.
        tenant: Option<String>,
    },
    /// Trust a root.
    AddRoot {
        /// What it shall vouch for.
        kind: RootKind,
        /// For people.
        label: String,
        /// The certificate.
        pem: String,
        /// Id or name; the first tenant when absent.
        tenant: Option<String>,
    },
    /// Trust a root no longer.
    RemoveRoot {
        /// Which.
        id: String,
        /// Id or name; the first tenant when absent.
        tenant: Option<String>,
    },
    /// Show the lists of revoked certificates.
    StatusLists,
    /// Put Google's list in force.
    ImportStatusList {
        /// Its text.
        file: String,
        /// When it was fetched.
        fetched_at: Timestamp,
    },
    /// Make a client certificate.
    IssueCertificate {
        /// For which device.
        device: DeviceId,
        /// PKCS 10 in PEM; a key is made where there is none.
        csr: Option<String>,
        /// Of a made key; as configured when absent.
        days: Option<u32>,
        /// Id or name; the first tenant when absent.
        tenant: Option<String>,
    },
    /// Show client certificates.
    ListCertificates {
        /// Of one device.
        device: Option<DeviceId>,
        /// Id or name; all tenants when absent.
        tenant: Option<String>,
    },
    /// Take a client certificate back.
    RevokeCertificate {
        /// Which.
        serial: String,
        /// Stands in the audit log.
        reason: String,
    },
    /// Change what is logged.
    LogLevel {
        /// `error` to `trace`.
        level: String,
    },
    /// Show the people.
    ListUsers {
        /// Id or name; all tenants when absent.
        tenant: Option<String>,
    },
    /// Threat feeds.
    Intel(AskIntel),
}

/// The one place where a password is written out: from the command to the appliance, over a socket that only their owner
/// can open.
fn in_clear<S: Serializer>(password: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(password.expose())
}

/// What the running appliance needs to answer.
pub struct Operator {
    /// The façades.
    pub services: Arc<Services>,
    /// Makes backups.
    pub backups: Arc<super::backup::schedule::Keeper>,
    /// The signing keys in memory.
    pub keys: KeyRing,
    /// Seals new keys, and knows which are kept outside.
    pub custody: KeyCustody,
    /// What counts failed logins; `None` on a stopped appliance, where nothing is counted.
    pub gate: Option<Arc<Gate>>,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub random: Random,
    /// Of a threat feed that is read from a file.
    pub feed_bytes_max: usize,
}

/// A list of revoked certificates, whose quotes are escaped, is the longest that is said here.
const LINE_BYTES_MAX: u64 = 16 << 20;
const ASK_MAX: Duration = Duration::from_secs(5);
/// After a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

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
            loop {
                let (stream, _) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    // Out of file descriptors, most likely: it passes.
                    Err(e) => {
                        tracing::warn!(error = %e, "an operator's command could not be heard");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
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
    let mut line = Zeroizing::new(String::new());
    let mut read = BufReader::new(read.take(LINE_BYTES_MAX));
    let read_line = tokio::time::timeout(ASK_MAX, read.read_line(&mut line));
    read_line.await.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    let answer = match serde_json::from_str::<Ask>(&line) {
        Ok(ask) => operator.answer(ask).await,
        // The parser's own words could repeat a part of the line, and with it a password.
        Err(_) => Err(Error::internal("that is not understood: is the appliance of the same version as this command?")),
    };
    let answer = match answer {
        Ok(value) => json!({ "ok": value }),
        Err(Error::Refused(refusal)) => {
            let failed = matches!(refusal.kind, Kind::NotFound | Kind::Unavailable);
            json!({ "error": in_words(&refusal), "refused": !failed })
        }
        Err(e) => json!({ "error": e.to_string() }),
    };
    write.write_all(format!("{answer}\n").as_bytes()).await
}

/// What a refusal says, for somebody who sees no members.
pub fn in_words(refusal: &Refusal) -> String {
    match refusal.fields.as_slice() {
        [] => refusal.detail.clone().into_owned(),
        fields => fields.iter().map(|f| f.detail.as_str()).collect::<Vec<_>>().join("; "),
    }
}

impl Operator {
    /// Does what is asked.
    pub async fn answer(&self, ask: Ask) -> Result<Value> {
        match ask {
            Ask::Backup { file, recipients, unencrypted } => {
                in_json(&self.backups.backup(file, &recipients, unencrypted).await?)
            }
            Ask::Drill => in_json(&self.backups.drill().await?),
            Ask::BackupStatus => in_json(&super::backup::status::status(&self.services.store).await?),
            Ask::Verify { known, key } => {
                let known: Vec<Vec<u8>> = known.into_iter().map(String::into_bytes).collect();
                let key = key.map(|text| {
                    unhex(&text)
                        .and_then(|bytes| bytes.try_into().ok())
                        .ok_or_else(|| Refusal::invalid("/key", "must be 64 hexadecimal digits"))
                });
                let key = key.transpose()?;
                let check = move |s: &crate::store::Snapshot| audit::check_trees_against(s, &known, key);
                let trees = self.services.store.read_with(check).await?;
                Ok(json!({ "audit": trees }))
            }
            Ask::Replay { signal } => {
                let (tenants, policy) = (self.services.tenants.clone(), *self.services.signals.policy());
                let recompute = move |s: &crate::store::Snapshot| replay::recompute(s, &tenants, signal, &policy);
                in_json(&self.services.store.read_with(recompute).await?)
            }
            Ask::RotateKeys => {
                let tenant = self.tenant(None).await?;
                let (keys, custody) = (self.keys.clone(), self.custody.clone());
                let (clock, random) = (self.clock.clone(), self.random.clone());
                let change = move |tx: &mut crate::store::Tx<'_>| {
                    iam::rotate_keys(tx, &keys, tenant, &custody, clock.now(), &random, &Origin::cli())
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
            Ask::ListTokens { tenant } => {
                let tenant = self.tenant_or_all(tenant).await?;
                let (tokens, more) = self.services.iam.operator_list_tokens(tenant).await?;
                Ok(json!({ "tokens": tokens, "more": more }))
            }
            Ask::RevokeToken { id } => {
                let changed = self.services.iam.operator_revoke_token(id, Origin::cli()).await?;
                Ok(json!({ "id": id, "changed": changed }))
            }
            Ask::Roots { .. }
            | Ask::AddRoot { .. }
            | Ask::RemoveRoot { .. }
            | Ask::StatusLists
            | Ask::ImportStatusList { .. } => self.answer_about_trust(ask).await,
            Ask::ReloadPlans => {
                let billing = self.services.billing.clone();
                tokio::task::spawn_blocking(move || billing.reload_plans()).await.map_err(Error::internal)??;
                Ok(json!({}))
            }
            Ask::InstallLicence { licence, tenant } => {
                let tenant = self.tenant(tenant).await?;
                in_json(&self.services.billing.install_licence(tenant, licence, None, Origin::cli()).await?)
            }
            Ask::Trials => in_json(&self.services.billing.trials()),
            Ask::Intel(ask) => feeds::answer(self, ask).await,
            Ask::Audit(ask) => export::answer(self, ask).await,
            Ask::LogLevel { level } => {
                let unknown = |_| Refusal::new(Kind::Invalid, "unknown_level", format!("{level:?} is no level."));
                let filter = level.parse().map_err(unknown)?;
                if !crate::observe::logs::set_level(filter) {
                    return Err(Error::internal("there is no log whose level could be changed"));
                }
                tracing::warn!(level, "the operator changed what is logged");
                Ok(json!({ "level": level }))
            }
            ask @ (Ask::IssueCertificate { .. } | Ask::ListCertificates { .. } | Ask::RevokeCertificate { .. }) => {
                self.answer_about_certificates(ask).await
            }
            people => self.answer_about_people(people).await,
        }
    }

    async fn answer_about_trust(&self, ask: Ask) -> Result<Value> {
        let attestation = &self.services.attestation;
        match ask {
            Ask::Roots { tenant } => Ok(json!({ "roots": attestation.roots(self.tenant(tenant).await?) })),
            Ask::AddRoot { kind, label, pem, tenant } => {
                let (tenant, new) = (self.tenant(tenant).await?, NewRoot { kind, label, pem });
                in_json(&attestation.add_root(tenant, new, None, Origin::cli()).await?)
            }
            Ask::RemoveRoot { id, tenant } => {
                let tenant = self.tenant(tenant).await?;
                attestation.remove_root(tenant, id.clone(), None, Origin::cli()).await?;
                Ok(json!({ "id": id }))
            }
            Ask::StatusLists => Ok(json!({ "lists": attestation.status_lists().await? })),
            Ask::ImportStatusList { file, fetched_at } => {
                let tenant = self.tenant(None).await?;
                in_json(
                    &attestation.import_status_list(tenant, file.into_bytes(), fetched_at, None, Origin::cli()).await?,
                )
            }
            _ => Err(Error::internal("that is not about trust")),
        }
    }

    async fn answer_about_certificates(&self, ask: Ask) -> Result<Value> {
        let certificates = &self.services.certificates;
        match ask {
            Ask::IssueCertificate { device, csr: Some(csr), tenant, .. } => {
                let (tenant, by) = (self.tenant(tenant).await?, Authority::Person(None));
                in_json(&certificates.issue(tenant, &device, &csr, by, None, Origin::cli()).await?)
            }
            Ask::IssueCertificate { device, csr: None, days, tenant } => {
                let tenant = self.tenant(tenant).await?;
                let lifetime = days.map(|n| Duration::from_secs(u64::from(n) * 86_400));
                let (made, key) = certificates.issue_with_key(tenant, &device, lifetime, Origin::cli()).await?;
                let mut answer = in_json(&made)?;
                if let Some(members) = answer.as_object_mut() {
                    members.insert("key".to_owned(), key.as_str().into());
                }
                Ok(answer)
            }
            Ask::ListCertificates { device, tenant } => {
                let (found, more) = certificates.list(self.tenant_or_all(tenant).await?, device).await?;
                Ok(json!({ "certificates": found, "more": more }))
            }
            Ask::RevokeCertificate { serial, reason } => {
                let (device, changed) = certificates.revoke(serial, reason, Origin::cli()).await?;
                Ok(json!({ "device_id": device, "changed": changed }))
            }
            _ => Err(Error::internal("that is not about certificates")),
        }
    }

    async fn answer_about_people(&self, ask: Ask) -> Result<Value> {
        let iam = &self.services.iam;
        match ask {
            Ask::AddUser { username, password, roles, system_admin, tenant } => {
                let tenant = self.tenant(tenant).await?;
                let role = |text: &String| text.parse().map_err(|e| unknown_role(text, e));
                let new = NewUser {
                    username,
                    display_name: None,
                    email: None,
                    roles: roles.iter().map(role).collect::<Result<_, Refusal>>()?,
                    password: Some(password),
                    system_admin,
                };
                in_json(&iam.operator_add_user(tenant, new, Origin::cli()).await?)
            }
            Ask::SetPassword { username, password, reset_second_factor } => {
                let set = iam.operator_set_password(&username, password, reset_second_factor, Origin::cli()).await?;
                if let Some(gate) = &self.gate {
                    gate.forget_login_failures(&username);
                }
                in_json(&set)
            }
            Ask::SwitchUser { username, disabled } => {
                in_json(&iam.operator_set_disabled(&username, disabled, Origin::cli()).await?)
            }
            Ask::ListUsers { tenant } => {
                let (users, more) = iam.operator_list_users(self.tenant_or_all(tenant).await?).await?;
                Ok(json!({ "users": users, "more": more }))
            }
            _ => Err(Error::internal("that is not about people")),
        }
    }

    pub(super) async fn tenant_or_all(&self, wanted: Option<String>) -> Result<Option<TenantId>> {
        match wanted {
            Some(wanted) => self.tenant(Some(wanted)).await.map(Some),
            None => Ok(None),
        }
    }

    async fn tenant(&self, wanted: Option<String>) -> Result<TenantId> {
        let wanted_ = wanted.clone();
        let found = self.services.store.read_with(move |s| Tenants::find(s, wanted_.as_deref())).await?;
        let name = wanted.unwrap_or_default();
        found.map(|t| t.id).ok_or_else(|| Error::Internal(format!("there is no tenant {name:?}")))
    }
}

fn in_json(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(Error::internal)
}

fn unknown_role(text: &str, why: &str) -> Refusal {
    Refusal::new(Kind::Invalid, "unknown_role", format!("{text:?} {why}."))
}

/// Whether an appliance is running at this place.
pub fn is_running(socket: &Path) -> bool {
    BlockingStream::connect(socket).is_ok()
}

/// Asks the running appliance; `None` when none is running at this place. What it refuses comes back as a refusal in its
/// own words.
pub fn ask(socket: &Path, ask: &Ask) -> Result<Option<Value>> {
    use std::io::{BufRead, Write};
    let Ok(mut stream) = BlockingStream::connect(socket) else { return Ok(None) };
    let mut line = Zeroizing::new(serde_json::to_string(ask).map_err(Error::internal)?);
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(Error::internal)?;
    let mut answer = String::new();
    std::io::BufReader::new(stream).read_line(&mut answer).map_err(Error::internal)?;
    let answer: Value =
        serde_json::from_str(&answer).map_err(|_| Error::internal("the appliance ended before it answered"))?;
    match (answer.get("ok"), answer.get("error").and_then(Value::as_str)) {
        (Some(value), _) => Ok(Some(value.clone())),
        (None, Some(error)) if answer.get("refused") == Some(&Value::Bool(true)) => {
            Err(Refusal::new(Kind::Conflict, "refused", error.to_owned()).into())
        }
        (None, Some(error)) => Err(Error::Internal(error.to_owned())),
        (None, None) => Err(Error::internal("the appliance gave no answer")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// What is asked may end in a log one day; the password in it must not.
    #[test]
    fn a_password_travels_and_is_never_shown() {
        let password = Secret::new("correct horse battery");
        for ask in [
            Ask::SetPassword { username: "zoe".to_owned(), password: password.clone(), reset_second_factor: false },
            Ask::AddUser {
                username: "zoe".to_owned(),
                password: password.clone(),
                roles: Vec::new(),
                system_admin: false,
                tenant: None,
            },
        ] {
            assert!(!format!("{ask:?} {ask:#?}").contains("horse"));
            let line = serde_json::to_string(&ask).unwrap();
            let (Ask::SetPassword { password: heard, .. } | Ask::AddUser { password: heard, .. }) =
                serde_json::from_str(&line).unwrap()
            else {
                continue;
            };
            assert_eq!(heard, password);
        }
    }
}
