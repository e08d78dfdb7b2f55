//! Counters of callers. Bounded: idle counters are forgotten, and when a table is full it is swept first.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::lockout::Lockout;
use crate::crypto::sha256;
use crate::kernel::Timestamp;
use crate::kernel::network::network_of;
use crate::kernel::rate::{Decision, Quota, SlidingLog, SlidingWindow};

/// Callers that are counted at the same time.
const COUNTERS_MAX: usize = 100_000;

/// Requests a minute, by class.
#[derive(Clone, Copy, Debug)]
pub struct Quotas {
    /// Ordinary reads of one caller.
    pub read: u32,
    /// Ordinary writes of one caller.
    pub write: u32,
    /// Calls of one network without credentials.
    pub public: u32,
    /// Failed logins of one account from one network.
    pub login_failures: u32,
    /// Failed authentications of one network.
    pub auth_failures: u32,
    /// Sockets that one device opens.
    pub handshakes: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Who {
    Reads(u128),
    Writes(u128),
    Handshakes(u64),
    Public(IpAddr),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Failing {
    Authentication(IpAddr),
    Login { account: [u8; 32], network: Option<IpAddr> },
}

/// All counters but the devices' own.
pub struct Limiter {
    quotas: Quotas,
    counters: papaya::HashMap<Who, Arc<SlidingWindow>>,
    /// Limits on failures are small, and a person waits for them: exact to the moment.
    failures: papaya::HashMap<Failing, Arc<SlidingLog>>,
    lockout: Lockout,
}

impl Limiter {
    /// With these quotas.
    pub fn new(quotas: Quotas) -> Self {
        Self { quotas, counters: papaya::HashMap::new(), failures: papaya::HashMap::new(), lockout: Lockout::default() }
    }

    fn window(&self, who: Who, now: Timestamp) -> Arc<SlidingWindow> {
        let pinned = self.counters.pin();
        if let Some(window) = pinned.get(&who) {
            return Arc::clone(window);
        }
        if self.counters.len() >= COUNTERS_MAX {
            self.sweep(now);
        }
        Arc::clone(pinned.get_or_insert_with(who, Arc::default))
    }

    /// A read of the caller with this session.
    pub fn read(&self, caller: u128, now: Timestamp) -> Decision {
        self.window(Who::Reads(caller), now).admit(Quota::per_minute(self.quotas.read), now)
    }

    /// A write of the caller with this session.
    pub fn write(&self, caller: u128, now: Timestamp) -> Decision {
        self.window(Who::Writes(caller), now).admit(Quota::per_minute(self.quotas.write), now)
    }

    /// A call without credentials.
    pub fn public(&self, ip: IpAddr, now: Timestamp) -> Decision {
        self.window(Who::Public(network_of(ip)), now).admit(Quota::per_minute(self.quotas.public), now)
    }

    /// A socket of the device with this number.
    pub fn handshake(&self, device: u64, now: Timestamp) -> Decision {
        self.window(Who::Handshakes(device), now).admit(Quota::per_minute(self.quotas.handshakes), now)
    }

    fn log(&self, who: Failing, now: Timestamp) -> Arc<SlidingLog> {
        let pinned = self.failures.pin();
        if let Some(log) = pinned.get(&who) {
            return Arc::clone(log);
        }
        if self.failures.len() >= COUNTERS_MAX {
            self.sweep(now);
        }
        Arc::clone(pinned.get_or_insert_with(who, Arc::default))
    }

    /// Whether the network may still try credentials.
    pub fn auth_budget(&self, ip: IpAddr, now: Timestamp) -> Decision {
        let quota = Quota::per_minute(self.quotas.auth_failures);
        // A look does not make a log: only failures do.
        match self.failures.pin().get(&Failing::Authentication(network_of(ip))) {
            Some(log) => log.peek(quota, now),
            None => SlidingLog::default().peek(quota, now),
        }
    }

    /// Credentials from this network were bad.
    pub fn auth_failed(&self, ip: IpAddr, now: Timestamp) {
        let quota = Quota::per_minute(self.quotas.auth_failures);
        self.log(Failing::Authentication(network_of(ip)), now).admit(quota, now);
    }

    fn login_log(&self, account: &str, ip: Option<IpAddr>, now: Timestamp) -> Arc<SlidingLog> {
        self.log(Failing::Login { account: hash_of(account), network: ip.map(network_of) }, now)
    }

    /// Takes one try to log in to an account from a network before its password is checked, so that tries in parallel
    /// count, too. How it ended is told by one of the two below; a wrong one by neither.
    pub fn login_try(&self, account: &str, ip: Option<IpAddr>, now: Timestamp) -> Decision {
        let quota = Quota::per_minute(self.quotas.login_failures);
        let log = self.login_log(account, ip, now);
        let decision = log.admit(quota, now);
        if !decision.admitted {
            return decision;
        }
        let wait = self.lockout.admit(account, ip, now);
        if wait.is_zero() {
            return decision;
        }
        log.give_back();
        Decision {
            admitted: false,
            quota,
            remaining: 0,
            reset_s: wait.as_millis().div_ceil(1_000).try_into().unwrap_or(1),
        }
    }

    /// As [`Limiter::login_try`], for a proof within a session: who bears a session is no stranger, so the account as a
    /// whole is not asked. [`Limiter::proof_taken`] gives the try back.
    pub fn proof_try(&self, account: &str, ip: Option<IpAddr>, now: Timestamp) -> Decision {
        self.login_log(account, ip, now).admit(Quota::per_minute(self.quotas.login_failures), now)
    }

    /// The proof was no failure.
    pub fn proof_taken(&self, account: &str, ip: Option<IpAddr>, now: Timestamp) {
        self.login_log(account, ip, now).give_back();
    }

    /// The try opened the account.
    pub fn login_succeeded(&self, account: &str, ip: Option<IpAddr>, now: Timestamp) {
        self.login_log(account, ip, now).give_back();
        self.lockout.opened(account, ip, now);
    }

    /// The try was neither right nor wrong: nobody looked, or a second step is due.
    pub fn login_undecided(&self, account: &str, ip: Option<IpAddr>, now: Timestamp) {
        self.login_log(account, ip, now).give_back();
        self.lockout.give_back(account, now);
    }

    /// Forgets the failures of an account, from wherever they came: it has a new password.
    pub fn forget_failures(&self, account: &str) {
        let hash = hash_of(account);
        let is_its = |who: &Failing| matches!(who, Failing::Login { account, .. } if *account == hash);
        self.failures.pin().retain(|who, _| !is_its(who));
        self.lockout.forget(account);
    }

    /// Forgets counters that have nothing left to remember.
    pub fn sweep(&self, now: Timestamp) {
        // Every quota here is by the minute: two windows of silence empty any counter.
        let quota = Quota { limit: 1, window: Duration::from_secs(60) };
        self.counters.pin().retain(|_, window| !window.is_idle(quota, now));
        self.failures.pin().retain(|_, log| !log.is_idle(quota, now));
        self.lockout.sweep(now);
    }
}

/// Names have any length; a counter's key has one.
fn hash_of(account: &str) -> [u8; 32] {
    sha256(account.to_lowercase().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_password_frees_its_account_everywhere_and_nobody_else() {
        let quotas = Quotas { read: 1, write: 1, public: 1, login_failures: 1, auth_failures: 1, handshakes: 1 };
        let limiter = Limiter::new(quotas);
        let now = Timestamp::EPOCH;
        let ips = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse::<IpAddr>().ok());
        for ip in ips {
            for account in ["zoe", "max"] {
                assert!(limiter.login_try(account, ip, now).admitted);
                assert!(!limiter.login_try(account, ip, now).admitted);
            }
        }
        limiter.forget_failures("ZOE");
        for ip in ips {
            assert!(limiter.login_try("zoe", ip, now).admitted, "from {ip:?}");
            assert!(!limiter.login_try("max", ip, now).admitted, "from {ip:?}");
        }
    }
}
