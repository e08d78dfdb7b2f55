//! `doctor`: looks for what commonly goes wrong, and says what to do.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use super::Outcome;
use super::args::exit;
use super::output::{self, Cell, Paint, Style};
use crate::app::backup::schedule::Status;
use crate::app::control::{self, Ask};
use crate::app::place::Place;
use crate::app::signing::{self, SigningPlace};
use crate::config::{Config, Loaded, Paywall};
use crate::crypto::certs;
use crate::kernel::{Clock, Timestamp};

enum Verdict {
    Good(String),
    Bad(String),
}

pub(super) fn run(loaded: &Loaded, as_json: bool) -> Outcome {
    let config = &loaded.config;
    let place = Place::of(config);
    let checks = [
        ("data file", data_file(&place)),
        ("key folder", key_folder(&place)),
        ("sealing key", sealing_key(&place)),
        ("signing key", signing_key(config)),
        ("server certificate", server_certificate(config, &place)),
        ("free disk", free_disk(&place)),
        ("clock", clock()),
        ("trials", trials(config, &place)),
        ("backups", backups(config, &place)),
    ];
    let healthy = checks.iter().all(|(_, verdict)| matches!(verdict, Verdict::Good(_)));
    if as_json {
        let list: Vec<_> = checks
            .iter()
            .map(|(name, verdict)| match verdict {
                Verdict::Good(text) => json!({ "check": name, "good": true, "detail": text }),
                Verdict::Bad(text) => json!({ "check": name, "good": false, "detail": text }),
            })
            .collect();
        output::to_stdout(&output::json(&json!({ "healthy": healthy, "checks": list, "notes": loaded.notes })))?;
    } else {
        let rows = checks
            .into_iter()
            .map(|(name, verdict)| match verdict {
                Verdict::Good(text) => vec![Cell::painted(Paint::Good, "ok"), Cell::from(name), Cell::from(text)],
                Verdict::Bad(text) => vec![Cell::painted(Paint::Bad, "PROBLEM"), Cell::from(name), Cell::from(text)],
            })
            .collect();
        output::to_stdout(&output::table(Style::stdout(), &["", "check", "what was found, what to do"], rows))?;
        for note in &loaded.notes {
            output::to_stderr(&format!("note: {note}\n"))?;
        }
    }
    Ok(if healthy { exit::DONE } else { exit::FAILED })
}

fn mode(path: &Path) -> Option<u32> {
    Some(std::fs::metadata(path).ok()?.permissions().mode() & 0o777)
}

fn data_file(place: &Place) -> Verdict {
    let shown = place.data.display();
    match mode(&place.data) {
        None => Verdict::Bad(format!("{shown} does not exist; `blockremote init` or the first start makes it")),
        Some(mode) if mode & 0o077 != 0 => Verdict::Bad(format!("{shown} can be read by others; chmod 600 {shown}")),
        Some(_) => Verdict::Good(format!("{shown} is there, for its owner alone")),
    }
}

fn key_folder(place: &Place) -> Verdict {
    let shown = place.certs.display();
    match mode(&place.certs) {
        None => Verdict::Bad(format!("{shown} does not exist; the first start makes it")),
        Some(mode) if mode & 0o077 != 0 => Verdict::Bad(format!("{shown} can be entered by others; chmod 700 {shown}")),
        Some(_) if place.secrets_file().exists() => {
            Verdict::Bad(format!("{} still lies there; read it, then delete it", place.secrets_file().display()))
        }
        Some(_) => Verdict::Good(format!("{shown} is for its owner alone")),
    }
}

fn sealing_key(place: &Place) -> Verdict {
    match place.sealing_key() {
        Ok(Some(_)) => Verdict::Good("it is there".to_owned()),
        Ok(None) => Verdict::Bad("it is missing; without it the data file cannot be opened: bring it back".to_owned()),
        Err(e) => Verdict::Bad(e.to_string()),
    }
}

/// Where the private half is, and whether it is fit; what the data file holds is known only to who opens it.
fn signing_key(config: &Config) -> Verdict {
    let variable = |name: &str| std::env::var(name).ok();
    let found = match signing::outside_keys(config, &variable) {
        Ok(found) => found,
        Err(e) => return Verdict::Bad(e.to_string()),
    };
    let place = match SigningPlace::find(config, &variable) {
        SigningPlace::File(path) => format!("in {}", path.display()),
        SigningPlace::Credential(path) => format!("in the systemd credential {}", path.display()),
        SigningPlace::DataFile => String::new(),
    };
    match found {
        None => Verdict::Good("in the data file, sealed; the appliance makes its own".to_owned()),
        Some(keys) => {
            let next = match keys.next {
                Some(next) => format!("next: {}", next.thumbprint()),
                None => "no next key is announced (tokens.next_key)".to_owned(),
            };
            Verdict::Good(format!("outside the data file, {place}: {}; {next}", keys.signer.kid()))
        }
    }
}

fn server_certificate(config: &Config, place: &Place) -> Verdict {
    let path = config.tls.own_files().map_or_else(|| place.certs.join("server.pem"), |(chain, _)| chain.to_owned());
    let Ok(pem) = std::fs::read_to_string(&path) else {
        return Verdict::Bad(format!("{} cannot be read", path.display()));
    };
    match certs::not_after(&pem) {
        Ok(end) => match certs::days_left(end, Clock::System.now()) {
            0 => Verdict::Bad(format!("it ended at {end}; restart the appliance, or bring a new one")),
            days => Verdict::Good(format!("{days} days left")),
        },
        Err(e) => Verdict::Bad(format!("{}: {e}", path.display())),
    }
}

fn free_disk(place: &Place) -> Verdict {
    const WANTED_BYTES: u64 = 1 << 30;
    let parent = place.data.parent().filter(|p| p.is_dir()).unwrap_or_else(|| Path::new("."));
    match rustix::fs::statvfs(parent) {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let text = format!("{} MiB free at {}", free >> 20, parent.display());
            if free >= WANTED_BYTES {
                Verdict::Good(text)
            } else {
                Verdict::Bad(format!("{text}; make room: 1 GiB at least"))
            }
        }
        Err(e) => Verdict::Bad(format!("{}: {e}", parent.display())),
    }
}

/// A trial that ends unnoticed looks like an outage: devices are refused from one moment to the next.
fn trials(config: &Config, place: &Place) -> Verdict {
    if config.billing.paywall == Paywall::Off {
        return Verdict::Good("no device is ever asked to be paid for (billing.paywall)".to_owned());
    }
    let Ok(Some(answer)) = control::ask(&place.control_socket(), &Ask::Trials) else {
        return Verdict::Good("the appliance is not running; ask again when it is".to_owned());
    };
    let count = |name: &str| answer.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
    let (ending, refused) = (count("ending_soon"), count("refused"));
    if ending + refused == 0 {
        return Verdict::Good("none ends within two days".to_owned());
    }
    Verdict::Bad(format!(
        "{ending} end within two days, {refused} devices are refused already; pay, install a licence (`blockremote admin \
         licence`), or set billing.paywall = \"off\""
    ))
}

/// Backups that are made, kept and tried without anybody looking are those that fail without anybody looking.
fn backups(config: &Config, place: &Place) -> Verdict {
    if config.backup.directory.is_none() {
        return Verdict::Good(
            "the appliance makes none by itself; set backup.directory, or see to it otherwise".to_owned(),
        );
    }
    let status = match control::ask(&place.control_socket(), &Ask::BackupStatus) {
        Ok(Some(answer)) => serde_json::from_value::<Status>(answer).unwrap_or_default(),
        _ => return Verdict::Good("the appliance is not running; ask again when it is".to_owned()),
    };
    let size = std::fs::metadata(&place.data).map_or(0, |m| m.len());
    let live = status.last.as_ref().map_or(size, |(_, made)| made.live_bytes);
    let old = |at: Timestamp| Clock::System.now().since(at) > std::time::Duration::from_secs(86_400);
    match (status.last, status.drilled, status.failed) {
        (_, _, Some((at, why))) => Verdict::Bad(format!("the last try, {at}, failed: {why}")),
        (Some((last, _)), Some((tried, _)), None) if !old(tried) => Verdict::Good(format!(
            "last {last}, restored for trial {tried}; {live} of {size} bytes of the data file live"
        )),
        (Some((last, _)), _, None) => {
            Verdict::Bad(format!("last {last}, none restored for trial within a day; run `blockremote drill`"))
        }
        (None, _, None) => Verdict::Bad("none was made yet; look again in a minute".to_owned()),
    }
}

fn clock() -> Verdict {
    let now = Clock::System.now();
    // When this program was written; a clock before it is certainly wrong.
    const WRITTEN_MS: i64 = 1_767_225_600_000;
    if now.as_millis() < WRITTEN_MS {
        Verdict::Bad(format!("it says {now}; set it, or tokens and certificates will be refused"))
    } else {
        Verdict::Good(now.to_string())
    }
}
