//! The parts of a heartbeat's way, one by one: scorer, ring, codec, token check, rate limiter; and an API key's check.

use std::hint::black_box;

use blockremote::agent::motion::{Human, MotionSource};
use blockremote::crypto::{JwtPolicy, SigningKey, sign_compact, verify_jwt};
use blockremote::domains::iam::anonymous::{Bounds, Windows};
use blockremote::domains::iam::{NewKey, Permission, PermissionSet};
use blockremote::domains::signals::api::HeartbeatRequest;
use blockremote::domains::signals::engine::{DeviceEngine, Policy, Reading, Sensors};
use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::{TenantId, UserId};
use blockremote::kernel::rate::{Quota, SlidingWindow};
use blockremote::kernel::{Random, Timestamp};
use blockremote::testkit::{Fault, Server, text};
use criterion::{Criterion, Throughput, criterion_group};
use std::sync::Arc;
use std::time::Duration;

fn readings(n: usize) -> Vec<Reading> {
    let mut human = Human::new(7);
    (0..n).map(|_| human.next_reading()).collect()
}

fn scorer(c: &mut Criterion) {
    let input = readings(10_000);
    let mut engine = DeviceEngine::new(Sensors::default());
    input.iter().for_each(|r| engine.push(r));
    let policy = Policy::default();
    let mut group = c.benchmark_group("scorer");
    group.bench_function("assess", |b| b.iter(|| black_box(&engine).assess(black_box(&policy))));
    let mut next = input.iter().cycle();
    group.bench_function("ring push", |b| {
        b.iter(|| {
            if let Some(reading) = next.next() {
                engine.push(black_box(reading));
            }
        });
    });
    group.bench_function("simplified push", |b| {
        let mut engine = engine.clone();
        b.iter(|| {
            if let Some(reading) = next.next() {
                engine.push_simplified(black_box(reading));
            }
        });
    });
    group.bench_function("digest", |b| {
        let assessment = engine.assess(&policy);
        b.iter(|| black_box(&assessment).digest());
    });
    // What a heartbeat keeps aside in case it leads to a decision, and what a checkpoint and a restart do.
    group.bench_function("state, clone", |b| b.iter(|| black_box(&engine).clone()));
    let mut state = Vec::new();
    group.bench_function("state, encode", |b| {
        b.iter(|| {
            state.clear();
            black_box(&engine).encode(&mut state);
        });
    });
    group
        .bench_function("state, decode", |b| b.iter(|| DeviceEngine::decode(&mut black_box(state.as_slice())).is_ok()));
    group.finish();
}

fn codec(c: &mut Criterion) {
    let input = readings(100);
    let mut bytes = Vec::new();
    input.iter().for_each(|r| r.encode(&mut bytes));
    let mut group = c.benchmark_group("codec");
    group.throughput(Throughput::Elements(100));
    group.bench_function("encode 100 readings", |b| {
        let mut out = Vec::with_capacity(bytes.len());
        b.iter(|| {
            out.clear();
            black_box(&input).iter().for_each(|r| r.encode(&mut out));
        });
    });
    group.bench_function("decode 100 readings", |b| {
        b.iter(|| {
            let mut rest = black_box(bytes.as_slice());
            while Reading::decode(&mut rest).is_ok() {}
        });
    });
    let json = r#"{"device_id":"BR-1","seq":42,"sent_at":"2026-01-01T00:00:00Z","payload":{"accelerometer":[0.1,9.79,0.3],
        "gyroscope":[0.01,0.02,-0.03],"overlay":0.0,"proximity":1.0,"touch":{"x":0.4,"y":0.7,"pressure":0.31,"interval_ms":180},
        "network":{"rx_bytes":1200,"tx_bytes":300,"rtt_ms":14,"connections":6,"dns":["example.org"]},
        "accessibility_active":false,"window_mirroring":false,"rooted":false,"debugger":false}}"#;
    group.throughput(Throughput::Elements(1));
    group.bench_function("parse one heartbeat's JSON", |b| {
        b.iter(|| serde_json::from_str::<HeartbeatRequest>(black_box(json)).is_ok());
    });
    group.finish();
}

fn tokens(c: &mut Criterion) {
    let key = SigningKey::generate(&Random::seeded(1));
    let verifier = Arc::new(key.verifying().clone());
    let policy = JwtPolicy {
        issuer: "https://blockremote".to_owned(),
        audience: "blockremote".to_owned(),
        typ: "at+jwt".to_owned(),
        leeway_s: 30,
        max_lifetime_s: 900,
    };
    let now = Timestamp::from_millis(1_767_225_600_000);
    let claims = serde_json::json!({
        "iss": policy.issuer, "aud": policy.audience, "sub": "usr_x", "jti": "tok_x", "tenant": "ten_x", "sid": "ses_x",
        "iat": now.as_secs(), "nbf": now.as_secs(), "exp": now.as_secs() + 900, "typ": "access", "scope": "device",
    });
    let token = sign_compact("at+jwt", claims.to_string().as_bytes(), &key);
    let mut group = c.benchmark_group("token");
    let lookup = |_: &str| Some(Arc::clone(&verifier));
    group.bench_function("check, cold (aws-lc-rs behind verify)", |b| {
        b.iter(|| verify_jwt(black_box(&token), &lookup, &policy, now).is_ok());
    });
    let remembered: papaya::HashMap<[u8; 32], u64> = papaya::HashMap::new();
    remembered.pin().insert(blockremote::crypto::sha256(token.as_bytes()), 1);
    group.bench_function("check, warm (hash and lookup)", |b| {
        b.iter(|| remembered.pin().get(&blockremote::crypto::sha256(black_box(token.as_bytes()))).copied());
    });
    let signature = key.sign(b"message");
    group.bench_function("bare verification, aws-lc-rs", |b| {
        b.iter(|| verifier.verify(black_box(b"message"), &signature))
    });
    let p256 = p256::ecdsa::VerifyingKey::from_sec1_bytes(&verifier.to_sec1());
    if let (Ok(p256), Ok(signature)) = (p256, p256::ecdsa::Signature::from_slice(&signature)) {
        use p256::ecdsa::signature::Verifier;
        group.bench_function("bare verification, p256", |b| {
            b.iter(|| p256.verify(black_box(b"message"), &signature).is_ok())
        });
    }
    group.finish();
}

fn rate(c: &mut Criterion) {
    let window = SlidingWindow::default();
    let quota = Quota::per_minute(1_000_000);
    let mut ms = 1_767_225_600_000;
    c.bench_function("rate limiter, one decision", |b| {
        b.iter(|| {
            ms += 1;
            window.admit(quota, Timestamp::from_millis(black_box(ms)))
        });
    });
}

fn anonymous(c: &mut Criterion) {
    let hour = std::time::Duration::from_secs(3_600);
    let windows = Windows::new(Quota { limit: 100, window: hour }, Bounds::default());
    let mut ms = 1_767_225_600_000;
    let mut n = 0_u32;
    // Twenty thousand callers in turn, all live, each from its own address.
    c.bench_function("anonymous/admit", |b| {
        b.iter(|| {
            ms += 2;
            n = (n + 1) % 20_000;
            windows.admit(
                black_box(u128::from(n).to_be_bytes()),
                std::net::IpAddr::V4(n.into()),
                Timestamp::from_millis(ms),
            )
        });
    });
    c.bench_function("anonymous/refuse", |b| {
        b.iter(|| windows.look_at_network(black_box(std::net::IpAddr::V4(1.into())), Timestamp::from_millis(ms)));
    });
}

/// An API key is made in a real appliance, because only that can make one.
async fn appliance_with_a_key() -> Result<(Server, String), Fault> {
    let server = Server::start().await?;
    let login = server.login().await?;
    let person = login.get("user").ok_or("the login names nobody")?;
    let user: UserId = text(person, "id").parse()?;
    let tenant: TenantId = text(person, "tenant").parse()?;
    let new = NewKey {
        name: "bench".to_owned(),
        scopes: PermissionSet::NONE.with(Permission::DevicesRead),
        expires_at: server.clock.now().plus(Duration::from_secs(86_400)),
        allow: Vec::new(),
        requests_per_minute: 600,
        bound: None,
    };
    let issued = server.app().services.iam.create_api_key(tenant, user, new, None, Origin::cli()).await?;
    Ok((server, issued.key.map(|key| key.as_str().to_owned()).unwrap_or_default()))
}

fn api_key(c: &mut Criterion) {
    let Ok(runtime) = tokio::runtime::Runtime::new() else { return };
    // Without a place for temporary files there is nothing to measure.
    let Ok((server, key)) = runtime.block_on(appliance_with_a_key()) else { return };
    let iam = server.app().services.iam.clone();
    let mut group = c.benchmark_group("api_key");
    group.bench_function("verify", |b| b.iter(|| iam.api_key(black_box(&key)).is_some()));
    let wrong = format!("{}.{}", key.split('.').next().unwrap_or_default(), "A".repeat(43));
    group.bench_function("verify, wrong secret", |b| b.iter(|| iam.api_key(black_box(&wrong)).is_none()));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(std::time::Duration::from_millis(500)).measurement_time(std::time::Duration::from_secs(2));
    targets = scorer, codec, tokens, rate, anonymous, api_key
}

/// Made by hand, because the macro's main has no document.
fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
}
