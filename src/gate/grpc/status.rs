//! How a call ends: a status of gRPC for what is a status of HTTP elsewhere, with the same code and sentence.
//!
//! docs/grpc.md has the table.

use base64ct::{Base64Unpadded, Encoding};
use hyper::Response;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use tonic::{Code, Status};
use tracing::Span;

use super::body::GrpcBody;
use crate::gate::problem::Problem;
use crate::gate::spans;
use crate::kernel::error::FieldError;
use crate::kernel::{Error, Kind, Refusal};

/// Members at fault that are named: metadata is small.
const FIELDS_NAMED_MAX: usize = 8;

/// How a call ended, or why it was refused.
pub struct Ended {
    pub status: Code,
    /// What the same would be over HTTP.
    pub http_status: u16,
    /// Stable, snake_case; `ok` when nothing went wrong.
    pub code: &'static str,
    pub detail: String,
    pub retry_after_s: Option<u64>,
    pub fields: Vec<FieldError>,
}

impl Ended {
    pub fn well() -> Self {
        Self {
            status: Code::Ok,
            http_status: 200,
            code: "ok",
            detail: String::new(),
            retry_after_s: None,
            fields: Vec::new(),
        }
    }

    /// Says in a span how it went.
    pub fn tell(&self, span: &Span) {
        spans::tell_status(span, "rpc.grpc.status_code", self.status as i64, self.http_status >= 500);
    }

    /// An end that has no counterpart over HTTP.
    pub fn new(status: Code, code: &'static str, detail: impl Into<String>) -> Self {
        let http_status = match status {
            Code::Ok => 200,
            Code::Unimplemented => 404,
            Code::DeadlineExceeded | Code::Cancelled => 408,
            Code::ResourceExhausted => 429,
            Code::Unavailable => 503,
            Code::Internal => 500,
            _ => 400,
        };
        Self { http_status, ..Self { status, code, detail: detail.into(), ..Self::well() } }
    }

    /// Whether it is about who calls and not about what was sent: a stream ends with it.
    pub fn concerns_the_caller(&self) -> bool {
        // Too much at once, or no room for now: the next message may find it better, and a stream that ended would come
        // back with a whole handshake.
        let passes = matches!(self.code, "overloaded" | "read_only");
        matches!(self.http_status, 401 | 402 | 423 | 503 | 500) && !passes || self.code == "tenant_suspended"
    }

    /// The last metadata of a call.
    pub fn trailers(&self, request_id: &str) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        if Status::new(self.status, self.detail.as_str()).add_header(&mut trailers).is_err() {
            trailers.insert("grpc-status", HeaderValue::from(self.status as i32));
        }
        if self.status == Code::Ok {
            return trailers;
        }
        trailers.insert("blockremote-code", HeaderValue::from_static(self.code));
        if let Ok(id) = HeaderValue::from_str(request_id) {
            trailers.insert("x-request-id", id);
        }
        if let Some(seconds) = self.retry_after_s {
            trailers.insert("retry-after", seconds.into());
        }
        let problem = serde_json::json!({
            "status": self.http_status,
            "code": self.code,
            "detail": self.detail,
            "request_id": request_id,
            "errors": self.fields.iter().take(FIELDS_NAMED_MAX)
                .map(|f| serde_json::json!({ "pointer": f.pointer, "detail": f.detail }))
                .collect::<Vec<_>>(),
        });
        let packed = Base64Unpadded::encode_string(problem.to_string().as_bytes());
        if let Ok(value) = HeaderValue::try_from(packed) {
            trailers.insert(HeaderName::from_static("blockremote-problem-bin"), value);
        }
        trailers
    }
}

/// The status of gRPC that stands for one of HTTP.
pub const fn code_of(http_status: u16) -> Code {
    match http_status {
        200..=299 => Code::Ok,
        400 | 415 | 422 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        402 | 423 => Code::FailedPrecondition,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        405 => Code::Unimplemented,
        408 => Code::DeadlineExceeded,
        409 => Code::Aborted,
        413 | 429 => Code::ResourceExhausted,
        503 => Code::Unavailable,
        _ => Code::Internal,
    }
}

impl From<Problem> for Ended {
    fn from(problem: Problem) -> Self {
        let Refusal { code, detail, fields, retry_after_s, .. } = *problem.refusal;
        Self {
            status: code_of(problem.status),
            http_status: problem.status,
            code,
            detail: detail.into_owned(),
            retry_after_s,
            fields,
        }
    }
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Problem::from(error).into()
    }
}

/// What the reader of messages says: too large, not gzip, cut off.
impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        let (code, name, detail) = match status.code() {
            Code::OutOfRange | Code::ResourceExhausted => {
                let problem =
                    Problem::with_status(413, "body_too_large", "The message is larger than its method takes.");
                return problem.into();
            }
            Code::InvalidArgument | Code::Internal => {
                let detail = "The message is not what proto/signals.proto says, or is cut off or wrongly compressed.";
                return Problem::from(Refusal::new(Kind::Malformed, "malformed_message", detail)).into();
            }
            Code::Cancelled => (Code::Cancelled, "cancelled", "The client gave up."),
            code => (code, "broken_stream", "The connection broke."),
        };
        Self::new(code, name, detail)
    }
}

pub fn too_late() -> Ended {
    Ended::new(Code::DeadlineExceeded, "deadline_exceeded", "The time for this call is over.")
}

pub fn too_slow() -> Ended {
    Ended::new(Code::DeadlineExceeded, "message_timeout", "The message did not arrive in time.")
}

/// An answer without messages.
pub fn answer_only(mut metadata: HeaderMap, ended: &Ended, request_id: &str) -> Response<GrpcBody> {
    metadata.extend(ended.trailers(request_id));
    let mut response = Response::new(GrpcBody::empty());
    *response.headers_mut() = metadata;
    response
}
