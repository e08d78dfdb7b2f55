//! Messages on the wire: five bytes of length before each, compressed or not, and a status after the last.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Write;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::HeaderMap;
use prost::Message;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::codec::{CompressionEncoding, DecodeBuf, Decoder, Streaming};

use super::status::Ended;
use crate::kernel::limits;

/// Messages that wait for a client that reads slowly.
const QUEUE_MAX: usize = 16;
/// Marks that wait to be asked for: a device's unfinished commands are marked all at once.
const MARKS_MAX: usize = limits::OPEN_COMMANDS_PER_DEVICE_MAX + QUEUE_MAX;
/// A message that cannot be put into that queue for this long ends the stream.
pub const WRITE_MAX: Duration = Duration::from_secs(10);
/// Smaller messages are not worth compressing.
const COMPRESSED_FROM: usize = 512;

/// The messages of a call, before they are read.
pub struct Reading {
    pub body: Incoming,
    pub encoding: Option<CompressionEncoding>,
    /// Of one message, compressed and inflated.
    pub bytes_max: usize,
}

impl Reading {
    /// The messages, one after the other.
    pub fn messages<M: Message + Default + 'static>(self) -> Streaming<M> {
        Streaming::new_request(Proto(std::marker::PhantomData), self.body, self.encoding, Some(self.bytes_max))
    }

    /// The one message of a call that has only one.
    pub async fn one<M: Message + Default + 'static>(self) -> Result<M, Ended> {
        let mut messages = self.messages::<M>();
        let first = messages.message().await?;
        first.ok_or_else(|| Status::invalid_argument("no message").into())
    }
}

struct Proto<M>(std::marker::PhantomData<fn() -> M>);

impl<M: Message + Default + 'static> Decoder for Proto<M> {
    type Item = M;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<M>, Status> {
        M::decode(source).map(Some).map_err(|e| Status::invalid_argument(e.to_string()))
    }
}

/// One message with its prefix.
fn framed(message: &[u8], compressed: bool) -> Bytes {
    if compressed && message.len() >= COMPRESSED_FROM {
        let mut packed = GzEncoder::new(Vec::with_capacity(message.len() / 2), Compression::fast());
        if packed.write_all(message).is_ok()
            && let Ok(packed) = packed.finish()
        {
            return prefixed(1, &packed);
        }
    }
    prefixed(0, message)
}

fn prefixed(flag: u8, message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(message.len() + 5);
    out.push(flag);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(message);
    out.into()
}

/// What is answered: frames that are there already, or come bit by bit with the trailers behind them.
pub struct GrpcBody(Inner);

enum Inner {
    Whole(VecDeque<Frame<Bytes>>),
    Coming { queue: mpsc::Receiver<Outbound>, last: Arc<Mutex<Option<HeaderMap>>>, fetched: mpsc::Sender<u64> },
}

/// A message on its way, and the mark by which its fetching is told.
struct Outbound {
    data: Bytes,
    mark: Option<u64>,
}

impl GrpcBody {
    pub(super) const fn empty() -> Self {
        Self(Inner::Whole(VecDeque::new()))
    }

    /// One message and a good end.
    pub(super) fn one(message: &[u8], compressed: bool) -> Self {
        let frames = [Frame::data(framed(message, compressed)), Frame::trailers(Ended::well().trailers(""))];
        Self(Inner::Whole(frames.into()))
    }

    /// A body whose messages are still to come.
    pub(super) fn coming(compressed: bool) -> (Self, Out) {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let (fetched, marks) = mpsc::channel(MARKS_MAX);
        let last = Arc::new(Mutex::new(None));
        let out = Out { queue: sender, last: Arc::clone(&last), marks, compressed, sent: 0 };
        (Self(Inner::Coming { queue, last, fetched }), out)
    }
}

impl Body for GrpcBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Inner::Whole(frames) => Poll::Ready(frames.pop_front().map(Ok)),
            Inner::Coming { queue, last, fetched } => match queue.poll_recv(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Some(Outbound { data, mark })) => {
                    // Full only where nobody asks for marks any more.
                    let _ = mark.map(|mark| fetched.try_send(mark));
                    Poll::Ready(Some(Ok(Frame::data(data))))
                }
                Poll::Ready(None) => {
                    let trailers = last.lock().unwrap_or_else(PoisonError::into_inner).take();
                    Poll::Ready(trailers.map(|t| Ok(Frame::trailers(t))))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.0, Inner::Whole(frames) if frames.is_empty())
    }
}

/// Where a stream puts its messages.
pub struct Out {
    queue: mpsc::Sender<Outbound>,
    marks: mpsc::Receiver<u64>,
    last: Arc<Mutex<Option<HeaderMap>>>,
    compressed: bool,
    /// Messages so far.
    pub sent: u64,
}

impl Out {
    /// Sends a message.
    ///
    /// # Errors
    /// The end of the stream, when the client does not read or is gone.
    pub async fn send(&mut self, message: &impl Message) -> Result<(), Ended> {
        self.queued(message, None).await
    }

    /// As [`Out::send`]; [`Out::fetched`] gives the mark once the connection has taken the message.
    pub async fn send_marked(&mut self, message: &impl Message, mark: u64) -> Result<(), Ended> {
        self.queued(message, Some(mark)).await
    }

    /// The mark of the next message that went out. Dropping the future loses none.
    pub async fn fetched(&mut self) -> u64 {
        match self.marks.recv().await {
            Some(mark) => mark,
            // The stream is over, which others notice.
            None => std::future::pending().await,
        }
    }

    async fn queued(&mut self, message: &impl Message, mark: Option<u64>) -> Result<(), Ended> {
        let data = framed(&message.encode_to_vec(), self.compressed);
        match tokio::time::timeout(WRITE_MAX, self.queue.send(Outbound { data, mark })).await {
            Ok(Ok(())) => {
                self.sent += 1;
                Ok(())
            }
            Ok(Err(_)) => Err(gone()),
            Err(_) => {
                let detail = "The client does not read what is sent to it.";
                Err(Ended::new(tonic::Code::ResourceExhausted, "slow_consumer", detail))
            }
        }
    }

    /// Resolves when the client is gone.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        let queue = self.queue.clone();
        async move { queue.closed().await }
    }

    /// The last thing.
    pub fn end(self, trailers: HeaderMap) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(trailers);
    }
}

pub fn gone() -> Ended {
    Ended::new(tonic::Code::Cancelled, "cancelled", "The client is gone.")
}
