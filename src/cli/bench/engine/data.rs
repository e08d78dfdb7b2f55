//! Recordings of real devices, as they lie in a folder: who, in which situation, which readings.
//!
//! A folder that is missing gives nothing; a file that cannot be read is an error that names it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::crypto::{hex, sha256};
use crate::domains::signals::engine::{Population, Reading, Sensors};

/// A situation that is genuine. False alarms are counted for each, never pooled.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// On a table.
    Rest,
    /// In the pocket of somebody who sits.
    Seated,
    /// In the hand of somebody who walks.
    InHand,
    /// Elsewhere on somebody who walks: bag, pocket, arm.
    Carried,
    /// In the trouser pocket of somebody who walks.
    Walking,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Rest, Self::Seated, Self::InHand, Self::Carried, Self::Walking];

    /// As printed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Seated => "seated",
            Self::InHand => "in_hand",
            Self::Carried => "carried",
            Self::Walking => "walking",
        }
    }
}

impl Class {
    /// Whether its recordings have both sensors.
    pub const fn has_gyroscope(self) -> bool {
        !matches!(self, Self::InHand | Self::Carried)
    }
}

/// One uninterrupted recording.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Person or device.
    pub subject: String,
    /// Which phone, where a person had several.
    pub phone: String,
    /// What the device has.
    pub sensors: Sensors,
    /// Oldest first.
    pub readings: Vec<Reading>,
    /// The situation of each reading; `None` in between.
    pub classes: Vec<Option<Class>>,
    /// Whether the shipped population was fitted with it.
    pub fitted: bool,
}

/// A file's place below the data folder and what identifies its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// `imu_pocket/s01.csv`.
    pub name: String,
    /// Beginning of the SHA-256.
    pub digest: String,
}

/// What may stop a measurement.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;

/// A table of named columns.
pub struct Table {
    columns: BTreeMap<String, usize>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Reads a file of comma-separated values with a header; quotes do not occur in the data.
    pub fn read(path: &Path) -> Result<(Self, Source), Fault> {
        let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let digest = hex(&sha256(&bytes)).chars().take(16).collect();
        let text = String::from_utf8(bytes).map_err(|_| format!("{} is not text", path.display()))?;
        let mut lines = text.lines();
        let header = lines.next().unwrap_or_default();
        let columns = header.split(',').enumerate().map(|(i, name)| (name.trim().to_owned(), i)).collect();
        let rows = lines.filter(|l| !l.is_empty()).map(|l| l.split(',').map(str::to_owned).collect()).collect();
        let file = path.file_name().map(|f| f.to_string_lossy().into_owned()).unwrap_or_default();
        let folder = path.parent().and_then(Path::file_name).map(|f| f.to_string_lossy().into_owned());
        let name = format!("{}/{file}", folder.unwrap_or_default());
        Ok((Self { columns, rows }, Source { name, digest }))
    }

    /// The rows, each asked by column name.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|cells| Row { columns: &self.columns, cells })
    }

    /// The names of the columns, in order.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<(&str, usize)> = self.columns.iter().map(|(n, i)| (n.as_str(), *i)).collect();
        names.sort_by_key(|(_, i)| *i);
        names.into_iter().map(|(n, _)| n).collect()
    }
}

/// One row of a [`Table`].
#[derive(Clone, Copy)]
pub struct Row<'a> {
    columns: &'a BTreeMap<String, usize>,
    cells: &'a [String],
}

impl<'a> Row<'a> {
    /// The text of a column; empty where there is none.
    pub fn text(&self, column: &str) -> &'a str {
        self.columns.get(column).and_then(|i| self.cells.get(*i)).map_or("", |c| c.trim())
    }

    /// The number of a column.
    pub fn number(&self, column: &str) -> Option<f64> {
        self.text(column).parse().ok().filter(|v: &f64| v.is_finite())
    }

    fn vector(&self, columns: [&str; 3]) -> Option<[f32; 3]> {
        let mut out = [0.0; 3];
        for (slot, column) in out.iter_mut().zip(columns) {
            *slot = single(self.number(column)?);
        }
        Some(out)
    }
}

/// Recordings have fewer digits than a single.
#[expect(clippy::cast_possible_truncation, reason = "sensors have fewer digits")]
pub const fn single(v: f64) -> f32 {
    v as f32
}

/// A time of a recording, from a number that is not negative.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped, and recordings are short")]
pub fn millis(v: f64) -> u64 {
    v.clamp(0.0, 1e15) as u64
}

/// The files of a folder with this ending, by name.
pub fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    found.retain(|p| p.file_name().is_some_and(|f| f.to_string_lossy().ends_with(ending)));
    found.sort();
    found
}

/// Whether the shipped population was fitted with this very file.
pub fn is_fitted(source: &Source, population: &Population) -> bool {
    population.fitted.iter().any(|(_, digest)| *digest == source.digest)
}

/// Recordings, and the files they came from with the subject of each.
pub type Recorded = (Vec<Recording>, Vec<(Source, String)>);

/// Everything that is a raw stream of motion, and which files it came from.
pub fn motion(root: &Path) -> Result<Recorded, Fault> {
    let population = Population::shipped();
    let (mut all, mut sources) = (Vec::new(), Vec::new());
    for path in files(&root.join("imu_pocket"), ".csv") {
        let (table, source) = Table::read(&path)?;
        let subject = stem(&path);
        let fitted = is_fitted(&source, population);
        let mut by_exec: BTreeMap<u64, Recording> = BTreeMap::new();
        for row in table.rows() {
            let (Some(exec), Some(t_ms)) = (row.number("exec"), row.number("t_ms")) else { continue };
            let recording = by_exec.entry(millis(exec)).or_insert_with(|| empty(&subject, true, fitted));
            let class = match row.text("label") {
                "SEA" => Some(Class::Seated),
                "WAL" => Some(Class::Walking),
                _ => None,
            };
            push(recording, t_ms, row, class);
        }
        sources.push((source, subject));
        all.extend(by_exec.into_values());
    }
    for path in files(&root.join("imu_table"), ".csv") {
        let (table, source) = Table::read(&path)?;
        let subject = stem(&path);
        let fitted = is_fitted(&source, population);
        let mut by_rec: BTreeMap<u64, Recording> = BTreeMap::new();
        for row in table.rows() {
            let (Some(rec), Some(i)) = (row.number("rec"), row.number("i")) else { continue };
            let recording = by_rec.entry(millis(rec)).or_insert_with(|| empty(&subject, true, fitted));
            // No clock was recorded; browsers deliver sixty a second.
            push(recording, i * 1000.0 / 60.0, row, Some(Class::Rest));
        }
        sources.push((source, subject));
        all.extend(by_rec.into_values());
    }
    for path in files(&root.join("acc_carry"), ".csv") {
        let name = stem(&path);
        let mut parts = name.split('_');
        let (Some(person), Some(phone), Some(place)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (table, source) = Table::read(&path)?;
        let fitted = is_fitted(&source, population);
        let mut recording = empty(person, false, fitted);
        recording.phone = phone.to_owned();
        let class = if place == "hand" { Class::InHand } else { Class::Carried };
        for row in table.rows() {
            let Some(t_ms) = row.number("t_ms") else { continue };
            push(&mut recording, t_ms, row, Some(class));
        }
        sources.push((source, person.to_owned()));
        all.push(recording);
    }
    all.retain(|r| r.readings.len() >= 200);
    Ok((all, sources))
}

/// The name of a file without its ending.
pub fn stem(path: &Path) -> String {
    path.file_stem().map(|f| f.to_string_lossy().into_owned()).unwrap_or_default()
}

fn empty(subject: &str, gyroscope: bool, fitted: bool) -> Recording {
    let sensors = Sensors { accelerometer: true, gyroscope };
    Recording {
        subject: subject.to_owned(),
        phone: String::new(),
        sensors,
        readings: Vec::new(),
        classes: Vec::new(),
        fitted,
    }
}

fn push(recording: &mut Recording, t_ms: f64, row: Row<'_>, class: Option<Class>) {
    let accelerometer = row.vector(["ax", "ay", "az"]);
    let gyroscope = row.vector(["gx", "gy", "gz"]).filter(|_| recording.sensors.gyroscope);
    if accelerometer.is_some() {
        recording.readings.push(Reading { t_ms: millis(t_ms), accelerometer, gyroscope, ..Reading::default() });
        recording.classes.push(class);
    }
}

impl Recording {
    /// The recording as a device of another rate would have made it: the first reading of each step is kept.
    pub fn at_rate(&self, hz: f64) -> Self {
        let mut out = Self { readings: Vec::new(), classes: Vec::new(), ..self.clone() };
        let step_ms = 1000.0 / hz;
        let mut due_ms = 0.0;
        for (reading, class) in self.readings.iter().zip(&self.classes) {
            #[expect(clippy::cast_precision_loss, reason = "recordings are short")]
            let t_ms = reading.t_ms as f64;
            if t_ms + 0.5 >= due_ms {
                out.readings.push(reading.clone());
                out.classes.push(*class);
                due_ms = if due_ms == 0.0 { t_ms + step_ms } else { (due_ms + step_ms).max(t_ms) };
            }
        }
        out
    }

    /// The situation that most readings of a stretch are in, if nine in ten are.
    pub fn class_of(&self, from: usize, to: usize) -> Option<Class> {
        let stretch = self.classes.get(from..to.min(self.classes.len()))?;
        Class::ALL.into_iter().find(|c| stretch.iter().filter(|x| **x == Some(*c)).count() * 10 >= stretch.len() * 9)
    }
}
