//! How a configuration is shown and how a refusal reads.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::keys::{KEYS, Key, OTHER_VARIABLES};
use super::value::{MASK, Value};

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// Nobody set it.
    Default,
    /// A line of the configuration file, counted from 1; 0 is the file as a whole.
    File {
        /// The file.
        path: Arc<PathBuf>,
        /// The line.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A flag of the command line, by the key that it sets.
    Flag(&'static str),
}

impl Place {
    /// `default`, `file`, `environment` or `flag`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File { .. } => "file",
            Self::Environment(_) => "environment",
            Self::Flag(_) => "flag",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: 0 } => path.display().fmt(f),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(_) => f.write_str("command line"),
        }
    }
}

/// One thing that is wrong. Holds no secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// The key; `None` where the file itself is at fault.
    pub key: Option<String>,
    /// One sentence: what is wrong and what is allowed.
    pub detail: String,
}

impl Problem {
    pub(super) fn refused(place: Place, key: &Key, value: &Value, why: &str) -> Self {
        let shown = if key.kind.is_secret() { MASK.to_owned() } else { value.to_string() };
        let why = if why.is_empty() { String::new() } else { format!("{why}; ") };
        let detail = format!("{} = {shown} is not acceptable: {why}allowed is {}", key.name, key.kind.allowed());
        Self { place, key: Some(key.name.to_owned()), detail }
    }

    /// The value is left out on purpose: the unknown key may be a mistyped secret's.
    pub(super) fn unknown(place: Place, name: &str) -> Self {
        let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
        let detail = match (&place, nearest(name)) {
            (Place::Environment(_), Some(key)) => {
                format!("no key has this variable; did you mean {}?", key.variable())
            }
            (Place::Environment(_), None) => "no key has this variable; see blockremote config --help".to_owned(),
            (_, Some(key)) => format!("{shown} is not a known key; did you mean {}?", key.name),
            (_, None) => format!("{shown} is not a known key; see blockremote config --help"),
        };
        Self { place, key: Some(shown), detail }
    }

    pub(super) fn file(place: Place, detail: impl Into<String>) -> Self {
        Self { place, key: None, detail: detail.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.detail)
    }
}

/// Everything that is wrong, up to a bound; never empty.
#[derive(Clone, Debug)]
pub struct ConfigErrors {
    /// In the order: file by line, variables by name, flags.
    pub problems: Vec<Problem>,
    /// Whether there were more than fit.
    pub cut: bool,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        if self.cut {
            f.write_str("\n... and more")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// One line of `blockremote config`.
#[derive(Clone)]
pub struct Effective {
    /// The key.
    pub key: &'static Key,
    /// What counts, with secrets masked; `None`: not set.
    pub value: Option<Value>,
    /// Where it came from.
    pub place: Place,
}

impl Effective {
    pub(super) fn new(key: &'static Key, value: Option<Value>, place: Place) -> Self {
        let value = value.map(|v| if key.kind.is_secret() { Value::Text(MASK.to_owned()) } else { v });
        Self { key, value, place }
    }

    /// For people: as in the file, or a dash.
    pub fn shown(&self) -> String {
        self.value.as_ref().map_or_else(|| "-".to_owned(), Value::to_string)
    }

    /// For `config --json`.
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "key": self.key.name,
            "value": self.value.as_ref().map(Value::to_json),
            "from": self.place.name(),
            "place": self.place.to_string(),
            "allowed": self.key.kind.allowed(),
            "doc": self.key.doc,
        })
    }
}

/// The key that was probably meant.
pub(super) fn nearest(name: &str) -> Option<&'static Key> {
    if name.is_empty() || name.len() > 64 {
        return None;
    }
    let close = KEYS.iter().map(|k| (distance(name, k.name), k)).min_by_key(|(d, _)| *d);
    if let Some((d, k)) = close
        && d <= (name.len() / 4).max(2)
    {
        return Some(k);
    }
    // The right word in the wrong section, or with the section left out; only when no other key ends so.
    let last = name.rsplit('.').next().unwrap_or(name);
    let mut same_end = KEYS.iter().filter(|k| k.name.rsplit('.').next() == Some(last));
    match (same_end.next(), same_end.next()) {
        (Some(k), None) => Some(k),
        _ => None,
    }
}

/// The key or other variable that is written as `name`.
pub(super) fn key_of_variable(name: &str) -> Result<Option<&'static Key>, ()> {
    if OTHER_VARIABLES.iter().any(|(other, _)| *other == name) {
        return Ok(None);
    }
    KEYS.iter().find(|k| k.variable() == name).map(Some).ok_or(())
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, cb) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *cell;
            let replace = diagonal + usize::from(ca != cb);
            left = replace.min(above + 1).min(left + 1);
            diagonal = above;
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}
