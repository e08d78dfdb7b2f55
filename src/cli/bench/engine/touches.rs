//! Touches of people who entered characters on a phone in their hand, and of machines with the same distribution.

use std::path::Path;

use super::attacks::Dice;
use super::data::{Fault, Row, Source, Table, is_fitted};
use super::figures::Scored;
use super::fit::is_for_fitting;
use crate::domains::signals::engine::evidence::Heard;
use crate::domains::signals::engine::population::{RHYTHM_BINS, rhythm_bin};
use crate::domains::signals::engine::{DeviceEngine, Facts, Policy, Population, Reading, Sensors, Test, Touch};

/// Keys of an entry.
const KEYS: usize = 8;
/// Entries of a posture that a device learns from.
const LEARNED: u32 = 20;

/// One entry of eight characters.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Who.
    pub user: u32,
    /// Sitting, standing or walking.
    pub posture: String,
    /// Its place among those of the posture, from 1.
    pub sample: u32,
    /// How long each key was down, ms.
    pub hold_ms: Vec<f32>,
    /// From each release to the next press, ms.
    pub flight_ms: Vec<f32>,
}

impl Entry {
    /// From press to press, ms: what a device reports.
    fn intervals_ms(&self) -> impl Iterator<Item = f32> {
        self.hold_ms.iter().zip(&self.flight_ms).map(|(hold, flight)| (hold + flight).max(1.0))
    }
}

fn series(row: Row<'_>, name: &str, count: usize) -> Option<Vec<f32>> {
    (1..=count).map(|i| Some(super::data::single(row.number(&format!("{name}{i}"))?))).collect()
}

/// All entries; nothing where the folder is missing.
pub fn entries(root: &Path) -> Result<Option<(Vec<Entry>, Source)>, Fault> {
    let path = root.join("hand_tap").join("touch.csv");
    if !path.exists() {
        return Ok(None);
    }
    let (table, source) = Table::read(&path)?;
    let of = |row: Row<'_>| {
        Some(Entry {
            user: row.text("user").parse().ok()?,
            posture: row.text("posture").to_owned(),
            sample: row.text("sample").parse().ok()?,
            hold_ms: series(row, "hold", KEYS)?,
            flight_ms: series(row, "flight", KEYS - 1)?,
        })
    };
    Ok(Some((table.rows().filter_map(of).collect(), source)))
}

/// The users of the entries, and whether each is fitted with.
pub fn users(entries: &[Entry]) -> Vec<(u32, bool)> {
    let mut users: Vec<u32> = entries.iter().map(|e| e.user).collect();
    users.sort_unstable();
    users.dedup();
    users.into_iter().enumerate().map(|(i, u)| (u, is_for_fitting(i))).collect()
}

/// How often each interval occurs among those fitted with.
pub fn histogram(root: &Path) -> Result<Option<([f32; RHYTHM_BINS], Source)>, Fault> {
    let Some((entries, source)) = entries(root)? else { return Ok(None) };
    let fitted = fitted_users(&entries);
    let mut counts = [0.5_f32; RHYTHM_BINS];
    for interval_ms in entries.iter().filter(|e| fitted.contains(&e.user)).flat_map(Entry::intervals_ms) {
        if let Some(slot) = counts.get_mut(rhythm_bin(interval_ms)) {
            *slot += 1.0;
        }
    }
    let total: f32 = counts.iter().sum();
    Ok(Some((counts.map(|c| c / total), source)))
}

fn fitted_users(entries: &[Entry]) -> Vec<u32> {
    users(entries).into_iter().filter(|(_, fitted)| *fitted).map(|(u, _)| u).collect()
}

/// A device that only reports touches.
struct Fingers {
    engine: DeviceEngine,
    t_ms: u64,
}

impl Fingers {
    fn new() -> Self {
        let mut engine = DeviceEngine::new(Sensors { accelerometer: false, gyroscope: false });
        engine.listen();
        engine.begin(&Facts { now_ms: 1, ..Facts::default() });
        Self { engine, t_ms: 0 }
    }

    fn touch(&mut self, interval_ms: f32, n: usize) {
        self.t_ms += super::data::millis(f64::from(interval_ms));
        let (x, y) = (0.1 + 0.08 * (n % KEYS) as f32, 0.5 + 0.001 * (n % 97) as f32);
        let touch = Some(Touch { x, y, pressure: 0.3, interval_ms });
        self.engine.push(&Reading { t_ms: self.t_ms, touch, ..Reading::default() });
        if n.is_multiple_of(KEYS) {
            self.engine.conclude(&Policy::default());
        }
    }

    /// Unlikeness and evidence after each touch since the last call.
    fn heard(&mut self) -> Vec<Heard> {
        self.engine.take_heard().into_iter().filter(|h| h.0 == Test::Rhythm).collect()
    }
}

fn of_user(entries: &[Entry], user: u32, learned: bool) -> Vec<&Entry> {
    let mut of: Vec<&Entry> = entries.iter().filter(|e| e.user == user && (e.sample <= LEARNED) == learned).collect();
    // In the order in which a day mixes postures.
    of.sort_by(|a, b| (a.sample, &a.posture).cmp(&(b.sample, &b.posture)));
    of
}

/// What the engine makes of honest touches of those fitted with.
pub fn genuine_rhythm(root: &Path) -> Result<Vec<Vec<Heard>>, Fault> {
    let Some((entries, _)) = entries(root)? else { return Ok(Vec::new()) };
    let mut heard = Vec::new();
    for user in fitted_users(&entries) {
        let mut fingers = Fingers::new();
        for learned in [true, false] {
            for (n, ms) in of_user(&entries, user, learned).iter().flat_map(|e| e.intervals_ms()).enumerate() {
                fingers.touch(ms, n);
            }
        }
        heard.push(fingers.heard());
    }
    Ok(heard)
}

/// Logarithmic mean and spread.
fn log_normal(values: impl Iterator<Item = f32>) -> (f32, f32) {
    let logs: Vec<f32> = values.map(|v| v.max(1.0).ln()).collect();
    let n = logs.len().max(1) as f32;
    let mean = logs.iter().sum::<f32>() / n;
    (mean, (logs.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n).sqrt())
}

/// Genuine and machine-made stretches of 40 touches.
#[derive(Debug, Default)]
pub struct Rhythms {
    /// By what the device reports: the intervals.
    pub genuine: Vec<Scored>,
    /// See `genuine`.
    pub machine: Vec<Scored>,
    /// With how long each key is down, which devices do not report yet.
    pub genuine_with_hold: Vec<Scored>,
    /// See `genuine_with_hold`.
    pub machine_with_hold: Vec<Scored>,
    /// Evenly spaced machines found by the engine, of how many.
    pub even: (usize, usize),
}

/// Bots for each user.
const BOTS: usize = 10;
const STRETCH: usize = 5;

/// Measures people who were not fitted with against log-normal machines that match everybody's distribution.
pub fn rhythms(root: &Path) -> Result<Option<Rhythms>, Fault> {
    let Some((entries, source)) = entries(root)? else { return Ok(None) };
    let shipped = is_fitted(&source, Population::shipped());
    let measured: Vec<u32> =
        users(&entries).into_iter().filter(|(_, fitted)| !(shipped && *fitted)).map(|(u, _)| u).collect();
    let others: Vec<&Entry> = entries.iter().filter(|e| !measured.contains(&e.user) || !shipped).collect();
    let hold = log_normal(others.iter().flat_map(|e| e.hold_ms.iter().copied()));
    let flight = log_normal(others.iter().flat_map(|e| e.flight_ms.iter().copied()));
    let mut out = Rhythms::default();
    let mut dice = Dice::new(11);
    for (id, user) in measured.iter().enumerate() {
        let known = of_user(&entries, *user, true);
        let taught = || {
            let mut fingers = Fingers::new();
            for (n, ms) in known.iter().flat_map(|e| e.intervals_ms()).enumerate() {
                fingers.touch(ms, n);
            }
            fingers.heard();
            fingers
        };
        let owner = HoldModel::of(&known, &others);
        let of = of_user(&entries, *user, false);
        for stretch in of.chunks_exact(STRETCH) {
            let stretch: Vec<Entry> = stretch.iter().map(|e| (*e).clone()).collect();
            out.genuine.push((played(&mut taught(), &stretch), id));
            out.genuine_with_hold.push((owner.unlike(&stretch), id));
        }
        for _ in 0..BOTS {
            let mut draw = |(mean, spread): (f32, f32)| (mean + spread * dice.normal()).exp().round().max(1.0);
            let bot: Vec<Entry> = (0..STRETCH)
                .map(|_| Entry {
                    user: *user,
                    posture: String::new(),
                    sample: 0,
                    hold_ms: (0..KEYS).map(|_| draw(hold)).collect(),
                    flight_ms: (1..KEYS).map(|_| draw(flight)).collect(),
                })
                .collect();
            out.machine.push((played(&mut taught(), &bot), id));
            out.machine_with_hold.push((owner.unlike(&bot), id));
        }
        let mut fingers = taught();
        for n in 0..40 {
            fingers.touch(250.0, n);
        }
        let seen = fingers.engine.assess(&Policy::default()).reasons;
        let even = seen.iter().any(|r| matches!(r.name(), "mechanical_touches" | "rhythm_of_another"));
        out.even = (out.even.0 + usize::from(even), out.even.1 + 1);
    }
    Ok(Some(out))
}

/// The greatest unlikeness of a stretch, once it fills what the rhythm looks back on.
fn played(fingers: &mut Fingers, stretch: &[Entry]) -> f32 {
    for (n, ms) in stretch.iter().flat_map(Entry::intervals_ms).enumerate() {
        fingers.touch(ms, n);
    }
    fingers.heard().last().map_or(0.0, |h| h.3)
}

/// The owner's histograms of intervals and of how long keys are down.
struct HoldModel {
    intervals: [f32; RHYTHM_BINS],
    holds: [f32; RHYTHM_BINS],
}

/// Weight of everybody's distribution in the owner's, in touches.
const PRIOR: f32 = 40.0;

impl HoldModel {
    fn of(known: &[&Entry], others: &[&Entry]) -> Self {
        let count = |entries: &[&Entry], of: &dyn Fn(&Entry) -> Vec<f32>| {
            let mut counts = [0.5_f32; RHYTHM_BINS];
            for ms in entries.iter().flat_map(|e| of(e)) {
                if let Some(slot) = counts.get_mut(rhythm_bin(ms)) {
                    *slot += 1.0;
                }
            }
            counts
        };
        let ratio = |of: &dyn Fn(&Entry) -> Vec<f32>| {
            let (own, all) = (count(known, of), count(others, of));
            let (n, total): (f32, f32) = (own.iter().sum(), all.iter().sum());
            let mut out = [0.0; RHYTHM_BINS];
            for ((slot, own), all) in out.iter_mut().zip(own).zip(all) {
                let share = all / total;
                *slot = (share / ((own + PRIOR * share) / (n + PRIOR))).ln();
            }
            out
        };
        // A key is down for a quarter of an interval or so: the same bins, two octaves up.
        Self {
            intervals: ratio(&|e| e.intervals_ms().collect()),
            holds: ratio(&|e| e.hold_ms.iter().map(|h| h * 4.0).collect()),
        }
    }

    fn unlike(&self, stretch: &[Entry]) -> f32 {
        let mean = |table: &[f32; RHYTHM_BINS], ms: Vec<f32>| {
            ms.iter().filter_map(|ms| table.get(rhythm_bin(*ms))).sum::<f32>() / ms.len().max(1) as f32
        };
        mean(&self.intervals, stretch.iter().flat_map(Entry::intervals_ms).collect())
            + mean(&self.holds, stretch.iter().flat_map(|e| e.hold_ms.iter().map(|h| h * 4.0)).collect())
    }
}
