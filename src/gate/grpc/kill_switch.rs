//! The kill switch over gRPC: the frames of the WebSocket, byte for byte, by the same rules of delivery.

use std::sync::Arc;

use serde_json::json;
use tonic::Code;

use super::body::{Reading, WRITE_MAX};
use super::proto::signals::{CommandFrame, CommandsRequest};
use super::status::{Ended, too_slow};
use super::stream::{Call, Progress, Running};
use crate::domains::devices::DeviceEntry;
use crate::domains::killswitch::{CloseReason, Notice, Outbox, Outgoing};
use crate::gate::context::{DeviceCaller, check_acting};
use crate::gate::pipeline::Gate;
use crate::kernel::{Error, Kind};

/// The stream's place in the hub; left when the stream ends in whatever way.
struct Place {
    gate: Arc<Gate>,
    device: Arc<DeviceEntry>,
    outbox: Outbox,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.services.killswitch.hub().close(self.device.no, self.outbox.id);
    }
}

pub fn run<'a>(call: &'a Call, device: Arc<DeviceCaller>, reading: Reading, progress: &'a mut Progress) -> Running<'a> {
    Box::pin(async move {
        match serve(call, &device, reading, progress).await {
            Ok(ended) | Err(ended) => ended,
        }
    })
}

async fn serve(call: &Call, caller: &DeviceCaller, reading: Reading, progress: &mut Progress) -> Result<Ended, Ended> {
    let gate = &call.gate;
    // Nothing is said in it, but it must be there, and in time.
    let asked = tokio::time::timeout(gate.settings.body_timeout, reading.one::<CommandsRequest>()).await;
    asked.map_err(|_| too_slow())??;
    let entry = &caller.entry;
    let killswitch = &gate.services.killswitch;
    let outbox = killswitch.hub().open(entry.no);
    let mut place = Place { gate: Arc::clone(gate), device: Arc::clone(entry), outbox };
    // Removed between the check of its token and the opening of its queue, which heard nothing of it.
    if entry.is_removed() {
        return Ok(closed(CloseReason::LoggedOut));
    }
    let acting = check_acting(&gate.services, caller, gate.clock.now());
    let unpaid = matches!(&acting, Err(Error::Refused(refusal)) if refusal.kind == Kind::PaymentRequired);
    let full = acting.is_ok() && caller.session.ended().is_none() && !caller.tenant.is_suspended();
    let mode = if full { "full" } else { "commands_only" };
    let hello = killswitch.notice(entry, Notice::AuthOk, "authenticated", json!({ "mode": mode }))?;
    progress.out.send(&frame(&hello)).await?;
    let mut sent_through = 0;
    let pending = killswitch.pending(entry).await?;
    let count = pending.len();
    for (seq, text) in pending {
        sent_through = sent_through.max(seq);
        progress.out.send_marked(&frame(&text), seq).await?;
    }
    if unpaid {
        let all_fetched = async {
            for _ in 0..count {
                let seq = progress.out.fetched().await;
                killswitch.mark_sent(entry, vec![seq]);
            }
        };
        // A client that does not read them gets them again the next time.
        let _ = tokio::time::timeout(WRITE_MAX, all_fetched).await;
        return Ok(closed(CloseReason::Paywall));
    }
    loop {
        let next = tokio::select! {
            // Sent is what the connection has taken, not what waits for it.
            seq = progress.out.fetched() => {
                killswitch.mark_sent(entry, vec![seq]);
                continue;
            }
            next = place.outbox.queue.recv() => next,
        };
        match next {
            // What the hub brings may repeat what was read from the store.
            Some(Outgoing::Command { seq, .. }) if seq <= sent_through => {}
            Some(Outgoing::Command { seq, frame: text }) => {
                sent_through = seq;
                progress.out.send_marked(&frame(&text), seq).await?;
            }
            Some(Outgoing::Notice(text)) => progress.out.send(&frame(&text)).await?,
            Some(Outgoing::Close(reason)) => return Ok(closed(reason)),
            None => return Ok(closed(CloseReason::SlowConsumer)),
        }
    }
}

fn frame(text: &Arc<str>) -> CommandFrame {
    CommandFrame { frame: text.to_string() }
}

fn closed(reason: CloseReason) -> Ended {
    let (status, code, detail) = match reason {
        CloseReason::Replaced => (Code::Aborted, "replaced", "A newer stream or socket of this device took over."),
        CloseReason::Paywall => (Code::FailedPrecondition, "trial_expired", "The trial is over and nothing is paid."),
        CloseReason::LoggedOut => (Code::Unauthenticated, "unauthenticated", "The session was ended."),
        CloseReason::SlowConsumer => {
            (Code::ResourceExhausted, "slow_consumer", "The client does not read what is sent to it.")
        }
        CloseReason::GoingAway => (Code::Unavailable, "shutting_down", "The appliance is shutting down."),
    };
    let http_status = match reason {
        CloseReason::Replaced => 409,
        CloseReason::Paywall => 402,
        CloseReason::LoggedOut => 401,
        CloseReason::SlowConsumer => 429,
        CloseReason::GoingAway => 503,
    };
    Ended { http_status, ..Ended::new(status, code, detail) }
}
