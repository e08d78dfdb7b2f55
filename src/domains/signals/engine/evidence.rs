//! Statistical tests of motion, and how their evidence accumulates: one odd window decides nothing.
//!
//! Each test gives, now and then, how rare a value is among genuine devices in the same context and at the same pace, in
//! decades. The evidence of a test is a one-sided cumulative sum (Page, Biometrika 1954) of these: it rises while windows
//! stay rarer than one in thirty and falls otherwise. For independent genuine windows the chance that a sum reaches a
//! bound falls by a decade with each decade of the bound, hence the bounds here: a challenge once in hours, a block
//! once in a device's month.

use super::codec::{CodecError, put_f32s, take_f32s};
use super::context::Context;
use super::population::{Pace, Population};

macro_rules! tests {
    ($($name:ident, $text:literal, $feature:literal;)+) => {
        /// A test of motion. High values are suspicious.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Test { $(#[doc = $feature] $name,)+ }

        impl Test {
            /// All of them.
            pub const ALL: [Self; TESTS] = [$(Self::$name,)+];

            /// Stable, as in the population table and on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }

        /// How many tests there are.
        pub const TESTS: usize = [$($text),+].len();
    };
}

tests! {
    White, "white", "Neighbouring readings have nothing to do with each other: no inertia.";
    Wave, "wave", "The motion is a pure wave.";
    Loop, "loop", "The last second repeats itself, over ten to 75 readings.";
    Copy, "copy", "Changed readings in a row that repeat the past bit for bit.";
    Recall, "recall", "The last seconds follow a stretch of the last minute too closely.";
    Apart, "apart", "Acceleration and rotation do not move together.";
    Stuck, "stuck", "All sensors give the same bits for long.";
    Rhythm, "rhythm", "The intervals of the touches are anybody's rather than the owner's.";
}

/// A window that is rarer than one in 10^1.5 adds to the evidence; any other takes from it.
const ALLOWANCE: f32 = 1.5;
/// Evidence that asks.
pub(super) const ASK: f32 = 4.0;
/// Evidence that locks.
pub(super) const LOCK: f32 = 7.0;
/// More changes nothing, but takes longer to fade.
const MOST: f32 = 10.0;

/// The cumulative sum after one more window.
pub fn gathered(level: f32, decades: f32, share: f32) -> f32 {
    (level + share * (decades - ALLOWANCE)).clamp(0.0, MOST)
}

/// What a test last saw and has gathered.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weighed {
    /// The last value.
    pub value: f32,
    /// What half of the genuine devices stay below in this context.
    pub usual: f32,
    /// How rare the value was, in decades.
    pub decades: f32,
    /// The evidence gathered, in decades.
    pub level: f32,
}

/// A value as it was weighed, and the share of its window that was new: for whoever fits a population.
pub type Heard = (Test, Context, Pace, f32, f32);

/// All tests of one device.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    weighed: [Weighed; TESTS],
    /// Every value that is weighed, while somebody fits a population; no part of the state.
    heard: Option<Vec<Heard>>,
}

impl Evidence {
    /// Takes a value of a test. `share` is how much of the window is new since the value before: overlapping windows
    /// count as what they add. Where the population has no tail the test abstains.
    pub(super) fn weigh(
        &mut self,
        (test, value, share): (Test, f32, f32),
        (context, pace): (Context, Pace),
        population: &Population,
    ) {
        let Some(slot) = self.weighed.get_mut(test as usize) else { return };
        slot.value = value;
        if let Some(heard) = &mut self.heard {
            heard.push((test, context, pace, value, share));
        }
        let Some(tail) = population.tail(test, context, pace) else {
            (slot.usual, slot.decades) = (0.0, 0.0);
            return;
        };
        slot.usual = tail.usual();
        slot.decades = tail.decades(value);
        slot.level = gathered(slot.level, slot.decades, share);
    }

    /// Old evidence fades while a test abstains.
    pub(super) fn fade(&mut self, test: Test, decades: f32) {
        if let Some(slot) = self.weighed.get_mut(test as usize) {
            slot.level = (slot.level - decades).max(0.0);
            (slot.value, slot.decades) = (0.0, 0.0);
        }
    }

    /// Keeps the evidence of a test below what would lock.
    pub(super) fn cap(&mut self, test: Test, most: f32) {
        if let Some(slot) = self.weighed.get_mut(test as usize) {
            slot.level = slot.level.min(most);
        }
    }

    pub(super) fn listen(&mut self) {
        self.heard = Some(Vec::new());
    }

    pub(super) fn take_heard(&mut self) -> Vec<Heard> {
        self.heard.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn level(&self, test: Test) -> f32 {
        self.weighed.get(test as usize).map_or(0.0, |w| w.level)
    }

    /// The strongest evidence of any test.
    pub(super) fn most(&self) -> f32 {
        self.weighed.iter().map(|w| w.level).fold(0.0, f32::max)
    }

    pub(super) fn all(&self) -> [Weighed; TESTS] {
        self.weighed
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for w in &self.weighed {
            put_f32s(out, &[w.value, w.usual, w.decades, w.level]);
        }
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, CodecError> {
        let mut evidence = Self::default();
        for slot in &mut evidence.weighed {
            let [value, usual, decades, level] = take_f32s(input)?;
            *slot = Weighed { value, usual, decades, level };
        }
        Ok(evidence)
    }
}
