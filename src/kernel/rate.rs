//! A sliding-window counter in one atomic word: constant time, constant memory, exact under concurrency.
//!
//! Two counters, of the present and the previous fixed window. The previous one counts by the share of it that the
//! sliding window still covers, which assumes that its requests came evenly. For a burst at one end of the previous
//! window the estimate is off by at most the whole of that window's count; from rest, N admitted means exactly N.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Timestamp;

const COUNT_BITS: u32 = 20;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const INDEX_MASK: u64 = (1 << 24) - 1;

/// How many requests a window of time admits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    /// Requests; at most 1,048,575.
    pub limit: u32,
    /// The length of the window.
    pub window: Duration,
}

impl Quota {
    /// So many a minute.
    pub const fn per_minute(limit: u32) -> Self {
        Self { limit, window: Duration::from_secs(60) }
    }
}

/// What the counter said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Whether the request may pass; only then was it counted.
    pub admitted: bool,
    /// The quota that decided.
    pub quota: Quota,
    /// Requests that would still be admitted now.
    pub remaining: u32,
    /// Seconds, rounded up, until a request will be admitted, or until the window is full again.
    pub reset_s: u64,
}

/// The counter of one caller.
#[derive(Debug, Default)]
pub struct SlidingWindow(AtomicU64);

#[derive(Clone, Copy)]
struct Counts {
    index: u64,
    previous: u64,
    current: u64,
}

impl Counts {
    const fn unpack(word: u64) -> Self {
        Self { index: word >> (2 * COUNT_BITS), previous: (word >> COUNT_BITS) & COUNT_MAX, current: word & COUNT_MAX }
    }

    const fn pack(self) -> u64 {
        (self.index << (2 * COUNT_BITS)) | (self.previous << COUNT_BITS) | self.current
    }

    /// The counts as seen from window number `index`.
    const fn at(self, index: u64) -> Self {
        if self.index == index {
            self
        } else if (self.index + 1) & INDEX_MASK == index {
            Self { index, previous: self.current, current: 0 }
        } else if (index + 1) & INDEX_MASK == self.index {
            // Another caller's reading of the clock has just passed into the next window: nothing may be forgotten.
            self
        } else {
            // Two windows or more ago, or a clock that stepped back: nothing counts any more.
            Self { index, previous: 0, current: 0 }
        }
    }
}

impl SlidingWindow {
    /// A counter that has seen nothing.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// A counter that has seen `count` requests at `at`, all of them then: what is left of one that was written down.
    pub fn holding(count: u32, quota: Quota, at: Timestamp) -> Self {
        let window_ms = u64::try_from(quota.window.as_millis()).unwrap_or(u64::MAX).max(1);
        let index = (u64::try_from(at.as_millis()).unwrap_or(0) / window_ms) & INDEX_MASK;
        Self(AtomicU64::new(Counts { index, previous: 0, current: u64::from(count).min(COUNT_MAX) }.pack()))
    }

    /// The estimate of the requests in the window that ends at `now`.
    pub fn used(&self, window: Duration, now: Timestamp) -> u32 {
        let all = u32::try_from(COUNT_MAX).unwrap_or(u32::MAX);
        all - self.peek(Quota { limit: all, window }, now).remaining
    }

    /// Admits and counts one request, or refuses and counts nothing.
    pub fn admit(&self, quota: Quota, now: Timestamp) -> Decision {
        self.decide(quota, now, true)
    }

    /// What [`SlidingWindow::admit`] would say, without counting.
    pub fn peek(&self, quota: Quota, now: Timestamp) -> Decision {
        self.decide(quota, now, false)
    }

    fn decide(&self, quota: Quota, now: Timestamp, count: bool) -> Decision {
        let window_ms = u64::try_from(quota.window.as_millis()).unwrap_or(u64::MAX).max(1);
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(0);
        let index = (now_ms / window_ms) & INDEX_MASK;
        let elapsed_ms = now_ms % window_ms;
        let limit = u64::from(quota.limit).min(COUNT_MAX);
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let counts = Counts::unpack(word).at(index);
            let used = counts.current + weight(counts.previous, elapsed_ms, window_ms);
            let admitted = used < limit;
            if !(admitted && count) {
                return Decision {
                    admitted,
                    quota,
                    remaining: u32::try_from(limit.saturating_sub(used)).unwrap_or(u32::MAX),
                    reset_s: seconds(if admitted {
                        window_ms - elapsed_ms
                    } else {
                        wait_ms(counts, limit, elapsed_ms, window_ms)
                    }),
                };
            }
            let next = Counts { current: counts.current + 1, ..counts };
            match self.0.compare_exchange_weak(word, next.pack(), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    return Decision {
                        admitted: true,
                        quota,
                        remaining: u32::try_from(limit - used - 1).unwrap_or(u32::MAX),
                        reset_s: seconds(window_ms - elapsed_ms),
                    };
                }
                Err(seen) => word = seen,
            }
        }
    }

    /// Whether the counter has nothing left to remember: it may be forgotten.
    pub fn is_idle(&self, quota: Quota, now: Timestamp) -> bool {
        self.peek(quota, now).remaining == quota.limit
    }
}

/// The exact times of the last admitted requests: for small limits, where an estimate would make people wait too long.
/// Memory grows with the limit, which is at most [`SlidingLog::LIMIT_MAX`].
#[derive(Debug, Default)]
pub struct SlidingLog(Mutex<VecDeque<i64>>);

impl SlidingLog {
    /// More than this and a counter of constant size is due.
    pub const LIMIT_MAX: u32 = 1_000;

    /// Admits and counts one request, or refuses and counts nothing.
    pub fn admit(&self, quota: Quota, now: Timestamp) -> Decision {
        self.decide(quota, now, true)
    }

    /// What [`SlidingLog::admit`] would say, without counting.
    pub fn peek(&self, quota: Quota, now: Timestamp) -> Decision {
        self.decide(quota, now, false)
    }

    /// Takes back the newest request: it turned out not to be of the counted kind.
    pub fn give_back(&self) {
        self.lock().pop_back();
    }

    /// Whether nothing is left to remember.
    pub fn is_idle(&self, quota: Quota, now: Timestamp) -> bool {
        self.peek(quota, now).remaining == quota.limit.min(Self::LIMIT_MAX)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&self, quota: Quota, now: Timestamp, count: bool) -> Decision {
        let limit = quota.limit.min(Self::LIMIT_MAX) as usize;
        let window_ms = i64::try_from(quota.window.as_millis()).unwrap_or(i64::MAX);
        let now_ms = now.as_millis();
        let mut times = self.lock();
        // A time from the future means that the clock was set back: it must not count for longer than a window.
        while times.front().is_some_and(|t| now_ms.saturating_sub(*t) >= window_ms || *t > now_ms) {
            times.pop_front();
        }
        let admitted = times.len() < limit;
        if admitted && count {
            times.push_back(now_ms);
        }
        let free_at = if times.len() < limit { times.back() } else { times.front() };
        let wait_ms = free_at.map_or(0, |t| t.saturating_add(window_ms).saturating_sub(now_ms));
        Decision {
            admitted,
            quota,
            remaining: u32::try_from(limit.saturating_sub(times.len())).unwrap_or(0),
            reset_s: seconds(u64::try_from(wait_ms).unwrap_or(0)),
        }
    }
}

/// The share of the previous window that the sliding window still covers, rounded up so that a refusal is never early.
const fn weight(previous: u64, elapsed_ms: u64, window_ms: u64) -> u64 {
    (previous * (window_ms - elapsed_ms)).div_ceil(window_ms)
}

/// How long until one more request is admitted, if none comes meanwhile.
fn wait_ms(counts: Counts, limit: u64, elapsed_ms: u64, window_ms: u64) -> u64 {
    if limit == 0 {
        return window_ms;
    }
    // The moment within a window at which `previous` weighs less than `room`.
    let fades_below = |previous: u64, room: u64| {
        if previous < room { 0 } else { window_ms - (window_ms * (room - 1)) / previous.max(1) }
    };
    if counts.current < limit {
        fades_below(counts.previous, limit - counts.current).saturating_sub(elapsed_ms).max(1)
    } else {
        (window_ms - elapsed_ms) + fades_below(counts.current, limit)
    }
}

const fn seconds(ms: u64) -> u64 {
    ms.div_ceil(1000)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn n_allowed_means_n_also_under_concurrency() {
        let window = std::sync::Arc::new(SlidingWindow::default());
        let quota = Quota::per_minute(1_000);
        let admitted: usize = (0..64)
            .map(|_| {
                let window = std::sync::Arc::clone(&window);
                std::thread::spawn(move || (0..100).filter(|_| window.admit(quota, at(30_000)).admitted).count())
            })
            .collect::<Vec<_>>()
            .into_iter()
            .map(|t| t.join().unwrap())
            .sum();
        assert_eq!(admitted, 1_000);
    }

    #[test]
    fn a_refusal_says_truly_when_the_next_request_will_pass() {
        for (limit, burst_at_ms, now_ms) in
            [(10, 0, 1_000), (10, 59_000, 61_000), (1, 30_000, 30_001), (120, 5, 119_000)]
        {
            let window = SlidingWindow::default();
            let quota = Quota::per_minute(limit);
            while window.admit(quota, at(burst_at_ms)).admitted {}
            let refused = window.admit(quota, at(now_ms));
            if refused.admitted {
                continue;
            }
            let wait_ms = i64::try_from(refused.reset_s).unwrap() * 1000;
            assert!(refused.reset_s >= 1);
            assert!(window.peek(quota, at(now_ms + wait_ms)).admitted, "limit {limit} at {now_ms}: {refused:?}");
        }
    }

    #[test]
    fn the_exact_log_frees_each_place_one_window_after_it_was_taken() {
        let log = SlidingLog::default();
        let quota = Quota::per_minute(3);
        for ms in [10_000, 20_000, 30_000] {
            assert!(log.admit(quota, at(ms)).admitted);
        }
        let refused = log.admit(quota, at(30_001));
        assert!(!refused.admitted);
        assert_eq!(refused.reset_s, 40, "the first place is free again at 70 s");
        assert!(!log.admit(quota, at(69_999)).admitted);
        assert!(log.admit(quota, at(70_000)).admitted);
        assert!(!log.admit(quota, at(70_000)).admitted, "only one place was free");
        log.give_back();
        assert!(log.admit(quota, at(70_000)).admitted);
        assert!(log.is_idle(quota, at(130_000)));
    }

    #[test]
    fn refused_requests_do_not_consume_and_idle_counters_are_forgotten() {
        let window = SlidingWindow::default();
        let quota = Quota::per_minute(2);
        assert_eq!(window.admit(quota, at(0)).remaining, 1);
        assert_eq!(window.admit(quota, at(0)).remaining, 0);
        for _ in 0..50 {
            assert!(!window.admit(quota, at(1)).admitted);
        }
        assert!(!window.is_idle(quota, at(60_000)));
        assert!(window.is_idle(quota, at(120_000)));
        assert!(window.admit(quota, at(120_000)).admitted);
    }
}
