//! What is under way on one HTTP/2 connection: whether there is anything at all, and whether the client takes what it
//! asked for. HTTP/2 knows no end of idleness, and a client that gives no window is served by nobody's clock but this.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, SizeHint};

use crate::kernel::clock::Stopwatch;

/// How much later than promised a stalled client may be noticed, as a part of the promise.
const LOOKS: u32 = 4;

/// Requests in flight on one connection, and how many there ever were.
#[derive(Default)]
pub(super) struct Activity {
    in_flight: AtomicUsize,
    ever: AtomicUsize,
    /// Answers that were offered and not asked for again since.
    offered: Mutex<HashMap<usize, Stopwatch>>,
}

impl Activity {
    /// Resolves when no request was in flight for a whole period.
    pub fn idle_for(&self, period: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let mut before = usize::MAX;
            loop {
                let ever = self.ever.load(Ordering::Acquire);
                if ever == before && self.in_flight.load(Ordering::Acquire) == 0 {
                    return;
                }
                before = ever;
                tokio::time::sleep(period).await;
            }
        })
    }

    /// Resolves when the client has left an answer, or the rest of one, lying for so long.
    pub fn stalled_for(&self, limit: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            loop {
                tokio::time::sleep(limit / LOOKS).await;
                if self.offered().values().any(|since| since.elapsed() > limit) {
                    return;
                }
            }
        })
    }

    fn offered(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Stopwatch>> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request in flight.
pub(super) struct Busy {
    activity: Arc<Activity>,
    id: usize,
}

impl Busy {
    pub fn new(activity: &Arc<Activity>) -> Self {
        activity.in_flight.fetch_add(1, Ordering::AcqRel);
        let id = activity.ever.fetch_add(1, Ordering::AcqRel);
        Self { activity: Arc::clone(activity), id }
    }

    /// It is the client's turn.
    fn offers(&self) {
        self.activity.offered().insert(self.id, Stopwatch::start());
    }

    /// It is ours.
    fn owes(&self) {
        self.activity.offered().remove(&self.id);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.owes();
        self.activity.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A body whose request is in flight until its last byte was asked for.
pub(super) struct Held<B> {
    body: B,
    busy: Busy,
}

impl<B> Held<B> {
    pub fn new(body: B, busy: Busy) -> Self {
        busy.offers();
        Self { body, busy }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Held<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let next = Pin::new(&mut self.body).poll_frame(cx);
        match next {
            Poll::Ready(Some(_)) => self.busy.offers(),
            Poll::Ready(None) | Poll::Pending => self.busy.owes(),
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Empty, Full};

    const LIMIT: Duration = Duration::from_millis(80);

    async fn stalls(activity: &Activity) -> bool {
        tokio::time::timeout(LIMIT * 5, activity.stalled_for(LIMIT)).await.is_ok()
    }

    #[tokio::test]
    async fn an_answer_that_nobody_fetches_is_noticed_and_one_that_is_fetched_is_not() {
        let activity = Arc::new(Activity::default());
        let left_lying = Held::new(Full::new(Bytes::from_static(b"x")), Busy::new(&activity));
        assert!(stalls(&activity).await);
        drop(left_lying);
        assert!(!stalls(&activity).await, "a request that was given up holds nothing up");
        let mut fetched = Held::new(Full::new(Bytes::from_static(b"x")), Busy::new(&activity));
        while fetched.frame().await.is_some() {}
        assert!(!stalls(&activity).await);
        let _ = Held::new(Empty::<Bytes>::new(), Busy::new(&activity));
    }

    /// A stream that has nothing to say for hours is not the client's fault.
    #[tokio::test]
    async fn a_stream_that_waits_for_us_does_not_count_against_its_client() {
        struct Silent;
        impl Body for Silent {
            type Data = Bytes;
            type Error = std::convert::Infallible;
            fn poll_frame(
                self: Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
                Poll::Pending
            }
        }
        let activity = Arc::new(Activity::default());
        let mut silent = Held::new(Silent, Busy::new(&activity));
        let asked = tokio::time::timeout(Duration::from_millis(1), silent.frame()).await;
        assert!(asked.is_err() && !stalls(&activity).await);
    }
}
