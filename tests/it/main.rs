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
mod enrollment_tokens;
mod heartbeat;
mod identity;
mod idor;
mod killswitch;
mod matrix;
mod openapi;
mod operator;
mod passwords;
mod people;
mod refresh;
mod roles;
mod signing_keys;
mod tenants;
mod tidy;
mod tokens;
mod users;
mod world;
