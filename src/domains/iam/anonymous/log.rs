//! The admitted requests of one key: their exact times for ordinary limits, an estimate for large ones.
//!
//! Exact: four bytes for each request of the present window, N allowed means N in any window. Above
//! [`Rule::EXACT_LIMIT_MAX`] a counter of constant size takes over (`kernel::rate::SlidingWindow`), whose estimate after
//! a burst is off by at most the count of the window before; from rest it is exact, too.
//!
//! Knows nothing of tables or locks; time is passed in.

use std::collections::VecDeque;
use std::time::Duration;

use crate::kernel::Timestamp;
use crate::kernel::rate::{Decision, Quota, SlidingWindow};

/// How far two threads that read the clock one after the other may be apart when they reach a counter.
const JITTER_MS: i64 = 1_000;
/// Half of what 32 bits of milliseconds can tell apart.
const WINDOW_MS_MAX: i64 = 1 << 31;

/// The quota of every key of a set of tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub quota: Quota,
    window_ms: i64,
}

impl Rule {
    /// The largest limit for which exact times are kept.
    pub const EXACT_LIMIT_MAX: u32 = 1_000;

    /// A window of more than 24 days is cut to that.
    pub fn new(quota: Quota) -> Self {
        let window_ms = i64::try_from(quota.window.as_millis()).unwrap_or(i64::MAX).clamp(1, WINDOW_MS_MAX);
        let window = Duration::from_millis(u64::try_from(window_ms).unwrap_or(1));
        Self { quota: Quota { window, ..quota }, window_ms }
    }

    const fn is_exact(&self) -> bool {
        self.quota.limit <= Self::EXACT_LIMIT_MAX
    }

    fn limit(&self) -> usize {
        usize::try_from(self.quota.limit).unwrap_or(usize::MAX)
    }
}

/// A log as it is written down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Saved {
    /// Milliseconds since 1970, ascending.
    Times(Vec<i64>),
    /// An estimate of so many in the window that ends at `at_ms`.
    Count { count: u32, at_ms: i64 },
}

impl Saved {
    /// Whether there is nothing to write down.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Times(times) => times.is_empty(),
            Self::Count { count, .. } => *count == 0,
        }
    }

    /// The newest admitted request, in milliseconds since 1970.
    pub fn newest_ms(&self) -> i64 {
        match self {
            Self::Times(times) => times.last().copied().unwrap_or(i64::MIN),
            Self::Count { at_ms, .. } => *at_ms,
        }
    }
}

/// The log of one key.
#[derive(Debug)]
pub(super) enum Log {
    Exact(Exact),
    Counted { window: SlidingWindow, newest_ms: i64 },
}

/// Times in ascending order. A time is the low half of its milliseconds since 1970, which is enough because all of them
/// lie within one window of the newest.
#[derive(Debug, Default)]
pub(super) struct Exact {
    newest_ms: i64,
    times: VecDeque<u32>,
}

fn low(ms: i64) -> u32 {
    u32::try_from(ms & 0xffff_ffff).unwrap_or(0)
}

impl Exact {
    /// The whole of a time whose low half is `time`.
    fn whole(&self, time: u32) -> i64 {
        self.newest_ms.saturating_sub(low(self.newest_ms).wrapping_sub(time).into())
    }

    /// Forgets what the window has left behind. A time from the future means that the clock was set back: it counts as
    /// now, so that nothing is given away and nobody waits for longer than a window.
    fn settle(&mut self, rule: &Rule, now_ms: i64) {
        if now_ms < self.newest_ms {
            let ahead = self.times.iter().rev().take_while(|t| self.whole(**t) > now_ms).count();
            for time in self.times.iter_mut().rev().take(ahead) {
                *time = low(now_ms);
            }
            self.newest_ms = now_ms;
        }
        if now_ms.saturating_sub(self.newest_ms) >= rule.window_ms {
            self.times.clear();
        }
        while self.times.front().is_some_and(|t| now_ms.saturating_sub(self.whole(*t)) >= rule.window_ms) {
            self.times.pop_front();
        }
    }

    fn push(&mut self, now_ms: i64) {
        self.newest_ms = now_ms;
        self.times.push_back(low(now_ms));
    }

    fn decision(&self, rule: &Rule, now_ms: i64, admitted: bool) -> Decision {
        let free_at = if admitted { self.times.back() } else { self.times.front() };
        let wait_ms = match free_at {
            Some(time) => self.whole(*time).saturating_add(rule.window_ms).saturating_sub(now_ms),
            None if admitted => 0,
            None => rule.window_ms,
        };
        Decision {
            admitted,
            quota: rule.quota,
            remaining: u32::try_from(rule.limit().saturating_sub(self.times.len())).unwrap_or(u32::MAX),
            reset_s: u64::try_from(wait_ms).unwrap_or(0).div_ceil(1_000),
        }
    }
}

impl Log {
    /// Of a key that was never seen.
    pub fn new(rule: &Rule) -> Self {
        if rule.is_exact() {
            Self::Exact(Exact::default())
        } else {
            Self::Counted { window: SlidingWindow::default(), newest_ms: i64::MIN }
        }
    }

    /// What [`Log::count`] would say, without counting.
    pub fn look(&mut self, rule: &Rule, now_ms: i64) -> Decision {
        match self {
            Self::Exact(exact) => {
                exact.settle(rule, now_ms);
                exact.decision(rule, now_ms, exact.times.len() < rule.limit())
            }
            Self::Counted { window, newest_ms } => window.peek(rule.quota, steady(*newest_ms, now_ms)),
        }
    }

    /// Counts one request, or refuses and counts nothing.
    pub fn count(&mut self, rule: &Rule, now_ms: i64) -> Decision {
        match self {
            Self::Exact(exact) => {
                exact.settle(rule, now_ms);
                let admitted = exact.times.len() < rule.limit();
                if admitted {
                    exact.push(now_ms);
                }
                exact.decision(rule, now_ms, admitted)
            }
            Self::Counted { window, newest_ms } => {
                let now = steady(*newest_ms, now_ms);
                let decision = window.admit(rule.quota, now);
                if decision.admitted {
                    *newest_ms = now.as_millis();
                }
                decision
            }
        }
    }

    /// Whether nothing is left to remember: the log may be forgotten.
    pub fn is_idle(&mut self, rule: &Rule, now_ms: i64) -> bool {
        self.look(rule, now_ms).remaining == rule.quota.limit
    }

    /// To be written down.
    pub fn save(&self, rule: &Rule) -> Saved {
        match self {
            Self::Exact(exact) => Saved::Times(exact.times.iter().map(|t| exact.whole(*t)).collect()),
            Self::Counted { window, newest_ms } => {
                let at = Timestamp::from_millis(*newest_ms);
                Saved::Count { count: window.used(rule.quota.window, at), at_ms: *newest_ms }
            }
        }
    }

    /// As it was written down, perhaps under another rule. An estimate is taken up as if all of it had come at its last
    /// moment, which never admits more than before.
    pub fn restore(saved: &Saved, rule: &Rule) -> Self {
        let mut log = Self::new(rule);
        match (&mut log, saved) {
            // Of more than the limit, only the newest still decide anything.
            (Self::Exact(exact), Saved::Times(times)) => {
                let newest_ms = saved.newest_ms();
                let of_the_window = times.iter().filter(|t| newest_ms.saturating_sub(**t) < rule.window_ms);
                let skipped = of_the_window.clone().count().saturating_sub(rule.limit());
                of_the_window.skip(skipped).for_each(|t| exact.push(*t));
            }
            (Self::Exact(exact), Saved::Count { count, at_ms }) => {
                (0..rule.quota.limit.min(*count)).for_each(|_| exact.push(*at_ms));
            }
            (Self::Counted { window, newest_ms }, _) => {
                let count = match saved {
                    Saved::Times(times) => u32::try_from(times.len()).unwrap_or(u32::MAX),
                    Saved::Count { count, .. } => *count,
                };
                *newest_ms = saved.newest_ms();
                *window = SlidingWindow::holding(count, rule.quota, Timestamp::from_millis(*newest_ms));
            }
        }
        log
    }
}

/// The counter forgets everything when its clock goes back by a window: a thread that read the clock a moment before
/// another must not do that.
fn steady(newest_ms: i64, now_ms: i64) -> Timestamp {
    let behind = newest_ms.saturating_sub(now_ms);
    Timestamp::from_millis(if (1..=JITTER_MS).contains(&behind) { newest_ms } else { now_ms })
}
