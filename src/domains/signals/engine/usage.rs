//! Touches and traffic: what the device does rather than how it moves. Allocated only for devices that report them.

use super::codec::{CodecError, put_f32s, take_f32, take_f32s, take_u8};
use super::features::{RING, entropy_bits, log2, ramp};
use super::reading::{Network, Touch};
use super::ring::Ring;

/// Touches needed before their entropy means anything.
const TOUCHES_MIN: usize = 8;
/// Traffic figures needed before a spike means anything.
const NETWORK_MIN: u32 = 10;

/// The last touches and what they show.
#[derive(Clone, Debug)]
pub(super) struct Touches {
    ring: Ring<[f32; 4], RING>,
    /// Entropy of the intervals in half-octave bins, in bits.
    pub interval_entropy_bits: f32,
    /// Entropy of the positions in a 4 by 4 grid, in bits.
    pub position_entropy_bits: f32,
    /// Spread of the intervals over their mean.
    pub interval_variation: f32,
}

impl Touches {
    pub(super) fn new() -> Self {
        Self {
            ring: Ring::new([0.0; 4]),
            interval_entropy_bits: 0.0,
            position_entropy_bits: 0.0,
            interval_variation: 0.0,
        }
    }

    /// Takes a touch. A client may repeat its last touch in every reading: a repeat is no touch, and false is returned.
    pub(super) fn push(&mut self, t: &Touch) -> bool {
        let values = [t.x, t.y, t.pressure, t.interval_ms];
        let same = |last: &[f32; 4]| last.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits());
        if self.ring.iter_latest(1).next().is_some_and(same) {
            return false;
        }
        self.ring.push(values);
        self.measure();
        true
    }

    pub(super) fn count(&self) -> usize {
        self.ring.len()
    }

    fn measure(&mut self) {
        let (mut intervals, mut places) = ([0_u8; 16], [0_u8; 16]);
        // The last 32 touches: enough for 16 bins, and a bounded cost for clients that touch in every reading.
        let used = self.ring.len().min(32);
        let (mut total, mut squares) = (0.0, 0.0);
        for &[x, y, _, interval_ms] in self.ring.iter_latest(used) {
            // Exponent and top bit of the mantissa: half-octaves, without a logarithm.
            let half_octave = interval_ms.clamp(1.0, 60_000.0).to_bits() >> 22;
            if let Some(bin) = intervals.get_mut((half_octave & 15) as usize) {
                *bin += 1;
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0 to 3")]
            let cell = (y.clamp(0.0, 0.99) * 4.0) as usize * 4 + (x.clamp(0.0, 0.99) * 4.0) as usize;
            if let Some(bin) = places.get_mut(cell) {
                *bin += 1;
            }
            let bounded = interval_ms.clamp(0.0, 60_000.0);
            total += bounded;
            squares += bounded * bounded;
        }
        let n = used.max(1) as f32;
        let mean = total / n;
        self.interval_entropy_bits = entropy_bits(&intervals);
        self.position_entropy_bits = entropy_bits(&places);
        self.interval_variation = (squares / n - mean * mean).max(0.0).sqrt() / mean.max(1.0);
    }

    /// Evenly spaced enough to be a machine's.
    pub(super) fn mechanical(&self) -> bool {
        self.count() >= TOUCHES_MIN && self.interval_variation < 0.03
    }

    /// 0 to 100; `None` until there are enough touches. Typing has varied intervals on varied places.
    pub(super) fn points(&self) -> Option<f32> {
        if self.count() < TOUCHES_MIN {
            return None;
        }
        let rhythm =
            ramp(self.interval_variation, 0.01, 0.15) * (0.4 + 0.6 * ramp(self.interval_entropy_bits, 0.0, 1.5));
        let place = ramp(self.position_entropy_bits, 0.0, 1.0);
        Some(20.0 + 60.0 * rhythm + 20.0 * place)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        #[expect(clippy::cast_possible_truncation, reason = "at most 100")]
        out.push(self.ring.len() as u8);
        put_f32s(out, &[self.interval_entropy_bits, self.position_entropy_bits, self.interval_variation]);
        for touch in self.ring.iter_latest(RING) {
            put_f32s(out, touch);
        }
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, CodecError> {
        let mut touches = Self::new();
        let len = ring_len(input)?;
        [touches.interval_entropy_bits, touches.position_entropy_bits, touches.interval_variation] = take_f32s(input)?;
        for _ in 0..len {
            touches.ring.push(take_f32s(input)?);
        }
        Ok(touches)
    }
}

/// The last traffic figures and how far the newest stands out.
#[derive(Clone, Debug)]
pub(super) struct Traffic {
    ring: Ring<[f32; 4], RING>,
    /// Figures taken, up to [`NETWORK_MIN`].
    taken: u32,
    /// Exponentially weighted mean and variance of the logarithms of bytes sent, bytes received, connections.
    mean: [f32; 3],
    variance: [f32; 3],
    /// Largest deviation above the usual, in standard deviations; falls by a tenth with each usual figure.
    pub spike: f32,
}

impl Traffic {
    pub(super) fn new() -> Self {
        Self { ring: Ring::new([0.0; 4]), taken: 0, mean: [0.0; 3], variance: [0.0; 3], spike: 0.0 }
    }

    pub(super) fn push(&mut self, n: &Network) {
        let rtt_ms = if n.rtt_ms.is_finite() { n.rtt_ms } else { 0.0 };
        let raw = [n.tx_bytes as f32, n.rx_bytes as f32, n.connections as f32];
        let [tx, rx, connections] = raw;
        self.ring.push([tx, rx, rtt_ms, connections]);
        let mut worst = 0.0_f32;
        let settled = self.taken >= NETWORK_MIN;
        for ((mean, variance), value) in self.mean.iter_mut().zip(&mut self.variance).zip(raw) {
            let level = log2(value + 1.0);
            if self.taken == 0 {
                *mean = level;
                continue;
            }
            let off = level - *mean;
            // A floor of half an octave: a device that sends always the same is not alarmed by a little more.
            worst = worst.max(off / (*variance).sqrt().max(0.5));
            let weight = if settled { 0.05 } else { 0.2 };
            // What stands out teaches little, or an attack would become the usual.
            let weight = if settled && off * off > 16.0 * (*variance).max(0.25) { weight * 0.2 } else { weight };
            *mean += weight * off;
            *variance = (1.0 - weight) * (*variance + weight * off * off);
        }
        if settled {
            self.spike = worst.max(self.spike * 0.9);
        }
        self.taken = (self.taken + 1).min(NETWORK_MIN);
    }

    /// 0 to 100; `None` until the usual is known.
    pub(super) fn points(&self) -> Option<f32> {
        (self.taken >= NETWORK_MIN).then(|| 100.0 - 100.0 * ramp(self.spike, 4.0, 12.0))
    }

    /// Mean round trip over the ring.
    pub(super) fn mean_rtt_ms(&self) -> f32 {
        let total: f32 = self.ring.iter_latest(RING).map(|[_, _, rtt_ms, _]| rtt_ms).sum();
        total / self.ring.len().max(1) as f32
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        #[expect(clippy::cast_possible_truncation, reason = "at most 100")]
        out.push(self.ring.len() as u8);
        #[expect(clippy::cast_possible_truncation, reason = "at most 10")]
        out.push(self.taken as u8);
        put_f32s(out, &self.mean);
        put_f32s(out, &self.variance);
        put_f32s(out, &[self.spike]);
        for figures in self.ring.iter_latest(RING) {
            put_f32s(out, figures);
        }
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, CodecError> {
        let mut traffic = Self::new();
        let len = ring_len(input)?;
        traffic.taken = u32::from(take_u8(input)?);
        if traffic.taken > NETWORK_MIN {
            return Err(CodecError::Invalid("traffic count"));
        }
        traffic.mean = take_f32s(input)?;
        traffic.variance = take_f32s(input)?;
        traffic.spike = take_f32(input)?;
        for _ in 0..len {
            traffic.ring.push(take_f32s(input)?);
        }
        Ok(traffic)
    }
}

/// The length of a ring in front of its values.
pub(super) fn ring_len(input: &mut &[u8]) -> Result<usize, CodecError> {
    let len = usize::from(take_u8(input)?);
    if len > RING { Err(CodecError::Invalid("length of a ring")) } else { Ok(len) }
}
