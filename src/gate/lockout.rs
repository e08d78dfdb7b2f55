//! Growing delays for accounts whose password is guessed at, from whatever addresses.
//!
//! Ten wrong passwords in a row are free; from then on each one doubles the wait, up to a quarter of an hour. A network
//! from which the account was opened within the last thirty days does not wait: a stranger who guesses must not lock the
//! owner out. Names that nobody bears are treated as those that somebody bears, so that the delay tells nothing.
//!
//! In memory and bounded: a restart forgets the delays, which a guesser cannot bring about. Knows no passwords, no users.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::crypto::sha256;
use crate::kernel::Timestamp;
use crate::kernel::network::network_of;

/// Wrong passwords in a row that nobody waits for.
const FREE: u32 = 10;
const DELAY_FIRST: Duration = Duration::from_secs(2);
const DELAY_MAX: Duration = Duration::from_secs(15 * 60);
/// How long a network counts as the account's own after it was opened from there.
const KNOWN_FOR: Duration = Duration::from_secs(30 * 86_400);
/// Networks that are remembered of one account; the one that was used longest ago goes first.
const KNOWN_MAX: usize = 16;
/// Failures are forgotten after this much silence.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3_600);
/// Accounts that are remembered. A guesser of names fills it with names; those that nobody waits for go first.
const ACCOUNTS_MAX: usize = 100_000;

#[derive(Default)]
struct Account {
    failures: u32,
    last_failed_ms: i64,
    known: Vec<(IpAddr, i64)>,
}

impl Account {
    fn knows(&self, network: IpAddr, now: Timestamp) -> bool {
        let fresh = |at_ms: i64| now.since(Timestamp::from_millis(at_ms)) < KNOWN_FOR;
        self.known.iter().any(|(known, at_ms)| *known == network && fresh(*at_ms))
    }

    fn wait(&self, now: Timestamp) -> Duration {
        let Some(over) = self.failures.checked_sub(FREE) else { return Duration::ZERO };
        let delay = DELAY_FIRST.saturating_mul(1_u32.checked_shl(over).unwrap_or(u32::MAX)).min(DELAY_MAX);
        let since = now.since(Timestamp::from_millis(self.last_failed_ms));
        delay.saturating_sub(since)
    }

    fn is_idle(&self, now: Timestamp) -> bool {
        let quiet = self.failures == 0 || now.since(Timestamp::from_millis(self.last_failed_ms)) > FORGET_AFTER;
        quiet && !self.known.iter().any(|(network, _)| self.knows(*network, now))
    }
}

/// The delays of all accounts.
#[derive(Default)]
pub(super) struct Lockout {
    accounts: papaya::HashMap<[u8; 32], Arc<Mutex<Account>>>,
}

impl Lockout {
    fn account(&self, name: &str, now: Timestamp) -> Option<Arc<Mutex<Account>>> {
        let key = sha256(name.to_lowercase().as_bytes());
        let pinned = self.accounts.pin();
        if let Some(account) = pinned.get(&key) {
            return Some(Arc::clone(account));
        }
        if self.accounts.len() >= ACCOUNTS_MAX {
            self.sweep(now);
        }
        // A table full of accounts that wait is an attack on names; the limits by address go on holding.
        (self.accounts.len() < ACCOUNTS_MAX).then(|| Arc::clone(pinned.get_or_insert_with(key, Arc::default)))
    }

    fn with<T>(account: &Mutex<Account>, f: impl FnOnce(&mut Account) -> T) -> T {
        f(&mut account.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes one try, before the password is looked at, so that tries in parallel count, too. Says how long to wait
    /// instead when it is too soon; zero: go on.
    pub fn admit(&self, name: &str, ip: Option<IpAddr>, now: Timestamp) -> Duration {
        let (Some(account), network) = (self.account(name, now), ip.map(network_of)) else { return Duration::ZERO };
        Self::with(&account, |account| {
            if network.is_some_and(|network| account.knows(network, now)) {
                return Duration::ZERO;
            }
            let wait = account.wait(now);
            if wait.is_zero() {
                account.failures = account.failures.saturating_add(1);
                account.last_failed_ms = now.as_millis();
            }
            wait
        })
    }

    /// The try opened the account: its failures are forgotten, and its network is known from now on.
    pub fn opened(&self, name: &str, ip: Option<IpAddr>, now: Timestamp) {
        let Some(account) = self.account(name, now) else { return };
        Self::with(&account, |account| {
            account.failures = 0;
            let Some(network) = ip.map(network_of) else { return };
            account.known.retain(|(known, _)| *known != network);
            if account.known.len() >= KNOWN_MAX {
                account.known.remove(0);
            }
            account.known.push((network, now.as_millis()));
        });
    }

    /// The try was neither right nor wrong: nobody looked.
    pub fn give_back(&self, name: &str, now: Timestamp) {
        if let Some(account) = self.account(name, now) {
            Self::with(&account, |account| account.failures = account.failures.saturating_sub(1));
        }
    }

    /// Forgets an account: it has a new password.
    pub fn forget(&self, name: &str) {
        self.accounts.pin().remove(&sha256(name.to_lowercase().as_bytes()));
    }

    /// Forgets accounts with nothing left to remember.
    pub fn sweep(&self, now: Timestamp) {
        self.accounts.pin().retain(|_, account| !Self::with(account, |a| a.is_idle(now)));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000 + s * 1_000)
    }

    fn from(n: u8) -> Option<IpAddr> {
        Some(IpAddr::from([203, 0, 113, n]))
    }

    #[test]
    fn ten_wrong_passwords_are_free_and_then_each_doubles_the_wait() {
        let lockout = Lockout::default();
        for n in 0..10 {
            assert!(lockout.admit("Admin", from(n), at(0)).is_zero(), "{n}");
        }
        let mut now = 0;
        for expected_s in [2_i64, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900] {
            let wait = lockout.admit("admin", from(200), at(now));
            assert_eq!(
                i64::try_from(wait.as_secs()).unwrap(),
                expected_s,
                "whatever the address and the case of the name"
            );
            now += expected_s;
            assert!(lockout.admit("admin", from(201), at(now)).is_zero());
        }
        assert!(lockout.admit("other", from(200), at(0)).is_zero());
    }

    #[test]
    fn a_guesser_does_not_lock_the_owner_out() {
        let lockout = Lockout::default();
        lockout.opened("admin", from(1), at(0));
        for n in 10..30 {
            lockout.admit("admin", from(n), at(60));
        }
        assert!(!lockout.admit("admin", from(40), at(60)).is_zero(), "a stranger waits");
        assert!(lockout.admit("admin", from(1), at(60)).is_zero(), "the owner does not");
        lockout.opened("admin", from(1), at(61));
        assert!(lockout.admit("admin", from(40), at(62)).is_zero(), "the owner's login forgets the failures");
        let later = 61 + i64::try_from(KNOWN_FOR.as_secs()).unwrap();
        for n in 10..30 {
            lockout.admit("admin", from(n), at(later));
        }
        assert!(!lockout.admit("admin", from(1), at(later)).is_zero(), "a month later the network is a stranger's");
    }

    #[test]
    fn tries_in_parallel_count_before_anybody_knows_how_they_end() {
        let lockout = Arc::new(Lockout::default());
        let tries = (0..64).map(|n| {
            let lockout = Arc::clone(&lockout);
            std::thread::spawn(move || lockout.admit("admin", from(n), at(0)).is_zero())
        });
        let admitted = tries.collect::<Vec<_>>().into_iter().filter_map(|t| t.join().ok()).filter(|a| *a).count();
        assert_eq!(admitted, 10);
        lockout.give_back("admin", at(0));
        assert!(lockout.admit("admin", from(1), at(0)).is_zero(), "what nobody looked at is no failure");
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let lockout = Lockout::default();
        lockout.admit("a", from(1), at(0));
        lockout.opened("b", from(1), at(0));
        lockout.sweep(at(60));
        assert_eq!(lockout.accounts.len(), 2);
        lockout.sweep(at(31 * 86_400));
        assert_eq!(lockout.accounts.len(), 0);
    }
}
