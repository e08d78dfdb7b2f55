//! Usage of each company by day: how often, how much, by how many different devices and people.
//!
//! Three ways in, by what each may cost. What belongs to a change is counted in its commit ([`count`]). Heartbeats are
//! counted in memory by the writer and go to disk together with the mark of the signal journal's checkpoint: what a crash
//! takes from memory the journal still holds, and its replay counts it again, so no acknowledged heartbeat is lost and none
//! counts twice. Requests and people are counted in memory and written down with the commits, every half second and at a
//! clean end: of those a crash loses half a second.
//!
//! Knows nothing of plans: who may use how much is for billing.

pub mod actives;
pub mod api;
mod model;

pub use model::{Counts, Measure, Span, date_of, day_at, day_of, day_text, parse_day};

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::domains::tenants::Tenants;
use crate::kernel::clock::Stopwatch;
use crate::kernel::ids::{DeviceNo, TenantId, UserId};
use crate::kernel::{Clock, Error, Result, Timestamp};
use crate::store::tables::{Key, META, USAGE_ACTIVES, USAGE_COUNTS, trailing_number};
use crate::store::{Housekeeping, Snapshot, Store, Tx};
use actives::{Actives, spread};

/// Counts something in the commit that caused it.
pub fn count(tx: &mut Tx<'_>, tenant: TenantId, measure: Measure, n: u64, now: Timestamp) -> Result<()> {
    add(tx, tenant, (Span::Day, day_at(now)), |counts| counts.add(measure, n))
}

fn add(tx: &mut Tx<'_>, tenant: TenantId, period: Period, change: impl FnOnce(&mut Counts)) -> Result<()> {
    let key = counts_key(tenant, period);
    let mut counts: Counts = tx.get(USAGE_COUNTS, &key)?.unwrap_or_default();
    change(&mut counts);
    tx.put(USAGE_COUNTS, key, &counts)
}

/// A day, week or month by its number.
type Period = (Span, u64);

fn counts_key(tenant: TenantId, (span, number): Period) -> Key {
    Key::new().bytes(tenant.to_bytes()).byte(span.byte()).number(number)
}

/// Who is active: devices or people.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Kind {
    Devices,
    People,
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Self::Devices => 0,
            Self::People => 1,
        }
    }

    const fn measure(self) -> Measure {
        match self {
            Self::Devices => Measure::ActiveDevices,
            Self::People => Measure::ActiveUsers,
        }
    }
}

fn actives_key(tenant: TenantId, kind: Kind, (span, number): Period) -> Key {
    Key::new().bytes(tenant.to_bytes()).byte(kind.byte()).byte(span.byte()).number(number)
}

/// What is counted in memory and not on disk yet.
#[derive(Clone, Default)]
struct Pending {
    heartbeats: HashMap<(TenantId, u64), u64>,
    seen: HashMap<(TenantId, Period), Actives>,
}

impl Pending {
    /// Notes that somebody was active on this day; whoever was seen that day was seen that week and month.
    fn see(&mut self, tenant: TenantId, day: u64, hash: u64) {
        if self.seen.entry((tenant, (Span::Day, day))).or_default().insert(hash) {
            for span in [Span::Week, Span::Month] {
                self.seen.entry((tenant, (span, span.number(day)))).or_default().insert(hash);
            }
        }
    }

    /// What concerns one company and one span. Copies little, because the writer may be waiting for it.
    fn of(&self, tenant: TenantId, span: Span) -> Self {
        let heartbeats = self.heartbeats.iter().filter(|((of, _), _)| *of == tenant);
        let seen = self.seen.iter().filter(|((of, (of_span, _)), _)| *of == tenant && *of_span == span);
        Self {
            heartbeats: heartbeats.map(|(key, n)| (*key, *n)).collect(),
            seen: seen.map(|(key, actives)| (*key, actives.clone())).collect(),
        }
    }

    fn write(&self, tx: &mut Tx<'_>, kind: Kind, lives: impl Fn(TenantId) -> bool) -> Result<()> {
        for ((tenant, day), n) in self.heartbeats.iter().filter(|((tenant, _), _)| lives(*tenant)) {
            add(tx, *tenant, (Span::Day, *day), |counts| counts.add(Measure::Heartbeats, *n))?;
        }
        for ((tenant, period), seen) in self.seen.iter().filter(|((tenant, _), _)| lives(*tenant)) {
            let key = actives_key(*tenant, kind, *period);
            let mut all = match tx.get_raw(USAGE_ACTIVES, &key)? {
                Some(bytes) => {
                    Actives::decode(&bytes).ok_or_else(|| Error::internal("a count of actives is damaged"))?
                }
                None => Actives::default(),
            };
            all.merge(seen);
            tx.put_raw(USAGE_ACTIVES, key, &all.encode())?;
            add(tx, *tenant, *period, |counts| counts.set(kind.measure(), all.count()))?;
        }
        Ok(())
    }
}

/// Heartbeats since the last checkpoint, and those that the checkpoint under way will write.
#[derive(Default)]
struct Beats {
    pending: Pending,
    cut: Option<Pending>,
    /// The number of the newest cut; the data file says which was written last.
    cuts: u64,
    written: bool,
}

/// Requests and people since the last writing, and those that the writing under way holds.
#[derive(Default)]
struct People {
    pending: Pending,
    cut: Option<Arc<PeopleCut>>,
    /// The number of the newest cut; the data file says which was written last.
    cuts: u64,
}

struct PeopleCut {
    people: Pending,
    requests: HashMap<TenantId, u64>,
    /// When it was made: the requests count for that day.
    day: u64,
}

/// In META: the newest cut that is on disk.
const LAST_CUT: &str = "usage_cut";
/// In META: the same of requests and people.
const LAST_PEOPLE_CUT: &str = "usage_people_cut";
/// Between two writings of requests and people, and so what of them a crash loses.
const WRITTEN_EVERY: Duration = Duration::from_millis(500);

/// Counts usage. Cheap to clone.
#[derive(Clone)]
pub struct Metering {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    tenants: Tenants,
    clock: Clock,
    /// Of the heartbeats' path only the writer locks it.
    beats: Mutex<Beats>,
    people: Mutex<People>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Metering {
    /// # Errors
    /// When the data file cannot be read.
    pub fn rebuild(store: Store, tenants: Tenants, clock: Clock) -> Result<Self> {
        let snapshot = store.read()?;
        let beats = Mutex::new(Beats { cuts: last_cut(&snapshot, LAST_CUT)?, ..Beats::default() });
        let people = Mutex::new(People { cuts: last_cut(&snapshot, LAST_PEOPLE_CUT)?, ..People::default() });
        drop(snapshot);
        Ok(Self { inner: Arc::new(Inner { store, tenants, clock, beats, people }) })
    }

    /// An accepted heartbeat, or one that the journal's replay finds behind its mark. Only the writer, or the start, calls
    /// this.
    pub fn heartbeat(&self, tenant: TenantId, device: DeviceNo, at: Timestamp) {
        let (mut beats, day) = (lock(&self.inner.beats), day_at(at));
        *beats.pending.heartbeats.entry((tenant, day)).or_default() += 1;
        beats.pending.see(tenant, day, spread(device.0));
    }

    /// A checkpoint of the journal begins: what was counted until now goes to disk with its mark. Only the writer calls
    /// this.
    pub fn begin_checkpoint(&self) {
        let mut beats = lock(&self.inner.beats);
        if beats.cut.is_none() {
            beats.cuts += 1;
            beats.cut = Some(std::mem::take(&mut beats.pending));
        }
    }

    /// The mark of the checkpoint is being written: so is what was counted up to it.
    pub fn end_checkpoint(&self, tx: &mut Tx<'_>) -> Result<()> {
        let mut beats = lock(&self.inner.beats);
        let Some(cut) = &beats.cut else { return Ok(()) };
        cut.write(tx, Kind::Devices, |tenant| self.inner.tenants.entry(tenant).is_some())?;
        tx.put_raw(META, Key::new().text(LAST_CUT), &beats.cuts.to_be_bytes())?;
        beats.written = true;
        Ok(())
    }

    /// A commit is durable; it may have been the one with the mark.
    pub fn committed(&self) {
        let mut beats = lock(&self.inner.beats);
        if std::mem::take(&mut beats.written) {
            beats.cut = None;
        }
    }

    /// A person asked for something.
    pub fn person(&self, tenant: TenantId, user: UserId, now: Timestamp) {
        let [high, low] = [user.to_bytes().first_chunk::<8>().copied(), user.to_bytes().last_chunk::<8>().copied()]
            .map(|half| half.map_or(0, u64::from_be_bytes));
        lock(&self.inner.people).pending.see(tenant, day_at(now), spread(high ^ spread(low)));
    }

    /// The work that rides along with commits: requests and people are written down.
    pub fn housekeeping(&self) -> Box<dyn Housekeeping> {
        Box::new(Writing { metering: self.clone(), last: Stopwatch::start(), written: false })
    }

    /// Counts of a company from day to day, both included, on disk and in memory, by period.
    pub async fn usage(&self, tenant: TenantId, from: u64, to: u64, by: Span) -> Result<BTreeMap<u64, Counts>> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || {
            // Under the locks nothing moves from memory to the disk between the look at the one and the other.
            let (beats, people) = (lock(&inner.beats), lock(&inner.people));
            let snapshot = inner.store.read()?;
            let mut memory = vec![(Kind::Devices, beats.pending.of(tenant, by))];
            if last_cut(&snapshot, LAST_CUT)? < beats.cuts {
                memory.extend(beats.cut.as_ref().map(|cut| (Kind::Devices, cut.of(tenant, by))));
            }
            drop(beats);
            memory.push((Kind::People, people.pending.of(tenant, by)));
            let today = day_at(inner.clock.now());
            let mut requests = vec![(today, inner.tenants.entry(tenant).map_or(0, |entry| entry.requests()))];
            if last_cut(&snapshot, LAST_PEOPLE_CUT)? < people.cuts
                && let Some(cut) = &people.cut
            {
                memory.push((Kind::People, cut.people.of(tenant, by)));
                requests.push((cut.day, cut.requests.get(&tenant).copied().unwrap_or(0)));
            }
            drop(people);
            let mut days = read_counts(&snapshot, tenant, Span::Day, from, to)?;
            for (day, n) in requests.into_iter().filter(|(day, n)| (from..=to).contains(day) && *n > 0) {
                days.entry(day).or_default().add(Measure::Requests, n);
            }
            for ((_, day), n) in memory.iter().flat_map(|(_, m)| &m.heartbeats) {
                if (from..=to).contains(day) {
                    days.entry(*day).or_default().add(Measure::Heartbeats, *n);
                }
            }
            let mut periods = sums(days, by);
            for (number, stored) in read_counts(&snapshot, tenant, by, by.number(from), by.number(to))? {
                for measure in [Measure::ActiveDevices, Measure::ActiveUsers] {
                    periods.entry(number).or_default().set(measure, stored.get(measure));
                }
            }
            merge_seen(&snapshot, tenant, (by.number(from), by.number(to)), &memory, &mut periods)?;
            Ok(periods)
        })
        .await
        .map_err(Error::internal)?
    }
}

fn last_cut(snapshot: &Snapshot, name: &str) -> Result<u64> {
    let stored = snapshot.get_raw(META, Key::new().text(name))?;
    Ok(stored.as_deref().and_then(trailing_number).unwrap_or(0))
}

fn read_counts(snapshot: &Snapshot, tenant: TenantId, span: Span, from: u64, to: u64) -> Result<BTreeMap<u64, Counts>> {
    let mut found = BTreeMap::new();
    let (first, end) = (counts_key(tenant, (span, from)), counts_key(tenant, (span, to.saturating_add(1))));
    snapshot.visit(USAGE_COUNTS, first.as_ref(), Some(end.as_ref()), |key, value| {
        if let Some(number) = trailing_number(key) {
            found.insert(number, crate::store::codec::decode(value)?);
        }
        Ok(true)
    })?;
    Ok(found)
}

/// Days folded into periods. Different ones cannot be added up: a period has a count of its own for them.
fn sums(days: BTreeMap<u64, Counts>, by: Span) -> BTreeMap<u64, Counts> {
    let mut periods: BTreeMap<u64, Counts> = BTreeMap::new();
    for (day, counts) in days {
        let period = periods.entry(by.number(day)).or_default();
        for (measure, n) in counts.0 {
            if !matches!(measure, Measure::ActiveDevices | Measure::ActiveUsers) {
                period.add(measure, n);
            }
        }
    }
    periods
}

/// Adds who was seen since the last writing.
fn merge_seen(
    snapshot: &Snapshot,
    tenant: TenantId,
    (from, to): (u64, u64),
    memory: &[(Kind, Pending)],
    periods: &mut BTreeMap<u64, Counts>,
) -> Result<()> {
    let mut merged: HashMap<(Kind, u64), Actives> = HashMap::new();
    for (kind, pending) in memory {
        for ((_, (span, number)), seen) in pending.seen.iter().filter(|((_, (_, n)), _)| (from..=to).contains(n)) {
            let all = match merged.entry((*kind, *number)) {
                std::collections::hash_map::Entry::Occupied(there) => there.into_mut(),
                std::collections::hash_map::Entry::Vacant(place) => {
                    let stored = snapshot.get_raw(USAGE_ACTIVES, actives_key(tenant, *kind, (*span, *number)))?;
                    place.insert(stored.as_deref().and_then(Actives::decode).unwrap_or_default())
                }
            };
            all.merge(seen);
        }
    }
    for ((kind, number), all) in merged {
        periods.entry(number).or_default().set(kind.measure(), all.count());
    }
    Ok(())
}

struct Writing {
    metering: Metering,
    last: Stopwatch,
    written: bool,
}

impl Inner {
    /// Takes what was counted out of memory, to be written; `None` where nothing was.
    fn cut(&self) -> Option<(Arc<PeopleCut>, u64)> {
        let mut people = lock(&self.people);
        // Under the lock: whoever looks meanwhile finds each request in one of both places.
        let entries = self.tenants.entries();
        let taken = entries.iter().map(|tenant| (tenant.id, tenant.take_requests()));
        let requests: HashMap<_, _> = taken.filter(|(_, n)| *n > 0).collect();
        if requests.is_empty() && people.pending.seen.is_empty() {
            return None;
        }
        let cut = PeopleCut { people: std::mem::take(&mut people.pending), requests, day: day_at(self.clock.now()) };
        let cut = Arc::new(cut);
        people.cuts += 1;
        people.cut = Some(Arc::clone(&cut));
        Some((cut, people.cuts))
    }
}

impl Housekeeping for Writing {
    fn run(&mut self, tx: &mut Tx<'_>, idle: bool) -> Result<()> {
        if !idle && self.last.elapsed() < WRITTEN_EVERY {
            return Ok(());
        }
        self.last = Stopwatch::start();
        let inner = &self.metering.inner;
        let Some((cut, number)) = inner.cut() else { return Ok(()) };
        let lives = |tenant| inner.tenants.entry(tenant).is_some();
        for (tenant, n) in cut.requests.iter().filter(|(tenant, _)| lives(**tenant)) {
            add(tx, *tenant, (Span::Day, cut.day), |counts| counts.add(Measure::Requests, *n))?;
        }
        cut.people.write(tx, Kind::People, lives)?;
        tx.put_raw(META, Key::new().text(LAST_PEOPLE_CUT), &number.to_be_bytes())?;
        self.written = true;
        Ok(())
    }

    fn committed(&mut self) {
        if std::mem::take(&mut self.written) {
            lock(&self.metering.inner.people).cut = None;
        }
    }

    fn journal_grew(&mut self, _: usize) {}
}

#[cfg(test)]
mod tests;
