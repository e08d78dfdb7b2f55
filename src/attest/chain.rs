//! Certificate chains of attestations.
