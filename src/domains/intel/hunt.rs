//! A new indicator is held against what devices were seen with before it was known.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::model::{Feed, FeedName, Scope};
use super::sightings::{Seen, SightingRow, described, row_key};
use super::value::Value;
use super::{Intel, Match};
use crate::domains::audit::{self, Action, NewEntry, ThreatLevel};
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::{Result, Timestamp};
use crate::store::tables::{INTEL_HUNTS, Key, SIGHTED_BY, SIGHTINGS};
use crate::store::{Row, Snapshot, Tx};

/// What one look into the past found, whose, and by which indicator; and where to go on, `None` at the end.
type Finds = (Vec<(TenantId, Find, Match)>, Option<Vec<u8>>);

/// Finds that one hunt reports to a tenant; its audit entries and its report end there and say so.
const FINDS_MAX: usize = 1_000;
/// Values that are asked about with one snapshot of the data file: a long one would keep replaced pages from being used.
const VALUES_AT_ONCE: usize = 50_000;
/// Finds that one commit writes.
const BATCH: usize = 50;
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

impl Intel {
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
        Ok(total)
    }

    /// Walks through the values that were seen, from a place on, each once, and asks the index.
    fn search(&self, snapshot: &Snapshot, scope: Scope, feed: &Feed, from: &[u8]) -> Result<Finds> {
        let prefix = match scope {
            Scope::Global => Key::new(),
            Scope::Tenant(tenant) => Key::new().bytes(tenant.to_bytes()),
        };
        let from = if from.is_empty() { prefix.as_ref() } else { from };
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
                asked = Some((about.to_vec(), self.listed_by(tenant, seen, value, scope, feed)));
            }
            let Some((_, Some(hit))) = &asked else { return Ok(true) };
            let row: Option<SightingRow> = snapshot.get(SIGHTINGS, row_key(tenant, &device, seen, value))?;
            if let Some(row) = row.filter(|row| row.reported.is_none()) {
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

    fn listed_by(&self, tenant: TenantId, seen: Seen, value: &str, scope: Scope, feed: &Feed) -> Option<Match> {
        let value = Value::asked(seen.kind()?, value).ok()?;
        match self.verdict(tenant, &value) {
            super::Verdict::Listed(matches) => {
                matches.into_iter().find(|m| m.scope == scope && m.feed.name == feed.name)
            }
            super::Verdict::Clean | super::Verdict::Unknown => None,
        }
    }

    async fn report(&self, tenant: TenantId, scope: Scope, feed: &Feed, mut found: Vec<(Find, Match)>) -> Result<()> {
        let cut = found.len() > FINDS_MAX;
        found.truncate(FINDS_MAX);
        for batch in found.chunks(BATCH) {
            let (this, batch) = (self.clone(), batch.to_vec());
            self.inner
                .store
                .write(move |tx| {
                    for (find, hit) in &batch {
                        this.report_one(tx, tenant, find, hit)?;
                    }
                    Ok(())
                })
                .await?;
        }
        let at = self.inner.clock.now();
        let finds = found.into_iter().map(|(find, _)| find).collect();
        let hunt = Hunt { feed: feed.name.clone(), scope: scope.name().to_owned(), at, finds, cut };
        let write = move |tx: &mut Tx<'_>| {
            let number = tx.next_number(REPORTS)?;
            tx.put(INTEL_HUNTS, Key::new().bytes(tenant.to_bytes()).number(number), &hunt)
        };
        self.inner.store.write(write).await
    }

    fn report_one(&self, tx: &mut Tx<'_>, tenant: TenantId, find: &Find, hit: &Match) -> Result<()> {
        let key = row_key(tenant, &find.device_id, find.seen, &find.value);
        // Since it was found the device may have been removed, or told of it itself.
        let Some(mut row) = tx.get::<SightingRow>(SIGHTINGS, &key)?.filter(|row| row.reported.is_none()) else {
            return Ok(());
        };
        row.reported = Some(hit.listed.clone());
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
