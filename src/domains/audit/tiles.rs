//! The log as static files: names and sizes of c2sp.org/tlog-tiles, and the text of a checkpoint (c2sp.org/tlog-checkpoint).
//!
//! Pure: knows neither tables nor HTTP. What a tile holds is put together by `store`.

use std::fmt;

use base64ct::{Base64, Encoding};

use super::merkle::Hash;

/// Hashes of a tile, entries of a bundle.
pub const TILE_WIDTH: u64 = 256;
/// Merkle levels that one level of tiles stands for.
pub const TILE_HEIGHT: u8 = 8;
/// The highest level that is served: tiles of it stand for 2^56 entries each.
const LEVEL_MAX: u8 = 7;
/// Groups of three digits in a name; 256 thousand million entries.
const GROUPS_MAX: usize = 3;
/// Bytes of one entry, because its length stands in two bytes.
pub const ENTRY_BYTES_MAX: usize = 65_535;

/// A file below `tile/`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tile {
    /// `None`: a bundle of entries.
    pub level: Option<u8>,
    /// From the left.
    pub index: u64,
    /// 1 to 256; less than 256 at the right edge only.
    pub width: u64,
}

impl Tile {
    /// Reads what stands behind `tile/`, strictly: each tile has one name.
    pub fn parse(path: &str) -> Option<Self> {
        let (level, rest) = path.split_once('/')?;
        let level = match level {
            "entries" => None,
            digits => Some(number(digits, 1).and_then(|n| u8::try_from(n).ok()).filter(|n| *n <= LEVEL_MAX)?),
        };
        let (name, width) = match rest.split_once(".p/") {
            Some((name, width)) => (name, number(width, 3).filter(|w| (1..TILE_WIDTH).contains(w))?),
            None => (rest, TILE_WIDTH),
        };
        let groups: Vec<&str> = name.split('/').collect();
        let (last, above) = groups.split_last()?;
        if groups.len() > GROUPS_MAX {
            return None;
        }
        let mut index = 0;
        for group in above.iter().map(|g| g.strip_prefix('x')).chain([Some(*last)]) {
            index = index * 1_000 + three_digits(group?)?;
        }
        let tile = Self { level, index, width };
        // Leading groups of zeros would be a second name.
        (tile.to_string() == format!("tile/{path}")).then_some(tile)
    }

    /// The tiles of one level that hold `count` hashes or entries, the last one as wide as it is full.
    pub fn covering(level: Option<u8>, count: u64) -> impl Iterator<Item = Self> {
        let whole = (0..count / TILE_WIDTH).map(move |index| Self { level, index, width: TILE_WIDTH });
        let rest = count % TILE_WIDTH;
        whole.chain((rest > 0).then_some(Self { level, index: count / TILE_WIDTH, width: rest }))
    }

    /// Every tile and bundle of a tree of `size` entries.
    pub fn all(size: u64) -> impl Iterator<Item = Self> {
        let levels = (0..=LEVEL_MAX).map(move |level| (level, size >> (TILE_HEIGHT * level)));
        let levels = levels.take_while(|(_, count)| *count > 0);
        levels.flat_map(|(level, count)| Self::covering(Some(level), count)).chain(Self::covering(None, size))
    }

    /// The first of the hashes or entries that it holds.
    pub const fn first(&self) -> u64 {
        self.index * TILE_WIDTH
    }

    /// How many entries a tree must have for this tile to be there.
    pub fn needs(&self) -> u64 {
        let last = self.first() + self.width;
        last << (TILE_HEIGHT * self.level.unwrap_or(0))
    }
}

/// With `tile/` in front: the name below the log's prefix.
impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            Some(level) => write!(f, "tile/{level}/")?,
            None => f.write_str("tile/entries/")?,
        }
        let mut groups = vec![format!("{:03}", self.index % 1_000)];
        let mut above = self.index / 1_000;
        while above > 0 {
            groups.push(format!("x{:03}", above % 1_000));
            above /= 1_000;
        }
        groups.reverse();
        f.write_str(&groups.join("/"))?;
        if self.width < TILE_WIDTH { write!(f, ".p/{}", self.width) } else { Ok(()) }
    }
}

fn number(digits: &str, length_max: usize) -> Option<u64> {
    let canonical = digits == "0" || !digits.starts_with('0');
    let fits = (1..=length_max).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) && canonical;
    if fits { digits.parse().ok() } else { None }
}

fn three_digits(group: &str) -> Option<u64> {
    let fits = group.len() == 3 && group.bytes().all(|b| b.is_ascii_digit());
    if fits { group.parse().ok() } else { None }
}

/// Adds an entry to a bundle.
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> Option<()> {
    let length = u16::try_from(entry.len()).ok()?;
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    Some(())
}

/// Takes the first entry off a bundle; `None` when it is cut.
pub fn take_entry<'b>(bundle: &mut &'b [u8]) -> Option<&'b [u8]> {
    let (length, rest) = bundle.split_first_chunk::<2>()?;
    let (entry, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    *bundle = rest;
    Some(entry)
}

/// What a checkpoint says: so many entries, this root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// Entries.
    pub size: u64,
    /// Root of the tree of them.
    pub root: Hash,
}

impl Checkpoint {
    /// The text that is signed.
    pub fn to_text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, Base64::encode_string(&self.root))
    }

    /// Reads a note's text; lines behind the third one are extensions and say nothing here.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let root = Hash::try_from(Base64::decode_vec(root).ok()?).ok()?;
        let fits = !origin.is_empty() && lines.all(|extension| !extension.is_empty());
        fits.then_some(())?;
        Some(Self { origin: origin.to_owned(), size: number(size, 19)?, root })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_tile_has_one_name() {
        for (path, level, index, width) in [
            ("0/000", Some(0), 0, 256),
            ("0/000.p/1", Some(0), 0, 1),
            ("1/067.p/255", Some(1), 67, 255),
            ("entries/x001/x234/067", None, 1_234_067, 256),
            ("entries/x001/x234/067.p/8", None, 1_234_067, 8),
        ] {
            let tile = Tile::parse(path).unwrap();
            assert_eq!(tile, Tile { level, index, width });
            assert_eq!(tile.to_string(), format!("tile/{path}"));
        }
        for bad in [
            "",
            "0",
            "0/",
            "0/0",
            "00/000",
            "8/000",
            "-1/000",
            "x/000",
            "0/000.p/0",
            "0/000.p/256",
            "0/000.p/01",
            "0/000.p/",
            "0/x000/001",
            "0/001/002",
            "0/x001/2",
            "0/x001/x002/x003/004",
            "0/000/",
            "0/..",
            "entries/000.p/1/2",
            "data/000",
        ] {
            assert_eq!(Tile::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn all_tiles_of_a_tree_are_those_that_it_fills() {
        let names = |size| Tile::all(size).map(|t| t.to_string()).collect::<Vec<_>>();
        assert!(names(0).is_empty());
        assert_eq!(names(1), ["tile/0/000.p/1", "tile/entries/000.p/1"]);
        assert_eq!(
            names(513),
            [
                "tile/0/000",
                "tile/0/001",
                "tile/0/002.p/1",
                "tile/1/000.p/2",
                "tile/entries/000",
                "tile/entries/001",
                "tile/entries/002.p/1"
            ]
        );
        for tile in Tile::all(70_000) {
            assert!(tile.needs() <= 70_000, "{tile}");
            assert_eq!(Tile::parse(tile.to_string().strip_prefix("tile/").unwrap()), Some(tile));
        }
    }

    #[test]
    fn a_bundle_gives_back_what_was_put_in_and_a_cut_one_ends() {
        let mut bundle = Vec::new();
        for entry in [b"a".as_slice(), b"", &[7; 40_000]] {
            push_entry(&mut bundle, entry).unwrap();
        }
        assert!(push_entry(&mut bundle, &[0; ENTRY_BYTES_MAX + 1]).is_none());
        let mut rest = bundle.as_slice();
        assert_eq!(take_entry(&mut rest), Some(b"a".as_slice()));
        assert_eq!(take_entry(&mut rest), Some(b"".as_slice()));
        assert_eq!(take_entry(&mut rest).map(<[u8]>::len), Some(40_000));
        assert_eq!(take_entry(&mut rest), None);
        let mut cut = bundle.get(..bundle.len() - 1).unwrap();
        assert_eq!((0..4).filter_map(|_| take_entry(&mut cut)).count(), 2);
    }

    #[test]
    fn a_checkpoint_reads_as_it_is_written_and_no_other_way() {
        let made = Checkpoint { origin: "box/ten_1/1".to_owned(), size: 12, root: [7; 32] };
        assert_eq!(Checkpoint::parse(&made.to_text()), Some(made.clone()));
        assert_eq!(Checkpoint::parse(&format!("{}an extension\n", made.to_text())), Some(made));
        let root = Base64::encode_string(&[7; 32]);
        for bad in [
            "".to_owned(),
            "a\n1\n".to_owned(),
            format!("\n1\n{root}\n"),
            format!("a\n01\n{root}\n"),
            format!("a\n-1\n{root}\n"),
            format!("a\n1\n{root}"),
            format!("a\n1\n{root}\n\n"),
            format!("a\n99999999999999999999\n{root}\n"),
            "a\n1\nAAAA\n".to_owned(),
        ] {
            assert_eq!(Checkpoint::parse(&bad), None, "{bad:?}");
        }
    }
}
