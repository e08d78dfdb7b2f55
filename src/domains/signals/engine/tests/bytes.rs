//! Readings and states survive their bytes, and garbage is refused without a panic.

use proptest::prelude::*;

use super::*;

fn number() -> impl Strategy<Value = f32> {
    -40.0_f32..40.0
}

fn xyz() -> impl Strategy<Value = [f32; 3]> {
    [number(), number(), number()]
}

fn names() -> impl Strategy<Value = Vec<Box<str>>> {
    prop::collection::vec("[a-zä.]{0,20}".prop_map(String::into_boxed_str), 0..5)
}

prop_compose! {
    fn any_reading()(
        dt_ms in prop_oneof![5 => 0_u64..60, 1 => 0_u64..100_000],
        accelerometer in prop::option::weighted(0.9, xyz()),
        gyroscope in prop::option::weighted(0.9, xyz()),
        touch in prop::option::weighted(0.3, (number(), number(), number(), 0.0_f32..5000.0)),
        network in prop::option::weighted(0.2, (any::<u64>(), any::<u64>(), number(), any::<u32>())),
        overlay in prop::option::weighted(0.2, 0.0_f32..1.0),
        proximity in prop::option::weighted(0.2, 0.0_f32..1.0),
        flags in any::<[bool; 4]>(),
        rare in 0_u8..10,
        extras in prop::option::weighted(0.2, (names(), names())),
    ) -> Reading {
        let [accessibility_active, window_mirroring, rooted, debugger] = if rare == 0 { flags } else { [false; 4] };
        Reading {
            t_ms: dt_ms,
            accelerometer,
            gyroscope,
            touch: touch.map(|(x, y, pressure, interval_ms)| Touch { x, y, pressure, interval_ms }),
            network: network.map(|(rx_bytes, tx_bytes, rtt_ms, connections)| Network { rx_bytes, tx_bytes, rtt_ms, connections }),
            overlay, proximity, accessibility_active, window_mirroring, rooted, debugger,
            extras: extras.map(|(dns, sideloaded)| Box::new(Extras { dns, sideloaded })),
        }
    }
}

/// Readings whose times rise by what was drawn, with a step back now and then.
fn stream(readings: Vec<Reading>) -> Vec<Reading> {
    let mut t_ms = 10_000_u64;
    readings
        .into_iter()
        .map(|mut r| {
            t_ms = if r.t_ms == 59 { t_ms - 5000.min(t_ms) } else { t_ms + r.t_ms };
            r.t_ms = t_ms;
            r
        })
        .collect()
}

fn bytes_of(engine: &DeviceEngine) -> Vec<u8> {
    let mut out = Vec::new();
    engine.encode(&mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_reading_is_read_back_as_written(readings in prop::collection::vec(any_reading(), 1..20)) {
        let mut bytes = Vec::new();
        for r in &readings {
            r.encode(&mut bytes);
        }
        let mut input = bytes.as_slice();
        for r in &readings {
            prop_assert_eq!(&Reading::decode(&mut input).unwrap(), r);
        }
        prop_assert!(input.is_empty());
        for cut in 0..bytes.len().min(200) {
            let mut input = &bytes[..cut];
            while Reading::decode(&mut input).is_ok() {}
        }
    }

    #[test]
    fn garbage_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = Reading::decode(&mut bytes.as_slice());
        let _ = DeviceEngine::decode(&mut bytes.as_slice());
        let mut versioned = bytes;
        versioned.insert(0, 1);
        let _ = DeviceEngine::decode(&mut versioned.as_slice());
    }

    /// A checkpoint that was damaged but still decodes must not bring the engine down either.
    #[test]
    fn a_damaged_state_never_panics(
        readings in prop::collection::vec(any_reading(), 1..150),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let readings = stream(readings);
        let mut engine = DeviceEngine::new(Sensors::default());
        for r in &readings {
            engine.push(r);
        }
        let mut bytes = bytes_of(&engine);
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Ok(mut engine) = DeviceEngine::decode(&mut bytes.as_slice()) {
            for r in readings.iter().chain(&readings) {
                engine.push(r);
                let _ = engine.assess(&Policy::default());
            }
        }
    }

    #[test]
    fn a_state_that_is_read_back_goes_on_to_the_same_bits(
        before in prop::collection::vec(any_reading(), 0..300),
        after in prop::collection::vec(any_reading(), 1..200),
        sensors in any::<[bool; 2]>(),
    ) {
        let readings = stream(before.iter().chain(&after).cloned().collect());
        let (before, after) = readings.split_at(before.len());
        let [accelerometer, gyroscope] = sensors;
        let mut original = DeviceEngine::new(Sensors { accelerometer, gyroscope });
        for r in before {
            original.push(r);
        }
        let bytes = bytes_of(&original);
        let mut input = bytes.as_slice();
        let mut copy = DeviceEngine::decode(&mut input).unwrap();
        prop_assert!(input.is_empty());
        prop_assert_eq!(&bytes_of(&copy), &bytes);
        let policy = Policy::default();
        for r in after {
            original.push(r);
            copy.push(r);
            prop_assert_eq!(original.assess(&policy), copy.assess(&policy));
        }
        prop_assert_eq!(bytes_of(&original), bytes_of(&copy));
    }
}

#[test]
fn another_version_is_named_and_every_shorter_state_is_refused() {
    let mut engine = DeviceEngine::new(Sensors::default());
    for i in 0..150 {
        engine.push(&Reading { touch: touch(i), network: Some(Network::default()), ..desk(i) });
    }
    let bytes = bytes_of(&engine);
    for cut in 0..bytes.len() {
        assert!(DeviceEngine::decode(&mut &bytes[..cut]).is_err(), "cut to {cut} of {}", bytes.len());
    }
    let mut other = bytes;
    other[0] = 9;
    assert_eq!(DeviceEngine::decode(&mut other.as_slice()).unwrap_err(), CodecError::Version(9));
}

/// Invariant 5 of the house: every buffer has a stated limit.
#[test]
fn a_device_takes_at_most_8_kib() {
    let mut engine = DeviceEngine::new(Sensors::default());
    let bare = bytes_of(&engine).len();
    for i in 0..2000 {
        engine.push(&Reading { touch: touch(i), network: Some(Network::default()), ..desk(i) });
    }
    let in_memory = size_of::<DeviceEngine>() + size_of::<Touches>() + size_of::<Traffic>();
    let stored = bytes_of(&engine).len();
    println!(
        "engine: {} B in memory, {in_memory} B with touches and traffic; {bare} to {stored} B stored",
        size_of::<DeviceEngine>()
    );
    println!("assessment: {} B, reading: {} B", size_of::<Assessment>(), size_of::<Reading>());
    assert!(in_memory <= 8192 && stored <= 8192, "{in_memory} {stored}");
}

/// A stored decision is recomputed by the engine of the same version alone. Whoever changes what the engine finds, or the
/// population, raises `VERSION` and writes the new digest here.
#[test]
fn an_engine_that_finds_something_else_has_another_version() {
    let mut engine = DeviceEngine::new(Sensors::default());
    let mut digest = 0;
    for i in 0..2000 {
        let swing = ((i * 7919) % 97) as f32 / 97.0 + ((i * 104_729) % 31) as f32 / 31.0 - 1.0;
        let mut r = desk(i);
        if i % 500 > 200 {
            r.accelerometer = r.accelerometer.map(|[x, y, z]| [x + swing, y - 0.5 * swing, z + 2.0 * swing]);
            r.gyroscope = r.gyroscope.map(|[x, y, z]| [x + 0.3 * swing, y, z - 0.2 * swing]);
        }
        if i % 40 == 0 {
            r.touch = touch(i);
        }
        engine.push(&r);
        if i % 50 == 49 {
            digest ^= engine.conclude(&Policy::default()).digest().rotate_left((i / 50 % 32) as u32);
        }
    }
    assert_eq!((VERSION, digest), (3, 0xCFDD_17C6));
}
