//! A backup is put in the place of a data file: checked before, checked behind, and nothing overwritten unless it is whole.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::archive::{self, Manifest, Tree};
use super::{Scratch, beside, cannot, keys, sound_trees};
use crate::app::place::Place;
use crate::crypto::vault::{MAGIC, PrivateKey};
use crate::domains::{audit, killswitch};
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

pub(super) fn refused(detail: String) -> Error {
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
    pace: &Pace,
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
    let summary = backup::check_file(to, pace).map_err(|e| unfit(&shown(&e, to, from)))?;
    // The schema first: what a newer version wrote need not mean what is read here.
    drop(Store::look_gently(to, pace).map_err(|e| unfit(&shown(&e, to, from)))?);
    let trees = sound_trees(to, pace).map_err(|e| unfit(&e))?;
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

/// What is restored, and how.
pub struct Order<'o> {
    /// The backup.
    pub from: &'o Path,
    /// What opens it, where it is encrypted.
    pub identity: Option<&'o PrivateKey>,
    /// Where the appliance's sealing key comes from, where that is not its own folder: the source of the credential.
    pub sealing_key_file: Option<&'o Path>,
    /// Whether what is there is replaced.
    pub force: bool,
    /// Time.
    pub clock: &'o Clock,
}

/// Restores a backup into the place. The old data file, where there is one and `force` allows it, is kept beside the new
/// one until the next restore; so is the sealing key, where the backup brings another. From the first look until it has
/// its new name the old file is held: nobody begins to use it meanwhile.
///
/// # Errors
/// A refusal, and nothing was changed.
pub fn restore(place: &Place, order: &Order<'_>) -> Result<Summary> {
    let to = &place.data;
    let held = if to.exists() {
        if !order.force {
            return Err(refused(format!(
                "{} exists already. Stop the appliance, then say --force; the old file is kept as {}.replaced.",
                to.display(),
                to.display()
            )));
        }
        // A damaged file is a good reason to restore; one that is in use is not.
        Some(backup::hold(to).map_err(|e| refused(format!("{e}.")))?)
    } else {
        None
    };
    let folder = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    make_folder(folder)?;
    let data = Waiting::new(part_path(to), to, held.is_some());
    let part = data.new_file();
    let (summary, manifest) = unpack(order.from, part, order.identity, &Pace::full())?;
    let old = Store::look(to).and_then(|old| old.read().map_err(|_| OpenError::InUse(to.clone()))).ok();
    let known = old.as_ref().and_then(|old| audit::last_checkpoints(old).ok()).unwrap_or_default();
    let floor = old.as_ref().and_then(|old| killswitch::seq_floor(old).ok()).unwrap_or(0);
    drop(old);
    let made_at = manifest.as_ref().map(|m| m.made_at);
    mark(part, audit::restored_note(made_at, known)?, floor, order.clock)?;
    let marked = backup::check_file(part, &Pace::full()).map_err(Error::internal)?;
    files::give_to_owner_of(folder, part).map_err(|e| cannot(to, &e))?;
    let mut all = Vec::new();
    if let Some(manifest) = &manifest {
        let own = place.sealing_file();
        let file = order.sealing_key_file.unwrap_or(&own);
        all.extend(keys::prepare(file, &manifest.key()?, order.force)?);
    }
    all.push(data);
    put_in_place(&all, ".replaced")?;
    drop(held);
    Ok(Summary { rows: summary.rows, bytes: marked.bytes })
}

/// Leaves word for the next start: what it finds is a past that others have seen the future of.
fn mark(file: &Path, note: Vec<u8>, floor: u64, clock: &Clock) -> Result<()> {
    let store = Store::open(file, Options::default(), false).map_err(Error::internal)?;
    store.start(WriterParts::plain(clock.clone()))?;
    let now = clock.now();
    let written = store.write_blocking(move |tx| {
        killswitch::raise_seq_floor(tx, floor, now)?;
        tx.put_raw(META, Key::new().text(RESTORED), &note)
    });
    store.stop();
    written
}

/// Makes a folder for its owner alone, and whatever is missing above it; it belongs to whom the folder above belongs.
pub(super) fn make_folder(folder: &Path) -> Result<()> {
    let missing: Vec<&Path> =
        folder.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    files::create_private_dir(folder).map_err(|e| cannot(folder, &e))?;
    for made in missing.iter().rev() {
        let above = made.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        files::give_to_owner_of(above, made).map_err(|e| cannot(made, &e))?;
    }
    Ok(())
}

/// A file that is written under a side name and waits for its own; removed again where it never gets it.
pub(super) struct Waiting {
    new: Scratch,
    at: PathBuf,
    /// Whether there was a file of that name when this began.
    replaces: bool,
}

impl Waiting {
    pub(super) fn new(new: PathBuf, at: &Path, replaces: bool) -> Self {
        Self { new: Scratch(new), at: at.to_owned(), replaces }
    }

    /// The side name.
    pub(super) fn new_file(&self) -> &Path {
        &self.new.0
    }

    /// The further name that the old file gets.
    fn old(&self, ending: &str) -> PathBuf {
        beside(&self.at, ending)
    }

    fn keep_old(&self, ending: &str) -> std::io::Result<()> {
        if !self.replaces {
            return Ok(());
        }
        match std::fs::remove_file(self.old(ending)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        std::fs::hard_link(&self.at, self.old(ending))
    }

    /// Where no file was, one that was made meanwhile is never replaced.
    fn take_name(&self) -> std::io::Result<()> {
        match self.replaces {
            true => std::fs::rename(&self.new.0, &self.at)?,
            false => std::fs::hard_link(&self.new.0, &self.at)?,
        }
        files::sync_parent(&self.at)
    }

    fn give_back(&self, ending: &str) {
        let undone = match self.replaces {
            true => std::fs::rename(self.old(ending), &self.at),
            false => std::fs::remove_file(&self.at),
        };
        if let Err(e) = undone {
            tracing::error!(file = %self.at.display(), error = %e, "what was begun could not be undone: put the old file back");
        }
    }
}

/// Gives whole files their names, and the old ones a further name: all of them or none. What can fail comes first. At no
/// moment is there no file of a name that there was: an appliance that starts on an empty place sets itself up anew.
fn put_in_place(all: &[Waiting], ending: &str) -> Result<()> {
    let failed = |waiting: &Waiting, e: std::io::Error| {
        let shown = waiting.at.display();
        refused(match e.kind() {
            std::io::ErrorKind::AlreadyExists => format!("{shown} was made meanwhile, by somebody else."),
            _ => format!("{shown} could not be put in place: {e}."),
        })
    };
    for waiting in all {
        waiting.keep_old(ending).map_err(|e| failed(waiting, e))?;
    }
    for (n, waiting) in all.iter().enumerate() {
        if let Err(e) = waiting.take_name() {
            all.iter().take(n).for_each(|done| done.give_back(ending));
            return Err(failed(waiting, e));
        }
    }
    Ok(())
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
    let waiting = Waiting::new(part_path(data), data, true);
    let (part, pace) = (waiting.new_file(), Pace::full());
    let after = backup::copy(store.read()?, part, &pace)?;
    backup::check_file(part, &pace).map_err(Error::internal)?;
    if Tree::all(&sound_trees(part, &pace)?) != Tree::all(&trees) {
        return Err(refused("The copy differs from the data file.".to_owned()));
    }
    files::give_to_owner_of(data, part).map_err(|e| cannot(data, &e))?;
    put_in_place(&[waiting], ".before-compact")?;
    // Only now may an appliance start: it opens the new file.
    drop(store);
    Ok((before, after))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn write(folder: &Path, name: &str, content: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn read(path: &Path) -> Option<String> {
        std::fs::read_to_string(path).ok()
    }

    /// Data file and sealing key belong together: one without the other is an appliance that does not start.
    #[test]
    fn either_all_files_get_their_names_or_none_does() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        let (key, data) = (write(here, "key", "old key"), here.join("data"));
        let waiting = |name: &str, at: &Path| {
            let new = write(here, &format!("{name}.new"), &format!("new {name}"));
            Waiting::new(new, at, at.exists())
        };
        // Somebody sets an appliance up on the empty place, in the last moment.
        let all = [waiting("key", &key), waiting("data", &data)];
        write(here, "data", "somebody else's");
        let why = put_in_place(&all, ".replaced").unwrap_err().to_string();
        assert!(why.contains("made meanwhile") && why.contains("Nothing was changed"), "{why}");
        drop(all);
        assert_eq!((read(&key).unwrap(), read(&data).unwrap()), ("old key".to_owned(), "somebody else's".to_owned()));
        assert!(!here.join("key.new").exists() && !here.join("data.new").exists(), "nothing is left of it");

        // The old file cannot be kept: that is found before anything has a new name.
        std::fs::create_dir(here.join("data.replaced")).unwrap();
        write(&here.join("data.replaced"), "x", "x");
        assert!(put_in_place(&[waiting("key", &key), waiting("data", &data)], ".replaced").is_err());
        assert_eq!((read(&key).unwrap(), read(&data).unwrap()), ("old key".to_owned(), "somebody else's".to_owned()));
        std::fs::remove_dir_all(here.join("data.replaced")).unwrap();

        put_in_place(&[waiting("key", &key), waiting("data", &data)], ".replaced").unwrap();
        assert_eq!((read(&key).unwrap(), read(&data).unwrap()), ("new key".to_owned(), "new data".to_owned()));
        assert_eq!(read(&here.join("key.replaced")).unwrap(), "old key");
        assert_eq!(read(&here.join("data.replaced")).unwrap(), "somebody else's");
    }
}
