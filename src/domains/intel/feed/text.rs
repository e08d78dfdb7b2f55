//! Plain text: one indicator a line. Comments begin with `#`, `;` or `//`; a hosts file's first column is no indicator.

use super::{BadFeed, Collector, Kind, Value};

const LINE_BYTES_MAX: usize = 4_096;

pub(super) fn read(text: &str, out: &mut Collector<'_>) -> Result<(), BadFeed> {
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with(';') || line.starts_with("//") {
            continue;
        }
        if line.len() > LINE_BYTES_MAX {
            out.reject(line);
            continue;
        }
        match hosts_of(line) {
            Some(names) => {
                // Names of the machine itself, such as `localhost` or `ip6-localhost`, have one label.
                for name in names.filter(|name| name.contains('.') && *name != "localhost.localdomain") {
                    out.take(Kind::Domain, name, None, None)?;
                }
            }
            None => {
                // What stands behind a blank is a remark.
                let word = line.split_whitespace().next().unwrap_or_default();
                match kind_of(word, out.reading.kind) {
                    Some((kind, value)) => out.take(kind, value, None, None)?,
                    None => out.reject(word),
                }
            }
        }
    }
    Ok(())
}

/// The names of a line of a hosts file that leads them nowhere.
fn hosts_of(line: &str) -> Option<impl Iterator<Item = &str>> {
    let (first, names) = line.split_once([' ', '\t'])?;
    matches!(first, "0.0.0.0" | "127.0.0.1" | "::" | "::1").then(|| names.split_whitespace())
}

/// What a line is: as the importer said, as the line says (`package:com.example`), or as its form says. A package cannot
/// be told from a domain by its form, and what is not said is taken for a domain.
fn kind_of(word: &str, told: Option<Kind>) -> Option<(Kind, &str)> {
    if let Some((kind, value)) = word.split_once(':')
        && let Ok(kind) = kind.parse()
    {
        return Some((kind, value));
    }
    if let Some(kind) = told {
        return Some((kind, word));
    }
    let kinds = [Kind::FileHash, Kind::Address, Kind::Domain];
    // One that is too broad or not public is of its kind all the same.
    let fits = |kind: &Kind| !matches!(Value::indicator(*kind, word), Err(super::BadValue::Form));
    kinds.into_iter().find(fits).map(|kind| (kind, word))
}
