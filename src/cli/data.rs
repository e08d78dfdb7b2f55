//! `backup`, `restore`, `drill`, `compact`, `verify`: the data file as a whole.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::args::{BackupArgs, RestoreArgs, exit};
use super::{Failure, Outcome, admin, output};
use crate::app::backup::Made;
use crate::app::backup::drill::Drilled;
use crate::app::backup::restore::{self, Order};
use crate::app::control::{self, Ask};
use crate::app::place::Place;
use crate::config::Config;
use crate::crypto::hex;
use crate::crypto::vault::PrivateKey;
use crate::domains::audit;
use crate::kernel::{Clock, Error};
use crate::store::Store;
use crate::store::backup::{self, Pace};

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))
}

pub(super) fn backup(config: &Config, args: &BackupArgs) -> Outcome {
    let file = args.to.as_deref().map(absolute).transpose()?;
    if let Some(file) = file.as_ref().filter(|file| file.exists() && !file.is_dir()) {
        return Err(Failure::Refused(format!(
            "{} exists already; nothing was changed. Choose another name.",
            file.display()
        )));
    }
    let (recipients, unencrypted) = (args.recipients.clone(), args.unencrypted);
    let answer = admin::ask(config, &Ask::Backup { file, recipients, unencrypted })?;
    if args.json {
        output::to_stdout(&output::json(&answer))?;
        return Ok(exit::DONE);
    }
    let made: Made = serde_json::from_value(answer).map_err(Error::internal)?;
    let key = Place::of(config).sealing_file();
    let advice = if made.encrypted {
        "The sealing key is in it, encrypted to the same keys: `blockremote restore` needs nothing else.".to_owned()
    } else {
        format!("It is NOT encrypted, and the sealing key is not in it: keep {} too, but not beside it.", key.display())
    };
    let (name, rows, bytes) = (made.file.display(), made.rows, made.bytes);
    output::to_stdout(&format!("{name} holds {rows} rows in {bytes} bytes and passed its check.\n{advice}\n"))?;
    Ok(exit::DONE)
}

pub(super) fn restore(config: &Config, args: &RestoreArgs) -> Outcome {
    let place = Place::of(config);
    let identity = args.identity.as_deref().map(PrivateKey::read).transpose();
    let identity = identity.map_err(|e| Failure::Refused(format!("--identity: {e}. Nothing was changed.")))?;
    let from = &args.from;
    if !from.is_file() {
        return Err(Failure::Refused(format!("{} is no file. Nothing was changed.", from.display())));
    }
    let order = Order {
        from,
        identity: identity.as_ref(),
        sealing_key_file: args.sealing_key_file.as_deref(),
        force: args.force,
        clock: &Clock::System,
    };
    let summary = restore::restore(&place, &order)?;
    output::to_stdout(&format!(
        "{} is restored: {} rows in {} bytes.\nThe audit log goes on under a new name from the next start on; tell it to whoever \
         checks it (`blockremote audit key`).\n",
        place.data.display(),
        summary.rows,
        summary.bytes
    ))?;
    Ok(exit::DONE)
}

pub(super) fn drill(config: &Config, as_json: bool) -> Outcome {
    let answer = admin::ask(config, &Ask::Drill)?;
    if as_json {
        output::to_stdout(&output::json(&answer))?;
        return Ok(exit::DONE);
    }
    let d: Drilled = serde_json::from_value(answer).map_err(Error::internal)?;
    output::to_stdout(&format!(
        "{} was restored for trial in {} ms: {} rows, {} log entries, {} signed checkpoints agree, {} of {} recomputed \
         decisions are the same.\n",
        d.file.display(),
        d.took_ms,
        d.rows,
        d.entries,
        d.checkpoints,
        d.same,
        d.decisions
    ))?;
    Ok(exit::DONE)
}

pub(super) fn compact(config: &Config, as_json: bool) -> Outcome {
    let place = Place::of(config);
    if control::is_running(&place.control_socket()) {
        return Err(Failure::Refused("The appliance is running. Stop it first; nothing was changed.".to_owned()));
    }
    let (before, after) = restore::compact(&place)?;
    if as_json {
        let report =
            json!({ "file": place.data, "bytes_before": before, "bytes_after": after.bytes, "rows": after.rows });
        output::to_stdout(&output::json(&report))?;
        return Ok(exit::DONE);
    }
    output::to_stdout(&format!(
        "{} had {before} bytes and has {} now. The old file is kept as {}.before-compact; remove it when all is well.\n",
        place.data.display(),
        after.bytes,
        place.data.display()
    ))?;
    Ok(exit::DONE)
}

pub(super) fn verify(
    config: &Config,
    file: Option<&Path>,
    known: &[Vec<u8>],
    key: Option<[u8; 32]>,
    as_json: bool,
) -> Outcome {
    let place = Place::of(config);
    let file = file.unwrap_or(&place.data).to_owned();
    let running = if absolute(&file)? == absolute(&place.data)? {
        let known = known.iter().map(|note| String::from_utf8_lossy(note).into_owned()).collect();
        control::ask(&place.control_socket(), &Ask::Verify { known, key: key.map(|key| hex(&key)) })?
    } else {
        None
    };
    let (summary, trees) = match running {
        Some(answer) => {
            let trees = answer.get("audit").cloned().unwrap_or_default();
            (None, trees)
        }
        None => {
            let summary = backup::check_file(&file, &Pace::full()).map_err(Error::internal)?;
            let store = Store::look(&file).map_err(Error::internal)?;
            let trees = audit::check_trees_against(&store.read()?, known, key)?;
            (Some(summary), serde_json::to_value(trees).map_err(Error::internal)?)
        }
    };
    let faults: Vec<String> = trees
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|tree| tree.get("faults").and_then(|f| f.as_array()).cloned().unwrap_or_default())
        .filter_map(|fault| fault.as_str().map(str::to_owned))
        .collect();
    let sound = faults.is_empty();
    if as_json {
        let pages = summary.map_or("not checked while the appliance runs", |_| "sound");
        let report = json!({ "file": file, "sound": sound, "pages": pages, "contents": summary, "audit": trees });
        output::to_stdout(&output::json(&report))?;
    } else {
        let mut text = match summary {
            Some(s) => format!("{}: {} rows in {} bytes, every page is sound.\n", file.display(), s.rows, s.bytes),
            None => format!("{}: in use; pages are checked when the appliance is stopped.\n", file.display()),
        };
        for tree in trees.as_array().into_iter().flatten() {
            let of = |name: &str| tree.get(name).map(ToString::to_string).unwrap_or_default();
            text.push_str(&format!(
                "audit log of {}: {} entries, root {}, {} signed checkpoints\n",
                of("tenant"),
                of("size"),
                of("root"),
                of("checkpoints")
            ));
            if tree.get("checkpoints").and_then(serde_json::Value::as_u64) == Some(0) {
                text.push_str("  nothing of it is signed yet: only what others keep of it could tell a change\n");
            }
        }
        for fault in &faults {
            text.push_str(&format!("FAULT: {fault}\n"));
        }
        output::to_stdout(&text)?;
    }
    Ok(if sound { exit::DONE } else { exit::FAILED })
}
