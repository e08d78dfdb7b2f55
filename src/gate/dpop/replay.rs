//! Which proofs were used: each is admitted once while it could pass at all (RFC 9449, section 11.1).
//!
//! A proof is remembered under a keyed hash of thumbprint and `jti` until its `iat` has left the window; then its age
//! refuses it. The number of remembered proofs is bounded, and a live one is never forgotten to make room: at the bound
//! newcomers are refused. Split over many locks, each held for one look into a map. Knows nothing of tokens and nonces.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use crate::kernel::{Random, Timestamp};

/// Proofs that are remembered at the same time: 4,369 a second when each is remembered for a minute, in about 16 MiB.
pub const REPLAYS_MAX: usize = 262_144;
const SHARDS: usize = 64;

/// Why a proof is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// It was admitted before.
    #[error("the proof was used before")]
    Replayed,
    /// As many live proofs as there may be. The newcomer is not remembered: it may come again.
    #[error("no more proofs can be remembered")]
    Full,
    /// It is of a time that was forgotten already. Only a clock that was set back lets such a proof come here.
    #[error("the clock was set back behind what was forgotten")]
    ClockSetBack,
}

/// The memory.
pub struct ReplayCache {
    shards: Vec<Mutex<Shard>>,
    /// Keyed, so that nobody can aim at one shard.
    key: [u8; 32],
    window_s: i64,
    max: usize,
    live: AtomicUsize,
}

struct Shard {
    /// The last second in which a proof still passes, by the proof's hash.
    until_s: HashMap<u128, i64>,
    /// What could pass up to this second may be forgotten here.
    forgotten_s: i64,
}

impl ReplayCache {
    /// At most `max` proofs whose `iat` may lie `iat_window_s` from now, before or behind.
    pub fn new(max: usize, iat_window_s: u32, random: &Random) -> Self {
        let shard = || Mutex::new(Shard { until_s: HashMap::new(), forgotten_s: i64::MIN });
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            key: random.bytes(),
            window_s: i64::from(iat_window_s),
            max,
            live: AtomicUsize::new(0),
        }
    }

    /// Admits the proof with this key and id, which was made at `iat_s`. Of many at the same time exactly one is
    /// admitted. The caller has made sure that `iat_s` lies in the window.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn admit(&self, thumbprint: &str, jti: &str, iat_s: i64, now: Timestamp) -> Result<(), ReplayError> {
        let hash = self.hash(thumbprint, jti);
        let until_s = iat_s.saturating_add(self.window_s);
        match self.try_admit(hash, until_s, now) {
            Err(ReplayError::Full) => {
                self.sweep(now);
                self.try_admit(hash, until_s, now)
            }
            decided => decided,
        }
    }

    fn try_admit(&self, hash: u128, until_s: i64, now: Timestamp) -> Result<(), ReplayError> {
        let Some(mut shard) = self.shard(hash) else { return Err(ReplayError::Full) };
        if until_s <= shard.forgotten_s {
            return Err(ReplayError::ClockSetBack);
        }
        match shard.until_s.entry(hash) {
            Entry::Occupied(known) if *known.get() >= now.as_secs() => Err(ReplayError::Replayed),
            // An id that was used again after its time had passed takes the place that it had.
            Entry::Occupied(mut past) => {
                past.insert(until_s);
                Ok(())
            }
            Entry::Vacant(place) => {
                let taken = self.live.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
                    (n < self.max).then_some(n.saturating_add(1))
                });
                taken.map_err(|_| ReplayError::Full)?;
                place.insert(until_s);
                Ok(())
            }
        }
    }

    /// Forgets what its age refuses now. Costs nothing where this was done in the same second already.
    pub fn sweep(&self, now: Timestamp) {
        let past_s = now.as_secs().saturating_sub(1);
        for shard in &self.shards {
            let mut shard = lock(shard);
            if shard.forgotten_s >= past_s {
                continue;
            }
            let before = shard.until_s.len();
            shard.until_s.retain(|_, until_s| *until_s > past_s);
            shard.forgotten_s = past_s;
            self.live.fetch_sub(before.saturating_sub(shard.until_s.len()), Ordering::AcqRel);
        }
    }

    /// How many proofs are remembered.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.live.load(Ordering::Acquire)
    }

    /// Whether none is.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// 128 bits: two proofs of one hash are not to be expected.
    fn hash(&self, thumbprint: &str, jti: &str) -> u128 {
        let digest = Sha256::new()
            .chain_update(self.key)
            .chain_update(thumbprint.len().to_be_bytes())
            .chain_update(thumbprint)
            .chain_update(jti)
            .finalize();
        digest.iter().take(16).fold(0, |hash, byte| (hash << 8) | u128::from(*byte))
    }

    fn shard(&self, hash: u128) -> Option<MutexGuard<'_, Shard>> {
        let index = usize::try_from(hash % SHARDS as u128).ok()?;
        self.shards.get(index).map(lock)
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // A panic cannot leave a map half changed here.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::Barrier;

    const NOW_S: i64 = 1_800_000_000;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_millis(s * 1000)
    }

    fn cache(max: usize) -> ReplayCache {
        ReplayCache::new(max, 60, &Random::seeded(1))
    }

    /// Long enough for threads to be stopped, or to run side by side, between any two steps of an admission.
    #[test]
    fn of_many_threads_with_one_proof_exactly_one_wins() {
        let cache = cache(REPLAYS_MAX);
        let jtis: Vec<String> = (0..4_000).map(|i| format!("jti-{i}")).collect();
        let barrier = Barrier::new(64);
        let won: usize = std::thread::scope(|scope| {
            let present = || {
                barrier.wait();
                jtis.iter().filter(|jti| cache.admit("t", jti, NOW_S, at(NOW_S)).is_ok()).count()
            };
            let running: Vec<_> = (0..64).map(|_| scope.spawn(present)).collect();
            running.into_iter().filter_map(|t| t.join().ok()).sum()
        });
        assert_eq!((won, cache.len()), (jtis.len(), jtis.len()));
    }

    /// Two threads in lockstep: the narrowest gap between looking and remembering shows within some thousand rounds.
    #[test]
    fn of_two_threads_that_meet_on_one_proof_exactly_one_wins() {
        let cache = cache(REPLAYS_MAX);
        let jtis: Vec<String> = (0..20_000).map(|i| format!("jti-{i}")).collect();
        let arrived = AtomicUsize::new(0);
        let won: usize = std::thread::scope(|scope| {
            let present = || {
                let meet = |round: usize| {
                    arrived.fetch_add(1, Ordering::AcqRel);
                    for spins in 0_u32.. {
                        if arrived.load(Ordering::Acquire) >= 2 * (round + 1) {
                            break;
                        }
                        // The other one may not be on a processor at all.
                        if spins % 1_000 == 999 { std::thread::yield_now() } else { std::hint::spin_loop() }
                    }
                };
                let rounds = jtis.iter().enumerate().inspect(|(round, _)| meet(*round));
                rounds.filter(|(_, jti)| cache.admit("t", jti, NOW_S, at(NOW_S)).is_ok()).count()
            };
            let running: Vec<_> = (0..2).map(|_| scope.spawn(present)).collect();
            running.into_iter().filter_map(|t| t.join().ok()).sum()
        });
        assert_eq!((won, cache.len()), (jtis.len(), jtis.len()));
    }

    /// Sweeping at the same time must neither let a proof through twice nor lose count.
    #[test]
    fn a_sweep_beside_the_traffic_lets_nothing_through_twice() {
        let cache = cache(REPLAYS_MAX);
        let won: usize = std::thread::scope(|scope| {
            let present = || {
                (0..2_000_i64)
                    .filter(|i| {
                        let now_s = NOW_S + i / 100;
                        cache.sweep(at(now_s));
                        cache.admit("t", &i.to_string(), now_s, at(now_s)).is_ok()
                    })
                    .count()
            };
            let running: Vec<_> = (0..8).map(|_| scope.spawn(present)).collect();
            running.into_iter().filter_map(|t| t.join().ok()).sum()
        });
        assert_eq!(won, 2_000);
        cache.sweep(at(NOW_S + 1_000));
        assert!(cache.is_empty());
    }

    #[test]
    fn a_proof_is_remembered_for_exactly_as_long_as_its_age_lets_it_pass() {
        for iat_s in [NOW_S - 60, NOW_S, NOW_S + 60] {
            for sweeping in [false, true] {
                let cache = cache(10);
                assert_eq!(cache.admit("t", "a", iat_s, at(NOW_S)), Ok(()));
                for now_s in NOW_S..=iat_s + 60 {
                    if sweeping {
                        cache.sweep(at(now_s));
                    }
                    assert_eq!(cache.admit("t", "a", iat_s, at(now_s)), Err(ReplayError::Replayed), "{iat_s} {now_s}");
                }
                cache.sweep(at(iat_s + 61));
                assert!(cache.is_empty());
                // The same id in a new proof, when the old one is past.
                assert_eq!(cache.admit("t", "a", iat_s + 61, at(iat_s + 61)), Ok(()));
            }
        }
    }

    #[test]
    fn the_same_id_of_another_key_is_another_proof() {
        let cache = cache(10);
        for (thumbprint, jti) in [("t", "a"), ("u", "a"), ("t", "b"), ("ta", ""), ("", "ta")] {
            assert_eq!(cache.admit(thumbprint, jti, NOW_S, at(NOW_S)), Ok(()), "{thumbprint} {jti}");
        }
        // A new time does not make a used id new.
        assert_eq!(cache.admit("t", "a", NOW_S + 1, at(NOW_S + 1)), Err(ReplayError::Replayed));
    }

    #[test]
    fn at_the_bound_the_past_goes_first_and_no_live_proof_ever() {
        let cache = cache(1_000);
        let admit = |name: &str, i: u32, s: i64| cache.admit("t", &format!("{name}{i}"), s, at(s));
        for i in 0..400 {
            assert_eq!(admit("old", i, NOW_S), Ok(()));
        }
        for i in 0..600 {
            assert_eq!(admit("new", i, NOW_S + 30), Ok(()));
        }
        assert_eq!(admit("more", 0, NOW_S + 60), Err(ReplayError::Full), "the oldest may still come in this second");
        assert_eq!(cache.len(), 1_000);
        for i in 0..400 {
            assert_eq!(admit("more", i, NOW_S + 61), Ok(()), "{i}");
        }
        assert_eq!(admit("more", 400, NOW_S + 61), Err(ReplayError::Full));
        for i in 0..600 {
            assert_eq!(admit("new", i, NOW_S + 61), Err(ReplayError::Replayed), "{i}");
        }
        assert_eq!(cache.len(), 1_000);
    }

    #[test]
    fn many_threads_together_never_pass_the_bound() {
        let cache = cache(500);
        let won: usize = std::thread::scope(|scope| {
            let cache = &cache;
            let present = |n: u32| {
                move || (0..100).filter(|i| cache.admit("t", &format!("{n}.{i}"), NOW_S, at(NOW_S)).is_ok()).count()
            };
            let running: Vec<_> = (0..16).map(|n| scope.spawn(present(n))).collect();
            running.into_iter().filter_map(|t| t.join().ok()).sum()
        });
        assert_eq!((won, cache.len()), (500, 500));
    }

    /// A clock that ran ahead lets proofs be forgotten that pass again once it is set right.
    #[test]
    fn a_clock_that_is_set_back_does_not_revive_a_proof() {
        let cache = cache(10);
        assert_eq!(cache.admit("t", "a", NOW_S, at(NOW_S)), Ok(()));
        cache.sweep(at(NOW_S + 500));
        assert!(cache.is_empty());
        assert_eq!(cache.admit("t", "a", NOW_S, at(NOW_S)), Err(ReplayError::ClockSetBack));
        assert_eq!(cache.admit("t", "b", NOW_S + 500, at(NOW_S + 500)), Ok(()));
    }

    proptest::proptest! {
        /// Against a plain set: whatever comes in whatever order, a proof passes once.
        #[test]
        fn it_agrees_with_a_memory_without_end(
            steps in proptest::collection::vec((0_u8..4, 0_u8..20, -60_i64..=60, 0_i64..40, proptest::bool::ANY), 1..200),
        ) {
            let cache = cache(REPLAYS_MAX);
            let mut used = HashSet::new();
            let mut now_s = NOW_S;
            for (key, jti, offset_s, wait_s, sweeping) in steps {
                now_s += wait_s;
                if sweeping {
                    cache.sweep(at(now_s));
                }
                // The id holds the time, as a proof's text does: the same text never passes twice.
                let iat_s = now_s + offset_s;
                let (key, jti) = (key.to_string(), format!("{jti}@{iat_s}"));
                let admitted = cache.admit(&key, &jti, iat_s, at(now_s)).is_ok();
                proptest::prop_assert_eq!(admitted, used.insert((key, jti)));
            }
        }
    }
}
