//! The query string: every name known, none twice, values decoded.

use crate::kernel::error::FieldError;
use crate::kernel::ids::DeviceId;
use crate::kernel::{Kind, Refusal, Result, limits};

/// What a route takes from its query string.
pub trait Params: Sized {
    /// Name and meaning of each.
    const NAMES: &'static [(&'static str, &'static str)];
    /// Reads the values; what is wrong is added.
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self;
    /// The device that the request names, which must be the caller's.
    fn device_id(&self) -> Option<&DeviceId> {
        None
    }
}

/// The query string is taken.
pub struct Query<P>(pub P);

/// Decoded values by name.
pub struct Values(Vec<(String, String)>);

impl Values {
    /// The text under a name.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The value under a name, read as a type; a bad one is added to `wrong`.
    pub fn parse<T: std::str::FromStr>(&self, name: &str, wrong: &mut Vec<FieldError>) -> Option<T>
    where
        T::Err: std::fmt::Display,
    {
        match self.text(name)?.parse() {
            Ok(value) => Some(value),
            Err(e) => {
                wrong.push(FieldError { pointer: format!("?{name}"), detail: e.to_string() });
                None
            }
        }
    }

    /// `limit`, 1 to 200, 50 when absent.
    pub fn limit(&self, wrong: &mut Vec<FieldError>) -> usize {
        let Some(text) = self.text("limit") else { return limits::PAGE_DEFAULT };
        match text.parse() {
            Ok(limit) if (1..=limits::PAGE_MAX).contains(&limit) => limit,
            _ => {
                let detail = format!("must be a number from 1 to {}", limits::PAGE_MAX);
                wrong.push(FieldError { pointer: "?limit".to_owned(), detail });
                limits::PAGE_DEFAULT
            }
        }
    }
}

const PAIRS_MAX: usize = 32;

/// Parses a query string.
pub fn parse<P: Params>(query: &str) -> Result<P> {
    let mut wrong = Vec::new();
    let mut values = Values(Vec::new());
    for pair in query.split('&').filter(|p| !p.is_empty()).take(PAIRS_MAX) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(name), Some(value)) = (decode(name), decode(value)) else {
            wrong.push(FieldError { pointer: "?".to_owned(), detail: "is not percent-encoded UTF-8".to_owned() });
            continue;
        };
        let mut refuse =
            |detail: &str| wrong.push(FieldError { pointer: format!("?{name}"), detail: detail.to_owned() });
        if !P::NAMES.iter().any(|(known, _)| *known == name) {
            refuse("is not a parameter of this request");
        } else if values.text(&name).is_some() {
            refuse("was given twice");
        } else {
            values.0.push((name, value));
        }
    }
    let params = P::read(&values, &mut wrong);
    if wrong.is_empty() {
        return Ok(params);
    }
    let detail = "The query has parameters that are not acceptable; see errors.";
    Err(Refusal { fields: wrong, ..Refusal::new(Kind::Invalid, "invalid_request", detail) }.into())
}

/// Percent-decodes; `None` for a broken escape or what is not UTF-8.
pub fn decode(text: &str) -> Option<String> {
    if !text.contains(['%', '+']) {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'+' => b' ',
            b'%' => {
                let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(out).ok()
}
