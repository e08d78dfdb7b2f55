//! What belongs to somebody else does not exist: every row with an id in its path, tried with objects of others.
//!
//! Generated from the route table. A row whose path has a parameter that no maker here knows fails with its name.

use std::time::Duration;

use blockremote::client::{HttpClient, Response};
use blockremote::crypto::Secret;
use blockremote::domains::iam::{NewUser, Role};
use blockremote::gate::{Access, Route, Verb};
use blockremote::kernel::clock::Stopwatch;
use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::TenantId;
use blockremote::testkit::{Fault, Server, text};
use hyper::Method;
use hyper::header::HeaderMap;
use serde_json::{Value, json};

use crate::common::{
    DAY, Done, add_user, body, enrollment, enrollment_token, log_in, new_tenant, password_of, second_tenant, send,
};
use crate::killswitch::raw::Raw;
use crate::world::hooks::{NOWHERE, webhook};
use crate::world::money::flag;
use crate::world::second_factor::{authenticator, set_up_passkey};
use crate::world::{Call, Who, World, promised, public_rows};
use crate::{hardware, people, trust};

/// A parameter of a path: what names nothing, what cannot name anything, and (in [`make`]) how one comes to be.
struct Kind {
    name: &'static str,
    absent: &'static str,
    malformed: &'static str,
}

const KINDS: &[Kind] = &[
    Kind { name: "device_id", absent: "NOBODY", malformed: "not%20a%20name" },
    Kind { name: "command_id", absent: "cmd_00000000-0000-7000-8000-000000000000", malformed: "cmd_x" },
    Kind { name: "session_id", absent: "ses_00000000-0000-7000-8000-000000000000", malformed: "ses_x" },
    Kind { name: "passkey_id", absent: "pky_00000000-0000-7000-8000-000000000000", malformed: "pky_x" },
    Kind { name: "key_id", absent: "key_00000000-0000-7000-8000-000000000000", malformed: "key_x" },
    Kind { name: "user_id", absent: "usr_00000000-0000-7000-8000-000000000000", malformed: "usr_x" },
    Kind { name: "role_id", absent: "rol_00000000-0000-7000-8000-000000000000", malformed: "rol_x" },
    Kind { name: "team_id", absent: "tea_00000000-0000-7000-8000-000000000000", malformed: "tea_x" },
    Kind { name: "token_id", absent: "enr_00000000-0000-7000-8000-000000000000", malformed: "enr_x" },
    Kind { name: "root_id", absent: "tpm.00000000000000000000000000000000", malformed: "not%20a%20name" },
    Kind { name: "flag_key", absent: "no-such-flag", malformed: "not%20a%20name" },
    Kind { name: "integration_id", absent: "int_00000000-0000-7000-8000-000000000000", malformed: "int_x" },
    Kind { name: "feed", absent: "none", malformed: "Not%20A%20Name" },
    Kind { name: "tenant_id", absent: "ten_00000000-0000-7000-8000-000000000000", malformed: "ten_x" },
];

/// The administrator of a tenant, at work.
struct Party {
    tenant: TenantId,
    username: String,
    admin: String,
    /// A device of the tenant, which calls for itself.
    device: String,
    next: u32,
}

type Ids = Vec<(&'static str, String)>;

impl Party {
    /// The first tenant's, which is also the appliance's.
    fn own(world: &World) -> Self {
        Self {
            tenant: world.tenant,
            username: world.server.admin.username.clone(),
            admin: world.admin.clone(),
            device: world.device.clone(),
            next: 0,
        }
    }

    async fn neighbour(server: &Server) -> Result<Self, Fault> {
        let tenant = second_tenant(server).await?;
        let login = add_user(server, tenant, "neighbour", "admin").await?;
        let ticket = enrollment_token(server, tenant, None).await?;
        let wanted = enrollment("BR-1", Some(&ticket));
        let device: Value = server.client()?.post("/v1/auth/device", None, &wanted).await?.json()?;
        let (admin, device) = (text(&login, "access_token"), text(&device, "access_token"));
        Ok(Self { tenant, username: "neighbour".to_owned(), admin, device, next: 0 })
    }

    /// An object for each parameter of the path, the later ones within the earlier ones.
    async fn make(&mut self, server: &Server, route: &Route) -> Result<Ids, Fault> {
        let mut made = Ids::new();
        for kind in parameters(route)? {
            self.next += 1;
            let id = match kind.name {
                "device_id" => {
                    let name = format!("made-{}-{}", self.username, self.next);
                    let ticket = enrollment_token(server, self.tenant, None).await?;
                    let wanted = enrollment(&name, Some(&ticket));
                    server.client()?.post("/v1/auth/device", None, &wanted).await?.success()?;
                    if route.path.ends_with("/attestation/receipt") {
                        hardware::with_receipt(server, self.tenant, &name).await?;
                    }
                    name
                }
                "command_id" => {
                    let device = made.first().map(|(_, id)| id.clone()).unwrap_or_default();
                    let order = json!({ "action": "FORCE_OVERLAY", "reason": "made" });
                    let path = format!("/v1/devices/{device}/commands");
                    let answer = server.client()?.post(&path, Some(&self.admin), &order).await?;
                    text(&answer.json()?, "command_id")
                }
                "session_id" if self.username == server.admin.username => text(&server.login().await?, "session_id"),
                "session_id" => text(&log_in(server, &self.username).await?, "session_id"),
                "tenant_id" => new_tenant(server, &format!("made {} {}", self.username, self.next)).await?.to_string(),
                "passkey_id" => {
                    let made = set_up_passkey(server, &self.admin, &mut authenticator(server)).await?;
                    text(&made["passkey"], "id")
                }
                "key_id" => {
                    let expires_at = server.clock.now().plus(DAY).to_string();
                    let mut new = json!({ "name": "made", "scopes": ["devices:read"], "expires_at": expires_at });
                    let of_instances = route.path.starts_with("/v1/instance-tokens");
                    if of_instances {
                        new["bound"] = json!({ "integration": "made" });
                    }
                    let path = if of_instances { "/v1/instance-tokens" } else { "/v1/api-keys" };
                    self.made_by(server, path, &new).await?
                }
                "user_id" => {
                    let name = format!("made {} {}", self.username, self.next);
                    let id = people::person(server, self.tenant, &name, "viewer").await?.to_string();
                    if let (Verb::Delete, Some((_, team))) = (route.verb, made.first()) {
                        let place = format!("/v1/teams/{team}/members/{id}");
                        people::done(server, &self.admin, "PUT", &place, Value::Null).await?;
                    }
                    id
                }
                "role_id" => {
                    let name = format!("made {}", self.next);
                    people::role(server, self.tenant, &name, &["devices:read"]).await?
                }
                "root_id" => trust::root(server, self.tenant, &format!("made {} {}", self.username, self.next)).await?,
                "team_id" => people::team(server, self.tenant, &format!("made {}", self.next)).await?,
                "flag_key" => {
                    let name = format!("made-{}-{}", self.username, self.next);
                    people::done(server, &self.admin, "PUT", &format!("/v1/flags/{name}"), flag()).await?;
                    name
                }
                "token_id" => people::token(server, self.tenant).await?,
                "integration_id" => {
                    let name = format!("made {} {}", self.username, self.next);
                    let new = webhook(&name, NOWHERE, &["case.breached"]);
                    self.made_by(server, "/v1/integrations", &new).await?
                }
                "feed" => {
                    let name = format!("made-{}-{}", self.username, self.next);
                    crate::intel::feed(server, self.tenant, &name).await?;
                    name
                }
                other => return Err(format!("nothing makes a {other}: write it").into()),
            };
            made.push((kind.name, id));
        }
        Ok(made)
    }

    async fn made_by(&self, server: &Server, path: &str, new: &Value) -> Result<String, Fault> {
        let answer = server.client()?.post(path, Some(&self.admin), new).await?;
        answer.success()?;
        Ok(text(&answer.json()?, "id"))
    }

    /// Removes what was made: the innermost object that can be removed by itself, or else what it lies in.
    async fn delete(&self, server: &Server, route: &Route, ids: &Ids) -> Done {
        let (kind, id) = ids.first().ok_or("there is nothing to remove")?;
        let path = match *kind {
            "device_id" => format!("/v1/devices/{id}"),
            "session_id" => format!("/v1/me/sessions/{id}"),
            "tenant_id" => format!("/v1/tenants/{id}"),
            "passkey_id" => format!("/v1/me/mfa/passkeys/{id}"),
            "key_id" if route.path.starts_with("/v1/instance-tokens") => format!("/v1/instance-tokens/{id}"),
            "key_id" => format!("/v1/api-keys/{id}"),
            "user_id" => format!("/v1/users/{id}"),
            "role_id" => format!("/v1/roles/{id}"),
            "team_id" => format!("/v1/teams/{id}"),
            "root_id" => format!("/v1/intel/roots/{id}"),
            "token_id" => format!("/v1/enrollment-tokens/{id}"),
            "flag_key" => format!("/v1/flags/{id}"),
            "feed" => format!("/v1/intel/feeds/{id}"),
            "integration_id" => format!("/v1/integrations/{id}"),
            other => return Err(format!("nothing removes a {other}: write it").into()),
        };
        let bearer = format!("Bearer {}", self.admin);
        let mut client = server.client()?;
        client.request(Method::DELETE, &path, &[("authorization", &bearer)], "".into()).await?.success()?;
        Ok(())
    }
}

fn by_query(route: &Route) -> bool {
    route.endpoint.query.iter().any(|(name, _)| *name == "device_id")
}

/// Rows that are about an object that the caller names.
fn rows() -> impl Iterator<Item = &'static Route> {
    public_rows()
        // What only a device may do it does to itself: another's name in the path is 404, tried where that row is tested.
        .filter(|r| r.verb != Verb::Ws && !matches!(r.access, Access::Device(_)))
        // A flag that is put in place may be new, and OpenFeature's protocol repeats the name that it was asked for.
        .filter(|r| r.verb != Verb::Put || !r.path.starts_with("/v1/flags/"))
        .filter(|r| !r.path.starts_with("/ofrep/"))
        // What a PUT names it makes: nothing is absent for it.
        .filter(|r| !(r.verb == Verb::Put && r.path.starts_with("/v1/intel/")))
        // A tile is a place in the caller's own log: it names no object.
        .filter(|r| !r.path.starts_with("/v1/audit/tile/"))
        .filter(|r| !r.path.starts_with("/docs/") && (r.path.contains('{') || by_query(r)))
}

/// The parameters of a row, in their order.
fn parameters(route: &Route) -> Result<Vec<&'static Kind>, Fault> {
    let kind = |name: &str| {
        let known = KINDS.iter().find(|k| k.name == name);
        known.ok_or_else(|| Fault::from(format!("{} {}: {name} is unknown here", route.verb.method(), route.path)))
    };
    if by_query(route) {
        return Ok(vec![kind("device_id")?]);
    }
    route.path.split('/').filter_map(|s| s.strip_prefix('{')?.strip_suffix('}')).map(kind).collect()
}

fn path(route: &Route, ids: &[(&'static str, String)]) -> String {
    let filled = ids.iter().fold(route.path.to_owned(), |path, (name, id)| path.replace(&format!("{{{name}}}"), id));
    match ids.first() {
        Some((_, device)) if by_query(route) => format!("{filled}?device_id={device}"),
        _ => filled,
    }
}

/// Without what may differ between any two answers.
fn comparable(answer: &Response) -> (u16, HeaderMap, Value) {
    let mut headers = answer.headers.clone();
    for name in [
        "date",
        "x-request-id",
        "traceparent",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
        "ratelimit",
        "ratelimit-policy",
    ] {
        headers.remove(name);
    }
    // The length goes with the request's id.
    headers.remove("content-length");
    let mut problem = body(answer);
    if let Some(members) = problem.as_object_mut() {
        members.remove("request_id");
    }
    (answer.status, headers, problem)
}

/// A person of a tenant who may do nothing at all.
async fn nobody_of(server: &Server, tenant: TenantId) -> Result<String, Fault> {
    let new = NewUser {
        username: "nobody".to_owned(),
        display_name: None,
        email: None,
        roles: Vec::new(),
        password: Some(Secret::new(password_of("nobody"))),
        system_admin: false,
    };
    server.app().services.iam.create_user(tenant, new, Origin::cli()).await?;
    Ok(text(&log_in(server, "nobody").await?, "access_token"))
}

/// What another tenant has, or had, does not exist: not even by a difference between two refusals.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_of_others_and_none_at_all_are_the_same_answer_on_every_row() -> Done {
    let mut world = World::with(|c| (c.limits.read_per_minute, c.limits.write_per_minute) = (100_000, 100_000)).await?;
    let mut own = Party::own(&world);
    let mut neighbour = Party::neighbour(&world.server).await?;
    let nobody = nobody_of(&world.server, own.tenant).await?;
    let mut seen = 0;
    for route in rows() {
        let about = format!("{} {}", route.verb.method(), route.path);
        let kinds = parameters(route)?;
        let pick =
            |of: fn(&Kind) -> &'static str| -> Ids { kinds.iter().map(|k| (k.name, of(k).to_owned())).collect() };
        let (absent, malformed) = (path(route, &pick(|k| k.absent)), path(route, &pick(|k| k.malformed)));
        let request_body = world.recipe(route, Who::Admin).await?.body;
        let make = |path: &str| Call::of(path, request_body.clone());
        let mine = own.make(&world.server, route).await?;
        let theirs = neighbour.make(&world.server, route).await?;
        let gone = own.make(&world.server, route).await?;
        own.delete(&world.server, route, &gone).await?;
        // A tenant is nobody's but the appliance's, whose administrator sees all of them.
        let of_tenant = kinds.iter().all(|k| k.name != "tenant_id");
        // A revoked enrollment token stays to be seen, as what it is.
        let goes = kinds.iter().all(|k| k.name != "token_id");
        let mut hidden: Vec<String> = goes.then(|| path(route, &gone)).into_iter().collect();
        if of_tenant {
            hidden.push(path(route, &theirs));
        }
        if !by_query(route) {
            // What cannot be a name in a query is said to be none; only names are looked up.
            hidden.push(malformed);
        }
        if let [(outer, device), (inner, _)] = mine.as_slice() {
            // Own, but not of the device that the path names; and another tenant's within an own device.
            // A person belongs to the tenant and not to a team.
            let stands_alone = *inner == "user_id";
            let sibling = if stands_alone { None } else { Some(own.make(&world.server, route).await?) };
            for other in sibling.into_iter().chain([theirs.clone()]) {
                let strange = other.get(1).map(|(_, id)| id.clone()).unwrap_or_default();
                hidden.push(path(route, &[(*outer, device.clone()), (*inner, strange)]));
            }
            let absent_inner = kinds.get(1).map(|k| k.absent.to_owned()).unwrap_or_default();
            hidden.push(path(route, &[(*outer, device.clone()), (*inner, absent_inner)]));
        }

        // The owner: what is hidden is as good as absent.
        let admin = Some(own.admin.as_str());
        let method = route.verb.method();
        let expected = world.call(method, &make(&absent), admin, route.access).await?;
        assert_eq!(expected.status, 404, "{about}, absent: {}", body(&expected));
        for path in &hidden {
            let answer = world.call(method, &make(path), admin, route.access).await?;
            assert_eq!(comparable(&answer), comparable(&expected), "{about}: {path}");
            seen += 1;
        }

        // Others: without a token, of another tenant, of the same tenant without the right.
        let object = path(route, &mine);
        assert_eq!(world.call(method, &make(&object), None, route.access).await?.status, 401, "{about}");
        let neighbour_may = route.access.permission().is_none_or(|p| Role::Admin.permissions().has(p));
        for (who, token, may) in [
            ("the neighbour's administrator", &neighbour.admin, neighbour_may),
            ("a colleague without rights", &nobody, route.access.permission().is_none()),
        ] {
            let token = Some(token.as_str());
            let nothing = world.call(method, &make(&absent), token, route.access).await?;
            assert_eq!(nothing.status, if may { 404 } else { 403 }, "{about} as {who}: {}", body(&nothing));
            let answer = world.call(method, &make(&object), token, route.access).await?;
            assert_eq!(comparable(&answer), comparable(&nothing), "{about} as {who}");
            seen += 1;
        }

        // Devices: neither another of the tenant nor one of another tenant sees it.
        if promised(route, Who::Device) != 403 {
            for token in [&own.device, &neighbour.device] {
                let token = Some(token.as_str());
                let nothing = world.call(method, &make(&absent), token, route.access).await?;
                // What a query names must be the caller itself, whatever there is of it.
                let refusal = if by_query(route) { 403 } else { 404 };
                assert_eq!(nothing.status, refusal, "{about} as a device: {}", body(&nothing));
                let answer = world.call(method, &make(&object), token, route.access).await?;
                assert_eq!(comparable(&answer), comparable(&nothing), "{about} as a device");
                seen += 1;
            }
        }

        // And the object was there all the time: its owner finds it.
        let found = world.call(method, &make(&object), admin, route.access).await?;
        // It may disagree: what fits the object of the recipe need not fit this one.
        assert!(found.status < 300 || matches!(found.status, 409 | 422), "{about}: {} {}", found.status, body(&found));
    }
    assert!(seen > 60, "{seen}");
    Ok(())
}

/// The rule above can only be kept by a row that it knows how to try.
#[test]
fn every_row_with_an_id_in_its_path_has_a_maker_for_it() -> Done {
    let unknown: Vec<String> = rows().filter_map(|r| parameters(r).err().map(|e| e.to_string())).collect();
    assert!(unknown.is_empty(), "write a Kind, and how one is made:\n{}", unknown.join("\n"));
    assert!(rows().count() >= 12);
    let planted = Route { path: "/v1/moons/{moon_id}", ..*rows().next().ok_or("no rows")? };
    assert!(!by_query(&planted) && parameters(&planted).is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_show_nothing_of_a_neighbour() -> Done {
    let mut world = World::new().await?;
    let mut neighbour = Party::neighbour(&world.server).await?;
    let route = rows().find(|r| r.path == "/v1/devices/{device_id}/commands/{command_id}").ok_or("no such row")?;
    let theirs = neighbour.make(&world.server, route).await?;
    let strangers: Vec<String> = theirs.into_iter().map(|(_, id)| id).chain([neighbour.tenant.to_string()]).collect();
    for path in ["/v1/devices?limit=200", "/v1/audit/logs?limit=200", "/v1/me/sessions", "/v1/devices/BR-1/commands"] {
        let mine: Value = world.client.get(path, Some(&world.admin)).await?.json()?;
        for stranger in &strangers {
            assert!(!mine.to_string().contains(stranger), "{path} shows {stranger}");
        }
        let theirs: Value = world.client.get(path, Some(&neighbour.admin)).await?.json()?;
        assert!(
            !theirs.to_string().contains("BR-2") && !theirs.to_string().contains(&world.tenant.to_string()),
            "{path}"
        );
    }
    Ok(())
}

/// Both tenants have a device of the same name: each socket belongs to one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_opens_the_socket_of_its_own_device_only() -> Done {
    let world = World::new().await?;
    let neighbour = Party::neighbour(&world.server).await?;
    let endpoint = world.server.endpoint()?;
    let mut mine = Raw::with_token(&endpoint, &world.device).await;
    let mut theirs = Raw::with_token(&endpoint, &neighbour.device).await;
    for socket in [&mut mine, &mut theirs] {
        assert_eq!(text(&socket.json().await, "action"), "AUTH_OK");
    }
    let order = json!({ "action": "FORCE_OVERLAY", "reason": "for one of them" });
    let mut client = world.server.client()?;
    let sent: Value = client.post("/v1/devices/BR-1/commands", Some(&neighbour.admin), &order).await?.json()?;
    let heard = theirs.json().await;
    assert_eq!(text(&heard, "command_id"), text(&sent, "command_id"));
    mine.is_quiet().await;
    // And an acknowledgement for it from the wrong one is for a command that does not exist.
    mine.ack(&text(&sent, "command_id"), "enforced").await;
    assert_eq!(text(&mine.json().await, "code"), "not_found");
    let path = format!("/v1/devices/BR-1/commands/{}", text(&sent, "command_id"));
    let view: Value = client.get(&path, Some(&neighbour.admin)).await?.json()?;
    assert_ne!(text(&view, "status"), "enforced");
    Ok(())
}

const LOOKUPS: usize = 200;

async fn timed(client: &mut HttpClient, path: &str, bearer: &str) -> Result<Duration, Fault> {
    let watch = Stopwatch::start();
    let answer = send(client, Method::GET, path, &[("authorization", bearer)], &Value::Null).await?;
    let took = watch.elapsed();
    assert_eq!(answer.status, 404, "{path}");
    Ok(took)
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, Duration::as_secs_f64)
}

/// Nor does the time that a refusal takes tell one from the other. Medians of interleaved tries, and a second chance, keep
/// a busy machine from deciding the test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_neighbours_object_is_not_told_from_none_by_time() -> Done {
    let world = World::with(|c| c.limits.read_per_minute = 100_000).await?;
    let mut neighbour = Party::neighbour(&world.server).await?;
    let route = rows().find(|r| r.path == "/v1/devices/{device_id}").ok_or("no such row")?;
    let foreign = path(route, &neighbour.make(&world.server, route).await?);
    // Of the same length, so that the line takes the same time.
    let absent = format!("{}x", foreign.get(..foreign.len() - 1).unwrap_or_default());
    assert!(matches!(route.access, Access::UserOrDevice(_)));
    let mut client = world.server.client()?;
    let bearer = format!("Bearer {}", world.admin);
    let mut apart = Vec::new();
    for _ in 0..3 {
        let (mut of_foreign, mut of_absent) = (Vec::new(), Vec::new());
        for _ in 0..LOOKUPS {
            of_foreign.push(timed(&mut client, &foreign, &bearer).await?);
            of_absent.push(timed(&mut client, &absent, &bearer).await?);
        }
        let (a, b) = (median(of_foreign), median(of_absent));
        let difference = (a - b).abs() / a.min(b);
        if difference < 0.35 {
            return Ok(());
        }
        apart.push(difference);
    }
    Err(format!("the medians differ by {apart:?}").into())
}
