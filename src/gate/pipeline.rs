//! The gate itself: one straight function, in the order that the wire contract names.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response};
use tracing::Instrument;

use super::authn::{Authenticator, credential};
use super::authorize::authorize;
use super::binding::{Head, Scheme};
use super::body::Input;
use super::context::{Caller, Context, DeviceCaller, SignatureHeaders, unauthenticated};
use super::cors;
use super::dpop::ProofPolicy;
use super::facts::{Facts, host_of};
use super::limiter::{Limiter, Quotas};
use super::problem::Problem;
use super::render::{rate_headers, render, respond, standing_headers};
use super::route::{Access, Door, RateClass, Route, Verb};
use super::router::{Found, Router};
use super::routes::ROUTES;
use super::{socket, spans, strain};
use crate::domains::Services;
use crate::domains::iam::{AnonymousCaller, Binding, looks_like_api_key};
use crate::kernel::clock::Stopwatch;
use crate::kernel::network::network_of;
use crate::kernel::rate::{Decision, Quota};
use crate::kernel::trace::TraceContext;
use crate::kernel::{Clock, Error, Kind, Random, Refusal, Timestamp};
use crate::net::Peer;
use crate::net::http::Drain;
use crate::observe::{Metrics, Strain, Traces};

/// What the configuration says about the way in.
#[derive(Clone, Debug)]
pub struct GateSettings {
    /// Requests a minute.
    pub quotas: Quotas,
    /// For reading a body.
    pub body_timeout: Duration,
    /// For a handler.
    pub answer_timeout: Duration,
    /// Whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<crate::kernel::network::Network>,
    /// Origins that may open sockets and read answers from a page of theirs.
    pub allowed_origins: Vec<String>,
    /// Who issued the certificate that is served now, for the page by which phones come to trust it.
    pub authority: Arc<ArcSwapOption<super::Authority>>,
    /// Whether every DPoP proof must bear a nonce of ours.
    pub dpop_nonce_required: bool,
    /// Which requests are traced.
    pub traces: Arc<Traces>,
    /// What gRPC is bounded by.
    pub grpc: super::grpc::GrpcSettings,
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
    pub(super) proofs: ProofPolicy,
    pub(super) metrics: Arc<Metrics>,
    pub(super) strain: Arc<Strain>,
    public: Router,
    internal: Router,
    pub(super) grpc: Router,
    headers: HeaderMap,
}

/// Of a body that was not wanted, beyond what its row would have taken.
const DISCARDED_BYTES_MAX: usize = 1 << 20;
/// For reading a body that was not wanted.
const DISCARDED_TIME_MAX: Duration = Duration::from_secs(2);

/// What is added to an answer whatever it is.
#[derive(Default)]
pub(super) struct Extras {
    pub(super) rate: Option<Decision>,
    pub(super) tier: Option<&'static str>,
    no_store: bool,
    dpop_nonce: Option<String>,
    anonymous_token: Option<String>,
    /// Who called, for the log.
    pub(super) caller: Option<Caller>,
}

impl Extras {
    /// One line for a request that was served or refused.
    pub(super) fn note(&self, request_id: &str, route: &str, status: u16, facts: &Facts, took: Duration) {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let shown = tracing::field::display::<String>;
        let caller = self.caller.as_ref();
        let (user, device, jti) = match caller {
            Some(Caller::User(u)) => (Some(u.id().to_string()), None, Some(u.jti.to_string())),
            Some(Caller::Device(d)) => (None, Some(d.entry.id.to_string()), Some(d.jti.to_string())),
            Some(Caller::Machine(m)) => (None, None, Some(m.key.id.to_string())),
            _ => (None, None, None),
        };
        tracing::debug!(
            request_id,
            trace_id = facts.origin.trace.map(TraceContext::trace_id_text),
            route,
            status,
            tenant = caller.and_then(Caller::tenant).map(|t| shown(t.id.to_string())),
            user = user.map(shown),
            device = device.map(shown),
            jti = jti.map(shown),
            ip = %facts.ip,
            certificate = facts.certificate.is_some(),
            took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            "request"
        );
    }
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
        strain: Arc<Strain>,
        drain: Drain,
    ) -> Result<Self, String> {
        let limiter = Arc::new(Limiter::new(settings.quotas));
        let proofs = ProofPolicy::new(settings.dpop_nonce_required, clock.now(), &random);
        let authenticator = Authenticator::new(Arc::clone(&services), Arc::clone(&limiter), clock.clone());
        Ok(Self {
            public: Router::new(ROUTES, Door::Public)?,
            internal: Router::new(ROUTES, Door::Internal)?,
            grpc: Router::new(ROUTES, Door::Grpc)?,
            services,
            limiter,
            proofs,
            authenticator,
            settings,
            clock,
            random,
            drain,
            metrics,
            strain,
            headers: standing_headers(),
        })
    }

    /// Answers a request from the LAN.
    pub async fn public(self: &Arc<Self>, request: Request<Incoming>, peer: Peer) -> Response<Full<Bytes>> {
        self.answer(request, peer, &self.public).await
    }

    /// Answers a request from the box itself.
    pub async fn internal(self: &Arc<Self>, request: Request<Incoming>, peer: Peer) -> Response<Full<Bytes>> {
        self.answer(request, peer, &self.internal).await
    }

    /// Lets an account try to log in again at once: an operator gave it a new password.
    pub fn forget_login_failures(&self, account: &str) {
        self.limiter.forget_failures(account);
    }

    /// Forgets what is over; run from time to time.
    pub fn sweep(&self) {
        self.limiter.sweep(self.clock.now());
        self.authenticator.sweep();
        self.proofs.sweep(self.clock.now());
    }

    async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        peer: Peer,
        router: &Router,
    ) -> Response<Full<Bytes>> {
        let watch = Stopwatch::start();
        let mut facts = self.facts(&request, peer);
        let found = router.find(request.method().as_str(), request.uri().path());
        let row = match &found {
            Found::Row(route, ..) => Some((route.verb.method(), route.path)),
            _ => None,
        };
        let span = self.begin_http(&mut facts, row);
        let facts = facts;
        let mut extras = Extras::default();
        let origin = request.headers().get(hyper::header::ORIGIN).cloned();
        if let Some(mut answer) = cors::preflight(&self.settings.allowed_origins, &request) {
            self.finish(&mut answer, &facts, &extras);
            return answer;
        }
        // Who speaks DPoP is told the nonce for its next proof, on an upgrade, too.
        if request.headers().contains_key("dpop") {
            extras.dpop_nonce = Some(self.proofs.nonce(self.clock.now()));
        }
        let (row, response) = match found {
            Found::Row(route, index, path) => {
                // The ways in are public, and their answers carry tokens (RFC 6749, section 5.1).
                extras.no_store = !matches!(route.access, Access::Public(_)) || route.verb == Verb::Post;
                let outcome = if route.verb == Verb::Ws {
                    socket::upgrade(self, request, route, &facts).await
                } else {
                    let (parts, mut body) = request.into_parts();
                    let handled = self.handle(&parts, &mut body, route, path, &facts, &mut extras);
                    let outcome = handled.instrument(span.clone()).await;
                    // Who sends a little more than a row takes hears so, on a row that takes much, too.
                    self.discard(&parts.headers, body, DISCARDED_BYTES_MAX + route.body_max).await;
                    outcome
                };
                (Some(index), outcome)
            }
            Found::OtherMethods(allowed) => {
                let (parts, body) = request.into_parts();
                self.discard(&parts.headers, body, DISCARDED_BYTES_MAX).await;
                let problem = Problem::with_status(405, "method_not_allowed", "This path does not know that method.");
                (None, Err(problem.header("allow", allowed)))
            }
            Found::Nothing => {
                let (parts, body) = request.into_parts();
                self.discard(&parts.headers, body, DISCARDED_BYTES_MAX).await;
                (None, Err(Refusal::not_found().into()))
            }
        };
        let mut response = response.unwrap_or_else(|problem| render(&problem, &facts.origin.request_id));
        self.finish(&mut response, &facts, &extras);
        cors::expose(&self.settings.allowed_origins, origin.as_ref(), response.headers_mut());
        let (status, took) = (response.status(), watch.elapsed());
        self.metrics.request(row, status.as_u16(), took);
        let (request_id, status) = (&*facts.origin.request_id, status.as_u16());
        spans::tell_caller(&span, extras.caller.as_ref());
        spans::tell_status(&span, "http.response.status_code", status.into(), status >= 500);
        let route = row.and_then(|i| ROUTES.get(i)).map_or("none", |r| r.path);
        if status >= 500 {
            tracing::warn!(request_id, route, status, ip = %facts.ip, "a request could not be served");
        } else {
            extras.note(request_id, route, status, &facts, took);
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
        let head = Head { method: parts.method.as_str(), uri: &parts.uri, headers: &parts.headers };
        let (caller, proven_key) = self.admit(head, route, facts, extras)?;
        let body = match route.body_max {
            0 => Bytes::new(),
            max => self.read_body(body, &parts.headers, max).await?,
        };
        let rate = Arc::default();
        let input = Input { body, query: parts.uri.query().unwrap_or_default().to_owned() };
        let context = self.context(head, route, facts, caller, proven_key, path, &rate);
        let answer = (route.endpoint.call)(context, input, route.access);
        let answer = tokio::time::timeout(self.settings.answer_timeout, answer).await.map_err(|_| too_slow(route))?;
        extras.rate = extras.rate.or_else(|| rate.get().copied());
        Ok(respond(answer?))
    }

    /// Everything that is decided before a body is read: who calls, how often, and whether they may.
    pub(super) fn admit(
        self: &Arc<Self>,
        head: Head<'_>,
        route: &'static Route,
        facts: &Facts,
        extras: &mut Extras,
    ) -> Result<(Caller, Option<Binding>), Problem> {
        if self.drain.has_started() && route.rate != RateClass::Unlimited {
            let detail = "The appliance is shutting down. Try again in a moment.";
            return Err(Refusal::new(Kind::Unavailable, "shutting_down", detail).retry_after_s(5).into());
        }
        strain::admit(&self.strain, route)?;
        let out_of_budget =
            |problem: &Problem| (problem.status == 429).then(|| self.limiter.auth_budget(facts.ip, self.clock.now()));
        let caller = self.identify(route, head, facts).inspect_err(|problem| extras.rate = out_of_budget(problem))?;
        let caller = match (route.access, caller) {
            (Access::Anonymous(_), Caller::Public) => self.admit_anonymous(head, facts, extras)?,
            (_, caller) => {
                self.count(route.rate, &caller, facts, extras)?;
                caller
            }
        };
        extras.caller = Some(caller.clone());
        authorize(route.access, &caller, self.clock.now())?;
        if let Some(tenant) = caller.tenant() {
            tenant.count_request();
        }
        if let Caller::User(user) = &caller {
            self.services.metering.person(user.session.tenant, user.id(), self.clock.now());
        }
        // Behind the rate: a proof costs a signature check, and here anybody may bring one. Bad ones have a budget.
        let signed = matches!(route.access, Access::Signed(_));
        let asks_for_tokens = matches!(caller, Caller::Public) && route.verb == Verb::Post && !signed;
        let proven_key = if asks_for_tokens {
            let proven = self.proven_key(head, facts).map_err(Problem::from);
            proven.inspect_err(|problem| extras.rate = out_of_budget(problem).or(extras.rate))?
        } else {
            None
        };
        Ok((caller, proven_key))
    }

    /// What a handler gets.
    #[expect(clippy::too_many_arguments, reason = "the facts of a request, each from another place")]
    pub(super) fn context(
        self: &Arc<Self>,
        head: Head<'_>,
        route: &'static Route,
        facts: &Facts,
        caller: Caller,
        proven_key: Option<Binding>,
        path: Vec<(&'static str, String)>,
        rate: &Arc<OnceLock<Decision>>,
    ) -> Context {
        let header = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok());
        let mut origin = facts.origin.clone();
        match &caller {
            Caller::User(user) => origin.jti = Some(user.jti),
            Caller::Device(device) => origin.jti = Some(device.jti),
            Caller::Machine(machine) => origin.key = Some(machine.key.id),
            Caller::Public | Caller::Anonymous(_) => {}
        }
        Context {
            services: Arc::clone(&self.services),
            limiter: Arc::clone(&self.limiter),
            caller,
            origin,
            path,
            clock: self.clock.clone(),
            metrics: Arc::clone(&self.metrics),
            strain: Arc::clone(&self.strain),
            authority: self.settings.authority.load_full(),
            draining: self.drain.has_started(),
            accept: header("accept").map(str::to_owned),
            enrollment: credential(head.headers, "Enrollment").map(str::to_owned),
            embed: header("x-embed-token").map(str::to_owned),
            cookie: self.refresh_cookie(head.uri, head.headers),
            proven_key,
            certificate: facts.certificate,
            if_none_match: header("if-none-match").map(str::to_owned),
            signature: match route.access {
                Access::Signed(_) => SignatureHeaders::of(head.headers),
                _ => SignatureHeaders::default(),
            },
            host: host_of(head.uri, head.headers).map(str::to_owned),
            idempotency_key: header("idempotency-key").map(str::to_owned),
            rate: Arc::clone(rate),
        }
    }

    pub(super) fn authenticate(&self, access: Access, head: Head<'_>, facts: &Facts) -> Result<Caller, Problem> {
        if matches!(access, Access::Public(_) | Access::Signed(_)) {
            return Ok(Caller::Public);
        }
        let bearer = credential(head.headers, "Bearer").map(|token| (Scheme::Bearer, token));
        let bound = || credential(head.headers, "DPoP").map(|token| (Scheme::Dpop, token));
        let api_key = || head.headers.get("x-api-key")?.to_str().ok().map(|key| (Scheme::Bearer, key));
        match bearer.or_else(bound).or_else(api_key) {
            Some((Scheme::Bearer, text)) if looks_like_api_key(text) => {
                Ok(self.authenticator.machine(text, facts.ip)?)
            }
            Some((scheme, token)) => {
                let caller = self.authenticator.caller(token, facts.ip)?;
                if let Some(session) = caller.session() {
                    self.check_binding(session, token, Some(scheme), head, facts)?;
                }
                Ok(caller)
            }
            None if matches!(access, Access::OptionalUser(_) | Access::Anonymous(_)) => Ok(Caller::Public),
            None if matches!(access, Access::Enrolling(_)) && credential(head.headers, "Enrollment").is_some() => {
                Ok(Caller::Public)
            }
            None => Err(unauthenticated().into()),
        }
    }

    /// A caller without credentials: told apart by its token, counted by token and network.
    fn admit_anonymous(&self, head: Head<'_>, facts: &Facts, extras: &mut Extras) -> Result<Caller, Problem> {
        let text = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok());
        let caller = AnonymousCaller {
            address: facts.ip,
            network: network_of(facts.ip),
            user_agent: facts.origin.user_agent.as_deref(),
            accept_language: text("accept-language"),
        };
        let anonymous = self.services.iam.anonymous();
        let admission = anonymous.admit(text("x-anonymous-token"), &caller, self.clock.now());
        extras.rate = admission.decision;
        extras.anonymous_token = admission.new_token;
        if let Some(decision) = &admission.decision {
            check_rate(decision)?;
        }
        Ok(Caller::Anonymous(admission.user))
    }

    fn count(&self, class: RateClass, caller: &Caller, facts: &Facts, extras: &mut Extras) -> Result<(), Problem> {
        let now = self.clock.now();
        if let Caller::Device(device) = caller {
            extras.tier = Some(self.services.billing.tier(&device.entry, &device.tenant, now).name());
        }
        let session = caller.session().map_or(0, |s| u128::from_be_bytes(s.id.to_bytes()));
        let decision = match (class, caller) {
            (RateClass::Unlimited | RateClass::Login, _) => return Ok(()),
            (RateClass::PlanTier, Caller::Device(device)) => self.admit_heartbeat(device, now),
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

    /// Whether the device's subscription admits one more heartbeat, whichever way it comes.
    pub(super) fn admit_heartbeat(&self, device: &DeviceCaller, now: Timestamp) -> Decision {
        let billing = &self.services.billing;
        let tier = billing.tier(&device.entry, &device.tenant, now);
        device.entry.rate.admit(Quota::per_minute(billing.heartbeats_per_minute(tier)), now)
    }

    /// Reads on, within bounds, what is left of a body that was not wanted: a connection that is closed on unread bytes is
    /// reset, and the refusal would be lost with it. A client that waits to be asked for its body is not asked.
    async fn discard(&self, headers: &HeaderMap, mut body: Incoming, bytes_max: usize) {
        if body.is_end_stream() || headers.contains_key("expect") {
            return;
        }
        let reading = async {
            let mut left = bytes_max;
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

    fn finish(&self, response: &mut Response<Full<Bytes>>, facts: &Facts, extras: &Extras) {
        let headers = response.headers_mut();
        for (name, value) in &self.headers {
            headers.entry(name).or_insert_with(|| value.clone());
        }
        // A page that others may frame leaves it out; only such a page says so, by an empty one.
        if headers.get("x-frame-options").is_some_and(HeaderValue::is_empty) {
            headers.remove("x-frame-options");
        }
        if let Ok(id) = HeaderValue::from_str(&facts.origin.request_id) {
            headers.insert(HeaderName::from_static("x-request-id"), id);
        }
        if let Some(trace) = facts.origin.trace.and_then(|t| HeaderValue::try_from(t.to_string()).ok()) {
            headers.insert(HeaderName::from_static("traceparent"), trace);
        }
        if extras.no_store {
            headers.entry("cache-control").or_insert(HeaderValue::from_static("no-store"));
        }
        if let Some(token) = extras.anonymous_token.as_ref().and_then(|t| HeaderValue::from_str(t).ok()) {
            headers.insert(HeaderName::from_static("x-anonymous-token"), token);
        }
        if let Some(nonce) = extras.dpop_nonce.as_ref().and_then(|n| HeaderValue::from_str(n).ok()) {
            headers.insert(HeaderName::from_static("dpop-nonce"), nonce);
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

/// The handler is given up. What it handed to the writer is written all the same.
fn too_slow(route: &Route) -> Problem {
    tracing::error!(route = route.path, "a handler took too long and was given up");
    let detail =
        "The answer took too long. A change that was asked for may still take effect: look before you repeat it.";
    Refusal::new(Kind::Unavailable, "timed_out", detail).retry_after_s(10).into()
}

fn broken() -> Problem {
    Problem::with_status(400, "broken_body", "The body ended before it was complete.")
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}
