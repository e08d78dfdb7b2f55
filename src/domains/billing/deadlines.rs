//! When the trial or the paid time of each device ends, soonest first. Never more than a hint: a payment may have moved the
//! end since, so whoever is handed a device looks at the device.
//!
//! Trials and paid time end by different clocks, hence two queues. Heartbeats never touch them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domains::devices::DeviceEntry;
use crate::kernel::Timestamp;
use crate::kernel::ids::{DeviceId, TenantId};

/// A device by its name.
pub(super) type Named = (TenantId, DeviceId);
type Queue = BinaryHeap<Reverse<(Timestamp, TenantId, DeviceId)>>;

/// The two queues.
#[derive(Default)]
pub(super) struct Deadlines(Mutex<Queues>);

#[derive(Default)]
struct Queues {
    trials: Queue,
    paid: Queue,
}

impl Deadlines {
    /// Begins anew with these devices: at the start, and when a clock went back behind ends that had come.
    pub fn replace(&self, devices: &[Arc<DeviceEntry>]) {
        let mut fresh = Queues::default();
        for device in devices.iter().map(|entry| entry.device()) {
            fresh.trials.push(Reverse((device.trial_expires_at, device.tenant, device.id.clone())));
            if let Some(until) = device.paid.and_then(|paid| paid.until) {
                fresh.paid.push(Reverse((until, device.tenant, device.id.clone())));
            }
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    /// The trial of this device ends then, by the trials' clock.
    pub fn trial(&self, (tenant, device): Named, at: Timestamp) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).trials.push(Reverse((at, tenant, device)));
    }

    /// The paid time of this device ends then.
    pub fn paid(&self, (tenant, device): Named, at: Timestamp) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).paid.push(Reverse((at, tenant, device)));
    }

    /// Takes out up to `limit` devices whose end has come.
    pub fn due(&self, now: Timestamp, trial_now: Timestamp, limit: usize) -> Vec<Named> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = Vec::new();
        take(&mut queues.trials, trial_now, limit, &mut out);
        take(&mut queues.paid, now, limit, &mut out);
        out
    }
}

fn take(queue: &mut Queue, now: Timestamp, limit: usize, out: &mut Vec<Named>) {
    while out.len() < limit && queue.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
        out.extend(queue.pop().map(|Reverse((_, tenant, device))| (tenant, device)));
    }
}
