//! One heartbeat in the journal, and one device's state in a checkpoint: compact, bounded, versioned by the block or by
//! the first byte.

use super::cell::{Answer, Effort, LastSeq, Live};
use super::engine::{CodecError, Decision, DeviceEngine, Facts, Reading, Sensors};
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
    pub threshold: u8,
    /// What others knew; its time is `received_at`.
    pub facts: Facts,
    pub effort: Effort,
    /// The engine that judged it, and the digest of all that it found; older records have none.
    pub judged: Option<(u8, u32)>,
    pub readings: std::borrow::Cow<'a, [Reading]>,
}

const HAS_SEQ: u8 = 1;
const HAS_ACCELEROMETER: u8 = 1 << 1;
const HAS_GYROSCOPE: u8 = 1 << 2;
/// Facts and threshold follow; older records have none.
const HAS_FACTS: u8 = 1 << 3;
const SIMPLIFIED: u8 = 1 << 4;
/// The engine's version and the digest of its assessment follow.
const HAS_DIGEST: u8 = 1 << 5;

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
            (true, HAS_FACTS),
            (self.effort == Effort::Simplified, SIMPLIFIED),
            (self.judged.is_some(), HAS_DIGEST),
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
        self.facts.encode(out);
        out.push(self.threshold);
        if let Some((version, digest)) = self.judged {
            out.push(version);
            out.extend_from_slice(&digest.to_le_bytes());
        }
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
        let [score, decision] = take::<2>(input)?;
        let now_ms = u64::try_from(received_at.as_millis()).unwrap_or(0);
        let (facts, threshold) = if flags & HAS_FACTS != 0 {
            let facts = Facts::decode(input, now_ms)?;
            let [threshold] = take::<1>(input)?;
            (facts, threshold)
        } else {
            (Facts { now_ms, ..Facts::default() }, 0)
        };
        let judged = if flags & HAS_DIGEST != 0 {
            let [version] = take::<1>(input)?;
            Some((version, u32::from_le_bytes(take(input)?)))
        } else {
            None
        };
        let [count] = take::<1>(input)?;
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
            threshold,
            facts,
            effort: if flags & SIMPLIFIED != 0 { Effort::Simplified } else { Effort::Full },
            judged,
            readings: readings.into(),
        })
    }
}

const CHECKPOINT_VERSION: u8 = 1;
/// Of a decision's evidence; 1 was a state alone, from which nothing can be recomputed.
const DECISION_VERSION: u8 = 2;

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

/// A decision's evidence: the heartbeat as it stands in the journal, behind the state it met.
pub(super) fn encode_decision(from: &Live, record: &Record<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[DECISION_VERSION, 0, 0, 0, 0]);
    encode_live(from, 0, out);
    let length = u32::try_from(out.len() - start - 5).unwrap_or(u32::MAX);
    for (slot, byte) in out.iter_mut().skip(start + 1).zip(length.to_le_bytes()) {
        *slot = byte;
    }
    record.encode(out);
}

/// Reads what [`encode_decision`] wrote.
pub(super) fn decode_decision(mut input: &[u8]) -> Result<(Live, Record<'static>), CodecError> {
    let input = &mut input;
    match take::<1>(input)? {
        [DECISION_VERSION] => {}
        [other] => return Err(CodecError::Version(other)),
    }
    let length = usize::try_from(u32::from_le_bytes(take(input)?)).unwrap_or(usize::MAX);
    let (state, rest) = input.split_at_checked(length).ok_or(CodecError::Truncated)?;
    *input = rest;
    Ok((decode_live(state)?, Record::decode(input)?))
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
    let (engine, set_aside) = match DeviceEngine::decode(input) {
        Ok(engine) => (engine, None),
        // What an older engine gathered cannot be continued. The sensors follow with the next heartbeat.
        Err(CodecError::Version(version)) => (DeviceEngine::new(Sensors::default()), Some(version)),
        Err(other) => return Err(other),
    };
    Ok(Live {
        engine,
        decision: decision_of(decision)?,
        last_seq,
        received_at,
        block_pending: false,
        dirty: false,
        folded_through,
        set_aside,
        anchored_at: Timestamp::EPOCH,
    })
}
