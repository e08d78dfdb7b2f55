//! The forensic log: what happened, to whom, decided by what. One RFC 6962 Merkle tree for each tenant.
//!
//! An entry is written in the transaction of the change it records ([`append`]); nothing changes or removes it, save that
//! a tenant may have old ones erased: then only the hash of the leaf stays ([`erase_older`]), and the tree stands. What
//! the leaf hashes is canonical JSON in which personal data stands only as a salted commitment, so that an erasure does
//! not break a proof. Order is the sequence number, never the clock.
//!
//! Knows nothing of HTTP, and nothing of what the other domains mean by their entries.

pub mod api;
mod events;
pub mod merkle;
mod model;
mod store;

pub use events::{Event, is_pattern, takes_in};
pub use model::{Action, Entry, NewEntry, ThreatLevel};
pub use store::{
    Posted, TreeCheck, append, check_trees, entry_at, erase_older, find_newest, first_since, posted, visit_events,
};

use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::{Result, limits};
use crate::store::Store;

/// One page of entries, newest first.
pub struct Page {
    /// The entries.
    pub entries: Vec<Entry>,
    /// The sequence number to go on below, when there is more.
    pub next: Option<u64>,
}

/// Reads the log.
#[derive(Clone)]
pub struct Audit {
    store: Store,
}

impl Audit {
    /// The log in this data file.
    pub const fn new(store: Store) -> Self {
        Self { store }
    }

    /// Entries of `tenant` below the sequence number `before`, newest first; those of one device when one is named.
    pub async fn list(
        &self,
        tenant: TenantId,
        device: Option<DeviceId>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Page> {
        let limit = limit.clamp(1, limits::PAGE_MAX);
        self.store.read_with(move |snapshot| store::page(snapshot, tenant, device.as_ref(), before, limit)).await
    }
}
