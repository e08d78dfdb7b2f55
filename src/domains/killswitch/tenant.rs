//! The kill switch of a whole tenant: every device locked at once, or released.
//!
//! The switch itself is one row, and from its commit on no device of the tenant acts and none is enrolled. The devices'
//! own locks follow in batches, each with its command and its audit entries; a restart in between goes on where it
//! stopped. What was blocked for a reason of its own stays blocked when the switch is released.

use std::sync::Arc;
use std::time::Duration;

use super::{Action, KillSwitch, NewCommand};
use crate::domains::audit::{self, NewEntry, ThreatLevel};
use crate::domains::devices::{self, BlockCause, DeviceEntry, DeviceState};
use crate::domains::tenants::{self, KillSwitchEngaged};
use crate::kernel::context::Origin;
use crate::kernel::ids::{TenantId, UserId};
use crate::kernel::{Kind, Refusal, Result};
use crate::store::Tx;

/// Devices that one commit locks or releases.
const BATCH: usize = 100;
/// How long the caller waits for the devices' own locks.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// How the switch of a tenant stands.
#[derive(Clone, Debug)]
pub struct SwitchView {
    /// Set while it is engaged.
    pub engaged: Option<KillSwitchEngaged>,
    /// Devices whose own lock or release is still to be written; they do not act meanwhile.
    pub pending: usize,
}

impl KillSwitch {
    /// How the switch of a tenant stands.
    pub fn switch(&self, tenant: TenantId) -> Option<SwitchView> {
        let entry = self.tenants.entry(tenant)?;
        let engaged = entry.tenant().kill_switch.clone();
        Some(SwitchView { pending: self.unsettled(tenant, engaged.is_some()).len(), engaged })
    }

    /// Devices whose state does not fit the switch yet.
    fn unsettled(&self, tenant: TenantId, engaged: bool) -> Vec<Arc<DeviceEntry>> {
        let by_switch =
            |e: &DeviceEntry| matches!(e.device().state, DeviceState::Blocked { cause: BlockCause::KillSwitch, .. });
        let mut devices = self.devices.of_tenant(tenant);
        devices.retain(|e| if engaged { !e.is_blocked() } else { by_switch(e) });
        devices
    }

    /// Engages or releases the switch, and locks or releases the devices. Comes back when all devices are done, or after
    /// ten seconds while the rest goes on.
    ///
    /// # Errors
    /// 409 `not_engaged` when there is nothing to release.
    pub async fn turn(
        &self,
        tenant: TenantId,
        engaged: bool,
        reason: String,
        by: UserId,
        origin: Origin,
    ) -> Result<SwitchView> {
        let (this, why) = (self.clone(), reason.clone());
        let first = origin.clone();
        self.store
            .write(move |tx| {
                let now = this.clock.now();
                let mut row = tenants::load(tx, tenant)?.ok_or_else(Refusal::not_found)?;
                let (action, level) = if engaged {
                    (audit::Action::KillSwitchEngaged, ThreatLevel::Critical)
                } else {
                    (audit::Action::KillSwitchReleased, ThreatLevel::None)
                };
                if !engaged && row.kill_switch.is_none() {
                    let detail = "The kill switch is not engaged; nothing was changed.";
                    return Err(Refusal::new(Kind::Conflict, "not_engaged", detail).into());
                }
                row.kill_switch = engaged.then(|| KillSwitchEngaged { reason: why.clone(), at: now });
                tenants::save(tx, Some(&this.tenants), &row)?;
                let entry = NewEntry::new(action, &first).user(by).level(level).reason(why.clone());
                audit::append(tx, tenant, now, &this.random, &entry).map(drop)
            })
            .await?;
        let settling = {
            let this = self.clone();
            tokio::spawn(async move { this.settle(tenant, reason, Some(by), origin).await })
        };
        if let Ok(Ok(settled)) = tokio::time::timeout(WAIT_MAX, settling).await {
            settled?;
        }
        self.switch(tenant).ok_or_else(|| Refusal::not_found().into())
    }

    /// Goes on with what a restart interrupted.
    pub async fn settle_all(&self) {
        for entry in self.tenants.entries() {
            let engaged = entry.tenant().kill_switch.clone();
            let reason = engaged.map_or_else(|| "the kill switch was released".to_owned(), |e| e.reason);
            if let Err(e) = self.settle(entry.id, reason, None, Origin::system()).await {
                tracing::error!(error = %e, tenant = %entry.id, "the kill switch could not be settled");
            }
        }
    }

    /// Brings every device to where the switch stands, batch by batch.
    async fn settle(&self, tenant: TenantId, reason: String, by: Option<UserId>, origin: Origin) -> Result<()> {
        loop {
            let Some(entry) = self.tenants.entry(tenant) else { return Ok(()) };
            let engaged = entry.is_engaged();
            let mut batch = self.unsettled(tenant, engaged);
            batch.truncate(BATCH);
            if batch.is_empty() {
                return Ok(());
            }
            let (this, reason, origin) = (self.clone(), reason.clone(), origin.clone());
            self.store
                .write(move |tx| {
                    for device in &batch {
                        this.settle_device(tx, device, engaged, &reason, by, &origin)?;
                    }
                    Ok(())
                })
                .await?;
        }
    }

    fn settle_device(
        &self,
        tx: &mut Tx<'_>,
        entry: &DeviceEntry,
        engaged: bool,
        reason: &str,
        by: Option<UserId>,
        origin: &Origin,
    ) -> Result<()> {
        let Some(mut device) = devices::load(tx, entry.tenant, &entry.id)? else { return Ok(()) };
        let action = if engaged { Action::LockSystem } else { Action::Unlock };
        let mut new = NewCommand::new(action, reason);
        new.requested_by = by;
        if engaged {
            let note = NewEntry::new(audit::Action::DeviceBlocked, origin)
                .device(&device.id)
                .level(ThreatLevel::High)
                .reason(reason);
            return self.block(tx, &mut device, BlockCause::KillSwitch, &new, note, origin).map(drop);
        }
        if !matches!(device.state, DeviceState::Blocked { cause: BlockCause::KillSwitch, .. }) {
            return Ok(());
        }
        devices::unblock(&mut device);
        self.note(tx, &device, audit::Action::DeviceUnblocked, ThreatLevel::None, &new, origin)?;
        self.issue(tx, &mut device, &new, origin)?;
        devices::save(tx, &self.devices, &device)
    }
}
