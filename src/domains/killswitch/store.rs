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
use crate::store::tables::{COMMAND_IDS, COMMANDS, Key, META, trailing_number};
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

/// META: no command of any device is numbered at or below it. Rises with each restore.
const SEQ_FLOOR: &str = "command_seq_floor";
/// More commands than one device is sent between two restores.
const SEQ_STRIDE: u64 = 1 << 32;

/// The floor of command numbers in this data file; 0 before the first restore.
pub fn seq_floor(snapshot: &Snapshot) -> Result<u64> {
    let found = snapshot.get_raw(META, Key::new().text(SEQ_FLOOR))?;
    Ok(found.as_deref().and_then(trailing_number).unwrap_or(0))
}

/// Where numbers go on after a restore at `now`: above all that the backup (`kept`) and the data file that it replaces
/// (`replaced`) can have given, and above those of any earlier restore of the same backup, which nothing here knows of,
/// because time went on. Stays below 2^53, which every reader of JSON can hold, for two million restores.
const fn raised_floor(kept: u64, replaced: u64, now: Timestamp) -> u64 {
    let ms = now.as_millis();
    let ms = if ms > 0 { ms.cast_unsigned() } else { 0 };
    let highest = if kept > replaced { kept } else { replaced };
    (if highest > ms { highest } else { ms }).saturating_add(SEQ_STRIDE)
}

/// A backup takes the place of a data file: what devices have seen since must not come again. A device refuses a number
/// that it knows, and a lock that it refuses is none. `replaced` is the floor of the file that goes, where it could be read.
pub fn raise_seq_floor(tx: &mut Tx<'_>, replaced: u64, now: Timestamp) -> Result<()> {
    let kept = stored_floor(tx)?;
    tx.put_raw(META, Key::new().text(SEQ_FLOOR), &raised_floor(kept, replaced, now).to_be_bytes())
}

fn stored_floor(tx: &mut Tx<'_>) -> Result<u64> {
    Ok(tx.get_raw(META, Key::new().text(SEQ_FLOOR))?.as_deref().and_then(trailing_number).unwrap_or(0))
}

pub(super) fn create(
    tx: &mut Tx<'_>,
    device: &mut Device,
    new: &NewCommand,
    now: Timestamp,
    keys: &KeyRing,
    random: &Random,
) -> Result<(CommandView, Arc<str>)> {
    // Devices that were removed, or enrolled after the backup, begin above the floor, too.
    device.command_seq = device.command_seq.max(stored_floor(tx)?) + 1;
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
    // Rows, not numbers: after a restore the numbers have a gap.
    let (all, from) = (prefix(device.tenant, &device.id), oldest_open(device));
    tx.visit_from(COMMANDS, &all, &from, |_, value| {
        open += usize::from(!codec::decode::<CommandRow>(value)?.status_at(now).is_final());
        Ok(open < limits::OPEN_COMMANDS_PER_DEVICE_MAX)
    })?;
    if open >= limits::OPEN_COMMANDS_PER_DEVICE_MAX {
        let detail = "The device has 100 unfinished commands. Wait until it acknowledges some, or until they expire.";
        return Err(Refusal::new(Kind::Conflict, "too_many_commands", detail).into());
    }
    Ok(())
}

/// The place of the device's oldest command that may be unfinished.
fn oldest_open(device: &Device) -> Key {
    prefix(device.tenant, &device.id).number(device.oldest_open_command_seq)
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
        let (all, from) = (prefix(device.tenant, &device.id), oldest_open(device));
        let mut oldest = None;
        tx.visit_from(COMMANDS, &all, &from, |_, value| {
            let row: CommandRow = codec::decode(value)?;
            oldest = (!row.status_at(now).is_final()).then_some(row.seq);
            Ok(oldest.is_none())
        })?;
        device.oldest_open_command_seq = oldest.unwrap_or_else(|| device.command_seq.saturating_add(1));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_any_restore_numbers_go_on_above_all_that_a_device_can_have_seen() {
        let year_2026 = Timestamp::from_millis(1_780_000_000_000);
        let ms = year_2026.as_millis().cast_unsigned();
        let first = raised_floor(0, 0, year_2026);
        assert!(first > ms);
        for (what, kept, replaced, now, above) in [
            (
                "restored for the second time from the same backup",
                0,
                0,
                year_2026.plus(std::time::Duration::from_secs(1)),
                first,
            ),
            ("as before, in place of what went on above the floor", 0, first, year_2026, first + SEQ_STRIDE - 1),
            ("of a backup that was restored before", first, 0, year_2026, first + SEQ_STRIDE - 1),
            ("with a clock that is wrong by fifty years", first, first, Timestamp::EPOCH, first + SEQ_STRIDE - 1),
        ] {
            assert!(raised_floor(kept, replaced, now) > above, "{what}");
        }
        const JSON_SAFE: u64 = 1 << 53;
        assert!(raised_floor(0, 0, Timestamp::MAX) + 1_000_000 * SEQ_STRIDE < JSON_SAFE);
    }
}
