//! `bench storm` and `bench reattest`: what a heartbeat on a warm connection notices of a fleet that reconnects and
//! refreshes all at once, or of one that proves its hardware anew within a minute.
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
use crate::crypto::{SigningKey, sha256};
use crate::domains::attestation::{NewRoot, RootKind};
use crate::domains::tenants::Tenants;
use crate::kernel::clock::Stopwatch;
use crate::kernel::context::Origin;
use crate::kernel::ids::{DeviceId, TenantId};
use crate::kernel::{Error, Random};
use crate::testkit::hardware::{AndroidState, Maker, android_key};
use crate::testkit::{Fault, text};

/// Each warm connection sends a heartbeat this often.
const BEAT_EVERY: Duration = Duration::from_millis(100);
/// Heartbeats that each warm connection can send: two minutes.
const BEATS_MAX: usize = 1_200;
/// What of the file descriptors the fleet may take: each connection takes one at both ends.
const FLEET_MAX: usize = 9_000;

/// What the fleet does.
#[derive(Clone)]
pub(super) enum Wave {
    /// Each device connects and refreshes its token, all at the same moment.
    Refresh,
    /// Each device connects and attests by an Android key that this maker vouches for, within a minute.
    Reattest(Arc<Maker>, TenantId),
}

/// How long a wave of attestations takes to come in.
const REATTEST_WITHIN: Duration = Duration::from_secs(60);

pub(super) fn reattest(mut settings: Config, args: &BenchArgs) -> Outcome {
    settings.attestation.require_status_list = false;
    run(settings, args, async |place| {
        let maker = Maker::new("Bench").map_err(|e| Failure::Failed(e.to_string()))?;
        let services = &place.app.services;
        let tenant = services.store.read_with(|s| Tenants::find(s, None)).await?.ok_or(Error::OutcomeUnknown)?.id;
        let new = NewRoot { kind: RootKind::AndroidKey, label: "bench".to_owned(), pem: maker.root_pem() };
        services.attestation.add_root(tenant, new, None, Origin::cli()).await?;
        Ok(Wave::Reattest(Arc::new(maker), tenant))
    })
}

pub(super) fn storm(settings: Config, args: &BenchArgs) -> Outcome {
    run(settings, args, async |_| Ok(Wave::Refresh))
}

fn run(settings: Config, args: &BenchArgs, wave: impl AsyncFnOnce(&Place) -> Result<Wave, Failure>) -> Outcome {
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
    let wave = appliance.block_on(wave(&place))?;
    let report = client.block_on(measure(args, &place, &fleet, &wave))?;
    appliance.block_on(place.app.shut_down());
    drop(place.folder);
    let of = |name: &str| report.get(name).map(ToString::to_string).unwrap_or_default();
    let text = format!(
        "calm p99 {} us; in the storm p99 {} us: {} times; {} devices were served after {} s, {} of them refused\n",
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
    wave: &Wave,
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
        let (endpoint, wave) = (endpoint.clone(), wave.clone());
        let devices: Vec<_> = match wave {
            Wave::Refresh => place.refresh_tokens.iter().map(|token| (None, token.clone())).collect(),
            Wave::Reattest(..) => place.devices.iter().map(|(id, token)| (Some(id.clone()), token.clone())).collect(),
        };
        let (refused, stop) = (Arc::clone(&refused), Arc::clone(&stop));
        fleet.spawn(async move {
            let watch = Stopwatch::start();
            let places = Arc::new(tokio::sync::Semaphore::new(FLEET_MAX));
            let mut running = tokio::task::JoinSet::new();
            let count = u32::try_from(devices.len()).unwrap_or(u32::MAX).max(1);
            for (n, (device, token)) in (0_u32..).zip(devices) {
                let (endpoint, refused, places) = (endpoint.clone(), Arc::clone(&refused), Arc::clone(&places));
                let wave = wave.clone();
                running.spawn(async move {
                    let served = match (wave, device) {
                        (Wave::Reattest(maker, tenant), Some(device)) => {
                            tokio::time::sleep(REATTEST_WITHIN * n / count).await;
                            let _place = places.acquire().await;
                            attest(endpoint, &maker, tenant, &device, &token).await
                        }
                        _ => {
                            let _place = places.acquire().await;
                            refresh(endpoint, &token).await
                        }
                    };
                    if !served {
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

async fn refresh(endpoint: Endpoint, token: &str) -> bool {
    let body = json!({ "refresh_token": token });
    let answer = HttpClient::new(endpoint).post("/v1/auth/refresh", None, &body).await;
    answer.is_ok_and(|a| a.status == 200)
}

async fn attest(endpoint: Endpoint, maker: &Maker, tenant: TenantId, device: &DeviceId, token: &str) -> bool {
    let prove = async || -> Result<u16, Fault> {
        let mut client = HttpClient::new(endpoint);
        let wanted = json!({ "device_id": device });
        let answer = client.post("/v1/attestation/nonce", Some(token), &wanted).await?;
        let nonce = text(&answer.json()?, "nonce");
        let signed = format!("blockremote-attest-v1\n{tenant}\n{device}\n{nonce}");
        let key = SigningKey::generate(&Random::System);
        let mut evidence = android_key(maker, &key, AndroidState::default(), &sha256(signed.as_bytes()))?;
        if let Some(members) = evidence.as_object_mut() {
            members.insert("nonce".to_owned(), nonce.into());
        }
        Ok(client.post(&format!("/v1/devices/{device}/attestation"), Some(token), &evidence).await?.status)
    };
    prove().await.is_ok_and(|status| status == 200)
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
