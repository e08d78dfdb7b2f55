//! Requests that the ordinary client would not make: a Host of its own, HTTP/2, another address behind a proxy.

use blockremote::client::{HttpClient, Response};
use blockremote::config::Config;
use blockremote::testkit::{Fault, Server};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;

/// Settings under which a test may name any address as its own.
pub fn behind_a_proxy(config: &mut Config) {
    config.http.trusted_proxies = "127.0.0.1".parse().into_iter().collect();
    config.limits.login_failures_per_minute = 1_000;
    config.limits.auth_failures_per_minute = 100_000;
}

/// Host and port of the running server.
pub fn authority(server: &Server) -> String {
    format!("localhost:{}", server.app().addresses.http.port())
}

/// The absolute URL of a path, as DPoP proofs name it.
pub fn url(server: &Server, path: &str) -> String {
    format!("https://{}{path}", authority(server))
}

/// A `POST` to a host of any name, on a connection of its own.
pub async fn post_to_host(
    server: &Server,
    host: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> Result<Response, Fault> {
    let stream = server.endpoint()?.connect().await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(Method::POST).uri(path).header("host", host);
    request = request.header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Full::new(Bytes::from(body.to_string())))?).await?;
    let (head, body) = response.into_parts();
    Ok(Response { status: head.status.as_u16(), headers: head.headers, body: body.collect().await?.to_bytes() })
}

/// A request with these headers, and a JSON body unless it is null.
pub async fn ask(
    client: &mut HttpClient,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> Result<Response, Fault> {
    if body.is_null() {
        return Ok(client.request(method, path, headers, Bytes::new()).await?);
    }
    crate::common::send(client, method, path, headers, body).await
}
