//! One warm HTTP/1.1 connection to the appliance, with deadlines and bounded answers.
//!
//! One request at a time: a device has one thing to say at a time, and a fleet has many clients. A request that surely
//! never left is sent again on a new connection; any other is left to the caller, who knows what may be repeated.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, RETRY_AFTER};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ClientError, Endpoint, Problem};

/// Bytes of an answer that are read.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// How long one request may take, from its first byte to the last of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// All headers.
    pub headers: HeaderMap,
    /// At most 1 MiB.
    pub body: Bytes,
}

impl Response {
    /// The body of a success (2xx) as `T`.
    ///
    /// # Errors
    /// [`ClientError::Problem`] for any other status, [`ClientError::Unexpected`] when the body is not a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        let body = self.success()?;
        serde_json::from_slice(body).map_err(|e| ClientError::Unexpected(e.to_string()))
    }

    /// The body of a success (2xx).
    ///
    /// # Errors
    /// [`ClientError::Problem`] for any other status.
    pub fn success(&self) -> Result<&Bytes, ClientError> {
        if (200..300).contains(&self.status) {
            return Ok(&self.body);
        }
        let retry_after = self.headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok());
        Err(ClientError::Problem(Box::new(Problem::parse(self.status, &self.body, retry_after))))
    }
}

/// A client with one connection, which it opens when it is needed and keeps.
#[derive(Debug)]
pub struct HttpClient {
    endpoint: Endpoint,
    sender: Option<SendRequest<Full<Bytes>>>,
    timeout: Duration,
}

impl HttpClient {
    /// A client that has not connected yet.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, sender: None, timeout: REQUEST_TIMEOUT }
    }

    /// The same client with another deadline for each request.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Where it goes.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Closes the connection; the next request opens another.
    pub fn close(&mut self) {
        self.sender = None;
    }

    /// Sends one request and reads its answer. `headers` may name anything but `Host`.
    ///
    /// # Errors
    /// Everything of [`ClientError`] but `Problem`: a refusal is an answer, see [`Response::json`].
    pub async fn request(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Response, ClientError> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.endpoint.authority());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).map_err(|e| ClientError::Unexpected(e.to_string()))?;
        // Taken out, so that a deadline in the middle leaves no connection with half an answer behind.
        let sender = self.sender.take();
        let exchange = exchange(&self.endpoint, sender, request);
        let (sender, response) =
            tokio::time::timeout(self.timeout, exchange).await.map_err(|_| ClientError::TimedOut(self.timeout))??;
        self.sender = Some(sender);
        Ok(response)
    }

    /// `GET`, with a bearer token where there is one.
    ///
    /// # Errors
    /// As [`HttpClient::request`].
    pub async fn get(&mut self, path: &str, token: Option<&str>) -> Result<Response, ClientError> {
        let bearer = token.map(|t| format!("Bearer {t}"));
        let headers: Vec<_> = bearer.iter().map(|b| ("authorization", b.as_str())).collect();
        self.request(Method::GET, path, &headers, Bytes::new()).await
    }

    /// `POST` of a JSON body, with a bearer token where there is one.
    ///
    /// # Errors
    /// As [`HttpClient::request`].
    pub async fn post(
        &mut self,
        path: &str,
        token: Option<&str>,
        body: &impl Serialize,
    ) -> Result<Response, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| ClientError::Unexpected(e.to_string()))?;
        self.post_bytes(path, token, body.into()).await
    }

    /// `POST` of JSON that is already text.
    ///
    /// # Errors
    /// As [`HttpClient::request`].
    pub async fn post_bytes(&mut self, path: &str, token: Option<&str>, body: Bytes) -> Result<Response, ClientError> {
        let bearer = token.map(|t| format!("Bearer {t}"));
        let mut headers = vec![(CONTENT_TYPE.as_str(), "application/json")];
        headers.extend(bearer.iter().map(|b| ("authorization", b.as_str())));
        self.request(Method::POST, path, &headers, body).await
    }
}

async fn exchange(
    endpoint: &Endpoint,
    warm: Option<SendRequest<Full<Bytes>>>,
    request: Request<Full<Bytes>>,
) -> Result<(SendRequest<Full<Bytes>>, Response), ClientError> {
    let broken = |e: hyper::Error| ClientError::Broken(e.to_string());
    let warm = match warm {
        Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
        None => None,
    };
    let (mut sender, was_warm) = match warm {
        Some(sender) => (sender, true),
        None => (open(endpoint).await?, false),
    };
    let response = match sender.try_send_request(request).await {
        Ok(response) => response,
        Err(mut e) => match e.take_message() {
            // Comes back only when no byte of it was written: the server had closed the idle connection.
            Some(unsent) if was_warm => {
                sender = open(endpoint).await?;
                sender.send_request(unsent).await.map_err(broken)?
            }
            _ => return Err(broken(e.into_error())),
        },
    };
    let (head, body) = response.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|e| match e.is::<LengthLimitError>() {
        true => ClientError::Unexpected(format!("the body is longer than {BODY_BYTES_MAX} bytes")),
        false => ClientError::Broken(e.to_string()),
    })?;
    Ok((sender, Response { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() }))
}

async fn open(endpoint: &Endpoint) -> Result<SendRequest<Full<Bytes>>, ClientError> {
    let stream = endpoint.connect().await?;
    let handshake = http1::Builder::new().max_buf_size(16 * 1024).handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|e| ClientError::Broken(e.to_string()))?;
    // Ends by itself when the sender is dropped or the server closes; what broke is seen by the next request.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}
