//! A connection whose request headers must arrive in time once they have begun, and whose client must take its answers.
//!
//! hyper knows one deadline for both silence between requests and a header in progress. A phone's connection may well be
//! silent for a minute between heartbeats; a header that dribbles in byte by byte may not take as long. So hyper gets the
//! deadline for silence, and this wrapper keeps the other one. For answers it knows none at all.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::http::Deadlines;

/// The first bytes of a header came; or the connection is new, and its first header is due.
const HEADER: u8 = 0;
/// Silent between two requests.
const BETWEEN: u8 = 1;
/// The header is complete; what comes belongs to the request.
const REQUEST: u8 = 2;
/// It speaks another protocol now: no deadline of ours.
const UPGRADED: u8 = 3;

/// Where a connection stands; shared with whoever answers its requests.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<AtomicU8>);

impl Progress {
    /// A header is complete.
    pub fn request(&self) {
        self.0.store(REQUEST, Ordering::Relaxed);
    }

    /// An answer is ready.
    pub fn answered(&self, upgraded: bool) {
        self.0.store(if upgraded { UPGRADED } else { BETWEEN }, Ordering::Relaxed);
    }
}

/// The connection.
pub(super) struct Timed<I> {
    io: I,
    progress: Progress,
    deadlines: Deadlines,
    /// While the client takes nothing.
    untaken: Option<Pin<Box<Sleep>>>,
    /// Made for a new connection, and when a header does not come in one piece, which is rare.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<I> Timed<I> {
    pub const fn new(io: I, progress: Progress, deadlines: Deadlines) -> Self {
        Self { io, progress, deadlines, untaken: None, deadline: None }
    }

    /// Bounds how long a client may take nothing of what is written to it. What speaks another protocol has its own rules.
    fn taken<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() || self.progress.0.load(Ordering::Relaxed) == UPGRADED {
            self.untaken = None;
            return written;
        }
        let idle = self.deadlines.idle;
        let untaken = self.untaken.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        if untaken.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Timed<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.progress.0.load(Ordering::Relaxed) == HEADER {
            // What was read before did not complete the header.
            let header_max = this.deadlines.header;
            let deadline = this.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(header_max)));
            if deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        } else {
            this.deadline = None;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            // Fails unless the connection was silent before: then these bytes begin a header.
            let _ = this.progress.0.compare_exchange(BETWEEN, HEADER, Ordering::Relaxed, Ordering::Relaxed);
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Timed<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.taken(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.io).poll_flush(cx);
        self.taken(cx, written)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.taken(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
