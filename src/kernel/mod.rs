//! What every room may lean on: ids, time, chance, refusals, the facts of a request, and the limits.
//!
//! Imports nothing of ours and does no I/O beyond asking the operating system for the time and for random bytes;
//! everything else receives those two from here, so that a run can be repeated under a simulated clock and a seed.

pub mod clock;
pub mod context;
pub mod error;
pub mod files;
pub mod ids;
pub mod limits;
pub mod network;
pub mod pool;
pub mod random;
pub mod rate;
pub mod score;
pub mod trace;
pub mod url;

pub use clock::{Clock, Timestamp};
pub use error::{Error, Kind, Refusal, Result};
pub use random::Random;
pub use score::TrustScore;
