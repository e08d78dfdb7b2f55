//! Single rules, told as stories.

use super::*;

fn verdict(readings: impl IntoIterator<Item = Reading>) -> Assessment {
    let mut engine = DeviceEngine::new(Sensors::default());
    for r in readings {
        engine.push(&r);
    }
    engine.assess(&Policy::default())
}

#[test]
fn nothing_known_is_no_reason_to_lock() {
    let a = verdict([]);
    assert_eq!((a.decision, a.components), (Decision::Allow, Components::default()));
    assert_eq!(verdict([Reading::default()]).decision, Decision::Allow);
}

/// Real phones on a table repeat values for seconds.
#[test]
fn rest_alone_is_neutral_even_when_every_value_is_the_same() {
    assert_eq!(verdict((0..3000).map(desk)).decision, Decision::Allow);
    // Real sensors repeat themselves for seconds and never for a minute: that is asked about, and locks nobody.
    let frozen = verdict((0..40).map(|i| Reading { t_ms: i * 20, ..desk(1) }));
    assert_eq!((frozen.decision, frozen.reasons), (Decision::Allow, Reasons::default()));
    let stuck = verdict((0..3000).map(|i| Reading { t_ms: i * 20, ..desk(1) }));
    assert_eq!((stuck.decision, names(&stuck).as_str()), (Decision::Challenge, "sensors_stuck"));
}

#[test]
fn a_screen_reader_on_a_desk_is_not_locked() {
    let a = verdict((0..3000).map(|i| Reading { accessibility_active: true, ..desk(i) }));
    assert_eq!(a.decision, Decision::Allow, "{}", names(&a));
    let frozen = verdict((0..3000).map(|i| Reading { t_ms: i * 20, accessibility_active: true, ..desk(1) }));
    assert_eq!(frozen.decision, Decision::Challenge, "{}", names(&frozen));
}

#[test]
fn an_overlay_or_a_mirror_alone_asks_and_does_not_lock() {
    let overlay = verdict((0..500).map(|i| Reading { overlay: Some(1.0), ..desk(i) }));
    assert_eq!((overlay.decision, names(&overlay).as_str()), (Decision::Challenge, "overlay_present"));
    let mirror = verdict((0..500).map(|i| Reading { window_mirroring: true, ..desk(i) }));
    assert_eq!((mirror.decision, names(&mirror).as_str()), (Decision::Challenge, "mirroring_active"));
}

#[test]
fn overlay_or_mirror_with_accessibility_locks_with_the_first_reading() {
    for (overlay, window_mirroring, why) in
        [(Some(0.9), false, "overlay_with_accessibility"), (None, true, "mirroring_with_accessibility")]
    {
        let a = verdict([Reading { overlay, window_mirroring, accessibility_active: true, ..desk(0) }]);
        assert_eq!(a.decision, Decision::Block);
        assert!(names(&a).contains(why), "{}", names(&a));
    }
}

/// The owner picks the phone up in the second half of the very heartbeat that shows the takeover.
#[test]
fn evidence_holds_for_the_whole_heartbeat() {
    let mut engine = DeviceEngine::new(Sensors::default());
    for i in 0..200 {
        engine.push(&desk(i));
    }
    for i in 200..300 {
        let lively = (i as f32 * 0.7).sin() * 2.0 + (i as f32 * 0.31).cos();
        let mut r = Reading { touch: if i % 20 == 10 { touch(i) } else { None }, ..desk(i) };
        if i >= 265 {
            r.accelerometer = Some([lively, 0.4 * lively, 9.8 - lively]);
        }
        engine.push(&r);
    }
    let a = engine.assess(&Policy::default());
    assert_eq!(a.decision, Decision::Block, "{}", names(&a));
    engine.clear_evidence();
    assert_eq!(engine.assess(&Policy::default()).decision, Decision::Allow, "an unlock starts with a clean sheet");
}

/// Older clients repeat the last touch in every reading.
#[test]
fn a_repeated_touch_is_not_a_new_touch() {
    let mut engine = DeviceEngine::new(Sensors::default());
    for i in 0..1000 {
        engine.push(&Reading { touch: touch(1), ..desk(i) });
    }
    assert_eq!(engine.assess(&Policy::default()).decision, Decision::Allow);
}

/// A finger on a phone that lies on a table pushes it a little.
#[test]
fn a_phone_on_a_table_that_is_really_tapped_is_not_locked() {
    let readings = (0..2000).map(|i| {
        let mut r = desk(i);
        if i > 300 && i % 17 == 0 {
            r.touch = touch(i);
            r.accelerometer = r.accelerometer.map(|[x, y, z]| [x, y, z - 0.2]);
        }
        if i > 300 && i % 17 == 1 {
            r.accelerometer = r.accelerometer.map(|[x, y, z]| [x, y, z + 0.1]);
        }
        r
    });
    let a = verdict(readings);
    assert_eq!(a.decision, Decision::Allow, "{}", names(&a));
}

#[test]
fn an_emulator_that_is_used_is_locked_and_one_that_idles_is_asked() {
    let default = |i| Reading {
        t_ms: 1000 + i * 1000,
        accelerometer: Some([0.0, 9.81, 0.0]),
        gyroscope: Some([0.0; 3]),
        ..Reading::default()
    };
    assert_eq!(verdict((0..20).map(default)).decision, Decision::Challenge);
    let touched = (0..3).map(|i| Reading { touch: touch(i), ..default(i) });
    assert_eq!(verdict(touched).decision, Decision::Block);
    assert_eq!(verdict([Reading { overlay: Some(1.0), ..default(0) }]).decision, Decision::Block);
}

#[test]
fn a_sensor_that_was_not_declared_abstains() {
    let mut engine = DeviceEngine::new(Sensors { accelerometer: true, gyroscope: false });
    for i in 0..200 {
        engine.push(&desk(i));
    }
    let a = engine.assess(&Policy::default());
    assert!(a.components.accelerometer.is_some());
    assert_eq!(a.components.gyroscope, None);
    assert_eq!(Some(a.score), a.components.accelerometer, "the weights of the others are renormalised");
}

/// Rates from one reading in five seconds to 200 a second, gaps, steps back, and values that cannot be.
#[test]
fn odd_clocks_and_odd_values_lock_nobody() {
    for dt_ms in [5, 10, 20, 200, 1000, 5000] {
        let a = verdict((0..600).map(|i| Reading { t_ms: i * dt_ms, ..desk(i) }));
        assert_eq!(a.decision, Decision::Allow, "every {dt_ms} ms: {}", names(&a));
    }
    let gaps = verdict((0..600).map(|i| Reading { t_ms: i * 20 + i / 40 * 90_000, ..desk(i) }));
    assert_eq!(gaps.decision, Decision::Allow);
    let restart = verdict((0..600).map(|i| Reading { t_ms: i % 300 * 20, ..desk(i) }));
    assert_eq!(restart.decision, Decision::Allow);
    let back_and_forth = verdict((0..600).map(|i| Reading { t_ms: i % 60 * 20, ..desk(i) }));
    assert_eq!(names(&back_and_forth), "clock_reversed");
    let odd = [f32::NAN, f32::INFINITY, f32::MAX, -0.0, 1e-40];
    let a = verdict((0..600).map(|i| {
        let v = odd[i as usize % 5];
        Reading { accelerometer: Some([v, 1.0, v]), gyroscope: Some([v; 3]), overlay: Some(v.min(0.0)), ..desk(i) }
    }));
    assert!(a.score.points() <= 100);
}

/// A client that got no answer sends its readings again.
#[test]
fn readings_sent_twice_are_not_a_loop() {
    let walk = |i: u64| {
        let t = i as f32 * 0.02;
        let step = (11.0 * t).sin() * 2.0 + (22.3 * t + 1.0).sin() + desk(i).gyroscope.unwrap()[0] * 300.0;
        Reading { accelerometer: Some([step * 0.3, step * 0.2, 9.8 + step]), ..desk(i) }
    };
    let a = verdict((0..300).chain(200..300).chain(300..400).map(walk));
    assert!(!a.reasons.contains(Reason::ExactLoop), "{}", names(&a));
}

/// The same readings, cut into other heartbeats, end in the same state.
#[test]
fn heartbeats_do_not_change_what_is_seen() {
    let readings: Vec<Reading> =
        (0..500).map(|i| Reading { touch: if i % 30 == 0 { touch(i) } else { None }, ..desk(i) }).collect();
    let state = |batch| {
        let mut engine = DeviceEngine::new(Sensors::default());
        heartbeats(&mut engine, &readings, batch);
        let mut out = Vec::new();
        engine.encode(&mut out);
        out
    };
    assert_eq!(state(1), state(100));
    assert_eq!(state(7), state(50));
}

#[test]
fn a_company_may_move_the_threshold() {
    let mut engine = DeviceEngine::new(Sensors::default());
    engine.push(&Reading { overlay: Some(1.0), accessibility_active: true, ..desk(0) });
    for threshold in [1, 10, 40, 80] {
        let a = engine.assess(&Policy { threshold, ..Policy::default() });
        assert_eq!((a.decision, a.threshold), (Decision::Block, threshold));
    }
}

#[test]
fn traffic_far_above_the_usual_lowers_its_component() {
    let network = |rx_bytes, tx_bytes| Some(Network { rx_bytes, tx_bytes, rtt_ms: 15.0, connections: 5 });
    let mut engine = DeviceEngine::new(Sensors::default());
    for i in 0..200 {
        engine.push(&Reading { network: network(900 + i * 37 % 400, 200 + i * 13 % 100), ..desk(i) });
    }
    let usual = engine.assess(&Policy::default());
    assert!(usual.components.network_spike.unwrap().points() > 90);
    engine.push(&Reading { network: network(2000, 80_000_000), ..desk(200) });
    let spike = engine.assess(&Policy::default());
    assert!(spike.components.network_spike.unwrap().points() < 30, "{:?}", spike.components);
    assert!(spike.reasons.contains(Reason::NetworkSpike));
    assert_ne!(spike.decision, Decision::Block, "traffic alone locks nobody");
}

#[test]
fn even_touches_count_as_a_machines() {
    let taps = |interval: fn(u64) -> f32| {
        let mut touches = Touches::new();
        for i in 0..40 {
            let t = touch(i).unwrap();
            touches.push(&Touch { interval_ms: interval(i), ..t });
        }
        (touches.points().unwrap(), touches.mechanical())
    };
    let (machine, even) = taps(|_| 200.0);
    let (person, uneven) = taps(|i| 120.0 + (i * 53 % 170) as f32);
    assert!(even && !uneven);
    assert!(machine < 45.0 && person > 80.0, "{machine} {person}");
}

/// Names are stable, sentences are sentences, and bits and names do not collide.
#[test]
fn every_reason_explains_itself() {
    let mut seen = std::collections::BTreeSet::new();
    let mut all = Reasons::default();
    for reason in Reason::ALL {
        assert!(seen.insert(reason.name()));
        assert!(reason.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        assert!(reason.sentence().ends_with('.'));
        all.insert(*reason);
    }
    assert_eq!(all.iter().count(), REASONS);
    assert_eq!(Reasons::from_bits(u64::MAX), all);
    let features = verdict((0..100).map(desk)).features;
    let names: std::collections::BTreeSet<_> = features.iter().map(|(n, _)| n).collect();
    assert_eq!(names.len(), features.iter().count());
    assert!((features.get("rate_hz").unwrap() - 50.0).abs() < 0.1);
}

/// A real phone gives acceleration in steps of 0.1 m/s² and repeats all six values for up to 17 readings: a light touch
/// leaves no trace in it.
#[test]
fn a_coarse_sensor_does_not_lock_its_owner() {
    let coarse = |i: u64| Reading {
        accelerometer: Some([0.0, 0.1, if (i / 150).is_multiple_of(2) { 9.8 } else { 9.9 }]),
        gyroscope: Some([0.0, 0.0, if (i / 16).is_multiple_of(2) { 0.0 } else { 0.001 }]),
        touch: if i > 200 && i % 31 == 7 { touch(i) } else { None },
        ..desk(i)
    };
    let a = verdict((0..2000).map(coarse));
    assert_ne!(a.decision, Decision::Block, "{}", names(&a));
    let covered = verdict((0..2000).map(|i| Reading { overlay: Some(1.0), ..coarse(i) }));
    assert_eq!(covered.decision, Decision::Block, "{}", names(&covered));
}
