//! What five million indicators cost: memory, taking them in, and one lookup in them, each for a value that was not asked
//! for lately, so that nothing of it lies in the processor's caches.

use std::hint::black_box;
use std::time::Duration;

use blockremote::domains::intel::{Asker, Confidence, Format, Intel, Kind, NewFeed, Scope, Settings, dns_score};
use blockremote::domains::tenants::Tenants;
use blockremote::kernel::clock::Stopwatch;
use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::TenantId;
use blockremote::kernel::{Clock, Random};
use blockremote::store::{Options, Store, WriterParts};
use blockremote::testkit::{Fault, Folder};
use criterion::{Criterion, criterion_group};

const HASHES: u64 = 2_000_000;
const DOMAINS: u64 = 2_000_000;
const PACKAGES: u64 = 500_000;
const ADDRESSES: u64 = 450_000;
const NETWORKS: u64 = 50_000;

fn mixed(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 31)
}

fn hash(n: u64) -> String {
    (0..4).map(|i| format!("{:016x}", mixed(n * 4 + i))).collect()
}

fn domain(n: u64) -> String {
    format!("host-{:x}.example-{:x}.net", mixed(n) & 0xffff, n)
}

fn package(n: u64) -> String {
    format!("com.maker{:x}.app{:x}", mixed(n) & 0xffff, n)
}

/// Global unicast, outside of every reserved network.
fn address(n: u64) -> String {
    format!("2a00:{:x}:{:x}::{:x}", mixed(n) & 0xffff, (mixed(n) >> 16) & 0xffff, n & 0xffff)
}

/// Resident memory of this process, in MiB.
fn resident_mib() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = statm.split(' ').nth(1).and_then(|p| p.parse().ok()).unwrap_or(0.0);
    pages * 4_096.0 / f64::from(1 << 20)
}

/// Time that this thread had a processor: others on the machine do not count.
fn on_processor() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

fn content() -> String {
    let mut out = String::with_capacity(300 << 20);
    let mut line = |text: &str| {
        out.push_str(text);
        out.push('\n');
    };
    (0..HASHES).for_each(|n| line(&hash(n)));
    (0..DOMAINS).for_each(|n| line(&domain(n)));
    (0..PACKAGES).for_each(|n| line(&format!("package:{}", package(n))));
    (0..ADDRESSES).for_each(|n| line(&address(n)));
    (0..NETWORKS).for_each(|n| line(&format!("2a01:{:x}:{:x}::/{}", mixed(n) & 0xffff, n & 0xffff, 32 + n % 33)));
    out
}

fn print(text: &str) {
    use std::io::Write;
    // A closed standard output leaves nobody to tell.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn filled(folder: &Folder) -> Result<(Intel, Store), Fault> {
    let store = Store::open(&folder.path().join("x.redb"), Options::default(), true)?;
    store.start(WriterParts::plain(Clock::System))?;
    let open = || {
        let settings = Settings {
            stale_after: Duration::from_secs(7 * 86_400),
            indicators_max: 10_000_000,
            tenant_indicators_max: 10_000_000,
            critical: Confidence::new(90),
        };
        Intel::rebuild(store.clone(), Tenants::rebuild(store.clone())?, Clock::System, Random::System, settings)
    };
    let intel = open()?;
    let new = NewFeed {
        scope: Scope::Global,
        name: "five-million".parse()?,
        source: "a bench".to_owned(),
        format: Format::Text,
        kind: None,
        confidence: Confidence::new(80),
        lifetime: None,
        stale_after: None,
        may_be_empty: false,
    };
    let asker = Asker { by: None, log: TenantId::NIL, origin: Origin::cli() };
    let content = content().into_bytes();
    let (bytes, watch) = (content.len() >> 20, Stopwatch::start());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let imported = runtime.block_on(intel.import(new, content, asker))?;
    let took = watch.elapsed();
    print(&format!("taking in {} indicators ({bytes} MiB): {:.1} s", imported.feed.counts.total(), took.as_secs_f64()));
    drop(intel);
    let (before, watch) = (resident_mib(), Stopwatch::start());
    let intel = open()?;
    let (indicators, index_bytes) = intel.size();
    print(&format!("reading them at a start: {:.1} s", watch.elapsed().as_secs_f64()));
    print(&format!(
        "memory of {indicators} indicators: {:.0} MiB in the index; the process grew by {:.0} MiB to {:.0} MiB",
        index_bytes as f64 / f64::from(1 << 20),
        resident_mib() - before,
        resident_mib()
    ));
    Ok((intel, store))
}

fn lookups(c: &mut Criterion) {
    let Ok(folder) = Folder::new() else { return };
    let (intel, store) = match filled(&folder) {
        Ok(filled) => filled,
        Err(e) => return print(&format!("not measured: {e}")),
    };
    let tenant = TenantId::from_bytes([1; 16]);
    let mut group = c.benchmark_group("intel");
    type Make = fn(u64) -> String;
    let cases: [(&str, Kind, Make, u64); 7] = [
        ("hash, listed", Kind::FileHash, hash, HASHES),
        ("hash, not listed", Kind::FileHash, |n| hash(n + HASHES), HASHES),
        ("domain, listed by suffix", Kind::Domain, |n| format!("a.{}", domain(n)), DOMAINS),
        ("domain of four labels, not listed", Kind::Domain, |n| format!("a.b{n}.host.example"), DOMAINS),
        ("package, not listed", Kind::Package, |n| package(n + PACKAGES), PACKAGES),
        ("address, listed", Kind::Address, address, ADDRESSES),
        (
            "address, in no network",
            Kind::Address,
            |n| format!("2a01:{:x}:{:x}:ffff:ffff::1", n & 0xffff, mixed(n) & 0xffff),
            ADDRESSES,
        ),
    ];
    for (name, kind, make, count) in cases {
        let values: Vec<String> = (0..400_000).map(|n| make(mixed(n) % count)).collect();
        let mut next = values.iter().cycle();
        group.bench_function(name, |b| {
            b.iter_custom(|times| {
                let before = on_processor();
                for value in next.by_ref().take(usize::try_from(times).unwrap_or(usize::MAX)) {
                    black_box(intel.look_up(tenant, kind, value));
                }
                on_processor().saturating_sub(before)
            });
        });
    }
    let names: Vec<String> = (0..10_000).map(domain).collect();
    let mut next = names.iter().cycle();
    group.bench_function("dns_score", |b| b.iter(|| next.next().map(|name| black_box(dns_score(name)))));
    group.finish();
    store.stop();
}

criterion_group!(intel, lookups);

fn main() {
    intel();
    Criterion::default().configure_from_args().final_summary();
}
