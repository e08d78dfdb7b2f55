//! What is kept for its time and no longer: entries of the log, rows of sessions.

use blockremote::domains::audit::{self, TreeCheck};
use blockremote::kernel::ids::TenantId;
use blockremote::store::Key;
use blockremote::store::tables::{AUDIT, SESSIONS, SESSIONS_BY_USER};
use blockremote::testkit::{Fault, Server};
use serde_json::{Value, json};

use super::{Caller, actions_of, assert_sound, log_of, trees};
use crate::common::{
    DAY, Done, MINUTE, add_user, enroll_with, enrollment, enrollment_token, first_tenant, log_in, new_tenant,
};

async fn entry_row(server: &Server, tenant: TenantId, seq: u64) -> Result<Vec<u8>, Fault> {
    let key = Key::new().bytes(tenant.to_bytes()).number(seq);
    let store = &server.app().services.store;
    Ok(store.read_with(move |s| s.get_raw(AUDIT, key)).await?.ok_or("there is no such entry")?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_entries_keep_their_hash_and_nothing_else_where_the_tenant_wants_it() -> Done {
    // Nothing but what this test does is to be noted.
    let mut server = Server::start_with(|c| c.billing.paywall = blockremote::config::Paywall::Off).await?;
    let mut admin = Caller::admin(&server).await?;
    let (id, first) = (new_tenant(&server, "Acme").await?, first_tenant(&server).await?);
    add_user(&server, id, "somebody", "admin").await?;
    let ticket = enrollment_token(&server, id, None).await?;
    enroll_with(&server, None, &enrollment("THEIRS", Some(&ticket))).await?.success()?;
    let path = format!("/v1/tenants/{id}");
    assert_eq!(admin.patch(&path, &json!({ "retention": { "audit_days": 30 } })).await?.status, 200);
    let before = trees(&server)?;
    let (old, kept) = (log_of(&server, id).await?.len(), log_of(&server, first).await?.len());
    let sweep = || server.app().services.iam.sweep();
    server.clock.advance(29 * DAY);
    sweep().await;
    assert_eq!(log_of(&server, id).await?.len(), old, "their time is not over");
    log_in(&server, "somebody").await?;
    server.clock.advance(2 * DAY);
    sweep().await;
    assert_eq!(actions_of(&server, id).await?, ["login_succeeded"]);
    assert_eq!(log_of(&server, first).await?.len(), kept, "another tenant's stay for ever");
    let services = &server.app().services;
    let of_device = services.audit.list(id, Some("THEIRS".parse()?), None, 200).await?;
    assert!(of_device.entries.is_empty() && of_device.next.is_none());
    for seq in 0..old as u64 {
        let row = String::from_utf8(entry_row(&server, id, seq).await?)?;
        assert!(row.contains("hash") && !row.contains("leaf") && !row.contains("127.0.0.1"), "{row}");
    }
    assert_sound(&server)?;
    let after = trees(&server)?;
    let root = |all: &[TreeCheck], id| all.iter().find(|t| t.tenant == id).map(|t| (t.size, t.root.clone()));
    assert_eq!(root(&after, id).map(|(size, _)| size), Some(old as u64 + 1));
    assert_eq!(root(&after, first), root(&before, first));
    server.restart().await?;
    assert_sound(&server)?;
    log_in(&server, "somebody").await?;
    assert_eq!(actions_of(&server, id).await?.len(), 2);
    assert_sound(&server)
}

/// Erasing must not become the way to hide what one did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_was_erased_by_hand_is_found() -> Done {
    let server = Server::start().await?;
    let id = first_tenant(&server).await?;
    let store = &server.app().services.store;
    let key = Key::new().bytes(id.to_bytes()).number(1);
    let genuine = entry_row(&server, id, 1).await?;
    let text = String::from_utf8(genuine.clone())?;
    let leaf = serde_json::from_str::<Value>(text.get(1..).unwrap_or_default())?;
    let hash = audit::merkle::leaf_hash(leaf["leaf"].as_str().unwrap_or_default().as_bytes());
    let right = <base64ct::Base64UrlUnpadded as base64ct::Encoding>::encode_string(&hash);
    let wrong = <base64ct::Base64UrlUnpadded as base64ct::Encoding>::encode_string(&[7; 32]);
    for (row, what) in [
        (json!({ "hash": wrong }), "another hash"),
        (json!({ "hash": right }), "the right hash, before its time"),
        (json!({ "hash": "short" }), "no hash at all"),
        (json!({}), "nothing"),
    ] {
        let (key_, row) = (key.clone(), [b"\x01", row.to_string().as_bytes()].concat());
        store.write(move |tx| tx.put_raw(AUDIT, &key_, &row)).await?;
        assert!(trees(&server)?.iter().any(|t| !t.faults.is_empty()), "{what}");
    }
    let key_ = key.clone();
    store.write(move |tx| tx.put_raw(AUDIT, &key_, &genuine)).await?;
    assert_sound(&server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_can_never_come_back_leave_the_data_file() -> Done {
    let server = Server::start().await?;
    server.login().await?;
    let count = || -> Result<(usize, usize), Fault> {
        let snapshot = server.app().services.store.read()?;
        let mut counts = [0, 0];
        for (table, count) in [SESSIONS, SESSIONS_BY_USER].iter().zip(&mut counts) {
            snapshot.visit(*table, &[], None, |_, _| {
                *count += 1;
                Ok(true)
            })?;
        }
        Ok((counts[0], counts[1]))
    };
    let sweep = || server.app().services.iam.sweep();
    server.clock.advance(20 * DAY);
    server.login().await?;
    server.clock.advance(11 * DAY - MINUTE);
    sweep().await;
    assert_eq!(count()?, (2, 2), "a day of grace");
    server.clock.advance(2 * MINUTE);
    sweep().await;
    assert_eq!(count()?, (1, 1));
    server.clock.advance(30 * DAY);
    sweep().await;
    assert_eq!(count()?, (0, 0));
    Ok(())
}
