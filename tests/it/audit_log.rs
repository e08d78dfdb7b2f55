//! The log that an outsider can check: signed, proven, exported, and told apart from every log that somebody changed.

mod files;
mod mutations;
mod tampered;
mod witness;

use base64ct::{Base64, Encoding};
use blockremote::crypto::note::{Note, Verifier};
use blockremote::domains::audit::merkle::{self, Hash};
use blockremote::domains::audit::tiles::Checkpoint;
use blockremote::domains::audit::verify::{Known, verify_log};
use blockremote::domains::audit::{self, Action, NewEntry, ThreatLevel};
use blockremote::kernel::Random;
use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::TenantId;
use blockremote::testkit::{Fault, Server, text};
use serde_json::{Value, json};

use crate::common::{DAY, Done, add_user, body, code, first_tenant, second_tenant};
use files::{Files, exported};

/// Adds this many entries in one commit, all with an address, a few of them grave.
pub async fn grow(server: &Server, tenant: TenantId, count: u64) -> Done {
    let clock = server.clock.clone();
    let change = move |tx: &mut blockremote::store::Tx<'_>| {
        for i in 0..count {
            let mut origin = Origin::cli();
            origin.ip = Some([10, 0, (i / 256 % 256) as u8, (i % 256) as u8].into());
            origin.user_agent = Some("a \"phone\" \u{fc}".into());
            let level = if i % 50 == 0 { ThreatLevel::High } else { ThreatLevel::Low };
            let action = if i % 7 == 0 { Action::LoginFailed } else { Action::TokenRefreshed };
            let entry = NewEntry::new(action, &origin).level(level).reason(format!("number {i}"));
            audit::append(tx, tenant, clock.now(), &Random::System, &entry)?;
        }
        Ok(())
    };
    server.app().services.store.write(change).await?;
    Ok(())
}

async fn get(server: &Server, token: &str, path: &str) -> Result<Value, Fault> {
    let answer = server.client()?.get(path, Some(token)).await?;
    answer.success().map_err(|e| format!("{path}: {e} {}", body(&answer)))?;
    Ok(answer.json()?)
}

/// The checkpoint that is signed now, believed only under the key that the appliance shows.
async fn signed_now(server: &Server, token: &str) -> Result<Checkpoint, Fault> {
    let key: Verifier = text(&get(server, token, "/v1/audit/key").await?, "verifier_key").parse()?;
    let answer = server.client()?.post("/v1/audit/checkpoint", Some(token), &json!({})).await?;
    let note = Note::parse(answer.success()?)?;
    note.verify(&key)?;
    let checkpoint = Checkpoint::parse(note.text()).ok_or("no checkpoint")?;
    assert_eq!(checkpoint.origin, key.name());
    Ok(checkpoint)
}

fn hashes(proof: &Value) -> Vec<Hash> {
    let all = proof["hashes"].as_array().cloned().unwrap_or_default();
    all.iter().filter_map(|h| Base64::decode_vec(h.as_str()?).ok()?.try_into().ok()).collect()
}

fn hash(proof: &Value, name: &str) -> Hash {
    Base64::decode_vec(&text(proof, name)).ok().and_then(|h| h.try_into().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_signed_can_be_proven_entry_by_entry_and_only_grows() -> Done {
    let server = Server::start().await?;
    let (tenant, admin) = (first_tenant(&server).await?, server.admin_token().await?);
    grow(&server, tenant, 300).await?;
    let older = signed_now(&server, &admin).await?;
    grow(&server, tenant, 257).await?;
    let newer = signed_now(&server, &admin).await?;
    assert!(older.size > 300 && newer.size > older.size + 257, "{} {}", older.size, newer.size);

    for seq in [0, 1, 255, 256, older.size - 1] {
        let path = format!("/v1/audit/proof/inclusion?seq={seq}&size={}", older.size);
        let proof = get(&server, &admin, &path).await?;
        let (leaf, path) = (hash(&proof, "leaf_hash"), hashes(&proof));
        assert!(merkle::verify_inclusion(&leaf, seq, older.size, &path, &older.root), "{seq}");
        assert!(!merkle::verify_inclusion(&leaf, seq, newer.size, &path, &newer.root), "{seq}");
    }
    let path = format!("/v1/audit/proof/consistency?from={}", older.size);
    let proof = get(&server, &admin, &path).await?;
    assert_eq!(proof["to"], newer.size, "the newest checkpoint's where nobody says");
    assert!(merkle::verify_consistency(older.size, newer.size, &hashes(&proof), &older.root, &newer.root));

    for (path, status) in [
        (format!("/v1/audit/proof/inclusion?seq={}&size={}", older.size, older.size), 422),
        ("/v1/audit/proof/inclusion?seq=0&size=100000".to_owned(), 422),
        ("/v1/audit/proof/inclusion?size=2".to_owned(), 422),
        ("/v1/audit/proof/inclusion?seq=-1".to_owned(), 422),
        ("/v1/audit/proof/inclusion?seq=18446744073709551615".to_owned(), 422),
        ("/v1/audit/proof/consistency?from=3&to=2".to_owned(), 422),
        ("/v1/audit/proof/consistency?from=2&to=18446744073709551615".to_owned(), 422),
        ("/v1/audit/tile/0/000".to_owned(), 200),
        ("/v1/audit/tile/0/000.p/256".to_owned(), 404),
        ("/v1/audit/tile/0/003".to_owned(), 404),
        ("/v1/audit/tile/0/x001/000".to_owned(), 404),
        ("/v1/audit/tile/1/000.p/2".to_owned(), 200),
        ("/v1/audit/tile/1/000".to_owned(), 404),
        ("/v1/audit/tile/7/000.p/1".to_owned(), 404),
        ("/v1/audit/tile/64/000.p/1".to_owned(), 404),
        ("/v1/audit/tile/entries/001".to_owned(), 200),
        ("/v1/audit/tile/entries/..%2f..%2fkey".to_owned(), 404),
        ("/v1/audit/tile/entries/000.p/0".to_owned(), 404),
    ] {
        let answer = server.client()?.get(&path, Some(&admin)).await?;
        assert_eq!(answer.status, status, "{path}: {}", body(&answer));
    }
    Ok(())
}

/// Entry, checkpoint, entry about the checkpoint, checkpoint ...: that would never end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_alone_makes_no_next_one() -> Done {
    let server = Server::start().await?;
    let (tenant, audit) = (first_tenant(&server).await?, &server.app().services.audit);
    assert!(audit.sign(tenant, Origin::system()).await?);
    for _ in 0..3 {
        assert!(!audit.sign(tenant, Origin::system()).await?, "nothing but the last checkpoint's own entry is new");
    }
    let first = audit.checkpoint(tenant).await?;
    grow(&server, tenant, 1).await?;
    assert!(audit.sign(tenant, Origin::system()).await?);
    assert!(!audit.sign(tenant, Origin::system()).await?);
    assert_ne!(audit.checkpoint(tenant).await?, first);
    let newest = audit.list(tenant, None, None, 1).await?.entries.remove(0);
    assert_eq!(newest.action_taken, Action::AuditCheckpointed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_company_sees_and_signs_its_own_log_alone() -> Done {
    let server = Server::start().await?;
    let neighbour = second_tenant(&server).await?;
    let auditor = text(&add_user(&server, neighbour, "zoe", "auditor").await?, "access_token");
    let answer = server.client()?.get("/v1/audit/checkpoint", Some(&auditor)).await?;
    assert_eq!((answer.status, code(&answer).as_str()), (404, "no_checkpoint"));
    let theirs = signed_now(&server, &auditor).await?;
    let ours = signed_now(&server, &server.admin_token().await?).await?;
    assert_ne!((theirs.origin.as_str(), theirs.root), (ours.origin.as_str(), ours.root));
    assert!(theirs.origin.contains(&neighbour.to_string()));
    Ok(())
}

/// Retention takes the content away, and nothing of what can be proven.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn erased_entries_leave_their_hashes_and_every_proof() -> Done {
    let server = Server::start().await?;
    let (tenant, audit) = (first_tenant(&server).await?, server.app().services.audit.clone());
    grow(&server, tenant, 280).await?;
    let old = server.app().services.store.read_with(audit::check_trees).await?.remove(0).size;
    server.clock.advance(100 * DAY);
    grow(&server, tenant, 40).await?;
    audit.sign(tenant, Origin::system()).await?;
    let before = audit.checkpoint(tenant).await?;
    let proofs = |seq: u64| {
        let audit = audit.clone();
        async move { audit.prove_inclusion(tenant, seq, None).await.map(|p| (p.leaf, p.path, p.root)) }
    };
    let proven = (proofs(0).await?, proofs(279).await?, proofs(old + 3).await?);

    let until = server.clock.now().minus(50 * DAY);
    let erased = server.app().services.store.write(move |tx| audit::erase_older(tx, tenant, until, 10_000)).await?;
    assert_eq!(erased as u64, old);
    assert_eq!(audit.checkpoint(tenant).await?, before);
    assert_eq!((proofs(0).await?, proofs(279).await?, proofs(old + 3).await?), proven);
    let admin = server.admin_token().await?;
    let bundle = server.client()?.get("/v1/audit/tile/entries/000", Some(&admin)).await?;
    assert_eq!(bundle.body.len(), 256 * 34, "32 bytes of hash behind each length, and nothing else");
    let mut files = exported(&server, tenant).await?;
    let report = verify_log(&mut files, &Known::default(), &mut |_, _| {})?;
    assert_eq!((report.fault, report.erased), (None, old));
    let checked = server.app().services.store.read_with(audit::check_trees).await?;
    assert!(checked.iter().all(|tree| tree.faults.is_empty()), "{checked:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_searched_by_person_action_weight_and_time() -> Done {
    let server = Server::start().await?;
    let (tenant, admin) = (first_tenant(&server).await?, server.admin_token().await?);
    let start = server.clock.now();
    server.clock.advance(DAY);
    grow(&server, tenant, 100).await?;
    let middle = server.clock.now();
    server.clock.advance(DAY);
    grow(&server, tenant, 100).await?;
    let admin = {
        drop(admin);
        server.admin_token().await?
    };
    let me = text(&get(&server, &admin, "/v1/me").await?, "id");
    let after = |t: blockremote::kernel::Timestamp| t.plus(std::time::Duration::from_secs(1)).to_string();
    for (query, count) in [
        ("action=login_failed".to_owned(), 30),
        ("threat_level=high".to_owned(), 4),
        ("threat_level=critical".to_owned(), 0),
        ("action=login_failed&threat_level=high".to_owned(), 2),
        (format!("action=login_failed&to={}", after(middle)), 15),
        (format!("action=login_failed&from={}", after(middle)), 15),
        (format!("action=token_refreshed&to={}", after(start)), 0),
        (format!("from={}&to={}&action=login_failed", after(start), after(middle)), 15),
        (format!("user_id={me}&action=login_succeeded"), 2),
        ("user_id=usr_00000000-0000-7000-8000-000000000000".to_owned(), 0),
    ] {
        let page = get(&server, &admin, &format!("/v1/audit/logs?limit=200&{query}")).await?;
        assert_eq!(page["data"].as_array().map(Vec::len), Some(count), "{query}");
        assert_eq!(page["next_cursor"], Value::Null, "{query}");
    }
    for bad in [
        "action=nonsense",
        "threat_level=5",
        "from=yesterday",
        "user_id=me",
        "from=2030-01-02T00:00:00Z&to=2030-01-01T00:00:00Z",
    ] {
        let answer = server.client()?.get(&format!("/v1/audit/logs?{bad}"), Some(&admin)).await?;
        assert_eq!(answer.status, 422, "{bad}");
    }
    Ok(())
}

/// The public files, over the network and by a program that knows an appliance by its address alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_served_files_are_a_sound_log() -> Done {
    let server = Server::start().await?;
    let (tenant, admin) = (first_tenant(&server).await?, server.admin_token().await?);
    grow(&server, tenant, 600).await?;
    let checkpoint = signed_now(&server, &admin).await?;
    let mut files = Files::default();
    let mut client = server.client()?;
    for name in blockremote::domains::audit::tiles::Tile::all(checkpoint.size).map(|t| t.to_string()) {
        let answer = client.get(&format!("/v1/audit/{name}"), Some(&admin)).await?;
        files.0.insert(name, answer.success()?.to_vec());
    }
    let note = client.get("/v1/audit/checkpoint", Some(&admin)).await?;
    files.0.insert("checkpoint".to_owned(), note.success()?.to_vec());
    let key: Verifier = text(&get(&server, &admin, "/v1/audit/key").await?, "verifier_key").parse()?;
    let known = Known { key: Some(key), ..Known::default() };
    let report = verify_log(&mut files, &known, &mut |_, _| {})?;
    assert_eq!((report.fault, report.size, report.key_was_known), (None, checkpoint.size, true));
    Ok(())
}
