//! Cross-origin reads by pages of configured origins (Fetch standard, CORS protocol). Without configuration: nothing.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY};
use hyper::{Method, Request, Response, StatusCode};

/// What a page may see beside the few headers that every page may.
const EXPOSED: &str = "X-Request-Id, Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, \
                       RateLimit, RateLimit-Policy, X-Plan-Tier, X-Anonymous-Token, DPoP-Nonce";
const ALLOWED_HEADERS: &str =
    "Authorization, Content-Type, DPoP, Idempotency-Key, X-Anonymous-Token, X-API-Key, X-Request-Id, traceparent";
const ALLOWED_METHODS: &str = "GET, POST, PUT, PATCH, DELETE";

fn allowed(origins: &[String], origin: &HeaderValue) -> bool {
    origin.to_str().is_ok_and(|o| origins.iter().any(|allowed| allowed == o))
}

/// The answer to a preflight of an allowed origin; any other OPTIONS is a method like others, and no route knows it.
pub(super) fn preflight(origins: &[String], request: &Request<Incoming>) -> Option<Response<Full<Bytes>>> {
    let origin = request.headers().get(ORIGIN)?;
    let asks = request.headers().contains_key("access-control-request-method");
    if request.method() != Method::OPTIONS || !asks || !allowed(origins, origin) {
        return None;
    }
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    expose(origins, Some(origin), headers);
    for (name, value) in [
        ("access-control-allow-methods", ALLOWED_METHODS),
        ("access-control-allow-headers", ALLOWED_HEADERS),
        ("access-control-max-age", "600"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    Some(response)
}

/// Lets a page of an allowed origin read the answer.
pub(super) fn expose(origins: &[String], origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    let Some(origin) = origin.filter(|o| allowed(origins, o)) else { return };
    headers.insert("access-control-allow-origin", origin.clone());
    headers.insert("access-control-expose-headers", HeaderValue::from_static(EXPOSED));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("cross-origin"));
    headers.append(VARY, HeaderValue::from_static("Origin"));
}
