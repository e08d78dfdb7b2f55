//! Device rows, and the two changes that matter most.

use super::model::{BlockCause, Device, DeviceState};
use super::{Devices, Page};
use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::{Result, Timestamp};
use crate::store::tables::{DEVICES, Key};
use crate::store::{Snapshot, Tx, codec};

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

/// Whether [`block`] changed anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocked {
    /// It was active.
    Now,
    /// It was blocked already; cause and time of the first block stand.
    Already,
}

/// Marks the device as blocked. The caller saves it, and writes the audit entry and the command in the same transaction.
pub fn block(device: &mut Device, cause: BlockCause, reason: &str, now: Timestamp) -> Blocked {
    if device.is_blocked() {
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
    let end = prefix.end_of_prefix();
    // The byte after the closing zero: the first key behind the named device.
    let from =
        after.map_or_else(|| prefix.clone(), |id| Key::new().bytes(tenant.to_bytes()).bytes(id.as_str()).byte(1));
    let mut devices = Vec::new();
    snapshot.visit(DEVICES, from.as_ref(), end.as_ref().map(AsRef::as_ref), |_, value| {
        devices.push(codec::decode::<Device>(value)?);
        Ok(devices.len() <= limit)
    })?;
    let more = devices.len() > limit;
    devices.truncate(limit);
    Ok(Page { next: if more { devices.last().map(|d| d.id.clone()) } else { None }, devices })
}
