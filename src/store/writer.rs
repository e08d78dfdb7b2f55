//! The one write path: a bounded queue, one thread, one commit for everything that queued while the last one ran.
//!
//! Order within a batch: changes first, heartbeats then, housekeeping last. Changes run in the order of their arrival, for
//! at most [`CHANGES_BUDGET`] a batch; those left over wait for the next one, while every waiting heartbeat goes into this
//! one: after a restart thousands of sessions are renewed at once, and no attack may wait behind them. A change that refuses after it has written
//! spoils the batch: it is aborted and its changes are run again one by one, so that only the guilty one fails. Heartbeats
//! move engine state in memory and therefore run after the last point at which a batch can be aborted for a reason other
//! than a broken store. A broken store is final: nothing is retried, everybody waiting hears that the outcome is unknown.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use redb::Database;

use super::tx::Tx;
use super::{Options, journal};
use crate::kernel::clock::Stopwatch;
use crate::kernel::{Clock, Error, Result, limits};

/// What waits in the queue.
pub trait Job: Send {
    /// Reads, decides and writes. Validates first: a refusal after a write costs the whole batch a second run.
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<()>;
    /// Hears what became of it, exactly once, after the commit.
    fn finish(self: Box<Self>, fate: Fate);
    /// Heartbeats run after every change of the batch.
    fn is_signal(&self) -> bool {
        false
    }
}

/// What became of a job's batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Durable.
    Committed,
    /// The disk failed during the commit: it may be there after the restart, or not.
    Unknown,
}

/// Work that rides along with commits: checkpoints, trimming.
pub trait Housekeeping: Send {
    /// Called inside each batch. `idle` says that nothing else waits.
    fn run(&mut self, tx: &mut Tx<'_>, idle: bool) -> Result<()>;
    /// Called after the commit that held the work.
    fn committed(&mut self);
    /// How many bytes the block of the last commit added to the journal.
    fn journal_grew(&mut self, bytes: usize);
}

/// What the writer tells the rest of the house; read by health and metrics.
#[derive(Debug, Default)]
pub struct WriterState {
    /// Set once, for good, when the disk has failed.
    pub failed: AtomicBool,
    /// Set once, when the appliance shuts down: what is queued is still committed.
    pub stopping: AtomicBool,
    /// Heartbeats are refused: there is no room to keep them.
    pub signals_held: AtomicBool,
    /// Jobs that wait.
    pub queued: AtomicU64,
    /// Commits so far.
    pub commits: AtomicU64,
    /// Jobs that these commits carried.
    pub jobs: AtomicU64,
    /// Rung after a commit that left something in the outbox; one ring is kept for who comes later.
    pub outbox: tokio::sync::Notify,
    /// Jobs that were refused because too many waited.
    pub refused: AtomicU64,
    /// Syncs of the file so far.
    pub syncs: AtomicU64,
    /// Nanoseconds that they took.
    pub sync_nanos: AtomicU64,
}

/// Hears how long each commit took, for the metrics.
pub type CommitObserver = Arc<dyn Fn(Duration, usize) + Send + Sync>;

pub(super) struct Writer {
    pub db: Arc<Database>,
    pub queue: Receiver<Box<dyn Job>>,
    pub state: Arc<WriterState>,
    pub housekeeping: Vec<Box<dyn Housekeeping>>,
    pub options: Options,
    pub clock: Clock,
    pub next_block: u64,
    pub observer: Option<CommitObserver>,
    pub on_failure: Box<dyn Fn(&str) + Send>,
}

const IDLE_TICK: Duration = Duration::from_millis(500);

/// How long the changes of one batch may run before the rest of them waits for the next. A few times the price of a commit:
/// less would spend the writer's time on commits, more would make heartbeats wait.
const CHANGES_BUDGET: Duration = Duration::from_micros(1_500);

impl Writer {
    /// Runs until it is told to stop and nothing waits any more.
    pub fn run(mut self) {
        let mut changes: VecDeque<Box<dyn Job>> = VecDeque::new();
        let mut signals: Vec<Box<dyn Job>> = Vec::new();
        let mut buffer = Vec::new();
        loop {
            let mut next = if changes.is_empty() && signals.is_empty() {
                match self.queue.recv_timeout(IDLE_TICK) {
                    Ok(job) => Some(job),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            } else {
                self.queue.try_recv().ok()
            };
            let idle = next.is_none() && changes.is_empty() && signals.is_empty();
            while let Some(job) = next.take() {
                if job.is_signal() {
                    signals.push(job)
                } else {
                    changes.push_back(job)
                }
                if signals.len() < limits::WRITE_BATCH_MAX && changes.len() < limits::WRITE_QUEUE_MAX {
                    next = self.queue.try_recv().ok();
                }
            }
            if !self.state.failed.load(Ordering::Acquire) {
                match self.commit_batch(&mut changes, &mut signals, buffer, idle) {
                    Ok(returned) => buffer = returned,
                    Err(cause) => {
                        self.state.failed.store(true, Ordering::Release);
                        (self.on_failure)(&cause.to_string());
                        buffer = Vec::new();
                    }
                }
            }
            if self.state.failed.load(Ordering::Acquire) {
                self.finish(changes.drain(..).chain(signals.drain(..)), Fate::Unknown);
            }
            if self.state.stopping.load(Ordering::Acquire) && self.state.queued.load(Ordering::Acquire) == 0 {
                self.tidy_up();
                return;
            }
        }
    }

    /// What housekeeping would write when idle is written before the end: a busy store was never idle.
    fn tidy_up(&mut self) {
        if self.state.failed.load(Ordering::Acquire) {
            return;
        }
        let (mut changes, mut signals) = (VecDeque::new(), Vec::new());
        if let Err(cause) = self.commit_batch(&mut changes, &mut signals, Vec::new(), true) {
            self.state.failed.store(true, Ordering::Release);
            (self.on_failure)(&cause.to_string());
        }
    }

    /// One batch, one commit: the first of the changes and all of the signals. What it took is gone from both when it is
    /// durable. An error means that the store is broken.
    fn commit_batch(
        &mut self,
        changes: &mut VecDeque<Box<dyn Job>>,
        signals: &mut Vec<Box<dyn Job>>,
        buffer: Vec<u8>,
        idle: bool,
    ) -> Result<Vec<u8>> {
        let watch = Stopwatch::start();
        let txn = self.begin()?;
        let mut tx = Tx::new(&txn, self.next_block, journal::start_block(buffer), &self.state);
        let mut ran = 0;
        let mut spoiled = false;
        for job in changes.iter_mut().take(limits::WRITE_BATCH_MAX) {
            let mark = tx.mark();
            let refused = job.run(&mut tx).is_err();
            ran += 1;
            if tx.is_broken() {
                return Err(Error::internal("a read or write inside the batch failed"));
            }
            spoiled = refused && tx.refused_since(mark);
            if spoiled || watch.elapsed() >= CHANGES_BUDGET {
                break;
            }
        }
        if spoiled {
            drop(tx);
            txn.abort().map_err(Error::internal)?;
            for _ in 0..ran {
                if let Some(job) = changes.pop_front() {
                    self.commit_alone(job)?;
                }
            }
            return Ok(Vec::new());
        }
        for job in signals.iter_mut() {
            let mark = tx.mark();
            let refused = job.run(&mut tx).is_err();
            if tx.is_broken() || (refused && tx.refused_since(mark)) {
                return Err(Error::internal("a heartbeat could not be written"));
            }
        }
        for keeper in &mut self.housekeeping {
            keeper.run(&mut tx, idle)?;
        }
        if tx.is_empty() {
            drop(tx);
            txn.abort().map_err(Error::internal)?;
            self.finish(changes.drain(..ran).chain(signals.drain(..)), Fate::Committed);
            return Ok(Vec::new());
        }
        let (after, buffer, has_block) = tx.close(self.clock.now().as_millis())?;
        txn.commit().map_err(Error::internal)?;
        if has_block {
            self.next_block += 1;
        }
        for keeper in &mut self.housekeeping {
            keeper.committed();
            if has_block {
                keeper.journal_grew(buffer.len());
            }
        }
        after.into_iter().for_each(|f| f());
        let jobs = ran + signals.len();
        self.finish(changes.drain(..ran).chain(signals.drain(..)), Fate::Committed);
        self.count(watch.elapsed(), jobs);
        Ok(buffer)
    }

    /// The second run of a change whose batch was spoiled.
    fn commit_alone(&mut self, mut job: Box<dyn Job>) -> Result<()> {
        let watch = Stopwatch::start();
        let txn = match self.begin() {
            Ok(txn) => txn,
            Err(e) => {
                self.finish([job].into_iter(), Fate::Unknown);
                return Err(e);
            }
        };
        let mut tx = Tx::new(&txn, self.next_block, journal::start_block(Vec::new()), &self.state);
        let refused = job.run(&mut tx).is_err();
        let broken = tx.is_broken();
        let outcome = if broken {
            Err(Error::internal("a read or write inside the batch failed"))
        } else if refused || tx.is_empty() {
            drop(tx);
            txn.abort().map_err(Error::internal)
        } else {
            tx.close(self.clock.now().as_millis()).and_then(|(after, _, _)| {
                txn.commit().map_err(Error::internal)?;
                after.into_iter().for_each(|f| f());
                Ok(())
            })
        };
        self.finish([job].into_iter(), if outcome.is_ok() { Fate::Committed } else { Fate::Unknown });
        self.count(watch.elapsed(), 1);
        outcome
    }

    fn begin(&self) -> Result<redb::WriteTransaction> {
        let mut txn = self.db.begin_write().map_err(Error::internal)?;
        txn.set_two_phase_commit(self.options.two_phase_commit);
        txn.set_quick_repair(self.options.quick_repair);
        Ok(txn)
    }

    fn count(&self, took: Duration, jobs: usize) {
        self.state.commits.fetch_add(1, Ordering::Relaxed);
        self.state.jobs.fetch_add(jobs as u64, Ordering::Relaxed);
        if let Some(observer) = &self.observer {
            observer(took, jobs);
        }
    }

    /// Tells the callers what became of their jobs.
    fn finish(&self, jobs: impl Iterator<Item = Box<dyn Job>>, fate: Fate) {
        for job in jobs {
            self.state.queued.fetch_sub(1, Ordering::Relaxed);
            job.finish(fate);
        }
    }
}
