//! What every heartbeat asks of a device, without a lock and without the disk.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, Ordering};

use arc_swap::ArcSwap;

use super::model::Device;
use crate::domains::tenants::PlanTier;
use crate::kernel::Result;
use crate::kernel::ids::{DeviceId, DeviceNo, TenantId};
use crate::kernel::rate::SlidingWindow;
use crate::kernel::{Timestamp, TrustScore};
use crate::store::Snapshot;
use crate::store::tables::DEVICES;

/// The live side of one device. Facts change only by a commit; the last score and time are telemetry.
pub struct DeviceEntry {
    /// Whose it is.
    pub tenant: TenantId,
    /// The client's own name for it.
    pub id: DeviceId,
    /// Its number on this appliance.
    pub no: DeviceNo,
    /// Heartbeats of the last minute.
    pub rate: SlidingWindow,
    blocked: AtomicBool,
    removed: AtomicBool,
    trial_expires_ms: AtomicI64,
    paid_tier: AtomicU8,
    /// `i64::MAX`: until further notice; `i64::MIN`: nothing is paid.
    paid_until_ms: AtomicI64,
    score: AtomicU8,
    last_seen_ms: AtomicI64,
    row: ArcSwap<Device>,
}

impl DeviceEntry {
    fn new(device: Device) -> Self {
        let entry = Self {
            tenant: device.tenant,
            id: device.id.clone(),
            no: device.no,
            rate: SlidingWindow::default(),
            blocked: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            trial_expires_ms: AtomicI64::new(0),
            paid_tier: AtomicU8::new(0),
            paid_until_ms: AtomicI64::new(i64::MIN),
            score: AtomicU8::new(TrustScore::MAX.points()),
            last_seen_ms: AtomicI64::new(0),
            row: ArcSwap::from_pointee(device.clone()),
        };
        entry.apply(device);
        entry
    }

    fn apply(&self, device: Device) {
        let paid_until_ms = device.paid.map_or(i64::MIN, |p| p.until.map_or(i64::MAX, Timestamp::as_millis));
        self.paid_tier.store(device.paid.map_or(0, |p| p.tier as u8), Ordering::Relaxed);
        self.paid_until_ms.store(paid_until_ms, Ordering::Relaxed);
        self.trial_expires_ms.store(device.trial_expires_at.as_millis(), Ordering::Relaxed);
        self.blocked.store(device.is_blocked(), Ordering::Release);
        self.row.store(Arc::new(device));
    }

    /// Whether it may only receive commands.
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Acquire)
    }

    /// Whether it was removed since this entry was handed out; one that comes back is another entry.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Whether the trial is over at this moment of the trials' clock.
    pub fn trial_is_over(&self, trial_now: Timestamp) -> bool {
        trial_now.as_millis() >= self.trial_expires_ms.load(Ordering::Relaxed)
    }

    /// The tier that is paid for at this moment.
    pub fn paid_tier(&self, now: Timestamp) -> Option<PlanTier> {
        if now.as_millis() >= self.paid_until_ms.load(Ordering::Relaxed) {
            return None;
        }
        PlanTier::ALL.get(usize::from(self.paid_tier.load(Ordering::Relaxed))).copied()
    }

    /// Everything that is stored about it.
    pub fn device(&self) -> Arc<Device> {
        self.row.load_full()
    }

    /// Remembers the newest score.
    pub fn seen(&self, score: TrustScore, at: Timestamp) {
        self.score.store(score.points(), Ordering::Relaxed);
        self.last_seen_ms.store(at.as_millis(), Ordering::Relaxed);
    }

    /// The newest score; 100 before the first heartbeat.
    pub fn score(&self) -> TrustScore {
        TrustScore::new(self.score.load(Ordering::Relaxed))
    }

    /// Time of the newest heartbeat.
    pub fn last_seen(&self) -> Option<Timestamp> {
        match self.last_seen_ms.load(Ordering::Relaxed) {
            0 => None,
            ms => Some(Timestamp::from_millis(ms)),
        }
    }
}

#[derive(Default)]
pub(super) struct Index {
    by_name: papaya::HashMap<(TenantId, DeviceId), Arc<DeviceEntry>>,
}

impl Index {
    pub fn rebuild(&self, snapshot: &Snapshot) -> Result<()> {
        snapshot.rows::<Device>(DEVICES, |_, device| {
            self.apply(device);
            Ok(())
        })
    }

    pub fn get(&self, tenant: TenantId, id: &DeviceId) -> Option<Arc<DeviceEntry>> {
        self.by_name.pin().get(&(tenant, id.clone())).cloned()
    }

    pub fn all(&self) -> Vec<Arc<DeviceEntry>> {
        self.by_name.pin().values().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// How many each tenant has.
    pub fn tally(&self) -> HashMap<TenantId, usize> {
        let mut counts = HashMap::new();
        for (tenant, _) in self.by_name.pin().keys() {
            *counts.entry(*tenant).or_default() += 1;
        }
        counts
    }

    /// Forgets a device; who still holds the entry finds it removed. Only the writer calls this.
    pub fn remove(&self, tenant: TenantId, id: &DeviceId) {
        if let Some(entry) = self.by_name.pin().remove(&(tenant, id.clone())) {
            entry.removed.store(true, Ordering::Release);
        }
    }

    /// Forgets those of a tenant and gives them back. Only the writer, or the start, calls this.
    pub fn remove_tenant(&self, tenant: TenantId) -> Vec<Arc<DeviceEntry>> {
        let pinned = self.by_name.pin();
        let gone: Vec<_> = pinned.values().filter(|entry| entry.tenant == tenant).cloned().collect();
        for entry in &gone {
            self.remove(tenant, &entry.id);
        }
        gone
    }

    /// Only the writer calls this, so nobody else inserts between the look and the insertion.
    pub fn apply(&self, device: Device) {
        let pinned = self.by_name.pin();
        let name = (device.tenant, device.id.clone());
        match pinned.get(&name) {
            Some(entry) => entry.apply(device),
            None => {
                pinned.insert(name, Arc::new(DeviceEntry::new(device)));
            }
        }
    }
}
