//! `bench storm`: what a heartbeat on a warm connection notices of a fleet that reconnects and refreshes all at once.
//!
//! The fleet runs on this machine, too, but at the lowest priority: in earnest its processors are not the appliance's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::json;

use super::args::BenchArgs;
use super::load::{Pool, histogram};
use super::place::Place;
use super::runtime;
use crate::cli::args::exit;
use crate::cli::{Failure, Outcome, output};
use crate::client::{Endpoint, HttpClient, tls as client_tls};
use crate::config::Config;
use crate::kernel::Error;
use crate::kernel::clock::Stopwatch;

/// Each warm connection sends a heartbeat this often.
const BEAT_EVERY: Duration = Duration::from_millis(100);
/// Heartbeats that each warm connection can send: two minutes.
const BEATS_MAX: usize = 1_200;
/// What of the file descriptors the fleet may take: each connection takes one at both ends.
const FLEET_MAX: usize = 9_000;

pub(super) fn run(settings: Config, args: &BenchArgs) -> Outcome {
    let (appliance, client) = (runtime("appliance")?, runtime("client")?);
    let fleet = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("bench-fleet")
        // Fails only where the kernel knows no priorities.
        .on_thread_start(|| {
            let _ = rustix::process::nice(19);
        })
        .build()?;
    let place = appliance.block_on(Place::open(settings, args.devices))?;
    let report = client.block_on(measure(args, &place, &fleet))?;
    appliance.block_on(place.app.shut_down());
    drop(place.folder);
    let of = |name: &str| report.get(name).map(ToString::to_string).unwrap_or_default();
    let text = format!(
        "calm p99 {} us; in the storm p99 {} us: {} times; {} devices were back after {} s, {} of them refused\n",
        of("calm_p99_us"),
        of("storm_p99_us"),
        of("p99_ratio"),
        of("devices"),
        of("storm_s"),
        of("refused")
    );
    output::to_stdout(&if args.json { output::json(&report) } else { text })?;
    Ok(exit::DONE)
}

async fn measure(
    args: &BenchArgs,
    place: &Place,
    fleet: &tokio::runtime::Runtime,
) -> Result<serde_json::Value, Failure> {
    let failed = |e: crate::client::ClientError| Failure::Failed(e.to_string());
    let trust = client_tls::trust(&place.config.paths.certs.join("ca.pem"), None).map_err(failed)?;
    let url = format!("https://localhost:{}", place.app.addresses.http.port());
    let endpoint = Endpoint::new(&url, trust).map_err(failed)?;
    let warm_devices = place.devices.get(..args.connections as usize).unwrap_or(&place.devices);
    let pool = Arc::new(Pool::make(args, warm_devices, BEATS_MAX));
    let warm = Warm { endpoint: endpoint.clone(), pool, tokens: place.devices.iter().map(|d| d.1.clone()).collect() };
    let calm_for = Duration::from_secs(args.seconds.into());
    let stop = Arc::new(AtomicBool::new(false));
    let stopper = Arc::clone(&stop);
    tokio::spawn(async move {
        tokio::time::sleep(calm_for).await;
        stopper.store(true, Ordering::Relaxed);
    });
    let calm = warm.beat(args.connections, 0, &stop).await?;
    let refused = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let storm = {
        let (tokens, endpoint) = (place.refresh_tokens.clone(), endpoint.clone());
        let (refused, stop) = (Arc::clone(&refused), Arc::clone(&stop));
        fleet.spawn(async move {
            let watch = Stopwatch::start();
            let places = Arc::new(tokio::sync::Semaphore::new(FLEET_MAX));
            let mut running = tokio::task::JoinSet::new();
            for token in tokens {
                let (endpoint, refused, places) = (endpoint.clone(), Arc::clone(&refused), Arc::clone(&places));
                running.spawn(async move {
                    let _place = places.acquire().await;
                    let body = json!({ "refresh_token": token });
                    let answer = HttpClient::new(endpoint).post("/v1/auth/refresh", None, &body).await;
                    if !answer.is_ok_and(|a| a.status == 200) {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            while running.join_next().await.is_some() {}
            stop.store(true, Ordering::Relaxed);
            watch.elapsed()
        })
    };
    let stormy = warm.beat(args.connections, 1, &stop).await?;
    let took = storm.await.map_err(Error::internal)?;
    #[expect(clippy::cast_precision_loss, reason = "microseconds")]
    let at = |h: &Histogram<u64>, q: f64| h.value_at_quantile(q) as f64;
    let ratio = at(&stormy, 0.99) / at(&calm, 0.99).max(1.0);
    Ok(json!({
        "devices": args.devices, "connections": args.connections, "refused": refused.load(Ordering::Relaxed),
        "calm_p50_us": at(&calm, 0.5), "calm_p99_us": at(&calm, 0.99), "calm_beats": calm.len(),
        "storm_p50_us": at(&stormy, 0.5), "storm_p99_us": at(&stormy, 0.99), "storm_beats": stormy.len(),
        "p99_ratio": (ratio * 100.0).round() / 100.0, "storm_s": (took.as_secs_f64() * 10.0).round() / 10.0,
    }))
}

/// Devices that are connected already.
struct Warm {
    endpoint: Endpoint,
    pool: Arc<Pool>,
    tokens: Vec<String>,
}

impl Warm {
    /// Sends heartbeats at their pace until `stop`; each connection is one device. `part`: which part of its readings.
    async fn beat(&self, connections: u32, part: usize, stop: &Arc<AtomicBool>) -> Result<Histogram<u64>, Failure> {
        let mut running = tokio::task::JoinSet::new();
        for n in 0..(connections as usize).min(self.tokens.len()) {
            let (endpoint, pool, stop) = (self.endpoint.clone(), Arc::clone(&self.pool), Arc::clone(stop));
            let token = self.tokens.get(n).cloned().unwrap_or_default();
            running.spawn(async move {
                let mut latencies = histogram()?;
                let mut client = HttpClient::new(endpoint);
                let bodies = pool.bodies.get(n).map(Vec::as_slice).unwrap_or_default();
                let half = bodies.len() / 2;
                // Not all at the same moment.
                tokio::time::sleep(BEAT_EVERY.mul_f64(f64::from(u32::try_from(n % 64).unwrap_or(0)) / 64.0)).await;
                let bearer = format!("Bearer {token}");
                let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
                for (i, body) in bodies.iter().skip(part * half).take(half).enumerate() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let one = Stopwatch::start();
                    let method = hyper::Method::POST;
                    let answer = client.request(method, "/v1/signals/heartbeat", &headers, body.clone()).await;
                    let answer = answer.map_err(|e| Failure::Failed(e.to_string()))?;
                    if answer.status != 200 {
                        return Err(Failure::Failed(format!("a heartbeat was answered {}", answer.status)));
                    }
                    // The first one opens the connection.
                    if i > 0 {
                        latencies.saturating_record(u64::try_from(one.elapsed().as_micros()).unwrap_or(u64::MAX));
                    }
                    tokio::time::sleep(BEAT_EVERY).await;
                }
                Ok::<_, Failure>(latencies)
            });
        }
        let mut total = histogram()?;
        while let Some(done) = running.join_next().await {
            total.add(done.map_err(Error::internal)??).map_err(Error::internal)?;
        }
        Ok(total)
    }
}
