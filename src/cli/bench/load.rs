//! `bench load`: durable, authenticated, rate-limited, scored heartbeats, side by side with bare hyper.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::args::BenchArgs;
use super::bare::{self, Canned};
use super::median;
use super::place::Place;
use super::runtime;
use crate::agent::motion::{Human, MotionSource};
use crate::cli::args::exit;
use crate::cli::{Failure, Outcome, output};
use crate::client::{Endpoint, HttpClient, tls as client_tls};
use crate::config::Config;
use crate::kernel::Error;
use crate::kernel::clock::Stopwatch;
use crate::kernel::ids::DeviceId;
use crate::net::tls;

/// The measured time is cut into this many turns for each side; the figures are medians over them.
const TURNS: u32 = 5;
/// Memory for requests that are made before the clock runs.
const POOL_BYTES_MAX: usize = 1 << 30;

pub(super) fn run(settings: Config, args: &BenchArgs) -> Outcome {
    // One runtime for the client, one for each server, so that neither lends the other its threads.
    let [client, appliance, yardstick] = [runtime("client")?, runtime("appliance")?, runtime("yardstick")?];
    let place = appliance.block_on(Place::open(settings, args.devices))?;
    let report = client.block_on(measure(args, &place, &yardstick))?;
    appliance.block_on(place.app.shut_down());
    drop(place.folder);
    let text = if args.json { output::json(&report) } else { table(&report) };
    output::to_stdout(&text)?;
    Ok(exit::DONE)
}

async fn measure(
    args: &BenchArgs,
    place: &Place,
    yardstick: &tokio::runtime::Runtime,
) -> Result<serde_json::Value, Failure> {
    let ca = place.config.paths.certs.join("ca.pem");
    let tls = client_tls::trust(&ca, None).map_err(|e| Failure::Failed(e.to_string()))?;
    let address = place.app.addresses.http;
    let canned = sample(place, Arc::clone(&tls), address).await?;
    let server_tls = server_tls(place)?;
    let bare_address =
        yardstick.spawn(async move { bare::http(server_tls, canned).await }).await.map_err(Error::internal)??;
    let turn = Duration::from_secs_f64(f64::from(args.seconds) / f64::from(2 * TURNS));
    let pool = Pool::make(args, &place.devices, 64);
    let mut connections = Vec::new();
    for target in [address, bare_address] {
        connections.push(Fleet::connect(args.connections, target, Arc::clone(&tls)).await?);
    }
    let pool = Arc::new(pool);
    let before = counters(place);
    let mut turns: [Vec<Turn>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        for (fleet, results) in connections.iter_mut().zip(&mut turns) {
            let result = fleet.drive(&pool, turn).await?;
            if result.refused > 0 {
                return Err(Failure::Failed(format!(
                    "{} requests were not answered 200; the figures would mean nothing",
                    result.refused
                )));
            }
            results.push(result);
        }
    }
    let (commits, writes) = counters(place);
    let per_commit = (writes - before.1) / (commits - before.0).max(1.0);
    let [ours, bare] = turns.map(|t| figures(&t, args.readings));
    let ratio = |name: &str| {
        let of = |v: &serde_json::Value| v.get(name).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
        if of(&bare) > 0.0 { of(&ours) / of(&bare) } else { 0.0 }
    };
    let (throughput, p99) = (ratio("requests_per_s"), ratio("p99_us"));
    Ok(json!({
        "connections": args.connections, "devices": args.devices, "readings_per_heartbeat": args.readings,
        "appliance": ours, "bare_hyper": bare, "heartbeats_per_commit": per_commit, "throughput_ratio": throughput, "p99_ratio": p99,
    }))
}

/// Commits so far, and the writes that they carried.
#[expect(clippy::cast_precision_loss, reason = "counts of a bench")]
fn counters(place: &Place) -> (f64, f64) {
    use std::sync::atomic::Ordering::Relaxed;
    let state = place.app.services.store.state();
    (state.commits.load(Relaxed) as f64, state.jobs.load(Relaxed) as f64)
}

/// One real answer of the appliance: what the bare server answers, too.
async fn sample(place: &Place, tls: Arc<rustls::ClientConfig>, address: SocketAddr) -> Result<Canned, Failure> {
    let failed = |e: crate::client::ClientError| Failure::Failed(e.to_string());
    let endpoint = Endpoint::new(&format!("https://localhost:{}", address.port()), tls).map_err(failed)?;
    let (id, token) = place.devices.first().ok_or_else(|| Error::internal("there are no devices"))?;
    let body =
        json!({ "device_id": id, "payload": { "accelerometer": [0.1, 9.79, 0.3], "gyroscope": [0.01, 0.02, -0.03] } });
    let response = HttpClient::new(endpoint).post("/v1/signals/heartbeat", Some(token), &body).await.map_err(failed)?;
    response.success().map_err(failed)?;
    let mut headers = response.headers.clone();
    for ours in ["content-length", "date"] {
        headers.remove(ours);
    }
    Ok(Canned { headers, body: response.body })
}

pub(super) fn server_tls(place: &Place) -> Result<Arc<rustls::ServerConfig>, Failure> {
    let read = |name: &str| std::fs::read_to_string(place.config.paths.certs.join(name));
    let certificate = tls::Certificate::from_pem(&read("server.pem")?, &read("server.key")?)?;
    Ok(Arc::new(tls::server_config(Arc::new(certificate), false, false)?))
}

/// Requests that are made before the clock runs, so that making them is not measured. No two bodies are alike: a device
/// that repeats itself is a loop, and would rightly be blocked.
pub(super) struct Pool {
    heads: Vec<HeaderMap>,
    /// By device: its bodies, in order.
    pub bodies: Vec<Vec<Bytes>>,
}

impl Pool {
    /// At most `each_max` bodies for each of the devices.
    pub fn make(args: &BenchArgs, devices: &[(DeviceId, String)], each_max: usize) -> Self {
        let body_bytes = 160 + 150 * args.readings as usize;
        let each = (POOL_BYTES_MAX / body_bytes / devices.len().max(1)).clamp(1, each_max);
        let bar = indicatif::ProgressBar::new(devices.len() as u64).with_message("making readings");
        let mut heads = Vec::new();
        let mut bodies = Vec::new();
        for (n, (id, token)) in devices.iter().enumerate() {
            let mut human = Human::new(n as u64);
            let bearer = HeaderValue::try_from(format!("Bearer {token}")).unwrap_or(HeaderValue::from_static(""));
            heads.push(HeaderMap::from_iter([
                (HOST, HeaderValue::from_static("localhost")),
                (AUTHORIZATION, bearer),
                (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            ]));
            let make = |_| {
                let mut body = format!("{{\"device_id\":\"{id}\",\"readings\":[");
                for i in 0..args.readings {
                    let reading = human.next_reading();
                    let (a, g) = (reading.accelerometer.unwrap_or_default(), reading.gyroscope.unwrap_or_default());
                    let comma = if i == 0 { "" } else { "," };
                    // Writing to a string does not fail.
                    let _ = write!(
                        body,
                        "{comma}{{\"t_ms\":{},\"accelerometer\":[{:.4},{:.4},{:.4}],\"gyroscope\":[{:.5},{:.5},{:.5}]}}",
                        reading.t_ms, a[0], a[1], a[2], g[0], g[1], g[2]
                    );
                }
                body.push_str("]}");
                Bytes::from(body)
            };
            bodies.push((0..each).map(make).collect());
            bar.inc(1);
        }
        bar.finish_and_clear();
        Self { heads, bodies }
    }
}

/// What one turn gave.
struct Turn {
    took: Duration,
    cpu: Duration,
    latencies_us: Histogram<u64>,
    refused: u64,
}

/// Warm connections to one server.
struct Fleet {
    connections: Vec<Connection>,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Devices of this connection, in turn; then their next bodies.
    device: usize,
    round: usize,
    first: usize,
    step: usize,
}

impl Fleet {
    async fn connect(count: u32, address: SocketAddr, tls: Arc<rustls::ClientConfig>) -> Result<Self, Failure> {
        let mut connections = Vec::new();
        let name = ServerName::try_from("localhost").map_err(Error::internal)?;
        for n in 0..count as usize {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let stream = TlsConnector::from(Arc::clone(&tls)).connect(name.clone(), stream).await?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Error::internal)?;
            tokio::spawn(connection);
            connections.push(Connection { sender, device: n, round: 0, first: n, step: count as usize });
        }
        Ok(Self { connections })
    }

    async fn drive(&mut self, pool: &Arc<Pool>, turn: Duration) -> Result<Turn, Failure> {
        let (watch, cpu) = (Stopwatch::start(), cpu_time());
        let running: Vec<_> = self
            .connections
            .drain(..)
            .map(|connection| tokio::spawn(connection.drive(Arc::clone(pool), watch, turn)))
            .collect();
        let mut total = histogram()?;
        let mut refused = 0;
        for task in running {
            let (connection, latencies, bad) = task.await.map_err(Error::internal)??;
            total.add(latencies).map_err(Error::internal)?;
            refused += bad;
            self.connections.push(connection);
        }
        Ok(Turn { took: watch.elapsed(), cpu: cpu_time().saturating_sub(cpu), latencies_us: total, refused })
    }
}

/// Processor time of this process so far: servers and client together (proc(5), fields 14 and 15 of stat, at 100 Hz).
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = behind_name.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum::<u64>();
    Duration::from_millis(ticks * 10)
}

pub(super) fn histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_bounds(1, 60_000_000, 3).map_err(|e| Failure::Failed(e.to_string()))
}

impl Connection {
    async fn drive(
        mut self,
        pool: Arc<Pool>,
        watch: Stopwatch,
        turn: Duration,
    ) -> Result<(Self, Histogram<u64>, u64), Failure> {
        let mut latencies = histogram()?;
        let mut refused = 0;
        while watch.elapsed() < turn {
            let (Some(head), Some(bodies)) = (pool.heads.get(self.device), pool.bodies.get(self.device)) else { break };
            let Some(body) = bodies.get(self.round) else { break };
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = Method::POST;
            *request.uri_mut() = Uri::from_static("/v1/signals/heartbeat");
            *request.headers_mut() = head.clone();
            let one = Stopwatch::start();
            let response = self.sender.send_request(request).await.map_err(Error::internal)?;
            let ok = response.status() == StatusCode::OK;
            response.into_body().collect().await.map_err(Error::internal)?;
            latencies.saturating_record(u64::try_from(one.elapsed().as_micros()).unwrap_or(u64::MAX));
            refused += u64::from(!ok);
            self.device += self.step;
            if self.device >= pool.heads.len() {
                self.device = self.first;
                self.round += 1;
            }
        }
        Ok((self, latencies, refused))
    }
}

fn figures(turns: &[Turn], readings: u32) -> serde_json::Value {
    #[expect(clippy::cast_precision_loss, reason = "counts of a bench")]
    let rates: Vec<f64> = turns.iter().map(|t| t.latencies_us.len() as f64 / t.took.as_secs_f64()).collect();
    #[expect(clippy::cast_precision_loss, reason = "microseconds")]
    let at = |q: f64| median(turns.iter().map(|t| t.latencies_us.value_at_quantile(q) as f64).collect());
    #[expect(clippy::cast_precision_loss, reason = "counts of a bench")]
    let cpu =
        median(turns.iter().map(|t| t.cpu.as_secs_f64() * 1e6 / (t.latencies_us.len() as f64).max(1.0)).collect());
    let rate = median(rates);
    json!({
        "requests_per_s": rate.round(), "readings_per_s": (rate * f64::from(readings)).round(),
        "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999), "cpu_us_with_client": (cpu * 10.0).round() / 10.0,
    })
}

fn table(report: &serde_json::Value) -> String {
    use crate::cli::output::{Cell, Style, table};
    let value = |side: &str, name: &str| {
        report.get(side).and_then(|s| s.get(name)).map(ToString::to_string).unwrap_or_default()
    };
    let row = |side: &str, label: &str| {
        let names = ["requests_per_s", "readings_per_s", "p50_us", "p99_us", "p999_us", "cpu_us_with_client"];
        std::iter::once(Cell::from(label)).chain(names.map(|n| Cell::from(value(side, n)))).collect::<Vec<_>>()
    };
    let rows = vec![row("appliance", "appliance"), row("bare_hyper", "bare hyper")];
    let heads = ["", "requests/s", "readings/s", "p50 us", "p99 us", "p999 us", "CPU us, client included"];
    let of = |name: &str| report.get(name).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
    format!(
        "{}throughput {:.2} of bare hyper, p99 {:.1} times bare hyper's; {:.1} heartbeats share a commit\n",
        table(Style::stdout(), &heads, rows),
        of("throughput_ratio"),
        of("p99_ratio"),
        of("heartbeats_per_commit")
    )
}
