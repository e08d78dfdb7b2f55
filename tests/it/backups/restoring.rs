//! What a restore leaves behind: an appliance that starts, devices that obey it, and no write that anybody acknowledged
//! and nobody has.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blockremote::app::backup::restore::{self, Order};
use blockremote::app::place::Place as Folders;
use blockremote::client::frame::{CommandFrame, Incoming};
use blockremote::client::{CommandVerifier, Genuine};
use blockremote::crypto::JwkSet;
use blockremote::crypto::vault::PrivateKey;
use blockremote::kernel::Clock;
use blockremote::store::tables::Key;
use blockremote::store::{Options, Store};
use blockremote::testkit::{Device, Fault, Folder, Server, text};
use serde_json::json;

use super::{keeper, key_in, nothing_but};
use crate::cli::binary::Place;
use crate::common::{Done, first_tenant};
use crate::killswitch::raw::Raw;

/// A device with its memory of commands, which no restore of the appliance rewinds.
struct Phone {
    id: String,
    token: String,
    verifier: CommandVerifier,
}

impl Phone {
    fn of(device: &Device) -> Result<Self, Fault> {
        let verifier = CommandVerifier::new(device.id.parse()?);
        Ok(Self { id: device.id.clone(), token: device.access_token.clone(), verifier })
    }

    async fn connect(&self, server: &Server) -> Result<Raw, Fault> {
        let mut socket = Raw::with_token(&server.endpoint()?, &self.token).await;
        assert_eq!(text(&socket.json().await, "action"), "AUTH_OK");
        Ok(socket)
    }

    /// What the device makes of the next command on its socket.
    async fn judges(&mut self, server: &Server, socket: &mut Raw) -> Result<(String, Genuine, CommandFrame), Fault> {
        let keys = server.client()?.get("/.well-known/jwks.json", None).await?;
        let keys = JwkSet::parse(keys.success()?)?;
        let Incoming::Command(frame) = Incoming::parse(&socket.text().await)? else { return Err("no command".into()) };
        let judged = self.verifier.verify(&frame, &keys, server.clock.now());
        let judged =
            judged.map_err(|e| format!("{} number {} of {}: {e}", frame.action.as_str(), frame.seq, self.id))?;
        Ok((frame.action.as_str().to_owned(), judged, *frame))
    }
}

async fn order(server: &Server, device: &str, action: &str) -> Done {
    let path = format!("/v1/devices/{device}/commands");
    let body = json!({ "action": action, "reason": "a test" });
    let token = server.admin_token().await?;
    server.client()?.post(&path, Some(&token), &body).await?.success()?;
    Ok(())
}

async fn status_of(server: &Server, device: &str, command: &str) -> Result<String, Fault> {
    let token = server.admin_token().await?;
    let path = format!("/v1/devices/{device}/commands/{command}");
    Ok(text(&server.client()?.get(&path, Some(&token)).await?.json()?, "status"))
}

/// Stops the appliance, restores the backup in place, and starts it again.
async fn go_back(server: &mut Server, backup: &Path) -> Done {
    server.stop().await;
    let (place, from, clock) = (Folders::of(server.config()), backup.to_owned(), server.clock.clone());
    let restored = move || -> Result<(), String> {
        for _ in 0..200 {
            let order = Order { from: &from, identity: None, sealing_key_file: None, force: true, clock: &clock };
            match restore::restore(&place, &order) {
                Ok(_) => return Ok(()),
                // What the stopped one left behind in this process may hold the file a moment longer.
                Err(e) if e.to_string().contains("in use") => std::thread::sleep(Duration::from_millis(10)),
                Err(e) => return Err(e.to_string()),
            }
        }
        Err("the data file stayed in use".to_owned())
    };
    tokio::task::spawn_blocking(restored).await??;
    server.restart().await
}

/// A backup does not know what devices were sent since. A lock that goes out under a number which the device has seen is
/// refused by it, silently, until the numbers have caught up: the kill switch would be dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restore_devices_obey_as_before() -> Done {
    let mut server = Server::start().await?;
    let folder = Folder::new()?;
    let mut old = Phone::of(&server.enroll("BR-1").await?)?;
    let mut socket = old.connect(&server).await?;
    for action in ["FORCE_OVERLAY", "LOCK_SYSTEM", "UNLOCK"] {
        order(&server, &old.id, action).await?;
        assert_eq!(old.judges(&server, &mut socket).await?.1, Genuine::New);
    }
    let backup = folder.path().join("backup.redb");
    keeper(&server, |_| {})?.backup(Some(backup.clone()), &[], true).await?;

    // What the backup does not know: more commands, and a device that enrolled since.
    let mut newer = Phone::of(&server.enroll("BR-2").await?)?;
    let mut other = newer.connect(&server).await?;
    for action in ["LOCK_SYSTEM", "UNLOCK", "LOCK_SYSTEM", "UNLOCK"] {
        order(&server, &old.id, action).await?;
        assert_eq!(old.judges(&server, &mut socket).await?.1, Genuine::New);
        order(&server, &newer.id, action).await?;
        assert_eq!(newer.judges(&server, &mut other).await?.1, Genuine::New);
    }
    drop((socket, other));

    // Twice from the same backup: the second time nothing on the box knows of the first.
    for again in [false, true] {
        if again {
            std::fs::remove_file(format!("{}.replaced", server.config().paths.data.display()))?;
            server.stop().await;
            server.clock.advance(Duration::from_secs(60));
            std::fs::write(&server.config().paths.data, "damaged: nothing can be read of it")?;
        }
        go_back(&mut server, &backup).await?;
        let mut socket = old.connect(&server).await?;
        for known in ["FORCE_OVERLAY", "LOCK_SYSTEM", "UNLOCK"] {
            let (action, judged, _) = old.judges(&server, &mut socket).await?;
            assert_eq!((action.as_str(), judged), (known, Genuine::Redelivered), "what was open is sent again");
        }
        order(&server, &old.id, "CRITICAL_LOCK").await?;
        let (action, judged, frame) = old.judges(&server, &mut socket).await?;
        assert_eq!((action.as_str(), judged), ("CRITICAL_LOCK", Genuine::New), "the lock is obeyed");
        assert!(frame.seq < 1 << 53, "every reader of JSON can hold it: {}", frame.seq);
        // The gap in the numbers costs nobody anything.
        socket.ack(&frame.command_id.to_string(), "enforced").await;
        let mut status = String::new();
        for _ in 0..200 {
            status = status_of(&server, &old.id, &frame.command_id.to_string()).await?;
            if status == "enforced" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(status, "enforced");
        order(&server, &old.id, "UNLOCK").await?;
        assert_eq!(old.judges(&server, &mut socket).await?.1, Genuine::New);

        newer.token = server.enroll("BR-2").await?.access_token;
        let mut other = newer.connect(&server).await?;
        order(&server, &newer.id, "LOCK_SYSTEM").await?;
        assert_eq!(newer.judges(&server, &mut other).await?.1, Genuine::New, "it enrolled anew under its old name");
    }
    Ok(())
}

/// A restore takes a while. Who begins to use the old file meanwhile would go on writing to what is no data file any more.
#[test]
fn a_restore_holds_the_data_file_to_its_end() -> Done {
    let (place, _) = Place::set_up();
    let backup = place.path("backup.redb");
    place.ends(&["backup", &backup.display().to_string(), "--unencrypted"], 0);
    // The restore comes to read its backup, and waits: it is a pipe that nobody writes to yet.
    let pipe = place.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status()?.success());
    let config = blockremote::config::Config {
        paths: blockremote::config::Paths { data: place.data(), certs: place.path("certs"), sealing_key: None },
        ..Default::default()
    };
    let restoring = {
        let pipe = pipe.clone();
        std::thread::spawn(move || {
            let order =
                Order { from: &pipe, identity: None, sealing_key_file: None, force: true, clock: &Clock::System };
            restore::restore(&Folders::of(&config), &order).map_err(|e| e.to_string())
        })
    };
    // A writer finds the pipe open only once the restore has come to it.
    let head = std::fs::OpenOptions::new().write(true).open(&pipe)?;
    let refused = Store::open(&place.data(), Options::default(), false).err().ok_or("it was not held")?;
    assert!(refused.to_string().contains("in use"), "{refused}");
    let (_, stderr) = place.ends(&["serve"], 1);
    assert!(stderr.contains("in use"), "{stderr}");
    drop(head);
    // Whatever it makes of the empty pipe, the second reading must not wait for ever.
    for _ in 0..500 {
        if restoring.is_finished() {
            break;
        }
        let nonblocking = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
        let _ = rustix::fs::open(&pipe, nonblocking, rustix::fs::Mode::empty());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(restoring.join().map_err(|_| "a defect")?.is_err(), "an empty pipe is no backup");
    Ok(())
}

/// A folder laid out as the package lays it out: settings and the key's source in one place, state in another.
struct Packaged {
    place: Place,
}

impl Packaged {
    fn new(key: &[u8]) -> Result<Self, Fault> {
        let place = Place::new();
        for folder in ["etc", "state", "state/data", "state/certs", "credentials"] {
            std::fs::create_dir(place.path(folder))?;
        }
        let settings = format!(
            "data = {:?}\ncerts = {:?}\n",
            place.path("state/data/blockremote.redb").display().to_string(),
            place.path("state/certs").display().to_string()
        );
        std::fs::write(place.path("etc/config.toml"), settings)?;
        std::fs::write(place.path("etc/sealing.key"), key)?;
        std::fs::set_permissions(place.path("etc/sealing.key"), std::fs::Permissions::from_mode(0o400))?;
        Ok(Self { place })
    }

    /// As root says it in a shell: without the service's credential.
    fn shell(&self, args: &[&str], code: i32) -> (String, String) {
        let config = self.place.path("etc/config.toml").display().to_string();
        self.place.ends(&[&["--config", &config], args].concat(), code)
    }

    /// As the service has it: the key is a credential.
    fn service(&self, args: &[&str], code: i32) -> Result<String, Fault> {
        let credential = self.place.path("credentials/sealing-key");
        let _ = std::fs::remove_file(&credential);
        std::fs::copy(self.place.path("etc/sealing.key"), &credential)?;
        let config = self.place.path("etc/config.toml").display().to_string();
        let mut command = self.place.command(&[&["--config", &config], args].concat());
        let output = command.env("CREDENTIALS_DIRECTORY", self.place.path("credentials")).output()?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        Ok(said)
    }

    fn key(&self) -> Result<Vec<u8>, Fault> {
        Ok(std::fs::read(self.place.path("etc/sealing.key"))?)
    }
}

/// The commands of the documentation, said in root's shell as it says, end with an appliance that starts, on the machine
/// that the backup is of and on a new one; and with no second copy of the key in the service's own folders.
#[test]
fn a_restore_of_a_packaged_appliance_ends_with_one_that_starts() -> Done {
    let old = Packaged::new(&[7; 32])?;
    old.service(&["init", "--json"], 0)?;
    let (public, identity) = key_in(&old.place.path("."), "identity.txt")?;
    let backup = old.place.path("backup.redb.age").display().to_string();
    old.service(&["backup", &backup, "--recipient", &public], 0)?;

    // The same machine: the key is where the service takes it from, and nowhere else.
    old.shell(&["restore", &backup, "--identity", &identity, "--force"], 0);
    assert!(!old.place.path("state/certs/sealing.key").exists(), "a copy of the key in the service's reach");
    assert_eq!(old.key()?, [7; 32]);
    old.service(&["admin", "keys", "rotate"], 0)?;

    // A new machine, where the package has made another key and the first start another data file.
    let new = Packaged::new(&[8; 32])?;
    new.service(&["init", "--json"], 0)?;
    let (state, data) = (new.place.path("state/data"), new.place.path("state/data/blockremote.redb"));
    let root = rustix::process::geteuid().is_root();
    if root {
        std::os::unix::fs::chown(&state, Some(54_321), Some(54_321))?;
    }
    let before = std::fs::read(&data)?;
    let (_, stderr) = new.shell(&["restore", &backup, "--identity", &identity], 3);
    assert!(stderr.contains("--force"), "{stderr}");
    assert!(std::fs::read(&data)? == before && new.key()? == [8; 32]);
    new.shell(&["restore", &backup, "--identity", &identity, "--force"], 0);
    assert!(!new.place.path("state/certs/sealing.key").exists(), "a copy of the key in the service's reach");
    assert_eq!(std::fs::read(new.place.path("etc/sealing.key.replaced"))?, [8; 32]);
    assert_eq!(std::fs::metadata(new.place.path("etc/sealing.key"))?.mode() & 0o077, 0, "the key is its owner's alone");
    assert!(!root || std::fs::metadata(&data)?.uid() == 54_321, "the data file belongs to the account of the service");
    new.service(&["admin", "keys", "rotate"], 0)?;
    // And back again, by a name that the operator gives.
    let elsewhere = new.place.path("elsewhere.key").display().to_string();
    new.shell(&["restore", &backup, "--identity", &identity, "--force", "--sealing-key-file", &elsewhere], 0);
    assert!(Path::new(&elsewhere).exists());
    Ok(())
}

/// Without `--force` a key that is there is never replaced, and one in the environment never can be.
#[test]
fn another_sealing_key_that_is_there_is_replaced_only_when_it_is_said() -> Done {
    let (place, _) = Place::set_up();
    let (public, identity) = key_in(&place.path("."), "identity.txt")?;
    let backup = place.path("backup.redb.age").display().to_string();
    place.ends(&["backup", &backup, "--recipient", &public], 0);
    let (other, _) = Place::set_up();
    std::fs::remove_file(other.data())?;
    let kept = std::fs::read(other.path("certs/sealing.key"))?;
    let (_, stderr) = other.ends(&["restore", &backup, "--identity", &identity], 3);
    assert!(stderr.contains("another key") && stderr.contains("Nothing was changed"), "{stderr}");
    assert!(!other.data().exists() && std::fs::read(other.path("certs/sealing.key"))? == kept);
    nothing_but(&other, &[])?;
    let mut command = other.command(&["restore", &backup, "--identity", &identity, "--force"]);
    let refused = command.env("BLOCKREMOTE_SEALING_KEY", "09".repeat(32)).output()?;
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(!other.data().exists() && std::fs::read(other.path("certs/sealing.key"))? == kept);
    other.ends(&["restore", &backup, "--identity", &identity, "--force"], 0);
    assert_eq!(std::fs::read(other.path("certs/sealing.key.replaced"))?, kept);
    other.ends(&["admin", "keys", "rotate"], 0);
    Ok(())
}

/// Devices enroll while a backup is made. What was acknowledged before it began is in it, what came later is there from
/// the beginning up to some moment and not beyond, and all of it is sound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_is_one_moment_of_it() -> Done {
    let server = Arc::new(Server::start().await?);
    let folder = Folder::new()?;
    let (public, identity) = key_in(folder.path(), "identity.txt")?;
    let done = Arc::new(AtomicBool::new(false));
    let mut load = Vec::new();
    for name in ["a", "b", "c"] {
        let (server, done) = (Arc::clone(&server), Arc::clone(&done));
        let (acknowledged, seen) = tokio::sync::watch::channel(0_u32);
        let work = tokio::spawn(async move {
            let mut phones: Vec<Device> = Vec::new();
            while !done.load(Ordering::Acquire) {
                let mut phone = server.enroll(&format!("{name}-{}", phones.len())).await?;
                phone.beat(&phone.calm()).await?.success()?;
                phones.push(phone);
                acknowledged.send_replace(u32::try_from(phones.len())?);
            }
            Ok::<_, Fault>(phones.len())
        });
        load.push((name, seen, work));
    }
    for (_, seen, _) in &mut load {
        seen.wait_for(|n| *n >= 3).await?;
    }
    let before: Vec<u32> = load.iter().map(|(_, seen, _)| *seen.borrow()).collect();
    let backup = folder.path().join("backup.redb.age");
    let keeper = keeper(&server, |_| {})?;
    keeper.backup(Some(backup.clone()), &[public], false).await?;
    done.store(true, Ordering::Release);

    let restored = folder.path().join("restored.redb");
    let identity = PrivateKey::read(Path::new(&identity))?;
    let pace = blockremote::store::backup::Pace::full();
    restore::unpack(&backup, &restored, Some(&identity), &pace)?;
    let snapshot = Store::look(&restored)?.read()?;
    let tenant = first_tenant(&server).await?;
    for ((name, _, work), before) in load.into_iter().zip(before) {
        let made = work.await??;
        let there = |n: usize| -> Result<bool, Fault> {
            let place = Key::new().bytes(tenant.to_bytes()).text(&format!("{name}-{n}"));
            Ok(snapshot.get_raw(blockremote::store::tables::DEVICES, place)?.is_some())
        };
        let mut present = Vec::new();
        for n in 0..made {
            present.push(there(n)?);
        }
        let prefix = present.iter().take_while(|there| **there).count();
        assert!(prefix >= before as usize, "{name}: {before} were acknowledged before it began, {prefix} are in it");
        assert!(present.iter().skip(prefix).all(|there| !there), "{name}: no moment looked like this: {present:?}");
    }
    Ok(())
}

/// The timer's own cleaning takes what it made, encrypted or not, and nothing else.
#[test]
fn the_timer_removes_what_it_made_and_only_when_it_is_old() -> Done {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/blockremote-backup.service");
    let unit = std::fs::read_to_string(unit)?;
    let command = |name: &str| unit.lines().find_map(|l| l.strip_prefix(name)).map(str::to_owned);
    let (place, _) = Place::set_up();
    let folder = place.path("backups");
    std::fs::create_dir(&folder)?;
    let (public, _) = key_in(&place.path("."), "identity.txt")?;
    let made: Vec<String> =
        command("ExecStart=").ok_or("no ExecStart")?.split(' ').skip(1).map(str::to_owned).collect();
    let made: Vec<String> =
        made.iter().map(|word| word.replace("/var/backups/blockremote", &folder.display().to_string())).collect();
    let mut words: Vec<&str> = made.iter().map(String::as_str).collect();
    words.extend(["--recipient", &public]);
    place.ends(&words, 0);
    let list = || -> Result<Vec<PathBuf>, Fault> {
        Ok(std::fs::read_dir(&folder)?.map(|e| Ok(e?.path())).collect::<Result<_, std::io::Error>>()?)
    };
    let encrypted = list()?.pop().ok_or("it made none")?;
    assert!(encrypted.to_string_lossy().ends_with("Z.redb.age"), "{encrypted:?}");
    std::fs::write(folder.join("blockremote-1a2b3c4d-20261121T183000Z.redb"), "in clear")?;
    std::fs::write(folder.join("notes.txt"), "somebody's")?;
    let clean = command("ExecStartPost=").ok_or("no ExecStartPost")?;
    let clean = clean.replace("/var/backups/blockremote", &folder.display().to_string());
    // As systemd does it: no shell, words as they stand.
    let words: Vec<&str> = clean.split(' ').map(|word| word.trim_matches('\'')).collect();
    let (program, rest) = words.split_first().ok_or("nothing")?;
    assert!(Command::new(program).args(rest).status()?.success());
    assert_eq!(list()?.len(), 3, "they are new");
    for file in list()? {
        assert!(Command::new("touch").args(["-d", "40 days ago"]).arg(file).status()?.success());
    }
    assert!(Command::new(program).args(rest).status()?.success());
    assert_eq!(list()?, [folder.join("notes.txt")]);
    assert!(command("LoadCredential=").is_some_and(|c| c.starts_with("sealing-key:")), "of a stopped appliance, too");
    Ok(())
}
