//! The whole engine over recordings and attacks: what it scores, window by window, and how soon it locks.

use super::attacks::{self, Attack, Dice};
use super::data::{Class, Recording};
use super::figures::Scored;
use crate::domains::signals::engine::{Decision, DeviceEngine, Effect, Facts, Policy, Reading};

/// Readings of a heartbeat.
const HEARTBEAT: usize = 50;
/// What a hard rule that locks is worth beside the evidence of tests, which ends at 10 decades.
const LOCKED: f32 = 12.0;
/// What one that asks is worth: as much as evidence that asks.
const ASKED: f32 = 4.0;
/// Pause between the recordings of one subject.
const PAUSE_MS: u64 = 60_000;
/// A window that is the whole recording.
pub const WHOLE: usize = usize::MAX;
/// Windows that no single phase of a worn recording fills.
const LONG: usize = 500;
/// Any time: the engine knows only differences.
const START_MS: u64 = 1_750_000_000_000;

/// A device whose heartbeats are taken one after another.
pub struct Stream {
    engine: DeviceEngine,
    policy: Policy,
    pending: usize,
    now_ms: u64,
    /// Heartbeats that asked and that locked.
    pub asked: usize,
    /// See `asked`.
    pub locked: usize,
    /// Heartbeats.
    pub heartbeats: usize,
    last: Decision,
}

impl Stream {
    /// A device that nobody knows.
    pub fn new(recording: &Recording) -> Self {
        Self {
            engine: DeviceEngine::new(recording.sensors),
            policy: Policy::default(),
            pending: 0,
            now_ms: START_MS,
            asked: 0,
            locked: 0,
            heartbeats: 0,
            last: Decision::Allow,
        }
    }

    /// The engine, to be asked.
    pub fn engine(&mut self) -> &mut DeviceEngine {
        &mut self.engine
    }

    /// Moves the appliance's clock.
    pub fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    /// Takes a reading; gives how suspicious the device is after it, in decades.
    pub fn push(&mut self, reading: &Reading) -> f32 {
        if self.pending == 0 {
            self.engine.begin(&Facts { now_ms: self.now_ms, ..Facts::default() });
        }
        self.engine.push(reading);
        self.pending += 1;
        if self.pending == HEARTBEAT {
            self.pending = 0;
            self.now_ms += 1000;
            let assessment = self.engine.conclude(&self.policy);
            self.heartbeats += 1;
            self.asked += usize::from(assessment.decision == Decision::Challenge);
            self.locked += usize::from(assessment.decision == Decision::Block);
            self.last = assessment.decision;
        }
        let hard = match self.engine.worst() {
            Some(Effect::Block) => LOCKED,
            Some(Effect::Challenge) => ASKED,
            Some(Effect::Note) | None => 0.0,
        };
        hard.max(self.engine.evidence_decades())
    }

    /// Whether the device is locked by now.
    pub fn is_locked(&self) -> bool {
        self.engine.worst() == Some(Effect::Block)
    }
}

/// Readings of a window at a rate: a fixed number where inertia shows, three seconds where it does not.
pub fn window(readings: usize, hz: f64) -> usize {
    if hz >= 40.0 || readings == WHOLE {
        readings
    } else {
        usize::try_from(super::data::millis(3.0 * hz)).unwrap_or(1).max(3)
    }
}

/// What one genuine class gave.
#[derive(Clone, Debug, Default)]
pub struct Genuine {
    /// The greatest suspicion of each window, and whose it is.
    pub windows: Vec<Scored>,
    /// Hours of recordings.
    pub hours: f64,
}

/// Streams every subject's recordings and sorts the windows by class.
pub fn genuine(recordings: &[Recording], readings: usize, hz: f64) -> Vec<(Class, Genuine)> {
    genuine_changed(recordings, readings, hz, |r| r.readings.clone())
}

/// The same after `change` was done to each recording's readings.
pub fn genuine_changed(
    recordings: &[Recording],
    readings: usize,
    hz: f64,
    change: impl Fn(&Recording) -> Vec<Reading>,
) -> Vec<(Class, Genuine)> {
    let mut out: Vec<(Class, Genuine)> = Class::ALL.into_iter().map(|c| (c, Genuine::default())).collect();
    let size = window(readings, hz);
    let mut subjects: Vec<String> = Vec::new();
    for (subject, of) in by_subject(recordings) {
        if !subjects.contains(&subject) {
            subjects.push(subject.clone());
        }
        let id = subjects.iter().position(|s| *s == subject).unwrap_or(0);
        let Some(first) = of.first() else { continue };
        let mut stream = Stream::new(first);
        let mut offset_ms = 0;
        for recording in of {
            let changed = change(recording);
            let start_ms = changed.first().map_or(0, |r| r.t_ms);
            let (mut worst, mut filled, mut present, mut began_ms) = (0.0_f32, 0, None, 0);
            for (i, reading) in changed.iter().enumerate() {
                let mut reading = reading.clone();
                reading.t_ms = reading.t_ms.saturating_sub(start_ms) + offset_ms;
                if filled == 0 {
                    began_ms = reading.t_ms;
                }
                let suspicion = stream.push(&reading);
                // What was changed may be shorter or longer; the class is that of the same share of the recording.
                let class =
                    recording.classes.get(i * recording.readings.len() / changed.len().max(1)).copied().flatten();
                // No phase of sitting or walking lasts that long: a long window is of the whole walk.
                let class = if size >= LONG && is_worn(recording) { Some(Class::Walking) } else { class };
                if class != present {
                    (worst, filled, present) = (0.0, 0, class);
                }
                worst = worst.max(suspicion);
                filled += 1;
                if filled < size {
                    continue;
                }
                if let Some((_, g)) = out.iter_mut().find(|(c, _)| Some(*c) == class) {
                    g.windows.push((worst, id));
                    g.hours += (reading.t_ms.saturating_sub(began_ms)) as f64 / 3.6e6;
                }
                (worst, filled) = (0.0, 0);
            }
            let length_ms = changed.last().map_or(0, |r| r.t_ms.saturating_sub(start_ms));
            if size == WHOLE
                && let Some((_, g)) = out.iter_mut().find(|(c, _)| Some(*c) == present)
            {
                g.windows.push((worst, id));
                g.hours += length_ms as f64 / 3.6e6;
            }
            offset_ms += length_ms + PAUSE_MS;
            stream.pass(PAUSE_MS);
        }
    }
    out.retain(|(_, g)| !g.windows.is_empty());
    out
}

/// Recordings of each subject's phone, in order: one device's life.
pub fn by_subject(recordings: &[Recording]) -> Vec<(String, Vec<&Recording>)> {
    let mut out: Vec<(String, Vec<&Recording>)> = Vec::new();
    for recording in recordings {
        match out.iter_mut().find(|(s, of)| {
            *s == recording.subject
                && of.first().is_some_and(|f| (f.sensors, &f.phone) == (recording.sensors, &recording.phone))
        }) {
            Some((_, of)) => of.push(recording),
            None => out.push((recording.subject.clone(), vec![recording])),
        }
    }
    out
}

/// What an attack gave.
#[derive(Clone, Debug, Default)]
pub struct Attacked {
    /// The greatest suspicion of each window, and the recording it was made from.
    pub windows: Vec<Scored>,
    /// Seconds until the lock, for those that were locked.
    pub delays_s: Vec<f32>,
    /// Attacks played.
    pub played: usize,
}

/// Attacks at most, for each kind and rate.
const ATTACKS_MAX: usize = 80;
/// Readings of an attack.
const ATTACK_READINGS: usize = 1500;

/// Plays an attack after each recording, with pieces of the others.
pub fn attacked(recordings: &[&Recording], attack: Attack, hz: f64, seed: u64) -> Attacked {
    let mut out = Attacked::default();
    let table = attack == Attack::TableTouched;
    let at_rest = |r: &Recording| r.classes.first() == Some(&Some(Class::Rest));
    // Motion is looped, replayed and mixed; what lies still has none.
    let moving = matches!(attack, Attack::Loop(..) | Attack::Replay(_) | Attack::Matched);
    let fit =
        |r: &&&Recording| (!table || at_rest(r)) && !(moving && at_rest(r)) && (attack != Attack::Mixed || is_worn(r));
    let of: Vec<&Recording> = recordings.iter().filter(fit).copied().collect();
    let step = of.len().div_ceil(ATTACKS_MAX).max(1);
    for (id, recording) in of.iter().enumerate().step_by(step) {
        let mut dice = Dice::new(seed ^ (id as u64).wrapping_mul(0x9E37_79B9));
        let others: Vec<&&Recording> = of
            .iter()
            .filter(|o| {
                o.sensors == recording.sensors
                    && (table || !std::ptr::eq(**o, *recording))
                    && (!table || o.subject == recording.subject)
            })
            .collect();
        let Some(other) = others.get(dice.below(others.len())) else { continue };
        let count = if hz >= 40.0 { ATTACK_READINGS } else { window(0, hz) * 8 };
        let Some(hostile) = attacks::play(attack, &recording.readings, &other.readings, count, &mut dice) else {
            continue;
        };
        out.played += 1;
        let mut stream = Stream::new(recording);
        for reading in &recording.readings {
            stream.push(reading);
        }
        let size = window(attack.window(), hz).min(hostile.len());
        // Rates are those of an attack that has begun: the first window still holds readings from before, a loop shows
        // nothing before it comes round, and its noise is seen through in four seconds more. Delays are given beside.
        let hidden = match attack {
            Attack::Loop(length, noisy) => (length + if noisy { 500 } else { 100 }).max(200),
            Attack::Replay(_) => 0,
            _ => 200,
        };
        let hidden = if hz >= 40.0 { hidden } else { size };
        let (mut worst, mut filled) = (0.0_f32, 0);
        let mut locked = None;
        for (i, reading) in hostile.iter().enumerate() {
            let suspicion = stream.push(reading);
            if locked.is_none() && stream.is_locked() {
                locked = Some(super::data::single((i + 1) as f64 / hz));
            }
            if i < hidden {
                continue;
            }
            worst = worst.max(suspicion);
            filled += 1;
            if filled == size {
                out.windows.push((worst, id));
                (worst, filled) = (0.0, 0);
            }
        }
        out.delays_s.extend(locked);
    }
    out
}

/// Carried by somebody who also walks.
fn is_worn(recording: &Recording) -> bool {
    recording.sensors.gyroscope && recording.classes.contains(&Some(Class::Walking))
}

/// What happens to honest devices and is no attack.
pub const MISHAPS: [&str; 3] = ["dropout", "duplicated batches", "rate change"];

/// Does a mishap to a recording.
pub fn mishap(name: &str, recording: &Recording) -> Vec<Reading> {
    let readings = &recording.readings;
    match name {
        // One reading in five is lost, and now and then two seconds.
        "dropout" => {
            let mut dice = Dice::new(readings.len() as u64);
            let kept = readings.iter().enumerate().filter(|(i, _)| i % 700 > 120 && dice.even() > 0.2);
            kept.map(|(_, r)| r.clone()).collect()
        }
        // Every fourth heartbeat is sent twice.
        "duplicated batches" => readings
            .chunks(HEARTBEAT)
            .enumerate()
            .flat_map(|(n, batch)| {
                batch.iter().chain(if n % 4 == 3 { batch } else { &[] }).cloned().collect::<Vec<_>>()
            })
            .collect(),
        // The second half comes at half the rate.
        _ => {
            let half = readings.len() / 2;
            readings.iter().enumerate().filter(|(i, _)| *i < half || i % 2 == 0).map(|(_, r)| r.clone()).collect()
        }
    }
}
