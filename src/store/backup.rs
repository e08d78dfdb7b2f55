//! A backup is one snapshot copied into a fresh file: never a copy of the live file, whose pages move while it is read.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTableMetadata, TableHandle};

use super::tables::{ALL, META};
use super::{OpenError, Snapshot};
use crate::kernel::clock::Stopwatch;
use crate::kernel::{Error, Result, files};

/// What a backup or a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    /// Rows in all tables.
    pub rows: u64,
    /// Size of the file.
    pub bytes: u64,
}

/// Few enough that a sync of the copy never holds up one of the data file for long.
const ROWS_PER_COMMIT: u64 = 10_000;
/// Rows between two looks at the pace.
const ROWS_PER_LOOK: u64 = 64;

/// How fast the copy goes: as fast as it can, or with as many pauses as work, so that what the appliance does meanwhile
/// finds the disk and a processor free half of the time; and whether it goes on at all.
pub struct Pace(Option<(Stopwatch, Arc<AtomicBool>)>);

/// Work between two pauses.
const STRIDE: Duration = Duration::from_millis(1);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(50);

impl Pace {
    /// Nobody else is there.
    pub const fn full() -> Self {
        Self(None)
    }

    /// Beside a running appliance, until `stop` is set.
    pub fn gentle(stop: Arc<AtomicBool>) -> Self {
        Self(Some((Stopwatch::start(), stop)))
    }

    /// Pauses, if enough was done since the last pause.
    ///
    /// # Errors
    /// When it was stopped.
    pub fn breathe(&mut self) -> std::io::Result<()> {
        let Some((watch, stop)) = &mut self.0 else { return Ok(()) };
        if stop.load(Ordering::Acquire) {
            return Err(std::io::Error::other("the appliance is stopping"));
        }
        let worked = watch.elapsed();
        if worked >= STRIDE {
            std::thread::sleep(worked.min(PAUSE_MAX));
            *watch = Stopwatch::start();
        }
        Ok(())
    }
}

/// The name under which a file is written until it is whole.
pub fn part_path(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// Copies one moment of the data file into a new file, page by page full, synced and checked. What is at `part` already
/// is replaced; what is left there after an error is the caller's to remove.
pub fn copy(snapshot: &Snapshot, part: &Path, pace: &mut Pace) -> Result<Summary> {
    let cannot = |e: &dyn std::fmt::Display| Error::Internal(format!("{} could not be written: {e}", part.display()));
    match std::fs::remove_file(part) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(cannot(&e)),
        _ => {}
    }
    let file = files::create_private(part).map_err(|e| cannot(&e))?;
    drop(file);
    let mut db = Database::builder().set_cache_size(32 << 20).create(part).map_err(|e| cannot(&e))?;
    let mut rows = 0;
    for table in ALL {
        let mut txn = db.begin_write().map_err(|e| cannot(&e))?;
        let mut target = txn.open_table(*table).map_err(|e| cannot(&e))?;
        let mut failure = None;
        let mut from = Some(Vec::new());
        // Large tables in several commits, so that the copy's own memory stays bounded.
        while let Some(start) = from.take() {
            let mut copied = 0;
            snapshot.visit(*table, &start, None, |key, value| {
                if copied == ROWS_PER_COMMIT {
                    from = Some(key.to_vec());
                    return Ok(false);
                }
                if let Err(e) = target.insert(key, value) {
                    failure = Some(cannot(&e));
                    return Ok(false);
                }
                copied += 1;
                if copied % ROWS_PER_LOOK == 0 {
                    pace.breathe().map_err(Error::internal)?;
                }
                Ok(true)
            })?;
            rows += copied;
            if let Some(failure) = failure.take() {
                return Err(failure);
            }
            if from.is_some() {
                drop(target);
                txn.commit().map_err(|e| cannot(&e))?;
                txn = db.begin_write().map_err(|e| cannot(&e))?;
                target = txn.open_table(*table).map_err(|e| cannot(&e))?;
            }
        }
        drop(target);
        txn.commit().map_err(|e| cannot(&e))?;
    }
    db.compact().map_err(|e| cannot(&e))?;
    if !db.check_integrity().map_err(|e| cannot(&e))? {
        return Err(Error::internal("the copy did not pass its integrity check"));
    }
    drop(db);
    let file = std::fs::File::open(part).map_err(|e| cannot(&e))?;
    file.sync_all().map_err(|e| cannot(&e))?;
    Ok(Summary { rows, bytes: file.metadata().map_err(|e| cannot(&e))?.len() })
}

/// Opens a data file that nobody uses and checks every page of it. What the rows mean is for their domains to check.
pub fn check_file(path: &Path) -> Result<Summary, OpenError> {
    // redb panics on some damaged pages before it comes to compare their checksums; damage is what is looked for here.
    std::panic::catch_unwind(|| check_pages(path)).unwrap_or_else(|_| {
        let cause = "its pages contradict each other; it is damaged".to_owned();
        Err(OpenError::Failed { path: path.to_owned(), cause })
    })
}

fn check_pages(path: &Path) -> Result<Summary, OpenError> {
    let failed = |cause: String| OpenError::Failed { path: path.to_owned(), cause };
    let mut db = super::glass(path)?;
    match db.check_integrity() {
        Ok(true) => {}
        Ok(false) => return Err(failed("it was damaged and had to be repaired; do not rely on it".to_owned())),
        Err(e) => return Err(failed(format!("its integrity check failed: {e}"))),
    }
    let mut rows = 0;
    let txn = db.begin_read().map_err(|e| failed(e.to_string()))?;
    for table in ALL {
        match txn.open_table(*table) {
            Ok(opened) => rows += opened.len().map_err(|e| failed(e.to_string()))?,
            Err(redb::TableError::TableDoesNotExist(_)) if table.name() != META.name() => {}
            Err(e) => return Err(failed(format!("it is not a data file of the appliance: {e}"))),
        }
    }
    let bytes = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?.len();
    Ok(Summary { rows, bytes })
}
