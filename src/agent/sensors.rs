//! One device's sensors in real time: the owner first, the attacker from some moment on.
//!
//! Readings fall due every 20 ms of the device's life and are made when they are asked for, so a thousand devices cost
//! nothing between two heartbeats; yet each has its own moment, and "the first hostile reading" is that moment and not
//! the next heartbeat. Knows nothing of the network. Time is handed in as milliseconds since the device's start.

use std::collections::VecDeque;
use std::time::Duration;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::motion::{Attack, AttackKind, DT_MS, MotionSource};
use crate::domains::signals::engine::reading::Reading;
use crate::kernel::limits::READINGS_PER_HEARTBEAT_MAX;

/// Readings that an attacker may have seen: ten seconds, enough for the longest loop.
const HISTORY_MAX: usize = 500;
/// Readings that wait for a heartbeat; beyond one minute the oldest are lost, as in a real device.
const WAITING_MAX: usize = 3_000;

/// See the module.
pub(super) struct Sensors {
    owner: Box<dyn MotionSource + Send + Sync>,
    attack: Option<Attack>,
    planned: Option<(AttackKind, u64, u64)>,
    hostile_since_ms: Option<u64>,
    /// What the attacker has seen; empty and unused for a device that nobody will take over.
    history: VecDeque<Reading>,
    keeps_history: bool,
    waiting: VecDeque<Reading>,
    /// Readings are made up to here.
    made_until_ms: u64,
    /// The device's monotonic clock, whoever moves the device.
    clock_ms: u64,
    /// The last reading's time by its own source; `None` when another source begins.
    source_ms: Option<u64>,
}

impl Sensors {
    pub(super) fn new(owner: Box<dyn MotionSource + Send + Sync>, will_be_taken_over: bool) -> Self {
        Self {
            owner,
            attack: None,
            planned: None,
            hostile_since_ms: None,
            history: VecDeque::new(),
            keeps_history: will_be_taken_over,
            waiting: VecDeque::new(),
            made_until_ms: 0,
            clock_ms: 0,
            source_ms: None,
        }
    }

    /// The device is taken over at `at_ms`.
    pub(super) fn plan_takeover(&mut self, kind: AttackKind, seed: u64, at_ms: u64) {
        self.planned = Some((kind, seed, at_ms));
    }

    /// When the first hostile reading was made.
    pub(super) fn hostile_since_ms(&self) -> Option<u64> {
        self.hostile_since_ms
    }

    /// Makes all readings that are due at `now_ms`.
    pub(super) fn produce(&mut self, now_ms: u64) {
        let due = now_ms.saturating_sub(self.made_until_ms) / DT_MS;
        self.skip(due.saturating_sub(WAITING_MAX as u64));
        for _ in 0..due.min(WAITING_MAX as u64) {
            self.made_until_ms += DT_MS;
            if let Some((kind, seed, at_ms)) = self.planned
                && self.made_until_ms > at_ms
            {
                self.planned = None;
                self.attack = Some(Attack::new(kind, seed, self.history.make_contiguous()));
                self.hostile_since_ms = Some(self.made_until_ms);
                self.history = VecDeque::new();
                self.keeps_history = false;
                self.source_ms = None;
            }
            let mut reading = match &mut self.attack {
                Some(attack) => attack.next_reading(),
                None => self.owner.next_reading(),
            };
            self.clock_ms += self.source_ms.map_or(DT_MS, |before| reading.t_ms.saturating_sub(before));
            self.source_ms = Some(reading.t_ms);
            reading.t_ms = self.clock_ms;
            if self.keeps_history {
                if self.history.len() == HISTORY_MAX {
                    self.history.pop_front();
                }
                self.history.push_back(Reading { extras: None, ..reading.clone() });
            }
            if self.waiting.len() == WAITING_MAX {
                self.waiting.pop_front();
            }
            self.waiting.push_back(reading);
        }
    }

    /// The owner has the device back and nothing was measured until `now_ms`.
    pub(super) fn return_to_owner(&mut self, now_ms: u64) {
        self.attack = None;
        self.planned = None;
        self.source_ms = None;
        self.waiting.clear();
        self.skip(now_ms.saturating_sub(self.made_until_ms) / DT_MS);
    }

    /// What a heartbeat carries: all that waits, thinned out evenly to as many as one may carry.
    pub(super) fn take_batch(&mut self) -> Vec<WireReading> {
        let (count, keep) = (self.waiting.len(), READINGS_PER_HEARTBEAT_MAX);
        let mut batch = Vec::with_capacity(count.min(keep));
        let mut touch = None;
        for (i, mut reading) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            touch = reading.touch.or(touch);
            // The last of each share stays, so that the newest reading is always among them.
            if count > keep && (i + 1) * keep / count == i * keep / count {
                continue;
            }
            reading.touch = touch.take();
            batch.push(WireReading(reading));
        }
        batch
    }

    /// Time passes in which nothing is measured; the device's clock goes on.
    fn skip(&mut self, readings: u64) {
        self.made_until_ms += readings * DT_MS;
        self.clock_ms += readings * DT_MS;
    }
}

/// The time until a lock, from the first hostile reading.
pub(super) fn time_to_lock(hostile_since_ms: Option<u64>, now_ms: u64) -> Option<Duration> {
    hostile_since_ms.map(|since| Duration::from_millis(now_ms.saturating_sub(since)))
}

/// A reading as the contract writes it; what is absent or false is left out.
#[derive(Clone, Debug)]
pub(super) struct WireReading(Reading);

#[derive(Serialize)]
struct WireTouch {
    x: f32,
    y: f32,
    pressure: f32,
    interval_ms: f32,
}

#[derive(Serialize)]
struct WireNetwork<'a> {
    rx_bytes: u64,
    tx_bytes: u64,
    rtt_ms: f32,
    connections: u32,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    dns: &'a [Box<str>],
}

impl Serialize for WireReading {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let r = &self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("t_ms", &r.t_ms)?;
        for (name, xyz) in [("accelerometer", r.accelerometer), ("gyroscope", r.gyroscope)] {
            if let Some(xyz) = xyz {
                map.serialize_entry(name, &xyz)?;
            }
        }
        for (name, share) in [("overlay", r.overlay), ("proximity", r.proximity)] {
            if let Some(share) = share {
                map.serialize_entry(name, &share)?;
            }
        }
        if let Some(t) = r.touch {
            let touch = WireTouch { x: t.x, y: t.y, pressure: t.pressure, interval_ms: t.interval_ms };
            map.serialize_entry("touch", &touch)?;
        }
        let extras = r.extras.as_deref();
        if let Some(n) = r.network {
            let dns = extras.map_or(&[][..], |e| &e.dns);
            let (rx_bytes, tx_bytes) = (n.rx_bytes, n.tx_bytes);
            let network = WireNetwork { rx_bytes, tx_bytes, rtt_ms: n.rtt_ms, connections: n.connections, dns };
            map.serialize_entry("network", &network)?;
        }
        for (name, on) in [
            ("accessibility_active", r.accessibility_active),
            ("window_mirroring", r.window_mirroring),
            ("rooted", r.rooted),
            ("debugger", r.debugger),
        ] {
            if on {
                map.serialize_entry(name, &true)?;
            }
        }
        if let Some(extras) = extras.filter(|e| !e.sideloaded.is_empty()) {
            map.serialize_entry("sideloaded", &extras.sideloaded)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::agent::motion::Human;
    use crate::domains::signals::engine::reading::{Extras, Network, Touch};

    fn sensors(will_be_taken_over: bool) -> Sensors {
        Sensors::new(Box::new(Human::new(3)), will_be_taken_over)
    }

    fn times(batch: &[WireReading]) -> Vec<u64> {
        batch.iter().map(|r| r.0.t_ms).collect()
    }

    #[test]
    fn one_second_holds_fifty_readings() {
        let mut s = sensors(false);
        for second in 1..=4 {
            s.produce(second * 1_000);
            assert_eq!(s.take_batch().len(), 50);
        }
        s.produce(4_000);
        assert!(s.take_batch().is_empty());
    }

    #[test]
    fn a_late_heartbeat_is_thinned_out_evenly_and_ends_with_the_newest_reading() {
        let mut s = sensors(false);
        s.produce(5_000);
        let newest = s.waiting.back().unwrap().t_ms;
        let batch = s.take_batch();
        let t = times(&batch);
        assert_eq!((t.len(), *t.last().unwrap()), (100, newest));
        assert!(t.windows(2).all(|w| (40..=60).contains(&(w[1] - w[0]))), "{t:?}");
    }

    /// A touch that fell between two readings that are sent is still a touch.
    #[test]
    fn thinning_out_loses_no_touch_when_touches_are_rare() {
        struct Rare(u64);
        impl MotionSource for Rare {
            fn next_reading(&mut self) -> Reading {
                self.0 += 1;
                let touch = self.0.is_multiple_of(21).then(Touch::default);
                Reading { t_ms: self.0 * DT_MS, touch, ..Reading::default() }
            }
        }
        let mut s = Sensors::new(Box::new(Rare(0)), false);
        s.produce(8_400);
        assert_eq!(s.take_batch().iter().filter(|r| r.0.touch.is_some()).count(), 20);
    }

    #[test]
    fn the_takeover_begins_at_its_moment_and_not_at_the_next_heartbeat() {
        let mut s = sensors(true);
        s.plan_takeover(AttackKind::Mirroring, 1, 1_310);
        s.produce(1_000);
        assert_eq!(s.hostile_since_ms(), None);
        s.take_batch();
        s.produce(2_000);
        assert_eq!(s.hostile_since_ms(), Some(1_320));
        let hostile = s.take_batch().iter().filter(|r| r.0.window_mirroring).count();
        assert_eq!(hostile, 35, "15 readings of the owner, 35 of the attacker");
        assert_eq!(time_to_lock(s.hostile_since_ms(), 2_020), Some(Duration::from_millis(700)));
    }

    #[test]
    fn the_devices_clock_never_falls_and_knows_of_the_time_it_was_locked() {
        let mut s = sensors(true);
        s.plan_takeover(AttackKind::Loop, 1, 1_500);
        s.produce(2_000);
        let before = times(&s.take_batch());
        s.return_to_owner(10_000);
        s.produce(11_000);
        let after = times(&s.take_batch());
        let all = [before.clone(), after.clone()].concat();
        assert!(all.windows(2).all(|w| w[1] > w[0]), "{all:?}");
        assert!(after[0] - before[before.len() - 1] >= 8_000);
    }

    #[test]
    fn a_day_without_a_heartbeat_needs_no_more_than_a_minute_of_memory() {
        let mut s = sensors(false);
        s.produce(86_400_000);
        assert_eq!(s.waiting.len(), WAITING_MAX);
        assert_eq!(s.take_batch().len(), 100);
        assert!(s.history.is_empty());
    }

    #[test]
    fn a_reading_is_written_as_the_contract_has_it() {
        let plain = Reading { t_ms: 20, accelerometer: Some([0.1, 9.79, 0.3]), ..Reading::default() };
        let text = serde_json::to_string(&WireReading(plain.clone())).unwrap();
        assert_eq!(text, r#"{"t_ms":20,"accelerometer":[0.1,9.79,0.3]}"#);
        let full = Reading {
            gyroscope: Some([0.01, 0.02, -0.03]),
            overlay: Some(1.0),
            touch: Some(Touch { x: 0.4, y: 0.7, pressure: 0.31, interval_ms: 180.0 }),
            network: Some(Network { rx_bytes: 1200, tx_bytes: 300, rtt_ms: 14.0, connections: 6 }),
            rooted: true,
            extras: Some(Box::new(Extras {
                dns: vec!["example.org".into()],
                sideloaded: vec!["com.example.app".into()],
            })),
            ..plain
        };
        let value = serde_json::to_value(WireReading(full)).unwrap();
        assert_eq!(value["network"]["dns"][0], "example.org");
        assert_eq!(value["touch"]["interval_ms"], 180.0);
        assert_eq!((&value["rooted"], &value["sideloaded"][0]), (&true.into(), &"com.example.app".into()));
        assert!(value.get("debugger").is_none());
    }
}
