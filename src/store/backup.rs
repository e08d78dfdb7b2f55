//! A backup is one snapshot copied into a fresh file: never a copy of the live file, whose pages move while it is read.

use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTableMetadata, TableHandle};

use super::tables::{ALL, META};
use super::{OpenError, Snapshot, Store};
use crate::kernel::{Error, Result, files};

/// What a backup or a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    /// Rows in all tables.
    pub rows: u64,
    /// Size of the file.
    pub bytes: u64,
}

const ROWS_PER_COMMIT: u64 = 50_000;

/// Copies the present moment of `store` into a new file at `to`: written beside it, synced, checked, renamed.
/// Refuses to overwrite.
pub fn write(store: &Store, to: &Path) -> Result<Summary> {
    if to.exists() {
        return Err(Error::Internal(format!("{} exists already; choose another name", to.display())));
    }
    let part = part_path(to);
    let outcome = copy_checked(&store.read()?, &part).and_then(|summary| {
        std::fs::rename(&part, to)
            .map_err(|e| Error::Internal(format!("{} could not be written: {e}", to.display())))?;
        files::sync_parent(to).map_err(Error::internal)?;
        Ok(summary)
    });
    if outcome.is_err() {
        // Only our own unfinished file is removed; a failure to do so leaves a `.part` file, which the next run replaces.
        let _ = std::fs::remove_file(&part);
    }
    outcome
}

fn part_path(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

fn copy_checked(snapshot: &Snapshot, part: &Path) -> Result<Summary> {
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

/// Puts the backup `from` in the place of the data file `to`, after checking it. The old file, where there is one and
/// `force` allows it, is kept beside the new one until the next restore.
pub fn restore(from: &Path, to: &Path, force: bool) -> Result<Summary> {
    let summary = check_file(from).map_err(Error::internal)?;
    if to.exists() {
        if !force {
            return Err(Error::Internal(format!(
                "{} exists already; nothing was changed. Stop the appliance and say --force to replace it (the old file is kept as {}.replaced)",
                to.display(),
                to.display()
            )));
        }
        // A damaged file is a good reason to restore; one that is in use is not.
        if let Err(in_use @ OpenError::InUse(_)) = Store::look(to) {
            return Err(Error::internal(in_use));
        }
    }
    if let Some(parent) = to.parent().filter(|p| !p.as_os_str().is_empty()) {
        files::create_private_dir(parent).map_err(Error::internal)?;
    }
    let part = part_path(to);
    let cannot = |e: std::io::Error| Error::Internal(format!("{} could not be written: {e}", part.display()));
    std::fs::copy(from, &part).map_err(cannot)?;
    files::restrict(&part, 0o600).map_err(cannot)?;
    std::fs::File::open(&part).and_then(|f| f.sync_all()).map_err(cannot)?;
    let copied = check_file(&part).map_err(Error::internal)?;
    if copied.rows != summary.rows {
        return Err(Error::internal("the copy differs from the backup; nothing was changed"));
    }
    if to.exists() {
        let mut old = to.as_os_str().to_owned();
        old.push(".replaced");
        std::fs::rename(to, PathBuf::from(old)).map_err(cannot)?;
    }
    std::fs::rename(&part, to).map_err(cannot)?;
    files::sync_parent(to).map_err(Error::internal)?;
    Ok(copied)
}
