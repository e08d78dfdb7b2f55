//! Black-box tests of the appliance: the real server in this process, on free ports, under a clock that the test moves.
//!
//! One binary, a module for each promise; what they share with the benches is `blockremote::testkit`.

#![expect(clippy::indexing_slicing, reason = "tests")]

mod api_keys;
mod bad_input;
mod cli;
mod client_certificates;
mod common;
mod durability;
mod heartbeat;
mod identity;
mod killswitch;
mod matrix;
mod openapi;
mod refresh;
mod tidy;
mod tokens;
mod world;
