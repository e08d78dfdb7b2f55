//! From an answer or a problem to an HTTP response, and the headers that every response bears.

use std::borrow::Cow;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::answer::Answer;
use super::problem::Problem;
use crate::kernel::rate::Decision;

pub(super) fn respond(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    match answer.content_type {
        Cow::Borrowed("") => {}
        Cow::Borrowed(known) => drop(headers.insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static(known))),
        Cow::Owned(other) => append(headers, vec![("content-type", other)]),
    }
    append(headers, answer.headers);
    response
}

pub(super) fn render(problem: &Problem, request_id: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(problem.body(request_id)));
    *response.status_mut() = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    append(headers, problem.headers.clone());
    response
}

fn append(headers: &mut HeaderMap, more: Vec<(&'static str, String)>) {
    for (name, value) in more {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
}

pub(super) fn rate_headers(headers: &mut HeaderMap, rate: &Decision) {
    let (limit, window_s) = (rate.quota.limit, rate.quota.window.as_secs());
    headers.insert(HeaderName::from_static("x-ratelimit-limit"), limit.into());
    headers.insert(HeaderName::from_static("x-ratelimit-remaining"), rate.remaining.into());
    headers.insert(HeaderName::from_static("x-ratelimit-reset"), rate.reset_s.into());
    let policy = format!("\"default\";q={limit};w={window_s}");
    let state = format!("\"default\";r={};t={}", rate.remaining, rate.reset_s);
    for (name, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// On every response.
pub(super) fn standing_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("strict-transport-security", "max-age=63072000; includeSubDomains"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("x-xss-protection", "0"),
        ("referrer-policy", "no-referrer"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
        (
            "permissions-policy",
            "accelerometer=(), camera=(), geolocation=(), gyroscope=(), microphone=(), payment=(), usb=()",
        ),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-embedder-policy", "require-corp"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers
}
