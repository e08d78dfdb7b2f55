//! The program as its administrator types it: what is printed, what is refused, which exit code a script sees.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

pub(crate) mod binary;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use binary::{Place, contents};
use blockremote::testkit::text;
use serde_json::{Value, json};

fn json_of(output: &str) -> Value {
    serde_json::from_str(output).unwrap_or_else(|e| panic!("{e}: {output}"))
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn init_says_everything_once_and_a_second_one_changes_nothing() {
    let (place, said) = Place::set_up();
    let mut names: Vec<&str> = said.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["admin", "ca_certificate", "ca_fingerprint_sha256", "enrollment_token", "tenant", "url"]);
    let mut names: Vec<&str> = said["admin"].as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["password", "username"]);
    assert!(text(&said, "url").starts_with("https://"));
    assert!(text(&said, "tenant").starts_with("ten_"));
    let ca = text(&said, "ca_certificate");
    assert!(std::fs::read_to_string(&ca).unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    let fingerprint: String = text(&said, "ca_fingerprint_sha256").chars().filter(|c| *c != ':').collect();
    assert!(fingerprint.len() == 64 && fingerprint.chars().all(|c| c.is_ascii_hexdigit()));
    let trusted = blockremote::client::tls::trust(Path::new(&ca), Some(&text(&said, "ca_fingerprint_sha256")));
    assert!(trusted.is_ok(), "the fingerprint is the certificate's");

    for folder in ["data", "certs"] {
        assert_eq!(mode(&place.path(folder)), 0o700, "{folder}");
        for file in std::fs::read_dir(place.path(folder)).unwrap() {
            let path = file.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    }
    let before = contents(&place.path("."));
    let (stdout, stderr) = place.ends(&["init", "--json"], 3);
    assert_eq!(stdout, "");
    assert!(stderr.contains("nothing was changed"), "{stderr}");
    assert!(contents(&place.path(".")) == before, "a second init touched a file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_start_leaves_its_secrets_in_a_file_and_the_second_has_none() {
    let place = Place::new();
    let first = place.serve();
    assert!(first.ready["grpc"].as_str().is_some_and(|a| a.starts_with("127.0.0.1:")), "{}", first.ready);
    assert!(text(&first.ready, "internal").starts_with("127.0.0.1:"));
    let secrets = place.path("certs/first-start-secrets.txt");
    assert_eq!(mode(&secrets), 0o600);
    let shown = std::fs::read_to_string(&secrets).unwrap();
    let token =
        shown.split_whitespace().find(|w| w.starts_with("bre_")).unwrap_or_else(|| panic!("{shown}")).to_owned();
    let log = std::fs::read_to_string(place.path("serve.log")).unwrap();
    assert!(log.contains("first-start-secrets.txt") && !log.contains(&token));
    let body = json!({ "device_id": "BR-1", "device_name": "a", "os_version": "1", "enrollment_token": token });
    assert_eq!(first.client().post("/v1/auth/device", None, &body).await.unwrap().status, 201, "the token works");
    let (_, stderr) = place.ends(&["serve"], 1);
    assert!(stderr.contains("in use"), "a second one on the same data: {stderr}");
    let (_, code, more) = first.terminate();
    assert_eq!((code, more.as_str()), (Some(0), ""), "exactly one line on standard output");
    std::fs::remove_file(&secrets).unwrap();

    let second = place.serve();
    assert!(!secrets.exists());
    let log = std::fs::read_to_string(place.path("serve.log")).unwrap();
    assert!(!log.contains(&token) && !log.contains("assword"), "{log}");
    assert_eq!(second.terminate().1, Some(0));
}

#[test]
fn the_configuration_hides_secrets_and_refuses_what_it_does_not_know() {
    let place = Place::new();
    let file = place.path("blockremote.toml");
    std::fs::write(&file, "[billing]\nwebhook_secret = \"0123456789abcdef-secret\"\n").unwrap();
    for args in [&["config"][..], &["config", "--json"]] {
        let (stdout, stderr) = place.ends(args, 0);
        assert!(!stdout.contains("0123456789abcdef") && !stderr.contains("0123456789abcdef"));
        assert!(stdout.contains("billing.webhook_secret") && stdout.contains("http.listen"));
    }
    let before = contents(&place.path("."));
    for (content, names) in [
        ("[http]\nlisten = \"0.0.0.0:8443\"\nlissten = \"x\"\n", ["lissten", "3"]),
        ("[nonsense]\na = 1\n", ["nonsense.a", "2"]),
        ("[http]\n\nlisten = 17\n", ["http.listen", "3"]),
        ("[billing]\nwebhook_secret = \"short\"\n", ["billing.webhook_secret", "2"]),
    ] {
        std::fs::write(&file, content).unwrap();
        for command in ["config", "serve", "init"] {
            let (stdout, stderr) = place.ends(&[command], 2);
            assert_eq!(stdout, "");
            assert!(names.iter().all(|n| stderr.contains(n)) && !stderr.contains("short"), "{command}: {stderr}");
        }
    }
    std::fs::remove_file(&file).unwrap();
    let output = place.command(&["config"]).env("BLOCKREMOTE_HTTP__LISSTEN", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("BLOCKREMOTE_HTTP__LISSTEN"));
    assert_eq!(before.len(), 1, "asking for the configuration made no file");
}

#[test]
fn every_command_explains_itself_and_wrong_usage_ends_with_two() {
    let place = Place::new();
    for line in [
        "",
        "serve",
        "init",
        "agent",
        "backup",
        "restore",
        "verify",
        "audit",
        "audit verify",
        "audit export",
        "audit checkpoint",
        "audit key",
        "drill",
        "compact",
        "config",
        "doctor",
        "admin",
        "admin keys",
        "admin keys rotate",
        "admin token",
        "admin token enroll",
        "admin token list",
        "admin token revoke",
        "admin cert",
        "admin cert issue",
        "admin cert list",
        "admin cert revoke",
        "admin log-level",
        "admin user",
        "admin user add",
        "admin user passwd",
        "admin user disable",
        "admin user enable",
        "admin user list",
        "bench",
        "bench load",
        "bench latency",
        "bench sockets",
        "bench restart",
    ] {
        let mut args: Vec<&str> = line.split_whitespace().collect();
        args.push("--help");
        let (stdout, stderr) = place.ends(&args, 0);
        assert!(stdout.contains("Example") && stderr.is_empty(), "{line}: {stdout}");
    }
    for line in [
        "nonsense",
        "restore",
        "admin",
        "admin user",
        "admin user add",
        "admin user list x",
        "serve --nonsense",
        "init extra",
    ] {
        place.ends(&line.split_whitespace().collect::<Vec<_>>(), 2);
    }
    for line in
        ["verify", "admin keys rotate", "admin token enroll", "admin user list", "admin user add zoe", "backup b.redb"]
    {
        let (stdout, stderr) = place.ends(&line.split_whitespace().collect::<Vec<_>>(), 1);
        assert!(stdout.is_empty() && !stderr.is_empty(), "{line} on an empty place");
    }
    assert!(!place.data().exists(), "none of them made a data file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_taken_while_it_runs_checked_and_restored_elsewhere() {
    let (place, said) = Place::set_up();
    let running = place.serve();
    let body = json!({
        "device_id": "BR-1", "device_name": "a", "os_version": "1", "enrollment_token": said["enrollment_token"],
    });
    let mut client = running.client();
    let answer: Value = client.post("/v1/auth/device", None, &body).await.unwrap().json().unwrap();
    let token = text(&answer, "access_token");
    let beat = json!({ "device_id": "BR-1", "seq": 1,
        "payload": { "accelerometer": [0.1, 9.79, 0.3], "gyroscope": [0.01, 0.02, -0.03] } });
    let first: Value = client.post("/v1/signals/heartbeat", Some(&token), &beat).await.unwrap().json().unwrap();

    let backup = place.path("backup.redb");
    let name = backup.to_str().unwrap();
    let (_, stderr) = place.ends(&["backup", name], 3);
    assert!(stderr.contains("--unencrypted") && !backup.exists(), "in clear only when somebody says so: {stderr}");
    let (said, _) = place.ends(&["backup", name, "--unencrypted"], 0);
    assert!(said.contains("NOT encrypted"), "{said}");
    assert_eq!(mode(&backup), 0o600);
    let (_, stderr) = place.ends(&["backup", name, "--unencrypted"], 3);
    assert!(stderr.contains("nothing was changed"));
    let as_written = std::fs::read(&backup).unwrap();
    let report = json_of(&place.ends(&["verify", name, "--json"], 0).0);
    assert_eq!((&report["sound"], &report["pages"]), (&json!(true), &json!("sound")));
    place.ends(&["audit", "verify", name], 0);
    assert_eq!(json_of(&place.ends(&["verify", "--json"], 0).0)["sound"], true, "of the running one");

    place.ends(&["restore", name], 3);
    let (_, stderr) = place.ends(&["restore", name, "--force"], 3);
    assert!(
        stderr.contains("in use") && stderr.contains("Nothing was changed"),
        "never under a running appliance: {stderr}"
    );
    assert_eq!(client.post("/v1/signals/heartbeat", Some(&token), &beat).await.unwrap().status, 200);
    assert_eq!(running.terminate().1, Some(0));

    // Another machine: the backup, and the sealing key that was kept apart from it.
    let other = Place::new();
    std::fs::create_dir(other.path("certs")).unwrap();
    for file in std::fs::read_dir(place.path("certs")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), other.path("certs").join(file.file_name())).unwrap();
    }
    // A backup may lie on a medium that nobody can write: it is looked at, never touched.
    let mut permissions = std::fs::metadata(&backup).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&backup, permissions).unwrap();
    other.ends(&["restore", name], 0);
    assert_eq!(std::fs::read(&backup).unwrap(), as_written, "neither verify nor restore changed the backup");
    assert_eq!(mode(&other.data()), 0o600);
    let running = other.serve();
    let again: Value =
        running.client().post("/v1/signals/heartbeat", Some(&token), &beat).await.unwrap().json().unwrap();
    assert_eq!(again, first, "the restored one remembers what was acknowledged");
    drop(running);

    // Damaged backups are refused, however often they are tried, and the data file stays as it is.
    let whole = std::fs::read(&backup).unwrap();
    let before = std::fs::read(place.data()).unwrap();
    let at = whole.windows(4).rposition(|w| w == b"BR-1").unwrap();
    let mut flipped = whole.clone();
    flipped[at] ^= 1;
    for (what, bytes) in [
        ("cut in half", &whole[..whole.len() / 2]),
        ("one byte flipped", &flipped),
        ("empty", &[]),
        ("something else", b"-----BEGIN CERTIFICATE-----"),
    ] {
        let damaged = place.path("damaged.redb");
        std::fs::write(&damaged, bytes).unwrap();
        for round in 0..2 {
            let output = place.run(&["restore", damaged.to_str().unwrap(), "--force"]);
            let shown = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!([Some(1), Some(3)].contains(&output.status.code()), "{what}, try {round}: {shown}");
            assert!(!shown.contains("panicked"), "{what}: {shown}");
            assert!(std::fs::read(place.data()).unwrap() == before, "{what}, try {round}: the data file was changed");
        }
        assert!(!place.run(&["verify", damaged.to_str().unwrap()]).status.success(), "{what}");
    }
    // Wherever a bit flips: the backup is refused, or (a page that nothing uses) nothing is missing.
    for n in 0..24 {
        let at = (n * 7_919 + 4_096) % whole.len();
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (n % 8);
        let damaged = place.path("damaged.redb");
        std::fs::write(&damaged, &flipped).unwrap();
        let empty = Place::new();
        let output = empty.run(&["restore", damaged.to_str().unwrap()]);
        match output.status.code() {
            Some(0) => {
                let restored = json_of(&empty.ends(&["verify", "--json"], 0).0);
                // Two rows more: what the restore left for the next start, and the floor of command numbers.
                let rows = report["contents"]["rows"].as_u64().map(|rows| rows + 2);
                assert_eq!(restored["contents"]["rows"].as_u64(), rows, "bit {} of byte {at}", n % 8);
                assert_eq!(restored["audit"], report["audit"]);
            }
            Some(1 | 3) => assert!(!empty.data().exists(), "refused, and yet there is a data file"),
            code => panic!("byte {at}: {code:?} {}", String::from_utf8_lossy(&output.stderr)),
        }
    }
    place.ends(&["restore", name, "--force"], 0);
    place.ends(&["verify"], 0);
}

/// Somebody with the file and a database tool changes one word of the log.
#[test]
fn a_changed_audit_entry_is_named_by_its_number() {
    let (place, _) = Place::set_up();
    for _ in 0..3 {
        place.ends(&["admin", "keys", "rotate"], 0);
    }
    place.ends(&["audit", "verify"], 0);
    let db = redb::Database::open(place.data()).unwrap();
    let table: redb::TableDefinition<'_, &[u8], &[u8]> = redb::TableDefinition::new("audit");
    let txn = db.begin_write().unwrap();
    {
        use redb::ReadableTable;
        let mut table = txn.open_table(table).unwrap();
        let rows: Vec<(Vec<u8>, Vec<u8>)> = table
            .iter()
            .unwrap()
            .map(|row| row.unwrap())
            .map(|(k, v)| (k.value().to_vec(), v.value().to_vec()))
            .collect();
        let (key, value) = rows.iter().find(|(key, _)| key.ends_with(&2_u64.to_be_bytes())).unwrap();
        // A thousand years later.
        let mut changed = value.clone();
        let at = changed.windows(10).position(|w| w == b"created_at").unwrap();
        let digit = changed.iter().skip(at).position(|b| *b == b'2').unwrap();
        changed[at + digit] = b'3';
        table.insert(key.as_slice(), changed.as_slice()).unwrap();
    }
    txn.commit().unwrap();
    drop(db);
    let (stdout, _) = place.ends(&["audit", "verify"], 1);
    assert!(stdout.contains("FAULT") && stdout.contains("entry 2"), "{stdout}");
    let report = json_of(&place.ends(&["verify", "--json"], 1).0);
    assert_eq!(report["sound"], false);
    let copy = place.path("copy.redb");
    std::fs::copy(place.data(), &copy).unwrap();
    let (_, stderr) = place.ends(&["restore", copy.to_str().unwrap(), "--force"], 3);
    assert!(stderr.contains("entry 2") && stderr.contains("Nothing was changed"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_does_works_on_a_stopped_and_on_a_running_appliance() {
    let (place, _) = Place::set_up();
    let stopped = json_of(&place.ends(&["admin", "keys", "rotate", "--json"], 0).0);
    let token = |args: &[&str]| {
        let said = json_of(&place.ends(args, 0).0);
        assert!(text(&said, "tenant").starts_with("ten_"));
        text(&said, "enrollment_token")
    };
    let made_stopped = token(&["admin", "token", "enroll", "--uses", "1", "--json"]);
    let running = place.serve();
    let kids = async || -> Vec<String> {
        let set: Value = running.client().get("/.well-known/jwks.json", None).await.unwrap().json().unwrap();
        set["keys"].as_array().unwrap().iter().map(|k| text(k, "kid")).collect()
    };
    let before = kids().await;
    assert!(before.contains(&text(&stopped, "kid")) && before.len() >= 2, "the next one is published early");
    let rotated = json_of(&place.ends(&["admin", "keys", "rotate", "--json"], 0).0);
    assert!(before.contains(&text(&rotated, "kid")), "it was published before it signs");
    assert!(kids().await.contains(&text(&stopped, "kid")), "the one before stays published");

    let made_running = token(&["admin", "token", "enroll", "--uses", "1", "--json"]);
    let bound = token(&["admin", "token", "enroll", "--device-id", "BR-9", "--json"]);
    let (plain, _) = place.ends(&["admin", "token", "enroll"], 0);
    assert_eq!(plain.lines().count(), 1, "alone on its line, for scripts");
    let enroll = async |id: &str, token: &str| {
        let body = json!({ "device_id": id, "device_name": "a", "os_version": "1", "enrollment_token": token });
        running.client().post("/v1/auth/device", None, &body).await.unwrap().status
    };
    assert_eq!(enroll("BR-1", &made_stopped).await, 201);
    assert_eq!(enroll("BR-2", &made_running).await, 201);
    assert_eq!(enroll("BR-3", plain.trim()).await, 201);
    assert_ne!(enroll("BR-4", &made_running).await, 201, "it was good for one");
    assert_ne!(enroll("BR-8", &bound).await, 201, "it is for another");
    assert_eq!(enroll("BR-9", &bound).await, 201);
    place.ends(&["admin", "token", "enroll", "--tenant", "nobody"], 1);
    place.ends(&["admin", "token", "enroll", "--device-id", "no good"], 2);
    place.ends(&["doctor", "--json"], place.run(&["doctor", "--json"]).status.code().unwrap());
}

#[test]
fn the_agent_shows_that_exactly_the_taken_over_devices_are_locked() {
    let place = Place::new();
    let running = place.serve();
    let url = running.url.clone();
    let args = ["agent", "--url", &url, "--fleet", "6", "--takeover", "2", "--after-s", "2", "--json"];
    // Without a token: whoever may use the local socket may make one.
    let report = json_of(&place.ends(&args, 0).0);
    assert_eq!((&report["ok"], &report["locked"], &report["wrongly_locked"]), (&json!(true), &json!(2), &json!(0)));
    assert_eq!(report["devices"].as_array().unwrap().len(), 6);
    assert!(report["time_to_lock"]["max_ms"].as_u64().unwrap() < 10_000);
    assert_eq!(running.terminate().1, Some(0));
    place.ends(&["verify"], 0);
    let (_, stderr) = place.ends(&args, 1);
    assert!(stderr.contains("--token-file") || stderr.contains("serve"), "it says what to do next: {stderr}");
}
