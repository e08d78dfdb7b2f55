//! The backups that the appliance makes by itself, their trials, and the alarm when none succeeds.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::drill::{Drilled, Trial, drill, newest};
use super::due::{self, Rules};
use super::keep::{Keep, Owner};
use super::status::{Status, status};
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
use crate::observe::strain::{Disk, Machine};
use crate::observe::{Metrics, Strain};
use crate::store::backup::Pace;

/// How often it is asked whether something is due, and whether there is an alarm.
const LOOK_EVERY: Duration = Duration::from_secs(20);
/// For any one backup or trial, unless it is said otherwise: some hundred gigabytes at half a disk's pace. What takes longer
/// hangs.
pub const JOB_MAX: Duration = Duration::from_secs(6 * 3_600);
/// A data file that is this large, and more than so many times as large as what lives in it, is worth compacting.
const GROWN_BYTES: u64 = 1 << 30;
const GROWN_TIMES: u64 = 4;

/// Makes backups of a running appliance. One at a time, on a thread that comes after all others.
pub struct Keeper {
    services: Arc<Services>,
    sealing: Arc<SealingKey>,
    settings: config::Backup,
    recipients: Recipients,
    owner: Owner,
    data: PathBuf,
    /// Of the data file's disk, kept free.
    spare_bytes: u64,
    clock: Clock,
    random: Random,
    metrics: Option<Arc<Metrics>>,
    machine: Arc<dyn Machine>,
    strain: Arc<Strain>,
    job_max: Duration,
    started: Timestamp,
    /// One thread: two backups would write the same copy.
    pool: Pool,
    /// Whoever else wants one waits.
    one: tokio::sync::Mutex<()>,
    /// Ends what is being made.
    stop: Arc<AtomicBool>,
}

/// Ends what is being made when it goes: a backup that takes an hour must not keep the appliance from stopping.
struct StopWithMe(Arc<AtomicBool>);

impl Drop for StopWithMe {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

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
    /// How much room there is.
    pub machine: Arc<dyn Machine>,
    /// How short the appliance runs of it.
    pub strain: Arc<Strain>,
    /// For any one backup or trial; usually [`JOB_MAX`].
    pub job_max: Duration,
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
        let Parts { services, sealing, clock, random, metrics, machine, strain, job_max } = parts;
        Ok(Self {
            owner: Owner::of(services.audit.name()?),
            services,
            sealing,
            settings,
            recipients,
            data: config.paths.data.clone(),
            spare_bytes: config.machine.disk.read_only_bytes,
            started: clock.now(),
            clock,
            random,
            metrics,
            machine,
            strain,
            job_max,
            pool: Pool::of_one("backup", 4, "A backup is being made already. Try again when it is done.")?,
            one: tokio::sync::Mutex::new(()),
            stop: Arc::default(),
        })
    }

    /// Runs one piece of work when its turn comes, on a thread where waiting for a disk harms nobody. What takes too long is
    /// told to end, and is not waited for: a folder on another machine may never answer.
    async fn job<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce(&Pace) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _turn = self.one.lock().await;
        let given_up = Arc::new(AtomicBool::new(false));
        let (stop, late, strain) = (Arc::clone(&self.stop), Arc::clone(&given_up), Arc::clone(&self.strain));
        let halt = move || {
            if stop.load(Ordering::Acquire) {
                Some("the appliance is stopping")
            } else if late.load(Ordering::Acquire) {
                Some("it took too long and was given up")
            } else if strain.disk() != Disk::Ample {
                Some("the disk of the data file is nearly full: it was ended to leave the appliance its room")
            } else {
                None
            }
        };
        let pace = Pace::gentle(Arc::new(halt));
        match tokio::time::timeout(self.job_max, self.pool.run(move || work(&pace))).await {
            Ok(done) => done.and_then(|done| done),
            Err(_) => {
                given_up.store(true, Ordering::Release);
                Err(Error::Internal(format!(
                    "{what} took longer than {} s and was given up: does the folder of backups answer, and the disk?",
                    self.job_max.as_secs()
                )))
            }
        }
    }

    /// Asks whether there is room for `wanted` bytes beside the data file.
    fn room(&self) -> impl Fn(u64) -> Result<()> + Send + 'static {
        let (machine, strain, spare) = (Arc::clone(&self.machine), Arc::clone(&self.strain), self.spare_bytes);
        let folder = folder_of(&self.data);
        move |wanted| due::room(machine.disk_free_bytes(&folder), strain.disk(), wanted, spare).map_err(Error::Internal)
    }

    /// Makes a backup now: at `to`, or by its own name in that folder, or in the configured one. Further recipients may be
    /// named; without any, `unencrypted` must say that it may lie in clear.
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
        let to = match (to, self.folder()?) {
            (Some(to), _) if !to.is_absolute() => {
                return Err(Error::internal("the name of the backup must be absolute"));
            }
            (Some(to), _) => to,
            (None, Some(folder)) => folder,
            (None, None) => return Err(refused("Name a file, or set backup.directory.".to_owned())),
        };
        let now = self.clock.now();
        let live = status(&self.services.store).await?.last.map(|(_, made)| made.live_bytes);
        let (store, data, room, own) = (self.services.store.clone(), self.data.clone(), self.room(), self.folder()?);
        let (sealing, owner, keep) = (Arc::clone(&self.sealing), self.owner.clone(), self.keep());
        let work = move |pace: &Pace| {
            let scheduled = own.as_ref() == Some(&to);
            let folder = to.clone();
            if scheduled {
                let unfinished = owner.unfinished(&folder);
                let unfinished = unfinished.map_err(|e| Error::Internal(format!("{}: {e}", folder.display())))?;
                remove(unfinished, "an unfinished backup");
            }
            let to = if to.is_dir() || scheduled { to.join(owner.file_name(now, !recipients.is_empty())) } else { to };
            let file_bytes = std::fs::metadata(&data).map_or(0, |m| m.len());
            let copied = due::expected_bytes(file_bytes, live);
            // On the same disk there is the backup beside the copy, for a while.
            room(if same_disk(&data, &to) { copied.saturating_mul(2) } else { copied })?;
            let source =
                Source { snapshot: store.read()?, data: &data, sealing: &sealing, recipients: &recipients, now };
            drop(store);
            let made = make(source, &to, pace)?;
            if scheduled {
                let old = owner.list(&folder, now).map(|all| super::keep::to_remove(&all, keep));
                remove(old.unwrap_or_default(), "an old backup");
            }
            Ok(made)
        };
        let made = self.job("the backup", work).await;
        self.note_backup(&made).await?;
        made
    }

    /// The configured folder, from the root on.
    fn folder(&self) -> Result<Option<PathBuf>> {
        self.settings.directory.as_ref().map(std::path::absolute).transpose().map_err(Error::internal)
    }

    const fn keep(&self) -> Keep {
        let config::Backup { keep_hourly: hourly, keep_daily: daily, keep_monthly: monthly, .. } = self.settings;
        Keep { hourly, daily, monthly }
    }

    /// Tries the newest backup out.
    ///
    /// # Errors
    /// Why it could not be restored; then it is remembered, too.
    pub async fn drill(&self) -> Result<Drilled> {
        let folder = self.folder()?.ok_or_else(|| refused("Set backup.directory.".to_owned()))?;
        let (file, data, room) = (self.settings.drill_identity_file.clone(), self.data.clone(), self.room());
        let (sealing, owner, now) = (Arc::clone(&self.sealing), self.owner.clone(), self.clock.now());
        let policy = *self.services.signals.policy();
        let work = move |pace: &Pace| {
            let identity = file.as_deref().map(PrivateKey::read).transpose().map_err(Error::internal)?;
            let kept = newest(&owner, &folder, identity.is_some(), now)?;
            room(std::fs::metadata(&kept.path).map_or(0, |m| m.len()))?;
            let trial = Trial {
                backup: &kept.path,
                data: &data,
                identity: identity.as_ref(),
                sealing: &sealing,
                policy: &policy,
            };
            let drilled = drill(&trial, pace)?;
            // A backup in clear says nothing of when it was made, but its name does.
            Ok(Drilled { made_at: drilled.made_at.or(Some(kept.made_at)), ..drilled })
        };
        let drilled = self.job("the trial", work).await;
        self.note_drill(&drilled).await?;
        drilled
    }

    /// Makes backups, tries them and raises the alarm, again and again. The alarm waits for neither: what hangs is what it is
    /// for.
    pub async fn run(self: Arc<Self>) {
        // Backups that an operator asked for end with the appliance, too.
        let _stop = StopWithMe(Arc::clone(&self.stop));
        if self.settings.directory.is_none() {
            return std::future::pending().await;
        }
        let work = async {
            loop {
                if let Err(e) = self.round().await {
                    tracing::error!(error = %e, "backups could not be looked after; it is tried again");
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let watch = async {
            loop {
                if let Err(e) = self.alarm().await {
                    tracing::error!(error = %e, "it could not be seen how backups stand; it is tried again");
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::join!(work, watch);
    }

    /// Does what is due.
    ///
    /// # Errors
    /// Those of the store; what a backup has to say is logged and remembered.
    pub async fn round(&self) -> Result<()> {
        let rules = Rules::of(&self.settings);
        let now = self.clock.now();
        let found = status(&self.services.store).await?;
        if due::past(found.since, now).is_none() {
            self.change(None, move |status| status.since = Some(now)).await?;
        }
        if due::backup_due(&rules, &found.marks(None), now) {
            match self.backup(None, &[], false).await {
                Ok(made) => self.watch_growth(made.live_bytes),
                Err(e) => tracing::error!(error = %e, "no backup could be made; the appliance goes on"),
            }
        }
        let found = status(&self.services.store).await?;
        if due::trial_due(&rules, &found.marks(None), now) {
            match self.drill().await {
                Ok(d) => {
                    tracing::info!(file = %d.file.display(), took_ms = d.took_ms, "a backup was restored for trial");
                }
                Err(e) => tracing::error!(error = %e, "the newest backup could not be restored for trial"),
            }
        }
        Ok(())
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

    /// Says so, everywhere, when no backup was made, or none restored for trial, for too long.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn alarm(&self) -> Result<()> {
        let status = status(&self.services.store).await?;
        let (rules, now) = (Rules::of(&self.settings), self.clock.now());
        let overdue = due::overdue(&rules, &status.marks(Some(self.started)), now);
        let drilled = status.drilled.as_ref().filter(|_| rules.has_trials());
        self.figures(|f| {
            let seconds = |at: Option<Timestamp>| at.map_or(0, |at| u64::try_from(at.as_secs()).unwrap_or(0));
            f.scheduled = true;
            f.tried = rules.has_trials();
            f.overdue = overdue.is_some();
            f.last_s = seconds(status.last.as_ref().map(|(at, _)| *at));
            f.drilled_s = seconds(drilled.map(|(at, _)| *at));
            f.drill_ms = drilled.map_or(0, |(_, d)| d.took_ms);
            f.bytes = status.last.as_ref().map_or(0, |(_, made)| made.bytes);
            f.live_bytes = status.last.as_ref().map_or(0, |(_, made)| made.live_bytes);
        });
        let Some(overdue) = overdue.filter(|_| due::alarm_due(&status.marks(None), now)) else { return Ok(()) };
        let last = status.failure().map_or("no try has ended since", |(_, why)| why);
        let why = format!("{}: {last}", overdue.words());
        tracing::error!(why, "backups are overdue; if this machine breaks now, data are lost");
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
                // One that somebody had made elsewhere is not what the schedule looks after.
                let folder = self.folder()?;
                let scheduled = folder.as_deref().is_none_or(|folder| made.file.parent() == Some(folder));
                self.change(Some(entry), move |status| {
                    if scheduled {
                        status.failed = None;
                        status.last = Some((now, made.clone()));
                    }
                })
                .await
            }
            Err(e) => {
                let failed = (now, e.to_string());
                self.note_failure(Action::BackupFailed, e, move |status| status.failed = Some(failed.clone())).await
            }
        }
    }

    async fn note_drill(&self, drilled: &Result<Drilled>) -> Result<()> {
        let now = self.clock.now();
        match drilled {
            Ok(d) => {
                let name = d.file.display();
                let max_age = Rules::of(&self.settings).backup_max_age();
                let fresh = d.made_at.is_none_or(|made_at| now < made_at.plus(max_age));
                let old = if fresh { "" } else { "; but it is an old one: a newer one is wanted" };
                let why = format!(
                    "{name}: {} rows, {} log entries, {} checkpoints agree, {} of {} recomputed decisions are the same, {} ms{old}",
                    d.rows, d.entries, d.checkpoints, d.same, d.decisions, d.took_ms
                );
                let entry = NewEntry::new(Action::BackupDrillPassed, &Origin::system()).reason(why);
                let d = d.clone();
                self.change(Some(entry), move |status| {
                    status.drill_failed = None;
                    // That an old backup can be restored says nothing of those that are made, or not made, now.
                    if fresh {
                        status.drilled = Some((now, d.clone()));
                    }
                })
                .await
            }
            Err(e) => {
                let failed = (now, e.to_string());
                let note = move |status: &mut Status| status.drill_failed = Some(failed.clone());
                self.note_failure(Action::BackupDrillFailed, e, note).await
            }
        }
    }

    async fn note_failure(&self, action: Action, e: &Error, note: impl Fn(&mut Status) + Send + 'static) -> Result<()> {
        self.figures(|f| f.failures += 1);
        let entry = NewEntry::new(action, &Origin::system()).level(ThreatLevel::Medium).reason(e.to_string());
        self.change(Some(entry), note).await
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
            Status::change(tx, &change)?;
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

fn folder_of(file: &Path) -> PathBuf {
    file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new(".")).to_owned()
}

/// Whether both files lie on one file system; where that cannot be seen, they might.
fn same_disk(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |file: &Path| std::fs::metadata(folder_of(file)).ok().map(|m| m.dev());
    device(one) == device(other)
}

fn remove(files: Vec<PathBuf>, what: &str) {
    for file in files {
        if let Err(e) = std::fs::remove_file(&file) {
            tracing::warn!(file = %file.display(), error = %e, "{what} could not be removed");
        }
    }
}
