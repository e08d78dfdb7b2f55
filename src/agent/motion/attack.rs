//! What a device sends while somebody operates it from afar.

use std::f32::consts::TAU;
use std::fmt;
use std::str::FromStr;

use super::{DT_MS, Dice, Fingers, GRAVITY, MotionSource};
use crate::domains::signals::engine::reading::Reading;

/// The ways of taking a device over that the agent can play.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AttackKind {
    /// Sensors that have stopped, and touches.
    Still,
    /// An emulator's default values, and touches.
    Emulator,
    /// Random numbers for motion, and touches.
    Noise,
    /// A perfect wave for motion, and touches.
    Sine,
    /// A second or two of the owner's own motion, again and again, and touches.
    Loop,
    /// The device lies still under another app's overlay, and is touched.
    Overlay,
    /// The device lies still, its screen is mirrored, an accessibility service touches it.
    Mirroring,
}

impl AttackKind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Still, Self::Emulator, Self::Noise, Self::Sine, Self::Loop, Self::Overlay, Self::Mirroring];

    /// As on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Still => "still",
            Self::Emulator => "emulator",
            Self::Noise => "noise",
            Self::Sine => "sine",
            Self::Loop => "loop",
            Self::Overlay => "overlay",
            Self::Mirroring => "mirroring",
        }
    }
}

impl fmt::Display for AttackKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for AttackKind {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|k| k.as_str() == s).ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str).join(", ");
            format!("is not a kind of attack; use one of {names}")
        })
    }
}

/// Readings of the owner's past that are looked through for a piece to replay.
const HISTORY_MAX: usize = 3000;

/// A device that was taken over.
#[derive(Clone, Debug)]
pub struct Attack {
    kind: AttackKind,
    dice: Dice,
    t_ms: u64,
    tick: usize,
    fingers: Fingers,
    /// Where the device lies from now on.
    resting: [f32; 3],
    flickers: bool,
    piece: Vec<([f32; 3], [f32; 3])>,
    amplitude: [f32; 6],
    phase: [f32; 6],
    hz: f32,
}

impl Attack {
    /// Takes over a device that has sent `history` (oldest first, may be empty), right after its last reading.
    pub fn new(kind: AttackKind, seed: u64, history: &[Reading]) -> Self {
        let mut dice = Dice::new(seed);
        let history = history.get(history.len().saturating_sub(HISTORY_MAX)..).unwrap_or_default();
        let last = history.last();
        let resting = last.and_then(|r| r.accelerometer).unwrap_or([0.0, 0.0, GRAVITY]);
        let fingers = Fingers::new(&mut dice, 400.0, (150.0, 600.0), (1000.0, 3000.0));
        let length = 50 + (dice.u64() % 51) as usize;
        let piece = if kind == AttackKind::Loop { liveliest(history, length) } else { Vec::new() };
        let mut amplitude = [0.0; 6];
        let mut phase = [0.0; 6];
        for (i, (a, p)) in amplitude.iter_mut().zip(&mut phase).enumerate() {
            *a = if i < 3 { dice.between(0.05, 2.0) } else { dice.between(0.05, 1.0) };
            *p = dice.between(0.0, TAU);
        }
        let hz = dice.between(0.3, 2.5);
        let t_ms = last.map_or(0, |r| r.t_ms);
        let flickers = dice.chance(0.5);
        Self { kind, dice, t_ms, tick: 0, fingers, resting, flickers, piece, amplitude, phase, hz }
    }

    /// Lying still, with the sensors' own noise.
    fn at_rest(&mut self) -> ([f32; 3], [f32; 3]) {
        let d = &mut self.dice;
        (self.resting.map(|v| v + 0.008 * d.normal()), [0.0; 3].map(|v: f32| v + 0.000_8 * d.normal()))
    }

    fn motion(&mut self) -> ([f32; 3], [f32; 3]) {
        match self.kind {
            AttackKind::Still => {
                // Some drivers flip their last bit even when they are stuck.
                let flicker = if self.flickers && self.dice.chance(0.02) { 0.001_2 } else { 0.0 };
                (self.resting.map(|v| v + flicker), [0.0; 3])
            }
            AttackKind::Emulator => ([0.0, 9.81, 0.0], [0.0; 3]),
            AttackKind::Noise => {
                let d = &mut self.dice;
                (self.resting.map(|v| v + 0.5 * d.normal()), [0.0; 3].map(|v: f32| v + 0.1 * d.normal()))
            }
            AttackKind::Sine => {
                let turn = TAU * self.hz * (self.tick as u64 * DT_MS) as f32 / 1000.0;
                let [ax, ay, az, gx, gy, gz] = self.amplitude;
                let [px, py, pz, qx, qy, qz] = self.phase.map(|p| (turn + p).sin());
                let [x, y, z] = self.resting;
                ([x + ax * px, y + ay * py, z + az * pz], [gx * qx, gy * qy, gz * qz])
            }
            AttackKind::Loop => {
                let place = self.tick % self.piece.len().max(1);
                match self.piece.get(place) {
                    Some(recorded) => *recorded,
                    None => self.at_rest(),
                }
            }
            AttackKind::Overlay | AttackKind::Mirroring => self.at_rest(),
        }
    }
}

/// The piece of `length` readings that moves most: what somebody would choose to pass for alive.
fn liveliest(history: &[Reading], length: usize) -> Vec<([f32; 3], [f32; 3])> {
    let samples: Vec<_> =
        history.iter().filter_map(|r| Some((r.accelerometer?, r.gyroscope.unwrap_or_default()))).collect();
    let motion = |piece: &[([f32; 3], [f32; 3])]| -> f32 {
        let steps = piece.iter().zip(piece.get(1..).unwrap_or_default());
        steps.map(|(a, b)| a.0.iter().zip(b.0).map(|(x, y)| (x - y).abs()).sum::<f32>()).sum()
    };
    let pieces = samples.windows(length.min(samples.len()).max(1)).step_by(25);
    let best = pieces.max_by(|a, b| motion(a).total_cmp(&motion(b)));
    best.map(<[_]>::to_vec).unwrap_or_default()
}

impl MotionSource for Attack {
    fn next_reading(&mut self) -> Reading {
        self.t_ms += DT_MS;
        let (accelerometer, gyroscope) = self.motion();
        self.tick += 1;
        Reading {
            t_ms: self.t_ms,
            accelerometer: Some(accelerometer),
            gyroscope: Some(gyroscope),
            touch: self.fingers.tick(&mut self.dice),
            overlay: (self.kind == AttackKind::Overlay).then_some(1.0),
            window_mirroring: self.kind == AttackKind::Mirroring,
            accessibility_active: self.kind == AttackKind::Mirroring,
            ..Reading::default()
        }
    }
}
