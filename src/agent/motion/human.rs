//! A made-up person with a phone: holds it, walks with it, puts it down, taps on it.
//!
//! The model is plausible, not measured: gravity in a slowly changing orientation with a gyroscope that follows it,
//! tremor of 8 to 12 Hz, posture shifts, steps of about 1.8 Hz that differ from each other and
//! end in a blow that both sensors feel, rest on a desk with the
//! sensor's own noise and steps. A touch pushes the phone a little wherever it is.

use std::f32::consts::TAU;

use super::{DT_MS, DT_S, Dice, Fingers, GRAVITY, MotionSource, quantise};
use crate::domains::signals::engine::reading::{Network, Reading, Touch};

const ACCELEROMETER_STEP: f32 = 0.012;
const GYROSCOPE_STEP: f32 = 0.001_22;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Held,
    Walking,
    Desk,
}

/// Narrow-band noise: a damped resonator that is pushed at random.
#[derive(Clone, Debug)]
struct Tremor {
    feedback: (f32, f32),
    drive: f32,
    past: (f32, f32),
}

impl Tremor {
    /// Unit spread around `hz`.
    fn new(hz: f32) -> Self {
        let r = 0.95_f32;
        let cos = (TAU * hz * DT_S).cos();
        let feedback = (2.0 * r * cos, -r * r);
        // Variance of a second-order autoregression, solved for its drive.
        let (a, b) = feedback;
        let drive = ((1.0 + b) * ((1.0 - b) * (1.0 - b) - a * a) / (1.0 - b)).max(1e-4).sqrt();
        Self { feedback, drive, past: (0.0, 0.0) }
    }

    fn tick(&mut self, dice: &mut Dice) -> f32 {
        let next = self.feedback.0 * self.past.0 + self.feedback.1 * self.past.1 + self.drive * dice.normal();
        self.past = (next, self.past.0);
        next
    }
}

/// An angle that follows its target smoothly.
#[derive(Clone, Debug, Default)]
struct Angle {
    value: f32,
    rate: f32,
    target: f32,
}

impl Angle {
    fn tick(&mut self, push: f32) {
        // Critically damped, about half a second to follow.
        let pull = 36.0 * (self.target - self.value) - 12.0 * self.rate;
        self.rate += (pull + push) * DT_S;
        self.value += self.rate * DT_S;
    }
}

/// A push that dies away: what a finger does to a phone.
#[derive(Clone, Debug, Default)]
struct Push {
    acceleration: f32,
    rotation: f32,
    tilt: f32,
}

/// A person's device. See the module.
#[derive(Clone, Debug)]
pub struct Human {
    dice: Dice,
    t_ms: u64,
    tick: u64,
    mode: Mode,
    mode_left: u32,
    /// How alive the hand and the gait are, 0 to 1, following the mode.
    hand: f32,
    gait: f32,
    pitch: Angle,
    roll: Angle,
    drift: [f32; 3],
    tremor: [Tremor; 3],
    tremor_strength: f32,
    step_phase: f32,
    step_hz: f32,
    step_strength: [f32; 4],
    swing_strength: [f32; 3],
    /// The heel's blow that dies away, through both sensors at once.
    strike: f32,
    fingers: Fingers,
    push: Push,
    noise: f32,
    traffic_level: f32,
}

impl Human {
    /// A person of this seed; the device's clock starts anywhere within its first day.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let hz = dice.between(8.0, 12.0);
        let tremor = [Tremor::new(hz), Tremor::new(hz * 0.93), Tremor::new(hz * 1.06)];
        let fingers = Fingers::new(&mut dice, 240.0, (500.0, 6000.0), (2000.0, 15_000.0));
        let mut human = Self {
            t_ms: dice.u64() % 86_400_000,
            tick: 0,
            mode: Mode::Held,
            mode_left: 0,
            hand: 0.0,
            gait: 0.0,
            pitch: Angle::default(),
            roll: Angle::default(),
            drift: [0.0; 3],
            tremor,
            tremor_strength: dice.between(0.04, 0.15),
            step_phase: 0.0,
            step_hz: dice.between(1.6, 2.0),
            step_strength: [2.0, 0.8, 0.4, 0.2],
            swing_strength: [1.0; 3],
            strike: 0.0,
            fingers,
            push: Push::default(),
            noise: dice.between(0.006, 0.012),
            traffic_level: dice.between(5.0, 9.0),
            dice,
        };
        human.change_mode();
        human.hand = if human.mode == Mode::Desk { 0.0 } else { 1.0 };
        (human.pitch.value, human.roll.value) = (human.pitch.target, human.roll.target);
        human
    }

    fn change_mode(&mut self) {
        let d = &mut self.dice;
        let draw = d.between(0.0, 1.0);
        (self.mode, self.mode_left) = match draw {
            x if x < 0.45 => (Mode::Held, d.between(500.0, 3000.0) as u32),
            x if x < 0.75 => (Mode::Walking, d.between(400.0, 2500.0) as u32),
            _ => (Mode::Desk, d.between(300.0, 3000.0) as u32),
        };
        (self.pitch.target, self.roll.target) = match self.mode {
            Mode::Desk => (0.02 * d.normal(), 0.02 * d.normal()),
            Mode::Held | Mode::Walking => (d.between(0.4, 1.1), 0.25 * d.normal()),
        };
    }

    fn touch(&mut self) -> Option<Touch> {
        // Walkers type less, and a phone on a desk is used now and then.
        let touch = self.fingers.tick(&mut self.dice)?;
        let used = match self.mode {
            Mode::Held => true,
            Mode::Walking => self.dice.chance(0.3),
            Mode::Desk => self.dice.chance(0.15),
        };
        if !used {
            return None;
        }
        let weight = if self.mode == Mode::Desk { 0.5 } else { 1.0 };
        self.push.acceleration -= weight * self.dice.log_normal(0.45, 0.4).clamp(0.15, 2.0);
        self.push.rotation += weight * 0.06 * self.dice.normal();
        self.push.tilt = self.dice.between(-0.5, 0.5);
        Some(touch)
    }

    fn walk(&mut self) -> ([f32; 3], [f32; 3]) {
        self.step_phase += TAU * self.step_hz * DT_S;
        if self.step_phase >= TAU {
            self.step_phase -= TAU;
            // No two steps are alike.
            let d = &mut self.dice;
            self.strike = d.log_normal(1.0, 0.3).clamp(0.4, 2.0);
            self.step_hz = (self.step_hz + 0.09 * d.normal()).clamp(1.5, 2.2);
            let usual = [2.2, 1.0, 0.5, 0.3];
            for (strength, usual) in self.step_strength.iter_mut().zip(usual) {
                *strength = usual * (1.0 + 0.3 * d.normal());
            }
            for swing in &mut self.swing_strength {
                *swing = (*swing + 0.5 * (1.0 - *swing) + 0.25 * d.normal()).clamp(0.3, 1.8);
            }
        }
        self.strike *= 0.55;
        let p = self.step_phase;
        let harmonics = [p.sin(), (2.0 * p + 0.6).sin(), (3.0 * p + 1.9).sin(), (4.0 * p + 0.3).sin()];
        let up: f32 = harmonics.iter().zip(&self.step_strength).map(|(h, s)| h * s).sum();
        let [a, b, c] = self.swing_strength;
        let sway = a * (0.5 * p + 0.4).sin() * 0.8 + 0.3 * (2.0 * p).cos();
        let forth = b * (p + 1.2).sin() * 0.9 + 0.4 * (2.0 * p + 0.2).sin();
        let [sx, sy, sz] =
            [a * 0.5 * (p + 0.7).cos(), b * 0.35 * (0.5 * p).cos() + 0.1 * p.sin(), c * 0.3 * (p + 2.0).sin()];
        // Clothes, floor and hand add what no two steps share.
        let [x, y, z] = self.drift;
        let blow = self.strike;
        let step = [sway + 1.2 * y + 3.0 * blow, forth + 1.2 * z + 2.0 * blow, up + 1.2 * x + 7.0 * blow];
        (step, [sx + 0.4 * z + 2.2 * blow, sy + 0.4 * x + 1.5 * blow, sz + 0.4 * y + 1.0 * blow])
    }
}

impl MotionSource for Human {
    fn next_reading(&mut self) -> Reading {
        self.t_ms += DT_MS;
        self.tick += 1;
        if self.mode_left == 0 {
            self.change_mode();
        }
        self.mode_left = self.mode_left.saturating_sub(1);
        let (hand, gait) = match self.mode {
            Mode::Held => (1.0, 0.0),
            Mode::Walking => (1.0, 1.0),
            Mode::Desk => (0.0, 0.0),
        };
        self.hand += 0.04 * (hand - self.hand);
        self.gait += 0.02 * (gait - self.gait);
        if self.mode == Mode::Held && self.dice.chance(0.004) {
            self.pitch.target += 0.15 * self.dice.normal();
            self.roll.target += 0.15 * self.dice.normal();
        }
        for drift in &mut self.drift {
            *drift += 0.06 * (self.dice.normal() * 3.0 - *drift);
        }
        let [dx, dy, dz] = self.drift;
        // A desk takes every push; only a hand lets the phone turn.
        self.pitch.tick(self.hand * 2.5 * dx);
        self.roll.tick(self.hand * 2.5 * dy);

        let touch = self.touch();
        let (gait, hand) = (self.gait, self.hand);
        let (step, swing) = if gait > 0.003 { self.walk() } else { ([0.0; 3], [0.0; 3]) };
        let mut shake = [0.0; 3];
        for (s, t) in shake.iter_mut().zip(&mut self.tremor) {
            *s = if hand > 0.003 { t.tick(&mut self.dice) } else { 0.0 };
        }
        let (ps, pc) = self.pitch.value.sin_cos();
        let (rs, rc) = self.roll.value.sin_cos();
        let gravity = [-GRAVITY * rs * pc, GRAVITY * ps, GRAVITY * rc * pc];
        let pushed = [self.push.tilt * self.push.acceleration, 0.3 * self.push.acceleration, self.push.acceleration];
        let turned = [self.push.rotation, 0.6 * self.push.rotation, 0.1 * self.push.rotation];
        let base_rate = [self.pitch.rate, self.roll.rate, hand * 0.04 * dz];
        let mut a = [0.0; 3];
        let mut g = [0.0; 3];
        let spread = self.noise;
        for (i, (a, g)) in a.iter_mut().zip(&mut g).enumerate() {
            let at = |v: &[f32; 3]| v.get(i).copied().unwrap_or(0.0);
            let tremor = hand * self.tremor_strength * at(&shake);
            let posture = hand * 0.06 * at(&self.drift);
            let noise = spread * self.dice.normal();
            *a = at(&gravity) + gait * at(&step) + tremor + posture + at(&pushed) + noise;
            *a = quantise(*a, ACCELEROMETER_STEP);
            let jitter = 0.1 * spread * self.dice.normal();
            *g = quantise(at(&base_rate) + gait * at(&swing) + 0.12 * tremor + at(&turned) + jitter, GYROSCOPE_STEP);
        }
        // A knock rings for a few readings and changes its sign.
        self.push.acceleration *= -0.55;
        self.push.rotation *= 0.6;

        let mut reading =
            Reading { t_ms: self.t_ms, accelerometer: Some(a), gyroscope: Some(g), touch, ..Reading::default() };
        if self.tick.is_multiple_of(50) {
            self.traffic_level += 0.1 * self.dice.normal() + 0.02 * (7.0 - self.traffic_level);
            let level = self.traffic_level;
            let bytes = |dice: &mut Dice, share: f32| (level + 0.5 * dice.normal()).exp().min(1e9) * share;
            reading.network = Some(Network {
                rx_bytes: bytes(&mut self.dice, 1.0) as u64,
                tx_bytes: bytes(&mut self.dice, 0.2) as u64,
                rtt_ms: self.dice.log_normal(18.0, 0.3),
                connections: self.dice.between(3.0, 12.0) as u32,
            });
            reading.overlay = Some(0.0);
            reading.proximity = Some(1.0);
        }
        reading
    }
}
