//! Lookups against the plain way of trying everything, and against lists that repeat themselves.
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
            ends_at: None,
            hunted: 0,
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
    assert_eq!(index.len(), 4, "of twice the surest and the longest");
    let rest = Builder::without(&index, key, "other").build();
    assert_eq!(found(&rest, &key, &spy()), [said("twice", 60)]);
    assert_eq!(rest.feeds().count(), 2);
    assert_eq!(index.is_fresh(&spy(), Timestamp::from_millis(999_999)), Some(true));
    assert_eq!(index.is_fresh(&spy(), Timestamp::from_millis(1_000_000)), Some(false), "all of over is over");
    let lasting = Builder::without(&Builder::without(&index, key, "over").build(), key, "other").build();
    assert_eq!(lasting.is_fresh(&spy(), Timestamp::from_millis(4_999_999)), Some(true));
    assert_eq!(lasting.is_fresh(&spy(), Timestamp::from_millis(5_000_000)), Some(false));
    assert_eq!(index.is_fresh(&value(Kind::Domain, "a.example"), Timestamp::EPOCH), None);
}

/// 8 MiB of one network, or of one domain with an end of its own in each line, made 700,000 entries, and each
/// heartbeat that came from the network or named the domain built as many matches.
#[test]
fn what_a_feed_says_again_and_again_is_kept_once_and_no_question_looks_at_more_than_its_bound() {
    let network = || value(Kind::Address, "9.0.0.0/8");
    let name = || value(Kind::Domain, "evil.example");
    let mut many: Indicators = (0..20_000).map(|_| (network(), 50, 0)).collect();
    many.extend((0..20_000).map(|i| (name(), 50 + u8::try_from(i % 7).unwrap(), NOW_S + 1 + i)));
    let (index, key) = index_of(&[("many", many)]);
    assert_eq!(index.len(), 3, "the network; the surest and the longest of the domain");
    assert_eq!(found(&index, &key, &value(Kind::Address, "9.1.2.3")).len(), 1);
    assert_eq!(found(&index, &key, &name()).len(), 2);
    // Every feed, each with every network around one address, each twice.
    let nets = |_| (104..128).flat_map(|p| [(Value::Address(9 << 24 | 0xffff << 32, p), 90, NOW_S + 9)]);
    let names: Vec<String> = (0..100).map(|i| format!("feed-{i}")).collect();
    let feeds: Vec<_> = names.iter().map(|n| (n.as_str(), (0..2).flat_map(nets).collect())).collect();
    let (index, key) = index_of(&feeds);
    assert_eq!(index.len(), 2_400);
    assert_eq!(found(&index, &key, &value(Kind::Address, "9.0.0.0")).len(), LOOKED_AT_MAX);
}

/// A list of MD5 hashes made every SHA-256 hash look clean, and one of IPv4 addresses every IPv6 address.
#[test]
fn silence_counts_only_for_hashes_of_a_length_and_addresses_of_a_family_that_the_feed_knows() {
    let sure = |kind, text: &str| (value(kind, text), 90, 0);
    let (md5, sha256) = ("d41d8cd98f00b204e9800998ecf8427e", "ab".repeat(32));
    let v4 = sure(Kind::Address, "203.0.113.0/24");
    let list = vec![sure(Kind::FileHash, md5), v4, sure(Kind::Certificate, &"cd".repeat(20))];
    let (index, _) = index_of(&[("one", list)]);
    let fresh = |kind, text: &str| index.is_fresh(&value(kind, text), Timestamp::EPOCH);
    assert_eq!(fresh(Kind::FileHash, &"00".repeat(16)), Some(true));
    assert_eq!(fresh(Kind::FileHash, &sha256), None);
    assert_eq!(fresh(Kind::Certificate, &"00".repeat(20)), Some(true));
    assert_eq!(fresh(Kind::Certificate, &sha256), None);
    assert_eq!(fresh(Kind::Address, "192.0.2.1"), Some(true));
    assert_eq!(fresh(Kind::Address, "2001:db8::1"), None);
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
