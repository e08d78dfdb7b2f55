//! Listeners, TLS, HTTP/1.1 and HTTP/2 connections, WebSocket framing, draining: bytes only.
//!
//! Every connection has deadlines of our own: for the handshake, for the header, for idleness. What a request means is
//! decided by the [`Service`] that is handed in. Knows nothing of routes, tokens or tenants.

mod activity;
pub mod address;
mod deadline;
pub mod fetch;
pub mod http;
pub mod limits;
pub mod outbound;
pub mod tls;
pub mod ws;

use std::future::Future;
use std::net::SocketAddr;

use hyper::body::{Body, Bytes, Incoming};
use hyper::{Request, Response};

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// SHA-256 of the certificate (DER) whose key it proved to hold in the TLS handshake; what RFC 8705, section 3.1 calls
    /// `x5t#S256`. Nobody vouches for the certificate's content. `None`: it showed none, or the listener asks for none.
    pub certificate_sha256: Option<[u8; 32]>,
}

/// Answers requests.
pub trait Service: Clone + Send + Sync + 'static {
    /// What it answers with: a whole body, or one that comes bit by bit.
    type Body: Body<Data = Bytes, Error = std::convert::Infallible> + Send + Unpin + 'static;

    /// Answers one request of `peer`; never fails: what goes wrong is an answer, too.
    fn call(&self, request: Request<Incoming>, peer: Peer) -> impl Future<Output = Response<Self::Body>> + Send;
}
