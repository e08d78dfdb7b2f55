//! The kill-switch socket from the device's side.
//!
//! The access token travels as a subprotocol, never in the address, which ends up in logs. A socket only carries texts;
//! what to believe of them is for [`super::verify`].

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hyper::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Error as WsError, Message};

use super::frame::{Ack, AckStatus, Incoming};
use super::{ClientError, Endpoint, Problem};
use crate::kernel::ids::CommandId;
use crate::kernel::limits::WS_MESSAGE_BYTES_MAX;

/// The subprotocol that the server selects.
pub const PROTOCOL: &str = "blockremote.v1";
/// Where the socket is.
pub const PATH: &str = "/v1/security/kill-switch";
/// How long the upgrade, and writing one message, may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a socket hears.
#[derive(Debug)]
pub enum Event {
    /// A text that follows the contract.
    Frame(Incoming),
    /// A text or bytes that do not, in words. The socket is still open.
    Odd(String),
    /// The peer is alive and has nothing to say.
    Pong,
    /// The socket is closed: the code of RFC 6455, 1006 where there was no close frame, and the peer's reason.
    Closed(u16, String),
}

/// An open kill-switch socket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<TlsStream<TcpStream>>,
}

impl Socket {
    /// Opens a socket. A server that dislikes the token says so by closing at once with 1008.
    ///
    /// # Errors
    /// As a connection has them, [`ClientError::Problem`] where the upgrade is refused.
    pub async fn connect(endpoint: &Endpoint, token: &str) -> Result<Self, ClientError> {
        let unexpected = |e: &dyn std::fmt::Display| ClientError::Unexpected(e.to_string());
        let url = format!("wss://{}{PATH}", endpoint.authority());
        let mut request = url.into_client_request().map_err(|e| unexpected(&e))?;
        let protocols = HeaderValue::try_from(format!("{PROTOCOL}, {token}")).map_err(|e| unexpected(&e))?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocols);
        // A fleet has many sockets: small buffers, and nothing held back.
        let config = WebSocketConfig::default()
            .read_buffer_size(4 * 1024)
            .write_buffer_size(0)
            .max_message_size(Some(WS_MESSAGE_BYTES_MAX))
            .max_frame_size(Some(WS_MESSAGE_BYTES_MAX));
        let stream = endpoint.connect().await?;
        let upgrade = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
        match tokio::time::timeout(TIMEOUT, upgrade).await {
            Err(_) => Err(ClientError::TimedOut(TIMEOUT)),
            Ok(Ok((stream, _))) => Ok(Self { stream }),
            Ok(Err(WsError::Http(answer))) => {
                let body = answer.body().as_deref().unwrap_or_default();
                Err(ClientError::Problem(Box::new(Problem::parse(answer.status().as_u16(), body, None))))
            }
            Ok(Err(e)) => Err(broken(&e)),
        }
    }

    /// What comes next. Dropping the future loses nothing. After [`Event::Closed`] there is nothing more.
    pub async fn next(&mut self) -> Event {
        match self.stream.next().await {
            Some(Ok(Message::Text(text))) => Incoming::parse(&text).map_or_else(Event::Odd, Event::Frame),
            Some(Ok(Message::Binary(_))) => Event::Odd("a frame is binary".to_owned()),
            Some(Ok(Message::Close(Some(close)))) => Event::Closed(close.code.into(), close.reason.to_string()),
            Some(Ok(Message::Close(None))) => Event::Closed(1005, String::new()),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Event::Pong,
            Some(Err(e)) => Event::Closed(1006, e.to_string()),
            None => Event::Closed(1006, String::new()),
        }
    }

    /// Sends a heartbeat: the object that HTTP takes, with `"type": "heartbeat"` in front.
    ///
    /// # Errors
    /// [`ClientError::Broken`], [`ClientError::TimedOut`]; the socket is then of no use any more.
    pub async fn send_heartbeat(&mut self, heartbeat: &impl Serialize) -> Result<(), ClientError> {
        #[derive(Serialize)]
        struct Typed<'a, T: Serialize> {
            r#type: &'static str,
            #[serde(flatten)]
            heartbeat: &'a T,
        }
        self.send_json(&Typed { r#type: "heartbeat", heartbeat }).await
    }

    /// Says what became of a command; `detail` is in the device's words, at most 500 characters.
    ///
    /// # Errors
    /// As [`Socket::send_heartbeat`].
    pub async fn ack(
        &mut self,
        command_id: CommandId,
        status: AckStatus,
        detail: Option<&str>,
    ) -> Result<(), ClientError> {
        self.send_json(&Ack { r#type: "ack", command_id, status, detail }).await
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// As [`Socket::send_heartbeat`].
    pub async fn ping(&mut self) -> Result<(), ClientError> {
        self.send(Message::Ping(Bytes::new())).await
    }

    /// Says goodbye, without waiting for the answer.
    pub async fn close(mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.stream.close(None)).await;
    }

    async fn send_json(&mut self, value: &impl Serialize) -> Result<(), ClientError> {
        let text = serde_json::to_string(value).map_err(|e| ClientError::Unexpected(e.to_string()))?;
        self.send(Message::text(text)).await
    }

    async fn send(&mut self, message: Message) -> Result<(), ClientError> {
        match tokio::time::timeout(TIMEOUT, self.stream.send(message)).await {
            Ok(sent) => sent.map_err(|e| broken(&e)),
            Err(_) => Err(ClientError::TimedOut(TIMEOUT)),
        }
    }
}

fn broken(e: &WsError) -> ClientError {
    ClientError::Broken(e.to_string())
}
