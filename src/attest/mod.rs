//! What a device's hardware says of itself, judged without the Internet: one verifier for each format.
//!
//! Pure: bytes, policy and time in, a verdict out. Nothing here reads a file, asks a clock or remembers anything; roots
//! and revocation lists are handed in. Signatures are checked over the bytes that were received, never over bytes that
//! were encoded again. Knows nothing of devices, tenants, nonces or HTTP.

pub mod android;
pub mod apple;
#[cfg(test)]
mod bit_flips;
pub mod cases;
pub mod chain;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod jose;
mod members;
pub mod play;
pub mod policy;
pub mod tpm;
pub mod webauthn;

use serde_json::{Map, Value};

/// What a verifier found to be true; names and values as the command line prints them.
pub type Claims = Map<String, Value>;

/// Why evidence was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Refused {
    /// Stable, snake_case: the first rule that was broken.
    pub reason: &'static str,
    /// In words, for the operator; repeats no secret.
    pub detail: String,
}

impl Refused {
    /// A refusal by this rule.
    pub fn new(reason: &'static str, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}
