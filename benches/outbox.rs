//! What telling others costs: events a second from the outbox to a receiver on this machine, each of a device of its own,
//! committed, signed, sent, answered and settled.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blockremote::domains::audit::{self, Action, NewEntry};
use blockremote::domains::integrations::{Kind, Wanted, WantedTarget};
use blockremote::domains::tenants::Tenants;
use blockremote::kernel::Random;
use blockremote::kernel::clock::Stopwatch;
use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::{TenantId, UserId};
use blockremote::testkit::{Fault, Server};
use criterion::{Criterion, Throughput, criterion_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers every request, and counts them. Requests of ours come in one piece.
async fn receiver() -> Result<(u16, Arc<AtomicU64>), Fault> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (port, count) = (listener.local_addr()?.port(), Arc::new(AtomicU64::new(0)));
    let counting = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counting = Arc::clone(&counting);
            tokio::spawn(async move {
                let mut request = [0; 8_192];
                while stream.read(&mut request).await.is_ok_and(|n| n > 0) {
                    counting.fetch_add(1, Ordering::Relaxed);
                    if stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok((port, count))
}

async fn start() -> Result<(Server, TenantId, Arc<AtomicU64>), Fault> {
    let allow = "127.0.0.1".parse()?;
    let server = Server::start_with(|c| c.integrations.allow_addresses = vec![allow]).await?;
    let tenant = server.app().services.store.read_with(Tenants::first).await?.ok_or("no tenant")?.id;
    let (port, count) = receiver().await?;
    let target = WantedTarget { url: Some(format!("http://127.0.0.1:{port}/hook")), ..WantedTarget::default() };
    let events = Some(vec!["*".to_owned()]);
    let wanted = Wanted { name: Some("a receiver".to_owned()), events, enabled: None, target };
    let integrations = &server.app().services.integrations;
    integrations.create(tenant, Kind::Webhook, wanted, UserId::NIL, None, Origin::cli()).await?;
    Ok((server, tenant, count))
}

const EVENTS: u64 = 1_000;

/// Writes a thousand events, each about another device, and waits until nothing of them waits any more.
async fn tell(server: &Server, tenant: TenantId, count: &AtomicU64) -> Result<Duration, Fault> {
    let (services, now) = (Arc::clone(&server.app().services), server.clock.now());
    let before = count.load(Ordering::Relaxed);
    let devices: Vec<_> = (0..EVENTS).map(|n| format!("BR-{n}").parse()).collect::<Result<_, _>>()?;
    let watch = Stopwatch::start();
    let change = move |tx: &mut blockremote::store::Tx<'_>| {
        for device in &devices {
            let entry = NewEntry::new(Action::DeviceBlocked, &Origin::system()).device(device).reason("a bench");
            audit::append(tx, tenant, now, &Random::System, &entry)?;
        }
        Ok(())
    };
    services.store.write(change).await?;
    for _ in 0..10_000 {
        if count.load(Ordering::Relaxed) >= before + EVENTS && services.integrations.figures().backlog == 0 {
            return Ok(watch.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Err("the events did not arrive".into())
}

fn outbox(c: &mut Criterion) {
    let Ok(runtime) = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() else {
        return;
    };
    let Ok((server, tenant, count)) = runtime.block_on(start()) else { return };
    let mut group = c.benchmark_group("outbox");
    group.sample_size(10).throughput(Throughput::Elements(EVENTS));
    group.bench_function("a thousand events to a receiver", |b| {
        b.iter_custom(|times| {
            let mut took = Duration::ZERO;
            for _ in 0..times {
                took += runtime.block_on(tell(&server, tenant, &count)).unwrap_or(Duration::MAX / 1_000);
            }
            took
        });
    });
    group.finish();
    runtime.block_on(async move {
        let mut server = server;
        server.stop().await;
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(5));
    targets = outbox
}

/// Made by hand, because the macro's main has no document.
fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
}
