//! The clock that trials run by: the machine's, plus whatever it was ever set back by. Setting a clock back therefore
//! gives nobody a longer trial. Paid time runs by the machine's clock, because a gateway names its end.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::kernel::Timestamp;
use crate::store::Row;

/// A step back below this is the machine's clock being trimmed, or two processors that disagree.
const STEP_MIN: Duration = Duration::from_secs(5);

/// What a restart must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct ClockRow {
    /// The latest time that was seen.
    pub seen_at: Timestamp,
    /// All steps back together.
    pub lost_ms: i64,
}
impl Row for ClockRow {}

/// Shared; only [`TrialClock::observe`] changes it, and one task calls that.
#[derive(Debug)]
pub(super) struct TrialClock {
    seen_ms: AtomicI64,
    lost_ms: AtomicI64,
}

impl TrialClock {
    /// Goes on from what was stored, or begins now.
    pub fn new(stored: Option<ClockRow>, now: Timestamp) -> Self {
        let row = stored.unwrap_or(ClockRow { seen_at: now, lost_ms: 0 });
        let clock =
            Self { seen_ms: AtomicI64::new(row.seen_at.as_millis()), lost_ms: AtomicI64::new(row.lost_ms.max(0)) };
        clock.observe(now);
        clock
    }

    /// Notices a step back since the last look; says how long it was.
    pub fn observe(&self, now: Timestamp) -> Duration {
        let seen = Timestamp::from_millis(self.seen_ms.load(Ordering::Relaxed));
        let back = seen.since(now);
        if back >= STEP_MIN {
            let step = i64::try_from(back.as_millis()).unwrap_or(i64::MAX);
            let lost = self.lost_ms.load(Ordering::Relaxed).saturating_add(step);
            self.lost_ms.store(lost, Ordering::Relaxed);
        } else if now < seen {
            return Duration::ZERO;
        }
        self.seen_ms.store(now.as_millis(), Ordering::Relaxed);
        if back >= STEP_MIN { back } else { Duration::ZERO }
    }

    /// The time by which trials end, at the machine's `now`.
    pub fn at(&self, now: Timestamp) -> Timestamp {
        now.plus(Duration::from_millis(u64::try_from(self.lost_ms.load(Ordering::Relaxed)).unwrap_or(0)))
    }

    /// What is to be stored.
    pub fn row(&self) -> ClockRow {
        ClockRow {
            seen_at: Timestamp::from_millis(self.seen_ms.load(Ordering::Relaxed)),
            lost_ms: self.lost_ms.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn day(n: u32) -> Timestamp {
        Timestamp::EPOCH.plus(DAY * n)
    }

    #[test]
    fn a_clock_that_is_set_back_again_and_again_gives_no_longer_trial() {
        let clock = TrialClock::new(None, day(100));
        for _ in 0..10 {
            clock.observe(day(106));
            assert_eq!(clock.observe(day(100)), DAY * 6);
        }
        assert_eq!(clock.at(day(100)), day(160), "sixty days were lived through");
    }

    #[test]
    fn a_step_back_while_the_appliance_was_off_counts_too() {
        let before = TrialClock::new(None, day(106)).row();
        assert_eq!(TrialClock::new(Some(before), day(100)).at(day(100)), day(106));
        assert_eq!(TrialClock::new(Some(before), day(110)).at(day(110)), day(110), "going on is no step");
    }

    #[test]
    fn trimming_is_no_step() {
        let clock = TrialClock::new(None, day(1));
        for _ in 0..100 {
            assert_eq!(clock.observe(day(1).minus(Duration::from_secs(4))), Duration::ZERO);
        }
        assert_eq!(clock.at(day(1)), day(1));
    }
}
