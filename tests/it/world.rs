//! What the matrix of routes and callers is made of: callers, requests that succeed, and what each row promises.
//!
//! A row of the route table without a recipe here fails the matrix.

pub mod hooks;
pub mod money;
pub mod second_factor;

use blockremote::client::{HttpClient, Response};
use blockremote::config::Config;
use blockremote::crypto::SigningKey;
use blockremote::domains::attestation::{Asker, NewRoot, RootKind};
use blockremote::domains::iam::{Bound, KeyKind, NewKey, Permission, PermissionSet, Role};
use blockremote::gate::routes::ROUTES;
use blockremote::gate::{Access, Door, Route, Verb};
use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::{TenantId, UserId};
use blockremote::testkit::{Fault, Server, text};
use hyper::Method;
use serde_json::{Value, json};

use crate::common::{DAY, add_user, body, enrollment, first_tenant, header, log_in, new_tenant, part, send};
use crate::tpm::chip::{Maker, keys_without_a_chip};
use crate::{hardware, people, trust};

/// Who calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    Anonymous,
    Garbage,
    /// A person whose session was logged out a moment ago.
    Ended,
    Device,
    Admin,
    /// A person who may only read.
    Viewer,
}

pub const EVERYBODY: [Who; 6] = [Who::Anonymous, Who::Garbage, Who::Ended, Who::Device, Who::Admin, Who::Viewer];

/// A request that succeeds when its caller may make it.
pub struct Call {
    pub path: String,
    pub body: Value,
    /// Instead of the caller's usual token.
    pub token: Option<String>,
    /// Beside the usual ones.
    pub headers: Vec<(&'static str, String)>,
}

impl Call {
    pub fn of(path: &str, body: Value) -> Self {
        Self { path: path.to_owned(), body, token: None, headers: Vec::new() }
    }

    pub fn get(path: &str) -> Self {
        Self::of(path, Value::Null)
    }
}

/// What must stand in the log after a row of the class `Write` succeeded.
pub fn expected_entry(verb: Verb, path: &str) -> Option<&'static str> {
    Some(match path {
        "/v1/auth/login" => "login_succeeded",
        "/v1/auth/device" => "device_enrolled",
        "/v1/auth/refresh" => "token_refreshed",
        "/v1/auth/logout" => "logged_out",
        "/v1/me/sessions" => "session_revoked",
        "/v1/me/sessions/{session_id}" if verb == Verb::Patch => "session_renamed",
        "/v1/me/sessions/{session_id}" => "session_revoked",
        "/v1/api-keys" => "api_key_created",
        "/v1/api-keys/{key_id}" => "api_key_revoked",
        "/v1/api-keys/{key_id}/rotate" => "api_key_rotated",
        "/v1/instance-tokens" => "instance_token_created",
        "/v1/instance-tokens/{key_id}" => "instance_token_revoked",
        "/v1/devices/{device_id}/attestation" | "/v1/billing/status" => "attestation_accepted",
        "/v1/devices/{device_id}/attestation/request" => "attestation_requested",
        "/v1/devices/{device_id}/certificate" => "certificate_issued",
        "/v1/devices/{device_id}/commands" => "command_requested",
        "/v1/devices/{device_id}/unblock" => "device_unblocked",
        "/v1/devices/{device_id}" if verb == Verb::Patch => "device_updated",
        "/v1/devices/{device_id}" => "device_deleted",
        "/v1/intel/feeds/{feed}" if verb == Verb::Put => "intel_feed_imported",
        "/v1/intel/feeds/{feed}" => "intel_feed_removed",
        "/v1/audit/checkpoint" => "audit_checkpointed",
        "/v1/tenants" => "tenant_created",
        "/v1/tenants/{tenant_id}" if verb == Verb::Patch => "tenant_updated",
        "/v1/tenants/{tenant_id}" => "tenant_deleted",
        path => {
            let others = [
                second_factor::expected_entry,
                people::expected_entry,
                trust::expected_entry,
                money::expected_entry,
                hooks::expected_entry,
            ];
            return others.iter().find_map(|expected| expected(verb, path));
        }
    })
}

pub struct World {
    pub server: Server,
    pub client: HttpClient,
    pub tenant: TenantId,
    pub admin: String,
    pub viewer: String,
    pub ended: String,
    pub device: String,
    /// The key that BR-1 enrolled.
    key: SigningKey,
    pub command_id: String,
    /// Makes TPMs that the tenant trusts.
    tpm_maker: Maker,
    next: u64,
}

impl World {
    pub async fn new() -> Result<Self, Fault> {
        Self::with(|_| {}).await
    }

    /// With further settings.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Result<Self, Fault> {
        let server = Server::start_with(|c| {
            // The matrix shows hundreds of bad tokens from one address.
            c.limits.auth_failures_per_minute = 100_000;
            c.attestation.apple_app_id = Some(hardware::APP.to_owned());
            c.billing.webhook_secret = Some(money::SECRET.into());
            money::with_vendor_key(c);
            change(c);
        })
        .await?;
        let tenant = first_tenant(&server).await?;
        let viewer = text(&add_user(&server, tenant, "viewer", "viewer").await?, "access_token");
        let ended = server.admin_token().await?;
        let mut client = server.client()?;
        client.post("/v1/auth/logout", Some(&ended), &json!({})).await?.success()?;
        let admin = server.admin_token().await?;
        let enrolled = server.enroll("BR-1").await?;
        let (device, key) = (enrolled.access_token, enrolled.key);
        server.enroll("BR-2").await?;
        let overlay = json!({ "action": "FORCE_LOGOUT", "reason": "the matrix" });
        let command: Value = client.post("/v1/devices/BR-2/commands", Some(&admin), &overlay).await?.json()?;
        let command_id = text(&command, "command_id");
        let tpm_maker = Maker::new("the matrix")?;
        let root = NewRoot { kind: RootKind::Tpm, label: "the matrix".to_owned(), pem: tpm_maker.pem.clone() };
        server.app().services.attestation.add_root(tenant, root, None, Origin::cli()).await?;
        Ok(Self { server, client, tenant, admin, viewer, ended, device, key, command_id, tpm_maker, next: 0 })
    }

    pub fn token(&self, who: Who) -> Option<String> {
        match who {
            Who::Anonymous => None,
            Who::Garbage => Some("not.a.token".to_owned()),
            Who::Ended => Some(self.ended.clone()),
            Who::Device => Some(self.device.clone()),
            Who::Admin => Some(self.admin.clone()),
            Who::Viewer => Some(self.viewer.clone()),
        }
    }

    pub fn fresh_name(&mut self) -> String {
        self.next += 1;
        format!("matrix-{}", self.next)
    }

    pub async fn fresh_device(&mut self) -> Result<blockremote::testkit::Device, Fault> {
        let name = self.fresh_name();
        self.server.enroll(&name).await
    }

    /// A request for this row that succeeds, from a caller who may make it.
    pub async fn recipe(&mut self, route: &Route, who: Who) -> Result<Call, Fault> {
        if let Some(call) = people::recipe(self, route, who).await? {
            return Ok(call);
        }
        if let Some(call) = trust::recipe(self, route).await? {
            return Ok(call);
        }
        if let Some(call) = self.hooks_recipe(route).await? {
            return Ok(call);
        }
        if let Some(call) = self.money_recipe(route, who).await? {
            return Ok(call);
        }
        // A device speaks of itself; a person of any device.
        let device = if who == Who::Device { "BR-1" } else { "BR-2" };
        if let Some(call) = self.second_factor_recipe(route.verb, route.path, who).await? {
            return Ok(call);
        }
        Ok(match (route.verb, route.path) {
            (Verb::Post, "/v1/auth/login") => {
                let admin = &self.server.admin;
                let body = json!({ "username": admin.username, "password": admin.password.expose() });
                Call::of("/v1/auth/login", body)
            }
            (Verb::Post, "/v1/auth/device") => {
                let name = self.fresh_name();
                Call::of("/v1/auth/device", enrollment(&name, Some(&self.server.enrollment_token)))
            }
            (Verb::Post, "/v1/auth/refresh") => {
                let device = self.fresh_device().await?;
                Call::of("/v1/auth/refresh", json!({ "refresh_token": device.refresh_token }))
            }
            (Verb::Post, "/v1/auth/logout") => {
                let token = match who {
                    Who::Device => Some(self.fresh_device().await?.access_token),
                    Who::Admin => Some(self.server.admin_token().await?),
                    Who::Viewer => Some(self.fresh_viewer().await?.1),
                    Who::Anonymous | Who::Garbage | Who::Ended => None,
                };
                Call { token, ..Call::get("/v1/auth/logout") }
            }
            (Verb::Delete, "/v1/me/sessions") => {
                // By a session of its own, because it ends all others.
                let (name, mut token) = (self.fresh_name(), None);
                if matches!(who, Who::Admin | Who::Viewer) {
                    let role = if who == Who::Admin { "admin" } else { "viewer" };
                    add_user(&self.server, self.tenant, &name, role).await?;
                    token = Some(text(&log_in(&self.server, &name).await?, "access_token"));
                }
                Call { token, ..Call::get("/v1/me/sessions") }
            }
            (Verb::Patch, "/v1/me/sessions/{session_id}") => {
                let (session, token) = match who {
                    Who::Viewer => {
                        let (session, token) = self.fresh_viewer().await?;
                        (session, Some(token))
                    }
                    _ => (text(&self.server.login().await?, "session_id"), None),
                };
                let body = json!({ "name": "the matrix" });
                Call { token, ..Call::of(&format!("/v1/me/sessions/{session}"), body) }
            }
            (Verb::Delete, "/v1/me/sessions/{session_id}") => {
                let (session, token) = match who {
                    Who::Viewer => {
                        let (session, token) = self.fresh_viewer().await?;
                        (session, Some(token))
                    }
                    _ => (text(&self.server.login().await?, "session_id"), None),
                };
                Call { token, ..Call::get(&format!("/v1/me/sessions/{session}")) }
            }
            (Verb::Post, path @ ("/v1/api-keys" | "/v1/instance-tokens")) => {
                let expires_at = self.server.clock.now().plus(30 * DAY).to_string();
                let mut body = json!({ "name": "the matrix", "scopes": ["devices:read"], "expires_at": expires_at });
                if path == "/v1/instance-tokens" {
                    body["bound"] = json!({ "integration": "the matrix" });
                }
                Call::of(path, body)
            }
            (Verb::Get | Verb::Delete, "/v1/api-keys/{key_id}") => {
                Call::get(&format!("/v1/api-keys/{}", self.fresh_key(KeyKind::Api).await?))
            }
            (Verb::Post, "/v1/api-keys/{key_id}/rotate") => {
                Call::of(&format!("/v1/api-keys/{}/rotate", self.fresh_key(KeyKind::Api).await?), json!({}))
            }
            (Verb::Delete, "/v1/instance-tokens/{key_id}") => {
                Call::get(&format!("/v1/instance-tokens/{}", self.fresh_key(KeyKind::Instance).await?))
            }
            (Verb::Get, "/v1/devices/{device_id}/attestation") => {
                Call::get(&format!("/v1/devices/{device}/attestation"))
            }
            (Verb::Post, "/v1/devices/{device_id}/attestation" | "/v1/billing/status") => {
                let mut nonce = "A".repeat(43);
                if who == Who::Device {
                    let attestation = &self.server.app().services.attestation;
                    (nonce, _) = attestation.new_nonce(self.tenant, "BR-1".parse()?, Asker::Enrolled, None).await?;
                }
                let body = crate::attestation::signed(&self.key, self.tenant, "BR-1", &nonce);
                match route.path {
                    "/v1/billing/status" => Call::of(route.path, json!({ "device_id": "BR-1", "attestation": body })),
                    _ => Call::of(&format!("/v1/devices/{device}/attestation"), body),
                }
            }
            (Verb::Post, "/v1/devices/{device_id}/attestation/request") => {
                Call::get(&format!("/v1/devices/{device}/attestation/request"))
            }
            (Verb::Post, "/v1/attestation/nonce") => {
                // One of its own: few nonces of one device may be open.
                let caller = self.fresh_device().await?;
                let token = (who == Who::Device).then_some(caller.access_token);
                Call { token, ..Call::of(route.path, json!({ "device_id": caller.id })) }
            }
            (Verb::Post, "/v1/attestation/tpm/activate") => {
                let caller = self.fresh_device().await?;
                let token = (who == Who::Device).then_some(caller.access_token);
                Call { token, ..Call::of(route.path, keys_without_a_chip(&caller.id, &self.tpm_maker)?) }
            }
            (Verb::Post, "/v1/devices/{device_id}/certificate") => {
                let csr = crate::grpc::csr(&self.key.to_pkcs8_pem()?)?;
                Call::of(&format!("/v1/devices/{device}/certificate"), json!({ "csr": csr }))
            }
            (Verb::Get, "/v1/devices/{device_id}") => Call::get(&format!("/v1/devices/{device}")),
            (Verb::Patch, "/v1/devices/{device_id}") => {
                let name = self.fresh_name();
                Call::of("/v1/devices/BR-2", json!({ "device_name": name }))
            }
            (Verb::Delete, "/v1/devices/{device_id}") => {
                let name = self.fresh_device().await?.id;
                Call::get(&format!("/v1/devices/{name}"))
            }
            (verb @ (Verb::Get | Verb::Put | Verb::Delete), "/v1/intel/feeds/{feed}") => {
                let name = self.fresh_name();
                if verb != Verb::Put {
                    crate::intel::feed(&self.server, self.tenant, &name).await?;
                }
                let body = if verb == Verb::Put { json!({ "content": "evil.example\n" }) } else { Value::Null };
                Call::of(&format!("/v1/intel/feeds/{name}"), body)
            }
            (Verb::Get, "/v1/devices/{device_id}/sideloads") => Call::get(&format!("/v1/devices/{device}/sideloads")),
            (Verb::Get, "/v1/devices/{device_id}/links") => Call::get(&format!("/v1/devices/{device}/links")),
            (Verb::Get, "/v1/intel/lookup") => Call::get("/v1/intel/lookup?kind=domain&value=evil.example"),
            (Verb::Post, "/v1/tenants") => Call::of("/v1/tenants", json!({ "name": self.fresh_name() })),
            (verb @ (Verb::Get | Verb::Patch | Verb::Delete), "/v1/tenants/{tenant_id}") => {
                let (name, other) = (self.fresh_name(), self.fresh_name());
                let path = format!("/v1/tenants/{}", new_tenant(&self.server, &name).await?);
                let body = if verb == Verb::Patch { json!({ "name": other }) } else { Value::Null };
                Call::of(&path, body)
            }
            (Verb::Post, "/v1/devices/{device_id}/commands") => {
                let body = json!({ "action": "FORCE_LOGOUT", "reason": "the matrix" });
                Call::of("/v1/devices/BR-2/commands", body)
            }
            (Verb::Get, "/v1/devices/{device_id}/commands") => Call::get(&format!("/v1/devices/{device}/commands")),
            (Verb::Get, "/v1/devices/{device_id}/commands/{command_id}") => {
                let (device, id) = match who {
                    Who::Device => ("BR-1", self.command_for("BR-1").await?),
                    _ => ("BR-2", self.command_id.clone()),
                };
                Call::get(&format!("/v1/devices/{device}/commands/{id}"))
            }
            (Verb::Post, "/v1/devices/{device_id}/unblock") => {
                let name = self.fresh_device().await?.id;
                let lock = json!({ "action": "LOCK_SYSTEM", "reason": "the matrix" });
                let admin = self.admin.clone();
                self.client.post(&format!("/v1/devices/{name}/commands"), Some(&admin), &lock).await?.success()?;
                Call::of(&format!("/v1/devices/{name}/unblock"), json!({ "reason": "the matrix" }))
            }
            (Verb::Post, "/v1/signals/heartbeat") => {
                let payload = json!({ "accelerometer": [0.1, 9.79, 0.3], "gyroscope": [0.01, 0.02, -0.03] });
                Call::of("/v1/signals/heartbeat", json!({ "device_id": "BR-1", "payload": payload }))
            }
            (Verb::Get, path @ ("/v1/security/trust-score" | "/v1/audit/logs")) => {
                Call::get(&format!("{path}?device_id={device}"))
            }
            (verb, "/v1/audit/checkpoint") => {
                // Something must have happened since the last one, and something must be signed.
                self.server.admin_token().await?;
                if verb == Verb::Get {
                    self.server.app().services.audit.sign(self.tenant, Origin::cli()).await?;
                }
                Call::of("/v1/audit/checkpoint", Value::Null)
            }
            (Verb::Get, "/v1/audit/proof/inclusion") => Call::get("/v1/audit/proof/inclusion?seq=0&size=2"),
            (Verb::Get, "/v1/audit/proof/consistency") => Call::get("/v1/audit/proof/consistency?from=1&to=2"),
            (Verb::Get, "/v1/audit/tile/{level}/{*name}") => Call::get("/v1/audit/tile/entries/000.p/2"),
            (Verb::Get, "/docs/{file}") => Call::get("/docs/index.css"),
            (Verb::Ws, "/v1/security/kill-switch" | "/v1/signals")
            | (
                Verb::Get,
                "/v1/me"
                | "/v1/me/sessions"
                | "/v1/devices"
                | "/v1/status"
                | "/v1/api-keys"
                | "/v1/instance-tokens"
                | "/v1/audit/key"
                | "/v1/intel/feeds"
                | "/v1/intel/hunts"
                | "/v1/tenants"
                | "/.well-known/jwks.json"
                | "/health/live"
                | "/health/ready"
                | "/health"
                | "/health/deep"
                | "/openapi.json"
                | "/docs"
                | "/docs/"
                | "/redoc"
                | "/ca"
                | "/ca.pem"
                | "/",
            ) => Call::get(route.path),
            (verb, path) => return Err(format!("{} {path} has no recipe: write one", verb.method()).into()),
        })
    }

    /// The id of a key or token that the administrator made.
    pub async fn fresh_key(&self, kind: KeyKind) -> Result<String, Fault> {
        let admin: UserId = text(&part(&self.admin, 1)?, "sub").parse()?;
        let new = NewKey {
            name: "the matrix".to_owned(),
            scopes: PermissionSet::NONE.with(Permission::DevicesRead),
            expires_at: self.server.clock.now().plus(30 * DAY),
            allow: Vec::new(),
            requests_per_minute: 600,
            bound: (kind == KeyKind::Instance).then(|| Bound::Integration("the matrix".to_owned())),
        };
        let iam = &self.server.app().services.iam;
        Ok(iam.create_api_key(self.tenant, admin, new, None, Origin::cli()).await?.view.id.to_string())
    }

    pub async fn fresh_viewer(&mut self) -> Result<(String, String), Fault> {
        let name = self.fresh_name();
        let login = add_user(&self.server, self.tenant, &name, "viewer").await?;
        Ok((text(&login, "session_id"), text(&login, "access_token")))
    }

    pub async fn command_for(&mut self, device: &str) -> Result<String, Fault> {
        let unlock = json!({ "action": "UNLOCK", "reason": "the matrix" });
        let admin = self.admin.clone();
        let answer = self.client.post(&format!("/v1/devices/{device}/commands"), Some(&admin), &unlock).await?;
        Ok(text(&answer.json()?, "command_id"))
    }

    /// Sends a call, and checks what holds for every answer.
    pub async fn call(
        &mut self,
        method: &str,
        call: &Call,
        token: Option<&str>,
        access: Access,
    ) -> Result<Response, Fault> {
        self.next += 1;
        let id = format!("matrix.request_{:06}", self.next);
        let bearer = token.map(|t| format!("Bearer {t}"));
        let mut headers = vec![("x-request-id", id.as_str())];
        headers.extend(bearer.iter().map(|b| ("authorization", b.as_str())));
        headers.extend(call.headers.iter().map(|(name, value)| (*name, value.as_str())));
        let method: Method = method.parse()?;
        let answer = if call.body.is_null() {
            self.client.request(method, &call.path, &headers, "".into()).await?
        } else {
            send(&mut self.client, method, &call.path, &headers, &call.body).await?
        };
        assert_standing(&answer, &id, access);
        Ok(answer)
    }

    /// Calls a row as somebody.
    pub async fn call_as(&mut self, route: &Route, who: Who) -> Result<Response, Fault> {
        let call = self.recipe(route, who).await?;
        let token = call.token.clone().or_else(|| self.token(who));
        self.call(route.verb.method(), &call, token.as_deref(), route.access).await
    }
}

/// What every answer has, whoever asked for whatever.
pub fn assert_standing(answer: &Response, request_id: &str, access: Access) {
    let problem = body(answer);
    let about = format!("{} {problem}", answer.status);
    for (name, expected) in [
        ("strict-transport-security", "max-age=63072000"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("x-xss-protection", "0"),
        ("referrer-policy", "no-referrer"),
        ("content-security-policy", "default-src 'none'"),
        ("permissions-policy", "camera=()"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-embedder-policy", "require-corp"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        let value = header(answer, name);
        assert!(value.contains(expected), "{name} is {value:?}: {about}");
    }
    let csp = header(answer, "content-security-policy");
    assert!(!csp.contains("unsafe-") && !csp.contains('*') && csp.contains("frame-ancestors 'none'"), "{csp}");
    assert_eq!(header(answer, "x-request-id"), request_id, "{about}");
    assert_eq!(answer.headers.get("access-control-allow-origin"), None, "CORS is off");
    if !matches!(access, Access::Public(_)) {
        assert_eq!(header(answer, "cache-control"), "no-store", "{about}");
    }
    if answer.status >= 400 {
        assert_eq!(header(answer, "content-type"), "application/problem+json", "{about}");
        assert_eq!(problem["status"], answer.status, "{about}");
        assert_eq!(problem["request_id"], request_id, "{about}");
        for member in ["type", "title", "detail", "code"] {
            assert!(!text(&problem, member).is_empty(), "{member} of {about}");
        }
        let code = text(&problem, "code");
        assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{code}");
    }
    match answer.status {
        401 => assert!(header(answer, "www-authenticate").starts_with("Bearer"), "{about}"),
        405 => assert!(!header(answer, "allow").is_empty(), "{about}"),
        429 | 503 => assert!(!header(answer, "retry-after").is_empty(), "{about}"),
        _ => {}
    }
}

/// The status that the row promises this caller.
pub fn promised(route: &Route, who: Who) -> u16 {
    let success = route.endpoint.status;
    let nobody = matches!(who, Who::Anonymous | Who::Garbage | Who::Ended);
    let viewer_may = |permission| Role::Viewer.permissions().has(permission);
    match route.access {
        _ if route.verb == Verb::Ws => 426,
        Access::Public(_) | Access::Signed(_) => success,
        Access::OptionalUser(_) | Access::Anonymous(_) if matches!(who, Who::Garbage | Who::Ended) => 401,
        Access::OptionalUser(_) | Access::Anonymous(_) => success,
        _ if nobody => 401,
        Access::Session => success,
        Access::Enrolling(_) if who == Who::Device => success,
        Access::Enrolling(_) => 403,
        Access::AnyUser | Access::FreshAnyUser if who == Who::Device => 403,
        Access::AnyUser | Access::FreshAnyUser => success,
        Access::UserOrDevice(_) if who == Who::Device => success,
        Access::Device(_) if who == Who::Device => success,
        Access::Device(_) => 403,
        _ if who == Who::Device => 403,
        Access::User(p) | Access::UserOrDevice(p) | Access::FreshUser(p) | Access::TwoFactorUser(p) => {
            if who != Who::Viewer || viewer_may(p) { success } else { 403 }
        }
    }
}

pub fn public_rows() -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().filter(|r| r.door == Door::Public)
}
