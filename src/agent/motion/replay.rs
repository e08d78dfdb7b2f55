//! Motion that was recorded: a CSV file with a header.
//!
//! Columns by name: `ax ay az` (m/s², gravity included) are needed, `gx gy gz` (rad/s) may follow, `t_ms` gives the
//! time (without it 60 readings a second are taken); all others are ignored. Each device starts at another place. At
//! the end the recording starts again from its first row and the device's clock goes on: a recording of less than ten
//! seconds therefore is a loop, and a server may rightly say so.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::{DT_MS, Dice, MotionSource};
use crate::domains::signals::engine::reading::Reading;

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Rows that are kept.
const ROWS_MAX: usize = 1_000_000;
/// Spacing where the file has no times: 60 Hz.
const UNTIMED_DT_MS: u64 = 17;
/// A longer pause inside a file is the seam between two recordings.
const PAUSE_MAX_MS: f64 = 1000.0;

/// Why a recording cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file cannot be read.
    #[error("the recording cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// It is larger than what is read.
    #[error("the recording has more than {FILE_BYTES_MAX} bytes or {ROWS_MAX} rows; cut it into pieces")]
    TooLarge,
    /// The header lacks a column.
    #[error("line 1: column {0} is missing; a recording needs ax, ay and az, and gx, gy, gz all or none")]
    NoColumn(&'static str),
    /// A value is not a finite number in range.
    #[error("line {line}, column {column}: {value:?} is not a number that a sensor gives")]
    BadValue {
        /// Counted from 1, the header included.
        line: usize,
        /// By its name in the header.
        column: &'static str,
        /// As in the file, cut to 32 characters.
        value: String,
    },
    /// There is nothing to play.
    #[error("the recording has fewer than two rows")]
    Empty,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Since the sample before.
    dt_ms: u64,
    accelerometer: [f32; 3],
    gyroscope: [f32; 3],
}

/// A recording in memory, shared by all devices that play it.
#[derive(Debug)]
pub struct Recording {
    samples: Vec<Sample>,
    has_gyroscope: bool,
}

const NAMES: [&str; 7] = ["t_ms", "ax", "ay", "az", "gx", "gy", "gz"];

impl Recording {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ReplayError`], which names the line and the column at fault.
    pub fn open(path: &Path) -> Result<Self, ReplayError> {
        let mut text = String::new();
        File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(ReplayError::TooLarge);
        }
        Self::parse(&text)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`ReplayError`], which names the line and the column at fault.
    pub fn parse(text: &str) -> Result<Self, ReplayError> {
        let mut lines = text.lines();
        let header: Vec<&str> =
            lines.next().unwrap_or("").trim_start_matches('\u{feff}').split(',').map(str::trim).collect();
        let places = NAMES.map(|name| header.iter().position(|h| *h == name));
        let [time, ax, ay, az, gyro @ ..] = places;
        for (place, name) in [(ax, "ax"), (ay, "ay"), (az, "az")] {
            place.ok_or(ReplayError::NoColumn(name))?;
        }
        let has_gyroscope = gyro.iter().any(Option::is_some);
        for (place, name) in gyro.iter().zip(["gx", "gy", "gz"]) {
            if has_gyroscope && place.is_none() {
                return Err(ReplayError::NoColumn(name));
            }
        }
        let mut samples = Vec::new();
        let mut last_t: Option<f64> = None;
        for (index, row) in lines.enumerate().filter(|(_, row)| !row.trim().is_empty()) {
            if samples.len() == ROWS_MAX {
                return Err(ReplayError::TooLarge);
            }
            let mut values = [0.0_f64; 7];
            for ((value, place), column) in values.iter_mut().zip(places).zip(NAMES) {
                let Some(place) = place else { continue };
                let text = row.split(',').nth(place).unwrap_or("").trim();
                let limit = if column == "t_ms" { 1e15 } else { 1e4 };
                *value = text.parse().ok().filter(|v: &f64| v.abs() <= limit).ok_or_else(|| {
                    let value = text.chars().take(32).collect();
                    ReplayError::BadValue { line: index + 2, column, value }
                })?;
            }
            let [t, ax, ay, az, gx, gy, gz] = values;
            let dt = last_t.map_or(DT_MS as f64, |last| t - last);
            let dt_ms = match time {
                None => UNTIMED_DT_MS,
                Some(_) if (0.0..=PAUSE_MAX_MS).contains(&dt) => dt as u64,
                Some(_) => DT_MS,
            };
            last_t = Some(t);
            let (accelerometer, gyroscope) = ([ax, ay, az].map(|v| v as f32), [gx, gy, gz].map(|v| v as f32));
            samples.push(Sample { dt_ms, accelerometer, gyroscope });
        }
        if samples.len() < 2 { Err(ReplayError::Empty) } else { Ok(Self { samples, has_gyroscope }) }
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Never: a recording has two rows at least.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Whether a device that plays it declares a gyroscope.
    pub fn has_gyroscope(&self) -> bool {
        self.has_gyroscope
    }
}

/// A device that plays a recording. See the module for what happens at its end.
#[derive(Clone, Debug)]
pub struct Replay {
    recording: Arc<Recording>,
    place: usize,
    t_ms: u64,
}

impl Replay {
    /// Starts at a place that the seed chooses.
    pub fn new(recording: Arc<Recording>, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let place = (dice.u64() % recording.len().max(1) as u64) as usize;
        Self { recording, place, t_ms: dice.u64() % 86_400_000 }
    }

    /// Starts at the first row.
    pub fn from_start(recording: Arc<Recording>) -> Self {
        Self { recording, place: 0, t_ms: 0 }
    }
}

impl MotionSource for Replay {
    fn next_reading(&mut self) -> Reading {
        let Some(sample) = self.recording.samples.get(self.place) else { return Reading::default() };
        self.place += 1;
        if self.place >= self.recording.len() {
            self.place = 0;
        }
        self.t_ms += sample.dt_ms;
        Reading {
            t_ms: self.t_ms,
            accelerometer: Some(sample.accelerometer),
            gyroscope: self.recording.has_gyroscope.then_some(sample.gyroscope),
            ..Reading::default()
        }
    }
}
