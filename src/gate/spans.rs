//! The span of a request: how it begins, and what it is told at its end. Names follow OpenTelemetry's conventions for HTTP
//! and RPC servers (semantic conventions 1.2x); ours begin with `blockremote.`. No path, query, header or body goes in.

use std::net::IpAddr;

use tracing::Span;
use tracing::field::Empty;

use super::context::Caller;
use super::facts::Facts;
use super::pipeline::Gate;
use crate::kernel::context::Origin;
use crate::kernel::trace::{TARGET, TraceContext};

/// A method that no row has may be any word.
const OTHER_METHOD: &str = "_OTHER";

impl Gate {
    /// Begins a request over HTTP.
    pub(super) fn begin_http(&self, facts: &mut Facts, row: Option<(&'static str, &'static str)>) -> Span {
        let (method, route) = row.unwrap_or((OTHER_METHOD, ""));
        let name = if route.is_empty() { "HTTP".to_owned() } else { format!("{method} {route}") };
        self.begin(&mut facts.origin, facts.ip, |ip, request_id| {
            tracing::info_span!(
                target: TARGET,
                "request",
                otel.name = name,
                otel.kind = "server",
                otel.status_code = Empty,
                http.request.method = method,
                http.route = route,
                http.response.status_code = Empty,
                url.scheme = "https",
                client.address = %ip,
                blockremote.request_id = request_id,
                blockremote.tenant = Empty,
                blockremote.user = Empty,
                blockremote.device = Empty,
            )
        })
    }

    /// Begins a call of gRPC, or one message of a stream.
    pub(super) fn begin_rpc(&self, origin: &mut Origin, ip: IpAddr, path: &'static str, what: &'static str) -> Span {
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or(("", path));
        self.begin(origin, ip, |ip, request_id| {
            tracing::info_span!(
                target: TARGET,
                "call",
                otel.name = format_args!("{service}/{method}{what}"),
                otel.kind = "server",
                otel.status_code = Empty,
                rpc.system = "grpc",
                rpc.service = service,
                rpc.method = method,
                rpc.grpc.status_code = Empty,
                client.address = %ip,
                blockremote.request_id = request_id,
                blockremote.tenant = Empty,
                blockremote.device = Empty,
            )
        })
    }

    /// Begins a message on a device's socket.
    pub(super) fn begin_message(&self, origin: &mut Origin, kind: &'static str) -> Span {
        let ip = origin.ip.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
        self.begin(origin, ip, |ip, request_id| {
            tracing::info_span!(
                target: TARGET,
                "message",
                otel.name = format_args!("kill-switch {kind}"),
                otel.kind = "server",
                otel.status_code = Empty,
                network.protocol.name = "websocket",
                client.address = %ip,
                blockremote.request_id = request_id,
                blockremote.tenant = Empty,
                blockremote.device = Empty,
            )
        })
    }

    /// The caller's place in a trace becomes ours.
    fn begin(&self, origin: &mut Origin, ip: IpAddr, span: impl FnOnce(IpAddr, &str) -> Span) -> Span {
        let caller: Option<TraceContext> = origin.trace;
        let (span, place) =
            self.settings.traces.begin(caller, self.clock.now(), &self.random, || span(ip, &origin.request_id));
        origin.trace = place;
        span
    }
}

/// Says in a span who called.
pub(super) fn tell_caller(span: &Span, caller: Option<&Caller>) {
    if span.is_none() {
        return;
    }
    if let Some(tenant) = caller.and_then(Caller::tenant) {
        span.record("blockremote.tenant", tracing::field::display(tenant.id));
    }
    match caller {
        Some(Caller::User(user)) => {
            span.record("blockremote.user", tracing::field::display(user.id()));
        }
        Some(Caller::Device(device)) => {
            span.record("blockremote.device", tracing::field::display(&device.entry.id));
        }
        _ => {}
    }
}

/// Says in a span how it went: only what is the appliance's fault is an error (as the conventions want it).
pub(super) fn tell_status(span: &Span, field: &'static str, status: i64, failed: bool) {
    span.record(field, status);
    if failed {
        span.record("otel.status_code", "ERROR");
    }
}
