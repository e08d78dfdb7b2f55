//! The command line of `bench`.

use clap::{Args, Subcommand, value_parser};

use super::engine::EngineArgs;

/// `bench`.
#[derive(Subcommand, Clone, Debug)]
pub enum BenchCommand {
    /// Durable heartbeats a second over TLS, side by side with bare hyper
    #[command(after_help = "Example:\n  blockremote bench load --seconds 10 --connections 64 --devices 10000 --json")]
    Load(BenchArgs),
    /// From a hostile reading to the lock frame, side by side with a bare WebSocket echo
    #[command(after_help = "Example:\n  blockremote bench latency --seconds 10 --json")]
    Latency(BenchArgs),
    /// Memory of an idle appliance, and of each idle socket
    #[command(after_help = "Example:\n  blockremote bench sockets --connections 2000 --json")]
    Sockets(BenchArgs),
    /// How long a start takes with all rings full, from the checkpoint and from the journal
    #[command(after_help = "Example:\n  blockremote bench restart --devices 10000 --json")]
    Restart(BenchArgs),
    /// What a heartbeat notices of a fleet that reconnects and refreshes all at once
    #[command(after_help = "Example:\n  blockremote bench storm --devices 10000 --seconds 10 --json")]
    Storm(BenchArgs),
    /// What a heartbeat notices of a fleet that proves its hardware anew within a minute
    #[command(after_help = "Example:\n  blockremote bench reattest --devices 10000 --seconds 10 --json")]
    Reattest(BenchArgs),
    /// Memory of living sessions
    #[command(after_help = "Example:\n  blockremote bench sessions --devices 1000000 --json")]
    Sessions(BenchArgs),
    /// The threat engine against recordings of real devices, or the fitting of its population
    #[command(after_help = "Examples:\n  blockremote bench engine --data recordings --json\n  \
                            blockremote bench engine --data recordings --fit")]
    Engine(EngineArgs),
}

/// What the benches share.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Open connections
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = value_parser!(u32).range(1..=100_000))]
    pub connections: u32,
    /// Enrolled devices
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub devices: u32,
    /// Readings in each heartbeat
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=100))]
    pub readings: u32,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
