//! Listeners, TLS, HTTP/1.1 and HTTP/2 connections, WebSocket framing, draining: bytes only.
//!
//! Every connection has deadlines of our own: for the handshake, for the header, for idleness. What a request means is
//! decided by the [`Service`] that is handed in. Knows nothing of routes, tokens or tenants.

mod deadline;
pub mod http;
pub mod limits;
pub mod tls;
pub mod ws;

use std::future::Future;
use std::net::SocketAddr;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};

/// Answers requests.
pub trait Service: Clone + Send + Sync + 'static {
    /// Answers one request of `peer`; never fails: what goes wrong is an answer, too.
    fn call(&self, request: Request<Incoming>, peer: SocketAddr) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}
