//! The shell of the machine as the way back in: people are made, let in and shut out on a stopped and on a running
//! appliance, and no password is left anywhere.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io::Write;
use std::process::Stdio;

use base64ct::{Base64UrlUnpadded, Encoding};
use blockremote::app::control::{self, Ask};
use blockremote::app::place;
use blockremote::client::HttpClient;
use blockremote::crypto::{Secret, sha256};
use blockremote::kernel::ids::UserId;
use blockremote::store::tables::{Key, PASSKEY_OWNERS, SECOND_FACTORS};
use blockremote::testkit::{Fault, Server, text};
use serde_json::{Value, json};

use crate::cli::binary::{Place, contents};
use crate::common::{Done, assert_refused, first_tenant};

const GOOD: &str = "five unrelated words of hers";

/// Runs a command that reads its password; gives its code and both outputs.
fn with_input(place: &Place, args: &[&str], input: &str) -> (i32, String, String) {
    let mut command = place.command(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One that refuses before it reads closes the pipe.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn json_of(output: &str) -> Value {
    serde_json::from_str(output).unwrap_or_else(|e| panic!("{e}: {output}"))
}

async fn login(mut client: HttpClient, name: &str, password: &str) -> (u16, Value) {
    let body = json!({ "username": name, "password": password });
    let answer = client.post("/v1/auth/login", None, &body).await.unwrap();
    (answer.status, crate::common::body(&answer))
}

async fn me(mut client: HttpClient, token: &str) -> u16 {
    client.get("/v1/me", Some(token)).await.unwrap().status
}

/// The story that all this is for: the only administrator has left and nobody knows a password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_out_site_gets_back_in_on_a_stopped_and_on_a_running_appliance() {
    let (place, said) = Place::set_up();
    let first = text(&said["admin"], "password");

    // Stopped.
    let (made_up, told) = place.ends(&["admin", "user", "passwd", "ADMIN"], 0);
    assert_eq!(made_up.lines().count(), 1, "alone on its line, for scripts: {made_up}");
    assert!(told.contains("User admin has a new password") && !told.contains(made_up.trim()), "{told}");
    let args = ["admin", "user", "add", "Zoe", "--role", "admin", "--role", "auditor", "--json"];
    let zoe = json_of(&place.ends(&args, 0).0);
    assert_eq!(zoe["user"]["roles"], json!(["admin", "auditor"]));
    assert_eq!(zoe["user"]["system_admin"], false);
    let zoes = text(&zoe, "password");
    assert!(zoes.len() >= 20, "{zoe}");

    // Running.
    let running = place.serve();
    assert_eq!(login(running.client(), "admin", &first).await.0, 401);
    assert_eq!(login(running.client(), "admin", made_up.trim()).await.0, 200);
    let (status, session) = login(running.client(), "zoe", &zoes).await;
    assert_eq!(status, 200);
    let token = text(&session, "access_token");
    assert_eq!(me(running.client(), &token).await, 200);
    let args = ["admin", "user", "passwd", "zoe", "--password-stdin"];
    let (code, stdout, _) = with_input(&place, &args, &format!("{GOOD}\n"));
    assert_eq!(code, 0);
    assert!(stdout.contains("User Zoe has a new password. One session has ended."), "{stdout}");
    assert_eq!(me(running.client(), &token).await, 401, "the old password's session is over");
    let (status, session) = login(running.client(), "zoe", GOOD).await;
    assert_eq!(status, 200);

    let token = text(&session, "access_token");
    let out = json_of(&place.ends(&["admin", "user", "disable", "zoe", "--json"], 0).0);
    assert_eq!((&out["changed"], &out["sessions_ended"]), (&json!(true), &json!(1)));
    assert_eq!(me(running.client(), &token).await, 401);
    assert_eq!(login(running.client(), "zoe", GOOD).await.0, 401);
    assert!(place.ends(&["admin", "user", "disable", "zoe"], 0).0.contains("nothing was changed"));
    let (listed, _) = place.ends(&["admin", "user", "list"], 0);
    let line = listed.lines().find(|l| l.contains("Zoe")).unwrap_or_else(|| panic!("{listed}"));
    assert!(line.contains("disabled") && line.contains("default") && line.contains("admin, auditor"), "{line}");
    place.ends(&["admin", "user", "enable", "zoe"], 0);
    assert_eq!(login(running.client(), "zoe", GOOD).await.0, 200);

    // What was done is in the log, under its door.
    let (_, session) = login(running.client(), "admin", made_up.trim()).await;
    let mut client = running.client();
    let log = client.get("/v1/audit/logs?limit=200", Some(&text(&session, "access_token"))).await.unwrap();
    let log: Value = log.json().unwrap();
    for (action, times) in [("user_created", 1), ("password_changed", 2), ("user_disabled", 1), ("user_enabled", 1)] {
        let entries = log["data"].as_array().unwrap().iter();
        let by_cli = entries.filter(|e| e["action_taken"] == action && e["source"] == "cli");
        let later_than_init = by_cli.filter(|e| e["decision_reason"] != "the first administrator");
        assert_eq!(later_than_init.count(), times, "{action}");
    }
    assert_eq!(running.terminate().1, Some(0));
    place.ends(&["verify"], 0);

    // No password lies anywhere: neither in the data file nor in the log.
    for (path, bytes) in contents(&place.path(".")) {
        for secret in [made_up.trim(), &zoes, GOOD] {
            let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!found, "a password stands in {}", path.display());
        }
    }
}

#[test]
fn what_is_refused_ends_with_three_says_why_and_changes_nothing() {
    let (place, _) = Place::set_up();
    place.ends(&["admin", "user", "add", "zoe"], 0);
    place.ends(&["admin", "user", "disable", "zoe"], 0);
    let before = json_of(&place.ends(&["admin", "user", "list", "--json"], 0).0);
    assert_eq!(before["users"].as_array().unwrap().len(), 2);
    for running in [false, true] {
        let _server = running.then(|| place.serve());
        for (args, input, code, says) in [
            ("add ADMIN --password-stdin", GOOD, 3, "exists on the appliance"),
            ("add max --password-stdin", "short", 3, "at least 12"),
            ("add max --password-stdin", "", 3, "no password"),
            ("add max --role king", GOOD, 3, "king"),
            ("add max --role rol_019b0a5e-7c11-7a4e-9d5a-2f6b1c3d4e5f", GOOD, 3, "no role"),
            ("add max --tenant nobody", GOOD, 1, "nobody"),
            ("passwd nobody", GOOD, 1, "no user \"nobody\""),
            ("passwd admin --password-stdin", "admin1234567", 3, "little more than"),
            ("disable admin", "", 3, "last administrator"),
            ("disable nobody", "", 1, "no user"),
            ("list --tenant nobody", "", 1, "nobody"),
        ] {
            let mut line = vec!["admin", "user"];
            line.extend(args.split_whitespace());
            let (ended, stdout, stderr) = with_input(&place, &line, input);
            assert_eq!(ended, code, "{args} (running: {running}): {stderr}");
            assert!(stderr.contains(says), "{args} (running: {running}): {stderr}");
            assert!(stdout.is_empty() && (input.len() < 6 || !stderr.contains(input)), "{args}: {stdout}{stderr}");
        }
        assert_eq!(json_of(&place.ends(&["admin", "user", "list", "--json"], 0).0), before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_enrollment_token_is_listed_without_its_secret_and_taken_back() {
    let (place, _) = Place::set_up();
    let made = json_of(&place.ends(&["admin", "token", "enroll", "--uses", "2", "--json"], 0).0);
    let token = text(&made, "enrollment_token");
    let list = || {
        let (stdout, _) = place.ends(&["admin", "token", "list", "--json"], 0);
        assert!(!stdout.contains(&token) && !stdout.contains("bre_"));
        json_of(&stdout)["tokens"].as_array().unwrap().clone()
    };
    let newest = list().pop().unwrap();
    assert_eq!((&newest["uses_max"], &newest["usable"]), (&json!(2), &json!(true)));
    let id = text(&newest, "id");
    let running = place.serve();
    let enroll = async |device: &str| {
        let body = json!({ "device_id": device, "device_name": "a", "os_version": "1", "enrollment_token": token });
        running.client().post("/v1/auth/device", None, &body).await.unwrap().status
    };
    assert_eq!(enroll("BR-1").await, 201);
    place.ends(&["admin", "token", "revoke", &id], 0);
    assert_eq!(enroll("BR-2").await, 401);
    assert!(place.ends(&["admin", "token", "revoke", &id], 0).0.contains("nothing was changed"));
    let newest = list().pop().unwrap();
    assert_eq!((&newest["uses"], &newest["usable"], &newest["revoked"]), (&json!(1), &json!(false), &json!(true)));
    place.ends(&["admin", "token", "revoke", "enr_019b0a5e-7c11-7a4e-9d5a-2f6b1c3d4e5f"], 1);
    place.ends(&["admin", "token", "revoke", "nonsense"], 2);
}

/// Asks as the command line does.
async fn ask(server: &Server, what: Ask) -> Result<Value, Fault> {
    let socket = place::Place::of(server.config()).control_socket();
    let answer = tokio::task::spawn_blocking(move || control::ask(&socket, &what)).await??;
    Ok(answer.ok_or("nobody answers at the socket")?)
}

fn set_password(reset_second_factor: bool) -> Ask {
    Ask::SetPassword { username: "admin".to_owned(), password: Secret::new(GOOD), reset_second_factor }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_mistyped_too_often_may_try_again_at_once_with_the_new_password() -> Done {
    let server = Server::start().await?;
    for _ in 0..5 {
        assert_eq!(login(server.client()?, "admin", "wrong").await.0, 401);
    }
    assert_eq!(login(server.client()?, "admin", server.admin.password.expose()).await.0, 429);
    ask(&server, set_password(false)).await?;
    assert_eq!(login(server.client()?, "admin", GOOD).await.0, 200);
    Ok(())
}

/// A lost phone and lost recovery codes: the password alone does not help, and a new one alone does not either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_second_factors_are_taken_away_only_when_that_is_asked() -> Done {
    let mut server = Server::start().await?;
    let user: UserId = text(&server.login().await?["user"], "id").parse()?;
    let tenant = first_tenant(&server).await?;
    let owned = Key::new().bytes(tenant.to_bytes()).bytes(user.to_bytes());
    let credential = Key::new().bytes(sha256(b"a credential"));
    let row = json!({
        "user": user, "tenant": tenant, "totp": null, "recovery": ["a hash"],
        "passkeys": [{
            "id": "pky_019b0a5e-7c11-7a4e-9d5a-2f6b1c3d4e5f", "name": "a phone", "rp_id": "box.lan",
            "credential_id": Base64UrlUnpadded::encode_string(b"a credential"), "public_key": "", "sign_count": 0,
            "backup_eligible": false, "created_at": "2026-01-01T00:00:00Z", "last_used_at": null,
        }],
    });
    let row = [&[1], row.to_string().as_bytes()].concat();
    let (place, owner) = (owned.clone(), credential.clone());
    let write = move |tx: &mut blockremote::store::Tx<'_>| {
        tx.put_raw(SECOND_FACTORS, &place, &row)?;
        tx.put_raw(PASSKEY_OWNERS, &owner, place.as_ref())
    };
    server.app().services.store.write(write).await?;
    server.restart().await?;

    let kept = ask(&server, set_password(false)).await?;
    assert_eq!((&kept["second_factor_removed"], &kept["user"]["second_factor"]), (&json!(false), &json!(true)));
    let (status, answer) = login(server.client()?, "admin", GOOD).await;
    assert_eq!((status, text(&answer, "code").as_str()), (401, "mfa_required"));

    let gone = ask(&server, set_password(true)).await?;
    assert_eq!((&gone["second_factor_removed"], &gone["user"]["second_factor"]), (&json!(true), &json!(false)));
    assert_eq!(login(server.client()?, "admin", GOOD).await.0, 200);
    let left = server.app().services.store.read_with(move |s| {
        Ok((s.get_raw(SECOND_FACTORS, &owned)?.is_some(), s.get_raw(PASSKEY_OWNERS, &credential)?.is_some()))
    });
    assert_eq!(left.await?, (false, false), "nobody logs in by the passkey any more");
    let again = ask(&server, set_password(true)).await?;
    assert_eq!(again["second_factor_removed"], false, "there was none");
    Ok(())
}

/// The device of somebody who is shut out goes on being watched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_devices_of_a_person_outlive_the_password() -> Done {
    let server = Server::start().await?;
    let mut device = server.enroll("BR-1").await?;
    ask(&server, set_password(true)).await?;
    assert_eq!(device.beat(&device.calm()).await?.status, 200);
    let refreshed = crate::common::refresh(&server, &device.refresh_token).await?;
    assert_eq!(refreshed.status, 200);
    assert_refused(&crate::common::refresh(&server, "nonsense").await?, 403, "refresh_invalid");
    Ok(())
}

/// Two phones whose names differ behind a dot had one file between them; and a certificate is issued while nothing runs, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_issued_on_a_stopped_appliance_each_into_files_of_its_own() {
    let (place, said) = Place::set_up();
    let running = place.serve();
    for device in ["phone.1", "phone.2"] {
        let ticket = text(&said, "enrollment_token");
        let enroll = json!({ "device_id": device, "device_name": "a", "os_version": "1", "enrollment_token": ticket });
        assert_eq!(running.client().post("/v1/auth/device", None, &enroll).await.unwrap().status, 201);
    }
    running.terminate();
    for device in ["phone.1", "phone.2"] {
        let said = place.ends(&["admin", "cert", "issue", "--device", device, "--out", ".", "--json"], 0).0;
        let key = text(&json_of(&said), "key_file");
        assert!(key.ends_with(&format!("{device}.key")) && std::path::Path::new(&place.path(&key)).is_file(), "{said}");
    }
    let listed = place.ends(&["admin", "cert", "list", "--json"], 0).0;
    assert_eq!(listed.matches("\"living\"").count(), 2, "{listed}");
}
