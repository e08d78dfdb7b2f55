//! Threads for work that takes its time, such as the check of a password or of an attestation: few, apart from all
//! others, and behind them in the queue for the processor.
//!
//! On threads of its own at a lower priority such work cannot hold up heartbeats, which share the machine, and a flood of
//! it fills one short queue only. Work whose caller went away is skipped: a flood that hangs up costs nothing more.
//! Knows nothing of what it runs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use super::clock::Stopwatch;
use super::{Error, Kind, Refusal, Result};

/// Threads at most, whatever the machine: each holds the memory of its work.
const THREADS_MAX: usize = 4;
/// Steps of niceness (setpriority(2)) below the rest of the process.
const NICENESS: i32 = 10;

/// How long what runs is waited for when the pool is dropped.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

/// A bounded queue and the threads that empty it. Dropping it ends the threads: what runs is finished, if it takes a few
/// seconds at most, what waits is dropped and its callers hear an internal error. What hangs, such as a file of another
/// machine, is left to the end of the process.
pub struct Pool {
    queue: Option<mpsc::SyncSender<Job>>,
    closing: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// What the caller of refused work is told.
    busy: &'static str,
}

impl Pool {
    /// One thread for every two processors, at least one and at most four. At most `waiting_max` jobs wait; the caller of
    /// one more is told `busy`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn for_this_machine(name: &str, waiting_max: usize, busy: &'static str) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self::new(name, (cores / 2).clamp(1, THREADS_MAX), waiting_max, busy)
    }

    /// One thread, for work of which no two pieces may run at once.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn of_one(name: &str, waiting_max: usize, busy: &'static str) -> Result<Self> {
        Self::new(name, 1, waiting_max, busy)
    }

    fn new(name: &str, thread_count: usize, waiting_max: usize, busy: &'static str) -> Result<Self> {
        let (sender, receiver) = mpsc::sync_channel::<Job>(waiting_max);
        let receiver = Arc::new(Mutex::new(receiver));
        let threads = Vec::with_capacity(thread_count);
        let mut pool = Self { queue: Some(sender), closing: Arc::default(), threads, busy };
        for n in 0..thread_count {
            let (receiver, closing) = (Arc::clone(&receiver), Arc::clone(&pool.closing));
            let work = move || work(&receiver, &closing);
            let thread = std::thread::Builder::new().name(format!("{name}-{n}")).spawn(work);
            pool.threads.push(thread.map_err(Error::internal)?);
        }
        Ok(pool)
    }

    /// Runs one check on a thread of the pool.
    ///
    /// A check that has not begun when this future is dropped is not run.
    ///
    /// # Errors
    /// `overloaded` (503) when too many wait already; internal when the check panicked or the pool was dropped.
    pub async fn run<T: Send + 'static>(&self, check: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(move || {
            if !reply.is_closed() {
                // Who went away while it ran does not want the answer.
                let _ = reply.send(check());
            }
        });
        let queue = self.queue.as_ref().ok_or_else(|| Error::internal("the threads of this work have ended"))?;
        queue.try_send(job).map_err(|e| match e {
            mpsc::TrySendError::Full(_) => {
                Refusal::new(Kind::Unavailable, "overloaded", self.busy).retry_after_s(2).into()
            }
            mpsc::TrySendError::Disconnected(_) => Error::internal("the threads of this work have ended"),
        })?;
        answer.await.map_err(|_| Error::internal("work ended without an answer"))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        self.queue = None;
        let (this, watch) = (std::thread::current().id(), Stopwatch::start());
        for thread in self.threads.drain(..) {
            // A job may hold the last handle of what owns the pool; a thread cannot wait for itself.
            if thread.thread().id() == this {
                continue;
            }
            while !thread.is_finished() && watch.elapsed() < ENDS_WITHIN {
                std::thread::sleep(Duration::from_millis(2));
            }
            if thread.is_finished() {
                let _ = thread.join();
            } else {
                tracing::warn!(thread = thread.thread().name(), "work hangs and is not waited for");
            }
        }
    }
}

fn work(queue: &Mutex<mpsc::Receiver<Job>>, closing: &AtomicBool) {
    // On Linux this is the calling thread's priority. Where it is refused, checks are merely less polite.
    if let Err(e) = rustix::process::nice(NICENESS) {
        tracing::debug!(error = %e, "work in the background runs at the priority of everything else");
    }
    loop {
        // One idle thread waits in the channel, the others for the lock; it is free again before the job runs.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        if closing.load(Ordering::Acquire) {
            continue;
        }
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("work ended by a defect; its caller was refused");
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::pin::Pin;
    use std::sync::atomic::AtomicUsize;
    use std::task::Poll;

    use super::*;

    /// Holds a thread of the pool until the sender is dropped; resolves when the thread is held.
    async fn occupy(pool: &Arc<Pool>) -> (mpsc::Sender<()>, tokio::task::JoinHandle<Result<()>>) {
        let (release, held) = mpsc::channel::<()>();
        let (begun, began) = oneshot::channel();
        let pool = Arc::clone(pool);
        let task = tokio::spawn(async move {
            pool.run(move || {
                let _ = begun.send(());
                let _ = held.recv();
            })
            .await
        });
        began.await.unwrap();
        (release, task)
    }

    /// Polls once, which queues the check.
    async fn waits<T>(check: &mut Pin<Box<impl Future<Output = T>>>) -> bool {
        std::future::poll_fn(|cx| Poll::Ready(check.as_mut().poll(cx).is_pending())).await
    }

    fn pool(threads: usize, waiting_max: usize) -> Arc<Pool> {
        Arc::new(Pool::new("test", threads, waiting_max, "busy").unwrap())
    }

    #[tokio::test]
    async fn beyond_the_queue_a_caller_is_sent_away_at_once() {
        let pool = pool(1, 2);
        let (release, running) = occupy(&pool).await;
        let mut waiting = [1, 2].map(|n| Box::pin(pool.run(move || n)));
        for check in &mut waiting {
            assert!(waits(check).await);
        }
        match pool.run(|| 1).await {
            Err(Error::Refused(refusal)) => {
                assert_eq!((refusal.kind, refusal.code), (Kind::Unavailable, "overloaded"));
                assert_eq!(refusal.retry_after_s, Some(2));
            }
            other => assert!(other.is_err(), "a third was let in to wait"),
        }
        drop(release);
        running.await.unwrap().unwrap();
        for (n, check) in (1..).zip(waiting) {
            assert_eq!(check.await.unwrap(), n, "who was let in is served");
        }
        assert_eq!(pool.run(|| 2).await.unwrap(), 2, "there is room again");
    }

    #[tokio::test]
    async fn no_more_checks_run_at_once_than_there_are_threads() {
        let pool = pool(2, 64);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut checks = tokio::task::JoinSet::new();
        for _ in 0..12 {
            let (now, most, pool) = (Arc::clone(&now), Arc::clone(&most), Arc::clone(&pool));
            let check = move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                now.fetch_sub(1, Ordering::SeqCst);
            };
            checks.spawn(async move { pool.run(check).await });
        }
        for done in checks.join_all().await {
            done.unwrap();
        }
        assert_eq!(most.load(Ordering::SeqCst), 2, "both threads work, and no third");
    }

    #[tokio::test]
    async fn a_check_whose_caller_went_away_is_not_run() {
        let pool = pool(1, 64);
        let (release, running) = occupy(&pool).await;
        let ran = Arc::new(AtomicUsize::new(0));
        let check = |by: usize| {
            let ran = Arc::clone(&ran);
            pool.run(move || ran.fetch_add(by, Ordering::SeqCst))
        };
        let mut gone = Box::pin(check(1));
        assert!(waits(&mut gone).await);
        drop(gone);
        drop(release);
        running.await.unwrap().unwrap();
        check(10).await.unwrap();
        assert_eq!(ran.load(Ordering::SeqCst), 10);
    }

    #[tokio::test]
    async fn a_panicking_check_fails_alone() {
        let pool = pool(1, 64);
        let broken = pool.run(|| std::panic::resume_unwind(Box::new("a defect"))).await;
        assert!(matches!(broken, Err::<(), _>(Error::Internal(_))));
        assert_eq!(pool.run(|| 7).await.unwrap(), 7, "the only thread still serves");
    }

    #[tokio::test]
    async fn dropping_the_pool_ends_its_threads() {
        let pool = Pool::new("test", 3, 64, "busy").unwrap();
        let alive = Arc::new(());
        let witness = Arc::clone(&alive);
        pool.run(move || drop(witness)).await.unwrap();
        let names: Vec<_> = pool.threads.iter().map(|t| t.thread().name().map(str::to_owned)).collect();
        assert_eq!(names, ["test-0", "test-1", "test-2"].map(|n| Some(n.to_owned())));
        let closing = Arc::clone(&pool.closing);
        drop(pool);
        // Each thread held a share of the flag and gave it back when it ended.
        assert_eq!(Arc::strong_count(&closing), 1);
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    /// A machine without leave to change priorities still checks passwords; on Linux lowering is always granted.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn checks_run_at_a_lower_priority_than_the_rest() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let here = niceness();
        let there = pool(1, 1).run(niceness).await.unwrap();
        assert_eq!((there, niceness()), ((here + NICENESS).min(19), here));
    }
}
