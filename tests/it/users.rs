//! People of a tenant: who may change whom, what nobody may do, and what is left behind.

use blockremote::domains::iam::{Authority, NewUser, Permission, PermissionSet, Role, UserChange};
use blockremote::kernel::Error;
use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::{TenantId, UserId};
use blockremote::store::tables::{Key, LINKS, PASSKEY_OWNERS, SECOND_FACTORS};
use blockremote::testkit::{Fault, Server, text};
use serde_json::{Value, json};

use crate::common::{
    Done, MINUTE, add_user, assert_refused, body, first_tenant, log_in, password_of, refresh, second_tenant, send,
};
use crate::people::{almighty, ask, done, person, role, team};

/// The id and the access token of whom a login let in.
fn who(login: &Value) -> (String, String) {
    (text(&login["user"], "id"), text(login, "access_token"))
}

fn code_of<T>(outcome: blockremote::kernel::Result<T>) -> &'static str {
    match outcome {
        Ok(_) => "done",
        Err(Error::Refused(refusal)) => refusal.code,
        Err(_) => "failed",
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_is_made_found_changed_and_removed() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let wanted = json!({ "username": "ada", "display_name": "Ada", "email": "ada@example.org", "roles": ["manager"],
        "password": "a long enough one" });
    let made = ask(&server, &admin, "POST", "/v1/users", wanted).await?;
    assert_eq!(made.status, 201, "{}", body(&made));
    let made = body(&made);
    assert_eq!(made["invitation"], Value::Null, "{made}");
    let path = format!("/v1/users/{}", text(&made, "id"));
    let found = done(&server, &admin, "GET", &path, Value::Null).await?;
    for (member, expected) in [
        ("username", json!("ada")),
        ("display_name", json!("Ada")),
        ("email", json!("ada@example.org")),
        ("roles", json!(["manager"])),
        ("permissions", json!(Role::Manager.permissions().names())),
        ("system_admin", json!(false)),
        ("disabled", json!(false)),
        ("invited", json!(false)),
        ("second_factor", json!(false)),
        ("tenant", json!(first_tenant(&server).await?)),
    ] {
        assert_eq!(found[member], expected, "{member}");
        assert_eq!(made[member], expected, "{member}");
    }
    assert!(!text(&found, "created_at").is_empty() && !text(&found, "password_changed_at").is_empty());
    assert!(!found.to_string().contains("argon2"), "{found}");
    let change = json!({ "display_name": null, "email": "countess@example.org", "roles": ["viewer"] });
    let changed = done(&server, &admin, "PATCH", &path, change).await?;
    assert_eq!((&changed["display_name"], &changed["email"]), (&Value::Null, &json!("countess@example.org")));
    assert_eq!(changed["roles"], json!(["viewer"]));
    let kept = done(&server, &admin, "PATCH", &path, json!({ "display_name": "Ada" })).await?;
    assert_eq!(kept["email"], "countess@example.org", "what is left out stays");
    assert_eq!(ask(&server, &admin, "DELETE", &path, Value::Null).await?.status, 204);
    assert_refused(&ask(&server, &admin, "GET", &path, Value::Null).await?, 404, "not_found");
    assert_refused(&ask(&server, &admin, "DELETE", &path, Value::Null).await?, 404, "not_found");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_shows_each_person_of_the_tenant_once_page_by_page() -> Done {
    let server = Server::start().await?;
    let (admin, tenant) = (server.admin_token().await?, first_tenant(&server).await?);
    for i in 0..4 {
        person(&server, tenant, &format!("p{i}"), "viewer").await?;
    }
    person(&server, second_tenant(&server).await?, "neighbour", "viewer").await?;
    let (mut names, mut cursor) = (Vec::new(), String::new());
    for _ in 0..4 {
        let page = done(&server, &admin, "GET", &format!("/v1/users?limit=2{cursor}"), Value::Null).await?;
        names.extend(page["data"].as_array().into_iter().flatten().map(|u| text(u, "username")));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    names.sort();
    assert_eq!(names, ["admin", "p0", "p1", "p2", "p3"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_a_person_is_refused_where_it_is_wrong() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let long = "x".repeat(129);
    for (wanted, pointer) in [
        (json!({ "username": "", "roles": [] }), "/username"),
        (json!({ "username": " ada", "roles": [] }), "/username"),
        (json!({ "username": "ada ", "roles": [] }), "/username"),
        (json!({ "username": "a\nda", "roles": [] }), "/username"),
        (json!({ "username": "a\u{0}da", "roles": [] }), "/username"),
        (json!({ "username": "nimda\u{202e}", "roles": [] }), "/username"),
        (json!({ "username": long, "roles": [] }), "/username"),
        (json!({ "username": "ada" }), "/roles"),
        (json!({ "username": "ada", "roles": ["king"] }), "/roles/0"),
        (json!({ "username": "ada", "roles": ["viewer", "viewer"] }), "/roles/1"),
        (json!({ "username": "ada", "roles": ["viewer", "rol_00000000-0000-7000-8000-000000000000"] }), "/roles/1"),
        (json!({ "username": "ada", "roles": [], "email": "nowhere" }), "/email"),
        (json!({ "username": "ada", "roles": [], "display_name": "" }), "/display_name"),
        (json!({ "username": "ada", "roles": [], "password": "eleven byte" }), "/password"),
        (json!({ "username": "ada", "roles": [], "system_admin": true }), "/system_admin"),
    ] {
        let answer = ask(&server, &admin, "POST", "/v1/users", wanted.clone()).await?;
        assert_refused(&answer, 422, "invalid_request");
        assert_eq!(body(&answer)["errors"][0]["pointer"], pointer, "{wanted}: {}", body(&answer));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_taken_on_the_whole_appliance_until_its_bearer_is_removed() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    person(&server, second_tenant(&server).await?, "Straße", "viewer").await?;
    let wanted = |name: &str| json!({ "username": name, "roles": ["viewer"] });
    for taken in ["ADMIN", "straße", "STRAßE"] {
        let answer = ask(&server, &admin, "POST", "/v1/users", wanted(taken)).await?;
        assert_refused(&answer, 409, "username_taken");
    }
    let first = done(&server, &admin, "POST", "/v1/users", wanted("ada")).await?;
    assert_refused(&ask(&server, &admin, "POST", "/v1/users", wanted("Ada")).await?, 409, "username_taken");
    done(&server, &admin, "DELETE", &format!("/v1/users/{}", text(&first, "id")), Value::Null).await?;
    done(&server, &admin, "POST", "/v1/users", wanted("Ada")).await?;
    Ok(())
}

// ---- nobody hands out what they may not do themselves

/// A clerk who may look after people, and no more.
async fn clerk(server: &Server, tenant: TenantId) -> Result<(String, String), Fault> {
    let id = role(server, tenant, "clerk", &["users:read", "users:write", "devices:read"]).await?;
    Ok(who(&add_user(server, tenant, "clerk", &id).await?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_hands_out_what_they_may_not_do_themselves() -> Done {
    let server = Server::start().await?;
    let tenant = first_tenant(&server).await?;
    let (own_id, token) = clerk(&server, tenant).await?;
    let reader = role(&server, tenant, "reader", &["devices:read"]).await?;
    let strong = role(&server, tenant, "strong", &["devices:read", "keys:write"]).await?;
    let weak = person(&server, tenant, "weak", &reader).await?;
    for wanted in ["admin", "viewer", strong.as_str()] {
        let new = json!({ "username": "puppet", "roles": [reader, wanted] });
        assert_refused(&ask(&server, &token, "POST", "/v1/users", new).await?, 403, "forbidden");
        for target in [&weak.to_string(), &own_id] {
            let path = format!("/v1/users/{target}");
            let answer = ask(&server, &token, "PATCH", &path, json!({ "roles": [wanted] })).await?;
            assert_refused(&answer, 403, "forbidden");
        }
    }
    let beyond = json!({ "name": "mine", "permissions": ["devices:read", "keys:write"] });
    assert_refused(&ask(&server, &token, "POST", "/v1/roles", beyond).await?, 403, "forbidden");
    let stronger = json!({ "permissions": ["devices:read", "keys:write"] });
    let path = format!("/v1/roles/{reader}");
    assert_refused(&ask(&server, &token, "PATCH", &path, stronger).await?, 403, "forbidden");
    let strong_path = format!("/v1/roles/{strong}");
    let weaker = json!({ "permissions": ["devices:read"] });
    assert_refused(&ask(&server, &token, "PATCH", &strong_path, weaker).await?, 403, "forbidden");
    assert_refused(&ask(&server, &token, "DELETE", &strong_path, Value::Null).await?, 403, "forbidden");
    let within = json!({ "username": "helper", "roles": [reader] });
    assert_eq!(ask(&server, &token, "POST", "/v1/users", within).await?.status, 201, "what they have they may give");
    Ok(())
}

/// Whoever could set the password of somebody stronger would be that somebody at the next login. A clerk who looks after
/// people must not become an administrator this way, nor get one out of the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_lays_hands_on_somebody_who_may_do_more() -> Done {
    let server = Server::start().await?;
    let tenant = first_tenant(&server).await?;
    let (_, token) = clerk(&server, tenant).await?;
    let boss = add_user(&server, tenant, "boss", "admin").await?;
    let (boss_id, boss_token) = who(&boss);
    let path = format!("/v1/users/{boss_id}");
    for (method, path, wanted) in [
        ("POST", format!("{path}/password-reset"), Value::Null),
        ("PATCH", path.clone(), json!({ "disabled": true })),
        ("PATCH", path.clone(), json!({ "roles": [] })),
        ("PATCH", path.clone(), json!({ "email": "clerk@example.org" })),
        ("DELETE", path.clone(), Value::Null),
        ("DELETE", format!("{path}/sessions"), Value::Null),
    ] {
        let answer = ask(&server, &token, method, &path, wanted).await?;
        assert_refused(&answer, 403, "forbidden");
        assert!(!body(&answer).to_string().contains("brl_"), "{method} {path}");
    }
    assert_eq!(ask(&server, &boss_token, "GET", "/v1/me", Value::Null).await?.status, 200, "nothing happened to them");
    // A disabled person's roles count as well: they come back with the reset password.
    let (id, disabled) = (boss_id.parse()?, UserChange { disabled: Some(true), ..UserChange::default() });
    server.app().services.iam.change_person(tenant, id, disabled, almighty(), Origin::cli()).await?;
    let answer = ask(&server, &token, "PATCH", &path, json!({ "disabled": false })).await?;
    assert_refused(&answer, 403, "forbidden");
    Ok(())
}

/// A clerk invites somebody and keeps the link. An administrator makes that person an administrator before they take it
/// up. The link in the clerk's drawer must not have become the key to an administrator's account.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_never_leads_to_more_rights_than_its_maker_had() -> Done {
    let server = Server::start().await?;
    let (admin, tenant) = (server.admin_token().await?, first_tenant(&server).await?);
    let (_, token) = clerk(&server, tenant).await?;
    let reader = role(&server, tenant, "reader", &["devices:read"]).await?;
    let invite = |name: &str| json!({ "username": name, "roles": [reader] });
    let set = |made: &Value| json!({ "token": made["invitation"]["token"], "password": "another long one" });
    let kept = done(&server, &token, "POST", "/v1/users", invite("raised")).await?;
    let by_role = done(&server, &token, "POST", "/v1/users", invite("raised with the role")).await?;
    let same = done(&server, &token, "POST", "/v1/users", invite("not raised")).await?;
    let mut client = server.client()?;
    assert_eq!(client.post("/v1/auth/password", None, &set(&same)).await?.status, 204);
    let path = format!("/v1/users/{}", text(&kept, "id"));
    done(&server, &admin, "PATCH", &path, json!({ "roles": ["admin"] })).await?;
    let more = json!({ "permissions": ["devices:read", "keys:write"] });
    done(&server, &admin, "PATCH", &format!("/v1/roles/{reader}"), more).await?;
    for made in [&kept, &by_role] {
        assert_refused(&client.post("/v1/auth/password", None, &set(made)).await?, 401, "link_invalid");
    }
    let new = done(&server, &admin, "POST", &format!("{path}/password-reset"), Value::Null).await?;
    let body = json!({ "token": new["token"], "password": "another long one" });
    assert_eq!(client.post("/v1/auth/password", None, &body).await?.status, 204, "an administrator's own link does");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_administers_the_appliance_changes_who_administers_the_appliance() -> Done {
    let server = Server::start().await?;
    let tenant = first_tenant(&server).await?;
    let (first_id, first) = who(&server.login().await?);
    let (boss_id, boss) = who(&add_user(&server, tenant, "boss", "admin").await?);
    let path = format!("/v1/users/{first_id}");
    for (method, path, wanted) in [
        ("POST", format!("{path}/password-reset"), Value::Null),
        ("PATCH", path.clone(), json!({ "disabled": true })),
        ("PATCH", path.clone(), json!({ "display_name": "nobody" })),
        ("DELETE", path.clone(), Value::Null),
    ] {
        assert_refused(&ask(&server, &boss, method, &path, wanted).await?, 403, "forbidden");
    }
    done(&server, &first, "PATCH", &format!("/v1/users/{boss_id}"), json!({ "roles": ["viewer"] })).await?;
    Ok(())
}

/// The gate looked at the caller a moment before the change ran. What counts is the change's own moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_that_were_taken_away_between_gate_and_change_hand_out_nothing() -> Done {
    let server = Server::start().await?;
    let tenant = first_tenant(&server).await?;
    let was_admin = person(&server, tenant, "was admin", "viewer").await?;
    let stale = Authority { by: was_admin, may: Role::Admin.permissions(), program: false, bounded_by_person: true };
    let iam = &server.app().services.iam;
    let target = person(&server, tenant, "target", "viewer").await?;
    let new = |name: &str| NewUser {
        username: name.to_owned(),
        display_name: None,
        email: None,
        roles: vec![],
        password: None,
        system_admin: false,
    };
    assert_eq!(code_of(iam.add_person(tenant, new("a"), stale, None, Origin::cli()).await), "forbidden");
    assert_eq!(code_of(iam.remove_person(tenant, target, stale, Origin::cli()).await), "forbidden");
    assert_eq!(code_of(iam.new_password_link(tenant, target, stale, None, Origin::cli()).await), "forbidden");
    let set = PermissionSet::NONE;
    let made = iam.create_role(tenant, "r".to_owned(), set, stale, None, Origin::cli()).await;
    assert_eq!(code_of(made), "forbidden");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_hands_on_its_own_scopes_at_most_and_changes_nobodys_roles() -> Done {
    let server = Server::start().await?;
    let tenant = first_tenant(&server).await?;
    let scopes: PermissionSet =
        [Permission::UsersRead, Permission::UsersWrite, Permission::DevicesRead].into_iter().collect();
    let program = Authority { by: UserId::NIL, may: scopes, program: true, bounded_by_person: false };
    let reader = role(&server, tenant, "reader", &["devices:read"]).await?;
    let iam = &server.app().services.iam;
    let new = |name: &str, role: &str| -> Result<NewUser, Fault> {
        Ok(NewUser {
            username: name.to_owned(),
            display_name: None,
            email: None,
            roles: vec![role.parse()?],
            password: None,
            system_admin: true,
        })
    };
    assert_eq!(code_of(iam.add_person(tenant, new("a", "admin")?, program, None, Origin::cli()).await), "forbidden");
    let made = iam.add_person(tenant, new("b", &reader)?, program, None, Origin::cli()).await?;
    assert!(!made.user.system_admin, "nobody administers the appliance by this way");
    let change = |roles: Option<Vec<_>>, disabled| UserChange { roles, disabled, ..UserChange::default() };
    let id = made.user.id;
    let other = change(Some(vec![]), None);
    assert_eq!(code_of(iam.change_person(tenant, id, other, program, Origin::cli()).await), "forbidden");
    let same = change(Some(vec![reader.parse()?]), None);
    assert_eq!(code_of(iam.change_person(tenant, id, same, program, Origin::cli()).await), "done", "that is no change");
    let off = change(None, Some(true));
    assert_eq!(code_of(iam.change_person(tenant, id, off, program, Origin::cli()).await), "done");
    Ok(())
}

// ---- administrators and one's own account

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_keeps_its_last_administrator_who_can_log_in() -> Done {
    let server = Server::start().await?;
    let tenant = second_tenant(&server).await?;
    let all = Role::Admin.permissions().names();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let everything = role(&server, tenant, "everything", &all).await?;
    let (_, owner) = who(&add_user(&server, tenant, "owner", &everything).await?);
    let (id, _) = who(&add_user(&server, tenant, "only admin", "admin").await?);
    // Invited, and disabled, administrators let nobody in.
    person(&server, tenant, "invited", "admin").await?;
    let (off, _) = who(&add_user(&server, tenant, "off", "admin").await?);
    done(&server, &owner, "PATCH", &format!("/v1/users/{off}"), json!({ "disabled": true })).await?;
    let path = format!("/v1/users/{id}");
    for (method, wanted) in
        [("PATCH", json!({ "roles": ["viewer"] })), ("PATCH", json!({ "disabled": true })), ("DELETE", Value::Null)]
    {
        let answer = ask(&server, &owner, method, &path, wanted).await?;
        assert_refused(&answer, 409, "last_administrator");
    }
    done(&server, &owner, "PATCH", &format!("/v1/users/{off}"), json!({ "disabled": false })).await?;
    done(&server, &owner, "DELETE", &path, Value::Null).await?;
    let answer = ask(&server, &owner, "DELETE", &format!("/v1/users/{off}"), Value::Null).await?;
    assert_refused(&answer, 409, "last_administrator");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_twenty_administrators_demoted_at_the_same_time_one_is_left() -> Done {
    let server = Server::start().await?;
    let tenant = second_tenant(&server).await?;
    let iam = server.app().services.iam.clone();
    let mut admins = Vec::new();
    for i in 0..20 {
        let new = NewUser {
            username: format!("admin {i}"),
            display_name: None,
            email: None,
            roles: vec!["admin".parse()?],
            password: Some(blockremote::crypto::Secret::new(password_of("admin"))),
            system_admin: false,
        };
        admins.push(iam.create_user(tenant, new, Origin::cli()).await?.id);
    }
    let mut tasks = Vec::new();
    for id in &admins {
        let (iam, id) = (iam.clone(), *id);
        let own = Authority { by: id, may: Role::Admin.permissions(), program: false, bounded_by_person: true };
        let change = UserChange { roles: Some(vec!["viewer".parse()?]), ..UserChange::default() };
        tasks.push(tokio::spawn(
            async move { code_of(iam.change_person(tenant, id, change, own, Origin::cli()).await) },
        ));
    }
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await?);
    }
    assert_eq!(outcomes.iter().filter(|o| **o == "done").count(), 19, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|o| **o == "last_administrator").count(), 1, "{outcomes:?}");
    let (people, _) = iam.people(tenant, None, 200).await?;
    assert_eq!(people.iter().filter(|p| p.roles == ["admin".parse().unwrap_or(p.roles[0])]).count(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_disables_or_deletes_their_own_account() -> Done {
    let server = Server::start().await?;
    add_user(&server, first_tenant(&server).await?, "boss", "admin").await?;
    let (id, token) = who(&server.login().await?);
    let path = format!("/v1/users/{id}");
    let off = ask(&server, &token, "PATCH", &path, json!({ "disabled": true })).await?;
    assert_refused(&off, 409, "own_account");
    assert_refused(&ask(&server, &token, "DELETE", &path, Value::Null).await?, 409, "own_account");
    assert_eq!(ask(&server, &token, "PATCH", &path, json!({ "display_name": "me" })).await?.status, 200);
    Ok(())
}

// ---- what a change brings with it

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_disabled_is_out_at_once_and_comes_back_with_a_new_login() -> Done {
    let server = Server::start().await?;
    let (admin, tenant) = (server.admin_token().await?, first_tenant(&server).await?);
    let login = add_user(&server, tenant, "ada", "manager").await?;
    let (id, token) = who(&login);
    let path = format!("/v1/users/{id}");
    let phone =
        server.client()?.post("/v1/auth/device", Some(&token), &crate::common::enrollment("ADA-1", None)).await?;
    phone.success()?;
    let phone = text(&body(&phone), "access_token");
    let link = done(&server, &admin, "POST", &format!("{path}/password-reset"), Value::Null).await?;
    let off = done(&server, &admin, "PATCH", &path, json!({ "disabled": true })).await?;
    assert_eq!(off["disabled"], true);
    assert_eq!(ask(&server, &token, "GET", "/v1/me", Value::Null).await?.status, 401);
    assert_refused(&refresh(&server, &text(&login, "refresh_token")).await?, 403, "refresh_invalid");
    let again = json!({ "username": "ada", "password": password_of("ada") });
    let answer = server.client()?.post("/v1/auth/login", None, &again).await?;
    assert_refused(&answer, 401, "invalid_credentials");
    let reset = ask(&server, &admin, "POST", &format!("{path}/password-reset"), Value::Null).await?;
    assert_refused(&reset, 409, "user_disabled");
    let device = ask(&server, &phone, "GET", "/v1/devices/ADA-1", Value::Null).await?;
    assert_eq!(device.status, 200, "a device goes on being watched");
    done(&server, &admin, "PATCH", &path, json!({ "disabled": false })).await?;
    assert_eq!(ask(&server, &token, "GET", "/v1/me", Value::Null).await?.status, 401, "the old session stays ended");
    let old = json!({ "token": link["token"], "password": "another long one" });
    let answer = server.client()?.post("/v1/auth/password", None, &old).await?;
    assert_refused(&answer, 401, "link_invalid");
    log_in(&server, "ada").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_is_taken_away_bites_on_the_next_request() -> Done {
    let server = Server::start().await?;
    let (admin, tenant) = (server.admin_token().await?, first_tenant(&server).await?);
    let (id, token) = who(&add_user(&server, tenant, "ada", "manager").await?);
    assert_eq!(ask(&server, &token, "GET", "/v1/users", Value::Null).await?.status, 200);
    done(&server, &admin, "PATCH", &format!("/v1/users/{id}"), json!({ "roles": ["viewer"] })).await?;
    assert_refused(&ask(&server, &token, "GET", "/v1/users", Value::Null).await?, 403, "forbidden");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_deleted_leaves_nothing_but_the_log() -> Done {
    let server = Server::start().await?;
    let (admin, tenant) = (server.admin_token().await?, first_tenant(&server).await?);
    let login = add_user(&server, tenant, "ada", "manager").await?;
    let (id, token) = who(&login);
    let user: UserId = id.parse()?;
    let team = team(&server, tenant, "the team").await?;
    done(&server, &admin, "PUT", &format!("/v1/teams/{team}/members/{id}"), Value::Null).await?;
    done(&server, &admin, "POST", &format!("/v1/users/{id}/password-reset"), Value::Null).await?;
    let place = Key::new().bytes(tenant.to_bytes()).bytes(user.to_bytes());
    let owner = Key::new().bytes(blockremote::crypto::sha256(b"credential"));
    let factors = json!({ "user": id, "tenant": tenant, "passkeys": [{ "id": "pky_00000000-0000-7000-8000-000000000000",
        "name": "key", "rp_id": "box.lan", "credential_id": "Y3JlZGVudGlhbA", "public_key": "", "sign_count": 0, "backup_eligible": false,
        "created_at": "2026-01-01T00:00:00Z", "last_used_at": null }] });
    let mut row = vec![1];
    row.extend(factors.to_string().into_bytes());
    let store = &server.app().services.store;
    let (at, passkey) = (place.clone(), owner.clone());
    store
        .write(move |tx| {
            tx.put_raw(SECOND_FACTORS, &at, &row)?;
            tx.put_raw(PASSKEY_OWNERS, &passkey, at.as_ref())
        })
        .await?;
    done(&server, &admin, "DELETE", &format!("/v1/users/{id}"), Value::Null).await?;
    assert_eq!(ask(&server, &token, "GET", "/v1/me", Value::Null).await?.status, 401);
    assert_refused(&refresh(&server, &text(&login, "refresh_token")).await?, 403, "refresh_invalid");
    let left = store
        .read_with(move |s| {
            let mut links = 0;
            s.visit(LINKS, &[], None, |_, _| {
                links += 1;
                Ok(true)
            })?;
            Ok((s.get_raw(SECOND_FACTORS, &place)?, s.get_raw(PASSKEY_OWNERS, &owner)?, links))
        })
        .await?;
    assert_eq!(left, (None, None, 0));
    let members = done(&server, &admin, "GET", &format!("/v1/teams/{team}"), Value::Null).await?;
    assert_eq!((&members["members"], &members["member_count"]), (&json!([]), &json!(0)));
    let log = done(&server, &admin, "GET", "/v1/audit/logs?limit=200", Value::Null).await?;
    assert!(log.to_string().contains(&format!("{id} (ada): removed")), "the log tells of it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_sees_and_ends_the_sessions_of_a_person() -> Done {
    let server = Server::start().await?;
    let (admin, tenant) = (server.admin_token().await?, first_tenant(&server).await?);
    let (id, token) = who(&add_user(&server, tenant, "ada", "manager").await?);
    let (_, other) = who(&log_in(&server, "ada").await?);
    let phone =
        server.client()?.post("/v1/auth/device", Some(&token), &crate::common::enrollment("ADA-1", None)).await?;
    let phone = text(&body(&phone), "access_token");
    let path = format!("/v1/users/{id}/sessions");
    let count = |page: Value| page["data"].as_array().map(Vec::len);
    assert_eq!(count(done(&server, &admin, "GET", &path, Value::Null).await?), Some(3));
    let ended = done(&server, &admin, "DELETE", &path, Value::Null).await?;
    assert_eq!(ended, json!({ "ended": 2 }));
    for gone in [&token, &other] {
        assert_eq!(ask(&server, gone, "GET", "/v1/me", Value::Null).await?.status, 401);
    }
    assert_eq!(ask(&server, &phone, "GET", "/v1/devices/ADA-1", Value::Null).await?.status, 200);
    let ended = done(&server, &admin, "DELETE", &format!("{path}?devices=true"), Value::Null).await?;
    assert_eq!(ended, json!({ "ended": 1 }));
    assert_eq!(ask(&server, &phone, "GET", "/v1/devices/ADA-1", Value::Null).await?.status, 401);
    assert_eq!(ask(&server, &admin, "GET", "/v1/me", Value::Null).await?.status, 200);
    Ok(())
}

/// A session that was left open over lunch is no proof of who sits before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_gives_or_takes_rights_wants_a_fresh_proof() -> Done {
    let server = Server::start().await?;
    let (admin, tenant) = (server.admin_token().await?, first_tenant(&server).await?);
    let id = person(&server, tenant, "ada", "viewer").await?;
    let own = role(&server, tenant, "own", &["devices:read"]).await?;
    server.clock.advance(6 * MINUTE);
    let (path, role) = (format!("/v1/users/{id}"), format!("/v1/roles/{own}"));
    for (method, path, wanted) in [
        ("DELETE", path.clone(), Value::Null),
        ("POST", format!("{path}/password-reset"), Value::Null),
        ("PATCH", path.clone(), json!({ "roles": ["manager"] })),
        ("PATCH", path.clone(), json!({ "disabled": true })),
        ("POST", "/v1/roles".to_owned(), json!({ "name": "r", "permissions": [] })),
        ("PATCH", role.clone(), json!({ "name": "r" })),
        ("DELETE", role, Value::Null),
    ] {
        let answer = ask(&server, &admin, method, &path, wanted).await?;
        assert_refused(&answer, 403, "step_up_required");
    }
    done(&server, &admin, "PATCH", &path, json!({ "display_name": "Ada" })).await?;
    Ok(())
}

/// The answer was lost, the client asks again: one person, one invitation, and no second look at the secret.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_makes_one_person_and_shows_no_secret_again() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let bearer = format!("Bearer {admin}");
    let post = |path: String, key: &'static str, wanted: Value| {
        let (client, bearer) = (server.client(), bearer.clone());
        async move {
            let headers = [("authorization", bearer.as_str()), ("idempotency-key", key)];
            send(&mut client?, hyper::Method::POST, &path, &headers, &wanted).await
        }
    };
    let users = || "/v1/users".to_owned();
    let wanted = json!({ "username": "ada", "roles": ["viewer"] });
    let first = body(&post(users(), "k1", wanted.clone()).await?);
    assert!(text(&first["invitation"], "token").starts_with("brl_"), "{first}");
    let again = post(users(), "k1", wanted).await?;
    assert_eq!(again.status, 201);
    let mut expected = first.clone();
    expected["invitation"]["token"] = Value::Null;
    assert_eq!(body(&again), expected);
    let other = json!({ "username": "eve", "roles": ["viewer"] });
    assert_refused(&post(users(), "k1", other).await?, 409, "idempotency_conflict");
    let with = |password: &str| json!({ "username": "bob", "roles": ["viewer"], "password": password });
    assert_eq!(post(users(), "k2", with("a long enough one")).await?.status, 201);
    let another = post(users(), "k2", with("a different one!")).await?;
    assert_refused(&another, 409, "idempotency_conflict");
    let reset = format!("/v1/users/{}/password-reset", text(&first, "id"));
    let link = body(&post(reset.clone(), "k3", Value::Null).await?);
    let repeat = body(&post(reset, "k3", Value::Null).await?);
    assert!(text(&link, "token").starts_with("brl_"), "{link}");
    assert_eq!((&repeat["token"], &repeat["expires_at"]), (&Value::Null, &link["expires_at"]));
    let set = json!({ "token": link["token"], "password": "another long one" });
    assert_eq!(server.client()?.post("/v1/auth/password", None, &set).await?.status, 204, "the first link still works");
    Ok(())
}
