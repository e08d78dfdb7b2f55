//! A person's way in.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use super::model::User;
use super::session::TokenPair;
use super::{Iam, model};
use crate::crypto::{Secret, password};
use crate::domains::audit::{self, Action, NewEntry, ThreatLevel};
use crate::domains::tenants;
use crate::kernel::context::Origin;
use crate::kernel::ids::{TenantId, UserId};
use crate::kernel::{Error, Kind, Refusal, Result};
use crate::store::tables::{Key, USER_NAMES};

/// What a person shows.
pub struct Credentials {
    /// Unique on the appliance; upper and lower case are the same.
    pub username: String,
    /// Never logged.
    pub password: Secret,
}

/// Who came in, and with what.
pub struct LoggedIn {
    /// The tokens.
    pub pair: TokenPair,
    /// The person.
    pub user: User,
}

/// Password checks take 50 ms and 19 MiB each: two at a time, a short queue, and no thread that heartbeats need.
pub(super) struct ArgonPool {
    running: Semaphore,
    waiting: AtomicUsize,
}

const RUNNING_MAX: usize = 2;
const WAITING_MAX: usize = 64;

impl Default for ArgonPool {
    fn default() -> Self {
        Self { running: Semaphore::new(RUNNING_MAX), waiting: AtomicUsize::new(0) }
    }
}

impl ArgonPool {
    /// Runs one password check.
    ///
    /// # Errors
    /// `overloaded` (503) when too many wait already.
    pub async fn run<T: Send + 'static>(&self, check: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            let detail = "Too many logins wait to be checked. Try again in a moment.";
            return Err(Refusal::new(Kind::Unavailable, "overloaded", detail).retry_after_s(2).into());
        }
        let permit = self.running.acquire().await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let _permit = permit.map_err(Error::internal)?;
        tokio::task::spawn_blocking(check).await.map_err(Error::internal)
    }
}

impl Iam {
    /// Logs a person in.
    ///
    /// # Errors
    /// 401 `invalid_credentials`: the same answer after the same work, whether the name or the password is wrong.
    pub async fn login(&self, credentials: Credentials, origin: Origin) -> Result<LoggedIn> {
        let name = credentials.username.to_lowercase();
        let found = self.inner.store.read_with(move |s| find_user(s, &name)).await?;
        let stored = found.as_ref().map(|u| u.password.clone());
        let password = credentials.password;
        let correct = self
            .inner
            .argon
            .run(move || match stored {
                Some(phc) => password::verify(&password, &phc),
                // An unknown name costs the same work, so that time does not tell names apart.
                None => password::verify_dummy(&password, &password::Params::default()),
            })
            .await?;
        let this = self.clone();
        let row = self
            .inner
            .store
            .write(move |tx| {
                let now = this.inner.clock.now();
                let user = match &found {
                    Some(user) => Self::load_user(tx, user.tenant, user.id)?,
                    None => None,
                };
                let Some(user) = user.filter(|u| correct && !u.disabled) else {
                    // An unknown name costs the same commit as a wrong password. It is not written down: people type
                    // passwords into that field.
                    let entry = NewEntry::new(Action::LoginFailed, &origin).level(ThreatLevel::Low);
                    let (tenant, entry) = match &found {
                        Some(user) => (Some(user.tenant), entry.user(user.id)),
                        None => (tenants::first(tx)?, entry.reason("unknown user name")),
                    };
                    if let Some(tenant) = tenant {
                        audit::append(tx, tenant, now, &this.inner.random, &entry)?;
                    }
                    return Ok(None);
                };
                let row = this.open_session(tx, user.tenant, user.id, None, &origin)?;
                let entry = NewEntry::new(Action::LoginSucceeded, &origin).user(user.id);
                audit::append(tx, user.tenant, now, &this.inner.random, &entry)?;
                Ok(Some((row, user)))
            })
            .await?;
        let (row, user) = row.ok_or_else(wrong)?;
        let access = self.mint_user(&user, row.id);
        Ok(LoggedIn { pair: self.pair(&row, row.family.generation, access), user })
    }
}

fn find_user(snapshot: &crate::store::Snapshot, name: &str) -> Result<Option<User>> {
    let Some(place) = snapshot.get_raw(USER_NAMES, Key::new().text(name))? else { return Ok(None) };
    let (Some(tenant), Some(user)) = (place.first_chunk::<16>(), place.last_chunk::<16>()) else { return Ok(None) };
    model::user(snapshot, TenantId::from_bytes(*tenant), UserId::from_bytes(*user))
}

fn wrong() -> Refusal {
    Refusal::new(Kind::Unauthenticated, "invalid_credentials", "The user name or the password is not right.")
}
