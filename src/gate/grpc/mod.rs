//! gRPC's way through the gate: the same decisions as for HTTP, in the same order, then messages instead of a body.
//!
//! A method with one answer is the row's own handler, which takes the JSON that the message stands for; so what is
//! refused over HTTP is refused here, with the same words. Streams are tasks of their own ([`stream`]): each has a
//! deadline, an end by silence, a rate and one line in the log.

mod body;
mod heartbeats;
mod kill_switch;
mod messages;
mod proto;
mod status;
mod stream;
mod tools;

pub use body::GrpcBody;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use tonic::codec::CompressionEncoding;
use tracing::{Instrument, Span};

use self::body::Reading;
use self::status::{Ended, answer_only};
use self::stream::Call;
use super::answer::Answer;
use super::binding::Head;
use super::body::Input;
use super::context::{Caller, check_acting};
use super::facts::Facts;
use super::pipeline::{Extras, Gate};
use super::problem::Problem;
use super::render::rate_headers;
use super::route::{Access, DeviceRule, Route};
use super::router::Found;
use super::spans;
use crate::kernel::clock::Stopwatch;
use crate::kernel::context::{Origin, Source};
use crate::kernel::{Kind, Refusal};
use crate::net::Peer;

/// What gRPC is bounded by.
#[derive(Clone, Copy, Debug)]
pub struct GrpcSettings {
    /// Whether tools may ask which services and messages there are.
    pub reflection: bool,
    /// Whether load balancers may ask how the appliance is.
    pub health: bool,
    /// The most that a call with one answer may take, whatever the client allows.
    pub deadline: Duration,
    /// The most that a stream may last.
    pub stream_max: Duration,
    /// For a stream on which the client sends messages: between two of them.
    pub stream_idle: Duration,
    /// Messages of one stream.
    pub stream_messages_per_minute: u32,
}

/// What a method does with its messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Method {
    Unary(messages::Kind),
    Heartbeats,
    Commands,
    HealthCheck,
    HealthWatch,
    Reflection,
}

/// The methods, by the last two parts of their paths.
const METHODS: [(&str, Method); 9] = [
    ("/blockremote.v1.Signals/Heartbeat", Method::Unary(messages::Kind::Heartbeat)),
    ("/blockremote.v1.Signals/StreamHeartbeats", Method::Heartbeats),
    ("/blockremote.v1.Signals/GetTrustScore", Method::Unary(messages::Kind::TrustScore)),
    ("/blockremote.v1.Signals/Commands", Method::Commands),
    ("/blockremote.v1.Signals/Acknowledge", Method::Unary(messages::Kind::Acknowledge)),
    ("/blockremote.v1.Signals/RenewCertificate", Method::Unary(messages::Kind::Certificate)),
    ("/grpc.health.v1.Health/Check", Method::HealthCheck),
    ("/grpc.health.v1.Health/Watch", Method::HealthWatch),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Method::Reflection),
];

impl Method {
    fn of(path: &str) -> Option<Self> {
        METHODS.iter().find(|(known, _)| *known == path).map(|(_, method)| *method)
    }

    const fn is_switched_on(self, settings: &GrpcSettings) -> bool {
        match self {
            Self::HealthCheck | Self::HealthWatch => settings.health,
            Self::Reflection => settings.reflection,
            _ => true,
        }
    }

    const fn has_one_answer(self) -> bool {
        matches!(self, Self::Unary(_) | Self::HealthCheck)
    }
}

/// The row of a method's path.
fn unknown_method() -> Ended {
    Ended::new(tonic::Code::Unimplemented, "not_found", "There is no such method here; see proto/signals.proto.")
}

impl Gate {
    /// Answers one call.
    pub async fn grpc(self: &Arc<Self>, request: Request<Incoming>, peer: Peer) -> Response<GrpcBody> {
        let watch = Stopwatch::start();
        let mut facts = self.facts(&request, peer);
        facts.origin = Origin { source: Source::Grpc, ..facts.origin };
        if !speaks_grpc(request.headers()) {
            let mut response = Response::new(GrpcBody::empty());
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return response;
        }
        let mut extras = Extras::default();
        let compressed = accepts_gzip(request.headers());
        let path = request.uri().path().to_owned();
        let found = match self.grpc.find(request.method().as_str(), &path) {
            Found::Row(route, index, _) => Some((route, index)),
            Found::OtherMethods(_) | Found::Nothing => None,
        };
        let method = Method::of(&path).filter(|m| m.is_switched_on(&self.settings.grpc));
        let row = found.map(|(_, index)| index);
        let span = self.begin_rpc(&mut facts.origin, facts.ip, found.map_or("unknown", |(route, _)| route.path), "");
        let facts = facts;
        let outcome = match (found, method) {
            (Some((route, index)), Some(method)) => {
                let watched = (watch, span.clone());
                let answered = self.answer_call(request, route, index, method, &facts, &mut extras, watched);
                answered.instrument(span.clone()).await
            }
            _ => Err(unknown_method()),
        };
        let metadata = self.metadata(&facts, &extras);
        match outcome {
            Ok(body) => {
                let mut response = Response::new(body);
                *response.headers_mut() = metadata;
                if compressed {
                    response.headers_mut().insert("grpc-encoding", HeaderValue::from_static("gzip"));
                }
                response
            }
            Err(ended) => {
                self.count_call(row, &facts, &ended, &extras, (watch, &span));
                answer_only(metadata, &ended, &facts.origin.request_id)
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the facts of a call, each from another place")]
    async fn answer_call(
        self: &Arc<Self>,
        request: Request<Incoming>,
        route: &'static Route,
        row: usize,
        method: Method,
        facts: &Facts,
        extras: &mut Extras,
        (watch, span): (Stopwatch, Span),
    ) -> Result<GrpcBody, Ended> {
        let (parts, incoming) = request.into_parts();
        let head = Head { method: parts.method.as_str(), uri: &parts.uri, headers: &parts.headers };
        let (caller, _) = self.admit(head, route, facts, extras)?;
        let settings = &self.settings.grpc;
        let most = if method.has_one_answer() { settings.deadline } else { settings.stream_max };
        let certificate = self.certificate(facts)?;
        // A stream ends with the certificate that let it in.
        let deadline = deadline(&parts.headers, most)?.min(certificate.expires_at.since(self.clock.now()));
        let compressed = accepts_gzip(&parts.headers);
        let reading = Reading { body: incoming, encoding: encoding(&parts.headers)?, bytes_max: route.body_max };
        let call = || Call {
            gate: Arc::clone(self),
            route,
            row,
            origin: origin_of(facts, &caller),
            certificate,
            deadline,
            compressed,
            watch,
            span: span.clone(),
        };
        if route.access == Access::Device(DeviceRule::Acting)
            && let Caller::Device(device) = &caller
        {
            check_acting(&self.services, device, self.clock.now())?;
        }
        match method {
            Method::Unary(kind) => {
                let work = self.unary(kind, reading, head, route, facts, &caller, extras);
                let message = tokio::time::timeout(deadline, work).await.map_err(|_| status::too_late())??;
                self.count_call(Some(row), facts, &Ended::well(), extras, (watch, &span));
                Ok(GrpcBody::one(&message, compressed))
            }
            Method::HealthCheck => {
                let work = tools::health_check(self, reading);
                let message = tokio::time::timeout(deadline, work).await.map_err(|_| status::too_late())??;
                self.count_call(Some(row), facts, &Ended::well(), extras, (watch, &span));
                Ok(GrpcBody::one(&message, compressed))
            }
            Method::Heartbeats => {
                let Caller::Device(device) = &caller else { return Err(unknown_method()) };
                let device = Arc::clone(device);
                Ok(stream::start(call(), move |call, out| heartbeats::run(call, device, reading, out)))
            }
            Method::Commands => {
                let Caller::Device(device) = &caller else { return Err(unknown_method()) };
                let device = Arc::clone(device);
                Ok(stream::start(call(), move |call, out| kill_switch::run(call, device, reading, out)))
            }
            Method::HealthWatch => Ok(stream::start(call(), move |call, out| tools::health_watch(call, reading, out))),
            Method::Reflection => Ok(stream::start(call(), move |call, out| tools::reflection(call, reading, out))),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the facts of a call, each from another place")]
    async fn unary(
        self: &Arc<Self>,
        kind: messages::Kind,
        reading: Reading,
        head: Head<'_>,
        route: &'static Route,
        facts: &Facts,
        caller: &Caller,
        extras: &mut Extras,
    ) -> Result<Vec<u8>, Ended> {
        let read = tokio::time::timeout(self.settings.body_timeout, kind.read(reading));
        let input = read.await.map_err(|_| status::too_slow())??;
        let rate = Arc::default();
        let answer = self.handled(input, head, route, facts, caller, &rate).await?;
        extras.rate = extras.rate.or_else(|| rate.get().copied());
        kind.write(&answer.body)
    }

    /// What the row's handler says to this input.
    async fn handled(
        self: &Arc<Self>,
        input: Input,
        head: Head<'_>,
        route: &'static Route,
        facts: &Facts,
        caller: &Caller,
        rate: &Arc<OnceLock<crate::kernel::rate::Decision>>,
    ) -> Result<Answer, Problem> {
        // The certificate names the device, and the token is its own.
        let path = match caller {
            Caller::Device(device) => vec![("device_id", device.entry.id.to_string())],
            _ => Vec::new(),
        };
        let context = self.context(head, route, facts, caller.clone(), None, path, rate);
        Ok((route.endpoint.call)(context, input, route.access).await?)
    }

    fn metadata(&self, facts: &Facts, extras: &Extras) -> HeaderMap {
        let mut metadata = HeaderMap::new();
        metadata.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        metadata.insert("grpc-accept-encoding", HeaderValue::from_static("gzip,identity"));
        if let Ok(id) = HeaderValue::from_str(&facts.origin.request_id) {
            metadata.insert("x-request-id", id);
        }
        if let Some(trace) = facts.origin.trace.and_then(|t| HeaderValue::try_from(t.to_string()).ok()) {
            metadata.insert("traceparent", trace);
        }
        if let Some(tier) = extras.tier {
            metadata.insert(HeaderName::from_static("x-plan-tier"), HeaderValue::from_static(tier));
        }
        if let Some(rate) = &extras.rate {
            rate_headers(&mut metadata, rate);
        }
        metadata
    }

    /// Metrics, span and the log of a call without a stream.
    fn count_call(
        &self,
        row: Option<usize>,
        facts: &Facts,
        ended: &Ended,
        extras: &Extras,
        (watch, span): (Stopwatch, &Span),
    ) {
        let took = watch.elapsed();
        spans::tell_caller(span, extras.caller.as_ref());
        ended.tell(span);
        self.metrics.request(row, ended.http_status, took);
        let request_id = &*facts.origin.request_id;
        let route = row.and_then(|i| super::routes::ROUTES.get(i)).map_or("none", |r| r.path);
        let (status, code) = (ended.http_status, ended.code);
        if status >= 500 {
            tracing::warn!(request_id, route, status, code, ip = %facts.ip, "a call of gRPC could not be served");
        } else {
            extras.note(request_id, route, status, facts, took);
        }
    }
}

fn origin_of(facts: &Facts, caller: &Caller) -> Origin {
    let jti = match caller {
        Caller::Device(device) => Some(device.jti),
        _ => None,
    };
    Origin { jti, ..facts.origin.clone() }
}

fn speaks_grpc(headers: &HeaderMap) -> bool {
    let named = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = named.split(';').next().unwrap_or_default().trim();
    ["application/grpc", "application/grpc+proto"].iter().any(|known| essence.eq_ignore_ascii_case(known))
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let named = headers.get("grpc-accept-encoding").and_then(|v| v.to_str().ok()).unwrap_or_default();
    named.split(',').any(|encoding| encoding.trim() == "gzip")
}

/// How the client's messages are compressed.
fn encoding(headers: &HeaderMap) -> Result<Option<CompressionEncoding>, Ended> {
    match headers.get("grpc-encoding").map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(None),
        Some(b"gzip") => Ok(Some(CompressionEncoding::Gzip)),
        Some(_) => {
            let detail = "Messages are taken as they are or compressed with gzip.";
            Err(Ended::new(tonic::Code::Unimplemented, "unsupported_encoding", detail))
        }
    }
}

/// What the client allows (`grpc-timeout`), within what we allow.
fn deadline(headers: &HeaderMap, most: Duration) -> Result<Duration, Ended> {
    let Some(given) = headers.get("grpc-timeout") else { return Ok(most) };
    let malformed = || {
        let detail = "grpc-timeout must be 1 to 8 digits and one of H, M, S, m, u, n.";
        Ended::from(Problem::from(Refusal::new(Kind::Malformed, "malformed_timeout", detail)))
    };
    let text = given.to_str().map_err(|_| malformed())?;
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(malformed)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(malformed());
    }
    let n: u64 = digits.parse().map_err(|_| malformed())?;
    let given = match unit {
        "H" => Duration::from_secs(n * 3_600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return Err(malformed()),
    };
    Ok(given.min(most))
}

#[cfg(test)]
mod tests;
