//! What guessers try first: leaked passwords, common words, rows of the keyboard, and the names they know.
//!
//! All of it is held in one spelling ([`fold`], then [`letter`]), so that case and digits for letters hide nothing. The
//! list is read once, at the first use. Knows nothing of what a password must reach; [`super::password_policy`] judges.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::password_policy::{PART_LEN_MAX, PASSWORD_CHARS_MIN};

/// Names made of the context: parts of it and the whole.
const NAMES_MAX: usize = 24;

/// One spelling for what looks alike: case, full-width forms and the commonest accents.
pub(super) fn fold(c: char) -> char {
    let wide = u32::from(c);
    let narrow = if (0xFF01..=0xFF5E).contains(&wide) { char::from_u32(wide - 0xFEE0).unwrap_or(c) } else { c };
    // Only the first character of an expansion (İ gives two), so that both readings keep the same length.
    match narrow.to_lowercase().next().unwrap_or(narrow) {
        'á' | 'à' | 'â' | 'ä' | 'ã' | 'å' => 'a',
        'é' | 'è' | 'ê' | 'ë' => 'e',
        'í' | 'ì' | 'î' | 'ï' => 'i',
        'ó' | 'ò' | 'ô' | 'ö' | 'õ' | 'ø' => 'o',
        'ú' | 'ù' | 'û' | 'ü' => 'u',
        'ç' => 'c',
        'ñ' => 'n',
        other => other,
    }
}

/// The letter that a folded character stands for in leetspeak; `l` and `i` fall together, since `1` stands for both.
pub(super) fn letter(c: char) -> char {
    match c {
        '0' => 'o',
        '1' | '!' | '|' | 'l' => 'i',
        '2' => 'z',
        '3' | '€' => 'e',
        '4' | '@' => 'a',
        '5' | '$' => 's',
        '6' | '9' => 'g',
        '7' | '+' => 't',
        '8' => 'b',
        '(' => 'c',
        other => other,
    }
}

// ---- names

/// What an attacker knows of the one who chooses, as letters.
pub(super) struct Names(Vec<Vec<char>>);

impl Names {
    pub(super) fn new(context: &[&str]) -> Self {
        let mut names: Vec<Vec<char>> = Vec::new();
        for text in context {
            // A name of a thousand words is not a name.
            let text: Vec<char> = text.chars().take(4 * PART_LEN_MAX).map(fold).collect();
            let joined: Vec<char> = text.iter().copied().filter(|c| c.is_alphanumeric()).collect();
            for name in text.split(|c| !c.is_alphanumeric()).chain([text.as_slice(), joined.as_slice()]) {
                let name: Vec<char> = name.iter().copied().map(letter).collect();
                if (3..=PART_LEN_MAX).contains(&name.len()) && names.len() < NAMES_MAX && !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        Self(names)
    }

    pub(super) fn parts(&self) -> &[Vec<char>] {
        &self.0
    }
}

// ---- the list of common passwords

/// The bundled list as a tree of letters.
pub(super) struct Common {
    /// From a node by a letter to the next; node 0 is the root.
    next: HashMap<(u32, char), u32>,
    /// What the way from the root to this node spells.
    ends: HashMap<u32, Entry>,
}

/// What a way through the tree spells.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// A stem as it is written: neither backwards nor one of the longer passwords.
    pub first_choice: bool,
    /// A whole password of the list, not only a stem.
    pub listed: bool,
}

static LIST: &str = include_str!("common_passwords.txt");
pub(super) static COMMON: LazyLock<Common> = LazyLock::new(|| Common::new(entries()));

/// The lines of the list that are no comments.
pub(super) fn entries() -> impl Iterator<Item = &'static str> {
    LIST.lines().filter(|line| !line.is_empty() && *line != "#" && !line.starts_with("# "))
}

impl Common {
    fn new<'a>(entries: impl Iterator<Item = &'a str>) -> Self {
        let mut tree = Self { next: HashMap::new(), ends: HashMap::new() };
        for entry in entries {
            let letters: Vec<char> = entry.chars().map(fold).map(letter).collect();
            let listed = letters.len() >= PASSWORD_CHARS_MIN;
            tree.insert(letters.iter(), Entry { first_choice: !listed, listed });
            if !listed {
                tree.insert(letters.iter().rev(), Entry { first_choice: false, listed });
            }
        }
        tree
    }

    fn insert<'a>(&mut self, letters: impl Iterator<Item = &'a char>, end: Entry) {
        let mut node = 0;
        for c in letters.take(PART_LEN_MAX) {
            let fresh = u32::try_from(self.next.len() + 1).unwrap_or(u32::MAX);
            node = *self.next.entry((node, *c)).or_insert(fresh);
        }
        let known = self.ends.entry(node).or_insert(end);
        *known = Entry { first_choice: known.first_choice || end.first_choice, listed: known.listed || end.listed };
    }

    /// Every entry that `letters` begins with, and its length.
    pub(super) fn entries_at<'a>(&'a self, letters: &'a [char]) -> impl Iterator<Item = (usize, Entry)> + 'a {
        let nodes = letters.iter().scan(0_u32, |node, c| {
            *node = *self.next.get(&(*node, *c))?;
            Some(*node)
        });
        (1..).zip(nodes).filter_map(|(len, node)| Some((len, *self.ends.get(&node)?)))
    }

    /// Whether a whole password of the list reads like this.
    pub(super) fn is_listed(&self, letters: &[char]) -> bool {
        self.entries_at(letters).any(|(len, end)| len == letters.len() && end.listed)
    }
}

// ---- rows

/// What lies side by side: alphabet, digits, keyboards (English, German, French) along, down and to and fro. Each counts
/// backwards, too.
const LINES: &[&str] = &[
    "abcdefghijklmnopqrstuvwxyz",
    "0123456789012345678901234567890",
    "`1234567890-=",
    "~!@#$%^&*()_+",
    "!\"§$%&/()=?",
    "qwertyuiop[]\\",
    "qwertyuiop{}|",
    "qwertzuiopu+#",
    "azertyuiop^$",
    "asdfghjkl;'",
    "asdfghjkloa#",
    "qsdfghjklm",
    "zxcvbnm,./",
    "yxcvbnm,.-",
    "wxcvbn,;:!",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik,9ol.0p;/",
    "1qazxsw23edcvfr45tgbnhy67ujm,ki89ol.",
    "qazwsxedcrfvtgbyhnujmikolp",
    "qazxswedcvfrtgbnhyujmkiolp",
    "zaq1xsw2cde3vfr4bgt5nhy6mju7",
    "1q2w3e4r5t6y7u8i9o0p",
    "q1w2e3r4t5y6u7i8o9p0",
    "1a2b3c4d5e6f7g8h9i",
    "a1b2c3d4e5f6g7h8i9",
    "qweasdzxcrtyfghvbn",
    "asdqwezxc",
    "789456123",
    "147258369",
    "159753",
    "963852741",
    "112233445566778899",
    "aabbccddeeffgghhiijj",
];

pub(super) struct Rows {
    lines: Vec<Vec<char>>,
    /// Where a character stands: line and place.
    places: HashMap<char, Vec<(usize, usize)>>,
}

pub(super) static ROWS: LazyLock<Rows> = LazyLock::new(|| {
    let forth = LINES.iter().map(|line| line.chars().collect::<Vec<char>>());
    let back = LINES.iter().map(|line| line.chars().rev().collect());
    let lines: Vec<Vec<char>> = forth.chain(back).collect();
    let mut places: HashMap<char, Vec<(usize, usize)>> = HashMap::new();
    for (number, line) in lines.iter().enumerate() {
        for (place, c) in line.iter().enumerate() {
            places.entry(*c).or_default().push((number, place));
        }
    }
    Rows { lines, places }
});

impl Rows {
    /// How many characters from here on lie side by side.
    pub(super) fn longest_at(&self, folded: &[char]) -> usize {
        let places = folded.first().and_then(|c| self.places.get(c)).map(Vec::as_slice).unwrap_or_default();
        let along = places.iter().map(|(line, place)| {
            let line = self.lines.get(*line).and_then(|line| line.get(*place..)).unwrap_or_default();
            folded.iter().zip(line).take_while(|(a, b)| a == b).count()
        });
        along.max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_of_one_spelling() {
        let (whole, stems): (Vec<&str>, Vec<&str>) = entries().partition(|e| e.len() >= PASSWORD_CHARS_MIN);
        for (section, least) in [(&whole, 1_000), (&stems, 1_500)] {
            assert!(section.len() >= least && section.is_sorted(), "{} entries", section.len());
            assert!(section.windows(2).all(|pair| pair.first() != pair.last()), "an entry stands there twice");
        }
        for entry in whole.iter().chain(&stems) {
            assert!((4..=PART_LEN_MAX).contains(&entry.len()) && !entry.contains('@'), "{entry}");
            assert_eq!(entry.to_lowercase(), *entry);
        }
    }
}
