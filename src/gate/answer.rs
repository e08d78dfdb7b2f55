//! What a handler gives back.

use std::borrow::Cow;

use hyper::body::Bytes;
use serde::Serialize;

use crate::kernel::{Error, Result};

/// A handler's answer of a known type; its status of success stands in the route table.
pub struct Reply<T> {
    body: Content<T>,
    status: Option<u16>,
    headers: Vec<(&'static str, String)>,
}

enum Content<T> {
    Nothing,
    Json(T),
    Raw(Cow<'static, str>, Bytes),
}

impl<T> Reply<T> {
    const fn of(body: Content<T>) -> Self {
        Self { body, status: None, headers: Vec::new() }
    }

    /// With a JSON body.
    pub const fn new(body: T) -> Self {
        Self::of(Content::Json(body))
    }

    /// Without a body.
    pub const fn empty() -> Self {
        Self::of(Content::Nothing)
    }

    /// With bytes of another media type.
    pub fn raw(content_type: impl Into<Cow<'static, str>>, body: impl Into<Bytes>) -> Self {
        Self::of(Content::Raw(content_type.into(), body.into()))
    }

    /// Another status than the table's.
    #[must_use]
    pub const fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// A further header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl<T: Serialize> Reply<T> {
    /// Encodes the body.
    pub fn into_answer(self, status: u16) -> Result<Answer> {
        let (content_type, body) = match self.body {
            Content::Nothing => (Cow::Borrowed(""), Bytes::new()),
            Content::Json(body) => {
                (Cow::Borrowed("application/json"), Bytes::from(serde_json::to_vec(&body).map_err(Error::internal)?))
            }
            Content::Raw(content_type, body) => (content_type, body),
        };
        Ok(Answer { status: self.status.unwrap_or(status), content_type, body, headers: self.headers })
    }
}

/// An encoded answer.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Empty where there is no body.
    pub content_type: Cow<'static, str>,
    /// The body.
    pub body: Bytes,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
}

/// Declares the body of a list: `{"data": [...], "next_cursor": null | "..."}`.
#[macro_export]
macro_rules! list_of {
    ($(#[$doc:meta])* $name:ident of $item:ty) => {
        $(#[$doc])*
        #[derive(serde::Serialize, utoipa::ToSchema)]
        pub struct $name {
            /// The page.
            pub data: Vec<$item>,
            /// Give it back as `cursor` for the next page; null at the end.
            pub next_cursor: Option<String>,
        }
    };
}
