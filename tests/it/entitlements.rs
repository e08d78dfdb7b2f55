//! What companies may have: limits that bite in the commit of what they allow, and say why.

use blockremote::client::Response;
use blockremote::testkit::{Fault, Server, text};
use serde_json::{Value, json};

use crate::common::{Done, add_user, assert_refused, body, enrollment, enrollment_token, first_tenant, new_tenant};
use crate::people::{ask, done, person};

/// Grants or takes beyond the plan, as the appliance's administrator.
async fn grant(server: &Server, tenant: &str, overrides: Value) -> Result<Value, Fault> {
    let admin = server.admin_token().await?;
    done(server, &admin, "PUT", &format!("/v1/tenants/{tenant}/entitlements"), overrides).await
}

async fn quota(server: &Server, token: &str, name: &str) -> Result<Value, Fault> {
    let all = done(server, token, "GET", "/v1/entitlements", Value::Null).await?;
    let found = all["quotas"].as_array().into_iter().flatten().find(|q| q["quota"] == name).cloned();
    Ok(found.ok_or_else(|| format!("no {name} in {all}"))?)
}

async fn new_user(server: &Server, token: &str, name: &str) -> Result<Response, Fault> {
    ask(server, token, "POST", "/v1/users", json!({ "username": name, "roles": ["viewer"] })).await
}

/// The last seat is the classic race: everybody looks, everybody sees it free, everybody sits down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_who_want_the_last_seat_at_once_get_exactly_one() -> Done {
    let server = Server::start().await?;
    let tenant = first_tenant(&server).await?.to_string();
    let admin = server.admin_token().await?;
    grant(&server, &tenant, json!({ "quotas": { "users": 2 } })).await?;
    let mut wanting = tokio::task::JoinSet::new();
    for n in 0..100 {
        let (mut client, admin) = (server.client()?, admin.clone());
        wanting.spawn(async move {
            let body = json!({ "username": format!("seat-{n}"), "roles": ["viewer"] });
            client.post("/v1/users", Some(&admin), &body).await.map(|answer| answer.status)
        });
    }
    let mut statuses = Vec::new();
    while let Some(done) = wanting.join_next().await {
        statuses.push(done??);
    }
    let of = |status: u16| statuses.iter().filter(|s| **s == status).count();
    assert_eq!((of(201), of(403)), (1, 99), "{statuses:?}");
    let users = quota(&server, &admin, "users").await?;
    assert_eq!((&users["limit"], &users["used"], &users["remaining"]), (&json!(2), &json!(2), &json!(0)));
    let people = done(&server, &admin, "GET", "/v1/users", Value::Null).await?;
    assert_eq!(people["data"].as_array().map(Vec::len), Some(2), "what is counted is what is there");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_limit_the_answer_says_how_far_and_a_removal_makes_room() -> Done {
    let server = Server::start().await?;
    let tenant = first_tenant(&server).await?;
    let admin = server.admin_token().await?;
    grant(&server, &tenant.to_string(), json!({ "quotas": { "devices": 1, "teams": 1, "api_keys": 1, "users": 2 } }))
        .await?;
    server.enroll("BR-1").await?;
    let full =
        server.client()?.post("/v1/auth/device", None, &enrollment("BR-2", Some(&server.enrollment_token))).await?;
    assert_refused(&full, 403, "quota_exceeded");
    let problem = body(&full);
    for (name, value) in [
        ("quota", json!("devices")),
        ("limit", json!(1)),
        ("used", json!(1)),
        ("plan", json!("enterprise")),
        ("decided_by", json!("override")),
    ] {
        assert_eq!(problem[name], value, "{name} in {problem}");
    }
    let own = enrollment_token(&server, tenant, Some("BR-1")).await?;
    let again = server.client()?.post("/v1/auth/device", None, &enrollment("BR-1", Some(&own))).await?;
    assert!(again.status < 300, "a known device needs no other place: {}", body(&again));
    done(&server, &admin, "DELETE", "/v1/devices/BR-1", Value::Null).await?;
    server.enroll("BR-2").await?;

    let team = done(&server, &admin, "POST", "/v1/teams", json!({ "name": "one" })).await?;
    assert_refused(&ask(&server, &admin, "POST", "/v1/teams", json!({ "name": "two" })).await?, 403, "quota_exceeded");
    done(&server, &admin, "DELETE", &format!("/v1/teams/{}", text(&team, "id")), Value::Null).await?;
    done(&server, &admin, "POST", "/v1/teams", json!({ "name": "two" })).await?;

    let key = |name: &str| {
        let until = server.clock.now().plus(crate::common::DAY).to_string();
        json!({ "name": name, "scopes": ["devices:read"], "expires_at": until })
    };
    let first = done(&server, &admin, "POST", "/v1/api-keys", key("one")).await?;
    assert_refused(&ask(&server, &admin, "POST", "/v1/api-keys", key("two")).await?, 403, "quota_exceeded");
    done(&server, &admin, "DELETE", &format!("/v1/api-keys/{}", text(&first, "id")), Value::Null).await?;
    done(&server, &admin, "POST", "/v1/api-keys", key("two")).await?;
    server.clock.advance(2 * crate::common::DAY);
    let later = server.admin_token().await?;
    done(&server, &later, "POST", "/v1/api-keys", key("three")).await?;

    let zoe = done(&server, &later, "POST", "/v1/users", json!({ "username": "zoe", "roles": ["viewer"] })).await?;
    assert_refused(&new_user(&server, &later, "eve").await?, 403, "quota_exceeded");
    done(&server, &later, "DELETE", &format!("/v1/users/{}", text(&zoe, "id")), Value::Null).await?;
    assert_eq!(new_user(&server, &later, "eve").await?.status, 201);
    Ok(())
}

/// A company that bought less than it uses loses nothing of what it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_below_what_is_used_takes_nothing_away_and_refuses_more() -> Done {
    let server = Server::start().await?;
    let tenant = new_tenant(&server, "shrinking").await?;
    let token = text(&add_user(&server, tenant, "boss", "admin").await?, "access_token");
    for n in 0..5 {
        person(&server, tenant, &format!("p{n}"), "viewer").await?;
    }
    grant(&server, &tenant.to_string(), json!({ "quotas": { "users": 3 } })).await?;
    let users = quota(&server, &token, "users").await?;
    assert_eq!((&users["used"], &users["limit"], &users["remaining"]), (&json!(6), &json!(3), &json!(0)));
    assert_refused(&new_user(&server, &token, "late").await?, 403, "quota_exceeded");
    let people = done(&server, &token, "GET", "/v1/users", Value::Null).await?;
    assert_eq!(people["data"].as_array().map(Vec::len), Some(6));
    grant(&server, &tenant.to_string(), json!({ "quotas": { "users": null } })).await?;
    assert_eq!(new_user(&server, &token, "late").await?.status, 201, "from the next request on");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_bound_companies_by_themselves_and_each_company_alone() -> Done {
    let folder = blockremote::testkit::Folder::new()?;
    let file = folder.path().join("plans.toml");
    std::fs::write(&file, "[paid_basic.quotas]\ndevices = 2\naudit_days = 30\n")?;
    let server = Server::start_with(move |c| c.billing.plans = Some(file)).await?;
    let admin = server.admin_token().await?;
    let (one, other) = (new_tenant(&server, "one").await?, new_tenant(&server, "other").await?);
    let path = format!("/v1/tenants/{one}");
    add_user(&server, one, "one-admin", "admin").await?;
    add_user(&server, other, "other-admin", "admin").await?;
    let changed = done(&server, &admin, "PATCH", &path, json!({ "plan": "paid_basic" })).await?;
    assert_eq!(changed["plan"], "paid_basic");
    for (tenant, expected) in [(one, [201, 201, 403]), (other, [201, 201, 201])] {
        let ticket = enrollment_token(&server, tenant, None).await?;
        let mut statuses = Vec::new();
        for n in 0..3 {
            let wanted = enrollment(&format!("BR-{n}"), Some(&ticket));
            statuses.push(server.client()?.post("/v1/auth/device", None, &wanted).await?.status);
        }
        assert_eq!(statuses, expected);
    }
    let kept = |days: Value| json!({ "retention": { "audit_days": days } });
    assert_refused(&ask(&server, &admin, "PATCH", &path, kept(json!(31))).await?, 403, "quota_exceeded");
    assert_eq!(ask(&server, &admin, "PATCH", &path, kept(json!(30))).await?.status, 200);
    assert_refused(&ask(&server, &admin, "PATCH", &path, kept(Value::Null)).await?, 403, "quota_exceeded");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feature_is_explained_by_the_word_that_decides() -> Done {
    let server = Server::start().await?;
    let tenant = new_tenant(&server, "curious").await?;
    let token = text(&add_user(&server, tenant, "curious-admin", "admin").await?, "access_token");
    let admin = server.admin_token().await?;
    done(&server, &admin, "PATCH", &format!("/v1/tenants/{tenant}"), json!({ "plan": "trial" })).await?;
    let explain = async |feature: &str| {
        let path = format!("/v1/entitlements/explain?feature={feature}");
        let said = done(&server, &token, "GET", &path, Value::Null).await?;
        Ok::<_, Fault>((said["enabled"].clone(), said["decided_by"].clone(), said["plan"].clone()))
    };
    assert_eq!(explain("kanban").await?, (json!(true), json!("plan"), json!("trial")));
    assert_eq!(explain("assistant").await?, (json!(false), json!("plan"), json!("trial")));
    let granted =
        grant(&server, &tenant.to_string(), json!({ "features": { "assistant": true, "kanban": false } })).await?;
    assert_eq!((&granted["features"]["assistant"], &granted["features"]["kanban"]), (&json!(true), &json!(false)));
    assert_eq!(explain("assistant").await?, (json!(true), json!("override"), json!("trial")));
    assert_eq!(explain("kanban").await?, (json!(false), json!("override"), json!("trial")));
    let unknown = ask(&server, &token, "GET", "/v1/entitlements/explain?feature=flying", Value::Null).await?;
    assert_refused(&unknown, 422, "invalid_request");
    let path = format!("/v1/tenants/{tenant}/entitlements");
    let slip = ask(&server, &admin, "PUT", &path, json!({ "quotas": { "seats": 1 } })).await?;
    assert_refused(&slip, 422, "invalid_request");
    Ok(())
}

/// Whoever had one expired key got a new one however many were alive: the expired one gave up its place without anybody
/// counting the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_key_makes_room_for_no_more_than_the_quota_allows() -> Done {
    let server = Server::start().await?;
    let tenant = first_tenant(&server).await?.to_string();
    let key = |name: &str, days: u32| {
        let until = server.clock.now().plus(days * crate::common::DAY).to_string();
        json!({ "name": name, "scopes": ["devices:read"], "expires_at": until })
    };
    let admin = server.admin_token().await?;
    for (name, days) in [("one", 30), ("two", 30), ("three", 30), ("four", 30), ("short", 1), ("brief", 1)] {
        done(&server, &admin, "POST", "/v1/api-keys", key(name, days)).await?;
    }
    server.clock.advance(2 * crate::common::DAY);
    let admin = server.admin_token().await?;
    let keys = quota(&server, &admin, "api_keys").await?;
    assert_eq!(keys["used"], 4, "those that are alive");
    grant(&server, &tenant, json!({ "quotas": { "api_keys": 1 } })).await?;
    let refused = ask(&server, &admin, "POST", "/v1/api-keys", key("more", 30)).await?;
    assert_refused(&refused, 403, "quota_exceeded");
    assert_eq!(body(&refused)["used"], 4);
    grant(&server, &tenant, json!({ "quotas": { "api_keys": 5 } })).await?;
    done(&server, &admin, "POST", "/v1/api-keys", key("fits", 30)).await?;
    assert_refused(&ask(&server, &admin, "POST", "/v1/api-keys", key("more", 30)).await?, 403, "quota_exceeded");
    assert_eq!(quota(&server, &admin, "api_keys").await?["used"], 5);
    Ok(())
}

/// A company on trial kept its log for ever, because nobody had said otherwise, and its entitlements showed 0 days.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_says_how_long_the_log_is_kept_the_plan_does() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let new = |name: &str, more: Value| {
        let mut wanted = json!({ "name": name, "plan": "trial" });
        wanted.as_object_mut().into_iter().for_each(|w| w.extend(more.as_object().cloned().unwrap_or_default()));
        wanted
    };
    let made = done(&server, &admin, "POST", "/v1/tenants", new("plain", json!({}))).await?;
    assert_eq!(made["retention"], json!({ "audit_days": 90 }));
    for (name, days) in [("ever", Value::Null), ("long", json!(91))] {
        let wanted = new(name, json!({ "retention": { "audit_days": days } }));
        assert_refused(&ask(&server, &admin, "POST", "/v1/tenants", wanted).await?, 403, "quota_exceeded");
    }
    let tenant = text(&made, "id").parse()?;
    let theirs = text(&add_user(&server, tenant, "boss", "admin").await?, "access_token");
    let days = quota(&server, &theirs, "audit_days").await?;
    assert_eq!((&days["limit"], &days["used"], &days["remaining"]), (&json!(90), &json!(90), &json!(0)));
    let own = quota(&server, &admin, "audit_days").await?;
    assert_eq!((&own["limit"], &own["used"]), (&Value::Null, &json!(36_500)), "for ever");
    Ok(())
}

/// The machine's limit was looked up in memory, which learns of a device after the commit: two companies in one batch
/// both got the last place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_place_of_a_company_and_of_the_machine_goes_to_one_device() -> Done {
    let server = Server::start_with(|c| c.devices.max = 3).await?;
    let (one, other) = (first_tenant(&server).await?, new_tenant(&server, "other").await?);
    grant(&server, &one.to_string(), json!({ "quotas": { "devices": 1 } })).await?;
    let theirs = text(&add_user(&server, other, "boss", "admin").await?, "access_token");
    let mut wanting = tokio::task::JoinSet::new();
    let tickets = [enrollment_token(&server, one, None).await?, enrollment_token(&server, other, None).await?];
    for n in 0..40 {
        for (side, ticket) in tickets.iter().enumerate() {
            let (mut client, wanted) = (server.client()?, enrollment(&format!("BR-{n}"), Some(ticket)));
            wanting.spawn(async move {
                client.post("/v1/auth/device", None, &wanted).await.map(|answer| (side, answer.status))
            });
        }
    }
    let mut got = [0, 0];
    while let Some(done) = wanting.join_next().await {
        let (side, status) = done??;
        got[side] += usize::from((200..300).contains(&status));
    }
    assert!(got[0] <= 1 && got[0] + got[1] == 3, "{got:?}");
    assert_eq!(server.app().services.devices.count(), 3);
    let list = done(&server, &theirs, "GET", "/v1/devices", Value::Null).await?;
    let path = format!("/v1/devices/{}", text(&list["data"][0], "device_id"));
    done(&server, &theirs, "DELETE", &path, Value::Null).await?;
    let late = |n: u32| enrollment(&format!("LATE-{n}"), Some(&tickets[1]));
    assert!((200..300).contains(&server.client()?.post("/v1/auth/device", None, &late(0)).await?.status));
    let full = server.client()?.post("/v1/auth/device", None, &late(1)).await?;
    assert_eq!(full.status, 403, "a removal makes room for one");
    let admin = server.admin_token().await?;
    done(&server, &admin, "DELETE", &format!("/v1/tenants/{other}"), Value::Null).await?;
    grant(&server, &one.to_string(), json!({ "quotas": { "devices": null } })).await?;
    let ticket = enrollment_token(&server, one, None).await?;
    let mut statuses = Vec::new();
    for n in 0..4 {
        let wanted = enrollment(&format!("NEW-{n}"), Some(&ticket));
        statuses.push(server.client()?.post("/v1/auth/device", None, &wanted).await?.status < 300);
    }
    assert_eq!(
        statuses.iter().filter(|s| **s).count(),
        3 - got[0],
        "a company that goes makes room for all of its own"
    );
    Ok(())
}
