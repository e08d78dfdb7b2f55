//! A stream of heartbeats: each is judged and made durable as one over HTTP, then acknowledged in its turn.

use std::sync::Arc;

use hyper::header::HeaderMap;
use hyper::{Method, Uri};
use tonic::Code;
use tracing::Instrument;

use super::body::Reading;
use super::messages::{self, Kind};
use super::proto::signals::heartbeat_ack::Outcome;
use super::proto::signals::{FieldError, HeartbeatAck, HeartbeatRequest, HeartbeatResponse, Problem};
use super::status::Ended;
use super::stream::{Call, Progress, Running};
use crate::gate::binding::Head;
use crate::gate::context::{Caller, DeviceCaller, unauthenticated};
use crate::gate::facts::Facts;
use crate::gate::pipeline::check_rate;
use crate::gate::route::Route;
use crate::gate::routes::ROUTES;
use crate::gate::spans;
use crate::kernel::rate::{Quota, SlidingWindow};
use crate::kernel::{Error, Result};

/// Messages in a row that may be refused before the stream ends: a client that does not listen is not served.
const REFUSED_IN_A_ROW_MAX: u32 = 32;

/// The row whose handler judges each message.
fn heartbeat_row() -> Option<&'static Route> {
    ROUTES.iter().find(|r| r.path == "/blockremote.v1.Signals/Heartbeat")
}

pub fn run<'a>(call: &'a Call, device: Arc<DeviceCaller>, reading: Reading, progress: &'a mut Progress) -> Running<'a> {
    Box::pin(async move {
        match converse(call, &device, reading, progress).await {
            Ok(()) => Ended::well(),
            Err(ended) => ended,
        }
    })
}

async fn converse(
    call: &Call,
    device: &Arc<DeviceCaller>,
    reading: Reading,
    progress: &mut Progress,
) -> Result<(), Ended> {
    let settings = call.gate.settings.grpc;
    let pace = SlidingWindow::default();
    let quota = Quota::per_minute(settings.stream_messages_per_minute);
    let row = heartbeat_row().ok_or_else(|| Ended::from(Error::internal("heartbeats have no row")))?;
    let mut messages = reading.messages::<HeartbeatRequest>();
    let mut refused_in_a_row = 0;
    loop {
        let next = tokio::time::timeout(settings.stream_idle, messages.message()).await;
        let silent = || {
            let detail = format!("No whole message came for {} s.", settings.stream_idle.as_secs());
            Ended::new(Code::DeadlineExceeded, "stream_idle", detail)
        };
        let Some(message) = next.map_err(|_| silent())?? else { return Ok(()) };
        progress.tally.received += 1;
        if !pace.admit(quota, call.gate.clock.now()).admitted {
            let detail = format!("More than {} messages a minute on one stream.", quota.limit);
            return Err(Ended::new(Code::ResourceExhausted, "stream_rate", detail));
        }
        let outcome = match take_in(call, device, row, &message).await {
            Ok(response) => {
                refused_in_a_row = 0;
                Outcome::Accepted(response)
            }
            Err(ended) if ended.concerns_the_caller() => return Err(ended),
            Err(ended) => {
                progress.tally.refused += 1;
                refused_in_a_row += 1;
                Outcome::Refused(problem(&ended))
            }
        };
        let ack = HeartbeatAck { number: progress.tally.received, outcome: Some(outcome) };
        progress.out.send(&ack).await?;
        if refused_in_a_row >= REFUSED_IN_A_ROW_MAX {
            let detail = format!("{REFUSED_IN_A_ROW_MAX} messages in a row were refused; see their answers.");
            return Err(Ended::new(Code::ResourceExhausted, "too_many_refused", detail));
        }
    }
}

/// What a heartbeat passes over HTTP, behind the checks that the stream itself has passed.
async fn take_in(
    call: &Call,
    device: &Arc<DeviceCaller>,
    row: &'static Route,
    message: &HeartbeatRequest,
) -> Result<HeartbeatResponse, Ended> {
    let gate = &call.gate;
    let now = gate.clock.now();
    if device.session.ended().is_some() || call.certificate.has_ended() || now > call.certificate.expires_at {
        return Err(Error::from(unauthenticated()).into());
    }
    if device.tenant.is_suspended() {
        return Err(Error::from(crate::domains::tenants::suspended()).into());
    }
    check_rate(&gate.admit_heartbeat(device, now))?;
    let input = messages::heartbeat(message)?;
    let (uri, headers, method) = (Uri::from_static(row.path), HeaderMap::new(), Method::POST);
    let head = Head { method: method.as_str(), uri: &uri, headers: &headers };
    let ip = call.origin.ip.unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    let mut facts = Facts { origin: call.origin.clone(), ip, certificate: None };
    // In the stream's trace where that is recorded; else each message is drawn by itself.
    facts.origin.trace = facts.origin.trace.filter(|trace| trace.is_sampled());
    let span = gate.begin_rpc(&mut facts.origin, ip, row.path, " message");
    let caller = Caller::Device(Arc::clone(device));
    spans::tell_caller(&span, Some(&caller));
    let rate = Arc::default();
    let handled = gate.handled(input, head, row, &facts, &caller, &rate).instrument(span.clone());
    let answer = handled.await.map_err(Ended::from).inspect_err(|ended| ended.tell(&span))?;
    Ended::well().tell(&span);
    let bytes = Kind::Heartbeat.write(&answer.body)?;
    prost::Message::decode(bytes.as_slice()).map_err(|e: prost::DecodeError| Error::internal(e).into())
}

fn problem(ended: &Ended) -> Problem {
    let field =
        |f: &crate::kernel::error::FieldError| FieldError { pointer: f.pointer.clone(), detail: f.detail.clone() };
    Problem {
        status: ended.http_status.into(),
        code: ended.code.to_owned(),
        detail: ended.detail.clone(),
        retry_after: ended.retry_after_s.unwrap_or_default(),
        errors: ended.fields.iter().map(field).collect(),
    }
}
