//! Ways past the engine that were found once, and honest devices that were mistaken for attackers.

use super::*;
use crate::agent::motion::{Human, MotionSource};

const HEARTBEAT_MS: u64 = 5000;

/// A device and the appliance's clock.
struct Told {
    engine: DeviceEngine,
    now_ms: u64,
}

impl Told {
    fn new(sensors: Sensors) -> Self {
        Self { engine: DeviceEngine::new(sensors), now_ms: 1_750_000_000_000 }
    }

    fn beat<'a>(&mut self, readings: impl IntoIterator<Item = &'a Reading>) -> Assessment {
        self.beat_with(readings, Facts::default())
    }

    fn beat_with<'a>(&mut self, readings: impl IntoIterator<Item = &'a Reading>, facts: Facts) -> Assessment {
        self.engine.begin(&Facts { now_ms: self.now_ms, ..facts });
        readings.into_iter().for_each(|r| self.engine.push(r));
        self.now_ms += HEARTBEAT_MS;
        self.engine.conclude(&Policy::default())
    }

    /// The first heartbeat of `size` that locks, counted from 1.
    fn locked_after(&mut self, readings: &[Reading], size: usize) -> Option<usize> {
        let mut beats = readings.chunks(size);
        beats.position(|beat| self.beat(beat).decision == Decision::Block).map(|n| n + 1)
    }
}

/// A person's motion, one reading in `every`, the first at `from_ms`.
fn person(seed: u64, count: usize, every: usize, from_ms: u64) -> Vec<Reading> {
    let mut human = Human::new(seed);
    let all: Vec<Reading> = (0..count * every).map(|_| human.next_reading()).collect();
    let first = all[0].t_ms;
    let untouched = |r: &Reading| Reading { t_ms: r.t_ms - first + from_ms, touch: None, ..r.clone() };
    all.iter().step_by(every).map(untouched).collect()
}

fn again(readings: &[Reading], from_ms: u64) -> Vec<Reading> {
    let first = readings[0].t_ms;
    readings.iter().map(|r| Reading { t_ms: r.t_ms - first + from_ms, ..r.clone() }).collect()
}

/// Below 20 readings a second the evidence of a replay was gathered and never looked at.
#[test]
fn a_recording_is_found_at_low_rates_too() {
    for every in [3, 10] {
        let recorded = person(5, 400, every, 1000);
        let length_ms = recorded[399].t_ms + 20 * every as u64;
        let mut told = Told::new(Sensors::default());
        assert_eq!(told.locked_after(&recorded, 50), None, "one reading in {every}: the owner was locked");
        let copies: Vec<Reading> = (1..4).flat_map(|n| again(&recorded, 1000 + n * length_ms)).collect();
        let after = told.locked_after(&copies, 50);
        assert!(after.is_some_and(|n| n <= 16), "one reading in {every}: {after:?}");
    }
}

/// A batch that was sent twice is looked at once; sent for ever it froze the evidence, and its flags were not even read.
#[test]
fn a_past_that_is_sent_for_ever_is_no_present() {
    let recorded = person(6, 600, 1, 1000);
    let mut told = Told::new(Sensors::default());
    assert_eq!(told.locked_after(&recorded, 100), None);
    let old: Vec<Reading> = recorded[501..599].to_vec();
    let mirrored: Vec<Reading> = old.iter().map(|r| Reading { window_mirroring: true, ..r.clone() }).collect();
    assert_eq!(told.beat(&mirrored).decision, Decision::Challenge, "what it says of itself counts");
    let locked = (0..30).find(|_| told.beat(&old).decision == Decision::Block);
    assert!(locked.is_some(), "{:?}", told.engine.weighed().collect::<Vec<_>>());
}

/// One reading with a later time made all that followed look late, and what is late was not compared with the past.
#[test]
fn a_clock_that_jumps_ahead_now_and_then_hides_no_replay() {
    let recorded = person(7, 1500, 1, 1000);
    let mut told = Told::new(Sensors::default());
    assert_eq!(told.locked_after(&recorded, 50), None);
    for ahead_ms in [29_900, 8_000, 2_500] {
        let mut hostile = Told { engine: told.engine.clone(), now_ms: told.now_ms };
        let (mut at_ms, mut sent) = (40_000, Vec::new());
        for piece in recorded.chunks(ahead_ms as usize / 20) {
            sent.push(Reading { t_ms: at_ms + ahead_ms, ..piece[0].clone() });
            sent.extend(again(piece, at_ms));
            at_ms += ahead_ms + 40;
        }
        let judged: Vec<Decision> = sent.chunks(50).map(|beat| hostile.beat(beat).decision).collect();
        assert!(judged.contains(&Decision::Block), "{ahead_ms} ms ahead: {judged:?}");
    }
}

/// A reason that only asks held for 25 readings, so what was seen early in a heartbeat of 100 was forgotten at its end.
#[test]
fn what_is_seen_early_in_a_heartbeat_is_still_said_at_its_end() {
    let mut told = Told::new(Sensors::default());
    told.beat(&(0..200).map(desk).collect::<Vec<_>>());
    let mirrored = |i: u64| Reading { window_mirroring: i == 201, ..desk(i) };
    let seen = told.beat(&(200..300).map(mirrored).collect::<Vec<_>>());
    assert!(seen.reasons.contains(Reason::MirroringActive) && seen.decision == Decision::Challenge);
    let next = told.beat(&(300..400).map(desk).collect::<Vec<_>>());
    assert!(!next.reasons.contains(Reason::MirroringActive));
}

/// Whoever holds the device was noticed and, for the same cause, practically never said.
#[test]
fn a_stranger_is_said_for_as_long_as_he_seems_one() {
    let mut told = Told::new(Sensors::default());
    told.beat(&(0..100).map(desk).collect::<Vec<_>>());
    told.engine.person.against = person::STRANGER + 1.0;
    let seen = told.beat(&(100..200).map(desk).collect::<Vec<_>>());
    assert!(seen.reasons.contains(Reason::StrangerHolds) && seen.decision == Decision::Challenge);
}

/// A device that enrolled again with other sensors began with a clean sheet.
#[test]
fn other_sensors_wipe_nothing_out() {
    let mut told = Told::new(Sensors::default());
    for i in 0..40 {
        told.beat(&(i * 10..i * 10 + 10).map(|i| Reading { overlay: Some(1.0), ..desk(i) }).collect::<Vec<_>>());
    }
    let before = told.beat(&[desk(400)]).threshold;
    told.engine.declare(Sensors { accelerometer: false, gyroscope: false });
    told.engine.declare(Sensors::default());
    assert_eq!(told.beat(&[desk(401)]).threshold, before);
    assert_eq!(told.engine.readings(), 402);
}

/// A phone on a desk whose sensors repeat their bits was asked, and locked at the next heartbeat because it had been asked
/// and its proof had lapsed: nothing but reasons that ask had been seen.
#[test]
fn reasons_that_ask_do_not_add_up_to_a_lock() {
    let still = |i: u64| Reading { t_ms: i * 20, ..desk(0) };
    for attestation_score in [None, Some(0), Some(30)] {
        let facts = Facts { attestation_score, ..Facts::default() };
        let mut told = Told::new(Sensors::default());
        let mut asked = 0;
        for n in 0..60 {
            let readings: Vec<Reading> = (n * 100..n * 100 + 100).map(still).collect();
            let a = told.beat_with(&readings, facts);
            assert_ne!(
                a.decision,
                Decision::Block,
                "heartbeat {n}, {attestation_score:?}: {} {}",
                a.score.points(),
                names(&a)
            );
            asked += u32::from(a.decision == Decision::Challenge);
        }
        assert!(asked > 0, "and it was asked");
    }
}

/// A gyroscope that is broken has nothing to agree with; its owner was locked after three seconds of walking.
#[test]
fn a_broken_gyroscope_asks_and_does_not_lock() {
    let steps = |i: u64| {
        let mut r = desk(i);
        let t = i as f32 * 0.02;
        let step =
            3.0 * (11.0 * t).sin() + 1.5 * (22.3 * t + 0.4).sin() + 0.8 * (3.1 * t).cos() + 0.5 * (7.7 * t).sin();
        r.accelerometer = r.accelerometer.map(|[x, y, z]| [x + 0.4 * step, y + 0.2 * step, z + step]);
        Reading { gyroscope: Some([0.0; 3]), ..r }
    };
    let mut told = Told::new(Sensors::default());
    let judged: Vec<Assessment> =
        (0..20).map(|n| told.beat(&(n * 100..n * 100 + 100).map(steps).collect::<Vec<_>>())).collect();
    let apart: Vec<&Assessment> = judged.iter().filter(|a| a.reasons.contains(Reason::SensorsApart)).collect();
    assert!(apart.is_empty(), "{}", names(apart[0]));
    assert!(judged.iter().any(|a| a.reasons.contains(Reason::SensorSilent)));
}

/// A large download locked a device that declared no sensors of motion.
#[test]
fn traffic_alone_locks_nobody() {
    let none = Sensors { accelerometer: false, gyroscope: false };
    let mut told = Told::new(none);
    let beat = |n: u64, rx_bytes: u64| {
        let network = Network { rx_bytes, tx_bytes: 300, rtt_ms: 20.0, connections: 4 };
        [Reading { t_ms: n * 5000, network: Some(network), ..Reading::default() }]
    };
    for n in 0..40 {
        assert_eq!(told.beat(&beat(n, 1000 + n * 13 % 200)).decision, Decision::Allow);
    }
    for n in 40..60 {
        assert_ne!(told.beat(&beat(n, 80_000_000)).decision, Decision::Block, "heartbeat {n}");
    }
}

/// One reading in five minutes made the appliance keep another ten kilobytes of evidence for ever.
#[test]
fn asking_again_and_again_takes_longer_each_time() {
    let mut told = Told::new(Sensors::default());
    let mut changes = 0;
    let mut last = Decision::Allow;
    for n in 0..17_280 {
        let odd = Reading { window_mirroring: n % 60 == 0, ..desk(n) };
        let decision = told.beat(&[Reading { t_ms: n * HEARTBEAT_MS, ..odd }]).decision;
        changes += u32::from(decision == Decision::Challenge && decision != last);
        last = decision;
    }
    assert!((3..=40).contains(&changes), "asked {changes} times in a day");
}

/// Readings in bursts of two seconds, as the appliance itself suggests, taught the engine nothing about their owner.
#[test]
fn bursts_teach_who_the_owner_is() {
    let moved = person(8, 6000, 1, 0);
    let in_bursts: Vec<Reading> = moved
        .iter()
        .enumerate()
        .map(|(i, r)| Reading { t_ms: i as u64 * 20 + i as u64 / 100 * 3000, ..r.clone() })
        .collect();
    let mut told = Told::new(Sensors::default());
    assert_eq!(told.locked_after(&in_bursts, 100), None);
    assert!(told.engine.known_blocks() > 20, "{}", told.engine.known_blocks());
}

/// Unhurried poisoning of the traffic's profile took sixteen heartbeats.
#[test]
fn the_profile_of_traffic_moves_half_an_octave_a_day() {
    let mut told = Told::new(Sensors::default());
    let mut taken = 0;
    let mut beat = |told: &mut Told, rx_bytes: u64| {
        let network = Some(Network { rx_bytes, tx_bytes: 300, rtt_ms: 20.0, connections: 4 });
        let readings: Vec<Reading> = (taken..taken + 100).map(|i| Reading { network, ..desk(i) }).collect();
        taken += 100;
        told.beat(&readings)
    };
    for _ in 0..20 {
        beat(&mut told, 1000);
    }
    for n in 0..200_u64 {
        beat(&mut told, 1000 + n * 1275);
    }
    let departed = beat(&mut told, 256_000).features.get("network_departure_sigma").unwrap();
    assert!(departed > 6.0, "eight octaves in 17 minutes are no habit: {departed}");
}
