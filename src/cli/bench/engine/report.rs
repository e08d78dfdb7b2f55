//! The report of `bench engine`: every row with its protocol, its windows and its intervals.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use super::attacks::{Attack, Disguise};
use super::data::{self, Fault, Recording};
use super::figures::{Scored, Separation, median, separate};
use super::runs::{self, Genuine, MISHAPS};
use super::{hand, outside, people, touches};
use crate::domains::signals::engine::{DeviceEngine, Population, Sensors, VERSION};
use crate::kernel::clock::Stopwatch;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of the engine's state and rules.
    pub engine_version: u8,
    /// Version of the population.
    pub population_version: u16,
    /// Files that the population was fitted with and that were left out.
    pub left_out: Vec<String>,
    /// Genuine classes at each rate.
    pub genuine: Vec<GenuineRow>,
    /// Detection, attack by attack, class by class.
    pub rows: Vec<AttackRow>,
    /// What happens to honest devices.
    pub mishaps: Vec<MishapRow>,
    /// An owner hands the device over at once.
    pub handover: Option<people::Handover>,
    /// A stranger blends in over ten recordings.
    pub gradual_blend: Option<people::Handover>,
    /// A stranger lets the owner's traits drift towards him.
    pub poisoning: Option<people::Poisoning>,
    /// Evenly spaced touches found, of how many devices.
    pub even_touches: Option<(usize, usize)>,
    /// What it costs.
    pub cost: Cost,
}

/// False alarms of one class at the engine's own bounds.
#[derive(Debug, Serialize)]
pub struct GenuineRow {
    /// Situation.
    pub class: &'static str,
    /// `native` or readings a second.
    pub rate: String,
    /// Windows of 200 readings (3 s at low rates).
    pub windows: usize,
    /// Hours of recordings behind them.
    pub hours: f64,
    /// Share of the windows that end in suspicion enough to ask.
    pub asked: f32,
    /// Share that end in a lock.
    pub locked: f32,
    /// Locks a device-day, the most that the recordings allow with 95 % confidence (rule of three).
    pub locks_a_day_at_most: f64,
}

/// One attack against one class.
#[derive(Debug, Serialize)]
pub struct AttackRow {
    /// `engine` or `feature`.
    pub level: &'static str,
    /// What was played.
    pub attack: String,
    /// Against whom.
    pub genuine: String,
    /// Accelerometer and gyroscope (`both`) or the former alone (`one`); empty where there is neither.
    pub sensors: &'static str,
    /// `native` or readings a second; empty where there is none.
    pub rate: String,
    /// The figures.
    #[serde(flatten)]
    pub figures: Separation,
    /// Mean equal error rate over owners, where each has a model of his own.
    pub mean_eer: Option<f32>,
    /// Attacks played and locked, and the median of seconds until the lock, at the engine's own bound.
    pub played: Option<usize>,
    /// See `played`.
    pub locked: Option<usize>,
    /// See `played`.
    pub delay_s: Option<f32>,
}

/// False alarms under a mishap.
#[derive(Debug, Serialize)]
pub struct MishapRow {
    /// What happened.
    pub mishap: &'static str,
    /// Situation.
    pub class: &'static str,
    /// Windows.
    pub windows: usize,
    /// Share asked.
    pub asked: f32,
    /// Share locked.
    pub locked: f32,
}

/// Time and memory.
#[derive(Debug, Serialize)]
pub struct Cost {
    /// Nanoseconds a reading, by rate.
    pub ns_a_reading: Vec<(String, f64)>,
    /// A device's state with full rings, in memory.
    pub bytes_in_memory: usize,
    /// The same as it is stored.
    pub bytes_stored: usize,
}

/// Rates; 0 is that of the recording.
const RATES: [f64; 5] = [0.0, 50.0, 16.0, 5.0, 1.0];

fn rate_name(hz: f64) -> String {
    if hz > 0.0 { format!("{hz}") } else { "native".to_owned() }
}

fn attacks() -> Vec<Attack> {
    let mut all = vec![Attack::Constant, Attack::Emulator];
    all.extend([0.01, 0.05, 0.2, 0.5, 2.0].map(Attack::White));
    all.extend([Attack::Matched, Attack::Sine]);
    for noisy in [false, true] {
        all.extend([25, 50, 100, 200, 400].map(|n| Attack::Loop(n, noisy)));
    }
    all.extend([Disguise::Exact, Disguise::Noisy, Disguise::Warped].map(Attack::Replay));
    all.extend([Attack::Mixed, Attack::TableTouched]);
    all
}

fn share(of: &[Scored], from: f32) -> f32 {
    of.iter().filter(|(v, _)| *v >= from).count() as f32 / of.len().max(1) as f32
}

const ASKS: f32 = 4.0;
const LOCKS: f32 = 7.0;

/// Measures everything that the folder allows.
pub fn of(root: &Path) -> Result<Report, Fault> {
    let (all, sources) = data::motion(root)?;
    let population = Population::shipped();
    let left_out: Vec<String> =
        sources.iter().filter(|(s, _)| data::is_fitted(s, population)).map(|(s, _)| s.name.clone()).collect();
    let measured: Vec<Recording> = all.into_iter().filter(|r| !r.fitted).collect();
    let mut report = Report {
        engine_version: VERSION,
        population_version: population.version,
        left_out,
        genuine: Vec::new(),
        rows: Vec::new(),
        mishaps: Vec::new(),
        handover: people::handover(&measured, false),
        gradual_blend: people::handover(&measured, true),
        poisoning: people::poisoning(&measured),
        even_touches: None,
        cost: cost(&measured),
    };
    for hz in RATES {
        report.at_rate(&measured, hz);
    }
    for mishap in MISHAPS {
        let change = |r: &Recording| runs::mishap(mishap, r);
        for (class, of) in runs::genuine_changed(&measured, 200, 100.0, change) {
            let (asked, locked) = (share(&of.windows, ASKS), share(&of.windows, LOCKS));
            report.mishaps.push(MishapRow { mishap, class: class.as_str(), windows: of.windows.len(), asked, locked });
        }
    }
    report.persons(&measured);
    report.features(root)?;
    Ok(report)
}

impl Report {
    fn at_rate(&mut self, measured: &[Recording], hz: f64) {
        let at: Vec<Recording> = measured.iter().map(|r| if hz > 0.0 { r.at_rate(hz) } else { r.clone() }).collect();
        let pace = if hz > 0.0 { hz } else { 100.0 };
        let rate = rate_name(hz);
        let mut by_window: Vec<(usize, Vec<(data::Class, Genuine)>)> = Vec::new();
        for (attack, both) in attacks().into_iter().flat_map(|a| [(a, true), (a, false)]) {
            let of: Vec<&Recording> = at.iter().filter(|r| r.sensors.gyroscope == both).collect();
            let attacked = runs::attacked(&of, attack, pace, 7);
            if attacked.windows.is_empty() {
                continue;
            }
            let size = attack.window();
            if !by_window.iter().any(|(s, _)| *s == size) {
                by_window.push((size, runs::genuine(&at, size, pace)));
            }
            let classes = by_window.iter().find(|(s, _)| *s == size).map(|(_, c)| c.as_slice()).unwrap_or_default();
            // What two sensors show is not held against what one would have shown.
            for (class, genuine) in classes.iter().filter(|(c, _)| c.has_gyroscope() == both) {
                let Some(figures) = separate(&genuine.windows, &attacked.windows, 3) else { continue };
                self.rows.push(AttackRow {
                    level: "engine",
                    attack: attack.name(),
                    genuine: class.as_str().to_owned(),
                    sensors: if both { "both" } else { "one" },
                    rate: rate.clone(),
                    figures,
                    mean_eer: None,
                    played: Some(attacked.played),
                    locked: Some(attacked.delays_s.len()),
                    delay_s: (!attacked.delays_s.is_empty()).then(|| median(attacked.delays_s.clone())),
                });
            }
        }
        let size = 200;
        if !by_window.iter().any(|(s, _)| *s == size) {
            by_window.push((size, runs::genuine(&at, size, pace)));
        }
        for (class, of) in by_window.iter().filter(|(s, _)| *s == size).flat_map(|(_, c)| c) {
            let locked = share(&of.windows, LOCKS);
            let days = of.hours / 24.0;
            let locks = (locked * of.windows.len() as f32).round();
            self.genuine.push(GenuineRow {
                class: class.as_str(),
                rate: rate.clone(),
                windows: of.windows.len(),
                hours: of.hours,
                asked: share(&of.windows, ASKS),
                locked,
                locks_a_day_at_most: (f64::from(locks) + 3.0) / days.max(1e-9),
            });
        }
    }

    fn persons(&mut self, measured: &[Recording]) {
        for (whole, what) in
            [(true, "user switch, walking, one recording (11 s)"), (false, "user switch, walking, 1 s")]
        {
            let Some(switch) = people::switch(measured, whole) else { continue };
            let mean = Some(switch.mean_eer);
            self.push_feature(
                "engine's features",
                what.to_owned(),
                "the owner",
                &switch.owners,
                &switch.strangers,
                mean,
            );
        }
    }

    fn push_feature(
        &mut self,
        level: &'static str,
        attack: String,
        genuine: &str,
        honest: &[Scored],
        hostile: &[Scored],
        mean_eer: Option<f32>,
    ) {
        let Some(figures) = separate(honest, hostile, 5) else { return };
        let (rate, genuine) = (String::new(), genuine.to_owned());
        let row = AttackRow {
            level,
            attack,
            genuine,
            sensors: "",
            rate,
            figures,
            mean_eer,
            played: None,
            locked: None,
            delay_s: None,
        };
        self.rows.push(row);
    }

    fn features(&mut self, root: &Path) -> Result<(), Fault> {
        if let Some(r) = touches::rhythms(root)? {
            let bot = "log-normal touch bot, 40 touches";
            self.push_feature("engine", format!("{bot}, intervals"), "the owner", &r.genuine, &r.machine, None);
            let name = format!("{bot}, intervals and holds");
            self.push_feature("feature", name, "the owner", &r.genuine_with_hold, &r.machine_with_hold, None);
            self.even_touches = Some(r.even);
        }
        for entry in hand::entries(root)? {
            let name = format!("user switch, one entry in the hand, {}", entry.posture);
            self.push_feature("feature", name, "the owner", &entry.owners, &entry.strangers, Some(entry.mean_eer));
        }
        if let Some((random, words)) = outside::names(root)? {
            for (name, pair) in [("generated names, letters", random), ("generated names, words", words)] {
                self.push_feature("engine", name.to_owned(), "legitimate names", &pair.genuine, &pair.hostile, None);
            }
        }
        for (family, pair) in outside::traffic(root)?.unwrap_or_default() {
            let name = format!("remote access, {family}, 100 packets");
            self.push_feature("feature", name, "the device's own traffic", &pair.genuine, &pair.hostile, None);
        }
        if let Some(pair) = outside::pointers(root)? {
            let name = "pointer sessions of another person".to_owned();
            self.push_feature("feature", name, "the account's owner", &pair.genuine, &pair.hostile, None);
        }
        Ok(())
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "engine {}, population {}; left out because the population was fitted with them: {}",
            self.engine_version,
            self.population_version,
            self.left_out.len()
        )?;
        writeln!(
            out,
            "\n{:<9} {:<7} {:>7} {:>6} {:>7} {:>7}  locks a day, at most (95 %)",
            "genuine", "rate", "windows", "hours", "asked", "locked"
        )?;
        for g in &self.genuine {
            writeln!(
                out,
                "{:<9} {:<7} {:>7} {:>6.2} {:>7.4} {:>7.4}  {:.1}",
                g.class, g.rate, g.windows, g.hours, g.asked, g.locked, g.locks_a_day_at_most
            )?;
        }
        writeln!(
            out,
            "\n{:<44} {:<18} {:<7} {:<7} {:>9} {:>6} {:<15} {:>6} {:<15} {:>14} {:>6} {:>9} {:>6}",
            "attack",
            "against",
            "sensors",
            "rate",
            "windows",
            "AUC",
            "  95 %",
            "TPR@1%",
            "  95 %",
            "TPR@0.1%",
            "EER",
            "locked",
            "delay"
        )?;
        for r in &self.rows {
            let f = &r.figures;
            let per_mille = match f.tpr_at_0_1_percent {
                super::figures::Measured::Figure(v) => format!("{v:.2}"),
                super::figures::Measured::Unmeasurable(why) => why.to_owned(),
            };
            let locked = r.played.map_or(String::new(), |p| format!("{}/{p}", r.locked.unwrap_or(0)));
            let delay = r.delay_s.map_or(String::new(), |d| format!("{d:.1} s"));
            writeln!(
                out,
                "{:<44} {:<18} {:<7} {:<7} {:>9} {:>6.3} {:<15} {:>6.2} {:<15} {:>14} {:>6.3} {:>9} {:>6}",
                r.attack,
                r.genuine,
                r.sensors,
                r.rate,
                format!("{}/{}", f.genuine_windows, f.attack_windows),
                f.auc,
                from_to(f.auc_interval, 3),
                f.tpr_at_1_percent,
                from_to(f.tpr_at_1_percent_interval, 2),
                per_mille,
                r.mean_eer.unwrap_or(f.eer),
                locked,
                delay
            )?;
        }
        writeln!(out, "\n{:<20} {:<9} {:>7} {:>7} {:>7}", "mishap", "genuine", "windows", "asked", "locked")?;
        for m in &self.mishaps {
            writeln!(out, "{:<20} {:<9} {:>7} {:>7.4} {:>7.4}", m.mishap, m.class, m.windows, m.asked, m.locked)?;
        }
        for (name, h) in [("handover", &self.handover), ("gradual blend", &self.gradual_blend)] {
            if let Some(h) = h {
                writeln!(
                    out,
                    "\n{name}: owners alarmed {}/{}, strangers found {}/{}, median {:.0} s of recordings, enrolled {:.0} s",
                    h.false_alarms.0, h.false_alarms.1, h.found.0, h.found.1, h.delay_s, h.enrolled_blocks
                )?;
            }
        }
        if let Some(p) = &self.poisoning {
            writeln!(
                out,
                "poisoning over {} days: found {}/{}, median day {:.0}",
                p.days, p.found.0, p.found.1, p.day
            )?;
        }
        if let Some((found, all)) = self.even_touches {
            writeln!(out, "evenly spaced touches: found {found}/{all}")?;
        }
        for (rate, ns) in &self.cost.ns_a_reading {
            writeln!(out, "cost at {rate}: {ns:.0} ns a reading")?;
        }
        writeln!(
            out,
            "state with full rings: {} bytes in memory, {} stored",
            self.cost.bytes_in_memory, self.cost.bytes_stored
        )
    }
}

fn from_to([from, to]: [f32; 2], digits: usize) -> String {
    format!("{from:.digits$}-{to:.digits$}")
}

/// Time a reading and bytes a device, with touches and traffic so that every ring is full.
fn cost(recordings: &[Recording]) -> Cost {
    use crate::domains::signals::engine::{Network, Reading, Touch};
    let mut ns_a_reading = Vec::new();
    let mut engine = DeviceEngine::new(Sensors::default());
    for hz in [0.0, 50.0, 16.0, 5.0, 1.0] {
        let mut readings: Vec<Reading> = Vec::new();
        let mut offset_ms = 0;
        for r in recordings.iter().filter(|r| r.sensors.gyroscope) {
            let r = if hz > 0.0 { r.at_rate(hz) } else { r.clone() };
            readings.extend(r.readings.iter().map(|x| Reading { t_ms: x.t_ms + offset_ms, ..x.clone() }));
            offset_ms = readings.last().map_or(0, |x| x.t_ms) + 20;
        }
        for (n, r) in readings.iter_mut().enumerate() {
            let interval_ms = 150.0 + (n % 400) as f32;
            r.touch = (n % 20 == 0).then_some(Touch { x: 0.2, y: 0.3, pressure: 0.4, interval_ms });
            let bytes = 900 + (n % 700) as u64;
            r.network =
                (n % 50 == 0).then_some(Network { rx_bytes: bytes, tx_bytes: bytes / 3, rtt_ms: 12.0, connections: 6 });
        }
        let watch = Stopwatch::start();
        for r in &readings {
            engine.push(r);
        }
        ns_a_reading.push((rate_name(hz), watch.elapsed().as_nanos() as f64 / readings.len().max(1) as f64));
    }
    let mut stored = Vec::new();
    engine.encode(&mut stored);
    Cost { ns_a_reading, bytes_in_memory: engine.bytes(), bytes_stored: stored.len() }
}
