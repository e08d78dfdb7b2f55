//! The threat engine: one device's recent readings, what they show, and what that leads to.
//!
//! Pure and deterministic: no clock, no chance, no I/O; the same readings and facts under the same policy give the same
//! bits on any machine, however they were cut into heartbeats. One state is at most 8 KiB and never grows.
//!
//! How it decides: where the device is comes first (`context.rs`). Statistical tests of motion (`motion.rs`, `recall.rs`,
//! `bands.rs`) are judged within that context against a population of genuine devices (`population.rs`) and gather
//! evidence over windows (`evidence.rs`); who holds it is compared with its owner (`person.rs`). Hard rules need no
//! statistics: what the device says of itself against what its sensors say (`hard.rs`), touches that move nothing
//! (`screen.rs`). `rules.rs` turns all of that into a score and a decision, `standing.rs` moves the threshold and keeps
//! decisions from flapping, `assess.rs` explains. Rest alone is neutral.
//!
//! What costs little is done with each reading; autocorrelation, purity and entropy every 25 readings. Knows nothing of
//! tenants, tokens, rows or the wire.

mod assess;
pub mod bands;
mod codec;
pub mod context;
pub mod evidence;
mod features;
mod hard;
mod motion;
pub mod person;
pub mod population;
pub mod reading;
mod recall;
mod ring;
mod rules;
mod screen;
mod sketch;
mod standing;
mod state;
#[cfg(test)]
mod tests;
mod usage;

pub use assess::{Assessment, Features};
pub use codec::CodecError;
pub use context::Context;
pub use evidence::{Test, Weighed};
pub use population::Population;
pub use reading::{Extras, Network, Reading, Sensors, Touch};
pub use rules::{Components, Decision, Effect, Engine, Policy, Reason, Reasons};
pub use standing::{Facts, Plan};
pub use state::VERSION;

use bands::Bands;
use context::Tracker;
use evidence::Evidence;
use features::{Ring3, Window};
use person::Person;
use recall::Recall;
use rules::REASONS;
use sketch::Sketch;
use standing::Standing;
use usage::{Touches, Traffic};

/// Slowest spacing at which neighbouring readings say something about inertia (20 Hz).
const FAST_DT_MS: f32 = 50.0;
/// Readings without a gap before the spacing is believed.
const SETTLED: u16 = 8;
/// A step back by no more than this is readings sent again; by more it is a clock that was restarted.
const RESENT_MS: u64 = 30_000;
/// Readings that may be sent again before new ones must come: eight full heartbeats. Each new reading earns one.
const GRACE_MOST: u16 = 800;
/// What a late reading costs that nothing shows to have been sent before.
const LATE_COST: u16 = 8;
/// A pause longer than this starts anew whatever the rate is.
const GAP_MS: f32 = 30_000.0;
/// Accelerometer spread under which a touch has moved nothing, while the device's own noise is not known: below the
/// quietest of 4,320 genuine entries in the hand (0.0178 m/s²).
const DEAD_STD: f32 = 0.016;
/// Noisiest accelerometer that is still believed to lie still, m/s².
const NOISE_MAX: f32 = 0.06;
/// Touches within this many readings are a sign of use.
const USE_READINGS: u64 = 100;

/// Share of the screen from which an overlay hides what happens.
const OVERLAY: f32 = 0.5;
/// Readings that carry no overlay are taken to have the last one this long: some clients measure it once a second.
const OVERLAY_LASTS_MS: u64 = 2000;

/// The lower half of a count, never 0.
fn half(count: u64) -> u32 {
    ((count & u64::from(u32::MAX)) as u32).max(1)
}

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
    /// What it judges against; no part of the state.
    population: &'static Population,
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
    bands: Bands,
    tracker: Tracker,
    recall: Recall,
    evidence: Evidence,
    person: Person,
    standing: Standing,
    /// Time since the last block of a person's traits, ms.
    block_ms: f32,
    /// Smoothed departure of the spacing from its mean, ms.
    jitter_ms: f32,
    /// Latest time of any reading: what is not later was sent before.
    high_ms: u64,
    /// The present reading is not later than one before: what it repeats was sent twice, not moved twice.
    resent: bool,
    /// The accelerometer speaks in g: 0 no, then how many readings said so, 255 for settled.
    in_g: u8,
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
    /// The lower half of `count` when a reason last held; 0 for never.
    fired: [u32; REASONS],
    /// `count` when the present heartbeat began; `None` where nobody said.
    began: Option<u64>,
    /// The appliance's clock when `high_ms` last rose.
    high_at_ms: u64,
    /// Readings that may still come late before the device's clock is taken to run backwards.
    grace: u16,
}

impl DeviceEngine {
    /// A device of which nothing is known yet, judged against the table that is built in.
    pub fn new(sensors: Sensors) -> Self {
        Self::against(sensors, Population::shipped())
    }

    /// The same, judged against another table.
    pub fn against(sensors: Sensors, population: &'static Population) -> Self {
        Self {
            population,
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
            bands: Bands::default(),
            tracker: Tracker::default(),
            recall: Recall::new(),
            evidence: Evidence::default(),
            person: Person::default(),
            standing: Standing::default(),
            block_ms: 0.0,
            jitter_ms: 0.0,
            high_ms: 0,
            resent: false,
            in_g: 0,
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
            began: None,
            high_at_ms: 0,
            grace: GRACE_MOST,
        }
    }

    /// Takes a device at its word that it has other sensors now. What was gathered so far stays: who could wipe it out
    /// by saying so would.
    pub fn declare(&mut self, sensors: Sensors) {
        if !sensors.accelerometer {
            self.accelerometer = Ring3::new([0.0; 3]);
        }
        if !sensors.gyroscope {
            self.gyroscope = Ring3::new([0.0; 3]);
        }
        self.sensors = sensors;
        (self.accelerometer_window, self.gyroscope_window) = (Window::default(), Window::default());
        self.start_anew();
    }

    /// What it judges against.
    pub fn population(&self) -> &'static Population {
        self.population
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
        (self.dead_touches, self.constant_touches) = (0, 0);
        self.evidence = Evidence::default();
        self.recall = Recall::new();
        self.person.clear_evidence();
        if let Some(traffic) = &mut self.traffic {
            traffic.clear_evidence();
        }
        self.standing.released();
        (self.reversals, self.default_run) = (0, 0);
        self.sketch = Sketch::new();
        self.start_anew();
        (self.accelerometer_window, self.gyroscope_window) = (Window::default(), Window::default());
    }

    /// Begins a heartbeat: what others know at this moment.
    pub fn begin(&mut self, facts: &Facts) {
        self.began = Some(self.count);
        self.standing.take(facts);
    }

    /// Assesses a heartbeat whose readings were taken, and remembers what it led to.
    pub fn conclude(&mut self, policy: &Policy) -> Assessment {
        let assessment = self.assess(policy);
        self.standing.settle(assessment.score, assessment.decision);
        assessment
    }

    /// Remembers what a heartbeat led to when it was assessed, in place of assessing it again.
    pub fn remember(&mut self, score: crate::kernel::TrustScore, decision: Decision) {
        self.standing.settle(score, decision);
    }

    /// Assesses a heartbeat of [`DeviceEngine::push_simplified`]: the score of the last full one, which holds for five
    /// minutes, under what the hard rules say now.
    pub fn conclude_simplified(&mut self, policy: &Policy) -> Assessment {
        let held = self.standing.held();
        let mut assessment = self.assess(policy);
        assessment.engine = Engine::Simplified;
        if let Some((score, decision)) = held
            && assessment.reasons.worst().is_none_or(|e| e == Effect::Note)
        {
            (assessment.score, assessment.decision) = (score, decision);
        }
        assessment
    }

    /// Makes the engine remember every value that it weighs, for whoever fits a population.
    pub fn listen(&mut self) {
        self.evidence.listen();
    }

    /// What was weighed since the last call.
    pub fn take_heard(&mut self) -> Vec<evidence::Heard> {
        self.evidence.take_heard()
    }

    /// Where the device is.
    pub fn context(&self) -> Context {
        self.tracker.context()
    }

    /// The gravest effect of the reasons that hold.
    pub fn worst(&self) -> Option<Effect> {
        self.reasons().worst()
    }

    /// Spread of the acceleration, m/s², and the rotation, rad/s, over the last second or so.
    pub fn activity(&self) -> [f32; 2] {
        [self.bands.shaking(), self.bands.turning()]
    }

    /// The sum of what speaks against the owner, in nats.
    pub fn against_owner_nats(&self) -> f32 {
        self.person.against
    }

    /// Whether it has come to say that another person holds the device.
    pub fn is_stranger(&self) -> bool {
        self.person.stranger()
    }

    /// Blocks of a second that the owner was learned from.
    pub fn known_blocks(&self) -> u32 {
        self.person.known_blocks()
    }

    /// Bytes that the state takes in memory.
    pub fn bytes(&self) -> usize {
        let boxed = self.touches.as_ref().map_or(0, |t| size_of_val(&**t))
            + self.traffic.as_ref().map_or(0, |t| size_of_val(&**t));
        size_of::<Self>() + boxed
    }

    /// The strongest evidence of any test, in decades.
    pub fn evidence_decades(&self) -> f32 {
        self.evidence.most()
    }

    /// The tests and what they have gathered.
    pub fn weighed(&self) -> impl Iterator<Item = (Test, Weighed)> {
        Test::ALL.into_iter().zip(self.evidence.all())
    }

    /// How the device is being moved, once that is settled.
    pub fn traits(&self) -> Option<[f32; bands::TRAITS]> {
        self.bands.settled().then(|| self.bands.traits())
    }

    /// Takes one reading. Sensors that the device did not declare, and values that are not finite, are ignored.
    pub fn push(&mut self, r: &Reading) {
        if self.is_resent(r) {
            // Sent twice, because an answer was lost: it moved once. What the device says of itself still counts.
            self.take_flags(r);
            self.apply_rules();
            return;
        }
        self.next_reading();
        self.take_time(r.t_ms);
        self.take_flags(r);
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
            let (day, trusted) = (self.day(), self.trusted());
            let traffic = self.traffic.get_or_insert_with(|| Box::new(Traffic::new()));
            traffic.push(network, day, trusted);
            let (spike, departure) = (traffic.spike, traffic.departure());
            if spike > 6.0 {
                self.fire(Reason::NetworkSpike);
            }
            if departure > 6.0 {
                self.fire(Reason::NetworkUnusual);
            }
        }
        self.apply_rules();
    }

    /// Takes one reading with the hard rules alone, while too much waits: what the device says of itself. The rings stay
    /// as they are, and what the sensors say begins anew behind it.
    pub fn push_simplified(&mut self, r: &Reading) {
        self.next_reading();
        self.last_t_ms = r.t_ms;
        self.high_ms = self.high_ms.max(r.t_ms);
        self.start_anew();
        self.take_flags(r);
        self.apply_rules();
    }

    fn take_flags(&mut self, r: &Reading) {
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
    }

    /// Counts a reading. What no longer holds is forgotten long before the half of the count that is kept of it comes
    /// round again.
    fn next_reading(&mut self) {
        self.count += 1;
        if self.count.is_multiple_of(1 << 16) {
            for reason in Reason::ALL {
                if !self.holds(*reason) {
                    self.fired.iter_mut().skip(*reason as usize).take(1).for_each(|at| *at = 0);
                }
            }
        }
    }

    fn fire(&mut self, reason: Reason) {
        if let Some(at) = self.fired.get_mut(reason as usize) {
            *at = half(self.count);
        }
    }

    /// The appliance's day, or where nobody told the time the device's own.
    fn day(&self) -> u32 {
        const DAY_MS: u64 = 86_400_000;
        u32::try_from(self.standing.now_ms().unwrap_or(self.high_ms) / DAY_MS).unwrap_or(u32::MAX)
    }

    /// The spacing is known.
    fn settled(&self) -> bool {
        self.unbroken >= SETTLED
    }

    /// The spacing is known and short enough for inertia to show.
    fn fast(&self) -> bool {
        self.settled() && self.dt_ms <= FAST_DT_MS
    }

    /// Neighbouring readings no longer belong together.
    fn start_anew(&mut self) {
        self.unbroken = 0;
        self.dt_ms = 0.0;
        self.same_run = 0;
        self.judge_in = 0;
        self.flags.overlay = 0.0;
        self.bands.start_anew();
        self.tracker.start_anew();
        self.person.start_anew();
        (self.block_ms, self.jitter_ms) = (0.0, 0.0);
    }

    /// A pause after which neighbouring readings no longer belong together, and what was gathered over seconds does.
    fn pause(&mut self) {
        self.unbroken = 0;
        self.dt_ms = 0.0;
        self.same_run = 0;
        self.judge_in = 0;
        self.flags.overlay = 0.0;
        self.bands.pause();
        self.jitter_ms = 0.0;
    }

    /// Whether the reading is not later than one before and the same to the bit as one in the ring. Only so much may come
    /// late: a client that sends nothing new is playing its past.
    fn is_resent(&mut self, r: &Reading) -> bool {
        let late = self.is_late(r.t_ms) && self.accelerometer.len() >= 8;
        let bits = |v: &[f32; 3]| v.map(f32::to_bits);
        let known = |a: &[f32; 3]| self.accelerometer.iter_latest(features::RING).any(|b| bits(a) == bits(b));
        late && r.accelerometer.as_ref().is_some_and(known) && self.excuse(1)
    }

    /// Earlier than what was seen, and by so little that it may have been sent before.
    fn is_late(&self, t_ms: u64) -> bool {
        let waited_ms = self.standing.now_ms().map_or(0, |now_ms| now_ms.saturating_sub(self.high_at_ms));
        self.count > 0 && t_ms < self.high_ms && self.high_ms - t_ms <= RESENT_MS && waited_ms <= RESENT_MS
    }

    /// Takes what a late reading costs from the grace, if that is left.
    fn excuse(&mut self, cost: u16) -> bool {
        match self.grace.checked_sub(cost) {
            Some(left) => {
                self.grace = left;
                true
            }
            None => false,
        }
    }

    fn take_time(&mut self, t_ms: u64) {
        if self.count.is_multiple_of(256) {
            self.reversals = self.reversals.saturating_sub(1);
        }
        if self.count > 1 {
            if t_ms < self.last_t_ms {
                self.reversals = self.reversals.saturating_add(1);
                self.start_anew();
            } else {
                let dt_ms = (t_ms - self.last_t_ms) as f32;
                let usual = self.unbroken >= SETTLED;
                if dt_ms > GAP_MS {
                    self.start_anew();
                } else if usual && dt_ms > 20.0 * self.dt_ms + 1000.0 {
                    self.pause();
                } else {
                    // A plain mean at first, so that bursts do not mislead; then exponentially weighted.
                    let weight = (1.0 / f32::from(self.unbroken.max(1))).max(0.05);
                    self.dt_ms += weight * (dt_ms - self.dt_ms);
                    self.jitter_ms += 0.05 * ((dt_ms - self.dt_ms).abs() - self.jitter_ms);
                }
            }
        }
        // What comes late and is not in the rings any more may still have been sent before; but who keeps his clock in the
        // past has restarted it. What was seen before that is remembered: a replay may begin with one.
        self.resent = self.count > 1 && self.is_late(t_ms) && self.excuse(LATE_COST);
        if !self.resent {
            if t_ms > self.high_ms {
                self.high_at_ms = self.standing.now_ms().unwrap_or(0);
                self.grace = (self.grace + 1).min(GRACE_MOST);
            }
            self.high_ms = t_ms;
        }
        self.last_t_ms = t_ms;
        self.unbroken = self.unbroken.saturating_add(1);
    }
}
