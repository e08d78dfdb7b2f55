//! The map of the house. `ARCHITECTURE.md` says which room may import which.
//!
//! - [`kernel`]: ids, time, chance, refusals, limits
//! - [`config`]: file, environment and flags to one checked configuration
//! - [`crypto`]: keys, signatures, sealing, passwords, certificates
//! - [`store`]: the one data file and its one write path
//! - [`net`]: listeners, TLS, HTTP and WebSocket connections
//! - [`gate`]: every endpoint in one table, every check in one order
//! - [`domains`]: the nouns of the product
//! - [`observe`]: logs and metrics
//! - [`attest`]: evidence of a device's hardware, judged
//! - [`app`]: boot and shutdown
//! - [`client`], [`agent`]: the wire as a device speaks it, and the reference device
//! - [`cli`]: the commands
//! - [`testkit`]: the real server in a test's process

pub mod agent;
pub mod app;
pub mod attest;
pub mod cli;
pub mod client;
pub mod config;
pub mod crypto;
pub mod domains;
pub mod gate;
pub mod kernel;
pub mod net;
pub mod observe;
pub mod store;
pub mod testkit;
