//! The trust score as a type.

use serde::{Deserialize, Serialize};

/// How far a device is trusted: 0 is hostile, 100 is "its owner holds it".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrustScore(u8);

impl TrustScore {
    /// The owner holds the device.
    pub const MAX: Self = Self(100);
    /// Hostile.
    pub const MIN: Self = Self(0);

    /// Clamps to 100.
    pub const fn new(points: u8) -> Self {
        if points > 100 { Self(100) } else { Self(points) }
    }

    /// Rounds to the nearest point and clamps; NaN, which only a defect can produce, counts as hostile.
    pub fn from_f32(points: f32) -> Self {
        if points.is_nan() {
            return Self::MIN;
        }
        // The clamp makes the cast exact.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Self(points.round().clamp(0.0, 100.0) as u8)
    }

    /// The points, 0 to 100.
    pub const fn points(self) -> u8 {
        self.0
    }
}
