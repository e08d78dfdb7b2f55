//! `bench sessions`: memory of living sessions, by what the process grows while more of them are opened.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::args::BenchArgs;
use super::place::{Place, wanted};
use super::runtime;
use super::sockets::resident_kib;
use crate::cli::args::exit;
use crate::cli::{Failure, Outcome, output};
use crate::config::Config;
use crate::domains::iam::{EnrollmentBy, TokenSpec};
use crate::kernel::Error;
use crate::kernel::context::Origin;

/// Sessions that are opened before the counting begins: caches and tables have found their size by then.
const WARM_UP: u32 = 50_000;
const AT_ONCE: usize = 256;

pub(super) fn run(settings: Config, args: &BenchArgs) -> Outcome {
    let runtime = runtime("appliance")?;
    let report = runtime.block_on(async {
        let place = Place::open(settings, 1).await?;
        let report = measure(args, &place).await?;
        place.app.shut_down().await;
        drop(place.folder);
        Ok::<_, Failure>(report)
    })?;
    let of = |name: &str| report.get(name).map(ToString::to_string).unwrap_or_default();
    let text = format!("{} sessions take {} MiB: {} bytes each\n", of("sessions"), of("mib"), of("bytes_per_session"));
    output::to_stdout(&if args.json { output::json(&report) } else { text })?;
    Ok(exit::DONE)
}

async fn measure(args: &BenchArgs, place: &Place) -> Result<serde_json::Value, Failure> {
    let pid = std::process::id();
    open_sessions(place, WARM_UP).await?;
    let before = resident_kib(pid)?;
    open_sessions(place, args.devices).await?;
    let grown_kib = resident_kib(pid)?.saturating_sub(before);
    let held = place.app.services.iam.session_count();
    let each = f64::from(u32::try_from(grown_kib).unwrap_or(u32::MAX)) * 1024.0 / f64::from(args.devices);
    Ok(json!({
        "sessions": args.devices, "mib": grown_kib / 1024, "bytes_per_session": each.round(), "held_in_all": held,
    }))
}

/// One device enrolls again and again: each time its session before ends, but stays in memory until its refresh token
/// could never come back. So a session is all that each enrollment adds.
async fn open_sessions(place: &Place, count: u32) -> Result<(), Failure> {
    let (id, _) = place.devices.first().ok_or_else(|| Error::internal("there is no device"))?;
    let services = Arc::clone(&place.app.services);
    let tenant =
        services.tenants.entries().first().map(|t| t.id).ok_or_else(|| Error::internal("there is no tenant"))?;
    let spec = TokenSpec { lifetime: Duration::from_secs(86_400), uses_max: None, device: Some(id.clone()) };
    let right = services.iam.new_enrollment_token(tenant, None, spec, Origin::cli()).await?;
    let bar = indicatif::ProgressBar::new(u64::from(count)).with_message("opening sessions");
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..count {
        if running.len() >= AT_ONCE
            && let Some(done) = running.join_next().await
        {
            done.map_err(Error::internal)??;
        }
        let (services, id, token) = (Arc::clone(&services), id.clone(), right.clone());
        running.spawn(async move {
            services.iam.enroll(wanted(&id), EnrollmentBy::Token(token), Origin::cli()).await.map(drop)
        });
        bar.inc(1);
    }
    while let Some(done) = running.join_next().await {
        done.map_err(Error::internal)??;
    }
    bar.finish_and_clear();
    Ok(())
}
