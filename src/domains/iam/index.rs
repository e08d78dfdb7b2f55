//! Living sessions in memory: what every request asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};

use super::model::{EndCause, SessionRow};
use crate::kernel::ids::{DeviceId, SessionId, TenantId, UserId};
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
    ended: AtomicU8,
    last_used_ms: AtomicI64,
    absolute_expires_ms: i64,
}

impl SessionEntry {
    /// Why it is over, if it is.
    pub fn ended(&self) -> Option<EndCause> {
        match self.ended.load(Ordering::Acquire) {
            1 => Some(EndCause::LoggedOut),
            2 => Some(EndCause::Revoked),
            3 => Some(EndCause::Replaced),
            4 => Some(EndCause::RefreshReused),
            _ => None,
        }
    }

    fn end(&self, cause: EndCause) {
        let code = match cause {
            EndCause::LoggedOut => 1,
            EndCause::Revoked => 2,
            EndCause::Replaced => 3,
            EndCause::RefreshReused => 4,
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
                ended: AtomicU8::new(0),
                last_used_ms: AtomicI64::new(row.last_refresh_at.as_millis()),
                absolute_expires_ms: row.family.absolute_expires_at.as_millis(),
            })
        });
        if let Some((cause, _)) = row.ended {
            entry.end(cause);
        }
    }

    /// Forgets sessions whose families can never be refreshed again.
    pub fn sweep(&self, now: Timestamp) {
        self.sessions.pin().retain(|_, entry| entry.absolute_expires_ms > now.as_millis());
    }
}
