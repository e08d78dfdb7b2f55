//! Enrolled devices: who owns them, what they can sense, whether they are blocked.
//!
//! A device's state lives in its row; the index holds what every heartbeat asks (blocked? trial over? how many this
//! minute?) in atomics that only a commit changes. A blocked device stays blocked until somebody releases it: neither a
//! new enrollment nor a restart does, nor its removal: of a removed device a [`Tombstone`] stays, by which one of the same
//! name that comes back is told from a new one.

pub mod api;
mod index;
mod model;
mod store;

pub use index::DeviceEntry;
pub use model::{AttestationLevel, BlockCause, Device, DeviceState, Paid, ProofMark, SensorsDeclared};
pub use store::{
    Blocked, Tombstone, block, enrolled, forget_tenant, load, note_enrolled, remove, save, take_tombstone, tombstone,
    unblock,
};

use std::sync::Arc;

use crate::domains::tenants;
use crate::kernel::ids::{DeviceId, DeviceNo, TenantId};
use crate::kernel::{Result, limits};
use crate::store::{Snapshot, Store};

/// One page of devices, by name.
pub struct Page {
    /// The devices.
    pub devices: Vec<Device>,
    /// The name to go on after, when there is more.
    pub next: Option<DeviceId>,
}

/// The registry. Cheap to clone.
#[derive(Clone)]
pub struct Devices {
    store: Store,
    index: Arc<index::Index>,
}

impl Devices {
    /// Reads every device of the data file into the index.
    pub fn rebuild(store: Store) -> Result<Self> {
        let index = Arc::new(index::Index::default());
        let snapshot = store.read()?;
        index.rebuild(&snapshot)?;
        // Rows of a deleted tenant are still being removed: nobody is to find them.
        for (tenant, _) in tenants::going(&snapshot)? {
            index.remove_tenant(tenant);
        }
        drop(snapshot);
        Ok(Self { store, index })
    }

    /// The live entry of a device; `None` also for another tenant's.
    pub fn entry(&self, tenant: TenantId, id: &DeviceId) -> Option<Arc<DeviceEntry>> {
        self.index.get(tenant, id)
    }

    /// The live entries of a tenant.
    pub fn of_tenant(&self, tenant: TenantId) -> Vec<Arc<DeviceEntry>> {
        let mut entries = self.index.all();
        entries.retain(|e| e.tenant == tenant);
        entries
    }

    /// Every live entry, for start-up.
    pub fn entries(&self) -> Vec<Arc<DeviceEntry>> {
        self.index.all()
    }

    /// How many devices are enrolled, on the whole appliance.
    pub fn count(&self) -> usize {
        self.index.len()
    }

    /// How many each tenant has; looks at all of them.
    pub fn tally(&self) -> std::collections::HashMap<TenantId, usize> {
        self.index.tally()
    }

    /// Forgets the devices of a tenant whose deletion is durable, and gives them back. Only the writer calls this.
    pub fn remove_tenant(&self, tenant: TenantId) -> Vec<Arc<DeviceEntry>> {
        self.index.remove_tenant(tenant)
    }

    /// The live entry of the device with this number; for start-up.
    pub fn by_no(&self) -> std::collections::HashMap<DeviceNo, Arc<DeviceEntry>> {
        self.entries().into_iter().map(|e| (e.no, e)).collect()
    }

    /// A page of a tenant's devices.
    pub async fn list(&self, tenant: TenantId, after: Option<DeviceId>, limit: usize) -> Result<Page> {
        let limit = limit.clamp(1, limits::PAGE_MAX);
        self.store.read_with(move |s: &Snapshot| store::page(s, tenant, after.as_ref(), limit)).await
    }

    /// Feeds the index once the change of `device` is durable. Every change of a row goes through here.
    pub fn publish(&self, tx: &mut crate::store::Tx<'_>, device: Device) {
        let index = Arc::clone(&self.index);
        tx.after_commit(move || index.apply(device));
    }

    /// Lets the index forget `device` once its removal is durable.
    fn forget(&self, tx: &mut crate::store::Tx<'_>, device: &Device) {
        let (index, tenant, id) = (Arc::clone(&self.index), device.tenant, device.id.clone());
        tx.after_commit(move || index.remove(tenant, &id));
    }

    /// The data file behind the registry.
    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }
}
