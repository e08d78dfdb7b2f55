//! People are left alone and attacks are not: measured with the agent's own person and attacks.

use super::*;
use crate::agent::motion::{Attack, AttackKind, Human, MotionSource};

/// Unoptimised builds look at fewer devices for the sake of time; the promise is the same.
const DEVICES: u64 = if cfg!(debug_assertions) { 12 } else { 200 };
const ATTACK_SEEDS: u64 = if cfg!(debug_assertions) { 10 } else { 50 };

#[test]
fn ten_minutes_of_a_person_lock_nobody() {
    let policy = Policy::default();
    let (mut blocks, mut challenges, mut heartbeats, mut lowest) = (0, 0, 0, 100);
    let (mut repeat_error, mut purity) = (1.0_f32, 0.0_f32);
    for seed in 0..DEVICES {
        let mut human = Human::new(seed);
        let mut engine = DeviceEngine::new(Sensors::default());
        for i in 1..=30_000 {
            engine.push(&human.next_reading());
            if i % 50 == 0 {
                let a = engine.assess(&policy);
                heartbeats += 1;
                lowest = lowest.min(a.score.points());
                repeat_error = repeat_error.min(a.features.get("repeat_error").unwrap());
                purity = purity.max(a.features.get("accelerometer_purity").unwrap());
                if a.decision != Decision::Allow {
                    println!("  seed {seed} reading {i}: {} {} {}", a.decision.as_str(), a.score.points(), names(&a));
                }
                blocks += u32::from(a.decision == Decision::Block);
                challenges += u32::from(a.decision == Decision::Challenge);
            }
        }
    }
    println!(
        "{DEVICES} people, 10 minutes each: {heartbeats} heartbeats, {challenges} challenges, {blocks} blocks, lowest {lowest}"
    );
    println!("nearest to an attack: repeat error {repeat_error}, purity {purity}");
    assert_eq!(blocks, 0);
    assert!(challenges * 1000 <= heartbeats, "{challenges}");
}

/// Hostile readings until the block, after 30 s of a person.
fn readings_until_block(kind: AttackKind, seed: u64, batch: usize) -> Option<(usize, usize, Assessment)> {
    let policy = Policy::default();
    let mut human = Human::new(seed);
    let mut engine = DeviceEngine::new(Sensors::default());
    let history: Vec<Reading> = (0..1500).map(|_| human.next_reading()).collect();
    for a in heartbeats(&mut engine, &history, batch) {
        assert_ne!(a.decision, Decision::Block, "the owner was locked: {}", names(&a));
    }
    let mut attack = Attack::new(kind, seed ^ 0xA77A, &history);
    let mut first_touch = 0;
    for sent in 1..=1000 {
        let r = attack.next_reading();
        if r.touch.is_some() && first_touch == 0 {
            first_touch = sent;
        }
        engine.push(&r);
        if sent % batch == 0 {
            let a = engine.assess(&policy);
            if a.decision == Decision::Block {
                return Some((sent, first_touch, a));
            }
        }
    }
    None
}

#[test]
fn every_attack_ends_in_a_block() {
    for batch in [50, 10] {
        for kind in AttackKind::ALL {
            let mut delays = Vec::new();
            let mut after_touch = Vec::new();
            let mut why = std::collections::BTreeMap::<String, u32>::new();
            for seed in 0..ATTACK_SEEDS {
                let Some((sent, first_touch, a)) = readings_until_block(kind, seed, batch) else {
                    panic!("{kind} from seed {seed} was never blocked (batches of {batch})");
                };
                delays.push(sent);
                after_touch.push(sent.saturating_sub(first_touch));
                *why.entry(names(&a)).or_default() += 1;
                assert!(a.score.points() < 40);
            }
            delays.sort_unstable();
            after_touch.sort_unstable();
            let (median, max) = (delays[delays.len() / 2], delays[delays.len() - 1]);
            println!(
                "{kind:9} batches of {batch}: median {median}, max {max} readings; after the first touch median {}, max {}; {why:?}",
                after_touch[after_touch.len() / 2],
                after_touch[after_touch.len() - 1]
            );
            let allowed = match kind {
                AttackKind::Noise | AttackKind::Sine => 200,
                // It must come round once before it can be known.
                AttackKind::Loop => 600,
                _ => 150,
            };
            assert!(max <= allowed, "{kind} took {max}");
        }
    }
}

/// Keeps one reading a second, with a touch of the second before where there was one.
fn once_a_second(source: &mut impl MotionSource) -> Reading {
    let mut touch = None;
    for _ in 0..49 {
        touch = source.next_reading().touch.or(touch);
    }
    let mut r = source.next_reading();
    r.touch = r.touch.or(touch);
    r
}

/// Older clients send one reading a second: motion says little then, and what it cannot say must not lock.
#[test]
fn one_reading_a_second_is_enough_for_what_does_not_need_inertia() {
    let policy = Policy::default();
    let (mut heartbeats, mut challenges) = (0, 0);
    let mut delays: Vec<(AttackKind, Vec<usize>)> = Vec::new();
    for kind in [AttackKind::Still, AttackKind::Emulator, AttackKind::Overlay, AttackKind::Mirroring, AttackKind::Loop]
    {
        let mut sorted = Vec::new();
        for seed in 0..ATTACK_SEEDS {
            let mut human = Human::new(seed);
            let mut engine = DeviceEngine::new(Sensors::default());
            let mut history = Vec::new();
            for _ in 0..if kind == AttackKind::Still { 600 } else { 120 } {
                let r = once_a_second(&mut human);
                engine.push(&r);
                history.push(r);
                let a = engine.assess(&policy);
                heartbeats += 1;
                challenges += usize::from(a.decision == Decision::Challenge);
                assert_ne!(a.decision, Decision::Block, "seed {seed}: {}", names(&a));
            }
            let mut attack = Attack::new(kind, seed, &history);
            let blocked = (1..=300).find(|_| {
                // A loop is played reading by reading.
                let r = if kind == AttackKind::Loop { attack.next_reading() } else { once_a_second(&mut attack) };
                engine.push(&r);
                engine.assess(&policy).decision == Decision::Block
            });
            sorted.push(blocked.unwrap_or_else(|| panic!("{kind} from seed {seed} was never blocked")));
        }
        sorted.sort_unstable();
        delays.push((kind, sorted));
    }
    println!("one reading a second: {challenges} challenges in {heartbeats} heartbeats of people");
    for (kind, sorted) in delays {
        println!("  {kind:9}: median {}, max {} readings", sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
    }
}
