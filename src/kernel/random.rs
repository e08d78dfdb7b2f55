//! The one source of chance.

use std::sync::{Arc, Mutex, PoisonError};

/// Where random bytes come from: the operating system, or a seed that makes a whole run repeatable. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Random {
    /// The operating system's generator.
    System,
    /// SplitMix64 from a seed. For tests and simulations only: it is not secret.
    Seeded(Arc<Mutex<u64>>),
}

impl Random {
    /// A repeatable source.
    pub fn seeded(seed: u64) -> Self {
        Self::Seeded(Arc::new(Mutex::new(seed)))
    }

    /// Fills `out`.
    ///
    /// # Panics
    /// When the operating system cannot give random bytes: nothing secret can be made then, and going on would be worse.
    #[expect(clippy::disallowed_methods, clippy::panic, reason = "the one place that draws from the system")]
    pub fn fill(&self, out: &mut [u8]) {
        match self {
            Self::System => {
                if let Err(e) = getrandom::fill(out) {
                    panic!("the operating system gives no random bytes: {e}");
                }
            }
            Self::Seeded(state) => {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                for chunk in out.chunks_mut(8) {
                    let bytes = splitmix64(&mut state).to_le_bytes();
                    for (o, b) in chunk.iter_mut().zip(bytes) {
                        *o = b;
                    }
                }
            }
        }
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// A random 64-bit number.
    pub fn u64(&self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
}

/// One step of SplitMix64 (Steele, Lea, Flood 2014).
pub fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
