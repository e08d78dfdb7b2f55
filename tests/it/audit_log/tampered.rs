//! What somebody who can write to the data file, or to an export, does to the log, and how it comes out.

use blockremote::domains::audit::verify::{Known, verify_log};
use blockremote::domains::audit::{self};
use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::TenantId;
use blockremote::store::tables::{AUDIT_CHECKPOINTS, AUDIT_NODES, Key};
use blockremote::store::{Options, Store, Tx, WriterParts};
use blockremote::testkit::{Fault, Server, text};
use serde_json::Value;

use super::files::exported;
use super::grow;
use crate::cli::binary::Place;
use crate::common::{DAY, Done, body, first_tenant, new_tenant};

async fn first_faults(server: &Server, tenant: TenantId) -> Result<Vec<String>, Fault> {
    let trees = server.app().services.store.read_with(audit::check_trees).await?;
    Ok(trees.into_iter().find(|t| t.tenant == tenant).map(|t| t.faults).unwrap_or_default())
}

/// An appliance signed whatever its file showed: with a changed past it swore to two histories under one name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_past_was_changed_is_signed_no_more_and_health_says_so() -> Done {
    let server = Server::start().await?;
    let (tenant, audit) = (first_tenant(&server).await?, server.app().services.audit.clone());
    grow(&server, tenant, 20).await?;
    assert!(audit.sign(tenant, Origin::system()).await?);
    grow(&server, tenant, 20).await?;
    assert!(audit.sign(tenant, Origin::system()).await?, "an honest log goes on");
    let before = audit.checkpoint(tenant).await?;
    let tamper = move |tx: &mut Tx<'_>| {
        let rows = tx.scan(AUDIT_NODES, &Key::new().bytes(tenant.to_bytes()), 1_000)?;
        for (key, mut value) in rows {
            value.iter_mut().for_each(|byte| *byte ^= 1);
            tx.put_raw(AUDIT_NODES, key, &value)?;
        }
        Ok(())
    };
    server.app().services.store.write(tamper).await?;
    grow(&server, tenant, 20).await?;
    let refused = audit.sign(tenant, Origin::system()).await.err().ok_or("it was signed")?.to_string();
    assert!(refused.contains("tampered with") && refused.contains("those that were signed"), "{refused}");
    assert_eq!(audit.checkpoint(tenant).await?, before);
    let health = server.client()?.get("/health/ready", None).await?;
    assert_eq!((health.status, &body(&health)["parts"]), (200, &serde_json::json!(["audit"])));
    Ok(())
}

/// Notes of a neighbour's log in the place of one's own were passed over, and the log counted as not signed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_neighbours_checkpoints_do_not_stand_in_for_ones_own() -> Done {
    let server = Server::start().await?;
    let (ours, audit) = (first_tenant(&server).await?, server.app().services.audit.clone());
    let theirs = new_tenant(&server, "Acme").await?;
    for tenant in [ours, theirs] {
        grow(&server, tenant, 20).await?;
        audit.sign(tenant, Origin::system()).await?;
    }
    assert!(first_faults(&server, ours).await?.is_empty());
    let swap = move |tx: &mut Tx<'_>| {
        let mut rows = tx.scan(AUDIT_CHECKPOINTS, &Key::new().bytes(theirs.to_bytes()), 1)?;
        let (_, note) = rows.remove(0);
        for (key, _) in tx.scan(AUDIT_CHECKPOINTS, &Key::new().bytes(ours.to_bytes()), 100)? {
            tx.put_raw(AUDIT_CHECKPOINTS, key, &note)?;
        }
        Ok(())
    };
    server.app().services.store.write(swap).await?;
    let faults = first_faults(&server, ours).await?;
    assert!(faults.iter().any(|fault| fault.contains("one of another log")), "{faults:?}");
    grow(&server, ours, 5).await?;
    assert!(audit.sign(ours, Origin::system()).await.is_err());
    Ok(())
}

/// Without its checkpoints a changed log is as consistent as an honest one. Only a key from elsewhere asks for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_file_is_held_against_a_key_that_is_known_from_elsewhere() -> Done {
    let (place, _) = Place::set_up();
    let running = place.serve();
    place.ends(&["audit", "checkpoint"], 0);
    let keys: Value = serde_json::from_str(&place.ends(&["audit", "key", "--json"], 0).0)?;
    let key = text(&keys["keys"][0], "verifier_key");
    place.ends(&["audit", "verify", "--key", &key], 0);
    running.terminate();
    place.ends(&["audit", "verify", "--key", &key], 0);
    let (other, _) = Place::set_up();
    let serving = other.serve();
    let keys: Value = serde_json::from_str(&other.ends(&["audit", "key", "--json"], 0).0)?;
    serving.terminate();
    let (said, _) = place.ends(&["audit", "verify", "--key", &text(&keys["keys"][0], "verifier_key")], 1);
    assert!(said.contains("another than --key"), "{said}");

    let store = Store::open(&place.data(), Options::default(), false)?;
    store.start(WriterParts::plain(blockremote::kernel::Clock::System))?;
    let forget = |tx: &mut Tx<'_>| {
        for (key, _) in tx.scan(AUDIT_CHECKPOINTS, &Key::new(), 1_000)? {
            tx.delete(AUDIT_CHECKPOINTS, key)?;
        }
        Ok(())
    };
    store.write(forget).await?;
    tokio::task::spawn_blocking(move || store.stop()).await?;
    let (said, _) = place.ends(&["audit", "verify"], 0);
    assert!(said.contains("nothing of it is signed yet"), "{said}");
    let (said, _) = place.ends(&["audit", "verify", "--key", &key], 1);
    assert!(said.contains("nothing of it is signed"), "{said}");
    Ok(())
}

/// The lines behind the first 257 of a bundle's personal data were read by nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_line_of_personal_data_hides_behind_repeated_ones() -> Done {
    let server = Server::start().await?;
    let (tenant, audit) = (first_tenant(&server).await?, server.app().services.audit.clone());
    grow(&server, tenant, 20).await?;
    audit.sign(tenant, Origin::system()).await?;
    let mut files = exported(&server, tenant).await?;
    let check = |files: &mut super::Files| verify_log(files, &Known::default(), &mut |_, _| {}).map(|r| r.fault);
    assert_eq!(check(&mut files)?, None);
    let name = files.0.keys().find(|name| name.starts_with("personal/")).cloned().ok_or("no personal data")?;
    let lines = files.0.get_mut(&name).ok_or("they are gone")?;
    let first = lines.split_inclusive(|b| *b == b'\n').next().unwrap_or_default().to_vec();
    let mut repeated = first.repeat(300);
    repeated.extend_from_slice(lines);
    *lines = String::from_utf8(repeated)?.replace("10.0.0.9", "10.9.9.9").into_bytes();
    assert!(check(&mut files)?.is_some(), "the address of number 9 was changed");
    Ok(())
}

/// A clock that ran a year ahead for a morning erased what was to be kept; an entry from that morning kept what was to go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_set_erases_nothing_and_keeps_nothing() -> Done {
    let server = Server::start().await?;
    let tenant = new_tenant(&server, "Acme").await?;
    let admin = server.admin_token().await?;
    let wanted = serde_json::json!({ "retention": { "audit_days": 30 } });
    crate::people::ask(&server, &admin, "PATCH", &format!("/v1/tenants/{tenant}"), wanted).await?.success()?;
    grow(&server, tenant, 5).await?;
    let (audit, iam) = (server.app().services.audit.clone(), server.app().services.iam.clone());
    let kept = async || audit.list(tenant, None, None, 200).await.map(|page| page.entries.len());
    let all = kept().await?;
    let right = server.clock.now();
    server.clock.set(right.plus(365 * DAY));
    iam.sweep().await;
    grow(&server, tenant, 1).await?;
    assert_eq!(kept().await?, all + 1, "the clock was set a moment ago");
    server.clock.set(right);
    iam.sweep().await;
    grow(&server, tenant, 1).await?;
    server.clock.advance(31 * DAY);
    iam.sweep().await;
    iam.sweep().await;
    assert_eq!(kept().await?, 0, "an entry from next year is no younger than those behind it");
    Ok(())
}

/// The last words about a tenant are those on its deletion; nobody signed them, and no export had them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_deleted_tenant_is_signed_and_exported() -> Done {
    let server = Server::start().await?;
    let (tenant, audit) = (new_tenant(&server, "Acme").await?, server.app().services.audit.clone());
    grow(&server, tenant, 3).await?;
    let admin = server.admin_token().await?;
    let path = format!("/v1/tenants/{tenant}");
    crate::people::ask(&server, &admin, "DELETE", &path, Value::Null).await?.success()?;
    server.app().services.iam.sweep().await;
    assert!(audit.logs().await?.contains(&tenant));
    blockremote::app::witness::round(&audit, None, &audit.logs().await?).await;
    let mut files = exported(&server, tenant).await?;
    let report = verify_log(&mut files, &Known::default(), &mut |_, _| {})?;
    assert_eq!((report.fault, report.size > 3), (None, true));
    Ok(())
}

/// The command, as an auditor runs it: against the appliance, and against a folder that somebody changed on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auditor_checks_an_appliance_and_a_folder_by_the_command() -> Done {
    let (place, said) = Place::set_up();
    let running = place.serve();
    let login = serde_json::json!({ "username": "admin", "password": text(&said["admin"], "password") });
    let session: Value = running.client().post("/v1/auth/login", None, &login).await?.json()?;
    std::fs::write(place.path("token"), text(&session, "access_token"))?;
    std::fs::write(place.path("bad-token"), "nobody")?;
    let notes: Value = serde_json::from_str(&place.ends(&["audit", "checkpoint", "--json"], 0).0)?;
    std::fs::write(place.path("kept"), text(&notes["checkpoints"][0], "checkpoint"))?;
    let keys: Value = serde_json::from_str(&place.ends(&["audit", "key", "--json"], 0).0)?;
    let key = text(&keys["keys"][0], "verifier_key");
    let url = running.url.as_str();
    let (checked, _) =
        place.ends(&["audit", "verify", url, "--token-file", "token", "--key", &key, "--checkpoint", "kept"], 0);
    assert!(checked.contains("sound") && !checked.contains("NOT"), "{checked}");
    let (_, why) = place.ends(&["audit", "verify", url, "--token-file", "bad-token"], 3);
    assert!(why.contains("no verdict") && why.contains("audit:read"), "{why}");
    place.ends(&["audit", "verify", url], 2);

    place.ends(&["audit", "export", "whole"], 0);
    place.ends(&["audit", "export", "bare", "--without-personal"], 0);
    let other = Place::set_up().0;
    let serving = other.serve();
    let theirs: Value = serde_json::from_str(&other.ends(&["audit", "key", "--json"], 0).0)?;
    serving.terminate();
    running.terminate();
    place.ends(&["audit", "verify", "whole", "--key", &key, "--checkpoint", "kept"], 0);
    place.ends(&["audit", "verify", "bare", "--key", &key], 0);
    place.ends(&["audit", "verify", "whole", "--key", &text(&theirs["keys"][0], "verifier_key")], 1);
    let files = crate::cli::binary::contents(&place.path("bare"));
    assert!(!files.keys().any(|path| path.to_string_lossy().contains("personal")), "{:?}", files.keys());
    let (path, mut bytes) =
        files.into_iter().find(|(path, _)| path.to_string_lossy().contains("entries")).ok_or("no entries")?;
    // A word in the first entry, of the same length.
    let place_of_it = bytes.windows(4).position(|w| w == b"\"seq").ok_or("no entry")?;
    bytes[place_of_it + 1] = b'z';
    std::fs::write(&path, bytes)?;
    let (said, _) = place.ends(&["audit", "verify", "bare"], 1);
    assert!(said.contains("NOT SOUND") && said.contains("entry 0"), "the entry is named: {said}");
    Ok(())
}
