//! The schema's version and the steps from each to the next.

use std::path::Path;

use redb::{Database, ReadableDatabase};

use super::OpenError;
use super::tables::{ALL, Key, META, trailing_number};

/// What this program reads and writes.
pub const SCHEMA_VERSION: u64 = 1;
const SCHEMA_KEY: &str = "schema_version";
/// META: every journal block up to this number is folded into the stored rings.
pub const JOURNAL_FOLDED_THROUGH: &str = "journal_folded_through";

/// META: raw JSON, what a restore noted for the next start; absent once that start has seen it.
pub const RESTORED: &str = "restored";

/// One step, from the version that is its place in the list (counted from 1) to the next.
type Step = fn(&redb::WriteTransaction) -> Result<(), redb::Error>;
const STEPS: &[Step] = &[];

/// Brings a data file to [`SCHEMA_VERSION`] in one commit, or refuses a newer one without touching it.
pub(super) fn run(db: &Database, path: &Path) -> Result<(), OpenError> {
    let failed = |e: redb::Error| OpenError::Failed { path: path.to_owned(), cause: e.to_string() };
    let found = version(db).map_err(failed)?;
    match found {
        Some(v) if v > SCHEMA_VERSION => {
            return Err(OpenError::TooNew { path: path.to_owned(), found: v, known: SCHEMA_VERSION });
        }
        Some(SCHEMA_VERSION) => return Ok(()),
        _ => {}
    }
    let upgrade = || -> Result<(), redb::Error> {
        let mut txn = db.begin_write()?;
        txn.set_two_phase_commit(true);
        for table in ALL {
            txn.open_table(*table)?;
        }
        if let Some(from) = found {
            let done = usize::try_from(from).unwrap_or(usize::MAX).saturating_sub(1);
            for step in STEPS.iter().skip(done) {
                step(&txn)?;
            }
        }
        txn.open_table(META)?.insert(Key::new().text(SCHEMA_KEY).as_ref(), SCHEMA_VERSION.to_be_bytes().as_slice())?;
        txn.commit()?;
        Ok(())
    };
    upgrade().map_err(failed)
}

fn version(db: &Database) -> Result<Option<u64>, redb::Error> {
    let txn = db.begin_read()?;
    match txn.open_table(META) {
        Ok(meta) => Ok(meta.get(Key::new().text(SCHEMA_KEY).as_ref())?.and_then(|v| trailing_number(v.value()))),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(e) => Err(e.into()),
    }
}
