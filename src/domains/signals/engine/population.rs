//! What many people's devices show: the bounds of contexts, how rarely a genuine device reaches a value, and how people
//! differ. A small versioned table that `blockremote bench engine --fit` makes from recordings; no figure of it is
//! chosen by hand.
//!
//! The table's head says what it was made from. A state remembers the version it was judged with.

use std::sync::LazyLock;

use super::bands::TRAITS;
use super::context::Context;
use super::evidence::{TESTS, Test};

/// The table that is built in.
const SHIPPED: &str = include_str!("population.txt");

/// Paces of sampling, and whether both sensors of motion are there: what is usual at 100 readings a second is not at 5,
/// and what two sensors must show together one may.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Pace {
    /// 40 readings a second and more.
    Fast,
    /// 12 to 40.
    Middle,
    /// Fewer.
    Slow,
    /// 40 readings a second and more of one sensor.
    FastOne,
    /// 12 to 40 of one sensor.
    MiddleOne,
    /// Fewer of one sensor.
    SlowOne,
}

/// How many paces there are.
const PACES: usize = 6;

impl Pace {
    /// All of them.
    pub const ALL: [Self; PACES] =
        [Self::Fast, Self::Middle, Self::Slow, Self::FastOne, Self::MiddleOne, Self::SlowOne];

    /// The pace of readings `dt_ms` apart.
    pub fn of(dt_ms: f32, both: bool) -> Self {
        match (dt_ms, both) {
            (..=25.0, true) => Self::Fast,
            (..=83.5, true) => Self::Middle,
            (_, true) => Self::Slow,
            (..=25.0, false) => Self::FastOne,
            (..=83.5, false) => Self::MiddleOne,
            (_, false) => Self::SlowOne,
        }
    }

    /// As in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Middle => "middle",
            Self::Slow => "slow",
            Self::FastOne => "fast_one",
            Self::MiddleOne => "middle_one",
            Self::SlowOne => "slow_one",
        }
    }
}

/// Where contexts end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Spread of the acceleration under which a device may be at rest, m/s².
    pub shaking_rest: f32,
    /// Rotation under which it may be, rad/s.
    pub turning_rest: f32,
    /// Spread from which somebody walks, m/s².
    pub shaking_carried: f32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { shaking_rest: 0.02, turning_rest: 0.06, shaking_carried: 0.8 }
    }
}

/// Values that one genuine window in 2, 10, 100 and 1000 exceeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tail(pub [f32; 4]);

/// Where the values of a [`Tail`] lie, in decades of rarity.
const DECADES: [f32; 4] = [0.301, 1.0, 2.0, 3.0];
/// Rarer than this cannot be told from a few hours of recordings.
const DECADES_MAX: f32 = 5.0;

impl Tail {
    /// How rare `value` is among genuine devices: 2 for one window in a hundred. Beyond the table the tail goes on as it
    /// went between its last two values, up to 5.
    pub fn decades(&self, value: f32) -> f32 {
        let [half, tenth, hundredth, thousandth] = self.0;
        let [d0, d1, d2, d3] = DECADES;
        let between = |low: f32, high: f32, from: f32, to: f32| {
            from + (to - from) * ((value - low) / (high - low).max(1e-6)).clamp(0.0, 1.0)
        };
        if value <= half {
            0.0
        } else if value <= tenth {
            between(half, tenth, d0, d1)
        } else if value <= hundredth {
            between(tenth, hundredth, d1, d2)
        } else {
            let per_decade = (thousandth - hundredth).max(1e-4);
            (d2 + (d3 - d2) * (value - hundredth) / per_decade).min(DECADES_MAX)
        }
    }

    /// The value that half of the genuine windows stay below.
    pub const fn usual(&self) -> f32 {
        let [half, ..] = self.0;
        half
    }
}

/// Intervals between touches in quarters of an octave, from 16 ms.
pub const RHYTHM_BINS: usize = 32;

/// The bin of an interval.
pub fn rhythm_bin(interval_ms: f32) -> usize {
    let octaves = super::features::log2(interval_ms.clamp(16.0, 4000.0)) - 4.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 31 by the clamp")]
    let bin = (octaves * 4.0) as usize;
    bin.min(RHYTHM_BINS - 1)
}

/// Numbers of a lower triangle.
pub const TRIANGLE: usize = TRAITS * (TRAITS + 1) / 2;

/// How people move in one context: the mean person, how one person varies (`within`), how people differ (`total`).
#[derive(Clone, Debug, PartialEq)]
pub struct People {
    /// The mean of the traits.
    pub mean: [f32; TRAITS],
    /// Whitens the departure of a person from himself; a lower triangle, row by row.
    pub within: [f32; TRIANGLE],
    /// Whitens the departure of anybody from the mean person.
    pub total: [f32; TRIANGLE],
    /// Natural logarithm of the ratio of both determinants, halved: what a perfect match is worth.
    pub match_nats: f32,
}

/// The whole table.
#[derive(Clone, Debug)]
pub struct Population {
    /// Of the table, not of its format.
    pub version: u16,
    /// Where contexts end.
    pub bounds: Bounds,
    tails: [[[Option<Tail>; PACES]; 4]; TESTS],
    people: [Option<People>; 4],
    /// How often touches follow one another at an interval; see [`RHYTHM_BINS`].
    pub rhythm: Option<[f32; RHYTHM_BINS]>,
    /// What it was made from: the recording's path in the data folder and the beginning of its SHA-256.
    pub fitted: Vec<(String, String)>,
}

static TABLE: LazyLock<Population> = LazyLock::new(|| Population::parse(SHIPPED).unwrap_or_default());

impl Default for Population {
    /// Knows nobody: every test that needs a table abstains.
    fn default() -> Self {
        Self {
            version: 0,
            bounds: Bounds::default(),
            tails: [[[None; PACES]; 4]; TESTS],
            people: [const { None }; 4],
            rhythm: None,
            fitted: Vec::new(),
        }
    }
}

/// A line of the table that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the population table cannot be read")]
pub struct BadTable {
    /// Counted from 1.
    pub line: usize,
}

impl Population {
    /// The table that is built in.
    pub fn shipped() -> &'static Self {
        &TABLE
    }

    /// Reads a table: one item a line, `#` begins a comment.
    ///
    /// # Errors
    /// [`BadTable`] with the first line that cannot be read.
    pub fn parse(text: &str) -> Result<Self, BadTable> {
        let mut table = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() && table.take_line(line).is_none() {
                return Err(BadTable { line: number + 1 });
            }
        }
        Ok(table)
    }

    fn take_line(&mut self, line: &str) -> Option<()> {
        let mut words = line.split_whitespace();
        match words.next()? {
            "version" => self.version = words.next()?.parse().ok()?,
            "fitted" => self.fitted.push((words.next()?.to_owned(), words.next()?.to_owned())),
            "bounds" => {
                let [shaking_rest, turning_rest, shaking_carried] = numbers(words)?;
                self.bounds = Bounds { shaking_rest, turning_rest, shaking_carried };
            }
            "tail" => {
                let (test, context, pace) = (words.next()?, words.next()?, words.next()?);
                let test = Test::ALL.iter().position(|t| t.as_str() == test)?;
                let context = Context::ALL.iter().position(|c| c.as_str() == context)?;
                let pace = Pace::ALL.iter().position(|p| p.as_str() == pace)?;
                *self.tails.get_mut(test)?.get_mut(context)?.get_mut(pace)? = Some(Tail(numbers(words)?));
            }
            "rhythm" => self.rhythm = Some(numbers(words)?),
            "people" => {
                let context = words.next()?;
                let context = Context::ALL.iter().position(|c| c.as_str() == context)?;
                let what = words.next()?;
                let slot = self.people.get_mut(context)?;
                let people = slot.get_or_insert_with(|| People {
                    mean: [0.0; TRAITS],
                    within: [0.0; TRIANGLE],
                    total: [0.0; TRIANGLE],
                    match_nats: 0.0,
                });
                match what {
                    "mean" => people.mean = numbers(words)?,
                    "within" => people.within = numbers(words)?,
                    "total" => people.total = numbers(words)?,
                    "match_nats" => [people.match_nats] = numbers(words)?,
                    _ => return None,
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// How rarely a genuine device reaches a value of `test`; `None` where it means nothing.
    pub fn tail(&self, test: Test, context: Context, pace: Pace) -> Option<&Tail> {
        self.tails.get(test as usize)?.get(context as usize)?.get(pace as usize)?.as_ref()
    }

    /// How people move in a context; `None` where they were not measured.
    pub fn people(&self, context: Context) -> Option<&People> {
        self.people.get(context as usize)?.as_ref()
    }
}

/// Exactly `N` finite numbers.
fn numbers<'a, const N: usize>(mut words: impl Iterator<Item = &'a str>) -> Option<[f32; N]> {
    let mut out = [0.0_f32; N];
    for slot in &mut out {
        *slot = words.next()?.parse().ok().filter(|v: &f32| v.is_finite())?;
    }
    words.next().is_none().then_some(out)
}
