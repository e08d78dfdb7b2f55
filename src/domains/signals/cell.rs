//! One device's place in memory: what the writer moves, and what everybody may look at.

use std::sync::{Mutex, PoisonError};

use super::engine::{Assessment, Decision, DeviceEngine, Sensors};
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
}

/// The last heartbeat that bore a `seq`, and its answer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct LastSeq {
    pub session: SessionId,
    pub seq: u64,
    pub answer: Answer,
}

/// What the writer moves. Nobody else locks it while requests are served.
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
        }
    }

    /// Brings the engine in line before readings are taken. A device that was blocked by the engine and sends again has
    /// been released meanwhile: the old evidence has been judged by a person. The replay of the journal does the same.
    pub fn prepare(&mut self, sensors: SensorsDeclared) {
        let sensors = sensors_of(sensors);
        if self.engine.sensors() != sensors {
            self.engine = DeviceEngine::new(sensors);
            self.decision = Decision::Allow;
        } else if self.decision == Decision::Block {
            self.engine.clear_evidence();
            self.decision = Decision::Allow;
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
    published: Mutex<Option<Published>>,
}

impl Cell {
    pub fn new(entry: &DeviceEntry, sensors: SensorsDeclared) -> Self {
        Self::with(entry, Live::new(sensors))
    }

    pub fn with(entry: &DeviceEntry, live: Live) -> Self {
        let id = entry.id.clone();
        Self { tenant: entry.tenant, no: entry.no, id, live: Mutex::new(live), published: Mutex::new(None) }
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
