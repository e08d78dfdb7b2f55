//! `backup`, `restore`, `verify`: the data file as a whole.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::args::exit;
use super::{Failure, Outcome, output};
use crate::app::control::{self, Ask};
use crate::app::place::Place;
use crate::config::Config;
use crate::domains::audit;
use crate::kernel::Error;
use crate::store::{OpenError, Store, backup};

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))
}

pub(super) fn backup(config: &Config, to: &Path) -> Outcome {
    let to = absolute(to)?;
    if to.exists() {
        return Err(Failure::Refused(format!(
            "{} exists already; nothing was changed. Choose another name.",
            to.display()
        )));
    }
    let place = Place::of(config);
    let summary = match control::ask(&place.control_socket(), &Ask::Backup { file: to.clone() })? {
        Some(answer) => serde_json::from_value(answer).map_err(Error::internal)?,
        None => {
            let store = Store::look(&place.data).map_err(Error::internal)?;
            backup::write(&store, &to)?
        }
    };
    let text = format!(
        "{} holds {} rows in {} bytes and passed its check.\nKeep {} too, but not beside it: without the sealing key a backup cannot be used.\n",
        to.display(),
        summary.rows,
        summary.bytes,
        place.certs.join("sealing.key").display()
    );
    output::to_stdout(&text)?;
    Ok(exit::DONE)
}

pub(super) fn restore(config: &Config, from: &Path, force: bool) -> Outcome {
    let to = &config.paths.data;
    if to.exists() && !force {
        return Err(Failure::Refused(format!(
            "{} exists already; nothing was changed. Stop the appliance, then say --force; the old file is kept beside the new one.",
            to.display()
        )));
    }
    // What the pages hold is checked by `restore`; what the audit trees say, here, before anything is replaced.
    let found = check(from)?;
    if let Some(fault) = found.iter().flat_map(|tree| &tree.faults).next() {
        return Err(Failure::Refused(format!(
            "{}: the audit log is not sound: {fault}. Nothing was changed.",
            from.display()
        )));
    }
    let summary = backup::restore(from, to, force)?;
    output::to_stdout(&format!("{} is restored: {} rows in {} bytes.\n", to.display(), summary.rows, summary.bytes))?;
    Ok(exit::DONE)
}

fn check(file: &Path) -> Result<Vec<audit::TreeCheck>, Failure> {
    let refused = |e: OpenError| Failure::Refused(format!("{e}. Nothing was changed."));
    backup::check_file(file).map_err(refused)?;
    let store = Store::look(file).map_err(refused)?;
    Ok(audit::check_trees(&store.read()?)?)
}

pub(super) fn verify(config: &Config, file: Option<&Path>, known: &[Vec<u8>], as_json: bool) -> Outcome {
    let place = Place::of(config);
    let file = file.unwrap_or(&place.data).to_owned();
    let running = if absolute(&file)? == absolute(&place.data)? {
        let known = known.iter().map(|note| String::from_utf8_lossy(note).into_owned()).collect();
        control::ask(&place.control_socket(), &Ask::Verify { known })?
    } else {
        None
    };
    let (summary, trees) = match running {
        Some(answer) => {
            let trees = answer.get("audit").cloned().unwrap_or_default();
            (None, trees)
        }
        None => {
            let summary = backup::check_file(&file).map_err(Error::internal)?;
            let store = Store::look(&file).map_err(Error::internal)?;
            let trees = audit::check_trees_against(&store.read()?, known)?;
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
        }
        for fault in &faults {
            text.push_str(&format!("FAULT: {fault}\n"));
        }
        output::to_stdout(&text)?;
    }
    Ok(if sound { exit::DONE } else { exit::FAILED })
}
