//! How short the machine runs of memory and disk, and what is refused then. The rules are pure; figures come from a
//! [`Machine`], which tests replace. Knows nothing of routes: what is how important is said by who asks.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::kernel::{Kind, Refusal};

/// Where figures come from.
pub trait Machine: Send + Sync + std::fmt::Debug {
    /// Bytes that may still be written to the file system of `folder`; `None`: not known.
    fn disk_free_bytes(&self, folder: &Path) -> Option<u64>;
    /// Bytes of memory that the process holds; `None`: not known.
    fn memory_bytes(&self) -> Option<u64>;
}

/// The machine that the process runs on.
#[derive(Clone, Copy, Debug)]
pub struct ThisMachine;

impl Machine for ThisMachine {
    fn disk_free_bytes(&self, folder: &Path) -> Option<u64> {
        let found = rustix::fs::statvfs(folder).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn memory_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()?.saturating_mul(1024))
    }
}

/// What the process may take: the smallest limit of its control groups (version 2), else four fifths of the machine's
/// memory; 0 when neither is known.
pub fn memory_limit_bytes() -> u64 {
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = group.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let mut folder = Path::new("/sys/fs/cgroup").join(path);
    let mut least = u64::MAX;
    while folder.starts_with("/sys/fs/cgroup") {
        for name in ["memory.max", "memory.high"] {
            // "max" is no number: no limit here.
            let limit = fs::read_to_string(folder.join(name)).ok().and_then(|text| text.trim().parse().ok());
            least = least.min(limit.unwrap_or(u64::MAX));
        }
        if !folder.pop() {
            break;
        }
    }
    if least < u64::MAX {
        return least;
    }
    let about = rustix::system::sysinfo();
    let total = about.totalram.saturating_mul(u64::from(about.mem_unit));
    total / 5 * 4
}

/// How important a request is, the least first: in this order they are refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Importance {
    /// Documents and lists.
    List,
    /// People and programs, with and without an account.
    Person,
    /// What a device needs to be judged and locked: heartbeats, sockets, its tokens.
    Device,
    /// Probes and the operator's own listener: never refused.
    Always,
}

/// How short of memory it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Memory {
    /// Everybody is served.
    Ample,
    /// Documents and lists are refused.
    Scarce,
    /// People and programs, too.
    Short,
    /// Everything that begins; open sockets stay.
    Exhausted,
}

/// How short of disk it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Disk {
    /// Everything is written.
    Ample,
    /// Only what locks and judges devices, and what lets people in who can help.
    ReadOnly,
    /// Heartbeats are refused, too: they could not be kept.
    Full,
}

/// Percentage points that memory must fall below a bound before it counts as left behind.
const MEMORY_HYSTERESIS: u64 = 3;

/// The next state of memory: `used` of `limit` bytes, refusing from `shed_percent` on; 100 and above, or no limit: never.
pub fn memory(before: Memory, used: u64, limit: u64, shed_percent: u8) -> Memory {
    let from = u64::from(shed_percent);
    if limit == 0 || from >= 100 {
        return Memory::Ample;
    }
    let percent = used.saturating_mul(100) / limit;
    let rest = 100 - from;
    let bounds = [(Memory::Scarce, from), (Memory::Short, from + rest / 2), (Memory::Exhausted, from + rest * 4 / 5)];
    let reached = |(state, bound): &&(Memory, u64)| {
        let bound = if before >= *state { bound.saturating_sub(MEMORY_HYSTERESIS) } else { *bound };
        percent >= bound
    };
    bounds.iter().filter(reached).map(|(state, _)| *state).max().unwrap_or(Memory::Ample)
}

/// Bounds of the disk, in bytes; 0 switches one off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskBounds {
    /// Below it most changes are refused.
    pub read_only: u64,
    /// Below it heartbeats are refused.
    pub stop: u64,
    /// What removing the ballast gives back: not a sign of recovery.
    pub ballast: u64,
}

/// The next state of the disk with `free` bytes left. It comes back only with a quarter more than the bound, and more
/// than the removed ballast alone has brought.
pub fn disk(before: Disk, free: u64, bounds: DiskBounds) -> Disk {
    let back = |bound: u64| bound.saturating_add(bound / 4);
    let stop_until = if before == Disk::Full { back(bounds.stop) } else { bounds.stop };
    let read_only_until =
        if before == Disk::Ample { bounds.read_only } else { back(bounds.read_only).saturating_add(bounds.ballast) };
    if bounds.stop > 0 && free < stop_until {
        Disk::Full
    } else if bounds.read_only > 0 && free < read_only_until {
        Disk::ReadOnly
    } else {
        Disk::Ample
    }
}

const MEMORIES: [Memory; 4] = [Memory::Ample, Memory::Scarce, Memory::Short, Memory::Exhausted];
const DISKS: [Disk; 3] = [Disk::Ample, Disk::ReadOnly, Disk::Full];

/// The present strain, for everybody who must know.
#[derive(Debug, Default)]
pub struct Strain {
    memory: AtomicU8,
    disk: AtomicU8,
    refused: AtomicU64,
    ended: Mutex<Vec<&'static str>>,
}

impl Strain {
    /// How short of memory it is.
    pub fn memory(&self) -> Memory {
        MEMORIES.get(usize::from(self.memory.load(Ordering::Relaxed))).copied().unwrap_or(Memory::Ample)
    }

    /// How short of disk it is.
    pub fn disk(&self) -> Disk {
        DISKS.get(usize::from(self.disk.load(Ordering::Relaxed))).copied().unwrap_or(Disk::Ample)
    }

    /// Says how short of memory it is.
    pub fn set_memory(&self, to: Memory) {
        self.memory.store(to as u8, Ordering::Relaxed);
    }

    /// Says how short of disk it is.
    pub fn set_disk(&self, to: Disk) {
        self.disk.store(to as u8, Ordering::Relaxed);
    }

    /// Says that a task ended which should run as long as the appliance does.
    pub fn task_ended(&self, name: &'static str) {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).push(name);
    }

    /// A task that ended and should not have.
    pub fn ended_task(&self) -> Option<&'static str> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).first().copied()
    }

    /// Requests refused for want of memory or disk.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether something this important is served at all.
    ///
    /// # Errors
    /// 503 `overloaded`.
    pub fn admit(&self, importance: Importance) -> Result<(), Refusal> {
        let spared = match self.memory() {
            Memory::Ample => Importance::List,
            Memory::Scarce => Importance::Person,
            Memory::Short => Importance::Device,
            Memory::Exhausted => Importance::Always,
        };
        if importance >= spared {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        let detail = "The appliance is short of memory and serves what is more important first. Try again in a moment.";
        Err(Refusal::new(Kind::Unavailable, "overloaded", detail).retry_after_s(5))
    }

    /// Whether a change is taken that can wait until there is room on the disk.
    ///
    /// # Errors
    /// 503 `read_only`.
    pub fn admit_change(&self) -> Result<(), Refusal> {
        if self.disk() == Disk::Ample {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        let detail = "The appliance's disk is nearly full: until there is room it takes only heartbeats and what locks or \
                      releases devices. Ask its operator to make room.";
        Err(Refusal::new(Kind::Unavailable, "read_only", detail).retry_after_s(60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_sheds_lists_first_then_people_then_devices_and_comes_back_with_a_margin() {
        for (used, expected) in [
            (79, Memory::Ample),
            (80, Memory::Scarce),
            (90, Memory::Short),
            (96, Memory::Exhausted),
            (200, Memory::Exhausted),
        ] {
            assert_eq!(memory(Memory::Ample, used, 100, 80), expected, "{used}");
        }
        for (before, used, expected) in [
            (Memory::Scarce, 78, Memory::Scarce),
            (Memory::Scarce, 76, Memory::Ample),
            (Memory::Exhausted, 94, Memory::Exhausted),
            (Memory::Exhausted, 92, Memory::Short),
            (Memory::Exhausted, 10, Memory::Ample),
        ] {
            assert_eq!(memory(before, used, 100, 80), expected, "{before:?} at {used}");
        }
        assert_eq!(memory(Memory::Ample, u64::MAX, 0, 80), Memory::Ample, "no limit is known");
        assert_eq!(memory(Memory::Ample, u64::MAX, 1, 100), Memory::Ample, "switched off");
    }

    #[test]
    fn the_disk_comes_back_only_when_more_is_free_than_the_ballast_gave() {
        let bounds = DiskBounds { read_only: 400, stop: 100, ballast: 50 };
        for (before, free, expected) in [
            (Disk::Ample, 400, Disk::Ample),
            (Disk::Ample, 399, Disk::ReadOnly),
            (Disk::Ample, 99, Disk::Full),
            (Disk::ReadOnly, 449, Disk::ReadOnly),
            (Disk::ReadOnly, 549, Disk::ReadOnly),
            (Disk::ReadOnly, 550, Disk::Ample),
            (Disk::ReadOnly, 99, Disk::Full),
            (Disk::Full, 124, Disk::Full),
            (Disk::Full, 125, Disk::ReadOnly),
            (Disk::Full, 550, Disk::Ample),
        ] {
            assert_eq!(disk(before, free, bounds), expected, "{before:?} with {free}");
        }
        let off = DiskBounds { read_only: 0, stop: 0, ballast: 0 };
        assert_eq!(disk(Disk::Ample, 0, off), Disk::Ample);
    }

    #[test]
    fn what_is_more_important_is_served_longer() {
        use Importance::{Always, Device, List, Person};
        let strain = Strain::default();
        for (memory, served) in [
            (Memory::Ample, vec![List, Person, Device, Always]),
            (Memory::Scarce, vec![Person, Device, Always]),
            (Memory::Short, vec![Device, Always]),
            (Memory::Exhausted, vec![Always]),
        ] {
            strain.set_memory(memory);
            let admitted: Vec<_> =
                [List, Person, Device, Always].into_iter().filter(|i| strain.admit(*i).is_ok()).collect();
            assert_eq!(admitted, served, "{memory:?}");
        }
        assert_eq!(strain.refused(), 6);
    }

    #[test]
    fn this_machine_has_a_disk_and_memory() {
        let machine = ThisMachine;
        assert!(machine.disk_free_bytes(&std::env::temp_dir()).is_some_and(|free| free > 0));
        assert!(machine.memory_bytes().is_some_and(|used| used > 1 << 20));
        assert!(memory_limit_bytes() > 64 << 20);
    }
}
