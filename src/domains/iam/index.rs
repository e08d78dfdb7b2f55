//! Living sessions in memory: what every request asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::time::Duration;

use super::model::{Binding, EndCause, SessionRow};
use crate::kernel::ids::{DeviceId, SessionId, TenantId, UserId};
use crate::kernel::rate::SlidingWindow;
use crate::kernel::{Result, Timestamp};
use crate::store::Snapshot;
use crate::store::tables::SESSIONS;

/// The live side of one session.
pub struct SessionEntry {
    /// `ses_...`
    pub id: SessionId,
    /// Where it belongs.
    pub tenant: TenantId,
    /// Whose it is, or who owns its device.
    pub user: UserId,
    /// The device that holds it; `None` for a person.
    pub device: Option<DeviceId>,
    /// The key that its tokens are bound to.
    pub binding: Option<Binding>,
    /// Refresh tokens of it that were presented in the last minute.
    pub(super) refreshes: SlidingWindow,
    ended: AtomicU8,
    last_used_ms: AtomicI64,
    authenticated_ms: AtomicI64,
    second_factor_ms: AtomicI64,
    absolute_expires_ms: i64,
}

/// How long a proof of who somebody is counts as fresh.
pub const FRESH: Duration = Duration::from_secs(5 * 60);
const NEVER: i64 = i64::MIN;

fn is_fresh(at_ms: i64, now: Timestamp) -> bool {
    let age_ms = now.as_millis().saturating_sub(at_ms);
    // A moment from the future means that the clock was set back: that proof counts no more.
    at_ms != NEVER && (0..=i64::try_from(FRESH.as_millis()).unwrap_or(0)).contains(&age_ms)
}

impl SessionEntry {
    /// The thumbprint of the key that its tokens are bound to by DPoP.
    pub fn dpop_key(&self) -> Option<&str> {
        match self.binding.as_ref()? {
            Binding::Dpop(thumbprint) => Some(thumbprint),
            Binding::Certificate(_) => None,
        }
    }

    /// Why it is over, if it is.
    pub fn ended(&self) -> Option<EndCause> {
        match self.ended.load(Ordering::Acquire) {
            1 => Some(EndCause::LoggedOut),
            2 => Some(EndCause::Revoked),
            3 => Some(EndCause::Replaced),
            4 => Some(EndCause::RefreshReused),
            5 => Some(EndCause::DeviceRemoved),
            _ => None,
        }
    }

    fn end(&self, cause: EndCause) {
        let code = match cause {
            EndCause::LoggedOut => 1,
            EndCause::Revoked => 2,
            EndCause::Replaced => 3,
            EndCause::RefreshReused => 4,
            EndCause::DeviceRemoved => 5,
        };
        self.ended.store(code, Ordering::Release);
    }

    /// Remembers that it was used; telemetry, to the second.
    pub fn touch(&self, now: Timestamp) {
        let ms = now.as_millis();
        if ms - self.last_used_ms.load(Ordering::Relaxed) >= 1_000 {
            self.last_used_ms.store(ms, Ordering::Relaxed);
        }
    }

    /// Whether its holder proved who they are, by whatever means, within the last five minutes.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        is_fresh(self.authenticated_ms.load(Ordering::Acquire), now)
    }

    /// Whether its holder showed a second factor within the last five minutes.
    pub fn has_fresh_second_factor(&self, now: Timestamp) -> bool {
        is_fresh(self.second_factor_ms.load(Ordering::Acquire), now)
    }

    /// When it was last used, to the second.
    pub fn last_used(&self) -> Timestamp {
        Timestamp::from_millis(self.last_used_ms.load(Ordering::Relaxed))
    }
}

#[derive(Default)]
pub(super) struct Index {
    sessions: papaya::HashMap<SessionId, Arc<SessionEntry>>,
}

impl Index {
    pub fn rebuild(&self, snapshot: &Snapshot, now: Timestamp) -> Result<()> {
        snapshot.rows::<SessionRow>(SESSIONS, |_, row| {
            if row.family.absolute_expires_at > now {
                self.apply(&row);
            }
            Ok(())
        })
    }

    pub fn get(&self, id: SessionId) -> Option<Arc<SessionEntry>> {
        self.sessions.pin().get(&id).cloned()
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Only the writer calls this after start-up.
    pub fn apply(&self, row: &SessionRow) {
        let pinned = self.sessions.pin();
        let entry = pinned.get_or_insert_with(row.id, || {
            Arc::new(SessionEntry {
                id: row.id,
                tenant: row.tenant,
                user: row.user,
                device: row.device.clone(),
                binding: row.binding.clone(),
                refreshes: SlidingWindow::default(),
                ended: AtomicU8::new(0),
                authenticated_ms: AtomicI64::new(NEVER),
                second_factor_ms: AtomicI64::new(NEVER),
                last_used_ms: AtomicI64::new(row.last_refresh_at.as_millis()),
                absolute_expires_ms: row.family.absolute_expires_at.as_millis(),
            })
        });
        let ms = |at: Option<Timestamp>| at.map_or(NEVER, Timestamp::as_millis);
        entry.authenticated_ms.store(ms(row.authenticated_at), Ordering::Release);
        entry.second_factor_ms.store(ms(row.second_factor_at), Ordering::Release);
        if let Some((cause, _)) = row.ended {
            entry.end(cause);
        }
    }

    /// Forgets every session of a tenant; who still holds an entry finds it ended.
    pub fn remove_tenant(&self, tenant: TenantId) {
        let pinned = self.sessions.pin();
        for entry in pinned.values().filter(|s| s.tenant == tenant) {
            entry.end(EndCause::Revoked);
        }
        pinned.retain(|_, entry| entry.tenant != tenant);
    }

    /// Forgets sessions whose families can never be refreshed again.
    pub fn sweep(&self, now: Timestamp) {
        self.sessions.pin().retain(|_, entry| entry.absolute_expires_ms > now.as_millis());
    }
}
