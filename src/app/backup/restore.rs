//! A backup is put in the place of a data file: checked before, checked behind, and nothing overwritten unless it is whole.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use super::archive::{self, Manifest, Tree};
use super::{Scratch, beside, cannot, sound_trees};
use crate::app::place::Place;
use crate::crypto::SealingKey;
use crate::crypto::vault::{MAGIC, PrivateKey};
use crate::domains::audit;
use crate::kernel::{Clock, Error, Kind, Refusal, Result, files};
use crate::store::backup::{self, Pace, Summary, part_path};
use crate::store::migrate::RESTORED;
use crate::store::tables::{Key, META};
use crate::store::{OpenError, Options, Store, WriterParts};

/// Whether a file is an encrypted backup.
///
/// # Errors
/// When it cannot be read.
pub fn is_encrypted(file: &Path) -> std::io::Result<bool> {
    let mut head = Vec::new();
    File::open(file)?.take(MAGIC.len() as u64).read_to_end(&mut head)?;
    Ok(head == MAGIC)
}

fn refused(detail: String) -> Error {
    Refusal::new(Kind::Conflict, "refused", format!("{detail} Nothing was changed.")).into()
}

/// Takes the data file out of a backup, into a new file, and checks it: pages, schema, logs. Nothing else is touched.
///
/// # Errors
/// A refusal with the reason: cut, changed, of another key, of a newer schema, a log that is not sound.
pub fn unpack(
    from: &Path,
    to: &Path,
    identity: Option<&PrivateKey>,
    pace: &mut Pace,
) -> Result<(Summary, Option<Manifest>)> {
    let unfit = |e: &dyn std::fmt::Display| refused(format!("{}: {e}.", from.display()));
    match std::fs::remove_file(to) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(cannot(to, &e)),
        _ => {}
    }
    let encrypted = is_encrypted(from).map_err(|e| unfit(&e))?;
    let file = BufReader::new(File::open(from).map_err(|e| unfit(&e))?);
    let mut out = BufWriter::new(files::create_private(to).map_err(|e| cannot(to, &e))?);
    let manifest = if encrypted {
        let how = "it is encrypted: name the file of the private key (--identity)";
        let opened = identity.ok_or_else(|| unfit(&how))?.open(file).map_err(|e| unfit(&e))?;
        Some(archive::read(opened, &mut out, pace).map_err(|e| unfit(&e))?)
    } else {
        archive::pump(file, &mut out, pace).map_err(|e| cannot(to, &e))?;
        None
    };
    out.flush().and_then(|()| out.get_ref().sync_all()).map_err(|e| cannot(to, &e))?;
    drop(out);
    let summary = backup::check_file(to).map_err(|e| unfit(&shown(&e, to, from)))?;
    // The schema first: what a newer version wrote need not mean what is read here.
    drop(Store::look(to).map_err(|e| unfit(&shown(&e, to, from)))?);
    let trees = sound_trees(to).map_err(|e| unfit(&e))?;
    if let Some(manifest) = &manifest
        && (manifest.rows != summary.rows || manifest.trees != Tree::all(&trees))
    {
        return Err(unfit(&"what it holds is not what was put in"));
    }
    Ok((summary, manifest))
}

/// The message about the unpacked file is one about the backup.
fn shown(e: &OpenError, unpacked: &Path, backup: &Path) -> String {
    e.to_string().replace(&unpacked.display().to_string(), &backup.display().to_string())
}

/// Restores `from` into the place. The old data file, where there is one and `force` allows it, is kept beside the new one
/// until the next restore; so is the sealing key, where the backup brings another.
///
/// # Errors
/// A refusal, and nothing was changed.
pub fn restore(
    place: &Place,
    from: &Path,
    identity: Option<&PrivateKey>,
    force: bool,
    clock: &Clock,
) -> Result<Summary> {
    let to = &place.data;
    if to.exists() {
        if !force {
            return Err(refused(format!(
                "{} exists already. Stop the appliance, then say --force; the old file is kept as {}.replaced.",
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
    let part = Scratch(part_path(to));
    let (summary, manifest) = unpack(from, &part.0, identity, &mut Pace::full())?;
    let known =
        Store::look(to).ok().and_then(|old| audit::last_checkpoints(&old.read().ok()?).ok()).unwrap_or_default();
    let made_at = manifest.as_ref().map(|m| m.made_at);
    mark(&part.0, audit::restored_note(made_at, known)?, clock)?;
    let marked = backup::check_file(&part.0).map_err(Error::internal)?;
    if let Some(manifest) = &manifest {
        bring_sealing_key(place, manifest, force)?;
    }
    put_in_place(&part.0, to, ".replaced")?;
    files::sync_parent(to).map_err(|e| cannot(to, &e))?;
    Ok(Summary { rows: summary.rows, bytes: marked.bytes })
}

/// Leaves word for the next start: what it finds is a past that others have seen the future of.
fn mark(file: &Path, note: Vec<u8>, clock: &Clock) -> Result<()> {
    let store = Store::open(file, Options::default(), false).map_err(Error::internal)?;
    store.start(WriterParts::plain(clock.clone()))?;
    let written = store.write_blocking(move |tx| tx.put_raw(META, Key::new().text(RESTORED), &note));
    store.stop();
    written
}

/// Puts the backup's sealing key where the appliance looks for it.
fn bring_sealing_key(place: &Place, manifest: &Manifest, force: bool) -> Result<()> {
    let key = SealingKey::from_text(manifest.sealing_key.expose(), "the backup").map_err(Error::internal)?;
    let file = place.sealing_file();
    match place.sealing_key().map_err(Error::internal)? {
        Some(present) if present.id() == key.id() => return Ok(()),
        Some(_) if !file.exists() => {
            return Err(refused(
                "The backup belongs to another sealing key than the one in the environment or the systemd credential: take \
                 that away first, and the backup's own is written to the folder of keys."
                    .to_owned(),
            ));
        }
        Some(_) if !force => {
            return Err(refused(format!(
                "{} is another key than the backup's. Say --force to replace it; the old one is kept as {}.replaced.",
                file.display(),
                file.display()
            )));
        }
        Some(_) => std::fs::rename(&file, beside(&file, ".replaced")).map_err(|e| cannot(&file, &e))?,
        None => {}
    }
    if let Some(parent) = file.parent() {
        files::create_private_dir(parent).map_err(|e| cannot(parent, &e))?;
    }
    key.write_file(&file).map_err(Error::internal)
}

/// Gives a whole file the name of the data file, and the old one a further name. At no moment is there no file of that
/// name: an appliance that starts on an empty place sets itself up anew.
fn put_in_place(new: &Path, data: &Path, ending: &str) -> Result<()> {
    let old = beside(data, ending);
    if data.exists() {
        match std::fs::remove_file(&old) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(cannot(&old, &e)),
            _ => {}
        }
        std::fs::hard_link(data, &old).map_err(|e| cannot(&old, &e))?;
    }
    std::fs::rename(new, data).map_err(|e| cannot(data, &e))
}

/// Rewrites the data file of a stopped appliance without its free pages: a checked copy takes its place, the old file is
/// kept beside it. A power cut leaves one of the two.
///
/// # Errors
/// A refusal, and nothing was changed.
pub fn compact(place: &Place) -> Result<(u64, Summary)> {
    let data = &place.data;
    let store = Store::look(data).map_err(Error::internal)?;
    let before = std::fs::metadata(data).map_err(|e| cannot(data, &e))?.len();
    let trees = audit::check_trees(&store.read()?)?;
    let part = Scratch(part_path(data));
    let after = backup::copy(&store.read()?, &part.0, &mut Pace::full())?;
    backup::check_file(&part.0).map_err(Error::internal)?;
    if Tree::all(&sound_trees(&part.0)?) != Tree::all(&trees) {
        return Err(refused("The copy differs from the data file.".to_owned()));
    }
    put_in_place(&part.0, data, ".before-compact")?;
    // Only now may an appliance start: it opens the new file.
    drop(store);
    files::sync_parent(data).map_err(|e| cannot(data, &e))?;
    Ok((before, after))
}
