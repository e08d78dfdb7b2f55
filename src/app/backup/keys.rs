//! The sealing key of a backup: whether the appliance will find it where it looks, and where it is put if not.

use std::path::Path;

use super::restore::refused;
use super::{beside, cannot, restore};
use crate::crypto::SealingKey;
use crate::crypto::seal::Found;
use crate::kernel::{Error, Result, files};

/// Prepares what is needed for the appliance to find this key: nothing, where it is there already; else a file that
/// waits for its name. `file` is where the appliance's key comes from, unless the environment or a credential holds it.
///
/// # Errors
/// A refusal, and nothing was changed: another key is there and may not or cannot be replaced.
pub(super) fn prepare(file: &Path, key: &SealingKey, force: bool) -> Result<Option<restore::Waiting>> {
    let variable = |name: &str| std::env::var(name).ok();
    let present = SealingKey::load(&variable, file).map_err(|e| {
        refused(format!(
            "{e}. It must be compared with the backup's: say it again as root, or name another file with \
                         --sealing-key-file."
        ))
    })?;
    match present {
        Some((present, _)) if present.id() == key.id() => return Ok(None),
        Some((_, Found::File(_))) if !force => {
            return Err(refused(format!(
                "{} is another key than the backup's. Say --force to replace it; the old one is kept as {}.replaced.",
                file.display(),
                file.display()
            )));
        }
        Some((_, Found::Environment | Found::Credential(_))) => {
            return Err(refused(
                "The backup belongs to another sealing key than the one in the environment or the systemd credential: take \
                 that away first, or name the file that it comes from with --sealing-key-file."
                    .to_owned(),
            ));
        }
        Some((_, Found::File(_))) | None => {}
    }
    let new = beside(file, ".new");
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(cannot(&new, &e)),
        _ => {}
    }
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    restore::make_folder(folder)?;
    let waiting = restore::Waiting::new(new, file, file.exists());
    key.write_file(waiting.new_file()).map_err(Error::internal)?;
    // Who could read the old one can read the new one, and nobody else.
    let like = if file.exists() { file } else { folder };
    files::give_to_owner_of(like, waiting.new_file()).map_err(|e| cannot(file, &e))?;
    Ok(Some(waiting))
}
