//! What a change sees inside the one write transaction: typed rows, the signal journal, and what to do after the commit.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use std::sync::Arc;

use redb::{ReadableTable, TableHandle, WriteTransaction};

use super::codec::{self, Row};
use super::tables::{Key, Table};
use super::writer::WriterState;
use crate::kernel::{Error, Result};

type Opened<'t> = redb::Table<'t, &'static [u8], &'static [u8]>;
type AfterCommit = Box<dyn FnOnce() + Send>;

/// The write transaction of one batch. A change validates first and writes then: once it has written, it may not refuse.
pub struct Tx<'t> {
    txn: &'t WriteTransaction,
    /// Opened once for the batch: opening is dearer than a lookup.
    tables: HashMap<&'static str, Opened<'t>>,
    journal: Vec<u8>,
    journal_records: u32,
    journal_block: u64,
    after: Vec<AfterCommit>,
    writes: u64,
    broken: bool,
    state: &'t Arc<WriterState>,
}

impl<'t> Tx<'t> {
    pub(super) fn new(
        txn: &'t WriteTransaction,
        journal_block: u64,
        journal: Vec<u8>,
        state: &'t Arc<WriterState>,
    ) -> Self {
        Self {
            txn,
            tables: HashMap::with_capacity(16),
            journal,
            journal_records: 0,
            journal_block,
            after: Vec::new(),
            writes: 0,
            broken: false,
            state,
        }
    }

    /// Runs `f` on the opened table. Whatever goes wrong in there breaks the store for good.
    fn with<T>(
        &mut self,
        table: Table,
        f: impl FnOnce(&mut Opened<'t>) -> std::result::Result<T, redb::StorageError>,
    ) -> Result<T> {
        // The name in a `TableDefinition` is handed out with a short borrow; the one in our list lives for ever.
        let name = super::tables::ALL.iter().map(TableHandle::name).find(|n| *n == table.name()).unwrap_or("");
        let txn = self.txn;
        let opened = match self.tables.entry(name) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(empty) => match txn.open_table(table) {
                Ok(opened) => empty.insert(opened),
                Err(e) => {
                    self.broken = true;
                    return Err(Error::Internal(format!("the store failed: {e}")));
                }
            },
        };
        f(opened).map_err(|e| {
            self.broken = true;
            Error::Internal(format!("the store failed: {e}"))
        })
    }

    /// The stored bytes under `key`.
    pub fn get_raw(&mut self, table: Table, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        self.with(table, |t| Ok(t.get(key.as_ref())?.map(|v| v.value().to_vec())))
    }

    /// The row under `key`.
    pub fn get<R: Row>(&mut self, table: Table, key: impl AsRef<[u8]>) -> Result<Option<R>> {
        self.get_raw(table, key)?.map(|bytes| codec::decode(&bytes)).transpose()
    }

    /// Writes bytes under `key`.
    pub fn put_raw(&mut self, table: Table, key: impl AsRef<[u8]>, value: &[u8]) -> Result<()> {
        self.writes += 1;
        self.with(table, |t| t.insert(key.as_ref(), value).map(drop))
    }

    /// Writes a row under `key`.
    pub fn put<R: Row>(&mut self, table: Table, key: impl AsRef<[u8]>, row: &R) -> Result<()> {
        self.put_raw(table, key, &codec::encode(row)?)
    }

    /// Removes what stands under `key`; says whether anything did.
    pub fn delete(&mut self, table: Table, key: impl AsRef<[u8]>) -> Result<bool> {
        self.writes += 1;
        self.with(table, |t| Ok(t.remove(key.as_ref())?.is_some()))
    }

    /// Up to `limit` pairs whose key starts with `prefix`, in ascending order.
    pub fn scan(&mut self, table: Table, prefix: &Key, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let end = prefix.end_of_prefix();
        self.with(table, |t| {
            let range = match &end {
                Some(end) => t.range::<&[u8]>(prefix.as_ref()..end.as_ref()),
                None => t.range::<&[u8]>(prefix.as_ref()..),
            };
            range?.take(limit).map(|pair| pair.map(|(k, v)| (k.value().to_vec(), v.value().to_vec()))).collect()
        })
    }

    /// Up to `limit` pairs with `from <= key`, in ascending order.
    pub fn scan_from(&mut self, table: Table, from: &Key, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.with(table, |t| {
            let range = t.range::<&[u8]>(from.as_ref()..)?;
            range.take(limit).map(|pair| pair.map(|(k, v)| (k.value().to_vec(), v.value().to_vec()))).collect()
        })
    }

    /// Visits every pair whose key starts with `prefix`, in ascending order, until `visit` says `false`.
    pub fn visit(&mut self, table: Table, prefix: &Key, visit: impl FnMut(&[u8], &[u8]) -> Result<bool>) -> Result<()> {
        self.visit_from(table, prefix, prefix, visit)
    }

    /// As [`Tx::visit`], from the key `from` on.
    pub fn visit_from(
        &mut self,
        table: Table,
        prefix: &Key,
        from: &Key,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool>,
    ) -> Result<()> {
        let end = prefix.end_of_prefix();
        let mut outcome = Ok(true);
        self.with(table, |t| {
            let range = match &end {
                Some(end) => t.range::<&[u8]>(from.as_ref()..end.as_ref()),
                None => t.range::<&[u8]>(from.as_ref()..),
            };
            for pair in range? {
                let (k, v) = pair?;
                outcome = visit(k.value(), v.value());
                if !matches!(outcome, Ok(true)) {
                    break;
                }
            }
            Ok(())
        })?;
        outcome.map(drop)
    }

    /// Removes up to `limit` pairs with `from <= key < to`; says how many.
    pub fn delete_range(&mut self, table: Table, from: &Key, to: &Key, limit: usize) -> Result<usize> {
        let keys: Vec<Vec<u8>> = self.with(table, |t| {
            let range = t.range::<&[u8]>(from.as_ref()..to.as_ref())?;
            range.take(limit).map(|pair| pair.map(|(k, _)| k.value().to_vec())).collect()
        })?;
        for key in &keys {
            self.delete(table, key)?;
        }
        Ok(keys.len())
    }

    /// Takes the next value of a counter that never goes back, starting at 1.
    pub fn next_number(&mut self, counter: &str) -> Result<u64> {
        let key = Key::new().text(counter);
        let last = self.get_raw(super::tables::META, &key)?;
        let next = last.as_deref().and_then(super::tables::trailing_number).unwrap_or(0) + 1;
        self.put_raw(super::tables::META, &key, &next.to_be_bytes())?;
        Ok(next)
    }

    /// Appends one record to the journal block of this commit; the block number is returned.
    pub fn append_signal(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> u64 {
        write(&mut self.journal);
        self.journal_records += 1;
        self.journal_block
    }

    /// The number of the newest journal block that this commit will leave behind.
    pub const fn newest_journal_block(&self) -> u64 {
        if self.journal_records > 0 { self.journal_block } else { self.journal_block.saturating_sub(1) }
    }

    /// The number of the newest journal block before this commit.
    pub const fn committed_journal_block(&self) -> u64 {
        self.journal_block.saturating_sub(1)
    }

    /// Runs `f` once the commit is durable and before anybody is answered: indexes are fed here. Dropped on failure.
    pub fn after_commit(&mut self, f: impl FnOnce() + Send + 'static) {
        self.after.push(Box::new(f));
    }

    /// Tells whoever empties the outbox, once the commit is durable, that something lies in it.
    pub fn ring_outbox(&mut self) {
        let state = Arc::clone(self.state);
        self.after_commit(move || state.outbox.notify_one());
    }

    pub(super) fn mark(&self) -> (u64, usize) {
        (self.writes, self.after.len())
    }

    /// Drops what a refused change wanted to do after the commit; says whether it also wrote, which spoils the batch.
    pub(super) fn refused_since(&mut self, (writes, after): (u64, usize)) -> bool {
        self.after.truncate(after);
        self.writes != writes
    }

    pub(super) const fn is_broken(&self) -> bool {
        self.broken
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.writes == 0 && self.journal_records == 0
    }

    /// Writes the journal block and closes the tables, which must happen before the commit.
    pub(super) fn close(mut self, written_at_ms: i64) -> Result<(Vec<AfterCommit>, Vec<u8>, bool)> {
        let has_block = self.journal_records > 0;
        if has_block {
            let mut block = std::mem::take(&mut self.journal);
            super::journal::finish_block(&mut block, self.journal_records, written_at_ms);
            let key = self.journal_block.to_be_bytes();
            self.put_raw(super::tables::SIGNAL_JOURNAL, key, &block)?;
            self.journal = block;
        }
        Ok((self.after, self.journal, has_block))
    }
}
