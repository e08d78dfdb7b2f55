//! Who may send another anonymous request: a window for each token and one for each network, and both must agree.
//!
//! A network is an IPv4 address or an IPv6 /64. Tokens are bounded by pushing out the least recently used. Networks are
//! not: a live network window is never evicted, because a caller that could push out its own would be free. When no
//! place is idle, a new network is counted in the window of its IPv4 /16 or IPv6 /40, and when those are full, too, in
//! the one of its family; such a network may get a window of its own, at rest, as soon as a place is free. Tokens and
//! networks have tables of their own, so that no churn of tokens reaches a network.
//!
//! Memory at the default bounds and a limit of 100: about 0.3 KB for an ordinary key and 0.8 KB for one that is at its
//! limit, 130 MB if every place of every table were at its limit. Exact times grow with the limit: at 1,000, the last one
//! for which they are kept, the worst case is 0.7 GB; above it, 50 MB.
//!
//! Locks are taken in one order: network, group, family, token. Knows nothing of HTTP, tokens' text or files; time is
//! passed in.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::log::{Rule, Saved};
use super::table::{Places, Secured, Table, WindowKey};
use crate::kernel::Timestamp;
use crate::kernel::rate::{Decision, Quota};

/// How many windows there may be.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Of tokens.
    pub tokens: usize,
    /// Of networks.
    pub networks: usize,
    /// Of groups of networks.
    pub groups: usize,
    /// Parts with a lock of their own. Each holds its share of the tokens: with one part the least recently used token
    /// of all is pushed out, with more the least recently used one of its part.
    pub shards: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { tokens: 100_000, networks: 50_000, groups: 10_000, shards: 16 }
    }
}

/// What is in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WindowFigures {
    /// Windows of tokens.
    pub tokens: usize,
    /// Windows of networks.
    pub networks: usize,
    /// Windows of groups of networks.
    pub groups: usize,
    /// Live token windows that were pushed out since the start.
    pub token_evictions: u64,
}

/// At least one part of a table, each behind its lock.
struct Shards {
    first: Mutex<Table>,
    others: Vec<Mutex<Table>>,
}

impl Shards {
    fn new(shards: usize, table: impl Fn() -> Table) -> Self {
        let others = (1..shards).map(|_| Mutex::new(table())).collect();
        Self { first: Mutex::new(table()), others }
    }

    fn of(&self, hash: u64) -> &Mutex<Table> {
        let shard = usize::try_from(hash % (self.others.len() as u64 + 1)).unwrap_or(0);
        self.others.get(shard).unwrap_or(&self.first)
    }

    fn all(&self) -> impl Iterator<Item = &Mutex<Table>> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

/// The windows of anonymous callers. Exact under concurrency: N allowed means N, for the token and for the network.
pub struct Windows {
    networks: Shards,
    groups: Mutex<Table>,
    families: Mutex<Table>,
    tokens: Shards,
    token_places: Vec<Places>,
    network_places: Places,
    group_places: Places,
    token_evictions: AtomicU64,
    /// Keyed, so that nobody can choose networks that share a part.
    hasher: RandomState,
}

impl Windows {
    /// Empty windows under one quota. A limit above 1,000 is kept by a counter instead of exact times; after a burst its
    /// estimate is off by at most the count of the window before.
    pub fn new(quota: Quota, bounds: Bounds) -> Self {
        let rule = Rule::new(quota);
        let shards = bounds.shards.max(1);
        let token_places: Vec<_> = (0..shards).map(|_| Places::new((bounds.tokens / shards).max(1))).collect();
        let (network_places, group_places) = (Places::new(bounds.networks), Places::new(bounds.groups));
        let mut own_places = token_places.iter();
        let mut token_table = || own_places.next().map(|p| Mutex::new(Table::new(rule, p.clone())));
        let first = token_table().unwrap_or_else(|| Mutex::new(Table::new(rule, Places::new(bounds.tokens))));
        Self {
            networks: Shards::new(shards, || Table::new(rule, network_places.clone())),
            groups: Mutex::new(Table::new(rule, group_places.clone())),
            families: Mutex::new(Table::new(rule, Places::new(2))),
            tokens: Shards { first, others: std::iter::from_fn(token_table).collect() },
            token_places,
            network_places,
            group_places,
            token_evictions: AtomicU64::new(0),
            hasher: RandomState::new(),
        }
    }

    /// Admits and counts one request if both the token and the network have room; otherwise counts nothing.
    ///
    /// `network` is the caller's IPv4 address, or the first address of its IPv6 /64. The decision is the tighter of the
    /// two: the smaller remainder, or, when refused, the longer wait.
    pub fn admit(&self, token: [u8; 16], network: IpAddr, now: Timestamp) -> Decision {
        let (token, now_ms) = (WindowKey::Token(token), now.as_millis());
        self.at_network(network, now_ms, |networks, network| {
            let mut tokens = lock(self.shard(token));
            let by_token = tokens.look(token, now_ms);
            let by_network = networks.look(network, now_ms);
            if !(by_token.admitted && by_network.admitted) {
                return tighter(by_token, by_network);
            }
            if tokens.secure_by_eviction(token, now_ms) {
                self.token_evictions.fetch_add(1, Ordering::Relaxed);
            }
            tighter(tokens.count(token, now_ms), networks.count(network, now_ms))
        })
    }

    /// What the network's window says by itself, without counting: to be asked before anything dear is done.
    pub fn look_at_network(&self, network: IpAddr, now: Timestamp) -> Decision {
        let now_ms = now.as_millis();
        self.at_network(network, now_ms, |networks, network| networks.look(network, now_ms))
    }

    /// Calls `decide` with the locked table in which `network` is counted, and with its key there.
    fn at_network(
        &self,
        network: IpAddr,
        now_ms: i64,
        decide: impl FnOnce(&mut Table, WindowKey) -> Decision,
    ) -> Decision {
        let at = |table: &mut Table, key: WindowKey, secured: Secured| {
            let decision = decide(table, key);
            if secured == Secured::New {
                table.release_if_empty(key, now_ms);
            }
            decision
        };
        let key = WindowKey::Network(network);
        let mut networks = lock(self.shard(key));
        let secured = networks.secure(key, now_ms);
        if secured != Secured::Full {
            return at(&mut networks, key, secured);
        }
        let (group, family) = match network {
            IpAddr::V4(v4) => {
                let [a, b, ..] = v4.octets();
                (WindowKey::Group4([a, b]), WindowKey::Family4)
            }
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, ..] = v6.octets();
                (WindowKey::Group6([a, b, c, d, e]), WindowKey::Family6)
            }
        };
        let mut groups = lock(&self.groups);
        let secured = groups.secure(group, now_ms);
        if secured != Secured::Full {
            return at(&mut groups, group, secured);
        }
        let mut families = lock(&self.families);
        let secured = families.secure(family, now_ms);
        at(&mut families, family, secured)
    }

    fn shard(&self, key: WindowKey) -> &Mutex<Table> {
        match key {
            // The ends of our ids are random: the same part also after a restart.
            WindowKey::Token([.., last]) => self.tokens.of(last.into()),
            WindowKey::Network(_) => self.networks.of(self.hasher.hash_one(key)),
            WindowKey::Group4(_) | WindowKey::Group6(_) => &self.groups,
            WindowKey::Family4 | WindowKey::Family6 => &self.families,
        }
    }

    fn tables(&self) -> impl Iterator<Item = &Mutex<Table>> {
        self.networks.all().chain([&self.groups, &self.families]).chain(self.tokens.all())
    }

    /// Forgets windows that have nothing left to remember.
    pub fn sweep(&self, now: Timestamp) {
        self.tables().for_each(|table| lock(table).sweep(now.as_millis()));
    }

    /// What is in memory.
    pub fn figures(&self) -> WindowFigures {
        WindowFigures {
            tokens: self.token_places.iter().map(Places::taken).sum(),
            networks: self.network_places.taken(),
            groups: self.group_places.taken(),
            token_evictions: self.token_evictions.load(Ordering::Relaxed),
        }
    }

    /// Up to `max` differences between memory and file, those of networks first; `None` removes a row.
    pub(super) fn take_changes(&self, max: usize) -> Vec<(WindowKey, Option<Saved>)> {
        let mut changes = Vec::new();
        self.tables().for_each(|table| lock(table).take_changes(max, &mut changes));
        changes
    }

    /// Changes that were taken did not reach the file after all.
    pub(super) fn put_back(&self, keys: impl Iterator<Item = WindowKey>) {
        keys.for_each(|key| lock(self.shard(key)).put_back(key));
    }

    /// Takes up the rows of a file.
    pub(super) fn restore(&self, mut rows: Vec<(WindowKey, Saved)>, now: Timestamp) {
        rows.sort_by_key(|(_, saved)| saved.newest_ms());
        for (key, saved) in &rows {
            let may_evict = matches!(key, WindowKey::Token(_));
            lock(self.shard(*key)).restore(*key, saved, now.as_millis(), may_evict);
        }
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The decision that a caller should hear of two about one request.
fn tighter(a: Decision, b: Decision) -> Decision {
    match (a.admitted, b.admitted) {
        (true, false) => b,
        (false, true) => a,
        (false, false) if b.reset_s > a.reset_s => b,
        (false, false) => a,
        (true, true) if (b.remaining, a.reset_s) < (a.remaining, b.reset_s) => b,
        (true, true) => a,
    }
}
