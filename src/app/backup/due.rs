//! When a backup and a trial are due, when silence is an alarm, and whether there is room: rules only. Time, settings and
//! what is remembered come in as they are; nothing here looks at a clock, a file or a disk.
//!
//! What was remembered may be of the future: a machine boots with a wrong clock, works for a while, and is set right. A
//! moment later than now is worth as much as none, or backups would rest until that future.

use std::time::Duration;

use crate::config;
use crate::kernel::Timestamp;
use crate::observe::strain::Disk;

/// How much later than now something may have happened: clocks are set right by seconds all the time.
const SLACK: Duration = Duration::from_secs(300);
/// Without a backup, or without a trial, for so long there is an alarm; longer where they are wanted less often.
const ALARM_AFTER: Duration = Duration::from_secs(86_400);
/// From one alarm to the next.
const ALARM_EVERY: Duration = Duration::from_secs(86_400);
/// After a failure it is tried again this much later.
const RETRY_AFTER: Duration = Duration::from_secs(600);
/// An appliance that was off for days makes its backup first; only then would silence be one.
const GRACE: Duration = Duration::from_secs(1_800);
/// A trial begins this part of its interval early, so that it is through before its absence is an alarm.
const EARLY: u32 = 12;

/// The moment, unless it lies in the future.
pub fn past(at: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    at.filter(|at| *at <= now.plus(SLACK))
}

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// From one backup to the next.
    pub every: Duration,
    /// From one trial to the next; zero: none is wanted.
    pub trial_every: Duration,
    /// Whether the backups can be opened here at all.
    pub can_open: bool,
}

impl Rules {
    /// Of the configuration.
    pub const fn of(settings: &config::Backup) -> Self {
        Self {
            every: settings.every,
            trial_every: settings.drill_every,
            can_open: settings.drill_identity_file.is_some() || settings.recipients.is_empty(),
        }
    }

    /// Whether backups are restored for trial here, and not only checked when they are made.
    pub const fn has_trials(&self) -> bool {
        self.can_open && !self.trial_every.is_zero()
    }

    /// A backup that is older than this is as good as none.
    pub fn backup_max_age(&self) -> Duration {
        ALARM_AFTER.max(self.every * 2)
    }
}

/// When what happened; `None` for what never did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marks {
    /// Since when backups are made by themselves.
    pub since: Option<Timestamp>,
    /// The last backup.
    pub made: Option<Timestamp>,
    /// The last trial that passed.
    pub tried: Option<Timestamp>,
    /// The last backup that failed, if none succeeded since.
    pub failed: Option<Timestamp>,
    /// The last trial that failed, if none passed since.
    pub trial_failed: Option<Timestamp>,
    /// The last alarm.
    pub alarmed: Option<Timestamp>,
    /// When this process began to look; `None` for who asks from outside.
    pub started: Option<Timestamp>,
}

/// What there is an alarm about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overdue {
    /// No backup was made for too long.
    Backup,
    /// Backups are made, and none was restored for trial for too long.
    Trial,
}

impl Overdue {
    /// For log and operator.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Backup => "no backup was made for too long",
            Self::Trial => "no backup was restored for trial for too long",
        }
    }
}

fn due(last: Option<Timestamp>, failed: Option<Timestamp>, every: Duration, now: Timestamp) -> bool {
    let resting = past(failed, now).is_some_and(|at| now < at.plus(RETRY_AFTER));
    !resting && past(last, now).is_none_or(|at| now >= at.plus(every))
}

/// Whether a backup is due.
pub fn backup_due(rules: &Rules, marks: &Marks, now: Timestamp) -> bool {
    due(marks.made, marks.failed, rules.every, now)
}

/// Whether a trial is due.
pub fn trial_due(rules: &Rules, marks: &Marks, now: Timestamp) -> bool {
    let every = rules.trial_every.saturating_sub(rules.trial_every / EARLY);
    rules.has_trials() && due(marks.tried, marks.trial_failed, every, now)
}

/// What is overdue. An appliance that has only begun gets the time that a backup may be old.
pub fn overdue(rules: &Rules, marks: &Marks, now: Timestamp) -> Option<Overdue> {
    if past(marks.started, now).is_some_and(|at| now < at.plus(GRACE)) {
        return None;
    }
    let since = past(marks.since, now);
    let silent =
        |last: Option<Timestamp>, most: Duration| past(last, now).max(since).is_some_and(|at| now >= at.plus(most));
    if silent(marks.made, rules.backup_max_age()) {
        Some(Overdue::Backup)
    } else if rules.has_trials() && silent(marks.tried, ALARM_AFTER.max(rules.trial_every)) {
        Some(Overdue::Trial)
    } else {
        None
    }
}

/// Whether an alarm that is justified is raised again.
pub fn alarm_due(marks: &Marks, now: Timestamp) -> bool {
    past(marks.alarmed, now).is_none_or(|at| now >= at.plus(ALARM_EVERY))
}

/// Room for growth since the last backup told what is alive: a quarter.
pub fn expected_bytes(file: u64, live: Option<u64>) -> u64 {
    live.map_or(file, |live| live.saturating_add(live / 4).min(file))
}

/// Whether `wanted` bytes may be written beside the data file for a while, leaving `spare`: a backup that takes the
/// appliance's room takes the appliance down.
///
/// # Errors
/// A sentence with both figures.
pub fn room(free: Option<u64>, disk: Disk, wanted: u64, spare: u64) -> Result<(), String> {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    match free {
        _ if disk != Disk::Ample => {
            Err("the disk of the data file is nearly full: make room, then it is tried again".to_owned())
        }
        Some(free) if free < wanted.saturating_add(spare) => Err(format!(
            "the disk of the data file has {} MiB free, and {} MiB are needed for a while beside the {} MiB that are kept \
             free (disk.read_only_mib): make room, then it is tried again",
            mib(free),
            mib(wanted),
            mib(spare)
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const HOUR: u64 = 3_600;
    const RULES: Rules =
        Rules { every: Duration::from_secs(HOUR), trial_every: Duration::from_secs(24 * HOUR), can_open: true };

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn now() -> Timestamp {
        at("2026-06-01T12:00:00Z")
    }

    fn ago(seconds: u64) -> Option<Timestamp> {
        Some(now().minus(Duration::from_secs(seconds)))
    }

    /// Everything was done just now.
    fn fresh() -> Marks {
        Marks { since: ago(90 * 24 * HOUR), made: ago(60), tried: ago(60), ..Marks::default() }
    }

    #[test]
    fn what_is_due_follows_from_when_it_was_done_last() {
        let year_2036 = Some(at("2036-01-01T00:00:00Z"));
        type Case = (&'static str, Marks, (bool, bool));
        let cases: [Case; 13] = [
            ("nothing was ever done", Marks::default(), (true, true)),
            ("all was done just now", fresh(), (false, false)),
            ("an hour ago", Marks { made: ago(HOUR), ..fresh() }, (true, false)),
            ("not quite an hour ago", Marks { made: ago(HOUR - 1), ..fresh() }, (false, false)),
            ("tried 22 hours ago", Marks { tried: ago(22 * HOUR), ..fresh() }, (false, true)),
            ("tried 21 hours ago", Marks { tried: ago(21 * HOUR), ..fresh() }, (false, false)),
            ("failed a minute ago", Marks { made: None, failed: ago(60), ..fresh() }, (false, false)),
            ("failed ten minutes ago", Marks { made: None, failed: ago(600), ..fresh() }, (true, false)),
            (
                "its trial failed just now",
                Marks { made: None, tried: None, trial_failed: ago(1), ..fresh() },
                (true, false),
            ),
            ("made in 2036, as the clock said", Marks { made: year_2036, ..fresh() }, (true, false)),
            ("tried in 2036", Marks { tried: year_2036, ..fresh() }, (false, true)),
            ("failed in 2036", Marks { made: None, failed: year_2036, ..fresh() }, (true, false)),
            (
                "a clock that was set back by seconds",
                Marks { made: Some(now().plus(SLACK)), ..fresh() },
                (false, false),
            ),
        ];
        for (what, marks, expected) in cases {
            assert_eq!((backup_due(&RULES, &marks, now()), trial_due(&RULES, &marks, now())), expected, "{what}");
        }
        let blind = Rules { can_open: false, ..RULES };
        let unwanted = Rules { trial_every: Duration::ZERO, ..RULES };
        assert!(!trial_due(&blind, &Marks::default(), now()) && !trial_due(&unwanted, &Marks::default(), now()));
    }

    #[test]
    fn silence_is_an_alarm_whatever_the_clock_said_before() {
        let year_2036 = Some(at("2036-01-01T00:00:00Z"));
        let day = 24 * HOUR;
        let blind = Rules { can_open: false, ..RULES };
        let weekly =
            Rules { every: Duration::from_secs(168 * HOUR), trial_every: Duration::from_secs(168 * HOUR), ..RULES };
        type Case = (&'static str, Rules, Marks, Option<Overdue>);
        let cases: [Case; 16] = [
            ("all is well", RULES, fresh(), None),
            ("it begins", RULES, Marks { since: Some(now()), ..Marks::default() }, None),
            ("nothing for a day", RULES, Marks { since: ago(day), ..Marks::default() }, Some(Overdue::Backup)),
            (
                "no backup for a day, an old one is tried",
                RULES,
                Marks { made: ago(day), ..fresh() },
                Some(Overdue::Backup),
            ),
            ("no backup for 23 hours", RULES, Marks { made: ago(23 * HOUR), ..fresh() }, None),
            ("no trial for a day", RULES, Marks { tried: ago(day), ..fresh() }, Some(Overdue::Trial)),
            ("no trial for 23 hours", RULES, Marks { tried: ago(23 * HOUR), ..fresh() }, None),
            ("no trial ever, and none can be", blind, Marks { tried: None, ..fresh() }, None),
            ("none can be tried, none is made", blind, Marks { made: ago(day), ..fresh() }, Some(Overdue::Backup)),
            (
                "a week between two, five days ago",
                weekly,
                Marks { made: ago(5 * day), tried: ago(5 * day), ..fresh() },
                None,
            ),
            (
                "a week between two, a fortnight ago",
                weekly,
                Marks { made: ago(14 * day), ..fresh() },
                Some(Overdue::Backup),
            ),
            ("the last one is of 2036", RULES, Marks { made: year_2036, ..fresh() }, Some(Overdue::Backup)),
            ("the last trial is of 2036", RULES, Marks { tried: year_2036, ..fresh() }, Some(Overdue::Trial)),
            ("it was off for days", RULES, Marks { made: ago(9 * day), started: ago(60), ..fresh() }, None),
            (
                "and made none since",
                RULES,
                Marks { made: ago(9 * day), started: ago(HOUR), ..fresh() },
                Some(Overdue::Backup),
            ),
            ("the beginning is of 2036", RULES, Marks { since: year_2036, ..Marks::default() }, None),
        ];
        for (what, rules, marks, expected) in cases {
            assert_eq!(overdue(&rules, &marks, now()), expected, "{what}");
        }
        for (what, alarmed, expected) in [
            ("never", None, true),
            ("an hour ago", ago(HOUR), false),
            ("yesterday", ago(day), true),
            ("in 2036", year_2036, true),
        ] {
            assert_eq!(alarm_due(&Marks { alarmed, ..fresh() }, now()), expected, "{what}");
        }
    }

    #[test]
    fn a_backup_leaves_the_appliance_its_room() {
        const GIB: u64 = 1 << 30;
        assert_eq!(expected_bytes(9 * GIB, None), 9 * GIB, "nothing is known: all of it may be alive");
        assert_eq!(expected_bytes(9 * GIB, Some(4 * GIB)), 5 * GIB, "a quarter more than the last time");
        assert_eq!(expected_bytes(4 * GIB, Some(4 * GIB)), 4 * GIB, "and no more than there is");
        for (what, free, disk, fits) in [
            ("plenty", Some(100 * GIB), Disk::Ample, true),
            ("just enough", Some(6 * GIB), Disk::Ample, true),
            ("a byte too little", Some(6 * GIB - 1), Disk::Ample, false),
            ("already short", Some(100 * GIB), Disk::ReadOnly, false),
            ("full", Some(100 * GIB), Disk::Full, false),
            ("not known: the copy itself will tell", None, Disk::Ample, true),
        ] {
            assert_eq!(room(free, disk, 5 * GIB, GIB).is_ok(), fits, "{what}");
        }
    }
}
