//! Recomputing a decision from what is stored: the state it met, its readings, the engine.
//!
//! Decisions other than "allow" carry both for as long as the audit log does. An "allow" is recomputed from the last
//! daily copy of the device's state before it and the journal from there on, for as long as readings are kept.

use super::cell::Live;
use super::engine::{Assessment, CodecError, Policy, VERSION};
use super::record::{Record, decode_decision, decode_live};
use crate::kernel::ids::{DeviceNo, SignalId, TenantId};
use crate::kernel::{Error, Result};
use crate::store::journal;
use crate::store::snapshot::Snapshot;
use crate::store::tables::{DECISION_STATES, Key, SIGNAL_ANCHORS, trailing_number};

/// A decision, as it was made and as it was recomputed.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// Which device, by its number.
    pub device: DeviceNo,
    /// Whose.
    pub tenant: TenantId,
    /// The score, decision and threshold that were answered then.
    pub recorded: (u8, &'static str, u8),
    /// The digest of all that the engine found then; an older record has none.
    pub digest: Option<u32>,
    /// What the engine makes of it now.
    pub assessment: Assessment,
    /// Heartbeats that were gone through.
    pub heartbeats: u64,
    /// Readings of the heartbeat itself.
    pub readings: usize,
}

impl Replayed {
    /// Whether both are the same: the answer, and every figure behind it to the bit.
    pub fn same(&self) -> bool {
        let a = &self.assessment;
        (a.score.points(), a.decision.as_str(), a.threshold) == self.recorded
            && self.digest.is_none_or(|digest| digest == a.digest())
    }
}

fn damaged(what: &str, error: CodecError) -> Error {
    match error {
        CodecError::Version(version) => Error::Internal(format!(
            "{what} was written by engine {version}; this is engine {VERSION}. Replay it with the release that wrote it."
        )),
        other => Error::Internal(format!("{what} is damaged: {other}")),
    }
}

/// Judges one heartbeat as it was judged.
fn judge(live: &mut Live, record: &Record<'_>, policy: &Policy) -> Result<Assessment> {
    if let Some((version, _)) = record.judged.filter(|(version, _)| *version != VERSION) {
        return Err(damaged("this decision", CodecError::Version(version)));
    }
    live.prepare(record.sensors, &record.facts);
    live.received_at = record.received_at;
    Ok(live.take(&record.readings, record.effort, policy))
}

fn finished(tenant: TenantId, record: &Record<'_>, assessment: Assessment, heartbeats: u64) -> Replayed {
    Replayed {
        device: record.device,
        tenant,
        recorded: (record.score.points(), record.decision.as_str(), record.threshold),
        digest: record.judged.map(|(_, digest)| digest),
        assessment,
        heartbeats,
        readings: record.readings.len(),
    }
}

/// Recomputes the decision of a heartbeat under `policy`, which must be the one of then.
///
/// # Errors
/// `Ok(None)` where nothing is stored of the heartbeat; [`Error::Internal`] for a state of another engine or damage.
pub fn replay(
    snapshot: &Snapshot,
    tenants: &[TenantId],
    signal: SignalId,
    policy: &Policy,
) -> Result<Option<Replayed>> {
    for tenant in tenants {
        let key = Key::new().bytes(tenant.to_bytes()).bytes(signal.to_bytes());
        if let Some(evidence) = snapshot.get_raw(DECISION_STATES, &key)? {
            let (mut live, record) =
                decode_decision(&evidence).map_err(|e| damaged("the evidence of this decision", e))?;
            if let Some(version) = live.set_aside {
                return Err(damaged("the state behind this decision", CodecError::Version(version)));
            }
            let assessment = judge(&mut live, &record, policy)?;
            return Ok(Some(finished(*tenant, &record, assessment, 1)));
        }
    }
    from_journal(snapshot, tenants, signal, policy)
}

/// Finds the heartbeat in the journal, then goes through the device's heartbeats from its last anchor before it.
fn from_journal(
    snapshot: &Snapshot,
    tenants: &[TenantId],
    signal: SignalId,
    policy: &Policy,
) -> Result<Option<Replayed>> {
    let mut found: Option<(DeviceNo, u64)> = None;
    visit(snapshot, 0, |number, record| {
        if record.signal_id == signal {
            found = Some((record.device, number));
        }
        found.is_none()
    })?;
    let Some((device, block)) = found else { return Ok(None) };
    let mut anchor: Option<(TenantId, u64, Vec<u8>)> = None;
    for tenant in tenants {
        let of_device = Key::new().bytes(tenant.to_bytes()).number(device.0);
        snapshot.visit_prefix(SIGNAL_ANCHORS, &of_device, |key, value| {
            let through = trailing_number(key).unwrap_or(u64::MAX);
            if through < block {
                anchor = Some((*tenant, through, value.to_vec()));
            }
            Ok(true)
        })?;
    }
    // A device that is younger than its first anchor is replayed from its first heartbeat.
    let (tenant, through, mut live) = match anchor {
        Some((tenant, through, state)) => {
            let live = decode_live(&state).map_err(|e| damaged("the kept state before this decision", e))?;
            if let Some(version) = live.set_aside {
                return Err(damaged("the kept state before this decision", CodecError::Version(version)));
            }
            (tenant, through, Some(live))
        }
        None => match tenants.first() {
            Some(tenant) => (*tenant, 0, None),
            None => return Ok(None),
        },
    };
    let (mut heartbeats, mut answer) = (0, None);
    visit(snapshot, through + 1, |_, record| {
        if record.device != device {
            return true;
        }
        let live = live.get_or_insert_with(|| Live::new(record.sensors));
        heartbeats += 1;
        if record.signal_id == signal {
            answer = Some(judge(live, &record, policy).map(|a| finished(tenant, &record, a, heartbeats)));
            return false;
        }
        live.follow(&record);
        true
    })?;
    answer.transpose()
}

/// Shows the records of the blocks from `from` on until `look` has seen enough.
fn visit(snapshot: &Snapshot, from: u64, mut look: impl FnMut(u64, Record<'static>) -> bool) -> Result<()> {
    let mut going = true;
    journal::replay(snapshot, from, |block| {
        let mut input = block.body.as_slice();
        for _ in 0..if going { block.records } else { 0 } {
            let record = Record::decode(&mut input).map_err(|e| damaged("a journal block", e))?;
            if !look(block.number, record) {
                going = false;
                break;
            }
        }
        Ok(())
    })
}
