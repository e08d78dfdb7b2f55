//! What is asked of millions of indicators, from memory: 96 bits of a keyed hash for each, sorted, found by one look into
//! a table of places; networks sorted beside them.
//!
//! The key is drawn when the process starts and never leaves it: nobody can look for two values of one hash beforehand,
//! and that two of five million meet by chance with one of the values that are asked about is less likely than one in
//! 10^21 for each question. The values themselves are in the data file, from which the index is built anew.

use std::sync::Arc;

use super::feed::Packed;
use super::model::{Confidence, Feed, Kind, Match, Scope};
use super::value::{V4_IN_V6, Value, mask, text_of_network};
use crate::crypto::siphash::SipKey;
use crate::kernel::Timestamp;

/// Entries that share a place in the table, about.
const PER_PLACE: usize = 2;
/// Bits of a place that say which sixths of the hashes have an entry there: most values that are not listed are known by
/// them, without a look at the entries, which lie far away.
const HINT_BITS: u32 = 6;
/// As far as a place can count.
const ENTRIES_MAX: usize = 1 << (32 - HINT_BITS);
/// Indicators of one scope that are looked at for one question, so that no feed makes questions dear. An honest value has a
/// few: only hundreds of feeds that all list it in many ways come near.
const LOOKED_AT_MAX: usize = 1_024;
/// Feeds of one scope.
pub(super) const FEEDS_MAX: usize = 256;
const NO_PARENT: u32 = u32::MAX;
/// The end of what does not end: later than every other.
const NEVER: u32 = u32::MAX;

/// What is kept of an indicator: 20 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Entry {
    /// The upper 96 bits of the hash; the first word decides the place.
    print: [u32; 3],
    source: Source,
    /// Seconds since 1970; [`NEVER`]: none.
    expires_s: u32,
}

/// Which feed, how sure, of what.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Source {
    slot: u16,
    confidence: u8,
    kind: u8,
}

/// A network; single addresses are entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct NetworkEntry {
    bits: u128,
    prefix: u8,
    source: Source,
    expires_s: u32,
    /// The next network around it.
    parent: u32,
}

/// What a feed must know so that its silence about a value means something: a list of MD5 hashes says nothing of a SHA-256
/// hash, one of IPv4 addresses nothing of IPv6.
const CLASSES: usize = 11;

/// The class of a value of this many bytes; of an address by its bits.
fn class_of(kind: Kind, value: &[u8]) -> usize {
    match kind {
        Kind::FileHash => match value.len() {
            16 => 0,
            20 => 1,
            32 => 2,
            _ => 3,
        },
        Kind::Certificate => match value.len() {
            16 => 4,
            20 => 5,
            _ => 6,
        },
        Kind::Package => 7,
        Kind::Domain => 8,
        Kind::Address if value.starts_with(V4_IN_V6) => 9,
        Kind::Address => 10,
    }
}

/// A feed, and when the last of its indicators of each class ends; 0 where it has none.
#[derive(Clone)]
struct Slot {
    feed: Arc<Feed>,
    ends_s: [u32; CLASSES],
}

/// The indicators of one scope, of all its feeds. Never changes: an import makes another one.
pub(super) struct Index {
    entries: Box<[Entry]>,
    /// Where the entries begin whose first word has these upper bits, and their hint.
    places: Box<[u32]>,
    /// How far the first word is shifted to give its place.
    shift: u32,
    networks: Box<[NetworkEntry]>,
    feeds: Box<[Option<Slot>]>,
    /// For each class until when every feed that knows it is fresh; `None` where none does.
    fresh_until: [Option<Timestamp>; CLASSES],
    /// Numbers of labels that listed domains may have, a bit each; 63 stands for more.
    depths: u64,
    scope: Scope,
}

/// The parts of an index that is being made.
pub(super) struct Builder {
    key: SipKey,
    entries: Vec<Entry>,
    networks: Vec<NetworkEntry>,
    feeds: Vec<Option<Slot>>,
    depths: u64,
    scope: Scope,
}

/// The hint of an entry: one of six bits.
const fn hint_of(print: [u32; 3]) -> u32 {
    let [_, second, _] = print;
    1 << (second % HINT_BITS)
}

const fn depth_bit(labels: usize) -> u64 {
    1 << if labels > 63 { 63 } else { labels }
}

fn print_of(key: &SipKey, kind: Kind, value: &[u8]) -> [u32; 3] {
    let hash = key.hash(kind.code(), value);
    [(hash >> 96) as u32, (hash >> 64) as u32, (hash >> 32) as u32]
}

impl Builder {
    /// Nothing yet.
    pub fn new(key: SipKey, scope: Scope) -> Self {
        Self { key, entries: Vec::new(), networks: Vec::new(), feeds: Vec::new(), depths: 0, scope }
    }

    /// Everything of `index` but the feed of this name.
    pub fn without(index: &Index, key: SipKey, name: &str) -> Self {
        let gone = index.feeds.iter().position(|s| s.as_ref().is_some_and(|s| s.feed.name.as_str() == name));
        let stays = |source: &Source| Some(usize::from(source.slot)) != gone;
        let mut feeds = index.feeds.to_vec();
        if let Some(slot) = gone.and_then(|slot| feeds.get_mut(slot)) {
            *slot = None;
        }
        Self {
            key,
            entries: index.entries.iter().filter(|e| stays(&e.source)).copied().collect(),
            networks: index.networks.iter().filter(|n| stays(&n.source)).copied().collect(),
            feeds,
            // Perhaps more than are left: harmless.
            depths: index.depths,
            scope: index.scope,
        }
    }

    /// A place for a feed's indicators; `None` when the scope has as many feeds as it may.
    pub fn slot(&mut self, feed: Arc<Feed>) -> Option<u16> {
        let slot = match self.feeds.iter().position(Option::is_none) {
            Some(free) => free,
            None if self.feeds.len() < FEEDS_MAX => {
                self.feeds.push(None);
                self.feeds.len() - 1
            }
            None => return None,
        };
        if let Some(place) = self.feeds.get_mut(slot) {
            *place = Some(Slot { feed, ends_s: [0; CLASSES] });
        }
        u16::try_from(slot).ok()
    }

    /// Takes in the indicators of the feed in this slot.
    pub fn extend<'p>(&mut self, slot: u16, packed: impl Iterator<Item = Packed<'p>>) {
        let mut latest_s = [0; CLASSES];
        for one in packed {
            let expires_s = if one.expires_s == 0 { NEVER } else { one.expires_s };
            if let Some(latest_s) = latest_s.get_mut(class_of(one.kind, one.value)) {
                *latest_s = expires_s.max(*latest_s);
            }
            let source = Source { slot, confidence: one.confidence.percent(), kind: one.kind.code() };
            match (one.kind, one.value.split_first_chunk::<16>()) {
                (Kind::Address, Some((bits, [prefix]))) if *prefix < 128 => {
                    let bits = u128::from_be_bytes(*bits) & mask(*prefix);
                    let prefix = *prefix;
                    self.networks.push(NetworkEntry { bits, prefix, source, expires_s, parent: NO_PARENT });
                }
                (Kind::Address, Some((bits, _))) => self.push(Kind::Address, bits, source, expires_s),
                (kind, _) => {
                    if kind == Kind::Domain {
                        self.depths |= depth_bit(1 + one.value.iter().filter(|b| **b == b'.').count());
                    }
                    self.push(kind, one.value, source, expires_s);
                }
            }
        }
        if let Some(Some(slot)) = self.feeds.get_mut(usize::from(slot)) {
            for (ends_s, latest_s) in slot.ends_s.iter_mut().zip(latest_s) {
                *ends_s = latest_s.max(*ends_s);
            }
        }
    }

    fn push(&mut self, kind: Kind, value: &[u8], source: Source, expires_s: u32) {
        self.entries.push(Entry { print: print_of(&self.key, kind, value), source, expires_s });
    }

    /// Sorts, and is done.
    pub fn build(mut self) -> Index {
        self.entries.sort_unstable();
        thin(&mut self.entries, |entry| (entry.print, entry.source, entry.expires_s));
        // The configuration allows fewer by far.
        self.entries.truncate(ENTRIES_MAX - 1);
        self.entries.shrink_to_fit();
        let bits = (self.entries.len() / PER_PLACE).max(1).ilog2().clamp(1, 30);
        let shift = 32 - bits;
        let mut places = vec![0_u32; (1 << bits) + 1];
        for entry in &self.entries {
            let [first, ..] = entry.print;
            if let Some(place) = places.get_mut((first >> shift) as usize + 1) {
                *place += 1;
            }
        }
        let mut sum = 0;
        for place in &mut places {
            sum += *place;
            *place = sum << HINT_BITS;
        }
        for entry in &self.entries {
            let [first, ..] = entry.print;
            if let Some(place) = places.get_mut((first >> shift) as usize) {
                *place |= hint_of(entry.print);
            }
        }
        let fresh_until = std::array::from_fn(|class| {
            let ends = self.feeds.iter().flatten().filter_map(|slot| match slot.ends_s.get(class) {
                None | Some(0) => None,
                Some(&NEVER) => Some(slot.feed.stale_at()),
                Some(ends_s) => Some(slot.feed.stale_at().min(moment(*ends_s))),
            });
            ends.min()
        });
        Index {
            fresh_until,
            depths: self.depths,
            entries: self.entries.into(),
            places: places.into(),
            shift,
            networks: nested(self.networks).into(),
            feeds: self.feeds.into(),
            scope: self.scope,
        }
    }
}

/// Leaves of what a feed says of one value, again and again, the surest, and the one that lasts longest. Sorted already.
fn thin<T: Copy, V: PartialEq>(all: &mut Vec<T>, of: impl Fn(&T) -> (V, Source, u32)) {
    let mut kept: usize = 0;
    let mut at = 0;
    while let Some(first) = all.get(at).copied() {
        let (value, source, expires_s) = of(&first);
        // The last one is the surest.
        let (mut surest, mut longest, mut longest_s) = (first, first, expires_s);
        at += 1;
        while let Some(next) = all.get(at).copied() {
            let (of_value, of_source, expires_s) = of(&next);
            if of_value != value || of_source.slot != source.slot {
                break;
            }
            surest = next;
            if expires_s >= longest_s {
                (longest, longest_s) = (next, expires_s);
            }
            at += 1;
        }
        let both = of(&surest).2 < longest_s;
        for keep in [Some(surest), both.then_some(longest)].into_iter().flatten() {
            if let Some(place) = all.get_mut(kept) {
                *place = keep;
                kept += 1;
            }
        }
    }
    all.truncate(kept);
}

/// Sorted by beginning, wider ones first, each with the one around it.
fn nested(mut networks: Vec<NetworkEntry>) -> Vec<NetworkEntry> {
    networks.sort_unstable_by_key(|n| (n.bits, n.prefix, n.source, n.expires_s));
    thin(&mut networks, |n| ((n.bits, n.prefix), n.source, n.expires_s));
    let mut around: Vec<u32> = Vec::new();
    for i in 0..networks.len() {
        let Some(bits) = networks.get(i).map(|n| n.bits) else { break };
        let holds = |at: &u32| networks.get(*at as usize).is_some_and(|n| bits & mask(n.prefix) == n.bits);
        while around.last().is_some_and(|at| !holds(at)) {
            around.pop();
        }
        let parent = around.last().copied().unwrap_or(NO_PARENT);
        if let Some(network) = networks.get_mut(i) {
            network.parent = parent;
        }
        around.push(u32::try_from(i).unwrap_or(NO_PARENT));
    }
    networks
}

/// Where a match was found.
#[derive(Clone, Copy)]
pub(super) struct Found {
    source: Source,
    expires_s: u32,
}

impl Found {
    /// How sure, in percent.
    pub const fn percent(self) -> u8 {
        self.source.confidence
    }

    /// By the feed in which slot.
    pub const fn slot(self) -> u16 {
        self.source.slot
    }
}

fn moment(s: u32) -> Timestamp {
    Timestamp::from_millis(i64::from(s) * 1_000)
}

impl Index {
    /// An index of nothing.
    pub fn empty(key: SipKey, scope: Scope) -> Self {
        Builder::new(key, scope).build()
    }

    /// Its feeds.
    pub fn feeds(&self) -> impl Iterator<Item = &Arc<Feed>> {
        self.feeds.iter().flatten().map(|slot| &slot.feed)
    }

    /// Where a feed's indicators are known by.
    pub fn slot_of(&self, name: &str) -> Option<u16> {
        let at = self.feeds.iter().position(|s| s.as_ref().is_some_and(|s| s.feed.name.as_str() == name));
        at.and_then(|at| u16::try_from(at).ok())
    }

    /// How many indicators it holds.
    pub fn len(&self) -> usize {
        self.entries.len() + self.networks.len()
    }

    /// What it takes of memory.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.entries) + size_of_val(&*self.places) + size_of_val(&*self.networks)
    }

    /// Everything that speaks against a value at `now_s`, with what is listed: itself, a domain above, a network around. It
    /// looks at no more than [`LOOKED_AT_MAX`] indicators.
    pub fn find<'v>(&self, key: &SipKey, value: &'v Value, now_s: u32, mut hit: impl FnMut(Found, Listed<'v>)) {
        if self.fresh_until.get(class(value)).copied().flatten().is_none() {
            // No feed knows this class: nothing has to be hashed.
            return;
        }
        let mut left = LOOKED_AT_MAX;
        match value {
            Value::Domain(name) => {
                // From the right, so that the widest is found first; one label alone is never an indicator.
                let mut from = name.len();
                let mut labels = 0;
                while let Some(rest) = name.get(..from) {
                    let dot = rest.rfind('.');
                    labels += 1;
                    let suffix = name.get(dot.map_or(0, |d| d + 1)..).unwrap_or_default();
                    if labels > 1 && self.depths & depth_bit(labels) != 0 {
                        self.exact(key, Kind::Domain, suffix.as_bytes(), now_s, &mut left, |f| {
                            hit(f, Listed::Text(suffix))
                        });
                    }
                    let Some(dot) = dot else { break };
                    from = dot;
                }
            }
            Value::Address(bits, _) => {
                let listed = Listed::Network(*bits, 128);
                self.exact(key, Kind::Address, &bits.to_be_bytes(), now_s, &mut left, |f| hit(f, listed));
                self.around(*bits, now_s, left, |network| {
                    let found = Found { source: network.source, expires_s: network.expires_s };
                    hit(found, Listed::Network(network.bits, network.prefix));
                });
            }
            Value::Package(text) => {
                self.exact(key, Kind::Package, text.as_bytes(), now_s, &mut left, |f| hit(f, Listed::Itself))
            }
            Value::FileHash(hash) => {
                self.exact(key, Kind::FileHash, hash, now_s, &mut left, |f| hit(f, Listed::Itself))
            }
            Value::Certificate(hash) => {
                self.exact(key, Kind::Certificate, hash, now_s, &mut left, |f| hit(f, Listed::Itself))
            }
        }
    }

    fn exact(&self, key: &SipKey, kind: Kind, value: &[u8], now_s: u32, left: &mut usize, mut hit: impl FnMut(Found)) {
        let print = print_of(key, kind, value);
        let [first, ..] = print;
        let place = (first >> self.shift) as usize;
        let Some([from, to]) = self.places.get(place..place + 2).and_then(|p| p.first_chunk::<2>()) else { return };
        if from & hint_of(print) == 0 {
            return;
        }
        let (from, to) = ((from >> HINT_BITS) as usize, (to >> HINT_BITS) as usize);
        let among = self.entries.get(from..to).unwrap_or_default();
        for entry in among.iter().filter(|e| e.print == print).take(*left) {
            *left -= 1;
            if lives(entry.expires_s, now_s) {
                hit(Found { source: entry.source, expires_s: entry.expires_s });
            }
        }
    }

    /// The networks around an address, the narrowest first.
    fn around(&self, bits: u128, now_s: u32, mut left: usize, mut hit: impl FnMut(&NetworkEntry)) {
        let behind = self.networks.partition_point(|n| n.bits <= bits);
        let mut at = behind.checked_sub(1);
        while let Some(network) = at.and_then(|i| self.networks.get(i)).filter(|_| left > 0) {
            left -= 1;
            if bits & mask(network.prefix) == network.bits && lives(network.expires_s, now_s) {
                hit(network);
            }
            at = (network.parent != NO_PARENT).then_some(network.parent as usize);
        }
    }

    /// A match as the rest of the house sees it.
    pub fn describe(&self, found: Found, listed: String) -> Option<Match> {
        let feed = Arc::clone(&self.feeds.get(usize::from(found.source.slot))?.as_ref()?.feed);
        Some(Match {
            scope: self.scope,
            feed,
            kind: Kind::of_code(found.source.kind)?,
            listed,
            confidence: Confidence::new(found.source.confidence),
            expires_at: (found.expires_s != NEVER).then(|| moment(found.expires_s)),
        })
    }

    /// Whether every feed that knows values of this class is fresh, and each has one that still counts; `None` when none
    /// knows them.
    pub fn is_fresh(&self, value: &Value, now: Timestamp) -> Option<bool> {
        let until = self.fresh_until.get(class(value)).copied().flatten()?;
        Some(now < until)
    }
}

/// The class of a value that is asked about.
fn class(value: &Value) -> usize {
    match value {
        Value::FileHash(bytes) | Value::Certificate(bytes) => class_of(value.kind(), bytes),
        Value::Package(_) | Value::Domain(_) => class_of(value.kind(), &[]),
        Value::Address(bits, _) => class_of(Kind::Address, &bits.to_be_bytes()),
    }
}

/// What of the value that is asked about is listed.
#[derive(Clone, Copy)]
pub(super) enum Listed<'v> {
    /// All of it.
    Itself,
    /// This part.
    Text(&'v str),
    /// This network.
    Network(u128, u8),
}

impl Listed<'_> {
    /// As people write it.
    pub fn text(self, value: &Value) -> String {
        match self {
            Self::Itself => value.text(),
            Self::Text(part) => part.to_owned(),
            Self::Network(bits, prefix) => text_of_network(bits, prefix),
        }
    }
}

const fn lives(expires_s: u32, now_s: u32) -> bool {
    now_s < expires_s
}

#[cfg(test)]
mod tests;
