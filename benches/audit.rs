//! What the log costs at its length: a page, with and without what is looked for, a proof, a signature, and what a backup
//! beside it does to heartbeats.
//!
//! BLOCKREMOTE_BENCH_ENTRIES says how long the log is made (20,000; the promise is about 10,000,000).

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use blockremote::domains::audit::{self, Action, Filter, NewEntry, ThreatLevel};
use blockremote::kernel::Random;
use blockremote::kernel::clock::Stopwatch;
use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::TenantId;
use blockremote::store::backup::{self, Pace};
use blockremote::testkit::{Fault, Server};
use criterion::{Criterion, criterion_group};

fn entries() -> u64 {
    std::env::var("BLOCKREMOTE_BENCH_ENTRIES").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000)
}

/// A server with a long log, all of everyday entries but the very first of them.
async fn grown() -> Result<(Server, TenantId), Fault> {
    let server = Server::start_with(|config| config.tokens.access_ttl = Duration::from_secs(3_600)).await?;
    let store = &server.app().services.store;
    let tenant = store.read_with(blockremote::domains::tenants::Tenants::first).await?.ok_or("no tenant")?.id;
    let (count, batch) = (entries(), 10_000);
    for from in (0..count).step_by(batch) {
        let clock = server.clock.clone();
        clock.advance(Duration::from_secs(1));
        let change = move |tx: &mut blockremote::store::Tx<'_>| {
            for i in from..(from + batch as u64).min(count) {
                let action = if i == 0 { Action::RefreshReused } else { Action::TokenRefreshed };
                let device = format!("BR-{}", i % 1_000).parse().map_err(blockremote::kernel::Error::internal)?;
                let entry = NewEntry::new(action, &Origin::system()).device(&device).level(ThreatLevel::Low);
                audit::append(tx, tenant, clock.now(), &Random::System, &entry)?;
            }
            Ok(())
        };
        store.write(change).await?;
    }
    Ok((server, tenant))
}

fn log(c: &mut Criterion) {
    let Ok(runtime) = tokio::runtime::Runtime::new() else { return };
    let Ok((server, tenant)) = runtime.block_on(grown()) else { return };
    let audit = server.app().services.audit.clone();
    let mut group = c.benchmark_group("audit");
    let middle = server.clock.now().minus(Duration::from_secs(entries() / 20_000));
    for (name, filter) in [
        ("newest", Filter::default()),
        ("of a device", Filter { device: "BR-7".parse().ok(), ..Filter::default() }),
        ("nothing fits", Filter { level: Some(ThreatLevel::Critical), ..Filter::default() }),
        ("an action", Filter { action: Some(Action::RefreshReused), ..Filter::default() }),
        ("before a moment", Filter { to: Some(middle), ..Filter::default() }),
    ] {
        group.bench_function(format!("page: {name}"), |b| {
            b.iter(|| runtime.block_on(audit.search(tenant, black_box(filter.clone()), None, 50)).is_ok());
        });
    }
    group.bench_function("inclusion proof", |b| {
        b.iter(|| runtime.block_on(audit.prove_inclusion(tenant, black_box(7), Some(entries()))).is_ok());
    });
    group.finish();
}

/// Heartbeats of one device, one after the other; their times in order.
async fn beats(server: &Server, name: &str, count: usize) -> Result<Vec<Duration>, Fault> {
    let mut device = server.enroll(name).await?;
    let body = device.calm();
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        // Within the rate of a plan.
        server.clock.advance(Duration::from_millis(600));
        let watch = Stopwatch::start();
        device.beat(&body).await?.success()?;
        times.push(watch.elapsed());
    }
    times.sort();
    Ok(times)
}

/// Not a statistic of criterion's: the promise is that the slowest hundredth at most doubles.
fn heartbeats_beside_a_backup(_: &mut Criterion) {
    let Ok(runtime) = tokio::runtime::Runtime::new() else { return };
    let measured: Result<_, Fault> = runtime.block_on(async {
        let (server, _) = grown().await?;
        let alone = beats(&server, "BR-alone", 2_000).await?;
        let store = server.app().services.store.clone();
        let to = server.folder().join("copy.redb");
        let copying = tokio::task::spawn_blocking(move || {
            let mut copies = 0;
            while copies < 3 {
                let copied =
                    store.read().and_then(|snapshot| backup::copy(snapshot, &to, &Pace::gentle(Arc::new(|| None))));
                copies += 1;
                if copied.is_err() {
                    break;
                }
            }
        });
        let beside = beats(&server, "BR-beside", 2_000).await?;
        copying.await?;
        Ok((alone, beside))
    });
    match measured {
        Ok((alone, beside)) => {
            let p99 = |times: &[Duration]| times.get(times.len() * 99 / 100).copied().unwrap_or_default();
            eprintln!("heartbeat p99: {:?} alone, {:?} beside a backup", p99(&alone), p99(&beside));
        }
        Err(e) => eprintln!("heartbeats were not measured: {e}"),
    }
}

criterion_group!(benches, log, heartbeats_beside_a_backup);

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
}
