//! The data file as redb sees it, for use ([`Medium`]) and for looking at ([`Glass`]).
//!
//! For use it is redb's own file backend, except that the file grows by real zeros and not by a hole. The first write into a hole makes the file system allocate, and its next sync then also commits the file system's own
//! journal: measured on ext4, a sync behind eight scattered pages takes 320 microseconds in a hole and 170 in a file that
//! was written before. Growth is rare and a sync stands before every answer, so growth pays. A full disk, too, shows
//! while the file grows and not in the middle of a commit.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use super::backup::Pace;
use super::writer::WriterState;
use crate::kernel::clock::Stopwatch;

/// Zeros are written for at most this much of one growth: a large file grows by gigabytes, and nobody should wait for
/// that. The rest stays a hole.
const ZEROED_PER_GROWTH_MAX: u64 = 64 << 20;
const CHUNK: usize = 1 << 20;

/// Holds a file shared with those who look at it, whatever is in it, until it is dropped.
#[derive(Debug)]
pub struct Held(FileBackend);

impl Held {
    /// `None` while somebody uses the file.
    pub(super) fn new(file: File) -> Result<Option<Self>, redb::DatabaseError> {
        let file = FileBackend::new(file)?;
        match file.try_lock_shared_range(Bound::Unbounded, Bound::Unbounded) {
            // Where a file system knows no locks, nobody can hold anything.
            Ok(true) | Err(BackendError::Unsupported) => Ok(Some(Self(file))),
            Ok(false) => Ok(None),
            Err(e) => Err(redb::DatabaseError::Storage(redb::StorageError::from(e))),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Closing the file gives it free, too.
        let _ = self.0.close();
    }
}

/// A medium that is used at some pace: whatever redb does with it pauses, and ends where the pace says so. For copies and
/// checks only, never for the file that the appliance serves from.
#[derive(Debug)]
pub(super) struct Paced<M> {
    pub medium: M,
    pub pace: Pace,
}

impl<M: StorageBackend> StorageBackend for Paced<M> {
    fn len(&self) -> io::Result<u64> {
        self.medium.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.pace.breathe()?;
        self.medium.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.medium.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.medium.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.pace.breathe()?;
        self.medium.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.medium.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.medium.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.medium.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.medium.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.medium.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.medium.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.medium.query_lock_range(start, end)
    }
}

#[derive(Debug)]
pub(super) struct Medium {
    file: FileBackend,
    state: Arc<WriterState>,
}

impl Medium {
    /// `state` hears how many syncs there were and how long they took.
    pub fn new(file: File, state: Arc<WriterState>) -> Result<Self, redb::DatabaseError> {
        Ok(Self { file: FileBackend::new(file)?, state })
    }
}

impl StorageBackend for Medium {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let before = self.file.len()?;
        self.file.set_len(len)?;
        let end = len.min(before.saturating_add(ZEROED_PER_GROWTH_MAX));
        let zeros = vec![0; CHUNK];
        let mut at = before;
        while at < end {
            let step = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            self.file.write(at, zeros.get(..step).unwrap_or(&zeros))?;
            at += step as u64;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let watch = Stopwatch::start();
        let synced = self.file.sync_data();
        let nanos = u64::try_from(watch.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.state.syncs.fetch_add(1, Ordering::Relaxed);
        self.state.sync_nanos.fetch_add(nanos, Ordering::Relaxed);
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

/// Looks at a file without changing a byte of it: opening a data file may repair it, and what that writes stays in memory.
#[derive(Debug)]
pub(super) struct Glass {
    lock: FileBackend,
    file: File,
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    len: u64,
    blocks: HashMap<u64, Box<[u8]>>,
}

const BLOCK: u64 = 4096;

impl Glass {
    /// # Errors
    /// When the file cannot be opened for reading.
    pub fn new(file: File) -> Result<Self, redb::DatabaseError> {
        let len = file.metadata()?.len();
        let lock = FileBackend::new(file.try_clone()?)?;
        Ok(Self { lock, file, written: Mutex::new(Written { len, blocks: HashMap::new() }) })
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block as it stands in the file, zeros behind its end.
    fn original(&self, number: u64) -> io::Result<Box<[u8]>> {
        let mut block = vec![0; usize::try_from(BLOCK).unwrap_or(4096)].into_boxed_slice();
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|r| !r.is_empty()) {
            match self.file.read_at(rest, number * BLOCK + filled as u64)? {
                0 => break,
                n => filled += n,
            }
        }
        Ok(block)
    }

    /// Visits the pieces of blocks that `offset..offset + len` covers: block number, range within it, range within the
    /// request.
    fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = offset + done as u64;
            let start = usize::try_from(at % BLOCK).unwrap_or(0);
            let step = (usize::try_from(BLOCK).unwrap_or(4096) - start).min(len - done);
            let piece = (at / BLOCK, start..start + step, done..done + step);
            done += step;
            (step > 0).then_some(piece)
        })
    }
}

impl StorageBackend for Glass {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        if offset.saturating_add(out.len() as u64) > written.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (number, within, place) in Self::pieces(offset, out.len()) {
            let to = out.get_mut(place).ok_or(io::ErrorKind::UnexpectedEof)?;
            match written.blocks.get(&number) {
                Some(block) => to.copy_from_slice(block.get(within).ok_or(io::ErrorKind::UnexpectedEof)?),
                None => to.copy_from_slice(self.original(number)?.get(within).ok_or(io::ErrorKind::UnexpectedEof)?),
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.written().len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        for (number, within, place) in Self::pieces(offset, data.len()) {
            let block = match written.blocks.entry(number) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(empty) => empty.insert(self.original(number)?),
            };
            let block = block.get_mut(within);
            let (Some(to), Some(from)) = (block, data.get(place)) else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            to.copy_from_slice(from);
        }
        Ok(())
    }

    // Looking shares the file with others who look, and with nobody who uses it.
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.lock.try_lock_shared_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.lock.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.lock.lock_shared_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.lock.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.lock.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.lock.query_lock_range(start, end)
    }

    fn close(&self) -> io::Result<()> {
        self.lock.close()
    }
}
