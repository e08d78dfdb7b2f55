//! Where the device is: at rest, in a hand, or carried about. Every test is judged within its context.
//!
//! A context is entered only when the motion stays within its bounds for a while and is left only well outside of them,
//! so that one knock is no change of context. Rest alone says nothing against a device.

use super::codec::{CodecError, take_f32, take_u8};
use super::population::Bounds;

/// Where the device is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Context {
    /// Too little was seen.
    #[default]
    Unknown,
    /// Nothing moves beyond the sensors' noise.
    Rest,
    /// Small motion: held, or worn by somebody who sits.
    InHand,
    /// Somebody walks with it.
    Carried,
}

impl Context {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Unknown, Self::Rest, Self::InHand, Self::Carried];

    /// As on the wire and in the population table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Rest => "rest",
            Self::InHand => "in_hand",
            Self::Carried => "carried",
        }
    }
}

/// How long motion must look like another context before it is believed, ms.
const DWELL_MS: f32 = 1000.0;
/// A bound is crossed only this far beyond it.
const MARGIN: f32 = 1.3;

/// The context by hysteresis.
#[derive(Clone, Debug, Default)]
pub(super) struct Tracker {
    context: Context,
    candidate: Context,
    for_ms: f32,
}

impl Tracker {
    pub(super) fn context(&self) -> Context {
        self.context
    }

    pub(super) fn start_anew(&mut self) {
        *self = Self::default();
    }

    /// Takes the spreads of both sensors after a reading that came `dt_ms` after the one before.
    pub(super) fn push(&mut self, shaking: f32, turning: f32, dt_ms: f32, bounds: &Bounds) {
        // The present context keeps what is near its bounds.
        let seems = {
            let rest = if self.context == Context::Rest { MARGIN } else { 1.0 };
            let carried = if self.context == Context::Carried { MARGIN } else { 1.0 };
            if shaking > bounds.shaking_carried / carried {
                Context::Carried
            } else if shaking <= bounds.shaking_rest * rest && turning <= bounds.turning_rest * rest {
                Context::Rest
            } else {
                Context::InHand
            }
        };
        if seems == self.context {
            (self.candidate, self.for_ms) = (seems, 0.0);
            return;
        }
        if seems != self.candidate {
            (self.candidate, self.for_ms) = (seems, 0.0);
        }
        self.for_ms += dt_ms;
        if self.for_ms >= DWELL_MS {
            (self.context, self.for_ms) = (seems, 0.0);
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.context as u8, self.candidate as u8]);
        out.extend_from_slice(&self.for_ms.to_le_bytes());
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, CodecError> {
        let mut of = || {
            let code = usize::from(take_u8(input)?);
            Context::ALL.get(code).copied().ok_or(CodecError::Invalid("context"))
        };
        let (context, candidate) = (of()?, of()?);
        Ok(Self { context, candidate, for_ms: take_f32(input)? })
    }
}
