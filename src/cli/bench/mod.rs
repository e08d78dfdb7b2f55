//! `bench`: measures this machine. Every load is bounded and stops by itself; traffic stays on loopback.

mod bare;
mod latency;
mod load;
mod place;
mod restart;
mod sockets;

use super::args::BenchCommand;
use super::{Cli, Outcome};

pub(super) fn run(_cli: &Cli, command: &BenchCommand) -> Outcome {
    match command {
        BenchCommand::Load(args) => load::run(args),
        BenchCommand::Latency(args) => latency::run(args),
        BenchCommand::Sockets(args) => sockets::run(args),
        BenchCommand::Restart(args) => restart::run(args),
    }
}

/// The median of measurements; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
