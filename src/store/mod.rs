//! The one data file. Every change goes through the one writer (`writer`), every list reads a snapshot (`snapshot`).
//!
//! Knows tables, keys and bytes; knows no domain. What a row means is decided by the domain that owns the table.
//!
//! Durability: [`Store::write`] answers only after the commit is on the medium. After a failed write or sync the store
//! refuses everything for good, because what the failed commit left behind can only be learned by opening the file anew.

pub mod backup;
pub mod codec;
pub mod idempotency;
pub mod journal;
mod medium;
pub mod migrate;
pub mod purge;
pub mod snapshot;
pub mod tables;
pub mod tx;
pub mod writer;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use redb::{Database, ReadableDatabase};
use tokio::sync::oneshot;
use tracing::Instrument;

pub use codec::Row;
pub use snapshot::Snapshot;
pub use tables::Key;
pub use tx::Tx;
pub use writer::{CommitObserver, Fate, Housekeeping, Job, WriterState};

use crate::kernel::{Clock, Error, Kind, Refusal, Result, files, limits, trace};

/// How the data file is opened and committed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Memory for pages of the file.
    pub cache_bytes: usize,
    /// Two syncs for each commit: what redb's notes recommend where an attacker chooses the data.
    pub two_phase_commit: bool,
    /// Saves the allocator's state with each commit: dearer commits, a restart after a crash without a walk of the file.
    pub quick_repair: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, two_phase_commit: true, quick_repair: false }
    }
}

/// Why the data file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "{0} is in use by another process; stop the appliance first, or use a command that talks to it while it runs"
    )]
    InUse(PathBuf),
    /// It does not exist, may not be read, or is damaged.
    #[error("{path} could not be opened: {cause}")]
    Failed {
        /// The data file.
        path: PathBuf,
        /// The cause, for the operator.
        cause: String,
    },
    /// Made by a newer version of the appliance.
    #[error(
        "{path} has schema version {found}, this program knows {known}: run a newer version of the appliance, nothing was changed"
    )]
    TooNew {
        /// The data file.
        path: PathBuf,
        /// What the file says.
        found: u64,
        /// What this program knows.
        known: u64,
    },
}

/// Handle to the data file. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    db: Arc<Database>,
    state: Arc<WriterState>,
    queue: OnceLock<SyncSender<Box<dyn Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    options: Options,
}

/// What the writer needs beside the file.
pub struct WriterParts {
    /// Time stamps of journal blocks.
    pub clock: Clock,
    /// Work that rides along with commits.
    pub housekeeping: Vec<Box<dyn Housekeeping>>,
    /// Hears how long each commit took.
    pub observer: Option<CommitObserver>,
    /// Called once when the disk has failed; the process is expected to end soon.
    pub on_failure: Box<dyn Fn(&str) + Send>,
}

impl WriterParts {
    /// A writer without housekeeping, for tools and tests.
    pub fn plain(clock: Clock) -> Self {
        Self { clock, housekeeping: Vec::new(), observer: None, on_failure: Box::new(|_| {}) }
    }
}

impl Store {
    /// Opens the data file, makes it where `create` says so and it is missing, and brings its schema up to date.
    pub fn open(path: &Path, options: Options, create: bool) -> Result<Self, OpenError> {
        let failed = |cause: String| OpenError::Failed { path: path.to_owned(), cause };
        if !create && !std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() > 0) {
            return Err(failed("there is no such file, or it is empty".to_owned()));
        }
        let file = files::open_private(path).map_err(|e| failed(e.to_string()))?;
        // After a sync that failed the kernel may hold pages as written that never reached the disk (Rebello et al.,
        // "Can Applications Recover from fsync Failures?", 2020): what is read must be what is there.
        if let Err(e) = files::forget_cached(&file) {
            tracing::warn!(error = %e, "what the kernel keeps of the data file in memory could not be dropped");
        }
        let refused = |e: redb::DatabaseError| match e {
            redb::DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path.to_owned()),
            other => failed(other.to_string()),
        };
        let opened = file.metadata().map_err(|e| failed(e.to_string()))?.ino();
        let state = Arc::<WriterState>::default();
        let medium = medium::Medium::new(file, Arc::clone(&state)).map_err(refused)?;
        let db =
            Database::builder().set_cache_size(options.cache_bytes).create_with_backend(medium).map_err(refused)?;
        // Whoever restores holds the old file until the new one has its name: waiting for that, one may hold the old one.
        if std::fs::metadata(path).map_or(0, |m| m.ino()) != opened {
            return Err(failed("another file was put in its place meanwhile; try again".to_owned()));
        }
        migrate::run(&db, path)?;
        Ok(Self::over(path, db, options, state))
    }

    /// Opens a file to look at it: nothing of it is changed, and nothing can be written. It may be a backup on a medium
    /// that cannot be written.
    ///
    /// # Errors
    /// As [`Store::open`]; [`OpenError::InUse`] while the appliance runs on it.
    pub fn look(path: &Path) -> Result<Self, OpenError> {
        Self::look_gently(path, &backup::Pace::full())
    }

    /// As [`Store::look`], and every read goes at this pace.
    ///
    /// # Errors
    /// As [`Store::look`].
    pub fn look_gently(path: &Path, pace: &backup::Pace) -> Result<Self, OpenError> {
        let db = glass(path, pace)?;
        migrate::run(&db, path)?;
        Ok(Self::over(path, db, Options::default(), Arc::default()))
    }

    fn over(path: &Path, db: Database, options: Options, state: Arc<WriterState>) -> Self {
        Self {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                db: Arc::new(db),
                state,
                queue: OnceLock::new(),
                thread: Mutex::new(None),
                options,
            }),
        }
    }

    /// Starts the writer thread; until then every change is refused as `shutting_down`.
    pub fn start(&self, parts: WriterParts) -> Result<()> {
        let (sender, queue) = sync_channel(limits::WRITE_QUEUE_MAX);
        let next_block = self.read()?.last_journal_block()? + 1;
        let state = Arc::clone(&self.inner.state);
        let on_failure = parts.on_failure;
        let writer = writer::Writer {
            db: Arc::clone(&self.inner.db),
            queue,
            state: Arc::clone(&state),
            housekeeping: parts.housekeeping,
            options: self.inner.options,
            clock: parts.clock,
            next_block,
            observer: parts.observer,
            on_failure: Box::new(move |cause| {
                tracing::error!(
                    cause,
                    "the data file failed; nothing more is written until the appliance is restarted"
                );
                on_failure(cause);
            }),
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                // A defect in a change must not leave a half-dead appliance behind: fail closed, as for a broken disk.
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| writer.run())).is_err() {
                    state.failed.store(true, Ordering::Release);
                    tracing::error!("the writer thread ended by a defect; nothing more is written until a restart");
                    std::process::abort();
                }
            })
            .map_err(Error::internal)?;
        if self.inner.queue.set(sender).is_err() {
            return Err(Error::internal("the writer was started twice"));
        }
        *lock(&self.inner.thread) = Some(thread);
        Ok(())
    }

    /// Queues a job, without a lock. It hears its fate through [`Job::finish`], except when this refuses.
    ///
    /// # Errors
    /// `overloaded` when the queue is full, `shutting_down`, [`Error::OutcomeUnknown`] when the disk has failed.
    pub fn submit(&self, job: Box<dyn Job>) -> Result<()> {
        if self.has_failed() {
            return Err(Error::OutcomeUnknown);
        }
        let queue = self.inner.queue.get().ok_or_else(shutting_down)?;
        if self.inner.state.signals_held.load(Ordering::Relaxed) && job.is_signal() {
            return Err(no_room().into());
        }
        self.inner.state.queued.fetch_add(1, Ordering::Relaxed);
        queue.try_send(job).map_err(|e| {
            self.inner.state.queued.fetch_sub(1, Ordering::Relaxed);
            match e {
                TrySendError::Full(_) => {
                    self.inner.state.refused.fetch_add(1, Ordering::Relaxed);
                    let detail = "Too much waits to be written. Try again in a moment.";
                    Refusal::new(Kind::Unavailable, "overloaded", detail).retry_after_s(1).into()
                }
                TrySendError::Disconnected(_) => Error::from(shutting_down()),
            }
        })
    }

    /// Whether heartbeats are refused for want of room on the disk: they could not be kept. Changes go on: what locks,
    /// and what makes room, is small.
    pub fn hold_signals(&self, hold: bool) {
        self.inner.state.signals_held.store(hold, Ordering::Relaxed);
    }

    /// Jobs that wait for the writer.
    pub fn queued(&self) -> u64 {
        self.inner.state.queued.load(Ordering::Relaxed)
    }

    /// Runs `change` in the writer and answers when it is durable.
    ///
    /// `change` validates first and writes then; it may run a second time when another change spoiled its batch, so it
    /// must not keep anything from its first run.
    ///
    /// # Errors
    /// The refusal of `change`; `overloaded` when the queue is full; [`Error::OutcomeUnknown`] when the disk failed.
    pub async fn write<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.submit(Box::new(Change { change, result: None, reply: Some(reply) }))?;
        let committed = async { answer.await.unwrap_or(Err(Error::OutcomeUnknown)) };
        committed.instrument(trace::step("commit")).await
    }

    /// Queues `change` without waiting for it: for what may be lost without harm.
    pub fn post<F>(&self, mut change: F) -> Result<()>
    where
        F: FnMut(&mut Tx<'_>) -> Result<()> + Send + 'static,
    {
        self.submit(Box::new(Change { change: move |tx: &mut Tx<'_>| change(tx), result: None, reply: None }))
    }

    /// [`Store::write`] for callers without a runtime: the command line and tests.
    pub fn write_blocking<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.submit(Box::new(Change { change, result: None, reply: Some(reply) }))?;
        answer.blocking_recv().unwrap_or(Err(Error::OutcomeUnknown))
    }

    /// The present moment of the data file.
    pub fn read(&self) -> Result<Snapshot> {
        if self.has_failed() {
            return Err(Error::OutcomeUnknown);
        }
        Ok(Snapshot::new(self.inner.db.begin_read().map_err(Error::internal)?))
    }

    /// Reads on a thread where waiting for the disk harms nobody.
    pub async fn read_with<T, F>(&self, read: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Snapshot) -> Result<T> + Send + 'static,
    {
        let snapshot = self.read()?;
        tokio::task::spawn_blocking(move || read(&snapshot)).await.map_err(Error::internal)?
    }

    /// Whether the disk has failed; never turns back.
    pub fn has_failed(&self) -> bool {
        self.inner.state.failed.load(Ordering::Acquire)
    }

    /// Counters for health and metrics.
    pub fn state(&self) -> &WriterState {
        &self.inner.state
    }

    /// Where the data file is.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Commits what is queued and ends the writer; later changes are refused as `shutting_down`.
    pub fn stop(&self) {
        self.inner.state.stopping.store(true, Ordering::Release);
        // Wakes the writer if it is asleep; if the queue is full or gone, it is awake or has ended.
        let _ = self.post(|_| Ok(()));
        let thread = lock(&self.inner.thread).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the writer thread ended by a defect");
        }
    }
}

/// A file behind glass; what is wrong with it is said in the operator's words.
fn glass(path: &Path, pace: &backup::Pace) -> Result<Database, OpenError> {
    let failed = |cause: String| OpenError::Failed { path: path.to_owned(), cause };
    let file = std::fs::File::open(path).map_err(|e| failed(e.to_string()))?;
    if !file.metadata().is_ok_and(|m| m.is_file() && m.len() > 0) {
        return Err(failed("it is not a data file of the appliance: it is empty".to_owned()));
    }
    let refused = |e: redb::DatabaseError| match e {
        redb::DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path.to_owned()),
        other => failed(other.to_string()),
    };
    let glass = medium::Paced { medium: medium::Glass::new(file).map_err(refused)?, pace: pace.clone() };
    Database::builder().set_cache_size(64 << 20).create_with_backend(glass).map_err(refused)
}

fn shutting_down() -> Refusal {
    Refusal::new(Kind::Unavailable, "shutting_down", "The appliance is shutting down. Try again in a moment.")
        .retry_after_s(5)
}

fn no_room() -> Refusal {
    let detail =
        "The appliance's disk is full: heartbeats cannot be kept and are not judged. Keep the readings and try again.";
    Refusal::new(Kind::Unavailable, "read_only", detail).retry_after_s(10)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A closure as a job.
struct Change<T, F> {
    change: F,
    result: Option<Result<T>>,
    reply: Option<oneshot::Sender<Result<T>>>,
}

impl<T, F> Job for Change<T, F>
where
    T: Send,
    F: FnMut(&mut Tx<'_>) -> Result<T> + Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<()> {
        let result = (self.change)(tx);
        let refused = result.is_err();
        self.result = Some(result);
        // The writer only needs to know that it refused; the caller gets the refusal itself.
        if refused { Err(Error::OutcomeUnknown) } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>, fate: Fate) {
        let result = match fate {
            Fate::Committed => self.result.take().unwrap_or(Err(Error::OutcomeUnknown)),
            Fate::Unknown => Err(Error::OutcomeUnknown),
        };
        if let Some(reply) = self.reply.take() {
            // A caller that went away has no use for the answer.
            let _ = reply.send(result);
        }
    }
}

impl Snapshot {
    /// The number of the newest journal block, 0 when there is none.
    pub fn last_journal_block(&self) -> Result<u64> {
        let mut last = 0;
        self.visit_back(tables::SIGNAL_JOURNAL, &Key::new(), None, |key, _| {
            last = tables::trailing_number(key).unwrap_or(0);
            Ok(false)
        })?;
        // Blocks are trimmed by age; the mark keeps numbers from being used twice.
        let mark = self.get_raw(tables::META, Key::new().text(migrate::JOURNAL_FOLDED_THROUGH))?;
        Ok(last.max(mark.as_deref().and_then(tables::trailing_number).unwrap_or(0)))
    }
}
