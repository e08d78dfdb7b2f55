//! One POST over HTTP/1.1. Connections are kept a while, each to the address that was checked when it was opened.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

use super::{Outbound, Stream};
use crate::kernel::clock::Stopwatch;
use crate::net::fetch::Url;

/// Bytes of an answer that are given back.
pub(super) const START_BYTES_MAX: usize = 1_024;
/// Bytes of an answer that are read, so that its connection can be used again; of more the rest is left unread.
const BODY_BYTES_MAX: usize = 64 * 1_024;
/// How long the body of an answer is waited for: its status is what counts.
const BODY_TIME_MAX: Duration = Duration::from_secs(2);
/// Bytes of the header of an answer.
const HEADER_BYTES_MAX: usize = 16 * 1_024;
/// Idle connections, to one place and in all.
const IDLE_MAX: (usize, usize) = (16, 256);
/// How long one is kept.
const IDLE_TIME_MAX: Duration = Duration::from_secs(20);

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status, whatever it is.
    pub status: u16,
    /// `Retry-After` as it came.
    pub retry_after: Option<String>,
    /// The first bytes of the body.
    pub start: Vec<u8>,
}

type Sender = SendRequest<Full<Bytes>>;

type Kept = HashMap<String, Vec<(Stopwatch, Sender)>>;

/// Connections that wait for the next call, by scheme and authority.
#[derive(Clone, Default)]
pub(super) struct Idle(Arc<Mutex<Kept>>);

impl Idle {
    fn take(&self, place: &str) -> Option<Sender> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = all.get_mut(place)?;
        while let Some((since, sender)) = kept.pop() {
            if since.elapsed() < IDLE_TIME_MAX && !sender.is_closed() {
                return Some(sender);
            }
        }
        all.remove(place);
        None
    }

    fn give(&self, place: String, sender: Sender) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, kept| {
            kept.retain(|(since, sender)| since.elapsed() < IDLE_TIME_MAX && !sender.is_closed());
            !kept.is_empty()
        });
        if all.values().map(Vec::len).sum::<usize>() < IDLE_MAX.1 {
            let kept = all.entry(place).or_default();
            if kept.len() < IDLE_MAX.0 {
                kept.push((Stopwatch::start(), sender));
            }
        }
    }
}

impl Outbound {
    /// Sends a body and gives whatever is answered.
    ///
    /// # Errors
    /// A sentence, without the URL: no address that may be called, no connection, no TLS, too slow, no HTTP.
    pub async fn post(&self, url: &Url, headers: &[(&'static str, String)], body: Bytes) -> Result<Answer, String> {
        self.timed(self.exchange(url, headers, body)).await
    }

    async fn exchange(&self, url: &Url, headers: &[(&'static str, String)], body: Bytes) -> Result<Answer, String> {
        let place = format!("{}{}", if url.is_secure() { "s:" } else { "p:" }, url.authority());
        let request = || -> Result<_, String> {
            let mut request = Request::post(url.target()).header("host", url.authority());
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            request.body(Full::new(body.clone())).map_err(|e| e.to_string())
        };
        if let Some(mut sender) = self.idle.take(&place)
            && sender.ready().await.is_ok()
        {
            match sender.try_send_request(request()?).await {
                Ok(response) => return self.read(place, sender, response).await,
                // The other side closed it meanwhile; what was not sent can be sent again.
                Err(mut e) => {
                    if e.take_message().is_none() {
                        return Err(format!("no answer: {}", e.into_error()));
                    }
                }
            }
        }
        let mut sender = self.open(url).await?;
        sender.ready().await.map_err(|e| e.to_string())?;
        let response = sender.send_request(request()?).await.map_err(|e| format!("no answer: {e}"))?;
        self.read(place, sender, response).await
    }

    async fn open(&self, url: &Url) -> Result<Sender, String> {
        let stream = self.connect(url.host(), url.port()).await?;
        if url.is_secure() {
            return speak(self.secure(url.host(), stream).await?).await;
        }
        speak(stream).await
    }

    async fn read(&self, place: String, sender: Sender, response: hyper::Response<Incoming>) -> Result<Answer, String> {
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (status, retry_after) = (response.status().as_u16(), header("retry-after"));
        let mut start = Vec::new();
        let mut body = response.into_body();
        let reading = async {
            let mut read = 0;
            while let Some(frame) = body.frame().await {
                let Ok(frame) = frame else { return false };
                let Some(data) = frame.data_ref() else { continue };
                read += data.len();
                let room = START_BYTES_MAX.saturating_sub(start.len());
                start.extend(data.iter().take(room));
                if read > BODY_BYTES_MAX {
                    return false;
                }
            }
            true
        };
        if tokio::time::timeout(BODY_TIME_MAX.min(self.settings.timeout / 2), reading).await.unwrap_or(false) {
            self.idle.give(place, sender);
        }
        Ok(Answer { status, retry_after, start })
    }
}

async fn speak<S: Stream + 'static>(stream: S) -> Result<Sender, String> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEADER_BYTES_MAX);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    // It ends when its sender is dropped.
    tokio::spawn(connection);
    Ok(sender)
}
