//! The fuzzers of the appliance: what they feed lies in [`entries`].

pub mod entries;
