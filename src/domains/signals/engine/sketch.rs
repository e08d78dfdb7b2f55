//! Finds recorded motion that is played again: remembers a hash of every four neighbouring readings and looks for them
//! coming back in the same order, bit for bit.
//!
//! A sensor's noise never repeats exactly while the device moves. A device at rest may repeat a value for seconds, so a
//! match counts only where the value has just changed; whether the rest matters is for the rules.

use super::codec::{CodecError, take_u8, take_u32};

/// Shingles remembered: 7.7 s at 50 Hz.
pub(super) const SHINGLES: usize = 384;

/// Shorter lags are a sensor that repeats values, not a loop.
const LAG_MIN: u16 = 8;

/// The memory of past motion and how long the present repeats it.
#[derive(Clone, Debug)]
pub(super) struct Sketch {
    hashes: [u32; SHINGLES],
    /// Where the next hash goes.
    head: u16,
    filled: u16,
    /// Hashes of the last three readings, newest first.
    recent: [u32; 3],
    seen: u8,
    /// Readings back to the copy that the present follows; 0 while it follows none.
    lag: u16,
    /// Changed readings that matched at this lag.
    run: u16,
}

impl Sketch {
    pub(super) fn new() -> Self {
        Self { hashes: [0; SHINGLES], head: 0, filled: 0, recent: [0; 3], seen: 0, lag: 0, run: 0 }
    }

    /// How many changed readings in a row repeat the past at one lag.
    pub(super) fn run(&self) -> u16 {
        self.run
    }

    /// Takes the hash of one reading.
    pub(super) fn push(&mut self, reading: u32) {
        let [a, b, c] = self.recent;
        let changed = reading != a;
        self.recent = [reading, a, b];
        if self.seen < 3 {
            self.seen += 1;
            return;
        }
        let shingle = mix(mix(mix(reading, a), b), c) | 1;
        if changed {
            if self.lag == 0 || self.back(self.lag) != Some(shingle) {
                self.lag = self.find(shingle);
                self.run = u16::from(self.lag != 0);
            } else {
                self.run = self.run.saturating_add(1);
            }
        }
        if let Some(slot) = self.hashes.get_mut(usize::from(self.head)) {
            *slot = shingle;
        }
        self.head = if usize::from(self.head) + 1 == SHINGLES { 0 } else { self.head + 1 };
        if usize::from(self.filled) < SHINGLES {
            self.filled += 1;
        }
    }

    /// The shingle `lag` readings ago.
    fn back(&self, lag: u16) -> Option<u32> {
        if lag == 0 || lag > self.filled {
            return None;
        }
        let (head, lag) = (usize::from(self.head), usize::from(lag));
        self.hashes.get(if head >= lag { head - lag } else { head + SHINGLES - lag }).copied()
    }

    /// The lag of an earlier occurrence; 0 when there is none. Free slots hold 0, which no shingle is.
    fn find(&self, shingle: u32) -> u16 {
        let (blocks, _) = self.hashes.as_chunks::<16>();
        for (index, block) in blocks.iter().enumerate() {
            // Without an early exit inside the block the compiler compares it in vector registers.
            if block.iter().fold(false, |hit, &h| hit | (h == shingle)) {
                for (offset, _) in block.iter().enumerate().filter(|(_, h)| **h == shingle) {
                    let place = index * 16 + offset;
                    let head = usize::from(self.head);
                    let lag = if head > place { head - place } else { head + SHINGLES - place };
                    let lag = u16::try_from(lag).unwrap_or(0);
                    if lag >= LAG_MIN {
                        return lag;
                    }
                }
            }
        }
        0
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for n in [self.head, self.filled, self.lag, self.run] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.push(self.seen);
        for h in self.recent.iter().chain(self.hashes.iter().take(usize::from(self.filled))) {
            out.extend_from_slice(&h.to_le_bytes());
        }
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, CodecError> {
        let mut numbers = [0_u16; 4];
        for n in &mut numbers {
            *n = u16::from_le_bytes(super::codec::take(input)?);
        }
        let [head, filled, lag, run] = numbers;
        let seen = take_u8(input)?;
        let (full, fill) = (SHINGLES, usize::from(filled));
        // Until the memory is full its head is where the filling stands.
        if fill > full || usize::from(head) >= full || (fill < full && head != filled) || lag > filled || seen > 3 {
            return Err(CodecError::Invalid("motion memory"));
        }
        let mut sketch = Self { head, filled, lag, run, seen, ..Self::new() };
        for h in &mut sketch.recent {
            *h = take_u32(input)?;
        }
        for h in sketch.hashes.iter_mut().take(fill) {
            *h = take_u32(input)?;
        }
        Ok(sketch)
    }
}

/// Folds a word into a hash; good enough to tell motions apart, not meant to withstand an adversary's collisions,
/// which would only ever count against him.
pub(super) fn mix(hash: u32, word: u32) -> u32 {
    let x = (hash.rotate_left(13) ^ word).wrapping_mul(0x9E37_79B1);
    x ^ (x >> 15)
}
