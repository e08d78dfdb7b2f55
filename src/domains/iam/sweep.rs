//! What is done from time to time, a little at a time: rows of deleted tenants are removed, entries of the log whose time
//! is over are erased, sessions that can never come back are forgotten.
//!
//! Everything here may be cut off at any moment: what is still to be done follows from the rows alone.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::Iam;
use super::model::SessionRow;
use super::session;
use crate::domains::{audit, tenants};
use crate::kernel::ids::{SessionId, TenantId};
use crate::kernel::rate::Quota;
use crate::kernel::{Clock, Result, Timestamp};
use crate::store::tables::{Key, SESSIONS, SESSIONS_BY_USER};
use crate::store::{codec, purge};

/// Rows that one commit removes, or looks at to remove them.
const PURGED_AT_ONCE: usize = 500;
/// A request that was let in before a deletion may write a moment after it. So the rows count as gone only after a pass
/// that began this long after the deletion.
const LAST_PASS_AFTER: Duration = Duration::from_secs(60);
/// Entries of one tenant that one sweep erases.
const ERASED_AT_ONCE: usize = 500;
/// How long the clock must have run evenly before the age of an entry is believed.
const CLOCK_STEADY_FOR: Duration = Duration::from_secs(3_600);
/// A clock that is corrected bit by bit stays within this in that time.
const CLOCK_DRIFT_MAX: Duration = Duration::from_secs(600);
/// A session's row is kept this long after the session can no longer be refreshed.
const SESSIONS_KEPT: Duration = Duration::from_secs(86_400);
/// Session rows that one sweep looks at.
const SESSIONS_SEEN_AT_ONCE: usize = 4_000;
/// Session rows that one sweep removes.
const SESSIONS_REMOVED_AT_ONCE: usize = 500;

/// What sweeps remember from one to the next; lost without harm.
pub(super) struct Sweeping {
    /// Somebody does not want to wait for the next sweep.
    pub wanted: Notify,
    /// Where the look through the sessions goes on.
    sessions_from: Mutex<Key>,
    /// What the clock said, and what had been lived through, when it was last believed to have been set.
    clock_set: Mutex<(Timestamp, Duration)>,
}

impl Sweeping {
    pub fn new(clock: &Clock) -> Self {
        let clock_set = Mutex::new((clock.now(), clock.lived()));
        Self { wanted: Notify::default(), sessions_from: Mutex::default(), clock_set }
    }

    /// Whether nobody has set the clock for a while. What is erased is gone for good, and a machine that starts with a wrong
    /// year is put right in its first minutes.
    fn clock_is_steady(&self, clock: &Clock) -> bool {
        let mut set = self.clock_set.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, lived) = (clock.now(), clock.lived());
        let expected = set.0.plus(lived.saturating_sub(set.1));
        if now.since(expected).max(expected.since(now)) > CLOCK_DRIFT_MAX {
            *set = (now, lived);
        }
        lived.saturating_sub(set.1) >= CLOCK_STEADY_FOR
    }
}

fn log(what: &str, outcome: Result<()>) {
    if let Err(e) = outcome {
        tracing::warn!(error = %e, what, "a sweep was cut short and will be tried again");
    }
}

impl Iam {
    /// Resolves when a sweep is due before its time.
    pub async fn sweep_wanted(&self) {
        self.inner.sweeping.wanted.notified().await;
    }

    /// Does what is to be done from time to time. What fails is logged and comes again with the next sweep.
    pub async fn sweep(&self) {
        self.sweep_memory();
        self.resume().await;
        log("erasing old entries of the log", self.erase_old_entries().await);
        log("removing expired sessions", self.remove_expired_sessions().await);
    }

    /// Goes on with deletions that the end of the last process cut off; at the start, when the rest of a sweep would only
    /// keep who reconnects waiting.
    pub async fn resume(&self) {
        log("removing the rows of deleted tenants", self.purge_deleted().await);
    }

    fn sweep_memory(&self) {
        let now = self.inner.clock.now();
        self.write_last_uses();
        self.inner.sessions.sweep(now);
        self.inner.challenges.sweep(now);
        let quota = Quota::per_minute(self.inner.settings.enroll_per_minute);
        self.inner.enroll_rates.pin().retain(|_, window| !window.is_idle(quota, now));
    }

    async fn purge_deleted(&self) -> Result<()> {
        for (tenant, deleted_at) in self.inner.store.read_with(tenants::going).await? {
            let last = self.inner.clock.now() >= deleted_at.plus(LAST_PASS_AFTER);
            let mut place = Some(purge::Place::default());
            while let Some(from) = place {
                let step = move |tx: &mut crate::store::Tx<'_>| purge::step(tx, tenant, &from, PURGED_AT_ONCE);
                place = self.inner.store.write(step).await?;
            }
            if last {
                let this = self.clone();
                let mark = move |tx: &mut crate::store::Tx<'_>| {
                    let this = this.clone();
                    tx.after_commit(move || this.forget_tenant(tenant));
                    tenants::mark_purged(tx, tenant)
                };
                self.inner.store.write(mark).await?;
            }
        }
        Ok(())
    }

    async fn erase_old_entries(&self) -> Result<()> {
        const DAY: Duration = Duration::from_secs(86_400);
        if !self.inner.sweeping.clock_is_steady(&self.inner.clock) {
            return Ok(());
        }
        for (tenant, days) in self.inner.store.read_with(tenants::with_audit_retention).await? {
            let before = self.inner.clock.now().minus(DAY * days);
            self.inner.store.write(move |tx| audit::erase_older(tx, tenant, before, ERASED_AT_ONCE)).await?;
        }
        Ok(())
    }

    async fn remove_expired_sessions(&self) -> Result<()> {
        let place = &self.inner.sweeping.sessions_from;
        let from = place.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let oldest_kept = self.inner.clock.now().minus(SESSIONS_KEPT);
        let is_over = move |row: &SessionRow| row.family.absolute_expires_at < oldest_kept;
        let (expired, next) = self
            .inner
            .store
            .read_with(move |snapshot| {
                let mut expired: Vec<(TenantId, SessionId)> = Vec::new();
                let (mut seen, mut next) = (0, Key::new());
                snapshot.visit(SESSIONS, from.as_ref(), None, |key, value| {
                    let row: SessionRow = codec::decode(value)?;
                    if is_over(&row) {
                        expired.push((row.tenant, row.id));
                    }
                    seen += 1;
                    let go_on = seen < SESSIONS_SEEN_AT_ONCE && expired.len() < SESSIONS_REMOVED_AT_ONCE;
                    if !go_on {
                        next = Key::new().bytes(key).byte(0);
                    }
                    Ok(go_on)
                })?;
                Ok((expired, next))
            })
            .await?;
        if !expired.is_empty() {
            self.inner
                .store
                .write(move |tx| {
                    for (tenant, id) in &expired {
                        let row: Option<SessionRow> = tx.get(SESSIONS, session::key(*tenant, *id))?;
                        let Some(row) = row.filter(is_over) else { continue };
                        tx.delete(SESSIONS, session::key(*tenant, *id))?;
                        tx.delete(SESSIONS_BY_USER, session::user_key(*tenant, row.user).bytes(id.to_bytes()))?;
                    }
                    Ok(())
                })
                .await?;
        }
        *place.lock().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
}
