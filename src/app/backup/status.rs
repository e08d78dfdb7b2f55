//! What is remembered of backups over restarts, and what it comes to.

use serde::{Deserialize, Serialize};

use super::Made;
use super::drill::Drilled;
use super::due::Marks;
use crate::kernel::{Result, Timestamp};
use crate::store::tables::{Key, META};
use crate::store::{Row, Snapshot, Store, Tx};

/// What is remembered over restarts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Since when backups are made by themselves.
    pub since: Option<Timestamp>,
    /// The last backup, and when it was made.
    pub last: Option<(Timestamp, Made)>,
    /// The last trial that passed.
    pub drilled: Option<(Timestamp, Drilled)>,
    /// The last backup that failed, until the next success, and when it was.
    pub failed: Option<(Timestamp, String)>,
    /// The last trial that failed, until the next one that passes, and when it was.
    #[serde(default)]
    pub drill_failed: Option<(Timestamp, String)>,
    /// The last alarm.
    pub alarmed: Option<Timestamp>,
}
impl Row for Status {}

fn place() -> Key {
    Key::new().text("backup_status")
}

impl Status {
    /// When what happened, for the rules; `started` is for the process that makes the backups.
    pub fn marks(&self, started: Option<Timestamp>) -> Marks {
        Marks {
            since: self.since,
            made: self.last.as_ref().map(|(at, _)| *at),
            tried: self.drilled.as_ref().map(|(at, _)| *at),
            failed: self.failed.as_ref().map(|(at, _)| *at),
            trial_failed: self.drill_failed.as_ref().map(|(at, _)| *at),
            alarmed: self.alarmed,
            started,
        }
    }

    /// What went wrong last, the backup before the trial; `None` when nothing did.
    pub fn failure(&self) -> Option<&(Timestamp, String)> {
        self.failed.as_ref().or(self.drill_failed.as_ref())
    }

    pub(super) fn read(snapshot: &Snapshot) -> Result<Self> {
        Ok(snapshot.get(META, place())?.unwrap_or_default())
    }

    pub(super) fn change(tx: &mut Tx<'_>, change: impl Fn(&mut Self)) -> Result<()> {
        let mut status: Self = tx.get(META, place())?.unwrap_or_default();
        change(&mut status);
        tx.put(META, place(), &status)
    }
}

/// What the data file says of its backups.
///
/// # Errors
/// When it cannot be read.
pub async fn status(store: &Store) -> Result<Status> {
    store.read_with(Status::read).await
}
