//! SipHash-2-4 with a 128-bit result: a keyed hash for tables whose keys are chosen by strangers.
//!
//! Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012), and the authors' reference code for the longer
//! result. Not for signatures: whoever has the key can make collisions.

/// A secret key; two values of one key are alike only by chance.
#[derive(Clone, Copy)]
pub struct SipKey {
    low: u64,
    high: u64,
}

impl SipKey {
    /// The key of these random bytes.
    pub fn new(bytes: [u8; 16]) -> Self {
        let both = u128::from_le_bytes(bytes);
        Self { low: both as u64, high: (both >> 64) as u64 }
    }

    /// The hash of `message` followed by `kind`.
    pub fn hash(&self, kind: u8, message: &[u8]) -> u128 {
        let mut v = [
            self.low ^ 0x736f_6d65_7073_6575,
            self.high ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            self.low ^ 0x6c79_6765_6e65_7261,
            self.high ^ 0x7465_6462_7974_6573,
        ];
        let (words, rest) = message.as_chunks::<8>();
        for word in words {
            take(&mut v, u64::from_le_bytes(*word));
        }
        let last = rest.iter().chain([&kind]).rev().fold(0_u64, |word, byte| (word << 8) | u64::from(*byte));
        // Seven bytes and the kind fill a word; the length then stands alone.
        let open = if rest.len() == 7 {
            take(&mut v, last);
            0
        } else {
            last
        };
        let length = message.len().wrapping_add(1) as u64;
        take(&mut v, open | (length << 56));
        let mut half = |tag: usize, mark: u64| {
            if let Some(lane) = v.get_mut(tag) {
                *lane ^= mark;
            }
            (0..4).for_each(|_| round(&mut v));
            v.iter().fold(0, |all, lane| all ^ lane)
        };
        let (low, high) = (half(2, 0xee), half(1, 0xdd));
        u128::from(low) | (u128::from(high) << 64)
    }
}

fn take(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    round(v);
    v[0] ^= word;
}

fn round(v: &mut [u64; 4]) {
    let [a, b, c, d] = v;
    *a = a.wrapping_add(*b);
    *b = b.rotate_left(13) ^ *a;
    *a = a.rotate_left(32);
    *c = c.wrapping_add(*d);
    *d = d.rotate_left(16) ^ *c;
    *a = a.wrapping_add(*d);
    *d = d.rotate_left(21) ^ *a;
    *c = c.wrapping_add(*b);
    *b = b.rotate_left(17) ^ *c;
    *c = c.rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The authors' vectors for the key 00 to 0f and messages 00, 00 01, ...
    #[test]
    fn it_agrees_with_the_published_vectors() {
        let key = SipKey::new(std::array::from_fn(|i| i as u8));
        let message: Vec<u8> = (0..64).collect();
        for (last, expected) in [
            (0_u8, "da87c1d86b99af44347659119b22fc45"),
            (1, "8177228da4a45dc7fca38bdef60affe4"),
            (2, "9c70b60c5267a94e5f33b6b02985ed51"),
        ] {
            let hash = key.hash(last, message.get(..usize::from(last)).unwrap_or_default());
            let text: String = hash.to_le_bytes().iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(text, expected, "{} bytes", last + 1);
        }
    }

    /// At every length around the edges of words.
    #[test]
    fn every_byte_counts_at_every_length() {
        let key = SipKey::new([9; 16]);
        let mut seen = std::collections::HashSet::new();
        for length in 0..40 {
            let message = vec![0_u8; length];
            for kind in 0..4 {
                assert!(seen.insert(key.hash(kind, &message)), "{length} bytes, kind {kind}");
            }
            for at in 0..length {
                let mut other = message.clone();
                if let Some(byte) = other.get_mut(at) {
                    *byte = 1;
                }
                assert!(seen.insert(key.hash(0, &other)), "{length} bytes, changed at {at}");
            }
        }
    }
}
