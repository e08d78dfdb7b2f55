//! Feeds as others publish them become indicators: MISP events, STIX 2.1 bundles, CSV as abuse.ch and makers of
//! stalkerware lists write it, hosts files, plain text.
//!
//! Pure: bytes in, [`Parsed`] or [`BadFeed`] out, whatever the bytes. A line that is no indicator is counted and left out;
//! one that would speak against half the Internet refuses the feed, because who publishes that is broken or hostile.
//! Nothing is ever unpacked, so nothing can explode.

mod csv;
mod json;
mod misp;
mod stix;
mod text;

use std::str::FromStr;

use super::model::{Confidence, Counts, Kind};
use super::value::{BadValue, Value};
use crate::kernel::Timestamp;

/// How a feed is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = FeedFormat)]
pub enum Format {
    /// Found out by its beginning.
    #[default]
    Auto,
    /// One MISP event, or an export of several.
    Misp,
    /// A STIX 2.1 bundle.
    Stix,
    /// A table with a line of column names.
    Csv,
    /// One indicator a line; also a hosts file.
    Text,
}

impl FromStr for Format {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "misp" => Ok(Self::Misp),
            "stix" => Ok(Self::Stix),
            "csv" => Ok(Self::Csv),
            "text" => Ok(Self::Text),
            _ => Err("is not one of auto, misp, stix, csv, text"),
        }
    }
}

/// How a feed is to be read.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// How it is written.
    pub format: Format,
    /// What the lines of plain text are, where they do not say so themselves.
    pub kind: Option<Kind>,
    /// How sure its source is where it does not say.
    pub confidence: Confidence,
    /// When indicators end that do not say so themselves.
    pub expires_at: Option<Timestamp>,
    /// More indicators refuse the feed.
    pub indicators_max: u64,
}

/// Why bytes are no feed. Nothing of it is taken in.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadFeed {
    /// A zip, gzip, bzip2, xz or zstd file.
    #[error("The feed is compressed; unpack it first: nothing is unpacked here.")]
    Compressed,
    /// Not UTF-8.
    #[error("The feed is not UTF-8 text.")]
    Encoding,
    /// Not of the format.
    #[error("The feed could not be read as {format}: {why}")]
    Form {
        /// The format.
        format: &'static str,
        /// What is wrong, without a part of the feed.
        why: String,
    },
    /// One indicator would speak against half the Internet.
    #[error("The feed lists {value:?} (line or indicator {place}), which {}.", BadValue::TooBroad)]
    TooBroad {
        /// Which, cut to 80 characters.
        value: String,
        /// Counted from 1.
        place: u64,
    },
    /// Most of it is none.
    #[error("{rejected} of {seen} lines are no indicators: is it the right format and kind? The first one: {first:?}.")]
    MostlyNone {
        /// Lines or members that are no indicators.
        rejected: u64,
        /// All of them.
        seen: u64,
        /// The first one, cut to 80 characters.
        first: String,
    },
    /// Too many indicators.
    #[error("The feed has more than {max} indicators, which is as many as there is room for.")]
    TooMany {
        /// The limit.
        max: u64,
    },
}

/// One indicator, read out of a [`Pile`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Packed<'p> {
    pub kind: Kind,
    pub confidence: Confidence,
    /// Seconds since 1970; 0: none.
    pub expires_s: u32,
    pub value: &'p [u8],
}

/// Indicators one behind the other in one buffer: millions of them must not be millions of allocations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pile {
    bytes: Vec<u8>,
    counts: Counts,
}

impl Pile {
    const HEAD_BYTES: usize = 7;

    pub(super) fn push(&mut self, value: &Value, confidence: Confidence, expires_s: u32) {
        let bytes = value.to_bytes();
        // No value is longer: its normal form is checked.
        let Ok(length) = u8::try_from(bytes.len()) else { return };
        self.bytes.push(value.kind().code());
        self.bytes.push(confidence.percent());
        self.bytes.extend_from_slice(&expires_s.to_le_bytes());
        self.bytes.push(length);
        self.bytes.extend_from_slice(&bytes);
        self.counts.add(value.kind());
    }

    /// How many of each kind.
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// When the last of them ends; `None` where one never does, or there is none.
    pub(super) fn ends_at(&self) -> Option<Timestamp> {
        let never_first = |p: Packed<'_>| p.expires_s.wrapping_sub(1);
        let latest_s = self.iter().map(never_first).max().filter(|s| *s != u32::MAX)?;
        Some(Timestamp::from_millis((i64::from(latest_s) + 1) * 1_000))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Packed<'_>> {
        unpack(&self.bytes)
    }

    /// The same in pieces of about `bytes` each, cut between indicators.
    pub(super) fn pieces(&self, bytes: usize) -> Vec<&[u8]> {
        let (mut pieces, mut start, mut end) = (Vec::new(), 0, 0);
        for packed in self.iter() {
            end += Self::HEAD_BYTES + packed.value.len();
            if end - start >= bytes {
                pieces.extend(self.bytes.get(start..end));
                start = end;
            }
        }
        pieces.extend(self.bytes.get(start..end).filter(|rest| !rest.is_empty()));
        pieces
    }
}

/// The indicators of a pile or a piece; ends at the first byte that no pile could hold.
pub(super) fn unpack(mut rest: &[u8]) -> impl Iterator<Item = Packed<'_>> {
    std::iter::from_fn(move || {
        let ([kind, confidence, expires @ .., length], tail) = rest.split_first_chunk::<7>()?;
        let (value, tail) = tail.split_at_checked(usize::from(*length))?;
        rest = tail;
        Some(Packed {
            kind: Kind::of_code(*kind)?,
            confidence: Confidence::new(*confidence),
            expires_s: u32::from_le_bytes(*expires),
            value,
        })
    })
}

/// What a feed amounts to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The indicators.
    pub pile: Pile,
    /// Lines or members that are no indicators.
    pub rejected: u64,
    /// Indicators of no use here: addresses of web pages, rules, what its source does not recommend for detection.
    pub ignored: u64,
    /// The first rejected ones, cut to 80 characters each.
    pub samples: Vec<String>,
}

const SAMPLES_MAX: usize = 5;
const SAMPLE_CHARS_MAX: usize = 80;

/// What the readers of the formats put their findings into.
struct Collector<'r> {
    reading: &'r Reading,
    expires_s: u32,
    parsed: Parsed,
    place: u64,
}

impl Collector<'_> {
    /// Takes one indicator, with the source's own confidence and end where it says so.
    fn take(
        &mut self,
        kind: Kind,
        text: &str,
        own: Option<Confidence>,
        ends: Option<Timestamp>,
    ) -> Result<(), BadFeed> {
        self.place += 1;
        match Value::indicator(kind, text) {
            Ok(value) => {
                let expires_s = ends.map_or(self.expires_s, seconds);
                self.parsed.pile.push(&value, own.unwrap_or(self.reading.confidence), expires_s);
                let max = self.reading.indicators_max;
                if self.parsed.pile.counts.total() > max { Err(BadFeed::TooMany { max }) } else { Ok(()) }
            }
            Err(BadValue::TooBroad) => Err(BadFeed::TooBroad { value: sample(text), place: self.place }),
            Err(BadValue::Form | BadValue::NotPublic) => {
                self.place -= 1;
                self.reject(text);
                Ok(())
            }
        }
    }

    fn reject(&mut self, text: &str) {
        self.place += 1;
        self.parsed.rejected += 1;
        if self.parsed.samples.len() < SAMPLES_MAX {
            self.parsed.samples.push(sample(text));
        }
    }

    const fn ignore(&mut self) {
        self.place += 1;
        self.parsed.ignored += 1;
    }
}

fn sample(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SAMPLE_CHARS_MAX).collect()
}

/// Whole seconds since 1970; at least 1, because 0 stands for "no end".
fn seconds(at: Timestamp) -> u32 {
    u32::try_from(at.as_secs().max(1)).unwrap_or(u32::MAX)
}

/// Reads a feed.
///
/// # Errors
/// [`BadFeed`]; nothing of a bad one is of use.
pub fn parse(bytes: &[u8], reading: &Reading) -> Result<Parsed, BadFeed> {
    if is_compressed(bytes) {
        return Err(BadFeed::Compressed);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| BadFeed::Encoding)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let expires_s = reading.expires_at.map_or(0, seconds);
    let mut out = Collector { reading, expires_s, parsed: Parsed::default(), place: 0 };
    match reading.format {
        Format::Auto => match text.trim_start().as_bytes().first() {
            Some(b'{' | b'[') if stix::looks_like(text) => stix::read(text, &mut out)?,
            Some(b'{' | b'[') => misp::read(text, &mut out)?,
            _ if csv::looks_like(text) => csv::read(text, &mut out)?,
            _ => text::read(text, &mut out)?,
        },
        Format::Misp => misp::read(text, &mut out)?,
        Format::Stix => stix::read(text, &mut out)?,
        Format::Csv => csv::read(text, &mut out)?,
        Format::Text => text::read(text, &mut out)?,
    }
    let (taken, rejected) = (out.parsed.pile.counts.total(), out.parsed.rejected);
    if rejected > taken {
        let first = out.parsed.samples.first().cloned().unwrap_or_default();
        return Err(BadFeed::MostlyNone { rejected, seen: rejected + taken, first });
    }
    Ok(out.parsed)
}

/// By the magic numbers of zip, gzip, bzip2, xz and zstd.
fn is_compressed(bytes: &[u8]) -> bool {
    [&b"PK\x03\x04"[..], b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"]
        .iter()
        .any(|magic| bytes.starts_with(magic))
}

#[cfg(test)]
mod tests;
