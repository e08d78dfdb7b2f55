//! One heartbeat in the journal, and one device's state in a checkpoint: compact, bounded, versioned by the block or by
//! the first byte.

use super::cell::{Answer, LastSeq, Live};
use super::engine::{CodecError, Decision, DeviceEngine, Reading};
use crate::domains::devices::SensorsDeclared;
use crate::kernel::ids::{DeviceNo, SessionId, SignalId};
use crate::kernel::{Timestamp, TrustScore, limits};

/// A heartbeat as it stands in the journal.
pub(super) struct Record<'a> {
    pub device: DeviceNo,
    pub signal_id: SignalId,
    pub received_at: Timestamp,
    pub session: SessionId,
    pub seq: Option<u64>,
    pub sensors: SensorsDeclared,
    pub score: TrustScore,
    pub decision: Decision,
    pub readings: std::borrow::Cow<'a, [Reading]>,
}

const HAS_SEQ: u8 = 1;
const HAS_ACCELEROMETER: u8 = 1 << 1;
const HAS_GYROSCOPE: u8 = 1 << 2;

const fn decision_code(decision: Decision) -> u8 {
    match decision {
        Decision::Allow => 0,
        Decision::Challenge => 1,
        Decision::Block => 2,
    }
}

const fn decision_of(code: u8) -> Result<Decision, CodecError> {
    match code {
        0 => Ok(Decision::Allow),
        1 => Ok(Decision::Challenge),
        2 => Ok(Decision::Block),
        _ => Err(CodecError::Invalid("journal record")),
    }
}

fn take<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], CodecError> {
    let (head, rest) = input.split_first_chunk::<N>().ok_or(CodecError::Truncated)?;
    *input = rest;
    Ok(*head)
}

impl Record<'_> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut flags = 0;
        for (present, bit) in [
            (self.seq.is_some(), HAS_SEQ),
            (self.sensors.accelerometer, HAS_ACCELEROMETER),
            (self.sensors.gyroscope, HAS_GYROSCOPE),
        ] {
            if present {
                flags |= bit;
            }
        }
        out.push(flags);
        out.extend_from_slice(&self.device.0.to_le_bytes());
        out.extend_from_slice(&self.signal_id.to_bytes());
        out.extend_from_slice(&self.received_at.as_millis().to_le_bytes());
        out.extend_from_slice(&self.session.to_bytes());
        if let Some(seq) = self.seq {
            out.extend_from_slice(&seq.to_le_bytes());
        }
        out.push(self.score.points());
        out.push(decision_code(self.decision));
        // The edge admits at most 100 readings.
        out.push(u8::try_from(self.readings.len()).unwrap_or(u8::MAX));
        for reading in self.readings.iter() {
            reading.encode(out);
        }
    }

    pub fn decode(input: &mut &[u8]) -> Result<Record<'static>, CodecError> {
        let [flags] = take::<1>(input)?;
        let device = DeviceNo(u64::from_le_bytes(take(input)?));
        let signal_id = SignalId::from_bytes(take(input)?);
        let received_at = Timestamp::from_millis(i64::from_le_bytes(take(input)?));
        let session = SessionId::from_bytes(take(input)?);
        let seq = if flags & HAS_SEQ != 0 { Some(u64::from_le_bytes(take(input)?)) } else { None };
        let [score, decision, count] = take::<3>(input)?;
        if usize::from(count) > limits::READINGS_PER_HEARTBEAT_MAX {
            return Err(CodecError::Invalid("journal record"));
        }
        let readings = (0..count).map(|_| Reading::decode(input)).collect::<Result<Vec<_>, _>>()?;
        Ok(Record {
            device,
            signal_id,
            received_at,
            session,
            seq,
            sensors: SensorsDeclared {
                accelerometer: flags & HAS_ACCELEROMETER != 0,
                gyroscope: flags & HAS_GYROSCOPE != 0,
            },
            score: TrustScore::new(score),
            decision: decision_of(decision)?,
            readings: readings.into(),
        })
    }
}

const CHECKPOINT_VERSION: u8 = 1;

/// A device's whole state for the checkpoint. `folded_through` is the newest journal block that it holds.
pub(super) fn encode_live(live: &Live, folded_through: u64, out: &mut Vec<u8>) {
    out.push(CHECKPOINT_VERSION);
    out.extend_from_slice(&folded_through.to_le_bytes());
    out.extend_from_slice(&live.received_at.as_millis().to_le_bytes());
    out.push(decision_code(live.decision));
    match &live.last_seq {
        None => out.push(0),
        Some(last) => {
            out.push(1);
            out.extend_from_slice(&last.session.to_bytes());
            out.extend_from_slice(&last.seq.to_le_bytes());
            out.extend_from_slice(&last.answer.signal_id.to_bytes());
            out.extend_from_slice(&[
                last.answer.score.points(),
                decision_code(last.answer.decision),
                last.answer.threshold,
            ]);
        }
    }
    live.engine.encode(out);
}

pub(super) fn decode_live(mut input: &[u8]) -> Result<Live, CodecError> {
    let input = &mut input;
    if take::<1>(input)? != [CHECKPOINT_VERSION] {
        return Err(CodecError::Invalid("journal record"));
    }
    let folded_through = u64::from_le_bytes(take(input)?);
    let received_at = Timestamp::from_millis(i64::from_le_bytes(take(input)?));
    let [decision, has_last] = take::<2>(input)?;
    let last_seq = if has_last == 0 {
        None
    } else {
        let session = SessionId::from_bytes(take(input)?);
        let seq = u64::from_le_bytes(take(input)?);
        let signal_id = SignalId::from_bytes(take(input)?);
        let [score, decision, threshold] = take::<3>(input)?;
        let decision = decision_of(decision)?;
        let answer = Answer { signal_id, score: TrustScore::new(score), decision, threshold, engine: "full" };
        Some(LastSeq { session, seq, answer })
    };
    let engine = DeviceEngine::decode(input)?;
    Ok(Live {
        engine,
        decision: decision_of(decision)?,
        last_seq,
        received_at,
        block_pending: false,
        dirty: false,
        folded_through,
    })
}
