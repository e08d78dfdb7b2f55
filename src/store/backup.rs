//! A backup is one snapshot copied into a fresh file: never a copy of the live file, whose pages move while it is read.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTableMetadata, TableHandle};

use super::medium::{Held, Paced};
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
const ROWS_PER_COMMIT: u64 = 2_000;
/// Rows between two looks at the pace.
const ROWS_PER_LOOK: u64 = 64;

/// Says why work must end now; `None` while it may go on.
pub type Halt = Arc<dyn Fn() -> Option<&'static str> + Send + Sync>;

/// How fast work goes: as fast as it can, or with pauses three times as long, so that what the appliance does meanwhile
/// finds the disk and a processor free most of the time (with pauses as long as the work, the slowest hundredth of
/// heartbeats took 2.2 to 3.7 times as long as without; with these 1.7 to 2.1); and whether it goes on at all. A clone is the same pace.
#[derive(Clone)]
pub struct Pace(Option<Arc<(Mutex<Stopwatch>, Halt)>>);

/// Work between two pauses.
const STRIDE: Duration = Duration::from_millis(1);
/// So much longer than the work is the pause behind it.
const PAUSES: u32 = 3;
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(50);

impl Pace {
    /// Nobody else is there.
    pub const fn full() -> Self {
        Self(None)
    }

    /// Beside a running appliance, until `halt` says why not.
    pub fn gentle(halt: Halt) -> Self {
        Self(Some(Arc::new((Mutex::new(Stopwatch::start()), halt))))
    }

    /// Pauses, if enough was done since the last pause.
    ///
    /// # Errors
    /// When it must end.
    pub fn breathe(&self) -> std::io::Result<()> {
        let Some(shared) = &self.0 else { return Ok(()) };
        let (watch, halt) = &**shared;
        if let Some(why) = halt() {
            return Err(std::io::Error::other(why));
        }
        let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
        let worked = watch.elapsed();
        if worked >= STRIDE {
            std::thread::sleep((worked * PAUSES).min(PAUSE_MAX));
            *watch = Stopwatch::start();
        }
        Ok(())
    }
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Pace(gentle)" } else { "Pace(full)" })
    }
}

/// The name under which a file is written until it is whole.
pub fn part_path(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// Copies one moment of the data file into a new file, page by page full, synced and checked. What is at `part` already
/// is replaced; what is left there after an error is the caller's to remove. The snapshot ends with the copying: while it
/// lives, no page of the data file that changes is used again, and checking takes longer than copying.
pub fn copy(snapshot: Snapshot, part: &Path, pace: &Pace) -> Result<Summary> {
    let cannot = |e: &dyn std::fmt::Display| Error::Internal(format!("{} could not be written: {e}", part.display()));
    match std::fs::remove_file(part) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(cannot(&e)),
        _ => {}
    }
    let file = FileBackend::new(files::create_private(part).map_err(|e| cannot(&e))?).map_err(|e| cannot(&e))?;
    let medium = Paced { medium: file, pace: pace.clone() };
    let mut db = Database::builder().set_cache_size(32 << 20).create_with_backend(medium).map_err(|e| cannot(&e))?;
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
    drop(snapshot);
    db.compact().map_err(|e| cannot(&e))?;
    if !db.check_integrity().map_err(|e| cannot(&e))? {
        return Err(Error::internal("the copy did not pass its integrity check"));
    }
    drop(db);
    let file = File::open(part).map_err(|e| cannot(&e))?;
    file.sync_all().map_err(|e| cannot(&e))?;
    Ok(Summary { rows, bytes: file.metadata().map_err(|e| cannot(&e))?.len() })
}

/// Opens a data file that nobody uses and checks every page of it. What the rows mean is for their domains to check.
pub fn check_file(path: &Path, pace: &Pace) -> Result<Summary, OpenError> {
    // redb panics on some damaged pages before it comes to compare their checksums; damage is what is looked for here.
    let check = std::panic::AssertUnwindSafe(|| check_pages(path, pace));
    std::panic::catch_unwind(check).unwrap_or_else(|_| {
        let cause = "its pages contradict each other; it is damaged".to_owned();
        Err(OpenError::Failed { path: path.to_owned(), cause })
    })
}

fn check_pages(path: &Path, pace: &Pace) -> Result<Summary, OpenError> {
    let failed = |cause: String| OpenError::Failed { path: path.to_owned(), cause };
    let mut db = super::glass(path, pace)?;
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

/// Makes sure that what is read of this file next comes from the medium and not from memory; the file must be synced.
/// Where a file system keeps no copy in memory, or will not part with it, it does nothing.
pub fn forget_cached(path: &Path) -> std::io::Result<()> {
    let file = File::open(path)?;
    // Advice is not an order: a file system that does not know it loses the check nothing that it had before.
    let _ = files::forget_cached(&file);
    Ok(())
}

/// Holds a file as one who looks at it does, whatever is in it: nobody can use it until what comes back is dropped.
///
/// # Errors
/// [`OpenError::InUse`] while somebody uses it; [`OpenError::Failed`] when it cannot be opened at all.
pub fn hold(path: &Path) -> Result<Held, OpenError> {
    let failed = |cause: String| OpenError::Failed { path: path.to_owned(), cause };
    let file = File::open(path).map_err(|e| failed(e.to_string()))?;
    match Held::new(file) {
        Ok(Some(held)) => Ok(held),
        Ok(None) => Err(OpenError::InUse(path.to_owned())),
        Err(e) => Err(failed(e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::{Store, WriterParts};
    use super::*;
    use crate::kernel::{Clock, Timestamp};

    fn data_file(path: &Path) -> Store {
        let store = Store::open(path, super::super::Options::default(), true).unwrap();
        store.start(WriterParts::plain(Clock::simulated(Timestamp::EPOCH))).unwrap();
        store
    }

    /// The checks take longer than the copying, and an appliance that is told to stop does not wait for them.
    #[test]
    fn a_check_that_is_told_to_end_ends_and_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let (data, copied) = (folder.path().join("data"), folder.path().join("copy"));
        let store = data_file(&data);
        let stop = Arc::new(AtomicBool::new(false));
        let halt = Arc::clone(&stop);
        let pace = Pace::gentle(Arc::new(move || halt.load(Ordering::Acquire).then_some("told to end")));
        copy(store.read().unwrap(), &copied, &pace).unwrap();
        assert!(check_file(&copied, &pace).is_ok());
        stop.store(true, Ordering::Release);
        let why = check_file(&copied, &pace).unwrap_err().to_string();
        assert!(why.contains("told to end"), "the pages: {why}");
        let looked = Store::look_gently(&copied, &pace).err().unwrap().to_string();
        assert!(looked.contains("told to end"), "the rows: {looked}");
        let again = copy(store.read().unwrap(), &folder.path().join("second"), &pace).unwrap_err().to_string();
        assert!(again.contains("told to end"), "the copy itself: {again}");
        assert!(check_file(&copied, &Pace::full()).is_ok(), "it was not the file's fault");
        store.stop();
    }

    #[test]
    fn who_holds_a_file_keeps_everybody_from_using_it_even_where_it_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        data_file(&data).stop();
        let open = || Store::open(&data, super::super::Options::default(), false);
        let held = hold(&data).unwrap();
        assert!(matches!(open(), Err(OpenError::InUse(_))));
        assert!(Store::look(&data).is_ok(), "looking harms nobody");
        drop(held);
        let used = open().unwrap();
        assert!(matches!(hold(&data), Err(OpenError::InUse(_))));
        drop(used);
        std::fs::write(&data, "no data file any more").unwrap();
        let held = hold(&data).unwrap();
        assert!(matches!(open(), Err(OpenError::InUse(_))), "a damaged file is held, too");
        drop(held);
        assert!(matches!(open(), Err(OpenError::Failed { .. })));
    }

    /// Else a medium that lost what was written would pass for a sound one: memory still knows it.
    #[test]
    fn what_is_read_again_comes_from_the_medium() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, vec![7; 1 << 20]).unwrap();
        File::open(&file).unwrap().sync_all().unwrap();
        let resident = || {
            let said = std::process::Command::new("fincore")
                .args(["--bytes", "--noheadings", "--output", "RES"])
                .arg(&file)
                .output();
            said.ok().and_then(|o| String::from_utf8_lossy(&o.stdout).trim().parse::<u64>().ok())
        };
        let Some(before) = resident().filter(|bytes| *bytes > 0) else {
            eprintln!("skipped: what of a file is in memory cannot be seen here (fincore of util-linux)");
            return;
        };
        forget_cached(&file).unwrap();
        assert!(resident().is_some_and(|after| after < before), "of {before} bytes in memory none were dropped");
    }
}
