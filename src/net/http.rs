//! Accepting connections and speaking HTTP on them, each with deadlines, until told to drain.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::activity::{Activity, Busy, Held};
use super::deadline::{Progress, Timed};
use super::limits::Connections;
use super::{Peer, Service, tls};
use crate::kernel::limits;

/// For a turn to shake hands; a client that was kept waiting for longer has given up.
const TURN_WAIT_MAX: Duration = Duration::from_secs(60);

/// Deadlines of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From the first byte of TCP to the end of the TLS handshake.
    pub handshake: Duration,
    /// For a request's header, from its first byte on.
    pub header: Duration,
    /// For a connection without a request in flight, and for a client to take what it is sent.
    pub idle: Duration,
}

/// One listener's settings.
#[derive(Clone)]
pub struct Settings {
    /// Deadlines.
    pub deadlines: Deadlines,
    /// `None`: plain text, for the internal listener on loopback.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Shared by all listeners.
    pub connections: Connections,
    /// What HTTP/2 is bounded by.
    pub http2: Http2,
}

/// Bounds of an HTTP/2 connection.
#[derive(Clone, Copy, Debug)]
pub struct Http2 {
    /// Whether nothing else is spoken; over TLS, whatever the client asks for.
    pub only: bool,
    /// Streams that are open at the same time; more are refused by the protocol.
    pub streams_max: u32,
    /// All header fields of a request together, uncompressed.
    pub header_list_bytes_max: u32,
}

impl Default for Http2 {
    fn default() -> Self {
        Self { only: false, streams_max: 128, header_list_bytes_max: 32 << 10 }
    }
}

const H1_BUFFER_BYTES_MAX: usize = 64 << 10;
const H1_HEADERS_MAX: usize = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Tells listeners and connections to end, and counts those that have not.
#[derive(Clone)]
pub struct Drain {
    signal: watch::Sender<bool>,
    open: Arc<OpenCount>,
}

#[derive(Default)]
struct OpenCount {
    count: AtomicUsize,
    none: Notify,
}

impl Default for Drain {
    fn default() -> Self {
        Self { signal: watch::Sender::new(false), open: Arc::default() }
    }
}

impl Drain {
    /// No new connections; idle ones close, busy ones finish what they have.
    pub fn start(&self) {
        self.signal.send_replace(true);
    }

    /// Whether draining has begun.
    pub fn has_started(&self) -> bool {
        *self.signal.borrow()
    }

    /// Resolves when draining begins.
    pub async fn started(&self) {
        let mut watch = self.signal.subscribe();
        // The sender lives in `self`, so this cannot fail while it is awaited.
        let _ = watch.wait_for(|started| *started).await;
    }

    /// Counts something that must end before the process does.
    pub fn guard(&self) -> DrainGuard {
        self.open.count.fetch_add(1, Ordering::AcqRel);
        DrainGuard(Arc::clone(&self.open))
    }

    /// Resolves when nothing is open any more.
    pub async fn finished(&self) {
        loop {
            let wait = self.open.none.notified();
            if self.open.count.load(Ordering::Acquire) == 0 {
                return;
            }
            wait.await;
        }
    }
}

/// Something that is still open.
pub struct DrainGuard(Arc<OpenCount>);

impl Drop for DrainGuard {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

/// Threads that serve connections until draining has ended.
pub struct Lanes {
    threads: Vec<std::thread::JoinHandle<()>>,
    pulses: Vec<Arc<AtomicUsize>>,
}

/// How often a lane shows that it gets round to its work.
const PULSE_EVERY: Duration = Duration::from_millis(250);

impl Lanes {
    /// Starts `count` threads that accept from one listener, each with a runtime of its own.
    ///
    /// A connection stays on the thread that accepted it. What it waits for most is the commit of the writer thread,
    /// which wakes all that wait for it at once: woken on their own thread, they are not stolen and passed about between
    /// cores. Measured side by side in one run, this served a fifth more durable heartbeats a second than one runtime
    /// with as many threads.
    pub fn start<S: Service>(
        listener: &std::net::TcpListener,
        count: usize,
        settings: &Settings,
        service: &S,
        drain: &Drain,
    ) -> std::io::Result<Self> {
        let (mut threads, mut pulses) = (Vec::new(), Vec::new());
        for n in 0..count.max(1) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .thread_name(format!("lane-{n}-blocking"))
                .build()?;
            let (listener, settings) = (listener.try_clone()?, settings.clone());
            let (service, drain) = (service.clone(), drain.clone());
            let pulse = Arc::new(AtomicUsize::new(0));
            pulses.push(Arc::clone(&pulse));
            let lane = move || {
                runtime.block_on(async {
                    tokio::spawn(beat(pulse));
                    match TcpListener::from_std(listener) {
                        Ok(listener) => serve(listener, settings, service, drain.clone()).await,
                        Err(e) => tracing::error!(error = %e, "a lane could not listen"),
                    }
                    // Its connections live on this thread: it goes when they have, or when their time is up.
                    let _ = tokio::time::timeout(limits::DRAIN_MAX, drain.finished()).await;
                });
                runtime.shutdown_timeout(Duration::from_secs(1));
            };
            threads.push(std::thread::Builder::new().name(format!("lane-{n}")).spawn(lane)?);
        }
        Ok(Self { threads, pulses })
    }

    /// How often each lane has come round to its work; a number that stands still is a lane that hangs.
    pub fn pulses(&self) -> Vec<usize> {
        self.pulses.iter().map(|pulse| pulse.load(Ordering::Relaxed)).collect()
    }

    /// Waits for the threads; blocks.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a lane ended by a defect");
            }
        }
    }
}

async fn beat(pulse: Arc<AtomicUsize>) {
    loop {
        pulse.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PULSE_EVERY).await;
    }
}

/// Accepts until draining begins.
pub async fn serve<S: Service>(listener: TcpListener, settings: Settings, service: S, drain: Drain) {
    let started = drain.started();
    let mut started = pin!(started);
    let pace = Arc::new(Semaphore::new(1));
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut started => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(place) = settings.connections.admit(peer.ip()) else { continue };
                let (settings, service, drain) = (settings.clone(), service.clone(), drain.clone());
                let pace = Arc::clone(&pace);
                tokio::spawn(async move {
                    let _guard = drain.guard();
                    connection(stream, peer, settings, service, &drain, &pace).await;
                    drop(place);
                });
            }
            // Out of file descriptors, most likely: pause instead of spinning.
            Err(e) => {
                tracing::warn!(error = %e, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<S: Service>(
    stream: TcpStream,
    address: SocketAddr,
    settings: Settings,
    service: S,
    drain: &Drain,
    pace: &Semaphore,
) {
    // Small answers must not wait for the client's delayed acknowledgements.
    let _ = stream.set_nodelay(true);
    let Some(tls) = settings.tls.clone() else {
        let peer = Peer { address, certificate_sha256: None };
        return speak_http1(stream, peer, &settings, service, drain).await;
    };
    let stream = match handshake(stream, tls, pace, settings.deadlines.handshake).await {
        Ok(stream) => stream,
        Err(e) => return tracing::debug!(peer = %address, error = %e, "TLS handshake failed"),
    };
    let session = stream.get_ref().1;
    let peer = Peer { address, certificate_sha256: tls::peer_certificate_sha256(session) };
    if settings.http2.only || session.alpn_protocol() == Some(b"h2") {
        speak_http2(stream, peer, &settings, service, drain).await;
    } else {
        speak_http1(stream, peer, &settings, service, drain).await;
    }
}

/// A TLS handshake whose one expensive step, the answer to the client's first message, waits for its turn: one at a time
/// on each thread, and only when whatever else is ready has been served. So a fleet that reconnects all at once is let
/// in as fast as the processor can, and those that are connected already hardly notice. A silent client holds no turn,
/// and the wait for a turn is not the client's: its deadline does not run meanwhile.
async fn handshake(
    stream: TcpStream,
    tls: Arc<rustls::ServerConfig>,
    pace: &Semaphore,
    deadline: Duration,
) -> std::io::Result<TlsStream<TcpStream>> {
    tokio::time::timeout(deadline, stream.readable()).await??;
    let turn = tokio::time::timeout(TURN_WAIT_MAX, pace.acquire()).await?.map_err(std::io::Error::other)?;
    // Comes back when the run queue is empty and the sockets have been asked again.
    tokio::task::yield_now().await;
    let mut handshake = TlsAcceptor::from(tls).accept(stream);
    let first = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut handshake).poll(cx))).await;
    drop(turn);
    match first {
        Poll::Ready(done) => done,
        Poll::Pending => tokio::time::timeout(deadline, handshake).await?,
    }
}

async fn speak_http1<S: Service, I>(io: I, peer: Peer, settings: &Settings, service: S, drain: &Drain)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let progress = Progress::default();
    let io = Timed::new(io, progress.clone(), settings.deadlines);
    let answer = service_fn(move |request: Request<Incoming>| {
        let (service, progress) = (service.clone(), progress.clone());
        progress.request();
        async move {
            let response = service.call(request, peer).await;
            progress.answered(response.status() == StatusCode::SWITCHING_PROTOCOLS);
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Of silence between requests; a header that has begun is timed by `Timed`.
        .header_read_timeout(settings.deadlines.idle)
        .max_buf_size(H1_BUFFER_BYTES_MAX)
        .max_headers(H1_HEADERS_MAX)
        .serve_connection(TokioIo::new(io), answer)
        .with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return note(peer.address, result),
        () = drain.started() => connection.as_mut().graceful_shutdown(),
    }
    note(peer.address, connection.await);
}

async fn speak_http2<S: Service, I>(io: I, peer: Peer, settings: &Settings, service: S, drain: &Drain)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity::default());
    let seen = Arc::clone(&activity);
    let answer = service_fn(move |request: Request<Incoming>| {
        let (service, busy) = (service.clone(), Busy::new(&seen));
        async move {
            let response = service.call(request, peer).await;
            Ok::<_, std::convert::Infallible>(response.map(|body| Held::new(body, busy)))
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(settings.deadlines.header)
        .keep_alive_timeout(settings.deadlines.header)
        .max_concurrent_streams(settings.http2.streams_max)
        .max_header_list_size(settings.http2.header_list_bytes_max)
        .max_pending_accept_reset_streams(32)
        .max_local_error_reset_streams(Some(64))
        .serve_connection(TokioIo::new(io), answer);
    let mut connection = pin!(connection);
    // HTTP/2 itself knows no end of idleness: a client that only answers pings would stay for ever, and one that asks
    // and never takes the answers would have them kept for it.
    tokio::select! {
        result = connection.as_mut() => return note(peer.address, result),
        () = drain.started() => {}
        () = activity.idle_for(settings.deadlines.idle) => {}
        () = activity.stalled_for(settings.deadlines.idle) => {
            return tracing::debug!(peer = %peer.address, "a client does not take what it asked for; its connection was closed");
        }
    }
    connection.as_mut().graceful_shutdown();
    let grace = settings.deadlines.idle;
    if let Ok(result) = tokio::time::timeout(grace, connection).await {
        note(peer.address, result);
    }
}

fn note(peer: SocketAddr, result: hyper::Result<()>) {
    if let Err(e) = result {
        tracing::debug!(%peer, error = %e, "connection ended");
    }
}
