//! What all streams have in common: a task, a deadline, an end when the certificate is revoked, the appliance shuts down
//! or the client is gone, and one line in the log that says how it went.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tracing::Span;

use super::body::{GrpcBody, Out, gone};
use super::status::{Ended, too_late};
use crate::domains::certificates::CertificateEntry;
use crate::gate::pipeline::Gate;
use crate::gate::route::Route;
use crate::kernel::clock::Stopwatch;
use crate::kernel::context::Origin;
use crate::kernel::trace::TraceContext;
use crate::kernel::{Kind, Refusal};

/// A call that was let in.
pub struct Call {
    pub gate: Arc<Gate>,
    pub route: &'static Route,
    pub row: usize,
    pub origin: Origin,
    pub certificate: Arc<CertificateEntry>,
    pub deadline: Duration,
    pub compressed: bool,
    pub watch: Stopwatch,
    /// Its own span, which ends with it; what its messages do is told in theirs.
    pub span: Span,
}

/// What a stream did, for the log.
#[derive(Default)]
pub struct Tally {
    pub received: u64,
    pub refused: u64,
}

pub type Running<'a> = Pin<Box<dyn Future<Output = Ended> + Send + 'a>>;

/// Runs a stream in a task of its own; gives the body that it fills.
pub fn start<W>(call: Call, work: W) -> GrpcBody
where
    W: for<'a> FnOnce(&'a Call, &'a mut Progress) -> Running<'a> + Send + 'static,
{
    let (body, out) = GrpcBody::coming(call.compressed);
    let guard = call.gate.drain.guard();
    tokio::spawn(async move {
        let left = out.gone();
        let mut progress = Progress { out, tally: Tally::default() };
        let ended = tokio::select! {
            biased;
            () = call.certificate.ended() => revoked(),
            () = call.gate.drain.started() => shutting_down(),
            () = tokio::time::sleep(call.deadline) => too_late(),
            () = left => gone(),
            ended = work(&call, &mut progress) => ended,
        };
        finish(&call, progress, &ended);
        drop(guard);
    });
    body
}

/// What a stream has to work with.
pub struct Progress {
    pub out: Out,
    pub tally: Tally,
}

fn revoked() -> Ended {
    let detail = "The client certificate of this connection was revoked. Ask for another one.";
    Ended::from(crate::kernel::Error::from(Refusal::new(Kind::Unauthenticated, "certificate_refused", detail)))
}

fn shutting_down() -> Ended {
    let detail = "The appliance is shutting down. Try again in a moment.";
    let refusal = Refusal::new(Kind::Unavailable, "shutting_down", detail).retry_after_s(5);
    Ended::from(crate::kernel::Error::from(refusal))
}

fn finish(call: &Call, progress: Progress, ended: &Ended) {
    let Progress { out, tally } = progress;
    let took = call.watch.elapsed();
    call.gate.metrics.request(Some(call.row), ended.http_status, took);
    call.span.record("blockremote.tenant", tracing::field::display(call.certificate.tenant));
    call.span.record("blockremote.device", tracing::field::display(&call.certificate.device));
    ended.tell(&call.span);
    tracing::info!(
        request_id = &*call.origin.request_id,
        trace_id = call.origin.trace.map(TraceContext::trace_id_text),
        route = call.route.path,
        tenant = %call.certificate.tenant,
        device = %call.certificate.device,
        jti = call.origin.jti.map(tracing::field::display),
        ip = call.origin.ip.map(tracing::field::display),
        status = ended.status as i32,
        code = ended.code,
        received = tally.received,
        refused = tally.refused,
        sent = out.sent,
        took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "a stream of gRPC ended"
    );
    out.end(ended.trailers(&call.origin.request_id));
}
