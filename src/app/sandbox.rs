//! What the running appliance gives up for good: writing outside of its folders and running programs (Landlock), and the
//! system calls that it does not need (seccomp). Both hold for every thread that is started afterwards, and neither
//! needs a privilege. Where the kernel has not got them, the log says so and the appliance runs without.
//!
//! Reading is not narrowed here: operators name files to import from anywhere, and file permissions decide.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, LandlockStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, path_beneath_rules,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::config::Config;
use crate::kernel::{Error, Result};

/// What came of it, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// In force.
    Enforced,
    /// In part: the kernel is older than what was asked.
    Partly,
    /// Switched off by the configuration.
    Off,
    /// The kernel has not got it.
    Absent,
}

/// Folders that the running appliance writes to. The working directory is among them, since paths that an operator gives
/// count from there, unless it is the root of everything.
fn write_folders(config: &Config) -> Vec<PathBuf> {
    let data = config.paths.data.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let here = std::env::current_dir().ok().filter(|here| here.parent().is_some());
    let backups = Path::new("/var/backups/blockremote");
    let mut folders = vec![data.to_owned(), config.paths.certs.clone(), backups.to_owned()];
    folders.extend(here);
    folders.extend(config.backup.directory.clone());
    folders.extend(config.machine.sandbox.write_folder.clone());
    folders.retain(|folder| folder.is_dir());
    folders
}

/// Gives up writing outside of the appliance's folders, and running any program.
///
/// # Errors
/// When the kernel has Landlock and refuses these rules.
pub fn restrict_files(config: &Config) -> Result<Outcome> {
    if !config.machine.sandbox.landlock {
        return Ok(Outcome::Off);
    }
    let all = AccessFs::from_all(ABI::V5);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let restricted = Ruleset::default()
        .handle_access(all)
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rules(path_beneath_rules(["/"], read)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(write_folders(config), all & !AccessFs::Execute)))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(|e| Error::Internal(format!("Landlock could not be applied: {e}; set sandbox.landlock = false")))?;
    Ok(match (restricted.landlock, restricted.ruleset) {
        (LandlockStatus::NotEnabled | LandlockStatus::NotImplemented, _) | (_, RulesetStatus::NotEnforced) => {
            Outcome::Absent
        }
        (_, RulesetStatus::PartiallyEnforced) => Outcome::Partly,
        (_, RulesetStatus::FullyEnforced) => Outcome::Enforced,
    })
}

/// Files: the data file, certificates, feeds.
const FILES: &[i64] = &[
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fadvise64,
    libc::SYS_flock,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_getdents64,
    libc::SYS_unlinkat,
    libc::SYS_mkdirat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_utimensat,
    libc::SYS_umask,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
];
/// Memory.
const MEMORY: &[i64] = &[
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_mincore,
    libc::SYS_membarrier,
];
/// Threads, signals, and leaving.
const THREADS: &[i64] = &[
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_tgkill,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getpriority,
    libc::SYS_setpriority,
    libc::SYS_prlimit64,
    libc::SYS_prctl,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getrusage,
];
/// Connections, and waiting for them.
const NETWORK: &[i64] = &[
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_pipe2,
];
/// Time, chance, and who one is.
const FACTS: &[i64] = &[
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
];
/// Older forms of the above that the C library still uses where the machine has them.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_unlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_rename,
    libc::SYS_link,
    libc::SYS_chmod,
    libc::SYS_readlink,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_pipe,
    libc::SYS_dup2,
    libc::SYS_arch_prctl,
    libc::SYS_time,
    libc::SYS_getrlimit,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// Families that a socket may be of: IP, the local socket and the supervisor's, and the list of own addresses.
const FAMILIES: &[i32] = &[libc::AF_INET, libc::AF_INET6, libc::AF_UNIX, libc::AF_NETLINK];

/// The filter, as the kernel takes it. Whatever is not on the lists fails with `EPERM`.
fn program() -> std::result::Result<BpfProgram, Box<dyn std::error::Error>> {
    let lists = [FILES, MEMORY, THREADS, NETWORK, FACTS, OLDER];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        lists.concat().into_iter().map(|call| (call, Vec::new())).collect();
    let mut families = Vec::new();
    for family in FAMILIES {
        let value = u64::try_from(*family)?;
        let is = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
        families.push(SeccompRule::new(vec![is])?);
    }
    rules.insert(libc::SYS_socket, families);
    let refused = SeccompAction::Errno(u32::try_from(libc::EPERM)?);
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?;
    Ok(filter.try_into()?)
}

/// Gives up every system call that is not on the lists.
///
/// # Errors
/// When the filter cannot be built: a defect of the lists.
pub fn restrict_calls(config: &Config) -> Result<Outcome> {
    if !config.machine.sandbox.seccomp {
        return Ok(Outcome::Off);
    }
    let program = program().map_err(|e| Error::Internal(format!("the list of system calls is wrong: {e}")))?;
    match seccompiler::apply_filter(&program) {
        Ok(()) => Ok(Outcome::Enforced),
        Err(e) => {
            tracing::debug!(error = %e, "seccomp could not be applied");
            Ok(Outcome::Absent)
        }
    }
}

/// Applies both and says so.
///
/// # Errors
/// As [`restrict_files`] and [`restrict_calls`].
pub fn enter(config: &Config) -> Result<GivenUp> {
    Ok(GivenUp { files: restrict_files(config)?, calls: restrict_calls(config)? })
}

/// What came of both.
#[derive(Clone, Copy, Debug)]
pub struct GivenUp {
    files: Outcome,
    calls: Outcome,
}

impl GivenUp {
    /// Says it in the log, which may only start afterwards, since it has a thread.
    pub fn note(self) {
        let Self { files, calls } = self;
        if [files, calls].contains(&Outcome::Absent) {
            tracing::warn!(landlock = ?files, seccomp = ?calls, "this kernel cannot hold the appliance to its rights");
        } else {
            tracing::info!(landlock = ?files, seccomp = ?calls, "rights that are not needed were given up");
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// On a thread of its own: the rest of the tests keep their rights.
    fn confined(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().unwrap();
    }

    fn config(folder: &Path) -> Config {
        let mut config = Config::default();
        config.paths.data = folder.join("data/x.redb");
        config.paths.certs = folder.join("certs");
        std::fs::create_dir_all(folder.join("data")).unwrap();
        std::fs::create_dir_all(folder.join("certs")).unwrap();
        config
    }

    #[test]
    fn confined_it_writes_its_own_folders_reads_others_and_runs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let (own, other) = (folder.path().join("data/new"), outside.path().join("new"));
        std::fs::write(outside.path().join("readable"), "x").unwrap();
        confined(move || {
            if restrict_files(&config).unwrap() == Outcome::Absent {
                return;
            }
            std::fs::write(&own, "x").unwrap();
            std::fs::rename(&own, own.with_extension("moved")).unwrap();
            let refused = std::fs::write(&other, "x").unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
            assert_eq!(std::fs::read_to_string(other.with_file_name("readable")).unwrap(), "x");
            assert!(std::process::Command::new("/bin/true").status().is_err(), "no program runs");
        });
        assert!(!outside.path().join("new").exists());
    }

    #[test]
    fn confined_it_makes_no_call_that_is_not_on_the_lists() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let file = folder.path().join("data/new");
        confined(move || {
            if restrict_calls(&config).unwrap() == Outcome::Absent {
                return;
            }
            std::fs::write(&file, "x").unwrap();
            std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            std::thread::spawn(|| {}).join().unwrap();
            let refused = rustix::process::chroot("/").unwrap_err();
            assert_eq!(refused, rustix::io::Errno::PERM);
            assert!(std::process::Command::new("/bin/true").status().is_err(), "no program runs");
            assert!(std::os::unix::fs::symlink("a", file.with_extension("link")).is_err());
        });
    }

    #[test]
    fn switched_off_nothing_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        (config.machine.sandbox.landlock, config.machine.sandbox.seccomp) = (false, false);
        assert_eq!(restrict_files(&config).unwrap(), Outcome::Off);
        assert_eq!(restrict_calls(&config).unwrap(), Outcome::Off);
    }
}
