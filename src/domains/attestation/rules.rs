//! How much a proof is worth. Pure.

use std::time::Duration;

use serde_json::{Map, Value};

use super::model::Level;
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

/// 0 to 100: by level, boot state and patch age; a proof that is too old loses half, one that is twice too old all.
pub(super) fn score(
    level: Level,
    claims: &Map<String, Value>,
    verified_at: Option<Timestamp>,
    now: Timestamp,
    renew_after: Duration,
) -> u8 {
    let Some(verified_at) = verified_at else { return 0 };
    let mut points = points_of(level);
    let truth = |name: &str| claims.get(name).and_then(Value::as_bool);
    if truth("device_locked") == Some(false) || claims.get("verified_boot_state").is_some_and(|s| s == "unverified") {
        points = points.min(UNLOCKED_MAX);
    }
    if let Some(months) = months_behind(claims, now) {
        points = points.saturating_sub(months.saturating_sub(MONTHS_FREE).saturating_mul(PER_MONTH));
    }
    let age = now.since(verified_at);
    let kept = if age <= renew_after {
        points
    } else if age <= renew_after * 2 {
        points / 2
    } else {
        0
    };
    u8::try_from(kept.min(100)).unwrap_or(100)
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
        let worth = |level, claims: Value, age_days: u32| {
            score(level, claims.as_object().unwrap(), Some(now.minus(DAY * age_days)), now, DAY * 7)
        };
        for (level, claims, age_days, expected) in [
            (Level::Software, json!({}), 0, 30),
            (Level::Hardware, json!({}), 0, 100),
            (Level::Trusted, json!({ "device_locked": true, "os_patch_level": 202_605 }), 0, 85),
            (Level::Trusted, json!({ "device_locked": false }), 0, 40),
            (Level::Trusted, json!({ "verified_boot_state": "unverified" }), 0, 40),
            (Level::Trusted, json!({ "os_patch_level": "2025-06" }), 0, 58),
            (Level::Trusted, json!({ "os_patch_level": "20150601" }), 0, 0),
            (Level::Hardware, json!({}), 8, 50),
            (Level::Hardware, json!({}), 15, 0),
            (Level::None, json!({}), 0, 0),
        ] {
            assert_eq!(worth(level, claims.clone(), age_days), expected, "{level:?} {claims} {age_days}");
        }
        assert_eq!(score(Level::Hardware, &Map::new(), None, now, DAY), 0, "never proven");
    }
}
