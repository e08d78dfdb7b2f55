//! `bench`: measures this machine. Every load is bounded and stops by itself; traffic stays on loopback.

pub mod args;
mod bare;
mod engine;
mod latency;
mod load;
mod place;
mod restart;
mod sessions;
mod sockets;
mod storm;

use self::args::BenchCommand;
use super::{Cli, Outcome};

pub(super) fn run(cli: &Cli, command: &BenchCommand) -> Outcome {
    let settings = || Ok::<_, super::Failure>(super::load(cli)?.config);
    match command {
        // Here `--data` is a folder of recordings.
        BenchCommand::Engine(args) => engine::run(cli.data.as_deref(), args),
        BenchCommand::Load(args) => load::run(settings()?, args),
        BenchCommand::Latency(args) => latency::run(settings()?, args),
        BenchCommand::Sockets(args) => sockets::run(args),
        BenchCommand::Restart(args) => restart::run(settings()?, args),
        BenchCommand::Storm(args) => storm::storm(settings()?, args),
        BenchCommand::Reattest(args) => storm::reattest(settings()?, args),
        BenchCommand::Sessions(args) => sessions::run(settings()?, args),
    }
}

/// A runtime with threads of its own, named for whoever profiles them.
fn runtime(name: &str) -> Result<tokio::runtime::Runtime, super::Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().thread_name(format!("bench-{name}")).build()?)
}

/// The median of measurements; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
