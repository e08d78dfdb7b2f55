//! Folding the journal into stored rings, and unfolding it at the start.
//!
//! A checkpoint goes through the devices that have new readings, a few with each commit, so that no commit is slow.
//! When it is through, every block up to the one at its beginning is folded, and the mark moves there. Blocks behind
//! the mark stay for investigation until they are older than the retention.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Inner;
use super::cell::{Answer, Cell, LastSeq, Published};
use super::record::{Record, decode_live, encode_live};
use crate::domains::devices::{self, Device};
use crate::kernel::ids::{DeviceNo, TenantId};
use crate::kernel::{Error, Result};
use crate::store::tables::{Key, META, REMOVED_DEVICES, SIGNAL_ANCHORS, SIGNAL_JOURNAL, SIGNAL_RINGS, trailing_number};
use crate::store::{Housekeeping, Tx, journal, migrate};

/// Rings written with each busy commit.
const PER_BUSY_COMMIT: usize = 8;
/// Rings written with each idle commit.
const PER_IDLE_COMMIT: usize = 512;
/// Idle ticks (half a second each) before a small journal is folded, too.
const IDLE_TICKS: u32 = 20;
/// How often a device's whole state is kept beside the journal.
pub(super) const ANCHOR_EVERY: Duration = Duration::from_secs(86_400);
/// Old anchors removed at a time.
const ANCHORS_SCANNED: usize = 4;
/// Journal blocks looked at, and removed, at a time.
const TRIM_BLOCKS: usize = 16;

/// Rows of removed devices looked at with each trimming.
const REMOVED_SCANNED: usize = 64;

/// A device goes whose heartbeats may stand in the journal behind the mark: whoever replays them for the usage must know
/// whose they were.
pub(super) fn note_removed(tx: &mut Tx<'_>, device: &Device) -> Result<()> {
    // Heartbeats of the same batch run after its changes and make the next block.
    let last = tx.newest_journal_block() + 1;
    let value = [&device.tenant.to_bytes()[..], &last.to_be_bytes()].concat();
    tx.put_raw(REMOVED_DEVICES, Key::new().number(device.no.0), &value)
}

pub(super) struct Folding {
    signals: Arc<Inner>,
    /// Cells that this checkpoint has still to write.
    cycle: Vec<Arc<Cell>>,
    /// The mark that the checkpoint will set; `None` when none is under way.
    cycle_mark: Option<u64>,
    bytes_since_mark: u64,
    bytes_since_cycle: u64,
    idle_ticks: u32,
    mark: u64,
    /// The next attempt to trim.
    trim_due: bool,
    scratch: Vec<u8>,
}

impl Folding {
    pub fn new(signals: Arc<Inner>) -> Self {
        Self {
            signals,
            cycle: Vec::new(),
            cycle_mark: None,
            bytes_since_mark: 0,
            bytes_since_cycle: 0,
            idle_ticks: 0,
            mark: 0,
            trim_due: true,
            scratch: Vec::new(),
        }
    }

    fn due(&self) -> bool {
        self.bytes_since_mark >= self.signals.settings.checkpoint_bytes || self.idle_ticks >= IDLE_TICKS
    }

    fn write(&mut self, tx: &mut Tx<'_>, cell: &Cell) -> Result<()> {
        // Since its last reading the device may have been removed, perhaps by this very commit.
        if devices::load(tx, cell.tenant, &cell.id)?.is_none_or(|device| device.no != cell.no) {
            return Ok(());
        }
        let mut live = cell.live();
        let through = tx.newest_journal_block();
        self.scratch.clear();
        encode_live(&live, through, &mut self.scratch);
        live.folded_through = through;
        live.dirty = false;
        drop(live);
        tx.put_raw(SIGNAL_RINGS, Key::new().bytes(cell.tenant.to_bytes()).number(cell.no.0), &self.scratch)?;
        self.anchor(tx, cell, through)
    }

    /// Once a day the state is kept beside the journal: what was decided after it can be recomputed from there. Those
    /// from before the journal's beginning are of no use any more.
    fn anchor(&self, tx: &mut Tx<'_>, cell: &Cell, through: u64) -> Result<()> {
        let now = self.signals.clock.now();
        let mut live = cell.live();
        if live.anchored_at > now.minus(ANCHOR_EVERY) {
            return Ok(());
        }
        live.anchored_at = now;
        drop(live);
        keep_anchor(tx, &self.signals, cell, &self.scratch, through)
    }

    fn trim(&mut self, tx: &mut Tx<'_>) -> Result<()> {
        // A day longer than promised: a replay begins at the anchor before what it recomputes.
        let oldest_kept = self.signals.clock.now().minus(self.signals.settings.retention + ANCHOR_EVERY);
        let blocks = tx.scan(SIGNAL_JOURNAL, &Key::new(), TRIM_BLOCKS)?;
        let mut removed = 0;
        for (key, value) in &blocks {
            let number = trailing_number(key).unwrap_or(u64::MAX);
            let old = journal::written_at(value).is_none_or(|at| at < oldest_kept);
            if number > self.mark || !old {
                break;
            }
            tx.delete(SIGNAL_JOURNAL, key)?;
            removed += 1;
        }
        self.trim_due = removed == TRIM_BLOCKS;
        self.forget_removed(tx)
    }

    /// Those whose last heartbeats the mark has passed, some at a time.
    fn forget_removed(&mut self, tx: &mut Tx<'_>) -> Result<()> {
        let rows = tx.scan(REMOVED_DEVICES, &Key::new(), REMOVED_SCANNED)?;
        for (key, value) in &rows {
            if trailing_number(value).is_none_or(|last| last <= self.mark) {
                tx.delete(REMOVED_DEVICES, key)?;
            }
        }
        Ok(())
    }
}

impl Housekeeping for Folding {
    fn run(&mut self, tx: &mut Tx<'_>, idle: bool) -> Result<()> {
        self.signals.tick(tx)?;
        self.idle_ticks = if idle { self.idle_ticks.saturating_add(1) } else { 0 };
        if self.cycle_mark.is_none() && self.due() {
            self.idle_ticks = 0;
            self.cycle = std::mem::take(&mut *self.signals.dirty.lock().unwrap_or_else(PoisonError::into_inner));
            if !self.cycle.is_empty() {
                self.cycle_mark = Some(tx.newest_journal_block());
                self.signals.metering.begin_checkpoint();
                self.bytes_since_cycle = 0;
            }
            self.trim_due = true;
        }
        let Some(mark) = self.cycle_mark else {
            return if self.trim_due { self.trim(tx) } else { Ok(()) };
        };
        for _ in 0..if idle { PER_IDLE_COMMIT } else { PER_BUSY_COMMIT } {
            let Some(cell) = self.cycle.pop() else { break };
            self.write(tx, &cell)?;
        }
        if self.cycle.is_empty() {
            tx.put_raw(META, Key::new().text(migrate::JOURNAL_FOLDED_THROUGH), &mark.to_be_bytes())?;
            self.signals.metering.end_checkpoint(tx)?;
            self.mark = mark;
            self.cycle_mark = None;
            self.bytes_since_mark = self.bytes_since_cycle;
        }
        Ok(())
    }

    fn committed(&mut self) {
        self.signals.metering.committed();
    }

    fn journal_grew(&mut self, bytes: usize) {
        self.bytes_since_mark += bytes as u64;
        self.bytes_since_cycle += bytes as u64;
    }
}

/// Keeps a copy of a device's state as of a journal block, and removes those that no readings follow any more.
pub(super) fn keep_anchor(tx: &mut Tx<'_>, signals: &Inner, cell: &Cell, state: &[u8], through: u64) -> Result<()> {
    let of_device = Key::new().bytes(cell.tenant.to_bytes()).number(cell.no.0);
    tx.put_raw(SIGNAL_ANCHORS, of_device.clone().number(through), state)?;
    let oldest = signals.clock.now().minus(signals.settings.retention + 2 * ANCHOR_EVERY);
    let kept = tx.scan(SIGNAL_ANCHORS, &of_device, ANCHORS_SCANNED)?;
    // However old, the last one before this stays: readings that are still kept may follow it.
    for (key, value) in kept.iter().take(kept.len().saturating_sub(2)) {
        if decode_live(value).is_ok_and(|kept| kept.received_at >= oldest) {
            break;
        }
        tx.delete(SIGNAL_ANCHORS, key)?;
    }
    Ok(())
}

/// Reads the checkpoint and replays the journal behind it.
pub(super) fn restore(inner: &Inner) -> Result<()> {
    let snapshot = inner.store.read()?;
    let devices = inner.devices.by_no();
    let cells = inner.cells.pin();
    snapshot.visit(SIGNAL_RINGS, &[], None, |key, value| {
        let no = DeviceNo(trailing_number(key).unwrap_or(0));
        // Rings of a device that was deleted since are left for its deletion to remove.
        let Some(entry) = devices.get(&no) else { return Ok(true) };
        let live = decode_live(value)
            .map_err(|e| Error::Internal(format!("the rings of device {} are damaged: {e}", entry.id)))?;
        cells.insert(no, Arc::new(Cell::with(entry, live)));
        Ok(true)
    })?;
    let mark = snapshot.get_raw(META, Key::new().text(migrate::JOURNAL_FOLDED_THROUGH))?;
    let mark = mark.as_deref().and_then(trailing_number).unwrap_or(0);
    let mut removed: HashMap<DeviceNo, TenantId> = HashMap::new();
    snapshot.visit(REMOVED_DEVICES, &[], None, |key, value| {
        let tenant = value.first_chunk::<16>().map(|bytes| TenantId::from_bytes(*bytes));
        removed.extend(trailing_number(key).map(DeviceNo).zip(tenant));
        Ok(true)
    })?;
    let mut dirty = Vec::new();
    journal::replay(&snapshot, mark + 1, |block| {
        let mut input = block.body.as_slice();
        for _ in 0..block.records {
            let record = Record::decode(&mut input)
                .map_err(|e| Error::Internal(format!("journal block {} is damaged: {e}", block.number)))?;
            let Some(entry) = devices.get(&record.device) else {
                // What it sent was acknowledged, and is usage of its company whatever became of it.
                if let Some(tenant) = removed.get(&record.device) {
                    inner.metering.heartbeat(*tenant, record.device, record.received_at);
                }
                continue;
            };
            inner.metering.heartbeat(entry.tenant, entry.no, record.received_at);
            let fresh = || Arc::new(Cell::new(entry, record.sensors));
            let cell = cells.get_or_insert_with(entry.no, fresh);
            let mut live = cell.live();
            if block.number <= live.folded_through {
                continue;
            }
            replay(&mut live, &record, inner);
            if !live.dirty {
                live.dirty = true;
                dirty.push(Arc::clone(cell));
            }
        }
        Ok(())
    })?;
    for (no, cell) in &cells {
        let live = cell.live();
        if live.engine.readings() > 0
            && let Some(entry) = devices.get(no)
        {
            let assessment = live.engine.assess(&inner.settings.policy);
            let shadow = inner.settings.shadow.as_ref().and_then(|candidate| candidate.look(&live.engine));
            cell.publish(Published { assessment, at: live.received_at, shadow });
            entry.seen(assessment.score, live.received_at);
        }
    }
    *inner.dirty.lock().unwrap_or_else(PoisonError::into_inner) = dirty;
    Ok(())
}

fn replay(live: &mut super::cell::Live, record: &Record<'_>, inner: &Inner) {
    live.follow(record);
    if let Some(seq) = record.seq {
        let answer = Answer {
            signal_id: record.signal_id,
            score: record.score,
            decision: record.decision,
            threshold: if record.threshold > 0 { record.threshold } else { inner.settings.policy.threshold },
            engine: record.effort.as_str(),
        };
        live.last_seq = Some(LastSeq { session: record.session, seq, answer });
    }
}
