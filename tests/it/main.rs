//! Black-box tests of the appliance: the real server in this process, on free ports, under a clock that the test moves.
//!
//! One binary, a module for each promise; what they share with the benches is `blockremote::testkit`.

#![expect(clippy::indexing_slicing, reason = "tests")]

mod anonymous;
mod api_keys;
mod attest;
mod attestation;
mod audit_log;
mod backups;
mod bad_input;
mod billing;
mod bound_tokens;
mod cli;
mod client_certificates;
mod common;
mod cookies;
mod durability;
mod embed;
mod enrollment_tokens;
mod entitlements;
mod flags;
mod fuzz;
mod grpc;
mod hardware;
mod heartbeat;
mod identity;
mod idor;
mod integrations;
mod intel;
mod intel_devices;
mod intel_sources;
mod killswitch;
mod matrix;
mod monitoring;
mod openapi;
mod operator;
mod passkeys;
mod passwords;
mod people;
mod refresh;
mod releases;
mod replay;
mod roles;
mod second_factors;
mod secrecy;
mod service;
mod sessions;
mod signing_keys;
mod stalled;
mod strain;
mod takeover;
mod tenant_switch;
mod tenants;
mod tidy;
mod tokens;
mod tpm;
mod traces;
mod trust;
mod usage;
mod users;
mod wire;
mod world;
