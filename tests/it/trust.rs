//! Whom a tenant trusts to vouch for hardware: roots and lists of revoked keys as data; and the recipes of the matrix for
//! these rows.

use std::time::Duration;

use base64ct::{Base64, Encoding};
use blockremote::domains::attestation::{Evidence, NewRoot, RootKind};
use blockremote::gate::{Route, Verb};
use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::TenantId;
use blockremote::testkit::hardware::{AndroidState, Maker, android_key};
use blockremote::testkit::{Fault, Server, text};
use serde_json::{Value, json};

use crate::common::{DAY, Done, add_user, assert_refused, body, first_tenant, second_tenant};
use crate::hardware::{Phone, ROOTS, apple_device, challenge, new_key, refused_because, start, trust, with_nonce};
use crate::people::{ask, done};
use crate::world::{Call, World};

const LIST: &str = "/v1/intel/status-lists/android-key";

/// What a fleet of stolen or leaked keys would be: Google lists them, and this appliance has no Internet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_fresh_list_of_revoked_keys_no_android_key_counts() -> Done {
    let mut server = Server::start().await?;
    let (maker, key) = (Maker::new("Phones")?, new_key());
    let admin = server.admin_token().await?;
    {
        let phone = Phone::enroll(&server, "BR-1").await?;
        trust(&server, phone.tenant, RootKind::AndroidKey, &maker).await?;
        let state = AndroidState::default();
        refused_because(&phone.android(&maker, &key, state).await?, "status_list_missing");

        let entries = |serial: &str| json!({ "entries": { serial: { "status": "REVOKED" } } }).to_string();
        let import = |file: String, ago: Duration| {
            let fetched_at = server.clock.now().minus(ago).to_string();
            json!({ "fetched_at": fetched_at, "file": file })
        };
        let hour = Duration::from_secs(3_600);
        for (bad, pointer) in [
            (import("{}".to_owned(), hour), "/file"),
            (import(json!({ "entries": {} }).to_string(), hour), "/file"),
            (import(json!({ "entries": { "xyz": { "status": "REVOKED" } } }).to_string(), hour), "/file"),
            (import("{\"entries\": {}, \"entries\": {\"1\": {\"status\": \"REVOKED\"}}}".to_owned(), hour), "/file"),
            (json!({ "fetched_at": server.clock.now().plus(hour).to_string(), "file": entries("1") }), "/fetched_at"),
        ] {
            let answer = ask(&server, &admin, "PUT", LIST, bad).await?;
            assert_refused(&answer, 422, "invalid_request");
            assert_eq!(body(&answer)["errors"][0]["pointer"], pointer, "{}", body(&answer));
        }
        done(&server, &admin, "PUT", LIST, import(entries("1234"), hour)).await?;
        let answer = phone.android(&maker, &key, state).await?;
        assert_eq!(answer.status, 200, "{}", body(&answer));
        assert!(text(&body(&answer), "status_list").starts_with("android-key of 20"), "{}", body(&answer));
        assert_eq!(phone.state().await?["history"][0]["status_list"], body(&answer)["status_list"]);

        // Whoever holds a revoked key wants the list from before.
        let older = ask(&server, &admin, "PUT", LIST, import(entries("99"), hour * 2)).await?;
        assert_refused(&older, 409, "older_list");
        done(&server, &admin, "PUT", LIST, import(entries("5eed"), Duration::ZERO)).await?;
        refused_because(&phone.android(&maker, &key, state).await?, "revoked");
    }
    // It outlasts a restart, and a month later it clears nobody any more.
    server.restart().await?;
    let phone = Phone::enroll(&server, "BR-2").await?;
    refused_because(&phone.android(&maker, &key, AndroidState::default()).await?, "revoked");
    let clean = AndroidState { serial: 0x600d, ..AndroidState::default() };
    assert_eq!(phone.android(&maker, &key, clean).await?.status, 200);
    server.clock.advance(DAY * 31);
    let admin = server.admin_token().await?;
    let lists = done(&server, &admin, "GET", "/v1/intel/status-lists", Value::Null).await?;
    assert_eq!((&lists["data"][0]["stale"], &lists["data"][0]["entries"]), (&json!(true), &json!(1)));
    let attestation = &server.app().services.attestation;
    let entry = server.app().services.devices.entry(phone.tenant, &"BR-2".parse()?).ok_or("no device")?;
    let nonce = phone.nonce().await?;
    let evidence = android_key(&maker, &key, clean, &challenge(phone.tenant, "BR-2", &nonce))?;
    let members = with_nonce(evidence, &nonce).as_object().cloned().unwrap_or_default();
    let late = attestation.attest(&entry, Evidence::of(members, "")?, Origin::cli()).await;
    assert!(late.is_err_and(|e| e.to_string().contains("status_list_stale")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_certificate_of_an_authority_becomes_a_root() -> Done {
    let server = start().await?;
    let tenant = first_tenant(&server).await?;
    let admin = server.admin_token().await?;
    let maker = Maker::new("Phones")?;
    let leaf = {
        let evidence = android_key(&maker, &new_key(), AndroidState::default(), &[0; 32])?;
        let chain = text(&evidence, "chain_pem");
        let end = chain.find("-----END CERTIFICATE-----\n").ok_or("no certificate")?;
        chain.get(..end + 26).ok_or("cut")?.to_owned()
    };
    let wanted = |label: &str, pem: &str| json!({ "kind": "android-key", "label": label, "pem": pem });
    for (bad, pointer) in [
        (wanted("leaf", &leaf), "/pem"),
        (wanted("two", &maker.root_pem().repeat(2)), "/pem"),
        (wanted("none", "no certificate"), "/pem"),
        (wanted("long", &"A".repeat(16 * 1024 + 1)), "/pem"),
        (wanted("", &maker.root_pem()), "/label"),
        (wanted(&"l".repeat(65), &maker.root_pem()), "/label"),
        (wanted("line\nbreak", &maker.root_pem()), "/label"),
    ] {
        let answer = ask(&server, &admin, "POST", ROOTS, bad).await?;
        assert_refused(&answer, 422, "invalid_request");
        assert_eq!(body(&answer)["errors"][0]["pointer"], pointer, "{}", body(&answer));
    }
    let added = done(&server, &admin, "POST", ROOTS, wanted("good", &maker.root_pem())).await?;
    assert_eq!((&added["state"], &added["label"]), (&json!("added"), &json!("added: good")));
    let twice = ask(&server, &admin, "POST", ROOTS, wanted("again", &maker.root_pem())).await?;
    assert_refused(&twice, 409, "root_unchanged");
    for n in 1..64 {
        let new = NewRoot { kind: RootKind::Tpm, label: n.to_string(), pem: Maker::new(&n.to_string())?.root_pem() };
        server.app().services.attestation.add_root(tenant, new, None, Origin::cli()).await?;
    }
    let one_more = wanted("65", &Maker::new("65")?.root_pem());
    assert_refused(&ask(&server, &admin, "POST", ROOTS, one_more).await?, 403, "quota_exceeded");

    // A stolen session from before is not enough to change whom the tenant trusts.
    server.clock.advance(Duration::from_secs(301));
    let late = ask(&server, &admin, "DELETE", &format!("{ROOTS}/{}", text(&added, "id")), Value::Null).await?;
    assert_refused(&late, 403, "step_up_required");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundled_root_can_be_distrusted_and_trusted_again() -> Done {
    let mut server = start().await?;
    let apple = include_str!("../../src/attest/roots/apple_app_attestation_root_ca.pem");
    let admin = server.admin_token().await?;
    let roots = done(&server, &admin, "GET", ROOTS, Value::Null).await?;
    let roots = roots["data"].as_array().cloned().unwrap_or_default();
    assert_eq!(roots.len(), 30, "Google's and Apple's four, and the makers of TPMs");
    let id = roots.iter().find(|r| r["kind"] == "apple-attestation").map(|r| text(r, "id")).ok_or("no such root")?;
    let state = async |server: &Server| -> Result<Value, Fault> {
        let admin = server.admin_token().await?;
        let roots = done(server, &admin, "GET", ROOTS, Value::Null).await?;
        let roots = roots["data"].as_array().cloned().unwrap_or_default();
        Ok(roots.iter().find(|r| r["id"] == json!(id)).map(|r| r["state"].clone()).unwrap_or_default())
    };
    let again = json!({ "kind": "apple-attestation", "label": "Apple", "pem": apple });
    assert_refused(&ask(&server, &admin, "POST", ROOTS, again.clone()).await?, 409, "root_unchanged");
    done(&server, &admin, "DELETE", &format!("{ROOTS}/{id}"), Value::Null).await?;
    assert_eq!(state(&server).await?, "distrusted");
    let twice = ask(&server, &admin, "DELETE", &format!("{ROOTS}/{id}"), Value::Null).await?;
    assert_refused(&twice, 409, "root_unchanged");
    server.restart().await?;
    assert_eq!(state(&server).await?, "distrusted", "after a restart, too");
    let admin = server.admin_token().await?;
    done(&server, &admin, "POST", ROOTS, again).await?;
    assert_eq!(state(&server).await?, "bundled");
    let log = done(&server, &admin, "GET", "/v1/audit/logs?limit=200", Value::Null).await?.to_string();
    assert!(log.contains("trust_root_removed") && log.contains("trust_root_added"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_change_trust_cannot() -> Done {
    let server = start().await?;
    let tenant = first_tenant(&server).await?;
    let analyst = text(&add_user(&server, tenant, "analyst", "security_analyst").await?, "access_token");
    let pem = Maker::new("Phones")?.root_pem();
    let wanted = json!({ "kind": "tpm", "label": "mine", "pem": pem });
    assert_eq!(ask(&server, &analyst, "POST", ROOTS, wanted).await?.status, 403);
    // The list counts for every tenant, so only who administers the appliance may change it.
    let neighbour = second_tenant(&server).await?;
    let admin = text(&add_user(&server, neighbour, "boss", "admin").await?, "access_token");
    let list = json!({ "fetched_at": server.clock.now().to_string(), "file": "{\"entries\":{}}" });
    assert_eq!(ask(&server, &admin, "PUT", LIST, list).await?.status, 403);
    Ok(())
}

/// A root of the tenant's own, made behind the gate; gives its id.
pub async fn root(server: &Server, tenant: TenantId, name: &str) -> Result<String, Fault> {
    trust(server, tenant, RootKind::Tpm, &Maker::new(name)?).await
}

/// What the log says of a change on one of these rows.
pub fn expected_entry(verb: Verb, path: &str) -> Option<&'static str> {
    Some(match (verb, path) {
        (Verb::Post, "/v1/intel/roots") => "trust_root_added",
        (Verb::Delete, "/v1/intel/roots/{root_id}") => "trust_root_removed",
        (Verb::Put, LIST) => "status_list_imported",
        (Verb::Put, "/v1/devices/{device_id}/attestation/receipt") => "receipt_imported",
        _ => return None,
    })
}

/// A request for one of these rows that succeeds; `None` for other rows.
pub async fn recipe(world: &mut World, route: &Route) -> Result<Option<Call>, Fault> {
    let name = world.fresh_name();
    let (server, tenant) = (&world.server, world.tenant);
    Ok(Some(match (route.verb, route.path) {
        (Verb::Get, "/v1/intel/roots" | "/v1/intel/status-lists") => Call::get(route.path),
        (Verb::Post, "/v1/intel/roots") => {
            let pem = Maker::new(&name)?.root_pem();
            Call::of(route.path, json!({ "kind": "tpm", "label": name, "pem": pem }))
        }
        (Verb::Delete, "/v1/intel/roots/{root_id}") => {
            Call::get(&route.path.replace("{root_id}", &root(server, tenant, &name).await?))
        }
        (Verb::Put, LIST) => {
            let file = json!({ "entries": { "1": { "status": "REVOKED" } } }).to_string();
            Call::of(LIST, json!({ "fetched_at": server.clock.now().to_string(), "file": file }))
        }
        (verb, path @ "/v1/devices/{device_id}/attestation/receipt") => {
            server.enroll(&name).await?;
            let (maker, phone) = apple_device(server, tenant, &name).await?;
            let body = match verb {
                Verb::Put => {
                    let later = server.clock.now().plus(Duration::from_secs(1));
                    json!({ "receipt_b64": Base64::encode_string(&phone.receipt(&maker, later, Some(1))?) })
                }
                _ => Value::Null,
            };
            Call::of(&path.replace("{device_id}", &name), body)
        }
        _ => return Ok(None),
    }))
}
