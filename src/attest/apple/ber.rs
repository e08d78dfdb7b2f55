//! The tags and lengths of ASN.1 (X.690) as Apple's evidence needs them: DER, and BER with indefinite lengths for
//! receipts. Strict and bounded: a length that is only claimed costs nothing, and nesting ends at [`DEPTH_MAX`].
//!
//! Knows no types: what a tag means is the caller's matter.

/// Bytes of one input.
pub const INPUT_BYTES_MAX: usize = 64 * 1024;
/// How deep values of indefinite length may nest. Real receipts need six levels.
pub const DEPTH_MAX: usize = 12;
/// Parts of one octet string. Real receipts have two; writers cut at 1,000 bytes.
const PARTS_MAX: usize = 128;

/// INTEGER.
pub const INTEGER: u8 = 0x02;
/// OCTET STRING in one piece.
pub const OCTET_STRING: u8 = 0x04;
/// OCTET STRING in parts, which BER allows.
const OCTET_STRING_IN_PARTS: u8 = 0x24;
/// NULL.
pub const NULL: u8 = 0x05;
/// OBJECT IDENTIFIER.
pub const OID: u8 = 0x06;
/// SEQUENCE and SEQUENCE OF.
pub const SEQUENCE: u8 = 0x30;
/// SET and SET OF.
pub const SET: u8 = 0x31;

/// A constructed tag of the context, such as `[0]`.
pub const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// Why bytes were not taken. The text repeats nothing of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BerError {
    /// More than [`INPUT_BYTES_MAX`].
    #[error("is longer than 64 KiB")]
    TooLong,
    /// More than [`DEPTH_MAX`] levels of indefinite length, or an octet string of too many or nested parts.
    #[error("is nested too deeply")]
    TooDeep,
    /// The end came inside a value.
    #[error("ends too early")]
    Truncated,
    /// Bytes after the last value.
    #[error("goes on after its end")]
    Trailing,
    /// A tag in several bytes, an end mark out of place, or a length that is not in its shortest form.
    #[error("is not well-formed")]
    Malformed,
    /// A value of indefinite length where all must be written down.
    #[error("holds a value of indefinite length")]
    Indefinite,
    /// Another value than is due.
    #[error("holds another value than is due")]
    Unexpected,
}

/// Which lengths are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rules {
    /// Written down, in the shortest form.
    Der,
    /// The same, and constructed values may end with an end mark.
    Ber,
}

/// One value.
#[derive(Clone, Copy, Debug)]
pub struct Element<'a> {
    /// The identifier octet.
    pub tag: u8,
    /// What is between header and end.
    pub body: &'a [u8],
    /// The value as it came, header and end included.
    pub whole: &'a [u8],
    rules: Rules,
}

impl<'a> Element<'a> {
    /// The values inside.
    pub const fn inside(&self) -> Reader<'a> {
        Reader { rest: self.body, rules: self.rules }
    }

    /// The bytes of an octet string, its parts joined.
    ///
    /// # Errors
    /// [`BerError`].
    pub fn octets(&self) -> Result<Vec<u8>, BerError> {
        if self.tag == OCTET_STRING {
            return Ok(self.body.to_vec());
        }
        if self.tag != OCTET_STRING_IN_PARTS || self.rules != Rules::Ber {
            return Err(BerError::Unexpected);
        }
        let mut joined = Vec::new();
        let mut parts = self.inside();
        for _ in 0..PARTS_MAX {
            if parts.is_empty() {
                return Ok(joined);
            }
            joined.extend_from_slice(parts.take(OCTET_STRING)?.body);
        }
        if parts.is_empty() { Ok(joined) } else { Err(BerError::TooDeep) }
    }
}

/// Values one after another.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    rules: Rules,
}

impl<'a> Reader<'a> {
    /// Reads `bytes` under `rules`.
    ///
    /// # Errors
    /// [`BerError::TooLong`].
    pub fn new(bytes: &'a [u8], rules: Rules) -> Result<Self, BerError> {
        if bytes.len() > INPUT_BYTES_MAX {
            return Err(BerError::TooLong);
        }
        Ok(Self { rest: bytes, rules })
    }

    /// Whether nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The tag of the next value, if there is one.
    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// The next value, whatever it is.
    ///
    /// # Errors
    /// [`BerError`].
    pub fn any(&mut self) -> Result<Element<'a>, BerError> {
        let (element, rest) = split(self.rest, self.rules, DEPTH_MAX)?;
        self.rest = rest;
        Ok(element)
    }

    /// The next value, which must have this tag.
    ///
    /// # Errors
    /// [`BerError`].
    pub fn take(&mut self, tag: u8) -> Result<Element<'a>, BerError> {
        match self.peek() {
            None => Err(BerError::Truncated),
            Some(found) if found != tag => Err(BerError::Unexpected),
            Some(_) => self.any(),
        }
    }

    /// The inside of the next value, which must have this tag.
    ///
    /// # Errors
    /// [`BerError`].
    pub fn enter(&mut self, tag: u8) -> Result<Self, BerError> {
        Ok(self.take(tag)?.inside())
    }

    /// That nothing is left.
    ///
    /// # Errors
    /// [`BerError::Trailing`].
    pub const fn end(&self) -> Result<(), BerError> {
        if self.rest.is_empty() { Ok(()) } else { Err(BerError::Trailing) }
    }
}

/// The first value of `bytes`, and what follows it.
fn split(bytes: &[u8], rules: Rules, depth_left: usize) -> Result<(Element<'_>, &[u8]), BerError> {
    let (&tag, rest) = bytes.split_first().ok_or(BerError::Truncated)?;
    // 1f: the number goes on in the next bytes. 00: an end mark, which its value's walk takes.
    if tag & 0x1f == 0x1f || tag == 0 {
        return Err(BerError::Malformed);
    }
    let (&first, rest) = rest.split_first().ok_or(BerError::Truncated)?;
    if first == 0x80 {
        return split_indefinite(bytes, tag, rest, rules, depth_left);
    }
    let (length, rest) = if first < 0x80 { (usize::from(first), rest) } else { long_length(first, rest)? };
    let (body, rest) = rest.split_at_checked(length).ok_or(BerError::Truncated)?;
    let whole = bytes.get(..bytes.len() - rest.len()).ok_or(BerError::Truncated)?;
    Ok((Element { tag, body, whole, rules }, rest))
}

/// A length of 128 or more, in its shortest form. Four bytes reach beyond every input that is taken.
fn long_length(first: u8, rest: &[u8]) -> Result<(usize, &[u8]), BerError> {
    let count = usize::from(first & 0x7f);
    if count > 4 {
        return Err(if count == 0x7f { BerError::Malformed } else { BerError::Truncated });
    }
    let (digits, rest) = rest.split_at_checked(count).ok_or(BerError::Truncated)?;
    let length = digits.iter().fold(0_usize, |sum, digit| (sum << 8) | usize::from(*digit));
    if digits.first() == Some(&0) || length < 0x80 {
        return Err(BerError::Malformed);
    }
    Ok((length, rest))
}

fn split_indefinite<'a>(
    bytes: &'a [u8],
    tag: u8,
    content: &'a [u8],
    rules: Rules,
    depth_left: usize,
) -> Result<(Element<'a>, &'a [u8]), BerError> {
    if rules == Rules::Der {
        return Err(BerError::Indefinite);
    }
    if tag & 0x20 == 0 {
        return Err(BerError::Malformed);
    }
    let depth_left = depth_left.checked_sub(1).ok_or(BerError::TooDeep)?;
    let mut left = content;
    loop {
        if let Some(after) = left.strip_prefix(&[0, 0]) {
            let body = content.get(..content.len() - left.len()).ok_or(BerError::Truncated)?;
            let whole = bytes.get(..bytes.len() - after.len()).ok_or(BerError::Truncated)?;
            return Ok((Element { tag, body, whole, rules }, after));
        }
        // Shorter with every turn: a value has two bytes at least.
        left = split(left, rules, depth_left)?.1;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn read(bytes: &[u8], rules: Rules) -> Result<(u8, Vec<u8>), BerError> {
        let mut reader = Reader::new(bytes, rules)?;
        let element = reader.any()?;
        reader.end()?;
        assert_eq!(element.whole, bytes);
        Ok((element.tag, element.body.to_vec()))
    }

    #[test]
    fn a_value_ends_where_its_length_or_its_end_mark_says() {
        let long = [&[0x04, 0x82, 0x01, 0x00][..], &[7; 256]].concat();
        assert_eq!(read(&[0x02, 0x01, 0x05], Rules::Der), Ok((INTEGER, vec![5])));
        assert_eq!(read(&long, Rules::Der), Ok((OCTET_STRING, vec![7; 256])));
        let open = [0x30, 0x80, 0x02, 0x01, 0x05, 0x30, 0x80, 0, 0, 0, 0];
        assert_eq!(read(&open, Rules::Ber), Ok((SEQUENCE, vec![0x02, 0x01, 0x05, 0x30, 0x80, 0, 0])));
        assert_eq!(read(&open, Rules::Der), Err(BerError::Indefinite));
    }

    #[test]
    fn an_octet_string_in_parts_is_their_sum() {
        for parts in [
            &[0x24, 0x80, 0x04, 0x02, 1, 2, 0x04, 0x00, 0x04, 0x01, 3, 0, 0][..],
            &[0x24, 0x09, 0x04, 0x02, 1, 2, 0x04, 0x00, 0x04, 0x01, 3],
        ] {
            let element = Reader::new(parts, Rules::Ber).unwrap().any().unwrap();
            assert_eq!(element.octets(), Ok(vec![1, 2, 3]));
        }
        let nested = Reader::new(&[0x24, 0x04, 0x24, 0x02, 0x04, 0x00], Rules::Ber).unwrap().any().unwrap();
        assert_eq!(nested.octets(), Err(BerError::Unexpected));
        let in_der = Reader::new(&[0x24, 0x02, 0x04, 0x00], Rules::Der).unwrap().any().unwrap();
        assert_eq!(in_der.octets(), Err(BerError::Unexpected));
        let many = [&[0x24, 0x80][..], &[0x04, 0x00].repeat(PARTS_MAX + 1), &[0, 0]].concat();
        assert_eq!(Reader::new(&many, Rules::Ber).unwrap().any().unwrap().octets(), Err(BerError::TooDeep));
    }

    #[test]
    fn what_is_only_claimed_or_has_two_spellings_is_refused() {
        use BerError::{Malformed, TooDeep, TooLong, Trailing, Truncated};
        let open = |levels: usize| [[0x30, 0x80].repeat(levels), [0, 0].repeat(levels)].concat();
        for (bytes, fault) in [
            (vec![], Truncated),
            (vec![0x30], Truncated),
            (vec![0x30, 0x01], Truncated),
            (vec![0x30, 0x82, 0x01], Truncated),
            (vec![0x30, 0x80], Truncated),
            (vec![0x30, 0x80, 0x00], Malformed),
            // 2^63, 2^64 - 1, 2^31.
            (vec![0x30, 0x88, 0x80, 0, 0, 0, 0, 0, 0, 0], Truncated),
            ([&[0x04, 0x88][..], &[0xff; 8]].concat(), Truncated),
            (vec![0x04, 0x84, 0x80, 0, 0, 0], Truncated),
            (vec![0x04, 0xff, 0], Malformed),
            (vec![0x04, 0x81, 0x01, 0], Malformed),
            (vec![0x04, 0x82, 0x00, 0x80], Malformed),
            (vec![0x00, 0x00], Malformed),
            (vec![0x1f, 0x01, 0x00], Malformed),
            // Only constructed values end with a mark.
            (vec![0x04, 0x80, 0x00, 0x00], Malformed),
            (vec![0x05, 0x00, 0x00], Trailing),
            (open(DEPTH_MAX + 1), TooDeep),
            ([0x30, 0x80].repeat(30_000), TooDeep),
            (vec![0; INPUT_BYTES_MAX + 1], TooLong),
        ] {
            assert_eq!(read(&bytes, Rules::Ber), Err(fault), "{:02x?}", bytes.get(..12).unwrap_or(&bytes));
        }
        assert!(read(&open(DEPTH_MAX), Rules::Ber).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            for rules in [Rules::Der, Rules::Ber] {
                let mut reader = Reader::new(&bytes, rules).unwrap();
                while let Ok(element) = reader.any() {
                    let _ = element.octets();
                    let _ = element.inside().any();
                }
            }
        }
    }
}
