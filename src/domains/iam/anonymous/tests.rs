//! What anonymous callers may and may not do.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::crypto::SigningKey;
use crate::crypto::keyring::{Access, KeySet, Published};
use crate::kernel::Clock;
use crate::store::{Options, WriterParts};

const NOW_MS: i64 = 1_800_000_000_000;
const HOUR_MS: i64 = 3_600_000;
const HOUR: Duration = Duration::from_secs(3_600);

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(NOW_MS + ms)
}

fn token(n: u128) -> [u8; 16] {
    n.to_be_bytes()
}

fn v4(n: u32) -> IpAddr {
    IpAddr::V4(n.into())
}

fn windows(limit: u32, bounds: Bounds) -> Windows {
    Windows::new(Quota { limit, window: HOUR }, bounds)
}

fn small(tokens: usize, networks: usize, groups: usize) -> Bounds {
    Bounds { tokens, networks, groups, shards: 1 }
}

fn admitted(windows: &Windows, tries: u32, mut try_one: impl FnMut(&Windows, u32) -> Decision) -> usize {
    (0..tries).filter(|n| try_one(windows, *n).admitted).count()
}

// ---- the windows

#[test]
fn n_allowed_means_n_for_64_callers_at_once() {
    for limit in [100, 5_000] {
        // One token from many networks, one network with many tokens, one of both.
        for case in 0..3_u32 {
            let windows = Arc::new(windows(limit, Bounds::default()));
            let threads: Vec<_> = (0..64_u32)
                .map(|thread| {
                    let windows = Arc::clone(&windows);
                    std::thread::spawn(move || {
                        admitted(&windows, 200, |w, n| {
                            let own = thread * 1_000 + n;
                            let (t, network) = [(0, own), (own, 0), (0, 0)][case as usize];
                            // The clock is read before the lock is taken: now and then a caller comes in late, here
                            // on both sides of a full hour, where a counter changes its window.
                            w.admit(token(t.into()), v4(network), at(1 - i64::from(own % 3)))
                        })
                    })
                })
                .collect();
            let sum: usize = threads.into_iter().map(|t| t.join().unwrap()).sum();
            assert_eq!(sum, limit as usize, "case {case} of limit {limit}");
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// The model keeps every admitted request for ever and counts those of the last hour.
    #[test]
    fn both_windows_slide_exactly(steps in proptest::collection::vec((0_u8..5, 0_u8..4, 0_i64..900_000), 1..300)) {
        let windows = windows(4, Bounds::default());
        let mut model: Vec<(i64, u8, u8)> = Vec::new();
        let mut now = 0;
        for (t, n, later) in steps {
            now += later;
            let live = |which: &dyn Fn(&(i64, u8, u8)) -> bool| -> Vec<i64> {
                model.iter().filter(|e| now - e.0 < HOUR_MS && which(e)).map(|e| e.0).collect()
            };
            let (by_token, by_network) = (live(&|e| e.1 == t), live(&|e| e.2 == n));
            let expected = by_token.len() < 4 && by_network.len() < 4;
            let said = windows.admit(token(t.into()), v4(n.into()), at(now));
            proptest::prop_assert_eq!(said.admitted, expected);
            if expected {
                model.push((now, t, n));
                proptest::prop_assert_eq!(said.remaining as usize, 3 - by_token.len().max(by_network.len()));
            } else {
                // The longer of the two waits, to the second, and then the request passes.
                let free = |times: &[i64]| if times.len() < 4 { 0 } else { times[0] + HOUR_MS - now };
                let wait_ms = free(&by_token).max(free(&by_network));
                proptest::prop_assert_eq!(said.reset_s, u64::try_from(wait_ms).unwrap().div_ceil(1_000));
            }
        }
    }
}

#[test]
fn rejected_requests_consume_nothing_of_either_window() {
    let windows = windows(3, Bounds::default());
    assert_eq!(admitted(&windows, 3, |w, _| w.admit(token(1), v4(1), at(0))), 3);
    // The token is at its limit: other networks that it comes from must not pay for its attempts, nor it for the wait.
    assert_eq!(admitted(&windows, 50, |w, n| w.admit(token(1), v4(2), at(n.into()))), 0);
    assert_eq!(windows.look_at_network(v4(2), at(50)).remaining, 3);
    // The network is at its limit: other tokens must not pay for it.
    assert_eq!(admitted(&windows, 50, |w, n| w.admit(token(2), v4(1), at(n.into()))), 0);
    assert_eq!(windows.admit(token(2), v4(2), at(60)).remaining, 2);
    assert_eq!(admitted(&windows, 9, |w, _| w.admit(token(1), v4(1), at(HOUR_MS))), 3);
    assert_eq!(windows.figures().networks, 2, "refused requests leave no windows behind");
}

#[test]
fn a_clock_that_is_set_back_gives_nothing_away_and_locks_out_for_one_window_at_most() {
    const DAY_MS: i64 = 86_400_000;
    for back_ms in [1, 1_000, 600_000, 40 * DAY_MS, 60 * DAY_MS] {
        let windows = windows(3, Bounds::default());
        assert_eq!(admitted(&windows, 5, |w, n| w.admit(token(1), v4(1), at(i64::from(n) * 1_000))), 3);
        let set_back = 2_000 - back_ms;
        windows.sweep(at(set_back));
        assert_eq!(windows.figures().tokens, 1, "still live after a step of {back_ms} ms");
        if back_ms > 1_000 {
            assert!(!windows.admit(token(1), v4(1), at(set_back)).admitted, "{back_ms} ms");
        }
        assert!(windows.admit(token(1), v4(1), at(set_back + HOUR_MS)).admitted, "{back_ms} ms");
    }
}

#[test]
fn a_hundred_thousand_identities_of_one_network_get_one_limit_and_harm_nobody() {
    let windows = windows(100, Bounds::default());
    let bystander = v4(7);
    for _ in 0..60 {
        assert!(windows.admit(token(u128::MAX), bystander, at(0)).admitted);
    }
    let attacker: IpAddr = "2001:db8:1:2::".parse().unwrap();
    let passed = admitted(&windows, 100_000, |w, n| w.admit(token(n.into()), attacker, at(i64::from(n / 1_000))));
    assert_eq!(passed, 100);
    let figures = windows.figures();
    assert_eq!((figures.tokens, figures.networks, figures.groups), (101, 2, 0), "refused identities take no memory");
    assert_eq!(figures.token_evictions, 0);
    assert_eq!(windows.admit(token(u128::MAX), bystander, at(1)).remaining, 39);
}

#[test]
fn churn_of_tokens_is_bounded_counted_and_never_reaches_a_network() {
    let windows = windows(100, Bounds { tokens: 1_600, ..Bounds::default() });
    for _ in 0..100 {
        windows.admit(token(u128::MAX), v4(7), at(0));
    }
    // Two thousand addresses, each with a hundred identities of its own.
    let churned = admitted(&windows, 200_000, |w, n| w.admit(token((n + 1).into()), v4(1_000 + n / 100), at(1)));
    assert_eq!(churned, 200_000);
    let figures = windows.figures();
    assert_eq!((figures.tokens, figures.networks), (1_600, 2_001));
    assert_eq!(figures.token_evictions, 200_001 - 1_600);
    assert!(!windows.admit(token(5), v4(7), at(2)).admitted, "its own token was pushed out, its network was not");
}

#[test]
fn the_token_that_was_used_least_recently_goes_first() {
    let windows = windows(2, small(3, 1_000, 10));
    let mut network = 0;
    let mut admit = |n: u128| {
        network += 1;
        windows.admit(token(n), v4(network), at(network.into()))
    };
    (1..=3).for_each(|n| assert_eq!(admit(n).remaining, 1));
    assert_eq!(admit(1).remaining, 0);
    assert!(!admit(1).admitted);
    assert_eq!(admit(4).remaining, 1, "takes the place of 2");
    assert_eq!(windows.figures().token_evictions, 1);
    assert!(!admit(1).admitted, "1 was kept");
    assert_eq!(admit(3).remaining, 0, "3 was kept");
    assert_eq!(admit(2).remaining, 1, "2 starts anew, in the place of 1");
    assert_eq!(admit(1).remaining, 1);
    let figures = windows.figures();
    assert_eq!((figures.tokens, figures.token_evictions), (3, 3));
    // An idle window is no loss: it goes uncounted.
    assert!(windows.admit(token(9), v4(9_999), at(2 * HOUR_MS)).admitted);
    assert_eq!(windows.figures().token_evictions, 3);
}

#[test]
fn when_every_network_window_is_live_new_networks_share_one_and_the_live_ones_stay_exact() {
    let windows = windows(5, small(1_000, 2, 1));
    let mut n = 0;
    let mut admit = |network: &str, ms: i64| {
        n += 1;
        windows.admit(token(n), network.parse().unwrap(), at(ms)).admitted
    };
    for network in ["10.0.0.1", "10.0.0.2"] {
        (0..3).for_each(|_| assert!(admit(network, 0)));
    }
    // 10.9/16 gets the one window for groups, whatever its addresses.
    let shared: Vec<bool> = (0..8).map(|i| admit(&format!("10.9.{i}.1"), 1_000)).collect();
    assert_eq!(shared, [true, true, true, true, true, false, false, false]);
    // Then one window for each family.
    let rest: Vec<bool> = (0..7).map(|i| admit(&format!("10.{}.0.1", 20 + i), 1_000)).collect();
    assert_eq!(rest, [true, true, true, true, true, false, false]);
    let v6: Vec<bool> = (0..7).map(|i| admit(&format!("2001:db8:{i}00::"), 1_000)).collect();
    assert_eq!(v6, [true, true, true, true, true, false, false]);
    // Those that were there first have exactly what they had left.
    for network in ["10.0.0.1", "10.0.0.2"] {
        let left: Vec<bool> = (0..4).map(|_| admit(network, 2_000)).collect();
        assert_eq!(left, [true, true, false, false], "{network}");
    }
    assert_eq!((windows.figures().networks, windows.figures().groups), (2, 1));
    // Once they are idle, their places are free for others.
    assert!(admit("10.9.0.1", HOUR_MS + 2_000));
    windows.sweep(at(2 * HOUR_MS + 2_000));
    let figures = windows.figures();
    assert_eq!((figures.tokens, figures.networks, figures.groups), (0, 0, 0), "an hour of silence empties everything");
}

#[test]
fn an_ipv6_group_is_a_40_and_an_ipv4_group_is_a_16() {
    for (first, same, other) in
        [("2001:db8:1100::", "2001:db8:11ff:ff::", "2001:db8:1200::"), ("10.1.2.3", "10.1.255.1", "10.2.2.3")]
    {
        let windows = windows(1, small(100, 0, 10));
        let admit = |n, network: &str| windows.admit(token(n), network.parse().unwrap(), at(0)).admitted;
        assert!(admit(1, first));
        assert!(!admit(2, same), "{same} shares the window of {first}");
        assert!(admit(3, other), "{other} does not");
    }
}

// ---- identity

struct World {
    store: Store,
    anonymous: Anonymous,
    keys: KeyRing,
}

fn keys() -> KeyRing {
    let key = SigningKey::generate(&Random::seeded(1));
    let published = vec![Published { jwk: key.verifying().to_jwk(), access: Access::Open }];
    KeyRing::new(KeySet::new(Arc::new(key), published).unwrap())
}

fn world(path: &Path, settings: Settings, now: Timestamp) -> World {
    let store = Store::open(path, Options::default(), true).unwrap();
    let keys = keys();
    let parts = Parts {
        store: store.clone(),
        keys: keys.clone(),
        random: Random::System,
        issuer: "https://box.example".to_owned(),
        audience: "api".to_owned(),
        settings,
    };
    let anonymous = Anonymous::rebuild(parts, &store.read().unwrap(), now).unwrap();
    store.start(WriterParts::plain(Clock::simulated(now))).unwrap();
    World { store, anonymous, keys }
}

const fn limit(limit: u32) -> Settings {
    Settings { enabled: true, limit, window: HOUR }
}

fn caller(n: u32) -> AnonymousCaller<'static> {
    AnonymousCaller { address: v4(n), network: v4(n), user_agent: Some("curl/8"), accept_language: Some("de") }
}

#[test]
fn a_caller_keeps_its_identity_for_a_day_and_then_becomes_somebody_new() {
    let folder = tempfile::tempdir().unwrap();
    let World { anonymous, keys, store } = world(&folder.path().join("x.redb"), limit(100), at(0));
    let first = anonymous.admit(None, &caller(1), at(0));
    let token = first.new_token.unwrap();
    let policy = anonymous.inner.policy.clone();
    let claims = verify_jwt(&token, &|kid| keys.verifier(kid), &policy, at(0)).unwrap();
    let user = first.user.to_string();
    assert!(user.starts_with("anon_"));
    for (name, value) in [("sub", &*user), ("user_id", &user), ("typ", "anonymous")] {
        assert_eq!(claims.text(name), Some(value), "{name}");
    }
    assert_eq!(claims.exp_s - claims.iat_s, 86_400);
    assert_eq!(claims.all["quota_limit"], 100);
    let fingerprint = Base64UrlUnpadded::encode_string(&caller(1).fingerprint());
    assert_eq!(claims.text("fingerprint"), Some(&*fingerprint));

    let again = anonymous.admit(Some(&token), &caller(1), at(1_000));
    assert_eq!((again.user, &again.new_token), (first.user, &None));
    assert_eq!(again.decision.unwrap().remaining, 98);
    assert!(anonymous.admit(Some(&token), &caller(1), at(86_429_000)).new_token.is_none());
    let late = anonymous.admit(Some(&token), &caller(1), at(86_430_000));
    assert!(late.user != first.user && late.new_token.is_some());
    assert_eq!(anonymous.figures().signatures_checked, 0, "what was just signed need not be checked");
    // After a restart the memory of checked tokens is empty: once, and no more.
    lock(&anonymous.inner.checked).young.clear();
    for ms in 0..5 {
        assert_eq!(anonymous.admit(Some(&token), &caller(1), at(ms)).user, first.user);
    }
    assert_eq!(anonymous.figures().signatures_checked, 1);
    store.stop();
}

#[test]
fn dropping_the_token_gains_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let World { anonymous, store, .. } = world(&folder.path().join("x.redb"), limit(10), at(0));
    let tries: Vec<Admission> = (0..30).map(|n| anonymous.admit(None, &caller(1), at(n))).collect();
    let passed = tries.iter().filter(|a| a.decision.unwrap().admitted).count();
    assert_eq!(passed, 10);
    assert!(tries.iter().all(|a| a.new_token.is_some() == a.decision.unwrap().admitted), "no signing for the refused");
    assert_eq!(tries[29].user, AnonymousId::NIL);
    assert!(anonymous.admit(None, &caller(2), at(30)).decision.unwrap().admitted);
    store.stop();
}

#[test]
fn a_token_that_is_not_this_callers_own_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let World { anonymous, keys, store } = world(&folder.path().join("x.redb"), limit(100), at(0));
    let first = anonymous.admit(None, &caller(1), at(0));
    let token = first.new_token.unwrap();
    for (what, other) in [
        ("address", AnonymousCaller { address: v4(9), ..caller(1) }),
        ("user agent", AnonymousCaller { user_agent: Some("curl/9"), ..caller(1) }),
        ("no user agent", AnonymousCaller { user_agent: None, ..caller(1) }),
        ("language", AnonymousCaller { accept_language: Some("en"), ..caller(1) }),
        ("moved border", AnonymousCaller { user_agent: Some("curl/8de"), accept_language: None, ..caller(1) }),
    ] {
        let taken = anonymous.admit(Some(&token), &other, at(1));
        assert!(taken.user != first.user && taken.new_token.is_some(), "{what}");
    }
    let sign = |typ: &str, change: serde_json::Value| {
        let mut claims = json!({
            "iss": "https://box.example", "aud": "api", "sub": first.user, "user_id": first.user, "jti": "tok_1",
            "iat": at(0).as_secs(), "nbf": at(0).as_secs(), "exp": at(0).as_secs() + 86_400, "typ": "anonymous",
            "fingerprint": Base64UrlUnpadded::encode_string(&caller(1).fingerprint()), "quota_limit": 100,
        });
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        keys.sign(typ, claims.to_string().as_bytes())
    };
    assert_eq!(anonymous.admit(Some(&sign("anonymous+jwt", json!({}))), &caller(1), at(1)).user, first.user);
    for bad in [
        String::new(),
        "x".repeat(5_000),
        token.replace('.', ","),
        format!("{token}A"),
        sign("at+jwt", json!({})),
        sign("anonymous+jwt", json!({ "typ": "access" })),
        sign("anonymous+jwt", json!({ "user_id": "anon_x" })),
        sign("anonymous+jwt", json!({ "sub": "usr_1", "user_id": "usr_1" })),
        sign("anonymous+jwt", json!({ "fingerprint": "AAAA" })),
        sign("anonymous+jwt", json!({ "iss": "https://other.example" })),
        sign("anonymous+jwt", json!({ "exp": at(0).as_secs() + 86_401 })),
    ] {
        let replaced = anonymous.admit(Some(&bad), &caller(1), at(1));
        assert!(replaced.user != first.user && replaced.new_token.is_some(), "{bad:.120}");
    }
    store.stop();
}

/// Without the question to the network first, anybody could make the appliance check signatures at will.
#[test]
fn a_flood_of_bad_tokens_costs_no_more_signatures_than_the_network_may_send_requests() {
    let folder = tempfile::tempdir().unwrap();
    let World { anonymous, keys, store } = world(&folder.path().join("x.redb"), limit(10), at(0));
    let passed = (0..1_000)
        .filter(|n| {
            let bad = keys.sign(ANONYMOUS_JWT_TYPE, format!("{{\"n\":{n}}}").as_bytes());
            anonymous.admit(Some(&bad), &caller(1), at(0)).decision.unwrap().admitted
        })
        .count();
    assert_eq!((passed, anonymous.figures().signatures_checked), (10, 10));
    store.stop();
}

#[test]
fn with_the_limiter_off_everybody_has_an_identity_and_nobody_a_limit() {
    let folder = tempfile::tempdir().unwrap();
    let off = Settings { enabled: false, ..limit(1) };
    let World { anonymous, store, .. } = world(&folder.path().join("x.redb"), off, at(0));
    let first = anonymous.admit(None, &caller(1), at(0));
    for _ in 0..5 {
        let again = anonymous.admit(first.new_token.as_deref(), &caller(1), at(0));
        assert_eq!(again, Admission { decision: None, user: first.user, new_token: None });
    }
    assert_eq!(anonymous.figures().windows, WindowFigures::default());
    store.stop();
}

#[test]
fn the_memory_of_checked_tokens_is_bounded_and_keeps_what_is_used() {
    let mut checked = Checked::default();
    let identity = Identity { user: AnonymousId::NIL, fingerprint: [0; 32], expires_at: at(0) };
    checked.insert([0xff; 32], identity);
    for n in 0..150_000_u64 {
        checked.insert(sha256(&n.to_be_bytes()), identity);
        if n % 10_000 == 0 {
            assert!(checked.get(&[0xff; 32]).is_some(), "used after {n} others");
        }
    }
    assert!(checked.young.len() + checked.old.len() <= 100_000);
    assert!(checked.get(&sha256(&0_u64.to_be_bytes())).is_none());
}

// ---- the restart

fn rows(store: &Store) -> usize {
    // A change behind the posted ones: when it is committed, they are.
    store.write_blocking(|_| Ok(())).unwrap();
    store::load(&store.read().unwrap()).unwrap().len()
}

#[test]
fn a_restart_keeps_the_counts() {
    for quota in [10, 2_000] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.redb");
        let w = world(&path, limit(quota), at(0));
        let token = w.anonymous.admit(None, &caller(1), at(0)).new_token.unwrap();
        for n in 1..quota - 2 {
            assert!(w.anonymous.admit(Some(&token), &caller(1), at(n.into())).decision.unwrap().admitted);
        }
        let v6 = AnonymousCaller { network: IpAddr::V6(Ipv6Addr::LOCALHOST), ..caller(2) };
        w.anonymous.admit(None, &v6, at(5));
        assert_eq!(w.anonymous.persist().unwrap(), 4, "two tokens and two networks");
        assert_eq!(w.anonymous.persist().unwrap(), 0, "clean");
        w.anonymous.admit(Some(&token), &caller(1), at(i64::from(quota) - 2));
        assert_eq!(w.anonymous.persist().unwrap(), 2, "only what changed");
        w.store.stop();
        drop(w);

        let w = world(&path, limit(quota), at(60_000));
        assert_eq!((w.anonymous.figures().windows.tokens, w.anonymous.figures().windows.networks), (2, 2));
        let last = w.anonymous.admit(Some(&token), &caller(1), at(60_000));
        assert_eq!(last.decision.unwrap().remaining, 0, "one was left");
        assert!(!w.anonymous.admit(Some(&token), &caller(1), at(60_000)).decision.unwrap().admitted);
        assert!(!w.anonymous.admit(None, &caller(1), at(60_000)).decision.unwrap().admitted);
        assert!(w.anonymous.admit(None, &v6, at(60_000)).decision.unwrap().admitted);
        // Each place comes free when it would have without the restart.
        if quota == 10 {
            assert!(w.anonymous.admit(Some(&token), &caller(1), at(HOUR_MS)).decision.unwrap().admitted);
            assert!(!w.anonymous.admit(Some(&token), &caller(1), at(HOUR_MS)).decision.unwrap().admitted);
        }
        w.anonymous.sweep(at(60_000));
        assert_eq!(rows(&w.store), 5);
        // When all is silent, the rows go, too.
        w.anonymous.sweep(at(3 * HOUR_MS));
        assert_eq!(rows(&w.store), 0);
        w.store.stop();
    }
}

#[test]
fn a_restart_under_another_limit_keeps_what_can_be_kept() {
    for (before, after, left) in [(10, 5, 0), (5, 10, 5), (10, 2_000, 1_995), (2_000, 10, 5), (2_000, 3_000, 2_995)] {
        let old = windows(before, small(10, 10, 10));
        (0..5).for_each(|n| assert!(old.admit(token(1), v4(1), at(n)).admitted));
        let rows = old.take_changes(10).into_iter().filter_map(|(key, saved)| Some((key, saved?))).collect();
        let new = windows(after, small(10, 10, 10));
        new.restore(rows, at(10));
        assert_eq!(new.look_at_network(v4(1), at(10)).remaining, left, "{before} to {after}");
        assert_eq!(new.admit(token(1), v4(2), at(10)).admitted, left > 0, "{before} to {after}");
    }
}

#[test]
fn a_restart_at_full_tables_pushes_out_no_network_and_removes_rows_that_have_no_place() {
    let old = windows(5, small(100, 20, 10));
    (0..20).for_each(|n| assert!(old.admit(token(n.into()), v4(n), at(n.into())).admitted));
    let rows: Vec<_> = old.take_changes(100).into_iter().filter_map(|(key, saved)| Some((key, saved?))).collect();
    // Tables that are smaller than they were, by a change of the program.
    let new = windows(5, small(8, 15, 10));
    new.restore(rows, at(30));
    let figures = new.figures();
    assert_eq!((figures.tokens, figures.networks), (8, 15));
    assert_eq!(new.look_at_network(v4(0), at(30)).remaining, 4, "the oldest network is there");
    assert_eq!(new.admit(token(19), v4(3), at(30)).remaining, 3, "the newest token is there");
    let removed = new.take_changes(100).into_iter().filter(|(_, saved)| saved.is_none()).count();
    assert_eq!(removed, 12 + 5);
}

/// Rows never pile up: each is removed when its window is, also under churn and after a change that could not be queued.
#[test]
fn the_file_holds_what_the_memory_holds_however_it_churns() {
    let windows = windows(5, small(10, 1_000, 10));
    let mut file = std::collections::BTreeMap::new();
    let mut n = 0_u32;
    for round in 0..60 {
        for _ in 0..7 {
            n += 1;
            windows.admit(token((n % 40).into()), v4(n % 60), at(i64::from(n) * 40_000));
        }
        windows.sweep(at(i64::from(n) * 40_000));
        let changes = windows.take_changes(9);
        assert!(changes.len() <= 9);
        if round % 5 == 0 {
            windows.put_back(changes.into_iter().map(|(key, _)| key));
            continue;
        }
        for (key, saved) in changes {
            match saved {
                Some(saved) => drop(file.insert(key, saved)),
                None => drop(file.remove(&key)),
            }
        }
    }
    loop {
        let changes = windows.take_changes(9);
        if changes.is_empty() {
            break;
        }
        for (key, saved) in changes {
            match saved {
                Some(saved) => drop(file.insert(key, saved)),
                None => drop(file.remove(&key)),
            }
        }
    }
    let figures = windows.figures();
    assert!(figures.tokens > 0 && figures.networks > 0);
    assert_eq!(file.len(), figures.tokens + figures.networks);
}
