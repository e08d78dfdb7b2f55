//! The gate itself: one straight function, in the order that the wire contract names.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};

use super::answer::Answer;
use super::authn::{Authenticator, credential};
use super::body::Input;
use super::context::{Caller, Context, RefreshCookie, unauthenticated};
use super::cors;
use super::limiter::{Limiter, Quotas};
use super::problem::Problem;
use super::route::{Access, Door, RateClass, Route, Verb};
use super::router::{Found, Router};
use super::routes::ROUTES;
use super::socket;
use crate::domains::Services;
use crate::domains::iam::{FRESH, looks_like_api_key};
use crate::domains::tenants;
use crate::kernel::clock::Stopwatch;
use crate::kernel::context::{Origin, Source};
use crate::kernel::ids::RequestId;
use crate::kernel::rate::{Decision, Quota};
use crate::kernel::{Clock, Error, Kind, Random, Refusal, Timestamp, limits};
use crate::net::http::Drain;
use crate::observe::Metrics;

/// What the configuration says about the way in.
#[derive(Clone, Debug)]
pub struct GateSettings {
    /// Requests a minute.
    pub quotas: Quotas,
    /// For reading a body.
    pub body_timeout: Duration,
    /// Whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<crate::kernel::network::Network>,
    /// Origins that may open sockets and read answers from a page of theirs.
    pub allowed_origins: Vec<String>,
}

/// Everything a request passes.
pub struct Gate {
    pub(super) services: Arc<Services>,
    pub(super) limiter: Arc<Limiter>,
    pub(super) authenticator: Authenticator,
    pub(super) settings: GateSettings,
    pub(super) clock: Clock,
    pub(super) random: Random,
    pub(super) drain: Drain,
    pub(super) metrics: Arc<Metrics>,
    public: Router,
    internal: Router,
    headers: HeaderMap,
}

/// Of a body that was not wanted.
const DISCARDED_BYTES_MAX: usize = 1 << 20;
/// For reading a body that was not wanted.
const DISCARDED_TIME_MAX: Duration = Duration::from_secs(2);

/// A request's facts before anything is decided.
pub(super) struct Facts {
    pub origin: Origin,
    pub ip: IpAddr,
    trace: Option<HeaderValue>,
}

/// What is added to an answer whatever it is.
#[derive(Default)]
struct Extras {
    rate: Option<Decision>,
    tier: Option<&'static str>,
    no_store: bool,
}

impl Gate {
    /// # Errors
    /// When the route table contradicts itself.
    pub fn new(
        services: Arc<Services>,
        settings: GateSettings,
        clock: Clock,
        random: Random,
        metrics: Arc<Metrics>,
        drain: Drain,
    ) -> Result<Self, String> {
        let limiter = Arc::new(Limiter::new(settings.quotas));
        let authenticator = Authenticator::new(Arc::clone(&services), Arc::clone(&limiter), clock.clone());
        Ok(Self {
            public: Router::new(ROUTES, Door::Public)?,
            internal: Router::new(ROUTES, Door::Internal)?,
            services,
            limiter,
            authenticator,
            settings,
            clock,
            random,
            drain,
            metrics,
            headers: standing_headers(),
        })
    }

    /// Answers a request from the LAN.
    pub async fn public(self: &Arc<Self>, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        self.answer(request, peer, &self.public).await
    }

    /// Answers a request from the box itself.
    pub async fn internal(self: &Arc<Self>, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        self.answer(request, peer, &self.internal).await
    }

    /// Forgets what is over; run from time to time.
    pub fn sweep(&self) {
        self.limiter.sweep(self.clock.now());
        self.authenticator.sweep();
    }

    async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
        router: &Router,
    ) -> Response<Full<Bytes>> {
        let watch = Stopwatch::start();
        let facts = self.facts(&request, peer);
        let mut extras = Extras::default();
        let origin = request.headers().get(hyper::header::ORIGIN).cloned();
        if let Some(mut answer) = cors::preflight(&self.settings.allowed_origins, &request) {
            self.finish(&mut answer, &facts, &extras);
            return answer;
        }
        let (row, response) = match router.find(request.method().as_str(), request.uri().path()) {
            Found::Row(route, index, path) => {
                // The ways in are public, and their answers carry tokens (RFC 6749, section 5.1).
                extras.no_store = !matches!(route.access, Access::Public(_)) || route.verb == Verb::Post;
                let outcome = if route.verb == Verb::Ws {
                    socket::upgrade(self, request, route, &facts).await
                } else {
                    let (parts, mut body) = request.into_parts();
                    let outcome = self.handle(&parts, &mut body, route, path, &facts, &mut extras).await;
                    self.discard(&parts.headers, body).await;
                    outcome
                };
                (Some(index), outcome)
            }
            Found::OtherMethods(allowed) => {
                let (parts, body) = request.into_parts();
                self.discard(&parts.headers, body).await;
                let problem = Problem::with_status(405, "method_not_allowed", "This path does not know that method.");
                (None, Err(problem.header("allow", allowed)))
            }
            Found::Nothing => {
                let (parts, body) = request.into_parts();
                self.discard(&parts.headers, body).await;
                (None, Err(Refusal::not_found().into()))
            }
        };
        let mut response = response.unwrap_or_else(|problem| render(&problem, &facts.origin.request_id));
        self.finish(&mut response, &facts, &extras);
        cors::expose(&self.settings.allowed_origins, origin.as_ref(), response.headers_mut());
        let (status, took) = (response.status(), watch.elapsed());
        self.metrics.request(row, status.as_u16(), took);
        let (request_id, status) = (&*facts.origin.request_id, status.as_u16());
        let route = row.and_then(|i| ROUTES.get(i)).map_or("none", |r| r.path);
        if status >= 500 {
            tracing::warn!(request_id, route, status, ip = %facts.ip, "a request could not be served");
        } else {
            tracing::debug!(request_id, route, status, ip = %facts.ip, took_us = took.as_micros(), "request");
        }
        response
    }

    async fn handle(
        self: &Arc<Self>,
        parts: &Parts,
        body: &mut Incoming,
        route: &'static Route,
        path: Vec<(&'static str, String)>,
        facts: &Facts,
        extras: &mut Extras,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        if self.drain.has_started() && route.rate != RateClass::Unlimited {
            let detail = "The appliance is shutting down. Try again in a moment.";
            return Err(Refusal::new(Kind::Unavailable, "shutting_down", detail).retry_after_s(5).into());
        }
        let caller = self.authenticate(route.access, &parts.headers, facts).inspect_err(|problem| {
            if problem.status == 429 {
                extras.rate = Some(self.limiter.auth_budget(facts.ip, self.clock.now()));
            }
        })?;
        self.count(route.rate, &caller, facts, extras)?;
        authorize(route.access, &caller, self.clock.now())?;
        let body = match route.body_max {
            0 => Bytes::new(),
            max => self.read_body(body, &parts.headers, max).await?,
        };
        let rate = Arc::default();
        let input = Input { body, query: parts.uri.query().unwrap_or_default().to_owned() };
        let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok());
        let mut origin = facts.origin.clone();
        match &caller {
            Caller::User(user) => origin.jti = Some(user.jti),
            Caller::Device(device) => origin.jti = Some(device.jti),
            Caller::Machine(machine) => origin.key = Some(machine.key.id),
            Caller::Public | Caller::Anonymous(_) => {}
        }
        let context = Context {
            services: Arc::clone(&self.services),
            limiter: Arc::clone(&self.limiter),
            caller,
            origin,
            path,
            clock: self.clock.clone(),
            metrics: Arc::clone(&self.metrics),
            draining: self.drain.has_started(),
            accept: header("accept").map(str::to_owned),
            enrollment: credential(&parts.headers, "Enrollment").map(str::to_owned),
            cookie: self.refresh_cookie(&parts.headers),
            proven_key: None,
            idempotency_key: header("idempotency-key").map(str::to_owned),
            rate: Arc::clone(&rate),
        };
        let answer = (route.endpoint.call)(context, input, route.access).await;
        extras.rate = extras.rate.or_else(|| rate.get().copied());
        Ok(respond(answer?))
    }

    fn authenticate(&self, access: Access, headers: &HeaderMap, facts: &Facts) -> Result<Caller, Problem> {
        let api_key = headers.get("x-api-key").and_then(|v| v.to_str().ok());
        let bearer = credential(headers, "Bearer").or(api_key);
        match (access, bearer) {
            (Access::Public(_), _) | (Access::OptionalUser(_), None) => Ok(Caller::Public),
            (_, Some(text)) if looks_like_api_key(text) => Ok(self.authenticator.machine(text, facts.ip)?),
            (_, Some(token)) => Ok(self.authenticator.caller(token, facts.ip)?),
            (_, None) => Err(unauthenticated().into()),
        }
    }

    fn count(&self, class: RateClass, caller: &Caller, facts: &Facts, extras: &mut Extras) -> Result<(), Problem> {
        let now = self.clock.now();
        if let Caller::Device(device) = caller {
            extras.tier = Some(device.entry.tier().name());
        }
        let session = caller.session().map_or(0, |s| u128::from_be_bytes(s.id.to_bytes()));
        let decision = match (class, caller) {
            (RateClass::Unlimited | RateClass::Login, _) => return Ok(()),
            (RateClass::PlanTier, Caller::Device(device)) => {
                device.entry.rate.admit(Quota::per_minute(device.entry.tier().heartbeats_per_minute()), now)
            }
            (_, Caller::Public | Caller::Anonymous(_)) => self.limiter.public(facts.ip, now),
            (_, Caller::Machine(machine)) => {
                machine.key.rate.admit(Quota::per_minute(machine.key.requests_per_minute()), now)
            }
            (RateClass::Handshake, Caller::Device(device)) => self.limiter.handshake(device.entry.no.0, now),
            (RateClass::Read | RateClass::Anonymous, _) => self.limiter.read(session, now),
            (RateClass::Write | RateClass::PlanTier | RateClass::Handshake | RateClass::Public, _) => {
                self.limiter.write(session, now)
            }
        };
        extras.rate = Some(decision);
        check_rate(&decision).map_err(Problem::from)
    }

    /// Reads on, within bounds, what is left of a body that was not wanted: a connection that is closed on unread bytes is
    /// reset, and the refusal would be lost with it. A client that waits to be asked for its body is not asked.
    async fn discard(&self, headers: &HeaderMap, mut body: Incoming) {
        if body.is_end_stream() || headers.contains_key("expect") {
            return;
        }
        let reading = async {
            let mut left = DISCARDED_BYTES_MAX;
            while let Some(Ok(frame)) = body.frame().await {
                let length = frame.data_ref().map_or(0, Bytes::len);
                let Some(rest) = left.checked_sub(length) else { return };
                left = rest;
            }
        };
        let _ = tokio::time::timeout(self.settings.body_timeout.min(DISCARDED_TIME_MAX), reading).await;
    }

    async fn read_body(&self, body: &mut Incoming, headers: &HeaderMap, max: usize) -> Result<Bytes, Problem> {
        let too_large =
            || Problem::with_status(413, "body_too_large", format!("The body may have at most {max} bytes."));
        let declared = headers.get("content-length").and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|n| n > max as u64) {
            return Err(too_large());
        }
        let json = headers.get("content-type").is_some_and(|v| v.to_str().is_ok_and(is_json));
        let nothing_sent = headers.get("content-type").is_none() && body.is_end_stream();
        if !json && !nothing_sent {
            let detail = "Send the body as application/json.";
            // A larger body of the wrong type is still too large first.
            let _ = tokio::time::timeout(self.settings.body_timeout, collect(body, max))
                .await
                .map_err(|_| timed_out())?
                .map_err(|e| match e {
                    BodyError::TooLarge => too_large(),
                    BodyError::Broken => broken(),
                })?;
            return Err(Problem::with_status(415, "unsupported_media_type", detail));
        }
        match tokio::time::timeout(self.settings.body_timeout, collect(body, max)).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(BodyError::TooLarge)) => Err(too_large()),
            Ok(Err(BodyError::Broken)) => Err(broken()),
            Err(_) => Err(timed_out()),
        }
    }

    fn facts(&self, request: &Request<Incoming>, peer: SocketAddr) -> Facts {
        let headers = request.headers();
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let request_id = match text("x-request-id").filter(|id| is_request_id(id)) {
            Some(id) => Arc::from(id),
            None => Arc::from(RequestId::generate(self.clock.now(), &self.random).to_string()),
        };
        let ip = self.client_ip(peer.ip(), headers);
        let user_agent = text("user-agent").map(|ua| Arc::from(ua.get(..256).unwrap_or(ua)));
        let trace = text("traceparent").and_then(|t| self.continue_trace(t));
        let origin = Origin { source: Source::Http, request_id, ip: Some(ip), user_agent, jti: None, key: None };
        Facts { origin, ip, trace }
    }

    /// The last address that no proxy of ours wrote. Without configured proxies the header means nothing.
    fn client_ip(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let trusted = |ip: IpAddr| self.settings.trusted_proxies.iter().any(|n| n.contains(ip));
        let mut ip = peer.to_canonical();
        if !trusted(ip) {
            return ip;
        }
        let values: Vec<&str> = headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok()).collect();
        for hop in values.iter().flat_map(|v| v.split(',')).rev() {
            let Ok(hop) = hop.trim().parse::<IpAddr>() else { break };
            ip = hop.to_canonical();
            if !trusted(ip) {
                break;
            }
        }
        ip
    }

    /// The refresh token that a browser sent by itself, and whether a page of ours made it do so. Browsers name the page
    /// in `Sec-Fetch-Site` or `Origin`; who names neither is no browser, and no other site can make it send anything.
    fn refresh_cookie(&self, headers: &HeaderMap) -> RefreshCookie {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let mut cookies = headers.get_all("cookie").iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(';'));
        let mut found = cookies.by_ref().filter_map(|c| c.trim().strip_prefix("__Host-refresh="));
        let (Some(value), None) = (found.next(), found.next()) else { return RefreshCookie::None };
        let site = text("sec-fetch-site");
        let same_site = matches!(site, None | Some("same-origin" | "none"));
        let origin_fits = match headers.get("origin").map(|o| o.to_str().unwrap_or("")) {
            None => true,
            Some(origin) => {
                let own = text("host").is_some_and(|host| origin.strip_prefix("https://") == Some(host));
                own || self.settings.allowed_origins.iter().any(|allowed| allowed == origin)
            }
        };
        let allowed_page = headers.contains_key("origin") && origin_fits;
        if origin_fits && (same_site || allowed_page) {
            RefreshCookie::Genuine(value.to_owned())
        } else {
            RefreshCookie::CrossSite
        }
    }

    /// W3C trace context: the same trace, a span of our own.
    fn continue_trace(&self, traceparent: &str) -> Option<HeaderValue> {
        let mut parts = traceparent.split('-');
        let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex =
            |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let real = |s: &str| s.bytes().any(|b| b != b'0');
        let fits = version == "00" && parts.next().is_none() && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
        if !(fits && real(trace) && real(parent)) {
            return None;
        }
        HeaderValue::from_str(&format!("00-{trace}-{:016x}-{flags}", self.random.u64() | 1)).ok()
    }

    fn finish(&self, response: &mut Response<Full<Bytes>>, facts: &Facts, extras: &Extras) {
        let headers = response.headers_mut();
        for (name, value) in &self.headers {
            headers.entry(name).or_insert_with(|| value.clone());
        }
        if let Ok(id) = HeaderValue::from_str(&facts.origin.request_id) {
            headers.insert(HeaderName::from_static("x-request-id"), id);
        }
        if let Some(trace) = &facts.trace {
            headers.insert(HeaderName::from_static("traceparent"), trace.clone());
        }
        if extras.no_store {
            headers.entry("cache-control").or_insert(HeaderValue::from_static("no-store"));
        }
        if let Some(tier) = extras.tier {
            headers.insert(HeaderName::from_static("x-plan-tier"), HeaderValue::from_static(tier));
        }
        if let Some(rate) = &extras.rate {
            rate_headers(headers, rate);
        }
    }
}

/// 429 for a refused decision.
pub(super) fn check_rate(decision: &Decision) -> Result<(), Error> {
    if decision.admitted {
        return Ok(());
    }
    let detail = format!("More than {} requests in {} s.", decision.quota.limit, decision.quota.window.as_secs());
    Err(Refusal::new(Kind::RateLimited, "rate_limited", detail).retry_after_s(decision.reset_s).into())
}

fn authorize(access: Access, caller: &Caller, now: Timestamp) -> Result<(), Problem> {
    let forbidden = |detail: String| Refusal::new(Kind::Forbidden, "forbidden", detail);
    match (access, caller) {
        (Access::Public(_) | Access::OptionalUser(_) | Access::Anonymous(_), _) => return Ok(()),
        (Access::Session, Caller::User(_) | Caller::Device(_))
        | (Access::AnyUser | Access::FreshAnyUser, Caller::User(_))
        | (Access::Device(_) | Access::UserOrDevice(_), Caller::Device(_)) => {}
        (Access::User(p) | Access::UserOrDevice(p), Caller::Machine(machine)) if !machine.may(p) => {
            let detail = format!("This key does not have the scope {}.", p.name());
            return Err(Refusal::new(Kind::Forbidden, "insufficient_scope", detail).into());
        }
        (Access::User(_) | Access::UserOrDevice(_), Caller::Machine(_)) => {}
        (
            Access::User(p) | Access::UserOrDevice(p) | Access::FreshUser(p) | Access::TwoFactorUser(p),
            Caller::User(user),
        ) => {
            if !user.may(p) {
                return Err(forbidden(format!("This needs the permission {}.", p.name())).into());
            }
        }
        (Access::Device(_), _) => return Err(forbidden("This is for enrolled devices.".to_owned()).into()),
        (_, Caller::Public | Caller::Anonymous(_)) => return Err(unauthenticated().into()),
        (_, Caller::Machine(_)) => return Err(forbidden("This is for people, not for programs.".to_owned()).into()),
        (_, Caller::Device(_)) => return Err(forbidden("This is for people, not for devices.".to_owned()).into()),
    }
    if caller.tenant().is_some_and(|t| t.is_suspended()) {
        return Err(tenants::suspended().into());
    }
    match (access, caller) {
        (Access::FreshUser(_) | Access::FreshAnyUser, Caller::User(user)) => {
            let proven = if user.user.has_second_factor() {
                user.session.has_fresh_second_factor(now)
            } else {
                user.session.is_fresh(now)
            };
            if proven { Ok(()) } else { Err(step_up_required().into()) }
        }
        (Access::TwoFactorUser(_), Caller::User(user)) if !user.session.has_fresh_second_factor(now) => {
            Err(step_up_required().into())
        }
        _ => Ok(()),
    }
}

/// 403: the session is not proof enough for this.
fn step_up_required() -> Refusal {
    let detail = "Prove again who you are (POST /v1/me/mfa/verify), then repeat this within five minutes.";
    let extra = serde_json::json!({ "max_age_s": FRESH.as_secs(), "verify_at": "/v1/me/mfa/verify" });
    let refusal = Refusal::new(Kind::Forbidden, "step_up_required", detail);
    Refusal { extra: extra.as_object().cloned().map(Box::new), ..refusal }
}

enum BodyError {
    TooLarge,
    Broken,
}

async fn collect(body: &mut Incoming, max: usize) -> Result<Bytes, BodyError> {
    let mut first = Bytes::new();
    let mut whole: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        if first.len() + whole.len() + data.len() > max {
            return Err(BodyError::TooLarge);
        }
        // Nearly every body comes in one piece: that one is passed on without a copy.
        if first.is_empty() && whole.is_empty() {
            first = data;
        } else {
            if whole.is_empty() {
                whole.extend_from_slice(&std::mem::take(&mut first));
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(if whole.is_empty() { first } else { whole.into() })
}

fn timed_out() -> Problem {
    Problem::with_status(408, "body_timeout", "The body did not arrive in time.").header("connection", "close")
}

fn broken() -> Problem {
    Problem::with_status(400, "broken_body", "The body ended before it was complete.")
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn is_request_id(id: &str) -> bool {
    (1..=limits::REQUEST_ID_LEN_MAX).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn respond(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    match answer.content_type {
        Cow::Borrowed("") => {}
        Cow::Borrowed(known) => drop(headers.insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static(known))),
        Cow::Owned(other) => append(headers, vec![("content-type", other)]),
    }
    append(headers, answer.headers);
    response
}

fn render(problem: &Problem, request_id: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(problem.body(request_id)));
    *response.status_mut() = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    append(headers, problem.headers.clone());
    response
}

fn append(headers: &mut HeaderMap, more: Vec<(&'static str, String)>) {
    for (name, value) in more {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
}

fn rate_headers(headers: &mut HeaderMap, rate: &Decision) {
    let (limit, window_s) = (rate.quota.limit, rate.quota.window.as_secs());
    headers.insert(HeaderName::from_static("x-ratelimit-limit"), limit.into());
    headers.insert(HeaderName::from_static("x-ratelimit-remaining"), rate.remaining.into());
    headers.insert(HeaderName::from_static("x-ratelimit-reset"), rate.reset_s.into());
    let policy = format!("\"default\";q={limit};w={window_s}");
    let state = format!("\"default\";r={};t={}", rate.remaining, rate.reset_s);
    for (name, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// On every response.
fn standing_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("strict-transport-security", "max-age=63072000; includeSubDomains"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("x-xss-protection", "0"),
        ("referrer-policy", "no-referrer"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
        (
            "permissions-policy",
            "accelerometer=(), camera=(), geolocation=(), gyroscope=(), microphone=(), payment=(), usb=()",
        ),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-embedder-policy", "require-corp"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers
}
