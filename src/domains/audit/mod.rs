//! The forensic log: what happened, to whom, decided by what. One RFC 6962 Merkle tree for each tenant.
//!
//! An entry is written in the transaction of the change it records ([`append`]); nothing changes or removes it, save that
//! a tenant may have old ones erased: then only the hash of the leaf stays ([`erase_older`]), and the tree stands. What
//! the leaf hashes is canonical JSON in which personal data stands only as a salted commitment, so that an erasure does
//! not break a proof. Order is the sequence number, never the clock.
//!
//! The log is signed as it stands (`signing`) and read by outsiders as files and proofs (`tiles`, `serve`); docs/audit-log.md
//! is the published format, and `verify` checks it as an outsider does. `check` checks a data file from within.
//!
//! Knows nothing of HTTP, and nothing of what the other domains mean by their entries.

pub mod api;
mod check;
mod events;
mod list;
pub mod merkle;
mod model;
mod serve;
mod signing;
mod store;
pub mod tiles;
pub mod verify;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

pub use check::{TreeCheck, check_trees, check_trees_against};
pub use events::{Event, is_pattern, takes_in};
pub use list::{Filter, Page, entry_at, find_newest, first_since};
pub use model::{Action, Entry, NewEntry, ThreatLevel};
pub use serve::{Consistency, Inclusion};
pub use signing::{Restored, check_signer, last_checkpoints};
pub use store::{Posted, append, erase_older, posted, visit_events};

use crate::crypto::SealingKey;
use crate::crypto::note::Verifier;
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::{Clock, Error, Kind, Random, Refusal, Result, Timestamp, limits};
use crate::store::{Snapshot, Store};
use signing::{Signer, Signing};
use tiles::Tile;

/// Reads the log, and signs it.
#[derive(Clone)]
pub struct Audit {
    store: Store,
    clock: Clock,
    random: Random,
    signer: Arc<OnceLock<Signer>>,
    /// Whether a log was found that does not go on from what was signed of it.
    torn: Arc<AtomicBool>,
}

/// A name that a tenant's log is signed under.
#[derive(Clone, Debug)]
pub struct LogName {
    /// As it stands in checkpoints.
    pub origin: String,
    /// What its notes are checked with.
    pub verifier: Verifier,
    /// The first entry that was written under it.
    pub from_seq: u64,
}

/// A checkpoint that the witness has not seen.
pub struct Unwitnessed {
    /// Whose log.
    pub tenant: TenantId,
    number: u64,
    /// Entries.
    pub size: u64,
    /// The signed checkpoint.
    pub note: String,
    /// The size that the witness saw last, as far as is known here.
    pub seen: u64,
}

impl Audit {
    /// The log in this data file. It signs nothing before [`Self::settle`].
    pub fn new(store: Store, clock: Clock, random: Random) -> Self {
        Self { store, clock, random, signer: Arc::default(), torn: Arc::default() }
    }

    /// Makes the key of the log where there is none, takes over a new name, and begins new origins after a restore. Once,
    /// when the writer runs; blocks.
    ///
    /// # Errors
    /// When the key cannot be opened, or the store fails.
    pub fn settle(&self, sealing: Arc<SealingKey>, name: Option<String>) -> Result<()> {
        let (clock, random) = (self.clock.clone(), self.random.clone());
        let signer = self
            .store
            .write_blocking(move |tx| signing::settle(tx, &sealing, name.as_deref(), clock.now(), &random))?;
        self.signer.set(signer).map_err(|_| Error::internal("the key of the log was settled twice"))
    }

    fn signer(&self) -> Result<&Signer> {
        self.signer.get().ok_or_else(|| Error::internal("the key of the log is not there yet"))
    }

    /// What the appliance calls itself on notes.
    ///
    /// # Errors
    /// Before [`Self::settle`].
    pub fn name(&self) -> Result<&str> {
        Ok(&self.signer()?.name)
    }

    /// Entries of `tenant` below the sequence number `before`, newest first; those of one device when one is named.
    pub async fn list(
        &self,
        tenant: TenantId,
        device: Option<DeviceId>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Page> {
        self.search(tenant, Filter { device, ..Filter::default() }, before, limit).await
    }

    /// Entries of `tenant` that fit, below the sequence number `before`, newest first. A page may hold fewer than `limit`,
    /// or none, and still go on: it looks at a bounded number of entries.
    pub async fn search(&self, tenant: TenantId, filter: Filter, before: Option<u64>, limit: usize) -> Result<Page> {
        let limit = limit.clamp(1, limits::PAGE_MAX);
        self.store.read_with(move |snapshot| list::page(snapshot, tenant, &filter, before, limit)).await
    }

    /// The newest signed checkpoint.
    ///
    /// # Errors
    /// 404 `no_checkpoint` while nothing is signed yet.
    pub async fn checkpoint(&self, tenant: TenantId) -> Result<String> {
        let detail = "Nothing of this log is signed yet. Ask again in a minute, or have it signed with POST.";
        let none = || Refusal::new(Kind::NotFound, "no_checkpoint", detail).into();
        self.newest(tenant).await?.map(|(_, note)| note).ok_or_else(none)
    }

    async fn newest(&self, tenant: TenantId) -> Result<Option<(u64, String)>> {
        let this = self.clone();
        self.store.read_with(move |snapshot| this.newest_in(snapshot, tenant)).await
    }

    fn newest_in(&self, snapshot: &Snapshot, tenant: TenantId) -> Result<Option<(u64, String)>> {
        let (number, _) = signing::epoch(snapshot, self.signer()?, tenant)?;
        Ok(signing::latest(snapshot, tenant, number)?.map(|(size, row)| (size, row.note)))
    }

    /// Signs the log as it stands, if it has grown by more than the entry about the last checkpoint; says whether it did.
    pub async fn sign(&self, tenant: TenantId, origin: Origin) -> Result<bool> {
        let this = self.clone();
        let found = self.store.read_with(move |snapshot| signing::sign(snapshot, this.signer()?, tenant)).await?;
        let fresh = match found {
            Signing::Fresh(fresh) => fresh,
            Signing::UpToDate => return Ok(false),
            Signing::Torn(why) => {
                self.torn.store(true, Ordering::Relaxed);
                let advice = "somebody changed the data file; it is signed no more: `blockremote audit verify`";
                tracing::error!(%tenant, why, "the audit log was tampered with");
                return Err(Error::Internal(format!("the audit log of {tenant} was tampered with: {why}; {advice}")));
            }
        };
        let (clock, random) = (self.clock.clone(), self.random.clone());
        self.store.write(move |tx| signing::keep(tx, tenant, &fresh, &origin, clock.now(), &random)).await?;
        Ok(true)
    }

    /// Whether a log was found, since the start, that does not go on from what was signed of it.
    pub fn is_torn(&self) -> bool {
        self.torn.load(Ordering::Relaxed)
    }

    /// Whose logs there are, those of deleted tenants among them.
    pub async fn logs(&self) -> Result<Vec<TenantId>> {
        self.store.read_with(check::logs).await
    }

    /// The names that the tenant's log went by, the present one last.
    pub async fn names(&self, tenant: TenantId) -> Result<Vec<LogName>> {
        let this = self.clone();
        self.store
            .read_with(move |snapshot| {
                let signer = this.signer()?;
                let name = |epoch: signing::EpochRow| LogName {
                    verifier: signer.verifier(&epoch.origin),
                    origin: epoch.origin,
                    from_seq: epoch.from_seq,
                };
                Ok(signing::epochs(snapshot, signer, tenant)?.into_iter().map(name).collect())
            })
            .await
    }

    /// A tile or bundle of the tenant's log.
    ///
    /// # Errors
    /// 404 while the log is too short for it.
    pub async fn tile(&self, tenant: TenantId, tile: Tile) -> Result<Vec<u8>> {
        let found = self.store.read_with(move |snapshot| serve::tile(snapshot, tenant, tile)).await?;
        found.ok_or_else(|| Refusal::not_found().into())
    }

    /// Proves that entry `seq` is in the first `size` entries; those of the newest checkpoint when absent.
    pub async fn prove_inclusion(&self, tenant: TenantId, seq: u64, size: Option<u64>) -> Result<Inclusion> {
        let this = self.clone();
        self.store
            .read_with(move |snapshot| {
                let size = this.size_or_signed(snapshot, tenant, size)?;
                serve::inclusion(snapshot, tenant, seq, size)
            })
            .await
    }

    /// Proves that the first `to` entries (those of the newest checkpoint when absent) begin with the first `from`.
    pub async fn prove_consistency(&self, tenant: TenantId, from: u64, to: Option<u64>) -> Result<Consistency> {
        let this = self.clone();
        self.store
            .read_with(move |snapshot| {
                let to = this.size_or_signed(snapshot, tenant, to)?;
                serve::consistency(snapshot, tenant, from, to)
            })
            .await
    }

    fn size_or_signed(&self, snapshot: &Snapshot, tenant: TenantId, size: Option<u64>) -> Result<u64> {
        match size {
            Some(size) => Ok(size),
            None => Ok(self.newest_in(snapshot, tenant)?.map_or(0, |(size, _)| size)),
        }
    }

    /// The newest checkpoint, where the witness has not seen it.
    pub async fn unwitnessed(&self, tenant: TenantId) -> Result<Option<Unwitnessed>> {
        let this = self.clone();
        self.store
            .read_with(move |snapshot| {
                let (number, _) = signing::epoch(snapshot, this.signer()?, tenant)?;
                let newest = signing::latest(snapshot, tenant, number)?.filter(|(_, row)| !row.cosigned);
                let Some((size, row)) = newest else { return Ok(None) };
                let seen = signing::latest_cosigned(snapshot, tenant, number)?;
                Ok(Some(Unwitnessed { tenant, number, size, note: row.note, seen }))
            })
            .await
    }

    /// Adds the witness's line, which was checked, to the checkpoint.
    pub async fn witnessed(&self, checkpoint: &Unwitnessed, line: String) -> Result<()> {
        let (tenant, number, size) = (checkpoint.tenant, checkpoint.number, checkpoint.size);
        self.store.write(move |tx| signing::add_cosignature(tx, tenant, number, size, &line)).await
    }

    /// Hands over, file by file, what an outsider needs to check the tenant's log: names as below the log's prefix, and
    /// `key`, `checkpoints.ndjson` and `personal/...`. Gives the number of entries.
    ///
    /// # Errors
    /// 404 where nothing is signed yet; what `write` says.
    pub fn export(
        &self,
        snapshot: &Snapshot,
        tenant: TenantId,
        write: &mut dyn FnMut(&str, &[u8]) -> Result<()>,
    ) -> Result<u64> {
        let signer = self.signer()?;
        let (number, epoch) = signing::epoch(snapshot, signer, tenant)?;
        let (size, newest) = signing::latest(snapshot, tenant, number)?.ok_or_else(Refusal::not_found)?;
        write("key", format!("{}\n", signer.verifier(&epoch.origin)).as_bytes())?;
        write("checkpoints.ndjson", signing::history(snapshot, tenant, number)?.as_bytes())?;
        for tile in Tile::all(size) {
            let bytes = serve::tile(snapshot, tenant, tile)?.ok_or_else(|| Error::internal("a tile is missing"))?;
            write(&tile.to_string(), &bytes)?;
        }
        for bundle in Tile::covering(None, size) {
            let (from, to) = (bundle.first(), bundle.first() + bundle.width);
            let personal = serve::personal(snapshot, tenant, from, to)?;
            if !personal.is_empty() {
                let name = bundle.to_string().replacen("tile/entries/", "personal/", 1);
                write(&name, personal.as_bytes())?;
            }
        }
        // The last, so that a folder with a checkpoint is whole.
        write("checkpoint", newest.note.as_bytes())?;
        Ok(size)
    }
}

/// What a restored data file is told: see [`Restored`].
pub fn restored_note(made_at: Option<Timestamp>, known: Vec<(TenantId, String)>) -> Result<Vec<u8>> {
    serde_json::to_vec(&Restored { made_at, known }).map_err(Error::internal)
}
