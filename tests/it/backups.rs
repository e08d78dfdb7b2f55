//! A backup is worth what can be restored from it: on an empty machine, from a file and a key, and never by halves.

mod restoring;
mod schedule;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use blockremote::app::backup::archive::{self, Manifest};
use blockremote::app::backup::keep::{Kept, Owner};
use blockremote::app::backup::schedule::{JOB_MAX, Keeper, Parts};
use blockremote::app::backup::status::status;
use blockremote::app::place::Place as Folders;
use blockremote::crypto::SealingKey;
use blockremote::crypto::vault::{PrivateKey, Recipients};
use blockremote::domains::audit::Action;
use blockremote::kernel::{Random, Timestamp, files};
use blockremote::store::backup::{Pace, Summary};
use blockremote::testkit::{Fault, Folder, Server, text};
use serde_json::Value;

use crate::cli::binary::Place;
use crate::common::{DAY, Done, first_tenant};
use crate::flags::{python, run_python};

/// A key for backups: its public half, and the file that holds the private one.
fn key_in(folder: &Path, name: &str) -> Result<(String, String), Fault> {
    let (key, file) = (PrivateKey::generate(), folder.join(name));
    std::fs::write(&file, format!("# for the safe\n{}\n", key.expose().as_str()))?;
    Ok((key.public(), file.display().to_string()))
}

fn json(output: &str) -> Result<Value, Fault> {
    serde_json::from_str(output).map_err(|e| format!("{e}: {output}").into())
}

fn nothing_but(place: &Place, names: &[&str]) -> Done {
    let found = std::fs::read_dir(place.path("data"))?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned()));
    let mut found = found.collect::<Result<Vec<_>, std::io::Error>>()?;
    found.sort();
    assert_eq!(found, names);
    Ok(())
}

/// The backup and the private key are all there is: no data file, no sealing key.
#[test]
fn an_encrypted_backup_brings_an_empty_machine_back() -> Done {
    let (place, said) = Place::set_up();
    place.ends(&["admin", "keys", "rotate"], 0);
    place.ends(&["audit", "checkpoint"], 0);
    let before = json(&place.ends(&["audit", "key", "--json"], 0).0)?;
    let (public, identity) = key_in(&place.path("."), "identity.txt")?;
    let backup = place.path("backup.redb.age").display().to_string();
    place.ends(&["backup", &backup, "--recipient", &public], 0);
    nothing_but(&place, &["blockremote.redb"])?;

    let empty = Place::new();
    let (_, stderr) = empty.ends(&["restore", &backup], 3);
    assert!(stderr.contains("--identity") && !empty.data().exists(), "{stderr}");
    empty.ends(&["restore", &backup, "--identity", &identity], 0);
    let names = |key: &Value| -> Vec<String> {
        let keys = key["keys"].as_array().cloned().unwrap_or_default();
        keys.iter().map(|k| text(k, "origin")).collect()
    };
    let after = json(&empty.ends(&["audit", "key", "--json"], 0).0)?;
    let (old, new) = (names(&before), names(&after));
    assert_eq!((old.len(), new.len(), new.first()), (1, 2, old.first()), "the log goes on under another name");
    empty.ends(&["verify"], 0);
    // What is sealed opens, and who was known is known.
    empty.ends(&["admin", "keys", "rotate"], 0);
    let (users, _) = empty.ends(&["admin", "user", "list"], 0);
    assert!(users.contains(&text(&said["admin"], "username")), "{users}");
    let export = empty.path("export").display().to_string();
    empty.ends(&["audit", "export", &export], 0);
    empty.ends(&["audit", "verify", &export], 0);
    let entries = std::fs::read_dir(&export)?.next().ok_or("no log")??.path().join("tile/entries");
    let bundle = std::fs::read_dir(entries)?.next().ok_or("no bundle")??.path();
    let bundle = if bundle.is_dir() { std::fs::read_dir(bundle)?.next().ok_or("no bundle")??.path() } else { bundle };
    let bundle = String::from_utf8_lossy(&std::fs::read(bundle)?).into_owned();
    assert!(bundle.contains("appliance_restored") && bundle.contains(&format!("{}\\n", old[0])), "{bundle}");

    // A second restore needs to be told twice, and keeps what it replaces.
    empty.ends(&["restore", &backup, "--identity", &identity], 3);
    empty.ends(&["restore", &backup, "--identity", &identity, "--force"], 0);
    nothing_but(&empty, &["blockremote.redb", "blockremote.redb.replaced"])?;
    let again = names(&json(&empty.ends(&["audit", "key", "--json"], 0).0)?);
    assert_ne!(again.last(), new.last(), "two restores of one backup are two logs");
    Ok(())
}

#[test]
fn a_backup_that_is_not_whole_overwrites_nothing_and_says_why() -> Done {
    let (place, _) = Place::set_up();
    let (public, identity) = key_in(&place.path("."), "identity.txt")?;
    let (_, stranger) = key_in(&place.path("."), "stranger.txt")?;
    let backup = place.path("backup.redb.age");
    place.ends(&["backup", &backup.display().to_string(), "--recipient", &public], 0);
    let whole = std::fs::read(&backup)?;
    let (data, key) = (std::fs::read(place.data())?, std::fs::read(place.path("certs/sealing.key"))?);
    let damaged = place.path("damaged").display().to_string();
    let refused = |bytes: &[u8], identity: &str, why: &str| -> Done {
        std::fs::write(&damaged, bytes)?;
        let (_, stderr) = place.ends(&["restore", &damaged, "--identity", identity, "--force"], 3);
        assert!(stderr.contains(why) && stderr.contains("Nothing was changed"), "{why}: {stderr}");
        assert!(std::fs::read(place.data())? == data && std::fs::read(place.path("certs/sealing.key"))? == key);
        nothing_but(&place, &["blockremote.redb"])
    };
    refused(whole.get(..whole.len() / 2).unwrap_or_default(), &identity, "damaged")?;
    refused(&whole, &stranger, "other keys")?;
    for n in [3, 60, 200, whole.len() / 3, whole.len() - 1] {
        let mut flipped = whole.clone();
        flipped.get_mut(n).into_iter().for_each(|byte| *byte ^= 1);
        refused(&flipped, &identity, "")?;
    }
    refused(b"age-encryption.org/v1\n", &identity, "damaged")?;

    // Of a newer version of the appliance.
    let plain = place.path("plain.redb");
    place.ends(&["backup", &plain.display().to_string(), "--unencrypted"], 0);
    let data = std::fs::read(place.data())?;
    let db = redb::Database::open(&plain)?;
    let txn = db.begin_write()?;
    {
        let meta: redb::TableDefinition<'_, &[u8], &[u8]> = redb::TableDefinition::new("meta");
        txn.open_table(meta)?.insert(b"schema_version\0".as_slice(), 99_u64.to_be_bytes().as_slice())?;
    }
    txn.commit()?;
    drop(db);
    let (_, stderr) = place.ends(&["restore", &plain.display().to_string(), "--force"], 3);
    assert!(stderr.contains("schema version 99") && stderr.contains("newer version"), "{stderr}");
    // The same in an envelope that is sound and opens.
    let sealed = place.path("newer.redb.age");
    let summary = Summary { rows: 0, bytes: std::fs::metadata(&plain)?.len() };
    let sealing = SealingKey::from_text(&std::fs::read_to_string(place.path("certs/sealing.key"))?, "the file")?;
    let pace = Pace::full();
    let manifest = Manifest::of(&plain, summary, Vec::new(), &sealing, Timestamp::EPOCH, &pace)?;
    let mut out = Recipients::parse(&[public])?.encrypt(files::create_private(&sealed)?)?;
    manifest.write(&mut out)?;
    archive::pump(std::fs::File::open(&plain)?, &mut out, &pace)?;
    out.finish()?;
    let sealed = sealed.display().to_string();
    let (_, stderr) = place.ends(&["restore", &sealed, "--identity", &identity, "--force"], 3);
    assert!(stderr.contains("schema version 99") && stderr.contains("newer version"), "{stderr}");
    assert!(std::fs::read(place.data())? == data);
    nothing_but(&place, &["blockremote.redb"])
}

#[test]
fn a_compacted_data_file_is_the_same_one_and_smaller() -> Done {
    let (place, _) = Place::set_up();
    for _ in 0..20 {
        place.ends(&["admin", "token", "enroll"], 0);
    }
    let before = json(&place.ends(&["verify", "--json"], 0).0)?;
    let report = json(&place.ends(&["compact", "--json"], 0).0)?;
    let after = json(&place.ends(&["verify", "--json"], 0).0)?;
    assert_eq!((&before["contents"]["rows"], &before["audit"]), (&after["contents"]["rows"], &after["audit"]));
    assert!(report["bytes_after"].as_u64() < report["bytes_before"].as_u64(), "{report}");
    nothing_but(&place, &["blockremote.redb", "blockremote.redb.before-compact"])?;
    let running = place.serve();
    let (_, stderr) = place.ends(&["compact"], 3);
    assert!(stderr.contains("Stop it first"), "{stderr}");
    drop(running);
    Ok(())
}

/// A keeper of our own, so that the test says when.
fn keeper(server: &Server, change: impl FnOnce(&mut blockremote::config::Config)) -> Result<Keeper, Fault> {
    let mut config = server.config().clone();
    change(&mut config);
    let sealing = Folders::of(&config).sealing_key()?.ok_or("no sealing key")?;
    Ok(Keeper::new(&config, Parts { sealing: Arc::new(sealing), ..parts(server) })?)
}

fn parts(server: &Server) -> Parts {
    Parts {
        services: Arc::clone(&server.app().services),
        sealing: Arc::new(SealingKey::generate(&Random::System)),
        clock: server.clock.clone(),
        random: Random::System,
        metrics: None,
        machine: Arc::new(server.machine.clone()),
        strain: Arc::default(),
        job_max: JOB_MAX,
    }
}

fn owner(server: &Server) -> Result<Owner, Fault> {
    Ok(Owner::of(server.app().services.audit.name()?))
}

/// The appliance's own backups, the newest first.
fn backups_in(server: &Server, folder: &Path) -> Result<Vec<Kept>, Fault> {
    Ok(owner(server)?.list(folder, server.clock.now())?)
}

async fn actions(server: &Server) -> Result<Vec<Action>, Fault> {
    let tenant = first_tenant(server).await?;
    let page = server.app().services.audit.list(tenant, None, None, 50).await?;
    Ok(page.entries.iter().map(|e| e.action_taken).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_are_made_tried_and_kept_by_themselves_and_silence_is_an_alarm() -> Done {
    let server = Server::start().await?;
    let folder = Folder::new()?;
    let (public, identity) = key_in(folder.path(), "identity.txt")?;
    let place = folder.path().join("backups");
    std::fs::create_dir(&place)?;
    let keeper = keeper(&server, |c| {
        c.backup.directory = Some(place.clone());
        c.backup.recipients = vec![public];
        c.backup.drill_identity_file = Some(identity.into());
        (c.backup.keep_hourly, c.backup.keep_daily, c.backup.keep_monthly) = (2, 0, 0);
    })?;
    keeper.round().await?;
    let store = server.app().services.store.clone();
    let known = status(&store).await?;
    let drilled = known.drilled.ok_or("nothing was tried")?.1;
    assert!(drilled.rows > 10 && drilled.entries > 0 && drilled.samples > 1, "{drilled:?}");
    keeper.round().await?;
    assert_eq!(backups_in(&server, &place)?.len(), 1, "the next one is not due");
    for _ in 0..3 {
        server.clock.advance(Duration::from_secs(3_600));
        keeper.round().await?;
    }
    assert_eq!(backups_in(&server, &place)?.len(), 2, "the older ones went");
    let done = actions(&server).await?;
    assert!(done.contains(&Action::BackupCreated) && done.contains(&Action::BackupDrillPassed), "{done:?}");

    // From now on every one is damaged, and no new one can be written.
    for kept in backups_in(&server, &place)? {
        let bytes = std::fs::read(&kept.path)?;
        std::fs::write(&kept.path, bytes.get(..bytes.len() / 2).unwrap_or_default())?;
    }
    assert!(keeper.drill().await.is_err_and(|e| e.to_string().contains("damaged")));
    std::fs::rename(&place, folder.path().join("gone"))?;
    for _ in 0..2 {
        server.clock.advance(DAY / 2 + Duration::from_secs(60));
        keeper.round().await?;
        keeper.alarm().await?;
    }
    let done = actions(&server).await?;
    assert_eq!(done.iter().filter(|a| **a == Action::BackupOverdue).count(), 1, "{done:?}");
    assert!(done.contains(&Action::BackupFailed) && done.contains(&Action::BackupDrillFailed), "{done:?}");
    Ok(())
}

/// Made and checked by somebody else's program.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_program_for_age_opens_a_backup() -> Done {
    let Some(python) = python() else { return Ok(()) };
    let server = Server::start().await?;
    let folder = Folder::new()?;
    let (public, identity) = key_in(folder.path(), "identity.txt")?;
    let to = folder.path().join("backup.redb.age");
    let keeper = keeper(&server, |_| {})?;
    keeper.backup(Some(to.clone()), &[public], false).await?;
    let program = "import sys, pyrage\n\
                   backup, key = sys.stdin.read().split()\n\
                   key = [l for l in open(key) if not l.startswith('#')][0].strip()\n\
                   key = pyrage.x25519.Identity.from_str(key)\n\
                   head = pyrage.decrypt(open(backup, 'rb').read(), [key]).split(b'\\n', 2)\n\
                   print(head[0].decode(), head[2][:4] == b'redb')";
    let input = format!("{} {identity}", to.display());
    let said = tokio::task::spawn_blocking(move || run_python(&python, program, &input, &[])).await??;
    assert_eq!(said.trim(), "blockremote-backup/1 True");
    Ok(())
}

/// A file system of a few pages, which goes with its owner.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: PathBuf, bytes: u64) -> Result<Option<Self>, Fault> {
        std::fs::create_dir(&at)?;
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at).status()?;
        if !mounted.success() {
            assert!(std::env::var("CI").is_err(), "no tmpfs could be mounted: run the tests as root");
            eprintln!("skipped: a small disk can only be made by root");
            return Ok(None);
        }
        Ok(Some(Self(at)))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_ends_the_backup_and_nothing_else() -> Done {
    let server = Server::start().await?;
    let folder = Folder::new()?;
    let Some(disk) = SmallDisk::new(folder.path().join("small"), 64 * 1024)? else { return Ok(()) };
    let (public, _) = key_in(folder.path(), "identity.txt")?;
    let keeper = keeper(&server, |_| {})?;
    for recipients in [vec![public], Vec::new()] {
        let made = keeper.backup(Some(disk.0.join("backup")), &recipients, true).await;
        let why = made.err().ok_or("it fitted")?.to_string();
        assert!(why.contains("No space left"), "{why}");
        assert_eq!(std::fs::read_dir(&disk.0)?.count(), 0, "the half file is gone");
    }
    let data = server.config().paths.data.parent().ok_or("no folder")?.to_owned();
    let left = std::fs::read_dir(&data)?.filter_map(Result::ok).map(|e| e.file_name()).collect::<Vec<_>>();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("tmp")), "{left:?}");
    server.enroll("BR-1").await?;
    assert!(actions(&server).await?.contains(&Action::BackupFailed));
    Ok(())
}
