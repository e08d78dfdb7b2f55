//! The one clock. Rules receive a [`Timestamp`]; only this file reads the wall.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment in UTC, in whole milliseconds since 1970. On the wire it is RFC 3339, in rows a plain number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);
    /// The latest moment that RFC 3339 can write (end of the year 9999).
    pub const MAX: Self = Self(253_402_300_799_999);

    /// Clamped to what RFC 3339 can write, so that formatting never fails.
    pub const fn from_millis(ms: i64) -> Self {
        if ms < -62_135_596_800_000 {
            Self(-62_135_596_800_000)
        } else if ms > Self::MAX.0 {
            Self::MAX
        } else {
            Self(ms)
        }
    }

    /// Milliseconds since 1970.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970, rounded down.
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This moment and `d` more.
    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This moment and `d` less.
    #[must_use]
    pub fn minus(self, d: Duration) -> Self {
        Self::from_millis(self.0.saturating_sub(i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Time from `earlier` to here; zero when `earlier` is later, so a clock that steps back never panics.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = jiff::Timestamp::from_millisecond(self.0).unwrap_or_default();
        write!(f, "{moment:.3}")
    }
}

impl FromStr for Timestamp {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        // 35 characters hold any RFC 3339 time with nanoseconds and an offset; jiff alone would take longer forms.
        if s.len() > 35 {
            return Err("is not an RFC 3339 time such as 2026-01-31T09:30:00Z".to_owned());
        }
        s.parse::<jiff::Timestamp>()
            .map(|t| Self::from_millis(t.as_millisecond()))
            .map_err(|_| "is not an RFC 3339 time such as 2026-01-31T09:30:00Z".to_owned())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Where "now" comes from: the machine, or a test that moves it by hand. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's wall clock.
    System,
    /// What only [`Clock::advance`] and [`Clock::set`] change.
    Simulated(Arc<Simulated>),
}

/// A clock that a test moves by hand.
#[derive(Debug)]
pub struct Simulated {
    /// Milliseconds since 1970.
    wall_ms: AtomicI64,
    /// Milliseconds that were lived through, whatever the wall said.
    lived_ms: AtomicU64,
}

impl Clock {
    /// A clock that stands at `start` until somebody advances it.
    pub fn simulated(start: Timestamp) -> Self {
        let wall_ms = AtomicI64::new(start.as_millis());
        Self::Simulated(Arc::new(Simulated { wall_ms, lived_ms: AtomicU64::new(0) }))
    }

    /// The present moment.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => {
                let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                Timestamp::from_millis(since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
            }
            Self::Simulated(clock) => Timestamp::from_millis(clock.wall_ms.load(Ordering::Acquire)),
        }
    }

    /// Time since some moment of this process, which nobody can set: what tells a step of the wall clock from time that
    /// passed. Time in which the machine slept may be missing.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks how long the process has run")]
    pub fn lived(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        match self {
            Self::System => START.get_or_init(Instant::now).elapsed(),
            Self::Simulated(clock) => Duration::from_millis(clock.lived_ms.load(Ordering::Acquire)),
        }
    }

    /// Moves a simulated clock forward; the machine's clock cannot be moved and is left alone.
    pub fn advance(&self, by: Duration) {
        if let Self::Simulated(clock) = self {
            clock.lived_ms.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX / 4), Ordering::AcqRel);
            clock.wall_ms.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX / 4), Ordering::AcqRel);
        }
    }

    /// Sets a simulated clock, also backwards: a step, in which no time passes.
    pub fn set(&self, to: Timestamp) {
        if let Self::Simulated(clock) = self {
            clock.wall_ms.store(to.as_millis(), Ordering::Release);
        }
    }
}

/// Measures how long something took, for metrics and for how often the writer tidies up: never a rule's input.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[expect(clippy::disallowed_methods, reason = "durations for metrics are read here and nowhere else")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_and_read_as_rfc_3339() {
        let t = Timestamp::from_millis(1_767_225_600_123);
        assert_eq!(t.to_string(), "2026-01-01T00:00:00.123Z");
        assert_eq!("2026-01-01T00:00:00.123Z".parse(), Ok(t));
        assert_eq!("2026-01-01T02:00:00.123+02:00".parse(), Ok(t));
        for bad in ["", "yesterday", "2026-13-01T00:00:00Z", "2026-01-01", "1767225600"] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn a_clock_that_steps_back_gives_zero_and_not_a_panic() {
        let early = Timestamp::from_millis(1_000);
        let late = Timestamp::from_millis(5_000);
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(late.since(early), Duration::from_secs(4));
        assert_eq!(Timestamp::from_millis(i64::MAX), Timestamp::MAX);
    }
}
