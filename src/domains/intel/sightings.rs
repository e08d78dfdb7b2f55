//! What devices were seen with: packages from outside the store, names they looked up, addresses they came from, motion
//! that another device showed, too. Kept so that an indicator that becomes known tomorrow finds who had it today.
//!
//! A value is written down when it is new on a device, and again when it was not for hours; a heartbeat writes a bounded
//! number of them and a device keeps a bounded number of each kind ([`super::rings`]). What is listed comes first; of the
//! rest nobody can say beforehand which are written.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::model::{Confidence, FeedName, Kind, Match, Scope};
use super::rings::{Ring, Rings};
use super::value::{Value, bits_of};
use super::{Intel, dns_score};
use crate::crypto::siphash::SipKey;
use crate::domains::audit::{self, Action, NewEntry, ThreatLevel};
use crate::domains::devices::DeviceEntry;
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceId, DeviceNo, TenantId};
use crate::kernel::{Result, Timestamp};
use crate::store::tables::{Key, SIGHTED_BY, SIGHTINGS};
use crate::store::{Row, Tx};

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

impl Sighted {
    /// What the device had that is listed: an app, a domain, an address; `None` where it is not.
    pub fn listed_kind(&self) -> Option<Kind> {
        self.hit.as_ref().map(|hit| hit.kind)
    }
}

/// What the names in a heartbeat amount to.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// Its values, listed ones first, the surest before others.
    pub sighted: Vec<Sighted>,
    /// The name that looks most made by a machine and how much ([`dns_score`]), of at most 256 that are looked at; `None`
    /// where it looked no name up.
    pub strangest_name: Option<(String, f32)>,
}

/// What is stored of a value on a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SightingRow {
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
    /// Whose word on it was reported, so that each is reported once.
    #[serde(default)]
    pub reports: Vec<Reported>,
    /// Its ring, and its number there.
    #[serde(default)]
    pub place: Option<(u8, u64)>,
}
impl Row for SightingRow {}

/// A feed's word that was reported.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Reported {
    /// Whether it is the appliance's feed.
    global: bool,
    feed: FeedName,
    confidence: Confidence,
}

impl SightingRow {
    /// Feeds whose word is remembered; with more only a surer one is news.
    const REPORTS_MAX: usize = 8;

    const fn new(now: Timestamp) -> Self {
        Self { first_seen: now, last_seen: now, reports: Vec::new(), place: None }
    }

    /// Whether this was not reported before: by another feed, or less sure.
    pub fn is_news(&self, hit: &Match) -> bool {
        match self.reports.iter().find(|r| r.is_by(hit)) {
            Some(before) => before.confidence < hit.confidence,
            None => {
                self.reports.len() < Self::REPORTS_MAX || self.reports.iter().all(|r| r.confidence < hit.confidence)
            }
        }
    }

    /// Remembers that it was reported.
    pub fn report(&mut self, hit: &Match) {
        self.reports.retain(|r| !r.is_by(hit));
        if self.reports.len() >= Self::REPORTS_MAX {
            self.reports.sort_by_key(|r| std::cmp::Reverse(r.confidence));
            self.reports.truncate(Self::REPORTS_MAX - 1);
        }
        let (global, feed) = (hit.scope == Scope::Global, hit.feed.name.clone());
        self.reports.push(Reported { global, feed, confidence: hit.confidence });
    }
}

impl Reported {
    fn is_by(&self, hit: &Match) -> bool {
        self.global == (hit.scope == Scope::Global) && self.feed == hit.feed.name
    }
}

/// Distinct values of one heartbeat that are judged; more than the wire admits.
const JUDGED_MAX: usize = 16_384;
/// Values of each kind that are handed on to be written down.
const CARRIED_MAX: usize = 512;
/// Names of one heartbeat whose look is judged, in about a quarter of a millisecond.
const SCORED_MAX: usize = 256;
/// How old the stored time of the last sighting may get, in hours.
const REFRESH_HOURS: u64 = 6;
/// Apart from the hashes of the memory of what was written lately.
const ORDER: u8 = 0x80;
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

    /// Forgets that a value was written.
    pub(super) fn forget(&self, key: &SipKey, device: DeviceNo, seen: Seen, value: &str) {
        for listed in [false, true] {
            let (at, mark) = Self::mark(key, device, seen, value, listed, Timestamp::EPOCH);
            if let Some(place) = self.place(at)
                && place.load(Ordering::Relaxed) >> 20 == mark >> 20
            {
                place.store(0, Ordering::Relaxed);
            }
        }
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
    ) -> Sight {
        let mut known = HashSet::new();
        let mut out = Vec::new();
        let all = packages.map(|p| (Seen::Package, p)).chain(names.map(|n| (Seen::Domain, n)));
        for (seen, text) in all {
            if known.len() >= JUDGED_MAX {
                break;
            }
            if known.insert((seen, text)) {
                out.extend(self.sighted(tenant, seen, text));
            }
        }
        let origin = origin.map(|ip| Value::Address(bits_of(ip), 128));
        out.extend(origin.map(|value| self.judged(tenant, Seen::Origin, &value)));
        // What is listed is written down first. In which order the rest comes a device cannot foresee: it could hide what
        // it has behind names that it made up.
        out.sort_by_cached_key(|s| {
            let order = self.inner.key.hash(ORDER | s.seen.code(), s.value.as_bytes()) as u64;
            (std::cmp::Reverse(s.hit.as_ref().map(|m| m.confidence)), order)
        });
        let mut carried = [0; Seen::ALL.len()];
        out.retain(|s| {
            let Some(carried) = carried.get_mut(usize::from(s.seen.code())) else { return false };
            *carried += 1;
            *carried <= CARRIED_MAX
        });
        let looked_up = out.iter().filter(|s| s.seen == Seen::Domain).take(SCORED_MAX);
        let scored = looked_up.map(|s| (&s.value, dns_score(&s.value)));
        let strangest = scored.max_by(|(_, a), (_, b)| a.total_cmp(b));
        let strangest_name = strangest.map(|(name, score)| (name.clone(), score));
        Sight { sighted: out, strangest_name }
    }

    fn sighted(&self, tenant: TenantId, seen: Seen, text: &str) -> Option<Sighted> {
        let value = match seen {
            Seen::Domain => Value::looked_up(text),
            _ => Value::asked(seen.kind()?, text),
        };
        let value = value.ok()?;
        let seen = if matches!(value, Value::Address(..)) { Seen::Address } else { seen };
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
        let mut left = [0; Ring::COUNT];
        let mut rings: Option<Rings<'_>> = None;
        let mut marks = Vec::new();
        for one in sighted {
            let (at, mark) = Recent::mark(&self.inner.key, entry.no, one.seen, &one.value, one.hit.is_some(), now);
            if self.inner.recent.place(at).is_some_and(|p| p.load(Ordering::Relaxed) == mark) {
                continue;
            }
            let ring = if one.hit.is_some() { Ring::Reported } else { Ring::of(one.seen) };
            let Some(written) = left.get_mut(ring as usize).filter(|n| **n < ring.beat_max()) else { continue };
            *written += 1;
            let rings = match &mut rings {
                Some(rings) => rings,
                None => rings.insert(Rings::load(tx, entry.tenant, &entry.id, now)?),
            };
            if self.note_one(tx, entry, one, (origin, now), (rings, ring))? {
                marks.push((at, mark));
            }
        }
        let evicted = match rings {
            Some(rings) => rings.save(tx)?,
            None => Vec::new(),
        };
        if !marks.is_empty() || !evicted.is_empty() {
            // What is not committed was not written. What made room may have been marked by this very heartbeat.
            let (this, no) = (self.clone(), entry.no);
            tx.after_commit(move || {
                for (at, mark) in marks {
                    if let Some(place) = this.inner.recent.place(at) {
                        place.store(mark, Ordering::Relaxed);
                    }
                }
                for (seen, value) in evicted {
                    this.inner.recent.forget(&this.inner.key, no, seen, &value);
                }
            });
        }
        Ok(())
    }

    /// Says whether it is written: of too many new ones in a day it is not.
    fn note_one(
        &self,
        tx: &mut Tx<'_>,
        entry: &DeviceEntry,
        one: &Sighted,
        (origin, now): (&Origin, Timestamp),
        (rings, ring): (&mut Rings<'_>, Ring),
    ) -> Result<bool> {
        let key = row_key(entry.tenant, &entry.id, one.seen, &one.value);
        let row: Option<SightingRow> = tx.get(SIGHTINGS, &key)?;
        let is_new = row.is_none();
        if is_new && !rings.admit(ring) {
            return Ok(false);
        }
        let mut row = row.unwrap_or_else(|| SightingRow::new(now));
        row.last_seen = now;
        if is_new {
            let by_value = value_key(entry.tenant, one.seen, &one.value).text(entry.id.as_str());
            tx.put_raw(SIGHTED_BY, by_value, &[])?;
        }
        if is_new || ring == Ring::Reported {
            rings.place(tx, &mut row, ring, one.seen, &one.value)?;
        }
        if let Some(hit) = one.hit.as_ref().filter(|hit| row.is_news(hit)) {
            row.report(hit);
            let level = if self.is_critical(hit) { ThreatLevel::Critical } else { ThreatLevel::Medium };
            let why = format!("{} is listed by {}", one.value, described(hit));
            let note = NewEntry::new(Action::IntelMatched, origin).device(&entry.id).level(level).reason(why);
            audit::append(tx, entry.tenant, now, &self.inner.random, &note)?;
        }
        tx.put(SIGHTINGS, &key, &row)?;
        Ok(true)
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
            let row: Option<SightingRow> = tx.get(SIGHTINGS, &key)?;
            let mut rings = Rings::load(tx, tenant, device, now)?;
            if row.is_none() && !rings.admit(Ring::Motion) {
                rings.save(tx)?;
                continue;
            }
            let mut row = row.unwrap_or_else(|| SightingRow::new(now));
            row.last_seen = now;
            rings.place(tx, &mut row, Ring::Motion, Seen::Motion, &value)?;
            rings.save(tx)?;
            tx.put_raw(SIGHTED_BY, value_key(tenant, Seen::Motion, &value).text(device.as_str()), &[])?;
            tx.put(SIGHTINGS, &key, &row)?;
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
