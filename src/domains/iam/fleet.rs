//! Devices as a person changes them: renamed, removed.
//!
//! Removing one touches what several domains keep of it, and its session; so it is decided here, in one commit.

use super::Iam;
use super::model::EndCause;
use crate::domains::audit::{self, Action, NewEntry};
use crate::domains::devices::{self, Device};
use crate::domains::tenants::Quota;
use crate::domains::{attestation, intel};
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceId, TenantId, UserId};
use crate::kernel::{Refusal, Result};

impl Iam {
    /// Gives a device another name; the same name again changes nothing.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn rename_device(
        &self,
        tenant: TenantId,
        id: DeviceId,
        name: String,
        by: UserId,
        origin: Origin,
    ) -> Result<Device> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let inner = &this.inner;
                let mut device = devices::load(tx, tenant, &id)?.ok_or_else(Refusal::not_found)?;
                if device.name == name {
                    return Ok(device);
                }
                let why = format!("renamed from {:?} to {name:?}", device.name);
                device.name = name.clone();
                devices::save(tx, &inner.devices, &device)?;
                let entry = NewEntry::new(Action::DeviceUpdated, &origin).user(by).device(&id).reason(why);
                audit::append(tx, tenant, inner.clock.now(), &inner.random, &entry)?;
                Ok(device)
            })
            .await
    }

    /// Removes a device with its commands, its rings and its session; its socket is closed. Its entries in the log stay.
    /// A device of this name may enroll again, as another one; what outlasts the removal says [`devices::Tombstone`].
    ///
    /// # Errors
    /// `not_found`.
    pub async fn delete_device(&self, tenant: TenantId, id: DeviceId, by: UserId, origin: Origin) -> Result<()> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let inner = &this.inner;
                let now = inner.clock.now();
                let device = devices::load(tx, tenant, &id)?.ok_or_else(Refusal::not_found)?;
                let entry =
                    NewEntry::new(Action::DeviceDeleted, &origin).user(by).device(&id).reason(device.name.clone());
                audit::append(tx, tenant, now, &inner.random, &entry)?;
                this.end_session_of(tx, &device, EndCause::DeviceRemoved)?;
                inner.billing.release(tx, tenant, Quota::Devices)?;
                devices::remove(tx, &inner.devices, &device, now)?;
                attestation::forget(tx, tenant, &id)?;
                intel::forget(tx, tenant, &id)?;
                inner.signals.forget(tx, &device)?;
                inner.killswitch.forget(tx, &device)
            })
            .await
    }
}
