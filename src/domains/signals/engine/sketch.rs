//! Finds recorded motion that is played again bit for bit: remembers hashes of four neighbouring readings and looks for
//! them coming back in the same order.
//!
//! Only every tenth hash is kept, chosen by the hash itself, so that a replay keeps the same ones and a small memory
//! reaches back 3,200 readings. A sensor's noise never repeats exactly while the device moves; one at rest may repeat a
//! value for seconds, so a hash counts only where the value has just changed.

use super::codec::{CodecError, take_u8, take_u32};

/// Shingles remembered: of about 3,200 changed readings.
pub(super) const SHINGLES: usize = 320;

/// One shingle in so many is remembered, by its own hash.
const CHOSEN: u32 = 10;

/// The memory of past motion and how long the present repeats it.
#[derive(Clone, Debug)]
pub(super) struct Sketch {
    /// The upper halves: two in a row are as good as a whole one.
    hashes: [u16; SHINGLES],
    /// Where the next hash goes.
    head: u16,
    filled: u16,
    /// Hashes of the last three readings, newest first.
    recent: [u32; 3],
    seen: u8,
    /// Remembered shingles back to the copy that the present follows; 0 while it follows none.
    lag: u16,
    /// Remembered shingles in a row that matched at this lag.
    run: u16,
}

impl Sketch {
    pub(super) fn new() -> Self {
        Self { hashes: [0; SHINGLES], head: 0, filled: 0, recent: [0; 3], seen: 0, lag: 0, run: 0 }
    }

    /// How many remembered shingles in a row repeat the past in its order; each stands for ten changed readings.
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
        if !changed || !(shingle >> 1).is_multiple_of(CHOSEN) {
            return;
        }
        // Free slots hold 0, which no remembered shingle is.
        let shingle = ((shingle >> 16) as u16).max(1);
        if self.lag == 0 || self.back(self.lag) != Some(shingle) {
            self.lag = self.find(shingle);
            self.run = u16::from(self.lag != 0);
        } else {
            self.run = self.run.saturating_add(1);
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
    fn back(&self, lag: u16) -> Option<u16> {
        if lag == 0 || lag > self.filled {
            return None;
        }
        let (head, lag) = (usize::from(self.head), usize::from(lag));
        self.hashes.get(if head >= lag { head - lag } else { head + SHINGLES - lag }).copied()
    }

    /// The lag of an earlier occurrence; 0 when there is none. Free slots hold 0, which no shingle is.
    fn find(&self, shingle: u16) -> u16 {
        let (blocks, _) = self.hashes.as_chunks::<16>();
        for (index, block) in blocks.iter().enumerate() {
            // Without an early exit inside the block the compiler compares it in vector registers.
            if block.iter().fold(false, |hit, &h| hit | (h == shingle))
                && let Some(offset) = block.iter().position(|h| *h == shingle)
            {
                let place = index * 16 + offset;
                let head = usize::from(self.head);
                let lag = if head > place { head - place } else { head + SHINGLES - place };
                return u16::try_from(lag).unwrap_or(0);
            }
        }
        0
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for n in [self.head, self.filled, self.lag, self.run] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.push(self.seen);
        for h in self.recent {
            out.extend_from_slice(&h.to_le_bytes());
        }
        for h in self.hashes.iter().take(usize::from(self.filled)) {
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
            *h = u16::from_le_bytes(super::codec::take(input)?);
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
