//! Input that no sensor gives and some client sends anyway: nothing panics, nobody is locked for it.

use super::*;

const DAY_MS: u64 = 86_400_000;

/// Small motion of a hand, the same for each `i`.
fn hand(i: u64) -> Reading {
    let mut r = desk(i);
    let t = i as f32 * 0.02;
    let sway = 0.3 * (2.1 * t).sin() + 0.2 * (5.3 * t + 1.0).sin() + 0.1 * (0.7 * t).cos();
    r.accelerometer = r.accelerometer.map(|[x, y, z]| [x + sway, y + 0.6 * sway, z - 0.4 * sway]);
    r.gyroscope = r.gyroscope.map(|[x, y, z]| [x + 0.1 * sway, y - 0.2 * sway, z + 0.1 * sway]);
    r
}

fn judged(readings: impl IntoIterator<Item = Reading>) -> Assessment {
    let mut engine = DeviceEngine::new(Sensors::default());
    for r in readings {
        engine.push(&r);
    }
    let a = engine.assess(&Policy::default());
    assert!(a.score.points() <= 100);
    let mut bytes = Vec::new();
    engine.encode(&mut bytes);
    assert!(DeviceEngine::decode(&mut bytes.as_slice()).is_ok(), "its state is one that can be read back");
    a
}

#[test]
fn what_no_sensor_gives_locks_nobody() {
    let huge = |i: u64| Reading { accelerometer: Some([1e6, -1e6, 1e6]), gyroscope: Some([1e6; 3]), ..desk(i) };
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 0.0];
    let cases: Vec<(&str, Vec<Reading>)> = vec![
        ("one time", (0..1000).map(|i| Reading { t_ms: 77, ..desk(i) }).collect()),
        ("backwards", (0..1000).map(|i| Reading { t_ms: 100_000 - i * 20, ..desk(i) }).collect()),
        ("gaps of a day", (0..1000).map(|i| Reading { t_ms: i * 20 + i / 100 * DAY_MS, ..desk(i) }).collect()),
        ("alternating rates", (0..1000).map(|i| Reading { t_ms: i * 20 + i / 2 * 480, ..desk(i) }).collect()),
        (
            "axes swapped",
            (0..2000)
                .map(|i| {
                    let mut r = hand(i);
                    if i >= 1000 {
                        r.accelerometer = r.accelerometer.map(|[x, y, z]| [z, x, y]);
                        r.gyroscope = r.gyroscope.map(|[x, y, z]| [z, x, y]);
                    }
                    r
                })
                .collect(),
        ),
        (
            "no numbers",
            (0..1000).map(|i| Reading { accelerometer: Some([odd[i as usize % 5]; 3]), ..desk(i) }).collect(),
        ),
        ("beyond reason", (0..300).map(huge).collect()),
    ];
    for (name, readings) in cases {
        let a = judged(readings);
        assert_ne!(a.decision, Decision::Block, "{name}: {}", names(&a));
    }
}

/// A client gives g where m/s² is agreed: that is noticed, said, and nobody is the worse for it.
#[test]
fn acceleration_in_g_is_converted_and_said() {
    let in_g = |i: u64| {
        let mut r = desk(i);
        r.accelerometer = r.accelerometer.map(|v| v.map(|x| x / 9.806_65));
        r
    };
    let a = judged((0..1000).map(in_g));
    assert_eq!((a.decision, names(&a).as_str()), (Decision::Allow, "units_in_g"));
    let mean = a.features.get("accelerometer_mean_ms2").unwrap();
    assert!((9.0..10.5).contains(&mean), "{mean}");
}

/// Weeks of rest teach nothing that a hand would then be measured by.
#[test]
fn a_device_that_only_rests_for_weeks_may_be_picked_up() {
    let mut engine = DeviceEngine::new(Sensors::default());
    for day in 0..21 {
        engine.begin(&Facts { now_ms: DAY_MS * (day + 1), ..Facts::default() });
        for i in 0..500 {
            engine.push(&Reading { t_ms: day * DAY_MS + i * 20, ..desk(day * 500 + i) });
        }
        assert_eq!(engine.conclude(&Policy::default()).decision, Decision::Allow, "day {day}");
    }
    assert_eq!((engine.context(), engine.known_blocks()), (Context::Rest, 0));
    for i in 0..1500 {
        engine.push(&Reading { t_ms: 22 * DAY_MS + i * 20, ..hand(i) });
    }
    let a = engine.conclude(&Policy::default());
    assert_ne!(a.decision, Decision::Block, "{}", names(&a));
    assert_eq!(engine.context(), Context::InHand);
}

/// A batch whose answer was lost comes again: it happened once.
#[test]
fn a_batch_that_is_sent_twice_changes_nothing() {
    let state = |readings: Vec<Reading>| {
        let a = judged(readings);
        (a.decision, names(&a))
    };
    let twice = (0..600).chain(500..600).chain(600..900).map(hand).collect();
    assert_eq!(state(twice), state((0..900).map(hand).collect()));
}

#[test]
fn facts_from_elsewhere_lock_with_the_first_reading() {
    let mut engine = DeviceEngine::new(Sensors::default());
    engine.begin(&Facts { known_bad_package: true, ..Facts::default() });
    engine.push(&desk(0));
    let a = engine.conclude(&Policy::default());
    assert_eq!((a.decision, names(&a).as_str()), (Decision::Block, "known_bad_package"));
}

/// What the hardware proved, what is paid for and what happened before move the threshold, within bounds.
#[test]
fn the_threshold_moves_within_its_bounds() {
    let threshold = |facts: Facts, policy: Policy| {
        let mut engine = DeviceEngine::new(Sensors::default());
        engine.begin(&facts);
        engine.push(&desk(0));
        engine.conclude(&policy).threshold
    };
    let proof = |score| Facts { attestation_score: Some(score), ..Facts::default() };
    for (facts, expect) in [
        (Facts::default(), 40),
        (proof(0), 48),
        (proof(9), 48),
        (proof(15), 40),
        (proof(30), 40),
        (proof(80), 40),
        (proof(95), 37),
        (Facts { plan: Plan::Enterprise, ..Facts::default() }, 42),
    ] {
        assert_eq!(threshold(facts, Policy::default()), expect, "{facts:?}");
    }
    for from in 20..=60 {
        for score in 0..=100 {
            let moved = threshold(proof(score), Policy { threshold: from, ..Policy::default() });
            assert!(moved + 8 >= from && moved <= from + 12 && moved <= 60, "{from} became {moved}");
        }
    }
}

/// Calm days are worth something, troubles cost, and a week heals.
#[test]
fn history_moves_the_threshold_both_ways() {
    let mut engine = DeviceEngine::new(Sensors::default());
    let day = |engine: &mut DeviceEngine, number: u64, overlay: f32| {
        engine.begin(&Facts { now_ms: DAY_MS * number, ..Facts::default() });
        for i in 0..200 {
            engine.push(&Reading { t_ms: number * DAY_MS + i * 20, overlay: Some(overlay), ..desk(number * 200 + i) });
        }
        engine.conclude(&Policy::default())
    };
    for number in 1..=4 {
        day(&mut engine, number, 0.0);
    }
    assert_eq!(day(&mut engine, 5, 0.0).threshold, 35, "four calm days");
    assert_eq!(day(&mut engine, 6, 1.0).decision, Decision::Challenge);
    let after = day(&mut engine, 7, 0.0).threshold;
    assert!(after > 40, "{after} after a challenge");
    for number in 8..60 {
        day(&mut engine, number, 0.0);
    }
    assert_eq!(day(&mut engine, 60, 0.0).threshold, 35, "weeks later");
}

/// Behind a queue the hard rules still hold, and the last decision with them, for five minutes.
#[test]
fn the_simplified_scorer_keeps_the_hard_rules_and_the_last_decision() {
    let mut engine = DeviceEngine::new(Sensors::default());
    engine.begin(&Facts { now_ms: 1_000_000, ..Facts::default() });
    (0..200).for_each(|i| engine.push(&desk(i)));
    let full = engine.conclude(&Policy::default());
    engine.begin(&Facts { now_ms: 1_010_000, ..Facts::default() });
    engine.push_simplified(&desk(200));
    let held = engine.conclude_simplified(&Policy::default());
    assert_eq!((held.score, held.decision, held.engine), (full.score, full.decision, Engine::Simplified));
    engine.push_simplified(&Reading { overlay: Some(1.0), accessibility_active: true, ..desk(201) });
    assert_eq!(engine.conclude_simplified(&Policy::default()).decision, Decision::Block);
}

/// The shipped table can be read, names what it was made from, and what is not a table is refused by its line.
#[test]
fn the_shipped_population_is_whole() {
    let table = Population::shipped();
    assert!(table.version > 0 && table.fitted.len() > 10);
    let known = Context::ALL.iter().filter(|c| table.tail(Test::White, **c, population::Pace::Fast).is_some());
    assert!(known.count() >= 2);
    assert!(table.people(Context::Carried).is_some() && table.rhythm.is_some());
    for (text, line) in
        [("version x", 1), ("# fine\ntail white rest fast 1 2 3", 2), ("people carried mean 1", 1), ("x", 1)]
    {
        assert_eq!(Population::parse(text).map(|t| t.version), Err(population::BadTable { line }), "{text}");
    }
}
