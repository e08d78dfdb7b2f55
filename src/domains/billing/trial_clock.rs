//! The clock that trials and licences run by: the machine's, plus whatever it was set back by. Setting a clock back
//! therefore gives nobody a longer trial. Paid time runs by the machine's clock, because a gateway names its end.
//!
//! A clock also steps without anybody's guilt: a dead battery boots in 2000 until the network corrects it, a slip of the
//! hand sets 2036. So a stopwatch that nobody can set runs along, and a step that is taken back counts as none:
//!
//! - A step back is lost time, and is added.
//! - A step forward, beyond what the stopwatch says has passed, pays lost time back. What is more than that stands for a
//!   day as claimed, the largest of the day: a step back within the day takes it back first.
//! - Over a time in which the appliance was off there is no stopwatch: the machine's word is taken for it, in both of the
//!   above.
//!
//! What an attacker gets out of it is the time in which the appliance was off or asleep, and nobody used it. That much
//! they had already, by setting the clock before each start to where it stood at the last stop. Time in which it ran
//! always counts: it moves this clock forward, and only a step forward, which moved it forward as far, lets it go back.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::kernel::Timestamp;
use crate::store::Row;

/// Steps that add up to less are the machine's clock being trimmed, or two processors that disagree.
const STEP_MIN_MS: i64 = 5_000;
/// How long a step forward may be taken back. A mistake is corrected by then.
const CLAIM_LASTS: Duration = Duration::from_secs(86_400);
/// How far the clock may run before it is stored: what a kill and a step back together can gain.
pub(super) const STORED_EVERY: Duration = Duration::from_secs(60);

/// What a restart must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct ClockRow {
    /// The latest time that was seen, by the machine as it is set now.
    pub seen_at: Timestamp,
    /// How far the machine's clock is behind the time of trials.
    pub lost_ms: i64,
    /// How far it stepped forward at once beyond what was lost.
    #[serde(default)]
    pub claimed_ms: i64,
    /// When it last did.
    #[serde(default)]
    pub claimed_at: Timestamp,
}
impl Row for ClockRow {}

impl ClockRow {
    /// Whether `self` has to be written, now that `stored` stands in the data file.
    pub fn is_due_after(&self, stored: Option<&Self>) -> bool {
        stored.is_none_or(|stored| {
            (self.lost_ms, self.claimed_ms) != (stored.lost_ms, stored.claimed_ms)
                || self.seen_at < stored.seen_at
                || self.seen_at.since(stored.seen_at) >= STORED_EVERY
        })
    }

    fn back(&mut self, by_ms: i64) {
        let claimed = if self.seen_at.since(self.claimed_at) <= CLAIM_LASTS { self.claimed_ms } else { 0 };
        let taken_back = claimed.min(by_ms);
        self.claimed_ms = claimed - taken_back;
        self.claimed_at = self.claimed_at.minus(Duration::from_millis(by_ms.unsigned_abs()));
        self.lost_ms = self.lost_ms.saturating_add(by_ms - taken_back);
    }

    fn forward(&mut self, by_ms: i64, now: Timestamp) {
        let paid = self.lost_ms.min(by_ms);
        self.lost_ms -= paid;
        let (claim, old) = (by_ms - paid, self.claimed_ms);
        // Only the largest of a day: they must not add up.
        if claim > 0 && (claim > old || self.seen_at.since(self.claimed_at) > CLAIM_LASTS) {
            self.claimed_ms = claim;
            self.claimed_at = now;
        }
    }
}

/// What [`TrialClock::observe`] noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Nothing but time going by.
    None,
    /// The machine's clock was set back by that much.
    Back(Duration),
    /// It was set forward.
    Forward(Duration),
}

#[derive(Debug)]
struct State {
    row: ClockRow,
    /// Wall and stopwatch at the last step. Steps are told from here, so that small ones add up.
    anchor: (Timestamp, Duration),
}

/// Shared; only [`TrialClock::observe`] changes it, and one task calls that. [`TrialClock::at`] waits for nobody.
#[derive(Debug)]
pub(super) struct TrialClock {
    lost_ms: AtomicI64,
    state: Mutex<State>,
}

impl TrialClock {
    /// Goes on from what was stored, or begins now. `lived` is the stopwatch's reading.
    pub fn new(stored: Option<ClockRow>, now: Timestamp, lived: Duration) -> Self {
        let fresh = ClockRow { seen_at: now, lost_ms: 0, claimed_ms: 0, claimed_at: Timestamp::EPOCH };
        let mut row = stored.unwrap_or(fresh);
        (row.lost_ms, row.claimed_ms) = (row.lost_ms.max(0), row.claimed_ms.max(0));
        let change_ms = now.as_millis().saturating_sub(row.seen_at.as_millis());
        if change_ms <= -STEP_MIN_MS {
            row.back(-change_ms);
        } else {
            // Up to the last minute may have been lived through and never stored.
            let off_ms = change_ms - i64::try_from(STORED_EVERY.as_millis()).unwrap_or(i64::MAX);
            if off_ms > 0 {
                row.forward(off_ms, now);
            }
        }
        row.seen_at = if change_ms <= -STEP_MIN_MS { now } else { row.seen_at.max(now) };
        Self { lost_ms: AtomicI64::new(row.lost_ms), state: Mutex::new(State { row, anchor: (now, lived) }) }
    }

    /// Notices a step since the last look.
    pub fn observe(&self, now: Timestamp, lived: Duration) -> Step {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (wall, watch) = state.anchor;
        let expected = wall.plus(lived.saturating_sub(watch));
        let step_ms = now.as_millis().saturating_sub(expected.as_millis());
        if step_ms.abs() < STEP_MIN_MS {
            state.row.seen_at = state.row.seen_at.max(now);
            return Step::None;
        }
        // A claim's age is told at the moment before the step.
        state.row.seen_at = expected;
        let by = Duration::from_millis(step_ms.unsigned_abs());
        let step = if step_ms < 0 {
            state.row.back(-step_ms);
            Step::Back(by)
        } else {
            state.row.forward(step_ms, now);
            Step::Forward(by)
        };
        state.row.seen_at = now;
        state.anchor = (now, lived);
        self.lost_ms.store(state.row.lost_ms, Ordering::Relaxed);
        step
    }

    /// The time by which trials and licences end, at the machine's `now`.
    pub fn at(&self, now: Timestamp) -> Timestamp {
        now.plus(self.lost())
    }

    /// What a clock on the wall shows at a moment of the trials' time.
    pub fn shown(&self, at: Timestamp) -> Timestamp {
        at.minus(self.lost())
    }

    fn lost(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.lost_ms.load(Ordering::Relaxed)).unwrap_or(0))
    }

    /// What is to be stored.
    pub fn row(&self) -> ClockRow {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).row
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Clock;

    const DAY: Duration = Duration::from_secs(86_400);
    const YEAR: Duration = Duration::from_secs(365 * 86_400);

    fn day(n: u32) -> Timestamp {
        Timestamp::EPOCH.plus(DAY * n)
    }

    /// A machine whose clock the test sets, and an appliance on it that may be off.
    struct Machine {
        clock: Clock,
        stored: Option<ClockRow>,
        running: Option<TrialClock>,
    }

    impl Machine {
        fn at(now: Timestamp) -> Self {
            let mut machine = Self { clock: Clock::simulated(now), stored: None, running: None };
            machine.start();
            machine
        }

        fn start(&mut self) {
            self.running = Some(TrialClock::new(self.stored, self.clock.now(), self.clock.lived()));
            self.tick();
        }

        /// As the watch does.
        fn tick(&mut self) -> Step {
            let Some(running) = &self.running else { return Step::None };
            let step = running.observe(self.clock.now(), self.clock.lived());
            if running.row().is_due_after(self.stored.as_ref()) {
                self.stored = Some(running.row());
            }
            step
        }

        fn stop(&mut self) {
            self.running = None;
        }

        fn live(&mut self, for_: Duration) {
            self.clock.advance(for_);
            self.tick();
        }

        fn set(&mut self, to: Timestamp) -> Step {
            self.clock.set(to);
            self.tick()
        }

        fn trial_now(&self) -> Timestamp {
            self.running.as_ref().map_or(Timestamp::EPOCH, |running| running.at(self.clock.now()))
        }
    }

    #[test]
    fn a_clock_that_is_set_back_again_and_again_gives_no_longer_trial() {
        let mut machine = Machine::at(day(100));
        for _ in 0..10 {
            machine.live(DAY * 6);
            assert_eq!(machine.set(day(100)), Step::Back(DAY * 6));
        }
        assert_eq!(machine.trial_now(), day(160), "sixty days were lived through");
    }

    #[test]
    fn a_step_back_while_the_appliance_was_off_counts_too() {
        let mut machine = Machine::at(day(106));
        machine.stop();
        machine.set(day(100));
        machine.start();
        assert_eq!(machine.trial_now(), day(106));
        machine.stop();
        machine.live(DAY * 10);
        machine.start();
        assert!(machine.trial_now() >= day(110), "going on is no step");
    }

    /// The step that a start found was kept in memory only, because nothing is stored before the clock has passed what
    /// was stored last: whoever set it back a year and restarted every day had a trial without end.
    #[test]
    fn a_step_that_a_start_found_is_stored_at_once() {
        let mut machine = Machine::at(day(1_000));
        let mut lived = Duration::ZERO;
        machine.stop();
        machine.set(day(635));
        for _ in 0..30 {
            machine.start();
            machine.live(DAY);
            lived += DAY;
            machine.stop();
        }
        machine.start();
        assert_eq!(machine.trial_now(), day(1_000).plus(lived));
    }

    /// The step was forgotten where its one write failed: the look that noticed it had used it up.
    #[test]
    fn a_step_that_could_not_be_written_stays_due() {
        let clock = Clock::simulated(day(10));
        let trials = TrialClock::new(None, clock.now(), clock.lived());
        let stored = trials.row();
        clock.set(day(9));
        assert_eq!(trials.observe(clock.now(), clock.lived()), Step::Back(DAY));
        assert_eq!(trials.observe(clock.now(), clock.lived()), Step::None, "it is noticed once");
        assert!(trials.row().is_due_after(Some(&stored)));
        assert!(!trials.row().is_due_after(Some(&trials.row())));
    }

    /// A dead battery boots in 2000 until the network has corrected the clock, and somebody sets 2036 by mistake: each
    /// ended every trial for good.
    #[test]
    fn a_wrong_clock_that_is_corrected_costs_nobody_a_trial() {
        let before = day(20_000);
        let soon = DAY * 2;
        for restarted in [false, true] {
            let mut machine = Machine::at(before);
            machine.stop();
            machine.set(day(11_000));
            machine.start();
            machine.live(Duration::from_secs(20));
            if restarted {
                machine.stop();
            }
            machine.set(before.plus(DAY));
            if restarted {
                machine.start();
            }
            assert!(machine.trial_now() < before.plus(soon), "a dead battery: {}", machine.trial_now());

            let mut machine = Machine::at(before);
            if restarted {
                machine.stop();
            }
            machine.set(before.plus(YEAR * 10));
            if restarted {
                machine.start();
            }
            machine.live(Duration::from_secs(600));
            machine.set(before.plus(Duration::from_secs(600)));
            assert!(machine.trial_now() < before.plus(soon), "a slip of the hand: {}", machine.trial_now());
        }
    }

    /// Whoever hopes to gain from the forgiveness above: forward and back, in any order, running or not, as often as
    /// they like.
    #[test]
    fn no_play_with_the_clock_makes_the_time_that_the_appliance_ran_go_away() {
        let start = day(10_000);
        let random = crate::kernel::Random::seeded(5);
        let byte = || {
            let mut one = [0; 1];
            random.fill(&mut one);
            one.first().copied().unwrap_or(0)
        };
        for round in 0..300 {
            let mut machine = Machine::at(start);
            let (mut lived, mut restarts) = (Duration::ZERO, 0);
            for _ in 0..40 {
                let far = Duration::from_secs(u64::from(byte()) * 9_000);
                match byte() % 6 {
                    0 => drop(machine.set(machine.clock.now().plus(far))),
                    1 => drop(machine.set(machine.clock.now().minus(far))),
                    2 if machine.running.is_some() => {
                        machine.stop();
                        restarts += 1;
                    }
                    3 if machine.running.is_none() => machine.start(),
                    _ if machine.running.is_some() => {
                        machine.live(far);
                        lived += far;
                    }
                    _ => machine.clock.advance(far),
                }
            }
            if machine.running.is_none() {
                machine.start();
            }
            let least = start.plus(lived).minus(STORED_EVERY * restarts);
            assert!(machine.trial_now() >= least, "round {round}: {} of {least}", machine.trial_now());
        }
    }

    /// An appliance that is off every night claims each night's hours; a step back must not win months of them at once.
    #[test]
    fn claims_do_not_add_up() {
        let mut machine = Machine::at(day(0));
        for _ in 0..60 {
            machine.live(DAY / 2);
            machine.stop();
            machine.live(DAY / 2);
            machine.start();
        }
        assert_eq!(machine.trial_now(), day(60));
        machine.set(day(0));
        assert!(machine.trial_now() >= day(59), "{}", machine.trial_now());
    }

    #[test]
    fn trimming_is_no_step_but_many_small_ones_are() {
        let mut machine = Machine::at(day(1));
        for _ in 0..100 {
            assert_eq!(machine.set(day(1).minus(Duration::from_secs(4))), Step::None);
            assert_eq!(machine.set(day(1)), Step::None);
        }
        assert_eq!(machine.trial_now(), day(1));
        for n in 1..=10 {
            machine.set(day(1).minus(Duration::from_secs(4 * n)));
        }
        assert!(machine.trial_now() >= day(1).minus(Duration::from_secs(5)), "{}", machine.trial_now());
    }
}
