//! Watches over the machine and the appliance's own tasks: how short of memory and disk it runs, the ballast that is
//! removed when the disk is nearly full, and tasks that must not end.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::domains::audit::{self, NewEntry, ThreatLevel};
use crate::domains::tenants;
use crate::kernel::context::Origin;
use crate::kernel::{Clock, Random, Result, files};
use crate::observe::Strain;
use crate::observe::strain::{self, Disk, DiskBounds, Machine, Memory};
use crate::store::Store;

/// How often memory is looked at: it may be gone within seconds.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Looks at memory for each look at the disk.
const LOOKS_PER_DISK: u32 = 4;
/// For any one step of a task that is repeated; the next one tries again.
pub const STEP_MAX: Duration = Duration::from_secs(300);

/// Runs a task that must not end before it is stopped. One that ends by a defect is named by `/health/ready`.
pub fn keep_running<F>(strain: &Arc<Strain>, name: &'static str, task: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let strain = Arc::clone(strain);
    tokio::spawn(async move {
        if AssertUnwindSafe(task).catch_unwind().await.is_err() {
            tracing::error!(task = name, "a task ended by a defect");
            strain.task_ended(name);
        }
    })
}

/// One step of a repeated task; one that takes too long is given up, and the log names it.
pub async fn within<T>(name: &'static str, limit: Duration, step: impl Future<Output = T>) -> Option<T> {
    let done = tokio::time::timeout(limit, step).await;
    if done.is_err() {
        tracing::error!(task = name, limit_s = limit.as_secs(), "a step took too long and was given up");
    }
    done.ok()
}

/// Looks at the machine and says how strained it is.
pub struct Watch {
    machine: Arc<dyn Machine>,
    strain: Arc<Strain>,
    store: Store,
    clock: Clock,
    random: Random,
    folder: PathBuf,
    bounds: DiskBounds,
    ballast: Ballast,
    memory_limit: u64,
    shed_percent: u8,
}

impl Watch {
    /// What the configuration says, over this machine.
    pub fn new(
        config: &Config,
        machine: Arc<dyn Machine>,
        strain: Arc<Strain>,
        store: Store,
        (clock, random): (Clock, Random),
    ) -> Self {
        let wanted = &config.machine;
        let data = &config.paths.data;
        let folder = data.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        let memory_limit = match wanted.memory.limit_bytes {
            0 => strain::memory_limit_bytes(),
            given => given,
        };
        Self {
            machine,
            strain,
            store,
            clock,
            random,
            folder: folder.to_owned(),
            bounds: DiskBounds {
                read_only: wanted.disk.read_only_bytes,
                stop: wanted.disk.stop_bytes,
                ballast: wanted.disk.ballast_bytes,
            },
            ballast: Ballast { file: data.with_extension("ballast"), bytes: wanted.disk.ballast_bytes },
            memory_limit,
            shed_percent: wanted.memory.shed_percent,
        }
    }

    /// Watches for good.
    pub async fn run(mut self) {
        let mut looks: u32 = 0;
        loop {
            self.look_at_memory();
            if looks.is_multiple_of(LOOKS_PER_DISK) {
                within("disk", STEP_MAX, self.look_at_disk()).await;
            }
            looks = looks.wrapping_add(1);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn look_at_memory(&self) {
        let Some(used) = self.machine.memory_bytes() else { return };
        let before = self.strain.memory();
        let after = strain::memory(before, used, self.memory_limit, self.shed_percent);
        if after != before {
            self.strain.set_memory(after);
            let (used_mib, limit_mib) = (used >> 20, self.memory_limit >> 20);
            if after == Memory::Ample {
                tracing::info!(used_mib, limit_mib, "there is enough memory again");
            } else {
                tracing::warn!(used_mib, limit_mib, state = ?after, "memory runs short: what is less important is refused");
            }
        }
    }

    async fn look_at_disk(&mut self) {
        let (machine, folder) = (Arc::clone(&self.machine), self.folder.clone());
        // A network file system may let it wait.
        let free = tokio::task::spawn_blocking(move || machine.disk_free_bytes(&folder)).await.ok().flatten();
        let Some(free) = free else { return };
        let before = self.strain.disk();
        let after = strain::disk(before, free, self.bounds);
        if after != before {
            self.strain.set_disk(after);
            self.store.hold_signals(after == Disk::Full);
            let freed = before == Disk::Ample && self.ballast.remove();
            let why = words(after, free, freed);
            tracing::warn!(free_mib = free >> 20, state = ?after, "{why}");
            if let Err(e) = self.note(after, why).await {
                tracing::error!(error = %e, "the state of the disk could not be written to the log");
            }
        }
        if after == Disk::Ample {
            let (ballast, room) = (self.ballast.clone(), free);
            let spare = self.bounds.read_only.saturating_add(self.bounds.read_only / 4);
            let _ = tokio::task::spawn_blocking(move || ballast.restore(room, spare)).await;
        }
    }

    async fn note(&self, state: Disk, why: String) -> Result<()> {
        let (random, now) = (self.random.clone(), self.clock.now());
        let (action, level) = match state {
            Disk::Ample => (audit::Action::DiskRecovered, ThreatLevel::None),
            Disk::ReadOnly | Disk::Full => (audit::Action::DiskNearlyFull, ThreatLevel::Medium),
        };
        let note = NewEntry::new(action, &Origin::system()).level(level).reason(why);
        let change = move |tx: &mut crate::store::Tx<'_>| {
            if let Some(tenant) = tenants::first(tx)? {
                audit::append(tx, tenant, now, &random, &note)?;
            }
            Ok(())
        };
        self.store.write(change).await
    }
}

fn words(state: Disk, free: u64, freed: bool) -> String {
    let ballast = if freed { " The ballast file was removed, for room to work." } else { "" };
    let free = free >> 20;
    match state {
        Disk::Ample => format!("There is room on the disk again ({free} MiB): everything is taken."),
        Disk::ReadOnly => format!(
            "The disk is nearly full ({free} MiB): only heartbeats, logins and what locks or releases devices are taken.{ballast}"
        ),
        Disk::Full => format!("The disk is full ({free} MiB): heartbeats are refused, too.{ballast}"),
    }
}

/// A file that only keeps room.
#[derive(Clone, Debug)]
struct Ballast {
    file: PathBuf,
    bytes: u64,
}

impl Ballast {
    /// Whether it was there.
    fn remove(&self) -> bool {
        std::fs::remove_file(&self.file).is_ok()
    }

    /// Makes it where it is missing and `free` holds it beside `spare`; removes one that is not wanted any more.
    fn restore(&self, free: u64, spare: u64) {
        let there = std::fs::metadata(&self.file).map_or(0, |m| m.len());
        if there == self.bytes && (there > 0 || !self.file.exists()) {
            return;
        }
        if there > 0 || self.file.exists() {
            self.remove();
        }
        if self.bytes == 0 || free < spare.saturating_add(2 * self.bytes) {
            return;
        }
        let made = files::create_private(&self.file).and_then(|file| {
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, self.bytes).map_err(Into::into)
        });
        if let Err(e) = made {
            // Not every file system can reserve room. Without ballast the bounds still hold.
            tracing::info!(file = %self.file.display(), error = %e, "no ballast file could be made");
            self.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_ballast_is_made_where_there_is_room_and_goes_when_it_is_not_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let ballast = Ballast { file: folder.path().join("x.ballast"), bytes: 1 << 16 };
        ballast.restore(1 << 16, 0);
        assert!(!ballast.file.exists(), "it would leave no room");
        ballast.restore(1 << 20, 0);
        assert_eq!(std::fs::metadata(&ballast.file).unwrap().len(), 1 << 16);
        assert!(ballast.remove() && !ballast.remove());
        ballast.restore(1 << 20, 0);
        Ballast { bytes: 0, ..ballast.clone() }.restore(1 << 20, 0);
        assert!(!ballast.file.exists(), "switched off");
    }

    #[tokio::test]
    async fn a_task_that_ends_by_a_defect_is_named_and_one_that_is_stopped_is_not() {
        let strain = Arc::new(Strain::default());
        let stopped = keep_running(&strain, "stopped", std::future::pending());
        stopped.abort();
        assert!(stopped.await.is_err());
        assert_eq!(strain.ended_task(), None);
        #[expect(clippy::panic, reason = "the defect")]
        let broken = keep_running(&strain, "broken", async { panic!("a defect") });
        broken.await.unwrap();
        assert_eq!(strain.ended_task(), Some("broken"));
    }

    #[tokio::test]
    async fn a_step_that_hangs_is_given_up() {
        let limit = Duration::from_millis(20);
        assert_eq!(within("quick", limit, async { 7 }).await, Some(7));
        assert_eq!(within("hanging", limit, std::future::pending::<()>()).await, None);
    }
}
