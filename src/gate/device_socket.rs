//! A device's kill-switch socket: commands go out until they end, acknowledgements and heartbeats come in.

use std::sync::Arc;
use std::task::{Context, Poll};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tracing::Instrument;

use super::context::{Caller, DeviceCaller, check_acting, device_mismatch, unauthenticated};
use super::pipeline::{Gate, check_rate};
use super::problem::{Problem, members, status_of};
use super::schema::Validate;
use super::spans;
use crate::domains::devices::DeviceEntry;
use crate::domains::killswitch::{Ack, AckStatus, CloseReason, Notice, Outbox, Outgoing};
use crate::domains::signals::Answer;
use crate::domains::signals::api::{self, HeartbeatRequest};
use crate::kernel::context::Origin;
use crate::kernel::error::FieldError;
use crate::kernel::ids::{CommandId, DeviceId};
use crate::kernel::trace::TraceContext;
use crate::kernel::{Error, Kind, Refusal};
use crate::net::ws::{Driver, Driving, Push, code};
use crate::observe::strain::Importance;

/// What a socket may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// Everything.
    Full,
    /// Receive commands and acknowledge them: blocked, or its session was revoked.
    CommandsOnly,
    /// Receive pending locks, then go: the trial is over.
    Paywall,
}

pub(super) struct DeviceSocket {
    gate: Arc<Gate>,
    caller: Arc<DeviceCaller>,
    mode: Mode,
    origin: Origin,
    outbox: Outbox,
    /// Commands up to this one went out already: what the hub brings may repeat what was read from the store.
    sent_through: u64,
}

impl Drop for DeviceSocket {
    fn drop(&mut self) {
        self.gate.services.killswitch.hub().close(self.caller.entry.no, self.outbox.id);
    }
}

/// A text that a device sends, told apart by `type`; older clients send none.
#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Whether it is a text is seen when the whole message is read.
    traceparent: Option<Value>,
}

impl Envelope {
    /// The kinds of messages, for a span's name.
    fn name(&self) -> &'static str {
        match self.kind.as_deref() {
            Some("ack") => "ack",
            Some("heartbeat") => "heartbeat",
            None => "status",
            Some(_) => "unknown",
        }
    }
}

/// A device's word on a command.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct AckMessage {
    #[serde(rename = "type")]
    #[schema(rename = "type")]
    _type: String,
    #[schema(value_type = String)]
    command_id: CommandId,
    status: AckStatus,
    #[serde(default)]
    #[schema(max_length = 500)]
    detail: Option<String>,
    /// The trace that the message is in (W3C Trace Context).
    #[serde(default, rename = "traceparent")]
    #[schema(rename = "traceparent")]
    _traceparent: Option<String>,
}

impl Validate for AckMessage {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        if self.detail.as_ref().is_some_and(|d| d.chars().count() > 500) {
            wrong.push(FieldError {
                pointer: "/detail".to_owned(),
                detail: "must have at most 500 characters".to_owned(),
            });
        }
    }
}

/// What older clients send instead of a heartbeat.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct LegacyStatus {
    #[schema(value_type = String)]
    device_id: DeviceId,
    accessibility_active: bool,
    window_mirroring: bool,
    #[serde(rename = "timestamp")]
    #[schema(rename = "timestamp", value_type = Object)]
    _timestamp: Value,
    #[serde(default, rename = "threat_level")]
    #[schema(rename = "threat_level", value_type = Object)]
    _threat_level: Value,
    #[serde(default, rename = "sensors_active")]
    #[schema(rename = "sensors_active", value_type = Object)]
    _sensors_active: Value,
}

impl Validate for LegacyStatus {}

impl DeviceSocket {
    pub fn new(gate: Arc<Gate>, caller: Arc<DeviceCaller>, mode: Mode, origin: Origin) -> Self {
        let outbox = gate.services.killswitch.hub().open(caller.entry.no);
        Self { gate, caller, mode, origin, outbox, sent_through: 0 }
    }

    fn entry(&self) -> &Arc<DeviceEntry> {
        &self.caller.entry
    }

    async fn greet(&mut self) -> Vec<Push> {
        // Removed between the check of its token and the opening of its queue, which heard nothing of it.
        if self.entry().is_removed() {
            return vec![close(CloseReason::LoggedOut)];
        }
        // So may its trial have ended.
        let acts = check_acting(&self.gate.services, &self.caller, self.gate.clock.now());
        if matches!(&acts, Err(Error::Refused(refusal)) if refusal.kind == Kind::PaymentRequired) {
            self.mode = Mode::Paywall;
        }
        let killswitch = &self.gate.services.killswitch;
        let mut out = Vec::new();
        let mode = if self.mode == Mode::Full { "full" } else { "commands_only" };
        match killswitch.notice(self.entry(), Notice::AuthOk, "authenticated", json!({ "mode": mode })) {
            Ok(frame) => out.push(Push::text(frame)),
            Err(e) => tracing::error!(error = %e, "a notice could not be signed"),
        }
        match killswitch.pending(self.entry()).await {
            Ok(pending) => {
                for (seq, text) in pending {
                    self.sent_through = self.sent_through.max(seq);
                    out.push(Push::Text { text, tag: Some(seq) });
                }
            }
            // Without its pending locks the socket would be a false promise.
            Err(e) => {
                tracing::error!(error = %e, "pending commands could not be read");
                out.push(Push::Close(code::TRY_AGAIN, "try again"));
            }
        }
        if self.mode == Mode::Paywall {
            out.push(Push::Close(code::PAYWALL, "trial over"));
        }
        out
    }

    async fn take(&mut self, text: &str) -> Vec<Push> {
        let envelope = match serde_json::from_str::<Envelope>(text) {
            Ok(envelope) => envelope,
            Err(e) if e.is_data() && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() => {
                let refusal = Refusal::invalid("/type", "must be a text, given once, in a JSON object");
                return self.error(refusal.into(), &self.origin);
            }
            Err(e) => {
                let detail = format!("The message is not JSON (line {}, column {}).", e.line(), e.column());
                return self.error(Refusal::new(Kind::Malformed, "malformed_json", detail).into(), &self.origin);
            }
        };
        // A socket stays open for days: what it carries belongs to the trace that the message names, not to the upgrade's.
        let trace = envelope.traceparent.as_ref().and_then(Value::as_str).and_then(TraceContext::parse);
        let mut origin = Origin { trace, ..self.origin.clone() };
        let span = self.gate.begin_message(&mut origin, envelope.name());
        spans::tell_caller(&span, Some(&Caller::Device(Arc::clone(&self.caller))));
        let work = async {
            match envelope.kind.as_deref() {
                Some("ack") => self.acknowledge(text, &origin).await,
                Some("heartbeat") => self.heartbeat(text, &origin).await,
                None => self.legacy(text, &origin).await,
                Some(_) => Err(Refusal::invalid("/type", "must be one of \"ack\", \"heartbeat\"").into()),
            }
        };
        match work.instrument(span.clone()).await {
            Ok(pushes) => pushes,
            Err(e) => {
                if !matches!(e, Error::Refused(_)) {
                    span.record("otel.status_code", "ERROR");
                }
                self.error(e, &origin)
            }
        }
    }

    async fn acknowledge(&self, text: &str, origin: &Origin) -> Result<Vec<Push>, Error> {
        let message: AckMessage = super::body::parse(text.as_bytes())?;
        let ack = Ack { command_id: message.command_id, status: message.status, detail: message.detail };
        self.gate.services.killswitch.acknowledge(self.entry(), ack, origin.clone()).await?;
        Ok(Vec::new())
    }

    async fn heartbeat(&self, text: &str, origin: &Origin) -> Result<Vec<Push>, Error> {
        self.admit()?;
        let beat: HeartbeatRequest = super::body::parse(text.as_bytes())?;
        let answer = self.beat(beat, origin).await?;
        let mut members = Map::new();
        members.insert("type".to_owned(), "heartbeat_ack".into());
        if let Some(trace) = origin.trace {
            members.insert("traceparent".to_owned(), trace.to_string().into());
        }
        let answer = api::heartbeat_answer(&answer, &self.gate.services.signals);
        if let Ok(Value::Object(rest)) = serde_json::to_value(&answer) {
            members.extend(rest);
        }
        Ok(vec![Push::text(Value::Object(members).to_string())])
    }

    async fn beat(&self, beat: HeartbeatRequest, origin: &Origin) -> Result<Answer, Error> {
        let mut wrong = Vec::new();
        beat.validate_for(&self.entry().device(), &mut wrong);
        if !wrong.is_empty() {
            return Err(super::body::invalid(wrong));
        }
        self.take_in(beat, origin).await
    }

    async fn take_in(&self, beat: HeartbeatRequest, origin: &Origin) -> Result<Answer, Error> {
        if beat.device_id() != Some(&self.entry().id) {
            return Err(device_mismatch().into());
        }
        check_acting(&self.gate.services, &self.caller, self.gate.clock.now())?;
        let beat = beat.into_heartbeat(self.gate.clock.now());
        let signals = &self.gate.services.signals;
        signals.heartbeat(self.entry(), self.caller.session.id, Some(self.caller.jti), beat, origin.clone()).await
    }

    /// The older client's words: taken as signs of use without readings, answered by `STATUS_SAFE` or a command.
    async fn legacy(&self, text: &str, origin: &Origin) -> Result<Vec<Push>, Error> {
        self.admit()?;
        let status: LegacyStatus = super::body::parse(text.as_bytes())?;
        let beat = HeartbeatRequest::of_legacy(status.device_id, status.accessibility_active, status.window_mirroring);
        let answer = self.take_in(beat, origin).await?;
        // A block or a challenge reaches the device as a frame of its own.
        if answer.decision != crate::domains::signals::engine::Decision::Allow {
            return Ok(Vec::new());
        }
        let payload = json!({ "trust_score": answer.score });
        let frame = self.gate.services.killswitch.notice(self.entry(), Notice::StatusSafe, "all is well", payload)?;
        Ok(vec![Push::text(frame)])
    }

    /// What every heartbeat must pass: a living session, the rate of its plan, not blocked, paid.
    fn admit(&self) -> Result<(), Error> {
        if self.caller.session.ended().is_some() {
            return Err(unauthenticated().into());
        }
        if self.caller.tenant.is_suspended() {
            return Err(crate::domains::tenants::suspended().into());
        }
        self.gate.strain.admit(Importance::Device)?;
        check_rate(&self.gate.admit_heartbeat(&self.caller, self.gate.clock.now()))
    }

    fn error(&self, error: Error, origin: &Origin) -> Vec<Push> {
        let mut problem = match error {
            Error::Refused(refusal) => members(status_of(refusal.kind), &refusal, &origin.request_id),
            other => {
                let problem = Problem::from(other);
                members(problem.status, &problem.refusal, &origin.request_id)
            }
        };
        if let Some(trace) = origin.trace {
            problem.insert("traceparent".to_owned(), trace.to_string().into());
        }
        // `type` tells frames apart here; the problem's own goes by its code.
        problem.insert("type".to_owned(), "error".into());
        vec![Push::text(Value::Object(problem).to_string())]
    }
}

impl Driver for DeviceSocket {
    fn open(&mut self) -> Driving<'_> {
        Box::pin(self.greet())
    }

    fn text<'a>(&'a mut self, text: &'a str) -> Driving<'a> {
        Box::pin(self.take(text))
    }

    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<Push> {
        loop {
            return match self.outbox.queue.poll_recv(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Some(Outgoing::Command { seq, .. })) if seq <= self.sent_through => continue,
                Poll::Ready(Some(Outgoing::Command { seq, frame })) => {
                    self.sent_through = seq;
                    Poll::Ready(Push::Text { text: frame, tag: Some(seq) })
                }
                Poll::Ready(Some(Outgoing::Notice(frame))) => Poll::Ready(Push::text(frame)),
                Poll::Ready(Some(Outgoing::Close(reason))) => Poll::Ready(close(reason)),
                Poll::Ready(None) => Poll::Ready(close(CloseReason::SlowConsumer)),
            };
        }
    }

    fn sent(&mut self, tags: Vec<u64>) {
        self.gate.services.killswitch.mark_sent(self.entry(), tags);
    }
}

const fn close(reason: CloseReason) -> Push {
    match reason {
        CloseReason::Replaced => Push::Close(code::REPLACED, "a newer socket took over"),
        CloseReason::Paywall => Push::Close(code::PAYWALL, "trial over"),
        CloseReason::LoggedOut => Push::Close(code::POLICY, "logged out"),
        CloseReason::SlowConsumer => Push::Close(code::TRY_AGAIN, "too slow"),
        CloseReason::GoingAway => Push::Close(code::GOING_AWAY, "shutting down"),
    }
}
