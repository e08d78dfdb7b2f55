//! Backups: made beside a running appliance, encrypted, read again before they count, kept for a time, tried out; and how
//! one is put in the place of a data file.
//!
//! A backup is one moment of the data file, copied into a fresh file beside it (`store::backup`), checked there, and from
//! there encrypted to the recipients together with the sealing key, without which it would be worthless. To read the
//! written file again although no private key lies on this machine, it is also encrypted to a key that is made for this
//! one backup and forgotten when the check is through.

pub mod archive;
pub mod drill;
pub mod due;
pub mod keep;
mod keys;
pub mod restore;
pub mod schedule;
pub mod status;

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::crypto::SealingKey;
use crate::crypto::vault::{PrivateKey, Recipients};
use crate::domains::audit;
use crate::kernel::clock::Stopwatch;
use crate::kernel::{Error, Result, Timestamp, files};
use crate::store::backup::{self, Pace, part_path};
use crate::store::{Snapshot, Store};

/// What a backup is made of.
pub struct Source<'s> {
    /// The data file; given free as soon as it is copied.
    pub snapshot: Snapshot,
    /// Where it lies: the copy is made beside it, because it needs as much protection.
    pub data: &'s Path,
    /// Goes with it, encrypted.
    pub sealing: &'s SealingKey,
    /// Who can open it; nobody in particular: it is written in clear, and without the sealing key.
    pub recipients: &'s Recipients,
    /// When this is.
    pub now: Timestamp,
}

/// What was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Made {
    /// Where it is.
    pub file: PathBuf,
    /// Rows in all tables.
    pub rows: u64,
    /// Size of the backup.
    pub bytes: u64,
    /// Size of the copied data file: what of the data file is alive.
    pub live_bytes: u64,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// How long it took.
    pub took_ms: u64,
}

/// Removes a file when it is dropped: an unfinished one must not stay behind.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is replaced by the next one of its name.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What the copy of a backup is called beside the data file, and what a trial is restored to.
const COPY: &str = ".backup.tmp";
const TRIAL: &str = ".drill.tmp";

/// Removes what a killed process left beside the data file: copies of it in clear. Only where nobody else makes any: at
/// the start of the appliance, which holds the data file.
pub fn remove_scratch(data: &Path) {
    for file in [beside(data, COPY), beside(data, TRIAL), part_path(data)] {
        match std::fs::remove_file(&file) {
            Ok(()) => tracing::warn!(file = %file.display(), "an unfinished copy of the data file was removed"),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => tracing::warn!(file = %file.display(), error = %e, "an unfinished copy could not be removed"),
        }
    }
}

/// A name beside the data file.
fn beside(data: &Path, ending: &str) -> PathBuf {
    let mut name = data.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn cannot(path: &Path, e: &dyn std::fmt::Display) -> Error {
    Error::Internal(format!("{} could not be written: {e}", path.display()))
}

/// Makes a backup at `to`, which must not exist. It gets its name only when it was read again from the medium and found to
/// be what was checked; whatever fails before that leaves nothing behind.
///
/// # Errors
/// A sentence: it exists, the disk is full, the copy or its audit log is not sound.
pub fn make(source: Source<'_>, to: &Path, pace: &Pace) -> Result<Made> {
    let watch = Stopwatch::start();
    if to.exists() {
        return Err(Error::Internal(format!("{} exists already; choose another name", to.display())));
    }
    let Source { snapshot, data, sealing, recipients, now } = source;
    let copy = Scratch(beside(data, COPY));
    let summary = backup::copy(snapshot, &copy.0, pace)?;
    let trees = sound_trees(&copy.0, pace)?;
    let part = Scratch(part_path(to));
    match std::fs::remove_file(&part.0) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(cannot(to, &e)),
        _ => {}
    }
    let encrypted = !recipients.is_empty();
    if encrypted {
        let trees = archive::Tree::all(&trees);
        let manifest = archive::Manifest::of(&copy.0, summary, trees, sealing, now, pace)?;
        seal(&manifest, recipients, &copy.0, &part.0, pace)?;
    } else {
        let mut out = files::create_private(&part.0).map_err(|e| cannot(to, &e))?;
        let from = File::open(&copy.0).map_err(|e| cannot(&copy.0, &e))?;
        archive::pump(from, &mut out, pace).map_err(|e| cannot(to, &e))?;
        out.sync_all().and_then(|()| backup::forget_cached(&part.0)).map_err(|e| cannot(to, &e))?;
        let again = backup::check_file(&part.0, pace).map_err(Error::internal)?;
        if again != summary {
            return Err(Error::Internal(format!("{} is not what was written: is the medium sound?", to.display())));
        }
    }
    let bytes = std::fs::metadata(&part.0).map_err(|e| cannot(to, &e))?.len();
    std::fs::rename(&part.0, to).map_err(|e| cannot(to, &e))?;
    files::sync_parent(to).map_err(|e| cannot(to, &e))?;
    Ok(Made {
        file: to.to_owned(),
        rows: summary.rows,
        bytes,
        live_bytes: summary.bytes,
        encrypted,
        took_ms: u64::try_from(watch.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

/// Encrypts the copy, syncs, and reads it again from the medium with a key of its own.
fn seal(manifest: &archive::Manifest, recipients: &Recipients, copy: &Path, part: &Path, pace: &Pace) -> Result<()> {
    let own = PrivateKey::generate();
    let file = files::create_private(part).map_err(|e| cannot(part, &e))?;
    let out = BufWriter::with_capacity(1 << 17, file);
    let mut out = recipients.and(&own).encrypt(out).map_err(|e| cannot(part, &e))?;
    let mut write = || -> std::io::Result<()> {
        manifest.write(&mut out)?;
        archive::pump(File::open(copy)?, &mut out, pace)
    };
    write().map_err(|e| cannot(part, &e))?;
    let mut out = out.finish().map_err(|e| cannot(part, &e))?;
    out.flush().and_then(|()| out.get_ref().sync_all()).map_err(|e| cannot(part, &e))?;
    drop(out);
    backup::forget_cached(part).map_err(|e| cannot(part, &e))?;
    let written = BufReader::new(File::open(part).map_err(|e| cannot(part, &e))?);
    let opened = own.open(written).map_err(|e| cannot(part, &e))?;
    archive::read(opened, &mut std::io::sink(), pace).map(drop)
}

/// The logs of a copied data file, none with a fault.
fn sound_trees(file: &Path, pace: &Pace) -> Result<Vec<audit::TreeCheck>> {
    let store = Store::look_gently(file, pace).map_err(Error::internal)?;
    let trees = audit::check_trees(&store.read()?)?;
    match trees.iter().flat_map(|tree| &tree.faults).next() {
        Some(fault) => Err(Error::Internal(format!("the audit log is not sound: {fault}"))),
        None => Ok(trees),
    }
}
