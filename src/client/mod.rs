//! The wire contract as a device speaks it: TLS to one trusted authority, warm HTTP, the kill-switch socket, and the
//! check that a command is genuine.
//!
//! Knows only what stands in the contract: nothing of the server's tables, rules or rooms, so that a mistake on one
//! side is seen by the other. Imports `kernel` and `crypto`. Everything that comes from the network is bounded.

mod error;
pub mod frame;
pub mod http;
pub mod socket;
pub mod tls;
pub mod verify;

pub use error::{ClientError, Problem};
pub use http::{HttpClient, Response};
pub use socket::Socket;
pub use tls::Endpoint;
pub use verify::{CommandVerifier, Genuine, VerifyError};
