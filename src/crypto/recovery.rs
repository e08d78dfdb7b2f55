//! Recovery codes: the way in for who lost the second factor. Shown once, stored only as keyed hashes, each good once.
//!
//! `XXXX-XXXX-XXXX` in the alphabet of Crockford's base32, which has no I, L, O and U: 60 bits that can be read aloud and
//! written by hand. Knows nothing of users, of tables, or of which codes were used.

use zeroize::Zeroizing;

use super::hmac_sha256;
use crate::kernel::Random;

/// Codes of one sheet.
pub const COUNT: usize = 10;
const SYMBOLS: usize = 12;
const GROUP: usize = 4;
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Bytes of an input that are looked at; a code with blanks and hyphens between all its symbols needs fewer.
const INPUT_LEN_MAX: usize = 64;

/// A fresh sheet of [`COUNT`] codes, each of 60 random bits.
pub fn generate(random: &Random) -> Vec<Zeroizing<String>> {
    (0..COUNT).map(|_| one(random)).collect()
}

fn one(random: &Random) -> Zeroizing<String> {
    let mut bits = random.u64();
    let mut code = Zeroizing::new(String::with_capacity(SYMBOLS + SYMBOLS / GROUP));
    for place in 0..SYMBOLS {
        if place > 0 && place % GROUP == 0 {
            code.push('-');
        }
        let index = usize::try_from(bits & 31).unwrap_or_default();
        code.extend(ALPHABET.get(index).map(|c| char::from(*c)));
        bits >>= 5;
    }
    code
}

/// Brings what a person typed to the one spelling that [`hash`] takes: twelve upper-case symbols without hyphens.
///
/// Lower case counts as upper, hyphens and blanks may stand anywhere, O is read as 0, I and L as 1. `None` when it cannot
/// be a code.
pub fn normalise(text: &str) -> Option<String> {
    if text.len() > INPUT_LEN_MAX {
        return None;
    }
    let mut code = String::with_capacity(SYMBOLS);
    for c in text.chars().filter(|c| !matches!(c, '-' | ' ')) {
        let c = match c.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            other => other,
        };
        let known = u8::try_from(c).is_ok_and(|byte| ALPHABET.contains(&byte));
        if !known || code.len() == SYMBOLS {
            return None;
        }
        code.push(c);
    }
    (code.len() == SYMBOLS).then_some(code)
}

/// What is stored of a code that [`normalise`] gave: HMAC-SHA-256 under `key`.
///
/// 60 bits are few enough that whoever steals the data file could try them all against a plain hash. Hence the key, which
/// must come from outside the data file (derive it from the sealing key).
pub fn hash(key: &[u8; 32], code: &str) -> [u8; 32] {
    hmac_sha256(key, code.as_bytes())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_sheet_has_ten_different_codes_that_can_be_read_aloud() {
        let sheet = generate(&Random::seeded(1));
        let different: std::collections::HashSet<&str> = sheet.iter().map(|c| c.as_str()).collect();
        assert_eq!((sheet.len(), different.len()), (10, 10));
        for code in different {
            let groups: Vec<&str> = code.split('-').collect();
            assert!(groups.len() == 3 && groups.iter().all(|g| g.len() == 4), "{code}");
            assert!(!code.contains(['I', 'L', 'O', 'U']), "{code}");
            assert_eq!(normalise(code), Some(code.replace('-', "")), "a printed code is read back as itself");
        }
    }

    #[test]
    fn every_symbol_occurs_at_every_place() {
        let random = Random::seeded(2);
        let mut seen = vec![std::collections::HashSet::new(); SYMBOLS];
        for _ in 0..100 {
            for code in generate(&random) {
                for (place, symbol) in seen.iter_mut().zip(normalise(&code).unwrap().chars()) {
                    place.insert(symbol);
                }
            }
        }
        assert!(seen.iter().all(|symbols| symbols.len() == 32), "{seen:?}");
    }

    #[test]
    fn a_code_copied_by_hand_is_understood() {
        for (typed, expect) in [
            ("ABCD-EFGH-JKMN", Some("ABCDEFGHJKMN")),
            ("abcd-efgh-jkmn", Some("ABCDEFGHJKMN")),
            ("abcdefghjkmn", Some("ABCDEFGHJKMN")),
            (" abcd efgh jkmn ", Some("ABCDEFGHJKMN")),
            ("a-b-c-d-e-f-g-h-j-k-m-n", Some("ABCDEFGHJKMN")),
            ("oOiI-lL01-2345", Some("001111012345")),
            ("ABCD-EFGH-JKM", None),
            ("ABCD-EFGH-JKMNP", None),
            ("ABCD-EFGH-JKMU", None),
            ("ABCD_EFGH_JKMN", None),
            ("ABCD-EFGH-JKMÄ", None),
            ("", None),
        ] {
            assert_eq!(normalise(typed).as_deref(), expect, "{typed:?}");
        }
        assert_eq!(normalise(&format!("ABCDEFGHJKMN{}", " ".repeat(100))), None, "input is bounded");
    }

    #[test]
    fn a_stored_hash_is_worth_nothing_without_the_key() {
        assert_eq!(hash(&[1; 32], "ABCDEFGHJKMN"), hash(&[1; 32], "ABCDEFGHJKMN"));
        assert_ne!(hash(&[1; 32], "ABCDEFGHJKMN"), hash(&[2; 32], "ABCDEFGHJKMN"));
        assert_ne!(hash(&[1; 32], "ABCDEFGHJKMN"), hash(&[1; 32], "ABCDEFGHJKMP"));
        assert_ne!(hash(&[1; 32], "ABCDEFGHJKMN"), crate::crypto::sha256(b"ABCDEFGHJKMN"));
    }

    proptest::proptest! {
        #[test]
        fn no_input_makes_it_panic(text in "\\PC{0,80}") {
            if let Some(code) = normalise(&text) {
                proptest::prop_assert_eq!(normalise(&code), Some(code.clone()));
            }
        }
    }
}
