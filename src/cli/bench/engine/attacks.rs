//! Motion that no body makes, made from recordings or from nothing: what the engine is measured against.

use crate::domains::signals::engine::{Reading, Touch};
use crate::kernel::random::splitmix64;

/// Dice of a seed.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same seed gives the same numbers.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Evenly from 0 to 1.
    pub fn even(&mut self) -> f32 {
        (splitmix64(&mut self.0) >> 40) as f32 / 16_777_216.0
    }

    /// Evenly from `low` to `high`.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.even()
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(splitmix64(&mut self.0) % (n.max(1) as u64)).unwrap_or(0)
    }

    /// Gaussian of unit spread.
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * self.even().max(1e-7).ln()).sqrt();
        radius * (std::f32::consts::TAU * self.even()).cos()
    }

    /// Gaussian noise on three axes.
    pub fn noise(&mut self, spread: f32) -> [f32; 3] {
        [self.normal() * spread, self.normal() * spread, self.normal() * spread]
    }
}

/// A kind of attack.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Attack {
    /// The same bits again and again.
    Constant,
    /// What emulators report.
    Emulator,
    /// Independent Gaussian numbers around gravity, of this spread in m/s²; a tenth of it in rad/s.
    White(f32),
    /// Gaussian numbers with the autocorrelation of the recording before.
    Matched,
    /// A wave.
    Sine,
    /// This many readings of a recording, again and again, with noise or without.
    Loop(usize, bool),
    /// The whole recording before, once more.
    Replay(Disguise),
    /// Accelerometer and gyroscope of different recordings.
    Mixed,
    /// A phone on a table that is touched from afar.
    TableTouched,
}

/// What is done to a replay.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Disguise {
    /// Nothing.
    Exact,
    /// Noise of 0.02 m/s² and 0.002 rad/s.
    Noisy,
    /// Five in a hundred slower, between readings a straight line.
    Warped,
}

impl Attack {
    /// As printed.
    pub fn name(self) -> String {
        match self {
            Self::Constant => "constant".to_owned(),
            Self::Emulator => "emulator default".to_owned(),
            Self::White(spread) => format!("white noise {spread} m/s2"),
            Self::Matched => "AR-matched noise".to_owned(),
            Self::Sine => "sine".to_owned(),
            Self::Loop(n, false) => format!("loop of {n}"),
            Self::Loop(n, true) => format!("loop of {n}, noisy"),
            Self::Replay(Disguise::Exact) => "full replay, exact".to_owned(),
            Self::Replay(Disguise::Noisy) => "full replay, noisy".to_owned(),
            Self::Replay(Disguise::Warped) => "full replay, time-warped".to_owned(),
            Self::Mixed => "mixed recordings".to_owned(),
            Self::TableTouched => "table and touches".to_owned(),
        }
    }

    /// Readings of one window that is scored: what an attack needs to show itself at all.
    pub const fn window(self) -> usize {
        match self {
            Self::Replay(_) => super::runs::WHOLE,
            Self::Mixed => 500,
            _ => 200,
        }
    }
}

/// Motion of both sensors.
pub type Motion = ([f32; 3], [f32; 3]);

fn motion_of(r: &Reading) -> Motion {
    (r.accelerometer.unwrap_or_default(), r.gyroscope.unwrap_or_default())
}

fn add(v: [f32; 3], w: [f32; 3]) -> [f32; 3] {
    let ([a, b, c], [x, y, z]) = (v, w);
    [a + x, b + y, c + z]
}

/// An attack of `count` readings after the recording `before`; `other` is another recording of the same rate. Gives
/// nothing where the recordings do not allow it.
pub fn play(
    attack: Attack,
    before: &[Reading],
    other: &[Reading],
    count: usize,
    dice: &mut Dice,
) -> Option<Vec<Reading>> {
    let last = before.last()?;
    let first = before.first()?;
    let gyroscope = last.gyroscope.is_some();
    let spacing_ms = (last.t_ms - first.t_ms) as f64 / (before.len().max(2) - 1) as f64;
    let (resting, _) = motion_of(last);
    let motion: Vec<Motion> = match attack {
        Attack::Constant => vec![motion_of(last); count],
        Attack::Emulator => vec![([0.0, 9.81, 0.0], [0.0; 3]); count],
        Attack::White(spread) => {
            (0..count).map(|_| (add(resting, dice.noise(spread)), dice.noise(spread / 10.0))).collect()
        }
        Attack::Matched => matched(before, count, dice),
        Attack::Sine => sine(resting, spacing_ms, count, dice),
        Attack::Loop(length, noisy) => {
            let start = dice.below(other.len().checked_sub(length)?);
            let piece = other.get(start..start + length)?;
            let repeated = piece.iter().cycle().take(count).map(motion_of);
            if noisy { disguise(repeated, dice) } else { repeated.collect() }
        }
        Attack::Replay(kind) => {
            let whole = before.iter().map(motion_of);
            match kind {
                Disguise::Exact => whole.collect(),
                Disguise::Noisy => disguise(whole, dice),
                Disguise::Warped => warped(&whole.collect::<Vec<_>>(), 1.0 / 1.05),
            }
        }
        Attack::Mixed => {
            // While one sits nothing contradicts: only the steps of both are mixed.
            let (a, g) = (steps_of(before), steps_of(other));
            let pairs = a.iter().zip(&g);
            pairs.map(|(a, g)| (motion_of(a).0, motion_of(g).1)).take(count).collect()
        }
        Attack::TableTouched => before.iter().map(motion_of).cycle().take(count).collect(),
    };
    let mut readings: Vec<Reading> = motion
        .into_iter()
        .enumerate()
        .map(|(i, (a, g))| Reading {
            t_ms: last.t_ms + super::data::millis((i + 1) as f64 * spacing_ms),
            accelerometer: Some(a),
            gyroscope: gyroscope.then_some(g),
            ..Reading::default()
        })
        .collect();
    if attack == Attack::TableTouched {
        // The table goes on as it was recorded: only the touches are the attack.
        readings = other.to_vec();
        let beginning = readings.first()?.t_ms;
        for (n, r) in readings.iter_mut().enumerate() {
            r.t_ms = r.t_ms - beginning + last.t_ms + super::data::millis(spacing_ms);
            if n % 30 == 29 {
                let interval_ms = dice.between(200.0, 900.0);
                r.touch = Some(Touch { x: dice.even(), y: dice.even(), pressure: 0.3, interval_ms });
            }
        }
    }
    Some(readings)
}

/// The stretches of a recording in which its owner walks: where the acceleration's magnitude swings.
fn steps_of(recording: &[Reading]) -> Vec<Reading> {
    let size = |r: &Reading| motion_of(r).0.iter().map(|x| x * x).sum::<f32>().sqrt();
    let walks = |part: &[Reading]| {
        let mean = part.iter().map(size).sum::<f32>() / part.len().max(1) as f32;
        let spread = part.iter().map(|r| (size(r) - mean).powi(2)).sum::<f32>() / part.len().max(1) as f32;
        spread.sqrt() > 1.0
    };
    recording.chunks(50).filter(|part| walks(part)).flatten().cloned().collect()
}

/// Noise that hides the bits.
fn disguise(motion: impl Iterator<Item = Motion>, dice: &mut Dice) -> Vec<Motion> {
    motion.map(|(a, g)| (add(a, dice.noise(0.02)), add(g, dice.noise(0.002)))).collect()
}

/// Played at another speed.
fn warped(motion: &[Motion], speed: f32) -> Vec<Motion> {
    let between = |v: [f32; 3], w: [f32; 3], share: f32| -> [f32; 3] {
        let ([a, b, c], [x, y, z]) = (v, w);
        [a + share * (x - a), b + share * (y - b), c + share * (z - c)]
    };
    (0..motion.len())
        .filter_map(|i| {
            let place = i as f32 * speed;
            let at = usize::try_from(super::data::millis(f64::from(place))).ok()?;
            let share = place - at as f32;
            let ((a, g), (b, h)) = (motion.get(at)?, motion.get(at + 1)?);
            Some((between(*a, *b, share), between(*g, *h, share)))
        })
        .collect()
}

fn sine(resting: [f32; 3], spacing_ms: f64, count: usize, dice: &mut Dice) -> Vec<Motion> {
    let hz = dice.between(0.3, 2.5);
    let swing: Vec<(f32, f32)> = (0..6)
        .map(|i| (dice.between(0.05, if i < 3 { 2.0 } else { 1.0 }), dice.between(0.0, std::f32::consts::TAU)))
        .collect();
    (0..count)
        .map(|i| {
            let turn = std::f32::consts::TAU * hz * super::data::single(i as f64 * spacing_ms / 1000.0);
            let mut at = swing.iter().map(|(size, phase)| size * (turn + phase).sin());
            let mut three = || [at.next().unwrap_or(0.0), at.next().unwrap_or(0.0), at.next().unwrap_or(0.0)];
            (add(resting, three()), three())
        })
        .collect()
}

/// Each axis an autoregression of the second order, solved from the recording's autocorrelation (Yule-Walker).
fn matched(before: &[Reading], count: usize, dice: &mut Dice) -> Vec<Motion> {
    let axis = |of: &dyn Fn(&Reading) -> f32, dice: &mut Dice| -> Vec<f32> {
        let values: Vec<f32> = before.iter().map(of).collect();
        let n = values.len().max(3) as f32;
        let mean = values.iter().sum::<f32>() / n;
        let with = |lag: usize| -> f32 {
            values.iter().zip(values.get(lag..).unwrap_or_default()).map(|(x, y)| (x - mean) * (y - mean)).sum::<f32>()
                / n
        };
        let (r0, r1, r2) = (with(0).max(1e-9), with(1), with(2));
        let (p1, p2) = (r1 / r0, r2 / r0);
        let a = (p1 * (1.0 - p2) / (1.0 - p1 * p1).max(1e-3)).clamp(-1.9, 1.9);
        let b = ((p2 - p1 * p1) / (1.0 - p1 * p1).max(1e-3)).clamp(-0.99, 0.99);
        let drive = (r0 * (1.0 - a * p1 - b * p2).max(1e-4)).sqrt();
        let (mut x, mut y) = (0.0, 0.0);
        (0..count + 200)
            .map(|_| {
                let next = a * x + b * y + drive * dice.normal();
                (x, y) = (next.clamp(-50.0, 50.0), x);
                mean + x
            })
            .skip(200)
            .collect()
    };
    let part = |r: &Reading, which: usize| {
        let (a, g) = motion_of(r);
        a.iter().chain(&g).nth(which).copied().unwrap_or(0.0)
    };
    let axes: Vec<Vec<f32>> = (0..6).map(|which| axis(&|r| part(r, which), dice)).collect();
    (0..count)
        .map(|i| {
            let at = |which: usize| axes.get(which).and_then(|v| v.get(i)).copied().unwrap_or(0.0);
            ([at(0), at(1), at(2)], [at(3), at(4), at(5)])
        })
        .collect()
}
