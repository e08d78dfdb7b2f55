//! `doctor`: looks for what commonly goes wrong, and says what to do.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use super::Outcome;
use super::args::exit;
use super::output::{self, Cell, Paint, Style};
use crate::app::backup::due::{self, Overdue, Rules};
use crate::app::backup::status::Status;
use crate::app::control::{self, Ask};
use crate::app::place::{self, Place};
use crate::app::signing::{self, SigningPlace};
use crate::config::{self, Config, Loaded, Paywall};
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
        ("private keys", private_keys(config, &place)),
        ("server certificate", server_certificate(config, &place)),
        ("certificate names", certificate_names(config, &place)),
        ("certificate authority", authority(config, &place)),
        ("free disk", free_disk(config, &place)),
        ("clock", clock(&place)),
        ("open files", open_files(config)),
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

/// What only the appliance may read: whoever has one of these can pass for it.
fn private_keys(config: &Config, place: &Place) -> Verdict {
    let mut keys: Vec<_> = std::fs::read_dir(&place.certs)
        .map(|entries| {
            entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "key"))
        })
        .map(Iterator::collect)
        .unwrap_or_default();
    keys.extend(config.tls.key.clone());
    for key in &keys {
        let shown = key.display();
        match mode(key) {
            None => return Verdict::Bad(format!("{shown} cannot be read; put it back, or correct tls.key")),
            Some(mode) if mode & 0o077 != 0 => {
                return Verdict::Bad(format!("{shown} can be read by others; chmod 600 {shown}"));
            }
            Some(_) => {}
        }
    }
    Verdict::Good(format!("{} are for their owner alone", keys.len()))
}

fn chain(config: &Config, place: &Place) -> Result<(bool, String), Verdict> {
    let own = config.tls.own_files();
    let path = own.map_or_else(|| place.certs.join("server.pem"), |(chain, _)| chain.to_owned());
    match std::fs::read_to_string(&path) {
        Ok(pem) => Ok((own.is_some(), pem)),
        Err(_) => Err(Verdict::Bad(format!("{} cannot be read", path.display()))),
    }
}

/// Days before its end at which a certificate is a problem: one that the appliance renews is renewed long before.
const ENDS_SOON_DAYS: u64 = 14;

fn server_certificate(config: &Config, place: &Place) -> Verdict {
    let (own, pem) = match chain(config, place) {
        Ok(found) => found,
        Err(verdict) => return verdict,
    };
    let renew = if own {
        "put a new one in place of tls.certificate and tls.key, then send SIGHUP"
    } else {
        "the running appliance renews it; if it runs, its log says why it could not"
    };
    match certs::not_after(&pem) {
        Ok(end) => match certs::days_left(end, Clock::System.now()) {
            0 => Verdict::Bad(format!("it ended at {end}; {renew}")),
            days if days < ENDS_SOON_DAYS => Verdict::Bad(format!("it ends in {days} days; {renew}")),
            days => Verdict::Good(format!("{days} days left")),
        },
        Err(e) => Verdict::Bad(e.to_string()),
    }
}

/// Clients refuse a certificate that does not hold the name by which they call.
fn certificate_names(config: &Config, place: &Place) -> Verdict {
    let (own, pem) = match chain(config, place) {
        Ok(found) => found,
        Err(verdict) => return verdict,
    };
    let Ok((names, addresses)) = certs::subjects(&pem) else {
        return Verdict::Bad("its names cannot be read; bring another certificate".to_owned());
    };
    let (wanted_names, wanted_addresses) = place::subjects(config);
    let missing: Vec<String> = if own {
        // Whose names these are was decided elsewhere; only what the configuration promises must be there.
        config.tls.names.iter().map(ToString::to_string).filter(|n| !holds(n, &names, &addresses)).collect()
    } else {
        let ours = wanted_addresses.iter().filter(|a| a.is_ipv4()).map(ToString::to_string);
        wanted_names.into_iter().chain(ours).filter(|n| !holds(n, &names, &addresses)).collect()
    };
    if missing.is_empty() {
        return Verdict::Good(format!("{} names and {} addresses", names.len(), addresses.len()));
    }
    let missing = missing.join(", ");
    let do_now = if own { "bring one that holds them" } else { "send SIGHUP to the appliance, or restart it" };
    Verdict::Bad(format!("it does not hold {missing}: clients that call by it are refused; {do_now}"))
}

fn holds(name: &str, names: &[String], addresses: &[std::net::IpAddr]) -> bool {
    names.iter().any(|n| n == name) || addresses.iter().any(|a| a.to_string() == name)
}

/// Clients trust it for years; making another one means visiting all of them.
fn authority(config: &Config, place: &Place) -> Verdict {
    if config.tls.own_files().is_some() {
        return Verdict::Good("not used: tls.certificate is".to_owned());
    }
    let Ok(pem) = std::fs::read_to_string(place.ca_certificate()) else {
        return Verdict::Bad(format!("{} cannot be read; bring it back", place.ca_certificate().display()));
    };
    match certs::not_after(&pem).map(|end| certs::days_left(end, Clock::System.now())) {
        Ok(days) if days < 365 => Verdict::Bad(format!(
            "it ends in {days} days; plan to give clients another one: move ca.pem and ca.key away, then restart"
        )),
        Ok(days) => Verdict::Good(format!("{} years left", days / 365)),
        Err(e) => Verdict::Bad(e.to_string()),
    }
}

fn free_disk(config: &Config, place: &Place) -> Verdict {
    const WANTED_BYTES: u64 = 1 << 30;
    let parent = place.data.parent().filter(|p| p.is_dir()).unwrap_or_else(|| Path::new("."));
    match rustix::fs::statvfs(parent) {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let text = format!("{} MiB free at {}", free >> 20, parent.display());
            if free < config.machine.disk.read_only_bytes {
                Verdict::Bad(format!(
                    "{text}: below disk.read_only_mib, most changes are refused; make room, it comes back by itself"
                ))
            } else if free >= WANTED_BYTES {
                Verdict::Good(text)
            } else {
                Verdict::Bad(format!("{text}; make room: 1 GiB at least"))
            }
        }
        Err(e) => Verdict::Bad(format!("{}: {e}", parent.display())),
    }
}

/// A connection for each device needs an open file each.
fn open_files(config: &Config) -> Verdict {
    const REST: u64 = 256;
    let wanted = config.http.max_connections as u64 + REST;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    // The appliance takes all that it may; not limited at all reads as nothing.
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    if allowed >= wanted {
        return Verdict::Good(format!("{allowed} allowed here, {wanted} wanted"));
    }
    Verdict::Bad(format!(
        "{allowed} allowed here, http.max_connections wants {wanted}; raise the hard limit (LimitNOFILE= in the unit) or \
         lower http.max_connections"
    ))
}

const BACKUPS: &str = "/var/backups/blockremote";
/// A day, and two hours for a machine that is late.
const BACKUP_AGE_MAX: std::time::Duration = std::time::Duration::from_secs(26 * 3_600);

/// How old the newest backup is that something else than the appliance makes.
fn newest_backup(folder: &Path, now: Timestamp) -> Verdict {
    let shown = folder.display();
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Verdict::Good(format!("none are kept in {shown}; set backup.directory to have them made"));
    };
    let newest = entries.filter_map(|e| written_at(&e.ok()?.path())).max();
    match newest.map(|newest| now.since(newest)) {
        None => Verdict::Bad(format!("there is none in {shown}; make one: blockremote backup {shown}/first.redb")),
        Some(age) if age > BACKUP_AGE_MAX => Verdict::Bad(format!(
            "the newest in {shown} is {} hours old; look why: journalctl -u blockremote-backup",
            age.as_secs() / 3_600
        )),
        Some(age) => Verdict::Good(format!("the newest is {} hours old", age.as_secs() / 3_600)),
    }
}

fn written_at(path: &Path) -> Option<Timestamp> {
    let about = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    let since = about.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp::EPOCH.plus(since))
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
        return newest_backup(Path::new(BACKUPS), Clock::System.now());
    }
    let status = match control::ask(&place.control_socket(), &Ask::BackupStatus) {
        Ok(Some(answer)) => serde_json::from_value::<Status>(answer).unwrap_or_default(),
        _ => return Verdict::Good("the appliance is not running; ask again when it is".to_owned()),
    };
    let size = std::fs::metadata(&place.data).map_or(0, |m| m.len());
    scheduled_backups(&config.backup, &status, size, Clock::System.now())
}

/// How backups stand that the appliance makes by itself.
fn scheduled_backups(settings: &config::Backup, status: &Status, size: u64, now: Timestamp) -> Verdict {
    if let Some(folder) = settings.directory.as_ref().filter(|folder| !can_be_written(folder)) {
        let shown = folder.display();
        return Verdict::Bad(format!(
            "{shown} is no folder that can be written here; make it, for the appliance's account"
        ));
    }
    if let Some((at, why)) = status.failure() {
        return Verdict::Bad(format!("the last try, {at}, failed: {why}"));
    }
    let rules = Rules::of(settings);
    let Some((last, made)) = &status.last else {
        return Verdict::Bad("none was made yet; look again in a minute".to_owned());
    };
    if let Some(overdue) = due::overdue(&rules, &status.marks(None), now) {
        let advice = match overdue {
            Overdue::Backup => "look into the appliance's log, then run `blockremote backup`",
            Overdue::Trial => "run `blockremote drill`",
        };
        return Verdict::Bad(format!("last {last}: {}; {advice}", overdue.words()));
    }
    if due::past(Some(*last), now).is_none() {
        return Verdict::Bad(format!("last {last}, which is in the future: set the clock right; one is made then"));
    }
    let tried = match status.drilled.as_ref().filter(|_| rules.has_trials()) {
        Some((tried, _)) => format!("restored for trial {tried}"),
        None if rules.has_trials() => "none restored for trial yet".to_owned(),
        None => "checked when it was made, none is restored for trial here (backup.drill_identity_file)".to_owned(),
    };
    Verdict::Good(format!("last {last}, {tried}; {} of {size} bytes of the data file live", made.live_bytes))
}

fn can_be_written(folder: &Path) -> bool {
    use rustix::fs::{Access, access};
    folder.is_dir() && access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// A clock that is wrong makes tokens and certificates worthless.
fn clock(place: &Place) -> Verdict {
    let now = Clock::System.now();
    // When this program was written; a clock before it is certainly wrong.
    const WRITTEN_MS: i64 = 1_767_225_600_000;
    const FUTURE: std::time::Duration = std::time::Duration::from_secs(300);
    if now.as_millis() < WRITTEN_MS {
        return Verdict::Bad(format!("it says {now}; set it, or tokens and certificates will be refused"));
    }
    if let Some(written) = written_at(&place.data).filter(|written| *written > now.plus(FUTURE)) {
        return Verdict::Bad(format!(
            "it says {now}, but the data file was written at {written}: it was set back, or was wrong then; set it right"
        ));
    }
    let synchronised = Path::new("/run/systemd/timesync/synchronized").exists();
    Verdict::Good(format!(
        "{now}{}",
        if synchronised { ", synchronised" } else { "; see that something keeps it right (NTP)" }
    ))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

    fn is_good(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Good(_))
    }

    #[test]
    fn backups_are_judged_by_the_newest_file() {
        let folder = tempfile::tempdir().unwrap();
        let now = Clock::System.now();
        assert!(is_good(&newest_backup(&folder.path().join("absent"), now)), "nobody said that there must be any");
        assert!(!is_good(&newest_backup(folder.path(), now)), "a folder without any");
        std::fs::write(folder.path().join("a"), "x").unwrap();
        assert!(is_good(&newest_backup(folder.path(), now)));
        assert!(!is_good(&newest_backup(folder.path(), now.plus(2 * BACKUP_AGE_MAX))), "an old one");
    }

    #[test]
    fn scheduled_backups_are_judged_by_what_is_remembered_and_not_by_a_clock_that_was_wrong() {
        use crate::app::backup::Made;
        use crate::app::backup::drill::Drilled;
        let folder = tempfile::tempdir().unwrap();
        let now = Clock::System.now();
        let ago = |hours: u64| now.minus(std::time::Duration::from_secs(hours * 3_600));
        let file = folder.path().join("x.redb.age");
        let made = Made { file: file.clone(), rows: 1, bytes: 1, live_bytes: 1, encrypted: true, took_ms: 1 };
        let tried = Drilled {
            file,
            made_at: None,
            rows: 1,
            entries: 1,
            checkpoints: 1,
            samples: 1,
            decisions: 0,
            same: 0,
            took_ms: 1,
        };
        let status = |last: Timestamp, drilled: Option<Timestamp>| Status {
            since: Some(ago(1_000)),
            last: Some((last, made.clone())),
            drilled: drilled.map(|at| (at, tried.clone())),
            ..Status::default()
        };
        let mut settings = Config::default().backup;
        settings.directory = Some(folder.path().to_owned());
        (settings.every, settings.drill_every) = (SECOND * 3_600, SECOND * 86_400);
        let failed = Status { drill_failed: Some((now, "it is damaged".to_owned())), ..status(now, Some(now)) };
        let year_ahead = now.plus(SECOND * (365 * 86_400));
        for (what, status, good, words) in [
            ("all is well", status(now, Some(ago(2))), true, "restored for trial"),
            ("none yet", Status::default(), false, "none was made yet"),
            ("its trial failed", failed, false, "it is damaged"),
            ("no backup since yesterday", status(ago(25), Some(now)), false, "no backup was made"),
            ("no trial since yesterday", status(now, Some(ago(25))), false, "blockremote drill"),
            ("made in the future", status(year_ahead, Some(now)), false, "no backup was made"),
        ] {
            let verdict = scheduled_backups(&settings, &status, 1, now);
            let (Verdict::Good(said) | Verdict::Bad(said)) = &verdict;
            assert!(is_good(&verdict) == good && said.contains(words), "{what}: {said}");
        }
        settings.recipients = vec!["age1".to_owned()];
        let (Verdict::Good(said) | Verdict::Bad(said)) = scheduled_backups(&settings, &status(now, None), 1, now);
        assert!(said.contains("checked when it was made") && !said.contains("restored for trial 2"), "{said}");
        settings.directory = Some(folder.path().join("absent"));
        let verdict = scheduled_backups(&settings, &status(now, None), 1, now);
        assert!(!is_good(&verdict), "a folder that is not there");
    }

    #[test]
    fn a_key_that_others_can_read_and_a_missing_one_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.paths.certs = folder.path().to_owned();
        let place = Place::of(&config);
        let key = folder.path().join("ca.key");
        std::fs::write(&key, "x").unwrap();
        for (bits, good) in [(0o600, true), (0o640, false), (0o604, false)] {
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(bits)).unwrap();
            assert_eq!(is_good(&private_keys(&config, &place)), good, "{bits:o}");
        }
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        config.tls.key = Some(folder.path().join("absent.pem"));
        assert!(!is_good(&private_keys(&config, &place)));
    }

    #[test]
    fn more_connections_than_open_files_are_a_problem() {
        let mut config = Config::default();
        config.http.max_connections = 1;
        assert!(is_good(&open_files(&config)));
        config.http.max_connections = usize::MAX - 1_000;
        let limited = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.is_some();
        assert_eq!(is_good(&open_files(&config)), !limited);
    }
}
