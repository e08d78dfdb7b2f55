//! What came of it: a row for each device, and whether exactly the taken-over devices were locked.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::motion::AttackKind;
use crate::client::frame::Decision;
use crate::kernel::ids::DeviceId;

/// Where a device stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not registered yet.
    Enrolling,
    /// Registered, its socket is closed.
    Offline,
    /// Registered, its socket is open.
    Online,
    /// A verified command locked it.
    Locked,
    /// Gave up; the error says why.
    Failed,
}

/// One device.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its id.
    pub device_id: DeviceId,
    /// Where it stands.
    pub state: State,
    /// The last trust score that the appliance answered.
    pub score: Option<u8>,
    /// The last decision.
    pub decision: Option<Decision>,
    /// How it is, or will be, taken over.
    #[serde(serialize_with = "attack_name")]
    pub attack: Option<AttackKind>,
    /// Whether the takeover has begun.
    pub taken_over: bool,
    /// Whether a verified command locked it, be it that it was unlocked later.
    pub locked: bool,
    /// From the first hostile reading to the verified lock.
    #[serde(rename = "time_to_lock_ms", serialize_with = "millis")]
    pub time_to_lock: Option<Duration>,
    /// Heartbeats that the appliance accepted.
    pub heartbeats: u64,
    /// The level of its last accepted proof.
    pub attested: Option<String>,
    /// Why that proof is not its TPM's, where it has one.
    pub tpm_error: Option<String>,
    /// What went wrong last, if it still matters.
    pub error: Option<String>,
}

impl Row {
    pub(super) fn new(device_id: DeviceId, attack: Option<AttackKind>) -> Self {
        Self {
            device_id,
            state: State::Enrolling,
            score: None,
            decision: None,
            attack,
            taken_over: false,
            locked: false,
            time_to_lock: None,
            heartbeats: 0,
            attested: None,
            tpm_error: None,
            error: None,
        }
    }
}

fn attack_name<S: Serializer>(attack: &Option<AttackKind>, s: S) -> Result<S::Ok, S::Error> {
    attack.map(AttackKind::as_str).serialize(s)
}

fn millis<S: Serializer>(time: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
    time.map(whole_ms).serialize(s)
}

fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Times from the first hostile reading to the lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct LockTimes {
    /// The fastest.
    pub min_ms: u64,
    /// Half of them were faster.
    pub median_ms: u64,
    /// The slowest.
    pub max_ms: u64,
}

/// The whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Every device spoke, every taken-over device was locked, and no other.
    pub ok: bool,
    /// The same in words.
    pub verdict: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Devices that were to be taken over.
    pub expected_locked: usize,
    /// Of these, locked.
    pub locked: usize,
    /// Locked although nobody had taken them over.
    pub wrongly_locked: usize,
    /// Never had a heartbeat accepted.
    pub silent: usize,
    /// Heartbeats that the appliance accepted.
    pub heartbeats: u64,
    /// Absent when nothing was locked.
    pub time_to_lock: Option<LockTimes>,
    /// One row for each device.
    pub devices: Vec<Row>,
}

impl Summary {
    pub(super) fn of(devices: Vec<Row>, elapsed: Duration) -> Self {
        let count = |which: fn(&Row) -> bool| devices.iter().filter(|r| which(r)).count();
        let expected_locked = count(|r| r.attack.is_some());
        let locked = count(|r| r.attack.is_some() && r.taken_over && r.locked);
        // A device that is locked before its takeover has begun was as innocent as any other.
        let wrongly_locked = count(|r| r.locked && !r.taken_over);
        let silent = count(|r| r.heartbeats == 0);
        let ok = locked == expected_locked && wrongly_locked == 0 && silent == 0;
        let mut times: Vec<u64> = devices.iter().filter_map(|r| r.time_to_lock).map(whole_ms).collect();
        times.sort_unstable();
        let median = times.get(times.len() / 2);
        let time_to_lock = match (times.first(), median, times.last()) {
            (Some(min), Some(median), Some(max)) => Some(LockTimes { min_ms: *min, median_ms: *median, max_ms: *max }),
            _ => None,
        };
        let mut faults = Vec::new();
        if locked < expected_locked {
            faults.push(format!("{} of {expected_locked} taken-over devices not locked", expected_locked - locked));
        }
        if wrongly_locked > 0 {
            faults.push(format!("{wrongly_locked} locked that nobody had taken over"));
        }
        if silent > 0 {
            faults.push(format!("{silent} without an accepted heartbeat"));
        }
        let verdict = match (ok, expected_locked) {
            (true, 0) => "as expected: no device was locked".to_owned(),
            (true, n) => format!("as expected: {n} taken over and locked, no other"),
            (false, _) => format!("NOT as expected: {}", faults.join("; ")),
        };
        let heartbeats = devices.iter().map(|r| r.heartbeats).sum();
        let seconds = (elapsed.as_secs_f64() * 10.0).round() / 10.0;
        Self {
            ok,
            verdict,
            seconds,
            expected_locked,
            locked,
            wrongly_locked,
            silent,
            heartbeats,
            time_to_lock,
            devices,
        }
    }

    /// 0 when all went as expected, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.ok)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn row(n: u32, taken_over: bool, locked: bool) -> Row {
        let id = format!("a-{n}").parse().unwrap();
        let time_to_lock = (taken_over && locked).then(|| Duration::from_millis(u64::from(n) * 100));
        let attack = taken_over.then_some(AttackKind::Still);
        Row { taken_over, locked, time_to_lock, heartbeats: 3, ..Row::new(id, attack) }
    }

    #[test]
    fn the_verdict_holds_only_if_exactly_the_taken_over_devices_were_locked() {
        let verdict = |rows: Vec<Row>| Summary::of(rows, Duration::from_secs(1));
        assert!(verdict(vec![row(1, true, true), row(2, false, false)]).ok);
        assert!(verdict(vec![row(1, false, false)]).ok);
        let missed = verdict(vec![row(1, true, false), row(2, false, false)]);
        assert_eq!((missed.ok, missed.locked, missed.exit_code()), (false, 0, 1));
        let innocent = verdict(vec![row(1, true, true), row(2, false, true)]);
        assert_eq!((innocent.ok, innocent.wrongly_locked), (false, 1));
        let early = Row { taken_over: false, ..row(1, true, true) };
        assert!(!verdict(vec![early]).ok, "locked before it was taken over");
        let silent = Row { heartbeats: 0, ..row(1, false, false) };
        assert!(!verdict(vec![silent]).ok, "a fleet that never spoke proves nothing");
    }

    #[test]
    fn the_json_has_a_row_for_each_device_with_names_that_scripts_rely_on() {
        let rows = vec![row(7, true, true), row(2, true, true), row(9, true, true), row(4, false, false)];
        let value = serde_json::to_value(Summary::of(rows, Duration::from_millis(1_234))).unwrap();
        assert_eq!(value["time_to_lock"], serde_json::json!({"min_ms": 200, "median_ms": 700, "max_ms": 900}));
        assert_eq!(value["seconds"], 1.2);
        let first = value["devices"][0].as_object().unwrap();
        for name in ["device_id", "score", "decision", "attack", "locked", "time_to_lock_ms", "heartbeats", "error"] {
            assert!(first.contains_key(name), "{name}");
        }
        assert_eq!((&first["attack"], &first["time_to_lock_ms"]), (&"still".into(), &700.into()));
    }
}
