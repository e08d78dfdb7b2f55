//! Counters, gauges and histograms, and their two text formats.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::otlp::ExportFigures;
use super::process::Process;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    http_request_method: &'static str,
    http_route: &'static str,
    http_response_status_class: &'static str,
}

/// What is read at the moment of a scrape.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauges {
    /// Changes and heartbeats that wait for the writer.
    pub write_queue: u64,
    /// The most that may wait.
    pub write_queue_max: u64,
    /// Changes and heartbeats that were refused because too many waited, since the start.
    pub write_refused: u64,
    /// Syncs of the data file since the start.
    pub syncs: u64,
    /// Seconds that they took.
    pub sync_seconds: f64,
    /// Enrolled devices.
    pub devices: u64,
    /// Sessions in memory.
    pub sessions: u64,
    /// Devices that listen for commands, by WebSocket or gRPC.
    pub sockets: u64,
    /// Client certificates that count.
    pub certificates: u64,
    /// Size of the data file.
    pub store_bytes: u64,
    /// Whether the disk has failed.
    pub store_failed: bool,
    /// Whether the appliance can do its work.
    pub ready: bool,
    /// Anonymous callers that are counted.
    pub anonymous_tokens: u64,
    /// Their networks.
    pub anonymous_networks: u64,
    /// Live counters of anonymous callers that were pushed out by newer ones, since the start.
    pub anonymous_evictions: u64,
    /// Events that wait for an integration.
    pub integration_backlog: u64,
    /// How long ago the oldest of them happened.
    pub integration_oldest_s: u64,
    /// How this process stands.
    pub process: Process,
}

/// What is known of backups, in Unix seconds and bytes; 0 for what never was.
#[derive(Clone, Copy, Debug, Default)]
pub struct BackupFigures {
    /// Whether the appliance makes any by itself.
    pub scheduled: bool,
    /// Whether they are restored for trial here, and not only checked when they are made.
    pub tried: bool,
    /// When the last one was made.
    pub last_s: u64,
    /// When one was last restored for trial, and was sound.
    pub drilled_s: u64,
    /// How long that took.
    pub drill_ms: u64,
    /// Whether none was made, or none restored for trial, for too long.
    pub overdue: bool,
    /// Backups and trials that failed since the start.
    pub failures: u64,
    /// Size of the last one.
    pub bytes: u64,
    /// What of the data file was alive in it.
    pub live_bytes: u64,
}

/// Open connections, the most there may be, and those that were closed at once since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectionFigures {
    /// Open now.
    pub open: u64,
    /// The most there may be.
    pub max: u64,
    /// Closed at once.
    pub refused: u64,
}

type ConnectionSource = Box<dyn Fn() -> ConnectionFigures + Send + Sync>;
type ExportSource = Box<dyn Fn() -> ExportFigures + Send + Sync>;

/// What a scrape samples: name without `_total`, meaning, and whether it only rises.
const SAMPLED: [(&str, &str, bool); 26] = [
    ("blockremote_store_queue_writes", "Changes and heartbeats that wait for the writer", false),
    ("blockremote_store_queue_writes_max", "Changes and heartbeats that may wait for the writer", false),
    ("blockremote_store_refused_writes", "Changes and heartbeats refused because too many waited", true),
    ("blockremote_store_syncs", "Syncs of the data file", true),
    ("blockremote_devices", "Enrolled devices", false),
    ("blockremote_sessions", "Sessions in memory", false),
    ("blockremote_ws_sockets", "Devices that listen for commands, by WebSocket or gRPC", false),
    ("blockremote_client_certificates", "Client certificates of devices that count", false),
    ("blockremote_store_size_bytes", "Size of the data file", false),
    ("blockremote_store_failed", "1 when the disk has failed and nothing more is written", false),
    ("blockremote_anonymous_tokens", "Anonymous callers that are counted", false),
    ("blockremote_anonymous_networks", "Networks of anonymous callers that are counted", false),
    ("blockremote_anonymous_evictions", "Counters of anonymous callers pushed out by newer ones", true),
    ("blockremote_integration_backlog_events", "Events that wait for an integration", false),
    ("blockremote_integration_oldest_seconds", "How long ago the oldest event that waits happened", false),
    ("blockremote_connections", "Open connections, all listeners together", false),
    ("blockremote_connections_max", "Connections that may be open", false),
    ("blockremote_refused_connections", "Connections closed at once because there were too many", true),
    ("blockremote_trace_messages_taken", "Messages of spans that the collector took", true),
    ("blockremote_trace_messages_lost", "Messages of spans that the collector did not take", true),
    ("process_resident_memory_bytes", "Memory of this process that is in RAM", false),
    ("process_virtual_memory_bytes", "Address space of this process", false),
    ("process_open_fds", "Open files and sockets", false),
    ("process_max_fds", "Files and sockets that may be open", false),
    ("process_threads", "Threads of this process", false),
    ("blockremote_ready", "1 while the appliance can do its work", false),
];

enum Sampled {
    Level(Gauge<u64, AtomicU64>),
    Rising(Counter),
}

/// One route's name and method, in the order of the route table.
pub type RouteLabel = (&'static str, &'static str);

const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Everything that is measured.
pub struct Metrics {
    registry: Registry,
    /// By row of the route table (the last: no row) and status class: made at its first use, then touched without a lookup.
    requests: Vec<[OnceLock<(Histogram, Counter)>; CLASSES.len()]>,
    labels: Vec<RouteLabel>,
    family: Family<RequestLabels, Histogram, fn() -> Histogram>,
    alias: Family<AliasLabels, Counter>,
    scoring: Histogram,
    commit: Histogram,
    commit_jobs: Histogram,
    ws_handshake: Histogram,
    refreshes: Family<RefreshLabels, Counter>,
    shadows: Family<ShadowLabels, Counter>,
    deliveries: Family<DeliveryLabels, Counter>,
    backup: (Mutex<BackupFigures>, [Gauge<u64, AtomicU64>; 6]),
    drill_seconds: Gauge<f64, AtomicU64>,
    degraded: Family<PartLabels, Gauge<u64, AtomicU64>>,
    shed: Counter,
    sampled: Vec<Sampled>,
    sync_seconds: Counter<f64, AtomicU64>,
    cpu_seconds: Counter<f64, AtomicU64>,
    connections: OnceLock<ConnectionSource>,
    exports: OnceLock<ExportSource>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartLabels {
    part: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AliasLabels {
    endpoint: &'static str,
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefreshLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShadowLabels {
    active: &'static str,
    shadow: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeliveryLabels {
    kind: &'static str,
    result: &'static str,
}

impl Metrics {
    /// With a series for each route.
    pub fn new(routes: &[RouteLabel]) -> Self {
        let mut registry = Registry::default();
        // 100 microseconds to 6.5 seconds.
        let durations = || Histogram::new(exponential_buckets(0.000_1, 2.0, 17));
        let family = Family::<RequestLabels, Histogram, fn() -> Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.000_1, 2.0, 17))
        });
        registry.register_with_unit(
            "http_server_request_duration",
            "Time from a request's header to its answer, by route and status class",
            Unit::Seconds,
            family.clone(),
        );
        let labels: Vec<RouteLabel> = routes.iter().copied().chain([("other", "other")]).collect();
        let requests = labels.iter().map(|_| Default::default()).collect();
        let scoring = Histogram::new(exponential_buckets(0.000_000_5, 2.0, 16));
        registry.register_with_unit(
            "blockremote_scoring_duration",
            "Time to score one heartbeat, all of its readings together",
            Unit::Seconds,
            scoring.clone(),
        );
        let commit = durations();
        registry.register_with_unit(
            "blockremote_store_commit_duration",
            "Time of one commit, from its first change to the end of its last sync",
            Unit::Seconds,
            commit.clone(),
        );
        let commit_jobs = Histogram::new(exponential_buckets(1.0, 2.0, 11));
        registry.register(
            "blockremote_store_commit_writes",
            "Changes and heartbeats that share one commit",
            commit_jobs.clone(),
        );
        let ws_handshake = durations();
        registry.register_with_unit(
            "blockremote_ws_handshake_duration",
            "Time from the header of an upgrade to an open kill-switch socket",
            Unit::Seconds,
            ws_handshake.clone(),
        );
        let refreshes = Family::<RefreshLabels, Counter>::default();
        registry.register(
            "blockremote_refresh_attempts",
            "Refresh tokens presented, by what came of it",
            refreshes.clone(),
        );
        let shadows = Family::<ShadowLabels, Counter>::default();
        registry.register(
            "blockremote_shadow_decisions",
            "Heartbeats that a shadow judged, by what the active engine and what the shadow decided",
            shadows.clone(),
        );
        let deliveries = Family::<DeliveryLabels, Counter>::default();
        registry.register(
            "blockremote_integration_deliveries",
            "Attempts to tell integrations of events, by kind and by what came of it",
            deliveries.clone(),
        );
        let backup: [Gauge<u64, AtomicU64>; 6] = Default::default();
        let names = [
            ("blockremote_backup_last_timestamp_seconds", "When the last backup was made"),
            ("blockremote_backup_drill_last_timestamp_seconds", "When a backup was last restored for trial and sound"),
            ("blockremote_backup_overdue", "1 when no backup was made, or none restored for trial, for too long"),
            ("blockremote_backup_failures", "Backups and trial restores that failed since the start"),
            ("blockremote_backup_size_bytes", "Size of the last backup"),
            ("blockremote_store_live_bytes", "Size of the data file without its free pages, as of the last backup"),
        ];
        for ((name, help), gauge) in names.into_iter().zip(&backup) {
            registry.register(name, help, gauge.clone());
        }
        let backup = (Mutex::default(), backup);
        let drill_seconds = Gauge::<f64, AtomicU64>::default();
        let help = "How long the last trial restore took";
        registry.register_with_unit("blockremote_backup_drill_duration", help, Unit::Seconds, drill_seconds.clone());
        let degraded = Family::<PartLabels, Gauge<u64, AtomicU64>>::default();
        registry.register(
            "blockremote_degraded",
            "How far a part does less than it should: 0 not at all, more is worse",
            degraded.clone(),
        );
        let shed = Counter::default();
        registry.register("blockremote_requests_shed", "Requests refused for want of memory or disk", shed.clone());
        let mut sampled = Vec::new();
        for (name, help, rising) in SAMPLED {
            sampled.push(if rising {
                let counter = Counter::default();
                registry.register(name, help, counter.clone());
                Sampled::Rising(counter)
            } else {
                let gauge = Gauge::default();
                registry.register(name, help, gauge.clone());
                Sampled::Level(gauge)
            });
        }
        let (sync_seconds, cpu_seconds) = (Counter::default(), Counter::default());
        let help = "Time that syncs of the data file took";
        registry.register_with_unit("blockremote_store_sync", help, Unit::Seconds, sync_seconds.clone());
        let help = "Processor time of this process, user and system";
        registry.register_with_unit("process_cpu", help, Unit::Seconds, cpu_seconds.clone());
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("blockremote_build", "The program", build);
        // The name that the predecessor of this appliance counted its requests under.
        let alias = Family::<AliasLabels, Counter>::default();
        registry.register("api_requests", "Requests by endpoint and method; for older dashboards", alias.clone());
        Self {
            backup,
            registry,
            requests,
            labels,
            family,
            alias,
            scoring,
            commit,
            commit_jobs,
            ws_handshake,
            refreshes,
            shadows,
            deliveries,
            degraded,
            shed,
            sampled,
            drill_seconds,
            sync_seconds,
            cpu_seconds,
            connections: OnceLock::new(),
            exports: OnceLock::new(),
        }
    }

    /// Where the figures of connections come from; the first word counts.
    pub fn connections_by(&self, source: ConnectionSource) {
        let _ = self.connections.set(source);
    }

    /// Where the figures of traces come from; the first word counts.
    pub fn traces_by(&self, source: ExportSource) {
        let _ = self.exports.set(source);
    }

    /// A request was answered; `row` is its place in the route table.
    pub fn request(&self, row: Option<usize>, status: u16, took: Duration) {
        let row = row.filter(|i| *i < self.labels.len()).unwrap_or(self.labels.len().saturating_sub(1));
        let class = usize::from(status / 100);
        let class = if (1..CLASSES.len()).contains(&class) { class } else { 0 };
        let series = self.requests.get(row).and_then(|classes| classes.get(class));
        let (Some(series), Some((http_route, http_request_method)), Some(http_response_status_class)) =
            (series, self.labels.get(row).copied(), CLASSES.get(class).copied())
        else {
            return;
        };
        let labels = RequestLabels { http_request_method, http_route, http_response_status_class };
        let (durations, count) = series.get_or_init(|| {
            let alias = AliasLabels { endpoint: http_route, method: http_request_method };
            (self.family.get_or_create(&labels).clone(), self.alias.get_or_create(&alias).clone())
        });
        durations.observe(took.as_secs_f64());
        count.inc();
    }

    /// A heartbeat was scored.
    pub fn scored(&self, took: Duration, decision: &'static str, shadow: Option<&'static str>) {
        self.scoring.observe(took.as_secs_f64());
        if let Some(shadow) = shadow {
            self.shadows.get_or_create(&ShadowLabels { active: decision, shadow }).inc();
        }
    }

    /// A commit ended.
    pub fn committed(&self, took: Duration, jobs: usize) {
        self.commit.observe(took.as_secs_f64());
        // Counts of jobs are small: exact in a float.
        #[expect(clippy::cast_precision_loss)]
        self.commit_jobs.observe(jobs as f64);
    }

    /// A kill-switch socket was opened.
    pub fn ws_opened(&self, took: Duration) {
        self.ws_handshake.observe(took.as_secs_f64());
    }

    /// A refresh token was presented.
    pub fn refreshed(&self, result: &'static str) {
        self.refreshes.get_or_create(&RefreshLabels { result }).inc();
    }

    /// An integration was told of an event, or not.
    pub fn delivery(&self, kind: &'static str, result: &'static str) {
        self.deliveries.get_or_create(&DeliveryLabels { kind, result }).inc();
    }

    /// Takes over how far each part is degraded; 0: not at all.
    pub fn set_degraded(&self, parts: &[(&'static str, u8)]) {
        for (part, degree) in parts {
            self.degraded.get_or_create(&PartLabels { part }).set((*degree).into());
        }
    }

    /// Takes over how many requests were refused for want of memory or disk since the start.
    pub fn set_shed(&self, total: u64) {
        self.shed.inc_by(total.saturating_sub(self.shed.get()));
    }

    /// Takes over what is read at the moment of a scrape.
    pub fn set_gauges(&self, now: &Gauges) {
        let connections = self.connections.get().map(|source| source()).unwrap_or_default();
        let exported = self.exports.get().map(|source| source()).unwrap_or_default();
        let values: [u64; SAMPLED.len()] = [
            now.write_queue,
            now.write_queue_max,
            now.write_refused,
            now.syncs,
            now.devices,
            now.sessions,
            now.sockets,
            now.certificates,
            now.store_bytes,
            u64::from(now.store_failed),
            now.anonymous_tokens,
            now.anonymous_networks,
            now.anonymous_evictions,
            now.integration_backlog,
            now.integration_oldest_s,
            connections.open,
            connections.max,
            connections.refused,
            exported.taken,
            exported.lost,
            now.process.resident_bytes,
            now.process.virtual_bytes,
            now.process.open_fds,
            now.process.max_fds,
            now.process.threads,
            u64::from(now.ready),
        ];
        for (sampled, value) in self.sampled.iter().zip(values) {
            match sampled {
                Sampled::Level(gauge) => drop(gauge.set(value)),
                Sampled::Rising(counter) => counter.inner().store(value, Ordering::Relaxed),
            }
        }
        self.sync_seconds.inner().store(now.sync_seconds.to_bits(), Ordering::Relaxed);
        self.cpu_seconds.inner().store(now.process.cpu_seconds.to_bits(), Ordering::Relaxed);
    }

    /// What is known of backups now.
    pub fn backup(&self) -> BackupFigures {
        *self.backup.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known of backups.
    pub fn set_backup(&self, change: impl FnOnce(&mut BackupFigures)) {
        let mut known = self.backup.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut known);
        // Milliseconds of a trial: far below what a float tells apart.
        #[expect(clippy::cast_precision_loss)]
        self.drill_seconds.set(known.drill_ms as f64 / 1000.0);
        let values =
            [known.last_s, known.drilled_s, u64::from(known.overdue), known.failures, known.bytes, known.live_bytes];
        for (gauge, value) in self.backup.1.iter().zip(values) {
            gauge.set(value);
        }
    }

    /// The text of a scrape and its media type: OpenMetrics where the scraper asks for it, else Prometheus 0.0.4.
    pub fn exposition(&self, accept: Option<&str>) -> (&'static str, String) {
        let mut out = String::new();
        if text::encode(&mut out, &self.registry).is_err() {
            // Writing to a string does not fail.
            out.clear();
        }
        if accept.is_some_and(|a| a.contains("application/openmetrics-text")) {
            return ("application/openmetrics-text; version=1.0.0; charset=utf-8", out);
        }
        ("text/plain; version=0.0.4; charset=utf-8", classic(&out))
    }
}

/// From OpenMetrics to the older text format: no `# EOF`, no `# UNIT`, counters described under their `_total` name, and
/// information as a gauge.
fn classic(open: &str) -> String {
    let of_type = |kind: &str| -> Vec<&str> {
        open.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(kind)).collect()
    };
    let (counters, infos) = (of_type(" counter"), of_type(" info"));
    let mut out = String::with_capacity(open.len());
    for line in open.lines().filter(|line| *line != "# EOF" && !line.starts_with("# UNIT ")) {
        let described = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        match described.and_then(|rest| rest.split_once(' ')) {
            Some((name, rest)) if counters.contains(&name) => {
                let keyword = line.get(..7).unwrap_or_default();
                out.push_str(&format!("{keyword}{name}_total {rest}"));
            }
            Some((name, rest)) if infos.contains(&name) => {
                let keyword = line.get(..7).unwrap_or_default();
                let rest = if keyword == "# TYPE " { "gauge" } else { rest };
                out.push_str(&format!("{keyword}{name}_info {rest}"));
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}
