//! One WebSocket after its upgrade: reads texts, writes what is pushed, keeps its limits, ends with the right code.
//!
//! Close codes beyond RFC 6455 are the wire contract's. What the texts mean is the [`Driver`]'s business.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use crate::kernel::limits;

/// Unused for this long: a ping.
const PING_AFTER: Duration = Duration::from_secs(30);
/// Silent for this many pings: dead.
const PINGS_UNANSWERED_MAX: u32 = 3;
/// A frame that cannot be written for this long: a slow consumer.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// The other side's part of the closing handshake.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Close codes.
pub mod code {
    /// The appliance is shutting down.
    pub const GOING_AWAY: u16 = 1001;
    /// Binary where text is due.
    pub const UNSUPPORTED: u16 = 1003;
    /// Credentials missing or bad.
    pub const POLICY: u16 = 1008;
    /// A frame or message over the limit.
    pub const TOO_BIG: u16 = 1009;
    /// It does not read what is sent to it.
    pub const TRY_AGAIN: u16 = 1013;
    /// A newer socket of the same device.
    pub const REPLACED: u16 = 4001;
    /// Trial over and nothing paid.
    pub const PAYWALL: u16 = 4003;
}

/// What goes out.
#[derive(Clone, Debug)]
pub enum Push {
    /// A text frame. The driver hears of `tag` when it was written.
    Text {
        /// The text.
        text: Arc<str>,
        /// The driver's own name for it.
        tag: Option<u64>,
    },
    /// The last thing.
    Close(u16, &'static str),
}

impl Push {
    /// A text that nobody asks about afterwards.
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Self::Text { text: text.into(), tag: None }
    }
}

/// A boxed future of a driver.
pub type Driving<'a> = Pin<Box<dyn Future<Output = Vec<Push>> + Send + 'a>>;

/// What a socket is for.
pub trait Driver: Send {
    /// The first frames.
    fn open(&mut self) -> Driving<'_>;
    /// A text came.
    fn text<'a>(&'a mut self, text: &'a str) -> Driving<'a>;
    /// The next thing to send by itself.
    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<Push>;
    /// Tagged frames were written.
    fn sent(&mut self, tags: Vec<u64>);
}

/// Limits of every socket.
pub fn config() -> WebSocketConfig {
    let mut config = WebSocketConfig::default();
    config.read_buffer_size = 4 << 10;
    config.write_buffer_size = 0;
    config.max_write_buffer_size = limits::WS_WRITE_BUFFER_BYTES_MAX;
    config.max_message_size = Some(limits::WS_MESSAGE_BYTES_MAX);
    config.max_frame_size = Some(limits::WS_MESSAGE_BYTES_MAX);
    config
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Runs one socket to its end.
pub async fn run(upgraded: Upgraded, mut driver: Box<dyn Driver>) {
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config())).await;
    let first = driver.open().await;
    let ended = match send_all(&mut socket, &mut driver, first).await {
        Ok(()) => converse(&mut socket, &mut driver).await,
        Err(end) => end,
    };
    if let End::Close(code, reason) = ended {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        let farewell = async {
            if socket.close(Some(frame)).await.is_ok() {
                // Until the other side's close frame: without it, the reset of our close could overtake the frame.
                while let Some(Ok(_)) = socket.next().await {}
            }
        };
        let _ = tokio::time::timeout(CLOSE_MAX, farewell).await;
    }
}

enum End {
    Close(u16, &'static str),
    Gone,
}

async fn converse(socket: &mut Socket, driver: &mut Box<dyn Driver>) -> End {
    let mut unanswered = 0;
    loop {
        tokio::select! {
            push = std::future::poll_fn(|cx| driver.poll_push(cx)) => {
                if let Err(end) = send_all(socket, driver, vec![push]).await {
                    return end;
                }
            }
            message = tokio::time::timeout(PING_AFTER, socket.next()) => {
                let message = match message {
                    Ok(Some(message)) => message,
                    Ok(None) => return End::Gone,
                    Err(_) if unanswered >= PINGS_UNANSWERED_MAX => return End::Gone,
                    Err(_) => {
                        unanswered += 1;
                        if write(socket, Message::Ping(Default::default())).await.is_err() {
                            return End::Gone;
                        }
                        continue;
                    }
                };
                unanswered = 0;
                match message {
                    Ok(Message::Text(text)) => {
                        let answer = driver.text(text.as_str()).await;
                        if let Err(end) = send_all(socket, driver, answer).await {
                            return end;
                        }
                    }
                    Ok(Message::Binary(_)) => return End::Close(code::UNSUPPORTED, "send text frames"),
                    Ok(Message::Close(_)) => {
                        // tungstenite has queued the answer; it goes out with the next flush.
                        let _ = tokio::time::timeout(CLOSE_MAX, socket.flush()).await;
                        return End::Gone;
                    }
                    Ok(_) => {}
                    Err(e) => return end_of(&e),
                }
            }
        }
    }
}

fn end_of(error: &Error) -> End {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => End::Close(code::TOO_BIG, "message too large"),
        Error::Utf8(_) => End::Close(1007, "text must be UTF-8"),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) | Error::Io(_) | Error::ConnectionClosed => {
            End::Gone
        }
        Error::Protocol(_) => End::Close(1002, "protocol error"),
        _ => End::Gone,
    }
}

async fn write(socket: &mut Socket, message: Message) -> Result<(), End> {
    match tokio::time::timeout(WRITE_MAX, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Gone),
        Err(_) => Err(End::Close(code::TRY_AGAIN, "too slow")),
    }
}

async fn send_all(socket: &mut Socket, driver: &mut Box<dyn Driver>, pushes: Vec<Push>) -> Result<(), End> {
    let mut tags = Vec::new();
    for push in pushes {
        match push {
            Push::Text { text, tag } => {
                write(socket, Message::text(&*text)).await?;
                tags.extend(tag);
            }
            Push::Close(code, reason) => {
                if !tags.is_empty() {
                    driver.sent(tags);
                }
                return Err(End::Close(code, reason));
            }
        }
    }
    if !tags.is_empty() {
        driver.sent(tags);
    }
    Ok(())
}
