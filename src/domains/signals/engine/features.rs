//! What can be measured in a window of readings: spread, autocorrelation, entropy, purity, repetition.
//!
//! Only `+ - * /` and `sqrt`, which IEEE 754 fixes to the bit: a decision can be replayed on any machine. The library's
//! logarithm is not so fixed, hence [`log2`] here.

use super::ring::Ring;

/// Readings that each sensor's ring holds.
pub(super) const RING: usize = 100;

/// The last readings of one three-axis sensor.
pub(super) type Ring3 = Ring<[f32; 3], RING>;

/// What one window of one sensor shows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Window {
    /// Readings in it; below 4 nothing else means anything.
    pub n: f32,
    /// Root of the summed variances of the axes, in the sensor's unit.
    pub std: f32,
    /// Autocorrelation at lag 1 over all axes: real motion at 20 Hz and more is far above 0, noise is at 0.
    pub lag1: f32,
    /// Autocorrelation at lag 2.
    pub lag2: f32,
    /// Fourth moment over squared variance: 3 for Gaussian noise, 1.5 for a sine, far above 3 for knocks and steps.
    pub kurtosis: f32,
    /// Entropy of the magnitude in 16 bins between its extremes, in bits, 0 to 4.
    pub entropy_bits: f32,
    /// Share of the second difference that the value itself explains: 1 for a pure sine, 2/3 for noise.
    pub purity: f32,
    /// Entropy of the fullest of the 16 bins, in bits: how well the value can be guessed at best.
    pub min_entropy_bits: f32,
    /// Entropy of the orders of three neighbouring magnitudes, in bits, 0 to 2.58.
    pub permutation_bits: f32,
    /// Share of the changes of an axis that are whole multiples of the smallest one: sensors have steps, noise has not.
    pub on_grid: f32,
}

impl Window {
    pub(super) const FIELDS: usize = 10;

    pub(super) fn to_array(self) -> [f32; Self::FIELDS] {
        [
            self.n,
            self.std,
            self.lag1,
            self.lag2,
            self.kurtosis,
            self.entropy_bits,
            self.purity,
            self.min_entropy_bits,
            self.permutation_bits,
            self.on_grid,
        ]
    }

    pub(super) fn from_array(fields: [f32; Self::FIELDS]) -> Self {
        let [n, std, lag1, lag2, kurtosis, entropy_bits, purity, min_entropy_bits, permutation_bits, on_grid] = fields;
        Self { n, std, lag1, lag2, kurtosis, entropy_bits, purity, min_entropy_bits, permutation_bits, on_grid }
    }
}

/// A window's axes side by side, centred, so that loops over them run in vector registers.
pub(super) struct Columns {
    n: usize,
    axes: [[f32; RING]; 3],
    magnitude: [f32; RING],
    energy: f32,
}

impl Columns {
    /// The last `n` readings of `ring`.
    pub(super) fn latest(ring: &Ring3, n: usize) -> Self {
        let n = n.min(ring.len());
        let mut axes = [[0.0; RING]; 3];
        let mut magnitude = [0.0; RING];
        {
            let [xs, ys, zs] = &mut axes;
            let places = xs.iter_mut().zip(ys.iter_mut()).zip(zs.iter_mut()).zip(magnitude.iter_mut());
            for ((((px, py), pz), pm), &[x, y, z]) in places.zip(ring.iter_latest(n)) {
                (*px, *py, *pz, *pm) = (x, y, z, (x * x + y * y + z * z).sqrt());
            }
        }
        let mut energy = 0.0;
        for axis in &mut axes {
            let used = axis.get_mut(..n).unwrap_or_default();
            let mean = sum(used) / (n.max(1) as f32);
            for v in used.iter_mut() {
                *v -= mean;
            }
            energy += dot(used, used);
        }
        Self { n, axes, magnitude, energy }
    }

    fn columns(&self) -> impl Iterator<Item = &[f32]> {
        self.axes.iter().map(|a| a.get(..self.n).unwrap_or_default())
    }

    pub(super) fn std(&self) -> f32 {
        if self.n == 0 { 0.0 } else { (self.energy / self.n as f32).sqrt() }
    }

    fn autocorrelation(&self, lag: usize) -> f32 {
        if self.energy < 1e-9 {
            return 0.0;
        }
        self.columns().map(|y| dot(y, y.get(lag..).unwrap_or_default())).sum::<f32>() / self.energy
    }

    fn kurtosis(&self) -> f32 {
        if self.energy < 1e-9 {
            return 0.0;
        }
        let fourth: f32 = self.columns().map(fourth_power).sum();
        let count = 3.0 * self.n as f32;
        fourth * count / (self.energy * self.energy)
    }

    /// Shannon's entropy of the magnitude and its min-entropy.
    fn entropies_bits(&self) -> (f32, f32) {
        let m = self.magnitude.get(..self.n).unwrap_or_default();
        let (low, high) = m.iter().fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
        let width = high - low;
        if width.is_nan() || width <= 1e-6 {
            return (0.0, 0.0);
        }
        let mut bins = [0_u8; 16];
        let scale = 15.999 / width;
        for v in m {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 15 by construction")]
            if let Some(bin) = bins.get_mut(((v - low) * scale) as usize) {
                *bin += 1;
            }
        }
        let fullest = bins.iter().copied().max().unwrap_or(0);
        (entropy_bits(&bins), log2(self.n as f32 / f32::from(fullest.max(1))))
    }

    fn permutation_bits(&self) -> f32 {
        let m = self.magnitude.get(..self.n).unwrap_or_default();
        let mut orders = [0_u8; 8];
        for triple in m.windows(3) {
            let &[a, b, c] = triple else { continue };
            let order = usize::from(a < b) | usize::from(b < c) << 1 | usize::from(a < c) << 2;
            if let Some(slot) = orders.get_mut(order) {
                *slot += 1;
            }
        }
        entropy_bits(&orders)
    }

    /// See [`Window::on_grid`]; the grid is `step`, 0 while it is not known.
    pub(super) fn on_grid(&self, step: f32) -> f32 {
        if step <= 0.0 {
            return 0.0;
        }
        let (mut whole, mut all) = (0_u16, 0_u16);
        for y in self.columns() {
            for (a, b) in y.iter().zip(y.get(1..).unwrap_or_default()) {
                let steps = (b - a).abs() / step;
                if steps > 0.5 && steps < 64.0 {
                    all += 1;
                    whole += u16::from((steps - steps.round()).abs() < 0.1);
                }
            }
        }
        if all == 0 { 0.0 } else { f32::from(whole) / f32::from(all) }
    }

    /// How well a straight line from the value gives its second difference over `stride` readings. A sine obeys
    /// `y₋ − 2y + y₊ = k·(y − centre)` exactly; the centre is fitted, as a window rarely holds whole periods.
    fn purity(&self, stride: usize) -> f32 {
        let (mut residual, mut curvature) = (0.0, 0.0);
        let inner = self.n.saturating_sub(2 * stride);
        let count = inner.max(1) as f32;
        let mut bends = [0.0_f32; RING];
        for y in self.columns() {
            let here = y.get(stride..stride + inner).unwrap_or_default();
            let around = y.iter().zip(y.get(2 * stride..).unwrap_or_default());
            for ((bend, (before, after)), h) in bends.iter_mut().zip(around).zip(here) {
                *bend = before + after - 2.0 * h;
            }
            let bend = bends.get(..inner).unwrap_or_default();
            let (mean_h, mean_b) = (sum(here) / count, sum(bend) / count);
            let var_h = dot(here, here) - count * mean_h * mean_h;
            let var_b = dot(bend, bend) - count * mean_b * mean_b;
            let both = dot(here, bend) - count * mean_h * mean_b;
            if var_h > 1e-9 && var_b > 0.0 {
                curvature += var_b;
                residual += (var_b - both * both / var_h).max(0.0);
            }
        }
        if curvature > 1e-9 { 1.0 - residual / curvature } else { 0.0 }
    }

    /// How badly the window repeats after `lag` readings: 0 for an exact loop, about 1 for unrelated values.
    pub(super) fn repeat_error(&self, lag: usize) -> f32 {
        let pairs = self.n.saturating_sub(lag);
        if pairs < 20 || self.energy < 1e-9 {
            return 1.0;
        }
        let apart: f32 = self.columns().map(|y| square_distance(y, y.get(lag..).unwrap_or_default())).sum();
        apart / (pairs as f32) * (self.n as f32) / (2.0 * self.energy)
    }

    /// The lag from 10 to 75 at which the liveliest axis repeats best.
    pub(super) fn best_lag(&self) -> usize {
        let mut lively: &[f32] = &[];
        let mut most = -1.0;
        for y in self.columns() {
            let e = dot(y, y);
            if e > most {
                (lively, most) = (y, e);
            }
        }
        let mut best = (f32::MAX, 10);
        for lag in 10..=75.min(self.n.saturating_sub(20)) {
            let later = lively.get(lag..).unwrap_or_default();
            let error = square_distance(lively, later) / (later.len().max(1) as f32);
            if error < best.0 {
                best = (error, lag);
            }
        }
        best.1
    }

    /// Everything that a window shows; `fast` is whether the rate allows what needs one (lags, purity).
    pub(super) fn measure(&self, fast: bool) -> Window {
        let (entropy_bits, min_entropy_bits) = self.entropies_bits();
        let mut w = Window { n: self.n as f32, std: self.std(), entropy_bits, min_entropy_bits, ..Window::default() };
        if fast {
            w.lag1 = self.autocorrelation(1);
            w.lag2 = self.autocorrelation(2);
            w.kurtosis = self.kurtosis();
            w.permutation_bits = self.permutation_bits();
            w.purity = self.purity(4);
        }
        w
    }
}

/// Spread of the last `n` readings; the root of the summed variances of the axes.
pub(super) fn spread(ring: &Ring3, n: usize) -> f32 {
    let n = n.min(ring.len());
    if n < 2 {
        return 0.0;
    }
    let count = n as f32;
    let mut mean = [0.0_f32; 3];
    for v in ring.iter_latest(n) {
        for (m, x) in mean.iter_mut().zip(v) {
            *m += x / count;
        }
    }
    let mut energy = 0.0;
    for v in ring.iter_latest(n) {
        for (m, x) in mean.iter().zip(v) {
            energy += (x - m) * (x - m);
        }
    }
    (energy / count).sqrt()
}

/// The largest step from one reading to the next among the last `n`.
pub(super) fn largest_step(ring: &Ring3, n: usize) -> f32 {
    let steps = ring.iter_latest(n).zip(ring.iter_latest(n).skip(1));
    let squares = steps.map(|(a, b)| a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum::<f32>());
    squares.fold(0.0, f32::max).sqrt()
}

/// Shannon entropy of the counts, in bits.
pub(super) fn entropy_bits(bins: &[u8]) -> f32 {
    let total: u32 = bins.iter().map(|&c| u32::from(c)).sum();
    if total == 0 {
        return 0.0;
    }
    let total = total as f32;
    let weighted: f32 = bins.iter().filter(|&&c| c > 1).map(|&c| f32::from(c) * log2(f32::from(c))).sum();
    (log2(total) - weighted / total).max(0.0)
}

/// Binary logarithm of a positive, normal number, to about six digits; 0 for anything else.
pub(super) fn log2(x: f32) -> f32 {
    if !(f32::MIN_POSITIVE..=f32::MAX).contains(&x) {
        return 0.0;
    }
    let bits = x.to_bits();
    let exponent = ((bits >> 23) as i32 - 127) as f32;
    let mantissa = f32::from_bits((bits & 0x007F_FFFF) | 0x3F80_0000);
    // ln m = 2 atanh((m-1)/(m+1)), and the argument is at most 1/3.
    let u = (mantissa - 1.0) / (mantissa + 1.0);
    let s = u * u;
    let atanh = u * (1.0 + s * (1.0 / 3.0 + s * (1.0 / 5.0 + s * (1.0 / 7.0 + s * (1.0 / 9.0 + s * (1.0 / 11.0))))));
    exponent + 2.0 * std::f32::consts::LOG2_E * atanh
}

/// 0 at `from`, 1 at `to`, straight between, flat beyond.
pub(super) fn ramp(x: f32, from: f32, to: f32) -> f32 {
    ((x - from) / (to - from)).clamp(0.0, 1.0)
}

const LANES: usize = 8;

/// Sums `f(a, b)` over pairs, in eight lanes whose order is fixed: fast, and the same bits everywhere.
#[inline(always)]
fn fold2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let n = a.len().min(b.len());
    let (a, b) = (a.get(..n).unwrap_or_default(), b.get(..n).unwrap_or_default());
    let ((ca, ta), (cb, tb)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0_f32; LANES];
    for (x, y) in ca.iter().zip(cb) {
        for ((lane, &p), &q) in lanes.iter_mut().zip(x).zip(y) {
            *lane += f(p, q);
        }
    }
    let tail: f32 = ta.iter().zip(tb).map(|(&p, &q)| f(p, q)).sum();
    lanes.iter().sum::<f32>() + tail
}

fn sum(a: &[f32]) -> f32 {
    fold2(a, a, |p, _| p)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    fold2(a, b, |p, q| p * q)
}

fn square_distance(a: &[f32], b: &[f32]) -> f32 {
    fold2(a, b, |p, q| (p - q) * (p - q))
}

fn fourth_power(a: &[f32]) -> f32 {
    fold2(a, a, |p, _| (p * p) * (p * p))
}
