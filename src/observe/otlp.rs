//! Spans on their way to a collector: OTLP over HTTP, in batches, by a thread of its own. A collector that is slow or gone
//! costs spans, never requests: what does not fit into the queue is dropped.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider};

/// Spans that wait for the collector.
const QUEUE_SPANS_MAX: usize = 4_096;
/// Spans of one message.
const BATCH_SPANS_MAX: usize = 512;
/// How long spans are gathered for one message.
const GATHERED: Duration = Duration::from_secs(2);
/// How long the end of the process waits for the last ones.
const FLUSH_MAX: Duration = Duration::from_secs(3);

/// Sends a message to the collector; gives status and body of its answer.
pub type Post = Box<dyn Fn(Message) -> Posting + Send + Sync>;
/// A message under way; its error is a sentence for the log.
pub type Posting = Pin<Box<dyn Future<Output = Result<(u16, Vec<u8>), String>> + Send>>;

/// What the collector is sent.
pub struct Message {
    /// Names and values, that of `Authorization` among them.
    pub headers: Vec<(String, String)>,
    /// Protocol buffers, `opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest`.
    pub body: Bytes,
}

/// Where the collector is.
pub struct Collector {
    /// The URL, its path included.
    pub endpoint: String,
    /// The value of `Authorization`, where the collector wants one.
    pub authorization: Option<String>,
    /// The appliance's name among others that send there.
    pub instance: String,
}

/// Messages that the collector took, and those that it did not, since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExportFigures {
    /// Taken.
    pub taken: u64,
    /// Lost.
    pub lost: u64,
}

/// The way to the collector. Cheap to clone.
#[derive(Clone)]
pub struct Export {
    provider: SdkTracerProvider,
    courier: Courier,
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Export")
    }
}

impl Export {
    /// Starts the thread that sends; nothing goes out before [`Export::send_by`] is told how.
    ///
    /// # Errors
    /// A sentence on what is wrong with the collector's address.
    pub fn start(collector: Collector) -> Result<Self, String> {
        let courier = Courier::default();
        let headers: HashMap<_, _> =
            collector.authorization.into_iter().map(|value| ("authorization".to_owned(), value)).collect();
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(courier.clone())
            .with_endpoint(collector.endpoint)
            .with_headers(headers)
            .build()
            .map_err(|e| e.to_string())?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_SPANS_MAX)
            .with_max_export_batch_size(BATCH_SPANS_MAX)
            .with_scheduled_delay(GATHERED)
            .build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let about = [
            KeyValue::new("service.name", "blockremote"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", collector.instance),
        ];
        let resource = Resource::builder_empty().with_attributes(about).build();
        let provider = SdkTracerProvider::builder().with_span_processor(processor).with_resource(resource).build();
        Ok(Self { provider, courier })
    }

    /// Says how messages reach the collector; they are sent on the runtime that this is called in.
    pub fn send_by(&self, post: Post) {
        let runtime = tokio::runtime::Handle::current();
        let _ = self.courier.0.way.set((runtime, post));
    }

    /// What becomes of spans, for the metrics.
    pub fn figures(&self) -> ExportFigures {
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        ExportFigures { taken: of(&self.courier.0.taken), lost: of(&self.courier.0.lost) }
    }

    /// Sends what waits and ends the thread. Blocks for a few seconds at most.
    pub fn shut_down(&self) {
        if let Err(e) = self.provider.shutdown_with_timeout(FLUSH_MAX) {
            tracing::warn!(error = %e, "the last spans did not reach the collector");
        }
    }

    pub(super) fn tracer(&self) -> SdkTracer {
        self.provider.tracer("blockremote")
    }
}

/// Carries messages from the exporter's thread, which has no runtime, to the appliance's.
#[derive(Clone, Default)]
struct Courier(Arc<Carrying>);

#[derive(Default)]
struct Carrying {
    way: OnceLock<(tokio::runtime::Handle, Post)>,
    failing: AtomicBool,
    taken: AtomicU64,
    lost: AtomicU64,
}

impl fmt::Debug for Courier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Courier")
    }
}

impl Courier {
    async fn carry(&self, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
        let (runtime, post) = self.0.way.get().ok_or("the appliance is not ready yet")?;
        let (parts, body) = request.into_parts();
        let headers = parts.headers.iter();
        let headers =
            headers.filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned()))).collect();
        let answer = runtime.spawn(post(Message { headers, body })).await.map_err(|e| e.to_string())?;
        let (status, body) = answer?;
        Response::builder().status(status).body(Bytes::from(body)).map_err(|e| e.to_string())
    }

    /// Says when a collector is lost and when it is back, not with every message.
    fn note(&self, answer: &Result<Response<Bytes>, String>) {
        let why = match answer {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answers {}", response.status())),
            Err(e) => Some(e.clone()),
        };
        let counter = if why.is_none() { &self.0.taken } else { &self.0.lost };
        counter.fetch_add(1, Ordering::Relaxed);
        let failed_before = self.0.failing.swap(why.is_some(), Ordering::Relaxed);
        match why {
            Some(why) if !failed_before => {
                tracing::warn!(
                    why,
                    "the collector of traces (tracing.otlp_endpoint) takes none; spans are lost until it does"
                );
            }
            None if failed_before => tracing::info!("the collector takes traces again"),
            _ => {}
        }
    }
}

impl HttpClient for Courier {
    // Spelled out: the trait is declared by a macro whose crate nothing else here needs.
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let answer = self.carry(request).await;
            self.note(&answer);
            answer.map_err(HttpError::from)
        })
    }
}
