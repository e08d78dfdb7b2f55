//! Companies on one appliance: made, shut out, removed without a trace but their log; and devices that are removed.

use blockremote::client::{HttpClient, Response};
use blockremote::domains::audit::{self, TreeCheck};
use blockremote::domains::tenants::{self, Tenant, TenantState};
use blockremote::kernel::ids::TenantId;
use blockremote::store::Key;
use blockremote::store::tables::{OWNERS, Owner, SIGNAL_RINGS, TENANTS};
use blockremote::testkit::{Device, Fault, Server, eventually, text};
use hyper::Method;
use redb::TableHandle;
use serde_json::{Value, json};

use crate::common::{
    DAY, Done, MINUTE, add_user, assert_refused, body, enroll_with, enrollment, enrollment_token, first_tenant,
    new_tenant, password_of, refresh, refreshed, send,
};
use crate::killswitch::raw::Raw;

mod invitation;
mod retention;

/// One who calls again and again.
struct Caller {
    client: HttpClient,
    token: String,
}

impl Caller {
    async fn admin(server: &Server) -> Result<Self, Fault> {
        Ok(Self { client: server.client()?, token: server.admin_token().await? })
    }

    async fn call(&mut self, method: Method, path: &str, body: &Value) -> Result<Response, Fault> {
        let bearer = format!("Bearer {}", self.token);
        send(&mut self.client, method, path, &[("authorization", &bearer)], body).await
    }

    async fn get(&mut self, path: &str) -> Result<Response, Fault> {
        Ok(self.client.get(path, Some(&self.token)).await?)
    }

    async fn post(&mut self, path: &str, body: &Value) -> Result<Response, Fault> {
        self.call(Method::POST, path, body).await
    }

    async fn patch(&mut self, path: &str, body: &Value) -> Result<Response, Fault> {
        self.call(Method::PATCH, path, body).await
    }

    async fn delete(&mut self, path: &str) -> Result<Response, Fault> {
        let bearer = format!("Bearer {}", self.token);
        Ok(self.client.request(Method::DELETE, path, &[("authorization", &bearer)], "".into()).await?)
    }
}

/// A company with one administrator of its name and one device, `THEIRS`.
struct Company {
    id: TenantId,
    path: String,
    admin: Value,
    device: Value,
}

impl Company {
    async fn new(server: &Server, name: &str) -> Result<Self, Fault> {
        let id = new_tenant(server, name).await?;
        let admin = add_user(server, id, name, "admin").await?;
        let token = enrollment_token(server, id, None).await?;
        let device = enroll_with(server, None, &enrollment("THEIRS", Some(&token))).await?.json()?;
        Ok(Self { id, path: format!("/v1/tenants/{id}"), admin, device })
    }

    async fn beat(&self, server: &Server) -> Result<Response, Fault> {
        let calm = json!({ "accelerometer": [0.1, 9.79, 0.3], "gyroscope": [0.01, 0.02, -0.03] });
        let beat = json!({ "device_id": "THEIRS", "payload": calm });
        Ok(server.client()?.post("/v1/signals/heartbeat", Some(&text(&self.device, "access_token")), &beat).await?)
    }
}

async fn log_of(server: &Server, tenant: TenantId) -> Result<Vec<Value>, Fault> {
    let page = server.app().services.audit.list(tenant, None, None, 200).await?;
    Ok(page.entries.iter().map(serde_json::to_value).collect::<Result<_, _>>()?)
}

async fn actions_of(server: &Server, tenant: TenantId) -> Result<Vec<String>, Fault> {
    Ok(log_of(server, tenant).await?.iter().map(|e| text(e, "action_taken")).collect())
}

fn trees(server: &Server) -> Result<Vec<TreeCheck>, Fault> {
    Ok(audit::check_trees(&server.app().services.store.read()?)?)
}

fn assert_sound(server: &Server) -> Done {
    for tree in trees(server)? {
        assert!(tree.faults.is_empty(), "{:?}", tree.faults);
    }
    Ok(())
}

/// Tables in which a tenant still has rows, the log and the list of tenants left out.
fn remains(server: &Server, tenant: TenantId) -> Result<Vec<(String, usize)>, Fault> {
    let snapshot = server.app().services.store.read()?;
    let (id, name) = (tenant.to_bytes(), tenant.to_string());
    let mut out = Vec::new();
    for (table, owner) in OWNERS.iter().filter(|(_, o)| !matches!(o, Owner::Audit | Owner::Appliance)) {
        let mut count = 0;
        snapshot.visit(*table, &[], None, |key, value| {
            count += usize::from(match owner {
                Owner::Key => key.starts_with(&id),
                Owner::Value => value.starts_with(&id),
                _ => value.windows(name.len()).any(|w| w == name.as_bytes()),
            });
            Ok(true)
        })?;
        if count > 0 {
            out.push((table.name().to_owned(), count));
        }
    }
    Ok(out)
}

async fn nothing_remains(server: &Server, tenant: TenantId) -> Done {
    for _ in 0..500 {
        if remains(server, tenant)?.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(MINUTE / 6_000).await;
    }
    Err(format!("rows are left: {:?}", remains(server, tenant)?).into())
}

async fn login(server: &Server, name: &str, password: &str) -> Result<Response, Fault> {
    let login = json!({ "username": name, "password": password });
    Ok(server.client()?.post("/v1/auth/login", None, &login).await?)
}

// ---- making and changing

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_made_with_an_administrator_who_logs_in_and_sees_only_it() -> Done {
    let server = Server::start().await?;
    let mut admin = Caller::admin(&server).await?;
    // Lists go by the time of making.
    server.clock.advance(MINUTE);
    let wanted = json!({
        "name": "Acme",
        "admin": { "username": "boss", "password": "seven lanterns by the quiet harbour" },
        "attestation": "required",
        "locale": "de-CH",
        "retention": { "audit_days": 90 },
    });
    let answer = admin.post("/v1/tenants", &wanted).await?;
    let made = body(&answer);
    assert_eq!(answer.status, 201, "{made}");
    assert_eq!(made["admin"]["username"], "boss");
    for (member, value) in [
        ("name", json!("Acme")),
        ("state", json!("active")),
        ("suspended_reason", Value::Null),
        ("suspended_at", Value::Null),
        ("enrollment", json!("token")),
        ("attestation", json!("required")),
        ("locale", json!("de-CH")),
        ("retention", json!({ "audit_days": 90 })),
        ("devices", json!(0)),
        ("users", json!(1)),
    ] {
        assert_eq!(made[member], value, "{member}");
    }
    let boss = login(&server, "Boss", "seven lanterns by the quiet harbour").await?;
    assert_eq!(body(&boss)["user"]["id"], made["admin"]["id"]);
    let mut boss = Caller { client: server.client()?, token: text(&body(&boss), "access_token") };
    assert_eq!(body(&boss.get("/v1/me").await?)["tenant"], made["id"]);
    for path in ["/v1/tenants".to_owned(), format!("/v1/tenants/{}", text(&made, "id"))] {
        assert_refused(&boss.get(&path).await?, 403, "forbidden");
    }
    let listed = body(&admin.get("/v1/tenants").await?);
    let names: Vec<String> = listed["data"].as_array().into_iter().flatten().map(|t| text(t, "name")).collect();
    assert_eq!(names, ["default", "Acme"]);
    assert!(!listed.to_string().contains("password"));
    let first: Value = admin.get("/v1/tenants?limit=1").await?.json()?;
    let rest = admin.get(&format!("/v1/tenants?cursor={}", text(&first, "next_cursor"))).await?;
    assert_eq!((body(&rest)["data"][0]["id"].clone(), &body(&rest)["next_cursor"]), (made["id"].clone(), &Value::Null));
    // Both logs tell of it; the new one not by whom.
    let id: TenantId = text(&made, "id").parse()?;
    let own = log_of(&server, id).await?;
    assert_eq!(actions_of(&server, id).await?[1..], ["tenant_created", "user_created"], "the login is newest");
    assert!(own[1..].iter().all(|e| e["ip"].is_null() && e["user_agent"].is_null() && e["jti"].is_null()), "{own:?}");
    assert_eq!(own[1]["user_id"], Value::Null);
    assert_eq!(actions_of(&server, first_tenant(&server).await?).await?[0], "tenant_created");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_taken_in_whatever_case_and_a_refused_tenant_leaves_nothing() -> Done {
    let server = Server::start().await?;
    let mut admin = Caller::admin(&server).await?;
    let before = actions_of(&server, first_tenant(&server).await?).await?.len();
    let other = json!({ "username": "ADMIN", "password": "seven lanterns by the quiet harbour" });
    for (wanted, status, code) in [
        (json!({ "name": "DeFault" }), 409, "name_taken"),
        (json!({ "name": "Acme", "admin": other }), 409, "username_taken"),
        (json!({}), 422, "invalid_request"),
        (json!({ "name": "" }), 422, "invalid_request"),
        (json!({ "name": "x".repeat(129) }), 422, "invalid_request"),
        (json!({ "name": " Acme" }), 422, "invalid_request"),
        (json!({ "name": "A\ncme" }), 422, "invalid_request"),
        (json!({ "name": "ten_00000000-0000-7000-8000-000000000000" }), 422, "invalid_request"),
        (json!({ "name": "Acme", "locale": "d" }), 422, "invalid_request"),
        (json!({ "name": "Acme", "locale": "de_CH" }), 422, "invalid_request"),
        (json!({ "name": "Acme", "locale": format!("de{}", "-abcdefgh".repeat(4)) }), 422, "invalid_request"),
        (json!({ "name": "Acme", "enrollment": "closed" }), 422, "invalid_request"),
        (json!({ "name": "Acme", "retention": { "audit_days": 0 } }), 422, "invalid_request"),
        (json!({ "name": "Acme", "retention": { "days": 1 } }), 422, "invalid_request"),
        (
            json!({ "name": "Acme", "admin": { "password": "seven lanterns by the quiet harbour" } }),
            422,
            "invalid_request",
        ),
        (json!({ "name": "Acme", "admin": { "username": "boss", "password": "short" } }), 422, "invalid_request"),
        (json!({ "name": "Acme", "owner": "me" }), 422, "invalid_request"),
    ] {
        assert_refused(&admin.post("/v1/tenants", &wanted).await?, status, code);
    }
    let listed: Value = admin.get("/v1/tenants").await?.json()?;
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(actions_of(&server, first_tenant(&server).await?).await?.len(), before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_making_makes_one_tenant() -> Done {
    let server = Server::start().await?;
    let mut admin = Caller::admin(&server).await?;
    let bearer = format!("Bearer {}", admin.token);
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "once")];
    let wanted =
        json!({ "name": "Acme", "admin": { "username": "boss", "password": "seven lanterns by the quiet harbour" } });
    let first = send(&mut admin.client, Method::POST, "/v1/tenants", &headers, &wanted).await?;
    let again = send(&mut admin.client, Method::POST, "/v1/tenants", &headers, &wanted).await?;
    assert_eq!((first.status, again.status, body(&first)), (201, 201, body(&again)));
    let other = send(&mut admin.client, Method::POST, "/v1/tenants", &headers, &json!({ "name": "Other" })).await?;
    assert_refused(&other, 409, "idempotency_conflict");
    let listed: Value = admin.get("/v1/tenants").await?.json()?;
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_made_once_noted_once_and_never_to_the_first_tenants_harm() -> Done {
    let server = Server::start().await?;
    let mut admin = Caller::admin(&server).await?;
    let (id, own) = (new_tenant(&server, "Acme").await?, first_tenant(&server).await?);
    let (path, own_path) = (format!("/v1/tenants/{id}"), format!("/v1/tenants/{own}"));
    let change = json!({ "name": "ACME", "enrollment": "open", "locale": "fr", "retention": { "audit_days": 7 } });
    for _ in 0..2 {
        let changed = admin.patch(&path, &change).await?;
        assert_eq!(changed.status, 200);
        for (member, value) in change.as_object().into_iter().flatten() {
            assert_eq!(body(&changed)[member], *value, "{member}");
        }
    }
    assert_eq!(actions_of(&server, id).await?, ["tenant_updated"]);
    assert_refused(&admin.patch(&path, &json!({ "name": "Default" })).await?, 409, "name_taken");
    assert_refused(&admin.patch(&path, &json!({ "suspend_reason": "x" })).await?, 422, "invalid_request");
    assert_refused(&admin.patch(&path, &json!({ "state": "suspended" })).await?, 422, "invalid_request");
    assert_refused(&admin.patch(&own_path, &json!({ "suspended": true })).await?, 409, "own_tenant");
    assert_refused(&admin.delete(&own_path).await?, 409, "own_tenant");
    assert_eq!(admin.patch(&own_path, &json!({ "name": "Headquarters", "suspended": false })).await?.status, 200);
    server.clock.advance(6 * MINUTE);
    assert_refused(&admin.delete(&path).await?, 403, "step_up_required");
    assert_eq!(admin.get(&path).await?.status, 200);
    Ok(())
}

/// The configuration names a tenant, and the tenant says yes: neither opens it alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_open_only_while_configuration_and_policy_both_say_so() -> Done {
    let server = Server::start_with(|c| c.enrollment.open_tenant = Some("default".to_owned())).await?;
    let mut admin = Caller::admin(&server).await?;
    let own = format!("/v1/tenants/{}", first_tenant(&server).await?);
    for (policy, device, status) in [("token", "BR-1", 401), ("open", "BR-2", 201)] {
        assert_eq!(admin.patch(&own, &json!({ "enrollment": policy })).await?.status, 200);
        assert_eq!(enroll_with(&server, None, &enrollment(device, None)).await?.status, status, "{policy}");
    }
    let closed = Server::start().await?;
    let mut admin = Caller::admin(&closed).await?;
    let own = format!("/v1/tenants/{}", first_tenant(&closed).await?);
    assert_eq!(admin.patch(&own, &json!({ "enrollment": "open" })).await?.status, 200);
    assert_refused(&enroll_with(&closed, None, &enrollment("BR-1", None)).await?, 401, "enrollment_refused");
    Ok(())
}

// ---- suspending

/// Whoever is shut out must be so at once, on every way in, and a lost phone must still be lockable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_tenant_is_refused_on_every_way_in_but_its_devices_hear_commands() -> Done {
    let server = Server::start().await?;
    let mut admin = Caller::admin(&server).await?;
    let company = Company::new(&server, "acme").await?;
    let (access, token) = (text(&company.admin, "access_token"), text(&company.admin, "refresh_token"));
    let device_refresh = text(&company.device, "refresh_token");
    let mut socket = Raw::with_token(&server.endpoint()?, &text(&company.device, "access_token")).await;
    assert_eq!(text(&socket.json().await, "action"), "AUTH_OK");
    assert_eq!(company.beat(&server).await?.status, 200);
    let shut = json!({ "suspended": true, "suspend_reason": "unpaid" });
    let answer = admin.patch(&company.path, &shut).await?;
    let view = body(&answer);
    assert_eq!((text(&view, "state"), text(&view, "suspended_reason")), ("suspended".into(), "unpaid".into()));
    assert!(!view["suspended_at"].is_null());

    let beat = json!({ "type": "heartbeat", "device_id": "THEIRS", "payload": { "accelerometer": [0.1, 9.79, 0.3], "gyroscope": [0.0, 0.0, 0.0] } });
    socket.say(&beat).await;
    let refused = socket.json().await;
    assert_eq!((text(&refused, "type"), text(&refused, "code")), ("error".into(), "tenant_suspended".into()));
    assert_refused(&company.beat(&server).await?, 403, "tenant_suspended");
    for path in ["/v1/me", "/v1/devices"] {
        assert_refused(&server.client()?.get(path, Some(&access)).await?, 403, "tenant_suspended");
    }
    assert_refused(&login(&server, "acme", &password_of("acme")).await?, 403, "tenant_suspended");
    assert_refused(&login(&server, "acme", "wrong").await?, 401, "invalid_credentials");
    for token in [&token, &device_refresh] {
        assert_refused(&refresh(&server, token).await?, 403, "tenant_suspended");
    }
    let ticket = enrollment_token(&server, company.id, None).await?;
    let newcomer = enroll_with(&server, None, &enrollment("NEW", Some(&ticket))).await?;
    assert_refused(&newcomer, 403, "tenant_suspended");
    // A rule of the appliance locks a phone of theirs.
    let order = blockremote::domains::killswitch::NewCommand::new(
        blockremote::domains::killswitch::Action::LockSystem,
        "stolen while its company was shut out",
    );
    let origin = blockremote::kernel::context::Origin::system();
    let killswitch = &server.app().services.killswitch;
    killswitch.command(company.id, "THEIRS".parse()?, order, None, origin).await?;
    let lock = socket.json().await;
    assert_eq!(text(&lock, "action"), "LOCK_SYSTEM");
    socket.ack(&text(&lock, "command_id"), "enforced").await;
    socket.is_quiet().await;

    assert_eq!(admin.patch(&company.path, &json!({ "suspended": false })).await?.status, 200);
    assert_eq!(server.client()?.get("/v1/me", Some(&access)).await?.status, 200);
    let (again, _) = refreshed(&server, &token).await?;
    assert_eq!(server.client()?.get("/v1/me", Some(&again)).await?.status, 200, "the token was not used up");
    let (again, _) = refreshed(&server, &device_refresh).await?;
    assert_eq!(status_with_device(&server, &again).await?, 200);
    assert_eq!(enroll_with(&server, None, &enrollment("NEW", Some(&ticket))).await?.status, 201);
    let told = actions_of(&server, company.id).await?;
    for action in ["tenant_suspended", "tenant_resumed"] {
        assert_eq!(told.iter().filter(|a| *a == action).count(), 1, "{action} in {told:?}");
    }
    Ok(())
}

async fn status_with_device(server: &Server, token: &str) -> Result<u16, Fault> {
    Ok(server.client()?.get("/v1/devices/THEIRS", Some(token)).await?.status)
}

// ---- deleting

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_tenant_is_gone_at_once_its_rows_soon_and_its_log_never() -> Done {
    let mut server = Server::start().await?;
    let mut admin = Caller::admin(&server).await?;
    let company = Company::new(&server, "acme").await?;
    let mut other = Company::new(&server, "bystander").await?;
    let acme = text(&company.admin, "access_token");
    let ticket = enrollment_token(&server, company.id, None).await?;
    assert_eq!((company.beat(&server).await?.status, other.beat(&server).await?.status), (200, 200));
    let lock = json!({ "action": "FORCE_OVERLAY", "reason": "theirs" });
    let headers = [("authorization", format!("Bearer {acme}")), ("idempotency-key", "k".to_owned())];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let mut client = server.client()?;
    assert_eq!(send(&mut client, Method::POST, "/v1/devices/THEIRS/commands", &headers, &lock).await?.status, 202);
    let mut sockets = Vec::new();
    for company in [&company, &other] {
        let mut socket = Raw::with_token(&server.endpoint()?, &text(&company.device, "access_token")).await;
        assert_eq!(text(&socket.json().await, "action"), "AUTH_OK");
        sockets.push(socket);
    }
    let tables: Vec<String> = remains(&server, company.id)?.into_iter().map(|(table, _)| table).collect();
    for table in ["users", "user_names", "sessions", "enrollment_tokens", "devices", "commands", "idempotency"] {
        assert!(tables.iter().any(|t| t == table), "the test would prove nothing of {table}: {tables:?}");
    }
    // Usage is written when its time comes, whatever becomes of the neighbour.
    let lasting = |mut tables: Vec<_>| {
        tables.retain(|(table, _)| *table != "usage_counts");
        tables
    };
    let bystanders = lasting(remains(&server, other.id)?);

    assert_eq!(admin.delete(&company.path).await?.status, 204);
    assert_eq!(sockets[0].closed().await, 1008);
    sockets[1].is_quiet().await;
    for path in ["/v1/me", "/v1/devices/THEIRS"] {
        assert_eq!(server.client()?.get(path, Some(&acme)).await?.status, 401);
    }
    assert_eq!(company.beat(&server).await?.status, 401);
    assert_refused(&login(&server, "acme", &password_of("acme")).await?, 401, "invalid_credentials");
    assert_refused(&refresh(&server, &text(&company.admin, "refresh_token")).await?, 403, "refresh_invalid");
    let newcomer = enroll_with(&server, None, &enrollment("NEW", Some(&ticket))).await?;
    assert_refused(&newcomer, 401, "enrollment_refused");
    let mut again = Raw::with_token(&server.endpoint()?, &text(&company.device, "access_token")).await;
    assert_eq!(again.closed().await, 1008);
    assert_refused(&admin.get(&company.path).await?, 404, "not_found");
    assert_refused(&admin.patch(&company.path, &json!({ "name": "x" })).await?, 404, "not_found");
    assert_refused(&admin.delete(&company.path).await?, 404, "not_found");
    nothing_remains(&server, company.id).await?;

    assert_eq!(lasting(remains(&server, other.id)?), bystanders);
    assert_eq!(other.beat(&server).await?.status, 200);
    let told = actions_of(&server, company.id).await?;
    assert_eq!(told.first().map(String::as_str), Some("tenant_deleted"));
    assert!(told.iter().any(|a| a == "command_requested"), "{told:?}");
    assert!(actions_of(&server, first_tenant(&server).await?).await?.iter().any(|a| a == "tenant_deleted"));
    assert_sound(&server)?;
    // Its name, and the names of its people, are free again.
    let wanted =
        json!({ "name": "ACME", "admin": { "username": "acme", "password": "seven lanterns by the quiet harbour" } });
    assert_eq!(admin.post("/v1/tenants", &wanted).await?.status, 201);
    assert_eq!(login(&server, "acme", "seven lanterns by the quiet harbour").await?.status, 200);

    // The journal still holds its readings: replaying them brings nothing back.
    server.restart().await?;
    let services = &server.app().services;
    assert!(services.devices.entry(company.id, &"THEIRS".parse()?).is_none());
    assert_eq!(services.devices.count(), 1);
    other.device["access_token"] = refreshed(&server, &text(&other.device, "refresh_token")).await?.0.into();
    assert_eq!(other.beat(&server).await?.status, 200);
    assert!(remains(&server, company.id)?.is_empty());
    assert_sound(&server)
}

/// The power failed behind the commit that deleted it, and before its rows were removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_was_cut_off_goes_on_at_the_next_start() -> Done {
    let mut server = Server::start().await?;
    let company = Company::new(&server, "acme").await?;
    assert_eq!(company.beat(&server).await?.status, 200);
    let (id, at) = (company.id, server.clock.now());
    server
        .app()
        .services
        .store
        .write(move |tx| {
            let row: Option<Tenant> = tx.get(TENANTS, Key::new().bytes(id.to_bytes()))?;
            let row = row.map(|t| Tenant { state: TenantState::Deleted { at, purged: false }, ..t });
            row.map_or(Ok(()), |row| tenants::save(tx, None, &row))
        })
        .await?;
    assert!(!remains(&server, id)?.is_empty());
    server.restart().await?;
    let services = &server.app().services;
    assert!(services.devices.entry(id, &"THEIRS".parse()?).is_none() && services.tenants.entry(id).is_none());
    assert_refused(&login(&server, "acme", &password_of("acme")).await?, 401, "invalid_credentials");
    nothing_remains(&server, id).await?;
    // A request that was under way wrote a moment later: only a pass well after the deletion is the last.
    let late = move |tx: &mut blockremote::store::Tx<'_>| {
        tx.put_raw(SIGNAL_RINGS, Key::new().bytes(id.to_bytes()).number(1), b"late")
    };
    services.store.write(late).await?;
    server.clock.advance(2 * MINUTE);
    services.iam.sweep().await;
    assert!(remains(&server, id)?.is_empty());
    services.store.write(late).await?;
    services.iam.sweep().await;
    assert_eq!(remains(&server, id)?.len(), 1, "what is through is through");
    assert_sound(&server)
}

// ---- devices

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_renamed_and_everything_else_of_it_stays() -> Done {
    let server = Server::start().await?;
    let mut device = server.enroll("BR-1").await?;
    let mut admin = Caller::admin(&server).await?;
    let before: Value = admin.get("/v1/devices/BR-1").await?.json()?;
    let answer = admin.patch("/v1/devices/BR-1", &json!({ "device_name": "reception" })).await?;
    let mut after = body(&answer);
    assert_eq!((answer.status, after["device_name"].take()), (200, json!("reception")));
    let mut expected = before;
    expected["device_name"].take();
    assert_eq!(after, expected);
    for wrong in [json!({ "device_name": "" }), json!({ "device_name": "x".repeat(129) }), json!({ "owner": "me" })] {
        assert_refused(&admin.patch("/v1/devices/BR-1", &wrong).await?, 422, "invalid_request");
    }
    assert_eq!(admin.patch("/v1/devices/BR-1", &json!({})).await?.status, 200);
    assert_eq!(crate::common::audited(&server, "BR-1").await?, ["device_updated", "device_enrolled"]);
    assert_eq!(device.beat(&device.calm()).await?.status, 200);
    Ok(())
}

/// How many devices' rings the data file holds.
fn rings(server: &Server) -> Option<usize> {
    let mut count = 0;
    let snapshot = server.app().services.store.read().ok()?;
    let counting = |_: &[u8], _: &[u8]| {
        count += 1;
        Ok(true)
    };
    snapshot.visit(SIGNAL_RINGS, &[], None, counting).ok()?;
    Some(count)
}

/// The checkpoint that rides along with the removal still has its last readings at hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_of_a_moment_ago_do_not_outlive_their_device() -> Done {
    let mut server = Server::start_with(|c| c.store.checkpoint_bytes = 1).await?;
    let mut admin = Caller::admin(&server).await?;
    for i in 0..5 {
        let mut device = server.enroll(&format!("BR-{i}")).await?;
        assert_eq!(device.beat(&device.calm()).await?.status, 200);
        assert_eq!(admin.delete(&format!("/v1/devices/{}", device.id)).await?.status, 204);
        // One more commit, with whatever it folds.
        admin.token = server.admin_token().await?;
    }
    assert_eq!(rings(&server), Some(0));
    server.restart().await?;
    assert_eq!((rings(&server), server.app().services.devices.count()), (Some(0), 0));
    assert_eq!(server.app().services.signals.unfolded(), 0, "the journal's readings are nobody's");
    Ok(())
}

async fn enrolled_again(server: &Server, device: &mut Device) -> Result<Value, Fault> {
    let body = enrollment(&device.id, Some(&server.enrollment_token));
    let again: Value = enroll_with(server, None, &body).await?.json()?;
    device.access_token = text(&again, "access_token");
    Ok(again)
}

/// A trial that starts again by removing the device, or a block that ends by it, would make both a joke.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_device_is_gone_and_comes_back_as_another_with_its_old_trial_and_block() -> Done {
    // Every commit is followed by a checkpoint, so that the rings are in the data file, too.
    let mut server = Server::start_with(|c| c.store.checkpoint_bytes = 1).await?;
    let mut device = server.enroll("BR-1").await?;
    let mut admin = Caller::admin(&server).await?;
    assert_eq!(device.beat(&device.calm()).await?.status, 200);
    assert!(eventually(|| rings(&server) == Some(1)).await, "the test would prove nothing of the rings");
    let lock = json!({ "action": "LOCK_SYSTEM", "reason": "lost" });
    let command: Value = admin.post("/v1/devices/BR-1/commands", &lock).await?.json()?;
    let before: Value = admin.get("/v1/devices/BR-1").await?.json()?;
    let tenant = first_tenant(&server).await?;
    let old_number = server.app().services.devices.entry(tenant, &device.id.parse()?).map(|e| e.no);
    let mut socket = Raw::with_token(&server.endpoint()?, &device.access_token).await;
    assert_eq!(text(&socket.json().await, "action"), "AUTH_OK");
    server.clock.advance(2 * MINUTE);

    assert_eq!(admin.delete("/v1/devices/BR-1").await?.status, 204);
    let (texts, code) = socket.rest().await;
    assert_eq!((texts.len(), code), (1, 1008), "the lock came, then the end");
    assert_eq!(device.beat(&device.calm()).await?.status, 401);
    assert_refused(&refresh(&server, &device.refresh_token).await?, 403, "refresh_invalid");
    for path in ["/v1/devices/BR-1", "/v1/devices/BR-1/commands", "/v1/audit/logs?device_id=BR-1"] {
        assert_refused(&admin.get(path).await?, 404, "not_found");
    }
    assert_refused(&admin.delete("/v1/devices/BR-1").await?, 404, "not_found");
    let told = crate::common::audited(&server, "BR-1").await?;
    assert_eq!(told.first().map(String::as_str), Some("device_deleted"));
    assert!(told.iter().any(|a| a == "device_enrolled"), "its entries stay: {told:?}");
    assert_eq!(rings(&server), Some(0));

    server.clock.advance(DAY);
    let old_token = device.access_token.clone();
    enrolled_again(&server, &mut device).await?;
    let entry = server.app().services.devices.entry(tenant, &device.id.parse()?).ok_or("it did not come back")?;
    assert_ne!(Some(entry.no), old_number);
    admin.token = server.admin_token().await?;
    let after: Value = admin.get("/v1/devices/BR-1").await?.json()?;
    for member in ["registered_at", "trial_expires_at", "state", "blocked"] {
        assert_eq!(after[member], before[member], "{member}");
    }
    assert_refused(&device.beat(&device.calm()).await?, 423, "device_blocked");
    let commands: Value = admin.get("/v1/devices/BR-1/commands").await?.json()?;
    assert_eq!(commands["data"], json!([]), "the old commands are gone");
    let release = admin.post("/v1/devices/BR-1/unblock", &json!({ "reason": "found" })).await?.json::<Value>()?;
    assert!(release["seq"].as_u64() > command["seq"].as_u64(), "a device refuses what it takes for an old command");
    // The old token was genuine; it must not open the new device's socket.
    let mut thief = Raw::with_token(&server.endpoint()?, &old_token).await;
    assert_eq!(thief.closed().await, 1008);
    assert_eq!(device.beat(&device.calm()).await?.status, 200);

    server.restart().await?;
    device.client = server.client()?;
    assert_eq!(server.app().services.devices.count(), 1);
    assert_eq!(device.beat(&device.calm()).await?.status, 200);
    assert_sound(&server)
}
