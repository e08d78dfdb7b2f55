//! The kill-switch socket's way through the gate.

use std::sync::Arc;

use base64ct::{Base64, Encoding};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::authn::credential;
use super::binding::{Head, Scheme};
use super::context::check_acting;
use super::device_socket::{DeviceSocket, Mode};
use super::facts::Facts;
use super::pipeline::{Gate, check_rate};
use super::problem::Problem;
use super::route::Route;
use crate::kernel::clock::Stopwatch;
use crate::kernel::context::{Origin, Source};
use crate::kernel::{Error, Kind, Refusal};
use crate::net::ws::{self, Driver, Driving, Push, code};

/// Subprotocols that are spoken. The token comes as the entry behind it.
const PROTOCOLS: [&str; 2] = ["blockremote.v1", "sentinel-v2"];

/// Answers the upgrade. Wrong origin and a malformed upgrade are refused before it, bad credentials after it.
pub(super) async fn upgrade(
    gate: &Arc<Gate>,
    mut request: Request<Incoming>,
    route: &'static Route,
    facts: &Facts,
) -> Result<Response<Full<Bytes>>, Problem> {
    let watch = Stopwatch::start();
    let headers = request.headers();
    check_origin(gate, headers)?;
    let Some(key) = upgrade_key(headers) else {
        let detail = "This is a WebSocket: send an upgrade with version 13.";
        let problem = Problem::with_status(426, "upgrade_required", detail);
        return Err(problem
            .header("upgrade", "websocket")
            .header("connection", "Upgrade")
            .header("sec-websocket-version", "13"));
    };
    let accept = derive_accept_key(key.as_bytes());
    let offered = protocols(headers);
    let chosen = PROTOCOLS.iter().copied().find(|p| offered.first() == Some(p));
    let by_protocol = chosen.and(offered.get(1).copied()).map(|token| (None, token));
    let bearer = || credential(headers, "Bearer").map(|token| (Some(Scheme::Bearer), token));
    let bound = || credential(headers, "DPoP").map(|token| (Some(Scheme::Dpop), token));
    let token = by_protocol.or_else(bearer).or_else(bound);
    if gate.drain.has_started() {
        let detail = "The appliance is shutting down. Try again in a moment.";
        return Err(Refusal::new(Kind::Unavailable, "shutting_down", detail).retry_after_s(5).into());
    }
    super::strain::admit(&gate.strain, route)?;
    let head = Head { method: request.method().as_str(), uri: request.uri(), headers };
    let driver = driver(gate, token, head, facts);
    if let Err(Closing::Refuse(error)) = driver {
        return Err(error.into());
    }
    let upgraded = hyper::upgrade::on(&mut request);
    let guard = gate.drain.guard();
    let metrics = Arc::clone(&gate.metrics);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgraded.await {
            metrics.ws_opened(watch.elapsed());
            let driver: Box<dyn Driver> = match driver {
                Ok(driver) => driver,
                Err(Closing::Close(code, reason)) => Box::new(Farewell(code, reason)),
                Err(Closing::Refuse(_)) => return,
            };
            ws::run(upgraded, driver).await;
        }
        drop(guard);
    });
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(hyper::header::CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(hyper::header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::try_from(accept) {
        out.insert(hyper::header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = chosen {
        out.insert(hyper::header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok(response)
}

enum Closing {
    /// Before the upgrade.
    Refuse(Error),
    /// After it.
    Close(u16, &'static str),
}

fn driver(
    gate: &Arc<Gate>,
    token: Option<(Option<Scheme>, &str)>,
    head: Head<'_>,
    facts: &Facts,
) -> Result<Box<dyn Driver>, Closing> {
    let bad = Closing::Close(code::POLICY, "missing or bad token");
    let Some((scheme, token)) = token else { return Err(bad) };
    let (caller, full) = match gate.authenticator.socket_caller(token, facts.ip) {
        Ok(found) => found,
        Err(Error::Refused(refusal)) if refusal.kind == Kind::Unauthenticated => return Err(bad),
        Err(other) => return Err(Closing::Refuse(other)),
    };
    if gate.check_binding(&caller.session, token, scheme, head, facts).is_err() {
        return Err(bad);
    }
    let now = gate.clock.now();
    check_rate(&gate.limiter.handshake(caller.entry.no.0, now)).map_err(Closing::Refuse)?;
    let mode = match check_acting(&gate.services, &caller, now) {
        Err(Error::Refused(refusal)) if refusal.kind == Kind::PaymentRequired => Mode::Paywall,
        Ok(()) if full && !caller.tenant.is_suspended() => Mode::Full,
        _ => Mode::CommandsOnly,
    };
    let origin = Origin { source: Source::Ws, ..facts.origin.clone() };
    Ok(Box::new(DeviceSocket::new(Arc::clone(gate), caller, mode, origin)))
}

/// Says good-bye at once.
struct Farewell(u16, &'static str);

impl Driver for Farewell {
    fn open(&mut self) -> Driving<'_> {
        let close = Push::Close(self.0, self.1);
        Box::pin(async move { vec![close] })
    }
    fn text<'a>(&'a mut self, _: &'a str) -> Driving<'a> {
        Box::pin(async { Vec::new() })
    }
    fn poll_push(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Push> {
        std::task::Poll::Pending
    }
    fn sent(&mut self, _: Vec<u64>) {}
}

/// Browsers name the page's origin; apps name none. A page may open a socket only when the configuration says so.
fn check_origin(gate: &Gate, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(origin) = headers.get(hyper::header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or("");
    if gate.settings.allowed_origins.iter().any(|allowed| allowed == origin) {
        return Ok(());
    }
    let detail = "Pages of this origin may not open sockets here (http.allowed_origins).";
    Err(Refusal::new(Kind::Forbidden, "origin_not_allowed", detail).into())
}

/// The key of a well-formed upgrade (RFC 6455, section 4.2.1).
fn upgrade_key(headers: &HeaderMap) -> Option<&str> {
    let has = |name: HeaderName, token: &str| {
        let mut values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
        values.any(|v| v.trim().eq_ignore_ascii_case(token))
    };
    let fits = has(hyper::header::UPGRADE, "websocket")
        && has(hyper::header::CONNECTION, "upgrade")
        && headers.get(hyper::header::SEC_WEBSOCKET_VERSION).is_some_and(|v| v == "13");
    let key = headers.get(hyper::header::SEC_WEBSOCKET_KEY)?.to_str().ok()?;
    let mut nonce = [0; 18];
    (fits && Base64::decode(key, &mut nonce).is_ok_and(|n| n.len() == 16)).then_some(key)
}

fn protocols(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(hyper::header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(str::trim).take(8).collect()
}
