//! API keys and instance tokens: whom they let in, for how long, from where, how often; and what nobody sees again.

mod kept;

use std::time::Duration;

use blockremote::client::Response;
use blockremote::domains::iam::{NewKey, Permission, PermissionSet};
use blockremote::domains::tenants::{self, TenantState};
use blockremote::gate::{Access, Verb};
use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::UserId;
use blockremote::store::tables::API_KEYS;
use blockremote::testkit::{Fault, Server, text};
use hyper::Method;
use serde_json::{Value, json};

use crate::common::{
    DAY, Done, MINUTE, add_user, assert_refused, body, code, first_tenant, header, second_tenant, send,
};
use crate::world::{Who, World, public_rows};

/// What a key is made from; lives for a day.
fn wanted(server: &Server, scopes: &[&str]) -> Value {
    let expires_at = server.clock.now().plus(DAY).to_string();
    json!({ "name": "a script", "scopes": scopes, "expires_at": expires_at, "requests_per_minute": 6000 })
}

/// With further members.
fn with(mut wanted: Value, more: Value) -> Value {
    for (name, value) in more.as_object().into_iter().flatten() {
        wanted[name.as_str()] = value.clone();
    }
    wanted
}

/// Makes a credential as a freshly logged-in administrator.
async fn make(server: &Server, path: &str, wanted: &Value) -> Result<Value, Fault> {
    let answer = server.client()?.post(path, Some(&server.admin_token().await?), wanted).await?;
    assert_eq!(answer.status, 201, "{}", body(&answer));
    Ok(body(&answer))
}

async fn key(server: &Server, scopes: &[&str]) -> Result<Value, Fault> {
    make(server, "/v1/api-keys", &wanted(server, scopes)).await
}

async fn get(server: &Server, path: &str, key: &str) -> Result<Response, Fault> {
    Ok(server.client()?.get(path, Some(key)).await?)
}

async fn delete(server: &Server, path: &str, key: &str) -> Result<Response, Fault> {
    let bearer = format!("Bearer {key}");
    Ok(server.client()?.request(Method::DELETE, path, &[("authorization", &bearer)], "".into()).await?)
}

async fn rotate(server: &Server, id: &str, wanted: &Value) -> Result<String, Fault> {
    let path = format!("/v1/api-keys/{id}/rotate");
    let answer = server.client()?.post(&path, Some(&server.admin_token().await?), wanted).await?;
    assert_eq!(answer.status, 200, "{}", body(&answer));
    Ok(text(&body(&answer), "key"))
}

fn secret_of(key: &str) -> &str {
    key.split_once('.').map(|(_, secret)| secret).unwrap_or_default()
}

/// The stored rows of all keys, as JSON, oldest first.
fn stored_rows(server: &Server) -> Result<Vec<Value>, Fault> {
    let mut rows = Vec::new();
    server.app().services.store.read()?.visit(API_KEYS, &[], None, |_, bytes| {
        // Behind one byte that says the version.
        rows.push(serde_json::from_slice(bytes.get(1..).unwrap_or_default()).unwrap_or_default());
        Ok(true)
    })?;
    Ok(rows)
}

fn ids(list: &Value) -> Vec<String> {
    list["data"].as_array().into_iter().flatten().map(|k| text(k, "id")).collect()
}

// ---- making and showing

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_shown_once_and_works_in_both_headers() -> Done {
    let server = Server::start().await?;
    let tenant = first_tenant(&server).await?;
    let made = key(&server, &["devices:read", "keys:read"]).await?;
    let whole = text(&made, "key");
    assert_eq!(whole, format!("{}.{}", text(&made, "prefix"), secret_of(&whole)));
    assert!(whole.starts_with("br_live_") && secret_of(&whole).len() == 43, "{whole}");
    let token = with(wanted(&server, &["devices:read"]), json!({ "bound": { "integration": "tickets" } }));
    let token = make(&server, "/v1/instance-tokens", &token).await?;
    assert!(text(&token, "key").starts_with("bri_"));
    assert_eq!((&token["kind"], &token["bound"]), (&json!("instance"), &json!({ "integration": "tickets" })));
    let mut members: Vec<&str> = made.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    members.sort_unstable();
    let promised = "allow created_at created_by expires_at id key kind last_used_at last_used_ip name prefix \
                    requests_per_minute revoked scopes";
    assert_eq!(members.join(" "), promised);
    assert_eq!((&made["kind"], &made["allow"], &made["revoked"]), (&json!("api"), &json!([]), &json!(false)));
    assert_eq!(get(&server, "/v1/devices", &whole).await?.status, 200);
    let by_header = [("x-api-key", whole.as_str())];
    assert_eq!(server.client()?.request(Method::GET, "/v1/devices", &by_header, "".into()).await?.status, 200);
    // Seen again: with its last use, without its secret, each kind in its own list.
    let hash = text(&stored_rows(&server)?[0], "hash");
    assert!(!hash.is_empty());
    let own = format!("/v1/api-keys/{}", text(&made, "id"));
    for (path, expected) in [
        (own.as_str(), vec![]),
        ("/v1/api-keys", vec![text(&made, "id")]),
        ("/v1/instance-tokens", vec![text(&token, "id")]),
    ] {
        let answer = get(&server, path, &whole).await?;
        assert_eq!((answer.status, ids(&body(&answer))), (200, expected), "{path}");
        let shown = body(&answer).to_string();
        for secret in [secret_of(&whole), secret_of(&text(&token, "key")), &hash, "\"key\"", "hash"] {
            assert!(!shown.contains(secret), "{secret} in {path}: {shown}");
        }
    }
    let view = body(&get(&server, &own, &whole).await?);
    assert_eq!((&view["last_used_ip"], view["last_used_at"].is_string()), (&json!("127.0.0.1"), true));
    let as_key = format!("/v1/api-keys/{}", text(&token, "id"));
    assert_refused(&get(&server, &as_key, &whole).await?, 404, "not_found");
    // The log tells who made which, and no more.
    let entries = server.app().services.audit.list(tenant, None, None, 50).await?.entries;
    let log = serde_json::to_string(&entries)?;
    assert!(log.contains("api_key_created") && log.contains("instance_token_created"));
    assert!(!log.contains(secret_of(&whole)) && !log.contains(&hash));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_come_in_pages_newest_first_and_hold_one_tenants_keys_only() -> Done {
    let server = Server::start().await?;
    let neighbour = second_tenant(&server).await?;
    let theirs = text(&add_user(&server, neighbour, "neighbour", "admin").await?, "access_token");
    let answer = server.client()?.post("/v1/api-keys", Some(&theirs), &wanted(&server, &["keys:read"])).await?;
    let their_key = text(&body(&answer), "key");
    let mut made = Vec::new();
    for _ in 0..3 {
        made.insert(0, text(&key(&server, &["keys:read"]).await?, "id"));
        server.clock.advance(Duration::from_millis(1));
    }
    let admin = server.admin_token().await?;
    let (mut seen, mut path) = (Vec::new(), "/v1/api-keys?limit=2".to_owned());
    for _ in 0..2 {
        let page = body(&get(&server, &path, &admin).await?);
        seen.extend(ids(&page));
        path = format!("/v1/api-keys?limit=2&cursor={}", text(&page, "next_cursor"));
    }
    assert_eq!(seen, made);
    assert_eq!(path, "/v1/api-keys?limit=2&cursor=", "the second page was the last one");
    assert_eq!(ids(&body(&get(&server, "/v1/api-keys", &their_key).await?)).len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_key_can_be_made_of_is_said_with_a_pointer() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let in_days = |days: u32| server.clock.now().plus(days * DAY);
    let good = wanted(&server, &["devices:read"]);
    let many_devices: Vec<String> = (0..1_001).map(|i| format!("BR-{i}")).collect();
    let cases = [
        ("/name", json!({ "name": "" })),
        ("/name", json!({ "name": "x".repeat(65) })),
        ("/scopes", json!({ "scopes": [] })),
        ("/scopes/1", json!({ "scopes": ["devices:read", "devices:teleport"] })),
        ("/expires_at", json!({ "expires_at": in_days(0).to_string() })),
        ("/expires_at", json!({ "expires_at": in_days(366).plus(Duration::from_millis(1)).to_string() })),
        ("/expires_at", json!({ "expires_at": "soon" })),
        ("/expires_at", json!({ "expires_at": null })),
        ("/allow/0", json!({ "allow": ["10.0.0.1/8"] })),
        ("/allow", json!({ "allow": vec!["10.0.0.1"; 65] })),
        ("/requests_per_minute", json!({ "requests_per_minute": 0 })),
        ("/requests_per_minute", json!({ "requests_per_minute": 6_001 })),
        ("/kind", json!({ "kind": "instance" })),
        ("/bound", json!({ "bound": { "integration": "x", "devices": ["BR-1"] } })),
        ("/bound", json!({ "bound": {} })),
        ("/bound/devices", json!({ "bound": { "devices": [] } })),
        ("/bound/devices", json!({ "bound": { "devices": many_devices } })),
        ("/bound/devices/0", json!({ "bound": { "devices": ["not a name"] } })),
        ("/bound/integration", json!({ "bound": { "integration": "" } })),
    ];
    for (pointer, wrong) in cases {
        let of_token = pointer.starts_with("/bound");
        let path = if of_token { "/v1/instance-tokens" } else { "/v1/api-keys" };
        let answer = server.client()?.post(path, Some(&admin), &with(good.clone(), wrong.clone())).await?;
        assert_refused(&answer, 422, "invalid_request");
        let errors = body(&answer)["errors"].to_string();
        assert!(errors.contains(&format!("\"{pointer}\"")), "{wrong}: {errors}");
    }
    let last = with(good.clone(), json!({ "expires_at": in_days(366).to_string() }));
    assert_eq!(server.client()?.post("/v1/api-keys", Some(&admin), &last).await?.status, 201);
    let unbound = server.client()?.post("/v1/instance-tokens", Some(&admin), &good).await?;
    assert_refused(&unbound, 422, "invalid_request");
    assert_eq!(body(&unbound)["errors"][0]["pointer"], "/bound");
    Ok(())
}

/// The appliance's administrator may everything, and still no program ever gets that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_hands_on_what_they_may_not_do_and_nobody_system_admin() -> Done {
    let server = Server::start().await?;
    let neighbour = second_tenant(&server).await?;
    let theirs = text(&add_user(&server, neighbour, "neighbour", "admin").await?, "access_token");
    let auditor = text(&add_user(&server, neighbour, "auditor", "auditor").await?, "access_token");
    let bound = json!({ "bound": { "integration": "x" } });
    for (path, more) in [("/v1/api-keys", json!({})), ("/v1/instance-tokens", bound)] {
        for (token, scope) in [
            (server.admin_token().await?, "system:admin"),
            (theirs.clone(), "system:admin"),
            (auditor.clone(), "audit:read"),
        ] {
            let answer =
                server.client()?.post(path, Some(&token), &with(wanted(&server, &[scope]), more.clone())).await?;
            assert_refused(&answer, 403, "forbidden");
        }
    }
    assert_eq!(stored_rows(&server)?.len(), 0);
    Ok(())
}

/// A script that repeats a request after a lost answer must not leave a second key behind, and the appliance must not
/// keep the secret to be able to repeat it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_with_the_same_idempotency_key_gets_the_answer_without_the_secret() -> Done {
    let server = Server::start().await?;
    let admin = format!("Bearer {}", server.admin_token().await?);
    let headers = [("authorization", admin.as_str()), ("idempotency-key", "once")];
    let wanted = wanted(&server, &["devices:read"]);
    let mut client = server.client()?;
    let first = body(&send(&mut client, Method::POST, "/v1/api-keys", &headers, &wanted).await?);
    server.clock.advance(MINUTE);
    let again = send(&mut client, Method::POST, "/v1/api-keys", &headers, &wanted).await?;
    assert_eq!((again.status, body(&again)), (201, with(first.clone(), json!({ "key": null }))));
    let other = with(wanted.clone(), json!({ "name": "another" }));
    let other = send(&mut client, Method::POST, "/v1/api-keys", &headers, &other).await?;
    assert_refused(&other, 409, "idempotency_conflict");
    let path = format!("/v1/api-keys/{}/rotate", text(&first, "id"));
    let turned = send(&mut client, Method::POST, &path, &headers, &json!({ "overlap_s": 0 })).await?;
    let repeated = send(&mut client, Method::POST, &path, &headers, &json!({ "overlap_s": 0 })).await?;
    assert_eq!((repeated.status, &body(&repeated)["key"]), (200, &Value::Null));
    assert_eq!(get(&server, "/v1/devices", &text(&body(&turned), "key")).await?.status, 200, "no second rotation");
    assert_eq!(stored_rows(&server)?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_has_a_thousand_living_keys_and_expired_ones_make_room() -> Done {
    let server = Server::start().await?;
    let tenant = first_tenant(&server).await?;
    let login = server.login().await?;
    let admin: UserId = text(&login["user"], "id").parse()?;
    let brief =
        with(wanted(&server, &["devices:read"]), json!({ "expires_at": server.clock.now().plus(MINUTE).to_string() }));
    let brief = text(&make(&server, "/v1/api-keys", &brief).await?, "id");
    let iam = &server.app().services.iam;
    let new = NewKey {
        name: "one of many".to_owned(),
        scopes: PermissionSet::NONE.with(Permission::DevicesRead),
        expires_at: server.clock.now().plus(DAY),
        allow: Vec::new(),
        requests_per_minute: 600,
        bound: None,
    };
    let makers = (0..999).map(|_| iam.create_api_key(tenant, admin, new.clone(), None, Origin::cli()));
    for made in futures_util::future::join_all(makers).await {
        made?;
    }
    let token = text(&login, "access_token");
    let one_more = wanted(&server, &["devices:read"]);
    let full = server.client()?.post("/v1/api-keys", Some(&token), &one_more).await?;
    assert_refused(&full, 409, "too_many_keys");
    let bound = with(one_more.clone(), json!({ "bound": { "integration": "x" } }));
    let full = server.client()?.post("/v1/instance-tokens", Some(&token), &bound).await?;
    assert_refused(&full, 409, "too_many_keys");
    server.clock.advance(MINUTE);
    assert_eq!(server.client()?.post("/v1/api-keys", Some(&token), &one_more).await?.status, 201);
    assert_eq!(get(&server, &format!("/v1/api-keys/{brief}"), &token).await?.status, 404);
    let full = server.client()?.post("/v1/api-keys", Some(&token), &one_more).await?;
    assert_refused(&full, 409, "too_many_keys");
    Ok(())
}

// ---- what a key may

/// Generated from the route table: each row that names a permission against a key for each scope alone, and against
/// one that has all but the row's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_may_exactly_what_its_scopes_say_on_every_row() -> Done {
    let mut world = World::with(|c| c.limits.write_per_minute = 1_000).await?;
    let grantable = || Permission::ALL.iter().copied().filter(|p| *p != Permission::SystemAdmin);
    let all: Vec<&str> = grantable().map(Permission::name).collect();
    let mut alone = Vec::new();
    for permission in grantable() {
        alone.push((permission, text(&key(&world.server, &[permission.name()]).await?, "key")));
    }
    let everything = text(&key(&world.server, &all).await?, "key");
    let (mut let_in, mut kept_out, mut people_only) = (0, 0, 0);
    for route in public_rows().filter(|r| r.verb != Verb::Ws) {
        let method = route.verb.method();
        // What is open to everybody asks for no scope.
        if matches!(
            route.access,
            Access::Public(_) | Access::Signed(_) | Access::OptionalUser(_) | Access::Anonymous(_)
        ) {
            continue;
        }
        let call = world.recipe(route, Who::Admin).await?;
        let about = format!("{method} {}", route.path);
        if !route.access.admits_programs() {
            let answer = world.call(method, &call, Some(&everything), route.access).await?;
            assert_eq!((answer.status, code(&answer).as_str()), (403, "forbidden"), "{about}: {}", body(&answer));
            people_only += 1;
            continue;
        }
        let needed = route.access.permission().ok_or_else(|| format!("{about} names no permission"))?;
        let others: Vec<&str> = all.iter().copied().filter(|name| *name != needed.name()).collect();
        let all_others = text(&key(&world.server, &others).await?, "key");
        let wrong = alone.iter().filter(|(p, _)| *p != needed).map(|(p, key)| (p.name(), key));
        for (scope, key) in wrong.chain([("all others", &all_others)]) {
            let answer = world.call(method, &call, Some(key), route.access).await?;
            let refused = (answer.status, code(&answer));
            assert_eq!(refused, (403, "insufficient_scope".to_owned()), "{about} with {scope}: {}", body(&answer));
            kept_out += 1;
        }
        if let Some((_, key)) = alone.iter().find(|(p, _)| *p == needed) {
            let answer = world.call(method, &call, Some(key), route.access).await?;
            // Behind the gate stands a rule of its own: nobody lays hands on a person who may do more.
            let beyond = text(&body(&answer), "detail").starts_with("This person may do what you may not.");
            let status = if beyond { 403 } else { route.endpoint.status };
            assert_eq!(answer.status, status, "{about}: {}", body(&answer));
            let_in += 1;
        } else {
            assert_eq!(needed, Permission::SystemAdmin, "{about}");
        }
    }
    assert!(let_in > 8 && kept_out > 8 * all.len() && people_only > 6, "{let_in} {kept_out} {people_only}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_a_token_of_some_devices_no_other_device_exists() -> Done {
    let server = Server::start().await?;
    for name in ["BR-1", "BR-2"] {
        server.enroll(name).await?;
    }
    let scopes = ["devices:read", "devices:command", "audit:read"];
    let bound = json!({ "bound": { "devices": ["BR-1", "NOT-YET"] } });
    let token = make(&server, "/v1/instance-tokens", &with(wanted(&server, &scopes), bound)).await?;
    assert_eq!(token["bound"], json!({ "devices": ["BR-1", "NOT-YET"] }));
    let token = text(&token, "key");
    let paths = |device: &str| {
        [
            format!("/v1/devices/{device}"),
            format!("/v1/devices/{device}/commands"),
            format!("/v1/security/trust-score?device_id={device}"),
            format!("/v1/audit/logs?device_id={device}"),
        ]
    };
    for (device, expected) in [("BR-1", 200), ("BR-2", 404)] {
        for path in paths(device) {
            assert_eq!(get(&server, &path, &token).await?.status, expected, "{path}");
        }
        let lock = json!({ "action": "LOCK_SYSTEM", "reason": "by a program" });
        let path = format!("/v1/devices/{device}/commands");
        let locked = server.client()?.post(&path, Some(&token), &lock).await?.status;
        assert_eq!(locked, if expected == 200 { 202 } else { 404 });
        let path = format!("/v1/devices/{device}/unblock");
        let freed = server.client()?.post(&path, Some(&token), &json!({ "reason": "again" })).await?.status;
        assert_eq!(freed, expected);
    }
    let list = body(&get(&server, "/v1/devices", &token).await?);
    let names: Vec<String> = list["data"].as_array().into_iter().flatten().map(|d| text(d, "device_id")).collect();
    assert_eq!(names, ["BR-1"]);
    let log = get(&server, "/v1/audit/logs", &token).await?;
    assert_eq!(log.status, 422, "the log of all devices is not for it, whatever its scopes");
    server.enroll("NOT-YET").await?;
    assert_eq!(get(&server, "/v1/devices/NOT-YET", &token).await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_key_does_stands_in_the_log_under_its_id_and_its_makers() -> Done {
    let server = Server::start().await?;
    server.enroll("BR-1").await?;
    let made = key(&server, &["devices:command", "keys:write"]).await?;
    let (id, key) = (text(&made, "id"), text(&made, "key"));
    let lock = json!({ "action": "LOCK_SYSTEM", "reason": "by a program" });
    assert_eq!(server.client()?.post("/v1/devices/BR-1/commands", Some(&key), &lock).await?.status, 202);
    assert_eq!(delete(&server, &format!("/v1/api-keys/{id}"), &key).await?.status, 204, "a key may revoke itself");
    let tenant = first_tenant(&server).await?;
    let entries = server.app().services.audit.list(tenant, None, None, 3).await?.entries;
    let shown: Vec<Value> = entries.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
    let mut actions: Vec<String> = shown.iter().map(|e| text(e, "action_taken")).collect();
    actions.sort();
    assert_eq!(actions, ["api_key_revoked", "command_requested", "device_blocked"]);
    for entry in shown {
        let who = (text(&entry, "key_id"), text(&entry, "user_id"), entry["jti"].clone());
        assert_eq!(who, (id.clone(), text(&made, "created_by"), Value::Null), "{entry}");
    }
    Ok(())
}

// ---- who is refused

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_secret_and_an_unknown_key_are_one_answer_and_cost_the_address_its_budget() -> Done {
    const BUDGET: u32 = 6;
    let server = Server::start_with(|c| c.limits.auth_failures_per_minute = BUDGET).await?;
    let whole = text(&key(&server, &["devices:read"]).await?, "key");
    let (prefix, secret) = whole.split_once('.').ok_or("no dot")?;
    let last = if secret.ends_with('A') { "E" } else { "A" };
    let near = format!("{prefix}.{}{last}", secret.get(..42).ok_or("too short")?);
    let unknown = format!("br_live_{}.{secret}", "0".repeat(12));
    let other_kind = whole.replace("br_live_", "bri_");
    let mut told = Vec::new();
    let strange = format!("{prefix}.{}", "A".repeat(43));
    for wrong in [strange.clone(), near, unknown, other_kind, format!("{prefix}."), prefix.to_owned()] {
        let answer = get(&server, "/v1/devices", &wrong).await?;
        assert_eq!(answer.status, 401, "{wrong}");
        let mut problem = body(&answer);
        problem["request_id"] = Value::Null;
        told.push(problem);
    }
    told.dedup();
    assert_eq!(told.len(), 1, "{told:?}");
    let stopped = get(&server, "/v1/devices", &strange).await?;
    assert_refused(&stopped, 429, "rate_limited");
    assert_eq!(header(&stopped, "x-ratelimit-limit"), BUDGET.to_string());
    let wait_s: u64 = header(&stopped, "retry-after").parse()?;
    server.clock.advance(Duration::from_secs(wait_s));
    assert_eq!(get(&server, "/v1/devices", &whole).await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_good_from_its_own_networks_only() -> Done {
    let proxy = "127.0.0.1".parse()?;
    let server = Server::start_with(|c| c.http.trusted_proxies = vec![proxy]).await?;
    let allow = json!({ "allow": ["192.0.2.0/24", "2001:db8::/32", "203.0.113.9"] });
    let made = make(&server, "/v1/api-keys", &with(wanted(&server, &["devices:read"]), allow)).await?;
    assert_eq!(made["allow"], json!(["192.0.2.0/24", "2001:db8::/32", "203.0.113.9/32"]));
    let bearer = format!("Bearer {}", text(&made, "key"));
    for (from, admitted) in [
        ("192.0.2.77", true),
        ("2001:db8:1::5", true),
        ("203.0.113.9", true),
        ("203.0.113.10", false),
        ("192.0.3.1", false),
        ("127.0.0.1", false),
    ] {
        let headers = [("authorization", bearer.as_str()), ("x-forwarded-for", from)];
        let answer = server.client()?.request(Method::GET, "/v1/devices", &headers, "".into()).await?;
        assert_eq!(answer.status, if admitted { 200 } else { 403 }, "{from}");
        assert_eq!(code(&answer), if admitted { "" } else { "address_not_allowed" }, "{from}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_ends_at_the_very_moment_that_it_names() -> Done {
    let server = Server::start().await?;
    let whole = text(&key(&server, &["devices:read"]).await?, "key");
    server.clock.advance(DAY - Duration::from_millis(1));
    assert_eq!(get(&server, "/v1/devices", &whole).await?.status, 200);
    server.clock.advance(Duration::from_millis(1));
    assert_refused(&get(&server, "/v1/devices", &whole).await?, 401, "unauthenticated");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_is_refused_by_the_very_next_request() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let bound = json!({ "bound": { "integration": "x" } });
    let token = with(wanted(&server, &["devices:read"]), bound);
    for (path, wanted) in [("/v1/api-keys", wanted(&server, &["devices:read"])), ("/v1/instance-tokens", token)] {
        let made = make(&server, path, &wanted).await?;
        assert_eq!(get(&server, "/v1/devices", &text(&made, "key")).await?.status, 200);
        let own = format!("{path}/{}", text(&made, "id"));
        assert_eq!(delete(&server, &own, &admin).await?.status, 204);
        assert_refused(&get(&server, "/v1/devices", &text(&made, "key")).await?, 401, "unauthenticated");
        assert_refused(&delete(&server, &own, &admin).await?, 404, "not_found");
        assert_eq!(ids(&body(&get(&server, path, &admin).await?)).len(), 0);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_tenants_keys_are_told_so_and_come_back_with_it() -> Done {
    let server = Server::start().await?;
    let whole = text(&key(&server, &["devices:read"]).await?, "key");
    let suspended = TenantState::Suspended { reason: "unpaid".to_owned(), at: server.clock.now() };
    for (state, expected) in [(suspended, 403), (TenantState::Active, 200)] {
        let services = &server.app().services;
        let mut tenant = services.store.read_with(tenants::Tenants::first).await?.ok_or("no tenant")?;
        tenant.state = state;
        let registry = services.tenants.clone();
        services.store.write(move |tx| tenants::save(tx, Some(&registry), &tenant)).await?;
        let answer = get(&server, "/v1/devices", &whole).await?;
        assert_eq!(answer.status, expected);
        assert_eq!(code(&answer), if expected == 403 { "tenant_suspended" } else { "" });
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_has_a_rate_of_its_own() -> Done {
    let server = Server::start().await?;
    let slow = with(wanted(&server, &["devices:read"]), json!({ "requests_per_minute": 3 }));
    let slow = text(&make(&server, "/v1/api-keys", &slow).await?, "key");
    let other = text(&key(&server, &["devices:read"]).await?, "key");
    for left in [2, 1, 0] {
        let answer = get(&server, "/v1/devices", &slow).await?;
        assert_eq!((answer.status, header(&answer, "x-ratelimit-remaining")), (200, left.to_string().as_str()));
        assert_eq!(header(&answer, "x-ratelimit-limit"), "3");
    }
    let stopped = get(&server, "/v1/devices", &slow).await?;
    assert_refused(&stopped, 429, "rate_limited");
    assert_eq!((header(&stopped, "x-ratelimit-limit"), header(&stopped, "x-ratelimit-remaining")), ("3", "0"));
    assert_eq!(get(&server, "/v1/devices", &other).await?.status, 200);
    server.clock.advance(Duration::from_secs(header(&stopped, "retry-after").parse()?));
    assert_eq!(get(&server, "/v1/devices", &slow).await?.status, 200);
    Ok(())
}

// ---- rotation

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_secret_works_until_the_overlap_ends_and_a_second_rotation_ends_it_at_once() -> Done {
    let server = Server::start().await?;
    let long = with(
        wanted(&server, &["devices:read"]),
        json!({ "expires_at": server.clock.now().plus(30 * DAY).to_string() }),
    );
    let made = make(&server, "/v1/api-keys", &long).await?;
    let (id, first) = (text(&made, "id"), text(&made, "key"));
    let works = async |key: &str| Ok::<_, Fault>(get(&server, "/v1/devices", key).await?.status == 200);
    let second = rotate(&server, &id, &json!({})).await?;
    assert!(second.starts_with(&text(&made, "prefix")) && secret_of(&second) != secret_of(&first));
    assert_eq!((works(&first).await?, works(&second).await?), (true, true));
    server.clock.advance(DAY - Duration::from_millis(1));
    assert!(works(&first).await?, "a day is the default overlap");
    server.clock.advance(Duration::from_millis(1));
    assert_eq!((works(&first).await?, works(&second).await?), (false, true));
    let third = rotate(&server, &id, &json!({ "overlap_s": 60 })).await?;
    let fourth = rotate(&server, &id, &json!({ "overlap_s": 604_800 })).await?;
    assert_eq!((works(&second).await?, works(&third).await?, works(&fourth).await?), (false, true, true));
    let fifth = rotate(&server, &id, &json!({ "overlap_s": 0 })).await?;
    assert_eq!((works(&third).await?, works(&fourth).await?, works(&fifth).await?), (false, false, true));
    let admin = server.admin_token().await?;
    let path = format!("/v1/api-keys/{id}/rotate");
    let long = server.client()?.post(&path, Some(&admin), &json!({ "overlap_s": 604_801 })).await?;
    assert_refused(&long, 422, "invalid_request");
    server.clock.advance(30 * DAY);
    let admin = server.admin_token().await?;
    let late = server.client()?.post(&path, Some(&admin), &json!({})).await?;
    assert_refused(&late, 409, "key_expired");
    Ok(())
}
