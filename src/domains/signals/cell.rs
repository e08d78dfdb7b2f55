//! One device's place in memory: what the writer moves, and what everybody may look at.

use std::sync::{Mutex, PoisonError};

use super::engine::{Assessment, Decision, DeviceEngine, Engine, Facts, Policy, Reading, Sensors};
use super::record::Record;
use super::shadow::{Shadow, ShadowState};
use crate::domains::devices::{DeviceEntry, SensorsDeclared};
use crate::kernel::ids::{DeviceId, DeviceNo, SessionId, SignalId, TenantId};
use crate::kernel::{Timestamp, TrustScore};

/// What a heartbeat is answered.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Answer {
    /// Which heartbeat.
    pub signal_id: SignalId,
    /// The score after it.
    pub score: TrustScore,
    /// What it led to.
    pub decision: Decision,
    /// The threshold that was applied.
    pub threshold: u8,
    /// `full` or `simplified`.
    pub engine: &'static str,
}

/// The last durable assessment of a device.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Published {
    /// What the engine thinks.
    pub assessment: Assessment,
    /// Since when.
    pub at: Timestamp,
    /// What the shadow says of the same readings.
    pub shadow: Option<Shadow>,
}

/// The last heartbeat that bore a `seq`, and its answer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct LastSeq {
    pub session: SessionId,
    pub seq: u64,
    pub answer: Answer,
}

/// How much is made of a heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effort {
    /// Everything.
    Full,
    /// Only the hard rules, on top of the last decision: too much waits to be written.
    Simplified,
}

impl Effort {
    /// As on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => Engine::Full.as_str(),
            Self::Simplified => Engine::Simplified.as_str(),
        }
    }
}

/// What the writer moves. Nobody else locks it while requests are served.
#[derive(Clone)]
pub(super) struct Live {
    pub engine: DeviceEngine,
    pub decision: Decision,
    pub last_seq: Option<LastSeq>,
    /// The time of the newest heartbeat.
    pub received_at: Timestamp,
    /// Blocked by a heartbeat of the batch that is being written: the index will say so only after the commit.
    pub block_pending: bool,
    /// Whether it stands in the list of cells that a checkpoint must still hold.
    pub dirty: bool,
    /// Newest journal block whose readings the stored ring holds.
    pub folded_through: u64,
    /// The version of a stored state that this engine cannot continue; its device started anew and the audit log has yet
    /// to say so.
    pub set_aside: Option<u8>,
    /// When a copy of the whole state was last kept for replays.
    pub anchored_at: Timestamp,
}

impl Live {
    pub fn new(sensors: SensorsDeclared) -> Self {
        Self {
            engine: DeviceEngine::new(sensors_of(sensors)),
            decision: Decision::Allow,
            last_seq: None,
            received_at: Timestamp::EPOCH,
            block_pending: false,
            dirty: false,
            folded_through: 0,
            set_aside: None,
            anchored_at: Timestamp::EPOCH,
        }
    }

    /// Brings the engine in line before readings are taken. A device that was blocked by the engine and sends again has
    /// been released meanwhile: the old evidence has been judged by a person. The replay of the journal does the same.
    pub fn prepare(&mut self, sensors: SensorsDeclared, facts: &Facts) {
        let sensors = sensors_of(sensors);
        if self.engine.sensors() != sensors {
            self.engine.declare(sensors);
        }
        if self.decision == Decision::Block {
            self.engine.clear_evidence();
            self.decision = Decision::Allow;
        }
        self.engine.begin(facts);
    }

    /// Takes a heartbeat's readings and judges them the way `effort` says.
    pub fn take(&mut self, readings: &[Reading], effort: Effort, policy: &Policy) -> Assessment {
        self.push(readings, effort);
        let assessment = match effort {
            Effort::Full => self.engine.conclude(policy),
            Effort::Simplified => self.engine.conclude_simplified(policy),
        };
        self.decision = assessment.decision;
        assessment
    }

    /// Goes the way of a heartbeat that was judged already: what was decided then stays decided, whatever the policy is
    /// now.
    pub fn follow(&mut self, record: &Record<'_>) {
        self.prepare(record.sensors, &record.facts);
        self.received_at = record.received_at;
        self.push(&record.readings, record.effort);
        if record.effort == Effort::Full {
            self.engine.remember(record.score, record.decision);
        }
        self.decision = record.decision;
    }

    fn push(&mut self, readings: &[Reading], effort: Effort) {
        for reading in readings {
            match effort {
                Effort::Full => self.engine.push(reading),
                Effort::Simplified => self.engine.push_simplified(reading),
            }
        }
    }
}

pub(super) const fn sensors_of(declared: SensorsDeclared) -> Sensors {
    Sensors { accelerometer: declared.accelerometer, gyroscope: declared.gyroscope }
}

/// One device's place in memory.
pub(super) struct Cell {
    pub tenant: TenantId,
    pub no: DeviceNo,
    /// For the row that says whether the device is still there.
    pub id: DeviceId,
    live: Mutex<Live>,
    /// What a shadow with a state of its own keeps of the device.
    pub shadow: ShadowState,
    published: Mutex<Option<Published>>,
}

impl Cell {
    pub fn new(entry: &DeviceEntry, sensors: SensorsDeclared) -> Self {
        Self::with(entry, Live::new(sensors))
    }

    pub fn with(entry: &DeviceEntry, live: Live) -> Self {
        let id = entry.id.clone();
        Self {
            tenant: entry.tenant,
            no: entry.no,
            id,
            live: Mutex::new(live),
            shadow: ShadowState::default(),
            published: Mutex::new(None),
        }
    }

    /// For the writer, and for the one thread of the start-up.
    pub fn live(&self) -> std::sync::MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn published(&self) -> Option<Published> {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn publish(&self, what: Published) {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
    }
}
