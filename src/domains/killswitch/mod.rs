//! Commands that reach one device: durable before they are sent, signed, acknowledged, sent again until they end.
//!
//! `seq` rises for each device and never repeats for another command; a redelivery repeats the identical bytes, because
//! the frame itself is stored. A block leaves the socket open: it is the way in for `UNLOCK`.
//!
//! Knows nothing of WebSockets: a socket is a queue of frames ([`hub`]).

pub mod api;
pub mod hub;
mod model;
mod store;
mod tenant;

pub use crate::store::idempotency::Once;
pub use hub::{CloseReason, Hub, Outbox, Outgoing};
pub use model::{Ack, AckStatus, Action, CommandView, Notice, Status};
pub use store::{NewCommand, raise_seq_floor, seq_floor};
pub use tenant::SwitchView;

use std::sync::Arc;

use crate::crypto::keyring::KeyRing;
use crate::domains::audit::{self, NewEntry, ThreatLevel};
use crate::domains::devices::{self, BlockCause, Blocked, Device, DeviceEntry, Devices};
use crate::domains::metering::{self, Measure};
use crate::domains::tenants::{self, Tenants};
use crate::kernel::context::Origin;
use crate::kernel::ids::{CommandId, DeviceId, TenantId, UserId};
use crate::kernel::{Clock, Error, Kind, Random, Refusal, Result, Timestamp};
use crate::store::{Store, Tx, idempotency};

/// Issues commands and follows them to their end. Cheap to clone.
#[derive(Clone)]
pub struct KillSwitch {
    store: Store,
    tenants: Tenants,
    devices: Devices,
    keys: KeyRing,
    clock: Clock,
    random: Random,
    hub: Arc<Hub>,
}

/// One page of a device's commands, newest first.
pub struct Page {
    /// The commands.
    pub commands: Vec<CommandView>,
    /// The `seq` to go on below, when there is more.
    pub next: Option<u64>,
}

impl KillSwitch {
    /// The kill switch of this data file.
    pub fn new(tenants: Tenants, devices: Devices, keys: KeyRing, clock: Clock, random: Random) -> Self {
        Self { store: devices.store().clone(), tenants, devices, keys, clock, random, hub: Arc::default() }
    }

    /// The open sockets.
    pub const fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Writes a command for `device` in the caller's transaction, with its audit entry; it is sent once that is durable.
    /// The caller saves the device, whose `command_seq` this raises.
    pub fn issue(
        &self,
        tx: &mut Tx<'_>,
        device: &mut Device,
        new: &NewCommand,
        origin: &Origin,
    ) -> Result<CommandView> {
        let now = self.clock.now();
        let (view, frame) = store::create(tx, device, new, now, &self.keys, &self.random)?;
        let mut entry = NewEntry::new(audit::Action::CommandRequested, origin)
            .device(&device.id)
            .level(new.action.threat_level())
            .reason(format!("{} ({}): {}", new.action.name(), view.command_id, new.reason));
        if let Some(user) = new.requested_by {
            entry = entry.user(user);
        }
        audit::append(tx, device.tenant, now, &self.random, &entry)?;
        if new.action == Action::ImmediateQuarantine {
            let cut_off = NewEntry::new(audit::Action::DeviceQuarantined, origin).device(&device.id);
            let cut_off = cut_off.by(new.requested_by).level(new.action.threat_level()).reason(new.reason.clone());
            audit::append(tx, device.tenant, now, &self.random, &cut_off)?;
        }
        let (hub, no, seq) = (Arc::clone(&self.hub), device.no, view.seq);
        // A blocked device kept its socket although it must pay; what releases it ends that.
        let must_go = new.action == Action::Unlock && device.told_to_pay;
        tx.after_commit(move || {
            hub.send(no, Outgoing::Command { seq, frame });
            if must_go {
                hub.send(no, Outgoing::Close(CloseReason::Paywall));
            }
        });
        Ok(view)
    }

    /// Blocks a device and writes the lock that tells it so, with both audit entries, in the caller's transaction.
    /// A device that is blocked already gets neither again, unless this cause weighs more.
    pub fn block(
        &self,
        tx: &mut Tx<'_>,
        device: &mut Device,
        cause: BlockCause,
        new: &NewCommand,
        entry: NewEntry,
        origin: &Origin,
    ) -> Result<Blocked> {
        let now = self.clock.now();
        let blocked = devices::block(device, cause, &new.reason, now);
        if blocked == Blocked::Now {
            audit::append(tx, device.tenant, now, &self.random, &entry)?;
            self.issue(tx, device, new, origin)?;
            metering::count(tx, device.tenant, Measure::Locks, 1, now)?;
            devices::save(tx, &self.devices, device)?;
        }
        Ok(blocked)
    }

    /// A person's command. Locks also block the device here, `UNLOCK` releases it: a locked phone whose token still
    /// works, or a released phone that stays locked, would be a lie.
    ///
    /// # Errors
    /// `not_found`; `too_many_commands` while a hundred of them are unfinished; 403 `kill_switch_engaged` for `UNLOCK`
    /// while the switch of the tenant holds every device.
    ///
    /// A repeat with the same idempotency key gets the first answer and does nothing.
    pub async fn command(
        &self,
        tenant: TenantId,
        device: DeviceId,
        new: NewCommand,
        once: Option<Once>,
        origin: Origin,
    ) -> Result<CommandView> {
        let this = self.clone();
        self.store
            .write(move |tx| {
                let now = this.clock.now();
                if let Some(first) = idempotency::recall(tx, tenant.to_bytes(), once.as_ref(), now)? {
                    return Ok(first);
                }
                let mut device = devices::load(tx, tenant, &device)?.ok_or_else(Refusal::not_found)?;
                store::check_room(tx, &device, now)?;
                if new.action == Action::Unlock {
                    check_release(tx, tenant)?;
                }
                let view = this.issue(tx, &mut device, &new, &origin)?;
                if new.action.locks()
                    && devices::block(&mut device, BlockCause::Command, &new.reason, now) == Blocked::Now
                {
                    this.note(tx, &device, audit::Action::DeviceBlocked, ThreatLevel::High, &new, &origin)?;
                    metering::count(tx, tenant, Measure::Locks, 1, now)?;
                } else if new.action == Action::Unlock && devices::unblock(&mut device) {
                    this.note(tx, &device, audit::Action::DeviceUnblocked, ThreatLevel::None, &new, &origin)?;
                }
                devices::save(tx, &this.devices, &device)?;
                idempotency::remember(tx, tenant.to_bytes(), once.as_ref(), now, &view)?;
                Ok(view)
            })
            .await
    }

    /// Releases a blocked device and tells it so. The engine's memory of the device is reset by whoever owns it.
    ///
    /// # Errors
    /// `not_found`; `not_blocked` (409) when there is nothing to release; `kill_switch_engaged` (403) while the switch of
    /// the tenant holds every device.
    pub async fn unblock(
        &self,
        tenant: TenantId,
        device: DeviceId,
        reason: String,
        by: UserId,
        origin: Origin,
    ) -> Result<CommandView> {
        let this = self.clone();
        self.store
            .write(move |tx| {
                let mut device = devices::load(tx, tenant, &device)?.ok_or_else(Refusal::not_found)?;
                check_release(tx, tenant)?;
                if !device.is_blocked() {
                    return Err(Refusal::new(
                        Kind::Conflict,
                        "not_blocked",
                        "The device is not blocked; nothing was changed.",
                    )
                    .into());
                }
                let new = NewCommand::new(Action::Unlock, reason.clone()).by(by);
                devices::unblock(&mut device);
                this.note(tx, &device, audit::Action::DeviceUnblocked, ThreatLevel::None, &new, &origin)?;
                let view = this.issue(tx, &mut device, &new, &origin)?;
                devices::save(tx, &this.devices, &device)?;
                Ok(view)
            })
            .await
    }

    fn note(
        &self,
        tx: &mut Tx<'_>,
        device: &Device,
        action: audit::Action,
        level: ThreatLevel,
        new: &NewCommand,
        origin: &Origin,
    ) -> Result<()> {
        let mut entry = NewEntry::new(action, origin).device(&device.id).level(level).reason(new.reason.clone());
        if let Some(user) = new.requested_by {
            entry = entry.user(user);
        }
        audit::append(tx, device.tenant, self.clock.now(), &self.random, &entry).map(drop)
    }

    /// Takes a device's word for what became of one of its commands.
    ///
    /// # Errors
    /// `not_found` for a command that this device never got: another device's commands do not exist for it.
    pub async fn acknowledge(&self, entry: &DeviceEntry, ack: Ack, origin: Origin) -> Result<Status> {
        let this = self.clone();
        let (tenant, id) = (entry.tenant, entry.id.clone());
        self.store
            .write(move |tx| {
                let now = this.clock.now();
                let mut device = devices::load(tx, tenant, &id)?.ok_or_else(Refusal::not_found)?;
                let Some(change) = store::acknowledge(tx, &mut device, &ack, now)? else {
                    return Err(Refusal::not_found().into());
                };
                let action = match change.entered {
                    Some(Status::Enforced) => Some(audit::Action::CommandEnforced),
                    Some(Status::Failed) => Some(audit::Action::CommandFailed),
                    _ => None,
                };
                if let Some(action) = action {
                    let detail = ack.detail.as_deref().map(|d| format!(": {d}")).unwrap_or_default();
                    let text = format!("{} ({}){detail}", change.action.name(), ack.command_id);
                    let entry =
                        NewEntry::new(action, &origin).device(&id).level(change.action.threat_level()).reason(text);
                    audit::append(tx, tenant, now, &this.random, &entry)?;
                    devices::save(tx, &this.devices, &device)?;
                }
                Ok(change.status)
            })
            .await
    }

    /// Commands that have not ended, oldest first, each with the bytes that were signed.
    pub async fn pending(&self, entry: &DeviceEntry) -> Result<Vec<(u64, Arc<str>)>> {
        let device = entry.device();
        let now = self.clock.now();
        self.store.read_with(move |snapshot| store::pending(snapshot, &device, now)).await
    }

    /// Remembers that commands went out on a socket; not waited for, because a redelivery does no harm.
    pub fn mark_sent(&self, entry: &DeviceEntry, seqs: Vec<u64>) {
        let (tenant, id, clock) = (entry.tenant, entry.id.clone(), self.clock.clone());
        let posted = self.store.post(move |tx| store::mark_sent(tx, tenant, &id, &seqs, clock.now()));
        if let Err(e) = posted {
            tracing::debug!(error = %e, "a command's sending was not recorded");
        }
    }

    /// Removes a device's commands in the caller's transaction; its socket is closed once that is durable.
    pub fn forget(&self, tx: &mut Tx<'_>, device: &Device) -> Result<()> {
        store::remove_all(tx, device)?;
        let (hub, no) = (Arc::clone(&self.hub), device.no);
        tx.after_commit(move || hub.send(no, Outgoing::Close(CloseReason::LoggedOut)));
        Ok(())
    }

    /// A signed notice: not stored, not acknowledged.
    pub fn notice(
        &self,
        entry: &DeviceEntry,
        notice: Notice,
        reason: &str,
        payload: serde_json::Value,
    ) -> Result<Arc<str>> {
        let now = self.clock.now();
        let frame = model::Frame {
            action: notice.name(),
            command_id: CommandId::generate(now, &self.random),
            seq: entry.device().command_seq,
            device_id: &entry.id,
            issued_at: now,
            expires_at: now.plus(Notice::LIFETIME),
            reason,
            payload: &payload,
        };
        frame.sign(&self.keys)
    }

    /// One command of a device.
    pub async fn get(&self, tenant: TenantId, device: DeviceId, id: CommandId) -> Result<CommandView> {
        let now = self.clock.now();
        self.store
            .read_with(move |s| {
                store::view(s, tenant, &device, id, now)?.ok_or_else(|| Error::from(Refusal::not_found()))
            })
            .await
    }

    /// Commands of a device below `before`, newest first.
    pub async fn list(&self, tenant: TenantId, device: DeviceId, before: Option<u64>, limit: usize) -> Result<Page> {
        let now: Timestamp = self.clock.now();
        self.store.read_with(move |s| store::page(s, tenant, &device, before, limit, now)).await
    }
}

/// Whether the switch of a tenant holds every device. Whatever releases a device asks here first, in its own transaction.
pub fn is_engaged(tx: &mut Tx<'_>, tenant: TenantId) -> Result<bool> {
    Ok(tenants::load(tx, tenant)?.is_some_and(|t| t.kill_switch.is_some()))
}

/// While the switch of a tenant holds every device, none is released by itself: its phone would open although it still
/// may not act.
fn check_release(tx: &mut Tx<'_>, tenant: TenantId) -> Result<()> {
    if is_engaged(tx, tenant)? {
        let detail = "The kill switch of the tenant is engaged: release it first (PUT /v1/kill-switch).";
        return Err(Refusal::new(Kind::Forbidden, "kill_switch_engaged", detail).into());
    }
    Ok(())
}
