//! Device rows, and the two changes that matter most.

use serde::{Deserialize, Serialize};

use super::model::{BlockCause, Device, DeviceState};
use super::{Devices, Page};
use crate::domains::tenants;
use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::{Result, Timestamp};
use crate::store::tables::{DEVICE_TOMBSTONES, DEVICES, Key};
use crate::store::{Row, Snapshot, Tx, codec};

fn key(tenant: TenantId, id: &DeviceId) -> Key {
    Key::new().bytes(tenant.to_bytes()).text(id.as_str())
}

/// Reads a device inside a change.
pub fn load(tx: &mut Tx<'_>, tenant: TenantId, id: &DeviceId) -> Result<Option<Device>> {
    tx.get(DEVICES, key(tenant, id))
}

/// Writes a device and feeds the index after the commit.
pub fn save(tx: &mut Tx<'_>, registry: &Devices, device: &Device) -> Result<()> {
    tx.put(DEVICES, key(device.tenant, &device.id), device)?;
    registry.publish(tx, device.clone());
    Ok(())
}

/// What stays of a removed device. Neither the trial nor a block ends by removing the device and enrolling it again, and
/// the sequence of its commands goes on, because the device refuses a command that it takes for an old one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tombstone {
    registered_at: Timestamp,
    trial_expires_at: Timestamp,
    command_seq: u64,
    state: DeviceState,
    /// When it was removed.
    removed_at: Timestamp,
}
impl Row for Tombstone {}

impl Tombstone {
    /// The new device under the old name, with what outlasts a removal.
    #[must_use]
    pub fn returns_as(self, device: Device) -> Device {
        Device {
            registered_at: self.registered_at,
            trial_expires_at: self.trial_expires_at,
            command_seq: self.command_seq,
            oldest_open_command_seq: self.command_seq.saturating_add(1),
            state: self.state,
            ..device
        }
    }
}

/// In META: devices of all tenants together.
const ENROLLED: &str = "devices_enrolled";

/// How many devices are enrolled on the appliance, with those of this very batch.
pub fn enrolled(tx: &mut Tx<'_>) -> Result<u64> {
    tenants::population(tx, DEVICES, ENROLLED)
}

/// One more is being enrolled, where there were `before`: in the same transaction, before its row is written.
pub fn note_enrolled(tx: &mut Tx<'_>, before: u64) -> Result<()> {
    tenants::set_population(tx, ENROLLED, before.saturating_add(1))
}

/// A tenant is being deleted: its devices count no more. Before the tenant's row says so.
pub fn forget_tenant(tx: &mut Tx<'_>, tenant: TenantId) -> Result<()> {
    let left = enrolled(tx)?.saturating_sub(tenants::rows_in(tx, DEVICES, tenant)?);
    tenants::set_population(tx, ENROLLED, left)
}

/// Removes a device's row and leaves its tombstone; the index forgets it after the commit.
pub fn remove(tx: &mut Tx<'_>, registry: &Devices, device: &Device, now: Timestamp) -> Result<()> {
    let stone = Tombstone {
        registered_at: device.registered_at,
        trial_expires_at: device.trial_expires_at,
        command_seq: device.command_seq,
        state: device.state.clone(),
        removed_at: now,
    };
    let left = enrolled(tx)?.saturating_sub(1);
    tenants::set_population(tx, ENROLLED, left)?;
    tx.delete(DEVICES, key(device.tenant, &device.id))?;
    tx.put(DEVICE_TOMBSTONES, key(device.tenant, &device.id), &stone)?;
    registry.forget(tx, device);
    Ok(())
}

/// What stayed of a device of this name, if one was removed.
pub fn tombstone(tx: &mut Tx<'_>, tenant: TenantId, id: &DeviceId) -> Result<Option<Tombstone>> {
    tx.get(DEVICE_TOMBSTONES, key(tenant, id))
}

/// Takes the tombstone away, once its device is back.
pub fn take_tombstone(tx: &mut Tx<'_>, tenant: TenantId, id: &DeviceId) -> Result<()> {
    tx.delete(DEVICE_TOMBSTONES, key(tenant, id)).map(drop)
}

/// Whether [`block`] changed anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocked {
    /// It was active, or blocked for a cause that weighs less.
    Now,
    /// It was blocked already for a cause that weighs as much; cause and time of that block stand.
    Already,
}

/// Marks the device as blocked. The caller saves it, and writes the audit entry and the command in the same transaction.
///
/// Which of two causes stands, [`BlockCause::outranks`] says.
pub fn block(device: &mut Device, cause: BlockCause, reason: &str, now: Timestamp) -> Blocked {
    if let DeviceState::Blocked { cause: standing, .. } = &device.state
        && !cause.outranks(*standing)
    {
        return Blocked::Already;
    }
    device.state = DeviceState::Blocked { cause, reason: reason.to_owned(), at: now };
    Blocked::Now
}

/// Releases the device; says whether it was blocked.
pub fn unblock(device: &mut Device) -> bool {
    let was = device.is_blocked();
    device.state = DeviceState::Active;
    was
}

/// One page of a tenant's devices, by name.
pub(super) fn page(snapshot: &Snapshot, tenant: TenantId, after: Option<&DeviceId>, limit: usize) -> Result<Page> {
    let prefix = Key::new().bytes(tenant.to_bytes());
    let after = after.map(|id| key(tenant, id));
    let (devices, more) =
        snapshot.page(DEVICES, &prefix, after, limit, |value| codec::decode::<Device>(value).map(Some))?;
    Ok(Page { next: devices.last().filter(|_| more).map(|d| d.id.clone()), devices })
}
