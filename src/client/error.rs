//! What can go wrong on the way to the appliance, in words for the person who started the client.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::crypto::strict_json;

/// Characters of a detail that are kept.
const DETAIL_LEN_MAX: usize = 500;

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address cannot be used.
    #[error("{0:?} is not an address like https://localhost:8443")]
    BadUrl(String),
    /// The certificate authority cannot be read.
    #[error("the certificate authority {path} cannot be used: {cause}")]
    BadCa {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// Nobody answers there.
    #[error("nothing answers at {authority}: {cause}")]
    Unreachable {
        /// Host and port.
        authority: String,
        /// Why.
        cause: String,
    },
    /// Somebody answers who does not prove to be the appliance.
    #[error("{authority} does not prove to be the appliance: {cause}")]
    Untrusted {
        /// Host and port.
        authority: String,
        /// Why.
        cause: String,
    },
    /// No answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The connection broke; whether the request was carried out is not known.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The answer is not what the contract promises.
    #[error("the answer is not as the contract has it: {0}")]
    Unexpected(String),
    /// The server said no.
    #[error(transparent)]
    Problem(Box<Problem>),
}

impl ClientError {
    /// The server's own refusal, where that is what it was.
    pub fn problem(&self) -> Option<&Problem> {
        if let Self::Problem(problem) = self { Some(problem) } else { None }
    }
}

/// A refusal by the server (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status} {code}: {detail}")]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// Stable and snake_case; `http_<status>` where the answer had none.
    pub code: String,
    /// For people, at most 500 characters.
    pub detail: String,
    /// When another try makes sense.
    pub retry_after: Option<Duration>,
}

impl Problem {
    /// Reads a problem document. What cannot be understood becomes a problem of that status without a detail: a proxy
    /// in between may answer anything. `retry_after` is the header's value, which counts where the body has none.
    pub fn parse(status: u16, body: &[u8], retry_after: Option<&str>) -> Self {
        let members = strict_json::parse_object(body).unwrap_or_default();
        let header_s = retry_after.and_then(|v| v.trim().parse::<u64>().ok());
        let mut problem = Self::from_members(&members, status);
        problem.retry_after = problem.retry_after.or(header_s.map(bounded_s));
        problem
    }

    /// Reads the members of a problem, as a socket's `error` frame has them; `status` where they name none.
    pub fn from_members(members: &serde_json::Map<String, Value>, status: u16) -> Self {
        let status = members.get("status").and_then(Value::as_u64).and_then(|s| s.try_into().ok()).unwrap_or(status);
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        let cut = |text: &str| text.chars().take(DETAIL_LEN_MAX).collect::<String>();
        let mut detail = text("detail").or_else(|| text("title")).map(cut).unwrap_or_default();
        // The first member at fault helps most; the rest is in the server's answer for whoever needs it.
        let errors = members.get("errors").and_then(Value::as_array);
        if let Some(fault) = errors.and_then(|e| e.first()) {
            let part = |name: &str| fault.get(name).and_then(Value::as_str).unwrap_or_default();
            detail = cut(&format!("{detail} ({} {})", part("pointer"), part("detail")));
        }
        let code = text("code").map_or_else(|| format!("http_{status}"), |c| c.chars().take(64).collect());
        let retry_after = members.get("retry_after").and_then(Value::as_u64).map(bounded_s);
        Self { status, code, detail, retry_after }
    }
}

/// A day is as good as never, and keeps sums of durations from overflowing.
fn bounded_s(seconds: u64) -> Duration {
    Duration::from_secs(seconds.min(86_400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_document_becomes_a_sentence_and_a_time_to_wait() {
        let body = br#"{"type":"about:blank","status":422,"code":"invalid_request","detail":"See errors.",
            "errors":[{"pointer":"/readings/0/accelerometer","detail":"is missing"}]}"#;
        let problem = Problem::parse(422, body, None);
        assert_eq!(problem.code, "invalid_request");
        assert_eq!(problem.to_string(), "422 invalid_request: See errors. (/readings/0/accelerometer is missing)");
        let limited = Problem::parse(429, br#"{"code":"rate_limited","detail":"x","retry_after":7}"#, Some("9"));
        assert_eq!(limited.retry_after, Some(Duration::from_secs(7)));
    }

    /// Between a device and the appliance may stand a proxy that answers whatever it likes.
    #[test]
    fn an_answer_that_is_no_problem_document_is_still_a_problem() {
        for body in [&b""[..], b"<html>", b"[]", b"{\"code\":1}", b"{\"code\":\"a\",\"code\":\"b\"}", &[0xff; 9]] {
            let problem = Problem::parse(503, body, Some("30"));
            assert_eq!((problem.status, problem.code.as_str()), (503, "http_503"));
            assert_eq!(problem.retry_after, Some(Duration::from_secs(30)));
        }
        let endless = Problem::parse(503, b"{}", Some("18446744073709551615"));
        assert_eq!(endless.retry_after, Some(Duration::from_secs(86_400)));
        let long = format!(r#"{{"detail":"{}"}}"#, "x".repeat(5_000));
        assert_eq!(Problem::parse(500, long.as_bytes(), None).detail.len(), 500);
    }
}
