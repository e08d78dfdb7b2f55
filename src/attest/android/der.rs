//! A strict reader of DER (X.690) for the statement inside an attestation: one form for each value, no surprises.
//!
//! Tokens come from x509-parser's ASN.1 library; here they must also have the shortest tag and length there is. The depth
//! is the caller's code, so nothing can nest without end. Knows nothing of keys and devices.

use x509_parser::asn1_rs::{Any, Class, FromDer};

use crate::attest::Refused;

/// Universal tags that occur, by their names in X.680.
mod tag {
    pub(super) const BOOLEAN: u32 = 1;
    pub(super) const INTEGER: u32 = 2;
    pub(super) const OCTET_STRING: u32 = 4;
    pub(super) const NULL: u32 = 5;
    pub(super) const ENUMERATED: u32 = 10;
    pub(super) const SEQUENCE: u32 = 16;
    pub(super) const SET: u32 = 17;
}

/// What is refused: where, and nothing of the content.
pub fn malformed(what: &str) -> Refused {
    Refused::new("attestation_malformed", format!("the attestation extension is not the DER that is due: {what}"))
}

/// One value.
#[derive(Clone, Copy, Debug)]
pub struct Element<'a> {
    class: Class,
    constructed: bool,
    number: u32,
    content: &'a [u8],
}

/// What is left of a sequence's content.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Over these bytes.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next value, or nothing at the end.
    ///
    /// # Errors
    /// `attestation_malformed`.
    pub fn next_element(&mut self) -> Result<Option<Element<'a>>, Refused> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (rest, any) = Any::from_der(self.0).map_err(|_| malformed("a value cannot be read"))?;
        let header_bytes = self.0.len().saturating_sub(rest.len()).saturating_sub(any.data.len());
        if header_bytes != shortest_header(any.tag().0, any.data.len()) {
            return Err(malformed("a tag or length is not in its shortest form"));
        }
        self.0 = rest;
        let constructed = any.header.is_constructed();
        Ok(Some(Element { class: any.class(), constructed, number: any.tag().0, content: any.data }))
    }

    /// The next value, which must be there and of this universal type.
    ///
    /// # Errors
    /// `attestation_malformed`.
    fn expect(&mut self, number: u32) -> Result<Element<'a>, Refused> {
        let element = self.next_element()?.ok_or_else(|| malformed("a value is missing"))?;
        element.is(Class::Universal, number, matches!(number, tag::SEQUENCE | tag::SET))?;
        Ok(element)
    }

    /// That nothing follows.
    ///
    /// # Errors
    /// `attestation_malformed`.
    pub fn end(&self) -> Result<(), Refused> {
        if self.0.is_empty() { Ok(()) } else { Err(malformed("bytes stand behind the end")) }
    }

    /// The next value as a number that is not negative.
    ///
    /// # Errors
    /// `attestation_malformed`.
    pub fn unsigned(&mut self) -> Result<u64, Refused> {
        number(self.expect(tag::INTEGER)?.content)
    }

    /// The next value as a number of 32 bits.
    ///
    /// # Errors
    /// `attestation_malformed`.
    pub fn small(&mut self) -> Result<u32, Refused> {
        u32::try_from(self.unsigned()?).map_err(|_| malformed("a number is larger than 32 bits"))
    }

    /// The next value as one of an enumeration.
    ///
    /// # Errors
    /// `attestation_malformed`.
    pub fn enumerated(&mut self) -> Result<u64, Refused> {
        number(self.expect(tag::ENUMERATED)?.content)
    }

    /// The next value as bytes.
    ///
    /// # Errors
    /// `attestation_malformed`.
    pub fn bytes(&mut self) -> Result<&'a [u8], Refused> {
        Ok(self.expect(tag::OCTET_STRING)?.content)
    }

    /// The next value as yes or no.
    ///
    /// # Errors
    /// `attestation_malformed`.
    pub fn boolean(&mut self) -> Result<bool, Refused> {
        match self.expect(tag::BOOLEAN)?.content {
            [0xff] => Ok(true),
            [0] => Ok(false),
            _ => Err(malformed("a truth value is neither 0 nor 255")),
        }
    }

    /// The next value, which says only that it is there.
    ///
    /// # Errors
    /// `attestation_malformed`.
    pub fn null(&mut self) -> Result<(), Refused> {
        match self.expect(tag::NULL)?.content {
            [] => Ok(()),
            _ => Err(malformed("a null has content")),
        }
    }

    /// The content of the next value, which is a sequence.
    ///
    /// # Errors
    /// `attestation_malformed`.
    pub fn sequence(&mut self) -> Result<Self, Refused> {
        Ok(Self(self.expect(tag::SEQUENCE)?.content))
    }

    /// The content of the next value, which is a set.
    ///
    /// # Errors
    /// `attestation_malformed`.
    pub fn set(&mut self) -> Result<Self, Refused> {
        Ok(Self(self.expect(tag::SET)?.content))
    }

    /// Numbers of a set, no more than 32 of them.
    ///
    /// # Errors
    /// `attestation_malformed`.
    pub fn set_of_small(&mut self) -> Result<Vec<u32>, Refused> {
        const MEMBERS_MAX: usize = 32;
        let mut set = self.set()?;
        let mut members = Vec::new();
        while !set.0.is_empty() {
            if members.len() == MEMBERS_MAX {
                return Err(malformed("a set has more than 32 members"));
            }
            members.push(set.small()?);
        }
        Ok(members)
    }
}

impl<'a> Element<'a> {
    fn is(&self, class: Class, number: u32, constructed: bool) -> Result<(), Refused> {
        if self.class == class && self.number == number && self.constructed == constructed {
            return Ok(());
        }
        Err(malformed("a value is of another type"))
    }

    /// Number and content of an explicitly tagged member, `[n] EXPLICIT`.
    ///
    /// # Errors
    /// `attestation_malformed`.
    pub fn tagged(&self) -> Result<(u32, Reader<'a>), Refused> {
        self.is(Class::ContextSpecific, self.number, true)?;
        Ok((self.number, Reader(self.content)))
    }
}

fn number(content: &[u8]) -> Result<u64, Refused> {
    let significant = match content {
        [] => return Err(malformed("a number is empty")),
        [0, second, ..] if *second < 0x80 => return Err(malformed("a number is not in its shortest form")),
        [0, rest @ ..] => rest,
        [first, ..] if *first >= 0x80 => return Err(malformed("a number is negative")),
        all => all,
    };
    if significant.len() > 8 {
        return Err(malformed("a number is larger than 64 bits"));
    }
    Ok(significant.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)))
}

/// Bytes of tag and length in the one form that DER allows (X.690, sections 8.1.2 and 10.1).
fn shortest_header(number: u32, length: usize) -> usize {
    let digits = |value: u64, bits: u32| (u64::BITS - value.leading_zeros()).div_ceil(bits) as usize;
    let tag = if number < 31 { 1 } else { 1 + digits(u64::from(number), 7) };
    let length = length as u64;
    tag + if length < 128 { 1 } else { 1 + digits(length, 8) }
}
