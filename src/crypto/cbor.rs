//! CBOR values (RFC 8949) as WebAuthn, COSE and device attestations carry them: bounded, and one input has one meaning.
//!
//! No map names a key twice, nothing follows a value unless the caller asks where it ended, and a length is written
//! down unless the caller allows parts. The order of keys and the shortest form of numbers are not demanded: real
//! authenticators differ there, keys are compared by value, and what is signed is the bytes as they came, never an
//! encoding made again here. Knows nothing of what the members mean.

use minicbor::Decoder;
use minicbor::data::Type;
use minicbor::decode::Error as TokenError;

/// Bytes of one input.
pub const INPUT_BYTES_MAX: usize = 64 * 1024;
/// How deep arrays and maps may nest. CTAP2 messages need four levels.
pub const DEPTH_MAX: usize = 8;
/// Values in one input, keys included.
pub const ITEMS_MAX: usize = 1024;

/// Why bytes were not taken. The text repeats nothing of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    /// More than [`INPUT_BYTES_MAX`].
    #[error("is longer than 64 KiB")]
    TooLong,
    /// More than [`ITEMS_MAX`] values.
    #[error("holds more than 1024 values")]
    TooMany,
    /// More than [`DEPTH_MAX`] levels.
    #[error("is nested deeper than 8 levels")]
    TooDeep,
    /// The end came inside a value.
    #[error("ends too early")]
    Truncated,
    /// Bytes after the value.
    #[error("goes on after its end")]
    Trailing,
    /// Not CBOR: a reserved initial byte, text that is not UTF-8, a break outside of parts.
    #[error("is not CBOR")]
    Malformed,
    /// A value in parts, of which the length is not written down, where that is not allowed.
    #[error("holds a value of indefinite length")]
    Indefinite,
    /// A tag, a floating-point number, `undefined`, another simple value, or a number beyond 64 bits with sign.
    #[error("holds a kind of value that does not belong here")]
    Unsupported,
    /// A map's key that is neither a number nor a text.
    #[error("has a map with a key that is neither a number nor a text")]
    KeyType,
    /// The same key twice in one map.
    #[error("names a key twice")]
    DuplicateKey,
}

impl From<TokenError> for CborError {
    fn from(e: TokenError) -> Self {
        if e.is_end_of_input() { Self::Truncated } else { Self::Malformed }
    }
}

/// Whether the lengths of strings, arrays and maps must be written down before them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lengths {
    /// They must, as the CTAP2 canonical form says.
    Definite,
    /// They need not.
    Any,
}

/// One CBOR value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// A whole number from zero on.
    Unsigned(u64),
    /// A whole number below zero.
    Negative(i64),
    /// A byte string.
    Bytes(Vec<u8>),
    /// A text.
    Text(String),
    /// An array.
    Array(Vec<Self>),
    /// A map in the order of the input: keys are numbers or texts, and no two are equal.
    Map(Vec<(Self, Self)>),
    /// True or false.
    Bool(bool),
    /// Null.
    Null,
}

impl Value {
    /// The member of a map under a text; `None` also when this is not a map.
    pub fn member(&self, name: &str) -> Option<&Self> {
        self.find(|key| matches!(key, Self::Text(text) if text == name))
    }

    /// The member of a map under a number (COSE calls it a label); `None` also when this is not a map.
    pub fn label(&self, label: i64) -> Option<&Self> {
        self.find(|key| key.as_i64() == Some(label))
    }

    fn find(&self, wanted: impl Fn(&Self) -> bool) -> Option<&Self> {
        self.as_map()?.iter().find(|(key, _)| wanted(key)).map(|(_, value)| value)
    }

    /// The number, when it is one that fits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Unsigned(n) => i64::try_from(*n).ok(),
            Self::Negative(n) => Some(*n),
            _ => None,
        }
    }

    /// The bytes of a byte string.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The items of an array.
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The members of a map.
    pub fn as_map(&self) -> Option<&[(Self, Self)]> {
        match self {
            Self::Map(members) => Some(members),
            _ => None,
        }
    }
}

/// Reads the one value that `bytes` are, all lengths written down.
///
/// # Errors
/// [`CborError`].
pub fn read(bytes: &[u8]) -> Result<Value, CborError> {
    read_with(bytes, Lengths::Definite)
}

/// Reads the one value that `bytes` are.
///
/// # Errors
/// [`CborError`].
pub fn read_with(bytes: &[u8], lengths: Lengths) -> Result<Value, CborError> {
    let (value, consumed) = read_first(bytes, lengths)?;
    if consumed == bytes.len() { Ok(value) } else { Err(CborError::Trailing) }
}

/// Reads the value that `bytes` begin with, all lengths written down, and says how many bytes it took.
///
/// # Errors
/// [`CborError`]; never `Trailing`.
pub fn read_prefix(bytes: &[u8]) -> Result<(Value, usize), CborError> {
    read_first(bytes, Lengths::Definite)
}

fn read_first(bytes: &[u8], lengths: Lengths) -> Result<(Value, usize), CborError> {
    if bytes.len() > INPUT_BYTES_MAX {
        return Err(CborError::TooLong);
    }
    let mut reader = Reader { decoder: Decoder::new(bytes), items_left: ITEMS_MAX, lengths };
    let value = reader.value(DEPTH_MAX)?;
    Ok((value, reader.decoder.position()))
}

struct Reader<'b> {
    decoder: Decoder<'b>,
    items_left: usize,
    lengths: Lengths,
}

impl Reader<'_> {
    fn value(&mut self, depth_left: usize) -> Result<Value, CborError> {
        self.items_left = self.items_left.checked_sub(1).ok_or(CborError::TooMany)?;
        let kind = self.decoder.datatype()?;
        if matches!(kind, Type::BytesIndef | Type::StringIndef | Type::ArrayIndef | Type::MapIndef)
            && self.lengths == Lengths::Definite
        {
            return Err(CborError::Indefinite);
        }
        match kind {
            Type::U8 | Type::U16 | Type::U32 | Type::U64 => Ok(Value::Unsigned(self.decoder.u64()?)),
            Type::I8 | Type::I16 | Type::I32 | Type::I64 => Ok(Value::Negative(self.decoder.i64()?)),
            Type::Bytes => Ok(Value::Bytes(self.decoder.bytes()?.to_vec())),
            Type::String => Ok(Value::Text(self.decoder.str()?.to_owned())),
            Type::BytesIndef => {
                let parts = self.decoder.bytes_iter()?.collect::<Result<Vec<_>, _>>()?;
                Ok(Value::Bytes(parts.concat()))
            }
            Type::StringIndef => Ok(Value::Text(self.decoder.str_iter()?.collect::<Result<String, _>>()?)),
            Type::Array | Type::ArrayIndef => self.array(depth_left),
            Type::Map | Type::MapIndef => self.map(depth_left),
            Type::Bool => Ok(Value::Bool(self.decoder.bool()?)),
            Type::Null => {
                self.decoder.null()?;
                Ok(Value::Null)
            }
            Type::Int | Type::Tag | Type::Undefined | Type::Simple | Type::F16 | Type::F32 | Type::F64 => {
                Err(CborError::Unsupported)
            }
            Type::Break | Type::Unknown(_) => Err(CborError::Malformed),
        }
    }

    fn array(&mut self, depth_left: usize) -> Result<Value, CborError> {
        let depth_left = depth_left.checked_sub(1).ok_or(CborError::TooDeep)?;
        let mut left = self.decoder.array()?;
        // Not reserved beforehand: the length is the sender's claim, and each item is counted as it comes.
        let mut items = Vec::new();
        while self.more(&mut left)? {
            items.push(self.value(depth_left)?);
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, depth_left: usize) -> Result<Value, CborError> {
        let depth_left = depth_left.checked_sub(1).ok_or(CborError::TooDeep)?;
        let mut left = self.decoder.map()?;
        let mut members: Vec<(Value, Value)> = Vec::new();
        while self.more(&mut left)? {
            let key = self.value(depth_left)?;
            if !matches!(key, Value::Unsigned(_) | Value::Negative(_) | Value::Text(_)) {
                return Err(CborError::KeyType);
            }
            // At most ITEMS_MAX / 2 members, so comparing with all earlier ones stays cheap.
            if members.iter().any(|(earlier, _)| *earlier == key) {
                return Err(CborError::DuplicateKey);
            }
            let value = self.value(depth_left)?;
            members.push((key, value));
        }
        Ok(Value::Map(members))
    }

    /// Whether another item follows; takes the break that ends an array or map of indefinite length.
    fn more(&mut self, left: &mut Option<u64>) -> Result<bool, CborError> {
        match left {
            Some(0) => Ok(false),
            Some(n) => {
                *n -= 1;
                Ok(true)
            }
            None if self.decoder.datatype()? == Type::Break => {
                self.decoder.set_position(self.decoder.position().saturating_add(1));
                Ok(false)
            }
            None => Ok(true),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn text(t: &str) -> Value {
        Value::Text(t.to_owned())
    }

    /// Examples of RFC 8949, appendix A, as far as these formats have them.
    #[test]
    fn the_rfcs_examples_come_out() {
        for (bytes, value) in [
            (&b"\x00"[..], Value::Unsigned(0)),
            (b"\x17", Value::Unsigned(23)),
            (b"\x18\x18", Value::Unsigned(24)),
            (b"\x19\x03\xe8", Value::Unsigned(1000)),
            (b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff", Value::Unsigned(u64::MAX)),
            (b"\x20", Value::Negative(-1)),
            (b"\x38\x63", Value::Negative(-100)),
            (b"\x39\x03\xe7", Value::Negative(-1000)),
            (b"\x3b\x7f\xff\xff\xff\xff\xff\xff\xff", Value::Negative(i64::MIN)),
            (b"\xf4", Value::Bool(false)),
            (b"\xf5", Value::Bool(true)),
            (b"\xf6", Value::Null),
            (b"\x40", Value::Bytes(vec![])),
            (b"\x44\x01\x02\x03\x04", Value::Bytes(vec![1, 2, 3, 4])),
            (b"\x60", text("")),
            (b"\x62\xc3\xbc", text("ü")),
            (b"\x80", Value::Array(vec![])),
            (b"\xa0", Value::Map(vec![])),
            (
                b"\xa2\x61a\x01\x61b\x82\x02\x03",
                Value::Map(vec![
                    (text("a"), Value::Unsigned(1)),
                    (text("b"), Value::Array(vec![Value::Unsigned(2), Value::Unsigned(3)])),
                ]),
            ),
        ] {
            assert_eq!(read(bytes), Ok(value), "{bytes:02x?}");
        }
    }

    #[test]
    fn what_has_two_meanings_or_does_not_belong_here_is_refused() {
        use CborError::{
            DuplicateKey, Indefinite, KeyType, Malformed, TooDeep, TooLong, TooMany, Trailing, Truncated, Unsupported,
        };
        let deep = |levels: usize| [vec![0x81; levels], vec![0]].concat();
        let many = |items: u16| [&[0x99][..], &items.to_be_bytes(), &vec![0; usize::from(items)]].concat();
        for (bytes, fault) in [
            (vec![], Truncated),
            (vec![0x18], Truncated),
            (vec![0x42, 0], Truncated),
            (vec![0x82, 0], Truncated),
            (vec![0xa1, 0], Truncated),
            // Lengths that are only claimed: 2^64 - 1 bytes, items, members.
            ([&[0x5b][..], &[0xff; 8]].concat(), Truncated),
            ([&[0x9b][..], &[0xff; 8]].concat(), Truncated),
            ([&[0xbb][..], &[0xff; 8]].concat(), Truncated),
            (vec![0, 0], Trailing),
            (vec![0xa2, 1, 0, 1, 0], DuplicateKey),
            (b"\xa2\x61a\x00\x61a\x01".to_vec(), DuplicateKey),
            // The same number, once in a longer form.
            (vec![0xa2, 1, 0, 0x18, 1, 0], DuplicateKey),
            (vec![0xa1, 0x41, 0, 0], KeyType),
            (vec![0xa1, 0x80, 0], KeyType),
            (vec![0xa1, 0xf6, 0], KeyType),
            (vec![0x9f, 0xff], Indefinite),
            (vec![0xbf, 0xff], Indefinite),
            (vec![0x5f, 0xff], Indefinite),
            (vec![0x7f, 0xff], Indefinite),
            (vec![0x81, 0x9f, 0xff], Indefinite),
            (vec![0xc0, 0], Unsupported),
            (vec![0xf7], Unsupported),
            (vec![0xe0], Unsupported),
            (vec![0xf9, 0, 0], Unsupported),
            (vec![0xfb, 0, 0, 0, 0, 0, 0, 0, 0], Unsupported),
            ([&[0x3b][..], &[0xff; 8]].concat(), Unsupported),
            (vec![0xff], Malformed),
            (vec![0x1c], Malformed),
            (vec![0x61, 0xff], Malformed),
            (deep(DEPTH_MAX + 1), TooDeep),
            (deep(60_000), TooDeep),
            (many(1024), TooMany),
            (vec![0; INPUT_BYTES_MAX + 1], TooLong),
        ] {
            assert_eq!(read(&bytes), Err(fault), "{:02x?}", &bytes[..bytes.len().min(20)]);
        }
        assert!(read(&deep(DEPTH_MAX)).is_ok());
        assert!(read(&many(1023)).is_ok());
    }

    #[test]
    fn keys_may_stand_in_any_order_and_numbers_in_any_form() {
        let value = read(b"\xa3\x61b\x01\x03\x18\x07\x20\xf5").unwrap();
        assert_eq!(value.member("b"), Some(&Value::Unsigned(1)));
        assert_eq!(value.label(3).and_then(Value::as_i64), Some(7));
        assert_eq!(value.label(-1), Some(&Value::Bool(true)));
        assert_eq!(value.label(0), None);
        assert_eq!(Value::Null.member("b"), None);
        // A text is no number and a number no text.
        assert_eq!(value.member("3"), None);
    }

    #[test]
    fn a_value_in_parts_is_read_where_it_is_allowed() {
        for (parts, whole) in [
            (&b"\x9f\x01\x9f\x02\xff\xff"[..], &b"\x82\x01\x81\x02"[..]),
            (b"\xbf\x61a\x01\xff", b"\xa1\x61a\x01"),
            (b"\x5f\x42\x01\x02\x41\x03\xff", b"\x43\x01\x02\x03"),
            (b"\x7f\x61a\x61b\xff", b"\x62ab"),
        ] {
            assert_eq!(read_with(parts, Lengths::Any), read(whole));
            assert_eq!(read(parts), Err(CborError::Indefinite));
        }
        for bad in [&b"\x9f\x01"[..], b"\x5f\x61a\xff", b"\x5f\x41", b"\xbf\x01\xff", b"\xbf\x01\x02\x01\x02\xff"] {
            assert!(read_with(bad, Lengths::Any).is_err(), "{bad:02x?}");
        }
    }

    #[test]
    fn a_prefix_says_where_it_ended() {
        assert_eq!(read_prefix(b"\x82\x01\x02\xff\xff"), Ok((read(b"\x82\x01\x02").unwrap(), 3)));
        assert_eq!(read_prefix(b""), Err(CborError::Truncated));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            let definite = read(&bytes);
            let _ = read_prefix(&bytes);
            let any = read_with(&bytes, Lengths::Any);
            // Allowing more never changes what was already allowed.
            proptest::prop_assert!(definite.is_err() || definite == any);
        }

        #[test]
        fn no_structure_makes_the_reader_panic(
            heads in proptest::collection::vec(proptest::sample::select(
                &b"\x00\x18\x20\x38\x3b\x41\x5f\x61\x7f\x80\x81\x82\x9f\xa1\xa2\xbf\xf5\xf6\xff\x01\x02\x03"[..]), 0..64),
        ) {
            let _ = read(&heads);
            let _ = read_with(&heads, Lengths::Any);
        }
    }
}
