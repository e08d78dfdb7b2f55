//! The yardstick: bare hyper, and a bare WebSocket echo, over the same TLS settings. They read what the appliance reads
//! and answer the same bytes; they check, score and store nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What the bare server answers.
#[derive(Clone)]
pub(super) struct Canned {
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Serves until it is dropped with its runtime.
pub(super) async fn http(tls: Arc<rustls::ServerConfig>, canned: Canned) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, canned) = (TlsAcceptor::from(Arc::clone(&tls)), canned.clone());
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                let Ok(stream) = tls.accept(stream).await else { return };
                let answer = service_fn(move |request: Request<Incoming>| {
                    let canned = canned.clone();
                    async move {
                        let read = request.into_body().collect().await.map(|b| b.to_bytes().len()).unwrap_or(0);
                        let mut response = Response::new(Full::new(canned.body));
                        *response.headers_mut() = canned.headers;
                        response.headers_mut().insert("x-read", HeaderValue::from(read));
                        Ok::<_, std::convert::Infallible>(response)
                    }
                });
                let builder = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), answer);
                let _ = builder.await;
            });
        }
    });
    Ok(address)
}

/// Echoes every text.
pub(super) async fn echo(tls: Arc<rustls::ServerConfig>) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = TlsAcceptor::from(Arc::clone(&tls));
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                let Ok(stream) = tls.accept(stream).await else { return };
                let config = Some(crate::net::ws::config());
                let accept = tokio_tungstenite::accept_hdr_async_with_config(stream, choose, config);
                let Ok(mut socket) = accept.await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() && socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(address)
}

#[expect(clippy::result_large_err, clippy::unnecessary_wraps, reason = "the library's signature")]
fn choose(
    _: &tokio_tungstenite::tungstenite::handshake::server::Request,
    mut response: tokio_tungstenite::tungstenite::handshake::server::Response,
) -> Result<
    tokio_tungstenite::tungstenite::handshake::server::Response,
    tokio_tungstenite::tungstenite::handshake::server::ErrorResponse,
> {
    response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("blockremote.v1"));
    Ok(response)
}
