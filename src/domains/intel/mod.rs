//! Threat intelligence: lists of what is known to be bad, the appliance's own and each tenant's, and what they say of a
//! package, a hash, a domain or an address.
//!
//! A feed is taken in as a whole or not at all: its blocks are written in pieces that make nobody wait, and count from the
//! one commit on that also holds the audit entry. Silence is only worth something where it comes from a fresh feed: without
//! one a lookup says `unknown`, never `clean`. Knows nothing of HTTP, files, or where feeds are fetched from.

pub mod api;
pub mod dns;
pub mod feed;
mod hunt;
mod import;
mod index;
mod links;
mod model;
mod punycode;
mod rings;
mod sightings;
mod store;
mod value;

pub use dns::dns_score;
pub use feed::{BadFeed, Format, Parsed, Reading};
pub use hunt::{Find, Hunt};
pub use import::{Asker, Imported, NewFeed};
pub use links::{Link, Shared, Sideload};
pub use model::{Confidence, Counts, Feed, FeedName, FeedState, Kind, Match, Scope, Verdict};
pub use rings::forget;
pub use sightings::{Motion, Seen, Sight, Sighted};

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::crypto::siphash::SipKey;
use crate::domains::tenants::Tenants;
use crate::kernel::ids::TenantId;
use crate::kernel::pool::Pool;
use crate::kernel::{Clock, Random, Result, Timestamp};
use crate::store::Store;
use index::Index;
use value::Value;

/// What the configuration says about threat intelligence.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How old a feed may get before its silence says nothing, where it does not say otherwise.
    pub stale_after: Duration,
    /// Indicators of all feeds together.
    pub indicators_max: u64,
    /// Indicators of one tenant's own feeds together: none may take the room of all others.
    pub tenant_indicators_max: u64,
    /// A match at least this sure locks the device.
    pub critical: Confidence,
}

/// Work that may wait for a thread.
const WAITING_MAX: usize = 16;
/// Imports that may be under way or wait for one another; each holds a whole feed in memory.
const IMPORTS_MAX: usize = 8;
/// Matches of one verdict.
const MATCHES_MAX: usize = 64;
const BUSY: &str = "Too many feeds are being taken in. Try again in a moment.";

/// Threat intelligence. Cheap to clone.
#[derive(Clone)]
pub struct Intel {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    tenants: Tenants,
    clock: Clock,
    random: Random,
    settings: Settings,
    /// Of this process only.
    key: SipKey,
    global: ArcSwap<Index>,
    of_tenants: papaya::HashMap<TenantId, Arc<Index>>,
    /// Held by whoever changes feeds: two at once would lose one of the two.
    changing: tokio::sync::Mutex<()>,
    /// A place for each import that is under way or waits.
    imports: tokio::sync::Semaphore,
    /// Feeds whose indicators are still to be held against the past.
    to_hunt: Mutex<hunt::Queue>,
    pool: Pool,
    /// What was written down of devices lately.
    recent: sightings::Recent,
    /// Only the writer locks it.
    motions: Mutex<sightings::Motions>,
}

impl Intel {
    /// Reads every feed of the data file into memory.
    pub fn rebuild(store: Store, tenants: Tenants, clock: Clock, random: Random, settings: Settings) -> Result<Self> {
        let key = SipKey::new(random.bytes());
        let snapshot = store.read()?;
        let mut indexes = store::load(&snapshot, key)?;
        drop(snapshot);
        let global = indexes.remove(&Scope::Global).unwrap_or_else(|| Index::empty(key, Scope::Global));
        let of_tenants = papaya::HashMap::new();
        for (scope, index) in indexes {
            if let Scope::Tenant(tenant) = scope {
                of_tenants.pin().insert(tenant, Arc::new(index));
            }
        }
        let pool = Pool::for_this_machine("intel", WAITING_MAX, BUSY)?;
        let inner = Inner {
            store,
            tenants,
            clock,
            random,
            settings,
            key,
            global: ArcSwap::from_pointee(global),
            of_tenants,
            changing: tokio::sync::Mutex::new(()),
            imports: tokio::sync::Semaphore::new(IMPORTS_MAX),
            to_hunt: Mutex::default(),
            pool,
            recent: sightings::Recent::default(),
            motions: Mutex::new(vec![None; sightings::MOTION_PLACES]),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What is known of an app's package or bundle id.
    pub fn package(&self, tenant: TenantId, name: &str) -> Verdict {
        self.look_up(tenant, Kind::Package, name)
    }

    /// What is known of a domain, or of one above it.
    pub fn domain(&self, tenant: TenantId, name: &str) -> Verdict {
        self.look_up(tenant, Kind::Domain, name)
    }

    /// What is known of an address, or of a network around it.
    pub fn address(&self, tenant: TenantId, address: IpAddr) -> Verdict {
        self.verdict(tenant, &Value::Address(value::bits_of(address), 128))
    }

    /// What is known of a value. One that is none of its kind is unknown.
    pub fn look_up(&self, tenant: TenantId, kind: Kind, value: &str) -> Verdict {
        match Value::asked(kind, value) {
            Ok(value) => self.verdict(tenant, &value),
            Err(_) => Verdict::Unknown,
        }
    }

    /// Whether a match is sure enough to lock a device by.
    pub fn is_critical(&self, found: &Match) -> bool {
        found.confidence >= self.inner.settings.critical
    }

    fn verdict(&self, tenant: TenantId, value: &Value) -> Verdict {
        let now = self.inner.clock.now();
        let (mut matches, mut fresh, mut cut) = (Vec::new(), None, false);
        self.ask(tenant, |index| {
            let mut found = Vec::new();
            index.find(&self.inner.key, value, seconds(now), |hit, listed| found.push((hit, listed)));
            found.sort_by_key(|(hit, _)| std::cmp::Reverse(hit.percent()));
            cut |= found.len() > MATCHES_MAX;
            let surest = found.into_iter().take(MATCHES_MAX);
            matches.extend(surest.filter_map(|(hit, listed)| index.describe(hit, listed.text(value))));
            if let Some(this) = index.is_fresh(value, now) {
                fresh = Some(fresh.unwrap_or(true) && this);
            }
        });
        if !matches.is_empty() {
            matches.sort_by_key(|m| std::cmp::Reverse(m.confidence));
            cut |= matches.len() > MATCHES_MAX;
            matches.truncate(MATCHES_MAX);
            return Verdict::Listed { matches, cut };
        }
        if fresh == Some(true) { Verdict::Clean } else { Verdict::Unknown }
    }

    /// The surest match of a value; nothing is said about silence.
    fn surest(&self, tenant: TenantId, value: &Value) -> Option<Match> {
        let now = self.inner.clock.now();
        let mut surest: Option<Match> = None;
        self.ask(tenant, |index| {
            let found = self.surest_in(index, value, now, |_| true);
            surest = surest.take().into_iter().chain(found).max_by_key(|m| m.confidence);
        });
        surest
    }

    /// The surest match of a value in one index, by feeds of the slots that count.
    fn surest_in(&self, index: &Index, value: &Value, now: Timestamp, counts: impl Fn(u16) -> bool) -> Option<Match> {
        let mut surest: Option<(index::Found, index::Listed<'_>)> = None;
        index.find(&self.inner.key, value, seconds(now), |hit, listed| {
            if counts(hit.slot()) && surest.is_none_or(|(before, _)| before.percent() < hit.percent()) {
                surest = Some((hit, listed));
            }
        });
        surest.and_then(|(hit, listed)| index.describe(hit, listed.text(value)))
    }

    /// Shows the indexes that speak for a tenant: its own and the appliance's.
    fn ask(&self, tenant: TenantId, mut look: impl FnMut(&Index)) {
        if let Some(own) = self.inner.of_tenants.pin().get(&tenant) {
            look(own);
        }
        look(&self.inner.global.load());
    }

    fn index(&self, scope: Scope) -> Arc<Index> {
        match scope {
            Scope::Global => self.inner.global.load_full(),
            Scope::Tenant(tenant) => match self.inner.of_tenants.pin().get(&tenant) {
                Some(index) => Arc::clone(index),
                None => Arc::new(Index::empty(self.inner.key, scope)),
            },
        }
    }

    fn replace(&self, scope: Scope, index: Arc<Index>) {
        match scope {
            Scope::Global => self.inner.global.store(index),
            Scope::Tenant(tenant) => {
                let of_tenants = self.inner.of_tenants.pin();
                if index.feeds().next().is_none() {
                    of_tenants.remove(&tenant);
                } else {
                    of_tenants.insert(tenant, index);
                }
            }
        }
    }

    /// The feeds that a tenant sees, its own first, by name.
    pub fn feeds(&self, tenant: TenantId) -> Vec<(Scope, Arc<Feed>)> {
        [Scope::Tenant(tenant), Scope::Global].into_iter().flat_map(|scope| self.feeds_of(scope)).collect()
    }

    /// The feeds of one scope, by name.
    pub fn feeds_of(&self, scope: Scope) -> Vec<(Scope, Arc<Feed>)> {
        let mut feeds: Vec<_> = self.index(scope).feeds().map(|feed| (scope, Arc::clone(feed))).collect();
        feeds.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
        feeds
    }

    /// One feed of a scope.
    pub fn feed(&self, scope: Scope, name: &FeedName) -> Option<Arc<Feed>> {
        self.index(scope).feeds().find(|feed| feed.name == *name).cloned()
    }

    /// Indicators that the feeds of a tenant, and those of all, say they hold, without the one of this name.
    fn held(&self, scope: Scope, without: &FeedName) -> (u64, u64) {
        let of = |index: &Index, all: bool| -> u64 {
            index.feeds().filter(|feed| all || feed.name != *without).map(|feed| feed.counts.total()).sum()
        };
        let own = of(&self.index(scope), false);
        let pinned = self.inner.of_tenants.pin();
        let others = pinned.iter().filter(|(tenant, _)| Scope::Tenant(**tenant) != scope);
        let of_others: u64 = others.map(|(_, index)| of(index, true)).sum();
        let of_all = if scope == Scope::Global { 0 } else { of(&self.inner.global.load(), true) };
        (own, own.saturating_add(of_others).saturating_add(of_all))
    }

    /// Indicators in memory, and the bytes that they take.
    pub fn size(&self) -> (usize, usize) {
        let global = self.inner.global.load();
        let pinned = self.inner.of_tenants.pin();
        let all = || pinned.values().map(|index| &**index).chain([&**global]);
        (all().map(Index::len).sum(), all().map(Index::memory_bytes).sum())
    }

    /// Lets go of what is in memory of tenants that are gone; run from time to time.
    pub fn sweep(&self) {
        let tenants = &self.inner.tenants;
        self.inner.of_tenants.pin().retain(|tenant, _| tenants.entry(*tenant).is_some());
    }

    /// The present moment, by which a feed's age is shown.
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }
}

fn seconds(at: Timestamp) -> u32 {
    u32::try_from(at.as_secs()).unwrap_or(0)
}
