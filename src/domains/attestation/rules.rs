//! How much a proof is worth. Pure.

use std::time::Duration;

use serde_json::{Map, Value};

use super::Level;
use crate::domains::devices::ProofMark;
use crate::kernel::Timestamp;

/// Points of a fresh, flawless proof of each level.
const fn points_of(level: Level) -> u32 {
    match level {
        Level::None => 0,
        Level::Software => 30,
        Level::Verdict => 60,
        Level::Trusted => 85,
        Level::Hardware => 100,
    }
}

/// A month's worth of missed patches costs this much, from the fourth month on.
const PER_MONTH: u32 = 3;
const MONTHS_FREE: u32 = 3;
/// An unlocked or unverified boot leaves at most this.
const UNLOCKED_MAX: u32 = 40;

/// Hardware that says something else of itself than before leaves at most this, until it says the same twice.
const CHANGED_MAX: u32 = 40;
/// The claim of a receipt, and the number of keys within 30 days from which on the device is a farm's.
pub(super) const RISK_METRIC: &str = "risk_metric";
const RISK_METRIC_MAX: u64 = 10;
const RISKY_MAX: u32 = 40;
/// A key that took another's place costs this much for a day: a reinstalled app does that, and so does a thief.
const KEY_CHANGED: u8 = 10;
const KEY_SETTLES: Duration = Duration::from_secs(86_400);

/// 0 to 100 at the time of the proof: by level, boot state, patch age, and what else was claimed.
pub(super) fn worth(level: Level, claims: &Map<String, Value>, hardware_changed: bool, at: Timestamp) -> u8 {
    let mut points = points_of(level);
    let truth = |name: &str| claims.get(name).and_then(Value::as_bool);
    if truth("device_locked") == Some(false) || claims.get("verified_boot_state").is_some_and(|s| s == "unverified") {
        points = points.min(UNLOCKED_MAX);
    }
    if hardware_changed {
        points = points.min(CHANGED_MAX);
    }
    if claims.get(RISK_METRIC).and_then(Value::as_u64).is_some_and(|metric| metric > RISK_METRIC_MAX) {
        points = points.min(RISKY_MAX);
    }
    if let Some(months) = months_behind(claims, at) {
        points = points.saturating_sub(months.saturating_sub(MONTHS_FREE).saturating_mul(PER_MONTH));
    }
    u8::try_from(points.min(100)).unwrap_or(100)
}

/// What is left of a proof: one that is too old loses half, one that is twice too old all; a new key has to settle.
pub(super) fn score(mark: Option<&ProofMark>, now: Timestamp, renew_after: Duration) -> u8 {
    let Some(mark) = mark else { return 0 };
    let unsettled = mark.key_changed_at.is_some_and(|at| now.since(at) < KEY_SETTLES);
    let points = if unsettled { mark.points.saturating_sub(KEY_CHANGED) } else { mark.points };
    let age = now.since(mark.verified_at);
    if age <= renew_after {
        points
    } else if age <= renew_after * 2 {
        points / 2
    } else {
        0
    }
}

/// Whole months from the claimed patch level (`202601` or `20260105`) to now.
fn months_behind(claims: &Map<String, Value>, now: Timestamp) -> Option<u32> {
    let level = claims.get("os_patch_level")?;
    let text = level.as_str().map_or_else(|| level.to_string(), |s| s.replace('-', ""));
    let (year, month) = (text.get(..4)?.parse::<u32>().ok()?, text.get(4..6)?.parse::<u32>().ok()?);
    let today = now.to_string();
    let (this_year, this_month) = (today.get(..4)?.parse::<u32>().ok()?, today.get(5..7)?.parse::<u32>().ok()?);
    (this_year * 12 + this_month).checked_sub(year * 12 + month)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_proof_is_worth_its_level_its_boot_its_patches_and_its_age() {
        let now: Timestamp = "2026-06-15T00:00:00Z".parse().unwrap();
        let left = |level, claims: Value, age_days: u32| {
            let verified_at = now.minus(DAY * age_days);
            let points = worth(level, claims.as_object().unwrap(), false, verified_at);
            score(Some(&ProofMark { level, points, verified_at, key_changed_at: None }), now, DAY * 7)
        };
        for (level, claims, age_days, expected) in [
            (Level::Software, json!({}), 0, 30),
            (Level::Hardware, json!({}), 0, 100),
            (Level::Trusted, json!({ "device_locked": true, "os_patch_level": 202_605 }), 0, 85),
            (Level::Trusted, json!({ "device_locked": false }), 0, 40),
            (Level::Trusted, json!({ "verified_boot_state": "unverified" }), 0, 40),
            (Level::Trusted, json!({ "os_patch_level": "2025-06" }), 0, 58),
            (Level::Trusted, json!({ "os_patch_level": "20150601" }), 0, 0),
            (Level::Hardware, json!({ "risk_metric": 10 }), 0, 100),
            (Level::Hardware, json!({ "risk_metric": 11 }), 0, 40),
            (Level::Hardware, json!({}), 7, 100),
            (Level::Hardware, json!({}), 8, 50),
            (Level::Hardware, json!({}), 15, 0),
            (Level::None, json!({}), 0, 0),
        ] {
            assert_eq!(left(level, claims.clone(), age_days), expected, "{level:?} {claims} {age_days}");
        }
        assert_eq!(score(None, now, DAY), 0, "never proven");
        assert_eq!(worth(Level::Hardware, &Map::new(), true, now), 40, "other hardware than before");
    }

    #[test]
    fn a_key_in_the_place_of_another_settles_within_a_day() {
        let now: Timestamp = "2026-06-15T00:00:00Z".parse().unwrap();
        let after = |hours: u32| {
            let mark = ProofMark {
                level: Level::Hardware,
                points: 100,
                verified_at: now,
                key_changed_at: Some(now.minus(Duration::from_secs(3_600) * hours)),
            };
            score(Some(&mark), now, DAY * 7)
        };
        assert_eq!((after(0), after(23), after(24)), (90, 90, 100));
    }
}
