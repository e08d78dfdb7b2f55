//! What is known of a device beyond this moment's readings: facts from elsewhere, its history of trust, and the threshold
//! that follows from both. Pure functions of what they are given.

use super::codec::{CodecError, take_f32, take_u8, take_u64};
use super::rules::{Decision, Policy};
use crate::kernel::TrustScore;

/// What the tenant pays for; only its order matters here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Plan {
    /// Trying it out, or not known.
    #[default]
    Trial,
    /// The small plan.
    Basic,
    /// The usual plan.
    Paid,
    /// The plan of those with most to lose.
    Enterprise,
}

impl Plan {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Trial, Self::Basic, Self::Paid, Self::Enterprise];
}

/// What others know when a heartbeat arrives. Journalled with it, so that a replay sees the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// The appliance's clock, Unix ms.
    pub now_ms: u64,
    /// What the hardware proved, 0 to 100; `None` where nothing is asked of it.
    pub attestation_score: Option<u8>,
    /// The plan of the subscription.
    pub plan: Plan,
    /// A package on the device is on a list of known bad ones.
    pub known_bad_package: bool,
    /// The device talked to a name or an address that a sure feed lists.
    pub known_bad_contact: bool,
    /// How much the strangest of the names that it looked up seems made by a machine, 0 to 100; `None`: it looked none up.
    pub strangest_name: Option<u8>,
}

/// The threshold may be this much lower for a device that has earned it, and this much higher for one that has not.
const LOWER_MOST: i16 = 8;
const HIGHER_MOST: i16 = 12;
/// It never leaves these, whatever it starts from.
const THRESHOLD_MIN: i16 = 10;
const THRESHOLD_MAX: i16 = 60;
/// The point of a challenge keeps its distance.
const CHALLENGE_MAX: i16 = 69;
/// A device that was asked is believed again only this far above the point at which it was asked.
pub(super) const HYSTERESIS: u8 = 3;

const DAY_MS: f32 = 86_400_000.0;
/// Memory of the mean score.
const HISTORY_MS: f32 = DAY_MS;
/// Memory of troubles.
const TROUBLE_MS: f32 = 7.0 * DAY_MS;
/// History that counts as one.
const HISTORY_LEAST_MS: u64 = 3 * 86_400_000;

/// The history of one device's trust.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    since_ms: u64,
    now_ms: u64,
    /// The heartbeat that was concluded last.
    settled_ms: u64,
    /// Mean score, weighted over a day.
    score: f32,
    /// Challenges and blocks, fading over a week.
    troubles: f32,
    last: u8,
    /// The score that went with it.
    last_score: u8,
    /// When the owner was last asked for a reason of this moment.
    asked_ms: u64,
    /// What the present heartbeat led to. It counts from the next one on, so that asking again gives the same answer.
    pending: Option<(TrustScore, Decision)>,
    facts: Facts,
}

/// Challenges of the last days from which a device has to stay calm before it is trusted again, for a minute; each more
/// doubles that, up to an hour or so.
const OFTEN: f32 = 3.0;
const CALM_MS: u64 = 60_000;
const DOUBLINGS_MOST: u32 = 6;

/// How long a decision holds while only the hard rules are looked at.
const HELD_MS: u64 = 300_000;

/// In the order of their numbers.
const DECISIONS: [Decision; 3] = [Decision::Allow, Decision::Challenge, Decision::Block];

const fn code(decision: Decision) -> u8 {
    match decision {
        Decision::Allow => 0,
        Decision::Challenge => 1,
        Decision::Block => 2,
    }
}

impl Standing {
    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The appliance's clock at the newest heartbeat; `None` where nobody said.
    pub(super) fn now_ms(&self) -> Option<u64> {
        (self.now_ms > 0).then_some(self.now_ms)
    }

    /// The last decision was to allow.
    pub(super) fn calm(&self) -> bool {
        self.last == 0
    }

    pub(super) fn take(&mut self, facts: &Facts) {
        self.count_pending();
        self.facts = *facts;
        if self.since_ms == 0 {
            self.since_ms = facts.now_ms;
        }
        let passed_ms = facts.now_ms.saturating_sub(self.now_ms) as f32;
        if self.now_ms > 0 {
            self.troubles *= TROUBLE_MS / (TROUBLE_MS + passed_ms);
        }
        self.now_ms = self.now_ms.max(facts.now_ms);
    }

    /// Remembers what a heartbeat led to.
    pub(super) fn settle(&mut self, score: TrustScore, decision: Decision) {
        self.pending = Some((score, decision));
    }

    /// The owner was asked so often lately that the device must stay calm for a while.
    pub(super) fn keeps_asking(&self) -> bool {
        let asked = self.last == code(Decision::Challenge) && self.troubles >= OFTEN;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10")]
        let more = (self.troubles - OFTEN).max(0.0) as u32;
        asked && self.now_ms.saturating_sub(self.asked_ms) < CALM_MS << more.min(DOUBLINGS_MOST)
    }

    fn count_pending(&mut self) {
        let Some((score, decision)) = self.pending.take() else { return };
        let points = f32::from(score.points());
        let passed_ms = self.now_ms.saturating_sub(self.settled_ms) as f32;
        let weight = if self.settled_ms == 0 { 1.0 } else { passed_ms / (passed_ms + HISTORY_MS) };
        self.settled_ms = self.now_ms;
        self.score += weight * (points - self.score);
        let now = code(decision);
        if now > self.last {
            self.troubles = (self.troubles + 1.0).min(10.0);
            self.asked_ms = self.now_ms;
        }
        (self.last, self.last_score) = (now, score.points());
    }

    /// The last full decision, while it holds.
    pub(super) fn held(&self) -> Option<(TrustScore, Decision)> {
        let decision = DECISIONS.get(usize::from(self.last)).copied()?;
        let fresh = self.settled_ms > 0 && self.now_ms.saturating_sub(self.settled_ms) <= HELD_MS;
        fresh.then_some((TrustScore::new(self.last_score), decision))
    }

    pub(super) fn released(&mut self) {
        self.count_pending();
        self.last = 0;
    }

    /// The policy for this device now: threshold and point of challenge moved within their bounds.
    pub(super) fn adapt(&self, policy: &Policy) -> Policy {
        let known = self.now_ms.saturating_sub(self.since_ms) >= HISTORY_LEAST_MS;
        let mut move_by = 0;
        if known && self.score >= 65.0 && self.troubles < 0.5 {
            move_by -= 5;
        }
        // Each trouble of the last days counts three points.
        #[expect(clippy::cast_possible_truncation, reason = "at most 30")]
        let troubles = (3.0 * self.troubles) as i16;
        move_by += troubles;
        move_by += match self.facts.attestation_score {
            // A proof that has lapsed or fails is worse than none; one by software says no more than none.
            Some(0..10) => 8,
            Some(90..) => -3,
            Some(_) | None => 0,
        };
        move_by += if self.facts.plan == Plan::Enterprise { 2 } else { 0 };
        let moved = |from: u8, most: i16| {
            let bounded = i16::from(from) + move_by.clamp(-LOWER_MOST, HIGHER_MOST);
            // A policy that starts outside of the bounds is followed, not moved.
            let bounded = if move_by < 0 {
                bounded.max(THRESHOLD_MIN.min(from.into()))
            } else {
                bounded.min(most.max(from.into()))
            };
            u8::try_from(bounded).unwrap_or(from)
        };
        let challenge_below = moved(policy.challenge_below, CHALLENGE_MAX);
        let asked = if self.last == code(Decision::Challenge) { HYSTERESIS } else { 0 };
        Policy {
            threshold: moved(policy.threshold, THRESHOLD_MAX),
            challenge_below: challenge_below.saturating_add(asked),
            ..*policy
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for n in [self.since_ms, self.now_ms, self.settled_ms, self.asked_ms, self.facts.now_ms] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        for v in [self.score, self.troubles] {
            out.extend_from_slice(&v.to_le_bytes());
        }
        let (score, decision) = self.pending.map_or((NO_SCORE, 0), |(s, d)| (s.points(), code(d)));
        out.extend_from_slice(&[self.last, self.last_score, score, decision]);
        self.facts.encode(out);
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, CodecError> {
        let (since_ms, now_ms, settled_ms) = (take_u64(input)?, take_u64(input)?, take_u64(input)?);
        let (asked_ms, facts_now_ms) = (take_u64(input)?, take_u64(input)?);
        let (score, troubles, last) = (take_f32(input)?, take_f32(input)?, take_u8(input)?);
        let [last_score, score_pending, decision_pending] = super::codec::take(input)?;
        let decision = DECISIONS.get(usize::from(decision_pending)).copied().ok_or(CodecError::Invalid("standing"))?;
        let pending = (score_pending != NO_SCORE).then(|| (TrustScore::new(score_pending), decision));
        if last > 2 {
            return Err(CodecError::Invalid("standing"));
        }
        Ok(Self {
            since_ms,
            now_ms,
            settled_ms,
            score,
            troubles,
            last,
            last_score,
            asked_ms,
            pending,
            facts: Facts::decode(input, facts_now_ms)?,
        })
    }
}

/// No score of evidence.
const NO_SCORE: u8 = u8::MAX;

impl Facts {
    /// Appends everything but the time, which its owner keeps: two bytes, and one more where names were looked up.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let plan = self.plan as u8;
        let bad = u8::from(self.known_bad_package) << 2 | u8::from(self.known_bad_contact) << 3;
        let bits = plan | bad | u8::from(self.strangest_name.is_some()) << 4;
        out.extend_from_slice(&[self.attestation_score.map_or(NO_SCORE, |s| s.min(100)), bits]);
        out.extend(self.strangest_name.map(|s| s.min(100)));
    }

    /// Takes what [`Facts::encode`] wrote.
    ///
    /// # Errors
    /// [`CodecError`] for bytes that no facts could have written.
    pub fn decode(input: &mut &[u8], now_ms: u64) -> Result<Self, CodecError> {
        let [score, bits] = super::codec::take(input)?;
        if bits >> 5 != 0 || (score > 100 && score != NO_SCORE) {
            return Err(CodecError::Invalid("facts"));
        }
        Ok(Self {
            now_ms,
            attestation_score: (score != NO_SCORE).then_some(score),
            plan: Plan::ALL.get(usize::from(bits & 3)).copied().unwrap_or_default(),
            known_bad_package: bits >> 2 & 1 == 1,
            known_bad_contact: bits >> 3 & 1 == 1,
            strangest_name: if bits >> 4 & 1 == 1 { Some(take_u8(input)?.min(100)) } else { None },
        })
    }
}
