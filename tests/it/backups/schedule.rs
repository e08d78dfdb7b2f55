//! What the appliance does for its backups by itself, and what it says when it cannot: under clocks that are wrong, disks
//! that are full and folders that never answer.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use blockremote::app::backup::schedule::{Keeper, Parts};
use blockremote::app::backup::status::{Status, status};
use blockremote::app::place::Place as Folders;
use blockremote::crypto::SealingKey;
use blockremote::domains::audit::Action;
use blockremote::kernel::{Random, Timestamp};
use blockremote::observe::{Metrics, Strain, strain};
use blockremote::store::tables::{DEVICES, Key};
use blockremote::testkit::{Fault, Folder, Server};
use serde_json::Value;

use super::{actions, backups_in, keeper, key_in, owner, parts};
use crate::cli::binary::Place;
use crate::common::{DAY, Done, first_tenant};

const HOUR: Duration = Duration::from_secs(3_600);

/// An appliance, a folder for its backups, a key for trials.
struct Site {
    server: Server,
    folder: Folder,
    backups: PathBuf,
    public: String,
    identity: PathBuf,
}

impl Site {
    async fn new() -> Result<Self, Fault> {
        let (server, folder) = (Server::start().await?, Folder::new()?);
        let (public, identity) = key_in(folder.path(), "identity.txt")?;
        let backups = folder.path().join("backups");
        std::fs::create_dir(&backups)?;
        Ok(Self { server, folder, backups, public, identity: identity.into() })
    }

    /// Backups every hour, trials every day, of which the newest alone is kept.
    fn keeper(&self) -> Result<Keeper, Fault> {
        self.keeper_with(self.identity.clone(), parts(&self.server))
    }

    fn keeper_with(&self, identity: PathBuf, parts: Parts) -> Result<Keeper, Fault> {
        let sealing = Folders::of(self.server.config()).sealing_key()?.ok_or("no sealing key")?;
        self.keeper_of(identity, Parts { sealing: Arc::new(sealing), ..parts })
    }

    fn keeper_of(&self, identity: PathBuf, parts: Parts) -> Result<Keeper, Fault> {
        let mut config = self.server.config().clone();
        config.backup.directory = Some(self.backups.clone());
        config.backup.recipients = vec![self.public.clone()];
        config.backup.drill_identity_file = Some(identity);
        (config.backup.keep_hourly, config.backup.keep_daily, config.backup.keep_monthly) = (1, 0, 0);
        Ok(Keeper::new(&config, parts)?)
    }

    async fn status(&self) -> Result<Status, Fault> {
        Ok(status(&self.server.app().services.store).await?)
    }

    async fn alarms(&self) -> Result<usize, Fault> {
        Ok(actions(&self.server).await?.iter().filter(|a| **a == Action::BackupOverdue).count())
    }
}

/// The box boots with its clock in 2036, makes and tries a backup, and is set right. From then on it must be as if that had
/// never been: neither what is remembered nor the file of 2036 may be in the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_years_ahead_for_an_hour_stops_neither_backups_nor_trials_nor_the_alarm() -> Done {
    let site = Site::new().await?;
    let (clock, today) = (&site.server.clock, site.server.clock.now());
    clock.set("2036-01-01T00:00:00Z".parse()?);
    site.keeper()?.round().await?;
    let of_2036 = backups_in(&site.server, &site.backups)?;
    assert_eq!(of_2036.len(), 1);

    clock.set(today);
    let keeper = site.keeper()?;
    keeper.round().await?;
    let found = site.status().await?;
    assert!(found.last.as_ref().is_some_and(|(at, _)| *at == today), "a backup was due: {found:?}");
    let tried = found.drilled.ok_or("no trial")?;
    assert!(tried.0 == today && tried.1.file != of_2036[0].path, "the trial was of the new one: {tried:?}");
    clock.advance(HOUR);
    keeper.round().await?;
    let kept = backups_in(&site.server, &site.backups)?;
    assert_eq!(kept.len(), 1, "one hour is kept");
    assert!(kept[0].made_at >= today.plus(HOUR - Duration::from_secs(1)), "and it is this one: {kept:?}");
    assert!(of_2036[0].path.exists(), "nobody removes a backup because of a wrong clock");

    // And nothing more can be made: that is said after a day, not after ten years.
    std::fs::rename(&site.backups, site.folder.path().join("gone"))?;
    clock.advance(DAY + HOUR);
    keeper.round().await?;
    keeper.alarm().await?;
    assert_eq!(site.alarms().await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumped_ahead_and_back_hides_nothing() -> Done {
    let site = Site::new().await?;
    let (clock, today) = (&site.server.clock, site.server.clock.now());
    let keeper = site.keeper()?;
    keeper.round().await?;
    clock.set("2036-01-01T00:00:00Z".parse()?);
    keeper.alarm().await?;
    assert_eq!(site.alarms().await?, 1, "ten years without a backup, as far as it knows");
    clock.set(today.plus(HOUR));
    keeper.round().await?;
    assert_eq!(site.status().await?.last.map(|(at, _)| at), Some(today.plus(HOUR)));
    clock.advance(2 * DAY);
    keeper.alarm().await?;
    assert_eq!(site.alarms().await?, 2, "the alarm of 2036 does not silence this one");
    Ok(())
}

/// As a file of another machine that stopped answering: whoever opens it waits.
fn never_answers(path: PathBuf) -> Result<PathBuf, Fault> {
    let made = Command::new("mkfifo").arg(&path).status()?;
    assert!(made.success());
    Ok(path)
}

/// Lets go whoever waits.
fn answers(path: &std::path::Path) -> Done {
    std::fs::OpenOptions::new().write(true).open(path)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_alarm_is_raised_while_what_it_watches_hangs() -> Done {
    let site = Site::new().await?;
    site.keeper()?.round().await?;
    let silent = never_answers(site.folder.path().join("silent.txt"))?;
    let metrics = Arc::new(Metrics::new(&[]));
    let with_metrics = Parts { metrics: Some(Arc::clone(&metrics)), ..parts(&site.server) };
    let keeper = Arc::new(site.keeper_with(silent.clone(), with_metrics)?);
    let hanging = tokio::spawn({
        let keeper = Arc::clone(&keeper);
        async move { keeper.drill().await }
    });
    site.server.clock.advance(DAY + HOUR);
    let running = tokio::spawn(Arc::clone(&keeper).run());
    let mut raised = false;
    for _ in 0..200 {
        raised = metrics.backup().overdue && site.alarms().await? == 1;
        if raised {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(raised && !hanging.is_finished(), "no alarm while a trial hangs");
    running.abort();
    let _ = running.await;
    answers(&silent)?;
    assert!(hanging.await?.is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hangs_is_given_up_and_the_next_backup_has_its_turn() -> Done {
    let site = Site::new().await?;
    let silent = never_answers(site.folder.path().join("silent.txt"))?;
    let impatient = Parts { job_max: Duration::from_millis(300), ..parts(&site.server) };
    let keeper = site.keeper_with(silent.clone(), impatient)?;
    let why = keeper.drill().await.err().ok_or("it answered")?.to_string();
    assert!(why.contains("given up"), "{why}");
    assert!(site.status().await?.drill_failed.is_some_and(|(_, known)| known == why), "and it is remembered");
    answers(&silent)?;
    let patient = site.keeper()?;
    patient.backup(None, &[], false).await?;
    assert_eq!(backups_in(&site.server, &site.backups)?.len(), 1);
    Ok(())
}

/// There is room to restore one and no room to make one: every trial passes, and no backup is made any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trials_of_an_old_backup_do_not_hide_that_none_is_made_any_more() -> Done {
    let site = Site::new().await?;
    let (keeper, begun) = (site.keeper()?, site.server.clock.now());
    keeper.round().await?;
    let made = backups_in(&site.server, &site.backups)?;
    let bytes = std::fs::metadata(&made[0].path)?.len();
    site.server.machine.set_disk_free_bytes(site.server.config().machine.disk.read_only_bytes + bytes + bytes / 16);
    for _ in 0..4 {
        site.server.clock.advance(DAY / 2);
        keeper.round().await?;
        keeper.alarm().await?;
    }
    let done = actions(&site.server).await?;
    let count = |action: Action| done.iter().filter(|a| **a == action).count();
    assert!(count(Action::BackupFailed) >= 4 && count(Action::BackupDrillPassed) >= 2, "{done:?}");
    assert!(count(Action::BackupOverdue) >= 1, "two days without a backup: {done:?}");
    let found = site.status().await?;
    let why = found.failed.ok_or("the failure was forgotten because of a trial")?.1;
    assert!(why.contains("MiB free"), "{why}");
    assert_eq!(found.drilled.map(|(at, _)| at), Some(begun), "a trial of what is too old says nothing of today");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_disk_that_is_nearly_full_no_copy_is_begun_and_one_under_way_ends() -> Done {
    let site = Site::new().await?;
    let strain = Arc::new(Strain::default());
    let short = Parts { strain: Arc::clone(&strain), ..parts(&site.server) };
    let keeper = site.keeper_with(site.identity.clone(), short)?;
    keeper.backup(None, &[], false).await?;
    site.server.clock.advance(HOUR);
    strain.set_disk(strain::Disk::ReadOnly);
    for why in [keeper.backup(None, &[], false).await.err(), keeper.drill().await.err()] {
        let why = why.ok_or("it was begun")?.to_string();
        assert!(why.contains("nearly full"), "{why}");
    }
    let done = actions(&site.server).await?;
    assert!(done.contains(&Action::BackupFailed) && done.contains(&Action::BackupDrillFailed), "{done:?}");
    strain.set_disk(strain::Disk::Ample);
    site.server.machine.set_disk_free_bytes(1 << 20);
    let why = keeper.backup(None, &[], false).await.err().ok_or("it was begun")?.to_string();
    assert!(why.contains("1 MiB free") && why.contains("512 MiB that are kept"), "{why}");
    site.server.machine.set_disk_free_bytes(u64::MAX);
    keeper.backup(None, &[], false).await?;
    Ok(())
}

/// After a power cut the half of a backup has a name that no later one has, and would lie there for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_power_cut_left_behind_is_removed_before_the_next_backup_and_at_the_start() -> Done {
    let mut site = Site::new().await?;
    let (earlier, own) = (site.server.clock.now().minus(HOUR), owner(&site.server)?);
    let half = site.backups.join(format!("{}.part", own.file_name(earlier, true)));
    let others = site.backups.join("blockremote-ffffffff-20261121T183000Z.redb.age.part");
    std::fs::write(&half, "half")?;
    std::fs::write(&others, "another appliance is writing this")?;
    // Even when the backup fails: it may be the half one that took the room.
    site.server.machine.set_disk_free_bytes(0);
    let keeper = site.keeper()?;
    assert!(keeper.backup(None, &[], false).await.is_err());
    assert!(!half.exists() && others.exists());
    drop(keeper);

    site.server.machine.set_disk_free_bytes(u64::MAX);
    let data = site.server.config().paths.data.display().to_string();
    let scratch: Vec<PathBuf> =
        [".backup.tmp", ".drill.tmp", ".part"].iter().map(|ending| format!("{data}{ending}").into()).collect();
    for file in &scratch {
        std::fs::write(file, "names, addresses and readings in clear")?;
    }
    site.server.restart().await?;
    assert!(scratch.iter().all(|file| !file.exists()), "{scratch:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_appliances_in_one_folder_keep_their_own_backups() -> Done {
    let (here, there) = (Site::new().await?, Site::new().await?);
    let there = Site { backups: here.backups.clone(), ..there };
    let (one, two) = (here.keeper()?, there.keeper()?);
    for _ in 0..3 {
        one.round().await?;
        two.round().await?;
        here.server.clock.advance(HOUR);
        there.server.clock.advance(HOUR);
    }
    assert_eq!(backups_in(&here.server, &here.backups)?.len(), 1);
    assert_eq!(backups_in(&there.server, &here.backups)?.len(), 1);
    assert_eq!(std::fs::read_dir(&here.backups)?.count(), 2, "neither removed the other's last one");
    // Each tries its own: with the other's it could not even open it.
    let (mine, theirs) = (one.drill().await?, two.drill().await?);
    assert_ne!(mine.file, theirs.file);
    Ok(())
}

/// Where no private key lies on the appliance nothing is restored for trial, and nothing may say so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_cannot_be_opened_here_counts_as_checked_and_not_as_restored() -> Done {
    let site = Site::new().await?;
    let metrics = Arc::new(Metrics::new(&[]));
    let mut config = site.server.config().clone();
    config.backup.directory = Some(site.backups.clone());
    config.backup.recipients = vec![site.public.clone()];
    let parts = Parts { metrics: Some(Arc::clone(&metrics)), ..parts(&site.server) };
    let keeper = Keeper::new(&config, parts)?;
    for _ in 0..30 {
        site.server.clock.advance(HOUR);
        keeper.round().await?;
        keeper.alarm().await?;
    }
    assert!(site.status().await?.drilled.is_none());
    let known = metrics.backup();
    assert!(!known.tried && known.drilled_s == 0 && known.last_s > 0, "{known:?}");
    assert!(!known.overdue && site.alarms().await? == 0, "backups are made, and no more is promised");
    Ok(())
}

/// A trial asks what an appliance would ask, and each question can be answered wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_recomputes_decisions_opens_secrets_and_reads_rows_as_what_they_are() -> Done {
    let site = Site::new().await?;
    let mut phone = site.server.enroll("BR-1").await?;
    for _ in 0..3 {
        phone.beat(&phone.calm()).await?.success()?;
        site.server.clock.advance(Duration::from_secs(5));
    }
    let answer: Value = phone.beat(&phone.hostile()).await?.json()?;
    assert_eq!(answer["decision"], "block");
    let keeper = site.keeper()?;
    keeper.backup(None, &[], false).await?;
    let tried = keeper.drill().await?;
    assert!(tried.decisions > 0 && tried.same == tried.decisions, "{tried:?}");

    // The key that goes with it is another one than the one that sealed it.
    site.server.clock.advance(HOUR);
    let stranger = Parts { sealing: Arc::new(SealingKey::generate(&Random::System)), ..parts(&site.server) };
    let careless = site.keeper_of(site.identity.clone(), stranger)?;
    careless.backup(None, &[], false).await?;
    let why = careless.drill().await.err().ok_or("a key that opens nothing passed")?.to_string();
    assert!(why.contains("key"), "{why}");

    // A row that no appliance could read.
    site.server.clock.advance(HOUR);
    let place = Key::new().bytes(first_tenant(&site.server).await?.to_bytes()).text("BR-9");
    site.server.app().services.store.write(move |tx| tx.put_raw(DEVICES, &place, b"\x01{}")).await?;
    keeper.backup(None, &[], false).await?;
    let why = keeper.drill().await.err().ok_or("a device that nobody can read passed")?.to_string();
    assert!(why.contains("does not decode"), "{why}");
    Ok(())
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..300 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(holds(), "{what}");
}

/// The real program gives up writing outside of its folders when it starts; the folder of backups is one of them, wherever
/// it is. And one that is given from the working directory on is that folder, too: its backups count.
#[test]
fn a_folder_of_backups_is_used_wherever_it_lies_and_however_it_is_written() -> Done {
    let elsewhere = Folder::new()?;
    for (name, relative) in [(elsewhere.path().to_owned(), false), (PathBuf::from("./backups"), true)] {
        let (place, _) = Place::set_up();
        let folder = if relative { place.path("backups") } else { name.clone() };
        std::fs::create_dir_all(&folder)?;
        let settings = format!("[backup]\ndirectory = {:?}\nunencrypted = true\n", name.display().to_string());
        std::fs::write(place.path("blockremote.toml"), settings)?;
        let running = place.serve();
        let count = || std::fs::read_dir(&folder).map_or(0, |entries| entries.filter_map(Result::ok).count());
        let counted = || place.run(&["doctor", "--json"]).stdout;
        wait_for("a backup is made", || count() == 1);
        wait_for("and counts", || {
            let said: Value = serde_json::from_slice(&counted()).unwrap_or_default();
            let checks = said["checks"].as_array().cloned().unwrap_or_default();
            checks.iter().any(|c| c["check"] == "backups" && c["good"] == true)
        });
        let log = std::fs::read_to_string(place.path("serve.log"))?;
        assert!(!log.contains("no backup could be made"), "{log}");
        assert_eq!(running.terminate().1, Some(0));
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_older_program_remembered_of_its_backups_is_still_read() -> Done {
    let site = Site::new().await?;
    let now: Timestamp = site.server.clock.now();
    let made = r#"{"file":"/b/x.redb.age","rows":1,"bytes":2,"live_bytes":3,"encrypted":true,"took_ms":4}"#;
    let tried = r#"{"file":"/b/x.redb.age","rows":1,"entries":2,"checkpoints":3,"samples":4,"took_ms":5}"#;
    let row = format!(
        r#"{{"since":"{now}","last":["{now}",{made}],"drilled":["{now}",{tried}],"failed":null,"alarmed":null}}"#
    );
    let bytes = [&[1], row.as_bytes()].concat();
    let place = Key::new().text("backup_status");
    let write = move |tx: &mut blockremote::store::Tx<'_>| tx.put_raw(blockremote::store::tables::META, &place, &bytes);
    site.server.app().services.store.write(write).await?;
    let found = site.status().await?;
    assert_eq!((found.last.map(|(at, _)| at), found.drilled.map(|(at, _)| at)), (Some(now), Some(now)));
    let keeper = keeper(&site.server, |c| c.backup.directory = Some(site.backups.clone()));
    assert!(keeper.is_err(), "without recipients nothing is written");
    Ok(())
}
