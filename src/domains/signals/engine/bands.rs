//! How strongly a device moves at each pace, whichever way it lies: band energies of |acceleration| and |rotation|.
//!
//! A ladder of exponential means splits each magnitude into bands by difference; the energy of each band is a mean over
//! about a second. Constant work for each reading, at any rate; bands that are faster than the readings hold nothing.

use super::codec::{CodecError, put_f32s, take_f32s};
use super::features::log2;

/// Time constants of the ladder's means, ms.
const LADDER_MS: [f32; BANDS] = [15.0, 30.0, 60.0, 120.0, 240.0, 480.0];
/// Bands of each magnitude.
const BANDS: usize = 6;
/// Memory of the energies, ms.
const ENERGY_MS: f32 = 1000.0;
/// Memory of the envelopes, ms.
const ENVELOPE_MS: f32 = 60.0;
/// Memory of what the envelopes share, ms: at 2.5 s and an evaluation after 5 the beginning has faded.
const SHARED_MS: f32 = 2500.0;
/// The energies need this long after a beginning, ms.
const SETTLED_MS: f32 = 3000.0;
/// The fastest band says more of the sensor than of the person and is left out of a person's traits.
const FASTEST: usize = 1;

/// Numbers that describe how somebody moves.
pub const TRAITS: usize = 2 * (BANDS - FASTEST) + 1;

/// Weight of one step of `dt_ms` in a mean over `tau_ms`: implicit, so that it is stable at any step.
fn weight(dt_ms: f32, tau_ms: f32) -> f32 {
    dt_ms / (dt_ms + tau_ms)
}

#[derive(Clone, Debug, Default)]
struct Ladder {
    means: [f32; BANDS],
    energy: [f32; BANDS],
    envelope: f32,
}

impl Ladder {
    fn start(&mut self, value: f32) {
        *self = Self { means: [value; BANDS], ..Self::default() };
    }

    fn push(&mut self, value: f32, step: f32, weights: &Weights) {
        let mut above = value;
        for ((mean, energy), w) in self.means.iter_mut().zip(&mut self.energy).zip(weights.ladder) {
            *mean += w * (value - *mean);
            let band = above - *mean;
            *energy += weights.energy * (band * band - *energy);
            above = *mean;
        }
        self.envelope += weights.envelope * (step - self.envelope);
    }

    fn activity(&self) -> f32 {
        self.energy.iter().sum::<f32>().max(0.0).sqrt()
    }
}

struct Weights {
    ladder: [f32; BANDS],
    energy: f32,
    envelope: f32,
}

/// The bands of both sensors and how far they move together.
#[derive(Clone, Debug, Default)]
pub(super) struct Bands {
    readings: u32,
    /// Between this reading and the last one is a pause.
    paused: bool,
    span_ms: f32,
    acceleration: Ladder,
    rotation: Ladder,
    last_acceleration: [f32; 3],
    last_rotation: [f32; 3],
    /// Mean |rotation|.
    turning: f32,
    /// One axis of the acceleration, smoothed: the second channel of a device without gyroscope.
    side: f32,
    /// Weighted means of both envelopes, their squares and their product.
    shared: [f32; 5],
}

impl Bands {
    /// Forgets everything: neighbouring readings no longer belong together.
    pub(super) fn start_anew(&mut self) {
        *self = Self::default();
    }

    /// The next reading does not belong to the last; what was gathered over seconds stays.
    pub(super) fn pause(&mut self) {
        self.paused = self.readings > 0;
    }

    /// Takes the acceleration and the rotation of one reading; a sensor that is missing gives 0.
    pub(super) fn push(&mut self, acceleration: [f32; 3], rotation: [f32; 3], dt_ms: f32) {
        let magnitude = acceleration.iter().map(|x| x * x).sum::<f32>().sqrt();
        let [side, _, _] = acceleration;
        let turn = rotation.iter().map(|x| x * x).sum::<f32>().sqrt();
        if self.readings == 0 {
            self.acceleration.start(magnitude);
            self.rotation.start(turn);
            (self.last_acceleration, self.last_rotation) = (acceleration, rotation);
            (self.turning, self.side) = (turn, side);
            self.readings = 1;
            return;
        }
        if std::mem::take(&mut self.paused) {
            self.acceleration.means = [magnitude; BANDS];
            self.rotation.means = [turn; BANDS];
            (self.last_acceleration, self.last_rotation, self.side) = (acceleration, rotation, side);
            return;
        }
        self.readings = self.readings.saturating_add(1);
        self.span_ms = (self.span_ms + dt_ms).min(1e9);
        let weights = Weights {
            ladder: LADDER_MS.map(|tau| weight(dt_ms, tau)),
            energy: weight(dt_ms, ENERGY_MS),
            envelope: weight(dt_ms, ENVELOPE_MS),
        };
        let apart = |v: [f32; 3], w: [f32; 3]| v.iter().zip(w).map(|(x, y)| (x - y) * (x - y)).sum::<f32>().sqrt();
        let (shake, twist) = (apart(acceleration, self.last_acceleration), apart(rotation, self.last_rotation));
        (self.last_acceleration, self.last_rotation) = (acceleration, rotation);
        self.acceleration.push(magnitude, shake, &weights);
        self.rotation.push(turn, twist, &weights);
        self.turning += weights.energy * (turn - self.turning);
        self.side += weight(dt_ms, ENVELOPE_MS) * (side - self.side);
        let (x, y) = (self.acceleration.envelope, self.rotation.envelope);
        // The first readings stand for themselves, so that the mean is one.
        let w = weight(dt_ms, SHARED_MS).max(1.0 / (self.readings as f32));
        for (mean, value) in self.shared.iter_mut().zip([x, y, x * x, y * y, x * y]) {
            *mean += w * (value - *mean);
        }
    }

    /// The energies have forgotten their beginning.
    pub(super) fn settled(&self) -> bool {
        self.span_ms >= SETTLED_MS
    }

    /// Milliseconds since the beginning or the last gap.
    pub(super) fn span_ms(&self) -> f32 {
        self.span_ms
    }

    /// Two channels without what is faster than a frame of the memory of motion: both magnitudes, or that of the
    /// acceleration and one of its axes.
    pub(super) fn smooth(&self, both: bool) -> [f32; 2] {
        let [_, _, acceleration, ..] = self.acceleration.means;
        let [_, _, rotation, ..] = self.rotation.means;
        [acceleration, if both { rotation } else { self.side }]
    }

    /// Spread of the acceleration's magnitude over the last second or so, m/s².
    pub(super) fn shaking(&self) -> f32 {
        self.acceleration.activity()
    }

    /// Spread of the rotation's magnitude and its mean together, rad/s.
    pub(super) fn turning(&self) -> f32 {
        self.rotation.activity() + self.turning
    }

    /// Correlation of the envelopes of acceleration and rotation: a body that moves shakes and turns at once.
    pub(super) fn coherence(&self) -> f32 {
        let [x, y, xx, yy, xy] = self.shared;
        let spread = (xx - x * x) * (yy - y * y);
        if spread > 1e-14 { ((xy - x * y) / spread.sqrt()).clamp(-1.0, 1.0) } else { 0.0 }
    }

    /// How the device is moved: binary logarithms of the bands' energies and of the mean rotation.
    pub(super) fn traits(&self) -> [f32; TRAITS] {
        let energies = [&self.acceleration, &self.rotation]
            .into_iter()
            .flat_map(|ladder| ladder.energy.iter().skip(FASTEST).map(|e| log2(e.max(0.0) + 1e-6)));
        let mut out = [0.0; TRAITS];
        for (slot, value) in out.iter_mut().zip(energies.chain([log2(self.turning + 1e-3)])) {
            *slot = value;
        }
        out
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.readings.to_le_bytes());
        out.push(u8::from(self.paused));
        put_f32s(out, &[self.span_ms, self.turning, self.side]);
        put_f32s(out, &self.last_acceleration);
        put_f32s(out, &self.last_rotation);
        put_f32s(out, &self.shared);
        for ladder in [&self.acceleration, &self.rotation] {
            put_f32s(out, &[ladder.envelope]);
            put_f32s(out, &ladder.means);
            put_f32s(out, &ladder.energy);
        }
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, CodecError> {
        let readings = super::codec::take_u32(input)?;
        let paused = super::codec::take_u8(input)? != 0;
        let [span_ms, turning, side] = take_f32s(input)?;
        let mut bands = Self {
            readings,
            paused,
            span_ms,
            turning,
            side,
            last_acceleration: take_f32s(input)?,
            last_rotation: take_f32s(input)?,
            shared: take_f32s(input)?,
            ..Self::default()
        };
        for ladder in [&mut bands.acceleration, &mut bands.rotation] {
            let [envelope] = take_f32s(input)?;
            *ladder = Ladder { envelope, means: take_f32s(input)?, energy: take_f32s(input)? };
        }
        Ok(bands)
    }
}
