//! How many different ones were there: exact up to 10,000, estimated beyond. Pure.
//!
//! Beyond that many the set becomes a HyperLogLog (Flajolet and others, 2007) of 4,096 registers: four KiB whatever comes,
//! with a standard error of 1.04 / sqrt(4096) = 1.6 %. Taking in the same one twice changes nothing, so a replay after a
//! crash counts nobody twice.

use std::collections::HashSet;

/// Up to here the number is exact.
pub const EXACT_MAX: usize = 10_000;
/// The standard error beyond, in tenths of a percent.
pub const ERROR_PER_MILLE: u32 = 16;
const INDEX_BITS: u32 = 12;
const REGISTERS: usize = 1 << INDEX_BITS;
const EXACT: u8 = 0;
const ESTIMATED: u8 = 1;

/// Spreads a number over all 64 bits (the finisher of SplitMix64, Steele and others, 2014): neighbours become strangers.
pub const fn spread(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// A set of which only the size is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Actives {
    /// All of them.
    Exact(HashSet<u64>),
    /// The registers.
    Estimated(Vec<u8>),
}

impl Default for Actives {
    fn default() -> Self {
        Self::Exact(HashSet::new())
    }
}

impl Actives {
    /// Takes one in by its [`spread`] number; says whether that may have changed the size.
    pub fn insert(&mut self, hash: u64) -> bool {
        match self {
            Self::Exact(set) => {
                let new = set.insert(hash);
                if set.len() > EXACT_MAX {
                    *self = Self::Estimated(raised(vec![0; REGISTERS], set));
                }
                new
            }
            Self::Estimated(registers) => register(registers, hash),
        }
    }

    /// Takes in all of another.
    pub fn merge(&mut self, other: &Self) {
        match (&mut *self, other) {
            (_, Self::Exact(set)) => {
                for hash in set {
                    self.insert(*hash);
                }
            }
            (Self::Estimated(mine), Self::Estimated(theirs)) => {
                mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine = (*mine).max(*theirs));
            }
            (Self::Exact(set), Self::Estimated(theirs)) => {
                *self = Self::Estimated(raised(theirs.clone(), set));
            }
        }
    }

    /// How many there are.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate of a count"
    )]
    pub fn count(&self) -> u64 {
        let registers = match self {
            Self::Exact(set) => return set.len() as u64,
            Self::Estimated(registers) => registers,
        };
        let m = REGISTERS as f64;
        let sum: f64 = registers.iter().map(|rank| (-f64::from(*rank)).exp2()).sum();
        // With hashes of 64 bits no correction for large numbers is needed.
        let raw = (0.7213 / (1.0 + 1.079 / m)) * m * m / sum;
        let empty = registers.iter().filter(|rank| **rank == 0).count();
        let few = if raw <= 2.5 * m && empty > 0 { m * (m / empty as f64).ln() } else { raw };
        few.round() as u64
    }

    /// For the data file.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Exact(set) => {
                let mut all: Vec<u64> = set.iter().copied().collect();
                all.sort_unstable();
                std::iter::once(EXACT).chain(all.into_iter().flat_map(u64::to_be_bytes)).collect()
            }
            Self::Estimated(registers) => std::iter::once(ESTIMATED).chain(registers.iter().copied()).collect(),
        }
    }

    /// From the data file; `None` for what is damaged.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        match *kind {
            EXACT if rest.len().is_multiple_of(8) && rest.len() / 8 <= EXACT_MAX => {
                let hash = |b: &[u8]| Some(u64::from_be_bytes(b.try_into().ok()?));
                Some(Self::Exact(rest.chunks_exact(8).map(hash).collect::<Option<_>>()?))
            }
            ESTIMATED if rest.len() == REGISTERS => Some(Self::Estimated(rest.to_vec())),
            _ => None,
        }
    }
}

/// The registers, raised by each of these hashes.
fn raised(mut registers: Vec<u8>, set: &HashSet<u64>) -> Vec<u8> {
    for hash in set {
        register(&mut registers, *hash);
    }
    registers
}

/// Raises the register of this hash; says whether it rose.
fn register(registers: &mut [u8], hash: u64) -> bool {
    let index = usize::try_from(hash >> (64 - INDEX_BITS)).unwrap_or(0);
    let rank = u8::try_from((hash << INDEX_BITS).leading_zeros().min(64 - INDEX_BITS) + 1).unwrap_or(u8::MAX);
    match registers.get_mut(index) {
        Some(register) if *register < rank => {
            *register = rank;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::cast_precision_loss, reason = "tests")]
    use super::*;

    fn of(numbers: std::ops::Range<u64>) -> Actives {
        let mut actives = Actives::default();
        for n in numbers {
            actives.insert(spread(n));
        }
        actives
    }

    #[test]
    fn up_to_ten_thousand_the_number_is_exact_and_beyond_it_is_within_the_stated_error() {
        for n in [0, 1, 9_999, 10_000] {
            assert_eq!(of(0..n).count(), n);
        }
        for n in [10_001, 15_000, 50_000, 300_000, 1_000_000] {
            let estimate = of(0..n).count() as f64;
            let error = (estimate - n as f64).abs() / n as f64;
            // Three standard errors: of a thousand such counts, three would lie further off.
            assert!(error < 3.0 * f64::from(ERROR_PER_MILLE) / 1_000.0, "{n}: {estimate}");
        }
    }

    #[test]
    fn twice_is_once_and_the_order_of_merging_does_not_matter() {
        for (a, b) in
            [(0..50, 25..75), (0..9_000, 5_000..14_000), (0..20_000, 0..3), (0..3, 0..20_000), (0..20_000, 9..30_000)]
        {
            let (a, b) = (of(a), of(b));
            let merge = |into: &Actives, other: &Actives| {
                let mut merged = into.clone();
                merged.merge(other);
                merged.merge(other);
                merged.count()
            };
            assert_eq!(merge(&a, &b), merge(&b, &a));
            assert!(merge(&a, &b) >= a.count().max(b.count()));
        }
    }

    #[test]
    fn what_was_stored_is_read_back_and_damage_is_seen() {
        for n in [0, 1, 10_000, 10_001] {
            assert_eq!(Actives::decode(&of(0..n).encode()).unwrap(), of(0..n));
        }
        for bad in [&[][..], &[0, 1], &[1, 2, 3], &[7]] {
            assert!(Actives::decode(bad).is_none(), "{bad:?}");
        }
    }
}
