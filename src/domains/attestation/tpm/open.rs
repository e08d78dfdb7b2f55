//! Challenges that are open, and keys that wait for their device's enrollment: in memory, one for each device.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::TpmKeyRow;
use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::{Kind, Refusal, Result, Timestamp};

/// Slots of all tenants together, of about a kilobyte each.
const OPEN_MAX: usize = 20_000;

/// How far a device has come.
#[derive(Clone, Debug)]
pub(in super::super) enum Slot {
    /// It was asked.
    Challenged {
        /// What will be stored.
        key: Box<TpmKeyRow>,
        /// SHA-256 of the secret.
        secret: [u8; 32],
    },
    /// It answered, and has yet to enroll.
    Activated(Box<TpmKeyRow>),
}

/// All of them.
#[derive(Default)]
pub(in super::super) struct Open(Mutex<HashMap<(TenantId, DeviceId), (Timestamp, Slot)>>);

impl Open {
    fn lock(&self) -> MutexGuard<'_, HashMap<(TenantId, DeviceId), (Timestamp, Slot)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a challenge into the device's place.
    ///
    /// # Errors
    /// 429 `too_many_activations` while all places are taken.
    pub fn open(&self, tenant: TenantId, device: DeviceId, slot: Slot, until: Timestamp, now: Timestamp) -> Result<()> {
        let mut open = self.lock();
        let place = (tenant, device);
        if open.len() >= OPEN_MAX && !open.contains_key(&place) {
            open.retain(|_, (until, _)| now < *until);
            if open.len() >= OPEN_MAX {
                let detail = "Too many activations of TPM keys are open. Try again in a few minutes.";
                return Err(Refusal::new(Kind::RateLimited, "too_many_activations", detail).retry_after_s(60).into());
            }
        }
        open.insert(place, (until, slot));
        Ok(())
    }

    /// Puts what follows into the place of a challenge.
    pub fn replace(&self, tenant: TenantId, device: DeviceId, slot: Slot, until: Timestamp) {
        self.lock().insert((tenant, device), (until, slot));
    }

    /// How far a device has come, while that counts.
    pub fn of(&self, tenant: TenantId, device: &DeviceId, now: Timestamp) -> Option<Slot> {
        let open = self.lock();
        open.get(&(tenant, device.clone())).filter(|(until, _)| now < *until).map(|(_, slot)| slot.clone())
    }

    /// Empties the device's place.
    pub fn close(&self, tenant: TenantId, device: &DeviceId) {
        self.lock().remove(&(tenant, device.clone()));
    }

    /// Forgets what is over.
    pub fn sweep(&self, now: Timestamp) {
        self.lock().retain(|_, (until, _)| now < *until);
    }
}
