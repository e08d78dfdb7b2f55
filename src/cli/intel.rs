//! `intel`: roots of trust and lists of revoked certificates, on a running appliance or a stopped one.

use std::path::Path;
use std::time::UNIX_EPOCH;

use serde_json::Value;

use super::admin::{ask, list, text};
use super::args::exit;
use super::args::intel::{AddRootArgs, ImportListArgs, IntelCommand, RemoveRootArgs, RootsCommand, StatusListCommand};
use super::output::Style;
use super::{Failure, Outcome, feeds, output};
use crate::app::control::Ask;
use crate::config::Config;
use crate::domains::attestation::LIST_BYTES_MAX;
use crate::kernel::Timestamp;

/// Bytes of a certificate's file.
const PEM_BYTES_MAX: usize = 16 * 1024;

pub(super) fn run(config: &Config, command: IntelCommand) -> Outcome {
    match command {
        IntelCommand::Roots(RootsCommand::List(args)) => roots(config, args.tenant, args.json),
        IntelCommand::Roots(RootsCommand::Add(args)) => add_root(config, args),
        IntelCommand::Roots(RootsCommand::Remove(args)) => remove_root(config, args),
        IntelCommand::StatusList(StatusListCommand::Show(args)) => status_lists(config, args.json),
        IntelCommand::StatusList(StatusListCommand::Import(args)) => import_list(config, args),
        IntelCommand::Feeds(command) => feeds::run(config, &command),
    }
}

fn roots(config: &Config, tenant: Option<String>, as_json: bool) -> Outcome {
    let answer = ask(config, &Ask::Roots { tenant })?;
    if as_json {
        output::to_stdout(&output::json(&answer))?;
        return Ok(exit::DONE);
    }
    let rows = list(&answer, "roots")
        .map(|root| ["id", "state", "label", "changed_at"].map(|name| output::Cell::from(text(root, name))).to_vec());
    output::to_stdout(&output::table(Style::plain(), &["id", "state", "label", "changed"], rows.collect()))?;
    Ok(exit::DONE)
}

fn add_root(config: &Config, args: AddRootArgs) -> Outcome {
    let pem = read(&args.file, PEM_BYTES_MAX)?;
    let AddRootArgs { kind, label, tenant, .. } = args;
    let answer = ask(config, &Ask::AddRoot { kind, label, pem, tenant })?;
    if args.json {
        output::to_stdout(&output::json(&answer))?;
    } else {
        let (id, label) = (text(&answer, "id"), text(&answer, "label"));
        output::to_stdout(&format!("Trusted from now on: {id} ({label}).\n"))?;
    }
    Ok(exit::DONE)
}

fn remove_root(config: &Config, args: RemoveRootArgs) -> Outcome {
    let answer = ask(config, &Ask::RemoveRoot { id: args.id.clone(), tenant: args.tenant })?;
    if args.json {
        output::to_stdout(&output::json(&answer))?;
    } else {
        output::to_stdout(&format!("{} is trusted no longer.\n", args.id))?;
    }
    Ok(exit::DONE)
}

fn status_lists(config: &Config, as_json: bool) -> Outcome {
    let answer = ask(config, &Ask::StatusLists)?;
    if as_json {
        output::to_stdout(&output::json(&answer))?;
        return Ok(exit::DONE);
    }
    let lists: Vec<String> = list(&answer, "lists").map(in_words).collect();
    if lists.is_empty() {
        output::to_stdout(
            "No list was imported. Android keys are refused until one is; see `intel status-list import --help`.\n",
        )?;
    } else {
        output::to_stdout(&lists.concat())?;
    }
    Ok(exit::DONE)
}

fn in_words(list: &Value) -> String {
    let entries = list.get("entries").and_then(Value::as_u64).unwrap_or_default();
    let stale = if list.get("stale") == Some(&Value::Bool(true)) {
        " It is too old: Android keys are refused until a newer one is imported."
    } else {
        ""
    };
    format!("{}: fetched {}, {entries} certificates.{stale}\n", text(list, "name"), text(list, "fetched_at"))
}

fn import_list(config: &Config, args: ImportListArgs) -> Outcome {
    let file = read(&args.file, LIST_BYTES_MAX)?;
    let fetched_at = match args.fetched_at {
        Some(time) => time,
        None => changed_at(&args.file)?,
    };
    let answer = ask(config, &Ask::ImportStatusList { file, fetched_at })?;
    if args.json {
        output::to_stdout(&output::json(&answer))?;
    } else {
        output::to_stdout(&format!("In force from now on. {}", in_words(&answer)))?;
    }
    Ok(exit::DONE)
}

fn cannot(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::Usage(format!("{} cannot be read: {why}", path.display()))
}

/// A text file of at most this many bytes.
fn read(path: &Path, bytes_max: usize) -> Result<String, Failure> {
    let size = std::fs::metadata(path).map_err(|e| cannot(path, e))?.len();
    if size > bytes_max as u64 {
        return Err(cannot(path, format_args!("it has {size} bytes; {bytes_max} are allowed")));
    }
    std::fs::read_to_string(path).map_err(|e| cannot(path, e))
}

fn changed_at(path: &Path) -> Result<Timestamp, Failure> {
    let changed = std::fs::metadata(path).and_then(|m| m.modified()).map_err(|e| cannot(path, e))?;
    let ms = changed.duration_since(UNIX_EPOCH).map_err(|e| cannot(path, e))?.as_millis();
    Ok(Timestamp::from_millis(i64::try_from(ms).unwrap_or(i64::MAX)))
}
