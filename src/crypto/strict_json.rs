//! JSON for signed things: one text has one meaning.
//!
//! Refuses what parsers disagree about: a member named twice, text after the end, nesting without limit. What was
//! signed is then what everybody reads. Knows nothing of what the members mean.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How deep objects and arrays may nest.
pub const DEPTH_MAX: usize = 32;

/// Why a text was not taken. The text is for the operator's log; it repeats no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StrictJsonError {
    /// Not JSON (RFC 8259), not UTF-8, a number beyond a double, or something after the end.
    #[error("is not one JSON text")]
    Syntax,
    /// The same name twice in one object.
    #[error("names a member twice")]
    Duplicate,
    /// Deeper than [`DEPTH_MAX`].
    #[error("is nested deeper than 32 levels")]
    TooDeep,
    /// Valid JSON, but not an object where one is due.
    #[error("is not a JSON object")]
    NotObject,
}

/// Parses one JSON text. The caller bounds the length of `bytes`.
///
/// # Errors
/// [`StrictJsonError`]; never `NotObject`.
pub fn parse(bytes: &[u8]) -> Result<Value, StrictJsonError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let fault = Cell::new(StrictJsonError::Syntax);
    let value = Strict { depth: 0, fault: &fault }.deserialize(&mut deserializer).map_err(|_| fault.get())?;
    deserializer.end().map_err(|_| StrictJsonError::Syntax)?;
    Ok(value)
}

/// Parses one JSON object.
///
/// # Errors
/// [`StrictJsonError`].
pub fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, StrictJsonError> {
    match parse(bytes)? {
        Value::Object(map) => Ok(map),
        _ => Err(StrictJsonError::NotObject),
    }
}

/// Reads a value out of any serde format under the same rules.
///
/// # Errors
/// The format's own.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    let fault = Cell::new(StrictJsonError::Syntax);
    Strict { depth: 0, fault: &fault }.deserialize(deserializer)
}

#[derive(Clone, Copy)]
struct Strict<'a> {
    depth: usize,
    // serde errors carry only text; the kind is left here on the way out.
    fault: &'a Cell<StrictJsonError>,
}

impl Strict<'_> {
    fn refuse<E: serde::de::Error>(self, fault: StrictJsonError) -> E {
        self.fault.set(fault);
        E::custom(fault)
    }

    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX {
            return Err(self.refuse(StrictJsonError::TooDeep));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value without duplicate members")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("number is not finite"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut map = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            if map.contains_key(&name) {
                return Err(self.refuse(StrictJsonError::Duplicate));
            }
            let value = access.next_value_seed(inner)?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_parsers_could_disagree_about_is_refused() {
        use StrictJsonError::{Duplicate, NotObject, Syntax, TooDeep};
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        for (text, fault) in [
            (r#"{"a":1,"a":2}"#.to_owned(), Duplicate),
            (r#"{"a":1,"\u0061":2}"#.to_owned(), Duplicate),
            (r#"{"a":[{"b":{"c":1,"c":1}}]}"#.to_owned(), Duplicate),
            (deep(DEPTH_MAX + 1), TooDeep),
            (deep(100_000), TooDeep),
            (r#"{"a":1}x"#.to_owned(), Syntax),
            ("\u{feff}{}".to_owned(), Syntax),
            (r#"{"a":1e400}"#.to_owned(), Syntax),
            (r#"{"a":"\ud800"}"#.to_owned(), Syntax),
            (r#"{"a":NaN}"#.to_owned(), Syntax),
            (r#"{"a":01}"#.to_owned(), Syntax),
            (r#"{"a":1,}"#.to_owned(), Syntax),
            (String::new(), Syntax),
            ("[1]".to_owned(), NotObject),
            ("null".to_owned(), NotObject),
        ] {
            assert_eq!(parse_object(text.as_bytes()), Err(fault), "{:.60}", text);
        }
        assert_eq!(parse_object(b"{\"a\":\"\xff\"}"), Err(Syntax));
        assert!(parse(deep(DEPTH_MAX).as_bytes()).is_ok());
        assert!(parse_object(br#" {"a":1,"b":[true,null,"x",-1,1.5],"c":{"a":2}} "#).is_ok());
    }
}
