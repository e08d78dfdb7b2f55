//! Asking devices for a proof: because a person wants one, because the last one is too old or said something new, or
//! because the tenant has come to demand more than it shows. A device hears so on its socket: the notice `STATUS_AUDIT`
//! with the reason `attest`.
//!
//! Devices that enrolled together would all be asked together; so each is asked some time before its proof is too old,
//! how long before following from its number. Nobody is asked again within the hour.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Attestation;
use crate::domains::audit::{self, Action, NewEntry};
use crate::domains::devices::{AttestationLevel, Device, DeviceEntry};
use crate::domains::killswitch::{Notice, Outgoing};
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceNo, UserId};
use crate::kernel::{Result, Timestamp};
use crate::store::Tx;

/// How long a device that was asked is left alone.
const PATIENCE: Duration = Duration::from_secs(3_600);
/// Devices that are asked in one round; a signature each.
const ROUND_MAX: usize = 500;
/// Shares of a tenth of the proof's life by which devices are spread.
const SHARES: u64 = 1_024;
const REASON: &str = "attest";

/// When each connected device was asked last.
#[derive(Default)]
pub(super) struct Reminders(papaya::HashMap<DeviceNo, Timestamp>);

/// When a device is asked for its next proof: up to a tenth of the proof's life early.
fn due_at(no: DeviceNo, verified_at: Timestamp, renew_after: Duration) -> Timestamp {
    // Neighbours in number enrolled together; a multiplicative hash (Knuth) sets them apart.
    let share = no.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
    let early = renew_after / 10 * u32::try_from(share % SHARES).unwrap_or(0) / u32::try_from(SHARES).unwrap_or(1);
    verified_at.plus(renew_after.saturating_sub(early))
}

impl Attestation {
    /// A person asks a device to attest again; it hears so when it is connected.
    pub async fn ask(&self, entry: &DeviceEntry, by: UserId, origin: Origin) -> Result<()> {
        let (this, tenant, id) = (self.clone(), entry.tenant, entry.id.clone());
        self.inner
            .store
            .write(move |tx| {
                let note = NewEntry::new(Action::AttestationRequested, &origin).user(by).device(&id);
                audit::append(tx, tenant, this.inner.clock.now(), &this.inner.random, &note).map(drop)
            })
            .await?;
        self.remind(entry)
    }

    /// Asks again once this change is durable: the proof said something else of the hardware than the one before.
    pub(super) fn remind_after(&self, tx: &mut Tx<'_>, device: &Device) -> Result<()> {
        let Some(entry) = self.inner.devices.entry(device.tenant, &device.id) else { return Ok(()) };
        let this = self.clone();
        tx.after_commit(move || {
            if let Err(e) = this.remind(&entry) {
                tracing::warn!(device = %entry.id, error = %e, "a device could not be asked for a proof");
            }
        });
        Ok(())
    }

    /// Asks those connected devices whose proof is about to be too old, or less than their tenant demands. Run every few
    /// seconds.
    pub async fn remind_due(&self) {
        let (now, renew_after) = (self.inner.clock.now(), self.inner.settings.renew_after);
        let hub = self.inner.killswitch.hub();
        let asked = &self.inner.reminders.0;
        let tenants: HashMap<_, _> = self.inner.tenants.entries().into_iter().map(|t| (t.id, t)).collect();
        let is_wanted = |entry: &Arc<DeviceEntry>| {
            let proof = entry.device().proof;
            let demanded =
                tenants.get(&entry.tenant).map(|t| self.demanded(&t.tenant(), &entry.id)).unwrap_or_default();
            proof.is_some_and(|proof| now >= due_at(entry.no, proof.verified_at, renew_after))
                || proof.map_or(AttestationLevel::None, |proof| proof.level) < demanded
        };
        let is_patient =
            |entry: &Arc<DeviceEntry>| asked.pin().get(&entry.no).is_none_or(|at| now.since(*at) >= PATIENCE);
        let is_due = |entry: &Arc<DeviceEntry>| hub.is_open(entry.no) && is_patient(entry) && is_wanted(entry);
        asked.pin().retain(|_, at| now.since(*at) < PATIENCE);
        // Claimed before it is asked: of two rounds at once one asks.
        let claimed = |entry: &Arc<DeviceEntry>| asked.pin().try_insert(entry.no, now).is_ok();
        let entries = self.inner.devices.entries().into_iter();
        let due: Vec<_> = entries.filter(is_due).filter(claimed).take(ROUND_MAX).collect();
        if due.is_empty() {
            return;
        }
        let this = self.clone();
        let asked = self.inner.pool.run(move || due.iter().try_for_each(|entry| this.remind(entry))).await;
        if let Err(e) | Ok(Err(e)) = asked {
            tracing::warn!(error = %e, "devices could not be asked for their proof; the next round asks them");
        }
    }

    fn remind(&self, entry: &DeviceEntry) -> Result<()> {
        let killswitch = &self.inner.killswitch;
        let payload = serde_json::json!({ "nonce_at": "/v1/attestation/nonce" });
        let frame = killswitch.notice(entry, Notice::StatusAudit, REASON, payload)?;
        killswitch.hub().send(entry.no, Outgoing::Notice(frame));
        self.inner.reminders.0.pin().insert(entry.no, self.inner.clock.now());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_enrolled_together_are_not_asked_together() {
        const WEEK: Duration = Duration::from_secs(7 * 86_400);
        let mut hours = std::collections::BTreeMap::<u64, u32>::new();
        for no in 0..10_000 {
            let due = due_at(DeviceNo(no), Timestamp::EPOCH, WEEK).since(Timestamp::EPOCH);
            assert!(due <= WEEK && due > WEEK * 9 / 10, "{due:?}");
            *hours.entry(due.as_secs() / 3_600).or_default() += 1;
        }
        // A tenth of a week is 17 hours: 590 devices an hour if they are spread well.
        assert!(hours.len() >= 16 && hours.values().all(|n| *n < 750), "{hours:?}");
    }
}
