//! The backups that the appliance makes by itself, their trials, and the alarm when none succeeds.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::drill::{Drilled, drill, newest};
use super::keep::{self, Keep};
use super::{Made, Source, make};
use crate::config::{self, Config};
use crate::crypto::SealingKey;
use crate::crypto::vault::{PrivateKey, Recipients};
use crate::domains::Services;
use crate::domains::audit::{self, Action, NewEntry, ThreatLevel};
use crate::domains::tenants::Tenants;
use crate::kernel::context::Origin;
use crate::kernel::pool::Pool;
use crate::kernel::{Clock, Error, Kind, Random, Refusal, Result, Timestamp};
use crate::observe::Metrics;
use crate::store::backup::Pace;
use crate::store::tables::{Key, META};
use crate::store::{Row, Store};

/// How often it is asked whether something is due.
const LOOK_EVERY: Duration = Duration::from_secs(20);
/// Without a trial that succeeded for so long there is an alarm.
const ALARM_AFTER: Duration = Duration::from_secs(86_400);
/// From one alarm to the next.
const ALARM_EVERY: Duration = Duration::from_secs(86_400);
/// After a failure it is tried again this much later.
const RETRY_AFTER: Duration = Duration::from_secs(600);
/// A data file that is this large, and more than so many times as large as what lives in it, is worth compacting.
const GROWN_BYTES: u64 = 1 << 30;
const GROWN_TIMES: u64 = 4;

/// What is remembered over restarts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Since when backups are made by themselves.
    pub since: Option<Timestamp>,
    /// The last backup, and when it was made.
    pub last: Option<(Timestamp, Made)>,
    /// The last trial that succeeded.
    pub drilled: Option<(Timestamp, Drilled)>,
    /// The last failure, until the next success, and when it was.
    pub failed: Option<(Timestamp, String)>,
    /// The last alarm.
    pub alarmed: Option<Timestamp>,
}
impl Row for Status {}

fn place() -> Key {
    Key::new().text("backup_status")
}

/// What the data file says of its backups.
///
/// # Errors
/// When it cannot be read.
pub async fn status(store: &Store) -> Result<Status> {
    store.read_with(|snapshot| Ok(snapshot.get(META, place())?.unwrap_or_default())).await
}

/// Makes backups of a running appliance. One at a time, on a thread that comes after all others.
pub struct Keeper {
    services: Arc<Services>,
    sealing: Arc<SealingKey>,
    settings: config::Backup,
    recipients: Recipients,
    data: PathBuf,
    clock: Clock,
    random: Random,
    metrics: Option<Arc<Metrics>>,
    pool: Pool,
    /// Whoever else wants one waits.
    one: tokio::sync::Mutex<()>,
    /// Ends what is being made.
    stop: Arc<AtomicBool>,
}

/// The threads are waited for when they are dropped: a backup that takes an hour must not keep the appliance from stopping.
impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// What a keeper needs.
pub struct Parts {
    /// The façades.
    pub services: Arc<Services>,
    /// Goes with encrypted backups.
    pub sealing: Arc<SealingKey>,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub random: Random,
    /// Where figures go; `None` on a stopped appliance.
    pub metrics: Option<Arc<Metrics>>,
}

impl Keeper {
    /// # Errors
    /// A sentence that names the setting.
    pub fn new(config: &Config, parts: Parts) -> Result<Self> {
        let settings = config.backup.clone();
        let wrong = |e: &dyn std::fmt::Display| Error::Internal(format!("backup.recipients: {e}"));
        let recipients = Recipients::parse(&settings.recipients).map_err(|e| wrong(&e))?;
        if settings.directory.is_some() && recipients.is_empty() && !settings.unencrypted {
            return Err(wrong(
                &"none is set: name the public keys that backups are encrypted to (age-keygen makes them), or say \
                  backup.unencrypted = true",
            ));
        }
        let Parts { services, sealing, clock, random, metrics } = parts;
        let data = config.paths.data.clone();
        let pool = Pool::for_this_machine("backup", 4, "A backup is being made already. Try again when it is done.")?;
        let one = tokio::sync::Mutex::new(());
        Ok(Self {
            services,
            sealing,
            settings,
            recipients,
            data,
            clock,
            random,
            metrics,
            pool,
            one,
            stop: Arc::default(),
        })
    }

    /// Makes a backup now: at `to`, or by its name in the configured directory. Further recipients may be named; without any,
    /// `unencrypted` must say that it may lie in clear.
    ///
    /// # Errors
    /// A refusal that says what is missing, or why it failed; then it is remembered, too.
    pub async fn backup(&self, to: Option<PathBuf>, recipients: &[String], unencrypted: bool) -> Result<Made> {
        let recipients = match recipients {
            [] => self.recipients.clone(),
            named => Recipients::parse(named).map_err(|e| refused(e.to_string()))?,
        };
        if recipients.is_empty() && !(unencrypted || self.settings.unencrypted) {
            return Err(refused(
                "Nobody is named who could open it: set backup.recipients (age-keygen makes keys) or say --recipient; or say \
                 --unencrypted, and keep the sealing key elsewhere."
                    .to_owned(),
            ));
        }
        let now = self.clock.now();
        let to = match (to, &self.settings.directory) {
            (Some(to), _) if !to.is_absolute() => {
                return Err(Error::internal("the name of the backup must be absolute"));
            }
            (Some(to), _) => to,
            (None, Some(folder)) => {
                std::path::absolute(folder).map_err(Error::internal)?.join(keep::name(now, !recipients.is_empty()))
            }
            (None, None) => return Err(refused("Name a file, or set backup.directory.".to_owned())),
        };
        let _turn = self.one.lock().await;
        let store = self.services.store.clone();
        let (sealing, data, stop) = (Arc::clone(&self.sealing), self.data.clone(), Arc::clone(&self.stop));
        let work = move || {
            let snapshot = store.read()?;
            let source = Source { snapshot: &snapshot, data: &data, sealing: &sealing, recipients: &recipients, now };
            make(&source, &to, &mut Pace::gentle(stop))
        };
        let made = self.pool.run(work).await.and_then(|made| made);
        self.note_backup(&made).await?;
        made
    }

    /// Tries the newest backup out.
    ///
    /// # Errors
    /// Why it could not be restored; then it is remembered, too.
    pub async fn drill(&self) -> Result<Drilled> {
        let folder = self.settings.directory.clone().ok_or_else(|| refused("Set backup.directory.".to_owned()))?;
        let (file, data) = (self.settings.drill_identity_file.clone(), self.data.clone());
        let stop = Arc::clone(&self.stop);
        let _turn = self.one.lock().await;
        let work = move || {
            let identity = file.as_deref().map(PrivateKey::read).transpose().map_err(Error::internal)?;
            drill(&newest(&folder, identity.is_some())?, &data, identity.as_ref(), &mut Pace::gentle(stop))
        };
        let drilled = self.pool.run(work).await.and_then(|drilled| drilled);
        self.note_drill(&drilled).await?;
        drilled
    }

    /// Makes backups, tries them and raises the alarm, again and again.
    pub async fn run(self: Arc<Self>) {
        let Some(folder) = self.settings.directory.clone() else { return };
        loop {
            if let Err(e) = self.round(&folder).await {
                tracing::error!(error = %e, "backups could not be looked after; it is tried again");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Does what is due.
    ///
    /// # Errors
    /// Those of the store; what a backup has to say is logged and remembered.
    pub async fn round(&self, folder: &Path) -> Result<()> {
        let mut status = status(&self.services.store).await?;
        let now = self.clock.now();
        if status.since.is_none() {
            self.change(None, move |status| status.since = Some(now)).await?;
            status.since = Some(now);
        }
        let resting = status.failed.as_ref().is_some_and(|(at, _)| now < at.plus(RETRY_AFTER));
        let due = |last: Option<Timestamp>, every| last.is_none_or(|at| now >= at.plus(every));
        if !resting && due(status.last.as_ref().map(|(at, _)| *at), self.settings.every) {
            match self.backup(None, &[], false).await {
                Ok(made) => {
                    self.prune(folder);
                    self.watch_growth(made.live_bytes);
                }
                Err(e) => tracing::error!(error = %e, "no backup could be made; the appliance goes on"),
            }
        }
        let every = self.settings.drill_every;
        let can = self.settings.drill_identity_file.is_some() || self.recipients.is_empty();
        if !resting && can && !every.is_zero() && due(status.drilled.as_ref().map(|(at, _)| *at), every) {
            match self.drill().await {
                Ok(d) => {
                    tracing::info!(file = %d.file.display(), took_ms = d.took_ms, "a backup was restored for trial")
                }
                Err(e) => tracing::error!(error = %e, "the newest backup could not be restored for trial"),
            }
        }
        self.alarm().await
    }

    fn prune(&self, folder: &Path) {
        let keep = Keep {
            hourly: self.settings.keep_hourly,
            daily: self.settings.keep_daily,
            monthly: self.settings.keep_monthly,
        };
        let unfinished = keep::unfinished(folder).unwrap_or_default();
        for old in keep::to_remove(&keep::list(folder).unwrap_or_default(), keep).into_iter().chain(unfinished) {
            if let Err(e) = std::fs::remove_file(&old) {
                tracing::warn!(file = %old.display(), error = %e, "an old backup could not be removed");
            }
        }
    }

    fn watch_growth(&self, live_bytes: u64) {
        let bytes = std::fs::metadata(&self.data).map_or(0, |m| m.len());
        if bytes >= GROWN_BYTES && bytes / GROWN_TIMES > live_bytes {
            tracing::warn!(
                bytes,
                live_bytes,
                "most of the data file is free pages; stop the appliance and run `blockremote compact`"
            );
        }
    }

    /// Says so, everywhere, when no trial succeeded for a day.
    async fn alarm(&self) -> Result<()> {
        let status = status(&self.services.store).await?;
        let now = self.clock.now();
        let good = status.drilled.as_ref().map(|(at, _)| *at).max(status.since).unwrap_or(now);
        let overdue = !self.settings.drill_every.is_zero() && now >= good.plus(ALARM_AFTER);
        self.figures(|f| {
            let seconds = |at: Option<Timestamp>| at.map_or(0, |at| u64::try_from(at.as_secs()).unwrap_or(0));
            f.scheduled = true;
            f.overdue = overdue;
            f.last_s = seconds(status.last.as_ref().map(|(at, _)| *at));
            f.drilled_s = seconds(status.drilled.as_ref().map(|(at, _)| *at));
            f.drill_ms = status.drilled.as_ref().map_or(0, |(_, d)| d.took_ms);
            f.bytes = status.last.as_ref().map_or(0, |(_, made)| made.bytes);
            f.live_bytes = status.last.as_ref().map_or(0, |(_, made)| made.live_bytes);
        });
        if !overdue || status.alarmed.is_some_and(|at| now < at.plus(ALARM_EVERY)) {
            return Ok(());
        }
        let why = status.failed.map_or_else(|| "none was tried".to_owned(), |(_, why)| why);
        tracing::error!(why, "no backup was restored for trial for a day; if this machine breaks now, data are lost");
        let entry = NewEntry::new(Action::BackupOverdue, &Origin::system()).level(ThreatLevel::High).reason(why);
        self.change(Some(entry), move |status| status.alarmed = Some(now)).await
    }

    async fn note_backup(&self, made: &Result<Made>) -> Result<()> {
        let now = self.clock.now();
        match made {
            Ok(made) => {
                let how = if made.encrypted {
                    "encrypted, with the sealing key"
                } else {
                    "in clear, without the sealing key"
                };
                let name = made.file.display();
                let why = format!("{name}: {} rows, {} bytes, {how}; read again and sound", made.rows, made.bytes);
                let entry = NewEntry::new(Action::BackupCreated, &Origin::system()).reason(why);
                let made = made.clone();
                // Where no key lies here for later trials, this is the trial: it was opened again and is what was checked.
                let proven = made.encrypted && self.settings.drill_identity_file.is_none();
                let by_itself = self
                    .settings
                    .directory
                    .as_ref()
                    .is_some_and(|d| made.file.parent().is_some_and(|p| p.ends_with(d)));
                self.change(Some(entry), move |status| {
                    status.failed = None;
                    if proven && by_itself {
                        let (rows, took_ms) = (made.rows, made.took_ms);
                        let file = made.file.clone();
                        status.drilled =
                            Some((now, Drilled { file, rows, entries: 0, checkpoints: 0, samples: 0, took_ms }));
                    }
                    if by_itself {
                        status.last = Some((now, made.clone()));
                    }
                })
                .await
            }
            Err(e) => self.note_failure(Action::BackupFailed, e, now).await,
        }
    }

    async fn note_drill(&self, drilled: &Result<Drilled>) -> Result<()> {
        let now = self.clock.now();
        match drilled {
            Ok(d) => {
                let name = d.file.display();
                let why = format!(
                    "{name}: {} rows, {} log entries, {} checkpoints agree, {} ms",
                    d.rows, d.entries, d.checkpoints, d.took_ms
                );
                let entry = NewEntry::new(Action::BackupDrillPassed, &Origin::system()).reason(why);
                let d = d.clone();
                self.change(Some(entry), move |status| {
                    status.failed = None;
                    status.drilled = Some((now, d.clone()));
                })
                .await
            }
            Err(e) => self.note_failure(Action::BackupDrillFailed, e, now).await,
        }
    }

    async fn note_failure(&self, action: Action, e: &Error, now: Timestamp) -> Result<()> {
        let why = e.to_string();
        self.figures(|f| f.failures += 1);
        let entry = NewEntry::new(action, &Origin::system()).level(ThreatLevel::Medium).reason(why.clone());
        self.change(Some(entry), move |status| status.failed = Some((now, why.clone()))).await
    }

    fn figures(&self, change: impl FnOnce(&mut crate::observe::BackupFigures)) {
        if let Some(metrics) = &self.metrics {
            metrics.set_backup(change);
        }
    }

    /// Changes what is remembered, with the entry of the first tenant's log in the same commit.
    async fn change(&self, entry: Option<NewEntry>, change: impl Fn(&mut Status) + Send + 'static) -> Result<()> {
        let tenant = self.services.store.read_with(Tenants::first).await?.map(|tenant| tenant.id);
        let (clock, random) = (self.clock.clone(), self.random.clone());
        let write = move |tx: &mut crate::store::Tx<'_>| {
            let mut status: Status = tx.get(META, place())?.unwrap_or_default();
            change(&mut status);
            tx.put(META, place(), &status)?;
            if let (Some(entry), Some(tenant)) = (&entry, tenant) {
                audit::append(tx, tenant, clock.now(), &random, entry)?;
            }
            Ok(())
        };
        self.services.store.write(write).await
    }
}

fn refused(detail: String) -> Error {
    Refusal::new(Kind::Conflict, "refused", detail).into()
}
