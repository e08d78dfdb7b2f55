//! Reading: a snapshot sees one commit, never a half of one, and never makes the writer wait.

use redb::{ReadTransaction, TableError};

use super::codec::{self, Row};
use super::tables::{Key, Table};
use crate::kernel::{Error, Result};

/// One moment of the data file.
pub struct Snapshot {
    txn: ReadTransaction,
}

fn broken(cause: impl std::fmt::Display) -> Error {
    Error::Internal(format!("the store could not be read: {cause}"))
}

impl Snapshot {
    pub(super) const fn new(txn: ReadTransaction) -> Self {
        Self { txn }
    }

    fn table(&self, table: Table) -> Result<Option<redb::ReadOnlyTable<&'static [u8], &'static [u8]>>> {
        match self.txn.open_table(table) {
            Ok(opened) => Ok(Some(opened)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(e) => Err(broken(e)),
        }
    }

    /// The stored bytes under `key`.
    pub fn get_raw(&self, table: Table, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        let Some(opened) = self.table(table)? else { return Ok(None) };
        Ok(opened.get(key.as_ref()).map_err(broken)?.map(|v| v.value().to_vec()))
    }

    /// The row under `key`.
    pub fn get<R: Row>(&self, table: Table, key: impl AsRef<[u8]>) -> Result<Option<R>> {
        self.get_raw(table, key)?.map(|bytes| codec::decode(&bytes)).transpose()
    }

    /// Visits pairs with `from <= key` (and `key < to`, where given) in ascending order until `visit` says `false`.
    pub fn visit(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool>,
    ) -> Result<()> {
        let Some(opened) = self.table(table)? else { return Ok(()) };
        let range = match to {
            Some(to) => opened.range::<&[u8]>(from..to),
            None => opened.range::<&[u8]>(from..),
        };
        for pair in range.map_err(broken)? {
            let (k, v) = pair.map_err(broken)?;
            if !visit(k.value(), v.value())? {
                break;
            }
        }
        Ok(())
    }

    /// Visits pairs whose key starts with `prefix`, newest (highest) first, until `visit` says `false`.
    /// `before` leaves out that key and everything above it.
    pub fn visit_back(
        &self,
        table: Table,
        prefix: &Key,
        before: Option<&Key>,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool>,
    ) -> Result<()> {
        let Some(opened) = self.table(table)? else { return Ok(()) };
        let end = before.cloned().or_else(|| prefix.end_of_prefix());
        let range = match &end {
            Some(end) => opened.range::<&[u8]>(prefix.as_ref()..end.as_ref()),
            None => opened.range::<&[u8]>(prefix.as_ref()..),
        };
        for pair in range.map_err(broken)?.rev() {
            let (k, v) = pair.map_err(broken)?;
            if !visit(k.value(), v.value())? {
                break;
            }
        }
        Ok(())
    }

    /// Visits every pair whose key starts with `prefix`, in ascending order, until `visit` says `false`.
    pub fn visit_prefix(
        &self,
        table: Table,
        prefix: &Key,
        visit: impl FnMut(&[u8], &[u8]) -> Result<bool>,
    ) -> Result<()> {
        let end = prefix.end_of_prefix();
        self.visit(table, prefix.as_ref(), end.as_ref().map(AsRef::as_ref), visit)
    }

    /// At most `limit` of what `take` makes of the values whose key starts with `prefix`, in ascending order, and whether
    /// there are more. `after` is the key of the last one of the page before; what `take` makes nothing of is passed over.
    pub fn page<T>(
        &self,
        table: Table,
        prefix: &Key,
        after: Option<Key>,
        limit: usize,
        mut take: impl FnMut(&[u8]) -> Result<Option<T>>,
    ) -> Result<(Vec<T>, bool)> {
        // With a zero behind it, a key is the lowest of those above itself.
        let from = after.map_or_else(|| prefix.clone(), |key| key.byte(0));
        let end = prefix.end_of_prefix();
        let (mut page, mut more) = (Vec::new(), false);
        self.visit(table, from.as_ref(), end.as_ref().map(AsRef::as_ref), |_, value| {
            if let Some(one) = take(value)? {
                more = page.len() >= limit;
                if !more {
                    page.push(one);
                }
            }
            Ok(!more)
        })?;
        Ok((page, more))
    }

    /// Every row of a table, with its key.
    pub fn rows<R: Row>(&self, table: Table, mut visit: impl FnMut(&[u8], R) -> Result<()>) -> Result<()> {
        self.visit(table, &[], None, |key, value| {
            visit(key, codec::decode(value)?)?;
            Ok(true)
        })
    }
}
