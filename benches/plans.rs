//! What plans cost: a flag's evaluation, the decision on a limit beside the write that it guards, two years of usage.

use std::hint::black_box;
use std::time::Duration;

use blockremote::domains::flags::{Definition, Flag, Work};
use blockremote::domains::metering::{self, Counts, Measure, Span, day_at};
use blockremote::domains::tenants::{Quota, Tenants};
use blockremote::kernel::Timestamp;
use blockremote::kernel::clock::Stopwatch;
use blockremote::kernel::ids::{TenantId, UserId};
use blockremote::store::tables::{Key, USAGE_COUNTS};
use blockremote::testkit::{Fault, Server};
use criterion::{Criterion, criterion_group};
use serde_json::json;

fn flag() -> Result<Flag, Fault> {
    let definition: Definition = serde_json::from_value(json!({
        "variants": { "on": true, "off": false },
        "off_variant": "off",
        "rules": [{
            "when": [{ "attribute": "company", "is": "in", "values": ["acme", "initech", "hooli"] }],
            "serve": { "variant": "on" },
        }],
        "otherwise": { "percent": { "on": 25, "off": 75 } },
    }))?;
    let now = Timestamp::EPOCH;
    Ok(Flag { key: "banner".to_owned(), definition, created_at: now, updated_at: now, updated_by: UserId::NIL })
}

fn flags(c: &mut Criterion) {
    let Ok(flag) = flag() else { return };
    let mut group = c.benchmark_group("flags");
    for (name, context) in [
        ("a rule fits", json!({ "targetingKey": "zoe", "company": "hooli" })),
        ("a share of a rollout", json!({ "targetingKey": "zoe", "company": "other" })),
    ] {
        let Some(context) = context.as_object().cloned() else { continue };
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut work = Work::REQUEST;
                black_box(&flag).evaluate(black_box(&context), Timestamp::EPOCH, &mut work).is_ok()
            });
        });
    }
    group.finish();
}

const DAYS: u64 = 730;

/// A server with two years of usage, and its first company.
async fn used() -> Result<(Server, TenantId), Fault> {
    let server = Server::start().await?;
    let store = &server.app().services.store;
    let tenant = store.read_with(Tenants::first).await?.ok_or("no tenant")?.id;
    let today = day_at(server.clock.now());
    let change = move |tx: &mut blockremote::store::Tx<'_>| {
        for day in today - DAYS..=today {
            let mut counts = Counts::default();
            for measure in Measure::ALL {
                counts.add(*measure, day * 1_000);
            }
            tx.put(USAGE_COUNTS, Key::new().bytes(tenant.to_bytes()).byte(Span::Day.byte()).number(day), &counts)?;
        }
        Ok(())
    };
    store.write(change).await?;
    Ok((server, tenant))
}

fn with_server(c: &mut Criterion) {
    let Ok(runtime) = tokio::runtime::Runtime::new() else { return };
    let Ok((server, tenant)) = runtime.block_on(used()) else { return };
    let services = server.app().services.clone();
    let today = day_at(server.clock.now());
    let mut group = c.benchmark_group("plans");
    group.bench_function("usage over two years of days", |b| {
        b.iter(|| runtime.block_on(services.metering.usage(tenant, today - DAYS, today, Span::Day)).is_ok());
    });
    // Inside one transaction, so that neither the commit nor the queue is measured.
    let inside = |work: fn(&blockremote::domains::Services, &mut blockremote::store::Tx<'_>, TenantId, Timestamp)| {
        let (services, now) = (services.clone(), server.clock.now());
        move |times: u64| {
            let services = services.clone();
            let took = services.clone().store.write_blocking(move |tx| {
                let watch = Stopwatch::start();
                (0..times).for_each(|_| work(&services, tx, tenant, now));
                Ok(watch.elapsed())
            });
            took.unwrap_or(Duration::MAX)
        }
    };
    group.bench_function("decide on a limit and count the place", |b| {
        b.iter_custom(inside(|services, tx, tenant, _| {
            let place = services.billing.admit(tx, tenant, Quota::Users, 1);
            let _ = black_box(place.and_then(|place| place.note(tx)));
        }));
    });
    group.bench_function("count one thing for the day", |b| {
        b.iter_custom(inside(|_, tx, tenant, now| {
            let _ = black_box(metering::count(tx, tenant, Measure::Locks, 1, now));
        }));
    });
    group.finish();
    runtime.block_on(async move {
        let mut server = server;
        server.stop().await;
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = flags, with_server
}

/// Made by hand, because the macro's main has no document.
fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
}
