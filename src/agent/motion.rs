//! Where a reference agent's readings come from: a model of a person, a recording, or an attack.
//!
//! All are seeded and repeatable. They make what a device would send and know nothing of how it is judged.

pub mod attack;
pub mod human;
pub mod replay;

pub use attack::{Attack, AttackKind};
pub use human::Human;
pub use replay::{Recording, Replay, ReplayError};

use crate::domains::signals::engine::reading::{Reading, Touch};
use crate::kernel::random::splitmix64;

/// Spacing of the readings that are made up here: 50 Hz.
pub const DT_MS: u64 = 20;
const DT_S: f32 = 0.02;
/// Standard gravity, m/s².
const GRAVITY: f32 = 9.806_65;

/// A device's sensors, one reading after the other. Never ends.
pub trait MotionSource {
    /// The next reading; `t_ms` never falls.
    fn next_reading(&mut self) -> Reading;
}

impl<M: MotionSource + ?Sized> MotionSource for Box<M> {
    fn next_reading(&mut self) -> Reading {
        (**self).next_reading()
    }
}

/// Repeatable chance from a seed.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        // Two steps apart, so that neighbouring seeds do not share a stream.
        let mut state = seed ^ 0x5851_F42D_4C95_7F2D;
        Self(splitmix64(&mut state))
    }

    /// At least `low`, below `high`.
    pub(crate) fn between(&mut self, low: f32, high: f32) -> f32 {
        let unit = (splitmix64(&mut self.0) >> 40) as f32 / 16_777_216.0;
        low + (high - low) * unit
    }

    pub(crate) fn chance(&mut self, probability: f32) -> bool {
        self.between(0.0, 1.0) < probability
    }

    /// Standard normal: the sum of twelve uniform numbers is near enough for motion and costs no logarithm.
    pub(crate) fn normal(&mut self) -> f32 {
        let mut total = 0_u32;
        for _ in 0..3 {
            let bits = splitmix64(&mut self.0);
            for shift in [0, 16, 32, 48] {
                total += u32::try_from(bits >> shift & 0xFFFF).unwrap_or(0);
            }
        }
        total as f32 / 65_536.0 - 6.0
    }

    /// Log-normal with this median.
    pub(crate) fn log_normal(&mut self, median: f32, sigma: f32) -> f32 {
        median * (sigma * self.normal()).exp()
    }

    pub(crate) fn u64(&mut self) -> u64 {
        splitmix64(&mut self.0)
    }
}

/// Rounds to a sensor's step.
fn quantise(v: f32, step: f32) -> f32 {
    (v / step).round() * step
}

/// Decides when the screen is touched: bursts of log-normal intervals with pauses between them.
#[derive(Clone, Debug)]
struct Fingers {
    median_ms: f32,
    pause_ms: (f32, f32),
    left: u32,
    next_ms: f32,
    since_ms: f32,
}

impl Fingers {
    fn new(dice: &mut Dice, median_ms: f32, first_ms: (f32, f32), pause_ms: (f32, f32)) -> Self {
        let next_ms = dice.between(first_ms.0, first_ms.1);
        Self { median_ms, pause_ms, left: 4, next_ms, since_ms: 0.0 }
    }

    /// One tick of [`DT_MS`] later: a touch, where one is due.
    fn tick(&mut self, dice: &mut Dice) -> Option<Touch> {
        self.since_ms += DT_MS as f32;
        self.next_ms -= DT_MS as f32;
        if self.next_ms > 0.0 {
            return None;
        }
        if self.left == 0 {
            self.left = dice.between(4.0, 25.0) as u32;
            self.next_ms = dice.between(self.pause_ms.0, self.pause_ms.1);
        } else {
            self.left -= 1;
            self.next_ms = dice.log_normal(self.median_ms, 0.45).clamp(60.0, 4000.0);
        }
        let touch = Touch {
            x: dice.between(0.05, 0.95),
            y: dice.between(0.3, 0.98),
            pressure: (0.32 + 0.08 * dice.normal()).clamp(0.05, 1.0),
            interval_ms: self.since_ms.round(),
        };
        self.since_ms = 0.0;
        Some(touch)
    }
}

#[cfg(test)]
mod tests;
