//! What devices were seen with: packages from outside the store, names they looked up, addresses they came from, motion
//! that another device showed, too. Kept so that an indicator that becomes known tomorrow finds who had it today.
//!
//! A value is written down when it is new on a device, and again when it was not for hours; a heartbeat writes a bounded
//! number of them and a device keeps a bounded number. What is listed comes first.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::Intel;
use super::model::{Kind, Match};
use super::value::{Value, bits_of};
use crate::crypto::siphash::SipKey;
use crate::domains::audit::{self, Action, NewEntry, ThreatLevel};
use crate::domains::devices::DeviceEntry;
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceId, DeviceNo, TenantId};
use crate::kernel::{Result, Timestamp};
use crate::store::tables::{Key, SIGHTED_BY, SIGHTINGS};
use crate::store::{Row, Tx, codec};

/// What a value is to the device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// A package from outside the store.
    Package,
    /// A name that it looked up.
    Domain,
    /// An address that it named where names belong.
    Address,
    /// The address that it came from.
    Origin,
    /// Motion that another device showed, too, to the bit.
    Motion,
}

impl Seen {
    const ALL: [Self; 5] = [Self::Package, Self::Domain, Self::Address, Self::Origin, Self::Motion];

    /// As stored.
    pub(super) const fn code(self) -> u8 {
        self as u8
    }

    /// What was stored as this code.
    pub(super) fn of_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The indicators that may speak against it.
    pub(super) const fn kind(self) -> Option<Kind> {
        match self {
            Self::Package => Some(Kind::Package),
            Self::Domain => Some(Kind::Domain),
            Self::Address | Self::Origin => Some(Kind::Address),
            Self::Motion => None,
        }
    }
}

/// A value of a heartbeat, and what is known of it.
#[derive(Clone, Debug)]
pub struct Sighted {
    /// What it is to the device.
    pub seen: Seen,
    /// In its one spelling.
    pub value: String,
    /// The surest indicator that speaks against it.
    pub hit: Option<Match>,
}

/// What is stored of a value on a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SightingRow {
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
    /// The indicator that was reported for it, so that it is reported once.
    #[serde(default)]
    pub reported: Option<String>,
}
impl Row for SightingRow {}

/// Distinct values of one heartbeat that are looked at.
const VALUES_MAX: usize = 1_024;
/// New values that one heartbeat may write.
const NEW_MAX: usize = 32;
/// Values that a device keeps; the longest unseen make room.
const KEPT_MAX: usize = 2_000;
const MAKE_ROOM: usize = 200;
/// How old the stored time of the last sighting may get, in hours.
const REFRESH_HOURS: u64 = 6;
/// Places of the memory of what was written lately; two values that share one are written once more, which does no harm.
const RECENT_PLACES: usize = 1 << 17;

/// What was written lately, so that the same list in every heartbeat costs no write.
pub(super) struct Recent(Box<[AtomicU64]>);

impl Default for Recent {
    fn default() -> Self {
        Self((0..RECENT_PLACES).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Recent {
    fn mark(key: &SipKey, device: DeviceNo, seen: Seen, value: &str, listed: bool, now: Timestamp) -> (u64, u64) {
        let hash = key.hash(seen.code() | if listed { 0x40 } else { 0 }, value.as_bytes());
        // Over all bits: neither the place nor the mark may be the same for two devices.
        let hash = hash ^ u128::from(device.0).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let period = u64::try_from(now.as_secs()).unwrap_or(0) / (3_600 * REFRESH_HOURS);
        // The upper bits tell values apart, the lower ones the time.
        (hash as u64, ((hash >> 64) as u64) << 20 | (period & 0xf_ffff))
    }

    fn place(&self, at: u64) -> Option<&AtomicU64> {
        self.0.get(usize::try_from(at % RECENT_PLACES as u64).unwrap_or(0))
    }
}

pub(super) fn device_key(tenant: TenantId, device: &DeviceId) -> Key {
    Key::new().bytes(tenant.to_bytes()).text(device.as_str())
}

pub(super) fn row_key(tenant: TenantId, device: &DeviceId, seen: Seen, value: &str) -> Key {
    device_key(tenant, device).byte(seen.code()).text(value)
}

pub(super) fn value_key(tenant: TenantId, seen: Seen, value: &str) -> Key {
    Key::new().bytes(tenant.to_bytes()).byte(seen.code()).text(value)
}

/// The value that ends a key of [`SIGHTINGS`], and what it is.
pub(super) fn value_of(prefix: &Key, key: &[u8]) -> Option<(Seen, String)> {
    let (code, value) = key.strip_prefix(prefix.as_ref())?.split_first()?;
    let value = std::str::from_utf8(value.strip_suffix(b"\0")?).ok()?;
    Some((Seen::of_code(*code)?, value.to_owned()))
}

impl Intel {
    /// Judges what a heartbeat names. Off the writer: it touches no disk, and a heartbeat's size bounds it.
    pub fn sight<'b>(
        &self,
        tenant: TenantId,
        origin: Option<IpAddr>,
        names: impl Iterator<Item = &'b str>,
        packages: impl Iterator<Item = &'b str>,
    ) -> Vec<Sighted> {
        let mut known = HashSet::new();
        let mut out = Vec::new();
        let all = packages.map(|p| (Seen::Package, p)).chain(names.map(|n| (Seen::Domain, n)));
        for (seen, text) in all {
            if known.len() >= VALUES_MAX {
                break;
            }
            if known.insert((seen, text)) {
                out.extend(self.sighted(tenant, seen, text));
            }
        }
        let origin = origin.map(|ip| Value::Address(bits_of(ip), 128));
        out.extend(origin.map(|value| self.judged(tenant, Seen::Origin, &value)));
        // What is listed is written down first.
        out.sort_by_key(|s| std::cmp::Reverse(s.hit.as_ref().map(|m| m.confidence)));
        out
    }

    fn sighted(&self, tenant: TenantId, seen: Seen, text: &str) -> Option<Sighted> {
        let (seen, value) = match seen.kind().map(|kind| Value::asked(kind, text))? {
            Ok(value) => (seen, value),
            Err(_) if seen == Seen::Domain => (Seen::Address, Value::asked(Kind::Address, text).ok()?),
            Err(_) => return None,
        };
        Some(self.judged(tenant, seen, &value))
    }

    fn judged(&self, tenant: TenantId, seen: Seen, value: &Value) -> Sighted {
        Sighted { seen, value: value.text(), hit: self.surest(tenant, value) }
    }

    /// The match by which a device is locked at once. Where it came from never locks it: a whole company may share that.
    pub fn critical<'s>(&self, sighted: &'s [Sighted]) -> Option<(&'s Sighted, &'s Match)> {
        let hits = sighted.iter().filter(|s| s.seen != Seen::Origin).filter_map(|s| Some((s, s.hit.as_ref()?)));
        hits.filter(|(_, hit)| self.is_critical(hit)).max_by_key(|(_, hit)| hit.confidence)
    }

    /// Writes down what a device was seen with, and an audit entry for each listed value that is new on it, in the
    /// heartbeat's own transaction.
    pub fn note(
        &self,
        tx: &mut Tx<'_>,
        entry: &DeviceEntry,
        sighted: &[Sighted],
        origin: &Origin,
        now: Timestamp,
    ) -> Result<()> {
        let mut left = NEW_MAX;
        for one in sighted {
            let (at, mark) = Recent::mark(&self.inner.key, entry.no, one.seen, &one.value, one.hit.is_some(), now);
            let place = self.inner.recent.place(at);
            if place.is_some_and(|p| p.load(Ordering::Relaxed) == mark) {
                continue;
            }
            if left == 0 {
                break;
            }
            left -= 1;
            self.note_one(tx, entry, one, origin, now)?;
            if let Some(place) = place {
                place.store(mark, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn note_one(
        &self,
        tx: &mut Tx<'_>,
        entry: &DeviceEntry,
        one: &Sighted,
        origin: &Origin,
        now: Timestamp,
    ) -> Result<()> {
        let key = row_key(entry.tenant, &entry.id, one.seen, &one.value);
        let row: Option<SightingRow> = tx.get(SIGHTINGS, &key)?;
        if row.is_none() {
            make_room(tx, entry.tenant, &entry.id)?;
            let by_value = value_key(entry.tenant, one.seen, &one.value).text(entry.id.as_str());
            tx.put_raw(SIGHTED_BY, by_value, &[])?;
        }
        let mut row = row.unwrap_or(SightingRow { first_seen: now, last_seen: now, reported: None });
        row.last_seen = now;
        if let Some(hit) = &one.hit
            && row.reported.as_deref() != Some(hit.listed.as_str())
        {
            row.reported = Some(hit.listed.clone());
            let level = if self.is_critical(hit) { ThreatLevel::Critical } else { ThreatLevel::Medium };
            let why = format!("{} is listed by {}", one.value, described(hit));
            let note = NewEntry::new(Action::IntelMatched, origin).device(&entry.id).level(level).reason(why);
            audit::append(tx, entry.tenant, now, &self.inner.random, &note)?;
        }
        tx.put(SIGHTINGS, &key, &row)
    }

    /// Notes that two devices showed the same motion to the bit.
    fn note_motion(
        &self,
        tx: &mut Tx<'_>,
        devices: [(TenantId, &DeviceId); 2],
        print: u64,
        now: Timestamp,
    ) -> Result<()> {
        let value = format!("{print:016x}");
        for (tenant, device) in devices {
            let key = row_key(tenant, device, Seen::Motion, &value);
            if tx.get::<SightingRow>(SIGHTINGS, &key)?.is_none() {
                make_room(tx, tenant, device)?;
            }
            tx.put_raw(SIGHTED_BY, value_key(tenant, Seen::Motion, &value).text(device.as_str()), &[])?;
            tx.put(SIGHTINGS, &key, &SightingRow { first_seen: now, last_seen: now, reported: None })?;
        }
        Ok(())
    }

    /// Compares a device's motion with what others showed lately. Only the writer calls this.
    pub fn compare_motion(&self, tx: &mut Tx<'_>, entry: &DeviceEntry, motion: Motion, now: Timestamp) -> Result<()> {
        let print =
            self.inner.key.hash(u8::MAX, &[&motion.0.to_le_bytes()[..], &entry.tenant.to_bytes()].concat()) as u64;
        let mut places = self.inner.motions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let at = usize::try_from(print % MOTION_PLACES as u64).unwrap_or(0);
        let Some(place) = places.get_mut(at) else { return Ok(()) };
        match place {
            Some((known, device)) if *known == print && *device != entry.id => {
                let other = device.clone();
                drop(places);
                self.note_motion(tx, [(entry.tenant, &entry.id), (entry.tenant, &other)], motion.0, now)
            }
            place => {
                *place = Some((print, entry.id.clone()));
                Ok(())
            }
        }
    }
}

/// Who says so, and how sure they are.
pub(super) fn described(hit: &Match) -> String {
    format!("{} ({}, {} %) as {}", hit.feed.name, hit.scope.name(), hit.confidence.percent(), hit.listed)
}

/// Places for the motion of other devices; the newest takes the place.
pub(super) const MOTION_PLACES: usize = 1 << 14;
pub(super) type Motions = Vec<Option<(u64, DeviceId)>>;

/// A few readings' motion to the bit, so chosen that two recordings of one movement give the same wherever they are cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Motion(u64);

impl Motion {
    /// Readings in a row that are compared.
    const WINDOW: usize = 8;

    /// The smallest hash of a window of accelerometer readings of which each differs from the one before in all axes;
    /// `None` where there is none, as at rest, where unlike devices report the same few figures.
    ///
    /// A window is looked at where its content says so (one of four): the choice, too, does not depend on the cut.
    pub fn of(readings: impl Iterator<Item = Option<[f32; 3]>>) -> Option<Self> {
        let key = SipKey::new([0; 16]);
        let (mut window, mut run) = ([[0_u32; 3]; Self::WINDOW], 0_usize);
        let mut smallest: Option<u64> = None;
        for reading in readings {
            let bits = reading?.map(f32::to_bits);
            let differs = window.last().is_some_and(|last| last.iter().zip(&bits).all(|(a, b)| a != b));
            run = if differs { run + 1 } else { 0 };
            window.rotate_left(1);
            if let Some(last) = window.last_mut() {
                *last = bits;
            }
            let chosen = bits.iter().fold(0, |all, b| all ^ b) & 3 == 0;
            if run >= Self::WINDOW && chosen {
                let mut bytes = [0; Self::WINDOW * 12];
                for (to, from) in bytes.chunks_exact_mut(4).zip(window.iter().flatten()) {
                    to.copy_from_slice(&from.to_le_bytes());
                }
                let hash = key.hash(0, &bytes) as u64;
                smallest = Some(smallest.map_or(hash, |s| s.min(hash)));
            }
        }
        smallest.map(Self)
    }
}

/// Takes the values away that were unseen for longest, where a device has as many as it may.
fn make_room(tx: &mut Tx<'_>, tenant: TenantId, device: &DeviceId) -> Result<()> {
    let prefix = device_key(tenant, device);
    let counter = Key::new().bytes(prefix.as_ref()).byte(u8::MAX);
    let count =
        tx.get_raw(SIGHTINGS, &counter)?.as_deref().and_then(crate::store::tables::trailing_number).unwrap_or(0);
    let mut count = usize::try_from(count).unwrap_or(KEPT_MAX);
    if count >= KEPT_MAX {
        let mut rows = Vec::new();
        for (key, value) in tx.scan(SIGHTINGS, &prefix, KEPT_MAX + 1)? {
            if let Some(found) = value_of(&prefix, &key) {
                rows.push((codec::decode::<SightingRow>(&value)?.last_seen, found));
            }
        }
        rows.sort_by_key(|(last_seen, _)| *last_seen);
        count = rows.len().saturating_sub(MAKE_ROOM);
        for (_, (seen, value)) in rows.iter().take(MAKE_ROOM) {
            tx.delete(SIGHTINGS, row_key(tenant, device, *seen, value))?;
            tx.delete(SIGHTED_BY, value_key(tenant, *seen, value).text(device.as_str()))?;
        }
    }
    tx.put_raw(SIGHTINGS, counter, &(count as u64 + 1).to_be_bytes())
}

/// Removes what is stored of a device that is removed.
pub fn forget(tx: &mut Tx<'_>, tenant: TenantId, device: &DeviceId) -> Result<()> {
    let prefix = device_key(tenant, device);
    for (key, _) in tx.scan(SIGHTINGS, &prefix, KEPT_MAX + MAKE_ROOM)? {
        if let Some((seen, value)) = value_of(&prefix, &key) {
            tx.delete(SIGHTED_BY, value_key(tenant, seen, &value).text(device.as_str()))?;
        }
        tx.delete(SIGHTINGS, key)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn walk(seed: u32, length: usize) -> Vec<Option<[f32; 3]>> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 1e6
        };
        (0..length).map(|_| Some([next(), next(), next()])).collect()
    }

    /// A recording that a farm of emulators plays is cut into heartbeats anywhere.
    #[test]
    fn one_recording_gives_one_print_wherever_it_is_cut_and_rest_gives_none() {
        let recording = walk(1, 300);
        let print = |part: &[Option<[f32; 3]>]| Motion::of(part.iter().copied());
        let parts: Vec<_> = (0..40).map(|cut| print(&recording[cut..cut + 200])).collect();
        let same = parts.iter().filter(|p| **p == parts[0]).count();
        assert!(parts[0].is_some() && same > 25, "{same} of 40");
        assert_ne!(print(&walk(2, 200)), parts[0]);
        assert_eq!(print(&vec![Some([0.0, 0.0, 9.81]); 200]), None);
        assert_eq!(print(&recording[..5]), None);
        assert_eq!(print(&vec![None; 100]), None);
    }
}
