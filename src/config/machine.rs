//! What the appliance may take of its machine, and what it does when that runs short.

use std::path::PathBuf;
use std::time::Duration;

/// What the appliance may take of its machine.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Room for the data file.
    pub disk: Disk,
    /// Memory of the process.
    pub memory: Memory,
    /// The breaker on the scoring path; its queue is `engine.simplified_from`.
    pub breaker: Breaker,
    /// What the process may do at all.
    pub sandbox: Sandbox,
    /// Announcement on the LAN.
    pub discovery: Discovery,
}

/// Room for the data file.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// Free bytes below which most changes are refused; 0: never.
    pub read_only_bytes: u64,
    /// Free bytes below which heartbeats are refused, too; 0: never.
    pub stop_bytes: u64,
    /// A file that only keeps room, and is removed when there is none; 0: none is made.
    pub ballast_bytes: u64,
}

/// Memory of the process.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// 0: what the control group allows, else four fifths of the machine's.
    pub limit_bytes: u64,
    /// Percent of it from which requests are refused, the least important first.
    pub shed_percent: u8,
}

/// When heartbeats are judged by the hard rules alone.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    /// Mean time of one heartbeat.
    pub mean: Duration,
    /// Time in which 95 of 100 are judged.
    pub tail: Duration,
    /// Heartbeats a second, while many wait.
    pub throughput_min: u32,
    /// How long until the first probe.
    pub open: Duration,
}

/// What the process may do at all, where the kernel can hold it to that.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    /// Writes only in its own folders.
    pub landlock: bool,
    /// Makes only the system calls that it needs.
    pub seccomp: bool,
    /// A further folder that it may write to.
    pub write_folder: Option<PathBuf>,
}

/// Announcement on the LAN.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    /// Whether `_blockremote._tcp` is announced by multicast DNS.
    pub announce: bool,
}
