//! What is asked of millions of indicators, from memory: 96 bits of a keyed hash for each, sorted, found by one look into
//! a table of places; networks sorted beside them.
//!
//! The key is drawn when the process starts and never leaves it: nobody can look for two values of one hash beforehand,
//! and that two of five million meet by chance with one of the values that are asked about is less likely than one in
//! 10^21 for each question. The values themselves are in the data file, from which the index is built anew.

use std::sync::Arc;

use super::feed::Packed;
use super::model::{Confidence, Feed, Kind, Match, Scope};
use super::value::{Value, mask, text_of_network};
use crate::crypto::siphash::SipKey;
use crate::kernel::Timestamp;

/// Entries that share a place in the table, about.
const PER_PLACE: usize = 2;
/// Bits of a place that say which sixths of the hashes have an entry there: most values that are not listed are known by
/// them, without a look at the entries, which lie far away.
const HINT_BITS: u32 = 6;
/// As far as a place can count.
const ENTRIES_MAX: usize = 1 << (32 - HINT_BITS);
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

/// The indicators of one scope, of all its feeds. Never changes: an import makes another one.
pub(super) struct Index {
    entries: Box<[Entry]>,
    /// Where the entries begin whose first word has these upper bits, and their hint.
    places: Box<[u32]>,
    /// How far the first word is shifted to give its place.
    shift: u32,
    networks: Box<[NetworkEntry]>,
    feeds: Box<[Option<Arc<Feed>>]>,
    /// For each kind until when every feed that knows it is fresh; `None` where none does.
    fresh_until: [Option<Timestamp>; Kind::ALL.len()],
    /// Numbers of labels that listed domains may have, a bit each; 63 stands for more.
    depths: u64,
    scope: Scope,
}

/// The parts of an index that is being made.
pub(super) struct Builder {
    key: SipKey,
    entries: Vec<Entry>,
    networks: Vec<NetworkEntry>,
    feeds: Vec<Option<Arc<Feed>>>,
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
        let gone = index.feeds.iter().position(|f| f.as_ref().is_some_and(|f| f.name.as_str() == name));
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
            *place = Some(feed);
        }
        u16::try_from(slot).ok()
    }

    /// Takes in the indicators of the feed in this slot.
    pub fn extend<'p>(&mut self, slot: u16, packed: impl Iterator<Item = Packed<'p>>) {
        for one in packed {
            let expires_s = if one.expires_s == 0 { NEVER } else { one.expires_s };
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
    }

    fn push(&mut self, kind: Kind, value: &[u8], source: Source, expires_s: u32) {
        self.entries.push(Entry { print: print_of(&self.key, kind, value), source, expires_s });
    }

    /// Sorts, and is done.
    pub fn build(mut self) -> Index {
        self.entries.sort_unstable();
        // Lists repeat themselves. What differs in confidence or end stays: the surest may end first.
        self.entries.dedup();
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
        let fresh_until = Kind::ALL.map(|kind| {
            let knowing = self.feeds.iter().flatten().filter(|feed| feed.counts.of(kind) > 0);
            knowing.map(|feed| feed.stale_at()).min()
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

/// Sorted by beginning, wider ones first, each with the one around it.
fn nested(mut networks: Vec<NetworkEntry>) -> Vec<NetworkEntry> {
    networks.sort_unstable_by_key(|n| (n.bits, n.prefix, n.source));
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

impl Index {
    /// An index of nothing.
    pub fn empty(key: SipKey, scope: Scope) -> Self {
        Builder::new(key, scope).build()
    }

    /// Its feeds.
    pub fn feeds(&self) -> impl Iterator<Item = &Arc<Feed>> {
        self.feeds.iter().flatten()
    }

    /// How many indicators it holds.
    pub fn len(&self) -> usize {
        self.entries.len() + self.networks.len()
    }

    /// What it takes of memory.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.entries) + size_of_val(&*self.places) + size_of_val(&*self.networks)
    }

    /// Everything that speaks against a value at `now_s`, with what is listed: itself, a domain above, a network around.
    pub fn find(&self, key: &SipKey, value: &Value, now_s: u32, mut hit: impl FnMut(Found, Listed<'_>)) {
        if self.fresh_until.get(usize::from(value.kind().code())).copied().flatten().is_none() {
            // No feed knows this kind: nothing has to be hashed.
            return;
        }
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
                        self.exact(key, Kind::Domain, suffix.as_bytes(), now_s, |f| hit(f, Listed::Text(suffix)));
                    }
                    let Some(dot) = dot else { break };
                    from = dot;
                }
            }
            Value::Address(bits, _) => {
                let listed = Listed::Network(*bits, 128);
                self.exact(key, Kind::Address, &bits.to_be_bytes(), now_s, |f| hit(f, listed));
                self.around(*bits, now_s, |network| {
                    let found = Found { source: network.source, expires_s: network.expires_s };
                    hit(found, Listed::Network(network.bits, network.prefix));
                });
            }
            Value::Package(text) => self.exact(key, Kind::Package, text.as_bytes(), now_s, |f| hit(f, Listed::Itself)),
            Value::FileHash(hash) => self.exact(key, Kind::FileHash, hash, now_s, |f| hit(f, Listed::Itself)),
            Value::Certificate(hash) => self.exact(key, Kind::Certificate, hash, now_s, |f| hit(f, Listed::Itself)),
        }
    }

    fn exact(&self, key: &SipKey, kind: Kind, value: &[u8], now_s: u32, mut hit: impl FnMut(Found)) {
        let print = print_of(key, kind, value);
        let [first, ..] = print;
        let place = (first >> self.shift) as usize;
        let Some([from, to]) = self.places.get(place..place + 2).and_then(|p| p.first_chunk::<2>()) else { return };
        if from & hint_of(print) == 0 {
            return;
        }
        let (from, to) = ((from >> HINT_BITS) as usize, (to >> HINT_BITS) as usize);
        let among = self.entries.get(from..to).unwrap_or_default();
        for entry in among.iter().filter(|e| e.print == print && lives(e.expires_s, now_s)) {
            hit(Found { source: entry.source, expires_s: entry.expires_s });
        }
    }

    /// The networks around an address, the narrowest first.
    fn around(&self, bits: u128, now_s: u32, mut hit: impl FnMut(&NetworkEntry)) {
        let behind = self.networks.partition_point(|n| n.bits <= bits);
        let mut at = behind.checked_sub(1);
        while let Some(network) = at.and_then(|i| self.networks.get(i)) {
            if bits & mask(network.prefix) == network.bits && lives(network.expires_s, now_s) {
                hit(network);
            }
            at = (network.parent != NO_PARENT).then_some(network.parent as usize);
        }
    }

    /// A match as the rest of the house sees it.
    pub fn describe(&self, found: Found, listed: String) -> Option<Match> {
        let feed = self.feeds.get(usize::from(found.source.slot))?.clone()?;
        Some(Match {
            scope: self.scope,
            feed,
            kind: Kind::of_code(found.source.kind)?,
            listed,
            confidence: Confidence::new(found.source.confidence),
            expires_at: (found.expires_s != NEVER).then(|| Timestamp::from_millis(i64::from(found.expires_s) * 1_000)),
        })
    }

    /// Whether every feed that knows this kind is fresh; `None` when none knows it.
    pub fn is_fresh(&self, kind: Kind, now: Timestamp) -> Option<bool> {
        let until = self.fresh_until.get(usize::from(kind.code())).copied().flatten()?;
        Some(now < until)
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
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::collections::HashMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::feed::Pile;
    use super::*;

    const NOW_S: u32 = 1_000;

    /// Value, confidence in percent, end in seconds (0: none).
    type Indicators = Vec<(Value, u8, u32)>;

    fn index_of(feeds: &[(&str, Indicators)]) -> (Index, SipKey) {
        let key = SipKey::new([7; 16]);
        let mut builder = Builder::new(key, Scope::Global);
        for (name, indicators) in feeds {
            let mut pile = Pile::default();
            for (value, confidence, expires_s) in indicators {
                pile.push(value, Confidence::new(*confidence), *expires_s);
            }
            let feed = Feed {
                name: name.parse().unwrap(),
                source: String::new(),
                imported_at: Timestamp::EPOCH,
                stale_after: Duration::from_secs(5_000),
                counts: pile.counts(),
                rejected: 0,
                ignored: 0,
                generation: 1,
            };
            let slot = builder.slot(Arc::new(feed)).unwrap();
            builder.extend(slot, pile.iter());
        }
        (builder.build(), key)
    }

    fn found(index: &Index, key: &SipKey, value: &Value) -> Vec<(String, String, u8)> {
        let mut out = Vec::new();
        index.find(key, value, NOW_S, |found, listed| {
            let found = index.describe(found, listed.text(value)).unwrap();
            out.push((found.feed.name.to_string(), found.listed, found.confidence.percent()));
        });
        out
    }

    fn value(kind: Kind, text: &str) -> Value {
        Value::asked(kind, text).or_else(|_| Value::indicator(kind, text)).unwrap()
    }

    #[test]
    fn what_is_over_says_nothing_and_removing_a_feed_leaves_the_others() {
        let spy = || value(Kind::Package, "com.example.spy");
        let twice = vec![(spy(), 60, 0), (spy(), 60, 0), (spy(), 90, 500)];
        let feeds = [("twice", twice), ("other", vec![(spy(), 70, 1_500)]), ("over", vec![(spy(), 99, 1_000)])];
        let (index, key) = index_of(&feeds);
        let mut speak = found(&index, &key, &spy());
        speak.sort();
        let said = |feed: &str, confidence| (feed.to_owned(), "com.example.spy".to_owned(), confidence);
        assert_eq!(speak, [said("other", 70), said("twice", 60)]);
        let rest = Builder::without(&index, key, "other").build();
        assert_eq!(found(&rest, &key, &spy()), [said("twice", 60)]);
        assert_eq!(rest.feeds().count(), 2);
        assert_eq!(index.is_fresh(Kind::Package, Timestamp::from_millis(4_999_999)), Some(true));
        assert_eq!(index.is_fresh(Kind::Package, Timestamp::from_millis(5_000_000)), Some(false));
        assert_eq!(index.is_fresh(Kind::Domain, Timestamp::EPOCH), None);
    }

    proptest! {
        /// Against the plain way: every network and every value is tried.
        #[test]
        fn lookups_agree_with_trying_everything(
            networks in prop::collection::vec((0_u8..6, 0_u8..16, 100_u8..=128), 0..40),
            hosts in prop::collection::hash_set((0_u8..6, 0_u8..16), 0..20),
            asked in prop::collection::vec((0_u8..6, 0_u8..16), 1..20),
        ) {
            let bits = |a: u8, b: u8| u128::from(a) << 24 | u128::from(b);
            let mut all: HashMap<(u128, u8), Value> = HashMap::new();
            for (a, b, prefix) in networks.iter().filter(|(.., prefix)| *prefix < 128) {
                let at = bits(*a, *b) & mask(*prefix);
                all.insert((at, *prefix), Value::Address(at, *prefix));
            }
            for (a, b) in &hosts {
                all.insert((bits(*a, *b), 128), Value::Address(bits(*a, *b), 128));
            }
            let (index, key) = index_of(&[("one", all.values().map(|v| (v.clone(), 50, 0)).collect())]);
            prop_assert_eq!(index.len(), all.len());
            for (a, b) in asked {
                let at = bits(a, b);
                let mut expected: Vec<u8> =
                    all.keys().filter(|(net, prefix)| at & mask(*prefix) == *net).map(|(_, prefix)| *prefix).collect();
                expected.sort_unstable_by(|a, b| b.cmp(a));
                let got: Vec<String> = found(&index, &key, &Value::Address(at, 128)).into_iter().map(|f| f.1).collect();
                let expected: Vec<String> = expected.iter().map(|p| text_of_network(at & mask(*p), *p)).collect();
                prop_assert_eq!(got, expected);
            }
        }
    }
}
