//! Roles that a tenant makes for itself, and teams.

use blockremote::domains::iam::{Permission, PermissionSet, Role};
use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::{TeamId, UserId};
use blockremote::store::tables::{Key, TEAMS};
use blockremote::testkit::{Server, text};
use serde_json::{Value, json};

use crate::common::{Done, add_user, assert_refused, body, first_tenant, second_tenant};
use crate::people::{almighty, ask, done, person, role, team};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_has_the_built_in_roles_first_and_says_what_roles_are_made_of() -> Done {
    let server = Server::start().await?;
    let (admin, tenant) = (server.admin_token().await?, first_tenant(&server).await?);
    let own = role(&server, tenant, "Night shift", &["devices:read", "devices:command"]).await?;
    role(&server, second_tenant(&server).await?, "theirs", &["devices:read"]).await?;
    let list = done(&server, &admin, "GET", "/v1/roles", Value::Null).await?;
    let rows = list["data"].as_array().cloned().unwrap_or_default();
    let ids: Vec<String> = rows.iter().map(|r| text(r, "id")).collect();
    assert_eq!(ids, ["admin", "security_analyst", "manager", "viewer", "auditor", own.as_str()]);
    assert!(rows.iter().all(|r| (r["built_in"] == true) == (r["created_at"] == Value::Null)), "{list}");
    assert_eq!(rows[3]["permissions"], json!(Role::Viewer.permissions().names()));
    let available = list["available_permissions"].as_array().cloned().unwrap_or_default();
    assert_eq!(available.len(), Permission::ALL.len() - 1, "all but the appliance's own");
    assert!(available.iter().all(|p| !text(p, "name").is_empty() && !text(p, "meaning").is_empty()));
    assert!(!list["available_permissions"].to_string().contains("system:admin"));
    for id in ["viewer", &own] {
        assert_eq!(text(&done(&server, &admin, "GET", &format!("/v1/roles/{id}"), Value::Null).await?, "id"), id);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_role_bites_on_the_next_request_of_whoever_bears_it() -> Done {
    let server = Server::start().await?;
    let (admin, tenant) = (server.admin_token().await?, first_tenant(&server).await?);
    let wanted = json!({ "name": "Reception", "permissions": ["users:read", "devices:read"] });
    let made = ask(&server, &admin, "POST", "/v1/roles", wanted).await?;
    assert_eq!(made.status, 201, "{}", body(&made));
    let id = text(&body(&made), "id");
    let token = text(&add_user(&server, tenant, "ada", &id).await?, "access_token");
    let may = |path: &'static str| ask(&server, &token, "GET", path, Value::Null);
    assert_eq!((may("/v1/users").await?.status, may("/v1/devices").await?.status), (200, 200));
    let path = format!("/v1/roles/{id}");
    let changed = done(&server, &admin, "PATCH", &path, json!({ "permissions": ["devices:read"] })).await?;
    assert_eq!((&changed["name"], &changed["permissions"]), (&json!("Reception"), &json!(["devices:read"])));
    assert_eq!((may("/v1/users").await?.status, may("/v1/devices").await?.status), (403, 200));
    done(&server, &admin, "PATCH", &path, json!({ "name": "Desk", "permissions": ["users:read"] })).await?;
    assert_eq!((may("/v1/users").await?.status, may("/v1/devices").await?.status), (200, 403));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_somebody_bears_stays_and_a_built_in_one_is_what_it_is() -> Done {
    let server = Server::start().await?;
    let (admin, tenant) = (server.admin_token().await?, first_tenant(&server).await?);
    let id = role(&server, tenant, "Reception", &["devices:read"]).await?;
    let bearer = person(&server, tenant, "ada", &id).await?;
    let path = format!("/v1/roles/{id}");
    assert_refused(&ask(&server, &admin, "DELETE", &path, Value::Null).await?, 409, "role_in_use");
    done(&server, &admin, "PATCH", &format!("/v1/users/{bearer}"), json!({ "roles": [] })).await?;
    assert_eq!(ask(&server, &admin, "DELETE", &path, Value::Null).await?.status, 204);
    assert_refused(&ask(&server, &admin, "GET", &path, Value::Null).await?, 404, "not_found");
    for (method, wanted) in [("PATCH", json!({ "permissions": [] })), ("DELETE", Value::Null)] {
        let answer = ask(&server, &admin, method, "/v1/roles/viewer", wanted).await?;
        assert_refused(&answer, 409, "role_built_in");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_roles_and_teams_are_their_own_in_the_tenant() -> Done {
    let server = Server::start().await?;
    let (admin, tenant) = (server.admin_token().await?, first_tenant(&server).await?);
    let own = role(&server, tenant, "Reception", &["devices:read"]).await?;
    role(&server, second_tenant(&server).await?, "theirs", &["devices:read"]).await?;
    for (name, status) in [("reception", 409), ("Admin", 409), ("SECURITY_ANALYST", 409), ("theirs", 201)] {
        let wanted = json!({ "name": name, "permissions": ["devices:read"] });
        let answer = ask(&server, &admin, "POST", "/v1/roles", wanted).await?;
        assert_eq!(answer.status, status, "{name}: {}", body(&answer));
        assert!(status != 409 || text(&body(&answer), "code") == "name_taken");
    }
    let path = format!("/v1/roles/{own}");
    assert_eq!(ask(&server, &admin, "PATCH", &path, json!({ "name": "RECEPTION" })).await?.status, 200, "its own");
    assert_refused(&ask(&server, &admin, "PATCH", &path, json!({ "name": "theirs" })).await?, 409, "name_taken");
    team(&server, tenant, "Blue").await?;
    let answer = ask(&server, &admin, "POST", "/v1/teams", json!({ "name": "BLUE" })).await?;
    assert_refused(&answer, 409, "name_taken");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_is_made_of_permissions_and_never_of_the_appliance() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    for (wanted, pointer) in [
        (json!({ "name": "r", "permissions": ["devices:read", "devices:fly"] }), "/permissions/1"),
        (json!({ "name": "r", "permissions": ["system:admin"] }), "/permissions/0"),
        (json!({ "name": "r", "permissions": "devices:read" }), "/permissions"),
        (json!({ "name": " r", "permissions": [] }), "/name"),
        (json!({ "name": "x".repeat(65), "permissions": [] }), "/name"),
        (json!({ "name": "r" }), "/permissions"),
    ] {
        let answer = ask(&server, &admin, "POST", "/v1/roles", wanted.clone()).await?;
        assert_refused(&answer, 422, "invalid_request");
        assert_eq!(body(&answer)["errors"][0]["pointer"], pointer, "{wanted}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_has_two_hundred_roles_at_most() -> Done {
    let server = Server::start().await?;
    let (admin, tenant) = (server.admin_token().await?, first_tenant(&server).await?);
    let mut tasks = Vec::new();
    for i in 0..200 {
        let (iam, name) = (server.app().services.iam.clone(), format!("role {i}"));
        tasks.push(tokio::spawn(async move {
            iam.create_role(tenant, name, PermissionSet::NONE, almighty(), None, Origin::cli()).await.is_ok()
        }));
    }
    for task in tasks {
        assert!(task.await?);
    }
    let answer = ask(&server, &admin, "POST", "/v1/roles", json!({ "name": "r", "permissions": [] })).await?;
    assert_refused(&answer, 409, "too_many_roles");
    let list = done(&server, &admin, "GET", "/v1/roles", Value::Null).await?;
    assert_eq!((list["data"].as_array().map(Vec::len), &list["next_cursor"]), (Some(205), &Value::Null));
    Ok(())
}

// ---- teams

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_team_is_made_joined_left_and_removed() -> Done {
    let server = Server::start().await?;
    let (admin, tenant) = (server.admin_token().await?, first_tenant(&server).await?);
    let (ada, bob) = (person(&server, tenant, "ada", "viewer").await?, person(&server, tenant, "bob", "viewer").await?);
    let made = ask(&server, &admin, "POST", "/v1/teams", json!({ "name": "Blue" })).await?;
    assert_eq!((made.status, &body(&made)["members"]), (201, &json!([])));
    let path = format!("/v1/teams/{}", text(&body(&made), "id"));
    for user in [ada, bob, ada] {
        let answer = ask(&server, &admin, "PUT", &format!("{path}/members/{user}"), Value::Null).await?;
        assert_eq!(answer.status, 204, "again is no mistake");
    }
    let found = done(&server, &admin, "GET", &path, Value::Null).await?;
    let expected = json!([
        { "id": ada, "username": "ada", "display_name": null },
        { "id": bob, "username": "bob", "display_name": null },
    ]);
    assert_eq!((&found["members"], &found["member_count"]), (&expected, &json!(2)));
    let list = done(&server, &admin, "GET", "/v1/teams", Value::Null).await?;
    assert_eq!((&list["data"][0]["name"], &list["data"][0]["member_count"]), (&json!("Blue"), &json!(2)));
    let renamed = done(&server, &admin, "PATCH", &path, json!({ "name": "Azure" })).await?;
    assert_eq!((&renamed["name"], &renamed["members"]), (&json!("Azure"), &expected));
    let member = format!("{path}/members/{ada}");
    assert_eq!(ask(&server, &admin, "DELETE", &member, Value::Null).await?.status, 204);
    assert_refused(&ask(&server, &admin, "DELETE", &member, Value::Null).await?, 404, "not_found");
    assert_eq!(ask(&server, &admin, "DELETE", &path, Value::Null).await?.status, 204);
    assert_refused(&ask(&server, &admin, "GET", &path, Value::Null).await?, 404, "not_found");
    let still = ask(&server, &admin, "GET", &format!("/v1/users/{bob}"), Value::Null).await?;
    assert_eq!(still.status, 200, "its members stay");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_of_another_tenant_joins_a_team_or_bears_its_roles() -> Done {
    let server = Server::start().await?;
    let (admin, tenant) = (server.admin_token().await?, first_tenant(&server).await?);
    let neighbour = second_tenant(&server).await?;
    let theirs = person(&server, neighbour, "theirs", "viewer").await?;
    let their_role = role(&server, neighbour, "theirs", &["devices:read"]).await?;
    let own = team(&server, tenant, "Blue").await?;
    let joined = ask(&server, &admin, "PUT", &format!("/v1/teams/{own}/members/{theirs}"), Value::Null).await?;
    assert_refused(&joined, 404, "not_found");
    let wanted = json!({ "username": "ada", "roles": [their_role] });
    let answer = ask(&server, &admin, "POST", "/v1/users", wanted).await?;
    assert_refused(&answer, 422, "invalid_request");
    for path in [format!("/v1/users/{theirs}"), format!("/v1/roles/{their_role}")] {
        assert_refused(&ask(&server, &admin, "GET", &path, Value::Null).await?, 404, "not_found");
        assert_refused(&ask(&server, &admin, "DELETE", &path, Value::Null).await?, 404, "not_found");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_team_has_a_thousand_members_at_most() -> Done {
    let server = Server::start().await?;
    let (admin, tenant) = (server.admin_token().await?, first_tenant(&server).await?);
    let id: TeamId = team(&server, tenant, "Blue").await?.parse()?;
    let ada = person(&server, tenant, "ada", "viewer").await?;
    let key = Key::new().bytes(tenant.to_bytes()).bytes(id.to_bytes());
    let (now, random) = (server.clock.now(), blockremote::kernel::Random::seeded(1));
    let crowd: Vec<String> = (0..1_000).map(|_| UserId::generate(now, &random).to_string()).collect();
    let store = &server.app().services.store;
    store
        .write(move |tx| {
            let row = tx.get_raw(TEAMS, &key)?.unwrap_or_default();
            let (version, json) = row.split_at(1);
            let mut team: Value = serde_json::from_slice(json).map_err(blockremote::kernel::Error::internal)?;
            team["members"] = json!(crowd);
            tx.put_raw(TEAMS, &key, &[version, team.to_string().as_bytes()].concat())
        })
        .await?;
    let answer = ask(&server, &admin, "PUT", &format!("/v1/teams/{id}/members/{ada}"), Value::Null).await?;
    assert_refused(&answer, 409, "team_full");
    Ok(())
}
