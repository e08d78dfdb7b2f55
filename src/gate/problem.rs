//! Refusals as RFC 9457 problem documents. The caller gets the stable code and a sentence; the log gets the cause.

use hyper::body::Bytes;
use serde_json::{Map, Value, json};

use super::dpop::{INVALID_DPOP_PROOF, USE_DPOP_NONCE};
use crate::kernel::{Error, Kind, Refusal};

/// The HTTP status of each kind.
pub const fn status_of(kind: Kind) -> u16 {
    match kind {
        Kind::Malformed => 400,
        Kind::Unauthenticated => 401,
        Kind::PaymentRequired => 402,
        Kind::Forbidden => 403,
        Kind::NotFound => 404,
        Kind::Conflict => 409,
        Kind::Invalid => 422,
        Kind::Locked => 423,
        Kind::RateLimited => 429,
        Kind::Unavailable => 503,
    }
}

/// A problem before it gets its request id.
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// The refusal.
    pub refusal: Box<Refusal>,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
}

impl Problem {
    /// A refusal with a status that no [`Kind`] has (405, 413, 415, 426).
    pub fn with_status(status: u16, code: &'static str, detail: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self { status, refusal: Box::new(Refusal::new(Kind::Malformed, code, detail)), headers: Vec::new() }
    }

    /// A further header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The document.
    pub fn body(&self, request_id: &str) -> Bytes {
        let members = members(self.status, &self.refusal, request_id);
        Bytes::from(Value::Object(members).to_string())
    }
}

/// The members of a problem document; also what a socket answers.
pub fn members(status: u16, refusal: &Refusal, request_id: &str) -> Map<String, Value> {
    let mut members = refusal.extra.as_deref().cloned().unwrap_or_default();
    members.insert("type".to_owned(), format!("urn:blockremote:problem:{}", refusal.code).into());
    members.insert("title".to_owned(), title_of(status).into());
    members.insert("status".to_owned(), status.into());
    members.insert("detail".to_owned(), refusal.detail.as_ref().into());
    members.insert("code".to_owned(), refusal.code.into());
    members.insert("request_id".to_owned(), request_id.into());
    if !refusal.fields.is_empty() {
        let errors = refusal.fields.iter().map(|f| json!({ "pointer": f.pointer, "detail": f.detail })).collect();
        members.insert("errors".to_owned(), Value::Array(errors));
    }
    if let Some(seconds) = refusal.retry_after_s {
        members.insert("retry_after".to_owned(), seconds.into());
    }
    members
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let refusal = match error {
            Error::Refused(refusal) => refusal,
            Error::OutcomeUnknown => {
                let detail = "The disk failed while this was written; it may or may not have taken effect. Ask again after the restart.";
                Box::new(Refusal::new(Kind::Unavailable, "outcome_unknown", detail).retry_after_s(10))
            }
            Error::Internal(cause) => {
                tracing::error!(cause, "a request failed by a defect or a broken machine");
                let mut problem = Self::with_status(
                    500,
                    "internal",
                    "Something failed inside the appliance. The operator's log has the cause.",
                );
                problem.refusal.kind = Kind::Unavailable;
                return problem;
            }
        };
        let mut headers = Vec::new();
        if refusal.kind == Kind::Unauthenticated {
            headers.push(("www-authenticate", challenge(refusal.code)));
        }
        if let Some(seconds) = refusal.retry_after_s {
            headers.push(("retry-after", seconds.to_string()));
        }
        Self { status: status_of(refusal.kind), refusal, headers }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Error::from(refusal).into()
    }
}

/// What a client that got 401 is to come back with (RFC 9110, section 11.6.1; RFC 9449, section 7.1).
fn challenge(code: &str) -> String {
    match code {
        USE_DPOP_NONCE | INVALID_DPOP_PROOF => {
            format!("DPoP realm=\"blockremote\", error=\"{code}\", algs=\"ES256\"")
        }
        _ => "Bearer realm=\"blockremote\"".to_owned(),
    }
}

const fn title_of(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Content",
        423 => "Locked",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}
