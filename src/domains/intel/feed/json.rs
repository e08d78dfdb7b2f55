//! JSON that is read as it comes: each member of a list is looked at and let go, and what nobody asked for is skipped. A
//! document is never held as a tree, which takes many times its length.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::BadFeed;

/// Bytes of a document.
const BYTES_MAX: usize = 64 << 20;

/// What takes the members of an object, one by one.
pub(super) trait Members<'t> {
    /// Takes the value of a member that it knows; says whether it did.
    fn member<A: MapAccess<'t>>(&mut self, name: &str, object: &mut A) -> Result<bool, A::Error>;
}

/// An object whose members go to somebody.
pub(super) struct Object<'h, H>(pub &'h mut H);

/// A list of objects, each of which has its members taken by one and the same.
pub(super) struct Objects<'h, H>(pub &'h mut H);

/// A list whose items go to a function, one by one.
pub(super) struct Items<T, F> {
    take: F,
    of: PhantomData<T>,
}

impl<'t, T: Deserialize<'t>, F: FnMut(T) -> bool> Items<T, F> {
    /// The function says whether it wants more; where it does not, the document ends with an error.
    pub fn new(take: F) -> Self {
        Self { take, of: PhantomData }
    }
}

impl<'t, H: Members<'t>> DeserializeSeed<'t> for Object<'_, H> {
    type Value = ();
    fn deserialize<D: Deserializer<'t>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'t, H: Members<'t>> Visitor<'t> for Object<'_, H> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'t>>(self, mut object: A) -> Result<(), A::Error> {
        while let Some(name) = object.next_key::<Cow<'t, str>>()? {
            if !self.0.member(&name, &mut object)? {
                object.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

impl<'t, H: Members<'t>> DeserializeSeed<'t> for Objects<'_, H> {
    type Value = ();
    fn deserialize<D: Deserializer<'t>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'t, H: Members<'t>> Visitor<'t> for Objects<'_, H> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }
    fn visit_seq<A: SeqAccess<'t>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Object(self.0))?.is_some() {}
        Ok(())
    }
}

impl<'t, T: Deserialize<'t>, F: FnMut(T) -> bool> DeserializeSeed<'t> for Items<T, F> {
    type Value = ();
    fn deserialize<D: Deserializer<'t>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'t, T: Deserialize<'t>, F: FnMut(T) -> bool> Visitor<'t> for Items<T, F> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }
    fn visit_seq<A: SeqAccess<'t>>(mut self, mut list: A) -> Result<(), A::Error> {
        while let Some(item) = list.next_element::<T>()? {
            if !(self.take)(item) {
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

/// Reads a document; what is wrong is said without a part of it.
pub(super) fn read<'t>(
    text: &'t str,
    format: &'static str,
    seed: impl DeserializeSeed<'t, Value = ()>,
) -> Result<(), BadFeed> {
    if text.len() > BYTES_MAX {
        return Err(BadFeed::Form { format, why: format!("it has more than {} MiB.", BYTES_MAX >> 20) });
    }
    let mut from = serde_json::Deserializer::from_str(text);
    let read = seed.deserialize(&mut from).and_then(|()| from.end());
    read.map_err(|e| BadFeed::Form {
        format,
        why: format!("something is wrong at line {}, column {}.", e.line(), e.column()),
    })
}
