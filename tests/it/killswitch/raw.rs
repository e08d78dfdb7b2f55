//! A socket that hides nothing from a test: exact texts, exact close codes.

use std::time::Duration;

use blockremote::client::Endpoint;
use blockremote::testkit::text;
use futures_util::{SinkExt, StreamExt};
use hyper::header::{HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

pub(crate) const PATH: &str = "/v1/security/kill-switch";
const PATIENCE: Duration = Duration::from_secs(5);

/// The socket.
pub(crate) struct Raw {
    pub(crate) stream: WebSocketStream<TlsStream<TcpStream>>,
    /// The subprotocol that the server selected.
    pub(crate) selected: Option<String>,
    /// The headers of the upgrade's answer.
    pub(crate) headers: HeaderMap,
}

impl Raw {
    /// Upgrades with these headers; the status and code of a refusal otherwise.
    pub(crate) async fn open(endpoint: &Endpoint, path: &str, headers: &[(&str, &str)]) -> Result<Self, (u16, String)> {
        let mut request = format!("wss://{}{path}", endpoint.authority()).into_client_request().unwrap();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
        }
        let stream = endpoint.connect().await.unwrap();
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((stream, response)) => {
                let selected = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
                let selected = selected.map(|v| v.to_str().unwrap().to_owned());
                Ok(Self { stream, selected, headers: response.headers().clone() })
            }
            Err(WsError::Http(response)) => {
                let body: Value =
                    serde_json::from_slice(response.body().as_deref().unwrap_or_default()).unwrap_or_default();
                Err((response.status().as_u16(), text(&body, "code")))
            }
            Err(other) => panic!("the upgrade broke: {other}"),
        }
    }

    /// Opens with a token as apps do.
    pub(crate) async fn with_token(endpoint: &Endpoint, token: &str) -> Self {
        let protocols = format!("blockremote.v1, {token}");
        Self::open(endpoint, PATH, &[("sec-websocket-protocol", &protocols)]).await.unwrap()
    }

    async fn next(&mut self) -> Option<Result<Message, WsError>> {
        tokio::time::timeout(PATIENCE, self.stream.next()).await.unwrap_or_else(|_| panic!("nothing came"))
    }

    /// The next text.
    pub(crate) async fn text(&mut self) -> String {
        loop {
            match self.next().await {
                Some(Ok(Message::Text(text))) => return text.to_string(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("no text but {other:?}"),
            }
        }
    }

    /// The next text as JSON.
    pub(crate) async fn json(&mut self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    /// The texts until the socket closes, and its code.
    pub(crate) async fn rest(&mut self) -> (Vec<Value>, u16) {
        let mut texts = Vec::new();
        loop {
            match self.next().await {
                Some(Ok(Message::Text(text))) => texts.push(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(Some(close)))) => return (texts, close.code.into()),
                Some(Ok(_)) => {}
                None | Some(Err(_)) => return (texts, 1006),
            }
        }
    }

    /// The code with which the socket closes.
    pub(crate) async fn closed(&mut self) -> u16 {
        self.rest().await.1
    }

    pub(crate) async fn send(&mut self, message: Message) {
        self.stream.send(message).await.unwrap();
    }

    pub(crate) async fn say(&mut self, value: &Value) {
        self.send(Message::text(value.to_string())).await;
    }

    pub(crate) async fn ack(&mut self, command_id: &str, status: &str) {
        self.say(&json!({ "type": "ack", "command_id": command_id, "status": status })).await;
    }

    /// Proves that the socket still listens and says nothing else: an unknown type is answered by an error.
    pub(crate) async fn is_quiet(&mut self) {
        self.say(&json!({ "type": "anybody there?" })).await;
        let answer = self.json().await;
        assert_eq!((text(&answer, "type"), text(&answer, "code")), ("error".into(), "invalid_request".into()));
    }
}
