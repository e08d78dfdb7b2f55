//! When heartbeats are judged by the hard rules alone, and when in full again. Pure: times, durations and lengths come
//! in, an effort comes out. Knows nothing of devices, of the store or of the clock.
//!
//! Closed, everything is judged in full. A second in which scoring was too slow (its mean or its 95th percentile), in
//! which too few were judged while many waited, or a queue that is too long opens it. Open, the simplified scorer
//! answers for a while: it holds the last decision for at most five minutes and lets the hard rules speak. Then it is
//! half open: each eighth heartbeat is a probe, judged in full; enough good probes close it, a bad one opens it for twice
//! as long, five minutes at most. A fleet that has fallen silent closes it, too: whoever speaks next is measured again.

use std::time::Duration;

use super::cell::Effort;
use crate::kernel::Timestamp;

/// What is still healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Mean time to judge one heartbeat.
    pub mean: Duration,
    /// Time in which 95 of 100 are judged.
    pub p95: Duration,
    /// Heartbeats judged in a second in which at least [`STARVED_QUEUE`] waited all the time; 0: any number will do.
    pub throughput_min: u32,
    /// Jobs waiting for the writer from which heartbeats are judged by the hard rules alone.
    pub queue: u64,
    /// How long it stays open at first.
    pub open: Duration,
}

/// Heartbeats in a window before its times say anything.
pub const SAMPLES_MIN: u64 = 32;
/// Jobs that must have waited all along for a low throughput to count: otherwise there was simply no more to do.
pub const STARVED_QUEUE: u64 = 256;
/// Probes that must all be good before everything is judged in full again.
pub const PROBES: u64 = 16;
/// Each n-th heartbeat is a probe.
const PROBE_EACH: u64 = 8;
const WINDOW: Duration = Duration::from_secs(1);
/// Silence after which it closes by itself, once it may.
const SILENCE: Duration = Duration::from_secs(10);
/// It is never open for longer without a probe.
pub const OPEN_MAX: Duration = Duration::from_secs(300);
/// Durations of a window that are kept for the percentile: the latest.
const KEPT: usize = 1_024;

/// Why it opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Scoring took too long on average.
    Mean,
    /// Too many single heartbeats took too long.
    P95,
    /// Too much waited for the writer.
    Queue,
    /// Too few were judged while many waited.
    Throughput,
}

impl Cause {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mean => "mean_latency",
            Self::P95 => "p95_latency",
            Self::Queue => "queue_length",
            Self::Throughput => "throughput",
        }
    }
}

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Everything is judged in full.
    Closed,
    /// Nothing is.
    Open,
    /// Probes are.
    HalfOpen,
}

impl State {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// A change that the log has to know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// From now on the simplified scorer answers.
    Degraded {
        /// Why.
        cause: Cause,
        /// What was measured: microseconds, jobs, or heartbeats in a second.
        measured: u64,
        /// What is still healthy, in the same unit.
        bound: u64,
    },
    /// Everything is judged in full again.
    Recovered {
        /// How long it was not.
        after: Duration,
    },
}

/// The breaker. The writer alone moves it.
#[derive(Debug)]
pub struct Breaker {
    bounds: Bounds,
    state: State,
    cause: Option<Cause>,
    /// The first opening of this spell; probes that fail do not begin another.
    degraded_since: Timestamp,
    /// When the open state ends.
    until: Timestamp,
    open_for: Duration,
    /// Heartbeats since it became half open.
    asked: u64,
    good_probes: u64,
    last_seen: Timestamp,
    window: Window,
    changes: Vec<Change>,
}

impl Breaker {
    /// Closed.
    pub fn new(bounds: Bounds, now: Timestamp) -> Self {
        Self {
            bounds,
            state: State::Closed,
            cause: None,
            degraded_since: now,
            until: now,
            open_for: bounds.open,
            asked: 0,
            good_probes: 0,
            last_seen: now,
            window: Window::starting(now),
            changes: Vec::new(),
        }
    }

    /// Where it stands.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Why it is not closed.
    pub const fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// How the next heartbeat is judged, with `queued` jobs waiting.
    pub fn admit(&mut self, now: Timestamp, queued: u64) -> Effort {
        self.tick(now, queued);
        self.last_seen = now;
        self.window.waited(queued);
        if queued >= self.bounds.queue {
            self.open(now, Cause::Queue, queued, self.bounds.queue);
        }
        match self.state {
            State::Closed => Effort::Full,
            State::Open => Effort::Simplified,
            State::HalfOpen => {
                self.asked += 1;
                if self.asked % PROBE_EACH == 1 { Effort::Full } else { Effort::Simplified }
            }
        }
    }

    /// Hears how long a heartbeat took that was judged with this effort.
    pub fn observe(&mut self, now: Timestamp, took: Duration, effort: Effort) {
        if effort != Effort::Full {
            return;
        }
        if self.state == State::HalfOpen {
            if took > self.bounds.p95 {
                return self.open(now, Cause::P95, micros(took), micros(self.bounds.p95));
            }
            self.good_probes += 1;
            if self.good_probes >= PROBES {
                self.close(now);
            }
            return;
        }
        self.window.took(took);
    }

    /// Lets time pass; also called while nothing arrives.
    pub fn tick(&mut self, now: Timestamp, queued: u64) {
        match self.state {
            State::Closed => self.judge_window(now),
            // A clock that was set back does not prolong it.
            State::Open if now >= self.until || now.plus(OPEN_MAX) < self.until => {
                if queued >= self.bounds.queue {
                    // Nothing to probe yet: one that cannot wait would be answered late by all the others.
                    self.until = now.plus(self.bounds.open);
                } else {
                    (self.state, self.asked, self.good_probes) = (State::HalfOpen, 0, 0);
                }
            }
            State::HalfOpen if now.since(self.last_seen) >= SILENCE && queued < self.bounds.queue => self.close(now),
            State::Open | State::HalfOpen => {}
        }
    }

    /// What changed since the last call, oldest first.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    fn judge_window(&mut self, now: Timestamp) {
        let age = now.since(self.window.since);
        // A clock that was set back begins a new window.
        if age < WINDOW && now >= self.window.since {
            return;
        }
        let window = std::mem::replace(&mut self.window, Window::starting(now));
        // An older window says nothing of the present.
        if age >= 2 * WINDOW + SILENCE {
            return;
        }
        if window.count >= SAMPLES_MIN {
            let (mean, p95) = (window.mean(), window.p95());
            if mean > self.bounds.mean {
                return self.open(now, Cause::Mean, micros(mean), micros(self.bounds.mean));
            }
            if p95 > self.bounds.p95 {
                return self.open(now, Cause::P95, micros(p95), micros(self.bounds.p95));
            }
        }
        let per_second = window.count * 1_000 / u64::try_from(age.as_millis()).unwrap_or(1_000).max(1);
        let wanted = u64::from(self.bounds.throughput_min);
        if per_second < wanted && window.least_waiting.is_some_and(|n| n >= STARVED_QUEUE) {
            self.open(now, Cause::Throughput, per_second, wanted);
        }
    }

    fn open(&mut self, now: Timestamp, cause: Cause, measured: u64, bound: u64) {
        match self.state {
            State::Open => return,
            State::Closed => {
                (self.degraded_since, self.open_for) = (now, self.bounds.open);
                self.changes.push(Change::Degraded { cause, measured, bound });
            }
            // The spell goes on; the log knows of it.
            State::HalfOpen => self.open_for = (2 * self.open_for).min(OPEN_MAX),
        }
        self.state = State::Open;
        self.cause = Some(cause);
        self.until = now.plus(self.open_for);
    }

    fn close(&mut self, now: Timestamp) {
        self.state = State::Closed;
        self.cause = None;
        self.window = Window::starting(now);
        self.changes.push(Change::Recovered { after: now.since(self.degraded_since) });
    }
}

/// A second of scoring.
#[derive(Debug)]
struct Window {
    since: Timestamp,
    count: u64,
    sum_us: u64,
    latest_us: Vec<u32>,
    /// The fewest jobs that waited at any heartbeat; `None` before the first.
    least_waiting: Option<u64>,
}

impl Window {
    const fn starting(since: Timestamp) -> Self {
        Self { since, count: 0, sum_us: 0, latest_us: Vec::new(), least_waiting: None }
    }

    fn waited(&mut self, queued: u64) {
        self.least_waiting = Some(self.least_waiting.map_or(queued, |least| least.min(queued)));
    }

    fn took(&mut self, took: Duration) {
        let us = micros(took);
        let short = u32::try_from(us).unwrap_or(u32::MAX);
        let place = usize::try_from(self.count).unwrap_or(0) % KEPT;
        match self.latest_us.get_mut(place) {
            Some(old) => *old = short,
            None => self.latest_us.push(short),
        }
        self.count += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    fn mean(&self) -> Duration {
        Duration::from_micros(self.sum_us / self.count.max(1))
    }

    fn p95(&self) -> Duration {
        let mut sorted = self.latest_us.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * 95).div_ceil(100).saturating_sub(1);
        Duration::from_micros(sorted.get(rank).copied().unwrap_or(0).into())
    }
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
