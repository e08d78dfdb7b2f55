//! From bytes to a request type, strictly, with a JSON pointer for everything that is wrong.
//!
//! The fast way is one typed parse. Only when that fails is the body looked at again, member by member, to say what is
//! wrong with it: what is not JSON is 400, what is JSON but not the wanted thing is 422.

use hyper::body::Bytes;
use serde::de::DeserializeOwned;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::params::Params;
use super::route::Doc;
use super::schema::{self, Validate};
use crate::domains::devices::Device;
use crate::kernel::error::FieldError;
use crate::kernel::ids::DeviceId;
use crate::kernel::{Error, Kind, Refusal, Result};

/// What the pipeline hands to an endpoint.
pub struct Input {
    /// The body; empty where the route takes none.
    pub body: Bytes,
    /// The query string without its question mark.
    pub query: String,
}

/// A type that stands in the documents.
pub trait Body {
    /// Its schema.
    const DOC: Doc;
}

impl<T: ToSchema> Body for T {
    const DOC: Doc = Doc {
        name: Some(|| T::name().into_owned()),
        schema: <T as PartialSchema>::schema,
        collect: |out| {
            out.push((T::name().into_owned(), T::schema()));
            T::schemas(out);
        },
    };
}

/// What an endpoint takes.
pub trait FromRequest: Sized {
    /// The body that is expected.
    const DOC: Doc;
    /// Query parameters: name and meaning.
    const QUERY: &'static [(&'static str, &'static str)];
    /// Parses.
    fn from_request(input: &Input) -> Result<Self>;
    /// The device that the request names, which must be the caller's.
    fn device_id(&self) -> Option<&DeviceId> {
        None
    }
    /// Rules that depend on the device that calls.
    fn validate_for(&self, _device: &Device, _wrong: &mut Vec<FieldError>) {}
}

const NO_BODY: Doc = Doc { name: None, schema: || RefOr::T(Schema::default()), collect: |_| {} };

/// Nothing is taken.
pub struct Nothing;

impl FromRequest for Nothing {
    const DOC: Doc = NO_BODY;
    const QUERY: &'static [(&'static str, &'static str)] = &[];
    fn from_request(_: &Input) -> Result<Self> {
        Ok(Self)
    }
}

/// The query string is taken.
impl<P: Params> FromRequest for super::params::Query<P> {
    const DOC: Doc = NO_BODY;
    const QUERY: &'static [(&'static str, &'static str)] = P::NAMES;
    fn from_request(input: &Input) -> Result<Self> {
        super::params::parse(&input.query).map(Self)
    }
    fn device_id(&self) -> Option<&DeviceId> {
        self.0.device_id()
    }
}

/// A JSON body is taken.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned + ToSchema + Validate> FromRequest for Json<T> {
    const DOC: Doc = <T as Body>::DOC;
    const QUERY: &'static [(&'static str, &'static str)] = &[];
    fn from_request(input: &Input) -> Result<Self> {
        parse(&input.body).map(Self)
    }
    fn device_id(&self) -> Option<&DeviceId> {
        self.0.device_id()
    }
    fn validate_for(&self, device: &Device, wrong: &mut Vec<FieldError>) {
        self.0.validate_for(device, wrong);
    }
}

/// A JSON body is taken as the bytes that came; the handler parses them, once it checked a signature or by a standard's
/// own rules.
pub struct Raw<T>(pub Bytes, pub std::marker::PhantomData<T>);

impl<T: ToSchema> FromRequest for Raw<T> {
    const DOC: Doc = <T as Body>::DOC;
    const QUERY: &'static [(&'static str, &'static str)] = &[];
    fn from_request(input: &Input) -> Result<Self> {
        Ok(Self(input.body.clone(), std::marker::PhantomData))
    }
}

/// Parses and validates a JSON text of this type.
pub fn parse<T: DeserializeOwned + ToSchema + Validate>(text: &[u8]) -> Result<T> {
    match serde_json::from_slice::<T>(text) {
        Ok(value) => {
            let mut fields = Vec::new();
            value.validate(&mut fields);
            if fields.is_empty() { Ok(value) } else { Err(invalid(fields)) }
        }
        Err(e) => Err(explain::<T>(text, &e)),
    }
}

/// At most this many members are named; a body made of nothing but mistakes must not be answered at length.
const FIELDS_NAMED_MAX: usize = 32;

pub(super) fn invalid(mut fields: Vec<FieldError>) -> Error {
    fields.truncate(FIELDS_NAMED_MAX);
    let detail = "The request has members that are not acceptable; see errors.";
    Refusal { fields, ..Refusal::new(Kind::Invalid, "invalid_request", detail) }.into()
}

fn explain<T: DeserializeOwned + ToSchema + Validate>(text: &[u8], first: &serde_json::Error) -> Error {
    let value = match serde_json::from_slice::<serde_json::Value>(text) {
        Ok(value) => value,
        // A number like 1e999 is JSON, but no number of ours: it is named, not called malformed.
        Err(e) if e.to_string().starts_with("number out of range") => {
            return invalid(vec![FieldError {
                pointer: path_of::<serde_json::Value>(text),
                detail: "is out of range".to_owned(),
            }]);
        }
        Err(e) => {
            let detail = format!("The body is not JSON (line {}, column {}).", e.line(), e.column());
            return Refusal::new(Kind::Malformed, "malformed_json", detail).into();
        }
    };
    let mut fields = schema::violations::<T>(&value);
    if fields.is_empty() {
        // The schema has no word for it (a member given twice, a value of a finer rule): the parser's own.
        fields.push(FieldError { pointer: path_of::<T>(text), detail: plain(first) });
    }
    invalid(fields)
}

/// The JSON pointer at which a parse of `text` as `T` fails.
fn path_of<T: DeserializeOwned>(text: &[u8]) -> String {
    let mut parser = serde_json::Deserializer::from_slice(text);
    match serde_path_to_error::deserialize::<_, T>(&mut parser) {
        Ok(_) => String::new(),
        Err(e) => e.path().iter().fold(String::new(), |mut pointer, segment| {
            use serde_path_to_error::Segment::{Enum, Map, Seq, Unknown};
            match segment {
                Seq { index } => schema::push(&mut pointer, &index.to_string()),
                Map { key } => schema::push(&mut pointer, key),
                Enum { .. } | Unknown => {}
            }
            pointer
        }),
    }
}

/// The parser's sentence without its position, which the pointer says better.
fn plain(e: &serde_json::Error) -> String {
    let text = e.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}
