//! From evidence to an assessment: which reasons still hold, what the components are, which figures explain them.
//!
//! Reads the state and never changes it: asking twice gives the same answer.

use super::evidence::{ASK, TESTS, Weighed};
use super::features::{Window, log2, ramp};
use super::rules::{self, Components, Decision, Effect, Engine, Policy, Reason, Reasons};
use super::sketch::mix;
use super::{DeviceEngine, SETTLED, half};
use crate::kernel::TrustScore;

/// Readings for which a reason to block holds; a whole heartbeat at least.
const HOLD: u64 = 100;
/// Readings for which any other reason holds.
const HOLD_NOTE: u64 = 25;
/// No body moves like this.
const IMPOSSIBLE: [Reason; 6] = [
    Reason::WhiteNoise,
    Reason::PureSine,
    Reason::ExactLoop,
    Reason::NearLoop,
    Reason::ReplayedMotion,
    Reason::SensorsApart,
];
/// Nobody's hand is on the device.
const UNTOUCHED: [Reason; 5] = [
    Reason::EmulatorInUse,
    Reason::TouchOnDeadSensors,
    Reason::TouchWithoutMotion,
    Reason::OverlayUnattended,
    Reason::MirroringUnattended,
];
/// What the engine thinks of a device at this moment.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Assessment {
    /// The global score.
    pub score: TrustScore,
    /// What is to be done.
    pub decision: Decision,
    /// The parts of the score.
    pub components: Components,
    /// The measurements behind it.
    pub features: Features,
    /// The tests of motion: value, what is usual, and evidence.
    pub tests: [Weighed; TESTS],
    /// Why.
    pub reasons: Reasons,
    /// The threshold that was applied.
    pub threshold: u8,
    /// Always [`Engine::Full`] here.
    pub engine: Engine,
}

impl Assessment {
    /// A number that any other bit in any of the figures would change, but for one chance in four thousand million.
    pub fn digest(&self) -> u32 {
        let parts = &self.components;
        let parts = [parts.accelerometer, parts.gyroscope, parts.touch_entropy, parts.network_spike];
        let parts = parts.iter().map(|p| p.map_or(u32::MAX, |s| u32::from(s.points())));
        let tests = self.tests.iter().flat_map(|w| [w.value, w.usual, w.decades, w.level]).map(f32::to_bits);
        let figures = self.features.iter().map(|(_, value)| value.to_bits());
        let reasons = self.reasons.bits();
        let head = [u32::from(self.score.points()), self.decision as u32, u32::from(self.threshold)];
        let reasons = [(reasons & u64::from(u32::MAX)) as u32, (reasons >> 32) as u32];
        head.into_iter().chain(reasons).chain(parts).chain(tests).chain(figures).fold(0x9E37_79B9, mix)
    }
}

macro_rules! feature_names {
    ($($name:literal),+ $(,)?) => {
        const FEATURE_NAMES: [&str; [$($name),+].len()] = [$($name),+];
    };
}

feature_names! {
    "rate_hz", "accelerometer_mean_ms2", "accelerometer_ewma_std_ms2", "accelerometer_std_ms2", "accelerometer_noise_ms2",
    "accelerometer_lag1", "accelerometer_kurtosis", "accelerometer_entropy_bits", "accelerometer_purity",
    "gyroscope_std_rads", "gyroscope_lag1", "gyroscope_kurtosis", "gyroscope_entropy_bits", "gyroscope_purity",
    "repeat_error", "loop_run", "same_run", "dead_touches", "touch_interval_entropy_bits", "touch_position_entropy_bits",
    "touch_interval_variation", "network_spike_sigma", "network_rtt_ms", "overlay", "context", "jitter_ms",
    "accelerometer_min_entropy_bits", "accelerometer_permutation_entropy_bits", "accelerometer_step_ms2",
    "accelerometer_on_grid", "shaking_ms2", "turning_rads", "envelope_coherence", "recall_correlation",
    "recall_lag_frames", "evidence_decades", "owner_ratio_nats", "owner_against_nats", "owner_known_blocks",
    "network_departure_sigma", "strangest_name",
}

/// The measurements behind an assessment, by stable names that end in their unit where they have one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Features([f32; FEATURE_NAMES.len()]);

impl Features {
    /// All of them, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, f32)> {
        FEATURE_NAMES.into_iter().zip(self.0)
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<f32> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }
}

impl DeviceEngine {
    /// Whether a reason holds: for some readings, and until the end of the heartbeat in which it was seen.
    pub(super) fn holds(&self, reason: Reason) -> bool {
        let at = self.fired.get(reason as usize).copied().unwrap_or(0);
        let hold = if reason.effect() == Effect::Block { HOLD } else { HOLD_NOTE };
        let age = u64::from(half(self.count).wrapping_sub(at));
        at > 0 && (age < hold || self.began.is_some_and(|began| age < self.count - began))
    }

    pub(super) fn reasons(&self) -> Reasons {
        let mut reasons = Reasons::default();
        for reason in Reason::ALL.iter().filter(|r| self.holds(**r)) {
            reasons.insert(*reason);
        }
        if self.person.stranger() {
            reasons.insert(Reason::StrangerHolds);
        }
        if self.standing.keeps_asking() {
            reasons.insert(Reason::AskedOften);
        }
        reasons
    }

    /// The score, the decision and what led to them.
    pub fn assess(&self, policy: &Policy) -> Assessment {
        let reasons = self.reasons();
        let components = Components {
            accelerometer: self.motion_points(&self.accelerometer_window, -5.0, reasons),
            gyroscope: self.motion_points(&self.gyroscope_window, -6.5, reasons),
            touch_entropy: self.touches.as_ref().and_then(|t| t.points()).map(TrustScore::from_f32),
            network_spike: self.traffic.as_ref().and_then(|t| t.points()).map(TrustScore::from_f32),
        };
        let policy = &self.standing.adapt(policy);
        let (score, decision) = rules::conclude(&components, reasons, policy);
        Assessment {
            score,
            decision,
            components,
            features: self.features(),
            tests: self.evidence.all(),
            reasons,
            threshold: policy.threshold,
            engine: Engine::Full,
        }
    }

    /// 70 at rest, up to 100 for lively motion, down to 0 for what no body does. `quiet` is where liveliness begins, as
    /// a binary logarithm of the spread.
    fn motion_points(&self, w: &Window, quiet: f32, reasons: Reasons) -> Option<TrustScore> {
        if w.n < 4.0 {
            return None;
        }
        let has = |r: &Reason| reasons.contains(*r);
        let suspected = ramp(self.evidence.most(), 0.5 * ASK, ASK);
        let hostile: f32 = if IMPOSSIBLE.iter().any(has) {
            1.0
        } else if UNTOUCHED.iter().any(has) {
            0.8
        } else {
            // Suspicion asks; only proof, which has its reason, locks.
            0.3 * suspected
        };
        let lively = ramp(log2(w.std), quiet, quiet + 4.0) * ramp(w.entropy_bits, 0.0, 3.0);
        Some(TrustScore::from_f32((70.0 + 30.0 * lively) * (1.0 - hostile)))
    }

    fn features(&self) -> Features {
        let (a, g) = (&self.accelerometer_window, &self.gyroscope_window);
        let rate_hz = if self.unbroken >= SETTLED && self.dt_ms > 0.0 { 1000.0 / self.dt_ms } else { 0.0 };
        let touch = self
            .touches
            .as_ref()
            .map_or([0.0; 3], |t| [t.interval_entropy_bits, t.position_entropy_bits, t.interval_variation]);
        let [interval_entropy, position_entropy, interval_variation] = touch;
        let traffic = self.traffic.as_ref().map_or([0.0; 3], |t| [t.spike, t.mean_rtt_ms(), t.departure()]);
        let [spike, rtt_ms, departure] = traffic;
        Features([
            rate_hz,
            self.level,
            self.level_variance.sqrt(),
            a.std,
            self.noise,
            a.lag1,
            a.kurtosis,
            a.entropy_bits,
            a.purity,
            g.std,
            g.lag1,
            g.kurtosis,
            g.entropy_bits,
            g.purity,
            self.repeat_error,
            f32::from(self.sketch.run()),
            self.same_run as f32,
            f32::from(self.dead_touches),
            interval_entropy,
            position_entropy,
            interval_variation,
            spike,
            rtt_ms,
            self.flags.overlay,
            f32::from(self.tracker.context() as u8),
            self.jitter_ms,
            a.min_entropy_bits,
            a.permutation_bits,
            self.step,
            a.on_grid,
            self.bands.shaking(),
            self.bands.turning(),
            self.bands.coherence(),
            self.recall.latest().correlation,
            f32::from(self.recall.latest().lag),
            self.evidence.most(),
            self.person.ratio_nats,
            self.person.against,
            self.person.known_blocks() as f32,
            departure,
            self.standing.facts().strangest_name.map_or(0.0, |score| f32::from(score) / 100.0),
        ])
    }
}
