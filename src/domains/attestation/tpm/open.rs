//! Challenges that are open, and keys that wait for their device's enrollment: in memory, one of each for each device.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::TpmKeyRow;
use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::{Kind, Refusal, Result, Timestamp};

/// Devices of all tenants together, of about two kilobytes each.
const OPEN_MAX: usize = 20_000;
/// Those of one tenant: nobody who enrolls with one company's token stops the others.
const OPEN_PER_TENANT_MAX: usize = 10_000;

/// A device that was asked.
#[derive(Clone, Debug)]
pub(in super::super) struct Challenged {
    /// What will be stored.
    pub key: Box<TpmKeyRow>,
    /// SHA-256 of the secret.
    pub secret: [u8; 32],
}

/// How far a device has come. A challenge takes nothing away from a key that was proven before: anybody may ask for one.
#[derive(Default)]
struct Place {
    challenged: Option<(Timestamp, Challenged)>,
    /// It answered, and has yet to enroll.
    activated: Option<(Timestamp, Box<TpmKeyRow>)>,
}

impl Place {
    fn is_over(&self, now: Timestamp) -> bool {
        let lasts = |until: Timestamp| now < until;
        !self.challenged.as_ref().is_some_and(|(until, _)| lasts(*until))
            && !self.activated.as_ref().is_some_and(|(until, _)| lasts(*until))
    }
}

type Places = HashMap<TenantId, HashMap<DeviceId, Place>>;

/// All of them.
#[derive(Default)]
pub(in super::super) struct Open(Mutex<Places>);

fn sweep(places: &mut Places, now: Timestamp) {
    for of_tenant in places.values_mut() {
        of_tenant.retain(|_, place| !place.is_over(now));
    }
    places.retain(|_, of_tenant| !of_tenant.is_empty());
}

fn is_full(places: &Places, tenant: TenantId) -> bool {
    places.get(&tenant).map_or(0, HashMap::len) >= OPEN_PER_TENANT_MAX
        || places.values().map(HashMap::len).sum::<usize>() >= OPEN_MAX
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a challenge into the device's place, instead of an older one.
    ///
    /// # Errors
    /// 429 `too_many_activations` while all places are taken, or all of the tenant's.
    pub fn open(
        &self,
        tenant: TenantId,
        device: DeviceId,
        challenged: Challenged,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<()> {
        let mut places = self.lock();
        let is_new = |places: &Places| places.get(&tenant).is_none_or(|devices| !devices.contains_key(&device));
        if is_full(&places, tenant) && is_new(&places) {
            sweep(&mut places, now);
            if is_full(&places, tenant) && is_new(&places) {
                let detail = "Too many activations of TPM keys are open. Try again in a few minutes.";
                return Err(Refusal::new(Kind::RateLimited, "too_many_activations", detail).retry_after_s(60).into());
            }
        }
        places.entry(tenant).or_default().entry(device).or_default().challenged = Some((until, challenged));
        Ok(())
    }

    /// Puts the key that answered into the place of the challenge.
    pub fn activate(&self, tenant: TenantId, device: DeviceId, key: Box<TpmKeyRow>, until: Timestamp) {
        let place = Place { challenged: None, activated: Some((until, key)) };
        self.lock().entry(tenant).or_default().insert(device, place);
    }

    /// The challenge of a device, while it counts.
    pub fn challenged(&self, tenant: TenantId, device: &DeviceId, now: Timestamp) -> Option<Challenged> {
        let places = self.lock();
        let place = places.get(&tenant)?.get(device)?;
        place.challenged.as_ref().filter(|(until, _)| now < *until).map(|(_, challenged)| challenged.clone())
    }

    /// The key that a device activated, while that counts.
    pub fn activated(&self, tenant: TenantId, device: &DeviceId, now: Timestamp) -> Option<Box<TpmKeyRow>> {
        let places = self.lock();
        let place = places.get(&tenant)?.get(device)?;
        place.activated.as_ref().filter(|(until, _)| now < *until).map(|(_, key)| key.clone())
    }

    /// Ends a challenge that was answered wrongly.
    pub fn end_challenge(&self, tenant: TenantId, device: &DeviceId) {
        if let Some(place) = self.lock().get_mut(&tenant).and_then(|devices| devices.get_mut(device)) {
            place.challenged = None;
        }
    }

    /// Empties the device's place.
    pub fn close(&self, tenant: TenantId, device: &DeviceId) {
        if let Some(devices) = self.lock().get_mut(&tenant) {
            devices.remove(device);
        }
    }

    /// Forgets what is over.
    pub fn sweep(&self, now: Timestamp) {
        sweep(&mut self.lock(), now);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use super::super::super::Level;
    use super::*;
    use crate::attest::tpm::quote::Counters;

    fn key(name: &str) -> Box<TpmKeyRow> {
        Box::new(TpmKeyRow {
            ak_public: String::new(),
            ak_name: name.to_owned(),
            ek: None,
            chip: None,
            root: None,
            root_key: None,
            expires_at: None,
            level: Level::Software,
            bound_at: Timestamp::EPOCH,
            activation: [0; 32],
            answer: [0; 32],
            counters: Counters::default(),
        })
    }

    fn asked(name: &str) -> Challenged {
        Challenged { key: key(name), secret: [0; 32] }
    }

    const NOW: Timestamp = Timestamp::EPOCH;

    fn until() -> Timestamp {
        NOW.plus(Duration::from_secs(180))
    }

    /// A machine is about to enroll, and a stranger with another enrollment token asks for a challenge in its name.
    #[test]
    fn a_challenge_that_nobody_answered_takes_no_activated_key_away() {
        let (open, tenant, id) = (Open::default(), TenantId::from_bytes([1; 16]), "BR-1".parse::<DeviceId>().unwrap());
        open.activate(tenant, id.clone(), key("proven"), until());
        open.open(tenant, id.clone(), asked("a stranger's"), until(), NOW).unwrap();
        assert_eq!(open.activated(tenant, &id, NOW).unwrap().ak_name, "proven");
        assert_eq!(open.challenged(tenant, &id, NOW).unwrap().key.ak_name, "a stranger's");
        open.end_challenge(tenant, &id);
        assert!(open.challenged(tenant, &id, NOW).is_none());
        assert_eq!(open.activated(tenant, &id, NOW).unwrap().ak_name, "proven");
        assert!(open.activated(tenant, &id, until()).is_none(), "its time is over");
    }

    #[test]
    fn one_company_that_fills_its_places_leaves_the_others_theirs() {
        let (open, greedy, other) = (Open::default(), TenantId::from_bytes([1; 16]), TenantId::from_bytes([2; 16]));
        let name = |n: usize| format!("BR-{n}").parse::<DeviceId>().unwrap();
        for n in 0..OPEN_PER_TENANT_MAX {
            open.open(greedy, name(n), asked("one"), until(), NOW).unwrap();
        }
        let refused = open.open(greedy, name(OPEN_PER_TENANT_MAX), asked("one more"), until(), NOW);
        assert!(refused.unwrap_err().to_string().contains("Too many activations"));
        open.open(greedy, name(0), asked("instead of an older one"), until(), NOW).unwrap();
        open.open(other, name(0), asked("another company's"), until(), NOW).unwrap();
        open.open(greedy, name(OPEN_PER_TENANT_MAX), asked("later"), until(), until()).unwrap();
    }
}
