//! What every request asks of its tenant, without the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::model::{Tenant, TenantState};
use super::plan::PlanTier;
use crate::kernel::ids::TenantId;
use crate::kernel::{Result, Timestamp};
use crate::store::Snapshot;
use crate::store::tables::TENANTS;

/// The live side of one tenant.
pub struct TenantEntry {
    /// `ten_...`
    pub id: TenantId,
    suspended: AtomicBool,
    engaged: AtomicBool,
    /// Until when a licence pays for every device; 0: none does.
    covered_until_ms: AtomicI64,
    /// The plan of that licence.
    covering_tier: AtomicU8,
    /// Requests that are not on disk yet.
    requests: AtomicU64,
    row: ArcSwap<Tenant>,
}

impl TenantEntry {
    /// Whether its people and devices are refused: suspended, or deleted since this entry was handed out.
    pub fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::Acquire)
    }

    /// Whether its kill switch is engaged: no device of it acts.
    pub fn is_engaged(&self) -> bool {
        self.engaged.load(Ordering::Acquire)
    }

    /// The plan of the licence that pays for every device of the tenant, while there is one; by the time that licences
    /// run by, as [`Purchase::licence_at`](super::Purchase::licence_at).
    pub fn covering_plan(&self, now: Timestamp) -> Option<PlanTier> {
        if now.as_millis() >= self.covered_until_ms.load(Ordering::Relaxed) {
            return None;
        }
        PlanTier::ALL.get(usize::from(self.covering_tier.load(Ordering::Relaxed))).copied()
    }

    fn cover(&self, tenant: &Tenant) {
        let licence = tenant.purchase.licence.as_ref().filter(|licence| licence.covers_devices);
        self.covering_tier.store(licence.map_or(0, |licence| licence.plan as u8), Ordering::Relaxed);
        self.covered_until_ms.store(licence.map_or(0, |licence| licence.expires_at.as_millis()), Ordering::Relaxed);
    }

    /// Counts a request of somebody who belongs to it.
    pub fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests since they were last taken.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Takes the requests that were counted, to write them down.
    pub fn take_requests(&self) -> u64 {
        self.requests.swap(0, Ordering::Relaxed)
    }

    /// Everything that is stored about it.
    pub fn tenant(&self) -> Arc<Tenant> {
        self.row.load_full()
    }
}

#[derive(Default)]
pub(super) struct Index {
    tenants: papaya::HashMap<TenantId, Arc<TenantEntry>>,
}

impl Index {
    pub fn rebuild(&self, snapshot: &Snapshot) -> Result<()> {
        snapshot.rows::<Tenant>(TENANTS, |_, tenant| {
            self.apply(tenant);
            Ok(())
        })
    }

    pub fn get(&self, id: TenantId) -> Option<Arc<TenantEntry>> {
        self.tenants.pin().get(&id).cloned()
    }

    pub fn all(&self) -> Vec<Arc<TenantEntry>> {
        self.tenants.pin().values().cloned().collect()
    }

    /// Only the writer calls this after start-up.
    pub fn apply(&self, tenant: Tenant) {
        let pinned = self.tenants.pin();
        if tenant.is_deleted() {
            if let Some(entry) = pinned.remove(&tenant.id) {
                entry.suspended.store(true, Ordering::Release);
            }
            return;
        }
        let suspended = tenant.state != TenantState::Active;
        let engaged = tenant.kill_switch.is_some();
        match pinned.get(&tenant.id) {
            Some(entry) => {
                entry.cover(&tenant);
                entry.row.store(Arc::new(tenant));
                entry.suspended.store(suspended, Ordering::Release);
                entry.engaged.store(engaged, Ordering::Release);
            }
            None => {
                let entry = TenantEntry {
                    id: tenant.id,
                    suspended: AtomicBool::new(suspended),
                    engaged: AtomicBool::new(engaged),
                    covered_until_ms: AtomicI64::new(0),
                    covering_tier: AtomicU8::new(0),
                    requests: AtomicU64::new(0),
                    row: ArcSwap::from_pointee(tenant.clone()),
                };
                entry.cover(&tenant);
                pinned.insert(entry.id, Arc::new(entry));
            }
        }
    }
}
