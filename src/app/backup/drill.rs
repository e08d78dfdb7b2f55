//! A trial restore: a backup nobody ever restored is a hope.

use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::keep::{Kept, Owner};
use super::{Scratch, TRIAL, beside, restore};
use crate::crypto::SealingKey;
use crate::crypto::vault::PrivateKey;
use crate::domains::audit;
use crate::domains::devices::Device;
use crate::domains::iam::User;
use crate::domains::signals;
use crate::domains::signals::engine::Policy;
use crate::domains::tenants::Tenant;
use crate::kernel::clock::Stopwatch;
use crate::kernel::ids::{SignalId, TenantId};
use crate::kernel::{Error, Result, Timestamp};
use crate::store::backup::Pace;
use crate::store::tables::{DECISION_STATES, DEVICES, Key, SESSIONS, TENANTS, USERS};
use crate::store::{Snapshot, Store, codec};

/// What a trial restore found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Drilled {
    /// Which backup.
    pub file: PathBuf,
    /// When it was made, as far as it says.
    #[serde(default)]
    pub made_at: Option<Timestamp>,
    /// Rows that are in it.
    pub rows: u64,
    /// Entries of all logs, which are as they were signed.
    pub entries: u64,
    /// Signed checkpoints that agree with them.
    pub checkpoints: u64,
    /// Companies, people, devices and sessions that were read one by one.
    pub samples: u64,
    /// Recorded decisions that were recomputed.
    #[serde(default)]
    pub decisions: u64,
    /// How many of these came out the same. Others were made under another policy or version of the engine.
    #[serde(default)]
    pub same: u64,
    /// How long it took.
    pub took_ms: u64,
}

/// What a backup is tried with.
pub struct Trial<'t> {
    /// Which.
    pub backup: &'t Path,
    /// The data file: it is restored beside it.
    pub data: &'t Path,
    /// What opens it, where it is encrypted.
    pub identity: Option<&'t PrivateKey>,
    /// What opens the secrets of one in clear; an encrypted one brings its own.
    pub sealing: &'t SealingKey,
    /// What recorded decisions are recomputed under.
    pub policy: &'t Policy,
}

/// Rows of each of the sampled tables that are looked at.
const SAMPLED_MAX: u64 = 1_000;
/// The newest decisions of each company, which are recomputed.
const DECISIONS_MAX: usize = 20;

/// Restores a backup into a scratch file, asks it what an appliance would ask, and removes it again.
///
/// # Errors
/// Why it could not be restored, or what in it an appliance could not use.
pub fn drill(trial: &Trial<'_>, pace: &Pace) -> Result<Drilled> {
    let watch = Stopwatch::start();
    let scratch = Scratch(beside(trial.data, TRIAL));
    let (summary, manifest) = restore::unpack(trial.backup, &scratch.0, trial.identity, pace)?;
    let store = Store::look_gently(&scratch.0, pace).map_err(Error::internal)?;
    let snapshot = store.read()?;
    let trees = audit::check_trees(&snapshot)?;
    match &manifest {
        Some(manifest) => audit::check_signer(&snapshot, &manifest.key()?)?,
        None => audit::check_signer(&snapshot, trial.sealing)?,
    }
    let mut tenants = Vec::new();
    let samples = sample(&snapshot, &mut tenants)?;
    let (decisions, same) = recompute(&snapshot, &tenants, trial.policy)?;
    Ok(Drilled {
        file: trial.backup.to_owned(),
        made_at: manifest.map(|manifest| manifest.made_at),
        rows: summary.rows,
        entries: trees.iter().map(|tree| tree.size).sum(),
        checkpoints: trees.iter().map(|tree| tree.checkpoints).sum(),
        samples,
        decisions,
        same,
        took_ms: u64::try_from(watch.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

/// Reads rows that a restored appliance would need at once, as what they are.
fn sample(snapshot: &Snapshot, tenants: &mut Vec<TenantId>) -> Result<u64> {
    let mut seen = 0;
    let mut each = |table, read: &mut dyn FnMut(&[u8]) -> Result<()>| {
        let mut here = 0;
        let visited = snapshot.visit(table, &[], None, |_, value| {
            read(value)?;
            here += 1;
            Ok(here < SAMPLED_MAX)
        });
        seen += here;
        visited
    };
    each(TENANTS, &mut |value| {
        tenants.push(codec::decode::<Tenant>(value)?.id);
        Ok(())
    })?;
    each(USERS, &mut |value| codec::decode::<User>(value).map(drop))?;
    each(DEVICES, &mut |value| codec::decode::<Device>(value).map(drop))?;
    each(SESSIONS, &mut |value| {
        let read = codec::member_of::<IgnoredAny>(value);
        read.map(drop).ok_or_else(|| Error::internal("a restored session cannot be read"))
    })?;
    Ok(seen)
}

/// Recomputes the newest decisions that are stored with the state they met: how many, and how many came out the same.
fn recompute(snapshot: &Snapshot, tenants: &[TenantId], policy: &Policy) -> Result<(u64, u64)> {
    let mut signals_of = Vec::new();
    for tenant in tenants {
        let before = signals_of.len();
        snapshot.visit_back(DECISION_STATES, &Key::new().bytes(tenant.to_bytes()), None, |key, _| {
            let id = key.last_chunk::<16>().ok_or_else(|| Error::internal("a restored decision has a damaged key"))?;
            signals_of.push(SignalId::from_bytes(*id));
            Ok(signals_of.len() - before < DECISIONS_MAX)
        })?;
    }
    let mut same = 0;
    for signal in &signals_of {
        // One of another version of the engine cannot be recomputed, which is no fault of the backup.
        let again = signals::replay(snapshot, tenants, *signal, policy).ok().flatten();
        same += u64::from(again.is_some_and(|replayed| replayed.same()));
    }
    Ok((signals_of.len() as u64, same))
}

/// The newest backup of a folder that can be opened: without a key, the newest in clear.
///
/// # Errors
/// When the folder cannot be read, or holds none.
pub fn newest(owner: &Owner, folder: &Path, with_key: bool, now: Timestamp) -> Result<Kept> {
    let all = owner.list(folder, now).map_err(|e| Error::Internal(format!("{}: {e}", folder.display())))?;
    all.into_iter().find(|kept| with_key || !kept.encrypted).ok_or_else(|| {
        Error::Internal(format!(
            "{} holds no backup that can be opened here; set backup.drill_identity_file",
            folder.display()
        ))
    })
}
