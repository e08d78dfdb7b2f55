//! What is counted, and the days, weeks and months it is counted for. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::kernel::Timestamp;
use crate::store::Row;

macro_rules! measures {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)+) => {
        /// What is counted.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Measure { $($(#[$doc])* $name,)+ }

        impl Measure {
            /// All of them, in the order in which they are shown.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// As on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

measures! {
    /// Requests over HTTPS by whoever belongs to the company, heartbeats among them.
    Requests = "requests";
    /// Accepted heartbeats, by whichever way they came.
    Heartbeats = "heartbeats";
    /// Devices that were locked.
    Locks = "locks";
    /// Scans that were started.
    Scans = "scans";
    /// Reports that were made.
    Reports = "reports";
    /// Tokens that the assistant used.
    AssistantTokens = "assistant_tokens";
    /// Messages that were delivered to integrations.
    WebhookDeliveries = "webhook_deliveries";
    /// Different devices that sent a heartbeat.
    ActiveDevices = "active_devices";
    /// Different people who asked for something.
    ActiveUsers = "active_users";
}

/// Counts of one company for one day, week or month. A week and a month hold only those of different ones: the sums are
/// those of their days.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counts(pub BTreeMap<Measure, u64>);
impl Row for Counts {}

impl Counts {
    /// Adds to one of them.
    pub fn add(&mut self, measure: Measure, n: u64) {
        let count = self.0.entry(measure).or_default();
        *count = count.saturating_add(n);
    }

    /// Replaces one of them.
    pub fn set(&mut self, measure: Measure, n: u64) {
        self.0.insert(measure, n);
    }

    /// One of them.
    pub fn get(&self, measure: Measure) -> u64 {
        self.0.get(&measure).copied().unwrap_or(0)
    }
}

/// How long a count runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Span {
    /// From midnight to midnight, UTC.
    Day,
    /// From Monday to Sunday.
    Week,
    /// A month of the calendar.
    Month,
}

impl Span {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Day, Self::Week, Self::Month];

    /// The number of the span that holds this day; days count from 1970.
    pub fn number(self, day: u64) -> u64 {
        match self {
            Self::Day => day,
            // 1970 began on a Thursday.
            Self::Week => (day + 3) / 7,
            Self::Month => {
                let (year, month, _) = date_of(day);
                year * 12 + month - 1
            }
        }
    }

    /// The first day of the span with this number.
    pub fn first_day(self, number: u64) -> u64 {
        match self {
            Self::Day => number,
            Self::Week => (number * 7).saturating_sub(3),
            Self::Month => day_of(number / 12, number % 12 + 1, 1),
        }
    }

    /// The byte that stands for it in keys.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Day => 0,
            Self::Week => 1,
            Self::Month => 2,
        }
    }
}

/// The day of a moment, counted from 1970.
pub fn day_at(at: Timestamp) -> u64 {
    u64::try_from(at.as_secs().div_euclid(86_400)).unwrap_or(0)
}

/// Year, month and day of the month, in the Gregorian calendar (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
pub fn date_of(day: u64) -> (u64, u64, u64) {
    let z = day + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Years begin in March there, so that the leap day is the last.
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
}

/// The day of a date, counted from 1970; the inverse of [`date_of`].
pub fn day_of(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year.saturating_sub(1) } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted + 2) / 5 + day - 1;
    (era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year).saturating_sub(719_468)
}

/// A day as text: `2026-01-31`.
pub fn day_text(day: u64) -> String {
    let (year, month, of_month) = date_of(day);
    format!("{year:04}-{month:02}-{of_month:02}")
}

/// The day of a text such as `2026-01-31`; `None` for what is no date.
pub fn parse_day(text: &str) -> Option<u64> {
    let mut parts = text.split('-');
    let mut number = |length: usize| {
        let part = parts.next().filter(|p| p.len() == length && p.bytes().all(|b| b.is_ascii_digit()))?;
        part.parse::<u64>().ok()
    };
    let (year, month, day) = (number(4)?, number(2)?, number(2)?);
    let found = day_of(year, month, day);
    (parts.next().is_none() && year >= 1970 && date_of(found) == (year, month, day)).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_weeks_and_months_are_those_of_the_calendar() {
        for (text, day, week_begins, month_begins) in [
            ("1970-01-01", 0, None, "1970-01-01"),
            ("2000-02-29", 11_016, Some("2000-02-28"), "2000-02-01"),
            ("2026-11-21", 20_778, Some("2026-11-16"), "2026-11-01"),
            ("2026-12-31", 20_818, Some("2026-12-28"), "2026-12-01"),
            ("2027-01-01", 20_819, Some("2026-12-28"), "2027-01-01"),
        ] {
            assert_eq!((parse_day(text), day_text(day).as_str()), (Some(day), text));
            let first = |span: Span| day_text(span.first_day(span.number(day)));
            assert_eq!(first(Span::Month), month_begins);
            if let Some(week_begins) = week_begins {
                assert_eq!(first(Span::Week), week_begins);
            }
        }
        for bad in
            ["", "2026-02-29", "2026-13-01", "2026-1-1", "1969-12-31", "2026-01-01T", "2026-01-01-1", "+026-01-01"]
        {
            assert_eq!(parse_day(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_day_has_one_date(day in 0_u64..200_000) {
            let (year, month, of_month) = date_of(day);
            proptest::prop_assert_eq!(day_of(year, month, of_month), day);
            proptest::prop_assert_eq!(parse_day(&day_text(day)), Some(day).filter(|_| year < 10_000));
            for span in Span::ALL {
                let number = span.number(day);
                proptest::prop_assert!(span.first_day(number) <= day);
                proptest::prop_assert!(span.first_day(number + 1) > day);
            }
        }
    }
}
