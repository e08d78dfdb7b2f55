//! Names of backups, and which of them are kept.

use std::path::{Path, PathBuf};

use crate::kernel::Timestamp;

/// How many of each are kept.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Hours.
    pub hourly: usize,
    /// Days.
    pub daily: usize,
    /// Months.
    pub monthly: usize,
}

const PREFIX: &str = "blockremote-";
/// Files of a folder that are looked at.
const FILES_MAX: usize = 100_000;

/// `blockremote-20261121T183000Z.redb`, with `.age` behind it where it is encrypted. Names sort by time.
pub fn name(now: Timestamp, encrypted: bool) -> String {
    let compact: String = now.to_string().chars().filter(|c| !matches!(c, '-' | ':')).collect();
    let compact = compact.split(['.', 'Z', '+']).next().unwrap_or_default();
    format!("{PREFIX}{compact}Z.redb{}", if encrypted { ".age" } else { "" })
}

/// The moment in a backup's name, as `20261121T183000`; `None` for another file.
fn moment(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(PREFIX)?;
    let rest = rest.strip_suffix(".age").unwrap_or(rest).strip_suffix("Z.redb")?;
    let (day, time) = rest.split_once('T')?;
    let digits = |text: &str, n| text.len() == n && text.bytes().all(|b| b.is_ascii_digit());
    (digits(day, 8) && digits(time, 6)).then_some(rest)
}

/// The backups of a folder, the newest first.
///
/// # Errors
/// When it cannot be read.
pub fn list(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(folder)?.take(FILES_MAX) {
        let path = entry?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(moment) = moment(&name) {
            found.push((moment.to_owned(), path));
        }
    }
    found.sort();
    Ok(found.into_iter().rev().map(|(_, path)| path).collect())
}

/// What a killed process left of a backup that it was making.
///
/// # Errors
/// When the folder cannot be read.
pub fn unfinished(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)?.take(FILES_MAX) {
        let path = entry?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        found.extend(name.strip_suffix(".part").and_then(moment).map(|_| path.clone()));
    }
    Ok(found)
}

/// Those that may go: all but the last one of each of the newest hours, days and months that have one. The newest stays
/// in any case.
pub fn to_remove(newest_first: &[PathBuf], keep: Keep) -> Vec<PathBuf> {
    let name = |path: &PathBuf| path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mut periods: [(usize, usize, Vec<String>); 3] =
        [(11, keep.hourly, Vec::new()), (8, keep.daily, Vec::new()), (6, keep.monthly, Vec::new())];
    let mut gone = Vec::new();
    for (i, path) in newest_first.iter().enumerate() {
        let name = name(path);
        let moment = moment(&name).unwrap_or_default();
        let mut kept = i == 0;
        for (length, most, seen) in &mut periods {
            let period = moment.get(..*length).unwrap_or_default().to_owned();
            if !seen.contains(&period) && seen.len() < *most {
                seen.push(period);
                kept = true;
            }
        }
        if !kept {
            gone.push(path.clone());
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use super::*;

    #[test]
    fn hours_days_and_months_keep_their_last_one_each() {
        let start = "2026-01-01T00:10:00Z".parse::<Timestamp>().unwrap();
        // Every half hour for a year.
        let all: Vec<PathBuf> = (0..2 * 24 * 365_u32)
            .rev()
            .map(|i| PathBuf::from(name(start.plus(Duration::from_secs(1_800) * i), true)))
            .collect();
        let gone = to_remove(&all, Keep { hourly: 24, daily: 7, monthly: 13 });
        let kept: Vec<&PathBuf> = all.iter().filter(|p| !gone.contains(p)).collect();
        let names: Vec<String> = kept.iter().map(|p| p.display().to_string()).collect();
        assert_eq!(names.first().unwrap(), "blockremote-20261231T234000Z.redb.age");
        assert!(names.contains(&"blockremote-20261231T224000Z.redb.age".to_owned()), "the last of its hour");
        assert!(names.contains(&"blockremote-20261225T234000Z.redb.age".to_owned()), "the last of its day");
        assert!(names.contains(&"blockremote-20260131T234000Z.redb.age".to_owned()), "the last of its month");
        // The newest hour is of the newest day and month, too.
        assert_eq!(names.len(), 24 + 6 + 11);
        assert!(to_remove(&all, Keep { hourly: 0, daily: 0, monthly: 0 }).len() == all.len() - 1, "the newest stays");
    }

    #[test]
    fn other_files_are_no_backups() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "blockremote-20261121T183000Z.redb",
            "blockremote-20261121T193000Z.redb.age",
            "blockremote-20261121T193000Z.redb.age.part",
            "blockremote-x.redb",
            "blockremote-20261121T183000Z.txt",
            "notes.txt",
        ] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let found = list(folder.path()).unwrap();
        let names: Vec<_> = found.iter().map(|p| p.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["blockremote-20261121T193000Z.redb.age", "blockremote-20261121T183000Z.redb"]);
        let rest = unfinished(folder.path()).unwrap();
        assert_eq!(rest, [folder.path().join("blockremote-20261121T193000Z.redb.age.part")]);
    }
}
