//! Command rows.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Page;
use super::model::{Ack, Action, CommandRow, CommandView, Frame, Status};
use crate::crypto::keyring::KeyRing;
use crate::domains::devices::Device;
use crate::kernel::ids::{CommandId, DeviceId, TenantId, UserId};
use crate::kernel::{Error, Kind, Random, Refusal, Result, Timestamp, limits};
use crate::store::tables::{COMMAND_IDS, COMMANDS, Key, trailing_number};
use crate::store::{Snapshot, Tx, codec};

/// A command that is to be issued.
#[derive(Clone, Debug)]
pub struct NewCommand {
    /// What the device is told to do.
    pub action: Action,
    /// Why, in words; the device may show it.
    pub reason: String,
    /// Further facts for the device.
    pub payload: Value,
    /// How long it is sent again.
    pub lifetime: Duration,
    /// The user who asked for it; `None` when a rule did.
    pub requested_by: Option<UserId>,
}

impl NewCommand {
    /// A command of a rule, sent again for 30 days.
    pub fn new(action: Action, reason: impl Into<String>) -> Self {
        Self {
            action,
            reason: reason.into(),
            payload: json!({}),
            lifetime: Duration::from_secs(30 * 86_400),
            requested_by: None,
        }
    }

    /// Asked for by a person.
    #[must_use]
    pub fn by(mut self, user: UserId) -> Self {
        self.requested_by = Some(user);
        self
    }

    /// Further facts for the device.
    #[must_use]
    pub fn payload(mut self, payload: Value) -> Self {
        self.payload = payload;
        self
    }
}

fn prefix(tenant: TenantId, device: &DeviceId) -> Key {
    Key::new().bytes(tenant.to_bytes()).text(device.as_str())
}

fn id_key(tenant: TenantId, device: &DeviceId, id: CommandId) -> Key {
    prefix(tenant, device).bytes(id.to_bytes())
}

pub(super) fn create(
    tx: &mut Tx<'_>,
    device: &mut Device,
    new: &NewCommand,
    now: Timestamp,
    keys: &KeyRing,
    random: &Random,
) -> Result<(CommandView, Arc<str>)> {
    device.command_seq += 1;
    let id = CommandId::generate(now, random);
    let expires_at = now.plus(new.lifetime);
    let frame = Frame {
        action: new.action.name(),
        command_id: id,
        seq: device.command_seq,
        device_id: &device.id,
        issued_at: now,
        expires_at,
        reason: &new.reason,
        payload: &new.payload,
    }
    .sign(keys)?;
    let row = CommandRow {
        id,
        seq: device.command_seq,
        action: new.action,
        reason: new.reason.clone(),
        payload: new.payload.clone(),
        requested_by: new.requested_by,
        status: Status::Requested,
        requested_at: now,
        sent_at: None,
        delivered_at: None,
        ended_at: None,
        expires_at,
        detail: None,
        frame: frame.to_string(),
    };
    tx.put(COMMANDS, prefix(device.tenant, &device.id).number(row.seq), &row)?;
    tx.put_raw(COMMAND_IDS, id_key(device.tenant, &device.id, id), &row.seq.to_be_bytes())?;
    Ok((row.view(now), frame))
}

/// Refuses a person's command while too many are unfinished. Rules are never refused: they issue one lock a block.
pub(super) fn check_room(tx: &mut Tx<'_>, device: &Device, now: Timestamp) -> Result<()> {
    let span = device.command_seq.saturating_sub(device.oldest_open_command_seq) as usize;
    if span < limits::OPEN_COMMANDS_PER_DEVICE_MAX {
        return Ok(());
    }
    let mut open = 0;
    for seq in device.oldest_open_command_seq..=device.command_seq {
        let row: Option<CommandRow> = tx.get(COMMANDS, prefix(device.tenant, &device.id).number(seq))?;
        open += usize::from(row.is_some_and(|r| !r.status_at(now).is_final()));
        if open >= limits::OPEN_COMMANDS_PER_DEVICE_MAX {
            let detail =
                "The device has 100 unfinished commands. Wait until it acknowledges some, or until they expire.";
            return Err(Refusal::new(Kind::Conflict, "too_many_commands", detail).into());
        }
    }
    Ok(())
}

/// Rows removed at a time.
const REMOVED_AT_ONCE: usize = 1_000;

/// Removes every command of a device, and what finds them.
pub(super) fn remove_all(tx: &mut Tx<'_>, device: &Device) -> Result<()> {
    let all = prefix(device.tenant, &device.id);
    let Some(end) = all.end_of_prefix() else { return Ok(()) };
    for table in [COMMANDS, COMMAND_IDS] {
        while tx.delete_range(table, &all, &end, REMOVED_AT_ONCE)? == REMOVED_AT_ONCE {}
    }
    Ok(())
}

pub(super) struct Acknowledged {
    pub action: Action,
    pub status: Status,
    /// The status that this acknowledgement brought about; `None` for a repeat.
    pub entered: Option<Status>,
}

/// Applies a device's word; `None` when the device has no such command. Raises the device's oldest unfinished `seq`,
/// which the caller saves when something ended.
pub(super) fn acknowledge(
    tx: &mut Tx<'_>,
    device: &mut Device,
    ack: &Ack,
    now: Timestamp,
) -> Result<Option<Acknowledged>> {
    let found = tx.get_raw(COMMAND_IDS, id_key(device.tenant, &device.id, ack.command_id))?;
    let Some(seq) = found.as_deref().and_then(trailing_number) else { return Ok(None) };
    let key = prefix(device.tenant, &device.id).number(seq);
    let mut row: CommandRow = tx.get(COMMANDS, &key)?.ok_or_else(|| Error::internal("a command row is missing"))?;
    let changed = row.acknowledge(ack.status, ack.detail.as_deref(), now);
    if changed {
        tx.put(COMMANDS, &key, &row)?;
    }
    let status = row.status_at(now);
    if changed && status.is_final() {
        while device.oldest_open_command_seq <= device.command_seq {
            let key = prefix(device.tenant, &device.id).number(device.oldest_open_command_seq);
            match tx.get::<CommandRow>(COMMANDS, key)? {
                Some(next) if !next.status_at(now).is_final() => break,
                _ => device.oldest_open_command_seq += 1,
            }
        }
    }
    Ok(Some(Acknowledged { action: row.action, status, entered: changed.then_some(row.status) }))
}

pub(super) fn mark_sent(
    tx: &mut Tx<'_>,
    tenant: TenantId,
    device: &DeviceId,
    seqs: &[u64],
    now: Timestamp,
) -> Result<()> {
    for seq in seqs {
        let key = prefix(tenant, device).number(*seq);
        if let Some(mut row) = tx.get::<CommandRow>(COMMANDS, &key)?
            && row.status == Status::Requested
        {
            row.status = Status::Sent;
            row.sent_at = Some(now);
            tx.put(COMMANDS, &key, &row)?;
        }
    }
    Ok(())
}

pub(super) fn pending(snapshot: &Snapshot, device: &Device, now: Timestamp) -> Result<Vec<(u64, Arc<str>)>> {
    let base = prefix(device.tenant, &device.id);
    let from = base.clone().number(device.oldest_open_command_seq);
    let end = base.end_of_prefix();
    let mut out = Vec::new();
    snapshot.visit(COMMANDS, from.as_ref(), end.as_ref().map(AsRef::as_ref), |_, value| {
        let row: CommandRow = codec::decode(value)?;
        if !row.status_at(now).is_final() {
            out.push((row.seq, Arc::from(row.frame)));
        }
        Ok(true)
    })?;
    Ok(out)
}

pub(super) fn view(
    snapshot: &Snapshot,
    tenant: TenantId,
    device: &DeviceId,
    id: CommandId,
    now: Timestamp,
) -> Result<Option<CommandView>> {
    let found = snapshot.get_raw(COMMAND_IDS, id_key(tenant, device, id))?;
    let Some(seq) = found.as_deref().and_then(trailing_number) else { return Ok(None) };
    let row: Option<CommandRow> = snapshot.get(COMMANDS, prefix(tenant, device).number(seq))?;
    Ok(row.map(|r| r.view(now)))
}

pub(super) fn page(
    snapshot: &Snapshot,
    tenant: TenantId,
    device: &DeviceId,
    before: Option<u64>,
    limit: usize,
    now: Timestamp,
) -> Result<Page> {
    let limit = limit.clamp(1, limits::PAGE_MAX);
    let base = prefix(tenant, device);
    let below = before.map(|seq| base.clone().number(seq));
    let mut commands: Vec<CommandView> = Vec::new();
    snapshot.visit_back(COMMANDS, &base, below.as_ref(), |_, value| {
        commands.push(codec::decode::<CommandRow>(value)?.view(now));
        Ok(commands.len() <= limit)
    })?;
    let more = commands.len() > limit;
    commands.truncate(limit);
    Ok(Page { next: if more { commands.last().map(|c| c.seq) } else { None }, commands })
}
