//! Touches and traffic: what the device does rather than how it moves. Allocated only for devices that report them.

use super::codec::{CodecError, put_f32s, take, take_f32, take_f32s, take_u8, take_u32};
use super::features::{RING, entropy_bits, log2, ramp};
use super::population::{self, Population, RHYTHM_BINS};
use super::reading::{Network, Touch};
use super::ring::Ring;

/// Touches needed before their entropy means anything.
const TOUCHES_MIN: usize = 8;
/// Traffic figures needed before a spike means anything.
const NETWORK_MIN: u32 = 10;
/// Traffic figures after which the slow profile is believed.
const NETWORK_KNOWN: u32 = 100;
/// What a figure adds to a profile that is believed, and what one adds that stands out.
const KNOWN_WEIGHT: f32 = 0.002;
const STRANGE_WEIGHT: f32 = 0.0002;
/// Furthest that the profile may move in a day, in octaves.
const NETWORK_DAY_DRIFT: f32 = 0.5;
/// Spread of a mean with weight 0.1 over independent unit values.
const STANDING_SIGMA: f32 = 0.23;

/// A number in half its bits: the upper half of a float, exact to 0.4 %, which is finer than any screen or network.
fn short(value: f32) -> u16 {
    let bits = value.to_bits();
    // Rounds to nearest; what would overflow stays the largest.
    let up = u16::from(bits & 0x8000 != 0);
    let half = ((bits >> 16) & 0xFFFF) as u16;
    if half & 0x7FFF >= 0x7F7F { half } else { half + up }
}

fn long(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

/// Touches that the owner's rhythm is learned from before it means anything.
const RHYTHM_LEARNED: u32 = 240;
/// Touches that the present rhythm looks back on.
const RHYTHM_PRESENT: f32 = 40.0;
/// Weight of the population in the owner's histogram, in touches.
const RHYTHM_PRIOR: f32 = 40.0;
/// Touches of a day that teach at most, once the rhythm is known: whoever feeds another one needs weeks.
const RHYTHM_DAY_MOST: u16 = 200;
/// A full count is halved, so that habits may change.
const RHYTHM_FULL: u32 = 4000;

/// How the owner's touches follow one another: a histogram of intervals, and how unlike it the last ones are.
#[derive(Clone, Debug)]
pub(super) struct Rhythm {
    counts: [u16; RHYTHM_BINS],
    learned: u32,
    /// Mean of how much likelier the last intervals are under the population than under the owner, in nats.
    unlike: f32,
    present: f32,
    /// The day of the last touch that was learned, and how many were on it.
    day: u32,
    today: u16,
}

impl Rhythm {
    const fn new() -> Self {
        Self { counts: [0; RHYTHM_BINS], learned: 0, unlike: 0.0, present: 0.0, day: 0, today: 0 }
    }

    /// Takes an interval on a day; gives how unlike the owner's the present rhythm is once both are known.
    pub(super) fn push(
        &mut self,
        interval_ms: f32,
        (day, trusted): (u32, bool),
        population: &Population,
    ) -> Option<f32> {
        let bin = population::rhythm_bin(interval_ms);
        let share = *population.rhythm.as_ref()?.get(bin)?;
        let count = *self.counts.get(bin)?;
        let known = self.learned >= RHYTHM_LEARNED;
        if known {
            let own = (f32::from(count) + RHYTHM_PRIOR * share) / (self.learned as f32 + RHYTHM_PRIOR);
            self.present = (self.present + 1.0).min(RHYTHM_PRESENT);
            self.unlike += (std::f32::consts::LN_2 * log2(share / own) - self.unlike) / self.present;
        }
        if self.day != day {
            (self.day, self.today) = (day, 0);
        }
        if trusted && (!known || self.today < RHYTHM_DAY_MOST) {
            self.today = self.today.saturating_add(1);
            if let Some(slot) = self.counts.get_mut(bin) {
                *slot = slot.saturating_add(1);
            }
            self.learned += 1;
            if self.learned >= RHYTHM_FULL {
                for slot in &mut self.counts {
                    *slot /= 2;
                }
                self.learned = self.counts.iter().map(|c| u32::from(*c)).sum();
            }
        }
        (known && self.present >= RHYTHM_PRESENT).then_some(self.unlike)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.learned.to_le_bytes());
        put_f32s(out, &[self.unlike, self.present]);
        out.extend_from_slice(&self.day.to_le_bytes());
        out.extend_from_slice(&self.today.to_le_bytes());
        for count in self.counts {
            out.extend_from_slice(&count.to_le_bytes());
        }
    }

    fn decode(input: &mut &[u8]) -> Result<Self, CodecError> {
        let mut rhythm = Self::new();
        rhythm.learned = take_u32(input)?;
        [rhythm.unlike, rhythm.present] = take_f32s(input)?;
        rhythm.day = take_u32(input)?;
        rhythm.today = u16::from_le_bytes(take(input)?);
        for count in &mut rhythm.counts {
            *count = u16::from_le_bytes(take(input)?);
        }
        if rhythm.learned > RHYTHM_FULL {
            return Err(CodecError::Invalid("rhythm"));
        }
        Ok(rhythm)
    }
}

/// The last touches and what they show.
#[derive(Clone, Debug)]
pub(super) struct Touches {
    ring: Ring<[u16; 4], RING>,
    /// The last touch, every bit of it: a client may repeat it.
    last: [f32; 4],
    /// The owner's rhythm and the present one.
    pub rhythm: Rhythm,
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
            ring: Ring::new([0; 4]),
            last: [0.0; 4],
            rhythm: Rhythm::new(),
            interval_entropy_bits: 0.0,
            position_entropy_bits: 0.0,
            interval_variation: 0.0,
        }
    }

    /// Takes a touch. A client may repeat its last touch in every reading: a repeat is no touch, and false is returned.
    pub(super) fn push(&mut self, t: &Touch) -> bool {
        let values = [t.x, t.y, t.pressure, t.interval_ms];
        let same = self.last.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits());
        if same && self.ring.len() > 0 {
            return false;
        }
        self.last = values;
        self.ring.push(values.map(short));
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
        for [x, y, _, interval_ms] in self.ring.iter_latest(used).map(|t| t.map(long)) {
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
        put_f32s(out, &self.last);
        self.rhythm.encode(out);
        put_shorts(out, &self.ring);
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, CodecError> {
        let mut touches = Self::new();
        let len = ring_len(input)?;
        [touches.interval_entropy_bits, touches.position_entropy_bits, touches.interval_variation] = take_f32s(input)?;
        touches.last = take_f32s(input)?;
        touches.rhythm = Rhythm::decode(input)?;
        take_shorts(input, &mut touches.ring, len)?;
        Ok(touches)
    }
}

/// The last traffic figures and how far the newest stands out.
#[derive(Clone, Debug)]
pub(super) struct Traffic {
    ring: Ring<[u16; 4], RING>,
    /// Figures taken, up to [`NETWORK_MIN`].
    taken: u32,
    /// Exponentially weighted mean and variance of the logarithms of bytes sent, bytes received, connections.
    mean: [f32; 3],
    variance: [f32; 3],
    /// Largest deviation above the usual, in standard deviations; falls by a tenth with each usual figure.
    pub spike: f32,
    /// The slow profile of the same, and where the last twenty figures stand to it, in its standard deviations.
    profile: [f32; 3],
    profile_variance: [f32; 3],
    standing: [f32; 3],
    /// The slow profile at the beginning of the day, and that day.
    morning: [f32; 3],
    day: u32,
}

impl Traffic {
    pub(super) fn new() -> Self {
        Self {
            ring: Ring::new([0; 4]),
            taken: 0,
            mean: [0.0; 3],
            variance: [0.0; 3],
            spike: 0.0,
            profile: [0.0; 3],
            profile_variance: [0.0; 3],
            standing: [0.0; 3],
            morning: [0.0; 3],
            day: 0,
        }
    }

    /// Takes the figures of a reading on a day. `trusted` is whether they may teach.
    pub(super) fn push(&mut self, n: &Network, day: u32, trusted: bool) {
        let rtt_ms = if n.rtt_ms.is_finite() { n.rtt_ms } else { 0.0 };
        let raw = [n.tx_bytes as f32, n.rx_bytes as f32, n.connections as f32];
        let [tx, rx, connections] = raw;
        self.ring.push([tx, rx, rtt_ms, connections].map(short));
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
        if self.day != day || self.taken < NETWORK_KNOWN {
            (self.morning, self.day) = (self.profile, day);
        }
        self.compare(raw, trusted);
        self.taken = (self.taken + 1).min(NETWORK_KNOWN);
    }

    /// The last figures against the slow profile, on both sides: remote control is quieter than its owner as often as
    /// it is louder.
    fn compare(&mut self, raw: [f32; 3], trusted: bool) {
        let known = self.taken >= NETWORK_KNOWN;
        let profiles = self.profile.iter_mut().zip(&mut self.profile_variance).zip(self.morning);
        for ((((profile, variance), morning), standing), value) in profiles.zip(&mut self.standing).zip(raw) {
            let level = log2(value + 1.0);
            if self.taken == 0 {
                *profile = level;
                continue;
            }
            let off = level - *profile;
            if known {
                let z = (off / (*variance).sqrt().max(0.5)).clamp(-4.0, 4.0);
                *standing += 0.1 * (z - *standing);
            }
            // What stands out hardly teaches: a change for good is learned in the course of days.
            let weight = 1.0 / (self.taken as f32 + 1.0);
            let weight = if !known {
                weight
            } else if !trusted {
                0.0
            } else if standing.abs() > 1.0 {
                STRANGE_WEIGHT
            } else {
                KNOWN_WEIGHT
            };
            *profile += weight * off;
            if known {
                *profile = profile.clamp(morning - NETWORK_DAY_DRIFT, morning + NETWORK_DAY_DRIFT);
            }
            // Nor does it make what follows look usual.
            if !known || standing.abs() <= 1.0 {
                *variance = (1.0 - weight) * (*variance + weight * off * off);
            }
        }
    }

    /// A person has judged what stood out; the profile stays.
    pub(super) fn clear_evidence(&mut self) {
        (self.standing, self.spike) = ([0.0; 3], 0.0);
    }

    /// How far the last twenty figures stand from the profile; about 1 by chance.
    pub(super) fn departure(&self) -> f32 {
        self.standing.iter().fold(0.0_f32, |most, z| most.max(z.abs())) / STANDING_SIGMA
    }

    /// 0 to 100; `None` until the usual is known.
    pub(super) fn points(&self) -> Option<f32> {
        (self.taken >= NETWORK_MIN).then(|| 100.0 - 100.0 * ramp(self.spike.max(self.departure()), 4.0, 12.0))
    }

    /// Mean round trip over the ring.
    pub(super) fn mean_rtt_ms(&self) -> f32 {
        let total: f32 = self.ring.iter_latest(RING).map(|[_, _, rtt_ms, _]| long(*rtt_ms)).sum();
        total / self.ring.len().max(1) as f32
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        #[expect(clippy::cast_possible_truncation, reason = "at most 100")]
        out.push(self.ring.len() as u8);
        #[expect(clippy::cast_possible_truncation, reason = "at most 100")]
        out.push(self.taken as u8);
        put_f32s(out, &self.mean);
        put_f32s(out, &self.variance);
        put_f32s(out, &[self.spike]);
        put_f32s(out, &self.profile);
        put_f32s(out, &self.profile_variance);
        put_f32s(out, &self.standing);
        put_f32s(out, &self.morning);
        out.extend_from_slice(&self.day.to_le_bytes());
        put_shorts(out, &self.ring);
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, CodecError> {
        let mut traffic = Self::new();
        let len = ring_len(input)?;
        traffic.taken = u32::from(take_u8(input)?);
        if traffic.taken > NETWORK_KNOWN {
            return Err(CodecError::Invalid("traffic count"));
        }
        traffic.mean = take_f32s(input)?;
        traffic.variance = take_f32s(input)?;
        traffic.spike = take_f32(input)?;
        traffic.profile = take_f32s(input)?;
        traffic.profile_variance = take_f32s(input)?;
        traffic.standing = take_f32s(input)?;
        traffic.morning = take_f32s(input)?;
        traffic.day = take_u32(input)?;
        take_shorts(input, &mut traffic.ring, len)?;
        Ok(traffic)
    }
}

fn put_shorts(out: &mut Vec<u8>, ring: &Ring<[u16; 4], RING>) {
    for half in ring.iter_latest(RING).flatten() {
        out.extend_from_slice(&half.to_le_bytes());
    }
}

fn take_shorts(input: &mut &[u8], ring: &mut Ring<[u16; 4], RING>, len: usize) -> Result<(), CodecError> {
    for _ in 0..len {
        let mut values = [0_u16; 4];
        for v in &mut values {
            *v = u16::from_le_bytes(take(input)?);
        }
        ring.push(values);
    }
    Ok(())
}

/// The length of a ring in front of its values.
pub(super) fn ring_len(input: &mut &[u8]) -> Result<usize, CodecError> {
    let len = usize::from(take_u8(input)?);
    if len > RING { Err(CodecError::Invalid("length of a ring")) } else { Ok(len) }
}
