//! `bench restart`: how long a start takes with every device's rings full, after a clean stop, and after a stop that left
//! them in the journal.

use std::sync::Arc;

use serde_json::json;

use super::args::BenchArgs;
use super::place::Place;
use super::runtime;
use crate::agent::motion::{Human, MotionSource};
use crate::app::{App, Environment};
use crate::cli::args::exit;
use crate::cli::{Failure, Outcome, output};
use crate::config::Config;
use crate::domains::signals::Heartbeat;
use crate::kernel::Error;
use crate::kernel::clock::Stopwatch;
use crate::kernel::context::Origin;

/// Heartbeats under way at the same time.
const AT_ONCE: usize = 256;

pub(super) fn run(settings: Config, args: &BenchArgs) -> Outcome {
    let runtime = runtime("appliance")?;
    let report = runtime.block_on(measure(settings, args))?;
    let shown = if args.json {
        output::json(&report)
    } else {
        let of = |name: &str| report.get(name).map(ToString::to_string).unwrap_or_default();
        format!(
            "{} devices with full rings: start in {} s from the checkpoint, in {} s from the journal; data file {} MiB\n",
            of("devices"),
            of("from_checkpoint_s"),
            of("from_journal_s"),
            of("data_mib")
        )
    };
    output::to_stdout(&shown)?;
    Ok(exit::DONE)
}

async fn measure(settings: Config, args: &BenchArgs) -> Result<serde_json::Value, Failure> {
    let mut place = Place::open(settings, args.devices).await?;
    let devices = std::mem::take(&mut place.devices);
    fill(&place.app, &devices).await?;
    place.app.shut_down().await;
    // Nothing was idle long enough for a checkpoint of the last readings: most rings come from the journal.
    let watch = Stopwatch::start();
    let (app, _) = App::start(&place.config, &Environment::system()).await?;
    let from_journal = watch.elapsed();
    let bar = indicatif::ProgressBar::new_spinner().with_message("waiting for the checkpoint");
    while app.services.signals.unfolded() > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        bar.tick();
    }
    bar.finish_and_clear();
    app.shut_down().await;
    let watch = Stopwatch::start();
    let (app, _) = App::start(&place.config, &Environment::system()).await?;
    let from_checkpoint = watch.elapsed();
    let bytes = std::fs::metadata(app.services.store.path())?.len();
    app.shut_down().await;
    drop(place.folder);
    Ok(json!({
        "devices": args.devices,
        "from_checkpoint_s": from_checkpoint.as_secs_f64(),
        "from_journal_s": from_journal.as_secs_f64(),
        "data_mib": bytes >> 20,
    }))
}

/// A full ring for each device.
async fn fill(app: &App, devices: &[(crate::kernel::ids::DeviceId, String)]) -> Result<(), Failure> {
    let bar = indicatif::ProgressBar::new(devices.len() as u64).with_message("filling rings");
    let mut running = tokio::task::JoinSet::new();
    for (n, entry) in app.services.devices.entries().into_iter().enumerate() {
        if running.len() >= AT_ONCE
            && let Some(done) = running.join_next().await
        {
            done.map_err(Error::internal)??;
            bar.inc(1);
        }
        let services = Arc::clone(&app.services);
        running.spawn(async move {
            let mut human = Human::new(n as u64);
            let readings = (0..100).map(|_| human.next_reading()).collect();
            let beat = Heartbeat { seq: None, readings };
            let session = entry.device().session.ok_or_else(|| Error::internal("a device without a session"))?;
            services.signals.heartbeat(&entry, session, None, beat, Origin::cli()).await.map(drop)
        });
    }
    while let Some(done) = running.join_next().await {
        done.map_err(Error::internal)??;
    }
    bar.finish_and_clear();
    Ok(())
}
