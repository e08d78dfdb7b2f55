//! What judges beside the active engine, is shown, and acts on nothing: another policy, another population, or both.
//!
//! With a population of its own the shadow gathers evidence of its own from the same readings. It is kept in memory only
//! and begins anew with every start: its figures mean something once devices have sent for a while.

use std::sync::{Mutex, PoisonError};

use super::cell::Effort;
use super::engine::{DeviceEngine, Facts, Policy, Population, Reading, Sensors};
use crate::kernel::TrustScore;

/// What is tried out.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// How it judges.
    pub policy: Policy,
    /// What it judges against; `None`: what the active engine judges against, and then it shares its state.
    pub population: Option<&'static Population>,
}

/// What the shadow would have said.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Shadow {
    /// Its score.
    pub score: TrustScore,
    /// Its decision.
    pub decision: super::engine::Decision,
    /// Its threshold.
    pub threshold: u8,
    /// The version of the population that it judged against.
    pub population_version: u16,
}

/// The state of a shadow that has its own, for one device. Only the writer locks it.
#[derive(Default)]
pub(super) struct ShadowState(Mutex<Option<Box<DeviceEngine>>>);

/// A heartbeat as the active engine met it.
pub(super) struct Met<'a> {
    pub sensors: Sensors,
    pub facts: &'a Facts,
    pub readings: &'a [Reading],
    pub effort: Effort,
    /// The device had been released since the heartbeat before.
    pub released: bool,
}

impl Candidate {
    /// Judges a heartbeat that `active` has taken already.
    pub(super) fn judge(&self, active: &DeviceEngine, own: &ShadowState, met: &Met<'_>) -> Shadow {
        let Some(population) = self.population else { return self.assess(active) };
        let mut own = own.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Box::new(DeviceEngine::against(met.sensors, population));
        let engine = own.get_or_insert_with(fresh);
        if engine.sensors() != met.sensors {
            engine.declare(met.sensors);
        }
        if met.released {
            engine.clear_evidence();
        }
        engine.begin(met.facts);
        for reading in met.readings {
            match met.effort {
                Effort::Full => engine.push(reading),
                Effort::Simplified => engine.push_simplified(reading),
            }
        }
        let assessment = match met.effort {
            Effort::Full => engine.conclude(&self.policy),
            Effort::Simplified => engine.conclude_simplified(&self.policy),
        };
        self.shown(&assessment, engine)
    }

    /// What it says of a state that it shares; `None` where it has its own, which begins with the next heartbeat.
    pub(super) fn look(&self, active: &DeviceEngine) -> Option<Shadow> {
        self.population.is_none().then(|| self.assess(active))
    }

    fn assess(&self, engine: &DeviceEngine) -> Shadow {
        self.shown(&engine.assess(&self.policy), engine)
    }

    fn shown(&self, assessment: &super::engine::Assessment, engine: &DeviceEngine) -> Shadow {
        Shadow {
            score: assessment.score,
            decision: assessment.decision,
            threshold: assessment.threshold,
            population_version: engine.population().version,
        }
    }
}
