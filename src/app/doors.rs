//! The doors: what each listener hands its requests to, and the bounds that the configuration sets for them.

use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};

use crate::config::Config;
use crate::gate::{Gate, GrpcBody};
use crate::net::http::Http2;
use crate::net::{Peer, Service};

/// All metadata of a call of gRPC.
const GRPC_METADATA_BYTES_MAX: u32 = 8 << 10;

/// HTTPS and WebSocket.
#[derive(Clone)]
pub struct PublicDoor(pub Arc<Gate>);

impl Service for PublicDoor {
    type Body = Full<Bytes>;

    async fn call(&self, request: Request<Incoming>, peer: Peer) -> Response<Full<Bytes>> {
        self.0.public(request, peer).await
    }
}

/// For the box itself.
#[derive(Clone)]
pub struct InternalDoor(pub Arc<Gate>);

impl Service for InternalDoor {
    type Body = Full<Bytes>;

    async fn call(&self, request: Request<Incoming>, peer: Peer) -> Response<Full<Bytes>> {
        self.0.internal(request, peer).await
    }
}

/// gRPC.
#[derive(Clone)]
pub struct GrpcDoor(pub Arc<Gate>);

impl Service for GrpcDoor {
    type Body = GrpcBody;

    async fn call(&self, request: Request<Incoming>, peer: Peer) -> Response<GrpcBody> {
        self.0.grpc(request, peer).await
    }
}

/// Bounds of a connection of gRPC.
pub fn grpc_http2(config: &Config) -> Http2 {
    Http2 {
        only: true,
        streams_max: config.grpc.streams_per_connection,
        header_list_bytes_max: GRPC_METADATA_BYTES_MAX,
    }
}
