//! Whether another person is noticed: who walks with the device, who blends in slowly, who poisons the owner's traits.

use super::data::{Recording, single};
use super::figures::{Scored, auc, eer};
use super::fit::{blocks, mean_traits};
use super::runs::{Stream, by_subject};
use crate::domains::signals::engine::person::likelihood_ratio_nats;
use crate::domains::signals::engine::{Context, Population, Reading, bands::TRAITS};

/// Share of a person's recordings that enrolls him: the earlier ones.
const ENROLLED: f64 = 0.6;

/// User switch by walking recordings.
#[derive(Debug, Default)]
pub struct Switch {
    /// Suspicion of the owner's later recordings.
    pub owners: Vec<Scored>,
    /// Suspicion of others' recordings on his device.
    pub strangers: Vec<Scored>,
    /// Mean over owners of the equal error rate of each.
    pub mean_eer: f32,
    /// The same of the area under the curve.
    pub mean_auc: f32,
}

fn traits_of(v: &[f64]) -> [f32; TRAITS] {
    let mut out = [0.0; TRAITS];
    for (slot, x) in out.iter_mut().zip(v) {
        *slot = single(*x);
    }
    out
}

fn worn(recordings: &[Recording]) -> Vec<(String, Vec<&Recording>)> {
    let of = by_subject(recordings).into_iter();
    of.filter(|(_, of)| {
        of.iter().any(|r| r.sensors.gyroscope && r.classes.contains(&Some(super::data::Class::Walking)))
    })
    .collect()
}

/// One recording (about 11 s, a good part of it walking) a decision, or one second of it.
pub fn switch(recordings: &[Recording], whole: bool) -> Option<Switch> {
    let people = Population::shipped().people(Context::Carried)?;
    let subjects = worn(recordings);
    if subjects.len() < 3 {
        return None;
    }
    // For each subject: traits of the whole enrollment, and of each later decision.
    let mut enrolled: Vec<([f32; TRAITS], Vec<[f32; TRAITS]>)> = Vec::new();
    for (_, of) in &subjects {
        let cut = usize::try_from(super::data::millis(of.len() as f64 * ENROLLED)).unwrap_or(1).max(1);
        let (early, late) = of.split_at_checked(cut)?;
        let mut all: Vec<[f32; TRAITS]> = Vec::new();
        for r in early {
            all.extend(blocks(r, Context::Carried));
        }
        let mut mean = [0.0; TRAITS];
        for b in &all {
            for (m, x) in mean.iter_mut().zip(b) {
                *m += x / all.len() as f32;
            }
        }
        let later = late.iter().flat_map(|r| {
            if whole {
                mean_traits(r, Context::Carried).map(|v| traits_of(&v)).into_iter().collect::<Vec<_>>()
            } else {
                blocks(r, Context::Carried)
            }
        });
        enrolled.push((mean, later.collect()));
    }
    let mut out = Switch::default();
    let (mut eers, mut aucs) = (Vec::new(), Vec::new());
    for (id, (mean, own)) in enrolled.iter().enumerate() {
        let score = |present: &[f32; TRAITS]| -likelihood_ratio_nats(people, mean, present);
        let genuine: Vec<f32> = own.iter().map(score).collect();
        let strange: Vec<f32> = enrolled
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != id)
            .flat_map(|(_, (_, theirs))| theirs.iter().map(score).collect::<Vec<_>>())
            .collect();
        if genuine.len() < 2 {
            continue;
        }
        eers.push(eer(&genuine, &strange));
        aucs.push(auc(&genuine, &strange));
        out.owners.extend(genuine.into_iter().map(|v| (v, id)));
        out.strangers.extend(strange.into_iter().map(|v| (v, id)));
    }
    let mean = |of: &[f32]| of.iter().sum::<f32>() / of.len().max(1) as f32;
    (out.mean_eer, out.mean_auc) = (mean(&eers), mean(&aucs));
    Some(out)
}

/// How the engine's own sum against the owner rises when another person walks on.
#[derive(Debug, Default, serde::Serialize)]
pub struct Handover {
    /// Owners whose later recordings raised the alarm, of how many.
    pub false_alarms: (usize, usize),
    /// Strangers who raised it.
    pub found: (usize, usize),
    /// Seconds of recordings until then, median.
    pub delay_s: f32,
    /// Seconds of walking are needed to know an owner; the recordings of one hold about 40.
    pub enrolled_blocks: f32,
}

/// Blends `b` into `a`.
fn blend(a: &Recording, b: &Recording, share: f32) -> Vec<Reading> {
    let mix = |x: Option<[f32; 3]>, y: Option<[f32; 3]>| match (x, y) {
        (Some([a, b, c]), Some([p, q, r])) => Some([a + share * (p - a), b + share * (q - b), c + share * (r - c)]),
        (x, _) => x,
    };
    let pairs = a.readings.iter().zip(&b.readings);
    pairs
        .map(|(x, y)| Reading {
            accelerometer: mix(x.accelerometer, y.accelerometer),
            gyroscope: mix(x.gyroscope, y.gyroscope),
            ..x.clone()
        })
        .collect()
}

struct Device {
    stream: Stream,
    offset_ms: u64,
}

impl Device {
    fn new(of: &Recording) -> Self {
        Self { stream: Stream::new(of), offset_ms: 0 }
    }

    /// Plays readings after a pause; gives the greatest sum against the owner and the second at which it was an alarm.
    fn play(&mut self, readings: &[Reading]) -> (f32, Option<f32>) {
        let (mut most, mut alarm) = (0.0_f32, None);
        let start_ms = readings.first().map_or(0, |r| r.t_ms);
        for r in readings {
            let mut r = r.clone();
            let since_ms = r.t_ms.saturating_sub(start_ms);
            r.t_ms = since_ms + self.offset_ms;
            self.stream.push(&r);
            most = most.max(self.stream.engine().against_owner_nats());
            if alarm.is_none() && self.stream.engine().is_stranger() {
                alarm = Some(since_ms as f32 / 1000.0);
            }
        }
        self.offset_ms += readings.last().map_or(0, |r| r.t_ms.saturating_sub(start_ms)) + 60_000;
        self.stream.pass(60_000);
        (most, alarm)
    }
}

/// Hands the device over, at once or (`gradual`) over the recordings.
pub fn handover(recordings: &[Recording], gradual: bool) -> Option<Handover> {
    let subjects = worn(recordings);
    let mut out = Handover::default();
    let (mut delays, mut known) = (Vec::new(), Vec::new());
    for (id, (_, of)) in subjects.iter().enumerate() {
        let cut = usize::try_from(super::data::millis(of.len() as f64 * ENROLLED)).unwrap_or(1).max(1);
        let (early, late) = of.split_at_checked(cut)?;
        let taught = || {
            let mut device = Device::new(early.first()?);
            for r in early {
                device.play(&r.readings);
            }
            Some(device)
        };
        let mut device = taught()?;
        known.push(device.stream.engine().known_blocks() as f32);
        let alarm = late.iter().any(|r| device.play(&r.readings).1.is_some());
        out.false_alarms.0 += usize::from(alarm);
        out.false_alarms.1 += 1;
        for (_, theirs) in subjects.iter().enumerate().filter(|(other, _)| *other != id).map(|(_, s)| s) {
            let mut device = taught()?;
            let mut seconds = 0.0;
            let mut found = None;
            for (n, r) in theirs.iter().enumerate() {
                let own = late.get(n % late.len().max(1)).copied().unwrap_or(r);
                let share = ((n + 1) as f32 / theirs.len() as f32).min(1.0);
                let readings = if gradual { blend(own, r, share) } else { r.readings.clone() };
                if let (_, Some(at)) = device.play(&readings) {
                    found = Some(seconds + at);
                    break;
                }
                seconds += readings.len() as f32 * 0.01;
            }
            out.found.0 += usize::from(found.is_some());
            out.found.1 += 1;
            delays.extend(found);
        }
    }
    out.delay_s = super::figures::median(delays);
    out.enrolled_blocks = super::figures::median(known);
    (out.found.1 > 0).then_some(out)
}

/// A stranger who lets the device learn him a little more every day.
#[derive(Debug, Default, serde::Serialize)]
pub struct Poisoning {
    /// Attempts, and how many raised an alarm on the way or when the stranger came plainly.
    pub found: (usize, usize),
    /// Day of the alarm, median of those found.
    pub day: f32,
    /// Days of the attempt, after which he comes plainly.
    pub days: u32,
}

const POISON_DAYS: u32 = 10;

/// Ten days, each with recordings that are blended further.
pub fn poisoning(recordings: &[Recording]) -> Option<Poisoning> {
    let subjects = worn(recordings);
    let mut out = Poisoning { days: POISON_DAYS, ..Poisoning::default() };
    let mut days = Vec::new();
    for (id, (_, of)) in subjects.iter().enumerate() {
        let (_, theirs) = subjects.get((id + 1) % subjects.len())?;
        let mut device = Device::new(of.first()?);
        for r in of {
            device.play(&r.readings);
        }
        let mut found = None;
        for day in 1..=POISON_DAYS {
            device.stream.pass(86_400_000);
            let share = day as f32 / POISON_DAYS as f32;
            for (own, other) in of.iter().zip(theirs) {
                if device.play(&blend(own, other, share)).1.is_some() && found.is_none() {
                    found = Some(day as f32);
                }
            }
        }
        out.found.0 += usize::from(found.is_some());
        out.found.1 += 1;
        days.extend(found);
    }
    out.day = super::figures::median(days);
    (out.found.1 > 0).then_some(out)
}
