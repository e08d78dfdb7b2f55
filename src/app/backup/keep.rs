//! Names of backups, and which of them are kept.

use std::path::{Path, PathBuf};

use super::due;
use crate::crypto::{hex, sha256};
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

/// Files of a folder that are looked at.
const FILES_MAX: usize = 100_000;
/// Of an appliance's own name, in the name of a file.
const NAME_CHARS_MAX: usize = 80;

/// Whose backups these are. Several appliances may share a folder, and each knows its own by the name of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner(String);

/// A backup in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Where it is.
    pub path: PathBuf,
    /// When it was made, by its name.
    pub made_at: Timestamp,
    /// Whether it is encrypted, by its name.
    pub encrypted: bool,
    /// `20261121T183000`: what of it is the same is of the same hour, day or month.
    moment: String,
}

impl Owner {
    /// The appliance whose log goes by `name`. Names that no file could bear, and those that are too long, are told apart
    /// by a hash.
    pub fn of(name: &str) -> Self {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let plain: String = name.chars().filter(|c| fits(*c)).take(NAME_CHARS_MAX).collect();
        if plain == name && !name.starts_with('.') && !name.is_empty() {
            return Self(plain);
        }
        let hash = hex(sha256(name.as_bytes()).get(..4).unwrap_or_default());
        let plain = plain.trim_start_matches('.');
        Self(format!("{}-{hash}", if plain.is_empty() { "log" } else { plain }))
    }

    /// `blockremote-1a2b3c4d-20261121T183000Z.redb`, with `.age` behind it where it is encrypted. Names sort by time.
    pub fn file_name(&self, now: Timestamp, encrypted: bool) -> String {
        format!("{}-{}Z.redb{}", self.0, compact(now), if encrypted { ".age" } else { "" })
    }

    /// What a file's name says of it; `None` for a file that is none of this appliance's backups.
    fn read(&self, path: PathBuf) -> Option<Kept> {
        let name = path.file_name()?.to_str()?;
        let rest = name.strip_prefix(self.0.as_str())?.strip_prefix('-')?;
        let plain = rest.strip_suffix(".age");
        let moment = plain.unwrap_or(rest).strip_suffix("Z.redb")?;
        let (day, time) = moment.split_once('T')?;
        let digits = |text: &str, n| text.len() == n && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(day, 8) || !digits(time, 6) {
            return None;
        }
        let part = |text: &str, range: std::ops::Range<usize>| text.get(range).unwrap_or_default().to_owned();
        let (year, month, date) = (part(day, 0..4), part(day, 4..6), part(day, 6..8));
        let (hour, minute, second) = (part(time, 0..2), part(time, 2..4), part(time, 4..6));
        let made_at = format!("{year}-{month}-{date}T{hour}:{minute}:{second}Z").parse().ok()?;
        Some(Kept { made_at, encrypted: plain.is_some(), moment: moment.to_owned(), path })
    }

    /// This appliance's backups in a folder, the newest first; those of the future, made under a wrong clock, are left out:
    /// they would pass for the newest one until that future.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn list(&self, folder: &Path, now: Timestamp) -> std::io::Result<Vec<Kept>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)?.take(FILES_MAX) {
            found.extend(self.read(entry?.path()).filter(|kept| due::past(Some(kept.made_at), now).is_some()));
        }
        found.sort_by(|a, b| (&b.moment, &b.path).cmp(&(&a.moment, &a.path)));
        Ok(found)
    }

    /// What a killed process left of a backup of this appliance that it was making.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn unfinished(&self, folder: &Path) -> std::io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)?.take(FILES_MAX) {
            let path = entry?.path();
            let whole = path.to_str().and_then(|name| name.strip_suffix(".part")).map(PathBuf::from);
            found.extend(whole.and_then(|whole| self.read(whole)).map(|_| path));
        }
        Ok(found)
    }
}

/// `20261121T183000`
fn compact(now: Timestamp) -> String {
    let digits: String = now.to_string().chars().filter(|c| !matches!(c, '-' | ':')).collect();
    digits.split(['.', 'Z', '+']).next().unwrap_or_default().to_owned()
}

/// Those that may go: all but the last one of each of the newest hours, days and months that have one. The newest stays
/// in any case.
pub fn to_remove(newest_first: &[Kept], keep: Keep) -> Vec<PathBuf> {
    let mut periods: [(usize, usize, Vec<&str>); 3] =
        [(11, keep.hourly, Vec::new()), (8, keep.daily, Vec::new()), (6, keep.monthly, Vec::new())];
    let mut gone = Vec::new();
    for (i, backup) in newest_first.iter().enumerate() {
        let mut kept = i == 0;
        for (length, most, seen) in &mut periods {
            let period = backup.moment.get(..*length).unwrap_or_default();
            if !seen.contains(&period) && seen.len() < *most {
                seen.push(period);
                kept = true;
            }
        }
        if !kept {
            gone.push(backup.path.clone());
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use super::*;

    fn owner() -> Owner {
        Owner::of("blockremote-1a2b3c4d")
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn hours_days_and_months_keep_their_last_one_each() {
        let start = at("2026-01-01T00:10:00Z");
        // Every half hour for a year.
        let all: Vec<Kept> = (0..2 * 24 * 365_u32)
            .rev()
            .map(|i| PathBuf::from(owner().file_name(start.plus(Duration::from_secs(1_800) * i), true)))
            .map(|path| owner().read(path).unwrap())
            .collect();
        let gone = to_remove(&all, Keep { hourly: 24, daily: 7, monthly: 13 });
        let names: Vec<String> =
            all.iter().filter(|p| !gone.contains(&p.path)).map(|p| p.path.display().to_string()).collect();
        assert_eq!(names.first().unwrap(), "blockremote-1a2b3c4d-20261231T234000Z.redb.age");
        for (moment, why) in [
            ("20261231T224000Z", "the last of its hour"),
            ("20261225T234000Z", "the last of its day"),
            ("20260131T234000Z", "the last of its month"),
        ] {
            assert!(names.contains(&format!("blockremote-1a2b3c4d-{moment}.redb.age")), "{why}");
        }
        // The newest hour is of the newest day and month, too.
        assert_eq!(names.len(), 24 + 6 + 11);
        assert!(to_remove(&all, Keep { hourly: 0, daily: 0, monthly: 0 }).len() == all.len() - 1, "the newest stays");
    }

    /// Others keep files in the folder, too: people, and other appliances.
    #[test]
    fn only_the_appliances_own_backups_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "blockremote-1a2b3c4d-20261121T183000Z.redb",
            "blockremote-1a2b3c4d-20261121T193000Z.redb.age",
            "blockremote-1a2b3c4d-20261121T193000Z.redb.age.part",
            "blockremote-99999999-20261121T203000Z.redb.age",
            "blockremote-99999999-20261121T203000Z.redb.age.part",
            "blockremote-1a2b3c4d-x-20261121T203000Z.redb.age",
            "blockremote-20261121T203000Z.redb.age",
            "blockremote-1a2b3c4d-20261321T183000Z.redb",
            "blockremote-1a2b3c4d-x.redb",
            "blockremote-1a2b3c4d-20261121T183000Z.txt",
            "notes.txt",
        ] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let found = owner().list(folder.path(), at("2026-11-22T00:00:00Z")).unwrap();
        let names: Vec<_> = found.iter().map(|p| p.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(
            names,
            ["blockremote-1a2b3c4d-20261121T193000Z.redb.age", "blockremote-1a2b3c4d-20261121T183000Z.redb"]
        );
        assert_eq!(found.first().unwrap().made_at, at("2026-11-21T19:30:00Z"));
        let rest = owner().unfinished(folder.path()).unwrap();
        assert_eq!(rest, [folder.path().join("blockremote-1a2b3c4d-20261121T193000Z.redb.age.part")]);
    }

    /// A clock that was in 2036 for an hour leaves files of 2036. They are neither the newest, nor do they take the place
    /// of those that are made now; and nobody removes them, because they are backups after all.
    #[test]
    fn a_backup_of_the_future_is_neither_the_newest_nor_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let now = at("2026-11-21T20:00:00Z");
        for time in ["2036-01-01T00:00:00Z", "2026-11-21T20:00:00Z", "2026-11-21T19:00:00Z"] {
            std::fs::write(folder.path().join(owner().file_name(at(time), true)), "x").unwrap();
        }
        let listed = owner().list(folder.path(), now).unwrap();
        let moments: Vec<_> = listed.iter().map(|kept| kept.moment.as_str()).collect();
        assert_eq!(moments, ["20261121T200000", "20261121T190000"]);
        let gone = to_remove(&listed, Keep { hourly: 1, daily: 0, monthly: 0 });
        assert_eq!(gone, [folder.path().join(owner().file_name(at("2026-11-21T19:00:00Z"), true))]);
    }

    #[test]
    fn any_name_of_a_log_makes_a_name_of_a_file_and_no_two_the_same() {
        let long = "x".repeat(200);
        let names = ["site-7", "a/b", "a b", "ab", "..", "../x", "", "Büro", long.as_str()];
        let owners: Vec<_> = names.iter().map(|name| Owner::of(name)).collect();
        for (n, owner) in owners.iter().enumerate() {
            let file = owner.file_name(at("2026-11-21T20:00:00Z"), true);
            assert!(!file.contains('/') && !file.starts_with('.') && file.len() < 200, "{file}");
            assert!(owner.read(PathBuf::from(&file)).is_some());
            assert!(owners.iter().skip(n + 1).all(|other| other != owner), "{file}");
        }
        assert_eq!(owners.first().unwrap().0, "site-7");
    }
}
