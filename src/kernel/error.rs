//! How a use case says no. One sentence for the caller, a cause for the operator, never a secret for either.

use std::borrow::Cow;

/// What every use case returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of a refusal; the edge maps each to one HTTP status, one WebSocket answer, one gRPC code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// What was sent is not of the format at all (400).
    Malformed,
    /// No credentials, or bad ones (401).
    Unauthenticated,
    /// Trial over and nothing paid (402).
    PaymentRequired,
    /// Known, and not allowed (403).
    Forbidden,
    /// Absent, or another tenant's: the same answer (404).
    NotFound,
    /// Against the present state (409).
    Conflict,
    /// Well-formed, and not acceptable (422).
    Invalid,
    /// The device is blocked (423).
    Locked,
    /// Too often (429).
    RateLimited,
    /// Not now: a queue is full, a part is degraded, shutting down (503).
    Unavailable,
}

/// A refusal: what the caller is told.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// Decides the status.
    pub kind: Kind,
    /// Stable, snake_case; clients branch on it.
    pub code: &'static str,
    /// One or two sentences for a person: what happened and what to do next.
    pub detail: Cow<'static, str>,
    /// The members at fault, where there are any.
    pub fields: Vec<FieldError>,
    /// When another try makes sense.
    pub retry_after_s: Option<u64>,
    /// Further members of the problem document, such as the billing state of a 402.
    pub extra: Option<Box<serde_json::Map<String, serde_json::Value>>>,
}

/// One member of the request that is at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) into the body, or `?name` for a query parameter.
    pub pointer: String,
    /// What is wrong with it and what is allowed.
    pub detail: String,
}

impl Refusal {
    /// A refusal without fields.
    pub fn new(kind: Kind, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, code, detail: detail.into(), fields: Vec::new(), retry_after_s: None, extra: None }
    }

    /// Absent or another tenant's: one answer, so that nobody learns which.
    pub fn not_found() -> Self {
        Self::new(Kind::NotFound, "not_found", "There is nothing here under this name.")
    }

    /// One member of the body or query is not acceptable.
    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let field = FieldError { pointer: pointer.into(), detail: detail.into() };
        let mut refusal =
            Self::new(Kind::Invalid, "invalid_request", "The request has members that are not acceptable; see errors.");
        refusal.fields.push(field);
        refusal
    }

    /// Says when another try makes sense.
    #[must_use]
    pub fn retry_after_s(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }
}

/// Why a use case did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A rule said no. Nothing was changed.
    #[error(transparent)]
    Refused(#[from] Box<Refusal>),
    /// The commit's fate is not known: the change may be there after the restart. 503 `outcome_unknown`.
    #[error("the outcome of the commit is unknown")]
    OutcomeUnknown,
    /// A defect or a broken machine; the text is for the operator's log only. 500 `internal`.
    #[error("{0}")]
    Internal(String),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl Error {
    /// A defect or a broken machine; the text goes to the log and never to the caller.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        Self::Internal(cause.to_string())
    }
}
