//! Pages of the log, newest first, by device, person, action, weight and time.
//!
//! A device has an index. Time is found by halving, because times ascend with the sequence numbers as long as the clock is
//! not set back; an entry from a moment at which it was may be missed or stand out of its order, never changed. The rest is
//! looked for: a page looks at no more than [`LOOKED_AT_MAX`] entries, and where it ends before it is full its cursor goes
//! on. So a page takes a bounded time, whatever is asked for, and writing an entry costs no further index.

use super::model::{Action, Entry, EntryRow, Leaf, ThreatLevel};
use super::store::erased_through;
use crate::kernel::ids::{AuditId, DeviceId, TenantId, UserId};
use crate::kernel::{Error, Result, Timestamp};
use crate::store::tables::{AUDIT, AUDIT_BY_DEVICE, AUDIT_ERASED, Key, trailing_number};
use crate::store::{Snapshot, codec};

/// Entries that one page looks at when no index names them.
const LOOKED_AT_MAX: usize = 5_000;
/// Entries that one page looks at when the index names them: each is a lookup of its own.
const LOOKED_UP_MAX: usize = 1_000;

/// Which entries are wanted. Everything that is said must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this device.
    pub device: Option<DeviceId>,
    /// Done by, or about, this person.
    pub user: Option<UserId>,
    /// Of this action.
    pub action: Option<Action>,
    /// That matter this much or more.
    pub level: Option<ThreatLevel>,
    /// From this moment on.
    pub from: Option<Timestamp>,
    /// Before this moment.
    pub to: Option<Timestamp>,
}

impl Filter {
    fn admits(&self, entry: &Entry) -> bool {
        self.user.is_none_or(|user| entry.user_id == Some(user))
            && self.action.is_none_or(|action| entry.action_taken == action)
            && self.level.is_none_or(|level| entry.threat_level >= level)
            && self.from.is_none_or(|from| entry.created_at >= from)
            && self.to.is_none_or(|to| entry.created_at < to)
    }

    /// Texts of which one of each group stands in the row of every entry that fits. Cheaper than reading the row, and wrong
    /// only in letting too many through.
    fn hints(&self) -> Vec<Vec<Vec<u8>>> {
        // The leaf is a JSON text within a JSON text.
        let member = |name: &str, value: String| format!("{name}\\\":\\\"{value}\\\"").into_bytes();
        let mut groups = Vec::new();
        groups.extend(self.user.map(|user| vec![member("user_id", user.to_string())]));
        groups.extend(self.action.map(|action| vec![member("action_taken", word(&action))]));
        let levels = self.level.filter(|level| *level > ThreatLevel::None);
        groups.extend(levels.map(|least| {
            let fit = ThreatLevel::ALL.iter().filter(|level| **level >= least);
            fit.map(|level| member("threat_level", word(level))).collect()
        }));
        groups
    }
}

/// The stable word of a value on the wire.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|json| json.as_str().map(str::to_owned)).unwrap_or_default()
}

/// One page of entries, newest first.
pub struct Page {
    /// The entries.
    pub entries: Vec<Entry>,
    /// The sequence number to go on below, when there is more.
    pub next: Option<u64>,
}

/// One page, newest first.
pub(super) fn page(
    snapshot: &Snapshot,
    tenant: TenantId,
    filter: &Filter,
    before: Option<u64>,
    limit: usize,
) -> Result<Page> {
    let log = Key::new().bytes(tenant.to_bytes());
    // Everything below the mark is erased; there is nothing to show.
    let erased = erased_through(snapshot.get_raw(AUDIT_ERASED, &log)?);
    let mut end = before;
    if let Some(to) = filter.to {
        let below = first_at(snapshot, tenant, erased, to)?;
        end = Some(end.map_or(below, |end| end.min(below)));
    }
    let start = match filter.from {
        Some(from) => first_at(snapshot, tenant, erased, from)?.max(erased),
        None => erased,
    };
    let hints = filter.hints();
    let fits =
        |row: &[u8]| hints.iter().all(|group| group.iter().any(|hint| memchr::memmem::find(row, hint).is_some()));
    let mut found = Found { entries: Vec::new(), looked_at: 0, last: None, more: false };
    match &filter.device {
        Some(device) => {
            let prefix = log.clone().text(device.as_str());
            let below = end.map(|seq| prefix.clone().number(seq));
            snapshot.visit_back(AUDIT_BY_DEVICE, &prefix, below.as_ref(), |key, _| {
                let Some(seq) = trailing_number(key).filter(|seq| *seq >= start) else { return Ok(false) };
                let row = snapshot.get_raw(AUDIT, log.clone().number(seq))?;
                let row = row.ok_or_else(|| Error::internal("an audit entry is missing"))?;
                found.take(seq, &row, filter, &fits, limit, LOOKED_UP_MAX)
            })?;
        }
        None => {
            let below = end.map(|seq| log.clone().number(seq));
            snapshot.visit_back(AUDIT, &log, below.as_ref(), |key, row| {
                let Some(seq) = trailing_number(key).filter(|seq| *seq >= start) else { return Ok(false) };
                found.take(seq, row, filter, &fits, limit, LOOKED_AT_MAX)
            })?;
        }
    }
    Ok(Page { next: found.last.filter(|_| found.more), entries: found.entries })
}

struct Found {
    entries: Vec<Entry>,
    looked_at: usize,
    /// The last entry that was looked at.
    last: Option<u64>,
    /// Whether there was another one behind it.
    more: bool,
}

impl Found {
    /// Looks at one entry; says whether to go on.
    fn take(
        &mut self,
        seq: u64,
        row: &[u8],
        filter: &Filter,
        fits: &impl Fn(&[u8]) -> bool,
        limit: usize,
        looked_at_max: usize,
    ) -> Result<bool> {
        if self.entries.len() == limit || self.looked_at == looked_at_max {
            self.more = true;
            return Ok(false);
        }
        self.looked_at += 1;
        self.last = Some(seq);
        if fits(row) {
            let entry = shown(codec::decode(row)?)?;
            self.entries.extend(entry.filter(|entry| filter.admits(entry)));
        }
        Ok(true)
    }
}

/// The entry at a place of a tenant's log; `None` when there is none, or its content is erased.
pub fn entry_at(snapshot: &Snapshot, tenant: TenantId, seq: u64) -> Result<Option<Entry>> {
    let row = snapshot.get::<EntryRow>(AUDIT, Key::new().bytes(tenant.to_bytes()).number(seq))?;
    row.map_or(Ok(None), shown)
}

/// The entry with this id, looked for among the newest hundreds: for who has just written it.
pub fn find_newest(snapshot: &Snapshot, tenant: TenantId, id: AuditId) -> Result<Option<Entry>> {
    const LOOKED_AT_MAX: usize = 1_024;
    let (mut found, mut seen) = (None, 0);
    snapshot.visit_back(AUDIT, &Key::new().bytes(tenant.to_bytes()), None, |_, value| {
        seen += 1;
        found = shown(codec::decode::<EntryRow>(value)?)?.filter(|entry| entry.id == id);
        Ok(found.is_none() && seen < LOOKED_AT_MAX)
    })?;
    Ok(found)
}

/// The first entry that was written at or after this moment; the size of the log when there is none. Where a clock was set
/// back, some entry near it.
pub fn first_since(snapshot: &Snapshot, tenant: TenantId, at: Timestamp) -> Result<u64> {
    let erased = erased_through(snapshot.get_raw(AUDIT_ERASED, Key::new().bytes(tenant.to_bytes()))?);
    first_at(snapshot, tenant, erased, at)
}

/// The first entry, from `low` on, that was written at or after this moment; the size of the log when there is none.
fn first_at(snapshot: &Snapshot, tenant: TenantId, low: u64, moment: Timestamp) -> Result<u64> {
    let log = Key::new().bytes(tenant.to_bytes());
    let mut high = 0;
    snapshot.visit_back(AUDIT, &log, None, |key, _| {
        high = trailing_number(key).map_or(0, |seq| seq + 1);
        Ok(false)
    })?;
    let mut low = low;
    while low < high {
        let middle = low + (high - low) / 2;
        let row: Option<EntryRow> = snapshot.get(AUDIT, log.clone().number(middle))?;
        let entry = row.map(shown).transpose()?.flatten();
        if entry.is_some_and(|entry| entry.created_at >= moment) { high = middle } else { low = middle + 1 }
    }
    Ok(low)
}

/// An entry as it is shown; `None` for one whose content is gone.
fn shown(row: EntryRow) -> Result<Option<Entry>> {
    let Some(leaf) = row.leaf else { return Ok(None) };
    let leaf: Leaf = serde_json::from_str(&leaf).map_err(Error::internal)?;
    let (ip, user_agent) = row.personal.map_or((None, None), |p| (p.ip, p.user_agent));
    Ok(Some(Entry {
        id: leaf.id,
        seq: leaf.seq,
        tenant: leaf.tenant,
        user_id: leaf.user_id,
        device_id: leaf.device_id,
        jti: leaf.jti,
        key_id: leaf.key_id,
        ip,
        user_agent,
        source: leaf.source,
        threat_level: leaf.threat_level,
        threat_score: leaf.threat_score,
        decision_reason: leaf.decision_reason,
        attestation_state: leaf.attestation_state,
        action_taken: leaf.action_taken,
        signal_id: leaf.signal_id,
        request_id: leaf.request_id,
        created_at: leaf.created_at,
    }))
}

#[cfg(test)]
mod tests;
