//! A new indicator is held against what devices were seen with before it was known.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::index::Index;
use super::model::{Feed, FeedName, Scope};
use super::rings::{Ring, Rings};
use super::sightings::{Seen, SightingRow, described, row_key};
use super::value::Value;
use super::{Inner, Intel, Match, store};
use crate::domains::audit::{self, Action, NewEntry, ThreatLevel};
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::{Result, Timestamp};
use crate::store::tables::{INTEL_FEEDS, INTEL_HUNTS, Key, SIGHTED_BY, SIGHTINGS};
use crate::store::{Row, Snapshot, Tx};

/// What one look into the past found, whose, and by which indicator; and where to go on, `None` at the end.
type Finds = (Vec<(TenantId, Find, Match)>, Option<Vec<u8>>);

/// Finds that one hunt reports to a tenant; its audit entries and its report end there and say so.
const FINDS_MAX: usize = 1_000;
/// Values that are asked about with one snapshot of the data file: a long one would keep replaced pages from being used.
const VALUES_AT_ONCE: usize = 50_000;
/// Finds that one commit writes.
const BATCH: usize = 50;
/// After a hunt that failed, the next one waits so long.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// META: the newest report.
const REPORTS: &str = "intel_hunt";

/// A device that had something before anybody knew what it was.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = HuntFind)]
pub struct Find {
    /// Which.
    #[schema(value_type = String)]
    pub device_id: DeviceId,
    /// What it was to the device.
    pub seen: Seen,
    /// What it had.
    pub value: String,
    /// What is listed.
    pub listed: String,
    /// In percent.
    pub confidence: u8,
    /// Since when it had it.
    #[schema(value_type = String, format = DateTime)]
    pub first_seen: Timestamp,
    /// Until when, as far as is known.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen: Timestamp,
}

/// What a feed found in the past.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Hunt)]
pub struct Hunt {
    /// The feed.
    #[schema(value_type = String)]
    pub feed: FeedName,
    /// `tenant` or `global`.
    pub scope: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who had what.
    pub finds: Vec<Find>,
    /// Whether there were more than are reported.
    pub cut: bool,
}
impl Row for Hunt {}

/// Feeds that are still to be held against the past; no more than there are feeds.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<(Scope, FeedName)>,
    /// Whether somebody works on it.
    busy: bool,
}

/// Hunts for one feed after the other until none is left. What fails is tried again; the feed's row says what was not
/// done, if the appliance ends before.
async fn work(inner: Weak<Inner>) {
    while let Some(inner) = inner.upgrade() {
        let this = Intel { inner };
        let Some((scope, name)) = this.next_to_hunt() else { return };
        if let Err(e) = this.hunt(scope, &name).await {
            tracing::error!(error = %e, feed = %name, "the past could not be searched for a feed's indicators; it is tried again in a minute");
            this.queue().waiting.push_back((scope, name));
            // Nothing of the store is held meanwhile.
            drop(this);
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

impl Intel {
    /// Holds a feed's indicators against the past as soon as it is its turn, and again until that is done to the end, over
    /// a restart, too.
    pub fn hunt_soon(&self, scope: Scope, name: &FeedName) {
        let mut queue = self.queue();
        let wanted = (scope, name.clone());
        if !queue.waiting.contains(&wanted) {
            queue.waiting.push_back(wanted);
        }
        if !queue.busy {
            queue.busy = true;
            tokio::spawn(work(Arc::downgrade(&self.inner)));
        }
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.inner.to_hunt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: there is nothing left, and nobody works on it any more.
    fn next_to_hunt(&self) -> Option<(Scope, FeedName)> {
        let mut queue = self.queue();
        let next = queue.waiting.pop_front();
        queue.busy = next.is_some();
        next
    }

    /// Holds a feed's indicators against everything that devices were seen with, and reports what was not reported before:
    /// an audit entry for each device, and one report for each tenant. Gives the number of finds.
    pub async fn hunt(&self, scope: Scope, name: &FeedName) -> Result<usize> {
        let Some(feed) = self.feed(scope, name) else { return Ok(0) };
        let mut found: BTreeMap<TenantId, Vec<(Find, Match)>> = BTreeMap::new();
        let mut from = Some(Vec::new());
        while let Some(place) = from {
            let (this, of) = (self.clone(), Arc::clone(&feed));
            let search = move |snapshot: &Snapshot| this.search(snapshot, scope, &of, &place);
            let (finds, next) = self.inner.store.read_with(search).await?;
            for (tenant, find, hit) in finds {
                let finds = found.entry(tenant).or_default();
                if finds.len() <= FINDS_MAX {
                    finds.push((find, hit));
                }
            }
            from = next;
        }
        let total = found.values().map(Vec::len).sum();
        for (tenant, finds) in found {
            self.report(tenant, scope, &feed, finds).await?;
        }
        self.note_hunted(scope, &feed).await?;
        Ok(total)
    }

    /// Notes that this was done for what the feed holds.
    async fn note_hunted(&self, scope: Scope, feed: &Feed) -> Result<()> {
        let (key, generation) = (store::feed_key(scope, &feed.name), feed.generation);
        let note = move |tx: &mut Tx<'_>| match tx.get::<Feed>(INTEL_FEEDS, &key)? {
            Some(row) if row.generation == generation => tx.put(INTEL_FEEDS, &key, &Feed { hunted: generation, ..row }),
            _ => Ok(()),
        };
        self.inner.store.write(note).await
    }

    /// Walks through the values that were seen, from a place on, each once, and asks the index.
    fn search(&self, snapshot: &Snapshot, scope: Scope, feed: &Feed, from: &[u8]) -> Result<Finds> {
        let prefix = match scope {
            Scope::Global => Key::new(),
            Scope::Tenant(tenant) => Key::new().bytes(tenant.to_bytes()),
        };
        let from = if from.is_empty() { prefix.as_ref() } else { from };
        let index = self.index(scope);
        let Some(slot) = index.slot_of(feed.name.as_str()) else { return Ok((Vec::new(), None)) };
        let end = prefix.end_of_prefix();
        let mut asked: Option<(Vec<u8>, Option<Match>)> = None;
        let (mut found, mut looked_at, mut next) = (Vec::new(), 0, None);
        snapshot.visit(SIGHTED_BY, from, end.as_ref().map(AsRef::as_ref), |key, _| {
            if looked_at == VALUES_AT_ONCE {
                next = Some(key.to_vec());
                return Ok(false);
            }
            looked_at += 1;
            let Some((tenant, seen, value, device)) = parts(key) else { return Ok(true) };
            let about = key.get(..17 + value.len()).unwrap_or_default();
            if asked.as_ref().is_none_or(|(before, _)| before != about) {
                asked = Some((about.to_vec(), self.listed_by(seen, value, &index, slot)));
            }
            let Some((_, Some(hit))) = &asked else { return Ok(true) };
            let row: Option<SightingRow> = snapshot.get(SIGHTINGS, row_key(tenant, &device, seen, value))?;
            if let Some(row) = row.filter(|row| row.is_news(hit)) {
                let find = Find {
                    device_id: device,
                    seen,
                    value: value.to_owned(),
                    listed: hit.listed.clone(),
                    confidence: hit.confidence.percent(),
                    first_seen: row.first_seen,
                    last_seen: row.last_seen,
                };
                found.push((tenant, find, hit.clone()));
            }
            Ok(true)
        })?;
        Ok((found, next))
    }

    fn listed_by(&self, seen: Seen, value: &str, index: &Index, slot: u16) -> Option<Match> {
        let value = Value::asked(seen.kind()?, value).ok()?;
        self.surest_in(index, &value, self.inner.clock.now(), |of| of == slot)
    }

    /// Each commit writes the entries of some finds and the report of all until then: what is cut off there goes on with
    /// the rest, and nothing is written down without being reported.
    async fn report(&self, tenant: TenantId, scope: Scope, feed: &Feed, mut found: Vec<(Find, Match)>) -> Result<()> {
        let cut = found.len() > FINDS_MAX;
        found.truncate(FINDS_MAX);
        let at = self.inner.clock.now();
        let mut hunt = Hunt { feed: feed.name.clone(), scope: scope.name().to_owned(), at, finds: Vec::new(), cut };
        let mut number = None;
        for batch in found.chunks(BATCH) {
            hunt.finds.extend(batch.iter().map(|(find, _)| find.clone()));
            let (this, batch, report) = (self.clone(), batch.to_vec(), hunt.clone());
            let write = move |tx: &mut Tx<'_>| {
                for (find, hit) in &batch {
                    this.report_one(tx, tenant, find, hit)?;
                }
                let number = match number {
                    Some(number) => number,
                    None => tx.next_number(REPORTS)?,
                };
                tx.put(INTEL_HUNTS, Key::new().bytes(tenant.to_bytes()).number(number), &report)?;
                Ok(number)
            };
            number = Some(self.inner.store.write(write).await?);
        }
        Ok(())
    }

    fn report_one(&self, tx: &mut Tx<'_>, tenant: TenantId, find: &Find, hit: &Match) -> Result<()> {
        let key = row_key(tenant, &find.device_id, find.seen, &find.value);
        // Since it was found the device may have been removed, or told of it itself.
        let Some(mut row) = tx.get::<SightingRow>(SIGHTINGS, &key)?.filter(|row| row.is_news(hit)) else {
            return Ok(());
        };
        row.report(hit);
        let mut rings = Rings::load(tx, tenant, &find.device_id, self.inner.clock.now())?;
        rings.place(tx, &mut row, Ring::Reported, find.seen, &find.value)?;
        rings.save(tx)?;
        tx.put(SIGHTINGS, &key, &row)?;
        let why = format!("had {} until {}, listed since by {}", find.value, find.last_seen, described(hit));
        let level = if self.is_critical(hit) { ThreatLevel::High } else { ThreatLevel::Medium };
        let entry = NewEntry::new(Action::IntelFoundInHistory, &Origin::system())
            .device(&find.device_id)
            .level(level)
            .reason(why);
        audit::append(tx, tenant, self.inner.clock.now(), &self.inner.random, &entry).map(drop)
    }

    /// A tenant's reports, newest first, below the number `before`; with the number to go on below.
    pub async fn hunts(&self, tenant: TenantId, before: Option<u64>, limit: usize) -> Result<(Vec<Hunt>, Option<u64>)> {
        let prefix = Key::new().bytes(tenant.to_bytes());
        let read = move |snapshot: &Snapshot| {
            let (mut page, mut next) = (Vec::new(), None);
            let below = before.map(|number| prefix.clone().number(number));
            let mut last = None;
            snapshot.visit_back(INTEL_HUNTS, &prefix, below.as_ref(), |key, value| {
                if page.len() >= limit {
                    next = last;
                    return Ok(false);
                }
                page.push(crate::store::codec::decode::<Hunt>(value)?);
                last = crate::store::tables::trailing_number(key);
                Ok(true)
            })?;
            Ok((page, next))
        };
        self.inner.store.read_with(read).await
    }
}

/// The parts of a key of [`SIGHTED_BY`].
pub(super) fn parts(key: &[u8]) -> Option<(TenantId, Seen, &str, DeviceId)> {
    let (tenant, rest) = key.split_first_chunk::<16>()?;
    let (code, rest) = rest.split_first()?;
    let mut texts = rest.split(|b| *b == 0);
    let value = std::str::from_utf8(texts.next()?).ok()?;
    let device = std::str::from_utf8(texts.next()?).ok()?.parse().ok()?;
    Some((TenantId::from_bytes(*tenant), Seen::of_code(*code)?, value, device))
}
