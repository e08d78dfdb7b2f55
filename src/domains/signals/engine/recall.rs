//! Finds earlier motion that is played again under noise: remembers a minute of both magnitudes in
//! frames of 60 ms and looks for a past stretch that the last seconds follow too closely.
//!
//! Nobody moves twice alike; the steadiest walker's steps differ more than a recording differs from itself under the
//! noise that hides its bits. Works on magnitudes, so turning the recording hides nothing either.

use super::codec::{CodecError, put_f32s, take, take_f32s, take_u8};

/// Frames remembered: 62 s.
const FRAMES: usize = 1040;
/// Length of a frame, ms; slower readings are frames themselves.
const FRAME_MS: f32 = 60.0;
/// Frames of the present that are compared with the past: 3.4 s.
const QUERY: usize = 56;
/// Shortest way back, in frames: a loop that is shorter repeats at a multiple.
const LAG_MIN: usize = 10;
/// Frames between two comparisons.
const EVERY: u16 = 14;
/// Neighbouring stretches that the present may be a filter of.
const TAPS: usize = 4;
/// What is added to the diagonal, as a factor.
const RIDGE: f32 = 1.0005;
/// Only every second frame is compared at first.
const STRIDE: usize = 2;
/// Where the scale of the codes turns from straight to logarithmic; m/s² and rad/s.
const KNEE: [f32; 2] = [0.5, 0.3];
const GRAVITY: f32 = 9.806_65;
/// The largest departure from the slow mean that is told apart.
const REACH: [f32; 2] = [40.0, 20.0];
/// Memory of that slow mean, ms.
const LEVEL_MS: f32 = 2000.0;
/// Mean square of the codes below which a stretch is the sensor's noise and repeats as noise does.
const QUIET: f32 = 100.0;
/// A stretch is compared only if at least so many of its frames differ from the one before by as much: the fall from
/// motion to stillness always looks the same.
const LIVELY: usize = 36;
const LIVELY_STEP: i16 = 4;

/// What the present resembles most.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Match {
    /// Correlation with the most similar stretch of the past.
    pub correlation: f32,
    /// How far back it lies, in frames.
    pub lag: u16,
}

/// The memory of both magnitudes.
#[derive(Clone, Debug)]
pub(super) struct Recall {
    frames: [[i8; FRAMES]; 2],
    head: u16,
    filled: u16,
    /// Frames until the next comparison.
    wait: u16,
    sums: [f32; 2],
    taken: u8,
    /// Readings of a frame: a fixed number, so that bursts of delivery do not move the grid.
    per_frame: u8,
    levels: [f32; 2],
    latest: Match,
}

impl Recall {
    pub(super) fn new() -> Self {
        Self {
            frames: [[0; FRAMES]; 2],
            head: 0,
            filled: 0,
            wait: EVERY,
            sums: [0.0; 2],
            taken: 0,
            per_frame: 0,
            levels: [0.0; 2],
            latest: Match::default(),
        }
    }

    pub(super) fn latest(&self) -> Match {
        self.latest
    }

    /// Takes the channels of a reading, both magnitudes or (not `both`) one and an axis; tells when a comparison was made.
    pub(super) fn push(&mut self, magnitudes: [f32; 2], dt_ms: f32, both: bool) -> Option<Match> {
        if self.filled == 0 && self.taken == 0 {
            self.levels = if both { [GRAVITY, 0.0] } else { magnitudes };
        }
        for (sum, m) in self.sums.iter_mut().zip(magnitudes) {
            *sum += m;
        }
        self.taken = self.taken.saturating_add(1);
        self.regrid(dt_ms);
        if self.taken < self.per_frame {
            return None;
        }
        let count = f32::from(self.taken.max(1));
        // Magnitudes have a level by nature, which a replay shares whatever came before; an axis has none.
        let moves = if both { 0.0 } else { 1.0 };
        let span_ms = dt_ms * f32::from(self.per_frame);
        let slow = span_ms / (span_ms + LEVEL_MS);
        let head = usize::from(self.head);
        for channel in 0..2 {
            let (Some(sum), Some(level), Some(frames), Some(knee), Some(reach)) = (
                self.sums.get_mut(channel),
                self.levels.get_mut(channel),
                self.frames.get_mut(channel),
                KNEE.get(channel),
                REACH.get(channel),
            ) else {
                continue;
            };
            let value = *sum / count;
            let code = code_of(value - *level, *knee, *reach);
            *level += slow * moves * (value - *level);
            *sum = 0.0;
            if let Some(slot) = frames.get_mut(head) {
                *slot = code;
            }
        }
        self.taken = 0;
        self.head = if head + 1 == FRAMES { 0 } else { self.head + 1 };
        self.filled = (self.filled + 1).min(FRAMES as u16);
        self.wait = self.wait.saturating_sub(1);
        if self.wait > 0 || usize::from(self.filled) < QUERY + LAG_MIN {
            return None;
        }
        // Where a reading is a frame, comparisons are rarer, so that their cost stays in proportion.
        self.wait = if dt_ms < FRAME_MS { EVERY } else { 3 * EVERY };
        let found = self.compare()?;
        self.latest = found;
        Some(found)
    }

    /// Follows the rate, but only when a frame would be a third too long or too short.
    fn regrid(&mut self, dt_ms: f32) {
        let off = (dt_ms * f32::from(self.per_frame) - FRAME_MS).abs();
        if self.per_frame == 0 || off > FRAME_MS * 0.35 {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
            let readings = (FRAME_MS / dt_ms.max(1.0)).round().clamp(1.0, 60.0) as u8;
            self.per_frame = readings;
        }
    }

    /// The channel's frames, oldest first, in the wider type that sums fit.
    fn unrolled(&self, channel: usize) -> [i16; FRAMES] {
        let mut out = [0_i16; FRAMES];
        let Some(frames) = self.frames.get(channel) else { return out };
        let head = if usize::from(self.filled) == FRAMES { usize::from(self.head) } else { 0 };
        let (young, old) = frames.split_at(head.min(FRAMES));
        for (slot, v) in out.iter_mut().zip(old.iter().chain(young)) {
            *slot = i16::from(*v);
        }
        out
    }

    fn compare(&self) -> Option<Match> {
        let filled = usize::from(self.filled);
        let channels = [self.unrolled(0), self.unrolled(1)];
        let start = filled.checked_sub(QUERY)?;
        let mut best: Option<(f32, usize)> = None;
        let query = Stretch::of(&channels, start, STRIDE);
        let [acceleration, _] = &channels;
        let present = acceleration.get(start..filled).unwrap_or_default();
        let steps = present.iter().zip(present.get(1..).unwrap_or_default());
        let lively = steps.filter(|(a, b)| (**a - **b).abs() >= LIVELY_STEP).count();
        if query.energy < QUIET || lively < LIVELY {
            return None;
        }
        for lag in LAG_MIN..=start {
            let r = query.correlation(&channels, start - lag, STRIDE);
            if best.is_none_or(|(most, _)| r > most) {
                best = Some((r, lag));
            }
        }
        let (_, lag) = best?;
        // A recording rarely falls on the same frames: the present as a filter of four neighbouring stretches, which is
        // what a shift by less than a frame amounts to.
        let query = Stretch::of(&channels, start, 1);
        let correlation = query.filtered(&channels, (start - lag).saturating_sub(1));
        Some(Match { correlation, lag: u16::try_from(lag).unwrap_or(u16::MAX) })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for n in [self.head, self.filled, self.wait, self.latest.lag] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(&[self.taken, self.per_frame]);
        put_f32s(out, &[self.latest.correlation]);
        put_f32s(out, &self.sums);
        put_f32s(out, &self.levels);
        for channel in &self.frames {
            out.extend(channel.iter().take(usize::from(self.filled)).map(|v| v.to_le_bytes()[0]));
        }
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, CodecError> {
        let mut numbers = [0_u16; 4];
        for n in &mut numbers {
            *n = u16::from_le_bytes(take(input)?);
        }
        let [head, filled, wait, lag] = numbers;
        let (fill, taken, per_frame) = (usize::from(filled), take_u8(input)?, take_u8(input)?);
        if fill > FRAMES || usize::from(head) >= FRAMES || (fill < FRAMES && head != filled) || wait > 3 * EVERY {
            return Err(CodecError::Invalid("memory of motion"));
        }
        let [correlation] = take_f32s(input)?;
        let mut recall = Self {
            head,
            filled,
            wait,
            taken,
            per_frame,
            sums: take_f32s(input)?,
            levels: take_f32s(input)?,
            latest: Match { correlation, lag },
            ..Self::new()
        };
        for channel in &mut recall.frames {
            for slot in channel.iter_mut().take(fill) {
                *slot = i8::from_le_bytes(take(input)?);
            }
        }
        Ok(recall)
    }
}

/// Straight near 0, logarithmic beyond the knee, so that small and large motion both keep their shape in a byte.
fn code_of(off: f32, knee: f32, reach: f32) -> i8 {
    let scale = 127.0 / super::features::log2(1.0 + reach / knee);
    let code = scale * super::features::log2(1.0 + (off.abs() / knee));
    #[expect(clippy::cast_possible_truncation, reason = "clamped")]
    let code = code.clamp(0.0, 127.0) as i8;
    if off < 0.0 { -code } else { code }
}

/// Gaussian elimination of a positive definite system; `None` where the stretches hold nothing.
fn solve(mut rows: [[f32; TAPS + 1]; TAPS]) -> Option<[f32; TAPS]> {
    for k in 0..TAPS {
        // A ridge keeps neighbours that hardly differ from cancelling each other.
        let pivot_row = *rows.get(k)?;
        let pivot = pivot_row.get(k)? * RIDGE;
        if pivot < 1.0 {
            return None;
        }
        for row in rows.iter_mut().skip(k + 1) {
            let share = row.get(k)? / pivot;
            for (cell, above) in row.iter_mut().zip(pivot_row).skip(k) {
                *cell -= share * above;
            }
        }
    }
    let mut weights = [0.0; TAPS];
    for k in (0..TAPS).rev() {
        let row = rows.get(k)?;
        let known: f32 = row.iter().zip(weights).skip(k + 1).map(|(c, w)| c * w).sum();
        let [.., present] = row;
        *weights.get_mut(k)? = (present - known) / (row.get(k)? * RIDGE);
    }
    Some(weights)
}

/// The present, summed up once.
struct Stretch {
    taken: [[i16; QUERY]; 2],
    count: usize,
    sums: [i32; 2],
    squares: [i32; 2],
    /// Mean square over both channels, means removed.
    energy: f32,
}

impl Stretch {
    fn of(channels: &[[i16; FRAMES]; 2], start: usize, stride: usize) -> Self {
        let mut stretch =
            Self { taken: [[0; QUERY]; 2], count: QUERY / stride, sums: [0; 2], squares: [0; 2], energy: 0.0 };
        let parts = channels.iter().zip(&mut stretch.taken).zip(stretch.sums.iter_mut().zip(&mut stretch.squares));
        for ((frames, taken), (sum, square)) in parts {
            let from = frames.get(start..start + QUERY).unwrap_or_default();
            for (slot, v) in taken.iter_mut().zip(from.iter().step_by(stride)) {
                *slot = *v;
                *sum += i32::from(*v);
                *square += i32::from(*v) * i32::from(*v);
            }
        }
        let n = stretch.count as f32;
        stretch.energy = stretch.spread().iter().sum::<f32>() / n;
        stretch
    }

    /// Summed squares around the mean, by channel.
    fn spread(&self) -> [f32; 2] {
        let n = self.count as f32;
        let mut out = [0.0; 2];
        for ((slot, sum), square) in out.iter_mut().zip(self.sums).zip(self.squares) {
            *slot = (square as f32 - (sum as f32) * (sum as f32) / n).max(0.0);
        }
        out
    }

    /// Multiple correlation with [`TAPS`] stretches of the past from `first` on, each a frame later.
    fn filtered(&self, channels: &[[i16; FRAMES]; 2], first: usize) -> f32 {
        let n = self.count as f32;
        // Normal equations over both channels, each series around its own mean; the last column is the present.
        let mut sums = [[0.0_f32; TAPS + 1]; TAPS];
        let mut total = 0.0;
        for (frames, (taken, own)) in channels.iter().zip(self.taken.iter().zip(self.spread())) {
            let tap = |k: usize| frames.get(first + k..first + k + QUERY).unwrap_or_default();
            let around = |x: &[i16], y: &[i16]| {
                let [mut product, mut sx, mut sy] = [0_i32; 3];
                for (a, b) in x.iter().zip(y) {
                    let (a, b) = (i32::from(*a), i32::from(*b));
                    product += a * b;
                    sx += a;
                    sy += b;
                }
                product as f32 - (sx as f32) * (sy as f32) / n
            };
            for (k, row) in sums.iter_mut().enumerate() {
                for (l, cell) in row.iter_mut().enumerate() {
                    *cell += if l < TAPS { around(tap(k), tap(l)) } else { around(tap(k), taken) };
                }
            }
            total += own;
        }
        let against = sums.map(|[.., present]| present);
        let Some(weights) = solve(sums) else { return 0.0 };
        let explained: f32 = weights.iter().zip(against).map(|(w, s)| w * s).sum();
        if total > 1.0 { (explained / total).clamp(0.0, 1.0).sqrt() } else { 0.0 }
    }

    /// With the stretch of the past that begins at `start`: over both channels at once, each around its own mean.
    fn correlation(&self, channels: &[[i16; FRAMES]; 2], start: usize, stride: usize) -> f32 {
        let n = self.count as f32;
        let (mut both, mut mine, mut theirs) = (0.0, 0.0, 0.0);
        let own = self.spread();
        for (((frames, taken), sum), own) in channels.iter().zip(&self.taken).zip(self.sums).zip(own) {
            let past = frames.get(start..start + QUERY).unwrap_or_default();
            let (mut product, mut total, mut square) = (0_i32, 0_i32, 0_i32);
            if stride == STRIDE {
                for (pair, q) in past.as_chunks::<STRIDE>().0.iter().zip(taken) {
                    let [v, _] = *pair;
                    let (v, q) = (i32::from(v), i32::from(*q));
                    product += v * q;
                    total += v;
                    square += v * v;
                }
            } else {
                for (v, q) in past.iter().zip(taken) {
                    let (v, q) = (i32::from(*v), i32::from(*q));
                    product += v * q;
                    total += v;
                    square += v * v;
                }
            }
            both += product as f32 - (sum as f32) * (total as f32) / n;
            mine += own;
            theirs += (square as f32 - (total as f32) * (total as f32) / n).max(0.0);
        }
        let scale = mine * theirs;
        if scale > 1.0 { both / scale.sqrt() } else { 0.0 }
    }
}
