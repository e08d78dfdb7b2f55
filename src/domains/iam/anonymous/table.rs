//! One bounded table of logs, in the order in which its keys last had a request admitted, with a note of what changed
//! since it was last written down.
//!
//! A request costs a few lookups. The order is only kept up where somebody asks for its beginning: each admitted request
//! leaves at most one place in it to be mended then. Knows no lock and no file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::log::{Log, Rule, Saved};
use crate::kernel::rate::Decision;

/// Whose requests a log counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum WindowKey {
    /// An anonymous identity.
    Token([u8; 16]),
    /// An IPv4 address, or an IPv6 /64 by its first address.
    Network(IpAddr),
    /// An IPv4 /16.
    Group4([u8; 2]),
    /// An IPv6 /40.
    Group6([u8; 5]),
    /// All of IPv4.
    Family4,
    /// All of IPv6.
    Family6,
}

/// How many keys there may be, counted over all tables that share it.
#[derive(Clone, Debug)]
pub(super) struct Places {
    max: usize,
    taken: Arc<AtomicUsize>,
}

impl Places {
    pub fn new(max: usize) -> Self {
        Self { max, taken: Arc::default() }
    }

    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn take(&self) -> bool {
        let next = |n: usize| (n < self.max).then_some(n + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a key has a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Secured {
    /// It had one.
    Known,
    /// It has one now.
    New,
    /// Every place is taken by a live one.
    Full,
}

struct Entry {
    log: Log,
    /// When its last request was admitted.
    turn: u64,
    /// Its place in `order`: `turn`, or an earlier one.
    listed: u64,
    /// Its place in `changed`; `None` when the file says the same.
    changed: Option<u64>,
    /// Whether the file has, or will have, a row of it.
    stored: bool,
}

pub(super) struct Table {
    rule: Rule,
    places: Places,
    entries: HashMap<WindowKey, Entry>,
    /// Longest without an admitted request first, as far as it is mended; see [`Table::oldest`].
    order: BTreeMap<u64, WindowKey>,
    /// Changed longest ago first.
    changed: BTreeMap<u64, WindowKey>,
    /// Rows of the file whose logs are gone.
    gone: BTreeSet<WindowKey>,
    turns: u64,
    newest_ms: i64,
}

impl Table {
    pub fn new(rule: Rule, places: Places) -> Self {
        Self {
            rule,
            places,
            entries: HashMap::new(),
            order: BTreeMap::new(),
            changed: BTreeMap::new(),
            gone: BTreeSet::new(),
            turns: 0,
            newest_ms: i64::MIN,
        }
    }

    /// What [`Table::count`] would say; a key without a log is at rest.
    pub fn look(&mut self, key: WindowKey, now_ms: i64) -> Decision {
        let rule = self.rule;
        match self.entries.get_mut(&key) {
            Some(entry) => entry.log.look(&rule, now_ms),
            None => Log::new(&rule).look(&rule, now_ms),
        }
    }

    /// Gives `key` a log, if need be in the place of an idle one.
    pub fn secure(&mut self, key: WindowKey, now_ms: i64) -> Secured {
        if self.entries.contains_key(&key) {
            return Secured::Known;
        }
        if self.places.take() || (self.drop_oldest_if_idle(now_ms) && self.places.take()) {
            self.insert(key, Log::new(&self.rule));
            return Secured::New;
        }
        Secured::Full
    }

    /// Gives `key` a log, if need be in the place of the one that was used least recently; says whether a live one had
    /// to go for it.
    pub fn secure_by_eviction(&mut self, key: WindowKey, now_ms: i64) -> bool {
        if self.secure(key, now_ms) != Secured::Full {
            return false;
        }
        let oldest = self.oldest();
        if let Some(oldest) = oldest {
            self.remove(oldest);
        }
        self.secure(key, now_ms);
        oldest.is_some()
    }

    /// Counts one request of a key that was secured; it becomes the most recently used one.
    pub fn count(&mut self, key: WindowKey, now_ms: i64) -> Decision {
        let rule = self.rule;
        let Some(entry) = self.entries.get_mut(&key) else { return Log::new(&rule).count(&rule, now_ms) };
        let decision = entry.log.count(&rule, now_ms);
        if decision.admitted {
            self.turns += 1;
            self.newest_ms = self.newest_ms.max(now_ms);
            entry.turn = self.turns;
            if entry.changed.is_none() {
                entry.changed = Some(self.turns);
                self.changed.insert(self.turns, key);
            }
        }
        decision
    }

    /// Takes back a place that [`Table::secure`] gave and that nothing was counted in.
    pub fn release_if_empty(&mut self, key: WindowKey, now_ms: i64) {
        let rule = self.rule;
        if self.entries.get_mut(&key).is_some_and(|e| e.log.is_idle(&rule, now_ms)) {
            self.remove(key);
        }
    }

    /// Forgets what is idle.
    pub fn sweep(&mut self, now_ms: i64) {
        if now_ms < self.newest_ms {
            // The clock was set back: logs that nobody asks must not wait for it to come here again.
            for entry in self.entries.values_mut() {
                entry.log.look(&self.rule, now_ms);
            }
            self.newest_ms = now_ms;
        }
        while self.drop_oldest_if_idle(now_ms) {}
    }

    /// The key that is longest without an admitted request: the first to become idle. Nobody stands behind their turn in
    /// the order, so the first one that stands at its turn is it.
    fn oldest(&mut self) -> Option<WindowKey> {
        loop {
            let (&place, &key) = self.order.first_key_value()?;
            let entry = self.entries.get_mut(&key)?;
            if entry.turn == place {
                return Some(key);
            }
            self.order.remove(&place);
            entry.listed = entry.turn;
            self.order.insert(entry.turn, key);
        }
    }

    fn drop_oldest_if_idle(&mut self, now_ms: i64) -> bool {
        let Some(key) = self.oldest() else { return false };
        let rule = self.rule;
        let idle = self.entries.get_mut(&key).is_none_or(|e| e.log.is_idle(&rule, now_ms));
        if idle {
            self.remove(key);
        }
        idle
    }

    fn insert(&mut self, key: WindowKey, log: Log) {
        self.turns += 1;
        let stored = self.gone.remove(&key);
        // A row that stands in the file for an earlier log of this key must not outlive this one unnoticed.
        let changed = stored.then_some(self.turns);
        if stored {
            self.changed.insert(self.turns, key);
        }
        self.order.insert(self.turns, key);
        self.entries.insert(key, Entry { log, turn: self.turns, listed: self.turns, changed, stored });
    }

    fn remove(&mut self, key: WindowKey) {
        let Some(entry) = self.entries.remove(&key) else { return };
        self.places.give_back();
        self.order.remove(&entry.listed);
        if let Some(turn) = entry.changed {
            self.changed.remove(&turn);
        }
        if entry.stored {
            self.gone.insert(key);
        }
    }

    /// Takes up to `max` differences from the file: first the rows to remove, so that rows never pile up, then the logs
    /// that changed longest ago.
    pub fn take_changes(&mut self, max: usize, out: &mut Vec<(WindowKey, Option<Saved>)>) {
        while out.len() < max
            && let Some(key) = self.gone.pop_first()
        {
            out.push((key, None));
        }
        while out.len() < max
            && let Some((_, key)) = self.changed.pop_first()
        {
            if let Some(entry) = self.entries.get_mut(&key) {
                let saved = Some(entry.log.save(&self.rule)).filter(|s| !s.is_empty());
                entry.changed = None;
                entry.stored = saved.is_some();
                out.push((key, saved));
            }
        }
    }

    /// A change that was taken did not reach the file after all.
    pub fn put_back(&mut self, key: WindowKey) {
        let Some(entry) = self.entries.get_mut(&key) else {
            self.gone.insert(key);
            return;
        };
        entry.stored = true;
        if entry.changed.is_none() {
            self.turns += 1;
            entry.changed = Some(self.turns);
            self.changed.insert(self.turns, key);
        }
    }

    /// Takes up a row of the file. Rows come with the oldest first; one that is idle, or for which there is no place,
    /// leaves the file with the next changes.
    pub fn restore(&mut self, key: WindowKey, saved: &Saved, now_ms: i64, may_evict: bool) {
        let mut log = Log::restore(saved, &self.rule);
        let idle = log.is_idle(&self.rule, now_ms);
        if !idle && may_evict {
            self.secure_by_eviction(key, now_ms);
        } else if !idle {
            self.secure(key, now_ms);
        }
        match self.entries.get_mut(&key) {
            Some(entry) => {
                entry.log = log;
                entry.stored = true;
                self.newest_ms = self.newest_ms.max(saved.newest_ms());
            }
            None => {
                self.gone.insert(key);
            }
        }
    }
}
