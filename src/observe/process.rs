//! What the kernel says of this process: memory, processor time, open files. Linux only; elsewhere it says nothing.

use std::io::Read;

/// One look.
#[derive(Clone, Copy, Default, Debug)]
pub struct Process {
    /// Memory that is in RAM.
    pub resident_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Of user and system together.
    pub cpu_seconds: f64,
    /// Open files and sockets.
    pub open_fds: u64,
    /// The most that may be open.
    pub max_fds: u64,
    /// Threads.
    pub threads: u64,
}

/// The files of /proc are short; a longer one is none of them.
const BYTES_MAX: u64 = 16 * 1024;
/// Open files that are counted one by one.
const FDS_MAX: usize = 1_000_000;

/// How this process stands now. What cannot be read is zero.
pub fn look() -> Process {
    let status = file("/proc/self/status");
    let limits = file("/proc/self/limits");
    let kib = |name: &str| number_behind(&status, name).saturating_mul(1_024);
    Process {
        resident_bytes: kib("VmRSS:"),
        virtual_bytes: kib("VmSize:"),
        threads: number_behind(&status, "Threads:"),
        max_fds: number_behind(&limits, "Max open files"),
        open_fds: std::fs::read_dir("/proc/self/fd").map_or(0, |d| d.take(FDS_MAX).count() as u64),
        cpu_seconds: cpu_seconds(&file("/proc/self/stat")),
    }
}

fn file(path: &str) -> String {
    let mut text = String::new();
    if let Ok(file) = std::fs::File::open(path) {
        // What is unreadable is as good as absent.
        let _ = file.take(BYTES_MAX).read_to_string(&mut text);
    }
    text
}

fn number_behind(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The 14th and 15th member of `stat`, in ticks of a hundredth of a second, which Linux has told programs for ever.
fn cpu_seconds(stat: &str) -> f64 {
    // The name in the second member may hold spaces and brackets: what counts begins behind the last one.
    let members: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |i: usize| members.get(i).and_then(|m| m.parse::<u32>().ok()).unwrap_or(0);
    (f64::from(ticks(11)) + f64::from(ticks(12))) / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_sees_itself() {
        let now = look();
        assert!(now.resident_bytes > 1 << 20 && now.virtual_bytes >= now.resident_bytes, "{now:?}");
        assert!(now.open_fds > 2 && now.max_fds >= now.open_fds && now.threads > 0, "{now:?}");
    }

    #[test]
    fn a_strange_name_does_not_shift_the_figures() {
        let stat = "7 (a) b (c) R 1 1 1 0 -1 0 0 0 0 0 150 50 0 0 20 0";
        assert!((cpu_seconds(stat) - 2.0).abs() < 1e-9);
        assert!(cpu_seconds("").abs() < 1e-9);
    }
}
