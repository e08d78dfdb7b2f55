//! The first threat engine: one device's recent readings, what they show, and what that leads to.
//!
//! Pure and deterministic: no clock, no chance, no I/O; the same readings under the same policy give the same bits on
//! any machine, however they were cut into heartbeats. Rest is neutral; touches that move nothing are not (see the
//! rules). One state is at most 8 KiB and never grows.
//!
//! What costs little is done with each reading (runs of equal values, the memory of past motion, touches); what costs
//! more (autocorrelation, purity, entropy) every 25 readings. Knows nothing of tenants, tokens, rows or the wire.

mod assess;
mod codec;
mod features;
pub mod reading;
mod ring;
mod rules;
mod sketch;
mod state;
#[cfg(test)]
mod tests;
mod usage;

pub use assess::{Assessment, Features};
pub use codec::CodecError;
pub use reading::{Extras, Network, Reading, Sensors, Touch};
pub use rules::{Components, Decision, Effect, Engine, Policy, Reason, Reasons};

use features::{Columns, RING, Ring3, Window, largest_step, spread};
use rules::REASONS;
use sketch::{Sketch, mix};
use usage::{Touches, Traffic};

/// Readings between two measurements at 20 Hz and more.
const MEASURE_EVERY: u64 = 25;
/// Readings between two measurements at lower rates, where only the cheap ones are made.
const MEASURE_EVERY_SLOW: u64 = 5;
/// Slowest spacing at which neighbouring readings say something about inertia (20 Hz).
const FAST_DT_MS: f32 = 50.0;
/// Readings without a gap before the spacing is believed.
const SETTLED: u16 = 8;
/// A pause longer than this starts anew whatever the rate is.
const GAP_MS: f32 = 30_000.0;
/// A finger's push is felt this long before its touch is reported, and this long after.
const TOUCH_SIDE_MS: f32 = 120.0;
/// Accelerometer spread under which a touch has moved nothing, while the device's own noise is not known: below the
/// quietest of 4,320 genuine entries in the hand (0.0178 m/s²).
const DEAD_STD: f32 = 0.016;
/// Largest step between two readings that a device without a push takes, and the smallest that a finger is credited
/// with; in units of the spread under which a touch has moved nothing.
const STEP_DEAD: f32 = 2.4;
const STEP_ALIVE: f32 = 4.5;
/// Accelerometers whose smallest step is larger than this (m/s²) may miss a finger: such phones exist.
const COARSE_STEP: f32 = 0.05;
/// Noisiest accelerometer that is still believed to lie still, m/s².
const NOISE_MAX: f32 = 0.06;
/// Gyroscope spread above which the device moves whatever the accelerometer says, rad/s.
const GYRO_ALIVE: f32 = 0.02;
/// Gyroscope spread under which a device without accelerometer lies still, rad/s.
const GYRO_DEAD: f32 = 0.002;
/// Dead touches older than this no longer count.
const DEAD_TOUCH_MEMORY_MS: u64 = 60_000;
/// Changed readings of a moving device that must repeat the past at one lag to prove a loop; real ones reach 3.
const LOOP_RUN: u16 = 24;
/// The same for a device at rest that is being used: coarse sensors have few values to choose from.
const LOOP_RUN_AT_REST: u16 = 48;
/// Readings with all sensors equal to the bit before they count as dead; real ones on a table reach 42.
const DEAD_RUN: u32 = 64;
/// Touches within this many readings are a sign of use.
const USE_READINGS: u64 = 100;

/// Share of the screen from which an overlay hides what happens.
const OVERLAY: f32 = 0.5;
/// The same on a rooted device that nobody holds and that an accessibility service can operate.
const OVERLAY_LOW: f32 = 0.2;
/// Readings that carry no overlay are taken to have the last one this long: some clients measure it once a second.
const OVERLAY_LASTS_MS: u64 = 2000;

/// What the device last said about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Flags {
    overlay: f32,
    accessibility: bool,
    mirroring: bool,
    rooted: bool,
    debugger: bool,
}

/// Everything the engine knows about one device.
#[derive(Clone, Debug)]
pub struct DeviceEngine {
    sensors: Sensors,
    /// Readings ever taken.
    count: u64,
    last_t_ms: u64,
    /// Smoothed spacing of the readings.
    dt_ms: f32,
    /// Readings since the last gap, saturating.
    unbroken: u16,
    reversals: u8,
    accelerometer: Ring3,
    gyroscope: Ring3,
    accelerometer_window: Window,
    gyroscope_window: Window,
    repeat_error: f32,
    level: f32,
    level_variance: f32,
    /// Spread of the accelerometer when the device was known to lie still; 0 while unknown.
    noise: f32,
    /// Smallest change of an axis of the accelerometer ever seen; 0 while unknown.
    step: f32,
    same_run: u32,
    same_since_ms: u64,
    default_run: u8,
    sketch: Sketch,
    white_streak: u8,
    sine_streak: u8,
    touches: Option<Box<Touches>>,
    traffic: Option<Box<Traffic>>,
    /// `count` at the last touch; 0 for never.
    last_touch: u64,
    /// Readings until the last touch is judged; 0 when none waits.
    judge_in: u8,
    dead_touches: u8,
    constant_touches: u8,
    last_dead_ms: u64,
    flags: Flags,
    /// When an overlay was last measured, or found absent.
    overlay_t_ms: u64,
    /// `count` when a reason last held; 0 for never.
    fired: [u64; REASONS],
}

fn finite(v: &[f32; 3]) -> bool {
    v.iter().all(|x| x.is_finite())
}

fn same_bits(a: &[f32; 3], b: &[f32; 3]) -> bool {
    a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
}

/// What emulators report when nobody turns their virtual phone.
fn is_emulator_default(accelerometer: &[f32; 3], gyroscope: Option<&[f32; 3]>) -> bool {
    const DEFAULTS: [[f32; 3]; 5] =
        [[0.0, 9.81, 0.0], [0.0, 9.806_65, 0.0], [0.0, 0.0, 9.81], [0.0, 0.0, 9.806_65], [0.0, 9.776_321, 0.813_417]];
    let still = gyroscope.is_none_or(|g| g.iter().all(|x| *x == 0.0));
    still && DEFAULTS.iter().any(|d| d == accelerometer)
}

impl DeviceEngine {
    /// A device of which nothing is known yet.
    pub fn new(sensors: Sensors) -> Self {
        Self {
            sensors,
            count: 0,
            last_t_ms: 0,
            dt_ms: 0.0,
            unbroken: 0,
            reversals: 0,
            accelerometer: Ring3::new([0.0; 3]),
            gyroscope: Ring3::new([0.0; 3]),
            accelerometer_window: Window::default(),
            gyroscope_window: Window::default(),
            repeat_error: 1.0,
            level: 0.0,
            level_variance: 0.0,
            noise: 0.0,
            step: 0.0,
            same_run: 0,
            same_since_ms: 0,
            default_run: 0,
            sketch: Sketch::new(),
            white_streak: 0,
            sine_streak: 0,
            touches: None,
            traffic: None,
            last_touch: 0,
            judge_in: 0,
            dead_touches: 0,
            constant_touches: 0,
            last_dead_ms: 0,
            flags: Flags::default(),
            overlay_t_ms: 0,
            fired: [0; REASONS],
        }
    }

    /// What the device declared.
    pub fn sensors(&self) -> Sensors {
        self.sensors
    }

    /// Readings ever taken.
    pub fn readings(&self) -> u64 {
        self.count
    }

    /// Forgets the evidence but not what is usual for this device; for when an administrator unlocks it.
    pub fn clear_evidence(&mut self) {
        self.fired = [0; REASONS];
        (self.dead_touches, self.constant_touches, self.white_streak, self.sine_streak) = (0, 0, 0, 0);
        (self.reversals, self.default_run) = (0, 0);
        self.sketch = Sketch::new();
        self.start_anew();
        (self.accelerometer_window, self.gyroscope_window) = (Window::default(), Window::default());
    }

    /// Takes one reading. Sensors that the device did not declare, and values that are not finite, are ignored.
    pub fn push(&mut self, r: &Reading) {
        self.count += 1;
        self.take_time(r.t_ms);
        let known = r.overlay.filter(|o| o.is_finite());
        if known.is_some() {
            self.overlay_t_ms = r.t_ms;
        }
        let lasts = r.t_ms.saturating_sub(self.overlay_t_ms) <= OVERLAY_LASTS_MS;
        self.flags = Flags {
            overlay: known.unwrap_or(if lasts { self.flags.overlay } else { 0.0 }),
            accessibility: r.accessibility_active,
            mirroring: r.window_mirroring,
            rooted: r.rooted,
            debugger: r.debugger,
        };
        self.take_motion(r);
        if self.judge_in > 0 {
            self.judge_in -= 1;
            if self.judge_in == 0 {
                self.judge_touch(2 * usize::from(self.touch_side()) + 1, true);
            }
        }
        if let Some(touch) = &r.touch {
            self.take_touch(touch);
        }
        if let Some(network) = &r.network {
            let traffic = self.traffic.get_or_insert_with(|| Box::new(Traffic::new()));
            traffic.push(network);
            if traffic.spike > 6.0 {
                self.fire(Reason::NetworkSpike);
            }
        }
        self.apply_rules();
    }

    fn fire(&mut self, reason: Reason) {
        if let Some(at) = self.fired.get_mut(reason as usize) {
            *at = self.count;
        }
    }

    /// The spacing is known and short enough for inertia to show.
    fn fast(&self) -> bool {
        self.unbroken >= SETTLED && self.dt_ms <= FAST_DT_MS
    }

    /// Readings before and after a touch that belong to it.
    fn touch_side(&self) -> u8 {
        let side = (TOUCH_SIDE_MS / self.dt_ms.max(1.0)).clamp(3.0, 24.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let side = side as u8;
        side
    }

    /// Neighbouring readings no longer belong together.
    fn start_anew(&mut self) {
        self.unbroken = 0;
        self.dt_ms = 0.0;
        self.same_run = 0;
        self.judge_in = 0;
        self.flags.overlay = 0.0;
        self.white_streak = 0;
        self.sine_streak = 0;
    }

    fn take_time(&mut self, t_ms: u64) {
        if self.count.is_multiple_of(256) {
            self.reversals = self.reversals.saturating_sub(1);
        }
        if self.count > 1 {
            if t_ms < self.last_t_ms {
                // A restart, or the same readings sent again: what looks like a loop would be none.
                self.reversals = self.reversals.saturating_add(1);
                self.sketch = Sketch::new();
                self.start_anew();
            } else {
                let dt_ms = (t_ms - self.last_t_ms) as f32;
                let usual = self.unbroken >= SETTLED;
                if dt_ms > GAP_MS || (usual && dt_ms > 20.0 * self.dt_ms + 1000.0) {
                    self.start_anew();
                } else {
                    // A plain mean at first, so that bursts do not mislead; then exponentially weighted.
                    let weight = (1.0 / f32::from(self.unbroken.max(1))).max(0.05);
                    self.dt_ms += weight * (dt_ms - self.dt_ms);
                }
            }
        }
        self.last_t_ms = t_ms;
        self.unbroken = self.unbroken.saturating_add(1);
    }

    fn take_motion(&mut self, r: &Reading) {
        let a = r.accelerometer.as_ref().filter(|v| self.sensors.accelerometer && finite(v));
        let g = r.gyroscope.as_ref().filter(|v| self.sensors.gyroscope && finite(v));
        if a.is_none() && g.is_none() {
            return;
        }
        let unchanged = |ring: &Ring3, now: Option<&[f32; 3]>| {
            now.is_none_or(|v| ring.iter_latest(1).next().is_some_and(|last| same_bits(last, v)))
        };
        if self.same_run > 0 && unchanged(&self.accelerometer, a) && unchanged(&self.gyroscope, g) {
            self.same_run = self.same_run.saturating_add(1);
        } else {
            (self.same_run, self.same_since_ms) = (1, r.t_ms);
        }
        let default = a.is_some_and(|a| is_emulator_default(a, g));
        self.default_run = if default { self.default_run.saturating_add(1) } else { 0 };
        let mut hash = 0x811C_9DC5;
        if let Some(a) = a {
            hash = a.iter().fold(hash, |h, x| mix(h, x.to_bits()));
            let magnitude = a.iter().map(|x| x * x).sum::<f32>().sqrt();
            if self.accelerometer.len() == 0 {
                self.level = magnitude;
            }
            let off = magnitude - self.level;
            self.level += 0.05 * off;
            self.level_variance = 0.95 * (self.level_variance + 0.05 * off * off);
            if let Some(last) = self.accelerometer.iter_latest(1).next() {
                for (x, y) in last.iter().zip(a) {
                    let change = (x - y).abs();
                    if change > 0.0 && (self.step == 0.0 || change < self.step) {
                        self.step = change;
                    }
                }
            }
            self.accelerometer.push(*a);
        }
        if let Some(g) = g {
            hash = g.iter().fold(hash, |h, x| mix(h, x.to_bits()));
            self.gyroscope.push(*g);
        }
        self.sketch.push(hash);
        let young = self.unbroken < 25;
        let every = if self.fast() && !young { MEASURE_EVERY } else { MEASURE_EVERY_SLOW };
        if self.count.is_multiple_of(every) {
            self.measure();
        }
    }

    /// The costly measurements, and the rules that follow from them.
    fn measure(&mut self) {
        let n = usize::from(self.unbroken).min(RING);
        let fast = self.fast() && n >= 50;
        let a = Columns::latest(&self.accelerometer, n);
        let g = Columns::latest(&self.gyroscope, n);
        let (aw, gw) = (a.measure(fast), g.measure(fast));
        (self.accelerometer_window, self.gyroscope_window) = (aw, gw);
        if !fast || n < 64 {
            (self.white_streak, self.sine_streak) = (0, 0);
            return;
        }
        let in_use = self.in_use();
        let has_gyro = gw.n >= 64.0;
        if n == RING && aw.n >= RING as f32 && !self.touched() {
            let still = aw.std < NOISE_MAX && (aw.lag1 < 0.5 || aw.std < 0.025);
            if still && (!has_gyro || gw.std < NOISE_MAX) {
                self.noise = if self.noise > 0.0 { aw.std.min(self.noise * 1.01) } else { aw.std };
            }
        }
        let white = |w: &Window| w.lag1.abs() < 0.25 && w.lag2.abs() < 0.25 && w.kurtosis > 0.0 && w.kurtosis < 6.0;
        let loud = aw.std > 0.5 || (in_use && aw.std > (2.0 * self.noise).max(NOISE_MAX));
        let noisy = loud && white(&aw) && (!has_gyro || white(&gw));
        self.white_streak = if noisy { self.white_streak.saturating_add(1) } else { 0 };
        if self.white_streak >= 2 {
            self.fire(Reason::WhiteNoise);
        }
        // Real motion reaches 0.89 in the one and 0.80 in the other.
        let pure_a = if aw.std > 0.03 { aw.purity } else { 0.0 };
        let pure_g = if gw.std > 0.02 { gw.purity } else { 0.0 };
        let sine = pure_a > 0.98 || (pure_a > 0.95 && pure_g > 0.95) || (aw.n < 4.0 && pure_g > 0.98);
        self.sine_streak = if sine { self.sine_streak.saturating_add(1) } else { 0 };
        let beyond_doubt = pure_a > 0.98 && (pure_g > 0.98 || !has_gyro);
        if self.sine_streak >= 2 || beyond_doubt {
            self.fire(Reason::PureSine);
        }
        if n == RING && !sine && self.count.is_multiple_of(2 * MEASURE_EVERY) {
            self.repeat_error = 1.0;
            if aw.std > 0.15 {
                // The steadiest real walk stays at 0.025 (accelerometer alone) and 0.076 (gyroscope).
                let lag = a.best_lag();
                self.repeat_error = a.repeat_error(lag);
                if has_gyro && self.repeat_error < 0.1 {
                    self.repeat_error = self.repeat_error.max(g.repeat_error(lag));
                }
                if self.repeat_error < if has_gyro { 0.02 } else { 0.008 } {
                    self.fire(Reason::NearLoop);
                }
            }
        }
    }

    fn touched(&self) -> bool {
        self.last_touch > 0 && self.count - self.last_touch < USE_READINGS
    }

    fn in_use(&self) -> bool {
        self.touched() || self.flags.overlay >= OVERLAY || self.flags.mirroring || self.flags.accessibility
    }

    fn dead_below(&self) -> f32 {
        if self.noise > 0.0 { (1.35 * self.noise).clamp(DEAD_STD, NOISE_MAX) } else { DEAD_STD }
    }

    fn take_touch(&mut self, touch: &Touch) {
        let touches = self.touches.get_or_insert_with(|| Box::new(Touches::new()));
        if !touches.push(touch) {
            return;
        }
        if touches.mechanical() {
            self.fire(Reason::MechanicalTouches);
        }
        self.last_touch = self.count;
        if self.fast() {
            // Touches that fall into the window of an earlier one share its verdict: the cost stays bounded.
            if self.judge_in == 0 {
                self.judge_in = self.touch_side();
            }
        } else if self.unbroken >= 5 {
            self.judge_touch(5, false);
        }
    }

    /// Whether the device moved around a touch. `fast` is whether a finger's push would have been seen at this rate.
    fn judge_touch(&mut self, window: usize, fast: bool) {
        if usize::from(self.unbroken) < window {
            return;
        }
        let (has_a, has_g) = (self.accelerometer.len() >= window, self.gyroscope.len() >= window);
        let (a, g) = (spread(&self.accelerometer, window), spread(&self.gyroscope, window));
        let (dead, alive) = match (has_a, has_g) {
            (true, gyro) => {
                let (below, step) = (self.dead_below(), largest_step(&self.accelerometer, window));
                // The noise of any one window spreads its largest step by a factor of three or so; a push adds to it.
                let turning = gyro && g > GYRO_ALIVE;
                let dead = a < below && step < STEP_DEAD * below && !turning;
                (dead, a > 3.0 * below || step > STEP_ALIVE * below || (gyro && g > 3.0 * GYRO_ALIVE))
            }
            (false, true) => (g < GYRO_DEAD, g > 3.0 * GYRO_ALIVE),
            (false, false) => return,
        };
        if alive {
            (self.dead_touches, self.constant_touches) = (0, 0);
        }
        if !dead {
            return;
        }
        if self.last_t_ms.saturating_sub(self.last_dead_ms) > DEAD_TOUCH_MEMORY_MS {
            (self.dead_touches, self.constant_touches) = (0, 0);
        }
        self.last_dead_ms = self.last_t_ms;
        self.dead_touches = self.dead_touches.saturating_add(1);
        if self.same_run as usize >= window {
            self.constant_touches = self.constant_touches.saturating_add(1);
        }
        let coarse = self.step > COARSE_STEP;
        // A gyroscope is never silent; an accelerometer may be.
        let needed = if fast && has_a && has_g { 1 } else { 2 };
        if self.constant_touches >= needed && (!coarse || self.sensors_dead()) {
            self.fire(Reason::TouchOnDeadSensors);
        }
        // At a low rate a finger's push falls between two readings, and a coarse sensor may swallow it.
        let felt = fast && !coarse;
        let needed = if felt { 1 } else { 3 };
        if self.flags.overlay >= OVERLAY && self.dead_touches >= needed {
            self.fire(Reason::OverlayUnattended);
        }
        if self.flags.mirroring && self.dead_touches >= needed {
            self.fire(Reason::MirroringUnattended);
        }
        if felt && self.dead_touches >= if self.flags.accessibility { 2 } else { 3 } {
            self.fire(Reason::TouchWithoutMotion);
        } else if self.dead_touches >= if felt { 2 } else { 10 } {
            self.fire(Reason::FewTouchesWithoutMotion);
        }
    }

    /// The rules that hold or not with each reading.
    fn apply_rules(&mut self) {
        if self.flags != Flags::default() {
            self.apply_flag_rules();
        }
        if self.default_run > 0 {
            let seen_through = self.flags.overlay >= OVERLAY || self.flags.mirroring;
            if seen_through || (self.default_run >= 2 && self.in_use()) {
                self.fire(Reason::EmulatorInUse);
            } else if self.default_run >= 2 {
                self.fire(Reason::EmulatorDefault);
            }
        }
        let run = self.sketch.run();
        if run >= LOOP_RUN && (self.moving() || (run >= LOOP_RUN_AT_REST && self.in_use())) {
            self.fire(Reason::ExactLoop);
        }
        if self.reversals >= 3 {
            self.fire(Reason::ClockReversed);
        }
    }

    fn apply_flag_rules(&mut self) {
        let f = self.flags;
        let overlay = f.overlay >= OVERLAY;
        for (holds, reason) in [
            (overlay, Reason::OverlayPresent),
            (f.mirroring, Reason::MirroringActive),
            (overlay && f.accessibility, Reason::OverlayWithAccessibility),
            (f.mirroring && f.accessibility, Reason::MirroringWithAccessibility),
            (f.rooted, Reason::Rooted),
            (f.debugger, Reason::Debugger),
        ] {
            if holds {
                self.fire(reason);
            }
        }
        if f.rooted && f.accessibility && f.overlay >= OVERLAY_LOW && self.unattended() {
            self.fire(Reason::RootedRemoteControl);
        }
        if self.sensors_dead() && (overlay || f.mirroring || f.accessibility) {
            self.fire(Reason::DeadSensorsInUse);
            if overlay {
                self.fire(Reason::OverlayUnattended);
            }
            if f.mirroring {
                self.fire(Reason::MirroringUnattended);
            }
        }
    }

    /// Both sensors equal to the bit for longer than real ones ever are.
    fn sensors_dead(&self) -> bool {
        let both = self.accelerometer.len() > 0 && self.gyroscope.len() > 0;
        let span_ms = self.last_t_ms.saturating_sub(self.same_since_ms);
        both && ((self.same_run >= DEAD_RUN && span_ms >= 1000) || (self.same_run >= 12 && span_ms >= 10_000))
    }

    /// Nothing moves beyond the sensor's noise.
    fn unattended(&self) -> bool {
        let n = usize::from(self.unbroken).min(16);
        let seen = self.accelerometer.len() >= 4 && n >= 4;
        seen && spread(&self.accelerometer, n) < 2.0 * self.dead_below() && spread(&self.gyroscope, n) < GYRO_ALIVE
    }

    fn moving(&self) -> bool {
        self.accelerometer_window.std > 0.05 || self.gyroscope_window.std > 0.02
    }
}
