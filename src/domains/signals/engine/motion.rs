//! What is measured of motion: a little with each reading, windows every 25 readings, and the tests that follow.

use super::evidence::{LOCK, Test};
use super::features::{Columns, RING, Ring3, log2};
use super::population::{Pace, Population};
use super::reading::Reading;
use super::rules::{Effect, Reason};
use super::sketch::mix;
use super::{Context, DeviceEngine, NOISE_MAX};

/// Readings between two measurements at 20 Hz and more.
const MEASURE_EVERY: u64 = 25;
/// Readings between two measurements at lower rates, where only the cheap ones are made.
const MEASURE_EVERY_SLOW: u64 = 5;
/// What one measurement adds to the evidence of a window of 100 readings of which a quarter is new: more than that
/// quarter, for the sake of delay; the population's tails are measured with the same overlap.
const SHARE: f32 = 0.7;
/// Both envelopes must be believed to be motion, m/s² and rad/s, and for this long.
const APART_SHAKING: f32 = 0.15;
const APART_TURNING: f32 = 0.1;
const APART_MS: f32 = 3000.0;
/// Shaking that must turn the device, too; in units of the first of the above.
const APART_LIVELY: f32 = 5.0;
/// What changes less does not repeat itself, it stands still; m/s² and rad/s.
const LOOP_LEAST: f32 = 1e-4;
/// A wave has 1.5 on each axis, and at most three times that over axes of which one swings most.
const WAVE_KURTOSIS: f32 = 5.0;
/// Readings in a row with the same bits that many a driver gives.
const STUCK_FROM: u32 = 16;
/// A block of a person's traits.
const BLOCK_MS: f32 = 1000.0;
/// Evidence that fades with each measurement in which a test has nothing to say, in decades.
const FADE: f32 = 0.1;

const STANDARD_GRAVITY: f32 = 9.806_65;
/// Readings after which an accelerometer is believed to speak in g.
const G_BELIEVED: u8 = 50;
const G_SETTLED: u8 = u8::MAX;

/// No sensor of a phone reaches these, m/s² and rad/s: what is beyond is no measurement.
const ACCELERATION_MOST: f32 = 2000.0;
const ROTATION_MOST: f32 = 200.0;

/// Whether the numbers may be a measurement.
fn plausible(v: &[f32; 3], most: f32) -> bool {
    v.iter().all(|x| x.abs() <= most)
}

fn same_bits(a: &[f32; 3], b: &[f32; 3]) -> bool {
    a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
}

fn magnitude(v: &[f32; 3]) -> f32 {
    v.iter().map(|x| x * x).sum::<f32>().sqrt()
}

/// What emulators report when nobody turns their virtual phone.
fn is_emulator_default(accelerometer: &[f32; 3], gyroscope: Option<&[f32; 3]>) -> bool {
    const DEFAULTS: [[f32; 3]; 5] =
        [[0.0, 9.81, 0.0], [0.0, 9.806_65, 0.0], [0.0, 0.0, 9.81], [0.0, 0.0, 9.806_65], [0.0, 9.776_321, 0.813_417]];
    let still = gyroscope.is_none_or(|g| g.iter().all(|x| *x == 0.0));
    still && DEFAULTS.iter().any(|d| d == accelerometer)
}

impl DeviceEngine {
    /// The acceleration in m/s²: a device whose gravity is 1 gives g.
    fn in_metres(&mut self, v: [f32; 3]) -> [f32; 3] {
        if self.in_g != G_SETTLED {
            let size = magnitude(&v);
            let near_one = (0.7..1.4).contains(&size);
            self.in_g = if near_one { self.in_g.saturating_add(1) } else { 0 };
            if self.in_g < G_BELIEVED {
                return v;
            }
            self.in_g = G_SETTLED;
            // What was gathered in the other unit means nothing.
            self.start_anew();
            self.accelerometer = Ring3::new([0.0; 3]);
            self.level = 0.0;
        }
        if magnitude(&v) > 50.0 / STANDARD_GRAVITY {
            // No hand accelerates that much in g: the device speaks in m/s² after all.
            self.in_g = 0;
            return v;
        }
        self.fire(Reason::UnitsInG);
        v.map(|x| x * STANDARD_GRAVITY)
    }

    pub(super) fn take_motion(&mut self, r: &Reading) {
        let a = r
            .accelerometer
            .filter(|v| self.sensors.accelerometer && plausible(v, ACCELERATION_MOST))
            .map(|v| self.in_metres(v));
        let g = r.gyroscope.filter(|v| self.sensors.gyroscope && plausible(v, ROTATION_MOST));
        let (a, g) = (a.as_ref(), g.as_ref());
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
            let size = magnitude(a);
            if self.accelerometer.len() == 0 {
                self.level = size;
            }
            let off = size - self.level;
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
        let population = self.population;
        if self.settled() {
            self.take_bands(a.copied().unwrap_or_default(), g.copied().unwrap_or_default(), population);
        }
        if !self.resent {
            self.take_memory(hash, population);
        }
        let young = self.unbroken < 25;
        let every = if self.fast() && !young { MEASURE_EVERY } else { MEASURE_EVERY_SLOW };
        if self.count.is_multiple_of(every) {
            self.measure(population);
        }
    }

    fn pace(&self) -> Pace {
        Pace::of(self.dt_ms, self.sensors.accelerometer && self.sensors.gyroscope)
    }

    fn take_bands(&mut self, acceleration: [f32; 3], rotation: [f32; 3], population: &Population) {
        let dt_ms = self.dt_ms.clamp(1.0, 1000.0);
        self.bands.push(acceleration, rotation, dt_ms);
        let (shaking, turning) = (self.bands.shaking(), self.bands.turning());
        // Without an accelerometer the rotation alone says where the device is.
        let shaking = if self.sensors.accelerometer { shaking } else { 2.0 * turning };
        self.tracker.push(shaking, turning, dt_ms, &population.bounds);
        if self.pace() != Pace::Fast {
            return;
        }
        self.block_ms += dt_ms;
        if self.block_ms >= BLOCK_MS && self.bands.settled() {
            self.block_ms = 0.0;
            let traits = self.bands.traits();
            let now_ms = self.standing.now_ms().unwrap_or(self.last_t_ms);
            let trusted = self.trusted();
            self.person.push((self.tracker.context(), &traits), now_ms, trusted, population);
            if self.person.stranger() {
                self.fire(Reason::StrangerHolds);
            }
            if self.person.take_drift() {
                self.fire(Reason::OwnerChanged);
            }
        }
    }

    /// What a window teaches about the owner must be beyond suspicion.
    pub(super) fn trusted(&self) -> bool {
        self.evidence.most() < 1.0 && self.standing.calm() && self.reasons().worst().is_none_or(|e| e == Effect::Note)
    }

    fn take_memory(&mut self, hash: u32, population: &Population) {
        let before = self.sketch.run();
        self.sketch.push(hash);
        if self.unbroken < 8 {
            return;
        }
        let place = (self.tracker.context(), self.pace());
        let run = self.sketch.run();
        if run > before {
            // Each match is news; a run of real readings ends soon.
            self.evidence.weigh((Test::Copy, f32::from(run), 1.0), place, population);
        } else if self.count.is_multiple_of(MEASURE_EVERY) && run == 0 {
            self.evidence.weigh((Test::Copy, 0.0, SHARE), place, population);
        }
        let smooth = self.bands.smooth(self.sensors.gyroscope);
        if let Some(found) = self.recall.push(smooth, self.dt_ms.clamp(1.0, 1000.0), self.sensors.gyroscope) {
            let value = -log2((1.0 - found.correlation).max(1e-5));
            self.evidence.weigh((Test::Recall, value, 1.0), place, population);
        } else if self.count.is_multiple_of(4 * MEASURE_EVERY) {
            self.evidence.fade(Test::Recall, FADE);
        }
    }

    /// The costly measurements, and the tests that follow from them.
    fn measure(&mut self, population: &Population) {
        let n = usize::from(self.unbroken).min(RING);
        let fast = self.fast() && n >= 50;
        let a = Columns::latest(&self.accelerometer, n);
        let g = Columns::latest(&self.gyroscope, n);
        let (mut aw, gw) = (a.measure(fast), g.measure(fast));
        if self.count.is_multiple_of(4 * MEASURE_EVERY) {
            aw.on_grid = a.on_grid(self.step);
        } else {
            aw.on_grid = self.accelerometer_window.on_grid;
        }
        (self.accelerometer_window, self.gyroscope_window) = (aw, gw);
        let place = (self.tracker.context(), self.pace());
        self.weigh_stuck(place, population);
        if !fast || n < 64 {
            for test in [Test::White, Test::Wave, Test::Loop, Test::Apart] {
                self.evidence.fade(test, FADE);
            }
            // What was recorded is found at any rate.
            self.conclude_tests();
            return;
        }
        let has_gyro = gw.n >= 64.0;
        if n == RING && aw.n >= RING as f32 && !self.touched() {
            let still = aw.std < NOISE_MAX && (aw.lag1 < 0.5 || aw.std < 0.025);
            if still && (!has_gyro || gw.std < NOISE_MAX) {
                self.noise = if self.noise > 0.0 { aw.std.min(self.noise * 1.01) } else { aw.std };
            }
        }
        // Whiteness means something only above the sensor's own noise, which is white.
        let loud = aw.std > (3.0 * self.noise).max(NOISE_MAX * 0.5);
        if loud && aw.kurtosis < 8.0 {
            let tied = |w: &super::Window| w.lag1.abs().max(w.lag2.abs());
            let tied = if has_gyro { tied(&aw).max(tied(&gw)) } else { tied(&aw) };
            self.evidence.weigh((Test::White, -tied, SHARE), place, population);
        } else {
            self.evidence.fade(Test::White, FADE);
        }
        // The steps of a coarse sensor at rest look like a wave to the eye of a line; their kurtosis does not.
        let purity = |w: &super::Window, least: f32| {
            if w.std > least && w.kurtosis < WAVE_KURTOSIS { w.purity } else { 0.0 }
        };
        let (pure_a, pure_g) = (purity(&aw, 0.05), purity(&gw, 0.03));
        let pure = if has_gyro { pure_a.min(pure_g).max(pure_a - 0.1) } else { pure_a };
        let pure = if aw.n < 4.0 { pure_g } else { pure };
        let wave = -log2((1.0 - pure).max(1e-4));
        self.evidence.weigh((Test::Wave, wave, SHARE), place, population);
        self.repeat_error = 1.0;
        // A pure wave repeats itself, too, and has a test of its own; and so has what does not change at all, as coarse
        // sensors on a table do.
        let changes = aw.std > LOOP_LEAST || gw.std > LOOP_LEAST;
        if n == RING && pure < 0.97 && changes && self.count.is_multiple_of(2 * MEASURE_EVERY) {
            let lag = a.best_lag();
            self.repeat_error = a.repeat_error(lag);
            if has_gyro {
                self.repeat_error = self.repeat_error.max(g.repeat_error(lag));
            }
            let value = -log2(self.repeat_error.clamp(1e-5, 1.0));
            self.evidence.weigh((Test::Loop, value, 1.0), place, population);
        }
        let (shaking, turning) = (self.bands.shaking() / APART_SHAKING, self.bands.turning() / APART_TURNING);
        // Steps shake and turn at once; a hand may turn a phone without shaking it. Shaking alone is as wrong as motion of
        // both that does not agree.
        let carried = has_gyro && place.0 == Context::Carried && self.bands.span_ms() > APART_MS;
        let (both, alone) = (shaking.min(turning) > 1.0, shaking > APART_LIVELY);
        if carried && alone && gw.std == 0.0 {
            // A gyroscope that is broken or made up has nothing to agree with.
            self.fire(Reason::SensorSilent);
            self.evidence.fade(Test::Apart, FADE);
        } else if carried && (both || alone) {
            self.evidence.weigh((Test::Apart, -self.bands.coherence(), SHARE), place, population);
            if !both {
                // What a mount shakes turns little, too: that asks and does not lock.
                self.evidence.cap(Test::Apart, LOCK - 0.5);
            }
        } else {
            self.evidence.fade(Test::Apart, FADE);
        }
        self.conclude_tests();
    }

    fn weigh_stuck(&mut self, place: (Context, Pace), population: &Population) {
        // A coarse accelerometer on a table repeats its bits for minutes; that a gyroscope does, too, is no sensor's way.
        let both = self.accelerometer.len() > 0 && self.gyroscope.len() > 0;
        if both {
            // Doublings beyond what a slow driver repeats; a minute of equal bits is as much as an hour of them.
            let run = log2(self.same_run.clamp(STUCK_FROM, 4096) as f32 / STUCK_FROM as f32);
            self.evidence.weigh((Test::Stuck, run, SHARE), place, population);
            if self.evidence.level(Test::Stuck) >= LOCK {
                self.fire(Reason::SensorsStuck);
            }
        }
    }

    /// What the evidence has come to. Sensors that are stuck ask and never lock: a driver may have died.
    pub(super) fn conclude_tests(&mut self) {
        for (test, reason) in [
            (Test::White, Reason::WhiteNoise),
            (Test::Wave, Reason::PureSine),
            (Test::Loop, Reason::NearLoop),
            (Test::Copy, Reason::ExactLoop),
            (Test::Recall, Reason::ReplayedMotion),
            (Test::Apart, Reason::SensorsApart),
        ] {
            let level = self.evidence.level(test);
            if level >= LOCK {
                self.fire(reason);
            } else if level >= super::evidence::ASK {
                self.fire(Reason::MotionDoubtful);
            }
        }
    }
}
