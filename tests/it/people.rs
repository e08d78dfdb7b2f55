//! Recipes of the matrix for people, roles, teams and enrollment tokens, and short ways to make them in any test.
//!
//! What a recipe needs is made behind the gate, so that no recipe uses up what the matrix counts.

use blockremote::client::Response;
use blockremote::domains::iam::{Authority, NewUser, Permission, PermissionSet, Role, TokenSpec};
use blockremote::gate::{Route, Verb};
use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::{TenantId, UserId};
use blockremote::testkit::{Fault, Server, text};
use hyper::Method;
use serde_json::{Value, json};

use crate::common::{DAY, add_user, password_of, send};
use crate::world::{Call, Who, World};

/// A request with a token and, where it is not null, a body.
pub async fn ask(server: &Server, token: &str, method: &str, path: &str, body: Value) -> Result<Response, Fault> {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("x-request-id", "same")];
    let (mut client, method) = (server.client()?, method.parse::<Method>()?);
    if body.is_null() {
        return Ok(client.request(method, path, &headers, "".into()).await?);
    }
    send(&mut client, method, path, &headers, &body).await
}

/// As [`ask`], where it must succeed; gives the body.
pub async fn done(server: &Server, token: &str, method: &str, path: &str, body: Value) -> Result<Value, Fault> {
    let answer = ask(server, token, method, path, body).await?;
    answer.success()?;
    Ok(if answer.body.is_empty() { Value::Null } else { answer.json()? })
}

/// A person who has no password, made behind the gate.
pub async fn person(server: &Server, tenant: TenantId, name: &str, role: &str) -> Result<UserId, Fault> {
    let new = NewUser {
        username: name.to_owned(),
        display_name: None,
        email: None,
        roles: vec![role.parse()?],
        password: None,
        system_admin: false,
    };
    Ok(server.app().services.iam.create_user(tenant, new, Origin::cli()).await?.id)
}

/// Somebody who may do whatever a tenant's administrator may, a program without a person behind it.
pub fn almighty() -> Authority {
    Authority { by: UserId::NIL, may: Role::Admin.permissions(), program: true, bounded_by_person: false }
}

/// A role that allows these, made behind the gate; gives its id.
pub async fn role(server: &Server, tenant: TenantId, name: &str, allows: &[&str]) -> Result<String, Fault> {
    let set: Result<PermissionSet, _> = allows.iter().map(|p| p.parse::<Permission>()).collect();
    let iam = &server.app().services.iam;
    Ok(iam.create_role(tenant, name.to_owned(), set?, almighty(), None, Origin::cli()).await?.id.to_string())
}

/// A team, made behind the gate; gives its id.
pub async fn team(server: &Server, tenant: TenantId, name: &str) -> Result<String, Fault> {
    let iam = &server.app().services.iam;
    Ok(iam.create_team(tenant, name.to_owned(), almighty(), None, Origin::cli()).await?.id.to_string())
}

/// An enrollment token, made behind the gate; gives its id.
pub async fn token(server: &Server, tenant: TenantId) -> Result<String, Fault> {
    let spec = TokenSpec { lifetime: DAY, uses_max: None, device: None };
    let iam = &server.app().services.iam;
    let made = iam.create_enrollment_token(tenant, spec, almighty(), None, Origin::cli()).await?;
    Ok(made.details.id.to_string())
}

async fn link_for(server: &Server, tenant: TenantId, user: UserId) -> Result<String, Fault> {
    let iam = &server.app().services.iam;
    let link = iam.new_password_link(tenant, user, almighty(), None, Origin::cli()).await?;
    Ok(link.token.unwrap_or_default())
}

/// What must stand in the log after these rows.
pub fn expected_entry(verb: Verb, path: &str) -> Option<&'static str> {
    Some(match (verb, path) {
        (_, "/v1/auth/password" | "/v1/me/password") => "password_changed",
        (Verb::Post, "/v1/users") => "user_created",
        (Verb::Patch, "/v1/users/{user_id}") => "user_updated",
        (Verb::Delete, "/v1/users/{user_id}") => "user_deleted",
        (_, "/v1/users/{user_id}/password-reset") => "password_link_created",
        (_, "/v1/users/{user_id}/sessions") => "session_revoked",
        (Verb::Post, "/v1/teams") => "team_created",
        (Verb::Patch, "/v1/teams/{team_id}") => "team_updated",
        (Verb::Delete, "/v1/teams/{team_id}") => "team_deleted",
        (Verb::Put, "/v1/teams/{team_id}/members/{user_id}") => "team_member_added",
        (Verb::Delete, "/v1/teams/{team_id}/members/{user_id}") => "team_member_removed",
        (Verb::Post, "/v1/roles") => "role_created",
        (Verb::Patch, "/v1/roles/{role_id}") => "role_updated",
        (Verb::Delete, "/v1/roles/{role_id}") => "role_deleted",
        (Verb::Post, "/v1/enrollment-tokens") => "enrollment_token_created",
        (Verb::Delete, "/v1/enrollment-tokens/{token_id}") => "enrollment_token_revoked",
        _ => return None,
    })
}

/// A request for a row of people that succeeds; `None` for other rows.
pub async fn recipe(world: &mut World, route: &Route, who: Who) -> Result<Option<Call>, Fault> {
    let name = world.fresh_name();
    let (server, tenant) = (&world.server, world.tenant);
    let at = |parameter: &str, id: &str| route.path.replace(parameter, id);
    Ok(Some(match (route.verb, route.path) {
        (Verb::Post, "/v1/auth/password") => {
            let user = person(server, tenant, &name, "viewer").await?;
            let body = json!({ "token": link_for(server, tenant, user).await?, "password": password_of(&name) });
            Call::of(route.path, body)
        }
        (Verb::Post, "/v1/me/password") => {
            let login = add_user(server, tenant, &name, "viewer").await?;
            let password = password_of(&name);
            let body = json!({ "current_password": password, "new_password": password });
            let token = matches!(who, Who::Admin | Who::Viewer).then(|| text(&login, "access_token"));
            Call { token, ..Call::of(route.path, body) }
        }
        (Verb::Get, "/v1/users" | "/v1/teams" | "/v1/roles" | "/v1/enrollment-tokens") => Call::get(route.path),
        (Verb::Post, "/v1/users") => Call::of(route.path, json!({ "username": name, "roles": [] })),
        (Verb::Delete, "/v1/users/{user_id}/sessions") => {
            let login = add_user(server, tenant, &name, "viewer").await?;
            Call::get(&at("{user_id}", &text(&login["user"], "id")))
        }
        (verb, "/v1/users/{user_id}" | "/v1/users/{user_id}/password-reset" | "/v1/users/{user_id}/sessions") => {
            let path = at("{user_id}", &person(server, tenant, &name, "viewer").await?.to_string());
            let body = if verb == Verb::Patch { json!({ "display_name": "the matrix" }) } else { Value::Null };
            Call::of(&path, body)
        }
        (Verb::Post, "/v1/teams") => Call::of(route.path, json!({ "name": name })),
        (verb, "/v1/teams/{team_id}") => {
            let path = at("{team_id}", &team(server, tenant, &name).await?);
            let body = if verb == Verb::Patch { json!({ "name": format!("{name} again") }) } else { Value::Null };
            Call::of(&path, body)
        }
        (verb, "/v1/teams/{team_id}/members/{user_id}") => {
            let user = person(server, tenant, &name, "viewer").await?;
            let team = team(server, tenant, &name).await?;
            if verb == Verb::Delete {
                let iam = &server.app().services.iam;
                iam.set_member(tenant, team.parse()?, user, true, almighty(), Origin::cli()).await?;
            }
            Call::get(&at("{team_id}", &team).replace("{user_id}", &user.to_string()))
        }
        (Verb::Post, "/v1/roles") => Call::of(route.path, json!({ "name": name, "permissions": ["devices:read"] })),
        (verb, "/v1/roles/{role_id}") => {
            let path = at("{role_id}", &role(server, tenant, &name, &["devices:read"]).await?);
            let body = if verb == Verb::Patch { json!({ "permissions": ["audit:read"] }) } else { Value::Null };
            Call::of(&path, body)
        }
        (Verb::Post, "/v1/enrollment-tokens") => Call::of(route.path, json!({})),
        (Verb::Delete, "/v1/enrollment-tokens/{token_id}") => {
            Call::get(&at("{token_id}", &token(server, tenant).await?))
        }
        _ => return Ok(None),
    }))
}
