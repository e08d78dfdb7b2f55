//! Touches against motion: a finger moves what it touches, even on a table.

use super::evidence::{LOCK, Test};
use super::features::{largest_step, spread};
use super::population::Pace;
use super::reading::Touch;
use super::rules::Reason;
use super::usage::Touches;
use super::{Context, DEAD_STD, DeviceEngine, NOISE_MAX, OVERLAY, USE_READINGS};

/// A finger's push is felt this long before its touch is reported, and this long after.
const TOUCH_SIDE_MS: f32 = 120.0;
/// Largest step between two readings that a device without a push takes, and the smallest that a finger is credited
/// with; in units of the spread under which a touch has moved nothing.
const STEP_DEAD: f32 = 2.4;
const STEP_ALIVE: f32 = 4.5;
/// Accelerometers whose smallest step is larger than this (m/s²) may miss a finger: such phones exist.
const COARSE_STEP: f32 = 0.05;
/// Gyroscope spread above which the device moves whatever the accelerometer says, rad/s.
pub(super) const GYRO_ALIVE: f32 = 0.02;
/// Gyroscope spread under which a device without accelerometer lies still, rad/s.
const GYRO_DEAD: f32 = 0.002;
/// Dead touches older than this no longer count.
const DEAD_TOUCH_MEMORY_MS: u64 = 60_000;

/// A touch renews a tenth of the touches that the rhythm looks back on.
const RHYTHM_SHARE: f32 = 0.25;

impl DeviceEngine {
    /// Readings before and after a touch that belong to it.
    pub(super) fn touch_side(&self) -> u8 {
        let side = (TOUCH_SIDE_MS / self.dt_ms.max(1.0)).clamp(3.0, 24.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let side = side as u8;
        side
    }

    pub(super) fn touched(&self) -> bool {
        self.last_touch > 0 && self.count - self.last_touch < USE_READINGS
    }

    pub(super) fn in_use(&self) -> bool {
        self.touched() || self.flags.overlay >= OVERLAY || self.flags.mirroring || self.flags.accessibility
    }

    pub(super) fn dead_below(&self) -> f32 {
        if self.noise > 0.0 { (1.35 * self.noise).clamp(DEAD_STD, NOISE_MAX) } else { DEAD_STD }
    }

    pub(super) fn take_touch(&mut self, touch: &Touch) {
        let touches = self.touches.get_or_insert_with(|| Box::new(Touches::new()));
        if !touches.push(touch) {
            return;
        }
        let mechanical = touches.mechanical();
        self.weigh_rhythm(touch);
        if mechanical {
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
    pub(super) fn judge_touch(&mut self, window: usize, fast: bool) {
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

    /// The rhythm of the touches against the owner's own.
    fn weigh_rhythm(&mut self, touch: &Touch) {
        let population = self.population;
        let (day, trusted) = (self.day(), self.trusted());
        let Some(touches) = &mut self.touches else { return };
        let Some(unlike) = touches.rhythm.push(touch.interval_ms, (day, trusted), population) else { return };
        self.evidence.weigh((Test::Rhythm, unlike, RHYTHM_SHARE), (Context::Unknown, Pace::Fast), population);
        if self.evidence.level(Test::Rhythm) >= LOCK {
            self.fire(Reason::RhythmOfAnother);
        }
    }
}
