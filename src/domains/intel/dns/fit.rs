//! Makes the table: legitimate names against names that generators of every known manner make here, none of them taken
//! from malware, so that the table holds nobody's data but the names' and the words'.

use super::model::{BUCKETS, Features, Model, chosen_labels};

/// How the table was made; printed by the command.
#[derive(Clone, Copy, Debug)]
pub struct Fitted {
    /// Legitimate labels.
    pub legitimate: usize,
    /// Generated labels.
    pub generated: usize,
    /// Share of either that a score of 0.5 tells right.
    pub accuracy: f32,
}

const PASSES: usize = 6;
const RATE: f32 = 0.15;

/// Chance that the same seed repeats: SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `n` - 1.
    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).unwrap_or(0)
    }

    fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    fn of<'t, T>(&mut self, items: &'t [T]) -> Option<&'t T> {
        items.get(self.below(items.len()))
    }
}

const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
const CONSONANTS: &[u8] = b"bcdfghjklmnpqrstvwxz";
const VOWELS: &[u8] = b"aeiouy";
const ALPHANUMERIC: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const HEXADECIMAL: &[u8] = b"0123456789abcdef";

/// A name as a generator of malware would make it.
fn generated(dice: &mut Dice, words: &[&str]) -> String {
    match dice.below(20) {
        0..=2 => drawn(dice, LETTERS, 5, 12),
        3 => drawn(dice, LETTERS, 10, 24),
        4 => drawn(dice, ALPHANUMERIC, 10, 32),
        5 => drawn(dice, HEXADECIMAL, 8, 32),
        // A short alphabet: a shift register or a sum of digits.
        6 | 7 => {
            let some: Vec<u8> = (0..dice.between(6, 14)).filter_map(|_| dice.of(LETTERS).copied()).collect();
            drawn(dice, &some, 8, 20)
        }
        8..=10 => syllables(dice, false),
        11 | 12 => syllables(dice, true),
        _ => in_a_row(dice, words),
    }
}

fn drawn(dice: &mut Dice, alphabet: &[u8], low: usize, high: usize) -> String {
    (0..dice.between(low, high)).filter_map(|_| dice.of(alphabet).map(|b| char::from(*b))).collect()
}

/// Consonant and vowel in turn, with closed syllables where `closed`.
fn syllables(dice: &mut Dice, closed: bool) -> String {
    let mut out = String::new();
    let length = dice.between(5, 14);
    if dice.below(3) == 0 {
        out.extend(dice.of(VOWELS).map(|b| char::from(*b)));
    }
    while out.len() < length {
        out.extend(dice.of(CONSONANTS).map(|b| char::from(*b)));
        out.extend(dice.of(VOWELS).map(|b| char::from(*b)));
        if closed && dice.below(2) == 0 {
            out.extend(dice.of(CONSONANTS).map(|b| char::from(*b)));
        }
    }
    out.truncate(length);
    out
}

/// Words of a dictionary without anything between them, the last one sometimes cut.
fn in_a_row(dice: &mut Dice, words: &[&str]) -> String {
    let length = dice.between(12, 28);
    let mut out = String::new();
    while out.len() < length {
        out.extend(dice.of(words).copied());
        if words.is_empty() {
            break;
        }
    }
    if dice.below(3) == 0 { out.chars().take(length).collect() } else { out }
}

/// Fits the table to `names` (one domain name a line) and `words` (one word a line). The same input gives the same table.
///
/// Logistic regression by stochastic gradient descent, each class weighing the same.
pub fn fit(names: &str, words: &str, seed: u64) -> (Model, Fitted) {
    let mut dice = Dice(seed);
    let words: Vec<&str> =
        words.lines().filter(|w| (3..=10).contains(&w.len()) && w.bytes().all(|b| b.is_ascii_lowercase())).collect();
    let mut samples: Vec<(Features, f32)> = Vec::new();
    for line in names.lines() {
        let labels = chosen_labels(line.trim()).filter_map(Features::of);
        samples.extend(labels.map(|features| (features, 0.0)));
    }
    let legitimate = samples.len();
    let made = (0..legitimate).filter_map(|_| Features::of(&generated(&mut dice, &words)));
    samples.extend(made.map(|features| (features, 1.0)));
    let mut weights = vec![0.0_f32; BUCKETS];
    let mut bias = 0.0_f32;
    let mut order: Vec<usize> = (0..samples.len()).collect();
    for pass in 0..PASSES {
        for i in (1..order.len()).rev() {
            order.swap(i, dice.below(i + 1));
        }
        let rate = RATE / (1.0 + pass as f32);
        for (features, wanted) in order.iter().filter_map(|i| samples.get(*i)) {
            let x = bias + value(&weights, features);
            let step = rate * (wanted - 1.0 / (1.0 + (-x).exp()));
            bias += step * 0.01;
            for (bucket, share) in features.iter() {
                if let Some(weight) = weights.get_mut(bucket) {
                    *weight += step * share - rate * 1e-5 * *weight;
                }
            }
        }
    }
    let right = samples.iter().filter(|(f, wanted)| (bias + value(&weights, f) > 0.0) == (*wanted > 0.5)).count();
    let fitted = Fitted {
        legitimate,
        generated: samples.len() - legitimate,
        accuracy: right as f32 / samples.len().max(1) as f32,
    };
    (Model::of(&weights, bias), fitted)
}

fn value(weights: &[f32], features: &Features) -> f32 {
    features.iter().map(|(bucket, share)| weights.get(bucket).copied().unwrap_or(0.0) * share).sum()
}
