//! When an event is sent again, and what an answer means. Pure.

use std::time::Duration;

use crate::kernel::Timestamp;

/// How long an event is tried for.
pub const LIFETIME: Duration = Duration::from_secs(3 * 86_400);
/// Until the second attempt.
const FIRST_DELAY: Duration = Duration::from_secs(5);
/// The longest time between two.
const DELAY_MAX: Duration = Duration::from_secs(8 * 3_600);
/// The longest time that a receiver may ask for.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(86_400);

/// How long to wait after so many attempts: 5 seconds, then 2.5 times as long each time up to 8 hours, give or take a fifth
/// by `chance`.
pub fn delay(attempts: u32, chance: u64) -> Duration {
    let mut delay = FIRST_DELAY;
    for _ in 1..attempts.min(64) {
        delay = (delay * 5 / 2).min(DELAY_MAX);
    }
    // 0.8 to 1.2, in thousandths.
    let share = 800 + u32::try_from(chance % 401).unwrap_or(200);
    delay * share / 1_000
}

/// When the next attempt is due; `None`: there is none. The last one comes when the lifetime ends.
pub fn next_attempt(
    queued_at: Timestamp,
    now: Timestamp,
    attempts: u32,
    retry_after: Option<Duration>,
    chance: u64,
) -> Option<Timestamp> {
    let end = queued_at.plus(LIFETIME);
    if now >= end {
        return None;
    }
    let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
    Some(now.plus(delay(attempts, chance).max(asked)).min(end))
}

/// What an attempt led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The receiver has it.
    Delivered,
    /// Try again, not before this time has passed.
    Retry(Option<Duration>),
    /// The receiver is gone for good and wants no more.
    Gone,
    /// It can never be delivered.
    Never,
}

/// What a status of HTTP means.
pub fn judge(status: u16, retry_after: Option<&str>, now: Timestamp) -> Verdict {
    match status {
        200..=299 => Verdict::Delivered,
        410 => Verdict::Gone,
        _ => Verdict::Retry(retry_after.and_then(|text| wait_of(text, now))),
    }
}

/// `Retry-After` in seconds or as a date (RFC 9110, section 10.2.3).
fn wait_of(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().map(Duration::from_secs);
    }
    let at = jiff::fmt::rfc2822::parse(text.get(..64).unwrap_or(text)).ok()?.timestamp();
    Some(Timestamp::from_millis(at.as_millisecond()).since(now))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_767_225_600_000);

    #[test]
    fn attempts_grow_apart_and_cover_three_days_whatever_chance_says() {
        for chance in [0, 200, 400, 7, u64::MAX] {
            let (mut now, mut attempts, mut last) = (START, 1, Duration::ZERO);
            while let Some(next) = next_attempt(START, now, attempts, None, chance) {
                let wait = next.since(now);
                assert!(wait >= last || next == START.plus(LIFETIME), "attempt {attempts} with {chance}");
                (now, attempts, last) = (next, attempts + 1, wait);
            }
            assert_eq!(now, START.plus(LIFETIME), "the last one comes at the end");
            assert!((15..=30).contains(&attempts), "{attempts} attempts");
        }
    }

    #[test]
    fn a_receiver_is_listened_to_within_bounds() {
        for (text, wait_s) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("Thu, 01 Jan 2026 00:02:00 GMT", Some(120)),
            ("Wed, 31 Dec 2025 00:00:00 GMT", Some(0)),
            ("-5", None),
            ("1e9", None),
            ("99999999999999999999", None),
            ("soon", None),
            ("", None),
        ] {
            let expected = Verdict::Retry(wait_s.map(Duration::from_secs));
            assert_eq!(judge(503, Some(text), START), expected, "{text}");
        }
        let next = |wait| next_attempt(START, START, 1, Some(Duration::from_secs(wait)), 200).unwrap().since(START);
        assert_eq!(next(120), Duration::from_secs(120));
        assert_eq!(next(1), Duration::from_secs(5), "a short one does not shorten ours");
        assert_eq!(next(999_999_999), RETRY_AFTER_MAX);
        for (status, verdict) in [
            (200, Verdict::Delivered),
            (204, Verdict::Delivered),
            (301, Verdict::Retry(None)),
            (307, Verdict::Retry(None)),
            (400, Verdict::Retry(None)),
            (404, Verdict::Retry(None)),
            (410, Verdict::Gone),
            (500, Verdict::Retry(None)),
        ] {
            assert_eq!(judge(status, None, START), verdict, "{status}");
        }
    }
}
