//! What the evidence leads to: reasons, caps, components, the score and the decision. Pure functions of facts.
//!
//! Rest is neutral: a phone on a desk is not hostile, and nothing locks because values are constant or entropy is low.
//! Rest counts only together with signs of use, because a finger moves what it touches, even on a table.

use crate::kernel::TrustScore;

macro_rules! reasons {
    ($($name:ident = $bit:literal, $effect:ident, $text:literal, $sentence:literal;)+) => {
        /// Why a score is what it is.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Reason { $(#[doc = $sentence] $name = $bit,)+ }

        impl Reason {
            /// Every reason, in the order of their bits.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Stable and snake_case, for the wire and for metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// For a person: what was seen.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)+ }
            }

            /// What the reason does to the score.
            pub const fn effect(self) -> Effect {
                match self { $(Self::$name => Effect::$effect,)+ }
            }
        }
    };
}

/// What a reason does to the score.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Caps the score below the threshold.
    Block,
    /// Caps the score so that the owner is asked to prove himself.
    Challenge,
    /// Explains; its weight is in a component.
    Note,
}

reasons! {
    EmulatorInUse = 0, Block, "emulator_in_use",
        "The sensors give an emulator's default values while the device is being operated.";
    TouchOnDeadSensors = 1, Block, "touch_on_dead_sensors",
        "The screen was touched while every sensor stood perfectly still: the touch did not come from a finger.";
    TouchWithoutMotion = 2, Block, "touch_without_motion",
        "The screen was touched several times and the device did not move at all: the touches came from afar.";
    OverlayUnattended = 3, Block, "overlay_unattended",
        "Another app covers the screen while nobody holds the device and it is being operated.";
    MirroringUnattended = 4, Block, "mirroring_unattended",
        "The screen is mirrored while nobody holds the device and it is being operated.";
    OverlayWithAccessibility = 5, Block, "overlay_with_accessibility",
        "Another app covers the screen while an accessibility service can act for the user.";
    MirroringWithAccessibility = 6, Block, "mirroring_with_accessibility",
        "The screen is mirrored while an accessibility service can act for the user.";
    RootedRemoteControl = 7, Block, "rooted_remote_control",
        "A rooted device shows an overlay and an accessibility service while nobody holds it.";
    WhiteNoise = 8, Block, "white_noise",
        "The motion is random noise without inertia; no body and no phone moves like that.";
    PureSine = 9, Block, "pure_sine",
        "The motion is a perfect wave; no body moves like that.";
    ExactLoop = 10, Block, "exact_loop",
        "The motion repeats earlier motion bit for bit: a recording is being played.";
    NearLoop = 11, Block, "near_loop",
        "The motion repeats itself far more exactly than a body can: a recording is being played.";
    OverlayPresent = 12, Challenge, "overlay_present",
        "Another app covers a large part of the screen.";
    MirroringActive = 13, Challenge, "mirroring_active",
        "The screen is being mirrored.";
    EmulatorDefault = 14, Challenge, "emulator_default",
        "The sensors give an emulator's default values.";
    FewTouchesWithoutMotion = 15, Challenge, "few_touches_without_motion",
        "The screen was touched and the device did not move.";
    DeadSensorsInUse = 16, Challenge, "dead_sensors_in_use",
        "Every sensor stands perfectly still while an accessibility service, an overlay or mirroring is on.";
    ClockReversed = 17, Challenge, "clock_reversed",
        "The device's monotonic clock ran backwards several times.";
    Rooted = 18, Note, "rooted", "The device is rooted.";
    Debugger = 19, Note, "debugger", "A debugger is attached.";
    NetworkSpike = 20, Note, "network_spike", "The device's traffic is far above its usual level.";
    MechanicalTouches = 21, Note, "mechanical_touches", "The touches are spaced as evenly as a machine's.";
    ReplayedMotion = 22, Block, "replayed_motion",
        "The motion follows motion of the last minute more closely than a body can: a recording is being played.";
    SensorsApart = 23, Block, "sensors_apart",
        "The device shakes and turns at different times: its two motion sensors are not in one body.";
    KnownBadPackage = 24, Block, "known_bad_package",
        "A package that is known to take devices over is installed.";
    AskedOften = 25, Challenge, "asked_often",
        "The owner had to be asked often lately: the device must stay calm for a while before it is trusted again.";
    MotionDoubtful = 26, Challenge, "motion_doubtful",
        "The motion is rarer than genuine motion should be; more of it would lock the device.";
    SensorsStuck = 27, Challenge, "sensors_stuck",
        "Every sensor repeats the same bits for longer than real ones do.";
    StrangerHolds = 28, Challenge, "stranger_holds",
        "Whoever holds the device moves it unlike its owner.";
    RhythmOfAnother = 29, Challenge, "rhythm_of_another",
        "The rhythm of the touches is not the owner's.";
    NetworkUnusual = 30, Note, "network_unusual",
        "The device's traffic has stood away from its own profile for long, louder or quieter.";
    OwnerChanged = 31, Note, "owner_changed",
        "The owner has come to move the device in another way.";
    UnitsInG = 32, Note, "units_in_g",
        "The accelerometer speaks in g where m/s² is agreed; its readings are converted.";
    SensorSilent = 33, Challenge, "sensor_silent",
        "The device shakes and its gyroscope gives the same bits: the one does not belong to the other, or is broken.";
    KnownBadContact = 34, Block, "known_bad_contact",
        "The device talked to a name or an address that a sure threat feed lists.";
    GeneratedName = 35, Note, "generated_name",
        "The device looked up a name that seems made by a machine, as malware makes them.";
}

/// How many reasons there are.
pub(super) const REASONS: usize = Reason::ALL.len();

/// A set of reasons.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reasons(u64);

impl Reasons {
    /// Adds one.
    pub fn insert(&mut self, reason: Reason) {
        self.0 |= 1 << (reason as u8);
    }

    /// Whether it is in.
    pub const fn contains(self, reason: Reason) -> bool {
        self.0 & (1 << (reason as u8)) != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The set as bits, for rows.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The set of these bits; unknown ones are dropped.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & (u64::MAX >> (64 - REASONS)))
    }

    /// Its members, gravest first.
    pub fn iter(self) -> impl Iterator<Item = Reason> {
        Reason::ALL.iter().copied().filter(move |r| self.contains(*r))
    }

    /// The gravest effect among them.
    pub fn worst(self) -> Option<Effect> {
        self.iter().map(Reason::effect).find(|e| *e == Effect::Block).or_else(|| {
            let challenge = self.iter().any(|r| r.effect() == Effect::Challenge);
            if challenge { Some(Effect::Challenge) } else { (!self.is_empty()).then_some(Effect::Note) }
        })
    }
}

/// What is to be done about a device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Decision {
    /// Nothing.
    Allow,
    /// Ask the owner to prove himself.
    Challenge,
    /// Lock.
    Block,
}

impl Decision {
    /// As on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Challenge => "challenge",
            Self::Block => "block",
        }
    }
}

/// What made an assessment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    /// This engine with all of its rules.
    Full,
    /// The stand-in for when this one is not available.
    Simplified,
}

impl Engine {
    /// As on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Simplified => "simplified",
        }
    }
}

/// What a company wants of its scores.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Policy {
    /// Below it the device is blocked.
    pub threshold: u8,
    /// Below it the owner is asked to prove himself.
    pub challenge_below: u8,
    /// Of accelerometer, gyroscope, touch entropy, network spike; renormalised over those that do not abstain.
    pub weights: [f32; 4],
}

impl Default for Policy {
    fn default() -> Self {
        Self { threshold: 40, challenge_below: 50, weights: [0.4, 0.3, 0.15, 0.15] }
    }
}

/// The parts of a score; one that has no data or no sensor abstains.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Components {
    /// How much the acceleration looks like a body's.
    pub accelerometer: Option<TrustScore>,
    /// How much the rotation looks like a body's.
    pub gyroscope: Option<TrustScore>,
    /// How little the touches look like a machine's.
    pub touch_entropy: Option<TrustScore>,
    /// How usual the traffic is.
    pub network_spike: Option<TrustScore>,
}

/// The score of a device of which nothing is known yet.
const UNKNOWN: f32 = 70.0;
/// What a blocking reason leaves of a score, where the threshold allows it.
const BLOCK_CAP: u8 = 15;
/// What a challenging reason leaves of a score.
const CHALLENGE_CAP: u8 = 45;
/// Motion is suspected below it: at rest it is worth 70.
const MOTION_LOW: u8 = 60;
/// Touches or traffic are suspected below it.
const USE_LOW: u8 = 40;

/// Weighs the components, applies the caps, decides.
pub(super) fn conclude(components: &Components, reasons: Reasons, policy: &Policy) -> (TrustScore, Decision) {
    let parts = [components.accelerometer, components.gyroscope, components.touch_entropy, components.network_spike];
    let (mut points, mut weight) = (0.0, 0.0);
    for (part, w) in parts.iter().zip(policy.weights) {
        if let Some(score) = part {
            points += f32::from(score.points()) * w;
            weight += w;
        }
    }
    let mut score = TrustScore::from_f32(if weight > 0.0 { points / weight } else { UNKNOWN });
    for (reason, penalty) in [(Reason::Rooted, 10), (Reason::Debugger, 10)] {
        if reasons.contains(reason) {
            // These alone make nobody hostile: they never carry a score below the point of a challenge.
            let floor = score.points().min(policy.challenge_below.max(policy.threshold));
            score = TrustScore::new(score.points().saturating_sub(penalty).max(floor));
        }
    }
    let worst = reasons.worst();
    if worst != Some(Effect::Block) {
        // What is merely unlikely asks; it takes two kinds of it to lock.
        let low = |part: Option<TrustScore>, below: u8| part.is_some_and(|s| s.points() < below);
        let motion = low(components.accelerometer, MOTION_LOW) || low(components.gyroscope, MOTION_LOW);
        let kinds = [motion, low(components.touch_entropy, USE_LOW), low(components.network_spike, USE_LOW)];
        if kinds.iter().filter(|k| **k).count() < 2 {
            score = score.max(TrustScore::new(policy.threshold));
        }
    }
    match worst {
        Some(Effect::Block) => {
            score = score.min(TrustScore::new(BLOCK_CAP.min(policy.threshold.saturating_sub(1))));
        }
        Some(Effect::Challenge) => score = score.min(TrustScore::new(CHALLENGE_CAP.max(policy.threshold))),
        Some(Effect::Note) | None => {}
    }
    let decision = if score.points() < policy.threshold {
        Decision::Block
    } else if score.points() < policy.challenge_below || worst == Some(Effect::Challenge) {
        Decision::Challenge
    } else {
        Decision::Allow
    };
    (score, decision)
}
