//! What several modules need beside the testkit: a look into an answer, further people, a second tenant.

use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use blockremote::client::{HttpClient, Response};
use blockremote::crypto::Secret;
use blockremote::domains::iam::{NewUser, TokenSpec, User};
use blockremote::domains::tenants::{self, Tenant};
use blockremote::kernel::Random;
use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::{TenantId, UserId};
use blockremote::store::tables::{Key, USERS};
use blockremote::testkit::{Fault, Server, text};
use hyper::Method;
use serde_json::{Value, json};

/// What a test gives back.
pub type Done = Result<(), Fault>;

pub const DAY: Duration = Duration::from_secs(86_400);
pub const MINUTE: Duration = Duration::from_secs(60);

/// The JSON of an answer, whatever its status; null where it is none.
pub fn body(answer: &Response) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_default()
}

/// The stable code of a refusal; empty for a success.
pub fn code(answer: &Response) -> String {
    text(&body(answer), "code")
}

/// A header's value; empty when it is absent.
pub fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// A request with a JSON body and headers of its own.
pub async fn send(
    client: &mut HttpClient,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> Result<Response, Fault> {
    let mut all = vec![("content-type", "application/json")];
    all.extend_from_slice(headers);
    Ok(client.request(method, path, &all, body.to_string().into()).await?)
}

/// The tenant that `init` made.
pub async fn first_tenant(server: &Server) -> Result<TenantId, Fault> {
    let store = &server.app().services.store;
    let tenant = store.read_with(tenants::Tenants::first).await?.ok_or("there is no tenant")?;
    Ok(tenant.id)
}

/// A second tenant, which knows nothing of the first one.
pub async fn second_tenant(server: &Server) -> Result<TenantId, Fault> {
    new_tenant(server, "the neighbour").await
}

/// A further tenant, made without a request.
pub async fn new_tenant(server: &Server, name: &str) -> Result<TenantId, Fault> {
    let now = server.clock.now();
    let tenant = Tenant::new(TenantId::generate(now, &Random::System), name, now);
    let services = &server.app().services;
    let (row, registry) = (tenant.clone(), services.tenants.clone());
    services.store.write(move |tx| tenants::save(tx, Some(&registry), &row)).await?;
    Ok(tenant.id)
}

/// The password of whom [`add_user`] made.
pub fn password_of(name: &str) -> String {
    format!("the password of {name}")
}

/// Makes a person with this role and logs them in; gives the answer of the login.
pub async fn add_user(server: &Server, tenant: TenantId, name: &str, role: &str) -> Result<Value, Fault> {
    let new = NewUser {
        username: name.to_owned(),
        display_name: None,
        email: None,
        roles: vec![role.parse()?],
        password: Some(Secret::new(password_of(name))),
        system_admin: false,
    };
    server.app().services.iam.create_user(tenant, new, Origin::cli()).await?;
    log_in(server, name).await
}

/// Logs in whom [`add_user`] made; gives the answer.
pub async fn log_in(server: &Server, name: &str) -> Result<Value, Fault> {
    let login = json!({ "username": name, "password": password_of(name) });
    let answer = server.client()?.post("/v1/auth/login", None, &login).await?;
    answer.success()?;
    Ok(answer.json()?)
}

/// Writes into a person's row that they are shut out. What is in memory of them learns it at the next start.
pub async fn disable(server: &Server, tenant: TenantId, user: UserId) -> Done {
    let place = Key::new().bytes(tenant.to_bytes()).bytes(user.to_bytes());
    let change = move |tx: &mut blockremote::store::Tx<'_>| {
        let row: Option<User> = tx.get(USERS, &place)?;
        let mut row = row.ok_or_else(blockremote::kernel::Refusal::not_found)?;
        row.disabled = true;
        tx.put(USERS, &place, &row)
    };
    server.app().services.store.write(change).await?;
    Ok(())
}

/// A token that enrolls devices into a tenant; `device` binds it to that one, and then it is good for one use.
pub async fn enrollment_token(server: &Server, tenant: TenantId, device: Option<&str>) -> Result<String, Fault> {
    let device = device.map(str::parse).transpose()?;
    let uses_max = device.as_ref().map(|_| 1);
    let spec = TokenSpec { lifetime: 30 * DAY, uses_max, device };
    let iam = &server.app().services.iam;
    Ok(iam.new_enrollment_token(tenant, None, spec, Origin::cli()).await?)
}

/// The smallest body that enrolls a device.
pub fn enrollment(device_id: &str, token: Option<&str>) -> Value {
    let mut body =
        json!({ "device_id": device_id, "device_name": "a phone", "os_version": "16", "platform": "android" });
    if let (Some(token), Some(members)) = (token, body.as_object_mut()) {
        members.insert("enrollment_token".to_owned(), token.into());
    }
    body
}

/// What was written to the log of a device, newest first: the names of the actions.
pub async fn audited(server: &Server, device_id: &str) -> Result<Vec<String>, Fault> {
    let tenant = first_tenant(server).await?;
    let page = server.app().services.audit.list(tenant, Some(device_id.parse()?), None, 200).await?;
    let name = |action| serde_json::to_value(action).ok().and_then(|v| v.as_str().map(str::to_owned));
    Ok(page.entries.iter().filter_map(|e| name(e.action_taken)).collect())
}

/// Presents a refresh token.
pub async fn refresh(server: &Server, token: &str) -> Result<Response, Fault> {
    refresh_with(server, &json!({ "refresh_token": token })).await
}

pub async fn refresh_with(server: &Server, body: &Value) -> Result<Response, Fault> {
    Ok(server.client()?.post("/v1/auth/refresh", None, body).await?)
}

/// Refreshes and gives access and refresh token.
pub async fn refreshed(server: &Server, token: &str) -> Result<(String, String), Fault> {
    let answer: Value = refresh(server, token).await?.json()?;
    Ok((text(&answer, "access_token"), text(&answer, "refresh_token")))
}

/// Sends an enrollment, with a bearer token where there is one.
pub async fn enroll_with(server: &Server, bearer: Option<&str>, body: &Value) -> Result<Response, Fault> {
    Ok(server.client()?.post("/v1/auth/device", bearer, body).await?)
}

/// The status of an ordinary read with this token.
pub async fn status_with(server: &Server, token: &str) -> Result<u16, Fault> {
    Ok(server.client()?.get("/v1/audit/logs?device_id=BR-1", Some(token)).await?.status)
}

async fn device_view(server: &Server, device: &str) -> Result<Value, Fault> {
    let admin = server.admin_token().await?;
    Ok(server.client()?.get(&format!("/v1/devices/{device}"), Some(&admin)).await?.json()?)
}

async fn commands_of(server: &Server, device: &str) -> Result<Vec<(String, String)>, Fault> {
    let admin = server.admin_token().await?;
    let answer = server.client()?.get(&format!("/v1/devices/{device}/commands"), Some(&admin)).await?;
    let list: Value = answer.json()?;
    let commands = list["data"].as_array().cloned().unwrap_or_default();
    Ok(commands.iter().map(|c| (text(c, "action"), text(c, "status"))).collect())
}

/// Nothing happened to the device: neither blocked nor told to lock. That its trial ended meanwhile is no lock.
pub async fn assert_untouched(server: &Server, device: &str) -> Done {
    assert_eq!(device_view(server, device).await?["state"], "active");
    let mut commands = commands_of(server, device).await?;
    commands.retain(|(action, _)| action != "BILLING_EXPIRED");
    assert_eq!(commands, []);
    Ok(())
}

/// Everything that answers a theft.
pub async fn assert_locked_for_theft(server: &Server, device: &str) -> Done {
    let view = device_view(server, device).await?;
    assert_eq!((&view["state"], &view["blocked"]["cause"]), (&json!("blocked"), &json!("refresh_reused")), "{view}");
    assert_eq!(commands_of(server, device).await?, [("CRITICAL_LOCK".to_owned(), "requested".to_owned())]);
    let audited = audited(server, device).await?;
    for action in ["refresh_reused", "device_blocked", "command_requested"] {
        assert_eq!(audited.iter().filter(|a| *a == action).count(), 1, "{action} in {audited:?}");
    }
    Ok(())
}

/// The answer is this refusal.
pub fn assert_refused(answer: &Response, status: u16, expected: &str) {
    assert_eq!((answer.status, code(answer).as_str()), (status, expected), "{}", body(answer));
}

/// One part of a token, decoded.
pub fn part(token: &str, index: usize) -> Result<Value, Fault> {
    let part = token.split('.').nth(index).ok_or("the token has too few parts")?;
    Ok(serde_json::from_slice(&Base64UrlUnpadded::decode_vec(part)?)?)
}

/// The same text with another character at `at` (from the end where negative).
pub fn altered(token: &str, at: isize) -> String {
    let mut bytes = token.as_bytes().to_vec();
    let index = if at < 0 { bytes.len() - at.unsigned_abs() } else { at.unsigned_abs() };
    bytes[index] = if bytes[index] == b'Q' { b'g' } else { b'Q' };
    String::from_utf8_lossy(&bytes).into_owned()
}
