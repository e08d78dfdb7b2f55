//! `bench latency`: from a hostile reading to the lock frame at the device, side by side with a bare WebSocket echo.

use std::sync::Arc;

use hdrhistogram::Histogram;
use serde_json::json;

use super::args::BenchArgs;
use super::place::Place;
use super::{bare, load, runtime};
use crate::agent::motion::{Attack, AttackKind, Human, MotionSource};
use crate::cli::args::exit;
use crate::cli::{Failure, Outcome, output};
use crate::client::frame::{Action, Incoming};
use crate::client::socket::Event;
use crate::client::{Endpoint, Socket, tls};
use crate::config::Config;
use crate::domains::signals::engine::Reading;
use crate::kernel::Error;
use crate::kernel::clock::Stopwatch;

/// Each device is locked once, so each gives one measurement.
const DEVICES_MAX: u32 = 2_000;
/// In the hostile heartbeat; the echo carries the same text.
const READINGS: usize = 25;
/// Calm heartbeats of a hundred readings before it.
const CALM_HEARTBEATS: usize = 4;

pub(super) fn run(settings: Config, args: &BenchArgs) -> Outcome {
    let devices = args.devices.min(DEVICES_MAX);
    let [client, appliance, yardstick] = [runtime("client")?, runtime("appliance")?, runtime("yardstick")?];
    let place = appliance.block_on(Place::open(settings, devices))?;
    let report = client.block_on(measure(&place, &yardstick))?;
    appliance.block_on(place.app.shut_down());
    drop(place.folder);
    let text = if args.json {
        output::json(&report)
    } else {
        let of = |side: &str, name: &str| {
            report.get(side).and_then(|s| s.get(name)).map(ToString::to_string).unwrap_or_default()
        };
        let line = |label: &str, side: &str| {
            format!(
                "{label}: p50 {} us, p99 {} us, p999 {} us\n",
                of(side, "p50_us"),
                of(side, "p99_us"),
                of(side, "p999_us")
            )
        };
        let ratio = report.get("p99_ratio").and_then(serde_json::Value::as_f64).unwrap_or(0.0);
        format!(
            "{devices} devices, one lock each\n{}{}p99 {ratio:.1} times the echo's\n",
            line("hostile reading to lock frame", "lock"),
            line("bare WebSocket echo          ", "echo")
        )
    };
    output::to_stdout(&text)?;
    Ok(exit::DONE)
}

fn failed(e: impl std::fmt::Display) -> Failure {
    Failure::Failed(e.to_string())
}

async fn measure(place: &Place, yardstick: &tokio::runtime::Runtime) -> Result<serde_json::Value, Failure> {
    let trust = tls::trust(&place.config.paths.certs.join("ca.pem"), None).map_err(failed)?;
    let server_tls = load::server_tls(place)?;
    let echo = yardstick.spawn(async move { bare::echo(server_tls).await }).await.map_err(Error::internal)??;
    let ours = Endpoint::new(&format!("https://localhost:{}", place.app.addresses.http.port()), Arc::clone(&trust))
        .map_err(failed)?;
    let bare = Endpoint::new(&format!("https://localhost:{}", echo.port()), trust).map_err(failed)?;
    let mut locks = histogram()?;
    let mut echoes = histogram()?;
    let bar = indicatif::ProgressBar::new(place.devices.len() as u64).with_message("locking devices");
    for (n, (id, token)) in place.devices.iter().enumerate() {
        let mut human = Human::new(n as u64);
        let before: Vec<Reading> = (0..100 * CALM_HEARTBEATS).map(|_| human.next_reading()).collect();
        let mut attack = Attack::new(AttackKind::Mirroring, n as u64, &before);
        // The readings that give it away: mirrored, used, and nobody holds it.
        let during: Vec<Reading> = (0..READINGS).map(|_| attack.next_reading()).collect();
        let hostile = message(id.as_str(), &during);
        let mut socket = Socket::connect(&ours, token).await.map_err(failed)?;
        for calm in before.chunks(100) {
            socket.send_heartbeat(&message(id.as_str(), calm)).await.map_err(failed)?;
            wait_for(&mut socket, |frame| matches!(frame, Some(Incoming::HeartbeatAck(_)))).await?;
        }
        let watch = Stopwatch::start();
        socket.send_heartbeat(&hostile).await.map_err(failed)?;
        wait_for(&mut socket, |frame| matches!(frame, Some(Incoming::Command(c)) if c.action == Action::LockSystem))
            .await?;
        locks.saturating_record(micros(watch));
        socket.close().await;

        let mut socket = Socket::connect(&bare, token).await.map_err(failed)?;
        for turn in 0..2 {
            let watch = Stopwatch::start();
            socket.send_heartbeat(&hostile).await.map_err(failed)?;
            wait_for(&mut socket, |_| true).await?;
            if turn == 1 {
                echoes.saturating_record(micros(watch));
            }
        }
        socket.close().await;
        bar.inc(1);
    }
    bar.finish_and_clear();
    #[expect(clippy::cast_precision_loss, reason = "microseconds")]
    let ratio = locks.value_at_quantile(0.99) as f64 / echoes.value_at_quantile(0.99).max(1) as f64;
    let of = |h: &Histogram<u64>| json!({ "p50_us": h.value_at_quantile(0.5), "p99_us": h.value_at_quantile(0.99), "p999_us": h.value_at_quantile(0.999) });
    Ok(json!({ "devices": place.devices.len(), "lock": of(&locks), "echo": of(&echoes), "p99_ratio": ratio }))
}

fn histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_bounds(1, 60_000_000, 3).map_err(failed)
}

fn micros(watch: Stopwatch) -> u64 {
    u64::try_from(watch.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn message(device: &str, readings: &[Reading]) -> serde_json::Value {
    let list: Vec<_> = readings
        .iter()
        .map(|r| {
            let mut reading = json!({
                "t_ms": r.t_ms, "accelerometer": r.accelerometer, "gyroscope": r.gyroscope,
                "accessibility_active": r.accessibility_active, "window_mirroring": r.window_mirroring,
                "overlay": r.overlay.unwrap_or(0.0),
            });
            if let (Some(touch), Some(members)) = (&r.touch, reading.as_object_mut()) {
                let touch =
                    json!({ "x": touch.x, "y": touch.y, "pressure": touch.pressure, "interval_ms": touch.interval_ms });
                members.insert("touch".to_owned(), touch);
            }
            reading
        })
        .collect();
    json!({ "device_id": device, "readings": list })
}

async fn wait_for(socket: &mut Socket, wanted: impl Fn(Option<&Incoming>) -> bool) -> Result<(), Failure> {
    const FRAMES_MAX: usize = 20;
    for _ in 0..FRAMES_MAX {
        match tokio::time::timeout(std::time::Duration::from_secs(5), socket.next()).await {
            Ok(Event::Frame(frame)) if wanted(Some(&frame)) => return Ok(()),
            Ok(Event::Odd(_)) if wanted(None) => return Ok(()),
            Ok(Event::Frame(Incoming::Error(problem))) => return Err(failed(problem)),
            Ok(Event::Closed(code, reason)) => return Err(failed(format!("the socket was closed: {code:?} {reason}"))),
            Ok(_) => {}
            Err(_) => return Err(failed("no answer within five seconds")),
        }
    }
    Err(failed("the wanted frame did not come"))
}
