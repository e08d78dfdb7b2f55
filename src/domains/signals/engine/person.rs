//! Who holds the device: how its owner moves it in each context, and how much likelier somebody else is by now.
//!
//! The owner's traits are a mean per context that is learned from trusted blocks of a second only, stands still under
//! suspicion, forgets slowly and may move only so far in a day: whoever wants to be taken for the owner must come closer
//! for weeks. What is compared is the mean of the last seconds: its likelihood under the owner against that under
//! anybody, by the within- and between-person spread of the population (the two-covariance model of speaker
//! recognition), summed up by a CUSUM. A slow change of the owner himself is a drift (Page-Hinkley) and only noted.

use super::bands::TRAITS;
use super::codec::{CodecError, put_f32s, take_f32, take_f32s, take_u32, take_u64};
use super::context::Context;
use super::population::{People, Population, TRIANGLE};

/// Blocks after which the owner is known.
const ENROLLED: u32 = 20;
/// Blocks over which the owner is forgotten by half or so: ten hours of motion.
const MEMORY: u32 = 36_000;
/// Blocks that the present is averaged over.
const PRESENT: f32 = 4.0;
/// Furthest that the owner's traits may move in a day; binary logarithms of energy, about 1.4 times.
const DAY_DRIFT: f32 = 0.5;
const DAY_MS: u64 = 86_400_000;
/// Likelihood ratio, in nats, that one block may speak against the owner without consequence.
const SLACK: f32 = 1.0;
/// Furthest that one block may move the sum, so that one odd second decides nothing.
const BLOCK_MOST: f32 = 4.0;
/// Sum from which another person is likelier than chance allows.
pub(super) const STRANGER: f32 = 40.0;
const SUM_MOST: f32 = 60.0;
/// Page-Hinkley: departure that is tolerated, and the sum that is a drift.
const DRIFT_SLACK: f32 = 0.5;
const DRIFT: f32 = 120.0;

/// One context's owner.
#[derive(Clone, Debug, Default)]
struct Owner {
    blocks: u32,
    mean: [f32; TRAITS],
    /// The mean at the beginning of the day, and that beginning.
    morning: [f32; TRAITS],
    morning_ms: u64,
    present: [f32; TRAITS],
    present_blocks: f32,
}

/// The owner in the hand and on the way.
#[derive(Clone, Debug, Default)]
pub(super) struct Person {
    owners: [Owner; 2],
    /// Likelihood ratio of the last block, in nats; above 0 it is the owner.
    pub ratio_nats: f32,
    /// The CUSUM against the owner.
    pub against: f32,
    /// Page-Hinkley: its mean, sum and lowest sum.
    hinkley: [f32; 3],
    seen: u32,
}

const fn place(context: Context) -> Option<usize> {
    match context {
        Context::InHand => Some(0),
        Context::Carried => Some(1),
        Context::Unknown | Context::Rest => None,
    }
}

/// Squared length of the whitened departure.
fn distance(whitening: &[f32; TRIANGLE], off: &[f32; TRAITS]) -> f32 {
    let mut total = 0.0;
    let mut rest = whitening.as_slice();
    for row in 1..=TRAITS {
        let Some((weights, next)) = rest.split_at_checked(row) else { break };
        let projected: f32 = weights.iter().zip(off).map(|(w, x)| w * x).sum();
        total += projected * projected;
        rest = next;
    }
    total
}

/// How much likelier the owner (`mean`) is than anybody, for the mean `present` of some seconds; natural logarithm.
pub fn likelihood_ratio_nats(people: &People, mean: &[f32; TRAITS], present: &[f32; TRAITS]) -> f32 {
    let off = |from: &[f32; TRAITS]| -> [f32; TRAITS] {
        let mut out = [0.0; TRAITS];
        for ((slot, x), m) in out.iter_mut().zip(present).zip(from) {
            *slot = x - m;
        }
        out
    };
    let own = distance(&people.within, &off(mean));
    let any = distance(&people.total, &off(&people.mean));
    people.match_nats + 0.5 * (any - own)
}

impl Person {
    /// Takes a block of a second. `trusted` is whether it may teach.
    pub(super) fn push(
        &mut self,
        (context, traits): (Context, &[f32; TRAITS]),
        t_ms: u64,
        trusted: bool,
        population: &Population,
    ) {
        let Some(owner) = place(context).and_then(|at| self.owners.get_mut(at)) else { return };
        owner.present_blocks = (owner.present_blocks + 1.0).min(PRESENT);
        for (slot, x) in owner.present.iter_mut().zip(traits) {
            *slot += (x - *slot) / owner.present_blocks;
        }
        if owner.blocks >= ENROLLED
            && owner.present_blocks >= PRESENT
            && let Some(people) = population.people(context)
        {
            self.ratio_nats = likelihood_ratio_nats(people, &owner.mean, &owner.present);
            let step = (-self.ratio_nats - SLACK).clamp(-BLOCK_MOST, BLOCK_MOST);
            self.against = (self.against + step).clamp(0.0, SUM_MOST);
            let [mean, sum, least] = &mut self.hinkley;
            let away = (-self.ratio_nats).clamp(-20.0, 20.0);
            self.seen = self.seen.saturating_add(1);
            *mean += (away - *mean) / self.seen.min(MEMORY) as f32;
            *sum += away - *mean - DRIFT_SLACK;
            *least = least.min(*sum);
        }
        if trusted && self.against < STRANGER * 0.25 {
            owner.learn(traits, t_ms);
        }
    }

    /// Whoever holds the device moves unlike its owner.
    pub(super) fn stranger(&self) -> bool {
        self.against >= STRANGER
    }

    /// The owner has changed for good; starts a new count.
    pub(super) fn take_drift(&mut self) -> bool {
        let [_, sum, least] = self.hinkley;
        let drifted = sum - least > DRIFT;
        if drifted {
            self.hinkley = [0.0; 3];
            self.seen = 0;
        }
        drifted
    }

    /// The last seconds no longer belong together.
    pub(super) fn start_anew(&mut self) {
        for owner in &mut self.owners {
            owner.present_blocks = 0.0;
        }
    }

    /// A person has judged the evidence.
    pub(super) fn clear_evidence(&mut self) {
        (self.against, self.ratio_nats, self.hinkley, self.seen) = (0.0, 0.0, [0.0; 3], 0);
        self.start_anew();
    }

    /// Blocks that the owner was learned from, in the hand and on the way.
    pub(super) fn known_blocks(&self) -> u32 {
        self.owners.iter().map(|o| o.blocks).fold(0, u32::saturating_add)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for o in &self.owners {
            out.extend_from_slice(&o.blocks.to_le_bytes());
            out.extend_from_slice(&o.morning_ms.to_le_bytes());
            put_f32s(out, &o.mean);
            put_f32s(out, &o.morning);
            put_f32s(out, &o.present);
            put_f32s(out, &[o.present_blocks]);
        }
        put_f32s(out, &[self.ratio_nats, self.against]);
        put_f32s(out, &self.hinkley);
        out.extend_from_slice(&self.seen.to_le_bytes());
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, CodecError> {
        let mut person = Self::default();
        for o in &mut person.owners {
            o.blocks = take_u32(input)?;
            o.morning_ms = take_u64(input)?;
            o.mean = take_f32s(input)?;
            o.morning = take_f32s(input)?;
            o.present = take_f32s(input)?;
            o.present_blocks = take_f32(input)?;
        }
        [person.ratio_nats, person.against] = take_f32s(input)?;
        person.hinkley = take_f32s(input)?;
        person.seen = take_u32(input)?;
        Ok(person)
    }
}

impl Owner {
    fn learn(&mut self, traits: &[f32; TRAITS], t_ms: u64) {
        // A clock that restarted begins a new day, too, but grants no further drift: the mean stays where it is.
        if self.blocks <= ENROLLED || t_ms.abs_diff(self.morning_ms) >= DAY_MS {
            (self.morning, self.morning_ms) = (self.mean, t_ms);
        }
        self.blocks = self.blocks.saturating_add(1).min(MEMORY);
        let share = 1.0 / self.blocks as f32;
        for ((mean, morning), x) in self.mean.iter_mut().zip(self.morning).zip(traits) {
            let next = *mean + share * (x - *mean);
            *mean = if self.blocks <= ENROLLED { next } else { next.clamp(morning - DAY_DRIFT, morning + DAY_DRIFT) };
        }
    }
}
