//! A trial restore: a backup nobody ever restored is a hope.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Scratch, beside, keep, restore};
use crate::crypto::vault::PrivateKey;
use crate::domains::audit;
use crate::kernel::clock::Stopwatch;
use crate::kernel::{Error, Result};
use crate::store::backup::Pace;
use crate::store::tables::{self, Table};
use crate::store::{Snapshot, Store};

/// What a trial restore found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Drilled {
    /// Which backup.
    pub file: PathBuf,
    /// Rows that were read.
    pub rows: u64,
    /// Entries of all logs, which are as they were signed.
    pub entries: u64,
    /// Signed checkpoints that agree with them.
    pub checkpoints: u64,
    /// Devices, people, decisions that were read one by one.
    pub samples: u64,
    /// How long it took.
    pub took_ms: u64,
}

/// Rows of each of the sampled tables that are looked at.
const SAMPLED_MAX: u64 = 1_000;
/// Tables whose rows a restored appliance would need at once.
const SAMPLED: &[Table] = &[tables::TENANTS, tables::USERS, tables::DEVICES, tables::SESSIONS, tables::DECISION_STATES];

/// Restores a backup into a scratch file beside `data`, asks it what an appliance would ask, and removes it again.
///
/// # Errors
/// Why it could not be restored.
pub fn drill(backup: &Path, data: &Path, identity: Option<&PrivateKey>, pace: &mut Pace) -> Result<Drilled> {
    let watch = Stopwatch::start();
    let scratch = Scratch(beside(data, ".drill.tmp"));
    let (summary, _) = restore::unpack(backup, &scratch.0, identity, pace)?;
    let (trees, samples) = {
        let store = Store::look(&scratch.0).map_err(Error::internal)?;
        let snapshot = store.read()?;
        (audit::check_trees(&snapshot)?, sample(&snapshot, pace)?)
    };
    Ok(Drilled {
        file: backup.to_owned(),
        rows: summary.rows,
        entries: trees.iter().map(|tree| tree.size).sum(),
        checkpoints: trees.iter().map(|tree| tree.checkpoints).sum(),
        samples,
        took_ms: u64::try_from(watch.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

fn sample(snapshot: &Snapshot, pace: &mut Pace) -> Result<u64> {
    let mut seen = 0;
    for table in SAMPLED {
        let mut here = 0;
        snapshot.visit(*table, &[], None, |key, value| {
            if key.is_empty() || value.is_empty() {
                return Err(Error::internal("a restored row is empty"));
            }
            here += 1;
            pace.breathe().map_err(Error::internal)?;
            Ok(here < SAMPLED_MAX)
        })?;
        seen += here;
    }
    Ok(seen)
}

/// The newest backup of a folder that this key opens: without a key, the newest in clear.
///
/// # Errors
/// When the folder cannot be read, or holds none.
pub fn newest(folder: &Path, with_key: bool) -> Result<PathBuf> {
    let all = keep::list(folder).map_err(|e| Error::Internal(format!("{}: {e}", folder.display())))?;
    let fits = |path: &PathBuf| with_key || path.extension().is_some_and(|e| e == "redb");
    all.into_iter().find(fits).ok_or_else(|| {
        Error::Internal(format!(
            "{} holds no backup that can be opened here; set backup.drill_identity_file",
            folder.display()
        ))
    })
}
