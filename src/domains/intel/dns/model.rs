//! The table and what is computed from it.

/// Hashed features, a weight each. A power of two.
pub(super) const BUCKETS: usize = 1 << 15;
/// The first line of a table: what it is, and its version.
const HEAD: &str = "blockremote-dns-weights 1";
const WEIGHTS_A_LINE: usize = 56;
/// Labels below this length are names of everything.
const LABEL_LEN_MIN: usize = 4;
/// RFC 1035, section 2.3.4.
const LABEL_LEN_MAX: usize = 63;
const NAME_LEN_MAX: usize = 253;
/// N-grams of the longest label with both ends, and the few features of its shape.
const FEATURES_MAX: usize = 4 * (LABEL_LEN_MAX + 2) + 8;

/// Why a text is no table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("is not a table of DNS weights of version 1")]
pub struct BadModel;

/// Weights of all features.
pub struct Model {
    scale: f32,
    bias: f32,
    weights: Box<[i8]>,
}

/// The features of one label: their places in the table. N-grams share one unit of weight, each sign of shape has its own.
pub(super) struct Features {
    buckets: [u16; FEATURES_MAX],
    grams: usize,
    len: usize,
}

impl Features {
    /// `None` for a label that is too short or too long to say anything about.
    pub fn of(label: &str) -> Option<Self> {
        if !(LABEL_LEN_MIN..=LABEL_LEN_MAX).contains(&label.len()) {
            return None;
        }
        let mut text = [0_u8; LABEL_LEN_MAX + 2];
        let used = text.get_mut(..label.len() + 2)?;
        if let [first, middle @ .., last] = &mut *used {
            (*first, *last) = (b'^', b'$');
            for (to, from) in middle.iter_mut().zip(label.bytes()) {
                *to = from.to_ascii_lowercase();
            }
        }
        let mut features = Self { buckets: [0; FEATURES_MAX], grams: 0, len: 0 };
        for n in 1..=4 {
            for gram in used.windows(n) {
                features.push(n as u8, gram);
            }
        }
        features.grams = features.len;
        let middle = used.get(1..used.len() - 1)?;
        let count = |of: fn(u8) -> bool| middle.iter().filter(|b| of(**b)).count();
        let length = label.len() as u8;
        let vowels = count(|b| matches!(b, b'a' | b'e' | b'i' | b'o' | b'u' | b'y'));
        let digits = count(|b| b.is_ascii_digit());
        let hyphens = count(|b| b == b'-');
        let mut seen = 0_u64;
        for b in middle {
            seen |= 1 << (b & 63);
        }
        let distinct = seen.count_ones() as usize;
        let share = |part: usize| (part * 10 / label.len()) as u8;
        features.push(b'l', &[length]);
        features.push(b'v', &[share(vowels), length / 6]);
        features.push(b'd', &[share(digits), length / 6]);
        features.push(b'h', &[hyphens.min(4) as u8]);
        features.push(b'u', &[share(distinct), length / 4]);
        features.push(b'c', &[longest_run(middle).min(12), length / 8]);
        Some(features)
    }

    fn push(&mut self, kind: u8, bytes: &[u8]) {
        // FNV-1a: speed and spread are wanted, an adversary could choose any name anyway.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ u64::from(kind);
        for b in bytes {
            hash = (hash ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        let bucket = (hash ^ (hash >> 29)) & (BUCKETS as u64 - 1);
        if let Some(place) = self.buckets.get_mut(self.len) {
            *place = bucket as u16;
            self.len += 1;
        }
    }

    /// Each bucket with its share in the sum.
    pub fn iter(&self) -> impl Iterator<Item = (usize, f32)> {
        let each = 4.0 / (self.grams.max(1) as f32).sqrt();
        let used = self.buckets.iter().take(self.len).enumerate();
        used.map(move |(i, bucket)| (usize::from(*bucket), if i < self.grams { each } else { 1.0 }))
    }
}

/// The longest run of consonants and digits: people's names have to be spoken.
fn longest_run(label: &[u8]) -> u8 {
    let (mut longest, mut run) = (0_u8, 0_u8);
    for b in label {
        run = if matches!(b, b'a' | b'e' | b'i' | b'o' | b'u' | b'y' | b'-') { 0 } else { run.saturating_add(1) };
        longest = longest.max(run);
    }
    longest
}

/// The labels of a name that somebody chose: neither the top level nor the `co` of `co.uk`.
pub(super) fn chosen_labels(name: &str) -> impl Iterator<Item = &str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let fits = name.len() <= NAME_LEN_MAX;
    name.rsplit('.').skip(1).filter(move |_| fits).filter(|label| !label.starts_with("xn--"))
}

impl Model {
    /// Reads a table.
    ///
    /// # Errors
    /// [`BadModel`] for anything but the text of [`Model::to_text`].
    pub fn from_text(text: &str) -> Result<Self, BadModel> {
        let mut lines = text.lines();
        if lines.next() != Some(HEAD) {
            return Err(BadModel);
        }
        let mut number = |name: &str| {
            let value = lines.next()?.strip_prefix(name)?.strip_prefix(' ')?.parse::<f32>().ok()?;
            value.is_finite().then_some(value)
        };
        let (scale, bias) = (number("scale").ok_or(BadModel)?, number("bias").ok_or(BadModel)?);
        let mut weights = Vec::with_capacity(BUCKETS);
        for line in lines {
            let (pairs, rest) = line.as_bytes().as_chunks::<2>();
            if !rest.is_empty() || weights.len() + pairs.len() > BUCKETS {
                return Err(BadModel);
            }
            for pair in pairs {
                let digits = std::str::from_utf8(pair).map_err(|_| BadModel)?;
                weights.push(u8::from_str_radix(digits, 16).map_err(|_| BadModel)?.cast_signed());
            }
        }
        if weights.len() != BUCKETS {
            return Err(BadModel);
        }
        Ok(Self { scale, bias, weights: weights.into() })
    }

    /// The table as it is shipped: a line of what it is, scale and bias, then a byte for each weight in hexadecimal.
    pub fn to_text(&self) -> String {
        let mut out = format!("{HEAD}\nscale {}\nbias {}\n", self.scale, self.bias);
        for line in self.weights.chunks(WEIGHTS_A_LINE) {
            out.extend(line.iter().map(|weight| format!("{weight:02x}")));
            out.push('\n');
        }
        out
    }

    /// Rounds fitted weights to a byte each; the largest decides the scale.
    #[expect(clippy::cast_possible_truncation, reason = "rounded to -127 to 127")]
    pub(super) fn of(weights: &[f32], bias: f32) -> Self {
        let largest = weights.iter().fold(1e-6_f32, |most, w| most.max(w.abs()));
        let scale = largest / 127.0;
        Self { scale, bias, weights: weights.iter().map(|w| (w / scale).round() as i8).collect() }
    }

    /// See [`super::dns_score`].
    pub fn score(&self, name: &str) -> f32 {
        let scores = chosen_labels(name).filter_map(|label| Some(self.label(&Features::of(label)?)));
        scores.fold(None, |worst: Option<f32>, score| Some(worst.map_or(score, |w| w.max(score)))).unwrap_or(0.5)
    }

    fn label(&self, features: &Features) -> f32 {
        let sum: f32 = features
            .iter()
            .map(|(bucket, share)| self.weights.get(bucket).map_or(0.0, |w| f32::from(*w)) * share)
            .sum();
        // A logistic curve without an exponential: only operations that IEEE 754 fixes to the bit.
        let x = self.bias + sum * self.scale;
        0.5 + 0.5 * x / (1.0 + x.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_table_is_read_to_the_letter_and_nothing_else_is_a_table() {
        let shipped = include_str!("model.txt");
        assert_eq!(Model::from_text(shipped).map(|model| model.to_text()).as_deref(), Ok(shipped));
        let (cut, more) = (shipped.trim_end_matches(|c: char| c != '\n'), format!("{shipped}00\n"));
        for bad in [
            "",
            shipped.trim_start_matches("blockremote"),
            &shipped.replacen("weights 1", "weights 2", 1),
            &shipped.replacen("scale ", "scale NaN", 1),
            &more,
            cut.get(..cut.len() - 10).unwrap_or_default(),
        ] {
            assert!(Model::from_text(bad).is_err());
        }
    }
}
