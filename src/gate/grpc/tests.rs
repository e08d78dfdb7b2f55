//! The table of methods against the table of routes, and what a client may ask for in its metadata.

#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::gate::Door;
use crate::gate::routes::ROUTES;

#[test]
fn each_row_of_grpc_is_a_method_of_the_published_files_and_the_other_way_round() {
    let rows: Vec<&str> = ROUTES.iter().filter(|r| r.door == Door::Grpc).map(|r| r.path).collect();
    let methods: Vec<&str> = METHODS.iter().map(|(path, _)| *path).collect();
    assert_eq!(rows, methods);
    let published: Vec<&str> = proto::FILES.iter().flat_map(|f| f.symbols).copied().collect();
    for path in rows {
        let symbol = path.trim_start_matches('/').replace('/', ".");
        assert!(published.contains(&symbol.as_str()), "{symbol} in {published:?}");
    }
}

#[test]
fn a_deadline_is_the_clients_within_ours() {
    let most = Duration::from_secs(30);
    for (given, expected) in [
        (None, Some(most)),
        (Some("5S"), Some(Duration::from_secs(5))),
        (Some("250m"), Some(Duration::from_millis(250))),
        (Some("99999999H"), Some(most)),
        (Some("0n"), Some(Duration::ZERO)),
        (Some(""), None),
        (Some("S"), None),
        (Some("5"), None),
        (Some("5s"), None),
        (Some("-5S"), None),
        (Some("123456789S"), None),
        (Some("5µ"), None),
    ] {
        let mut headers = HeaderMap::new();
        if let Some(given) = given {
            headers.insert("grpc-timeout", HeaderValue::from_bytes(given.as_bytes()).unwrap());
        }
        assert_eq!(deadline(&headers, most).ok(), expected, "{given:?}");
    }
}

/// One moment of too much ended every stream that sent just then, and each came back with a whole handshake.
#[test]
fn what_passes_is_told_in_an_answer_and_what_concerns_the_device_ends_its_stream() {
    use crate::kernel::{Error, Kind, Refusal};
    for (kind, code, ends) in [
        (Kind::Unavailable, "overloaded", false),
        (Kind::Unavailable, "read_only", false),
        (Kind::RateLimited, "rate_limited", false),
        (Kind::Invalid, "invalid_request", false),
        (Kind::Unavailable, "shutting_down", true),
        (Kind::Unauthenticated, "unauthenticated", true),
        (Kind::PaymentRequired, "trial_expired", true),
    ] {
        let ended = Ended::from(Error::from(Refusal::new(kind, code, "")));
        assert_eq!(ended.concerns_the_caller(), ends, "{code}");
    }
    assert!(Ended::from(Error::OutcomeUnknown).concerns_the_caller(), "its fate is not known");
}

/// A command counted as sent while it still waited for a client that read nothing.
#[tokio::test]
async fn a_message_is_fetched_when_the_connection_takes_it() {
    use hyper::body::Body as _;
    let (mut body, mut out) = GrpcBody::coming(false);
    let frame = proto::signals::CommandFrame { frame: "{}".to_owned() };
    assert!(out.send_marked(&frame, 7).await.is_ok());
    let waiting = tokio::time::timeout(Duration::from_millis(20), out.fetched()).await;
    assert!(waiting.is_err(), "it waits in the queue");
    let taken = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await;
    assert!(taken.is_some());
    assert_eq!(out.fetched().await, 7);
}

#[test]
fn every_refusal_of_http_has_a_status_of_grpc_that_is_no_success() {
    for status in [400, 401, 402, 403, 404, 405, 408, 409, 413, 415, 422, 423, 429, 500, 503] {
        assert_ne!(status::code_of(status), tonic::Code::Ok, "{status}");
    }
    assert_eq!(status::code_of(423), tonic::Code::FailedPrecondition);
}
